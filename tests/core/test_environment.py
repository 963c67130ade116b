"""A result says which software it came from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from clat.core import environment


@pytest.fixture(autouse=True)
def asked_anew():
    environment.revision.cache_clear()
    yield
    environment.revision.cache_clear()


def test_a_checkout_gives_its_commit_and_says_of_changes(tmp_path, monkeypatch):
    file = tmp_path / "src" / "clat" / "core" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")

    def git(*words):
        person = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *person, *words], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(environment, "__file__", str(file))
    found = environment.revision()
    assert re.fullmatch("[0-9a-f]{40}", found)
    file.write_text("two")
    environment.revision.cache_clear()
    assert environment.revision() == f"{found}+changes"
    assert environment.describe_environment()["revision"] == f"{found}+changes"


@pytest.mark.parametrize("what", ["no checkout", "no git"])
def test_elsewhere_there_is_none(tmp_path, monkeypatch, what):
    file = tmp_path / "src" / "clat" / "core" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    if what == "no git":
        (tmp_path / ".git").write_text("gitdir: nowhere")
        monkeypatch.setenv("PATH", str(Path("/nowhere")))
    monkeypatch.setattr(environment, "__file__", str(file))
    assert environment.revision() is None
    assert "revision" not in environment.describe_environment()
