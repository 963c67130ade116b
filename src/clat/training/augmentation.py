"""What a recipe's `data.augment` means: from its name to the augmentation of a batch."""

from __future__ import annotations

from dataclasses import replace

from clat.core.own_code import current_directory_importable, find_callable
from clat.data import IDBH_VARIANTS, Augment, BatchAugment
from clat.data.imagenet import ImagenetAugment
from clat.data.per_image import PerImage
from clat.data.torchvision_ops import TorchvisionTransform
from clat.recipe.schema import DataConfig


def augmentation(config: DataConfig) -> BatchAugment | None:
    """Return what `data.augment` and the fields beside it ask for.

    Args:
        config: a recipe's `data`.

    Returns:
        The augmentation of a batch; None: nothing is done.

    Raises:
        ClatError: a callable that cannot be imported, or torchvision where it is asked for and cannot be.
    """
    if config.augment == "standard" and (config.pad or config.flip):
        return Augment(pad=config.pad, flip=config.flip, padding_mode=config.padding_mode)
    if config.augment in IDBH_VARIANTS:
        return replace(IDBH_VARIANTS[config.augment], flip=config.flip)
    if config.augment == "imagenet":
        settings = config.resolved().imagenet
        assert settings is not None
        if settings.by == "torchvision":
            return PerImage(TorchvisionTransform(settings, flip=config.flip))
        return ImagenetAugment(settings=settings, flip=config.flip)
    if ":" in config.augment:
        with current_directory_importable():
            return PerImage(find_callable(config.augment, "augmentation"))
    return None
