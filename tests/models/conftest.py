"""Where the shared files are (manifests, foreign weights), which no test may need in order to pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside $CLAT_DATA_DIR; the test is skipped where the variable is not set."""
    folder = os.environ.get("CLAT_DATA_DIR")
    if not folder:
        pytest.skip("CLAT_DATA_DIR is not set; the shared manifests and weights lie beside that folder")
    return Path(folder).resolve().parent


@pytest.fixture
def shared_file(shared: Path):
    """A function from a path below the shared folder to the file, skipping where it is absent."""

    def find(name: str) -> Path:
        path = shared / name
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        return path

    return find
