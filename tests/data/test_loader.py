from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.data import Augment, ImageSet, Loader, load_split

from .conftest import WriteParquet, encoded, picture

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def same(left: Batches, right: Batches) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.fixture(params=["resident", "lazy", "workers"])
def served(request: pytest.FixtureRequest, parquet: WriteParquet) -> tuple[ImageSet, int]:
    """The same 26 images in memory, decoded here, and decoded by two worker processes."""
    folder = parquet([encoded(picture(k)) for k in range(26)])
    limit = 2**30 if request.param == "resident" else 0
    image_set = load_split(str(folder), "train", resident_limit=limit, cache=False)
    assert image_set.resident == (request.param == "resident")
    return image_set, 2 if request.param == "workers" else 0


def test_evaluation_is_in_order_and_complete(served: tuple[ImageSet, int]) -> None:
    image_set, workers = served
    loader = Loader(image_set, 8, workers=workers)
    batches = list(loader.epoch())
    assert [len(x) for x, _ in batches] == [8, 8, 8, 2]
    assert loader.num_batches == 4
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(y, image_set.labels)
    for k in range(26):
        assert torch.equal(x[k], torch.from_numpy(picture(k)).permute(2, 0, 1) / 255)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_each_epoch_shows_every_image_once_in_another_order(ramp: ImageSet) -> None:
    loader = Loader(ramp, 4, shuffle=True, seed=3)
    first, second = (torch.cat([y for _, y in loader.epoch(epoch)]) for epoch in (0, 1))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(26))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat([y for _, y in Loader(ramp, 4, shuffle=True, seed=4).epoch(0)]))


def test_drop_last_leaves_out_the_partial_batch(ramp: ImageSet) -> None:
    loader = Loader(ramp, 8, drop_last=True, shuffle=True)
    assert [len(y) for _, y in loader.epoch()] == [8, 8, 8]
    assert loader.num_batches == 3
    assert [len(y) for _, y in Loader(ramp, 13, drop_last=True).epoch()] == [13, 13]


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_restart_in_mid_epoch_gives_the_tail(served: tuple[ImageSet, int], drop_last: bool) -> None:
    image_set, workers = served
    loader = Loader(image_set, 8, shuffle=True, seed=1, augment=Augment(), drop_last=drop_last, workers=workers)
    whole = list(loader.epoch(5))
    for start in (0, 1, 3, loader.num_batches):
        assert same(list(loader.epoch(5, start)), whole[start:])


def test_lazy_and_resident_serve_the_same_bits(served: tuple[ImageSet, int]) -> None:
    image_set, workers = served
    options = {"shuffle": True, "seed": 2, "augment": Augment(pad=2, padding_mode="reflect")}
    there = Loader(image_set.load(), 8, **options)
    here = Loader(image_set, 8, workers=workers, **options)
    assert same(list(here.epoch(1)), list(there.epoch(1)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_process_sees(served: tuple[ImageSet, int], world_size: int) -> None:
    """26 images by 8: the last batch of 2 leaves a share of one image, or none, for each rank."""
    image_set, workers = served
    options = {"shuffle": True, "seed": 1, "augment": Augment(), "workers": workers}
    one = list(Loader(image_set, 8, **options).epoch(2))
    ranks = [
        list(Loader(image_set, 8, rank=rank, world_size=world_size, **options).epoch(2))
        for rank in range(world_size)
    ]
    joined = [tuple(torch.cat(parts) for parts in zip(*shares, strict=True)) for shares in zip(*ranks, strict=True)]
    assert same(joined, one)


def test_the_global_random_state_is_untouched_and_has_no_say(served: tuple[ImageSet, int]) -> None:
    image_set, workers = served
    loader = Loader(image_set, 8, shuffle=True, augment=Augment(), workers=workers)
    before = torch.get_rng_state()
    first = list(loader.epoch(0))
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert same(list(loader.epoch(0)), first)


def test_all_grey_levels_are_exact_quotients() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    ((x, _),) = Loader(ImageSet("grey", "test", ("a",), images, torch.zeros(1, dtype=torch.int64)), 1).epoch()
    assert torch.equal(x.flatten(), torch.arange(256) / 255)
    assert (x.min(), x.max()) == (0, 1)


def test_an_unreadable_image_is_one_line_also_from_a_worker(parquet: WriteParquet) -> None:
    folder = parquet([encoded(picture(0)), encoded(picture(1)), b"no image"])
    image_set = load_split(folder, "train", resident_limit=0)
    for workers in (0, 1):
        with pytest.raises(ClatError, match="row 2 of set/train: not an image file") as caught:
            list(Loader(image_set, 2, workers=workers).epoch())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 27, "drop_last": True}, "larger than the 26 images"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, "rank is 2, expected 0 to world_size - 1 = 1"),
        ({"batch_size": 9, "world_size": 2}, "batch_size 9 cannot be shared by 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(ramp: ImageSet, options: dict, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        Loader(ramp, **options)


def test_empty_sets_and_missing_batches_are_refused(ramp: ImageSet) -> None:
    with pytest.raises(ClatError, match="no images in 'ramp/train'"):
        Loader(ramp.take(0), 4)
    with pytest.raises(ClatError, match="start_batch is 8, expected 0 to 7"):
        Loader(ramp, 4).epoch(0, 8)
