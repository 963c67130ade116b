"""One training step, by hand: what moves, by how much, and when callbacks are asked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from clat.objectives import Loss, Objective, Step
from clat.runtime.callback import StageCallback
from clat.runtime.callback_list import CallbackList
from clat.runtime.engine import Engine, EngineConfig
from clat.training.step import NotFinite, take_step
from clat.training.trainable import TrainableSet


@dataclass(frozen=True, kw_only=True)
class Product(Objective):
    """w * (x + shift), summed; the examples are x + shift."""

    shift: float = 1.0

    def examples(self, model, x, y, step):
        return (x + self.shift,)

    def cost(self, model, x, y, examples, step):
        return Loss(model(examples[0]).sum(), {"part": torch.tensor(7.0)})


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.still = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(5.0), requires_grad=False)

    def forward(self, x):
        return self.w * self.still * x


class Listening(StageCallback):
    """Writes down the hooks, with the weight and its gradient as each finds them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.heard = model, []

    def note(self, name):
        grad = self.model.w.grad
        self.heard.append((name, self.model.w.item(), None if grad is None else grad.item()))

    @contextmanager
    def around_loss(self, cost):
        self.heard.append(("cost again", cost().item()))
        yield
        self.note("cost over")

    def before_backward(self):
        self.note("before backward")

    def after_backward(self):
        self.note("after backward")

    @contextmanager
    def around_optimizer_step(self, optimizer):
        self.heard.append(("rate", optimizer.param_groups[0]["lr"]))
        yield
        self.note("stepped")

    def after_step(self):
        self.note("after step")


def stepped(model, objective, callbacks=None, rate=0.1, clip_norm=None):
    optimizer = torch.optim.SGD([model.w], lr=0.0, weight_decay=1.0)
    trainable = TrainableSet(Step(), {"w": model.w}, optimizer, clip_norm)
    engine = Engine(EngineConfig(device="cpu"))
    x = torch.tensor([1.0, 3.0])
    return take_step(
        objective,
        model,
        x,
        x,
        trainable.step,
        trainable=trainable,
        callbacks=callbacks or CallbackList(),
        engine=engine,
        rate=rate,
    )


def test_a_step_by_hand():
    model = Scale()
    loss = stepped(model, Product())
    assert loss.total.item() == 2 * 5 * (2 + 4)
    assert not loss.total.requires_grad
    assert loss.parts == {"part": 7.0}
    assert model.w.item() == pytest.approx(2 - 0.1 * (5 * (2 + 4) + 2))  # the gradient, and the decay of w itself
    assert (model.still.item(), model.still.grad) == (5.0, None)


def test_companions_are_asked_in_their_order():
    model = Scale()
    model.w.grad = torch.tensor(99.0)  # of an earlier step: no callback may take it for this one's
    one = Listening(model)
    stepped(model, Product(), CallbackList([("one", one)]))
    after = pytest.approx(2 - 0.1 * 32)
    assert one.heard == [
        ("cost again", 60.0),
        ("before backward", 2.0, None),
        ("cost over", 2.0, 30.0),
        ("after backward", 2.0, 30.0),
        ("rate", 0.1),
        ("stepped", after, 30.0),
        ("after step", after, 30.0),
    ]


@pytest.mark.parametrize(("clip_norm", "gradient"), [(3.0, 3), (31.0, 30)])
def test_a_gradient_that_is_too_long_is_cut_to_length_before_the_decay(clip_norm, gradient):
    model = Scale()
    stepped(model, Product(), clip_norm=clip_norm)
    assert model.w.item() == pytest.approx(2 - 0.1 * (gradient + 2))


@pytest.mark.parametrize("shift", [float("nan"), float("inf")])
def test_nothing_moves_where_the_loss_is_not_finite(shift):
    model = Scale()
    with pytest.raises(NotFinite):
        stepped(model, Product(shift=shift))
    assert (model.w.item(), model.w.grad) == (2.0, None)
