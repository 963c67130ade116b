"""SCORE: distances and clips by hand, then the published code's two losses and attacks written out here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.objectives import ScoreAT, ScoreTrades, Step
from clat.objectives.score import as_target, clip_distance, lse

CLEAN, MOVED = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]]
X, X_ADV, Y = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.tensor([0, 2])
# sum_k (p_k - y_k)^2 and sum_k (p_k - q_k)^2 of the two samples
MOVED_TO_LABEL, CLEAN_TO_LABEL, BETWEEN = (1.14, 0.375), (0.38, 0.06), (0.26, 0.135)


def test_the_clip_is_the_distance_that_the_published_code_computes():
    for clip, classes in ((0.4, 10), (0.3, 100), (0.0, 3)):
        sure = torch.zeros(classes)
        sure[0] = 1
        less = torch.full((classes,), clip / (classes - 1))
        less[0] = 1 - clip
        assert clip_distance(clip, classes) == pytest.approx(lse(less[None], sure[None]).item(), abs=1e-7)


def test_targets():
    torch.testing.assert_close(as_target(Y, 3), torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    torch.testing.assert_close(as_target(Y, 3, 0.1), torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]]))
    mixed = torch.tensor([[0.7, 0.3, 0.0]])
    torch.testing.assert_close(as_target(mixed, 3), mixed)
    assert as_target(mixed, 3, 0.2).sum().item() == pytest.approx(1)


def test_at_by_hand(table):
    model = table(CLEAN, MOVED)
    total, parts = ScoreAT(clip=0).cost(model, X, Y, (X_ADV,), Step())
    assert total.item() == pytest.approx(sum(MOVED_TO_LABEL) / 2)
    assert parts["distance"].item() == pytest.approx(total.item())
    c = 0.5**2 + 0.5**2 / 2  # 0.375, the second sample's distance exactly; it counts no more
    total, parts = ScoreAT(clip=0.5).cost(model, X, Y, (X_ADV,), Step())
    assert total.item() == pytest.approx((MOVED_TO_LABEL[0] - c) / 2, abs=1e-6)
    assert parts["distance"].item() == pytest.approx(sum(MOVED_TO_LABEL) / 2), "the log tells what is clipped, too"


def test_trades_by_hand(table):
    model = table(CLEAN, MOVED)
    per_sample = [clean + 6 * between for clean, between in zip(CLEAN_TO_LABEL, BETWEEN, strict=True)]
    total, parts = ScoreTrades(clip=0).cost(model, X, Y, (X_ADV,), Step())
    assert total.item() == pytest.approx(sum(per_sample) / 2)
    assert parts["distance"].item() == pytest.approx(sum(CLEAN_TO_LABEL) / 2)
    assert parts["divergence"].item() == pytest.approx(sum(BETWEEN) / 2)
    c = 0.8**2 + 0.8**2 / 2  # 0.96: between the two samples' 1.94 and 0.87
    total, _ = ScoreTrades(clip=0.8).cost(model, X, Y, (X_ADV,), Step())
    assert total.item() == pytest.approx((per_sample[0] - c) / 2, abs=1e-6)
    c = 0.35**2 * 1.5  # 0.18375: between the two samples' divergences
    total, _ = ScoreTrades(clip=0.35, clips="divergence").cost(model, X, Y, (X_ADV,), Step())
    assert total.item() == pytest.approx(sum(CLEAN_TO_LABEL) / 2 + 6 * (BETWEEN[0] - c) / 2, abs=1e-6)


def test_a_clipped_sample_gives_no_gradient(table):
    model = table(CLEAN, MOVED)
    ScoreAT(clip=0.55).cost(model, X, Y, (X_ADV,), Step()).total.backward()
    assert model.moved.grad[0].abs().max() > 0.1
    assert not model.moved.grad[1].any()


def test_both_outputs_of_trades_get_a_gradient_from_the_divergence(table):
    """What beta adds to the two gradients, the clean one by hand."""
    gradients = []
    for beta in (0.0, 6.0):
        model = table(CLEAN, MOVED)
        ScoreTrades(beta=beta, clip=0).cost(model, X, Y, (X_ADV,), Step()).total.backward()
        gradients.append((model.clean.grad, model.moved.grad))
    assert not torch.allclose(gradients[0][0], gradients[1][0])
    assert not gradients[0][1].any()
    assert gradients[1][1].any()
    # d/dz of 6/2 * sum (softmax(z) - q)^2 by the softmax's Jacobian
    probabilities = torch.tensor(CLEAN)
    pull = 6 * (probabilities - torch.tensor(MOVED))
    expected = probabilities * (pull - (pull * probabilities).sum(1, keepdim=True))
    torch.testing.assert_close(gradients[1][0] - gradients[0][0], expected, rtol=1e-4, atol=1e-6)


def ascend(net, x, reference, start, *, eps, alpha, steps):
    point = start.clamp(x - eps, x + eps).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        value = ((F.softmax(net(point), dim=1) - reference) ** 2).sum(1).mean()
        (gradient,) = torch.autograd.grad(value, point)
        point = (point.detach() + alpha * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return point.detach()


def uniform(x, eps, seed):
    return x + (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 1) * eps


def normal(x, seed):
    return x + 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("settings", "mode"), [({}, "train"), ({"attack_bn": "eval", "start": "normal"}, "eval")])
def test_ats_attack_maximises_the_distance_to_the_label(steep, images, labels, settings, mode):
    net, twin = steep().train(), steep().train(mode == "train")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    objective = ScoreAT(eps=0.1, alpha=0.04, steps=3, label_smoothing=0.3, **settings)
    (x_adv,) = objective.examples(net, images, labels, Step(seed=5))
    start = uniform(images, 0.1, 5) if mode == "train" else normal(images, 5)
    label = F.one_hot(labels, 5)  # not smoothed
    torch.testing.assert_close(x_adv, ascend(twin, images, label, start, eps=0.1, alpha=0.04, steps=3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "mode"), [({}, "eval"), ({"attack_bn": "train", "start": "uniform"}, "train")]
)
def test_trades_attack_maximises_the_distance_to_the_clean_output(steep, images, labels, settings, mode):
    net, twin = steep().train(), steep().train(mode == "train")
    (x_adv,) = ScoreTrades(eps=0.1, alpha=0.04, steps=3, **settings).examples(net, images, labels, Step(seed=5))
    start = normal(images, 5) if mode == "eval" else uniform(images, 0.1, 5)
    reference = F.softmax(twin(images), dim=1).detach()
    torch.testing.assert_close(x_adv, ascend(twin, images, reference, start, eps=0.1, alpha=0.04, steps=3))


@pytest.mark.parametrize("settings", [{"clip": -0.1}, {"clip": 1.5}, {"label_smoothing": 2}, {"beta": -1}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(ClatError, match=next(iter(settings))):
        ScoreTrades(**settings)
    if "beta" not in settings:
        with pytest.raises(ClatError, match="from 0 to 1"):
            ScoreAT(**settings)
