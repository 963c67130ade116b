"""Finding a Ray cluster, and whether it answers: Ray itself tries for two minutes and then ends the process."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

from clat.core.errors import ClatError

ANSWER = 10.0
"""Seconds that a cluster has to answer."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of HTTP/2, which gRPC and so Ray speak, begins: the preface and settings that are all defaults (RFC
9113, 3.4). A server answers with its own settings."""
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
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)) as line:
            line.settimeout(seconds)
            line.sendall(HELLO)
            frame = line.recv(9, socket.MSG_WAITALL)
    except TimeoutError:
        raise ClatError(f"no Ray cluster answers at {address} within {seconds:g} seconds") from None
    except OSError as error:
        raise ClatError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None
    if len(frame) < 9 or frame[3] != SETTINGS:
        raise ClatError(f"what answers at {address} is no Ray cluster")
