"""The images of a split that are evaluated, by number: as the 5,000 of ImageNet that results are reported on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.core.parsing import parse_json
from clat.data import ImageSet


def read_ids(path: str | Path) -> list[Any]:
    """Read the entries of a file of image numbers; `check_ids` says whether they are such numbers.

    Args:
        path: a JSON list, or numbers with spaces, commas or line ends between them, in UTF-8.

    Returns:
        The entries, in order; a word that is no number stays text.

    Raises:
        ClatError: the file cannot be read, or holds no list.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ClatError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClatError(f"{path} is not text: give a JSON list of image numbers, or one a line") from None
    if not text.lstrip().startswith(("[", "{")):
        return [
            int(word) if word.isdecimal() and len(word) < 20 else word for word in text.replace(",", " ").split()
        ]
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise ClatError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(entries, list):
        raise ClatError(f"{path} holds no JSON list: give image numbers such as [0, 10, 20]")
    return entries


def check_count(count: int | None, images: ImageSet) -> None:
    """Raise an error for a sample that a split cannot give.

    Args:
        count: what --num-samples says; None: as many as is customary.
        images: the split.

    Raises:
        ClatError: it is less than one, or more than there are.
    """
    if count is not None and not 1 <= count <= len(images):
        raise ClatError(
            f"--num-samples is {count}: give 1 to {len(images)}, which is all of '{images.name}/{images.split}'"
        )


def check_ids(ids: Tensor | Sequence[Any], n: int, where: str) -> Tensor:
    """Return image numbers as a tensor, after a check.

    Args:
        ids: the numbers, in any order.
        n: how many images there are.
        where: what the numbers are of, for messages.

    Returns:
        The numbers in the order given, (M,) int64.

    Raises:
        ClatError: they are not whole numbers from 0 to n - 1, each there once.
    """
    entries = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else list(ids)
    seen: set[int] = set()
    for entry in entries:
        if not hasattr(entry, "__index__") or isinstance(entry, bool):
            raise ClatError(f"ids hold {entry!r}: expected whole numbers, those of images of {where}")
        number = int(entry)
        if not 0 <= number < n:
            raise ClatError(f"ids hold {number}, but {where} has {counted(n, 'image')}, numbered from 0 to {n - 1}")
        if number in seen:
            raise ClatError(f"ids hold {number} twice: each image counts once")
        seen.add(number)
    return torch.tensor([int(entry) for entry in entries], dtype=torch.int64)
