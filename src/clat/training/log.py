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


class RunLog:
    """Appends records to metrics.jsonl and tells the user.

    Args:
        path: the file; None writes nothing.
        keep_bytes: what lies beyond so many bytes of the file is cut off, as a resumed run writes it again.
        epoch: epochs that are done; TensorBoard drops what it has of later ones.
        quiet: print nothing, as ranks other than the first.
    """

    def __init__(self, path: Path | None, *, keep_bytes: int = 0, epoch: int = 0, quiet: bool = False) -> None:
        self.path = path
        self.console = plain_console(quiet=quiet)
        self._board: Any = None
        if path is None:
            return
        path.touch()
        with path.open("r+b") as file:
            file.truncate(min(keep_bytes, path.stat().st_size))
        self._board = _tensorboard(path.parent, epoch)

    def record(self, event: str, **values: Any) -> None:
        """Append one line; epoch records go to TensorBoard too.

        Args:
            event: its kind, such as "epoch".
            values: what JSON can hold, without nan and infinity; an epoch has "epoch" and "parts".

        Raises:
            ClatError: the file cannot be written.
        """
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        except OSError as error:
            raise ClatError(f"cannot write {self.path}: {error.strerror or error}") from None
        if self._board is not None and event == "epoch":
            numbers = {k: v for k, v in values.items() if isinstance(v, float)} | values["parts"]
            for name, value in numbers.items():
                self._board.add_scalar(name, value, values["epoch"])
            self._board.flush()

    @property
    def size(self) -> int:
        """Return the bytes of the file so far; 0 where there is none."""
        return self.path.stat().st_size if self.path is not None else 0

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line.

        Args:
            text: the line, printed as it is: nothing in it is markup.
            style: rich's name of a style, such as "yellow".
        """
        self.console.print(text, style=style, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int) -> Iterator[Any]:
        """Show a progress bar with time to go for one epoch. Only on a terminal.

        Args:
            label: what stands before it.
            total: steps of the epoch.
            done: steps that an earlier process took.

        Yields:
            `advance(text)`, to be called after each step with what stands behind the bar.
        """
        columns = progress_columns("{task.description}", "{task.fields[note]}")
        shown = self.console.is_terminal and not self.console.quiet
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as progress:
            task = progress.add_task(label, total=total, completed=done, note="")
            yield lambda note: progress.update(task, advance=1, note=note)

    def close(self) -> None:
        """Close TensorBoard's file, where there is one."""
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)
