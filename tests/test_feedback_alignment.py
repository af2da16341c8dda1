"""Direct feedback alignment: its gradients against float64 NumPy, where it must equal backpropagation, and learning."""

import copy
import pickle

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from gradcore.feedback_alignment import DirectFeedbackMLP
from nets import Case, assert_gradients_close, assert_same_bits, build, copies, smooth_case
from reference import Net


def feedback_case(net, dtype="float64", loss="mse", **options):
    """A Case, and the DirectFeedbackMLP with its parameters."""
    case = smooth_case(net, dtype, batch_size=13, loss=loss)
    return case, build(net, case.params, dtype, DirectFeedbackMLP, **options)


def oracle(case, feedback):
    """(loss, gradients) of (F.1), layer by layer in float64."""
    net = case.net
    target = case.target if case.target.dtype.kind == "i" else case.target.astype(np.float64)
    output, trace = reference.forward(net, case.params, case.x.astype(np.float64))
    value, error = reference.LOSSES[case.loss](output, target)
    grads = {}
    for layer, step in enumerate(trace):
        arriving = error @ feedback[layer].astype(np.float64).T if net.is_hidden(layer) else error
        step.grad_y = step.delta = arriving * net.activation(layer).df(step.y)
        if net.is_normalized(layer):
            step.delta = reference._normalization_backward(net, layer, case.params, step, grads)
        grads[f"dense{layer}.weight"] = np.einsum("bo,bi->oi", step.delta, step.x)
        if net.bias:
            grads[f"dense{layer}.bias"] = step.delta.sum(axis=0)
    return value, grads


# ---- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        Net((5, 8, 7, 6, 3), ("tanh", "gelu", "sigmoid")),
        Net((5, 8, 8, 8, 3), ("relu",) * 3, residual=True),
        Net((5, 8, 7, 3), ("relu", "elu"), bias=False),
        Net((5, 8, 7, 3), ("tanh", "selu"), normalization="batch"),
        Net((5, 8, 8, 3), ("silu", "tanh"), normalization="layer", residual=True),
        Net((5, 8, 7, 3), ("tanh", "mish"), normalization="rms"),
        Net((5, 3), ()),
    ],
    ids=lambda net: f"{net.normalization}-{'-'.join(net.activations) or 'linear'}",
)
def test_gradients_are_those_of_the_equation(net, dtype):
    case, mlp = feedback_case(net, dtype)
    loss = mlp.feedback_gradients(case.x, case.target, loss="mse")
    expected_loss, grads = oracle(case, mlp.feedback)
    tolerance = tolerances.NETWORK[dtype.name]
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert_gradients_close(mlp.gradients, grads, tolerance)


@pytest.mark.parametrize("loss", sorted(reference.LOSSES))
def test_every_loss(loss):
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "tanh")), loss=loss)
    value = mlp.feedback_gradients(case.x, case.target, loss=loss)
    expected, grads = oracle(case, mlp.feedback)
    assert value == pytest.approx(expected, rel=1e-10)
    assert_gradients_close(mlp.gradients, grads, 1e-10)


@pytest.mark.parametrize("normalization", [None, "batch", "layer", "rms"])
def test_with_the_true_feedback_it_is_backpropagation(normalization):
    """One hidden layer whose feedback is the transposed weight above it leaves nothing to chance."""
    case, mlp = feedback_case(Net((5, 8, 3), ("tanh",), normalization=normalization))
    mlp.feedback = (mlp.parameters["dense1.weight"].T.copy(),)
    mlp.feedback_gradients(case.x, case.target, loss="mse")
    assert_gradients_close(mlp.gradients, case.reference()[1], 1e-12)
    np.testing.assert_allclose(mlp.alignment(case.x, case.target, loss="mse"), 0.0, atol=1e-5)


def test_a_deep_linear_net_with_the_product_of_its_weights_is_backpropagation():
    case, mlp = feedback_case(Net((5, 8, 7, 6, 3), ("identity",) * 3))
    product, products = np.eye(3), []
    for layer in (3, 2, 1):
        product = product @ mlp.parameters[f"dense{layer}.weight"]
        products.insert(0, product.T.copy())
    mlp.feedback = tuple(products)
    mlp.feedback_gradients(case.x, case.target, loss="mse")
    assert_gradients_close(mlp.gradients, case.reference()[1], 1e-12)


def test_angles_against_the_true_gradient():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "sigmoid")))
    angles = mlp.alignment(case.x, case.target, loss="mse")
    _, true, _ = case.reference()
    _, grads = oracle(case, mlp.feedback)
    for layer in range(3):
        a, b = (g[f"dense{layer}.weight"].ravel() for g in (true, grads))
        expected = np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))
        assert angles[layer] == pytest.approx(expected, abs=1e-5)
    mlp.feedback = tuple(-matrix for matrix in mlp.feedback)
    turned = mlp.alignment(case.x, case.target, loss="mse")
    np.testing.assert_allclose(turned[:-1], 180.0 - angles[:-1], atol=1e-5)


def test_no_angle_where_a_gradient_is_zero():
    _, mlp = feedback_case(Net((5, 8, 3), ("relu",)))
    mlp.parameters["dense0.bias"] = -1e3  # every unit is dead
    angles = mlp.alignment(np.ones((4, 5)), np.ones((4, 3)), loss="mse")
    assert np.isnan(angles).tolist() == [True, True]


# ---- what belongs to it --------------------------------------------------------------------------------------


def test_the_true_gradient_stays_what_it_was():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "relu")))
    mlp.loss_and_gradients(case.x, case.target, loss="mse")
    assert_gradients_close(mlp.gradients, case.reference()[1], 1e-10)


def test_same_weights_as_an_mlp_and_feedback_of_its_own():
    plain, mlp = gc.MLP([6, 9, 9, 4], seed=3), DirectFeedbackMLP([6, 9, 9, 4], seed=3)
    assert_same_bits(mlp.parameters, plain.parameters)
    assert [matrix.shape for matrix in mlp.feedback] == [(9, 4), (9, 4)]
    assert mlp.feedback[0].dtype == np.float32
    assert not np.array_equal(mlp.feedback[0], mlp.feedback[1])
    other = DirectFeedbackMLP([6, 9, 9, 4], seed=4)
    np.testing.assert_array_equal(other.feedback[0], mlp.feedback[0])
    assert not np.array_equal(DirectFeedbackMLP([6, 9, 9, 4], feedback_seed=3).feedback[0], mlp.feedback[0])


def test_feedback_does_not_know_the_weights():
    """Drawn with the same seed, they must not be the same numbers: alignment would be a fake."""
    mlp = DirectFeedbackMLP([50, 60, 50], init="lecun_normal", seed=5, feedback_seed=5)
    for weight in (mlp.parameters["dense0.weight"], mlp.parameters["dense1.weight"].T):
        assert abs(np.corrcoef(mlp.feedback[0].ravel(), weight.ravel())[0, 1]) < 5 / np.sqrt(3000)


def test_feedback_keeps_the_size_of_the_error():
    scale = 3.0
    mlp = DirectFeedbackMLP([4, 400, 10], feedback_scale=scale)
    # |B e|^2 / (scale |e|)^2 is chi-squared with 400 degrees of freedom over 400
    gain = np.linalg.norm(mlp.feedback[0], axis=0) ** 2 / scale**2
    assert np.all(np.abs(gain - 1) < tolerances.sigmas(5, 400, 2))


def test_running_statistics_move_once_a_step():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "tanh"), normalization="batch"))
    optimizer = gc.optim.SGD(mlp, lr=0.0)
    for record in (False, True):
        before = copies(mlp.buffers)
        mlp.train_step(case.x, case.target, optimizer, loss="mse", record=record)
        _, trace = reference.forward(case.net, case.params, case.x)
        for name, value in reference.updated_buffers(case.net, before, trace).items():
            np.testing.assert_allclose(mlp.buffers[name], value, rtol=1e-10)
    before = copies(mlp.buffers)
    mlp.alignment(case.x, case.target, loss="mse")
    assert_same_bits(mlp.buffers, before)


def test_copies_and_pickles_keep_the_feedback():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "relu"), normalization="batch"), feedback_seed=9)
    mlp.train_step(case.x, case.target, gc.optim.SGD(mlp, lr=0.1), loss="mse")
    for other in (mlp.copy(), copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
        assert type(other) is DirectFeedbackMLP
        assert_same_bits(other.parameters, mlp.parameters)
        assert_same_bits(other.buffers, mlp.buffers)
        for left, right in zip(other.feedback, mlp.feedback, strict=True):
            np.testing.assert_array_equal(left, right)
        other.feedback_gradients(case.x, case.target, loss="mse")
        assert np.any(other.gradients.flat != 0)


def test_files_hold_the_net_alone(tmp_path):
    mlp = DirectFeedbackMLP([5, 8, 3], activation="tanh")
    mlp.save(tmp_path / "net.safetensors")
    loaded = gc.load(tmp_path / "net.safetensors")
    assert type(loaded) is gc.MLP
    assert_same_bits(loaded.parameters, mlp.parameters)


# ---- steps and training --------------------------------------------------------------------------------------


def test_a_step_is_one_of_the_optimizer_along_the_feedback():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "relu")))
    _, grads = oracle(case, mlp.feedback)
    norm = reference.total_norm(grads.values())
    step = mlp.train_step(case.x, case.target, gc.optim.SGD(mlp, lr=0.1), loss="mse", clip_norm=norm / 2)
    assert step.total_norm == pytest.approx(norm, rel=1e-10)
    for name, value in case.params.items():
        expected = value - 0.1 * grads[name] * reference.clip_coefficient(norm, norm / 2)
        np.testing.assert_allclose(mlp.parameters[name], expected, rtol=1e-9, atol=1e-12)


def test_a_recorded_step_shows_the_true_deltas_and_the_update_made():
    case, mlp = feedback_case(Net((5, 8, 7, 3), ("tanh", "tanh")))
    _, grads = oracle(case, mlp.feedback)
    _, _, trace = case.reference()
    mlp.train_step(case.x, case.target, gc.optim.SGD(mlp, lr=0.1), loss="mse", record=True)
    np.testing.assert_allclose(mlp.flow.delta_norm, [np.linalg.norm(step.delta) for step in trace], rtol=1e-9)
    for layer in range(3):
        name = f"dense{layer}.weight"
        expected = 0.1 * np.linalg.norm(grads[name]) / np.linalg.norm(case.params[name])
        assert mlp.flow.update_ratio[layer] == pytest.approx(expected, rel=1e-6)


def blobs(rows, seed=0):
    """Three classes in six dimensions that no linear net separates: labels by distance from the origin."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 6))
    return x, np.digitize((x[:, :2] ** 2).sum(axis=1), [0.8, 2.2])


def test_fit_learns_and_the_weights_align_with_the_feedback():
    x, labels = blobs(1500)
    mlp = DirectFeedbackMLP([6, 64, 64, 3], activation="tanh")
    before = mlp.alignment(x, labels)
    history = mlp.fit(
        x, labels, epochs=30, batch_size=50, optimizer=gc.optim.Adam(mlp, lr=3e-3), validation=0.3, progress=False
    )
    after = mlp.alignment(x, labels)
    assert history["val_accuracy"][-1] > 0.85  # the largest class has 0.34, a linear net gets 0.45
    assert np.all(np.abs(before[:-1] - 90) < 45)
    assert after[1] < before[1] - 10
    assert after[1] < 70


def test_it_trains_where_backpropagation_sees_nothing():
    """Ten sigmoid layers: the true gradient of the first is 1e-9 of the last one's, the feedback's is not."""
    x, labels = blobs(200)
    mlp = DirectFeedbackMLP([6] + [32] * 10 + [3], activation="sigmoid", init="lecun_normal")
    mlp.loss_and_gradients(x, labels)
    true = [np.linalg.norm(mlp.gradients[f"dense{layer}.weight"]) for layer in (0, 9)]
    mlp.feedback_gradients(x, labels)
    feedback = [np.linalg.norm(mlp.gradients[f"dense{layer}.weight"]) for layer in (0, 9)]
    assert true[0] < 1e-5 * true[1]
    assert feedback[0] > 0.1 * feedback[1]


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"feedback_scale": 0.0}, ValueError, "feedback_scale: expected a finite number > 0, got 0.0"),
        ({"feedback_seed": -1}, ValueError, "feedback_seed: expected a whole number >= 0, got -1"),
        ({"feedback_seed": 0.5}, TypeError, "feedback_seed: expected a whole number"),
        ({"activation": "rely"}, ValueError, "activation: expected one of"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        DirectFeedbackMLP([3, 4, 2], **options)


def test_bad_data_and_foreign_optimizers():
    mlp = DirectFeedbackMLP([3, 4, 2])
    x, labels = np.ones((5, 3)), np.zeros(5, int)
    before = copies(mlp.gradients)
    with pytest.raises(ValueError, match="x: expected 3 columns"):
        mlp.feedback_gradients(np.ones((5, 4)), labels)
    with pytest.raises(ValueError, match="x: expected finite values, got nan"):
        mlp.feedback_gradients(x * np.nan, labels)
    with pytest.raises(ValueError, match="label"):
        mlp.feedback_gradients(x, labels + 2)
    with pytest.raises(ValueError, match=r"target: expected probabilities in \[0, 1\] .* got 3 at row 0, column 1"):
        mlp.feedback_gradients(x, np.array([[1.0, 3.0]] * 5))
    with pytest.raises(ValueError, match="loss: expected one of"):
        mlp.feedback_gradients(x, labels, loss="l2")
    assert_same_bits(mlp.gradients, before)
    other = gc.MLP([3, 4, 2])
    with pytest.raises(ValueError, match="optimizer: expected one that was made for this net"):
        mlp.train_step(x, labels, gc.optim.SGD(other, lr=0.1))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"target": np.full((5, 2), np.nan), "loss": "mse"}, ValueError),
        ({"target": np.full((5, 2), np.inf), "loss": "huber"}, ValueError),
        ({"target": np.full(5, 2)}, ValueError),
        ({"target": np.full(5, -1)}, ValueError),
        ({"clip_norm": -1.0}, ValueError),
        ({"clip_value": "1"}, TypeError),
        ({"optimizer": "adam"}, TypeError),
        ({"optimizer": gc.optim.SGD(gc.MLP([3, 4, 2]), lr=0.1)}, ValueError),
        ({"lr": lambda step: 0.1 if step == 0 else np.nan}, ValueError),
    ],
    ids="NaN infinity large_label negative_label clip_norm clip_value text another_net schedule".split(),
)
@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("kind", [gc.MLP, DirectFeedbackMLP])
def test_a_step_that_is_refused_changes_nothing(kind, record, change, error):
    """As MLP: parameters, gradients and running statistics stay, and the message names the argument."""
    net = kind([3, 4, 2], normalization="batch")
    x, labels = np.random.default_rng(0).standard_normal((5, 3)), np.arange(5) % 2
    optimizer = gc.optim.SGD(net, lr=change.get("lr", 0.1))
    net.train_step(x, labels, optimizer)
    before = [copies(tensors) for tensors in (net.parameters, net.gradients, net.buffers)]
    arguments = {"x": x, "target": labels, "optimizer": optimizer} | change
    arguments.pop("lr", None)
    with pytest.raises(error, match=f"^{next(iter(change))}"):
        net.train_step(**arguments, record=record)
    for tensors, kept in zip((net.parameters, net.gradients, net.buffers), before, strict=True):
        assert_same_bits(tensors, kept)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("kind", [gc.MLP, DirectFeedbackMLP])
def test_a_step_refused_for_its_norm_leaves_parameters_and_running_statistics(kind, record):
    net = kind([3, 4, 2], normalization="batch")
    net.parameters["dense1.weight"] = 3e38
    optimizer = gc.optim.SGD(net, lr=0.1)
    before = [copies(tensors) for tensors in (net.parameters, net.buffers)]
    x, target = np.random.default_rng(0).standard_normal((5, 3)), np.zeros((5, 2))
    with pytest.raises(FloatingPointError, match="norm"):
        net.train_step(x, target, optimizer, loss="mse", clip_norm=1.0, record=record)
    for tensors, kept in zip((net.parameters, net.buffers), before, strict=True):
        assert_same_bits(tensors, kept)


def test_case_helper_is_the_plain_case():
    """The oracle rests on the same forward pass as backpropagation's own."""
    case = Case(Net((5, 8, 3), ("tanh",)), "float64", batch_size=4)
    assert oracle(case, [np.zeros((8, 3))])[0] == case.reference()[0]
