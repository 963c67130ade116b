"""Attacks: pure functions `(model, x, ...) -> x_adv`, one file each. Those that look at logits alone take any
function from images to logits for a model."""

from clat.attacks.activation import activation_attack
from clat.attacks.apgd import apgd
from clat.attacks.constraint_relaxation import constraint_relaxation
from clat.attacks.fab import fab
from clat.attacks.feature import feature_attack
from clat.attacks.fgsm import fgsm
from clat.attacks.pgd import pgd
from clat.attacks.pixle import pixle
from clat.attacks.square import square
from clat.attacks.stadv import stadv

__all__ = [
    "activation_attack",
    "apgd",
    "constraint_relaxation",
    "fab",
    "feature_attack",
    "fgsm",
    "pgd",
    "pixle",
    "square",
    "stadv",
]
