"""Reports made of plain numbers, for the renderers: any depth, gain and degree of damage, no net needed."""

import math
from types import SimpleNamespace

import numpy as np

from gradcore.analysis.report import (
    Finding,
    GainFactors,
    LayerRecord,
    Outcome,
    Prediction,
    Remedy,
    Report,
    Slope,
)
from gradcore.analysis.subject import Thresholds

FORMATS = ("fp16", "bf16", "e4m3", "e5m2")


def make_report(verdict="vanishing", num_hidden=30, gain=0.0562, activation="sigmoid", tried=True, **changes):
    """A report on a net of `num_hidden` layers of 100 units whose |delta|^2 changes by `gain` a layer."""
    depth = num_hidden + 1
    rng = np.random.default_rng(0)
    steps = np.append(rng.normal(math.log(gain), 0.1, num_hidden), 0.0)
    delta_log = np.cumsum(steps[::-1])[::-1] + math.log(1e-2)
    with np.errstate(over="ignore", under="ignore"):
        delta = np.exp(0.5 * delta_log)
    layers = tuple(_layer(i, depth, float(delta[i]), gain, activation) for i in range(depth))
    report = Report(
        verdict=verdict,
        findings=_findings(verdict, depth),
        layers=layers,
        slope=_slope(gain, num_hidden),
        prediction=_prediction(gain, depth, delta_log),
        config={
            "widths": [64, *[100] * num_hidden, 10],
            "activation": [activation] * num_hidden,
            "normalization": None,
            "residual": False,
            "init": "auto",
            "dtype": "float32",
        },
        conditions={
            "loss": "cross_entropy",
            "optimizer": None,
            "batches": 8,
            "batch_size": 128,
            "interrupted": False,
            "thresholds": Thresholds().to_dict(),
            "rows": 1797,
            "seed": 0,
        },
        loss=2.351,
        tried=_remedies(gain) if tried else (),
        flows=(_flow(delta_log),),
    )
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def _layer(index, depth, delta, gain, activation):
    last = index == depth - 1
    slope = gain / 1.02
    return LayerRecord(
        index=index,
        in_features=64 if index == 0 else 100,
        out_features=10 if last else 100,
        activation=None if last else activation,
        activation_mean=0.0 if last else 0.5,
        activation_var=0.4 if last else 0.012,
        activation_norm=22.0 if last else 57.9,
        activation_max_abs=1.5 if last else 0.83,
        activation_zero_share=0.0,
        activation_nonfinite_share=0.0,
        saturated_share=0.0,
        dead_units=0,
        dead_share=0.0,
        mean_squared_derivative=1.0 if last else slope,
        delta_norm=delta,
        delta_max_abs=0.1 * delta,
        delta_zero_share=0.0,
        delta_subnormal_share=0.0,
        delta_nonfinite_share=0.0,
        grad_output_norm=delta,
        weight_norm=10.0,
        weight_grad_norm=0.5 * delta,
        bias_grad_norm=0.1 * delta,
        weight_grad_nonfinite_share=0.0,
        update_ratio=0.005 * delta,
        gradient_signal=0.2 * delta**2,
        gradient_noise=0.05 * delta**2,
        signal_to_noise=4.0,
        delta_gain=math.nan if last else gain,
        factors=None if last else GainFactors(1.01, 1.02, 1.0, slope, 0.99, 1.0),
        underflow=dict(zip(FORMATS, (1.0, 0.2, 1.0, 1.0), strict=True)),
    )


def _findings(verdict, depth):
    if verdict == "healthy":
        return ()
    return (
        Finding(
            verdict,
            "critical",
            tuple(range(depth - 4)),
            "saturating_activation",
            "The derivative of this activation is at most 1/4, so every layer takes most of the gradient "
            "away whatever the weights are. Under plain SGD the first layers do not move.",
            {"slope": -2.88, "per_layer": 0.0562, "update_ratio": 1.3e-24},
        ),
        Finding(
            "underflow",
            "info",
            (0, 1, 2, 5, 6),
            "precision",
            "In half precision these deltas would be zero <b>&</b>.",
            {"format": "fp16", "share": 1.0},
        ),
    )


def _slope(gain, num_hidden):
    value = math.log(gain)
    band = 4.0 / max(num_hidden, 1)
    low, high = value - 0.08, value + 0.09
    return Slope(value, low, high, value, low, high, 0.02, 0.03, -band, band, num_hidden)


def _prediction(gain, depth, measured):
    log = math.log(0.99 * gain) * np.arange(depth - 1, -1, -1.0)
    width = 0.2 * np.sqrt(np.arange(depth - 1, -1, -1.0))
    return Prediction(
        preact_var=np.full(depth, 0.26),
        chi=np.full(depth, 0.99 * gain),
        delta_log=log,
        delta_log_low=log - 2 * width,
        delta_log_high=log + 2 * width,
        measured_log=measured - measured[-1],
        departs=(),
        q_star=0.2647,
        chi_star=0.0557,
        depth_scale=0.346,
        trainable_depth=2.1,
        critical_gain=4.2,
        slope=math.log(0.99 * gain),
    )


def _remedies(gain):
    before = Outcome("vanishing", math.log(gain), 2.35, 2.31, 0.101)
    return (
        Remedy(
            "batch norm before each activation",
            {"normalization": "batch"},
            "restores the scale of every layer",
            before,
            Outcome("healthy", 0.033, 2.4, 0.21, 0.962),
            0.909,
            (0.88, 0.93),
            True,
            {"time_per_step": 1.31, "parameters": 1.02},
            "On its own it lets gradients grow with depth.",
        ),
        Remedy(
            "relu with he_normal",
            {"activation": "relu", "init": "he_normal"},
            "its derivative is 1 where a unit is active",
            before,
            Outcome("healthy", -0.012, 2.5, 0.32, 0.941),
            0.861,
            (0.80, 0.91),
            True,
            {"time_per_step": 0.92, "parameters": 1.0},
        ),
        Remedy(
            "gradient clipping at norm 1",
            {"training": {"clip_norm": 1.0}},
            "bounds the step",
            before,
            Outcome("vanishing", math.log(gain), 2.35, 2.31, 0.101),
            0.0,
            (-0.01, 0.01),
            False,
            {"time_per_step": 1.01, "parameters": 1.0},
            "Clipping never changes the slope.",
        ),
    )


def _flow(delta_log):
    exponents = np.arange(-149, 128)
    centre = delta_log / (2 * math.log(2)) - 8
    weights = np.exp(-0.5 * ((exponents[None, :] - centre[:, None]) / 2.0) ** 2)
    return SimpleNamespace(exponents=exponents, delta_histogram=(1000 * weights).astype(np.int64))


def healthy():
    """A net whose deltas keep their size."""
    return make_report("healthy", gain=0.99, activation="relu", tried=False)


def broken():
    """Activations that overflow half way: NaN deltas below, no slope, nothing to predict."""
    report = make_report("non_finite", num_hidden=12, gain=4.0, activation="relu", tried=False)
    nan = math.nan
    damage = {"factors": None, "activation_nonfinite_share": 1.0, "delta_nonfinite_share": 0.5}
    numbers = ("activation_mean", "activation_var", "delta_norm", "weight_grad_norm", "update_ratio")
    layers = [
        layer if layer.index < 6 else LayerRecord(**{**vars(layer), **dict.fromkeys(numbers, nan), **damage})
        for layer in report.layers
    ]
    layers[5] = LayerRecord(**{**vars(layers[5]), "activation_var": math.inf, "delta_norm": math.inf})
    report.layers = tuple(layers)
    report.slope = Slope(nan, nan, nan, nan, nan, nan, nan, nan, -0.3, 0.3, 12)
    note = "The forward pass overflows."
    report.prediction = Prediction(**{**vars(report.prediction), "valid": False, "note": note})
    return report


CASES = {
    "vanishing": make_report,
    "exploding": lambda: make_report("exploding", gain=2.4, activation="relu"),
    "healthy": healthy,
    "non_finite": broken,
    "shallow": lambda: make_report("healthy", num_hidden=1, gain=0.9, tried=False),
    "very deep": lambda: make_report("vanishing", num_hidden=400, gain=0.2),
}
