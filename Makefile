# Two commands do everything on a fresh machine:
#   make train   set up, then train on the data set that ships with the package
#   make test    set up, then lint and run the tests ('make test-all': those that take minutes too)
# Two more need an NVIDIA GPU, and Python packages that are there already:
#   make gpu-check    GPU tests, compute-sanitizer and a first benchmark, under ten minutes
#   make gpu-bench    all measurements, and a page of them, ten minutes a call: each goes on
# PYTHON chooses the interpreter (3.11 or later); ARGS goes to the command. PROCESSES run the tests.
PYTHON ?= python3
PROCESSES ?= 2
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test test-all lint format gpu-check gpu-bench clean

train: .venv/.installed
	$(BIN)/scotoma train $(ARGS)

test: lint
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS)

test-all: lint
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal -m 'slow or not slow' $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The environment of 'make test' if there is one, else PYTHON as it is. ARGS: a results folder.
gpu-check gpu-bench: CHOSEN = $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))
gpu-check:
	PYTHON=$(CHOSEN) bench/gpu_check.sh $(ARGS)

gpu-bench:
	PYTHON=$(CHOSEN) bench/gpu_bench.sh $(ARGS)

.venv/.installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (PyTorch and what it needs: a minute or two) ..."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scotoma needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[bench]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
