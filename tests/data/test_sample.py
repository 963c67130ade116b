"""Images that stand for a set, in whatever order it lists them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clat.core.seeds import permutation
from clat.data import ImageSet, hold_out
from clat.data.sample import in_mixed_order, sample_ids
from clat.data.splits import mixed


def image_set(labels: torch.Tensor) -> ImageSet:
    numbers = torch.arange(len(labels), dtype=torch.uint8)
    names = tuple(str(number) for number in range(int(labels.max()) + 1))
    return ImageSet("given", "test", names, numbers[:, None, None, None].expand(-1, 1, 2, 2), labels)


SORTED = torch.arange(10).repeat_interleave(20)
SHUFFLED = SORTED[permutation(200, 0, "mix")]
IN_SHARDS = torch.cat([torch.arange(10).repeat_interleave(5)] * 4)


@pytest.mark.parametrize(
    ("labels", "by_class"),
    [
        (SORTED, True), (IN_SHARDS, True), (SORTED.flip(0), True), (torch.arange(30), True),
        (SHUFFLED, False), (torch.zeros(50, dtype=torch.int64), False), (torch.arange(30).flip(0), False),
        (torch.arange(2).repeat(20), False), (torch.tensor([3]), False),
    ],
)  # fmt: skip
def test_what_is_listed_by_class(labels, by_class):
    assert in_mixed_order(labels) is not by_class


def blocks(count, per_class, classes):
    """Shards of some classes each, in random order within."""
    parts = torch.arange(classes).chunk(count)
    return torch.cat([part.repeat(per_class)[permutation(len(part) * per_class, 1, "mix")] for part in parts])


@pytest.mark.parametrize(
    "labels",
    [
        blocks(10, 50, 100), blocks(2, 200, 10), blocks(2, 60, 4),
        torch.cat([torch.arange(9).repeat(100)[permutation(900, 0, "mix")], torch.full((100,), 9)]),
        permutation(100, 0, "mix").repeat_interleave(2),
    ],
)  # fmt: skip
def test_shards_of_some_classes_each_and_appended_classes_are_not_mixed(labels):
    assert not in_mixed_order(labels)
    some = labels[sample_ids(labels, len(labels) // 2)].bincount()
    assert torch.equal(some * 2, labels.bincount())


@pytest.mark.parametrize(("n", "classes"), [(60, 4), (100, 2), (200, 100), (1000, 10), (1000, 1000)])
def test_a_random_order_is_taken_for_one(n, classes):
    generator = torch.Generator().manual_seed(0)
    uneven = torch.rand(classes, generator=generator) ** 3 + 0.01
    for weights in (torch.ones(classes), uneven):
        drawn = (torch.multinomial(weights, n, True, generator=generator) for _ in range(100))
        assert all(in_mixed_order(labels) for labels in drawn)


def test_test_images_that_decide_are_mixed():
    by_class, shuffled = image_set(SORTED), image_set(SHUFFLED)
    found = mixed(by_class)
    assert len(found.labels[:30].unique()) >= 8
    assert found.images.flatten(1)[:, 0].sort().values.tolist() == list(range(200))
    assert mixed(shuffled) is shuffled


def test_an_uneven_split_in_random_order_is_not_listed_by_class():
    labels = (torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.95).long()
    assert in_mixed_order(labels)
    assert not in_mixed_order(labels.sort().values)


@pytest.mark.parametrize("labels", [SORTED, IN_SHARDS])
def test_a_sample_of_what_is_listed_by_class_holds_every_class_alike(labels):
    assert labels[sample_ids(labels, 20)].bincount().tolist() == [2] * 10


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_a_sample_names_so_many_images_each_once_and_in_order(values, data):
    labels = torch.tensor(values)
    n = data.draw(st.integers(0, len(labels)))
    ids = sample_ids(labels, n)
    assert len(ids) == n
    assert bool((ids.diff() > 0).all())
    assert n == 0 or 0 <= int(ids[0]) <= int(ids[-1]) < len(labels)
    if in_mixed_order(labels):
        assert ids.tolist() == list(range(n)), "the first, as results are reported on"


def test_shares_of_classes_are_those_of_the_set():
    labels = torch.arange(3).repeat_interleave(torch.tensor([600, 300, 100]))
    assert labels[sample_ids(labels, 100)].bincount().tolist() == [60, 30, 10]


def test_a_set_says_that_its_sample_is_not_its_first_images():
    by_class = image_set(SORTED)
    some = by_class.sample(20)
    assert some.labels.bincount().tolist() == [2] * 10
    assert some.notes == (
        "'given/test' does not list its classes in mixed order: of 200, 20 are taken, each class by its share",
    )
    assert torch.equal(some.images[:, 0, 0, 0].long(), torch.arange(0, 200, 10))
    assert image_set(SHUFFLED).sample(20).notes == ()
    told, ids = by_class.sampled(20)
    assert torch.equal(told.labels[ids], some.labels)
    assert (told.notes, len(told)) == (some.notes, 200)
    assert by_class.sampled(None)[1].tolist() == list(range(200))
    assert by_class.sample(200) is by_class
    assert by_class.sample(10_000) is by_class


def test_the_first_held_out_images_hold_every_class():
    held = hold_out(image_set(SORTED), 100, seed=0)[1]
    assert len(held.labels[:30].unique()) >= 8, "the check after an epoch, and a ranking, look at the first alone"
    shuffled = image_set(SHUFFLED)
    mixed = hold_out(shuffled, 100, seed=0)[1].images[:, 0, 0, 0].long()
    assert torch.equal(mixed, mixed.sort().values), "elsewhere the order of the files stays"


def test_what_is_held_out_does_not_depend_on_the_order_within():
    ordered = image_set(SORTED)
    train, held = hold_out(ordered, 60, seed=3)
    same = replace(ordered, labels=SHUFFLED)
    other_train, other = hold_out(same, 60, seed=3)
    assert set(held.images[:, 0, 0, 0].tolist()) == set(other.images[:, 0, 0, 0].tolist())
    assert torch.equal(train.images, other_train.images)
