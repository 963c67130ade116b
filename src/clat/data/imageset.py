"""A labelled set of images: what every reader returns and every loader takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from clat.core.checks import kind_of, like_pictures
from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.data.lazy import FloatImages, LazyImages, decoded_batches
from clat.data.sample import sample_ids, sample_notes
from clat.data.shown import image_set_html


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with one class each, in memory (resident) or decoded when asked for (lazy).

    It can also be built from plain tensors: ``ImageSet("mine", "train", ("cat", "dog"), images, labels)``.

    Raises:
        ClatError: images or labels of the wrong type or shape, or a label outside the classes.
    """

    name: str
    """The data set: a known name, a folder's name or a hub name."""
    split: str
    """The part that was asked for, ``train`` or ``test``."""
    class_names: tuple[str, ...]
    """One name a class; label k means ``class_names[k]``."""
    images: torch.Tensor | LazyImages
    """uint8, shape (N, C, H, W), values 0 to 255; or images that stay elsewhere, or are float32 in [0, 1]."""
    labels: torch.Tensor
    """int64, shape (N,), on the CPU, values in [0, num_classes). Resident for lazy images too."""
    description: str = ""
    """One line on where the images come from and what is unusual (a stand-in split, missing files)."""
    notes: tuple[str, ...] = ()
    """What is unusual, a line each: it belongs beside every number that is measured on the set."""

    def __post_init__(self) -> None:
        images, labels, here = self.images, self.labels, f"image set '{self.name}/{self.split}'"
        for what, given in (("images", images), ("labels", labels)):
            if isinstance(given, np.ndarray | list | tuple):
                raise ClatError(
                    f"{here}: {what} are a {kind_of(given)}, expected a torch.Tensor: convert with"
                    f" torch.as_tensor({what})"
                )
        if isinstance(self.class_names, str):
            raise ClatError(f"{here}: class_names is the text '{self.class_names}', expected one name a class")
        if isinstance(images, torch.Tensor) and (images.dtype != torch.uint8 or images.ndim != 4):
            raise ClatError(
                f"{here}: images are {images.dtype} of shape {tuple(images.shape)},"
                " expected torch.uint8 of shape (N, C, H, W)"
            )
        if isinstance(images, torch.Tensor) and like_pictures(images.shape):
            raise ClatError(
                f"{here}: images have shape {tuple(images.shape)}, expected (N, C, H, W):"
                " images.permute(0, 3, 1, 2)"
            )
        if labels.dtype != torch.int64 or labels.shape != (len(images),):
            cast = "" if labels.dtype == torch.int64 else ": labels.long()"
            raise ClatError(
                f"{here}: labels are {labels.dtype} of shape {tuple(labels.shape)},"
                f" expected torch.int64 of shape ({len(images)},){cast}"
            )
        if labels.device.type != "cpu":
            raise ClatError(f"{here}: labels are on {labels.device}, expected the CPU: labels.cpu()")
        outside = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(outside):
            row = int(outside[0])
            raise ClatError(
                f"{here}: row {row} has label {int(labels[row])}, expected 0 to {self.num_classes - 1}"
                " (-1 often marks a split published without labels: use another split)"
            )

    def __repr__(self) -> str:
        pixels = f"{'x'.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')}"
        size = f"{counted(len(self), 'image')} {pixels}, {self.num_classes} classes"
        return f"ImageSet({self.name!r}, {self.split!r}, {size})"

    def _repr_html_(self) -> str:
        return image_set_html(self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of one image."""
        channels, height, width = self.images.shape[-3:]
        return channels, height, width

    @property
    def resident(self) -> bool:
        """Return True when the pixels are in memory."""
        return isinstance(self.images, torch.Tensor | FloatImages)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the pixels: uint8, values 0 to 255, or float32 in [0, 1]."""
        return self.images.dtype

    @property
    def nbytes(self) -> int:
        """Return the bytes that the pixels take, or would take, in memory."""
        channels, height, width = self.shape
        return len(self) * channels * height * width * self.dtype.itemsize

    def subset(self, indices: Sequence[int] | torch.Tensor) -> ImageSet:
        """Return some of the images. Resident pixels are copied.

        Args:
            indices: each in [0, N); one may be there twice.

        Returns:
            The images at `indices`, in that order, with their labels.

        Raises:
            ClatError: an index outside the set.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(chosen) and not (int(chosen.min()) >= 0 and int(chosen.max()) < len(self)):
            raise ClatError(
                f"indices {int(chosen.min())} to {int(chosen.max())} reach outside '{self.name}/{self.split}'"
                f" with its {counted(len(self), 'image')}"
            )
        images = self.images.subset(chosen) if isinstance(self.images, LazyImages) else self.images[chosen]
        return replace(self, images=images, labels=self.labels[chosen])

    def take(self, n: int) -> ImageSet:
        """Return the first n images.

        Args:
            n: 0 to N.

        Returns:
            The set of these images alone.

        Raises:
            ClatError: n is negative or larger than the set.
        """
        if not 0 <= n <= len(self):
            raise ClatError(f"cannot take {n} images of '{self.name}/{self.split}': it has {len(self)}")
        return self.subset(torch.arange(n))

    def sampled(self, n: int | None) -> tuple[ImageSet, torch.Tensor]:
        """Return which n images stand for the set: the first, or where its order does not mix the classes the share
        of each class.

        Args:
            n: how many; None, or more than there are: all of them.

        Returns:
            The set, with a note where they are not its first images, and their rising numbers in it, (n,) int64.
        """
        ids = sample_ids(self.labels, len(self) if n is None else n)
        notes = sample_notes(ids, len(self), f"'{self.name}/{self.split}'")
        return (replace(self, notes=(*self.notes, *notes)) if notes else self), ids

    def sample(self, n: int) -> ImageSet:
        """Return n images that stand for the set, see `sampled`.

        Args:
            n: how many; where there are fewer, all of them.

        Returns:
            These images alone.
        """
        images, ids = self.sampled(n)
        return self if len(ids) == len(self) else images.subset(ids)

    def pixels(self) -> torch.Tensor:
        """Return the images as they are stored, (N, C, H, W), in memory: shared, if they are there already."""
        images = self.load().images
        return images if isinstance(images, torch.Tensor) else images.fetch(torch.arange(len(images)))

    def load(self, workers: int = 0, batch_size: int = 512) -> ImageSet:
        """Return the same set with its pixels in memory.

        Args:
            workers: processes that decode; 0: this one does.
            batch_size: images that are decoded at a time.

        Returns:
            A resident set; the set itself where it is one already.

        Raises:
            ClatError: an image that cannot be read or has another size; its row is named.
        """
        if isinstance(self.images, torch.Tensor | FloatImages):
            return self
        pixels = torch.empty((len(self), *self.shape), dtype=self.dtype)
        batches = torch.arange(len(self)).split(batch_size)
        done = 0
        for batch in decoded_batches(self.images, batches, workers=workers):
            pixels[done : done + len(batch)] = batch
            done += len(batch)
        return replace(self, images=pixels if self.dtype == torch.uint8 else FloatImages(pixels))
