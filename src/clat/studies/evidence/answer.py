"""What a regime says, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clat.studies.evidence.comparison import LEVEL, TAIL
from clat.studies.evidence.confirmation import Confirmation
from clat.studies.evidence.screening import GOAL, Screened, control_to_beat, finalist
from clat.studies.paper.cells import difference_text, points

SURE = (
    f"a nominal confidence of {1 - 2 * TAIL:.1%} (a one-sided bound of {1 - TAIL:.2%} for each accuracy)".replace(
        "%", " %"
    )
)
"""How sure it is that a gain is excluded; the brackets of 95 % are narrower."""


def answer(found: Sequence[Screened], confirmed: Sequence[Confirmation]) -> list[str]:
    """Return what a regime says: the control to beat, the finalist, the verdict, and what is left out.

    Args:
        found: the regime's rows on held-out images.
        confirmed: the two chosen ones on test images, by the protocol that decides first; empty: not measured.

    Returns:
        Sentences; none before a control and a form have been trained with all their seeds.
    """
    form = finalist(found)
    missing = [one.row.name for one in found if not one.complete]
    left = [f"Left out, since not all of their seeds could be trained: {', '.join(missing)}."] if missing else []
    forms = [one for one in found if one.complete and not one.row.control]
    untimed = [one.row.name for one in forms if one.step is None]
    left += [f"Left out, since their step could not be timed: {', '.join(untimed)}."] if untimed else []
    if form is None:
        costly = forms and all(one.step is not None and one.step >= 1 for one in forms)
        return [*(["No form of CLAT has steps that cost less than X's."] if costly else []), *left]
    control = control_to_beat(found, form)
    sentences = [
        f"On held-out images the finalist is {form.row.name}, whose step takes {form.step:.2f} of the time of X's, "
        f"and the control that it has to beat is {control.row.name}."
    ]
    if not confirmed:
        sentences.append("They are not confirmed: of no fresh seed could both be trained and measured.")
    for number, one in enumerate(confirmed):
        clean, robust = (
            difference_text(of.value, of.low, of.high) for of in (one.differences[kind] for kind in GOAL)
        )
        images = one.by_form["clean"].shape[1]
        word = "seed" if len(one.seeds) + len(one.missing) == 1 else "seeds"
        sentences.append(
            f"Under {one.protocol}, {seeds_text(one.seeds, one.missing)} fresh {word} and {images:,} test images, "
            f"it has {clean} points clean and {robust} robust less that control."
        )
        if number == 0:
            sentences += [_verdict(one), *failed_seeds(one.seeds, one.missing)]
        elif (one.exceeds, one.falls_short) != (confirmed[0].exceeds, confirmed[0].falls_short):
            sentences.append(f"By {one.protocol} alone, which does not decide, this would be said: {_verdict(one)}")
    return [*sentences, *left]


def changed_seeds(first: int | None, now: int) -> list[str]:
    """Return what has to be said of a number of fresh seeds that was not kept to.

    Args:
        first: how many were asked for when the two rows were first confirmed; None: they have not been.
        now: how many are asked for.

    Returns:
        A sentence, or none.
    """
    if first is None or first == now:
        return []
    return [
        f"The number of fresh seeds was changed from {first} to {now} after a verdict had been seen, for which p "
        "and bounds do not account."
    ]


def changed_choice(first: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """Return what has to be said of a choice that came out otherwise once a verdict had been seen.

    That can be where a network failed when the choice was first made, and was trained later.

    Args:
        first: finalist, control and ratio when they were first confirmed; None: not known.
        now: those of now.

    Returns:
        A sentence, or none.
    """
    if not first or not now or first == now:
        return []
    changed = ", ".join(
        f"{key}: {first.get(key)}, then {now.get(key)}" for key in now if first.get(key) != now.get(key)
    )
    return [
        f"The choice was changed after a verdict had been seen ({changed}), for which p and bounds do not account."
    ]


def seeds_text(seeds: Sequence[int], missing: Sequence[int]) -> str:
    """Return how many seeds there are, of how many that were asked for.

    Args:
        seeds: that were measured.
        missing: that failed.

    Returns:
        A text such as "6" or "4 of 6".
    """
    return f"{len(seeds)} of {len(seeds) + len(missing)}" if missing else f"{len(seeds)}"


def failed_seeds(seeds: Sequence[int], missing: Sequence[int]) -> list[str]:
    """Return on how many fresh seeds a verdict rests, where some failed.

    Args:
        seeds: that were measured.
        missing: that failed.

    Returns:
        A sentence, or none.
    """
    if not missing:
        return []
    word = "seed" if len(missing) == 1 else "seeds"
    listed = ", ".join(map(str, missing))
    return [f"The verdict rests on {seeds_text(seeds, missing)} fresh seeds: {word} {listed} failed."]


def _verdict(one: Confirmation) -> str:
    """Return one of the three verdicts of docs/results/evidence/plan.md."""
    goal = f"{points(100 * GOAL['clean'])} points clean and {points(100 * GOAL['robust'])} robust"
    if not one.replicated:
        return "This settles nothing: one seed speaks of two networks, not of two ways to train."
    if one.exceeds:
        return (
            f"CLAT gains: the differences found reach {goal}, each of them beyond chance (p below "
            f"{LEVEL:.2f} against no difference, of this regime alone), for steps that cost less."
        )
    uppers = {kind: 100 * found.bound for kind, found in one.differences.items()}
    if one.falls_short:
        short = [kind for kind, least in GOAL.items() if uppers[kind] < 100 * least]
        bounds = " and ".join(f"{points(uppers[kind])} {kind}" for kind in short)
        return f"CLAT does not gain {goal}: more than {bounds} is excluded with {SURE}."
    seen = {kind: f"{100 * found.detectable:.1f}" for kind, found in one.differences.items()}
    return (
        f"This settles nothing: it does not show {goal}, and excludes only more than "
        f"{points(uppers['clean'])} clean and {points(uppers['robust'])} robust with {SURE}; "
        f"true differences of {seen['clean']} points clean and {seen['robust']} robust would have been found "
        "with a probability of 80 % each."
    )
