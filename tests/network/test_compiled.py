"""Compiled blocks: where they run compiled, the same numbers, and the plain network afterwards."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn

from clat.attacks.feature import feature_attack
from clat.core.errors import ClatError
from clat.models import load_model
from clat.network import compiled, modes
from clat.network.compiled import blocks, blocks_compiled, compile_seconds
from clat.network.layers import enumerate_layers
from clat.objectives import GradAlign, PgdAT, Standard
from clat.recipe.schema import Recipe, StageConfig
from clat.recipe.toml import recipe_hash
from clat.runtime.engine import EngineConfig


@pytest.fixture
def counted(monkeypatch):
    """torch.compile replaced by a wrapper that counts its calls."""
    calls = []

    def stand_in(function, *, dynamic, backend):
        assert not dynamic

        def run(*args):
            calls.append(args)
            return function(*args)

        return run

    monkeypatch.setattr(compiled.torch, "compile", stand_in)
    monkeypatch.setattr(compiled, "_backend", lambda device: None)
    return calls


@pytest.mark.parametrize(
    ("name", "depths", "count"),
    [
        ("resnet18", None, 8),
        ("preact-resnet18", None, 8),
        ("resnet50", (1, 1, 1, 1), 4),
        ("densenet121", (2, 1, 2, 1), 6),
        ("wrn-34-10", (2, 2, 2), 6),
        ("vgg19", None, 0),
    ],
)
def test_blocks_of_networks(name, depths, count):
    found = blocks(load_model(name, width=4, depths=depths))
    assert len(found) == count
    assert not any(isinstance(block, nn.Sequential) for block in found)


def test_the_network_is_the_same_inside_and_plain_afterwards(tiny_resnet, images, counted):
    net = tiny_resnet()
    expected, kinds, names = net(images), [type(module) for module in net.modules()], list(net.state_dict())
    with blocks_compiled(net, len(images)) as count:
        assert count == 8
        assert torch.equal(net(images), expected)
        assert len(counted) == 8
        assert all(isinstance(module, kind) for module, kind in zip(net.modules(), kinds, strict=True))
        assert list(net.state_dict()) == names
    assert [type(module) for module in net.modules()] == kinds
    net(images)
    assert len(counted) == 8


def test_a_copy_runs_on_its_own_weights(tiny_resnet, images, counted):
    net = tiny_resnet()
    with blocks_compiled(net, len(images)):
        other = copy.deepcopy(net)
        with torch.no_grad():
            other.layer1[0].conv1.weight.zero_()
        assert not torch.equal(other(images), net(images))


def test_other_batch_sizes_and_hooked_blocks_run_as_before(tiny_resnet, images, counted):
    net = tiny_resnet()
    with blocks_compiled(net, len(images)):
        net(images[:2])
        assert not counted
        hook = net.layer3[0].conv2.register_forward_hook(lambda *args: None)
        net(images)
        assert len(counted) == 7
        hook.remove()


def test_each_part_of_a_batch_runs_compiled(tiny_resnet, images, counted):
    net = tiny_resnet()
    with blocks_compiled(net, 2, 3):
        for count, so_far in ((2, 8), (3, 16), (1, 16)):
            net(images[:count])
            assert len(counted) == so_far


def test_the_feature_attack_runs_compiled_up_to_the_block_of_its_layer(tiny_resnet, images, counted):
    net = tiny_resnet()
    layer = enumerate_layers(net, images)[10]
    assert layer.name == "layer3.0.conv2"
    expected = feature_attack(net, images, [layer], eps="0.1", steps=2, seed=1)
    with blocks_compiled(net, len(images)):
        found = feature_attack(net, images, [layer], eps="0.1", steps=2, seed=1)
        assert len(counted) == 4 * 3  # four blocks before it; the clean pass and two steps
        counted.clear()
        feature_attack(net, images, [layer], eps="0.1", steps=2, seed=1, tap="norm")
        assert not counted  # a function mode looks for the call
    torch.testing.assert_close(found, expected)


def test_settings():
    stage = StageConfig(name="one", epochs=1, objective=Standard())
    plain, fast = (Recipe(stages=(stage,), engine=EngineConfig(compile=flag)) for flag in (False, True))
    assert recipe_hash(plain) != recipe_hash(fast)
    with pytest.raises(ClatError, match="differentiates a gradient"):
        Recipe(
            stages=(StageConfig(name="one", epochs=1, objective=GradAlign()),), engine=EngineConfig(compile=True)
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ between versions
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_really_compiled_steps_agree_and_a_new_selection_compiles_nothing():
    """Attack, training step and early exit through torch.compile itself, on blocks of one shape."""
    torch.manual_seed(0)
    net = load_model("resnet18", width=4, depths=(3, 1, 1, 1))
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    layers = enumerate_layers(net, x)
    from clat.objectives import Step

    def step():
        net.zero_grad()
        modes.set_training(net, None)
        with modes.preserve_statistics(net):
            PgdAT(steps=2, eps="0.1").loss(net, x, y, Step(seed=1)).total.backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    expected = step()
    plain = [feature_attack(net, x, [layer], eps="0.1", steps=2, seed=1) for layer in layers]
    with blocks_compiled(net, len(x)):
        found = step()
        attacked = [feature_attack(net, x, [layer], eps="0.1", steps=2, seed=1) for layer in layers]
        assert compile_seconds() > 0
        spent = compile_seconds()
        for layer in layers:
            feature_attack(net, x, [layer], eps="0.1", steps=2, seed=2)
        assert compile_seconds() == spent
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    for one, other in zip(attacked, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_the_limits_of_the_compiler_are_put_back(tiny_resnet, counted):
    config = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    with blocks_compiled(tiny_resnet(), 2):
        assert config.recompile_limit >= 256
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before
