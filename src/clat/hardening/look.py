"""The first look at a network that is to be hardened: what it can do, and whether the images are the ones it
knows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.random_states import preserve_all_states
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.criticality.index import measure_criticality
from clat.criticality.report import CriticalityReport
from clat.evaluation.heldout import heldout_correct
from clat.evaluation.statistics import Accuracy

STEPS = 10
"""Steps of the PGD attack behind the robust accuracy."""

WARMUP = 8
"""Held-out images that are attacked once before any time is taken."""
RANKED = 100
"""Images on which the layers are ranked (CLAT's paper: one batch)."""

CHANCE, BEYOND = 1.5, 0.05
"""A network has to be right on more images than CHANCE times what guessing is right on, or BEYOND more if that is
less."""

ROBUST_ALREADY = 0.5
"""The share of its clean accuracy that a network keeps under attack from which it counts as robust."""


@dataclass(frozen=True)
class FirstLook:
    """A network's accuracies and criticality on held-out images, before anything is done to it."""

    clean: Accuracy
    robust: Accuracy
    """Under PGD with STEPS steps."""
    criticality: CriticalityReport | None
    """Each layer's criticality; None where the network has no layers to rank."""
    seconds_per_pass: float
    """Seconds of one forward and backward pass of the attack, for one image."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file.

        Returns:
            Accuracies, the attack behind them, and each layer's criticality; the seconds are left out.
        """
        return {
            "clean": self.clean.to_dict(),
            "robust": self.robust.to_dict(),
            "attack": f"pgd-{STEPS}",
            "criticality": None if self.criticality is None else self.criticality.to_dict(),
        }


def look(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    num_classes: int,
    batch_size: int = 250,
    seed: int = 0,
    name: str = "",
) -> FirstLook:
    """Measure a network on held-out images, and refuse one that hardening cannot help.

    Args:
        model: images (N, C, H, W) in [0, 1] -> logits (N, K).
        x: held-out images, (N, C, H, W) in [0, 1].
        y: their labels, (N,) int64.
        threat: what the network is to withstand.
        num_classes: classes of the data.
        batch_size: images a pass.
        seed: decides the attack's starts.
        name: of the data set, for messages.

    Returns:
        Clean and robust accuracy on all of `x`, and the criticality of the layers on the first RANKED.

    Raises:
        ClatError: the network is at chance (other weights, another normalisation or another order of classes), or
            robust already.
    """
    attack, started, counts = Attack(threat, steps=STEPS), 0.0, [0]
    for n in (min(len(x), WARMUP), len(x)):  # the first warms up: a GPU's first work takes seconds
        started = time.perf_counter()
        found = heldout_correct(model, x[:n], y[:n], attack, batch_size=batch_size, seed=derive_seed(seed, "look"))
        counts = [int(count) for count in found]  # which waits for the GPU
    seconds = (time.perf_counter() - started) / (len(x) * (STEPS + 1))
    clean, robust = (Accuracy(count, len(x)) for count in counts)
    _refuse_chance(clean, num_classes, name)
    if robust.value > ROBUST_ALREADY * clean.value:
        raise ClatError(
            f"the network is robust already ({clean.value:.1%} clean, {robust.value:.1%} under PGD-{STEPS} at "
            f"{threat.norm} {threat.text}): give a larger eps (--eps), or train it further with clat train, which "
            "need not make it more robust"
        )
    return FirstLook(clean, robust, _criticality(model, x[:RANKED], y[:RANKED], threat, seed), seconds)


def _refuse_chance(clean: Accuracy, num_classes: int, name: str) -> None:
    guessing = 1 / num_classes
    least = min(CHANCE * guessing, guessing + BEYOND)
    if clean.interval[0] > least:
        return
    images = f"held-out images of '{name}'" if name else "held-out images"
    seen = f"the network is right on {clean.value:.1%} of {clean.n} {images}, of {num_classes} classes"
    what = "check the data, the weights, that normalisation is inside the model, and the order of classes"
    if clean.value > least:
        raise ClatError(f"{seen}, too few images to tell that from chance: hold more out (--heldout), or {what}")
    raise ClatError(f"{seen}, which is chance: {what}")


def _criticality(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int
) -> CriticalityReport | None:
    try:
        with preserve_all_states():
            return measure_criticality(
                model, x, y, eps=threat.eps, norm=threat.norm, seed=derive_seed(seed, "rank")
            )
    except ClatError:
        return None  # nothing that follows needs a ranking
