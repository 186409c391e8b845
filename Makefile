# What a fresh clone needs: Python 3.11 or newer, make, and a package index. Each target makes what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
SOURCES := pipeline stages storage_schemas tests
# Two processes: one runs the tests that share a Ray (tests/conftest.py), the other one the rest. More would hardly help.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadgroup

# Neither the demo nor the tests send usage statistics.
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help install demo test test-all test-fast lint types format check docs clean

help:
	@echo "make demo       the whole pipeline on the embedded data; results in .odkd/runs/demo"
	@echo "make test       the tests that every change must pass (8 minutes on 2 cores)"
	@echo "make test-fast  without the tests that start Ray or train"
	@echo "make test-all   also the tests that take minutes each"
	@echo "make check      lint, format, spelling, types  make format     rewrite the sources in the house format"
	@echo "make docs       the documentation as a web site in site/"
	@echo "make install    only the environment in $(VENV)    make clean      remove it, and what tools left"

install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(or $(MAKECMDGOALS),install)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv package (python3-venv on Debian)." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python -m pipeline.run --stage all --home "$(CURDIR)/.odkd"

test: install
	$(PYTEST) -m "not long"

test-all: install
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff check $(SOURCES)

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

check: lint types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/codespell $(SOURCES) docs *.md *.yaml Makefile

# mkdocs is installed only here: neither the demo nor the tests need it.
# The variable hides a banner about the next version of mkdocs.
$(VENV)/installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

# Not .odkd: it holds results.
clean:
	rm -rf $(VENV) site build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
