"""What it costs to name a library's network instead of wrapping it by hand: `python -m benchmarks.wrapping`.

The same weights are evaluated (PGD-10) as `hf:FOLDER` or `timm:NAME` and in a wrapper of six lines, in turn in each
round; the ratio is that of CPU seconds, the median of the rounds. The verdicts have to be equal. timm is left out
where it does not import.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clat
from clat.bench.timing import interleaved, ratio
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
    import transformers

    labels: dict[str, Any] = {"num_labels": CLASSES}
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 192,
    }
    vit = transformers.ViTConfig(**sizes, image_size=SIZE, patch_size=8, **labels)
    resnet = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        **labels,
    )
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    kinds: tuple[tuple[str, Any, Any], ...] = (
        ("hf vit", transformers.ViTForImageClassification, vit),
        ("hf resnet", transformers.ResNetForImageClassification, resnet),
    )
    for name, kind, config in kinds:
        place = folder / name.replace(" ", "-")
        kind(config).save_pretrained(place)
        (place / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
        )
        by_hand = ByHand(kind.from_pretrained(place), (0.5,) * 3, (0.25,) * 3)
        found[name] = (clat.load_model(f"hf:{place}", num_classes=CLASSES).eval(), by_hand.eval())
    return found


def of_timm() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return a ResNet-18 of timm, by its name and by hand; nothing where timm does not import."""
    try:
        named = clat.load_model("timm:resnet18", num_classes=CLASSES).eval()
    except clat.ClatError as error:
        print(json.dumps({"left out": str(error)}))
        return {}
    import timm

    net = timm.create_model("resnet18", num_classes=CLASSES)
    inner: Any = named.net
    net.load_state_dict(inner.state_dict())
    config: Any = net.pretrained_cfg
    return {"timm resnet18": (named, ByHand(net, config["mean"], config["std"]).eval())}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=32)
    options.add_argument("--rounds", type=int, default=9)
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

            times = interleaved({"named": evaluating("named", wrapped), "by hand": evaluating("by hand", by_hand)},
                                chosen.rounds)  # fmt: skip
            assert torch.equal(verdicts["named"].fooled_by, verdicts["by hand"].fooled_by)
            result["networks"][name] = {
                "cpu seconds": {key: round(timing.cpu_seconds, 4) for key, timing in times.items()},
                "named / by hand": round(ratio(times["named"], times["by hand"], "cpu"), 4),
                "robust": int(verdicts["named"].robust.sum()),
            }
    print(json.dumps({**result, "environment": describe_environment("cpu")}, indent=1))


if __name__ == "__main__":
    main()
