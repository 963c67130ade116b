"""Adversarial weight perturbation: direction, size, the gradient at the moved weights, and that nothing stays."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.network.layers import enumerate_layers, find_layers
from clat.objectives import Clat, PgdAT, Step, Trades
from clat.treatments import AWP
from clat.treatments.awp import perturbed


def join(settings, context, parameters=None):
    callback = settings.on_stage_start(context)
    callback.choose_parameters(dict(context.model.named_parameters()) if parameters is None else parameters)
    return callback


def test_the_step_along_the_gradient_has_the_length_gamma_times_the_norm_of_the_weight():
    weights = {"w": torch.tensor([[3.0, 4.0]])}  # ||w|| = 5
    moved = perturbed(weights, {"w": torch.tensor([[0.0, -0.02]])}, gamma=0.1)
    torch.testing.assert_close(moved["w"], torch.tensor([[3.0, 3.5]]))


def test_each_tensor_has_its_own_length():
    weights = {"a": torch.full((2, 2), 1.0), "b": torch.full((2, 2), 100.0)}
    gradients = {"a": torch.eye(2), "b": torch.eye(2)}
    moved = perturbed(weights, gradients, gamma=0.01)
    for name, norm in (("a", 2.0), ("b", 200.0)):
        assert (moved[name] - weights[name]).norm().item() == pytest.approx(0.01 * norm, rel=1e-4)


def test_a_zero_gradient_moves_nothing():
    weights = {"w": torch.randn(3, 3)}
    assert torch.equal(perturbed(weights, {"w": torch.zeros(3, 3)}, gamma=0.5)["w"], weights["w"])


def test_a_zero_weight_stays_zero():
    assert not perturbed({"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}, gamma=0.5)["w"].any()


def test_the_gradient_is_that_at_the_moved_weights_and_they_come_back(around):
    """cost = ||W||^2 / 2 has the gradient W, so the moved weights are (1 + gamma) W, and so is their gradient."""
    model = nn.Linear(4, 3)
    before = copy.deepcopy(model.state_dict())

    def cost():
        return (model.weight.square().sum() + model.bias.square().sum()) / 2

    with join(AWP(gamma=0.25), around(model)).around_loss(cost):
        torch.testing.assert_close(model.weight.detach(), 1.25 * before["weight"])
        assert torch.equal(model.bias, before["bias"])
        cost().backward()
    torch.testing.assert_close(model.weight.grad, 1.25 * before["weight"])
    assert torch.equal(model.bias.grad, before["bias"])
    assert torch.equal(model.weight, before["weight"])


def published(net, cost, gamma):
    """A copy takes a step of SGD on -cost; the difference, scaled to the weight's norm, is the direction."""
    proxy = copy.deepcopy(net)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    optimizer.zero_grad()
    (-cost(proxy)).backward()
    optimizer.step()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for (name, new), old, w in zip(proxy.named_parameters(), net.parameters(), moved.parameters(), strict=True):
            if old.dim() > 1 and "weight" in name:
                difference = new - old
                w.add_(old.norm() / (difference.norm() + 1e-20) * difference, alpha=gamma)
    return moved


def trades_cost(beta):
    """Of the published code, for given clean and adversarial images."""

    def build(x, x_adv, y):
        def cost(model):
            clean, attacked = model(x), model(x_adv)
            kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(attacked, 1), F.softmax(clean, 1))
            return F.cross_entropy(clean, y) + beta * kl

        return cost

    return build


@pytest.mark.parametrize("objective", [PgdAT(steps=2), Trades(steps=2, beta=3.0)], ids=lambda o: o.name)
def test_under_an_objective_as_in_the_published_code(net, x, y, around, objective):
    """Gradients, losses and BatchNorm statistics, which only the pass at the moved weights updates."""
    net.dropout.p = 0.0
    step = Step(seed=3, threat=ThreatModel.parse("0.1"))
    examples = objective.examples(net, x, y, step)
    if objective.name == "trades":
        theirs = trades_cost(3.0)(x, examples[0], y)
    else:

        def theirs(model):
            return F.cross_entropy(model(examples[0]), y)

    reference = published(net, theirs, gamma=0.1)
    loss = theirs(reference)
    loss.backward()
    callback = join(AWP(gamma=0.1), around(net))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    with callback.around_loss(lambda: objective.cost(net, x, y, examples, step).total):
        mine = objective.cost(net, x, y, examples, step).total
        mine.backward()
    assert mine.item() == pytest.approx(loss.item(), rel=1e-4)
    for parameter, other in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-5)
    for buffer, other in zip(net.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), before, strict=True))


def test_the_inner_attack_is_not_repeated(net, x, y, around):
    """A step under AWP costs one more evaluation of the loss, which for TRADES is two more passes."""
    objective, step = Trades(steps=2), Step(threat=ThreatModel.parse("0.1"))
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    examples = objective.examples(net, x, y, step)
    assert len(passes) == 3  # the clean output once, then one a step
    with join(AWP(), around(net)).around_loss(lambda: objective.cost(net, x, y, examples, step).total):
        objective.cost(net, x, y, examples, step)
    assert len(passes) == 3 + 2 + 2


def test_with_clat_on_one_layer_only_that_weight_is_moved(net, x, y, around, everything, same):
    net.eval()
    (layer,) = find_layers(enumerate_layers(net, x), ["conv2"])
    objective = Clat(steps=2, lambda_=1.0)
    step = Step(layers=(layer,), threat=ThreatModel.parse("0.1"))
    net.requires_grad_(False)
    moving = {f"conv2.{name}": p.requires_grad_(True) for name, p in net.conv2.named_parameters()}
    examples = objective.examples(net, x, y, step)
    before = everything(net)
    with join(AWP(gamma=0.1), around(net), moving).around_loss(
        lambda: objective.cost(net, x, y, examples, step).total
    ):
        inside = everything(net)
        objective.cost(net, x, y, examples, step).total.backward()
    assert {name for name in before if not torch.equal(inside[name], before[name])} == {"conv2.weight"}
    assert same(everything(net), before)
    assert net.conv2.weight.grad.any()
    assert net.conv1.weight.grad is None


def test_a_failure_inside_puts_the_weights_back(net, x, around, everything, same):
    before, inside = everything(net), {}

    def fail():
        inside.update(everything(net))
        raise RuntimeError("stop")

    callback = join(AWP(gamma=0.5), around(net))
    with pytest.raises(RuntimeError, match="stop"), callback.around_loss(lambda: net(x).sum()):
        fail()
    assert not torch.equal(inside["head.weight"], before["head.weight"])
    assert same(everything(net), before)


def test_during_warm_up_nothing_is_computed(around):
    model, calls = nn.Linear(2, 2), []

    def cost():
        calls.append(1)
        return model.weight.sum()

    callback = join(AWP(gamma=0.5, warmup=2), around(model, epochs=3))
    for epoch in range(3):
        with callback.around_loss(cost):
            pass
        assert len(calls) == (epoch == 2)
        callback.after_epoch(None)


def test_the_ascent_follows_the_gradient_of_all_processes(around):
    """Every process must move alike: what the engine makes of the gradients is what counts."""

    class Engine:
        def completed(self, gradients, like):
            return gradients

        def average(self, tensors):
            for tensor in tensors:
                tensor.copy_(torch.tensor([[0.0, 1.0]]))  # another process's share turns the direction

    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    with join(AWP(gamma=0.5), around(model, engine=Engine())).around_loss(lambda: model.weight[0, 0]):
        torch.testing.assert_close(model.weight.detach(), torch.tensor([[1.0, 1 + 0.5 * 2**0.5]]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gamma": -0.1}, "awp.gamma is -0.1"),
        ({"gamma": float("nan")}, "awp.gamma"),
        ({"warmup": -1}, "awp.warmup"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        AWP(**settings)


def test_a_warm_up_as_long_as_the_stage_is_refused():
    AWP(warmup=9).check(10)
    with pytest.raises(ClatError, match="never act"):
        AWP(warmup=10).check(10)
