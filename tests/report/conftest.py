"""Fake run folders for the report's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """fake.py, loaded by its path: under importlib mode test folders are no packages."""
    spec = importlib.util.spec_from_file_location("clat_report_fake", Path(__file__).with_name("fake.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_dir(fake: ModuleType, tmp_path: Path) -> Path:
    """A finished run of 18 layers with every file."""
    return fake.write_run(tmp_path / "run")
