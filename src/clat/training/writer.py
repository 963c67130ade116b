"""Writing files behind training: in a thread, in order, from copies, and never more than one state behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import torch

PENDING = 2
"""Writes that may be under way or waiting: a state and the best weights that it speaks of."""


class BackgroundWriter:
    """Does writes one after the other in a thread of its own, in the order in which they were given.

    A write that fails is told to the next one who gives or waits, and nothing is written after it: a file never
    stands for a state whose other files are missing.

    Args:
        device: on which the tensors are that are written. Of a GPU they are fetched beside its computations.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._writes: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stream: torch.cuda.Stream | None = None
        self._closed = False
        self._error: BaseException | None = None

    def submit(self, write: Callable[[], object]) -> None:
        """Have a write done soon, waiting first until fewer than PENDING are to be done.

        Args:
            write: writes one file, or a few that belong together; all that it needs is its own, so that what goes
                on meanwhile changes none of it.

        Raises:
            BaseException: what an earlier write raised.
        """
        write = self._beside_the_gpu(write)
        with self._changed:
            self._changed.wait_for(lambda: len(self._writes) < PENDING or self._error is not None)
            self._raise()
            self._writes.append(write)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="clat-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            BaseException: what a write raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._writes or self._error is not None)
            self._raise()

    def close(self) -> None:
        """Finish what was given and end the thread. What failed is not told again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._writes or self._closed)
                if not self._writes:
                    return
                write = self._writes[0]
            try:
                write()
            except BaseException as error:  # whatever it is, the thread that trains has to hear of it
                with self._changed:
                    self._error = error
                    self._writes.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._writes.popleft()
                self._changed.notify_all()

    def _beside_the_gpu(self, write: Callable[[], object]) -> Callable[[], object]:
        """Return the write such that it fetches from a GPU in a stream of its own, after the copies are made there:
        in the stream of the training steps it would wait for those that were begun meanwhile, and they for it."""
        if self.device.type != "cuda":
            return write
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.device))

        def fetching() -> None:
            if self._stream is None:  # one for all, as torch keeps freed memory for each by itself
                self._stream = torch.cuda.Stream(self.device)
            self._stream.wait_event(copied)
            with torch.cuda.stream(self._stream):
                write()

        return fetching
