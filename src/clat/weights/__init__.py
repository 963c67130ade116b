"""Treatments: what a stage does to the weights rather than to a batch, one file each. To add one: a dataclass with
a `name` and a `join`, and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clat.weights.base import Treatment
from clat.weights.lora import LoRA
from clat.weights.reinitialise import Reinitialise

AnyTreatment = Annotated[LoRA | Reinitialise, Field(discriminator="name")]
"""What a stage's `treatments` may hold, told apart by their `name`."""

__all__ = ["AnyTreatment", "LoRA", "Reinitialise", "Treatment"]
