"""The transforms of torchvision (v2) that stand for `clat.data.imagenet`, where that library can be imported."""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor

from clat.core.errors import ClatError, first_line
from clat.data.imagenet import ImagenetSettings

_MODULE = "torchvision.transforms.v2"


def torchvision_imports() -> bool:
    """Return whether torchvision's transforms can be imported.

    Returns:
        True if it is there, and belongs to this torch.
    """
    try:
        _import()
    except Exception:  # of the import of another torch's operators, it may be anything
        return False
    return True


def resolve_backend(settings: ImagenetSettings) -> ImagenetSettings:
    """Return the settings as they run on this machine.

    Args:
        settings: whose `by` may be "auto".

    Returns:
        The same, `by` being what "auto" means here.
    """
    if settings.by != "auto":
        return settings
    return replace(settings, by="torchvision" if torchvision_imports() else "batch")


class TorchvisionTransform:
    """Transforms one image as `ImagenetSettings` say.

    Args:
        settings: what is done.
        flip: mirror half of the images.

    Raises:
        ClatError: torchvision cannot be imported.
    """

    def __init__(self, settings: ImagenetSettings, *, flip: bool) -> None:
        self.settings, self.flip = settings, flip
        try:
            _import()
        except Exception as error:
            raise ClatError(
                f'data.imagenet.by = "torchvision": it does not import here ({first_line(error)}): install the'
                ' torchvision of this torch, or take by = "batch"'
            ) from error

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image of the same shape, uint8, (C, H, W)."""
        height, width = image.shape[-2:]
        made: Tensor = _pipeline(self.settings, self.flip, height, width)(image)
        return made


@functools.cache
def _pipeline(settings: ImagenetSettings, flip: bool, height: int, width: int) -> Any:
    v2 = _import()
    steps = [v2.RandomResizedCrop((height, width), settings.area, settings.ratio, antialias=True)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if any(settings.amounts):
        steps.append(v2.ColorJitter(*settings.amounts))
    if settings.rand_augment:
        steps.append(v2.RandAugment(settings.rand_augment, settings.magnitude))
    return v2.Compose(steps)


def _import() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(_MODULE)
