"""The network and images of a hardening, cut as its training run cuts them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from clat.data import ImageSet, Loader, hold_out
from clat.hardening.settings import HardenConfig
from clat.runtime.engine import Engine, EngineConfig
from clat.training.prepare import check_model


@dataclass(frozen=True)
class HardenInputs:
    """`model`: a copy of the user's, on its device; `heldout`: cut from train, it decides everything."""

    model: nn.Module
    train: ImageSet
    heldout: ImageSet
    test: ImageSet
    engine: Engine
    engine_config: EngineConfig


def harden_inputs(model: nn.Module, train_set: ImageSet, test_set: ImageSet, config: HardenConfig) -> HardenInputs:
    """Return the inputs of a hardening. Raises ClatError where the network does not fit the images."""
    engine_config = EngineConfig(device=config.device, precision=config.precision)  # type: ignore[arg-type]
    engine = Engine(engine_config)
    heldout = config.heldout or min(max(len(train_set) // 10, 1), 1000)
    train_part, heldout_part = hold_out(train_set, heldout, 0, config.train_size)
    sample, _ = next(iter(Loader(heldout_part.take(1), 1, workers=0).epoch()))
    check_model(model, sample, train_set.num_classes)
    return HardenInputs(
        engine.place(copy.deepcopy(model)), train_part, heldout_part, test_set, engine, engine_config
    )


def whole_batch(images: ImageSet, engine: Engine) -> tuple[Tensor, Tensor]:
    """All images as one batch on the device, in its memory layout."""
    x, y = next(iter(Loader(images, len(images), device=engine.device).epoch()))
    return engine.images(x), y
