from __future__ import annotations

from fractions import Fraction

import pytest

from clat.attacks.fgsm import one_step_alpha
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.units import size_text


def test_sizes_are_kept_exactly() -> None:
    attack = Attack.parse(eps=8 / 255, alpha=2 / 255)
    assert (attack.threat.text, size_text(attack.alpha)) == ("8/255", "2/255")
    assert (attack.threat.radius, attack.step_size) == (8 / 255, 2 / 255)
    assert Attack.parse(eps=Fraction(1, 7), norm="l2").threat.text == "1/7"
    assert Attack.parse(eps="8/255") == Attack.parse(eps=8 / 255)


@pytest.mark.parametrize(("eps", "steps", "alpha"), [("8/255", 10, 2 / 255), (0.03, 10, 0.0075), (0.03, 1, 0.075)])
def test_default_step(eps: str | float, steps: int, alpha: float) -> None:
    assert Attack.parse(eps=eps, steps=steps).step_size == pytest.approx(alpha, rel=1e-12)


def test_one_step_alpha() -> None:
    assert size_text(one_step_alpha(Attack.parse(steps=1, eps="8/255"), given=False).alpha) == "10/255"
    assert (
        size_text(one_step_alpha(Attack.parse(steps=1, eps="8/255", random_start=False), given=False).alpha)
        == "8/255"
    )
    assert size_text(one_step_alpha(Attack.parse(steps=1, eps="8/255", alpha=0.01), given=True).alpha) == "0.01"
    assert size_text(one_step_alpha(Attack.parse(steps=1, eps=0.9), given=False).alpha) == "1"
    assert size_text(one_step_alpha(Attack.parse(steps=1, eps=2, norm="l2"), given=False).alpha) == "2.5"
    assert one_step_alpha(Attack.parse(steps=1, eps=0), given=False).step_size == 0
    with pytest.raises(ClatError, match="steps is 10: expected 1"):
        one_step_alpha(Attack.parse(eps="8/255"), given=False)
