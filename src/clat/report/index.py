"""Many runs as one page: a table that sorts and filters, their accuracies as a plot, what differs between them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from clat.core.errors import ClatError
from clat.core.files import write_text
from clat.core.formatting import SPACE, count, duration, interval, number, percent
from clat.evaluation.result import EvaluationRecord, RecordedAccuracy
from clat.report.page import environment, style_sheet, tell_apart, write_report
from clat.report.reading import read_run
from clat.report.recipe_differences import recipe_differences
from clat.report.records import Run, part, text
from clat.report.scatter import ScatterPoint, scatter_plot

MARK = '<meta name="generator" content="clat report">'
"""What tells an index from other people's pages."""
_WRITTEN = ("run.json", "summary.json", "metrics.jsonl", "gallery.json")


class IndexCell(NamedTuple):
    """A cell of the table: what is shown, what it is sorted by, and what stands below it in small letters."""

    text: str
    sort: str | float
    small: str = ""


COLUMNS = ("Clean", "Robust", "Method", "Model", "Data", "Epochs", "Time", "Measured by", "Status")
NUMERIC = ("Clean", "Robust", "Epochs", "Time")


def write_index(run_dirs: Sequence[Path], out: Path | None = None) -> tuple[Path, list[str]]:
    """Write a page over many runs. Pages of the runs that are missing or out of date are drawn first.

    Args:
        run_dirs: folders that `clat train` or `clat harden` wrote; what is no run is left out.
        out: the file; None: index.html in the folder that holds all runs. An older index is replaced.

    Returns:
        The page's path, and a line for each argument that was left out.

    Raises:
        ClatError: fewer than two are runs, the file is somebody else's, or it cannot be written.
    """
    runs, left_out = [], []
    for folder in dict.fromkeys(path.resolve() for path in run_dirs):
        try:
            runs.append(read_run(folder))
        except ClatError as error:
            left_out.append(str(error))
    if len(runs) < 2:
        why = "; ".join(left_out) or "the same folder was given twice"
        raise ClatError(f"an index takes two runs or more: {why}")
    target = _place(runs) if out is None else Path(out)
    if target.is_file() and MARK not in target.read_text(encoding="utf-8", errors="replace"):
        raise ClatError(f"{target} is no index of clat's and is not overwritten: name another file with --out")
    for run in runs:
        try:
            if not _is_current(run.path):
                write_report(run.path)
        except ClatError as error:  # of a folder that may only be read; its row and point stand without a link
            left_out.append(str(error))
    write_text(target, render_index(runs, target.resolve().parent, left_out))
    return target, left_out


def render_index(runs: Sequence[Run], folder: Path, left_out: Sequence[str] = ()) -> str:
    """Return the page as HTML text.

    Args:
        runs: at least two; those that share a name are renamed.
        folder: where the page will lie, from which its links lead.
        left_out: lines on what is not on it.

    Returns:
        The page, with its style, script and plot inside.
    """
    tell_apart(runs)
    script = (Path(__file__).parent / "index.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pages = [_page(run, folder) for run in runs]
    measured = _measured([run.end for run in runs])
    points = [
        ScatterPoint(place, run.name, page, end.clean_accuracy, end.robust_accuracy, how)
        for place, (run, page, how) in enumerate(zip(runs, pages, measured, strict=True), start=1)
        if (end := run.end) is not None and end.clean_accuracy is not None and end.robust_accuracy is not None
    ]
    return (
        environment()
        .get_template("index.html")
        .render(
            mark=Markup(MARK),
            style=style_sheet("style", "index"),
            script=Markup(script),
            policy=Markup(f"script-src 'sha256-{digest}'"),
            runs=list(zip(runs, pages, map(_cells, runs, measured), strict=True)),
            columns=COLUMNS,
            numeric=NUMERIC,
            plot=scatter_plot(points),
            settings=len({point.measured for point in points}),
            missing=len(runs) - len(points),
            differences=recipe_differences([run.recipe for run in runs]),
            left_out=left_out,
        )
    )


def _cells(run: Run, measured: str) -> dict[str, IndexCell]:
    """Return the cells of a run's row, in the order of COLUMNS."""
    end, seconds = run.end, number(part(run.summary, "cost").get("seconds"))
    stages = run.recipe.get("stages") or [{"name": stage.name} for stage in run.stages]
    epochs = run.epochs[-1]["epoch"] if run.epochs else None
    plain = {
        "Method": " + ".join(str(stage.get("name", "?")) for stage in stages),
        "Model": text(run.info, "model", "name") or text(run.recipe, "model", "name") or "",
        "Data": text(run.info, "data", "name") or text(run.recipe, "data", "name") or "",
        "Measured by": measured,
        "Status": run.status,
    }
    cells = {name: IndexCell(value or "–", value.lower()) for name, value in plain.items()}
    cells |= {
        "Clean": _accuracy(None if end is None else end.clean_accuracy),
        "Robust": _accuracy(None if end is None else end.robust_accuracy),
        "Epochs": IndexCell(count(epochs), -1 if epochs is None else epochs),
        "Time": IndexCell(duration(seconds), -1 if seconds is None else seconds),
    }
    return {name: cells[name] for name in COLUMNS}


def _accuracy(accuracy: RecordedAccuracy | None) -> IndexCell:
    if accuracy is None:
        return IndexCell(percent(None), -1)
    small = interval(accuracy.low, accuracy.high) if accuracy.low is not None else ""
    return IndexCell(percent(accuracy.value), accuracy.value, small)


def _measured(ends: Sequence[EvaluationRecord | None]) -> list[str]:
    """Return what each result must share with another to compare with it, in words: protocol, radius, data and
    number of images, and the first digits of the protocol's and the images' hashes where the words do not tell
    results apart that they do."""
    words = ["" if end is None else _setting_in_words(end) for end in ends]
    found = list(words)
    for name, kept in (("protocol hash", "protocol_hash"), ("image hash", "images")):
        digests = [None if end is None else getattr(end, kept) for end in ends]
        for place, digest in enumerate(digests):
            alike = {other for word, other in zip(words, digests, strict=True) if word == words[place]}
            if digest is not None and len(alike - {None}) > 1:
                found[place] += f", {name} {digest[:6]}"
    return found


def _setting_in_words(end: EvaluationRecord) -> str:
    split = "/".join(name for key in ("name", "split") if (name := end.text("data", key)))
    radius = f" at {end.ball}" if end.ball else ""
    n = end.setting["n"]
    images = f"n{SPACE}={SPACE}{count(int(n))}" if str(n).isdigit() else ""
    return ", ".join(one for one in (f"{end.protocol}{radius}", split, images) if one)


def _page(run: Run, folder: Path) -> str:
    """Return the address of a run's page from a folder, as a link; "" where there is none."""
    if not (run.path / "report.html").is_file():
        return ""
    return quote(Path(os.path.relpath(run.path / "report.html", folder)).as_posix())


def _place(runs: Sequence[Run]) -> Path:
    above = Path(os.path.commonpath([run.path.parent for run in runs]))
    if above == Path(above.anchor):
        raise ClatError("the runs have no folder in common: name the file of the index with --out")
    return above / "index.html"


def _is_current(folder: Path) -> bool:
    """Return whether a run's page is newer than all that it is drawn from."""
    page = folder / "report.html"
    files = [folder / name for name in _WRITTEN] + [*(folder / "evaluations").glob("*.json")]
    newest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return page.exists() and page.stat().st_mtime >= newest
