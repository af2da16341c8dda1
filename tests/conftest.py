"""Fixtures shared by all tests: targets, dtypes, random numbers, subprocesses, and PyTorch when present."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent


def _test_the_installed_package():
    """`python -m pytest` puts the checkout on sys.path, where gradcore/ has no compiled module."""
    if not list((ROOT / "gradcore").glob("_core*.so")):
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


_test_the_installed_package()

import gradcore as gc  # noqa: E402
from native import compile_program, compilers  # noqa: E402, F401

settings.register_profile("gradcore", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("gradcore")


def pytest_configure(config):
    config.addinivalue_line("markers", "torch: compares with PyTorch; skipped where it is not installed")


def pytest_collection_modifyitems(items):
    try:
        import torch  # noqa: F401
    except ImportError:
        skip = pytest.mark.skip(reason="PyTorch is not installed (pip install torch, CPU is enough)")
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(skip)


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


SUPPORTED_TARGETS = [name for index, name in enumerate(gc._core.targets()) if gc._core.target_supported(index)]


@pytest.fixture(params=SUPPORTED_TARGETS)
def target(request):
    """Runs the test once on every kernel set this CPU supports."""
    before = gc._core.target()
    gc._core.set_target(request.param)
    yield request.param
    gc._core.set_target(before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def num_threads():
    """gc.set_num_threads, undone after the test."""
    before = gc.get_num_threads()
    yield gc.set_num_threads
    gc.set_num_threads(before)


VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64, "neon": 16}


@pytest.fixture(params=["1", "lanes-1", "lanes", "lanes+1", "odd", "large"])
def size(request, target, dtype):
    """Lengths around a vector of the current target, and two that span many."""
    lanes = VECTOR_BYTES[target] // dtype.itemsize
    named = {"1": 1, "lanes-1": lanes - 1, "lanes": lanes, "lanes+1": lanes + 1, "odd": 3 * lanes + 5, "large": 331}
    return named[request.param]


@pytest.fixture
def run_python(tmp_path):
    """Runs code in a fresh interpreter outside the checkout; fails with its output, returns its stdout."""

    def run(code, **env):
        process = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout.strip()

    return run
