"""From a reference.Net to the gc.MLP it describes, and from its gradients back to the oracle."""

import re

import numpy as np

import gradcore as gc
import reference
import tolerances


def as_float64(arrays, dtype):
    """The arrays as the net sees them, rounded to its dtype, for the reference to compute with in float64."""
    return {name: np.asarray(value, dtype).astype(np.float64) for name, value in arrays.items()}


def array_dtype(dtype):
    """The dtype of a net's arrays."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def build(net, params, dtype, kind=gc.MLP, **options):
    """The gc.MLP, or another kind, of this architecture with these parameters."""
    mlp = kind(
        list(net.widths),
        activation=list(net.activations),
        normalization=net.normalization,
        residual=net.residual,
        bias=net.bias,
        dtype=dtype if dtype == "bfloat16" else np.dtype(dtype).name,
        **options,
    )
    assert {name: value.shape for name, value in mlp.parameters.items()} == net.parameter_shapes()
    for name, value in params.items():
        mlp.parameters[name][...] = value
    return mlp


class Case:
    """One architecture with parameters and data, for gradcore and for the reference alike."""

    def __init__(self, net, dtype, batch_size, loss="mse", seed=1, gain=1.5):
        rng = np.random.default_rng(seed)
        self.net, self.dtype, self.loss = net, array_dtype(dtype), loss
        self.params = as_float64(reference.random_parameters(net, rng, gain), self.dtype)
        self.x = rng.standard_normal((batch_size, net.widths[0])).astype(self.dtype)
        self.target = random_target(loss, rng, batch_size, net.widths[-1])
        if self.target.dtype.kind == "f":
            self.target = self.target.astype(self.dtype)
        self.mlp = build(net, self.params, dtype)

    def reference(self):
        """(loss, gradients, trace) in float64, from exactly the numbers gradcore has."""
        target = self.target if self.target.dtype.kind == "i" else self.target.astype(np.float64)
        return reference.loss_and_gradients(self.net, self.params, self.x.astype(np.float64), target, self.loss)

    def away_from_kinks(self):
        """Whether rounding cannot decide on which side of a kink any pre-activation lies."""
        _, _, trace = self.reference()
        return reference.kink_margin(self.net, trace) > tolerances.KINK_MARGIN[self.dtype.name]


def smooth_case(*args, **options):
    """The first Case, by seed, that is away from kinks."""
    for seed in range(100):
        case = Case(*args, seed=seed, **options)
        if case.away_from_kinks():
            return case
    raise AssertionError("no seed keeps this architecture away from the kinks of its activations")


def random_target(loss, rng, rows, columns):
    """A target of the kind a loss expects; labels for cross_entropy."""
    if loss == "cross_entropy":
        return rng.integers(0, columns, rows)
    return rng.uniform(0, 1, (rows, columns)) if loss == "binary_cross_entropy" else rng.normal(0, 2, (rows, columns))


def layer_of(name):
    """'norm3.bias' -> 3."""
    return int(re.match(r"(?:dense|norm)(\d+)\.", name)[1])


def layer_norms(grads):
    """Layer -> norm of all gradients of that layer."""
    squares = {}
    for name, value in grads.items():
        squares[layer_of(name)] = squares.get(layer_of(name), 0.0) + float((np.asarray(value, np.float64) ** 2).sum())
    return {layer: np.sqrt(total) for layer, total in squares.items()}


def assert_gradients_close(actual, expected, tolerance):
    """Each tensor's error within `tolerance` times the norm of its layer's gradients."""
    assert sorted(actual) == sorted(expected)
    norms = layer_norms(expected)
    for name, value in expected.items():
        error = np.linalg.norm(np.asarray(actual[name], np.float64) - value)
        assert error <= tolerance * norms[layer_of(name)], f"{name}: off by {error:g} of {norms[layer_of(name)]:g}"


def copies(mapping):
    """Parameters, gradients or buffers as they are now."""
    return {name: np.array(value) for name, value in mapping.items()}


def assert_same_bits(actual, expected):
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
