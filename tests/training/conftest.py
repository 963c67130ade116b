"""The kit of tiny runs, and one finished run that several tests look at."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import clat


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """kit.py, loaded by its path: under importlib mode test folders are no packages."""
    spec = importlib.util.spec_from_file_location("clat_training_kit", Path(__file__).with_name("kit.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def finished(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    clat.train(kit.recipe(), out, model=kit.tiny(), data=kit.data(), quiet=True)
    return out
