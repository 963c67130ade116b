"""A convolution and the frozen BatchNorm after it as one: the same function, whatever stands between or beside."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from clat.attacks.ascent import input_gradient
from clat.core.errors import ClatError
from clat.network import folding, modes
from clat.network.folding import DeferredConv, fold, unfolded
from clat.network.frozen_norm import frozen_norms_lean


def settled(norm):
    """With statistics and weights that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if value is not None:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return norm


class Pair(nn.Module):
    """A convolution, `between`, a BatchNorm."""

    def __init__(self, between=None, bias=True, affine=True, **settings):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=bias, **settings)
        self.norm = settled(nn.BatchNorm2d(4, affine=affine))
        self.between = between

    def forward(self, x):
        out = self.conv(x)
        return self.norm(out if self.between is None else self.between(out))


@pytest.fixture
def folds(monkeypatch):
    """How often a convolution was computed with its BatchNorm."""
    seen = []
    normalised = DeferredConv.normalised
    monkeypatch.setattr(DeferredConv, "normalised", lambda self, norm: seen.append(norm) or normalised(self, norm))
    return seen


def frozen(net):
    return net.eval().requires_grad_(False)


def value_and_gradient(net, x):
    x = x.detach().requires_grad_(True)
    value = net(x)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value.detach(), input_gradient((value * weights.to(value.dtype)).sum(), x)


def assert_unchanged(net, images, times=3):
    """`net` computes in lean passes, learning ones and later ones, what it computes outside of them."""
    expected = value_and_gradient(net, images)
    with frozen_norms_lean(net):
        for _ in range(times):
            torch.testing.assert_close(value_and_gradient(net, images), expected, rtol=1e-5, atol=1e-5)
            with torch.no_grad():
                torch.testing.assert_close(net(images), expected[0], rtol=1e-5, atol=1e-5)


def test_the_folded_weights_by_hand():
    conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
        conv.bias.copy_(torch.tensor([1.0, 2.0]))
        norm.running_mean.copy_(torch.tensor([2.0, 4.0]))
        norm.running_var.copy_(torch.tensor([4.0, 16.0]))
        norm.weight.copy_(torch.tensor([2.0, 8.0]))
        norm.bias.copy_(torch.tensor([0.5, -1.0]))
    weight, bias = fold(conv, norm)
    assert weight.flatten().tolist() == [3.0, 10.0]
    assert bias.tolist() == [-0.5, -5.0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": False},
        {"affine": False},
        {"stride": 2, "padding": 1},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "dilation": 2},
    ],
)
def test_every_pass_computes_both_together(images, folds, settings):
    net = frozen(Pair(**settings))
    assert_unchanged(net, images)
    assert len(folds) == 6


def test_the_first_pass_is_the_second_bit_for_bit(tiny_resnet, images):
    """The first learns what follows upon what; a run that is resumed learns it anew."""
    net = frozen(tiny_resnet())
    with frozen_norms_lean(net):
        first, second = value_and_gradient(net, images), value_and_gradient(net, images)
    assert all(map(torch.equal, first, second))


def test_groups(images, folds):
    net = frozen(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=3), settled(nn.BatchNorm2d(6))))
    assert_unchanged(net, images)
    assert len(folds) == 6


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_dimensions(folds, dimensions):
    kinds = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    net = frozen(nn.Sequential(kinds[0](2, 3, 3), settled(kinds[1](3))))
    assert_unchanged(net, torch.rand(2, 2, *[5] * dimensions))
    assert len(folds) == 6


def test_a_resnet(tiny_resnet, images, folds):
    net = tiny_resnet()
    norms = [settled(module) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert_unchanged(frozen(net), images)
    assert len(folds) == 6 * len(norms)


@pytest.mark.parametrize(
    "between",
    [
        F.relu,
        lambda out: F.relu(out, inplace=True),
        lambda out: out.add_(1.0),
        lambda out: out + 1.0,
        lambda out: 1.0 - out,
        lambda out: torch.cat([out, out])[: len(out)],
        lambda out: out.view(out.shape),
        lambda out: out * float(out.detach().mean()),
        lambda out: checkpoint(torch.tanh, out, use_reentrant=False),
    ],
)
def test_what_comes_between_is_not_lost(images, folds, between):
    assert_unchanged(frozen(Pair(between)), images)
    assert not folds


def test_a_function_of_ones_own_between(images):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    assert_unchanged(frozen(Pair(Doubled.apply)), images)

    class Beside(Pair):
        """Reads the convolution's result after the BatchNorm has, without asking whether it is there yet."""

        def forward(self, x):
            out = self.conv(x)
            return self.norm(out) + Doubled.apply(out)

    assert_unchanged(frozen(Beside()), images)


class Twice(nn.Module):
    """The convolution's result is read beside the BatchNorm, before or after it."""

    def __init__(self, first):
        super().__init__()
        self.conv, self.norm, self.first = nn.Conv2d(3, 4, 3), settled(nn.BatchNorm2d(4)), first

    def forward(self, x):
        out = self.conv(x)
        if self.first:
            size = out.square().mean()
            return self.norm(out) * size
        return self.norm(out) * out.square().mean() + torch.stack([out, -out]).sum()


@pytest.mark.parametrize("first", [True, False])
def test_a_second_reader(images, first):
    assert_unchanged(frozen(Twice(first)), images)


class Shared(nn.Module):
    """Somebody beside the BatchNorm reads the convolution's result, mostly before it."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), settled(nn.BatchNorm2d(4)), nn.BatchNorm2d(4)
        self.read = read

    def forward(self, x):
        out = self.conv(x)
        return self.read(self, out)


READERS = {
    "a gate": lambda net, out: out.mean((2, 3), keepdim=True).sigmoid() * net.norm(out),
    "a gate behind": lambda net, out: net.norm(out) * out.mean((2, 3), keepdim=True).sigmoid(),
    "its shape": lambda net, out: out.shape[1] * net.norm(out),
    "what returns it": lambda net, out: net.norm(out.contiguous().float()),
    "two norms": lambda net, out: net.norm(out) * out.mean() + net.other(out),
    "an overwritten result": lambda net, out: net.norm(out.add_(1.0)),
}


@pytest.mark.parametrize("read", READERS)
def test_whoever_else_reads_the_result_every_pass_has_the_same_bits(images, read):
    """Those of the first, which has yet to learn what follows upon what."""
    fresh = frozen(Shared(READERS[read]))
    assert_unchanged(copy.deepcopy(fresh), images)
    net = copy.deepcopy(fresh)
    with frozen_norms_lean(net):
        with torch.no_grad():
            first = net(images)
            assert all(torch.equal(net(images), first) for _ in range(5))
        known = value_and_gradient(net, images)
    net = copy.deepcopy(fresh)
    with frozen_norms_lean(net):
        for _ in range(4):
            assert all(map(torch.equal, value_and_gradient(net, images), known))
            with torch.no_grad():
                assert torch.equal(net(images), first)


class Overwriting(nn.Module):
    """What the convolution read is changed before the BatchNorm reads what it made of it."""

    def __init__(self, always=True):
        super().__init__()
        self.conv, self.norm, self.now = nn.Conv2d(3, 4, 3), settled(nn.BatchNorm2d(4)), always

    def forward(self, x):
        x = x * 2 - 1
        out = self.conv(x)
        if self.now:
            F.relu(x, inplace=True)
        return self.norm(out) + x[:, :1, 1:-1, 1:-1]


def test_an_input_that_is_overwritten(images, folds):
    """Where autograd allows it, which is where no gradient is asked for."""
    net = frozen(Overwriting())
    expected = net(images)
    with frozen_norms_lean(net):
        assert torch.equal(net(images), expected)
        assert torch.equal(net(images), expected)
    assert not folds


def test_an_input_that_is_overwritten_in_a_later_pass_only(images):
    net = frozen(Overwriting(always=False))
    with frozen_norms_lean(net):
        net(images)
        net.now = True
        with pytest.raises(ClatError, match="changed in place"):
            net(images)
        with unfolded():
            net(images)


class Choosing(nn.Module):
    """What follows the convolution changes from pass to pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList([settled(nn.BatchNorm2d(4)), nn.BatchNorm2d(4)])
        self.way = 0

    def forward(self, x):
        out = self.conv(x)
        return self.norms[self.way](out) if self.way < 2 else out.abs()


def test_control_flow(images):
    net = frozen(Choosing())
    expected = []
    for net.way in range(3):
        expected.append(value_and_gradient(net, images))
    with frozen_norms_lean(net):
        for net.way in (0, 0, 1, 1, 2, 2, 0, 2, 1, 0):
            torch.testing.assert_close(value_and_gradient(net, images), expected[net.way], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_hooks_see_the_convolution(images, folds, kind):
    net = frozen(Pair())
    with frozen_norms_lean(net):
        net(images), net(images)
        assert len(folds) == 2
        shapes = []
        handle = getattr(net.conv, f"register_{kind}")(lambda module, *rest: shapes.append(type(rest[-1])))
        value_and_gradient(net, images)
        handle.remove()
    assert len(shapes) == 1
    assert shapes[0] is not DeferredConv
    assert len(folds) == 2


def test_a_hook_on_the_batch_norm_sees_what_it_is_given(images):
    net = frozen(Pair())
    expected = net.conv(images)
    given = []
    net.norm.register_forward_pre_hook(lambda module, args: given.append(args[0] + 0.0))
    assert_unchanged(net, images)
    for one in given:
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("moves", ["conv", "norm"])
def test_what_moves_is_not_folded(images, folds, moves):
    net = frozen(Pair())
    with frozen_norms_lean(net):
        net(images), net(images)
        assert len(folds) == 2
        getattr(net, moves).requires_grad_(True)
        net(images).sum().backward()
        assert getattr(net, moves).weight.grad is not None
        assert len(folds) == 2


def test_a_batch_norm_that_trains_is_not_folded(images, folds):
    net = frozen(Pair())
    with frozen_norms_lean(net):
        net(images), net(images)
        net.norm.train()
        trained = net(images)
    assert len(folds) == 2
    assert net.norm.num_batches_tracked == 1
    expected = F.batch_norm(net.conv(images), None, None, net.norm.weight, net.norm.bias, True)
    torch.testing.assert_close(trained, expected)


@pytest.mark.parametrize("changed", ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_var"])
def test_changed_weights_are_folded_anew(images, changed):
    net = frozen(Pair())
    module, name = changed.split(".")
    with frozen_norms_lean(net):
        net(images), net(images)
        getattr(getattr(net, module), name).mul_(1.5)
        folded = net(images)
    torch.testing.assert_close(folded, net(images), rtol=1e-5, atol=1e-5)


def test_stand_ins_for_the_weights(images):
    """Each is another tensor, though it may lie where the one before it was."""
    net = frozen(Pair())
    with frozen_norms_lean(net):
        for factor in (1.0, 2.0, 3.0, 4.0):
            folded = functional_call(net, {"conv.weight": net.conv.weight * factor}, (images,))
            with unfolded():
                apart = functional_call(net, {"conv.weight": net.conv.weight * factor}, (images,))
            torch.testing.assert_close(folded, apart, rtol=1e-5, atol=1e-5)


def test_unfolded_is_bit_for_bit(images, folds):
    net = frozen(Pair())
    expected = net(images)
    with frozen_norms_lean(net):
        net(images), net(images)
        with unfolded():
            assert torch.equal(net(images), expected)
    assert len(folds) == 2


def test_a_function_mode_sees_every_call(images, folds):
    class Seen(torch.overrides.TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    net = frozen(Pair())
    with frozen_norms_lean(net):
        net(images), net(images)
        with Seen() as seen:
            net(images)
    assert {"conv2d", "batch_norm"} <= set(seen.names)
    assert len(folds) == 2


def test_bfloat16_is_as_near_to_float32_as_it_was(tiny_resnet, images):
    net = tiny_resnet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            settled(module)
    net = frozen(net)
    expected = net(images)
    with frozen_norms_lean(net), torch.autocast("cpu", dtype=torch.bfloat16):
        with unfolded():
            apart = net(images)
        net(images)
        together = net(images)
    assert together.dtype == torch.bfloat16
    assert (together - expected).norm() < 2 * (apart - expected).norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_in_other_precisions(images, folds, dtype):
    net = frozen(Pair(padding=1)).to(dtype)
    x = images.to(dtype)
    expected = copy.deepcopy(net).double()(x.double())
    with frozen_norms_lean(net):
        found = net(x)
    assert found.dtype == dtype
    half = dtype != torch.float64  # in which both together round to another network than each by itself
    assert len(folds) == (0 if half else 1)
    assert not half or torch.equal(found, net(x))
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 4 * torch.finfo(dtype).eps


def test_nothing_is_left_behind(images):
    net = frozen(Pair())
    with frozen_norms_lean(net):
        net(images), net(images)
        twin = copy.deepcopy(net)
    assert "forward" not in net.conv.__dict__
    assert type(net.conv(images)) is torch.Tensor
    torch.testing.assert_close(twin(images), net(images), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch's compiler, of its own doing
def test_a_network_that_its_owner_compiled(images, folds):
    net = frozen(Pair())
    expected = value_and_gradient(net, images)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with modes.attack_mode(compiled):
        for _ in range(2):
            torch.testing.assert_close(value_and_gradient(compiled, images), expected, rtol=1e-5, atol=1e-5)
    assert not folds


def test_attacks_fold(tiny_resnet, images, folds):
    net = tiny_resnet().eval()
    with modes.attack_mode(net):
        net(images), net(images)
    assert folds
    assert folding._enabled


class Signed(nn.Module):
    """Calls its convolution with other weights than it has."""

    def __init__(self, conv, way):
        super().__init__()
        self.conv, self.way = conv, way

    def forward(self, x):
        if self.way == "functional_call":
            return functional_call(self.conv, {"weight": self.conv.weight.sign()}, (x,))
        own = self.conv.weight.data
        if self.way == "data replaced":
            self.conv.weight.data = own.sign()
            out = self.conv(x)
            self.conv.weight.data = own
            return out
        kept = own.clone()
        own.sign_()
        out = self.conv(x)
        own.copy_(kept)
        return out


@pytest.mark.parametrize("way", ["functional_call", "data replaced", "data changed"])
def test_a_convolution_that_is_lent_other_weights(images, folds, way):
    """Weights that are generated, masked or binary: the ones at the call count, not those that BatchNorm finds."""
    pair = Pair()
    assert_unchanged(frozen(nn.Sequential(Signed(pair.conv, way), pair.norm)), images)
    assert not folds


def test_a_forward_that_was_put_into_torchs_class(images, folds, monkeypatch):
    """As weight standardisation sometimes is."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    assert_unchanged(frozen(Pair()), images)
    assert not folds


def test_a_batch_norm_that_was_replaced_in_torchs_class(images, monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: x * 2, raising=False)
    assert_unchanged(frozen(Pair()), images)


def without_gradient(x):
    with torch.no_grad():
        x.abs().mean()
    return x


def test_what_is_read_without_gradients_has_them_all_the_same(images):
    """A monitor between convolution and BatchNorm, in every second pass the first to read the promise."""
    assert_unchanged(frozen(Pair(without_gradient)), images, times=4)


class Cut(nn.Module):
    """A convolution without gradients, BatchNorm with them, beside a way for the gradient."""

    def __init__(self):
        super().__init__()
        self.pair = Pair(padding=1)
        self.beside = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        with torch.no_grad():
            h = self.pair.conv(x)
        return self.pair.norm(h) + self.beside(x)


def test_what_the_network_cuts_stays_cut(images):
    assert_unchanged(frozen(Cut()), images)


def doubled(x):
    if x.requires_grad:
        x.register_hook(lambda gradient: 2 * gradient)
    return x


def test_a_hook_on_the_result_is_called_in_every_pass(images):
    assert_unchanged(frozen(Pair(doubled)), images, times=4)


class Half(nn.Module):
    """A convolution in a region of bfloat16, BatchNorm outside."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = self.pair.conv(x)
        return self.pair.norm(input=h.float())


def test_a_region_of_another_type_around_the_convolution_alone(images):
    assert_unchanged(frozen(Half()), images)


def test_inputs_may_be_named(images):
    class Named(Pair):
        def forward(self, x):
            return self.norm(input=self.conv(input=x))

    assert_unchanged(frozen(Named()), images)
