"""Adaptive smoothing: the mixed probabilities, gradients through both members, the gate, and its settings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import pgd
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Mixture, build_model, load_model, load_weights, save_weights
from clat.models.mixture import Gate, captured, joined, log_weights, log_weights_of
from clat.models.normalize import Normalized
from clat.models.settings import GateConfig, NetworkConfig
from clat.network.layers import enumerate_layers
from clat.recipe.schema import ModelConfig
from clat.recipe.toml import build_recipe

GATE = GateConfig(standard=("layer1", "layer2"), robust=("layer.0", "layer.1"), hidden=(6, 4))


class Table(nn.Module):
    """Logits that are given; the image decides nothing but the batch size and a gradient."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + x.mean((1, 2, 3))[:, None] * torch.arange(len(self.logits))


def members() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return load_model("resnet18", width=2), load_model("dm-wrn-28-10", width=2, depths=(1, 1, 1))


def gated() -> Mixture:
    return Mixture(*members(), gate=GATE).eval()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_output_is_the_log_of_the_mixed_probabilities(alpha: float) -> None:
    standard, robust = [2.0, -1.0, 0.5], [0.0, 1.0, 3.0]
    mixture = Mixture(Table(standard), Table(robust), alpha=alpha, scales=(1.5, 0.5))
    p = [math.exp(1.5 * v) / sum(math.exp(1.5 * u) for u in standard) for v in standard]
    q = [math.exp(0.5 * v) / sum(math.exp(0.5 * u) for u in robust) for v in robust]
    expected = torch.tensor([math.log((1 - alpha) * a + alpha * b) for a, b in zip(p, q, strict=True)])
    out = mixture(torch.zeros(2, 3, 4, 4))
    torch.testing.assert_close(out, expected.expand(2, 3))
    torch.testing.assert_close(F.softmax(out, dim=1).sum(1), torch.ones(2))


def test_probabilities_that_round_to_zero_keep_their_logarithm_and_gradient() -> None:
    mixture = Mixture(Table([0.0, -400.0]), Table([0.0, -300.0]), alpha=0.5)
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    out = mixture(x)
    assert out[0, 1].item() == pytest.approx(-300 + math.log(0.5), rel=1e-6)
    out[0, 1].backward()
    assert x.grad is not None
    assert x.grad.sum().item() == pytest.approx(1.0, rel=1e-5)  # the second class rises with the mean of the image


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_reach_the_image_and_the_members_that_count(alpha: float) -> None:
    mixture = Mixture(Table([2.0, 0.0]), Table([0.0, 1.0]), alpha=alpha)
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    F.cross_entropy(mixture(x), torch.tensor([0, 1])).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (mixture.standard.logits.grad.abs().sum() > 0) == (alpha < 1)
    assert (mixture.robust.logits.grad.abs().sum() > 0) == (alpha > 0)


def test_logits_in_half_precision_are_mixed_in_float32() -> None:
    class Half(Table):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(torch.bfloat16)

    assert Mixture(Half([1.0, 0.0]), Half([0.0, 1.0]), alpha=0.3)(torch.rand(1, 3, 2, 2)).dtype == torch.float32


def test_log_weights_of_a_gate_and_of_a_number() -> None:
    logit = torch.tensor([-200.0, -1.0, 0.0, 3.0, 200.0], requires_grad=True)
    minus, plus = log_weights(logit)
    torch.testing.assert_close(
        plus, torch.tensor([-200.0, -math.log1p(math.e), -math.log(2), -math.log1p(math.exp(-3)), 0])
    )
    torch.testing.assert_close(minus, -logit + plus)
    (minus + plus).sum().backward()
    assert logit.grad.isfinite().all()
    minus, plus = log_weights(torch.tensor([0.0, 1.0]), 0.84, 0.99)
    alpha = 0.84 + 0.15 / (1 + math.exp(-1))
    torch.testing.assert_close(plus.exp(), torch.tensor([0.915, alpha]))
    torch.testing.assert_close(minus.exp(), torch.tensor([0.085, 1 - alpha]))
    assert log_weights_of(0.0) == (0.0, -math.inf)
    assert log_weights_of(1.0) == (-math.inf, 0.0)


def test_an_attack_goes_through_both_members_and_leaves_no_trace(images: Tensor, labels: Tensor) -> None:
    mixture = gated().train()
    before = {k: v.clone() for k, v in mixture.state_dict().items()}
    found = pgd(mixture, images, labels, eps="8/255", steps=2, seed=0)
    assert not torch.equal(found, images)
    assert all(torch.equal(v, before[k]) for k, v in mixture.state_dict().items())
    assert all(m.training for m in mixture.modules())
    assert not any(m._forward_hooks for m in mixture.modules())


def test_the_gate_by_hand_in_evaluation() -> None:
    mixture, x = gated(), torch.rand(3, 3, 16, 16)
    gate = mixture.gate
    with torch.no_grad():
        gate.norm.running_mean.fill_(0.3)
        gate.norm.running_var.fill_(4.0)
        logits, logit = mixture.outputs(x)
        one = mixture.standard.layer1(F.relu(mixture.standard.bn1(mixture.standard.conv1(x))))
        other = mixture.robust.layer[0](mixture.robust.init_conv(x))
        early = torch.cat([one, other], dim=1)
        late = torch.cat([mixture.standard.layer2(one), mixture.robust.layer[1](other)], dim=1)
        out = gate.stages[1](gate.stages[0](early) + gate.join(late))
        raw = out.mean(dim=(2, 3)) @ gate.linear.weight[0]
        expected = 2.0 * (raw - 0.3) / (4 + 1e-5) ** 0.5 + 1.3
        torch.testing.assert_close(logit, expected)
        alpha = (0.84 + 0.15 * torch.sigmoid(expected))[:, None]
        mixed = (1 - alpha) * mixture.standard(x).softmax(1) + alpha * mixture.robust(x).softmax(1)
        torch.testing.assert_close(logits.exp(), mixed)


def test_the_gate_in_training_clamps_normalises_by_the_batch_and_spans_all_of_0_1() -> None:
    torch.manual_seed(0)
    gate = Gate([2, 2], GateConfig(standard=("a",), robust=("b",), hidden=(4,))).train()
    features = [torch.randn(8, 2, 6, 6), torch.randn(8, 2, 6, 6)]
    logit = gate(features)
    raw = gate.linear(gate.stages[0](torch.cat(features, 1)).mean(dim=(2, 3)))[:, 0].detach()
    clamped = raw.clamp(raw.mean() - 0.6 * raw.std(), raw.mean() + 0.6 * raw.std())
    assert not torch.equal(clamped, raw)
    expected = 2.0 * (clamped - clamped.mean()) / (clamped.var(unbiased=False) + 1e-5).sqrt() + 0.4
    torch.testing.assert_close(logit.detach(), expected)
    mixture, x = gated(), torch.rand(4, 3, 8, 8)
    mixture.gate.train()
    logits, logit = mixture.outputs(x)
    alpha = torch.sigmoid(logit)[:, None]
    mixed = (1 - alpha) * mixture.standard(x).softmax(1) + alpha * mixture.robust(x).softmax(1)
    torch.testing.assert_close(logits.exp(), mixed)


def test_a_frozen_gate_evaluates_while_the_rest_trains() -> None:
    """CLAT on the robust member keeps BatchNorm frozen; the gate must then be the one that is evaluated."""
    mixture, x = gated(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        before = mixture(x)
        mixture.train()
        for module in mixture.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        torch.testing.assert_close(mixture(x), before)


def test_features_of_different_sizes_are_pooled_together() -> None:
    big, small = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 2, 2, 2)
    out = joined([big, small])
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert joined([small], like=big).shape == (1, 2, 4, 4)


def test_the_standard_member_may_see_larger_images() -> None:
    standard, robust = members()
    mixture = Mixture(standard, robust, alpha=0.0, standard_size=20).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        resized = F.interpolate(x, (20, 20), mode="bilinear", align_corners=False)
        torch.testing.assert_close(mixture(x), standard(resized).log_softmax(1))
        Mixture(standard, robust, gate=GATE, standard_size=20).eval()(x)


def test_the_robust_members_layers_are_addressed_by_name() -> None:
    mixture, x = gated(), torch.rand(1, 3, 8, 8)
    layers = enumerate_layers(mixture, x, include=("robust.*",), exclude=("robust.logits",))
    alone = enumerate_layers(mixture.robust, x)
    assert [layer.name for layer in layers] == [f"robust.{layer.name}" for layer in alone]
    assert [layer.index for layer in layers] == [layer.index for layer in alone]
    assert [layer.num_params for layer in layers] == [layer.num_params for layer in alone]
    fixed = enumerate_layers(Mixture(*members(), alpha=0.5), x, include=("robust.*",))
    assert [layer.name for layer in fixed] == [layer.name for layer in layers]  # its classifier runs last


def test_build_model_from_settings_and_saved_whole(tmp_path) -> None:
    one = save_weights(load_model("resnet18", width=2, normalize="cifar10"), tmp_path / "one.safetensors")
    config = ModelConfig(
        name="mixture",
        standard=NetworkConfig(name="resnet18", width=2, weights=str(one)),
        robust=NetworkConfig(
            name="dm-wrn-28-10", width=2, depths=(1, 1, 1), activation="relu", normalize=(0.5, 0.5)
        ),
        alpha=0.7,
        scales=(1.2, 0.5),
    )
    assert config.starts_from_weights
    model, x = build_model(config, 10), torch.rand(2, 3, 8, 8)
    assert isinstance(model, Mixture)
    assert model.standard.normalize.statistics is not None
    whole = save_weights(model, tmp_path / "whole.safetensors")
    again = build_model(build_recipe({"model": {**_data(config), "weights": str(whole)}, **_stages()}).model, 10)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), again.eval()(x))


@pytest.mark.parametrize("member", ["standard", "robust"])
def test_a_member_taken_from_the_file_of_a_mixture_has_its_own_normalisation(tmp_path, member: str) -> None:
    made = {name: load_model("resnet18", width=2, normalize=norm) for name, norm in MEMBERS.items()}
    mixture = Mixture(made["standard"], made["robust"], alpha=0.5)
    file = save_weights(mixture, tmp_path / "whole.safetensors")
    found, x = load_model("resnet18", width=2, weights=file, weights_key=member), torch.rand(2, 3, 8, 8)
    wrapped = Mixture(Normalized(made["standard"], 0.5, 0.2), made["robust"], alpha=0.5)
    inside = save_weights(wrapped, tmp_path / "wrapped.safetensors")
    again = load_model("resnet18", width=2, weights=inside, weights_key="standard.net")
    with torch.no_grad():
        assert torch.equal(found.eval()(x), made[member].eval()(x))
        assert torch.equal(again.eval()(x), wrapped.standard.eval()(x))


def test_members_whose_files_are_gone_have_the_normalisation_of_the_whole_file(tmp_path) -> None:
    mixture = Mixture(*(load_model("resnet18", width=2, normalize=norm) for norm in MEMBERS.values()), alpha=0.5)
    file = str(save_weights(mixture, tmp_path / "whole.safetensors"))
    plain = NetworkConfig(name="resnet18", width=2)
    again = build_model(ModelConfig(name="mixture", standard=plain, robust=plain, alpha=0.5, weights=file), 10)
    x, said = torch.rand(2, 3, 8, 8), []
    with torch.no_grad():
        assert torch.equal(again.eval()(x), mixture.eval()(x))
    with pytest.raises(ClatError, match="its part 'robust' was trained with the normalisation"):
        load_weights(Mixture(load_model("resnet18", width=2), load_model("resnet18", width=2), alpha=0.5), file)
    other = Mixture(*(load_model("resnet18", width=2, normalize=(0.5, 0.5)) for _ in MEMBERS), alpha=0.5)
    with listening(said.append):
        load_weights(other, file)
    assert len(said) == 2
    assert any("its part 'standard' was trained with no normalisation, but keeps its own" in line for line in said)
    assert any("its part 'robust' was trained with the normalisation ((0.4914" in line for line in said)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = load_model("resnet18", width=2, normalize="cifar10")
        self.other = nn.Linear(2, 2)


def test_a_network_found_in_a_larger_one_has_its_normalisation(tmp_path) -> None:
    whole = One()
    file, x = save_weights(whole, tmp_path / "one.safetensors"), torch.rand(2, 3, 8, 8)
    for key in (None, "net"):
        with listening([].append):
            found = load_model("resnet18", width=2, weights=file, weights_key=key)
        with torch.no_grad():
            assert torch.equal(found.eval()(x), whole.net.eval()(x))
        with listening([].append), pytest.raises(ClatError, match="trained with a normalisation, but this ResNet"):
            load_weights(load_model("resnet18", width=2), file, key=key)


MEMBERS = {"standard": None, "robust": "cifar10"}


def _data(config: ModelConfig) -> dict:
    return {
        "name": "mixture",
        "alpha": config.alpha,
        "scales": config.scales,
        "standard": {"name": "resnet18", "width": 2, "weights": config.standard.weights},
        "robust": {
            "name": "dm-wrn-28-10",
            "width": 2,
            "depths": [1, 1, 1],
            "activation": "relu",
            "normalize": [[0.5], [0.5]],
        },
    }


def _stages() -> dict:
    return {"stages": [{"name": "a", "epochs": 1, "objective": {"name": "standard"}}]}


ONE = NetworkConfig()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alpha": 0.5}, "model.alpha belongs to a mixture"),
        ({"name": "mixture", "standard": ONE, "alpha": 0.5}, "two members"),
        ({"name": "mixture", "standard": ONE, "robust": ONE}, "a fixed model.alpha or a model.gate"),
        ({"name": "mixture", "standard": ONE, "robust": ONE, "alpha": 0.5, "gate": GATE}, "one of them"),
        ({"name": "mixture", "standard": ONE, "robust": ONE, "alpha": 1.5}, "model.alpha is 1.5"),
        ({"name": "mixture", "standard": ONE, "robust": ONE, "alpha": 0.5, "scales": (1, 0)}, "model.scales is"),
        (
            {"name": "mixture", "standard": ONE, "robust": ONE, "alpha": 0.5, "width": 4},
            "model.width is a member's",
        ),
        (
            {"name": "mixture", "standard": ONE, "robust": ONE, "alpha": 0.5, "standard_size": 0},
            "standard_size is 0",
        ),
    ],
)
def test_mixtures_that_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        ModelConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"standard": (), "robust": ()}, "one or two features"),
        ({"standard": ("a", "b"), "robust": ("a",)}, "as many of both"),
        ({"standard": ("a",), "robust": ("a",), "hidden": ()}, "hidden is"),
        ({"standard": ("a",), "robust": ("a",), "alpha_range": (0.9, 0.8)}, "low < high"),
    ],
)
def test_gates_that_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ClatError, match=says):
        GateConfig(**settings)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("layer9",), "unknown module for the gate 'layer9'; did you mean 'layer"),
        (("linear",), "module 'linear' gives the gate no map"),
    ],
)
def test_modules_that_give_the_gate_nothing(names: tuple, says: str) -> None:
    with pytest.raises(ClatError, match=says):
        Mixture(*members(), gate=GateConfig(standard=names, robust=("layer.0",), hidden=(4,)))


def test_hooks_are_gone_after_a_failure() -> None:
    model = members()[0]
    with pytest.raises(RuntimeError), captured(model, ("layer1",)):
        model(torch.rand(1, 5, 8, 8))
    assert not any(m._forward_hooks for m in model.modules())
