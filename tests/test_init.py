"""Initializers: moments, bounds, orthogonality, the critical gain against theory, LSUV on data."""

import math

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from reference import ACTIVATIONS

IN, OUT = 200, 300

# name: (variance of a weight of the [OUT, IN] layer, bounded by sqrt(3) deviations)
SCHEMES = {
    "glorot_uniform": (2 / (IN + OUT), True),
    "glorot_normal": (2 / (IN + OUT), False),
    "he_uniform": (2 / IN, True),
    "he_normal": (2 / IN, False),
    "lecun_uniform": (1 / IN, True),
    "lecun_normal": (1 / IN, False),
}


def weights(init, activation="relu", widths=(IN, OUT, 2), layer=0, **options):
    net = gc.MLP(list(widths), activation=activation, init=init, dtype="float64", **options)
    return net.parameters[f"dense{layer}.weight"]


def assert_moments(w, variance, fourth):
    """Mean, variance and kurtosis E[x^4] / var^2 of independent entries, within five standard errors."""
    assert abs(w.mean()) <= tolerances.sigmas(5, w.size, variance)
    assert abs((w**2).mean() - variance) <= tolerances.sigmas(5, w.size, (fourth - 1) * variance**2)
    assert (w**4).mean() / (w**2).mean() ** 2 == pytest.approx(fourth, rel=0.05)


@pytest.mark.parametrize("name", SCHEMES)
def test_moments(name):
    variance, bounded = SCHEMES[name]
    w = weights(name)
    assert_moments(w, variance, fourth=1.8 if bounded else 3)
    if bounded:
        assert np.abs(w).max() <= math.sqrt(3 * variance)
        assert np.abs(w).max() >= 0.999 * math.sqrt(3 * variance)


def test_every_initializer_is_tested():
    assert set(gc.initializers()) == set(SCHEMES) | {"auto", "orthogonal"}


# ---- the critical gain -------------------------------------------------------------------------------

DEEP = 32  # layers over which the gain keeps gradients of activations without a critical fixed point


def log_growth(activation, gain2, depth=DEEP):
    """Sum of ln chi1 over hidden layers, for inputs of mean square 1."""
    q, total = gain2, 0.0
    for _ in range(depth):
        total += math.log(reference.chi1(activation, gain2, q))
        q = reference.next_q(activation, gain2, q)
    return total


EXACT = {"identity": 1, "relu": 2, "leaky_relu": 2 / (1 + 0.01**2), "tanh": 1, "hard_tanh": 1, "selu": 1}


@pytest.mark.parametrize("activation", EXACT)
def test_critical_gains_known_exactly(activation):
    assert gc.init.critical_gain(activation) ** 2 == pytest.approx(EXACT[activation], rel=1e-12)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - set(EXACT) - {"sigmoid"}))
def test_critical_gains_keep_gradients_over_depth(activation):
    assert abs(log_growth(activation, gc.init.critical_gain(activation) ** 2)) < 0.05


def test_sigmoid_keeps_its_preactivations_at_variance_one():
    """It has no usable critical point: this gain holds q at 1, where chi1 is 0.153."""
    gain2 = gc.init.critical_gain("sigmoid") ** 2
    assert reference.next_q("sigmoid", gain2, 1.0) == pytest.approx(1, rel=1e-4)
    assert reference.chi1("sigmoid", gain2, 1.0) == pytest.approx(0.152827, rel=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_auto_uses_the_critical_gain_of_each_layer(activation):
    gain = gc.init.critical_gain(activation)
    assert_moments(weights("auto", activation), gain**2 / IN, fourth=3)
    last = weights("auto", activation, widths=(3, IN, OUT), layer=1)
    assert_moments(last, 1 / IN, fourth=3)


def test_auto_is_the_default():
    np.testing.assert_array_equal(gc.MLP([5, 7, 2]).parameters.flat, gc.MLP([5, 7, 2], init="auto").parameters.flat)


@pytest.mark.parametrize("widths", [(40, 40, 1), (30, 50, 1), (50, 30, 1)], ids=str)
def test_orthogonal(widths):
    w = weights("orthogonal", "relu", widths)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 2 * np.eye(min(w.shape)), atol=1e-13)


def test_orthogonal_is_uniform_over_the_group():
    """Entries of uniform orthogonal 2 x 2 matrices are cos of a uniform angle: mean 0, variance 1/2."""
    corners = np.array([weights("orthogonal", "identity", (2, 2, 1), seed=seed)[0, 0] for seed in range(600)])
    assert abs(corners.mean()) <= tolerances.sigmas(5, 600, 0.5)
    assert abs((corners**2).mean() - 0.5) <= tolerances.sigmas(5, 600, 1 / 8)


# ---- the streams are NumPy's ------------------------------------------------------------------------------

SEEDS = [0, 1, 2**32 - 1, 2**32, 2**64 - 1, 10**30, 2**200 + 5]


def streams(seed, depth):
    return [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(depth)]


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_weights_are_numpys(seed):
    net = gc.MLP([30, 20, 7], init="he_uniform", dtype="float64", seed=seed)
    for layer, rng in enumerate(streams(seed, 2)):
        w = net.parameters[f"dense{layer}.weight"]
        bound = math.sqrt(3 * (2 / w.shape[1]))
        np.testing.assert_array_equal(w, rng.uniform(-bound, bound, w.shape))


@pytest.mark.parametrize("seed", SEEDS)
def test_normal_weights_are_numpys(seed):
    """To the digits that NumPy's tables of the ziggurat have; enough of them to reach its tail."""
    net = gc.MLP([300, 200, 7], init="lecun_normal", dtype="float64", seed=seed)
    for layer, rng in enumerate(streams(seed, 2)):
        w = net.parameters[f"dense{layer}.weight"]
        np.testing.assert_allclose(w * math.sqrt(w.shape[1]), rng.standard_normal(w.shape), rtol=1e-12)


@pytest.mark.parametrize("shape", [(40, 40), (30, 50), (50, 30), (1, 9), (9, 1), (17, 8)], ids=str)
def test_orthogonal_weights_are_those_of_numpys_qr(shape):
    w = weights("orthogonal", "identity", (shape[1], shape[0]))
    q, r = np.linalg.qr(streams(0, 1)[0].standard_normal((max(shape), min(shape))))
    q *= np.where(np.diag(r) < 0, -1, 1)
    np.testing.assert_allclose(w, q if shape[0] >= shape[1] else q.T, atol=1e-13)


def test_orthogonal_weights_do_not_depend_on_threads(num_threads):
    nets = []
    for threads in (1, 2, 5):
        num_threads(threads)
        nets.append(gc.MLP([150, 130, 2], init="orthogonal").parameters.flat.copy())
    np.testing.assert_array_equal(nets[0], nets[1])
    np.testing.assert_array_equal(nets[0], nets[2])


# ---- seeds, biases, norms, own functions ------------------------------------------------------------------


def test_biases_and_norms_start_neutral(dtype):
    net = gc.MLP([5, 7, 7, 2], normalization="batch", dtype=dtype.name)
    for name, value in net.parameters.items():
        if not name.startswith("dense") or name.endswith("bias"):
            assert (value == (name.startswith("norm") and name.endswith("weight"))).all(), name


def test_seeds():
    same = [gc.MLP([5, 7, 2], seed=3).parameters.flat for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (
        gc.MLP([5, 7, 2], seed=4).parameters["dense0.weight"] != gc.MLP([5, 7, 2], seed=3).parameters["dense0.weight"]
    ).all()
    fresh = [gc.MLP([5, 7, 2], seed=None).parameters["dense0.weight"] for _ in range(2)]
    assert (fresh[0] != fresh[1]).any()


def test_float32_weights_are_the_float64_ones_rounded():
    nets = [gc.MLP([5, 7, 2], dtype=name, seed=3).parameters for name in ("float32", "float64")]
    for name in nets[0]:
        np.testing.assert_array_equal(nets[0][name], nets[1][name].astype("float32"))


def test_an_own_function():
    net = gc.MLP([5, 7, 2], init=lambda shape, rng: np.full(shape, 0.25))
    assert (net.parameters["dense0.weight"] == 0.25).all() and (net.parameters["dense1.weight"] == 0.25).all()
    with pytest.raises(ValueError, match="layer 0"):
        gc.MLP([5, 7, 2], init=lambda shape, rng: np.zeros(3))


# ---- LSUV ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "batch", "layer", "rms"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_lsuv_gives_unit_variance_at_every_layer(activation, normalization, dtype, rng):
    x = (3 + 5 * rng.standard_normal((256, 20))).astype(dtype)
    net = gc.MLP(
        [20, 40, 40, 30, 5], activation=activation, normalization=normalization, residual=True, dtype=dtype.name
    )
    gc.init.lsuv(net, x)
    spec = reference.Net((20, 40, 40, 30, 5), (activation,) * 3, normalization, residual=True)
    params = {name: value.astype(float) for name, value in net.parameters.items()}
    _, trace = reference.forward(spec, params, x.astype(float))
    for step in trace:
        assert step.z.std() == pytest.approx(1, rel=1e3 * tolerances.UNIT_ROUNDOFF[dtype.name])
    for name, value in params.items():
        if name.endswith("bias"):
            assert (value == 0).all()


def test_lsuv_weights_are_orthogonal_up_to_scale(rng):
    net = gc.MLP([20, 40, 5], dtype="float64")
    gc.init.lsuv(net, rng.standard_normal((64, 20)))
    w = net.parameters["dense0.weight"]
    gram = w.T @ w
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(20), atol=1e-12 * gram[0, 0])


@pytest.mark.parametrize("scale", [0.0, 2.0**-6])
def test_lsuv_refuses_data_without_variation_and_leaves_the_net(scale, dtype, rng):
    """Numbers below the normal ones leave nothing to divide by: weights would be infinite."""
    net = gc.MLP([4, 6, 2], dtype=dtype.name)
    before = net.parameters.flat.copy()
    with pytest.raises(
        ValueError, match=r"^x: expected pre-activations that vary, got standard deviation .* in layer 0"
    ):
        gc.init.lsuv(net, scale * np.finfo(dtype).tiny * rng.standard_normal((8, 4)))
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_lsuv_divides_by_the_smallest_normal_numbers(dtype, rng):
    for activation in gc.activations():
        net = gc.MLP([1, 1, 1], activation=activation, dtype=dtype.name)
        x = np.array([[-1.0], [1.0]]) * np.finfo(dtype).tiny
        gc.init.lsuv(net, x)
        assert np.isfinite(net.parameters.flat).all() and net.parameters.flat.any()
