"""APGD in l1: the projection in closed form and against the official one, the search on linear networks and beside
the official code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, L1_projection
from torch import Tensor, nn

from clat.attacks.apgd import apgd
from clat.attacks.apgd_l1 import ApgdL1Search, stages
from clat.attacks.l1_ball import project_l1
from clat.core.errors import ClatError
from clat.core.threat_model import EVALUATION_NORMS, ThreatModel
from clat.evaluation import evaluate, find_protocol
from clat.recipe import build_recipe


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# The projection


def test_without_a_border_every_change_shrinks_by_one_amount() -> None:
    x = torch.full((1, 3), 0.5)
    found = project_l1(x, torch.tensor([[0.4, -0.2, 0.05]]), 0.4)
    assert torch.allclose(found, torch.tensor([[0.3, -0.1, 0.0]]).double(), atol=1e-7)


def test_a_change_that_meets_the_border_leaves_the_rest_to_the_others() -> None:
    """1 and 1 are wanted with eps 1; the first has room for 0.2 alone, so the second gets 0.8: clipping after the
    projection would give it 0.5."""
    x = torch.tensor([[0.8, 0.0]])
    assert torch.allclose(
        project_l1(x, torch.tensor([[1.0, 1.0]]), 1.0), torch.tensor([[0.2, 0.8]]).double(), atol=1e-7
    )


def test_what_is_inside_stays() -> None:
    x = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    change = torch.tensor([[0.1, -0.2], [0.5, -0.5]])
    found = project_l1(x, change, torch.tensor([0.4, 0.4]))
    assert torch.allclose(found, torch.tensor([[0.1, -0.2], [0.1, -0.1]]).double(), atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.01, 30), st.floats(0.01, 5))
def test_it_is_the_nearest_point_of_both_sets(seed: int, count: int, eps: float, scale: float) -> None:
    """Inside; on the sphere where anything was cut off; and no step towards a random inside point is nearer."""
    x = rand(4, count, seed=seed)
    change = scale * torch.randn((4, count), generator=torch.Generator().manual_seed(seed))
    found = project_l1(x, change, eps)
    length = found.abs().sum(1)
    assert (length <= eps * (1 + 1e-12)).all()
    assert ((x.double() + found >= -1e-12) & (x.double() + found <= 1 + 1e-12)).all()
    boxed = torch.clamp(x.double() + change.double(), 0, 1) - x.double()
    cut = boxed.abs().sum(1) > eps
    assert torch.allclose(length[cut], torch.full_like(length[cut], eps))
    assert torch.allclose(found[~cut], boxed[~cut])
    inside = project_l1(x, torch.randn((4, count), generator=torch.Generator().manual_seed(seed + 1)), eps)
    # The variational inequality of a projection onto a convex set.
    slack = ((change.double() - found) * (inside - found)).sum(1)
    assert (slack <= 1e-9 * max(scale, 1) * count).all()


@pytest.mark.parametrize(
    ("count", "eps", "scale"), [(48, 2.0, 0.3), (48, 12.0, 1.0), (3072, 12.0, 1.0), (12, 0.1, 3.0)]
)
def test_it_agrees_with_the_official_one(count: int, eps: float, scale: float) -> None:
    x = rand(6, count)
    change = scale * torch.randn((6, count), generator=torch.Generator().manual_seed(1))
    official = change + L1_projection(x, change.clone(), eps)
    assert torch.allclose(project_l1(x, change, eps).float(), official, atol=2e-4)


# The search


class Linear(nn.Module):
    """Logits <w_k, x>, with -<w_k, 1/2> for a bias, so that grey images lie between the classes."""

    def __init__(self, classes: int, count: int, seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn((classes, count), generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.w.T


def distances(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    """How far each image is from its nearest decision boundary in l1 where no pixel meets the border: the gap over
    the largest weight."""
    with torch.no_grad():
        z = model(x)
        gaps = z.gather(1, y[:, None]) - z
        steepest = (model.w[y][:, None] - model.w).abs().amax(2)
        return (gaps / steepest).scatter(1, y[:, None], math.inf).amin(1)


@pytest.fixture
def grey() -> tuple[Linear, Tensor, Tensor]:
    model = Linear(5, 48)
    x = (0.5 + 0.02 * torch.randn((24, 3, 4, 4), generator=torch.Generator().manual_seed(4))).clamp(0, 1)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def test_a_linear_network_falls_at_its_distance(grey: tuple[Linear, Tensor, Tensor]) -> None:
    """Distances below 0.4: a single pixel can move so far."""
    model, x, y = grey
    least = distances(model, x, y)
    eps = float(least.median())
    assert eps < 0.4
    result = evaluate(model, x, y, protocol="apgd-l1", norm="l1", eps=eps)
    clear = (least - eps).abs() > 0.05 * eps
    assert torch.equal(result.robust[clear], (least > eps)[clear])
    assert 0 < result.robust.sum() < len(x)


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_examples_are_inside_exactly(grey: tuple[Linear, Tensor, Tensor], loss: str) -> None:
    model, x, y = grey
    for eps in (0.05, 1.0, 30.0):
        adv = apgd(model, x, y, eps=eps, norm="l1", steps=20, loss=loss)
        assert adv.dtype == torch.float32
        assert ((adv >= 0) & (adv <= 1)).all()
        assert ((adv.double() - x.double()).abs().flatten(1).sum(1) <= eps).all()
        assert (adv != x).flatten(1).any(1).all()


def test_steps_are_shared_among_the_balls() -> None:
    assert stages(100) == [30, 30, 40]
    for steps in range(1, 25):
        counts = stages(steps)
        assert sum(counts) == steps
        assert counts[-1] >= 1
    search = ApgdL1Search(nn.Identity(), eps=2.0, steps=10)
    assert search.radii.tolist() == [6.0] * 4 + [4.0] * 4 + [2.0] * 5
    assert search.entries.nonzero().squeeze(1).tolist() == [0, 4, 8]
    assert search.own == 8


def test_a_sample_is_attacked_alike_in_any_batch(grey: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = grey
    model.double()
    eps = float(distances(model, x.double(), y).median())
    whole = evaluate(model, x, y, protocol="apgd-ce", norm="l1", eps=eps)
    assert torch.equal(
        evaluate(model, x, y, protocol="apgd-ce", norm="l1", eps=eps, batch_size=5).robust, whole.robust
    )
    ids = torch.tensor([20, 3, 11])
    assert torch.equal(
        evaluate(model, x[ids], y[ids], protocol="apgd-ce", norm="l1", eps=eps, ids=ids).robust, whole.robust[ids]
    )


def convolutional() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(128, 6),
        ).eval()  # fmt: skip


@pytest.mark.parametrize("eps", [1.0, 2.0])
def test_it_is_as_strong_as_the_official_attack(eps: float) -> None:
    """Random starts differ, so verdicts may in a few images of 60; the mean best loss agrees."""
    model, x = convolutional(), rand(60, 3, 8, 8, seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    ours = evaluate(model, x, y, protocol="apgd-ce", norm="l1", eps=eps).robust
    attack = APGDAttack(
        model, n_iter=100, norm="L1", eps=eps, use_largereps=True, seed=0, device=torch.device("cpu")
    )
    theirs = model(attack.perturb(x, y)).argmax(1) == y
    assert 0 < int(ours.sum()) < 60
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 3


# Around it


def test_what_knows_no_l1(grey: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = grey
    for protocol in ("pgd-20", "cr", "autoattack", "square"):
        with pytest.raises(ClatError, match="knows no l1: take a protocol of apgd alone"):
            evaluate(model, x, y, protocol=protocol, norm="l1", eps=1)
    with pytest.raises(ClatError, match="unknown norm 'l1'"):
        build_recipe(
            {"eps": 1, "norm": "l1", "stages": [{"name": "a", "objective": {"name": "pgd-at"}, "epochs": 1}]}
        )
    with pytest.raises(ClatError, match="unknown norm 'l0'"):
        evaluate(model, x, y, protocol="apgd-l1", norm="l0", eps=1)


def test_the_threat_model_and_the_protocol() -> None:
    threat = ThreatModel.parse(12, "l1", norms=EVALUATION_NORMS)
    assert (threat.radius, threat.text) == (12.0, "12")
    first, second = find_protocol("apgd-l1").attacks
    assert (first.loss, first.restarts, first.steps) == ("ce", 5, 100)
    assert (second.loss, second.targets, second.steps) == ("dlr-targeted", 5, 100)
