"""CLAT in a loop as timm's training script has it: its optimizers, schedules, averaged weights and meters.

pip install '.[timm]' && python examples/timm_loop.py
"""

from __future__ import annotations

import torch
from digits import EPS, batches, images, robust
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad
from torch import nn

import clat


def main(epochs: int = 2) -> nn.Module:
    """Fine-tune a network of timm, and return its moving average."""
    torch.manual_seed(0)
    x, y = images("train", 300)
    heldout, x, y = (x[:50], y[:50]), x[50:], y[50:]
    # A network by its name in timm, with the normalisation of its configuration inside: images in [0, 1] go in.
    model = robust(clat.load_model("timm:test_resnet", num_classes=10), x, y)

    layers = clat.select_layers(model, *heldout, eps=EPS, k=2)
    average = ModelEmaV3(model, decay=0.9)
    with clat.Clat(model, layers, heldout, eps=EPS, steps=5) as tuning:
        optimizer = create_optimizer_v2(tuning.parameters(), opt="adamw", lr=1e-3, weight_decay=0.01)
        schedule = CosineLRScheduler(optimizer, t_initial=epochs, warmup_t=1, warmup_lr_init=1e-4)
        for epoch in range(epochs):
            schedule.step(epoch)
            losses = AverageMeter()
            for part, labels in batches(x, y):
                optimizer.zero_grad()
                with torch.autocast(part.device.type, dtype=torch.bfloat16, enabled=part.is_cuda):
                    loss = tuning.loss(part, labels)
                loss.backward()
                dispatch_clip_grad(tuning.parameters(), 1.0)
                optimizer.step()
                average.update(model)
                losses.update(loss.item(), len(part))
            print(f"epoch {epoch + 1}: {layers} move, loss {losses.avg:.3f}")
    averaged: nn.Module = average.module.eval()
    print("robust accuracy", clat.evaluate(averaged, *images("test", 50), eps=EPS).robust_accuracy)
    return averaged


if __name__ == "__main__":
    main()
