"""A protocol taken apart into passes: one search with one seed and, if targeted, one target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from clat.attacks.apgd import ApgdSearch
from clat.attacks.apgd_l1 import ApgdL1Search
from clat.attacks.constraint_relaxation import ConstraintRelaxationSearch
from clat.attacks.fab import FabSearch
from clat.attacks.losses import carlini_wagner, cross_entropy
from clat.attacks.pgd_search import PgdSearch
from clat.attacks.pixle import PixleSearch
from clat.attacks.search import Search
from clat.attacks.square import SquareSearch
from clat.attacks.stadv import StadvSearch
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.core.units import parse_size
from clat.evaluation.own_attack import OwnAttackSearch, find_own_attack
from clat.evaluation.protocols import ATTACKS, AttackSpec, Protocol

EXACT = ("fab", "square", "pixle")
"""Attacks that bfloat16 would weaken: FAB walks along the boundary and the black-box ones keep a change if the loss
falls, however little, where logits differ by less than bfloat16 can tell."""

IN_L1 = ("apgd",)
"""Attacks that can be made in l1."""

CR_NOTE = (
    "cr is not AutoAttack: where gradients are masked it may leave 20 points too many robust; `clat check`, or the "
    "protocol fast, looks for that"
)


@dataclass(frozen=True)
class PlannedSearch:
    """One pass of a protocol: a search with one seed and, if targeted, one target.

    Attributes:
        attack: the position of its attack in the protocol.
        label: what the attack is called in a result.
        build: takes the model and returns the search.
        group: passes of the same differ in nothing but how a sample starts.
        exact: in float32 whatever the precision of the others.
    """

    attack: int
    label: str
    build: Callable[[nn.Module], Search]
    group: int
    exact: bool


def plan_searches(
    protocol: Protocol, threat: ThreatModel, *, classes: int, seed: int, room: int = 1, leave: bool = True
) -> tuple[list[PlannedSearch], list[str]]:
    """Take a protocol apart into its passes.

    Args:
        protocol: the attacks in order.
        threat: the ball that the attacks search.
        classes: outputs of the network.
        seed: of the evaluation; each pass derives its own from it.
        room: how many images a forward pass may be filled up to.
        leave: only verdicts count, so that PGD need not go on after its first example.

    Returns: The passes in order, and notes on what the number of classes forced: fewer targets than asked for, and
    the plain margin where the targeted DLR, which needs 4 classes, cannot be had.

    Raises:
        ClatError: fewer than 2 classes, or fewer than 3 for the DLR.
    """
    if classes < 2:
        raise ClatError(f"the model has {classes} class: an evaluation needs a wrong one beside the right one")
    result: list[PlannedSearch] = []
    notes: list[str] = []
    for position, spec in enumerate(protocol.attacks):
        if threat.norm == "l1" and spec.attack not in IN_L1:
            raise ClatError(
                f"attack '{spec.attack}' knows no l1: take a protocol of apgd alone, such as apgd-l1 or apgd"
            )
        spec_targets = spec.targets
        if spec_targets is not None and spec_targets > classes - 1:
            notes.append(
                f"{spec.shown}: {classes - 1} targets instead of {spec_targets}, as there are {classes} classes"
            )
            spec_targets = classes - 1
        loss = spec.loss
        if loss == "dlr-targeted" and classes < 4:
            notes.append(f"{spec.shown}: the margin instead of the targeted DLR, which needs 4 classes")
            loss = "margin-targeted"
        if loss == "dlr" and classes < 3:
            raise ClatError(
                f"{spec.shown} needs at least 3 classes, the model has {classes}: use apgd with loss ce"
            )
        if spec.attack == "cr":
            notes.append(CR_NOTE)
        # The others draw random numbers on the way.
        alike = spec.attack in ATTACKS and spec.attack not in ("cr", "square", "pixle")
        first = len(result)
        # CR takes its targets in turn within one search, as what it finds of one decides on the next.
        apart = spec_targets is not None and spec.attack != "cr"
        targets: list[int | None] = list(range(1, (spec_targets or 0) + 1)) if apart else [None]
        earlier = sum(one.label == spec.label for one in protocol.attacks[:position])
        again = (earlier,) if earlier else ()  # an attack that is listed once more draws anew
        for restart in range(spec.restarts):
            for target in targets:
                place = derive_seed(seed, spec.label, restart, target, *again)
                told = spec_targets if target is None else target
                build = _builder(spec, loss, told, restart, threat, place, room, leave)
                group = first if alike else len(result)
                result.append(PlannedSearch(position, spec.shown, build, group, exact=spec.attack in EXACT))
    return result, notes


def _builder(
    spec: AttackSpec,
    loss: str | None,
    target: int | None,
    restart: int,
    threat: ThreatModel,
    seed: int,
    room: int,
    leave: bool,
) -> Callable[[nn.Module], Search]:
    """Return what builds the search of one pass on a model."""
    eps, norm, steps = threat.radius, threat.norm, spec.steps or 0
    if spec.attack == "pgd":
        ratio = float(parse_size(spec.alpha_ratio or 0, what="alpha_ratio", norm="l2"))
        what = carlini_wagner if loss == "cw" else cross_entropy
        return lambda model: PgdSearch(
            model, eps, ratio * eps, norm, steps, random_start=spec.start is None, seed=seed, loss=what,
            verdict=spec.verdict or "last", leave=leave,
        )  # fmt: skip
    if spec.attack == "apgd" and norm == "l1":
        return lambda model: ApgdL1Search(model, eps, steps=steps, loss=loss or "ce", target=target or 1, seed=seed)
    if spec.attack == "apgd":
        return lambda model: ApgdSearch(
            model, eps, norm=norm, steps=steps, loss=loss or "ce", target=target or 1, seed=seed
        )
    if spec.attack == "cr":
        return lambda model: ConstraintRelaxationSearch(
            model, eps, norm, targets=target or 1, steps=steps, rounds=spec.rounds or 1, seed=seed
        )
    if spec.attack == "fab":
        return lambda model: FabSearch(
            model, eps, norm=norm, steps=steps, target=target, restart=restart, seed=seed
        )
    if spec.attack == "square":
        return lambda model: SquareSearch(
            model, eps, norm=norm, queries=steps, schedule=spec.schedule, seed=seed, room=room
        )
    if spec.attack == "stadv":
        return lambda model: StadvSearch(model, bound=spec.bound or 0.0, steps=steps, seed=seed)
    if spec.attack == "pixle":
        return lambda model: PixleSearch(model, seed=seed)
    function = find_own_attack(spec.attack)
    assert function is not None  # the spec has been checked
    return lambda model: OwnAttackSearch(model, spec.attack, function, spec.settings or {}, eps, norm, seed)
