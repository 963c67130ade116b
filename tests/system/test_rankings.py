"""`clat criticality --ranking` and `--compare` on the digits."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def words(trained):
    return (
        "criticality", "--model", "own_network:Net", "--weights", trained / "weights" / "last.safetensors",
        "--num-samples", 20, "--eps", 0.1,
    )  # fmt: skip


@pytest.fixture
def start(trained):
    return trained / "weights" / "stage-1.safetensors"


@pytest.mark.parametrize("ranking", ["clat", "mrc", "activation", "rewinding", "rewinding-drop"])
def test_one_ranking(clat, words, start, ranking, tmp_path):
    out, plot = tmp_path / "ranking.json", tmp_path / "ranking.svg"
    options = ("--initial", start) if ranking.startswith("rewinding") else ("--steps", 2)
    options += ("--epochs", 2) if ranking == "mrc" else ()
    done = clat(*words, "--ranking", ranking, *options, "--out", out, "--plot", plot)
    assert done.code == 0
    assert "data digits/train, 20 images\n" in done.out
    assert "most critical: " in done.out
    report = json.loads(out.read_text())
    assert report["ranking"] == ("criticality" if ranking == "clat" else ranking)
    layers = ["conv1", "conv2"] + ["head"] * (ranking == "mrc")
    assert [row["name"] for row in report["rows"]] == layers
    assert report["n"] == 20
    about = report["about"]
    assert (about["model"], about["data"]["n"], "clat" in about["environment"]) == ("own_network:Net", 20, True)
    assert about["weights"].endswith("last.safetensors")
    assert len(about["network"]["weights"]) == 16
    assert "<svg" in plot.read_text()


def test_the_options_of_a_ranking_reach_it(clat, words, tmp_path):
    out = tmp_path / "mrc.json"
    options = (
        "--steps",
        2,
        "--epochs",
        2,
        "--radius",
        0.2,
        "--lr",
        0.5,
        "--no-classifier",
        "--alpha",
        "2/225",
        "--exclude",
        "conv1",
    )
    assert clat(*words, "--ranking", "mrc", *options, "--out", out).code == 0
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["conv2"]
    assert report["settings"] == {
        "eps": "0.1", "alpha": 2 / 225, "steps": 2, "norm": "linf",
        "radius": 0.2, "epochs": 2, "lr": 0.5, "batch_size": 512,
    }  # fmt: skip


def test_layers_of_one_sort_against_what_they_read(clat, words, tmp_path):
    out = tmp_path / "c.json"
    options = ("--layers", "convolutions", "--predecessor", "input", "--metric", "curvature")
    done = clat(*words, *options, "--out", out)
    assert done.code == 0
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["conv1", "conv2"]
    assert (report["predecessor"], report["normaliser"]) == ("input", "none")
    for row in report["rows"]:
        assert row["criticality"] == pytest.approx(row["weakness"] / row["input_weakness"])
    assert "what enters the layer" in " ".join(done.out.split())


def test_a_caution_where_the_order_is_no_chain(clat, words, tmp_path):
    digits = ("--num-samples", 4, "--steps", 1, "--eps", 0.1)
    network = ("criticality", "--model", "resnet18", "--width", 2, *digits)
    done = clat(*network)
    said = " ".join(done.out.split())
    assert "caution: 7 of 17 layers, layer1.1.conv1 the first, do not read the layer before them" in said
    assert "in forward order" in said
    assert "caution" not in clat(*network, "--predecessor", "input").out
    assert "caution" not in clat(*network, "--ranking", "activation").out
    assert "caution" in clat(*network, "--compare", "--epochs", 1, "--layers", "convolutions").out
    assert "caution" not in clat(*words).out  # a chain


def test_comparing_them_all(clat, words, start, tmp_path):
    out, plot = tmp_path / "comparison.json", tmp_path / "comparison.png"
    short = ("--steps", 2, "--epochs", 2)
    done = clat(
        *words, *short, "--compare", "--classifier", "--initial", start, "--out", out, "--plot", plot, "--top", 1
    )
    assert done.code == 0
    assert "Rank correlations" in done.out
    assert "mrc, activation" in done.out
    comparison = json.loads(out.read_text())
    assert comparison["rankings"] == ["criticality", "mrc", "activation", "rewinding", "rewinding-drop"]
    assert [layer["name"] for layer in comparison["layers"]] == ["conv1", "conv2", "head"]
    assert comparison["spearman"][1][1] == pytest.approx(1)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_the_weights_of_the_start_rewinding_is_left_out(clat, words, tmp_path):
    out = tmp_path / "comparison.json"
    done = clat(*words, "--steps", 2, "--epochs", 2, "--compare", "--out", out)
    assert done.code == 0
    assert "left out" in done.out
    assert json.loads(out.read_text())["rankings"] == ["criticality", "mrc", "activation"]


def test_bad_input(refused, words, start, trained, tmp_path):
    assert "did you mean 'mrc'?" in refused(*words, "--ranking", "mcr")
    assert "leave --ranking out" in refused(*words, "--ranking", "mrc", "--compare")
    assert "--initial FILE" in refused(*words, "--ranking", "rewinding")
    assert "--initial is for" in refused(*words, "--ranking", "mrc", "--initial", start)
    for words_of_mrc in (("--radius", 0.2), ("--epochs", 2), ("--lr", 2)):
        assert f"{words_of_mrc[0]} is for the ranking mrc, or for --compare; criticality has no such" in refused(
            *words, *words_of_mrc
        )
    assert "--steps is for the rankings" in refused(
        *words, "--ranking", "rewinding", "--initial", start, "--steps", 2
    )
    assert "no such file" in refused(*words, "--compare", "--initial", tmp_path / "gone.pt")
    same = trained / "weights" / "last.safetensors"
    assert "nothing to rewind" in refused(*words, "--ranking", "rewinding", "--initial", same)
    assert "end in .svg or .png" in refused(*words, "--compare", "--plot", tmp_path / "plot.pdf")
    assert "radius" in refused(*words, "--ranking", "mrc", "--radius", "-1")
    assert "did you mean 'mlp'?" in refused(*words, "--layers", "mpl")
    assert "no layer of the group 'attention'" in refused(*words, "--layers", "attention")
    assert "did you mean 'input'?" in refused(*words, "--predecessor", "inputs")
