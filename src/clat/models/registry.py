"""Build networks by name: the papers' own, those behind RobustBench's entries, and any factory of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted
from clat.core.notices import notice
from clat.models import huggingface, robustbench
from clat.models.densenet import densenet121
from clat.models.dm_wide_resnet import dm_wrn_28_10, dm_wrn_70_16, ra_wrn_70_16
from clat.models.factory import from_factory
from clat.models.files import (
    brought_statistics,
    check_members,
    has_none,
    read_state,
    recorded_statistics,
    trained_otherwise,
)
from clat.models.fitting import fitting_entries
from clat.models.imagenet_resnet import imagenet_resnet18, imagenet_resnet50
from clat.models.imagenet_stems import imagenet_densenet121, imagenet_wrn_34_10, imagenet_wrn_70_16
from clat.models.libraries import Builder, NetworkRequest
from clat.models.normalize import IDENTITY, Normalized, NormalizeSpec, Statistics, parse_normalize, with_normalize
from clat.models.preact_resnet import (
    preact_resnet18,
    preact_resnet18_bn,
    preact_resnet18_raw,
    preact_resnet18_raw_bn,
)
from clat.models.resnet import resnet18, resnet50
from clat.models.timm_models import build_timm
from clat.models.torchvision_models import build_torchvision
from clat.models.vgg import vgg19, vgg19_linear
from clat.models.wide_resnet import wrn_34_10, wrn_70_16

LIBRARIES: dict[str, Builder] = {
    "timm": build_timm,
    "hf": huggingface.build_huggingface,
    "torchvision": build_torchvision,
}
"""What stands before the colon of a library's network, and what builds it."""

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin")
"""How the names of weight files end."""

MODELS: dict[str, partial[Any]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "imagenet-resnet18": imagenet_resnet18,
    "imagenet-resnet50": imagenet_resnet50,
    "imagenet-densenet121": imagenet_densenet121,
    "imagenet-wrn-34-10": imagenet_wrn_34_10,
    "imagenet-wrn-70-16": imagenet_wrn_70_16,
    "preact-resnet18": preact_resnet18,
    "preact-resnet18-bn": preact_resnet18_bn,
    "preact-resnet18-raw": preact_resnet18_raw,
    "preact-resnet18-raw-bn": preact_resnet18_raw_bn,
    "wrn-34-10": wrn_34_10,
    "wrn-70-16": wrn_70_16,
    "dm-wrn-28-10": dm_wrn_28_10,
    "dm-wrn-70-16": dm_wrn_70_16,
    "ra-wrn-70-16": ra_wrn_70_16,
    "densenet121": densenet121,
    "vgg19": vgg19,
    "vgg19-linear": vgg19_linear,
}
"""Name to builder. A builder takes the keywords num_classes, width and in_channels, and where its network has them
depths, activation and input_size, each with a default."""


def model_names() -> list[str]:
    """Return the names of the networks that load_model knows by itself.

    Returns:
        The names, sorted.
    """
    return sorted(MODELS)


def load_model(
    name: str,
    *,
    num_classes: int = 10,
    width: int | None = None,
    depths: Sequence[int] | None = None,
    activation: str | None = None,
    args: Mapping[str, Any] | None = None,
    input_size: int | None = None,
    normalize: NormalizeSpec = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    classifier: str | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """Return a network that takes images in [0, 1] and gives logits.

    `name` is one of model_names(), `robustbench:ID`, a network of another library (`timm:NAME`, `hf:FOLDER` or
    `hf:OWNER/NAME`, `torchvision:NAME`), or `package.module:factory` for a function or class of your own, found
    from the current directory too. A factory is given num_classes and in_channels where its signature has them, and
    the options below that are given; it must return an nn.Module, which with a normalisation is wrapped in
    Normalized.

    A library's network brings the normalisation of its own configuration, comes in a Normalized, and keeps the
    classes that its trained weights have, if it comes with any; no other `normalize` is taken for it.

    `robustbench:ID` is the network behind an entry of RobustBench, for CIFAR-10 or CIFAR-100 by num_classes, with
    its activation and normalisation (clat.models.robustbench.TABLES); `weights` is its file, which it needs.

    Without a file, weights are drawn from the global generator. The model is in training mode, on torch's default
    device.

    Args:
        name: The network, see above.
        num_classes: How many logits it gives.
        width: Channels of the first stage (ResNets and VGG 64, WRN 160 or 256 by default), or the growth rate of
            DenseNet (32); None keeps the published value.
        depths: Blocks of each stage; None keeps the published ones.
        activation: For the dm- and ra- networks relu, silu or swish; None keeps the published one.
        args: Further arguments of a factory, or of the library's, such as {"pretrained": True, "img_size": 64}.
        input_size: For the imagenet- networks, images are first brought to so many pixels a side, inside the
            network; None takes them as they are.
        normalize: A data set's name (see clat.models.normalize.STATISTICS), or (mean, std). None means the
            identity, unless `weights` brings the normalisation it was trained with, as a file of ours that records
            it or as the statistics of a wrapper; then that one is used, because the identity would silently
            evaluate another function. Say "identity" to insist on none.
        weights: A file that load_weights reads; None draws them.
        weights_key: Which of several state dicts in it is meant; None takes the usual one.
        classifier: "new" takes all weights of the file, or of the library, but those of the last linear layer,
            which is drawn anew, the start of fine-tuning on other classes; None takes all.
        in_channels: Channels of the images.

    Returns:
        A network, images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    Raises:
        ClatError: A name, a size, an option or a file is refused.
    """
    _check_sizes(num_classes=num_classes, width=width, in_channels=in_channels, input_size=input_size)
    if classifier not in (None, "new"):
        raise unknown("classifier", classifier, ("new",))
    if weights_key is not None and weights is None:
        raise ClatError(f"weights_key '{weights_key}' belongs to a weight file: name one as the model's weights")
    if classifier and weights is None and _library(name) is None:
        raise ClatError("a new classifier goes on top of trained weights: name their file as the model's weights")
    statistics = asked = parse_normalize(normalize)
    given: dict[str, Any] = {"width": width, "depths": _checked_depths(depths), "activation": activation}
    given["input_size"] = input_size
    options: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    options |= {key: value for key, value in given.items() if value is not None}
    state = own = brought = None
    metadata: dict[str, str] = {}
    plain = False
    if weights is not None:  # before building: a bad path should not cost a large network's set-up
        state, metadata = read_state(weights, weights_key)
        brought = recorded_statistics(metadata, weights)
        statistics = statistics or brought
        plain = statistics is None and has_none(metadata)
    if name.startswith(robustbench.PREFIX):
        entry = robustbench.entry(name, num_classes)
        if state is None:
            raise ClatError(f"model '{name}' needs weights: download the file that RobustBench lists and name it")
        state, own = robustbench.split_statistics(state, weights)
        brought = brought or own
        own = own or (None if plain else entry.normalize)
        statistics = statistics or own
        _check_channels(statistics, in_channels)
        model = _built(name, entry.builder, options, args)
    elif (library := _library(name)) is not None:
        _refuse_for_library(name, given, normalize)
        wanted = NetworkRequest(
            name=name,
            num_classes=num_classes,
            in_channels=in_channels,
            args=args or {},
            new_classifier=classifier == "new" and state is None,
            weights_follow=state is not None,
        )
        network, own = library(wanted)
        model = Normalized(network)
    elif ":" in name:
        model = from_factory(name, options, args or {})
    elif name in MODELS:
        _check_channels(statistics, in_channels)
        model = _built(name, MODELS[name], options, args)
    else:
        raise _unknown_model(name)
    if state is not None:
        entries = fitting_entries(model, state, weights, new_classifier=classifier == "new", key=weights_key)
        entries.put_into(model)
        check_members(model, metadata, weights, adopt=True)
        brought = brought or brought_statistics(metadata, entries, weights)
        statistics = statistics or brought
        insists = asked in (None, IDENTITY)  # the identity is what nobody names by mistake
        if not insists and (trained := trained_otherwise(brought, asked or IDENTITY, metadata)) is not None:
            notice(
                f"weights {weights}: trained with {trained}; the normalisation {asked} is used instead, "
                "and so it is another function"
            )
    if plain and statistics is None and own is not None:
        notice(
            f"weights {weights}: trained without a normalisation, so that of '{name}' by its library is left out"
        )
        own = None
    return with_normalize(model, statistics or own)


def _unknown_model(name: str) -> ClatError:
    """Return the error for what names no network: it says what was given instead, or all forms that there are."""
    path = Path(name)
    if path.is_dir() and (path / "recipe.toml").is_file():
        return ClatError(
            f"model '{name}' is a run's folder: give {path / 'recipe.toml'}, and with --weights a file of "
            f"{path / 'weights'}"
        )
    if path.is_dir() and (path / "config.json").is_file():
        title = f"model '{name}'"
        own = huggingface.own_folder(title, path, huggingface.read_table(path / "config.json", title))
        return own or ClatError(f"{title} is a folder: of transformers or timm it is --model hf:{name}")
    if path.is_file() or path.suffix in WEIGHT_FILES:
        return ClatError(f"model '{name}': that is a weight file: --weights {name} beside the network's name")
    return ClatError(
        f"{unknown('model', name, MODELS)}; or timm:NAME, hf:FOLDER, torchvision:NAME, robustbench:ID, "
        "package.module:factory, on the command line RECIPE.toml"
    )


def _library(name: str) -> Builder | None:
    """Return what builds a network of this name, if it is another library's."""
    prefix, colon, _ = name.partition(":")
    return LIBRARIES.get(prefix) if colon else None


def _refuse_for_library(name: str, given: Mapping[str, Any], normalize: NormalizeSpec) -> None:
    """Raise ClatError for an option that is not a library's."""
    options = [option for option, value in given.items() if value is not None]
    if options:
        raise ClatError(
            f"model '{name}' takes no {options[0]}: give arguments of its own (--model-args, model.args)"
        )
    if normalize is not None:
        raise ClatError(f"model '{name}' brings the normalisation of its own configuration: leave normalize out")


def _built(name: str, builder: partial[Any], options: dict[str, Any], args: Mapping[str, Any] | None) -> nn.Module:
    """Return the network of a builder of ours, after a check that it takes the options."""
    if args:
        names = ", ".join(sorted(args))
        raise ClatError(f"model '{name}' takes no arguments ({names}): it has width, depths and the like")
    for option in options.keys() - inspect.signature(builder).parameters.keys():
        raise ClatError(f"model '{name}' takes no {option}; leave {option} out")
    stages = len(builder.keywords.get("depths", ()))
    if len(options.get("depths", ())) not in (0, stages):
        raise ClatError(f"depths={list(options['depths'])}: '{name}' has {stages} stages; give one number for each")
    model: nn.Module = builder(**options)
    return model


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ClatError(f"{name}={value!r}: must be a whole number of at least 1")


def _checked_depths(depths: Sequence[int] | None) -> tuple[int, ...] | None:
    if depths is None:
        return None
    if isinstance(depths, str) or not depths:
        raise ClatError(f"depths={depths!r}: give the number of blocks of each stage, such as (2, 2, 2, 2)")
    for number in depths:
        _check_sizes(depths=number)
    return tuple(depths)


def _check_channels(statistics: Statistics | None, in_channels: int) -> None:
    channels = max(map(len, statistics)) if statistics else 1
    if channels not in (1, in_channels):
        raise ClatError(
            f"normalize has {counted(channels, 'channel')} but in_channels={in_channels}; give one value a channel"
        )
