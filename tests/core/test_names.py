"""A class name stands for one thing in the whole package."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import clat


def test_a_class_name_is_used_once() -> None:
    names = Counter(
        node.name
        for path in Path(clat.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
