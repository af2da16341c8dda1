"""What is true of a held-out design, without gradcore's analysis: from float64 and from training it.

Three independent pieces of evidence:

profile   ln of the ratio of gradient norms, first to last hidden layer, from the NumPy reference in float64. The
          gradient is dL/dz; with skip connections it is dL/dh, which is what they pass on. For an untrained design:
          mean and standard error over DRAWS draws of the weights. For a net that has been trained: mean over as many
          batches; its error is the standard deviation over fresh draws, because one narrow net may be an unlucky draw.
training  progress of STEPS steps relative to a control of two hidden ReLU layers under Adam on standardized data:
          (no-skill loss - loss reached) / (no-skill loss - control's loss), where the no-skill loss is that of the
          best constant output. With the design's own optimizer or, without one, the best of RATES for plain SGD.
range     whether a number of the float64 pass lies beyond what the design's dtype holds.

The truth:

non_finite   a number exceeds ten times the dtype's range, or a parameter is not finite.
vanishing    the norm falls by more than SICK over depth, by two standard errors, and training fails.
exploding    the norm grows by more than SICK in the same sense, and training fails; or the loss rises DIVERGED-fold
             within SHORT steps of its own optimizer, or such a step is larger than the weights of some layer, and
             training fails.
healthy      the norm changes by less than SOUND, and training learns.
All other designs have no verdict and are left out: a change between SOUND and SICK; a level profile that does not
train; a steep profile, or a loss that jumps, that does; a profile that both rises and falls by more than SICK, or falls
while steps are too large; a control that does not learn.

Causes are found by intervention: a cause is right if undoing it alone makes the profile level, or the training learn.
"""

import math
from dataclasses import dataclass

import numpy as np

import gradcore as gc
import reference
import zoo_held_out as held_out

DRAWS = 5
PROFILE_ROWS = 64
STEPS = 200
RATES = (0.02, 0.1, 0.5)
# Gradient norms over depth: three times what the analysis calls the limit of health, and a third of it.
SICK, SOUND = math.log(300.0), math.log(33.0)
LEARNS, FAILS = 2 / 3, 1 / 3
SHORT, DIVERGED = 8, 100.0
# An adaptive optimizer may cross the plateau of a steep profile in time: only after so many steps has it failed.
PATIENCE = 5000
# The control must do better than the best constant by this share of its loss, or it is no measure.
CONTROL_GAIN = 0.3
# Multiples of the critical variance tried: where nothing is level for ever, a little more carries further.
WEIGHT_SCALES = (1.0, 0.8, 1.1, 1.25)
# Growth a layer of squared norm that only depth makes a trouble of.
MILD = math.log(1.2)
# Norms of delta below which entries of it are below the smallest number of the dtype.
ROUNDED_AWAY = {"float32": 1e-36, "float64": 1e-300}
LARGEST = {"float32": 3.4e38, "float64": 1.7e308}


@dataclass(frozen=True)
class Truth:
    """verdict: None where there is no honest one; why: the evidence in words."""

    verdict: str | None
    causes: tuple
    why: str
    profile: float = math.nan
    error: float = math.nan
    progress: float = math.nan


@np.errstate(all="ignore")
def truth_of(design):
    """The truth of one design."""
    net, _ = held_out.subject(design)
    if not np.isfinite(net.parameters.flat).all():
        return Truth("non_finite", ("learning_rate", "overflow"), "parameters")
    profile = profile_of(design)
    log_ratio, error, peak = profile.value, profile.error, profile.peak
    largest = LARGEST[design.dtype]
    if not peak < 10.0 * largest:
        return Truth("non_finite", overflow_causes(design), f"reaches {peak:.1e}")
    if peak > largest / 1e4:
        return Truth(None, (), f"at the edge of the range: {peak:.1e}")
    if diverges(design):
        return _diverging(design, log_ratio, error)
    replaced = largest_step(design) > 1.0
    if min(profile.rise, profile.fall) > SICK:
        return Truth(None, (), f"rises and falls: {profile.rise:.1f}, {profile.fall:.1f}", log_ratio, error)
    level, steep = abs(log_ratio) + 2 * error < SOUND, abs(log_ratio) - 2 * error > SICK
    if not level and not steep and not replaced:
        return Truth(None, (), f"between: {log_ratio:+.1f} +- {error:.1f}", log_ratio, error)
    progress = progress_of(design)
    evidence = (f"profile {log_ratio:+.1f} +- {error:.1f}, progress {progress:.2f}", log_ratio, error, progress)
    if math.isnan(progress):
        return Truth(None, (), "the control does not learn: " + evidence[0], *evidence[1:])
    if level and progress > LEARNS:
        return Truth("healthy", (), *evidence)
    if replaced and steep and log_ratio < 0.0:
        return Truth(None, (), "steep and steps too large: " + evidence[0], *evidence[1:])
    if replaced and progress < FAILS:
        return Truth("exploding", step_causes(design, log_ratio), *evidence)
    if steep and progress < FAILS:
        verdict = "vanishing" if log_ratio < 0.0 else "exploding"
        causes = profile_causes(design, log_ratio)
        lost = profile.least < ROUNDED_AWAY[design.dtype]
        return Truth(verdict, (*causes, "precision") if lost else causes, *evidence)
    return Truth(None, (), ("level, not trained: " if level else "steep, trained: ") + evidence[0], *evidence[1:])


def _diverging(design, log_ratio, error):
    """The truth of a loss that is thrown up: what learns all the same is not sick."""
    progress = progress_of(design)
    if progress < FAILS:
        return Truth("exploding", step_causes(design, log_ratio), "diverges", log_ratio, error, progress)
    return Truth(None, (), f"thrown up, not failed: progress {progress:.2f}", log_ratio, error, progress)


# ---- the profile in float64 ------------------------------------------------------------------


def exact(net):
    """The reference's description of a net and its parameters in float64."""
    twin = reference.Net(tuple(net.widths), tuple(net.activations), net.normalization, net.residual, net.bias)
    return twin, {name: np.asarray(values, dtype=np.float64) for name, values in net.parameters.items()}


@dataclass(frozen=True)
class Profile:
    """value: ln(norm at layer 0 / norm at the last hidden one). rise, fall: the largest between any two layers.

    peak, least: largest number met, smallest norm.
    """

    value: float
    error: float
    rise: float
    fall: float
    peak: float
    least: float


def profile_of(design):
    """The profile of a design, or of its one net if that has been trained."""
    draws = [_pass(design, held_out.fresh_net(design, design.seed + 1000 * draw), draw) for draw in range(DRAWS)]
    error = float(np.std([draw[0] for draw in draws], ddof=1))
    if design.warm_up:
        net = held_out.subject(design)[0]
        draws = [_pass(design, net, draw) for draw in range(DRAWS)]
    else:
        error /= math.sqrt(DRAWS)
    logs, rises, falls, peaks, leasts = zip(*draws, strict=True)
    return Profile(float(np.mean(logs)), error, max(rises), max(falls), max(peaks), min(leasts))


def _pass(design, net, draw):
    """(ln of the ratio, rise, fall, largest number, smallest norm of a delta) of one batch of one net in float64."""
    x, target = (np.asarray(values) for values in held_out.data_of(design))
    target = target if target.dtype.kind == "i" else target.astype(np.float64).reshape(len(x), -1)
    size = design.batch_size if design.normalization == "batch" else max(design.batch_size, PROFILE_ROWS)
    rows = np.random.default_rng((design.seed, 9, draw)).choice(len(x), min(size, len(x)), replace=False)
    inputs = x[rows].astype(np.float64)
    _, grads, trace = reference.loss_and_gradients(*exact(net), inputs, target[rows], design.loss)
    numbers = [step.z for step in trace] + [step.delta for step in trace] + list(grads.values())
    peak = max(float(np.abs(values).max()) for values in numbers)
    norms = [np.linalg.norm(step.grad_h if design.residual else step.delta) for step in trace[:-1]]
    logs = np.log(np.maximum(norms, 1e-300))
    rise = float(np.max(np.maximum.accumulate(logs) - logs))
    fall = float(np.max(logs - np.minimum.accumulate(logs)))
    least = min(np.linalg.norm(step.delta) for step in trace)
    return float(logs[0] - logs[-1]), rise, fall, peak if math.isfinite(peak) else math.inf, least


# ---- training --------------------------------------------------------------------------------


def no_skill(design, target):
    """The loss of the best constant output."""
    target = np.asarray(target, dtype=np.float64)
    if design.loss == "cross_entropy":
        share = np.bincount(target.astype(int)) / len(target)
        return float(-np.sum(share * np.log(np.maximum(share, 1e-300))))
    if design.loss == "binary_cross_entropy":
        share = target.mean()
        return float(-share * math.log(share) - (1 - share) * math.log(1 - share))
    away = target - (np.median(target, axis=0) if design.loss == "mae" else target.mean(axis=0))
    return float(reference.LOSSES[design.loss](away, np.zeros_like(away))[0])


def losses_of(design, net, optimizer, x, target, steps):
    """The losses of a training; ends where one is not finite."""
    losses = []
    for rows in held_out.batches_of(design, steps, 2):
        losses.append(net.train_step(x[rows], target[rows], optimizer, loss=design.loss).loss)
        if not math.isfinite(losses[-1]):
            break
    return losses


def reached(losses, steps):
    """Mean of the last tenth of a complete training; infinite for a broken one."""
    return float(np.mean(losses[-steps // 10 :])) if len(losses) == steps and math.isfinite(losses[-1]) else math.inf


def control_loss(design):
    """What the control reaches, as a share of the no-skill loss."""
    plain = held_out.changed(design, input_scale=1.0, target_scale=1.0)
    x, target = held_out.data_of(plain)
    net = gc.MLP([design.widths[0], 64, 64, design.widths[-1]], dtype=design.dtype, seed=1)
    steps = STEPS + min(design.warm_up, STEPS)
    losses = losses_of(plain, net, gc.optim.Adam(net, lr=3e-3), x, target, steps)
    return reached(losses, steps) / no_skill(plain, target)


def progress_of(design):
    """The net's gain over the best constant relative to the control's; NaN where the control gains too little."""
    control = control_loss(design)
    if not control < 1.0 - CONTROL_GAIN:
        return math.nan
    x, target = held_out.data_of(design)
    nothing, best = no_skill(design, target), -math.inf
    adaptive = design.optimizer is not None and design.optimizer[0] != "SGD"
    for rate in RATES if design.optimizer is None else (None,):
        for steps in (STEPS, PATIENCE) if adaptive else (STEPS,):
            net, optimizer = held_out.subject(design)
            optimizer = optimizer or gc.optim.SGD(net, lr=rate)
            loss = reached(losses_of(design, net, optimizer, x, target, steps), steps) / nothing
            best = max(best, (1.0 - loss) / (1.0 - control))
            if best > LEARNS:
                return best
    return best


def diverges(design):
    """Whether its own optimizer's first steps throw the loss up."""
    if design.optimizer is None:
        return False
    x, target = held_out.data_of(design)
    net, optimizer = held_out.subject(design)
    losses = losses_of(design, net, optimizer, x, target, SHORT)
    return not max(losses) < DIVERGED * max(losses[0], no_skill(design, target))


def largest_step(design):
    """|dW| / |W| of one step of its own optimizer, the largest of all layers whose weights are not zero."""
    if design.optimizer is None:
        return 0.0
    x, target = held_out.data_of(design)
    net, optimizer = held_out.subject(design)
    before = {
        name: values.copy() for name, values in net.parameters.items() if name.endswith("weight") and values.any()
    }
    losses_of(design, net, optimizer, x, target, 1)
    return max(np.linalg.norm(net.parameters[name] - was) / np.linalg.norm(was) for name, was in before.items())


# ---- causes, by intervention -----------------------------------------------------------------


def profile_causes(design, log_ratio):
    """Every cause whose removal takes at least two thirds of the profile's change away, at widths of 64 and more."""
    wide = held_out.changed(design, warm_up=0, widths=_wider(design.widths))

    def cured(**changes):
        return abs(profile_of(held_out.changed(wide, **changes)).value) < abs(log_ratio) / 3

    hidden = len(design.activations)
    relu = {"activations": ("relu",) * hidden, "weights": ("scaled", 1.0), "bias_deviation": 0.0}
    found = set()
    if min(design.widths[1:-1]) < 32 and cured():
        found.add("narrow_layer")
    if design.warm_up and abs(profile_of(held_out.changed(design, warm_up=0)).value) < abs(log_ratio) / 3:
        found |= {
            "learning_rate",
            "saturating_activation",
            "dead_units",
            "weight_scale",
        }  # what training has made of it
    if design.normalization is None or design.bias_deviation:
        if any(cured(weights=("scaled", scale), bias_deviation=0.0) for scale in WEIGHT_SCALES):
            found.add("weight_scale")
        elif design.normalization is None and cured(**relu):
            found |= {"activation_slope", "saturating_activation"}
    if design.normalization in ("layer", "rms") and cured(**relu):
        found.add("activation_slope")
    if design.bias_deviation and cured(bias_deviation=0.0):
        found |= {"saturating_activation", "dead_units"}
    if design.normalization == "batch" and cured(normalization=None, **relu):
        found.add("batch_norm")
    if design.residual and log_ratio > 0.0 and cured(weights=("scaled", 1.0 / hidden), bias_deviation=0.0):
        found |= {"depth", "weight_scale"}
    if log_ratio < 0.0 and _saturates(design):
        found.add("saturating_activation")
    if not found or 2.0 * abs(log_ratio) / (hidden - 1) < MILD:
        found.add("depth")
    return tuple(sorted(found))


def _wider(widths):
    """All hidden widths times one number, so that the same layers keep their skip connections."""
    times = math.ceil(64 / min(widths[1:-1]))
    return (widths[0], *(times * width for width in widths[1:-1]), widths[-1])


def _saturates(design):
    """Whether weights beyond the critical scale drive a bounded activation into saturation."""
    bounded = set(design.activations) <= {"tanh", "sigmoid", "hard_tanh"}
    large = design.weights[0] == "scaled" and design.weights[1] > 1.0
    return bounded and (large or "sigmoid" in design.activations)


def step_causes(design, log_ratio):
    """Why steps are too large: each change that alone stops it; the profile's own causes where it is steep."""

    def cured(**changes):
        other = held_out.changed(design, **changes)
        return not diverges(other) and not largest_step(other) > 1.0

    found = set()
    name, rate, options = design.optimizer
    if design.input_scale != 1.0 and cured(input_scale=1.0):
        found.add("input_scale")
    if design.target_scale != 1.0 and cured(target_scale=1.0):
        found.add("target_scale")
    if cured(weights=("scaled", 1.0)):
        found.add("weight_scale")
    if any(cured(optimizer=(name, rate / slower, options)) for slower in (300.0, 1e5)):
        found.add("learning_rate")
    return (
        tuple(sorted(found | set(profile_causes(design, log_ratio))))
        if abs(log_ratio) > SOUND
        else tuple(sorted(found))
    )


def overflow_causes(design):
    """What alone brings the numbers back into range."""
    found = {"overflow"}
    for cause, changes in (("weight_scale", {"weights": ("scaled", 1.0)}), ("input_scale", {"input_scale": 1.0}),
                           ("depth", {"residual": False})):  # fmt: skip
        if profile_of(held_out.changed(design, **changes)).peak < LARGEST[design.dtype]:
            found.add(cause)
    return tuple(sorted(found))
