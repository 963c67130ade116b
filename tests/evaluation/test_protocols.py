from __future__ import annotations

from dataclasses import replace

import pytest

from clat.errors import ClatError
from clat.evaluation import PROTOCOLS, Protocol, find_protocol
from clat.evaluation.protocols import PgdSpec


def test_the_hash_is_stable() -> None:
    """Golden: a change here means that results called by the same name are no longer the same measurement."""
    assert {name: PROTOCOLS[name].hash for name in ("fgsm", "pgd-10", "pgd-20")} == {
        "fgsm": "d70c985cf194", "pgd-10": "8383fcce9dcf", "pgd-20": "e7a3936e2198",
    }  # fmt: skip


def test_every_change_of_content_changes_the_hash() -> None:
    base = PROTOCOLS["pgd-20"]
    (spec,) = base.attacks
    others = [
        replace(base, name="pgd-twenty"),
        replace(base, precision="float64"),
        replace(base, attacks=(spec, spec)),
        *(
            replace(base, attacks=(replace(spec, **{field: value}),))
            for field, value in (("steps", 21), ("alpha_ratio", "1/8"), ("random_start", False))
        ),
        *(protocol for name, protocol in PROTOCOLS.items() if name != "pgd-20"),
    ]
    hashes = {protocol.hash for protocol in others}
    assert len(hashes) == len(others)
    assert base.hash not in hashes
    assert base.hash == Protocol("pgd-20", (PgdSpec(steps=20),)).hash
    assert len(base.hash) == 12


def test_the_attack_at_an_eps() -> None:
    attack = PROTOCOLS["pgd-20"].attacks[0].settings("8/255", "linf")
    assert (attack.eps, attack.alpha, attack.steps, attack.random_start) == ("8/255", "2/255", 20, True)
    fgsm = PROTOCOLS["fgsm"].attacks[0].settings("8/255", "linf")
    assert (fgsm.alpha, fgsm.steps) == ("10/255", 1)
    assert PROTOCOLS["fgsm"].attacks[0].settings(1, "linf").alpha == "1"
    assert PROTOCOLS["pgd-10"].attacks[0].settings(2, "l2").alpha == "0.5"
    assert not PgdSpec(steps=3, random_start=False).settings("8/255", "linf").random_start


def test_an_unknown_protocol_gives_the_nearest() -> None:
    with pytest.raises(ClatError, match="unknown protocol 'pgd20'; did you mean 'pgd-20'"):
        find_protocol("pgd20")
    assert find_protocol("pgd-20") is PROTOCOLS["pgd-20"]
    own = Protocol("own", (PgdSpec(steps=2),))
    assert find_protocol(own) is own


def test_nothing_short_is_called_autoattack() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        if "autoattack" in name.lower().replace("-", ""):
            assert len(protocol.attacks) == 4


def test_protocols_that_would_not_be_what_they_say() -> None:
    with pytest.raises(ClatError, match="no attack"):
        Protocol("empty", ())
    with pytest.raises(ClatError, match="apgd"):
        PgdSpec(steps=1, attack="apgd")
    with pytest.raises(ClatError, match="dlr"):
        PgdSpec(steps=1, loss="dlr")
