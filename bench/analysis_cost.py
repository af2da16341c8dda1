"""What an analysis costs beyond the batches it measures, in gradient evaluations of the same net and batch.

    OPENBLAS_NUM_THREADS=1 python bench/analysis_cost.py     # b256 w256 d20 relu, 8 batches; the bound is 20

Measured is the CPU time of this process on one thread, which varies less than wall-clock time on a shared machine.
OPENBLAS_NUM_THREADS keeps NumPy's products on that thread, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gradcore as gc

ROWS, WIDTH, DEPTH, BATCHES = 256, 256, 20, 8
ROUNDS = 5


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Median CPU time of a call, without the first one, which warms up."""
    function()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    gc.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES * ROWS, WIDTH)).astype("f4")
    labels = rng.integers(0, 10, len(x))
    net = gc.MLP([WIDTH] * DEPTH + [10])
    gradient = cpu_seconds(lambda: net.loss_and_gradients(x[:ROWS], labels[:ROWS]))
    analysis = cpu_seconds(lambda: gc.analyze(net, x, labels, batch_size=ROWS, batches=BATCHES))
    beyond = analysis / gradient - BATCHES
    print(
        f"gradient {1e3 * gradient:.2f} ms, analysis {1e3 * analysis:.1f} ms: {beyond:.1f} gradients beyond the batches"
    )


if __name__ == "__main__":
    main()
