"""The zoo's problem nets, sick by construction.

Nothing here was used to choose a threshold: those are derived in gradcore/analysis/subject.py. Theory puts
each net well beyond the healthy band (a factor of 100 in gradient norm), or it overflows, has a dead
layer, or diverges within a few steps.
"""

import numpy as np

import gradcore as gc
from gradcore.init import CRITICAL_GAIN_SQUARED
from zoo_data import Model, data, net_on, scale_hidden


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
        for hidden, width in ((20, 64), (40, 48), (30, 24), (24, 128)):
            source = sources[(index + hidden) % len(sources)]
            name = f"small weights, {activation} {hidden}x{width} on {source}"
            yield Model(
                name, "vanishing", ("weight_scale",), scaled(activation, variance, hidden, width, index, source)
            )
    for hidden, width, source in ((24, 64, "digits"), (36, 64, "waves"), (30, 20, "gauss"), (40, 256, "wine")):
        # LeCun's scale under ReLU: 1/2 a layer
        yield Model(f"LeCun relu {hidden}x{width} on {source}", "vanishing", ("weight_scale",),
                    lambda h=hidden, w=width, s=source: net_on(s, h, w, h, init="lecun_normal"))  # fmt: skip
    for activation in ("relu", "gelu"):  # under SGD that is given, in float64, without biases

        def given(a=activation):
            net, x, target, how = net_on("digits", 25, 64, 4, activation=a, dtype="float64", bias=False)
            scale_hidden(net, 0.25)
            return net, x, target, {**how, "optimizer": gc.optim.SGD(net, lr=0.05, momentum=0.9)}

        yield Model(f"small weights, {activation} 25x64 under its SGD", "vanishing", ("weight_scale",), given)


def large_weights():
    """chi of 2 and more a layer, or deep in the chaotic phase."""
    cases = [("relu", 5.0, 20), ("leaky_relu", 6.0, 20), ("identity", 3.0, 20), ("elu", 6.0, 20), ("selu", 3.0, 20),
             ("gelu", 8.0, 20), ("silu", 8.0, 20), ("tanh", 16.0, 30), ("hard_tanh", 9.0, 30), ("mish", 7.0, 20)]  # fmt: skip
    sources = ("digits", "gauss", "waves", "circles")
    for index, (activation, variance, hidden) in enumerate(cases):
        for extra, width in ((0, 64), (5, 48), (10, 100), (15, 32)):
            source = sources[(index + extra) % len(sources)]
            name = f"large weights, {activation} {hidden + extra}x{width} on {source}"
            yield Model(name, "exploding", ("weight_scale",),
                        scaled(activation, variance, hidden + extra, width, index, source))  # fmt: skip


def sigmoids():
    """A sigmoid's slope is at most 1/4: chi is 0.056 with Glorot's weights, 0.10 with He's."""
    for init in ("glorot_normal", "he_normal", "lecun_uniform"):
        for hidden, source in (
            (6, "digits"),
            (12, "waves"),
            (30, "breast_cancer"),
            (8, "diabetes"),
            (18, "circles"),
            (10, "wine"),
            (7, "gauss"),
        ):
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
                                              (32, 64, 16, "digits"), (70, 64, 128, "breast_cancer"),
                                              (45, 32, 32, "diabetes"), (40, 64, 8, "gauss")):  # fmt: skip

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

    for layer, source in ((0, "digits"), (3, "gauss"), (7, "waves"), (5, "circles")):
        yield Model(
            f"dead layer {layer} on {source}", "vanishing", ("dead_units",), lambda n=layer, s=source: dead(n, s)
        )
    for activation in ("relu", "tanh"):
        yield Model(
            f"all weights zero, {activation}",
            "vanishing",
            ("weight_scale", "dead_units"),
            lambda a=activation: all_zero(a),
        )
    for seed in range(4):
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
    for factor in (1e4, 1e3):
        yield Model(f"targets of {factor:g}", "exploding", ("target_scale",), lambda f=factor: targets(f))
    yield Model("raw inputs, breast_cancer", "exploding", ("input_scale",), lambda: raw("breast_cancer_raw"))


def sums():
    """Plain skip connections: the variance doubles in every block."""
    for hidden, source in ((20, "digits"), (30, "waves"), (40, "gauss")):
        yield Model(f"residual relu without normalization, {hidden}x64", "exploding", ("depth", "weight_scale"),
                    lambda h=hidden, s=source: net_on(s, h, 64, h, residual=True))  # fmt: skip


def too_deep():
    """SELU's 7 % a layer over 200 layers: a factor of 1300 in norm."""
    for hidden, source in ((200, "digits"), (240, "waves"), (300, "gauss")):
        yield Model(f"selu {hidden}x64 on {source}", "exploding", ("depth",),
                    lambda h=hidden, s=source: net_on(s, h, 64, h, activation="selu"))  # fmt: skip


def problems():
    for family in (
        small_weights,
        large_weights,
        sigmoids,
        saturated,
        batch_norms,
        overflows,
        silent,
        steps,
        sums,
        too_deep,
    ):
        yield from family()
