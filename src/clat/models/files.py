"""Weight files: ours (safetensors with metadata) and other people's. Nothing in a file is ever executed."""

from __future__ import annotations

import json
import pickle
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import replace_file
from clat.models.normalize import Normalized, Statistics, parse_normalize, statistics_of

StateDict = dict[str, Tensor]

NORMALIZE_KEY = "clat.normalize"
"""Metadata entry in which save_weights records the model's mean and std, as JSON."""

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "ema",
)
"""Keys under which training scripts nest a state dict; earlier ones win where a file has several."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrapper modules put before every name."""


def read_state(path: str | Path) -> tuple[StateDict, dict[str, str]]:
    """Read (state dict, metadata) from a weight file, on the CPU.

    Reads safetensors, and PyTorch files (.pt, .pth, .tar, .model, ...) through the restricted unpickler,
    which runs no code. A state dict nested under the keys in WRAPPERS is unwrapped; entries that are no
    tensors are left out. Names stay as the file has them; load_weights is who fits prefixes such as
    `module.` to a model. Metadata is what a safetensors file carries, and empty for others. Raises
    ClatError for a file that is missing, a directory, damaged, or holds Python objects.
    """
    path = Path(path)
    if path.is_dir():
        raise ClatError(f"weights {path}: this is a directory; name the weight file in it")
    if not path.is_file():
        raise ClatError(f"weights {path}: no such file; check the path")
    try:
        if _is_safetensors(path):
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as nearly anything: zip, pickle, key and runtime errors
        raise _unreadable(path, error) from error
    return _unwrap(content, path), {}


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load a weight file into `model` (in place) and return the file's metadata.

    All entries must fit by name and shape, else ClatError names them in one line and the model stays as it
    was. Prefixes that every name in the file has and the model's do not (PREFIXES, repeated) are taken off;
    a missing `num_batches_tracked` keeps the model's value, which only BatchNorm without momentum reads;
    entries that the model lists as `unused_entries` are skipped. In a Normalized model the weights go to
    the network inside.

    A file of ours that records a normalisation is refused by a model that has none: it would evaluate another
    function. load_model applies the record by itself.
    """
    state, metadata = read_state(path)
    recorded = recorded_statistics(metadata, path)
    if recorded is not None and statistics_of(model) is None:
        raise ClatError(
            f"weights {path}: trained with a normalisation, but this {type(_bare(model)).__name__} has none; "
            "use load_model(..., weights=...), or wrap it in Normalized"
        )
    fit_state(model, state, path)
    return metadata


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], source: object, *, new_classifier: bool = False
) -> None:
    """Copy a state dict into `model` by the rules of load_weights; error messages call it `source`.
    `new_classifier`: the last linear layer keeps the weights it has, whatever the state dict says of it."""
    net = _bare(model)
    expected = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    unused = tuple(getattr(net, "unused_entries", ()))
    found = {k: v for k, v in _strip_prefixes(state, expected).items() if not k.startswith(unused)}
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, value)
    if new_classifier:
        found |= {name: value for name, value in expected.items() if name.startswith(_last_linear(net))}
    shapes = {k: (tuple(found[k].shape), tuple(v.shape)) for k, v in expected.items() if k in found}
    misfits = [f"{k}: file {file}, model {own}" for k, (file, own) in shapes.items() if file != own]
    problems = [
        _listed("missing", expected.keys() - found.keys()),
        _listed("unexpected", found.keys() - expected.keys()),
        _listed("of another shape", misfits),
    ]
    if any(problems):
        raise ClatError(
            f"weights {source} do not fit {type(net).__name__}: {'; '.join(filter(None, problems))}. "
            "Check the model's name, width and num_classes"
        )
    # Every tensor was compared above; strictness would only add a foreign module's extra state, not in files.
    net.load_state_dict(found, strict=False)


def save_weights(
    model: nn.Module,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model's parameters and buffers as safetensors, and return the path.

    `metadata` is text under text keys; `state`: write these entries, named as in model.state_dict(), instead.
    The model's normalisation, where it has one, is recorded with it; of a Normalized model the network inside is
    written, under its own names. Atomic: a reader, or a run that is killed, finds the old file or the new one
    whole. Missing folders are made. Raises ClatError for a name that does not end in .safetensors, metadata that
    is not text, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ClatError(f"weights {path}: files are written as safetensors; end the name in .safetensors")
    header = dict(metadata or {})
    if not all(isinstance(text, str) for item in header.items() for text in item):
        raise ClatError(f"weights {path}: metadata must be text under text keys; convert it with json.dumps")
    statistics = statistics_of(model)
    if statistics is not None:
        header[NORMALIZE_KEY] = json.dumps({"mean": statistics[0], "std": statistics[1]})
    inside = "net." if isinstance(model, Normalized) else ""
    # One fresh, contiguous copy an entry: safetensors refuses tied weights and views that share memory.
    copies = {
        name.removeprefix(inside): value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in (model.state_dict() if state is None else state).items()
        if isinstance(value, Tensor) and name.startswith(inside)
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: save_file(copies, temporary, header))
    except (OSError, SafetensorError) as error:
        raise ClatError(f"weights {path}: cannot write ({_one_line(error)}); choose another place") from error
    return path


def recorded_statistics(metadata: Mapping[str, str], source: object) -> Statistics | None:
    """The (mean, std) that save_weights recorded in this metadata, or None. Malformed: ClatError."""
    if NORMALIZE_KEY not in metadata:
        return None
    try:
        record = json.loads(metadata[NORMALIZE_KEY])
        return parse_normalize((record["mean"], record["std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ClatError(f"weights {source}: damaged record of the normalisation; save the model again") from error


def _last_linear(net: nn.Module) -> str:
    """What the entries of the last linear layer begin with."""
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ClatError(f"{type(net).__name__} has no linear layer that a new classifier could be")
    return f"{linear[-1]}."


def _bare(model: nn.Module) -> nn.Module:
    """The network whose names a weight file has: the one inside a Normalized, else the model itself."""
    return model.net if isinstance(model, Normalized) else model


def _is_safetensors(path: Path) -> bool:
    """By name, or by content (a JSON header after its 8-byte length), which no PyTorch file starts with."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _unwrap(content: Any, path: Path) -> StateDict:
    """Descend to the innermost state dict and keep its tensors."""
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
    keys = list(content) if isinstance(content, Mapping) else []
    state = {
        key: content[key].detach() for key in keys if isinstance(key, str) and isinstance(content[key], Tensor)
    }
    if not state:
        held = f"the entries {', '.join(map(str, keys[:5]))}" if keys else f"a {type(content).__name__}"
        raise ClatError(f"weights {path}: no state dict in it, only {held}; save the network's state_dict()")
    return state


def _strip_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> StateDict:
    """Take off prefixes that all names in the file have and not all of the model's, until none is left."""
    stripped = dict(state)
    while stripped:
        for prefix in PREFIXES:
            if _all_start(stripped, prefix) and not _all_start(expected, prefix):
                stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
                break
        else:
            break
    return stripped


def _all_start(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _listed(kind: str, names: Iterable[str], most: int = 5) -> str:
    """`3 missing (a, b, c)` with at most five names, or nothing at all."""
    every = sorted(names)
    shown = ", ".join(every[:most]) + (", ..." if len(every) > most else "")
    return f"{len(every)} {kind} ({shown})" if every else ""


def _unreadable(path: Path, error: Exception) -> ClatError:
    """The one line for a file that could not be read: refused objects and damage have different cures."""
    if isinstance(error, PermissionError):
        return ClatError(f"weights {path}: permission denied; make the file readable")
    if "unsupported global" in str(error).lower():  # the restricted unpickler's words for code it will not import
        return ClatError(
            f"weights {path}: holds Python objects, which are never executed here; where you trust its "
            "source, save the network's state_dict() alone, or as safetensors"
        )
    # torch's own advice on unpickling errors is to switch the protection off, so it is not passed on
    reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_one_line(error)})"
    return ClatError(f"weights {path}: damaged, or no weight file{reason}; fetch or save it again")


def _one_line(error: Exception, most: int = 120) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", most, placeholder="...")
