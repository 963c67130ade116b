"""`clat study`: tables of recipes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from clat.cli.running import console
from clat.core.errors import ClatError
from clat.studies import STUDIES, find_study
from clat.studies.collect import rich_table
from clat.studies.finals import finals_table, run_finals
from clat.studies.row import chosen, seeded
from clat.studies.run import run_study
from clat.studies.tables.groups import group_table


def study(options: Namespace) -> int:
    """Run a study, or go on with it; the table on screen, and table.json, table.md and study.html in its folder.
    Exit code 1 if a row failed. With --judge or --finals: measure what it trained, on held-out
    images or on the test split."""
    if options.list or options.study is None:
        for one in STUDIES.values():
            console.print(f"{one.name}: {one.title}", style="bold")
            for scale in one.scales:
                names = ", ".join(row.name for row in one.rows(scale, Path("OUT")))
                console.print(f"  {scale.name}, {scale.epochs} epochs: {names}")
        return 0
    found = find_study(options.study)
    scale = found.scales[0] if options.scale is None else found.at(options.scale)
    if options.out is None:
        raise ClatError("clat study needs --out, the folder of its runs")
    every = seeded(found.rows(scale, Path(options.out)), scale.seeds)
    if options.judge is not None and options.finals is not None:
        raise ClatError("clat study takes --judge or --finals, not both: choose first, on held-out images")
    if options.judge is not None or options.finals is not None:
        finals = run_finals(
            every,
            Path(options.out),
            console,
            names=options.rows,
            protocol=options.finals or options.judge,
            split="heldout" if options.finals is None else "test",
            num_samples=options.num_samples,
            precision=options.precision,
        )
        console.print(finals_table(finals))
        return 0
    table = run_study(found, scale, chosen(every, options.rows), Path(options.out), console)
    console.print(group_table(table) if table["groups"] else rich_table(table))
    from clat.studies.page import write_study_page

    console.print(f"wrote {write_study_page(table, Path(options.out))}")
    return int(any(row["status"] != "finished" for row in table["rows"]))
