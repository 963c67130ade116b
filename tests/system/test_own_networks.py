"""Networks of libraries and of the user's own, from the command line: arguments, channels, folders, bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import clat as package
from helpers.libraries import need

QUICK = ("--num-samples", 6, "--protocol", "fgsm", "--eps", "0.1")
SHORT = ("--stages.pgd_at.epochs", 1, "--stages.clat.epochs", 1)

FACTORIES = """
from torch import nn

def make(num_classes=10, in_channels=3, width=4, dropout=0.0, pooled=True):
    assert pooled is True
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
    first, second = nn.Conv2d(in_channels, width, 3), nn.Conv2d(width, width, 3)
    return nn.Sequential(first, nn.ReLU(), second, pool, nn.Linear(width, num_classes))

def bare():
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), Mean())

def layerless():
    return nn.Sequential(nn.BatchNorm2d(3), bare())

class Mean(nn.Module):
    def forward(self, x):
        return x.mean((1, 2))
"""


@pytest.fixture(autouse=True)
def factories(workplace):
    (workplace / "own_factories.py").write_text(FACTORIES)
    yield
    sys.modules.pop("own_factories", None)


@pytest.fixture(scope="session")
def vit(workplace):
    """A folder with a small ViT for digits and its image processor."""
    transformers = need("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=10)
    transformers.ViTForImageClassification(config).save_pretrained(workplace / "vit")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (workplace / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return workplace / "vit"


def test_arguments_reach_the_factory(clat, tmp_path):
    words = ("--model", "own_factories:make", "--model-args", "width=5", "dropout=0.5", "pooled=true")
    assert clat("evaluate", *words, *QUICK, "--out", tmp_path / "a.json").code == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["model_args"] == {"width": 5, "dropout": 0.5, "pooled": True}
    assert clat("criticality", *words, "--num-samples", 4, "--steps", 1).code == 0
    networks = [word for name in "ab" for word in ("--network", name, "own_factories:make", "args.width=5")]
    assert clat("transfer", *networks, "--num-samples", 4, "--attack", "fgsm").code == 0
    recipe = ("--model.name", "own_factories:make", "--model.args.width", 5)
    assert clat("train", "tiny.toml", "--out", tmp_path / "run", *recipe, *SHORT).code == 0
    assert load_file(tmp_path / "run" / "weights" / "last.safetensors")["0.weight"].shape[0] == 5


def test_grey_images(clat, tmp_path):
    words = ("--model", "own_factories:make", "--channels", 1)
    assert clat("evaluate", *words, *QUICK).code == 0
    recipe = ("--model.name", "own_factories:make", "--data.channels", 1)
    out = tmp_path / "run"
    assert clat("train", "tiny.toml", "--out", out, *recipe, *SHORT).code == 0
    weights = out / "weights" / "last.safetensors"
    assert load_file(weights)["0.weight"].shape[1] == 1
    assert clat("evaluate", "--model", out / "recipe.toml", "--weights", weights, "--channels", 1, *QUICK).code == 0
    assert clat("evaluate", "--model", "resnet18", "--width", 2, "--channels", 1, *QUICK).code == 0


def test_a_hugging_face_folder_through_every_command(clat, vit, tmp_path):
    """Ranked, evaluated, trained, evaluated again, and back in the library."""
    model = ("--model", f"hf:{vit}")
    ranked = clat("criticality", *model, "--num-samples", 8, "--eps", "0.1", "--out", tmp_path / "c.json")
    assert ranked.code == 0
    assert "vit" in ranked.out
    assert clat("evaluate", *model, *QUICK, "--out", tmp_path / "before.json").code == 0
    out = tmp_path / "run"
    trained = clat("train", "tiny.toml", "--out", out, "--model.name", f"hf:{vit}", *SHORT)
    assert trained.code == 0, trained
    last = out / "weights" / "last.safetensors"
    assert (out / "weights" / "stage-0.safetensors").exists()
    assert clat("evaluate", *model, "--weights", last, *QUICK, "--out", tmp_path / "after.json").code == 0
    again = clat(
        "evaluate", "--model", out / "recipe.toml", "--weights", last, *QUICK, "--out", tmp_path / "r.json"
    )
    assert again.code == 0
    after, recipe = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("after", "r"))
    assert after["robust"] == recipe["robust"]
    transformers = need("transformers")
    plain = transformers.ViTForImageClassification.from_pretrained(vit)
    plain.load_state_dict(load_file(last))
    tuned = package.load_model(f"hf:{vit}", weights=last)
    package.save_pretrained(tuned, tmp_path / "tuned")
    assert clat("evaluate", "--model", f"hf:{tmp_path / 'tuned'}", *QUICK, "--out", tmp_path / "t.json").code == 0
    assert json.loads((tmp_path / "t.json").read_text())["robust"] == after["robust"]


def test_a_run_with_a_library_s_network_goes_on_after_a_stop(clat, vit, tmp_path, monkeypatch):
    from clat.training import trainer
    from clat.training.interrupt import Interrupted

    words = ("train", "tiny.toml", "--model.name", f"hf:{vit}", *SHORT)
    assert clat(*words, "--out", tmp_path / "whole").code == 0
    original, count = trainer.Trainer._train_step, [0]

    def step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 6:
            raise Interrupted(2)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", step)
        clat(*words, "--out", tmp_path / "stopped")
    assert clat("train", "--resume", tmp_path / "stopped").code == 0
    whole, stopped = (load_file(tmp_path / run / "weights" / "last.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_timm_network(clat, tmp_path):
    need("timm")
    words = ("--model", "timm:vit_tiny_patch16_224", "--model-args")
    args = ("img_size=8", "patch_size=4", "embed_dim=12", "depth=2", "num_heads=2")
    assert clat("criticality", *words, *args, "--num-samples", 4, "--steps", 1, "--eps", "0.1").code == 0
    assert clat("evaluate", *words, *args, *QUICK).code == 0


# Bad input, one line each, before any folder is made

MINE = "own_factories:make"


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        (
            MINE,
            ("--model-args", "widht=5"),
            "unknown argument 'widht' of model 'own_factories:make'; did you mean 'width'",
        ),
        (MINE, ("--model-args", "width"), "expected KEY=VALUE"),
        (MINE, ("--model-args", "width=1", "width=2"), "width is there twice"),
        (MINE, ("--model-args", "pooled=1"), "the factory failed, AssertionError"),
        (MINE, ("--model-args", "width=wide"), "the factory failed, TypeError"),
        ("resnet18", ("--model-args", "width=4"), "'resnet18' takes no arguments (width)"),
        ("resnet18", ("--channels", "2"), "invalid choice"),
        ("tiny.toml", ("--model-args", "width=4"), "leave them out"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "criticality"])
def test_arguments(refused, command, model, words, says):
    assert says in refused(command, "--model", model, *words)


def test_networks_of_hugging_face(refused, vit, tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    train = ("train", "tiny.toml", "--out", tmp_path / "run", "--model.name")
    for name, says in (
        ("hf:nobody/nothing", "the Hugging Face hub cannot be reached"),
        (f"hf:{tmp_path}/absent", "no such folder"),
    ):
        assert says in refused("evaluate", "--model", name)
        assert says in refused(*train, name)
    assert "nonsense" in refused(*train, f"hf:{vit}", "--model.args.nonsense", 1)
    line = refused("evaluate", "--model", f"hf:{vit}", "--image-size", 16)
    assert "it takes 8 x 8 pixels: give --image-size 8" in line
    assert "it takes 8 x 8 pixels" in refused(*train, f"hf:{vit}", "--data.image_size", 16)
    assert "it takes 3 channels" in refused("evaluate", "--model", f"hf:{vit}", "--channels", 1)
    assert "leave normalize out" in refused("evaluate", "--model", f"hf:{vit}", "--normalize", "cifar10")
    assert not (tmp_path / "run").exists()


def test_a_network_without_layers_to_rank(refused, tmp_path):
    assert "no layer is left" in refused("criticality", "--model", "own_factories:bare", "--num-samples", 4)
    train = ("train", "tiny.toml", "--out", tmp_path / "run", "--model.name")
    assert "has no parameters: there is nothing to train" in refused(*train, "own_factories:bare")
    assert "no layer is left" in refused(*train, "own_factories:layerless")
    assert not (tmp_path / "run").exists()


def test_a_grey_network_on_colours(refused, clat, workplace):
    (workplace / "own_grey.py").write_text(
        "from torch import nn\n"
        "def grey():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    assert "it takes 1 channel: give --channels 1" in refused("evaluate", "--model", "own_grey:grey", *QUICK)
    assert clat("evaluate", "--model", "own_grey:grey", "--channels", 1, *QUICK).code == 0


def test_a_recipe_s_normalisation_does_not_wrap_a_factory(clat, tmp_path):
    words = ("train", "cifar10-narrow", "--out", tmp_path / "run", "--model.name", "own_factories:make")
    data = ("--data.name", "digits", "--data.train_size", 64, "--data.heldout", 32, "--data.pad", 1)
    small = ("--batch_size", 32, *SHORT, "--evaluation.weights", "none", "--precision", "32", "--device", "cpu")
    done = clat(*words, *data, *small)
    assert done.code == 0, done
    assert "note: model 'own_factories:make': left out normalize, width" in done.out
    assert "normalize" not in (tmp_path / "run" / "recipe.toml").read_text()
    model = package.load_model("own_factories:make", weights=tmp_path / "run" / "weights" / "last.safetensors")
    assert isinstance(model, nn.Sequential)


@pytest.mark.slow
def test_a_criticality_table_of_a_hugging_face_folder_in_a_process_takes_less_than_30_seconds(vit, workplace):
    words = [sys.executable, "-m", "clat", "criticality", "--model", f"hf:{vit}", "--num-samples", "20"]
    assert subprocess.run(words, cwd=workplace, timeout=30, capture_output=True).returncode == 0
