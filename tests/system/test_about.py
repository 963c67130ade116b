"""What the package says of itself and of the machine: recipes, doctor, completion."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib

import pytest

from clat.bench import machine
from clat.cli import COMMANDS
from clat.recipe.toml import build_recipe, built_in_recipes, read_recipe


def test_recipes_are_listed_in_groups_a_line_each(clat):
    listed = clat("recipes")
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert next(line for line in lines if line.endswith(":")).startswith("To begin with")
    for name in built_in_recipes():
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert listed.out == clat("train", "--list").out


def test_a_recipe_is_shown_as_toml_that_trains(clat, workplace):
    shown = clat("recipes", "show", "demo")
    assert shown.code == 0
    assert build_recipe(tomllib.loads(shown.out)) == read_recipe("demo")
    shown = clat("recipes", "show", "tiny.toml")
    assert build_recipe(tomllib.loads(shown.out)) == read_recipe("tiny.toml")


def test_recipes_that_are_none(refused):
    assert "unknown recipe 'dmeo'; did you mean 'demo'?" in refused("recipes", "show", "dmeo")
    for word in ("shwo", "list"):
        line = refused("recipes", word)
        assert f"unknown action '{word}' of clat recipes" in line
        assert "clat recipes alone lists the built-in recipes" in line
    assert "did you mean 'show'?" in refused("recipes", "shwo")
    assert "unknown action 'shwo' of clat data" in refused("data", "shwo")
    assert "NAME" in refused("recipes", "show")


def test_doctor_says_what_there_is(clat, monkeypatch, tmp_path):
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    (tmp_path / "data" / "[/x]").mkdir(parents=True)
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(machine, "pass_speed", lambda device: {"float32": 100.0, "bfloat16": 275.0})
    done = clat("doctor", "--device", "cpu", "--out", tmp_path / "doctor.json")
    assert done.code == 0
    for words in ("torch 2", "cifar10", "100 images/s in float32, 275 in bfloat16: use --precision bf16-mixed"):
        assert words in done.out
    assert "about 33 min 20 s an epoch" in done.out.replace("\N{NO-BREAK SPACE}", " ")
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["data"]["found"] == ["[", "cifar10"]
    assert found["images_per_second"]["bfloat16"] == 275
    assert found["packages"]["torch"]


def test_doctor_without_data_and_without_speed(clat, monkeypatch, tmp_path):
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "absent"))
    monkeypatch.setattr(machine, "pass_speed", lambda device: pytest.fail("measured"))
    done = clat("doctor", "--no-speed", "--device", "cpu")
    assert done.code == 0
    assert "holds nothing; digits come with clat" in done.out


def test_the_speed_is_of_passes(monkeypatch):
    import torch

    speed = machine.pass_speed(torch.device("cpu"), batch_size=1, rounds=1)
    assert list(speed) == ["float32", "bfloat16"]
    assert all(value > 0 for value in speed.values())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_every_command(clat, shell):
    done = clat("completion", shell)
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out


def completed(script, *words):
    """What bash offers for the last of the words."""
    program = f"{script}\nCOMP_WORDS=({' '.join(words)} '')\nCOMP_CWORD={len(words)}\n"
    function = next(line for line in script.splitlines() if line.startswith("complete ")).split()[-2]
    program += f"{function} clat '' ''\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_recipes(clat):
    script = clat("completion", "bash").out
    assert set(COMMANDS) <= set(completed(script, "clat"))
    assert set(built_in_recipes()) <= set(completed(script, "clat", "train"))
    assert set(built_in_recipes()) <= set(completed(script, "clat", "recipes", "show"))


def test_completion_for_another_shell(refused):
    assert "invalid choice: 'fish'" in refused("completion", "fish")
