"""The peak memory of a computation's tensors.

On CUDA the allocator counts. On the CPU the process's peak would not tell: it holds libraries and whatever came
before, and freed memory is kept by the C library. So there every storage is counted from the operation that makes
it until Python and autograd have let it go. Scratch space inside an operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of the storages that are made inside the context, until they are let go.

    Attributes:
        held: bytes alive now.
        peak: most bytes alive at any time.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        """Begin with the storages of `existing` tensors as held."""
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()
        for tensor in existing:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # by address: views share one storage
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        # An ending interpreter need not count: it would call this for every storage that is left.
        weakref.finalize(storage, self._let_go, key, size).atexit = False

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def peak_memory(run: Callable[[], object], existing: Iterable[Tensor], device: torch.device) -> int:
    """Return the most bytes that tensors take while a computation runs.

    Args:
        run: the computation.
        existing: tensors that live before and after it, which count as well: weights, momentum,
            gradients, the batch. What else lives on a GPU meanwhile is not counted.
        device: where it runs.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        own = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in existing}
        others = max(torch.cuda.memory_allocated(device) - sum(own.values()), 0)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - others
    with TensorMemory(existing) as memory:
        run()
    return memory.peak
