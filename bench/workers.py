"""Runs libraries in separate processes, so that their thread pools do not disturb each other, in undisturbed rounds."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners import prepare

DISTURBED = 0.03  # share of the cores that other programs may take during a round


def serve(connection, library: str, threads: int) -> None:
    """Worker: prepares labelled cases, sends their checks, then times them on request."""
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
    """Median seconds of one call, over at least two calls; among many short calls, the first one is only a warm-up."""
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


def processes() -> dict[int, tuple[int, int]]:
    """The parent and the CPU time in ticks (10 ms) of each process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process may have ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    return found


def ticks_of_others() -> int:
    """CPU time of all processes except this one, its ancestors and its descendants, and the time taken by the host.

    The totals of /proc/stat would not do: they are sampled, with an error of a tenth if many short programs run.
    """
    all_processes = processes()
    own = {os.getpid()}
    while more := {pid for pid, (parent, _) in all_processes.items() if parent in own} - own:
        own |= more
    ancestor = os.getpid()
    while ancestor in all_processes:
        own.add(ancestor)
        ancestor = all_processes[ancestor][0]
    stolen = int(Path("/proc/stat").read_text().splitlines()[0].split()[8])
    return stolen + sum(ticks for pid, (_, ticks) in all_processes.items() if pid not in own)


def watched(run: Callable[[], Any]) -> tuple[float, Any]:
    """(share of the cores that others used meanwhile, result of run())."""
    ticks, start = ticks_of_others(), time.monotonic()
    value = run()
    seconds, cores = time.monotonic() - start, len(os.sched_getaffinity(0))
    return max(0, ticks_of_others() - ticks) / os.sysconf("SC_CLK_TCK") / seconds / cores, value


class Patience:
    """Repeats disturbed rounds, for a limited number of seconds in total."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self.undisturbed = True

    def quietest(self, run: Callable[[], Any]) -> Any:
        """Repeat run() until a round is undisturbed or the time is used up; returns the least disturbed result."""
        least, result = math.inf, None
        while True:
            start = time.monotonic()
            others, value = watched(run)
            if others < least:
                least, result = others, value
            if least <= DISTURBED:
                return result
            self._left -= time.monotonic() - start
            if self._left <= 0:
                self.undisturbed = False
                return result
