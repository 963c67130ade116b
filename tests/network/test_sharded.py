"""Networks in slices: one process that holds them all computes what the whole network does, bit by bit."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import clat.recipe
from clat.attacks.feature import run_feature_attack
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.criticality import measure_criticality
from clat.network import modes
from clat.network.checkpointed import blocks_checkpointed
from clat.network.exchange import exchanged, tensors_of
from clat.network.features import read_features
from clat.network.folding import unfolded
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.layers import enumerate_layers
from clat.network.sharded import check_shardable, sharded_copy, take_back
from clat.network.slices import is_sharded, is_slice, own_slice, slice_like, whole
from clat.objectives import Clat, PgdAT, Step, Trades
from clat.runtime.buckets import average_in_buckets, buckets_of
from clat.runtime.engine import EngineConfig
from helpers import runs
from helpers.blocks import Net, net


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("meeting") / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def both(mesh):
    """A network, and its like in slices."""
    return net(), sharded_copy(net(), mesh)


X = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 4
ATTACK = Attack.parse(eps="0.1", alpha=None, steps=3, norm="linf")


def at_rest(model):
    return all(is_slice(parameter) for parameter in model.parameters())


def test_attacks_and_rankings_find_the_same_and_leave_no_trace(both):
    plain, sliced = both
    assert is_sharded(sliced)
    assert not is_sharded(plain)
    before = whole(sliced.state_dict())
    found = []
    for model in both:
        layers = enumerate_layers(model, X)
        with modes.attack_mode(model):
            examples = run_pgd(model, X, Y, ATTACK, seed=0)
            first, inner = (
                run_feature_attack(model, X, [layers[k]], ATTACK, tap=tap, relative=False, seed=0)
                for k, tap in ((1, "output"), (4, "activation"))
            )
        report = measure_criticality(model, X, Y, eps="0.1", steps=2, metric="curvature")
        found.append((examples, first, inner, [row.criticality for row in report.rows]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)
    assert at_rest(sliced)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in sliced.parameters())
    assert runs.same(before, whole(sliced.state_dict()))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("objective", [PgdAT(steps=2), Trades(steps=2), Clat(steps=2, ratio=1.0), "shared"])
def test_losses_have_the_same_gradients(both, objective, checkpoint):
    gradients = []
    for model in both:
        layers = enumerate_layers(model, X)
        step, wanted = Step(seed=3), objective
        if not isinstance(wanted, PgdAT | Trades):
            model.requires_grad_(False)
            model.body[1].conv1.requires_grad_(True)
            model.eval()
            layer = next(one for one in layers if one.name == "body.1.conv1")
            wanted = Clat(steps=2, ratio=1.0)
            step = Step((layer,), seed=3, callback=calibrated(wanted, shares=objective == "shared"), once=True)
        # Folded, the whole network would round otherwise, and signs of the attack on the divergence turn on that.
        blocks = blocks_checkpointed(model) if checkpoint else nullcontext()
        with blocks, frozen_norms_lean(model), unfolded():
            wanted.loss(model, X, Y, step).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in whole(gradients[1]).items():
        torch.testing.assert_close(gradient, gradients[0][name])
    assert at_rest(both[1])


def test_in_bfloat16_too(both):
    gradients = []
    for model in both:
        # Folded, the whole network would round otherwise.
        with torch.autocast("cpu", torch.bfloat16), blocks_checkpointed(model), unfolded():
            total = Trades(steps=2).loss(model, X, Y, Step(seed=3)).total
        total.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in whole(gradients[1]).items():
        torch.testing.assert_close(gradient, gradients[0][name])


def calibrated(objective, *, shares):
    from clat.objectives.clat import Calibration, ClatCallback

    return ClatCallback.calibrated(objective, Calibration(0.5, shares))


def test_a_feature_in_the_last_block_has_its_gradient(both):
    """Whose output is in no graph: torch alone would not gather the block again."""
    gradients = []
    for model in both:
        layers = enumerate_layers(model, X)
        x = X.clone().requires_grad_(True)
        values = read_features(model, x, [layers[-1]], stop=True).values
        gradients.append(torch.autograd.grad(values[0].square().sum(), x)[0])
        assert not any(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(*gradients)


def test_folded_weights_are_not_kept(both):
    """A network that has moved is attacked as it is then."""
    for model in both:
        with modes.attack_mode(model):
            run_pgd(model, X, Y, ATTACK, seed=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    found = []
    for model in both:
        with modes.attack_mode(model):
            found.append(run_pgd(model, X, Y, ATTACK, seed=0))
    torch.testing.assert_close(*found)


def test_values_go_in_and_come_back(both):
    plain, sliced = both
    other = {name: value + 1 for name, value in tensors_of(plain).items() if value.is_floating_point()}
    with exchanged(tensors_of(sliced), other):
        assert torch.equal(own_slice(sliced.head.bias), other["head.bias"])
    assert torch.equal(own_slice(sliced.head.bias), plain.head.bias)
    sliced.load_state_dict({k: slice_like(v + 2, sliced.state_dict()[k]) for k, v in plain.state_dict().items()})
    empty = net()
    for parameter in empty.parameters():
        parameter.data = torch.empty(0)
    take_back(empty, sliced)
    for name, value in empty.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name] + 2)


def test_an_average_in_buckets_is_that_of_all(mesh):
    """In place, whatever the memory layout and however they are divided."""
    tensors = [torch.rand(3, 4, 2, 2), torch.rand(5, 3).t(), torch.rand(()), torch.rand(600_000), torch.rand(2)]
    tensors += [torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.rand(700_000, 2)]
    expected = [tensor / 2 for tensor in tensors]
    layouts = [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]
    average_in_buckets(tensors, 2)  # as if the other one had sent nothing
    assert all(map(torch.equal, tensors, expected))
    assert layouts == [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]
    assert [len(bucket) for bucket in buckets_of(tensors, 2**20)] == [4, 3]
    assert list(buckets_of([])) == []


class Peeking(Net):
    """Reads a weight of a block from outside of it."""

    def forward(self, x):
        return super().forward(x) + self.body[0].conv1.weight.sum()


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.body[2].conv1.weight = self.body[0].conv1.weight


class Scaled(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (runs.TinyNet(), "no blocks"),
        (Peeking(), "outside of it"),
        (Tied(), "share a parameter"),
        (Scaled(), "single number"),
    ],
)
def test_networks_that_cannot_be_sharded_are_refused(model, message):
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(ClatError, match=message):
        check_shardable(model, X[:1])
    assert before == {name: id(parameter) for name, parameter in model.named_parameters()}


def test_a_network_that_can_be_is_left_as_it_was():
    model = net()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    check_shardable(model, X[:1])
    assert before == {name: id(parameter) for name, parameter in model.named_parameters()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"name": "mart"}}, "'mart' needs parameters whole"),
        ({"objective": {"name": "fat"}}, "'fat' needs parameters whole"),
        ({"treatments": [{"name": "awp"}]}, "'awp' needs parameters whole"),
        ({"optimizer": {"name": "adafactor"}}, "the optimizer 'adafactor'"),
        (
            {"objective": {"name": "clat"}, "selection": {"ranking": "mrc"}},
            "the ranking 'mrc' needs parameters whole",
        ),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, message):
    stage = {"name": "one", "epochs": 1, "objective": {"name": "pgd-at"}, **change}
    clat.recipe.build_recipe({"stages": [stage]})
    with pytest.raises(ClatError, match=message):
        clat.recipe.build_recipe({"engine": {"shard": True}, "stages": [stage]})


def test_compiled_blocks_are_refused():
    with pytest.raises(ClatError, match="take one of them"):
        EngineConfig(shard=True, compile=True)


def test_the_hash_of_a_run_does_not_tell_where_parameters_lie():
    recipes = [
        runs.recipe(engine=EngineConfig(device="cpu", precision="32", shard=shard)) for shard in (False, True)
    ]
    assert len({clat.recipe.recipe_hash(recipe) for recipe in recipes}) == 1
