"""net.flow: every recorded number against the reference, and the exact underflow and overflow shares."""

import math
import sys

import numpy as np
import pytest

import gradcore as gc
import reference_flow
import tolerances
from nets import Case, build, smooth_case
from reference import ACTIVATIONS, Net

NORMALIZATIONS = [None, "batch", "layer", "rms"]
FORMATS = list(reference_flow.FORMATS)


def assert_flow(case):
    case.mlp.loss_and_gradients(case.x, case.target, loss=case.loss, record=True)
    flow = case.mlp.flow
    _, grads, trace = case.reference()
    expected = reference_flow.gradient_flow(case.net, case.params, trace, grads, case.dtype)
    tolerance = tolerances.NETWORK[case.dtype.name]
    for field, value in expected.items():
        actual = getattr(flow, field)
        assert isinstance(actual, np.ndarray) and len(actual) == case.net.depth, field
        if field.endswith("_histogram"):
            assert_histograms_close(actual, value, field)
        elif field.endswith("_mean"):  # may cancel to any size: relative to the spread around it
            scale = np.sqrt(expected[field.replace("mean", "var")] + value**2)
            assert (np.abs(actual - value) <= tolerance * scale).all(), field
        elif field == "bias_grad_norm":  # column sums of delta: zero, but for rounding, in front of batch norm
            scale = math.sqrt(len(case.x)) * expected["delta_norm"]
            assert (np.abs(actual - value) <= tolerance * scale).all(), field
        else:
            np.testing.assert_allclose(actual, value, rtol=tolerance, atol=1e-300, err_msg=field)
    assert (flow.num_layers, flow.batch_size, flow.dtype) == (case.net.depth, len(case.x), case.dtype.name)


def assert_histograms_close(actual, expected, field):
    """Equal but for entries so near a power of two that rounding moved them to the neighbouring bin."""
    assert actual.dtype == np.int64 and actual.shape == expected.shape, field
    np.testing.assert_array_equal(actual.sum(axis=1), expected.sum(axis=1), err_msg=field)
    moved = np.abs(np.cumsum(actual, axis=1) - np.cumsum(expected, axis=1)).sum()
    assert moved <= 1 + 1e-4 * expected.sum(), field


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_field(activation, normalization, residual, dtype):
    net = Net((5, 19, 19, 33, 3), (activation,) * 3, normalization, residual)
    assert_flow(smooth_case(net, dtype, batch_size=11))


def test_fields_on_every_target(target, dtype):
    net = Net((5, 19, 19, 3), ("relu", "gelu"), "batch", residual=True)
    assert_flow(smooth_case(net, dtype, batch_size=150, loss="cross_entropy"))


def test_fields_of_a_batch_larger_than_the_cache():
    assert_flow(Case(Net((200, 600, 600, 10), ("gelu", "tanh"), "layer"), "float32", batch_size=2500))


def test_fields_of_many_rows_for_few_parameters(dtype):
    """Where each thread takes rows of its own."""
    assert_flow(Case(Net((20, 40, 40, 10), ("gelu", "tanh"), "layer", residual=True), dtype, batch_size=1300))


def saturation_point(activation):
    """Where |act'| falls through 1 % of its maximum, on a side where it dies out: by bisection."""

    def above_threshold(x):
        return abs(ACTIVATIONS[activation].df(np.array([x]))[0]) > 0.01 * ACTIVATIONS[activation].max_df

    inside, outside = (0.5, 40.0) if not above_threshold(40.0) else (-0.5, -40.0)
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if above_threshold(middle) else (inside, middle)
    return outside


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"identity", "leaky_relu", "relu"}))
def test_saturation_begins_at_one_percent_of_the_largest_derivative(activation):
    """One unit of weight 1 sees two inputs, a thousandth before and beyond the threshold."""
    one = {"dense0.weight": np.ones((1, 1)), "dense0.bias": np.zeros(1)}
    mlp = build(Net((1, 1, 1), (activation,)), one, "float64")
    x = saturation_point(activation) * np.array([[0.999], [1.001]])
    mlp.loss_and_gradients(x, np.zeros((2, 1)), loss="mse", record=True)
    assert mlp.flow.saturated_share[0] == 0.5


def test_recorded_by_train_step_with_the_update(dtype):
    """update_ratio is |dW| / |W| of this very step, |W| as it was before."""
    case = Case(Net((6, 9, 9, 4), ("tanh", "gelu"), bias=True), dtype, batch_size=12)
    before = {name: value.astype(float) for name, value in case.mlp.parameters.items()}
    case.mlp.train_step(case.x, case.target, gc.optim.Adam(case.mlp, lr=0.01), loss="mse", record=True)
    for layer in range(3):
        name = f"dense{layer}.weight"
        change = np.linalg.norm(case.mlp.parameters[name] - before[name]) / np.linalg.norm(before[name])
        # the change is read back after rounding to the dtype: relative to a step of 1e-2
        tolerance = 1e3 * tolerances.UNIT_ROUNDOFF[dtype.name]
        assert case.mlp.flow.update_ratio[layer] == pytest.approx(change, rel=tolerance)
        assert case.mlp.flow.weight_norm[layer] == pytest.approx(np.linalg.norm(before[name]), rel=1e-6)


def test_a_step_of_its_own_adds_the_update_and_nothing_else(dtype):
    """loss_and_gradients and step, both recorded, give the flow of train_step."""
    net = Net((6, 9, 9, 4), ("tanh", "gelu"))
    one, two = (Case(net, dtype, batch_size=12) for _ in range(2))
    one.mlp.train_step(one.x, one.target, gc.optim.Adam(one.mlp, lr=0.01), loss="mse", record=True)
    optimizer = gc.optim.Adam(two.mlp, lr=0.01)
    two.mlp.loss_and_gradients(two.x, two.target, loss="mse", record=True)
    optimizer.step(record=True)
    np.testing.assert_equal(two.mlp.flow.to_dict(), one.mlp.flow.to_dict())
    before = two.mlp.parameters["dense0.weight"].astype(float)
    optimizer.step(record=True)  # a second one counts for itself
    change = np.linalg.norm(two.mlp.parameters["dense0.weight"] - before) / np.linalg.norm(before)
    tolerance = 1e3 * tolerances.UNIT_ROUNDOFF[dtype.name]
    assert two.mlp.flow.update_ratio[0] == pytest.approx(change, rel=tolerance)
    two.mlp.gradients.flat[0] = np.inf
    with pytest.raises(FloatingPointError):
        optimizer.step(clip_norm=1.0, record=True)
    assert np.isnan(two.mlp.flow.update_ratio).all()


def test_a_recorded_step_without_a_recorded_pass_records_nothing():
    case = Case(Net((6, 9, 4), ("tanh",)), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    gc.optim.SGD(case.mlp, lr=0.1).step(record=True)
    with pytest.raises(ValueError, match="expected a pass with record=True"):
        case.mlp.flow  # noqa: B018


def test_without_a_step_the_update_ratio_is_nan(dtype):
    case = Case(Net((6, 9, 4), ("tanh",)), dtype, batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    assert np.isnan(case.mlp.flow.update_ratio).all()


def test_flow_is_that_of_the_last_recorded_pass():
    case = Case(Net((6, 9, 4), ("tanh",)), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    first = case.mlp.flow
    case.mlp.loss_and_gradients(case.x[:5], case.target[:5], loss="mse")
    np.testing.assert_array_equal(case.mlp.flow.delta_norm, first.delta_norm)
    case.mlp.loss_and_gradients(case.x[:5], case.target[:5], loss="mse", record=True)
    assert case.mlp.flow.batch_size == 5 and first.batch_size == 12
    assert (case.mlp.flow.delta_norm != first.delta_norm).all()


@pytest.mark.parametrize("record", [False, True])
def test_the_norm_of_the_weights_is_not_that_of_an_earlier_pass(record):
    """It is kept while the weights stay as they are, but not beyond a step, recorded or not. No view is alive here."""
    net = Net((6, 9, 4), ("tanh",))
    used, fresh = (Case(net, "float32", batch_size=12) for _ in range(2))
    gradients = {"loss": "mse", "record": True}
    used.mlp.loss_and_gradients(used.x, used.target, **gradients)
    used.mlp.loss_and_gradients(used.x, used.target, **gradients)
    for case in (used, fresh):
        optimizer = gc.optim.SGD(case.mlp, lr=0.5)
        case.mlp.train_step(case.x, case.target, optimizer, loss="mse", record=record and case is used)
    for _ in range(2):
        for case in (used, fresh):
            case.mlp.loss_and_gradients(case.x, case.target, **gradients)
        np.testing.assert_array_equal(used.mlp.flow.weight_norm, fresh.mlp.flow.weight_norm)
    used.mlp.parameters["dense1.weight"][...] *= 2
    used.mlp.loss_and_gradients(used.x, used.target, **gradients)
    np.testing.assert_allclose(used.mlp.flow.weight_norm, fresh.mlp.flow.weight_norm * [1, 2], rtol=1e-6)


def test_flow_is_frozen():
    case = Case(Net((6, 9, 4), ("tanh",)), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    with pytest.raises(AttributeError):
        case.mlp.flow.num_layers = 7


# ---- dead, saturated, zero, subnormal, non-finite ------------------------------------------------------


def test_dead_units_and_saturation_by_construction(dtype):
    """Biases decide: 3 of 8 ReLU units never fire; 2 of 8 sigmoid units sit far in the tail."""
    net = Net((4, 8, 8, 2), ("relu", "sigmoid"))
    case = Case(net, dtype, batch_size=10)
    case.mlp.parameters["dense0.bias"][:3] = -100
    case.mlp.parameters["dense0.bias"][3:] = 100
    case.mlp.parameters["dense1.weight"][...] *= 1e-4
    case.mlp.parameters["dense1.bias"][:2] = 20
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    flow = case.mlp.flow
    assert flow.dead_units.tolist() == [3, 0, 0] and flow.dead_units.dtype == np.int64
    np.testing.assert_allclose(flow.dead_share, [3 / 8, 0, 0])
    np.testing.assert_allclose(flow.activation_zero_share, [3 / 8, 0, 0])
    np.testing.assert_allclose(flow.saturated_share, [3 / 8, 2 / 8, 0])
    assert flow.delta_zero_share[0] == pytest.approx(3 / 8)
    assert flow.weight_grad_zero_share[0] == pytest.approx(3 / 8)


def test_an_output_of_zero_is_not_dead(dtype):
    """Of a last layer that starts at zero: it learns."""
    case = Case(Net((4, 8, 2), ("tanh",)), dtype, batch_size=10)
    for kind in ("weight", "bias"):
        case.mlp.parameters[f"dense1.{kind}"] = 0
        case.params[f"dense1.{kind}"] = np.zeros_like(case.params[f"dense1.{kind}"])
    assert_flow(case)
    assert case.mlp.flow.activation_zero_share.tolist() == [0, 1] and case.mlp.flow.dead_units.tolist() == [0, 0]


def test_subnormal_deltas(dtype):
    """An identity net scales exactly, so the last weight matrix can push deltas below the normal range."""
    info = np.finfo(dtype)
    case = Case(Net((3, 4, 2), ("identity",), bias=False), dtype, batch_size=6)
    case.mlp.parameters["dense1.weight"][...] = math.ldexp(1.0, info.minexp - 3)
    case.mlp.forward(case.x, training=True)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    flow = case.mlp.flow
    assert flow.delta_subnormal_share.tolist() == [1, 0]
    assert flow.delta_histogram[0][flow.exponents < info.minexp].sum() == 24


def test_non_finite_entries_are_counted_and_left_out_of_sums(dtype):
    case = Case(Net((3, 4, 2), ("identity",), bias=False), dtype, batch_size=6)
    case.mlp.parameters["dense0.weight"][0] = np.finfo(dtype).max
    with np.errstate(all="ignore"):
        loss = case.mlp.loss_and_gradients(case.x + 2 * np.sign(case.x), case.target, loss="mse", record=True)
    flow = case.mlp.flow
    assert not math.isfinite(loss)
    assert flow.activation_nonfinite_share[0] == 1 / 4
    assert math.isfinite(flow.activation_mean[0]) and flow.activation_nonfinite_share[1] == 1
    assert math.isnan(flow.activation_mean[1]) and flow.activation_norm[1] == 0
    assert flow.delta_nonfinite_share[-1] > 0 and flow.weight_grad_nonfinite_share[-1] > 0


# ---- shares that small formats would lose -----------------------------------------------------------


def one_hot_rows_case(dtype, exponents):
    """Row i of the batch is unit vector i, so dL/dW_0 is delta_0 transposed, to the bit.

    The deltas spread over the given binary exponents, by a random diagonal in the last layer.
    """
    batch_size, width = 64, 48
    case = Case(Net((batch_size, width, width), ("identity",), bias=False), dtype, batch_size)
    scales = np.exp2(np.random.default_rng(0).uniform(*exponents, width))
    with np.errstate(under="ignore"):
        case.mlp.parameters["dense1.weight"][...] = np.diag(scales)
    case.mlp.loss_and_gradients(np.eye(batch_size, dtype=dtype), case.target, loss="mae", record=True)
    return case.mlp.flow, case.mlp.gradients["dense0.weight"]


@pytest.mark.parametrize("exponents", [(-150, -110), (-30, 20), (100, 127)])
def test_shares_and_histograms_are_exact(exponents, dtype):
    flow, delta = one_hot_rows_case(dtype, exponents)
    for of in ("delta", "weight_grad"):
        np.testing.assert_array_equal(getattr(flow, f"{of}_histogram")[0], reference_flow.exponent_histogram(delta))
        for name in FORMATS:
            shares = flow.underflow_share(name, of=of)[0], flow.overflow_share(name, of=of)[0]
            assert shares == pytest.approx(reference_flow.range_shares(delta, name), rel=1e-12), (name, of)
    np.testing.assert_array_equal(flow.exponents, reference_flow.histogram_exponents(dtype))


def test_fp16_shares_are_those_of_a_real_cast(dtype):
    flow, delta = one_hot_rows_case(dtype, (-34, 30))
    with np.errstate(over="ignore", under="ignore"):
        cast = delta[delta != 0].astype(np.float16)
    assert flow.underflow_share("fp16")[0] == pytest.approx((cast == 0).mean(), rel=1e-12)
    assert flow.overflow_share("fp16")[0] == pytest.approx(np.isinf(cast).mean(), rel=1e-12)
    assert 0.1 < (cast == 0).mean() < 0.5 and np.isinf(cast).any()


def test_unknown_format():
    flow, _ = one_hot_rows_case("float32", (-1, 1))
    with pytest.raises(ValueError, match="fp16"):
        flow.underflow_share("fp17")
    with pytest.raises(ValueError, match="weight_grad"):
        flow.overflow_share("fp16", of="bias")


# ---- as text, dictionary and table ---------------------------------------------------------------------


def test_exports():
    case = Case(Net((6, 9, 9, 4), ("relu", "tanh")), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    flow = case.mlp.flow
    exported = flow.to_dict()
    for field in ("delta_norm", "activation_var", "weight_grad_norm", "dead_units", "num_layers", "dtype"):
        assert np.all(np.asarray(exported[field]) == getattr(flow, field)), field
    text = str(flow)
    assert len([line for line in text.splitlines() if line.strip()]) >= case.net.depth + 1


def test_dataframe_without_pandas_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    case = Case(Net((6, 9, 4), ("tanh",)), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    with pytest.raises(ModuleNotFoundError, match=r"data frames need pandas: pip install 'gradcore\[dataframe\]'"):
        case.mlp.flow.to_dataframe()


def test_dataframe():
    pytest.importorskip("pandas", reason="pandas is optional")
    case = Case(Net((6, 9, 9, 4), ("relu", "tanh")), "float32", batch_size=12)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    frame = case.mlp.flow.to_dataframe()
    assert len(frame) == case.net.depth
    np.testing.assert_array_equal(frame["delta_norm"], case.mlp.flow.delta_norm)


# ---- what a refused pass leaves, and numbers whose squares no double holds ----------------------------------------


@pytest.mark.parametrize("rows", [1, 32, 3000], ids=["one", "as many", "in groups"])
def test_a_refused_batch_leaves_the_flow(rows, rng):
    net = gc.MLP([8, 16, 16, 4], seed=0)
    optimizer = gc.optim.SGD(net, lr=0.01)
    x, labels = rng.standard_normal((32, 8)).astype("float32"), rng.integers(0, 4, 32)
    net.loss_and_gradients(x, labels, record=True)
    before = net.flow
    histogram = before.delta_histogram
    bad, bad_labels = np.resize(x, (rows, 8)), np.resize(labels, rows)
    bad[-1, 2] = np.nan
    with pytest.raises(ValueError, match=f"row {rows - 1}, column 2"):
        net.loss_and_gradients(bad, bad_labels, record=True)
    np.testing.assert_array_equal(net.flow.delta_histogram, histogram)
    optimizer.step(record=True)
    for field in ("weight_grad_norm", "bias_grad_norm", "weight_grad_zero_share", "delta_norm"):
        np.testing.assert_array_equal(getattr(net.flow, field), getattr(before, field), err_msg=field)


@pytest.mark.parametrize("factor", [0.01, 1e160], ids=["vanishing", "exploding"])
def test_norms_of_float64_have_its_range(factor, target, rng):
    """Elements of 1e-180 and of 1e160 have squares beyond a double, and norms that are not."""
    net = gc.MLP([16, *[32] * 90, 4], activation="tanh", dtype="float64", seed=1)
    x, labels = rng.standard_normal((128, 16)), rng.integers(0, 4, 128)
    layers = range(1, 90) if factor < 1 else [90]
    for layer in layers:
        net.parameters[f"dense{layer}.weight"] *= factor
    net.loss_and_gradients(x, labels, record=True)
    flow = net.flow
    extreme = [n for n in range(91) if not 1e-150 < flow.weight_grad_max_abs[n] < 1e150]
    assert extreme
    gradients = [net.gradients[f"dense{layer}.weight"] for layer in range(91)]
    for layer in extreme:
        largest = np.abs(gradients[layer]).max()
        norm = np.linalg.norm(gradients[layer] / largest) * largest
        np.testing.assert_allclose(flow.weight_grad_norm[layer], norm, rtol=1e-12)
        assert flow.delta_max_abs[layer] <= flow.delta_norm[layer] <= flow.delta_max_abs[layer] * 64
        assert flow.grad_output_norm[layer] >= flow.delta_norm[layer] * 0.999
