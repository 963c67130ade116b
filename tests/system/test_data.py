"""The user's own images on every command: columns, classes, stand-in splits, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from helpers.libraries import need

MODEL = ("--model", "own_network:Net", "--num-samples", 4, "--device", "cpu")
COMMANDS = {
    "evaluate": ("--protocol", "fgsm", "--split", "train"),
    "check": ("--split", "train"),
    "curve": ("--protocol", "fgsm", "--eps", "0,0.1", "--split", "train"),
    "criticality": ("--steps", 2),
}


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in train, one of them in val."""
    folder = tmp_path_factory.mktemp("data") / "pets"
    for k in range(12):
        write(folder / f"train/{('cat', 'dog')[k % 2]}/{k}.png", k)
        write(folder / f"val/dog/{k}.png", 100 + k)
    return folder


@pytest.fixture(scope="module")
def table(pets: Path) -> Path:
    """Columns of unusual names, and labels that leave numbers out."""
    folder = pets.parent / "table"
    folder.mkdir()
    for split, step in (("train", 1), ("test", 1)):
        files = [path.read_bytes() for path in sorted((pets / "train").rglob("*.png"))[::step]]
        kinds = [10 * (k % 3) for k in range(len(files))]
        pq.write_table(pa.table({"photo": files, "kind": kinds}), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_columns_and_classes_on_every_command(clat, refused, table, command):
    words = (command, *MODEL, *COMMANDS[command], "--data", table)
    assert "no image column" in refused(*words)
    assert "no label column" in refused(*words, "--image-column", "photo")
    named = (*words, "--image-column", "photo", "--label-column", "kind")
    assert "unknown class" in refused(*named, "--classes", "0,10,30")
    torch.manual_seed(0)  # what draws the network's weights: a check refuses one that is right on no image
    done = clat(*named, "--classes", "0,10,20")
    assert done.code == 0, done.err


def test_the_networks_of_transfer(clat, table):
    words = ("transfer", "--data", table, "--split", "test", "--image-column", "photo", "--label-column", "kind")
    words += ("--classes", "0,10,20", "--num-samples", 4, "--attack", "fgsm", "--device", "cpu")
    done = clat(*words, "--network", "a", "own_network:Net", "--network", "b", "own_network:Net", "width=5")
    assert done.code == 0, done.err


def test_the_order_of_the_classes_is_said_and_written(clat, pets, tmp_path):
    out = tmp_path / "result.json"
    done = clat("evaluate", *MODEL, "--protocol", "fgsm", "--data", pets, "--split", "train", "--out", out)
    assert "note: the network's outputs are taken for: 0 cat, 1 dog" in done.out
    result = json.loads(out.read_text())
    assert any("0 cat, 1 dog" in note for note in result["notes"])


def test_a_network_that_names_its_outputs_in_another_order(clat, pets, tmp_path):
    transformers = need("transformers")
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**sizes, num_labels=2, id2label={0: "dog", 1: "cat"})
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    words = ("--data", pets, "--split", "train", "--eps", "0.1")
    evaluation = ("evaluate", "--model", f"hf:{tmp_path / 'net'}", *words, "--protocol", "fgsm")
    done = clat(*evaluation)
    assert done.code != 0
    assert "outputs are 0 dog, 1 cat by its configuration, the data's classes 0 cat, 1 dog" in done.err
    assert "--classes dog,cat" in done.err
    for classes in ("dog,cat", "cat,dog"):
        assert clat(*evaluation, "--classes", classes).code == 0, "whoever says the order is believed"
    transfer = ("transfer", *words, "--attack", "fgsm")
    transfer += tuple(word for name in "ab" for word in ("--network", name, f"hf:{tmp_path / 'net'}"))
    assert "--classes dog,cat" in clat(*transfer).err
    assert clat(*transfer, "--classes", "dog,cat").code == 0


def test_validation_that_stands_in_is_said_and_written(clat, pets, tmp_path):
    out = tmp_path / "result.json"
    done = clat("evaluate", *MODEL, "--protocol", "fgsm", "--data", pets, "--out", out)
    assert done.out.count("split 'val' stands in for 'test'") == 1
    assert "split 'val' stands in for 'test'" in json.loads(out.read_text())["notes"]
    assert "no image of 1 of the 2 classes: cat" in json.loads(out.read_text())["notes"]
    for command in ("check", "curve"):
        done = clat(command, *MODEL, *COMMANDS[command][:-2], "--data", pets)
        assert done.out.count("note: split 'val' stands in for 'test'") == 1


def test_more_outputs_than_classes_are_refused(refused, clat, pets, workplace, tmp_path):
    (workplace / "five.py").write_text("from own_network import Net\ndef net(): return Net(num_classes=5)\n")
    words = ("evaluate", "--model", "five:net", *MODEL[2:], "--protocol", "fgsm", "--data", pets)
    said = refused(*words)
    assert "the model has 5 outputs, the data 2 classes (0 cat, 1 dog)" in said
    assert "--classes" in said
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    assert clat(*words, "--classes", tmp_path / "classes.txt").code == 0


def test_a_missing_class_does_not_renumber_the_others(clat, pets, workplace, tmp_path):
    """A network that says 'dog', output 1, whatever it sees, is right on every dog."""
    (workplace / "dog.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Dog(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(1, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(x.mean((1, 2, 3))[:, None]) * 0 + 5 * torch.eye(2)[1]\n"
    )
    out = tmp_path / "result.json"
    words = (
        "evaluate",
        "--model",
        "dog:Dog",
        "--protocol",
        "fgsm",
        "--data",
        pets,
        "--device",
        "cpu",
        "--out",
        out,
    )
    assert clat(*words).code == 0
    assert json.loads(out.read_text())["clean_accuracy"]["value"] == 1


class TestTraining:
    @pytest.fixture
    def words(self, workplace: Path, tmp_path: Path) -> tuple[object, ...]:
        text = (workplace / "tiny.toml").read_text().replace("train_size = 128\nheldout = 32", "heldout = 4")
        (tmp_path / "own.toml").write_text(text.replace("num_samples = 16, steps", "num_samples = 4, steps"))
        few = ("--stages.pgd-at.epochs", 1, "--stages.clat.epochs", 1, "--batch_size", 4)
        return ("train", tmp_path / "own.toml", *few, "--evaluation.num_samples", 4, "--out", tmp_path / "run")

    def test_columns_and_classes(self, clat, refused, table, words, tmp_path):
        words = (*words, "--data.name", table)
        assert "no image column" in refused(*words)
        words = (*words, "--data.image_column", "photo", "--data.label_column", "kind")
        done = clat(*words, "--data.classes", "0,10,20")
        assert done.code == 0, done.err
        again = (tmp_path / "run/recipe.toml").read_text()
        assert 'image_column = "photo"' in again
        assert json.loads((tmp_path / "run/run.json").read_text())["data"]["classes"] == ["0", "10", "20"]

    def test_the_order_of_a_run_s_classes_is_asked_for(self, clat, refused, pets, words, tmp_path):
        done = clat(*words, "--data.name", pets, "--data.classes", "dog,cat")
        assert done.code == 0, done.err
        run = tmp_path / "run"
        network = ("--model", run / "recipe.toml", "--weights", run / "weights" / "last.safetensors")
        words = ("evaluate", *network, "--data", pets, "--split", "train", "--protocol", "fgsm", "--eps", "0.1")
        said = refused(*words)
        assert "its outputs are 0 dog, 1 cat, the data's classes 0 cat, 1 dog: say" in said
        assert "--classes dog,cat" in said
        assert clat(*words, "--classes", "dog,cat").code == 0

    def test_a_stand_in_for_test_is_said_wherever_it_counts(self, clat, pets, words, tmp_path):
        done = clat(*words, "--data.name", pets)
        assert done.code == 0, done.err
        said = "split 'val' stands in for 'test'"
        assert done.out.count(said) == 1
        run = tmp_path / "run"
        assert any(said in note for note in json.loads((run / "run.json").read_text())["notes"])
        assert said in json.loads((run / "evaluations/best.json").read_text())["notes"]
        assert said in (run / "report.html").read_text().replace("&#39;", "'")

    def test_how_many_to_hold_out_is_named(self, refused, pets, words):
        said = refused(*words, "--data.name", pets, "--data.heldout", 12)
        assert "data.heldout" in said
        assert "cannot hold out 12 of the 12 images" in said
        said = refused(*words, "--data.name", pets, "--data.train_size", 50)
        assert "data.train_size" in said
        assert "give 1 to 8" in said


class TestDataCheck:
    def test_what_a_folder_holds(self, clat, pets, tmp_path):
        out = tmp_path / "report.json"
        done = clat("data", "check", pets, "--out", out)
        assert done.code == 0, done.err
        for words in ("train", "val", "cat", "dog", "8x8"):
            assert words in done.out
        report = json.loads(out.read_text())
        assert report["what"] == "data check"
        assert [(one["name"], one["images"]) for one in report["splits"]] == [("train", 12), ("val", 12)]
        assert report["classes"] == [
            {"number": 0, "name": "cat", "images": {"train": 6, "val": 0}},
            {"number": 1, "name": "dog", "images": {"train": 6, "val": 12}},
        ]

    def test_broken_files_are_all_named(self, clat, pets, tmp_path):
        folder = tmp_path / "broken"
        for k in range(3):
            write(folder / f"cat/{k}.png", k)
        (folder / "cat/1.png").write_bytes(b"junk")
        (folder / "cat/2.png").write_bytes(b"")
        done = clat("data", "check", folder)
        assert done.code == 0
        assert "cat/1.png" in done.out
        assert "cat/2.png" in done.out
        assert clat("data", "check", folder, "--strict").code == 1

    def test_bad_input(self, refused, tmp_path):
        assert "not found" in refused("data", "check", tmp_path / "none")
        assert "no images or tables" in refused("data", "check", tmp_path)
        assert "unknown action 'chekc' of clat data; did you mean 'check'?" in refused("data", "chekc", tmp_path)
        assert "come with scikit-learn" in refused("data", "check", "digits")
        assert "FOLDER" in refused("data", "check")
