"""Tables and lines that show a bench's results on screen."""

from __future__ import annotations

from typing import Any

from clat.core.console import Table


def steps_table(result: dict[str, Any]) -> Table:
    """Return the measured steps as a table, a row for each objective and each plain step.

    Args:
        result: what `clat.bench.measure` returned.

    Returns:
        A table to print; in brackets beside a ratio stand the same by processor time and by multiplications.
    """
    table = Table(title=f"training steps of {result['batch_size']} images", title_justify="left")
    for name in ("step", "ms", "images/s", "MiB", "passes", "/ PGD-AT (cpu; floor)", "memory", "x plain (cpu)"):
        table.add_column(name, justify="left" if name == "step" else "right", no_wrap=name == "step")
    for label, row in result["rows"].items():
        table.add_row(
            label,
            f"{1000 * row['seconds']:.0f}",
            f"{row['images_per_second']:.0f}",
            f"{row['peak_memory'] / 2**20:.0f}",
            f"{row['forwards']:.1f} + {row['backwards']:.1f}",
            f"{_number(row, 'to_pgd_at')} ({_number(row, 'to_pgd_at_cpu')}; {_number(row, 'to_pgd_at_floor')})",
            _number(row, "to_pgd_at_memory"),
            f"{_number(row, 'faster_than_plain')} ({_number(row, 'faster_than_plain_cpu')})",
        )
    for label, row in result["plain"].items():
        table.add_row(label, f"{1000 * row['seconds']:.0f}", f"{result['batch_size'] / row['seconds']:.0f}")
    return table


def surroundings_lines(result: dict[str, Any]) -> list[str]:
    """Return what a run does besides its steps, with its share of the time that they take.

    Args:
        result: what `clat.bench.measure` returned.

    Returns:
        A line for each.
    """
    return [
        f"{label}: {1000 * row['seconds']:.2f} ms, {row['share']:.3%} of {row['of']}"
        for label, row in result["surroundings"].items()
    ]


def profile_table(label: str, found: dict[str, Any]) -> Table:
    """Return where a step's time goes as a table, each group of operations beside its floors.

    Args:
        label: the row's label.
        found: what `clat.bench.profile.profile_step` returned.

    Returns:
        A table to print.
    """
    peak, bandwidth = found["flops_per_second"] / 1e9, found["bytes_per_second"] / 1e9
    title = f"{label}: measured peak {peak:.0f} GFLOP/s, {bandwidth:.1f} GB/s"
    table = Table(title=title, title_justify="left")
    for name in ("operations", "ms", "share", "arithmetic floor, ms", "bandwidth floor, ms"):
        table.add_column(name, justify="left" if name == "operations" else "right")
    for group, row in found["groups"].items():
        floors = (f"{1000 * row[name]:.1f}" for name in ("arithmetic_floor", "bandwidth_floor"))
        table.add_row(group, f"{1000 * row['seconds']:.1f}", f"{row['share']:.1%}", *floors)
    return table


def _number(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f}" if name in row else "–"
