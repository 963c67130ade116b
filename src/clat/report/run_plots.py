"""The plots of a run's page, and what the moments are called at which it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clat.core import formatting
from clat.evaluation.result import EvaluationRecord
from clat.report import curves, heatmap, plots, rankings
from clat.report.inline import inline_plot
from clat.report.records import Run, listed, series, text


def moment_name(run: Run, evaluation: EvaluationRecord) -> str:
    """Return when a result was measured: 'stage-1' -> 'after stage 1 (pgd-at)'; 'best' and 'last' with their epoch;
    'before' and 'after' a hardening; other labels as they are.

    Args:
        run: the run.
        evaluation: one of its results.

    Returns:
        Words for a table.
    """
    label = evaluation.label
    kind, _, index = label.partition("-")
    if kind == "stage" and index.isdigit():
        stage = next((stage for stage in run.stages if stage.number == int(index)), None)
        return f"after stage {index}{f' ({stage.name})' if stage else ''}" if int(index) else "at the start"
    if label in ("before", "after"):
        return f"{label} hardening"
    epoch = text(run.summary, label, "epoch") if label in ("best", "last") else None
    return f"{label} (epoch {epoch})" if epoch else label


def run_plots(run: Run, others: Sequence[Run]) -> dict[str, Any]:
    """Return the plots that the run's records allow, and what their captions say.

    Args:
        run: the run.
        others: those that it is compared with.

    Returns:
        Name -> the plot as SVG for both screens; "first_report", "first_ranking": what captions say.
    """
    found: dict[str, Any] = {}
    tested = [(one, evaluation) for one in [run, *others] for evaluation in one.evaluations]
    if tested:
        rows = [
            (
                f"{formatting.shorten(one.name, 18)}, {moment_name(one, e)}" if others else moment_name(one, e),
                one is run,
                e,
            )
            for one, e in tested
        ]
        found["accuracy"] = inline_plot(
            lambda: curves.accuracy_intervals(rows), "accuracy", "Clean and robust accuracy with their intervals"
        )
    if run.criticality:
        epoch, chosen = min(run.criticality), {at: _layers_at(run, at) for at in run.criticality}
        report, selected = run.criticality[epoch], chosen[epoch]
        words = f"Criticality of each layer at epoch {epoch}"
        found["bars"] = inline_plot(lambda: plots.criticality_bars(report, selected), "bars", words)
        found["first_report"] = (epoch, report, len(selected))
        if len(run.criticality) > 1:
            words = "Criticality of each layer at each selection"
            found["map"] = inline_plot(lambda: heatmap.criticality_map(run.criticality, chosen), "map", words)
    if run.rankings:
        at = min(run.rankings)
        ranking, ranked = run.rankings[at], _layers_at(run, at)
        words = f"Ranking of the layers at epoch {at}"
        found["ranking"] = inline_plot(lambda: rankings.ranking_bars(ranking, ranked), "ranking", words)
        found["first_ranking"] = (at, ranking, len(ranked))
    if series(run.epochs, "heldout_robust")[0] or series(run.epochs, "heldout_clean")[0]:
        words = "Held-out clean and robust accuracy per epoch"
        found["curves"] = inline_plot(lambda: curves.training_curves(run, others), "curves", words)
    if series(run.epochs, "loss")[0]:
        words = "Training loss and its parts per epoch"
        found["loss"] = inline_plot(lambda: curves.loss_curves(run), "loss", words)
    return found


def _layers_at(run: Run, epoch: int) -> list[str]:
    return [str(name) for name in listed(run.selections.get(epoch, {}), "layers")]
