"""Libraries in processes of their own, so that no thread pool disturbs another's, and rounds nobody disturbs."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runners import prepare

DISTURBED = 0.03  # share of the cores that other programs may take during a round


def serve(connection, library: str, threads: int) -> None:
    """Worker: prepares cases under a label each, gives their checks, then times them on request."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + ("true" if threads > 1 else "false")
    work: dict[str, tuple[Callable, Any]] = {}
    while True:
        try:
            verb, *arguments = connection.recv()
        except EOFError:  # the parent is gone
            return
        if verb == "stop":
            return
        try:
            if verb == "forget":
                work.clear()
                connection.send(None)
            elif verb == "prepare":
                label, case, setting = arguments
                run, check = prepare(library, case, setting)
                connection.send(check())
                work[label] = (run, setting)
            else:
                label, seconds = arguments
                connection.send(time_for(*work[label], library, seconds))
        except Exception as error:
            connection.send(error)


def time_for(run: Callable, setting: Any, library: str, seconds: float) -> float:
    """Median seconds of one call, over at least two calls; the first one warms up what is short."""
    if library == "gradcore":
        import gradcore as gc

        gc.set_num_threads(setting.threads)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Worker:
    """The parent's end of a library's process."""

    def __init__(self, library: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.library = library
        self.connection, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, library, threads), daemon=True)
        self.process.start()

    def ask(self, verb: str, *arguments) -> Any:
        self.connection.send((verb, *arguments))
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise RuntimeError(f"{self.library}: {answer}")
        return answer

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(("stop",))
        self.process.join(5)
        self.process.kill()


# ---- disturbance ----


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


def watched(run: Callable[[], Any], pids: Sequence[int]) -> tuple[float, Any]:
    """(share of the cores that others than the processes `pids` took meanwhile, run())."""

    def own_ticks() -> int:
        return sum(program_ticks(pid) for pid in pids)

    own_before, (busy_before, total_before) = own_ticks(), core_ticks()
    value = run()
    own, (busy, total) = own_ticks(), core_ticks()
    return (busy - busy_before - (own - own_before)) / max(1, total - total_before), value


class Patience:
    """Repeats rounds that others disturbed, for so many seconds in all."""

    def __init__(self, seconds: float, pids: Sequence[int]) -> None:
        self._left = seconds
        self._pids = [os.getpid(), *pids]
        self.undisturbed = True

    def quietest(self, run: Callable[[], Any]) -> Any:
        """run(), again and again until nobody else computes or patience is at its end; the quietest result."""
        least, result = math.inf, None
        while True:
            start = time.monotonic()
            others, value = watched(run, self._pids)
            if others < least:
                least, result = others, value
            if least <= DISTURBED:
                return result
            self._left -= time.monotonic() - start
            if self._left <= 0:
                self.undisturbed = False
                return result
