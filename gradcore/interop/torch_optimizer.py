"""Converts PyTorch's optimizers, with their settings and state vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import _check
from ..mlp import MLP
from ..optim import SGD, Adam, AdamW, Optimizer, RMSprop
from .torch_graph import Notes

# Names of the settings that both libraries have.
_SETTINGS: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("lr", "momentum", "nesterov", "weight_decay"),
    RMSprop: ("lr", "alpha", "eps", "weight_decay", "momentum"),
    Adam: ("lr", "betas", "eps", "weight_decay"),
    AdamW: ("lr", "betas", "eps", "weight_decay"),
}
# Settings of PyTorch that a gradcore optimizer does not have, which must be off.
_OFF = ("dampening", "centered", "amsgrad", "maximize")


def convert(torch: Any, given: Any, net: MLP, tensors: Mapping[str, Any], notes: Notes) -> Optimizer:
    """An optimizer for `net` that continues where `given` stands.

    Args:
        torch: the module.
        given: the optimizer of PyTorch.
        net: the net that the model has become.
        tensors: the model's tensor for each of the net's parameters, or None.
        notes: receives what differs.

    Raises:
        ValueError: naming what a gradcore optimizer cannot represent.
    """
    kind = _kind(torch, given)
    own = {name: tensor for name, tensor in tensors.items() if name in net.parameters}
    groups = dict(_groups(given, own))
    if not groups:
        raise ValueError("optimizer: expected one of the model's parameters, got one that has none of them")
    for name in own:
        if name not in groups:
            notes.add("{} are not updated by the model's optimizer, but by the net's", name)
    optimizer = kind(net, **_settings(kind, groups, notes))
    _restore(optimizer, given, {name: own[name] for name in groups}, notes)
    return optimizer


def _kind(torch: Any, given: Any) -> type[Optimizer]:
    """The class of gradcore; exact classes only, because a subclass may take other steps."""
    _check.instance(given, "optimizer", torch.optim.Optimizer, "a torch.optim.Optimizer")
    kinds = {getattr(torch.optim, kind.__name__): kind for kind in _SETTINGS}
    kind = kinds.get(type(given))
    if kind is None:
        raise ValueError(f"optimizer: expected SGD, RMSprop, Adam or AdamW of torch.optim, got {type(given).__name__}")
    decoupled = kind is Adam and any(group.get("decoupled_weight_decay") for group in given.param_groups)
    return AdamW if decoupled else kind


def _groups(given: Any, tensors: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, parameter group) of each of the net's parameters that the optimizer updates."""
    group_of = {id(tensor): group for group in given.param_groups for tensor in group["params"]}
    for name, tensor in tensors.items():
        if tensor is not None and id(tensor) in group_of:
            yield name, group_of[id(tensor)]


def _settings(kind: type[Optimizer], groups: Mapping[str, dict[str, Any]], notes: Notes) -> dict[str, Any]:
    """The settings, which must be the same for all parameters; of weight decay, only that of dense weights counts."""
    for option in _OFF:
        if any(group.get(option) for group in groups.values()):
            got = f"{option}={_plain(groups, option)}"
            raise ValueError(f"optimizer: it has {got}, but gradcore's {kind.__name__} has no {option}")
    settings: dict[str, Any] = {}
    for option in _SETTINGS[kind]:
        values = {name: _number(group[option]) for name, group in groups.items()}
        chosen = values
        if option == "weight_decay":
            chosen = {name: value for name, value in values.items() if _is_weight(name)} or values
        if len(set(chosen.values())) > 1:
            raise ValueError(
                f"optimizer: expected the same {option} for all parameters of the model, got {_plain(groups, option)}"
            )
        settings[option] = next(iter(chosen.values()))
        for name, value in values.items():
            if value != settings[option]:
                notes.add(f"weight_decay is {value:g} for {{}}, but {settings[option]:g} in the net's optimizer", name)
    return settings


def _is_weight(name: str) -> bool:
    return name.startswith("dense") and name.endswith("weight")


def _number(value: Any) -> Any:
    """A setting as plain numbers; learning rates and betas may be tensors in PyTorch."""
    if isinstance(value, (tuple, list)):
        return tuple(float(each) for each in value)
    return value if isinstance(value, bool) else float(value)


def _plain(groups: Mapping[str, dict[str, Any]], option: str) -> str:
    return " and ".join(dict.fromkeys(f"{group[option]}" for group in groups.values()))


def _state_names(optimizer: Optimizer) -> tuple[str, ...]:
    """PyTorch's names of the state vectors, in gradcore's order."""
    if isinstance(optimizer, (Adam, AdamW)):
        return ("exp_avg", "exp_avg_sq")
    momentum = ("momentum_buffer",) if optimizer.hyperparameters["momentum"] else ()
    return (*momentum, "square_avg") if isinstance(optimizer, RMSprop) else momentum


def _restore(optimizer: Optimizer, given: Any, tensors: Mapping[str, Any], notes: Notes) -> None:
    """Copy the state vectors and the step count."""
    state = optimizer.state_dict()
    steps: set[int] = set()
    for name, tensor in tensors.items():
        values = given.state.get(tensor) or {}  # empty before the first step
        if "step" in values:
            steps.add(int(values["step"]))
        for vector, key in zip(state["states"], _state_names(optimizer), strict=True):
            if values.get(key) is None:
                continue
            steps = steps or {1}  # SGD counts no steps; if there is a velocity, it took at least one
            optimizer.net.parameters.like(vector)[name] = values[key].detach().to("cpu").double().numpy()
    if len(steps) > 1:
        notes.add(f"the model's parameters have had {min(steps)} to {max(steps)} steps, the net's {max(steps)}")
    optimizer.load_state_dict({**state, "step_count": max(steps, default=0)})
