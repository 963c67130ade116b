"""From stored image files to uint8 pixels, on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clat.core.errors import ClatError
from clat.data.image_files import UNREADABLE, open_image, to_array, why_unreadable
from clat.data.lazy import LazyImages
from clat.data.tree import shown


class EncodedImages(LazyImages):
    """Encoded images, in files or bytes: one column of a map-style Hugging Face data set.

    Args:
        table: the data set; its column `column` gives ``{"bytes": ..., "path": ...}`` (an Image feature, not
            decoded).
        where: what the images are called in messages, for example ``cifar10/train``.
        size: see `to_array`. Without it all images must have the first one's size.
        rows: the rows of `table` that belong to this set, in order; all by default.
        root: where the paths of images begin that are no absolute ones.
        shape: (3, H, W) where it is known; else the first image is decoded to see.
    """

    def __init__(
        self,
        table: Any,
        column: str,
        *,
        where: str,
        size: int | None = None,
        rows: torch.Tensor | None = None,
        root: Path | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.table, self.column, self.where, self.size, self.root = table, column, where, size, root
        self.rows = torch.arange(len(table)) if rows is None else rows
        self.shape = shape or ((3, size, size) if size else self._decode(0, table[0][column]).shape)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: torch.Tensor) -> EncodedImages:
        rows = self.rows[indices]
        return EncodedImages(
            self.table, self.column, where=self.where, size=self.size, rows=rows, root=self.root, shape=self.shape
        )

    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        rows = self.rows[indices].tolist()
        batch: np.ndarray = np.empty((len(rows), *self.shape), dtype=np.uint8)
        found = self.table[rows][self.column] if rows else ()
        for target, row, stored in zip(batch, rows, found, strict=True):
            array = self._decode(row, stored)
            if array.shape != self.shape:
                sizes = [f"{shape[2]}x{shape[1]}" for shape in (array.shape, self.shape)]
                raise ClatError(
                    f"row {row} of {self.where} is {sizes[0]} pixels, the first image {sizes[1]}: give image_size "
                    "(--image-size; in clat train --data.image_size)"
                )
            target[...] = array
        return torch.from_numpy(batch)

    def _decode(self, row: int, stored: dict[str, Any] | None) -> np.ndarray:
        data, path = (stored or {}).get("bytes"), (stored or {}).get("path")
        if data is None and (path is None or self.root is None):
            raise ClatError(f"row {row} of {self.where} holds no image: remove it or put the image in")
        try:
            with open_image(data, path, self.root) as image:
                return to_array(image, self.size)
        except UNREADABLE as error:
            named = f" ({shown(str(path))})" if path else ""
            reason = why_unreadable(error)
            raise ClatError(
                f"cannot read the image in row {row} of {self.where}{named}: {reason}; remove or replace it"
            ) from error
