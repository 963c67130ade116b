"""The revision network: Eq. 7 in closed form, a copy that shares nothing, and a place for every draw."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from clat.network.cost import metered
from clat.objectives.cure.revision import Pace, Revision


@dataclass(frozen=True, kw_only=True)
class Scripted(Pace):
    script: str = ""

    def follows(self, step):
        return self.script[step] == "x"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.dropout = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.dropout(self.bn(self.conv(x)).relu().mean((2, 3))))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = Net()
        nn.init.normal_(net.bn.running_mean)
        nn.init.uniform_(net.bn.running_var, 0.5, 2)
    return net.train()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def shake(model, seed=0):
    """Other weights and statistics, in place, as an optimizer's step makes them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator))


def test_it_follows_in_closed_form_over_a_scripted_sequence():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    revision = Revision(model, Scripted(decay=0.75, script="x-xx-"))
    revision.start()
    theta_rev = 8.0
    for step, theta in enumerate([0.0, 4.0, 2.0, -1.0, 100.0]):
        nn.init.constant_(model.weight, theta)
        followed = revision.follow(step)
        assert followed == (step in (0, 2, 3))
        if followed:
            theta_rev = 0.75 * theta_rev + 0.25 * theta
        assert revision.tensors["weight"].item() == theta_rev
    assert theta_rev == 0.75 * (0.75 * (0.75 * 8) + 0.25 * 2) - 0.25


def test_the_ramp_is_the_codes():
    assert [Pace(ramp=True, decay=0.7).decay_at(step) for step in range(4)] == [1 / 2, 1 - 1 / 3, 0.7, 0.7]
    assert Pace(decay=0.7).decay_at(0) == 0.7


def test_the_copy_shares_nothing_with_the_model(net):
    revision = Revision(net, Pace(rate=1.0))
    revision.start()
    before = {name: value.clone() for name, value in revision.tensors.items()}
    assert before.keys() == {name for name, _ in (*net.named_parameters(), *net.named_buffers())}
    shake(net)
    assert all(torch.equal(revision.tensors[name], value) for name, value in before.items())
    after = state(net)
    revision.follow(0)
    assert not torch.equal(revision.tensors["conv.weight"], before["conv.weight"])
    assert all(torch.equal(value, after[name]) for name, value in net.state_dict().items())
    revision.start()  # a second selection of the stage
    assert not torch.equal(revision.tensors["conv.weight"], after["conv.weight"])


def test_a_constant_buffer_stays_exactly_what_it_is():
    model = nn.Module()
    model.register_buffer("mean", torch.tensor([0.4914, 0.1]))
    model.register_buffer("count", torch.tensor(7))
    revision = Revision(model, Pace(rate=1.0, decay=0.9))
    revision.start()
    model.count += 2
    for step in range(50):
        revision.follow(step)
    assert torch.equal(revision.tensors["mean"], model.mean)
    assert revision.tensors["count"] == 9


@pytest.mark.parametrize("norm", ["batch", "stored", "frozen"])
def test_its_output_is_that_of_a_network_with_its_weights(net, images, norm):
    if norm == "frozen":
        net.bn.eval()
    revision = Revision(net, Pace(rate=1.0, decay=0.5), "batch" if norm == "frozen" else norm)
    revision.start()
    shake(net)
    revision.follow(0)
    twin = copy.deepcopy(net).eval()
    twin.load_state_dict(revision.tensors)
    twin.bn.train(norm == "batch")
    before, modes = state(net), [module.training for module in net.modules()]
    found = revision.logits(images)
    torch.testing.assert_close(found, twin(images).detach())
    assert not found.requires_grad
    assert not torch.allclose(found, copy.deepcopy(net).eval()(images))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert net.bn.track_running_stats


def test_its_statistics_do_not_move_in_a_pass(net, images):
    revision = Revision(net, Pace())
    revision.start()
    before = {name: value.clone() for name, value in revision.tensors.items()}
    revision.logits(images)
    assert all(torch.equal(value, before[name]) for name, value in revision.tensors.items())


def test_its_passes_are_counted(net, images):
    revision = Revision(net, Pace())
    revision.start()
    with metered(net) as cost:
        revision.logits(images)
    assert (cost.forwards, cost.backwards) == (len(images), 0)


def test_restored_it_is_the_same(net, images):
    net = net.to(memory_format=torch.channels_last)
    revision = Revision(net, Pace())
    revision.start()
    kept, expected = {name: v.clone() for name, v in revision.tensors.items()}, revision.logits(images)
    shake(net)
    again = Revision(net, Pace())
    again.restore(kept)
    again.start()
    assert all(torch.equal(again.tensors[name], value) for name, value in kept.items())
    assert again.tensors["conv.weight"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(again.logits(images), expected)


def test_whether_it_follows_hangs_on_seed_and_step_alone():
    draws = [Pace(seed=1).follows(step) for step in range(500)]
    assert 60 < sum(draws) < 140, "r = 0.2"
    assert [Pace(seed=1).follows(step) for step in reversed(range(500))] == draws[::-1]
    assert [Pace(seed=2).follows(step) for step in range(500)] != draws
    assert all(Pace(rate=1.0).follows(step) for step in range(20))
    assert not any(Pace(rate=0.0).follows(step) for step in range(20))


def test_the_rate_can_end_elsewhere():
    pace = Pace(rate=1.0, rate_end=0.0, steps=400)
    draws = [pace.follows(step) for step in range(500)]
    early, late = sum(draws[:100]), sum(draws[300:400])
    assert early > 75
    assert late < 25
    assert not any(draws[400:])


def test_no_trace_in_the_global_random_state(net, images):
    before = torch.get_rng_state()
    revision = Revision(net, Pace(rate=0.5))
    revision.start()
    revision.logits(images)  # dropout, were it on, would draw
    revision.follow(0)
    assert torch.equal(torch.get_rng_state(), before)
