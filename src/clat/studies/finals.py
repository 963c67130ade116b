"""A study's rows under any protocol: on held-out images, to choose by, and the chosen ones on the test split, once.

While a row trains it is judged by PGD on the cross-entropy, which need not be the attack that hurts it most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from clat.core.console import Table as RichTable
from clat.core.errors import ClatError
from clat.core.files import write_json, write_text
from clat.evaluation import find_protocol
from clat.evaluation.compare import compare
from clat.evaluation.protocols import FORMER, setting_text
from clat.evaluation.result import EvaluationRecord
from clat.evaluation.statistics import PairedSeeds, SeedSummary
from clat.recipe.toml import read_recipe
from clat.runtime.jobs.job import JobPlace
from clat.studies.beside import run_jobs_shown
from clat.studies.collect import markdown_table
from clat.studies.measurement import Measurement, measurement_job
from clat.studies.row import Row, named
from clat.studies.row_words import finished
from clat.studies.run import check_recipe
from clat.studies.tables.groups import ACCURACIES, paired_texts, spread_text

WEIGHTS = ("last", "best")
COLUMNS = ("row", "weights", "seeds", "clean", "robust", "clean less control", "robust less control")


FOLDERS = {"test": "finals", "heldout": "judged"}
"""Images -> the folder, in the study's, of what was measured on them."""
SPLITS = {"test": "test", "heldout": "held-out"}


def run_finals(
    rows: Sequence[Row],
    out: Path,
    console: Console,
    *,
    names: Sequence[str] = (),
    protocol: str,
    num_samples: int | None,
    precision: str,
    split: str = "test",
    place: JobPlace | None = None,
) -> dict[str, Any]:
    """Evaluate a study's finished rows under any protocol, going on where an earlier call was stopped.

    Evaluated are the last weights and, of the study's first group, the control, the best weights too (early
    stopping). The control is measured with the seeds of the rows asked for. The table also shows the rows that were
    so measured before; of which that no longer holds, a line says so. Writes PROTOCOL/ROW-WEIGHTS.json,
    PROTOCOL.json and PROTOCOL.md in the folder `finals` (test) or `judged` (heldout).

    Args:
        rows: all rows of the study, with every seed, the control first.
        out: the study's folder.
        console: where each result is printed.
        names: rows or groups to evaluate; none: all.
        protocol: name of a protocol.
        num_samples: images, a sample of the split; None: all.
        precision: of the searches: float32 or bfloat16.
        split: "test", or "heldout" for those of the training images that no row has seen.
        place: where networks are attacked beside one another; None: here, one after the other.

    Returns:
        The table: accuracies of each group in [0, 1], with deviations and differences to the control.

    Raises:
        ClatError: If a row has not finished, a result is there that was measured otherwise, or a network cannot be
            measured.
        KeyboardInterrupt: If a job was asked to stop.
    """
    asked = find_protocol(protocol)
    folder = out / FOLDERS[split] / _folder_of(asked.name, out / FOLDERS[split])
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"protocol": asked.hash, "num_samples": num_samples, "precision": precision}
    control = rows[0].group

    def results(of: Sequence[Row]) -> list[tuple[Row, str, Path]]:
        pairs = [(row, one) for row in of for one in (WEIGHTS if row.group == control else WEIGHTS[:1])]
        return [(row, weights, folder / f"{row.name}-{weights}.json") for row, weights in pairs]

    def measurement(row: Row, weights: str, file: Path) -> Measurement:
        return measurement_of(row, out, weights, file, protocol, num_samples, precision, split)

    def checked(one: Measurement) -> EvaluationRecord:
        found = one.result()
        if otherwise := _otherwise(found, **settings):
            raise ClatError(f"{one.file} was measured with {otherwise}: ask for the same, or move the file away")
        return found

    wanted = {file: (row, weights) for row, weights, file in results(_to_measure(rows, names, out))}
    for row, _ in wanted.values():
        check_recipe(row, out)
    measurements = {file: measurement(*one, file) for file, one in wanted.items()}
    missing = {file: one for file, one in measurements.items() if not file.exists()}
    if place is not None and missing:
        _measure_beside(missing, out, place, console)
    records: dict[Path, EvaluationRecord] = {}
    for file, (row, weights) in wanted.items():
        measurements[file].measure()
        records[file] = checked(measurements[file])
        clean, robust = (_share(records[file], kind) for kind in ACCURACIES)
        console.print(f"{row.name}, {weights}: clean {clean:.1%}, robust {robust:.1%}")
    for row, weights, file in results(rows):
        if file not in wanted and file.exists():
            try:
                check_recipe(row, out)
                records[file] = checked(measurement(row, weights, file))
            except ClatError as error:
                console.print(f"{row.name}, {weights}: left out: {error}", soft_wrap=True)
    entries = [
        {"group": row.group, "weights": weights, "seed": row.recipe.seed, "result": records[file]}
        for row, weights, file in results(rows)
        if file in records
    ]
    return _write(entries, control, asked.name, num_samples, split, out / FOLDERS[split])


def _to_measure(rows: Sequence[Row], names: Sequence[str], out: Path) -> list[Row]:
    """Return the rows called `names`, and their seeds of the control as far as it has finished."""
    asked = named(rows, names)
    for row in asked:
        if not finished(out / "runs" / row.name):
            raise ClatError(f"the row {row.name} has not finished: run it first, or leave it out of --rows")
    seeds = {row.recipe.seed for row in asked}
    beside = [row for row in rows if row.group == rows[0].group and row.recipe.seed in seeds]
    wanted = {row.name for row in asked} | {row.name for row in beside if finished(out / "runs" / row.name)}
    return [row for row in rows if row.name in wanted]


def measurement_of(
    row: Row,
    out: Path,
    weights: str,
    file: Path,
    protocol: str,
    num_samples: int | None,
    precision: str,
    split: str,
) -> Measurement:
    """Return a row's measurement, under the threat model of its recipe, with the seed of all its final numbers.

    Args:
        row: the row, whose run has finished; a copy of results without runs has the study's recipe.
        out: the study's folder.
        weights: last or best.
        file: where the result goes.
        protocol: a protocol's name.
        num_samples: images, a sample of the split; None: all.
        precision: of the searches.
        split: "test" or "heldout".

    Returns:
        The measurement, its paths absolute.
    """
    run = out / "runs" / row.name
    trained = run / "recipe.toml"
    recipe = read_recipe(trained) if trained.exists() else row.recipe
    return Measurement(
        run=str(run.absolute()),
        file=str(file.absolute()),
        protocol=protocol,
        eps=str(recipe.eps),
        norm=recipe.norm,
        weights=weights,
        split=split,
        num_samples=num_samples,
        precision=precision,
        channels_last=recipe.engine.channels_last,
        about={"label": f"{run.name}, {weights}", "num_samples": num_samples},
    )


def _measure_beside(what: Mapping[Path, Measurement], out: Path, place: JobPlace, console: Console) -> None:
    """Measure beside one another what is missing; one that fails is an error when all others have ended."""
    logs = out.absolute() / "logs"
    logs.mkdir(exist_ok=True)
    jobs = [
        measurement_job(
            one,
            read_recipe(Path(one.run) / "recipe.toml"),
            log=logs / f"{file.parent.parent.name}-{file.parent.name}-{file.stem}.log",
        )
        for file, one in what.items()
    ]
    failures = run_jobs_shown(jobs, place, console)
    if failures:
        name, failure = next(iter(failures.items()))
        raise ClatError(f"{name}: {failure}")


def _share(record: EvaluationRecord, kind: str) -> float:
    """Return the clean or the robust accuracy, in [0, 1]."""
    accuracy = record.clean_accuracy if kind == "clean" else record.robust_accuracy
    if accuracy is None:
        raise ClatError(f"{record.name} holds no {kind} accuracy: move the file away, to measure again")
    return accuracy.value


def _otherwise(found: EvaluationRecord, **settings: Any) -> str:
    """Return what differs between a result that is there and what was asked for; empty if nothing does."""
    held = {
        "protocol": found.protocol_hash,
        "num_samples": found.data.get("num_samples"),
        "precision": found.text("precision"),
    }
    return ", ".join(f"{name} {value}" for name, value in held.items() if value != settings[name])


def _folder_of(protocol: str, beside: Path) -> str:
    """Return the name of a protocol's folder, which is its former one where results lie there."""
    former = [old for old, new in FORMER.items() if new == protocol and (beside / old).is_dir()]
    return former[0] if former else protocol


def _write(
    entries: Sequence[Mapping[str, Any]],
    control: str,
    protocol: str,
    num_samples: int | None,
    split: str,
    folder: Path,
) -> dict[str, Any]:
    groups: dict[tuple[str, str], dict[int, EvaluationRecord]] = {}
    for entry in entries:
        groups.setdefault((entry["group"], entry["weights"]), {})[entry["seed"]] = entry["result"]
    base = groups.get((control, "last"), {})
    summaries = [_summary(*key, results, {} if results is base else base) for key, results in groups.items()]
    table = {
        "what": "finals",
        "protocol": protocol,
        "split": split,
        "num_samples": num_samples,
        "setting": entries[0]["result"].setting if entries else None,
        "groups": summaries,
    }
    write_json(folder / f"{protocol}.json", table)
    body = markdown_table(COLUMNS, [cells(one) for one in summaries])
    write_text(folder / f"{protocol}.md", f"# {_title(table)}\n\n{_caption(table)}\n\n{body}\n")
    return table


def _title(table: Mapping[str, Any]) -> str:
    """Return the protocol with its ball, and the images, as the results have them."""
    measured = table["setting"]
    if measured is None:
        return find_protocol(table["protocol"]).title
    images = f"{measured['n']} {SPLITS[table['split']]} images of {measured['data']['name']}"
    return f"{setting_text(measured['protocol'], measured['norm'], measured['eps'])}, on {images}"


def _caption(table: Mapping[str, Any]) -> str:
    """Return the meaning of the columns."""
    measured = table["setting"]
    return (
        "Mean over the seeds ± their deviation; less control: seed by seed, in points, in brackets the 95 % t "
        "interval over the seeds." + (f" Protocol hash {measured['protocol']['hash']}." if measured else "")
    )


def _summary(
    name: str, weights: str, results: Mapping[int, EvaluationRecord], base: Mapping[int, EvaluationRecord]
) -> dict[str, Any]:
    """Return one group's accuracies beside the control's.

    `base`: the control's results by seed, none for the control itself. Beside the t test on seeds, which asks
    whether the method differs, stands each pair of networks on the same images (McNemar), which asks whether these
    two do.
    """
    found: dict[str, Any] = {"name": name, "weights": weights, "seeds": list(results)}
    pairs = {seed: compare(base[seed], results[seed]).differences for seed in results if seed in base}
    for kind in ACCURACIES:
        values = tuple(_share(result, kind) for result in results.values())
        found[kind] = SeedSummary(values).to_dict()
        if pairs:
            differences = [pair[kind] for pair in pairs.values()]
            found[f"{kind}_less_control"] = PairedSeeds(tuple(one.value for one in differences)).to_dict()
            found[f"{kind}_by_seed"] = [one.to_dict() for one in differences]
    return found


def cells(group: Mapping[str, Any]) -> list[str]:
    """Return one group as text, a cell for each of COLUMNS.

    Args:
        group: an entry of the `groups` that `run_finals` returned.

    Returns:
        The cells, accuracies in percent, differences in points.
    """
    return [
        group["name"],
        group["weights"],
        str(len(group["seeds"])),
        *(spread_text(group[kind]) for kind in ACCURACIES),
        *paired_texts(group),
    ]


def finals_table(table: Mapping[str, Any]) -> RichTable:
    """Return the groups as a table for a terminal.

    Args:
        table: what `run_finals` returned.

    Returns:
        A table to print.
    """
    shown = RichTable(title=_title(table), caption=_caption(table))
    for position, name in enumerate(COLUMNS):
        shown.add_column(name, justify="left" if position < 2 else "right", overflow="fold")
    for group in table["groups"]:
        shown.add_row(*(text.replace(" [", "\n[") for text in cells(group)))
    return shown
