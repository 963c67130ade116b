"""One finished run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

import clat
from helpers import runs


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    clat.train(runs.recipe(), out, model=runs.tiny(), data=runs.data(), quiet=True)
    return out
