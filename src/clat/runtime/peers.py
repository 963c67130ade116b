"""Ending together: when one of several processes is gone, the others leave too, and one line says which it was.

A process that waits in a collective for another that has died may wait for half an hour. So each holds a connection
to the first one, which the operating system closes when a process ends, however it ends; of a machine that has lost
its power, keepalive packets tell within seconds. No clock decides, so that a busy machine ends nothing.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from clat.core.errors import ClatError
from clat.runtime.patience import common_store

GRACE = 3.0
"""Seconds for which a process that sees another one end waits whether it is to end itself, for a reason that both
have."""
KEEPALIVE = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
"""Seconds of silence, seconds between two probes, probes: a machine without power is gone after five seconds."""
MEET = 60.0
"""Seconds within which all have to be there."""
_meetings = itertools.count()
HEADER = struct.Struct("!i")
"""A word: the number of a process that is gone, or one of the two below."""
IN_PEACE = -1
FAILED = -2
"""The reason follows, up to the end of the connection."""
COLLECTIVES = ("gloo", "NCCL", "Connection", "ProcessGroup")
"""Words in the errors of a collective that another process has left."""


class PeerWatch:
    """One process's connections to the others: from the first one to all, from all to the first one.

    Args:
        rank: the number of this process.
        world: how many there are.
        goes_on: what to type to go on, for the line.
    """

    def __init__(self, rank: int, world: int, goes_on: str) -> None:
        self.rank, self.world, self.goes_on = rank, world, goes_on
        self.leaving = False
        self._sockets = self._meet()
        self._thread = threading.Thread(target=self._watch, name="clat-peers", daemon=True)
        self._thread.start()

    def _meet(self) -> dict[int, socket.socket]:
        """Return a connection to each process that this one watches, by its number."""
        store = common_store()
        key = f"clat-peers-{next(_meetings)}"  # of this meeting: processes may train several times
        if self.rank == 0:
            with socket.socket() as listener:
                listener.bind(("", 0))
                listener.listen(self.world)
                listener.settimeout(MEET)
                store.set(key, str(listener.getsockname()[1]))
                found: dict[int, socket.socket] = {}
                while len(found) < self.world - 1:
                    line, _ = listener.accept()
                    (rank,) = HEADER.unpack(line.recv(HEADER.size, socket.MSG_WAITALL))
                    found[rank] = _kept_alive(line)
                return found
        port = int(store.get(key).decode())
        line = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), port))
        line.sendall(HEADER.pack(self.rank))
        return {0: _kept_alive(line)}

    def _watch(self) -> None:
        """Wait for the end of another process, or for the first one's word of it."""
        by_socket = {line: rank for rank, line in self._sockets.items()}
        while not self.leaving:
            for line in select.select(list(by_socket), [], [], 0.5)[0]:
                said = b""
                with suppress(OSError):
                    said = line.recv(HEADER.size, socket.MSG_WAITALL)
                # A process that is killed says nothing.
                word = HEADER.unpack(said)[0] if len(said) == HEADER.size else FAILED
                if word == IN_PEACE:
                    del by_socket[line]
                elif word == FAILED:
                    reason = _rest(line)
                    self._wait_for_own_end()
                    self._end(by_socket.pop(line), reason)
                else:
                    self._end(word)

    def _wait_for_own_end(self) -> None:
        """Wait a while whether this process is about to leave by itself."""
        until = time.monotonic() + GRACE
        while time.monotonic() < until and not self.leaving:
            time.sleep(0.05)

    def _end(self, gone: int, reason: str = "") -> None:
        """End this process, unless it leaves by itself; the first one tells the others before."""
        if self.leaving:
            return
        for line in self._sockets.values() if self.rank == 0 else ():
            with suppress(OSError):
                line.sendall(HEADER.pack(gone))
        if self.rank == (1 if gone == 0 else 0):
            why = f" ({reason})" if reason else ""
            which = f"process {gone} of {self.world} is gone{why}"
            with suppress(OSError):
                os.write(2, f"clat: error: {which}, so all end; go on with: {self.goes_on}\n".encode())
        sys.stdout.flush()
        os._exit(1)

    def verdict(self) -> None:
        """Wait for the word that another process is gone, which ends this one; come back if there is none."""
        self._thread.join(3 * GRACE)

    def leave(self, failure: BaseException | None = None) -> None:
        """Watch no more.

        Args:
            failure: why this process ends, and so all others; None: it leaves in peace.
        """
        self.leaving = True
        self._thread.join()
        word = (
            HEADER.pack(IN_PEACE)
            if failure is None
            else HEADER.pack(FAILED) + _in_one_line(failure).encode(errors="replace")
        )
        for line in self._sockets.values():
            with suppress(OSError):
                line.sendall(word)
            line.close()


@contextmanager
def ending_together(rank: int, world: int, goes_on: str) -> Iterator[None]:
    """Have all processes end when one does while the code inside runs.

    Args:
        rank: the number of this process.
        world: how many there are; with one, nothing is done.
        goes_on: what to type to go on, for the line that names the process which is gone.

    Yields:
        Nothing; the body runs.
    """
    if world == 1:
        yield
        return
    watch = PeerWatch(rank, world, goes_on)
    try:
        yield
    except BaseException as error:
        if isinstance(error, RuntimeError) and any(word in str(error) for word in COLLECTIVES):
            watch.verdict()
        watch.leave(error)
        raise
    watch.leave()


def _in_one_line(error: BaseException) -> str:
    """Return what an error says, with its kind unless it speaks to the user."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ClatError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _rest(line: socket.socket) -> str:
    """Return what comes through a connection until it ends, empty if it has."""
    parts = []
    with suppress(OSError):
        while part := line.recv(4096):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


def _kept_alive(line: socket.socket) -> socket.socket:
    """Return the connection with keepalive packets, as far as the system has them."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line
