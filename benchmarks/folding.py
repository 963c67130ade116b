"""Folding BatchNorm into convolutions, by promise and by explicit pairs: `python -m benchmarks.folding`.

Three ways to run PGD on a network with frozen BatchNorm, in turn within one run: as torch does (`plain`), with
results that are deferred until it is known who reads them (`deferred`, what `clat.network.frozen_norm` does), and
with pairs of a convolution and its BatchNorm that one traced pass finds, after which the BatchNorm is the identity
(`pairs`). Ratios go to stderr, the JSON to stdout. The attack's example is the same in all three but for rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clat
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.bench.repeated_step import with_statistics
from clat.bench.timing import interleaved, ratio
from clat.core.environment import describe_environment
from clat.network.folding import fold
from clat.network.frozen_norm import batch_norm, frozen_norms_lean

NETWORKS = {
    "resnet18 width 16": ("resnet18", 16, 32),
    "resnet18": ("resnet18", None, 32),
    "preact-resnet18 width 16": ("preact-resnet18", 16, 32),
    "densenet121 width 12": ("densenet121", 12, 32),
}
"""Label -> (network, width, batch)."""


def pairs_of(model: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions whose output one BatchNorm read first in a pass over `x`. Who else reads it, now or in
    another pass, a trace of module calls does not see: that is what this way takes on trust."""
    made: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no id is used twice
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def convolved(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module
        kept.append(output)

    def normalised(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(given[0]) in made:
            found.append((made.pop(id(given[0])), module))

    hooks = [m.register_forward_hook(convolved) for m in model.modules() if type(m) is nn.Conv2d]
    hooks += [m.register_forward_pre_hook(normalised) for m in model.modules() if type(m) is nn.BatchNorm2d]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def folded_pairs(model: nn.Module, pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> Iterator[None]:
    """Inside, the convolution of each pair does its BatchNorm's work, which returns its input; other BatchNorms
    keep nothing for the backward pass, as in `frozen_norms_lean`."""
    folded = {norm for _, norm in pairs}
    others = [m for m in model.modules() if type(m) is nn.BatchNorm2d and m not in folded]
    for convolution, norm in pairs:
        weight, bias = fold(convolution, norm)
        convolution.forward = _with(convolution, weight, bias)  # type: ignore[method-assign]
        norm.forward = _identity  # type: ignore[method-assign, assignment]
    for norm in others:
        norm.forward = _lean(norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in (*(c for c, _ in pairs), *folded, *others):
            del module.forward


def _with(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> Any:
    cast: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def forward(x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        if dtype not in cast:
            cast[dtype] = weight.to(dtype), bias.to(dtype)
        return convolution._conv_forward(x, *cast[dtype])

    return forward


def _lean(norm: nn.BatchNorm2d) -> Any:
    return lambda x: (
        batch_norm(x, norm)
        if x.requires_grad
        else F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    )


def _identity(x: Tensor) -> Tensor:
    return x


def measured(name: str, width: int | None, batch: int, steps: int, rounds: int, bfloat16: bool) -> dict[str, Any]:
    """Seconds of the three ways, and their ratios to plain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = clat.load_model(name, num_classes=10, width=width)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        y = torch.arange(batch) % 10
    model = with_statistics(model, x).requires_grad_(False).eval()
    pairs, attack = pairs_of(model, x[:1]), Attack.parse(steps=steps)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def run(context: Any) -> Tensor:
        with context, precision:  # the network is in evaluation mode, and nothing of it moves
            return run_pgd(model, x, y, attack, seed=0)

    ways = {
        "plain": lambda: run(nullcontext()),
        "deferred": lambda: run(frozen_norms_lean(model)),
        "pairs": lambda: run(folded_pairs(model, pairs)),
    }
    moved = {way: float((go() - ways["plain"]()).abs().max()) for way, go in ways.items()}
    times = interleaved(ways, rounds)
    return {
        "batch": batch,
        "pairs": len(pairs),
        "seconds": {way: time.seconds for way, time in times.items()},
        "ratio to plain": {way: ratio(times[way], times["plain"]) for way in ("deferred", "pairs")},
        "pairs / deferred": ratio(times["pairs"], times["deferred"]),
        "largest change of the example": moved,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--bfloat16", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for label, (name, width, batch) in NETWORKS.items():
        rows[label] = measured(name, width, batch, chosen.steps, chosen.rounds, chosen.bfloat16)
        print(label, rows[label]["ratio to plain"], rows[label]["pairs / deferred"], file=sys.stderr)
    print(
        json.dumps(
            {"benchmark": "folding", **vars(chosen), "rows": rows, "environment": describe_environment()}, indent=1
        )
    )


if __name__ == "__main__":
    main()
