"""What a run says while it goes: metrics.jsonl, TensorBoard if installed, a progress bar, a line an epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from clat.core.console import plain_console, progress_columns
from clat.core.errors import ClatError
from clat.training.board import Board


class RunLog:
    """Appends records to metrics.jsonl and tells the user. `quiet` silences the screen, for other ranks too;
    `path=None` writes nothing."""

    def __init__(self, path: Path | None, *, keep_bytes: int = 0, epoch: int = 0, quiet: bool = False) -> None:
        self.path = path
        self.console = plain_console(quiet=quiet)
        self._board: Board | None = None
        if path is None:
            return
        try:
            path.touch()
            with path.open("r+b") as file:
                file.truncate(min(keep_bytes, path.stat().st_size))
        except OSError as error:
            raise ClatError(f"cannot write {path}: {error.strerror or error}") from None
        self._board = Board(path.parent, epoch)

    def record(self, event: str, **values: Any) -> None:
        """Append one line; epoch records go to TensorBoard too."""
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        except OSError as error:
            raise ClatError(f"cannot write {self.path}: {error.strerror or error}") from None
        if self._board is not None and event == "epoch":
            numbers = {name: value for name, value in values.items() if isinstance(value, float)}
            self._board.add(values["epoch"], numbers | values["parts"])

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path is not None else 0

    def say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int) -> Iterator[Any]:
        """A progress bar with time to go for one epoch; yields `advance(text)`. Only on a terminal."""
        columns = progress_columns("{task.description}", "{task.fields[note]}")
        shown = self.console.is_terminal and not self.console.quiet
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as progress:
            task = progress.add_task(label, total=total, completed=done, note="")
            yield lambda note: progress.update(task, advance=1, note=note)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
