# Every target sets up when it has to: a virtual environment in .venv with the exact versions of requirements.lock.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-fast lint dev serve bench lock clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here: install Python 3.11 or newer, or name it with PYTHON=..." >&2; exit 1; }
	@ldconfig -p 2>/dev/null | grep -q libgomp.so.1 || [ "$$(uname)" != Linux ] || deploy/install-libgomp
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --progress-bar on -c requirements.lock -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/mlops demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dev: $(STAMP)
	$(BIN)/mlops dev

serve: $(STAMP)
	$(BIN)/mlops serve

bench: $(STAMP)
	for one in benchmarks/[a-z]*.py; do $(BIN)/python $$one || exit 1; done

lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf .venv var
