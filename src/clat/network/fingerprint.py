"""What is evaluated and where: the model's device, and short names of a model and of its samples."""

from __future__ import annotations

import hashlib
import itertools

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """Where the model is; `default` if it has no tensors. Raises ClatError if it is in several places."""
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    if len(devices) > 1:
        places = " and ".join(sorted(map(str, devices)))
        raise ClatError(f"the model's tensors are on {places}: move them to one device with model.to(device)")
    return devices.pop() if devices else default


def fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits that change with any weight or buffer of the model."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(_raw(value))
    return sha.hexdigest()[:16]


def structure_hash(model: nn.Module) -> str:
    """Return sixteen hex digits that change with any module's class or name, and with any weight's shape or type,
    but not with its values."""
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        sha.update(f"{name} {type(module).__qualname__};".encode())
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
    return sha.hexdigest()[:16]


def sample_digests(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    """One number a sample, (N,) int64, that changes with its pixels, label or number. Those of a set's parts,
    whichever process had them, make up those of the set."""
    rows = zip(x.detach().float().cpu(), y.tolist(), ids.tolist(), strict=True)
    found = []
    for image, label, number in rows:
        sha = hashlib.sha256(f"{tuple(image.shape)} {label} {number} ".encode())
        sha.update(_raw(image))
        found.append(int.from_bytes(sha.digest()[:8], "little", signed=True))
    return torch.tensor(found, dtype=torch.int64)


def digest(tensor: Tensor) -> str:
    """Sixteen hex digits that change with any value of the tensor."""
    return hashlib.sha256(_raw(tensor)).hexdigest()[:16]


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous()
    # A single element counts as contiguous whatever its stride, but cannot be viewed as bytes then.
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().data
