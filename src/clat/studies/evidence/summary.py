"""The answer over all regimes that were run: sentences, a table and a figure, from the regimes' own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clat.core.environment import describe_environment, invocation
from clat.core.errors import ClatError
from clat.core.formatting import DASH
from clat.core.parsing import parse_json
from clat.report.plots import BLUE, GREEN, MUTED, styled
from clat.report.widths import WIDTH
from clat.studies.evidence.answer import SURE, changed_choice, changed_seeds, failed_seeds, seeds_text
from clat.studies.evidence.comparison import LEVEL, holm
from clat.studies.evidence.confirmation import LEAST_SEEDS
from clat.studies.evidence.regimes import REGIMES
from clat.studies.evidence.request import DECIDING
from clat.studies.evidence.screening import GOAL
from clat.studies.measurement import computing_device
from clat.studies.paper.cells import difference_text, points
from clat.studies.paper.page import write_files

GAINS, NOT, OPEN, UNTESTED = "gains", "does not gain", "not settled", "not tested"
VERDICTS = {GAINS: "CLAT would gain", NOT: "CLAT would not gain", OPEN: "nothing would be settled"}
"""A verdict -> how one is told that does not decide."""
ANSWER = "evidence-answer"
"""What an answer's table.json calls itself."""
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
        ClatError: If a folder has no regime, a regime is there twice, none has been confirmed, or the folder of the
            files holds another table.
    """
    _check_free(out)
    tables = collect(folders)
    found = answer_table(tables)
    write_files(found, {"differences": differences([one for one in tables if one["confirmed"]])}, out)
    return found


def _check_free(out: Path) -> None:
    """Raise an error where the answer would overwrite another table."""
    file = out / "table.json"
    if not file.exists():
        return
    try:
        what = parse_json(file.read_text(encoding="utf-8"))["what"]
    except (OSError, ValueError, KeyError, TypeError):
        what = None
    if what != ANSWER:
        raise ClatError(f"{file} is no answer of `clat evidence --answer`: name another folder with --out")


def collect(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Return the tables of the regimes that were run, those that ended without a confirmation among them.

    Args:
        folders: those that they were run in.

    Returns:
        The tables, in the order of the folders, then by name.

    Raises:
        ClatError: If a folder has none, a table cannot be read, a regime is there twice, or none is confirmed.
    """
    found = []
    for folder in folders:
        files = sorted(Path(folder).glob("evidence-*/table.json"))
        if not files:
            raise ClatError(f"{folder} has no regime that `clat evidence` has confirmed")
        found += [_read(file) for file in files]
    twice = [name for name, times in Counter(map(_name, found)).items() if times > 1]
    if twice:
        raise ClatError(
            f"{', '.join(twice)}: named twice, and a regime is tested once: leave one of its folders out"
        )
    if not any(table["confirmed"] for table in found):
        raise ClatError(f"none of these regimes has been confirmed: {', '.join(map(_name, found))}")
    return found


def _read(file: Path) -> dict[str, Any]:
    """Return a regime's table, of which all that the answer takes is there."""
    try:
        table: dict[str, Any] = parse_json(file.read_text(encoding="utf-8"))
        about = [table[key] for key in ("id", "remark", "confirmed")]
        if about[-1]:
            one = decided(table)
            _row(table, one, 1.0)
            about += [one["falls_short"], *(one["differences"][kind]["bound"] for kind in GOAL)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ClatError(f"{file} is damaged, or of an earlier clat: run its regime again") from None
    return table


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
    tested = _tested(tables)
    environment = describe_environment(computing_device())
    command = invocation()
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    return {
        "what": ANSWER,
        "id": "evidence",
        "source": "CLAT against its controls",
        "title": "Does CLAT gain anything over controls that are hard to beat?",
        "shows": "The form of CLAT that was chosen on held-out images, less the control that it has to beat.",
        "scale": f"{len(tables)} regimes",
        "remark": " ".join(table["remark"] for table in tables),
        "outcome": " ".join(sentences(tables)),
        "columns": list(COLUMNS),
        "rows": [
            _row(table, *tested[_name(table)]) if table["confirmed"] else _untested_row(table) for table in tables
        ],
        "caption": "Clean and robust: points less the control under the protocol that decides, with 95 % "
        "intervals over seeds and images, on networks of seeds that chose neither. p of both: the larger of "
        "the two; Holm: corrected for the number of regimes, counting those that ended without a test with "
        f"a p of 1. CLAT gains at {points(100 * GOAL['clean'])} "
        f"points clean and {points(100 * GOAL['robust'])} robust or more, both beyond chance; it does not "
        f"where one of the two is excluded with {SURE}, which the brackets are narrower than.",
        "notes": [
            *([_name(table), text] for table in tables for text in _remarks(table, tested.get(_name(table)))),
            *_not_there(tables),
        ],
        "facts": [("Regimes", str(len(tables)))],
        "made": made,
        "failed": 0,
        "entries": [
            {"regime": table["id"], "verdict": verdict(one, p), "p_corrected": p, **one, "beside": _others(table)}
            for table in tables
            if table["confirmed"]
            for one, p in [tested[_name(table)]]
        ],
        "untested": [table["id"] for table in tables if not table["confirmed"]],
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
    named: dict[str, list[str]] = {GAINS: [], NOT: [], OPEN: [], UNTESTED: []}
    tested = _tested(tables)
    for table in tables:
        name = _name(table)
        named[verdict(*tested[name]) if name in tested else UNTESTED].append(name)
    confirmed = [one for one, _ in tested.values()]
    parts = [f"{what} in {len(names)} ({', '.join(names)})" for what, names in named.items() if names]
    ranges = [f"{_range([one['differences'][kind]['value'] for one in confirmed])} {kind}" for kind in GOAL]
    least = _p(min(p for _, p in tested.values()))
    controls = dict.fromkeys(one["control"]["row"] for one in confirmed)
    return [
        f"Of {len(tables)} {'regime' if len(tables) == 1 else 'regimes'}, CLAT {'; '.join(parts)}.",
        f"Its best form less the control that it has to beat comes to {' and to '.join(ranges)}, in points.",
        f"The smallest p of both differences, corrected for the number of regimes, is {least}: it speaks against "
        "no difference, be it a gain or a loss.",
        f"The controls that were the hardest to beat: {'; '.join(controls)}.",
    ]


def _range(values: Sequence[float]) -> str:
    """Return the least and the largest difference, in points; one where they are shown alike."""
    return " to ".join(dict.fromkeys(points(100 * value) for value in (min(values), max(values))))


def _tested(tables: Sequence[Table]) -> dict[str, tuple[dict[str, Any], float]]:
    """Return name -> (what a regime found, its p as Holm has it), of those that were confirmed.

    One that was run and not confirmed counts among the tests, with a p of 1: it was to be one of them.
    """
    found = {_name(table): decided(table) for table in tables if table["confirmed"]}
    corrected = holm([*(one["p"] for one in found.values()), *[1.0] * (len(tables) - len(found))])
    return {name: (one, p) for (name, one), p in zip(found.items(), corrected, strict=False)}


def _not_there(tables: Sequence[Table]) -> list[list[str]]:
    """Return which regimes of the plan are not in the answer, so that none is left out unseen."""
    left = [regime.name for regime in REGIMES if regime.name not in map(_name, tables)]
    told = "planned, and not in this answer; p is not corrected for them"
    return [[", ".join(left), told]] if left else []


def _remarks(table: Table, found: tuple[Table, float] | None) -> list[str]:
    """Return what a reader has to know of a regime's seeds, or why it was not tested."""
    if found is None:
        return [f"not tested: {table.get('outcome') or 'it ended before two rows were chosen.'}"]
    one, corrected = found
    first = table.get("fresh_at_first")
    return [
        *_beside(table, verdict(one, corrected)),
        *failed_seeds(one["seeds"], one.get("missing", [])),
        *changed_seeds(first, len(table.get("fresh", []))),
        *changed_choice(table.get("choice_at_first"), table.get("choice")),
    ]


def _others(table: Table) -> list[dict[str, Any]]:
    """Return what was found under protocols that decide nothing."""
    return [dict(one) for one in table["confirmed"] if one["protocol"] != DECIDING]


def _beside(table: Table, decision: str) -> list[str]:
    """Return what other protocols found, which decide nothing, and where they would say something else."""
    others = _others(table)
    said = []
    for other in others:
        clean, robust = _differences(other)
        images = f"{other['form']['clean']['images']:,} images"
        alone = verdict(other, other["p"])
        said.append(
            f"under {other['protocol']}, {images}: {clean} clean, {robust} robust"
            + (f"; by that alone {VERDICTS[alone]}" if alone != decision else "")
        )
    if not any(other["protocol"].startswith("autoattack") for other in others):
        said.append("not measured under AutoAttack")
    return said


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _name(table: Table) -> str:
    return str(table["id"]).rpartition(", ")[2]


def _row(table: Table, one: Table, corrected: float) -> list[str]:
    shown = _differences(one)
    images = one["form"]["clean"]["images"]
    seeds = seeds_text(one["seeds"], one.get("missing", []))
    about = [_name(table), one["form"]["row"], one["control"]["row"], seeds, f"{images:,}"]
    return [*about, *shown, *map(_p, (one["p"], corrected)), verdict(one, corrected)]


def _differences(one: Table) -> list[str]:
    """Return the difference of each accuracy, in points with its interval."""
    return [
        difference_text(of["value"], of["low"], of["high"]) for of in (one["differences"][kind] for kind in GOAL)
    ]


def _untested_row(table: Table) -> list[str]:
    return [_name(table), *[DASH] * (len(COLUMNS) - 2), UNTESTED]


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
