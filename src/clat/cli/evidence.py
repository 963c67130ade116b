"""`clat evidence`: does a form of CLAT gain anything over controls that are hard to beat?"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clat.cli.console import console, say, show
from clat.cli.options import folder
from clat.cli.places import add_place_options, place_for
from clat.core.errors import ClatError
from clat.core.formatting import counted

if TYPE_CHECKING:
    from clat.studies.evidence.request import EvidenceRequest, Finals

HELP = "hold CLAT against its hardest controls, under one budget"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat evidence`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("regime", nargs="?", help="overfitting, annealed, fast, ... (none: list them)")
    parser.add_argument(
        "--answer",
        nargs="+",
        metavar="FOLDER",
        help="write the answer over the regimes that were run in these folders into --out",
    )
    parser.add_argument("--seeds", type=int, help="fresh seeds of the two chosen rows (default: the regime's)")
    parser.add_argument("--data", metavar="FOLDER", help="where its data set lies, if its name does not find it")
    parser.add_argument(
        "--finals",
        metavar="PROTOCOL",
        help="measure the two chosen rows by this as well, such as autoattack",
    )
    parser.add_argument("--num-samples", type=int, help="of --finals: test images, the first (default: all)")
    add_place_options(parser, "networks")
    parser.add_argument("--plan", action="store_true", help="say how many runs, hours and bytes, and train nothing")
    parser.add_argument(
        "--out", type=folder, metavar="DIR", help="the folder; each scale, which the list names, has its own"
    )


def run(options: argparse.Namespace) -> int:
    """List the regimes, plan one, or run one and write table.json, table.md, a plot and page.html.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 1 if a row has no number.

    Raises:
        ClatError: If regime, protocol or folder cannot be what is meant.
    """
    if options.answer:
        return _answer(options)
    if options.regime is None:
        return _list()
    from clat.studies.evidence.regimes import find_regime
    from clat.studies.evidence.request import EvidenceRequest
    from clat.studies.paper.folder import check_data, claim, known_or_empty
    from clat.studies.paper.store import Store

    regime = find_regime(options.regime)
    for name in ("seeds", "num_samples"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ClatError(f"--{name.replace('_', '-')} is {getattr(options, name)}: expected at least 1")
    if options.out is None and not options.plan:
        raise ClatError("clat evidence needs --out, the folder of its networks")
    finals = _finals(options)
    folders = {regime.dataset: options.data} if options.data else {}
    for message in check_data([regime.dataset], folders).values():
        raise ClatError(message)
    if options.seeds is not None:
        regime = replace(regime, fresh=options.seeds)
    if options.plan:
        with known_or_empty(options.out, regime.scale) as place:
            store = Store(place, regime.scale, folders)
            return _plan(EvidenceRequest(regime=regime, store=store, console=console(), finals=finals))
    out = Path(options.out)
    from clat.core.environment import invocation
    from clat.studies.evidence.run import run_regime
    from clat.studies.paper.page import rich_table
    from clat.training.interrupt import Interrupted

    try:
        with place_for(options, out) as place:
            claim(out, regime.scale, invocation() or [])
            store = Store(out, regime.scale, folders)
            request = EvidenceRequest(regime=regime, store=store, console=console(), finals=finals)
            found = run_regime(request, out, place)
    except Interrupted as stopped:
        return stopped.exit_code
    show(rich_table(found))
    say(f"{found['outcome']} wrote {request.folder(out) / 'page.html'}".strip())
    return int(found["failed"] > 0)


def _answer(options: argparse.Namespace) -> int:
    """Write the answer over several regimes."""
    if options.regime is not None:
        raise ClatError("--answer goes through the regimes that were run: leave the regime out")
    others = ("plan", "seeds", "data", "finals", "num_samples", "jobs", "on", "address", "cpus", "memory")
    for name in others:
        if getattr(options, name) not in (None, False):
            raise ClatError(
                f"--{name.replace('_', '-')} goes with a regime: --answer reads what was run, and runs nothing"
            )
    if options.out is None:
        raise ClatError("clat evidence --answer needs --out, the folder of its page")
    from clat.studies.evidence.summary import write_answer
    from clat.studies.paper.page import rich_table

    found = write_answer(options.answer, Path(options.out))
    show(rich_table(found))
    say(f"{found['outcome']} wrote {Path(options.out) / 'page.html'}")
    return 0


def _finals(options: argparse.Namespace) -> Finals | None:
    if options.finals is None:
        if options.num_samples is not None:
            raise ClatError("--num-samples belongs to --finals")
        return None
    from clat.evaluation.protocols import find_protocol
    from clat.studies.evidence.request import Finals

    find_protocol(options.finals)
    return Finals(protocol=options.finals, samples=options.num_samples)


def _plan(request: EvidenceRequest) -> int:
    """Say what the regime would take."""
    from clat.core.formatting import duration
    from clat.studies.evidence.run import regime_attacks, regime_specs
    from clat.studies.paper.plan import make_plan

    regime = request.regime
    plan = make_plan(regime_specs(regime), request.store, regime_attacks(request))
    show(plan.table(f"{regime.name}, {regime.screened} + {regime.fresh} seeds"))
    for name, seconds in plan.slowest[:6]:
        say(f"  {name}: {duration(seconds)}")
    return 0


def _list() -> int:
    from clat.studies.evidence.regimes import REGIMES

    for regime in REGIMES:
        say(f"{regime.name}: {regime.title}", style="bold")
        scale = regime.scale
        size = "all" if scale.train_size is None else f"{scale.train_size:,}"
        rows = f"{counted(len(regime.rows()), 'row')}, {regime.screened} + {regime.fresh} seeds"
        length = f"{size} images, {counted(scale.epochs, 'epoch')}"
        say(f"  {regime.network}, {regime.dataset}; {length}; {rows}; scale {scale.name}")
    say("run one: clat evidence overfitting --out runs/evidence; what it takes: --plan")
    return 0
