from __future__ import annotations

import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clat.core.errors import ClatError
from clat.core.notices import Notice, listening
from clat.data import cache as copies
from clat.data import cache_root, data_root, load_split, sources
from clat.data.decode import EncodedImages

from .conftest import WriteParquet, encoded, picture, write_images


def image_folder(root: Path, size: tuple[int, int] = (12, 10)) -> Path:
    for number, (split, name) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog", "eel")):
        (root / split / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(picture(10 * number + k, *size)).save(root / split / name / f"{k}.png")
    return root


def test_an_image_folder(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pets")
    train = load_split(folder, "train")
    assert (train.name, train.split, train.class_names) == ("pets", "train", ("cat", "dog", "eel"))
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (train.images[3].permute(1, 2, 0).numpy() == picture(11)).all()
    assert len(load_split(folder, "test")) == 6


def test_a_folder_of_classes_is_all_train(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pets") / "train"
    assert len(load_split(folder, "train")) == 6
    folder = folder.rename(tmp_path / "kept")
    with pytest.raises(ClatError, match=r"it has: train; of class folders, move .* to .*/test/CLASS"):
        load_split(folder, "test")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_parquet(parquet: WriteParquet, kind: str) -> None:
    folder = parquet([encoded(picture(k), kind) for k in range(5)])
    image_set = load_split(str(folder), "train", image_size=8)
    assert (image_set.shape, image_set.num_classes, len(image_set)) == ((3, 8, 8), 2, 5)
    assert image_set.resident
    assert image_set.images.dtype == torch.uint8


def test_validation_stands_in_for_test(parquet: WriteParquet) -> None:
    parquet([encoded(picture(0))])
    folder = parquet([encoded(picture(1)), encoded(picture(2))], split="validation")
    image_set = load_split(folder, "test")
    assert (len(image_set), image_set.split) == (2, "test")
    assert "split 'validation' stands in for 'test'" in image_set.description


def test_missing_shards_are_mentioned(parquet: WriteParquet) -> None:
    folder = parquet([encoded(picture(0))], shard="00000-of-00003")
    assert "only 1 of 3 files are there" in load_split(folder, "train").description


def test_the_label_column(parquet: WriteParquet) -> None:
    fine, coarse = datasets.ClassLabel(names=["a", "b", "c"]), datasets.ClassLabel(names=["x", "y"])
    folder = parquet(
        [encoded(picture(k)) for k in range(2)],
        coarse_label=([0, 1], coarse),
        fine_label=([2, 1], fine),
        count=([4, 0], datasets.Value("int32")),
        score=([0.5, 0.1], datasets.Value("float32")),
    )
    assert load_split(folder).labels.tolist() == [2, 1]
    assert load_split(folder, label_column="coarse_label").class_names == ("x", "y")
    assert load_split(folder, label_column="count").num_classes == 5
    with pytest.raises(ClatError, match="did you mean 'fine_label'"):
        load_split(folder, label_column="fine_lable")
    with pytest.raises(ClatError, match=r"'score'.*not made of whole numbers"):
        load_split(folder, label_column="score")


def test_sets_that_cannot_be_used(parquet: WriteParquet, tmp_path: Path) -> None:
    good = encoded(picture(0))
    cases = {
        "empty": ([], {}, "split 'train' of data set .* is empty"),
        "broken": ([good, b"junk"], {}, "row 1 of broken/train: not an image file"),
        "cut": ([good, good[:-300]], {}, "cannot read the image in row 1 of cut/train: .*truncated"),
        "gap": ([good, None], {}, "row 1 of gap/train holds no image"),
        "sizes": (
            [good, encoded(picture(0, 7, 7))],
            {},
            "row 1 of sizes/train is 7x7 .* 12x10: give image_size",
        ),
        "plain": (
            [good],
            {"text": (["a"], datasets.Value("string"))},
            "no label column .columns: img, text.",
        ),
        "blank": ([good], {"label": ([-1], datasets.ClassLabel(names=["a"]))}, "row 0 has label -1"),
    }
    for name, (images, columns, message) in cases.items():
        folder = parquet(images, folder=name, **columns)
        with pytest.raises(ClatError, match=message) as caught:
            load_split(folder)
        assert "\n" not in str(caught.value)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ClatError, match="no image column; its columns: a, b"):
        load_split(tmp_path / "table")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ClatError, match=r"cannot open data set .*nothing.*expected Hugging Face parquet"):
        load_split(tmp_path / "nothing")


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path))
    (tmp_path / "file").touch()
    (tmp_path / "photos").mkdir()
    for name, message in (
        (
            "cifar10",
            f"{tmp_path} .CLAT_DATA_DIR. or in the current folder: put .* into {tmp_path}/cifar10; `clat data",
        ),
        ("photso", "current folder; did you mean 'photos'.*a folder of images or tables"),
        ("", "name is empty"),
        (str(tmp_path / "file"), "is a file: give the folder"),
        (str(tmp_path / "none"), "give an existing folder"),
    ):
        with pytest.raises(ClatError, match=message):
            load_split(name)
    for name, size, most in (("digits", 0, 512), ("digits", 2**31, 512), ("digits", 4096, 512), (".", 4097, 4096)):
        with pytest.raises(ClatError, match=f"image_size is {size}, expected 1 to {most} pixels"):
            load_split(name, image_size=size)


def test_a_known_name_is_a_folder_of_the_data_root(parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet([encoded(picture(0))])
    monkeypatch.setenv("CLAT_DATA_DIR", str(folder.parent))
    assert load_split("set").name == "set"


def test_the_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CLAT_CACHE_DIR", "CLAT_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/clat")
    assert data_root() == Path("/somewhere/clat/data")
    monkeypatch.setenv("CLAT_DATA_DIR", "~/mine")
    assert data_root() == Path.home() / "mine"


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nand more")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(ClatError, match=r"cannot reach .* 'owner/name' \(no route\): check") as caught:
        load_split("owner/name:config")
    assert "\n" not in str(caught.value)


def test_a_hub_set_is_read_like_a_folder(parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself cannot be asked here: its builder is replaced by a folder's."""
    folder = parquet([encoded(picture(k)) for k in range(3)])
    monkeypatch.setattr(
        sources,
        "_open_hub",
        lambda library, _: library.load_dataset_builder(str(folder), cache_dir=sources._hf_cache()),
    )
    first, second = (load_split("owner/name") for _ in range(2))
    assert (first.name, len(first)) == ("owner/name", 3)
    assert first.description == "from the Hugging Face hub"
    assert torch.equal(first.images, second.images)


def test_a_hub_set_that_its_library_would_guess_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guessing:
        name = "imagefolder"

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: Guessing())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ClatError, match=r"'owner/name' is published as imagefolder.*download it.*give the folder"):
        load_split("owner/name")


def test_a_read_only_hugging_face_cache(parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet([encoded(picture(0))])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(os.devnull) / "x")
    assert len(load_split(folder, cache=False)) == 1


class TestCopy:
    """The decoded copy in the cache."""

    @pytest.fixture
    def folder(self, parquet: WriteParquet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
        return parquet([encoded(picture(k)) for k in range(4)])

    @staticmethod
    def files(tmp_path: Path) -> list[Path]:
        return sorted((tmp_path / "cache").rglob("*.*"))

    def test_the_second_start_reads_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load_split(folder)
        monkeypatch.setitem(sys.modules, "datasets", None)  # its import would now fail
        second = load_split(folder)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
        assert (first.class_names, first.description) == (second.class_names, second.description)

    def test_a_changed_source_or_option_makes_another(self, folder: Path, tmp_path: Path) -> None:
        load_split(folder)
        load_split(folder, image_size=8)
        assert len(self.files(tmp_path)) == 2
        os.utime(folder / "train-00000-of-00001.parquet", (1, 1))
        load_split(folder)
        assert len(self.files(tmp_path)) == 3

    def test_changed_content_is_seen(self, folder: Path, parquet: WriteParquet) -> None:
        """Hugging Face keeps a copy of its own, which must not be the old one either."""
        load_split(folder)
        parquet([encoded(picture(9))])
        image_set = load_split(folder)
        assert (image_set.images[0].permute(1, 2, 0).numpy() == picture(9)).all()
        assert len(image_set) == 1

    @pytest.mark.parametrize("decoded", [False, True])
    @pytest.mark.parametrize("kind", ["beside the folder", "hidden", "absolute, in a table"])
    def test_images_that_the_walk_does_not_meet_are_seen_to_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, decoded: bool
    ) -> None:
        """A list may name files beside its folder or in a hidden one, a table those of any place."""
        monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
        place = tmp_path / "set" / ".thumbs" if kind == "hidden" else tmp_path / "images"
        write_images(place, "0.png", "1.png")
        named = {"hidden": ".thumbs", "beside the folder": "../images"}.get(kind, str(place))
        paths = [f"{named}/{k}.png" for k in range(2)]
        (tmp_path / "set").mkdir(exist_ok=True)
        if kind == "absolute, in a table":
            table = pa.table({"image": paths, "label": [0, 1]})
            pq.write_table(table, tmp_path / "set" / "test.parquet")
        else:
            lines = [f"{path},{k}\n" for k, path in enumerate(paths)]
            (tmp_path / "set" / "test.csv").write_text("file_name,label\n" + "".join(lines))

        def read() -> torch.Tensor:
            limit = 0 if decoded else None
            return load_split(tmp_path / "set", "test", resident_limit=limit, decoded=decoded).load().images

        with listening(lambda _: None):
            first = read()
            assert torch.equal(read(), first)
            (place / "0.png").write_bytes(encoded(picture(77, 5, 4)))
            second = read()
            assert (second[0].permute(1, 2, 0).numpy() == picture(77, 5, 4)).all()
            assert torch.equal(second[1], first[1])
            monkeypatch.setattr(EncodedImages, "fetch", lambda *_: pytest.fail("decoded again"))
            assert torch.equal(read(), second), "the copy is found as long as nothing changes"

    @pytest.mark.parametrize("damage", ["empty", "short", "flipped", "foreign"])
    def test_a_damaged_one_is_replaced(self, folder: Path, tmp_path: Path, damage: str) -> None:
        first = load_split(folder)
        (path,) = self.files(tmp_path)
        good = path.read_bytes()
        flipped = good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]
        path.write_bytes({"empty": b"", "short": good[:-9], "flipped": flipped, "foreign": b"x" * 99}[damage])
        assert torch.equal(load_split(folder).images, first.images)
        assert path.read_bytes() == good

    def test_it_is_optional(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load_split(folder, cache=False)
        load_split(folder, resident_limit=0)
        assert not self.files(tmp_path)
        monkeypatch.setenv("CLAT_CACHE_DIR", str(Path(os.devnull) / "x"))
        with pytest.warns(Notice, match="are not kept for the next time: /dev/null/x"):
            assert load_split(folder).resident

    def test_a_failed_write_leaves_nothing(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(copies.os, "replace", fail)
        with pytest.warns(Notice, match="cannot be written to or is full; set CLAT_CACHE_DIR"):
            assert len(load_split(folder)) == 4
        assert not self.files(tmp_path)

    def test_a_smaller_limit_is_not_outwitted_by_it(self, folder: Path) -> None:
        assert load_split(folder).resident
        assert not load_split(folder, resident_limit=100).resident


def test_workers_decode_the_same(parquet: WriteParquet) -> None:
    folder = parquet([encoded(picture(k)) for k in range(40)])
    before = torch.get_rng_state()
    one, two = (load_split(folder, workers=workers, cache=False) for workers in (0, 2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(before, torch.get_rng_state())


def test_digits_are_found_where_the_package_has_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_split("digits", "test")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torch.equal(load_split("digits", "test").images, expected.images)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = load_split("digits", "train"), load_split("digits", "test")
    assert (len(train), len(test), train.shape, train.num_classes) == (1297, 500, (3, 8, 8), 10)
    grey = np.rint(load_digits().images * 255 / 16)
    together = torch.cat([train.images, test.images])[:, 0].flatten(1).tolist()
    assert sorted(together) == sorted(grey.reshape(-1, 64).tolist())
    assert (train.images[:, 0] == train.images[:, 2]).all()
    assert train.labels[:5].tolist() == [9, 5, 5, 1, 0]  # golden: the split never changes
    assert load_split("digits", "test", image_size=16).shape == (3, 16, 16)
    with pytest.raises(ClatError, match="unknown split of digits 'tset'; did you mean 'test'"):
        load_split("digits", "tset")


@pytest.mark.skipif(not (data_root() / "cifar10").is_dir(), reason="no cifar10 folder: set CLAT_DATA_DIR")
def test_cifar10() -> None:
    test = load_split("cifar10", "test")
    assert (len(test), test.shape) == (10_000, (3, 32, 32))
    assert test.class_names[:3] == ("airplane", "automobile", "bird")
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert test.labels.bincount().tolist() == [1000] * 10
    mean = test.images.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4942, 0.4851, 0.4504]).double(), atol=2e-4, rtol=0)
    train = load_split("cifar10", "train", resident_limit=0)
    assert len(train) == 50_000
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]


@pytest.mark.skipif(not (data_root() / "cifar100").is_dir(), reason="no cifar100 folder: set CLAT_DATA_DIR")
def test_cifar100() -> None:
    test = load_split("cifar100", "test", resident_limit=0)
    assert (len(test), test.num_classes, test.class_names[:2]) == (10_000, 100, ("apple", "aquarium_fish"))
    assert test.labels.bincount().tolist() == [100] * 100
