"""Change train/eval and requires_grad flags, here alone, and put each back as it was.

A blanket `.train()` afterwards would thaw frozen BatchNorm layers, and a blanket `requires_grad_(True)` would thaw
frozen weights; so every flag is kept and restored by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from clat.core.errors import ClatError, unknown
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.guard import guarded
from clat.network.outputs import logits_only
from clat.network.random_states import preserve_random_states

NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers that normalise, and may scale and shift."""

BN_POLICIES = ("frozen", "update", "update-selected")
"""What BatchNorm does during a training stage: `frozen` uses the stored statistics and never changes them,
`update` normalises by the batch and updates the statistics everywhere, `update-selected` does so only in
the BatchNorm layers that directly follow a selected layer, or are part of one that is a whole block."""


@contextmanager
def restore_flags(model: nn.Module) -> Iterator[None]:
    """Keep every module's flags and every parameter's requires_grad as they are, whatever happens inside.

    Args:
        model: the network whose flags are put back.
    """
    training = [(module, module.training) for module in model.modules()]
    tracking = [(bn, bn.track_running_stats) for bn in model.modules() if isinstance(bn, _BatchNorm)]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        # Modules with a `train` of their own do more than set the flag, such as drop what they keep for evaluation.
        own = [(module, flag) for module, flag in training if type(module).train is not nn.Module.train]
        try:
            for module, flag in own:
                with suppress(NotImplementedError):  # of what torch.export made
                    module.train(flag)
        finally:
            for module, flag in training:
                module.training = flag
            for bn, flag in tracking:
                bn.track_running_stats = flag
            for parameter, flag in grads:
                parameter.requires_grad_(flag)


@contextmanager
def attack_mode(model: nn.Module, batch_norm: str = "eval", *, labels: Tensor | None = None) -> Iterator[None]:
    """Show the model as an attack sees it: evaluation mode, no parameter gradients, no trace left behind.

    Buffers that a forward pass changes in any mode (counters, say) and the global random states are restored too,
    for models that draw random numbers in their forward pass. A model that returns more than logits returns those
    alone. The input that it is given is copied (`clat.network.guard`).

    Args:
        model: the network, in any mode.
        batch_norm: "eval" uses the stored statistics; "train" normalises by the batch, as some published recipes do
            (Fast-AT, AWP), where the model does so now, and still leaves the stored statistics untouched.
        labels: (N,) int64; the model's first output is then refused unless it is logits for all of them.

    Raises:
        ClatError: there is no such `batch_norm`, `torch.inference_mode` is on, or the first output is refused.
    """
    if batch_norm not in ("eval", "train"):
        raise unknown("BatchNorm mode of an attack", batch_norm, ("eval", "train"))
    if torch.is_inference_mode_enabled():
        raise ClatError("torch.inference_mode() is on, where no gradient exists: use torch.no_grad() instead")
    training = [bn for bn in batch_norms(model) if bn.training]  # others are frozen: the loss sees them so too
    with (
        restore_flags(model),
        preserve_buffers(model),
        computed_kept(model),
        preserve_random_states(model),
        logits_only(model),
        guarded(model, labels, directions=True),
    ):
        _evaluating(model)
        model.requires_grad_(False)
        if batch_norm == "train":
            for bn in training:
                bn.training = True
                bn.track_running_stats = False  # so torch normalises by the batch and writes nothing down
        with frozen_norms_lean(model):
            yield


def _evaluating(model: nn.Module) -> None:
    """Put the network into evaluation mode; one that torch.export made has but the mode it was made in."""
    try:
        model.eval()
    except NotImplementedError:
        for module in model.modules():
            module.training = False


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Keep every buffer the same tensor with the same content, whether it is changed in place or replaced inside.

    Args:
        model: the network whose buffers are put back.
    """
    kept = [
        (module, name, buffer, None if buffer is None else (buffer._version, buffer.detach().clone()))
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for module, name, buffer, copy in kept:
            module._buffers[name] = buffer
            if buffer is None or copy is None:
                continue
            if buffer.shape != copy[1].shape:  # an observer's, which grows when it sees its first image
                with torch.no_grad():
                    buffer.set_(copy[1])  # type: ignore[call-overload]
            elif buffer._version != copy[0]:
                with torch.no_grad():
                    buffer.copy_(copy[1])
            elif 0 not in buffer.stride():
                # BatchNorm's own kernels change statistics and leave the version as it is; so does `.data`. What is
                # expanded can be written to by neither.
                buffer.data.copy_(copy[1])


@contextmanager
def computed_kept(model: nn.Module) -> Iterator[None]:
    """Keep the weights that a hook computes before each forward pass the tensors that they were, history and all.

    That is what the older weight_norm and spectral_norm, and prune, do.

    Args:
        model: the network whose computed weights are put back.
    """
    kept = [
        (module, {key: value for key, value in vars(module).items() if isinstance(value, Tensor)})
        for module in model.modules()
        if module._forward_pre_hooks
    ]
    try:
        yield
    finally:
        for module, tensors in kept:
            vars(module).update(tensors)


@contextmanager
def in_layout(model: nn.Module, memory_format: torch.memory_format) -> Iterator[None]:
    """Hold parameters and buffers in another memory layout while the code inside runs.

    Afterwards they are the tensors they were: what changes them inside is lost.

    Args:
        model: the network.
        memory_format: the layout, such as `torch.channels_last`.
    """
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    with preserve_buffers(model):
        try:
            model.to(memory_format=memory_format)  # type: ignore[call-overload]
            yield
        finally:
            for parameter, data in parameters:
                parameter.data = data


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return every BatchNorm module of the model.

    Args:
        model: any network.

    Returns:
        The modules, each once, in the order in which the network registers them.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def tracking_instance_norms(model: nn.Module) -> list[_InstanceNorm]:
    """Return every InstanceNorm module that keeps statistics, which few do.

    Args:
        model: any network.

    Returns:
        The modules, each once.
    """
    return [part for part in model.modules() if isinstance(part, _InstanceNorm) and part.running_mean is not None]


def set_training(
    model: nn.Module, updating: set[_BatchNorm] | None, moving: Collection[nn.Module] | None = None
) -> None:
    """Set the training mode of every module for a stage.

    Args:
        model: the network.
        updating: the BatchNorm modules that use and update batch statistics (None: all of them); the others, and
            InstanceNorm that keeps statistics, go on with their stored ones.
        moving: the layers that move (None: all). Elsewhere a spectral norm does not iterate, by which each forward
            pass would change a weight that is to stay.
    """
    model.train()
    if updating is not None:
        for norm in (*batch_norms(model), *tracking_instance_norms(model)):
            norm.training = norm in updating
    if moving is not None:
        within = {part for layer in moving for part in layer.modules()}
        for module in model.modules():
            if module not in within and _iterates(module):
                module.training = False


def _iterates(module: nn.Module) -> bool:
    """Return whether a module is a spectral norm by power iteration: a parametrization, or the older hook."""
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


@contextmanager
def preserve_statistics(model: nn.Module) -> Iterator[None]:
    """Keep forward passes inside from updating the statistics of BatchNorm and InstanceNorm, whatever mode each
    layer is in.

    Args:
        model: the network whose statistics stay.
    """
    tracking = [(bn, bn.track_running_stats) for bn in batch_norms(model) if bn.training]
    instance = [
        (norm._buffers, norm.running_mean, norm.running_var)
        for norm in tracking_instance_norms(model)
        if norm.training
    ]
    try:
        for bn, _ in tracking:
            bn.track_running_stats = False
        for buffers, _, _ in instance:  # whose statistics follow also where they are not to be tracked
            buffers.update(running_mean=None, running_var=None)
        yield
    finally:
        for bn, flag in tracking:
            bn.track_running_stats = flag
        for buffers, mean, var in instance:
            buffers.update(running_mean=mean, running_var=var)
