"""A state of several processes, gone on with by another number of them."""

from __future__ import annotations

import torch

from clat.objectives.free_at import FreePerturbation
from clat.training.resuming import other_configuration
from clat.training.state import SUMS, Checkpoint, Progress, load_state, save_state

MEANS = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
COUNTS = torch.tensor([4, 7])
IMAGES = torch.arange(2 * 4 * 3 * 2 * 2, dtype=torch.float32).view(2, 4, 3, 2, 2)


def saved(tmp_path):
    own = {"model.mean": MEANS, "model.count": COUNTS, "companion.objective.delta": IMAGES}
    weights = {"mean": MEANS[0], "count": COUNTS[0]}
    save_state(tmp_path / "state", Checkpoint(Progress(), weights, {}, {"objective.delta": IMAGES[0]}, own), "hash")
    return lambda rank, world: load_state(tmp_path / "state", "hash", rank, world)


def test_as_many_processes_have_what_each_had(tmp_path):
    for world in (2, None):
        found = saved(tmp_path)(1, world)
        assert torch.equal(found.weights["mean"], MEANS[1])
        assert torch.equal(found.weights["count"], COUNTS[1])
        assert torch.equal(found.callbacks["objective.delta"], IMAGES[1])


def test_another_number_takes_means_and_its_part_of_the_images(tmp_path):
    load = saved(tmp_path)
    alone = load(0, 1)
    assert alone.weights["mean"].tolist() == [2.0, 4.0]
    assert int(alone.weights["count"]) == 4
    assert torch.equal(alone.callbacks["objective.delta"], IMAGES.flatten(0, 1))
    parts = [load(rank, 4).callbacks["objective.delta"] for rank in range(4)]
    assert torch.equal(torch.cat(parts), IMAGES.flatten(0, 1))
    assert {tuple(part.shape) for part in parts} == {(2, 3, 2, 2)}


def test_sums_of_losses_are_those_that_each_had_or_their_mean(tmp_path):
    sums, each = {"loss": 1.0, "part": 2.0}, torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64)
    whole = Checkpoint(Progress(sums=sums), {}, {}, {}, {SUMS: each})
    save_state(tmp_path / "state", whole, "hash")

    def found(rank, world):
        return load_state(tmp_path / "state", "hash", rank, world).progress.sums

    assert [found(rank, 2) for rank in (0, 1)] == [sums, {"loss": 3.0, "part": 6.0}]
    for world in (1, 4):
        assert found(world - 1, world) == {"loss": 2.0, "part": 4.0}
    save_state(tmp_path / "state", Checkpoint(Progress(sums=sums), {}, {}, {}, {}), "hash")
    assert found(1, 2) == sums, "of one process, or of an earlier version"


def test_a_buffer_shaped_like_images_is_none(tmp_path):
    """A normalisation's mean, (1, 3, 1, 1), of which each of two processes had the same."""
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    both = {"model.mean": torch.stack([mean, mean])}
    save_state(tmp_path / "state", Checkpoint(Progress(), {"mean": mean}, {}, {}, both), "hash")
    assert torch.equal(load_state(tmp_path / "state", "hash", 0, 1).weights["mean"], mean)


def test_a_perturbation_of_one_process_is_divided(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    own = FreePerturbation(torch.zeros(4, 3, 2, 2))
    own.restore({"delta": IMAGES.flatten(0, 1)})
    assert torch.equal(own.delta, IMAGES[1])


def test_it_is_said_when_each_process_holds_a_part_now(tmp_path):
    (tmp_path / "run.json").write_text('{"environment": {"torch": "2", "processes": 2, "sharded": true}}')
    now = {"torch": "2", "device": "cpu", "threads": 1, "processes": 2}
    assert "sharded True (now False)" in other_configuration(tmp_path, now)
    assert other_configuration(tmp_path, {**now, "sharded": True}) is None


def test_a_changed_number_is_said(tmp_path):
    before = '{"environment": {"torch": "2", "device": "cpu", "threads": 1, "processes": 4}}'
    (tmp_path / "run.json").write_text(before)
    now = {"torch": "2", "device": "cpu", "threads": 1, "processes": 1}
    said = other_configuration(tmp_path, now)
    assert (
        said
        == "the run began with processes 4 (now 1): it goes on, but not to the bits of one that was not stopped"
    )
