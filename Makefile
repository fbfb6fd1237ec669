# Two commands: `make figures` and `make test`. Both set everything up first, in .venv. `make slow` runs the tests that take long, `make soak` those that take very long.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROFILE ?= digits
JOBS ?= 2
CASES ?= 15000
# of `make test`; with "not soak" those that take long too
TESTS ?= not slow
# the entries of the digits board that `make figures` judges, on few images
BOARD := undefended pgd-linf.2 trades-linf.2 rectified-linf.2 smoothed regularised undefended-tempered certified-linf.1 crown-ibp-linf.1 interval-linf.1 good-noise rce
DIGITS_BOARD = OMP_NUM_THREADS=1 $(BIN)/confnb board --data digits --images 30 --effort quick -j $(JOBS) --out runs/board $(BOARD:%=--only digits/%)
export MPLBACKEND ?= agg
# pip compiles nothing here, so Python must keep what it compiles, even where containers forbid it: each process that loads PyTorch starts in half the time
unexport PYTHONDONTWRITEBYTECODE

.PHONY: figures test check slow soak setup in-step notebooks reference sample pages preview-offline docs bench fuzz coverage clean

figures: setup
	$(BIN)/confnb reproduce --profile $(PROFILE) --jobs $(JOBS) --out runs/$(PROFILE)
	$(DIGITS_BOARD)

test: setup in-step notebooks
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "$(TESTS)"
	$(BIN)/confnb reproduce --profile digits --jobs $(JOBS) --out runs/test

# what one runs at every save, under 40 seconds: lint, types, and the tests that touch what has changed
check: setup
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m confnb.workshop.check

# the tests that take long: nodes that die, full disks, killed runs, types, a browser at every page
slow: setup
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "slow and not soak"

# what takes very long: the same on more networks and seeds
soak: setup
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist load -m soak
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --flags slow --n_workers $(JOBS) --path nbs --skip_folder_re '^(topics|api|[_.].*)$$'

setup: $(STAMP)

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "confnb needs Python 3.10 or later; name one: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt --upgrade pip  # one of 2023, as Python 3.11 brings it, takes twice as long to find the packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"  # Python compiles what is imported
	@touch $@

# the library is what the notebooks export, the notebooks are clean, and the README is the front page
in-step: setup
	$(BIN)/python -m confnb.workshop.in_step

# every notebook runs from top to bottom (the topics are run by the runner)
notebooks: setup
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(JOBS) --path nbs --skip_folder_re '^(topics|api|[_.].*)$$'

# what the stored notebooks show: the MNIST run of every topic, put there by the project's own command
reference: setup
	$(BIN)/confnb reproduce --profile mnist --out runs/mnist $(ARGS)
	env -u MPLBACKEND $(BIN)/papermill --log-level ERROR --no-progress-bar nbs/foundations/21_search.ipynb runs/mnist/notebooks/21_search.ipynb -f nbs/profiles/mnist.yaml
	$(BIN)/confnb store runs/mnist
	$(BIN)/python -m confnb.workshop.in_step --write

# the report that the site shows as a sample, of an MNIST network that ships with the library, with a reject rule; and the boards of MNIST and of the digits
sample: setup
	$(BIN)/confnb evaluate --model zoo:mnist/pgd-linf.3 --data mnist --threat linf:.3 --reject entropy --out runs/sample
	$(BIN)/confnb board --data mnist -j $(JOBS) --out runs/board-mnist
	$(DIGITS_BOARD)
	mkdir -p nbs/sample && cp runs/sample/index.html nbs/sample/report.html
	cp runs/board-mnist/index.html nbs/sample/board.html
	cp runs/board/index.html nbs/sample/board_digits.html

# every notebook as it is stored, as pages that need neither Quarto nor a network
preview-offline pages: setup
	@$(BIN)/confnb pages --out runs/pages >/dev/null
	@echo "The pages lie in runs/pages; open file://$(CURDIR)/runs/pages/index.html"

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_search.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_maxconfidence.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_certificates.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_maxconfidence.py --steps 200 --restarts 2 --repeats 1 --peers foolbox
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_attacks.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_rce.py
	OMP_NUM_THREADS=2 $(BIN)/python tests/bench/bench_quantization.py

# every public function on odd models, images, labels, sets and settings; the figures of the run are shown in the docs
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --cases $(CASES) --jobs $(JOBS) --out tests/fuzz/last.json

# how much of the library the tests run, and the badge that says so in the docs
coverage: setup
	mkdir -p runs
	COVERAGE_FILE=runs/.coverage OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov=confnb --cov-report=json:runs/coverage.json
	$(BIN)/python tests/covered.py runs/coverage.json nbs/images/coverage.svg

# the site, in _docs
docs: setup
	@command -v quarto >/dev/null || { echo "make docs needs Quarto 1.4 or later, which is not installed here: take it from https://quarto.org/docs/get-started, or run .venv/bin/nbdev_install_quarto. 'make preview-offline' gives pages without it."; exit 1; }
	$(BIN)/python -m confnb.workshop.api_pages  # the API pages, which are built and not kept
	@touch README.md  # made by confnb.workshop.in_step, not by nbdev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_docs

clean:
	rm -rf runs _docs _proc build dist *.egg-info
