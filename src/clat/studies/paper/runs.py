"""From a line of a table to the recipe that trains its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clat.recipe.schema import Recipe
from clat.recipe.toml import build_recipe, merged
from clat.studies.paper.methods import ALPHA, CURE_ALPHA, CURE_EPS, EPS, METHODS, ONE_STEP, Method
from clat.studies.paper.scales import K, PaperScale, Table, network
from clat.studies.row import stage

Layers = Literal["critical", "random", "smallest", "fixed"]
RULES: dict[str, str] = {
    "critical": "critical",
    "random": "random",
    "smallest": "least-critical",
    "fixed": "critical",
}
"""Which layers CLAT moves -> the rule of its selection; `fixed` selects once."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One network to train, without its scale."""

    base: str = "pgd-at"
    """X, a key of METHODS."""
    follower: str = ""
    """What follows X, one of FOLLOWERS."""
    network: str
    dataset: str
    seed: int = 0
    layers: Layers = "critical"
    """Which layers CLAT moves."""
    k: int | None = None
    """How many; None: the paper's number for the network."""
    share: float = 0.5
    """X's part of the epochs: 0.5 as in 50 + 50, 0.7 as in 70 + 30, 0: none."""
    length: float = 1.0
    """Epochs over those of the scale, its learning rates stretched or shortened with them."""
    anneal: bool = False
    """The cosine ends with the run, at 0."""
    drop: bool = False
    """The learning rate falls to a tenth where X's part ends (Fig. 6)."""
    ratio: float = 0.1
    """CLAT's lambda, as lambda * L_C over the cross-entropy at the start of its stage."""
    cure: bool = False
    """At the settings of CURE's paper, not of CLAT's."""

    @property
    def label(self) -> str:
        """Return a readable name: what is trained, on what, from which seed."""
        parts = [self.dataset, self.network, self.base + (f"+{self.follower}" if self.follower else "")]
        if self.layers != "critical":
            parts.append(self.layers)
        if self.k is not None:
            parts.append(f"k{self.k}")
        if self.share != 0.5:
            parts.append(f"x{self.share:g}")
        if self.length != 1:
            parts.append(f"l{self.length:g}")
        if self.follower.startswith("clat") and self.ratio != 0.1:
            parts.append(f"r{self.ratio:g}")
        parts += ["annealed"] * self.anneal + ["drop"] * self.drop + ["cure"] * self.cure + [f"s{self.seed}"]
        return "-".join(parts)

    def start_alike(self) -> tuple[RunSpec, RunSpec]:
        """Return what a mixture is made of: the naturally trained and the PGD-AT network.

        Returns:
            (natural, PGD-AT): on the same network, data set and seed.
        """
        shared: dict[str, Any] = {"network": self.network, "dataset": self.dataset, "seed": self.seed}
        return RunSpec(base="clean", **shared), RunSpec(base="pgd-at", **shared)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where a recipe finds what is not in it."""

    data: Mapping[str, str] = field(default_factory=dict)
    """Data set -> a folder of it; those that are not here are looked for by name."""
    generated: str = ""
    """The file of generated images of the data set, or what stands in for it."""
    members: Sequence[Path] = ()
    """Of a mixture: the weights of its two members."""


def recipe(spec: RunSpec, scale: PaperScale, inputs: Inputs) -> Recipe:
    """Return the recipe of a network at a scale.

    Args:
        spec: what is trained.
        scale: how large.
        inputs: data folders, generated images, members of a mixture.

    Returns:
        The recipe; it leaves the test split unread, which `clat.studies.paper.store` measures on.

    Raises:
        ClatError: If the parts do not go together.
    """
    method = METHODS[spec.base].on(spec.network)
    if spec.length != 1:
        scale = replace(scale, epochs=max(round(spec.length * scale.epochs), 2))
    if spec.anneal:
        scale = replace(scale, stretch=1.0)
    lr = {"kind": "cosine", "lr": 0.1, "epochs": scale.span}
    settings: Table = {
        "name": spec.label,
        "seed": spec.seed,
        "eps": CURE_EPS if spec.cure else EPS,
        "batch_size": scale.batch_size,
        "model": _model(spec, scale, inputs),
        "data": _data(spec, scale, inputs),
        "schedule": {"kind": "piecewise", "lr": 0.1, "milestones": [0.5, 0.75]} if spec.cure else lr,
        "optimizer": {"momentum": 0.9, "weight_decay": 5e-4},
        "monitor": {"num_samples": scale.monitored, "every": scale.monitor_every},
        "evaluation": {"weights": "none"},
    }
    changes = dict(method.changes)
    if changes.get("schedule", {}).get("kind") in ("one-cycle", "cyclic"):
        settings["schedule"] = {}
    stages = _cure_stages(spec, scale) if spec.cure else _stages(spec, scale, method)
    return build_recipe(merged(settings, {**changes, "stages": stages}))


def _model(spec: RunSpec, scale: PaperScale, inputs: Inputs) -> Table:
    method = METHODS[spec.base]
    own = network(spec.network, spec.dataset, scale, method.built_in.get(spec.network))
    if spec.base != "bai2024":
        return own
    standard, robust = ({**own, "weights": str(file)} for file in inputs.members)
    return {"name": "mixture", "alpha": 0.924, "scales": [1.2, 0.5], "standard": standard, "robust": robust}


def _data(spec: RunSpec, scale: PaperScale, inputs: Inputs) -> Table:
    found: Table = {"name": inputs.data.get(spec.dataset, spec.dataset), "heldout": scale.heldout}
    if scale.train_size is not None:
        found["train_size"] = scale.train_size
    size = (scale.image_sizes or {}).get(spec.dataset)
    if size is not None:
        found |= {"image_size": size, "augment": "imagenet", "imagenet": {"by": "batch"}}
    if METHODS[spec.base].generated:
        found["extra"] = {"file": inputs.generated, "fraction": 0.7}
    return found


def _stages(spec: RunSpec, scale: PaperScale, method: Method) -> list[Table]:
    """Return X's part and what follows it, in a run of CLAT's paper."""
    if spec.share == 0:
        return [_clat(spec, scale, scale.epochs, method)]
    start = scale.start(spec.share)
    rest = scale.epochs - start
    if spec.base == "bai2024":
        return _after_members(spec, scale, start, rest, method)
    on = _x(f"{spec.base}-on", spec, rest, method, scale, again=True)
    falls: Table = {"schedule": _along(scale, start, 0.01)} if spec.drop else {}
    if not spec.follower and method.stateful:
        return [_x(spec.base, spec, scale.epochs, method, scale)]
    first = _first(spec, start, method, scale)
    if spec.follower and method.after:
        first[-1]["schedule"] = dict(method.changes["schedule"])
        falls = {"schedule": dict(method.after)}
    if not spec.follower and method.before:
        return [first[0], _x(spec.base, spec, scale.epochs - first[0]["epochs"], method, scale)]
    if spec.follower == "tune":
        return [*first, {**on, "name": "tune", "selection": _selection(spec, scale, rest, method), **falls}]
    if spec.follower.startswith("clat"):
        return [*first, {**_clat(spec, scale, rest, method), **falls}]
    if spec.follower == "rift":
        tenth = max(1, round(scale.epochs / 10))
        return [*first, {**on, "epochs": rest - tenth}, _rift(tenth, scale)]
    if spec.follower == "lora":
        lora = {"name": "lora", "rank": 2}
        return [*first, stage("lora", rest, method.with_attack(ALPHA), treatments=[lora], batch_norm="update")]
    return [*first, {**on, **falls}]


def _along(scale: PaperScale, start: int, lr: float) -> Table:
    """Return the schedule of a stage that goes on along the cosine of a whole run, from its epoch `start`."""
    return {"kind": "cosine", "lr": lr, "epochs": scale.span, "start": float(start)}


def _first(spec: RunSpec, epochs: int, method: Method, scale: PaperScale) -> list[Table]:
    """Return X's own part, which where X builds on another method begins with that."""
    if not method.before:
        return [_x(spec.base, spec, epochs, method, scale)]
    half = epochs // 2
    before = _x(method.before, spec, epochs - half, METHODS[method.before], scale)
    return [before, _x(spec.base, spec, half, method, scale)]


def _x(name: str, spec: RunSpec, epochs: int, method: Method, scale: PaperScale, *, again: bool = False) -> Table:
    """Return a stage of X. `again`: it goes on with what a stage before it began."""
    treatments = [dict(one) for one in method.treatments]
    for one in treatments:
        if one["name"] == "awp" and not again and scale.name != "full":
            one["warmup"] = epochs // 2  # perturbed from the first step it stays at chance within so few epochs
        if one["name"] == "swa":
            one["window"] = max(1, epochs // 50)
    found = stage(name, epochs, method.with_attack(CURE_ALPHA if spec.cure else ALPHA))
    if treatments:
        found["treatments"] = treatments
    found |= method.stage
    if any(one["name"] == "lora" for one in treatments):
        found["batch_norm"] = "update"
    return found


def _clat(spec: RunSpec, scale: PaperScale, epochs: int, method: Method) -> Table:
    """Return CLAT's stage: k layers by the rule, selected again as often as in the paper, at least twice."""
    objective: Table = {"name": spec.follower or "clat", "ratio": spec.ratio}
    objective |= {"alpha": ONE_STEP} if spec.follower == "clat-fast" else {"steps": 10, "alpha": ALPHA}
    selection = _selection(spec, scale, epochs, method)
    if spec.follower == "clat-plus" and selection["rule"] != "random":
        selection |= {"normaliser": "relative", "tap": "norm"}
    if not method.kept:
        return stage("clat", epochs, objective, selection=selection)
    objective["label_smoothing"] = method.objective["label_smoothing"]
    treatments = [dict(one) for one in method.treatments]
    return stage("clat", epochs, objective, selection=selection, treatments=treatments)


def _selection(spec: RunSpec, scale: PaperScale, epochs: int, method: Method) -> Table:
    """Return which layers move in a stage that moves some."""
    selection: Table = {
        "rule": RULES[spec.layers],
        "k": spec.k or K[spec.network],
        "every": 0 if spec.layers == "fixed" else scale.every(epochs),
    }
    if selection["rule"] != "random":
        selection["alpha"] = ALPHA
    if spec.base == "bai2024":
        selection["include"] = ["robust.*"]
    if method.exclude:
        selection["exclude"] = list(method.exclude)
    return selection


def _after_members(spec: RunSpec, scale: PaperScale, start: int, rest: int, method: Method) -> list[Table]:
    """Return what comes after the two members of a mixture, which the other rows' first part trains."""
    robust = {"include": ["robust.*"]}
    goes_on = {"schedule": _along(scale, start, 0.1)}
    if spec.follower.startswith("clat"):
        return [{**_clat(spec, scale, rest, method), **goes_on}]
    whole = {"rule": "all", "shortcuts": True, "classifier": True, **robust}
    objective = {"name": "pgd-at", "steps": 10, "alpha": ALPHA}
    tenth = max(1, round(scale.epochs / 10)) if spec.follower == "rift" else 0
    on = stage("pgd-at-on", rest - tenth, objective, selection=whole, batch_norm="update-selected", **goes_on)
    return [on, _rift(tenth, scale, **robust)] if tenth else [on]


def _rift(epochs: int, scale: PaperScale, **only: Any) -> Table:
    """Return RiFT as published but for its length: the least robust-critical layer, clean images, interpolation."""
    # Its released code takes 20 steps of ascent an epoch, from 10,000 images.
    mrc = {"name": "mrc", "batch_size": max(scale.heldout // 20, 1)}
    ranked = {"rule": "least-critical", "ranking": mrc, "k": 1, "every": 0, "num_samples": scale.heldout, **only}
    return stage(
        "rift",
        epochs,
        "standard",
        selection=ranked,
        batch_norm="update-selected" if only else "update",
        schedule={"kind": "piecewise", "lr": 0.001, "milestones": [0.5]},
        treatments=[{"name": "interpolation"}],
    )


CURE_SETTINGS: dict[str, Table] = {
    "wrn-34-10": {"percent": 50.0, "rgp_alpha": 0.3, "gamma": 0.5},
    "preact-resnet18": {"percent": 20.0, "rgp_alpha": 0.2},
}
"""Network -> CURE's hyperparameters where they are not those of ResNet-18 (its Table 9)."""


def _cure_stages(spec: RunSpec, scale: PaperScale) -> list[Table]:
    """Return the stages of CURE's paper: a natural start of half as many epochs before CURE, within them for
    CURE_Eff, none for the methods that it compares with."""
    method, epochs = METHODS[spec.base].on(spec.network), scale.cure_epochs
    if not method.before:
        return [_x(spec.base, spec, epochs, method, scale)]
    inside = spec.base == "cure-eff"
    natural = max(1, round(0.4 * epochs)) if inside else epochs // 2
    own = dict(method.with_attack(CURE_ALPHA))
    for key, value in CURE_SETTINGS.get(spec.network, {}).items():
        own.setdefault(key, value)
    if spec.dataset == "svhn":
        own.setdefault("rgp_alpha", 0.2)
    first = stage("natural", natural, "standard")
    last = stage("cure", epochs - natural if inside else epochs, own)
    if inside:
        return [first, last]
    steps = {"kind": "piecewise", "lr": 0.1, "milestones": [0.5, 0.75]}
    return [{**first, "schedule": {"kind": "cosine", "lr": 0.1}}, {**last, "schedule": steps}]
