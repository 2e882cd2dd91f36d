# Every target sets up when it has to: a virtual environment in .venv with the exact versions of requirements.lock.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.installed
SERVING := benchmarks/freshness.py benchmarks/serving.py benchmarks/stages.py
SPREAD := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast check-all lint dev serve bench bench-serving lock clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed and was not found; name it with PYTHON=/path/to/python" >&2; exit 1; }
	@[ "$$(uname)" != Linux ] || PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p | grep -q libgomp.so.1 || deploy/install-libgomp
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --progress-bar on -c requirements.lock -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/mlops demo

test: $(STAMP)
	$(BIN)/python -m pytest $(SPREAD)

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

# What is too long for every run comes on top.
check-all: lint
	$(BIN)/python -m pytest $(SPREAD) --all

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/vocabulary.py

dev: $(STAMP)
	$(BIN)/mlops dev

serve: $(STAMP)
	$(BIN)/mlops serve

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[bench]"
	set -e; for one in $(filter-out $(SERVING),$(wildcard benchmarks/*.py)); do $(BIN)/python $$one; done

# These take some two hours and a half, and the first run of them makes a home in some minutes.
bench-serving: $(STAMP)
	set -e; for one in $(SERVING); do $(BIN)/python $$one; done

lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | LC_ALL=C sort -f > requirements.lock

clean:
	rm -rf .venv var
