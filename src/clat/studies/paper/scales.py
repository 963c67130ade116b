"""How large the papers' tables are run: networks, images, epochs, seeds, and how much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clat.core.errors import unknown

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PaperScale:
    """Everything that is larger or smaller at another scale.

    Where the paper has 50 + 50 epochs along a cosine over 150 and selects every 10, a scale has `epochs` in all, a
    cosine over half as many again, and selects after every tenth of `epochs`, but at least twice a stage.
    """

    name: str
    epochs: int
    """Of a whole run, X and what follows it together."""
    cure_epochs: int
    """Of a run of CURE's paper, its natural start aside."""
    batch_size: int
    train_size: int | None
    """Training images; None: all that are not held out."""
    heldout: int
    monitored: int
    """Held-out images of the check during training."""
    monitor_every: int
    test_size: int | None
    """Test images under PGD and the single attacks; None: all."""
    strong_size: int | None
    """Test images under AutoAttack's kind of attack."""
    seeds: int
    ratios: tuple[float, ...]
    """lambda as a ratio of losses: what it is chosen from (`clat.studies.paper.choose_lambda`)."""
    remark: str
    stretch: float = 1.5
    """The epochs of the cosine over those trained; 1: the rate ends at 0."""
    expected: tuple[float, float] = (0.8, 0.5)
    """The shares of test images that its networks are right on and that withstand an attack, about, for plans."""
    narrow: Mapping[str, tuple[int, tuple[int, ...] | None]] | None = None
    """Network -> base width and blocks of each stage; None: as published."""
    image_sizes: Mapping[str, int] | None = None
    """Data set -> pixels a side, of those that do not come in one size."""

    def every(self, epochs: int) -> int:
        """Return after how many epochs a stage selects again, so that it selects at least twice.

        Args:
            epochs: of the stage, at least 2.

        Returns:
            A tenth of the whole run, or half of the stage where that is shorter.
        """
        return max(1, min(round(self.epochs / 10), epochs // 2))

    def start(self, share: float) -> int:
        """Return the epochs of X's first stage.

        Args:
            share: its part of the run, from 0 to 1.

        Returns:
            Epochs, such that what follows has at least 2.
        """
        return min(round(share * self.epochs), self.epochs - 2)

    @property
    def span(self) -> int:
        """Return the epochs after which the cosine is at 0: 150 where 100 are trained."""
        return round(self.stretch * self.epochs)

    def size(self, protocol: str) -> int | None:
        """Return how many test images a protocol is run on.

        Args:
            protocol: its name.

        Returns:
            Images, a sample of the split; None: all.
        """
        return self.strong_size if protocol in STRONG else self.test_size


STRONG = ("clat-v2", "autoattack", "square", "pixle", "stadv", "clat-pgd-100", "fab")
"""Protocols that take many passes."""

_BLOCKS = (1, 1, 1, 1)
_PREACT = ("preact-resnet18", "preact-resnet18-bn", "preact-resnet18-raw", "preact-resnet18-raw-bn")
_TINY: dict[str, tuple[int, tuple[int, ...] | None]] = {
    **dict.fromkeys(("resnet18", "resnet50", "imagenet-resnet18", "imagenet-resnet50"), (8, _BLOCKS)),
    **dict.fromkeys(_PREACT, (8, _BLOCKS)),
    **dict.fromkeys(("densenet121", "imagenet-densenet121"), (8, (2, 2, 2, 2))),
    **dict.fromkeys(("wrn-34-10", "imagenet-wrn-34-10"), (8, (1, 1, 1))),
    **dict.fromkeys(("wrn-70-16", "imagenet-wrn-70-16"), (8, (2, 2, 2))),
    "dm-wrn-70-16": (16, (1, 1, 1)),
    "ra-wrn-70-16": (22, (1, 1, 1)),
    "vgg19": (8, None),
}
_NARROW: dict[str, tuple[int, tuple[int, ...] | None]] = {
    **dict.fromkeys(("resnet18", "imagenet-resnet18"), (16, None)),
    **dict.fromkeys(_PREACT, (16, None)),
    **dict.fromkeys(("resnet50", "imagenet-resnet50"), (8, None)),
    **dict.fromkeys(("densenet121", "imagenet-densenet121"), (4, None)),
    **dict.fromkeys(("wrn-34-10", "imagenet-wrn-34-10"), (16, None)),
    **dict.fromkeys(("wrn-70-16", "imagenet-wrn-70-16"), (16, None)),
    "dm-wrn-70-16": (16, (3, 3, 3)),
    "ra-wrn-70-16": (22, (3, 3, 3)),
    "vgg19": (16, None),
}

SMOKE = PaperScale(
    name="smoke",
    epochs=4,
    cure_epochs=4,
    batch_size=64,
    train_size=256,
    heldout=100,
    monitored=50,
    monitor_every=1,
    test_size=100,
    strong_size=32,
    seeds=1,
    ratios=(0.1,),
    remark="256 images, four epochs, the narrowest networks, one seed: it shows that every cell runs, and is no "
    "evidence for or against a number.",
    expected=(0.3, 0.1),
    narrow=_TINY,
    image_sizes={"imagenette": 32, "imagenet": 32},
)

NARROW = PaperScale(
    name="narrow",
    epochs=40,
    cure_epochs=40,
    batch_size=100,
    train_size=2000,
    heldout=1000,
    monitored=1000,
    monitor_every=4,
    test_size=2000,
    strong_size=500,
    seeds=3,
    ratios=(0.03, 0.1, 0.3),
    remark="2,000 images, 40 epochs and narrow networks, for a CPU in hours: the paper's comparisons in a small "
    "regime, which need not be its own.",
    expected=(0.45, 0.25),
    narrow=_NARROW,
    image_sizes={"imagenette": 64, "imagenet": 64},
)

FULL = PaperScale(
    name="full",
    epochs=100,
    cure_epochs=200,
    batch_size=128,
    train_size=None,
    heldout=1000,
    monitored=1000,
    monitor_every=5,
    test_size=None,
    strong_size=None,
    seeds=10,
    ratios=(0.01, 0.03, 0.1, 0.3, 1.0),
    remark="The paper's networks, data and epochs, ten seeds of which it prints the lowest: for GPUs.",
    image_sizes={"imagenette": 224, "imagenet": 224},
)

SCALES = {scale.name: scale for scale in (SMOKE, NARROW, FULL)}


def find_scale(name: str) -> PaperScale:
    """Return a scale by its name.

    Args:
        name: smoke, narrow or full.

    Returns:
        The scale.

    Raises:
        ClatError: If there is no such scale.
    """
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return SCALES[name]


K = {
    "densenet121": 5,
    "wrn-70-16": 4,
    "resnet50": 3,
    "wrn-34-10": 2,
    "vgg19": 1,
    "resnet18": 1,
    "preact-resnet18": 1,
}
"""Network -> how many layers CLAT moves at a time, as the paper has it (about 5 % of them)."""

IMAGENET_SHAPED = ("imagenette", "imagenet")
"""Data sets whose networks have the ImageNet stem."""


def network(name: str, dataset: str, scale: PaperScale, variant: str | None = None) -> Table:
    """Return a network's settings, as `[model]` in a recipe has them.

    Args:
        name: the paper's network, one of K.
        dataset: the data set, by whose statistics it normalises, and which decides its stem.
        scale: its width and depth.
        variant: a built-in network that stands for it where a method has a form of its own; None: the usual one.

    Returns:
        The table.
    """
    built_in = variant or name
    if dataset in IMAGENET_SHAPED and built_in in ("resnet18", "resnet50", "densenet121", "wrn-34-10", "wrn-70-16"):
        built_in = f"imagenet-{built_in}"
    found: Table = {"name": built_in, "normalize": dataset}
    if scale.narrow is not None:
        width, depths = scale.narrow[built_in]
        found |= {"width": width} | ({"depths": list(depths)} if depths else {})
    return found
