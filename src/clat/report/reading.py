"""A run folder read into plain records, tolerantly: what is absent or torn becomes a notice, no failure."""

from __future__ import annotations

import re
from pathlib import Path

from clat.core.errors import ClatError
from clat.core.parsing import parse_json, parse_toml
from clat.evaluation.gallery import Gallery
from clat.evaluation.result import EvaluationRecord
from clat.report.records import Json, Run, Stage, listed, part, series, text
from clat.training.status import run_status


def read_run(path: Path) -> Run:
    """Read a run folder, tolerantly: a missing or damaged file becomes a notice.

    Args:
        path: a folder that `clat train` wrote.

    Returns:
        The run.

    Raises:
        ClatError: If the folder is not there, or is no run at all.
    """
    if not path.is_dir():
        raise ClatError(f"no run folder at '{path}'; give the folder that `clat train` wrote")
    if not any((path / name).is_file() for name in ("run.json", "metrics.jsonl")):
        raise ClatError(
            f"'{path}' is no run: it holds neither run.json nor metrics.jsonl; "
            "give the folder that `clat train` wrote"
        )
    run = Run(path)
    _read_recipe(run)
    run.info = _read_json(run, "run.json", "so status, environment and command are not known")
    if (status := run_status(path, run.info)) is not None:
        run.info["status"] = status
    run.summary = _read_json(run, "summary.json", "so costs and best epoch are taken from metrics.jsonl")
    _sort_events(run, _read_lines(run))
    _read_criticality(run)
    _read_evaluations(run)
    _read_gallery(run)
    if (run.path / "masking.json").exists():
        run.masking = _read_json(run, "masking.json") or {}
    return run


def _read_recipe(run: Run) -> None:
    try:
        run.recipe_text = (run.path / "recipe.toml").read_text(encoding="utf-8")
        run.recipe = parse_toml(run.recipe_text)
    except FileNotFoundError:
        run.notices.append("recipe.toml is missing, so the recipe cannot be shown.")
    except (OSError, ValueError) as error:
        run.notices.append(f"recipe.toml could not be read ({error}).")


def _read_json(run: Run, name: str, consequence: str = "so it is left out") -> Json:
    try:
        record = parse_json((run.path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.notices.append(f"{name} is missing, {consequence}.")
        return {}
    except (OSError, ValueError) as error:
        run.notices.append(f"{name} could not be read ({error}), {consequence}.")
        return {}
    if not isinstance(record, dict):
        run.notices.append(f"{name} does not hold a JSON object, {consequence}.")
        return {}
    return record


def _read_lines(run: Run) -> list[Json]:
    """Read the records of metrics.jsonl. A run killed while writing leaves a torn line: skipped, and said."""
    try:
        lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        run.notices.append("metrics.jsonl is missing, so there are no training curves.")
        return []
    records, torn = [], []
    for position, line in enumerate(lines, start=1):
        try:
            record = parse_json(line) if line.strip() else None
        except ValueError:
            torn.append(position)
            continue
        if isinstance(record, dict):
            records.append(record)
    if torn:
        run.notices.append(f"metrics.jsonl: unreadable and skipped line {', '.join(map(str, torn))}.")
    return records


def _sort_events(run: Run, records: list[Json]) -> None:
    """Sort events by kind. A resumed run repeats the epochs it redid: the later record counts."""
    epochs: dict[int, Json] = {}
    stages: dict[int, Json] = {}
    for record in records:
        event, epoch, stage = record.get("event"), record.get("epoch"), record.get("stage")
        if event == "epoch" and isinstance(epoch, int):
            epochs[epoch] = {**record, "parts": part(record, "parts")}
        elif event == "stage" and isinstance(stage, int):
            stages[stage] = record
        elif event == "selection" and isinstance(epoch, int):
            run.selections[epoch] = record
        elif event == "warning" and record not in run.warnings:
            run.warnings.append(record)
    for extra in listed(run.summary, "warnings"):
        warning = extra if isinstance(extra, dict) else {"message": str(extra)}
        if all(warning.get("message") != known.get("message") for known in run.warnings):
            run.warnings.append(warning)
    for note in listed(run.info, "notes"):
        run.warnings.append({"kind": "note", "message": str(note)})
    run.epochs = [epochs[epoch] for epoch in sorted(epochs)]
    run.selections = dict(sorted(run.selections.items()))
    summaries = [one if isinstance(one, dict) else {} for one in listed(run.summary, "stages")]
    run.stages = _stages(run.epochs, stages, summaries)


def _stages(epochs: list[Json], events: dict[int, Json], summaries: list[Json]) -> list[Stage]:
    """Return the stages that trained at least one epoch, each with all that events and summary say of it."""
    spans: dict[int, list[Json]] = {}
    for record in epochs:
        spans.setdefault(record["stage"] if isinstance(record.get("stage"), int) else 0, []).append(record)
    stages = []
    for index, span in sorted(spans.items()):
        speeds = series(span, "images_per_second")[1]
        counted: Json = {
            "epochs": len(span),
            "seconds": sum(series(span, "train_seconds")[1]) or None,
            "images_per_second": sum(speeds) / len(speeds) if speeds else None,
        }
        summary = summaries[index] if index < len(summaries) else {}
        raw = {**counted, **events.get(index, {}), **summary, "epochs": len(span)}
        name = text(raw, "name") or text(span[0], "stage_name") or f"stage {index + 1}"
        stages.append(Stage(index + 1, name, span[0]["epoch"], span[-1]["epoch"], raw))
    return stages


def _read_criticality(run: Run) -> None:
    for path in sorted((run.path / "criticality").glob("epoch-*.json")):
        epoch = re.fullmatch(r"epoch-(\d+)", path.stem)
        report = _read_json(run, f"criticality/{path.name}") if epoch else {}
        rows = listed(report, "rows")
        if rows and not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
            run.notices.append(f"criticality/{path.name} holds a row that is none, so it is left out.")
        elif epoch and rows:
            found = run.rankings if report.get("what") == "ranking" else run.criticality
            found[int(epoch[1])] = report


def _read_evaluations(run: Run) -> None:
    found = []
    for path in sorted((run.path / "evaluations").glob("*.json")):
        raw = _read_json(run, f"evaluations/{path.name}")
        if raw.get("what", "evaluation") == "evaluation" and raw:
            if "per_attack" in raw:
                raw["per_attack"] = [one for one in listed(raw, "per_attack") if isinstance(one, dict)]
            found.append(EvaluationRecord.from_dict(raw, path.stem))
    if not found:
        run.notices.append("evaluations/ holds no result, so there is no accuracy on the test split.")
    run.evaluations = sorted(found, key=lambda one: _evaluation_order(one.label))


def _read_gallery(run: Run) -> None:
    """Pictures, which a hardening keeps, are missed nowhere else."""
    if not (run.path / "gallery.json").exists():
        return
    raw = _read_json(run, "gallery.json")
    try:
        run.gallery = Gallery.from_dict(raw) if raw else None
    except ClatError as error:
        run.notices.append(f"gallery.json holds {error}, so there are no pictures.")


def _evaluation_order(label: str) -> tuple[int, int, str]:
    """Return the key that sorts results: before training, after each stage, best, last, and the rest."""
    stage = re.fullmatch(r"stage-(\d+)", label)
    if stage:
        return (0, int(stage[1]), label)
    return ({"before": -1, "best": 1, "last": 2, "after": 3}.get(label, 4), 0, label)
