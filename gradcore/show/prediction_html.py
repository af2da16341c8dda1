"""A prediction of the theory as one self-contained HTML page."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from ..analysis.report import Prediction
from . import prediction_text, story
from .html import article, document, layer_table, legend, tile_row
from .svg import Chart, layer_range, log_range


def page(prediction: Prediction) -> str:
    """A complete HTML document."""
    return document(f"Mean-field prediction: {story.net_words(prediction.config)}", render(prediction))


def render(prediction: Prediction) -> str:
    """The prediction as a fragment, for a page or a notebook."""
    parts = [_head(prediction)]
    if prediction.valid:
        parts += [_delta_section(prediction), _profile_section(prediction), _layer_table(prediction)]
    return article(*parts)


def _head(prediction: Prediction) -> str:
    head = (
        '<header><p class="muted">Mean-field prediction, before any data</p>'
        f"<h1>{escape(story.net_words(prediction.config))}</h1></header>"
    )
    if not prediction.valid:
        return f"{head}<p>No prediction: {escape(prediction.note)}.</p>"
    sentences = "".join(f"<p>{story.formulas(sentence)}</p>" for sentence in prediction_text.sentences(prediction))
    return head + _tiles(prediction) + sentences


def _tiles(prediction: Prediction) -> str:
    typical, low, high = (story.number(end) for end in prediction_text.ends(prediction))
    delta = "<i>&delta;</i>"
    tiles = [
        (f"&times; {story.gain(prediction.slope)}", f"|{delta}|<sup>2</sup> per layer"),
        (typical, f"|{delta}| at the first hidden layer, relative to the last; 95% of draws: {low} to {high}"),
    ]
    if math.isfinite(prediction.carried_depth):
        tiles.append((story.number(prediction.carried_depth), "layers until the two ends differ by a factor of 100"))
    return tile_row(tiles)


def _delta_section(prediction: Prediction) -> str:
    keys = (("theory", "typical net, and the band of 95% of random draws"), ("healthy", "healthy at this depth"))
    low, high, middle = story.expected_deltas(prediction)
    cone = story.expected_cone(prediction)
    chart = Chart(layer_range(len(middle)), log_range(low, high, *cone), size=(860, 300),
                  x_label="layer (0 is at the input)")  # fmt: skip
    chart.band(*cone, "healthy")
    chart.band(low, high, "theory-band")
    chart.line(middle, "theory", dots=True)
    label = f"Expected norm of the deltas over depth. {prediction_text.sentences(prediction)[0]}"
    return (
        "<section><h2>Gradients over depth</h2>"
        '<p class="muted">&delta; is the gradient of the loss with respect to a layer&rsquo;s pre-activation, here '
        "relative to that of the output layer.</p>"
        f'{legend(keys)}<div class="scroll wide">{chart.svg(label)}</div></section>'
    )


def _profile_section(prediction: Prediction) -> str:
    figures = []
    for title, values, log in story.expected_profiles(prediction):
        shown = story.log10(values) if log else values
        limits = log_range(shown) if log else (min(0.0, float(np.nanmin(shown))), 1.0)
        chart = Chart(layer_range(len(shown)), limits, log=log)
        if title.startswith("chi"):
            chart.level(0.0, "above it gradients grow, below it they shrink")
        chart.line(shown, "theory", dots=True)
        figures.append(f"<figure><figcaption>{story.formulas(title)}</figcaption>{chart.svg(title)}</figure>")
    return f'<section><h2>What determines it</h2><div class="grid">{"".join(figures)}</div></section>'


def _layer_table(prediction: Prediction) -> str:
    return layer_table(("units", "q", "chi", "|delta|", "from", "to"), prediction_text.layer_cells(prediction))
