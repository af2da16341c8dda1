"""Data sets and building blocks of the zoo's nets."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

import gradcore as gc


@dataclass(frozen=True)
class Model:
    """One net to judge. make() -> (net, x, target, options of analyze). causes: any of these is right."""

    name: str
    verdict: str
    causes: tuple[str, ...]
    make: Callable[[], tuple]

    def report(self):
        net, x, target, options = self.make()
        return gc.analyze(net, x, target, **options)


# ---- data ------------------------------------------------------------------------------------


def standardized(x):
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)


@cache
def data(name):
    """(x float32, target, outputs, loss)."""
    rng = np.random.default_rng(7)
    if name == "gauss":  # labels of a random linear rule: learnable
        x = rng.standard_normal((1200, 20))
        return x.astype("f4"), (x @ rng.standard_normal((20, 5))).argmax(axis=1), 5, "cross_entropy"
    if name == "circles":
        angle, radius = rng.uniform(0, 2 * np.pi, 1000), rng.choice([0.5, 1.0], 1000)
        x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + 0.05 * rng.standard_normal((1000, 2))
        return (1.5 * x).astype("f4"), (radius > 0.75).astype("f4"), 1, "binary_cross_entropy"
    if name == "waves":
        x = rng.uniform(-2, 2, (1000, 3))
        return x.astype("f4"), np.sin(x).sum(axis=1, keepdims=True).astype("f4"), 1, "mse"
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name.removesuffix('_raw')}")(return_X_y=True)
    x = (x if name.endswith("_raw") else standardized(x)).astype("f4")
    if name.startswith("diabetes"):
        y = (y if name.endswith("_raw") else standardized(y)).astype("f4")[:, None]
        return x, y, 1, "mse"
    return x, y, int(y.max()) + 1, "cross_entropy"


def net_on(name, hidden, width, seed=0, **options):
    """(net, x, target, {"loss": ...}) of equal hidden widths on a data set."""
    x, target, outputs, loss = data(name)
    widths = [x.shape[1], *([width] * hidden), outputs]
    return gc.MLP(widths, seed=seed, **options), x, target, {"loss": loss, "seed": seed}


def scale_hidden(net, factor):
    """Multiply the variance of the weights between hidden layers by `factor`."""
    for layer in range(1, net.depth - 1):
        net.parameters[f"dense{layer}.weight"][...] *= math.sqrt(factor)
