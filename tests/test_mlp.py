"""gc.MLP: forward, backward, loss_and_gradients and train_step against the reference."""

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from nets import Case, as_float64, assert_gradients_close, assert_same_bits, build, copies, smooth_case
from reference import ACTIVATIONS, LOSSES, Net

NORMALIZATIONS = [None, "batch", "layer", "rms"]


def assert_case(case):
    """loss_and_gradients of a Case agrees with the reference."""
    loss = case.mlp.loss_and_gradients(case.x, case.target, loss=case.loss)
    expected_loss, grads, _ = case.reference()
    tolerance = tolerances.NETWORK[case.dtype.name]
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert_gradients_close(case.mlp.gradients, grads, tolerance)


def test_a_net_worked_by_hand():
    """Two layers, two hidden ReLU units, one row, squared error.

    x  = (1, 2)
    W0 = ((1/2, -1), (1, 1/2)),  b0 = (1/2, -1)
    z0 = (1/2 - 2 + 1/2, 1 + 1 - 1) = (-1, 1),      h0 = relu(z0) = (0, 1)
    W1 = (2, -3),  b1 = 1/2,                        z1 = 0 - 3 + 1/2 = -5/2
    L  = (z1 - t)^2 with t = -3/2:                  L = 1,  dL/dz1 = 2 (z1 - t) = -2
    dL/dW1 = -2 h0 = (0, -2),  dL/db1 = -2
    dL/dh0 = -2 W1 = (-4, 6),  dL/dz0 = (0, 6)      (the first unit is off)
    dL/dW0 = ((0, 0), 6 x) = ((0, 0), (6, 12)),     dL/db0 = (0, 6)
    dL/dx  = 6 (1, 1/2) = (6, 3)
    """
    net = gc.MLP([2, 2, 1], activation="relu", dtype="float64")
    net.parameters["dense0.weight"][...] = [[0.5, -1.0], [1.0, 0.5]]
    net.parameters["dense0.bias"][...] = [0.5, -1.0]
    net.parameters["dense1.weight"][...] = [[2.0, -3.0]]
    net.parameters["dense1.bias"][...] = [0.5]
    x = np.array([[1.0, 2.0]])

    assert net(x).tolist() == [[-2.5]]
    assert net.loss_and_gradients(x, np.array([[-1.5]]), loss="mse") == 1.0
    by_hand = {
        "dense0.weight": [[0, 0], [6, 12]],
        "dense0.bias": [0, 6],
        "dense1.weight": [[0, -2]],
        "dense1.bias": [-2],
    }
    assert {name: value.tolist() for name, value in net.gradients.items()} == by_hand

    net.forward(x, training=True)
    assert net.backward(np.array([[-2.0]])).tolist() == [[6.0, 3.0]]


# ---- the whole grid of architectures ---------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_normalization_and_residual(activation, normalization, residual, target, dtype):
    net = Net((5, 19, 19, 33, 3), (activation,) * 3, normalization, residual)
    assert_case(smooth_case(net, dtype, batch_size=11))


@pytest.mark.parametrize("out_features", [1, 2, 17])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, out_features, target, dtype):
    assert_case(smooth_case(Net((6, 9, out_features), ("tanh",)), dtype, batch_size=13, loss=loss))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("batch_size", [2, 3, 5, 8, 13, 40, 64, 65, 131, 300])
def test_every_way_to_cut_a_batch(batch_size, normalization, dtype):
    net = Net((70, 33, 129, 64, 10), ("silu", "tanh", "elu"), normalization)
    assert_case(Case(net, dtype, batch_size, loss="cross_entropy"))


# Wide enough that 2500 rows do not stay in the cache and are worked through in parts.
LARGE = Net((200, 600, 600, 10), ("gelu", "relu"), "layer", residual=True)


def test_a_batch_larger_than_the_cache(dtype):
    case = Case(LARGE, dtype, batch_size=2500, loss="cross_entropy", gain=1.0)
    assert_case(case)
    activations = 2 * len(case.x) * sum(LARGE.widths) * dtype.itemsize
    assert case.mlp.workspace_bytes < activations, "the batch was not cut, so this tests nothing"


# So many rows for their parameters that each thread sums the gradients of rows of its own. The last has two chunks a
# group, and fewer rows in its last chunk.
MANY_ROWS = [
    (Net((20, 40, 40, 10), ("gelu", "tanh"), "layer", residual=True), 1300),
    (Net((7, 16, 16, 3), ("relu", "silu"), bias=False), 1025),
    (Net((5, 9, 9, 3), ("silu", "tanh"), residual=True), 8195),  # 16 groups
    (Net((5, 9, 9, 3), ("tanh", "elu"), "rms"), 17001),  # 32
    (Net((64, 120, 120, 120, 120, 120, 10), ("tanh", "elu", "relu", "gelu", "mish"), "rms"), 2501),
]


@pytest.mark.parametrize(("net", "batch_size"), MANY_ROWS, ids=str)
def test_many_rows_for_few_parameters(net, batch_size, dtype, num_threads):
    num_threads(1)
    case = Case(net, dtype, batch_size, loss="cross_entropy", gain=1.0)
    assert_case(case)
    activations = 2 * len(case.x) * sum(net.widths) * dtype.itemsize
    assert case.mlp.workspace_bytes < activations, "all rows were taken at once, so this tests nothing"


@pytest.mark.parametrize(
    ("net", "batch_size"),
    [
        (Net((200, 400, 400, 400, 10), ("gelu", "tanh", "silu"), "batch"), 900),
        (Net((128,) * 24 + (10,), ("tanh",) * 23), 400),
        (Net((128,) * 24 + (10,), ("tanh",) * 23, "rms", residual=True), 401),
    ],
    ids=str,
)
def test_weight_gradients_on_the_way_back(net, batch_size, dtype):
    """Of nets whose activations are larger than the caches, threads fill gradients before they reach the first layer."""
    case = Case(net, dtype, batch_size, loss="cross_entropy", gain=1.0)
    assert_case(case)
    assert case.mlp.workspace_bytes > 4e6, "small enough to wait for the end, so this tests nothing"


@pytest.mark.parametrize(
    "net",
    [
        Net((4, 3), ()),
        Net((1, 1), ()),
        Net((1, 1, 1), ("tanh",)),
        Net((300, 2), ()),
        Net((3, 257, 4), ("gelu",)),
        Net((7, 20, 1030, 3), ("tanh", "gelu")),  # more columns than a product takes at once, which then adds up
        Net((17, 1, 17), ("sigmoid",), "layer"),
        Net((8,) * 41, ("tanh",) * 39, "batch", residual=True),
        Net((6, 7, 7, 8, 8, 2), ("relu", "gelu", "identity", "mish"), residual=True, bias=False),
        Net((5, 6, 6, 2), ("elu", "softplus"), "batch", bias=False),
    ],
    ids=str,
)
def test_unusual_architectures(net, dtype):
    assert_case(smooth_case(net, dtype, batch_size=9))


def test_one_row(dtype):
    for normalization in (None, "layer", "rms"):
        assert_case(Case(Net((5, 6, 7, 3), ("tanh", "gelu"), normalization), dtype, batch_size=1))


@pytest.mark.parametrize("exponent", [-40, 40])
def test_inputs_and_weights_of_extreme_scale(exponent, dtype):
    """Powers of two only move exponents: an identity net scales exactly, forward and back."""
    net = Net((7, 9, 5), ("identity",), bias=False)
    case = Case(net, dtype, batch_size=6)
    factor = 2.0**exponent
    scaled = build(net, case.params | {"dense0.weight": factor * case.params["dense0.weight"]}, dtype)
    np.testing.assert_array_equal(scaled.forward(case.x), factor * case.mlp.forward(case.x))

    for net_in_use in (case.mlp, scaled):
        net_in_use.forward(case.x, training=True)
    np.testing.assert_array_equal(scaled.backward(case.target) / dtype.type(factor), case.mlp.backward(case.target))


# ---- passes agree with each other -------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_forward_and_backward_are_loss_and_gradients(normalization, residual, dtype):
    net = Net((9, 9, 9, 9, 4), ("relu", "tanh", "gelu"), normalization, residual)
    case, other = (smooth_case(net, dtype, batch_size=12) for _ in range(2))
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")

    output = other.mlp.forward(case.x, training=True)
    _, grad_output = reference.mse(output.astype(np.float64), case.target.astype(np.float64))
    grad_input = other.mlp.backward(grad_output.astype(dtype))

    tolerance = tolerances.NETWORK[dtype.name]
    assert_gradients_close(other.mlp.gradients, as_float64(case.mlp.gradients, dtype), tolerance)
    assert_same_bits(other.mlp.buffers, copies(case.mlp.buffers))
    _, _, trace = case.reference()
    expected = trace[0].delta @ case.params["dense0.weight"] + (trace[0].grad_h if residual else 0)
    assert np.linalg.norm(grad_input - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("num_rows", [3, 100])
def test_every_pass_uses_the_latest_weights(num_rows, dtype):
    """Kinds of passes in any order on one net, each beside a net that has packed no weights before."""
    net = gc.MLP((70, 40, 40, 3), activation="tanh", dtype=dtype)
    optimizer = gc.optim.Adam(net, lr=0.01)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_rows, 70)).astype(net.parameters.flat.dtype)
    labels = np.arange(num_rows) % 3

    def backward(net):
        return net.backward(net.forward(x, training=True))

    def gradients(net):
        net.loss_and_gradients(x, labels)
        return np.array(net.gradients.flat)

    passes = [backward, gradients, lambda net: net(x)]
    for choice in [0, 3, 0, 1, 3, 1, 0, 0, 2, *rng.integers(0, 4, 40)]:
        if choice == 3:
            net.train_step(x, labels, optimizer)
        else:
            np.testing.assert_array_equal(passes[choice](net), passes[choice](net.copy()))


@pytest.mark.parametrize("normalization", [None, "layer", "rms"])
def test_inference_equals_training_without_batch_norm(normalization, dtype):
    case = Case(Net((6, 33, 33, 4), ("gelu", "tanh"), normalization, residual=True), dtype, batch_size=70)
    np.testing.assert_array_equal(case.mlp(case.x), case.mlp.forward(case.x, training=True))
    np.testing.assert_array_equal(case.mlp(case.x[10:11])[0], case.mlp(case.x)[10])


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_add_up_over_parts_of_a_batch(loss):
    case = Case(Net((6, 9, 9, 4), ("tanh", "gelu"), "layer"), "float64", batch_size=20, loss=loss)
    whole_loss = case.mlp.loss_and_gradients(case.x, case.target, loss=loss)
    whole = copies(case.mlp.gradients)

    mean_loss, mean = 0.0, dict.fromkeys(whole, 0.0)
    for part in (slice(0, 7), slice(7, 20)):
        share = len(case.x[part]) / 20
        mean_loss += share * case.mlp.loss_and_gradients(case.x[part], case.target[part], loss=loss)
        mean = {name: mean[name] + share * value for name, value in case.mlp.gradients.items()}
    assert whole_loss == pytest.approx(mean_loss, rel=1e-13)
    assert_gradients_close(whole, mean, 1e-13)


def test_gradients_are_overwritten_not_accumulated(dtype):
    case = Case(Net((5, 8, 3), ("tanh",), "batch"), dtype, batch_size=10)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    first = copies(case.mlp.gradients)
    case.mlp.gradients.flat[...] = np.nan
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    assert_same_bits(case.mlp.gradients, first)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_recording_changes_nothing_else(normalization, residual, dtype):
    """Unrecorded, a product multiplies with the derivative of tanh or gelu, unless a skip connection needs dL/dh."""
    net = Net((5, 40, 40, 40, 3), ("relu", "gelu", "tanh"), normalization, residual=residual)
    case = Case(net, dtype, batch_size=70)
    loss = case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    plain = copies(case.mlp.gradients)
    assert case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True) == loss
    assert_same_bits(case.mlp.gradients, plain)


def test_a_long_batch_after_a_short_one_and_back(dtype):
    case = Case(Net((5, 33, 17, 3), ("tanh", "gelu"), "batch"), dtype, batch_size=200)
    case.mlp.loss_and_gradients(case.x[:9], case.target[:9], loss="mse")
    short = copies(case.mlp.gradients)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    case.mlp.loss_and_gradients(case.x[:9], case.target[:9], loss="mse")
    assert_same_bits(case.mlp.gradients, short)


# ---- batch norm's running statistics -----------------------------------------------------------


def test_running_statistics(dtype):
    net = Net((5, 8, 6, 3), ("tanh", "relu"), "batch")
    case = Case(net, dtype, batch_size=10)
    assert sorted(case.mlp.buffers) == sorted(
        f"norm{layer}.{kind}" for layer in (0, 1) for kind in ("running_mean", "running_var")
    )
    expected = as_float64(case.mlp.buffers, dtype)
    assert all((value == name.endswith("var")).all() for name, value in expected.items())

    rng = np.random.default_rng(3)
    for run_pass in (
        lambda x: case.mlp.forward(x, training=True),
        lambda x: case.mlp.loss_and_gradients(x, case.target, loss="mse"),
    ):
        x = rng.standard_normal((10, 5)).astype(dtype)
        _, trace = reference.forward(net, case.params, x.astype(np.float64))
        expected = reference.updated_buffers(net, expected, trace)
        run_pass(x)
        for name, value in expected.items():
            np.testing.assert_allclose(case.mlp.buffers[name], value, rtol=tolerances.NETWORK[dtype.name], err_msg=name)

    before = copies(case.mlp.buffers)
    output = case.mlp(case.x)
    inferred, _ = reference.forward(net, case.params, case.x.astype(np.float64), buffers=expected)
    np.testing.assert_allclose(output, inferred, rtol=0, atol=tolerances.NETWORK[dtype.name] * np.abs(inferred).max())
    assert_same_bits(case.mlp.buffers, before)


@pytest.mark.parametrize("batch_size", [20, 300])
def test_batch_norm_keeps_its_digits_far_from_zero(batch_size, target, rng):
    """1e4 deviations from zero float32 gives what float64 does: the mean is known to more than a float32."""
    x = (1e4 + rng.standard_normal((batch_size, 19))).astype("float32")
    labels = rng.integers(0, 5, batch_size)
    results = {}
    for dtype in ("float32", "float64"):
        net = gc.MLP([19, 19, 5], activation="tanh", normalization="batch", dtype=dtype)
        net.parameters["dense0.weight"][:] = np.eye(19)  # pre-activations are x itself, without rounding
        net.loss_and_gradients(x.astype(dtype), labels)
        results[dtype] = net.forward(x.astype(dtype), training=True), copies(net.gradients)
    np.testing.assert_allclose(*(output for output, _ in results.values()), rtol=0, atol=1e-5)
    del results["float32"][1]["dense0.weight"], results["float64"][1]["dense0.weight"]  # a sum of rounded x
    for name, expected in results["float64"][1].items():
        if name != "dense0.bias":  # zero but for rounding
            actual = results["float32"][1][name]
            assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected), name


def test_one_row_passes_batch_norm_in_inference(dtype):
    case = Case(Net((5, 8, 3), ("tanh",), "batch"), dtype, batch_size=10)
    case.mlp.forward(case.x, training=True)
    np.testing.assert_array_equal(case.mlp(case.x[:1])[0], case.mlp(case.x)[0])


# ---- the face of a net -------------------------------------------------------------------------


def test_depth_and_names():
    net = gc.MLP([4, 7, 7, 2], activation=["relu", "tanh"], normalization="layer")
    assert net.depth == 3
    assert {name: value.shape for name, value in net.gradients.items()} == {
        name: value.shape for name, value in net.parameters.items()
    }
    assert list(net.parameters)[:4] == ["dense0.weight", "dense0.bias", "norm0.weight", "norm0.bias"]
    assert "norm2.weight" not in net.parameters and "norm0.running_mean" not in net.buffers
    assert "norm0.bias" not in gc.MLP([4, 7, 2], normalization="rms").parameters
    assert "dense0.bias" not in gc.MLP([4, 7, 2], bias=False).parameters
    assert set(gc.activations()) == set(ACTIVATIONS)


def test_flat_views_share_memory(dtype):
    net = gc.MLP([4, 7, 2], dtype=dtype.name)
    for mapping in (net.parameters, net.gradients):
        flat = mapping.flat
        assert flat.ndim == 1 and flat.dtype == dtype and flat.flags.c_contiguous and flat.flags.writeable
        assert flat.ctypes.data % 64 == 0
        for value in mapping.values():
            assert np.shares_memory(value, flat) and value.ctypes.data % 64 == 0


def test_written_parameters_count_at_once(dtype):
    """The net keeps packed copies of its weights; writing through any view must reach them."""
    case = Case(Net((5, 40, 3), ("tanh",)), dtype, batch_size=10)
    view, flat = case.mlp.parameters["dense1.weight"], case.mlp.parameters.flat
    before = case.mlp(case.x)
    view[...] = 0
    bias = np.broadcast_to(case.mlp.parameters["dense1.bias"], (10, 3))
    np.testing.assert_array_equal(case.mlp(case.x), bias)
    flat[...] = 0
    np.testing.assert_array_equal(case.mlp(case.x), np.zeros((10, 3)))
    for name, value in case.params.items():
        case.mlp.parameters[name][...] = value
    np.testing.assert_array_equal(case.mlp(case.x), before)


def test_views_outlive_the_net():
    net = gc.MLP([4, 7, 2])
    view, gradient, flat = net.parameters["dense0.weight"], net.gradients["dense1.bias"], net.parameters.flat
    expected = view.copy()
    del net
    np.testing.assert_array_equal(view, expected)
    gradient[...] = flat[0]


# ---- train_step --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_train_step_is_gradients_then_step(optimizer, dtype):
    net = Net((6, 9, 9, 4), ("tanh", "gelu"), "batch", residual=True)
    one, two = (Case(net, dtype, batch_size=12) for _ in range(2))
    optimizers = [getattr(gc.optim, optimizer)(case.mlp, lr=0.01) for case in (one, two)]
    for _ in range(3):
        step = one.mlp.train_step(one.x, one.target, optimizers[0], loss="mse", clip_norm=0.5, clip_value=0.01)
        loss = two.mlp.loss_and_gradients(two.x, two.target, loss="mse")
        total_norm = optimizers[1].step(clip_norm=0.5, clip_value=0.01)
        assert (step.loss, step.total_norm) == (loss, total_norm)
        assert_same_bits(one.mlp.gradients, copies(two.mlp.gradients))
        assert_same_bits(one.mlp.parameters, copies(two.mlp.parameters))
        assert_same_bits(one.mlp.buffers, copies(two.mlp.buffers))


def test_train_step_reports_the_norm_before_clipping(dtype):
    case = Case(Net((6, 9, 4), ("tanh",)), dtype, batch_size=12)
    step = case.mlp.train_step(case.x, case.target, gc.optim.SGD(case.mlp, lr=0.1), loss="mse", clip_norm=1e-3)
    _, grads, _ = case.reference()
    assert step.total_norm == pytest.approx(reference.total_norm(grads.values()), rel=tolerances.NETWORK[dtype.name])
    assert_gradients_close(case.mlp.gradients, grads, tolerances.NETWORK[dtype.name])


def test_a_refused_step_leaves_the_running_statistics(rng):
    """Forward updates them before anybody knows that the gradient's norm is infinite."""
    net = gc.MLP([6, 8, 3], normalization="batch", seed=0)
    optimizer = gc.optim.SGD(net, lr=0.1)
    x, labels = rng.standard_normal((32, 6)).astype("float32"), rng.integers(0, 3, 32)
    net.train_step(x, labels, optimizer)
    before = copies(net.buffers)
    bad = x.copy()
    bad[0] = 3e38
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        net.train_step(bad, labels, optimizer, clip_norm=1.0)
    assert_same_bits(net.buffers, before)
    net.train_step(x, labels, optimizer, clip_norm=1.0)
    assert np.isfinite(net.loss(x, labels))


def test_backward_after_a_step_is_refused(rng):
    """The activations that forward saved are those of other weights."""
    net = gc.MLP([6, 8, 3], seed=0)
    optimizer = gc.optim.SGD(net, lr=0.1)
    output = net.forward(rng.standard_normal((32, 6)).astype("float32"), training=True)
    optimizer.step()
    with pytest.raises(ValueError, match="forward"):
        net.backward(output)
