# The two commands of the README, each complete on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
ROW ?=
# Tests of one file share its models, so a file stays in one process.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
LOWEST_BIN := $(LOWEST)/Scripts
else
BIN := $(VENV)/bin
LOWEST_BIN := $(LOWEST)/bin
endif

.PHONY: demo test test-all lint format bench setup clean

## Train a ResNet-50 on the embedded weights and pictures; needs nothing but the package registry.
demo: $(VENV)/.demo-ready
	$(BIN)/python -m greffon demo --out demo-run

## Set up and pass the tests: a sample of the fuzzing, small networks.
test: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not large" $(PARALLEL)

## Everything: full counts, full-size networks, and the tests again on the lowest versions of the dependencies.
test-all: $(VENV)/.ready $(LOWEST)/.ready
	$(BIN)/python -m pip install --quiet jax "torch==2.13.0" || echo "JAX or PyTorch could not be installed: their tests will skip"
	$(BIN)/python -m pip install --quiet --editable ".[test-all]" || echo "Playwright and Schemathesis could not be installed: their tests will skip"
	$(BIN)/python -m pytest $(PARALLEL)
	$(LOWEST_BIN)/python -m pytest -m "not large" $(PARALLEL)

## Formatting, lint and types; of the container file too, where its linter is there (on Linux).
lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint deploy/Containerfile

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## Measure; ROW=name measures one thing.
bench: $(VENV)/.bench-ready
	$(BIN)/python benchmarks/run.py $(ROW)

setup: $(VENV)/.ready

clean:
	rm -rf $(VENV) $(LOWEST) demo-run build dist

$(VENV)/.demo-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[train]"
	touch $@

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test,lint]"
	touch $@ $(VENV)/.demo-ready

$(VENV)/.bench-ready: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

$(LOWEST)/.ready: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST_BIN)/python -m pip install --quiet --editable ".[test]" --constraint tests/lowest.txt
	touch $@
