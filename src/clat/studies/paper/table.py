"""Run one table or figure: what it needs is trained and measured, and its files are written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from clat.core.console import plain_console
from clat.core.environment import describe_environment, invocation
from clat.core.errors import ClatError
from clat.runtime.jobs.job import JobPlace
from clat.studies.measurement import computing_device
from clat.studies.paper.accuracy import Request, accuracy_cells
from clat.studies.paper.beside import gather, run_beside
from clat.studies.paper.catalogue import restricted
from clat.studies.paper.cells import COLUMNS, OPEN, OPPOSITE, SAME, UNLIKE, Cell, measured_on
from clat.studies.paper.choose_lambda import RULE
from clat.studies.paper.content import Content
from clat.studies.paper.contrast import contrasts, sentences
from clat.studies.paper.cost_tables import epoch_cost, selection_cost
from clat.studies.paper.curves import effects
from clat.studies.paper.figures import figure
from clat.studies.paper.folder import check_data
from clat.studies.paper.layer_tables import critical_layers, parameters, selected_layers
from clat.studies.paper.lines import TableLine, table_lines
from clat.studies.paper.page import write_files
from clat.studies.paper.paper_table import PaperTable
from clat.studies.paper.printed import FLAGS, Printed
from clat.studies.paper.scales import PaperScale
from clat.studies.paper.store import Store
from clat.studies.paper.stored import Gathered
from clat.studies.paper.transfer_tables import transfer_cells

PAUSE = 60.0
"""Seconds between two writings of an unfinished table, whose intervals take time where there are many images."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of a table the user asked for; empty: all of it."""

    networks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    """None: as many as the scale has."""
    folders: Mapping[str, str] | None = None
    """Data set -> a folder of it."""


def request_for(table: PaperTable, asked: Asked, store: Store, console: Console) -> Request:
    """Return what is run of a table, everything refused that cannot be what is meant.

    Args:
        table: the table.
        asked: what of it.
        store: where networks and results are.
        console: where what happens is said.

    Returns:
        The request.

    Raises:
        ClatError: If the table lacks what was asked for, or none of its data can be read.
    """
    lines = asked_lines(table, asked)
    missing = missing_data(table, asked)
    count = store.scale.seeds if asked.seeds is None else asked.seeds
    return Request(
        table=table, lines=lines, store=store, seeds=tuple(range(count)), console=console, missing=missing
    )


def asked_lines(table: PaperTable, asked: Asked) -> dict[TableLine, list[Printed]]:
    """Return the lines of a table that were asked for.

    Args:
        table: the table.
        asked: what of it.

    Returns:
        Line -> printed numbers; none of a figure.

    Raises:
        ClatError: If the table lacks a network, a data set or a row that was asked for.
    """
    if asked.rows and table.kind in ("sweep", "strength", "curves"):
        raise ClatError(f"{table.id} is a figure without rows: leave out --rows")
    return table_lines(table, asked.networks, asked.datasets, asked.rows)


def missing_data(table: PaperTable, asked: Asked) -> dict[str, str]:
    """Return the data sets of a table that cannot be read.

    Args:
        table: the table.
        asked: what of it.

    Returns:
        Data set -> what to put where.

    Raises:
        ClatError: If none of them can.
    """
    datasets = restricted("data set", asked.datasets, table.all_datasets(), table)
    missing = {} if table.kind == "parameters" else check_data(datasets, asked.folders or {})
    if missing and len(missing) == len(datasets):
        raise ClatError(f"{table.id} has no data to run on: {next(iter(missing.values()))}")
    return missing


def run_table(
    table: PaperTable, asked: Asked, store: Store, out: Path, console: Console, place: JobPlace | None = None
) -> dict[str, Any]:
    """Train and measure what a table needs, going on where an earlier call was stopped, and write its files.

    What fails is named in its cell with its message; the rest goes on.

    Args:
        table: the table.
        asked: what of it.
        store: the networks and results that tables share.
        out: the folder above the table's own, which is called after it.
        console: where what happens is said.
        place: where networks are trained and attacked beside one another; None: here, one after the other.

    Returns:
        What table.json holds.

    Raises:
        ClatError: If the table lacks what was asked for, none of its data can be read, or the place cannot train
            one of its networks.
        KeyboardInterrupt: If a run was asked to stop.
    """
    store.precisions.clear()
    request = request_for(table, asked, store, console)
    folder = out / table.id
    folder.mkdir(exist_ok=True)

    def write(content: Content) -> dict[str, Any]:
        found = table_data(request, content)
        write_files(found, content.figures, folder)
        return found

    written = 0.0

    def sofar(cells: Sequence[Cell]) -> None:
        nonlocal written
        if time.monotonic() - written > PAUSE:
            write(_accuracies(request, cells, {}))
            written = time.monotonic()

    if place is not None:
        _work_ahead(request, asked, place)
    return write(_content(request, asked, sofar))


def _work_ahead(request: Request, asked: Asked, place: JobPlace) -> None:
    """Train all networks of a table beside one another, and attack them where its kind says; CLAT's ratio is chosen
    before those that it is for."""
    store, table = request.store, request.table
    quiet = replace(request, console=plain_console(quiet=True))
    if table.kind in ("parameters", "cost") or (table.kind == "layers" and table.id != "T13"):
        from clat.studies.paper.plan import needed_specs

        specs = [] if table.kind == "parameters" else needed_specs(request, (), ())
        runs = {run.key: run for run in map(store.run_of, specs) if not store.is_finished(run)}
        run_beside(store, Gathered(runs=runs), place, request.console)
        return
    measuring = table.kind in ("accuracy", "sweep", "strength", "curves")
    while True:
        found = gather(store, lambda: _content(quiet, asked, lambda cells: None), measuring=measuring)
        if not found.runs and not found.measurements:
            return
        run_beside(store, found, place, request.console)


def _content(request: Request, asked: Asked, sofar: Callable[[Sequence[Cell]], None]) -> Content:
    """Return what the table's kind gives."""
    table = request.table
    if table.kind == "accuracy":
        return _accuracies(request, *accuracy_cells(request, sofar))
    if table.kind == "transfer":
        return _accuracies(request, *transfer_cells(request))
    if table.kind == "layers":
        return selected_layers(request) if table.id == "T13" else critical_layers(request)
    if table.kind == "parameters":
        return parameters(request)
    if table.kind == "cost":
        return selection_cost(request) if table.id == "T10" else epoch_cost(request)
    networks = restricted("network", asked.networks, table.all_networks(), table)
    return figure(request, networks, restricted("data set", asked.datasets, table.all_datasets(), table))


def _accuracies(request: Request, cells: Sequence[Cell], about: Mapping[str, Any]) -> Content:
    """Return an accuracy table's contents."""
    count = Counter(cell.settled for cell in cells if cell.settled)
    told = ", ".join(
        f"{count[name]} {name}" for name in (SAME, OPPOSITE, UNLIKE, OPEN) if count[name] or name != UNLIKE
    )
    notes = dict.fromkeys((cell.row.partition(",")[0], cell.note) for cell in cells if cell.note)
    printed = [
        (f"{c.dataset}, {c.network}, {c.row}, {'clean' if c.kind == 'clean' else c.attack}", c.printed.note)
        for c in cells
        if c.printed and c.printed.note
    ]
    flagged = sum(bool(cell.settled and cell.printed_effect_flag) for cell in cells)
    told += f"; {flagged} of them beside flagged numbers" if flagged else ""
    between = contrasts(cells)
    outcome = [f"Effects beside the paper's: {told}."] if count else []
    return Content(
        columns=COLUMNS,
        rows=[cell.texts() for cell in cells],
        entries=[cell.to_dict() for cell in cells],
        caption=_caption(cells, request.store.scale),
        notes=list(dict.fromkeys([*notes, *printed])),
        about={**about, "contrasts": [one.to_dict() for one in between]},
        outcome=" ".join([*outcome, sentences(between)]).strip(),
        figures={"effects": effects(cells)},
        failed=sum(cell.failed for cell in cells),
    )


def _caption(cells: Sequence[Cell], scale: PaperScale) -> str:
    """Return the meaning of an accuracy table's columns."""
    flags = "; ".join(f"{name}: {about}" for name, about in FLAGS.items())
    chosen = "" if len(scale.ratios) > 1 else " (not chosen at this scale)"
    return (
        f"{measured_on(cells)} Lowest: of so many seeds, as the paper reports. Effect: the row "
        "less the one that stands under 'less', in points. Last column: whether "
        f"ours has the sign of the paper's; {UNLIKE}: the paper has 0, our interval does not hold it; "
        f"{OPEN}: our interval holds 0, or there is one seed. "
        f"Printed numbers flagged: {flags}. "
        f"lambda: {RULE}; "
        f"ratios of this scale: {', '.join(f'{ratio:g}' for ratio in scale.ratios)}{chosen}."
    )


def table_data(request: Request, content: Content) -> dict[str, Any]:
    """Return what table.json holds.

    Args:
        request: what was run.
        content: what came out.

    Returns:
        Plain data.
    """
    table, scale = request.table, request.store.scale
    environment = describe_environment(computing_device())
    command = invocation()
    ratios = content.about.get("ratios", {})
    how = [one["how"] if isinstance(one, dict) else one for one in ratios.values()]
    seeds = request.seeds if content.seeds is None else content.seeds
    facts = [
        ("Scale", scale.name),
        ("Epochs", str(scale.cure_epochs if table.paper == "cure" else scale.epochs)),
        ("Training images", "all" if scale.train_size is None else f"{scale.train_size:,}"),
        ("Seeds", str(len(seeds))),
    ]
    counted = table.kind == "parameters"
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    notes = ([("all rows", table.note)] if table.note else []) + list(content.notes)
    notes += [(f"lambda, {place}", f"ratio {text}") for place, text in zip(ratios, how, strict=True)]
    notes += [("precision", text) for text in request.store.precision_notes()]
    return {
        "what": "paper-table",
        "id": table.id,
        "source": f"{table.paper}, {table.number}",
        "title": table.title,
        "shows": table.claim,
        "scale": scale.name,
        "remark": "Networks at full width; nothing is trained." if counted else scale.remark,
        "outcome": content.outcome,
        "columns": list(content.columns),
        "rows": [list(row) for row in content.rows],
        "caption": content.caption,
        "notes": [list(note) for note in notes],
        "facts": [] if counted else facts,
        "made": made,
        "failed": content.failed,
        "seeds": list(seeds),
        "settings": {**vars(scale)} | {"narrow": None},
        "entries": list(content.entries),
        "environment": environment,
        "command": command,
        **content.about,
    }
