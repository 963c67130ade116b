"""TWINS against its formulas written out here; statistics that never move; the network it leaves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.data import ImageSet, Loader
from clat.network.layers import enumerate_layers
from clat.objectives import PgdAT, Step, Twins
from clat.objectives.twins import TwinsCallback
from clat.runtime.engine import Engine, EngineConfig

NORMS = ("bn1", "bn2")


@pytest.fixture
def build(build):
    """The network with a steeper head: a divergence that is not lost in rounding."""

    def make():
        net = build()
        with torch.no_grad():
            net.head.weight.mul_(30)
        return net.train()

    return make


@pytest.fixture
def joined(build, context):
    def make(**settings):
        net = build()
        objective = Twins(**{"eps": 0.1, "steps": 3} | settings)
        callback = objective.on_stage_start(context(net))
        with torch.no_grad():  # as after some training: the two no longer agree
            for name in NORMS:
                net.get_submodule(name).frozen.weight.mul_(1.3)
                net.get_submodule(name).frozen.bias.add_(0.1)
        return net, objective, callback, Step(seed=9, callback=callback)

    return make


def frozen_network(build, net):
    """The frozen network by itself: evaluation mode, the old statistics, its own scale and shift."""
    alone = build().eval()
    with torch.no_grad():
        for name in NORMS:
            alone.get_submodule(name).weight.copy_(net.get_submodule(name).frozen.weight)
            alone.get_submodule(name).bias.copy_(net.get_submodule(name).frozen.bias)
    return alone


def kl(logits, reference):
    p, q = F.softmax(reference, 1), F.softmax(logits, 1)
    return (p * (p.log() - q.log())).sum()


def test_the_at_form(build, joined, images, labels):
    net, objective, _, step = joined(lambda_=0.4)
    frozen, adaptive = frozen_network(build, net), build()
    (x_adv,) = objective.examples(net, images, labels, step)
    total, parts = objective.cost(net, images, labels, (x_adv,), step)
    first, second = F.cross_entropy(frozen(x_adv[:3]), labels[:3]), F.cross_entropy(adaptive(x_adv[3:]), labels[3:])
    assert parts["frozen"].item() == pytest.approx(first.item(), rel=1e-5)
    assert parts["adaptive"].item() == pytest.approx(second.item(), rel=1e-5)
    assert total.item() == pytest.approx((0.4 * first + second).item(), rel=1e-5)


def test_the_trades_form(build, joined, images, labels):
    net, objective, _, step = joined(form="trades", lambda_=0.4, beta=5.0)
    frozen, adaptive = frozen_network(build, net), build()
    (x_adv,) = objective.examples(net, images, labels, step)
    total, parts = objective.cost(net, images, labels, (x_adv,), step)
    clean = frozen(images[:3]), adaptive(images[3:])
    moved = frozen(x_adv[:3]), adaptive(x_adv[3:])
    divergence = (0.4 * kl(moved[0], clean[0]) + kl(moved[1], clean[1])) / 6
    natural = 0.4 * F.cross_entropy(clean[0], labels[:3]) + F.cross_entropy(clean[1], labels[3:])
    assert parts["divergence"].item() == pytest.approx(divergence.item(), rel=1e-4)
    assert total.item() == pytest.approx((natural + 5 * divergence).item(), rel=1e-5)


@pytest.mark.parametrize("form", ["at", "trades"])
def test_the_attack_is_pgd_on_the_adaptive_network_in_evaluation_mode(build, joined, images, labels, form):
    net, objective, _, step = joined(form=form)
    expected = PgdAT(eps=0.1, steps=3).examples(build(), images, labels, Step(seed=9))[0]
    assert torch.equal(objective.examples(net, images, labels, step)[0], expected)


def test_it_begins_as_two_equal_networks(build, context, images):
    net = build().eval()
    callback = Twins().on_stage_start(context(net))
    with torch.no_grad():
        expected = build().eval()(images)
        assert torch.equal(net(images), expected)
        with callback.frozen():
            assert torch.equal(net(images), expected)


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_batch_norm_that_does_more_does_so_in_both_networks(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4), nn.Flatten(), nn.LazyLinear(3))
    net(images)
    expected = net.eval()(images)
    callback = TwinsCallback(net.train())
    with callback.frozen():
        assert torch.equal(net(images), expected)
    assert net[1].training
    assert not torch.equal(net(images), expected)
    callback.on_stage_end()
    assert type(net[1]) is Activated


@pytest.mark.parametrize("form", ["at", "trades"])
def test_frozen_statistics_never_move_and_adaptive_ones_do(build, joined, images, labels, form):
    net, objective, _, step = joined(form=form)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective.loss(net, images, labels, step).total.backward()
        optimizer.step()
    after = net.state_dict()
    for name in NORMS:
        for what in ("running_mean", "running_var"):
            assert torch.equal(after[f"{name}.frozen.{what}"], build().state_dict()[f"{name}.{what}"])
        for moving in ("frozen.weight", "frozen.bias", "weight", "bias", "running_mean", "running_var"):
            assert not torch.equal(after[f"{name}.{moving}"], before[f"{name}.{moving}"])
    passes = 3 if form == "at" else 6
    assert after["bn1.num_batches_tracked"] == before["bn1.num_batches_tracked"] + passes


def test_processes_average_the_adaptive_statistics_alone(joined):
    """The mean of three equal numbers is not always that number."""
    net, *_ = joined()
    engine, sent = Engine(EngineConfig(device="cpu")), []
    engine.average = lambda tensors: sent.extend(tensors)
    engine.average_statistics(net)
    averaged = {name for name, value in net.named_buffers() if any(value is one for one in sent)}
    assert averaged == {f"{name}.{what}" for name in NORMS for what in ("running_mean", "running_var")}


def test_each_half_teaches_its_own_scale_and_the_shared_weights(joined, images, labels):
    net, objective, _, step = joined()
    examples = objective.examples(net, images, labels, step)

    def taught(weights):
        net.zero_grad(set_to_none=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "clat.objectives.twins.cross_entropy",
                lambda z, y, *smoothing: weights.pop(0) * F.cross_entropy(z, y),
            )
            objective.cost(net, images, labels, examples, step).total.backward()
        return {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    frozen, adaptive = taught([1, 0]), taught([0, 1])
    shared = {"conv1.weight", "conv2.weight", "head.weight", "head.bias"}
    assert {name for name in frozen if "bn" in name} == {
        f"{n}.frozen.{p}" for n in NORMS for p in ("weight", "bias")
    }
    assert {name for name in adaptive if "bn" in name} == {f"{n}.{p}" for n in NORMS for p in ("weight", "bias")}
    assert shared <= frozen & adaptive


def test_lambda_zero_leaves_the_adaptive_half_alone(joined, images, labels):
    net, objective, _, step = joined(lambda_=0.0)
    total, parts = objective.loss(net, images, labels, step)
    assert total.item() == pytest.approx(parts["adaptive"].item())


def test_the_attack_leaves_no_trace(joined, images, labels):
    net, objective, _, step = joined(attack_bn="train")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    objective.examples(net, images, labels, step)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(module.training for module in net.modules())
    assert all(bn.track_running_stats for bn in (net.bn1, net.bn2))
    assert torch.equal(random_state, torch.get_rng_state())


def test_an_exception_midway_leaves_the_adaptive_network(joined, images):
    net, _, callback, _ = joined()
    net.eval()
    expected = net(images)
    with pytest.raises(RuntimeError, match="midway"), callback.frozen():
        raise RuntimeError("midway")
    assert torch.equal(net(images), expected)


def test_the_network_it_leaves_is_the_adaptive_one_and_plain(build, joined, images):
    net, _, callback, _ = joined()
    net.eval()
    with torch.no_grad():
        expected = net(images)
        written = callback.export_state(dict(net.state_dict()))
        assert callback.on_stage_end() == {}
        assert list(net.state_dict()) == list(written) == list(build().state_dict())
        assert [type(module) for module in net.modules()] == [type(module) for module in build().modules()]
        assert torch.equal(net(images), expected)
    assert all(torch.equal(value, written[name]) for name, value in net.state_dict().items())


def test_joining_again_and_loading_continues_with_the_old_statistics(build, joined, context, images):
    net, _, callback, _ = joined()
    net(images)  # the adaptive statistics move
    again = build()
    again.bn1.running_mean.add_(1)
    other = Twins().on_stage_start(context(again))
    again.load_state_dict(net.state_dict())
    with torch.no_grad(), callback.frozen(), other.frozen():
        assert torch.equal(net(images), again(images))


def test_a_copy_of_the_network_stands_alone(joined, images):
    net, _, callback, _ = joined()
    net.eval()
    twin = copy.deepcopy(net)
    with torch.no_grad(), callback.frozen():
        assert not torch.equal(net(images), twin(images))


def test_layers_are_numbered_as_before(build, joined, images):
    net, *_ = joined()

    def told(network):
        return [
            (layer.index, layer.name, layer.norm_name, layer.num_params)
            for layer in enumerate_layers(network, images)
        ]

    assert told(net) == told(build())


def test_what_does_not_fit_is_refused(build, context, net, images, labels):
    with pytest.raises(ClatError, match="train it with a recipe"):
        Twins(steps=1).loss(net, images, labels, Step())
    single = Loader(
        ImageSet("one", "train", tuple("abcde"), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), labels[:1]), 1
    )
    with pytest.raises(ClatError, match="batch_size, and images to train on, at least 2"):
        Twins().on_stage_start(context(build(), loader=single))
    with pytest.raises(ClatError, match="needs a network with BatchNorm"):
        Twins().on_stage_start(context(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))))
    loose = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ClatError, match="'1' stores no statistics"):
        Twins().on_stage_start(context(loose))
    with pytest.raises(ClatError, match="lambda is -1"):
        Twins(lambda_=-1.0)
    with pytest.raises(ClatError, match="beta is -1"):
        Twins(beta=-1.0)
