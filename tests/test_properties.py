"""Random networks against PyTorch in float64: an oracle that shares no line with ours."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import reference
import tolerances
from nets import Case, assert_gradients_close
from reference import Net

pytestmark = pytest.mark.torch

# Normalizing fewer than about five numbers cancels most of the gradient: what is left is rounding.
WELL_CONDITIONED = 5


@st.composite
def networks(draw):
    normalization = draw(st.sampled_from([None, "batch", "layer", "rms"]))
    width = st.integers(WELL_CONDITIONED if normalization else 1, 24)
    hidden = draw(st.lists(width, max_size=6))
    if hidden and draw(st.booleans()):  # equal neighbours, so that residual connections occur
        hidden = [hidden[0]] * len(hidden)
    return Net(
        (draw(st.integers(1, 40)), *hidden, draw(st.integers(1, 12))),
        tuple(draw(st.sampled_from(sorted(reference.ACTIVATIONS))) for _ in hidden),
        normalization,
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
    )


@st.composite
def cases(draw, dtype):
    net = draw(networks())
    batch_size = draw(st.integers(WELL_CONDITIONED if net.normalization == "batch" else 1, 70))
    loss = draw(st.sampled_from(sorted(reference.LOSSES)))
    return Case(net, dtype, batch_size, loss=loss, seed=draw(st.integers(0, 2**32 - 1)), gain=1.2)


def assert_torch_agrees(case):
    from torch_twin import Twin

    assume(case.away_from_kinks())
    tolerance = tolerances.NETWORK[case.dtype.name]
    loss = case.mlp.loss_and_gradients(case.x, case.target, loss=case.loss)
    expected_loss, expected = Twin(case.net, case.params).loss_and_gradients(case.x, case.target, case.loss)
    assert loss == pytest.approx(expected_loss, rel=tolerance, abs=tolerance)
    assert_gradients_close(case.mlp.gradients, expected, tolerance)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases("float64"))
def test_float64_gradients(case):
    assert_torch_agrees(case)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases("float32"))
def test_float32_gradients(case):
    assert_torch_agrees(case)


def test_running_statistics_over_many_batches(dtype, torch):
    from torch_twin import Twin

    net = Net((6, 9, 7, 3), ("tanh", "relu"), "batch")
    case = Case(net, dtype, batch_size=8)
    twin = Twin(net, case.params, {name: np.array(value) for name, value in case.mlp.buffers.items()})
    rng = np.random.default_rng(7)
    for batch_size in (8, 3, 21, 64):
        x = (2 + rng.standard_normal((batch_size, 6))).astype(dtype)
        case.mlp.forward(x, training=True)
        twin.forward(torch.from_numpy(x).double())
    tolerance = tolerances.NETWORK[dtype.name]
    for name, value in twin.buffers.items():
        np.testing.assert_allclose(case.mlp.buffers[name], value.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)
    expected = twin.forward(torch.from_numpy(case.x).double(), training=False).detach().numpy()
    np.testing.assert_allclose(case.mlp(case.x), expected, rtol=0, atol=tolerance * np.abs(expected).max())
