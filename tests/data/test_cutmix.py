from __future__ import annotations

import pytest
import torch

from clat.core.seeds import generator
from clat.data import Augment, ImageSet, Loader
from clat.data.cutmix import cutmix
from clat.data.lazy import FloatImages, LazyImages


def numbered(n: int = 5, height: int = 8, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Image k is k everywhere, and of class k."""
    labels = torch.arange(n)
    return labels.to(torch.uint8)[:, None, None, None].expand(n, 3, height, width), labels


@pytest.mark.parametrize("seed", range(20))
def test_labels_follow_the_pixels_and_one_window_serves_the_batch(seed: int) -> None:
    images, labels = numbered()
    before = images.clone()
    mixed, y = cutmix(images, labels, 7, generator(seed))
    assert torch.equal(images, before)
    assert (mixed.dtype, y.dtype, y.shape) == (torch.uint8, torch.float32, (5, 7))
    foreign = mixed[:, 0] != images[:, 0]
    window = foreign.any(0)
    rows, columns = window.nonzero().unbind(1)
    if len(rows):
        assert window[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all(), "one rectangle"
    for k in range(5):
        share = mixed[k, 0].flatten().long().bincount(minlength=7) / 48
        torch.testing.assert_close(y[k], share)  # exactly the part of the pixels that each class has
        assert torch.equal(foreign[k], window) or not foreign[k].any()
    torch.testing.assert_close(y.sum(1), torch.ones(5))
    torch.testing.assert_close(y.sum(0)[:5], torch.ones(5))  # windows come from a permutation


def test_the_area_is_that_of_beta_one_one_about_a_uniform_middle() -> None:
    """A window of side s = sqrt(U) about a uniform pixel shows s - s^2 / 4 of a unit edge on average, so the mean
    area is E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48."""
    images, labels = numbered(64, 128, 128)
    areas = [cutmix(images[:, :1], labels, 64, generator(seed))[1].diagonal() for seed in range(1500)]
    window = torch.stack([1 - kept.min() for kept in areas])  # the least kept: not an image's own window
    assert window.mean().item() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)
    assert window.max() > 0.8
    assert window.min() < 0.005


def test_the_window_is_drawn_by_place_and_the_global_state_is_untouched() -> None:
    images, labels = numbered()
    before = torch.get_rng_state()
    one, other = cutmix(images, labels, 5, generator(1, 2)), cutmix(images, labels, 5, generator(1, 2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    draws = [cutmix(images, labels, 5, generator(1, k))[0] for k in range(5)]
    assert not all(torch.equal(draws[0], draw) for draw in draws)
    assert torch.equal(before, torch.get_rng_state())


def test_the_loader_mixes_after_the_augmentation(ramp: ImageSet) -> None:
    options = {"shuffle": True, "seed": 4, "augment": Augment(pad=1)}
    plain, mixed = (list(Loader(ramp, 8, cutmix=cutmix, **options).epoch(1)) for cutmix in (False, True))
    for number, ((x, y), (x_mixed, y_mixed)) in enumerate(zip(plain, mixed, strict=True)):
        expected = cutmix(x, y, 26, generator(4, "cutmix", 1, number))
        assert torch.equal(x_mixed, expected[0])
        assert torch.equal(y_mixed, expected[1])
    assert any((y_mixed.amax(1) < 1).any() for _, y_mixed in mixed)


@pytest.mark.parametrize("world_size", [2, 4])
def test_windows_cross_the_shares_of_processes(ramp: ImageSet, world_size: int) -> None:
    options = {"shuffle": True, "seed": 1, "augment": Augment(pad=1), "cutmix": True}
    one = list(Loader(ramp, 8, **options).epoch(2))
    ranks = [
        list(Loader(ramp, 8, rank=rank, world_size=world_size, **options).epoch(2, 1)) for rank in range(world_size)
    ]
    for (x, y), *shares in zip(one[1:], *ranks, strict=True):
        assert torch.equal(x, torch.cat([part for part, _ in shares]))
        assert torch.equal(y, torch.cat([part for _, part in shares]))


class Counted(LazyImages):
    """Images that note which of them are read."""

    at_hand = True

    def __init__(self, pixels: torch.Tensor, read: list[int]) -> None:
        self.pixels, self.shape, self.read = pixels, tuple(pixels.shape[1:]), read

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: torch.Tensor) -> Counted:
        return Counted(self.pixels[indices], self.read)

    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        self.read += indices.tolist()
        return self.pixels[indices]


@pytest.mark.parametrize("mixed", [{"cutmix": True}, {"mixup": 0.5}, {"cutmix": True, "mixup": 0.5}])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_process_reads_its_own_images_and_their_partners_alone(
    ramp: ImageSet, mixed: dict[str, object], world_size: int
) -> None:
    assert isinstance(ramp.images, torch.Tensor)
    options = {"shuffle": True, "seed": 5, "augment": Augment(pad=1), **mixed}
    whole = list(Loader(ramp, 8, **options).epoch(1))
    shares = []
    for rank in range(world_size):
        read: list[int] = []
        images = ImageSet("ramp", "train", ramp.class_names, Counted(ramp.images, read), ramp.labels)
        loader = Loader(images, 8, rank=rank, world_size=world_size, **options)
        shares.append(list(loader.epoch(1)))
        assert len(read) == len(set(read)), "an image of an epoch is read once"
        own = sum(len(y) for _, y in shares[-1])
        assert len(read) <= min(2 * own, len(ramp))
    for number, (x, y) in enumerate(whole):
        assert torch.equal(x, torch.cat([share[number][0] for share in shares]))
        assert torch.equal(y, torch.cat([share[number][1] for share in shares]))


def test_floating_point_images_are_mixed_across_shares_too(ramp: ImageSet) -> None:
    assert isinstance(ramp.images, torch.Tensor)
    images = ImageSet("ramp", "train", ramp.class_names, FloatImages(ramp.images / 255), ramp.labels)
    one = list(Loader(images, 8, cutmix=True).epoch())
    two = [list(Loader(images, 8, cutmix=True, rank=rank, world_size=2).epoch()) for rank in (0, 1)]
    for number, (x, y) in enumerate(one):
        assert torch.equal(x, torch.cat([share[number][0] for share in two]))
        assert torch.equal(y, torch.cat([share[number][1] for share in two]))
