"""Average tensors over processes in messages of moderate size.

Gradients are sent after the backward pass. Sent in buckets behind it, as DistributedDataParallel does, they arrived
no sooner where that was measured (`benchmarks.gradient_overlap`); but a bucket that fits the cache is put together,
divided and copied back faster than one message of everything, and the next ones are under way meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BUCKET_BYTES = 5 * 2**20
"""A bucket is closed when it holds so much."""


def buckets_of(tensors: Sequence[Tensor], size: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """Yield tensors in their order, in lists of a size.

    Args:
        tensors: any.
        size: bytes at which a list is closed.

    Yields:
        Lists of which all but the last hold at least `size` bytes, and without its last tensor less.
    """
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        bucket.append(tensor)
        held += tensor.numel() * tensor.element_size()
        if held >= size:
            yield bucket
            bucket, held = [], 0
    if bucket:
        yield bucket


@torch.no_grad()
def average_in_buckets(tensors: Sequence[Tensor], world: int) -> None:
    """Replace each tensor, in place, by its mean over the processes of torch.distributed. All must call it.

    Args:
        tensors: floating point, the same shapes in every process, in the same order.
        world: how many processes there are.
    """
    sent = []
    for bucket in buckets_of(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        sent.append((bucket, flat, torch.distributed.all_reduce(flat, async_op=True)))
    for bucket, flat, message in sent:
        message.wait()
        flat.div_(world)
        for tensor, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))
