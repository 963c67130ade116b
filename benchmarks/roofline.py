"""What a training step should take on a GPU, and on several, by calculation.

A roofline: an operation takes as long as its arithmetic at the peak or its bytes at the bandwidth, whichever is
longer; a step as long as all its operations, or as long as the host needs to launch them. Several processes add the
exchange of gradients, in a ring, and whatever they say to each other besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

from clat.bench.profile import Call


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Nominal figures. `flops`: a second, dense; `bandwidth`: bytes a second of its memory; `memory`: bytes;
    `link`: bytes a second, in each direction, to the other GPUs of the machine."""

    flops: float
    bandwidth: float
    memory: float
    link: float = 450e9


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What cannot be counted. `attained`: the part of the roofline that is reached; `launch`: seconds of the host
    for an operation; `latency`: seconds until a message of a few bytes has been round."""

    attained: float
    launch: float
    latency: float


def roofline_seconds(calls: Sequence[Call], gpu: Gpu) -> float:
    """The least time on the GPU: each operation bound by its arithmetic or by its bytes."""
    return sum(max(call.flops / gpu.flops, call.bytes / gpu.bandwidth) for call in calls)


def step_seconds(calls: Sequence[Call], gpu: Gpu, given: Assumptions) -> float:
    """Of one process: the GPU's time, or the host's if launching takes longer."""
    return max(roofline_seconds(calls, gpu) / given.attained, len(calls) * given.launch)


def ring_seconds(nbytes: int, world: int, link: float) -> float:
    """Summing `nbytes` over `world` processes in a ring: each sends, and receives, 2 (world - 1) / world of it."""
    return 2 * (world - 1) / world * nbytes / link


def exchange_seconds(nbytes: int, messages: int, world: int, gpu: Gpu, given: Assumptions) -> float:
    """What `clat.runtime.engine` adds to a step, all of it while the GPU waits.

    `nbytes`: of the gradients, which are copied into one message and back again (two reads and two writes) around
    the ring. `messages`: all-reductions of a step, none of them behind a barrier.
    """
    copies = 4 * nbytes / (given.attained * gpu.bandwidth)
    return copies + ring_seconds(nbytes, world, gpu.link) + messages * given.latency


def overlapped_seconds(
    nbytes: int, backward: float, world: int, gpu: Gpu, given: Assumptions, bucket: int
) -> float:
    """What would be left of it with the gradients sent in buckets of `bucket` bytes during the `backward` seconds
    that compute them: the rest of the ring or, at least, the last bucket, which has nothing to hide behind."""
    last = ring_seconds(min(nbytes, bucket), world, gpu.link)
    return max(ring_seconds(nbytes, world, gpu.link) - backward, last) + given.latency


def expected_most(n: int, rate: float, world: int) -> float:
    """The expected largest number of robust images in any of `world` equal shares of `n` images, each robust with
    probability `rate`: the share for which the others wait."""
    share = n // world
    return float(sum(1 - binom.cdf(k, share, rate) ** world for k in range(share)))
