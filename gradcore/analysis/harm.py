"""Whether a gradient that shrinks or grows over depth costs learning with the optimizer in use.

A kind of harm is a name with the number that shows it. Plain SGD suffers from unequal and from lost updates; adaptive
optimizers rescale the gradient, and suffer only where they cannot, or where inputs can no longer be told apart.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..mlp import skip_connections
from .doubt import learned, outpaced
from .measure import Outlook
from .slope import beyond_band
from .subject import Subject

# Kinds of harm that are absolute, and not a difference between layers.
ABSOLUTE = ("update_lost", "share_of_step", "fall_a_step", "steps_to_tell_inputs_apart", "overshoot",
            "loss_over_constant_guess")  # fmt: skip

# Nets leave a plateau up to this many times sooner than `steps_to_escape`, which knows neither biases nor layers out of
# balance: 20 ReLU layers of 64 with LeCun's weights 8 to 70 times, without biases 0.3 to 12 times.
_SOONER = 100.0
# Up to this many weights times rows of a batch, the steps that tell take a few seconds. Larger nets get the estimate.
_AFFORDABLE = 5e7


def harm_of_vanishing(subject: Subject) -> dict[str, float]:
    """The kinds of harm that a shrinking gradient does to learning with the optimizer in use, with their numbers."""
    harm: dict[str, float] = {}
    outlook = subject.measurement.outlook
    if subject.adaptive and not rescaled(subject):
        return {"share_of_step": subject.smallest_adaptive_step}
    if outlook is not None and decay_has_won(subject, outlook):
        return {"share_of_step": outlook.adaptive_step}
    if subject.adaptive:
        if outlook is not None and outpaced(subject, outlook):  # of the same profile, so that it is the rate that harms
            return {}
        needed = steps_to_tell_apart(subject)
        return {"steps_to_tell_inputs_apart": needed} if needed > subject.limits.learning_steps else {}
    speeds = subject.speeds
    learns = outlook is not None and learned(subject, outlook.losses)
    relative = float(speeds.min() / speeds.max()) if speeds.max() > 0.0 else 0.0
    if relative < 1.0 / subject.limits.norm_ratio and not learns:
        harm["weakest_update_over_strongest"] = relative
    if subject.lr == 0.0:
        return harm
    fall = float(subject.relative_fall[:-1].sum())
    if fall < 1.0 / subject.limits.learning_steps and not learns:
        harm["fall_a_step"] = fall
    # If the gradient is all noise, as in a net that has converged, no harm is done: there is nothing to follow.
    lasting = float(subject.lasting_updates.min())
    if subject.has_signal and lasting < subject.unit_roundoff:
        harm["update_lost"] = lasting
    return harm


def harm_of_exploding(subject: Subject) -> dict[str, float]:
    """The kinds of harm that a growing gradient does to learning with the optimizer in use, with their numbers."""
    harm: dict[str, float] = {}
    # A loss this high shows that the growth has reached the output: the net's own scale hides what is to be learned.
    guess = subject.case.constant_loss
    if subject.measurement.loss > subject.limits.diverged * guess > 0.0:
        harm["loss_over_constant_guess"] = subject.measurement.loss / guess
    if subject.overshoot > subject.limits.overshoot:
        harm["overshoot"] = subject.overshoot
    if subject.adaptive:
        return harm
    speeds = subject.speeds[:-1]
    relative = float(speeds.max() / speeds.min()) if speeds.min() > 0.0 else math.inf
    if relative > subject.limits.norm_ratio:
        harm["strongest_update_over_weakest"] = relative
    return harm


def rescaled(subject: Subject) -> bool:
    """Whether an adaptive optimizer makes steps of comparable size in all hidden layers.

    It moves a weight by lr g / (g + eps), where g is the size of the gradient. Down to 1 / norm_ratio of lr, this is
    comparable, as for SGD's updates. Entries of eps / (norm_ratio - 1), a hundredth of eps, suffice for that.
    """
    return subject.adaptive and subject.smallest_adaptive_step >= 1.0 / subject.limits.norm_ratio


def decay_has_won(subject: Subject, outlook: Outlook) -> bool:
    """Whether, after the trial steps, weight decay has left an adaptive optimizer no gradient to follow.

    The decay is added to the gradient, and the sum is rescaled to steps of lr. Where the decay is the larger part, it
    takes the weights of a layer to zero in |w| / lr steps, and the gradients of the layers below, which are multiplied
    by these weights, vanish faster than the decay does. So once the gradient's share of a step is below that of
    `rescaled`, it only falls further, unless the net has learned by then.
    """
    share, steep = outlook.adaptive_step, outlook.slope is not None and beyond_band(outlook.slope) < 0
    lost = subject.adaptive and subject.added_decay > 0.0 and share < 1.0 / subject.limits.norm_ratio
    return lost and steep and not learned(subject, outlook.losses)


def steps_to_tell_apart(subject: Subject) -> float:
    """The number of steps in which an adaptive optimizer makes outputs differ between inputs, if the gradient vanishes.

    All rows then arrive as nearly the same vector m; only a part d of relative size r (`Outlook.difference`) differs.
    Over a batch of B rows, the errors add up to zero, except for 1 / sqrt(B) of one row's error. In the gradient, their
    outer product with m + d, the noise is therefore |m| / sqrt(B), and the signal at most |d|. A step moves each entry
    by lr (with momentum by lr / (1 - momentum)), of which a share r sqrt(B) follows the signal; where eps or weight
    decay take the larger part of the step, that of what is left (`Outlook.adaptive_step`). For n inputs, this is a
    matrix of rank one and size lr n r sqrt(B), which has to reach 1 for the differences to pass.

    0 if the trial steps (`outlook`) have made the profile level, or if there were none.
    """
    outlook = subject.measurement.outlook
    if outlook is None or outlook.slope is None or beyond_band(outlook.slope) >= 0:
        return 0.0
    case = subject.case
    share = min(outlook.difference * math.sqrt(min(case.batch_size, len(case.x))), 1.0)
    step = subject.lr * case.memory * outlook.adaptive_step * subject.records[-1].in_features * share
    return 1.0 / step if step > 0.0 else math.inf


def steps_to_escape(subject: Subject) -> float:
    """The number of steps after which theory expects SGD to leave the plateau of small weights, without biases.

    SGD does not keep the pace of its first steps. dL/dW has low rank; along the path of its signal, a step increases
    the largest singular value s of a layer by a share g = lr |dL/dW| / ((1 - momentum) s), which grows with the weights
    of the other layers. For L layers in balance, s' = c s^(L-1) and g = c s^(L-2), so s leaves all bounds after
    1 / ((L - 2) g) steps (Saxe et al. 2014, arXiv:1312.6120). The layer with the smallest g decides. |dL/dW| is that of
    the mean gradient, without the noise of batches. Its part that comes from an error common to all rows is gone once
    the plateau is reached, so it takes longer. Infinite (unknown) with a normalization or skip connections.
    """
    measurement = subject.measurement
    if measurement.config["normalization"] is not None or skip_connections(measurement.config).any():
        return math.inf
    signal = np.array([record.gradient_signal for record in subject.records])
    signal = np.where(np.isnan(signal), measurement.mean_gradient_norm**2, signal)
    growth = np.sqrt(np.maximum(signal, 0.0)) / subject.largest_singular_values
    slowest = subject.lr * subject.case.memory * float(growth[:-1].min(initial=math.inf))
    return 1.0 / (max(subject.depth - 2, 1) * slowest) if slowest > 0.0 else math.inf


def may_leave_plateau(subject: Subject) -> bool:
    """Whether SGD may leave the plateau early enough for a vanishing gradient to do no harm; only steps can tell."""
    steep = not subject.adaptive and beyond_band(subject.slope) < 0
    weights = sum(low * high for low, high in pairwise(subject.measurement.config["widths"]))
    affordable = weights * subject.measurement.batch_size <= _AFFORDABLE
    latest = subject.limits.plateau_steps * (_SOONER if affordable else 1.0)
    return steep and bool(harm_of_vanishing(subject)) and steps_to_escape(subject) <= latest
