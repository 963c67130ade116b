"""Treatments: what a stage does to the weights rather than to a batch, one file each.

To add one: a dataclass with a `name` and an `on_stage_start`, and a line here.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field, WrapSerializer, WrapValidator

from clat.core.plugins import PluginKind
from clat.treatments.awp import AWP
from clat.treatments.base import Treatment
from clat.treatments.ema import EMA
from clat.treatments.interpolation import Interpolation
from clat.treatments.lora import LoRA
from clat.treatments.reinitialise import Reinitialise
from clat.treatments.swa import SWA

BuiltInTreatment = AWP | EMA | Interpolation | LoRA | Reinitialise | SWA

TREATMENTS = PluginKind("treatment", "clat.treatments", Treatment, get_args(BuiltInTreatment))

AnyTreatment = Annotated[
    BuiltInTreatment,
    Field(discriminator="name"),
    WrapValidator(TREATMENTS.read),
    WrapSerializer(TREATMENTS.write),
]
"""What a stage's `treatments` may hold, told apart by their `name`; a `Treatment` of the user's own is named by its
path or entry point."""

__all__ = ["AWP", "EMA", "SWA", "AnyTreatment", "Interpolation", "LoRA", "Reinitialise", "Treatment"]
