"""The single ops on plain arrays, beside PyTorch's.

Before it is timed, gradcore's result is checked against its own in float64 (which the tests compare with the oracles),
and PyTorch's against gradcore's, because both must do the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import gradcore as gc
from cases import CLIP_CASES
from conftest import skip_unless_installed

ROWS, WIDTH, CLASSES = 256, 256, 10
ELEMENTS = ROWS * WIDTH


@dataclass(frozen=True)
class Op:
    """One op: its inputs in float64, and the same function twice. `torch` is given torch.ops.aten first."""

    name: str
    inputs: Callable[[np.random.Generator], list[np.ndarray]]
    gradcore: Callable
    torch: Callable | None
    flops: float = 0
    moved: int = 0  # elements read and written


def matrices(count: int) -> Callable:
    return lambda rng: [rng.normal(size=(ROWS, WIDTH)) for _ in range(count)]


def activation_ops(name: str, torch_forward: Callable, torch_backward: Callable) -> list[Op]:
    return [
        Op(f"{name}", matrices(1), lambda x: gc.ops.activation(x, name), torch_forward, moved=2 * ELEMENTS),
        Op(
            f"{name}_backward",
            matrices(2),
            lambda dy, x: gc.ops.activation_backward(dy, x, name),
            torch_backward,
            moved=3 * ELEMENTS,
        ),
    ]


def affine(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(ROWS, WIDTH)), rng.normal(size=WIDTH), rng.normal(size=WIDTH)]


def saved_by(norm: Callable) -> Callable:
    """Inputs of a norm's backward: grad_output, input, weight, and what its forward saved."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x, weight, bias = affine(rng)
        return [rng.normal(size=x.shape), x, weight, *norm(x, weight, bias)[1:]]

    return inputs


def logits(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS)]


MASK = [True, True, True]
OPS = [
    Op(
        "dense",
        lambda rng: [rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=WIDTH)],
        gc.ops.dense,
        lambda aten, x, w, b: aten.linear(x, w, b),
        flops=2 * ROWS * WIDTH**2,
    ),
    Op(
        "dense_backward",
        matrices(3),  # ROWS == WIDTH
        gc.ops.dense_backward,
        lambda aten, dy, x, w: (dy @ w, dy.T @ x, dy.sum(0)),
        flops=4 * ROWS * WIDTH**2,
    ),
    *activation_ops("relu", lambda aten, x: aten.relu(x), lambda aten, dy, x: aten.threshold_backward(dy, x, 0)),
    *activation_ops("gelu", lambda aten, x: aten.gelu(x), lambda aten, dy, x: aten.gelu_backward(dy, x)),
    *activation_ops("silu", lambda aten, x: aten.silu(x), lambda aten, dy, x: aten.silu_backward(dy, x)),
    # aten.tanh_backward takes the output, which is saved in practice but must be computed again here.
    *activation_ops("tanh", lambda aten, x: aten.tanh(x), lambda aten, dy, x: aten.tanh_backward(dy, aten.tanh(x))),
    Op(
        "batch_norm",
        affine,
        gc.ops.batch_norm,
        lambda aten, x, w, b: aten.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5),
        moved=2 * ELEMENTS,
    ),
    Op(
        "batch_norm_backward",
        saved_by(gc.ops.batch_norm),
        gc.ops.batch_norm_backward,
        lambda aten, dy, x, w, mean, invstd: aten.native_batch_norm_backward(
            dy, x, w, None, None, mean, invstd, True, 1e-5, MASK
        ),
        moved=3 * ELEMENTS,
    ),
    Op(
        "layer_norm",
        affine,
        gc.ops.layer_norm,
        lambda aten, x, w, b: unsaved(aten.native_layer_norm(x, [WIDTH], w, b, 1e-5)),
        moved=2 * ELEMENTS,
    ),
    Op(
        "layer_norm_backward",
        saved_by(gc.ops.layer_norm),
        gc.ops.layer_norm_backward,
        lambda aten, dy, x, w, mean, invstd: aten.native_layer_norm_backward(
            dy, x, [WIDTH], mean[:, None], invstd[:, None], w, w, MASK
        ),
        moved=3 * ELEMENTS,
    ),
    Op("cross_entropy", logits, gc.ops.loss, lambda aten, y, t: aten.cross_entropy_loss(y, t)),
    Op(
        "cross_entropy_backward",
        logits,
        gc.ops.loss_backward,
        lambda aten, y, t: (aten.softmax(y, 1) - aten.one_hot(t, CLASSES)) / ROWS,
    ),
    Op(
        "array_stats", lambda rng: [rng.normal(size=1 << 22)], lambda x: gc.ops.array_stats(x).norm, None, moved=1 << 22
    ),
]


def unsaved(results: tuple) -> tuple:
    """Saved statistics of shape [rows, 1] as [rows]."""
    return tuple(result.reshape(-1) if result.shape[-1] == 1 else result for result in results)


def assert_close(actual: object, expected: object) -> None:
    """Assert that each of one or several results agrees to 1e-5 of its largest entry."""
    several = isinstance(expected, tuple)
    for a, e in zip(actual if several else [actual], expected if several else [expected], strict=True):
        a, e = np.asarray(a, dtype=np.float64), np.asarray(e, dtype=np.float64)
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())


def in_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


@pytest.mark.parametrize("peer", ["gradcore", "torch"])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_op(measure, op, peer):
    if peer == "torch" and op.torch is None:
        pytest.skip("PyTorch has no such op")
    skip_unless_installed(peer)
    exact = op.inputs(np.random.default_rng(11))
    arrays = [in_float32(array) for array in exact]
    assert_close(op.gradcore(*arrays), op.gradcore(*exact))

    def work() -> object:
        return op.gradcore(*arrays)

    if peer == "torch":
        import torch

        tensors = [torch.from_numpy(array) for array in arrays]

        def work() -> object:
            return op.torch(torch.ops.aten, *tensors)

        assert_close(work(), op.gradcore(*arrays))
    measure(op.name, work, flops=op.flops, bytes=4 * op.moved)


@pytest.mark.parametrize("library", ["gradcore", "torch"])
@pytest.mark.parametrize("case", CLIP_CASES, ids=lambda case: case.name)
def test_clip_grad_norm(measure_case, case, library):
    measure_case(case, library)
