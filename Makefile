# Two commands: `make figures` and `make test`. Both set everything up first, in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROFILE ?= digits
export MPLBACKEND ?= agg

.PHONY: figures test setup in-step notebooks reference pages docs bench clean

figures: setup
	$(BIN)/confnb reproduce --profile $(PROFILE) --out runs/$(PROFILE)

test: setup in-step notebooks
	$(BIN)/python -m pytest
	$(BIN)/confnb reproduce --profile digits --out runs/test

setup: $(STAMP)

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "confnb needs Python 3.10 or later; name one: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# the library is what the notebooks export, the notebooks are clean, and the README is the front page
in-step: setup
	$(BIN)/python tests/in_step.py

# every notebook runs from top to bottom (the topics are run by the runner)
notebooks: setup
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 1 --path nbs/foundations
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 1 --path nbs/45_quantization.ipynb
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 1 --path nbs/90_reproduce.ipynb
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 1 --path nbs/index.ipynb

# what the stored notebooks show: the MNIST run of every topic, put there by the project's own command
reference: setup
	$(BIN)/confnb reproduce --profile mnist --out runs/mnist $(ARGS)
	$(BIN)/papermill --log-level ERROR --no-progress-bar nbs/foundations/04_search.ipynb runs/mnist/notebooks/04_search.ipynb -f nbs/profiles/mnist.yaml
	$(BIN)/confnb store runs/mnist
	cp runs/mnist/figures/mc-F2a.png nbs/images/

pages: setup
	$(BIN)/confnb pages --out runs/pages

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_search.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_maxconfidence.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_maxconfidence.py --steps 200 --restarts 2 --repeats 1 --peers foolbox
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_attacks.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_quantization.py

docs: setup
	@command -v quarto >/dev/null || { echo "make docs needs Quarto (https://quarto.org/docs/get-started); 'make pages' gives offline pages without it"; exit 1; }
	$(BIN)/nbdev_docs

clean:
	rm -rf runs _docs _proc build dist *.egg-info
