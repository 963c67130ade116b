"""Ours beside the official AutoAttack code (pyautoattack) in one process, on the same images:

    python -m benchmarks.autoattack_reference --network resnet4b --eps 8/255 --images 500 --components --out FILE

Both are given the same batch size and number of threads, and both have every forward and backward pass counted.
Our verdicts are in float32 whatever the precision of the search. With `--processes` ours shares the samples and the
threads among so many, as `clat evaluate --devices` does; the official code, which cannot, has all threads in one.
On a machine shared with others the CPU seconds are the ones to compare.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import clat
from benchmarks.foreign_networks import FILES, foreign_network
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.core.units import parse_size
from clat.data import ImageSet, Loader
from clat.evaluation import Accuracy, evaluate_set
from clat.network.cost import Cost, metered
from clat.recipe.schema import EngineConfig
from clat.runtime.engine import Engine

COMPONENTS = {"apgd-ce": "apgd-ce", "apgd-t": "apgd-t", "fab-t": "fab-t", "square": "square"}
"""Our protocol: the official name of the attack."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--network", required=True, help=f"{' | '.join(FILES)} | a weight file of ours")
    options.add_argument("--model", default="resnet18", help="the architecture in a weight file of ours")
    options.add_argument("--width", type=int)
    options.add_argument("--data", default="cifar10")
    options.add_argument("--eps", default="8/255")
    options.add_argument("--norm", default="linf", choices=("linf", "l2"))
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--batch-size", type=int, default=500)
    options.add_argument(
        "--precision", nargs="+", default=["float32"], choices=("float32", "bfloat16"), help="of our searches"
    )
    options.add_argument("--components", action="store_true", help="also each attack alone")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1, help="of the CPU, for both (default: 1)")
    options.add_argument("--processes", type=int, default=1, help="that ours is shared among (default: 1)")
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = Engine(EngineConfig(device=device, devices=chosen.processes))
    engine.launch()
    first = engine.rank == 0
    if first:
        claim_output(chosen.out)
    images = clat.load_split(chosen.data, "test").take(chosen.images)
    x, y = next(iter(Loader(images, len(images), device=device).epoch()))
    model = _network(chosen, images.num_classes).to(device).eval()
    # So that neither pays for what happens once:
    _ours(model, images.take(2 * chosen.processes), "apgd-ce", "float32", chosen)
    if first:
        _theirs(model, x[:2], y[:2], ["apgd-ce"], chosen)

    runs = {"autoattack": list(COMPONENTS.values())}
    if chosen.components:
        runs |= {protocol: [attack] for protocol, attack in COMPONENTS.items()}
    results: dict[str, Any] = {}
    for protocol, attacks in runs.items():
        torch.set_num_threads(chosen.threads)
        official = _timed(_theirs, model, x, y, attacks, chosen) if first else None
        engine.from_first(None)  # the others wait
        torch.set_num_threads(max(1, chosen.threads // chosen.processes))
        for precision in chosen.precision:
            robust, cost, cpu = _timed(_ours, model, images, protocol, precision, chosen)
            ours = robust, cost, float(engine.total(torch.tensor(cpu)))
            if official is not None:
                sides = results.setdefault(protocol, {"official": _side(*official)})
                sides[precision] = {**_side(*ours), **_compared(ours, official)}
        if first:
            print(protocol, json.dumps(results[protocol], indent=1), flush=True)
    if not first:
        return
    data = {
        "benchmark": "autoattack_reference",
        **vars(chosen),
        "results": results,
        "environment": describe_environment(device),
    }
    write_json(chosen.out, data)


def _network(chosen: argparse.Namespace, classes: int) -> nn.Module:
    if chosen.network in FILES:
        return foreign_network(chosen.network)
    return clat.load_model(chosen.model, width=chosen.width, weights=chosen.network, num_classes=classes)


def _timed(side: Callable[..., tuple[Tensor, Cost]], *arguments: Any) -> tuple[Tensor, Cost, float]:
    """Who is robust, the cost, and the seconds of CPU time that it took."""
    start = time.process_time()
    robust, cost = side(*arguments)
    return robust, cost, time.process_time() - start


def _ours(
    model: nn.Module, images: ImageSet, protocol: str, precision: str, chosen: argparse.Namespace
) -> tuple[Tensor, Cost]:
    result = evaluate_set(
        model, images, protocol=protocol, eps=chosen.eps, norm=chosen.norm, batch_size=chosen.batch_size,
        seed=chosen.seed, precision=precision,
    )  # fmt: skip
    return result.robust, result.cost


def _theirs(
    model: nn.Module, x: Tensor, y: Tensor, attacks: list[str], chosen: argparse.Namespace
) -> tuple[Tensor, Cost]:
    """The settings of version="standard"; "custom" because only it runs components, and names the attacks."""
    from pyautoattack import AutoAttack

    logging.disable(logging.CRITICAL)
    official = AutoAttack(
        model, norm={"linf": "Linf", "l2": "L2"}[chosen.norm], eps=float(parse_size(chosen.eps, norm=chosen.norm)),
        version="custom", attacks=attacks, seed=chosen.seed, device=str(x.device),
    )  # fmt: skip
    official.apgd.n_restarts = 1
    official.apgd_targeted.n_target_classes = official.fab.n_target_classes = 9
    official.fab.n_restarts = 1
    with metered(model) as cost:
        _, found = official.run_standard_evaluation(x, y, batch_size=chosen.batch_size)
    return (found == y).cpu(), cost


def _side(robust: Tensor, cost: Cost, cpu: float) -> dict[str, Any]:
    return {
        "robust_accuracy": Accuracy(int(robust.sum()), len(robust)).to_dict(),
        "forwards": cost.forwards,
        "backwards": cost.backwards,
        "seconds": round(cost.seconds, 2),
        "cpu_seconds": round(cpu, 2),
    }


def _compared(first: tuple[Tensor, Cost, float], second: tuple[Tensor, Cost, float]) -> dict[str, Any]:
    """The first, ours, against the second, the official code's."""
    (ours, our_cost, our_cpu), (theirs, their_cost, their_cpu) = first, second
    return {
        "points between them": round(100 * (float(ours.double().mean()) - float(theirs.double().mean())), 3),
        "share of equal verdicts": float((ours == theirs).double().mean()),
        "robust for us only": (ours & ~theirs).nonzero().flatten().tolist(),
        "robust for them only": (theirs & ~ours).nonzero().flatten().tolist(),
        "seconds, ours / official": round(our_cost.seconds / their_cost.seconds, 3),
        "cpu seconds, ours / official": round(our_cpu / their_cpu, 3),
        "passes, ours / official": round(_passes(our_cost) / _passes(their_cost), 3),
    }


def _passes(cost: Cost) -> int:
    return cost.forwards + cost.backwards


if __name__ == "__main__":
    main()
