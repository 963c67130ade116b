"""CURE: Eq. 5 and 8 by hand, where gradients flow, what a step costs, and what it does in a run."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.network.cost import metered
from clat.objectives import Cure, Step, Trades


@pytest.fixture
def joined(around):
    """(callback, step) of CURE on a model, ready for a batch."""

    def join(model, objective, **changes):
        callback = objective.on_stage_start(around(model, **changes))
        callback.choose_parameters(dict(model.named_parameters()))
        return callback, Step(seed=9, callback=callback)

    return join


class Line(nn.Module):
    """Logits (w x, 0) for one pixel, so that p = sigmoid(w x)."""

    def __init__(self, *w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x):
        z = (x.flatten(1) * self.w).sum(1)
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def one(*values):
    return torch.tensor(values).view(1, -1, 1, 1)


def test_the_loss_by_hand(joined):
    """w = 2, theta_rev = 3, x = 0.5, x' = 0.25, label 0: z = 1, z' = 0.5, revised 1.5 and 0.75."""
    model = Line(3.0)
    objective = Cure(gamma=0.4, masked=("w",))
    _, step = joined(model, objective)
    nn.init.constant_(model.w, 2.0)
    total, parts = objective.cost(model, one(0.5), torch.tensor([0]), (one(0.25),), step)
    p, p_adv, taught, taught_adv = (sigmoid(z) for z in (1.0, 0.5, 1.5, 0.75))
    assert parts["cross_entropy"].item() == pytest.approx(-math.log(p), rel=1e-5)
    assert parts["divergence"].item() == pytest.approx(kl(p, p_adv), rel=1e-4)
    consistency = kl(taught, p) + kl(taught_adv, p_adv)
    assert parts["consistency"].item() == pytest.approx(consistency, rel=1e-4)
    assert total.item() == pytest.approx(-math.log(p) + kl(p, p_adv) + 0.4 * consistency, rel=1e-5)


def test_the_prominence_by_hand(joined):
    """dCE/dw_i = -(1 - p) x_i: which of four weights stay, from both inputs."""
    model = Line(0.3, -0.2, 0.1, 0.4)
    x, x_adv = one(0.9, 0.1, 0.5, 0.2), one(0.1, 0.2, 0.6, 0.9)
    values = {}
    for alpha in (1.0, 0.5, 0.0):
        callback, step = joined(model, objective := Cure(percent=50, rgp_alpha=alpha, masked=("w",)))
        model.zero_grad()
        total = objective.cost(model, x, torch.tensor([0]), (x_adv,), step).total
        callback.before_backward()
        total.backward()
        callback.after_backward()
        values[alpha] = callback.conservation.conserved["w"].tolist()
    q, q_adv = (1 - sigmoid((z.flatten() * model.w).sum().item()) for z in (x, x_adv))
    assert q == pytest.approx(q_adv, rel=0.1), "so that the pixels decide"
    assert values[1.0] == [False, True, False, True]  # 0.9 0.1 0.5 0.2
    assert values[0.0] == [True, True, False, False]  # 0.1 0.2 0.6 0.9
    assert values[0.5] == [True, True, False, False]  # 0.50 0.15 0.55 0.55


def test_two_steps_by_hand(joined):
    """Momentum, weight decay, mask and revision together, on two weights of which one stays."""
    model = Line(1.0, 1.0)
    objective = Cure(percent=50, rgp_alpha=1.0, gamma=1.0, rate=1.0, decay=0.75, masked=("w",))
    callback, step = joined(model, objective)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.2)
    label = torch.tensor([0])
    x = one(1.0, 0.5)  # the second weight has the smaller gradient
    w = revised = 1.0  # the first weight and its copy
    momentum = 0.0
    for _ in range(2):
        total = objective.cost(model, x, label, (x.clone(),), step).total
        optimizer.zero_grad()
        callback.before_backward()
        total.backward()
        callback.after_backward()
        with callback.around_optimizer_step(optimizer):
            optimizer.step()
        callback.after_step()
        p, taught = sigmoid(w + 0.5), sigmoid(revised + 0.5)
        gradient = -(1 - p) + 2 * (p - taught)  # of the cross-entropy, and of KL(p_rev || p), twice; x = 1
        momentum = 0.5 * momentum + gradient + 0.2 * w
        w -= 0.1 * momentum
        revised = 0.75 * revised + 0.25 * w
        assert model.w[0].item() == pytest.approx(w, rel=1e-5)
        assert model.w[1].item() == 1.0
        assert callback.revision.tensors["w"].tolist() == [pytest.approx(revised, rel=1e-5), 1.0]
    assert callback.scalars == {"steps": 2, "revisions": 2}


def test_value_and_gradient_of_a_network(build, joined, images, labels):
    net, twin, teacher = build().train(), build().train(), build().train()
    objective = Cure(eps=0.1, steps=2, gamma=0.7, beta=2.0)
    callback, step = joined(net, objective)
    with torch.no_grad():
        for model in (net, twin):
            model.conv1.weight.mul_(1.5)
    (x_adv,) = objective.examples(net, images, labels, step)
    total = objective.cost(net, images, labels, (x_adv,), step).total
    clean, moved = twin(images), twin(x_adv)
    taught, taught_adv = teacher(images).detach(), teacher(x_adv).detach()

    def divergence(reference, logits):
        return F.kl_div(logits.log_softmax(1), reference.softmax(1), reduction="batchmean")

    expected = F.cross_entropy(clean, labels) + 2 * divergence(clean, moved)
    expected = expected + 0.7 * (divergence(taught, clean) + divergence(taught_adv, moved))
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    expected.backward()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    assert not any(value.requires_grad for value in callback.tensors().values())
    assert torch.equal(net.bn1.running_mean, twin.bn1.running_mean), "the copy's passes move no statistics"


def test_without_masks_and_revision_it_is_trades(build, joined, images, labels):
    net, twin = build(), build()
    _, step = joined(net, objective := Cure(percent=0, gamma=0, steps=2))
    mine = objective.loss(net, images, labels, step)
    theirs = Trades(beta=1, steps=2).loss(twin, images, labels, Step(seed=9))
    assert torch.equal(mine.total, theirs.total)
    assert mine.parts.keys() == theirs.parts.keys()


@pytest.mark.parametrize(("prominence", "backwards"), [("separate", 2), ("total", 1)])
def test_a_step_takes_at_most_two_backward_passes_of_the_pair(build, joined, images, labels, prominence, backwards):
    net = build().train()
    callback, step = joined(net, objective := Cure(steps=3, prominence=prominence))
    n, pair = len(images), 2 * len(images)
    with metered(net) as attack:
        examples = objective.examples(net, images, labels, step)
    assert (attack.forwards, attack.backwards) == (4 * n, 3 * n)
    with metered(net) as cost:
        total = objective.cost(net, images, labels, examples, step).total
        callback.before_backward()
        total.backward()
        callback.after_backward()
    assert cost.forwards == 2 * pair, "the network's and the revision copy's"
    assert cost.backwards == backwards * pair


def test_prominence_changes_no_gradient_of_the_loss(build, joined, images, labels):
    net, twin = build().train(), build().train()
    for model, percent in ((net, 30), (twin, 0)):
        callback, step = joined(model, objective := Cure(percent=percent, steps=1))
        total = objective.loss(model, images, labels, step).total
        callback.before_backward()
        total.backward()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_under_bfloat16_gradients_and_copy_stay_float32(build, joined, images, labels):
    net = build().train().to(memory_format=torch.channels_last)
    callback, step = joined(net, objective := Cure(steps=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        examples = objective.examples(net, images, labels, step)
        total = objective.cost(net, images, labels, examples, step).total
    callback.before_backward()
    total.backward()
    callback.after_backward()
    assert total.dtype == torch.float32
    for name, stays in callback.conservation.conserved.items():
        assert stays.sum() == round(0.3 * stays.numel())
        assert (net.get_parameter(name).grad[stays] == 0).all()
        assert (net.get_parameter(name).grad[~stays] != 0).any()
    assert {v.dtype for v in callback.tensors().values() if v.is_floating_point()} == {torch.float32}


def test_the_attack_leaves_no_trace_and_nothing_draws_from_the_global_stream(build, joined, images, labels):
    net = build().train()
    callback, step = joined(net, objective := Cure(steps=2))
    random, before = torch.get_rng_state(), copy.deepcopy(net.state_dict())
    objective.examples(net, images, labels, step)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    total = objective.loss(net, images, labels, step).total
    callback.before_backward()
    total.backward()
    callback.after_backward()
    callback.after_step()
    assert torch.equal(random, torch.get_rng_state())


def test_the_revision_network_begins_after_the_treatments(build, around):
    """What joins later may draw weights anew, and the copy must have those."""
    net = build()
    callback = Cure().on_stage_start(around(net))
    nn.init.constant_(net.conv1.weight, 0.5)
    callback.choose_parameters(dict(net.named_parameters()))
    assert (callback.tensors()["conv1.weight"] == 0.5).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"percent": 101}, "percent is 101"),
        ({"percent": -1}, "percent is -1"),
        ({"rgp_alpha": 1.5}, "rgp_alpha is 1.5: CURE expects a value from 0 to 1"),
        ({"gamma": -1}, "gamma is -1: CURE expects a weight of at least 0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"decay": 2}, "decay is 2"),
        ({"rate": 1.1}, "rate is 1.1"),
        ({"rate_end": -0.1}, "rate_end"),
        ({"masked": "convolution"}, "did you mean 'convolutions'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ClatError, match=message):
        Cure(**settings)


def test_it_asks_for_its_companion(build, images, labels):
    with pytest.raises(ClatError, match="callback"):
        Cure(steps=1).loss(build(), images, labels, Step())
