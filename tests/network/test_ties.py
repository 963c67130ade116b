"""Whatever puts other weights into a network, or factors beside them, leaves one with tied parts as it found it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.criticality.probing import logits_with
from clat.criticality.rankings import RANKINGS, make_ranking
from clat.data import ImageSet
from clat.models.files import load_weights
from clat.network import modes
from clat.network.exchange import copied, tensors_of
from clat.network.low_rank import Branch
from clat.network.swap import swapped
from clat.objectives import AutoLoRa, Cure, PgdAT, Twins
from clat.objectives.cure.revision import Pace, Revision
from clat.recipe.schema import DataConfig, EvaluationConfig, MonitorConfig, Recipe, StageConfig
from clat.runtime.engine import EngineConfig
from clat.treatments import AWP, EMA, SWA, Interpolation, LoRA

Operation = Callable[[nn.Module, Tensor, Tensor, Any], None]


def objects(model: nn.Module) -> dict[str, int]:
    """Where every parameter and buffer object lies, in order, under all names."""
    return {
        f"{name}.{key}": id(value)
        for name, module in model.named_modules(remove_duplicate=False)
        for own in (module._parameters, module._buffers)
        for key, value in own.items()
    }


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def ranking(name: str) -> Operation:
    def run(model: nn.Module, x: Tensor, y: Tensor, around: Any) -> None:
        first = {key: value + 0.1 * torch.ones_like(value) for key, value in model.state_dict().items()}
        settings = make_ranking(name, {"epochs": 1, "steps": 2})
        initial = first if settings.needs_initial else None
        settings.measure(model, x, y, layers=clat.enumerate_layers(model, x), eps=0.1, initial=initial)

    return run


def callback(settings: Any) -> Operation:
    """Joins a stage, is asked for what the network is evaluated as, and leaves."""

    def run(model: nn.Module, x: Tensor, y: Tensor, around: Any) -> None:
        names = list(model.state_dict())
        joined = settings.on_stage_start(around(model))
        model.requires_grad_(True)
        joined.choose_parameters(dict(model.named_parameters()))
        with joined.around_loss(lambda: model(x).square().sum()):
            model(x)
        joined.after_step()
        with joined.evaluation_weights():
            model(x)
        assert sorted(joined.export_state(dict(model.state_dict()))) == sorted(names)
        joined.on_stage_end()
        assert list(model.state_dict()) == names

    return run


def revise(model: nn.Module, x: Tensor, y: Tensor, around: Any) -> None:
    revision = Revision(model, Pace(rate=1.0))
    revision.start()
    before = revision.logits(x)
    assert torch.equal(before, output(model, x))
    with torch.no_grad():
        for value in revision.tensors.values():
            value.add_(1)
    assert not torch.equal(revision.logits(x), before)
    revision.follow(0)


def lay_out(model: nn.Module, x: Tensor, y: Tensor, around: Any) -> None:
    with modes.in_layout(model, torch.channels_last):
        model(x)


def attack(model: nn.Module, x: Tensor, y: Tensor, around: Any) -> None:
    clat.evaluate(model, x, y, protocol="pgd-10", eps=0.1)


OPERATIONS: dict[str, Operation] = {name: ranking(name) for name in RANKINGS} | {
    "awp": callback(AWP(gamma=0.1)),
    "ema": callback(EMA()),
    "swa": callback(SWA(start=0.0, window=1, unit="batches", replace_running=False)),
    "interpolation": callback(Interpolation(alpha=0.5, steps=1)),
    "lora": callback(LoRA()),
    "autolora": callback(AutoLoRa(steps=1)),
    "twins": callback(Twins(steps=1)),
    "cure's revision": revise,
    "layout": lay_out,
    "evaluation": attack,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_output_and_objects_are_the_same_afterwards(
    name: str, tied: Callable[..., nn.Module], x: Tensor, y: Tensor, around: Any
) -> None:
    model = tied()
    before, values, there = output(model, x), copied(tensors_of(model)), objects(model)
    OPERATIONS[name](model, x, y, around)
    model.eval()
    assert objects(model) == there
    assert list(objects(model)) == list(there)
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    for key, value in tensors_of(model).items():
        assert torch.equal(value, values[key]), key
    assert torch.equal(output(model, x), before)


def test_a_stand_in_is_there_under_every_name(tied: Callable[..., nn.Module], x: Tensor) -> None:
    """As if it had been written into the network's own tensors."""
    model, other = tied(), tied()
    changed = {name: value + 0.1 for name, value in tensors_of(model).items() if value.is_floating_point()}
    with torch.no_grad():
        for name, value in tensors_of(other).items():
            if name in changed:
                value.copy_(changed[name])
    found = logits_with(model, changed, x)
    assert torch.equal(found, output(other, x))
    assert not torch.equal(found, output(model, x))


def test_gradients_flow_to_a_stand_in_through_every_use(
    build: Any, tied: Callable[..., nn.Module], x: Tensor
) -> None:
    model = tied()
    name = next(name for name, parameter in model.named_parameters() if parameter.dim() == 4 and name[:2] != "c1")
    model(x).square().sum().backward()
    expected = model.get_parameter(name).grad
    moving = model.get_parameter(name).detach().clone().requires_grad_(True)
    (found,) = torch.autograd.grad(logits_with(model, {name: moving}, x).square().sum(), moving)
    torch.testing.assert_close(found, expected)


def test_the_tensors_are_back_after_an_error(tied: Callable[..., nn.Module], x: Tensor) -> None:
    model = tied()
    there = objects(model)
    with pytest.raises(KeyError, match="c9"), swapped(model, {"head.weight": torch.zeros(3, 4), "c9": x}):
        pass
    with pytest.raises(ZeroDivisionError), swapped(model, {"head.weight": torch.zeros(3, 4)}):
        raise ZeroDivisionError
    assert objects(model) == there


def test_tied_layers_learn_one_pair_of_factors_which_is_merged_once(
    tied: Callable[..., nn.Module], x: Tensor
) -> None:
    model = tied()
    names = [layer.name for layer in clat.enumerate_layers(model, x)]
    branch = Branch(model, names, rank=2, scale=1.0, start="kaiming", seed=0)
    plain = output(model, x)
    with torch.no_grad():
        for factor in branch.factors:
            factor.add_(0.1)
    together = output(model, x)
    assert not torch.allclose(together, plain)
    with branch.switched(False):
        assert torch.equal(output(model, x), plain)
    saved, fresh = branch.export_state(dict(model.state_dict()), merge=True), tied(1)
    fresh.load_state_dict(saved)
    torch.testing.assert_close(output(fresh, x), together)
    branch.remove(merge=True)
    torch.testing.assert_close(output(model, x), together)


def colours(n: int, split: str) -> ImageSet:
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 3
    base = torch.tensor([[90, 60, 60], [60, 90, 60], [60, 60, 90]])[labels][:, :, None, None]
    pixels = base + torch.randint(0, 120, (n, 3, 8, 8), generator=generator)
    return ImageSet("colours", split, ("a", "b", "c"), pixels.to(torch.uint8), labels)


@pytest.mark.parametrize(
    "stage",
    [
        {"objective": Cure(steps=1, rate=1.0)},
        {"objective": AutoLoRa(steps=1)},
        {"objective": Twins(steps=1)},
        {"objective": PgdAT(steps=1), "treatments": (LoRA(classifier="full"),)},
        {"objective": PgdAT(steps=1), "treatments": (AWP(), EMA(start=0.0, ramp=False, decay=0.5))},
    ],
    ids=["cure", "autolora", "twins", "lora", "awp and ema"],
)
def test_a_run_moves_the_shared_part_and_its_file_is_the_network(
    stage: dict[str, Any], tied: Callable[..., nn.Module], x: Tensor, tmp_path: Path
) -> None:
    model, before = tied(), copied(tensors_of(tied()))
    recipe = Recipe(
        stages=(StageConfig(name="only", epochs=1, **stage),),
        eps="0.05",
        batch_size=10,
        data=DataConfig(heldout=10, pad=1),
        monitor=MonitorConfig(steps=1, num_samples=10),
        evaluation=EvaluationConfig(protocol="fgsm", num_samples=6),
        engine=EngineConfig(device="cpu", channels_last=False),
    )
    result = clat.train(
        recipe, tmp_path / "run", model=model, data=(colours(30, "train"), colours(6, "test")), quiet=True
    )
    after = tensors_of(result.model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name, value in before.items() if value.dim() == 4 and name[:2] != "c1"} <= moved
    fresh = tied(1)
    load_weights(fresh, tmp_path / "run" / "weights" / "last.safetensors")
    assert torch.equal(output(fresh, x), output(result.model, x))
