"""Conserved weights of CURE (Gowda et al. 2024): of each tensor the least prominent, chosen anew at every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clat.network.gradients import gradients_by
from clat.objectives.cure.prominence import MaskedGroup, least_prominent, maskable, prominence
from clat.runtime.callback import StageContext, StateDict


class Conservation:
    """Masks of the conserved weights, of one step after another.

    A step sets `losses`, its two cross-entropies, calls `weigh` before its backward pass and `mask` once the
    gradients are complete, and enters `around_optimizer_step` around the optimizer's step.
    """

    def __init__(
        self,
        context: StageContext,
        *,
        percent: float,
        alpha: float | None,
        choice: MaskedGroup | tuple[str, ...],
        hold: bool,
    ) -> None:
        """Remember the settings of a stage.

        Args:
            context: the stage, whose network and processes are used.
            percent: p of the paper: how much of each masked tensor is conserved, from 0 to 100.
            alpha: alpha of Eq. 6; None: prominence is |gradient of the whole loss|, which costs no pass.
            choice: which tensors are masked, see `clat.objectives.cure.prominence.maskable`.
            hold: put conserved weights, and what the optimizer remembers of them, back after the step.
        """
        self.context, self.percent, self.alpha = context, percent, alpha
        self.choice, self.hold = choice, hold
        self.masked: dict[str, nn.Parameter] = {}
        self.conserved: dict[str, Tensor] = {}
        """By parameter name: True where a weight stays in this step."""
        self.losses: tuple[Tensor, Tensor] | None = None
        """CE(x) and CE(x') of the step, with their graphs."""
        self._gradients: tuple[list[Tensor], list[Tensor]] | None = None

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> None:
        """Find the tensors that are masked from now on.

        Args:
            parameters: those that move, by name.

        Raises:
            ClatError: if none of them is among the chosen.
        """
        self.masked = maskable(self.context.model, parameters, self.choice)

    def weigh(self) -> None:
        """Take the gradients of CE(x) and CE(x') in the masked weights.

        Their graphs stay: the loss shares them, so that this costs one backward pass of each and no forward pass.
        """
        losses, self.losses = self.losses, None
        if self.alpha is None:
            return
        assert losses is not None, "the step has no losses"
        weights = list(self.masked.values())

        def gradients(value: Tensor) -> list[Tensor]:
            found = zip(gradients_by(value, weights, again=True), weights, strict=True)
            return [torch.zeros_like(weight) if gradient is None else gradient for gradient, weight in found]

        self._gradients = gradients(losses[0]), gradients(losses[1])

    def mask(self) -> None:
        """Choose the conserved weights and zero their gradient. All processes choose alike: by mean gradients."""
        self.conserved = {name: least_prominent(values, self.percent) for name, values in self._values().items()}
        for name, mask in self.conserved.items():
            gradient = self.masked[name].grad
            if gradient is not None:
                gradient.masked_fill_(mask, 0)

    def _values(self) -> StateDict:
        if self.alpha is None:
            return {name: p.grad.abs() for name, p in self.masked.items() if p.grad is not None}
        assert self._gradients is not None, "mask() comes after weigh()"
        natural, adversarial = self._gradients
        self._gradients = None
        self.context.engine.average([*natural, *adversarial])
        pairs = zip(self.masked, natural, adversarial, strict=True)
        return {name: prominence(one, two, self.alpha) for name, one, two in pairs}

    @contextmanager
    def around_optimizer_step(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Undo, with `hold`, what the optimizer's step inside does to conserved weights.

        For them the step has not been: they and what the optimizer remembers of them are what they were, bit by
        bit. Without `hold`, momentum and weight decay move them all the same.

        Args:
            optimizer: the one that steps inside.
        """
        held = {self.masked[name]: stays for name, stays in self.conserved.items() if self.hold}
        weights = {parameter: parameter.detach().clone() for parameter in held}
        memories = {
            parameter: {key: value.clone() for key, value in _memory(optimizer, parameter).items()}
            for parameter in held
        }
        yield
        with torch.no_grad():
            for parameter, stays in held.items():
                parameter.copy_(torch.where(stays, weights[parameter], parameter))
                for key, value in _memory(optimizer, parameter).items():
                    before = memories[parameter].get(key, torch.zeros_like(value))  # none before the first step
                    value.copy_(torch.where(stays, before, value))


def _memory(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> StateDict:
    """Return what the optimizer remembers of each single weight, by key: SGD's momentum, Adam's two averages."""
    found = optimizer.state[parameter].items()
    return {key: value for key, value in found if isinstance(value, Tensor) and value.shape == parameter.shape}
