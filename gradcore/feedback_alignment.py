"""Training without backpropagation: direct feedback alignment (Nøkland 2016, arXiv:1609.01596).

Backpropagation carries the error e = dL/d(output) down through the transposed weights of every layer above. Direct
feedback alignment sends it to each hidden layer directly, through a fixed random matrix:

    dL/dh_l  ~  B_l e,     B_l [width_l, out_features], never trained                      (F.1)

From there on each layer works as in backpropagation: multiply by act'(y_l), pass through its own normalization,
multiply by its input. The output layer gets its true gradient. No product of Jacobians is formed, so nothing can vanish
or explode on the way down. It learns because, during training, the weights of the layers above come to agree with the
feedback ("alignment"); `DirectFeedbackMLP.alignment` measures this.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _layers, ops
from .mlp import MLP, Step
from .optim import Optimizer, check_step

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = _check.Array

# Keeps the feedback independent of the weights, which are drawn from the plain seed.
_FEEDBACK_STREAM = 1


class DirectFeedbackMLP(MLP):
    """An MLP whose training steps use direct feedback alignment instead of backpropagation.

    It has the same initial weights as `MLP(widths, **options)`. Forward passes, files and `loss_and_gradients` (the
    true gradient) are those of `MLP`. `train_step`, and therefore `fit`, take their gradients from
    `feedback_gradients`. An analysis measures the true gradients. A saved file holds the net without its feedback. With
    dtype "bfloat16" the feedback gradients are computed in float32.

    Args:
        widths, options: as for `MLP`.
        feedback_seed: seed of the feedback matrices; None for fresh randomness.
        feedback_scale: > 0. The entries of B_l are normal with variance feedback_scale^2 / width_l, so |B_l e| is about
            feedback_scale |e|; 1 corresponds to a net at its critical gain.

    Attributes:
        feedback: tuple of the matrices B_l of the hidden layers, [width_l, out_features], in the net's dtype.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        feedback_seed: int | None = 0,
        feedback_scale: float = 1.0,
        **options: Any,
    ) -> None:
        scale = _check.positive(feedback_scale, "feedback_scale")
        seed = _check.seed(feedback_seed, "feedback_seed")
        super().__init__(widths, **options)
        entropy = None if seed is None else [seed, _FEEDBACK_STREAM]
        streams = np.random.SeedSequence(entropy).spawn(self.depth - 1)
        self.feedback: tuple[Array, ...] = tuple(
            (scale / math.sqrt(width) * np.random.default_rng(stream).standard_normal((width, self.out_features)))
            .astype(self.dtype)
            for width, stream in zip(self.widths[1:-1], streams, strict=True)
        )  # fmt: skip

    def feedback_gradients(self, x: ArrayLike, target: ArrayLike, loss: str = "cross_entropy") -> float:
        """Gradients of a batch by direct feedback alignment; overwrites `gradients`.

        Arguments, returned loss and errors are those of `loss_and_gradients`.
        """
        _check.choice(loss, "loss", _check.LOSSES)
        rows, values = _check.data(self, x, target, loss)
        if self.normalization == "batch":
            self.forward(rows, training=True)  # only for the running statistics
        return self._feedback_pass(rows, values, loss)

    def train_step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        optimizer: Optimizer,
        loss: str = "cross_entropy",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        record: bool = False,
    ) -> Step:
        """One step along `feedback_gradients`; arguments, result and errors as in `MLP.train_step`.

        With `record`, `flow` holds the true deltas of backpropagation and the update that was actually made.
        """
        check_step(self, optimizer, clip_norm, clip_value)
        statistics = self.buffers.flat.copy()
        if record:
            self.loss_and_gradients(x, target, loss, record=True)
            value = self._feedback_pass(*self._batch(x, target, loss), loss)
        else:
            value = self.feedback_gradients(x, target, loss)
        try:
            return Step(value, optimizer.step(clip_norm, clip_value, record=record))
        except FloatingPointError:  # forward has updated them for a step that is not taken
            self.buffers.flat[:] = statistics
            raise

    def alignment(self, x: ArrayLike, target: ArrayLike, loss: str = "cross_entropy") -> Array:
        """The angle between `feedback_gradients` and the true gradient of each layer's weights.

        Below 90 degrees a small step lowers the loss. The output layer's angle is 0. Overwrites `gradients`; running
        statistics do not change.

        Returns:
            Degrees, float64 [depth]; NaN where either gradient is zero or not finite.
        """
        buffers = self.buffers.flat.copy()
        self.loss_and_gradients(x, target, loss)
        true = self._weight_gradients()
        self.feedback_gradients(x, target, loss)
        self.buffers.flat[:] = buffers
        return np.array([_angle(a, b) for a, b in zip(self._weight_gradients(), true, strict=True)])

    def copy(self) -> DirectFeedbackMLP:
        """An independent net with equal parameters and buffers and the same feedback; its gradients are zero."""
        return _with_feedback(super().copy(), self.feedback)

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_feedback, (super().copy(), self.feedback)

    def __repr__(self) -> str:
        return f"DirectFeedback{super().__repr__()}"

    def _feedback_pass(self, x: Array, target: Array, loss: str) -> float:
        """A forward pass, then the gradients of each layer, none of which depends on another's. Returns the loss."""
        inputs, hidden = [x], []
        last = self.depth - 1
        for layer in range(last):
            z = self._dense(layer, inputs[-1])
            h, y, saved = _layers.hidden(self, layer, inputs[-1], z)
            hidden.append((z, y, saved))
            inputs.append(h)
        output = self._dense(last, inputs[-1])
        error = ops.loss_backward(output, target, loss)
        with np.errstate(over="ignore", invalid="ignore"):  # shows in loss and norm, as in MLP
            self._store(last, error, inputs[-1])
            for layer, (z, y, saved) in enumerate(hidden):
                grad = ops.activation_backward(error @ self.feedback[layer].T, y, self.activations[layer])  # (F.1)
                self._store(layer, self._normalized_backward(layer, grad, z, saved), inputs[layer])
        return ops.loss(output, target, loss)

    def _weight_gradients(self) -> list[Array]:
        return [self.gradients[f"dense{layer}.weight"].astype(np.float64) for layer in range(self.depth)]

    def _dense(self, layer: int, x: Array) -> Array:
        bias = self.parameters[f"dense{layer}.bias"] if self.bias else None
        return ops.dense(x, self.parameters[f"dense{layer}.weight"], bias)

    def _store(self, layer: int, delta: Array, x: Array) -> None:
        """The gradients of a dense layer from its delta and its input."""
        np.matmul(delta.T, x, out=self.gradients[f"dense{layer}.weight"])
        if self.bias:
            np.sum(delta, axis=0, out=self.gradients[f"dense{layer}.bias"])

    def _normalized_backward(self, layer: int, grad: Array, z: Array, saved: list[Array]) -> Array:
        """dL/dz from dL/dy; stores the gradients of the normalization on the way."""
        if self.normalization is None:
            return grad
        backward: Any = {
            "batch": ops.batch_norm_backward,
            "layer": ops.layer_norm_backward,
            "rms": ops.rms_norm_backward,
        }[self.normalization]
        delta, *by_parameters = backward(grad, z, self.parameters[f"norm{layer}.weight"], *saved)
        for name, values in zip(("weight", "bias"), by_parameters, strict=False):  # rms norm has no bias
            self.gradients[f"norm{layer}.{name}"] = values
        return np.asarray(delta)


def _angle(a: Array, b: Array) -> float:
    """Degrees between two arrays taken as vectors."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not 0.0 < lengths < math.inf:
        return math.nan
    return math.degrees(math.acos(min(max(float(np.vdot(a, b)) / lengths, -1.0), 1.0)))


def _with_feedback(net: MLP, feedback: tuple[Array, ...]) -> DirectFeedbackMLP:
    other = DirectFeedbackMLP.__new__(DirectFeedbackMLP)
    other._build(**net.config)
    other.parameters.flat[:] = net.parameters.flat
    other.buffers.flat[:] = net.buffers.flat
    other.feedback = feedback
    return other
