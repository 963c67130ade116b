from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.attacks import pgd
from clat.errors import ClatError
from clat.evaluation import Evaluation, Protocol, evaluate, evaluate_batches
from clat.evaluation.cost import Cost, metered
from clat.evaluation.protocols import PgdSpec

Build = Callable[[], nn.Module]


class Brightness(nn.Module):
    """Says 1 if the mean is above one half. Within eps the mean moves by eps, so it is robust exactly where the
    mean is further than eps from one half."""

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[Tensor] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        score = (x.flatten(1) @ torch.ones(x[0].numel(), 1))[:, 0] / x[0].numel() - 0.5
        self.dtypes.add(score.dtype)
        return self.scale * torch.stack([-score, score], dim=1)


def grey(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 3)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        with torch.no_grad():
            self.fc.bias[2] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def test_robust_exactly_where_the_margin_is_larger_than_eps() -> None:
    x = grey(0.05, 0.35, 0.45, 0.55, 0.72, 0.95, 0.1)
    y = torch.tensor([0, 0, 0, 1, 1, 1, 1])  # the last is wrong already
    result = evaluate(Brightness(), x, y, eps=0.2, protocol="pgd-10", batch_size=3)
    assert result.correct.tolist() == [True] * 6 + [False]
    assert result.robust.tolist() == [True, False, False, False, True, True, False]
    assert (result.clean_accuracy.value, result.robust_accuracy.value) == (6 / 7, 3 / 7)
    assert result.per_attack == {"pgd-10": result.robust_accuracy}
    # l2: the mean moves by eps / sqrt(48)
    result = evaluate(Brightness(), x, y, eps=0.2 * math.sqrt(48), norm="l2", protocol="pgd-10", batch_size=3)
    assert result.robust.tolist() == [True, False, False, False, True, True, False]


def test_a_constant_classifier() -> None:
    y = torch.tensor([2, 0, 2, 1, 2])
    result = evaluate(Constant(), torch.rand(5, 3, 4, 4), y, eps="8/255", protocol="pgd-10")
    assert result.clean_accuracy.value == result.robust_accuracy.value == 3 / 5
    assert torch.equal(result.robust, y == 2)


def test_a_classifier_without_a_gradient_is_not_called_robust() -> None:
    class Steps(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 4).round().detach() / 4)

    with pytest.raises(ClatError, match="no gradient towards its input"):
        evaluate(Steps(), grey(0.1), torch.tensor([0]), eps=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_robust_implies_correct(seed: int, tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    with torch.no_grad():
        y = model(images).argmax(1)
    y[::2] = (y[::2] + seed) % 10
    result = evaluate(model, images, y, eps="2/255", protocol="fgsm", batch_size=4, seed=seed)
    assert result.correct.dtype == result.robust.dtype == torch.bool
    assert not (result.robust & ~result.correct).any()
    assert result.correct[1::2].all()


def test_the_verdict_is_a_fresh_float32_forward_pass() -> None:
    """Half precision around it changes nothing, and the last thing the model sees is the example itself."""
    x, y = grey(0.2, 0.695, 0.8), torch.tensor([0, 1, 1])
    plain, half = Brightness(), Brightness()
    expected = evaluate(plain, x, y, eps=0.2, protocol="pgd-10")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = evaluate(half, x, y, eps=0.2, protocol="pgd-10")
    assert half.dtypes == {torch.float32}
    assert torch.equal(result.robust, expected.robust)
    for a, b in zip(plain.seen, half.seen, strict=True):
        assert torch.equal(a, b)
    assert len(plain.seen) == 1 + 10 + 1
    with torch.no_grad():
        assert torch.equal(result.robust, plain(half.seen[-1]).argmax(1) == y)
    assert ((half.seen[-1].double() - x.double()).abs() <= 0.2).all()


def test_a_samples_attack_does_not_depend_on_which_others_are_fooled() -> None:
    """With another sample wrong from the start, and so not attacked, the rest see the same points."""
    x, y = grey(0.3, 0.2, 0.7, 0.8), torch.tensor([0, 0, 1, 1])
    points = {}
    for wrong in (None, 0, 2):
        labels = y.clone()
        if wrong is not None:
            labels[wrong] = 1 - labels[wrong]
        model = Brightness()
        evaluate(model, x, labels, eps=0.1, protocol="pgd-10", seed=9)
        rows = [i for i in range(4) if i != wrong]
        points[wrong] = {row: model.seen[1][place] for place, row in enumerate(rows)}
    for wrong in (0, 2):
        for row, point in points[wrong].items():
            assert torch.equal(point, points[None][row]), (wrong, row)


def test_seeds_and_batches() -> None:
    x, y = grey(0.3, 0.2, 0.7, 0.8), torch.tensor([0, 0, 1, 1])

    def starts(seed: int) -> Tensor:
        model = Brightness()
        evaluate(model, x, y, eps=0.1, protocol="fgsm", seed=seed, batch_size=2)
        return torch.cat([model.seen[1], model.seen[4]])

    assert torch.equal(starts(0), starts(0))
    assert not torch.equal(starts(0), starts(1))
    noise = starts(0) - x
    assert not torch.allclose(noise[:2], noise[2:], atol=1e-3)  # each batch has its own
    result = evaluate(Brightness(), x, y, eps=0.25, protocol="pgd-10", batch_size=3)
    assert torch.equal(result.robust, evaluate(Brightness(), x, y, eps=0.25, protocol="pgd-10").robust)


def test_attacks_follow_one_another_on_what_is_left() -> None:
    x, y = grey(0.05, 0.31, 0.47), torch.tensor([0, 0, 0])
    weak = PgdSpec(steps=2, alpha_ratio="1/8", random_start=False)  # moves by eps / 4
    both = Protocol("both", (weak, PgdSpec(steps=10), PgdSpec(steps=10)))
    model = Brightness()
    result = evaluate(model, x, y, eps=0.2, protocol=both)
    assert {name: accuracy.correct for name, accuracy in result.per_attack.items()} == {
        "pgd-2": 2, "pgd-10": 1, "pgd-10 (3)": 1,
    }  # fmt: skip
    assert [len(seen) for seen in model.seen] == [3, *[3] * 3, *[2] * 11, *[1] * 11]
    assert torch.equal(model.seen[1], x)


class Counter(nn.Module):
    """Counts by itself, in forward and in backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + len(gradient)))
        return out


@pytest.mark.parametrize(("protocol", "steps"), [("fgsm", 1), ("pgd-10", 10)])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_cost_of_pgd(protocol: str, steps: int, batch_size: int) -> None:
    """N clean passes, and for each of the M samples correct on them k passes both ways and a verdict."""
    x, y = grey(0.1, 0.2, 0.3, 0.8, 0.9), torch.tensor([0, 0, 1, 1, 1])
    n, m = 5, 4
    model = Counter(Brightness())
    cost = evaluate(model, x, y, eps=0.3, protocol=protocol, batch_size=batch_size).cost
    assert cost.forwards == model.forwards == n + m * steps + m
    assert cost.backwards == model.backwards == m * steps
    assert cost.seconds > 0
    assert (cost.peak_memory_bytes or 0) > 2**20


def test_cost_counts_towards_inputs_and_towards_weights() -> None:
    x, y = grey(0.1, 0.2, 0.3), torch.tensor([0, 0, 1])
    model = Brightness()
    with metered(model) as cost:
        model(x).sum().backward()
        with torch.no_grad():
            model(x[:1])
        pgd(model, x, y, eps=0.1, steps=4)
    assert (cost.forwards, cost.backwards) == (3 + 1 + 12, 3 + 12)
    model(x)
    assert cost.forwards == 16
    total = cost + Cost(forwards=1, backwards=2, seconds=3.0, peak_memory_bytes=None)
    assert (total.forwards, total.backwards, total.peak_memory_bytes) == (17, 17, cost.peak_memory_bytes)
    with pytest.raises(RuntimeError, match="inside"), metered(model):
        raise RuntimeError("inside")
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_the_result_file(tmp_path: Path) -> None:
    x, y = grey(0.1, 0.3, 0.45, 0.8), torch.tensor([0, 0, 0, 1])
    result = evaluate(
        Brightness(), x, y, eps=8 / 255, protocol="pgd-20", seed=3, about={"model": "brightness", "weights": None}
    )
    path = tmp_path / "evaluation.json"
    result.to_json(path)
    data = json.loads(path.read_text())
    assert data["what"] == "evaluation"
    assert (data["model"], data["weights"], data["seed"]) == ("brightness", None, 3)
    assert (data["protocol"]["name"], data["protocol"]["hash"]) == ("pgd-20", result.protocol.hash)
    assert data["protocol"]["norm"] == "linf"
    assert data["protocol"]["attacks"][0]["steps"] == 20
    assert data["eps"] == {"text": "8/255", "value": 8 / 255}
    assert data["precision"] == "float32"
    for key, accuracy in (("clean_accuracy", result.clean_accuracy), ("robust_accuracy", result.robust_accuracy)):
        low, high = accuracy.interval
        expected = {"value": accuracy.value, "correct": 4, "n": 4, "low": low, "high": high, "confidence": 0.95}
        assert data[key].items() >= expected.items()
    assert data["per_attack"] == [{"name": "pgd-20", "robust_accuracy": data["robust_accuracy"]}]
    assert set(data["cost"]) == {"forwards", "backwards", "seconds", "peak_memory_bytes"}
    assert data["cost"]["forwards"] == 4 + 4 * 20 + 4
    assert {"clat", "torch", "device", "threads"} <= set(data["environment"])


class Broken(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda out: (out, out), "does not return logits"),
        (lambda out: out[0], "does not return logits"),
        (lambda out: {"logits": out}, "does not return logits"),
        (lambda out: out[:, :2], "a label is 2, but the model has 2 classes"),
        (lambda out: out * float("nan"), "NaN or infinite logits"),
        (lambda out: out / 0, "NaN or infinite logits"),
        (lambda out: torch.sqrt(out - out) + torch.eye(3)[:3], "gradient is not finite"),
    ],
)
def test_bad_models(output: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ClatError, match=message):
        evaluate(Broken(output), torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2]), eps="8/255", protocol="pgd-10")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"norm": "l1"}, "unknown norm"),
        ({"protocol": "pgd20"}, "did you mean 'pgd-20'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"x": torch.rand(2, 3, 4, 4) * 255}, "divide by 255"),
        ({"x": torch.rand(2, 4, 4, 3)}, r"x\.permute\(0, 3, 1, 2\)"),
        ({"y": torch.tensor([0])}, "1 labels for 2 images"),
        ({"x": torch.rand(0, 3, 4, 4), "y": torch.empty(0, dtype=torch.int64)}, "empty"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"x": torch.rand(2, 3, 4, 4), "y": torch.tensor([0, 1]), "eps": "8/255"}
    given = good | settings
    with pytest.raises(ClatError, match=message):
        evaluate(Constant(), given.pop("x"), given.pop("y"), **given)


def test_batches_are_looked_at_too() -> None:
    x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
    none: list[tuple[Tensor, Tensor]] = []

    def run(batches: list[tuple[Tensor, Tensor]]) -> Evaluation:
        return evaluate_batches(Constant(), batches, protocol="fgsm", eps="8/255")

    with pytest.raises(ClatError, match="data set is empty"):
        run(none)
    with pytest.raises(ClatError, match="divide by 255"):
        run([(x, y), (x * 255, y)])
    with pytest.raises(ClatError, match="2 labels for 1 images"):
        run([(x[:1], y)])
    result = run([(x, y), (x[:0], y[:0]), (x[:1], y[:1])])
    assert result.correct.tolist() == [False, True, False]
