"""Free adversarial training (Shafahi et al. 2019): the backward pass of the weights also gives the perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.distributed as dist
from torch import Tensor, nn

from clat.attacks.ball import Ball
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.objectives.base import UNBOUNDED, Examples, Loss, Objective, Step, check_moves, cross_entropy, threat_of
from clat.runtime.callback import StageCallback, StageContext, StateDict


@dataclass(frozen=True, kw_only=True)
class FreeAT(Objective):
    """min CE(F(x + delta), y), each batch replayed several times in a row.

    Every replay is one forward and one backward pass, from whose gradients the weights take a step down and delta
    one step of eps up, projected.

    Delta persists: the next batch starts from where the last one left it, image by image in the batch's order.
    Epochs count passes over the data, so the paper's N epochs with m replays are N / m of a stage's epochs. A delta
    that leads out of the next image's range [0, 1] is cut before it is used (the published code does so after).
    """

    one_step = True
    splits = False  # the perturbation belongs to places of the whole batch

    name: Literal["free-at"] = "free-at"
    replays: int = 8
    """How often each batch is trained on in a row, m in the paper."""
    eps: Size | None = None
    """Largest perturbation, and the length of each step; None: the run's eps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1:
            raise ClatError(f"replays is {self.replays}: Free-AT trains on each batch at least once")
        check_moves(threat_of(Step(threat=UNBOUNDED), self.eps))

    def check(self, threat: ThreatModel) -> None:
        self._attack(Step(threat=threat))

    def on_stage_start(self, context: StageContext) -> StageCallback:
        share = context.loader.batch_size // context.engine.world
        x = context.heldout[0]
        return FreePerturbation(x.new_zeros(share, *x.shape[1:]))

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        return (_carried(step).on(x, self._attack(step)),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        # A leaf of its own for each evaluation: the one that the loss's backward pass reaches moves delta.
        x_adv = _carried(step).point = x_adv.detach().requires_grad_(True)
        total = cross_entropy(model(x_adv), y, self.label_smoothing)
        return Loss(total, {"cross_entropy": total.detach()})

    def _attack(self, step: Step) -> Attack:
        return Attack(threat_of(step, self.eps), steps=1)


class FreePerturbation(StageCallback):
    """Perturbation that Free-AT carries from step to step. `delta`: this process's share, (N, C, H, W)."""

    def __init__(self, delta: Tensor) -> None:
        super().__init__()
        self.delta = delta
        self.point: Tensor | None = None
        """Where the current step's gradient is taken."""
        self._ball: Ball

    def on(self, x: Tensor, attack: Attack) -> Tensor:
        """Return x + delta, inside the ball around x.

        Args:
            x: images, (N, C, H, W) in [0, 1], at most as many as delta has.
            attack: gives the radius and norm of the ball.

        Returns:
            The perturbed images, of the shape of `x`.

        Raises:
            ClatError: for a batch that delta does not fit.
        """
        if len(x) > len(self.delta) or x.shape[1:] != self.delta.shape[1:]:
            raise ClatError(
                f"Free-AT carries a perturbation of shape {tuple(self.delta.shape)}; a batch of {tuple(x.shape)} "
                "does not fit it"
            )
        self._ball = Ball.around(x, attack.threat)
        return self._ball.project(x + self.delta[: len(x)])

    def after_backward(self) -> None:
        """Move delta by one step of eps up the gradient that the loss's backward pass left at the point.

        Raises:
            ClatError: if there is none.
        """
        point = self.point
        assert point is not None
        if point.grad is None:
            raise ClatError("the model has no gradient towards its input: does it detach, or round to integers?")
        ball = self._ball
        moved = ball.project(point.detach() + ball.eps * ball.unit(point.grad))
        self.delta[: len(moved)] = moved - ball.x
        self.point = None

    def per_process_state(self) -> StateDict:
        return {"delta": self.delta}

    def restore(self, tensors: StateDict) -> None:
        delta = tensors["delta"]
        if len(delta) > len(self.delta):  # of a single process, of whose batch this one now has a part
            delta = delta.split(len(self.delta))[dist.get_rank()]
        self.delta.copy_(delta)


def _carried(step: Step) -> FreePerturbation:
    if not isinstance(step.callback, FreePerturbation):
        raise ClatError(
            "Free-AT carries a perturbation through its stage: give Step(callback=FreePerturbation(zeros))"
        )
    return step.callback
