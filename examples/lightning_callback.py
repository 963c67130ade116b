"""CLAT as a callback of PyTorch Lightning: it puts CLAT's loss in the place of a module's training step.

pip install pytorch-lightning && python examples/lightning_callback.py
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from digits import EPS, batches, images, network, robust
from torch import Tensor, nn

import clat


class Classifier(pl.LightningModule):
    """A module as anybody would write it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD over what has gradients."""
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(moving, lr=0.02, momentum=0.9)


class CriticalLayers(pl.Callback):
    """Fine-tune the most critical layers of `module.model` while the trainer fits; afterwards all is as it was."""

    def __init__(self, heldout: tuple[Tensor, Tensor], k: int = 1, **settings: Any) -> None:
        self.heldout, self.k, self.settings = heldout, k, settings

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Choose and freeze, before the optimizer is made."""
        if trainer.world_size > 1:
            raise RuntimeError(
                "gradients of several processes: call tuning.average_gradients() in on_after_backward"
            )
        heldout = tuple(part.to(trainer.strategy.root_device) for part in self.heldout)
        model = module.model.to(trainer.strategy.root_device)
        layers = clat.select_layers(model, *heldout, eps=EPS, k=self.k)
        self.tuning = clat.Clat(model, layers, heldout, eps=EPS, **self.settings)
        self.tuning.__enter__()
        module.training_step = lambda batch, number=0: self.tuning.loss(*batch)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Give the module its own training step and flags back."""
        self.tuning.__exit__(None, None, None)
        del module.training_step


def main(epochs: int = 2, **trainer: Any) -> nn.Module:
    """Fine-tune a network, and return it."""
    pl.seed_everything(0, verbose=False)
    x, y = images("train", 300)
    heldout, x, y = (x[:50], y[:50]), x[50:], y[50:]
    module = Classifier(robust(network(), x, y))
    fitting = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[CriticalLayers(heldout, steps=5)], logger=False,
        enable_checkpointing=False, **trainer,
    )  # fmt: skip
    fitting.fit(module, batches(x, y))
    model = module.model.eval()
    print("robust accuracy", clat.evaluate(model, *images("test", 50), eps=EPS).robust_accuracy)
    return model


if __name__ == "__main__":
    main()
