"""FAT, Friendly Adversarial Training (Zhang et al., ICML 2020): PGD that stops soon after it has fooled a network.

    min CE(F(x'), y),    x': the PGD iterate tau steps after the first that is misclassified (Algorithm 1)

tau counts misclassified iterates, each image for itself; one that never is misclassified takes all the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clat.attacks.ascent import generator_for, input_gradient
from clat.attacks.ball import Ball
from clat.attacks.draws import normal_like
from clat.attacks.pgd import summed_cross_entropy
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.network import modes
from clat.objectives.base import Examples, Step
from clat.objectives.pgd_at import PgdAT


@dataclass(frozen=True, kw_only=True)
class FAT(PgdAT):
    """PGD-AT on friendly examples. Images that have stopped leave the attack's batch, which then costs less."""

    name: Literal["fat"] = "fat"  # type: ignore[assignment]
    tau: int = 0
    """How many more steps a misclassified image takes."""
    tau_rises: tuple[float, ...] = ()
    """Parts of the stage after each of which tau is one larger; in the released code 50 and 90 of 120 epochs."""
    omega: float = 0.0
    """Standard deviation of the normal noise that is added at each step: 0.001 in the released code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau < 0:
            raise ClatError(f"tau is {self.tau}: FAT expects a number of steps, at least 0")
        if list(self.tau_rises) != sorted(self.tau_rises) or not all(0 <= rise <= 1 for rise in self.tau_rises):
            raise ClatError(f"tau_rises are {self.tau_rises}: expected rising fractions from 0 to 1")
        if not 0 <= self.omega < math.inf:
            raise ClatError(f"omega is {self.omega}: FAT expects a deviation of at least 0, such as 0.001")
        if self.attack_bn != "eval":
            raise ClatError("attack_bn is 'train': FAT lets images leave the attack's batch, so leave it at 'eval'")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step, random_start=self.random_start)
        with modes.attack_mode(model):
            return (run_friendly_pgd(model, x, y, attack, tau=self.tau_at(step), omega=self.omega, seed=step.seed),)

    def tau_at(self, step: Step) -> int:
        """Return tau as it is at this step of the stage.

        Args:
            step: says how much of the stage is done.

        Returns:
            Misclassified iterates that an image goes on from.
        """
        progress = float(step.progress)  # rounded as the settings are: the fraction 9/10 is less than the float 0.9
        return self.tau + sum(progress >= rise for rise in self.tau_rises)


def run_friendly_pgd(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, tau: int, omega: float, seed: int | None
) -> Tensor:
    """Return early-stopped PGD's examples; the caller has put the model into attack mode.

    Args:
        model: the network.
        x: images, (N, C, H, W) in [0, 1].
        y: labels (N,) int64 or probabilities (N, K), whose largest counts.
        attack: eps, step size, the most steps, and whether to begin at a random point.
        tau: misclassified iterates that an image goes on from, before it stops at the next.
        omega: standard deviation of noise added at each step.
        seed: of the random start and the noise.

    Returns:
        (N, C, H, W), inside the ball.
    """
    generator = generator_for(x.device, seed)
    labels = y if y.dim() == 1 else y.argmax(dim=1)
    found = (Ball.around(x, attack.threat).random_point(generator) if attack.random_start else x).clone()
    going, left = torch.arange(len(x), device=x.device), torch.full_like(labels, tau)
    for _ in range(attack.steps):
        noise = omega * normal_like(x, generator) if omega > 0 else None
        point = found[going].requires_grad_(True)
        with torch.enable_grad():
            logits = model(point.view_as(point))
            wrong = logits.argmax(dim=1) != labels[going]
            stops = wrong & (left[going] == 0)
            if stops.all():
                break
            gradient = input_gradient(summed_cross_entropy(logits, y[going]), point)
        left[going] -= wrong.long()
        gradient, going = gradient[~stops], going[~stops]
        ball = Ball.around(x[going], attack.threat)
        moved = found[going] + attack.step_size * ball.unit(gradient)
        found[going] = ball.project(moved if noise is None else moved + noise[going])
    return found
