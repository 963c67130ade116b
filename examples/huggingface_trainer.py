"""CLAT with the Trainer of Hugging Face transformers: a callback freezes, the Trainer's loss is CLAT's.

pip install '.[hf]' accelerate && python examples/huggingface_trainer.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from digits import EPS, batches, images
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import clat


class Images(Dataset[dict[str, Tensor]]):
    """Images and labels under the names that the models of transformers take."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"pixel_values": self.x[number], "labels": self.y[number]}


class CriticalLayers(TrainerCallback):
    """Fine-tune the most critical layers of a model while the Trainer trains; afterwards all is as it was."""

    def __init__(self, heldout: tuple[Tensor, Tensor], k: int = 1, **settings: Any) -> None:
        self.heldout, self.k, self.settings = heldout, k, settings

    def on_init_end(
        self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Choose and freeze, before the optimizer is made."""
        heldout = tuple(part.to(args.device) for part in self.heldout)
        layers = clat.select_layers(model, *heldout, eps=EPS, k=self.k)
        self.tuning = clat.Clat(model, layers, heldout, eps=EPS, **self.settings)
        self.tuning.__enter__()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the flags back."""
        self.tuning.__exit__(None, None, None)


class ClatTrainer(Trainer):
    """A Trainer whose loss is that of the callback."""

    def __init__(self, *args: Any, critical: CriticalLayers, **settings: Any) -> None:
        self.critical = critical
        super().__init__(*args, callbacks=[critical], **settings)
        self.model_accepts_loss_kwargs = False  # the loss is a batch's mean, whatever the model's own would be

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return CLAT's loss in training; in evaluation the model's own."""
        if return_outputs or not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        return self.critical.tuning.loss(inputs["pixel_values"], inputs["labels"])


def robust(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """Train shortly on PGD's examples."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for part, labels in batches(x, y):
        attacked = clat.attacks.pgd(model, part, labels, eps=EPS, steps=2)
        optimizer.zero_grad()
        model.train()(pixel_values=attacked, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def main(epochs: int = 2) -> nn.Module:
    """Fine-tune a network, and return it."""
    set_seed(0)
    x, y = images("train", 300)
    heldout, x, y = (x[:50], y[:50]), x[50:], y[50:]
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = robust(ResNetForImageClassification(ResNetConfig(**sizes, num_labels=10)), x, y)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=50, learning_rate=1e-3, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = ClatTrainer(
            model, arguments, train_dataset=Images(x, y), critical=CriticalLayers(heldout, steps=5)
        )
        trainer.train()
    print("robust accuracy", clat.evaluate(model.eval(), *images("test", 50), eps=EPS).robust_accuracy)
    return model


if __name__ == "__main__":
    main()
