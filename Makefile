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

.DEFAULT_GOAL := help
.PHONY: help demo stack stack-test test check fmt build dashboards rules-test dashboards-test report-test images clean

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

images: $(VENV)/.dev $(RENDER) ## Draw the dashboards from real rollouts into docs/images
	$(call NEEDS,prometheus,prometheus)
	$(call NEEDS,chromium,chromium)
	$(BIN)/python -m dashboards.draw $(ARGS)

$(RENDER): dashboards/render/package-lock.json
	$(call NEEDS,npm,npm)
	cd dashboards/render && npm ci --legacy-peer-deps --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache otel-intercept-demo.*
	rm -rf dashboards/render/node_modules
	find dashboards deploy otel_intercept tests examples -name __pycache__ -prune -exec rm -rf {} +

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
