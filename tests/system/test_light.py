"""The door is light: help, versions and slips of the pen answer before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import io, os, sys
from contextlib import redirect_stdout, redirect_stderr
start = sum(os.times()[:2])
from clat.cli import main
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    try:
        code = main(sys.argv[1:])
    except SystemExit as leaving:
        code = leaving.code
heavy = {"torch", "numpy", "matplotlib", "pydantic", "rich"} & set(sys.modules)
print(code, sum(os.times()[:2]) - start, ",".join(sorted(heavy)))
"""


def measured(*words: str) -> tuple[int, float, str]:
    """Exit code, seconds of processor time and the heavy modules of a command in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True, timeout=60
    )
    code, seconds, *heavy = done.stdout.split()
    return int(code), float(seconds), "".join(heavy)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--help", 0),
        ("--version", 0),
        ("", 0),
        ("train --help", 0),
        ("evaluate --help", 0),
        ("trian", 2),
        ("--quiet trian", 2),
        ("evaluate --modle x", 2),
        ("evaluate --model x --num-samples ten", 2),
        ("train demo", 2),
        ("train demo --out -", 2),
        ("train demo seed=1 --out x", 2),
        ("demo --out -", 2),
        ("compare a.json", 2),
    ],
)
def test_what_needs_no_torch_loads_none(words, expected):
    code, seconds, heavy = measured(*words.split())
    assert code == expected
    assert heavy == ""
    assert seconds < 0.5


@pytest.mark.parametrize("name", ["clat", "clat.core.errors", "clat.core.files", "clat.core.units", "clat.cli"])
def test_importing_loads_no_torch(name):
    code = f"import sys, {name}; print('torch' in sys.modules, 'numpy' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False"] * 3


@pytest.mark.parametrize(
    "words",
    [
        "train dmeo --out x",
        "train absent.toml --out x",
        "train demo --out x --stages.clta.epochs 1",
        "train demo --out x --seed",
        "study clain",
        "train --list",
    ],
)
def test_a_slip_in_a_name_is_told_without_torch(words):
    code, seconds, heavy = measured(*words.split())
    assert code == (0 if "--list" in words else 2)
    assert heavy in ("", "rich")
    assert seconds < 0.5
