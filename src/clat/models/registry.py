"""Networks by name: the papers' own, and any factory of the user's."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn

from clat.errors import ClatError, unknown
from clat.models.densenet import densenet121
from clat.models.files import fit_state, read_state, recorded_statistics
from clat.models.normalize import NormalizeSpec, parse_normalize, with_normalize
from clat.models.preact_resnet import preact_resnet18
from clat.models.resnet import resnet18, resnet50
from clat.models.vgg import vgg19, vgg19_linear
from clat.models.wide_resnet import wrn_34_10, wrn_70_16

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "preact-resnet18": preact_resnet18,
    "wrn-34-10": wrn_34_10,
    "wrn-70-16": wrn_70_16,
    "densenet121": densenet121,
    "vgg19": vgg19,
    "vgg19-linear": vgg19_linear,
}
"""Name to builder. A builder takes the keywords num_classes, width and in_channels, each with a default."""


def model_names() -> list[str]:
    """The names that load_model knows by itself, sorted."""
    return sorted(MODELS)


def load_model(
    name: str,
    *,
    num_classes: int = 10,
    width: int | None = None,
    normalize: NormalizeSpec = None,
    weights: str | Path | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """Build a network that takes images (N, in_channels, H, W) in [0, 1] and gives (N, num_classes) logits.

    `name` is one of model_names(), or `package.module:factory` for a function or class of your own, found
    from the current directory too. A factory is given num_classes, in_channels and width where its
    signature has them, and must return an nn.Module; with a normalisation that is wrapped in Normalized.

    `width` scales the network: channels of the first stage (ResNets and VGG 64, WRN 160 or 256 by default),
    or the growth rate of DenseNet (32). None keeps the default.

    `normalize` is None, a data set's name (see clat.models.normalize.STATISTICS), or (mean, std). None
    means the identity, unless `weights` is a file of ours that records the normalisation it was trained
    with: then that one is used, because the identity would silently evaluate another function. Say
    "identity" to insist on none.

    `weights` is a file that load_weights reads. Without it, weights are drawn from the global generator.
    The model is returned in training mode, on torch's default device. Raises ClatError for bad names, sizes
    and files.
    """
    _check_sizes(num_classes=num_classes, width=width, in_channels=in_channels)
    statistics = parse_normalize(normalize)
    state = None
    if weights is not None:
        state, metadata = read_state(
            weights
        )  # before building: a bad path should not cost a large network's set-up
        statistics = statistics or recorded_statistics(metadata, weights)
    sizes = {"num_classes": num_classes, "in_channels": in_channels} | ({} if width is None else {"width": width})
    if ":" in name:
        model = _from_factory(name, sizes)
    elif name in MODELS:
        _check_channels(statistics, in_channels)
        model = MODELS[name](**sizes)
    else:
        raise unknown("model", name, MODELS)
    model = with_normalize(model, statistics)
    if state is not None:
        fit_state(model, state, weights)
    return model


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ClatError(f"{name}={value!r}: must be a whole number of at least 1")


def _check_channels(statistics: tuple[tuple[float, ...], ...] | None, in_channels: int) -> None:
    channels = max(map(len, statistics)) if statistics else 1
    if channels not in (1, in_channels):
        raise ClatError(
            f"normalize has {channels} channels but in_channels={in_channels}; give one value a channel"
        )


def _from_factory(name: str, sizes: dict[str, int]) -> nn.Module:
    """Build the user's own network. What goes wrong in their code is told in one line, and chained."""
    with _current_directory_importable():
        factory = _find(name)
        options = _accepted(name, factory, sizes)
        try:
            model = factory(**options)
        except Exception as error:
            raise ClatError(f"model '{name}': the factory failed, {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ClatError(f"model '{name}': the factory gave a {type(model).__name__}; it must return an nn.Module")
    return model


def _find(name: str) -> Callable[..., Any]:
    """The object that `package.module:factory` names; dots after the colon reach into classes."""
    module_name, _, path = name.partition(":")
    try:
        factory = reduce(getattr, path.split("."), importlib.import_module(module_name))
    except AttributeError as error:
        raise ClatError(f"model '{name}': {error}; check the name after the colon") from error
    except Exception as error:
        raise ClatError(
            f"model '{name}': importing '{module_name}' failed, {type(error).__name__}: {error}; "
            "write package.module:factory"
        ) from error
    if not callable(factory):
        raise ClatError(f"model '{name}': a {type(factory).__name__} cannot be called; name a function or a class")
    return factory


def _accepted(name: str, factory: Callable[..., Any], sizes: dict[str, int]) -> dict[str, int]:
    """The sizes that the factory's signature has. A bare **kwargs gets num_classes, the usual name."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # built-in callables show no signature
        parameters = []
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        by_name.add("num_classes")
    if "width" in sizes and "width" not in by_name:
        raise ClatError(f"model '{name}': its factory takes no width; leave width out")
    return {key: value for key, value in sizes.items() if key in by_name}


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Import from the current directory first, as `python -m` does; the search path is put back after."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
