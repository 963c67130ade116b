"""Float32 that is float32, and flags that are as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.evaluation import evaluate
from clat.evaluation.predict import predict
from clat.network import modes
from clat.network.guard import guarded
from clat.network.precision import _units, exact_float32, is_exact

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def flags() -> list[Any]:
    """Every flag; None for one that torch does not let be read."""
    backends: Any = torch.backends
    read: list[Callable[[], Any]] = [
        torch.get_float32_matmul_precision,
        lambda: backends.cudnn.allow_tf32,
        lambda: backends.cuda.matmul.allow_tf32,
    ]
    if hasattr(backends.cudnn, "conv"):
        for unit in (backends.cudnn, backends.cuda, backends.mkldnn):
            parts = (getattr(unit, name) for name in ("conv", "rnn", "matmul") if hasattr(unit, name))
            read += [lambda part=part: part.fp32_precision for part in parts]  # type: ignore[misc]
    found = []
    for one in read:
        try:
            found.append(one())
        except RuntimeError:
            found.append(None)
    return found


@pytest.fixture
def restored() -> Iterator[None]:
    before, units = flags(), [(unit, unit.fp32_precision) for kind in ("cpu", "cuda") for unit in _units(kind)]
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for unit, value in units:
        unit.fp32_precision = value
    assert flags() == before


def older(cudnn: bool, matmul: str) -> None:
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.set_float32_matmul_precision(matmul)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [True, False])
def test_flags_are_off_inside_and_as_they_were_afterwards(cudnn: bool, matmul: str) -> None:
    older(cudnn, matmul)
    before = flags()
    assert is_exact(CUDA) is (not cudnn and matmul == "highest")
    assert is_exact(CPU) is (matmul == "highest")
    with exact_float32():
        assert torch.backends.cudnn.allow_tf32 is False
        assert torch.backends.cuda.matmul.allow_tf32 is False
        assert is_exact(CUDA)
        assert is_exact(CPU)
        with exact_float32():
            pass
        assert is_exact(CUDA)
    assert flags() == before
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert flags() == before


@pytest.mark.usefixtures("restored")
def test_flags_of_the_newer_kind() -> None:
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        pytest.skip("this torch has none")
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.mkldnn.matmul.fp32_precision = "bf16"
    before = flags()
    assert None in before, "older and newer flags disagree, so the older cannot be read"
    with exact_float32():
        assert is_exact(CUDA)
        assert is_exact(CPU)
    assert flags() == before


class Watched(nn.Module):
    """Notes whether it runs in exact float32, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.exact: list[bool] = []
        self.backwards: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.exact.append(is_exact(CPU) and torch.get_float32_matmul_precision() == "highest")
        score = x.flatten(1).mean(1) - 0.5
        if score.requires_grad:
            score.register_hook(lambda _: self.backwards.append(is_exact(CPU)))
        return torch.stack([-score, score], 1)


@pytest.mark.usefixtures("restored")
def test_a_verdict_is_exact_whatever_the_flags_say() -> None:
    x, y = torch.full((2, 3, 4, 4), 0.2), torch.tensor([0, 0])
    torch.set_float32_matmul_precision("medium")
    model = Watched()
    evaluate(model, x, y, protocol="pgd-10", eps=0.1)
    # Two images alone, the first eight times (is it random?), the clean images; a step as the flags have it and the
    # verdict on what it claims; eight more, after which the iterate repeats; the verdict; did the search agree?
    assert model.exact == [True] * 11 + [False] + [True] + [False] * 8 + [True] + [False]
    assert model.backwards == [False] * 9
    model = Watched()
    evaluate(model, x, y, protocol="fab", eps=0.1)
    assert all(model.exact), "FAB's search is exact too"
    assert all(model.backwards)
    model = Watched()
    predict(model, x, y)
    assert model.exact == [True]
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_search_whose_float32_is_exact_already_is_not_repeated() -> None:
    model = Watched()
    evaluate(model, torch.full((2, 3, 4, 4), 0.2), torch.tensor([0, 0]), protocol="pgd-10", eps=0.1)
    assert model.exact == [True] * 22


@pytest.mark.parametrize("protocol", ["pgd-20", "apgd-ce"])
def test_confident_networks_in_float16_are_attacked_as_in_float32(protocol: str) -> None:
    """Their cross-entropy has gradients that float16 does not hold."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.rand(40, 3, 4, 4)
    logits = model(x)
    margin = logits.topk(2, dim=1).values.diff(dim=1).abs().median()
    with torch.no_grad():
        for parameter in (model[3].weight, model[3].bias):
            parameter.mul_(40 / margin)
    y = logits.argmax(1)
    exact = clat.evaluate(model, x, y, protocol=protocol, eps=0.1).robust_accuracy.correct
    half = clat.evaluate(model.half(), x, y, protocol=protocol, eps=0.1).robust_accuracy.correct
    assert exact < 30
    assert abs(half - exact) <= 1


def test_the_direction_of_a_gradient_alone_is_scaled_and_in_attacks_alone() -> None:
    model, x = nn.Linear(2, 2).half(), torch.rand(2, 2).half().requires_grad_(True)
    weights = torch.tensor([[1e-9, -2e-9], [0.0, 0.0]])
    with modes.attack_mode(model):
        (found,) = torch.autograd.grad((model(x) * weights).sum(), x)
    expected = torch.stack([model.weight[0] / 2 - model.weight[1], torch.zeros(2)])
    torch.testing.assert_close(found, expected.half(), rtol=2e-3, atol=0)
    with guarded(model):
        (plain,) = torch.autograd.grad((model(x) * weights).sum(), x)
    assert not plain.any()


def test_a_network_in_half_precision_with_batch_norm_in_float32_is_attacked() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).bfloat16()
    net[1].float()
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    assert clat.attacks.pgd(net, x, y, eps=0.1, steps=1, seed=0).dtype == torch.float32
