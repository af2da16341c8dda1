"""The oracle for what a recorded pass measures: array statistics, rounding to small formats, flow."""

import math
from functools import cache

import numpy as np

# ---- statistics of one array -----------------------------------------------------------------


def array_stats(a):
    """Counts and moments of one array, as gradcore_array_stats; sums run over finite entries.

    Moments are taken of the array divided by its largest entry, so that nothing overflows before the end.
    """
    flat = np.ravel(a)
    finite = flat[np.isfinite(flat)].astype(np.float64)
    max_abs = float(np.abs(finite).max(initial=0.0))
    scale = max_abs if max_abs > 0 else 1.0
    with np.errstate(over="ignore"):  # NumPy 1.26.0 tells of one beside the last entry, where the scale is subnormal
        scaled = finite / scale
    return {
        "count": flat.size,
        "zeros": int((finite == 0).sum()),
        "subnormals": int(((finite != 0) & (np.abs(finite) < np.finfo(flat.dtype).smallest_normal)).sum()),
        "nonfinite": int(flat.size - finite.size),
        "mean": scale * float(scaled.mean()) if finite.size else math.nan,
        "variance": scale * float(scaled.var()) * scale if finite.size else math.nan,
        "norm": scale * float(np.linalg.norm(scaled)),
        "max_abs": max_abs,
    }


def exponent_histogram(a):
    """Counts of floor(log2 |x|) over the finite nonzero entries, one bin for every exponent of the dtype."""
    info = np.finfo(a.dtype)
    lowest = info.minexp - info.nmant
    finite = a[np.isfinite(a) & (a != 0)]
    _, exponents = np.frexp(np.abs(finite))  # x = m 2^e with m in [1/2, 1)
    exponents = exponents.astype(np.int64) - 1
    return np.bincount(exponents - lowest, minlength=info.maxexp - lowest)


def histogram_exponents(dtype):
    info = np.finfo(dtype)
    return np.arange(info.minexp - info.nmant, info.maxexp)


# ---- rounding to small formats, by looking up the nearest value ---------------------------------

# exponent bits, mantissa bits, largest finite value
FORMATS = {
    "fp16": (5, 10, 65504.0),
    "bf16": (8, 7, float.fromhex("0x1.fep127")),
    "e4m3": (4, 3, 448.0),
    "e5m2": (5, 2, 57344.0),
}


@cache
def format_values(name):
    """Every value of the format that is >= 0, and last the one the exponent range does not hold.

    Position in this list is the bit pattern, so an even position is an even mantissa.
    """
    exponent_bits, mantissa_bits, largest = FORMATS[name]
    min_exponent = 2 - 2 ** (exponent_bits - 1)
    patterns = np.arange(2 ** (exponent_bits + mantissa_bits))
    exponent, mantissa = patterns >> mantissa_bits, patterns & (2**mantissa_bits - 1)
    significand = np.where(exponent == 0, 0, 1) + mantissa / 2**mantissa_bits
    values = np.ldexp(significand, min_exponent + np.maximum(exponent, 1) - 1)
    return values[: int(np.searchsorted(values, largest)) + 2]


def round_to_format(a, name):
    """|a| rounded to nearest, ties to even; inf where that leaves the format's range."""
    values = format_values(name)
    magnitude = np.abs(np.asarray(a, dtype=np.float64))
    above = np.clip(np.searchsorted(values, magnitude), 1, len(values) - 1)
    low, high = values[above - 1], values[above]
    middle = low + (high - low) / 2
    goes_up = (magnitude > middle) | ((magnitude == middle) & (above % 2 == 0))
    rounded = np.where(goes_up, high, low)
    return np.where(rounded > FORMATS[name][2], math.inf, rounded)


def range_shares(a, name):
    """(underflow, overflow): shares of the nonzero finite entries that round to 0 or beyond the range."""
    entries = a[np.isfinite(a) & (a != 0)]
    if entries.size == 0:
        return 0.0, 0.0
    rounded = round_to_format(entries, name)
    return float((rounded == 0).mean()), float(np.isinf(rounded).mean())


# ---- gradient flow ---------------------------------------------------------------------------


def _share(mask):
    return float(np.mean(mask))


def _delta_fields(step, delta):
    stats = array_stats(delta)
    return {
        "delta_mean": stats["mean"],
        "delta_var": stats["variance"],
        "delta_max_abs": stats["max_abs"],
        "delta_norm": stats["norm"],
        "delta_zero_share": stats["zeros"] / stats["count"],
        "delta_subnormal_share": stats["subnormals"] / stats["count"],
        "delta_nonfinite_share": stats["nonfinite"] / stats["count"],
        "grad_output_norm": np.linalg.norm(step.grad_h),
        "grad_preact_norm": np.linalg.norm(step.grad_y),
    }


def _activation_fields(net, layer, step):
    stats = array_stats(step.h)
    derivative = net.activation(layer).df(step.y)
    dead = (step.a == 0).all(axis=0) & net.is_hidden(layer)
    return {
        "activation_mean": stats["mean"],
        "activation_var": stats["variance"],
        "activation_max_abs": stats["max_abs"],
        "activation_norm": stats["norm"],
        "activation_nonfinite_share": stats["nonfinite"] / stats["count"],
        "activation_zero_share": _share(step.a == 0),
        "saturated_share": _share(np.abs(derivative) < 0.01 * net.activation(layer).max_df),
        "dead_units": int(dead.sum()),
        "dead_share": _share(dead),
        "mean_squared_derivative": float((derivative**2).mean()),
    }


def _weight_fields(weight, weight_grad, bias_grad):
    return {
        "weight_norm": np.linalg.norm(weight),
        "weight_grad_norm": array_stats(weight_grad)["norm"],
        "weight_grad_max_abs": array_stats(weight_grad)["max_abs"],
        "weight_grad_zero_share": _share(weight_grad == 0),
        "weight_grad_nonfinite_share": _share(~np.isfinite(weight_grad)),
        "bias_grad_norm": 0.0 if bias_grad is None else np.linalg.norm(bias_grad),
    }


def gradient_flow(net, params, trace, grads, dtype):
    """Every per-layer field of gradcore.GradientFlow, as arrays of length net.depth.

    `dtype` is the net's: gradients are rounded to it before entries are counted or binned.
    """
    rows = []
    for layer, step in enumerate(trace):
        delta = step.delta.astype(dtype)
        weight_grad = grads[f"dense{layer}.weight"].astype(dtype)
        rows.append(
            _activation_fields(net, layer, step)
            | _delta_fields(step, delta)
            | _weight_fields(params[f"dense{layer}.weight"], weight_grad, grads.get(f"dense{layer}.bias"))
            | {"delta_histogram": exponent_histogram(delta), "weight_grad_histogram": exponent_histogram(weight_grad)}
        )
    return {field: np.array([row[field] for row in rows]) for field in rows[0]}
