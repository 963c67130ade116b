"""GradAlign: closed forms of the alignment and its gradient, then the attack, the options and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.objectives import GradAlign, Step
from clat.objectives.grad_align import lambda_rule, mean_cosine
from clat.recipe.schema import Recipe, StageConfig

EPS = 0.1
STEP = Step(seed=4, threat=ThreatModel.parse(EPS))


def elsewhere(x):
    """x + U(-eps, eps) of STEP, cut to the image range."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(derive_seed(4, "alignment")))
    return (x + (2 * noise - 1) * EPS).clamp(0, 1)


class Quadratic(nn.Module):
    """logits = (sum_i a_i x_i^2 / 2, 0), so that g(x) is a * x up to a factor of the sample's own."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x):
        score = (self.a * x.flatten(1) ** 2 / 2).sum(1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


class Rectified(nn.Module):
    """logits = (v . relu(W x), 0): no second derivative anywhere but at the kinks."""

    def __init__(self, w, v):
        super().__init__()
        self.w, self.v = nn.Parameter(w), nn.Parameter(v)

    def forward(self, x):
        score = F.relu(x.flatten(1) @ self.w.T) @ self.v
        return torch.stack([score, torch.zeros_like(score)], dim=1)


X = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
Y = torch.tensor([0, 1, 0])


def term(objective, model, x=X, y=Y):
    """The alignment term alone: the loss less the cross-entropy on the same example."""
    x_adv, gradient = objective.examples(model, x, y, STEP)
    return objective.cost(model, x, y, (x_adv, gradient), STEP).total - F.cross_entropy(model(x_adv), y)


@pytest.mark.parametrize("first", ["clean", "attack"])
def test_value_and_gradient_on_a_smooth_network_in_closed_form(first):
    a = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = Quadratic(a.clone())
    found = term(GradAlign(lambda_=2, first_gradient=first), model)
    mine = nn.Parameter(a.clone())
    one, other = ((mine * side.flatten(1)) for side in (X, elsewhere(X)))
    if first == "attack":
        one = one.detach()
    expected = 2 * (1 - F.cosine_similarity(one, other).mean())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected > 1e-3
    found.backward()
    expected.backward()
    # The cross-entropy of the example cancels in `term`, so what is left is the alignment's own gradient.
    torch.testing.assert_close(model.a.grad, mine.grad, rtol=1e-3, atol=1e-6)
    assert mine.grad.abs().max() > 1e-3


def test_the_two_forms_have_one_value_and_two_gradients():
    gradients = []
    for first in ("clean", "attack"):
        model = Quadratic(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        value = term(GradAlign(lambda_=1, first_gradient=first), model)
        value.backward()
        gradients.append((value.detach(), model.a.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1], rtol=0.1)


def test_a_relu_network_gets_a_gradient_through_the_cosine():
    """g(x) = W^T (v * [W x > 0]): the masks are constants, the weights are not."""
    generator = torch.Generator().manual_seed(0)
    w, v = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    x = torch.rand(8, 1, 2, 2, generator=generator) * 0.2 + 0.05
    y = torch.tensor([0, 1] * 4)
    model, mine = Rectified(w.clone(), v.clone()), Rectified(w.clone(), v.clone())
    found = term(GradAlign(lambda_=1), model, x, y)
    masks = [((side.flatten(1) @ w.T) > 0).float() for side in (x, elsewhere(x))]
    assert not torch.equal(*masks), "no unit changes its side: the cosine is 1 and the test says nothing"
    expected = 1 - F.cosine_similarity(*((mask * mine.v) @ mine.w for mask in masks)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(model.w.grad, mine.w.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.v.grad, mine.v.grad, rtol=1e-3, atol=1e-5)
    assert mine.w.grad.abs().max() > 1e-3


def test_samples_without_a_gradient_are_left_out():
    one = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])[:, :, None, None]
    other = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]])[:, :, None, None]
    one.requires_grad_(True)
    value = mean_cosine(one, other)
    assert value.item() == pytest.approx((0.5**0.5 - 1) / 2)
    value.backward()
    assert torch.isfinite(one.grad).all()
    assert mean_cosine(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)).item() == 1


def test_tiny_gradients_keep_their_direction():
    """A confident network's gradients, whose squares vanish in float32."""
    one, other = torch.tensor([[3e-30, 4e-30]]), torch.tensor([[5e-25, 0.0]])
    assert mean_cosine(one, other).item() == pytest.approx(0.6)


def fgsm(net, x, y, start, alpha):
    point = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), y), point)
    return (start + alpha * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1), gradient


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("random_start", [False, True])
def test_the_example_is_one_step_of_five_quarters_eps(build, images, labels, mode, random_start):
    net, twin = build().train(), build().train(mode == "train")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    objective = GradAlign(random_start=random_start, attack_bn=mode)
    x_adv, gradient = objective.examples(net, images, labels, STEP)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(4))
    start = (images + (2 * noise - 1) * EPS).clamp(0, 1) if random_start else images
    expected, towards = fgsm(twin, images, labels, start, 1.25 * EPS)
    torch.testing.assert_close(x_adv, expected)
    torch.testing.assert_close(F.normalize(gradient.flatten(1)), F.normalize(towards.flatten(1)))
    if not random_start:  # cut back to eps
        torch.testing.assert_close(x_adv, fgsm(twin, images, labels, images, EPS)[0])
    assert not x_adv.requires_grad
    assert not gradient.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_stored_statistics_follow_the_example_alone(build, images, labels):
    net, twin = build().train(), build().train()
    x_adv, gradient = GradAlign().examples(net, images, labels, STEP)
    total, parts = GradAlign(lambda_=0.5).cost(net, images, labels, (x_adv, gradient), STEP)
    entropy = F.cross_entropy(twin(x_adv), labels)
    torch.testing.assert_close(parts["cross_entropy"], entropy)
    torch.testing.assert_close(total, entropy + 0.5 * parts["misalignment"])
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))


def test_every_weight_of_a_real_network_gets_a_finite_gradient(build, images, labels):
    net = build().train()
    GradAlign(lambda_=1).loss(net, images, labels, STEP).total.backward()
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in net.parameters()
    )


def test_fused_attention_is_differentiated_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(2, 2)

        def forward(self, x):
            return self.score(F.scaled_dot_product_attention(*[x.flatten(1, 2)[:, None]] * 3).mean((1, 2)))

    net = Attention()
    GradAlign(lambda_=1.0).loss(net, X, Y, STEP).total.backward()
    assert net.score.weight.grad.isfinite().all()


def test_the_rule_of_lambda():
    assert lambda_rule("8/255") == pytest.approx(0.2)
    assert lambda_rule("16/255") == pytest.approx(2.0)
    assert lambda_rule(0) == pytest.approx(0.02)

    def shown(objective, **step):
        return float(objective.loss(Quadratic(torch.ones(4)), X, Y, replace(STEP, **step)).parts["lambda"])

    assert shown(GradAlign(), threat=ThreatModel.parse("8/255")) == pytest.approx(0.2)
    assert shown(GradAlign(), threat=ThreatModel.parse("4/255")) == pytest.approx(0.02 * 10**0.5)
    assert shown(GradAlign(eps="16/255")) == pytest.approx(2)
    assert shown(GradAlign(lambda_=0.7)) == pytest.approx(0.7)


def test_what_makes_no_sense_is_refused_before_training():
    with pytest.raises(ClatError, match="lambda is -1"):
        GradAlign(lambda_=-1)
    with pytest.raises(ClatError, match="single step"):
        GradAlign(steps=2)
    stages = (StageConfig(name="a", epochs=1, objective=GradAlign()),)
    with pytest.raises(ClatError, match="norm is l2: give lambda"):
        Recipe(stages=stages, eps=0.5, norm="l2")
    Recipe(stages=(StageConfig(name="a", epochs=1, objective=GradAlign(lambda_=1)),), eps=0.5, norm="l2")
