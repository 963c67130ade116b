"""Chosen modules start anew, the rest stays; the same seed draws the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clat.core.errors import ClatError
from clat.treatments import LoRA, Reinitialise
from clat.treatments.reinitialise import reinitialise


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_only_the_named_modules_change_and_the_seed_decides_how(tiny_resnet):
    model, twin = tiny_resnet(), tiny_resnet()
    before = state(model)
    reinitialise(model, ("layer2", "layer3.0"), seed=3)
    reinitialise(twin, ("layer2", "layer3.0"), seed=3)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("layer2.", "layer3.0.")) for name in changed)
    convolutions = {name for name in before if name.startswith("layer2.") and before[name].dim() == 4}
    assert convolutions <= changed
    assert all(torch.equal(after[name], value) for name, value in state(twin).items())
    reinitialise(twin, ("layer2", "layer3.0"), seed=4)
    assert not torch.equal(after["layer2.0.conv1.weight"], twin.layer2[0].conv1.weight)


def test_the_draw_is_kaiming_normal_and_batch_norm_is_new(tiny_resnet):
    model = tiny_resnet()
    reinitialise(model, ("*",), seed=0)
    weight = model.layer4[1].conv2.weight  # (32, 32, 3, 3): fan-out 288
    assert weight.std().item() == pytest.approx((2 / 288) ** 0.5, rel=0.05)
    assert torch.equal(model.bn1.running_mean, torch.zeros(4))
    assert torch.equal(model.bn1.running_var, torch.ones(4))
    assert torch.equal(model.linear.bias, torch.zeros(10))


def test_batch_norm_can_be_kept(tiny_resnet):
    model = tiny_resnet()
    before = state(model)
    reinitialise(model, ("layer2",), seed=0, batch_norm=False)
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {n for n in before if n.startswith("layer2.") and before[n].dim() == 4}


def test_it_leaves_the_global_random_state_alone(tiny_resnet):
    model, before = tiny_resnet(), torch.get_rng_state()
    reinitialise(model, ("layer1",), seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_pattern_that_fits_nothing_is_refused(tiny_resnet):
    with pytest.raises(ClatError, match="layer9"):
        reinitialise(tiny_resnet(), ("layer9",), seed=0)
    with pytest.raises(ClatError, match="needs modules"):
        Reinitialise()


def test_a_weight_that_is_computed_is_refused(tiny_resnet, context):
    model = tiny_resnet()
    LoRA().on_stage_start(context(model))
    with pytest.raises(ClatError, match="name lora and its kin later"):
        reinitialise(model, ("layer1",), seed=0)
    reinitialise(model, ("linear",), seed=0)


def transformer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.ModuleDict(
            {"block": layer, "group": nn.GroupNorm(2, 8), "slope": nn.PReLU(), "rest": nn.Linear(8, 2)}
        )
        model["rms"] = nn.RMSNorm(8)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_attention_and_every_normalisation_are_drawn_too():
    model, twin = transformer(), transformer()
    before, random = state(model), torch.get_rng_state()
    reinitialise(model, ("block", "group", "rms", "slope"), seed=3)
    reinitialise(twin, ("block", "group", "rms", "slope"), seed=3)
    assert torch.equal(random, torch.get_rng_state())
    after = state(model)
    assert {name for name in before if torch.equal(before[name], after[name])} == {"rest.weight", "rest.bias"}
    assert all(torch.equal(after[name], value) for name, value in state(twin).items())
    for norm in ("block.norm1", "block.norm2", "group", "rms"):
        assert torch.equal(after[f"{norm}.weight"], torch.ones(8))
    assert not after["block.self_attn.in_proj_bias"].any()
    assert after["block.self_attn.in_proj_weight"].std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.2)
    assert after["slope.weight"].item() == 0.25


def test_a_layer_norm_alone_is_drawn_and_kept_with_batch_norm_off():
    model = transformer()
    reinitialise(model, ("block.norm1",), seed=3)
    assert torch.equal(model["block"].norm1.weight, torch.ones(8))
    assert not torch.equal(model["block"].norm2.weight, torch.ones(8))
    before = state(model)
    with pytest.raises(ClatError, match="hold normalisation alone, which batch_norm = false keeps"):
        reinitialise(model, ("block.norm1", "group", "rms"), seed=3, batch_norm=False)
    assert all(torch.equal(before[name], value) for name, value in state(model).items())


def test_a_parameter_that_nothing_draws_and_a_pattern_without_any_are_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(8))

    model = transformer()
    model["block"].scale, model["relu"] = Scale(), nn.ReLU()
    before = state(model)
    with pytest.raises(ClatError, match=r"nothing draws 'block.scale.gamma' anew: .* leave it out"):
        Reinitialise(modules=("rest", "block")).requires(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ClatError, match=r"'relu' matches nothing that could be drawn anew$"):
        reinitialise(model, ("rest", "relu"), seed=0)
    assert all(torch.equal(before[name], value) for name, value in state(model).items())


def test_convolutions_are_drawn_as_they_always_were(tiny_resnet):
    model = tiny_resnet()
    reinitialise(model, ("layer2", "linear"), seed=3)
    drawn = torch.cat(
        [value.flatten() for name, value in model.state_dict().items() if name[:6] in ("layer2", "linear")]
    )
    assert drawn.double().abs().sum().item() == pytest.approx(486.8740154759289, rel=1e-12)
