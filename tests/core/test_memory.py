"""What a process may still take: the smallest of what is known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clat.core import memory


def test_it_is_less_than_the_machine_has() -> None:
    assert 0 < memory.available_memory() < 2**50


def test_without_anything_known_it_is_unbounded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == sys.maxsize


@pytest.mark.parametrize(
    ("most", "cached", "expected"),
    [("3000", "inactive_file 200\n", 2200), ("max", "", sys.maxsize), ("500", "", 0)],
)
def test_a_container_s_limit(
    tmp_path, monkeypatch: pytest.MonkeyPatch, most: str, cached: str, expected: int
) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for name, text in (("max", f"{most}\n"), ("current", "1000\n"), ("stat", f"anon 5\n{cached}file 9\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available_memory() == expected


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process(limit: str) -> None:
    script = (
        "import resource\n"
        "from clat.core.memory import available_memory\n"
        f"resource.setrlimit(resource.{limit}, (2**29, 2**29))\n"
        "print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 2**27 < int(done.stdout) < 2**29
