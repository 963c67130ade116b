"""Networks in the manner of published defences that were broken, small enough for the tests.

`single_step.safetensors` beside the tests of the check holds a network that was trained on FGSM examples of digits
until it had learned to mislead gradients; `python -m helpers.masked_networks FILE` in tests/ trains one anew. Such
training ends elsewhere on another machine, which is why its weights are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clat.attacks import pgd
from clat.data import load_split

SINGLE_STEP_EPS = 0.2
WEIGHTS = Path(__file__).parent.parent / "evaluation" / "masking" / "single_step.safetensors"


class Around(nn.Module):
    """A network with something before or behind it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Return all images of a split as float32 in [0, 1], and their labels."""
    part = load_split("digits", split)
    assert isinstance(part.images, Tensor)
    return part.images.float() / 255, part.labels


def train(adversarial: bool, *, eps: float = 0.1, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Return a small convolutional network after a few hundred steps on digits."""
    x, y = digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 16, 3, stride=2, padding=1), activation(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for step in range(150):
            rows = torch.randint(len(x), (128,))
            batch = pgd(net, x[rows], y[rows], eps=eps, steps=3, seed=step) if adversarial else x[rows]
            optimizer.zero_grad()
            F.cross_entropy(net(batch), y[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


class StraightThroughSign(nn.Module):
    """An activation that passes on one bit; training sees the slope of a clipped line (binarised networks)."""

    def forward(self, x: Tensor) -> Tensor:
        line = x.clamp(-1, 1)
        return line + (x.sign() - line).detach() if self.training else x.sign()


def detector(net: nn.Module, tolerated: float = 0.004) -> nn.Module:
    """Return a network behind a detector: images that lie off the 17 grey levels of digits, on average by more than
    `tolerated`, are rounded to them first, of which no gradient knows."""

    def purified(x: Tensor) -> Tensor:
        rounded = ((x * 16).round() / 16).detach()
        suspect = (x - rounded).abs().flatten(1).mean(1) > tolerated
        return torch.where(suspect.view(-1, 1, 1, 1), rounded, x)

    return Around(net, before=purified)


def image_noise(net: nn.Module, size: float = 0.05) -> nn.Module:
    """Return a network that adds noise, the same for an image each time, another for one a bit beside it."""

    def noisy(x: Tensor) -> Tensor:
        phase = (x.detach() * 1e6).round().flatten(1).sum(1).view(-1, 1, 1, 1)
        place = torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])
        return x + size * torch.sin(phase * 12.9898 + place * 78.233)

    return Around(net, before=noisy)


def shattered(net: nn.Module, size: float = 0.02, waves: float = 400.0) -> nn.Module:
    """Return a network that adds a fine ripple to its input: hardly a change, but the slopes are all its own."""
    return Around(net, before=lambda x: x + size * torch.sin(waves * x))


def one_size(net: nn.Module, grid: float) -> nn.Module:
    """Return a network that is right on the grid that single steps of size `grid` lead to, and wrong between: the
    decision boundary that overfitting to single steps leaves (Kim et al. 2021), by construction."""

    class OneSize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            off = (x / grid - (x / grid).round()).abs().flatten(1).mean(1)
            logits: Tensor = net(x)
            return torch.where((off > 0.25)[:, None], logits.roll(1, dims=1), logits)

    return OneSize()


class BatchStatistics(nn.Module):
    """Normalises by the batch at hand, in evaluation too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - x.mean((0, 2, 3), keepdim=True)) / 2 + 0.3)


class Reversed(torch.autograd.Function):
    """The identity with a slope of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def single_step() -> nn.Module:
    """Return the network of `single_step.safetensors`; its eps is SINGLE_STEP_EPS."""
    net = _architecture()
    net.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return net.eval().requires_grad_(False)


def _architecture() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train_single_step(steps: int = 800, lr: float = 0.2) -> nn.Module:
    """Train on FGSM examples, which start at the image, at a falling learning rate."""
    x, y = digits("train")
    torch.manual_seed(0)
    net = _architecture()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for step in range(steps):
        rows = torch.randint(len(x), (128,))
        image = x[rows].requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(image), y[rows]), image)
        example = (x[rows] + SINGLE_STEP_EPS * gradient.sign()).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(net(example), y[rows]).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
    return net


if __name__ == "__main__":
    save_file({name: value.half() for name, value in train_single_step().state_dict().items()}, sys.argv[1])
