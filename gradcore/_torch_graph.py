"""What a PyTorch module computes, read from its graph, which `torch.fx` traces without running it."""

from __future__ import annotations

import operator
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
_NORMALIZATION_OF = {name.lower(): normalization for normalization, name in NORMALIZATIONS.items()}
_OUTPUT_NOTES = {
    "sigmoid": "the Sigmoid at its end is left out: loss='binary_cross_entropy' contains it",
    "softmax": "the Softmax at its end is left out: loss='cross_entropy' contains it, as does PyTorch's "
    "CrossEntropyLoss, which behind a Softmax applies it twice",
    "logsoftmax": "the LogSoftmax at its end is left out: loss='cross_entropy' contains it",
}
_ADDITIONS = frozenset(("add", "iadd"))
_DROPOUTS = frozenset(("dropout", "alphadropout"))
_UNCHANGED = frozenset(("identity", "contiguous", "clone", "to", "float", "double"))
_RESHAPES = frozenset(("flatten", "view", "reshape", "squeeze"))
_SIZES = frozenset(("size", "dim", "numel", "shape"))

_FORM = (
    "a gradcore net is dense layers, each but the last followed by a normalization, an activation and the addition of "
    "its input, or some of these, in this order"
)


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
    """One word for log_softmax and LogSoftmax, relu, relu_ and ReLU."""
    return name.lower().replace("_", "")


class Reader:
    """Goes through the graph of a model, node by node, and collects blocks."""

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch = torch
        self._root = torch.nn.Sequential(model)  # so that a model that is one Linear is a part, too
        self._blocks: list[_Block] = []
        self._value: Any = None  # the node that the next one must go on from
        self._same: dict[Any, Any] = {}  # of nodes that change nothing: the one whose value they pass on
        self._sizes: set[Any] = set()  # nodes that compute with shapes
        self._ending = ""  # what has been seen that nothing but the output may follow
        self._added: list[str] = []  # tensors that the net has and the model has not
        self.notes: list[str] = []
        for node in self._trace().nodes:
            self._take(node)

    def _trace(self) -> Any:
        try:
            return self._torch.fx.Tracer().trace(self._root)
        except Exception as error:  # whatever the model's own code raises
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"model: torch.fx cannot trace its forward ({reason}): build a gc.MLP of its widths instead, and copy "
                "its tensors into net.parameters"
            ) from error

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

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
            name, path = type(module).__name__, node.target.partition(".")[2]
            linear = isinstance(module, self._torch.nn.Linear)  # with weight norm, it has another name
            return _Operation("linear" if linear else _plain(name), f"{path} ({name})" if path else name, node, module)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        return _Operation(_plain(name), f"{name}()", node)

    def _computes_sizes(self, node: Any) -> bool:
        """Such as x.size(0), x.shape[0], or a product of these: of no effect, as inputs are matrices."""
        asks = node.target in _SIZES or (node.target is getattr and node.args[1] in _SIZES)
        inputs = node.all_input_nodes
        if asks or (inputs and all(each in self._sizes for each in inputs)):
            self._sizes.add(node)
            return True
        return False

    def _apply(self, operation: _Operation) -> None:
        kind = operation.kind
        if kind in _ADDITIONS:
            return self._add(operation)
        self._check_flow(operation.node, operation.label)
        if kind in _DROPOUTS or kind in _UNCHANGED or kind in _RESHAPES:
            return self._pass_on(operation)
        if self._ending:
            self._refuse(operation, f"follows {self._ending}")
        if kind == "linear":
            self._begin_block(operation)
        elif kind in _NORMALIZATION_OF:
            self._normalize(operation)
        elif kind in _ACTIVATION_OF:
            self._activate(operation)
        elif kind in _OUTPUT_NOTES and self._blocks and self._blocks[-1].is_linear:
            self._note(_OUTPUT_NOTES[kind])
            self._ending = operation.label
        else:
            self._refuse(operation, "is nothing that it has")
        self._value = operation.node

    def _refuse(self, operation: _Operation, why: str) -> NoReturn:
        raise ValueError(f"model: {operation.label} {why}; {_FORM}")

    def _check_flow(self, node: Any, label: str) -> None:
        """Each node goes on from the one before, and from no other."""
        values = [each for each in node.all_input_nodes if each not in self._sizes and each.op != "get_attr"]
        if [self._origin(each) for each in values] != [self._origin(self._value)]:
            raise ValueError(f"model: {label} does not go on from what was computed last; {_FORM}")

    def _origin(self, node: Any) -> Any:
        return self._same.get(node, node)

    def _pass_on(self, operation: _Operation) -> None:
        if operation.kind in _DROPOUTS and operation.option("p", 0, 0.5) > 0:
            self._note("Dropout is left out")
        if operation.kind in _RESHAPES and self._blocks:
            self._ending = operation.label
        self._same[operation.node] = self._origin(operation.node.args[0])
        self._value = operation.node

    # ---- blocks ------------------------------------------------------------------------------------------

    def _begin_block(self, operation: _Operation) -> None:
        module, arguments = operation.module, [*operation.node.args[1:], None][:2]
        if module is None:
            weight, bias = (self._parameter(operation, each) for each in arguments)
        else:
            weight, bias = module.weight, module.bias
        if any(weight is block.weight for block in self._blocks):
            self._refuse(operation, "is used twice, and its layers do not share weights")
        entry = self._origin(operation.node.args[0])
        self._blocks.append(_Block(operation.label, entry, weight, bias))

    def _parameter(self, operation: _Operation, argument: Any) -> Any:
        """What a function is given that is a parameter of the model, or None."""
        if argument is None:
            return None
        if getattr(argument, "op", "") != "get_attr":
            self._refuse(operation, "takes weights that are computed")
        return operator.attrgetter(argument.target.partition(".")[2])(self._root[0])

    def _normalize(self, operation: _Operation) -> None:
        if not self._blocks or not self._blocks[-1].is_linear:
            self._refuse(operation, "does not follow a dense layer")
        if operation.module is None:
            self._refuse(operation, "is not a module")
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
            self._refuse(operation, "adds something else than a layer's input to what it has made of it")
        assert block is not None
        block.skip = True
        self._value = operation.node

    # ---- the net -----------------------------------------------------------------------------------------

    def net(self) -> MLP:
        """What was read, as a net."""
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
                "dtype": "float64" if blocks[0].weight.dtype == self._torch.float64 else "float32",
                "seed": 0,
            }
        )
        self._check_skips(net)
        for layer, block in enumerate(blocks):
            self._fill(net, layer, block)
        if self._added:
            shown = ", ".join(self._added if len(self._added) <= 4 else [*self._added[:3], "...", self._added[-1]])
            self._note(f"it has no {shown}; those of the net do nothing until they are trained")
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
            self._added.append(tensor)
        return 1.0 if name in ("weight", "running_var") else 0.0

    def _note_differences(self, block: _Block) -> None:
        norm = block.norm
        eps = self._torch.finfo(block.weight.dtype).eps if norm.eps is None else norm.eps
        if eps != NORM_EPS:
            self._note(f"the eps of its normalizations is {eps:.2g}, the net's {NORM_EPS:g}")
        momentum = getattr(norm, "momentum", _MOMENTUM)
        if momentum != _MOMENTUM:
            self._note(f"the momentum of its batch norm is {momentum}, the net's {_MOMENTUM}")
