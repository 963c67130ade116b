"""Normalisation: what it computes, what it refuses, and that it leaves no name in a state dict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clat.core.errors import ClatError
from clat.models import Normalize, Normalized, load_model
from clat.models.normalize import STATISTICS, parse_normalize, statistics_of, with_normalize


def test_it_subtracts_the_mean_and_divides_by_std() -> None:
    mean, std = STATISTICS["cifar10"]
    x = torch.rand(2, 3, 4, 5)
    out = Normalize(mean, std)(x)
    for c in range(3):
        torch.testing.assert_close(out[:, c], (x[:, c] - mean[c]) / std[c])


def test_without_arguments_it_is_the_identity() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert Normalize()(x) is x
    assert torch.equal(Normalize(*STATISTICS["identity"])(x), x)


def test_buffers_follow_the_model_but_not_into_state_dicts() -> None:
    module = Normalize(0.5, (0.2, 0.3, 0.4))
    assert not module.state_dict()
    assert {name for name, _ in module.named_buffers()} == {"mean", "std"}
    assert module.double().mean.dtype == torch.float64
    plain, normalised = (load_model("resnet18", width=2, normalize=n) for n in (None, "cifar10"))
    assert list(plain.state_dict()) == list(normalised.state_dict())


def test_a_network_applies_it_first() -> None:
    model = load_model("resnet18", width=2, normalize="cifar100").eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        inside = model(x)
        outside = model.normalize(x)
        model.normalize = Normalize()
        assert torch.equal(inside, model(outside))


def test_wrapping_a_foreign_module() -> None:
    net = nn.Flatten()
    wrapped = with_normalize(net, ((0.5,), (0.25,)))
    assert isinstance(wrapped, Normalized)
    assert torch.equal(wrapped(torch.ones(1, 3, 2, 2)), torch.full((1, 12), 2.0))
    assert with_normalize(net, None) is net
    assert with_normalize(wrapped, ((0.0,), (1.0,))) is wrapped  # set, never wrapped twice
    assert statistics_of(wrapped) == ((0.0,), (1.0,))
    assert statistics_of(net) is None


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        (None, None),
        ("cifar10", STATISTICS["cifar10"]),
        ((0.5, 0.25), ((0.5,), (0.25,))),
        ([[0.1, 0.2, 0.3], 0.5], ((0.1, 0.2, 0.3), (0.5,))),
    ],
)
def test_what_may_be_written(spec, parsed) -> None:
    assert parse_normalize(spec) == parsed


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cifar11", "did you mean 'cifar10'"),
        ((0.5,), "pair"),
        (0.5, "pair"),
        (("a", "b"), "pair"),
        (((0.1, 0.2), (0.1, 0.2, 0.3)), "mean has 2 values and std 3"),
        (((), ()), "one a channel"),
        ((0.5, 0.0), "positive"),
        ((float("nan"), 1.0), "finite"),
        (((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), "of 0 to 255; divide both by 255"),
        ((0, 255), "of 0 to 255"),
    ],
)
def test_what_is_refused(spec, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        parse_normalize(spec)
    assert "\n" not in str(caught.value)


def test_channels_must_agree() -> None:
    with pytest.raises(ClatError, match="3 channels, the images 1"):
        Normalize(*STATISTICS["cifar10"])(torch.rand(1, 1, 4, 4))
    with pytest.raises(ClatError, match="in_channels=1"):
        load_model("resnet18", width=2, in_channels=1, normalize="cifar10")
    with pytest.raises(ClatError, match="both"):
        Normalize(mean=(0.5,))


def test_a_name_is_no_mean() -> None:
    with pytest.raises(ClatError, match=r'take load_model\(normalize="cifar10"\), or give its mean and std'):
        Normalized(nn.Identity(), "cifar10")
