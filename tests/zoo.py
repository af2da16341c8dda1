"""Nets whose trouble, or health, is known by construction: what the verdicts are measured on.

    python -m tests.zoo            the confusion table over all of them, and every miss
    python -m tests.zoo --quick    over the subset that the test suite runs

Nothing here was used to choose a threshold: those are derived in gradcore/analysis/subject.py. A problem
net is made so that theory puts it well beyond the healthy band (a factor of at least 1000 in gradient
norm, or an overflow, a dead layer, a diverging step); a healthy one is inside it or harmless by argument,
which its comment gives.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

import gradcore as gc
from gradcore.init import CRITICAL_GAIN_SQUARED


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


REAL = ("digits", "breast_cancer", "diabetes", "wine")


def net_on(name, hidden, width, seed=0, **options):
    """(net, x, target, {"loss": ...}) of equal hidden widths on a data set."""
    x, target, outputs, loss = data(name)
    widths = [x.shape[1], *([width] * hidden), outputs]
    return gc.MLP(widths, seed=seed, **options), x, target, {"loss": loss, "seed": seed}


def scale_hidden(net, factor):
    """Multiply the variance of the weights between hidden layers by `factor`."""
    for layer in range(1, net.depth - 1):
        net.parameters[f"dense{layer}.weight"][...] *= math.sqrt(factor)


# ---- problems --------------------------------------------------------------------------------


def scaled(activation, variance, hidden, width, seed, source, **options):
    """Weight variance `variance` / fan_in between hidden layers."""

    def make():
        net, x, target, how = net_on(source, hidden, width, seed, activation=activation, **options)
        scale_hidden(net, variance / CRITICAL_GAIN_SQUARED[activation])
        return net, x, target, how

    return make


def small_weights():
    """chi at most 1/3 a layer over 20 and more layers: 3^-10 and less in norm."""
    cases = [("relu", 0.5), ("leaky_relu", 0.5), ("tanh", 1 / 3), ("elu", 1 / 3), ("gelu", 0.5), ("silu", 0.5),
             ("selu", 0.2), ("mish", 0.5), ("hard_tanh", 0.3), ("identity", 0.3), ("gelu_tanh", 0.6)]  # fmt: skip
    sources = ("digits", "gauss", "waves", "breast_cancer", "circles", "diabetes")
    for index, (activation, variance) in enumerate(cases):
        for hidden, width in ((20, 64), (40, 48), (30, 24)):
            source = sources[(index + hidden) % len(sources)]
            name = f"small weights, {activation} {hidden}x{width} on {source}"
            yield Model(name, "vanishing", ("weight_scale",), scaled(activation, variance, hidden, width, index, source))
    for hidden in (24, 36):  # LeCun's scale under ReLU: 1/2 a layer
        yield Model(f"LeCun relu {hidden}x64", "vanishing", ("weight_scale",),
                    scaled("relu", 1.0, hidden, 64, hidden, "digits"))  # fmt: skip


def large_weights():
    """chi of 2 and more a layer, or deep in the chaotic phase."""
    cases = [("relu", 5.0, 20), ("leaky_relu", 6.0, 20), ("identity", 3.0, 20), ("elu", 6.0, 20), ("selu", 3.0, 20),
             ("gelu", 8.0, 20), ("silu", 8.0, 20), ("tanh", 16.0, 30), ("hard_tanh", 9.0, 30), ("mish", 7.0, 20)]  # fmt: skip
    sources = ("digits", "gauss", "waves", "circles")
    for index, (activation, variance, hidden) in enumerate(cases):
        for extra, width in ((0, 64), (10, 100), (15, 32)):
            source = sources[(index + extra) % len(sources)]
            name = f"large weights, {activation} {hidden + extra}x{width} on {source}"
            yield Model(name, "exploding", ("weight_scale",),
                        scaled(activation, variance, hidden + extra, width, index, source))  # fmt: skip


def sigmoids():
    """A sigmoid's slope is at most 1/4: chi is 0.056 with Glorot's weights, 0.10 with He's."""
    for init in ("glorot_normal", "he_normal", "lecun_uniform"):
        for hidden, source in ((6, "digits"), (12, "waves"), (30, "breast_cancer"), (8, "diabetes")):
            yield Model(f"sigmoid {init} {hidden}x80 on {source}", "vanishing", ("activation_slope", "saturating_activation"),
                        lambda h=hidden, i=init, s=source: net_on(s, h, 80, h, activation="sigmoid", init=i))  # fmt: skip


def saturated():
    """Biases of +-4 hold every unit where its derivative is below 0.1 % (tanh) or 2 % (sigmoid) of its largest."""

    def make(activation, hidden, source):
        net, x, target, how = net_on(source, hidden, 64, hidden, activation=activation)
        if activation == "sigmoid":
            scale_hidden(net, 1 / CRITICAL_GAIN_SQUARED["sigmoid"])
        rng = np.random.default_rng(hidden)
        for layer in range(net.depth - 1):
            net.parameters[f"dense{layer}.bias"][...] = rng.choice([-4.0, 4.0], 64)
        return net, x, target, how

    for activation, hidden, source in (("tanh", 10, "digits"), ("tanh", 20, "gauss"), ("hard_tanh", 10, "waves"),
                                       ("sigmoid", 8, "digits"), ("sigmoid", 12, "diabetes")):  # fmt: skip
        causes = ("saturating_activation",)
        yield Model(f"saturated {activation} {hidden}x64 on {source}", "vanishing", causes,
                    lambda a=activation, h=hidden, s=source: make(a, h, s))  # fmt: skip


def batch_norms():
    """Batch norm before ReLU: 1.47 a layer in squared norm and more at small batches."""
    for hidden, width, batch_size, source in ((40, 64, 128, "digits"), (50, 100, 128, "gauss"), (60, 48, 64, "waves"),
                                              (32, 64, 16, "digits"), (70, 64, 128, "breast_cancer")):  # fmt: skip
        def make(h=hidden, w=width, b=batch_size, s=source):
            net, x, target, how = net_on(s, h, w, h, normalization="batch")
            return net, x, target, {**how, "batch_size": b}

        yield Model(f"batch norm relu {hidden}x{width} B={batch_size} on {source}", "exploding", ("batch_norm",), make)


def overflows():
    """Values beyond float32, or weights that are no numbers."""
    for hidden in (30, 60):
        yield Model(f"overflow relu {hidden}x64", "non_finite", ("weight_scale",),
                    scaled("relu", 2.0e4 if hidden == 30 else 200.0, hidden, 64, hidden, "digits"))  # fmt: skip

    def huge_input():
        net, x, target, how = net_on("digits", 6, 64)
        return net, np.clip(x, -3, 3) * np.float32(1e38), target, how

    def broken():
        net, x, target, how = net_on("gauss", 6, 64)
        net.parameters["dense3.weight"][2, 5] = np.nan
        return net, x, target, how

    yield Model("overflow by inputs of 1e37", "non_finite", ("input_scale",), huge_input)
    yield Model("a weight that is NaN", "non_finite", ("learning_rate", "overflow"), broken)


def silent():
    """No gradient at all."""

    def dead(layer, source):
        net, x, target, how = net_on(source, 8, 32, layer)
        net.parameters[f"dense{layer}.bias"][...] = -1e3
        return net, x, target, how

    def all_zero(activation):
        net, x, target, how = net_on("digits", 4, 32, activation=activation)
        net.parameters.flat[:] = 0.0
        return net, x, target, how

    for layer, source in ((0, "digits"), (3, "gauss"), (7, "waves")):
        yield Model(f"dead layer {layer} on {source}", "vanishing", ("dead_units",), lambda n=layer, s=source: dead(n, s))
    for activation in ("relu", "tanh"):
        yield Model(f"all weights zero, {activation}", "vanishing", ("weight_scale", "dead_units"), lambda a=activation: all_zero(a))
    for seed in (0, 1, 2):
        yield Model(f"relu of width 2, 40 layers, seed {seed}", "vanishing", ("narrow_layer", "dead_units"),
                    lambda s=seed: net_on("circles", 40, 2, s))  # fmt: skip

    def one_output():
        x, labels, _, _ = data("wine")
        return gc.MLP([13, 20, 20, 1]), x, np.zeros(len(labels), dtype=int), {"loss": "cross_entropy"}

    yield Model("softmax over one output", "vanishing", ("loss_output",), one_output)
    yield Model("sigmoid of 90 layers: underflow", "vanishing", ("precision", "activation_slope"),
                lambda: net_on("digits", 90, 40, activation="sigmoid", init="glorot_normal"))  # fmt: skip


def steps():
    """Steps that diverge on a net whose profile is level."""

    def fast(optimizer, lr, source):
        net, x, target, how = net_on(source, 4, 64)
        return net, x, target, {**how, "optimizer": getattr(gc.optim, optimizer)(net, lr=lr)}

    def targets(factor):
        net, x, target, how = net_on("diabetes", 6, 64)
        return net, x, target * np.float32(factor), {**how, "optimizer": gc.optim.SGD(net, lr=0.01, momentum=0.9)}

    def raw(source):
        net, x, target, how = net_on(source, 4, 64)
        return net, x, target, {**how, "optimizer": gc.optim.SGD(net, lr=0.1)}

    for optimizer, lr, source in (("SGD", 30.0, "waves"), ("SGD", 100.0, "digits"), ("Adam", 3.0, "waves")):
        yield Model(f"{optimizer} at lr {lr:g} on {source}", "exploding", ("learning_rate",),
                    lambda o=optimizer, r=lr, s=source: fast(o, r, s))  # fmt: skip
    yield Model("targets of 1e4", "exploding", ("target_scale",), lambda: targets(1e4))
    yield Model("raw inputs, breast_cancer", "exploding", ("input_scale",), lambda: raw("breast_cancer_raw"))


def sums():
    """Plain skip connections: the variance doubles in every block."""
    for hidden, source in ((20, "digits"), (40, "gauss")):
        yield Model(f"residual relu without normalization, {hidden}x64", "exploding", ("depth", "weight_scale"),
                    lambda h=hidden, s=source: net_on(s, h, 64, h, residual=True))  # fmt: skip


def too_deep():
    """SELU's 7 % a layer over 200 layers: a factor of 1300 in norm."""
    yield Model("selu 200x64", "exploding", ("depth",), lambda: net_on("digits", 200, 64, activation="selu"))


def problems():
    for family in (small_weights, large_weights, sigmoids, saturated, batch_norms, overflows, silent, steps, sums, too_deep):
        yield from family()


# ---- healthy nets ----------------------------------------------------------------------------


def fresh():
    """Critical weights, as gradcore draws them, at moderate depth."""
    activations = gc.activations()
    sources = ("digits", "gauss", "waves", "circles", "breast_cancer", "diabetes", "wine")
    for index, activation in enumerate(activations):
        if activation == "sigmoid":
            continue  # its critical weights drive it into saturation; judged under `sigmoids`
        for hidden, width in ((3, 50), (10, 100), (20, 64)):
            source = sources[(index + hidden) % len(sources)]
            yield healthy(f"critical {activation} {hidden}x{width} on {source}", source, hidden, width, index, activation=activation)


def healthy(name, source, hidden, width, seed, changes=None, **options):
    def make():
        net, x, target, how = net_on(source, hidden, width, seed, **options)
        return net, x, target, {**how, **(changes(net) if changes else {})}

    return Model(name, "healthy", (), make)


def narrow():
    """Their typical gradient falls by a factor of exp(5 L / 4 n), and single draws by far more: chance, not design."""
    for hidden, width in ((20, 16), (50, 16), (30, 24), (50, 32), (40, 48), (50, 64), (30, 16), (20, 32)):
        for seed in range(3):
            yield healthy(f"narrow He relu {hidden}x{width}, seed {seed}", "digits" if seed else "gauss", hidden, width, seed)


def normalized():
    """Normalizations at depths where their growth is mild."""
    for normalization in ("layer", "rms", "batch"):
        for activation in ("relu", "tanh", "gelu"):
            yield healthy(f"{normalization} norm {activation} 10x64", "digits", 10, 64, 1, activation=activation, normalization=normalization)
    for activation in ("relu", "gelu", "tanh"):
        yield healthy(f"residual layer norm {activation} 40x64", "gauss", 40, 64, 2, activation=activation,
                      normalization="layer", residual=True)  # fmt: skip
    yield healthy("selu 50x100", "digits", 50, 100, 0, activation="selu", init="lecun_normal")
    yield healthy("selu 50x32", "waves", 50, 32, 1, activation="selu")
    yield healthy("orthogonal tanh 50x64", "digits", 50, 64, 0, activation="tanh", init="orthogonal")
    yield healthy("orthogonal identity 50x64", "diabetes", 50, 64, 0, activation="identity", init="orthogonal")


def zero_starts():
    """Branches and outputs that begin at zero on purpose: the first steps wake them."""

    def branches(hidden, activation, normalization):
        net, x, target, how = net_on("digits", hidden, 64, 0, activation=activation, normalization=normalization, residual=True)
        for layer in range(1, net.depth - 1):
            name = f"dense{layer}.weight" if normalization is None else f"norm{layer}.weight"
            net.parameters[name][...] = 0.0
        return net, x, target, how

    def output():
        net, x, target, how = net_on("digits", 6, 64)
        net.parameters[f"dense{net.depth - 1}.weight"][...] = 0.0
        return net, x, target, how

    for hidden, activation, normalization in ((20, "gelu", None), (30, "tanh", None), (20, "silu", "layer"),
                                              (20, "gelu", "batch"), (40, "tanh", "rms"), (20, "relu", None)):  # fmt: skip
        yield Model(f"zero branches {activation} {normalization} {hidden}x64", "healthy", (),
                    lambda h=hidden, a=activation, n=normalization: branches(h, a, n))  # fmt: skip
    yield Model("zero output layer", "healthy", (), output)


def sparse():
    """Negative biases: nine of ten ReLU outputs are zero, yet every unit is on for some rows, and the weights
    are scaled to keep the gradient level (chi = gain^2 * share of open units)."""

    def make(hidden, share, seed):
        net, x, target, how = net_on("digits", hidden, 128, seed)
        for layer in range(net.depth - 1):
            z = _preacts(net, x, layer)
            net.parameters[f"dense{layer}.bias"][...] -= np.quantile(z, 1 - share, axis=0)
            if layer:
                net.parameters[f"dense{layer}.weight"][...] *= math.sqrt(0.5 / share)
        return net, x, target, how

    for hidden, share, seed in ((3, 0.25, 0), (4, 0.2, 1), (2, 0.1, 2)):
        yield Model(f"sparse relu {share:g} {hidden}x128", "healthy", (), lambda h=hidden, p=share, s=seed: make(h, p, s))


def _preacts(net, x, layer):
    h = x
    for below in range(layer + 1):
        z = h @ net.parameters[f"dense{below}.weight"].T + net.parameters[f"dense{below}.bias"]
        h = np.maximum(z, 0)
    return z


def adaptive():
    """Small gradients that Adam rescales: entries above its eps."""

    def adam(net):
        return {"optimizer": gc.optim.Adam(net, lr=1e-3)}

    yield healthy("sigmoid 5x64 under Adam", "digits", 5, 64, 0, adam, activation="sigmoid", init="glorot_normal")
    yield healthy("LeCun relu 14x64 under Adam", "digits", 14, 64, 0, adam, init="lecun_normal")
    yield healthy("He relu 20x64 under Adam", "gauss", 20, 64, 0, adam)

    def converged():
        """Loss near zero: every gradient is 1e-6 and below, and Adam's state is of the same size."""
        net, x, target, how = net_on("digits", 4, 64)
        optimizer = gc.optim.Adam(net, lr=1e-3)
        net.fit(x, target, epochs=60, batch_size=64, optimizer=optimizer, progress=False)
        return net, x, target, {**how, "optimizer": optimizer}

    yield Model("tiny gradients under Adam", "healthy", (), converged)


def trained():
    """After training: gradients are small because there is little left to learn."""

    def make(source, hidden, optimizer, lr, epochs, options):
        net, x, target, how = net_on(source, hidden, 64, 1, **options)
        net.fit(x, target, epochs=epochs, batch_size=64, loss=how["loss"], progress=False,
                optimizer=getattr(gc.optim, optimizer)(net, lr=lr))  # fmt: skip
        return net, x, target, how

    cases = [("digits", 4, "SGD", 0.1, 30, {}), ("digits", 10, "SGD", 0.05, 30, {}), ("gauss", 6, "Adam", 1e-3, 30, {}),
             ("waves", 6, "Adam", 1e-3, 30, {"activation": "tanh"}), ("digits", 20, "Adam", 1e-3, 10, {"activation": "selu"}),
             ("breast_cancer", 3, "SGD", 0.1, 60, {}), ("digits", 10, "Adam", 1e-3, 10, {"normalization": "layer"}),
             ("digits", 10, "SGD", 0.1, 10, {"normalization": "batch"}), ("diabetes", 3, "SGD", 0.01, 50, {}),
             ("digits", 2, "SGD", 0.1, 100, {"activation": "sigmoid", "init": "glorot_normal"})]  # fmt: skip
    for source, hidden, optimizer, lr, epochs, options in cases:
        name = f"trained {options} {hidden} hidden on {source} by {optimizer}"
        yield Model(name, "healthy", (), lambda c=(source, hidden, optimizer, lr, epochs, options): make(*c))


def first_steps():
    """Batch norm's growth at the start mostly disappears in the first steps (Yang et al. 2019)."""

    def make(hidden, count):
        net, x, target, how = net_on("digits", hidden, 64, 3, normalization="batch")
        optimizer = gc.optim.SGD(net, lr=0.1)
        for step in range(count):
            rows = slice(128 * step, 128 * step + 128)
            net.train_step(x[rows], target[rows], optimizer)
        return net, x, target, how

    for hidden, count in ((10, 1), (15, 1), (20, 5)):
        yield Model(f"batch norm {hidden}x64 after {count} steps", "healthy", (), lambda h=hidden, n=count: make(h, n))


def shapes():
    """Unusual shapes and batches of sound nets."""
    def shaped(widths, source, seed=0, **options):
        def make():
            x, target, outputs, loss = data(source)
            return gc.MLP([x.shape[1], *widths, outputs], seed=seed, **options), x, target, {"loss": loss}

        return Model(f"widths {widths} on {source} {options}", "healthy", (), make)

    yield shaped([512, 256, 128, 64, 32], "digits")
    yield shaped([32, 64, 128, 256, 512], "digits")
    yield shaped([128, 32, 8, 32, 128], "digits", activation="tanh")
    yield shaped([100], "digits")
    yield shaped([], "digits")
    yield shaped([20, 20], "digits", activation="sigmoid", init="glorot_normal")
    yield shaped([64, 64], "digits_raw")
    yield shaped([64] * 10, "digits", dtype="float64")
    yield shaped([64] * 10, "wine", bias=False)
    yield shaped([100] * 8, "digits", activation=["relu", "tanh"] * 4)
    for batch_size in (2, 4, 16):
        yield healthy(f"He relu 20x64, batches of {batch_size}", "digits", 20, 64, batch_size,
                      lambda net, b=batch_size: {"batch_size": b})  # fmt: skip
    yield healthy("He relu 10x64 with its optimizer", "digits", 10, 64, 0,
                  lambda net: {"optimizer": gc.optim.SGD(net, lr=0.05, momentum=0.9)})  # fmt: skip
    yield healthy("gelu 10x64 with AdamW", "digits", 10, 64, 0,
                  lambda net: {"optimizer": gc.optim.AdamW(net, lr=1e-3)}, activation="gelu")  # fmt: skip


def healthy_nets():
    for family in (fresh, narrow, normalized, zero_starts, sparse, adaptive, trained, first_steps, shapes):
        yield from family()


# ---- the table -------------------------------------------------------------------------------


def models(quick=False):
    """All models; with `quick` every fourth."""
    everything = [*problems(), *healthy_nets()]
    return everything[::4] if quick else everything


def cause_is_right(model, report):
    """Whether the worst finding that makes the verdict names a cause that is right."""
    kinds = {"vanishing": ("vanishing", "zero_gradient", "loss_output_mismatch"), "exploding": ("exploding",),
             "non_finite": ("non_finite",)}[model.verdict]  # fmt: skip
    found = [f.cause for f in report.findings if f.kind in kinds and f.severity != "info"]
    return bool(found) and found[0] in model.causes


def judge_all(chosen, progress=None):
    """[(model, report)]."""
    judged = []
    for index, model in enumerate(chosen):
        if progress:
            progress(index, len(chosen), model.name)
        judged.append((model, model.report()))
    return judged


def rates(judged):
    """Detection, false alarms and right causes, as shares."""
    sick = [(m, r) for m, r in judged if m.verdict != "healthy"]
    well = [(m, r) for m, r in judged if m.verdict == "healthy"]
    return {
        "problems": len(sick),
        "healthy": len(well),
        "detected": sum(r.verdict == m.verdict for m, r in sick) / max(len(sick), 1),
        "false_alarms": sum(r.verdict != "healthy" for _, r in well) / max(len(well), 1),
        "causes": sum(cause_is_right(m, r) for m, r in sick) / max(len(sick), 1),
    }


def table(judged):
    """The confusion table as text, and a line for every miss."""
    verdicts = ("healthy", "vanishing", "exploding", "non_finite")
    counts = Counter((m.verdict, r.verdict) for m, r in judged)
    lines = ["truth \\ verdict" + "".join(f"{name:>12}" for name in verdicts)]
    lines += [f"{truth:15}" + "".join(f"{counts[truth, name]:12d}" for name in verdicts) for truth in verdicts]
    found = rates(judged)
    lines.append("")
    lines.append(f"{found['problems']} problems: {100 * found['detected']:.1f} % detected with the right verdict, "
                 f"{100 * found['causes']:.1f} % with the right cause")  # fmt: skip
    lines.append(f"{found['healthy']} healthy nets: {100 * found['false_alarms']:.1f} % false alarms")
    for model, report in judged:
        wrong_cause = model.verdict != "healthy" and not cause_is_right(model, report)
        if report.verdict != model.verdict or wrong_cause:
            first = next(iter(report.findings), None)
            lines.append(f"  {model.name}: {model.verdict} {'/'.join(model.causes)} -> {report.verdict} "
                         f"{first and (first.kind, first.severity, first.cause)}")  # fmt: skip
    return "\n".join(lines)


def main():
    start = time.monotonic()
    chosen = models(quick="--quick" in sys.argv)
    judged = judge_all(chosen, lambda done, total, name: print(f"\r{done}/{total}", end="", file=sys.stderr))
    print(file=sys.stderr)
    print(table(judged))
    print(f"{len(judged)} nets in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
