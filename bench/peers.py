"""gradcore beside PyTorch, torch.compile and JAX: the same networks, the same numbers, in one run.

    python bench/peers.py                     # every case of the table in bench/README.md
    python bench/peers.py --cases b32w64d10 --peers torch --rounds 5 --json out.json

Each peer lives in a process of its own, so that no thread pool disturbs another's. Before anything is
timed, every peer's loss and gradient norm are checked against PyTorch's in float64. Then the peers take
turns, round after round; quoted are medians over the rounds, ratios to gradcore within the run, and the
share of the FMA peak that bench/peak.cpp measures at the start. A turn in which other programs took more
than 3 % of the cores is repeated (--patience); a case that could not be had undisturbed is marked "~".
Peers that are not installed are left out with a word.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
LEARNING_RATE = 1e-4
CLIP_NORM = 1.0
DISTURBED = 0.03  # share of the cores that other programs may take during a turn


@dataclass(frozen=True)
class Case:
    """One measurement: `work` of an MLP with `depth` hidden layers of `width`, on `batch` rows."""

    work: str  # gradient, step (gradient, global-norm clip, Adam) or forward
    batch: int
    width: int
    depth: int
    activation: str
    normalization: str | None = None

    @property
    def name(self) -> str:
        norm = "bn" if self.normalization else ""
        return f"{self.work}-b{self.batch}w{self.width}d{self.depth}{self.activation}{norm}"

    @property
    def widths(self) -> list[int]:
        return [self.width] * (self.depth + 1) + [CLASSES]

    @property
    def flops(self) -> float:
        """Of the products alone, output layer left out: 6 b w^2 d - 2 b w^2 for a gradient."""
        product = 2.0 * self.batch * self.width**2
        return product * self.depth if self.work == "forward" else product * (3 * self.depth - 1)


CASES = (
    Case("gradient", 1, 64, 10, "tanh"),
    Case("gradient", 32, 64, 10, "tanh"),
    Case("gradient", 32, 64, 50, "tanh"),
    Case("gradient", 128, 100, 50, "tanh"),
    Case("gradient", 256, 256, 20, "relu"),
    Case("gradient", 256, 256, 20, "relu", "batch"),
    Case("gradient", 1024, 1024, 8, "relu"),
    Case("gradient", 8192, 128, 8, "gelu"),
    Case("step", 32, 64, 10, "tanh"),
    Case("step", 256, 256, 20, "relu"),
    Case("forward", 1, 256, 20, "relu"),
    Case("forward", 32, 256, 20, "relu"),
    Case("forward", 4096, 256, 20, "relu"),
)


def make_data(case: Case) -> dict[str, np.ndarray]:
    """Weights (variance 1 or 2 over fan_in), zero biases, inputs and labels, from one seed."""
    rng = np.random.default_rng(7)
    gain = 2.0 if case.activation in ("relu", "gelu") else 1.0
    data = {
        f"dense{layer}.weight": rng.normal(0, (gain / fan_in) ** 0.5, (fan_out, fan_in)).astype(np.float32)
        for layer, (fan_in, fan_out) in enumerate(zip(case.widths, case.widths[1:], strict=False))
    }
    data["x"] = rng.normal(size=(case.batch, case.width)).astype(np.float32)
    data["y"] = rng.integers(0, CLASSES, case.batch)
    return data


# ---- one runner a peer: returns (callable to time, callable giving (loss, gradient norm)) ----


def run_gradcore(case: Case, threads: int, record: bool = False) -> tuple[Callable, Callable]:
    import gradcore as gc

    gc.set_num_threads(threads)
    data = make_data(case)
    net = gc.MLP(case.widths, activation=case.activation, normalization=case.normalization)
    for name, value in net.parameters.items():
        value[...] = data.get(name, 1.0 if name.startswith("norm") and name.endswith("weight") else 0.0)
    del value
    x, y = data["x"], data["y"]
    optimizer = gc.optim.Adam(net, LEARNING_RATE)
    work = {
        "gradient": lambda: net.loss_and_gradients(x, y, record=record),
        "step": lambda: net.train_step(x, y, optimizer, clip_norm=CLIP_NORM, record=record),
        "forward": lambda: net(x),
    }[case.work]

    def check() -> tuple[float, float]:
        loss = net.loss_and_gradients(x, y)
        return loss, float(np.linalg.norm(np.asarray(net.gradients.flat, dtype=np.float64)))

    return work, check


def run_gradcore_recorded(case: Case, threads: int) -> tuple[Callable, Callable]:
    return run_gradcore(case, threads, record=True)


def torch_model(case: Case, dtype: str = "float32"):
    import torch

    activations = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}
    data = make_data(case)
    layers: list[torch.nn.Module] = []
    for layer, (fan_in, fan_out) in enumerate(zip(case.widths, case.widths[1:], strict=False)):
        dense = torch.nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            dense.weight.copy_(torch.from_numpy(data[f"dense{layer}.weight"]))
            dense.bias.zero_()
        layers.append(dense)
        if layer < case.depth:
            layers += [torch.nn.BatchNorm1d(fan_out)] if case.normalization else []
            layers.append(activations[case.activation]())
    model = torch.nn.Sequential(*layers).to(getattr(torch, dtype))
    return model, torch.from_numpy(data["x"]).to(getattr(torch, dtype)), torch.from_numpy(data["y"])


def run_torch(case: Case, threads: int, compiled: bool = False, dtype: str = "float32") -> tuple[Callable, Callable]:
    import torch

    torch.set_num_threads(threads)
    model, x, y = torch_model(case, dtype)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, foreach=True)
    forward = torch.compile(model) if compiled else model

    def gradient() -> torch.Tensor:
        for p in parameters:
            p.grad = None
        loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        return loss

    def step() -> None:
        gradient()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        forward(x)

    def check() -> tuple[float, float]:
        loss = gradient().item()
        return loss, float(torch.sqrt(sum((p.grad.double() ** 2).sum() for p in parameters)))

    return {"gradient": gradient, "step": step, "forward": infer}[case.work], check


def run_torch_compile(case: Case, threads: int) -> tuple[Callable, Callable]:
    return run_torch(case, threads, compiled=True)


def run_jax(case: Case, threads: int) -> tuple[Callable, Callable]:
    import jax
    import jax.numpy as jnp

    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda z: jax.nn.gelu(z, approximate=False)}
    data = make_data(case)
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    params = [
        {"w": jnp.asarray(data[f"dense{layer}.weight"].T.copy()), "b": jnp.zeros(width)}
        | ({"g": jnp.ones(width), "s": jnp.zeros(width)} if case.normalization and layer < case.depth else {})
        for layer, width in enumerate(case.widths[1:])
    ]

    def model(params, x):
        for p in params[:-1]:
            x = x @ p["w"] + p["b"]
            if case.normalization:
                x = (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5) * p["g"] + p["s"]
            x = activation[case.activation](x)
        return x @ params[-1]["w"] + params[-1]["b"]

    def loss(params, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(model(params, x)), y[:, None], 1))

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = [params, zeros, zeros, jnp.zeros(())]

    @jax.jit
    def update(params, m, v, t, x, y):
        grads = jax.grad(loss)(params, x, y)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        coef = jnp.minimum(1.0, CLIP_NORM / (norm + 1e-6))
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * coef * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (coef * g) ** 2, v, grads)
        params = jax.tree.map(
            lambda p, m, v: p - LEARNING_RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), params, m, v
        )
        return params, m, v, t

    def step() -> None:
        state[:] = jax.block_until_ready(update(*state, x, y))

    infer = jax.jit(model)

    def check() -> tuple[float, float]:
        value, grads = value_and_grad(params, x, y)
        return float(value), float(np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grads))))

    work = {
        "gradient": lambda: jax.block_until_ready(value_and_grad(params, x, y)),
        "step": step,
        "forward": lambda: jax.block_until_ready(infer(params, x)),
    }
    return work[case.work], check


RUNNERS = {
    "gradcore": run_gradcore,
    "recorded": run_gradcore_recorded,
    "torch": run_torch,
    "torch.compile": run_torch_compile,
    "jax": run_jax,
}
NEEDS = {"torch": "torch", "torch.compile": "torch", "jax": "jax"}


# ---- processes ----


def serve(connection, peer: str, threads: int) -> None:
    """Worker: prepares a case, gives its check, then times rounds on request."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + ("true" if threads > 1 else "false")
    work: Callable = lambda: None  # noqa: E731
    while True:
        try:
            verb, argument = connection.recv()
        except EOFError:  # the parent is gone
            return
        if verb == "stop":
            return
        try:
            if verb == "prepare":
                work, check = RUNNERS[peer](argument, threads)
                connection.send(check())
                work()
                work()
            else:
                connection.send(time_for(work, argument))
        except Exception as error:
            connection.send(error)


def time_for(work: Callable, seconds: float) -> float:
    """Median seconds of one call, over at least three calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def program_ticks(pid: int) -> int:
    """CPU time of a process and of its finished children, in ticks (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def core_ticks() -> tuple[int, int]:
    """(busy, all) ticks of the cores this process may use."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in cores:
            user, nice, system, idle, iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            busy += user + nice + system + irq + softirq + steal
            total += user + nice + system + irq + softirq + steal + idle + iowait
    return busy, total


def watched(run: Callable[[], Any], pid: int) -> tuple[float, Any]:
    """(share of the cores that others than process `pid` took meanwhile, run())."""
    own_before, (busy_before, total_before) = program_ticks(pid), core_ticks()
    value = run()
    own, (busy, total) = program_ticks(pid), core_ticks()
    return (busy - busy_before - (own - own_before)) / max(1, total - total_before), value


def quietest(run: Callable[[], Any], pid: int, patience: float) -> tuple[Any, bool]:
    """run() in process `pid` while nobody else computes, or after `patience` seconds of waiting anyway.

    Returns the result of the least disturbed run, and whether it was undisturbed.
    """
    least, result = math.inf, None
    end = time.monotonic() + patience
    while least > DISTURBED and (time.monotonic() < end or least == math.inf):
        if watched(lambda: time.sleep(0.2), pid)[0] > DISTURBED and time.monotonic() < end:
            continue
        others, value = watched(run, pid)
        if others < least:
            least, result = others, value
    return result, least <= DISTURBED


class Peer:
    """The parent's end of a worker."""

    def __init__(self, name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, name, threads), daemon=True)
        self.process.start()

    def ask(self, verb: str, argument) -> object:
        self.connection.send((verb, argument))
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(("stop", None))
        self.process.join(5)
        self.process.kill()


def machine_limits(threads: int, patience: float) -> tuple[float, float | None]:
    """float32 GFLOP/s of `threads` threads, and nanoseconds to another core and back, measured now."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        compiler = os.environ.get("CXX", "g++")
        flags = ["-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-pthread", "-Wno-psabi"]
        include = f"-I{source.parent.parent / 'csrc'}"
        subprocess.run([compiler, *flags, include, source, "-o", program], check=True)
        run = functools.partial(subprocess.run, [program, str(threads)], check=True, capture_output=True, text=True)
        lines = quietest(lambda: run().stdout, os.getpid(), patience)[0].splitlines()
    limits = {tuple(line.split()[:2]): float(line.split()[2]) for line in lines}
    return limits["float32", str(threads)], limits.get(("handoff", "2"))


def verify(case: Case, answers: dict[str, tuple[float, float]]) -> None:
    """Loss and gradient norm of every peer against float64, to 1e-3 (deep float32 batch norm is rough)."""
    reference = answers.get("float64")
    if reference is None:
        return
    for name, answer in answers.items():
        for what, got, expected in zip(("loss", "gradient norm"), answer, reference, strict=True):
            if not abs(got - expected) <= 1e-3 * abs(expected):
                raise RuntimeError(f"{case.name}: {name} gives a {what} of {got:.8g}, float64 {expected:.8g}")


def measure(case: Case, names: list[str], options: argparse.Namespace) -> tuple[dict[str, float], bool]:
    """Median seconds of each peer, round by round in turn; and whether no turn was disturbed."""
    peers = [Peer(name, options.threads) for name in names]
    try:
        answers = {peer.name: peer.ask("prepare", case) for peer in peers}
        if "torch" in names:
            answers["float64"] = run_torch(case, options.threads, dtype="float64")[1]()
        verify(case, answers)
        times: dict[str, list[float]] = {name: [] for name in names}
        quiet = True
        for _ in range(options.rounds):
            for peer in peers:
                run = functools.partial(peer.ask, "time", options.seconds)
                seconds, undisturbed = quietest(run, peer.process.pid, options.patience)
                times[peer.name].append(seconds)
                quiet = quiet and undisturbed
    finally:
        for peer in peers:
            peer.stop()
    return {name: statistics.median(values) for name, values in times.items()}, quiet


def installed(peers: list[str]) -> list[str]:
    """Those whose package can be imported; the others are named."""
    missing = {
        name
        for name in peers
        if subprocess.run([sys.executable, "-c", f"import {NEEDS[name]}"], capture_output=True).returncode != 0
    }
    for name in missing:
        print(f"{name}: not installed, left out")
    return [name for name in peers if name not in missing]


def row(case: Case, times: dict[str, float], quiet: bool, peak: float) -> str:
    """A line of the table."""
    own = times["gradcore"]
    rivals = {name: t for name, t in times.items() if name not in ("gradcore", "recorded")}
    cells = [case.name + ("" if quiet else " ~"), f"{own * 1e3:.3f} ({case.flops / own * 1e-9 / peak:.2f})"]
    cells += [f"{t * 1e3:.3f}" for t in rivals.values()]
    cells.append(f"{min(rivals.values()) / own:.2f}" if rivals else "-")
    if "recorded" in times:
        cells.append(f"{(times['recorded'] / own - 1) * 100:+.0f} %")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", help="parts of case names; default: all")
    parser.add_argument("--peers", nargs="*", default=["torch", "torch.compile", "jax"], choices=list(NEEDS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each peer's turn in a round")
    parser.add_argument("--patience", type=float, default=10, help="seconds to wait for a turn nobody disturbs")
    parser.add_argument("--no-record", action="store_true", help="leave out the cost of record=True")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ["gradcore"] + ([] if options.no_record else ["recorded"]) + installed(options.peers)
    peak, handoff = machine_limits(options.threads, options.patience)
    print(f"FMA peak, float32, {options.threads} threads: {peak:.0f} GFLOP/s")
    print(f"to another core and back: {handoff:.0f} ns\n" if handoff else "")
    rivals = [name for name in names if name not in ("gradcore", "recorded")]
    head = ["case", "gradcore ms (share of peak)", *(f"{name} ms" for name in rivals), "best peer / gradcore"]
    head += [] if options.no_record else ["record"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    results = []
    for case in CASES:
        if options.cases and not any(part in case.name for part in options.cases):
            continue
        used = [name for name in names if not (name == "recorded" and case.work == "forward")]
        times, quiet = measure(case, used, options)
        text = row(case, times, quiet, peak)
        print(text if len(used) == len(names) else text + " - |", flush=True)
        results.append(
            {"case": asdict(case), "name": case.name, "seconds": times, "undisturbed": quiet, "peak_gflops": peak}
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
