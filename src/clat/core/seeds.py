"""One way to make a seed: hash what it is for.

Nothing in the project walks a shared random stream. A random draw belongs to a place (the run's seed, a
purpose, an epoch, a batch), and its generator is seeded from that place alone, so a run that is killed and
resumed, or split over several processes, draws the same numbers, and no code path can shift another one's
numbers.
"""

from __future__ import annotations

import hashlib
import operator
import random

import numpy as np
import torch


def derive_seed(*parts: int | str | float | None) -> int:
    """Return a seed that depends on every part, their types and their order.

    Args:
        *parts: integers, strings, floats or None, for example ``(seed, "augment", epoch, batch)``. NumPy scalars
            and booleans count as the plain number they hold.

    Returns:
        An integer in [0, 2**63), the first eight bytes of BLAKE2b over the parts' ``repr``, less a bit. It is the
        same on every machine and Python version, and accepted by ``torch.Generator.manual_seed`` and
        ``numpy.random.default_rng``.

    Raises:
        TypeError: a part's ``repr`` need not be stable (a list, a tensor, an object).

    Examples:
        >>> derive_seed(0, "augment", 1, 2) == derive_seed(0, "augment", 2, 1)
        False
    """
    text = repr(tuple(_plain(part) for part in parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str | float | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a random generator seeded with ``derive_seed(*parts)``.

    The CPU and CUDA generators give different numbers for one seed; draw small parameters on the CPU and move them
    where results must not depend on the device.

    Args:
        *parts: what the numbers are for, as in `derive_seed`.
        device: where the numbers will be drawn.

    Returns:
        A new generator, which nothing else draws from.

    Raises:
        TypeError: a part that `derive_seed` refuses.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def seed_global(seed: int) -> None:
    """Seed the global random states: those of torch on every device, of Python's `random` and of NumPy.

    Networks draw from them in their forward pass: dropout from torch's, older stochastic depth from the others.

    Args:
        seed: a number of 63 bits, as `derive_seed` returns it.
    """
    torch.manual_seed(seed)
    seed_python(seed)


def seed_python(seed: int) -> None:
    """Seed the global random states of Python's `random` and of NumPy.

    Args:
        seed: a number of 63 bits, of which NumPy takes 32.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (what users draw from)


def permutation(n: int, *parts: int | str | float | None) -> torch.Tensor:
    """Return a random order of ``range(n)`` that depends only on n and the parts.

    It is the sorting order of n raw 64-bit words. NumPy promises the raw words of PCG64 for ever; neither
    ``Generator.permutation`` nor ``torch.randperm`` promises to give the same order in the next release.

    Args:
        n: how many numbers are put in order.
        *parts: what the order is for, as in `derive_seed`.

    Returns:
        The order, int64, (n,), on the CPU.

    Raises:
        TypeError: a part that `derive_seed` refuses.
    """
    words = np.random.PCG64(derive_seed(*parts)).random_raw(n)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def _plain(part: object) -> int | str | float | None:
    """Return the part as a built-in value: NumPy 2 writes ``np.int64(3)`` where Python writes ``3``."""
    if part is None or isinstance(part, str):
        return None if part is None else str(part)
    if isinstance(part, float):
        return float(part)
    if not isinstance(part, torch.Tensor):
        try:
            return operator.index(part)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"a seed is made of int, str, float or None, not {type(part).__name__}: {part!r}")
