"""CLAT in a loop of one's own: the bits of a stage's step, what moves, modes, errors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.criticality.selection import Selection
from clat.data.loader import Loader
from clat.objectives import Clat, ClatPlus, PgdAT
from clat.runtime.engine import Engine, EngineConfig
from clat.training.prepare import train_loader
from clat.training.stage import StageRunner
from helpers import runs as kit

SETTINGS: dict[str, dict[str, Any]] = {
    "the paper's": {"steps": 2},
    "attacked inputs": {"steps": 2, "ce_input": "both", "feature_input": "pgd", "relative": True},
    "lambda": {"steps": 1, "lambda_": 0.5, "detach_clean": True},
}


@pytest.fixture
def batches() -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
    """Held-out images, and three batches to train on."""
    train, test = kit.data()
    (heldout,) = Loader(test, 16).epoch()
    return heldout, list(Loader(train, 16, shuffle=True).epoch())[:3]


def staged(objective: Clat, batch_norm: str, heldout: Any, batches: Any) -> nn.Module:
    """The network after the batches in a stage of a recipe."""
    rule = Selection(rule="named", layers=("conv2", "conv3"))
    stage = kit.clat(objective=objective, selection=rule, batch_norm=batch_norm)
    engine = EngineConfig(device="cpu", precision="32", channels_last=False)
    recipe = kit.recipe(stages=(stage,), seed=7, engine=engine)
    model, engine = kit.tiny(), Engine(recipe.engine)
    loader = train_loader(recipe, kit.image_set(80), engine.device, 0, 1)
    runner = StageRunner(recipe, 0, model, engine, loader, heldout)
    runner.make_trainable(["conv2", "conv3"], {})
    runner.after_selection(0, first=True)
    for number, (x, y) in enumerate(batches):
        torch.manual_seed(number)
        runner.train_step(x, y, epoch=0, number=number, rate=0.1)
    return model


@pytest.mark.parametrize("batch_norm", ["frozen", "update-selected"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_has_the_bits_of_a_stage_s(batches: Any, name: str, batch_norm: str) -> None:
    heldout, rest = batches
    model = kit.tiny()
    tuning = clat.Clat(
        model, ["conv2", "conv3"], heldout, eps="0.05", batch_norm=batch_norm, seed=7, **SETTINGS[name]
    )
    with tuning:
        optimizer = torch.optim.SGD(tuning.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for number, (x, y) in enumerate(rest):
            torch.manual_seed(number)
            optimizer.zero_grad()
            tuning.loss(x, y).backward()
            optimizer.step()
    expected = staged(Clat(**SETTINGS[name]), batch_norm, heldout, rest).state_dict()
    assert not torch.equal(model.conv2.weight, kit.tiny().conv2.weight)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_lambda_follows_from_the_seed_in_a_network_that_draws_from_python_and_numpy(batches: Any) -> None:
    heldout, _ = batches
    model, weights = kit.tiny(dropout=0.0), set()
    model.bn1.register_forward_hook(
        lambda bn, _, out: out * (0.5 + random.random()) * (0.5 + np.random.rand()) if model.training else out  # noqa: NPY002
    )
    before = random.getstate()
    for _ in range(2):
        with clat.Clat(model, ["conv2"], heldout, eps="0.05", steps=1) as tuning:
            weights.add(tuning.weight)
        assert random.getstate() == before
        random.seed()
        before = random.getstate()
    assert len(weights) == 1


def test_the_fifteen_lines(batches: Any) -> None:
    (x, y), rest = batches
    model, before = kit.tiny(dropout=0.0).eval(), kit.tiny(dropout=0.0).state_dict()
    layers = clat.select_layers(model, x, y, eps="0.05", k=1, steps=2)
    report = clat.measure_criticality(model, x, y, eps="0.05", steps=2)
    assert layers == report.top(1)
    with clat.Clat(model, layers, (x, y), eps="0.05", steps=2) as tuning:
        optimizer = torch.optim.SGD(tuning.parameters(), lr=0.1)
        for images, labels in rest:
            optimizer.zero_grad()
            tuning.loss(images, labels).backward()
            optimizer.step()
        assert set(tuning.parts) == {"cross_entropy", "feature_change"}
        assert list(tuning.named_parameters()) == [f"{layers[0]}.weight", f"{layers[0]}.bias"]
        assert tuning.weight > 0
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"{layers[0]}.weight", f"{layers[0]}.bias"}
    assert not any(module.training for module in model.modules()), "flags are as they were"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_modes_hold_whatever_a_loop_sets_in_between(batches: Any) -> None:
    heldout, ((x, y), *_) = batches
    model = kit.tiny()
    with clat.Clat(model, ["conv3"], heldout, eps="0.05", steps=1) as tuning:
        model.train()
        model.requires_grad_(True)
        tuning.loss(x, y).backward()
        assert model.dropout.training
        assert not model.bn1.training
        assert [name for name, one in model.named_parameters() if one.grad is not None] == [
            "conv3.weight", "conv3.bias",
        ]  # fmt: skip
        assert torch.equal(model.bn1.running_mean, kit.tiny().bn1.running_mean)


def test_other_layers_later(batches: Any) -> None:
    heldout, ((x, y), *_) = batches
    with clat.Clat(kit.tiny(), ["conv3"], heldout, eps="0.05", steps=1) as tuning:
        weight = tuning.weight
        tuning.loss(x, y).backward()
        before = tuning.parameters()
        after = tuning.select(["conv1", "conv2"])
        assert [one.grad for one in before] == [None, None]
        assert not before[0].requires_grad
        assert len(after) == 4
        assert tuning.weight == weight
    with clat.Clat(kit.tiny(), ["conv3"], heldout, eps="0.05", steps=1, calibrate="selection") as tuning:
        weight = tuning.weight
        tuning.select(["conv1"])
        assert tuning.weight != weight


def test_other_objectives_of_the_kind_and_soft_labels(batches: Any) -> None:
    heldout, ((x, y), *_) = batches
    with clat.Clat(kit.tiny(dropout=0.0), ["conv3"], heldout, eps="0.05", objective=ClatPlus(steps=1)) as tuning:
        soft = torch.nn.functional.one_hot(y, 4).float()
        assert tuning.loss(x, soft).requires_grad
        assert tuning.loss(x, y, seed=3) == tuning.loss(x, y, seed=3)


def test_float_labels_that_are_no_probabilities_are_refused_in_one_line(batches: Any) -> None:
    heldout, ((x, y), *_) = batches
    soft = torch.nn.functional.one_hot(y, 4).float()
    with clat.Clat(kit.tiny(), ["conv3"], heldout, eps="0.05", steps=1) as tuning:
        for labels, says in (
            (y.float(), r"labels are torch.float32, expected torch.int64: convert with y\.long\(\)"),
            (
                y.float()[:, None],
                r"labels have shape .*, 1\), expected class numbers .*, y\.long\(\), or probabilit",
            ),
            (soft[:-1], "labels for .* images: give one an image"),
            (soft[..., None], "labels have shape"),
            (soft - 1, "labels are no probabilities"),
            (3 * soft, "labels are no probabilities"),
            (soft[:, :3] * 0 + 1 / 3, "labels are of 3 classes, the model has 4"),
            (y.tolist(), "labels are a list"),
        ):
            with pytest.raises(ClatError, match=says):
                tuning.loss(x, labels)
        assert tuning.loss(x, (soft + 0.1) / 1.4).requires_grad


def test_other_rankings(batches: Any) -> None:
    (x, y), _ = batches
    model = kit.tiny().eval()
    assert len(clat.select_layers(model, x, y, eps="0.05", k=2, ranking="mrc", epochs=1, steps=1)) == 2
    assert clat.select_layers(model, x, y, rule="all") == ["conv1", "conv2", "conv3"]
    assert clat.select_layers(model, x, y, k=1, rule="random", include=["conv2"]) == ["conv2"]


def test_select_layers_refuses(batches: Any) -> None:
    (x, y), _ = batches
    model = kit.tiny().eval()
    for says, settings in (
        ("unknown ranking 'citicality'; did you mean 'criticality'", {"ranking": "citicality"}),
        ("unknown setting 'stesp' of the ranking 'criticality'; did you mean 'steps'", {"stesp": 3}),
        ("selection.k is 4, but the model has 3 layers", {"k": 4}),
        ("did you mean 8/255", {"eps": 8}),
        ("unknown layer pattern 'conv9'", {"include": ["conv9"]}),
    ):
        with pytest.raises(ClatError, match=says):
            clat.select_layers(model, x, y, **settings)
    with pytest.raises(ClatError, match="divide by 255"):
        clat.select_layers(model, x * 255, y)


@pytest.mark.parametrize(
    ("layers", "settings", "says"),
    [
        (["conv9"], {}, "unknown layer pattern 'conv9'; did you mean"),
        ([], {}, "at least one"),
        ("conv3", {}, "list of names"),
        (["conv3"], {"ratoi": 1}, "ratoi"),
        (["conv3"], {"ratio": 1, "lambda_": 1}, "lambda or ratio"),
        (["conv3"], {"objective": PgdAT()}, "the objective is a PgdAT, expected one of CLAT's kind"),
        (["conv3"], {"objective": Clat(), "ratio": 1}, "give ratio to the objective"),
        (["conv3"], {"eps": 8}, "did you mean 8/255"),
        (["conv3"], {"batch_norm": "thaw"}, "unknown BatchNorm policy 'thaw'"),
    ],
)
def test_what_is_refused_before_anything_changes(batches: Any, layers, settings, says) -> None:
    heldout, _ = batches
    model = kit.tiny()
    with pytest.raises(ClatError, match=says):
        clat.Clat(model, layers, heldout, **settings)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_held_out_label_beyond_the_classes_is_told_of(batches: Any) -> None:
    (x, y), _ = batches
    model = kit.tiny()
    tuning = clat.Clat(model, ["conv3"], (x, y + 90), eps="0.05", steps=1)
    with pytest.raises(ClatError, match="but the model has"), tuning:
        pass
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_refused_on_the_way(batches: Any) -> None:
    heldout, ((x, y), *_) = batches
    tuning = clat.Clat(kit.tiny(), ["conv3"], heldout, eps="0.05", steps=1)
    for act in (lambda: tuning.loss(x, y), tuning.parameters, lambda: tuning.weight):
        with pytest.raises(ClatError, match="context"):
            act()
    with tuning:
        with pytest.raises(ClatError, match="in use already"):
            tuning.__enter__()
        with pytest.raises(ClatError, match="unnormalised"):
            tuning.loss(x * 4 - 2, y)
        with torch.no_grad():
            tuning.model.conv3.weight.fill_(float("inf"))
        with pytest.raises(ClatError, match="not finite"):
            tuning.loss(x, y)
    assert ThreatModel.parse("0.05") == tuning.threat
