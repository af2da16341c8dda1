"""Looks for sizes that are much slower than their neighbours: width 1 ... 130, then 1 ... 130 rows.

    python bench/cliffs.py                                # both sweeps; prints the cliffs
    python bench/cliffs.py --threads 1 --dtype float64
    python bench/cliffs.py --plot cliffs.png --json cliffs.json

The gradient of a relu net is timed, every size once per round. Neighbouring sizes n and n + 1 are a cliff if, in the
median over the rounds,
    the larger one takes longer by more than padding explains (rise). Columns of a product are padded to a multiple of a
        vector's lanes (with AVX-512, except for products of bfloat16, of half a vector's); rows are not padded; or
    the larger one is faster (fall): a user of size n would gain by adding a row or column of zeros.
The difference must exceed TOLERANCE and the variation of the pair from round to round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gradcore as gc
from limits import Limits

DEPTH, ROWS, WIDTH, CLASSES = 8, 64, 64, 10  # ROWS: of the width sweep; WIDTH: of the row sweep
TOLERANCE = 0.10
PADDED_BYTES = {"avx512": 32, "avx2": 32, "baseline": 16, "neon": 16}  # columns of a product come in multiples of this


def padding_unit(dtype: str) -> int:
    if dtype == "bfloat16" and gc.cpu_info()["bfloat16_products"]:
        return 16  # whole vectors of sums
    return PADDED_BYTES[gc.cpu_info()["target"]] // (8 if dtype == "float64" else 4)


@dataclass(frozen=True)
class Sweep:
    """Sizes 1 ... `last` of one kind, with the FLOPs of each after padding."""

    name: str
    last: int
    gradient: Callable[[int], Callable[[], float]]  # size -> the function to time
    padded: Callable[[int], float]  # FLOPs with padding
    useful: Callable[[int], float]


def gradient_of(width: int, rows: int, dtype: str) -> Callable[[], float]:
    net = gc.MLP([width] * (DEPTH + 1) + [CLASSES], dtype=dtype)
    rng = np.random.default_rng(width)
    x, y = rng.normal(size=(rows, width)).astype(net.dtype), rng.integers(0, CLASSES, rows)
    return lambda: net.loss_and_gradients(x, y)


def sweeps(last: int, dtype: str) -> Iterator[Sweep]:
    unit = padding_unit(dtype)

    def work(rows: int, width: int, columns: int) -> float:
        return 2.0 * rows * width * columns * (3 * DEPTH - 1)

    def padded(width: int) -> int:
        return -(-width // unit) * unit

    yield Sweep(
        f"width, {ROWS} rows",
        last,
        lambda n: gradient_of(n, ROWS, dtype),
        lambda n: work(ROWS, n, padded(n)),
        lambda n: work(ROWS, n, n),
    )
    yield Sweep(
        f"rows, width {WIDTH}",
        last,
        lambda n: gradient_of(WIDTH, n, dtype),
        lambda n: work(n, WIDTH, padded(WIDTH)),
        lambda n: work(n, WIDTH, WIDTH),
    )


def least_time(work: Callable[[], float], seconds: float) -> float:
    """Least seconds of a call, so that disturbances of single calls do not count."""
    end = time.perf_counter() + seconds
    best = float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def measure(sweep: Sweep, rounds: int, seconds: float) -> np.ndarray:
    """Seconds [round, size - 1]."""
    works = [sweep.gradient(n) for n in range(1, sweep.last + 1)]
    for work in works:
        work()
    return np.array([[least_time(work, seconds) for work in works] for _ in range(rounds)])


@dataclass(frozen=True)
class Cliff:
    """The step from size n to n + 1."""

    n: int
    kind: str
    ratio: float  # time of n + 1 over time of n
    explained: float  # the ratio that padding explains


def find_cliffs(sweep: Sweep, times: np.ndarray) -> list[Cliff]:
    cliffs = []
    for n in range(1, sweep.last):
        ratios = times[:, n] / times[:, n - 1]
        ratio = float(np.median(ratios))
        spread = float(np.subtract(*np.percentile(ratios, [75, 25])))
        explained = sweep.padded(n + 1) / sweep.padded(n)
        if ratio > explained * (1 + TOLERANCE) + spread:
            cliffs.append(Cliff(n, "rise", ratio, explained))
        if ratio < 1 - TOLERANCE - spread:
            cliffs.append(Cliff(n, "fall", ratio, explained))
    return cliffs


def report(sweep: Sweep, times: np.ndarray, cliffs: list[Cliff]) -> None:
    typical = np.median(times, axis=0)
    print(f"\n{sweep.name}: microseconds, GFLOP/s of the padded and of the useful work")
    for n in sorted({1, sweep.last, *range(8, sweep.last + 1, 8)}):
        rates = [flops(n) / typical[n - 1] * 1e-9 for flops in (sweep.padded, sweep.useful)]
        print(f"  {n:4d} {typical[n - 1] * 1e6:9.1f} {rates[0]:8.1f} {rates[1]:8.1f}")
    for cliff in cliffs:
        before, after = typical[cliff.n - 1] * 1e6, typical[cliff.n] * 1e6
        print(
            f"  {cliff.kind} at {cliff.n} -> {cliff.n + 1}: {before:.1f} -> {after:.1f} us, x {cliff.ratio:.2f} "
            f"where padding explains {cliff.explained:.2f}"
        )
    print(f"  {len(cliffs)} cliffs")


def plot(path: Path, results: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(results), 1, figsize=(9, 4 * len(results)), squeeze=False)
    for axis, (name, times) in zip(axes[:, 0], results.items(), strict=True):
        axis.plot(range(1, times.shape[1] + 1), np.median(times, axis=0) * 1e6, marker=".")
        axis.set(xlabel=name, ylabel="gradient, microseconds")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=gc.get_num_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--last", type=int, default=130)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.003, help="of each size in a round")
    parser.add_argument("--plot", type=Path, help="file for a figure (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="file for the median seconds and the cliffs")
    options = parser.parse_args()
    gc.set_num_threads(options.threads)
    with Limits() as limits:
        handoff = limits.handoff()
    print(f"{gc.cpu_info()['target']}, {options.dtype}, {options.threads} threads, {DEPTH} hidden layers, relu")
    print(f"to another core and back: {handoff:.0f} ns")
    results, found = {}, {}
    for sweep in sweeps(options.last, options.dtype):
        times = measure(sweep, options.rounds, options.seconds)
        results[sweep.name], found[sweep.name] = times, find_cliffs(sweep, times)
        report(sweep, times, found[sweep.name])
    if options.plot:
        plot(options.plot, results)
    if options.json:
        kept = {
            name: {
                "seconds": [statistics.median(column) for column in times.T],
                "cliffs": [vars(c) for c in found[name]],
            }
            for name, times in results.items()
        }
        options.json.write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
