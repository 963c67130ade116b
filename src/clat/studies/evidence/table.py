"""A regime's table: what is in its files, in plain data and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clat.core.environment import describe_environment, invocation
from clat.core.formatting import DASH
from clat.studies.evidence.answer import answer, changed_choice, changed_seeds
from clat.studies.evidence.confirmation import Confirmation, Verdicts
from clat.studies.evidence.request import DECIDING, EvidenceRequest
from clat.studies.evidence.screening import GOAL, Screened, finalist, headroom
from clat.studies.measurement import computing_device
from clat.studies.paper.cells import points
from clat.studies.paper.choose_lambda import ChosenRatio
from clat.studies.paper.methods import EPS
from clat.studies.paper.step_cost import ROUNDS

COLUMNS = (
    *("row", "held-out clean", "held-out robust", "finalist's headroom", "step", "passes"),
    *("fresh seeds", "clean", "robust"),
)
Ratios = Mapping[str, ChosenRatio | str]


def evidence_table(
    request: EvidenceRequest,
    ratios: Ratios,
    found: Sequence[Screened],
    confirmed: Sequence[Confirmation],
    failures: Sequence[str],
    first: Mapping[str, Any] | None = None,
    choice: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what table.json holds.

    Args:
        request: what was run.
        ratios: the ratio of each form, or why it could not be chosen.
        found: the rows on held-out images.
        confirmed: the two chosen ones on test images, what decides first.
        failures: why networks of those could not be trained or measured.
        first: "fresh" seeds and "choice" when they were first confirmed; None: they have not been.
        choice: finalist, control and ratio of now.

    Returns:
        Plain data.
    """
    regime, scale = request.regime, request.store.scale
    environment = describe_environment(computing_device())
    command = invocation()
    how = {form: one if isinstance(one, str) else one.how for form, one in ratios.items()}
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    first = first or {}
    changed = [*changed_seeds(first.get("fresh"), regime.fresh), *changed_choice(first.get("choice"), choice)]
    made += [(f"lambda ratio of {form}", text) for form, text in how.items()]
    return {
        "what": "evidence",
        "id": f"evidence, {regime.name}",
        "source": "CLAT against its controls",
        "title": regime.title,
        "shows": "Whether a form of CLAT is more robust and more accurate than the hardest of its controls.",
        "scale": scale.name,
        "remark": scale.remark,
        "outcome": " ".join([*answer(found, confirmed), *changed]),
        "columns": list(COLUMNS),
        "rows": [_texts(one, found, confirmed) for one in found],
        "caption": (
            f"Percent. X: {regime.base}; averaged: with averaged weights and label smoothing; stopped: the "
            "weights of the best epoch on held-out images; annealed: the learning rate ends at 0. Held-out: "
            f"training images that were not trained on, under PGD-10, the mean of {regime.screened} "
            "seeds. Finalist's headroom: by how much it passes the goal over that control, in points, in the "
            "accuracy in which it does so by less; the control with the smallest is the one to beat. Step: "
            f"the time of CLAT's over X's, the median of {ROUNDS} rounds in which both take turns on one machine, "
            "from the weights that X hands over, on a CPU by its own seconds. Passes: millions of samples, "
            f"forward and backward, of a whole run. Fresh seeds, clean, robust: test images under {DECIDING}, "
            f"eps {EPS}, on networks of other seeds than those that chose; in brackets 95 % intervals over seeds "
            "and images."
        ),
        "notes": [[one.row.name, one.failure] for one in found if one.failure]
        + [["confirmation", failure] for failure in failures]
        + [[one.row.name, text] for one in found for text in one.warnings]
        + [[name, text] for one in confirmed[:1] for name, texts in one.warnings.items() for text in texts]
        + [["seed by seed", one.by_seed()] for one in confirmed]
        + [["precision", text] for text in request.store.precision_notes()],
        "facts": [
            ("Network", regime.network),
            ("Data", regime.dataset),
            ("Epochs", str(scale.epochs)),
            ("Training images", "all" if scale.train_size is None else f"{scale.train_size:,}"),
            ("Seeds", f"{regime.screened} + {regime.fresh}"),
        ],
        "made": made,
        "failed": sum(not one.heldout or bool(one.failure) for one in found) + len(failures),
        "screened": list(regime.screened_seeds),
        "fresh": list(regime.fresh_seeds),
        "fresh_at_first": first.get("fresh"),
        "choice": choice,
        "choice_at_first": first.get("choice"),
        "settings": {**vars(scale)} | {"narrow": None},
        "ratios": {form: one if isinstance(one, str) else one.to_dict() for form, one in ratios.items()},
        "entries": [one.to_dict() for one in found],
        "confirmed": [one.to_dict() for one in confirmed],
        "environment": environment,
        "command": command,
    }


def _texts(one: Screened, found: Sequence[Screened], confirmed: Sequence[Confirmation]) -> list[str]:
    """Return a row as text, for each of COLUMNS."""
    name = one.row.name
    if not one.heldout:
        why = f"failed: {one.failure}" if one.failure else "not run"
        return [name, why, *[DASH] * (len(COLUMNS) - 2)]
    form = finalist(found)
    beaten = form is not None and one.row.control and one.complete
    verdicts = _verdicts_of(one, confirmed)
    accuracies = [DASH] * 3
    if verdicts is not None:
        shown = [confirmed[0].accuracy(verdicts, kind) for kind in GOAL]
        accuracies = [
            str(len(confirmed[0].seeds)),
            *(f"{100 * of.value:.1f} [{100 * of.low:.1f}, {100 * of.high:.1f}]" for of in shown),
        ]
    return [
        name,
        *(f"{100 * one.mean(kind):.1f}" for kind in GOAL),
        points(100 * headroom(form, one)) if form is not None and beaten else DASH,
        DASH if one.step is None else f"{one.step:.2f}",
        DASH if one.passes is None else f"{one.passes / 1e6:.2f}",
        *accuracies,
    ]


def _verdicts_of(one: Screened, confirmed: Sequence[Confirmation]) -> Verdicts | None:
    if not confirmed:
        return None
    first = confirmed[0]
    return {first.control.row.name: first.by_control, first.form.row.name: first.by_form}.get(one.row.name)
