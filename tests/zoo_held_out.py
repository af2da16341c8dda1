"""Nets the analysis has never seen: designs drawn at random, judged against a truth that owes nothing to its judge.

A `Design` is drawn from a seed: data, widths, activations (one or mixed), normalization, skips, weights, biases, dtype,
batch size, optimizer, scales of the data, and steps of training before the analysis. No family is made to be sick or
healthy; `held_out_truth` finds that out, and leaves out what is neither by its stated rule.

python tests/zoo.py --held-out     the confusion table, every miss, and how many designs were left out
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

import gradcore as gc
from gradcore.init import CRITICAL_GAIN_SQUARED
from zoo_data import standardized

# Largest cost of a design, in products of one row's pass: keeps the whole table within minutes.
_LARGEST_COST = 2e5

SOURCES = ("iris", "wine_01", "breast_cancer", "digits_01", "diabetes", "linnerud", "moons", "blobs", "xor", "friedman",
           "swiss_roll", "classification", "regression", "bits")  # fmt: skip
_REGRESSION_LOSSES = ("mse", "mse", "mse", "huber", "mae")


@dataclass(frozen=True)
class Design:
    """One net and how it is trained.

    weights: ("named", init) or ("scaled", factor on the critical variance) or ("uniform", gain^2): U(+-1/sqrt(fan_in))
    times a gain, biases alike. optimizer: (class name, rate, options) or None. warm_up: steps taken before the
    analysis, by Adam where no optimizer is given.
    """

    seed: int
    source: str
    loss: str
    widths: tuple
    activations: tuple
    normalization: str | None
    residual: bool
    bias: bool
    dtype: str
    weights: tuple
    bias_deviation: float
    batch_size: int
    optimizer: tuple | None
    warm_up: int
    input_scale: float
    target_scale: float

    @property
    def depth(self):
        return len(self.widths) - 1

    def __str__(self):
        names = sorted(set(self.activations))
        hidden = self.widths[1:-1]
        parts = [f"#{self.seed} {'/'.join(names)} {len(hidden)}x{min(hidden)}"]
        parts[0] += f"-{max(hidden)}" if min(hidden) != max(hidden) else ""
        parts += [f"{self.weights[0]} {self.weights[1]}", self.normalization and f"{self.normalization} norm"]
        parts += [self.residual and "residual", not self.bias and "no bias", self.dtype == "float64" and "float64"]
        parts += [self.bias_deviation and f"biases {self.bias_deviation:.2g}", f"B={self.batch_size}"]
        parts += [self.optimizer and f"{self.optimizer[0]} {self.optimizer[1]:.3g}"]
        parts += [self.warm_up and f"after {self.warm_up} steps"]
        parts += [self.input_scale != 1.0 and f"inputs x {self.input_scale:.3g}"]
        parts += [self.target_scale != 1.0 and f"targets x {self.target_scale:.3g}", f"{self.loss} on {self.source}"]
        return ", ".join(part for part in parts if part)


# ---- data ------------------------------------------------------------------------------------


@cache
def _source(name):
    """(x, target, outputs or 0 for regression) in float64."""
    from sklearn import datasets

    rng = np.random.default_rng(99)
    if name in ("iris", "breast_cancer"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return standardized(x), y, int(y.max()) + 1
    if name.endswith("_01"):
        x, y = getattr(datasets, f"load_{name[:-3]}")(return_X_y=True)
        low, high = x.min(axis=0), x.max(axis=0)
        return (x - low) / np.where(high > low, high - low, 1.0), y, int(y.max()) + 1
    if name in ("diabetes", "linnerud"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return standardized(x), standardized(y.reshape(len(x), -1)), 0
    if name == "xor":
        x = rng.uniform(-1.7, 1.7, (900, 2))
        return x, (x[:, 0] * x[:, 1] > 0).astype(int), 2
    if name == "bits":  # the sum of some of 24 bits
        x = rng.integers(0, 2, (800, 24)).astype(float)
        return x, standardized(x[:, :9].sum(axis=1, keepdims=True)), 0
    return _made(name, datasets)


def _made(name, datasets):
    made = {
        "moons": lambda: datasets.make_moons(800, noise=0.1, random_state=1),
        "blobs": lambda: datasets.make_blobs(900, n_features=6, centers=4, random_state=2),
        "classification": lambda: datasets.make_classification(1000, 16, n_informative=6, n_classes=3, random_state=3),
        "friedman": lambda: datasets.make_friedman1(900, n_features=8, random_state=4),
        "swiss_roll": lambda: datasets.make_swiss_roll(900, noise=0.3, random_state=5),
        "regression": lambda: datasets.make_regression(
            900, 12, n_informative=5, n_targets=2, noise=1.0, random_state=6
        ),
    }
    x, y = made[name]()
    if name in ("moons", "blobs", "classification"):
        return standardized(x), y, int(y.max()) + 1
    return standardized(x), standardized(y.reshape(len(x), -1)), 0


def data_of(design):
    """(x, target) as the design's net is given them, in its dtype."""
    x, y, _ = _source(design.source)
    x = (x * design.input_scale).astype(design.dtype)
    if design.loss == "cross_entropy":
        return x, y
    if design.loss == "binary_cross_entropy":
        return x, y.astype(design.dtype)
    return x, (y * design.target_scale).astype(design.dtype)


# ---- designs ---------------------------------------------------------------------------------


def design_of(seed):
    """The design with this number."""
    rng = np.random.default_rng((20260, seed))
    source = str(rng.choice(SOURCES))
    x, y, classes = _source(source)
    loss = str(rng.choice(_REGRESSION_LOSSES)) if not classes else "cross_entropy"
    outputs = classes or y.shape[1]
    if classes == 2 and rng.random() < 0.5:
        loss, outputs = "binary_cross_entropy", 1
    hidden = _hidden_widths(rng)
    normalization = str(rng.choice(["batch", "layer", "rms"])) if rng.random() < 0.35 else None
    return Design(
        seed=seed,
        source=source,
        loss=loss,
        widths=(x.shape[1], *hidden, outputs),
        activations=_activations(rng, len(hidden)),
        normalization=normalization,
        residual=bool(rng.random() < 0.2),
        bias=bool(rng.random() < 0.85),
        dtype="float64" if rng.random() < 0.2 else "float32",
        weights=_weights(rng),
        bias_deviation=float(rng.choice([0.0, 0.0, 0.0, 0.1, 0.3])),
        batch_size=int(rng.choice([16, 32, 50, 64, 100, 128, 200])),
        optimizer=_optimizer(rng),
        warm_up=int(rng.choice([0, 0, 0, 0, 3, 30, 200])),
        input_scale=float(10.0 ** rng.uniform(1.5, 4)) if rng.random() < 0.05 else 1.0,
        target_scale=float(10.0 ** rng.uniform(1.5, 4)) if rng.random() < 0.05 else 1.0,
    )


def _hidden_widths(rng):
    count = round(math.exp(rng.uniform(0.0, math.log(120.0))))
    width = round(math.exp(rng.uniform(math.log(6.0), math.log(320.0))))
    width = min(width, round(math.sqrt(_LARGEST_COST / count)))
    shape = rng.choice(["even", "even", "even", "taper", "ragged"])
    if shape == "taper":
        return tuple(round(w) for w in np.geomspace(width, max(width / 4, 6), count))
    if shape == "ragged":
        return tuple(int(w) for w in rng.integers(max(width // 2, 4), width + 1, count))
    return (width,) * count


def _activations(rng, count):
    names = [str(name) for name in rng.choice(gc.activations(), 2)]
    if rng.random() < 0.8:
        return (names[0],) * count
    return tuple(str(name) for name in rng.choice(names, count))


def _weights(rng):
    kind = rng.random()
    if kind < 0.5:
        return "named", str(rng.choice(gc.initializers()))
    if kind < 0.85:
        return "scaled", round(float(2.0 ** rng.uniform(-2.5, 2.5)), 3)
    return "uniform", float(rng.choice([1.0, 1.0, 3.0]))


def _optimizer(rng):
    name = str(rng.choice(["SGD", "SGD", "Adam", "AdamW", "RMSprop"]))
    fast = rng.random() < 0.1
    rate = 10.0 ** (rng.uniform(-2.3, -0.7) if name == "SGD" else rng.uniform(-3.5, -2.5)) * (300.0 if fast else 1.0)
    options = {"momentum": 0.9} if name == "SGD" and rng.random() < 0.5 else {}
    return (name, float(rate), options) if rng.random() < 0.5 else None


# ---- nets ------------------------------------------------------------------------------------


def fresh_net(design, seed):
    """A draw of the design's first parameters."""
    kind, value = design.weights
    net = gc.MLP(
        design.widths,
        activation=list(design.activations),
        normalization=design.normalization,
        residual=design.residual,
        bias=design.bias,
        dtype=design.dtype,
        init=value if kind == "named" else _drawn(design, kind, value),
        seed=seed,
    )
    if design.bias:
        _draw_biases(design, net, np.random.default_rng((seed, 5)))
    return net


def _drawn(design, kind, value):
    """An initializer (shape, rng). It goes by the critical variance of the layer's own activation when scaled."""
    layers = iter([*design.activations, "identity"])

    def init(shape, rng):
        fan_in, name = shape[1], next(layers)
        if kind == "uniform":
            return math.sqrt(value / fan_in) * rng.uniform(-1.0, 1.0, shape)
        return math.sqrt(value * CRITICAL_GAIN_SQUARED[name] / fan_in) * rng.standard_normal(shape)

    return init


def _draw_biases(design, net, rng):
    for layer in range(net.depth - 1):
        bias = net.parameters[f"dense{layer}.bias"]
        if design.weights[0] == "uniform":
            bias[...] = rng.uniform(-1.0, 1.0, bias.shape) / math.sqrt(design.widths[layer])
        elif design.bias_deviation:
            bias[...] = design.bias_deviation * rng.standard_normal(bias.shape)


def optimizer_for(design, net):
    """The design's optimizer, made for `net`; None where it has none."""
    if design.optimizer is None:
        return None
    name, rate, options = design.optimizer
    return getattr(gc.optim, name)(net, lr=rate, **options)


def batches_of(design, steps, seed):
    """Row numbers of `steps` random batches."""
    count = len(_source(design.source)[0])
    rng = np.random.default_rng((design.seed, seed))
    return [rng.choice(count, min(design.batch_size, count), replace=False) for _ in range(steps)]


def subject(design):
    """(net, optimizer or None) as they are analysed: after the design's warm-up."""
    net = fresh_net(design, design.seed)
    optimizer = optimizer_for(design, net)
    stepper = optimizer or gc.optim.Adam(net, lr=1e-3)
    x, target = data_of(design)
    for rows in batches_of(design, design.warm_up, 1):
        net.train_step(x[rows], target[rows], stepper, loss=design.loss)
    return net, optimizer


@dataclass(frozen=True)
class HeldOut:
    """A design with its truth, in the shape of the zoo's `Model`."""

    name: str
    verdict: str
    causes: tuple
    design: Design

    def make(self):
        net, optimizer = subject(self.design)
        how = {"loss": self.design.loss, "batch_size": self.design.batch_size, "seed": self.design.seed}
        return net, *data_of(self.design), how | ({"optimizer": optimizer} if optimizer else {})

    def report(self):
        net, x, target, options = self.make()
        return gc.analyze(net, x, target, **options)


def held_out(seeds):
    """(models, designs left out with the reason) of these numbers."""
    from held_out_truth import truth_of

    models, left_out = [], []
    for seed in seeds:
        design = design_of(seed)
        truth = truth_of(design)
        if truth.verdict is None:
            left_out.append((design, truth))
        else:
            models.append(HeldOut(str(design), truth.verdict, truth.causes, design))
    return models, left_out


def changed(design, **changes):
    """The design with some of it replaced: what an intervention of `held_out_truth` does."""
    return replace(design, **changes)
