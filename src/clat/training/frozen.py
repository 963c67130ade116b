"""Parameters that came in frozen: what a network's owner does not want trained stays as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.network import modes
from clat.network.layers import Layer, layer_parameters


def frozen_names(model: nn.Module) -> list[str]:
    """Return which parameters take no gradient.

    Args:
        model: a network as its owner gives it.

    Returns:
        Their names, in the network's order.
    """
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def frozen_parameters(model: nn.Module) -> frozenset[str]:
    """Return which parameters take no gradient, such as a fixed normalisation or position embedding, and say so.

    Args:
        model: a network as its owner gives it.

    Returns:
        Their names.

    Raises:
        ClatError: all of them are.
    """
    frozen, count = frozen_names(model), len(list(model.parameters()))
    if not frozen:
        return frozenset()
    if len(frozen) == count:
        raise ClatError(
            "all parameters of the model are frozen (requires_grad=False), so that nothing would be trained: "
            "model.requires_grad_(True)"
        )
    verb = "stays as it is" if len(frozen) == 1 else "stay as they are"
    notice(
        f"{len(frozen)} of {count} parameters, {frozen[0]} the first, came in frozen (requires_grad=False) "
        f"and {verb}, with the statistics of BatchNorm among them: model.requires_grad_(True) has all trained"
    )
    return frozenset(frozen)


def movable_layers(model: nn.Module, layers: Sequence[Layer], frozen: Collection[str]) -> list[Layer]:
    """Return the layers that have a parameter which is not frozen.

    Args:
        model: the network, plain.
        layers: some of its layers.
        frozen: names of parameters.

    Returns:
        Some of the layers, in their order.
    """
    # Of tied parameters one name alone is listed.
    kept = {id(parameter) for name, parameter in model.named_parameters() if name in frozen}
    return [layer for layer in layers if any(id(one) not in kept for one in layer_parameters(model, layer.name))]


class Frozen:
    """The parameters of a network that stay, whatever it is turned into meanwhile."""

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        """Note them.

        Args:
            model: the network, plain, as it is trained.
            names: of parameters that stay.
        """
        self._kept = {id(parameter): parameter for name, parameter in model.named_parameters() if name in names}
        norms = (*modes.batch_norms(model), *modes.tracking_instance_norms(model))
        self.norms = [norm for norm in norms if self._all_kept(list(norm.parameters()))]

    def _all_kept(self, parameters: Sequence[nn.Parameter]) -> bool:
        return bool(parameters) and all(id(parameter) in self._kept for parameter in parameters)

    def keep_statistics(self) -> None:
        """Have BatchNorm and InstanceNorm whose scale and shift stay go on with the statistics that they have."""
        for norm in self.norms:
            norm.training = False

    def counted(self, model: nn.Module) -> list[_BatchNorm]:
        """Return the BatchNorm modules whose statistics follow the training.

        Args:
            model: the network.

        Returns:
            All but those that go on with the statistics that they have.
        """
        return [norm for norm in modes.batch_norms(model) if norm not in self.norms]

    def without(self, model: nn.Module, found: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Leave them out.

        Args:
            model: the network as it is now.
            found: name -> parameter.

        Returns:
            The others; of a frozen weight that low-rank factors were put beside, these stay out as well.
        """
        if not self._kept:
            return dict(found)
        beside = tuple(
            name.removesuffix("original")
            for name, parameter in model.named_parameters()
            if id(parameter) in self._kept and name.endswith(".original")
        )
        return {
            name: parameter
            for name, parameter in found.items()
            if id(parameter) not in self._kept and not (beside and name.startswith(beside))
        }
