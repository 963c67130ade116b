"""Share what the networks of other libraries need: what is asked for, what comes back, errors in one line."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from clat.core.errors import ClatError, first_line
from clat.core.formatting import counted
from clat.core.notices import notice
from clat.models.normalize import Statistics


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """A network of another library, as a user asked for it.

    Attributes:
        name: Its whole name, such as "timm:resnet18".
        num_classes: Classes of the data.
        in_channels: Channels of the images.
        args: Further arguments of its factory.
        new_classifier: Its last layer is to be drawn anew for those classes.
        weights_follow: All its weights come from a file, so that the library need not have any.
    """

    name: str
    num_classes: int
    in_channels: int
    args: Mapping[str, Any]
    new_classifier: bool
    weights_follow: bool

    @property
    def own_classes(self) -> bool:
        """Return whether a network with trained weights keeps the classes that it was trained on."""
        return not (self.new_classifier or self.weights_follow)

    @property
    def identifier(self) -> str:
        """Return the name within the library."""
        return self.name.partition(":")[2]

    def refuse(self, arguments: Collection[str], why: str) -> None:
        """Raise an error if one of these arguments is given.

        Args:
            arguments: Names of arguments.
            why: The end of the message, which says what to do instead.

        Raises:
            ClatError: One of them is given.
        """
        for argument in sorted(set(arguments) & set(self.args)):
            raise ClatError(f"model '{self.name}' takes no argument {argument}: {why}")


class LibraryNetwork(NamedTuple):
    """A network of another library.

    Attributes:
        network: The network as the library gives it.
        statistics: The (mean, std) of its own configuration, or None.
    """

    network: nn.Module
    statistics: Statistics | None


TORCHVISION = "install the build that belongs to your torch, see pytorch.org"
"""How torchvision is installed, which other libraries need too."""

Builder = Callable[[NetworkRequest], LibraryNetwork]


def import_library(module: str, wanted: NetworkRequest, install: str) -> Any:
    """Return the module of another library.

    Args:
        module: Its name for import; its first part is what a missing library is called.
        wanted: The network that needs it.
        install: The command that installs it.

    Returns:
        The module.

    Raises:
        ClatError: It is missing, or does not import; the message says what to install.
    """
    library = module.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within it, which nobody here can mend
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]
        install = TORCHVISION if missing == "torchvision" else install
        needs = library if missing == library else f"{library}, which needs {missing}"
        raise ClatError(f"model '{wanted.name}' needs {needs}, which is not installed: {install}") from error
    except Exception as error:  # a torchvision of another torch, in most cases
        raise ClatError(
            f"model '{wanted.name}' needs {library}, which does not import here ({first_line(error)[:200]}): "
            f"install the torchvision that belongs to torch {torch.__version__}, see pytorch.org"
        ) from error


@contextmanager
def one_line_errors(wanted: NetworkRequest) -> Iterator[None]:
    """Turn whatever the library raises inside into one line that names the model.

    Its warnings stay its own, and so do the hub client's lines on each attempt to reach the hub.

    Args:
        wanted: The network that is being built.

    Raises:
        ClatError: The code inside raised any exception, which is chained.
    """
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ClatError:
        raise
    except TypeError as error:
        raise ClatError(
            f"model '{wanted.name}': {first_line(error)[:200]}; check the arguments {_listed(wanted.args)}"
        ) from error
    except Exception as error:  # of a library, and of the HTTP client under it
        if type(error).__name__ == "LocalEntryNotFoundError":  # by name: not every library brings the hub's client
            raise ClatError(
                f"model '{wanted.name}': its trained weights are not in the cache, and the Hugging Face hub cannot "
                "be reached: check the network, or give a weight file"
            ) from error
        raise ClatError(f"model '{wanted.name}': {first_line(error)[:200]}") from error
    finally:
        client.setLevel(level)


def fitting_statistics(
    name: str, mean: Collection[float] | float, std: Collection[float] | float, channels: int
) -> Statistics:
    """Return (mean, std) for images with so many channels.

    Statistics of three channels become their average for a network that was made for another number of channels; a
    notice says so.

    Args:
        name: The network, for the notice.
        mean: A value a channel, or one for all.
        std: Likewise.
        channels: Of the images.

    Returns:
        The statistics, each with one value or one a channel.
    """
    pair = tuple(
        (float(values),) if isinstance(values, int | float) else tuple(map(float, values)) for values in (mean, std)
    )
    if all(len(values) in (1, channels) for values in pair):
        return pair[0], pair[1]
    notice(
        f"model '{name}': its normalisation is for {counted(max(map(len, pair)), 'channel')}, their average "
        f"serves {channels}"
    )
    average = [(sum(values) / len(values),) for values in pair]
    return average[0], average[1]


def untrained(wanted: NetworkRequest) -> ClatError:
    """Return the error for a new classifier on a network that has no trained weights.

    Args:
        wanted: The network that was asked for.

    Returns:
        The error, for the caller to raise.
    """
    return ClatError(
        f"model '{wanted.name}' has no trained weights that a new classifier goes on top of: give pretrained=true "
        "among its arguments, name a weight file, or leave classifier out"
    )


def _listed(args: Mapping[str, Any]) -> str:
    return ", ".join(sorted(args)) or "(none given)"
