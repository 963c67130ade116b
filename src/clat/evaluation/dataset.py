"""Evaluating an image set of any size: in parts that fit into memory, shared by several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clat.core.checks import at_least
from clat.core.errors import ClatError
from clat.core.memory import release_freed_memory
from clat.core.units import Size
from clat.data import ImageSet, Loader
from clat.data.classes import are_numbers
from clat.evaluation.effort import survivor_passes
from clat.evaluation.evaluate import BATCH_SIZE, evaluate
from clat.evaluation.job import Report
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.result import Evaluation
from clat.evaluation.shares import Shares, cut_shares
from clat.evaluation.state import Extent
from clat.evaluation.subset import check_ids
from clat.models.output_names import first_names, in_other_order
from clat.network import modes
from clat.network.cost import Cost
from clat.network.edge import unwrapped
from clat.network.fingerprint import device_of
from clat.runtime.patience import wait_for_all

PART_BYTES = 2**26
"""Bytes of images that are held as float32 at a time, in whole batches where one fits."""
LONG = 1000
"""Passes of a robust image from which on processes may have to wait long for one another."""


def evaluate_set(
    model: nn.Module,
    images: ImageSet,
    *,
    protocol: str | Path | Protocol,
    eps: Size,
    ids: Tensor | Sequence[int] | None = None,
    state: str | Path | None = None,
    part_bytes: int | None = None,
    channels_last: bool = True,
    report: Report | None = None,
    about: dict[str, Any] | None = None,
    extent: Extent | None = None,
    workers: int | None = None,
    share: int | None = None,
    foreign: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate a network on an image set, which may be larger than memory.

    Within torch.distributed, each process takes a share whenever it is free (`clat.evaluation.shares`), reports on
    its own, and all return the whole result; a sample's verdict does not depend on which process had it.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits; it is left as it is.
        images: the set, in memory or streamed.
        protocol: a built-in name, a TOML file or a Protocol.
        eps: the radius, a number or a fraction such as "8/255".
        ids: evaluate these images of the set only (the 5,000-image convention), by number, in this order; None:
            all.
        state: a file name from which an interrupted evaluation goes on; each part adds its number to it, and so
            does the number of processes, where there are several.
        part_bytes: bytes of images, as float32, that are held at a time.
        channels_last: the memory layout while it goes on, faster for convolutions, if the model runs in it; it is
            left in the one that it had.
        report: told of the progress, see `clat.evaluation.job.Report`.
        about: what is added to the result's JSON, beside the data set.
        extent: go through a part of the protocol only, which is for `clat.evaluation.sampled`.
        workers: cut the set as for so many processes, though this one goes through all of it: what others have
            done of it is found by `state`. None: as for those that there are.
        share: with `workers`, this share alone, from 0; the result is of its images.
        foreign: nobody has said that the network's outputs are these classes: more outputs than classes with names
            are refused, instead of noted.
        options: further ones of `clat.evaluate`: norm, seed, batch_size, precision, keep_examples.

    Returns:
        The result, its samples in the order of `ids`.

    Raises:
        ClatError: as `clat.evaluate` does, for an empty set, for ids that are no numbers of images, or there
            twice, and for a share that there is not.
    """
    model = unwrapped(model)
    where = f"'{images.name}/{images.split}'"
    if len(images) == 0:
        raise ClatError(f"{where} is empty: there is nothing to evaluate")
    ids = torch.arange(len(images)) if ids is None else check_ids(ids, len(images), where)
    if len(ids) == 0:
        raise ClatError(f"ids name no image of {where}: there is nothing to evaluate")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    at_least("batch_size", options.get("batch_size", BATCH_SIZE), 1)
    size = _images_at_a_time(images, part_bytes)
    device = device_of(model, torch.device("cpu"))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    order = in_other_order(model, images.class_names) if foreign else None
    if order is not None:
        raise ClatError(
            f"the model names its outputs {first_names(order)}, in another order than {where} has its "
            "classes: give the names to clat.load_split or clat.as_image_set as classes=[...], or correct "
            "model.config.id2label"
        )
    logits = _tried(model, images, device, layout)
    if logits is None:
        layout = torch.contiguous_format
    notes = [*images.notes, *_outputs_note(logits, images, foreign)]
    data = {"name": images.name, "split": images.split, "n": len(ids)}
    about = {**(about or {}), "data": data, "classes": list(images.class_names)}

    def evaluated(number: int) -> Evaluation:
        part = ids[parts[number]]
        release_freed_memory()
        x, y = next(iter(Loader(images.subset(part), len(part), device="cpu").epoch()))
        x, y = x.contiguous(memory_format=layout).to(device), y.to(device)
        file = None if state is None else Path(state).with_name(f"{Path(state).name}.{prefix}-{number}")
        options_ = {"ids": part, "state": file, "report": report, "about": about, **options}
        with modes.in_layout(model, layout):
            some = None if extent is None else extent[parts[number]]
            return evaluate(model, x, y, protocol=protocol, eps=eps, extent=some, **options_)

    divided = workers or world
    prefix = "0" if divided == 1 else f"{divided}p"
    parts = cut_shares(len(ids), divided, size, uneven=_is_long(protocol, images))
    if share is not None:
        if not 0 <= share < len(parts):
            raise ClatError(f"there is no share {share}: {where} is cut into {len(parts)} for {divided} workers")
        return evaluated(share)
    shares = Shares(len(parts), rank, world)
    own: dict[int, Evaluation] = {}
    failure: ClatError | None = None
    try:
        for number in shares:
            own[number] = evaluated(number)
    except ClatError as error:
        if world == 1:
            raise
        failure = error  # to be raised by all: the others would wait for this process
        shares.give_up()
    if world == 1:
        return join_evaluations(list(own.values()), torch.cat(parts), notes)
    wait_for_all(world)  # shares can take very different times
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, failure or own)
    for theirs in gathered:
        if isinstance(theirs, ClatError):
            raise theirs
    results = {number: result for theirs in gathered for number, result in theirs.items()}
    whole = join_evaluations([results[number] for number in range(len(parts))], torch.cat(parts), notes)
    longest = max(sum(result.cost.seconds for result in theirs.values()) for theirs in gathered)
    environment = {**whole.environment, "processes": world}
    return replace(whole, cost=replace(whole.cost, seconds=longest), environment=environment)


def count_shares(images: ImageSet, count: int, protocol: str | Path | Protocol, workers: int) -> int:
    """Return into how many shares `evaluate_set` cuts a set.

    Args:
        images: the set.
        count: how many of its images are evaluated.
        protocol: as for `evaluate_set`.
        workers: as for `evaluate_set`.

    Returns:
        The number of shares, at least one.
    """
    size = _images_at_a_time(images)
    return len(cut_shares(count, workers, size, uneven=_is_long(protocol, images)))


def _is_long(protocol: str | Path | Protocol, images: ImageSet) -> bool:
    """Return whether a robust image takes so much longer than another that shares end at very different times."""
    return survivor_passes(find_protocol(protocol), images.num_classes) > LONG


def _images_at_a_time(images: ImageSet, part_bytes: int | None = None) -> int:
    """Return how many images are one part: what `part_bytes` hold, or PART_BYTES, but then whole batches.

    It is the same on every device and for every batch size, so that whoever measures a share, or goes on with
    smaller batches, finds its images.
    """
    held = max((part_bytes or PART_BYTES) // (4 * math.prod(images.shape)), 1)
    return held if part_bytes is not None or held < BATCH_SIZE else held - held % BATCH_SIZE


def _tried(model: nn.Module, images: ImageSet, device: torch.device, layout: torch.memory_format) -> Tensor | None:
    """Return the model's output for the first two images in this layout.

    None if it does not run: a model that calls view() may not.
    """
    few = images.take(min(2, len(images)))  # of one image `view` may run in any layout
    x, _ = next(iter(Loader(few, len(few), device="cpu", workers=0).epoch()))
    try:
        with modes.in_layout(model, layout), modes.attack_mode(model), torch.no_grad():
            logits: Tensor = model(x.contiguous(memory_format=layout).to(device))
    except Exception:  # a network of anybody's, which may raise anything
        return None
    return logits


def _outputs_note(logits: object, images: ImageSet, foreign: bool) -> list[str]:
    """Return a note on a network with more outputs than there are classes: nobody says which is which."""
    outputs = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else images.num_classes
    if outputs <= images.num_classes:
        return []
    said = f"the model has {outputs} outputs, the data {images.num_classes} classes"
    if foreign and not are_numbers(images.class_names):
        raise ClatError(
            f"{said} ({first_names(images.class_names)}): give the classes of all outputs, in their order, to "
            "clat.load_split or clat.as_image_set as classes=[...], or labels that are numbers of outputs as (x, y)"
        )
    return [f"{said}: they count as the first ones"]


def join_evaluations(results: list[Evaluation], places: Tensor, notes: Sequence[str] = ()) -> Evaluation:
    """Join the evaluations of all parts of a set to one.

    Args:
        results: of the parts, under the same protocol and settings; what they say beside the samples is the
            first's.
        places: where each of their samples, in order, stands in the whole, (N,) int64, each place once.
        notes: of the whole, which come before those of the parts.

    Returns:
        The whole, with the sum of the costs.
    """

    def whole(parts: list[Tensor]) -> Tensor:
        together = torch.cat(parts)
        ordered = torch.empty_like(together)
        ordered[places] = together
        return ordered

    examples = [result.x_adv for result in results if result.x_adv is not None]
    return replace(
        results[0],
        correct=whole([result.correct for result in results]),
        fooled_by=whole([result.fooled_by for result in results]),
        labels=whole([result.labels for result in results]),
        predicted=whole([result.predicted for result in results]),
        samples=whole([result.samples for result in results]),
        x_adv=whole(examples) if examples else None,
        notes=list(dict.fromkeys([*notes, *(note for result in results for note in result.notes)])),
        cost=sum((result.cost for result in results), Cost()),
    )
