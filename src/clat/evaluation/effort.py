"""The expected cost of an evaluation: passes of an image that withstands everything, and of one that falls."""

from __future__ import annotations

from clat.evaluation.protocols import AttackSpec, Protocol

FOOLED = 60
"""Passes that an image which falls costs under any protocol, about: most fall to the first attack."""


def survivor_passes(protocol: Protocol, classes: int) -> int:
    """Return about how many passes an image costs which withstands all of a protocol.

    Args:
        protocol: its attacks with their steps, targets and restarts.
        classes: outputs of the network, at least 2.

    Returns:
        Forward and backward passes, each counted as one.
    """
    return sum(spec.restarts * _attack_passes(spec, classes) for spec in protocol.attacks)


def mean_passes(protocol: Protocol, clean: float, robust: float, classes: int, *, fooled: int = FOOLED) -> float:
    """Return about how many passes an image costs on average.

    Args:
        protocol: its attacks with their steps, targets and restarts.
        clean: the share of images that are right, in [0, 1].
        robust: the share that withstands all attacks, at most `clean`.
        classes: outputs of the network, at least 2.
        fooled: passes of an image that falls to the first gradient attack, at most.

    Returns:
        Forward and backward passes, each counted as one.
    """
    full, first = survivor_passes(protocol, classes), protocol.attacks[0]
    alone = first.restarts * _attack_passes(first, classes)
    if first.attack == "pgd" and first.verdict is None:
        fall = alone  # its last iterate decides
    elif first.attack in ("apgd", "cr", "fab", "pgd"):
        fall = min(fooled, full)
    else:
        fall = alone // 4  # queries are many: Square and Pixle took a quarter, stAdv a sixth
    return 1 + robust * full + (clean - robust) * fall


def _attack_passes(spec: AttackSpec, classes: int) -> int:
    told = (spec.settings or {}).get("steps")
    steps = spec.steps or (told if isinstance(told, int) else 0)
    targets = min(spec.targets or 1, classes - 1)
    if spec.attack == "apgd":
        return targets * 2 * (steps + 2)
    if spec.attack == "fab":
        backwards = 1 if spec.targets else classes - 1
        return targets * ((2 + backwards) * steps + 2)
    if spec.attack == "cr":
        return 2 * (targets * steps // 4 + 10)  # most images are given up early: benchmarks/cr.json
    if spec.attack == "square":
        return steps * 8 // 7  # a seventh is tried in vain
    if spec.attack == "pixle":
        return 202  # 20 rounds of 10 queries
    return 2 * steps + 1 if steps else 100
