"""Memory, depth, vanishing numbers and busy CPUs, which tables of usual nets do not show.

    python bench/extremes.py                  # all four; needs a C++ compiler, and PyTorch for its memory and threads

memory    the resident memory that a first gradient at 8192 rows, width 128, 8 gelu layers adds, gradcore beside
          PyTorch, and the peak of each process. Goal: below a third of PyTorch's.
depth     the time per layer of a net of 2,000 layers of width 64 over that of 20 layers. Goal: the same.
subnormal what numbers below 1.2e-38 cost: a sigmoid net of 100 layers, whose deltas fade through that range; nets
          whose deltas all lie in it, down to the last product; Adam with such gradients. Each as it is and with
          flush-to-zero in every thread. It decides whether the library should set flush-to-zero itself.
busy      gradients beside other programs that take the CPUs: all threads over one thread, for gradcore and PyTorch.
          Goal: not slower than one thread.

Each number comes from a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cases import Case, make_data
from peers import installed
from runners import Setting, prepare, verify

THREADS = len(os.sched_getaffinity(0))
BIG = Case("gradient", 8192, 128, 8, "gelu")
SHALLOW, DEEP = 20, 2000
TINY = 1e-40  # in the middle of float32's subnormal numbers


def median_seconds(
    work: Callable[[], object], before: Callable[[], object] = lambda: None, seconds: float = 0.4
) -> float:
    """Seconds of work(), each time after before(), which does not count."""
    for _ in range(2):
        before()
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        before()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- the work of one process, which prints its result as JSON ----


def kilobytes(field: str) -> int:
    """VmRSS (resident now) or VmHWM (at most so far) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def memory_of(library: str) -> dict[str, float]:
    make_data(BIG)  # so that memory for making data is already allocated
    setting = Setting(THREADS)
    prepare(library, Case("gradient", 8, 8, 2, "gelu"), setting)[1]()  # imports everything
    work, _ = prepare(library, BIG, setting)
    ctypes.CDLL(None).malloc_trim(0)  # otherwise, freed memory would be reused without showing
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kilobytes("VmRSS")
    work()
    return {"added MB": (kilobytes("VmHWM") - before) / 1024, "process MB": kilobytes("VmHWM") / 1024}


def time_of_depth(batch: str, depth: str) -> dict[str, float]:
    work, _ = prepare("gradcore", Case("gradient", int(batch), 64, int(depth), "relu"), Setting(THREADS))
    return {"us per layer": median_seconds(work) / int(depth) * 1e6}


def flush_to_zero(folder: str) -> None:
    """Set flush-to-zero for this thread and those it starts, which inherit it; call this before gradcore starts any."""
    source, library = Path(folder) / "flush.c", Path(folder) / "flush.so"
    source.write_text("#include <immintrin.h>\nvoid flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }\n")
    if not library.exists():
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    ctypes.CDLL(str(library)).flush()


def subnormals(array: np.ndarray) -> int:
    """The number of subnormal numbers; compared as integers, because flush-to-zero makes floats compare as zero."""
    bits = array.view(np.int32) & 0x7FFFFFFF
    return int(((bits > 0) & (bits < 0x00800000)).sum())


def sigmoid_net(threads: str) -> dict[str, float]:
    """Loss and gradient of a net that vanishes: Glorot, 100 layers."""
    import gradcore as gc

    gc.set_num_threads(int(threads))
    net = gc.MLP([64] * 101 + [10], activation="sigmoid", init="glorot_normal")
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(128, 64)).astype(np.float32), rng.integers(0, 10, 128)
    seconds = median_seconds(lambda: net.loss_and_gradients(x, y))
    return {"us": seconds * 1e6, "subnormal": subnormals(net.gradients.flat) / net.gradients.flat.size}


def backward(activation: str, scale: str, threads: str) -> dict[str, float]:
    """Backward with deltas of about `scale` in every layer."""
    import gradcore as gc

    gc.set_num_threads(int(threads))
    net = gc.MLP([128] * 21, activation=activation)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(128, 128)).astype(np.float32)
    grad = (rng.normal(size=(128, 128)) * float(scale)).astype(np.float32)
    seconds = median_seconds(lambda: net.backward(grad), before=lambda: net.forward(x, training=True))
    return {"us": seconds * 1e6, "subnormal": subnormals(net.gradients.flat) / net.gradients.flat.size}


def adam(scale: str, threads: str) -> dict[str, float]:
    """A step with gradients of size `scale`; the first moments are as small."""
    import gradcore as gc

    gc.set_num_threads(int(threads))
    net = gc.MLP([128] * 21, activation="relu")
    net.gradients.flat[:] = np.float32(float(scale))
    optimizer = gc.optim.Adam(net, 1e-6)
    return {
        "us": median_seconds(optimizer.step) * 1e6,
        "subnormal": subnormals(net.gradients.flat) / net.gradients.flat.size,
    }


def burn() -> None:
    while True:
        sum(range(100_000))


def beside_busy_programs(library: str, batch: str, depth: str, normalization: str, programs: str) -> dict[str, float]:
    """Milliseconds of a call with one thread and with all, in turns of a second, each the mean over its turns."""
    case = Case("gradient", int(batch), 64, int(depth), "relu", normalization or None)
    reference = prepare("gradcore", case, Setting(1, "float64"))[1]()
    verify(case, {library: prepare(library, case, Setting(THREADS))[1]()}, reference)
    others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(int(programs))]
    for other in others:
        other.start()
    calls, seconds = {1: 0, THREADS: 0}, {1: 0.0, THREADS: 0.0}
    for threads in [1, THREADS] * 4:
        work, _ = prepare(library, case, Setting(threads))
        work()
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < 1:
            work()
            calls[threads] += 1
        seconds[threads] += now - start
    for other in others:
        other.kill()
    return {name: seconds[threads] / calls[threads] * 1e3 for name, threads in (("one", 1), ("all", THREADS))}


WORK = {
    "memory": memory_of,
    "depth": time_of_depth,
    "sigmoid": sigmoid_net,
    "backward": backward,
    "adam": adam,
    "busy": beside_busy_programs,
}


# ---- the report ----


def ask(*arguments: object, flush: str = "") -> dict[str, float]:
    command = [sys.executable, __file__, "--flush", flush, "--work", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(libraries: list[str]) -> None:
    print(f"memory of a first gradient, {BIG.name}, MB: added by it, and of the whole process at its peak")
    added = {}
    for library in libraries:
        answer = ask("memory", library)
        added[library] = answer["added MB"]
        print(f"  {library:10s} {answer['added MB']:8.1f} {answer['process MB']:8.1f}")
    if len(added) == 2:
        print(f"  gradcore / torch {added['gradcore'] / added['torch']:.2f}, goal: below 0.33")


def report_depth(rounds: int) -> None:
    print(f"\nmicroseconds per layer, width 64, relu, {THREADS} threads: {SHALLOW} layers, {DEEP} layers")
    for batch in (32, 128):
        pairs = [[ask("depth", batch, depth)["us per layer"] for depth in (SHALLOW, DEEP)] for _ in range(rounds)]
        shallow, deep = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(second / first for first, second in pairs)
        print(f"  {batch:4d} rows {shallow:8.2f} {deep:8.2f}, ratio {ratio:.2f}")


def report_subnormal(rounds: int) -> None:
    print("\nmicroseconds as it is, and with flush-to-zero; share of subnormal gradients as it is")
    tasks: list[tuple[object, ...]] = []
    for threads in sorted({1, THREADS}):
        tasks.append(("sigmoid", threads))
        for activation in ("tanh", "relu"):
            tasks += [("backward", activation, 1.0, threads), ("backward", activation, TINY, threads)]
        tasks += [("adam", 1.0, threads), ("adam", TINY, threads)]
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            pairs = [(ask(*task), ask(*task, flush=folder)) for _ in range(rounds)]
            plain, flushed = ([one[side]["us"] for one in pairs] for side in (0, 1))
            if pairs[0][1]["subnormal"] > 0:
                raise RuntimeError(f"{task}: a thread did not flush to zero")
            ratio = statistics.median(p / f for p, f in zip(plain, flushed, strict=True))
            print(
                f"  {' '.join(map(str, task)):28s} {statistics.median(plain):9.1f} {statistics.median(flushed):9.1f} "
                f"x {ratio:.2f}  {pairs[0][0]['subnormal']:.0%}",
                flush=True,
            )


def report_busy(libraries: list[str]) -> None:
    print(f"\nmilliseconds beside busy programs, width 64, relu: one thread, {THREADS} threads")
    for batch, depth, normalization in ((32, 10, ""), (128, 50, ""), (128, 20, "batch")):
        for programs in range(THREADS + 1):
            for library in libraries:
                answer = ask("busy", library, batch, depth, normalization, programs)
                what = f"b{batch}w64d{depth}{normalization and 'bn'} beside {programs}, {library}"
                print(f"  {what:34s} {answer['one']:9.3f} {answer['all']:9.3f} x {answer['all'] / answer['one']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["memory", "depth", "subnormal", "busy"])
    parser.add_argument("--rounds", type=int, default=3, help="processes a number is the median of")
    parser.add_argument("--work", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--flush", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        if options.flush:
            flush_to_zero(options.flush)
        kind, *arguments = options.work
        print(json.dumps(WORK[kind](*arguments)))
        return
    libraries = ["gradcore", *installed(["torch"])]
    if "memory" in options.only:
        report_memory(libraries)
    if "depth" in options.only:
        report_depth(options.rounds)
    if "subnormal" in options.only:
        report_subnormal(options.rounds)
    if "busy" in options.only:
        report_busy(libraries)


if __name__ == "__main__":
    main()
