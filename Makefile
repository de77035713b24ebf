# One word runs each loop. `make help` lists them.

PYTHON ?= python3# a command with arguments, quoted as for a shell
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCE_DIR ?= $(DATAGEN_SOURCE_DIR)
CONSTRAINTS ?= constraints.txt
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
WORKERS ?= $(CORES)
# One more for the tests, unless WORKERS is given: a third of the time they wait for others.
TESTERS := $(if $(filter file,$(origin WORKERS)),$(shell expr $(CORES) + 1),$(WORKERS))
export DATAGEN_SOURCE_DIR := $(SOURCE_DIR)

DATASET ?= data/mnist
SECONDS ?= 60
RUNS ?= runs
SEED ?= 0
PRESET ?=
TESTS ?=
LIMIT ?= 0
quoted = '$(subst ','\'',$(1))'# one word of a shell, whatever it contains
preset = $(if $(PRESET),--preset $(call quoted,$(PRESET)))
workers = --workers $(call quoted,$(WORKERS))
pins = $(if $(CONSTRAINTS),--constraint $(call quoted,$(CONSTRAINTS)))

# The torch that is pinned, alone and first: whatever needs torch is installed after it, so that no
# build for CUDA is fetched.
torch = $(if $(CONSTRAINTS),$(1) --no-deps $(pins) torch || { echo "$(no_torch)" >&2; exit 1; },true)
no_torch = make: pip finds no torch of $(CONSTRAINTS). Set PIP_EXTRA_INDEX_URL to the index of torch's \
	builds for CPUs, which its page on installing names; or give CONSTRAINTS= to take any build.

# Where make data could not fetch MNIST, data/strokes stands in for data/mnist.
define choose
dataset=$(call quoted,$(DATASET)); \
if [ "$$dataset" = data/mnist ] && [ ! -e data/mnist/manifest.json ] && [ -e data/strokes/manifest.json ]; then \
	dataset=data/strokes; echo "There is no data/mnist: taking $$dataset INSTEAD." >&2; \
fi;
endef

.DEFAULT_GOAL := help
.PHONY: help data verify train-all report test test-long test-interop docs mutants check format bench roofline matrix fuzz

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  SOURCE_DIR=DIR  read MNIST there instead of fetching it; WORKERS=N  cores to use"
	@echo "  DATASET=DIR  the dataset to verify or train on; PRESET=cpu|gpu|record SEED=N RUNS=DIR  for training"
	@echo "  CONSTRAINTS=FILE  versions to install, by default constraints.txt: torch for CPUs; none: any"
	@echo "  TESTS='FILE ...'  tests to run; LIMIT=SECONDS  skip long tests that would begin later"
	@echo "  Quote values that contain a space: DATASET='my data'"

data: $(VENV)/base  ## Build data/mnist (data/strokes if MNIST cannot be fetched) and its contact sheets
	@$(BIN)/datagen build --recipe mnist --fallback strokes --preview $(workers)

verify: $(VENV)/base  ## Check the dataset: every byte, every sample, every claim (DATASET=DIR)
	@$(choose) $(BIN)/datagen verify "$$dataset" $(workers)

# An interrupted run continues.
train-all: $(VENV)/train  ## Train and score all three models into runs/ (builds the data if there is none)
	@test $(call quoted,$(DATASET)) != data/mnist || test -e data/mnist/manifest.json || $(MAKE) --no-print-directory data
	@$(choose) $(BIN)/modeling train all --dataset "$$dataset" --out $(call quoted,$(RUNS)) \
		--seed $(call quoted,$(SEED)) $(preset) --resume --score

report: $(VENV)/train  ## Show the runs in RUNS=runs on one page, runs/report/report.html
	@$(choose) $(BIN)/modeling report $(call quoted,$(RUNS)) --dataset "$$dataset"

test: $(VENV)/dev  ## Run the tests, or TESTS, without network; those on MNIST need SOURCE_DIR
	@$(BIN)/pytest -q -n $(call quoted,$(TESTERS)) --dist loadfile --no-loadscope-reorder -m "not long" $(TESTS)

test-long: $(VENV)/dev  ## Run the long tests: exhaustive ones, and all of MNIST against slow exact code
	@$(BIN)/pytest -q -n $(call quoted,$(WORKERS)) -m long --maxschedchunk 1 --limit $(call quoted,$(LIMIT)) $(TESTS)

test-interop:  ## Read exports by the libraries of their formats, in an environment of its own
	@$(PYTHON) -m venv .venv-interop
	@$(call torch,.venv-interop/bin/pip install --quiet)
	@.venv-interop/bin/pip install --quiet $(pins) --editable '.[interop]'
	@.venv-interop/bin/pip install --quiet --no-deps mosaicml-streaming
	@.venv-interop/bin/pip install --quiet transformers brotli python-snappy zstd catalogue
	@.venv-interop/bin/pytest -q tests/datagen/test_exports.py tests/datagen/test_describing.py tests/test_howto.py

docs:  ## Build the site of the documentation into site/, in an environment of its own
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' >.venv-docs/needed
	@.venv-docs/bin/pip install --quiet --disable-pip-version-check --requirement .venv-docs/needed
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

mutants: $(VENV)/dev  ## Mutate the mathematics, and check that tests notice; writes results/mutants.json
	@$(BIN)/python tests/tools/mutants.py $(workers)

check: $(VENV)/dev  ## Check format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/dev  ## Format the code and fix what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/dev  ## Measure build and verify against copying and hashing; writes results/ and the tables
	@$(BIN)/python benchmarks/build.py $(workers)
	@$(BIN)/python benchmarks/verify.py $(workers)
	@$(BIN)/python benchmarks/parts.py $(workers)
	@$(BIN)/python benchmarks/uniqueness.py
	@$(BIN)/python benchmarks/table.py

roofline: $(VENV)/train  ## Measure training steps against the limits of the machine; writes results/roofline.json
	@$(choose) $(BIN)/python benchmarks/roofline.py --dataset "$$dataset" $(preset)

matrix: $(VENV)/dev  ## Build with old and new versions of every library, and compare digests
	@$(BIN)/python benchmarks/matrix.py

fuzz: $(VENV)/dev  ## Fuzz each reader of untrusted bytes for SECONDS=60, guided by coverage
	@$(BIN)/python tests/tools/fuzz.py all --seconds $(call quoted,$(SECONDS))

$(VENV)/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; name it with PYTHON=") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/train: $(VENV)/base constraints.txt
	@$(call torch,$(PIP))
	@$(PIP) $(pins) --editable '.[train]'
	@touch $@

$(VENV)/dev: $(VENV)/base constraints.txt
	@$(call torch,$(PIP))
	@$(PIP) $(pins) --editable '.[dev]'
	@touch $@
