"""Selections that may leave nothing to move are told from those that cannot."""

from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.objectives import Cure, PgdAT
from clat.training.picks import check_picks
from clat.treatments import LoRA
from helpers import runs as kit

CURE, LORA = {"objective": Cure()}, {"objective": PgdAT(), "treatments": (LoRA(),)}
WHOLE = {"rule": "random", "classifier": True}


def check(settings, **selection):
    rule, x = Selection(**selection), torch.zeros(1, 3, 8, 8)
    model = kit.tiny()
    check_picks(kit.pgd_at(selection=rule, **settings), model, x, rule.candidates(model, x))


@pytest.mark.parametrize(
    ("settings", "selection", "layers"),
    [
        (CURE, WHOLE, "head"),
        (CURE, {"classifier": True}, "head"),
        (CURE, {"rule": "named", "layers": ("head",), "classifier": True}, "head"),
        (CURE, {"rule": "all", "include": ("head",), "classifier": True}, "head"),
        (LORA, {"rule": "random"}, "conv1"),
        (LORA, {"ranking": "activation"}, "conv1"),
        (LORA, {"rule": "random", "classifier": True, "k": 2}, "conv1, head"),
    ],
)
def test_a_selection_that_may_choose_only_what_stands_still_is_refused(settings, selection, layers):
    name = "cure" if settings is CURE else "lora"
    with pytest.raises(
        ClatError, match=f"^stage 'pgd-at': '{name}' finds nothing to move in {layers}, and the selection may"
    ):
        check(settings, **selection)


@pytest.mark.parametrize(
    ("settings", "selection"),
    [
        (CURE, {}),
        (CURE, WHOLE | {"k": 2}),
        (CURE, {"rule": "all", "classifier": True}),
        (CURE, {"rule": "named", "layers": ("conv2", "head"), "classifier": True}),
        ({"objective": Cure(percent=0)}, WHOLE),
        ({"objective": Cure(masked="all")}, WHOLE),
        ({"objective": PgdAT()}, WHOLE),
        (LORA, {}),  # layer 1, whose C is no ratio, is chosen last
        (LORA, {"rule": "least-critical", "k": 2}),
        (LORA, {"rule": "random", "k": 2}),
        (LORA, {"rule": "random", "exclude": ("conv1",)}),
        ({"objective": PgdAT(), "treatments": (LoRA(classifier="full", stem=True),)}, WHOLE),
    ],
)
def test_one_that_always_leaves_something_is_not(settings, selection):
    check(settings, **selection)
