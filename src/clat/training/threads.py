"""What a library's own threads say where they fail."""

from __future__ import annotations

import threading


class QuietThreads:
    """Keeps the tracebacks of one library's threads from the screen while it is at work.

    TensorBoard writes in a thread of its own, whose error reaches its caller with the next call: it is told there.

    Args:
        package: the library's top package.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self._before = threading.excepthook

    def start(self) -> None:
        """Begin to listen."""
        self._before = threading.excepthook
        threading.excepthook = self._hook

    def stop(self) -> None:
        """Put back what was there."""
        if threading.excepthook == self._hook:
            threading.excepthook = self._before

    def _hook(self, failed: threading.ExceptHookArgs) -> None:
        theirs = type(failed.thread).__module__.partition(".")[0] == self.package
        if not (theirs and isinstance(failed.exc_value, OSError)):
            self._before(failed)
