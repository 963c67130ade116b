"""Share a network out among the processes of a run while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from clat.network.sharded import sharded_copy, take_back
from clat.runtime.engine import Engine


@contextmanager
def shared_out(model: nn.Module, engine: Engine) -> Iterator[nn.Module]:
    """Yield the network to train: a copy of which each process holds a part, where the engine shares it out.

    Args:
        model: the network, alike in all processes. While its copy is trained it is empty; afterwards it has the
            copy's weights. If training fails, it stays empty.
        engine: the processes, launched.

    Yields:
        The copy; `model` itself where nothing is shared out.
    """
    if not engine.shards:
        yield model
        return
    from torch.distributed.device_mesh import init_device_mesh

    sliced = sharded_copy(model, init_device_mesh(engine.device.type, (engine.world,)))
    yield sliced
    take_back(model, sliced)
    engine.place(model)
