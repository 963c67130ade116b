"""A regime's table: what is in its files, in plain data and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from clat.core.environment import describe_environment, invocation
from clat.core.formatting import DASH
from clat.studies.evidence.answer import answer
from clat.studies.evidence.comparison import CrossedDifference
from clat.studies.evidence.judged import GOAL, Judged
from clat.studies.evidence.request import PROTOCOL, EvidenceRequest
from clat.studies.measurement import computing_device
from clat.studies.paper.cells import points
from clat.studies.paper.choose_lambda import ChosenRatio
from clat.studies.paper.methods import EPS

COLUMNS = (
    *("row", "seeds", "held-out robust", "clean", "robust", "clean less control", "robust less control"),
    *("p of both", "p, Holm", "smallest seen", "step", "passes"),
)
Ratios = Mapping[str, ChosenRatio | str]


def evidence_table(request: EvidenceRequest, ratios: Ratios, found: Sequence[Judged]) -> dict[str, Any]:
    """Return what table.json holds.

    Args:
        request: what was run.
        ratios: the ratio of each form, or why it could not be chosen.
        found: the rows, judged.

    Returns:
        Plain data.
    """
    regime, scale = request.regime, request.store.scale
    environment = describe_environment(computing_device().type)
    command = invocation()
    how = {form: one if isinstance(one, str) else one.how for form, one in ratios.items()}
    protocol = PROTOCOL if request.finals is None else request.finals.protocol
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    made += [(f"lambda ratio of {form}", text) for form, text in how.items()]
    ns = sorted({one.verdicts["clean"].shape[1] for one in found if one.measured})
    return {
        "what": "evidence",
        "id": f"evidence, {regime.name}",
        "source": "CLAT against its controls",
        "title": regime.title,
        "shows": "Whether a form of CLAT is more robust and more accurate than the best of its controls.",
        "scale": scale.name,
        "remark": scale.remark,
        "outcome": " ".join(answer(found)),
        "columns": list(COLUMNS),
        "rows": [_texts(one) for one in found],
        "caption": (
            f"Percent under {protocol}, eps {EPS}, n = {', '.join(map(str, ns)) or DASH} test images. X: "
            f"{regime.base}; averaged: with averaged weights and label smoothing; stopped: the weights of the best "
            "epoch on held-out images. In brackets: 95 % bootstrap intervals over seeds and images. Less control: "
            "in points, against the control that is the most robust on held-out images. p of both: the larger p "
            "of the two differences, two-sided, over seeds and images; Holm: corrected for the number of forms. "
            "Smallest seen: the true robust difference that a test of this row alone at 5 % would have found with "
            "a probability of 80 %. Step: CLAT's time over X's. Passes: millions of samples, forward and "
            "backward, of a whole run."
        ),
        "notes": [[one.row.name, one.failure] for one in found if one.failure],
        "facts": [
            ("Network", regime.network),
            ("Data", regime.dataset),
            ("Epochs", str(scale.epochs)),
            ("Training images", "all" if scale.train_size is None else f"{scale.train_size:,}"),
            ("Seeds", str(len(request.seeds))),
        ],
        "made": made,
        "failed": sum(not one.measured or bool(one.failure) for one in found),
        "seeds": list(request.seeds),
        "settings": {**vars(scale)} | {"narrow": None},
        "ratios": {form: one if isinstance(one, str) else one.to_dict() for form, one in ratios.items()},
        "protocol": protocol,
        "entries": [one.to_dict() for one in found],
        "environment": environment,
        "command": command,
    }


def _texts(one: Judged) -> list[str]:
    """Return a row as text, for each of COLUMNS."""
    name = one.row.name
    heldout = f"{100 * fmean(one.heldout):.1f}" if one.heldout else DASH
    if not one.measured:
        why = f"failed: {one.failure}" if one.failure else "not run"
        return [name, "0", heldout, why, *[DASH] * (len(COLUMNS) - 4)]
    accuracies = [
        f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        for found in (one.interval("clean"), one.interval("robust"))
    ]
    robust = one.against.get("robust")
    return [
        name,
        str(len(one.seeds)),
        heldout,
        *accuracies,
        *(_difference(one.against.get(kind)) for kind in GOAL),
        *(_p(p) for p in (one.p, one.corrected)),
        DASH if robust is None else f"{100 * robust.detectable:.1f}",
        DASH if one.step is None else f"{one.step:.2f}",
        DASH if one.passes is None else f"{one.passes / 1e6:.2f}",
    ]


def _difference(found: CrossedDifference | None) -> str:
    """Return a difference in points with its interval."""
    if found is None:
        return DASH
    return f"{points(100 * found.value)} [{points(100 * found.low)}, {points(100 * found.high)}]"


def _p(value: float | None) -> str:
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
