"""Every ranking under one name and one call, for the command line, selections and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.units import Size
from clat.criticality.activation import measure_activation_ranking
from clat.criticality.index import measure_criticality
from clat.criticality.ranking_report import Ranked
from clat.criticality.rewinding import measure_rewinding_criticality, measure_rewinding_drop
from clat.criticality.robust_criticality import measure_robust_criticality
from clat.network.layers import Layer, enumerate_layers

RANKINGS = {
    "criticality": "CLAT's criticality index C",
    "mrc": "RiFT's module robust criticality",
    "activation": "success of the activation attack at the layer",
    "rewinding": "module criticality by rewinding (Chatterji et al.)",
    "rewinding-drop": "accuracy lost by rewinding the layer (Zhang et al.)",
}
"""Name -> what the layers are ranked by; in each, larger is more critical."""

REWINDING = ("rewinding", "rewinding-drop")
"""The rankings that need the weights of the start."""

READING_WEIGHTS = ("mrc", *REWINDING)
"""The rankings that put other weights in a layer's place."""


def layers_to_rank(
    ranking: str | None,
    model: nn.Module,
    x: Tensor,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    shortcuts: bool | None,
    classifier: bool | None,
) -> list[Layer]:
    """The layers that take part in `ranking` (None: in several), in forward order. `shortcuts`, `classifier`: None
    is only under "mrc", as RiFT ranks every convolution and linear layer."""
    whole = ranking == "mrc"
    return enumerate_layers(
        model,
        x,
        include=include,
        exclude=exclude,
        shortcuts=whole if shortcuts is None else shortcuts,
        classifier=whole if classifier is None else classifier,
    )


def measure_ranking(
    ranking: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    layers: Sequence[Layer],
    eps: Size,
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    normaliser: str = "numel",
    tap: str = "output",
    metric: str = "weakness",
    radius: float = 0.1,
    epochs: int = 10,
    lr: float = 1.0,
    initial: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Ranked[Any]:
    """The report of one of RANKINGS on a batch. Each takes of the settings what concerns it: `eps`, `alpha`,
    `steps`, `norm` those with an attack, `normaliser`, `metric` the criticality, `tap` this and the activation
    attack, `radius`, `epochs`, `lr` the MRC, `initial` the rewinding ones (see the functions' own words)."""
    attack: dict[str, Any] = {"eps": eps, "alpha": alpha, "steps": steps, "norm": norm}
    common: dict[str, Any] = {"seed": seed, "layers": layers}
    if ranking == "criticality":
        return measure_criticality(model, x, y, **attack, normaliser=normaliser, tap=tap, metric=metric, **common)
    if ranking == "mrc":
        return measure_robust_criticality(model, x, y, **attack, radius=radius, epochs=epochs, lr=lr, **common)
    if ranking == "activation":
        return measure_activation_ranking(model, x, y, **attack, tap=tap, **common)
    if ranking not in RANKINGS:
        raise unknown("ranking", ranking, RANKINGS)
    if initial is None:
        raise ClatError(f"the ranking '{ranking}' needs the weights of the start: give them as `initial`")
    measure = measure_rewinding_criticality if ranking == "rewinding" else measure_rewinding_drop
    return measure(model, initial, x, y, **common)
