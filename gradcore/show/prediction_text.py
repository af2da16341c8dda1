"""A prediction of the theory as text."""

from __future__ import annotations

import math
import sys

from ..analysis.causes import can_be_level
from ..analysis.report import Prediction
from ..mlp import skip_connections
from . import story
from .text import MAX_LAYERS, Terminal


def render(prediction: Prediction) -> str:
    """The design, the prediction in sentences, and the profile over depth."""
    terminal = Terminal.of(sys.stdout)
    lines = [f"Mean-field prediction of {story.net_words(prediction.config)}"]
    if not prediction.valid:
        return "\n".join([*lines, *terminal.wrap(f"No prediction: {prediction.note}.")])
    return "\n".join([*lines, *terminal.wrap(*sentences(prediction)), *_profile(prediction, terminal)])


def sentences(prediction: Prediction) -> list[str]:
    """The sentences of a prediction, most important first."""
    lines = [_slope_sentence(prediction)]
    if math.isfinite(prediction.carried_depth):
        depth = story.number(prediction.carried_depth, 2)
        lines.append(
            f"Gradient norms at the two ends differ by a factor of 100 after {depth} dense layer"
            f"{'' if depth == '1' else 's'} of this design; it has {len(prediction.chi)}."
        )
    limit = _limit_sentence(prediction)
    return [*lines, *filter(None, [limit, _gain_sentence(prediction), prediction.note])]


def ends(prediction: Prediction) -> tuple[float, float, float]:
    """|delta| at layer 0 over that at the last hidden layer: typical, and the ends of the band of random draws."""
    last = prediction.delta_log[len(prediction.chi) - 2]
    logs = (prediction.delta_log[0], prediction.delta_log_low[0], prediction.delta_log_high[0])
    typical, low, high = (story.exp(0.5 * (log - last)) for log in logs)
    return typical, low, high


def _slope_sentence(prediction: Prediction) -> str:
    typical, low, high = (story.number(end) for end in ends(prediction))
    return (
        f"Towards the input, |delta|^2 is multiplied by {story.gain(prediction.slope)} per layer: the norm at layer 0 "
        f"is {typical} times that at the last hidden layer (95% of random draws: {low} to {high})."
    )


def _limit_sentence(prediction: Prediction) -> str:
    """The limit of large depth, in a sentence."""
    depth_scale, trainable = (story.number(value) for value in (prediction.depth_scale, prediction.trainable_depth))
    normalization = prediction.config["normalization"]
    if normalization is not None:
        batch = f" at {prediction.batch_size} rows per batch" if normalization == "batch" else ""
        text = (
            f"{normalization.capitalize()} norm alone gives a factor of {story.number(prediction.chi_star, 4)}{batch}"
        )
    elif math.isnan(prediction.q_star):
        text = f"Deep layers tend to a factor of {story.number(prediction.chi_star, 4)}"
    else:
        text = f"Deep layers tend to pre-activations of variance q* = {story.number(prediction.q_star, 4)} and to "
        text += f"a factor chi* = {story.number(prediction.chi_star, 4)} on |delta|^2"
    if math.isfinite(prediction.depth_scale):
        text += f": a factor of e every {depth_scale} layers"
    if math.isfinite(prediction.trainable_depth) and normalization is None:
        text += f"; inputs stay distinguishable through about {trainable} layers"
    return text + "."


def _gain_sentence(prediction: Prediction) -> str:
    if prediction.config["normalization"] is not None or skip_connections(prediction.config).any():
        return ""
    if math.isnan(prediction.critical_gain):
        return "No weight scale keeps both signal and gradient level for this activation."
    text = f"chi* = 1 requires weights of standard deviation {story.number(prediction.critical_gain, 4)} / sqrt(fan_in)"
    if not can_be_level(prediction.config["activation"][-1]):
        return text + ", which saturate every unit: this activation suits only shallow nets."
    return text + "."


def _profile(prediction: Prediction, terminal: Terminal) -> list[str]:
    """One row per layer: variance of the pre-activations, factor of the layer, the expected profile and its band."""
    header = f"{'layer':>5}  {'units':>5}  {'q':>9}  {'chi':>9}  {'|delta|':>9}  95% of random draws"
    rows = [terminal.rule("Profile over depth, relative to the output layer"), terminal.style(header, "dim")]
    cells_of_layers = layer_cells(prediction)
    for index in story.elide(len(prediction.chi), MAX_LAYERS):
        if index is None:
            rows.append(terminal.style("       ...", "dim"))
            continue
        units, *cells, low, high = cells_of_layers[index]
        rows.append(f"{index:5}  {units:>5}  {'  '.join(f'{cell:>9}' for cell in cells)}  {low} to {high}")
    return rows


def layer_cells(prediction: Prediction) -> list[list[str]]:
    """Units, q, chi, |delta| and the ends of its band of each dense layer, as text."""
    cells = []
    for index, units in enumerate(prediction.config["widths"][1:]):
        logs = (prediction.delta_log[index], prediction.delta_log_low[index], prediction.delta_log_high[index])
        numbers = (prediction.preact_var[index], prediction.chi[index], *(story.exp(0.5 * log) for log in logs))
        cells.append([str(units), *(story.number(float(value), 3) for value in numbers)])
    return cells
