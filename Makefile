# Three commands matter on a fresh machine with Python 3.11 to 3.13: `make demo`, `make serve` and `make test`. All set themselves up into .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13) python3.11)
OUT ?= out/demo
PAPER ?= out/paper
ALIGN ?= out/align
PORT ?= 8000
TESTS ?= tests

# Images of containers often set it. Then each process of Ray would compile all that it imports again: seconds each.
export PYTHONDONTWRITEBYTECODE :=

BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

SAMPLES ?= ../shared/samples
MODEL ?= qwen-1.5b

.PHONY: help setup demo demo-real paper align serve test lint format types clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo
	@echo "  Variables: PYTHON=$(PYTHON) VENV=$(VENV) OUT=$(OUT) STORE=$(STORE) PAPER=$(PAPER) PORT=$(PORT) TESTS=$(TESTS), as in 'make test TESTS=tests/test_sample.py'"

setup: $(STAMP) $(BIN)/polite-flamingo  ## set up .venv from requirements.lock (done once; again when that file changes)
	@echo "$(VENV) is ready"

demo: setup  ## build PF-mini from raw annotations on a local Ray; ends with the path of the report; STORE=s3 keeps all data in a bucket
	$(BIN)/polite-flamingo demo --out $(OUT)$(if $(STORE),-$(STORE) --store $(STORE))

demo-real: setup  ## optional: rewrite excerpts of real datasets (SAMPLES) with a real model (MODEL); downloads 1.5 GB into out/models
	$(BIN)/polite-flamingo demo-real --samples $(SAMPLES) --model $(MODEL)

paper: setup  ## repeat the paper on drawn scenes, five seeds, one to two hours; ends with the path of its report
	$(BIN)/polite-flamingo paper --profile profiles/tiny.yaml --out $(PAPER)

align: setup  ## repeat the paper on preference alignment on drawn scenes, three seeds, half an hour
	$(BIN)/polite-flamingo align --profile profiles/tiny.yaml --out $(ALIGN)

serve: setup  ## chat and rewrite over HTTP on this machine, at http://127.0.0.1:8000, until Ctrl-C
	$(BIN)/polite-flamingo serve --profile profiles/tiny.yaml --port $(PORT) --serving.batches.folder out/serve

test: setup  ## run the tests
	$(BIN)/python -m pytest $(TESTS)

lint: setup  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## mypy
	$(BIN)/mypy

clean:  ## remove .venv, caches, build products and the demo's output
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip brings torch with its own dependencies: on a GPU machine these are the CUDA libraries, on others none, and only pip
# reads the machine's own find-links. uv then lays down everything else, exactly as locked: open_flamingo asks for a
# torch of 2023, so no resolver may be asked (see requirements.lock). The last line fails here rather than in a worker.
$(STAMP): requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not on the PATH: install Python 3.11, 3.12 or 3.13, or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "$(PYTHON) must be Python 3.11, 3.12 or 3.13 with venv and pip (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement requirements.lock
	$(BIN)/python -c 'import torch, ray; print("torch", torch.__version__, "| ray", ray.__version__)'
	@touch $@

# The command, which runs this checkout: nothing is copied, and nothing is fetched.
$(BIN)/polite-flamingo: | $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
