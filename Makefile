# make demo, make test, make docs: each sets up .venv from nothing first.
VENV := .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
BIN := $(VENV)/bin
LOWEST_TESTS := tests/attacks/test_pgd.py tests/core/test_units.py tests/data/test_load_split.py \
    tests/models/test_files.py tests/network/test_modes.py tests/report/test_page.py tests/training/test_step.py
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

.PHONY: demo test test-slow test-lowest lint docs bench clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/clat demo --out runs/demo

# Two processes of one thread each: two cores are used, and no test waits for another one's threads.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --durations=10

test-slow: $(READY)
	$(BIN)/pytest -m slow

# The lowest versions of all that pyproject.toml asks for, in an environment of its own. Their warnings are not ours.
LOWEST := .venv-lowest/bin
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv pip install --python $(LOWEST)/python --resolution lowest-direct --editable .
	$(LOWEST)/uv pip install --python $(LOWEST)/python pytest hypothesis
	OMP_NUM_THREADS=1 $(LOWEST)/pytest -o filterwarnings=default $(LOWEST_TESTS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/. The variable silences a notice of the theme about its successor.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python -m benchmarks.criticality_cost
	$(BIN)/python -m benchmarks.augmentation

# torch first and pinned, from the index of its builds for CPUs, which spare gigabytes of CUDA libraries, unless pip is set
# up for an index of one's own. torchvision may not import beside this torch: it lies apart, for tests/helpers/libraries.py.
CPU_BUILDS = $(shell $(PYTHON) -m pip config list 2>/dev/null | grep -qE "index-url|find-links" \
    || echo --extra-index-url https://download.pytorch.org/whl/cpu)
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CPU_BUILDS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/torchvision "$(TORCHVISION)"
	touch $(READY)

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) runs/demo site
