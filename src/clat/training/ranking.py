"""The ranking that a stage's selection decides by, measured on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat import modes
from clat.config import Recipe
from clat.layers import Layer
from clat.models.files import read_state
from clat.rankings.measure import REWINDING, measure_ranking
from clat.rankings.report import Ranked
from clat.selection import Selection
from clat.training.prepare import build_network
from clat.units import Size

State = Mapping[str, Tensor]


def rank_layers(
    rule: Selection,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str,
    seed: int,
    layers: Sequence[Layer],
    initial: Callable[[], State],
) -> Ranked[Any]:
    """The report that `select` asks for under a rule that ranks, on the first `rule.num_samples` of (x, y).
    `initial()`: the weights of the start, called only where the ranking rewinds."""
    return measure_ranking(
        rule.ranking,
        model,
        x[: rule.num_samples],
        y[: rule.num_samples],
        layers=layers,
        eps=eps,
        norm=norm,
        alpha=rule.alpha,
        steps=rule.steps,
        normaliser=rule.normaliser,
        tap=rule.tap,
        metric=rule.metric,
        initial=initial() if rule.ranking in REWINDING else None,
        seed=seed,
    )


def initial_weights(rule: Selection, recipe: Recipe, out: Path, model: nn.Module, x: Tensor) -> State:
    """What a rewinding ranking rewinds to: the file that the rule names, else the weights that the run in `out`
    began with, which are given ones that it kept or the random ones of its seed, drawn again. `model`, `x`: the
    network that is trained and an image, which tell the number of classes."""
    given = out / "weights" / "stage-0.safetensors"
    if rule.initial is not None or given.exists():
        return read_state(rule.initial or given)[0]
    with modes.for_attack(model), torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    return build_network(recipe, num_classes).state_dict()
