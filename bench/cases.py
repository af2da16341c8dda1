"""The cases that are compared with other libraries: nets, their data, and the goals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = 10
LEARNING_RATE = 1e-4
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Case:
    """One measurement: `work` of an MLP with `depth` hidden layers of `width`, on `batch` rows.

    It has as many inputs as the layers have units, unless `inputs` says otherwise.
    """

    work: str  # gradient, step (gradient, global-norm clip, Adam) or forward
    batch: int
    width: int
    depth: int
    activation: str
    normalization: str | None = None
    ratio: float = 1.2  # goal: how many times faster than the best peer
    share: float | None = None  # goal: share of the FMA peak
    inputs: int | None = None
    classes: int = CLASSES

    @property
    def name(self) -> str:
        norm = {None: "", "batch": "bn", "layer": "ln"}[self.normalization]
        return f"{self.work}-b{self.batch}w{self.width}d{self.depth}{self.activation}{norm}"

    @property
    def widths(self) -> list[int]:
        return [self.inputs or self.width] + [self.width] * self.depth + [self.classes]

    @property
    def flops(self) -> float:
        """FLOPs of the products between layers of one width: 6 b w^2 d - 2 b w^2 for a gradient, without the output."""
        product = 2.0 * self.batch * self.width**2
        return product * self.depth if self.work == "forward" else product * (3 * self.depth - 1)


CASES = (
    Case("gradient", 1, 64, 10, "tanh", ratio=10),
    Case("gradient", 32, 64, 10, "tanh", ratio=5, share=0.70),
    Case("gradient", 32, 64, 50, "tanh", ratio=4, share=0.60),
    Case("gradient", 128, 100, 50, "tanh", ratio=2.2, share=0.75),
    Case("gradient", 256, 256, 20, "relu", ratio=1.25, share=0.91),
    Case("gradient", 256, 256, 20, "relu", "batch", ratio=1.5),
    Case("gradient", 1024, 1024, 8, "relu", ratio=1.18, share=0.93),
    Case("gradient", 8192, 128, 8, "gelu", ratio=1.6, share=0.86),
    Case("step", 32, 64, 10, "tanh", ratio=5),
    Case("step", 256, 256, 20, "relu", ratio=1.4),
    *(Case("forward", batch, 256, 20, "relu") for batch in (1, 32, 256, 1024, 4096)),
)

# Products of bfloat16 (peers.py --dtype bfloat16). The goal: this many times as fast as float32 for layers of this
# width, and faster than the peers.
BFLOAT16_CASES = tuple(
    Case(*case, ratio=1.0)
    for case in (
        ("gradient", 32, 64, 10, "tanh"),
        ("gradient", 128, 100, 50, "tanh"),
        ("gradient", 256, 256, 20, "relu"),
        ("gradient", 256, 256, 20, "relu", "batch"),
        ("gradient", 512, 512, 8, "relu"),
        ("gradient", 1024, 1024, 8, "relu"),
        ("gradient", 8192, 128, 8, "gelu"),
        ("step", 256, 256, 20, "relu"),
        ("step", 1024, 1024, 8, "relu"),
        ("forward", 1, 1024, 8, "relu"),
        ("forward", 32, 1024, 8, "relu"),
        ("forward", 1024, 1024, 8, "relu"),
    )
)
BFLOAT16_OVER_FLOAT32, BFLOAT16_WIDTH = 1.7, 512

# Goals that hold for every case.
MOST_RECORDING = 0.03  # share of time that record=True may add to a gradient
MOST_BATCH_NORM = 1.08  # time with batch norm over the time without
MOST_UPDATE = 0.08  # share of clip and Adam in the step, at b256 w256 d20
FLOAT64_BELOW = 0.05  # float64's share of its peak may be this much below float32's


def make_data(case: Case, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Weights (variance 1 or 2 over fan_in), zero biases, inputs and labels, from one seed.

    The numbers are those of float32, whatever the dtype of the arrays; with bfloat16 these are float32.
    """
    dtype = "float32" if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(7)
    gain = 1.0 if case.activation in ("tanh", "sigmoid") else 2.0
    data = {
        f"dense{layer}.weight": rng.normal(0, (gain / fan_in) ** 0.5, (fan_out, fan_in))
        for layer, (fan_in, fan_out) in enumerate(zip(case.widths, case.widths[1:], strict=False))
    }
    data["x"] = rng.normal(size=(case.batch, case.widths[0]))
    data = {name: value.astype(np.float32).astype(dtype) for name, value in data.items()}
    data["y"] = rng.integers(0, case.classes, case.batch)
    return data


@dataclass(frozen=True)
class ClipCase:
    """clip_grad_norm_ on `count` arrays of width x width, which scales them or only measures their norm."""

    scales: bool
    count: int = 150
    width: int = 256
    ratio: float = 1.3  # goal: how many times faster than torch's foreach version
    share: float = 0.80  # goal: share of the bandwidth, if it scales

    @property
    def name(self) -> str:
        return f"clip-{self.count}x{self.width}x{self.width}-{'scaled' if self.scales else 'measured'}"

    @property
    def bytes(self) -> int:
        """Bytes of all arrays, in float32."""
        return 4 * self.count * self.width**2

    def make_arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(11)
        return [rng.normal(size=(self.width, self.width)).astype(np.float32) for _ in range(self.count)]


CLIP_CASES = (ClipCase(scales=True), ClipCase(scales=False))
