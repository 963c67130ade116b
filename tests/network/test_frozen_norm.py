"""Frozen BatchNorm as a scale and a shift: torch's own numbers, and nothing kept for the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import clat
from clat.attacks.ascent import input_gradient
from clat.network import modes
from clat.network.calls import CallCounter
from clat.network.edge import unwrapped
from clat.network.frozen_norm import SCALED, frozen_norms_lean


@pytest.fixture
def norm():
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3).eval().requires_grad_(False)
    with torch.no_grad():
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            value.copy_(torch.rand(3, generator=generator) + 0.5)
    return norm


def saved(run):
    """The tensors that autograd keeps of the pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        run()
    return kept


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_batch_norm(norm, images, layout, dtype):
    x = images.to(dtype).contiguous(memory_format=layout).requires_grad_(True)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    plain = norm(x)
    with frozen_norms_lean(norm):
        lean = norm(x)
    assert torch.equal(lean, plain)
    expected, found = (torch.autograd.grad(value, x, upstream)[0] for value in (plain, lean))
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.float(), upstream.float() * scale, rtol=1e-2, atol=1e-2)


def test_a_gradient_of_the_gradient(norm, images):
    x = images.double().requires_grad_(True)
    norm = norm.double()
    with frozen_norms_lean(norm):
        assert torch.autograd.gradcheck(norm, x)
        assert torch.autograd.gradgradcheck(norm, x)


def test_without_weight_and_bias(images):
    norm = nn.BatchNorm2d(3, affine=False).eval()
    x = images.requires_grad_(True)
    with frozen_norms_lean(norm):
        lean = norm(x).square().sum()
    assert torch.equal(torch.autograd.grad(lean, x)[0], torch.autograd.grad(norm(x).square().sum(), x)[0])


def test_the_input_is_not_kept(norm, images):
    x = images.requires_grad_(True)
    assert any(kept.shape == x.shape for kept in saved(lambda: norm(x)))
    with frozen_norms_lean(norm):
        assert all(kept.shape == (3,) for kept in saved(lambda: norm(x)))


@pytest.mark.parametrize("how", ["training", "moving"])
def test_what_is_not_frozen_runs_as_ever(norm, images, how):
    if how == "training":
        norm.train()
    else:
        norm.weight.requires_grad_(True)
    x = images.requires_grad_(True)
    with frozen_norms_lean(norm):
        assert "BatchNorm" in type(norm(x).grad_fn).__name__


def test_subclasses_and_patched_modules_are_left_alone(images):
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    special = Doubled(3).eval().requires_grad_(False)
    patched = nn.BatchNorm2d(3).eval().requires_grad_(False)
    patched.forward = lambda x: x
    with frozen_norms_lean(nn.Sequential(special, patched)):
        assert torch.equal(special(images), 2 * F.batch_norm(images, torch.zeros(3), torch.ones(3)))
        assert patched(images) is images
    assert "forward" in patched.__dict__


def test_nothing_is_left_behind_even_after_an_error(norm):
    def fail():
        with frozen_norms_lean(norm):
            assert "forward" in norm.__dict__
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "forward" not in norm.__dict__


@pytest.mark.parametrize("affine", [True, False])
def test_scale_and_shift_of_a_compiled_block(images, monkeypatch, affine):
    norm = nn.BatchNorm2d(3, affine=affine).eval().requires_grad_(False)
    norm.running_mean.uniform_()
    norm.running_var.uniform_(0.5, 2.0)
    expected = norm(images)
    norm.__class__ = SCALED[nn.BatchNorm2d]
    assert torch.equal(norm(images), expected)
    with frozen_norms_lean(norm):
        assert torch.equal(norm(images), expected)  # not compiled: torch's own
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(norm(images), expected)
        assert norm(images.bfloat16()).dtype == torch.bfloat16
        norm.train()
        with frozen_norms_lean(norm):
            assert norm.scale is None
        assert norm.scale is not None
    assert norm.scale is None


def test_calls_are_counted_as_those_of_batch_norm(norm, images):
    seen = []
    with frozen_norms_lean(norm), CallCounter(lambda *call: seen.append(call)):
        norm(images.requires_grad_(True))
    ((kind, number, argument, result),) = seen
    assert (kind, number) == ("norm", 0)
    assert argument is images
    assert result.grad_fn is not None


def test_an_attack_keeps_half(tiny_resnet, images):
    """Of a ResNet's pass only what the nonlinearities return, which the convolutions read."""
    net, x = tiny_resnet(), images.requires_grad_(True)

    def elements(run):
        maps = [tensor for tensor in saved(run) if tensor.dim() == 4 and len(tensor) == len(images)]
        return sum({tensor.untyped_storage().data_ptr(): tensor.numel() for tensor in maps}.values())

    net.requires_grad_(False)
    plain = elements(lambda: net(x))
    with modes.attack_mode(net):
        input_gradient(net(x).sum(), x)  # the first pass learns which convolutions a BatchNorm follows
        lean = elements(lambda: net(x))
    assert lean < 0.6 * plain


class Checkpointed(nn.Module):
    """Convolutions and BatchNorm that run anew in the backward pass."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.tail = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        self.lean = True

    def forward(self, x):
        return self.tail(checkpoint(self.body, x, use_reentrant=False) if self.lean else self.body(x))


def test_activation_checkpoints_see_one_network_twice():
    """Also where the backward pass comes after what made the network lean."""
    x, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    net = Checkpointed()
    net(x)
    plain = copy.deepcopy(net)
    plain.lean = False
    for metric in ("weakness", "curvature"):
        one, other = (clat.measure_criticality(each, x, y, eps=0.1, metric=metric) for each in (net, plain))
        assert [row.name for row in one.rows] == [row.name for row in other.rows]
        assert [row.weakness for row in one.rows] == pytest.approx([row.weakness for row in other.rows])
    gradients = []
    for each in (net, plain):
        with clat.Clat(each, ["body.3"], (x, y), eps=0.1, steps=2) as tuning:
            tuning.loss(x, y).backward()
            gradients.append(each.body[3].weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_the_copies_of_data_parallel_are_not_attacked():
    """They would compute with what is put into the original, on its device."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    wrapped = nn.DataParallel(net)
    assert unwrapped(wrapped) is net
    assert [row.name for row in clat.measure_criticality(wrapped, x, y, eps=0.1).rows] == ["0"]
    one, other = (clat.attacks.pgd(each, x, y, eps=0.1, seed=0) for each in (wrapped, net))
    assert torch.equal(one, other)
