"""Plain training steps as the published scripts write them, which ours are timed against.

float32, the default memory layout, and `loss.backward()` in the attack, so that the gradients of all weights are
computed at every step of it and thrown away; TRADES computes the clean output anew at every step. The arithmetic of
the methods is the published one; nothing else is done to make them slow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PlainStep = Callable[[], None]


def pgd_at_step(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int) -> PlainStep:
    """Return PGD adversarial training on one batch, as a function to call again and again.

    The learning rate is 0, so that each step is the same.

    Args:
        model: the network, trained in place: its BatchNorm statistics move.
        x: images (N, C, H, W), in [0, 1].
        y: labels (N,).
        eps: l-inf radius in image units.
        steps: attack steps, each of 2.5 eps / steps.

    Returns:
        A function that takes one training step.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        model.eval()
        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = F.cross_entropy(model(x_adv), y)
            optimizer.zero_grad()
            loss.backward()
            x_adv = _moved(x_adv, x, eps, steps)
        model.train()
        loss = F.cross_entropy(model(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def trades_step(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, beta: float = 6.0) -> PlainStep:
    """Return TRADES (Zhang et al., ICML 2019) on one batch, as a function to call again and again.

    The learning rate is 0, so that each step is the same.

    Args:
        model: the network, trained in place: its BatchNorm statistics move.
        x: images (N, C, H, W), in [0, 1].
        y: labels (N,).
        eps: l-inf radius in image units.
        steps: attack steps, each of 2.5 eps / steps.
        beta: weight of the divergence, averaged over the batch.

    Returns:
        A function that takes one training step.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def divergence(x_adv: Tensor, logits: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(model(x_adv), dim=1), F.softmax(logits, dim=1), reduction="sum")

    def step() -> None:
        model.eval()
        x_adv = x + 0.001 * torch.randn_like(x)
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = divergence(x_adv, model(x))
            optimizer.zero_grad()
            loss.backward()
            x_adv = _moved(x_adv, x, eps, steps)
        model.train()
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits, y) + beta / len(x) * divergence(x_adv, logits)
        loss.backward()
        optimizer.step()

    return step


def _moved(x_adv: Tensor, x: Tensor, eps: float, steps: int) -> Tensor:
    """Return `x_adv` one step of 2.5 eps / steps further along the gradient's sign, projected onto the ball."""
    assert x_adv.grad is not None
    moved = x_adv.detach() + 2.5 * eps / steps * x_adv.grad.sign()
    return torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)


PLAIN: dict[str, Callable[..., PlainStep]] = {"pgd-at": pgd_at_step, "trades": trades_step}
"""By the objective's name. Others are compared with plain PGD-AT."""
