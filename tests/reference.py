"""The oracle: gradcore's equations in plain NumPy, one small function each.

Everything is evaluated in the dtype of its arguments: float64 to check results, complex128 to check
derivatives by the complex step (f(x + ih).imag / h is f'(x) without cancellation). Functions with
kinks therefore branch on real parts, and nothing conjugates.

Notation, for dense layer l of a net with inputs x = h_{-1}:
    z = W x + b        pre-normalization          [batch, out]
    y = norm(z)        pre-activation
    a = act(y)
    h = a, or a + x where a skip connection spans the block
    delta = dL/dz      with the loss's mean reduction
The last dense layer is linear: h = z.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

EPS = 1e-5
MOMENTUM = 0.1
LEAKY_SLOPE = 0.01
SELU_LAMBDA = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


# ---- activations: f and f' -------------------------------------------------------------------

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def normal_pdf(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def normal_cdf(x):
    """Phi(x), to full relative accuracy in the lower tail.

    For complex x the first-order expansion in the imaginary part: all that a complex step asks for.
    """
    cdf = _erfc(-np.real(x) / math.sqrt(2)) / 2
    return cdf + 1j * np.imag(x) * normal_pdf(np.real(x)) if np.iscomplexobj(x) else cdf


def sigmoid(x):
    """1 / (1 + e^-x), by the exponential that cannot overflow."""
    e = np.exp(_minus_abs(x))
    return np.where(np.real(x) >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x):
    """ln(1 + e^x)."""
    return np.where(np.real(x) > 0, x, 0) + np.log1p(np.exp(_minus_abs(x)))


def sech2(x):
    """1 / cosh(x)^2 = 1 - tanh(x)^2, without the cancellation."""
    e = np.exp(2 * _minus_abs(x))
    return 4 * e / (1 + e) ** 2


def _minus_abs(x):
    return np.where(np.real(x) > 0, -x, x)


def _capped_exp(x):
    """e^min(x, 0): the negative branch of elu and selu, harmless where it is not taken."""
    return np.exp(np.where(np.real(x) < 0, x, 0))


def _capped_expm1(x):
    return np.expm1(np.where(np.real(x) < 0, x, 0))


def _piecewise(positive, negative):
    """x -> positive(x) for x > 0, negative(x) otherwise."""
    return lambda x: np.where(np.real(x) > 0, positive(x), negative(x))


def _inside_unit(x):
    return np.abs(np.real(x)) < 1


# gelu_tanh(x) = x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
_GELU_C = math.sqrt(2 / math.pi)


def _gelu_tanh_u(x):
    return _GELU_C * (x + 0.044715 * x**3)


def _gelu_tanh_grad(x):
    du = _GELU_C * (1 + 3 * 0.044715 * x**2)
    return sigmoid(2 * _gelu_tanh_u(x)) + x / 2 * sech2(_gelu_tanh_u(x)) * du


def _tanh_softplus(x):
    """tanh(ln(1 + n)) = (n^2 + 2n) / (n^2 + 2n + 2), n = e^x; divided by n^2 for x > 0."""
    e = np.exp(_minus_abs(x))
    return np.where(np.real(x) > 0, (1 + 2 * e) / (1 + 2 * e + 2 * e * e), (e * e + 2 * e) / (e * e + 2 * e + 2))


def _mish_grad(x):
    return _tanh_softplus(x) + x * sech2(softplus(x)) * sigmoid(x)


@dataclass(frozen=True)
class Activation:
    f: object
    df: object
    max_df: float  # max |f'|: what "saturated" (below 1 % of it) is measured by
    kinks: tuple = ()  # where f' jumps


ACTIVATIONS = {
    "identity": Activation(lambda x: x + 0, lambda x: x * 0 + 1, 1.0),
    "relu": Activation(_piecewise(lambda x: x, lambda x: 0 * x), _piecewise(np.ones_like, np.zeros_like), 1.0, (0.0,)),
    "leaky_relu": Activation(
        _piecewise(lambda x: x, lambda x: LEAKY_SLOPE * x),
        _piecewise(np.ones_like, lambda x: 0 * x + LEAKY_SLOPE),
        1.0,
        (0.0,),
    ),
    "elu": Activation(_piecewise(lambda x: x, _capped_expm1), _piecewise(np.ones_like, _capped_exp), 1.0),
    "selu": Activation(
        _piecewise(lambda x: SELU_LAMBDA * x, lambda x: SELU_LAMBDA * SELU_ALPHA * _capped_expm1(x)),
        _piecewise(lambda x: 0 * x + SELU_LAMBDA, lambda x: SELU_LAMBDA * SELU_ALPHA * _capped_exp(x)),
        SELU_LAMBDA * SELU_ALPHA,
        (0.0,),
    ),
    "gelu": Activation(lambda x: x * normal_cdf(x), lambda x: normal_cdf(x) + x * normal_pdf(x), 1.1289041451849204),
    "gelu_tanh": Activation(lambda x: x * sigmoid(2 * _gelu_tanh_u(x)), _gelu_tanh_grad, 1.1289930686585705),
    "silu": Activation(lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x)), 1.0998393201288645),
    "mish": Activation(lambda x: x * _tanh_softplus(x), _mish_grad, 1.0884981612515674),
    "softplus": Activation(softplus, sigmoid, 1.0),
    "tanh": Activation(np.tanh, sech2, 1.0),
    "hard_tanh": Activation(
        lambda x: np.where(_inside_unit(x), x, np.sign(np.real(x))),
        lambda x: np.where(_inside_unit(x), np.ones_like(x), 0),
        1.0,
        (-1.0, 1.0),
    ),
    "sigmoid": Activation(sigmoid, lambda x: sigmoid(x) * sigmoid(-x), 0.25),
}


# ---- normalization ---------------------------------------------------------------------------


def normalize(z, axis, centred):
    """x_hat = (z - mean) * inv_std over `axis`, biased variance; returns (x_hat, mean, inv_std).

    Batch norm: axis 0. Layer norm: axis 1. RMS norm: axis 1 and not centred (mean taken as 0).
    """
    mean = z.mean(axis=axis, keepdims=True) if centred else np.zeros_like(z.mean(axis=axis, keepdims=True))
    inv_std = 1 / np.sqrt(((z - mean) ** 2).mean(axis=axis, keepdims=True) + EPS)
    return (z - mean) * inv_std, mean, inv_std


def normalize_backward(grad_x_hat, x_hat, inv_std, axis, centred):
    """dz = inv_std * (g - [mean(g)] - x_hat * mean(g * x_hat)), g = dL/dx_hat, means over `axis`."""
    g = grad_x_hat
    centring = g.mean(axis=axis, keepdims=True) if centred else 0
    return inv_std * (g - centring - x_hat * (g * x_hat).mean(axis=axis, keepdims=True))


NORMALIZATION_AXES = {"batch": (0, True), "layer": (1, True), "rms": (1, False)}


# ---- losses: value and gradient with respect to the output ------------------------------------


def log_softmax(y):
    shifted = y - np.real(y).max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def cross_entropy(y, target):
    """Mean over rows of -sum_c t_c ln softmax(y)_c; labels are one-hot t."""
    t = one_hot(target, y.shape[1]) if np.ndim(target) == 1 else target
    log_p = log_softmax(y)
    grad = (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) / len(y)
    return -(t * log_p).sum() / len(y), grad


def binary_cross_entropy(y, t):
    """Mean of softplus(y) - t y: the negative log-likelihood of logits y."""
    return (softplus(y) - t * y).mean(), (sigmoid(y) - t) / y.size


def mse(y, t):
    return ((y - t) ** 2).mean(), 2 * (y - t) / y.size


def mae(y, t):
    sign = np.sign(np.real(y - t))
    return (sign * (y - t)).mean(), sign / y.size


def huber(y, t):
    """d^2/2 for |d| <= 1, |d| - 1/2 beyond."""
    d = y - t
    sign = np.sign(np.real(d))
    inside = np.abs(np.real(d)) <= 1
    return np.where(inside, d * d / 2, sign * d - 0.5).mean(), np.where(inside, d, sign) / y.size


LOSSES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mse,
    "mae": mae,
    "huber": huber,
}


# ---- the network -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """What gc.MLP(widths, ...) describes; activations has one name per hidden layer."""

    widths: tuple
    activations: tuple
    normalization: str = None
    residual: bool = False
    bias: bool = True

    @property
    def depth(self):
        return len(self.widths) - 1

    def is_hidden(self, layer):
        return layer < self.depth - 1

    def is_normalized(self, layer):
        return self.normalization is not None and self.is_hidden(layer)

    def has_skip(self, layer):
        return self.residual and self.is_hidden(layer) and self.widths[layer] == self.widths[layer + 1]

    def activation(self, layer):
        return ACTIVATIONS[self.activations[layer] if self.is_hidden(layer) else "identity"]

    def parameter_shapes(self):
        """Names and shapes, in the order of the flat buffer."""
        shapes = {}
        for layer in range(self.depth):
            fan_in, out = self.widths[layer], self.widths[layer + 1]
            shapes[f"dense{layer}.weight"] = (out, fan_in)
            if self.bias:
                shapes[f"dense{layer}.bias"] = (out,)
            if self.is_normalized(layer):
                shapes[f"norm{layer}.weight"] = (out,)
                if self.normalization != "rms":
                    shapes[f"norm{layer}.bias"] = (out,)
        return shapes


def random_parameters(net, rng, gain=1.5):
    """Weights N(0, gain^2 / fan_in); everything else near its neutral value, but not at it."""
    params = {}
    for name, shape in net.parameter_shapes().items():
        noise = rng.standard_normal(shape)
        if len(shape) == 2:
            params[name] = gain / math.sqrt(shape[1]) * noise
        else:
            params[name] = 0.3 * noise + (name.startswith("norm") and name.endswith("weight"))
    return params


def bfloat16(x):
    """The nearest numbers of eight significant bits, ties to even: float64 with bfloat16's precision, any exponent."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def dense(x, weight, bias=None):
    z = x @ weight.T
    return z if bias is None else z + bias


def dense_backward(grad_output, x, weight):
    """(grad_input, grad_weight, grad_bias)."""
    return grad_output @ weight, grad_output.T @ x, grad_output.sum(axis=0)


def forward(net, params, x, buffers=None):
    """Output and the trace of every layer. With `buffers` batch norm uses running statistics."""
    trace, h = [], x
    for layer in range(net.depth):
        step = SimpleNamespace(x=h)
        step.z = dense(h, params[f"dense{layer}.weight"], params.get(f"dense{layer}.bias"))
        step.y = _normalized(net, layer, params, step, buffers) if net.is_normalized(layer) else step.z
        step.a = net.activation(layer).f(step.y)
        step.h = h = step.a + step.x if net.has_skip(layer) else step.a
        trace.append(step)
    return h, trace


def _normalized(net, layer, params, step, buffers):
    name = f"norm{layer}"
    if net.normalization == "batch" and buffers is not None:
        step.mean = buffers[f"{name}.running_mean"]
        step.inv_std = 1 / np.sqrt(buffers[f"{name}.running_var"] + EPS)
        step.x_hat = (step.z - step.mean) * step.inv_std
    else:
        step.x_hat, step.mean, step.inv_std = normalize(step.z, *NORMALIZATION_AXES[net.normalization])
    return step.x_hat * params[f"{name}.weight"] + params.get(f"{name}.bias", 0)


def updated_buffers(net, buffers, trace):
    """Running statistics after one training pass, as PyTorch: the unbiased variance is kept."""
    new = {}
    for layer in range(net.depth - 1):
        z, n = trace[layer].z, len(trace[layer].z)
        batch = {"running_mean": z.mean(axis=0), "running_var": z.var(axis=0) * n / (n - 1)}
        for kind, value in batch.items():
            name = f"norm{layer}.{kind}"
            new[name] = (1 - MOMENTUM) * buffers[name] + MOMENTUM * value
    return new


def backward(net, params, trace, grad_output):
    """(gradients by name, grad_input); each step of the trace gains grad_h, grad_y and delta."""
    grads, grad = {}, grad_output
    for layer in reversed(range(net.depth)):
        step = trace[layer]
        step.grad_h = grad
        step.grad_y = grad * net.activation(layer).df(step.y)
        step.delta = step.grad_y
        if net.is_normalized(layer):
            step.delta = _normalization_backward(net, layer, params, step, grads)
        grad, grads[f"dense{layer}.weight"], grad_bias = dense_backward(
            step.delta, step.x, params[f"dense{layer}.weight"]
        )
        if net.bias:
            grads[f"dense{layer}.bias"] = grad_bias
        if net.has_skip(layer):
            grad = grad + step.grad_h
    return grads, grad


def _normalization_backward(net, layer, params, step, grads):
    name = f"norm{layer}"
    grads[f"{name}.weight"] = (step.grad_y * step.x_hat).sum(axis=0)
    if f"{name}.bias" in params:
        grads[f"{name}.bias"] = step.grad_y.sum(axis=0)
    grad_x_hat = step.grad_y * params[f"{name}.weight"]
    return normalize_backward(grad_x_hat, step.x_hat, step.inv_std, *NORMALIZATION_AXES[net.normalization])


def loss_and_gradients(net, params, x, target, loss):
    """(loss, gradients by name, trace with deltas) of a training pass."""
    output, trace = forward(net, params, x)
    value, grad_output = LOSSES[loss](output, target)
    grads, _ = backward(net, params, trace, grad_output)
    return value, grads, trace


def kink_margin(net, trace):
    """Smallest distance of any pre-activation to a kink of its activation.

    Within rounding of a kink the derivative is a matter of the last bit; tests keep away from it.
    """
    margins = [
        np.abs(trace[layer].y - kink).min() for layer in range(net.depth - 1) for kink in net.activation(layer).kinks
    ]
    return min(margins, default=math.inf)


# ---- clipping and optimizers (PyTorch's definitions) ------------------------------------------


def total_norm(arrays, norm_type=2.0):
    """p-norm of all arrays as one vector."""
    return float(np.linalg.norm(np.concatenate([np.ravel(a) for a in arrays]), norm_type))


def clip_coefficient(norm, max_norm):
    return min(1.0, max_norm / (norm + 1e-6))


def clip_adaptive(grad, weight, clipping, eps):
    """Rows of grad longer than clipping * max(|row of weight|, eps) are cut to that length."""
    limit = clipping * np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)
    norm = np.linalg.norm(grad, axis=1, keepdims=True)
    return np.where(norm > limit, grad * limit / np.maximum(norm, np.finfo(float).tiny), grad)


def sgd_step(param, grad, state, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """v = momentum v + g (v = g at first); p -= lr v, or lr (g + momentum v) with nesterov."""
    grad = grad + weight_decay * param
    if momentum:
        state["v"] = velocity = momentum * state["v"] + grad if "v" in state else grad
        grad = grad + momentum * velocity if nesterov else velocity
    return param - lr * grad


def rmsprop_step(param, grad, state, *, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    """s = alpha s + (1 - alpha) g^2; p -= lr g / (sqrt(s) + eps), through a velocity with momentum."""
    grad = grad + weight_decay * param
    state["s"] = alpha * state.get("s", 0) + (1 - alpha) * grad**2
    update = grad / (np.sqrt(state["s"]) + eps)
    if momentum:
        state["v"] = update = momentum * state.get("v", 0) + update
    return param - lr * update


def adam_step(param, grad, state, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """m, v: moving means of g and g^2; p -= lr m_hat / (sqrt(v_hat) + eps), both bias-corrected."""
    if decoupled:
        param = param * (1 - lr * weight_decay)
    else:
        grad = grad + weight_decay * param
    state["t"] = t = state.get("t", 0) + 1
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * grad
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * grad**2
    m_hat, v_hat = state["m"] / (1 - betas[0] ** t), state["v"] / (1 - betas[1] ** t)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw_step(param, grad, state, *, weight_decay=0.01, **options):
    return adam_step(param, grad, state, weight_decay=weight_decay, decoupled=True, **options)


OPTIMIZERS = {"SGD": sgd_step, "RMSprop": rmsprop_step, "Adam": adam_step, "AdamW": adamw_step}


# ---- initialization: mean-field constants -----------------------------------------------------


def gaussian_mean(f, points=40000, limit=12.0):
    """E[f(z)], z ~ N(0, 1), by the midpoint rule, whose points avoid the kink at 0: smooth f cost nothing."""
    z = (np.arange(points) + 0.5) * (2 * limit / points) - limit
    return float((f(z) * normal_pdf(z)).sum() * (2 * limit / points))


def chi1(activation, weight_gain2, q):
    """Growth of E|delta|^2 per layer at pre-activation variance q: gain^2 E[act'(sqrt(q) z)^2]."""
    return weight_gain2 * gaussian_mean(lambda z: ACTIVATIONS[activation].df(math.sqrt(q) * z) ** 2)


def next_q(activation, weight_gain2, q):
    """The variance of the following layer's pre-activations: gain^2 E[act(sqrt(q) z)^2]."""
    return weight_gain2 * gaussian_mean(lambda z: ACTIVATIONS[activation].f(math.sqrt(q) * z) ** 2)
