"""What every treatment of the weights shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.runtime.callback import StageCallback, StageContext


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Base of the treatments, which are plain settings plus the callback that does the work."""

    name: str
    before: ClassVar[tuple[str, ...]] = ()
    """Names of the treatments that it has to be named before: after one of them, it would undo its work at the end
    of the stage, or miss what it put into the network."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Names of the treatments that it cannot share a stage with."""
    reparametrises: ClassVar[bool] = False
    """Whether weights of layers are computed from other parameters during the stage."""

    def check_beside(self, names: Sequence[str]) -> None:
        """Raise ClatError if it cannot be among the stage's treatments `names`, in this order."""
        if names.count(self.name) > 1:
            raise ClatError(f"has the treatment '{self.name}' twice")
        for other in names:
            if other in self.apart:
                raise ClatError(f"has the treatment '{self.name}' beside '{other}': a stage takes one of them")
        for earlier in names[: names.index(self.name)]:
            if earlier in self.before:
                raise ClatError(f"names the treatment '{self.name}' after '{earlier}': it has to stand before it")

    def requires(self, model: nn.Module, x: Tensor) -> None:
        """Raise ClatError if this is no network that it can treat. `x`: an image, (1, C, H, W). Called before
        training starts."""

    def check(self, epochs: int) -> None:
        """Raise ClatError if the settings make no sense for a stage of `epochs`."""

    def check_steps(self, steps: int) -> None:
        """The same, once the data is read, for a stage of so many optimizer steps."""

    def on_stage_start(self, context: StageContext) -> StageCallback:
        """Enter a stage. May change the network's structure, always in the same way: a resumed run joins the
        plain network anew and then puts the saved tensors back."""
        raise NotImplementedError
