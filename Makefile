# make demo, make test: each sets up .venv from nothing first.
VENV := .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow lint bench clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/clat demo --out runs/demo

test: $(READY)
	$(BIN)/pytest

test-slow: $(READY)
	$(BIN)/pytest -m slow

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.criticality_cost
	$(BIN)/python -m benchmarks.augmentation

# torch first and pinned: an open range would take the newest build, with gigabytes of CUDA libraries.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,tensorboard]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs/demo
