"""One line, exit code 2, nothing overwritten (invariant 10)."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import clat as package
from clat.core import files
from clat.training.interrupt import Interrupted


@pytest.fixture
def weights(trained):
    return trained / "weights" / "last.safetensors"


MODEL = ("--model", "own_network:Net")


@pytest.mark.parametrize("command", ["criticality", "evaluate"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "resnet81"), "unknown model 'resnet81'; did you mean 'resnet18'?"),
        (("--model", "own_network:Nte"), "Nte"),
        (("--model", "absent_module:Net"), "absent_module"),
        ((*MODEL, "--eps", "8"), "did you mean 8/255?"),
        ((*MODEL, "--eps", "wide"), "eps is 'wide'"),
        ((*MODEL, "--eps", "8/0"), "eps is '8/0'"),
        ((*MODEL, "--norm", "l3"), "unknown norm 'l3'"),
        ((*MODEL, "--data", "absent"), "data set 'absent' not found"),
        ((*MODEL, "--data", "own_network.py"), "is a file"),
        ((*MODEL, "--split", "tset"), "did you mean 'test'?"),
        ((*MODEL, "--device", "cud"), "unknown device 'cud'; did you mean 'cuda'?"),
        ((*MODEL, "--weights", "absent.pt"), "no such file"),
        ((*MODEL, "--normalize", "cifar"), "did you mean 'cifar10"),
        ((*MODEL, "--width", "0"), "width=0"),
        ((*MODEL, "--num-samples", "0"), "--num-samples is 0: give 1 to "),
        ((*MODEL, "--num-samples", "99999"), "--num-samples is 99999: give 1 to "),
        ((*MODEL, "--num-samples", "ten"), "invalid int value: 'ten'"),
        ((*MODEL, "--image-size", "0"), "image_size is 0"),
        ((*MODEL, "--epz", "0.1"), "--epz"),
        ((), "--model"),
    ],
)
def test_options(refused, command, words, says):
    assert says in refused(command, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--protocol", "pgd-21"), "unknown protocol 'pgd-21'; did you mean 'pgd-20'?"),
        (("--protocol", "autoattak"), "unknown protocol"),
        (("--eps", "0"), "eps is 0"),
        (("--batch-size", "0"), "batch_size is 0"),
        (("--devices", "0"), "--devices is 0"),
        (("--devices", "two"), "invalid int value: 'two'"),
    ],
)
def test_options_of_evaluate(refused, words, says):
    assert says in refused("evaluate", *MODEL, *words)


def test_a_protocol_is_looked_for_among_what_the_command_takes(refused, tmp_path):
    line = refused("evaluate", *MODEL, "--protocol", "autoattack-sample")
    assert "did you mean 'autoattack-sampled'? Valid: apgd, apgd-ce" in line
    assert ", autoattack-sampled, " in line
    assert ", fast, " in line
    assert ", stadv; or a TOML file, or package.module:NAME of your own" in line
    for words in (
        ("harden", *MODEL, "--budget", "1m", "--out", tmp_path / "run", "--protocol"),
        ("train", "tiny.toml", "--out", tmp_path / "run", "--evaluation.protocol"),
    ):
        line = refused(*words, "autoattack-sample")
        assert "did you mean 'autoattack'?" in line
        assert "autoattack-sampled" not in line
        assert "or a TOML file, or package.module:NAME" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1 0", "ids hold 0 twice"),
        ("[0, 1.5]", "ids hold 1.5: expected whole numbers"),
        ("0\n1\ncat", "ids hold 'cat': expected whole numbers"),
        ("0 99999", "ids hold 99999, but 'digits/test' has"),
        ("-3", "ids hold '-3'"),
        ("", "ids name no image"),
        ("[0, 1", "is not valid JSON"),
        ('{"ids": [0]}', "holds no JSON list"),
        (b"\xff\xfe", "is not text"),
        (None, "cannot read"),
    ],
)
def test_numbers_of_images(refused, tmp_path, text, says):
    file = tmp_path / "ids"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert says in refused("evaluate", *MODEL, "--ids", file)
    assert "give one of them" in refused("evaluate", *MODEL, "--ids", file, "--num-samples", 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--normaliser", "numl"), "did you mean 'numel'?"),
        (("--tap", "outptu"), "did you mean 'output'?"),
        (("--metric", "weak"), "did you mean 'weakness'?"),
        (("--include", "conv9"), "unknown layer pattern 'conv9'; did you mean 'conv"),
        (("--steps", "0"), "steps is 0"),
        (("--alpha", "x"), "alpha is 'x'"),
        (("--top", "-1"), "-1"),
    ],
)
def test_options_of_criticality(refused, words, says):
    assert says in refused("criticality", *MODEL, "--num-samples", "4", *words)


def test_commands(refused):
    assert "unknown command 'trian'; did you mean 'train'?" in refused("trian")
    assert "DIR" in refused("report")
    assert "no-such-run" in refused("report", "no-such-run")


def test_a_field_without_its_table(refused, tmp_path):
    words = ("harden", *MODEL, "--budget", "1m", "--out", tmp_path / "run")
    line = refused(*words, "--lr", "0.1")
    assert "--lr: a hardening takes fields of" in line
    assert "did you mean --schedule.lr?" in line
    assert "did you mean --optimizer.momentum or --schedule.momentum?" in refused(*words, "--momentum", "0.1")
    assert "options of clat harden\n" in refused(*words, "--nothing", "0.1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("seed=1", "tiny.toml"), "unexpected argument 'seed=1': did you mean --seed=1?"),
        (("tiny.toml", "seed=1"), "did you mean --seed=1?"),
        (("stages.clat.epochs=2",), "did you mean --stages.clat.epochs=2?"),
        (("tiny.toml", "demo"), "unexpected argument 'demo': 'tiny.toml' is the recipe"),
        (("tiny.toml", "-seed", "1"), "unexpected argument '-seed': did you mean --seed?"),
        (("-seed=1", "tiny.toml"), "unexpected argument '-seed=1': did you mean --seed=1?"),
        (("--seed", "--data.pad", "1", "tiny.toml"), "--seed has no value"),
        (("--seed", "tiny.toml"), "name a recipe"),
        ((), "name a recipe"),
    ],
)
def test_overrides_that_are_none(refused, tmp_path, words, says):
    assert says in refused("train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_may_be_called_like_an_override(refused, workplace, tmp_path):
    """It is there, so it is meant; what is wrong with this one is its content."""
    (workplace / "lr=1").write_text("lr = ")
    assert "lr=1 is not valid TOML" in refused("train", "lr=1", "--out", tmp_path / "run")


def test_a_state_of_another_evaluation(refused, clat, weights, tmp_path):
    words = ("evaluate", *MODEL, "--num-samples", 6, "--protocol", "fgsm", "--eps", 0.1, "--state", tmp_path / "s")
    assert clat(*words, "--weights", weights).code == 0
    kept = (tmp_path / "s.0-0").read_bytes()
    for more, what in (
        ((), "model"),
        (("--weights", weights, "--split", "train"), "images"),
        (("--weights", weights, "--seed", 1), "seed"),
    ):
        line = refused(*words, *more)
        assert f"s.0-0 belongs to another evaluation ({what} " in line
        assert "name another state file or remove it" in line
    assert (tmp_path / "s.0-0").read_bytes() == kept


def test_networks_whose_robustness_cannot_be_measured(refused, workplace, tmp_path):
    (workplace / "odd_network.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self, after):\n"
        "        super().__init__()\n"
        "        self.fc, self.after = nn.Linear(192, 10), after\n"
        "    def forward(self, x): return self.after(self.fc(x.flatten(1)))\n"
        "def probabilities(): return Odd(lambda z: z.softmax(1))\n"
        "def pair(): return Odd(lambda z: {'scores': z})\n"
        "def nan(): return Odd(lambda z: z * float('nan'))\n"
        "def detached(): return Odd(lambda z: 0 * z.detach() + 9 * torch.eye(10)[3])\n"
        "def few(): return Odd(lambda z: z[:, :3])\n"
    )
    (tmp_path / "mine.toml").write_text('name = "mine"\nattacks = [{ attack = "apgd", loss = "dlr" }]\n')
    for name, says in (
        ("probabilities", "returns probabilities: let it return logits"),
        ("pair", "does not return logits of shape (N, classes)"),
        ("nan", "NaN or infinite logits"),
        ("detached", "no gradient towards its input"),
        ("few", "3"),
    ):
        words = ("--model", f"odd_network:{name}", "--num-samples", 40, "--eps", 0.1)
        assert says in refused("evaluate", *words, "--protocol", "pgd-10"), name
        assert says in refused("evaluate", *words, "--protocol", tmp_path / "mine.toml"), name


def test_a_network_that_does_not_fit_the_images(refused, workplace):
    (workplace / "flat_network.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(7, 10))\n"
        "def map(): return nn.Conv2d(3, 4, 3)\ndef broken(): raise RuntimeError('two\\nlines')\n"
    )
    for command in ("criticality", "evaluate"):
        assert "does not run on images of shape (3, 8, 8)" in refused(command, "--model", "flat_network:make")
        assert "logits of shape" in refused(command, "--model", "flat_network:map")
        assert "the factory failed, RuntimeError: two lines" in refused(command, "--model", "flat_network:broken")


# Weight files


def test_weights_that_do_not_fit(refused, weights, tmp_path):
    assert "of another shape" in refused("evaluate", *MODEL, "--width", 3, "--weights", weights)
    assert "missing" in refused("evaluate", "--model", "resnet18", "--width", 4, "--weights", weights)


@pytest.fixture
def five(tmp_path):
    """Class folders of five classes, with train and test images."""
    for split in ("train", "test"):
        for number in range(5):
            file = tmp_path / "five" / split / f"kind{number}" / "one.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(file)
    return tmp_path / "five"


@pytest.mark.parametrize("command", ["evaluate", "criticality", "harden"])
def test_weights_of_other_classes_than_the_data(refused, weights, five, tmp_path, command):
    more = ("--out", tmp_path / "hard", "--budget", "1m") if command == "harden" else ()
    line = refused(command, *MODEL, "--weights", weights, "--data", five, *more)
    assert f"the weights {weights} have 10 outputs, the data 5 classes (0 kind0, 1 kind1" in line
    assert "check --data ('five')" in line
    assert "--classes FILE" in line
    assert "num_classes" not in line


def test_weights_of_fewer_classes_than_the_data(refused, tmp_path):
    file = package.models.save_weights(
        package.load_model("resnet18", width=2, num_classes=5), tmp_path / "w.safetensors"
    )
    line = refused("evaluate", "--model", "resnet18", "--width", 2, "--weights", file)
    assert "have 5 outputs, the data 10 classes" in line
    assert "check --data, or name a network with an output for each of them" in line
    model = ("--model.name", "resnet18", "--model.width", 2, "--model.weights", file)
    line = refused("train", "tiny.toml", "--out", tmp_path / "run", *model)
    assert "the weights that the recipe begins with have 5 outputs, the data 10 classes: check data.name" in line
    assert "--model.classifier new" in line


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors", "bad.pth.tar"])
def test_corrupted_and_malicious_weights(refused, weights, tmp_path, name):
    file, trap = tmp_path / name, tmp_path / "trap"
    for content in (b"", b"garbage", weights.read_bytes()[:-100], pickle.dumps({"w": Malicious(str(trap))})):
        file.write_bytes(content)
        assert str(file) in refused("evaluate", *MODEL, "--weights", file)
    torch.save({"state_dict": Malicious(str(trap))}, file)
    assert "weights" in refused("evaluate", *MODEL, "--weights", file)
    assert not trap.exists(), "the file was executed"
    pickle.loads(pickle.dumps(Malicious(str(trap))))
    assert trap.exists(), "the trap works where a file is trusted"


def test_a_pickle_of_a_later_protocol_is_one_line(refused, tmp_path):
    """Torch's warning about it, which is an error in these tests, is not shown."""
    file = tmp_path / "four.pkl"
    file.write_bytes(pickle.dumps({"w": [1.0]}, protocol=4))
    assert f"weights {file}: a pickle of protocol 4" in refused("evaluate", *MODEL, "--weights", file)
    torch.save({"w": torch.zeros(1)}, file, pickle_protocol=4)
    assert f"weights {file}: a pickle of protocol 4" in refused("evaluate", *MODEL, "--weights", file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused("evaluate", *MODEL, "--weights", file)
    assert [str(one.message) for one in caught] == []


# Data


@pytest.mark.parametrize("command", [("criticality", *MODEL), ("evaluate", *MODEL), ("train", "tiny.toml")])
def test_an_empty_data_folder(refused, tmp_path, command):
    (tmp_path / "empty").mkdir()
    if command[0] == "train":
        refused(*command, "--out", tmp_path / "run", "--data.name", tmp_path / "empty")
        assert not (tmp_path / "run").exists()
    else:
        refused(*command, "--data", tmp_path / "empty")


# Output files and folders


def test_an_existing_result_is_not_overwritten(refused, tmp_path):
    file = tmp_path / "result.json"
    file.write_text("precious")
    assert "exists already" in refused("evaluate", *MODEL, "--num-samples", 4, "--out", file)
    assert "exists already" in refused("criticality", *MODEL, "--num-samples", 4, "--out", file)
    assert "exists already" in refused("criticality", *MODEL, "--num-samples", 4, "--plot", file)
    assert file.read_text() == "precious"


def test_a_result_and_its_plot_are_two_files(refused, tmp_path):
    (tmp_path / "sub").mkdir()
    for out in ("one.svg", "sub/../one.svg"):
        words = ("--out", tmp_path / out, "--plot", tmp_path / "one.svg")
        for command in (("criticality", *MODEL), ("curve", *MODEL, "--eps", "0,0.1")):
            assert "one.svg: give each a file of its own" in refused(*command, "--num-samples", 4, *words)
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("study claim --rows absent --num-samples 10", "--num-samples belongs to --judge and --finals"),
        ("study claim --rows absent --precision bfloat16", "--precision belongs to --judge and --finals"),
        *(
            (f"evidence --answer runs --{option}", f"--{option.split()[0]} goes with a regime: --answer reads what")
            for option in (
                "plan",
                "seeds 2",
                "data .",
                "finals autoattack",
                "num-samples 5",
                "jobs 2",
                "on ray",
                "address auto",
                "cpus 2",
                "memory 1GB",
            )
        ),
    ],
)
def test_options_that_would_do_nothing(refused, tmp_path, words, says):
    assert says in refused(*words.split(), "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["a file/below", "/proc/clat/result"])
def test_a_place_that_cannot_be_written(refused, tmp_path, place):
    (tmp_path / "a file").write_text("")
    place = tmp_path / place
    for command in ("evaluate", "criticality"):
        assert "cannot write" in refused(command, *MODEL, "--num-samples", 4, "--out", f"{place}.json")
    assert "cannot write" in refused("train", "tiny.toml", "--out", place)


def test_a_folder_that_holds_another_run(refused, trained, tmp_path):
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert "holds another run already" in refused("train", "tiny.toml", "--out", trained)
    assert before == {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    (tmp_path / "mine.txt").write_text("")
    assert "holds something already" in refused("train", "tiny.toml", "--out", tmp_path)
    assert "exists already" in refused("demo", "--out", tmp_path)


@pytest.mark.parametrize("nth", [1, 4, 7])
def test_a_full_disk_while_training(refused, clat, monkeypatch, trained, tmp_path, nth):
    """What was written before stays whole, and the run goes on once there is room."""
    original, calls = os.fsync, [0]

    def full(handle):
        calls[0] += 1
        if calls[0] >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        assert "No space left on device" in refused("train", "tiny.toml", "--out", out)
    assert not list(out.rglob("*.tmp")), "temporary files stay behind"
    for file in out.rglob("*.safetensors"):
        package.models.files.read_state(file)
    if nth == 1:
        assert not (out / "recipe.toml").exists()
        return
    assert clat("train", "--resume", out).code == 0
    last, expected = (load_file(run / "weights" / "last.safetensors") for run in (out, trained))
    assert all(torch.equal(last[name], expected[name]) for name in expected)


def test_a_full_disk_while_appending_metrics(refused, monkeypatch, tmp_path):
    original = Path.open

    def full(self, mode="r", *args, **kwargs):
        if self.name == "metrics.jsonl" and mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    assert "cannot write" in refused("train", "tiny.toml", "--out", tmp_path / "run")


def test_a_result_that_cannot_be_written_leaves_no_half_file(refused, monkeypatch, tmp_path):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    out = tmp_path / "result.json"
    assert "No space left" in refused("evaluate", *MODEL, "--num-samples", 4, "--protocol", "fgsm", "--out", out)
    assert list(tmp_path.iterdir()) == []


# Recipes and runs


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("absent.toml",), "recipe file absent.toml not found"),
        (("dmeo",), "unknown recipe 'dmeo'; did you mean 'demo'?"),
        ((), "name a recipe"),
        (("tiny.toml", "--stages.clat.epoch", "1"), "did you mean 'epochs'?"),
        (("tiny.toml", "--eps", "8"), "did you mean 8/255?"),
        (("tiny.toml", "--model.name", "own_network:Nte"), "Nte"),
        (("tiny.toml", "--model.weights", "absent.pt"), "no such file"),
        (("tiny.toml", "--evaluation.protocol", "pgd21"), "unknown protocol 'pgd21'; did you mean 'pgd-"),
        (("tiny.toml", "--stages.clat.selection.k", "7"), "selection.k is 7"),
        (("tiny.toml", "--data.heldout", "99999"), "cannot hold out"),
        (("tiny.toml", "--stages.clat.epochs"), "has no value"),
        (("tiny.toml", "stray"), "unexpected argument 'stray'"),
        (("tiny.toml", "--precision", "16"), "engine.precision"),
        (("tiny.toml", "--optimizer", '{ name = "adamw", beta = 0.9 }'), "did you mean 'betas'?"),
        (("tiny.toml", "--optimizer.name", "adamv"), "unknown optimizer 'adamv'; did you mean 'adam'?"),
        (("tiny.toml", "--optimizer", '{ name = "muon" }'), "Muon only supports 2D parameters"),
        (("tiny.toml", "--engine.checkpoint_blocks", "true", "--engine.compile", "true"), "take one of them"),
        (("tiny.toml", "--engine.shard", "true"), "the network has no blocks to be shared out"),
        (("tiny.toml", "--micro_batch", "0"), "micro_batch is 0"),
        (("tiny.toml", "--reuse", "absent"), "no run to reuse"),
        (("tiny.toml", "--device", "cuda"), "cuda"),
    ],
)
def test_recipes(refused, tmp_path, monkeypatch, words, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert says in refused("train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists(), "what was never a run must not occupy its folder"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("tiny.tml", "recipe file tiny.tml not found: no such file, did you mean tiny.toml?"),
        ("tinny.toml", "recipe file tinny.toml not found: no such file, did you mean tiny.toml?"),
        ("tiny", "no recipe 'tiny' is built in, and no such file: did you mean tiny.toml?"),
        ("absent/tiny.toml", "recipe file absent/tiny.toml not found: no such file"),
        ("dmeo", "unknown recipe 'dmeo'; did you mean 'demo'?"),
    ],
)
def test_a_recipe_that_is_not_there(refused, tmp_path, word, says):
    line = refused("train", word, "--out", tmp_path / "run")
    assert says in line
    assert "clat recipes lists the built-in ones" in line


def test_a_recipe_without_a_folder(refused):
    assert "name a recipe and a new folder" in refused("train", "tiny.toml")


@pytest.mark.parametrize(
    "beside", [("tiny.toml",), ("--out", "x"), ("--seed", "1"), ("--device", "cpu"), ("--devices", "2")]
)
def test_resume_takes_nothing_beside_it(refused, trained, beside):
    assert "give nothing beside it" in refused("train", "--resume", trained, *beside)


def test_resume_without_a_run_or_with_a_damaged_one(refused, trained, tmp_path):
    assert "no run to resume" in refused("train", "--resume", tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").write_bytes(b"damaged")
    assert "not a usable run state" in refused("train", "--resume", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--resume", "nope"), "no run to resume: there is no folder nope"),
        (("train", "--resume", "tiny.toml"), "no run to resume: tiny.toml is a file"),
        (("harden", "--resume", "nope"), "no hardening to resume: there is no folder nope"),
        (("harden", "--resume", "."), "holds no hardening to resume: there is no usable harden.json in it"),
        (("train", "tiny.toml", "--out", "new", "--reuse", "nope"), "no run to reuse: there is no folder nope"),
        (("train", "tiny.toml", "--out", "own_network.py"), "own_network.py is a file: name a new folder"),
        (("harden", *MODEL, "--budget", "1m", "--out", "own_network.py"), "own_network.py is a file: name a new"),
    ],
)
def test_a_folder_that_is_none(refused, words, says):
    line = refused(*words)
    assert says in line
    assert "--resume own_network.py" not in line


def test_folders_in_place_of_results(refused, trained, tmp_path):
    line = refused("compare", trained, trained)
    assert "is named twice" in line
    line = refused("compare", trained, tmp_path)
    assert f"{trained} is a folder: name the result: {trained / 'evaluations' / 'last.json'}" in line
    (tmp_path / "empty").mkdir()
    line = refused("compare", tmp_path / "empty", trained)
    assert "empty is a folder: name a file that clat evaluate --out wrote" in line


def test_reuse_with_another_seed(refused, trained, tmp_path):
    words = ("train", "tiny.toml", "--out", tmp_path / "run", "--reuse", trained, "--seed", 1)
    assert "shares no finished stage" in refused(*words)


def test_a_run_that_diverges(refused, tmp_path):
    """No BatchNorm in this one, so nothing saves it."""
    out = tmp_path / "run"
    model = ("--model.name", "own_network:Net", "--schedule.kind", "constant", "--schedule.lr", "1e38")
    line = refused("train", "tiny.toml", "--out", out, *model)
    assert "not finite (stage 'pgd-at', epoch 1, step " in line
    assert json.loads((out / "run.json").read_text())["status"] == "failed"


def test_an_interrupted_demo_has_an_exit_code(clat, monkeypatch, tmp_path):
    def stopped(*args, **kwargs):
        raise Interrupted(2)

    monkeypatch.setattr("clat.training.run.train", stopped)
    assert clat("demo", "--out", tmp_path / "demo").code == 130


# The user's own code


FAILING = """
import sys, torch
from own_network import Net


class Late(Net):
    '''Runs on the images on which it is tried.'''

    def forward(self, x):
        if len(x) > 2:
            self.fail()
        return super().forward(x)


class Raises(Late):
    def fail(self):
        raise KeyError("first line\\nsecond line")


class Leaves(Late):
    def fail(self):
        sys.exit("bye")


class Backward(Net):
    def forward(self, x):
        x = super().forward(x)
        if x.requires_grad:
            x.sum().backward()
        return x


class Full(Late):
    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Large(Late):
    def fail(self):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")


def leaves():
    sys.exit(0)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "Raises",
            r"your own code failed, KeyError: 'first line\nsecond line' (failing_network.py, line 17, in fail)",
        ),
        ("Leaves", "your own code failed, it left with exit code 'bye' (failing_network.py, line 22, in fail)"),
        ("Full", "the GPU's memory is full: give a smaller --batch-size, or in training micro_batch"),
        ("Large", "memory is full: give a smaller --batch-size, or in training micro_batch"),
        ("leaves", "your own code failed, it left with exit code 0 (failing_network.py, line 44, in leaves)"),
    ],
)
def test_own_code_that_fails_in_the_midst_of_the_work(refused, workplace, tmp_path, name, says):
    """It is told where, and by the exit code that this was no success."""
    (workplace / "failing_network.py").write_text(FAILING)
    network = ("--model", f"failing_network:{name}", "--num-samples", 8)
    assert says in refused("evaluate", *network, "--protocol", "fgsm", "--device", "cpu")
    assert says in refused("criticality", *network)
    assert says in refused(
        "train", "tiny.toml", "--out", tmp_path / "run", "--model.name", f"failing_network:{name}"
    )


def test_a_network_without_a_backward_pass_is_refused_before_the_run(refused, workplace, tmp_path):
    (workplace / "failing_network.py").write_text(FAILING)
    model = ("--model.name", "failing_network:Backward")
    line = refused("train", "tiny.toml", "--out", tmp_path / "run", *model)
    assert "the model does not run backwards on images of shape (3, 8, 8): Trying to backward" in line
    assert not (tmp_path / "run").exists()
    words = ("--model", "failing_network:Backward", "--num-samples", 4, "--ranking", "mrc", "--epochs", 1)
    line = refused("criticality", *words)
    assert "the backward pass through the network failed, RuntimeError: Trying to backward" in line
