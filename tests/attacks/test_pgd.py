"""PGD and FGSM against closed forms, against ten lines written here, and their promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import fgsm, pgd
from clat.attacks.ascent import generator_for
from clat.attacks.ball import Ball
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.bench.memory import TensorMemory
from clat.core.errors import ClatError

Build = Callable[[], nn.Module]


class TwoClasses(nn.Module):
    """Logits 0 and <w, x>: whatever a sample's label is, the best perturbation is along -w or +w."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)

    def uphill(self, y: Tensor) -> Tensor:
        """The direction that hurts each sample, (N, C, H, W)."""
        return torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1) * self.w.detach()


def batch(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(7)) * (high - low) + low
    return x, torch.arange(shape[0]) % 2


SHAPES = [(1, 1, 1, 1), (1, 3, 8, 8), (5, 3, 4, 6), (16, 1, 5, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [0.03, 8 / 255, 0.5, 1.0])
def test_linf_optimum_of_a_linear_model(shape: tuple[int, ...], eps: float) -> None:
    model = TwoClasses(shape[1:])
    x, y = batch(shape)
    best = (x + eps * model.uphill(y).sign()).clamp(0, 1)
    for seed in (0, 1):
        found = pgd(model, x, y, eps=eps, steps=10, seed=seed)
        torch.testing.assert_close(found, best, atol=1e-7, rtol=0)
    torch.testing.assert_close(pgd(model, x, y, eps=eps, steps=3, random_start=False), best, atol=1e-7, rtol=0)
    torch.testing.assert_close(fgsm(model, x, y, eps=eps, random_start=False), best, atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [0.03, 0.3])
def test_l2_optimum_of_a_linear_model(shape: tuple[int, ...], eps: float) -> None:
    """Interior points, so that the image range does not cut: the optimum is eps * w / ||w||."""
    model = TwoClasses(shape[1:])
    x, y = batch(shape, 0.4, 0.6)
    best = x + eps * model.uphill(y) / model.w.detach().norm()
    found = pgd(model, x, y, eps=eps, alpha=eps / 2, steps=50, norm="l2", seed=3)
    torch.testing.assert_close(found, best, atol=2e-6, rtol=0)
    straight = pgd(model, x, y, eps=eps, steps=2, norm="l2", random_start=False)
    torch.testing.assert_close(straight, best, atol=1e-6, rtol=0)


def test_l2_step_has_unit_length_however_small_the_gradient() -> None:
    """A saturated cross-entropy has gradients whose squares vanish in float32; the step must not."""
    ball = Ball(torch.full((3, 1, 2, 2), 0.5), 0.1, "l2")
    direction = torch.tensor([3.0, 0.0, 4.0, 0.0]).view(1, 1, 2, 2)
    gradient = torch.cat([direction, direction * 1e-30, direction * 1e30])
    unit = ball.unit(gradient)
    torch.testing.assert_close(unit, (direction / 5).expand(3, -1, -1, -1))
    assert torch.equal(ball.unit(torch.zeros(3, 1, 2, 2)), torch.zeros(3, 1, 2, 2))


def reference_pgd(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, alpha: float, steps: int
) -> Tensor:
    point = start.clone()
    for _ in range(steps):
        point.requires_grad_(True)
        loss = F.cross_entropy(model(point), y)
        gradient = torch.autograd.grad(loss, point)[0]
        point = point.detach() + alpha * gradient.sign()
        point = torch.min(torch.max(point, x - eps), x + eps)
        point = point.clamp(0, 1)
    return point


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("random_start", [True, False])
def test_step_by_step_as_a_naive_loop(
    steps: int, random_start: bool, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model, eps, alpha = tiny_resnet(), 8 / 255, 2 / 255
    start = Ball(images, eps).random_point(generator_for(images.device, 11)) if random_start else images
    expected = reference_pgd(model, images, labels, start, eps, alpha, steps)
    found = pgd(model, images, labels, eps="8/255", alpha="2/255", steps=steps, random_start=random_start, seed=11)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_default_step_sizes(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b)

    assert same(
        pgd(model, images, labels, eps="8/255", seed=0),
        pgd(model, images, labels, eps="8/255", alpha="2/255", steps=10, seed=0),
    )
    one = fgsm(model, images, labels, eps="8/255", random_start=True, seed=0)
    assert same(one, pgd(model, images, labels, eps="8/255", alpha="10/255", steps=1, seed=0))
    assert same(one, fgsm(model, images, labels, eps="8/255", alpha="10/255", random_start=True, seed=0))
    assert not same(one, fgsm(model, images, labels, eps="8/255", alpha="8/255", random_start=True, seed=0))
    assert same(
        fgsm(model, images, labels, eps="8/255", random_start=False),
        pgd(model, images, labels, eps="8/255", alpha="8/255", steps=1, random_start=False),
    )
    fgsm(model, images, labels, eps=0.9, random_start=True)  # 1.25 * eps is above 1, and cut there
    fgsm(model, images, labels, eps=2, norm="l2")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_seeds(norm: str, tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()

    def attack(seed: int | None, **settings: Any) -> Tensor:
        return pgd(model, images, labels, eps=0.1, steps=2, norm=norm, seed=seed, **settings)

    torch.manual_seed(0)
    first = attack(0)
    torch.manual_seed(1)
    assert torch.equal(first, attack(0))
    assert not torch.equal(first, attack(1))
    assert not torch.equal(attack(None), attack(None))
    assert torch.equal(attack(0, random_start=False), attack(1, random_start=False))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_zero_gives_x(norm: str, tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    assert torch.equal(pgd(model, images, labels, eps=0, norm=norm), images)
    assert torch.equal(pgd(model, images, labels, eps=0, alpha=0.1, norm=norm), images)
    assert torch.equal(fgsm(model, images, labels, eps=0, norm=norm), images)


def test_each_sample_is_attacked_by_itself(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    together = pgd(model, images, labels, eps=0.1, steps=2, random_start=False)
    for i in range(len(images)):
        alone = pgd(model, images[i : i + 1], labels[i : i + 1], eps=0.1, steps=2, random_start=False)
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)


def test_more_steps_do_not_hurt_and_the_loss_rises(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()

    def loss(x: Tensor) -> float:
        with torch.no_grad():
            return F.cross_entropy(model(x), labels).item()

    settings: dict[str, Any] = {"eps": 0.1, "alpha": 0.01, "random_start": False}
    values = [loss(pgd(model, images, labels, steps=steps, **settings)) for steps in (1, 5, 20)]
    assert loss(images) < values[0] < values[1] < values[2]


def test_the_input_may_require_a_gradient(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    x = images.clone().requires_grad_(True)
    found = pgd(tiny_resnet(), x, labels, eps=0.1, steps=1, seed=0)
    assert not found.requires_grad
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(found, pgd(tiny_resnet(), images, labels, eps=0.1, steps=1, seed=0))


def test_an_empty_batch_gives_an_empty_batch(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    for norm in ("linf", "l2"):
        assert pgd(tiny_resnet(), images[:0], labels[:0], eps=0.1, norm=norm).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: ((x * 255).to(torch.uint8), y), "uint8.*divide by 255"),
        (lambda x, y: (x * 255, y), "divide by 255"),
        (lambda x, y: (x * 2 - 1, y), "unnormalised"),
        (lambda x, y: (x + 1e-3, y), r"expected \[0, 1\]"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), r"x\.permute\(0, 3, 1, 2\)"),
        (lambda x, y: (x[0], y), r"x\[None\]"),
        (lambda x, y: (x * float("nan"), y), "nan"),
        (lambda x, y: (x.numpy(), y), "torch.as_tensor"),
        (lambda x, y: (x, y[:3]), "3 labels for 6 images"),
        (lambda x, y: (x, y.int()), r"y\.long\(\)"),
        (lambda x, y: (x, F.one_hot(y)), r"y\.argmax\(1\)"),
        (lambda x, y: (x, y - 1), "labels lie in"),
        (lambda x, y: (x, y + 6), "label is 10, but the model has 10 classes"),
    ],
)
def test_bad_batches(
    change: Callable[..., Any], message: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    images = images.clone()
    images[0, 0, 0, 0] = 1.0  # so that the slightest shift leaves the range
    x, y = change(images, labels)
    for attack in (pgd, fgsm):
        with pytest.raises(ClatError, match=message):
            attack(tiny_resnet(), x, y, eps="8/255")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": "2/225x"}, "eps is '2/225x'"),
        ({"alpha": 2}, r"alpha is 2.*did you mean 2/255"),
        ({"alpha": 0}, "alpha is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.0}, r"steps is 2\.0"),
        ({"steps": True}, "steps is True"),
        ({"norm": "linff"}, "did you mean 'linf'"),
    ],
)
def test_bad_settings(
    settings: dict[str, Any], message: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ClatError, match=message):
        pgd(tiny_resnet(), images, labels, **{"eps": "8/255"} | settings)


class Broken(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.bias, self.output = nn.Parameter(torch.zeros(5)), output

    def forward(self, x: Tensor) -> Any:
        return self.output(x.flatten(1)[:, :5] + self.bias)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda out: (None, out), "does not return logits"),
        (lambda out: out[:, 0], "does not return logits"),
        (lambda out: {"scores": out}, "does not return logits"),
        (lambda out: out * float("nan"), "not finite"),
        (lambda out: out.detach(), "no gradient towards its input"),
        (lambda out: torch.zeros(len(out), 5), "no gradient towards its input"),
    ],
)
def test_models_that_cannot_be_attacked(
    output: Callable[[Tensor], Any], message: str, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ClatError, match=message):
        pgd(Broken(output), images, labels, eps="8/255", steps=2)


def test_memory_does_not_grow_with_the_steps_under_autocast() -> None:
    """Autocast keeps what it cast of a leaf that requires a gradient, as each step's point is, until it ends."""
    model = nn.Sequential(nn.Conv2d(3, 10, 32), nn.Flatten())
    x, y = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)

    def peak(steps: int) -> int:
        with torch.autocast("cpu", dtype=torch.bfloat16), TensorMemory([x]) as memory:
            run_pgd(model, x, y, Attack.parse(eps="8/255", steps=steps), seed=0)
        return memory.peak

    assert peak(10) == peak(3)
