"""One run as one HTML file that opens anywhere: no script, no request, every plot and picture inside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from clat.core import formatting
from clat.core.errors import ClatError
from clat.evaluation.gallery import kinds_of
from clat.evaluation.masking.report import signs_in_words
from clat.evaluation.record import notes_of
from clat.report.classes import ClassSection, class_section
from clat.report.outcome import evaluation_before, other_images, outcome, overfitting
from clat.report.reading import read_run
from clat.report.records import Json, Run, listed, part, text
from clat.report.run_plots import moment_name, run_plots

MARK = '<p class="kicker">CLAT report</p>'
"""What tells a run's page, and an index, from other people's files; no name in a page can spell it."""

FILTERS = ("percent", "interval", "count", "duration", "memory", "significant", "shorten")


def write_report(run_dir: Path, *, against: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Write the page of a run, beside it or to `out`.

    The page depends on the folders' contents alone: written twice, it is the same to the bit. It replaces an older
    page only once it is complete.

    Args:
        run_dir: a folder that `clat train` wrote; the run may be unfinished.
        against: folders of runs to compare with.
        out: the file to write; None: `report.html` in `run_dir`. An older page is replaced, no other file.

    Returns:
        The path of the page.

    Raises:
        ClatError: If a folder holds no run, the file is no page of clat, or the page cannot be written.
    """
    target = Path(out) if out is not None else Path(run_dir) / "report.html"
    if target.is_file() and MARK not in target.read_text(encoding="utf-8", errors="replace"):
        raise ClatError(f"{target} exists already and is no page of clat: name another file")
    page = render(read_run(Path(run_dir)), [read_run(Path(other)) for other in against])
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise ClatError(f"cannot write the page '{target}' ({error.strerror}); choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def render(run: Run, others: Sequence[Run] = ()) -> str:
    """Return the page of a run as HTML text.

    Args:
        run: the run; it is renamed if another run has the same name, and so are the others.
        others: runs to compare with.

    Returns:
        The page, with its style and plots inside.
    """
    runs = [run, *others]
    tell_apart(runs)
    return (
        environment()
        .get_template("page.html")
        .render(
            run=run,
            others=others,
            style=style_sheet("style", "pictures"),
            outcome=outcome(run, others),
            masking=signs_in_words(run.masking, None if run.end is None else run.end.text("protocol", "name")),
            facts=_facts(run),
            gaps=[(one, overfitting(one)) for one in runs],
            evaluations=[
                (one, evaluation, moment_name(one, evaluation)) for one in runs for evaluation in one.evaluations
            ],
            notes=notes_of(
                {
                    f"{one.name}, {moment_name(one, evaluation)}"
                    if others
                    else moment_name(one, evaluation): evaluation
                    for one in runs
                    for evaluation in one.evaluations
                }
            ),
            costs=[(one, _cost_rows(one)) for one in runs],
            protocols=_protocols(runs),
            notices=[(one, notice) for one in runs for notice in one.notices],
            selections=_selection_rows(run),
            plots=run_plots(run, others),
            by_class=_by_class(run),
            kinds=None if run.gallery is None else kinds_of(run.gallery),
            cost_cells=_cost_cells,
            text=text,
            dump=lambda value: json.dumps(value, ensure_ascii=False),
        )
    )


def environment(folder: str = "report") -> jinja2.Environment:
    """Return the Jinja2 environment of a folder's templates, with the filters that write numbers.

    Args:
        folder: a subfolder of the package `clat` that holds templates.

    Returns:
        The environment; it escapes HTML, and an undefined name in a template is an error.
    """
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("clat", folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters.update({name: getattr(formatting, name) for name in FILTERS})
    return found


def style_sheet(*names: str) -> Markup:
    """Return style sheets, to stand inside a page.

    Args:
        names: of the files in this folder, without .css; none: the style of every page.

    Returns:
        The CSS, marked as safe.
    """
    files = [Path(__file__).parent / f"{name}.css" for name in names or ("style",)]
    return Markup("".join(file.read_text(encoding="utf-8") for file in files))


def tell_apart(runs: Sequence[Run]) -> None:
    """Rename runs that share a name: the folder is added to it, and a number where that is not enough.

    Args:
        runs: changed in place.
    """
    names = [run.name for run in runs]
    full = [f"{run.name} ({run.path.resolve().name})" for run in runs]
    for i, run in enumerate(runs):
        if names.count(names[i]) > 1:
            unique = full.count(full[i]) == 1
            run.recipe = {**run.recipe, "name": full[i] if unique else f"{full[i]} #{i + 1}"}


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return what was trained on what, for the line under the title."""
    parameters = part(run.info, "model").get("parameters")
    total = parameters or (run.stages[-1].raw.get("total_parameters") if run.stages else None)
    trained = run.stages[-1].raw.get("trainable_parameters") if run.stages else None
    share = f"{formatting.count(trained)} of {formatting.count(total)}" if trained and total else None
    seed = text(run.info, "seed") or text(run.recipe, "seed")
    known = {
        "Model": text(run.info, "model", "name") or text(run.recipe, "model", "name"),
        "Data": text(run.info, "data", "name") or text(run.recipe, "data", "name"),
        "Norm": text(run.recipe, "norm"),
        "eps": text(run.recipe, "eps"),
        "Epochs": str(run.epochs[-1]["epoch"]) if run.epochs else None,
        "Trained in the last stage": share,
        "Seed": seed,
        "Status": run.status,
    }
    return [(name, value) for name, value in known.items() if value]


def _by_class(run: Run) -> ClassSection | None:
    """Return the end class by class, beside where it came from."""
    ends = [one for one in (evaluation_before(run), run.end) if one is not None]
    alike = len({str(one.setting) for one in ends}) == 1 and not other_images(ends[0], ends[-1])
    comparable = ends if alike else ends[-1:]
    return class_section([(moment_name(run, one), one) for one in comparable])


def _cost_rows(run: Run) -> list[tuple[str, Json]]:
    """Return stages, their total, and what the tests cost; columns that nobody recorded stay empty."""
    rows: list[tuple[str, Json]] = [(f"{stage.number} · {stage.name}", stage.raw) for stage in run.stages]
    whole = part(run.summary, "cost")
    if rows:
        seconds = [formatting.number(raw.get("seconds")) or 0.0 for _, raw in rows]
        epochs = sum(stage.last - stage.first + 1 for stage in run.stages)
        rows.append(("training in all", {"seconds": sum(seconds) or None, **whole, "epochs": epochs}))
    return rows + [
        (f"test: {e.label}", e.data["cost"]) for e in run.evaluations if isinstance(e.data.get("cost"), dict)
    ]


def _cost_cells(raw: Json) -> list[tuple[str, str]]:
    """Return what the table of costs says of a stage: column and text."""
    kinds = {
        "Epochs": ("epochs", formatting.count),
        "Time": ("seconds", formatting.duration),
        "Images/s": ("images_per_second", formatting.count),
        "Trained parameters": ("trainable_parameters", formatting.count),
        "Forwards": ("forwards", formatting.count),
        "Backwards": ("backwards", formatting.count),
        "Peak memory": ("peak_memory_bytes", formatting.memory),
    }
    return [(column, write(raw.get(key))) for column, (key, write) in kinds.items()]


def _protocols(runs: Sequence[Run]) -> list[Json]:
    """Return each protocol once, with the hash that says two results were measured alike."""
    found: dict[tuple[str | None, ...], Json] = {}
    for one in (evaluation for run in runs for evaluation in run.evaluations):
        found.setdefault(
            (one.protocol, one.protocol_hash, one.ball),
            {**part(one.data, "protocol"), "name": one.protocol, "ball": one.ball},
        )
    return list(found.values())


def _selection_rows(run: Run) -> list[tuple[int, Json, list[str]]]:
    return [(epoch, one, [str(name) for name in listed(one, "layers")]) for epoch, one in run.selections.items()]
