# `make help` lists the targets. Everything runs in .venv, which is made when it is first needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# for a CPU-only machine: PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" saves gigabytes of CUDA
PIP_FLAGS ?=
RUNS ?= runs
INIT ?= scratch
ARGS ?=
PROTOCOL ?= linear

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check test-long test-gpu test-chaos docs pretrain finetune probe report dashboard phantom bench clean clean-all

# A missing word ends before anything is installed, in one line, with exit code 2.
need = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,$(error $(1): $(2) is missing; for example: $(3))))
$(call need,pretrain,METHOD,make pretrain METHOD=pcrl)
$(call need,finetune,TASK,make finetune TASK=lits)
$(call need,probe,TASK,make probe TASK=luna PROTOCOL=linear INIT=RUN)
$(call need,compare,TABLE,make compare TABLE=hippocampus ARGS="root.hippocampus=DIR")
$(call need,phantom,KIND,make phantom KIND=lits OUT=DIR)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## install into .venv (PYTHON=python3.12 chooses the interpreter)

$(READY): pyproject.toml constraints/ci.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo 'installing into $(VENV); this takes minutes once'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints/ci.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## the main job on synthetic scans: pretrain, fine-tune, report; minutes on a CPU
	$(BIN)/ssl-med demo

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -m "not slow and not long and not gpu" -n 2 --dist worksteal

check: $(READY)  ## what CI runs: lint, format, types, all tests but the long ones and those of a GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not gpu and not long" -n 2 --dist worksteal

test-long: $(READY)  ## the tests marked long: what every method learns; longer than make check
	$(BIN)/python -m pytest -m long -n 2

test-chaos: $(READY)  ## KILLS=200: kill runs of every method at random, compare what they come to bit by bit; half an hour
	SSL_MED_KILLS=$(or $(KILLS),200) $(BIN)/python -m pytest -s -m long tests/experiments/test_chaos.py

test-gpu: $(READY)  ## the tests marked gpu: mixed precision, transforms, resume and export on a CUDA device; they skip without one
	$(BIN)/python -m pytest -m gpu -rs

docs: $(READY)  ## write docs/methods.md, docs/weights.md and docs/reference/settings.md from the source
	@$(BIN)/python -m experiments.reference.methods
	@$(BIN)/python -m experiments.reference.settings
	@$(BIN)/python -m experiments.reference.weights

pretrain: $(READY)  ## METHOD=pcrl [DATA=luna ARGS="data.root=DIR trainer.max_steps=N ..."]; no folder: synthetic scans
	@$(BIN)/ssl-med pretrain method=$(METHOD) $(if $(DATA),data=$(DATA) )$(ARGS)

finetune: $(READY)  ## TASK=lits [INIT=RUN|FILE|scratch ARGS="data.root=DIR labels.fraction=0.1 ..."]
	@$(BIN)/ssl-med finetune task=$(TASK) init=$(INIT) $(ARGS)

probe: $(READY)  ## TASK=luna [PROTOCOL=linear|knn|fewshot INIT=RUN|FILE|scratch ARGS="data.root=DIR ..."]
	@$(BIN)/ssl-med probe task=$(TASK) protocol=$(PROTOCOL) init=$(INIT) $(ARGS)

compare: $(READY)  ## TABLE=hippocampus ARGS="root.hippocampus=DIR jobs=2 --dry-run": a declared matrix of runs and its report
	@$(BIN)/ssl-med compare table=$(TABLE) $(ARGS)

report: $(READY)  ## RUNS="DIR ..." ARGS="out=DIR": report.html, report.md, table.tex, results.csv
	@$(BIN)/ssl-med report $(RUNS) $(ARGS)

dashboard: $(READY)  ## ARGS="table=NAME out=FILE": the W&B workspace as a file; ARGS="--save entity=NAME tracking.wandb=online" sends it
	@$(BIN)/ssl-med dashboard $(ARGS)

phantom: $(READY)  ## KIND=luna|lits|brats|chest14 OUT=DIR ARGS="--subjects N": synthetic scans in a true layout
	@$(BIN)/ssl-med phantom $(KIND) $(or $(OUT),phantoms/$(KIND)) $(ARGS)

bench: $(READY)  ## time per training step of every method; ARGS=data|speed|precision measures reading, ratios, bfloat16
	@$(BIN)/python -m experiments.bench $(ARGS)

clean:  ## remove caches and build leftovers; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean  ## and .venv too; runs stay
	rm -rf $(VENV)
