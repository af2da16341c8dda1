"""Nets that multiply bfloat16: float32 arrays and sums, operands of the dense products rounded to bfloat16."""

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from nets import Case, assert_gradients_close, assert_same_bits, build, copies, layer_norms
from reference import Net

NETS = {
    "smallest": Net((1, 1), ()),
    "odd": Net((5, 19, 33, 3), ("tanh", "gelu")),
    "batch norm": Net((17, 33, 33, 16, 5), ("tanh", "silu", "tanh"), "batch", residual=True),
    "layer norm": Net((31, 64, 65, 10), ("gelu", "tanh"), "layer"),
    "rms norm": Net((16, 40, 40, 7), ("tanh", "tanh"), "rms", residual=True),
    "wide": Net((130, 257, 129, 10), ("tanh", "tanh")),
    "deeper than a block of a product": Net((2100, 20, 3), ("tanh",)),
}


def rounded_dense(x, weight, bias=None):
    z = reference.bfloat16(x) @ reference.bfloat16(weight).T
    return z if bias is None else z + bias


def rounded_dense_backward(grad_output, x, weight):
    rounded = reference.bfloat16(grad_output)
    return (
        rounded @ reference.bfloat16(weight),
        rounded.T @ reference.bfloat16(x),
        grad_output.sum(axis=0),
    )


@pytest.fixture
def rounded_reference(monkeypatch):
    """The reference rounds where such a net does."""
    monkeypatch.setattr(reference, "dense", rounded_dense)
    monkeypatch.setattr(reference, "dense_backward", rounded_dense_backward)


def difference(actual, expected):
    """Norm of the difference of all gradients, relative."""
    total = sum(norm**2 for norm in layer_norms(expected).values())
    apart = {name: np.asarray(actual[name], np.float64) - value for name, value in expected.items()}
    return (sum(norm**2 for norm in layer_norms(apart).values()) / total) ** 0.5


def test_the_references_rounding():
    ulp = 2.0**-7
    numbers = [1.0, 1 + 0.49 * ulp, 1 + 0.5 * ulp, 1 + 0.51 * ulp, 1 + 1.5 * ulp, -1 - 1.5 * ulp, 0.0, 3e-30]
    expected = [1.0, 1.0, 1.0, 1 + ulp, 1 + 2 * ulp, -1 - 2 * ulp, 0.0]
    np.testing.assert_array_equal(reference.bfloat16(np.array(numbers))[:-1], expected)


@pytest.mark.torch
def test_the_references_rounding_is_pytorchs(torch, rng):
    x = rng.standard_normal(10_000).astype(np.float32)
    np.testing.assert_array_equal(reference.bfloat16(x), torch.tensor(x).bfloat16().float().numpy())


@pytest.mark.torch
@pytest.mark.parametrize("batch_size", [1, 17, 130])
def test_a_product_is_pytorchs(torch, rng, batch_size, target):
    """PyTorch rounds its result to bfloat16 once more."""
    net = gc.MLP([67, 35], dtype="bfloat16")
    x = rng.standard_normal((batch_size, 67)).astype(np.float32)
    weight, bias = (torch.tensor(net.parameters[f"dense0.{kind}"].copy()) for kind in ("weight", "bias"))
    expected = torch.nn.functional.linear(torch.tensor(x).bfloat16(), weight.bfloat16(), bias.bfloat16()).float()
    np.testing.assert_allclose(net(x), expected.numpy(), rtol=2.0**-8, atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5, 16, 33, 300])
@pytest.mark.parametrize("name", NETS)
def test_gradients(name, batch_size, target, rounded_reference):
    case = Case(NETS[name], "bfloat16", batch_size, loss="mse")
    loss = case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    expected_loss, grads, _ = case.reference()
    assert loss == pytest.approx(expected_loss, rel=tolerances.NETWORK_BFLOAT16)
    assert_gradients_close(case.mlp.gradients, grads, tolerances.NETWORK_BFLOAT16)


@pytest.mark.parametrize("batch_size", [1, 1300, 9001])
def test_gradients_of_one_row_and_of_many(batch_size, target, rounded_reference):
    case = Case(Net((20, 24, 24, 4), ("tanh", "tanh")), "bfloat16", batch_size, loss="cross_entropy")
    case.mlp.loss_and_gradients(case.x, case.target)
    assert_gradients_close(case.mlp.gradients, case.reference()[1], tolerances.NETWORK_BFLOAT16)


def test_it_is_the_products_that_are_rounded(target, monkeypatch):
    """Nearer to the reference that rounds than to the one that does not."""
    case = Case(NETS["wide"], "bfloat16", 65)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    exact = difference(case.mlp.gradients, case.reference()[1])
    monkeypatch.setattr(reference, "dense", rounded_dense)
    monkeypatch.setattr(reference, "dense_backward", rounded_dense_backward)
    assert 20 * difference(case.mlp.gradients, case.reference()[1]) < exact < 0.05


@pytest.mark.parametrize("name", ["odd", "batch norm", "layer norm"])
def test_forward_then_backward_is_loss_and_gradients(name, target):
    case = Case(NETS[name], "bfloat16", 37, loss="cross_entropy")
    case.mlp.loss_and_gradients(case.x, case.target)
    at_once = copies(case.mlp.gradients)
    other = build(case.net, case.params, "bfloat16")
    output = other.forward(case.x, training=True)
    grad_output = gc.ops.loss_backward(output, case.target, "cross_entropy")
    grad_input = other.backward(grad_output)
    assert_same_bits(other.gradients, at_once)
    assert grad_input.dtype == np.float32 and np.isfinite(grad_input).all()


def test_grad_input(target, rounded_reference):
    case = Case(NETS["odd"], "bfloat16", 21)
    output, trace = reference.forward(case.net, case.params, case.x.astype(np.float64))
    case.mlp.forward(case.x, training=True)
    grad_output = np.ones_like(output)
    _, expected = reference.backward(case.net, case.params, trace, grad_output)
    actual = case.mlp.backward(grad_output)
    assert np.linalg.norm(actual - expected) <= tolerances.NETWORK_BFLOAT16 * np.linalg.norm(expected)


def test_inference_rounds_as_training_does(target):
    case = Case(NETS["wide"], "bfloat16", 70)
    np.testing.assert_array_equal(case.mlp(case.x), case.mlp.forward(case.x, training=True))


def test_recording_changes_no_bit(target):
    case = Case(NETS["batch norm"], "bfloat16", 90)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    without = copies(case.mlp.gradients)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse", record=True)
    assert_same_bits(case.mlp.gradients, without)
    weight = case.mlp.gradients["dense1.weight"]
    norm = case.mlp.flow.weight_grad_norm[1]
    assert norm == pytest.approx(np.linalg.norm(weight.astype(np.float64)), rel=1e-6)


def test_steps_learn_and_keep_their_weights_in_float32(target, rng):
    x = rng.standard_normal((300, 20)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    net = gc.MLP([20, 64, 64, 2], activation="tanh", dtype="bfloat16")
    optimizer = gc.optim.Adam(net, lr=3e-3)
    losses = [net.train_step(x, labels, optimizer, clip_norm=1.0).loss for _ in range(300)]
    assert losses[-1] < 0.1 * losses[0]
    weight = net.parameters["dense1.weight"]
    assert weight.dtype == np.float32
    assert (reference.bfloat16(weight) != weight).mean() > 0.9


def test_weights_changed_by_hand_are_seen(target):
    case = Case(NETS["odd"], "bfloat16", 9)
    before = case.mlp(case.x)
    case.mlp.parameters["dense0.weight"][...] *= 2
    assert not np.array_equal(case.mlp(case.x), before)


def test_what_it_is(tmp_path):
    net = gc.MLP([4, 8, 3], dtype="bfloat16")
    assert (net.dtype, net.compute_dtype) == (np.float32, "bfloat16")
    assert net.config["dtype"] == "bfloat16" and "dtype='bfloat16'" in repr(net)
    assert gc.MLP(**net.config).compute_dtype == "bfloat16"
    assert net.parameters.flat.dtype == net.gradients.flat.dtype == net(np.ones((2, 4))).dtype == np.float32
    net.save(tmp_path / "net.safetensors")
    loaded = gc.load(tmp_path / "net.safetensors")
    assert loaded.config == net.config
    assert_same_bits(loaded.parameters, copies(net.parameters))


def test_a_dtype_that_is_none_names_those_that_are():
    with pytest.raises(ValueError, match="dtype: expected one of 'float32', 'float64', 'bfloat16', got 'float16'"):
        gc.MLP([2, 2], dtype="float16")


def test_only_the_cpus_own_products_count_as_such(target):
    """`target` sets each in turn: none but AVX-512 has them."""
    assert isinstance(gc.cpu_info()["bfloat16_products"], bool)
    assert target == "avx512" or not gc.cpu_info()["bfloat16_products"]


def test_nothing_in_a_step_leaves_the_range_of_bfloat16_unseen(target):
    """A weight that rounds to infinity makes the loss infinite or NaN, as in float32 one that is too large."""
    net = gc.MLP([2, 2], dtype="bfloat16")
    net.parameters["dense0.weight"][...] = np.finfo(np.float32).max
    assert not np.isfinite(net.loss_and_gradients(np.ones((2, 2), np.float32), np.array([0, 1])))


def test_the_analysis_finds_in_bfloat16_what_it_finds_in_float32(rng):
    x, labels = rng.standard_normal((256, 20)).astype(np.float32), rng.integers(0, 5, 256)
    designs = {
        "vanishing": {"widths": [20, *[30] * 20, 5], "activation": "sigmoid"},
        "exploding": {"widths": [20, *[30] * 20, 5], "activation": "relu", "init": lambda s, r: r.normal(0, 0.6, s)},
        "healthy": {"widths": [20, *[100] * 6, 5], "activation": "relu"},
    }
    for verdict, design in designs.items():
        net = gc.MLP(**design, dtype="bfloat16")
        before = copies(net.parameters)
        report = gc.analyze(net, x, labels, batch_size=64, batches=4)
        assert report.verdict == verdict
        assert_same_bits(net.parameters, before)
        assert report.config["dtype"] == "bfloat16"


def test_remedies_keep_the_dtype(rng):
    x, labels = rng.standard_normal((128, 10)).astype(np.float32), rng.integers(0, 3, 128)
    net = gc.MLP([10, *[16] * 12, 3], activation="sigmoid", dtype="bfloat16")
    remedies = gc.analyze(net, x, labels, batch_size=32, batches=4).remedies()
    assert remedies and all(remedy.apply().compute_dtype == "bfloat16" for remedy in remedies)
