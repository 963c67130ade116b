"""What a regime says, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from clat.studies.evidence.comparison import LEVEL, CrossedDifference
from clat.studies.evidence.judged import GOAL, Judged, best_control, best_form
from clat.studies.paper.cells import points


def answer(found: Sequence[Judged]) -> list[str]:
    """Return what a regime says: the control to beat, the finalist, the verdict, and what is not decided by it.

    Args:
        found: the regime's rows, judged, or its finalists.

    Returns:
        Sentences; none before a control and a form have been measured with all their seeds.
    """
    control, form = best_control(found), best_form(found)
    if control is None or form is None:
        return []
    clean, robust = form.against["clean"], form.against["robust"]
    cost = "" if form.step is None else f"; its step takes {form.step:.2f} of the time of X's"
    sentences = [
        f"The control to beat is {control.row.name}: {_accuracies(control)}.",
        f"The finalist, the form of CLAT that is the most robust on held-out images, is {form.row.name}: "
        f"{_text(clean)} clean, {_text(robust)} robust against that control{cost}.",
        _verdict(form),
    ]
    others = [
        one.row.name
        for one in found
        if one is not form and one.gains and one.corrected is not None and one.corrected < LEVEL
    ]
    if others:
        sentences.append(f"Not decisive, but beyond chance for so many forms, so do: {', '.join(others)}.")
    missing = [one.row.name for one in found if not one.complete]
    if missing:
        sentences.append(f"Left out, since not all of their seeds could be measured: {', '.join(missing)}.")
    return sentences


def _verdict(form: Judged) -> str:
    """Return one of the three verdicts of docs/results/evidence/plan.md."""
    goal = f"{points(100 * GOAL['clean'])} points clean and {points(100 * GOAL['robust'])} robust"
    clean, robust = (100 * form.against[kind].detectable for kind in ("clean", "robust"))
    power = f"{clean:.1f} points clean and {robust:.1f} robust"
    if form.gains:
        return f"CLAT gains: {goal} or more, for steps that cost less."
    if form.exceeds:
        return f"It has {goal} or more, but by steps that do not cost less: no gain."
    if form.would_be_seen:
        return (
            f"CLAT does not gain {goal}: true differences of {power} would have been found with a probability of "
            "80 % each."
        )
    return (
        f"This settles nothing: it does not show {goal}, and only true differences of {power} would have been "
        "found with a probability of 80 % each."
    )


def _accuracies(one: Judged) -> str:
    clean, robust = one.interval("clean"), one.interval("robust")
    return f"{100 * clean.value:.1f} % clean and {100 * robust.value:.1f} % robust"


def _text(found: CrossedDifference) -> str:
    return f"{points(100 * found.value)} points [{points(100 * found.low)}, {points(100 * found.high)}]"
