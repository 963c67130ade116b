"""A network as a folder in the manner of the Hugging Face hub: weights, configuration, model card.

    model.safetensors   the weights, with the normalisation in their header
    config.json         which network it is, for `clat.from_pretrained`
    README.md           the model card

A network of transformers is written as transformers writes it. Code that a folder names is never executed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clat.core.errors import ClatError
from clat.core.files import claim_output
from clat.core.notices import notice
from clat.core.version import __version__
from clat.data.classes import are_numbers
from clat.evaluation.result import EvaluationRecord
from clat.models import huggingface
from clat.models.files import load_weights, save_weights
from clat.models.fitting import bare, fitting_entries
from clat.models.normalize import IDENTITY, Statistics, parse_normalize, same_statistics, statistics_of
from clat.models.registry import MODELS, load_model
from clat.models.settings import NetworkConfig
from clat.models.torchvision_models import TRAINED_ARGUMENTS
from clat.network import modes
from clat.network.edge import unwrapped
from clat.network.fingerprint import device_of, fingerprint, structure_hash
from clat.network.outputs import logits_of
from clat.network.random_states import preserve_random_states
from clat.publishing.card import model_card, write_card_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SETTINGS = ("args", "width", "depths", "activation", "input_size")
"""What a configuration says beside the network's name; all else goes with the weights."""
_BUILT_BY_NAME = ("timm:", "torchvision:", "robustbench:")
"""Networks of libraries that a configuration may name; a factory of somebody's own it may not."""


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    network: NetworkConfig | str | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    class_names: Sequence[str] = (),
    results: Iterable[EvaluationRecord | str | Path] = (),
    title: str | None = None,
) -> Path:
    """Write a network as a folder that `clat.from_pretrained` reads, with a model card.

    Args:
        model: any network; one of transformers becomes a folder that transformers reads too.
        folder: a new folder.
        network: what `clat.load_model` calls it: a name, or a recipe's `[model]`. None: whoever reads the folder
            has to bring the network.
        num_classes: the network's outputs; None: as many as there are class names, else as its last linear layer
            has.
        in_channels: of its images.
        class_names: in the order of its outputs.
        results: of `clat.evaluate` for this network, or their files; they become the card's table.
        title: of the card; None: the folder's name.

    Returns:
        The folder.

    Raises:
        ClatError: the folder is taken or cannot be written, a file holds no result or one of other weights, or
            `network` names another network than this.
    """
    folder = Path(folder)
    records = [one if isinstance(one, EvaluationRecord) else EvaluationRecord.from_json(one) for one in results]
    config = NetworkConfig(name=network) if isinstance(network, str) else network
    described = {} if config is None else _described(config)
    for record in records:
        _check_result(model, record)
    text = model_card(
        title or folder.name,
        network=described,
        class_names=class_names,
        results=records,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    if _of_transformers(model):
        huggingface.save_pretrained(model, folder, () if are_numbers(class_names) else class_names)
        write_card_file(folder, text)
        return folder
    outputs = num_classes or len(class_names) or _outputs(model)
    if config is not None:
        _check_name(model, config, outputs, in_channels)
    claim_output(folder)
    data = {
        "architectures": [type(bare(model)).__name__],
        "library_name": "clat",
        "clat": {
            "version": __version__,
            "network": described or None,
            "num_classes": outputs,
            "in_channels": in_channels,
        },
        "id2label": {str(number): name for number, name in enumerate(class_names)},
    }
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
            whole = Path(place) / "whole"  # a reader finds the folder complete, or none
            whole.mkdir()
            save_weights(model, whole / WEIGHTS)
            (whole / CONFIG).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            write_card_file(whole, text)
            whole.rename(folder)
    except OSError as error:
        raise ClatError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _check_result(model: nn.Module, record: EvaluationRecord) -> None:
    """Refuse the result of another network, as far as it says whose it is.

    One of another structure may be of this one in a wrapper or another precision.
    """
    weights, structure = record.text("network", "weights"), record.text("network", "structure")
    if weights is None:
        return
    if weights == fingerprint(bare(model)):
        said, own = record.data["network"].get("normalize", ""), statistics_of(model)
        if said != "" and not _same(said, own):
            raise ClatError(
                f"{record.name} is a result under another normalisation ({said or 'none'}) than this network's"
                f" ({own or 'none'}): evaluate this network"
            )
        return
    if structure == structure_hash(bare(model)):
        raise ClatError(f"{record.name} is a result of other weights than these: evaluate this network")
    notice(f"{record.name} is of a network with other names or types: whether its weights were these is not known")


def _same(recorded: Any, own: Statistics | None) -> bool:
    """Return whether a recorded normalisation is the network's."""
    try:
        return same_statistics(parse_normalize(recorded) or IDENTITY, own or IDENTITY)
    except ClatError:
        return False


def from_pretrained(source: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Return the network of a folder that `save_pretrained` wrote, here or on the Hugging Face hub.

    Args:
        source: the folder, or "owner/name" on the hub.
        model: the network to put the weights into, for one that was built by code of somebody's own.

    Returns:
        The network in evaluation mode: images in [0, 1] to logits.

    Raises:
        ClatError: there is no such folder, the hub cannot be reached, or the weights do not fit.
    """
    wanted = (CONFIG, WEIGHTS, *huggingface.PROCESSORS)
    folder = huggingface.model_folder(str(source), f"model '{source}'", wanted)
    data = huggingface.read_table(folder / CONFIG, f"model '{source}'")
    ours = data.get("clat")
    if model is not None:
        processed = any((folder / name).is_file() for name in huggingface.PROCESSORS)
        if processed and not isinstance(ours, dict) and "auto_map" not in data and statistics_of(model) is None:
            raise ClatError(
                f"model '{source}' is a folder of transformers, which builds the network and knows its"
                " normalisation: leave model out, or wrap it in clat.Normalized"
            )
        load_weights(model, folder / WEIGHTS)
        if isinstance(ours, dict):
            _name_outputs(model, data.get("id2label"), _outputs(model))
        return model.eval()
    if not isinstance(ours, dict):
        classes = len(data.get("id2label") or {}) or 10
        return load_model(f"hf:{source}", num_classes=classes).eval()
    network = ours.get("network")
    name = network.get("name") if isinstance(network, dict) else None
    if not isinstance(name, str) or not _is_built_by_name(name):
        built = f"'{name}', which" if name else f"a {_first(data.get('architectures'))}, which"
        raise ClatError(
            f"model '{source}' is {built} code of its own builds: give the network to put the weights into, "
            "from_pretrained(..., model=...)"
        )
    try:
        config = NetworkConfig(**dict(network or {}))
        num_classes, in_channels = int(ours["num_classes"] or 10), int(ours.get("in_channels") or 3)
    except (TypeError, ValueError, KeyError) as error:
        raise ClatError(f"model '{source}': {CONFIG} is damaged ({error}); save the network again") from None
    found = load_model(name, **_settings(config, num_classes, in_channels), weights=folder / WEIGHTS).eval()
    _name_outputs(found, data.get("id2label"), num_classes)
    return found


def _name_outputs(model: nn.Module, names: object, num_classes: int | None) -> None:
    """Have a network know what its outputs are called, by which the order of the data's classes is checked."""
    if isinstance(names, dict) and len(names) == num_classes:
        bare(model).class_names = tuple(names.values())  # type: ignore[assignment]


def _is_built_by_name(name: str) -> bool:
    """Return whether others can build a network by its name; a folder of timm's is on this machine alone."""
    if name.startswith("timm:local-dir:"):
        return False
    return name != "mixture" and (":" not in name or name.startswith(_BUILT_BY_NAME))


def _settings(config: NetworkConfig, num_classes: int, in_channels: int) -> dict[str, Any]:
    """Return what a reader builds the network with, beside its name."""
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    return {key: getattr(config, key) for key in SETTINGS} | sizes


def _outputs(model: nn.Module) -> int | None:
    """Return the outputs of the last linear layer; None where there is none."""
    linear = [module for module in bare(model).modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features if linear else None


def _check_name(model: nn.Module, config: NetworkConfig, num_classes: int | None, in_channels: int) -> None:
    """Refuse a name and settings under which a reader would build a network that the weights do not fit.

    It is built without values. What a library does not build so, or builds from files, is not looked at.
    """
    known = replace(config, weights=None, weights_key=None, **_without_weights(config))
    if not _is_built_by_name(known.name) or known.is_trained:
        return
    try:
        with preserve_random_states(nn.Identity()), torch.device("meta"):
            named = load_model(known.name, **_settings(known, num_classes or 10, in_channels))
    except Exception:
        if ":" in known.name:
            return
        raise
    fitting_entries(named, bare(model).state_dict(), f"of this network, to be called '{known.name}',")
    if known.name in MODELS:
        _check_function(model, known, num_classes or 10, in_channels)


def _check_function(model: nn.Module, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
    """Refuse a name under which a reader would build another function of the same weights."""
    model = unwrapped(model)  # processes wait for one another in a wrapper
    own = bare(model)
    place = device_of(own, torch.device("cpu"))
    kind = next((value.dtype for value in own.parameters()), torch.float32)
    with preserve_random_states(own), torch.inference_mode(False), torch.no_grad():
        settings = _settings(config, num_classes, in_channels)
        named = load_model(config.name, **settings, normalize=statistics_of(model))
        fitting_entries(named, own.state_dict(), "of this network").put_into(named)
        named = named.to(place, kind)
        x = torch.rand((2, in_channels, 32, 32), generator=torch.Generator().manual_seed(0), device="cpu")
        with modes.attack_mode(model), modes.attack_mode(named):
            ours, theirs = (logits_of(one(x.to(place, kind))) for one in (model, named))
    near = 1e-2 * float(ours.nan_to_num().abs().max())
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-2, atol=near, equal_nan=True):
        raise ClatError(
            f"this network is not '{config.name}' with these settings: they take the same weights, and other logits"
            " come out; name the one that it is, or none"
        )


def _described(config: NetworkConfig) -> dict[str, Any]:
    """Return what names the network again; where its weights came from, and its normalisation, which goes with the
    weights, are left out."""
    found = {key: getattr(config, key) for key in ("name", *SETTINGS)} | _without_weights(config)
    return {key: value for key, value in found.items() if value is not None}


def _without_weights(config: NetworkConfig) -> dict[str, Any]:
    """Return the arguments of a network whose weights follow."""
    given = config.args or {}
    args = {key: value for key, value in given.items() if key not in ("pretrained", "weights")}
    if given.get("pretrained") or given.get("weights"):
        args = {**TRAINED_ARGUMENTS.get(config.name.removeprefix("torchvision:"), {}), **args}
    return {"args": args or None}


def _of_transformers(model: nn.Module) -> bool:
    return type(bare(model)).__module__.partition(".")[0] == "transformers" and hasattr(bare(model), "config")


def _first(names: Any) -> str:
    return str(names[0]) if isinstance(names, list) and names else "network"


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return what a folder's config.json says.

    Args:
        folder: one that `save_pretrained` or transformers wrote.

    Returns:
        The file's entries by name, unchecked.

    Raises:
        ClatError: there is none, or it is damaged.
    """
    return huggingface.read_table(folder / CONFIG, f"model '{folder}'")
