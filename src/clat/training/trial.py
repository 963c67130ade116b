"""Checks of a network before a run starts: tried on an image, in the modes that the run will use it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.models.fitting import bare
from clat.models.inputs import advice
from clat.network import modes
from clat.network.edge import Scripted, unwrapped
from clat.network.guard import FLOATS, guarded
from clat.network.logits import check_output
from clat.network.outputs import left_out, left_out_text, logits_of
from clat.network.random_states import preserve_random_states


def trainable(model: nn.Module) -> nn.Module:
    """Return a user's network without the wrapper of torch.compile.

    Args:
        model: any network.

    Returns:
        The network itself, not a copy.

    Raises:
        ClatError: it is TorchScript, or its weights are not float32, in which recipes train.
    """
    model = unwrapped(model)
    if isinstance(model, Scripted):
        raise ClatError("the network is TorchScript, which is not trained: give the nn.Module it was made from")
    types = {parameter.dtype: name for name, parameter in model.named_parameters() if parameter.dtype in FLOATS}
    other = next((kind for kind in types if kind != torch.float32), None)
    if other is not None:
        whose = "the model's weights are" if len(types) == 1 else f"the model's parameter '{types[other]}' is"
        text = str(other).removeprefix("torch.")
        raise ClatError(f"{whose} {text}, but training is in float32: use model.float()")
    return model


@contextmanager
def tried(model: nn.Module, x: Tensor, mode: str) -> Iterator[None]:
    """Turn whatever a forward pass inside raises into one line, and tell which outputs are left out.

    Args:
        model: the network that runs inside; it may be within a Normalized.
        x: the images (N, C, H, W) that it runs on.
        mode: what the message calls the mode: "" or "in training mode ".

    Yields:
        Nothing; the body runs.

    Raises:
        ClatError: the pass failed; with the images' shape, and what the network says that it takes.
    """
    author = bare(model)
    with left_out(author) as others:
        try:
            yield
        except Exception as error:  # a network of anybody's, which may raise anything
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
            shape = tuple(x.shape[1:])
            raise ClatError(
                f"the model does not run {mode}on images of shape {shape}: {reason}{advice(model, shape)}"
            ) from error
    if others:
        notice(left_out_text(author, others, mode))


def check_model(model: nn.Module, x: Tensor, num_classes: int, *, exactly: str | None = None) -> None:
    """Raise an error unless a network turns an image into enough logits.

    Args:
        model: the network; it runs once in evaluation mode and is left as it was.
        x: one image (1, C, H, W) in [0, 1].
        num_classes: how many logits there must be at least.
        exactly: what asks for no more than these either, as labels that are probabilities do; None: nothing.

    Raises:
        ClatError: the network does not run on such images, or gives something else.
    """
    with tried(model, x, ""), modes.attack_mode(model), torch.no_grad():
        logits = model(x)
    check_output(logits, 1)
    if logits.shape[1] < num_classes:
        raise ClatError(f"the model has {logits.shape[1]} classes, the data {num_classes}: give it as many")
    if exactly and logits.shape[1] != num_classes:
        raise ClatError(f"{exactly} needs a model with the data's {num_classes} classes: it has {logits.shape[1]}")


def runs_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Return whether a network runs on images in the channels-last memory layout, with its weights in it too.

    One that calls `view` may not, nor one with three-dimensional convolutions. It is tried as an attack and a step
    use it, forwards and backwards.

    Args:
        model: the network, which runs on images in the usual layout; it is left as it was.
        x: one image (1, C, H, W) in [0, 1].

    Returns:
        False where it does not, which a notice says.
    """
    pair = x.repeat_interleave(2, 0).contiguous(memory_format=torch.channels_last)  # of one image `view` may run
    pair.requires_grad_()
    try:
        with modes.in_layout(model, torch.channels_last), modes.restore_flags(model), preserve_random_states(model):
            for training in (False, True):
                model.train(training)
                with torch.enable_grad(), guarded(model):
                    _go_back(model, pair, logits_of(model(pair)))
    except Exception:  # a network of anybody's, which may raise anything
        notice("the network does not run in the channels-last memory layout: it is trained in the usual one")
        return False
    return True


def check_single(model: nn.Module, x: Tensor) -> None:
    """Raise an error if a network cannot train on a single image.

    BatchNorm cannot normalise by a batch that leaves it one value a channel.

    Args:
        model: the network; it runs once in training mode and is left as it was.
        x: one image (1, C, H, W) in [0, 1].

    Raises:
        ClatError: it cannot.
    """
    with (
        modes.restore_flags(model),
        modes.preserve_buffers(model),
        preserve_random_states(model),
        torch.no_grad(),
    ):
        model.train()
        try:
            model(x)
        except ValueError:
            raise ClatError(
                "one image a batch and process is too few for the model's BatchNorm: raise batch_size"
            ) from None


def check_training_mode(model: nn.Module, x: Tensor, num_classes: int) -> None:
    """Raise an error unless a network can be trained.

    It must have parameters, and give logits in training mode too, where some networks return other things.

    Args:
        model: the network; it is left as it was.
        x: one image (1, C, H, W). Two copies are run, since BatchNorm may not take one.
        num_classes: how many logits there must be at least.

    Raises:
        ClatError: it cannot.
    """
    if next(model.parameters(), None) is None:
        raise ClatError(f"the model, a {type(model).__name__}, has no parameters: there is nothing to train")
    pair = x.repeat_interleave(2, 0)
    with (
        modes.restore_flags(model),
        modes.preserve_buffers(model),
        preserve_random_states(model),
        torch.enable_grad(),
        guarded(model),  # as in a run: it may write into its input
    ):
        model.train()
        unsaved = _unsaved_buffers(model)
        pair = pair.detach().requires_grad_()
        with tried(model, x, "in training mode "):
            logits = logits_of(model(pair))
        _tell_unsaved(model, unsaved)
        with tried(model, x, "backwards "):  # as an attack and a step will ask of it
            _go_back(model, pair, logits)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < num_classes:
        shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ClatError(
            f"in training mode the model returns {shown}, expected logits (N, {num_classes}), alone, first in a "
            "tuple, or called 'logits': wrap it so that it does"
        )


def _go_back(model: nn.Module, pair: Tensor, logits: object) -> None:
    """Take the gradients of images and parameters, where the network has any."""
    if isinstance(logits, Tensor) and logits.requires_grad and logits.is_floating_point():
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(logits.float().sum(), [pair, *moving], allow_unused=True)


def _unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers that a state dict leaves out."""
    unsaved = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    return {name: value.detach().clone() for name, value in model.named_buffers() if name in unsaved}


def _tell_unsaved(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Say which of these buffers a forward pass has changed: what is saved of the network lacks them."""
    after = dict(model.named_buffers())
    moved = [name for name, value in before.items() if name not in after or not torch.equal(after[name], value)]
    if moved:
        notice(
            f"the buffer '{moved[0]}' changes in training but is in no state dict (persistent=False): weights that "
            "are saved lack it, and a run that is stopped and resumed ends otherwise than one that was not"
        )
