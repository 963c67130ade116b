from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.core.seeds import generator
from clat.data import Augment, ImageSet, Loader
from clat.data.mixup import mixup


@pytest.mark.parametrize("seed", range(10))
def test_labels_follow_the_pixels(seed: int) -> None:
    """Image k is k / 7 everywhere, of class k: a blend's level is the mean of its labels."""
    labels = torch.arange(8)
    images = (labels / 7)[:, None, None, None].expand(8, 3, 4, 4)
    before = images.clone()
    mixed, y = mixup(images, labels, 9, 0.4, generator(seed))
    assert torch.equal(images, before)
    assert (mixed.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (8, 9))
    torch.testing.assert_close(mixed[:, 0, 0, 0], y @ (torch.arange(9) / 7))
    torch.testing.assert_close(y.sum(1), torch.ones(8))
    torch.testing.assert_close(y.sum(0)[:8], torch.ones(8))  # partners are a permutation
    assert (
        len(y[y > 0].unique()) <= 3
    )  # one weight for the batch, its rest, and 1 where an image is its own partner


def test_images_stay_within_their_range() -> None:
    images = torch.rand(64, 3, 8, 8, generator=generator(0)).round(decimals=1)
    for seed in range(50):
        mixed, _ = mixup(images, torch.zeros(64, dtype=torch.int64), 2, 1.0, generator(seed))
        assert mixed.min() >= 0
        assert mixed.max() <= 1


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / (4 * 1.4))])
def test_the_weight_is_beta(alpha: float, variance: float) -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    images, labels = torch.zeros(2, 1, 1, 1), torch.arange(2)
    rows = [mixup(images, labels, 2, alpha, generator(seed))[1] for seed in range(2000)]
    weights = torch.stack([y[0, 0] for y in rows if 0 < y[0, 0] < 1])
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(weights.var()) == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("cutmix", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_follow_from_their_place(ramp: ImageSet, cutmix: bool, world_size: int) -> None:
    options = {"shuffle": True, "seed": 1, "augment": Augment(pad=1), "mixup": 0.5, "cutmix": cutmix}
    one = list(Loader(ramp, 8, **options).epoch(2))
    ranks = [
        list(Loader(ramp, 8, rank=rank, world_size=world_size, **options).epoch(2, 1)) for rank in range(world_size)
    ]
    for (x, y), *shares in zip(one[1:], *ranks, strict=True):
        assert torch.equal(x, torch.cat([part for part, _ in shares]))
        assert torch.equal(y, torch.cat([part for _, part in shares]))
    assert any((y.amax(1) < 1).any() for _, y in one)


def test_with_cutmix_a_batch_has_one_of_the_two(ramp: ImageSet) -> None:
    def loader(**options: object) -> Loader:
        return Loader(ramp, 8, seed=3, **options)

    both, windows, blends = loader(cutmix=True, mixup=0.5), loader(cutmix=True), loader(mixup=0.5)
    kinds = set()
    for epoch in range(4):
        for (x, _), (cut, _), (mixed, _) in zip(
            both.epoch(epoch), windows.epoch(epoch), blends.epoch(epoch), strict=True
        ):
            kinds |= {"cutmix"} if torch.equal(x, cut) else set()
            kinds |= {"mixup"} if torch.equal(x, mixed) else set()
            assert torch.equal(x, cut) or torch.equal(x, mixed)
    assert kinds == {"cutmix", "mixup"}


def test_an_alpha_of_nothing_is_refused(ramp: ImageSet) -> None:
    with pytest.raises(ClatError, match="alpha is 0: expected a number above 0"):
        Loader(ramp, 8, mixup=0)
