"""Optimizers with PyTorch's semantics, and learning-rate schedules as callables of the step.

    optimizer = gc.optim.Adam(net, lr=gc.optim.warmup(gc.optim.cosine(1e-3, total_steps=1000), 50))
    net.train_step(x, target, optimizer)

A schedule is any callable from the step number, starting at 0, to a learning rate. The schedules of this module can be
pickled.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import _check, _core, _files

if TYPE_CHECKING:
    from .mlp import MLP

Schedule = Callable[[int], float]

_MOST_STEPS = 2**53  # a double, and the bias corrections with it, counts no further
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_KINDS = {name: code for code, name in enumerate(_core.OPTIMIZERS)}


class Optimizer:
    """Hyperparameters and state of an optimizer for one net; base class of the optimizers below.

    Attributes:
        net: the net whose parameters it updates.
        lr: the learning rate of the next step; assign a float or a schedule to change it.
        schedule: the callable given as `lr`, or None.
        step_count: number of updates so far.
        hyperparameters: all hyperparameters except the learning rate, by name.
    """

    _kind: str

    def __init__(self, net: MLP, lr: float | Schedule, hyperparameters: dict[str, Any]) -> None:
        from .mlp import MLP

        _check.instance(net, "net", MLP, "a gradcore.MLP")
        self.net = net
        self.hyperparameters = hyperparameters
        self.schedule: Schedule | None = None
        self._lr = 0.0
        beta1, beta2 = hyperparameters.get("betas", (0.9, 0.999))
        self._core = _core.Optimizer(
            net._core,
            _KINDS[self._kind],
            0.0,
            hyperparameters.get("momentum", 0.0),
            hyperparameters.get("nesterov", False),
            hyperparameters["weight_decay"],
            hyperparameters.get("alpha", 0.99),
            beta1,
            beta2,
            hyperparameters.get("eps", 1e-8),
        )
        self.lr = lr

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr if self.schedule is None else self._scheduled(self.schedule)

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        if callable(value):
            self._scheduled(value)  # a schedule that gives no learning rate is refused here
            self.schedule = value
            return
        lr = _check.non_negative(value, "lr")
        self._core.set_lr(lr)
        self._lr, self.schedule = lr, None

    @property
    def _given_lr(self) -> float | Schedule:
        """What was given as `lr`: a number or a schedule."""
        return self._lr if self.schedule is None else self.schedule

    @property
    def step_count(self) -> int:
        """Number of updates so far."""
        return self._core.step_count

    def step(self, clip_norm: float | None = None, clip_value: float | None = None, *, record: bool = False) -> float:
        """Update the parameters once from `net.gradients`, which stay unchanged.

        Discards a `forward` that still waits for its `backward`: its activations belong to the old weights.

        Args:
            clip_norm: scale the gradients to a total L2 norm of at most this, by
                min(1, clip_norm / (total_norm + 1e-6)), as PyTorch does.
            clip_value: then clamp each element to [-clip_value, clip_value].
            record: store the size of the update (NaN if it was refused) and of the weights before it in `net.flow`.
                Its other numbers remain those of the last recorded pass.

        Returns:
            The total norm of all gradients before clipping.

        Raises:
            ValueError: a bound that is not > 0.
            FloatingPointError: with `clip_norm`, if the total norm is not finite. Parameters and optimizer state are
                then unchanged.
        """
        norm, value = _check.clip_bound(clip_norm, "clip_norm"), _check.clip_bound(clip_value, "clip_value")
        return self._ready().step(norm, value, _check.flag(record, "record"))[1]

    def _ready(self) -> _core.Optimizer:
        """The native optimizer, with the learning rate of the step to come."""
        if self.schedule is not None:
            self._core.set_lr(self._scheduled(self.schedule))
        return self._core

    def _scheduled(self, schedule: Schedule) -> float:
        step = self._core.step_count
        return _check.non_negative(schedule(step), f"lr: the schedule at step {step}")

    def save(self, path: str | PathLike[str]) -> None:
        """Atomically write step count and state vectors to a safetensors file, separate from the net's (`net.save`).

        The file does not hold the hyperparameters or the learning rate.

        Raises:
            OSError: if the file cannot be written; nothing is left behind.
        """
        self._core.save(os.fsencode(_check.path(path)))

    def load(self, path: str | PathLike[str]) -> None:
        """Continue bit for bit where the optimizer that wrote `path` left off. C and C++ programs use the same files.

        Args:
            path: a file that `save` wrote, for an optimizer of the same kind and a net of the same shapes.

        Raises:
            ValueError: another kind, other shapes or a damaged file, saying what is wrong; nothing changes.
            OSError: if the file cannot be read.
        """
        name = _check.path(path)
        with _files.named(name):
            self._core.load(os.fsencode(name))

    def state_dict(self) -> dict[str, Any]:
        """Copies of learning rate, step count and state vectors, for `load_state_dict`."""
        return {
            "lr": self._given_lr,
            "step_count": self.step_count,
            "states": [state.copy() for state in self._core.states()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, taken from an optimizer of the same kind for a net of the same shapes.

        Raises:
            ValueError, TypeError: naming what is wrong with `state`; the optimizer is unchanged.
        """
        _check.instance(state, "state", Mapping, "what state_dict gave")
        missing = {"lr", "step_count", "states"} - set(state)
        if missing:
            raise ValueError(f"state: expected lr, step_count and states, got no {' and no '.join(sorted(missing))}")
        given = _check.items(state["states"])
        if given is None:
            raise TypeError(f"state['states']: expected a list of arrays, got {_check.described(state['states'])}")
        views = self._core.states()
        saved = [_check.array(values, f"state['states'][{index}]") for index, values in enumerate(given)]
        expected, got = ([f"{vector.dtype} {vector.shape}" for vector in vectors] for vectors in (views, saved))
        if expected != got:
            raise ValueError(
                f"state['states']: expected the state vectors of {type(self).__name__} for this net, "
                f"{' and '.join(expected) or 'none'}, got {' and '.join(got) or 'none'}"
            )
        step_count = _check.integer(state["step_count"], "state['step_count']", 0)
        if step_count > _MOST_STEPS:
            raise ValueError(f"state['step_count']: expected at most 2**53, got {step_count}")
        self.lr = state["lr"]  # after it nothing can fail
        for view, values in zip(views, saved, strict=True):
            view[...] = values
        self._core.step_count = step_count

    def _made_for(self, net: MLP, lr: float | Schedule | None, *, keep_state: bool = False) -> Any:
        """An optimizer of the same kind and settings for another net; lr None: with the same rate or schedule.

        keep_state: it continues from this one's step count and state vectors.
        """
        made = type(self)(net, lr=self._given_lr if lr is None else lr, **self.hyperparameters)
        if keep_state:
            made.load_state_dict({**self.state_dict(), "lr": made._given_lr})
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = partial(type(self), lr=self._given_lr, **self.hyperparameters)
        return _restored, (rebuild, self.net, self.state_dict())

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.hyperparameters.items())
        return f"{type(self).__name__}(lr={_shown(self._given_lr)}{options})"


def check_step(net: MLP, optimizer: Optimizer, clip_norm: float | None, clip_value: float | None) -> None:
    """Check everything that the next step of `net` needs besides its data, including the rate from a schedule.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    _check.instance(optimizer, "optimizer", Optimizer, "one of gc.optim")
    if optimizer.net is not net:
        raise ValueError("optimizer: expected one that was made for this net, got another net's")
    for bound, name in ((clip_norm, "clip_norm"), (clip_value, "clip_value")):
        _check.clip_bound(bound, name)
    optimizer._ready()


def _restored(rebuild: Callable[[MLP], Optimizer], net: MLP, state: dict[str, Any]) -> Optimizer:
    optimizer = rebuild(net)
    optimizer.load_state_dict(state)
    return optimizer


class SGD(Optimizer):
    """Stochastic gradient descent with optional momentum (dampening 0).

    Args:
        net: the net to train.
        lr: learning rate >= 0, or a schedule.
        momentum: factor in the velocity v = momentum * v + g.
        nesterov: step by g + momentum * v instead of v; needs momentum > 0.
        weight_decay: weight_decay * parameter is added to the gradient.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    _kind = "sgd"

    def __init__(
        self,
        net: MLP,
        lr: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        options = {
            "momentum": _check.non_negative(momentum, "momentum"),
            "nesterov": _check.flag(nesterov, "nesterov"),
            "weight_decay": _check.non_negative(weight_decay, "weight_decay"),
        }
        super().__init__(net, lr, options)


class RMSprop(Optimizer):
    """RMSprop, not centered (Hinton, lecture 6e), with steps g / (sqrt(s) + eps).

    Args:
        net: the net to train.
        lr: learning rate >= 0, or a schedule.
        alpha: decay rate of the mean square s, in [0, 1).
        eps: > 0, and not subnormal in the net's dtype (in float32: at least 1.18e-38).
        weight_decay: weight_decay * parameter is added to the gradient.
        momentum: factor in the velocity v = momentum * v + g / (sqrt(s) + eps), which then is the step.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    _kind = "rmsprop"

    def __init__(
        self,
        net: MLP,
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        options = {
            "alpha": _check.share(alpha, "alpha"),
            "eps": _check.positive(eps, "eps"),
            "weight_decay": _check.non_negative(weight_decay, "weight_decay"),
            "momentum": _check.non_negative(momentum, "momentum"),
        }
        super().__init__(net, lr, options)


def _adam_options(betas: tuple[float, float], eps: float, weight_decay: float) -> dict[str, Any]:
    if not isinstance(betas, (tuple, list)):
        raise TypeError(f"betas: expected a pair of numbers, got {_check.described(betas)}")
    if len(betas) != 2:
        raise ValueError(f"betas: expected a pair of numbers, got {_check.described(betas)}")
    return {
        "betas": (_check.share(betas[0], "betas[0]"), _check.share(betas[1], "betas[1]")),
        "eps": _check.positive(eps, "eps"),
        "weight_decay": _check.non_negative(weight_decay, "weight_decay"),
    }


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), with weight decay added to the gradient.

    Args:
        net: the net to train.
        lr: learning rate >= 0, or a schedule.
        betas: decay rates of the first and second moment, in [0, 1).
        eps: added to the square root of the second moment; > 0, and not subnormal in the net's dtype (in float32: at
            least 1.18e-38).
        weight_decay: weight_decay * parameter is added to the gradient.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    _kind = "adam"

    def __init__(
        self,
        net: MLP,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(net, lr, _adam_options(betas, eps, weight_decay))


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Arguments and errors are those of Adam, except that weight_decay, by default 0.01, multiplies the parameters by
    1 - lr * weight_decay instead of changing the gradient.
    """

    _kind = "adamw"

    def __init__(
        self,
        net: MLP,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(net, lr, _adam_options(betas, eps, weight_decay))


# ---- schedules -----------------------------------------------------------------------------------------


class NamedSchedule(partial[float]):
    """A schedule that is shown as the call that makes it: reports name it, and a repr with addresses says nothing."""

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={_shown(value)}" for name, value in self.keywords.items())
        return f"{self.func.__name__.removeprefix('_')}({options})"


def _shown(value: float | Schedule) -> str:
    """The repr without addresses, which differ from run to run, and without the rounding error of a lowered rate."""
    return _ADDRESS.sub("", repr(float(f"{value:.12g}") if isinstance(value, float) else value))


def constant(lr: float) -> Schedule:
    """A constant learning rate."""
    return NamedSchedule(_constant, lr=_check.non_negative(lr, "lr"))


def step(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """`lr`, multiplied by `gamma` every `step_size` steps; ValueError at a step where it overflows."""
    return NamedSchedule(
        _step,
        lr=_check.non_negative(lr, "lr"),
        step_size=_check.integer(step_size, "step_size", 1),
        gamma=_check.non_negative(gamma, "gamma"),
    )


def exponential(lr: float, gamma: float) -> Schedule:
    """lr * gamma^step; ValueError as in `step`."""
    return step(lr, 1, gamma)


def cosine(lr: float, total_steps: int, final_lr: float = 0.0) -> Schedule:
    """From `lr` to `final_lr` along half a cosine over `total_steps` steps, then constant."""
    return NamedSchedule(
        _cosine,
        lr=_check.non_negative(lr, "lr"),
        total_steps=_check.integer(total_steps, "total_steps", 1),
        final_lr=_check.non_negative(final_lr, "final_lr"),
    )


def one_cycle(
    max_lr: float,
    total_steps: int,
    warmup_share: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Up to `max_lr` and down again (Smith & Topin 2018, arXiv:1708.07120), as in PyTorch's OneCycleLR.

    Args:
        max_lr: the peak.
        total_steps: length of the cycle, at least 2; the last value holds afterwards.
        warmup_share: share of the steps spent rising.
        div_factor: the first learning rate is max_lr / div_factor.
        final_div_factor: the last one is max_lr / div_factor / final_div_factor.
    """
    return NamedSchedule(
        _one_cycle,
        max_lr=_check.non_negative(max_lr, "max_lr"),
        total_steps=_check.integer(total_steps, "total_steps", 2),
        warmup_share=_check.share(warmup_share, "warmup_share"),
        div_factor=_check.positive(div_factor, "div_factor"),
        final_div_factor=_check.positive(final_div_factor, "final_div_factor"),
    )


def warmup(schedule: float | Schedule, steps: int) -> Schedule:
    """`schedule`, or a constant, scaled by 1/steps, 2/steps, ..., 1 over the first `steps` steps."""
    inner = schedule if callable(schedule) else constant(_check.non_negative(schedule, "schedule"))
    return NamedSchedule(_warmup, schedule=inner, steps=_check.integer(steps, "steps", 1))


def _constant(step: int, *, lr: float) -> float:
    return lr


def _step(step: int, *, lr: float, step_size: int, gamma: float) -> float:
    power = step // step_size
    try:
        return lr * gamma**power
    except OverflowError:
        name = "exponential" if step_size == 1 else "step"
        got = f"{lr:g} * {gamma:g}^{power}"
        raise ValueError(f"lr: {name} at step {step}: expected a finite number, got {got}") from None


def _half_cosine(start: float, end: float, share: float) -> float:
    return float(end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share)))


def _cosine(step: int, *, lr: float, total_steps: int, final_lr: float) -> float:
    return _half_cosine(lr, final_lr, min(step / total_steps, 1.0))


def _one_cycle(
    step: int,
    *,
    max_lr: float,
    total_steps: int,
    warmup_share: float,
    div_factor: float,
    final_div_factor: float,
) -> float:
    start = max_lr / div_factor
    peak, last = warmup_share * total_steps - 1.0, total_steps - 1.0
    if step < peak:
        return _half_cosine(start, max_lr, step / peak)
    return _half_cosine(max_lr, start / final_div_factor, min((step - peak) / (last - peak), 1.0))


def _warmup(step: int, *, schedule: Schedule, steps: int) -> float:
    return schedule(step) * min((step + 1) / steps, 1.0)
