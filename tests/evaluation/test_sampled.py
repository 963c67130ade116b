"""AutoAttack bounded by a sample: beside the full verdict, in a state that both share, with bad input refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clat.core.errors import ClatError
from clat.core.seeds import permutation
from clat.data import ImageSet
from clat.evaluation import AttackSpec, Evaluation, Protocol, evaluate_set, find_protocol
from clat.evaluation.finite import most_in_set, sample_needed
from clat.evaluation.sampled import SampledEvaluation, evaluate_sampled

SHORT = Protocol(
    name="short",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=1),
        AttackSpec(attack="apgd", loss="dlr-targeted", steps=1, targets=1),
        AttackSpec(attack="fab", steps=10, targets=4),
        AttackSpec(attack="square", steps=4),
    ),
)
"""In place of AutoAttack: two weak attacks, then one that fools more."""


CR = Protocol(name="short-cr", attacks=(AttackSpec(attack="cr", steps=20, targets=2, rounds=1),))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clat.evaluation.sampled.FULL", SHORT)
    monkeypatch.setattr("clat.evaluation.sampled.CR", CR)


class Case:
    def __init__(self, linear: Any) -> None:
        self.model = linear()
        pixels = torch.randint(
            100, 156, (60, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
        )
        with torch.no_grad():
            labels = self.model(pixels.float() / 255).argmax(1)
        labels[::6] = (labels[::6] + 1) % 5
        self.images = ImageSet("greys", "test", tuple("abcde"), pixels, labels)
        distance = self.model.distances(pixels.float() / 255, labels)
        self.eps = distance[distance > 0].median().item()

    def full(self, **options: Any) -> Evaluation:
        options = {"protocol": SHORT, "eps": self.eps, "batch_size": 7, **options}
        return evaluate_set(self.model, self.images, **options)

    def sampled(self, **options: Any) -> SampledEvaluation:
        return evaluate_sampled(self.model, self.images, eps=self.eps, **{"batch_size": 7, **options})


@pytest.fixture
def case(linear: Any) -> Case:
    return Case(linear)


def test_of_all_images_it_is_the_full_verdict(case: Case) -> None:
    whole = case.full()
    left = whole.correct & ((whole.fooled_by < 0) | (whole.fooled_by >= 2))
    assert 0 < whole.robust.sum() < left.sum(), "the later attacks fool some"
    found = case.sampled(screen="apgd", sample=1000)
    assert (found.left, found.sample, found.fell) == (left.sum(), left.sum(), left.sum() - whole.robust.sum())
    assert found.interval == (found.estimate, found.estimate) == (whole.robust_accuracy.value,) * 2
    assert found.clean == whole.clean_accuracy
    assert found.full_cost is not None
    assert found.full_cost.forwards == found.cost.forwards
    # Each part has a look at what the model returns.
    assert found.cost.forwards - 7 == whole.cost.forwards
    assert found.cost.backwards == whole.cost.backwards


@pytest.mark.parametrize("screen", ["cr", "apgd"])
@pytest.mark.parametrize("seed", [0, 2])
def test_of_some_it_bounds_it(case: Case, screen: str, seed: int) -> None:
    """With cr, those that withstand both; AutoAttack's own verdict can only be above the lower bound."""
    whole = case.full(seed=seed)
    withstood = whole.robust
    if screen == "cr":
        withstood = withstood & case.full(protocol=CR, seed=seed).robust
    found = case.sampled(screen=screen, sample=12, seed=seed)
    assert found.sample == 12
    low, high = found.interval
    assert low <= withstood.double().mean() <= high
    assert low <= whole.robust_accuracy.value
    assert low == (found.left - most_in_set(found.left, 12, found.fell)) / 60
    assert high == (found.left - found.fell) / 60
    assert low < found.estimate <= high
    assert found.cost.backwards < found.full_cost.backwards


def test_it_bounds_it_in_95_of_100_samples(case: Case) -> None:
    """Of one full verdict, with the samples that 400 seeds draw."""
    whole = case.full()
    left = (whole.correct & ((whole.fooled_by < 0) | (whole.fooled_by >= 2))).nonzero().squeeze(1)
    covered = 0
    for seed in range(400):
        sample = left[permutation(len(left), seed, "autoattack-sampled")[:12]]
        fell = int((~whole.robust[sample]).sum())
        covered += len(left) - most_in_set(len(left), 12, fell) <= int(whole.robust.sum())
    assert covered / 400 > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5


def test_the_sample_is_random_and_the_same_again(case: Case) -> None:
    states = [case.sampled(screen="apgd", sample=5, seed=seed).to_dict() for seed in (0, 0, 1)]
    for state in states:
        state.pop("cost")
    assert states[0] == states[1] != states[2]


def test_the_sample_is_as_large_as_the_width_takes(case: Case) -> None:
    found = case.sampled(screen="apgd", width=10.0)
    assert found.sample == sample_needed(found.left, 6)
    assert found.fell > 0
    assert found.width > 10


def test_it_goes_on_until_the_interval_is_narrow(case: Case) -> None:
    """And pays for looking several times."""
    first = case.sampled(screen="apgd", width=10.0)
    found = case.sampled(screen="apgd", width=10.0, until=True)
    assert found.width <= 10
    assert found.sample > first.sample
    assert found.confidence > 0.95
    whole = case.full()
    low, high = found.interval
    assert low <= whole.robust_accuracy.value <= high
    apart = case.sampled(screen="apgd", sample=found.sample)
    assert (found.fell, found.left) == (apart.fell, apart.left)
    assert case.sampled(screen="apgd", width=0.1, until=True).width == 0


@pytest.mark.parametrize("screen", ["cr", "apgd"])
def test_the_full_protocol_goes_on_from_its_state(case: Case, screen: str, tmp_path: Path) -> None:
    whole = case.full()
    found = case.sampled(screen=screen, sample=9, state=tmp_path / "state")
    case.model.forwards = 0
    rest = case.full(state=tmp_path / "state")
    assert torch.equal(rest.fooled_by, whole.fooled_by)
    assert torch.equal(rest.correct, whole.correct)
    assert torch.equal(rest.predicted, whole.predicted), "not the class that the screen brought it to"
    done = found.sample_cost.backwards + (found.screen_cost.backwards if screen == "apgd" else 0)
    assert done > 0
    assert rest.cost.backwards + done == whole.cost.backwards
    # And the other way round: nothing is left to do.
    again = case.sampled(screen=screen, sample=9, state=tmp_path / "state")
    assert (again.left, again.sample, again.fell) == (found.left, found.sample, found.fell)
    assert again.sample_cost.backwards == 0
    assert again.full_cost is None, "what the screen took before is not known"


@pytest.mark.parametrize("calls", [3, 12, 40, 90, 200])
@pytest.mark.parametrize("screen", ["cr", "apgd"])
def test_interrupted_and_resumed(case: Case, screen: str, calls: int, tmp_path: Path) -> None:
    whole = case.sampled(screen=screen, width=10.0, until=True)
    case.model.calls = calls
    with pytest.raises(KeyboardInterrupt):
        case.sampled(screen=screen, width=10.0, until=True, state=tmp_path / "state")
    case.model.calls = None
    resumed = case.sampled(screen=screen, width=10.0, until=True, state=tmp_path / "state")
    assert (resumed.left, resumed.sample, resumed.fell, resumed.interval) == (
        whole.left, whole.sample, whole.fell, whole.interval,
    )  # fmt: skip


def test_the_state_of_another_protocol_is_refused(case: Case, tmp_path: Path) -> None:
    evaluate_set(case.model, case.images, protocol="fgsm", eps=case.eps, state=tmp_path / "state")
    kept = (tmp_path / "state.0-0").read_bytes()
    with pytest.raises(ClatError, match="belongs to another evaluation"):
        case.sampled(screen="apgd", state=tmp_path / "state")
    assert (tmp_path / "state.0-0").read_bytes() == kept


def test_where_nothing_is_left_there_is_nothing_to_sample(case: Case) -> None:
    for screen in ("cr", "apgd"):
        found = evaluate_sampled(case.model, case.images, eps=1, screen=screen)
        assert (found.left, found.sample, found.fell) == (0, 0, 0)
        assert found.interval == (0, 0)
        assert found.estimate == 0
        assert found.full_cost is None


def test_some_images(case: Case) -> None:
    found = case.sampled(screen="apgd", sample=3, ids=list(range(10, 40)))
    assert found.n == 30
    assert found.left <= 30


def test_the_result_file(case: Case, tmp_path: Path) -> None:
    found = case.sampled(sample=9, about={"model": "linear"})
    found.to_json(tmp_path / "sampled.json")
    assert found.full_cost is not None
    data = json.loads((tmp_path / "sampled.json").read_text())
    assert data["what"] == "sampled-evaluation"
    assert (data["model"], data["n"], data["sample"]) == ("linear", 60, 9)
    assert data["protocol"]["name"] == "autoattack-sampled"
    assert (data["protocol"]["screen"], data["protocol"]["hash"]) == ("cr", SHORT.hash)
    robust = data["robust_accuracy"]
    assert robust["low"] <= robust["estimate"] <= robust["high"]
    assert robust["confidence"] == 0.95
    assert set(data["cost"]) == {"screen", "sample", "full AutoAttack, estimated"}
    assert any("cr is not AutoAttack" in note for note in data["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"screen": "crr"}, "unknown screen 'crr'; did you mean 'cr'"),
        ({"width": 0.0}, "the width is 0.0: expected percentage points"),
        ({"width": 101.0}, "the width is 101.0"),
        ({"width": float("nan")}, "the width is nan"),
        ({"sample": 0}, "the sample is 0: expected at least 1 image"),
        ({"sample": 3, "until": True}, "contradict each other"),
    ],
)
def test_what_makes_no_sense(case: Case, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ClatError, match=message):
        case.sampled(state=tmp_path / "state", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["autoattack-sampled", "fast"])
def test_it_is_no_protocol_by_itself(name: str) -> None:
    with pytest.raises(ClatError, match=f"'{name}' is more than a protocol: .*clat evaluate --protocol {name}"):
        find_protocol(name)
