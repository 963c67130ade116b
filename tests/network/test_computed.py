"""Layers whose weight a hook or a parametrization computes: what cannot treat them says so before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import clat
from clat.core.errors import ClatError
from clat.criticality.rankings import make_ranking
from clat.network.computed import with_plain_weights
from clat.network.exchange import copied, tensors_of
from clat.objectives import AutoLoRa
from clat.recipe.toml import build_recipe
from clat.treatments import LoRA, Reinitialise

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


HOW: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "weight_norm": (weight_norm, r"a hook \(WeightNorm\).*remove_weight_norm"),
    "spectral_norm": (spectral_norm, r"a hook \(SpectralNorm\).*remove_spectral_norm"),
    "prune": (lambda part: prune.l1_unstructured(part, "weight", amount=0.5), r"L1Unstructured.*prune\.remove"),
    "prune, structured": (lambda part: prune.ln_structured(part, "weight", 0.5, n=2, dim=0), r"prune\.remove"),
    "weight_norm, parametrized": (parametrizations.weight_norm, r"WeightNorm.*remove_parametrizations"),
    "spectral_norm, parametrized": (parametrizations.spectral_norm, r"SpectralNorm.*remove_parametrizations"),
    "a parametrization": (lambda part: parametrize.register_parametrization(part, "weight", Doubled()), "Doubled"),
}


@pytest.fixture(params=HOW)
def computed(request: pytest.FixtureRequest, build: Any) -> tuple[nn.Module, str]:
    """A network whose layer c2 computes its weight, and what the refusal says."""
    treat, says = HOW[request.param]
    model = build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        treat(model.c2)
    return model.eval(), says


def refuses(says: str, act: Callable[[], Any], model: nn.Module) -> None:
    before = copied(tensors_of(model))
    with pytest.raises(ClatError, match=rf"layer 'c2' has .*{says}"):
        act()
    after = tensors_of(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_treatments_that_write_weights_refuse_it(computed: tuple[nn.Module, str], x: Tensor, around: Any) -> None:
    model, says = computed
    for settings in (LoRA(), AutoLoRa(), Reinitialise(modules=("c*",))):
        refuses(says, lambda settings=settings: settings.requires(model, x[:1]), model)
        refuses(says, lambda settings=settings: settings.on_stage_start(around(model)), model)


def test_layers_beside_it_can_be_treated(computed: tuple[nn.Module, str], x: Tensor, around: Any) -> None:
    model, _ = computed
    for settings in (LoRA(exclude=("c2",)), Reinitialise(modules=("c1", "c3"))):
        settings.requires(model, x[:1])
        settings.on_stage_start(around(model)).on_stage_end()


REINITIALISED = {"name": "reinitialise", "modules": ["c2"]}


@pytest.mark.parametrize(
    "stage", [{"objective": {"name": "autolora"}}, {"objective": {"name": "pgd-at"}, "treatments": [REINITIALISED]}]
)
def test_a_run_refuses_it_before_its_folder_is_made(
    stage: dict[str, Any], computed: tuple[nn.Module, str], tmp_path: Path, noise_sets: Any
) -> None:
    model, says = computed
    recipe = build_recipe({"stages": [{"name": "only", "epochs": 1, **stage}], "data": {"heldout": 6}})
    with pytest.raises(ClatError, match=says):
        clat.train(recipe, tmp_path / "run", model=model, data=noise_sets, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_computed_bias_or_normalisation_is_refused_as_well(build: Any) -> None:
    for layer, key in (("c2", "bias"), ("bn", "weight")):
        model = build()
        prune.l1_unstructured(model.get_submodule(layer), key, amount=0.5)
        with pytest.raises(ClatError, match=f"layer '{layer}' has .*computes its {key}"):
            Reinitialise(modules=(layer,)).requires(model, torch.zeros(1, 3, 8, 8))
    Reinitialise(modules=("bn", "c1"), batch_norm=False).requires(model, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("ranking", ["criticality", "mrc", "activation", "rewinding", "rewinding-drop"])
def test_rankings_read_it_and_leave_no_trace(
    ranking: str, computed: tuple[nn.Module, str], x: Tensor, y: Tensor
) -> None:
    """A deep copy fails on the weight that a hook leaves behind."""
    model, _ = computed
    model.train()(x).sum().backward()
    model.zero_grad()
    model.eval()
    first = {name: value + 0.1 for name, value in model.state_dict().items()}
    weight, before = model.c2.weight, copied(tensors_of(model))
    settings = make_ranking(ranking, {"epochs": 1, "steps": 2})
    initial = first if settings.needs_initial else None
    report = settings.measure(model, x, y, layers=clat.enumerate_layers(model, x), eps=0.1, initial=initial)
    assert [row.name for row in report.rows] == ["c1", "c2", "c3"]
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(model).items())
    if not parametrize.is_parametrized(model.c2):
        assert model.c2.weight is weight


def test_the_same_function_in_plain_weights(computed: tuple[nn.Module, str], x: Tensor) -> None:
    model, _ = computed
    model.train()(x).sum().backward()
    model.eval()
    weight = model.c2.weight.detach().clone()
    plain = with_plain_weights(model)
    assert plain is not model
    assert torch.equal(plain(x), model(x))
    assert torch.equal(plain.get_parameter("c2.weight"), weight)
    assert with_plain_weights(plain) is plain


def test_module_robust_criticality_does_not_depend_on_how_a_weight_is_written(
    build: Any, x: Tensor, y: Tensor
) -> None:
    found = []
    for scale in (1.0, 100.0):
        model = build().eval()
        parametrizations.weight_norm(model.c2)
        with torch.no_grad():
            model.c2.parametrizations.weight.original1.mul_(scale)
        found.append(clat.measure_robust_criticality(model, x, y, eps=0.1, steps=2, epochs=3).rows)
    plain = clat.measure_robust_criticality(build().eval(), x, y, eps=0.1, steps=2, epochs=3).rows
    for rows in found:
        assert [row.value for row in rows] == pytest.approx([row.value for row in plain], rel=1e-3)
