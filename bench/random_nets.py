"""Nets drawn at random, beside PyTorch and JAX: is gradcore slower anywhere?

    python bench/random_nets.py                       # 100 nets, some ten minutes
    python bench/random_nets.py --count 20 --seed 1 --peers torch
    python bench/random_nets.py --threads 1

Rows, widths, depth, inputs, classes, activation, normalization, dtype and the work (gradient, step, forward) are drawn
from a seed. As in peers.py, every library computes the same numbers, is checked against float64, and they take turns.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics

from cases import Case
from peers import in_rounds, installed, reference_answer
from runners import NEEDS, Setting, verify
from workers import Worker

MOST_FLOPS = 2e10  # of the products of one call
LEAST_NORMALIZED = 32  # rows: gradients of batch norm over a few rows are mostly rounding errors


def draw(rng: random.Random) -> tuple[Case, str]:
    """A case and its dtype."""

    def between(least: int, most: int) -> int:  # the logarithm is uniform
        return round(least * (most / least) ** rng.random())

    width, depth = between(4, 2048), rng.randint(1, 16)
    batch = min(between(1, 16384), max(1, int(MOST_FLOPS / (6 * width**2 * depth))))
    case = Case(
        rng.choice(["gradient", "step", "forward"]),
        batch,
        width,
        depth,
        rng.choice(["relu", "tanh", "sigmoid", "elu", "selu", "gelu", "silu"]),
        rng.choice([None, None, "layer", "batch"] if batch >= LEAST_NORMALIZED else [None, "layer"]),
        inputs=between(2, 2048),
        classes=between(2, 1024),
    )
    return case, rng.choice(["float32", "float32", "float64"])


def measure(case: Case, workers: list[Worker], options: argparse.Namespace) -> tuple[float, dict[str, float], bool]:
    """(gradcore's milliseconds, each peer's time relative to them, whether the rounds were undisturbed)."""
    setting = Setting(options.threads, options.dtype)
    answers = {worker.library: worker.ask("prepare", "net", case, setting) for worker in workers}
    verify(case, answers, reference_answer(workers[0], case, options.threads))

    def one_round(seconds: float) -> dict[str, float]:
        return {worker.library: worker.ask("time", "net", seconds) for worker in workers}

    rounds, undisturbed = in_rounds(one_round, workers, options)
    ratio = {
        worker.library: statistics.median(one[worker.library] / one["gradcore"] for one in rounds)
        for worker in workers[1:]
    }
    return statistics.median(one["gradcore"] for one in rounds) * 1e3, ratio, undisturbed


def line(case: Case, dtype: str, milliseconds: float, ratio: dict[str, float], undisturbed: bool) -> str:
    cells = [
        case.name + ("" if undisturbed else " ~"),
        f"{case.widths[0]} -> {case.classes}",
        dtype,
        f"{milliseconds:.4g}",
        *(f"{value:.2f}" for value in ratio.values()),
    ]
    return "| " + " | ".join(cells) + " |"


def summarize(found: list[tuple[float, str]]) -> None:
    """Print the range of the ratios to the best peer, and the nets with the lowest."""
    found.sort()
    ratios = [ratio for ratio, _ in found]
    print(f"\nbest peer / gradcore: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f}")
    print(f"slower than the best peer: {sum(ratio < 1 for ratio in ratios)} of {len(ratios)}. The lowest:\n")
    print("\n".join(text for _, text in found[:5]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", nargs="*", default=["torch", "jax"], choices=list(NEEDS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each turn in a round")
    parser.add_argument("--patience", type=float, default=5, help="seconds a net may spend on rounds to repeat")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    rivals, rng = installed(options.peers), random.Random(options.seed)
    if options.count < 1 or not rivals:
        raise SystemExit("expected at least one net (--count) and one peer (--peers)")
    workers = [Worker(name, options.threads) for name in ("gradcore", *rivals)]
    head = ["net", "inputs -> classes", "dtype", "gradcore ms", *(f"{name} / gradcore" for name in rivals)]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    found = []
    try:
        for _ in range(options.count):
            case, options.dtype = draw(rng)
            milliseconds, ratio, undisturbed = measure(case, workers, options)
            found.append((min(ratio.values()), line(case, options.dtype, milliseconds, ratio, undisturbed)))
            print(found[-1][1], flush=True)
    finally:
        for worker in workers:
            worker.stop()
    summarize(found)


if __name__ == "__main__":
    main()
