"""What each command does when all is well: the public contract."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import clat as package
from clat import cli
from clat.cli import parser as parsing
from clat.cli import train as commands
from clat.cli.evaluation_setup import is_guessing
from clat.data.loader import Loader
from clat.evaluation.statistics import Accuracy
from clat.models import build_model
from clat.models.robustbench import TABLES
from clat.recipe.source import override_pairs
from clat.recipe.toml import built_in_recipes, read_recipe


def read(path):
    return json.loads(path.read_text())


def assert_accuracy(accuracy, n):
    assert accuracy["n"] == n
    assert accuracy["confidence"] == 0.95
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert accuracy["value"] == accuracy["correct"] / n


def test_train_writes_a_run_and_its_page(trained):
    names = {str(file.relative_to(trained)) for file in trained.rglob("*") if file.is_file()}
    assert {"recipe.toml", "run.json", "metrics.jsonl", "summary.json", "report.html"} <= names
    assert {f"evaluations/{label}.json" for label in ("stage-1", "best", "last")} <= names
    assert {f"weights/{label}.safetensors" for label in ("stage-1", "best", "last")} <= names
    assert "weights/stage-0.safetensors" not in names  # it began from random weights
    for label in ("stage-1", "best", "last"):
        result = read(trained / "evaluations" / f"{label}.json")
        assert_accuracy(result["clean_accuracy"], 20)
        assert_accuracy(result["robust_accuracy"], 20)
        assert result["robust_accuracy"]["value"] <= result["clean_accuracy"]["value"]
        assert result["protocol"]["name"] == "pgd-10"
        assert len(result["protocol"]["hash"]) == 12
        assert result["eps"] == {"text": "0.1", "value": 0.1}
        assert result["cost"]["forwards"] >= 20
        assert {"torch", "device", "clat"} <= set(result["environment"])
    page = (trained / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_recipe_in_the_folder_repeats_the_run(clat, trained, workplace):
    again = workplace / "runs" / "again"
    assert clat("train", trained / "recipe.toml", "--out", again).code == 0
    for name in ("best", "last"):
        one, two = (load_file(run / "weights" / f"{name}.safetensors") for run in (trained, again))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_overrides_and_short_options_reach_the_recipe(clat, workplace, tmp_path):
    out = tmp_path / "run"
    done = clat(
        "train", "tiny.toml", "--out", out, "--stages.pgd-at.epochs", 1, "--stages.clat.epochs=1", "--seed", 5,
        "--model.width", 3, "--device", "cpu", "--precision", 32, "--eps", "8/255",
    )  # fmt: skip
    assert done.code == 0
    recipe = package.read_recipe(out / "recipe.toml")
    assert (recipe.total_epochs, recipe.seed, recipe.model.width, recipe.eps) == (2, 5, 3, "8/255")
    assert (recipe.engine.device, recipe.engine.precision) == ("cpu", "32")
    assert "stage 1/2: pgd-at" in done.out
    assert "wrote" in done.out
    line = done.out.splitlines()[0]
    assert line.startswith("own_network:Net, 340 parameters; digits, 128 training and 32 held-out images; linf")
    assert "eps 8/255; " in line
    assert line.endswith(", float32")


@pytest.mark.parametrize(
    "words",
    [
        "RECIPE --out DIR --seed 1 --data.pad=-2 --stages.clat.epochs 3",
        "--seed 1 RECIPE --out DIR --data.pad -2 --stages.clat.epochs 3",
        "--out DIR --seed 1 --data.pad -2 --stages.clat.epochs 3 RECIPE",
        "--seed 1 --out DIR --data.pad -2 RECIPE --stages.clat.epochs=3",
    ],
)
def test_the_recipe_may_stand_anywhere_among_the_overrides(monkeypatch, words):
    seen = []
    monkeypatch.setattr(commands, "run", lambda options: seen.append(options) or 0)
    assert cli.main(["train", *words.split()]) == 0
    (options,) = seen
    assert (options.recipe, options.out) == ("RECIPE", "DIR")
    assert override_pairs(options.overrides) == [("seed", 1), ("data.pad", -2), ("stages.clat.epochs", 3)]


def test_train_reuses_the_stages_of_another_run(clat, trained, tmp_path):
    done = clat("train", "tiny.toml", "--out", tmp_path / "run", "--reuse", trained)
    assert done.code == 0
    assert "stage 1/2" not in done.out
    assert "stage 2/2" in done.out
    one, two = (load_file(run / "weights" / "last.safetensors") for run in (trained, tmp_path / "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_train_lists_the_recipes(clat):
    listed = clat("train", "--list")
    assert listed.code == 0
    for name in built_in_recipes():
        assert f"\n{name} " in "\n" + listed.out


def test_criticality_gives_a_table_a_report_and_a_plot(clat, trained, tmp_path):
    out, plot = tmp_path / "new" / "report.json", tmp_path / "plot.svg"
    done = clat(
        "criticality", "--model", "own_network:Net", "--weights", trained / "weights" / "last.safetensors",
        "--data", "digits", "--num-samples", 12, "--eps", "8/255", "--steps", 2, "--out", out, "--plot", plot,
    )  # fmt: skip
    assert done.code == 0
    assert "conv1" in done.out
    assert "most critical: " in done.out
    report = read(out)
    assert [row["name"] for row in report["rows"]] == ["conv1", "conv2"]
    assert [row["index"] for row in report["rows"]] == [1, 2]
    first, second = report["rows"]
    assert first["criticality"] == first["weakness"]
    assert second["criticality"] * first["weakness"] == pytest.approx(second["weakness"])
    assert (report["eps"], report["n"], report["steps"]) == ("8/255", 12, 2)
    assert "<svg" in plot.read_text()
    again = clat(
        "criticality", "--model", "own_network:Net", "--weights", trained / "weights" / "last.safetensors",
        "--num-samples", 12, "--steps", 2, "--exclude", "conv1", "--top", 1,
        "--normaliser", "sqrt", "--tap", "norm",
    )  # fmt: skip
    assert again.code == 0
    assert "conv1" not in again.out


def test_evaluate_writes_a_result(clat, trained, tmp_path):
    out = tmp_path / "result.json"
    done = clat(
        "evaluate", "--model", "own_network:Net", "--weights", trained / "weights" / "best.safetensors",
        "--data", "digits", "--protocol", "pgd-20", "--eps", 0.03, "--num-samples", 30, "--out", out,
    )  # fmt: skip
    assert done.code == 0
    assert "clean accuracy" in done.out
    result = read(out)
    assert_accuracy(result["clean_accuracy"], 30)
    assert_accuracy(result["robust_accuracy"], 30)
    assert result["protocol"]["name"] == "pgd-20"
    assert result["eps"]["text"] == "0.03"
    assert result["data"] == {"name": "digits", "split": "test", "n": 30}
    assert result["cost"]["seconds"] > 0


def test_evaluate_draws_pictures(clat, trained, tmp_path):
    """Beside the result, whole in itself; with the number of images that was asked for."""
    weights = trained / "weights" / "last.safetensors"
    words = ("evaluate", "--model", "own_network:Net", "--weights", weights, "--protocol", "pgd-10", "--eps", 0.1)
    done = clat(*words, "--num-samples", 30, "--gallery", 5, "--out", tmp_path / "result.json")
    assert done.code == 0, done.err
    page = (tmp_path / "result.html").read_text()
    assert f"wrote {tmp_path / 'result.html'}" in done.out
    assert page.count("<article") == 5
    assert "the network stays right on" in page
    assert "What is taken for what under attack" in page
    assert "http" not in page.replace("http-equiv", "")
    result = read(tmp_path / "result.json")
    assert result["classes"] == [str(number) for number in range(10)]
    assert len(result["predicted"].split()) == len(result["labels"].split()) == 30
    again = clat(*words, "--num-samples", 30, "--gallery", 5, "--out", tmp_path / "result.json")
    assert (again.code, again.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--gallery", 0), "expected at least 1 picture"),
        (("--gallery", 3, "--budget", "1m"), "leave out --budget"),
        (("--gallery", 3, "--protocol", "autoattack-sampled"), "another protocol than autoattack-sampled"),
        (("--gallery", 3, "--out", "page.html"), "the result is JSON"),
    ],
)
def test_pictures_that_cannot_be_drawn(clat, tmp_path, monkeypatch, more, says):
    monkeypatch.chdir(tmp_path)
    done = clat("evaluate", "--model", "resnet18", "--width", 2, *more)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err
    assert not list(tmp_path.iterdir())


def test_evaluate_and_the_runs_own_evaluation_agree(clat, trained, tmp_path):
    """Same weights, same images: the clean accuracy is the same number."""
    out = tmp_path / "result.json"
    weights = trained / "weights" / "last.safetensors"
    words = ("--protocol", "fgsm", "--eps", 0.1, "--num-samples", 20, "--out", out)
    clat("evaluate", "--model", "own_network:Net", "--weights", weights, *words)
    assert read(out)["clean_accuracy"] == read(trained / "evaluations" / "last.json")["clean_accuracy"]


def test_evaluate_some_images_by_number(clat, trained, tmp_path):
    weights = trained / "weights" / "last.safetensors"
    words = ("evaluate", "--model", "own_network:Net", "--weights", weights, "--protocol", "pgd-10", "--eps", 0.1)
    (tmp_path / "ids.txt").write_text("11\n3\n19\n")
    assert clat(*words, "--num-samples", 20, "--out", tmp_path / "all.json").code == 0
    assert clat(*words, "--ids", tmp_path / "ids.txt", "--out", tmp_path / "some.json").code == 0
    whole, some = read(tmp_path / "all.json"), read(tmp_path / "some.json")
    for name in ("correct", "robust"):
        assert some[name] == "".join(whole[name][number] for number in (11, 3, 19))
    assert some["data"] == {"name": "digits", "split": "test", "n": 3}
    assert some["images"] != whole["images"]


def test_report_draws_the_page_again(clat, trained, workplace):
    (trained / "report.html").unlink()
    done = clat("report", trained)
    assert done.code == 0
    assert str(trained / "report.html") in done.out.replace("\n", "")
    assert (trained / "report.html").stat().st_size > 10_000


def test_resume_of_a_finished_run_only_draws_the_page(clat, trained):
    before = {file: file.read_bytes() for file in (trained / "weights").iterdir()}
    assert clat("train", "--resume", trained).code == 0
    assert before == {file: file.read_bytes() for file in (trained / "weights").iterdir()}


def test_a_built_in_network_and_foreign_weights(clat, workplace, tmp_path):
    model = package.load_model("resnet18", width=4)
    nested = {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}, "epoch": 3}
    torch.save(nested, tmp_path / "foreign.pth.tar")
    words = ("--weights", tmp_path / "foreign.pth.tar", "--num-samples", 4, "--protocol", "fgsm", "--eps", "8/255")
    assert clat("evaluate", "--model", "resnet18", "--width", 4, *words).code == 0


def test_the_version(clat, capfd):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--version"])
    assert leaving.value.code == 0
    assert capfd.readouterr().out == f"clat {package.__version__}\n"


def test_clat_alone_prints_help(clat):
    done = clat()
    assert done.code == 0
    for command in ("criticality", "train", "evaluate", "report", "demo"):
        assert command in done.out


@pytest.mark.slow
def test_the_demo(clat, tmp_path):
    out = tmp_path / "demo"
    assert clat("demo", "--out", out).code == 0
    assert (out / "hardened" / "report.html").is_file()
    for run in ("clean", "hardened"):
        assert read(out / run / "run.json")["status"] == "finished"
    assert clat("demo", "--out", out).code == 2


def test_the_python_interface(workplace, tmp_path):
    """clat.train on the reader's own network and images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3

    def images(n):
        return torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)

    names = ("x", "y", "z")
    own = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    )
    result = package.train(
        package.read_recipe("tiny.toml", ["--data.train_size", "32", "--data.heldout", "16"]),
        tmp_path / "run",
        model=own,
        data=(
            package.ImageSet("mine", "train", names, images(60), labels),
            package.ImageSet("mine", "test", names, images(30), labels[:30]),
        ),
        quiet=True,
    )
    assert result.model is own
    assert set(result.evaluations) == {"stage-0", "stage-1", "best", "last"}
    assert result.evaluations["last"]["data"] == {"name": "mine", "split": "test", "n": 20}
    assert result.summary["best"]["heldout_n"] == 16


def test_evaluate_takes_the_network_of_a_recipe(clat, workplace, tmp_path):
    """A mixture, which no option describes; --weights replaces the recipe's own."""
    recipe = tmp_path / "mixture.toml"
    member = '{ name = "resnet18", width = 2, depths = [1, 1, 1, 1] }'
    recipe.write_text(
        f'[model]\nname = "mixture"\nalpha = 0.5\nstandard = {member}\nrobust = {member}\n'
        '[[stages]]\nname = "a"\nepochs = 1\nobjective = { name = "standard" }\n'
    )
    model = build_model(read_recipe(recipe).model, 10).eval()
    weights = package.save_weights(model, tmp_path / "whole.safetensors")
    words = ("--data", "digits", "--protocol", "fgsm", "--eps", 0.03, "--num-samples", 40)
    out = tmp_path / "result.json"
    assert clat("evaluate", "--model", recipe, "--weights", weights, *words, "--out", out).code == 0
    x, y = next(iter(Loader(package.load_split("digits", "test").take(40), 40, device=torch.device("cpu")).epoch()))
    with torch.no_grad():
        expected = (model(x).argmax(1) == y).int().tolist()
    assert read(out)["correct"] == "".join(map(str, expected))
    refused = clat("evaluate", "--model", recipe, "--width", 2, *words)
    assert refused.code == 2
    assert "the recipe says width" in refused.err


def test_the_recipe_of_a_run_does_not_know_a_network_that_was_passed_in(clat, tmp_path):
    """Its [model] is then a default, which fits at best by chance."""
    digits = package.load_split("digits", "train").take(40), package.load_split("digits", "test").take(20)
    fields = {"model.width": 2, "stages.pgd-at.epochs": 1, "data.heldout": 8, "monitor.num_samples": 8}
    recipe = package.read_recipe(
        "demo-pgd-at", [word for key, one in fields.items() for word in (f"--{key}", str(one))]
    )
    words = ("--data", "digits", "--protocol", "fgsm", "--eps", 0.03, "--num-samples", 5)
    for name, width, code in (("other", 4, 2), ("same", 2, 0)):
        run = tmp_path / name
        package.train(recipe, run, model=package.load_model("resnet18", width=width), data=digits, quiet=True)
        weights = run / "weights" / "last.safetensors"
        assert clat("evaluate", "--model", run / "recipe.toml", "--weights", weights, *words).code == code
    refused = clat("evaluate", "--model", tmp_path / "other" / "recipe.toml", *words)
    assert "passed in from Python (clat.models." in refused.err


def test_evaluate_prints_what_robustbench_lists(clat, tmp_path):
    entry = TABLES[10]["Addepalli2022Efficient_RN18"]
    torch.save({"state_dict": entry.builder(width=2).state_dict()}, tmp_path / "net.pt")
    done = clat(
        "evaluate", "--model", "robustbench:Addepalli2022Efficient_RN18", "--weights", tmp_path / "net.pt",
        "--width", 2, "--data", "digits", "--protocol", "fgsm", "--eps", 0.03, "--num-samples", 5,
    )  # fmt: skip
    assert done.code == 0
    assert "RobustBench lists 85.71 % clean and 52.48 % under AutoAttack" in done.out


def test_names_are_never_read_as_markup(clat, workplace, tmp_path):
    """Files, protocols, networks and stages may be called like rich's markup."""
    protocol, out = tmp_path / "[x].toml", tmp_path / "[bold]a[/b].json"
    protocol.write_text('name = "[/x]"\n[[attacks]]\nattack = "pgd"\nsteps = 1\n')
    words = ("--num-samples", 4, "--device", "cpu")
    done = clat("evaluate", "--model", "own_network:Net", "--protocol", protocol, *words, "--out", out)
    assert done.code == 0, done.err
    assert f"wrote {out}\n" in done.out
    assert "   [/x], linf eps" in done.out
    assert out.is_file()
    again = out.with_name("[i]c.json")
    again.write_bytes(out.read_bytes())
    done = clat("compare", out, again)
    assert done.code == 0, done.err
    assert str(again) in done.out.replace("\n", "")
    networks = ("--network", "[/x]", "own_network:Net", "--network", ":smile:", "own_network:Net")
    done = clat("transfer", *networks, "--protocol", "fgsm", *words)
    assert done.code == 0, done.err
    assert "attacking [/x]\n" in done.out
    assert ":smile:" in done.out


def test_a_result_on_standard_output_stands_there_alone(clat, workplace):
    done = clat("evaluate", "--model", "own_network:Net", "--protocol", "fgsm", "--num-samples", 4, "--out", "-")
    assert done.code == 0
    assert_accuracy(json.loads(done.out)["clean_accuracy"], 4)
    assert "clean accuracy" in done.err
    assert not (workplace / "-").exists()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (("resnet18", "--width", 2), "no --weights: resnet18 has random weights"),
        (("random.toml",), "no --weights: resnet18 has random weights"),
        (("tiny.toml",), "no --weights: the weights are those that own_network:Net gives"),
        (("own_network:Net",), "no --weights: the weights are those that own_network:Net gives"),
    ],
)
def test_data_and_weights_that_nobody_named_are_told(clat, refused, workplace, tmp_path, model, says):
    recipe = (workplace / "tiny.toml").read_text().replace('"own_network:Net"', '"resnet18"\nwidth = 2')
    (workplace / "random.toml").write_text(recipe)
    out, words = tmp_path / "result.json", ("--protocol", "fgsm", "--num-samples", 4)
    done = clat("evaluate", "--model", *model, *words, "--out", out)
    assert (done.code, done.out.count(f"note: {says}\n")) == (0, 1)
    assert says in read(out)["notes"]
    assert "data digits/test, 4 images\n" in done.out
    if "random" in says:
        assert f"{says}; name the file" in refused(
            "export", "--model", *model, "--data", "digits", "--out", tmp_path / "net.pt2"
        )


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_an_option_says_its_default(command):
    parser = argparse.ArgumentParser()
    parsing.command(command).add_options(parser)
    for action in parser._actions:
        if action.default not in (None, False, [], argparse.SUPPRESS) and action.help != argparse.SUPPRESS:
            assert "default" in (action.help or ""), action.option_strings


@pytest.mark.parametrize("place", [("--quiet", "evaluate"), ("evaluate", "--quiet")])
def test_quiet_commands_say_nothing(clat, workplace, tmp_path, place):
    words = ("--model", "own_network:Net", "--protocol", "fgsm", "--num-samples", 4)
    done = clat(*place, *words, "--out", tmp_path / "result.json")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "result.json").is_file()


def test_a_quiet_run_says_nothing(clat, workplace, tmp_path):
    done = clat("train", "tiny.toml", "--quiet", "--out", tmp_path / "run", "--stages.pgd-at.epochs", 1)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_alone_draws_the_page(clat, trained, monkeypatch, first):
    monkeypatch.setattr("clat.runtime.engine.is_first_process", lambda: first)
    (trained / "report.html").unlink(missing_ok=True)
    done = clat("train", "--resume", trained)
    assert done.code == 0
    assert done.out.count("wrote") == (trained / "report.html").is_file() == first


def test_an_evaluation_at_chance_says_what_may_be_wrong(clat, trained, tmp_path, workplace):
    """Weights that the network was not trained with, as a wrong normalisation or order of classes would do."""
    state = load_file(trained / "weights" / "last.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in state.items()}, tmp_path / "zeros.safetensors")
    words = ("evaluate", "--model", "own_network:Net", "--protocol", "fgsm", "--eps", 0.1, "--num-samples", 200)
    wrong = clat(*words, "--weights", tmp_path / "zeros.safetensors")
    assert wrong.code == 0
    assert "caution: that is no more than guessing among 10 classes gives" in wrong.out
    assert "caution" not in clat(*words).out, "that the weights are random is said already"
    assert not is_guessing(Accuracy(2, 20), 10), "too few images to tell"
    assert is_guessing(Accuracy(100, 200), 2)
    assert not is_guessing(Accuracy(200, 200), 1)
    assert not is_guessing(Accuracy(150, 200), 2)
