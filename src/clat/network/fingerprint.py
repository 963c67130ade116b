"""Tell what is evaluated and where: the model's device, and short names of a model and of its samples."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """Return the device that the model is on.

    Args:
        model: any network.
        default: the device of a network that has no tensors.

    Returns:
        The device of all parameters and buffers.

    Raises:
        ClatError: they are on several devices.
    """
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    if len(devices) > 1:
        places = " and ".join(sorted(map(str, devices)))
        raise ClatError(f"the model's tensors are on {places}: move them to one device with model.to(device)")
    return devices.pop() if devices else default


def fingerprint(model: nn.Module) -> str:
    """Return sixteen hex digits that change with any weight or buffer of the model.

    Args:
        model: any network; its names count, its device does not.

    Returns:
        The digits, the start of a SHA-256.
    """
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode())
        for part in _parts(value):
            sha.update(part)
    return sha.hexdigest()[:16]


def structure_hash(model: nn.Module) -> str:
    """Return sixteen hex digits that change with the model's structure, but not with the values of its weights.

    Args:
        model: any network.

    Returns:
        The digits. They change with any module's class or name, and with any weight's shape or type.
    """
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        sha.update(f"{name} {type(module).__qualname__};".encode())
    for name, value in sorted(model.state_dict().items()):
        kind = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        sha.update(f"{name} {kind};".encode())
    return sha.hexdigest()[:16]


def identity(model: nn.Module) -> dict[str, str] | None:
    """Return what tells whose result it is: the hashes of the weights and of the structure.

    Args:
        model: any network.

    Returns:
        Both; None where there are no weights, or none that can be read as bytes.
    """
    if not model.state_dict():
        return None
    try:
        return {"weights": fingerprint(model), "structure": structure_hash(model)}
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def sample_digests(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
    """Return a number for each sample that changes with its pixels, label or id.

    Those of a set's parts, whichever process had them, make up those of the set.

    Args:
        x: images, (N, C, H, W).
        y: labels, (N,) int64.
        ids: the samples' numbers in their data set, (N,) int64.

    Returns:
        The numbers, (N,) int64, over the whole range of that type.
    """
    rows = zip(x.detach().float().cpu(), y.tolist(), ids.tolist(), strict=True)
    found = []
    for image, label, number in rows:
        sha = hashlib.sha256(f"{tuple(image.shape)} {label} {number} ".encode())
        sha.update(_raw(image))
        found.append(int.from_bytes(sha.digest()[:8], "little", signed=True))
    return torch.tensor(found, dtype=torch.int64)


def digest(tensor: Tensor) -> str:
    """Return sixteen hex digits that change with any value of the tensor.

    Args:
        tensor: any tensor; neither its shape nor its device counts.

    Returns:
        The digits, the start of a SHA-256.
    """
    return hashlib.sha256(_raw(tensor)).hexdigest()[:16]


def _parts(value: object) -> Iterator[bytes | memoryview]:
    """Yield the bytes of an entry of a state: of quantised layers it is no tensor, but a tuple of them."""
    if isinstance(value, Tensor):
        yield _raw(value.dequantize() if value.is_quantized else value)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)
    else:
        known = value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype)
        yield (repr(value) if known else type(value).__name__).encode()


def _raw(tensor: Tensor) -> memoryview:
    whole = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    flat = whole.resolve_conj().resolve_neg().cpu().contiguous()
    # A single element counts as contiguous whatever its stride, but cannot be viewed as bytes then. A copy, as what
    # NumPy has seen can never be resized again, which the buffers of observers are.
    return flat.as_strided((flat.numel(),), (1,)).clone().view(torch.uint8).numpy().data
