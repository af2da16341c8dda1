"""Reads nets from the graphs of PyTorch modules, which `torch.fx` traces without running them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .. import _check
from ..mlp import MLP, NORM_EPS, skip_connections

_MOMENTUM = 0.1  # of batch norm's running statistics; kNormMomentum in the library

ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "selu": "SELU",
    "gelu": "GELU",
    "gelu_tanh": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
    "softplus": "Softplus",
    "tanh": "Tanh",
    "hard_tanh": "Hardtanh",
    "sigmoid": "Sigmoid",
}
# Options of PyTorch's activations, in the order of its arguments, with the values that gradcore uses.
OPTIONS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "gelu_tanh": {"approximate": "tanh"},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "hard_tanh": {"min_val": -1.0, "max_val": 1.0},
}
NORMALIZATIONS = {"batch": "BatchNorm1d", "layer": "LayerNorm", "rms": "RMSNorm"}

# Names of modules, functions and methods, as `_plain` gives them.
_ACTIVATION_OF = {name.lower(): activation for activation, name in reversed(ACTIVATIONS.items())}
_NORMALIZATION_OF = {name.lower().removesuffix("1d"): normalization for normalization, name in NORMALIZATIONS.items()}
_OUTPUT_NOTES = {
    "sigmoid": "the final Sigmoid is left out: loss='binary_cross_entropy' contains it",
    "softmax": "the final Softmax is left out: loss='cross_entropy' contains it, as does PyTorch's CrossEntropyLoss, "
    "which after a Softmax applies it twice",
    "logsoftmax": "the final LogSoftmax is left out: loss='cross_entropy' contains it",
}
_ADDITIONS = frozenset(("add", "iadd"))
_DROPOUTS = frozenset(("dropout", "alphadropout"))
_UNCHANGED = frozenset(("identity", "contiguous", "clone", "to", "type", "float", "double", "requiresgrad"))
_RESHAPES = frozenset(("flatten", "view", "reshape", "squeeze"))
_SIZES = frozenset(("size", "numel", "shape", "dtype", "device"))

_PART = "pass the part of the model that is an MLP, such as model.actor or nn.Sequential(model.body, model.head)"
_FORM = (
    "a gradcore net is a sequence of dense layers (Linear), each but the last optionally followed by a normalization, "
    f"an activation and the addition of its input, in this order; {_PART}"
)


class Notes:
    """Differences between a model and its net: texts, each with the names that are put in place of its {}."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, text: str, name: str = "") -> None:
        """Note a difference; `name` is what its {} stands for."""
        self._names.setdefault(text, []).append(name)

    def __str__(self) -> str:
        return "; ".join(text.format(_check.listed(names, 5)) for text, names in self._names.items())


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Restore the attributes of each submodule afterwards, whatever `forward` and hooks have set."""
    before = [(part, dict(vars(part))) for part in model.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)


def _tracer(torch: Any) -> Any:
    """A tracer that unwraps models of torch.compile and DataParallel, and knows that all values are matrices."""

    class Matrix(torch.fx.Proxy):  # type: ignore[misc]
        ndim = 2

        def dim(self) -> int:
            return 2

    class Tracer(torch.fx.Tracer):  # type: ignore[misc]
        def proxy(self, node: Any) -> Any:
            node.meta["no_grad"] = not torch.is_grad_enabled()
            return Matrix(node, self)

        def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
            parallel = isinstance(m, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel))
            inner = m.module if parallel else getattr(m, "_orig_mod", None)
            return super().call_module(m, forward, args, kwargs) if inner is None else inner(*args, **kwargs)

    return Tracer()


@dataclass
class _Block:
    """A dense layer of a model and what follows it."""

    label: str
    entry: Any  # the node of its input
    weight: Any
    bias: Any
    norm: Any = None
    activation: str = ""
    skip: bool = False

    @property
    def is_linear(self) -> bool:
        return self.norm is None and not self.activation and not self.skip


@dataclass
class _Operation:
    """The operation of a graph's node."""

    kind: str  # a name, as `_plain` gives it
    label: str  # for messages
    node: Any
    module: Any = None

    def option(self, name: str, place: int, default: Any) -> Any:
        """An option: an attribute of the module; of a function, the argument of this name, or at this place after x."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.node.kwargs.get(name, (*self.node.args[1:], *[default] * (place + 1))[place])


def _plain(name: str) -> str:
    """The same word for batch_norm and BatchNorm1d, and for relu, relu_ and ReLU."""
    return name.lower().replace("_", "").removesuffix("1d")


class Reader:
    """Reads the graph of a model, node by node, and collects blocks."""

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch = torch
        self._root = torch.nn.Sequential(model)  # so that a model that is a single Linear is a submodule, too
        self._blocks: list[_Block] = []
        self._value: Any = None  # the last node, whose value the next one must take
        self._same: dict[Any, Any] = {}  # nodes that change nothing -> the node whose value they pass on
        self._sizes: set[Any] = set()  # nodes that compute with shapes
        self._ending: _Operation | None = None  # an operation that only the output may follow
        self._used: dict[int, Any] = {}  # modules and parameters, by identity
        self.notes = Notes()
        self.tensors: dict[str, Any] = {}  # the model's tensor, or None, for each of the net's

    def _trace(self) -> Any:
        if any(isinstance(part, self._torch.jit.ScriptModule) for part in self._root.modules()):
            raise ValueError("model: torch.jit made it, which leaves no forward to trace; pass the original model")
        for name, part in self._root.named_modules():
            if part._backward_hooks or part._backward_pre_hooks:
                self.notes.add("backward hooks of {} are left out", name.partition(".")[2] or type(part).__name__)
            # Module.compile sets the last of these.
            vars(part).update(_backward_hooks={}, _backward_pre_hooks={}, _compiled_call_impl=None)
        try:
            graph = _tracer(self._torch).trace(self._root)
        except Exception as error:  # the model's own code may raise anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"model: torch.fx cannot trace its forward ({reason}); {_PART}, or build a gc.MLP with its widths and "
                "copy its tensors into net.parameters"
            ) from error
        for node in reversed(graph.nodes):  # unused values, such as an h.detach() kept for inspection
            if node.op == "call_method" and not node.users and not node.target.endswith("_"):
                graph.erase_node(node)
        return graph

    # ---- nodes -------------------------------------------------------------------------------------------

    def _take(self, node: Any) -> None:
        if node.op == "placeholder":
            self._value = node
        elif node.op == "output":
            self._check_flow(node, "the return value")
        elif node.op != "get_attr" and not self._computes_sizes(node):
            self._apply(self._operation(node))

    def _operation(self, node: Any) -> _Operation:
        if node.op == "call_module":
            module = self._root.get_submodule(node.target)
            kind, path = type(module), node.target.partition(".")[2]
            name = kind.__name__ if kind.__module__.startswith("torch.nn.") else f"{kind.__module__}.{kind.__name__}"
            if kind.forward is self._torch.nn.Linear.forward:  # with weight norm, its class has another name
                name = "Linear"
            return _Operation(_plain(name), f"{path} ({name})" if path else name, node, module)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        name = name.partition(".")[0]  # linear.default, of exported programs
        return _Operation(_plain(name), f"{name}()", node)

    def _computes_sizes(self, node: Any) -> bool:
        """Whether it is an operation such as x.size(0), x.device or a product of sizes; these need no counterpart."""
        asks = node.target in _SIZES or (node.target is getattr and node.args[1] in _SIZES)
        inputs = node.all_input_nodes
        if asks or (inputs and all(each in self._sizes for each in inputs)):
            self._sizes.add(node)
            return True
        return False

    def _apply(self, operation: _Operation) -> None:
        kind = operation.kind
        if operation.node.meta.get("no_grad") and (self._blocks or kind == "linear"):
            self._refuse(operation, "runs without autograd (torch.no_grad(), or an autograd.Function)")
        if kind in _ADDITIONS:
            return self._add(operation)
        self._check_flow(operation.node, operation.label)
        if operation.module is not None:
            self._run_hooks(operation)
        if kind in _DROPOUTS or kind in _UNCHANGED or kind in _RESHAPES:
            return self._pass_on(operation)
        if self._ending and not (self._ending.kind in _RESHAPES and kind in _ACTIVATION_OF):
            self._refuse(operation, f"follows {self._ending.label}")
        if kind == "linear":
            self._begin_block(operation)
        elif kind in _NORMALIZATION_OF:
            self._normalize(operation)
        elif kind in _ACTIVATION_OF:
            self._activate(operation)
        elif kind in _OUTPUT_NOTES and self._blocks and self._blocks[-1].is_linear:
            if operation.option("dim", 0, -1) not in (None, 1, -1):
                self._refuse(operation, "normalizes over the batch, not over the classes (dim=1)")
            self.notes.add(_OUTPUT_NOTES[kind])
            self._ending = operation
        else:
            self._refuse(operation, "has no counterpart in gradcore")
        self._value = operation.node

    def _refuse(self, operation: _Operation, why: str, rule: str = _FORM) -> NoReturn:
        raise ValueError(f"model: {operation.label} {why}; {rule}")

    def _check_flow(self, node: Any, label: str) -> None:
        """Check that the node takes the value of the one before, and no other."""
        values = [each for each in node.all_input_nodes if each not in self._sizes and each.op != "get_attr"]
        if not values and node.op != "output":
            raise ValueError(f"model: {label} does not depend on the input; {_FORM}")
        if [self._origin(each) for each in values] != [self._origin(self._value)]:
            raise ValueError(f"model: {label} depends on values other than the result of the last operation; {_FORM}")

    def _origin(self, node: Any) -> Any:
        return self._same.get(node, node)

    def _pass_on(self, operation: _Operation) -> None:
        if operation.kind in _DROPOUTS and operation.option("p", 0, 0.5) > 0:
            self.notes.add("Dropout is left out")
        if operation.kind in _RESHAPES and self._blocks:
            self._ending = self._ending or operation
        self._same[operation.node] = self._origin(self._value)
        self._value = operation.node

    def _run_hooks(self, operation: _Operation) -> None:
        """Run the hooks of torch.nn.utils that compute tensors, such as weight_norm; others are left out."""
        module = operation.module
        if isinstance(module, self._torch.nn.modules.lazy.LazyModuleMixin):
            self._refuse(operation, "has no weights yet", "run a batch through the model first")
        before = module._forward_pre_hooks.values()
        computing = [hook for hook in before if type(hook).__module__.startswith("torch.nn.utils.")]
        for hook in computing:
            hook(module, ())
        if computing or hasattr(module, "parametrizations"):
            self.notes.add(
                "tensors of {} are computed (weight norm, pruning); the net trains the results", operation.label
            )
        if len(computing) < len(before) or module._forward_hooks or "forward" in vars(module):
            self.notes.add("hooks of {} are left out", operation.label)

    # ---- blocks ------------------------------------------------------------------------------------------

    def _begin_block(self, operation: _Operation) -> None:
        weight, bias = (operation.option(name, place, None) for place, name in enumerate(("weight", "bias")))
        if operation.module is None:
            weight, bias = self._parameter(operation, weight), self._parameter(operation, bias)
        self._claim(operation, weight, bias)
        self._blocks.append(_Block(operation.label, self._origin(self._value), weight, bias))

    def _claim(self, operation: _Operation, *tensors: Any) -> None:
        """Check the tensors of a layer; layers share no module and no tensor."""
        for part in (operation.module, *tensors):
            if part is not None and self._used.setdefault(id(part), operation) is not operation:
                self._refuse(operation, "is used twice, but layers of a gradcore net share no weights")
        for tensor in (each for each in tensors if each is not None):
            if tensor.is_meta:
                self._refuse(operation, "is on the meta device, without values", "load its weights first")
            if not tensor.is_floating_point() or not tensor.numel():
                what = f"has a tensor {list(tensor.shape)} of {tensor.dtype}"
                self._refuse(operation, what, "a gradcore net has real weights and at least one unit in each layer")

    def _parameter(self, operation: _Operation, argument: Any) -> Any:
        """The parameter of the model that is passed to a function, or None."""
        if argument is None:
            return None
        if getattr(argument, "op", "") != "get_attr":
            self._refuse(operation, "takes computed weights, not parameters of the model")
        return operator.attrgetter(argument.target)(self._root)

    def _normalize(self, operation: _Operation) -> None:
        if not self._blocks:
            self._refuse(operation, "comes before the first dense layer (standardize x instead)")
        if not self._blocks[-1].is_linear:
            self._refuse(operation, "does not follow a dense layer")
        if operation.module is None:
            self._refuse(operation, "is a function, but normalizations must be modules, such as LayerNorm")
        self._claim(operation, *(getattr(operation.module, name, None) for name in ("weight", "bias")))
        self._blocks[-1].norm = operation.module

    def _activate(self, operation: _Operation) -> None:
        if not self._blocks:
            self._refuse(operation, "comes before the first dense layer")
        block, name = self._blocks[-1], _ACTIVATION_OF[operation.kind]
        if block.activation or block.skip:
            self._refuse(operation, f"follows {block.activation or 'an addition'}")
        if name == "gelu" and operation.option("approximate", 0, "none") == "tanh":
            name = "gelu_tanh"
        for place, (option, ours) in enumerate(OPTIONS.get(name, {}).items()):
            theirs = operation.option(option, place, ours)
            if theirs != ours:
                self._refuse(operation, f"has {option}={theirs!r}, but gradcore's is fixed at {ours!r}")
        block.activation = name

    def _add(self, operation: _Operation) -> None:
        terms = [self._origin(each) for each in operation.node.all_input_nodes]
        block = self._blocks[-1] if self._blocks else None
        expected = block is not None and not block.skip and {*terms} == {block.entry, self._origin(self._value)}
        if not expected or len(operation.node.args) != 2 or operation.node.kwargs:
            self._refuse(operation, "adds something other than the input of the last layer to its output")
        assert block is not None
        block.skip = True
        self._value = operation.node

    # ---- the net -----------------------------------------------------------------------------------------

    def net(self) -> MLP:
        """The model as a net; the model is left unchanged."""
        with _undisturbed(self._root), self._torch.enable_grad():
            graph = self._trace()
            norms = self._torch.nn.modules.batchnorm._BatchNorm
            frozen = any(isinstance(part, norms) and not part.training for part in self._root.modules())
            if frozen and self._root[0].training:
                self.notes.add("batch norm that the model keeps in evaluation mode is trained by the net")
            for part in self._root.modules():
                vars(part)["training"] = False  # in training mode, reading spectral norm's weights would update them
            for node in graph.nodes:
                self._take(node)
            return self._assemble()

    def _assemble(self) -> MLP:
        blocks = self._blocks
        if not blocks:
            raise ValueError(f"model: it has no dense layer (Linear); {_FORM}")
        self._free_the_last(blocks[-1])
        net = MLP._without_weights(
            {
                "widths": [blocks[0].weight.shape[1], *(block.weight.shape[0] for block in blocks)],
                "activation": [block.activation or "identity" for block in blocks[:-1]],
                "normalization": self._normalization(),
                "residual": any(block.skip for block in blocks),
                "init": "custom",
                "bias": any(block.bias is not None for block in blocks),
                "dtype": "float64" if any(block.weight.dtype == self._torch.float64 for block in blocks) else "float32",
                "seed": 0,
            }
        )
        self._check_skips(net)
        for layer, block in enumerate(blocks):
            self._fill(net, layer, block)
        return net

    def _free_the_last(self, block: _Block) -> None:
        """Drop a sigmoid after the output; refuse anything else."""
        if block.activation == "sigmoid" and block.norm is None and not block.skip:
            self.notes.add(_OUTPUT_NOTES["sigmoid"])
        elif not block.is_linear:
            followed = block.activation or ("an addition" if block.skip else type(block.norm).__name__)
            raise ValueError(f"model: {block.label} is the last layer, but {followed} follows it; {_FORM}")

    def _normalization(self) -> str | None:
        kinds = {block.norm and _NORMALIZATION_OF[_plain(type(block.norm).__name__)] for block in self._blocks[:-1]}
        if len(kinds) > 1:
            named = sorted(NORMALIZATIONS[kind] if kind else "none" for kind in kinds)
            raise ValueError(f"model: expected the same normalization after all hidden layers, got {', '.join(named)}")
        return kinds.pop() if kinds else None

    def _check_skips(self, net: MLP) -> None:
        theirs = [layer for layer, block in enumerate(self._blocks) if block.skip]
        ours = np.flatnonzero(skip_connections(net.config)).tolist()
        if theirs != ours:
            raise ValueError(
                f"model: expected skip connections around all hidden layers of equal input and output widths, {ours}, "
                f"or around none, got them around {theirs}"
            )

    def _fill(self, net: MLP, layer: int, block: _Block) -> None:
        given = {f"dense{layer}.weight": block.weight, f"dense{layer}.bias": block.bias}
        if block.norm is not None:
            for name in ("weight", "bias", "running_mean", "running_var"):
                given[f"norm{layer}.{name}"] = getattr(block.norm, name, None)
            self._note_differences(block)
        self.tensors.update(given)
        for tensor, values in given.items():
            if tensor in net.parameters and values is not None and not values.requires_grad:
                self.notes.add("{} require no gradients, but the net trains them", tensor)
            for tensors in (net.parameters, net.buffers):
                if tensor in tensors:
                    tensors[tensor] = self._without_effect(tensor) if values is None else self._values(net, values)

    def _values(self, net: MLP, tensor: Any) -> Any:
        return tensor.detach().to("cpu", getattr(self._torch, net.dtype.name)).numpy()

    def _without_effect(self, tensor: str) -> float:
        """The value without effect of a tensor that the model does not have."""
        name = tensor.partition(".")[2]
        if name.startswith("running"):
            self.notes.add("the model keeps no running statistics of batch norm; the net starts new ones")
        else:
            self.notes.add("the model has no {}; in the net they have no effect until they are trained", tensor)
        return 1.0 if name in ("weight", "running_var") else 0.0

    def _note_differences(self, block: _Block) -> None:
        norm = block.norm
        eps = self._torch.finfo(block.weight.dtype).eps if norm.eps is None else norm.eps
        if eps != NORM_EPS:
            self.notes.add(f"the eps of the model's normalizations is {eps:.2g}, that of the net {NORM_EPS:g}")
        momentum = getattr(norm, "momentum", _MOMENTUM)
        if momentum != _MOMENTUM:
            self.notes.add(f"the momentum of the model's batch norm is {momentum}, that of the net {_MOMENTUM}")
