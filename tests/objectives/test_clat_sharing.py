"""CLAT's clean pass, shared by the attack and the loss: the same bits, one pass fewer, and only where it may be."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

import clat
from clat.core.seeds import seed_global
from clat.core.threat_model import ThreatModel
from clat.network import modes
from clat.network.cost import metered
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.layers import enumerate_layers
from clat.network.random_states import preserve_random_states
from clat.objectives import Clat, Step
from clat.objectives.clat import Calibration, ClatCallback

NETWORKS = {
    "resnet18": {"width": 4},
    "resnet50": {"width": 4, "depths": (1, 1, 1, 1)},
    "preact-resnet18": {"width": 4},
    "wrn-34-10": {"width": 4, "depths": (1, 1, 1)},
    "dm-wrn-28-10": {"width": 4, "depths": (1, 1, 1)},
    "densenet121": {"width": 4, "depths": (2, 2, 2, 2)},
    "vgg19": {"width": 4},
}


def prepared(name, chosen=(2, 5)):
    """A network as CLAT's stage sets it up, and its selected layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = clat.load_model(name, num_classes=5, **NETWORKS[name])
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layers = tuple(layer for layer in enumerate_layers(net, x) if layer.index in chosen)
    net.requires_grad_(False)
    modes.set_training(net, set())
    for layer in layers:
        net.get_submodule(layer.name).requires_grad_(True)
    return net, x, torch.tensor([0, 3]), layers


def begun(objective, net, x, y, step):
    with frozen_norms_lean(net):
        return objective.calibration(net, x, y, step)


def stepped(objective, net, x, y, step):
    """Loss, gradients and passes of one step, as training takes it."""
    net.zero_grad()
    torch.manual_seed(0)  # for dropout, as in a training step
    with metered(net) as cost, frozen_norms_lean(net):
        loss = objective.loss(net, x, y, step)
        loss.total.backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return loss.total.detach(), grads, (cost.forwards / len(x), cost.backwards / len(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("settings", [{}, {"detach_clean": True, "relative": True}], ids=["plain", "detached"])
def test_the_same_bits_and_one_pass_fewer(name, settings):
    net, x, y, layers = prepared(name)
    objective = Clat(steps=2, lambda_=0.5, **settings)
    once = Step(layers, seed=3, once=True)
    state = begun(objective, net, x, y, once)
    assert state == Calibration(0.5, shares_clean_pass=True)
    total, grads, passes = stepped(
        objective, net, x, y, Step(layers, seed=3, callback=ClatCallback.calibrated(objective, state))
    )
    assert passes[0] == 5  # clean, two steps, clean again, moved
    shared = Step(layers, seed=3, callback=ClatCallback.calibrated(objective, state), once=True)
    shared_total, shared_grads, shared_passes = stepped(objective, net, x, y, shared)
    assert shared_passes == (passes[0] - 1, passes[1])
    assert torch.equal(shared_total, total)
    assert grads.keys() == shared_grads.keys()
    assert grads
    assert all(torch.equal(grads[key], shared_grads[key]) for key in grads)


def shares(objective, net, x, y, layers):
    step = Step(layers, seed=3, once=True)
    state = begun(objective, net, x, y, step)
    with frozen_norms_lean(net):
        return (
            objective.examples(
                net, x, y, Step(layers, seed=3, once=True, callback=ClatCallback.calibrated(objective, state))
            ).clean_logits
            is not None
        )


def test_not_where_training_and_attack_see_another_network():
    objective = Clat(steps=1, lambda_=0.5)
    parts = prepared("resnet18")
    assert shares(objective, *parts)
    net = parts[0]
    modes.set_training(net, None)
    assert not shares(objective, *parts)
    modes.set_training(net, set())
    net.layer1[0].add_module("bn1", nn.Sequential(net.layer1[0].bn1, nn.Dropout(0.5)))
    assert not shares(objective, *parts)


class DropsBetween(nn.Module):
    """Dropout lies between its two layers: training and attack see the same feature of the first one alone."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.c2(self.drop(torch.relu(self.c1(x)))).mean((2, 3)))


class SkipsAtTimes(nn.Module):
    """Stochastic depth by the whole batch: one draw decides whether a branch is there, and it seldom is not."""

    def __init__(self, draw):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc, self.draw = nn.Linear(4, 5), draw

    def forward(self, x):
        x = torch.relu(self.c1(x))
        x = x + self.c2(x) * float(not self.training or self.draw() >= 0.1)
        return self.fc(self.c3(x).mean((2, 3)))


class Own:
    """A generator of the network's own, as an attribute, and a number from it."""

    def __init__(self, made, draw):
        self.made, self.number = made, draw

    def __call__(self):
        return self.number(self.made)


OWN = {
    "own torch": lambda: Own(torch.Generator().manual_seed(0), lambda made: torch.rand((), generator=made).item()),
    "own numpy": lambda: Own(np.random.default_rng(0), lambda made: made.random()),
    "own old numpy": lambda: Own(np.random.RandomState(0), lambda made: made.random()),
    "own random": lambda: Own(random.Random(0), lambda made: made.random()),
}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_not_where_a_generator_of_its_own_is_drawn_from(make):
    draw = make()
    net, x, y = SkipsAtTimes(draw).train(), torch.rand(2, 3, 8, 8), torch.tensor([0, 3])
    net.generator = draw.made
    _, _, third = enumerate_layers(net, x)
    with preserve_random_states(net):
        first = draw()
    for _ in range(4):
        found = Clat(steps=1, lambda_=0.5).calibration(net, x, y, Step((third,), seed=3, once=True))
        assert not found.shares_clean_pass
        with preserve_random_states(net):
            assert draw() == first, "the calibration gives back what it has drawn"


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()).item(), random.random, np.random.random], ids=["torch", "random", "numpy"]
)
def test_not_where_a_draw_happens_to_change_nothing(draw):
    net, x, y = SkipsAtTimes(draw).train(), torch.rand(2, 3, 8, 8), torch.tensor([0, 3])
    first, _, third = enumerate_layers(net, x)
    objective = Clat(steps=1, lambda_=0.5)
    for layer, expected in ((first, True), (third, False)):
        step, found = Step((layer,), seed=3, once=True), set()
        for seed in range(4):
            with preserve_random_states(net):
                seed_global(seed)
                found.add(objective.calibration(net, x, y, step).shares_clean_pass)
        assert found == {expected}


def test_it_is_found_out_again_for_other_layers():
    net, x, y = DropsBetween().train(), torch.rand(2, 3, 8, 8), torch.tensor([0, 3])
    first, second = enumerate_layers(net, x)
    objective = Clat(steps=1, ratio=0.5)
    before = objective.calibration(net, x, y, Step((first,), seed=3, once=True))
    assert before.shares_clean_pass
    after = objective.calibration(net, x, y, Step((second,), seed=3, once=True), before=before)
    assert after == Calibration(before.weight)
    again = objective.calibration(net, x, y, Step((first,), seed=3, once=True), before=after)
    assert again == before

    with clat.Clat(net, ["c1"], (x, y), eps="8/255", steps=1) as tuning:
        weight = tuning.weight
        tuning.select(["c2"])
        assert tuning.weight == weight
        assert tuning._callback.calibration == Calibration(weight)


def test_not_where_batch_norm_begins_to_train_after_the_beginning():
    net, x, y, layers = prepared("resnet18")
    objective, step = Clat(steps=1, lambda_=0.5), Step(layers, seed=3, once=True)
    state = begun(objective, net, x, y, step)
    net.layer2[0].bn1.train()
    assert state.shares_clean_pass
    assert (
        objective.examples(
            net, x, y, Step(layers, seed=3, once=True, callback=ClatCallback.calibrated(objective, state))
        ).clean_logits
        is None
    )


@pytest.mark.parametrize("ce_input", ["feature", "pgd"])
def test_not_where_the_cross_entropy_reads_another_input(ce_input):
    parts = prepared("resnet18")
    assert not shares(Clat(steps=1, lambda_=0.5, ce_input=ce_input), *parts)


def test_not_where_only_the_attack_folds_batch_norm():
    """Outside of what training enters around a step the two differ in their rounding."""
    net, x, y, layers = prepared("resnet18")
    step = Step(layers, seed=3, once=True)
    assert Clat(steps=1, lambda_=0.5).calibration(net, x, y, step) == Calibration(0.5)


def test_not_where_the_loss_may_be_evaluated_twice():
    net, x, y, layers = prepared("resnet18")
    objective = Clat(steps=1, lambda_=0.5)
    assert objective.calibration(net, x, y, Step(layers)) == Calibration(0.5)


def test_nothing_is_kept_before_the_first_selected_layer():
    """The weight step's passes record no graph there: its inputs are the last that is kept of the prefix."""
    net, x, y, layers = prepared("resnet18", chosen=(11,))
    objective, kept = Clat(steps=1, lambda_=0.5), set()
    examples = objective.examples(net, x, y, Step(layers, seed=3))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(tuple(t.shape)) or t, lambda t: t):
        objective.cost(net, x, y, examples, Step(layers, seed=3)).total.backward()
    maps = {shape[2:] for shape in kept if len(shape) == 4 and shape[0] == len(x)}
    assert maps == {(8, 8), (4, 4)}  # stages 3 and 4; the image and stages 1 and 2 have 32 and 16 pixels


@pytest.mark.parametrize("ce_input", ["clean", "feature", "pgd", "both"])
def test_what_is_drawn_behind_the_layers_differs_from_step_to_step(ce_input):
    """The pass on x + delta ends at the layers: what the one on x drew behind them is not given back."""
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 5))
    net[4].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach() != 0))
    net.train()
    x, y = torch.rand(16, 3, 6, 6), torch.arange(16) % 5
    step = Step(tuple(enumerate_layers(net, x))[:1], seed=3, threat=ThreatModel.parse("0.1"))
    masks = []
    for _ in range(3):
        seen.clear()
        Clat(steps=1, lambda_=1.0, ce_input=ce_input).loss(net, x, y, step)
        masks += [one for one in seen if not one.all()]
    assert len(masks) == (6 if ce_input == "both" else 3)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(masks, 2))


@pytest.mark.parametrize("ce_input", ["clean", "feature", "pgd"])
def test_dropout_alone_moves_no_feature(ce_input):
    net, x, y = DropsBetween().train(), torch.rand(2, 3, 6, 6), torch.tensor([0, 3])
    layers = tuple(enumerate_layers(net, x))[1:2]
    objective = Clat(steps=1, lambda_=1.0, ce_input=ce_input)
    step = Step(layers, seed=3, threat=ThreatModel.parse("1e-7"))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    _, parts = objective.loss(net, x, y, step)
    assert 0 <= parts["feature_change"] < 1e-4
    assert not torch.equal(torch.get_rng_state(), state), "the next step draws others"
