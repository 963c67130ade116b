"""A study's finished rows as one table: accuracies, intervals, what moved, what it cost, the paper beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clat.core.console import Table as RichTable
from clat.core.files import write_json, write_text
from clat.core.formatting import DASH, count, duration, memory, percent
from clat.evaluation.paired import differences_where_paired
from clat.evaluation.protocols import setting_text
from clat.evaluation.result import EvaluationRecord
from clat.evaluation.statistics import Accuracy, nrr
from clat.studies.row import Paper, Row, Scale, Study
from clat.studies.tables.groups import COLUMNS as GROUP_COLUMNS
from clat.studies.tables.groups import GROUP_CAPTION, difference_text, group_cells, summarise
from clat.training.status import DIED, run_status

COLUMNS = (
    "row", "clean", "robust", "paper", "clean less control", "robust less control", "best robust", "NRR", "moving",
    "time", "passes", "memory",
)  # fmt: skip
WIDE = COLUMNS.index("paper")


def collect(
    study: Study, scale: Scale, rows: Sequence[Row], out: Path, failures: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a study's table as plain data; rows that did not finish are in it without numbers.

    Args:
        study: the study.
        scale: the scale at which it was run.
        rows: the rows to show, in this order.
        out: the study's folder, with `runs/ROW`.
        failures: row -> why it failed in this call; None: none did.

    Returns:
        What table.json holds: the study's settings, an entry for each row and, where there are several seeds, a
        summary for each group. Accuracies are in [0, 1], times in seconds, memory in bytes.
    """
    entries = [_entry(row, out, (failures or {}).get(row.name)) for row in rows]
    control = study.rows(scale, out)[0].name
    _pair_with_control(entries, control, out)
    done = [entry for entry in entries if entry["status"] == "finished"]
    _tell_precisions(done, rows)
    return {
        "study": study.name,
        "title": study.title,
        "scale": scale.name,
        "remark": scale.remark,
        "epochs": scale.epochs,
        "settings": scale.settings,
        "protocol": done[0]["protocol"] if done else None,
        "environment": done[0]["environment"] if done else None,
        "rows": entries,
        "groups": summarise(entries, control) if len(scale.seeds) > 1 else [],
    }


def _entry(row: Row, out: Path, failure: str | None) -> dict[str, Any]:
    run = out / "runs" / row.name
    status = run_status(run)
    entry: dict[str, Any] = {
        "name": row.name,
        "status": "failed" if failure else status if status in (DIED, "running") else "not run",
        "failure": failure,
        "group": row.group or row.name,
        "note": row.note,
        "paper": vars(row.paper) if row.paper else None,
    }
    if status != "finished":
        return entry
    try:
        about, summary = (_json(run / name) for name in ("run.json", "summary.json"))
        last, best = (_measure(row, run, summary, label) for label in ("last", "best"))
    except (OSError, ValueError):
        return entry
    stages = summary["stages"]
    return entry | {
        "status": "finished",
        "failure": None,
        "seed": about["seed"],
        "recipe_hash": about["recipe_hash"],
        "environment": about["environment"],
        "protocol": last.pop("protocol"),
        "last": last,
        "best": {key: value for key, value in best.items() if key != "protocol"},
        "parameters": about["model"]["parameters"],
        "trainable_parameters": stages[-1]["trainable_parameters"],
        "stages": [{key: one[key] for key in ("name", "epochs", "seconds")} for one in stages],
        "seconds": summary["cost"]["seconds"],
        "forwards": summary["cost"]["forwards"],
        "backwards": summary["cost"]["backwards"],
        "peak_memory_bytes": summary["cost"]["peak_memory_bytes"],
        "warnings": summary["warnings"],
    }


def _tell_precisions(done: Sequence[dict[str, Any]], rows: Sequence[Row]) -> None:
    """Add a warning to each finished row that the machine gave another precision than other rows."""
    automatic = {row.name for row in rows if row.recipe.engine.precision == "auto"}
    found = {one["name"]: one["environment"].get("precision") for one in done if one["name"] in automatic}
    most = max(found.values(), key=list(found.values()).count, default=None)
    for entry in done:
        if found.get(entry["name"], most) != most:
            entry["warnings"] = [
                *entry["warnings"],
                f"trained in {found[entry['name']]}, other rows in {most}",
            ]


def _pair_with_control(entries: list[dict[str, Any]], group: str, out: Path) -> None:
    """Set "less_control" of each row: the accuracies of its last weights less those of this group's row of the same
    seed, on the same images; None where that cannot be said."""

    def result(entry: Mapping[str, Any]) -> EvaluationRecord | None:
        file = out / "runs" / entry["name"] / "evaluations" / "last.json"
        return EvaluationRecord.from_json(file) if entry["status"] == "finished" and file.exists() else None

    control = {entry["seed"]: result(entry) for entry in entries if entry["group"] == group and "seed" in entry}
    for entry in entries:
        mine, theirs = result(entry), control.get(entry.get("seed"))
        paired = None
        if entry["group"] != group and mine is not None and theirs is not None:
            paired = differences_where_paired(theirs, mine)
        entry["less_control"] = paired and {kind: one.to_dict() for kind, one in paired.items()}


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def _measure(row: Row, run: Path, summary: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the accuracies of the best or the last weights.

    They are measured on the test split or, where a row leaves that unread, on the held-out images.
    """
    if row.recipe.evaluation.weights == "none":
        monitor, check = row.recipe.monitor, summary[label]
        n = check["heldout_n"]
        clean, robust = (Accuracy(round(check[f"heldout_{kind}"] * n), n).to_dict() for kind in ("clean", "robust"))
        name = f"pgd-{monitor.steps} on held-out images"
        protocol: dict[str, Any] = {"name": name, "hash": "-", "norm": row.recipe.norm, "eps": row.recipe.eps}
    else:
        record = EvaluationRecord.from_json(run / "evaluations" / f"{label}.json")
        clean, robust = (record.data[f"{kind}_accuracy"] for kind in ("clean", "robust"))
        protocol = {**record.setting["protocol"], "norm": record.setting["norm"], "eps": record.eps}
    return {
        "clean": clean,
        "robust": robust,
        "nrr": nrr(clean["value"], robust["value"]),
        "epoch": summary[label]["epoch"],
        "protocol": protocol,
    }


def cells(entry: Mapping[str, Any]) -> list[str]:
    """Return one row as text, a cell for each of COLUMNS.

    Args:
        entry: an entry of a table's `rows`.

    Returns:
        The cells, accuracies in percent; of a row that did not finish, its status and dashes.
    """
    if entry["status"] != "finished":
        why = f"failed: {entry['failure']}" if entry["failure"] else entry["status"]
        return [entry["name"], why, DASH, _printed(entry["paper"]), *[DASH] * (len(COLUMNS) - 4)]
    last, best = entry["last"], entry["best"]
    return [
        entry["name"],
        _measured(last["clean"]),
        _measured(last["robust"]),
        _printed(entry["paper"]),
        *(_difference(entry, kind) for kind in ("clean", "robust")),
        f"{percent(best['robust']['value'])} (epoch {best['epoch']})",
        percent(last["nrr"]),
        count(entry["trainable_parameters"]),
        duration(entry["seconds"]),
        f"{(entry['forwards'] + entry['backwards']) / 1e6:.2f} M",
        memory(entry["peak_memory_bytes"]),
    ]


def _difference(entry: Mapping[str, Any], kind: str) -> str:
    """A paired difference, with its interval; a star where the exact McNemar test gives p < 0.05."""
    paired = (entry.get("less_control") or {}).get(kind)
    star = "*" if paired is not None and paired["p_value"] < 0.05 else ""
    return difference_text(paired) + star


def _measured(accuracy: Mapping[str, Any]) -> str:
    half = 50 * (accuracy["high"] - accuracy["low"])
    return f"{percent(accuracy['value'])} ± {half:.1f}"


def _printed(paper: Mapping[str, Any] | Paper | None) -> str:
    if paper is None:
        return DASH
    values = vars(paper) if isinstance(paper, Paper) else paper
    clean = DASH if values["clean"] is None else f"{values['clean']:.1f}"
    return f"{clean} / {values['robust']:.1f} {values['attack']} ({values['source']})"


def caption(table: Mapping[str, Any]) -> str:
    """Return the meaning of the columns, to stand under every form of the table.

    Args:
        table: what `collect` returned.

    Returns:
        Sentences, beginning with the scale's remark.
    """
    protocol = table["protocol"] or {"name": "robust", "eps": "", "hash": ""}
    setting = setting_text(protocol, protocol.get("norm"), protocol["eps"])
    ns = sorted({row["last"]["clean"]["n"] for row in table["rows"] if row["status"] == "finished"})
    images = "held-out training" if protocol["name"].endswith("held-out images") else "test"
    return (
        f"{table['remark']} Clean and robust accuracy ({setting}, protocol hash {protocol['hash']}) on n = "
        f"{', '.join(map(str, ns)) or '-'} {images} images, with half the width of their 95 % interval, of "
        "the last weights; best: the epoch with the highest robust accuracy on held-out training images. "
        "Less control: image by image, the difference to the study's first row of the same seed, in "
        "points, with its 95 % interval; * where the exact McNemar test gives p < 0.05 for these two networks, "
        "whose own intervals may overlap all the same. "
        "NRR: harmonic mean of clean and robust. Moving: parameters that the last stage trains. "
        "Time and passes (samples through the network, forward and backward): the whole run, with selections, "
        "checks and the stage that it took over. Paper: as printed, clean / robust, at the paper's own budget, eps "
        "and metric, so not comparable line by line."
    )


def rich_table(table: Mapping[str, Any]) -> RichTable:
    """Return the table for a terminal: the columns that fit one.

    Args:
        table: what `collect` returned.

    Returns:
        A table to print.
    """
    shown = RichTable(title=f"{table['title']} ({table['scale']})", caption=table["remark"])
    narrow = [COLUMNS.index(name) for name in ("row", "clean", "robust", "best robust", "moving", "time")]
    for position in narrow:
        shown.add_column(COLUMNS[position], justify="right" if position else "left", no_wrap=position > 0)
    for entry in table["rows"]:
        texts = cells(entry)
        if entry["failure"]:
            texts[1] = "failed"  # why was said in a line of its own, and would leave the other columns no room
        shown.add_row(*(texts[position] for position in narrow))
    return shown


def markdown(table: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with its caption, its notes and what training warned of.

    Args:
        table: what `collect` returned.

    Returns:
        The text of table.md.
    """
    body = markdown_table(COLUMNS, [cells(entry) for entry in table["rows"]])
    notes = [f"- {entry['name']}: {entry['note']}" for entry in table["rows"] if entry["note"]]
    warned = [f"- {entry['name']}: {text}" for entry in table["rows"] for text in entry.get("warnings", ())]
    parts = [f"# {table['title']} ({table['scale']})"]
    if table["groups"]:
        parts += [GROUP_CAPTION, markdown_table(GROUP_COLUMNS, [group_cells(one) for one in table["groups"]])]
    parts += [caption(table), body]
    parts += ["\n".join(["Notes:", "", *notes])] if notes else []
    parts += ["\n".join(["Warnings during training:", "", *warned])] if warned else []
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return cells as a Markdown table.

    Args:
        columns: the header.
        rows: cells, as many in each row as there are columns; a bar inside is escaped.

    Returns:
        The table, without a line's end after it.
    """
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write_table(table: Mapping[str, Any], out: Path) -> None:
    """Write table.json and table.md.

    Args:
        table: what `collect` returned.
        out: the study's folder.
    """
    write_json(out / "table.json", dict(table))
    write_text(out / "table.md", markdown(table))
