"""Low-rank factors: the sum by hand for every kind of layer, what they leave alone, merging without a change."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.attacks import pgd
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.network import modes
from clat.network.layers import enumerate_layers
from clat.network.low_rank import Branch, LowRank, adaptable_layers, classifier_of


def branch_on(model, names, *, rank=2, scale=0.5, start="kaiming", seed=0):
    return Branch(model, names, rank=rank, scale=scale, start=start, seed=seed)


def fill(branch, seed=0, size=0.1):
    """Factors as after some training: B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in branch.layers.values():
            layer.up.copy_(size * torch.randn(layer.up.shape, generator=generator))


def logits(model, x):
    with torch.no_grad():
        return model(x)


@pytest.fixture
def adapted(tiny_resnet, images):
    model = tiny_resnet()
    branch = branch_on(model, adaptable_layers(model, images))
    fill(branch)
    return model, branch


def test_the_sum_of_a_convolution_by_hand():
    """One channel to one, kernel 2 x 2, r = 1: B A is 2 x 2 and takes the kernel's place row by row."""
    conv = nn.Conv2d(1, 1, 2, bias=False)
    model = nn.Sequential(conv)
    layer = branch_on(model, ["0"], rank=1, scale=0.5).layers["0"]
    assert layer.down.shape == layer.up.shape == (2, 2)
    with torch.no_grad():
        conv.parametrizations.weight.original.zero_()
        layer.up.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.down.copy_(torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
    assert torch.equal(conv.weight[0, 0], 0.5 * torch.tensor([[19.0, 22.0], [43.0, 50.0]]))


def test_two_input_channels_share_the_rows_as_in_the_published_view():
    """(out k, in k) = (2, 4), read in order as (out, in, k, k) = (1, 2, 2, 2)."""
    conv = nn.Conv2d(2, 1, 2, bias=False)
    layer = branch_on(nn.Sequential(conv), ["0"], rank=1, scale=1.0).layers["0"]
    with torch.no_grad():
        conv.parametrizations.weight.original.zero_()
        layer.up.copy_(torch.eye(2))
        layer.down.copy_(torch.arange(8.0).view(2, 4))
    assert torch.equal(conv.weight, torch.arange(8.0).view(1, 2, 2, 2))


@pytest.mark.parametrize(
    ("layer", "down", "up"),
    [
        (nn.Linear(5, 7), (3, 5), (7, 3)),
        (nn.Conv2d(4, 6, 1), (3, 4), (6, 3)),
        (nn.Conv2d(4, 6, 3), (9, 12), (18, 9)),
        (nn.Conv2d(4, 6, 3, groups=2), (9, 6), (18, 9)),
        (nn.Conv2d(4, 4, 3, groups=4), (9, 3), (12, 9)),
        (nn.Conv2d(4, 6, (1, 5)), (3, 20), (6, 3)),
        (nn.Conv2d(4, 6, (5, 1), dilation=(2, 1)), (15, 4), (30, 15)),
        (nn.Conv1d(4, 6, 3), (9, 4), (18, 9)),
        (nn.Conv3d(2, 3, (2, 3, 4)), (6, 24), (6, 6)),
        (nn.ConvTranspose2d(4, 6, 3), (9, 18), (12, 9)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_shapes_of_the_factors_and_merging(layer, down, up):
    model = nn.Sequential(copy.deepcopy(layer))
    names = list(dict(model.named_parameters()))
    branch = branch_on(model, ["0"], rank=3)
    low_rank = branch.layers["0"]
    assert (low_rank.down.shape, low_rank.up.shape) == (down, up)
    fill(branch)
    expected = layer.weight.detach() + 0.5 * (low_rank.up @ low_rank.down).detach().view_as(layer.weight)
    assert torch.equal(model[0].weight, expected)
    assert not torch.equal(expected, layer.weight)
    branch.remove(merge=True)
    assert type(model[0]) is type(layer)
    assert list(dict(model.named_parameters())) == names
    assert torch.equal(model[0].weight, expected)


def test_the_network_starts_as_it_was(tiny_resnet, images):
    plain, model = tiny_resnet(), tiny_resnet()
    branch_on(model, adaptable_layers(model, images, stem=True, classifier=True))
    assert torch.equal(logits(plain, images), logits(model, images))


def test_merged_equals_unmerged_and_names_are_as_before(adapted, tiny_resnet, images):
    (model, branch), plain = adapted, tiny_resnet()
    unmerged = logits(model, images)
    assert (unmerged - logits(plain, images)).abs().max() > 1e-3
    written = branch.export_state(dict(model.state_dict()), merge=True)
    plain.load_state_dict(written)
    assert torch.allclose(logits(plain, images), unmerged, atol=1e-5)
    branch.remove(merge=True)
    assert list(model.state_dict()) == list(tiny_resnet().state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in tiny_resnet().named_parameters()]
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())


def test_dropping_gives_the_very_weights_back(adapted, tiny_resnet):
    (model, branch), plain = adapted, tiny_resnet().state_dict()
    assert all(
        torch.equal(v, plain[k]) for k, v in branch.export_state(dict(model.state_dict()), merge=False).items()
    )
    branch.remove(merge=False)
    assert list(model.state_dict()) == list(plain)
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


def test_parameters_keep_their_identity(tiny_resnet, images):
    model = tiny_resnet()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    branch_on(model, adaptable_layers(model, images)).remove(merge=True)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


def test_the_gradient_reaches_the_factors_and_not_the_weight():
    model = nn.Sequential(nn.Linear(3, 2))
    branch = branch_on(model, ["0"], rank=1, scale=0.5)
    fill(branch)
    layer, x = branch.layers["0"], torch.rand(4, 3)
    (model(x) ** 2).sum().backward()
    outer = 2 * model(x).detach().T @ x  # of the whole weight
    assert model[0].parametrizations.weight.original.grad is None
    assert torch.allclose(layer.up.grad, 0.5 * outer @ layer.down.detach().T)
    assert torch.allclose(layer.down.grad, 0.5 * layer.up.detach().T @ outer)


def test_switched_off_the_weight_learns_and_the_factors_do_not(adapted, tiny_resnet, images, labels):
    (model, branch), plain = adapted, tiny_resnet()
    branch.switch(False)
    assert torch.equal(logits(model, images), logits(plain, images))
    F.cross_entropy(model(images), labels).backward()
    assert all(factor.grad is None for factor in branch.factors)
    assert model.layer1[0].conv1.parametrizations.weight.original.grad is not None
    with branch.switched(True):
        assert not torch.equal(logits(model, images), logits(plain, images))
    assert torch.equal(logits(model, images), logits(plain, images))


def test_the_same_seed_draws_the_same_factors_whatever_else_is_adapted(tiny_resnet, images):
    models = [tiny_resnet() for _ in range(3)]
    random_state = torch.get_rng_state()
    names = adaptable_layers(models[0], images)
    one = branch_on(models[0], names).layers
    other = branch_on(models[1], names[3:]).layers
    different = branch_on(models[2], names, seed=1).layers
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(one[name].down, other[name].down) for name in other)
    assert not torch.equal(one[names[0]].down, different[names[0]].down)


def test_how_a_is_drawn():
    weight, generator = torch.zeros(64, 32, 3, 3), torch.Generator().manual_seed(0)
    kaiming = LowRank(weight, 8, 1.0, "kaiming", generator).down
    assert kaiming.abs().max() <= 1 / 96**0.5
    assert kaiming.std().item() == pytest.approx((1 / 3 / 96) ** 0.5, rel=0.05)
    assert LowRank(weight, 8, 1.0, "normal", generator).down.std().item() == pytest.approx(1, rel=0.05)


def test_an_attack_builds_each_sum_once_and_sees_every_change(adapted, images, labels, monkeypatch):
    model, branch = adapted
    built = []
    original = LowRank.added
    monkeypatch.setattr(LowRank, "added", lambda self, *terms: built.append(self) or original(self, *terms))

    def attack():
        built.clear()
        with modes.attack_mode(model):
            return run_pgd(model, images, labels, Attack.parse(steps=5), seed=0)

    first = attack()
    assert len(built) == len(branch.layers)
    assert torch.equal(attack(), first)
    assert built == []
    optimizer = torch.optim.SGD(branch.factors, lr=0.5)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    moved = attack()
    assert len(built) == len(branch.layers)
    branch.remove(merge=True)
    assert torch.equal(attack(), moved)
    assert not torch.equal(moved, first)


def test_a_change_of_the_weight_itself_is_seen(adapted, images):
    model, _ = adapted
    before = logits(model, images)
    with torch.no_grad():
        model.layer1[0].conv1.parametrizations.weight.original.mul_(2)
    assert not torch.equal(logits(model, images), before)


def test_evaluation_under_inference_mode_leaves_nothing_that_an_attack_would_trip_over(adapted, images, labels):
    model, _ = adapted
    with torch.inference_mode():
        inferred = model(images)
    assert torch.equal(inferred, logits(model, images))
    pgd(model, images, labels, eps="8/255", steps=2, seed=0)


def test_an_attack_leaves_no_trace(adapted, images, labels):
    model, branch = adapted
    model.train()
    branch.factors[0].requires_grad_(False)
    model.layer1[0].conv1.parametrizations.weight.original.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    pgd(model, images, labels, eps="8/255", steps=2, seed=0)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("options", [{}, {"shortcuts": True, "classifier": True}, {"include": ("layer3.*",)}])
def test_layers_are_numbered_as_before(adapted, tiny_resnet, images, options):
    (model, _), plain = adapted, tiny_resnet()

    def told(network):
        layers = enumerate_layers(network, images, **options)
        return [(layer.index, layer.name, layer.kind, layer.feature_shape, layer.norm_name) for layer in layers]

    assert told(model) == told(plain)


def test_under_autocast_the_sum_is_that_of_the_merged_network(adapted, images):
    model, branch = adapted
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unmerged = logits(model, images)
    branch.remove(merge=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(model, images), unmerged)


def test_channels_last_survives(tiny_resnet, images):
    model = tiny_resnet().to(memory_format=torch.channels_last)
    branch = branch_on(model, adaptable_layers(model, images))
    conv = model.layer2[0].conv1
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    branch.remove(merge=True)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_which_layers_are_adapted_by_default(tiny_resnet, images):
    model = tiny_resnet()
    names = adaptable_layers(model, images)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(names) == sorted(set(convolutions) - {"conv1"})
    assert "layer2.0.shortcut.0" in names
    assert set(adaptable_layers(model, images, stem=True, classifier=True)) - set(names) == {"conv1", "linear"}
    assert adaptable_layers(model, images, include=("layer3.0.*",), exclude=("*.conv2",)) == [
        "layer3.0.conv1",
        "layer3.0.shortcut.0",
    ]
    assert classifier_of(model, images) == "linear"


def test_what_does_not_fit_is_refused(tiny_resnet, images):
    model = tiny_resnet()
    with pytest.raises(ClatError, match="layer9"):
        adaptable_layers(model, images, include=("layer9.*",))
    with pytest.raises(ClatError, match="no layer is left for low-rank factors"):
        adaptable_layers(model, images, include=("linear",))
    branch_on(model, ["conv1"])
    with pytest.raises(ClatError, match="'conv1' has a parametrization already"):
        branch_on(model, ["conv1"])


def test_what_is_left_out_is_said_once_and_not_where_it_is_excluded():
    class Token(nn.Module):
        """The class token's own layer reads no image."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.token = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Parameter(torch.rand(1, 4))
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.b(self.a(x)).mean((2, 3)) + self.fc(self.token.expand(len(x), -1)))

    x = torch.rand(1, 3, 8, 8)
    with pytest.warns(Notice, match="left out of the layers: 'fc'") as said:
        assert adaptable_layers(Token(), x) == ["b"]
    assert len(said) == 1
    assert adaptable_layers(Token(), x, exclude=["fc"]) == ["b"]
