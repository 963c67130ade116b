"""What is shown is what was written: names that look like rich's markup or emoji stay as they are."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
import rich.console
from rich.progress import Progress

import clat
from clat.core.console import Table, plain_console, progress_columns

NAMES = ("[/x]", "[bold]x[/bold]", "[link=http://a.b]c", ":smile:", "[red", "a[1]", "\\[x]")


@pytest.mark.parametrize("name", NAMES)
def test_a_line_is_shown_as_it_is(name):
    file = io.StringIO()
    console = plain_console(file=file, force_terminal=True, width=80, color_system="truecolor")
    console.print(name)
    console.print(name, style="bold")
    assert file.getvalue().splitlines() == [name, f"\x1b[1m{name}\x1b[0m"]


@pytest.mark.parametrize(
    ("make", "name"),
    [(plain_console, name) for name in NAMES] + [(rich.console.Console, name) for name in NAMES if name[0] != ":"],
)
def test_a_table_is_shown_as_it_is_on_any_console(make, name):
    file = io.StringIO()
    table = Table("first", f"head {name}", title=f"title {name}", caption=f"caption {name}")
    table.add_column(f"more {name}", justify="right")
    table.add_row("row", f"cell {name}", f"last {name}", style="bold")
    make(file=file, width=200).print(table)
    for part in ("head", "title", "caption", "more", "cell", "last"):
        assert f"{part} {name}" in file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_is_shown_as_it_is(name):
    file = io.StringIO()
    console = plain_console(file=file, force_terminal=True, width=200, color_system=None)
    with Progress(*progress_columns("{task.description}", "{task.fields[note]}"), console=console) as progress:
        progress.add_task(f"stage {name}", total=3, note=f"note {name}")
    assert f"stage {name}" in file.getvalue()
    assert f"note {name}" in file.getvalue()


def test_nothing_else_makes_a_console_a_table_or_a_column():
    """A console of rich's own would read the next name as markup."""
    root = Path(clat.__file__).parent
    made = {"Console", "Table", "TextColumn", "print"}
    for file in root.rglob("*.py"):
        if file == root / "core" / "console.py":
            continue
        tree = ast.parse(file.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {
            alias.asname or alias.name
            for node in imports
            if (node.module or "").split(".")[0] == "rich"
            for alias in node.names
            if alias.name in made
        }
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")
        }
        assert not names & called, file


@pytest.mark.parametrize(("setting", "coloured"), [(None, True), ("1", False), ("", True)])
def test_no_color_is_heeded(monkeypatch, setting, coloured):
    """See no-color.org: any value but an empty one."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if setting is not None:
        monkeypatch.setenv("NO_COLOR", setting)
    file = io.StringIO()
    plain_console(file=file, force_terminal=True, color_system="standard").print("stopped", style="yellow")
    assert ("\x1b[33m" in file.getvalue()) == coloured
