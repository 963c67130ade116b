"""An evaluation that is interrupted anywhere and goes on ends as one that was not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from clat.core.errors import ClatError
from clat.evaluation import AttackSpec, Evaluation, Protocol, evaluate
from clat.evaluation.state import EvaluationState, StateFile
from clat.models import Normalized

SHORT = Protocol(
    name="short",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=4),
        AttackSpec(attack="apgd", loss="dlr-targeted", steps=4, targets=2),
        AttackSpec(attack="fab", steps=3, targets=1),
        AttackSpec(attack="square", steps=8),
    ),
)
PASSES = 5


class Case:
    """A model, samples of which half withstand everything, and how to evaluate them."""

    def __init__(self, linear: Any, samples: Any) -> None:
        self.model = linear()
        self.x, self.y = samples(self.model, 17)
        self.eps = self.model.distances(self.x, self.y).clamp_min(0).median().item()

    def run(self, state: Path | None, **options: Any) -> Evaluation:
        self.model.forwards = self.model.backwards = 0
        settings = {"protocol": SHORT, "eps": self.eps, "batch_size": 4, "state": state} | options
        return evaluate(self.model, self.x, self.y, **settings)


@pytest.fixture
def case(linear, samples) -> Case:
    return Case(linear, samples)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def same(one: Evaluation, other: Evaluation) -> bool:
    return torch.equal(one.correct, other.correct) and torch.equal(one.fooled_by, other.fooled_by)


@pytest.mark.parametrize("calls", [2, 3, 5, 8, 13, 21, 34, 55, 89])
def test_interrupted_in_a_forward_pass(calls: int, case: Case, state: Path) -> None:
    whole = case.run(None)
    full_cost = case.model.forwards
    assert 0 < whole.robust.sum() < whole.correct.sum()
    case.model.calls = calls
    with pytest.raises(KeyboardInterrupt):
        case.run(state)
    spent = case.model.forwards
    case.model.calls = None
    resumed = case.run(state)
    assert same(resumed, whole)
    # Lost are the looks at single images, the clean pass, if it was not over, and what the samples of one batch had
    # been through.
    assert spent + case.model.forwards <= full_cost + 10 + 4 + 17 + 4 * 8
    assert [note for note in resumed.notes if "state file" in note] == ([resumed.notes[-1]] if calls >= 14 else [])


@pytest.mark.parametrize("batch", range(0, 24, 3))
def test_interrupted_while_reporting(batch: int, case: Case, state: Path) -> None:
    whole = case.run(None)
    told: list[tuple[str, int, int, float]] = []

    def stop(*what: Any) -> None:
        told.append(what)
        if len(told) > batch:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        case.run(state, report=stop)
    going_on: list[tuple[str, int, int, float]] = []
    resumed = case.run(state, report=lambda *what: going_on.append(what))
    assert same(resumed, whole)
    attack, through, total, bound = told[-1]
    assert all(later[3] <= bound for later in going_on)
    # The pass that was cut off has only its rest left, and none before it comes again.
    if going_on and through < total:
        assert going_on[0][0] == attack
        assert total - through <= going_on[0][2] <= total, "a state knows of passes gone through in order"


def test_interrupted_again_and_again(case: Case, state: Path) -> None:
    whole = case.run(None)
    for sitting in range(100):
        case.model.calls = 6 + sitting
        try:
            resumed = case.run(state)
            break
        except KeyboardInterrupt:
            continue
    assert sitting > 3
    assert same(resumed, whole)


def test_another_batch_size_may_go_on(case: Case, state: Path) -> None:
    whole = case.run(None)
    case.model.calls = 40
    with pytest.raises(KeyboardInterrupt):
        case.run(state)
    case.model.calls = None
    assert same(case.run(state, batch_size=17), whole)


def test_a_finished_one_is_only_read(case: Case, state: Path) -> None:
    whole = case.run(state)
    assert whole.notes == []
    assert case.model.backwards > 0
    again = case.run(state)
    assert same(again, whole)
    assert (case.model.forwards, case.model.backwards) == (2 + 8 + 4, 0), (
        "two images alone, one again and again, one batch"
    )
    with safe_open(state, "pt") as file:
        passed = file.get_tensor("passed")
    assert (passed[whole.robust] == PASSES).all()
    assert (passed[~whole.correct] == 0).all()


def test_it_is_saved_while_it_goes_on(case: Case, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed has no chance to save; what is at most 30 seconds old is on disk then."""
    clock = iter(range(0, 10**9, 20))
    monkeypatch.setattr("clat.evaluation.state.time.monotonic", lambda: float(next(clock)))
    contents: list[bytes] = []
    case.run(state, report=lambda *what: contents.append(state.read_bytes()))
    changes = sum(a != b for a, b in pairwise(contents))
    assert changes >= len(contents) // 4


def test_a_state_of_something_else_is_refused(case: Case, state: Path, linear) -> None:
    case.run(state)
    kept = state.read_bytes()
    x, y, model = case.x.clone(), case.y.clone(), case.model

    def refused(what: str, **options: Any) -> None:
        with pytest.raises(
            ClatError, match=rf"belongs to another evaluation \({what} .*name another state file"
        ) as raised:
            case.run(state, **options)
        assert "\n" not in str(raised.value)
        assert state.read_bytes() == kept

    refused("eps", eps=case.eps * 1.01)
    refused("norm", norm="l2")
    refused("seed", seed=1)
    refused("precision", precision="bfloat16")
    refused("protocol", protocol=Protocol(name="short", attacks=SHORT.attacks[:3]))
    refused("images", ids=torch.arange(17) + 1)
    case.x[4, 0, 0, 0] += 1e-3
    refused("images")
    case.x, case.y = x, (y + 1) % 5
    refused("images")
    case.x, case.y = x[:16], y[:16]
    refused("images")
    case.x, case.y, case.model = x, y, linear(seed=1)
    refused("model")
    case.model = model
    with torch.no_grad():
        model.w[0, 0, 0, 0] += 1e-6
    refused("model")


def test_buffers_belong_to_the_model(case: Case, state: Path) -> None:
    case.model.register_buffer("statistics", torch.zeros(3))
    case.run(state)
    case.model.statistics += 1
    with pytest.raises(ClatError, match=r"another evaluation \(model"):
        case.run(state)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "folder"])
def test_a_damaged_state(damage: str, case: Case, state: Path) -> None:
    case.run(state)
    content = state.read_bytes()
    if damage == "cut":
        state.write_bytes(content[:-20])
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "text":
        state.write_text("clean accuracy 80 %")
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(3)}, state)
    else:
        state.unlink()
        state.mkdir()
    with pytest.raises(ClatError, match="is not an evaluation's state") as raised:
        case.run(state)
    assert str(state) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_standing_says_who_is_left(state: Path) -> None:
    standing = EvaluationState.fresh(torch.tensor([True, True, False, True]))
    assert standing.alive.tolist() == [True, True, False, True]
    standing.fooled_by[1] = 2
    assert standing.alive.tolist() == [True, False, False, True]
    assert standing.robust_after(1).tolist() == [True, True, False, True]
    assert standing.robust_after(2).tolist() == [True, False, False, True]
    keeper = StateFile(state, {"eps": "8/255"})
    assert keeper.load() is None
    keeper.save(standing)
    assert not state.exists(), "not yet due"
    keeper.save(standing, now=True)
    loaded = StateFile(state, {"eps": "8/255"}).load()
    assert loaded is not None
    assert torch.equal(loaded.fooled_by, standing.fooled_by)
    assert torch.equal(loaded.correct, standing.correct)
    assert StateFile(None, {}).load() is None


@pytest.mark.parametrize("other", [Normalized(nn.Flatten(), 0.0, 0.25), nn.Sequential(nn.Flatten(), nn.Tanh())])
def test_the_state_of_a_network_with_these_weights_and_another_function_is_refused(
    other: nn.Module, state: Path
) -> None:
    x, y = torch.rand(5, 3, 1, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    own = Normalized(nn.Flatten(), 0.5, 0.5)
    evaluate(own, x, y, eps=0.1, protocol="fgsm", state=state)
    kept = state.read_bytes()
    with pytest.raises(ClatError, match="another network: its weights are the same, but not its outputs"):
        evaluate(other, x, y, eps=0.1, protocol="fgsm", state=state)
    assert state.read_bytes() == kept


def test_a_network_with_random_outputs_goes_on(state: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) + torch.randn(x.shape[1])

    x, y = torch.rand(3, 3, 1, 1), torch.tensor([0, 1, 0])
    first = evaluate(Noisy(), x, y, eps=0.1, protocol="fgsm", state=state)
    assert same(evaluate(Noisy(), x, y, eps=0.1, protocol="fgsm", state=state), first)


def test_a_model_without_weights_can_be_resumed(state: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x.flatten(1).mean(1) - 0.5
            return torch.stack([-score, score], 1)

    x, y = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 0])
    first = evaluate(Mean(), x, y, eps=0.1, protocol="fgsm", state=state)
    assert same(evaluate(Mean(), x, y, eps=0.1, protocol="fgsm", state=state), first)
