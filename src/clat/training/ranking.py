"""Choosing the layers that a stage moves, by a ranking measured on held-out images where the rule asks for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.criticality.ranking_report import Ranked
from clat.criticality.selection import Selection, select
from clat.models.files import read_state
from clat.network import modes
from clat.network.layers import Layer
from clat.recipe.schema import Recipe
from clat.runtime.engine import is_first_process
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
    """Choose the layers that move from an epoch on, by a ranking where the rule asks for one.

    Args:
        rule: the stage's selection.
        candidates: the layers that it may select.
        model: the network as it stands.
        heldout: (x, y) on the device, the only images that decide.
        recipe: the threat model and the seed.
        epoch: the epoch, counted from 1, which with the seed decides everything random.
        out: the run's folder, in which the ranking is written.

    Returns:
        The names of the layers, and the file of their ranking within `out`; None if the rule ranks nothing.
    """
    report = file = None
    if rule.ranks:
        x, y = heldout
        report = rank_layers(
            rule,
            model,
            x,
            y,
            threat=recipe.threat,
            seed=derive_seed(recipe.seed, "selection", epoch),
            layers=candidates,
            initial=lambda: initial_weights(rule, recipe, out, model, x),
        )
        file = f"criticality/epoch-{epoch:04d}.json"
        if is_first_process():
            report.to_json(out / file)
    seed = derive_seed(recipe.seed, "random layers", epoch)
    return select(rule, candidates, report, seed), file


def rank_layers(
    rule: Selection,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    layers: Sequence[Layer],
    initial: Callable[[], StateDict],
) -> Ranked[Any]:
    """Return the report that `select` asks for under a rule that ranks.

    Args:
        rule: its ranking, and how many of the images count, from the first.
        model: the network as it stands.
        x: images (N, C, H, W) in [0, 1].
        y: their labels, int64 (N,).
        threat: the ball of the perturbations.
        seed: decides the attack's starts.
        layers: the layers to rank.
        initial: returns the weights of the start; called only where the ranking rewinds.

    Returns:
        The layers with their values.
    """
    return rule.ranking.measure(
        model,
        x[: rule.num_samples],
        y[: rule.num_samples],
        layers=layers,
        eps=threat.eps,
        norm=threat.norm,
        seed=seed,
        initial=initial() if rule.ranking.needs_initial else None,
    )


def initial_weights(rule: Selection, recipe: Recipe, out: Path, model: nn.Module, x: Tensor) -> StateDict:
    """Return the weights that a rewinding ranking rewinds to.

    They are those of the file that the rule names, else those that the run began with: given ones that it kept, or
    the random ones of its seed, drawn again.

    Args:
        rule: may name a file.
        recipe: builds the random weights.
        out: the run's folder.
        model: the network that is trained, which tells the number of classes.
        x: images (N, C, H, W), of which the first is looked at.

    Returns:
        Name -> tensor.

    Raises:
        ClatError: the file cannot be read.
    """
    given = out / "weights" / "stage-0.safetensors"
    if rule.initial is not None or given.exists():
        return read_state(rule.initial or given, rule.initial_key)[0]
    with modes.attack_mode(model), torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    return build_network(recipe, num_classes, x.shape[1]).state_dict()
