"""The losses on logits for which they can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clat.attacks.losses import carlini_wagner, cross_entropy, dlr, margin, runner_up, targeted_dlr, targeted_margin
from clat.core.errors import ClatError

LOGITS = torch.tensor([[4.0, 1.0, 3.0, 0.0, 2.0]]).repeat(3, 1)
Y = torch.tensor([0, 2, 3])


def logits(seed: int = 0, classes: int = 10) -> Tensor:
    return torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))


def test_by_hand() -> None:
    log_sum = math.log(sum(math.exp(z) for z in range(5)))
    assert cross_entropy(LOGITS, Y).tolist() == pytest.approx([log_sum - 4, log_sum - 3, log_sum])
    assert margin(LOGITS, Y).tolist() == [3 - 4, 4 - 3, 4 - 0]
    assert dlr(LOGITS, Y).tolist() == pytest.approx([-1 / 2, 1 / 2, 4 / 2])
    target = torch.tensor([2, 0, 1])
    assert targeted_margin(LOGITS, Y, target).tolist() == [-1, 1, 1]
    # z_(1) - (z_(3) + z_(4)) / 2 = 4 - (2 + 1) / 2
    assert targeted_dlr(LOGITS, Y, target).tolist() == pytest.approx([-1 / 2.5, 1 / 2.5, 1 / 2.5])


def test_carlini_wagner_by_hand() -> None:
    """min(margin - confidence, 0) for margins -1, 1 and 4, and no gradient where the confidence is reached."""
    z = LOGITS.clone().requires_grad_(True)
    found = carlini_wagner(z, Y, confidence=1.5)
    assert found.tolist() == [-2.5, -0.5, 0.0]
    found.sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[-1, 0, 1, 0, 0], [1, 0, -1, 0, 0], [0, 0, 0, 0, 0]]
    assert carlini_wagner(LOGITS, Y).tolist() == [-51, -49, -46]


def test_the_most_likely_wrong_classes_in_order() -> None:
    assert [runner_up(LOGITS, Y, place).tolist() for place in (1, 2, 3, 4)] == [
        [2, 0, 0], [4, 4, 2], [1, 1, 4], [3, 3, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_is_free_of_shift_and_scale_and_positive_where_wrong(classes: int) -> None:
    z = logits(classes=classes).double()
    y = torch.arange(20) % classes
    torch.testing.assert_close(dlr(5 * z - 3, y), dlr(z, y))
    assert torch.equal(dlr(z, y) > 0, z.argmax(1) != y)
    assert torch.equal(margin(z, y) > 0, z.argmax(1) != y)
    assert dlr(z, y)[z.argmax(1) == y].min() >= -1
    if classes >= 4:
        target = runner_up(z, y, 1)
        torch.testing.assert_close(targeted_dlr(5 * z - 3, y, target), targeted_dlr(z, y, target))
        torch.testing.assert_close(targeted_margin(z, y, target), margin(z, y))


def test_as_in_the_official_code() -> None:
    official = pytest.importorskip("pyautoattack.autopgd_base")
    attack = official.APGDAttack_targeted(None, eps=0.1, device="cpu")
    z, y = logits(3), torch.arange(20) % 10
    for place in (1, 4, 9):
        # Theirs takes the rank among all classes, ours among the wrong ones: the same where the sample is right.
        z[torch.arange(20), y] = 10.0
        attack.y_target = z.sort(dim=1)[1][:, -place - 1]
        assert torch.equal(runner_up(z, y, place), attack.y_target)
        torch.testing.assert_close(targeted_dlr(z, y, attack.y_target), attack.dlr_loss_targeted(z, y))
    z = logits(4)
    torch.testing.assert_close(dlr(z, y), attack.dlr_loss(z, y))


def test_equal_logits_are_no_division_by_zero() -> None:
    z = torch.zeros(2, 4, requires_grad=True)
    y = torch.tensor([0, 3])
    value = dlr(z, y) + targeted_dlr(z, y, torch.tensor([1, 1]))
    assert value.tolist() == [0, 0]
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, y: dlr(z[:, :2], y), "the DLR loss needs at least 3 classes, the model has 2"),
        (lambda z, y: targeted_dlr(z[:, :3], y, y), "targeted DLR loss needs at least 4 classes, the model has 3"),
        (lambda z, y: runner_up(z[:, :3], y, 3), "target 3 needs at least 4 classes, the model has 3"),
    ],
)
def test_too_few_classes(loss, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        loss(LOGITS, torch.zeros(3, dtype=torch.int64))
