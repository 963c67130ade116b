"""A module's old name is the module at its new place, not a second copy of it."""

from __future__ import annotations

import importlib

import pytest

import clat  # noqa: F401
from clat.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_very_module(old, new):
    assert importlib.import_module(f"clat.{old}") is importlib.import_module(f"clat.{new}")
