"""What is written has the rights that files get where they are written."""

from __future__ import annotations

import os
import stat

import pytest

from clat.core.errors import ClatError
from clat.core.files import is_temporary, read_json, replace_file, write_text


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path, umask, rights):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == rights


def test_a_file_that_could_not_be_written_leaves_nothing_behind(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def write(path):
        assert is_temporary(path)
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(tmp_path / "a.txt", write)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("name", ["x" * 250, "file/x.json", "."])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClatError, match="cannot write"):
        write_text(tmp_path / name, "new")


@pytest.mark.parametrize("text", ['{"scale": "smo', "[1]", None])
def test_a_damaged_file_is_named(tmp_path, text):
    file = tmp_path / "paper.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ClatError, match=r"paper\.json cannot be read: it is missing or damaged; restore it"):
        read_json(file, "restore it")
