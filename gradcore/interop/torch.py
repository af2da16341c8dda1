"""Converts PyTorch modules to nets, with their weights and optimizers, and nets to PyTorch modules.

`torch.fx` traces the graph of a module without running it, so a class with its own `forward` can be read like a
Sequential. Errors and warnings name whatever a gradcore net cannot represent.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from typing import Any, overload

from .. import _check
from ..mlp import MLP, NORM_EPS, skip_connections
from ..optim import Optimizer
from .torch_graph import ACTIVATIONS, NORMALIZATIONS, OPTIONS, Reader
from .torch_optimizer import convert


@overload
def from_torch(model: Any, optimizer: None = None) -> MLP: ...
@overload
def from_torch(model: Any, optimizer: Any) -> tuple[MLP, Optimizer]: ...
def from_torch(model: Any, optimizer: Any = None) -> MLP | tuple[MLP, Optimizer]:
    """Convert a PyTorch module to a net, with its weights and running statistics, and its optimizer to one for the net.

        net, optimizer = gc.from_torch(model, torch_optimizer)
        print(gc.analyze(net, x, labels, optimizer=optimizer))

    Args:
        model: a torch.nn.Module of dense layers (Linear). Each layer but the last may be followed by a normalization
            (BatchNorm1d, LayerNorm or RMSNorm, the same after every layer), an activation, and the addition of its
            input, in this order, as modules or in `forward`. Reshapes before the first layer, such as Flatten, are
            skipped; the net takes inputs [batch, in]. Of a larger model, pass the part that is such a net: model.actor,
            or torch.nn.Sequential(model.body, model.head). The model does not change, but no other thread may use it
            during the call.
        optimizer: SGD, RMSprop, Adam or AdamW of torch.optim for the model's parameters, and possibly others. Its
            settings must be the same for all of the model's parameters, except weight_decay, for which that of the
            dense weights counts. The learning rate is the present one; schedulers are not read (assign a schedule of
            gc.optim to the `lr` of the result).

    Returns:
        A net with copies of the weights, float64 if any of them is float64, else float32. `gc.to_torch` converts back.
        With `optimizer`, (net, optimizer): one of gc.optim with the same settings, moments and step count. PyTorch's
        SGD does not count its steps; with a momentum buffer, it counts as having taken one step.

    Warns:
        UserWarning: naming what differs from the model. Left out are Dropout, hooks, and a final Softmax, LogSoftmax or
            Sigmoid, which the losses contain. eps is always 1e-5 and the momentum of batch norm 0.1. A layer without a
            bias or scale that other layers have gets one without effect; missing running statistics start anew. The net
            trains every parameter, also those that require no gradients, that the optimizer does not update, or that
            are computed (weight norm, pruning), and batch norm that is in evaluation mode while the model is not.

    Raises:
        TypeError: `model` is not a torch.nn.Module, or `optimizer` not a torch.optim.Optimizer.
        ValueError: naming what a gradcore net or optimizer cannot represent, or why `forward` could not be traced.
        ModuleNotFoundError: PyTorch is not installed.
    """
    torch = _torch("from_torch")
    _check.instance(model, "model", torch.nn.Module, "a torch.nn.Module")
    reader = Reader(torch, model)
    net = reader.net()
    converted = None if optimizer is None else convert(torch, optimizer, net, reader.tensors, reader.notes)
    if notes := str(reader.notes):
        warnings.warn(f"the net differs from the model: {notes}", UserWarning, stacklevel=2)
    return net if converted is None else (net, converted)


def to_torch(net: MLP) -> Any:
    """Convert a net to a PyTorch module, with copies of its weights and running statistics.

    Returns a torch.nn.Sequential, or with skip connections a torch.fx.GraphModule, in training mode on the CPU. It does
    not depend on gradcore, nor do its saved files. Its submodules are called "dense0", "norm0", "activation0", ..., so
    `model.state_dict()` has the names of `net.parameters` and `net.buffers`.

    Args:
        net: any net. A net of dtype "bfloat16" becomes a float32 module, for use with torch.autocast.

    Raises:
        TypeError: `net` is not a gradcore.MLP.
        ModuleNotFoundError: PyTorch is not installed.
    """
    _check.instance(net, "net", MLP, "a gradcore.MLP")
    torch = _torch("to_torch")
    skips = skip_connections(net.config)
    model, graph = torch.nn.Sequential(), torch.fx.Graph()
    value = graph.placeholder("x")
    for layer in range(net.depth):
        entry = value
        for name, module in _modules(torch, net, layer):
            model.add_module(name, module)
            value = graph.call_module(name, (value,))
        if skips[layer]:
            value = graph.call_function(operator.add, (entry, value))
    graph.output(value)
    state = model.state_dict()
    for tensor, values in {**net.parameters, **net.buffers}.items():
        state[tensor].copy_(torch.from_numpy(values))
    return torch.fx.GraphModule(model, graph, "MLP") if skips.any() else model


def _torch(function: str) -> Any:
    try:
        import torch
        import torch.fx
    except ModuleNotFoundError as error:
        if error.name != "torch":  # the module is there, but it does not load
            raise
        raise ModuleNotFoundError(
            f"{function} needs PyTorch, which is not installed: https://pytorch.org/get-started", name="torch"
        ) from None
    return torch


def _modules(torch: Any, net: MLP, layer: int) -> Iterator[tuple[str, Any]]:
    """The named submodules of a dense layer and what follows it."""
    width, hidden, dtype = net.widths[layer + 1], layer + 1 < net.depth, getattr(torch, net.dtype.name)
    # Weights that are drawn only to be replaced would take numbers from the program's stream.
    linear = torch.nn.utils.skip_init(torch.nn.Linear, net.widths[layer], width, bias=net.bias, dtype=dtype)
    yield f"dense{layer}", linear
    if hidden and net.normalization:
        yield f"norm{layer}", getattr(torch.nn, NORMALIZATIONS[net.normalization])(width, eps=NORM_EPS, dtype=dtype)
    if hidden and net.activations[layer] != "identity":
        options = OPTIONS.get(net.activations[layer], {})
        yield f"activation{layer}", getattr(torch.nn, ACTIVATIONS[net.activations[layer]])(**options)
