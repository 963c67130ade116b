"""The inputs of a command: the device, the network and the images that its options name.

Commands import this module where their work begins: it loads torch.
"""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat import models
from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted
from clat.core.notices import notice
from clat.data import ImageSet, Loader, load_split
from clat.data.channels import with_channels
from clat.data.classes import are_numbers, numbered
from clat.evaluation.dataset import PART_BYTES
from clat.evaluation.subset import check_count
from clat.models import load_model
from clat.models.fitting import OtherOutputs
from clat.models.output_names import in_other_order
from clat.models.registry import LIBRARIES
from clat.models.settings import NetworkConfig
from clat.network import modes
from clat.network.edge import unwrapped
from clat.network.fingerprint import structure_hash
from clat.recipe.source import read_value
from clat.recipe.toml import read_recipe, recipe_data
from clat.training.prepare import check_model


def pick_device(name: str) -> torch.device:
    """Return the device that `--device` names.

    Args:
        name: cpu, cuda, or auto for CUDA where there is some.

    Returns:
        The device.

    Raises:
        ClatError: If the name is another, or CUDA is asked for and not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ClatError("--device cuda: torch sees no CUDA device, use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def build_model(options: Namespace, images: ImageSet, device: torch.device) -> nn.Module:
    """Return the network of `--model`, with its weights, tried on an image of the set.

    Args:
        options: with the options of `add_model_options`.
        images: the split that the network is to classify.
        device: where the network is put.

    Returns:
        The network in evaluation mode; takes images (N, C, H, W) in [0, 1], returns logits.

    Raises:
        ClatError: If there is no such network or file, or the network's inputs or outputs do not fit the images.
    """
    if options.weights_key is not None and options.weights is None:
        raise ClatError(f"--weights-key {options.weights_key} belongs to a weight file: name one with --weights")
    try:
        model = _loaded(options, images)
    except OtherOutputs as error:
        if error.own != images.num_classes:
            raise
        raise _other_classes(f"the weights {options.weights or 'of the recipe'} have", error.held, images) from None
    sample, _ = next(iter(Loader(images.take(1), 1, workers=0).epoch()))
    model = unwrapped(model)
    check_model(model, sample, images.num_classes)
    _check_outputs(model, sample, images)
    order = in_other_order(model, images.class_names)
    if order is not None and options.classes is None:
        raise _in_which_order(f"the model's outputs are {numbered(order)} by its configuration", order, images)
    if (name := without_weights(options)) is not None:
        own = is_factory(name)
        notice(
            f"no --weights: {f'the weights are those that {name} gives' if own else f'{name} has random weights'}"
        )
    foreign = options.weights is not None or ":" in options.model
    if foreign and not are_numbers(images.class_names):
        notice(
            f"the network's outputs are taken for: {numbered(images.class_names)}; --classes gives another order"
        )
    return model.to(device).eval()


def _loaded(options: Namespace, images: ImageSet) -> nn.Module:
    """Return the network of `--model` for the classes and channels of the images, with its weights."""
    if options.model.endswith(".toml"):
        return _model_of_recipe(options, images)
    return load_model(
        options.model,
        num_classes=images.num_classes,
        in_channels=images.shape[0],
        args=model_arguments(options.model_args),
        width=options.width,
        normalize=options.normalize,
        weights=options.weights,
        weights_key=options.weights_key,
    )


def without_weights(options: Namespace) -> str | None:
    """Return the name of the network of `--model` where neither a file nor a library gives it weights.

    Args:
        options: with the options of `add_model_options`.

    Returns:
        The name, in a recipe that of its [model]; None where there are weights.

    Raises:
        ClatError: If the recipe cannot be read.
    """
    if options.weights is not None:
        return None
    if options.model.endswith(".toml"):
        config = read_recipe(options.model).model
        return None if config.starts_from_weights else config.name
    named = NetworkConfig(name=options.model, args=model_arguments(options.model_args))
    return None if named.is_trained else named.name


def is_factory(name: str) -> bool:
    """Return whether a network's name is that of a factory of the user's own, which may give it weights.

    Args:
        name: as `load_model` takes it.

    Returns:
        True for "package.module:factory".
    """
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def _check_outputs(model: nn.Module, sample: Tensor, images: ImageSet) -> None:
    """Raise ClatError if the network has other classes than the images: which output is which, nobody knows."""
    with modes.attack_mode(model), torch.no_grad():
        outputs = model(sample).shape[1]
    if outputs != images.num_classes:
        raise _other_classes("the model has", outputs, images)


def _other_classes(having: str, outputs: int, images: ImageSet) -> ClatError:
    """Return the error for data of other classes than a network's outputs: which output is which, nobody knows."""
    said = f"{having} {outputs} outputs, the data {images.num_classes} classes ({numbered(images.class_names)})"
    if outputs < images.num_classes:
        return ClatError(f"{said}: check --data, or name a network with an output for each of them")
    return ClatError(
        f"{said}: check --data ('{images.name}'); if that is meant, list the classes of all outputs, in their "
        "order, with --classes FILE (a name a line), or name1,name2,..."
    )


def _as_option(names: Sequence[str]) -> str:
    """Return the names as `--classes` takes them, or where that is too long what to give."""
    if len(names) > 12 or any("," in name for name in names):
        return "FILE, a name a line in the order of id2label in its config.json"
    return shlex.quote(",".join(names))


def read_images(options: Namespace, *, resident_limit: int | None = PART_BYTES) -> ImageSet:
    """Return the split that `--data` and the options beside it name, as a network is to see its images.

    Args:
        options: with `data`, `split`, and the options of `add_column_options` and `add_image_options`.
        resident_limit: bytes of pixels to decode into memory; see `clat.load_split`. The default is for commands
            that read each image once, or a few of many.

    Returns:
        The images, resized and with the channels asked for.

    Raises:
        ClatError: If there is no such data set, split, column or class.
    """
    images = load_split(
        options.data,
        options.split,
        image_size=options.image_size,
        resident_limit=resident_limit,
        label_column=options.label_column,
        image_column=options.image_column,
        classes=options.classes,
    )
    return with_channels(images, options.channels)


def model_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that `--model-args` gives.

    Args:
        words: such as ["a=1", "b=true"]; values are read as TOML, else taken as text.

    Returns:
        Name -> value, dashes in names as underscores.

    Raises:
        ClatError: If a word is not KEY=VALUE, or a key is there twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ClatError(f"--model-args {word}: expected KEY=VALUE, such as pretrained=true")
        key = key.replace("-", "_")
        if key in found:
            raise ClatError(f"--model-args {word}: {key} is there twice")
        found[key] = read_value(text)
    return found


def _model_of_recipe(options: Namespace, images: ImageSet) -> nn.Module:
    """Return the network of a recipe's [model], with all of `--weights` instead of its own if they are given."""
    if options.width is not None or options.normalize is not None or options.model_args:
        raise ClatError(f"--model {options.model}: the recipe says width, normalize and arguments; leave them out")
    recipe, ran = read_recipe(options.model), _run_beside(Path(options.model))
    _check_order(options, images, ran.get("data", {}).get("classes") or ())
    config, about = recipe.model, ran.get("model", {})
    own = {"weights": options.weights, "weights_key": options.weights_key, "classifier": None}
    config = config if options.weights is None else replace(config, **own)
    given = about.get("own") and about.get("structure")
    try:
        model = models.build_model(config, images.num_classes, images.shape[0])
    except ClatError:
        if not given:
            raise
    else:
        if not given or structure_hash(model) == given:
            return model
    raise ClatError(
        f"--model {options.model}: the run beside it was of a network that was passed in from Python"
        f" ({about.get('class')}), of which its recipe knows nothing: give a function that builds it, --model"
        " package.module:factory"
    )


def _check_order(options: Namespace, images: ImageSet, trained: Sequence[str]) -> None:
    """Raise ClatError if a run had the classes of the images in another order, and no order is given."""
    ours = list(images.class_names)
    if options.classes is None and sorted(trained) == sorted(ours) and list(trained) != ours:
        raise _in_which_order(f"--model {options.model}: its outputs are {numbered(trained)}", trained, images)


def _in_which_order(said: str, order: Sequence[str], images: ImageSet) -> ClatError:
    """Return the error for data whose classes are a network's outputs in another order."""
    return ClatError(
        f"{said}, the data's classes {numbered(images.class_names)}: say which order it is, --classes"
        f" {_as_option(order)}"
    )


def _run_beside(recipe: Path) -> dict[str, dict[str, Any]]:
    """Return what run.json beside the recipe of a run says of its network and its data."""
    try:
        found: Any = json.loads((recipe.parent / "run.json").read_text(encoding="utf-8"))
        return {name: found[name] for name in ("model", "data")} if recipe.name == "recipe.toml" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def origin_of(options: Namespace) -> dict[str, dict[str, Any]]:
    """Return the network and images of a command as a recipe has them.

    Args:
        options: with the options of `add_model_options` and of the images.

    Returns:
        The tables `model` and `data`, of the fields that were given.
    """
    if options.model.endswith(".toml"):
        model = recipe_data(read_recipe(options.model))["model"]
    else:
        model = {"name": options.model, "args": model_arguments(options.model_args) or None}
        model |= {name: getattr(options, name) for name in ("width", "normalize")}
    if options.weights is not None:
        model |= {"weights": options.weights, "weights_key": options.weights_key, "classifier": None}
    columns = ("image_size", "channels", "label_column", "image_column", "classes")
    data = {"name": options.data, **{name: getattr(options, name) for name in columns}}
    tables = {"model": model, "data": data}
    return {name: {key: one for key, one in table.items() if one is not None} for name, table in tables.items()}


def about_model(options: Namespace, notes: Sequence[str] = ()) -> dict[str, object]:
    """Return what a result's file says of the network of `build_model`.

    Args:
        options: with the options of `add_model_options`.
        notes: what was said while it was built, for results without notes of their own.

    Returns:
        Plain data.
    """
    return {
        "model": options.model,
        "model_args": model_arguments(options.model_args),
        "weights": options.weights,
        "weights_key": options.weights_key,
        **({"model_notes": list(notes)} if notes else {}),
    }


def first_images(options: Namespace) -> ImageSet:
    """Return images that stand for the split: `--num-samples`, or the command's default, or all.

    They are the first, or of a split that is listed class by class the share of each class.

    Args:
        options: with the options of `add_measuring_options`.

    Returns:
        The images; fewer than the default where the split has fewer.

    Raises:
        ClatError: If `--num-samples` is out of range, or the split cannot be read.
    """
    images = read_images(options)
    check_count(options.num_samples, images)
    sample = images.sample(options.num_samples or options.default_samples or len(images))
    for note in sample.notes:
        notice(note)
    return sample


def tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return all images at once, on the CPU; attacks move them batch by batch.

    Args:
        images: the images.

    Returns:
        The images, float32 (N, C, H, W) in [0, 1], and their labels (N,).
    """
    x, y = next(iter(Loader(images, len(images), device=torch.device("cpu")).epoch()))
    return x, y


def data_in_words(images: ImageSet, n: int) -> str:
    """Return the line that names the data of a result: nobody has to remember what `--data` stands for.

    Args:
        images: the split.
        n: how many of its images were measured on.

    Returns:
        Such as "data digits/test, 500 images".
    """
    return f"data {images.name}/{images.split}, {counted(f'{n:,}', 'image')}"


def about_data(images: ImageSet) -> dict[str, dict[str, object]]:
    """Return what a result's file says of the images.

    Args:
        images: the images that were measured on.

    Returns:
        Plain data under the key `data`.
    """
    data: dict[str, object] = {"name": images.name, "split": images.split, "n": len(images)}
    return {"data": data | ({"notes": list(images.notes)} if images.notes else {})}
