"""`gradcore info`."""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np

from .. import _core
from .._runtime import cpu_info
from .outputs import OK


def run_info(arguments: argparse.Namespace) -> int:
    """`gradcore info`."""
    info = {
        "version": _core.version(),
        "abi": _core.abi_version(),
        **cpu_info(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    if arguments.json:
        print(json.dumps(info, indent=2))
        return OK
    idle = [name for name in info["targets"] if name not in info["supported"]]
    rest = f"; built, but not supported by this CPU: {', '.join(idle)}" if idle else ""
    wanted = os.environ.get("GRADCORE_TARGET", "")
    forced = " (GRADCORE_TARGET)" if wanted == info["target"] else ""
    if wanted and not forced:
        rest += f"; GRADCORE_TARGET={wanted} is ignored: this CPU supports no such target"
    print(f"gradcore  {info['version']} (ABI {info['abi']})")
    print(f"target    {info['target']}{forced}; supported: {', '.join(info['supported'])}{rest}")
    print(f"bfloat16  {'native products' if info['bfloat16_products'] else 'products of rounded float32'}")
    print(f"threads   {info['num_threads']}, from {info['threads_from']}{_ignored(info['threads_from'])}")
    print(f"NumPy     {info['numpy']}, Python {info['python']}")
    return OK


def _ignored(source: str) -> str:
    """The variables that would have come before the source of the number of threads, in words: they have no number."""
    names = ["GRADCORE_NUM_THREADS", "OMP_NUM_THREADS"]
    before = {"set_num_threads": [], names[0]: [], names[1]: names[:1]}.get(source, names)
    given = [f"{name}={os.environ[name]}" for name in before if os.environ.get(name)]
    return "".join(f"; {each} is ignored: it is not a positive whole number" for each in given)
