"""Whatever network comes in, each entrance gives the plain network's numbers or one clear line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clat
from clat.attacks.apgd import apgd
from clat.attacks.constraint_relaxation import constraint_relaxation
from clat.attacks.fab import fab
from clat.attacks.pixle import pixle
from clat.attacks.square import square
from clat.attacks.stadv import stadv
from clat.core.errors import ClatError
from clat.criticality.rankings import make_ranking
from clat.evaluation.predict import predict
from clat.evaluation.protocols import AttackSpec, Protocol
from clat.evaluation.transfer import transfer
from clat.network.edge import accept, beside
from clat.recipe import build_recipe

Entrance = Callable[[nn.Module, Tensor, Tensor], Any]


def protocol(attack: str, **settings: Any) -> Protocol:
    return Protocol(name=f"one-{attack}", attacks=(AttackSpec(attack=attack, **settings),))


def evaluation(name: str, **settings: Any) -> Entrance:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        result = clat.evaluate(model, x, y, protocol=protocol(name, **settings), eps=0.1, keep_examples=True)
        assert result.x_adv is not None
        return result.correct, result.robust, result.x_adv.float()

    return run


def ranking(name: str) -> Entrance:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        settings = make_ranking(name, {"epochs": 1, "steps": 2})
        initial = {key: value + 1 for key, value in getattr(model, "state_dict", dict)().items()}
        start = initial if settings.needs_initial else None
        report = settings.measure(model, x, y, layers=clat.enumerate_layers(model, x), eps=0.1, initial=start)
        return [(row.name, report.value(row)) for row in report.rows]

    return run


def checked(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return [(row.name, row.verdict, row.value) for row in clat.check(model, x, y, eps=0.1).rows]


ATTACKS: dict[str, Entrance] = {
    "fgsm": lambda m, x, y: clat.attacks.fgsm(m, x, y, eps=0.1, seed=0),
    "pgd": lambda m, x, y: clat.attacks.pgd(m, x, y, eps=0.1, steps=3, seed=0),
    "pgd, l2": lambda m, x, y: clat.attacks.pgd(m, x, y, eps=0.5, steps=3, norm="l2", seed=0),
    "apgd": lambda m, x, y: apgd(m, x, y, eps=0.1, steps=4),
    "apgd, dlr": lambda m, x, y: apgd(m, x, y, eps=0.1, steps=4, loss="dlr"),
    "fab": lambda m, x, y: fab(m, x, y, eps=0.1, steps=4),
    "fab, no eps": lambda m, x, y: fab(m, x, y, steps=4, norm="l2"),
    "square": lambda m, x, y: square(m, x, y, eps=0.1, queries=20),
    "square, l2": lambda m, x, y: square(m, x, y, eps=0.5, norm="l2", queries=20),
    "cr": lambda m, x, y: constraint_relaxation(m, x, y, eps=0.1, targets=2, steps=30, rounds=1),
    "stadv": lambda m, x, y: stadv(m, x, y, steps=4),
    "pixle": lambda m, x, y: pixle(m, x, y, restarts=2, iterations=2),
}
EVALUATIONS: dict[str, Entrance] = {
    "evaluate, pgd": evaluation("pgd", steps=3),
    "evaluate, apgd": evaluation("apgd", steps=4),
    "evaluate, fab": evaluation("fab", steps=4),
    "evaluate, square": evaluation("square", steps=20),
    "evaluate, cr": evaluation("cr", steps=30),
    "evaluate, stadv": evaluation("stadv", steps=4),
    "evaluate, pixle": evaluation("pixle"),
    "predict": lambda m, x, y: predict(m, x, y),
    "transfer": lambda m, x, y: (
        transfer({"one": m, "two": m}, x, y, eps=0.1, protocol=protocol("pgd", steps=2)).right
    ),
}
LAYERS: dict[str, Entrance] = {
    "layers": lambda m, x, y: clat.enumerate_layers(m, x),
    "feature attack": lambda m, x, y: clat.attacks.feature_attack(
        m, x, clat.enumerate_layers(m, x), eps=0.1, steps=3, seed=0
    ),
    "activation attack": lambda m, x, y: clat.attacks.activation_attack(
        m, x, x.flip(0), clat.enumerate_layers(m, x)[0], eps=0.1, steps=3
    ),
    **{name: ranking(name) for name in ("criticality", "mrc", "activation", "rewinding", "rewinding-drop")},
}
EVERYTHING = ATTACKS | EVALUATIONS | LAYERS
SLOW = {"check": checked}


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return one == pytest.approx(other, rel=max(tolerance, 1e-12), abs=tolerance)
    return bool(one == other)


def _write_before(module: nn.Module, args: Any) -> None:
    args[0].sub_(0.1).div_(0.9)


def _write_after(module: nn.Module, args: Any, output: Tensor) -> None:
    with torch.no_grad():
        args[0].zero_()


class Normalizing(nn.Module):
    """Subtracts and divides before `net`: out of place, or in one of the ways that change the caller's images."""

    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how = net, how
        if how == "in a hook before it":
            self.register_forward_pre_hook(_write_before)
        elif how == "in a hook after it":
            self.register_forward_hook(_write_after)

    def forward(self, x: Tensor) -> Tensor:
        if self.how in ("out of place", "in a hook after it"):
            x = (x - 0.1) / 0.9
        elif self.how == "in place":
            x.sub_(0.1).div_(0.9)
        elif self.how == "through a view":
            x.flatten(1).sub_(0.1).div_(0.9)
        elif self.how == "through data":
            x.data.sub_(0.1).div_(0.9)
        elif self.how == "by channels":
            for channel in range(3):
                x[:, channel] = (x[:, channel] - 0.1) / 0.9
        elif self.how == "without gradients":
            with torch.no_grad():
                x.sub_(0.1)
            x = x / 0.9
        return self.net(x)


WRITERS = [(name, "in place") for name in (*EVERYTHING, *SLOW)]
WRITERS += [
    (name, how)
    for name in ("pgd", "evaluate, square", "mrc")
    for how in (
        "through a view", "through data", "by channels", "without gradients",
        "in a hook before it", "in a hook after it",
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), WRITERS)
def test_a_network_that_writes_into_its_input_gives_the_plain_ones_numbers(
    name: str, how: str, build: Any, x: Tensor, y: Tensor
) -> None:
    entrance, images = (EVERYTHING | SLOW)[name], x.clone()
    expected = entrance(Normalizing(build(), "out of place"), x.clone(), y)
    assert same(entrance(Normalizing(build(), how), x, y), expected, 1e-6)
    assert torch.equal(x, images)


@pytest.mark.parametrize("objective", ["pgd-at", "trades", "clat", "cure"])
def test_training_a_network_that_writes_into_its_input(
    objective: str, build: Any, noise_sets: Any, tmp_path: Any
) -> None:
    stage: dict[str, Any] = {"name": "only", "epochs": 1, "objective": {"name": objective, "steps": 2}}
    if objective == "clat":
        stage["selection"] = {"rule": "critical", "k": 1, "num_samples": 6}
    settings = {
        "stages": [stage], "batch_size": 6, "data": {"heldout": 6}, "engine": {"device": "cpu"},
        "evaluation": {"weights": "none"},
    }  # fmt: skip
    found = []
    for how in ("out of place", "in place"):
        model = Normalizing(build(), how)
        clat.train(build_recipe(settings), tmp_path / how, model=model, data=noise_sets, quiet=True)
        found.append(list(model.parameters()))
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(*found, strict=True))


DOUBLE, SINGLE, HALF, BRAIN = torch.float64, torch.float32, torch.float16, torch.bfloat16
PAIRS = [
    (name, weights, images)
    for name in EVERYTHING
    for weights, images in ((SINGLE, DOUBLE), (DOUBLE, DOUBLE), (DOUBLE, SINGLE), (HALF, HALF))
]
PAIRS += [
    (name, weights, images)
    for name in ("pgd", "evaluate, fab", "criticality")
    for weights, images in ((HALF, SINGLE), (BRAIN, BRAIN), (SINGLE, BRAIN), (HALF, DOUBLE), (DOUBLE, HALF))
]
PAIRS += [("check", DOUBLE, DOUBLE), ("check", HALF, HALF)]


@pytest.mark.parametrize(("name", "weights", "images"), PAIRS)
def test_every_pair_of_floating_types(
    name: str, weights: torch.dtype, images: torch.dtype, build: Any, x: Tensor, y: Tensor
) -> None:
    """x holds sixteenths, which all of these types do exactly. What a half-precision network computes is its own;
    the others agree with float32."""
    entrance = (EVERYTHING | SLOW)[name]
    found = entrance(build().to(weights), x.to(images), y)
    if torch.finfo(weights).bits >= 32:
        expected = entrance(build(), x, y)
        if name == "layers" or "square" in name or "pixle" in name:  # no gradient whose sign rounding could turn
            assert same(found, expected, 1e-5)
    if isinstance(found, Tensor) and name in ATTACKS:
        assert found.dtype == (torch.float64 if images == weights == torch.float64 else torch.float32)
        assert found.min() >= 0
        assert found.max() <= 1
        if name in ("fgsm", "pgd", "apgd", "apgd, dlr", "fab", "square"):
            assert (found.double() - x.double()).abs().max() <= 0.1


@pytest.mark.parametrize("name", EVERYTHING)
def test_values_that_float32_does_not_hold_are_refused(name: str, build: Any, x: Tensor, y: Tensor) -> None:
    finer = (x.double() + 1e-12).clamp(0, 1)
    if name == "layers":  # looks at shapes alone
        EVERYTHING[name](build(), finer, y)
        return
    with pytest.raises(ClatError, match=r"images are float64.*the network is not.*x\.float\(\)"):
        EVERYTHING[name](build(), finer, y)


def test_half_precision_images_are_widened_not_rounded(build: Any, x: Tensor, y: Tensor) -> None:
    fine = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).half()
    found, expected = (ATTACKS["pgd"](build(), images, y) for images in (fine, fine.float()))
    assert torch.equal(found, expected)


def test_training_is_in_float32(build: Any, noise_sets: Any, tmp_path: Any) -> None:
    stage = {"name": "only", "epochs": 1, "objective": {"name": "pgd-at"}}
    recipe = build_recipe({"stages": [stage], "data": {"heldout": 6}})
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(ClatError, match=r"the model's weights are float\d\d.*model\.float\(\)"):
            clat.train(recipe, tmp_path / "run", model=build().to(dtype), data=noise_sets, quiet=True)
    assert not (tmp_path / "run").exists()


class OneOutput(nn.Module):
    def __init__(self, net: nn.Module, flat: bool) -> None:
        super().__init__()
        self.net, self.flat = net, flat

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)[:, :1]
        return z.squeeze(1) if self.flat else z


JUDGING = [name for name in (*EVERYTHING, *SLOW) if name not in ("layers", "feature attack", "activation attack")]
"""What reads the network's output."""


@pytest.mark.parametrize(
    ("name", "flat"), [*((name, False) for name in JUDGING), ("pgd", True), ("square", True), ("check", True)]
)
def test_a_network_with_one_logit_is_told_what_to_return(
    name: str, flat: bool, build: Any, x: Tensor, y: Tensor
) -> None:
    with pytest.raises(ClatError, match=r"of a single logit z return torch\.stack\(\[-z / 2, z / 2\], 1\)"):
        (EVERYTHING | SLOW)[name](OneOutput(build(), flat), x, y % 2)


@pytest.mark.parametrize("name", [*ATTACKS, *EVALUATIONS])
def test_a_label_that_the_network_has_no_class_for(name: str, build: Any, x: Tensor) -> None:
    with pytest.raises(ClatError, match="a label is 3, but the model has 3 classes"):
        (EVERYTHING | SLOW)[name](build(), x, torch.tensor([0, 1, 2, 3, 0, 1]))


@pytest.mark.parametrize("name", [*ATTACKS, *EVALUATIONS])
def test_an_output_that_holds_no_logits(name: str, x: Tensor, y: Tensor) -> None:
    class Wordy(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"answer": x}

    with pytest.raises(ClatError, match=r"does not return logits of shape \(N, classes\)"):
        (EVERYTHING | SLOW)[name](Wordy(), x, y)


@pytest.mark.parametrize("name", [*ATTACKS, *EVALUATIONS])
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (Tensor.to_sparse, "a sparse tensor"),
        (lambda z: z.to(torch.complex64), "a tensor of complex64"),
        (Tensor.long, "a tensor of int64"),
        (lambda z: z.to("meta"), "a tensor without values"),
    ],
)
def test_an_output_of_numbers_that_no_loss_takes(
    name: str, changed: Any, says: str, build: Any, x: Tensor, y: Tensor
) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def forward(self, x: Tensor) -> Tensor:
            return changed(self.net(x))

    with pytest.raises(ClatError, match=f"as plain floating-point numbers but {says}"):
        (EVERYTHING | SLOW)[name](Odd(), x, y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "trace"), [*((name, False) for name in (*EVERYTHING, *SLOW)), ("pgd", True), ("predict", True)]
)
def test_a_torchscript_network_is_attacked_and_its_layers_are_not_seen(
    name: str, trace: bool, x: Tensor, y: Tensor
) -> None:
    model, entrance = Scriptable(), (EVERYTHING | SLOW)[name]
    model = torch.jit.trace(model, x) if trace else torch.jit.script(model)
    if name in LAYERS:
        with pytest.raises(ClatError, match=r"TorchScript.*no layers.*nn\.Module"):
            entrance(model, x, y)
        return
    found = entrance(model, x, y)
    if name in ("predict", "square", "pixle"):
        assert same(found, entrance(Scriptable(), x, y), 1e-5)


class Scriptable(nn.Module):
    """A network that torch.jit reads; one and the same each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def forbidden(graph: Any, examples: Any) -> Any:
    raise AssertionError("the network was compiled")


@pytest.mark.parametrize("name", [*EVERYTHING, *SLOW])
def test_a_compiled_network_is_taken_out_of_its_wrapper(name: str, build: Any, x: Tensor, y: Tensor) -> None:
    entrance = (EVERYTHING | SLOW)[name]
    assert same(entrance(torch.compile(build(), backend=forbidden), x, y), entrance(build(), x, y))


def test_a_compiled_network_is_trained_in_place(build: Any, noise_sets: Any, tmp_path: Any) -> None:
    model = build()
    stage = {"name": "only", "epochs": 1, "objective": {"name": "pgd-at", "steps": 1}}
    recipe = build_recipe(
        {"stages": [stage], "data": {"heldout": 6}, "batch_size": 6, "evaluation": {"weights": "none"}}
    )
    wrapped: Any = torch.compile(model, backend=forbidden)
    result = clat.train(recipe, tmp_path / "run", model=wrapped, data=noise_sets, quiet=True)
    assert result.model is model
    assert not torch.equal(model.c1.weight, build().c1.weight)


@pytest.mark.parametrize("name", EVALUATIONS | LAYERS)
def test_what_is_no_network_is_refused(name: str, x: Tensor, y: Tensor) -> None:
    with pytest.raises(ClatError, match=r"the model is a function, expected a torch\.nn\.Module"):
        EVERYTHING[name](lambda images: images.mean((2, 3)), x, y)


class Elsewhere(nn.Module):
    """A network that says where its tensors are."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        self.places = places

    def parameters(self, recurse: bool = True) -> Any:
        return iter([SimpleNamespace(device=torch.device(place)) for place in self.places])


class Moved:
    """An image batch that notes where it is moved to."""

    place: Any = None

    def to(self, place: torch.device) -> Moved:
        self.place = place
        return self


@pytest.mark.parametrize(
    ("places", "moved"), [(["cuda:1"], "cuda:1"), (["cuda:0", "cpu"], None), ([], None), (["meta"], None)]
)
def test_images_are_brought_to_the_device_of_a_network_that_has_one(places: list[str], moved: str | None) -> None:
    (found,) = beside(Elsewhere(*places), Moved())  # type: ignore[arg-type]
    assert found.place == (None if moved is None else torch.device(moved))  # type: ignore[attr-defined]


MEASURES: dict[str, tuple[str, Entrance]] = {
    "criticality": ("index", lambda model, x, y: clat.measure_criticality(model, x, y, eps=0.1, steps=1)),
    "given x_adv": ("index", lambda model, x, y: clat.measure_criticality(model, x, y, eps=0.1, x_adv=1 - x)),
    "mrc": ("robust_criticality", lambda model, x, y: clat.measure_robust_criticality(model, x, y, x_adv=1 - x)),
    "activation": ("activation", lambda model, x, y: clat.measure_activation_ranking(model, x, y, steps=1)),
    "rewinding": (
        "rewinding",
        lambda model, x, y: clat.measure_rewinding_drop(model, doubled(model), x, y),
    ),
    "choice": ("choice", lambda model, x, y: clat.select_layers(model, x, y, eps=0.1, k=1)),
}


def doubled(model: nn.Module) -> dict[str, Tensor]:
    return {name: 2 * value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("measure", MEASURES)
def test_every_ranking_computes_with_what_was_brought_there(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees none of the images that were given: those beside it are darker here."""
    seen: set[float] = set()

    class Noting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.update(x.detach().amax((1, 2, 3)).tolist())
            return super().forward(x)

    def darker(model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor / 4 if tensor.is_floating_point() else tensor for tensor in tensors)

    net = Noting(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    module, run = MEASURES[measure]
    monkeypatch.setattr("clat.network.edge.beside", darker)
    monkeypatch.setattr(f"clat.criticality.{module}.beside", darker, raising=False)
    run(net, x, y)
    given = {*x.amax((1, 2, 3)).tolist(), *(1 - x).amax((1, 2, 3)).tolist()}
    assert seen
    assert not seen & given


@pytest.mark.parametrize(
    ("model", "x", "y", "says"),
    [
        (lambda x: x.mean((2, 3)), torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), "the model is a function"),
        (
            "resnet18",
            torch.rand(2, 3, 8, 8),
            torch.tensor([0, 1]),
            r'load it first: clat.load_model\("resnet18", w',
        ),
        ({"fc.weight": torch.zeros(2, 3)}, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), "dict, .* load it first"),
        (nn.Flatten(), np.zeros((2, 3, 8, 8), np.float32), torch.tensor([0, 1]), "torch"),
        (nn.Flatten(), torch.rand(2, 3, 8, 8), [0, 1], "labels"),
    ],
)
@pytest.mark.parametrize(
    "run", [clat.measure_criticality, clat.measure_robust_criticality, clat.select_layers, clat.evaluate]
)
def test_what_is_no_network_or_no_tensor_is_refused_in_one_line(
    model: Any, x: Any, y: Any, says: str, run: Any
) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        run(model, x, y, eps=0.1)
    assert "\n" not in str(caught.value)


def test_a_device_without_float64_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clat.network.edge.check_images", lambda *args: None)
    x: Any = SimpleNamespace(device=SimpleNamespace(type="mps"))
    with pytest.raises(ClatError, match="'mps', which has no float64: move network and images to the CPU"):
        accept(nn.Linear(1, 1), x)


class Leads(nn.Module):
    """Signals of twelve leads as images of width 1, (12, T, 1)."""

    def __init__(self, side: int = 1) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(12, 6, (3, side), padding=(1, 0)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu().mean((2, 3)))


@pytest.mark.parametrize("entrance", [*ATTACKS, "evaluate, pgd", "predict", "feature attack", "criticality"])
@pytest.mark.parametrize("shape", [(12, 30, 1), (12, 12, 1), (12, 30, 3)])
def test_narrow_images_are_taken_where_the_network_takes_them(entrance: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, *shape), torch.tensor([0, 1, 2, 0])
    EVERYTHING[entrance](Leads(shape[-1]).eval(), x, y)


def test_what_a_network_refuses_for_reasons_of_its_own_is_not_laid_to_the_channels() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lead = nn.Conv1d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("batches of eight at least")

    with pytest.raises(RuntimeError, match="batches of eight"):
        EVERYTHING["pgd"](Own(), torch.rand(2, 12, 100, 1), torch.tensor([0, 1]))


@pytest.mark.parametrize("entrance", ["pgd", "square", "evaluate, pgd", "predict", "feature attack", "criticality"])
@pytest.mark.parametrize("shape", [(8, 8, 3), (6, 8, 3), (8, 20, 3)])
def test_where_the_network_refuses_images_whose_channels_come_last_the_cure_is_told(
    entrance: str, shape: tuple[int, ...], images: Tensor
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ClatError, match=r"expected NCHW: x\.permute\(0, 3, 1, 2\)"):
        EVERYTHING[entrance](net, torch.rand(4, *shape), torch.tensor([0, 1, 2, 0]))
