"""What a PyTorch module computes, read from its graph, which `torch.fx` traces without running it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .mlp import MLP, NORM_EPS, skip_connections

_MOMENTUM = 0.1  # of batch norm's running statistics: kNormMomentum of the library

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
# What PyTorch lets choose, in the order of its arguments, as gradcore has it.
OPTIONS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "gelu_tanh": {"approximate": "tanh"},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "hard_tanh": {"min_val": -1.0, "max_val": 1.0},
}
NORMALIZATIONS = {"batch": "BatchNorm1d", "layer": "LayerNorm", "rms": "RMSNorm"}

# What modules, functions and methods are called, by `_plain`.
_ACTIVATION_OF = {name.lower(): activation for activation, name in reversed(ACTIVATIONS.items())}
_NORMALIZATION_OF = {name.lower().removesuffix("1d"): normalization for normalization, name in NORMALIZATIONS.items()}
_OUTPUT_NOTES = {
    "sigmoid": "the Sigmoid at its end is left out: loss='binary_cross_entropy' contains it",
    "softmax": "the Softmax at its end is left out: loss='cross_entropy' contains it, as does PyTorch's "
    "CrossEntropyLoss, which behind a Softmax applies it twice",
    "logsoftmax": "the LogSoftmax at its end is left out: loss='cross_entropy' contains it",
}
_ADDITIONS = frozenset(("add", "iadd"))
_DROPOUTS = frozenset(("dropout", "alphadropout"))
_UNCHANGED = frozenset(("identity", "contiguous", "clone", "to", "type", "float", "double", "requiresgrad"))
_RESHAPES = frozenset(("flatten", "view", "reshape", "squeeze"))
_SIZES = frozenset(("size", "numel", "shape", "dtype", "device"))

_PART = "pass the part of the model that is one, such as model.actor or nn.Sequential(model.body, model.head)"
_FORM = (
    "a gradcore net is dense layers (Linear), each but the last followed by a normalization, an activation and the "
    f"addition of its input, or some of these, in this order: {_PART}"
)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Afterwards each part has the attributes that it had, whatever `forward` and hooks set."""
    before = [(part, dict(vars(part))) for part in model.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)


def _tracer(torch: Any) -> Any:
    """Goes through models that torch.compile or DataParallel wraps, and knows that a net's values are matrices."""

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
    entry: Any  # the node whose value comes in
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
    """What a node of a graph does."""

    kind: str  # by `_plain`
    label: str  # as the user knows it
    node: Any
    module: Any = None

    def option(self, name: str, place: int, default: Any) -> Any:
        """The argument of this name, which functions may have at this place behind the values they are applied to."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.node.kwargs.get(name, (*self.node.args[1:], *[default] * (place + 1))[place])


def _plain(name: str) -> str:
    """One word for batch_norm and BatchNorm1d, relu, relu_ and ReLU."""
    return name.lower().replace("_", "").removesuffix("1d")


class Reader:
    """Goes through the graph of a model, node by node, and collects blocks."""

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch = torch
        self._root = torch.nn.Sequential(model)  # so that a model that is one Linear is a part, too
        self._blocks: list[_Block] = []
        self._value: Any = None  # the node that the next one must go on from
        self._same: dict[Any, Any] = {}  # of nodes that change nothing: the one whose value they pass on
        self._sizes: set[Any] = set()  # nodes that compute with shapes
        self._ending: _Operation | None = None  # what nothing but the output may follow
        self._used: dict[int, Any] = {}  # parts and parameters, by identity
        self.notes: dict[str, list[str]] = {}  # texts, and the names that go into their {}

    def _trace(self) -> Any:
        if any(isinstance(part, self._torch.jit.ScriptModule) for part in self._root.modules()):
            raise ValueError("model: torch.jit made it, which leaves no forward to trace: pass what it was made from")
        for name, part in self._root.named_modules():
            if part._backward_hooks or part._backward_pre_hooks:
                self._note("backward hooks of {} are left out", name.partition(".")[2] or type(part).__name__)
            # Module.compile sets the last of these.
            vars(part).update(_backward_hooks={}, _backward_pre_hooks={}, _compiled_call_impl=None)
        try:
            graph = _tracer(self._torch).trace(self._root)
        except Exception as error:  # whatever the model's own code raises
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"model: torch.fx cannot trace its forward ({reason}): {_PART}, or build a gc.MLP of its widths and "
                "copy its tensors into net.parameters"
            ) from error
        for node in reversed(graph.nodes):  # such as h.detach(), kept for a look at it
            if node.op == "call_method" and not node.users and not node.target.endswith("_"):
                graph.erase_node(node)
        return graph

    def _note(self, text: str, name: str = "") -> None:
        self.notes.setdefault(text, []).append(name)

    # ---- nodes -------------------------------------------------------------------------------------------

    def _take(self, node: Any) -> None:
        if node.op == "placeholder":
            self._value = node
        elif node.op == "output":
            self._check_flow(node, "what it returns")
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
        """Such as x.size(0), x.device, or a product of sizes: of no effect, as inputs are matrices."""
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
                self._refuse(operation, "goes over the batch, not over the classes (dim=1)")
            self._note(_OUTPUT_NOTES[kind])
            self._ending = operation
        else:
            self._refuse(operation, "has no counterpart")
        self._value = operation.node

    def _refuse(self, operation: _Operation, why: str, rule: str = _FORM) -> NoReturn:
        raise ValueError(f"model: {operation.label} {why}; {rule}")

    def _check_flow(self, node: Any, label: str) -> None:
        """Each node goes on from the one before, and from no other."""
        values = [each for each in node.all_input_nodes if each not in self._sizes and each.op != "get_attr"]
        if not values and node.op != "output":
            raise ValueError(f"model: {label} does not depend on the input; {_FORM}")
        if [self._origin(each) for each in values] != [self._origin(self._value)]:
            raise ValueError(f"model: {label} does not go on from what was computed last; {_FORM}")

    def _origin(self, node: Any) -> Any:
        return self._same.get(node, node)

    def _pass_on(self, operation: _Operation) -> None:
        if operation.kind in _DROPOUTS and operation.option("p", 0, 0.5) > 0:
            self._note("Dropout is left out")
        if operation.kind in _RESHAPES and self._blocks:
            self._ending = self._ending or operation
        self._same[operation.node] = self._origin(self._value)
        self._value = operation.node

    def _run_hooks(self, operation: _Operation) -> None:
        """Those of torch.nn.utils compute tensors of the module, such as weight_norm; others are left out."""
        module = operation.module
        if isinstance(module, self._torch.nn.modules.lazy.LazyModuleMixin):
            self._refuse(operation, "has no weights yet", "run a batch through the model first")
        before = module._forward_pre_hooks.values()
        computing = [hook for hook in before if type(hook).__module__.startswith("torch.nn.utils.")]
        for hook in computing:
            hook(module, ())
        if computing or hasattr(module, "parametrizations"):
            self._note("tensors of {} are computed (weight norm, pruning), and the net trains them", operation.label)
        if len(computing) < len(before) or module._forward_hooks or "forward" in vars(module):
            self._note("hooks of {} are left out", operation.label)

    # ---- blocks ------------------------------------------------------------------------------------------

    def _begin_block(self, operation: _Operation) -> None:
        weight, bias = (operation.option(name, place, None) for place, name in enumerate(("weight", "bias")))
        if operation.module is None:
            weight, bias = self._parameter(operation, weight), self._parameter(operation, bias)
        self._claim(operation, weight, bias)
        self._blocks.append(_Block(operation.label, self._origin(self._value), weight, bias))

    def _claim(self, operation: _Operation, *tensors: Any) -> None:
        """These are the tensors of one layer, which shares nothing with others."""
        for part in (operation.module, *tensors):
            if part is not None and self._used.setdefault(id(part), operation) is not operation:
                self._refuse(operation, "is used twice, and a net's layers share nothing")
        for tensor in (each for each in tensors if each is not None):
            if tensor.is_meta:
                self._refuse(operation, "is on the meta device, without values", "load them first")
            if not tensor.is_floating_point() or not tensor.numel():
                what = f"has a tensor {list(tensor.shape)} of {tensor.dtype}"
                self._refuse(operation, what, "a gradcore net has real numbers, and at least one unit in each layer")

    def _parameter(self, operation: _Operation, argument: Any) -> Any:
        """What a function is given that is a parameter of the model, or None."""
        if argument is None:
            return None
        if getattr(argument, "op", "") != "get_attr":
            self._refuse(operation, "takes weights that are computed")
        return operator.attrgetter(argument.target)(self._root)

    def _normalize(self, operation: _Operation) -> None:
        if not self._blocks:
            self._refuse(operation, "comes before the first dense layer: standardize x instead")
        if not self._blocks[-1].is_linear:
            self._refuse(operation, "does not follow a dense layer")
        if operation.module is None:
            self._refuse(operation, "is a function: only modules are read, such as LayerNorm")
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
                self._refuse(operation, f"has {option}={theirs!r}, where gradcore's has {ours!r}")
        block.activation = name

    def _add(self, operation: _Operation) -> None:
        terms = [self._origin(each) for each in operation.node.all_input_nodes]
        block = self._blocks[-1] if self._blocks else None
        expected = block is not None and not block.skip and {*terms} == {block.entry, self._origin(self._value)}
        if not expected or len(operation.node.args) != 2 or operation.node.kwargs:
            self._refuse(operation, "adds something else than the last layer's input to what it has made of it")
        assert block is not None
        block.skip = True
        self._value = operation.node

    # ---- the net -----------------------------------------------------------------------------------------

    def net(self) -> MLP:
        """The net that the model is, which stays as it was."""
        with _undisturbed(self._root), self._torch.enable_grad():
            graph = self._trace()
            for part in self._root.modules():
                vars(part)["training"] = False  # where it trains, spectral norm goes on as its weights are read
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
        """Only a sigmoid may follow the output, and goes."""
        if block.activation == "sigmoid" and block.norm is None and not block.skip:
            self._note(_OUTPUT_NOTES["sigmoid"])
        elif not block.is_linear:
            followed = block.activation or ("an addition" if block.skip else type(block.norm).__name__)
            raise ValueError(f"model: {block.label} is the last one, and {followed} follows it; {_FORM}")

    def _normalization(self) -> str | None:
        kinds = {block.norm and _NORMALIZATION_OF[_plain(type(block.norm).__name__)] for block in self._blocks[:-1]}
        if len(kinds) > 1:
            named = sorted(NORMALIZATIONS[kind] if kind else "none" for kind in kinds)
            raise ValueError(f"model: expected the same normalization behind all hidden layers, got {', '.join(named)}")
        return kinds.pop() if kinds else None

    def _check_skips(self, net: MLP) -> None:
        theirs = [layer for layer, block in enumerate(self._blocks) if block.skip]
        ours = np.flatnonzero(skip_connections(net.config)).tolist()
        if theirs != ours:
            raise ValueError(
                f"model: expected inputs to be added behind all hidden layers of equal widths, {ours}, or behind none; "
                f"they are behind layers {theirs}"
            )

    def _fill(self, net: MLP, layer: int, block: _Block) -> None:
        given = {f"dense{layer}.weight": block.weight, f"dense{layer}.bias": block.bias}
        if block.norm is not None:
            for name in ("weight", "bias", "running_mean", "running_var"):
                given[f"norm{layer}.{name}"] = getattr(block.norm, name, None)
            self._note_differences(block)
        for tensor, values in given.items():
            if tensor in net.parameters and values is not None and not values.requires_grad:
                self._note("{} require no gradients, and the net trains them", tensor)
            for tensors in (net.parameters, net.buffers):
                if tensor in tensors:
                    tensors[tensor] = self._without_effect(tensor) if values is None else self._values(net, values)

    def _values(self, net: MLP, tensor: Any) -> Any:
        return tensor.detach().to("cpu", getattr(self._torch, net.dtype.name)).numpy()

    def _without_effect(self, tensor: str) -> float:
        """What stands for a tensor that the model does without."""
        name = tensor.partition(".")[2]
        if name.startswith("running"):
            self._note("it keeps no running statistics of batch norm, and the net begins with new ones")
        else:
            self._note("it has no {}; those of the net do nothing until they are trained", tensor)
        return 1.0 if name in ("weight", "running_var") else 0.0

    def _note_differences(self, block: _Block) -> None:
        norm = block.norm
        eps = self._torch.finfo(block.weight.dtype).eps if norm.eps is None else norm.eps
        if eps != NORM_EPS:
            self._note(f"the eps of its normalizations is {eps:.2g}, the net's {NORM_EPS:g}")
        momentum = getattr(norm, "momentum", _MOMENTUM)
        if momentum != _MOMENTUM:
            self._note(f"the momentum of its batch norm is {momentum}, the net's {_MOMENTUM}")
