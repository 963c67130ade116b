"""The page's one sentence, computed from the numbers and careful to claim no more than they carry."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clat.core.formatting import SPACE, count, counted, interval, number, percent, points
from clat.evaluation.paired import differences_where_paired
from clat.evaluation.result import EvaluationRecord, RecordedAccuracy
from clat.report.paired import difference_in_words
from clat.report.records import Run, moment, part, text


def outcome(run: Run, others: Sequence[Run] = ()) -> str:
    """Return what the run brought, in one sentence: against other runs, or else against what it started from.

    What it started from is the test result from before its last stage. A difference is
    judged by the paired test of both verdicts on each image, or, where these are not on record, by whether the 95 %
    intervals of both accuracies overlap.

    Args:
        run: the run that the page is about.
        others: runs to compare with, each named with its own budget.

    Returns:
        The sentence; without a result on the test split it speaks of the held-out images.
    """
    last = run.end
    if last is None or last.robust_accuracy is None:
        return _heldout(run)
    measured = f"{last.protocol}{f' at {last.ball}' if last.ball else ''}"
    if others:
        clauses = "; ".join(_against(run, last, other) for other in others)
        return f"Under {measured} on the test split, {run.name} ends with {_both(last)}; {clauses}."
    before = evaluation_before(run)
    if before is None or before.robust_accuracy is None:
        return (
            f"Under {measured} on the test split, this run ends with robust accuracy "
            f"{_with_interval(last.robust_accuracy)}{_clean_alone(last)}; nothing was measured to compare it with."
        )
    if before.setting != last.setting:
        return (
            f"Robust accuracy is {percent(last.robust_accuracy.value)} at the end ({measured}) and was "
            f"{percent(before.robust_accuracy.value)} before, but measured differently: the two do not compare."
        )
    if other_images(before, last):
        return (
            f"Robust accuracy is {percent(last.robust_accuracy.value)} at the end ({measured}) and was "
            f"{percent(before.robust_accuracy.value)} before, but on other images: the two do not compare."
        )
    return (
        f"{_trained(run, before)} robust accuracy went from {percent(before.robust_accuracy.value)} to "
        f"{percent(last.robust_accuracy.value)} ({measured}: {_verdict(before, last)})"
        f"{_clean_change(before, last)}."
    )


def evaluation_before(run: Run) -> EvaluationRecord | None:
    """Return the result on the test split from before a hardening, or from where the last stage began.

    'stage-k' is the model after k stages, so that 'stage-0' is the one a fine-tuning run was given.

    Args:
        run: the run, finished or not.

    Returns:
        The result, or None if there is none from before the last stage.
    """
    if (start := run.evaluation("before")) is not None:
        return start
    numbers = [int(one.label[6:]) for one in run.evaluations if re.fullmatch(r"stage-\d+", one.label)]
    planned = run.recipe.get("stages")
    total = max(len(run.stages), len(planned) if isinstance(planned, list) else 0)
    earlier = [k for k in numbers if k < total] if total else numbers
    return run.evaluation(f"stage-{max(earlier)}") if earlier else None


def _trained(run: Run, before: EvaluationRecord) -> str:
    """Return what was trained since a result that `evaluation_before` returned: all stages after it."""
    done = 0 if before.label == "before" else int(before.label[6:])
    stages = [stage for stage in run.stages if stage.number > done]
    if not stages:
        return "With this run"
    words = counted(sum(stage.last - stage.first + 1 for stage in stages), "epoch")
    names = " and ".join(stage.name for stage in stages)
    return f"Hardened for {words}," if before.label == "before" else f"With {words} of {names},"


def _against(run: Run, last: EvaluationRecord, other: Run) -> str:
    """Return one clause on another run's end: its budget, its numbers, and what the difference allows to say."""
    theirs = other.end
    if last.robust_accuracy is None or theirs is None or theirs.robust_accuracy is None:
        return f"{other.name} has no final test result to compare with"
    if theirs.setting != last.setting:
        return f"{other.name} was measured differently (protocol, eps or images), so it is not comparable"
    if other_images(theirs, last):
        return f"{other.name} was measured on other images, so it is not comparable"
    less = f"robust accuracy here less there: {_verdict(theirs, last)}"
    return f"{_budget(run, other)} {other.name} ends with {_both(theirs)} ({less})"


def _budget(run: Run, other: Run) -> str:
    """Return the other run's budget beside ours: epochs, and the backward passes where they differ by over 5 %."""
    ours, theirs = (one.epochs[-1]["epoch"] if one.epochs else None for one in (run, other))
    if ours is None or theirs is None:
        return "at a budget that is not known,"
    here, there = (number(part(one.summary, "cost").get("backwards")) for one in (run, other))
    passes = ""
    if here and there and not 0.95 < there / here < 1.05:
        passes = f" and {there / here:.2f} times the backward passes"
    if ours == theirs:
        return f"at the same budget of {counted(ours, 'epoch')}{passes}"
    return f"at a different budget ({counted(theirs, 'epoch')}, {ours} here){passes}"


def other_images(one: EvaluationRecord, other: EvaluationRecord) -> bool:
    """Return whether two results are of different images.

    Args:
        one: a result.
        other: another.

    Returns:
        True if both say which images they are of, and these differ.
    """
    return None not in (one.images, other.images) and one.images != other.images


def _verdict(first: EvaluationRecord, second: EvaluationRecord) -> str:
    """Return the second's robust accuracy less the first's, by the paired test where their verdicts are on record,
    else whether intervals of this width can tell it from chance."""
    before, after = first.robust_accuracy, second.robust_accuracy
    assert before is not None
    assert after is not None
    if (paired := differences_where_paired(first, second)) is not None:
        return difference_in_words(paired["robust"])
    change = points(after.value - before.value)
    sample = f" with n{SPACE}={SPACE}{count(after.n)}" if after.n else ""
    match after.overlaps(before):
        case None:
            return f"{change}{sample}, no intervals recorded"
        case True:
            return f"{change}{sample}, but the 95{SPACE}% intervals overlap: not settled"
        case _:
            return f"{change}{sample}, and the 95{SPACE}% intervals do not overlap"


def _with_interval(accuracy: RecordedAccuracy) -> str:
    if accuracy.low is None:
        return percent(accuracy.value)
    bounds = interval(accuracy.low, accuracy.high)
    sample = f", n{SPACE}={SPACE}{count(accuracy.n)}" if accuracy.n else ""
    return f"{percent(accuracy.value)} (95{SPACE}% interval {bounds}{sample})"


def _both(end: EvaluationRecord) -> str:
    robust = percent(end.robust_accuracy.value if end.robust_accuracy else None)
    return (
        f"{robust} robust and {percent(end.clean_accuracy.value)} clean accuracy"
        if end.clean_accuracy
        else f"{robust} robust accuracy"
    )


def _clean_alone(last: EvaluationRecord) -> str:
    return f" and clean accuracy {percent(last.clean_accuracy.value)}" if last.clean_accuracy else ""


def _clean_change(before: EvaluationRecord, last: EvaluationRecord) -> str:
    first, second = before.clean_accuracy, last.clean_accuracy
    if first is None or second is None:
        return ""
    paired = differences_where_paired(before, last)
    by = "" if paired is None else f" ({difference_in_words(paired['clean'])})"
    return f", and clean accuracy from {percent(first.value)} to {percent(second.value)}{by}"


def overfitting(run: Run) -> str | None:
    """Return best and last held-out robust accuracy and the gap between them, in a sentence.

    Args:
        run: the run; its summary is asked first, its epochs where there is none.

    Returns:
        The sentence, the gap in percentage points; None if no held-out robust accuracy was recorded.
    """
    best, last = moment(run, "best"), moment(run, "last")
    top, end = number(best.get("heldout_robust")), number(last.get("heldout_robust"))
    if top is None or end is None:
        return None
    gap = number(run.summary.get("robust_overfitting"))
    lost = 100 * (top - end if gap is None else gap)
    over = run.summary.get("best_over")
    within = f", of the stages {', '.join(map(str, over))}," if isinstance(over, list) and len(over) > 1 else ""
    within = f", of the stage {over[0]}," if isinstance(over, list) and len(over) == 1 else within
    which = (
        "Robust accuracy on the test split, which decided," if run.decides_on_test else "Held-out robust accuracy"
    )
    return (
        f"{which}{within} was best after epoch {text(best, 'epoch')} with {percent(top)} and "
        f"ended at {percent(end)} after epoch {text(last, 'epoch')}: robust overfitting of {lost:.1f}{SPACE}points."
    )


def _heldout(run: Run) -> str:
    """Return the sentence for a run without a test result, of which only held-out images can speak."""
    last, best = moment(run, "last"), moment(run, "best")
    if number(last.get("heldout_robust")) is None:
        return "This run has recorded no accuracy yet."
    which = (
        "images of the test split, which decide here,"
        if run.decides_on_test
        else "held-out part of the training data"
    )
    return (
        f"There is no final test result; on the {which} robust accuracy stands at "
        f"{percent(last.get('heldout_robust'))} after epoch {text(last, 'epoch')} "
        f"(best {percent(best.get('heldout_robust'))}, epoch {text(best, 'epoch')})."
    )
