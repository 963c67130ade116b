"""Choosing the layers that a stage moves, by a ranking measured on held-out images where the rule asks for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.seeds import derive_seed
from clat.core.units import Size
from clat.criticality.ranking_report import Ranked
from clat.criticality.selection import Selection, select
from clat.models.files import read_state
from clat.network import modes
from clat.network.layers import Layer
from clat.recipe.schema import Recipe
from clat.training.prepare import build_network

StateDict = Mapping[str, Tensor]


def choose_layers(
    rule: Selection,
    candidates: Sequence[Layer],
    *,
    model: nn.Module,
    heldout: tuple[Tensor, Tensor],
    recipe: Recipe,
    epoch: int,
    out: Path,
) -> tuple[list[str], str | None]:
    """The names of the layers that move from `epoch` on, counted from 1, and the file of their ranking within the
    run's folder `out`, if the rule ranks."""
    report = file = None
    if rule.ranks:
        x, y = heldout
        report = rank_layers(
            rule,
            model,
            x,
            y,
            eps=recipe.eps,
            norm=recipe.norm,
            seed=derive_seed(recipe.seed, "selection", epoch),
            layers=candidates,
            initial=lambda: initial_weights(rule, recipe, out, model, x),
        )
        file = f"criticality/epoch-{epoch:04d}.json"
        report.to_json(out / file)
    seed = derive_seed(recipe.seed, "random layers", epoch)
    return select(rule, candidates, report, seed), file


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
    initial: Callable[[], StateDict],
) -> Ranked[Any]:
    """The report that `select` asks for under a rule that ranks, on the first `rule.num_samples` of (x, y).
    `initial()`: the weights of the start, called only where the ranking rewinds."""
    return rule.ranking.measure(
        model,
        x[: rule.num_samples],
        y[: rule.num_samples],
        layers=layers,
        eps=eps,
        norm=norm,
        seed=seed,
        initial=initial() if rule.ranking.needs_initial else None,
    )


def initial_weights(rule: Selection, recipe: Recipe, out: Path, model: nn.Module, x: Tensor) -> StateDict:
    """What a rewinding ranking rewinds to: the file that the rule names, else the weights that the run in `out`
    began with, which are given ones that it kept or the random ones of its seed, drawn again. `model`, `x`: the
    network that is trained and an image, which tell the number of classes."""
    given = out / "weights" / "stage-0.safetensors"
    if rule.initial is not None or given.exists():
        return read_state(rule.initial or given, rule.initial_key)[0]
    with modes.attack_mode(model), torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    return build_network(recipe, num_classes, x.shape[1]).state_dict()
