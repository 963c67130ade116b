"""RiFT's module robust criticality: the closed form, the constraint, what is shared and what is left alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat import measure_robust_criticality
from clat.attacks import pgd
from clat.core.errors import ClatError
from clat.criticality import robust_criticality
from clat.criticality.probing import joint_norm
from clat.criticality.robust_criticality import PUBLISHED, project_weights
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


def linear(weight: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(weight)
    return model


WEIGHT = torch.tensor([[0.5, -0.2, 0.3], [-0.4, 0.6, 0.1]])
X = torch.tensor([0.9, 0.1, 0.4]).view(1, 3, 1, 1)


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_closed_form_on_a_linear_network(radius: float, scale: float) -> None:
    """With logits Wx and r = radius * |W|, the worst change is r / sqrt(2) * x / |x| from the right row to the
    wrong one: it lowers the margin by sqrt(2) * r * |x|, and the loss is softplus(-margin)."""
    weight, y = scale * WEIGHT, torch.tensor([0])
    report = measure_robust_criticality(linear(weight), X, y, x_adv=X, eps=0.1, radius=radius, lr=1e4)
    (row,) = report.rows
    margin = float((weight[0] - weight[1]) @ X.flatten())
    reach = math.sqrt(2) * radius * float(weight.norm()) * float(X.norm())
    before, after = (math.log1p(math.exp(-m)) for m in (margin, margin - reach))
    assert row.value == pytest.approx(after - before, rel=1e-3, abs=1e-6)
    assert row.details["robust_loss"] == pytest.approx(after, rel=1e-4)
    assert report.baseline["robust_loss"] == pytest.approx(before, rel=1e-5)


def test_the_step_is_lr_times_the_gradient() -> None:
    """One epoch that stays inside the radius: W + lr * dCE/dW, with dCE/dW = (p - onehot) x^T."""
    p = torch.softmax(WEIGHT @ X.flatten(), 0)
    moved = WEIGHT + 0.01 * torch.outer(p - torch.tensor([1.0, 0.0]), X.flatten())
    loss = -torch.log_softmax(moved @ X.flatten(), 0)[0]
    report = measure_robust_criticality(
        linear(WEIGHT), X, torch.tensor([0]), x_adv=X, eps=0.1, radius=1, epochs=1, lr=0.01
    )
    assert report.rows[0].details["robust_loss"] == pytest.approx(float(loss), rel=1e-6)


def test_projection() -> None:
    centre = {"a": torch.zeros(2), "b": torch.ones(1)}
    far = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([5.0])}
    near = project_weights(far, centre, 2.5)
    assert torch.equal(near["a"], torch.tensor([1.5, 0.0]))
    assert torch.equal(near["b"], torch.tensor([3.0]))
    assert project_weights(far, centre, 5.0) is far


def test_projection_of_complex_weights() -> None:
    centre, far = {"a": torch.tensor([1 + 1j])}, {"a": torch.tensor([4 + 5j])}
    assert joint_norm(far) == pytest.approx(41**0.5)
    assert torch.equal(project_weights(far, centre, 2.5)["a"], torch.tensor([2.5 + 3j]))
    assert project_weights(far, centre, 5.0) is far


def measured(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Any:
    return measure_robust_criticality(model, x, y, **{"eps": 0.05, "steps": 2, "epochs": 3} | settings)


def test_every_weight_seen_at_an_epochs_end_is_within_the_radius(
    tiny_resnet: Build, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    judge = robust_criticality.loss_and_accuracy

    def spy(model: nn.Module, weights: Any, *rest: Any) -> tuple[float, float]:
        seen.append(dict(weights))
        return judge(model, weights, *rest)

    monkeypatch.setattr(robust_criticality, "loss_and_accuracy", spy)
    model = tiny_resnet()
    measured(model, images, labels, radius=0.02, lr=10.0)
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    looked = [weights for weights in seen if weights]
    assert len(looked) == 3 * 21  # 17 convolutions, 3 shortcuts, the classifier
    for weights in looked:
        assert len(weights) == 1, "one weight tensor alone, without its bias"
        (name,) = weights
        change, bound = joint_norm({name: weights[name] - own[name]}), 0.02 * joint_norm({name: own[name]})
        assert 0 < change <= bound * (1 + 1e-5)


def test_every_layer_of_a_network(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    before = copy.deepcopy(model.state_dict())
    report = measured(model, images, labels)
    assert [row.name for row in report.rows] == [
        layer.name for layer in enumerate_layers(model, images, shortcuts=True, classifier=True)
    ]
    assert all(row.value >= 0 for row in report.rows)
    assert len({row.value for row in report.rows}) > 15
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_seeds_and_the_radius(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[3:6]
    report = measured(model, images, labels, layers=layers)
    assert measured(tiny_resnet(), images, labels, layers=layers) == report
    assert measured(model, images, labels, layers=layers, seed=1) != report
    wider = measured(model, images, labels, layers=layers, radius=0.3)
    assert all(far.value > near.value for far, near in zip(wider.rows, report.rows, strict=True))


def test_one_adversarial_set_serves_all_layers(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:4]
    report = measured(model, images, labels, layers=layers, batch_size=4)
    # PGD-2; then x, x_adv; then 4 layers of 3 epochs with a pass that moves and one that judges.
    assert report.cost.forwards == 6 * (2 + 2 + 4 * 3 * 2)
    assert report.cost.backwards == 6 * (2 + 4 * 3)
    given = pgd(model, images, labels, eps=0.05, steps=2, seed=0)
    whole = measured(model, images, labels, layers=layers)
    assert [row.value for row in measured(model, images, labels, layers=layers, x_adv=given).rows] == [
        row.value for row in whole.rows
    ]


def test_layers_that_cannot_do_harm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero, self.aside, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
            nn.init.zeros_(self.zero.weight)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.head((x + self.zero(x)).mean((2, 3)))

    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    zero, aside, head = measured(Net(), x, torch.tensor([0, 1, 0, 1])).rows
    assert zero.value == 0, "0.1 times a norm of zero leaves no room"
    assert aside.value == 0, "it does not reach the logits"
    assert head.value > 0


def test_the_published_settings_fit(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    report = measure_robust_criticality(
        tiny_resnet(), images, labels, epochs=1, layers=enumerate_layers(tiny_resnet(), images)[:1], **PUBLISHED
    )
    assert report.settings["alpha"] == pytest.approx(2 / 225)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"radius": -0.1}, "radius"),
        ({"epochs": 0}, "epochs"),
        ({"lr": math.nan}, "lr"),
        ({"lr": 1e39}, "left the finite numbers"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"layers": []}, "no layer to rank"),
        ({"x_adv": torch.zeros(1, 3, 8, 8)}, "x_adv has shape"),
    ],
)
def test_bad_input(settings: dict[str, Any], says: str, tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ClatError, match=says):
        measured(tiny_resnet(), images, labels, **settings)
