"""Fit a state dict into a network: every entry by name and shape, or one line that says what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.models.entries import StateDict
from clat.models.names import STATISTICS_NAMES, Fit, fit_names, surrounded, wrapped_part
from clat.models.normalize import Normalized, Statistics, for_unit_range, parse_normalize

_MOST_CHANNELS = 1024
"""More values than these are no statistics of images' channels."""


@dataclass(frozen=True)
class FittingEntries:
    """Entries for every parameter and buffer of a network, by its names.

    Attributes:
        state: The tensors.
        statistics: The (mean, std) by which a wrapper in the file normalised images for this network, or None.
        remark: What the user is told when the entries are used, if the file holds more than they.
        prefix: What stands before their names in the file, without wrappers, or "".
    """

    state: StateDict
    statistics: Statistics | None
    remark: str | None
    prefix: str

    def put_into(self, model: nn.Module) -> None:
        """Copy the entries into a network, in place.

        Args:
            model: The network that they were fitted to; in a Normalized they go to the network inside.
        """
        if self.remark is not None:
            notice(self.remark)
        # Every tensor was compared before; strictness would only add a foreign module's extra state, not in files.
        bare(model).load_state_dict(self.state, strict=False)


class OtherOutputs(ClatError):
    """Weights fit a network in all but the number of its outputs.

    Args:
        message: The line for the user.
        held: Outputs of the weights.
        own: Outputs of the network.
    """

    def __init__(self, message: str, held: int = 0, own: int = 0) -> None:
        super().__init__(message)
        self.held, self.own = held, own


def bare(model: nn.Module) -> nn.Module:
    """Return the network whose names a weight file has.

    Args:
        model: Any network.

    Returns:
        The one inside a Normalized, DataParallel, AveragedModel and the like, else the model itself; not a copy.
    """
    return model.get_submodule(bare_prefix(model).removesuffix("."))


def bare_prefix(model: nn.Module) -> str:
    """Return what stands before the names of the bare network in a model's state dict.

    Args:
        model: Any network.

    Returns:
        "" for a bare one, else such as "net." or "module.net.".
    """
    part = "net" if isinstance(model, Normalized) else wrapped_part(model)
    return "" if part is None else f"{part}.{bare_prefix(model.get_submodule(part))}"


def fitting_entries(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: object,
    *,
    new_classifier: bool = False,
    key: str | None = None,
) -> FittingEntries:
    """Return what `state` holds for each entry of `model`; the model is not changed.

    Args:
        model: A network, perhaps inside a Normalized.
        state: Tensors under the names of a file.
        source: What error messages and notices call it.
        new_classifier: The last linear layer keeps the weights it has.
        key: The prefix of the names that are meant; None: nobody said.

    Returns:
        An entry for each parameter and buffer of the network.

    Raises:
        ClatError: Something is missing, unexpected, or of another shape or kind; or several networks in it fit.
    """
    net = bare(model)
    expected = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    kept = {name for name in expected if name.endswith("num_batches_tracked")}
    renewed = {name for name in expected if name.startswith(last_linear(net))} if new_classifier else set()
    fit = fit_names(state, expected, expected.keys() - kept - renewed, source, key)
    found = {name: state[fit.names[name]] for name in fit.names.keys() - renewed}
    found |= {name: expected[name] for name in (kept | renewed) - found.keys()}
    unused = tuple(getattr(net, "unused_entries", ()))
    misfits = ((name, _misfit(value, expected[name])) for name, value in found.items())
    problems = [
        listed("missing", expected.keys() - found.keys()),
        listed("unexpected", (name for name in fit.unexpected if not name.startswith(unused))),
        listed("of another shape", (f"{name}: {misfit}" for name, misfit in misfits if misfit)),
    ]
    if any(problems):
        within = f" under '{fit.prefix}'" if fit.prefix else ""
        said = f"weights {source}{within} do not fit {type(net).__name__}: {'; '.join(filter(None, problems))}. "
        sizes = None if any(problems[:2]) else _other_outputs(net, found, expected)
        if sizes is None:
            raise ClatError(f"{said}Check the model's name, width and num_classes")
        held, own = sizes
        raise OtherOutputs(
            f"{said}The weights have {held} outputs, the model {own}: build it with num_classes={held}, or begin "
            'with a new classifier (classifier="new")',
            held,
            own,
        )
    statistics = _statistics_beside(fit, state)
    entries = {name: found[name] for name in expected}
    return FittingEntries(entries, statistics, _remark(fit, source, statistics), fit.prefix)


def last_linear(net: nn.Module) -> str:
    """Return what the entries of the last linear layer begin with: its name and a dot.

    Args:
        net: The network, which registers its layers in forward order.

    Returns:
        The prefix, such as "fc.".

    Raises:
        ClatError: There is no linear layer.
    """
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ClatError(f"{type(net).__name__} has no linear layer that a new classifier could be")
    return f"{linear[-1]}."


def listed(kind: str, names: Iterable[str], most: int = 5) -> str:
    """Return `3 missing (a, b, c)`, with no more names than fit a line.

    Args:
        kind: What they are, "missing".
        names: All names, which are shown in alphabetical order.
        most: How many are shown.

    Returns:
        The text, nothing for no names.
    """
    every = sorted(names)
    shown = ", ".join(every[:most]) + (", ..." if len(every) > most else "")
    return f"{len(every)} {kind} ({shown})" if every else ""


def _misfit(value: Tensor, own: Tensor) -> str | None:
    """Return what keeps a tensor of a file from being copied into the network's, or None."""
    if value.shape != own.shape:
        return f"file {tuple(value.shape)}, model {tuple(own.shape)}"
    kinds = {
        "quantised": value.is_quantized,
        "sparse": value.layout != torch.strided,
        "without values (meta)": value.is_meta,
        "complex": value.is_complex() and not own.is_complex(),
    }
    return next((f"file {kind}, model {own.dtype}" for kind, so in kinds.items() if so), None)


def _other_outputs(
    net: nn.Module, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[int, int] | None:
    """Return the outputs of the weights and of the network, where only the last linear layer differs by them."""
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    misfits = [name for name, value in found.items() if _misfit(value, expected[name])]
    if not linear or {name.rpartition(".")[0] for name in misfits} != {linear[-1]}:
        return None
    shapes = [(found[name].shape, expected[name].shape) for name in misfits]
    sizes = {(held[0], own[0]) for held, own in shapes if held and own and held[1:] == own[1:]}
    whole = len(sizes) == 1 and all(held[1:] == own[1:] and held[:1] != own[:1] for held, own in shapes)
    return sizes.pop() if whole else None


def _statistics_beside(fit: Fit, state: Mapping[str, Tensor]) -> Statistics | None:
    """Return the normalisation that stands in the file beside the network: a mean and a std of one module."""
    pairs: dict[str, dict[int, list[float]]] = {}
    for name in fit.beside:
        module, _, last = name.rpartition(".")
        value = state[name]
        if last in STATISTICS_NAMES and value.numel() <= _MOST_CHANNELS and value.is_floating_point():
            pairs.setdefault(module, {})[STATISTICS_NAMES[last]] = value.flatten().tolist()
    whole = _nearest({module: pair for module, pair in pairs.items() if len(pair) == 2}, fit.prefix)
    if len(whole) != 1:
        return None
    try:
        return parse_normalize(for_unit_range(whole[0][0], whole[0][1]))
    except ClatError:
        return None  # statistics of something else


def _nearest(pairs: Mapping[str, Any], prefix: str) -> list[Any]:
    """Return different values of the modules that stand beside the network or what it is part of, the innermost."""
    above = {module: surrounded(module) for module in pairs}
    around = {module: len(it) for module, it in above.items() if f"{prefix}.".startswith(it)}
    inner = [module for module, length in around.items() if length == max(around.values())]
    values = [pairs[module] for module in (inner or pairs)]
    return [value for number, value in enumerate(values) if value not in values[:number]]


def _remark(fit: Fit, source: object, statistics: Statistics | None) -> str | None:
    """Return what was taken, where the file holds more or leaves a choice."""
    more = []
    if fit.rivals:
        names = ", ".join(f"'{name}'" for name in fit.rivals)
        more.append(f"the file also holds {names}, which weights_key (--weights-key {fit.rivals[0]}) would take")
    if statistics is not None:
        more.append("the normalisation of the file belongs to them")
    elif fit.beside:
        more.append(f"left out {listed('others', fit.beside)}")
    elif (place := fit.prefix.rpartition(".")[2]).isdecimal() and int(place):
        more.append("what came before them, such as a normalisation, is not in the file")
    taken = f"the names under '{fit.prefix}'" if fit.prefix else "the names without a prefix"
    return f"weights {source}: took {taken}; {'; '.join(more)}" if more else None
