"""Chosen modules start anew, the rest stays; the same seed draws the same weights."""

from __future__ import annotations

import pytest
import torch

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
