"""Folders of images: every file is read once, in its own split, with the class of its first folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from clat.core.errors import ClatError
from clat.data import load_split
from clat.data.classes import class_order

from .conftest import classes_found, encoded, picture, write_images


def refused(folder: Path | str, split: str = "train", **options: object) -> str:
    """The one line that reading is refused with."""
    with pytest.raises(ClatError) as caught:
        load_split(folder, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WORDS = ("train", "bullet_train", "training", "test_tube", "crash test dummy", "eval", "val", "dev", "validation")


def test_a_split_is_not_taken_for_the_data_set(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")
    pets = tmp_path / "pets"
    said = refused(pets / "train", "test")
    assert f"is the train split of '{pets}', and has no 'test': give --data {pets}, or --split train" in said
    assert "move some images" not in said


@pytest.mark.parametrize(
    "splits", [("train", "test"), ("Train", "VALID"), ("training", "testing"), ("train", "val")]
)
def test_the_folders_at_the_top_decide_the_split_and_nothing_below_them(
    tmp_path: Path, splits: tuple[str, str]
) -> None:
    """CIFAR-100 has a class 'train', ImageNet a 'bullet train'."""
    names = [
        f"{split}/{word}/{kind}_{k}.png" for split in splits for word in WORDS for k, kind in enumerate(splits)
    ]
    pixels = write_images(tmp_path, *names)
    for asked, split in zip(("train", "test"), splits, strict=True):
        found = classes_found(load_split(tmp_path, asked), pixels)
        assert found == {name: name.split("/")[1] for name in names if name.startswith(f"{split}/")}


@pytest.mark.parametrize("word", ["train_1", "test", "validation-3", "my eval"])
def test_words_in_file_names_decide_nothing(tmp_path: Path, word: str) -> None:
    names = [f"{animal}/{name}.png" for animal in ("cat", "dog") for name in ("a", "b", "c", word)]
    pixels = write_images(tmp_path, *names)
    assert classes_found(load_split(tmp_path), pixels) == {name: name.split("/")[0] for name in names}


def test_a_class_called_like_a_split_beside_others(tmp_path: Path) -> None:
    names = [f"{vehicle}/{k}.png" for vehicle in ("bus", "train", "tram") for k in range(2)]
    pixels = write_images(tmp_path, *names)
    assert classes_found(load_split(tmp_path), pixels) == {name: name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    "names",
    [
        ("bus/day/1.png", "train/day/1.png", "tram/day/1.png"),
        ("train/1.png", "test/1.png", "tram/1.png"),
        ("train/cat/1.png", "test/cat/1.png", "samples/1.png"),
        ("train/cat/1.png", "test/2.png", "dog/1.png"),
    ],
)
def test_what_may_be_split_or_class_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_images(tmp_path, *names)
    said = refused(tmp_path)
    assert "split" in said
    assert "train" in said


@pytest.mark.parametrize(
    "names", [("training_set", "test_set"), ("seg_train", "seg_test"), ("train2017", "val2017")]
)
def test_splits_by_a_part_of_their_names_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    pixels = write_images(tmp_path, *(f"{name}/{animal}/1.png" for name in names for animal in ("cat", "dog")))
    said = refused(tmp_path)
    assert f"are {', '.join(sorted(names))} splits? Rename them train, test or validation" in said
    found = classes_found(load_split(tmp_path, "train", classes=list(names)), pixels)
    assert set(found.values()) == set(names)


@pytest.mark.parametrize("further", ["test_ood", "train_small", "val_v2", "train_unlabeled"])
def test_a_further_split_whose_name_has_the_word_of_another(tmp_path: Path, further: str) -> None:
    write_images(
        tmp_path, *(f"{split}/{pet}/1.png" for split in ("train", "val", further) for pet in ("cat", "dog"))
    )
    assert len(load_split(tmp_path, further)) == 2


def test_classes_of_which_some_have_the_word_of_a_split(tmp_path: Path) -> None:
    names = [f"{word}/day/1.png" for word in ("test_tube", "train_station", "mug", "cup")]
    pixels = write_images(tmp_path, *names)
    assert classes_found(load_split(tmp_path), pixels) == {name: name.split("/")[0] for name in names}


def test_a_further_split_beside_train_and_test(tmp_path: Path) -> None:
    pixels = write_images(tmp_path, "train/cat/1.png", "test/cat/2.png", "extra/cat/3.png")
    for split in ("train", "test", "extra"):
        assert [name.split("/")[0] for name in classes_found(load_split(tmp_path, split), pixels)] == [split]
    assert refused(tmp_path, "other").endswith("it has: extra, test, train")


def test_two_folders_for_one_split_are_refused_or_said(tmp_path: Path) -> None:
    write_images(tmp_path, "training/cat/1.png", "Train/cat/2.png", "val/cat/3.png", "validation/cat/4.png")
    assert "val, validation" in refused(tmp_path, "test")
    assert len(load_split(tmp_path, "val")) == 1
    for asked in ("Train", "train"):
        assert load_split(tmp_path, asked).notes == ("split 'Train' is read, beside it there is training",)
    write_images(tmp_path, "TRAIN/cat/5.png")
    assert "TRAIN, Train" in refused(tmp_path, "train")


def test_val_and_test_are_two_splits(tmp_path: Path) -> None:
    pixels = write_images(tmp_path, "train/cat/1.png", "val/cat/2.png", "test/cat/3.png")
    assert list(classes_found(load_split(tmp_path, "test"), pixels)) == ["test/cat/3.png"]
    for name in ("val", "validation", "valid"):
        assert list(classes_found(load_split(tmp_path, name), pixels)) == ["val/cat/2.png"]


def test_a_validation_folder_that_stands_in_for_test_is_said(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "val/cat/2.png")
    image_set = load_split(tmp_path, "test")
    assert image_set.notes == ("split 'val' stands in for 'test'",)
    assert load_split(tmp_path, "test").notes == image_set.notes, "from the decoded copy too"
    assert load_split(tmp_path, "val").notes == ()


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    names = ("cat/monday/1.png", "cat/2.png", "dog/monday/1.png", "dog/tuesday/train/x/1.png", "dog/test.png")
    pixels = write_images(tmp_path, *(f"train/{name}" for name in names), *(f"test/{name}" for name in names))
    for split in ("train", "test"):
        found = classes_found(load_split(tmp_path, split), pixels)
        assert found == {f"{split}/{name}": name.split("/")[0] for name in names}
        assert load_split(tmp_path, split).class_names == ("cat", "dog")


def test_an_image_beside_the_class_folders_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a/cat/1.png", "a/dog/1.png", "a/stray.png", "b/train/cat/1.png", "b/train/stray.png")
    for folder in ("a", "b"):
        said = refused(tmp_path / folder)
        assert "stray.png" in said
        assert "class folder" in said
    write_images(tmp_path / "flat", "1.png", "2.png")
    assert "no class folders" in refused(tmp_path / "flat")


@pytest.mark.parametrize(
    "name",
    [
        "run[1]",
        "pets*",
        "[old] pets",
        "x::y",
        "what?",
        "a..b",
        "été 図",
        "{a,b}",
        "~x",
        "csv",
        "parquet",
        "a\\b",
        "file:x",
        "s3:__x",
    ],
)
@pytest.mark.parametrize("kind", ["images", "table"])
def test_paths_are_taken_literally(
    tmp_path: Path, name: str, kind: str, parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = write_images(tmp_path, f"{name}/train/cat/1.png")
    for other in ("run1", "pets1", "old", "petsx", "whats", "a", "b"):
        write_images(tmp_path, f"{other}/train/dog/2.png", f"{other}/train/dog/3.png")
    if kind == "table":
        (tmp_path / name / "train/cat/1.png").unlink()
        made = parquet([encoded(pixels[f"{name}/train/cat/1.png"])], split="train", folder="made")
        (made / "train-00000-of-00001.parquet").rename(tmp_path / name / "train.parquet")
    image_set = load_split(str(tmp_path / name), "train")
    assert list(classes_found(image_set, {f"{name}/train/cat/1.png": picture(0, 5, 4)})) == [
        f"{name}/train/cat/1.png"
    ]
    assert image_set.name == name
    if not name.startswith("~"):
        assert len(load_split(name, "train")) == 1, "from the working directory"


def test_a_literal_name_under_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path))
    write_images(tmp_path, "[old] pets/cat/1.png", "o pets/cat/1.png", "o pets/cat/2.png")
    assert len(load_split("[old] pets")) == 1


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-this-name/x", "a\nb", "../none", "//", "hf://x"])
def test_names_that_are_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClatError):
        load_split(name)


@pytest.mark.parametrize("name", ["a[1].png", "b*.png", "x::y.png", "été 図.PNG", "c?.JPEG", " d .Jpg", "e..png"])
def test_file_names_are_taken_literally(tmp_path: Path, name: str) -> None:
    pixels = write_images(tmp_path, f"cat/{name}", "cat/a1.png", f"dog [x]/{name}")
    assert classes_found(load_split(tmp_path), pixels) == {path: path.split("/")[0] for path in pixels}


def test_numbered_classes_stand_in_numeric_order(tmp_path: Path) -> None:
    """Text order, 0, 1, 10, 11, 2, would give a right network 8 % on 24 folders."""
    names = [f"{split}/{k}/x.png" for split in ("train", "test") for k in range(24)]
    pixels = write_images(tmp_path, *names)
    for split in ("train", "test"):
        image_set = load_split(tmp_path, split)
        assert image_set.class_names == tuple(map(str, range(24)))
        assert image_set.labels.tolist() == list(range(24))
        assert classes_found(image_set, pixels) == {n: n.split("/")[1] for n in names if n.startswith(split)}
        assert "numeric order" in " ".join(image_set.notes)
    padded = tmp_path / "padded"
    write_images(padded, *(f"{k:02}/x.png" for k in range(12)))
    assert load_split(padded).notes == ()


@pytest.mark.parametrize("missing", ["absent", "empty", "only .DS_Store"])
def test_a_missing_class_keeps_its_number(tmp_path: Path, missing: str) -> None:
    write_images(tmp_path, *(f"train/{name}/1.png" for name in "abcd"), *(f"test/{name}/2.png" for name in "acd"))
    if missing != "absent":
        (tmp_path / "test/b").mkdir()
    if missing == "only .DS_Store":
        (tmp_path / "test/b/.DS_Store").write_bytes(b"x")
    image_set = load_split(tmp_path, "test")
    assert image_set.class_names == ("a", "b", "c", "d")
    assert image_set.labels.tolist() == [0, 2, 3]
    assert any("no image" in note and "b" in note for note in image_set.notes)


def test_a_class_that_train_has_not_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/Cat/1.png")
    said = refused(tmp_path, "test")
    assert "'Cat'" in said
    assert "did you mean 'cat'" in said
    assert len(load_split(tmp_path, "train")) == 2


class TestGivenClasses:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_images(tmp_path / "pets", "cat/1.png", "eel/1.png")
        return tmp_path / "pets"

    @pytest.mark.parametrize("kind", ["names", "text", "lines", "json", "folder"])
    def test_in_every_form(self, folder: Path, tmp_path: Path, kind: str) -> None:
        file = tmp_path / "classes"
        names = ["bee", "eel", "dog", "cat"]
        given: object = names
        if kind == "text":
            given = "bee,eel, dog,cat"
        elif kind == "lines":
            file.write_text("bee\neel\n\ndog\r\ncat")
            given = file
        elif kind == "json":
            file.write_text('["bee", "eel", "dog", "cat"]')
            given = str(file)
        elif kind == "folder":
            names.sort()
            write_images(tmp_path / "train", *(f"{name}/1.png" for name in names))
            given = tmp_path / "train"
        image_set = load_split(folder, classes=given)
        assert image_set.class_names == tuple(names)
        assert image_set.labels.tolist() == [names.index("cat"), names.index("eel")]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("cat,dog", "'eel'"),
            ("cat", "neither a file, nor a folder"),
            ("", "empty"),
            (["cat", "eel", "cat"], "'cat' twice"),
            ([], "empty"),
            ("cat,,eel", "empty"),
        ],
    )
    def test_refused(self, folder: Path, given: object, says: str) -> None:
        assert says in refused(folder, classes=given)

    @pytest.mark.parametrize(
        ("text", "says"), [(b"\xff\xfe", "not text"), (b"[1, 2]", "JSON"), (b"[", "JSON"), (b"", "empty")]
    )
    def test_refused_files(self, folder: Path, tmp_path: Path, text: bytes, says: str) -> None:
        (tmp_path / "file").write_bytes(text)
        assert says in refused(folder, classes=tmp_path / "file")

    def test_another_list_is_another_copy(self, folder: Path) -> None:
        assert load_split(folder).labels.tolist() == [0, 1]
        assert load_split(folder, classes="eel,cat").class_names == ("eel", "cat")
        assert load_split(folder).class_names == ("cat", "eel")


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    pixels = write_images(tmp_path, "cat/1.png", "dog/1.png")
    for junk in (
        ".DS_Store", "cat/.DS_Store", "cat/._1.png", "cat/Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._1.png",
        "dog/.ipynb_checkpoints/1.png", ".git/x.png", "cat/@eaDir/1.png",
    ):  # fmt: skip
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    assert sorted(classes_found(load_split(tmp_path), pixels)) == ["cat/1.png", "dog/1.png"]


def test_other_files_are_left_out_and_said(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.JPEG", "dog/1.tiff")
    (tmp_path / "cat/notes.txt").write_text("x")
    (tmp_path / "cat/film.mp4").write_text("x")
    image_set = load_split(tmp_path)
    assert len(image_set) == 2
    assert image_set.notes == ("2 files that are no images left out (.mp4, .txt)",)


def test_a_folder_of_other_things_among_the_classes_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.xml").write_text("x")
    assert "'labels'" in refused(tmp_path)
    assert load_split(tmp_path, classes="cat,dog").class_names == ("cat", "dog")


def test_a_folder_around_the_whole_is_refused(tmp_path: Path) -> None:
    """As unpacking an archive leaves it: its one folder would be the one class."""
    write_images(tmp_path, "pets/train/cat/1.png", "pets/train/dog/1.png", "pets/test/cat/1.png")
    assert "give that folder as the data set" in refused(tmp_path)
    assert len(load_split(tmp_path / "pets")) == 2
    write_images(tmp_path / "b", "train/images/cat/1.png", "train/images/dog/2.png")
    assert "train/images" in refused(tmp_path / "b")


VARIANTS = (
    ("",),
    ("train/", "test/"),
    ("Train/", "VAL/"),
    ("training/", "testing/", "valid/"),
    ("train/", "dev/", "eval/"),
)
CLASSES = (
    "cat",
    "dog",
    "[x]",
    "*",
    "?",
    "x::y",
    "0",
    "1",
    "10",
    "2",
    "test-tube",
    "-rf",
    "~",
    "$HOME",
    "%s",
    "{0}",
)
SPLIT_WORDS = ("train", "test", "val", "eval", "a..b", "é")
INSIDE = ("", "", "", "monday/", "train/", "test/x/", "[1]/")


@pytest.mark.parametrize("seed", range(40))
def test_in_any_tree_every_file_is_read_once_in_its_own_split(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    splits = draw.choice(VARIANTS)
    classes = (
        draw.sample(CLASSES, draw.randint(2, 6)) if splits[0] else draw.sample(CLASSES[4:], draw.randint(2, 6))
    )
    names = {
        f"{split}{name}/{draw.choice(INSIDE)}{draw.choice(('train', 'a[1]', 'x*', 'test_2', 'é', '~b'))}{k}.{kind}"
        for split in splits
        for name in classes
        for k, kind in enumerate(draw.choices(("png", "JPEG", "Jpg", "webp"), k=draw.randint(1, 3)))
    }
    pixels = write_images(tmp_path, *sorted(names))
    order = class_order(classes)
    read: dict[str, str] = {}
    for split in splits:
        image_set = load_split(tmp_path, split.rstrip("/") or "train", cache=False)
        assert image_set.class_names == order
        found = classes_found(image_set, pixels)
        assert all(name.startswith(split) for name in found)
        assert not found.keys() & read.keys()
        read |= found
    assert read == {name: name.split("/")[1 if splits[0] else 0] for name in names}


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "dog/2.png").touch()
    said = refused(tmp_path)
    assert "dog/2.png" in said
    assert "not an image file" in said


def test_links(tmp_path: Path) -> None:
    """Linked files and folders are read; circles, pipes and what leads nowhere are not waited for."""
    pixels = write_images(tmp_path, "store/cat/1.png", "store/cat/2.png", "pets/train/dog/3.png")
    pets = tmp_path / "pets"
    (pets / "train/cat").symlink_to(tmp_path / "store/cat")
    (pets / "train/dog/4.png").symlink_to(tmp_path / "store/cat/1.png")
    (pets / "train/dog/up").symlink_to(pets)
    (pets / "train/dog/again").symlink_to(".")
    os.mkfifo(pets / "train/dog/pipe.png")
    image_set = load_split(pets)
    assert image_set.class_names == ("cat", "dog")
    assert image_set.labels.tolist() == [0, 0, 1, 1]
    assert (image_set.images[2].permute(1, 2, 0).numpy() == pixels["pets/train/dog/3.png"]).all()
    (pets / "train/dog/5.png").symlink_to(tmp_path / "nowhere.png")
    assert "5.png" in refused(pets)


def test_names_that_differ_in_case_only_are_two_classes(tmp_path: Path) -> None:
    """Letters have such names."""
    pixels = write_images(tmp_path, "A/1.png", "a/1.png", "B/1.png")
    assert load_split(tmp_path).class_names == ("A", "B", "a")
    assert len(classes_found(load_split(tmp_path), pixels)) == 3


def test_one_name_in_two_spellings_of_unicode(tmp_path: Path) -> None:
    """A Mac writes é as e and an accent; the name is the same."""
    pixels = write_images(tmp_path, "train/caf\u00e9/1.png", "train/the/1.png", "test/cafe\u0301/1.png")
    image_set = load_split(tmp_path, "test")
    assert image_set.class_names == ("caf\u00e9", "the")
    assert classes_found(image_set, pixels) == {"test/cafe\u0301/1.png": "caf\u00e9"}
    write_images(tmp_path, "train/cafe\u0301/1.png")
    assert "two folders" in refused(tmp_path, "train")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/cat\xff"
    os.mkdir(folder)
    with open(folder + b"/a\xfe.png", "wb") as file:
        file.write(encoded(picture(0)))
    image_set = load_split(tmp_path)
    assert len(image_set) == 1
    image_set.class_names[0].encode()


def test_an_empty_or_unreadable_split(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png")
    (tmp_path / "test").mkdir()
    assert "is empty" in refused(tmp_path, "test")
    (tmp_path / "test/cat").mkdir()
    assert "is empty" in refused(tmp_path, "test")


def test_a_class_with_one_image(tmp_path: Path) -> None:
    pixels = write_images(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png")
    assert load_split(tmp_path).labels.tolist() == [0, 1, 1]
    assert len(classes_found(load_split(tmp_path), pixels)) == 3


def test_archives_are_not_unpacked(tmp_path: Path) -> None:
    """A bomb would fill the disk."""
    (tmp_path / "train.zip").write_bytes(b"PK\x03\x04")
    assert "unpack" in refused(tmp_path)


def test_a_listed_split_is_numbered_as_the_train_folders_are(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"train/{name}/{k}.png" for name in ("ant", "cat", "dog") for k in range(2)))
    write_images(tmp_path, "test/0.png", "test/1.png")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    test = load_split(tmp_path, "test")
    assert test.class_names == ("ant", "cat", "dog")
    assert test.labels.tolist() == [1, 2]


def test_a_list_of_numbers_beside_folders_with_names_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"train/{name}/{k}.png" for name in ("ant", "cat", "dog") for k in range(2)))
    write_images(tmp_path, "test/0.png", "test/1.png")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n0.png,1\n1.png,2\n")
    assert "are numbers, and the train split has classes with names (ant, cat, dog, ...)" in refused(
        tmp_path, "test"
    )
    listed = load_split(tmp_path, "test", classes=["dog", "ant", "cat"])
    assert listed.labels.tolist() == [1, 2]
    assert load_split(tmp_path, "train", classes=["dog", "ant", "cat"]).labels.tolist() == [1, 1, 2, 2, 0, 0]


def test_a_list_of_numbers_beside_folders_with_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"train/{name}/{k}.png" for name in ("1", "2", "10") for k in range(2)))
    write_images(tmp_path, "test/0.png", "test/1.png")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n0.png,10\n1.png,1\n")
    assert load_split(tmp_path, "test").labels.tolist() == [2, 0]


def test_lists_take_names_without_the_spaces_around_them_and_paths_however_they_are_written(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{k}.png" for k in range(4)))
    absolute = tmp_path / "3.png"
    rows = ["0.png,cat", "1.png, cat", "./1.png,dog ", "2.png,dog", f"{absolute},dog"]
    (tmp_path / "train.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")
    train = load_split(tmp_path, "train")
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert "1 file is listed twice or more in train.csv" in train.notes
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "metadata.csv").write_text(f"file_name,label\n{absolute},a\n{absolute},b\n")
    assert len(load_split(tmp_path / "set", "train")) == 2
