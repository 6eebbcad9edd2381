# Everything the project does, with make, a Python from 3.11 on and its pip. `make` alone lists the targets.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Two torch threads on a busy machine are many times slower than one, so tests pin one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --cov-report=term:skip-covered
# A file's tests stay together: they share a server, a browser or a model. A process takes up to 2 GB.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
# Beside them lie helpers, and the script that made tests/data/trl_ppo_oracle.json.
BENCHMARKS := $(filter-out benchmarks/trl_venv.py benchmarks/ppo_oracle.py benchmarks/ppo_quality_runs.py benchmarks/labeling_clients.py benchmarks/labeling_queue.py,$(sort $(wildcard benchmarks/*.py)))
MADE_FROM := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev quickstart app lint test test-all bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: error: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: error: $$($(PYTHON) -V) is too old; Python 3.11 or newer is needed. Name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(MADE_FROM)
	$(INSTALL) -e '.[quickstart]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made $(MADE_FROM)
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## make .venv and install the toolkit into it

install-dev: $(VENV)/.installed-dev ## the same, with what tests and linters need

quickstart: install ## real people's ratings to an aligned adapter: no GPU, no account, minutes
	$(BIN)/rlhf quickstart

app: install ## open the labeling app on the quickstart's label store
	$(BIN)/rlhf label -c configs/quickstart.yaml --open

lint: install-dev ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, then every test that takes seconds, a process for each core, with coverage
	$(PYTEST) $(PARALLEL)

test-all: lint ## the same, and the slow tests: the quickstart itself runs
	$(PYTEST) --slow

bench: install-dev ## run every benchmark in benchmarks/
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python "$$file"; done

clean: ## remove .venv, caches and build outputs; runs/ stays, since people's labels are in it
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find rlhf labeling_app tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
