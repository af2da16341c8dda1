"""The multilayer perceptron: a thin layer over the native net. Names, shapes and defaults; no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _core, flow, init
from ._core import ConversionNeeded
from .optim import Optimizer

if TYPE_CHECKING:
    from .history import History

Array = _check.Array

NORM_EPS = 1e-5  # added to the variance by every normalization of a net: kNormEps of the library


class Step(NamedTuple):
    """The result of `train_step`: the loss, and the total gradient norm before clipping."""

    loss: float
    total_norm: float


class Tensors(Mapping[str, Array]):
    """Named writable views of one contiguous buffer of a net.

    `tensors[name]` creates a view. The view stays valid, and keeps the net's memory alive, as long as you hold it.
    `tensors[name] = values` copies into the buffer. `tensors.flat` is the whole buffer, 1-D: each tensor starts at a
    multiple of 64 bytes, and the padding between tensors is zero and must stay zero.

    While a view of the parameters exists, every call of the net repacks the weights, because they may have changed.
    Do not keep views in a training loop. `copy.deepcopy(net.parameters)` and pickles are copies with their own memory.
    """

    def __init__(self, flat: Callable[[], Array], table: Sequence[tuple[str, int, list[int]]]) -> None:
        self._flat = flat
        self._table = {name: (offset, tuple(shape)) for name, offset, shape in table}

    @property
    def flat(self) -> Array:
        """The whole buffer, 1-D."""
        return self._flat()

    def like(self, flat: Array) -> Tensors:
        """The same names over another buffer of the same layout, such as a sum of gradients."""
        return _tensors_over(flat, self._table)

    def __reduce__(self) -> tuple[Any, ...]:
        return _tensors_over, (self.flat, self._table)

    def __getitem__(self, name: str) -> Array:
        try:
            offset, shape = self._table[name]
        except KeyError:
            names = _check.listed(list(self._table), 6) or "none"
            raise KeyError(f"expected one of {names}; got {name!r}") from None
        size = shape[0] * (shape[1] if len(shape) == 2 else 1)
        return self._flat()[offset : offset + size].reshape(shape)

    def __setitem__(self, name: str, values: ArrayLike) -> None:
        view, array = self[name], _check.array(values, name)
        try:
            view[...] = array
        except ValueError:
            raise ValueError(f"{name}: expected shape {list(view.shape)}, got {array.shape}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {list(shape)}" for name, (_, shape) in self._table.items()) + "}"


def _tensors_over(flat: Array, table: Mapping[str, tuple[int, tuple[int, ...]]]) -> Tensors:
    return Tensors(lambda: flat, [(name, offset, list(shape)) for name, (offset, shape) in table.items()])


class MLP:
    """A multilayer perceptron with its parameters, gradients and workspace.

    Dense layers are numbered from 0 at the input. Hidden layer l computes

        z = W x + b,   y = norm(z),   h = act(y) (+ x)

    The last layer is linear, without normalization or activation.

    Args:
        widths: [in, hidden..., out]; len(widths) - 1 dense layers.
        activation: a name from `gc.activations()`, or one name per hidden layer.
        normalization: None, "batch", "layer" or "rms" (eps 1e-5; batch norm as in PyTorch, momentum 0.1).
        residual: add a hidden block's input to its output wherever the two widths are equal.
        init: a name from `gc.initializers()`, or a function (shape, rng) -> weights; see `gradcore.init`.
        bias: whether dense layers have biases. Biases start at zero.
        dtype: "float32", "float64" or "bfloat16". With "bfloat16", arrays and sums are float32, but the dense products
            round their operands (weights, inputs and deltas) to bfloat16. If `gc.cpu_info()["bfloat16_products"]`,
            layers of 512 units or more are 1.8 to 1.9 times as fast (bench/peers.py --dtype bfloat16), and products
            treat numbers below 2^-126 as zero, so that vanishing gradients reach zero earlier. On other CPUs,
            "bfloat16" is no faster than "float32".
        seed: seed of the initial weights; None draws fresh randomness.

    Attributes:
        widths, depth, in_features, out_features: the shape; depth is the number of dense layers.
        activations: one name per hidden layer. normalization, residual, bias: as given.
        dtype: numpy.dtype of all arrays. compute_dtype: the name given as dtype, the type of the dense products.
        parameters, gradients, buffers: mappings from names to writable views; see `gradcore.mlp.Tensors`.
            "dense0.weight" [out_features, in_features], "dense0.bias", "norm0.weight", "norm0.bias", ...;
            buffers are the running statistics of batch norm.

    Raises:
        ValueError, TypeError: naming the argument.

    Data may be nested lists, or anything with the buffer protocol, `__array__` or DLPack: NumPy arrays, pandas tables,
    tensors of PyTorch and JAX on the CPU.

    A net can be used by one thread at a time; a second thread gets a ValueError.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        normalization: str | None = None,
        residual: bool = False,
        init: str | init.Initializer = "auto",
        bias: bool = True,
        dtype: str = "float32",
        seed: int | None = 0,
    ) -> None:
        from .init import check, initialize

        check(init)
        self._build(widths, activation, normalization, residual, init, bias, dtype, seed)
        initialize(self, init, self._seed)

    def _build(
        self,
        widths: Sequence[int],
        activation: str | Sequence[str],
        normalization: str | None,
        residual: bool,
        init: str | init.Initializer,
        bias: bool,
        dtype: str,
        seed: int | None,
    ) -> None:
        """Build everything except the weights, which stay zero."""
        shape = _check.widths(widths)
        names = _check.activations(activation, len(shape) - 2)
        core = _core.Net(
            shape,
            [_check.ACTIVATIONS[name] for name in names],
            _check.choice(normalization, "normalization", _check.NORMALIZATIONS),
            _check.flag(residual, "residual"),
            _check.flag(bias, "bias"),
            _check.DTYPES[_check.dtype_name(dtype)],
        )
        digits = None if _check.seed(seed) is None else str(seed)
        core.set_origin(init if isinstance(init, str) else "custom", digits)  # files hold no functions
        self._adopt(core)
        self._init = init

    def _adopt(self, core: _core.Net) -> None:
        """Wrap this native net."""
        self._core = core
        widths, activations, normalization, self.residual, self.bias, dtype, self._init, seed = core.config
        self.widths = tuple(widths)
        self.depth = len(self.widths) - 1
        self.in_features, self.out_features = self.widths[0], self.widths[-1]
        self.activations = tuple(_core.ACTIVATIONS[code] for code in activations)
        self.normalization = _core.NORMALIZATIONS[normalization]
        self.compute_dtype = _core.DTYPES[dtype]
        self.dtype = np.dtype(np.float64 if self.compute_dtype == "float64" else np.float32)
        self._seed = None if seed is None else int(seed)
        table = core.parameter_table
        self._parameters = Tensors(core.parameters, table)
        self._gradients = Tensors(core.gradients, table)
        self._buffers = Tensors(core.buffers, core.buffer_table)

    @classmethod
    def _without_weights(cls, config: dict[str, Any]) -> MLP:
        """A net of this `config` with zero weights, for callers that fill them in at once."""
        net = cls.__new__(cls)
        net._build(**config)
        return net

    @classmethod
    def _around(cls, core: _core.Net) -> MLP:
        """An MLP around an existing native net."""
        net = cls.__new__(cls)
        net._adopt(core)
        return net

    # ---- properties --------------------------------------------------------------------------------------

    @property
    def parameters(self) -> Tensors:
        """Weights and biases by name."""
        return self._parameters

    @property
    def gradients(self) -> Tensors:
        """Gradients of the last backward pass, by the names of their parameters."""
        return self._gradients

    @property
    def buffers(self) -> Tensors:
        """Running means and variances of batch norm, by name."""
        return self._buffers

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of `MLP`: `gc.MLP(**net.config)` has the initial weights of this net, unless "seed" is None.

        "init" may be "custom" in a net from a file, a pickle, C, PyTorch or scikit-learn, where the function that drew
        the weights is not known. MLP does not take that name; give it another "init".
        """
        return {
            "widths": list(self.widths),
            "activation": list(self.activations),
            "normalization": self.normalization,
            "residual": self.residual,
            "bias": self.bias,
            "dtype": self.compute_dtype,
            "init": self._init,
            "seed": self._seed,
        }

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(array.size for array in self.parameters.values())

    @property
    def workspace_bytes(self) -> int:
        """Bytes held for passes (saved activations, deltas, packed weights); grows to the largest pass so far."""
        return self._core.workspace_bytes()

    def __repr__(self) -> str:
        text = f"MLP({_widths_text(self.widths)}"
        names = set(self.activations)
        if names and names != {"relu"}:
            text += f", activation={next(iter(names)) if len(names) == 1 else list(self.activations)!r}"
        options = {"normalization": None, "residual": False, "bias": True}
        changed = {name: getattr(self, name) for name, default in options.items() if getattr(self, name) != default}
        if self.compute_dtype != "float32":
            changed["dtype"] = self.compute_dtype
        return text + "".join(f", {name}={value!r}" for name, value in changed.items()) + ")"

    # ---- passes ------------------------------------------------------------------------------------------

    def __call__(self, x: ArrayLike) -> Array:
        """Outputs for `x` in inference mode, as `forward(x)`. Discards a forward pass that waits for its `backward`."""
        return self.forward(x)

    def forward(self, x: ArrayLike, training: bool = False) -> Array:
        """Outputs for a batch.

        Args:
            x: [batch, in_features]. Arrays of the net's dtype with contiguous rows are not copied; other numeric
                arrays are converted.
            training: batch norm uses the statistics of the batch and updates the running statistics; everything
                that `backward` needs is kept.

        Returns:
            [batch, out_features]; logits for the cross entropies.

        Raises:
            ValueError: wrong shape, no rows (in training with batch norm, fewer than two), or NaN or infinity in `x`.
            TypeError: `x` does not hold real numbers.
        """
        training = _check.flag(training, "training")
        try:
            return self._core.forward(x, training)
        except ConversionNeeded:
            pass
        return self._core.forward(self._input(x), training)

    def backward(self, grad_output: ArrayLike) -> Array:
        """Gradients with respect to the parameters (overwrites `gradients`) and to the input.

        Each `forward(x, training=True)` serves one `backward`, with no other pass in between.

        Args:
            grad_output: [batch, out_features], the gradient of the loss with respect to the outputs of that forward
                pass.

        Returns:
            grad_input, [batch, in_features].

        Raises:
            ValueError: no such forward pass, wrong shape, or NaN or infinity in `grad_output`.
        """
        try:
            return self._core.backward(grad_output)
        except ConversionNeeded:
            pass
        return self._core.backward(_check.matrix(grad_output, "grad_output", self.dtype, self.out_features))

    def loss(self, x: ArrayLike, target: ArrayLike, loss: str = "cross_entropy") -> float:
        """The mean loss in inference mode; arguments as in `loss_and_gradients`.

        The net does not change. As with `net(x)`, a forward pass that waits for its `backward` is discarded.
        """
        code = _check.choice(loss, "loss", _check.LOSSES)
        try:
            return self._core.loss(x, target, code)
        except ConversionNeeded:
            pass
        return self._core.loss(*self._batch(x, target, loss), code)

    def loss_and_gradients(
        self, x: ArrayLike, target: ArrayLike, loss: str = "cross_entropy", record: bool = False
    ) -> float:
        """Forward, loss and backward in one native call; overwrites `gradients`.

        Batch norm uses the statistics of the batch and updates the running statistics.

        Args:
            x: [batch, in_features].
            target: for "cross_entropy", labels [batch] of any integer type or probabilities [batch, out_features];
                for all other losses, values [batch, out_features], or [batch] if out_features is 1.
            loss: "cross_entropy" (mean over rows), or "binary_cross_entropy" (of logits), "mse", "mae" or "huber"
                (delta 1), each with the mean over all elements.
            record: measure the pass; `flow` then holds the result.

        Returns:
            The mean loss. A loss that overflows is returned as is.

        Raises:
            ValueError: wrong shapes, labels or probabilities out of range, or NaN or infinity in the data.
            TypeError: the data does not hold real numbers.
        """
        code, record = _check.choice(loss, "loss", _check.LOSSES), _check.flag(record, "record")
        try:
            return self._core.loss_and_gradients(x, target, code, record)
        except ConversionNeeded:
            pass
        return self._core.loss_and_gradients(*self._batch(x, target, loss), code, record)

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
        """Loss, gradients, clipping and update in one native call.

        Clipping is part of the update; `gradients` keeps the unclipped values.

        Args:
            x, target, loss, record: as in `loss_and_gradients`.
            optimizer: an optimizer created for this net.
            clip_norm, clip_value: as in `Optimizer.step`.

        Returns:
            Step(loss, total_norm), with the norm before clipping.

        Raises:
            ValueError: as in `loss_and_gradients`, or for a bad bound.
            FloatingPointError: with `clip_norm`, if the total norm is not finite. Parameters, running statistics and
                optimizer state are then unchanged.
        """
        _check.instance(optimizer, "optimizer", Optimizer, "one of gc.optim")
        code, record = _check.choice(loss, "loss", _check.LOSSES), _check.flag(record, "record")
        norm = 0.0 if clip_norm is None else _check.clip_bound(clip_norm, "clip_norm")
        value = 0.0 if clip_value is None else _check.clip_bound(clip_value, "clip_value")
        ready = optimizer._ready()
        try:
            return Step(*self._core.train_step(x, target, code, ready, norm, value, record))
        except ConversionNeeded:
            pass
        return Step(*self._core.train_step(*self._batch(x, target, loss), code, ready, norm, value, record))

    @property
    def flow(self) -> flow.GradientFlow:
        """The measurements of the last pass with `record=True`; ValueError before the first one."""
        return flow.recorded(self._core, self.widths, self.dtype.name)

    def _input(self, x: ArrayLike) -> Array:
        return _check.matrix(x, "x", self.dtype, self.in_features)

    def _batch(self, x: ArrayLike, target: ArrayLike, loss: str) -> tuple[Array, Array]:
        rows = self._input(x)
        return rows, _check.target(target, self.dtype, loss, len(rows), self.out_features)

    # ---- training, files, copies -------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        target: ArrayLike,
        *,
        epochs: int,
        batch_size: int,
        optimizer: Optimizer,
        loss: str = "cross_entropy",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        validation: tuple[ArrayLike, ArrayLike] | float | None = None,
        callbacks: Iterable[Any] = (),
        progress: bool | Callable[[dict[str, float]], Any] = True,
        shuffle: bool = True,
        seed: int | None = 0,
        drop_last: bool = False,
    ) -> History:
        """Train on a data set and return the History; `gradcore.training.fit` describes the arguments."""
        from .training import fit

        return fit(
            self,
            X,
            target,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss=loss,
            clip_norm=clip_norm,
            clip_value=clip_value,
            validation=validation,
            callbacks=callbacks,
            progress=progress,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Atomically write architecture, parameters and buffers to a safetensors file, for `gc.load`.

        Raises:
            OSError: if the file cannot be written; nothing is left behind.
        """
        from .io import save

        save(self, path)

    def copy(self) -> MLP:
        """An independent net with equal parameters and buffers; its gradients are zero."""
        other = MLP._without_weights(self.config)
        other.parameters.flat[:] = self.parameters.flat
        other.buffers.flat[:] = self.buffers.flat
        return other

    def __copy__(self) -> MLP:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> MLP:
        other = memo[id(self)] = self.copy()
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        from .io import from_bytes, to_bytes

        return from_bytes, (to_bytes(self),)


def skip_connections(config: Mapping[str, Any]) -> Array:
    """Whether each dense layer of an `MLP.config` has a skip connection around its block, bool [depth].

    With `residual`, these are the hidden layers whose two widths are equal; there may be none.
    """
    widths = np.array(config["widths"][:-1])
    return np.append((widths[:-1] == widths[1:]) & bool(config["residual"]), False)


def _widths_text(widths: tuple[int, ...]) -> str:
    """[64] + [100] * 30 + [10]: runs of equal widths are joined."""
    runs = [(width, len(list(group))) for width, group in groupby(widths)]
    if len(widths) <= 6 or len(runs) > 6:
        return str(list(widths))
    return " + ".join(f"[{width}]" if count == 1 else f"[{width}] * {count}" for width, count in runs)
