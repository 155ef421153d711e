# Every target sets up .venv/ by itself: python3, pip and make are all it needs.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RENDER := dashboards/render/node_modules/.package-lock.json
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Installed without its own tree of heavy packages: the tests touch only these of them.
VERIFIERS := verifiers==0.3.1
VERIFIERS_NEEDS := 'renderers>=0.1.10,<0.2' 'tenacity>=8.5'

# Engines come from Debian or Ubuntu; elsewhere, install them yourself.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
NEEDS = @command -v $(1) >/dev/null || { $(SUDO) apt-get -qq update && \
	$(SUDO) apt-get -qq install -y --no-install-recommends $(2) >/dev/null; } || \
	{ echo "needs $(1), which Debian has in $(2)" >&2; exit 1; }

# Releases of verifiers that are tested, each in a virtual environment of its own.
PEERS := .venv-bench
HOSTS := .venv-hosts
LEGACY_HOSTS := 0.2.0-legacy 0.3.1-legacy
V1_HOSTS := 0.3.1-v1 0.4.0-v1 0.4.1.dev86-v1
# The lower bound in pyproject.toml.
LOWEST := .venv-lowest
LOWEST_AIOHTTP := aiohttp==3.14.0
ON_AIOHTTP := broken_bodies chunks_written incoming middleware plain_answers routes server_log serving short_bodies unusual_answers uploads whole_answers
version_of = $(firstword $(subst -, ,$(1)))
stack_of = $(lastword $(subst -, ,$(1)))

.DEFAULT_GOAL := help
.PHONY: help demo stack stack-test test test-lowest test-hosts check fmt build dashboards rules-test dashboards-test report-test \
	bench bench-quick bench-check images clean
.SECONDARY:
.SECONDEXPANSION:

help: ## Show what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: $(VENV)/.demo ## Run real rollouts on loopback and show what became of them
	$(BIN)/otel-intercept demo $(ARGS)

stack: $(VENV)/.dev ## Run collector, Jaeger, Prometheus and Alertmanager here
	$(BIN)/python -m deploy.stack $(ARGS)

stack-test: $(VENV)/.dev ## Test against those engines; builds them once, with Go
	$(BIN)/python -m deploy.stack.tools
	$(BIN)/python -m pytest tests/stack --timeout 240 $(ARGS)

test: $(VENV)/.dev ## Run the tests with coverage
	$(BIN)/python -m pytest --cov $(ARGS)

test-lowest: $(LOWEST)/.ready ## Run what depends on aiohttp most against its lowest release that is supported
	$(LOWEST)/bin/python -m pytest -rs $(ARGS) $(addprefix tests/test_,$(addsuffix .py,$(ON_AIOHTTP)))

test-hosts: $(LEGACY_HOSTS:%=test-host-%) $(V1_HOSTS:%=test-host-%) ## Run the tests against each supported release of verifiers

test-host-%: $(HOSTS)/%/.ready
	$(HOSTS)/$*/bin/python -m pytest $(ARGS) tests/hosts/test_$(call stack_of,$*)*.py

check: $(VENV)/.dev build ## Lint, check types and layers, look into the wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/python .ci/check_wheel.py dist/*.whl

fmt: $(VENV)/.dev ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/.dev ## Build the sdist and the wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

dashboards: $(VENV)/.dev ## Write dashboards, alert rules and reference pages anew
	$(BIN)/python -m dashboards.generate

rules-test: $(VENV)/.dev ## Test the alert rules, each way to break them, and the routes
	$(call NEEDS,promtool,prometheus)
	$(call NEEDS,amtool,prometheus-alertmanager)
	$(BIN)/python -m pytest -m engines tests/test_alert_rules.py $(ARGS)

dashboards-test: $(VENV)/.dev $(RENDER) ## Query each panel for real, and check Grafana's types
	$(call NEEDS,prometheus,prometheus)
	$(BIN)/python -m pytest -m engines tests/test_dashboards.py $(ARGS)

report-test: $(VENV)/.dev ## Filter and open a report in a real browser, by keyboard
	$(call NEEDS,chromium,chromium)
	$(BIN)/python -m pytest -m engines tests/test_report_browser.py $(ARGS)

bench: $(VENV)/.dev ## Measure what watching costs, beside the peers; 30 minutes
	$(call NEEDS,valgrind,valgrind)
	$(BIN)/python -m bench.venvs
	$(BIN)/python -m bench $(ARGS)
	$(BIN)/python -m bench.page

bench-quick: $(VENV)/.dev ## The same with fewer rounds and variants; 5 minutes
	$(call NEEDS,valgrind,valgrind)
	$(BIN)/python -m bench.venvs
	$(BIN)/python -m bench --quick $(ARGS)

bench-check: $(VENV)/.dev ## Fail when a request takes more instructions than it did
	$(call NEEDS,valgrind,valgrind)
	$(BIN)/python -m bench.instructions --check $(ARGS)

images: $(VENV)/.dev $(RENDER) ## Draw the dashboards from real rollouts into docs/images
	$(call NEEDS,prometheus,prometheus)
	$(call NEEDS,chromium,chromium)
	$(BIN)/python -m dashboards.draw $(ARGS)

$(RENDER): dashboards/render/package-lock.json
	$(call NEEDS,npm,npm)
	cd dashboards/render && npm ci --legacy-peer-deps --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean: ## Remove everything that was made here
	rm -rf $(VENV) $(HOSTS) $(LOWEST) $(PEERS) build dist .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache otel-intercept-demo.*
	rm -rf dashboards/render/node_modules
	find bench dashboards deploy otel_intercept tests examples -name __pycache__ -prune -exec rm -rf {} +

# Debian's python3 has venv without ensurepip; there the outer pip installs pip.
$(VENV)/.base:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.base
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml Makefile | $(VENV)/.base
	$(PIP) --editable . --group dev $(VERIFIERS_NEEDS)
	$(PIP) --no-deps $(VERIFIERS)
	@touch $@

$(HOSTS)/%/.venv: | $(VENV)/.base
	$(BIN)/python -m venv --without-pip $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet 'pip>=25.1'
	@touch $@

$(HOSTS)/%/.ready: pyproject.toml Makefile tests/hosts/requirements-$$(call version_of,$$*).txt | $(HOSTS)/%/.venv
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable . --group hosts -r tests/hosts/requirements-$(call version_of,$*).txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps verifiers==$(call version_of,$*)
	$(if $(filter legacy,$(call stack_of,$*)),$(call own_tests,$(@D),$(call version_of,$*)))
	@touch $@

$(LOWEST)/.ready: pyproject.toml Makefile | $(VENV)/.base
	$(BIN)/python -m venv --without-pip $(LOWEST)
	$(BIN)/python -m pip --python $(LOWEST)/bin/python install --quiet 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable . --group hosts $(LOWEST_AIOHTTP) hypothesis uvloop
	@touch $@

# Only the source release has verifiers' own tests.
define own_tests
rm -rf $(1)/own && mkdir $(1)/own
$(1)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary verifiers --dest $(1)/own verifiers==$(2)
tar -xzf $(1)/own/verifiers-$(2).tar.gz -C $(1)/own --strip-components=1 verifiers-$(2)/tests verifiers-$(2)/pyproject.toml
endef
