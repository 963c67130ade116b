"""A training step, counted operation by operation on tensors without content: any network, any batch, in seconds.

The code that runs is the code that trains: the objective's attack and loss, autograd's backward pass. What is
counted are eager operations in the default memory layout; compiled blocks launch fewer and move less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from clat.attacks.ascent import input_gradient
from clat.attacks.feature import run_feature_attack
from clat.attacks.settings import Attack
from clat.bench.memory import TensorMemory
from clat.bench.profile import Call, OperationCounter
from clat.core.threat_model import ThreatModel
from clat.criticality.selection import trainable_parameters
from clat.network import modes
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.layers import Layer, enumerate_layers, find_layers
from clat.objectives import Clat, Objective, Step
from clat.objectives.clat import Calibration, ClatCallback

CALIBRATED = Calibration(weight=1.0, shares_clean_pass=True)
"""What `Clat.calibration` would find, which asks for numbers: a weight, and a clean pass that can be shared, as it
can be in any network without dropout."""

_OPTIMIZER = 11
"""Reads and writes of SGD with momentum and weight decay for each number that it moves."""


@dataclass(frozen=True)
class Counted:
    """A step on `batch` images. `calls`: its operations in order; `backward`: those of the pass back to the
    weights; `gradients`: bytes; `memory`: the most bytes that tensors take."""

    batch: int
    calls: list[Call]
    backward: list[Call]
    gradients: int
    memory: int

    @property
    def flops(self) -> float:
        """Per image."""
        return sum(call.flops for call in self.calls) / self.batch

    @property
    def bytes(self) -> float:
        """That operations read and write, per image."""
        return sum(call.bytes for call in self.calls) / self.batch


@dataclass(frozen=True)
class FakeNetwork:
    """A network without content; `shape`: (C, H, W) of its images."""

    model: nn.Module
    shape: tuple[int, int, int]

    def images(self, batch: int) -> Tensor:
        return torch.empty(batch, *self.shape)

    def layers(self, numbers: Sequence[int]) -> tuple[Layer, ...]:
        """By their numbers in the criticality table."""
        return tuple(find_layers(enumerate_layers(self.model, self.images(1)), [str(one) for one in numbers]))


@contextmanager
def fake_network(build: Callable[[], nn.Module], shape: tuple[int, int, int]) -> Iterator[FakeNetwork]:
    """What `build` builds. No tensor made inside has content."""
    with (
        FakeTensorMode()
    ):  # and no mode for functions, such as a device: convolutions would not fold (clat.network.folding)
        made = FakeNetwork(build(), shape)
        point = made.images(1).requires_grad_(True)
        with modes.attack_mode(made.model):  # the first pass computes convolutions twice, to learn which ones fold
            input_gradient(made.model(point).sum(), point)
        yield made


def count_forward(net: FakeNetwork, batch: int) -> int:
    """Arithmetic of a forward pass in evaluation mode, for the whole batch."""
    with modes.attack_mode(net.model), torch.no_grad(), OperationCounter() as traffic:
        net.model(net.images(batch))
    return sum(call.flops for call in traffic.calls)


def count_step(
    net: FakeNetwork, objective: Objective, batch: int, *, layers: Sequence[Layer] = (), bfloat16: bool = True
) -> Counted:
    """A step as `clat.training.trainer` takes it. `layers`: those that move, with BatchNorm frozen; none: all."""
    model, x, y = net.model, net.images(batch), torch.zeros(batch, dtype=torch.long)
    step = Step(threat=ThreatModel.parse("8/255"), layers=tuple(layers), once=True)
    if isinstance(objective, Clat):
        step = replace(step, callback=ClatCallback.calibrated(objective, CALIBRATED))
    model.requires_grad_(False)
    modes.set_training(model, set() if layers else None)
    moving = list(trainable_parameters(model, layers or None).values())
    for parameter in moving:
        parameter.requires_grad_(True)
        parameter.grad = None
    size = sum(parameter.nbytes for parameter in moving)
    with TensorMemory([x, y, *model.parameters(), *model.buffers()]) as memory:
        with OperationCounter() as forward, _autocast(bfloat16), frozen_norms_lean(model):
            loss = objective.loss(model, x, y, step).total
        with OperationCounter() as backward:
            loss.backward()
    calls = [*forward.calls, *backward.calls, Call(0, _OPTIMIZER * size)]
    return Counted(batch, calls, backward.calls, size, memory.peak + size)  # and the momentum


def feature_attack_memory(net: FakeNetwork, layers: Sequence[Layer], batch: int, *, bfloat16: bool) -> int:
    """The most bytes that tensors take in CLAT's attack, which is what calibrates lambda, too."""
    x, attack = net.images(batch), Attack.parse(eps="8/255", steps=2)
    with TensorMemory([x, *net.model.parameters()]) as memory, modes.attack_mode(net.model), _autocast(bfloat16):
        run_feature_attack(net.model, x, layers, attack, tap="output", relative=False, seed=0)
    return memory.peak


def _autocast(bfloat16: bool) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16)
