"""Evaluation and check say it where a network's outputs depend on the batch; sound networks get no such note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.evaluation import evaluate_set
from clat.evaluation.batch_dependence import RANDOM_NOTE, differing
from clat.evaluation.curve import eps_curve
from clat.evaluation.masking.report import NOT_RUN, SUSPICIOUS
from clat.evaluation.transfer import transfer


class Centred(nn.Module):
    """Logits less their mean over the batch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z - z.mean(0)


class Scaled(Centred):
    """Logits over the largest one of the batch: the image that has it gets the same alone."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z / z.abs().max()


class Placed(Centred):
    """Logits less the image's place in the batch: the first one loses nothing."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z - z * torch.arange(len(z))[:, None] / 4


class Noisy(Centred):
    """What it draws for an image depends on how many others there are."""

    def __init__(self, net: nn.Module, size: float = 0.1) -> None:
        super().__init__(net)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.size * torch.randn_like(x).flip(0))


def small(*norms: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), *norms, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(128, 3)
        ).eval()


UNSTORED = nn.BatchNorm2d(8, track_running_stats=False)
DEPENDENT: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm without statistics": lambda: small(UNSTORED),
    "centred logits": lambda: Centred(small()),
}
HIDING: dict[str, Callable[[], nn.Module]] = {
    "scaled logits": lambda: Scaled(small()),
    "logits by place": lambda: Placed(small()),
}
"""Networks that give one image of a batch what it gets alone."""
SOUND: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "BatchNorm": lambda: small(nn.BatchNorm2d(8)),
    "GroupNorm": lambda: small(nn.GroupNorm(2, 8)),
    "InstanceNorm": lambda: small(nn.InstanceNorm2d(8)),
    "half": lambda: small().bfloat16(),
}


@pytest.fixture
def x() -> Tensor:
    return torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def y() -> Tensor:
    return torch.arange(10) % 3


@pytest.mark.parametrize("first", range(10))
def test_an_image_that_the_others_are_measured_by_hides_nothing(first: int, x: Tensor, y: Tensor) -> None:
    result = clat.evaluate(Scaled(small()), x.roll(-first, 0), y, protocol="fgsm", eps=0.1)
    assert ["batches of 250" in note for note in result.notes] == [True]


@pytest.mark.parametrize("batch_size", [1, 4, 200])
@pytest.mark.parametrize("name", [*DEPENDENT, *HIDING])
def test_an_evaluation_says_it_at_every_batch_size(name: str, batch_size: int, x: Tensor, y: Tensor) -> None:
    result = clat.evaluate((DEPENDENT | HIDING)[name](), x, y, protocol="fgsm", eps=0.1, batch_size=batch_size)
    (note,) = result.notes
    assert f"these numbers are of batches of {batch_size} alone" in note
    assert ("BatchNorm without stored statistics" in note) == ("BatchNorm" in name)
    assert result.to_dict()["notes"] == [note]


@pytest.mark.parametrize("name", DEPENDENT)
def test_of_a_single_image_too(name: str, x: Tensor, y: Tensor) -> None:
    assert len(clat.evaluate(DEPENDENT[name](), x[:1], y[:1], protocol="fgsm", eps=0.1).notes) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 200])
@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_get_no_note(name: str, batch_size: int, x: Tensor, y: Tensor) -> None:
    assert clat.evaluate(SOUND[name](), x, y, protocol="fgsm", eps=0.1, batch_size=batch_size).notes == []


def test_randomness_is_told_apart(x: Tensor, y: Tensor) -> None:
    (note,) = clat.evaluate(Noisy(small()), x, y, protocol="fgsm", eps=0.1).notes
    assert note == RANDOM_NOTE


class Sometimes(nn.Module):
    """One draw a pass, between two networks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flip(-1) if torch.rand(()) < 0.5 else x)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("kind", [Noisy, Sometimes])
def test_randomness_is_seen_at_every_batch_size(kind: Any, batch_size: int, x: Tensor, y: Tensor) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        result = clat.evaluate(kind(small()), x, y, protocol="pgd-20", eps=0.1, batch_size=batch_size)
        assert RANDOM_NOTE in result.notes
        assert result.cost.backwards == 20 * result.clean_accuracy.correct, "PGD makes all its steps"


def test_more_steps_of_pgd_find_more_against_random_outputs(x: Tensor, y: Tensor) -> None:
    """One wrong output among many is luck, and the verdict is a fresh one: PGD makes all its steps first."""
    net, x = Noisy(small(), 0.3), x.repeat(25, 1, 1, 1)
    y = net.net(x).argmax(1)
    robust = {}
    for protocol in ("pgd-20", "clat-pgd-10"):
        torch.manual_seed(0)
        robust[protocol] = clat.evaluate(net, x, y, protocol=protocol, eps=0.1).robust_accuracy.value
    assert robust["pgd-20"] <= robust["clat-pgd-10"] + 0.05


def test_a_set_in_parts_says_it_once(x: Tensor, y: Tensor) -> None:
    pixels = (255 * x).to(torch.uint8)
    images = ImageSet("noise", "test", ("a", "b", "c"), pixels, y)
    result = evaluate_set(Centred(small()), images, protocol="fgsm", eps=0.1, part_bytes=4 * 4 * 3 * 64)
    assert len(result.notes) == 1


def test_transfer_and_a_curve_say_it_too(x: Tensor, y: Tensor) -> None:
    matrix = transfer({"sound": small(), "centred": Centred(small())}, x, y, eps=0.1, protocol="fgsm")
    (note,) = matrix.to_dict()["notes"]
    assert note.startswith("centred: the network's outputs depend on the batch")
    curve = eps_curve(Centred(small()), x, y, eps=[0.0, 0.1], protocol="fgsm").to_dict()
    assert len(curve["evaluations"][0]["notes"]) == 1


def test_the_cost_is_that_of_the_protocol(x: Tensor, y: Tensor) -> None:
    """The look at one image alone is no part of it."""
    cost = clat.evaluate(small(), x, y, protocol="fgsm", eps=0.1).cost
    robust = clat.evaluate(small(), x, y, protocol="fgsm", eps=0.1)
    right = int(robust.correct.sum())
    assert cost.forwards == len(x) + 2 * right


def test_a_network_that_does_not_run_on_one_image_is_refused(x: Tensor, y: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False), nn.Linear(192, 3)).eval()
    says = r"does not run on one image alone \(BatchNorm without stored statistics\).*more than 1 value"
    for given in ((x, y), ((x, y),)):
        with pytest.raises(ClatError, match=says):
            clat.evaluate(model, *given, protocol="fgsm", eps=0.1)
    with pytest.raises(ClatError, match=says):
        clat.check(model, x, y, eps=0.1)


@pytest.mark.parametrize(("name", "batch_size"), [*((name, 250) for name in DEPENDENT), ("centred logits", 1)])
def test_the_check_names_the_cause(name: str, batch_size: int, x: Tensor, y: Tensor) -> None:
    count = 4 if batch_size == 1 else len(x)  # one by one takes long
    row = clat.check(DEPENDENT[name](), x[:count], y[:count], eps=0.1, batch_size=batch_size)["batch dependence"]
    assert (row.verdict, row.value) == (SUSPICIOUS, 1.0)
    assert f"{count} of {count} images" in row.why
    assert ("BatchNorm without stored statistics" in row.why) == ("BatchNorm" in name)


def test_the_check_passes_a_sound_network_and_leaves_a_random_one_to_its_own_sign(x: Tensor, y: Tensor) -> None:
    assert clat.check(small(), x, y, eps=0.1)["batch dependence"].verdict == "ok"
    report: Any = clat.check(Noisy(small()), x, y, eps=0.1)
    assert report["batch dependence"].verdict == NOT_RUN
    assert report["random forward"].verdict == SUSPICIOUS


def test_what_counts_as_a_difference() -> None:
    model, z = small(), torch.tensor([[0.0, 100.0, 5.0], [1.0, 2.0, 3.0]])
    assert differing(model, z, z + torch.tensor([[0.0, 1e-3, 0.0], [0.0, 0.0, 1e-3]])).tolist() == [False, True]
    assert not differing(model.bfloat16(), z, 1.01 * z).any()


def test_images_with_other_channels_are_told_in_one_line() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ClatError, match="takes images of 3 channels, and these have 1"):
        clat.evaluate(net, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), eps=0.1, protocol="fgsm")
