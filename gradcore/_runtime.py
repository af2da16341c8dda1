"""Threads and CPU of this process, and registration with threadpoolctl."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _check, _core

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def get_num_threads() -> int:
    """The number of threads that a call may use, including the calling thread."""
    return _core.get_num_threads()


def set_num_threads(num_threads: int) -> None:
    """Let each call use up to `num_threads` threads, >= 1; at most 256 are used. Results do not depend on it.

    Calls with little work use fewer, and so do all calls while other programs keep the threads from running at the same
    time. Setting the number tries all of them again.

    The default is GRADCORE_NUM_THREADS from the environment, else OMP_NUM_THREADS, else the number of cores (not
    hardware threads) that this process may run on, limited by the quota of its cgroup. A variable that is not a
    positive whole number (or a list that begins with one) is ignored; `gradcore info` tells.
    """
    _core.set_num_threads(min(_check.integer(num_threads, "num_threads", 1), 2**31 - 1))


def cpu_info() -> dict[str, Any]:
    """Kernel sets and threads of this process.

    Returns:
        A dict with the "targets" built and those "supported" by this CPU, as tuples of names; the "target" in use;
        "bfloat16_products": whether the CPU multiplies bfloat16 natively, two terms in the time of one (otherwise
        nets of that dtype multiply rounded float32); "num_threads"; and "threads_from", the source of that number:
        "set_num_threads", "GRADCORE_NUM_THREADS", "OMP_NUM_THREADS", "CPU affinity" or "cgroup quota".
    """
    targets = _core.targets()
    supported = tuple(name for index, name in enumerate(targets) if _core.target_supported(index))
    return {
        "targets": targets,
        "supported": supported,
        "target": _core.target(),
        "bfloat16_products": _core.has_bfloat16_products(),
        "num_threads": _core.get_num_threads(),
        "threads_from": _core.num_threads_source(),
    }


# ---- threadpoolctl -----------------------------------------------------------------------------------------


def register_with_threadpoolctl() -> None:
    """Let `threadpoolctl.threadpool_limits` limit gradcore too.

    threadpoolctl must know a library before its limits are set, but importing it here would cost every user its
    import time. So gradcore registers when something else imports threadpoolctl.
    """
    module = sys.modules.get("threadpoolctl")
    if module is not None:
        _register(module)
    else:
        sys.meta_path.insert(0, _RegisterOnImport())


class _RegisterOnImport:
    """Finds nothing itself; registers when threadpoolctl is imported, and then removes itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "threadpoolctl":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register(threadpoolctl: ModuleType) -> None:
    if not hasattr(threadpoolctl, "register"):  # before threadpoolctl 3.2
        return

    class GradcoreController(threadpoolctl.LibController):  # type: ignore[name-defined, misc]
        """The thread pool of libgradcore, for threadpoolctl."""

        user_api = "gradcore"
        internal_api = "gradcore"
        filename_prefixes = ("libgradcore",)
        check_symbols = ("gradcore_get_num_threads", "gradcore_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.gradcore_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.gradcore_set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.version()

        def set_additional_attributes(self) -> None:
            self.target = _core.target()

    threadpoolctl.register(GradcoreController)
