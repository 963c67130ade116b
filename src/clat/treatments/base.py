"""Base that all treatments of the weights share."""

from __future__ import annotations

from collections.abc import Sequence, Set
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
    shards: ClassVar[bool] = False
    """Whether it treats a network of which each process holds a part, see `clat.network.sharded`. Not inherited."""
    averages: ClassVar[bool] = False
    """Whether held-out checks are of an average of the weights, and not of those that train."""
    reparametrises: ClassVar[bool] = False
    """Whether weights of layers are computed from other parameters during the stage."""

    def check_beside(self, names: Sequence[str]) -> None:
        """Raise an error if it cannot be among the stage's treatments.

        Args:
            names: all treatments of the stage, this one among them, in their order.

        Raises:
            ClatError: for a treatment that is there twice, cannot share a stage with another, or has to stand
                before one.
        """
        if names.count(self.name) > 1:
            raise ClatError(f"has the treatment '{self.name}' twice")
        for other in names:
            if other in self.apart:
                raise ClatError(f"has the treatment '{self.name}' beside '{other}': a stage takes one of them")
        for earlier in names[: names.index(self.name)]:
            if earlier in self.before:
                raise ClatError(f"names the treatment '{self.name}' after '{earlier}': it has to stand before it")

    def requires(self, model: nn.Module, x: Tensor) -> None:
        """Raise an error, before training starts, if this is no network that it can treat.

        Args:
            model: the network as it enters the stage.
            x: an image, (1, C, H, W) in [0, 1].

        Raises:
            ClatError: with what the network lacks.
        """

    def movable(self, model: nn.Module, x: Tensor) -> Set[str] | None:
        """Return which parameters it lets move: where a selection chooses none of them, nothing is left to do.

        Args:
            model: the network as it enters the stage.
            x: an image, (1, C, H, W) in [0, 1].

        Returns:
            Names of parameters of the network; None: all.
        """
        return None

    def check(self, epochs: int) -> None:
        """Raise an error if the settings make no sense for a stage of this length.

        Args:
            epochs: epochs of the stage.

        Raises:
            ClatError: with the setting that does not fit.
        """

    def check_steps(self, steps: int) -> None:
        """Raise an error, once the data is read, if the settings make no sense for so many steps.

        Args:
            steps: optimizer steps of the stage.

        Raises:
            ClatError: with the setting that does not fit.
        """

    def on_stage_start(self, context: StageContext) -> StageCallback:
        """Enter a stage, and return the callback that does the work.

        May change the network's structure, always in the same way: a resumed run joins the plain network anew and
        then puts the saved tensors back.

        Args:
            context: the stage that begins.

        Returns:
            The callback, which leaves the network plain at the end of the stage.
        """
        raise NotImplementedError
