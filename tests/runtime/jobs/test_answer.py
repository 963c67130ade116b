"""Where a Ray cluster is, and whether it answers, without Ray."""

from __future__ import annotations

import socket
import sys
import threading
import time
from argparse import Namespace

import pytest

from clat.cli.places import memory_size, place_for
from clat.core.errors import ClatError
from clat.runtime.jobs import answer
from clat.runtime.jobs.answer import find_address, require_answer, require_cluster


@pytest.fixture
def listener():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


def address_of(found):
    return f"127.0.0.1:{found.getsockname()[1]}"


def answering(found, reply):
    def answer():
        line, _ = found.accept()
        with line:
            line.recv(64)
            line.sendall(reply)

    threading.Thread(target=answer, daemon=True).start()


def test_a_server_of_grpc_answers_with_its_settings(listener):
    answering(listener, bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    require_answer(f"ray://{address_of(listener)}")


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_server_is_no_cluster(listener, reply):
    answering(listener, reply)
    with pytest.raises(ClatError, match="is no Ray cluster"):
        require_answer(address_of(listener))


def test_one_that_is_silent_or_not_there_does_not_answer(listener):
    with pytest.raises(ClatError, match=r"no Ray cluster answers at 127.0.0.1:\d+ within 0.1 seconds"):
        require_answer(address_of(listener), seconds=0.1)
    listener.close()
    with pytest.raises(ClatError, match="refused"):
        require_answer("127.0.0.1:1")


def test_a_server_that_says_it_byte_by_byte_has_answered(listener):
    def say():
        line, _ = listener.accept()
        with line:
            line.recv(64)
            for byte in (0, 0, 0, 4, 0, 0, 0, 0, 0):
                line.sendall(bytes([byte]))
                time.sleep(0.01)

    threading.Thread(target=say, daemon=True).start()
    require_answer(address_of(listener))


def test_a_name_that_nobody_looks_up_takes_no_longer_than_an_answer_may(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    start = time.monotonic()
    with pytest.raises(ClatError, match=r"no Ray cluster answers at somewhere:1 within 0\.1 seconds"):
        require_answer("somewhere:1", seconds=0.1)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "is no Ray cluster that can be joined"),
        (
            "raise RuntimeError('Ray version mismatch')",
            "at host:1: RuntimeError: Ray version mismatch",
        ),
        ("raise SystemExit(1)", "it does not say why"),
    ],
)
def test_what_is_no_cluster_of_this_ray_is_told_by_another_process(program, says, monkeypatch):
    monkeypatch.setattr(answer, "ASK", ("-c", program))
    with pytest.raises(ClatError, match=says):
        require_cluster("host:1", seconds=5 if "time" not in program else 0.5)
    require_cluster("ray://host:1", seconds=0)


def test_auto_is_where_ray_left_its_mark(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ClatError, match="no Ray cluster runs here"):
        find_address("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert find_address("auto") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert find_address("auto") == "10.0.0.2:6379"


@pytest.mark.parametrize("address", ["somewhere", "host:", ":1", "host:99999", "ray://host"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ClatError, match="expected auto, HOST:PORT"):
        find_address(address)


def options(**given):
    return Namespace(**{"jobs": None, "on": None, "address": None, "cpus": None, "memory": None} | given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"jobs": 0}, "--jobs is 0: expected at least 1"),
        ({"on": "slurm"}, "unknown place 'slurm'"),
        ({"address": "auto"}, "--address belongs to a Ray cluster: add --on ray"),
        ({"jobs": 2, "memory": "1GB"}, "--memory belongs to a Ray cluster"),
        ({"on": "ray", "cpus": 0}, "--cpus is 0"),
        ({"on": "ray"}, r"--on ray needs Ray, which is not installed: pip install ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, says, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClatError, match=says), place_for(options(**given), tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_one_job_at_a_time_needs_no_place(tmp_path):
    with place_for(options(jobs=1), tmp_path) as place:
        assert place is None
    with place_for(options(jobs=3), tmp_path) as place:
        assert place.count == 3


def test_sizes_of_memory():
    assert [memory_size(text) for text in ("16GB", "512 MB", "1.5G", "2TiB")] == [
        16 * 10**9,
        512 * 10**6,
        1.5e9,
        2e12,
    ]
    for text in ("16", "GB", "0GB", "-1GB", "many"):
        with pytest.raises(ClatError, match="expected a size"):
            memory_size(text)
