"""Train deep MLPs; find vanishing and exploding gradients, explain them, and verify a cure.

    import gradcore as gc

    net = gc.MLP([64] + [100] * 30 + [10], activation="tanh")
    optimizer = gc.optim.Adam(net, lr=1e-3)
    step = net.train_step(x, labels, optimizer, clip_norm=1.0)
    print(gc.analyze(net, x, labels))

    nets             MLP, load, Step, GradientFlow (`net.flow`), DirectFeedbackMLP (without backpropagation)
    training         optim (optimizers, schedules), Callback, EarlyStopping, History, TrainingWarning
    what is wrong    analyze (on data), predict (by theory), Monitor (while a net trains), sweep (of many designs)
    what cures it    repair; analyze(...).remedies()
    clipping         clip_grad_norm_, clip_grad_value_, clip_grad_adaptive_: of a net or of any arrays
    initial weights  initializers, activations, init (critical gains, LSUV)
    single kernels   ops
    other programs   from_torch, to_torch, from_sklearn, export_c
    CPU and threads  cpu_info, get_num_threads, set_num_threads
    C, C++, Cython   get_include, get_library_dir, get_cmake_dir, get_pkgconfig_dir
    further modules  analysis (records of a report, mean-field theory), training, sweeps, flow, clip

Importing starts no thread and loads only NumPy and the native library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from . import _core
except ImportError as error:
    if error.name != __name__:  # the module is there, but it does not load
        raise
    raise ImportError(
        f"{__path__[0]} is gradcore's source, without the native module that `pip install .` builds: "
        "start Python in another folder, where the installed gradcore is found"
    ) from None
from . import clip, flow, init, ops, optim
from ._runtime import cpu_info, get_num_threads, register_with_threadpoolctl, set_num_threads
from .clip import clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_
from .config import get_cmake_dir, get_include, get_library_dir, get_pkgconfig_dir
from .flow import GradientFlow
from .init import activations, initializers
from .io import load
from .mlp import MLP, Step

if TYPE_CHECKING:
    from . import analysis, sweeps, training
    from .analysis.analyze import analyze
    from .analysis.predict import predict
    from .analysis.repair import repair
    from .feedback_alignment import DirectFeedbackMLP
    from .history import History
    from .interop.sklearn import from_sklearn
    from .interop.torch import from_torch, to_torch
    from .monitor import Monitor
    from .sweeps import sweep
    from .training import Callback, EarlyStopping, TrainingWarning

__version__: str = _core.version()

__all__ = [
    "MLP",
    "Callback",
    "DirectFeedbackMLP",
    "EarlyStopping",
    "GradientFlow",
    "History",
    "Monitor",
    "Step",
    "TrainingWarning",
    "activations",
    "analysis",
    "analyze",
    "clip",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "cpu_info",
    "export_c",
    "flow",
    "from_sklearn",
    "from_torch",
    "get_cmake_dir",
    "get_include",
    "get_library_dir",
    "get_num_threads",
    "get_pkgconfig_dir",
    "init",
    "initializers",
    "load",
    "ops",
    "optim",
    "predict",
    "repair",
    "set_num_threads",
    "sweep",
    "sweeps",
    "to_torch",
    "training",
]

# Imported when first asked for, to keep `import gradcore` cheap.
_LAZY = {
    "analysis": ("analysis", None),
    "analyze": ("analysis", "analyze"),
    "export_c": ("export", "export_c"),
    "from_sklearn": ("interop.sklearn", "from_sklearn"),
    "from_torch": ("interop.torch", "from_torch"),
    "predict": ("analysis", "predict"),
    "to_torch": ("interop.torch", "to_torch"),
    "repair": ("analysis", "repair"),
    "DirectFeedbackMLP": ("feedback_alignment", "DirectFeedbackMLP"),
    "sweep": ("sweeps", "sweep"),
    "sweeps": ("sweeps", None),
    "training": ("training", None),
    "Callback": ("training", "Callback"),
    "EarlyStopping": ("training", "EarlyStopping"),
    "History": ("history", "History"),
    "Monitor": ("monitor", "Monitor"),
    "TrainingWarning": ("training", "TrainingWarning"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module_name, attribute = _LAZY[name]
    module = import_module(f".{module_name}", __name__)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


register_with_threadpoolctl()
