"""Nets, optimizers and data at the edge of what can be analysed: one layer, a rate of 0, numbers near overflow."""

import numpy as np
import pytest

import gradcore as gc
from gradcore._scaling import standard_scaling
from native_diagnosis import diagnose

TRIALS = {"steps": 10, "seeds": 2, "limit": 3}


def kinds(report):
    return {(finding.kind, finding.cause) for finding in report.findings if finding.severity != "info"}


def kept(findings):
    return [(finding.kind, finding.severity, finding.layers, finding.cause) for finding in findings]


def shown(report):
    """The report, once all of its forms have been made."""
    assert all(finding.explanation for finding in report.findings)
    assert str(report) and report._repr_html_() and report.to_json()
    return report


# ---- a single layer --------------------------------------------------------------------------------


def test_a_net_without_hidden_layers_is_analysed_and_cured(rng):
    x = rng.standard_normal((200, 3))
    price = 200_000 + 50_000 * x[:, :1]
    net = gc.MLP([3, 1])
    report = shown(gc.analyze(net, x, price, loss="mse", optimizer=gc.optim.Adam(net)))
    assert report.verdict == "exploding" and kinds(report) >= {("exploding", "target_scale")}
    cure = gc.repair(gc.MLP([3, 1]), x, price, loss="mse", **TRIALS)
    assert cure.cured and [remedy.name for remedy in cure.remedies] == ["standardized targets"]


@pytest.mark.parametrize("options", [{}, {"residual": True}, {"normalization": "layer"}])
def test_weights_of_a_single_layer_that_overflows_are_drawn_anew(rng, options):
    net = gc.MLP([3, 3], **options)
    net.parameters["dense0.weight"] *= 1e38
    x = rng.standard_normal((200, 3))
    report = shown(gc.analyze(net, x, x, loss="mse"))
    assert report.verdict == "non_finite"
    assert "critical initialization" in {remedy.name for remedy in report.remedies(**TRIALS) if remedy.helps}


# ---- a learning rate of 0 --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [gc.optim.SGD, gc.optim.Adam])
@pytest.mark.parametrize("target", [np.full((200, 1), 50.0), None])
def test_a_rate_of_zero_is_told_and_nothing_else_of_steps(rng, kind, target):
    x = rng.standard_normal((200, 3))
    net = gc.MLP([3, 16, 16, 1])
    target = 50.0 + x[:, :1] if target is None else target
    report = shown(gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)))
    assert report.verdict == "healthy"
    assert kinds(report) == {("update_ratio", "learning_rate"), ("unscaled_input", "target_scale")}
    assert f"learning rate of {kind.__name__} is 0" in report.findings[0].explanation
    assert ("update_ratio", "warning", (0, 1, 2), "learning_rate") in kept(diagnose(report._case)[2])


@pytest.mark.parametrize("kind", [gc.optim.SGD, gc.optim.Adam])
def test_the_profile_is_judged_at_a_rate_of_zero_too(rng, kind):
    """By the layers' gradients alone; remedies are tried at rates of their own."""
    x = rng.standard_normal((200, 3))
    target = np.sin(x[:, :1])
    net = gc.MLP([3] + [16] * 20 + [1], activation="sigmoid")
    report = shown(gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)))
    assert report.verdict == "vanishing" and "lr 0 " not in str(report.findings)
    assert kept(diagnose(report._case)[2]) == kept(report.findings)
    assert not any("learning rate 0" in remedy.name for remedy in report.remedies(**TRIALS))
    net = gc.MLP([3, 16, 16, 1])
    net.parameters["dense2.weight"] = 0.0  # wakes up at any other rate
    assert gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)).verdict == "healthy"


# ---- layers that nothing enters --------------------------------------------------------------------


def silent(findings):
    return [found[1:] for found in kept(findings) if found[0] == "zero_gradient"]


def small_weights(activation, layers, scale):
    net = gc.MLP([16] + [32] * layers + [4], activation=activation)
    for layer in range(net.depth):
        net.parameters[f"dense{layer}.weight"] *= scale
    return net


def zero_weights(activation, layer):
    net = gc.MLP([16, 32, 32, 32, 4], activation=activation)
    net.parameters[f"dense{layer}.weight"] = 0.0
    return net


FROM_BELOW = "A gradient arrives from above, but almost no signal from below"
NO_INPUT = {
    "tanh": (
        gc.MLP([16, 32, 32, 4], activation="tanh"),
        [("critical", (0,), "input_scale"), ("info", (1, 2), "input_scale")],
    ),
    "relu": (gc.MLP([16, 32, 32, 4]), [("critical", (0, 1, 2), "input_scale")]),
    "skips": (gc.MLP([16, 16, 16, 4], residual=True), [("critical", (0, 1, 2), "input_scale")]),
    "no biases": (gc.MLP([16, 32, 32, 4], activation="tanh", bias=False), [("critical", (0, 1, 2), "input_scale")]),
}
NO_SIGNAL = {
    "it dies in tanh": (
        small_weights("tanh", 30, 0.01),
        [
            ("critical", tuple(range(16)), "precision"),
            ("critical", tuple(range(16, 21)), "weight_scale"),
            ("info", tuple(range(21, 31)), "weight_scale"),
        ],
    ),
    "it dies in relu": (small_weights("relu", 30, 0.01), [("critical", tuple(range(31)), "weight_scale")]),
    "zeros below": (zero_weights("tanh", 0), [("info", (1, 2, 3), "weight_scale")]),
    "zeros between": (zero_weights("tanh", 2), [("info", (0, 1), "weight_scale"), ("info", (3,), "weight_scale")]),
    "zeros above": (zero_weights("tanh", 3), [("info", (0, 1, 2), "weight_scale")]),
    "zeros in relu": (zero_weights("relu", 1), [("critical", (0, 1, 2, 3), "weight_scale")]),
}


def test_dead_units_that_momentum_wakes_are_named(rng):
    """Nothing of the data reaches them, nor those above and below: earlier gradients move them."""
    x, labels = rng.standard_normal((512, 16)), rng.integers(0, 2, 512)
    net = gc.MLP([16] + [32] * 6 + [2], seed=0)
    optimizer = gc.optim.SGD(net, lr=0.05, momentum=0.9)
    net.train_step(x, labels, optimizer)
    velocity = net.gradients.like(np.zeros_like(net.parameters.flat))
    net.parameters["dense3.bias"], velocity["dense3.bias"] = -20.0, -600.0
    optimizer.load_state_dict({**optimizer.state_dict(), "states": [velocity.flat]})
    report = shown(gc.analyze(net, x, labels, optimizer=optimizer))
    assert silent(report.findings) == [("info", (0, 1, 2, 3, 4), "dead_units")]
    text = next(finding for finding in report.findings if finding.kind == "zero_gradient").explanation
    assert "layer 3 output zero" in text and "SGD moves them with what it has accumulated in earlier steps" in text


@pytest.mark.parametrize(("net", "expected"), NO_INPUT.values(), ids=NO_INPUT)
def test_inputs_of_zero_are_named(rng, net, expected):
    """Also where the units that they leave at zero, or the biases that wake layers, would explain it."""
    report = shown(gc.analyze(net, np.zeros((128, 16)), rng.integers(0, 4, 128)))
    assert silent(report.findings) == expected and "All inputs are zero" in report.findings[0].explanation
    assert [FROM_BELOW in f.explanation for f in report.findings if f.severity == "info"] == [True] * (
        len(expected) - 1
    )
    verdict, _, findings = diagnose(report._case)
    assert verdict == report.verdict == "vanishing"
    assert silent(findings) == expected


@pytest.mark.parametrize(("net", "expected"), NO_SIGNAL.values(), ids=NO_SIGNAL)
def test_a_layer_that_nothing_enters_is_told_from_one_that_no_gradient_reaches(rng, net, expected):
    report = shown(gc.analyze(net, rng.standard_normal((128, 16)), rng.integers(0, 4, 128)))
    assert silent(report.findings) == expected
    for finding in report.findings:
        if finding.kind == "zero_gradient" and finding.severity == "info":
            starts_above = finding.layers[0] == 0
            assert (FROM_BELOW in finding.explanation) != starts_above
            assert ("something above them starts at zero" in finding.explanation) == starts_above
    if net.depth < 10:  # C does not try the steps in which small weights and gradients would have to wake up
        findings = diagnose(report._case)[2]
        assert silent(findings) == expected


# ---- units that are alike --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("activation", "normalization", "weight", "layers"), [
    ("tanh", None, 0.05, (0, 1, 2)),
    ("relu", None, 0.03, (0, 1, 2)),
    ("gelu", "layer", -0.1, (0, 1, 2)),
    ("sigmoid", None, 0.0, (1, 2)),  # the third step wakes layer 0
    ("elu", "batch", 0.2, (0, 1, 2)),
])  # fmt: skip
def test_weights_that_all_start_at_one_number_are_named(rng, dtype, activation, normalization, weight, layers):
    """The first steps wake the layers where that number is 0, and leave their units alike."""
    net = gc.MLP([16, 33, 20, 17, 4], activation=activation, normalization=normalization, dtype=dtype)
    for layer in range(net.depth):
        net.parameters[f"dense{layer}.weight"] = weight
    x, labels = rng.uniform(0, 1, (300, 16)), rng.integers(0, 4, 300)
    optimizer = gc.optim.Adam(net, lr=1e-3)
    report = shown(gc.analyze(net, x, labels, optimizer=optimizer, batch_size=37))
    assert report.verdict == "vanishing"
    expected = ("critical", layers, "weight_scale")
    assert expected in silent(report.findings)
    assert f"units of layers {layers[0]}-2 are identical" in report.findings[0].explanation
    if weight and normalization != "layer":  # C tries no steps, in which what the norm makes zero wakes
        assert expected in silent(diagnose(report._case)[2])
    remedies = {remedy.name: remedy.helps for remedy in report.remedies(steps=60, seeds=2, limit=3)}
    assert remedies.get("rescaled weights") is not True
    for _ in range(20):
        net.train_step(x[:64], labels[:64], optimizer)
    first = net.parameters["dense1.weight"]
    assert (first == first[0]).all()


def test_units_that_one_step_tells_apart_are_not_called_alike(rng):
    """Equal weights below an output layer that is drawn at random; skip connections that start at zero; one unit."""
    nets = [gc.MLP([16, 32, 4]), gc.MLP([16, 16, 16, 4], residual=True), gc.MLP([16, 1, 1, 4], activation="tanh")]
    nets[0].parameters["dense0.weight"] = 0.05
    nets[1].parameters["dense1.weight"] = 0.0
    for net in nets:
        report = gc.analyze(net, rng.uniform(0, 1, (300, 16)), rng.integers(0, 4, 300))
        assert "apart" not in str(report.findings) and "apart" not in str(diagnose(report._case)[2])


def test_a_net_without_a_pair_of_equal_widths_has_no_skip_connection_to_speak_of(rng):
    widths = [16, 90, 80, 70, 60, 50, 4]
    net = gc.MLP(widths, activation="sigmoid", init="lecun_normal", residual=True)
    net.parameters.flat[:] *= 3**-0.5  # weights too small, and an activation that no weights keep level
    report = shown(gc.analyze(net, rng.standard_normal((128, 16)), rng.integers(0, 4, 128)))
    assert "dL/dh" not in str(report) and "|delta|^2 is multiplied" in report.findings[0].explanation
    assert report.findings[0].cause == "weight_scale" and "would stay level with" not in str(report)


# ---- numbers near the end of a format --------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("widths", "activation", "scale"),
    [
        ([16] + [32] * 10 + [4], "relu", 1e16),
        ([8] + [16] * 10 + [2], "gelu", 3e14),
        ([4] + [8] * 4 + [2], "relu", 1e100),
    ],
)
def test_sizes_whose_squares_overflow_are_reported(rng, widths, activation, scale):
    net = gc.MLP(widths, activation=activation, dtype="float64")
    for layer in range(net.depth):
        net.parameters[f"dense{layer}.weight"] *= scale
    x, labels = rng.standard_normal((128, widths[0])), rng.integers(0, widths[-1], 128)
    for optimizer in (None, gc.optim.SGD(net, 0.1)):
        report = shown(gc.analyze(net, x, labels, optimizer=optimizer))
        assert report.verdict in ("exploding", "non_finite")
        assert report.remedies(**TRIALS)


def test_large_weights_for_small_inputs_are_measured(rng):
    """Infinity times zero, of their squares, is no variance of what lies between them."""
    net = gc.MLP([17, 8, 32, 3, 8], activation="tanh", dtype="float64")
    net.parameters["dense0.weight"] *= 1e200
    x, labels = 1e-200 * rng.standard_normal((64, 17)), rng.integers(0, 8, 64)
    report = shown(gc.analyze(net, x, labels))
    verdict, _, findings = diagnose(report._case)
    assert verdict == report.verdict and kept(findings) == kept(report.findings)


@pytest.mark.parametrize("scale", [1e-200, 1e-5, 1.0, 1e200])
def test_columns_of_any_size_are_standardized(scale, rng):
    table = rng.normal([0, 1e5, 7], 1.0, (50, 3))
    table[:, 2] = 7
    shift, deviation = standard_scaling(scale * table)
    expected = (table - table.mean(axis=0)) / [*table[:, :2].std(axis=0), 1.0]
    np.testing.assert_allclose((scale * table - shift) / deviation, expected, atol=1e-9)


# ---- whatever can be built -------------------------------------------------------------------------

SCALES = (0.0, 1e-30, 1e-20, 1e-3, 1.0, 1.0, 1e3, 1e10, 1e20, 1e37)
LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")


def random_net(rng):
    """Any architecture of up to eight layers, its weights at any scale, one of them perhaps not finite."""
    depth = int(rng.integers(1, 9))
    net = gc.MLP(
        rng.choice([1, 2, 3, 8, 16], depth + 1).tolist(),
        activation=rng.choice(gc.activations(), depth - 1).tolist(),
        normalization=rng.choice([None, None, "batch", "layer", "rms"]),
        residual=bool(rng.random() < 0.4),
        bias=bool(rng.random() < 0.7),
        dtype=str(rng.choice(["float32", "float64", "bfloat16"])),
        seed=int(rng.integers(1000)),
    )
    scale = rng.choice(SCALES)
    for name in net.parameters:
        if name.endswith("weight") and rng.random() < 0.7:
            net.parameters[name] = np.clip(scale * net.parameters[name].astype(float), -1e37, 1e37)
    if rng.random() < 0.1:
        net.parameters["dense0.weight"][0, 0] = rng.choice([np.nan, np.inf, 0.0])
    return net


def random_data(rng, net, loss):
    rows, classes = int(rng.choice([2, 3, 10, 64, 130])), net.out_features
    x = rng.choice(SCALES) * np.clip(rng.standard_normal((rows, net.in_features)), -3.0, 3.0)
    if loss == "cross_entropy":
        return x, rng.integers(0, classes, rows)
    if loss == "binary_cross_entropy":
        return x, rng.integers(0, 2, (rows, classes)).astype(float)
    return x, rng.choice([0.0, 1.0, 1e10, 1e30]) * rng.standard_normal((rows, classes))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("start", range(0, 80, 10))
def test_every_net_that_can_be_built_is_analysed(start):
    """Without a warning, by a report that can be shown; of every tenth the remedies are tried."""
    for seed in range(start, start + 10):
        rng = np.random.default_rng(seed)
        net, loss = random_net(rng), str(rng.choice(LOSSES))
        x, target = random_data(rng, net, loss)
        rate = float(rng.choice([0.0, 1e-3, 0.1, 1e6]))
        optimizer = rng.choice([None, gc.optim.SGD(net, rate, momentum=0.9), gc.optim.Adam(net, rate)])
        batch_size = int(rng.choice([2, 16, 128]))
        report = shown(gc.analyze(net, x, target, loss=loss, optimizer=optimizer, batch_size=batch_size))
        assert report.verdict in ("healthy", "vanishing", "exploding", "non_finite")
        if seed % 10 == 0:
            report.remedies(steps=3, seeds=2, limit=2)


# ---- weight decay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.01, 0.1])
def test_weight_decay_moves_layers_but_teaches_them_nothing(weight_decay, momentum):
    """24 sigmoid layers whose first gradient is rounded away were called healthy: their weights shrink, after all."""
    net = gc.MLP([20] + [40] * 24 + [5], activation="sigmoid")
    optimizer = gc.optim.SGD(net, lr=0.01, momentum=momentum, weight_decay=weight_decay)
    x, labels = np.random.default_rng(0).standard_normal((512, 20)), np.arange(512) % 5
    for trained in (False, True):
        report = gc.analyze(net, x, labels, optimizer=optimizer)
        finding = report.findings[0]
        assert (finding.kind, finding.severity) == ("vanishing", "critical"), finding
        assert "Weight decay apart, one step of SGD at lr 0.01 changes the weights of layer 0 by" in finding.explanation
        assert report.layers[0].update_ratio == pytest.approx(
            0.01 * weight_decay * (1 / (1 - momentum) if trained else 1), rel=0.2
        )
        net.fit(x, labels, epochs=20, batch_size=128, optimizer=optimizer, progress=False)


@pytest.mark.parametrize(("weight_decay", "above"), [(0.0, "eps = 1e-6"), (0.1, "what weight decay adds to them (0.")])
def test_what_keeps_adam_from_moving_along_a_gradient_is_named(weight_decay, above):
    net = gc.MLP([20] + [40] * 10 + [5], activation="sigmoid")
    optimizer = gc.optim.Adam(net, eps=1e-6, weight_decay=weight_decay)
    x, labels = np.random.default_rng(0).standard_normal((512, 20)), np.arange(512) % 5
    net.parameters["dense5.weight"][...] *= 0.01
    finding = gc.analyze(net, x, labels, optimizer=optimizer).findings[0]
    assert finding.kind == "vanishing" and 0.0 < finding.evidence["share_of_step"] < 0.01
    assert f"are far below {above}" in finding.explanation


# ---- rows without a gradient -----------------------------------------------------------------------


@pytest.mark.parametrize(("every", "verdict"), [(200, "vanishing"), (20, "healthy")])
def test_a_net_that_passes_hardly_any_row_is_not_healthy(every, verdict):
    """Layer 0 is open for one row in 200: most batches bring the weights nothing, but some do."""
    x = np.where(np.arange(2000) % every == 0, 1.0, -1.0)[:, np.newaxis]
    net = gc.MLP([1] + [16] * 3 + [1])
    net.parameters["dense0.weight"] = 1.0
    net.parameters["dense1.weight"] = net.parameters["dense2.weight"] = 0.1
    for layer in range(3):
        net.parameters[f"dense{layer}.weight"] *= np.linspace(0.9, 1.1, 16)[:, np.newaxis]  # no two units alike
    report = shown(gc.analyze(net, x, x, loss="mse", batch_size=32, batches=60))
    assert report.verdict == verdict
    if verdict == "vanishing":
        (found,) = (finding for finding in report.findings if finding.kind == "zero_gradient")
        assert found.cause == "dead_units" and found.layers[:3] == (0, 1, 2)
        assert found.evidence["dead_layer"] == 0 and found.evidence["share_of_rows"] == pytest.approx(0.005, rel=0.3)
        assert "Of the outputs of layer 0, 99.53 % are zero" in found.explanation
        assert "no gradient passes in some of the batches" in str(report)
