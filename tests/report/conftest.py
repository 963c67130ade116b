"""Fake run folders for the report's tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from helpers import run_folders


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """Builders of run folders without a run."""
    return run_folders


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run of 18 layers with every file."""
    return run_folders.write_run(tmp_path / "run")
