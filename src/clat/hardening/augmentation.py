"""Which augmentation suits images that nobody has described: one under which the network keeps its accuracy.

A flip turns a photograph into another photograph and a digit into something else. The network that is given knows
which: it was trained on such images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clat.data import Augment, ImageSet, Loader
from clat.hardening.inputs import HardenInputs
from clat.hardening.settings import HardenConfig
from clat.network import modes
from clat.runtime.engine import Engine

TOLERATED = 0.05
"""The share of its accuracy that the network may lose under an augmentation that is used in training."""


def chosen_augmentation(inputs: HardenInputs, config: HardenConfig) -> dict[str, Any]:
    """Return what is done to the training images of a hardening.

    Args:
        inputs: its network, held-out images and engine.
        config: its settings; an augmentation that they name is taken.

    Returns:
        Fields of a recipe's `data`.
    """
    if config.augment is not None:
        return {"augment": config.augment}
    return fitting_augmentation(inputs.model, inputs.heldout, inputs.engine, seed=config.seed)


def fitting_augmentation(model: nn.Module, images: ImageSet, engine: Engine, *, seed: int = 0) -> dict[str, Any]:
    """Return the strongest padding and flip under which the network keeps its accuracy.

    The shift is the largest of an eighth, a sixteenth or a pixel of the image, under which, as under the flip, the
    network loses at most TOLERATED of its accuracy.

    Args:
        model: a trained classifier, images (N, C, H, W) in [0, 1] -> logits (N, K); it stays as it is.
        images: held-out images.
        engine: device and memory layout.
        seed: decides the shifts.

    Returns:
        `pad` and `flip` of a recipe's `data`, and ``augment = "none"`` where neither does.
    """

    def accuracy(pad: int, *, flipped: bool = False) -> float:
        augment = Augment(pad=pad, flip=False) if pad else None
        loader = Loader(images, len(images), device=engine.device, seed=seed, augment=augment)
        x, y = next(iter(loader.epoch(0)))
        return _accuracy(model, engine.images(x.flip(3) if flipped else x), y)

    plain = accuracy(0)
    least = (1 - TOLERATED) * plain
    side = min(images.shape[1:])
    pads = sorted({max(side // 8, 1), max(side // 16, 1), 1}, reverse=True)
    pad = next((pad for pad in pads if accuracy(pad) >= least), 0)
    flip = accuracy(0, flipped=True) >= least
    return {"pad": pad, "flip": flip, **({} if pad or flip else {"augment": "none"})}


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with modes.attack_mode(model), torch.no_grad():
        right = [
            (model(part).argmax(1) == labels).sum() for part, labels in zip(x.split(250), y.split(250), strict=True)
        ]
    return float(torch.stack(right).sum()) / len(x)
