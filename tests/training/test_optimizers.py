"""Optimizers other than SGD: what they remember, what they leave alone, and how their parameters are grouped."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import clat
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.network.depth import depths
from clat.objectives import Cure
from clat.recipe.optimizer import OptimizerConfig, TorchOptimizer, optimizer_classes
from clat.training.optimizer import build_optimizer, rates_by_depth, set_rate, state_of
from helpers import runs as kit

SETTINGS = {
    "adam": {"amsgrad": True},
    "adamw": {"weight_decay": 0.1},
    "rmsprop": {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "muon": {"weight_decay": 0.1},
}
NAMES = sorted(optimizer_classes())


def config(name, **more):
    return TorchOptimizer(name=name, arguments=SETTINGS.get(name, {}), **more)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("a.weight", "b.weight")}


def steps(optimizer, parameters, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        set_rate(optimizer, 0.1 / (1 + number))
        optimizer.step()


# What they remember


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_built_anew_from_its_state_goes_on_with_the_same_bits(name):
    whole, parts = weights(), weights()
    steps(build_optimizer(whole, config(name), {}), whole, range(6))
    first = build_optimizer(parts, config(name), {})
    steps(first, parts, range(3))
    second = build_optimizer(parts, config(name), state_of(first, parts))
    steps(second, parts, range(3, 6))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("name", ["adam", "adafactor", "rmsprop"])
def test_only_what_stays_keeps_its_memory(name):
    parameters = weights()
    first = build_optimizer(parameters, config(name), {})
    steps(first, parameters, range(2))
    state = state_of(first, parameters)
    fewer = {"b.weight": parameters["b.weight"], "c.weight": nn.Parameter(torch.ones(3, 4))}
    second = state_of(build_optimizer(fewer, config(name), state), fewer)
    assert set(second) == {"b.weight"}
    assert all(torch.equal(second["b.weight"][key], value) for key, value in state["b.weight"].items())


@pytest.mark.parametrize(
    ("settings", "k"),
    [
        ({"name": "adamw", "weight_decay": 0.1, "amsgrad": True}, 3),
        ({"name": "adamw"}, 10),
        ({"name": "rmsprop", "momentum": 0.9}, 3),
        ({"name": "adafactor"}, 10),
        ({"name": "sgd", "momentum": 0.8}, 10),
    ],
)
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, settings, k):
    recipe = kit.recipe(optimizer=made(settings))
    clat.train(recipe, tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=k)
    assert any(name.startswith("optimizer.") for name in kit.state(tmp_path / "stopped"))
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=5), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def made(settings):
    arguments = {key: value for key, value in settings.items() if key != "name"}
    if settings["name"] == "sgd":
        return OptimizerConfig(**arguments)
    return TorchOptimizer(name=settings["name"], arguments=arguments)


def test_a_state_from_before_there_were_other_optimizers_is_read(finished, tmp_path, monkeypatch):
    kit.train_and_stop(monkeypatch, kit.recipe(), tmp_path / "run", after_steps=3)
    file = tmp_path / "run" / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        record = opened.metadata()
    tensors = {
        f"momentum.{name.removeprefix('optimizer.').removesuffix('.momentum_buffer')}"
        if name.startswith("optimizer.")
        else name: value
        for name, value in load_file(file).items()
    }
    assert "momentum.conv1.weight" in tensors
    save_file(tensors, file, record)
    clat.resume(tmp_path / "run", model=kit.tiny(seed=5), data=kit.data(), quiet=True)
    kit.assert_same_run(finished, tmp_path / "run")


def test_a_stage_with_another_optimizer_starts_fresh(tmp_path, monkeypatch):
    """Also one whose arguments make it keep more; and a run stopped between the two stages goes on all the same."""
    plain, more = (TorchOptimizer(name="adam", arguments={"amsgrad": flag}) for flag in (False, True))
    stages = tuple(
        kit.pgd_at(1, name=str(number), optimizer=one) for number, one in enumerate((None, plain, more, plain))
    )
    recipe = kit.recipe(stages=stages)
    assert [recipe.keeps_optimizer(number) for number in range(4)] == [False] * 4
    assert kit.recipe(stages=(kit.pgd_at(1), kit.pgd_at(1, name="on"))).keeps_optimizer(1)
    clat.train(recipe, tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=8)
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=5), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


# Frozen means frozen


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adafactor", "adagrad", "rprop"])
def test_what_is_not_selected_does_not_move_by_a_bit(tmp_path, name):
    arguments = {} if name == "rprop" else {"weight_decay": 0.5}
    rule = Selection(rule="named", layers=("conv2",))
    recipe = kit.recipe(
        stages=(kit.clat(1, selection=rule),), optimizer=TorchOptimizer(name=name, arguments=arguments)
    )
    clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    before, after = (kit.weights(tmp_path / "run", end) for end in ("stage-0", "last"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"conv2.weight", "conv2.bias"}


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_weights_that_cure_conserves_keep_their_value_and_what_is_remembered_of_them(around, name):
    net = kit.tiny(dropout=0.0).train()
    callback = Cure(percent=50.0, gamma=0.0).on_stage_start(around(net))
    parameters = callback.choose_parameters({"conv1.weight": net.conv1.weight})
    optimizer = build_optimizer(parameters, config(name), {})
    for number in range(3):
        weight = net.conv1.weight
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        stays = torch.rand(weight.shape, generator=torch.Generator().manual_seed(100 + number)) < 0.5
        callback.conservation.conserved = {"conv1.weight": stays}
        value = weight.detach().clone()
        memory = {key: one.clone() for key, one in optimizer.state[weight].items()}
        set_rate(optimizer, 0.1)
        with callback.around_optimizer_step(optimizer):
            optimizer.step()
        assert torch.equal(weight[stays], value[stays])
        assert (weight[~stays] != value[~stays]).any()
        for key, one in optimizer.state[weight].items():
            if one.shape == weight.shape:
                assert torch.equal(one[stays], memory.get(key, torch.zeros_like(one))[stays]), key


# Groups


def test_adamw_by_hand_with_and_without_decay_of_what_has_one_dimension():
    """First step of AdamW: w (1 - rate * decay) - rate * sign(g)."""
    for decays, expected in ((True, 2 * (1 - 0.1 * 0.5) - 0.1), (False, 2 - 0.1)):
        parameters = {"weight": nn.Parameter(torch.full((2, 2), 2.0)), "bias": nn.Parameter(torch.full((2,), 2.0))}
        settings = TorchOptimizer(
            name="adamw", arguments={"weight_decay": 0.5, "eps": 0.0}, decay_norms_and_biases=decays
        )
        optimizer = build_optimizer(parameters, settings, {})
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 3.0)
        set_rate(optimizer, 0.1)
        optimizer.step()
        torch.testing.assert_close(parameters["bias"].data, torch.full((2,), expected))
        torch.testing.assert_close(parameters["weight"].data, torch.full((2, 2), 2 * (1 - 0.1 * 0.5) - 0.1))


def test_with_the_defaults_there_is_one_group_in_the_order_of_the_parameters():
    parameters = dict(kit.tiny().named_parameters())
    (group,) = build_optimizer(parameters, OptimizerConfig(), {}).param_groups
    assert all(one is other for one, other in zip(group["params"], parameters.values(), strict=True))


def test_learning_rates_fall_from_block_to_block(tiny_resnet):
    """The stem is 1, the eight blocks 2 to 9, the head 10; a block's BatchNorms and shortcut are with it."""
    net = tiny_resnet()
    found = {name: depths(net)[parameter] for name, parameter in net.named_parameters()}
    assert {name.split(".")[0]: depth for name, depth in found.items() if not name.startswith("layer")} == {
        "conv1": 1,
        "bn1": 1,
        "linear": 10,
    }
    blocks = {name: depth for name, depth in found.items() if name.startswith("layer")}
    order = [f"layer{stage}.{block}." for stage, block in itertools.product((1, 2, 3, 4), (0, 1))]
    assert all(depth == 2 + order.index(name[:9]) for name, depth in blocks.items())
    rates = rates_by_depth(net, 0.5)
    assert rates[net.linear.weight] == 1
    assert rates[net.conv1.weight] == 0.5**9
    assert rates_by_depth(net, 1.0) == {}
    optimizer = build_optimizer(dict(net.named_parameters()), OptimizerConfig(layer_decay=0.5), {}, rates)
    set_rate(optimizer, 0.8)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.8 * 0.5**n for n in range(9, -1, -1)]


def test_a_network_without_blocks_is_as_deep_as_it_has_layers():
    net = kit.tiny()
    found = {name.split(".")[0]: depths(net)[parameter] for name, parameter in net.named_parameters()}
    assert found == {"conv1": 1, "bn1": 1, "conv2": 2, "bn2": 2, "conv3": 3, "bn3": 3, "head": 4}


def test_a_run_with_groups_and_its_resumption(tmp_path, monkeypatch):
    settings = TorchOptimizer(
        name="adamw", arguments={"weight_decay": 0.2}, decay_norms_and_biases=False, layer_decay=0.7, clip_norm=0.5
    )
    recipe = kit.recipe(optimizer=settings)
    clat.train(recipe, tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=6)
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=5), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


# Refusals


def test_an_optimizer_that_does_not_take_the_networks_parameters_is_refused_before_the_run(tmp_path):
    recipe = kit.recipe(optimizer=TorchOptimizer(name="muon"))
    with pytest.raises(ClatError, match="optimizer 'muon': Muon only supports 2D parameters"):
        clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()
