"""BatchNorm statistics counted anew, against a direct computation over all batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.network import modes
from clat.treatments.statistics import reestimate_batch_norm, reestimate_on_training_batches


def batches(*sizes):
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(size, 3, 8, 8, generator=generator) for size in sizes]


def moments(features):
    """Mean and unbiased variance of each channel, in float64."""
    flat = features.transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1, unbiased=True)


def directly(net, inputs):
    """Weighted by batch size, each batch normalised by itself on the way to the second BatchNorm."""
    net = net.double()
    total = sum(len(x) for x in inputs)
    expected = {"bn1": [0, 0], "bn2": [0, 0]}
    for x in inputs:
        first = net.conv1(x.double())
        normalised = F.batch_norm(first, None, None, net.bn1.weight, net.bn1.bias, training=True)
        second = net.conv2(F.relu(normalised))
        for name, features in (("bn1", first), ("bn2", second)):
            for place, moment in enumerate(moments(features)):
                expected[name][place] = expected[name][place] + moment * len(x) / total
    return expected


def test_the_mean_over_all_batches_of_their_own_statistics(build):
    net, inputs = build(), batches(4, 4, 2)
    expected = directly(build(), inputs)
    reestimate_batch_norm(net, inputs)
    for name, (mean, variance) in expected.items():
        bn = getattr(net, name)
        torch.testing.assert_close(bn.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bn.running_var.double(), variance, rtol=1e-5, atol=1e-6)
        assert bn.num_batches_tracked == 3


@pytest.mark.parametrize("count", [1, 2, 7])
def test_calls_of_a_shared_one_count_alike(count):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = torch.nn.BatchNorm2d(3, affine=False, momentum=0.1)

        def forward(self, x):
            return self.shared(x), self.shared(x + 10)

    net, inputs = Twice(), batches(*[4] * count)
    reestimate_batch_norm(net, inputs)
    of_batches = [moments(x + shift) for x in inputs for shift in (0, 10)]
    mean, variance = (sum(parts) / len(of_batches) for parts in zip(*of_batches, strict=True))
    torch.testing.assert_close(net.shared.running_mean, mean)
    torch.testing.assert_close(net.shared.running_var, variance)
    assert net.shared.momentum == 0.1
    assert not net.shared._forward_pre_hooks


def test_what_was_stored_before_plays_no_part(build):
    one, other, inputs = build(), build(), batches(4, 4)
    with torch.no_grad():
        for bn in modes.batch_norms(other):
            bn.running_mean.fill_(7.0)
            bn.running_var.fill_(9.0)
    reestimate_batch_norm(one, inputs)
    reestimate_batch_norm(other, inputs)
    assert all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))


def test_modes_momenta_weights_and_random_state_are_left_as_found(net):
    net.bn2.eval()
    net.bn1.momentum, net.bn2.momentum = 0.01, None
    net.bn1.track_running_stats = False
    net.conv1.weight.requires_grad_(False)
    random, weights = torch.get_rng_state(), [p.clone() for p in net.parameters()]
    reestimate_batch_norm(net, batches(4, 4))  # the network has dropout, which must not draw
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), weights, strict=True))
    assert (net.training, net.bn1.training, net.bn2.training, net.dropout.training) == (True, True, False, True)
    assert (net.bn1.momentum, net.bn2.momentum) == (0.01, None)
    assert (net.bn1.track_running_stats, net.bn2.track_running_stats) == (False, True)
    assert not net.conv1.weight.requires_grad
    assert net.conv2.weight.requires_grad
    assert net.head.weight.grad is None


def test_the_others_keep_their_statistics_and_use_them(build):
    net, inputs = build(), batches(4, 4)
    kept = [buffer.clone() for buffer in net.bn1.buffers()]
    reestimate_batch_norm(net, inputs, [net.bn2])
    assert all(torch.equal(*pair) for pair in zip(net.bn1.buffers(), kept, strict=True))
    twin = build().eval()
    with torch.no_grad():
        second = [moments(twin.conv2(F.relu(twin.bn1(twin.conv1(x)))))[0] for x in inputs]
    torch.testing.assert_close(net.bn2.running_mean, sum(second) / 2)


def test_without_such_a_layer_no_batch_is_read(net):
    def unread():
        raise AssertionError("read")
        yield

    reestimate_batch_norm(net, unread(), [])
    reestimate_batch_norm(torch.nn.Linear(2, 2), unread())


def test_no_batch_is_an_error(net):
    with pytest.raises(ClatError, match="no batches"):
        reestimate_batch_norm(net, [])


def test_on_training_batches_it_is_the_same_pass_each_time(build, around):
    one, other = build(), build()
    here = around(one)
    reestimate_on_training_batches(here, modes.batch_norms(one))
    reestimate_batch_norm(other, [x for x, _ in here.loader.epoch(0)])
    assert all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))
    reestimate_on_training_batches(here, modes.batch_norms(one))
    assert all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))


def test_on_some_of_them(build, around):
    one, other = build(), build()
    here = around(one)
    reestimate_on_training_batches(here, modes.batch_norms(one), 2)
    reestimate_batch_norm(other, [x for x, _ in here.loader.epoch(0)][:2])
    assert all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))


def test_processes_take_the_mean_of_their_shares(net, around):
    averaged = []

    class Shared:
        def __init__(self, engine):
            self.images, self.autocast = engine.images, engine.autocast

        def average(self, tensors):
            averaged.extend(tensors)

    engine = Shared(around(net).engine)
    reestimate_on_training_batches(around(net, engine=engine), [net.bn1])
    assert [tensor.data_ptr() for tensor in averaged] == [
        net.bn1.running_mean.data_ptr(),
        net.bn1.running_var.data_ptr(),
    ]
