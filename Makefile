# Every target sets up .venv/ by itself: python3, pip and make are all it needs.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Installed without its own tree of heavy packages: the tests touch only these of them.
VERIFIERS := verifiers==0.3.1
VERIFIERS_NEEDS := 'renderers>=0.1.10,<0.2' 'tenacity>=8.5'

.DEFAULT_GOAL := help
.PHONY: help demo stack stack-test test check fmt build clean

help: ## Show what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

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

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache otel-intercept-demo.jsonl
	find deploy otel_intercept tests -name __pycache__ -prune -exec rm -rf {} +

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
