"""Attacks: pure functions `(model, x, ...) -> x_adv`, one file each."""

from clat.attacks.activation import activation_attack
from clat.attacks.feature import feature_attack
from clat.attacks.fgsm import fgsm
from clat.attacks.pgd import pgd

__all__ = ["activation_attack", "feature_attack", "fgsm", "pgd"]
