"""stAdv: what the flow does to an image, what the search keeps to, and what it achieves on a real network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clat
from clat.attacks.losses import margin
from clat.attacks.search import run_search
from clat.attacks.stadv import StadvSearch, confined, roughness, stadv, warp
from clat.core.errors import ClatError
from clat.network import modes


class Slope(nn.Module):
    """Two classes; the margin is the weighted sum of the pixels. Rounded float64: no logit depends on the batch."""

    def __init__(self, weight: Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset, self.forwards = nn.Parameter(weight.double()), offset, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        score = (x.double() * self.weight).sum((1, 2, 3)) + self.offset
        return torch.stack([torch.zeros_like(score), score], 1)


def ramp(size: int = 9) -> Tensor:
    """(1, 1, size, size), rising by 1/16 a pixel from left to right."""
    return (torch.arange(size) / 16).expand(1, 1, size, size).clone()


def pixels(down: float, across: float, size: int = 9) -> Tensor:
    """The same flow everywhere, given in pixels."""
    return torch.tensor([down, across]).view(1, 2, 1, 1).expand(1, 2, size, size) / ((size - 1) / 2)


def test_zero_flow_changes_nothing() -> None:
    x = torch.rand(3, 3, 32, 17, generator=torch.Generator().manual_seed(0))
    assert torch.equal(warp(x, torch.zeros(3, 2, 32, 17)), x)


def test_moves_a_ramp_by_one_pixel() -> None:
    x = ramp()
    moved = warp(x, pixels(0, 1))
    assert torch.equal(moved[..., :-1], x[..., 1:])
    assert torch.equal(moved[..., -1], x[..., -1])  # beyond the border the image goes on
    assert torch.equal(warp(x, pixels(0, -1))[..., 1:], x[..., :-1])
    assert torch.equal(warp(x, pixels(1, 0)), x)
    assert torch.equal(warp(x.mT, pixels(1, 0)), moved.mT)


@pytest.mark.parametrize("part", [0.25, 0.5, -0.75])
def test_moves_a_ramp_by_part_of_a_pixel(part: float) -> None:
    moved = warp(ramp(), pixels(0.5, part))[..., 1:-1]
    assert torch.allclose(moved, ramp()[..., 1:-1] + part / 16)


@pytest.mark.parametrize("reach", [0.05, 0.5, 3])
def test_samples_as_grid_sample_does(reach: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, flow = torch.rand(2, 3, 8, 11, generator=generator), torch.rand(2, 2, 8, 11, generator=generator)
    flow = ((2 * flow - 1) * reach).requires_grad_(True)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 11), indexing="ij")
    grid = torch.stack([columns + flow[:, 1], rows + flow[:, 0]], 3)
    theirs = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
    ours = warp(x, flow)
    assert torch.allclose(ours, theirs, atol=1e-5)
    slopes = [torch.autograd.grad((image * image).sum(), flow, retain_graph=True)[0] for image in (ours, theirs)]
    assert torch.allclose(*slopes, atol=1e-3)


def test_roughness_counts_each_pair_twice() -> None:
    flow = torch.zeros(2, 2, 5, 6)
    flow[1, 0, 2, 2], flow[1, 1, 2, 2] = 3, 4
    flow[0] = 7
    smooth, rough = roughness(flow).tolist()
    assert smooth == pytest.approx(0, abs=2e-3)
    assert rough == pytest.approx(2 * 4 * 5, abs=2e-3)


def test_pushes_the_flow_to_the_bound_where_that_is_best() -> None:
    """The margin of a ramp grows with every pixel's flow to the right, so the best flow is the bound everywhere."""
    model, y = Slope(torch.ones(1, 9, 9), offset=-100), torch.zeros(1, dtype=torch.int64)
    adv = stadv(model, ramp(), y, bound=0.1, steps=60, tau=0)
    gain = 0.1 * 4 / 16  # a tenth of half the side, which is 4 pixels
    assert torch.allclose(adv[..., :-1], ramp()[..., :-1] + gain, atol=1e-6)
    assert torch.allclose(adv[..., -1], ramp()[..., -1], atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 32, 33, 224])
def test_confined_flow_stays_in_the_image_and_reaches_its_border(size: int) -> None:
    own = torch.arange(size)
    for across in (-3.0, 3.0):
        flow = confined(torch.full((1, 2, size, size), across), bound=2)
        place = own + flow[0, 1] * ((size - 1) / 2)
        assert 0 <= place.min() <= place.max() <= size - 1
        assert torch.allclose(place, torch.tensor(size - 1.0 if across > 0 else 0.0), atol=1e-4)
        assert torch.equal(flow[0, 0], flow[0, 1].T)
    assert torch.equal(confined(torch.zeros(1, 2, size, size), 2), torch.zeros(1, 2, size, size))


def test_keeps_the_bound_and_the_best_example() -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(4, dtype=torch.int64)
    model = Slope(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)), offset=-100)
    search = StadvSearch(model, 0.2, steps=30, step_size=0.07)
    state = search.start(x, y, torch.arange(4))
    best = torch.full((4,), -torch.inf)
    for _ in range(30):
        assert state["flow"].abs().max() <= 0.2
        best = best.maximum(margin(model(warp(x, state["flow"])), y).detach())
        search.step(state)
        assert torch.equal(state["value"], best)
        assert torch.equal(margin(model(state["adv"]), y).detach(), best)
    assert state["done"].all()
    assert state["flow"].abs().max() == pytest.approx(0.2)


def test_a_heavy_tau_keeps_the_flow_smooth() -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y, ids = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    model = Slope(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)), offset=-100)
    rough = []
    for tau in (0, 0.05, 5):
        search = StadvSearch(model, 0.2, steps=50, tau=tau)
        state = search.start(x, y, ids)
        for _ in range(50):
            search.step(state)
        rough.append(roughness(state["flow"]).mean().item())
    assert rough[0] > rough[1] > 5 * rough[2]


def test_bound_zero_is_no_attack(tiny_resnet: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    assert torch.equal(stadv(tiny_resnet(), images, labels, bound=0, steps=3), images)


def test_counts_steps_exactly() -> None:
    x, y = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(3, dtype=torch.int64)
    never, at_once = Slope(torch.ones(1, 9, 9), offset=-1000), Slope(torch.ones(1, 9, 9), offset=1000)
    stadv(never, x, y, steps=7)
    stadv(at_once, x, y, steps=7)
    assert (never.forwards, at_once.forwards) == (21, 3)


def test_a_sample_fares_alike_in_any_batch() -> None:
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(9, dtype=torch.int64)
    weight = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    # Some samples are fooled early, some late, some never.
    score = (x * weight).sum((1, 2, 3)).sort().values
    model = Slope(weight, offset=-(score[4] + 8).item())
    search = StadvSearch(model, 0.1, steps=15)
    with modes.attack_mode(model):
        together = run_search(search, x, y)
        for size in (1, 4):
            assert torch.equal(run_search(search, x, y, batch_size=size), together)
        some = torch.tensor([7, 2])
        assert torch.equal(run_search(search, x[some], y[some], some), together[some])
    assert 0 < (model(together).argmax(1) != y).sum() < 9


def test_leaves_no_trace(tiny_resnet: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    model, kept = tiny_resnet().train(), images.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    adv = stadv(model, images, labels, steps=3)
    assert 0 <= adv.min() <= adv.max() <= 1
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"bound": -0.1}, "bound is -0.1"),
        ({"bound": 5}, "bound is 5"),
        ({"tau": -1}, "tau is -1"),
        ({"step_size": float("nan")}, "step_size is nan"),
    ],
)
def test_refuses(settings: dict[str, float], message: str, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ClatError, match=message):
        stadv(Slope(torch.ones(3, 8, 8)), images, labels, **settings)


def test_a_larger_bound_is_stronger_on_a_real_network() -> None:
    """Of the first 100 test images 67 are known; moving pixels by 0.16, 0.31 and 0.78 pixels leaves ever fewer."""
    folder = Path(os.environ.get("CLAT_DATA_DIR", ""))
    weights = folder.parent / "weights/sdp_cifar_cnn_a_adv.model"
    if not (folder / "cifar10").is_dir() or not weights.is_file():
        pytest.skip("needs CIFAR-10 in $CLAT_DATA_DIR and the foreign weights beside it")
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    clat.load_weights(network, weights)
    model = clat.Normalized(network, (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)).eval()
    images = clat.load_split("cifar10", "test").take(100)
    x, y = images.images.float() / 255, images.labels
    with torch.no_grad():
        assert (model(x).argmax(1) == y).sum() == 67
        left = [
            int((model(stadv(model, x, y, bound=b, steps=30)).argmax(1) == y).sum()) for b in (0.01, 0.02, 0.05)
        ]
    assert 45 > left[0] > left[1] + 5 > left[2] + 10
    assert left[2] <= 10


@pytest.mark.parametrize("label", [0, 1])
def test_what_is_not_finite_is_not_robustness(label: int, images: Tensor) -> None:
    """Finite logits whose gradient is not, whichever class argmax would find among NaN."""

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1)[:, :3]
            return torch.sqrt(z - z) + 9 * torch.eye(3)[torch.full((len(x),), label)]

    with pytest.raises(ClatError, match="gradient is not finite"):
        stadv(Broken(), images, torch.full((len(images),), label), steps=3)


def test_no_gradient_at_all_is_not_robustness(images: Tensor) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :3] + torch.eye(3)[0]

    with pytest.raises(ClatError, match="no gradient towards its input"):
        stadv(Detached(), images, torch.zeros(len(images), dtype=torch.int64), steps=3)
