"""Training a mixture's gate: the loss by hand, what is attacked and how strongly, and that only the gate moves."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.models import Mixture
from clat.models.settings import GateConfig
from clat.objectives import Mixing, Step
from clat.objectives.mixing import GateOnly, mixing_loss
from clat.runtime.callback import StageContext


@pytest.fixture
def mixture(build) -> Mixture:
    torch.manual_seed(0)
    return Mixture(build(), build(), gate=GateConfig(standard=("conv1",), robust=("conv2",), hidden=(4,))).eval()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.eye(2)])
def test_the_loss_by_hand(labels: Tensor) -> None:
    gate, logits = torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    bce = [math.log(2), math.log1p(math.exp(-2))]  # clean: -log(1 - sigmoid(0)); attacked: -log sigmoid(2)
    ce = [math.log1p(math.exp(-1)), math.log1p(math.exp(-3))]
    loss = mixing_loss(gate, logits, labels, torch.tensor([False, True]))
    assert loss.total.item() == pytest.approx(sum(1.5 * b + 0.3 * b * c for b, c in zip(bce, ce, strict=True)) / 2)
    assert loss.parts["gate"].item() == pytest.approx(sum(bce) / 2)
    assert loss.parts["cross_entropy"].item() == pytest.approx(sum(ce) / 2)
    other = mixing_loss(gate, logits, labels, torch.tensor([False, True]), gate=0.5, output=2.0, product=0.0)
    assert other.total.item() == pytest.approx(sum(0.5 * b + 2 * c for b, c in zip(bce, ce, strict=True)) / 2)


def test_gradients_flow_through_both_factors_of_the_product() -> None:
    gate, logits = torch.tensor([0.5], requires_grad=True), torch.tensor([[1.0, 0.0]], requires_grad=True)
    mixing_loss(gate, logits, torch.tensor([0]), torch.tensor([True])).total.backward()
    bce, ce = math.log1p(math.exp(-0.5)), math.log1p(math.exp(-1))
    slope = -1 / (1 + math.exp(0.5))  # of BCE in the gate's logit
    assert gate.grad.item() == pytest.approx((1.5 + 0.3 * ce) * slope)
    assert logits.grad[0, 0].item() == pytest.approx(0.3 * bce * -1 / (1 + math.e))


def test_half_precision_gives_a_float32_loss() -> None:
    half = mixing_loss(torch.zeros(1).bfloat16(), torch.zeros(1, 2).bfloat16(), torch.tensor([0]), torch.ones(1))
    assert half.total.dtype == torch.float32


@pytest.mark.parametrize("attack", ["apgd", "pgd"])
@pytest.mark.parametrize("soft", [False, True])
def test_the_first_half_is_clean_and_the_second_attacked(mixture, images, labels, attack: str, soft: bool) -> None:
    y = F.one_hot(labels, 5).float() if soft else labels
    objective, step = Mixing(attack=attack, steps=2), Step(seed=4)
    (found,) = objective.examples(mixture, images, y, step)
    assert torch.equal(found[:3], images[:3])
    moved = (found[3:] - images[3:]).abs().amax(dim=(1, 2, 3))
    assert (moved > 0).all()
    assert moved.max() <= objective.size(step) + 1e-7
    assert torch.equal(found, objective.examples(mixture, images, y, step)[0])
    assert not mixture.training


def test_the_strength_is_drawn_by_seed_within_its_interval() -> None:
    objective, eps = Mixing(), 8 / 255
    sizes = [objective.size(Step(seed=seed)) / eps for seed in range(50)]
    assert 0.4 <= min(sizes) < 0.5
    assert 1.0 < max(sizes) <= 1.1
    assert len(set(sizes)) == 50
    assert objective.size(Step(seed=3)) == objective.size(Step(seed=3))
    assert Mixing(strength=(1, 1), eps="4/255").size(Step(seed=1)) == 4 / 255


def test_the_cost_is_the_loss_of_the_mixtures_outputs(mixture, images, labels) -> None:
    mixture.gate.train()
    loss = Mixing().cost(mixture, images, labels, (images,), Step())
    logits, gate = mixture.outputs(images)
    attacked = torch.tensor([0, 0, 0, 1, 1, 1])
    torch.testing.assert_close(loss.total, mixing_loss(gate, logits, labels, attacked).total)


def test_only_the_gate_moves_and_the_members_are_in_evaluation_mode(mixture) -> None:
    mixture.train()
    moving = GateOnly(mixture).choose_parameters(dict(mixture.named_parameters()))
    assert set(moving) == {f"gate.{name}" for name, _ in mixture.gate.named_parameters()}
    assert mixture.gate.learning
    assert not any(m.training for member in (mixture.standard, mixture.robust) for m in member.modules())


def test_networks_without_a_gate_are_refused(net, build) -> None:
    for model in (net, Mixture(build(), build(), alpha=0.5)):
        with pytest.raises(ClatError, match="trains the gate of a mixture"):
            Mixing().requires(model, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"product_weight": -1}, "product_weight is -1"),
        ({"gate_weight": float("nan")}, "gate_weight is nan"),
        ({"strength": (0.0, 1.0)}, "0 < low <= high"),
        ({"strength": (1.0, 0.5)}, "0 < low <= high"),
        ({"attack": "apgdd"}, "did you mean 'apgd'"),
    ],
)
def test_bad_settings(settings: dict, says: str) -> None:
    with pytest.raises(ClatError, match=says):
        Mixing(**settings)


def test_it_joins_a_stage_with_its_companion(mixture) -> None:
    context = StageContext(
        model=mixture,
        engine=None,
        loader=None,
        heldout=(),
        threat=ThreatModel.parse("8/255"),
        seed=0,
        epochs=1,
        batch_size=2,
    )
    assert isinstance(Mixing().on_stage_start(context), GateOnly)
