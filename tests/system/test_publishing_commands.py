"""`clat export`, `clat apply`, `clat push`; loggers and pieces of one's own as commands; what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clat as package


@pytest.fixture
def network(trained: Path) -> list[object]:
    return ["--model", "own_network:Net", "--weights", trained / "weights" / "last.safetensors", "--data", "digits"]


def test_a_folder_for_the_hub(clat: Any, network: Any, trained: Path, workplace: Path, tmp_path: Path) -> None:
    folder, result = tmp_path / "net", trained / "evaluations" / "last.json"
    done = clat("export", *network, "--result", result, "--title", "Digits", "--out", folder)
    assert done.code == 0
    assert f"clat push {folder} OWNER/NAME" in done.out
    card = (folder / "README.md").read_text()
    assert "# Digits" in card
    assert "digits/test, 20 images" in card
    own = package.load_model("own_network:Net", num_classes=10)
    weights = package.from_pretrained(folder, model=own).state_dict()
    expected = load_file(trained / "weights" / "last.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    (tmp_path / "card.md").write_text("# Mine\n")
    assert clat("export", *network, "--card", tmp_path / "card.md", "--out", tmp_path / "other").code == 0
    assert (tmp_path / "other" / "README.md").read_text() == "# Mine\n"


def test_a_network_of_a_recipe(clat: Any, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "net"
    words = ["--weights", trained / "weights" / "best.safetensors", "--data", "digits", "--out", out]
    assert clat("export", "--model", trained / "recipe.toml", *words).code == 0
    assert json.loads((out / "config.json").read_text())["clat"]["network"] == {"name": "own_network:Net"}


def test_other_formats(clat: Any, network: Any, tmp_path: Path) -> None:
    done = clat("export", *network, "--out", tmp_path / "net.pt2")
    assert done.code == 0
    assert "for images 3 x 8 x 8: logits of 16 images agree within" in done.out
    assert (tmp_path / "net.pt2").is_file()


def test_a_delta_and_back(clat: Any, network: Any, trained: Path, tmp_path: Path) -> None:
    base, tuned = (trained / "weights" / f"{name}.safetensors" for name in ("stage-1", "last"))
    delta, again = tmp_path / "delta.safetensors", tmp_path / "again.safetensors"
    done = clat("export", *network, "--base", base, "--out", delta)
    assert done.code == 0
    assert "in 2 tensors" in done.out, "the weight and bias of a layer"
    (line,) = (one for one in done.out.splitlines() if one.startswith("clat apply"))
    printed = [word if word != "tuned.safetensors" else str(tmp_path / "p.safetensors") for word in line.split()]
    assert "--data=digits" in printed
    assert clat(*printed[1:]).code == 0
    words = ["--model", "own_network:Net", "--data", "digits", "--weights"]
    assert clat("apply", delta, *words, base, "--out", again).code == 0
    one, two = load_file(tuned), load_file(again)
    assert all(torch.equal(two[name], value) for name, value in one.items())
    refused = clat("apply", delta, *words, tuned, "--out", tmp_path / "new.safetensors")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "it is applied already" in refused.err
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--out net --card odd.md", "--card odd.md: no UTF-8 text"),
        ("--out net.pb", "expected a folder, or a name in .onnx, .pt2, .safetensors or .json"),
        ("--out net.safetensors", "a delta has a base and a name in .safetensors"),
        ("--out net.onnx --title A", "are for a folder's model card"),
        ("--out net --base base.pt", "a delta has a base and a name in .safetensors"),
        ("--out net --entry name=A", "--entry belongs to RobustBench's entry"),
        (
            "--out net --additional-data",
            "--additional-data belongs to RobustBench's entry: name the output ID.json",
        ),
        ("--out d.safetensors --base b.pt --additional-data", "--additional-data belongs to RobustBench's entry"),
        ("--out a.json", "made of one result: --result FILE"),
        ("--out a.json --result RESULT --entry nmae=A", "--entry nmae=A: expected KEY=VALUE, of name, authors"),
        ("--out a.json --result RESULT --entry name=A", "lacks authors, architecture: --entry authors=..."),
        ("--out a.json --result RESULT --entry name=A authors=B architecture=C", "lists the full AutoAttack alone"),
        ("--out net --result absent.json", "cannot read absent.json"),
        ("--out net --card absent.md", "absent.md: No such file"),
        ("--out net.pt2 --model resnet18 --weights absent.pt", "no such file"),
    ],
)
def test_what_export_refuses(refused: Any, network: Any, trained: Path, words: str, says: str) -> None:
    result = str(trained / "evaluations" / "last.json")
    Path("odd.md").write_bytes(b"\xff\xfe# odd")
    assert says in refused("export", *network, *words.replace("RESULT", result).split())


def test_what_is_there_is_not_overwritten(refused: Any, network: Any, tmp_path: Path) -> None:
    for name in ("net", "net.onnx", "d.safetensors", "a.json"):
        (tmp_path / name).mkdir()
        base = ["--base", network[3]] if name.startswith("d.") else []
        entry = ["--result", "x", "--entry", "name=A", "authors=B", "architecture=C"] if name == "a.json" else []
        assert "exists already" in refused("export", *network, *base, *entry, "--out", tmp_path / name)


def test_a_hub_that_cannot_be_reached(
    refused: Any, clat: Any, network: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import huggingface_hub

    def unreachable(*args: Any, **settings: Any) -> None:
        raise ConnectionError("no route to host")

    assert clat("export", *network, "--out", tmp_path / "net").code == 0
    monkeypatch.setattr(huggingface_hub.HfApi, "file_exists", unreachable)
    assert "cannot reach the Hugging Face hub for me/net" in refused("push", tmp_path / "net", "me/net")
    assert "expected owner/name" in refused("push", tmp_path / "net", "net")
    assert "is no folder" in refused("push", tmp_path / "absent", "me/net")
    assert "invalid choice: 'new'" in refused("push", tmp_path / "net", "me/net", "--card", "new")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train tiny.toml --out new --logger wadnb", "unknown logger 'wadnb'; did you mean 'wandb'"),
        ("train tiny.toml --out new --logger own_network:Absent", "no attribute 'Absent'"),
        ("train --resume new --logger csv", "give nothing beside it"),
        (
            "train tiny.toml --out new --data.name absent_module:read",
            "no module absent_module in the current folder",
        ),
        ("train tiny.toml --out new --data.name own_network:Net", "'own_network:Net' failed on 'train', TypeError"),
        (
            "train tiny.toml --out new --stages.0.objective.name own_network:Net",
            "expected a class that inherits from",
        ),
        (
            "train tiny.toml --out new --stages.clat.selection.ranking own_network:Net",
            "the class Net, expected a class",
        ),
        (
            "train tiny.toml --out new --evaluation.protocol own_network:Net",
            "is a class, expected a clat.evaluation",
        ),
        ("evaluate --model resnet18 --protocol absent_module:P", "no module absent_module in the current folder"),
        ("evaluate --model resnet18 --data absent_module:read", "where absent_module.py lies, or set PYTHONPATH"),
        ("criticality --model resnet18 --ranking own_network:Absent", "no attribute 'Absent'"),
    ],
)
def test_plugins_that_are_not_there_or_not_of_their_kind(refused: Any, words: str, says: str) -> None:
    assert says in refused(*words.split())
    assert not Path("new").exists()


def test_the_images_that_a_network_is_for_are_named(refused: Any, network: Any, tmp_path: Path) -> None:
    without = [word for word in network if word not in ("--data", "digits")]
    for name in ("net", "net.onnx", "net.pt2"):
        assert "name the images that the network is for: --data D" in refused(
            "export", *without, "--out", tmp_path / name
        )


def test_a_result_of_other_weights_is_refused(refused: Any, network: Any, trained: Path, tmp_path: Path) -> None:
    other = trained / "evaluations" / "stage-1.json"
    assert "is a result of other weights than these" in refused(
        "export", *network, "--result", other, "--out", tmp_path / "net"
    )
    assert not (tmp_path / "net").exists()
