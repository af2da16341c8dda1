"""The prediction before any data: scales of every scheme, the oracle's constants, nets, text and the command line."""

import json
import math
import re

import numpy as np
import pytest

import gradcore as gc
from gradcore import cli
from gradcore.analysis import mean_field as theory
from gradcore.analysis.predict import layer_scales, scheme_scales
from gradcore.show import story

WIDTHS = [60] + [100] * 30 + [10]


# ---- scales ----------------------------------------------------------------------------------


@pytest.mark.parametrize("init", gc.initializers())
def test_the_scales_of_a_scheme_are_those_it_draws(init):
    net = gc.MLP([300, 200, 400, 250, 100], activation=["relu", "gelu", "sigmoid"], init=init)
    weight_var, bias_var = scheme_scales(net.config)
    drawn, _ = layer_scales(net)
    assert weight_var == pytest.approx(drawn, rel=0.03)  # the smallest weight has 25,000 entries: 1 % of its variance
    assert np.all(bias_var == 0.0)


def test_an_initializer_of_ones_own_is_drawn():
    def init(shape, rng):
        return np.full(shape, 0.1)

    assert gc.predict([50, 40, 40, 3], init=init).preact_var == pytest.approx([0.5, 0.1, 0.02], rel=1e-6)


@pytest.mark.parametrize("normalization", [None, "batch", "layer", "rms"])
@pytest.mark.parametrize("residual", [False, True])
def test_widths_and_a_net_of_them_agree(normalization, residual):
    options = {"activation": ["tanh", "elu"] * 3, "normalization": normalization, "residual": residual}
    widths = [40] + [400] * 6 + [5]
    by_widths, by_net = gc.predict(widths, **options), gc.predict(gc.MLP(widths, **options))
    assert by_widths.delta_log == pytest.approx(by_net.delta_log, abs=0.1)
    assert by_widths.slope == pytest.approx(by_net.slope, abs=0.02)


# ---- the constants -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "weight_var", "q_star", "chi"),
    [("identity", 1 / 3, 0, 1 / 3), ("relu", 1 / 3, 0, 1 / 6), ("relu", 1, 0, 1 / 2), ("leaky_relu", 1, 0, 1.0001 / 2),
     ("tanh", 1 / 3, 0, 1 / 3), ("tanh", 2, 0.617965, 1.105529), ("sigmoid", 1 / 3, 0.085034, 0.020008),
     ("sigmoid", 1, 0.264687, 0.055721), ("sigmoid", 2, 0.555290, 0.100977), ("selu", 1, 1, 1.071575),
     ("gelu", 1, 0, 1 / 4), ("gelu", 2, 0, 1 / 2), ("silu", 1 / 3, 0, 1 / 12), ("softplus", 1 / 3, 0.186773, 0.086902),
     ("softplus", 1, 0.856305, 0.288722)],
)  # fmt: skip
def test_deep_layers_tend_to_the_fixed_point(activation, weight_var, q_star, chi):
    prediction = gc.predict(WIDTHS, activation=activation, weight_var=weight_var)
    assert prediction.q_star == pytest.approx(q_star, abs=2e-6)
    assert prediction.chi_star == pytest.approx(chi, abs=2e-6)
    assert prediction.depth_scale == pytest.approx(1 / abs(math.log(chi)), rel=1e-4)


def test_sigmoid_with_glorot_weights_loses_what_the_theory_says():
    """chi = 0.0557: ten layers take the norm down by 0.0557^5 = 5.4e-7, and five carry it."""
    prediction = gc.predict([2000] * 13, activation="sigmoid", init="glorot_normal")
    fall = prediction.delta_log[1] - prediction.delta_log[11]
    assert math.exp(0.5 * fall) == pytest.approx(5.4e-7, rel=0.03)
    assert prediction.carried_depth == pytest.approx(1 + 2 * math.log(100) / 2.888, rel=0.02)


def test_relu_with_the_default_of_a_framework():
    """Uniform within 1 / sqrt(fan_in), a variance of 1/3: forward and backward both fall by 1.6e-8 over 20 layers."""
    prediction = gc.predict([5000] * 22, weight_var=1 / 3)
    assert math.exp(0.5 * (prediction.delta_log[0] - prediction.delta_log[20])) == pytest.approx(1.6e-8, rel=0.06)
    assert math.sqrt(prediction.preact_var[20] / prediction.preact_var[0]) == pytest.approx(1.6e-8, rel=0.06)


@pytest.mark.parametrize(
    ("bias_var", "weight_var"), [(0.001, 1.189190), (0.01, 1.424205), (0.05, 1.760955), (0.1, 1.986073)]
)
def test_the_critical_gain_lies_on_the_critical_line(bias_var, weight_var):
    prediction = gc.predict(WIDTHS, activation="tanh", bias_var=bias_var)
    assert prediction.critical_gain**2 == pytest.approx(weight_var, abs=2e-6)
    level = gc.predict(WIDTHS, activation="tanh", bias_var=bias_var, weight_var=weight_var)
    assert level.chi_star == pytest.approx(1.0, abs=1e-5)
    assert level.trainable_depth > 1e4


def test_where_no_weight_scale_decides_there_is_no_critical_gain():
    for options in ({"normalization": "batch"}, {"normalization": "layer"}, {"residual": True}, {"activation": "gelu"}):
        assert math.isnan(gc.predict(WIDTHS, **options).critical_gain)
    assert gc.predict(WIDTHS).critical_gain == pytest.approx(math.sqrt(2))


def test_residual_without_two_equal_widths_makes_no_skip_connection():
    """Nor another prediction: theory for skip connections has no fixed point and no critical gain."""
    plain, residual = (gc.predict([60, *[100, 90] * 10, 10], residual=residual) for residual in (False, True))
    settings, also = ({**each.to_dict(), "config": None} for each in (plain, residual))
    assert settings == also
    assert str(residual).replace(", residual", "") == str(plain)


def test_weights_of_the_critical_scale_are_told_to_be():
    """hard tanh is linear where signals settle; biases of ReLU add to the signal and leave the gradient as it is."""
    for options, gain in (({"activation": "hard_tanh"}, 1.0), ({"bias_var": 0.1}, math.sqrt(2))):
        prediction = gc.predict(WIDTHS, **options)
        assert prediction.critical_gain == pytest.approx(gain)
        assert prediction.chi_star == pytest.approx(1.0)
        assert "No weight scale" not in str(prediction)


@pytest.mark.parametrize(("batch_size", "growth"), [(8, 1.2), (16, 14 / 13), (64, 62 / 61)])
def test_batch_norm_grows_by_the_batch_size(batch_size, growth):
    linear = gc.predict(WIDTHS, activation="identity", normalization="batch", batch_size=batch_size)
    assert linear.chi_star == pytest.approx(growth, rel=1e-9)
    relu = gc.predict(WIDTHS, normalization="batch", batch_size=batch_size)
    assert relu.chi_star == pytest.approx(math.pi / (math.pi - 1) * growth, rel=1e-9)


@pytest.mark.parametrize(("activation", "width"), [("relu", 16), ("relu", 32), ("tanh", 32)])
def test_batch_norm_leaves_little_to_the_luck_of_narrow_layers(activation, width, rng):
    """Rows that differ share no luck: a single input would lose |delta|^2 by e^-3 over 20 relu layers of 16 units."""
    widths, x, labels = [50] + [width] * 20 + [5], rng.standard_normal((32, 50)), rng.integers(0, 5, 32)
    changes = []
    for seed in range(12):
        net = gc.MLP(widths, activation=activation, normalization="batch", seed=seed)
        net.loss_and_gradients(x, labels, record=True)
        changes.append(2.0 * np.log(net.flow.delta_norm[0] / net.flow.delta_norm[-2]) / 19)
    predicted = gc.predict(widths, activation=activation, normalization="batch", batch_size=32).slope
    assert predicted == pytest.approx(np.mean(changes), abs=0.06)


def test_deep_batch_norm_explodes():
    """Norm x 1.4e4 over 50 layers of ReLU (large batches); skip connections make it mild."""
    widths = [3000] * 54
    prediction = gc.predict(widths, normalization="batch", batch_size=100_000)
    assert math.exp(0.5 * (prediction.delta_log[1] - prediction.delta_log[51])) == pytest.approx(1.4e4, rel=0.1)
    assert gc.predict(widths, normalization="batch", residual=True).slope < 0.5 * prediction.slope


@pytest.mark.parametrize(("activation", "per_unit"), [("relu", 5.0), ("identity", 2.0)])
@pytest.mark.parametrize("width", [50, 256])
def test_the_band_is_that_of_finite_width(activation, per_unit, width):
    """5 / n a layer for ReLU, 2 / n for a linear net, in ln |delta|^2; the typical draw lies half of it lower."""
    prediction = gc.predict([width] * 22, activation=activation)
    variance = 20 * per_unit / width
    below = prediction.delta_log[0] - prediction.delta_log_low[0]
    assert below == pytest.approx(1.96 * math.sqrt(variance), rel=1e-6)
    assert prediction.delta_log[0] - prediction.delta_log[19] == pytest.approx(-0.5 * 19 * per_unit / width, rel=1e-6)
    assert prediction.slope == pytest.approx(-0.5 * per_unit / width, rel=1e-6)
    assert prediction.carried_depth > 1e9  # chance is no slope


def test_a_layer_norm_takes_the_weights_out():
    small, large = (gc.predict(WIDTHS, activation="tanh", normalization="layer", weight_var=v) for v in (0.1, 10.0))
    assert small.slope == pytest.approx(large.slope, abs=1e-9)
    assert small.chi_star == pytest.approx(theory.layer_norm_growth("tanh"))


# ---- faces -------------------------------------------------------------------------------------


def test_print_says_what_matters():
    text = str(gc.predict([64] + [100] * 30 + [10], activation="sigmoid", init="glorot_normal"))
    assert "64, 100 x 30, 10, sigmoid" in text
    assert "chi* = 0.05572" in text and "4.2 dense layers" in text and "which saturate every unit" in text
    assert text.count("\n") > 20


def test_it_is_plain_data():
    record = json.loads(gc.predict(WIDTHS, normalization="batch").to_json())
    assert record["critical_gain"] is None and record["batch_size"] == 128
    assert len(record["chi"]) == 31 and record["config"]["normalization"] == "batch"


def test_shallow_nets_have_no_slope():
    prediction = gc.predict([4, 3, 1])
    assert not prediction.valid
    assert "fewer than two hidden layers" in str(prediction)


@pytest.mark.parametrize("rows", [2, 3])
def test_batch_norm_over_a_few_rows_has_no_theory(rows, tmp_path):
    """(B - 2) / (B - 3): the mean of 1 / variance of so few rows does not exist."""
    prediction = gc.predict(WIDTHS, normalization="batch", batch_size=rows)
    assert not prediction.valid and np.isnan(prediction.slope) and prediction.departs == ()
    assert f"No prediction: the variance of {rows} rows" in str(prediction)
    assert max(map(len, str(prediction).splitlines())) <= 100
    prediction.save_html(tmp_path / "page.html")
    assert gc.predict(WIDTHS, normalization="batch", batch_size=4).valid
    assert gc.predict(WIDTHS, normalization="layer", batch_size=1).valid


@pytest.mark.parametrize(("weight_var", "words"), [(1e300, "1 dense layer of"), (1.0, "dense layers of")])
def test_one_layer_is_one(weight_var, words):
    assert words in str(gc.predict([64] + [100] * 30 + [10], activation="tanh", weight_var=weight_var))


def test_batch_norm_over_three_rows_is_said_to_have_no_limit():
    net = gc.MLP([10] + [32] * 20 + [3], normalization="batch")
    rng = np.random.default_rng(0)
    report = gc.analyze(net, rng.standard_normal((120, 10)), rng.integers(0, 3, 120), batch_size=3)
    finding = next(f for f in report.findings if f.cause == "batch_norm")
    assert "of 3 rows, which can be close to zero by chance, multiplies |delta|^2 without limit" in finding.explanation
    assert "larger batches limit it" in finding.explanation and not report.prediction.valid
    assert "No mean-field prediction: the variance of 3 rows" in str(report)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight_var": -1.0}, ValueError, "weight_var: expected a finite number > 0"),
        ({"weight_var": "2"}, TypeError, "weight_var"),
        ({"bias_var": -0.1}, ValueError, "bias_var"),
        ({"input_square": 0.0}, ValueError, "input_square"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        (
            {"batch_size": 1, "normalization": "batch"},
            ValueError,
            "batch_size, for batch norm: expected a whole number >= 2",
        ),
        ({"activation": "rleu"}, ValueError, "activation: expected one of"),
        ({"activation": ["relu"]}, ValueError, "activation: expected one name or 30"),
        ({"normalization": "group"}, ValueError, "normalization"),
        ({"residual": 1}, TypeError, "residual"),
        ({"init": "xavier"}, ValueError, "init"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        gc.predict(WIDTHS, **arguments)


@pytest.mark.parametrize("scales", [{"weight_var": 1e300}, {"bias_var": 1e300}])
def test_variances_of_any_size_have_a_prediction(scales):
    """NumPy's warnings of overflow, which are errors here, told nobody anything."""
    prediction = gc.predict(WIDTHS, **scales)
    assert prediction.valid and np.isfinite(prediction.delta_log).all()


def test_a_net_has_options_of_its_own():
    with pytest.raises(TypeError, match="activation: expected only with widths"):
        gc.predict(gc.MLP([3, 4, 2]), activation="relu")
    with pytest.raises(TypeError, match=r"design: expected a gradcore\.MLP or widths"):
        gc.predict(7)


def test_the_command_line(capsys, tmp_path):
    assert cli.main(["predict", "--widths", "64,100x30,10", "--activation", "tanh", "--weight-var", "1.5"]) == 0
    out = capsys.readouterr().out
    assert "weight variance 1.5" in out and "chi* = 1 requires" in out
    assert cli.main(["predict", "--widths", "8,16x12,2", "--normalization", "batch", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    path = tmp_path / "prediction.json"
    assert cli.main(["predict", "--widths", "8,16x12,2", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["slope"] < 0.0
    page = tmp_path / "prediction.html"
    assert cli.main(["predict", "--widths", "8,16x12,2", "--html", str(page)]) == 0
    assert "8, 16 x 12, 2" in page.read_text() and str(page) in capsys.readouterr().err


# ---- page and figure -------------------------------------------------------------------------


def test_the_page_shows_what_the_text_says(tmp_path):
    prediction = gc.predict(WIDTHS, activation="sigmoid")
    path = tmp_path / "prediction.html"
    prediction.save_html(path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 4  # deltas, q, chi, cosine
    assert f"&times; {story.gain(prediction.slope)}" in page and "suits only shallow nets" in page
    assert page.count('<th scope="row">') == prediction.chi.size
    assert prediction._repr_html_() in page and "<script" not in page
    assert gc.predict(WIDTHS, normalization="batch")._repr_html_().count("<svg") == 3  # no theory of the cosine
    assert "No prediction: with fewer than two hidden layers" in gc.predict([4, 3, 1])._repr_html_()


def test_every_mark_of_the_page_lies_inside_its_frame():
    """The band of a narrow batch norm net is much wider than its cone."""
    page = gc.predict([10, *[20] * 40, 3], normalization="batch")._repr_html_()
    for polygon in re.findall(r'<polygon class="[^"]*" points="([^"]*)"', page):
        rows = [float(point.split(",")[1]) for point in polygon.split()]
        assert rows[0] > 12.0 and rows[-1] > 12.0 and max(rows) < 264.0  # never cut off at an edge of the chart


def test_the_figure_shows_the_profile():
    pytest.importorskip("matplotlib")
    prediction = gc.predict(WIDTHS, activation="tanh")
    axes = prediction.plot().axes
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), prediction.delta_log / (2 * math.log(10)))
    np.testing.assert_allclose(axes[2].lines[0].get_ydata()[:-1], np.log10(prediction.chi[:-1]))
    assert len(axes) == 4 and len(gc.predict(WIDTHS, normalization="batch").plot().axes) == 3
    with pytest.raises(ValueError, match="nothing to plot: with fewer than two hidden layers"):
        gc.predict([4, 3, 1]).plot()
