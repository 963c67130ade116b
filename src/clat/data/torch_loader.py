"""The data set that a torch `DataLoader` reads: all of it, or the items that its sampler is limited to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.data.hf_objects import is_of_datasets

_PLAIN_COLLATORS = ("default_data_collator", "DefaultDataCollator")  # of transformers: they stack, as torch's does


def dataset_of(loader: DataLoader[Any], split: str) -> Any:
    """Return the data set of a `DataLoader`, or the part of it that its sampler is limited to.

    Its order, its batches and `drop_last` have no say.

    Args:
        loader: any.
        split: what its data are called in messages.

    Returns:
        The data set itself, or a subset of it, in the data set's order.

    Raises:
        ClatError: a `collate_fn` that may change the images, or a sampler that draws otherwise than each item once.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return dataset
    collate = loader.collate_fn
    if collate not in (default_collate, default_convert) and not _stacks(collate):
        name = getattr(collate, "__name__", type(collate).__name__)
        raise ClatError(
            f"the {split} data are a DataLoader with a collate_fn of its own ({name}), which is not called here:"
            " give its data set, which then has to make of each item what the network is to see"
        )
    rows = _rows(loader, len(dataset), split)
    if rows is None:
        return dataset
    if is_of_datasets(dataset, "Dataset"):
        return dataset.select(rows)  # type: ignore[attr-defined]
    if type(dataset) is TensorDataset:
        return TensorDataset(*(tensor[rows] for tensor in dataset.tensors))
    return Subset(dataset, rows)


def _stacks(collate: Any) -> bool:
    """Return whether a `collate_fn` is one of transformers' that only put items together."""
    kind = collate if hasattr(collate, "__name__") else type(collate)
    return kind.__module__.partition(".")[0] == "transformers" and kind.__name__ in _PLAIN_COLLATORS


def _rows(loader: DataLoader[Any], n: int, split: str) -> list[int] | None:
    """Return the items that a loader is limited to, sorted; None for all of them."""
    sampler: Any = loader.sampler
    if loader.batch_size is None and loader.batch_sampler is not None:
        sampler = loader.batch_sampler  # the user's own
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    known = type(sampler).__module__.partition(".")[0] in ("torch", "accelerate")  # as they are, no sub-class
    if known and isinstance(sampler, DistributedSampler) and len(sampler.dataset) == n:  # type: ignore[arg-type]
        notice(
            f"the {split} data are the whole data set: processes share it here, whatever a DistributedSampler says"
        )
        return None
    drawn: Any = None
    if known and isinstance(sampler, SubsetRandomSampler):
        drawn = sampler.indices
    elif known and isinstance(sampler, SequentialSampler):
        drawn = range(len(sampler.data_source))
    elif known and isinstance(sampler, RandomSampler):
        source = len(sampler.data_source)
        drawn = range(source) if not sampler.replacement and sampler.num_samples == source else None
    elif isinstance(sampler, list | tuple | range | np.ndarray | Tensor):
        drawn = sampler
    rows = _numbers(drawn)
    if rows is None:
        raise ClatError(
            f"the {split} data are a DataLoader with a {type(sampler).__name__}, which is not followed here: give"
            " its data set, or of some of its items torch.utils.data.Subset(dataset, indices)"
        )
    return None if rows == list(range(n)) else rows


def _numbers(drawn: Iterable[Any] | None) -> list[int] | None:
    """Return whole numbers, or lists of them, in one sorted list; None where it is something else."""
    if drawn is None:
        return None
    found: list[int] = []
    for one in drawn:
        entry = one.tolist() if isinstance(one, Tensor | np.ndarray) else one
        numbers = entry if isinstance(entry, list | tuple) else [entry]
        if not all(hasattr(number, "__index__") for number in numbers):
            return None
        found += map(int, numbers)
    return sorted(found)
