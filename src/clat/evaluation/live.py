"""The display of an evaluation that goes on: the attack, how far it is, the bound so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from clat.core.console import progress_columns
from clat.evaluation.job import Report


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Report]:
    """Show a bar a pass on a terminal, with time to go and the live upper bound of the robust accuracy.

    Args:
        console: where the bars are drawn; nothing is where it is quiet or no terminal.

    Yields:
        What an evaluation takes as `report`.
    """
    columns = progress_columns("{task.description:10}", "robust at most {task.fields[bound]:.1%}")
    shown = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        tasks: dict[str, TaskID] = {}

        def report(attack: str, through: int, total: int, bound: float) -> None:
            if attack not in tasks:
                tasks[attack] = progress.add_task(attack, total=total, bound=bound)
            progress.update(tasks[attack], total=total, completed=through, bound=bound)

        yield report
