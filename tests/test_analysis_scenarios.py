"""Real cases from issue trackers and tutorials: the verdict, the cause, and what the explanation must say."""

import math

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import Thresholds, harm
from gradcore.analysis.analyze import examine, make_case, measure_and_rehearse

pytest.importorskip("sklearn")


def causes_of(report, severity=("warning", "critical")):
    return {(finding.kind, finding.cause) for finding in report.findings if finding.severity in severity}


def explanation_of(report, kind, cause):
    """The explanation of the finding of this kind and cause."""
    return next(f.explanation for f in report.findings if (f.kind, f.cause) == (kind, cause))


def test_sigmoid_regression_on_binary_inputs_with_unscaled_targets(rng):
    """ai.stackexchange 16557: 4 hidden layers of 500 sigmoids do not learn; each passes at most 1/4."""
    x = rng.integers(0, 2, (600, 30)).astype("f4")
    y = (50 + 20 * x[:, :3].sum(axis=1)).astype("f4")
    net = gc.MLP([30] + [500] * 4 + [1], activation="sigmoid", init="glorot_uniform")
    report = gc.analyze(net, x, y, loss="mse")
    assert ("vanishing", "activation_slope") in causes_of(report)
    assert ("unscaled_input", "target_scale") in causes_of(report)


def test_two_circles_with_a_deep_tanh_net(rng):
    """A tutorial's deep tanh MLP with uniform(0, 1) weights: every unit saturates."""
    angle, radius = rng.uniform(0, 2 * np.pi, 1000), rng.choice([0.5, 1.0], 1000)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype("f4")
    net = gc.MLP([2] + [20] * 5 + [1], activation="tanh", init=lambda shape, rng: rng.uniform(0, 1, shape))
    report = gc.analyze(net, x, (radius > 0.7).astype("f4"), loss="binary_cross_entropy")
    assert ("saturation", "weight_scale") in causes_of(report)


def test_regression_with_unscaled_targets_ends_in_nan(rng):
    """A tutorial on clipping: SGD at 0.01 with momentum on targets in the hundreds; clipping or scaling cures it."""
    x = rng.standard_normal((1000, 20)).astype("f4")
    y = (300 * x @ rng.standard_normal(20)).astype("f4")
    net = gc.MLP([20, 25, 25, 1], init="he_uniform")
    report = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01, momentum=0.9))
    assert ("exploding", "target_scale") in causes_of(report)
    assert report.verdict == "exploding"
    helped = [remedy.name for remedy in report.remedies(steps=30) if remedy.helps]
    assert "standardized targets" in helped
    assert any(name.startswith(("clipping", "learning rate")) for name in helped)


def test_a_physics_informed_tanh_net_without_input_scaling(rng):
    """pierremtb/PINNs-TF2.0 issue 1: coordinates in the hundreds saturate the first layer."""
    x = (200 * rng.uniform(-1, 1, (500, 2))).astype("f4")
    net = gc.MLP([2] + [20] * 8 + [1], activation="tanh", init="glorot_normal")
    report = gc.analyze(net, x, np.sin(x[:, 0] / 100), loss="mse")
    assert ("saturation", "input_scale") in causes_of(report)


def test_weights_that_became_nan_although_gradients_are_clipped(rng):
    """hill-a/stable-baselines issue 36: the report points at the weights, not at the batch."""
    x = rng.standard_normal((300, 8)).astype("f4")
    net = gc.MLP([8, 64, 64, 2], activation="tanh")
    net.parameters["dense1.weight"][...] = np.nan
    report = gc.analyze(net, x, rng.integers(0, 2, 300))
    assert report.verdict == "non_finite"
    assert report.findings[0].layers == (1,) and report.findings[0].evidence["pass"] == "parameters"


def test_adding_layers_turns_the_loss_into_nan(rng):
    """stackoverflow 36565430: N(0, 1) weights work shallow and overflow deep."""
    x = rng.standard_normal((300, 100)).astype("f4")
    labels = rng.integers(0, 10, 300)

    def normal(shape, rng):
        return rng.standard_normal(shape)

    deep = gc.analyze(gc.MLP([100] + [100] * 50 + [10], init=normal), x, labels)
    assert deep.verdict == "non_finite" and deep.findings[0].cause == "weight_scale"
    assert gc.analyze(gc.MLP([100] + [100] * 10 + [10], init=normal), x, labels).verdict == "exploding"


def test_unscaled_features(rng):
    """stackoverflow 39714374: columns of very different size."""
    x = rng.standard_normal((400, 6)).astype("f4") * np.array([1e-2, 1, 1, 1, 1, 1e4], dtype="f4")
    net = gc.MLP([6, 32, 32, 3])
    report = gc.analyze(net, x, rng.integers(0, 3, 400))
    assert ("unscaled_input", "input_scale") in causes_of(report)


def test_relu_nets_two_units_wide(rng):
    """Each layer of two units is dead with probability 1/4: a deep one always is."""
    x = rng.standard_normal((300, 2)).astype("f4")
    report = gc.analyze(gc.MLP([2] * 30 + [1], seed=3), x, x[:, :1], loss="mse")
    assert report.verdict == "vanishing"
    assert report.findings[0].cause == "narrow_layer"


def test_gradients_scaled_for_mixed_precision_are_no_explosion(rng):
    """Lightning issues 4151 and 9330: a loss scale multiplies every norm; the slope does not see it."""
    x = rng.standard_normal((600, 20)).astype("f4")
    y = (x @ rng.standard_normal((20, 1))).astype("f4")
    slopes = []
    for scale in (1.0, 2.0**12):
        net = gc.MLP([20] + [40] * 8 + [1], dtype="float64")
        net.parameters["dense8.weight"][...] *= scale
        report = gc.analyze(net, x, scale * y, loss="mse")
        slopes.append(report.slope.systematic)
    assert slopes[0] == pytest.approx(slopes[1], abs=1e-6)


# ---- initialization ----------------------------------------------------------------------------


def digits():
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return (x / 8 - 1).astype("f4"), labels


@pytest.mark.parametrize("deviation", [0.01, 0.05])
def test_ad_hoc_weights_vanish_in_five_layers_where_he_carries_thirty(deviation):
    """SilasMarvin/dnns-from-scratch-in-zig PR 7: small constant deviations against He's."""
    x, labels = digits()

    def small(shape, rng):
        return deviation * rng.standard_normal(shape)

    report = gc.analyze(gc.MLP([64] + [100] * 5 + [10], init=small), x, labels)
    assert report.verdict == "vanishing" and report.findings[0].cause == "weight_scale"
    assert "weights are too small for relu" in report.findings[0].explanation
    assert gc.analyze(gc.MLP([64] + [100] * 30 + [10], init="he_normal"), x, labels).verdict == "healthy"


def test_standard_normal_weights_saturate_a_tanh_net():
    """stackoverflow 38399609, 43564627: weights drawn from N(0, 1), whatever the fan-in."""
    x, labels = digits()
    net = gc.MLP([64] + [100] * 4 + [10], activation="tanh", init=lambda shape, rng: rng.standard_normal(shape))
    report = gc.analyze(net, x, labels)
    assert ("saturation", "weight_scale") in causes_of(report)
    assert "The weights are too large" in explanation_of(report, "saturation", "weight_scale")


def test_all_weights_equal_to_zero():
    """A frequent answer on such threads: nothing breaks the symmetry, and no weight receives a gradient."""
    x, labels = digits()
    report = gc.analyze(gc.MLP([64, 50, 50, 10], init=lambda shape, rng: np.zeros(shape)), x, labels)
    assert report.verdict == "vanishing" and report.findings[0].kind == "zero_gradient"


def test_a_saturated_sigmoid_net():
    """stackoverflow 39817949: raw pixels of 0 to 255 hold the first sigmoids at 0 or 1."""
    x, labels = digits()
    net = gc.MLP([64, 100, 100, 10], activation="sigmoid", init="glorot_normal")
    report = gc.analyze(net, 16 * (x + 1) * 8, labels)
    assert ("saturation", "input_scale") in causes_of(report)
    assert "standardize" in explanation_of(report, "saturation", "input_scale")
    assert 0 in next(f for f in report.findings if f.kind == "saturation").layers


# ---- dead units and constant outputs ------------------------------------------------------------


def test_large_steps_leave_a_regression_net_with_a_constant_output():
    """pytorch issue 17923, stackoverflow 53749895 and 54688502: the output no longer depends on the input."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8)).astype("f4")
    y = (100 + 20 * x[:, 0]).astype("f4")
    net = gc.MLP([8, 64, 64, 1], seed=1)
    optimizer = gc.optim.SGD(net, lr=0.02)
    for _ in range(5):
        net.train_step(x, y, optimizer, loss="mse")
    assert np.ptp(net(x)) == 0.0
    report = gc.analyze(net, x, y, loss="mse")
    assert report.verdict == "vanishing"
    finding = report.findings[0]
    assert (finding.kind, finding.cause) == ("zero_gradient", "dead_units")
    assert "output zero for every row" in finding.explanation


def test_half_dead_layers_are_named(rng):
    """Biases far below zero switch three quarters of the units of two layers off for every row."""
    x = rng.standard_normal((500, 8)).astype("f4")
    net = gc.MLP([8, 64, 64, 64, 1])
    for layer in (0, 2):
        net.parameters[f"dense{layer}.bias"][:48] = -1e3
    report = gc.analyze(net, x, x[:, 0], loss="mse")
    finding = next(f for f in report.findings if f.kind == "dead_units")
    assert finding.layers == (0, 2) and "% of layer" in finding.explanation
    assert finding.evidence["dead_share"] == pytest.approx(0.75, abs=0.05)


# ---- scales --------------------------------------------------------------------------------------


def test_unscaled_features_make_the_loss_nan(rng):
    """stackoverflow 39714374: one feature in the tens of thousands, SGD, and the loss is NaN at once."""
    x = rng.standard_normal((400, 6)).astype("f4") * np.array([1, 1, 1, 1, 1, 2e4], dtype="f4")
    y = (x[:, :1] + x[:, 5:] / 1e4).astype("f4")
    net = gc.MLP([6, 32, 32, 1])
    report = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01))
    assert report.verdict in ("exploding", "non_finite") and report.findings[0].cause == "input_scale"
    assert "Standardize the inputs" in report.findings[0].explanation
    helped = [remedy.name for remedy in report.remedies(steps=20, seeds=2) if remedy.helps]
    assert any("standardized inputs" in name for name in helped)


def test_the_squares_of_adam_overflow(rng):
    """openai/baselines issue 258: gradients whose squares are infinite in float32 stop Adam for good."""
    x = rng.standard_normal((300, 8)).astype("f4")
    y = (1e22 * x[:, 0]).astype("f4")
    net = gc.MLP([8, 64, 64, 1], activation="tanh")
    report = gc.analyze(net, x, y, loss="mae", optimizer=gc.optim.Adam(net, lr=1e-3))
    assert ("unscaled_input", "target_scale") in causes_of(report)
    huge = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.Adam(net, lr=1e-3))
    assert huge.verdict in ("exploding", "non_finite") and huge.findings[0].cause == "target_scale"


def test_softmax_over_one_output():
    """One unit and a cross entropy: the probability is 1 whatever the net computes."""
    x, labels = digits()
    report = gc.analyze(gc.MLP([64, 50, 1]), x, (labels > 4).astype(int), loss="cross_entropy")
    assert report.verdict == "vanishing"
    assert (report.findings[0].kind, report.findings[0].cause) == ("loss_output_mismatch", "loss_output")
    assert "binary_cross_entropy" in report.findings[0].explanation


# ---- where it begins ---------------------------------------------------------------------------


def test_the_layer_where_values_begin_to_grow_is_named(rng):
    """tensorflow issue 49257: not where the NaN appears, but how the layers before it got there."""
    x = rng.standard_normal((200, 50)).astype("f4")
    net = gc.MLP([50] + [50] * 40 + [3])
    for layer in range(20, 41):
        net.parameters[f"dense{layer}.weight"][...] *= 100.0
    report = gc.analyze(net, x, rng.integers(0, 3, 200))
    finding = report.findings[0]
    assert report.verdict == "non_finite" and 30 <= finding.layers[0] <= 40
    assert "layer before it reaches" in finding.explanation and "the largest float32 is" in finding.explanation
    rms = [math.sqrt(layer.activation_var + layer.activation_mean**2) for layer in report.layers]
    assert rms[19] < 10 < rms[21] < rms[22]


def test_numbers_that_are_not_finite_are_counted_and_not_dropped(rng):
    """wandb drops them from its histograms, and a tensor that is all NaN altogether."""
    x = rng.standard_normal((200, 10)).astype("f4")
    net = gc.MLP([10, 20, 20, 3], activation="tanh")
    net.parameters["dense1.weight"][0, 0] = math.inf
    report = gc.analyze(net, x, rng.integers(0, 3, 200))
    assert report.verdict == "non_finite" and report.findings[0].layers == (1,)
    assert report.layers[0].activation_nonfinite_share == 0.0
    assert any(layer.weight_grad_nonfinite_share > 0.0 for layer in report.layers)


def test_no_support_code_is_needed_for_any_layer(rng):
    """cockpit issue 23: the check of every layer of a net of mixed activations, in one call."""
    x = rng.standard_normal((300, 10)).astype("f4")
    activations = [name for name in gc.activations() if name != "sigmoid"]
    net = gc.MLP([10] + [40] * len(activations) + [3], activation=activations, normalization="layer", residual=True)
    report = gc.analyze(net, x, rng.integers(0, 3, 300))
    assert report.verdict == "healthy" and len(report.layers) == len(activations) + 1


# ---- momentum ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"lr": 0.1, "momentum": 0.9}, "healthy"),
        ({"lr": 0.1, "momentum": 0.99}, "exploding"),
        ({"lr": 0.1, "momentum": 0.99, "nesterov": True}, "exploding"),
        ({"lr": 0.01, "momentum": 0.99}, "healthy"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_momentum_reaches_its_full_step_after_many(options, verdict, seed):
    """At 0.99 the loss falls to 0.5 in 20 steps, rises to 4 in 100 and ends at that of a constant guess."""
    x, labels = digits()
    net = gc.MLP([64, 128, 128, 10], seed=seed)
    optimizer = gc.optim.SGD(net, **options)
    report = gc.analyze(net, x, labels, optimizer=optimizer, batch_size=64)
    assert report.verdict == verdict
    assert verdict == "healthy" or report.findings[0].cause == "learning_rate"
    rng = np.random.default_rng(seed)
    losses = [net.train_step(x[rows], labels[rows], optimizer).loss for rows in rng.integers(0, len(x), (400, 64))]
    assert (np.mean(losses[-50:]) < 0.2) == (verdict == "healthy")


def test_learning_with_momentum_is_judged_by_its_full_step():
    """1 / (1 - momentum) times lr |dL/dW|^2 a step is what a loss falls by, and what rounding has to leave alone."""
    x, labels = digits()
    net = gc.MLP([64, 32, 32, 10], activation="tanh")
    subjects = []
    for momentum in (0.0, 0.99):
        case = make_case(net, x, labels, "cross_entropy", gc.optim.SGD(net, 1e-3, momentum=momentum), 128, 8, 0)
        subjects.append(examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds()))
    plain, heavy = subjects
    assert len(plain.measurement.rehearsal.losses) == 8 and len(heavy.measurement.rehearsal.losses) == 100
    assert heavy.relative_fall == pytest.approx(100.0 * plain.relative_fall)
    assert heavy.lasting_updates == pytest.approx(100.0 * plain.updates)


# ---- which scale is to blame ---------------------------------------------------------------------


def houses(rng):
    """Rooms, age and income in dollars, and a price in dollars."""
    x = np.stack([rng.normal(5, 1, 1000), rng.uniform(1, 50, 1000), 1000 * rng.lognormal(3.6, 0.5, 1000)], axis=1)
    price = 4 * x[:, 2] + 15_000 * (x[:, 0] - 5) + rng.normal(0, 2e4, 1000)
    return x.astype("f4"), price.astype("f4")


def test_raw_inputs_and_raw_targets_are_to_blame_together(rng):
    """The commonest first attempt at house prices: scaling either alone leaves a training that ends in NaN."""
    x, price = houses(rng)
    net = gc.MLP([3, 64, 64, 1])
    report = gc.analyze(net, x, price, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01), batch_size=64)
    finding = report.findings[0]
    assert (report.verdict, finding.kind, finding.cause) == ("exploding", "exploding", "target_scale")
    assert "Standardize the inputs and the targets" in finding.explanation


@pytest.mark.parametrize(("init", "rate", "cause"), [
    ("he_normal", 0.01, "weight_scale"),  # twice the critical variance: a lower rate trains, but these weights are unfit
    ("lecun_normal", 2.0, "learning_rate"),
])  # fmt: skip
def test_steps_that_smaller_weights_would_calm_are_laid_to_the_weights(init, rate, cause):
    """He's weights on SELU: the loss of 20 rises at a rate at which critical weights learn."""
    x, labels = digits()
    net = gc.MLP([64] + [100] * 20 + [10], activation="selu", init=init)
    report = gc.analyze(net, x, labels, optimizer=gc.optim.SGD(net, lr=rate), batch_size=64)
    assert report.verdict == "exploding" and report.findings[0].cause == cause


def test_targets_that_weights_have_to_grow_for_are_given_time():
    """Targets of 171: at 0.01 Adam is below a constant guess within 60 steps, though not within |w| / lr = 8."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = (x / x.std(axis=0)).astype("f4"), y.astype("f4")
    net = gc.MLP([10, 64, 64, 1], init="lecun_uniform")
    optimizer = gc.optim.Adam(net, lr=1e-2)
    report = gc.analyze(net, x, y, loss="mse", optimizer=optimizer, batch_size=32)
    assert report.verdict == "healthy"
    assert "so training recovers from this" in explanation_of(report, "exploding", "target_scale")


def test_a_warm_up_that_starts_at_zero_is_no_step_to_judge():
    x, labels = digits()
    net = gc.MLP([64] + [28] * 7 + [10], activation="sigmoid", init="he_uniform")
    optimizer = gc.optim.Adam(net, lr=lambda step: 1e-4 * min(step, 10))
    report = gc.analyze(net, x, labels, optimizer=optimizer)
    assert "steps_to_tell_inputs_apart" not in report.findings[0].evidence


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_batch_norm_over_two_or_three_rows_is_named(rows):
    """Of two rows every unit makes a sign: 2.1 is what is left of a loss of 2.3 after 2,000 steps, 0.6 with four rows."""
    x, labels = digits()
    net = gc.MLP([64, 64, 64, 64, 10], normalization="batch")
    report = gc.analyze(net, x, labels, optimizer=gc.optim.SGD(net, lr=0.05), batch_size=rows)
    assert (("update_ratio", "batch_norm") in causes_of(report)) == (rows < 4)
    assert ("layer norm" in {remedy.name for remedy in report.remedies(verify=False)}) == (rows < 4)


# ---- plateaus ------------------------------------------------------------------------------------


def torch_weights(shape, rng):
    """Uniform with a variance of 1 / (3 fan_in), as PyTorch draws them."""
    return rng.uniform(-1, 1, shape) / math.sqrt(shape[1])


@pytest.mark.parametrize(
    ("net", "rate", "verdict", "learned"),
    [
        ({"widths": [64, 128, 128, 128, 10], "activation": "sigmoid"}, {"lr": 0.1, "momentum": 0.9}, "healthy", 1000),
        ({"widths": [64, 100, 100, 100, 10], "init": 0.01}, {"lr": 0.1, "momentum": 0.9}, "healthy", 700),
        ({"widths": [64] + [128] * 10 + [10]}, {"lr": 0.1}, "vanishing", None),
        ({"widths": [64] + [128] * 5 + [10], "activation": "sigmoid", "init": "glorot_normal"}, {"lr": 0.1, "momentum": 0.9},
         "vanishing", None),  # 400 steps are expected of its first gradients, which are of an error that all rows share
        ({"widths": [64] + [64] * 16 + [10], "activation": "silu", "init": "glorot_normal"}, {"lr": 0.1}, "vanishing", None),
    ],
)  # fmt: skip
def test_sgd_leaves_a_plateau_by_the_growth_of_its_own_signal(net, rate, verdict, learned):
    """After about 1 / ((L - 2) g) steps; by its first steps, 1 / (lr |dL/dW|^2), the second would take 2.7e6."""
    x, labels = digits()
    init = net.get("init", torch_weights)
    if init == 0.01:

        def init(shape, rng):
            return 0.01 * rng.standard_normal(shape)

    net = gc.MLP(**{**net, "init": init})
    optimizer = gc.optim.SGD(net, **rate)
    case = make_case(net, x, labels, "cross_entropy", optimizer, 64, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    expected = harm.steps_to_escape(examine(case, measurement, Thresholds()))
    report = gc.analyze(net, x, labels, optimizer=optimizer, batch_size=64)
    assert report.verdict == verdict
    explanation = next(finding.explanation for finding in report.findings if finding.kind == "vanishing")
    assert ("leave the plateau" in explanation) == (learned is None)
    losses = []
    for rows in np.random.default_rng(0).integers(0, len(x), (learned or 1000, 64)):
        losses.append(net.train_step(x[rows], labels[rows], optimizer).loss)
    smooth = np.convolve(losses, np.full(50, 0.02), "valid")
    reached = int(np.argmax(smooth < 0.8 * math.log(10))) if smooth.min() < 0.8 * math.log(10) else math.inf
    assert expected / 5 < reached < 5 * expected if learned else reached == math.inf


def test_a_plateau_that_biases_shorten_is_tried():
    """Theory, which knows no biases, expects thousands of steps on it; the net needs a few hundred."""
    x, labels = digits()
    net = gc.MLP([64] + [64] * 20 + [10], init="lecun_normal")
    optimizer = gc.optim.SGD(net, lr=0.2)
    case = make_case(net, x, labels, "cross_entropy", optimizer, 128, 8, 0)
    subject = examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds())
    assert harm.steps_to_escape(subject) > 2 * Thresholds().plateau_steps
    report = gc.analyze(net, x, labels, optimizer=optimizer)
    assert report.verdict == "healthy"
    assert "leave the plateau" not in next(each.explanation for each in report.findings if each.kind == "vanishing")
    rows = np.random.default_rng(0).integers(0, len(x), (1000, 128))
    losses = [net.train_step(x[each], labels[each], optimizer).loss for each in rows]
    assert min(np.convolve(losses, np.full(50, 0.02), "valid")) < 0.8 * math.log(10)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_rate_that_ruins_what_a_vanishing_gradient_would_allow_is_named(seed):
    """Adam levels the gradient of five sigmoid layers; at a rate of 0.1 the net never learns, at 0.01 in 50 steps."""
    x, labels = digits()
    chosen = labels < 2
    x, labels = x[chosen], labels[chosen]
    settings = {"activation": "sigmoid", "init": "glorot_uniform", "seed": seed}
    loss = {}
    for lr in (0.1, 0.01):
        net = gc.MLP([64] * 6 + [1], **settings)
        optimizer = gc.optim.Adam(net, lr=lr)
        report = gc.analyze(net, x, labels, loss="binary_cross_entropy", optimizer=optimizer, batch_size=64)
        assert report.verdict == ("exploding" if lr == 0.1 else "healthy")
        assert ("learning_rate" in {each.cause for each in report.findings}) == (lr == 0.1)
        rows = np.random.default_rng(0).integers(0, len(x), (500, 64))
        loss[lr] = [net.train_step(x[each], labels[each], optimizer, "binary_cross_entropy").loss for each in rows][
            -50:
        ]
    assert np.mean(loss[0.01]) < 0.1 < 0.6 < np.mean(loss[0.1])
