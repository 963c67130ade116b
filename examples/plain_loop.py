"""CLAT in a plain PyTorch loop: rank the layers, then fine-tune the most critical one.

python examples/plain_loop.py
"""

from __future__ import annotations

import torch
from digits import EPS, batches, images, network, robust
from torch import nn

import clat


def main(epochs: int = 2) -> nn.Module:
    """Fine-tune a network, and return it."""
    torch.manual_seed(0)
    x, y = images("train", 300)
    heldout, x, y = (x[:50], y[:50]), x[50:], y[50:]
    model = robust(network(), x, y)

    layers = clat.select_layers(model, *heldout, eps=EPS, k=1)
    with clat.Clat(model, layers, heldout, eps=EPS, steps=5) as tuning:
        optimizer = torch.optim.SGD(tuning.parameters(), lr=0.02, momentum=0.9)
        for epoch in range(epochs):
            for part, labels in batches(x, y):
                optimizer.zero_grad()
                loss = tuning.loss(part, labels)
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch + 1}: {layers} move, lambda {tuning.weight:.3g}, loss {loss.item():.3f}")
    model.eval()
    print("robust accuracy", clat.evaluate(model, *images("test", 50), eps=EPS).robust_accuracy)
    return model


if __name__ == "__main__":
    main()
