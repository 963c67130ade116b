"""Images from Python, in every form: read to the same bits, refused in one line."""

from __future__ import annotations

import pickle
import random
from functools import partial
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.data import ImageSet, Loader, as_image_set, as_train_and_test, load_split
from clat.data.items import DatasetImages

from .conftest import encoded, picture

N = 12
PIXELS = np.stack([picture(k, 6, 5) for k in range(N)])
"""(N, H, W, C), uint8."""
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
LABELS = torch.arange(N) % 3


class Pairs(Dataset):
    """What people write themselves."""

    def __init__(self, make: Any = lambda k: (Image.fromarray(PIXELS[k]), k % 3), n: int = N, **about: Any) -> None:
        self.make, self.n = make, n
        self.__dict__.update(about)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int) -> Any:
        return self.make(k)


def hub(**columns: Any) -> datasets.Dataset:
    files = [encoded(pixels) for pixels in PIXELS]
    return datasets.Dataset.from_dict(
        {"image": [{"bytes": one, "path": None} for one in files], **columns}
    ).cast_column("image", datasets.Image())


def floats(k: int) -> torch.Tensor:
    return IMAGES[k].float() / 255


def numbered(k: int) -> int:
    return k % 3


FORMS = {
    "tensors": (IMAGES, LABELS),
    "float tensors": (IMAGES.float() / 255, LABELS.int()),
    "float64": (IMAGES.double() / 255, LABELS.tolist()),
    "arrays, channels last": (PIXELS, LABELS.numpy()),
    "arrays, channels first": [np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)), LABELS.numpy().astype(np.uint8)],
    "TensorDataset": TensorDataset(IMAGES, LABELS),
    "DataLoader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5, shuffle=True),
    "PIL": Pairs(),
    "ToTensor": Pairs(lambda k: (floats(k), torch.tensor(k % 3))),
    "uint8 items": Pairs(lambda k: [IMAGES[k], np.int64(k % 3)]),
    "array items": Pairs(lambda k: (PIXELS[k], k % 3), targets=[k % 3 for k in range(N)]),
    "mappings": Pairs(lambda k: {"label": k % 3, "pixel_values": floats(k), "id": "x"}),
    "Subset": Subset(Pairs(targets=LABELS), range(N)),
    "ConcatDataset": ConcatDataset([Pairs(n=4, targets=LABELS[:4]), Subset(Pairs(), range(4, N))]),
    "datasets": hub(label=LABELS.tolist()),
    "datasets in a format": hub(label=LABELS.tolist()).with_format("torch"),
    "datasets with a transform": hub(label=LABELS.tolist()).with_transform(
        lambda rows: {"pixel_values": [np.asarray(one) for one in rows["image"]], "label": rows["label"]}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_images(form: str) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    found = as_image_set(FORMS[form])
    assert (found.split, found.num_classes, found.class_names, found.shape) == (
        "train",
        3,
        ("0", "1", "2"),
        (3, 5, 6),
    )
    assert torch.equal(found.labels, LABELS)
    x, y = next(iter(Loader(found, N, workers=0).epoch()))
    assert torch.equal(x, IMAGES.float() / 255), "the bits that a file would give"
    assert torch.equal(y, LABELS)
    part = found.subset([7, 2]).subset([1, 0])
    x, y = next(iter(Loader(part, 2, workers=0).epoch()))
    assert torch.equal(x, IMAGES[[2, 7]].float() / 255)
    assert y.tolist() == [2, 1]
    assert not found.notes
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_floating_point_that_no_byte_holds_stays_what_it_is() -> None:
    images = IMAGES.float() / 255 * 0.9
    for source in ((images, LABELS), Pairs(lambda k: (images[k], k % 3))):
        found = as_image_set(source)
        assert (found.dtype, found.nbytes) == (torch.float32, images.nbytes)
        for again in (found, found.load()):
            assert torch.equal(next(iter(Loader(again, N, workers=0).epoch()))[0], images)
        assert torch.equal(found.pixels(), images)
    assert as_image_set((IMAGES.float() / 255, LABELS)).dtype == torch.uint8


def test_grey_images() -> None:
    for source in ((IMAGES[:, 0], LABELS), (PIXELS[..., :1], LABELS), Pairs(lambda k: (IMAGES[k, 0], k % 3))):
        assert torch.equal(as_image_set(source).pixels(), IMAGES[:, :1])
        assert torch.equal(as_image_set(source, channels=3).pixels(), IMAGES[:, :1].repeat(1, 3, 1, 1))
    grey = as_image_set(Pairs(), channels=1)
    assert torch.equal(grey.pixels(), as_image_set((IMAGES, LABELS), channels=1).pixels())
    assert grey.subset([3]).shape == (1, 5, 6)


def test_which_of_several_images_of_an_item_is_taken_is_told() -> None:
    """As a transform leaves them that adds the network's input beside the image."""
    both = Pairs(lambda k: {"image": Image.fromarray(PIXELS[k]), "label": k % 3, "pixel_values": floats(k) / 2})
    with pytest.warns(
        Notice, match="the images are those called 'image'; image_column takes others, here 'pixel_val"
    ):
        found = as_image_set(both)
    assert torch.equal(found.pixels(), IMAGES)
    x, _ = next(iter(Loader(as_image_set(both, image_column="pixel_values"), N, workers=0).epoch()))
    assert torch.equal(x, IMAGES.float() / 255 / 2)


def test_columns_that_are_bytes_paths_or_text(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for k in range(N):
        (tmp_path / f"{k}.png").write_bytes(encoded(PIXELS[k]))
        files.append(f"{k}.png")
    monkeypatch.chdir(tmp_path)
    kinds = [("cat", "dog", "eel")[k % 3] for k in range(N)]
    raw = datasets.Dataset.from_dict({"photo": [encoded(one) for one in PIXELS], "kind": kinds, "file_name": files})
    for column in ("photo", "file_name"):
        found = as_image_set(raw, image_column=column, label_column="kind")
        assert (found.class_names, found.labels.tolist()) == (("cat", "dog", "eel"), LABELS.tolist())
        assert torch.equal(found.pixels(), IMAGES)
    with pytest.raises(ClatError, match="holds neither encoded images nor paths"):
        as_image_set(datasets.Dataset.from_dict({"photo": [1.5], "label": [0]}), image_column="photo")


def test_chosen_and_shuffled_rows_keep_their_labels() -> None:
    rows = hub(label=LABELS.tolist()).shuffle(seed=1).select(range(7))
    order = [PIXELS.tolist().index(np.asarray(row["image"]).tolist()) for row in rows]
    found = as_image_set(rows)
    assert torch.equal(found.pixels(), IMAGES[order])
    assert torch.equal(found.labels, LABELS[order])


def test_splits_of_a_mapping_and_the_stand_in() -> None:
    two = datasets.ClassLabel(names=["a", "b", "c"])
    whole = hub(label=LABELS.tolist()).cast_column("label", two)
    both = datasets.DatasetDict({"train": whole, "validation": whole.select([1, 4])})
    train, test = as_train_and_test(both)
    assert (train.class_names, test.class_names) == (("a", "b", "c"),) * 2
    assert "split 'validation' stands in for 'test'" in test.notes
    assert test.labels.tolist() == [1, 1]
    with pytest.raises(ClatError, match="no split 'test'"):
        as_train_and_test({"train": whole})
    train, test = as_train_and_test({"train": (IMAGES, LABELS), "test": (IMAGES[:2], LABELS[:2])})
    assert (test.class_names, test.split, test.notes) == (
        train.class_names,
        "test",
        ("no image of 1 of the 3 classes: 2",),
    )


def test_names_of_classes() -> None:
    names = ["ant", "bee", "cow"]
    assert as_image_set(Pairs(classes=names)).class_names == tuple(names)
    assert as_image_set(Subset(Pairs(classes=names), [0, 3])).class_names == tuple(names)
    assert as_image_set(Pairs(), classes="x,y,z").class_names == ("x", "y", "z")
    turned = as_image_set(Pairs(classes=names), classes=["cow", "bee", "ant"])
    assert turned.labels.tolist() == (2 - LABELS).tolist()
    train, test = as_train_and_test((Pairs(classes=names), (IMAGES, LABELS)))
    assert test.class_names == train.class_names


class Wrapped(Dataset):
    """Another data set, as pairs."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, k: int) -> Any:
        return self.dataset[k]["image"], self.dataset[k]["label"]


def pixels_of(rows: dict[str, Any]) -> dict[str, Any]:
    return {"pixel_values": [np.asarray(one) for one in rows["image"]], "labels": rows["label"]}


@pytest.mark.parametrize(
    "made",
    [
        lambda dataset: dataset.with_transform(lambda rows: rows),
        lambda dataset: dataset.with_transform(pixels_of),
        lambda dataset: Subset(Subset(dataset, range(N)), range(N)),
        lambda dataset: Subset(dataset.with_transform(pixels_of), range(N)),
        lambda dataset: DataLoader(dataset.with_transform(pixels_of), sampler=list(range(1, N))),
        Wrapped,
    ],
)
def test_the_classes_of_datasets_keep_their_names_with_a_transform(made: Any) -> None:
    """Another order of the names in test is seen, and brought into that of train."""
    names = ["ant", "bee", "cow"]
    train = hub(label=LABELS.tolist()).cast_column("label", datasets.ClassLabel(names=names))
    test = hub(label=(2 - LABELS).tolist()).cast_column("label", datasets.ClassLabel(names=names[::-1]))
    found = as_image_set({"train": made(train), "test": made(test)}, "test")
    assert found.class_names == tuple(names)
    assert found.labels.tolist() == LABELS.tolist()[-len(found) :]
    assert "the split numbers its classes otherwise" in found.notes[0]


def test_labels_that_a_transform_changes_have_no_names() -> None:
    dataset = hub(label=LABELS.tolist()).cast_column("label", datasets.ClassLabel(names=["ant", "bee", "cow"]))
    turned = dataset.with_transform(lambda rows: {**rows, "label": [2 - one for one in rows["label"]]})
    assert as_image_set(turned).class_names == ("0", "1", "2")


def test_a_folder_s_path(tmp_path) -> None:
    for k in range(N):
        file = tmp_path / "pets" / ("train", "val")[k % 2] / ("cat", "dog")[k % 3 > 0] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(PIXELS[k]))
    train, test = as_train_and_test(tmp_path / "pets", image_size=4)
    assert torch.equal(train.pixels(), load_split(tmp_path / "pets", "train", image_size=4).pixels())
    assert test.notes == ("split 'val' stands in for 'test'",)
    assert as_image_set(tmp_path / "pets", "train", channels=1, image_size=4).shape == (1, 4, 4)


def test_resizing_is_for_what_is_decoded() -> None:
    assert as_image_set(Pairs(), image_size=4).shape == (3, 4, 4)
    with pytest.raises(ClatError, match="are 6x5 pixels and image_size is 4"):
        as_image_set((IMAGES, LABELS), image_size=4)


def test_an_array_in_a_file_stays_there(tmp_path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    found = as_image_set((np.load(tmp_path / "images.npy", mmap_mode="r"), LABELS))
    assert not found.resident
    assert found.name == "arrays"
    assert torch.equal(found.pixels(), IMAGES)


def test_random_items_follow_from_seed_epoch_and_row() -> None:
    """A transform within the data set draws the same for the same place, in whatever order and process."""

    def noisy(k: int) -> tuple[torch.Tensor, int]:
        level = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return torch.full((3, 4, 4), float(level) / 3), k % 3

    found = as_image_set(Pairs(noisy))
    assert "drawn at random" in found.notes[0]

    def batches(epoch: int, seed: int = 0, **options: Any) -> torch.Tensor:
        return torch.cat([x for x, _ in Loader(found, 4, seed=seed, workers=0, **options).epoch(epoch)])

    first = batches(1)
    assert torch.equal(first, batches(1))
    assert torch.equal(first[4:], torch.cat([x for x, _ in Loader(found, 4, workers=2).epoch(1, 1)]))
    assert not torch.equal(first, batches(2))
    assert not torch.equal(first, batches(1, seed=1))
    assert len(first[:, 0, 0, 0].unique()) == N


@pytest.mark.parametrize("draw", [lambda: torch.rand(()).item(), random.random, np.random.random])
def test_a_transform_that_seldom_changes_anything_is_random_too(draw: Any) -> None:
    def changes(k: int, share: float) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), 0.5 + (draw() < share) / 2), k % 3

    assert "drawn at random" in as_image_set(Pairs(lambda k: changes(k, 0.1))).notes[0]
    assert not as_image_set(Pairs(lambda k: changes(k, 0.0))).notes


class Draws(Dataset):
    """Noise from a generator of its own, as NumPy advises; `deep`: a transform's, which it holds in a list."""

    def __init__(self, generator: Any, deep: bool) -> None:
        noise = partial(noisy, generator)
        self.transforms = [noise] if deep else noise

    def __len__(self) -> int:
        return N

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        made = self.transforms[0] if isinstance(self.transforms, list) else self.transforms
        return made(k), k % 3


def noisy(generator: Any, k: int) -> torch.Tensor:
    level = torch.rand((), generator=generator) if isinstance(generator, torch.Generator) else generator.random()
    return torch.full((3, 4, 4), float(level))


MODULE_S = np.random.default_rng()
OWN_GENERATORS = [np.random.default_rng(), np.random.RandomState(), random.Random(), torch.Generator()]


@pytest.mark.parametrize(
    "dataset",
    [
        *(Draws(generator, deep) for generator in OWN_GENERATORS for deep in (False, True)),
        Pairs(lambda k: (noisy(MODULE_S, k), k % 3)),
    ],
)
def test_generators_that_a_data_set_holds_follow_from_seed_epoch_and_row(dataset: Any) -> None:
    """Also in worker processes, which are forked with the same generator in each epoch."""
    found = as_image_set(dataset)
    assert "anew in each epoch" in found.notes[0]

    def levels(epoch: int, workers: int) -> list[float]:
        return torch.cat([x[:, 0, 0, 0] for x, _ in Loader(found, 3, workers=workers).epoch(epoch)]).tolist()

    assert levels(0, 0) == levels(0, 2)
    drawn = [level for epoch in range(3) for level in levels(epoch, 1)]
    assert len(set(drawn)) == 3 * N


class Deep(Dataset):
    """Its generator stands beside annotations of thousands of objects, and beside files that are closed."""

    _shared = np.random.default_rng()

    def __init__(self, where: str, closed: Any) -> None:
        self.where, self.closed = where, closed
        self.annotations = [[{"box": [k, n]} for n in range(12)] for k in range(900)]
        self.rng = np.random.RandomState(np.random.PCG64())

    def __len__(self) -> int:
        return N

    @property
    def of_module(self) -> Any:
        return MODULE_S

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        generator = {"attribute": self.rng, "class": self._shared, "property": self.of_module}[self.where]
        return noisy(generator, k), k % 3


@pytest.mark.parametrize("where", ["attribute", "class", "property"])
def test_generators_are_found_beside_much_else(where: str, tmp_path: Any) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with np.load(tmp_path / "x.npz") as closed:
        pass
    found = as_image_set(Deep(where, closed))
    assert "anew in each epoch" in found.notes[0]
    again = pickle.loads(pickle.dumps(found.images))
    place = (5,)
    assert isinstance(found.images, DatasetImages)
    assert torch.equal(again.fetch(torch.arange(N), place), found.images.fetch(torch.arange(N), place))


def test_draws_that_no_seed_reaches_are_said_and_differ_in_each_epoch() -> None:
    found = as_image_set(Pairs(lambda k: (noisy(random.SystemRandom(), k), k % 3)))
    assert "no seed decides on them" in found.notes[0]
    wide = as_image_set(Pairs(lambda k: (noisy(random.SystemRandom(), k)[:1], k % 3)), channels=3)
    for images in (found, wide):
        drawn = [float(x[0, 0, 0, 0]) for epoch in range(3) for x, _ in Loader(images, 3, workers=2).epoch(epoch)]
        assert len(set(drawn)) == len(drawn)


class OwnSampler(Sampler):
    def __iter__(self) -> Any:
        return iter([1, 2])

    def __len__(self) -> int:
        return 2


SAMPLED: dict[str, dict[str, Any]] = {
    "subset": {"sampler": SubsetRandomSampler([9, 2, 7])},
    "subset of a tensor": {"sampler": SubsetRandomSampler(torch.tensor([9, 2, 7]))},
    "list": {"sampler": [9, 2, 7]},
    "array": {"sampler": np.array([9, 2, 7])},
    "batches of a subset": {"batch_sampler": BatchSampler(SubsetRandomSampler([9, 2, 7]), 2, False)},
    "lists of batches": {"batch_sampler": [[9, 2], [7]]},
    "one by one": {"sampler": SubsetRandomSampler([9, 2, 7]), "batch_size": None},
}


@pytest.mark.parametrize("dataset", ["TensorDataset", "PIL", "datasets", "datasets with a transform"])
@pytest.mark.parametrize("how", SAMPLED)
def test_a_loader_is_the_items_that_its_sampler_is_limited_to(how: str, dataset: str) -> None:
    found = as_image_set(DataLoader(FORMS[dataset], **SAMPLED[how]), "test")
    assert found.labels.tolist() == [2, 1, 0]
    x, _ = next(iter(Loader(found, 3, workers=0).epoch()))
    assert torch.equal(x, IMAGES[[2, 7, 9]].float() / 255)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SequentialSampler(range(N))},
        {"sampler": RandomSampler(range(N)), "drop_last": True, "batch_size": 5},
        {"batch_sampler": BatchSampler(RandomSampler(range(N)), 5, True)},
        {"batch_size": None, "shuffle": True},
        {"collate_fn": transformers.default_data_collator},
        {"collate_fn": transformers.DefaultDataCollator()},
    ],
)
@pytest.mark.parametrize("dataset", ["PIL", "datasets in a format"])
def test_a_loader_of_all_items(options: dict[str, Any], dataset: str) -> None:
    assert torch.equal(as_image_set(DataLoader(FORMS[dataset], **options)).labels, LABELS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": WeightedRandomSampler([1.0] * N, N)}, "a WeightedRandomSampler, which is not followed"),
        ({"sampler": RandomSampler(range(N), replacement=True)}, "a RandomSampler"),
        ({"sampler": RandomSampler(range(N), num_samples=5)}, "a RandomSampler"),
        ({"sampler": OwnSampler()}, "a OwnSampler"),
        ({"batch_sampler": BatchSampler(OwnSampler(), 2, False)}, "a OwnSampler"),
        ({"sampler": ["a", "b"]}, "a list"),
        ({"collate_fn": lambda items: items}, "collate_fn of its own (<lambda>)"),
        ({"collate_fn": OwnSampler.__len__}, "collate_fn of its own (__len__)"),
    ],
)
def test_a_loader_that_changes_what_is_read_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ClatError) as caught:
        as_image_set(DataLoader(Pairs(), **options), "test")
    said = str(caught.value)
    assert said.startswith("the test data are a DataLoader with a ")
    assert says in said
    assert "give its data set" in said
    assert "\n" not in said


def test_a_distributed_sampler_has_no_say_and_that_is_said() -> None:
    loader = DataLoader(Pairs(), sampler=DistributedSampler(Pairs(), num_replicas=2, rank=1))
    with pytest.warns(Notice, match="whatever a DistributedSampler says"):
        assert torch.equal(as_image_set(loader).labels, LABELS)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from ((IMAGES[k], k % 3) for k in range(N))


def broken(k: int) -> Any:
    raise KeyError("no such file")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Pairs(lambda k: IMAGES[k]), "item 0 of the train data (Pairs) is a torch.Tensor: expected (image, label)"),
        (Pairs(lambda k: (IMAGES[k], k, k)), "is a tuple of 3: expected (image, label)"),
        (Pairs(lambda k: {"picture": "x", "label": 0}), "no image column"),
        (Pairs(lambda k: {"image": IMAGES[k], "id": 0}), "no label column"),
        (Pairs(lambda k: (IMAGES[k], "cat")), "has a str for a label"),
        (Pairs(lambda k: (IMAGES[k], 0.5)), "has a float for a label"),
        (Pairs(lambda k: (IMAGES[k], torch.eye(3)[k % 3])), "of shape (3,) for a label"),
        (Pairs(lambda k: ("0.png", 1)), "is a str: expected a PIL image, a tensor or a NumPy array"),
        (Pairs(lambda k: (IMAGES[k].float(), 1)), "divide by 255"),
        (Pairs(lambda k: (floats(k) * 2 - 1, 1)), "pass them unnormalised"),
        (Pairs(lambda k: (IMAGES[k].permute(1, 2, 0), 1)), "image.permute(2, 0, 1)"),
        (Pairs(lambda k: (IMAGES[k].long(), 1)), "is of type torch.int64"),
        (Pairs(lambda k: (IMAGES[k][None], 1)), "has shape (1, 3, 5, 6): expected (C, H, W)"),
        (Pairs(lambda k: (IMAGES[k], k - 1)), "row 0 has label -1"),
        (Pairs(broken), "item 0 of the train data (Pairs) failed, KeyError: 'no such file'"),
        (Pairs(n=0), "are empty"),
        (Stream(), "are a stream"),
        (DataLoader(Stream(), 4), "are a stream"),
        (hub(label=LABELS.tolist()).to_iterable_dataset(), "are a stream"),
        (hub(), "no label column"),
        (3, "the train data are a int: expected an ImageSet"),
        ((IMAGES, LABELS, LABELS), "are a tuple: expected an ImageSet"),
        ((IMAGES, LABELS[:3]), "3 labels for 12 images"),
        ((IMAGES, torch.eye(3)[LABELS]), "for one-hot labels.argmax(1)"),
        ((IMAGES, LABELS.float()), "labels are float32"),
        ((IMAGES[0, 0], LABELS), "images have shape (5, 6)"),
        ((IMAGES.float(), LABELS), "divide by 255"),
        ((PIXELS.astype(np.int64), LABELS), "images are int64"),
        ((IMAGES.long(), LABELS), "images are torch.int64"),
    ],
)
def test_what_is_refused(source: Any, says: str) -> None:
    with pytest.raises(ClatError) as caught:
        as_image_set(source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_refused_later() -> None:
    """An image of another size, a label that changes: found when they are read, with their row."""
    sizes = as_image_set(Pairs(lambda k: (IMAGES[k, :, : 5 - k // 6], k % 3), targets=LABELS))
    with pytest.raises(ClatError, match=r"item 6 of .* is torch.uint8 of shape \(3, 4, 6\), the first"):
        sizes.load()
    moods = [0]

    def moody(k: int) -> tuple[torch.Tensor, int]:
        moods[0] += 1
        return IMAGES[k], moods[0] > 40

    with pytest.raises(ClatError, match="has a bool for a label"):
        as_image_set(Pairs(moody))
    changing = as_image_set(Pairs(lambda k: (IMAGES[k], int(moods[0] > 1000))))
    moods[0] = 2000
    with pytest.raises(ClatError, match="and had 0 before"):
        changing.load()


@pytest.mark.parametrize("declared", [[0] * N, [0] * 3, None, ["a"] * N])
def test_targets_that_are_not_the_items_labels_are_not_believed(declared: Any) -> None:
    assert torch.equal(as_image_set(Pairs(targets=declared)).labels, LABELS)


def test_a_rare_class_whose_number_the_items_change() -> None:
    """As a target_transform of torchvision does, which `targets` know nothing of."""
    targets = [0] * 100
    targets[5] = targets[50] = 2
    found = as_image_set(Pairs(lambda k: (IMAGES[k % N], min(targets[k], 1)), n=100, targets=targets))
    assert found.labels.tolist() == [min(one, 1) for one in targets]
    found.pixels()


NAMES = ["ant", "bee", "cat", "dog", "elk"]


class Wraps(Dataset):
    """Another data set with labels of its own."""

    def __init__(self, dataset: Any, relabel: Any) -> None:
        self.dataset, self.relabel = dataset, relabel

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, k: int) -> Any:
        image, label = self.dataset[k]
        return image, self.relabel(label)


def binary(label: int) -> int:
    return int(label == 2)


@pytest.mark.parametrize(
    "dataset",
    [
        Pairs(lambda k: (IMAGES[k], binary(k % 3)), targets=LABELS.tolist(), classes=NAMES),
        Pairs(lambda k: (IMAGES[k], binary(k % 3)), target_transform=binary, classes=NAMES),
        Pairs(lambda k: (IMAGES[k], binary(k % 3)), _labels=LABELS.tolist(), classes=NAMES),
        Wraps(Pairs(targets=LABELS.tolist(), classes=NAMES), binary),
        Wraps(Pairs(classes=NAMES), binary),
    ],
)
def test_names_of_classes_are_not_given_to_other_labels(dataset: Any) -> None:
    found = as_image_set(dataset)
    assert found.class_names == ("0", "1")
    assert as_image_set(dataset, classes=["other", "cat"]).class_names == ("other", "cat")


def test_names_of_classes_where_labels_stay_what_they_are() -> None:
    whole = Pairs(targets=LABELS.tolist(), classes=NAMES[:3])
    parts = ConcatDataset([Subset(whole, range(5)), Subset(Pairs(classes=NAMES[:3]), range(5, N))])
    for dataset in (whole, Pairs(classes=NAMES[:3]), Wraps(whole, int), Subset(whole, [5, 4, 0]), parts):
        assert as_image_set(dataset).class_names == tuple(NAMES[:3])
    apart = ConcatDataset([Subset(whole, range(5)), Subset(Pairs(classes=NAMES[1:4]), range(5, N))])
    assert as_image_set(apart).class_names == ("0", "1", "2")


@pytest.mark.parametrize("train", [(IMAGES, LABELS), Pairs()])
def test_names_of_the_test_split_alone_are_left_out(train: Any) -> None:
    test = Pairs(targets=LABELS.tolist(), classes=NAMES[:3])
    _, found = as_train_and_test((train, test))
    assert found.class_names == ("0", "1", "2")
    assert torch.equal(found.labels, LABELS)


def test_numbers_for_names_are_brought_into_train_s_order() -> None:
    """torchvision's ImageFolder sorts them as text."""
    text = sorted(map(str, range(12)))
    test = Pairs(lambda k: (IMAGES[k], k), targets=list(range(N)), classes=text)
    _, found = as_train_and_test(((IMAGES, torch.arange(N)), test))
    assert found.class_names == tuple(map(str, range(12)))
    assert found.labels.tolist() == [int(text[k]) for k in range(N)]
    mapped = {"train": hub(label=list("ab") * 6), "test": hub(label=[0, 1] * 6)}
    mapped["test"] = mapped["test"].cast_column("label", datasets.ClassLabel(names=["b", "a"]))
    assert as_image_set(mapped, "test").labels.tolist() == [1, 0] * 6


class Chosen(Dataset):
    """Rows of another data set, as libraries write it themselves."""

    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> Any:
        return self.dataset[self.indices[k]]


def test_names_that_may_be_others_are_said_and_not_mixed_with_train_s() -> None:
    train = Pairs(targets=LABELS.tolist(), classes=["ant", "bee", "cat"])
    test = Pairs(lambda k: (IMAGES[k], k % 2), targets=[k % 2 for k in range(N)], classes=["bee", "cat"])
    _, found = as_train_and_test((train, Chosen(test, np.arange(1, 7))))
    assert found.labels.tolist() == [2, 1] * 3
    ragged = Chosen(Pairs(lambda k: (IMAGES[k[0]], k[0] % 3), classes=NAMES[:3]), [[0, 1], [2]])
    assert as_image_set(ragged).labels.tolist() == [0, 2]
    unsure = Wraps(Pairs(lambda k: (IMAGES[k], k % 2), classes=["bee", "cat"]), int)
    with pytest.raises(ClatError, match=r"has classes \(bee, cat, \.\.\.\), other than the train split's"):
        as_train_and_test((train, unsure))
    assert "its classes (bee, cat) are not taken" in as_image_set(unsure).notes[0]


def test_a_mapping_s_training_split_decides_on_the_classes_whatever_word_it_has() -> None:
    train = hub(label=["ant", "bee", "cat"] * 4)
    test = hub(label=["bee", "cat"] * 6)
    found = as_image_set({"training": train, "test": test}, "test")
    assert found.class_names == ("ant", "bee", "cat")
    assert found.labels.tolist() == [1, 2] * 6


def test_the_size_that_is_asked_for_counts_for_the_training_split_too() -> None:
    wide = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(np.zeros((4, 5000, 3), np.uint8)), "path": None}], "label": [0]}
    ).cast_column("image", datasets.Image())
    both = datasets.DatasetDict({"train": wide, "test": wide})
    assert as_image_set(both, "test", image_size=4).shape == (3, 4, 4)


@pytest.mark.parametrize("kind", [">f4", ">f8", np.longdouble])
def test_arrays_of_any_byte_order_and_precision(kind: Any) -> None:
    given = (PIXELS / 255).astype(kind)
    assert torch.equal(as_image_set((given, LABELS)).pixels(), IMAGES)
    items = as_image_set(Pairs(lambda k: (given[k], k % 3)))
    assert torch.allclose(items.pixels(), IMAGES.float() / 255)


def test_pictures_with_an_alpha_channel_are_refused_in_words() -> None:
    given = np.zeros((N, 32, 32, 4), np.uint8)
    for source in ((given, LABELS), Pairs(lambda k: (given[k], k % 3))):
        with pytest.raises(ClatError, match=r"4 channels in the last place: leave alpha out, \[\.\.\., :3\]"):
            as_image_set(source)


@pytest.mark.parametrize("data", [(IMAGES, LABELS), Pairs(), IMAGES, [Pairs()]])
def test_training_needs_train_and_test(data: Any) -> None:
    with pytest.raises(ClatError, match=r"expected \(train, test\)"):
        as_train_and_test(data)


def test_labels_of_test_beyond_those_of_train() -> None:
    with pytest.raises(ClatError, match="label 2, expected 0 to 1"):
        as_train_and_test(((IMAGES[:2], LABELS[:2]), (IMAGES, LABELS)))


def test_an_image_set_is_itself() -> None:
    own = ImageSet("mine", "train", ("a", "b", "c"), IMAGES, LABELS)
    assert as_image_set(own) is own
    assert as_train_and_test((own, own))[1] is own


def test_a_decoded_image_is_not_turned_once_more() -> None:
    def opened(k: int) -> tuple[Image.Image, int]:
        image = Image.fromarray(PIXELS[k])
        image.getexif()[0x112] = 6  # as torchvision's ImageFolder leaves it in what it has opened and converted
        return image.convert("RGB"), k % 3

    found = as_image_set(Pairs(opened), "test")
    assert torch.equal(found.pixels(), IMAGES)


@pytest.mark.parametrize("batches", [torch.arange(4, 12).split(4), np.array_split(np.arange(4, 12), 2)])
def test_batches_of_numbers_in_any_form(batches: Any) -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_sampler=list(batches))
    assert torch.equal(as_image_set(loader, "test").pixels(), IMAGES[4:])


def test_a_column_called_label_comes_before_other_columns_of_classes():
    """And the column called image before other columns of images."""
    files = [{"bytes": encoded(pixels), "path": None} for pixels in PIXELS]
    masks = [{"bytes": encoded(255 - pixels), "path": None} for pixels in PIXELS]
    features = datasets.Features(
        {
            "annotation": datasets.Image(),
            "image": datasets.Image(),
            "label": datasets.Value("int64"),
            "domain": datasets.ClassLabel(names=["photo", "sketch"]),
        }
    )
    columns = {"annotation": masks, "image": files, "label": LABELS.tolist(), "domain": [k % 2 for k in range(N)]}
    found = as_image_set(datasets.Dataset.from_dict(columns, features=features))
    assert torch.equal(found.labels, LABELS)
    assert torch.equal(found.pixels(), IMAGES)


def test_an_image_set_that_is_not_what_is_asked_for_is_refused(ramp):
    size = ramp.shape[1] + 1
    for asked, says in (
        ({"image_size": size}, f"pixels: read it with image_size={size}"),
        ({"channels": 4 - ramp.shape[0]}, f"channels: read it with channels={4 - ramp.shape[0]}"),
        ({"classes": [*ramp.class_names[::-1]]}, "whose classes have an order already"),
    ):
        with pytest.raises(ClatError, match=says):
            as_image_set(ramp, **asked)
        with pytest.raises(ClatError, match=says):
            as_image_set({"train": ramp}, "train", **asked)
    assert as_image_set(ramp, classes=list(ramp.class_names), channels=ramp.shape[0]) is ramp
