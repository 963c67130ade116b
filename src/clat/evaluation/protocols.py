"""Named evaluations. A protocol is data; its hash is printed with every result it gives.

Only the full standard protocol is called AutoAttack: APGD-CE, APGD-T, FAB-T and Square at the official settings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from clat.attacks.square import AUTOATTACK_SCHEDULE
from clat.core.checks import at_least
from clat.core.errors import ClatError, unknown
from clat.core.notices import notice
from clat.core.parsing import parse_toml
from clat.core.plugins import PluginKind, is_path
from clat.core.units import parse_size
from clat.evaluation.own_attack import check_own_settings, find_own_attack, source_digest

ATTACKS: dict[str, dict[str, Any]] = {
    "apgd": {"loss": "ce", "steps": 100, "targets": None},
    "cr": {"steps": 150, "targets": 3, "rounds": 5},
    "fab": {"steps": 100, "targets": None},
    "pgd": {"steps": 20, "alpha_ratio": "1/4", "loss": None, "start": None, "verdict": None},
    "pixle": {},
    "square": {"steps": 5000, "schedule": AUTOATTACK_SCHEDULE},
    "stadv": {"steps": 100, "bound": 0.05},
}
"""What each attack can be told beside `restarts`, and what holds where it is not told."""

WITHOUT_EPS = ("pixle", "stadv")
"""Attacks that are bounded otherwise than by eps."""

ATTACK_LOSSES = {"apgd": ("ce", "dlr", "dlr-targeted"), "pgd": ("cw",)}
"""What `loss` can be. PGD's own, the cross-entropy, is the one that is not told."""


def _no_flag(value: Any) -> Any:
    """Refuse true and false where a number is expected: pydantic takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ClatError(f"is {str(value).lower()}: expected a number")
    return value


_Whole = Annotated[int, BeforeValidator(_no_flag)]
_Number = Annotated[float, BeforeValidator(_no_flag)]


def _named_instead(function: Callable[..., Any]) -> str:
    """Return the line that says how a protocol names a function that was given itself."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    path = f"{module}:{name}"
    how = f"'{path}'" if is_path(path) else "once it stands at the top of a module"
    return (
        f"attack is the function {name or function}, but a protocol is data and names it: give 'module:function', "
        f"in a script or a notebook '__main__:function' (here {how})"
    )


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """One attack of a protocol. What is left out is filled in from ATTACKS; what an attack does not use stays None
    and does not enter the hash."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attack: str
    """A name from ATTACKS, or a function of your own by its path or entry point, see `clat.evaluation.own_attack`.
    FAB, Square and Pixle search in float32 whatever the evaluation's precision."""
    steps: _Whole | None = None
    """Gradient steps; queries for Square."""
    loss: str | None = None
    """APGD: "ce", "dlr", or "dlr-targeted". PGD: "cw", see `clat.attacks.losses.carlini_wagner`; None: the
    cross-entropy."""
    targets: _Whole | None = None
    """APGD with a targeted loss, FAB, CR: aim at so many wrong classes, the most likely first; None: untargeted."""
    restarts: _Whole = 1
    alpha_ratio: str | None = None
    """PGD: step over eps, as a fraction."""
    bound: _Number | None = None
    """stAdv: the largest flow."""
    schedule: _Whole | None = None
    """Square: over how many queries windows shrink to their smallest. AutoAttack's 5,000 queries are half of
    10,000; in the paper it is as many as there are queries."""
    start: str | None = None
    """PGD: "image", begin there; None: at a random point of the ball."""
    verdict: str | None = None
    """PGD: "any", robust only if no iterate fools the model, the random start included, so that a sample is left at
    its first example; None: its last iterate decides, as in published PGD-k numbers."""
    rounds: _Whole | None = None
    """CR: how often a target is tried at most."""
    settings: dict[str, Any] | None = None
    """Keywords of an attack of your own."""

    def __post_init__(self) -> None:
        if callable(self.attack):
            raise ClatError(_named_instead(self.attack))
        if self.attack in ATTACKS:
            uses = ATTACKS[self.attack]
        elif (function := find_own_attack(self.attack)) is not None:
            uses = {"settings": {}}
            checked = check_own_settings(self.attack, function, self.settings or {})
            object.__setattr__(self, "settings", checked)
        else:
            raise unknown("attack", self.attack, ATTACKS)
        for what in (field.name for field in fields(self) if field.name not in ("attack", "restarts")):
            if getattr(self, what) is None:
                object.__setattr__(self, what, uses.get(what))
            elif what not in uses:
                known = ", ".join(uses) or "none"
                raise ClatError(f"attack '{self.attack}' has no setting '{what}': it has {known}")
        self._check_values()

    def _check_values(self) -> None:
        for what in ("steps", "targets", "restarts", "schedule", "rounds"):
            value = getattr(self, what)
            if isinstance(value, bool) or (value is not None and value < 1):
                raise ClatError(f"{what} of attack '{self.attack}' is {value}: expected at least 1")
        if self.loss is not None and self.loss not in ATTACK_LOSSES[self.attack]:
            raise unknown("loss", self.loss, ATTACK_LOSSES[self.attack])
        if self.verdict is not None and self.verdict != "any":
            raise unknown("verdict", self.verdict, ("any",))
        if self.start is not None and self.start != "image":
            raise unknown("start", self.start, ("image",))
        if self.attack == "apgd" and (self.loss == "dlr-targeted") != (self.targets is not None):
            raise ClatError("attack 'apgd': give targets with loss 'dlr-targeted', and only with it")
        if self.alpha_ratio is not None and not parse_size(self.alpha_ratio, what="alpha_ratio", norm="l2"):
            raise ClatError("alpha_ratio is 0: the attack would not move")
        if self.bound is not None and not self.bound > 0:
            raise ClatError(f"bound of attack '{self.attack}' is {self.bound}: expected more than 0")

    @property
    def label(self) -> str:
        """Return the attack's name, which its seeds are made of: "apgd-ce", "apgd-t", "fab-t", "cr", "pgd-20"."""
        if self.attack == "apgd":
            return "apgd-t" if self.targets else f"apgd-{self.loss}"
        if self.settings is not None:
            return self.attack.rpartition(":")[2]
        if self.attack == "pgd":
            return f"{self.loss}-pgd-{self.steps}" if self.loss else f"pgd-{self.steps}"
        return f"{self.attack}-t" if self.targets and self.attack != "cr" else self.attack

    @property
    def shown(self) -> str:
        """Return the attack's name in a result: its label, or what one of a single step is called."""
        return next((name for name, spec in ONE_STEP.items() if spec == self), self.label)

    def data(self) -> dict[str, Any]:
        """Return the settings as plain data, which is what a protocol's hash is taken of.

        Returns:
            Name -> value, without those that the attack does not use.
        """
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named list of attacks.

    They run in order, each on the samples that withstood those before; a sample is robust if it withstands all.

    Attributes:
        name: what results call it; the name of a built-in protocol is kept for that one.
        attacks: at least one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    attacks: tuple[AttackSpec, ...]
    num_samples: _Whole | None = None
    """The customary sample count; None: all."""

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ClatError(f"protocol '{self.name}' has no attacks")
        if self.num_samples is not None:
            at_least(f"num_samples of protocol '{self.name}'", self.num_samples, 1)
        if self.name in PROTOCOLS and _but_for_verdicts(self) != _but_for_verdicts(PROTOCOLS[self.name]):
            raise ClatError(f"'{self.name}' is the name of a built-in protocol: call yours something else")
        if "autoattack" in re.sub("[^a-z]", "", self.name.lower()) and self.name != "autoattack":
            raise ClatError(f"protocol '{self.name}': only the full standard protocol is called AutoAttack")

    def data(self) -> dict[str, Any]:
        """Return the protocol as plain data.

        Returns:
            Its name, and the settings of each attack.
        """
        return {"name": self.name, "attacks": [attack.data() for attack in self.attacks]}

    @property
    def title(self) -> str:
        """Return the name as results show it, see `protocol_title`."""
        return protocol_title(self.data())

    @property
    def bounded_by_eps(self) -> bool:
        """Return whether any of its attacks heeds eps: stAdv is bounded by its flow, Pixle by its patches."""
        return not unbounded_attacks(self.data(), alone=True)

    def attack_sources(self) -> dict[str, str]:
        """Return what tells if the code of a user's own attacks has changed, which the hash does not.

        Returns:
            Attack -> digest of the module that defines it, for those whose module can be read.
        """
        own = [spec.attack for spec in self.attacks if spec.settings is not None]
        digests = {name: source_digest(name) for name in own}
        return {name: digest for name, digest in digests.items() if digest is not None}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Protocol:
        """Return a protocol as it was recorded.

        Args:
            data: `Protocol.data()`.

        Returns:
            The protocol.

        Raises:
            ClatError: the data is something else.
        """
        try:
            return TypeAdapter(Protocol).validate_python(dict(data))
        except (ValidationError, TypeError, ValueError):
            raise ClatError("the recorded protocol is none that this version knows") from None

    @property
    def hash(self) -> str:
        """Return twelve hex digits of the SHA-256 of the attacks."""
        return hashlib.sha256(json.dumps(self.data()["attacks"], sort_keys=True).encode()).hexdigest()[:12]


def _but_for_verdicts(protocol: Protocol) -> list[AttackSpec]:
    """Return its attacks with PGD as published, whose name it keeps: the hash tells the two apart."""
    return [replace(attack, verdict=None) for attack in protocol.attacks]


def protocol_title(data: Mapping[str, Any]) -> str:
    """Return a protocol's name as results show it, with what it must not be taken for.

    Args:
        data: `Protocol.data()`, or what a result's JSON has under "protocol".

    Returns:
        The name, with "(not AutoAttack)" behind it where cr is among the attacks.
    """
    attacks = data.get("attacks")
    listed = attacks if isinstance(attacks, list | tuple) else []
    relaxed = any(isinstance(attack, Mapping) and attack.get("attack") == "cr" for attack in listed)
    name = str(data.get("name"))
    if (new := FORMER.get(name)) and (data.get("hash") == PROTOCOLS[new].hash or _attacks_of(new) == listed):
        return new
    return f"{name} (not AutoAttack)" if relaxed else name


def _attacks_of(name: str) -> Any:
    """Return the attacks of a built-in protocol as plain data."""
    return PROTOCOLS[name].data()["attacks"]


def unbounded_attacks(data: Any, *, alone: bool = False) -> list[str]:
    """Return the attacks of a protocol that heed no eps: stAdv is bounded by its flow, Pixle by its patches.

    Args:
        data: `Protocol.data()`, or what a result's JSON has under "protocol"; anything else has none.
        alone: none, too, where other attacks stand beside them.

    Returns:
        Their names.
    """
    attacks = data.get("attacks") if isinstance(data, Mapping) else None
    names = [attack.get("attack") for attack in attacks or [] if isinstance(attack, Mapping)]
    found = [name for name in names if name in WITHOUT_EPS]
    return [] if alone and len(found) < len(names) else found


def ball_text(data: Any, norm: str | None, eps: str | None) -> str:
    """Return the ball of a protocol's attacks as every result shows it.

    Args:
        data: `Protocol.data()`, or what a result's JSON has under "protocol".
        norm: its norm, if it is known.
        eps: its radius as exact text, if it is known.

    Returns:
        Such as "linf eps 8/255"; nothing where no attack heeds eps.
    """
    return f"{norm or ''} eps {eps}".strip() if eps and not unbounded_attacks(data, alone=True) else ""


def setting_text(data: Mapping[str, Any], norm: str | None, eps: str | None) -> str:
    """Return a protocol with its ball. Arguments as for `ball_text`.

    Args:
        data: the protocol.
        norm: its norm.
        eps: its radius.

    Returns:
        Such as "pgd-20, linf eps 8/255", or "stadv" alone.
    """
    return ", ".join(filter(None, (protocol_title(data), ball_text(data, norm, eps))))


_APGD_CE = AttackSpec(attack="apgd", loss="ce", steps=100)
_APGD_T = AttackSpec(attack="apgd", loss="dlr-targeted", steps=100, targets=9)
_SQUARE = AttackSpec(attack="square", steps=5000)
ONE_STEP = {
    "fgsm": AttackSpec(attack="pgd", steps=1, alpha_ratio="1", start="image"),
    "fgsm-rs": AttackSpec(attack="pgd", steps=1, alpha_ratio="5/4"),
}
"""FGSM as published (Goodfellow et al. 2015), and that of Fast-AT, from a random start (Wong et al. 2020)."""

PROTOCOLS: dict[str, Protocol] = {}
FORMER = {"standard": "apgd"}
"""Names that protocols had before, and have now."""
OWN_PROTOCOLS = PluginKind("protocol", "clat.protocols")

PLANS = ("autoattack-sampled", "fast")
"""What `clat evaluate` takes for a protocol, though it is more: see `clat.evaluation.sampled` and `.fast`."""


def _built_in(name: str, *attacks: AttackSpec, num_samples: int | None = None) -> None:
    PROTOCOLS[name] = Protocol(name=name, attacks=attacks, num_samples=num_samples)


def _pgd(steps: int) -> AttackSpec:
    """Return PGD as published: 2/255 a step at 8/255."""
    return AttackSpec(attack="pgd", steps=steps, alpha_ratio="1/4", verdict="any")


_built_in("cr", AttackSpec(attack="cr"))
_built_in("screen", _pgd(20), num_samples=1000)
_built_in("apgd", _APGD_CE, _APGD_T)
_built_in("autoattack", _APGD_CE, _APGD_T, AttackSpec(attack="fab", steps=100, targets=9), _SQUARE)
_built_in("clat-v1", _APGD_CE)
_built_in("clat-v2", _APGD_CE, _APGD_T, AttackSpec(attack="fab", steps=100, targets=3), _SQUARE)
for _steps in (10, 20, 50, 100):
    _built_in(f"pgd-{_steps}", _pgd(_steps))
for _steps in (10, 50, 100):  # CLAT's own: 0.007 a step at 0.03, the last iterate decides
    _built_in(f"clat-pgd-{_steps}", AttackSpec(attack="pgd", steps=_steps, alpha_ratio="7/30"))
_built_in("cw-pgd-20", replace(_pgd(20), loss="cw"))  # the "C&W" of CURE's tables
for _name, _spec in ONE_STEP.items():
    _built_in(_name, _spec)
_built_in("apgd-ce", _APGD_CE)
_built_in("apgd-t", _APGD_T)
_built_in("apgd-l1", replace(_APGD_CE, restarts=5), replace(_APGD_T, targets=5))  # of AutoAttack in l1
_built_in("fab-t", AttackSpec(attack="fab", steps=100, targets=9))
_built_in("fab", AttackSpec(attack="fab", steps=10))
_built_in("square", _SQUARE)
_built_in("stadv", AttackSpec(attack="stadv", steps=100, bound=0.05))
_built_in("pixle", AttackSpec(attack="pixle"))


def find_protocol(name: str | Path | Protocol, *, also: Iterable[str] = ()) -> Protocol:
    """Return a built-in protocol by name, or one of your own by its path, its entry point or from a TOML file.

    Such a file holds a name and a list of attacks, whose settings are those of AttackSpec:

        name = "mine"
        attacks = [{ attack = "apgd", loss = "ce", steps = 50 }, { attack = "square", steps = 1000 }]

    Args:
        name: a key of PROTOCOLS, the path of a .toml file, or of a function, which is an attack of your own and
            alone in the protocol; or a Protocol, which is returned as it is.
        also: names that the caller takes beside these, for the message.

    Returns:
        The protocol, checked.

    Raises:
        ClatError: there is none of that name, with the nearest that there is, or the file is wrong, with what is.
    """
    if isinstance(name, Protocol):
        return name
    if str(name) in PROTOCOLS:
        return PROTOCOLS[str(name)]
    if str(name) in FORMER:
        new = FORMER[str(name)]
        notice(f"protocol '{name}' is called '{new}' now; AutoAttack's own standard version is 'autoattack'")
        return PROTOCOLS[new]
    if str(name) in PLANS:
        raise ClatError(f"'{name}' is more than a protocol: it goes with `clat evaluate --protocol {name}` alone")
    path = Path(name)
    if path.suffix != ".toml":
        found = OWN_PROTOCOLS.find(str(name))
        if isinstance(found, Protocol):
            return found
        if isinstance(found, FunctionType):
            return Protocol(name=found.__name__, attacks=(AttackSpec(attack=str(name)),))
        if found is not None:
            kind = "class" if isinstance(found, type) else type(found).__name__
            raise ClatError(
                f"protocol '{name}' is a {kind}, expected a clat.evaluation.Protocol or an attack's function"
            )
        raise ClatError(
            f"{unknown('protocol', name, [*PROTOCOLS, *also])}; or a TOML file, or package.module:NAME of your own"
        )
    try:
        return TypeAdapter(Protocol).validate_python(parse_toml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ClatError(f"cannot read protocol {path}: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        detail = problem["ctx"]["error"] if problem["type"] == "value_error" else problem["msg"].lower()
        raise ClatError(f"{path}: {where + ': ' if where else ''}{detail}") from None
    except ValueError as error:
        raise ClatError(f"{path} is not valid TOML: {error}") from None
