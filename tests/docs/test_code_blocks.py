"""Every block of README and tutorial that can run is run, in order, as it is printed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from clat import cli

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> list[str]:
    """Run a page's blocks in the working directory and return the kind of each that ran.

    A block with a title is saved under it, Python runs in one namespace, and of shell blocks the lines of clat do.
    """
    ran, names = [], {"__name__": "page"}
    for kind, title, text in BLOCK.findall(page.read_text()):
        if title:
            Path(title).write_text(text)
        elif kind == "python":
            exec(compile(text, str(page), "exec"), names)
        elif kind == "sh":
            lines = text.replace("\\\n", " ").splitlines()
            for words in (shlex.split(line, comments=True) for line in lines if line.startswith("clat ")):
                assert cli.main(words[1:]) == 0, words
        else:
            continue
        ran.append(title or kind)
    return ran


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path
    for name in ("my_network", "my_losses", "my_pieces"):
        sys.modules.pop(name, None)


def test_the_readme(elsewhere):
    assert "python" in run_page(ROOT / "README.md")


def test_the_tutorial(elsewhere, capsys):
    ran = run_page(ROOT / "docs" / "tutorial.md")
    assert ran.count("python") == 6
    assert {"my_network.py", "mine.toml", "control.toml"} <= set(ran)
    assert (elsewhere / "runs" / "mine" / "report.html").is_file()
    assert "most critical: " in capsys.readouterr().out


def test_pieces_of_one_s_own(elsewhere, capsys):
    ran = run_page(ROOT / "docs" / "extending.md")
    assert ran == ["my_losses.py", "pieces.toml", "my_pieces.py", "sh"]
    metrics = (elsewhere / "runs" / "pieces" / "csv" / "metrics.csv").read_text().splitlines()
    assert len(metrics) == 2
    assert "corners" in capsys.readouterr().out


def test_a_loop_of_one_s_own(elsewhere, capsys):
    assert run_page(ROOT / "docs" / "own-loop.md").count("python") == 3
    assert "moved; lambda" in capsys.readouterr().out
