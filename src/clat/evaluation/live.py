"""The display of an evaluation that goes on: the attack, how far it is, the bound so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from clat.core.console import plain_console, progress_columns
from clat.core.logger import logger
from clat.core.progress import SparseLines, draws_bars, to_go
from clat.evaluation.job import Report


@contextmanager
def evaluation_progress(console: Console | None = None) -> Iterator[Report]:
    """Show a bar a pass, with time to go and the live upper bound of the robust accuracy.

    Where no bar can be drawn there is a line every half minute instead, which the logger `clat` gets too.

    Args:
        console: where it is shown; None: on the screen, or in the notebook.

    Yields:
        What an evaluation takes as `report`.
    """
    columns = progress_columns("{task.description:10}", "robust at most {task.fields[bound]:.1%}")
    screen = plain_console() if console is None else console
    drawn = draws_bars(screen)

    def say(line: str) -> None:
        logger.info("%s", line)
        screen.print(line, soft_wrap=True)

    sparse = SparseLines(say)
    with Progress(*columns, console=screen, transient=True, disable=not drawn) as progress:
        tasks: dict[str, tuple[TaskID, float]] = {}

        def report(attack: str, through: int, total: int, bound: float) -> None:
            if attack not in tasks:
                tasks[attack] = progress.add_task(attack, total=total, bound=bound), time.monotonic()
            task, began = tasks[attack]
            progress.update(task, total=total, completed=through, bound=bound)
            if drawn or not through:
                return
            left = (time.monotonic() - began) / through * (total - through)
            sparse(lambda: f"{attack}  {through}/{total} images  robust at most {bound:.1%}{to_go(left)}")

        yield report
