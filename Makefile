# Two commands need nothing but make and Python, 3.11 or later (tested: 3.11, 3.12, 3.13):
#   make quickstart    install, train a small language model, let it write, draw its pictures
#   make test          install, check style, run the tests
# `make help` lists the rest. Another interpreter: make PYTHON=/path/to/python3.12 test

PYTHON ?=
VENV ?= .venv
INSTALLER ?= uv
# Test processes side by side, a file of tests in one of them: compiled code is shared within it.
JOBS ?= 2
PYTEST_ARGS ?=
RUN ?= runs/quickstart

BIN := $(VENV)/bin
SETUP := PYTHON='$(PYTHON)' VENV='$(VENV)' INSTALLER='$(INSTALLER)' sh scripts/venv.sh

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-exhaustive test-all mutants parity goldens docs lint format clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	  awk -F'|' '{ printf "  make %-15s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=...       the Python to use (tested: 3.11, 3.12, 3.13); default python3"
	@echo "  JOBS=...         how many processes test side by side; default 2"
	@echo "  PYTEST_ARGS=...  more arguments for pytest: make test PYTEST_ARGS='-k causality'"

# Each step is a process of make's own: Ctrl-C and SIGTERM reach the training, make waits for it.
quickstart: ## train a small DHC×4 language model, sample from it, draw its pictures
	@$(SETUP) run
	@echo; echo "== 1/3 Train. Ctrl-C saves and stops; make quickstart goes on from there."
	$(BIN)/python train.py --config=configs/quickstart.py --workdir=$(RUN)
	@echo; echo "== 2/3 Let it write."
	$(BIN)/hc-jax sample $(RUN) --prompt='def '
	@echo; echo "== 3/3 Draw the loss, and what the connections learned."
	$(BIN)/hc-jax analyze $(RUN) --formats=png
	@VENV='$(VENV)' sh scripts/whats_next.sh '$(RUN)'

test: lint ## style, then every test that takes seconds
	@$(BIN)/python -m pytest -m "not slow and not exhaustive" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-slow: ## only what `make test` leaves out: long ones, and those that start processes
	@$(SETUP) test
	@$(BIN)/python -m pytest -m "slow and not exhaustive" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-exhaustive: ## only the rest: soaks, all mutants, all pairs of options, the whole table of variants
	@$(SETUP) test
	@$(BIN)/python -m pytest -m exhaustive -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-all: test test-slow test-exhaustive ## everything but parity

# An environment of its own, for PyTorch.
PARITY := PYTHON='$(PYTHON)' VENV='$(VENV)-parity' INSTALLER='$(INSTALLER)' sh scripts/venv.sh parity
PARITY_PYTHON := $(VENV)-parity/bin/python

parity: ## compare with live peers: PyTorch and more, in .venv-parity
	@$(PARITY)
	@$(PARITY_PYTHON) -m pytest tests/parity $(PYTEST_ARGS)

goldens: ## compute tests/goldens/*.npz anew with the live peers
	@$(PARITY)
	@$(PARITY_PYTHON) -m tests.goldens.make

docs: ## build the documentation site into build/docs; a warning is an error
	@$(SETUP) docs
	@$(BIN)/python -m sphinx -b html -q -n -W --keep-going docs build/docs
	@echo "== The site: build/docs/index.html"

mutants: ## make every mistake on purpose, and show which test finds it
	@$(SETUP) test
	@$(BIN)/python -m tests.mutants

lint: ## ruff: rules and format
	@$(SETUP) test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: ## let ruff fix what it can
	@$(SETUP) test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove what make made, except runs/
	rm -rf '$(VENV)' '$(VENV)-parity' build dist *.egg-info .cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
