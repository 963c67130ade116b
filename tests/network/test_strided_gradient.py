"""Weight gradients of strided 1x1 convolutions: right where oneDNN's own are not, untouched where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.network import strided_gradient
from clat.network.strided_gradient import guard_strided_gradients, leaves_unwritten, overruns

SWEEP = Path(__file__).with_name("gradient_sweep.py")
EXACT = 3e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_gradients_are_those_of_float64_whatever_vectors_the_cpu_has(instructions: str, threads: int) -> None:
    forced = {"ONEDNN_MAX_CPU_ISA": instructions, "MALLOC_PERTURB_": "165", "OMP_WAIT_POLICY": "passive"}
    if instructions == "AVX2":
        forced["ATEN_CPU_CAPABILITY"] = "avx2"
    done = subprocess.run(
        [sys.executable, str(SWEEP), str(threads)],
        env=os.environ | forced,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout)
    assert len(errors) == 127
    assert [found for found in errors if not max(found[1]) < EXACT] == []


def strided(channels: int = 4, **changes: Any) -> dict[str, Any]:
    """Arguments of `overruns`: those of an affected convolution, with `changes`."""
    x = torch.zeros(2, channels, 8, 8).to(memory_format=torch.channels_last)
    weight = torch.zeros(6, channels, 1, 1)
    gradient = torch.zeros(2, 6, 4, 4)
    return {
        "gradient": gradient,
        "x": x,
        "weight": weight,
        "stride": (2, 2),
        "padding": (0, 0),
        "transposed": False,
        "groups": 1,
    } | changes


@pytest.mark.parametrize("channels", [1, 4, 7, 12, 15])
def test_few_channels_are_affected(channels: int) -> None:
    assert overruns(**strided(channels))


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2,)},
        {"stride": (1, 2), "gradient": torch.zeros(2, 6, 8, 4)},
        {"x": torch.zeros(2, 4, 8, 8), "weight": torch.zeros(6, 4, 1, 1).to(memory_format=torch.channels_last)},
        {
            "transposed": True,
            "x": torch.zeros(2, 6, 4, 4).to(memory_format=torch.channels_last),
            "gradient": torch.zeros(2, 4, 8, 8),
        },
    ],
    ids=["one stride for both", "strides that differ", "weight in channels-last", "transposed"],
)
def test_variants_are_affected(changes: dict[str, Any]) -> None:
    assert overruns(**strided(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 16},
        {"stride": (1, 1), "gradient": torch.zeros(2, 6, 8, 8)},
        {"weight": torch.zeros(6, 4, 3, 3)},
        {"padding": (0, 1)},
        {"x": torch.zeros(2, 4, 8, 8)},
        {"x": torch.zeros(2, 4, 8, 7).to(memory_format=torch.channels_last)},
        {"x": torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)},
        {"x": torch.zeros(2, 8, 8, 8).to(memory_format=torch.channels_last), "groups": 2},
        {
            "x": torch.zeros(2, 4, 8),
            "weight": torch.zeros(6, 4, 1),
            "gradient": torch.zeros(2, 6, 4),
            "stride": (2,),
        },
    ],
    ids=["16 channels", "stride 1", "3x3", "padding", "contiguous", "odd size", "bfloat16", "groups", "1-D"],
)
def test_the_rest_is_left_to_torch(changes: dict[str, Any]) -> None:
    assert not overruns(**strided(**changes))


def gradients(x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]) -> tuple[Tensor | None, ...]:
    y = torch.full((len(x), len(weight), x.shape[2] // 2, x.shape[3] // 2), 0.5, dtype=x.dtype)
    y = y + torch.arange(len(weight)).view(-1, 1, 1) / 8
    further = ((2, 2), (0, 0), (1, 1), False, (0, 0), 1)
    return torch.ops.aten.convolution_backward(y, x, weight, (len(weight),), *further, mask)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
)
def test_only_what_is_asked_for_is_computed(wanted: tuple[bool, bool, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(6, 4, 1, 1, generator=generator)
    exact = gradients(x.double(), weight.double(), (True, True, True))
    for found, right, asked in zip(gradients(x, weight, wanted), exact, wanted, strict=True):
        assert (found is not None) == asked
        if found is not None and right is not None:
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


def test_padding_of_a_transposed_convolution_is_heeded() -> None:
    """Without a say in a 1x1 kernel, a dilation still allows so much output padding that the sizes fit again."""
    layer = nn.ConvTranspose2d(6, 4, 1, stride=2, padding=1, output_padding=3, dilation=4)
    x = torch.randn(2, 6, 8, 8).to(memory_format=torch.channels_last)
    assert layer(x).shape[2:] == (16, 16)
    upstream = torch.rand(2, 4, 16, 16)
    (found,) = torch.autograd.grad(layer(x), layer.weight, upstream)
    layer = layer.double()
    (right,) = torch.autograd.grad(layer(x.double()), layer.weight, upstream.double())
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


def projection(dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2), nn.Tanh(), nn.Conv2d(6, 3, 1, stride=2), nn.Flatten())
        x = torch.randn(3, 4, 16, 16)
    model = model.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, x.to(dtype).to(memory_format=torch.channels_last)


def test_second_derivatives_pass_through() -> None:
    def second(dtype: torch.dtype) -> list[Tensor]:
        model, x = projection(dtype)
        parameters = list(model.parameters())
        first = torch.autograd.grad(model(x).square().sum(), parameters, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))

    for found, right in zip(second(torch.float32), second(torch.float64), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))


def test_compiled_code_comes_through_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = projection(torch.float32)
    plain = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    seen = []
    monkeypatch.setattr(strided_gradient, "overruns", lambda *given: seen.append(given) or overruns(*given))
    compiled = torch.compile(model, backend="aot_eager")
    for found, right in zip(torch.autograd.grad(compiled(x).sum(), list(model.parameters())), plain, strict=True):
        torch.testing.assert_close(found, right)
    assert len(seen) == 2


def test_per_sample_gradients_pass_through() -> None:
    model, x = projection(torch.float32)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        y = torch.func.functional_call(model, parameters, (image.unsqueeze(0),))
        assert isinstance(y, Tensor)
        return y.sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    whole = torch.autograd.grad(model(x).sum(), list(parameters.values()))
    for name, right in zip(parameters, whole, strict=True):
        torch.testing.assert_close(each[name].sum(0), right, rtol=1e-4, atol=1e-4)


def filled_with_nan() -> None:
    """Leave NaN in the memory that the next tensors get, so that what is not written shows."""
    held = [torch.full((size,), float("nan")) for size in (64, 1024, 4096, 16384, 65536) for _ in range(4)]
    del held


NARROW = {
    "one pixel": {"size": (1, 1)},
    "one pixel a row": {"size": (3, 1)},
    "narrower than the stride": {"size": (2, 2), "stride": 3},
    "steps along the rows alone": {"size": (1, 1), "stride": (1, 2)},
    "a wide kernel": {"size": (1, 1), "kernel": 5},
    "two groups": {"size": (1, 1), "groups": 2},
    "not channels-last": {"size": (1, 1), "layout": torch.contiguous_format},
    "one dimension": {"size": (1,)},
}


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16_gradients_of_images_narrower_than_the_stride_are_those_of_float64(name: str) -> None:
    """oneDNN leaves parts of them unwritten."""
    case = {"stride": 2, "kernel": 3, "groups": 1, "layout": torch.channels_last, **NARROW[name]}
    size, kernel = case["size"], case["kernel"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, *size, generator=generator).bfloat16()
    weight = torch.randn(16, 16 // case["groups"], *[kernel] * len(size), generator=generator).bfloat16()
    if len(size) == 2:
        x, weight = (tensor.to(memory_format=case["layout"]) for tensor in (x, weight))
    convolve = F.conv2d if len(size) == 2 else F.conv1d

    def found(*tensors: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias = inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        y = convolve(x, weight, bias, stride=case["stride"], padding=kernel // 2, groups=case["groups"])
        filled_with_nan()
        return torch.autograd.grad(y.square().sum() / 2, inputs)

    tensors = (x, weight, torch.zeros(16, dtype=torch.bfloat16))
    for own, right in zip(found(*tensors), found(*[tensor.double() for tensor in tensors]), strict=True):
        torch.testing.assert_close(own.double(), right, rtol=0.02, atol=0.02 * float(right.abs().max()))


@pytest.mark.parametrize(
    "changes", [{"x": torch.zeros(2, 4, 8, 1)}, {"weight": torch.zeros(6, 4, 3, 1)}, {"stride": (2, 1)}]
)
def test_what_is_written_whole_is_left_to_torch(changes: dict[str, Any]) -> None:
    narrow = {
        "gradient": torch.zeros(2, 6, 4, 1),
        "x": torch.zeros(2, 4, 8, 1, dtype=torch.bfloat16),
        "weight": torch.zeros(6, 4, 3, 3),
        "stride": (2, 2),
        "transposed": False,
    }
    assert leaves_unwritten(**narrow)
    assert not leaves_unwritten(**{**narrow, **changes})


def test_guarding_again_changes_nothing() -> None:
    before = strided_gradient._library
    guard_strided_gradients()
    assert strided_gradient._library is before


def test_a_convolution_that_is_sound_keeps_its_bits() -> None:
    x = torch.randn(3, 4, 9, 9).to(memory_format=torch.channels_last)
    weight, upstream = torch.randn(6, 4, 3, 3), torch.randn(3, 6, 5, 5)
    given = (upstream, x, weight, [6], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])
    operator: Any = torch.ops.aten.convolution_backward.default
    for found, own in zip(operator(*given), operator.redispatch(strided_gradient._SHARED, *given), strict=True):
        assert torch.equal(found, own)
    assert F.conv2d(x, weight, stride=2, padding=1).shape == upstream.shape
