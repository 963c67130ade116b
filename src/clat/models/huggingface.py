"""Load `hf:FOLDER` and `hf:OWNER/NAME`: image classifiers of transformers with their processor's normalisation.

A folder is one that `save_pretrained` wrote; a name on the Hugging Face hub becomes such a folder in its cache.
Code that comes with a model is never executed.
"""

from __future__ import annotations

import errno
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from clat.core.errors import ClatError
from clat.core.files import claim_output
from clat.core.notices import notice
from clat.core.parsing import parse_json
from clat.models.fitting import bare, last_linear, listed
from clat.models.libraries import (
    LibraryNetwork,
    NetworkRequest,
    fitting_statistics,
    import_library,
    one_line_errors,
)
from clat.models.normalize import Statistics, statistics_of
from clat.models.reading import one_line, refuse_bombs

INSTALL = "pip install transformers"
PROCESSOR = "preprocessor_config.json"
PROCESSORS = ("processor_config.json", PROCESSOR)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DECIDED_HERE = (
    "trust_remote_code",
    "weights_only",
    "ignore_mismatched_sizes",
    "output_loading_info",
    "use_safetensors",
)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST)
_STEPS = ("do_resize", "do_center_crop", "do_pad", "rescale_offset", "include_top", "do_flip_channel_order")
"""What image processors do beside scaling and normalising, in part unless they are told not to."""
_TEXTS = ("config.json", PROCESSOR, "processor_config.json", "*.index.json")


def build_huggingface(wanted: NetworkRequest) -> LibraryNetwork:
    """Return an image classifier with its trained weights, in float32.

    Args:
        wanted: Its arguments go to `from_pretrained`, which takes fields of the model's configuration. The network
            has the classes that it was trained on, unless the classifier is to be new.

    Returns:
        The network, and the normalisation of its image processor.

    Raises:
        ClatError: transformers is missing, there is no such model, an argument is unknown, or the folder does not
            hold all weights of an image classifier.
    """
    transformers = import_library("transformers", wanted, INSTALL)
    wanted.refuse(_DECIDED_HERE, "how files are read is decided here, so that nothing in them is executed")
    title = f"model '{wanted.name}'"
    texts = (*_TEXTS, "*.safetensors")
    folder = model_folder(wanted.identifier, title, texts, (*_TEXTS, "pytorch_model*.bin"))
    table = read_table(folder / "config.json", title)
    if (own := own_folder(title, folder, table)) is not None:
        raise own
    if "auto_map" in table:
        raise ClatError(f"model '{wanted.name}' brings Python code of its own, which is never executed here")
    for file in folder.glob("*.bin"):
        refuse_bombs(file)
    args = dict(wanted.args)
    if not wanted.own_classes:
        args.setdefault("num_labels", wanted.num_classes)
    with _quiet(transformers), one_line_errors(wanted):
        network, report = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
            **args,
        )
    if not wanted.weights_follow:
        _check_complete(network, report, wanted)
    if not wanted.own_classes:  # what the outputs are follows from other data or from a file: nobody has named them
        _name_outputs(network, [f"LABEL_{number}" for number in range(network.config.num_labels)])
    return LibraryNetwork(network.float(), _statistics(folder, network, wanted))


def save_pretrained(model: nn.Module, folder: str | Path, class_names: Sequence[str] = ()) -> Path:
    """Write a Hugging Face model as a folder that `from_pretrained`, and `hf:FOLDER` here, read.

    Args:
        model: A network of transformers, perhaps with a normalisation around it, as `clat.load_model("hf:...")` and
            `clat.train` return it. The normalisation is written as the image processor's.
        folder: A new folder.
        class_names: Of its outputs, in their order; none leaves those that its configuration has.

    Returns:
        The folder.

    Raises:
        ClatError: The network is none of transformers, or the folder is taken or cannot be written.
    """
    network: Any = bare(model)
    folder = Path(folder)
    if not hasattr(network, "save_pretrained") or not hasattr(network, "config"):
        raise ClatError(
            f"a {type(network).__name__} has no save_pretrained: write its weights with clat.save_weights"
        )
    import transformers

    claim_output(folder)
    statistics = statistics_of(model)
    processor: dict[str, Any] = {**dict.fromkeys(_STEPS, False), "do_rescale": True, "rescale_factor": 1 / 255}
    processor["do_normalize"] = statistics is not None
    if statistics is not None:
        channels = max(map(len, statistics))
        processor |= {
            key: list(values) * (channels // len(values))
            for key, values in zip(("image_mean", "image_std"), statistics, strict=True)
        }
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place,
            _quiet(transformers),
        ):
            whole = Path(place) / "whole"  # a reader finds the folder complete, or none
            config = network.config
            before = getattr(config, "id2label", None), getattr(config, "label2id", None)
            named = before[0] is not None and len(before[0]) == len(class_names)
            try:
                if named:
                    _name_outputs(network, class_names)
                network.save_pretrained(whole)
            finally:
                if named:
                    config.id2label, config.label2id = before
            (whole / PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n")
            whole.rename(folder)
    except OSError as error:
        raise ClatError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def model_folder(name: str, title: str, wanted: Sequence[str] = (), fallback: Sequence[str] = ()) -> Path:
    """Return the folder of a model: the one that is named, or a copy of the hub's in its cache.

    Args:
        name: a folder, or "owner/name" on the hub.
        title: how messages call the model.
        wanted: patterns of the files to fetch from the hub.
        fallback: patterns of those to fetch where there is no safetensors file.

    Returns:
        The folder; for a name on the hub, the copy in its cache.

    Raises:
        ClatError: no such folder, no such name on the hub, the hub cannot be reached, or its cache not written.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ClatError(f"{title} is a file: name the folder that holds it")
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise ClatError(f"{title}: no such folder; name one that save_pretrained wrote, or owner/name")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def fetched(patterns: Sequence[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), etag_timeout=10))

    try:
        found = fetched(wanted)
        if fallback and not list(found.glob("*.safetensors")):
            found = fetched(fallback)
    except RepositoryNotFoundError as error:
        raise ClatError(f"{title} is neither a folder here nor on the Hugging Face hub") from error
    except Exception as error:  # of the hub's client and of the HTTP library under it
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            place = error.filename or huggingface_hub.constants.HF_HUB_CACHE
            raise ClatError(
                f"{title}: the hub's cache cannot be written ({place}: {error.strerror}): set HF_HOME to a folder "
                "of yours"
            ) from error
        raise ClatError(
            f"{title} is no folder here, nor in the cache, and the Hugging Face hub cannot be "
            "reached: check the name and the network, or name a folder"
        ) from error
    return found


def read_table(file: Path, title: str) -> dict[str, Any]:
    """Return the table that a JSON file of a model holds.

    Args:
        file: such as config.json.
        title: how messages call the model.

    Returns:
        The file's entries by name, unchecked.

    Raises:
        ClatError: it is missing, damaged, or holds something else.
    """
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClatError(f"{title}: there is no {file.name} in it; save it with save_pretrained") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ClatError(f"{title}: {file.name} cannot be read ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise ClatError(f"{title}: {file.name} holds no table; save it with save_pretrained")
    return found


def own_folder(title: str, folder: Path, table: Mapping[str, Any]) -> ClatError | None:
    """Return the error for a folder that clat wrote, where it is named as if transformers could build it.

    Args:
        title: how messages call the model.
        folder: the folder.
        table: what its config.json holds.

    Returns:
        The error, which says how the folder is read; None for a folder of transformers.
    """
    about = table.get("clat")
    if not isinstance(about, Mapping) or "model_type" in table:
        return None
    network = about.get("network")
    name = network.get("name") if isinstance(network, Mapping) else None
    width = f" --width {network['width']}" if isinstance(network, Mapping) and network.get("width") else ""
    return ClatError(
        f"{title} is a folder that clat wrote: in Python clat.from_pretrained, on the command line --model "
        f"{name or 'package.module:factory'}{width} --weights {folder / 'model.safetensors'}"
    )


def _name_outputs(network: Any, names: Sequence[str]) -> None:
    network.config.id2label = dict(enumerate(names))
    network.config.label2id = {name: number for number, name in enumerate(names)}


def _check_complete(network: nn.Module, report: Mapping[str, Any], wanted: NetworkRequest) -> None:
    """Raise ClatError if weights were drawn at random that the folder should have had."""
    mismatched = {entry if isinstance(entry, str) else entry[0] for entry in report.get("mismatched_keys", ())}
    drawn = {*report.get("missing_keys", ()), *mismatched}
    head = last_linear(network)
    if wanted.new_classifier:
        drawn = {name for name in drawn if not name.startswith(head)}
    if not drawn:
        return
    cure = "save a trained image classifier"
    if all(name.startswith(head) for name in drawn):
        cure = 'in a recipe, model.classifier = "new" draws the last layer anew for other classes'
    raise ClatError(f"model '{wanted.name}': {listed('missing or of another shape', drawn)}; {cure}")


def _statistics(folder: Path, network: nn.Module, wanted: NetworkRequest) -> Statistics | None:
    """Return what the image processor does to images in [0, 1], as one normalisation."""
    channels = getattr(getattr(network, "config", None), "num_channels", wanted.in_channels)
    settings: dict[str, Any] = {}
    for file in (folder / name for name in PROCESSORS):
        if file.is_file() and not settings:
            found = read_table(file, f"model '{wanted.name}'")
            settings = found.get("image_processor", found if file.name == PROCESSOR else {})
    if not settings:
        usual = getattr(getattr(network, "config", None), "pretrained_cfg", None)  # of a folder that timm wrote
        if isinstance(usual, Mapping) and usual.get("mean") is not None and usual.get("std") is not None:
            return fitting_statistics(wanted.name, usual["mean"], usual["std"], channels)
        notice(f"model '{wanted.name}' has no image processor: images go in as they are, in [0, 1]")
        return None
    if _of_processor(settings, "do_flip_channel_order", usual=False):
        raise ClatError(
            f"model '{wanted.name}': its image processor swaps red and blue (do_flip_channel_order), which is not"
            " done here: give a function that builds a network which swaps them itself, package.module:factory"
        )
    # The processor sees values of 0 to 255: it scales, may shift by 1, then subtracts and divides.
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    shift = 1.0 if settings.get("rescale_offset", False) else 0.0
    normalises = _of_processor(settings, "do_normalize", usual=True)
    divisions = normalises + _of_processor(settings, "include_top", usual=False)  # EfficientNet's: std once more
    mean, std = settings.get("image_mean") if normalises else 0.0, settings.get("image_std") if divisions else 1.0
    if mean is None or std is None:
        raise ClatError(f"model '{wanted.name}': its image processor normalises, but names no image_mean and std")
    if not divisions and (scale, shift) == (1.0, 0.0):
        return None
    means, stds = fitting_statistics(wanted.name, mean, std, channels)
    return tuple((value + shift) / scale for value in means), tuple(value**divisions / scale for value in stds)


def _of_processor(settings: Mapping[str, Any], name: str, *, usual: bool) -> bool:
    """Return a setting of an image processor; one that its file leaves out is that of the processor's class."""
    if settings.get(name) is not None:
        return bool(settings[name])
    import transformers

    try:
        with _quiet(transformers):
            return bool(getattr(getattr(transformers, str(settings.get("image_processor_type"))), name))
    except Exception:  # no such class, or one that asks for a library that is not here
        return usual


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and log lines away inside; the user's own settings are put back."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
