"""The protocol, and the number of images, that fit into a given time.

A few images are put through cr first: they say what a pass costs here, and how many images are robust, on which
nearly all the time of an evaluation goes. The rest is arithmetic: what an attack spends on one that withstands it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.core.seeds import permutation
from clat.data import ImageSet
from clat.evaluation.dataset import count_shares, evaluate_set
from clat.evaluation.effort import mean_passes, survivor_passes
from clat.evaluation.evaluate import BATCH_SIZE
from clat.evaluation.finite import sample_needed
from clat.evaluation.protocols import PROTOCOLS, Protocol
from clat.evaluation.sampled import NAME as SAMPLED
from clat.evaluation.sampled import check_sample
from clat.network.cost import Cost
from clat.network.fingerprint import device_of

LADDER = ("autoattack", SAMPLED, "apgd", "cr", "pgd-20")
"""Protocols and plans, the strongest first. `autoattack-sampled`: as `autoattack`, within an interval."""
ENOUGH = 500
"""Images, with which a stronger protocol is better than a weaker one with more."""
PILOT = 48
PILOT_SHARE = 0.1
"""The part of the budget that the pilot may take."""
CAUTION = 1.15
"""Predicted times are taken for so many times as long."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Measurements on a few images, made before a plan.

    Attributes:
        images: how many they were.
        seconds: what a pass of one image takes one process.
        spent: seconds that the pilot took.
        clean: the share of the images that is right; None where the budget was too small to see.
        robust: the share that withstands cr; None as for `clean`.
        relaxed: passes that an image took under cr; None as for `clean`.
    """

    images: int
    seconds: float
    spent: float
    clean: float | None = None
    robust: float | None = None
    relaxed: float | None = None


def run_pilot(model: nn.Module, images: ImageSet, order: Tensor, budget: float, options: dict[str, Any]) -> Pilot:
    """Measure what a pass costs and how robust the network is, within a tenth of the budget.

    Args:
        model: the network under evaluation; it is left as it is.
        images: the set.
        order: the numbers of its images in random order, (N,) int64, of which the first are taken.
        budget: seconds of the whole evaluation.
        options: further ones of `evaluate_set`, such as eps and norm.

    Returns:
        What was measured; accuracies only where the budget allows eight images under cr.

    Raises:
        ClatError: as `evaluate_set` does.
    """
    few, spent = order[:8], 0.0
    if device_of(model, torch.device("cpu")).type != "cpu":
        # A GPU's first work takes seconds, whatever it is; after that a batch takes no longer than a few images.
        few = order[: options.get("batch_size", BATCH_SIZE)]
        spent = evaluate_set(model, images, protocol="fgsm", ids=few, **options).cost.seconds
    first = evaluate_set(model, images, protocol="fgsm", ids=few, **options).cost
    spent += first.seconds
    seconds = _of_one_process(first, "fgsm", len(few), images)
    fit = int((PILOT_SHARE * budget - spent) / (seconds * survivor_passes(PROTOCOLS["cr"], 10)))
    if fit < 8:
        return Pilot(images=len(few), seconds=seconds, spent=spent)
    some = order[: min(fit, max(PILOT, len(few)))]
    result = evaluate_set(model, images, protocol="cr", ids=some, **options)
    return Pilot(
        images=len(some),
        seconds=_of_one_process(result.cost, "cr", len(some), images),
        spent=spent + result.cost.seconds,
        clean=result.clean_accuracy.value,
        robust=result.robust_accuracy.value,
        relaxed=(result.cost.forwards + result.cost.backwards) / len(some),
    )


def _of_one_process(cost: Cost, protocol: str, count: int, images: ImageSet) -> float:
    """Return the seconds that a pass takes one process, where several have shared an evaluation.

    The passes are those of all, the seconds those of the one that took longest.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    working = min(world, count_shares(images, count, protocol, world))
    return working * cost.seconds / (cost.forwards + cost.backwards)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """A protocol and a number of images, and how long they should take.

    Attributes:
        protocol: the name of a protocol or a plan.
        images: how many are evaluated.
        of: how many there are.
        seconds: what they should take, without the pilot.
        budget: seconds that were given.
        pilot: what the plan follows from.
    """

    protocol: str
    images: int
    of: int
    seconds: float
    budget: float
    pilot: Pilot

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The fields by name, those of the pilot within it.
        """
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What `autoattack-sampled` is told, see `clat.evaluation.sampled.evaluate_sampled`.

    Attributes:
        screen: what all images go through first.
        sample: images of the sample; None: as many as an interval of one point takes.
    """

    screen: str = "cr"
    sample: int | None = None

    def __post_init__(self) -> None:
        check_sample(self.screen, self.sample)


def passes_per_image(
    name: str, protocol: Protocol, pilot: Pilot, images: int, classes: int, sampling: Sampling | None = None
) -> float:
    """Return the passes that an image takes on average under a protocol or a plan.

    Args:
        name: of the protocol or the plan.
        protocol: its attacks; for a plan, those that its sample goes through.
        pilot: the shares of images that are right and robust; those unknown count as 1.
        images: how many are evaluated, which decides the size of a sample.
        classes: outputs of the network.
        sampling: what `autoattack-sampled` is told; None: nothing.

    Returns:
        Forward and backward passes of one image, each counted as one.
    """
    clean = 1.0 if pilot.clean is None else pilot.clean
    robust = clean if pilot.robust is None else pilot.robust
    screened = 2 + clean * survivor_passes(PROTOCOLS["cr"], classes) if pilot.relaxed is None else pilot.relaxed
    if name == "cr":
        return screened
    if name != SAMPLED:
        return mean_passes(protocol, clean, robust, classes)
    told = sampling or Sampling()
    left, attacks = max(1, round(robust * images)), survivor_passes(protocol, classes)
    size = sample_needed(left, images // 100) if told.sample is None else min(told.sample, left)
    if told.screen == "apgd":  # the first attacks of the protocol, which the sample is then spared
        screened = mean_passes(PROTOCOLS["apgd"], clean, robust, classes)
        attacks -= survivor_passes(PROTOCOLS["apgd"], classes)
    return screened + robust * attacks * size / left


def choose(
    pilot: Pilot,
    *,
    budget: float,
    available: int,
    classes: int,
    batch_size: int,
    asked: tuple[str, Protocol] | None = None,
    processes: int = 1,
    sampling: Sampling | None = None,
) -> EvaluationPlan:
    """Return the strongest protocol that leaves time for enough images, and as many of them as fit.

    Args:
        pilot: what was measured.
        budget: seconds, the pilot's included.
        available: images there are.
        classes: outputs of the network.
        batch_size: images that are attacked at a time, of which one batch has to fit.
        asked: the name and the protocol that were asked for; None: any of LADDER.
        processes: how many share the work.
        sampling: what `autoattack-sampled` is told; None: nothing.

    Returns:
        The plan.

    Raises:
        ClatError: where not even a batch fits.
    """
    left = (budget - pilot.spent) * processes / CAUTION
    rungs = [(name, PROTOCOLS["autoattack" if name == SAMPLED else name]) for name in LADDER]
    plans = []
    for name, protocol in rungs if asked is None else [asked]:
        passes = partial(passes_per_image, name, protocol, pilot, classes=classes, sampling=sampling)
        count = _most_images(left / pilot.seconds, passes, available)
        each = passes(max(count, 1)) * pilot.seconds
        plans.append((name, count, each))
        if count >= min(ENOUGH, available):
            break
    name, count, each = plans[-1]
    least = min(batch_size, available)
    if count < least:
        fewer = f"about {counted(count, 'image')} fit: ask for fewer with --batch-size {count}, or give more time"
        given = f"{budget:.0f}" if budget >= 1 else f"{budget:g}"
        takes = least * each * CAUTION / processes + pilot.spent
        raise ClatError(
            f"the budget of {given} s is too small for a batch of {counted(least, 'image')} under {name}, which "
            f"takes about {takes:.0f} s; {fewer if count > 0 else 'nothing fits: give more time'}"
        )
    return EvaluationPlan(
        protocol=name,
        images=count,
        of=available,
        seconds=count * each / processes,
        budget=budget,
        pilot=pilot,
    )


def _most_images(left: float, passes: Callable[[int], float], available: int) -> int:
    """Return how many images fit into `left` passes; a sample's share depends on how many there are."""
    low, high = 0, available
    while low < high:
        middle = (low + high + 1) // 2
        if middle * passes(middle) <= left:
            low = middle
        else:
            high = middle - 1
    return low


def random_order(count: int, seed: int, ids: Sequence[int] | Tensor | None = None) -> Tensor:
    """Return the images in the order in which they are taken while not all are.

    Args:
        count: how many images the set has.
        seed: decides the order.
        ids: the numbers of those to be evaluated; None: all of the set.

    Returns:
        Their numbers, (N,) int64, each once.
    """
    numbers = torch.arange(count) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
    return numbers[permutation(len(numbers), seed, "evaluation-order")]
