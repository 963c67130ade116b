"""Tables and lists of images: which files belong to a split, which columns count, how classes are numbered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clat.core.errors import ClatError
from clat.data import ImageSet, load_split
from clat.data.lists import leading_word

from .conftest import WriteParquet, classes_found, encoded, picture, write_images
from .test_folders import refused

INTEGERS = datasets.Value("int64")
TEXT = datasets.Value("string")


def pictures(n: int) -> list[bytes | None]:
    return [encoded(picture(k, 5, 4)) for k in range(n)]


def seeds(image_set: ImageSet) -> list[int]:
    """Which pictures a set holds."""
    known = {picture(k, 5, 4).transpose(2, 0, 1).tobytes(): k for k in range(40)}
    return [known[image.numpy().tobytes()] for image in image_set.images]


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("train.csv", "train"),
        ("train-1.csv", "train"),
        ("train_00.csv", "train"),
        ("train 2.csv", "train"),
        ("train1.csv", "train"),
        ("train", "train"),
        ("vald1.csv", "vald"),
        ("devdata.csv", "devdata"),
        ("val\\1.csv", ""),
        ("train+val.csv", ""),
        ("1train.csv", ""),
    ],
)
def test_the_word_that_the_name_of_a_file_begins_with(file: str, word: str) -> None:
    assert leading_word(file) == word


class TestSplitsOfTables:
    def test_the_first_word_of_a_file_decides(self, parquet: WriteParquet, tmp_path: Path) -> None:
        made = parquet(pictures(3), folder="made") / "train-00000-of-00001.parquet"
        for number, name in enumerate(("train.parquet", "test_tube_train.parquet", "val-train-x.parquet")):
            (tmp_path / "set").mkdir(exist_ok=True)
            table = pq.read_table(made).slice(number, 1)
            pq.write_table(table, tmp_path / "set" / name)
        assert seeds(load_split(tmp_path / "set", "train")) == [0]
        assert seeds(load_split(tmp_path / "set", "test")) == [1]
        assert seeds(load_split(tmp_path / "set", "val")) == [2]

    def test_a_number_after_the_word_is_that_of_a_part(self, parquet: WriteParquet, tmp_path: Path) -> None:
        made = parquet(pictures(4), folder="made") / "train-00000-of-00001.parquet"
        (tmp_path / "set").mkdir()
        for number, name in enumerate(("test1", "train1", "train_02", "train")):
            pq.write_table(pq.read_table(made).slice(number, 1), tmp_path / f"set/{name}.parquet")
        assert sorted(seeds(load_split(tmp_path / "set", "train"))) == [1, 2, 3]
        assert seeds(load_split(tmp_path / "set", "test")) == [0]

    def test_a_split_s_word_after_the_name_of_the_data(self, parquet: WriteParquet, tmp_path: Path) -> None:
        made = parquet(pictures(3), folder="made") / "train-00000-of-00001.parquet"
        (tmp_path / "set").mkdir()
        for number, name in enumerate(("mnist_train", "mnist_test", "mnist-val-00000-of-00001")):
            pq.write_table(pq.read_table(made).slice(number, 1), tmp_path / f"set/{name}.parquet")
        for number, split in enumerate(("train", "test", "val")):
            assert seeds(load_split(tmp_path / "set", split)) == [number]

    def test_parts_whose_names_end_in_a_hash_or_say_no_split(self, parquet: WriteParquet, tmp_path: Path) -> None:
        """As older conversions of the hub have them, and as splitting programs call theirs."""
        made = parquet(pictures(2), folder="made") / "train-00000-of-00001.parquet"
        forms = {
            "hub": ("data/train-00000-of-00002-6f3344faa23e9b0a", "data/train-00001-of-00002-b42a775f407cee45"),
            "plain": ("aa", "ab"),
            "both": ("train_0001_of_0002", "train_0002_of_0002"),
        }
        for form, names in forms.items():
            for number, name in enumerate(names):
                (tmp_path / form / name).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pq.read_table(made).slice(number, 1), tmp_path / form / f"{name}.parquet")
            assert seeds(load_split(tmp_path / form, "train")) == [0, 1]

    @pytest.mark.parametrize(
        "names",
        [
            ("train", "train_small"),
            ("train", "train (1)"),
            ("train", "mnist_train"),
            ("train-00000-of-00001", "train-00000-of-00002"),
        ],
    )
    def test_versions_of_a_split_are_not_joined(self, names: Any, parquet: WriteParquet, tmp_path: Path) -> None:
        made = parquet(pictures(2), folder="made") / "train-00000-of-00001.parquet"
        for folder in ("set", "apart/train"):
            (tmp_path / folder).mkdir(parents=True)
            for name in names:
                pq.write_table(pq.read_table(made), tmp_path / folder / f"{name}.parquet")
        said = refused(tmp_path / "set")
        assert "both say split 'train': put all that belongs to it into a folder train" in said
        assert all(f"{name}.parquet" in said for name in names)
        assert len(load_split(tmp_path / "apart", "train")) == 4

    def test_folders_decide_before_names(self, parquet: WriteParquet, tmp_path: Path) -> None:
        for split, folder in (("test", "set/train"), ("train", "set/validation")):
            (tmp_path / folder).mkdir(parents=True)
            parquet(pictures(2 if split == "test" else 1), split=split, folder=folder)
        assert len(load_split(tmp_path / "set", "train")) == 2
        assert len(load_split(tmp_path / "set", "validation")) == 1

    def test_what_cannot_be_told_is_refused(self, parquet: WriteParquet, tmp_path: Path) -> None:
        folder = parquet(pictures(1))
        parquet(pictures(1), folder="set/more", split="train") if (tmp_path / "set/more").mkdir() is None else None
        assert "several folders" in refused(folder)
        (tmp_path / "set/more/train-00000-of-00001.parquet").unlink()
        (folder / "train-00000-of-00001.parquet").rename(folder / "train.parquet")
        pq.write_table(pa.table({"x": [1]}), folder / "embeddings.parquet")
        assert "embeddings.parquet" in refused(folder)

    def test_the_parts_of_a_split(self, tmp_path: Path, parquet: WriteParquet) -> None:
        folder = parquet(pictures(2), shard="00000-of-00002")
        images = pictures(5)[2:]
        parquet(images, shard="00001-of-00002")
        assert seeds(load_split(folder)) == [0, 1, 2, 3, 4]
        assert load_split(folder).notes == ()

    def test_parts_that_number_their_classes_differently_are_refused(
        self, tmp_path: Path, parquet: WriteParquet
    ) -> None:
        folder = parquet(pictures(2), shard="00000-of-00002")
        other = datasets.ClassLabel(names=["b", "a"])
        parquet(pictures(2), shard="00001-of-00002", label=([0, 1], other))
        assert "other columns or classes" in refused(folder)

    @pytest.mark.parametrize("kind", ["stream", "file"])
    def test_arrow_files(self, tmp_path: Path, parquet: WriteParquet, kind: str) -> None:
        table = pq.read_table(parquet(pictures(4), folder="made"))
        (tmp_path / "set/train").mkdir(parents=True)
        path = tmp_path / "set/train/data-00000-of-00001.arrow"
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        (tmp_path / "set/train/cache-0a1b.arrow").write_bytes(path.read_bytes())
        image_set = load_split(tmp_path / "set", "train")
        assert seeds(image_set) == [0, 1, 2, 3]
        assert image_set.class_names == ("a", "b")

    def test_what_save_to_disk_wrote(self, tmp_path: Path, parquet: WriteParquet) -> None:
        made = datasets.Dataset.from_parquet(str(parquet(pictures(3), folder="made") / "*.parquet"))
        datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(str(tmp_path / "set"))
        assert seeds(load_split(tmp_path / "set", "train")) == [0, 1, 2]
        assert seeds(load_split(tmp_path / "set", "test")) == [1]

    def test_images_beside_tables_are_said(self, parquet: WriteParquet, tmp_path: Path) -> None:
        folder = parquet(pictures(1))
        write_images(folder, "assets/teaser.png")
        assert load_split(folder).notes[0] == "the tables are read, 1 image file beside them left out"


class TestColumns:
    @pytest.mark.parametrize("name", ["target", "labels", "class"])
    def test_usual_names_are_found(self, parquet: WriteParquet, name: str) -> None:
        folder = parquet(pictures(3), **{name: ([0, 1, 0], INTEGERS), "size": ([5, 6, 7], INTEGERS)})
        assert load_split(folder).labels.tolist() == [0, 1, 0]

    def test_an_unusual_name_is_given(self, parquet: WriteParquet) -> None:
        folder = parquet(pictures(3), kind=([0, 1, 0], INTEGERS))
        assert "label_column" in refused(folder)
        assert load_split(folder, label_column="kind").num_classes == 2
        assert "did you mean 'kind'" in refused(folder, label_column="knid")

    def test_the_image_column(self, tmp_path: Path) -> None:
        """Without the types of Hugging Face: bytes, pairs of bytes and path, paths."""
        pixels = write_images(tmp_path / "set", "pics/0.png", "pics/1.png")
        files = [(tmp_path / "set" / name).read_bytes() for name in pixels]
        columns: dict[str, Any] = {
            "raw": files,
            "pair": [{"bytes": data, "path": "x.png"} for data in reversed(files)],
            "place": list(pixels),
            "label": [0, 1],
        }
        pq.write_table(pa.table(columns), tmp_path / "set/train.parquet")
        assert "no image column" in refused(tmp_path / "set")
        for name, found in (("raw", [0, 1]), ("pair", [1, 0]), ("place", [0, 1])):
            image_set = load_split(tmp_path / "set", image_column=name)
            assert seeds(image_set) == found
        assert "did you mean 'place'" in refused(tmp_path / "set", image_column="palce")
        assert "whole numbers" in refused(tmp_path / "set", image_column="raw", label_column="pair")
        assert "no label column" in refused(tmp_path / "set", image_column="label")
        assert "cannot open data set" in refused(tmp_path / "set", image_column="label", label_column="place")

    def test_labels_that_are_names(self, parquet: WriteParquet) -> None:
        parquet(pictures(3), label=(["eel", "cat", "dog"], TEXT))
        folder = parquet(pictures(2), split="test", label=(["eel", "eel"], TEXT))
        assert load_split(folder).labels.tolist() == [2, 0, 1]
        test = load_split(folder, "test")
        assert (test.class_names, test.labels.tolist()) == (("cat", "dog", "eel"), [2, 2])
        assert load_split(folder, classes="dog,eel,cat").labels.tolist() == [1, 2, 0]
        assert "'cat'" in refused(folder, classes="dog,eel")


class TestNumbers:
    def test_numbers_that_leave_some_out_are_refused(self, parquet: WriteParquet) -> None:
        folder = parquet(pictures(4), label=([0, 10, 20, 10], INTEGERS))
        said = refused(folder)
        assert "0, 10, 20" in said
        assert "classes" in said
        image_set = load_split(folder, classes="0,10,20")
        assert (image_set.class_names, image_set.labels.tolist()) == (("0", "10", "20"), [0, 1, 2, 1])
        counted = load_split(folder, label_column="label")
        assert counted.num_classes == 21
        assert counted.notes == ("no image of 18 of the 21 classes: 1, 2, 3, 4, 5, ...",)

    def test_words_for_numbers(self, parquet: WriteParquet) -> None:
        folder = parquet(pictures(3), label=([2, 0, 1], INTEGERS))
        image_set = load_split(folder, classes="cat,dog,eel")
        assert (image_set.class_names, image_set.labels.tolist()) == (("cat", "dog", "eel"), [2, 0, 1])
        assert "label 2" in refused(folder, classes="cat,dog")

    def test_train_counts_for_test(self, parquet: WriteParquet) -> None:
        parquet(pictures(3), label=([2, 0, 1], INTEGERS))
        folder = parquet(pictures(1), split="test", label=([0], INTEGERS))
        assert load_split(folder, "test").num_classes == 3
        parquet(pictures(1), split="test", label=([3], INTEGERS))
        assert "label 3" in refused(folder, "test")

    def test_classes_in_another_order_are_brought_into_that_of_train(self, parquet: WriteParquet) -> None:
        """As the library reads them, test would silently be numbered as train."""
        parquet(pictures(2), label=([0, 1], datasets.ClassLabel(names=["cat", "dog"])))
        names = datasets.ClassLabel(names=["dog", "cat"])
        folder = parquet(pictures(2), split="test", label=([0, 1], names))
        test = load_split(folder, "test")
        assert (test.class_names, test.labels.tolist()) == (("cat", "dog"), [1, 0])
        assert "otherwise than the train split" in test.notes[0]
        parquet(pictures(1), split="test", label=([0], datasets.ClassLabel(names=["owl", "cat"])))
        assert "'owl'" in refused(folder, "test")


class TestLists:
    @pytest.fixture
    def flat(self, tmp_path: Path) -> Path:
        """Images without class folders."""
        write_images(tmp_path / "set", "train/0.png", "train/1.png", "train/sub/2.png", "test/3.png")
        return tmp_path / "set"

    def test_metadata_beside_flat_images(self, flat: Path) -> None:
        (flat / "train/metadata.csv").write_text("file_name,label\n1.png,dog\nsub/2.png,cat\n0.png,dog\n")
        (flat / "test/metadata.jsonl").write_text('{"file_name": "3.png", "label": "dog"}\n')
        train, test = load_split(flat, "train"), load_split(flat, "test")
        assert seeds(train) == [1, 2, 0]
        assert (train.class_names, train.labels.tolist()) == (("cat", "dog"), [1, 0, 1])
        assert (test.class_names, test.labels.tolist()) == (("cat", "dog"), [1])

    def test_lists_at_the_top(self, flat: Path) -> None:
        (flat / "train.csv").write_text("image,target\ntrain/1.png,0\ntrain/0.png,1\n")
        (flat / "test.csv").write_text("image,target\ntest/3.png,1\n")
        assert seeds(load_split(flat, "train")) == [1, 0]
        assert load_split(flat, "test").labels.tolist() == [1]

    def test_numbered_lists_at_the_top(self, flat: Path) -> None:
        (flat / "train1.csv").write_text("image,target\ntrain/1.png,0\n")
        (flat / "vald1.csv").write_text("image,target\ntrain/0.png,0\n")
        assert seeds(load_split(flat, "train")) == [1]
        assert "no split 'validation'" in refused(flat, "validation")
        for name in ("train.csv", "train-1.csv", "train_00.csv", "train2.csv"):
            (flat / name).write_text("image,target\ntrain/0.png,0\n")
        said = refused(flat)
        assert "all list split 'train'" in said
        assert all(
            name in said for name in ("train.csv", "train-1.csv", "train_00.csv", "train1.csv", "train2.csv")
        )

    def test_beside_class_folders_the_folders_decide(self, tmp_path: Path) -> None:
        pixels = write_images(tmp_path, "cat/0.png", "dog/1.png")
        (tmp_path / "metadata.csv").write_text("file_name,fur\ncat/0.png,long\ndog/1.png,short\n")
        image_set = load_split(tmp_path)
        assert classes_found(image_set, pixels) == {"cat/0.png": "cat", "dog/1.png": "dog"}
        assert "metadata.csv is left unread" in image_set.notes[0]
        assert load_split(tmp_path, label_column="fur").class_names == ("long", "short")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("file_name,label\n0.png,a\nx.png,b\n", "row 1 of train/metadata.csv names 'x.png'"),
            ("file_name,label\n0.png,a\n1.png\n", "row 1 of train/metadata.csv has not the columns"),
            ("file_name,label\n0.png,a\n1.png,a,b\n", "row 1 of train/metadata.csv has not the columns"),
            ("file_name,label\n0.png,a\n1.png,\n", "row 1 of column 'label' of"),
            ("name,label\n0.png,a\n", "no image column; its columns: name, label"),
            ("file_name,kind\n0.png,a\n", "no label column"),
            ("file_name,label\n", "is empty"),
            ("", "is empty"),
            (b"\xff\xfe\x00", "not text"),
            ("file_name,label\n0.png,1.5\n1.png,a\n", ""),
            ('file_name,label\n"0.png,a\n', "cannot read train/metadata.csv"),
        ],
    )
    def test_broken_lists(self, flat: Path, text: str | bytes, says: str) -> None:
        (flat / "train/metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        if says:
            assert says in refused(flat)
        else:
            assert load_split(flat).class_names == ("1.5", "a")

    @pytest.mark.parametrize("text", ["[1]", '{"file_name": "0.png"', '{"file_name": 3, "label": 0}', "[" * 5000])
    def test_broken_lines(self, flat: Path, text: str) -> None:
        (flat / "train/metadata.jsonl").write_text(text)
        assert "metadata.jsonl" in refused(flat)

    @pytest.mark.parametrize("labels", [("0", "1"), ("0.0", "1.0"), ("false", "true"), ('"a"', '"b"')])
    def test_lines_need_the_image_and_the_label_alone(self, flat: Path, labels: tuple[str, str]) -> None:
        lines = [
            f'{{"file_name": "0.png", "label": {labels[1]}, "caption": null}}',
            f'{{"file_name": "1.png", "label": {labels[0]}, "image": null, "labels": 3}}',
        ]
        (flat / "train/metadata.jsonl").write_text("\n".join(lines))
        assert load_split(flat).labels.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ('{"file_name": "1.png"}', "row 1 holds None"),
            ('{"file_name": "1.png", "label": null}', "row 1 holds None"),
            ('{"file_name": "1.png", "label": 0.5}', "row 1 holds 0.5"),
            ('{"file_name": "1.png", "label": 1e300}', "row 1 holds 1e+300"),
            ('{"label": 0}', "row 1 of train/metadata.jsonl names no image in the column 'file_name'"),
            ("[1]", "row 1 of train/metadata.jsonl is no table of columns"),
        ],
    )
    def test_lines_that_lack_one(self, flat: Path, line: str, says: str) -> None:
        (flat / "train/metadata.jsonl").write_text('{"file_name": "0.png", "label": 1}\n' + line)
        assert says in refused(flat)

    def test_two_lists(self, flat: Path) -> None:
        for name in ("a.csv", "b.csv"):
            (flat / "train" / name).write_text("file_name,label\n0.png,a\n")
        assert "train/a.csv, train/b.csv" in refused(flat)

    def test_numbers_in_a_list_count_as_numbers(self, flat: Path) -> None:
        file = flat / "train/metadata.csv"
        file.write_text("file_name,label\n0.png,10\n1.png,9\nsub/2.png,0\n")
        assert "leave out" in refused(flat)
        assert load_split(flat, classes="0,9,10").labels.tolist() == [2, 1, 0]

    def test_whole_numbers_with_a_decimal_point_are_numbers(self, tmp_path: Path) -> None:
        """What pandas writes for a column of whole numbers that once had a gap."""
        write_images(tmp_path, *(f"{k}.png" for k in range(12)))
        rows = "".join(f"{k}.png,{k}.0\n" for k in range(12))
        (tmp_path / "train.csv").write_text(f"file_name,label\n{rows}")
        (tmp_path / "test.csv").write_text("file_name,label\n10.png,10\n2.png,2.0\n")
        train = load_split(tmp_path)
        assert train.labels.tolist() == list(range(12))
        assert train.class_names == tuple(map(str, range(12)))
        assert load_split(tmp_path, "test").labels.tolist() == [10, 2]

    def test_a_negative_number_in_a_list_is_refused_as_in_a_table(self, flat: Path, parquet: WriteParquet) -> None:
        folder = parquet(pictures(2), folder="table", label=([-1, 1], datasets.Value("int64")))
        (flat / "train/metadata.csv").write_text("file_name,label\n0.png,-1\n1.png,1\n")
        said = [refused(one, label_column="label") for one in (flat, folder)]
        assert said[0].replace("'set/", "'table/") == said[1]
        assert "-1" in said[0]
        image_set = load_split(flat, classes="-1,1")
        assert (image_set.class_names, image_set.labels.tolist()) == (("-1", "1"), [0, 1]), "unless it is a class"

    @pytest.mark.parametrize(
        ("text", "classes", "expected"),
        [
            ("1.0,2.0", "2.0,1.0", [1, 0]),
            ("1.0,2.0", "1,2", [0, 1]),
            ("1,2", "1.0,2.0", [0, 1]),
            ("+1,-1", "-1,+1", [1, 0]),
            ("0.0,1.0", "owl,cat", [0, 1]),
            ("1.0,2.5", None, [0, 1]),
        ],
    )
    def test_classes_that_are_numbers(
        self, flat: Path, text: str, classes: str | None, expected: list[int]
    ) -> None:
        one, two = text.split(",")
        (flat / "train/metadata.csv").write_text(f"file_name,label\n0.png,{one}\n1.png,{two}\n")
        image_set = load_split(flat, classes=classes)
        assert image_set.labels.tolist() == expected
        assert image_set.class_names == tuple((classes or text).split(","))

    def test_numbers_in_test_among_names_in_train(self, flat: Path) -> None:
        (flat / "train.csv").write_text("image,target\ntrain/1.png,1.0\ntrain/0.png,1.5\n")
        (flat / "test.csv").write_text("image,target\ntest/3.png,1.0\n")
        test = load_split(flat, "test")
        assert (test.class_names, test.labels.tolist()) == (("1.0", "1.5"), [0])
        assert load_split(flat, "test", classes="owl,cat").labels.tolist() == [1], "words for numbers"


def test_a_folder_with_its_classes_in_a_file_of_json(parquet: WriteParquet, tmp_path: Path) -> None:
    folder = parquet(pictures(2))
    (tmp_path / "names.json").write_text(json.dumps(["x", "b", "a"]))
    image_set = load_split(folder, classes=tmp_path / "names.json")
    assert image_set.labels.tolist() == [2, 1]
    assert image_set.notes == ("no image of 1 of the 3 classes: x",)
    assert np.unique(image_set.labels).tolist() == [1, 2]


def test_digits_in_another_order() -> None:
    plain = load_split("digits", "test")
    other = load_split("digits", "test", classes="9,8,7,6,5,4,3,2,1,0")
    assert (other.labels == 9 - plain.labels).all()
    with pytest.raises(ClatError, match="'9'"):
        load_split("digits", classes="0,1,2,3,4,5,6,7,8")
