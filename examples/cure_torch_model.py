"""A PyTorch model that does not learn: find out why, cure it, and train the cured model in PyTorch."""

from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import gradcore as gc


class Net(nn.Module):
    """A model with a `forward` of its own, whose graph `gc.from_torch` reads."""

    def __init__(self, width=100, layers=15):
        super().__init__()
        sizes = [64] + [width] * layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(width, 10)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        for layer in self.hidden:
            x = torch.sigmoid(layer(x))
        return self.output(x)


def train(model, x, labels, *, lr, epochs=20, clip_norm=None):
    """Train in a plain PyTorch loop; returns the accuracy on held-out digits."""
    x, labels, train_rows = torch.from_numpy(x), torch.from_numpy(labels), 1300
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(train_rows).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(x[train_rows:]).argmax(1) == labels[train_rows:]).float().mean())


def main():
    x, labels = load_digits(return_X_y=True)
    x = (x / 8 - 1).astype(np.float32)
    torch.manual_seed(0)
    model = Net()
    # before training, because the initial gradients decide
    net, optimizer = gc.from_torch(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    before = train(model, x, labels, lr=1e-3)
    print(f"original: {before:.0%} of held-out digits right")

    report = gc.analyze(net, x, labels, optimizer=optimizer)
    print(report.findings[0].explanation)
    best = report.remedies(limit=4)[0]
    print(f"cure: {best.name}: {best.reason}")

    cured = gc.to_torch(best.apply())
    training = {"lr": 1e-3, **best.change.get("training", {})}
    after = train(cured, *best.prepare(x, labels), **training)
    print(f"cured: {after:.0%}")
    return report, before, after


if __name__ == "__main__":
    main()
