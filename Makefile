# make demo, make test, make docs: each sets up .venv from nothing first.
VENV := .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

.PHONY: demo test test-slow lint docs bench clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/clat demo --out runs/demo

# Two processes of one thread each: two cores are used, and no test waits for another one's threads.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --durations=10

test-slow: $(READY)
	$(BIN)/pytest -m slow

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

# torch first and pinned: an open range would take the newest build, with gigabytes of CUDA libraries. torchvision has
# no build for CPUs there, and would not import beside this torch: it lies apart, for tests/helpers/libraries.py.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/torchvision "$(TORCHVISION)"
	touch $(READY)

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) runs/demo site
