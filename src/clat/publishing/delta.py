"""What fine-tuning changed, as a file: the tensors that differ from a base, and the base's fingerprint.

CLAT moves a few percent of a network, so its delta is that much of a weight file. It is applied to the very base
that it was taken from, or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import claim_output
from clat.models.files import DELTA_KEY, NORMALIZE_KEY, recorded_statistics, save_weights
from clat.models.fitting import bare, bare_prefix, listed
from clat.models.normalize import statistics_of
from clat.models.reading import read_content
from clat.network.fingerprint import digest, fingerprint

BASE, RESULT = DELTA_KEY, "clat.delta.result"
"""Entries of the file's header: fingerprints of the network that it is for, and of the one that it gives."""


def save_delta(base: nn.Module, tuned: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Write the parameters and buffers in which a network differs from its base.

    Args:
        base: the network before, of the same structure.
        tuned: the network after.
        path: a new file that ends in .safetensors.

    Returns:
        Name -> tensor, of those that were written; they share the memory of `tuned`.

    Raises:
        ClatError: the networks have other names, shapes or normalisations, or do not differ; or the file exists
            already or cannot be written.
    """
    before, after = _tensors(base), _tensors(tuned)
    if {name: (one.shape, one.dtype) for name, one in before.items()} != {
        name: (one.shape, one.dtype) for name, one in after.items()
    }:
        odd = {*before, *after} - (before.keys() & after.keys())
        raise ClatError(
            f"base and network differ in their structure: {listed('names of one alone', odd) or 'shapes'}; "
            "a delta holds values only"
        )
    if statistics_of(base) != statistics_of(tuned):
        raise ClatError("base and network normalise their images differently: a delta holds weights only")
    moved = {name: value for name, value in after.items() if digest(value) != digest(before[name])}
    if not moved:
        raise ClatError("base and network are the same: there is no delta to write")
    claim_output(path)
    header = {BASE: fingerprint(bare(base)), RESULT: fingerprint(bare(tuned))}
    save_weights(tuned, path, header, state={f"{bare_prefix(tuned)}{name}": value for name, value in moved.items()})
    return moved


def apply_delta(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Put a delta into its base, in place.

    Args:
        model: the base, with the weights that the delta was taken from.
        path: the file that `save_delta` wrote.

    Returns:
        Name -> the tensor's new values, of those that changed.

    Raises:
        ClatError: it is no delta, or belongs to another base; the network is then as it was.
    """
    path = Path(path)
    content, header = read_content(path)
    if BASE not in header or not isinstance(content, dict):
        raise ClatError(f"{path} is no delta of clat: load whole weights with clat.load_weights (--weights)")
    net = bare(model)
    here = fingerprint(net)
    if here != header[BASE]:
        already = (
            "it is applied already" if here == header.get(RESULT) else "load the weights that it was taken from"
        )
        raise ClatError(f"{path} is for a base with the fingerprint {header[BASE]}, this one has {here}: {already}")
    recorded = recorded_statistics(header, path) if NORMALIZE_KEY in header else None
    if recorded != statistics_of(model):
        raise ClatError(f"{path} is for a base that normalises its images differently: {json.dumps(recorded)}")
    own = _tensors(model)
    # The fingerprint says that names and shapes of the base are these; a torn file may still hold others.
    if any(name not in own or value.shape != own[name].shape for name, value in content.items()):
        raise ClatError(f"{path} is damaged: it holds tensors that its base has not; fetch it again")
    before = {name: own[name].clone() for name in content}
    with torch.no_grad():
        for name, value in content.items():
            own[name].copy_(value)
    if RESULT in header and fingerprint(net) != header[RESULT]:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
        raise ClatError(f"{path} is damaged: the base with it has another fingerprint than it says; fetch it again")
    return content


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict's tensors, which share the network's memory."""
    return {name: value.detach() for name, value in bare(model).state_dict().items() if isinstance(value, Tensor)}
