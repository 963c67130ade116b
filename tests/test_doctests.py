"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import clat

PACKAGE = Path(clat.__file__).parent
# Only files with an example are imported, which keeps this quick.
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())


def module_name(path: Path) -> str:
    return ".".join(("clat", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_examples(path):
    failed, tried = doctest.testmod(importlib.import_module(module_name(path)))
    assert tried > 0
    assert failed == 0


def test_there_are_some():
    assert WITH_EXAMPLES
