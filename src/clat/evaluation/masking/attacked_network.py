"""The network under check, and its verdicts under attacks, each of which is run once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.threat_model import ThreatModel
from clat.evaluation.evaluate import evaluate
from clat.evaluation.predict import is_right, predict
from clat.evaluation.protocols import AttackSpec, Protocol
from clat.network.fingerprint import device_of
from clat.network.layers import Layer


def _one(name: str, attack: str, **settings: Any) -> Protocol:
    """Return a protocol of one attack."""
    return Protocol(name=f"check-{name}", attacks=(AttackSpec(attack=attack, **settings),))


# Steps of a quarter of eps, as in the protocols pgd-10 and pgd-100.
ONE_STEP = _one("one-step", "pgd", steps=1, alpha_ratio="5/4")
SHORT = _one("short", "pgd", steps=10)
RESTARTED = _one("restarted", "pgd", steps=10, restarts=5)
LONG = _one("long", "pgd", steps=100)
OTHER_LOSS = _one("other-loss", "apgd", loss="dlr-targeted", targets=1, steps=50)
UNBOUNDED = _one("unbounded", "apgd", loss="ce", steps=100)
BLACK_BOX = _one("black-box", "square", steps=500, schedule=500)
STRONG = _one("strong", "apgd", loss="ce", steps=50)
RELAXED = _one("relaxed", "cr")


@dataclass
class AttackedNetwork:
    """The network under check, with its images and what is known of it so far.

    Attributes:
        model: an image classifier that returns logits, without wrappers.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        threat: the ball under check.
        seed: of the attacks.
        batch_size: images in a forward pass.
        layers: those of the feature attack; None: all.
        known: the verdicts of attacks that were run, by protocol and radius.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    batch_size: int
    layers: Sequence[Layer] | None
    known: dict[tuple[str, Fraction], Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return device_of(self.model, self.x.device)

    @property
    def largest(self) -> Fraction:
        """Return an eps at which the ball around any image holds every image."""
        return Fraction(1 if self.threat.norm == "linf" else math.ceil(math.sqrt(self.x[0].numel())))

    @cached_property
    def logits(self) -> Tensor:
        """Return the logits of the images as they are, (N, classes), on the CPU."""
        return predict(self.model, self.x, self.y, batch_size=self.batch_size)

    @cached_property
    def clean(self) -> Tensor:
        """Return which images are classified right, (N,) bool."""
        return self.logits.argmax(1) == self.y.cpu()

    def robust(self, protocol: Protocol, eps: Fraction | None = None) -> Tensor:
        """Return which images withstand an attack; the same attack is run once only.

        Args:
            protocol: the attack.
            eps: the radius, in image units; None: the one under check.

        Returns:
            One flag an image, (N,) bool.

        Raises:
            ClatError: the network makes the attack impossible.
        """
        size = self.threat.eps if eps is None else eps
        key = (protocol.hash, size)
        if key not in self.known:
            options: dict[str, Any] = {"norm": self.threat.norm, "batch_size": self.batch_size, "seed": self.seed}
            result = evaluate(self.model, self.x, self.y, protocol=protocol, eps=size, **options)
            self.known[key] = result.robust
        return self.known[key]

    def robust_to_all(self, *protocols: Protocol) -> Tensor:
        """Return which images withstand every one of these attacks, (N,) bool."""
        return torch.stack([self.robust(protocol) for protocol in protocols]).all(0)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images and labels, where the model is.

        Yields:
            Images (at most batch_size, C, H, W) and their labels.
        """
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            yield x.to(self.device), y.to(self.device)

    def right(self, make: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return which images are right both as they are and as they are changed.

        Args:
            make: takes the number of a batch and its images, and returns them changed.

        Returns:
            One flag an image, (N,) bool.
        """
        parts = [
            is_right(self.model, make(number, x), y, batch_size=self.batch_size)
            for number, (x, y) in enumerate(self.batches())
        ]
        return self.clean & torch.cat(parts)
