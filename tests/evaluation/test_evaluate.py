"""Verdicts of `evaluate` where they are known, its promises, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import fgsm, pgd
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.evaluation import PROTOCOLS, AttackSpec, Protocol, evaluate
from clat.evaluation.planned_search import plan_searches
from clat.network.cost import Cost, metered

Build = Callable[[], nn.Module]

SHORT = Protocol(
    name="short",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=10),
        AttackSpec(attack="apgd", loss="dlr-targeted", steps=10, targets=4),
        AttackSpec(attack="fab", steps=5, targets=2),
        AttackSpec(attack="square", steps=20),
    ),
)
"""Like AutoAttack, though not called so."""

TEN_STEPS = Protocol(name="ten-steps", attacks=(AttackSpec(attack="pgd", steps=10, alpha_ratio="1/8"),))
"""Too short for a corner of the ball, where a step changes nothing and the rest would not be made."""


LOOK = 2 + 8
"""Images that an evaluation looks at, alone, before it begins: the first and last of a batch, and the first again
and again, to see whether outputs are random; no cost holds them."""


class Brightness(nn.Module):
    """Says 1 if the mean is above one half. Within eps the mean moves by eps, so it is robust exactly where the
    mean is further than eps from one half."""

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.calls: list[tuple[Tensor, torch.dtype]] = []

    @property
    def seen(self) -> list[Tensor]:
        """What it was called with, but for eight of the looks at single images."""
        return [x for x, _ in self.calls[8:]]

    @property
    def dtypes(self) -> list[torch.dtype]:
        return [dtype for _, dtype in self.calls[8:]]

    def forward(self, x: Tensor) -> Tensor:
        score = (x.flatten(1) @ torch.ones(x[0].numel(), 1))[:, 0] / x[0].numel() - 0.5
        self.calls.append((x.detach().clone(), score.dtype))
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
            self.fc.bias[2] = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("protocol", ["pgd-10", "apgd-ce", "fab"])
def test_robust_exactly_where_the_margin_is_larger_than_eps(protocol: str) -> None:
    x = grey(0.05, 0.35, 0.45, 0.55, 0.72, 0.95, 0.1)
    y = torch.tensor([0, 0, 0, 1, 1, 1, 1])  # the last is wrong already
    result = evaluate(Brightness(), x, y, eps=0.2, protocol=protocol, batch_size=3)
    assert result.correct.tolist() == [True] * 6 + [False]
    assert result.robust.tolist() == [True, False, False, False, True, True, False]
    assert (result.clean_accuracy.value, result.robust_accuracy.value) == (6 / 7, 3 / 7)
    assert result.per_attack == {protocol: result.robust_accuracy}
    # l2: the mean moves by eps / sqrt(48)
    result = evaluate(Brightness(), x, y, eps=0.2 * math.sqrt(48), norm="l2", protocol=protocol, batch_size=3)
    assert result.robust.tolist() == [True, False, False, False, True, True, False]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_robust_exactly_where_the_nearest_boundary_is_beyond_eps(classes: int, norm: str, linear, samples) -> None:
    """A linear network: all attacks together find the nearest boundary, however few classes there are."""
    model = linear(classes)
    x, y = samples(model, 40)
    distance = model.distances(x, y, norm)
    eps = distance[distance > 0].median().item()
    result = evaluate(model, x, y, protocol=SHORT, eps=eps, norm=norm)
    assert torch.equal(result.correct, distance > 0)
    sure = (distance / eps - 1).abs() > 0.02
    assert torch.equal(result.robust[sure], (distance > eps)[sure])
    assert sure.sum() > 30
    assert sum("targets instead of 4" in note for note in result.notes) == (classes < 5)
    assert sum("targets instead of 2" in note for note in result.notes) == (classes < 3)
    assert sum("the margin instead of the targeted DLR" in note for note in result.notes) == (classes < 4)


def test_a_constant_classifier() -> None:
    y = torch.tensor([2, 0, 2, 1, 2])
    result = evaluate(Constant(), torch.rand(5, 3, 4, 4), y, eps="8/255", protocol="pgd-10")
    assert result.clean_accuracy.value == result.robust_accuracy.value == 3 / 5
    assert torch.equal(result.robust, y == 2)


@pytest.mark.parametrize("protocol", ["pgd-20", "apgd-ce", "fab", "fab-t", "stadv"])
def test_a_classifier_without_a_gradient_is_not_called_robust(protocol: str) -> None:
    class Steps(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 4).round().detach() / 4)

    with pytest.raises(ClatError, match="no gradient towards its input"):
        evaluate(Steps(), grey(0.1), torch.tensor([0]), eps=0.2, protocol=protocol)


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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_the_published_one(norm: str, tiny_resnet: Build, images: Tensor) -> None:
    """x + eps sign(gradient), from the image itself, and no draw of numbers; `fgsm-rs` starts at random."""
    model, eps = tiny_resnet(), 4 / 255
    with torch.no_grad():
        y = model(images).argmax(1)
    found = evaluate(model, images, y, eps=eps, norm=norm, protocol="fgsm", keep_examples=True).x_adv
    point = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.eval()(point), y, reduction="sum"), point)
    if norm == "linf":
        by_hand = images + eps * gradient.sign()
    else:
        by_hand = images + eps * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(found, by_hand.clamp(0, 1), rtol=0, atol=1e-4)
    attack = fgsm(model, images, y, eps=eps, norm=norm, random_start=False)
    torch.testing.assert_close(found, attack, rtol=0, atol=1e-6)
    started = evaluate(model, images, y, eps=eps, norm=norm, protocol="fgsm-rs", keep_examples=True).x_adv
    assert not torch.allclose(started, found, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_batches_change_nothing(norm: str, linear, samples) -> None:
    model = linear()
    x, y = samples(model, 17)
    eps = model.distances(x, y, norm).clamp_min(0).median().item()
    together = evaluate(model, x, y, protocol=SHORT, eps=eps, norm=norm, keep_examples=True)
    assert 0 < together.robust.sum() < together.correct.sum()
    for size in (3, 4):
        apart = evaluate(model, x, y, protocol=SHORT, eps=eps, norm=norm, batch_size=size, keep_examples=True)
        assert torch.equal(apart.correct, together.correct)
        assert torch.equal(apart.fooled_by, together.fooled_by)
        assert torch.equal(apart.x_adv, together.x_adv)
        # Without examples, passes share batches.
        shared = evaluate(model, x, y, protocol=SHORT, eps=eps, norm=norm, batch_size=size)
        assert torch.equal(shared.fooled_by, together.fooled_by)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    other = evaluate(model, x[order], y[order], protocol=SHORT, eps=eps, norm=norm, ids=order, keep_examples=True)
    assert torch.equal(other.x_adv, together.x_adv[order])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_verdict_is_a_fresh_float32_forward_pass(precision: str) -> None:
    """Half precision in the search or around it changes nothing about it, and the last thing the model sees is the
    example itself."""
    x, y = grey(0.2, 0.695, 0.8), torch.tensor([0, 1, 1])
    plain, half = Brightness(), Brightness()
    expected = evaluate(plain, x, y, eps=0.2, protocol=TEN_STEPS, keep_examples=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = evaluate(half, x, y, eps=0.2, protocol=TEN_STEPS, precision=precision, keep_examples=True)
    assert result.precision == precision
    search = torch.float32 if precision == "float32" else torch.bfloat16
    # one image alone, the clean images, ten steps, the verdict
    assert half.dtypes[:14] == [torch.float32] * 3 + [search] * 10 + [torch.float32]
    assert [len(seen) for seen in half.seen[:14]] == [1, 1] + [3] * 12
    assert torch.equal(result.robust, expected.robust)
    assert torch.equal(half.seen[13], result.x_adv)
    if precision == "float32":
        assert all(torch.equal(a, b) for a, b in zip(plain.seen, half.seen, strict=True))
    else:  # does the search take one of the rest for an example?
        assert half.dtypes[14:] == [torch.bfloat16]
        assert torch.equal(half.seen[14], result.x_adv[result.robust])
    with torch.no_grad():
        assert torch.equal(result.robust, plain(result.x_adv).argmax(1) == y)


@pytest.mark.parametrize("protocol", ["apgd-ce", "square"])
def test_what_only_half_precision_takes_for_an_example_is_searched_again(protocol: str) -> None:
    """The search sees a boundary that is too near, and would leave a sample that it could fool for one that it does
    not. A sample that nothing in reach fools stays robust."""

    class Nearer(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.03 if torch.is_autocast_enabled("cpu") else x)

    x, y = grey(0.44, 0.395, 0.2), torch.tensor([0, 0, 0])
    for precision in ("float32", "bfloat16"):
        model = Nearer()
        result = evaluate(model, x, y, eps=0.1, protocol=protocol, precision=precision, keep_examples=True)
        assert result.robust.tolist() == [False, True, True], precision
        with torch.no_grad():
            assert torch.equal(model(result.x_adv).argmax(1) == y, result.robust)


@pytest.mark.parametrize("protocol", ["square", "pixle"])
@pytest.mark.parametrize("label", [0, 1])
def test_logits_that_are_nan_near_the_image_are_not_robustness(protocol: str, label: int) -> None:
    """argmax takes the first NaN for the largest, so that class 0 would look right there."""
    x = torch.linspace(0.2, 0.8, 48).view(1, 3, 4, 4)

    class Fragile(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            moved = (images != x).flatten(1).any(1, keepdim=True)
            return torch.where(moved, torch.nan, 9 * torch.eye(3)[label])

    with pytest.raises(ClatError, match="NaN or infinite logits"):
        evaluate(Fragile(), x, torch.tensor([label]), eps="8/255", protocol=protocol)


def test_fab_searches_in_float32_whatever_the_precision() -> None:
    x, y = grey(0.2, 0.8), torch.tensor([0, 1])
    model = Brightness()
    both = Protocol(name="both", attacks=(AttackSpec(attack="fab", steps=2), AttackSpec(attack="pgd", steps=2)))
    evaluate(model, x, y, eps=0.1, protocol=both, precision="bfloat16")
    # one image alone, the clean images; a start, two steps of two, the verdict; two of PGD
    assert model.dtypes[:8] == [torch.float32] * 8
    assert model.dtypes[9:11] == [torch.bfloat16] * 2


@pytest.mark.parametrize("attack", ["fab", "square", "pixle"])
def test_attacks_that_live_on_small_differences_search_in_float32_only(attack: str) -> None:
    one = Protocol(name="one", attacks=(AttackSpec(attack=attack),))
    found, _ = plan_searches(one, ThreatModel.parse(0.1), classes=2, seed=0)
    assert all(single.exact for single in found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("protocol", ["pgd-10", SHORT], ids=["pgd-10", "short"])
def test_the_examples(protocol: str | Protocol, norm: str, tiny_resnet: Build) -> None:
    """Every fooled sample's example is misclassified; every example is inside, exactly."""
    model = tiny_resnet()
    x = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    eps = {"linf": 4 / 255, "l2": 0.2}[norm]
    result = evaluate(model, x, y, protocol=protocol, eps=eps, norm=norm, batch_size=24, keep_examples=True)
    with torch.no_grad():
        right = model(result.x_adv).argmax(1) == y
    assert torch.equal(right, result.robust)
    assert 0 < result.robust.sum() < 23
    delta = (result.x_adv.double() - x.double()).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert length.max() <= eps
    assert torch.equal(length > 0, result.correct), "every attacked sample has an example, no other has"
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert evaluate(model, x[:2], y[:2], eps=eps, protocol="fgsm").x_adv is None


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
        points[wrong] = {row: model.seen[3][place] for place, row in enumerate(rows)}
    for wrong in (0, 2):
        for row, point in points[wrong].items():
            assert torch.equal(point, points[None][row]), (wrong, row)


def test_seeds_and_numbers() -> None:
    x, y = grey(0.3, 0.2, 0.7, 0.8), torch.tensor([0, 0, 1, 1])

    def noise(seed: int, ids: Tensor | None = None) -> Tensor:
        model = Brightness()
        evaluate(model, x, y, eps=0.1, protocol="fgsm-rs", seed=seed, ids=ids)
        return model.seen[3] - x

    assert torch.equal(noise(0), noise(0))
    assert not torch.isclose(noise(0), noise(1), atol=1e-3).all(1).any()
    assert not torch.allclose(noise(0)[0], noise(0)[1], atol=1e-3)  # each sample has its own
    torch.testing.assert_close(noise(0, torch.tensor([1, 0, 3, 2])), noise(0)[[1, 0, 3, 2]], atol=1e-6, rtol=0)


def test_attacks_follow_one_another_on_what_is_left() -> None:
    x, y = grey(0.05, 0.31, 0.47), torch.tensor([0, 0, 0])
    weak = AttackSpec(attack="pgd", steps=1, alpha_ratio="1/8")
    strong = AttackSpec(attack="pgd", steps=10)  # in a corner after eight, where the ninth changes nothing
    both = Protocol(name="both", attacks=(weak, strong, strong))
    model, told = Brightness(), []
    result = evaluate(model, x, y, eps=0.2, protocol=both, report=lambda *what: told.append(what))
    assert {name: accuracy.correct for name, accuracy in result.per_attack.items()} == {
        "pgd-1": 2, "pgd-10": 1, "pgd-10 (3)": 1,
    }  # fmt: skip
    assert result.fooled_by.tolist() == [-1, 1, 0]
    assert [len(seen) for seen in model.seen] == [1, 1, 3, *[3] * 2, *[2] * 10, *[1] * 10]
    assert told == [("pgd-1", 3, 3, 2 / 3), ("pgd-10", 2, 2, 1 / 3), ("pgd-10", 1, 1, 1 / 3)]


def test_fab_restarts_begin_elsewhere(linear, samples) -> None:
    model = linear()
    x, y = samples(model, 2)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    twice = Protocol(name="twice", attacks=(AttackSpec(attack="fab", steps=1, targets=1, restarts=2),))
    evaluate(model, x, y, eps=1e-5, protocol=twice, keep_examples=True)
    first, second = seen[LOOK + 2], seen[LOOK + 6]  # after the clean images: start, step, look, verdict
    assert torch.equal(first, x)
    assert not torch.equal(second, x)


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize(("protocol", "steps"), [("fgsm", 1), (TEN_STEPS, 10)])
def test_cost_of_pgd(protocol: str | Protocol, steps: int, batch_size: int, linear, samples) -> None:
    """N clean passes, and for each of the M samples correct on them k passes both ways and a verdict."""
    model = linear()
    x, y = samples(model, 9)
    n, m = 9, 8
    cost = evaluate(model, x, y, eps=0.3, protocol=protocol, batch_size=batch_size).cost
    assert cost.forwards == model.forwards - LOOK == n + m * steps + m
    assert cost.backwards == model.backwards == m * steps
    assert cost.seconds > 0
    assert (cost.peak_memory_bytes or 0) > 2**20


@pytest.mark.parametrize("batch_size", [3, 20])
def test_cost_of_apgd(batch_size: int, linear, samples) -> None:
    """Where no boundary is within reach: a start and 100 steps both ways, and for a target the clean logits."""
    model = linear()
    x, y = samples(model, 5)
    n, m = 5, 4
    cost = evaluate(model, x, y, eps=1e-6, protocol="apgd-ce", batch_size=batch_size).cost
    assert cost.forwards == model.forwards - LOOK == n + m * 101 + m
    assert cost.backwards == model.backwards == m * 101
    model.forwards = model.backwards = 0
    cost = evaluate(model, x, y, eps=1e-6, protocol="apgd-t", batch_size=batch_size).cost
    assert cost.forwards == model.forwards - LOOK == n + 4 * m * (1 + 101 + 1)
    assert cost.backwards == model.backwards == 4 * m * 101


def test_cost_of_apgd_where_samples_leave_early(linear, samples) -> None:
    model = linear()
    x, y = samples(model, 20)
    eps = model.distances(x, y).clamp_min(0).median().item()
    model.forwards = model.backwards = 0
    result = evaluate(model, x, y, eps=eps, protocol=SHORT, batch_size=1)
    look = 3 + 8  # one image a batch: it is looked at alone, and beside another
    assert (result.cost.forwards, result.cost.backwards) == (model.forwards - look, model.backwards)
    assert 0 < result.robust.sum() < result.correct.sum()
    survivors = int(result.robust.sum())
    assert result.cost.backwards < int(result.correct.sum()) * (11 + 4 * 11 + 2 * 5)
    assert result.cost.backwards >= survivors * (11 + 4 * 11 + 2 * 5)


def test_large_images_are_given_to_a_network_few_at_a_time_on_a_cpu() -> None:
    """3 MiB each: two are taken together by attacks and verdicts, whatever batch is allowed."""
    seen = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return torch.stack([x.mean((1, 2, 3)), 2 - x.mean((1, 2, 3))], 1)

    x = torch.full((5, 3, 512, 512), 0.4)
    result = evaluate(Watched(), x, torch.ones(5, dtype=torch.int64), protocol="pgd-10", eps=0.05, batch_size=100)
    assert result.clean_accuracy.value == result.robust_accuracy.value == 1
    assert max(seen) == 2


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


def test_leaves_no_trace(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model, kept = tiny_resnet().train(), images.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(model, images, labels, eps="8/255", protocol=SHORT, batch_size=4, keep_examples=True)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model._forward_hooks
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)


def test_the_result_file(tmp_path: Path) -> None:
    x, y = grey(0.1, 0.35, 0.45, 0.8, 0.9), torch.tensor([0, 0, 0, 1, 0])
    result = evaluate(
        Brightness(), x, y, eps=8 / 255, protocol="pgd-20", seed=3, about={"model": "brightness", "weights": None}
    )
    path = tmp_path / "evaluation.json"
    result.to_json(path)
    data = json.loads(path.read_text())
    assert data["what"] == "evaluation"
    assert (data["model"], data["weights"], data["seed"]) == ("brightness", None, 3)
    assert (data["protocol"]["name"], data["protocol"]["hash"]) == ("pgd-20", PROTOCOLS["pgd-20"].hash)
    assert data["protocol"]["norm"] == "linf"
    assert data["protocol"]["attacks"][0]["steps"] == 20
    assert data["eps"] == {"text": "8/255", "value": 8 / 255}
    assert data["precision"] == "float32"
    assert data["notes"] == []
    assert data["correct"] == data["robust"] == "11110"
    for key, accuracy in (("clean_accuracy", result.clean_accuracy), ("robust_accuracy", result.robust_accuracy)):
        low, high = accuracy.interval
        expected = {"value": accuracy.value, "correct": 4, "n": 5, "low": low, "high": high, "confidence": 0.95}
        assert data[key].items() >= expected.items()
    assert data["per_attack"] == [{"name": "pgd-20", "robust_accuracy": data["robust_accuracy"]}]
    assert set(data["cost"]) == {"forwards", "backwards", "seconds", "peak_memory_bytes"}
    # A verdict after the first step, and at the end: eight lead to a corner, where a ninth changes nothing.
    assert data["cost"]["forwards"] == 5 + 4 * 9 + 4 + 4
    assert {"clat", "torch", "device", "threads"} <= set(data["environment"])
    evaluate(Brightness(), x, y, eps=0.2, protocol="fgsm").to_json(path)
    assert json.loads(path.read_text())["robust"] == "10010", "an existing file is replaced"


def test_the_digest_changes_with_images_labels_and_numbers_only() -> None:
    x, y = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 0])

    def digest(x: Tensor = x, y: Tensor = y, **options: Any) -> str:
        return evaluate(Brightness(), x, y, **{"eps": 0.1, "protocol": "fgsm", **options}).to_dict()["images"]

    one = digest()
    assert len(one) == 16
    assert one == digest(protocol="pgd-10", eps=0.2, seed=1, batch_size=1)
    assert one == digest(x.contiguous(memory_format=torch.channels_last), ids=torch.arange(3))
    nudged = x.clone()
    nudged[2, 1, 3, 3] = torch.nextafter(nudged[2, 1, 3, 3], torch.tensor(0.5))
    others = [digest(nudged), digest(y=1 - y), digest(ids=torch.tensor([0, 2, 1])), digest(x[:2], y[:2])]
    assert len({one, *others}) == 5


class Broken(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda out: (None, out), "does not return logits"),
        (lambda out: out[0], "does not return logits"),
        (lambda out: {"scores": out}, "does not return logits"),
        (lambda out: out[:, :2], "a label is 2, but the model has 2 classes"),
        (lambda out: out.softmax(1), "returns probabilities: let it return logits"),
        (lambda out: out * float("nan"), "NaN or infinite logits"),
        (lambda out: out / 0, "NaN or infinite logits"),
    ],
)
def test_bad_models(output: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ClatError, match=message) as raised:
        evaluate(Broken(output), torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2]), eps="8/255", protocol="pgd-10")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("protocol", ["pgd-10", "apgd-ce", "fab", "fab-t", "stadv"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_gradient_that_is_nan_is_not_robustness(protocol: str, label: int) -> None:
    model = Broken(lambda out: torch.sqrt(out - out) + 9 * torch.eye(3)[torch.full((len(out),), label)])
    with pytest.raises(ClatError, match="gradient is not finite"):
        evaluate(model, torch.rand(3, 3, 4, 4), torch.full((3,), label), eps="8/255", protocol=protocol)


def test_one_image_that_looks_like_probabilities_is_not_enough() -> None:
    """The first image's logits happen to be some; those of the others, in the same batch, are not."""
    x = torch.rand(3, 3, 4, 4)
    x[0, 0, 0, :3] = torch.tensor([0.2, 0.5, 0.3])
    x[1, 0, 0, :3] = torch.tensor([0.9, 0.9, 0.3])
    evaluate(Broken(lambda out: out), x, torch.tensor([1, 1, 1]), eps="8/255", protocol="fgsm")
    with pytest.raises(ClatError, match="returns probabilities"):
        evaluate(Broken(lambda out: out), x[:1], torch.tensor([1]), eps="8/255", protocol="fgsm")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_probabilities_in_half_precision_are_seen(kind: torch.dtype) -> None:
    """Their sum is not 1 by float32's standards."""
    x, y = torch.rand(40, 3, 8, 8), torch.zeros(40, dtype=torch.int64)
    outputs = Broken(lambda out: (5 * out).to(kind).softmax(1))
    with pytest.raises(ClatError, match="returns probabilities"):
        evaluate(outputs, x, y, eps="8/255", protocol="fgsm")
    with pytest.raises(ClatError, match="returns probabilities"):
        evaluate(Broken(lambda out: (5 * out).to(kind).softmax(1).float()), x, y, eps="8/255", protocol="fgsm")


def test_outputs_that_look_like_probabilities_are_noted() -> None:
    x, y = torch.rand(8, 3, 4, 4), torch.zeros(8, dtype=torch.int64)

    def notes(output: Callable[[Tensor], Any]) -> str:
        return "\n".join(evaluate(Broken(output), x, y, eps="8/255", protocol="fgsm").notes)

    assert "look like probabilities" in notes(torch.sigmoid)
    assert "look like probabilities" not in notes(lambda out: out - 0.5)
    alone = evaluate(Broken(torch.sigmoid), x[:1], y[:1], eps="8/255", protocol="fgsm")
    assert alone.notes == [], "a few logits may be such by chance"
    assert "look like probabilities" not in notes(lambda out: torch.cat([out[:-1], out[-1:] + 1])), "a single image"


def test_logarithms_of_probabilities_are_logits() -> None:
    x, y = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2])
    evaluate(Broken(lambda out: out.log_softmax(1)), x, y, eps="8/255", protocol="fgsm")


def test_too_few_classes() -> None:
    x, y = torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ClatError, match="the model has 1 class"):
        evaluate(Broken(lambda out: out[:, :1] + 3), x, y, eps="8/255", protocol="fgsm")
    dlr = Protocol(name="dlr", attacks=(AttackSpec(attack="apgd", loss="dlr"),))
    with pytest.raises(ClatError, match="apgd-dlr needs at least 3 classes, the model has 2"):
        evaluate(Broken(lambda out: out[:, :2]), x, y, eps="8/255", protocol=dlr)


def test_a_model_in_two_places() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 3, device="meta"))
    with pytest.raises(ClatError, match=r"are on cpu and meta: move them to one device"):
        evaluate(model, torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), eps="8/255")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"norm": "l0"}, "unknown norm"),
        ({"protocol": "pgd20"}, "did you mean 'pgd-20'"),
        ({"precision": "float16"}, "did you mean 'bfloat16'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"x": torch.rand(2, 3, 4, 4) * 255}, "divide by 255"),
        ({"x": torch.rand(2, 3, 4, 4) - 0.5}, "unnormalised"),
        ({"x": torch.rand(2, 4, 4, 3)}, r"x\.permute\(0, 3, 1, 2\)"),
        ({"y": torch.tensor([0])}, "1 label for 2 images"),
        ({"y": torch.tensor([0, 3])}, "a label is 3, but the model has 3 classes"),
        ({"y": torch.tensor([0, -1])}, "labels lie in"),
        ({"ids": torch.tensor([0, 1, 2])}, "ids have shape"),
        ({"x": torch.rand(0, 3, 4, 4), "y": torch.empty(0, dtype=torch.int64)}, "empty"),
        ({"keep_examples": True, "state": "here"}, "holds verdicts, not examples"),
        ({"state": "/nonexistent/state"}, "cannot write /nonexistent/state"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"x": torch.rand(2, 3, 4, 4), "y": torch.tensor([0, 0]), "eps": "8/255"}
    given = good | settings
    model = Constant()
    passes: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: passes.append(args[0]))
    with pytest.raises(ClatError, match=message) as raised:
        evaluate(model, given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(raised.value)
    assert len(passes) <= LOOK + 1, "nothing may be attacked before the input is known to be good"


def test_whose_result_it_is_is_told_also_of_odd_buffers(linear: Any, samples: Any) -> None:
    model = linear()
    x, y = samples(model, 4)
    plain = evaluate(model, x, y, protocol="fgsm", eps=0.1).to_dict()["network"]
    assert set(plain) == {"weights", "structure", "normalize"}
    model.register_buffer("rows", torch.eye(3).to_sparse())
    model.register_buffer("conjugate", torch.ones(2, dtype=torch.complex64).conj())
    odd = evaluate(model, x, y, protocol="fgsm", eps=0.1).to_dict()["network"]
    assert odd["weights"] != plain["weights"]
