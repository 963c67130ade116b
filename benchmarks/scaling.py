"""How training should scale to 8 GPUs and to ImageNet, on paper: `python -m benchmarks.scaling`.

Operations, arithmetic, bytes and memory of a step are counted from the code that trains (`benchmarks.counted`), the
times are calculated from them (`benchmarks.roofline`). Measured are only the messages of the training loop and the
decoding of a JPEG. A table goes to stderr, the JSON to stdout.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import clat
from benchmarks.counted import Counted, FakeNetwork, count_forward, count_step, fake_network, feature_attack_memory
from benchmarks.roofline import (
    Assumptions,
    Gpu,
    exchange_seconds,
    expected_most,
    overlapped_seconds,
    roofline_seconds,
    step_seconds,
)
from clat.bench.floor import layer_multiplications, step_floor
from clat.core.environment import describe_environment
from clat.data import ImageSet, Loader
from clat.data.decode import to_array
from clat.network.layers import Layer
from clat.objectives import Clat, FastAT, Objective, PgdAT, Standard, Trades
from clat.recipe.schema import MonitorConfig, Recipe, StageConfig
from clat.runtime.buckets import buckets_of
from clat.runtime.engine import Engine, EngineConfig
from clat.training.interrupt import StopFlag
from clat.training.log import RunLog
from clat.training.trainer import Trainer

GPUS = {
    "H100": Gpu(flops=989e12, bandwidth=3.35e12, memory=80e9, link=450e9),
    "H200": Gpu(flops=989e12, bandwidth=4.8e12, memory=141e9, link=450e9),
}
"""SXM: dense bfloat16, HBM, NVLink in each direction."""

A100 = Gpu(flops=312e12, bandwidth=2.039e12, memory=80e9, link=300e9)
PUBLISHED_BATCH, PUBLISHED_RATE = 256, 2470
"""Images, and images a second, of ordinary training of ResNet-50 in mixed precision on one A100 80 GB (NVIDIA
DeepLearningExamples, "ResNet50 v1.5 for PyTorch", container 21.03): the part of the roofline that it attains is
assumed of every step here."""

LAUNCH, LATENCY, DISK = 6e-6, 30e-6, 1e9
"""Assumed: seconds of the host for an eager operation, seconds of a small message among 8 GPUs, bytes a second to
the run's folder."""

WORLD, BUCKET = 8, 25 * 2**20
IMAGENET = 1_281_167
CRITICALITY = 22 / 21
"""A measurement (PGD-10, a forward pass over the images and one over the examples) over PGD-AT's step without its
backward pass."""


@dataclass(frozen=True)
class Case:
    network: str
    pixels: int
    classes: int
    layers: tuple[int, ...]
    """That CLAT moves."""
    train: int
    """Images of an epoch."""

    def build(self) -> nn.Module:
        return clat.load_model(self.network, num_classes=self.classes)


CASES = {
    "ResNet-18 / CIFAR-10": Case("resnet18", 32, 10, (11,), 50_000),
    "ResNet-50 / CIFAR-10": Case("resnet50", 32, 10, (3, 34, 41), 50_000),
    "DenseNet-121 / CIFAR-10": Case("densenet121", 32, 10, (1, 3, 14, 39), 50_000),
    "WRN-34-10 / CIFAR-10": Case("wrn-34-10", 32, 10, (12, 22), 50_000),
    "ResNet-50 / ImageNet": Case("imagenet-resnet50", 224, 1000, (3, 34, 41), IMAGENET),
}
"""The layers are the paper's, but for WRN-34-10: there the paper says two, and these begin the later stages."""

OBJECTIVES: dict[str, Objective] = {"pgd-at": PgdAT(), "trades": Trades(), "clat": Clat()}
FASTER: dict[str, Objective] = {"standard": Standard(), "fast-at": FastAT()}
"""Without an attack and with one of a single step: what needs images, and messages, most often."""


def counted_case(case: Case, batch: int, given: Assumptions, messages: int) -> dict[str, Any]:
    """Everything about one network. Each GPU has `batch` images or, of the same global batch, an eighth of them."""
    with fake_network(case.build, (3, case.pixels, case.pixels)) as net:
        layers, forward = net.layers(case.layers), count_forward(net, 1)
        multiplications = layer_multiplications(net.model, net.images(1))
        weights = sum(value.nbytes for value in net.model.state_dict().values())
        found: dict[str, Any] = {
            "forward_flops": forward,
            "layers": [layer.name for layer in layers],
            "state_bytes": {"weights": weights},
            "calibration_bytes_an_image": {
                name: feature_attack_memory(net, layers, 100, bfloat16=low) / 100
                for name, low in (("bfloat16", True), ("float32", False))
            },
            "objectives": {},
        }
        for name, objective in OBJECTIVES.items():
            moving: Sequence[Layer] = layers if name == "clat" else ()
            large, small = (count_step(net, objective, size, layers=moving) for size in (batch, batch // WORLD))
            found["objectives"][name] = {
                "step_flops": large.flops,
                "equivalents": large.flops / forward,
                "equivalents_floor": step_floor(objective, multiplications, moving),
                "step_bytes": large.bytes,
                "operations": len(large.calls),
                "gradient_bytes": large.gradients,
                "memory_bytes": large.memory,
                "memory_bytes_eighth": small.memory,
                **{gpu: predicted(large, small, GPUS[gpu], given, messages) for gpu in GPUS},
            }
            on, state = found["objectives"][name]["H100"], weights + large.gradients  # the momentum of what moves
            found["state_bytes"][name] = state
            # After an epoch the state is written and, if they are the best so far, the weights.
            on["writing_share_8"] = (state + weights) / DISK * on["images_per_second_8"] / case.train
        found["gpu_ms_faster"] = {name: faster_ms(net, one, batch, given) for name, one in FASTER.items()}
        found["selection"] = selection(net, found["objectives"]["clat"]["H100"], case.train, given)
    base = found["objectives"]["pgd-at"]
    for row in found["objectives"].values():
        row["flops_to_pgd_at"] = row["step_flops"] / base["step_flops"]
        for gpu in GPUS:
            for which in ("gpu_ms", "gpu_ms_fused"):
                row[gpu][f"{which}_to_pgd_at"] = row[gpu][which] / base[gpu][which]
    return found


def predicted(large: Counted, small: Counted, gpu: Gpu, given: Assumptions, messages: int) -> dict[str, float]:
    """`fused`: if whatever is no product were computed in the passing; `same_batch`: the global batch stays that of
    one GPU; `graphs`: and launching costs nothing."""
    one, part = (step_seconds(each.calls, gpu, given) for each in (large, small))
    one_unbound, part_unbound = (roofline_seconds(s.calls, gpu) / given.attained for s in (large, small))
    products = [call for call in large.calls if call.flops]
    exchange = exchange_seconds(large.gradients, messages, WORLD, gpu, given)
    backward = roofline_seconds(large.backward, gpu) / given.attained
    hidden = overlapped_seconds(large.gradients, backward, WORLD, gpu, given, BUCKET)
    return {
        "gpu_ms": 1e3 * one_unbound,
        "gpu_ms_fused": 1e3 * roofline_seconds(products, gpu) / given.attained,
        "host_ms": 1e3 * len(large.calls) * given.launch,
        "images_per_second": large.batch / one,
        "exchange_ms": 1e3 * exchange,
        "exchange_ms_overlapped": 1e3 * hidden,
        "images_per_second_8": WORLD * large.batch / (one + exchange),
        "efficiency": one / (one + exchange),
        "efficiency_overlapped": one / (one + hidden),
        "efficiency_same_batch": one / (part + exchange) / WORLD,
        "efficiency_same_batch_graphs": one_unbound / (part_unbound + exchange) / WORLD,
    }


def faster_ms(net: FakeNetwork, objective: Objective, batch: int, given: Assumptions) -> dict[str, float]:
    """The GPU's time for a step that moves everything."""
    calls = count_step(net, objective, batch).calls
    return {name: 1e3 * roofline_seconds(calls, gpu) / given.attained for name, gpu in GPUS.items()}


def selection(net: FakeNetwork, step: dict[str, float], train: int, given: Assumptions) -> dict[str, float]:
    """A criticality measurement of 100 images in float32, for which the other processes wait, beside ten epochs.
    Its arithmetic is taken at half the peak of bfloat16 (TensorFloat32)."""
    attack = count_step(net, PgdAT(), 100, bfloat16=False)
    only = attack.calls[: -len(attack.backward) - 1]
    gpu = Gpu(flops=GPUS["H100"].flops / 2, bandwidth=GPUS["H100"].bandwidth, memory=0, link=1)
    seconds = CRITICALITY * step_seconds(only, gpu, given)
    return {"seconds": seconds, "share_of_ten_epochs": seconds * step["images_per_second_8"] / (10 * train)}


def attained() -> float:
    """The part of its roofline that the published step attains."""
    case = CASES["ResNet-50 / ImageNet"]
    with fake_network(case.build, (3, case.pixels, case.pixels)) as net:
        step = count_step(net, Standard(), PUBLISHED_BATCH)
    return roofline_seconds(step.calls, A100) * PUBLISHED_RATE / PUBLISHED_BATCH


class Overheard(Engine):
    """An engine of one process that takes itself for one of two, and notes what it would send."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.sent: list[int] = []

    @property
    def world(self) -> int:
        return 2

    def total(self, counts: Tensor) -> Tensor:
        self.sent.append(counts.nbytes)
        return counts

    def average(self, tensors: Iterable[Tensor]) -> None:
        self.sent += [sum(tensor.nbytes for tensor in bucket) for bucket in buckets_of(list(tensors))]


def messages_of_a_step() -> list[int]:
    """Bytes of each all-reduction of the training loop in a step, on a small network: what an epoch of two batches
    sends more than an epoch of one."""
    longer = Counter(_messages(batches=2))
    longer.subtract(_messages(batches=1))
    return list(longer.elements())


def _messages(batches: int) -> list[int]:
    """Bytes of each all-reduction of a run of one epoch."""
    config = EngineConfig(device="cpu")
    recipe = Recipe(
        stages=(StageConfig(name="step", epochs=1, objective=PgdAT(steps=1)),),
        batch_size=2,
        monitor=MonitorConfig(steps=1, num_samples=2),
        engine=config,
    )
    pixels = torch.zeros(2 * batches, 3, 8, 8, dtype=torch.uint8)
    images = ImageSet("black", "train", ("a", "b"), pixels, torch.arange(2 * batches) % 2)
    heldout = next(iter(Loader(images, 2).epoch()))
    engine = Overheard(config)
    model = engine.place(clat.load_model("resnet18", num_classes=2, width=4))
    loader = Loader(images, 2, shuffle=True, drop_last=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("weights", "states"):
            (Path(folder) / part).mkdir()
        log = RunLog(None, quiet=True)
        Trainer(recipe, model, loader, heldout, engine, log, Path(folder), StopFlag()).run()
    return engine.sent


def decoding() -> dict[str, float]:
    """Images a second on one core of this machine, from a JPEG of ImageNet's usual size to 224 pixels."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(256, size=(47, 63, 3), dtype=np.uint8)).resize((500, 375))
    grain = draw.normal(0, 12, size=(375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    spent = []
    for _ in range(60):
        start = time.process_time()
        with Image.open(io.BytesIO(file.getvalue())) as image:
            np.ascontiguousarray(to_array(image, 224))
        spent.append(time.process_time() - start)
    return {"file_bytes": len(file.getvalue()), "images_per_second": 1 / float(np.median(spent))}


def waiting(n: int, rate: float) -> dict[str, float]:
    """An evaluation shared by 8 processes, whose time goes into the images that turn out robust."""
    most = expected_most(n, rate, WORLD)
    return {"images": n, "robust": rate, "most": most, "efficiency": n * rate / WORLD / most}


def table(cases: dict[str, Any]) -> None:
    """One row an objective, on H100."""
    form = "{:24} {:7} {:>8} {:>6} {:>7} {:>6} {:>7} {:>8} {:>7} {:>7} {:>8} {:>8} {:>6} {:>6} {:>6} {:>7}"
    head = ("H100", "", "GFLOP", "x fwd", "MB", "ops", "GB", "grad MB", "GPU ms", "fused", "host ms", "img/s")
    print(form.format(*head, "eff", "ovl", "same", "graphs"), file=sys.stderr)
    for label, case in cases.items():
        for name, row in case["objectives"].items():
            on = row["H100"]
            numbers = (
                f"{row['step_flops'] / 1e9:.0f}", f"{row['equivalents']:.1f}", f"{row['step_bytes'] / 1e6:.0f}",
                row["operations"], f"{row['memory_bytes'] / 1e9:.1f}", f"{row['gradient_bytes'] / 1e6:.1f}",
                f"{on['gpu_ms']:.1f}", f"{on['gpu_ms_fused']:.1f}", f"{on['host_ms']:.1f}",
                f"{on['images_per_second']:.0f}", f"{on['efficiency']:.3f}", f"{on['efficiency_overlapped']:.3f}",
                f"{on['efficiency_same_batch']:.2f}", f"{on['efficiency_same_batch_graphs']:.2f}",
            )  # fmt: skip
            print(form.format(label, name, *numbers), file=sys.stderr)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=128, help="images a GPU; a multiple of 8")
    chosen = options.parse_args()
    given = Assumptions(attained=attained(), launch=LAUNCH, latency=LATENCY)
    sent, decoded = messages_of_a_step(), decoding()
    cases = {label: counted_case(case, chosen.batch, given, len(sent)) for label, case in CASES.items()}
    table(cases)
    imagenet = cases["ResNet-50 / ImageNet"]["objectives"]
    result = {
        "benchmark": "scaling",
        **vars(chosen),
        "gpus": {name: asdict(gpu) for name, gpu in GPUS.items()},
        "assumptions": {**asdict(given), "disk": DISK},
        "calibration": {"gpu": asdict(A100), "batch": PUBLISHED_BATCH, "images_per_second": PUBLISHED_RATE},
        "bytes of each all-reduction in a step of a small network": sent,
        "cases": cases,
        "imagenet": {
            "uint8_bytes": IMAGENET * 3 * 224 * 224,
            "decoding": decoded,
            "cores": {
                gpu: {
                    name: row[gpu]["images_per_second_8"] / decoded["images_per_second"]
                    for name, row in imagenet.items()
                }
                for gpu in GPUS
            },
        },
        "evaluation": [waiting(10_000, 0.5), waiting(5_000, 0.35), waiting(1_000, 0.5)],
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
