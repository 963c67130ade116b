"""Networks that return more than logits, in a run: the plain network's run bit for bit, or one line before it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from helpers import runs as kit


class WithHeads(nn.Module):
    """The tiny network whose output has a form that depends on the mode."""

    def __init__(self, inner: nn.Module, training: Any, evaluation: Any = lambda z: z) -> None:
        super().__init__()
        self.inner, self.forms = inner, {True: training, False: evaluation}

    def forward(self, x: Tensor) -> Any:
        return self.forms[self.training](self.inner(x))


def heads(z: Tensor) -> dict[str, Tensor]:
    return {"logits": z, "aux": z * 0}


@pytest.mark.parametrize("form", [heads, lambda z: (z, z * 0), lambda z: [z, z * 0]], ids=["dict", "tuple", "list"])
def test_a_run_with_auxiliary_heads_is_the_plain_network_s(tmp_path, form):
    said: list[str] = []
    with listening(said.append):
        clat.train(kit.recipe(), tmp_path / "h", model=WithHeads(kit.tiny(), form), data=kit.data(), quiet=True)
    clat.train(kit.recipe(), tmp_path / "p", model=WithHeads(kit.tiny(), lambda z: z), data=kit.data(), quiet=True)
    shaped, plain = (load_file(tmp_path / run / "weights" / "last.safetensors") for run in "hp")
    assert all(torch.equal(shaped[name], plain[name]) for name in plain)
    assert len(said) == 1
    assert "WithHeads in training mode returns more than logits" in said[0]
    assert re.search("its output '(aux|1)' is left out", said[0])
    assert json.loads((tmp_path / "h" / "run.json").read_text())["notes"] == said


def test_what_evaluation_mode_returns_beside_is_said_too(tmp_path):
    said: list[str] = []
    with listening(said.append):
        result = clat.train(
            kit.recipe(), tmp_path / "run", model=WithHeads(kit.tiny(), heads, heads), data=kit.data(), quiet=True
        )
    assert [line.partition(" returns")[0] for line in said] == ["WithHeads", "WithHeads in training mode"]
    assert set(result.model(kit.data()[1].images[:2].float() / 255)) == {"logits", "aux"}
    assert not result.model._forward_hooks


def failing(z: Tensor) -> Tensor:
    raise TypeError("targets are missing\nin training")


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda z: {"scores": z}, "in training mode the model returns a dict"),
        (lambda z: z.sum(), r"in training mode the model returns shape \(\)"),
        (lambda z: z[:, :1], r"in training mode the model returns shape \(2, 1\)"),
        (lambda z: None, "in training mode the model returns a NoneType"),
        (failing, "does not run in training mode on images of shape .*: targets are missing$"),
    ],
)
def test_training_mode_is_tried_before_a_folder_is_made(tmp_path, form, says):
    model = WithHeads(kit.tiny(), form)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ClatError, match=says) as caught:
        clat.train(kit.recipe(), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def wrong(z: Tensor) -> Tensor:
    raise AssertionError("Input height (8) doesn't match model (224).")


def test_whatever_a_network_raises_is_one_line(tmp_path):
    with pytest.raises(ClatError, match=r"does not run on images of shape .*: Input height"):
        clat.train(
            kit.recipe(), tmp_path / "r", model=WithHeads(kit.tiny(), wrong, wrong), data=kit.data(), quiet=True
        )


class Centred(nn.Module):
    """It subtracts a mean that follows its images, and that no state dict holds."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(), 0.1)
        return self.inner(x - self.mean)


def test_a_buffer_that_is_saved_nowhere_is_told_of(tmp_path):
    said: list[str] = []
    with listening(said.append):
        clat.train(kit.recipe(), tmp_path / "run", model=Centred(kit.tiny()), data=kit.data(), quiet=True)
    assert [one for one in said if "the buffer 'mean' changes in training but is in no state dict" in one]
    with listening(said.append):
        del said[:]
        clat.train(kit.recipe(), tmp_path / "plain", model=kit.tiny(), data=kit.data(), quiet=True)
    assert said == []


def test_outputs_that_the_network_names_in_another_order_are_told_of(tmp_path):
    train, test = kit.data()
    said: list[str] = []
    for number, names in enumerate((train.class_names[::-1], train.class_names)):
        model = kit.tiny()
        model.class_names = list(names)
        with listening(said.append):
            clat.train(kit.recipe(), tmp_path / str(number), model=model, data=(train, test), quiet=True)
    assert len([one for one in said if "in another order than the data has its classes" in one]) == 1
