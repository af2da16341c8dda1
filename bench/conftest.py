"""Fixtures of the suites: one verified measurement of one library, with its rate among the results.

pytest bench --benchmark-only                          # all; gradcore beside PyTorch where installed
pytest bench --benchmark-only -k "gradient and b32"    # some
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import gradcore as gc
from cases import Case, ClipCase
from runners import Setting, prepare, run_gradcore, verify

THREADS = len(os.sched_getaffinity(0))


def skip_unless_installed(library: str) -> None:
    if library == "torch":
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
    """measure_case(case, library, record=..., dtype=...): a case of cases.py, verified before it is timed."""

    def run(case: Case | ClipCase, library: str, record: bool = False, dtype: str = "float32") -> None:
        skip_unless_installed(library)
        work, check = prepare(library, case, Setting(THREADS, dtype, record))
        answer = check()
        if isinstance(case, ClipCase):
            verify(case, {library: answer}, (answer[1], answer[1]))
            return measure(case.name, work, bytes=case.bytes * (3 if case.scales else 1))
        verify(case, {library: answer}, run_gradcore(case, Setting(THREADS, "float64"))[1](), dtype)
        return measure(case.name, work, flops=case.flops)

    return run
