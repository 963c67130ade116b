"""`timm:NAME`: networks of timm, with the normalisation of their `pretrained_cfg`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clat.core.errors import ClatError, unknown
from clat.core.notices import notice
from clat.models.libraries import (
    LibraryNetwork,
    NetworkRequest,
    fitting_statistics,
    import_library,
    one_line_errors,
    untrained,
)
from clat.models.reading import refuse_bombs

INSTALL = "pip install timm"
_STORED = ("local-dir", "hf-hub", "hf_hub")
"""timm's own prefixes of names that stand for weights in a folder or on the hub."""


def build_timm(wanted: NetworkRequest) -> LibraryNetwork:
    """Return a network of timm.

    Args:
        wanted: Its name is one of timm's, with or without a tag, or "timm:local-dir:FOLDER". With `pretrained` the
            network has the classes that it was trained on, unless the classifier is to be new.

    Returns:
        The network, and the normalisation of its `pretrained_cfg`.

    Raises:
        ClatError: timm is missing, the name or an argument unknown, or weights cannot be had.
    """
    timm = import_library("timm", wanted, INSTALL)
    wanted.refuse(("checkpoint_path",), "name the file as the model's weights")
    source, _, place = wanted.identifier.rpartition(":")
    if source not in ("", *_STORED):
        raise unknown("source of a timm model", source, _STORED)
    if not source and not timm.is_model(place.partition(".")[0]):
        raise unknown("timm model", place, timm.list_models())
    if source == "local-dir":
        _check_folder(Path(place), wanted)
    args: dict[str, Any] = {"in_chans": wanted.in_channels, "pretrained": bool(source), **wanted.args}
    args["pretrained"] = args["pretrained"] and not wanted.weights_follow
    if wanted.new_classifier and not args["pretrained"]:
        raise untrained(wanted)
    if not (args["pretrained"] and wanted.own_classes):
        args.setdefault("num_classes", wanted.num_classes)
    with one_line_errors(wanted):
        network = timm.create_model(wanted.identifier, **args)
    config = getattr(network, "pretrained_cfg", None) or {}
    if not config.get("mean") or not config.get("std"):
        notice(
            f"model '{wanted.name}': its configuration names no mean and std, images go in as they are, in [0, 1]"
        )
        return LibraryNetwork(network, None)
    statistics = fitting_statistics(wanted.name, config["mean"], config["std"], args["in_chans"])
    return LibraryNetwork(network, statistics)


def _check_folder(folder: Path, wanted: NetworkRequest) -> None:
    if not (folder / "config.json").is_file():
        raise ClatError(
            f"model '{wanted.name}': there is no config.json in {folder}; name a folder that timm saved"
        )
    for file in (*folder.glob("*.bin"), *folder.glob("*.pt*")):
        refuse_bombs(file)
