"""A fake run folder for the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import run_folders


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run of 18 layers with every file."""
    return run_folders.write_run(tmp_path / "run")
