"""What it costs to name a library's network instead of wrapping it by hand: `python -m benchmarks.wrapping`.

The same weights are evaluated (PGD-10) as `hf:FOLDER` or `timm:NAME` and in a wrapper of six lines, in turn in each
round, in half of the rounds the other way round. Ratios of CPU seconds: the median of the rounds, and that of the
fastest rounds, which what else runs on the machine disturbs least. The verdicts have to be equal. timm is left out
where it does not import.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clat
from clat.bench.timing import Timing, interleaved, ratio
from clat.core.environment import describe_environment

SIZE, CLASSES = 64, 10


class ByHand(nn.Module):
    """How one would wrap such a network oneself: images in [0, 1] in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Any = self.net((x - self.mean) / self.std)
        logits: Tensor = getattr(out, "logits", out)
        return logits


def hugging_face(folder: Path) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return a ViT and a ResNet of transformers, each by its folder and by hand."""
    transformers: Any = importlib.import_module("transformers")
    sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192}
    vit = transformers.ViTConfig(**sizes, image_size=SIZE, patch_size=8, num_labels=CLASSES)
    resnet = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        num_labels=CLASSES,
    )
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, kind, config in (
        ("hf vit", transformers.ViTForImageClassification, vit),
        ("hf resnet", transformers.ResNetForImageClassification, resnet),
    ):
        place = folder / name.replace(" ", "-")
        kind(config).save_pretrained(place)
        (place / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
        )
        by_hand = ByHand(kind.from_pretrained(place), (0.5,) * 3, (0.25,) * 3)
        found[name] = (clat.load_model(f"hf:{place}", num_classes=CLASSES).eval(), by_hand.eval())
    return found


def of_timm() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return a small ResNet of timm, by its name and by hand; nothing where timm does not import."""
    try:
        named: Any = clat.load_model("timm:test_resnet", num_classes=CLASSES).eval()
    except clat.ClatError as error:
        print(json.dumps({"left out": str(error)}))
        return {}
    net: Any = importlib.import_module("timm").create_model("test_resnet", num_classes=CLASSES)
    net.load_state_dict(named.net.state_dict())
    config = net.pretrained_cfg
    return {"timm test_resnet": (named, ByHand(net, config["mean"], config["std"]).eval())}


def against(one: Timing, other: Timing) -> dict[str, float]:
    """Return how many times as long one candidate takes as another: over the rounds, and in its fastest round."""
    return {"median": round(ratio(one, other, "cpu"), 4), "fastest": round(min(one.cpu) / min(other.cpu), 4)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=8)
    options.add_argument("--rounds", type=int, default=40)
    chosen = options.parse_args()
    torch.manual_seed(0)
    x = torch.rand(chosen.images, 3, SIZE, SIZE)
    result: dict[str, Any] = {"benchmark": "wrapping", "size": SIZE, **vars(chosen), "networks": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, (wrapped, by_hand) in {**hugging_face(Path(folder)), **of_timm()}.items():
            y = by_hand(x).argmax(1).detach()  # all are right, so that all are attacked
            verdicts: dict[str, clat.Evaluation] = {}

            def evaluating(key: str, net: nn.Module) -> Callable[[], object]:
                def run() -> None:
                    verdicts[key] = clat.evaluate(net, x, y, eps="1/2550", protocol="pgd-10")  # noqa: B023

                return run

            # The wrapper twice: how far apart equal things come out is what the machine can tell.
            candidates = {
                "by hand": evaluating("by hand", by_hand),
                "named": evaluating("named", wrapped),
                "by hand again": evaluating("again", by_hand),
            }
            forth = interleaved(candidates, chosen.rounds // 2)
            back = interleaved(dict(reversed(candidates.items())), chosen.rounds - chosen.rounds // 2)
            times = {key: Timing(cpu=forth[key].cpu + back[key].cpu) for key in candidates}
            assert torch.equal(verdicts["named"].fooled_by, verdicts["by hand"].fooled_by)
            result["networks"][name] = {
                "cpu seconds": {key: round(timing.cpu_seconds, 4) for key, timing in times.items()},
                "named / by hand": against(times["named"], times["by hand"]),
                "by hand again / by hand": against(times["by hand again"], times["by hand"]),
                "robust": int(verdicts["named"].robust.sum()),
            }
    print(json.dumps({**result, "environment": describe_environment("cpu")}, indent=1))


if __name__ == "__main__":
    main()
