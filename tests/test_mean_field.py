"""The theory against constants known in closed form or computed independently, and against simulated nets."""

import math
import tracemalloc

import numpy as np
import pytest

import gradcore as gc
import reference
from gradcore.analysis import mean_field as theory
from gradcore.analysis.predict import expected_profile, layer_scales

_erf = np.vectorize(math.erf, otypes=[float])
ERF = theory.Nonlinearity(_erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x))
LEAKY = theory.Nonlinearity(lambda x: np.where(x > 0, x, 0.2 * x), lambda x: np.where(x > 0, 1.0, 0.2), (0.0,))


PIECEWISE = ("relu", "leaky_relu", "elu", "selu", "hard_tanh")  # the trapezoidal rule sees a jump to half a step


# ---- expectations ----------------------------------------------------------------------------


@pytest.mark.parametrize("q", [1e-8, 1e-3, 0.3, 1.0, 25.0, 1e4, 1e9])
def test_erf_has_a_closed_form(q):
    assert theory.activation_square(ERF, q) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-11)
    assert theory.derivative_moment(ERF, q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-11)


@pytest.mark.parametrize("q", [1e-6, 1.0, 1e6])
def test_piecewise_linear_moments_are_exact(q):
    assert theory.activation_square("relu", q) == pytest.approx(q / 2, rel=1e-12)
    assert theory.activation_mean("relu", q) == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-12)
    assert theory.derivative_moment("relu", q) == pytest.approx(0.5, rel=1e-12)
    inside = math.erf(1 / math.sqrt(2 * q))  # hard tanh has slope 1 where |x| < 1
    assert theory.derivative_moment("hard_tanh", q) == pytest.approx(inside, rel=1e-11)


def test_selu_keeps_mean_zero_and_variance_one():
    assert theory.activation_mean("selu", 1.0) == pytest.approx(0.0, abs=1e-14)
    assert theory.activation_square("selu", 1.0) == pytest.approx(1.0, rel=1e-14)
    scale, alpha = reference.SELU_LAMBDA, reference.SELU_ALPHA
    below = math.exp(2) * math.erfc(2 / math.sqrt(2)) / 2  # E[e^2z; z < 0]
    assert theory.chi("selu", 1.0, 1.0) == pytest.approx(scale**2 / 2 + (scale * alpha) ** 2 * below, rel=1e-13)


@pytest.mark.parametrize("activation", gc.activations())
@pytest.mark.parametrize("q", [0.1, 1.0, 9.0])
def test_moments_match_the_reference_quadrature(activation, q):
    oracle = reference.ACTIVATIONS[activation]
    root = math.sqrt(q)
    for moment, f in ((theory.activation_square, oracle.f), (theory.derivative_moment, oracle.df)):
        expected = reference.gaussian_mean(lambda z, f=f: f(root * z) ** 2, points=400001)
        assert moment(activation, q) == pytest.approx(expected, rel=1e-4 if activation in PIECEWISE else 1e-9)


# ---- fixed points, chi, critical lines -------------------------------------------------------

# activation: (q*, chi) at weight variance 1/3, 1 and 2 without biases. Where the signal dies out or grows for
# ever, chi is the limit. (SELU and ELU grow without bound at 2: E[phi^2] > q / 2 for every q.)
CHI = {
    "identity": ((0, 1 / 3), (1, 1), (math.inf, 2)),
    "relu": ((0, 1 / 6), (0, 1 / 2), (1, 1)),
    "tanh": ((0, 1 / 3), (0, 1), (0.617965, 1.105529)),
    "sigmoid": ((0.085034, 0.020008), (0.264687, 0.055721), (0.555290, 0.100977)),
    "elu": ((0, 1 / 3), (0, 1), (math.inf, 1)),
    "selu": ((0, 0.699148), (1, 1.071575), (math.inf, reference.SELU_LAMBDA**2)),
    "gelu": ((0, 1 / 12), (0, 1 / 4), (0, 1 / 2)),
    "silu": ((0, 1 / 12), (0, 1 / 4), (0, 1 / 2)),
    "softplus": ((0.186773, 0.086902), (0.856305, 0.288722), (math.inf, 1)),
    ERF: ((0, 0.424413), (0.141924, 1.016903), (None, 1.197365)),
    LEAKY: ((0, 1.04 / 6), (0, 1.04 / 2), (math.inf, 1.04)),
}


@pytest.mark.parametrize("activation", CHI, ids=lambda a: a if isinstance(a, str) else "other")
@pytest.mark.parametrize(("index", "weight_var"), list(enumerate((1 / 3, 1.0, 2.0))))
def test_fixed_points_and_chi(activation, index, weight_var):
    expected_q, expected_chi = CHI[activation][index]
    q = theory.fixed_point(activation, weight_var)
    if expected_q is not None:
        assert q == pytest.approx(expected_q, abs=1e-6)
    assert theory.chi(activation, q, weight_var) == pytest.approx(expected_chi, abs=6e-7)


def test_softplus_at_he_scale_keeps_growing():
    """The iteration looks settled near q = 198 (chi 0.944) only because it grows like ln of the depth."""
    q = 198.0
    assert theory.q_map("softplus", q, 2.0) > q
    assert theory.chi("softplus", q, 2.0) == pytest.approx(0.9438, abs=1e-3)


@pytest.mark.parametrize(
    ("bias_var", "tanh", "erf"),
    [
        (0.0, (0.0, 1.0), (0.0, math.pi / 4)),
        (0.001, (0.107292, 1.189190), (0.102481, 0.932583)),
        (0.01, (0.273301, 1.424205), (0.253210, 1.114280)),
        (0.05, (0.570048, 1.760955), (0.517177, 1.375839)),
        (0.1, (0.805799, 1.986073), (0.726359, 1.552118)),
    ],
)
def test_critical_lines(bias_var, tanh, erf):
    for activation, expected in (("tanh", tanh), (ERF, erf)):
        q, weight_var = theory.critical_point(activation, bias_var)
        assert (q, weight_var) == pytest.approx(expected, abs=2e-6)
        if bias_var:
            assert theory.fixed_point(activation, weight_var, bias_var) == pytest.approx(q, rel=1e-6)


@pytest.mark.parametrize(
    ("q", "weight_var", "bias_var"), [(0.5, 1.687975, 0.0380412), (1, 2.153303, 0.150965), (2, 2.861162, 0.512265)]
)
def test_critical_tanh_by_variance(q, weight_var, bias_var):
    assert theory.critical_weight_var("tanh", q) == pytest.approx(weight_var, abs=1e-6)
    assert q - weight_var * theory.activation_square("tanh", q) == pytest.approx(bias_var, abs=2e-6)


def test_activations_without_a_critical_point():
    for activation in ("gelu", "silu", "mish", "softplus"):
        assert math.isnan(theory.critical_point(activation)[1])
    assert theory.critical_point("relu") == pytest.approx((1.0, 2.0))
    q, weight_var = theory.critical_point("hard_tanh")  # what it cuts off is lost in rounding
    assert 0 <= q < 0.05
    assert weight_var == pytest.approx(1.0)
    q, weight_var = theory.critical_point("sigmoid")  # far into saturation: not a scale to use
    assert weight_var > 100
    assert theory.chi("sigmoid", theory.fixed_point("sigmoid", weight_var, start=q), weight_var) == pytest.approx(
        1, abs=1e-6
    )


@pytest.mark.parametrize(
    ("activation", "weight_var", "chi"),
    [("relu", 2, 1), (LEAKY, 1.923077, 1), ("tanh", 2.536175, 1.177807), (ERF, 2.152579, 1.225700),
     ("sigmoid", 3.408560, 0.152827), ("elu", 1.550519, 1.035905), ("selu", 1, 1.071575), ("gelu", 2.351716, 1.072032),
     ("silu", 2.810761, 1.066634), ("softplus", 1.085487, 0.318459)],
)  # fmt: skip
def test_the_gain_that_keeps_unit_variance(activation, weight_var, chi):
    assert theory.preserving_weight_var(activation) == pytest.approx(weight_var, abs=1e-6)
    assert theory.chi(activation, 1.0, theory.preserving_weight_var(activation)) == pytest.approx(chi, abs=2e-6)


# ---- correlations and depth ------------------------------------------------------------------


def test_relu_correlation_map_is_the_arccosine_kernel():
    for c in (0.0, 0.3, 0.9):
        exact = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        assert theory.c_map("relu", c, 1.7, 2.0) == pytest.approx(exact, rel=1e-9)
        assert theory.chi_c("relu", c, 1.7, 2.0) == pytest.approx((math.pi - math.acos(c)) / math.pi, rel=1e-9)


def test_correlation_scale_is_continuous_across_the_critical_line():
    q, weight_var = theory.critical_point("tanh", 0.05)
    ordered = theory.correlation_scale(
        "tanh", theory.fixed_point("tanh", 0.9 * weight_var, 0.05), 0.9 * weight_var, 0.05
    )
    chaotic = theory.correlation_scale(
        "tanh", theory.fixed_point("tanh", 1.1 * weight_var, 0.05), 1.1 * weight_var, 0.05
    )
    assert 3 < ordered < 100
    assert 3 < chaotic < 100
    assert theory.correlation_scale("tanh", q, weight_var, 0.05) > 1e4


def test_depth_scales():
    assert theory.depth_scale(1.0) == math.inf
    assert theory.depth_scale(math.exp(-0.5)) == pytest.approx(2.0)
    assert theory.carried_depth(0.0557, 100.0) == pytest.approx(1 + 9.2103 / 2.888, rel=1e-3)  # a sigmoid: 4 layers


# ---- normalization and width -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "growth"),
    [("identity", 1), ("sigmoid", 1.0336), ("selu", 1.0716), ("elu", 1.0790), ("softplus", 1.0805), ("tanh", 1.1778),
     ("silu", 1.2121), (ERF, 1.2257), (LEAKY, 1.2436), ("gelu", 1.3188), ("leaky_relu", 1.4534),
     ("relu", math.pi / (math.pi - 1))],
)  # fmt: skip
def test_batch_norm_growth(activation, growth):
    assert theory.batch_norm_growth(activation) == pytest.approx(growth, abs=6e-5)


def test_long_use_holds_little_memory():
    theory.derivative_moment("relu", 1.0)
    tracemalloc.start()
    try:
        for q in np.linspace(0.1, 3.0, 300):
            theory.derivative_moment("relu", q)
        assert tracemalloc.get_traced_memory()[0] < 2e6  # the points of 300 q are 5 MB
    finally:
        tracemalloc.stop()


def test_batch_norm_growth_of_small_batches():
    for batch_size, growth in ((8, 1.2), (16, 14 / 13), (64, 62 / 61)):
        assert theory.batch_norm_growth("identity", batch_size) == pytest.approx(growth, rel=1e-12)
    for batch_size, simulated in ((8, 1.77), (32, 1.51), (128, 1.479)):
        assert theory.batch_norm_growth("relu", batch_size) == pytest.approx(simulated, rel=0.01)
    assert theory.batch_norm_growth("relu", 3) == math.inf


def test_layer_norm_growth():
    expected = {"relu": 1.0, "tanh": 1.1778, "gelu": 1.0720}
    for activation, growth in expected.items():
        assert theory.layer_norm_growth(activation) == pytest.approx(growth, abs=6e-5)


def test_width_noise():
    for width in (16, 100):
        assert theory.width_noise("relu", 1.0, width) == pytest.approx(5 / width, rel=1e-12)
        assert theory.width_noise("identity", 1.0, width) == pytest.approx(2 / width, rel=1e-12)


# ---- whole nets ------------------------------------------------------------------------------


def measured_log(net, rng, batch_size=64):
    x = rng.standard_normal((batch_size, net.in_features))
    target = 1e3 * rng.standard_normal((batch_size, net.out_features))  # so that delta owes nothing to the outputs
    net.loss_and_gradients(x, target, loss="mse", record=True)
    return 2 * np.log(net.flow.delta_norm / net.flow.delta_norm[-1])


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"activation": "relu", "init": "lecun_normal"},
        {"activation": "sigmoid", "init": "glorot_normal"},
        {"activation": "tanh", "init": "he_normal"},
        {"activation": "gelu"},
        {"activation": "selu"},
        {"activation": ["relu", "tanh"] * 5},
        {"activation": "relu", "normalization": "batch"},
        {"activation": "tanh", "normalization": "layer"},
        {"activation": "tanh", "normalization": "layer", "residual": True},
        {"activation": "gelu", "normalization": "rms"},
    ],
    ids=str,
)
def test_the_predicted_profile_lies_over_the_measured_one(options, rng):
    inside = 0
    for seed in range(4):
        net = gc.MLP([40] + [80] * 10 + [10], seed=seed, dtype="float64", **options)
        prediction = expected_profile(
            net.config, *layer_scales(net), input_square=1.0, batch_size=64, measured_log=measured_log(net, rng)
        )
        inside += len(prediction.departs) <= 1
        assert prediction.valid
    assert inside >= 3


def test_the_band_is_that_of_single_draws(rng):
    """For ReLU nets of one width the total of ln |delta|^2 has mean -5 L / 2n and variance 5 L / n (to O(1/n^2))."""
    draws = []
    for seed in range(150):
        net = gc.MLP([16] + [64] * 11, seed=seed, dtype="float64", bias=False)
        draws.append(measured_log(net, rng, batch_size=1)[0])
    prediction = expected_profile(net.config, *layer_scales(net), batch_size=1)
    assert np.mean(draws) == pytest.approx(prediction.delta_log[0], abs=4 * np.std(draws) / math.sqrt(150) + 0.1)
    band = 1.96 * np.std(draws)
    assert prediction.delta_log[0] - prediction.delta_log_low[0] == pytest.approx(band, rel=0.25)


def test_limits_of_the_prediction():
    net = gc.MLP([64] + [100] * 30 + [10], activation="sigmoid", init="glorot_normal")
    prediction = expected_profile(net.config, *layer_scales(net))
    assert prediction.chi_star == pytest.approx(0.0557, rel=0.05)
    assert prediction.depth_scale == pytest.approx(1 / 2.888, rel=0.02)
    assert prediction.slope == pytest.approx(-2.9, abs=0.1)
    shallow = expected_profile(gc.MLP([4, 3, 2]).config, [1, 1], [0, 0])
    assert not shallow.valid
    assert "fewer than two hidden layers" in shallow.note
