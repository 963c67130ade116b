"""Writing tensors so that a reader sees the old file or the new one, never half of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from clat.core.files import replace_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, str]) -> None:
    """Write a safetensors file in one step.

    Args:
        path: The file; an older one is replaced.
        tensors: Contiguous and apart from one another in memory.
        record: Texts to write beside them.

    Raises:
        ClatError: The folder is missing, read-only or full; the file is then as before.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, dict(record))
        except SafetensorError as error:  # its only causes here are of the file system: no space, no permission
            raise OSError(str(error)) from None

    replace_file(path, write)
