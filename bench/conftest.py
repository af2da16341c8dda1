"""What the suites share: one verified measurement of one peer, with its rate among the results.

pytest bench --benchmark-only                          # all; gradcore beside PyTorch where installed
pytest bench --benchmark-only -k "gradient and b32"    # some
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

import gradcore as gc
import peers

THREADS = len(os.sched_getaffinity(0))


def skip_unless_installed(peer: str) -> None:
    if peer == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed").set_num_threads(THREADS)


@pytest.fixture
def measure(benchmark):
    """measure(group, work, flops=..., bytes=...): times `work`, adds GFLOP/s or GB/s at the median."""

    def run(group: str, work: Callable[[], object], *, flops: float = 0, bytes: float = 0) -> None:
        benchmark.group = group
        benchmark(work)
        if benchmark.stats is not None:  # None with --benchmark-disable
            median = benchmark.stats.stats.median
            rates = {"GFLOP/s": flops / median * 1e-9, "GB/s": bytes / median * 1e-9}
            benchmark.extra_info.update({unit: round(rate, 2) for unit, rate in rates.items() if rate})
        benchmark.extra_info["target"] = gc.cpu_info()["target"]
        benchmark.extra_info["threads"] = THREADS

    return run


@pytest.fixture
def measure_case(measure):
    """measure_case(case, peer): one of peers.CASES, its loss and gradient norm verified before it is timed."""

    def run(case: peers.Case, peer: str) -> None:
        skip_unless_installed(peer)
        work, check = peers.RUNNERS[peer](case, THREADS)
        peers.verify(case, {peer: check(), "float64": float64_answer(case)})
        measure(case.name, work, flops=case.flops)

    return run


def float64_answer(case: peers.Case) -> tuple[float, float]:
    """Loss and gradient norm by gradcore in float64, which tests/ hold to the oracles."""
    data = peers.make_data(case)
    net = gc.MLP(case.widths, activation=case.activation, normalization=case.normalization, dtype="float64")
    for name in net.parameters:
        if name in data:
            net.parameters[name] = data[name]
    loss = net.loss_and_gradients(data["x"].astype(np.float64), data["y"])
    return loss, float(np.linalg.norm(net.gradients.flat))
