"""The zoo's healthy nets: inside the healthy band by theory, or harmless for a reason that its comment gives."""

import math

import numpy as np

import gradcore as gc
from zoo_data import Model, data, net_on


def fresh():
    """Critical weights, as gradcore draws them, at moderate depth."""
    activations = gc.activations()
    sources = ("digits", "gauss", "waves", "circles", "breast_cancer", "diabetes", "wine")
    for index, activation in enumerate(activations):
        if activation == "sigmoid":
            continue  # its critical weights drive it into saturation; judged under `sigmoids`
        for hidden, width in ((3, 50), (10, 100), (20, 64)):
            source = sources[(index + hidden) % len(sources)]
            yield healthy(
                f"critical {activation} {hidden}x{width} on {source}",
                source,
                hidden,
                width,
                index,
                activation=activation,
            )


def healthy(name, source, hidden, width, seed, changes=None, **options):
    def make():
        net, x, target, how = net_on(source, hidden, width, seed, **options)
        return net, x, target, {**how, **(changes(net) if changes else {})}

    return Model(name, "healthy", (), make)


def narrow():
    """Their typical gradient falls by a factor of exp(5 L / 4 n), and single draws by far more: chance, not design."""
    for hidden, width in ((20, 16), (50, 16), (30, 24), (50, 32), (40, 48), (50, 64), (30, 16), (20, 32)):
        for seed in range(5):
            yield healthy(
                f"narrow He relu {hidden}x{width}, seed {seed}", "digits" if seed else "gauss", hidden, width, seed
            )


def normalized():
    """Normalizations at depths where their growth is mild."""
    for normalization in ("layer", "rms", "batch"):
        for activation in ("relu", "tanh", "gelu"):
            yield healthy(
                f"{normalization} norm {activation} 10x64",
                "digits",
                10,
                64,
                1,
                activation=activation,
                normalization=normalization,
            )
    for activation in ("relu", "gelu", "tanh"):
        yield healthy(f"residual layer norm {activation} 40x64", "gauss", 40, 64, 2, activation=activation,
                      normalization="layer", residual=True)  # fmt: skip
    for seed in range(4):
        yield healthy(f"selu 50x100, seed {seed}", "digits", 50, 100, seed, activation="selu", init="lecun_normal")
    for activation in ("tanh", "selu", "elu", "hard_tanh"):
        yield healthy(f"Glorot {activation} 15x64", "diabetes", 15, 64, 1, activation=activation, init="glorot_uniform")
    for activation in ("relu", "gelu", "mish", "leaky_relu"):
        yield healthy(f"He {activation} 12x64", "digits", 12, 64, 1, activation=activation, init="he_uniform")
    for seed in range(3):
        yield healthy(f"orthogonal relu 30x64, seed {seed}", "waves", 30, 64, seed, init="orthogonal")
        yield healthy(
            f"residual rms norm relu 30x48, seed {seed}", "wine", 30, 48, seed, normalization="rms", residual=True
        )
    yield healthy("selu 50x32", "waves", 50, 32, 1, activation="selu")
    yield healthy("orthogonal tanh 50x64", "digits", 50, 64, 0, activation="tanh", init="orthogonal")
    yield healthy("orthogonal identity 50x64", "diabetes", 50, 64, 0, activation="identity", init="orthogonal")


def zero_starts():
    """Branches and outputs that begin at zero on purpose: the first steps wake them."""

    def branches(hidden, activation, normalization):
        net, x, target, how = net_on(
            "digits", hidden, 64, 0, activation=activation, normalization=normalization, residual=True
        )
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
        yield Model(
            f"sparse relu {share:g} {hidden}x128", "healthy", (), lambda h=hidden, p=share, s=seed: make(h, p, s)
        )


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
