"""Compile the blocks of a network with torch.compile, each by itself.

A network compiled as a whole could not be left early or show its hidden features, which CLAT's attack does, and
would be compiled anew after every selection. So what is compiled are the network's repeated blocks: blocks of one
shape share their code, the attack leaves between two of them, and the block that holds a selected layer, whose
feature a hook reads, runs as it always did. A selection thus compiles nothing that ran compiled before.

CUDA graphs are not used: they hand out memory that their next replay overwrites, and what the attacks keep (clean
features and outputs) must outlast that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function_variadic

from clat.network.frozen_norm import SCALED


@contextmanager
def blocks_compiled(model: nn.Module, *batch_sizes: int) -> Iterator[int]:
    """Run the blocks of `model` compiled on batches of `batch_sizes`, while the code inside runs.

    Blocks are the members of a Sequential or ModuleList that have parts of their own (the residual blocks of a
    ResNet, the layers of a dense block). Anything else runs as before, and so does a block on batches of another
    size, with hooks inside, or under a torch function mode. Each is compiled when it first runs, once a shape and
    mode (attack, training, without gradients). Needs a C++ compiler on the CPU.

    Args:
        model: the network, on the device on which it runs; its blocks have their own classes again afterwards.
        batch_sizes: images of a batch, or of each of its parts.

    Yields:
        How many blocks there are.
    """
    found = blocks(model)
    classes: dict[type[nn.Module], type[nn.Module]]
    backend = _backend(next((p.device.type for p in model.parameters()), "cpu"))
    classes = {type(block): _compiled_class(type(block), batch_sizes, backend) for block in found}
    classes.update(SCALED)
    before = [(module, type(module)) for block in found for module in block.modules() if type(module) in classes]
    with _many_variants() if found else nullcontext():
        try:
            for module, kind in before:
                module.__class__ = classes[kind]
            yield len(found)
        finally:
            for module, kind in before:
                module.__class__ = kind


@contextmanager
def _many_variants() -> Iterator[None]:
    """Let torch compile up to 256 variants of one function, while the code inside runs.

    Blocks of all shapes share one forward, and after eight variants torch would otherwise give up without a word.
    """
    config: Any = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    config.recompile_limit = max(before[0], 256)
    config.accumulated_recompile_limit = max(before[1], 4096)
    try:
        yield
    finally:
        config.recompile_limit, config.accumulated_recompile_limit = before


@contextmanager
def parts_as_written(model: nn.Module) -> Iterator[None]:
    """Run what a user compiled inside of a network as it was written, while the code inside runs.

    A compiled part keeps to the graph of its first calls, and runs no hook that is put in later.

    Args:
        model: any network. Before torch 2.6 nothing can be done, and nothing is.
    """
    compiled = any("_orig_mod" in m._modules or vars(m).get("_compiled_call_impl") for m in model.modules())
    if not compiled or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def compile_seconds() -> float:
    """Return the seconds that this process has spent in torch.compile so far.

    Returns:
        The seconds, 0 where nothing was compiled.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return 0.0
    return float(sum(dynamo.compilation_time_metrics.get("_compile.compile_inner", ())))


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the outermost members of Sequentials and ModuleLists that are neither single layers nor such lists.

    Args:
        model: any network.

    Returns:
        The blocks, in the order in which the network registers them; none lies within another.
    """
    lists = (nn.Sequential, nn.ModuleList)
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            has_parts = next(child.children(), None) is not None
            if isinstance(module, lists) and has_parts and not isinstance(child, lists):
                found.append(child)
            else:
                search(child)

    search(model)
    return found


def _backend(device: str) -> Any:
    """Return torch's own compiler; on the CPU it is told to keep for the backward pass what autograd would.

    Left to itself it keeps a mask of booleans for each nonlinearity, which takes less memory but whose writing and
    reading is so slow on the CPU (twenty times the rest of its loop) that compiled blocks lose to plain ones.
    """
    if device != "cpu":
        return "inductor"
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import default_partition
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    return aot_autograd(
        fw_compiler=compile_fx_inner,
        bw_compiler=compile_fx_inner,
        inference_compiler=compile_fx_inner,
        partition_fn=default_partition,
        decompositions=select_decomp_table(),
    )


def _compiled_class(kind: type[nn.Module], sizes: Sequence[int], backend: Any) -> type[nn.Module]:
    """Return `kind` with a forward that is compiled where it can be. A class, so that copies of a block keep it."""
    plain = kind.forward
    compiled = torch.compile(plain, dynamic=False, backend=backend)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _fits(self, sizes, args, kwargs):
            return compiled(self, *args)
        return plain(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward})


def _fits(block: nn.Module, sizes: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the block is compiled for this call: a batch of the right size that nobody looks into."""
    if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or len(args[0]) not in sizes:
        return False
    if has_torch_function_variadic(args[0]):
        return False
    return not any(_hooked(module) for module in block.modules() if module is not block)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
