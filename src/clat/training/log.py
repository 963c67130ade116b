"""What a run says while it goes: metrics.jsonl and the loggers beside it, a progress bar, a line an epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from clat.core.console import plain_console, progress_columns
from clat.core.errors import ClatError
from clat.core.logger import logger
from clat.core.progress import SparseLines, draws_bars, to_go
from clat.training.trackers import TrackedRun, TrackerList

WORTH_SAYING = 10.0
"""Seconds that a run still takes, from which on it says so."""


class RunLog:
    """Appends records to metrics.jsonl and tells the user.

    Args:
        path: the file; None writes nothing.
        keep_bytes: what lies beyond so many bytes of the file is cut off, as a resumed run writes it again.
        quiet: print nothing; the logger `clat` gets every line all the same.
        silent: tell nobody anything, as ranks other than the first.
    """

    def __init__(
        self, path: Path | None, *, keep_bytes: int = 0, quiet: bool = False, silent: bool = False
    ) -> None:
        self.path = path
        self.console, self.silent = plain_console(quiet=quiet or silent), silent
        self.sparse = SparseLines(self.say)
        self.estimated = False
        self.trackers = TrackerList(lambda text: self.say(f"  warning: {text}", style="yellow"))
        if path is None:
            return
        try:
            path.touch()
            with path.open("r+b") as file:
                file.truncate(min(keep_bytes, path.stat().st_size))
        except OSError as error:
            raise ClatError(f"cannot write {path}: {error.strerror or error}") from None

    def track(self, names: Sequence[str], given: Sequence[Any], run: TrackedRun) -> None:
        """Open the loggers of a run. One that keeps a file of its own gets the epochs that are over already.

        Args:
            names: as `wanted_loggers` returns them.
            given: loggers of the caller's own.
            run: what they are told of it.
        """
        if self.path is None:
            return
        self.trackers.open(names, given, run)
        for line in self.path.read_text().splitlines() if "csv" in names else ():
            record = json.loads(line)
            if record["event"] == "epoch":
                self.trackers.log(epoch_numbers(record), record["epoch"], only="csv")

    def record(self, event: str, **values: Any) -> None:
        """Append one line; the numbers of an epoch go to the loggers too.

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
        if event == "epoch":
            self.trackers.log(epoch_numbers(values), values["epoch"])

    @property
    def size(self) -> int:
        """Return the bytes of the file so far; 0 where there is none."""
        return self.path.stat().st_size if self.path is not None else 0

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line and send it to the logger `clat`.

        Args:
            text: the line, printed as it is: nothing in it is markup.
            style: rich's name of a style; "yellow" makes it a warning.
        """
        self.sparse.rest()
        if not self.silent:
            logger.log(logging.WARNING if style == "yellow" else logging.INFO, "%s", text.strip())
        self.console.print(text, style=style, soft_wrap=True)

    @contextmanager
    def bar(
        self, label: str, total: int, done: int, left: Callable[[int], float | None] = lambda done: None
    ) -> Iterator[Callable[[str], None]]:
        """Show a progress bar for one epoch; where none can be drawn, say a line every half minute.

        Once in a run, as soon as it can be told, a line says how long the run will take.

        Args:
            label: what stands before it.
            total: steps of the epoch.
            done: steps that an earlier process took.
            left: takes the steps that are done, and returns the seconds that are left of the whole run, or None.

        Yields:
            `advance(text)`, to be called after each step with what stands behind the bar.
        """
        columns = progress_columns("{task.description}", "{task.fields[note]}")
        drawn, step = draws_bars(self.console), done
        with Progress(*columns, console=self.console, transient=True, disable=not drawn) as progress:
            task = progress.add_task(label, total=total, completed=done, note="")

            def advance(note: str) -> None:
                nonlocal step
                step += 1
                seconds = left(step)
                if seconds is not None and not self.estimated:
                    self.estimated = True
                    if seconds >= WORTH_SAYING:
                        self.say(f"{to_go(seconds)} in training")
                note += to_go(seconds)
                progress.update(task, advance=1, note=note)
                if not drawn:
                    self.sparse(lambda: f"{label}  step {step}/{total}  {note}")

            yield advance

    def close(self, status: str = "success") -> None:
        """Let the loggers finish.

        Args:
            status: "success" or "failed".
        """
        self.trackers.close(status)


def epoch_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name: loss and its parts, accuracies, rate, speed.

    Args:
        record: what metrics.jsonl holds of the epoch, with "parts".

    Returns:
        Name -> value: the record's floats, and the parts of the loss.
    """
    return {name: value for name, value in record.items() if isinstance(value, float)} | record["parts"]
