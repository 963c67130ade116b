"""Treatments: what a stage does to the weights rather than to a batch, one file each. To add one: a dataclass with
a `name` and a `join`, and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clat.weights.awp import AWP
from clat.weights.base import Treatment
from clat.weights.ema import EMA
from clat.weights.interpolation import Interpolation
from clat.weights.lora import LoRA
from clat.weights.reinitialise import Reinitialise
from clat.weights.swa import SWA

AnyTreatment = Annotated[AWP | EMA | Interpolation | LoRA | Reinitialise | SWA, Field(discriminator="name")]
"""What a stage's `treatments` may hold, told apart by their `name`."""

__all__ = ["AWP", "EMA", "SWA", "AnyTreatment", "Interpolation", "LoRA", "Reinitialise", "Treatment"]
