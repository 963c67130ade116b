"""Weight files: entries of other names, shapes, types and values, in every format, some of them damaged."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save
from tests.robustness.inputs.values import MODEL, MODULE, NETWORK, SMALL, Input, damaged
from torch import Tensor

SHAPES = {
    "conv1.weight": (4, 3, 3, 3), "conv1.bias": (4,), "conv2.weight": (8, 4, 3, 3), "conv2.bias": (8,),
    "head.weight": (10, 8), "head.bias": (10,),
    **{f"bn1.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")},
    **{f"bn2.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")},
    "bn1.num_batches_tracked": (), "bn2.num_batches_tracked": (),
}  # fmt: skip
WRAPS = (
    "module.", "net.", "model.", "_orig_mod.", "backbone.", "0.", "encoder.", "module._orig_mod.", "a b.", "é.",
)  # fmt: skip
KEYS = ("state_dict", "model", "net", "ema", "state_dict_ema", "model_ema", "swa_state_dict", "weights", "")


class Trap:
    """Unpickled by anything that runs code, it leaves a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _odd(tensor: Tensor, how: str) -> Any:
    match how:
        case "nan":
            return torch.full_like(tensor.float(), float("nan"))
        case "inf":
            return torch.full_like(tensor.float(), float("inf"))
        case "huge":
            return torch.full_like(tensor.float(), 1e38)
        case "negative":
            return -tensor.abs() - 1
        case "half":
            return tensor.half()
        case "double":
            return tensor.double()
        case "int":
            return tensor.long()
        case "bool":
            return tensor.bool()
        case "complex":
            return tensor.to(torch.complex64)
        case "sparse":
            return tensor.to_sparse()
        case "meta":
            return tensor.to("meta")
        case "quantised":
            return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)
        case "shape":
            return tensor.flatten()
        case "more":
            return torch.cat([tensor.reshape(1, -1)] * 2)
        case "scalar":
            return 3
        case "list":
            return tensor.tolist()
        case "none":
            return None
        case "text":
            return "weights"
        case _:
            return tensor.expand(2, *tensor.shape)


ODD = (
    "nan", "inf", "huge", "negative", "half", "double", "int", "bool", "complex", "sparse", "meta", "quantised",
    "shape", "more", "scalar", "list", "none", "text", "expanded",
)  # fmt: skip


@st.composite
def _state(draw: st.DrawFn) -> dict[Any, Any]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    state: dict[Any, Any] = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(5) for name, shape in SHAPES.items()
    }
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(SHAPES)))
        match draw(st.sampled_from(["odd", "odd", "odd", "drop", "rename", "extra", "number"])):
            case "odd" if isinstance(state.get(name), Tensor):
                state[name] = _odd(state[name], draw(st.sampled_from(ODD)))
            case "drop":
                state.pop(name, None)
            case "rename" if name in state:
                state[draw(st.sampled_from([name.upper(), name + ".x", "", "a.b.c", name.replace(".", "/")]))] = (
                    state.pop(name)
                )
            case "extra":
                state[draw(st.sampled_from(["extra", "loss.weight", "n_averaged", "conv3.weight"]))] = torch.rand(3)
            case _:
                state[draw(st.integers(0, 3))] = torch.rand(2)
    if draw(st.integers(0, 2)) == 0:
        prefix = draw(st.sampled_from(WRAPS))
        state = {f"{prefix}{name}" if isinstance(name, str) else name: value for name, value in state.items()}
    return state


@st.composite
def _content(draw: st.DrawFn) -> Any:
    state = draw(_state())
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        more: dict[Any, Any] = {"epoch": 3, "best": 0.5}
        if draw(st.booleans()):
            more[draw(st.sampled_from(KEYS))] = draw(_state())
        state = {draw(st.sampled_from(KEYS)): state, **more}
    return draw(st.sampled_from([state] * 24 + [[state], (state,), list(state.items()), None, 3, torch.rand(3)]))


def _saved(content: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "safetensors" and isinstance(content, dict):
            flat = {
                str(k): v.clone().contiguous()
                for k, v in content.items()
                if isinstance(v, Tensor) and not v.is_sparse
            }
            try:
                return save(flat, {"note": "x"})
            except Exception:
                kind = "zip"
        if kind == "pickle":
            return pickle.dumps(content)
        try:
            torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip")
        except Exception:
            return b"unsaveable"
    return buffer.getvalue()


@st.composite
def weight_files(draw: st.DrawFn) -> Input:
    """A weight file from which a small network is evaluated."""
    content = draw(_content())
    if draw(st.integers(0, 14)) == 0:
        content = {"state_dict": content, "hook": Trap()}
    whole = _saved(
        content, draw(st.sampled_from(["zip"] * 5 + ["safetensors"] * 3 + ["legacy", "legacy", "pickle"]))
    )
    data = draw(damaged(whole)) if draw(st.integers(0, 9)) == 0 else whole
    name = draw(
        st.sampled_from(["net.pt", "net.pth", "net.safetensors", "net.pth.tar", "net.ckpt", "net", "net.bin"])
    )
    words = ("evaluate", "--model", MODEL, *SMALL, "--protocol", "fgsm", "--eps", "0.1", "--weights", name)
    key = draw(st.sampled_from([None] * 24 + [*KEYS]))
    return Input(words if key is None else (*words, "--weights-key", key), {MODULE: NETWORK.encode(), name: data})
