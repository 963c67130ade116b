"""`engine.precision = "auto"`: what it means on a machine, what a run records of it, and where it is resumed."""

from __future__ import annotations

import json
import logging

import pytest
import torch

import clat
from clat.core import processor
from clat.core.errors import ClatError
from clat.network.precision import computes_bfloat16
from clat.objectives import GradAlign
from clat.recipe.toml import built_in_recipes, read_recipe, recipe_hash
from clat.runtime import settings
from clat.runtime.engine import Engine, EngineConfig
from clat.studies.row import Row
from clat.studies.run import _says
from helpers import runs as kit

FLAGS = "processor\t: 0\nflags\t\t: fpu {} avx512f\nbugs\t\t: avx512_bf16\n"


@pytest.fixture
def units(monkeypatch):
    """units(True): from here on the device has bfloat16 units."""

    def say(there):
        monkeypatch.setattr(settings, "computes_bfloat16", lambda device: there)

    return say


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (32, "32"),
        ("32", "32"),
        ("float32", "32"),
        ("bf16-mixed", "bf16-mixed"),
        ("bfloat16", "bf16-mixed"),
        ("auto", "auto"),
    ],
)
def test_every_name_of_a_precision_is_understood_in_python_and_in_a_recipe(given, name):
    assert EngineConfig(precision=given).precision == name
    assert read_recipe("demo", ["--engine.precision", str(given)]).engine.precision == name


@pytest.mark.parametrize("given", [16, "float16", True, 32.0, None])
def test_others_are_refused_in_one_line(given):
    with pytest.raises(ClatError, match="unknown precision"):
        EngineConfig(precision=given)


def test_auto_is_bfloat16_where_the_device_has_it(units):
    for there, name in ((False, "32"), (True, "bf16-mixed")):
        units(there)
        assert EngineConfig().resolved().precision == name
        assert Engine(EngineConfig(device="cpu")).precision == name
        assert Engine(EngineConfig(device="cpu", precision="32")).precision == "32"


def test_a_stage_that_differentiates_a_gradient_is_in_float32_unless_told_otherwise(units):
    units(True)
    stages = (kit.pgd_at(1, objective=GradAlign()),)
    assert kit.recipe(stages=stages, engine=EngineConfig()).resolved().engine.precision == "32"
    told = kit.recipe(stages=stages, engine=EngineConfig(precision="bfloat16"))
    assert told.resolved().engine.precision == "bf16-mixed"


def test_the_library_below_says_nothing_of_its_own(units):
    """Standard error is for the one line of an error."""
    units(True)
    said = []
    listener = logging.Handler()
    listener.emit = said.append
    logging.getLogger("lightning_fabric").addHandler(listener)
    try:
        Engine(EngineConfig(device="cpu"))
    finally:
        logging.getLogger("lightning_fabric").removeHandler(listener)
    assert said == []


def test_no_built_in_recipe_fixes_a_precision():
    assert {read_recipe(name).engine.precision for name in built_in_recipes()} == {"auto"}


def test_a_run_records_its_precision_and_is_resumed_in_it_anywhere(units, tmp_path, monkeypatch, capsys):
    recipe = kit.recipe(engine=EngineConfig(device="cpu"))
    units(True)
    clat.train(recipe, tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=5)
    here = recipe_hash(recipe)
    units(False)
    assert recipe_hash(recipe) != here, "it would become another run"
    capsys.readouterr()
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=5), data=kit.data())
    assert "emulates bfloat16" in capsys.readouterr().out
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    about = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert (about["environment"]["precision"], about["recipe_hash"]) == ("bf16-mixed", here)
    recorded = read_recipe(tmp_path / "stopped" / "recipe.toml")
    assert (recorded.engine.precision, recipe_hash(recorded)) == ("bf16-mixed", here)


def test_a_studys_folder_from_before_goes_on_where_the_precision_is_the_same(units, tmp_path):
    file = tmp_path / "row.toml"
    file.write_text(clat.recipe.recipe_toml(kit.recipe(engine=EngineConfig(precision="bf16-mixed"))))
    row = Row("row", kit.recipe(engine=EngineConfig()))
    for there in (True, False):
        units(there)
        assert _says(file, row) is there


# What the hardware has


def test_onednn_held_to_an_older_instruction_set_has_no_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert computes_bfloat16("cpu")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "avx2")
            assert not computes_bfloat16("cpu")
            patch.setenv(name, "AVX512_CORE_BF16")
            assert computes_bfloat16("cpu")


@pytest.mark.parametrize(("flags", "there"), [("avx2", False), ("avx512_bf16", True), ("amx_bf16 amx_tile", True)])
def test_an_older_torch_asks_linux(monkeypatch, flags, there):
    """The line of bugs, or a flag of which it is a part, says nothing."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(processor, "processor_text", lambda: FLAGS.format(flags))
    assert computes_bfloat16("cpu") is there
    monkeypatch.setattr(processor, "processor_text", lambda: "")
    assert not computes_bfloat16("cpu")


def test_without_cuda_cuda_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not computes_bfloat16("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert computes_bfloat16("cuda")
