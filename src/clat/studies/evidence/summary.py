"""The answer over all regimes that were run: sentences, a table and a figure, from the regimes' own files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clat.core.environment import describe_environment, invocation
from clat.core.errors import ClatError
from clat.report.plots import BLUE, GREEN, MUTED, styled
from clat.report.widths import WIDTH
from clat.studies.evidence.answer import SURE
from clat.studies.evidence.comparison import LEVEL, holm
from clat.studies.evidence.confirmation import LEAST_SEEDS
from clat.studies.evidence.request import DECIDING
from clat.studies.evidence.screening import GOAL
from clat.studies.measurement import computing_device
from clat.studies.paper.cells import difference_text, points
from clat.studies.paper.page import write_files

GAINS, NOT, OPEN = "gains", "does not gain", "not settled"
COLUMNS = ("regime", "finalist", "control", "seeds", "n", "clean", "robust", "p of both", "p, Holm", "CLAT")
Table = Mapping[str, Any]


def write_answer(folders: Sequence[str | Path], out: Path) -> dict[str, Any]:
    """Write the answer's table.json, table.md, plot and page.html.

    Args:
        folders: those that regimes were run in.
        out: the folder of the files.

    Returns:
        What table.json holds.

    Raises:
        ClatError: If no regime has been confirmed in one of the folders.
    """
    tables = collect(folders)
    found = answer_table(tables)
    write_files(found, {"differences": differences(tables)}, out)
    return found


def collect(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Return the tables of the regimes that have been confirmed.

    Args:
        folders: those that they were run in.

    Returns:
        The tables, in the order of the folders, then by name.

    Raises:
        ClatError: If there is none in one of the folders.
    """
    found = []
    for folder in folders:
        files = sorted(Path(folder).glob("evidence-*/table.json"))
        tables = [table for table in (json.loads(file.read_text()) for file in files) if table.get("confirmed")]
        if not tables:
            raise ClatError(f"{folder} has no regime that `clat evidence` has confirmed")
        found += tables
    return found


def decided(table: Table) -> dict[str, Any]:
    """Return what a regime found under the protocol that decides.

    Args:
        table: the regime's.

    Returns:
        The entry of its `confirmed`.

    Raises:
        ClatError: If it was not measured under that protocol.
    """
    for one in table["confirmed"]:
        if one["protocol"] == DECIDING:
            return dict(one)
    raise ClatError(f"'{table['id']}' has not been measured under {DECIDING}, which decides: run it again")


def verdict(one: Table, corrected: float) -> str:
    """Return what a regime says.

    Args:
        one: of `decided`.
        corrected: its p, corrected for the number of regimes.

    Returns:
        GAINS, NOT or OPEN. That it does not gain rests on bounds, whose number is not corrected for.
    """
    if len(one["seeds"]) < LEAST_SEEDS:
        return OPEN
    return GAINS if one["exceeds"] and corrected < LEVEL else NOT if one["falls_short"] else OPEN


def answer_table(tables: Sequence[Table]) -> dict[str, Any]:
    """Return what the answer's table.json holds.

    Args:
        tables: of the regimes.

    Returns:
        Plain data.
    """
    confirmed = [decided(table) for table in tables]
    corrected = holm([one["p"] for one in confirmed])
    environment = describe_environment(computing_device())
    command = invocation()
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    return {
        "what": "evidence-answer",
        "id": "evidence",
        "source": "CLAT against its controls",
        "title": "Does CLAT gain anything over controls that are hard to beat?",
        "shows": "The form of CLAT that was chosen on held-out images, less the control that it has to beat.",
        "scale": f"{len(tables)} regimes",
        "remark": " ".join(table["remark"] for table in tables),
        "outcome": " ".join(sentences(tables)),
        "columns": list(COLUMNS),
        "rows": [_row(*one) for one in zip(tables, confirmed, corrected, strict=True)],
        "caption": "Clean and robust: points less the control under the protocol that decides, with 95 % "
        "intervals over seeds and images, on networks of seeds that chose neither. p of both: the larger of "
        f"the two; Holm: corrected for the number of regimes. CLAT gains at {points(100 * GOAL['clean'])} "
        f"points clean and {points(100 * GOAL['robust'])} robust or more, both beyond chance; it does not "
        f"where one of the two is excluded with {SURE}, which the brackets are narrower than.",
        "notes": [],
        "facts": [("Regimes", str(len(tables)))],
        "made": made,
        "failed": 0,
        "entries": [
            {"regime": table["id"], "verdict": verdict(one, p), "p_corrected": p, **one}
            for table, one, p in zip(tables, confirmed, corrected, strict=True)
        ],
        "environment": environment,
        "command": command,
    }


def sentences(tables: Sequence[Table]) -> list[str]:
    """Return the answer in four sentences.

    Args:
        tables: of the regimes.

    Returns:
        What CLAT does in how many regimes, how large the differences are, how sure the smallest p is, and which
        controls were the hardest.
    """
    named: dict[str, list[str]] = {GAINS: [], NOT: [], OPEN: []}
    confirmed = [decided(table) for table in tables]
    corrected = holm([one["p"] for one in confirmed])
    for table, one, p in zip(tables, confirmed, corrected, strict=True):
        named[verdict(one, p)].append(_name(table))
    parts = [f"{what} in {len(names)} ({', '.join(names)})" for what, names in named.items() if names]
    ranges = [
        f"{points(100 * min(values))} to {points(100 * max(values))} {kind}"
        for kind in GOAL
        for values in [[one["differences"][kind]["value"] for one in confirmed]]
    ]
    controls = dict.fromkeys(one["control"]["row"] for one in confirmed)
    return [
        f"Of {len(tables)} regimes, CLAT {'; '.join(parts)}.",
        f"Its best form less the control that it has to beat comes to {' and to '.join(ranges)}, in points.",
        f"The smallest p of both differences, corrected for the number of regimes, is {_p(min(corrected))}.",
        f"The controls that were the hardest to beat: {'; '.join(controls)}.",
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _name(table: Table) -> str:
    return str(table["id"]).rpartition(", ")[2]


def _row(table: Table, one: Table, corrected: float) -> list[str]:
    shown = [
        difference_text(of["value"], of["low"], of["high"]) for of in (one["differences"][kind] for kind in GOAL)
    ]
    images = one["form"]["clean"]["images"]
    about = [_name(table), one["form"]["row"], one["control"]["row"], str(len(one["seeds"])), f"{images:,}"]
    return [*about, *shown, *map(_p, (one["p"], corrected)), verdict(one, corrected)]


@styled()
def differences(tables: Sequence[Table]) -> Figure:
    """Draw the differences of every regime with their intervals, and the goal.

    Args:
        tables: of the regimes.

    Returns:
        The figure, in points: clean on the left, robust on the right.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.32 * len(tables)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, least) in zip(panels, GOAL.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.axvline(100 * least, color=GREEN, linewidth=1.0, linestyle="--")
        for place, table in enumerate(tables):
            one = decided(table)["differences"][kind]
            axes.plot([100 * one["low"], 100 * one["high"]], [place, place], color=BLUE, linewidth=1.0)
            axes.plot(100 * one["value"], place, "o", color=BLUE, markersize=4)
        axes.set_xlabel(f"{kind}, points less the control; green: the goal")
        axes.grid(True, axis="x")
    panels[0].set_yticks(range(len(tables)), [_name(table) for table in tables])
    panels[0].set_ylim(len(tables) - 0.5, -0.5)
    return figure
