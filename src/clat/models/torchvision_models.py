"""`torchvision:NAME`: networks of torchvision, with the normalisation that their trained weights belong to."""

from __future__ import annotations

from typing import Any

from clat.core.errors import unknown
from clat.models.files import fit_state
from clat.models.libraries import (
    TORCHVISION,
    LibraryNetwork,
    NetworkRequest,
    fitting_statistics,
    import_library,
    one_line_errors,
    untrained,
)

TRAINED_ARGUMENTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True},
    "googlenet": {"transform_input": True, "aux_logits": False},
}
"""What torchvision adds to a network's arguments where it comes with trained weights."""


def build_torchvision(wanted: NetworkRequest) -> LibraryNetwork:
    """Return a network of torchvision.

    Args:
        wanted: Its arguments may be `weights`, the name of trained weights, or `pretrained`, for the usual ones.
            With them the network has the classes that it was trained on, unless the classifier is to be new.

    Returns:
        The network, and the normalisation that its trained weights belong to.

    Raises:
        ClatError: torchvision is missing, the name or an argument unknown, or weights cannot be had.
    """
    models = import_library("torchvision.models", wanted, TORCHVISION)
    name = wanted.identifier
    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    args: dict[str, Any] = dict(wanted.args)
    trained = models.get_model_weights(name)
    entry = args.pop("weights", "DEFAULT" if args.pop("pretrained", False) else None)
    if entry is not None and entry not in trained.__members__:
        raise unknown(f"weights of {wanted.name}", entry, trained.__members__)
    if wanted.new_classifier and entry is None:
        raise untrained(wanted)
    if entry is not None and wanted.weights_follow:
        args = {**TRAINED_ARGUMENTS.get(name, {}), **args}
    with one_line_errors(wanted):
        network = None if entry is None or wanted.weights_follow else models.get_model(name, weights=entry, **args)
        if network is None or wanted.new_classifier:
            fresh = models.get_model(name, weights=None, **{"num_classes": wanted.num_classes, **args})
            if network is not None:
                fit_state(fresh, network.state_dict(), f"of {wanted.name}", new_classifier=True)
            network = fresh
        usual = trained[entry or "DEFAULT"].transforms()
    return LibraryNetwork(network, fitting_statistics(wanted.name, usual.mean, usual.std, wanted.in_channels))
