"""Another network in a recipe does not inherit what belongs to the recipe's own, and it is said."""

from __future__ import annotations

import inspect

import pytest

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models.registry import MODELS
from clat.models.settings import ModelConfig
from clat.recipe import built_in_recipes, read_recipe
from clat.recipe.inherited import TAKEN_BY


def read(source: object, *words: str) -> tuple[ModelConfig, list[str]]:
    said: list[str] = []
    with listening(said.append):
        return read_recipe(str(source), words).model, said


NORMALISED = [name for name in built_in_recipes() if read_recipe(name).model.normalize is not None]


@pytest.mark.parametrize("recipe", NORMALISED)
@pytest.mark.parametrize("name", ["mine:net", "timm:resnet18", "hf:owner/net", "robustbench:Wu2020Adversarial"])
def test_a_foreign_network_does_not_get_the_data_set_s_normalisation(recipe: str, name: str) -> None:
    model, said = read(recipe, "--model.name", name)
    assert (model.name, model.normalize, model.width) == (name, None, None)
    assert len(said) == 1
    assert f"model '{name}': left out normalize" in said[0]
    assert "--model.normalize would set it" in said[0]


def test_what_is_given_with_the_name_stays() -> None:
    words = ("--model.name", "mine:net", "--model.normalize", "svhn", "--model.width", "3")
    model, said = read("cifar10-narrow", *words)
    assert (model.normalize, model.width) == ("svhn", 3)
    assert said == []
    model, said = read("cifar10-narrow", "--model.width", "3", "--model.name", "mine:net")
    assert (model.normalize, model.width) == (None, 3)
    assert "left out normalize, which" in said[0]


def test_a_built_in_network_inherits() -> None:
    model, said = read("cifar10-narrow", "--model.name", "resnet50")
    assert (model.normalize, model.width, said) == ("cifar10", 24, [])


def test_a_recipe_that_extends_another(tmp_path) -> None:
    (tmp_path / "own.toml").write_text('extends = "cifar10-narrow"\n[model]\nname = "mine:net"\nweights = "w.pt"\n')
    model, said = read(tmp_path / "own.toml")
    assert (model.normalize, model.weights) == (None, "w.pt")
    assert "left out normalize, width" in said[0]
    (tmp_path / "asks.toml").write_text(
        'extends = "cifar10-narrow"\n[model]\nname = "mine:net"\nnormalize = "cifar100"\nwidth = 2\n'
    )
    assert read(tmp_path / "asks.toml")[0].normalize == "cifar100"
    assert read(tmp_path / "asks.toml")[1] == []


def test_what_stands_together_in_one_file_is_meant(tmp_path) -> None:
    text = 'extends = "demo"\n[model]\nname = "mine:net"\nnormalize = "cifar10"\nwidth = 3\nargs = { a = 1 }\n'
    (tmp_path / "own.toml").write_text(text)
    assert read(tmp_path / "own.toml", "--model.name", "mine:net")[1] == []
    model, said = read(tmp_path / "own.toml", "--model.name", "other:net")
    assert model.args is None
    assert "left out normalize, width, args" in said[0]


def test_a_built_in_network_leaves_out_what_it_does_not_take() -> None:
    for name, builder in MODELS.items():
        for field in ("activation", "input_size", "depths"):
            taken = field in inspect.signature(builder).parameters
            assert name.startswith(TAKEN_BY[field]) == taken, (name, field)
    model, said = read("ema", "--model.name", "resnet18")
    assert model.activation is None
    assert "model 'resnet18': left out activation" in said[0]
    assert read("ema", "--model.name", "dm-wrn-70-16")[1] == []


def test_another_optimizer_keeps_what_all_have(tmp_path) -> None:
    (tmp_path / "own.toml").write_text('extends = "awp"\n[optimizer]\nname = "adamw"\nbetas = [0.8, 0.9]\n')
    found = read_recipe(tmp_path / "own.toml").optimizer
    assert (found.name, found.arguments) == ("adamw", {"betas": (0.8, 0.9), "weight_decay": 0.0005})
    again = read_recipe(tmp_path / "own.toml", ["--optimizer.name", "sgd"]).optimizer
    assert again == read_recipe("awp", ["--optimizer.momentum", "0.9"]).optimizer
    same = read_recipe(tmp_path / "own.toml", ["--optimizer.name", "AdamW", "--optimizer.weight_decay", "0.2"])
    assert same.optimizer.arguments == {"betas": (0.8, 0.9), "weight_decay": 0.2}
    (tmp_path / "spelled.toml").write_text('extends = "own.toml"\n[optimizer]\nname = "AdamW"\neps = 1e-6\n')
    (tmp_path / "again.toml").write_text('extends = "spelled.toml"\n[optimizer]\nname = "AdamW"\n')
    assert read_recipe(tmp_path / "again.toml").optimizer.arguments["eps"] == 1e-6
    with pytest.raises(ClatError, match="unknown argument of the optimizer adamw 'momentum'"):
        read_recipe("awp", ["--optimizer.momentum", "0.8", "--optimizer.name", "adamw"])


def test_lambda_or_ratio_takes_the_place_of_the_other() -> None:
    found = read_recipe("pgd-at-clat", ["--stages.clat.objective.lambda", "0.5"]).stages[1].objective
    assert (found.lambda_, found.ratio) == (0.5, None)
    words = ["--stages.clat.objective.lambda", "0.5", "--stages.clat.objective.ratio", "0.1"]
    with pytest.raises(ClatError, match="takes lambda or ratio, not both"):
        read_recipe("pgd-at-clat", words)


def test_a_stage_by_number_and_by_name_is_one_stage() -> None:
    words = ["--stages.1.optimizer.betas", "[0.8, 0.9]", "--stages.clat.optimizer.name", "adamw"]
    optimizer = read_recipe("pgd-at-clat", words).stages[1].optimizer
    assert optimizer is not None
    assert optimizer.arguments == {"betas": (0.8, 0.9)}
    with pytest.raises(ClatError, match="lambda or ratio, not both"):
        read_recipe("pgd-at-clat", ["--stages.1.objective.ratio=0.1", "--stages.clat.objective.lambda=0.5"])


def test_members_of_a_mixture() -> None:
    own = read_recipe("mixture-clat").model
    model, said = read("mixture-clat", "--model.robust.name", "mine:net", "--model.robust.weights", "r.pt")
    assert model.robust is not None
    assert model.robust.normalize is None
    assert model.standard == own.standard
    assert len(said) == int(own.robust.normalize is not None or own.robust.width is not None)


def test_arguments_from_the_command_line() -> None:
    model, _ = read("demo", "--model.name", "mine:net", "--model.args.img_size", "64", "--model.args.flag", "true")
    assert model.args == {"img_size": 64, "flag": True}
