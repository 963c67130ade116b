"""The numbers of a run's epochs for TensorBoard, where that is installed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError


class Board:
    """Writes scalars into the folder `tensorboard` of a run, from `epoch` on; what was there of later ones counts
    no more. Raises ClatError where the folder cannot be written, there and below."""

    def __init__(self, run: Path, epoch: int) -> None:
        self.folder = run / "tensorboard"
        self._writer: Any = None
        self._before = threading.excepthook
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        threading.excepthook = self._hook
        try:
            self._writer = SummaryWriter(str(self.folder), purge_step=epoch + 1)
        except OSError as error:
            raise self._refused(error) from None

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of an epoch."""
        if self._writer is None:
            return
        try:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """End it; whatever could be written has been."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        threading.excepthook = self._before

    def _refused(self, error: OSError) -> ClatError:
        threading.excepthook = self._before
        return ClatError(f"cannot write {self.folder}: {error.strerror or error}")

    def _hook(self, failed: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread of its own, whose error reaches us with the next call: it is told once."""
        theirs = type(failed.thread).__module__.partition(".")[0] == "tensorboard"
        if not (theirs and isinstance(failed.exc_value, OSError)):
            self._before(failed)
