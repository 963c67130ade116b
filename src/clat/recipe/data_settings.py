"""The fields of a recipe's `data`: which images, how they are cut, and what is done to them in training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from clat.core.errors import ClatError, unknown
from clat.data.generated import check_fraction
from clat.data.idbh import IDBH_VARIANTS
from clat.data.imagenet import ImagenetSettings
from clat.data.mixup import check_alpha
from clat.data.torchvision_ops import resolve_backend


@dataclass(frozen=True, kw_only=True)
class ExtraConfig:
    """Images from a generative model, beside those of the data set."""

    file: str
    """An .npz of `image` (N, H, W, C), uint8, and `label` (N,): a path, or a name under CLAT_DATA_DIR."""
    fraction: float = 0.7
    """Their part of each batch. An epoch stays as many batches as the data set alone fills."""

    def __post_init__(self) -> None:
        check_fraction(self.fraction)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images. The held-out part of train decides everything that is decided; test is for the end (but for
    `decide_on`)."""

    name: str = "digits"
    """"digits", a folder under CLAT_DATA_DIR ("cifar10"), a folder's path, or a hub name ("owner/name")."""
    train_size: int | None = None
    """Train on this many images only; None: all that are not held out."""
    heldout: int = 1000
    """Images cut from train, by seed, for selection, calibration and the choice of the best checkpoint."""
    decide_on: Literal["test-split"] | None = None
    """`test-split`: the test images decide, and nothing is held out, as in the released code of RiFT and others: to
    repeat published runs. The accuracies on them are then no estimate for new images, and the run says so. None:
    the held-out part of train."""
    split_seed: int = 0
    """The seed of that cut, so that runs of several seeds share it."""
    image_size: int | None = None
    """Resize and centre-crop to this many pixels."""
    label_column: str | None = None
    """The column to predict, of a data set that is a table or a list of files; None: see `clat.load_split`."""
    image_column: str | None = None
    """The column of its images; None: see `clat.load_split`."""
    classes: tuple[str, ...] | str | None = None
    """The classes in the order of the network's outputs: names, or a text: names with commas, a file, a folder;
    None: those of the train split, see `clat.load_split`."""
    decoded: bool = False
    """Decode images that are too many for memory once, into one mapped file in the cache folder, a byte a pixel and
    channel, and read that: see `clat.data.decoded`. The numbers are the same."""
    channels: Literal[1, 3] | None = None
    """1: grey images, for networks that take one channel; 3: grey ones repeated; None: as they are, which of files
    is 3."""
    augment: str = "standard"
    """standard: `pad` and `flip`; idbh-weak, idbh-strong, idbh-svhn: see `clat.data.idbh`, with `flip`; imagenet:
    see `imagenet`, with `flip`; none: nothing, whatever they say; package.module:name: a callable of your own that
    takes an image (C, H, W) and returns one, as torchvision's transforms (v2) do."""
    imagenet: ImagenetSettings | None = None
    """Of `augment = "imagenet"`: random resized crop, colour jitter, RandAugment; None: the crop alone."""
    pad: int = 4
    """Random crop after padding by this many pixels; 0: none."""
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    """Fill the padding with black, or with the image mirrored at its edge."""
    flip: bool = True
    """Random horizontal flip."""
    cutmix: bool = False
    """Mix windows and labels within each batch, after the augmentation: see `clat.data.cutmix`."""
    mixup: float | None = None
    """Blend images and labels within each batch, by a weight from Beta(mixup, mixup): see `clat.data.mixup`. With
    `cutmix` too, each batch has one of the two."""
    extra: ExtraConfig | None = None
    """Generated images in every batch."""

    def __post_init__(self) -> None:
        known = ("standard", *IDBH_VARIANTS, "imagenet", "none")
        if not isinstance(self.augment, str):
            raise ClatError(
                f"data.augment is {self.augment!r}: expected a name; a callable goes to clat.train(augment=...)"
            )
        if self.augment not in known and ":" not in self.augment:
            raise unknown("augmentation data.augment", self.augment, (*known, "package.module:name"))
        if self.imagenet is not None and self.augment != "imagenet":
            raise ClatError(f"data.imagenet belongs to data.augment = \"imagenet\", which is '{self.augment}'")
        if self.mixup is not None:
            check_alpha(self.mixup)

    @property
    def mixes(self) -> str | None:
        """Return the field that makes labels probabilities, None if neither does."""
        return "data.cutmix" if self.cutmix else "data.mixup" if self.mixup is not None else None

    def resolved(self) -> DataConfig:
        """Return the settings as they run on this machine."""
        if self.augment != "imagenet":
            return self
        return replace(self, imagenet=resolve_backend(self.imagenet or ImagenetSettings()))
