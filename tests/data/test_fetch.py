"""Public data sets from a hub of our own on this machine: checksums, mirrors, interruptions, and no network."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clat
from clat import cli
from clat.core.errors import ClatError
from clat.data import fetch
from clat.data.fetch import KNOWN, fetch_data


def parquet(seed: int) -> bytes:
    """Six images of two classes as a parquet file."""
    rows = []
    for k in range(6):
        picture = io.BytesIO()
        pixels = np.random.default_rng(seed + k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture, "png")
        rows.append({"img": {"bytes": picture.getvalue(), "path": None}, "label": k % 2})
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target.getvalue()


FILES = {path: parquet(10 * place) for place, path in enumerate(KNOWN["cifar10"].files)}
TRAIN, TEST = FILES


class Hub(BaseHTTPRequestHandler):
    """What the hub says of a file, and the file; `server.files` may hold others than it should."""

    def answer(self, send: bool) -> None:
        path = self.path.partition(f"/resolve/{KNOWN['cifar10'].commit}/")[2]
        data = self.server.files.get(path)  # type: ignore[attr-defined]
        self.server.asked.append(path)  # type: ignore[attr-defined]
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", KNOWN["cifar10"].commit)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if send:
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(files: dict[str, bytes]) -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked = files, []  # type: ignore[attr-defined]
    server.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub with a small CIFAR-10, whose checksums are the right ones; nothing else answers."""
    server = serve(dict(FILES))
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    monkeypatch.setitem(KNOWN, "cifar10", replace(KNOWN["cifar10"], files=digests))
    monkeypatch.setattr(fetch, "MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_fetched_can_be_read(hub, tmp_path):
    assert cli.main(["data", "fetch", "cifar10", "--quiet"]) == 0
    folder = tmp_path / "data" / "cifar10"
    assert sorted(one.name for one in folder.iterdir()) == [
        "fetched.json",
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    assert json.loads((folder / "fetched.json").read_text())["commit"] == KNOWN["cifar10"].commit
    assert len(clat.load_split("cifar10", "train")) == 6
    before = len(hub.asked)
    assert fetch_data("cifar10") == folder
    assert len(hub.asked) == before, "what is there is not asked for again"


def test_a_checksum_that_the_package_does_not_know_is_the_hubs(hub, monkeypatch):
    monkeypatch.setitem(KNOWN, "cifar10", replace(KNOWN["cifar10"], files=dict.fromkeys(FILES)))
    assert (fetch_data("cifar10") / "test-00000-of-00001.parquet").read_bytes() == FILES[TEST]


def test_a_mirror_with_another_file_is_passed_over(hub, tmp_path):
    wrong = serve({**FILES, TRAIN: parquet(99)})
    said: list[str] = []
    folder = fetch_data("cifar10", mirrors=[wrong.address], say=said.append)
    assert (folder / "train-00000-of-00001.parquet").read_bytes() == FILES[TRAIN]
    assert any(line.startswith(f"note: {wrong.address}: another file, with SHA-256 ") for line in said)
    wrong.shutdown()
    wrong.server_close()


def test_what_is_wrong_everywhere_is_refused_and_leaves_nothing_to_be_read(hub, tmp_path, capsys):
    hub.files[TEST] = parquet(99)
    assert cli.main(["data", "fetch", "cifar10"]) == 2
    assert not (tmp_path / "data" / "cifar10").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "another file, with SHA-256" in line
    assert "name a mirror of the hub with --mirror" in line
    hub.files.update(FILES)
    hub.asked.clear()
    assert fetch_data("cifar10").is_dir()
    assert hub.asked.count(TRAIN) == 1, "the file that was right is kept, and only asked about"


def test_no_network_is_one_line(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["data", "fetch", "cifar10", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot fetch plain_text/train-00000-of-00001.parquet of uoft-cs/cifar10: http://127.0.0.1:9: " in line
    assert f"put its parquet files into {tmp_path / 'data' / 'cifar10'}" in line


def test_a_slip_in_a_name_fetches_nothing(hub, capsys):
    assert cli.main(["data", "fetch", "cifar10", "cifar11"]) == 2
    assert "did you mean 'cifar10'?" in capsys.readouterr().err
    assert hub.asked == []


def test_a_folder_that_cannot_be_written_to(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ClatError, match="set CLAT_DATA_DIR to another folder"):
        fetch_data("cifar10")


def test_whoever_misses_a_known_set_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path))
    with pytest.raises(ClatError, match="; `clat data fetch cifar100` gets them from the hub"):
        clat.load_split("cifar100")
