"""Training objectives, one file each. To add one: a dataclass with a `name`, a `loss`, and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clat.objectives.autolora import AutoLoRa
from clat.objectives.base import Examples, Loss, Objective, Step
from clat.objectives.clat import Clat, ClatFast
from clat.objectives.fast_at import FastAT
from clat.objectives.pgd_at import PgdAT
from clat.objectives.standard import Standard
from clat.objectives.trades import Trades
from clat.objectives.twins import Twins

AnyObjective = Annotated[
    Standard | PgdAT | FastAT | Trades | Clat | ClatFast | AutoLoRa | Twins, Field(discriminator="name")
]
"""What a recipe's `objective` may be, told apart by its `name`."""

__all__ = [
    "AnyObjective",
    "AutoLoRa",
    "Clat",
    "ClatFast",
    "Examples",
    "FastAT",
    "Loss",
    "Objective",
    "PgdAT",
    "Standard",
    "Step",
    "Trades",
    "Twins",
]
