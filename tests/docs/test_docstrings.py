"""Every public function says what it takes, what it returns and what it raises, in Google style, so that the API
reference has tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "clat"
FILES = sorted(SOURCE.rglob("*.py"))
RIDDLES = ("Of", "What", "Whether", "The", "A", "An")
"""Words that no docstring of a function opens with: a verb does."""


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Return the public functions of a module."""
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def parameters(function: ast.FunctionDef) -> list[str]:
    """Return the names of what a caller passes."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    rest = [one for one in (given.vararg, given.kwarg) if one is not None]
    return [one.arg for one in (*named, *rest) if not one.arg.startswith("_")]


def faults(function: ast.FunctionDef) -> list[str]:
    """Return what is missing in a function's docstring."""
    text = ast.get_docstring(function)
    if text is None:
        return ["no docstring"]
    found = []
    if text.split()[0] in RIDDLES:
        found.append(f"opens with '{text.split()[0]}' and not with a verb")
    sections = text.partition("Args:\n")
    missing = [name for name in parameters(function) if not re.search(rf"^\s+\**{name}\b.*:", sections[2], re.M)]
    if missing:
        found.append(f"says nothing of {', '.join(missing)} under Args")
    returns = None if function.returns is None else ast.unparse(function.returns)
    nothing = ("None", "Never", "NoReturn", "Iterator[None]")  # the last is a context that yields nothing
    if returns not in nothing and not re.search(r"^(Returns|Yields):", text, re.M):
        found.append("says nothing under Returns or Yields")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_public_functions_say_what_they_take_and_return(file: Path) -> None:
    found = {one.name: faults(one) for one in functions(ast.parse(file.read_text()))}
    assert {name: said for name, said in found.items() if said} == {}


def test_the_search_for_faults_finds_them() -> None:
    source = 'def f(x: int, *, y: int = 1) -> int:\n    """{}"""\n'
    (bare,) = functions(ast.parse(source.format("Whether it is so.")))
    assert len(faults(bare)) == 3
    whole = "Return a sum.\n\n    Args:\n        x: one.\n        y: other.\n\n    Returns:\n        The sum.\n    "
    (full,) = functions(ast.parse(source.format(whole)))
    assert faults(full) == []
