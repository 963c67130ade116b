"""Finding a Ray cluster, and whether it answers: Ray itself tries for two minutes and then ends the process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from clat.core.errors import ClatError

ANSWER = 10.0
"""Seconds that a cluster has to answer."""
JOIN = 60.0
"""Seconds that a process has to load Ray and to ask a cluster who it is."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of HTTP/2, which gRPC and so Ray speak, begins: the preface and settings that are all defaults (RFC
9113, 3.4). A server answers with its own settings."""
ASK = ("-m", "ray.scripts.scripts", "health-check", "--address")
"""What the other process runs: `ray health-check`, which knows of no time limit."""
SETTINGS = 4
"""The type of such a frame, its fourth byte."""


def find_address(address: str) -> str:
    """Return where a cluster is.

    Args:
        address: HOST:PORT, ray://HOST:PORT, or "auto": where RAY_ADDRESS says, else where `ray start` left its
            mark.

    Returns:
        HOST:PORT or ray://HOST:PORT.

    Raises:
        ClatError: It is no address, or there is no cluster to be found.
    """
    if address == "auto":
        mark = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        found = os.environ.get("RAY_ADDRESS", "")
        if found in ("", "auto"):
            found = mark.read_text().strip() if mark.is_file() else ""
        if not found:
            raise ClatError("--address auto: no Ray cluster runs here: start one with ray start --head, or name it")
        address = found
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ClatError(f"--address {address}: expected auto, HOST:PORT or ray://HOST:PORT")
    return address


def require_answer(address: str, seconds: float = ANSWER) -> None:
    """Raise an error if no server of gRPC answers at an address in time.

    Args:
        address: HOST:PORT or ray://HOST:PORT.
        seconds: how long it may take.

    Raises:
        ClatError: None does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    found: list[bytes | OSError] = []

    def ask() -> None:
        try:
            found.append(_first_frame(host.strip("[]"), int(port), seconds))
        except OSError as error:
            found.append(error)

    asking = threading.Thread(
        target=ask, daemon=True
    )  # looking up a name, and trying each of its addresses, has no end
    asking.start()
    asking.join(seconds)
    if not found or isinstance(found[0], TimeoutError):
        raise ClatError(f"no Ray cluster answers at {address} within {seconds:g} seconds")
    if isinstance(found[0], OSError):
        raise ClatError(f"no Ray cluster answers at {address}: {found[0].strerror or found[0]}")
    if len(found[0]) < 9 or found[0][3] != SETTINGS:
        raise ClatError(f"what answers at {address} is no Ray cluster")


def require_cluster(address: str, seconds: float = JOIN) -> None:
    """Raise an error if what answers is no cluster that the Ray installed here can join.

    Joining it would try for minutes, and may end this process: so another one asks first.

    Args:
        address: HOST:PORT or ray://HOST:PORT; of the latter Ray itself gives up in time.
        seconds: how long it may take.

    Raises:
        ClatError: It is none.
    """
    if address.startswith("ray://"):
        return
    try:
        command = [sys.executable, *ASK, address]
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ClatError(
            f"what answers at {address} is no Ray cluster that can be joined: give the port that ray start names; "
            "that of Ray's client is written ray://HOST:PORT"
        ) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ClatError(f"no Ray cluster at {address}: {lines[-1].strip() if lines else 'it does not say why'}")


def _first_frame(host: str, port: int, seconds: float) -> bytes:
    """Return the head of what a server says to the beginning of HTTP/2, 9 bytes; fewer if it hangs up before."""
    with closing(socket.create_connection((host, port), timeout=seconds)) as line:
        line.settimeout(seconds)
        line.sendall(HELLO)
        frame = b""
        while len(frame) < 9 and (more := line.recv(9 - len(frame))):
            frame += more
        return frame
