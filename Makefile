# Every target sets itself up: a virtual environment in .venv, exactly as requirements.lock pins
# it. Only Python 3.11+ and make are needed; another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
PYTEST_ARGS ?= -n auto --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=
LOCK_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STRUCTURE := tests/test_layers.py tests/test_tidy.py tests/test_public_api.py tests/test_docs.py

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## run the whole story against a throw-away server (DEMO_ARGS="--keep")
	$(BIN)/bursar demo $(DEMO_ARGS)

test: $(READY) ## run all tests (PYTEST_ARGS="tests/core -k reserve")
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(READY) ## lint, format, types, layers, sizes, API and docs (`make test` runs the docs)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n auto --dist loadfile $(STRUCTURE) \
		--deselect tests/test_docs.py::test_document_runs

bench: $(READY) ## measure: minutes, or seconds with BENCH_ARGS=--quick (--json)
	$(BIN)/python bench/run.py $(BENCH_ARGS)

# Cleared before it is filled, so that it never holds a package that the lock has dropped, and
# stamped last, so that an interrupted set-up starts over.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Bursar needs Python 3.11 or later; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Setting up $(VENV) (once, and again when the lock changes) ...'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

# Not after $(READY): a lock that no longer installs must still be replaceable.
lock: ## pin the dependencies of pyproject.toml again (LOCK_ARGS=--upgrade)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra server --extra dev --universal \
		--python-version 3.11 --generate-hashes --no-header --quiet $(LOCK_ARGS) -o requirements.lock

clean: ## remove the virtual environment and everything that tools left behind
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
