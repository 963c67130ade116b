"""Choosing layers in one call, for a loop of the user's own; a recipe's stages choose by `Selection`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from torch import Tensor, nn

from clat.core.errors import unknown
from clat.core.units import Size
from clat.criticality.rankings import Ranking, make_ranking
from clat.criticality.selection import Selection, select
from clat.network.edge import accept_on_device


def select_layers(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size = "8/255",
    k: int = 1,
    norm: str = "linf",
    rule: Literal["critical", "least-critical", "random", "all"] = "critical",
    ranking: str | Ranking = "criticality",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    initial: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    **settings: Any,
) -> list[str]:
    """Return the names of the k most critical layers of a network, in forward order.

    Layers whose parameters are frozen (requires_grad=False) take part, unless `exclude` names them: between two
    selections of `clat.Clat` all but the chosen ones are.

    Args:
        model: a network, images in [0, 1] to logits; it is left without a trace.
        x: images that may decide, not those of the test: (N, C, H, W), float in [0, 1]. The paper takes one batch.
        y: their labels, (N,), int64.
        eps: radius of the attack that the layers are ranked under, in image units.
        k: how many layers (paper: about 5 % of them).
        norm: "linf" or "l2", of the attack.
        rule: the k most critical, the k least critical, k at random, or all.
        ranking: what "critical" means: a name of `clat.criticality.rankings.RANKINGS`, or a ranking with settings.
        include: name patterns; only layers that match one of them take part.
        exclude: name patterns of layers that do not take part.
        initial: the state dict at the start of training, for the rewinding rankings.
        seed: of all random choices.
        settings: of a ranking that is given by its name, such as `steps` or `normaliser`.

    Returns:
        The layers' names as in `model.named_modules()`.

    Raises:
        ClatError: images or labels that make no sense, a name or setting that there is not, or too large a k.
    """
    chosen = make_ranking(ranking, settings) if isinstance(ranking, str) else ranking
    own = {each.name for each in fields(chosen)} - {"name"} if isinstance(ranking, str) else set()
    for name in settings.keys() - own:
        raise unknown("setting", name, own, where=f" of the ranking '{chosen.name}'")
    model, x, y = accept_on_device(model, x, y)
    ranked = {"ranking": chosen} if rule in ("critical", "least-critical") else {}
    wanted = Selection(rule=rule, k=k, include=tuple(include), exclude=tuple(exclude), **ranked)  # type: ignore[arg-type]
    layers = wanted.candidates(model, x)
    report = None
    if wanted.ranks:
        report = chosen.measure(model, x, y, layers=layers, eps=eps, norm=norm, seed=seed, initial=initial)
    return select(wanted, layers, report, seed)
