"""BatchNorm statistics of weights that no training step has seen, such as an average: counted anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.errors import ClatError
from clat.network import modes
from clat.runtime.callback import StageContext


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Tensor], layers: Sequence[_BatchNorm] | None = None
) -> None:
    """Replace the stored BatchNorm statistics by those of one pass over images.

    Mean and variance become the averages of the batches' own (the unbiased variance, as in training), weighted by
    their sizes; every batch is normalised by itself, as in training, and the old statistics play no part. What is
    not such a BatchNorm is in evaluation mode, so nothing is drawn at random and nothing else changes; modes and
    momenta are left as found.

    Args:
        model: the network, in any mode.
        batches: images, each (N, C, H, W) in [0, 1].
        layers: only these BatchNorm modules, the others use their stored statistics; None: all.

    Raises:
        ClatError: if there is no batch.
    """
    chosen = [bn for bn in modes.batch_norms(model) if bn.running_mean is not None]
    if layers is not None:
        chosen = [bn for bn in chosen if bn in layers]
    if not chosen:
        return
    momenta = [bn.momentum for bn in chosen]
    counted = dict.fromkeys(chosen, 0)
    seen = size = 0

    def weigh(bn: _BatchNorm, args: object) -> None:
        # new = old + (batch - old) * share; the share of the first batch is 1. One may run several times in a pass.
        counted[bn] += size
        bn.momentum = size / counted[bn]

    handles = [bn.register_forward_pre_hook(weigh) for bn in chosen]
    try:
        with modes.restore_flags(model):
            model.eval()
            for bn in chosen:
                bn.training = bn.track_running_stats = True
                if bn.num_batches_tracked is not None:
                    bn.num_batches_tracked.zero_()
            for x in batches:
                size = len(x)
                seen += size
                for bn in chosen:  # of one whose forward is called without hooks
                    bn.momentum = size / seen
                model(x)
    finally:
        for handle in handles:
            handle.remove()
        for bn, momentum in zip(chosen, momenta, strict=True):
            bn.momentum = momentum
    if not seen:
        raise ClatError("no batches to re-estimate the BatchNorm statistics from")


def reestimate_on_training_batches(
    context: StageContext, layers: Sequence[_BatchNorm], most: int | None = None
) -> None:
    """Replace BatchNorm statistics by those of the first epoch's training batches, always the same ones.

    Clean images as they are augmented for training, as in the released code of the methods that do this (Izmailov
    et al. 2018; Li & Spratling 2023). Each process passes over its shares and all take the mean, as after an epoch.

    Args:
        context: the stage, with its network, loader and processes.
        layers: the BatchNorm modules to count anew; none: nothing happens.
        most: batches to pass over; None: the whole epoch.

    Raises:
        ClatError: if there is no batch.
    """
    if not layers:
        return
    engine = context.engine
    batches = islice(context.loader.epoch(0), most)
    with engine.autocast():
        reestimate_batch_norm(context.model, (engine.images(x) for x, _ in batches), layers)
    engine.average(buffer for bn in layers for buffer in bn.buffers(recurse=False) if buffer.is_floating_point())
