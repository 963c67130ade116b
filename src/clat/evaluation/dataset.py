"""Evaluating an image set of any size: in parts that fit into memory, shared by several processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clat.data import ImageSet, Loader
from clat.errors import ClatError
from clat.evaluation.cost import Cost
from clat.evaluation.evaluate import Evaluation, Report, evaluate
from clat.evaluation.protocols import Protocol
from clat.units import Size

PART_BYTES = 2**30
"""Images held as float32 at a time."""


def evaluate_set(
    model: nn.Module,
    images: ImageSet,
    *,
    protocol: str | Path | Protocol,
    eps: Size,
    ids: Tensor | None = None,
    state: str | Path | None = None,
    part_bytes: int = PART_BYTES,
    channels_last: bool = True,
    report: Report | None = None,
    about: dict[str, Any] | None = None,
    **options: Any,
) -> Evaluation:
    """`clat.evaluate` on an `ImageSet`, which may be larger than memory; options as there.

    `ids`: evaluate these images of the set only (the 5,000-image convention), by number. `state`: a file name from
    which an interrupted evaluation goes on; each process and part adds its number to it. Within torch.distributed,
    each process takes every world-th image and all return the whole result; a sample's verdict does not depend on
    which process had it.
    """
    ids = torch.arange(len(images)) if ids is None else ids
    if len(ids) == 0:
        raise ClatError(f"'{images.name}/{images.split}' is empty: there is nothing to evaluate")
    if int(ids.min()) < 0 or int(ids.max()) >= len(images):
        raise ClatError(f"ids reach to {int(ids.max())}, but '{images.name}' has {len(images)} images")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    size = max(1, part_bytes // (4 * images.nbytes // len(images)))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    about = {**(about or {}), "data": {"name": images.name, "split": images.split, "n": len(ids)}}
    results: list[Evaluation] = []
    for number, part in enumerate(ids[rank::world].split(size)):
        x, y = next(iter(Loader(images.subset(part), len(part), device="cpu").epoch()))
        fits = device.type != "cpu" and x.numel() * 4 < part_bytes
        x, y = x.contiguous(memory_format=layout), y
        if fits:
            x, y = x.to(device), y.to(device)
        file = None if state is None else Path(state).with_name(f"{Path(state).name}.{rank}-{number}")
        results.append(
            evaluate(
                model, x, y, protocol=protocol, eps=eps, ids=part, state=file, report=report, about=about, **options
            )
        )
    if world > 1:
        gathered: list[list[Evaluation]] = [[]] * world
        dist.all_gather_object(gathered, results)
        results = [result for theirs in gathered for result in theirs]
        longest = max(sum(result.cost.seconds for result in theirs) for theirs in gathered)
    places = torch.cat([torch.arange(len(ids))[start::world] for start in range(world)])
    whole = _joined(results, places)
    return whole if world == 1 else replace(whole, cost=replace(whole.cost, seconds=longest))


def _joined(results: list[Evaluation], places: Tensor) -> Evaluation:
    """One evaluation of all the parts; `places`: where each of their samples stands in the whole."""

    def whole(parts: list[Tensor]) -> Tensor:
        together = torch.cat(parts)
        ordered = torch.empty_like(together)
        ordered[places] = together
        return ordered

    cost = sum((result.cost for result in results), Cost())
    return replace(
        results[0],
        correct=whole([result.correct for result in results]),
        fooled_by=whole([result.fooled_by for result in results]),
        cost=cost,
    )
