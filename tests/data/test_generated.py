"""Extra images: the file, and the batches that they are part of."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clat.core.errors import ClatError
from clat.data import Augment, Extra, ImageSet, Loader, load_split, open_generated

from .conftest import WriteParquet, encoded, picture

Write = Callable[..., Path]


def generated(n: int = 40) -> dict[str, np.ndarray]:
    """Images of the shape of `ramp`, all different from its own; labels as published: by class, int64."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    return {"image": pixels, "label": np.sort(np.arange(n) % 26)}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(compressed: bool = False, **arrays: np.ndarray) -> Path:
        path = tmp_path / "extra.npz"
        (np.savez_compressed if compressed else np.savez)(path, **(arrays or generated()))
        return path

    return save


@pytest.fixture
def extra(write: Write, ramp: ImageSet) -> ImageSet:
    return open_generated(write(), ramp)


@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_and_labels_are_those_of_the_file(write: Write, ramp: ImageSet, compressed: bool) -> None:
    arrays = generated()
    images = open_generated(write(compressed), ramp)
    assert torch.equal(images.images, torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2))
    assert torch.equal(images.labels, torch.from_numpy(arrays["label"]))
    assert (images.name, images.split, images.class_names) == ("extra.npz", "extra", ramp.class_names)


def test_an_uncompressed_file_stays_on_disk(write: Write, ramp: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands before the arrays, and however long its name is."""
    path = write(a_note_of_some_length=np.arange(7), **generated())
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the file was read whole"))
    images = open_generated(path, ramp)
    assert torch.equal(images.images, torch.from_numpy(generated()["image"]).permute(0, 3, 1, 2))


def test_arrays_in_column_order_and_labels_of_other_integer_types(write: Write, ramp: ImageSet) -> None:
    arrays = generated()
    path = write(image=np.asfortranarray(arrays["image"]), label=arrays["label"].astype(np.int32))
    images = open_generated(path, ramp)
    assert torch.equal(images.images, torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2))
    assert images.labels.dtype == torch.int64


def test_a_name_under_the_data_folder(write: Write, ramp: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAT_DATA_DIR", str(write().parent))
    assert len(open_generated("extra.npz", ramp)) == 40


def changed(**arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in (generated() | arrays).items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed(label=None), r"has no array 'label' \(it has image\)"),
        (changed(image=None, x=np.zeros(3)), r"has no array 'image' \(it has label, x\)"),
        (changed(image=np.zeros((40, 6, 5, 3))), "'image' in .* is float64"),
        (changed(image=np.zeros((40, 3, 6, 5), np.uint8)), r"shape \(40, 3, 6, 5\), expected .* \(N, 6, 5, 3\)"),
        (changed(image=np.zeros((40, 90), np.uint8)), r"shape \(40, 90\)"),
        (changed(image=np.zeros((0, 6, 5, 3), np.uint8)), r"shape \(0, 6, 5, 3\)"),
        (changed(label=np.zeros(39, np.int64)), r"'label' in .* shape \(39,\), expected integers of shape \(40,\)"),
        (changed(label=np.zeros(40)), "'label' in .* is float64"),
        (changed(label=np.zeros((40, 26), np.int64)), r"shape \(40, 26\)"),
        (changed(label=np.full(40, 26)), "row 0 has label 26, expected 0 to 25"),
        (changed(label=np.full(40, -1)), "row 0 has label -1"),
        (changed(label=np.array([object()] * 40)), "no readable .npz"),
    ],
)
def test_other_arrays_are_refused_in_one_line(
    write: Write, ramp: ImageSet, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ClatError, match=message) as caught:
        open_generated(write(**arrays), ramp)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("extra images") <= 1, "one error is not wrapped in another"


def test_what_is_no_file_or_no_archive_is_refused(write: Write, ramp: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ClatError, match=r"no file .*absent\.npz"):
        open_generated(tmp_path / "absent.npz", ramp)
    with pytest.raises(ClatError, match="no file"):
        open_generated(tmp_path, ramp)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ClatError, match="is no readable"):
        open_generated(tmp_path / "text.npz", ramp)
    path = write()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ClatError, match="is no readable"):
        open_generated(path, ramp)
    damaged = bytearray(write(compressed=True).read_bytes())
    damaged[500:600] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(ClatError, match="is no readable"):
        open_generated(path, ramp)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image", b"pixels")
    with pytest.raises(ClatError, match=r"extra\.npz has no array 'image' \(it has none\)"):
        open_generated(path, ramp)


def test_a_header_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path, ramp: ImageSet) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (4000, 6, 5, 3)})
    labels = io.BytesIO()
    np.save(labels, np.zeros(4000, np.int64))
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue() + bytes(90))
        archive.writestr("label.npy", labels.getvalue() + bytes(400_000))
    with pytest.raises(ClatError, match="is no readable"):
        open_generated(tmp_path / "short.npz", ramp)


def sources(x: torch.Tensor, ramp: ImageSet, extra: ImageSet) -> list[int]:
    """Which image each of a batch is: k of `ramp`, 26 + j of the extra ones."""
    everything = torch.cat([ramp.images, extra.images]).flatten(1)
    return [(everything == (255 * image).round().flatten()).all(1).nonzero().item() for image in x]


def test_batches_are_full_and_hold_the_fraction(ramp: ImageSet, extra: ImageSet) -> None:
    """ceil(26 / 8) = 4 batches of 8, of which int(0.7 * 8) = 5 are extra; 12 of the 26 images are seen."""
    loader = Loader(ramp, 8, seed=1, extra=Extra(extra, 0.7))
    batches = list(loader.epoch(0))
    assert loader.num_batches == len(batches) == 4
    own = []
    for x, y in batches:
        found = sources(x, ramp, extra)
        assert y.tolist() == torch.cat([ramp.labels, extra.labels])[found].tolist()
        assert sum(source >= 26 for source in found) == 5
        assert found != sorted(found), "in random order: the shares of processes are alike"
        own += [source for source in found if source < 26]
    assert len(own) == len(set(own)) == 12
    assert own != [s for x, _ in loader.epoch(1) for s in sources(x, ramp, extra) if s < 26]


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [
        (0.29, {100: 29, 99: 28, 200: 58}),
        (0.57, {100: 57}),
        (0.7, {8: 5, 10: 7, 64: 44, 90: 63, 100: 70, 128: 89, 256: 179, 512: 358, 1024: 716, 2048: 1433}),
        (0.5, {7: 3, 128: 64}),
        (0.3, {10: 3, 128: 38, 512: 153}),
        (0.2, {5: 1, 128: 25, 512: 102}),
        (np.float64(0.29), {100: 29}),
        (1 - 2**-53, {2**10: 2**10 - 1}),
    ],
)
def test_the_part_of_a_batch_is_rounded_down_from_the_fraction_as_it_is_written(
    extra: ImageSet, fraction: float, counts: dict[int, int]
) -> None:
    assert {size: Extra(extra, fraction).per_batch(size) for size in counts} == counts


def test_a_short_last_batch_of_the_set_is_filled_up(ramp: ImageSet, extra: ImageSet) -> None:
    """26 images, 11 own ones a batch of 12: three batches, and the last has 4 of the set and 8 extra."""
    batches = list(Loader(ramp, 12, extra=Extra(extra, 0.1)).epoch(0))
    counts = [sum(source >= 26 for source in sources(x, ramp, extra)) for x, _ in batches]
    assert [len(x) for x, _ in batches] == [12, 12, 12]
    assert counts == [1, 1, 8]


def test_every_extra_image_comes_up(ramp: ImageSet, extra: ImageSet) -> None:
    loader = Loader(ramp, 13, extra=Extra(extra, 0.9))
    found = {source for epoch in range(20) for x, _ in loader.epoch(epoch) for source in sources(x, ramp, extra)}
    assert found == set(range(26 + 40))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("cutmix", [False, True])
def test_batches_depend_on_their_place_alone(parquet: WriteParquet, write: Write, lazy: bool, cutmix: bool) -> None:
    """The tail after a restart, and the shares of two processes, are those of one whole epoch."""
    folder = parquet([encoded(picture(k)) for k in range(26)])
    own = load_split(str(folder), "train", resident_limit=0 if lazy else 2**30, cache=False)
    pixels = np.random.default_rng(1).integers(0, 256, (9, 10, 12, 3), dtype=np.uint8)
    extra = Extra(open_generated(write(image=pixels, label=np.arange(9) % 2), own), 0.5)
    options = {"seed": 3, "augment": Augment(pad=2), "extra": extra, "cutmix": cutmix, "workers": 0}
    before = torch.get_rng_state()
    whole = list(Loader(own, 8, **options).epoch(2))
    tail = list(Loader(own, 8, **options).epoch(2, 2))
    ranks = [list(Loader(own, 8, rank=rank, world_size=2, **options).epoch(2)) for rank in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    for number, (x, y) in enumerate(whole):
        (x0, y0), (x1, y1) = ranks[0][number], ranks[1][number]
        assert torch.equal(x, torch.cat([x0, x1]))
        assert torch.equal(y, torch.cat([y0, y1]))
        if number >= 2:
            assert torch.equal(x, tail[number - 2][0])
            assert torch.equal(y, tail[number - 2][1])


def test_numbers_that_do_not_fit_are_refused(ramp: ImageSet, extra: ImageSet) -> None:
    for fraction in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ClatError, match="the fraction of extra images is"):
            Extra(extra, fraction)
    with pytest.raises(ClatError, match=r"0\.1 of batch_size 4 is no extra image"):
        Loader(ramp, 4, extra=Extra(extra, 0.1))
    other = ImageSet("other", "train", ("a", "b"), extra.images, torch.zeros(40, dtype=torch.int64))
    with pytest.raises(ClatError, match="must agree"):
        Loader(ramp, 4, extra=Extra(other, 0.5))
