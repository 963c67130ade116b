"""The plain network in other runtimes' formats: ONNX and `torch.export`, each read back and compared."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.checks import check_images
from clat.core.errors import ClatError
from clat.core.files import claim_output
from clat.models.reading import one_line
from clat.network.computed import copied_network
from clat.network.edge import unwrapped
from clat.network.guard import input_channels
from clat.network.outputs import logits_of

TOLERANCE = 1e-4
"""Of logits, relative to the largest: what another runtime's order of additions makes of float32."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportedNetwork:
    """A file that was written, and how well it agrees."""

    path: Path
    difference: float
    """The largest difference of a logit from the network's, over the largest logit."""
    n: int
    """Images that were compared."""


def export_network(
    model: nn.Module, path: str | Path, x: Tensor, *, tolerance: float = TOLERANCE
) -> ExportedNetwork:
    """Write a network in evaluation mode, from images in [0, 1] to logits, for batches of any size.

    Args:
        model: any network; its normalisation goes along. It is left as it is.
        path: a new file: `.onnx`, or `.pt2` for `torch.export`.
        x: images to trace and to compare by, (N, C, H, W), float in [0, 1]; two or more.
        tolerance: the largest difference of logits, relative to the largest logit.

    Returns:
        The file, and how far its logits are from the network's.

    Raises:
        ClatError: the format is neither, a library is missing, the network cannot be traced, or what was written
            gives other logits; then no file is left.
    """
    path = Path(path)
    writers = {".onnx": _write_onnx, ".pt2": _write_program}
    if path.suffix not in writers:
        raise ClatError(f"{path}: its name tells the format, and ends in .onnx or .pt2")
    check_images(x, input_channels(model))
    if len(x) < 2:
        raise ClatError("give two images or more: of one, no trace shows which axis is the batch's")
    if path.suffix == ".onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            _needs(library)
    claim_output(path)
    plain = _PlainNetwork(copied_network(unwrapped(model)).cpu().float()).eval().requires_grad_(False)
    x = x.detach().cpu().float()
    with torch.no_grad():
        expected = plain(x)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as place:
        temporary = Path(place) / path.name
        try:
            with _quiet():
                run = writers[path.suffix](plain, temporary, x[:2])
                found = torch.cat([run(x[:1]), run(x[1:])])  # other sizes of batches than the traced one
        except Exception as error:  # of compilers and runtimes
            raise ClatError(f"{path}: the network cannot be exported ({one_line(error)})") from error
        scale = float(expected.abs().amax().clamp_min(torch.finfo(torch.float32).tiny))
        difference = float((found - expected).abs().amax()) / scale
        if not difference <= tolerance:
            raise ClatError(
                f"{path}: what was exported gives other logits, by {difference:.2g} of the largest: does the "
                "network do something that its trace does not show?"
            )
        os.replace(temporary, path)
    return ExportedNetwork(path, difference, len(x))


class _PlainNetwork(nn.Module):
    """A network that returns its logits alone, and leaves its input as it is where the inner one writes into it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.net(images.clone()))
        return logits


def _program(plain: nn.Module, x: Tensor) -> Any:
    batch = torch.export.Dim("batch")
    return torch.export.export(plain, (x,), dynamic_shapes=({0: batch},))


def _write_program(plain: nn.Module, path: Path, x: Tensor) -> Run:
    torch.export.save(_program(plain, x), path)
    module = torch.export.load(path).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
        return logits

    return run


def _write_onnx(plain: nn.Module, path: Path, x: Tensor) -> Run:
    large = sum(parameter.numel() for parameter in plain.parameters()) * 4 > 1.5 * 2**30
    torch.onnx.export(
        _program(plain, x), (x,), str(path), input_names=["images"], output_names=["logits"], dynamo=True,
        external_data=large, verbose=False,
    )  # fmt: skip
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def _needs(library: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError:
        raise ClatError(
            f".onnx needs {library}, which is not installed: pip install onnx onnxruntime onnxscript"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within the exporters, which nobody here can mend
        registration = logging.getLogger("torch.onnx._internal.exporter._registration")
        registration.addFilter(_needed)
        try:
            yield
        finally:
            registration.removeFilter(_needed)


def _needed(record: logging.LogRecord) -> bool:
    """Return whether a line of the exporter's log is about more than torchvision's operators, which none needs."""
    return not str(record.msg).startswith("torchvision is not installed")
