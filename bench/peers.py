"""gradcore beside PyTorch, torch.compile and JAX: the same networks, the same numbers, in one run.

    python bench/peers.py                     # the whole table of bench/README.md, some five minutes
    python bench/peers.py --cases b32w64d10 --peers torch --rounds 9 --json out.json
    python bench/peers.py --threads 1         # on one core, with shares of one core's peak
    python bench/peers.py --dtype float64     # everything in float64
    python bench/peers.py --dtype bfloat16    # products of bfloat16: gradcore's dtype, PyTorch's autocast, JAX likewise

Each library runs in a process of its own (bench/workers.py). Before anything is timed, its loss and gradient norm are
checked against float64. Then the libraries take turns, round after round. In each round, gradcore is also timed while
recording, on one thread, in float64, and in further settings that the case asks for. The FMA peak is measured before
and after gradcore's turn; the round trip of a message to another core ("handoff") is measured once per round. On a
virtual machine, the host may move the virtual cores apart, and every barrier then takes three times as long.

The table shows medians over the rounds: of milliseconds, of ratios within a round, and of shares of the higher of the
two peaks around the turn, so that changes in the host's speed cancel. Values come with their goals; a missed goal makes
the value bold. A round in which other programs took more than 3 % of the cores is repeated (--patience); a case without
enough undisturbed rounds is marked "~". Times of gradcore include one call from Python, 1 to 2 us. Peers that are not
installed are skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cases import (
    BFLOAT16_CASES,
    BFLOAT16_OVER_FLOAT32,
    BFLOAT16_WIDTH,
    CASES,
    CLIP_CASES,
    FLOAT64_BELOW,
    MOST_BATCH_NORM,
    MOST_RECORDING,
    MOST_UPDATE,
    Case,
    ClipCase,
)
from limits import Limits
from runners import NEEDS, Setting, verify
from workers import Patience, Worker

BESIDE = {"float32": "float64", "bfloat16": "float32"}  # the dtype that is measured beside another
WITH_PEAK = ("gradcore", "one thread", *BESIDE.values())
Round = dict[str, float]  # seconds of each label; and limits: "peak ...", "handoff", "read", "update", "roof"


# ---- measuring ----


def companions(case: Case, own: Setting) -> dict[str, tuple[Case, Setting]]:
    """The settings of gradcore in every round, by label."""
    runs = {"gradcore": (case, own)}
    if case.work != "forward":
        runs["recorded"] = (case, replace(own, record=True))
    if case.normalization:
        runs["not normalized"] = (replace(case, normalization=None), own)
    if case.work == "step":
        runs["gradient"] = (replace(case, work="gradient"), own)
    if own.threads > 1:
        runs["one thread"] = (case, replace(own, threads=1))
    if own.dtype in BESIDE:
        beside = BESIDE[own.dtype]
        runs[beside] = (case, replace(own, dtype=beside))
    return runs


def bracketed(run: Callable[[], float], peak: Callable[[], float]) -> tuple[float, float]:
    """(seconds of run(), the higher of the peaks measured before and after)."""
    before = peak()
    seconds = run()
    return seconds, max(before, peak())


def measure_round(
    workers: list[Worker], runs: dict[str, tuple[Case, Setting]], seconds: float, limits: Limits
) -> Round:
    own, *rivals = workers
    values: Round = {"handoff": limits.handoff()}
    for label, (_, setting) in runs.items():
        turn = partial(own.ask, "time", label, seconds)
        if label in WITH_PEAK:
            peak = partial(limits.peak, setting.dtype, setting.threads)
            values[label], values[f"peak {label}"] = bracketed(turn, peak)
        else:
            values[label] = turn()
    return values | {worker.library: worker.ask("time", "peer", seconds) for worker in rivals}


def reference_answer(worker: Worker, case: Case | ClipCase, threads: int) -> tuple[float, float]:
    """Loss and gradient norm in float64; of clipping, the norm by NumPy."""
    setting = Setting(threads, "float32" if isinstance(case, ClipCase) else "float64")
    answer = worker.ask("prepare", "reference", case, setting)
    return (answer[1], answer[1]) if isinstance(case, ClipCase) else answer


def measure(case: Case, workers: list[Worker], options: argparse.Namespace, limits: Limits) -> tuple[list[Round], bool]:
    """The rounds of a case, and whether they were undisturbed."""
    own, *rivals = workers
    setting = Setting(options.threads, options.dtype)
    runs = companions(case, setting)
    answers = {worker.library: worker.ask("prepare", "peer", case, setting) for worker in rivals}
    answers |= {
        label: own.ask("prepare", label, *run)
        for label, run in runs.items()
        if run[0].normalization == case.normalization
    }
    verify(case, answers, reference_answer(own, case, options.threads), options.dtype)
    if "not normalized" in runs:
        own.ask("prepare", "not normalized", *runs["not normalized"])
    return in_rounds(partial(measure_round, workers, runs, limits=limits), workers, options)


def measure_clip(
    case: ClipCase, workers: list[Worker], options: argparse.Namespace, limits: Limits
) -> tuple[list[Round], bool]:
    used = [worker for worker in workers if worker.library in ("gradcore", "torch")]
    setting = Setting(options.threads)
    answers = {worker.library: worker.ask("prepare", "clip", case, setting) for worker in used}
    verify(case, answers, reference_answer(workers[0], case, options.threads))

    def one_round(seconds: float) -> Round:
        read = limits.bandwidth("read", options.threads, case.bytes)
        values = {worker.library: worker.ask("time", "clip", seconds) for worker in used}
        update = limits.bandwidth("update", options.threads, case.bytes)
        roof = case.bytes * 1e-9 / read + (2 * case.bytes * 1e-9 / update if case.scales else 0)
        return values | {"read": read, "update": update, "roof": roof}

    return in_rounds(one_round, used, options)


def in_rounds(
    one_round: Callable[[float], Round], workers: list[Worker], options: argparse.Namespace
) -> tuple[list[Round], bool]:
    patience = Patience(options.patience)
    one_round(0)  # warms up
    rounds = [patience.quietest(partial(one_round, options.seconds)) for _ in range(options.rounds)]
    for worker in workers:
        worker.ask("forget")
    return rounds, patience.undisturbed


# ---- the table ----


def median(rounds: list[Round], value: Callable[[Round], float]) -> float:
    return statistics.median(value(one) for one in rounds)


def beside_goal(value: float, goal: float | None, least: bool, text: Callable[[float], str]) -> str:
    """The value with its goal; bold if the printed value misses it."""
    if goal is None:
        return text(value)
    shown, wanted = text(value), text(goal)
    reached = value >= goal if least else value <= goal
    sign = ">=" if least else "<="
    return f"{shown} ({sign} {wanted})" if reached or shown == wanted else f"**{shown}** ({sign} {wanted})"


def ratio_text(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def shares(case: Case, rounds: list[Round]) -> dict[str, float]:
    """Shares of the peak, for each setting that has one."""
    labels = [label for label in WITH_PEAK if label in rounds[0]]
    return {label: median(rounds, lambda r, at=label: case.flops / r[at] * 1e-9 / r[f"peak {at}"]) for label in labels}


def values_of(case: Case, rounds: list[Round], rivals: list[str]) -> dict[str, float]:
    """The quantities that have goals."""
    values = {f"share {label}": share for label, share in shares(case, rounds).items()}
    if rivals:
        values["ratio"] = min(median(rounds, lambda r, at=name: r[at] / r["gradcore"]) for name in rivals)
    if "recorded" in rounds[0]:
        values["recording"] = median(rounds, lambda r: r["recorded"] / r["gradcore"] - 1)
    if "not normalized" in rounds[0]:
        values["batch norm"] = median(rounds, lambda r: r["gradcore"] / r["not normalized"])
    if "float32" in rounds[0]:
        values["over float32"] = median(rounds, lambda r: r["float32"] / r["gradcore"])
    if "gradient" in rounds[0]:
        values["update"] = median(rounds, lambda r: 1 - r["gradient"] / r["gradcore"])
    return values


def extra_cell(case: Case, values: dict[str, float]) -> str:
    if "over float32" in values:
        goal = BFLOAT16_OVER_FLOAT32 if case.width >= BFLOAT16_WIDTH and case.work != "forward" else None
        return "over float32 " + beside_goal(values["over float32"], goal, True, ratio_text)
    if "batch norm" in values:
        return "batch norm / without " + beside_goal(values["batch norm"], MOST_BATCH_NORM, False, ratio_text)
    if "update" in values:
        return "clip + Adam " + beside_goal(values["update"], MOST_UPDATE if case.batch > 32 else None, False, percent)
    return ""


def row(case: Case, rounds: list[Round], values: dict[str, float], rivals: list[str], dtype: str) -> list[str]:
    share = values["share gradcore"]
    peaks = [one["peak gradcore"] for one in rounds]
    goals = {"one thread": share, "float64": share - FLOAT64_BELOW, "float32": None}
    return [
        f"{median(rounds, lambda r: r['gradcore'] * 1e3):.4g}",
        beside_goal(share, case.share, True, ratio_text),
        *(
            beside_goal(values[f"share {at}"], goal, True, ratio_text) if f"share {at}" in values else "-"
            for at, goal in goals.items()
            if at == "one thread" or at == BESIDE.get(dtype, "float64")
        ),
        *(f"{median(rounds, lambda r, at=name: r[at] * 1e3):.4g}" for name in rivals),
        beside_goal(values["ratio"], case.ratio, True, ratio_text) if rivals else "-",
        beside_goal(values["recording"], MOST_RECORDING, False, percent) if "recording" in values else "-",
        extra_cell(case, values),
        f"{min(peaks):.0f}-{max(peaks):.0f}",
        f"{median(rounds, lambda r: r['handoff']):.0f}",
    ]


def clip_row(case: ClipCase, rounds: list[Round], rivals: list[str]) -> list[str]:
    cells = {
        name: f"{median(rounds, lambda r, at=name: r[at] * 1e3):.4g}"
        for name in ("gradcore", *rivals)
        if name in rounds[0]
    }
    ratio = median(rounds, lambda r: r["torch"] / r["gradcore"]) if "torch" in cells else None
    share = median(rounds, lambda r: r["roof"] / r["gradcore"])
    bandwidth = "bandwidth " + beside_goal(share, case.share if case.scales else None, True, ratio_text)
    read, update = (median(rounds, lambda r, at=kind: r[at]) for kind in ("read", "update"))
    return [
        cells["gradcore"],
        *("-" for _ in range(3)),
        *(cells.get(name, "-") for name in rivals),
        beside_goal(ratio, case.ratio, True, ratio_text) if ratio else "-",
        "-",
        f"{bandwidth} of {read:.0f} GB/s read, {update:.0f} read + written",
        "",
        "",
    ]


def heading(rivals: list[str], options: argparse.Namespace) -> str:
    own = f"share of peak, {options.dtype}, {options.threads} threads"
    beside = BESIDE.get(options.dtype, "float64")
    head = ["case", "gradcore ms", own, "share, one thread", f"share, {beside}", *(f"{name} ms" for name in rivals)]
    head += ["best peer / gradcore", "record=True adds", "also", "peak GFLOP/s", "handoff ns"]
    return "| " + " | ".join(head) + " |\n|" + "---|" * len(head)


def installed(peers: list[str]) -> list[str]:
    """The libraries whose package can be imported; prints the names of the others."""
    missing = {
        name
        for name in peers
        if subprocess.run([sys.executable, "-c", f"import {NEEDS[name]}"], capture_output=True).returncode != 0
    }
    for name in missing:
        print(f"{name}: not installed, left out")
    return [name for name in peers if name not in missing]


def run_case(case: Case | ClipCase, workers: list[Worker], options: argparse.Namespace, limits: Limits) -> dict:
    """Measure a case, print its line, and return its record."""
    rivals = [worker.library for worker in workers[1:]]
    clips = isinstance(case, ClipCase)
    rounds, undisturbed = (measure_clip if clips else measure)(case, workers, options, limits)
    values = {} if clips else values_of(case, rounds, rivals)
    cells = clip_row(case, rounds, rivals) if clips else row(case, rounds, values, rivals, options.dtype)
    print("| " + " | ".join([case.name + ("" if undisturbed else " ~"), *cells]) + " |", flush=True)
    return {"name": case.name, "undisturbed": undisturbed, "values": values, "rounds": rounds}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", help="parts of case names; default: all")
    parser.add_argument("--peers", nargs="*", default=list(NEEDS), choices=list(NEEDS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each turn in a round")
    parser.add_argument("--patience", type=float, default=10, help="seconds a case may spend on rounds to repeat")
    parser.add_argument("--json", type=Path, help="file for every round's seconds")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    rivals = installed(options.peers)
    with Limits() as limits:
        print(f"{options.dtype}, {options.threads} threads\n")
        print(heading(rivals, options), flush=True)
        workers = [Worker(name, options.threads) for name in ("gradcore", *rivals)]
        try:
            results = [
                run_case(case, workers, options, limits)
                for case in (BFLOAT16_CASES if options.dtype == "bfloat16" else (*CASES, *CLIP_CASES))
                if not options.cases or any(part in case.name for part in options.cases)
            ]
        finally:
            for worker in workers:
                worker.stop()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
