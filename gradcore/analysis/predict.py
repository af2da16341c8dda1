"""The profile that mean-field theory expects for one net: `mean_field` applied layer by layer.

delta_l is the gradient with respect to the pre-activations z_l of dense layer l, G_l the one with respect to its output
h_l. On average over random weights,

    |G_l|^2     = weight_var_{l+1} |delta_{l+1}|^2   (+ |G_{l+1}|^2 where block l + 1 has a skip connection)   (P.1)
    |delta_l|^2 = |G_l|^2 E[phi'^2] / Var z_l        (the variance only with normalization)                    (P.2)

(P.1) assumes that the gradient is independent of the weights it passes through. Skip connections without normalization
break this for activations with a non-zero mean: the residual stream and the gradient align (for ReLU, G.h is the same
in all layers), and gradients grow faster: for 30 residual ReLU layers of 128 units by e^27 instead of e^20.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _check
from ..init import CRITICAL_GAIN_SQUARED
from ..init import check as check_init
from ..mlp import MLP, skip_connections
from . import mean_field as theory
from .arithmetic import GAUSS_95, TINY, bounded_exp, harmless
from .propagation import NEIGHBOUR_COSINE
from .report import Prediction


def layer_scales(net: Any) -> tuple[np.ndarray, np.ndarray]:
    """weight_var = fan_in * mean(W^2) and bias_var = mean(b^2) of each dense layer, from the current parameters."""
    weight_var, bias_var = [], []
    for layer in range(net.depth):
        weight = np.asarray(net.parameters[f"dense{layer}.weight"], dtype=np.float64)
        weight_var.append(weight.shape[1] * float(np.mean(weight**2)))
        bias = net.parameters[f"dense{layer}.bias"] if net.config["bias"] else 0.0
        bias_var.append(float(np.mean(np.asarray(bias, dtype=np.float64) ** 2)))
    return np.array(weight_var), np.array(bias_var)


def scheme_scales(config: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """weight_var and bias_var of each dense layer, by the formula of `config["init"]`.

    If the initializer is a function, a net is built and its weights are measured.
    """
    widths, scheme = np.array(config["widths"], dtype=np.float64), config["init"]
    if callable(scheme):
        return layer_scales(MLP(**config))
    fan_in, fan_out = widths[:-1], widths[1:]
    gains = np.array([CRITICAL_GAIN_SQUARED[name] for name in [*config["activation"], "identity"]])
    family = scheme.split("_")[0]
    weight_var = {
        "glorot": 2.0 * fan_in / (fan_in + fan_out),
        "he": np.full(len(gains), 2.0),
        "lecun": np.ones(len(gains)),
        "orthogonal": gains * np.minimum(1.0, fan_in / fan_out),  # |Q|_F^2 is the smaller of the two widths
        "auto": gains,
    }[family]
    return weight_var, np.zeros(len(gains))


def predict(
    design: Any,
    *,
    activation: str | Sequence[str] | None = None,
    normalization: str | None = None,
    residual: bool | None = None,
    init: Any = None,
    weight_var: float | None = None,
    bias_var: float | None = None,
    batch_size: int = 128,
    input_square: float = 1.0,
) -> Prediction:
    """What mean-field theory expects of a net's gradients, without data or training.

        print(gc.predict([64] + [100] * 30 + [10], activation="sigmoid"))
        gc.predict(net).slope                                   # with the current weights of `net`

    Args:
        design: a gradcore.MLP with its current weights, or widths [in, hidden..., out].
        activation, normalization, residual, init: as for `gc.MLP`, with its defaults; only with widths.
        weight_var: variance of the weights times fan_in, for every layer; default: the design's own.
        bias_var: variance of the biases; default: the design's own, 0 for widths.
        batch_size: rows per batch; only batch norm depends on it, and there is no theory for it below four rows.
        input_square: mean square of the inputs; 1 for standardized inputs.

    Returns:
        A Prediction, per layer and for the limit of infinite depth. `print` shows it; `measured_log` is NaN.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    options = {"activation": activation, "normalization": normalization, "residual": residual, "init": init}
    config, weights, biases = _scales_of(design, {name: value for name, value in options.items() if value is not None})
    if weight_var is not None:
        weights = np.full(len(weights), _check.positive(weight_var, "weight_var"))
        config |= {"init": None, "weight_var": float(weight_var)}
    if bias_var is not None:
        biases = np.full(len(biases), _check.non_negative(bias_var, "bias_var"))
        config |= {"bias_var": float(bias_var)}
    if config["normalization"] == "batch":
        _check.integer(batch_size, "batch_size, for batch norm", 2)
    return expected_profile(
        config,
        weights,
        biases,
        input_square=_check.positive(input_square, "input_square"),
        batch_size=_check.integer(batch_size, "batch_size", 1),
    )


def _scales_of(design: Any, options: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The config of a net or of widths with options, and the scales of its weights and biases."""
    if isinstance(design, MLP):
        if options:
            raise TypeError(f"{next(iter(options))}: expected only with widths, got it beside a net, which has its own")
        return design.config, *layer_scales(design)
    widths = _check.widths(design, "design", "a gradcore.MLP or widths [in, hidden..., out]")
    scheme = options.get("init", "auto")
    check_init(scheme)
    normalization = options.get("normalization")
    _check.choice(normalization, "normalization", _check.NORMALIZATIONS)
    config = {
        "widths": widths,
        "activation": _check.activations(options.get("activation", "relu"), len(widths) - 2),
        "normalization": normalization,
        "residual": _check.flag(options.get("residual", False), "residual"),
        "init": scheme,
    }
    return config, *scheme_scales(config)


@harmless
def expected_profile(
    config: Mapping[str, Any],
    weight_var: Sequence[float] | np.ndarray,
    bias_var: Sequence[float] | np.ndarray,
    *,
    input_square: float = 1.0,
    batch_size: int = 128,
    measured_log: np.ndarray | None = None,
) -> Prediction:
    """The prediction for a config and given scales of weights and biases, with a measured profile beside it.

    Args:
        config: `net.config`: widths, activation (a list, one a hidden layer), normalization, residual.
        weight_var, bias_var: of each dense layer, as `layer_scales` gives them.
        input_square: mean square of the inputs.
        batch_size: rows of a batch; matters to batch norm alone.
        measured_log: ln |delta_l|^2 relative to the output layer, [depth], to lay beside.
    """
    stack = _Stack(config, np.nan_to_num(weight_var, nan=0.0), np.nan_to_num(bias_var, nan=0.0), batch_size)
    stack.forward(min(input_square, 1e24))
    stack.backward()
    band = GAUSS_95 * np.sqrt(stack.spread)
    low, high = stack.delta_log - band, stack.delta_log - stack.drift + band
    measured = np.full(stack.depth, np.nan) if measured_log is None else np.asarray(measured_log, dtype=np.float64)
    margin = 0.5 + 0.05 * np.abs(stack.delta_log)  # allows for the theory's own approximations: 5 % of the change
    finite = np.isfinite(weight_var).all() and np.isfinite(bias_var).all()
    limit = _deep_limit(stack) if finite else _no_theory("the weights are not finite")
    outside = (measured < low - margin) | (measured > high + margin)
    departs = np.flatnonzero(outside & limit.get("valid", True))
    return Prediction(
        preact_var=stack.q,
        chi=stack.chi,
        delta_log=stack.delta_log,
        delta_log_low=low,
        delta_log_high=high,
        measured_log=measured,
        departs=tuple(int(layer) for layer in departs),
        correlation=stack.correlation,
        config=dict(config),
        batch_size=batch_size,
        **limit,
    )


class _Stack:
    """The forward and backward recursions over the layers of one net; arrays have one entry per dense layer."""

    def __init__(self, config: Mapping[str, Any], weight_var: np.ndarray, bias_var: np.ndarray, batch_size: int):
        self.widths = list(config["widths"])
        self.activations = list(config["activation"])
        self.normalization = config["normalization"]
        self.skips = skip_connections(config)
        self.depth = len(self.widths) - 1
        self.weight_var, self.bias_var, self.batch_size = weight_var, bias_var, batch_size
        self.q = np.ones(self.depth)  # variance of the argument of each activation
        self.preact_square = np.ones(self.depth)  # of z, before normalization
        self.chi = np.full(self.depth, np.nan)
        self.correlation = np.full(self.depth, np.nan)  # of the activations' arguments for two neighbouring inputs
        # typical value and variance, over draws of the weights, of ln |delta_l|^2 relative to the output layer
        self.delta_log, self.spread = np.zeros(self.depth), np.zeros(self.depth)
        self.drift = np.zeros(self.depth)  # typical value minus logarithm of the mean, at most 0; delta_log contains it

    def forward(self, square: float) -> None:
        """Apply (M.1) and (M.3) from the input on. square: mean square of the inputs.

        Beside the mean square of each layer's input, its mean and the mean product for two neighbouring inputs are
        followed; a skip connection adds those of the stream and of the branch.
        """
        mean, product = 0.0, NEIGHBOUR_COSINE * square
        for layer in range(self.depth):
            centred = square - mean**2 if self.normalization == "batch" else square
            self.preact_square[layer] = min(self.weight_var[layer] * centred, 1e24)
            if layer == self.depth - 1 or self.normalization is None:
                self.q[layer] = min(self.weight_var[layer] * square + self.bias_var[layer], 1e24)
            whole = self.weight_var[layer] * square + self.bias_var[layer]
            if self.normalization != "batch" and 0.0 < whole < 1e24:
                self.correlation[layer] = (self.weight_var[layer] * product + self.bias_var[layer]) / whole
            if layer == self.depth - 1:
                break
            branch_mean = theory.activation_mean(self.activations[layer], self.q[layer])
            branch = theory.activation_square(self.activations[layer], self.q[layer])
            shared = theory.activation_product(self.activations[layer], self.correlation[layer], self.q[layer])
            if self.skips[layer]:
                cross = 2.0 * mean * branch_mean
                square, product, mean = square + cross + branch, product + cross + shared, mean + branch_mean
            else:
                square, product, mean = branch, shared, branch_mean

    def backward(self) -> None:
        """Apply (P.1) and (P.2) from the output down, and add up the noise of finite width."""
        delta, stream = 0.0, 0.0  # ln of the means of |delta|^2 and of |G|^2 in the layer above
        spread, drift = 0.0, 0.0
        weight_log = np.log(np.maximum(self.weight_var, TINY))
        for layer in range(self.depth - 2, -1, -1):
            branch = weight_log[layer + 1] + delta
            stream = float(np.logaddexp(branch, stream)) if self.skips[layer + 1] else branch
            share = math.exp(branch - stream)
            local = self._local_log(layer)
            delta = stream + local
            self.chi[layer] = bounded_exp(weight_log[layer] + local)
            step = self._step_noise(layer, share)
            spread, drift = spread + step, drift - 0.5 * step * self._common(layer)
            self.delta_log[layer], self.spread[layer], self.drift[layer] = delta + drift, spread, drift

    def _step_noise(self, layer: int, share: float) -> float:
        """Variance that finite width adds to ln |delta|^2 in one layer; share: of the branch in |G|^2.

        The branch's own noise is (M.6); its random sign relative to the skip adds 4 share (1 - share) / n. This is the
        noise for one row; a batch whose rows differ has less.
        """
        width = self.widths[layer + 1]
        noise = theory.width_noise(self.activations[layer], self.q[layer], width)
        return float(share**2 * noise + 4.0 * share * (1.0 - share) / width)

    def _common(self, layer: int) -> float:
        """Share of the variance of `_step_noise` that is left in |delta|^2 of a whole batch; 1 without batch norm.

        Batch norm makes the B rows of a batch nearly orthogonal, so that |delta|^2 is a mean over independent
        directions. Their effective number is (sum s)^2 / sum s^2 = n B / (n + B), with s the squared singular values of
        a Gaussian matrix [B, n].
        """
        share = 1.0 / self.widths[layer + 1] + 1.0 / self.batch_size
        return min(share, 1.0) if self.normalization == "batch" else 1.0

    def _local_log(self, layer: int) -> float:
        """ln of |delta|^2 / |G|^2 by (P.2); with batch norm, corrected for a batch of finite size."""
        slope = theory.derivative_moment(self.activations[layer], self.q[layer])
        factor = math.log(max(slope, TINY))
        if self.normalization is not None:
            factor -= math.log(max(self.preact_square[layer], TINY))
        if self.normalization == "batch" and self.batch_size > 3:
            factor += math.log(theory.finite_batch_factor(self.batch_size))
        return factor


def _deep_limit(stack: _Stack) -> dict[str, Any]:
    """The fields of a Prediction for the limit of infinite depth: if the deepest hidden layer repeated for ever.

    `slope` and `carried_depth` are those of the layers that are there.
    """
    hidden = stack.depth - 1
    if hidden < 2:
        return _no_theory("with fewer than two hidden layers there is no slope over depth")
    if stack.normalization == "batch" and math.isinf(theory.finite_batch_factor(stack.batch_size)):
        return _no_theory(
            f"the variance of {stack.batch_size} rows can be so close to zero by chance that the growth of the "
            "gradient under batch norm has no mean; it takes at least four rows per batch"
        )
    name, weight_var = stack.activations[-1], float(stack.weight_var[hidden - 1])
    slope = float((stack.delta_log[0] - stack.delta_log[hidden - 1]) / (hidden - 1))
    # What chance takes per layer on the typical draw, at least 0. The slope contains it; the depth carried does not.
    chance = float(stack.drift[hidden - 1] - stack.drift[0]) / (hidden - 1)
    if stack.skips.any():
        q_star, chi_star = math.nan, bounded_exp(slope)
        scale = theory.depth_scale(chi_star)
    elif stack.normalization is not None:
        batch = stack.normalization == "batch"
        q_star = 1.0
        chi_star = theory.batch_norm_growth(name, stack.batch_size) if batch else theory.layer_norm_growth(name)
        scale = theory.depth_scale(chi_star)
    else:
        bias_var = float(stack.bias_var[hidden - 1])
        q_star = theory.fixed_point(name, weight_var, bias_var, max(float(stack.q[hidden - 1]), 1e-9))
        chi_star = theory.chi(name, q_star, weight_var)
        scale = theory.correlation_scale(name, q_star, weight_var, bias_var)
    return {
        "q_star": q_star,
        "chi_star": chi_star,
        "depth_scale": theory.depth_scale(chi_star),
        "trainable_depth": theory.TRAINABLE_SCALES * scale,
        "critical_gain": _critical_gain(stack, name, float(stack.bias_var[hidden - 1])),
        "carried_depth": theory.carried_depth(bounded_exp(slope + chance)),
        "slope": slope,
    }


def _no_theory(why: str) -> dict[str, Any]:
    """The same fields for a design that no theory covers, with the reason."""
    return {
        **dict.fromkeys(("q_star", "chi_star", "critical_gain", "slope"), math.nan),
        **dict.fromkeys(("depth_scale", "trainable_depth", "carried_depth"), math.inf),
        "valid": False,
        "note": why,
    }


def _critical_gain(stack: _Stack, activation: str, bias_var: float) -> float:
    """The gain, std of weights * sqrt(fan_in), for which chi is 1; NaN if there is none.

    It is NaN also with normalization or skip connections, where chi does not depend on the weights alone.
    """
    if stack.normalization is not None or stack.skips.any():
        return math.nan
    return math.sqrt(theory.level_weight_var(activation, bias_var))


def extra_growth(net: MLP, few: int, batch_size: int) -> float:
    """The gradient's norm in the first layer for a batch of `few` rows, over that for `batch_size`; 1 if not fewer.

    Mean-field theory: in the backward pass every batch norm but the last multiplies |delta|^2 by a factor that grows
    without bound for few rows, (B - 2) / (B - 3). Skip connections bypass it.
    """
    if net.normalization != "batch" or not 1 < few < batch_size or skip_connections(net.config).any():
        return 1.0
    growth = 0.0
    for activation in net.activations[:-1]:
        growth += math.log(theory.batch_norm_growth(activation, few)) - math.log(
            theory.batch_norm_growth(activation, batch_size)
        )
    return bounded_exp(0.5 * growth) if math.isfinite(growth) else math.inf
