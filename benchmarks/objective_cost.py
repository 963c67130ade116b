"""What a training step of each objective costs: `python -m benchmarks.objective_cost`.

Every row is a step of the real training loop, with attacks of 10 steps where there are several, and
counted per image of the batch:

- `forwards`, `backwards`: passes through the network and back, as runs report them;
- `equivalents`: the arithmetic of convolutions and linear layers, measured, over that of one forward pass. A pass
  back to the input only costs one forward pass; one to the weights, which also goes through the layers, two.
"""

from __future__ import annotations

import argparse
import json
import sys
import typing
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import clat
from clat.bench.repeated_step import repeated_step
from clat.core.environment import describe_environment
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.data import ImageSet
from clat.data.loader import Loader
from clat.network.cost import metered
from clat.objectives import AnyObjective, GradAlign, PgdAT, Trades
from clat.recipe.schema import EngineConfig, StageConfig
from clat.runtime.engine import Engine
from clat.treatments import AWP

VARIANTS: dict[str, dict[str, Any]] = {
    "grad-align, first_gradient = attack": {"objective": GradAlign(first_gradient="attack")},
    "pgd-at, awp": {"objective": PgdAT(), "treatments": (AWP(),)},
    "trades, awp": {"objective": Trades(), "treatments": (AWP(),)},
}
"""Rows beside the registered objectives at their defaults: label -> what a stage is given."""


HEAD = ("", "weight steps", "forwards", "backwards", "equivalents", "per weight step")


class Operations(TorchDispatchMode):
    """Sums the arithmetic of the matrix products and convolutions inside, forward, backward and doubly backward.
    (torch's own FlopCounterMode follows modules by hooks, which gradients towards the input upset.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def step_cost(model: nn.Module, images: ImageSet, stage: StageConfig) -> dict[str, float]:
    """Passes and forward-equivalents of one step of `stage` on all of `images`, per image."""
    count, config = len(images), EngineConfig(device="cpu", channels_last=False)
    x, _ = next(iter(Loader(images, count).epoch()))
    with Operations() as forward, torch.no_grad():
        model(x)
    with (
        repeated_step(model, images, stage, Engine(config), config) as made,
        metered(made.model, memory=False) as cost,
        Operations() as operations,
    ):
        made.run_step()
    equivalents, steps = operations.total / forward.total, stage.objective.replays
    passes = (cost.forwards / count, cost.backwards / count)
    return dict(zip(HEAD[1:], (steps, *passes, round(equivalents, 2), round(equivalents / steps, 2)), strict=True))


def rows() -> dict[str, dict[str, Any]]:
    """Label -> what a stage is given: every registered objective at its defaults, then the variants."""
    registered = typing.get_args(typing.get_args(AnyObjective)[0])
    return {objective.name: {"objective": objective()} for objective in registered} | VARIANTS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="resnet18")
    options.add_argument("--width", type=int)
    options.add_argument("--images", type=int, default=4)
    options.add_argument("--layer", type=int, default=11, help="the layer that CLAT moves")
    chosen = options.parse_args()
    pixels = torch.randint(256, (chosen.images, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet("noise", "train", tuple("0123456789"), pixels, torch.arange(chosen.images) % 10)
    found = {}
    for label, given in rows().items():
        torch.manual_seed(0)
        model = clat.load_model(chosen.model, width=chosen.width)
        try:
            given["objective"].requires(model, torch.zeros(1, 3, 32, 32))
        except ClatError:  # such as a mixture's gate
            continue
        if given["objective"].name.startswith("clat"):
            given = {"selection": Selection(rule="named", layers=(chosen.layer,)), **given}
        found[label] = step_cost(model, images, StageConfig(name="row", epochs=1, **given))
    for row in (HEAD, *((label, *row.values()) for label, row in found.items())):
        print("{:36} {:>12} {:>9} {:>9} {:>12} {:>16}".format(*row), file=sys.stderr)
    result = {
        "benchmark": "objective_cost",
        **vars(chosen),
        "rows": found,
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
