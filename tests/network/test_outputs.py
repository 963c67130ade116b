"""Networks that return more than logits: taken as they are, in every mode, and left as they were."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.network.outputs import logits_of, logits_only, other_parts

Z, AUX = torch.rand(2, 3), torch.rand(2, 3)
Named = namedtuple("Named", ["logits", "aux_logits2", "aux_logits1"])
Unnamed = namedtuple("Unnamed", ["scores", "aux"])


@dataclass
class Output:
    logits: Tensor
    hidden_states: Any = None


FORMS = {
    "tensor": (Z, []),
    "attribute": (Output(Z), []),
    "attribute and more": (Output(Z, (AUX,)), ["hidden_states"]),
    "dict": ({"logits": Z, "features": AUX}, ["features"]),
    "ordered dict": (OrderedDict(logits=Z, aux=None), []),
    "tuple": ((Z, AUX), ["1"]),
    "list": ([Z, AUX, AUX], ["1", "2"]),
    "tuple of one": ((Z,), []),
    "named tuple": (Named(Z, AUX, None), ["aux_logits2"]),
    "named tuple without logits": (Unnamed(Z, AUX), ["aux"]),
    "tuple of a dict": (({"logits": Z}, AUX), ["1"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_and_the_rest_is_named(form: str) -> None:
    output, others = FORMS[form]
    assert logits_of(output) is Z
    assert other_parts(output) == others


@pytest.mark.parametrize("output", [None, 3, (), {"out": Z}, {"logits": [1, 2]}, [[]], "text", {}])
def test_what_has_no_logits_stays_as_it_is(output: Any) -> None:
    assert logits_of(output) is output
    assert other_parts(output) == []


class Shaped(nn.Module):
    """A small convolutional network whose outputs have a form."""

    def __init__(self, form: Any = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.deep, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        self.form = form or (lambda z: z)

    def forward(self, x: Tensor) -> Any:
        return self.form(self.fc(self.deep(self.conv(x).relu()).relu().mean((2, 3))))


WAYS = {
    "attribute": lambda z: Output(z, z),
    "dict": lambda z: {"logits": z, "aux": z},
    "tuple": lambda z: (z, z),
}


def test_inside_it_returns_logits_and_afterwards_what_it_did() -> None:
    model, x = Shaped(WAYS["dict"]), torch.rand(2, 3, 8, 8)
    with logits_only(model):
        with logits_only(model):
            assert isinstance(model(x), Tensor)
        assert isinstance(model(x), Tensor)
    assert set(model(x)) == {"logits", "aux"}
    assert not model._forward_hooks


def test_it_comes_off_after_an_error() -> None:
    model = Shaped()
    with pytest.raises(RuntimeError), logits_only(model):
        raise RuntimeError
    assert not model._forward_hooks


def rows(report: Any) -> dict[str, Any]:
    return {name: value for name, value in report.to_dict().items() if name not in ("cost", "environment")}


MEASURES = {
    "pgd": lambda net, x, y: clat.attacks.pgd(net, x, y, eps="8/255", steps=2, seed=0).tolist(),
    "evaluate": lambda net, x, y: clat.evaluate(net, x, y, eps="0.5", protocol="pgd-10").robust.tolist(),
    "cost": lambda net, x, y: clat.evaluate(net, x, y, eps="0.5", protocol="pgd-10").cost.backwards,
    "layers": lambda net, x, y: clat.enumerate_layers(net, x),
    "criticality": lambda net, x, y: rows(clat.measure_criticality(net, x, y, eps="0.1")),
    "mrc": lambda net, x, y: rows(clat.measure_robust_criticality(net, x, y, eps="0.1", epochs=1)),
    "activation": lambda net, x, y: rows(clat.measure_activation_ranking(net, x, y, eps="0.1", steps=2)),
    "check": lambda net, x, y: str(clat.check(net, x, y, eps="0.1").rows),
    "transfer": lambda net, x, y: (
        clat.transfer({"a": net, "b": net}, x, y, eps="0.5", protocol="fgsm").table().title
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("measure", MEASURES)
def test_everything_gives_the_plain_network_s_numbers(way: str, measure: str, images: Tensor) -> None:
    plain, shaped = Shaped().eval(), Shaped(WAYS[way]).eval()
    labels = plain(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    assert MEASURES[measure](shaped, images, labels) == MEASURES[measure](plain, images, labels)
    assert not shaped._forward_hooks
