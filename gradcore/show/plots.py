"""A report as a matplotlib figure (extra `plot`). matplotlib is imported when a figure is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import _check
from ..analysis.report import GainFactors, Prediction, Report
from ..analysis.training_report import TrainingReport
from . import remedy_story, story

_BLUE, _GOLD, GREEN, RED, _GREY = "#1d5fc4", "#8a6d1d", "#17794a", "#bb2b33", "#5a6472"


def plot(report: Report) -> Any:
    """A matplotlib Figure of six panels: the three profiles, the gain factors, the exponents, the remedies.

    It is attached to no window and no global state: show it in a notebook or call its `savefig`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = new_figure(13, 7.6)
    axes = figure.subplots(2, 3)
    figure.suptitle(f"{story.title(report)}: {story.net_words(report.config)}", fontweight="bold")
    _deltas(axes[0, 0], report)
    profiles = story.profiles(report)
    _profile(axes[0, 1], profiles["activation"], "activations, root mean square")
    _profile(axes[0, 2], profiles["weight gradient"], "weight gradients, norm")
    _factors(axes[1, 0], report)
    _exponents(axes[1, 1], report)
    _remedies(axes[1, 2], report)
    _finish(axes.flat)
    return figure


def plot_training(report: TrainingReport) -> Any:
    """A matplotlib Figure of a monitored training: the profiles as maps of layer and check, and the loss.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from .training import MAPS, map_range, map_values, title

    figure = new_figure(11, 2.3 * (len(MAPS) + 1))
    axes = figure.subplots(len(MAPS) + 1, 1, sharex=True)
    figure.suptitle(f"{title(report)}: {story.net_words(report.config)}", fontweight="bold")
    steps = report.history["step"]
    for ax, (name, words) in zip(axes, MAPS.items(), strict=False):
        ax.set(title=words, ylabel="layer")
        values = map_values(report, name)
        if len(values):
            ax.set_facecolor(RED)  # shows through where a value is zero or not finite
            image = ax.imshow(values.T, origin="lower", aspect="auto", cmap="Blues", interpolation="nearest")
            image.set_clim(*map_range(values))
            figure.colorbar(image, ax=ax, label="log10", pad=0.01)
    axes[-1].plot(story.log10(report.history["loss"]), ".-", color=_BLUE)
    ticks = np.unique(np.linspace(0, max(len(steps) - 1, 0), 8).round().astype(int))[: len(steps)]
    axes[-1].set(title="loss", ylabel="log10", xlabel="step of the check")
    axes[-1].set_xticks(ticks, [f"{steps[tick]:.0f}" for tick in ticks])
    for finding in report.findings:
        for ax in axes:
            ax.axvline(float(np.searchsorted(steps, finding.since)) - 0.5, color=RED, ls="--", lw=1)
    return figure


def plot_prediction(prediction: Prediction) -> Any:
    """A matplotlib Figure of a prediction: the deltas over depth with their band, and the quantities behind them.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no theory covers the design.
    """
    if not prediction.valid:
        raise ValueError(f"there is nothing to plot: {prediction.note}")
    profiles = story.expected_profiles(prediction)
    figure = new_figure(12, 6.4)
    grid = figure.add_gridspec(2, len(profiles))
    figure.suptitle(f"Mean-field prediction: {story.net_words(prediction.config)}", fontweight="bold")
    axes = [figure.add_subplot(grid[0, :])]
    low, high, middle = story.expected_deltas(prediction)
    layers = np.arange(len(middle))
    axes[0].fill_between(layers, *story.expected_cone(prediction), color=GREEN, alpha=0.18, lw=0,
                         label="healthy at this depth")  # fmt: skip
    axes[0].fill_between(layers, low, high, color=_GOLD, alpha=0.2, lw=0, label="95% of random draws")
    axes[0].plot(layers, middle, ".-", color=_GOLD, label="typical net")
    axes[0].set(title="deltas relative to the output layer, norm", xlabel="layer (0 is at the input)", ylabel="log10")
    axes[0].legend(frameon=False, fontsize=8)
    _whole_layers(axes[0])
    for column, (title, values, log) in enumerate(profiles):
        ax = figure.add_subplot(grid[1, column])
        ax.plot(layers, story.log10(values) if log else values, ".-", color=_GOLD)
        _whole_layers(ax)
        ax.set(title=title.replace("|delta|^2", "|delta|$^2$"), xlabel="layer", ylabel="log10" if log else "")
        if title.startswith("chi"):
            ax.axhline(0, color=_GREY, lw=0.8)
        if log:
            _two_decades(ax)
        else:
            ax.set_ylim(min(0.0, float(np.nanmin(values))), 1.03)
        axes.append(ax)
    _finish(axes)
    return figure


def _two_decades(ax: Any) -> None:
    """Widen a logarithmic y axis to at least two decades, so that a flat profile looks flat."""
    low, high = ax.get_ylim()
    if high - low < 2.0:
        ax.set_ylim((low + high) / 2 - 1.0, (low + high) / 2 + 1.0)


def _whole_layers(ax: Any) -> None:
    """Put ticks at whole layers only; the axis of a shallow net would show a layer 0.5."""
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def new_figure(width: float, height: float) -> Any:
    """A Figure without axes, its size in inches."""
    matplotlib = _check.optional("matplotlib.figure", "plot", "plots")
    return matplotlib.Figure(figsize=(width, height), layout="constrained")


def _finish(axes: Iterable[Any]) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(11)


def _deltas(ax: Any, report: Report) -> None:
    values = story.profiles(report)["delta"]
    layers = np.arange(len(values))
    low, high, middle = story.predicted_deltas(report)
    cone_low, cone_high = story.healthy_cone(report)
    if np.isfinite(cone_low).sum() > 1:
        ax.fill_between(layers, cone_low, cone_high, color=GREEN, alpha=0.18, lw=0, label="healthy at this depth")
    if report.prediction.valid:
        ax.fill_between(layers, low, high, color=_GOLD, alpha=0.2, lw=0)
        ax.plot(layers, middle, "--", color=_GOLD, lw=1.3, label="mean-field theory, 95% band")
    _profile(ax, values, "deltas, norm")
    ax.legend(frameon=False, fontsize=8)


def _profile(ax: Any, values: np.ndarray, title: str) -> None:
    """A profile on a log axis; NaN and infinity are marked at its upper edge, 0 at its lower one."""
    layers = np.arange(len(values))
    ax.plot(layers, story.log10(values), ".-", color=_BLUE, label="measured", zorder=3)
    for mark, words, height, where in (("x", "NaN or infinite", 0.98, ~np.isfinite(values)),
                                       ("$0$", "exactly 0", 0.03, values == 0)):  # fmt: skip
        if where.any():
            edge = np.full(where.sum(), height)
            ax.plot(layers[where], edge, ls="", marker=mark, color=RED, label=words, transform=ax.get_xaxis_transform())
    _two_decades(ax)
    _whole_layers(ax)
    ax.set(title=title, xlabel="layer (0 is at the input)", ylabel="log10")


def _factors(ax: Any, report: Report) -> None:
    ax.set_title("factors of the gain of |delta|$^2$")
    layers = [layer for layer in report.layers if layer.factors is not None]
    names = story.mean_factors(report)
    if not names:
        _say(ax, "no gain between layers to split")
        return
    for name in names:
        values = np.array([getattr(layer.factors, name) for layer in layers], np.float64)
        ax.plot(
            [layer.index for layer in layers],
            story.log10(values),
            ".-",
            ms=4,
            lw=1,
            label=story.FACTORS[name],
        )
    gains = np.array([GainFactors.product(layer.factors) for layer in layers if layer.factors])
    ax.plot([layer.index for layer in layers], story.log10(gains), color="black", lw=1.8, label="together")
    ax.axhline(0, color=_GREY, lw=0.8)
    _whole_layers(ax)
    ax.set(xlabel="layer", ylabel="log10")
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.5 * (top - bottom))  # room for the legend, which would cover lines elsewhere
    ax.legend(frameon=False, fontsize=7, loc="upper right")


def _exponents(ax: Any, report: Report) -> None:
    ax.set_title("size of the single deltas, by power of two")
    histogram = story.delta_histogram(report)
    if histogram is None:
        _say(ax, "no raw flows in this report")
        return
    exponents, counts = histogram
    used = np.flatnonzero(counts.sum(axis=0) > 1e-3 * counts.sum())  # single outliers would stretch the axis
    if len(used) == 0:
        _say(ax, "every delta is zero or not finite")
        return
    first, last = used[0], used[-1] + 1
    shares = counts[:, first:last] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(
        np.where(shares > 0, shares, np.nan).T,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0,
        extent=(-0.5, len(counts) - 0.5, exponents[first], exponents[last - 1] + 1),
    )
    ax.figure.colorbar(image, ax=ax, label="share of the layer", pad=0.01)
    for name, exponent in story.FLUSH_EXPONENTS.items():
        if exponents[first] < exponent <= exponents[last - 1] + 1:
            ax.axhline(exponent, color=RED, ls=":", lw=1)
            inwards = "top" if 2 * exponent > exponents[first] + exponents[last - 1] + 1 else "bottom"
            ax.text(-0.3, exponent, f" zero in {name}", color=RED, fontsize=7, va=inwards)
    _whole_layers(ax)
    ax.set(xlabel="layer", ylabel="log2 of the size")


def _remedies(ax: Any, report: Report) -> None:
    interrupted = ", interrupted" if report.trials_stopped_by == "interrupt" else ""
    ax.set_title(f"remedies: {remedy_story.held_out(report)}loss{interrupted}")
    helped, failed = remedy_story.split(report)
    tried = [remedy for remedy in [*helped, *failed] if remedy.before and remedy.after]
    if not tried:
        _say(ax, "none tried: call report.remedies()")
        return
    for row, remedy in enumerate(reversed(tried)):
        assert remedy.before is not None
        assert remedy.after is not None
        color = GREEN if remedy.helps else _GREY
        ax.plot([remedy.before.loss, remedy.after.loss], [row, row], color=color, lw=1.5)
        ax.plot(remedy.before.loss, row, "o", mfc="white", mec=color)
        ax.plot(remedy.after.loss, row, "o", color=color)
        name = f"{remedy.name} ({story.gain(remedy.after.slope)})"
        ax.text(0.02, row + 0.15, name, transform=ax.get_yaxis_transform(), fontsize=8, color=color)
    ax.set_yticks([])
    ax.set(xlabel="loss (in brackets: gain of |delta|$^2$ per layer)", ylim=(-0.6, len(tried) - 0.4))


def _say(ax: Any, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=_GREY)
    ax.set_axis_off()
