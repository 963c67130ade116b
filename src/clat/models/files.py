"""Read and write weight files: ours (safetensors with metadata) and other people's. Nothing in them is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import replace_file
from clat.core.notices import notice
from clat.models.entries import StateDict, choose_state
from clat.models.fitting import FittingEntries, bare, bare_prefix, fitting_entries
from clat.models.names import BOOKKEEPING
from clat.models.normalize import IDENTITY, Normalize, Statistics, parse_normalize, same_statistics, statistics_of
from clat.models.reading import one_line, read_content

NORMALIZE_KEY = "clat.normalize"
"""Metadata entry in which save_weights records the model's mean and std, as JSON; null where it has none."""
DELTA_KEY = "clat.delta.base"
"""Metadata entry of a file that holds only what fine-tuning changed: the fingerprint of its base."""
MEMBERS_KEY = "clat.normalize.members"
"""The same of networks within it, such as those of a mixture, by the prefix of their names."""


def read_state(path: str | Path, key: str | None = None) -> tuple[StateDict, dict[str, str]]:
    """Return the state dict and the metadata of a weight file, on the CPU.

    Reads safetensors, and PyTorch files (.pt, .pth, .tar, .model, ...) through the restricted unpickler, which runs
    no code. A nested state dict is unwrapped by the usual keys; where the file holds several of one network, such
    as averaged weights beside the raw ones, a notice says which was taken. Entries that are no tensors are left
    out. Names stay as the file has them; load_weights is who fits them to a model.

    Args:
        path: The file.
        key: Which state dict is meant, by its key in the file ("ema", "run.ema"), or by the prefix of its names;
            None takes the usual one.

    Returns:
        The state dict, and the metadata that a safetensors file carries (empty for others).

    Raises:
        ClatError: The file is missing, a directory, damaged, holds Python objects, or has no such key.
    """
    path = Path(path)
    content, metadata = read_content(path)
    if DELTA_KEY in metadata:
        raise ClatError(
            f"weights {path}: a delta, what fine-tuning changed: put it on top of its base with clat apply"
        )
    return choose_state(content, path, key), _said(metadata, key)


def load_weights(
    model: nn.Module, path: str | Path, *, key: str | None = None, adopt: bool = False
) -> dict[str, str]:
    """Load a weight file into `model`, in place, and return the file's metadata.

    Every entry of the model must be there, by name and shape. The network is found under whatever prefix the file
    puts before its names, and with what wrappers put between their parts (clat.models.names); what lies beside it,
    such as the weights of a loss, is left out with a notice. A missing `num_batches_tracked` keeps the model's
    value, which only BatchNorm without momentum reads; entries that the model lists as `unused_entries` are
    skipped.

    A file that brings a normalisation, as ours record it or as the statistics of a wrapper, is refused by a model
    that has none: it would evaluate another function. One that has another keeps its own, with a notice, and so it
    does of a file of ours that says it has none. load_model applies the file's by itself.

    Args:
        model: Any network; in a Normalized one the weights go to the network inside.
        path: A file that read_state reads.
        key: Which of several state dicts in it; see read_state.
        adopt: Networks within the model that have no normalisation get the one that the file records of them.

    Returns:
        The metadata that a safetensors file carries, empty for others.

    Raises:
        ClatError: The file cannot be read or does not fit, or brings a normalisation that the model lacks; the
            model is then as before.
    """
    state, metadata = read_state(path, key)
    entries = fitting_entries(model, state, path, key=key)
    brought = brought_statistics(metadata, entries, path)
    own = statistics_of(model)
    if brought is not None and own is None:
        raise ClatError(
            f"weights {path}: trained with a normalisation, but this {type(bare(model)).__name__} has none; "
            "use load_model(..., weights=...), or wrap it in Normalized"
        )
    if own is not None and (trained := trained_otherwise(brought, own, metadata)) is not None:
        notice(
            f"weights {path}: trained with {trained}, but this {type(bare(model)).__name__} keeps its own, {own}, "
            "and so is another function; load_model(..., weights=...) takes the file's"
        )
    check_members(model, metadata, path, adopt=adopt)
    entries.put_into(model)
    return metadata


def brought_statistics(metadata: Mapping[str, str], entries: FittingEntries, source: object) -> Statistics | None:
    """Return the normalisation that a file brings for the network that its entries are of.

    Args:
        metadata: The metadata that read_state returned.
        entries: The file's, fitted to the network; the file may be of a larger one that it is part of.
        source: The file, for messages.

    Returns:
        Its (mean, std), None where the file says nothing of it or that there is none.

    Raises:
        ClatError: The record is damaged.
    """
    members = _recorded_members(metadata, source)
    own = members.get(entries.prefix) or members.get(entries.prefix.removesuffix(".net"))
    return own or recorded_statistics(metadata, source) or entries.statistics


def check_members(model: nn.Module, metadata: Mapping[str, str], source: object, *, adopt: bool = False) -> None:
    """Refuse networks within a model that lack a normalisation they were trained with, and tell of another one.

    Args:
        model: Any network, such as a mixture.
        metadata: The metadata that read_state returned.
        source: The file, for messages.
        adopt: One that lacks it and has a place for it gets it, in place, and is not refused.

    Raises:
        ClatError: One of them lacks it, or the record is damaged.
    """
    if MEMBERS_KEY not in metadata:
        return
    recorded, own = _recorded_members(metadata, source), dict(_of_members(model, bare_prefix(model)))
    for name in recorded.keys() | own.keys():
        brought, used = recorded.get(name), own.get(name)
        if brought is not None and used is None and (part := _part(bare(model), name)) is not None:
            if adopt and isinstance(getattr(part, "normalize", None), Normalize):
                part.normalize = Normalize(*brought)
                continue
            raise ClatError(
                f"weights {source}: its part '{name}' was trained with the normalisation {brought}, and has none "
                "here; give it that one, or wrap it in clat.Normalized"
            )
        if used is not None and not same_statistics(brought or IDENTITY, used):
            trained = "no normalisation" if brought is None else f"the normalisation {brought}"
            notice(
                f"weights {source}: its part '{name}' was trained with {trained}, but keeps its own here, {used}, "
                "and so is another function"
            )


def _recorded_members(metadata: Mapping[str, str], source: object) -> dict[str, Statistics]:
    """Return what save_weights recorded of networks within, by the prefix of their names."""
    try:
        texts = json.loads(metadata.get(MEMBERS_KEY, "{}")).items()
    except (ValueError, AttributeError) as error:
        raise _damaged(source) from error
    found = {name: recorded_statistics({NORMALIZE_KEY: text}, source) for name, text in texts}
    return {name: statistics for name, statistics in found.items() if statistics is not None}


def _part(model: nn.Module, name: str) -> nn.Module | None:
    """Return a module within a network by its name, None where there is none."""
    return dict(model.named_modules()).get(name)


def _damaged(source: object) -> ClatError:
    return ClatError(f"weights {source}: damaged record of the normalisation; save the model again")


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], source: object, *, new_classifier: bool = False
) -> None:
    """Copy a state dict into `model`, in place, by the rules of load_weights.

    Args:
        model: Any network.
        state: Tensors by name.
        source: What error messages call them.
        new_classifier: The last linear layer keeps the weights it has, whatever the state dict says of it.

    Raises:
        ClatError: The state dict does not fit; the model is then as before.
    """
    fitting_entries(model, state, source, new_classifier=new_classifier).put_into(model)


def save_weights(
    model: nn.Module,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model's parameters and buffers as safetensors, and return the path.

    The model's normalisation, or that it has none, is recorded with it. A reader, or a run that is killed, finds
    the old file or the new one whole.

    Args:
        model: Any network; of one in a Normalized, DataParallel, AveragedModel or the like the network inside is
            written, under its own names.
        path: The file, whose name ends in .safetensors; an old one is replaced, missing folders above it are made.
        metadata: Text under text keys, for the file's header.
        state: Entries to write instead of the model's, named as in model.state_dict().

    Returns:
        The path.

    Raises:
        ClatError: The name ends otherwise, the metadata are not text, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ClatError(f"weights {path}: files are written as safetensors; end the name in .safetensors")
    header = dict(metadata or {})
    if not all(isinstance(text, str) for item in header.items() for text in item):
        raise ClatError(f"weights {path}: metadata must be text under text keys; convert it with json.dumps")
    statistics = statistics_of(model)
    if statistics is not None:
        header[NORMALIZE_KEY] = _as_text(statistics)
    header.setdefault(NORMALIZE_KEY, "null")
    inside = bare_prefix(model)
    header[MEMBERS_KEY] = json.dumps({name: _as_text(one) for name, one in _of_members(model, inside)})
    # One fresh, contiguous copy an entry: safetensors refuses tied weights and views that share memory.
    copies = {
        name.removeprefix(inside): value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in (model.state_dict() if state is None else state).items()
        if isinstance(value, Tensor) and (name.startswith(inside) or name.split(".")[-1] not in BOOKKEEPING)
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: save_file(copies, temporary, header))
    except (OSError, SafetensorError) as error:
        raise ClatError(f"weights {path}: cannot write ({one_line(error)}); choose another place") from error
    return path


def _as_text(statistics: Statistics) -> str:
    return json.dumps({"mean": statistics[0], "std": statistics[1]})


def _of_members(model: nn.Module, inside: str) -> Iterator[tuple[str, Statistics]]:
    """Yield the normalisations within a network, by the prefix that the names of what they belong to have in it."""
    for name, module in model.named_modules():
        part = name.removeprefix(inside).removesuffix("normalize").rstrip(".")
        if isinstance(module, Normalize) and module.statistics is not None and part and name.endswith("normalize"):
            yield part, module.statistics


def _said(metadata: Mapping[str, str], key: str | None) -> dict[str, str]:
    """Return the metadata as they are of the whole, or of its part `key`, for which they need not hold."""
    if key is None:
        return dict(metadata)
    found = {name: text for name, text in metadata.items() if name != MEMBERS_KEY}
    try:
        members = json.loads(metadata.get(MEMBERS_KEY, "{}"))
    except ValueError:
        members = {}
    above = [key, key.removesuffix(".net")]  # a Normalized holds the network, whose names the key may be of
    own = next((members[name] for name in above if name in members), None) if isinstance(members, dict) else None
    if isinstance(own, str):
        return {**found, NORMALIZE_KEY: own}
    if MEMBERS_KEY not in metadata and has_none(metadata):
        del found[NORMALIZE_KEY]  # a file from before members were told apart
    return found


def has_none(metadata: Mapping[str, str]) -> bool:
    """Return whether save_weights recorded that a network has no normalisation: images go in as they are.

    Args:
        metadata: The metadata that read_state returned.

    Returns:
        False also of a file that says nothing of it.
    """
    return metadata.get(NORMALIZE_KEY) == "null"


def trained_otherwise(brought: Statistics | None, used: Statistics, metadata: Mapping[str, str]) -> str | None:
    """Return what a network was trained with, in words, where it is not the normalisation that it gets.

    Args:
        brought: The normalisation that comes with its weights, if any does.
        used: The one that it gets.
        metadata: The metadata that read_state returned.

    Returns:
        Such as "no normalisation"; None where it is the same one, or nobody knows.
    """
    if brought is None and not has_none(metadata):
        return None
    if same_statistics(brought or IDENTITY, used):
        return None
    return "no normalisation" if brought is None else f"the normalisation {brought}"


def recorded_statistics(metadata: Mapping[str, str], source: object) -> Statistics | None:
    """Return the normalisation that save_weights recorded in a file's metadata.

    Args:
        metadata: The metadata that read_state returned.
        source: The file, for messages.

    Returns:
        Its (mean, std), None where there is none.

    Raises:
        ClatError: The record is damaged.
    """
    if NORMALIZE_KEY not in metadata or has_none(metadata):
        return None
    try:
        record = json.loads(metadata[NORMALIZE_KEY])
        return parse_normalize((record["mean"], record["std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(source) from error
