"""The published criteria of other diagnosis tools beside gradcore's verdict, on the same nets.

    python bench/criteria.py                 # the whole zoo of tests/
    python bench/criteria.py --every 4       # a sample

Every criterion is the one that its tool publishes, with its default thresholds, computed here from the same net, data
and optimizer. Only rules about gradients and about what makes them vanish or explode are included. Rules that watch a
training see STEPS steps of it, with the net's own optimizer or with SGD at 0.01. A tool detects a problem net if any of
its rules fires, whatever the rule reports; gradcore must give the right verdict. A rule that fires on a healthy net is
a false alarm.

AutoTrainer (Zhang et al., ICSE 2021, utils/monitor.py and utils.py): vanishing and exploding gradients, dying ReLU. Its
    rules count only in a training that does not converge. Here, a training converges if its loss falls by SLOW within
    the steps.
DeepDiagnosis (Wardat et al., ICSE 2022, callback/callbacks.py): vanishing, numerical error, dead node, saturation.
    Its rule for data outside [-1, 1] is left out: it fires on all standardized data.
TheDeepChecker (Ben Braiek & Khomh, TOSEM 2023, config/settings.yaml): gradients, dead and saturated units, activation
    deviation, update size. The F test on activations and the comparison over periods are left out.
SageMaker Debugger (built-in rules): VanishingGradient, ExplodingTensor, DeadRelu, SaturatedActivation,
    WeightUpdateRatio.
torchmortem (2026): vanishing over depth, exploding, stall, saturated and dead units, update ratio.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gradcore as gc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import zoo
from zoo_data import Model

STEPS = 20
SLOW = 0.01  # AutoTrainer's smallest gain of accuracy, taken as a share of the loss


@dataclass
class Seen:
    """The quantities that the tools use, layer by layer, for every step.

    gradients: mean |dL/dW|. norms: |dL/dW|. zeros: share of exact zeros in all gradients. updates: |dW| / |W| by
    norms; mean_updates: by means of absolute values. preacts, acts: of the last step, [rows, units] a layer.
    """

    net: gc.MLP
    losses: list[float]
    gradients: np.ndarray
    norms: np.ndarray
    zeros: np.ndarray
    updates: np.ndarray
    mean_updates: np.ndarray
    preacts: list[np.ndarray]
    acts: list[np.ndarray]

    @property
    def broken(self) -> bool:
        """Any NaN or infinity in losses, gradients or activations."""
        finite = [np.isfinite(self.losses).all(), np.isfinite(self.norms).all()]
        return not all([*finite, *(np.isfinite(h).all() for h in self.acts)])

    def of(self, *names: str) -> list[int]:
        """Hidden layers with one of these activations."""
        return [layer for layer, name in enumerate(self.net.activations) if name in names]


@np.errstate(all="ignore")
def watch(model: Model) -> Seen:
    """Train a few steps and keep the quantities that the tools use."""
    net, x, target, options = model.make()
    optimizer = options.get("optimizer") or gc.optim.SGD(net, lr=0.01)
    size, loss = min(options.get("batch_size", 128), len(x)), options["loss"]
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {name: [] for name in ("losses", "gradients", "norms", "zeros", "updates", "means")}
    weights = [f"dense{layer}.weight" for layer in range(net.depth)]
    for _ in range(STEPS):
        rows = rng.choice(len(x), size, replace=False)
        before = {name: net.parameters[name].astype("f8") for name in weights}
        columns["losses"].append(net.train_step(x[rows], target[rows], optimizer, loss=loss).loss)
        gradients = [np.abs(net.gradients[name].astype("f8")) for name in weights]
        changes = [net.parameters[name] - before[name] for name in weights]
        columns["gradients"].append([g.mean() for g in gradients])
        columns["norms"].append([np.linalg.norm(g) for g in gradients])
        columns["zeros"].append(np.mean(net.gradients.flat == 0.0))
        sizes = [before[name] for name in weights]
        columns["updates"].append([np.linalg.norm(c) / np.linalg.norm(w) for c, w in zip(changes, sizes, strict=True)])
        columns["means"].append([np.abs(c).mean() / np.abs(w).mean() for c, w in zip(changes, sizes, strict=True)])
        if not math.isfinite(columns["losses"][-1]):
            break
    preacts, acts = _activations(net, x[rows])
    arrays = {name: np.array(values) for name, values in columns.items()}
    return Seen(net, columns["losses"], arrays["gradients"], arrays["norms"], arrays["zeros"], arrays["updates"],
                arrays["means"], preacts, acts)  # fmt: skip


def _activations(net: gc.MLP, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Input and output of every hidden activation; batch norm uses the statistics of the batch."""
    h, preacts, acts = x.astype("f8"), [], []
    for layer, name in enumerate(net.activations):
        z = h @ net.parameters[f"dense{layer}.weight"].T.astype("f8")
        z = z + (net.parameters[f"dense{layer}.bias"] if net.bias else 0.0)
        if net.normalization is not None:
            axis = 0 if net.normalization == "batch" else 1
            mean = 0.0 if net.normalization == "rms" else z.mean(axis=axis, keepdims=True)
            z = (z - mean) / np.sqrt(np.mean((z - mean) ** 2, axis=axis, keepdims=True) + 1e-5)
            z = z * net.parameters[f"norm{layer}.weight"] + net.parameters.get(f"norm{layer}.bias", 0.0)
        act = gc.ops.activation(z, name)
        preacts.append(z)
        acts.append(act)
        h = act + h if net.residual and act.shape == h.shape else act
    return preacts, acts


# ---- the published rules -------------------------------------------------------------------------

SATURATING = ("sigmoid", "tanh", "hard_tanh")


def autotrainer(seen: Seen) -> bool:
    ratio = seen.norms[:, 0] / seen.norms[:, -1]
    vanishing = (ratio < 1e-3) & (seen.norms[:, 0] < 1e-4)
    dying = seen.zeros >= 0.7
    exploding = ratio > 70.0
    converging = seen.losses[-1] < (1.0 - SLOW) * seen.losses[0]
    return seen.broken or (not converging and bool(np.any(vanishing | exploding | dying)))


def deepdiagnosis(seen: Seen) -> bool:
    vanishing = np.any(seen.gradients < 1e-7)
    dead = any(np.mean(seen.acts[layer] <= 0.0) >= 0.7 for layer in seen.of("relu", "leaky_relu"))
    saturated = any(np.mean(np.abs(seen.preacts[layer]) >= 5.0) > 0.5 for layer in seen.of("sigmoid", "tanh"))
    return bool(seen.broken or vanishing or dead or saturated)


def thedeepchecker(seen: Seen) -> bool:
    gradients = np.any((seen.gradients < 1e-6) | (seen.gradients > 1e6))
    sizes = np.log10(seen.mean_updates[-1])
    updates = np.any((sizes < -4.0) | (sizes > -1.0))
    dead = any(np.mean(np.quantile(act, 0.95, axis=0) < 1e-5) > 0.5
               for act in (seen.acts[layer] for layer in seen.of("relu")))  # fmt: skip
    saturated = any(np.mean(_rho(seen.acts[layer], seen.net.activations[layer]) > 0.85) > 0.5
                    for layer in seen.of(*SATURATING))  # fmt: skip
    deviations = [act.std() for act in seen.acts]
    spread = any(not 0.5 <= deviation <= 2.0 for deviation in deviations)
    return bool(seen.broken or gradients or updates or dead or saturated or spread)


def _rho(act: np.ndarray, name: str) -> np.ndarray:
    """Rakitianskaia & Engelbrecht's saturation of each unit: |mean| of 50 bins of its outputs scaled to [-1, 1]."""
    scaled = 2.0 * act - 1.0 if name == "sigmoid" else act
    edges = np.linspace(-1.0, 1.0, 51)
    bins = np.clip(np.digitize(scaled, edges) - 1, 0, 49)
    result = np.empty(act.shape[1])
    for unit in range(act.shape[1]):
        counts = np.bincount(bins[:, unit], minlength=50)
        sums = np.bincount(bins[:, unit], weights=scaled[:, unit], minlength=50)
        means = np.divide(sums, counts, out=np.zeros(50), where=counts > 0)
        result[unit] = np.sum(np.abs(means) * counts) / counts.sum()
    return result


def sagemaker(seen: Seen) -> bool:
    vanishing = np.any(seen.gradients < 1e-7)
    dead = any(np.mean(np.mean(seen.acts[layer] > 0.0, axis=0) < 0.01) > 0.5 for layer in seen.of("relu"))
    limits = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}
    saturated = False
    for layer in seen.of("tanh", "sigmoid"):
        low, high = limits[seen.net.activations[layer]]
        inside = np.mean((seen.preacts[layer] > low) & (seen.preacts[layer] < high), axis=0)
        saturated |= bool(np.mean(inside < 0.01) > 0.5)
    ratios = np.any((seen.updates > 10.0) | (seen.updates < 1e-8))
    return bool(seen.broken or vanishing or dead or saturated or ratios)


def torchmortem(seen: Seen) -> bool:
    half = seen.norms[len(seen.norms) // 2 :].mean(axis=0)
    vanishing = half[-1] / half[0] > 100.0 if half[0] > 0.0 else True
    exploding = np.any(seen.norms > 1000.0)
    stall = np.any(np.mean(seen.norms < 1e-8, axis=0) >= 0.3)
    dead = any(np.mean(np.all(seen.acts[layer] <= 0.0, axis=0)) > 0.5 for layer in seen.of("relu"))
    full = {"tanh": (-0.99, 0.99), "sigmoid": (0.01, 0.99), "hard_tanh": (-0.99, 0.99)}
    saturated = any(np.mean((seen.acts[layer] < full[name][0]) | (seen.acts[layer] > full[name][1])) > 0.5
                    for layer, name in enumerate(seen.net.activations) if name in full)  # fmt: skip
    updates = np.median(seen.updates, axis=0)
    return bool(seen.broken or vanishing or exploding or stall or dead or saturated
                or np.any((updates < 1e-5) | (updates > 1e-1)))  # fmt: skip


TOOLS: dict[str, Callable[[Seen], bool]] = {
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deepdiagnosis,
    "TheDeepChecker": thedeepchecker,
    "SageMaker Debugger": sagemaker,
    "torchmortem": torchmortem,
}


@np.errstate(all="ignore")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge each N-th net")
    options = parser.parse_args()
    fired = {name: {True: 0, False: 0} for name in ("gradcore", *TOOLS)}
    counts = {True: 0, False: 0}
    for model in zoo.models()[:: options.every]:
        sick = model.verdict != "healthy"
        counts[sick] += 1
        fired["gradcore"][sick] += (
            model.report().verdict == model.verdict if sick else model.report().verdict != "healthy"
        )
        seen = watch(model)
        for name, rule in TOOLS.items():
            fired[name][sick] += rule(seen)
    print(f"{counts[True]} problem nets, {counts[False]} healthy ones\n")
    print("| tool | detected | false alarms |\n|---|---|---|")
    for name, number in fired.items():
        detected, alarms = (100.0 * number[sick] / max(counts[sick], 1) for sick in (True, False))
        print(f"| {name} | {detected:.0f} % | {alarms:.0f} % |")


if __name__ == "__main__":
    main()
