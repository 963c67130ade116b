"""Training objectives, one file each. To add one: a dataclass with a `name`, a `cost`, and a line here; or outside
of the package, see docs/extending.md."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field, WrapSerializer, WrapValidator

from clat.core.plugins import PluginKind
from clat.objectives.autolora.objective import AutoLoRa
from clat.objectives.base import Examples, Loss, Objective, Step
from clat.objectives.clat import Clat
from clat.objectives.clat_variants import ClatFast, ClatPlus
from clat.objectives.cure.objective import Cure
from clat.objectives.fast_at import FastAT
from clat.objectives.fat import FAT
from clat.objectives.free_at import FreeAT
from clat.objectives.gat import GAT
from clat.objectives.grad_align import GradAlign
from clat.objectives.mart import Mart
from clat.objectives.mixing import Mixing
from clat.objectives.n_fgsm import NFGSM
from clat.objectives.pgd_at import PgdAT
from clat.objectives.score import ScoreAT, ScoreTrades
from clat.objectives.standard import Standard
from clat.objectives.trades import Trades
from clat.objectives.twins import Twins

BuiltInObjective = (
    Standard
    | PgdAT
    | FastAT
    | FreeAT
    | NFGSM
    | GAT
    | GradAlign
    | FAT
    | Trades
    | Mart
    | ScoreAT
    | ScoreTrades
    | Cure
    | AutoLoRa
    | Twins
    | Clat
    | ClatFast
    | ClatPlus
    | Mixing
)

OBJECTIVES = PluginKind("objective", "clat.objectives", Objective, get_args(BuiltInObjective))

AnyObjective = Annotated[
    BuiltInObjective,
    Field(discriminator="name"),
    WrapValidator(OBJECTIVES.read),
    WrapSerializer(OBJECTIVES.write),
]
"""What a recipe's `objective` may be, told apart by its `name`; an `Objective` of the user's own is named by its
path or entry point."""

__all__ = [
    "FAT",
    "GAT",
    "NFGSM",
    "AnyObjective",
    "AutoLoRa",
    "Clat",
    "ClatFast",
    "ClatPlus",
    "Cure",
    "Examples",
    "FastAT",
    "FreeAT",
    "GradAlign",
    "Loss",
    "Mart",
    "Mixing",
    "Objective",
    "PgdAT",
    "ScoreAT",
    "ScoreTrades",
    "Standard",
    "Step",
    "Trades",
    "Twins",
]
