"""The network and images of a hardening, cut as its training run cuts them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.data import ImageSet, Loader, hold_out
from clat.data.classes import check_trainable
from clat.hardening.settings import HardenConfig
from clat.network.computed import copied_network
from clat.network.fingerprint import device_of
from clat.runtime.engine import Engine, EngineConfig
from clat.runtime.layout import find_layout
from clat.training.trial import check_model, runs_channels_last, trainable


@dataclass(frozen=True)
class HardenInputs:
    """The network and the images of a hardening, on the device and cut as its training run cuts them."""

    original: nn.Module
    """The user's, out of any wrapper; it stays as it is."""
    model: nn.Module
    """A copy of it, on its device."""
    train: ImageSet
    heldout: ImageSet
    """Cut from train; it decides everything."""
    test: ImageSet
    engine: Engine
    engine_config: EngineConfig


def harden_inputs(model: nn.Module, train_set: ImageSet, test_set: ImageSet, config: HardenConfig) -> HardenInputs:
    """Return the inputs of a hardening.

    Args:
        model: a trained network, images (N, C, H, W) in [0, 1] -> logits; a copy of it is taken.
        train_set: images to train on, of which a part is held out.
        test_set: images for the end.
        config: how many are held out, and device and precision.

    Returns:
        The copy on its device, the two parts of train, and test.

    Raises:
        ClatError: the network does not fit the images, or is none that can be trained; there are too few images.
    """
    model = trainable(model)
    engine_config = EngineConfig(device=config.device, precision=config.precision)  # type: ignore[arg-type]
    if (world := find_layout(engine_config).world) > 1:
        raise ClatError(
            f"a hardening runs in one process, and {world} were started: start it without torchrun or srun"
        )
    check_trainable(train_set.name, train_set.class_names)
    engine = Engine(engine_config)
    heldout = config.heldout or min(max(len(train_set) // 10, 1), 1000)
    train_part, heldout_part = hold_out(train_set, heldout, 0, config.train_size)
    device = device_of(model, torch.device("cpu"))
    sample, _ = next(iter(Loader(heldout_part.take(1), 1, device=device, workers=0).epoch()))
    sample = sample.contiguous()
    check_model(model, sample, train_set.num_classes)
    with listening(lambda text: None):  # the training says it
        engine.channels_last = runs_channels_last(model, sample)
    engine_config = replace(engine_config, channels_last=engine.channels_last)
    return HardenInputs(
        model, engine.place(copied_network(model)), train_part, heldout_part, test_set, engine, engine_config
    )
