"""A change that could cure a net: how it is built, what it does to the data, and how two of them make one.

A candidate changes the architecture or the weights (which makes a fresh net), the data, or the training; a pair does
two of these. `proposals` makes candidates for a report, and `remedies` tries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._scaling import standard_scaling, standardized
from ..init import lsuv
from ..mlp import MLP, skip_connections
from .case import Case
from .weights import rescale, scale_branches, shortened
from .wording import significant


@dataclass(frozen=True)
class Candidate:
    """One change, ready to be made.

    net: keyword arguments of gc.MLP that change.
    weights: "" for those that `init` draws; "kept" for the present ones, in a net of fewer layers; "rescaled" for the
        present directions at critical sizes; "lsuv"; "scaled_branches" for residual branches divided by the root of
        their number.
    inputs, targets: whether to standardize these. training: "lr" or "clip_norm".
    loss: another loss, or "" for the present one. note: what else to know.
    """

    name: str
    reason: str
    net: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    inputs: bool = False
    targets: bool = False
    training: Mapping[str, float] = field(default_factory=dict)
    loss: str = ""
    note: str = ""

    @property
    def keeps_net(self) -> bool:
        """Whether the net itself stays as it is."""
        return not self.net and not self.weights

    def change(self) -> dict[str, Any]:
        """The settings that change, by name."""
        changed: dict[str, Any] = dict(self.net)
        if self.weights:
            changed["weights"] = self.weights
        if self.inputs or self.targets:
            changed["standardize"] = [name for name in ("inputs", "targets") if getattr(self, name)]
        if self.training:
            changed["training"] = dict(self.training)
        if self.loss:
            changed["loss"] = self.loss
        return changed

    def case(self, case: Case) -> Case:
        """The case with the candidate's training and loss, and the targets in the form that this loss takes."""
        case = replace(case, training={**case.training, **self.training})
        if not self.loss:
            return case
        return replace(case, loss=self.loss, target=case.target[:, None].astype(case.x.dtype))

    def build(self, case: Case, seed: int | None = None) -> Any:
        """A fresh net with the change, or a copy if the net stays as it is. seed: None for that of the analysed net."""
        config = case.net.config
        if self.keeps_net:
            return case.net.copy()
        config["seed"] = (config["seed"] or 0) if seed is None else seed  # None: drawn at random
        if self.weights == "rescaled":
            net = case.net.copy()
            rescale(net)
            return net
        if self.weights == "kept":
            return shortened(case.net, {**config, **self.net})
        net = MLP(**{**config, **self.net})
        if self.weights == "lsuv":
            x, _ = Preparation.of(self, case).apply(case.x[case.rows[0]], case.target[case.rows[0]])
            lsuv(net, x, seed=config["seed"])
        elif self.weights == "scaled_branches":
            scale_branches(net)
        return net


@dataclass(frozen=True)
class Preparation:
    """Shift and scale of inputs and targets, from all rows of the data."""

    input_shift: np.ndarray
    input_scale: np.ndarray
    target_shift: np.ndarray
    target_scale: np.ndarray

    @classmethod
    def of(cls, candidate: Candidate, case: Case) -> Preparation:
        """What a candidate does to the data of a case."""
        return cls(*_scaling(case.x, candidate.inputs), *_scaling(case.target, candidate.targets))

    def apply(self, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prepared inputs and targets, checked to have the columns of the data; labels pass unchanged."""
        x = standardized(x, self.input_shift, self.input_scale, "x")
        return x, standardized(target, self.target_shift, self.target_scale, "target")

    def restore(self, output: np.ndarray) -> np.ndarray:
        """Outputs of a net trained on prepared targets, in the targets' own units."""
        return np.asarray(output * self.target_scale + self.target_shift)


def _scaling(values: np.ndarray, wanted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each column: those that standardize it, or 0 and 1."""
    columns = values.shape[1] if values.ndim == 2 else 1
    return standard_scaling(values) if wanted else (np.zeros(columns), np.ones(columns))


def standardizing(inputs: bool, targets: bool) -> Candidate | None:
    """A candidate that standardizes inputs, targets or both; None for neither."""
    if not inputs and not targets:
        return None
    what = " and ".join(name for name, wanted in (("inputs", inputs), ("targets", targets)) if wanted)
    return Candidate(
        f"standardized {what}",
        f"the {what} are far from unit scale, and every gradient inherits that",
        inputs=inputs,
        targets=targets,
        note="shift and scale each column; prepare(x, target) does it",
    )


def changed_settings(candidate: Candidate, case: Case) -> tuple[dict[str, Any], list[str]]:
    """The settings of the changed net, and the activation of each of its hidden layers."""
    config = {**case.net.config, **candidate.net}
    names = config["activation"]
    return config, [names] * (len(config["widths"]) - 2) if isinstance(names, str) else list(names)


def combined(first: Candidate, second: Candidate) -> Candidate | None:
    """A candidate that makes both changes; None if they contradict each other or change the same thing.

    A net of fewer layers keeps its weights ("kept") unless the other change makes new ones.
    """
    first, second = (
        replace(a, weights="") if a.weights == "kept" and (b.weights or "init" in b.net) else a
        for a, b in ((first, second), (second, first))
    )
    nets = [{name: value for name, value in each.net.items() if name != "init"} for each in (first, second)]
    overlap = any((nets[0].keys() & nets[1].keys(), first.weights and second.weights, first.loss and second.loss,
                   first.training.keys() & second.training.keys(), first.inputs and second.inputs,
                   first.targets and second.targets))  # fmt: skip
    # "rescaled" keeps the present weights: nothing that makes new ones goes with it. A loss needs the present outputs.
    clash = any(
        (a.weights == "rescaled" and b.net) or (a.loss and "widths" in b.net)
        for a, b in ((first, second), (second, first))
    )
    if overlap or clash:
        return None
    inits = {each.net["init"] for each in (first, second) if "init" in each.net}
    if len(inits) > 1:
        inits -= {"auto"}  # it comes with any new activation or normalization, and gives way to a chosen one
    net = {**nets[0], **nets[1], **({"init": inits.pop()} if inits else {})}
    if net.get("residual") and "widths" in net and not skip_connections(net).any():
        return None
    return Candidate(
        name=f"{first.name}, {second.name}",
        reason=f"{first.reason}; {second.reason}",
        net=net,
        weights=first.weights or second.weights,
        inputs=first.inputs or second.inputs,
        targets=first.targets or second.targets,
        training={**first.training, **second.training},
        loss=first.loss or second.loss,
        note=joined(first.note, second.note),
    )


def joined(*notes: str) -> str:
    """All notes in one, without empty ones and repetitions."""
    return "; ".join(filter(None, dict.fromkeys(notes)))


def lower_learning_rate(lr: float) -> Candidate:
    """The net as it is, trained at another rate."""
    return Candidate(f"learning rate {significant(lr)}", "steps are too large", training={"lr": lr})


def with_learning_rate(candidate: Candidate, lr: float) -> Candidate:
    """The candidate trained at another rate."""
    name = f"{candidate.name}, learning rate {significant(lr)}"
    return replace(candidate, name=name, training={**candidate.training, "lr": lr})


def around_net(candidate: Candidate) -> Candidate | None:
    """What a candidate changes around the net (scales of the data, learning rate), by itself; None if nothing."""
    data = standardizing(candidate.inputs, candidate.targets)
    lr = candidate.training.get("lr")
    rate = None if lr is None else lower_learning_rate(lr)
    return combined(rate, data) if data is not None and rate is not None else data or rate


def yardstick(candidate: Candidate) -> Candidate | None:
    """The part of a candidate that the whole has to outperform, or else the rest has no merit; None if there is none.

    It is the part around the net. If there is nothing else, and both data and learning rate change, it is the latter.
    """
    part = around_net(candidate)
    if part is not None and part.change() != candidate.change():
        return part
    both = part is not None and part.training and (part.inputs or part.targets)
    return lower_learning_rate(candidate.training["lr"]) if both else None
