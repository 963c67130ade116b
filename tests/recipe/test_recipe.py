"""Recipes: reading, overriding, refusing, writing, hashing."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from clat.core.errors import ClatError
from clat.criticality.rankings import CriticalityRanking, RobustCriticalityRanking
from clat.criticality.selection import Selection
from clat.data import ImagenetSettings
from clat.models.settings import GateConfig, NetworkConfig
from clat.objectives import Clat, ClatFast, FastAT, PgdAT, Standard, Trades
from clat.recipe.data_settings import ExtraConfig
from clat.recipe.eps_schedule import EpsSchedule
from clat.recipe.optimizer import TorchOptimizer
from clat.recipe.schedules import Schedule
from clat.recipe.schema import (
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    Recipe,
    StageConfig,
)
from clat.recipe.toml import build_recipe, built_in_recipes, read_recipe, recipe_hash, recipe_toml
from clat.treatments import Reinitialise

TEXT = """
name = "small"
eps = "8/255"
batch_size = 32

[model]
name = "resnet18"
width = 4

[[stages]]
name = "pgd-at"
epochs = 3
objective = { name = "pgd-at", steps = 2 }

[[stages]]
name = "clat"
epochs = 2
objective = { name = "clat", lambda = 0.5 }
selection = { k = 2, every = 1 }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def read(file, *overrides):
    return read_recipe(file, overrides)


def refused(file, *overrides):
    with pytest.raises(ClatError) as caught:
        read_recipe(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_becomes_a_recipe(file):
    assert read(file) == Recipe(
        name="small",
        eps="8/255",
        batch_size=32,
        model=ModelConfig(name="resnet18", width=4),
        stages=(
            StageConfig(name="pgd-at", epochs=3, objective=PgdAT(steps=2)),
            StageConfig(name="clat", epochs=2, objective=Clat(lambda_=0.5), selection=Selection(k=2, every=1)),
        ),
    )


RICH = Recipe(
    name="everything",
    seed=7,
    eps=0.03,
    norm="l2",
    model=ModelConfig(
        name="own.module:factory",
        width=3,
        depths=(1, 2),
        activation="silu",
        normalize=((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
        input_size=224,
        weights="w.pt",
        weights_key="ema",
        args={"drop_rate": 0.1, "items": True, "depths": [1, 2], "variant": "b", "img_size": 64},
        classifier="new",
    ),
    data=DataConfig(
        label_column="kind",
        image_column="photo",
        classes=("cat", "dog"),
        name="cifar10",
        train_size=100,
        decide_on="test-split",
        split_seed=2,
        image_size=16,
        channels=1,
        augment="imagenet",
        imagenet=ImagenetSettings(
            area=(0.2, 0.9), ratio=(0.5, 2.0), hue=0.1, rand_augment=2, magnitude=5, by="batch"
        ),
        pad=0,
        padding_mode="reflect",
        flip=False,
        cutmix=True,
        mixup=0.2,
        decoded=True,
        extra=ExtraConfig(file="edm_1m.npz", fraction=0.5),
    ),
    schedule=Schedule(kind="piecewise", lr=0.05, epochs=9, milestones=(0.25, 0.5), factor=0.3, warmup=0.5),
    optimizer=OptimizerConfig(
        momentum=0.8,
        weight_decay=0.0,
        nesterov=True,
        decay_norms_and_biases=False,
        layer_decay=0.5,
        clip_norm=2.0,
    ),
    monitor=MonitorConfig(steps=3, num_samples=9, every=2, stop_on_collapse=True, loggers=("csv",)),
    evaluation=EvaluationConfig(protocol="pgd-50", num_samples=77, batch_size=11, weights="none"),
    engine=EngineConfig(device="cpu", devices=2, precision="bf16-mixed", channels_last=False),
    stages=(
        StageConfig(name="a", epochs=1, objective=Standard(), treatments=(Reinitialise(modules=("conv1",)),)),
        StageConfig(name="b", epochs=1, objective=Trades(beta=3.5, alpha="1/100"), batch_norm="update"),
        StageConfig(
            name="c",
            epochs=1,
            objective=FastAT(eps="4/255", label_smoothing=0.1),
            eps_schedule=EpsSchedule(from_="1/8", until=0.5),
            optimizer=TorchOptimizer(name="AdamW", arguments={"betas": [0.8, 0.9], "amsgrad": True}, clip_norm=1.0),
        ),
        StageConfig(
            name="d",
            epochs=1,
            objective=ClatFast(ratio=0.2, calibrate="selection", ce_input="pgd", tap="norm", relative=True),
            selection=Selection(
                rule="named", layers=("conv1", 3), include=("conv*",), exclude=("*.x",), group="mlp"
            ),
            schedule=Schedule(kind="cyclic", peak=0.3),
            optimizer=OptimizerConfig(momentum=0.0),
        ),
        StageConfig(
            name="e",
            epochs=1,
            objective=Clat(),
            selection=Selection(ranking=RobustCriticalityRanking(radius=0.2, epochs=3, alpha="2/225")),
        ),
        StageConfig(
            name="f",
            epochs=1,
            objective=Clat(),
            selection=Selection(metric="curvature", tap="norm", steps=3),
        ),
    ),
)


MIXED = Recipe(
    name="mixture",
    model=ModelConfig(
        name="mixture",
        standard=NetworkConfig(name="resnet18", width=4, weights="s.pt"),
        robust=NetworkConfig(name="robustbench:Wang2023Better_WRN-70-16", weights="r.pt"),
        gate=GateConfig(standard=("layer1",), robust=("layer.0",), hidden=(8,), alpha_range=(0.5, 1.0)),
        scales=(1.2, 0.5),
        standard_size=128,
        weights="whole.safetensors",
    ),
    stages=RICH.stages[:1],
)


@pytest.mark.parametrize("recipe", [RICH, MIXED, *map(read_recipe, built_in_recipes())], ids=lambda r: r.name)
def test_writing_and_reading_gives_an_equal_recipe(recipe, tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(recipe_toml(recipe))
    again = read_recipe(path)
    assert again == recipe
    assert recipe_toml(again) == recipe_toml(recipe)
    assert recipe_hash(again) == recipe_hash(recipe)


def test_the_rich_recipe_differs_from_the_default_everywhere():
    """So the round trip above covers every field of the run's own tables."""
    network = {f.name for f in dataclasses.fields(NetworkConfig)}
    assert not [f.name for f in dataclasses.fields(NetworkConfig) if getattr(RICH.model, f.name) == f.default]
    own = [f for f in dataclasses.fields(ModelConfig) if f.name not in network]
    assert [f.name for f in own if getattr(MIXED.model, f.name) == f.default] == ["alpha"]  # a gate instead
    for config in (RICH.data, RICH.optimizer, RICH.monitor, RICH.evaluation):
        same = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) == f.default]
        assert same in ([], ["heldout"], ["name"]), type(config)


@pytest.mark.parametrize("name", built_in_recipes())
def test_every_built_in_recipe_loads_and_says_what_it_is(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    first_line = built_in_recipes()[name].read_text().splitlines()[0]
    assert first_line.startswith("# ")


@pytest.mark.parametrize(
    ("words", "where", "value"),
    [
        (["--stages.clat.epochs", "5"], lambda r: r.stages[1].epochs, 5),
        (["--stages.0.epochs", "5"], lambda r: r.stages[0].epochs, 5),
        (["--stages.pgd-at.objective.steps=7"], lambda r: r.stages[0].objective.steps, 7),
        (["--stages.clat.objective.lambda", "0.25"], lambda r: r.stages[1].objective.lambda_, 0.25),
        (["--stages.clat.selection.rule", "random"], lambda r: r.stages[1].selection.rule, "random"),
        (["--stages.clat.batch-norm", "update"], lambda r: r.stages[1].batch_norm, "update"),
        (["--data.name=cifar10"], lambda r: r.data.name, "cifar10"),
        (["--data.train-size", "2000"], lambda r: r.data.train_size, 2000),
        (["--data.padding_mode", "reflect"], lambda r: r.data.padding_mode, "reflect"),
        (["--data.augment", "idbh-strong"], lambda r: r.data.augment, "idbh-strong"),
        (["--data.extra.file", "e.npz", "--data.extra.fraction", "0.5"], lambda r: r.data.extra.fraction, 0.5),
        (["--schedule.kind", "one-cycle"], lambda r: (r.schedule.kind, r.schedule.peak), ("one-cycle", None)),
        (["--data.flip", "false"], lambda r: r.data.flip, False),
        (["--engine.precision", '"32"'], lambda r: r.engine.precision, "32"),
        (["--eps", "4/255"], lambda r: r.eps, "4/255"),
        (["--eps=0.03"], lambda r: r.eps, "0.03"),
        (["--optimizer.name", "SGD"], lambda r: (r.optimizer.name, r.optimizer.momentum), ("sgd", 0.9)),
        (
            ["--optimizer", '{name = "AdamW", betas = [0.8, 0.9]}'],
            lambda r: r.optimizer.arguments["betas"],
            (0.8, 0.9),
        ),
        (["--stages.clat.optimizer.name", "adam"], lambda r: r.optimizer_of(1).name, "adam"),
        (["--schedule.lr", "1e-2"], lambda r: r.schedule.lr, 0.01),
        (["--seed", "3", "--batch_size", "8"], lambda r: (r.seed, r.batch_size), (3, 8)),
        (["--name", "true story"], lambda r: r.name, "true story"),
        (["--model.normalize", "[[0.5], [0.2]]"], lambda r: r.model.normalize, ((0.5,), (0.2,))),
        (["--seed", "1", "--seed", "2"], lambda r: r.seed, 2),
    ],
)
def test_overrides(file, words, where, value):
    assert where(read(file, *words)) == value


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data.nam", "x"], "unknown field 'data.nam'; did you mean 'name'?"),
        (["--batchsize", "1"], "unknown field 'batchsize'; did you mean 'batch_size'?"),
        (["--stages.clat.epoch", "1"], "unknown field 'stages.clat.epoch'; did you mean 'epochs'?"),
        (["--stages.clat.objective.lamda", "1"], "did you mean 'lambda'?"),
        (["--stages.clat.selection.kk", "1"], "unknown field"),
        (["--stages.clat.k", "3"], "unknown field 'stages.clat.k'; did you mean 'selection.k'?"),
        (["--pad", "3"], "unknown field 'pad'; did you mean 'data.pad'?"),
        (["--data.fraction", "1"], "did you mean 'extra.fraction'?"),
        (["--lr", "1"], "did you mean 'schedule.lr' or 'stages.pgd-at.schedule.lr' or"),
        (["--k", "1"], "did you mean 'stages.pgd-at.selection.k' or 'stages.clat.selection.k'?"),
        (["--stages.clat.metric", "x"], "did you mean 'selection.metric'?"),
        (
            ["--stages.clta.epochs", "1"],
            "unknown stage 'clta' in --stages.clta.epochs; did you mean 'clat'? Valid: clat, pgd-at",
        ),
        (["--stages.7.epochs", "1"], "unknown stage '7' in --stages.7.epochs; Valid: "),
        (["--stages.clat", "1"], "name a field of 'clat'"),
        (["--name.first", "x"], "'name' is a value, not a table"),
        (["--seed"], "--seed has no value"),
        (["--seed", "--name", "x"], "--seed has no value"),
        (["seed", "1"], "unexpected argument 'seed'"),
        (["--stages.clat.objective.name", "clatt"], "did you mean 'clat'?"),
        (["--stages.clat.epochs", "many"], "stages.clat.epochs"),
        (["--stages.clat.epochs", "1.5"], "stages.clat.epochs"),
        (["--stages.clat.epochs", "0"], "at least 1"),
        (["--eps", "8"], "did you mean 8/255?"),
        (["--eps", "0"], "eps is 0"),
        (["--eps", "-1/255"], "at least 0"),
        (["--eps", "big"], "eps is 'big'"),
        (["--stages.pgd-at.objective.eps", "8"], "did you mean 8/255?"),
        (["--stages.pgd-at.objective.eps", "0"], "eps is 0: the attack would not move"),
        (["--norm", "l1"], "unknown norm 'l1'"),
        (["--stages.clat.objective.ratio=0.1", "--stages.clat.objective.lambda=1"], "lambda or ratio, not both"),
        (["--stages.clat.batch_norm", "freeze"], "batch_norm"),
        (["--stages.clat.selection.rule", "criticl"], "selection.rule"),
        (["--stages.clat.selection.ranking", "mcr"], "unknown ranking 'mcr'; did you mean 'mrc'?"),
        (["--stages.clat.selection.ranking", '{name = "mcr"}'], "did you mean 'mrc'?"),
        (["--stages.clat.selection.ranking", '{name = "mrc", radus = 1}'], "did you mean 'radius'?"),
        (
            ["--stages.clat.selection.ranking", '{name = "mrc", epochs = 0}'],
            "epochs of the robust criticality is 0",
        ),
        (["--stages.clat.selection.ranking", "{radius = 1}"], "selection.ranking.name is missing"),
        (["--stages.clat.selection.ranking", "5"], "selection.ranking: expected a table"),
        (["--stages.clat.selection.normalizer", "sqrt"], "did you mean 'normaliser'?"),
        (["--stages.clat.selection.normaliser", "sqr"], "selection.normaliser"),
        (["--stages.clat.selection.steps", "0"], "selection.steps is 0"),
        (["--batch_size", "9223372036854775808"], "batch_size is 9223372036854775808: expected at most"),
        (["--seed", "-9223372036854775809"], "recipe: seed: expected a whole number of 64 bits (got -92233"),
        (["--stages.clat.epochs", "1" + "0" * 4000], "expected at most"),
        (["--stages.clat.selection.steps", "true"], "stages.clat.selection.steps: expected no truth value"),
        (["--stages.clat.selection.group", "mpl"], "selection.group"),
        (["--stages.clat.name", "pgd-at"], "two stages are called 'pgd-at'"),
        (["--schedule.kind", "cosin"], "schedule.kind"),
        (["--schedule.lr", "0"], "schedule.lr"),
        (["--schedule.lr", "nan"], "schedule.lr"),
        (["--engine.device", "gpu"], "unknown device 'gpu'"),
        (["--engine.devices", "0"], "engine.devices"),
        (["--schedule.peak", "1"], "schedule.peak"),
        (["--schedule.warmup", "-1"], "schedule.warmup is -1"),
        (["--schedule.warmup", "5"], "schedule.warmup is 5.0: the schedule has 5 epochs in all"),
        (["--schedule", '{kind = "cyclic", warmup = 1}'], "'cyclic' rises by itself"),
        (["--stages.clat.schedule", "{warmup = 2}"], "the schedule has 2 epochs in all"),
        (["--data.augment", "idbh"], "data.augment"),
        (["--data.augment", "imagnet"], "did you mean 'imagenet'?"),
        (["--data.imagenet.area", "[0.5, 1.0]"], "data.imagenet belongs to data.augment"),
        (["--data.augment", "imagenet", "--data.imagenet.area", "[0.5, 2.0]"], "imagenet area is 0.5 to 2.0"),
        (["--data.augment", "imagenet", "--data.imagenet.hue", "0.7"], "half the circle"),
        (["--data.augment", "imagenet", "--data.imagenet.bright", "0.7"], "did you mean 'brightness'?"),
        (["--data.mixup", "0"], "mixup's alpha is 0"),
        (["--data.mixup", "0.2", "--stages.0.objective", '{name = "mart"}'], "data.mixup mixes them"),
        (["--data.padding_mode", "mirror"], "data.padding_mode"),
        (["--data.extra.fraction", "0.5"], "data.extra.file is missing"),
        (["--data.extra.file", "e.npz", "--data.extra.fraction", "1"], "the fraction of extra images is 1.0"),
        (["--data.extra.file", "e.npz", "--data.extra.fractoin", "0.5"], "did you mean 'fraction'?"),
        (["--stages.pgd-at.objective", '{name = "trades", label_smoothing = 1.0}'], "label_smoothing is 1.0"),
        (["--optimizer.nesterov", "true", "--optimizer.momentum", "0"], "nesterov"),
        (["--optimizer.momentum", "1.5"], "optimizer.momentum"),
        (["--optimizer.momentum", "false"], "optimizer.momentum: expected no truth value"),
        (["--weight_decay", "0.1"], "unknown field 'weight_decay'; did you mean 'optimizer.weight_decay' or"),
        (["--optimizer.momentun", "0.3"], "unknown field 'optimizer.momentun'; did you mean 'momentum'?"),
        (["--optimizer.name", "adamv"], "unknown optimizer 'adamv'; did you mean 'adam'?"),
        (["--optimizer.name", "lbfgs"], "unknown optimizer 'lbfgs'"),
        (["--optimizer", "adamw"], "optimizer: expected a table"),
        (
            ["--optimizer", '{name = "adamw", beta = [0.9, 0.95]}'],
            "argument of the optimizer adamw 'beta'; did you mean 'betas'",
        ),
        (["--optimizer", '{name = "adamw", momentum = 0.9}'], "replaces the whole table"),
        (["--optimizer", '{name = "adamw", lr = 0.1}'], "give schedule.lr"),
        (
            ["--optimizer", '{name = "adamw", betas = 0.9}'],
            "optimizer.betas is 0.9: expected something like (0.9, 0.999)",
        ),
        (["--optimizer", '{name = "adamw", betas = [0.9, 1.5]}'], "Invalid beta parameter at index 1"),
        (["--optimizer", '{name = "adamw", amsgrad = 1}'], "optimizer.amsgrad is 1"),
        (["--optimizer", '{name = "adamw", weight_decay = true}'], "optimizer.weight_decay is True"),
        (["--optimizer", '{name = "adamw", weight_decay = inf}'], "optimizer.weight_decay is inf"),
        (["--optimizer", '{name = "rprop", decay_norms_and_biases = false}'], "'rprop' has no weight_decay"),
        (["--optimizer.layer_decay", "0"], "optimizer.layer_decay is 0"),
        (["--optimizer.clip_norm", "0"], "optimizer.clip_norm is 0"),
        (["--stages.clat.objective.lambda", "true"], "stages.clat.objective.lambda: expected no truth value"),
        (["--seed", "true"], "seed: expected no truth value"),
        (["--evaluation.num_samples", "0"], "evaluation.num_samples"),
        (["--evaluation.batch_size", "0"], "evaluation.batch_size"),
        (["--monitor.every", "0"], "monitor.every"),
        (["--stages", "3"], "stages: expected a list"),
        (["--stages.pgd-at.objective", "pgd-at"], "stages.pgd-at.objective: expected a table"),
        (["--data.extra", "5"], "data.extra: expected a table"),
        (["--stages.pgd-at.treatments", "[{ gamma = 1.0 }]"], "stages.pgd-at.treatments.0.name is missing"),
        (["--schedule.factor", "inf"], "schedule.factor: input should be a finite number"),
        (["--optimizer.weight_decay", "inf"], "optimizer.weight_decay: input should be a finite number"),
        (["--stages.clat.objective.lambda", "inf"], "objective.lambda: input should be a finite number"),
        (["--engine.checkpoint_seconds", "-1"], "engine.checkpoint_seconds is -1"),
        (["--stages.pgd-at.objective", '{name = "fast-at", steps = 2}'], "steps is 2"),
        (["--stages.clat.objective", '{name = "clat-fast", steps = 2}'], "steps is 2"),
        (["--stages.pgd-at.objective", '{name = "mixing", eps = 8}'], "did you mean 8/255?"),
        (["--stages.pgd-at.treatments", '[{name = "ema"}, {name = "swa", window = 1}]'], "'ema' beside 'swa'"),
        (["--stages.pgd-at.treatments", '[{name = "swa", window = 1}, {name = "ema"}]'], "'swa' beside 'ema'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(file, words, says):
    assert says in refused(file, *words)


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "pgd-at", "eps": 2.0},
        {"name": "pgd-at", "eps": "3/2", "alpha": 1.5},
        {"name": "trades", "alpha": 1.5},
        {"name": "fast-at", "eps": 1.5},
        {"name": "n-fgsm", "eps": 1.5},
        {"name": "gat", "eps": 1.5},
        {"name": "grad-align", "eps": 1.5, "lambda": 0.2},
        {"name": "free-at", "eps": 1.5},
        {"name": "autolora", "alpha": 1.5},
    ],
    ids=str,
)
def test_an_objective_s_own_sizes_are_measured_in_the_run_s_norm(objective):
    data = {"eps": 0.5, "norm": "l2", "stages": [{"name": "s", "epochs": 1, "objective": objective}]}
    recipe = build_recipe(data)
    assert build_recipe(tomllib.loads(recipe_toml(recipe))) == recipe
    with pytest.raises(ClatError, match=r"stage 's': (eps|alpha) is \S+, but images lie in \[0, 1\]") as caught:
        build_recipe(data | {"norm": "linf"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pgd-at", "free-at", "mixing"])
def test_an_objective_s_eps_of_zero_is_refused(name):
    stage = {"name": "s", "epochs": 1, "objective": {"name": name, "eps": 0}}
    with pytest.raises(ClatError, match="eps is 0: the attack would not move"):
        build_recipe({"stages": [stage]})


def test_statistics_of_the_selected_layers_need_a_selection():
    stage = {"name": "s", "epochs": 1, "objective": {"name": "pgd-at"}, "batch_norm": "update-selected"}
    with pytest.raises(ClatError, match="'update-selected' needs a selection: take 'update'"):
        build_recipe({"stages": [stage]})


def test_a_clat_stage_needs_a_selection(file):
    file.write_text(TEXT.replace("selection = { k = 2, every = 1 }", ""))
    assert "stage 'clat': the objective 'clat' needs a selection" in refused(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "stages is missing"),
        ({"stages": []}, "at least one stage"),
        ({"stages": [{"name": "a", "objective": {"name": "standard"}}]}, "epochs is missing"),
        ({"stages": [{"name": "a", "epochs": 1}]}, "objective is missing"),
        ({"stages": [1]}, "stages.0"),
    ],
)
def test_incomplete_recipes_are_refused(data, says):
    with pytest.raises(ClatError, match=says):
        build_recipe(data)


def test_files_that_are_no_recipes(tmp_path):
    assert "not found" in refused(tmp_path / "absent.toml")
    (tmp_path / "run").mkdir()
    assert "is a folder: give the .toml file of a recipe" in refused(tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").touch()
    assert f"is a run's folder: its recipe is {tmp_path}/run/recipe.toml;" in refused(tmp_path / "run")
    assert "unknown recipe 'dmo'; did you mean 'demo'?" in refused("dmo")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n[[")
    assert "not valid TOML" in refused(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refused(broken)


def test_a_recipe_can_extend_another(tmp_path, file):
    (tmp_path / "more.toml").write_text('extends = "small.toml"\nname = "more"\n[model]\nwidth = 9\n')
    more = read_recipe(tmp_path / "more.toml")
    assert (more.name, more.model.width, more.model.name, more.stages) == ("more", 9, "resnet18", read(file).stages)


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    assert "extends" in refused(tmp_path / "a.toml")
    (tmp_path / "c.toml").write_text("extends = 3")
    assert "extends" in refused(tmp_path / "c.toml")
    (tmp_path / "d.toml").write_text('extends = "d.toml"')
    assert "extends" in refused(tmp_path / "d.toml")


def test_an_objective_that_reads_single_labels_is_refused_where_they_are_mixed():
    with pytest.raises(ClatError, match="'mart' needs one label an image"):
        read_recipe("mart", ["--data.cutmix", "true"])
    assert read_recipe("trades", ["--data.cutmix", "true"]).data.cutmix


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "1"],
        ["--eps", "4/255"],
        ["--norm", "l2"],
        ["--batch_size", "16"],
        ["--model.width", "8"],
        ["--data.train_size", "100"],
        ["--data.split_seed", "1"],
        ["--data.augment", "idbh-weak"],
        ["--data.extra.file", "e.npz"],
        ["--data.cutmix", "true"],
        ["--data.mixup", "0.2"],
        ["--data.augment", "imagenet"],
        ["--schedule.lr", "0.2"],
        ["--schedule.warmup", "0.5"],
        ["--optimizer.momentum", "0.8"],
        ["--monitor.steps", "3"],
        ["--engine.precision", "bf16-mixed"],
        ["--engine.devices", "2"],
        ["--stages.0.epochs", "4"],
        ["--stages.0.objective.steps", "3"],
        ["--stages.0.batch_norm", "frozen"],
    ],
)
def test_the_hash_depends_on_what_decides_the_weights(file, words):
    one, other = read(file), read(file, *words)
    assert recipe_hash(one) != recipe_hash(other)
    assert recipe_hash(one, 1) != recipe_hash(other, 1)


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "x"],
        ["--evaluation.protocol", "pgd-50"],
        ["--evaluation.num_samples", "5"],
        ["--engine.checkpoint_seconds", "5"],
    ],
)
def test_the_hash_ignores_what_does_not(file, words):
    assert recipe_hash(read(file)) == recipe_hash(read(file, *words))


def test_runs_from_before_clat_chose_where_its_term_is_taken_keep_their_hash():
    words = ["--model.name", "resnet18", "--model.weights", "x.pt"]
    before = "4d95a161082e7722"  # computed when there was no `feature_input`
    assert recipe_hash(read_recipe("clat-finetune", words)) == before
    words += ["--stages.clat.objective.feature_input", "pgd"]
    assert recipe_hash(read_recipe("clat-finetune", words)) != before


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("pgd-at", "random_start", "false"), ("trades", "start", "uniform")],
)
def test_runs_from_before_an_objective_had_a_setting_keep_their_hash(file, name, field, value):
    assert recipe_hash(read(file)) == "6bac12a3aaf9bd06"  # computed before there was `random_start`
    named = ["--stages.0.objective.name", name]
    assert recipe_hash(read(file, *named)) != recipe_hash(
        read(file, *named, f"--stages.0.objective.{field}", value)
    )


def by(**selection):
    return build_recipe(
        {"stages": [{"name": "s", "epochs": 1, "objective": {"name": "standard"}, "selection": selection}]}
    )


@pytest.mark.parametrize(
    ("selection", "before"),
    [
        ({"ranking": "mrc", "steps": 3, "alpha": "2/225", "rule": "least-critical"}, "d720e1cafbb02411"),
        ({"ranking": "activation", "tap": "norm", "alpha": 0.02}, "ae88af5d65d852ac"),
        ({"ranking": "rewinding", "initial": "a.pt", "include": ["x*"], "shortcuts": True}, "f04d0b1988ba9829"),
        ({"ranking": "rewinding-drop"}, "80bccb8a7dea7167"),
        ({"tap": "norm", "metric": "curvature", "normaliser": "numel"}, "3b46a62a91f1ca9f"),
        ({"normaliser": "relative", "steps": 4}, "195ca22eda7e1816"),
        ({"rule": "random", "k": 3, "tap": "activation"}, "9bb7b43b5b556638"),
        ({"rule": "named", "layers": ["a", 3]}, "4dd59158197fe22e"),
    ],
)
def test_runs_from_before_rankings_had_tables_keep_their_hash(selection, before, tmp_path):
    recipe = by(**selection)
    assert recipe_hash(recipe) == before  # computed when a ranking was a name
    (tmp_path / "again.toml").write_text(recipe_toml(recipe))
    assert recipe_hash(read_recipe(tmp_path / "again.toml")) == before


def test_a_ranking_as_a_table(file):
    words = ["--stages.clat.selection.ranking", '{ name = "mrc", radius = 0.2, steps = 3 }']
    ranking = read(file, *words).stages[1].selection.ranking
    assert ranking == RobustCriticalityRanking(radius=0.2, steps=3)
    single = ["--stages.clat.selection.ranking.name", "criticality"]
    single += ["--stages.clat.selection.ranking.predecessor", "input"]
    assert read(file, *single).stages[1].selection.ranking == CriticalityRanking(predecessor="input")


def test_the_hash_is_of_what_a_ranking_says_in_whatever_form():
    assert recipe_hash(by(ranking={"name": "mrc", "steps": 3})) == recipe_hash(by(ranking="mrc", steps=3))
    assert recipe_hash(by(ranking={"name": "criticality"})) == recipe_hash(by())
    told = ({"radius": 0.2}, {"epochs": 3}, {"lr": 0.5}, {"batch_size": 16}, {"alpha": "1/255"}, {})
    assert len({recipe_hash(by(ranking={"name": "mrc", **settings})) for settings in told}) == len(told)
    told = ({"predecessor": "input"}, {"metric": "curvature"}, {"metric": "curvature", "normaliser": "numel"}, {})
    assert len({recipe_hash(by(ranking={"name": "criticality", **settings})) for settings in told}) == len(told)
    assert recipe_hash(by(group="mlp")) != recipe_hash(by())


def test_the_hash_of_the_first_stage_ignores_the_second_but_not_the_span_of_the_schedule(file):
    one = read(file)
    other = read(file, "--stages.clat.objective.lambda", "2", "--stages.clat.selection.k", "1")
    assert recipe_hash(one) != recipe_hash(other)
    assert recipe_hash(one, 1) == recipe_hash(other, 1)
    longer = read(file, "--stages.clat.epochs", "3")
    assert recipe_hash(one, 1) != recipe_hash(longer, 1)  # the cosine of stage 1 is another
    planned = ["--schedule.epochs", "20"]
    assert recipe_hash(read(file, *planned), 1) == recipe_hash(read(file, *planned, "--stages.clat.epochs", "3"), 1)
    own = ["--stages.pgd-at.schedule", '{ kind = "cosine" }']
    assert recipe_hash(read(file, *own), 1) == recipe_hash(read(file, *own, "--stages.clat.epochs", "3"), 1)
    assert recipe_hash(read(file, *own), 1) != recipe_hash(read(file), 1)
    constant = ["--schedule.kind", "constant"]
    assert recipe_hash(read(file, *constant), 1) == recipe_hash(
        read(file, *constant, "--stages.clat.epochs", "3"), 1
    )


@pytest.mark.parametrize(
    ("stage", "policy"),
    [
        (StageConfig(name="a", epochs=1, objective=PgdAT()), "update"),
        (StageConfig(name="a", epochs=1, objective=Clat(), selection=Selection()), "frozen"),
        (StageConfig(name="a", epochs=1, objective=PgdAT(), batch_norm="frozen"), "frozen"),
        (StageConfig(name="a", epochs=1, objective=Clat(), selection=Selection(), batch_norm="update"), "update"),
    ],
)
def test_the_default_batch_norm_policy(stage, policy):
    assert stage.bn_policy == policy


def test_a_stage_whose_name_is_a_number_is_told_from_the_stage_of_that_number(tmp_path):
    path = tmp_path / "numbers.toml"
    stage = '[[stages]]\nname = "{}"\nepochs = 1\nobjective = {{name = "pgd-at"}}\n'
    path.write_text("".join(map(stage.format, ("first", "0", "9"))))
    changed = read(path, "--stages.9.epochs", "5", "--stages.1.epochs", "4")
    assert [one.epochs for one in changed.stages] == [1, 4, 5]
    with pytest.raises(ClatError, match="'0' is the name of one stage and the number of another"):
        read(path, "--stages.0.epochs", "5")


def test_a_problem_names_the_file_that_has_it(tmp_path, monkeypatch):
    """Of a file and those that it extends; of what may be an override's, none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text("extends = 'demo'\nepss = 1\n")
    (tmp_path / "mine.toml").write_text("extends = 'base.toml'\nseed = 1\n")
    assert "base.toml: unknown field 'epss'; did you mean 'eps'?" in refused("mine.toml")
    (tmp_path / "base.toml").write_text("extends = 'demo'\n[data]\npad = true\n")
    assert "base.toml: data.pad: expected no truth value" in refused("mine.toml")
    assert "recipe: data.pad: expected no truth value" in refused("mine.toml", "--data.pad", "true")
    (tmp_path / "base.toml").write_text("[[stages]]\nname = 'one'\nepochs = 1\n")
    assert "base.toml: stages.one.objective is missing" in refused("mine.toml")
    (tmp_path / "mine.toml").write_text("extends = 'demo'\n[stages]\n")
    assert "mine.toml: stages: expected a list, [ ... ]" in refused("mine.toml")
    (tmp_path / "mine.toml").write_text("extends = 'demo'\n[monitor]\nsteps = 0\n")
    assert "mine.toml: monitor" in refused("mine.toml")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--stages.clat.objective.stesp", "unknown field 'stages.clat.objective.stesp'; did you mean 'steps'?"),
        ("--stages.pgd-at.objective.stesp", "unknown field 'stages.pgd-at.objective.stesp'; did you mean 'steps'?"),
        ("--stages.clat.objective.steps", "recipe: stages.clat.objective: steps is 0"),
    ],
)
def test_a_place_can_be_written_as_it_is_named(override, says):
    """Without the objective's name, which pydantic puts between."""
    assert says in refused("pgd-at-clat", override, "0")


def test_the_step_of_a_ranking_is_checked_under_the_runs_norm():
    with pytest.raises(ClatError, match=r"stage 'clat': selection: alpha is 2, but images lie in .*2/255"):
        read_recipe("demo", ["--stages.clat.selection.alpha", "2"])
    read_recipe("demo", ["--stages.clat.selection.alpha", "2", "--norm", "l2", "--eps", "0.5"])
    read_recipe("demo", ["--stages.clat.selection.rule", "random", "--stages.clat.selection.alpha", "2"])
