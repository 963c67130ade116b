"""`clat paper`: the papers' tables and figures, ours beside theirs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clat.cli.console import console, say, show
from clat.cli.options import folder
from clat.cli.places import add_place_options, place_for
from clat.core.errors import ClatError

if TYPE_CHECKING:
    from clat.runtime.jobs.job import JobPlace
    from clat.studies.paper.lines import Measure
    from clat.studies.paper.paper_table import PaperTable
    from clat.studies.paper.runs import RunSpec
    from clat.studies.paper.store import Store
    from clat.studies.paper.table import Asked

HELP = "run a table or a figure of the papers: ours beside theirs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat paper`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument(
        "table", nargs="?", help="T1 to T20, D9, F2 to F7, v1-T6, cure-T1, ...; all (none: list them)"
    )
    parser.add_argument("--scale", default="smoke", help="smoke, narrow, full (default: smoke)")
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME[=FOLDER]",
        help="only these data sets; where one of them lies",
    )
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these methods or rows")
    parser.add_argument("--seeds", type=int, help="networks of each row (default: as many as the scale has)")
    add_place_options(parser, "networks")
    parser.add_argument("--plan", action="store_true", help="say how many runs, hours and bytes, and train nothing")
    parser.add_argument(
        "--out", type=folder, metavar="DIR", help="the folder of all tables at one scale; the same one goes on"
    )


def run(options: argparse.Namespace) -> int:
    """List the tables, plan one, or run one or all and write table.json, table.md, plots and page.html of each.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 1 if a cell has no number.

    Raises:
        ClatError: If table, scale, network, data set, row or folder cannot be what is meant.
    """
    if options.table is None:
        return _list()
    from clat.studies.paper.catalogue import TABLES, find_table
    from clat.studies.paper.scales import find_scale

    every = options.table.lower() == "all"
    tables = list(TABLES) if every else [find_table(options.table)]
    scale = find_scale(options.scale)
    if options.seeds is not None and options.seeds < 1:
        raise ClatError(f"--seeds is {options.seeds}: expected at least 1")
    if every and (options.networks or options.rows):
        raise ClatError("clat paper all takes no --networks and --rows, which belong to a table: name one")
    if options.out is None and not options.plan:
        raise ClatError("clat paper needs --out, the folder of the tables")
    from clat.studies.paper.folder import claim, known_or_empty
    from clat.studies.paper.store import Store

    asked = _asked(options)
    if not every:
        _check(tables[0], asked)
    if options.plan:
        with known_or_empty(options.out, scale) as place:
            return _plan(tables, asked, Store(place, scale, asked.folders))
    out = Path(options.out)
    from clat.core.environment import invocation
    from clat.training.interrupt import Interrupted

    try:
        with place_for(options, out) as place:
            claim(out, scale, invocation() or [])
            return _run(tables, asked, Store(out, scale, asked.folders), out, place, one=not every)
    except Interrupted as stopped:
        return stopped.exit_code


def _asked(options: argparse.Namespace) -> Asked:
    from clat.studies.paper.table import Asked

    named = [word.partition("=") for word in options.data]
    return Asked(
        networks=tuple(options.networks),
        datasets=tuple(name for name, _, _ in named),
        rows=tuple(options.rows),
        seeds=options.seeds,
        folders={name: where for name, equals, where in named if equals},
    )


def _check(table: PaperTable, asked: Asked) -> None:
    """Raise an error for what a table does not have, before anything is written."""
    from clat.studies.paper.catalogue import restricted
    from clat.studies.paper.table import asked_lines, missing_data

    restricted("network", asked.networks, table.all_networks(), table)
    asked_lines(table, asked)
    missing_data(table, asked)


def _run(
    tables: list[PaperTable], asked: Asked, store: Store, out: Path, place: JobPlace | None, *, one: bool
) -> int:
    """Run tables one after the other; of several, one whose data is not there is named and left out."""
    from clat.studies.paper.page import rich_table
    from clat.studies.paper.table import run_table

    failed = 0
    for table in tables:
        try:
            found = run_table(table, asked, store, out, console(), place)
        except ClatError as error:
            if one:
                raise
            say(f"{table.id}: left out: {error}", style="red")
            failed += 1
            continue
        failed += found["failed"]
        if one:
            show(rich_table(found))
        say(f"{table.id}: {found['outcome'] or found['title']} wrote {out / table.id / 'page.html'}")
    return int(failed > 0)


def _plan(tables: list[PaperTable], asked: Asked, store: Store) -> int:
    """Say what the tables would take."""
    from clat.core.formatting import duration
    from clat.studies.paper.attack_plan import needed_attacks
    from clat.studies.paper.catalogue import restricted
    from clat.studies.paper.measured_passes import Passes, ranking_passes, transfer_passes
    from clat.studies.paper.plan import make_plan, needed_specs
    from clat.studies.paper.table import request_for

    specs: list[RunSpec] = []
    attacks: list[tuple[RunSpec, Measure]] = []
    transfers: list[Passes] = []
    rankings: list[Passes] = []
    for table in tables:
        try:
            request = request_for(table, asked, store, console())
        except ClatError as error:
            if len(tables) == 1:
                raise
            say(f"{table.id}: left out: {error}", style="red")
            continue
        networks = restricted("network", asked.networks, table.all_networks(), table)
        datasets = restricted("data set", asked.datasets, table.all_datasets(), table)
        specs += needed_specs(request, networks, datasets)
        attacks += needed_attacks(request, networks, datasets)
        transfers += transfer_passes(request)
        rankings += ranking_passes(request)
    plan = make_plan(specs, store, attacks, transfers, rankings)
    names = tables[0].id if len(tables) == 1 else "all tables"
    show(plan.table(f"{names} at scale {store.scale.name}"))
    for name, seconds in plan.slowest[:6]:
        say(f"  {name}: {duration(seconds)}")
    return 0


def _list() -> int:
    """Show every table: what it shows, and how much of what it takes."""
    from clat.studies.paper.catalogue import TABLES
    from clat.studies.paper.listing import described

    for table in TABLES:
        name, shows, about = described(table)
        say(f"{name}: {shows}", style="bold")
        say(f"  {about}")
    say("run one: clat paper T7 --scale smoke --out runs/paper; what it takes: --plan")
    return 0
