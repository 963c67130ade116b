"""LoRA as a treatment: what moves under each setting, what never does, and what the next stage gets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.criticality.selection import trainable_parameters
from clat.network.layers import enumerate_layers
from clat.objectives import PgdAT, Step
from clat.treatments import LoRA
from clat.treatments.lora import normalisations


@pytest.fixture
def model(tiny_resnet):
    return tiny_resnet().train()


def adopted(model, callback, layers=None):
    """The parameters that move, flagged as the training loop does."""
    model.requires_grad_(False)
    moving = callback.choose_parameters(trainable_parameters(model, layers))
    for parameter in moving.values():
        parameter.requires_grad_(True)
    return moving


def train(model, callback, x, y, steps=3):
    """A few steps of PGD-AT with momentum and weight decay."""
    moving = adopted(model, callback)
    optimizer = torch.optim.SGD(moving.values(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for step in range(steps):
        loss = PgdAT(steps=1).loss(model, x, y, Step(seed=step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return moving


def test_by_default_factors_and_batch_norm_move(model, context, images):
    moving = adopted(model, LoRA().on_stage_start(context(model)))
    factors = {name for name in moving if ".parametrizations." in name}
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(factors) == 2 * 19
    assert all(name.endswith((".0.down", ".0.up")) for name in factors)
    assert set(moving) == factors | {f"{name}.{part}" for name in norms for part in ("weight", "bias")}


def test_every_normalisation_is_found():
    norms = [torch.nn.BatchNorm2d(4), torch.nn.LayerNorm(4), torch.nn.GroupNorm(2, 4), torch.nn.RMSNorm(4)]
    assert normalisations(torch.nn.Sequential(*norms, torch.nn.Linear(4, 4))) == norms


@pytest.mark.parametrize(
    ("settings", "has", "has_not"),
    [
        ({"affine": False}, "layer1.0.conv1.parametrizations.weight.0.up", "bn1.weight"),
        ({"stem": True}, "conv1.parametrizations.weight.0.up", "linear.weight"),
        ({"classifier": "full"}, "linear.weight", "linear.parametrizations.weight.0.up"),
        ({"classifier": "low-rank"}, "linear.parametrizations.weight.0.up", "linear.weight"),
        ({"classifier": "low-rank"}, "linear.bias", "linear.parametrizations.weight.original"),
        ({"include": ("layer4.*",)}, "layer4.0.conv1.parametrizations.weight.0.up", "layer1.0.conv1.weight"),
    ],
)
def test_settings_decide_what_moves(model, context, settings, has, has_not):
    moving = adopted(model, LoRA(**settings).on_stage_start(context(model)))
    assert has in moving
    assert has_not not in moving


def test_with_a_selection_only_its_factors_move(model, context, images):
    callback = LoRA().on_stage_start(context(model))
    layers = [layer for layer in enumerate_layers(model, images) if layer.name == "layer3.0.conv2"]
    assert set(adopted(model, callback, layers)) == {
        f"layer3.0.conv2.parametrizations.weight.0.{factor}" for factor in ("down", "up")
    }
    stem = [layer for layer in enumerate_layers(model, images) if layer.name == "conv1"]
    with pytest.raises(ClatError, match="no selected layer has low-rank factors"):
        adopted(model, callback, stem)


def test_base_weights_are_bit_identical_until_the_merge(model, context, tiny_resnet, images, labels):
    callback = LoRA(rank=3).on_stage_start(context(model))
    before = dict(tiny_resnet().named_parameters())
    train(model, callback, images, labels)
    names = list(callback.branch.layers)
    for name in names:
        original = model.get_submodule(name).parametrizations.weight.original
        assert torch.equal(original, before[f"{name}.weight"])
    for name in ("conv1.weight", "linear.weight", "linear.bias"):
        assert torch.equal(dict(model.named_parameters())[name], before[name])
    assert all(layer.up.abs().max() > 0 for layer in callback.branch.layers.values())
    assert not torch.equal(model.bn1.weight, before["bn1.weight"])
    written = callback.export_state(dict(model.state_dict()))
    assert callback.on_stage_end() == {}
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())
    assert all(not torch.equal(model.get_submodule(name).weight, before[f"{name}.weight"]) for name in names)
    assert list(model.state_dict()) == list(tiny_resnet().state_dict())


def test_the_update_is_scaled_by_alpha_over_rank(model, context, tiny_resnet, images):
    twin = tiny_resnet()
    one = LoRA(rank=4).on_stage_start(context(model))
    other = LoRA(rank=4, alpha=1).on_stage_start(context(twin))
    assert {layer.scale for layer in one.branch.layers.values()} == {1.0}
    assert {layer.scale for layer in other.branch.layers.values()} == {0.25}
    assert torch.equal(one.branch.factors[0], other.branch.factors[0])


def test_an_attack_goes_through_the_factors(model, context, images, labels):
    callback = LoRA().on_stage_start(context(model))
    objective, step = PgdAT(steps=3), Step(seed=1)
    base = objective.examples(model, images, labels, step)[0]
    with torch.no_grad():
        for layer in callback.branch.layers.values():
            layer.up.fill_(0.05)
    through = objective.examples(model, images, labels, step)[0]
    callback.on_stage_end()
    assert torch.equal(objective.examples(model, images, labels, step)[0], through)
    assert not torch.equal(base, through)


def test_joining_again_and_loading_continues(model, context, tiny_resnet, images, labels):
    callback = LoRA().on_stage_start(context(model))
    train(model, callback, images, labels)
    again = tiny_resnet().train()
    LoRA().on_stage_start(context(again))
    again.load_state_dict(model.state_dict())
    model.eval()
    again.eval()
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


def test_a_gradient_step_is_that_of_the_merged_weight_by_the_chain_rule(model, context, images, labels):
    """dL/dB = scale * dL/dW A^T, with dL/dW that of the plain network, since B = 0 at the start."""
    callback = LoRA(rank=2, alpha=1).on_stage_start(context(model))
    adopted(model, callback)
    name = "layer2.0.conv1"
    layer = callback.branch.layers[name]
    model.eval()
    F.cross_entropy(model(images), labels).backward()
    plain = model.get_submodule(name)
    callback.branch.remove(merge=True)
    plain.weight.requires_grad_(True)
    (whole,) = torch.autograd.grad(F.cross_entropy(model(images), labels), plain.weight)
    matrix = whole.reshape(layer.up.shape[0], layer.down.shape[1])
    assert torch.allclose(layer.up.grad, 0.5 * matrix @ layer.down.detach().T, atol=1e-6)
    assert torch.equal(layer.down.grad, torch.zeros_like(layer.down))


@pytest.mark.parametrize(("settings", "says"), [({"rank": 0}, "rank is 0"), ({"alpha": 0.0}, "alpha is 0.0")])
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        LoRA(**settings)


def test_a_network_without_a_classifier_has_none_to_train(context):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 10, 3)

        def forward(self, x):
            return self.two(self.one(x)).amax((2, 3)).view(-1, 5, 2).sum(2)

    with pytest.raises(ClatError, match="the last layer does not give the logits"):
        LoRA(classifier="full").on_stage_start(context(Pooled()))
