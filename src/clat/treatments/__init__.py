"""Treatments: what a stage does to the weights rather than to a batch, one file each.

To add one: a dataclass with a `name` and an `on_stage_start`, and a line here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clat.treatments.awp import AWP
from clat.treatments.base import Treatment
from clat.treatments.ema import EMA
from clat.treatments.interpolation import Interpolation
from clat.treatments.lora import LoRA
from clat.treatments.reinitialise import Reinitialise
from clat.treatments.swa import SWA

AnyTreatment = Annotated[AWP | EMA | Interpolation | LoRA | Reinitialise | SWA, Field(discriminator="name")]
"""What a stage's `treatments` may hold, told apart by their `name`."""

__all__ = ["AWP", "EMA", "SWA", "AnyTreatment", "Interpolation", "LoRA", "Reinitialise", "Treatment"]
