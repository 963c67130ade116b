"""Networks of one's own, of forms that built-in ones do not have, from `clat.harden` to its end."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from helpers import runs as kit

SETTINGS = {"eps": "24/255", "epochs": 1, "batch_size": 16, "heldout": 48, "quiet": True, "device": "cpu",
            "protocol": "fgsm", "augment": "none", "num_samples": 8}  # fmt: skip


class Giving(nn.Module):
    """The colour network, whose output comes in another form."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = kit.nearest_colour(), form

    def forward(self, x):
        return self.form(self.net(x), self.training)


FORMS = {
    "dict": lambda z, training: {"logits": z},
    "tuple": lambda z, training: (z, z.sum()),
    "tuple in training": lambda z, training: (z, z.sum()) if training else z,
}


@pytest.mark.parametrize("objective", ["n-fgsm", "trades"])
@pytest.mark.parametrize("form", FORMS)
def test_outputs_that_are_more_than_logits(tmp_path, form, objective):
    net, sets = Giving(FORMS[form]), kit.data(train=96, test=24)
    with listening([].append):  # which outputs are left out
        done = clat.harden(net, *sets, tmp_path / "run", **SETTINGS, objective=objective)
    assert done.before.clean_accuracy.value > 0.5


def normed():
    net = kit.nearest_colour()
    name, layer = next((name, one) for name, one in net.named_modules() if isinstance(one, nn.Conv2d | nn.Linear))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of the older weight_norm
        net.set_submodule(name, torch.nn.utils.weight_norm(layer))
    return net


def test_weights_that_a_hook_computes(tmp_path):
    net, sets = normed(), kit.data(train=96, test=24)
    done = clat.harden(net, *sets, tmp_path / "run", **SETTINGS, objective="n-fgsm", max_clean_drop=60)
    assert done.before.clean_accuracy.value > 0.5
    assert clat.export_network(net, tmp_path / "net.pt2", sets[1].images[:4].float() / 255).difference < 1e-4


@pytest.mark.parametrize("what", ["a function", "TorchScript"])
def test_what_cannot_be_trained_is_refused_in_a_line(tmp_path, what):
    net, sets = kit.nearest_colour(), kit.data(train=96, test=24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        given = torch.jit.trace(net, torch.rand(1, *sets[0].shape)) if what == "TorchScript" else lambda x: net(x)
    with pytest.raises(ClatError, match=r"expected a torch.nn.Module|is TorchScript, which is not trained"):
        clat.harden(given, *sets, tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()
