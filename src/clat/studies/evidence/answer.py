"""What a regime says, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from clat.studies.evidence.comparison import CrossedDifference
from clat.studies.evidence.judged import GOAL, Judged, best_control, best_form
from clat.studies.evidence.regimes import Regime
from clat.studies.paper.cells import points


def answer(regime: Regime, found: Sequence[Judged]) -> list[str]:
    """Return the regime's answer: the control to beat, what the forms do, whether one gains, what could be seen.

    Args:
        regime: the regime.
        found: its rows, judged.

    Returns:
        Up to four sentences; none before a control and a form have been measured.
    """
    control, form = best_control(found), best_form(found)
    if control is None or form is None or not form.against:
        return []
    forms = [one for one in found if not one.row.control and one.against]
    gaining = [one.row.name for one in forms if one.gains]
    clean, robust = form.against["clean"], form.against["robust"]
    goal = f"{points(100 * GOAL['clean'])} clean and {points(100 * GOAL['robust'])} robust"
    sentences = [
        f"The best of {sum(one.row.control and one.measured for one in found)} controls is {control.row.name}, "
        f"{_accuracies(control)}.",
        f"The form of CLAT that is the most robust on held-out images is {form.row.name}: "
        f"{_text(clean)} clean, {_text(robust)} robust against that control.",
    ]
    if gaining:
        sentences.append(f"A gain of {goal} points or more is found for {', '.join(gaining)}.")
    else:
        sentences.append(f"None of the {len(forms)} forms gains {goal} points.")
    seen = max(one.against["robust"].detectable for one in forms)
    sentences.append(
        f"With {len(control.seeds)} seeds and {control.verdicts['robust'].shape[1]:,} test images a true robust "
        f"difference of {100 * seen:.1f} points would have been found with a probability of 80 %."
    )
    return sentences


def _accuracies(one: Judged) -> str:
    clean, robust = one.interval("clean"), one.interval("robust")
    return f"{100 * clean.value:.1f} % clean and {100 * robust.value:.1f} % robust"


def _text(found: CrossedDifference) -> str:
    return f"{points(100 * found.value)} points [{points(100 * found.low)}, {points(100 * found.high)}]"
