"""The files that a command writes: claimed before hours of work, named after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clat.cli.console import print_json, say
from clat.core.errors import ClatError
from clat.core.files import claim_output, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Writable(Protocol):
    """The result of a command."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data.

        Returns:
            What JSON can hold.
        """
        ...


class Outputs:
    """The files of a command's result (JSON) and its plot, claimed when this is made, before hours of work.

    Args:
        out: file of the result; "-": standard output; None: none.
        plot: file of the plot, .svg or .png; None: none.

    Raises:
        ClatError: If one of them exists already or cannot be written, both are one file, or the plot's name has
            another ending.
    """

    def __init__(self, out: str | None, plot: str | None = None) -> None:
        self.out, self.plot = out, plot
        if out not in (None, "-") and plot is not None and Path(out).resolve() == Path(plot).resolve():
            raise ClatError(f"--out and --plot both name {plot}: give each a file of its own")
        for path in (out, plot):
            if path not in (None, "-"):
                claim_output(path)
        if plot is not None and Path(plot).suffix.lower() not in (".svg", ".png"):
            raise ClatError(f"cannot write a plot to '{plot}': its name must end in .svg or .png")

    def write(
        self,
        result: Writable | dict[str, Any],
        draw: Callable[[], Figure] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Write what was asked for, and say where it is.

        Args:
            result: the result.
            draw: makes the figure of the plot; called only if there is to be one.
            about: what the result does not know of itself, such as the network's name: its JSON's `about`.
        """
        data = result if isinstance(result, dict) else result.to_dict()
        data = {**data, "about": about} if about else data
        if self.out == "-":
            print_json(data)
        elif self.out is not None:
            write_json(self.out, data)
        if self.plot is not None and draw is not None:
            from clat.report.plots import save_figure

            save_figure(draw(), self.plot)
        for path in (self.out, self.plot):
            if path not in (None, "-"):
                say(f"wrote {path}")
