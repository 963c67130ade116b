"""Invariant 1: an attack, a measurement and an evaluation leave no trace, also when the model raises midway."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import activation_attack, feature_attack, fgsm, pgd
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.criticality.activation import measure_activation_ranking
from clat.criticality.index import measure_criticality
from clat.criticality.rewinding import measure_rewinding_criticality, measure_rewinding_drop
from clat.criticality.robust_criticality import measure_robust_criticality
from clat.evaluation import evaluate
from clat.network import modes
from clat.network.layers import enumerate_layers
from clat.objectives import FastAT, Trades
from clat.objectives.base import Step


class Restless(nn.Module):
    """Everything that a forward pass may change: BatchNorm statistics, dropout and drawn noise, a counter
    buffer changed in place, a buffer replaced, numbers from Python's and NumPy's global generators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_mean", torch.zeros(()))
        self.forwards, self.fail_at = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.counter += 1
        out = self.drop(F.relu(self.bn1(self.conv1(x))))
        self.last_mean = out.detach().mean()
        out = out + 0.01 * torch.randn_like(out) + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002
        if self.forwards == self.fail_at:
            raise RuntimeError("midway")
        out = F.relu(self.bn2(self.conv2(out)))
        return self.head(out.mean((2, 3)))


@pytest.fixture
def model() -> Restless:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Restless()
    model.conv1.eval()
    model.bn2.eval()
    model.bn1.weight.requires_grad_(False)
    model.conv2.requires_grad_(False)
    for parameter in (model.conv1.weight, model.bn1.weight, model.head.bias):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.conv1.register_forward_hook(lambda module, args, output: None)
    model.register_forward_pre_hook(lambda module, args: None)
    model.head.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that must be the same afterwards: objects by identity, numbers by copy."""
    state: dict[str, Any] = {
        "torch rng": torch.get_rng_state(),
        "python rng": random.getstate(),
        "numpy rng": str(np.random.get_state(legacy=False)),  # noqa: NPY002
        "numpy key": torch.from_numpy(np.random.get_state(legacy=False)["state"]["key"].astype(np.int64)),  # noqa: NPY002
        "grad mode": torch.is_grad_enabled(),
    }
    for name, module in model.named_modules():
        state[f"{name}.training"] = module.training
        state[f"{name}.track"] = getattr(module, "track_running_stats", None)
        state[f"{name}.hooks"] = [[(key, id(f)) for key, f in getattr(module, kind).items()] for kind in HOOKS]
    for name, parameter in model.named_parameters():
        state[f"{name} id"] = id(parameter)
        state[name] = parameter.detach().clone()
        state[f"{name}.requires_grad"] = parameter.requires_grad
        state[f"{name}.grad id"] = id(parameter.grad)
        state[f"{name}.grad"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in model.named_buffers():
        state[f"{name} id"] = id(buffer)
        state[name] = buffer.clone()
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)

    return [key for key in before.keys() | after.keys() if key not in after or not same(before[key], after[key])]


def _trades(model: nn.Module, x: Tensor, y: Tensor, batch_norm: str) -> None:
    objective = Trades(steps=2, attack_bn=batch_norm)  # type: ignore[arg-type]
    objective.examples(model, x, y, Step(seed=3))


def _batch_pgd(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with modes.attack_mode(model, "train"):
        run_pgd(model, x, y, Attack.parse(steps=2), seed=0)


def _doubled(model: nn.Module) -> dict[str, Tensor]:
    """Weights to rewind to."""
    return {name: 2 * value for name, value in model.state_dict().items()}


ACTIONS: dict[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
    "pgd linf": lambda model, x, y: pgd(model, x, y, eps="8/255", steps=3),
    "pgd l2": lambda model, x, y: pgd(model, x, y, eps=0.5, norm="l2", steps=3, seed=1),
    "pgd batch statistics": _batch_pgd,
    "fgsm": lambda model, x, y: fgsm(model, x, y, eps="8/255"),
    "feature attack": lambda model, x, y: feature_attack(model, x, enumerate_layers(model, x), eps=0.1, steps=2),
    "feature attack, norm tap": lambda model, x, y: feature_attack(
        model, x, enumerate_layers(model, x)[1:], eps=0.1, steps=2, tap="norm", norm="l2"
    ),
    "trades": lambda model, x, y: _trades(model, x, y, "eval"),
    "trades batch statistics": lambda model, x, y: _trades(model, x, y, "train"),
    "weakness": lambda model, x, y: measure_criticality(model, x, y, eps="8/255", steps=2),
    "weakness, activation tap": lambda model, x, y: measure_criticality(
        model, x, y, eps="8/255", steps=2, tap="activation"
    ),
    "curvature": lambda model, x, y: measure_criticality(model, x, y, eps="8/255", steps=2, metric="curvature"),
    "activation attack": lambda model, x, y: activation_attack(
        model, x, x.flip(0), enumerate_layers(model, x)[1], eps=0.1, steps=2
    ),
    "robust criticality": lambda model, x, y: measure_robust_criticality(
        model, x, y, eps=0.1, steps=1, epochs=2, layers=enumerate_layers(model, x)
    ),
    "rewinding": lambda model, x, y: measure_rewinding_drop(model, _doubled(model), x, y),
    "rewinding criticality": lambda model, x, y: measure_rewinding_criticality(
        model, _doubled(model), x, y, alphas=3, sigmas=[0.1], draws=1
    ),
    "activation ranking": lambda model, x, y: measure_activation_ranking(
        model, x, y, eps=0.1, steps=1, layers=enumerate_layers(model, x)[1:]
    ),
    "enumerate": lambda model, x, y: enumerate_layers(model, x),
    "evaluate": lambda model, x, y: evaluate(model, x, y, protocol="pgd-10", eps="8/255", batch_size=4),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_no_trace(name: str, model: Restless, images: Tensor, labels: Tensor) -> None:
    pixels = images.clone()
    before = state_of(model)
    ACTIONS[name](model, images, labels)
    assert model.forwards > 0
    assert differences(before, state_of(model)) == []
    assert torch.equal(images, pixels)
    assert not images.requires_grad


@pytest.mark.parametrize("name", ACTIONS)
def test_no_trace_when_the_model_raises(name: str, model: Restless, images: Tensor, labels: Tensor) -> None:
    before = state_of(model)
    ACTIONS[name](model, images, labels)
    forwards = model.forwards
    for fail_at in sorted({1, forwards // 2 + 1, forwards}):
        model.forwards, model.fail_at = 0, fail_at
        with pytest.raises(RuntimeError, match="midway"):
            ACTIONS[name](model, images, labels)
        assert differences(before, state_of(model)) == [], fail_at


def test_the_comparison_sees_what_a_careless_attack_leaves(model: Restless, images: Tensor, labels: Tensor) -> None:
    before = state_of(model)
    point = images.clone().requires_grad_(True)
    F.cross_entropy(model(point), labels).backward()
    model.eval()
    np.random.rand()  # noqa: NPY002
    seen = set(differences(before, state_of(model)))
    assert {
        "torch rng", "python rng", ".training", "bn1.training", "bn1.running_mean", "bn1.num_batches_tracked",
        "conv1.weight.grad", "head.weight.grad", "counter", "last_mean", "last_mean id",
    } <= seen  # fmt: skip
    assert seen & {"numpy rng", "numpy key"}


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_trades_loss_touches_only_what_its_own_passes_touch(
    batch_norm: str, images: Tensor, labels: Tensor
) -> None:
    """In training mode the loss's two forward passes update the statistics twice, the attack's never."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    before = state_of(model)
    Trades(steps=4, attack_bn=batch_norm).loss(model, images, labels, Step(seed=1))  # type: ignore[arg-type]
    assert model[1].num_batches_tracked == 2
    assert all(key.startswith("1.") for key in differences(before, state_of(model)))
    model.eval()
    before = state_of(model)
    Trades(steps=4, attack_bn=batch_norm).loss(model, images, labels, Step(seed=1))  # type: ignore[arg-type]
    assert differences(before, state_of(model)) == []


def test_attack_mode_itself(model: Restless, images: Tensor) -> None:
    with modes.attack_mode(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with modes.attack_mode(model, "train"):
        assert [name for name, module in model.named_modules() if module.training] == ["bn1"]  # bn2 is frozen
        assert model.bn1(torch.ones(2, 4, 3, 3)).abs().max() < 1e-6  # normalised by the batch


def test_batch_statistics_are_used_when_asked_for(images: Tensor) -> None:
    bn = nn.BatchNorm2d(3)
    with modes.attack_mode(bn, "train"):
        out = bn(images)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert bn.training
    assert bn.num_batches_tracked == 0


def test_batch_norm_that_is_frozen_stays_so_in_an_attack_on_batch_statistics(images: Tensor) -> None:
    """The loss sees it with stored statistics, and the attack is on that network."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval())
    with modes.attack_mode(net, "train"):
        assert [bn.training for bn in net] == [True, False]
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10)).eval()
    frozen(images)
    y = torch.zeros(len(images), dtype=torch.long)
    batch, stored = (
        FastAT(eps="8/255", attack_bn=bn).examples(frozen, images, y, Step(seed=1)) for bn in ("train", "eval")
    )
    assert torch.equal(batch[0], stored[0])


def test_unknown_batch_norm_mode(model: Restless) -> None:
    before = state_of(model)
    with pytest.raises(ClatError, match="did you mean 'train'"), modes.attack_mode(model, "trian"):
        pass
    assert differences(before, state_of(model)) == []


def test_inference_mode_is_refused_in_one_line(model: Restless, images: Tensor, labels: Tensor) -> None:
    with torch.inference_mode(), pytest.raises(ClatError, match=r"inference_mode.*no_grad"):
        pgd(model, images, labels, eps="8/255")


def test_no_grad_outside_is_fine(model: Restless, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        found = pgd(model, images, labels, eps="8/255", steps=1)
        assert not torch.is_grad_enabled()
    assert not torch.equal(found, images)


def test_remembered_and_statistics_kept(model: Restless, images: Tensor) -> None:
    before = state_of(model)

    def careless() -> None:
        model.eval().requires_grad_(True)
        model.bn1.track_running_stats = False
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), modes.restore_flags(model):
        careless()
    assert differences(before, state_of(model)) == []
    bn = nn.BatchNorm2d(3)
    with modes.preserve_statistics(bn):
        bn(images)
    assert bn.num_batches_tracked == 0
    bn(images)
    assert bn.num_batches_tracked == 1


def test_training_mode_of_a_stage(model: Restless) -> None:
    modes.set_training(model, None)
    assert all(module.training for module in model.modules())
    modes.set_training(model, {model.bn2})
    assert [name for name, module in model.named_modules() if not module.training] == ["bn1"]


class OwnNorm(nn.Module):
    """Normalises by the batch, and updates its statistics, in whatever mode it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)
        for name, value in (
            ("mean", torch.zeros(3)),
            ("var", torch.ones(3)),
            ("wide", torch.ones(1, 1).expand(4, 4)),
        ):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.batch_norm(x, self.mean, self.var, training=True).flatten(1))


@pytest.mark.parametrize(
    "build", [OwnNorm, lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))]
)
def test_statistics_that_a_pass_updates_are_put_back(build) -> None:
    """torch's kernel writes into them without counting a change."""
    model, x = build().train(), torch.rand(4, 3, 2, 2)
    before = {name: (buffer, buffer._version, buffer.clone()) for name, buffer in model.named_buffers()}
    with modes.preserve_buffers(model):
        model(x)
        assert any(not torch.equal(buffer, copy) for buffer, _, copy in before.values())
    for name, buffer in model.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][2])
    own = OwnNorm()
    with modes.attack_mode(own):
        own(x)
    assert torch.equal(own.mean, torch.zeros(3))


def test_instance_norm_that_keeps_statistics_is_frozen_with_the_rest() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.BatchNorm2d(4))
    kept, x = {name: value.clone() for name, value in net.named_buffers()}, torch.rand(2, 3, 5, 5)

    def moved() -> list[str]:
        return [name for name, value in net.named_buffers() if not torch.equal(value, kept[name])]

    modes.set_training(net, set())
    net(x)
    assert moved() == []
    modes.set_training(net, None)
    with modes.preserve_statistics(net):
        net(x)
    assert moved() == []
    net(x)
    assert "1.running_mean" in moved()


class Observer(nn.Module):
    """Its buffer is empty until the first image, as those of quantisation-aware training are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.empty(0))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.low.resize_(x.shape[1]).copy_(x.amin((0, 2, 3)))
            self.count += 1
        return x


def test_buffers_that_grow_are_put_back_and_can_grow_again(images: Tensor, labels: Tensor) -> None:
    net = nn.Sequential(Observer(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    with modes.preserve_buffers(net):
        net(images)
    low = net[0].low
    enumerate_layers(net, images)
    evaluate(net, images, labels, eps="8/255", protocol="pgd-10")
    assert net[0].low is low
    assert low.shape == (0,)
    assert net[0].count == 0
    net(images)
    assert low.shape == (3,)


class Caching(nn.Module):
    """Keeps in evaluation mode what it computed from its weight until it is set to train, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> Caching:
        super().train(mode)
        if mode:
            self.kept = None
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.kept is None:
            self.kept = self.weight.detach().clone()
        return x.mean((2, 3)) @ (self.weight if self.training else self.kept)


def test_what_is_kept_for_evaluation_is_dropped_with_the_mode(images: Tensor, labels: Tensor) -> None:
    net, labels = nn.Sequential(Caching()), labels % 3
    pgd(net, images, labels, eps=0.1, seed=0)
    assert net.training
    with torch.no_grad():
        net[0].weight.neg_()
    fresh = nn.Sequential(Caching())
    fresh.load_state_dict(net.state_dict())
    found, expected = (pgd(one, images, labels, eps=0.1, seed=0) for one in (net, fresh))
    assert torch.equal(found, expected)


class Stubborn(nn.Conv2d):
    """Cannot be trained, and says so by an exception."""

    def train(self, mode: bool = True) -> Stubborn:
        if mode:
            raise RuntimeError("this one is a teacher")
        super().train(mode)
        return self


def test_flags_are_put_back_where_a_module_refuses_to_train(images: Tensor) -> None:
    net = nn.Sequential(Stubborn(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(RuntimeError, match="teacher"), modes.attack_mode(net):
        net(images)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
