"""What a table or a figure of a paper is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clat.studies.paper.printed import printed_in

Kind = Literal["accuracy", "transfer", "layers", "parameters", "cost", "sweep", "strength", "curves"]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or a figure of a paper."""

    id: str
    """What `clat paper` calls it: "T7" of CLAT's second version, "v1-T10" of its first, "cure-T3"."""
    title: str
    shows: str
    """What it is meant to show, in our words."""
    kind: Kind
    """accuracy: networks are trained and attacked. transfer: their examples are shown to each other. layers,
    parameters, cost: passes or step times only. sweep, strength, curves: figures."""
    share: float = 0.5
    """X's part of the epochs."""
    controls: tuple[str, ...] = ()
    """Methods that are run beside the printed ones for every network and data set."""
    beside: tuple[tuple[str, str], ...] = ()
    """(method, network) of rows that the paper does not print, run on every data set."""
    control: str = ""
    """The method that others are compared with where their name says nothing of it (CURE's tables)."""
    networks: tuple[str, ...] = ()
    """Of a figure, which prints no numbers."""
    datasets: tuple[str, ...] = ()
    note: str = ""
    """How ours differs from the paper's in all its rows."""

    @property
    def claim(self) -> str:
        """Return what it is meant to show, as what it is: the paper's claim."""
        return f"The paper's claim: {self.shows}"

    @property
    def paper(self) -> str:
        """Return the paper as printed.csv calls it."""
        return {"v1": "clat-v1", "cure": "cure"}.get(self.id.partition("-")[0], "clat-v2")

    @property
    def number(self) -> str:
        """Return its number within the paper, such as "T7"."""
        return self.id.rpartition("-")[2]

    @property
    def trains(self) -> bool:
        """Return whether networks are trained for it."""
        return self.kind not in ("parameters", "cost")

    def all_networks(self) -> tuple[str, ...]:
        """Return its networks, in the printed order.

        Returns:
            Names, each once.
        """
        printed = [one.network for one in printed_in(self.paper, self.number)]
        return tuple(dict.fromkeys([*printed, *self.networks]))

    def all_datasets(self) -> tuple[str, ...]:
        """Return its data sets, in the printed order; CIFAR-10 where none is printed.

        Returns:
            Names, each once.
        """
        printed = [one.dataset or "cifar10" for one in printed_in(self.paper, self.number)]
        return tuple(dict.fromkeys([*printed, *self.datasets]))
