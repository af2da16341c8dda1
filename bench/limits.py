"""The limits of the machine, measured by bench/peak.cpp on request."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path


class Limits:
    """Builds the program once; each measurement takes about 30 ms. Use it as a context manager."""

    def __enter__(self) -> Limits:
        self._folder = tempfile.TemporaryDirectory()
        self._program = Path(self._folder.name) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        flags = ["-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-pthread", "-Wno-psabi"]
        include = f"-I{source.parent.parent / 'csrc'}"
        subprocess.run([os.environ.get("CXX", "g++"), *flags, include, source, "-o", self._program], check=True)
        return self

    def __exit__(self, *_) -> None:
        self._folder.cleanup()

    def peak(self, dtype: str, threads: int) -> float:
        """GFLOP/s of multiply-adds in registers."""
        return self._ask(dtype, threads)

    def bandwidth(self, kind: str, threads: int, size: int) -> float:
        """GB/s of a plain loop over an array of `size` bytes: kind read, or update (reads and writes)."""
        return self._ask(kind, threads, size)

    def handoff(self) -> float:
        """Nanoseconds of a message to another core and back."""
        return self._ask("handoff", 2)

    def _ask(self, *arguments: object) -> float:
        command = [self._program, *map(str, arguments)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
