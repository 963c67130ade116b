"""Named evaluations. A protocol is data; its hash is printed with every result it gives.

The name AutoAttack is reserved for the full standard protocol, so nothing shorter is called so here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from fractions import Fraction

from clat.attacks.settings import Attack
from clat.errors import ClatError, unknown
from clat.units import Size, parse_size, size_text


@dataclass(frozen=True)
class PgdSpec:
    """PGD on the cross-entropy with a uniform start. `alpha_ratio`: the step over eps, as text."""

    steps: int
    alpha_ratio: str = "1/4"
    attack: str = "pgd"
    loss: str = "cross-entropy"
    random_start: bool = True

    def __post_init__(self) -> None:
        for what, value, valid in (("attack", self.attack, "pgd"), ("loss", self.loss, "cross-entropy")):
            if value != valid:
                raise unknown(f"{what} of a PGD protocol", value, (valid,))

    def settings(self, eps: Size, norm: str) -> Attack:
        """The attack at this eps: 2/255 a step at 8/255."""
        radius = parse_size(eps, norm=norm)
        alpha = radius * parse_size(self.alpha_ratio, what="alpha_ratio", norm="l2")
        alpha = min(alpha, Fraction(1)) if norm == "linf" else alpha
        return Attack(
            eps=size_text(radius),
            alpha=size_text(alpha) if alpha else None,
            steps=self.steps,
            norm=norm,
            random_start=self.random_start,
        )


@dataclass(frozen=True)
class Protocol:
    """`attacks` run one after the other on the samples still classified correctly; a sample is robust if it
    withstands all. `precision`: of the search and of the verdict."""

    name: str
    attacks: tuple[PgdSpec, ...]
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ClatError(f"the protocol '{self.name}' has no attack: give it at least one")

    @property
    def hash(self) -> str:
        """Twelve hex digits of the SHA-256 of the protocol's content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("fgsm", (PgdSpec(steps=1, alpha_ratio="5/4"),)),
        *(Protocol(f"pgd-{steps}", (PgdSpec(steps=steps),)) for steps in (10, 20, 50, 100)),
    )
}


def find_protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name; an unknown name gives the nearest."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
