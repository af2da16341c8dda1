"""Every bound the tests use, with its derivation. A bound quoted in a kernel's comment is one of these.

u is the unit roundoff of the element type: 2^-24 or 2^-53. One operation errs by at most u relative,
a sum of k terms in any order by at most k u times the sum of the absolute terms (Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., section 4.2). The float64 reference errs the same way, so
every bound holds a factor 2 for it. Bounds are elementwise and absolute unless said otherwise: each is
the rounding error of the equation, evaluated on absolute values.
"""

import math
from functools import partial

import numpy as np

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
SMALLEST_NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}


def _u(dtype):
    return 2 * UNIT_ROUNDOFF[np.dtype(dtype).name]


# ---- single ops ------------------------------------------------------------------------------


def dense(x, weight, bias=None):
    """x W^T + b: k products and as many additions."""
    magnitude = np.abs(x) @ np.abs(weight).T + (0 if bias is None else np.abs(bias))
    return (x.shape[1] + 2) * _u(x.dtype) * magnitude


def column_sum(x):
    """grad_bias: a sum over rows."""
    return (len(x) + 1) * _u(x.dtype) * np.abs(x).sum(axis=0)


# Against mpmath over the whole range (tests/test_activations.py); units in the last place.
ACTIVATION_ULP = {"float32": 2, "float64": 2}
WIDE_ACTIVATION_ULP = {"float32": 4, "float64": 4}  # gelu, gelu_tanh, mish: products of two such values
DERIVATIVE_ULP = {"float32": 4, "float64": 4}


def activation(value, x):
    """4 ULP of the result, and x^2 more in float64: the reference's own e^(-x^2 / 2) errs by half that."""
    return (4 + x.astype(float) ** 2) * _u(x.dtype) * np.abs(value) + SMALLEST_NORMAL[x.dtype.name]


def activation_derivative(value, x):
    """As above; where f' of gelu, silu and mish crosses zero (-3 < x < 0) only absolute error counts."""
    floor = np.where(np.abs(x) < 3, 0.1, 0)
    return (8 + x.astype(float) ** 2) * _u(x.dtype) * np.maximum(np.abs(value), floor) + SMALLEST_NORMAL[x.dtype.name]


def _normalization(x, x_hat, inv_std, weight, bias, *, axis):
    """y = x_hat weight + bias over m = x.shape[axis] entries.

    The mean errs by (m + 1) u mean|x|, hence x_hat by that times inv_std; two-pass variance errs by
    (m + 3) u relative, inv_std by half of it; then a product and a sum with one rounding each.
    """
    m = x.shape[axis]
    mean_abs = np.abs(x).mean(axis=axis, keepdims=True)
    x_hat_error = (m + 1) * mean_abs * inv_std + (m / 2 + 8) * np.abs(x_hat)
    return _u(x.dtype) * (x_hat_error * np.abs(weight) + 2 * np.abs(bias))


def _normalization_backward(x, x_hat, inv_std, weight, grad_output, *, axis):
    """(grad_input, grad_weight) of the above.

    dx = inv_std (g - mean(g) - x_hat mean(g x_hat)), g = weight * dy: each mean errs by (m + 4) u of its
    absolute terms, and x_hat as above, worse by the condition 1 + mean|x| inv_std of centring.
    """
    m, u = x.shape[axis], _u(x.dtype)
    g = np.abs(weight * grad_output)
    condition = 1 + np.abs(x).mean(axis=axis, keepdims=True) * inv_std
    spread = (g * np.abs(x_hat)).mean(axis=axis, keepdims=True) + g.mean(axis=axis, keepdims=True)
    grad_input = inv_std * (g + (1 + np.abs(x_hat)) * spread) * condition
    grad_weight = (np.abs(grad_output) * (np.abs(x_hat) + condition)).sum(axis=0)
    return 2 * (m + 8) * u * grad_input, (len(x) + m + 8) * u * grad_weight


def batch_norm_far_from_zero(rows):
    """Absolute, float32, of x_hat up to 8: no term grows with the mean, as (rows + 1) u mean|x - mean| is
    all that mean + rest errs by. float64 sums the tiles' means in float64 and keeps a term of mean|x|."""
    return (rows + 1) * _u("float32") + (rows / 2 + 8) * _u("float32") * 8


batch_norm = partial(_normalization, axis=0)
batch_norm_backward = partial(_normalization_backward, axis=0)
layer_norm = partial(_normalization, axis=1)
layer_norm_backward = partial(_normalization_backward, axis=1)
# RMS norm is layer norm with a mean of zero.
rms_norm, rms_norm_backward = layer_norm, layer_norm_backward


def loss_value(dtype, terms):
    """Relative to the mean absolute term: a few operations each, then a sum in double."""
    return 16 * _u(dtype) * np.abs(terms).mean()


def cross_entropy(y):
    """(value, gradient): ln sum exp(y - max) errs by (columns + 4) u, the shift by u |y - max|.

    The gradient (softmax - t) / rows has the same relative error in softmax <= 1.
    """
    error = (y.shape[1] + 8 + np.ptp(y, axis=1).max() + np.abs(y).max()) * _u(y.dtype)
    return error, error / len(y)


def elementwise_loss_gradient(y, target):
    """(s(y) - t) / count: cancellation costs u of the larger; s is y or sigmoid(y)."""
    return 4 * _u(y.dtype) * (np.abs(y) + np.abs(target) + 1) / y.size


# Relative to the sum of absolute terms: statistics are summed in the array's type, at most 128 terms a
# lane and a few additions more; chunks are then added in double.
STATISTICS_ROUNDINGS = 140


def statistics(dtype):
    return STATISTICS_ROUNDINGS * _u(dtype)


def norm(dtype):
    """Relative, for total norms: summed like statistics."""
    return STATISTICS_ROUNDINGS * _u(dtype)


# ---- optimizers ------------------------------------------------------------------------------


def optimizer(dtype, steps):
    """Relative to the largest parameter or accumulated update: each step rounds about 16 times."""
    return 16 * steps * _u(dtype)


# ---- whole networks --------------------------------------------------------------------------

# A layer's gradients against float64, relative to the norm of all gradients of that layer: the bounds
# of the project's contract. Rounding alone gives about depth * width * u: 2e-14 and 1e-5 at the sizes used.
NETWORK = {"float32": 1e-4, "float64": 1e-10}
# The same for products of operands rounded to bfloat16, against float64 with operands rounded so. Where an operand lies
# within float32's error of the middle between two bfloat16, one in 2^15, the two may round it to different ones, 2^-8
# apart; a gradient then differs by that share of this operand's part.
NETWORK_BFLOAT16 = 2.0**-8
# Nearest a pre-activation may come to a kink of its activation, relative to the batch's largest:
# nearer, rounding decides which side of the kink it lies on.
KINK_MARGIN = {"float32": 1e-5, "float64": 1e-12}

# ---- the reference against itself ------------------------------------------------------------

# Complex step against written derivative: only rounding (no step error). Relative to the largest entry.
COMPLEX_STEP = 1e-12

# ---- randomness ------------------------------------------------------------------------------


def sigmas(deviations, count, variance):
    """`deviations` standard errors of the mean of `count` draws of this variance."""
    return deviations * math.sqrt(variance / count)
