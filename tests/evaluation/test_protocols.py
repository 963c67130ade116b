"""Protocols as data: hashes, names that say what they are, TOML files, and the passes they come to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from torch import nn

from clat.attacks.apgd import ApgdSearch
from clat.attacks.fab import FabSearch
from clat.attacks.losses import carlini_wagner, cross_entropy
from clat.attacks.pgd_search import PgdSearch
from clat.attacks.square import SquareSearch
from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.core.units import parse_size
from clat.evaluation import PROTOCOLS, AttackSpec, Protocol, find_protocol
from clat.evaluation.planned_search import plan_searches
from clat.evaluation.protocols import ball_text, protocol_title, setting_text

PGD_2 = AttackSpec(attack="pgd", steps=2)


def test_the_hash_is_stable() -> None:
    """Golden: a change here means that results called by the same name are no longer the same measurement."""
    assert {name: protocol.hash for name, protocol in PROTOCOLS.items()} == {
        "screen": "1debc5b0ef9e", "apgd": "ce44f2ece0a5", "autoattack": "79501f02fe0f",
        "clat-v1": "58d62172f4b2", "clat-v2": "be8c2d7148ac", "pgd-10": "e67a3bc0954a",
        "pgd-20": "1debc5b0ef9e", "pgd-50": "46b744c3eb2f", "pgd-100": "156fa0822e2b",
        "fgsm": "8ce6bd83adc5", "fgsm-rs": "ef37e5a0c8d4", "apgd-ce": "58d62172f4b2", "apgd-t": "d73d1b379445",
        "fab-t": "cbdd8c6b5dab", "fab": "95d61c8ed2a3", "square": "8575be3541e4",
        "cr": "481d4bd45cea", "cw-pgd-20": "427b5552c4b3", "stadv": "47a5af81f7d7", "pixle": "ac23891899d2",
        "clat-pgd-10": "660a4b391bd5", "clat-pgd-50": "2cd08e1014be", "clat-pgd-100": "3fff981f4a17",
        "apgd-l1": "f525dbb94690",
    }  # fmt: skip


def test_pgd_as_published_keeps_its_name_and_hash() -> None:
    """What counts there is the last iterate. Results of this kind were made under these names."""
    for name, digest in (
        ("pgd-10", "3e459947efe8"), ("pgd-20", "0662eaf224ae"), ("pgd-50", "fcb7148bec08"),
        ("pgd-100", "a9dfe43ff860"), ("cw-pgd-20", "34540b0a52ca"),
    ):  # fmt: skip
        published = tuple(replace(attack, verdict=None) for attack in PROTOCOLS[name].attacks)
        protocol = Protocol(name=name, attacks=published)
        assert protocol.hash == digest != PROTOCOLS[name].hash
        assert "verdict" not in protocol.data()["attacks"][0]
        (search,) = (search for _, _, search in built(protocol))
        (shorter,) = (search for _, _, search in built(name))
        assert (search.verdict, shorter.verdict) == ("last", "any")
        assert search.seed == shorter.seed


def test_the_former_name_of_apgd_is_taken_and_told_apart_from_autoattack_s_standard() -> None:
    with pytest.warns(Notice, match="'standard' is called 'apgd' now; AutoAttack's own standard version is"):
        found = find_protocol("standard")
    assert found is PROTOCOLS["apgd"]
    recorded = {"name": "standard", "hash": found.hash}
    assert protocol_title(recorded) == protocol_title({**found.data(), "name": "standard"}) == "apgd"
    assert protocol_title({**PROTOCOLS["pgd-20"].data(), "name": "standard"}) == "standard"


def test_what_the_names_stand_for() -> None:
    def attacks(name: str) -> list[tuple[object, ...]]:
        return [(spec.label, spec.steps, spec.targets) for spec in PROTOCOLS[name].attacks]

    ce, targeted, fab = ("apgd-ce", 100, None), ("apgd-t", 100, 9), ("fab-t", 100, 9)
    square = ("square", 5000, None)
    assert attacks("autoattack") == [ce, targeted, fab, square]
    assert attacks("apgd") == [ce, targeted]
    assert attacks("clat-v1") == [ce]
    assert attacks("clat-v2") == [ce, targeted, ("fab-t", 100, 3), square]
    assert attacks("screen") == attacks("pgd-20") == [("pgd-20", 20, None)]
    assert PROTOCOLS["screen"].num_samples == 1000
    for steps in (10, 20, 50, 100):
        assert attacks(f"pgd-{steps}") == [(f"pgd-{steps}", steps, None)]
    assert attacks("cw-pgd-20") == [("cw-pgd-20", 20, None)]
    assert PROTOCOLS["cw-pgd-20"].attacks[0].loss == "cw"
    assert {"fab", "stadv", "pixle", "square"} <= set(PROTOCOLS)
    assert attacks("fab")[0][2] is None
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert all(
        spec.restarts == 1 for name, protocol in PROTOCOLS.items() if name != "apgd-l1" for spec in protocol.attacks
    )


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ClatError, match=r"unknown start 'zero'.*image"):
        AttackSpec(attack="pgd", start="zero")
    with pytest.raises(ClatError, match="attack 'apgd' has no setting 'start'"):
        AttackSpec(attack="apgd", start="image")


def test_every_change_of_content_changes_the_hash() -> None:
    base = PROTOCOLS["clat-v2"]
    ce, targeted, fab, square = base.attacks
    others = [
        base.attacks[:3],
        (targeted, ce, fab, square),
        (*base.attacks, PGD_2),
        (replace(ce, steps=99), targeted, fab, square),
        (replace(ce, loss="dlr"), targeted, fab, square),
        (ce, replace(targeted, targets=8), fab, square),
        (ce, targeted, replace(fab, targets=9), square),
        (ce, targeted, fab, replace(square, restarts=2)),
        (ce, targeted, fab, replace(square, steps=5001)),
        (AttackSpec(attack="pgd", steps=2, alpha_ratio="1/8"),),
        (PGD_2,),
        (replace(PGD_2, loss="cw"),),
        (AttackSpec(attack="stadv"),),
        (AttackSpec(attack="stadv", bound=0.1),),
    ]
    hashes = {Protocol(name="mine", attacks=attacks).hash for attacks in others} | {base.hash}
    assert len(hashes) == len(others) + 1
    assert all(len(digest) == 12 for digest in hashes)


def test_neither_the_name_nor_what_is_left_out_changes_the_hash() -> None:
    """The hash says what was measured, however it was written down."""
    (full,) = PROTOCOLS["apgd-ce"].attacks
    assert AttackSpec(attack="apgd") == full
    assert Protocol(name="mine", attacks=(full,), num_samples=7).hash == PROTOCOLS["clat-v1"].hash
    assert AttackSpec(attack="pgd", verdict="any") == PROTOCOLS["pgd-20"].attacks[0]
    assert AttackSpec(attack="square") == PROTOCOLS["square"].attacks[0]
    assert AttackSpec(attack="stadv") == PROTOCOLS["stadv"].attacks[0]


def test_an_unknown_protocol_gives_the_nearest() -> None:
    with pytest.raises(ClatError, match="unknown protocol 'pgd20'; did you mean 'pgd-20'"):
        find_protocol("pgd20")
    assert find_protocol("pgd-20") is PROTOCOLS["pgd-20"]
    own = Protocol(name="own", attacks=(PGD_2,))
    assert find_protocol(own) is own


@pytest.mark.parametrize(
    "name", ["autoattack", "AutoAttack", "autoattack-fast", "Auto-Attack", "auto_attack", "my auto attack"]
)
def test_nothing_short_is_called_autoattack(name: str) -> None:
    with pytest.raises(ClatError, match=r"only the full standard protocol is called AutoAttack|name of a built-in"):
        Protocol(name=name, attacks=(PGD_2,))
    assert [protocol.name for protocol in PROTOCOLS.values() if "autoattack" in protocol.name] == ["autoattack"]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "pixle"])
def test_a_built_in_name_stays_what_it_is(name: str) -> None:
    with pytest.raises(ClatError, match=f"'{name}' is the name of a built-in protocol"):
        Protocol(name=name, attacks=(AttackSpec(attack="pixle"),))
    assert Protocol(name=name, attacks=PROTOCOLS[name].attacks, num_samples=10).hash == PROTOCOLS[name].hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": "apgdd"}, "unknown attack 'apgdd'; did you mean 'apgd'"),
        ({"attack": "pgd", "steps": 0}, "steps of attack 'pgd' is 0"),
        ({"attack": "pgd", "steps": True}, "steps of attack 'pgd' is True"),
        ({"attack": "fab", "targets": 0}, "targets of attack 'fab' is 0"),
        ({"attack": "pgd", "restarts": 0}, "restarts of attack 'pgd' is 0"),
        ({"attack": "square", "targets": 3}, "attack 'square' has no setting 'targets': it has steps"),
        ({"attack": "pixle", "steps": 3}, "attack 'pixle' has no setting 'steps': it has none"),
        ({"attack": "pgd", "bound": 0.1}, "attack 'pgd' has no setting 'bound'"),
        ({"attack": "apgd", "loss": "cee"}, "unknown loss 'cee'; did you mean 'ce'"),
        ({"attack": "pgd", "loss": "dlr"}, "unknown loss 'dlr'; Valid: cw"),
        ({"attack": "pgd", "verdict": "last"}, "unknown verdict 'last'; Valid: any"),
        ({"attack": "apgd", "verdict": "any"}, "attack 'apgd' has no setting 'verdict'"),
        ({"attack": "apgd", "loss": "dlr-targeted"}, "give targets with loss 'dlr-targeted'"),
        ({"attack": "apgd", "targets": 9}, "give targets with loss 'dlr-targeted', and only with it"),
        ({"attack": "pgd", "alpha_ratio": "a quarter"}, "alpha_ratio is 'a quarter'"),
        ({"attack": "pgd", "alpha_ratio": "0"}, "alpha_ratio is 0"),
        ({"attack": "stadv", "bound": -1.0}, "bound of attack 'stadv' is -1.0"),
    ],
)
def test_attacks_that_would_not_be_what_they_say(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ClatError, match=message):
        AttackSpec(**settings)  # type: ignore[arg-type]


def test_a_protocol_without_attacks() -> None:
    with pytest.raises(ClatError, match="protocol 'empty' has no attacks"):
        Protocol(name="empty", attacks=())


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_protocol_of_ones_own(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        name = "mine"
        num_samples = 500
        [[attacks]]
        attack = "apgd"
        loss = "dlr-targeted"
        targets = 3
        steps = 50
        [[attacks]]
        attack = "pgd"
        alpha_ratio = "1/10"
        restarts = 2
        """,
    )
    expected = Protocol(
        name="mine",
        attacks=(
            AttackSpec(attack="apgd", loss="dlr-targeted", targets=3, steps=50),
            AttackSpec(attack="pgd", alpha_ratio="1/10", restarts=2),
        ),
        num_samples=500,
    )
    assert find_protocol(path) == find_protocol(str(path)) == expected
    assert find_protocol(path).hash == expected.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "m"\nattacks = [{ attack = "pgd", step = 5 }]', r"attacks\.0\.step: unexpected keyword"),
        ('name = "m"\nattack = []', "attacks: field required"),
        ('name = "m"', "attacks: field required"),
        ('attacks = [{ attack = "pgd" }]', "name: field required"),
        ('name = "m"\nattacks = [{ attack = "pgd", steps = "many" }]', r"attacks\.0\.steps: .*valid integer"),
        (
            'name = "m"\nattacks = [{ attack = "sqare" }]',
            r"attacks\.0: unknown attack 'sqare'; did you mean 'square'",
        ),
        (
            'name = "autoattack-fast"\nattacks = [{ attack = "pgd" }]',
            "only the full standard protocol is called AutoAttack",
        ),
        ('name = "autoattack"\nattacks = [{ attack = "pgd" }]', "'autoattack' is the name of a built-in protocol"),
        ('name = "m"\nattacks = []', "protocol 'm' has no attacks"),
        ("name = m", "not valid TOML"),
        ('name = "m"\nattacks = [{ attack = "pgd", steps = true }]', r"attacks\.0\.steps: is true: expected a num"),
        ('name = "m"\nattacks = [{ attack = "stadv", bound = true }]', r"attacks\.0\.bound: is true"),
        ('name = "m"\nnum_samples = true\nattacks = [{ attack = "pgd" }]', "num_samples: is true"),
        ('name = "m"\nnum_samples = -5\nattacks = [{ attack = "pgd" }]', "num_samples of protocol 'm' is -5"),
    ],
)
def test_a_file_with_a_mistake(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ClatError, match=message) as raised:
        find_protocol(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClatError, match=r"cannot read protocol .*none\.toml: No such file"):
        find_protocol(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ClatError, match="cannot read protocol"):
        find_protocol(tmp_path / "folder.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClatError, match=r"bytes\.toml is not valid TOML"):
        find_protocol(tmp_path / "bytes.toml")


def built(
    protocol: str | Protocol, *, eps: float = 0.1, norm: str = "linf", classes: int = 10, seed: int = 0
) -> list:
    todo, _ = plan_searches(find_protocol(protocol), ThreatModel.parse(eps, norm), classes=classes, seed=seed)
    return [(one.attack, one.label, one.build(nn.Identity())) for one in todo]


@pytest.mark.parametrize(("classes", "targets"), [(10, 9), (100, 9), (5, 4), (4, 3), (3, 2), (2, 1)])
def test_the_passes_of_autoattack(classes: int, targets: int) -> None:
    found = built("autoattack", classes=classes)
    assert [attack for attack, _, _ in found] == [0] + [1] * targets + [2] * targets + [3]
    searches = [search for _, _, search in found]
    ce, targeted, fab, square = searches[0], searches[1 : 1 + targets], searches[1 + targets : -1], searches[-1]
    assert (type(ce), ce.loss, ce.steps, ce.rho) == (ApgdSearch, "ce", 100, 0.75)
    loss = "dlr-targeted" if classes >= 4 else "margin-targeted"
    assert all((type(one), one.loss, one.steps) == (ApgdSearch, loss, 100) for one in targeted)
    assert [one.target for one in targeted] == list(range(1, targets + 1))
    assert all((type(one), one.steps, one.restart) == (FabSearch, 100, 0) for one in fab)
    assert [one.target for one in fab] == list(range(1, targets + 1))
    assert (type(square), square.queries, square.p_init) == (SquareSearch, 5000, 0.8)
    assert all((one.eps, one.norm) == (0.1, "linf") for one in searches)
    assert len({one.seed for one in searches}) == len(searches), "no two passes share their random numbers"


def test_what_too_few_classes_force_is_said() -> None:
    def notes(classes: int) -> list[str]:
        return plan_searches(PROTOCOLS["apgd"], ThreatModel.parse(0.1), classes=classes, seed=0)[1]

    assert notes(10) == notes(11) == []
    assert notes(4) == ["apgd-t: 3 targets instead of 9, as there are 4 classes"]
    assert notes(3) == [
        "apgd-t: 2 targets instead of 9, as there are 3 classes",
        "apgd-t: the margin instead of the targeted DLR, which needs 4 classes",
    ]


def test_the_steps_of_pgd() -> None:
    """alpha = eps / 4: 2/255 at 8/255, as customary; FGSM: eps from the image; Fast-AT's: 10/255 from elsewhere."""
    ((_, _, search),) = built("pgd-20", eps=8 / 255)
    assert (type(search), search.steps, search.alpha, search.random_start) == (PgdSearch, 20, 2 / 255, True)
    ((_, _, search),) = built("fgsm", eps=8 / 255)
    assert (search.steps, search.alpha, search.random_start) == (1, 8 / 255, False)
    ((_, _, search),) = built("fgsm-rs", eps=8 / 255)
    assert (search.steps, search.alpha, search.random_start) == (1, pytest.approx(10 / 255), True)
    assert search.seed == derive_seed(0, "pgd-1", 0, None), "as ever, whatever it is shown as"
    assert search.loss is cross_entropy
    ((_, _, search),) = built("cw-pgd-20", eps=8 / 255)
    assert (search.steps, search.alpha, search.loss) == (20, 2 / 255, carlini_wagner)
    ((_, _, search),) = built("pgd-10", eps=2.0, norm="l2")
    assert (search.alpha, search.norm) == (0.5, "l2")


def test_restarts_are_passes_of_their_own() -> None:
    twice = Protocol(name="twice", attacks=(AttackSpec(attack="fab", targets=2, restarts=2), PGD_2))
    searches = [search for _, _, search in built(twice)]
    assert [(one.restart, one.target) for one in searches[:4]] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert len({one.seed for one in searches}) == 5


def test_an_attack_that_is_listed_again_draws_anew() -> None:
    square = AttackSpec(attack="square", steps=15)
    several = Protocol(name="several", attacks=(square, PGD_2, square, replace(square, steps=30), PGD_2))
    seeds = [search.seed for _, _, search in built(several)]
    assert len(set(seeds)) == len(seeds)
    alone = Protocol(name="alone", attacks=(square, PGD_2))
    assert seeds[:2] == [search.seed for _, _, search in built(alone)], "its first time is as it was"


def test_an_attack_draws_the_same_alone_and_in_company() -> None:
    (alone,), inside = built("apgd-ce", seed=3), built("autoattack", seed=3)
    assert alone[2].seed == inside[0][2].seed
    assert alone[2].seed != built("apgd-ce", seed=4)[0][2].seed


def test_the_papers_own_pgd_has_its_step_and_the_last_iterate_decides():
    """0.007 a step at 0.03."""
    for steps in (10, 50, 100):
        (attack,) = PROTOCOLS[f"clat-pgd-{steps}"].attacks
        assert attack.steps == steps
        assert attack.verdict is None
        assert parse_size(attack.alpha_ratio, norm="l2") * Fraction("0.03") == Fraction("0.007")


def test_attacks_that_know_no_eps_are_told_apart():
    assert not PROTOCOLS["stadv"].bounded_by_eps
    assert not PROTOCOLS["pixle"].bounded_by_eps
    assert PROTOCOLS["autoattack"].bounded_by_eps


def test_the_names_that_results_show() -> None:
    assert [spec.shown for spec in PROTOCOLS["fgsm"].attacks] == ["fgsm"]
    assert AttackSpec(attack="pgd", steps=1).shown == "pgd-1"
    assert [label for _, label, _ in built("fgsm")] == ["fgsm"]
    others = [spec for name, one in PROTOCOLS.items() if name[:4] != "fgsm" for spec in one.attacks]
    assert all(spec.shown == spec.label for spec in others)


def test_a_ball_is_shown_where_an_attack_heeds_it() -> None:
    pgd, stadv = PROTOCOLS["pgd-20"].data(), PROTOCOLS["stadv"].data()
    both = {"name": "both", "attacks": [*pgd["attacks"], *stadv["attacks"]]}
    assert setting_text(pgd, "l2", "0.5") == "pgd-20, l2 eps 0.5"
    assert setting_text(both, "linf", "8/255") == "both, linf eps 8/255"
    assert setting_text(stadv, "linf", "8/255") == "stadv"
    assert setting_text({"name": "stadv"}, "linf", None) == "stadv", "as a comparison's setting has it"
    assert ball_text({"name": "of an old file"}, None, "8/255") == "eps 8/255"
