"""Run a network and note the calls of its layers: what enters and leaves them, and what depends on the image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from clat.network import modes
from clat.network.calls import CallCounter
from clat.network.compiled import parts_as_written
from clat.network.graph import nodes_behind
from clat.network.outputs import first_tensor, tensor_arguments

LAYER_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear, nn.Bilinear),
    "attention": (nn.MultiheadAttention,),
}
_SHORTCUT = re.compile(r"shortcut|downsample|skip", re.IGNORECASE)


Call = tuple[str, int]
"""The name of a module, and which of its calls, from 0."""


@dataclass
class Seen:
    """A call of a layer, as the tracing run noted it.

    It keeps for each tap the tensor, its version counter (to find later in-place changes) and, for the functional
    ones, the number of the call, from the layer's own on; `began`: how many calls of each kind came before that.
    """

    name: str
    number: int
    module: nn.Module
    kind: str
    taps: dict[str, tuple[Tensor, int, int]]
    began: dict[str, int]
    norm_name: str | None = None

    def __init__(
        self,
        call: Call,
        module: nn.Module,
        kind: str,
        arguments: Mapping[int | str, Tensor],
        output: Tensor,
        *,
        values: bool,
    ) -> None:
        (self.name, self.number), self.module, self.kind = call, module, kind
        self.shape = output.shape
        self.input_shapes = {key: value.shape for key, value in arguments.items()}
        # Any of them may be overwritten later in the pass.
        kept = {id(value): value.detach().clone() for value in arguments.values() if values}
        self.entering = {key: kept[id(value)] for key, value in arguments.items() if values}
        self.values = output.detach().clone() if values else None
        self.differentiable = output.requires_grad
        self.made_by = output.grad_fn
        self.differentiable_inputs = {key for key, value in arguments.items() if value.requires_grad}
        self.taps = {"output": (output, output._version, -1)}
        self.began = {}

    @property
    def where(self) -> Call:
        return self.name, self.number

    @property
    def output(self) -> Tensor:
        return self.taps["output"][0]

    def call(self, tap: str) -> int | None:
        return self.taps[tap][2] if tap in self.taps else None

    def overwritten(self) -> frozenset[str]:
        return frozenset(tap for tap, (value, version, _) in self.taps.items() if value._version != version)


def kind_of(module: nn.Module) -> str | None:
    """Return the kind of a layer.

    Args:
        module: any module.

    Returns:
        "conv", "linear" or "attention"; None for any other module.
    """
    return next((kind for kind, types in LAYER_KINDS.items() if isinstance(module, types)), None)


class Traced(NamedTuple):
    """What a pass shows.

    Attributes:
        seen: the calls in forward order.
        logits: None if the network gives no tensor.
        calls: how often each layer ran.
        several: the network returns more than a tensor.
    """

    seen: dict[Call, Seen]
    logits: Tensor | None
    calls: Counter[str]
    several: bool


def trace(
    model: nn.Module, x: Tensor, include: Sequence[str], noted: Callable[[str, int], bool], *, values: bool = False
) -> Traced:
    """Run `model` once and note those calls of layers that `noted` wants, with what follows their output.

    Args:
        model: any network, in any mode.
        x: images, (N, C, H, W) in [0, 1]; if they require a gradient, the pass has a graph.
        include: name patterns; one that fits no convolution, linear or attention layer names other modules.
        noted: takes a module's name and the number of its call, from 0.
        values: whether to keep what entered the layers and came out.

    Returns:
        The calls, the logits, and what else there is to say.
    """
    seen: dict[Call, Seen] = {}
    calls = Counter[str]()
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if kind_of(module) is not None]
    others = [pattern for pattern in include if not any(fnmatchcase(name, pattern) for name in layers)]
    running_norm: list[str] = []

    def note_layer(name: str, kind: str, module: nn.Module) -> RemovableHandle:
        def hook(module: nn.Module, args: Any, named: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is None:
                return
            where = name, calls[name]
            calls[name] += 1
            if noted(*where):
                seen[where] = Seen(where, module, kind, tensor_arguments(args, named), tensor, values=values)
                seen[where].began = dict(counter.counts)

        return module.register_forward_hook(hook, with_kwargs=True)

    def note_call(kind: str, number: int, argument: Any, result: Any) -> None:
        if kind == "norm":
            for entry in seen.values():
                if "norm" not in entry.taps and argument is entry.output:
                    entry.taps["norm"] = (result, result._version, number - entry.began["norm"])
                    entry.norm_name = running_norm[-1] if running_norm else None
            return
        main_path = [entry for entry in seen.values() if not is_shortcut(entry)]
        if main_path and "activation" not in main_path[-1].taps:
            last = main_path[-1]
            last.taps["activation"] = (result, result._version, number - last.began["activation"])

    counter = CallCounter(note_call)
    hooks = []
    for name, module in modules.items():
        kind = kind_of(module)
        if kind is None and name and matches(name, others) and any(True for _ in module.parameters()):
            kind = "other"
        inside_attention = isinstance(modules.get(name.rpartition(".")[0]), nn.MultiheadAttention)
        if kind is not None and not inside_attention:
            hooks.append(note_layer(name, kind, module))
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(lambda m, a, name=name: running_norm.append(name)))
            hooks.append(module.register_forward_hook(lambda m, a, out: running_norm.clear()))
    try:
        with modes.attack_mode(model), parts_as_written(model), torch.set_grad_enabled(x.requires_grad), counter:
            output = model(x.clone() if x.requires_grad else x)  # a leaf cannot be changed in place
            several = getattr(model.forward, "several", False)  # `attack_mode` has the guard stand in for it
    finally:
        for hook in hooks:
            hook.remove()
    return Traced(seen, first_tensor(output), calls, several)


def is_shortcut(entry: Seen) -> bool:
    """Return whether a layer is a projection shortcut: a 1x1 convolution under a name that says so.

    The kernel size keeps the downsampling convolutions of the main path, which some networks call `downsample` as
    well.

    Args:
        entry: a call of the layer.

    Returns:
        True where it is one.
    """
    if entry.kind != "conv" or not _SHORTCUT.search(entry.name):
        return False
    kernel: tuple[int, ...] = entry.module.kernel_size  # type: ignore[assignment]
    return all(side == 1 for side in kernel)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name fits one of several patterns.

    Args:
        name: of a module.
        patterns: such as "layer3.*".

    Returns:
        True where one fits, upper and lower case apart.
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Runs:
    """What three passes show of a network's layers: of one image twice, of it three times, of it and another one.

    `noted(name, call)` says which calls of each module they note. Two images at least: of one alone, a network that
    calls squeeze() gives logits without a batch axis.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, include: Sequence[str], noted: Callable[[str, int], bool]
    ) -> None:
        self.model, self.x, self.include, self.noted = model, x, include, noted
        self.twice, self.logits, self.calls, self.several = trace(
            model, x[:1].repeat_interleave(2, 0), include, noted, values=True
        )
        three = trace(model, x[:1].repeat_interleave(3, 0), include, noted)[0]
        self.shapes = {where: (entry.shape, entry.input_shapes) for where, entry in three.items()}
        self.pair = torch.cat([x[:1], _another(x[:1])]).detach()
        self.other = trace(model, self.pair, include, noted, values=True)[0]

    @cached_property
    def _with_gradient(self) -> Traced | None:
        try:
            return trace(self.model, self.pair.clone().requires_grad_(True), self.include, self.noted)
        except RuntimeError:
            return None

    @property
    def gradients(self) -> dict[Call, Seen] | None:
        """What a pass shows whose images want a gradient; None where there is none, as by way of NumPy."""
        return self._with_gradient.seen if self._with_gradient else None

    def unused(self, entries: Sequence[Seen]) -> set[str]:
        """Return which layers the logits do not depend on, such as those of a decoder beside the classifier.

        Of a network that returns the logits alone there are none. They are looked for among those that no gradient
        leads to from the logits. A gradient may end where values go on; so each of these is one only if other
        values in its place leave the logits what they are.

        Args:
            entries: calls of layers.

        Returns:
            Some of their names.
        """
        if not self.several or self.logits is None or not has_values(self.logits) or self._with_gradient is None:
            return set()
        seen, logits = self._with_gradient[:2]
        if logits is None or logits.grad_fn is None:
            return set()
        behind = nodes_behind([logits.grad_fn])
        apart = {name for (name, _), entry in seen.items() if entry.made_by and entry.made_by not in behind}
        return {
            entry.name for entry in entries if entry.name in apart and entry.kind != "other" and self._idle(entry)
        }

    def _idle(self, entry: Seen) -> bool:
        """Return whether the logits stay whatever a layer gives: its negative, or noise, small and large."""
        return all(self._same_logits(entry, share, scale) for share, scale in ((-1.0, 0.0), (0.0, 1.0), (1.0, 1e3)))

    def _same_logits(self, entry: Seen, share: float, scale: float) -> bool:
        def replace(value: Tensor) -> Tensor:
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
            return share * value + scale * noise.to(value)

        def replaced(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):  # attention's
                return tuple(None if one is None else replace(one) for one in output)
            return replace(output)

        handle = entry.module.register_forward_hook(replaced)
        try:
            logits = trace(self.model, self.x[:1].repeat_interleave(2, 0), self.include, lambda *_: False).logits
        finally:
            handle.remove()
        return logits is not None and self.logits is not None and torch.equal(logits, self.logits)

    def grows(self, entry: Seen) -> bool:
        """Return whether the output of a call grows with the batch."""
        return entry.where not in self.shapes or entry.shape != self.shapes[entry.where][0]

    def axis(self, entry: Seen) -> int:
        """Return the axis of the batch in the output."""
        return batch_axis(entry.shape, self.shapes.get(entry.where, (entry.shape, {}))[0])

    def input_shapes(self, entry: Seen, key: int | str | None) -> tuple[torch.Size, torch.Size]:
        """Return the shapes of an argument for two samples and for three; those of nothing where there is none."""
        two = entry.input_shapes.get(key, torch.Size([1])) if key is not None else torch.Size([1])
        _, three = self.shapes.get(entry.where, (entry.shape, {}))
        return two, three.get(key, two) if key is not None else two

    def differs(self, entry: Seen) -> bool:
        """Return whether what a call gets or gives differs between two images, or nobody can tell."""
        other = self.other.get(entry.where)
        if entry.where not in self.shapes or other is None or other.values is None or not has_values(other.values):
            return True
        if not _same_rows(other.values.movedim(self.axis(entry), 0)):
            return True
        return any(self.input_differs(entry, key) for key in entry.input_shapes)

    def input_differs(self, entry: Seen, key: int | str) -> bool:
        """Return whether an argument grows with the batch and differs between two images."""
        two, three = self.input_shapes(entry, key)
        value = self.other[entry.where].entering.get(key)
        return two != three and value is not None and not _same_rows(value.movedim(batch_axis(two, three), 0))

    def reached(self) -> list[Seen]:
        """Return the calls that images reach: they have a batch axis, and what they get or give differs between two
        images, or a gradient leads back to these, as from one that is dead for both."""
        growing = [entry for entry in self.twice.values() if self.grows(entry)]
        alike = {entry.where for entry in growing if not self.differs(entry)}
        if alike:
            if self.gradients is None:
                return growing
            alike -= {entry.where for entry in self.gradients.values() if entry.differentiable}
        return [entry for entry in growing if entry.where not in alike]

    def input_argument(self, entry: Seen) -> int | str | None:
        """Return which argument is what enters a layer; None: the first tensor, which is so unless it is a constant
        and another one depends on the image."""
        other = self.other.get(entry.where)
        if len(entry.input_shapes) < 2 or other is None or other.values is None or not has_values(other.values):
            return None
        first = next(iter(entry.input_shapes))
        if self.input_differs(entry, first):
            return None
        traced = (self.gradients or {}).get(entry.where)
        led_to = traced.differentiable_inputs if traced else set()
        keys = [key for key in entry.input_shapes if key in led_to or self.input_differs(entry, key)]
        return keys[0] if keys and keys[0] != first else None


def _another(x: Tensor) -> Tensor:
    """Return an image that differs from `x`, (1, C, H, W), in most pixels."""
    negative = 1 - x
    return torch.zeros_like(x) if has_values(x) and torch.equal(negative, x) else negative


def has_values(x: Tensor) -> bool:
    """Return whether a tensor holds numbers, other than those that only count what a pass would cost.

    Args:
        x: any tensor.

    Returns:
        False on the device "meta" and for a fake tensor.
    """
    return not x.is_meta and not isinstance(x, FakeTensor)


def _same_rows(value: Tensor) -> bool:
    """Return whether two samples' rows, (2 rows, ...), are the same, in whichever order they are."""
    if len(value) % 2:
        return False
    return torch.equal(*value.chunk(2)) or torch.equal(value[0::2], value[1::2])


def batch_axis(one: torch.Size, two: torch.Size) -> int:
    """Return the axis in which the shapes of two samples and of three differ.

    Args:
        one: the shape for two samples.
        two: the shape for three, of as many axes.

    Returns:
        The first such axis, 0 where there is none.
    """
    return next((axis for axis, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), 0)
