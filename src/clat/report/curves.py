"""Plots of accuracy: intervals on the test split, and held-out accuracy and loss over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clat.core.formatting import number, percent, shorten
from clat.evaluation.result import EvaluationRecord, RecordedAccuracy
from clat.report.plots import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, styled
from clat.report.records import ENDS, Json, Run, moment, series
from clat.report.widths import figure_width, is_narrow, text_size

DASHES = [(0, (4, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5))]
BANDS = ("#f5f7f9", "#ebeff3")


@styled()
def accuracy_intervals(rows: Sequence[tuple[str, bool, EvaluationRecord]]) -> Figure:
    """Draw clean and robust accuracy side by side, a dot with its 95 % interval for each evaluation.

    The interval of the run's own last weights is shaded through the whole panel, to read the others against.

    Args:
        rows: (label, whether it belongs to the page's own run, evaluation), from top to bottom; own ones are filled
            dots, those of runs to compare with hollow.

    Returns:
        The figure, accuracies in percent.
    """
    below = is_narrow()  # on a phone one panel stands below the other
    labels = [_row_label(label) for label, _, _ in rows]
    height = (0.4 if any("\n" in label for label in labels) else 0.27) * len(rows) + 0.75
    figure = Figure(figsize=(figure_width(), (1 + below) * height), layout="constrained")
    panels = figure.subplots(*((2, 1) if below else (1, 2)), sharey=True)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    for axes, name, hue in zip(panels, ("clean", "robust"), (BLUE, ORANGE), strict=True):
        for height, (_, own, evaluation) in enumerate(rows):
            accuracy = evaluation.clean_accuracy if name == "clean" else evaluation.robust_accuracy
            if accuracy is not None:
                _dot(axes, accuracy, height, hue, own)
        reference = next((e for _, own, e in rows if own and e.label in ENDS), None)
        target = reference and (reference.clean_accuracy if name == "clean" else reference.robust_accuracy)
        if target and target.low is not None and target.high is not None:
            axes.axvspan(100 * target.low, 100 * target.high, color=hue, alpha=0.09, linewidth=0)
        axes.set_title(f"{name} accuracy, %")
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _row_label(label: str) -> str:
    """Return "run, moment" as it fits beside a plot: in two lines on a phone."""
    return "\n".join(shorten(part, 22) for part in label.split(", ")) if is_narrow() else shorten(label, 44)


def _dot(axes: Axes, accuracy: RecordedAccuracy, height: int, hue: str, own: bool) -> None:
    """Draw one accuracy with its interval: filled for this run, hollow for the runs it is compared with."""
    if accuracy.low is not None and accuracy.high is not None:
        axes.plot([100 * accuracy.low, 100 * accuracy.high], [height, height], color=hue, linewidth=1.8)
    fill = hue if own else "white"
    axes.plot(100 * accuracy.value, height, "o", markersize=5.5, color=hue, markerfacecolor=fill)


@styled()
def training_curves(run: Run, others: Sequence[Run] = ()) -> Figure:
    """Draw held-out accuracy against the epoch, stages shaded, best and last epoch marked and their gap written.

    Args:
        run: the run, drawn in full lines; epochs that were not measured leave no point.
        others: runs to compare with, in dashed lines.

    Returns:
        The figure, accuracies in percent.
    """
    figure = Figure(figsize=(figure_width(), 3.7), layout="constrained")
    axes = figure.subplots()
    handles, images = [], "test" if run.decides_on_test else "held-out"
    for key, hue in (("heldout_clean", BLUE), ("heldout_robust", ORANGE)):
        epochs, values = series(run.epochs, key)
        name = f"{images} {key.removeprefix('heldout_')}"
        marker = "o" if len(epochs) == 1 else ""
        handles += axes.plot(epochs, [100 * v for v in values], color=hue, label=name, marker=marker, zorder=3)
    for number_of, other in enumerate(others):
        for key, hue in (("heldout_clean", BLUE), ("heldout_robust", ORANGE)):
            epochs, values = series(other.epochs, key)
            dash = DASHES[number_of % len(DASHES)]
            axes.plot(epochs, [100 * v for v in values], color=hue, linestyle=dash, linewidth=1.2, alpha=0.75)
        handles.append(
            Line2D([], [], color=MUTED, linestyle=dash, linewidth=1.2, label=f"the same, {shorten(other.name)}")
        )
    handles += _mark_best_and_last(axes, run)
    _shade_stages(axes, run)
    _mark_selections(axes, run)
    axes.set_ylabel(f"{images} accuracy, %")
    _finish(figure, axes, handles)
    return figure


def _mark_best_and_last(axes: Axes, run: Run) -> list[Line2D]:
    best, last = moment(run, "best"), moment(run, "last")
    top, end = number(best.get("heldout_robust")), number(last.get("heldout_robust"))
    if top is None or end is None:
        return []
    marks = []
    for name, record, value, fill in (("best", best, top, ORANGE), ("last", last, end, "white")):
        label = f"{name}: {percent(value)}, epoch {record['epoch']}"
        marks += axes.plot(
            record["epoch"],
            100 * value,
            "o",
            color=ORANGE,
            markerfacecolor=fill,
            zorder=4,
            label=label,
            linestyle="",
        )
    if top > end:
        _draw_gap(axes, best["epoch"], last["epoch"], 100 * top, 100 * end)
    return marks


def _draw_gap(axes: Axes, best_epoch: int, last_epoch: int, top: float, end: float) -> None:
    """Draw a bracket right of the last epoch, as high as the robust accuracy that training lost again."""
    right = last_epoch + 0.02 * max(last_epoch, 10)
    axes.plot([best_epoch, right], [top, top], color=ORANGE, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.plot([last_epoch, right], [end, end], color=ORANGE, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.plot([right, right], [end, top], color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.annotate(
        f"robust\noverfitting\n{top - end:.1f} points",
        (right, (top + end) / 2),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=text_size(8),
        annotation_clip=False,
    )


@styled()
def loss_curves(run: Run) -> Figure:
    """Draw the training loss and the parts of it that the objectives record, under their names.

    Args:
        run: a run with at least one epoch whose loss is recorded.

    Returns:
        The figure; a part's line breaks over stages without that part.
    """
    figure = Figure(figsize=(figure_width(), 2.9), layout="constrained")
    axes = figure.subplots()
    epochs, values = series(run.epochs, "loss")
    handles = axes.plot(epochs, values, color=INK, label="loss", marker="o" if len(epochs) == 1 else "", zorder=3)
    hues = (GREEN, PURPLE, SKY, ORANGE, BLUE)
    for i, part in enumerate(part_names(run.epochs)):
        records = [{"epoch": one["epoch"], "part": (one.get("parts") or {}).get(part)} for one in run.epochs]
        xs, ys = _with_gaps(records)
        style = "-" if i < len(hues) else DASHES[0]
        label = shorten(part.replace("_", " ").strip() or "unnamed part")
        handles += axes.plot(xs, ys, color=hues[i % len(hues)], linestyle=style, linewidth=1.3, label=label)
    _shade_stages(axes, run)
    axes.set_ylabel("loss")
    _finish(figure, axes, handles)
    return figure


def part_names(epochs: Sequence[Json]) -> list[str]:
    """Return the names of the loss parts in the order in which training first recorded them.

    Args:
        epochs: records of epochs; `parts` in each, if it is there, maps name to value.

    Returns:
        Each name once.
    """
    return list(dict.fromkeys(part for one in epochs for part in one.get("parts") or {}))


def _with_gaps(records: Sequence[Json]) -> tuple[list[int], list[float]]:
    """Return epochs and values of a line, NaN where a part was not recorded: in a stage without that term."""
    values = [number(record["part"]) for record in records]
    return [record["epoch"] for record in records], [float("nan") if v is None else v for v in values]


def _shade_stages(axes: Axes, run: Run) -> None:
    total = sum(stage.last - stage.first + 1 for stage in run.stages)
    for i, stage in enumerate(run.stages):
        axes.axvspan(stage.first - 0.5, stage.last + 0.5, color=BANDS[i % 2], linewidth=0, zorder=0)
        length = stage.last - stage.first + 1
        room = int((36 if is_narrow() else 70) * length / total)  # letters that fit above this stretch
        full = f"{stage.number} · {stage.name}"
        label = shorten(full, room) if room >= 8 else str(stage.number)
        middle = (stage.first + stage.last) / 2
        axes.text(
            middle,
            1.01,
            label,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=text_size(8),
            color=MUTED,
        )


def _mark_selections(axes: Axes, run: Run) -> None:
    """Draw a small tick at the foot of each epoch that began with a selection of layers."""
    moments = [epoch - 0.5 for epoch in run.selections]
    axes.plot(
        moments,
        [0.012] * len(moments),
        "^",
        color=MUTED,
        markersize=3.5,
        transform=axes.get_xaxis_transform(),
    )


def _finish(figure: Figure, axes: Axes, handles: list[Line2D]) -> None:
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    columns = 2 if len(handles) == 4 else 3
    if is_narrow():
        columns = 2 if max(len(str(one.get_label())) for one in handles) <= 18 else 1
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        fontsize=text_size(8),
        columnspacing=1.6,
    )
