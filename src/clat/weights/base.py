"""What every treatment of the weights shares."""

from __future__ import annotations

from dataclasses import dataclass

from clat.companion import Companion, Surroundings


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Base of the treatments, which are plain settings plus the companion that does the work."""

    def check(self, epochs: int) -> None:
        """Raise ClatError if the settings make no sense for a stage of `epochs`."""

    def check_steps(self, steps: int) -> None:
        """The same, once the data is read, for a stage of so many optimizer steps."""

    def join(self, surroundings: Surroundings) -> Companion:
        """Enter a stage. May change the network's structure, always in the same way: a resumed run joins the
        plain network anew and then puts the saved tensors back."""
        raise NotImplementedError
