"""The names of loggers that a recipe may ask for."""

from __future__ import annotations

from collections.abc import Sequence

from clat.core.errors import unknown
from clat.core.plugins import PluginKind

LOGGERS = ("csv", "mlflow", "tensorboard", "trackio", "wandb")
"""Those that come with clat, or with a library of that name."""

OWN_LOGGERS = PluginKind("logger", "clat.loggers")


def check_loggers(names: Sequence[str]) -> None:
    """Raise an error for a name of no logger, built-in or the user's own.

    Args:
        names: as in a recipe's `monitor.loggers`.

    Raises:
        ClatError: there is no such logger, or one of the user's own cannot be imported.
    """
    for name in names:
        if name not in LOGGERS and OWN_LOGGERS.find(name) is None:
            raise unknown("logger", name, LOGGERS)
