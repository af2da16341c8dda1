"""Where the C, C++ and Cython side of this installation lies: for compilers and build systems.

    cc $(gradcore --cflags) program.c $(gradcore --libs)
    cmake -S . -B build -Dgradcore_DIR="$(gradcore --cmakedir)"

Nothing here compiles anything.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from . import _core

# Beside the native module, not this file: an editable install leaves the Python files where the source is.
_PACKAGE = Path(_core.__file__).resolve().parent


def get_include() -> str:
    """The directory to name to a compiler with -I: it holds gradcore/gradcore.h and gradcore/gradcore.hpp."""
    return _folder("include")


def get_library_dir() -> str:
    """The directory that holds libgradcore: for -L, and for the run path of what links it."""
    return _folder("lib")


def get_cmake_dir() -> str:
    """The directory of gradcoreConfig.cmake: for `gradcore_DIR`, or as a part of CMAKE_PREFIX_PATH."""
    return _folder("lib/cmake/gradcore")


def get_pkgconfig_dir() -> str:
    """The directory of gradcore.pc: for PKG_CONFIG_PATH."""
    return _folder("lib/pkgconfig")


def cflags() -> str:
    """What a compiler needs to find the headers, quoted for a shell."""
    return f"-I{shlex.quote(get_include())}"


def libs() -> str:
    """What a linker needs, run path included, so that the program starts as it is; quoted for a shell."""
    folder = shlex.quote(get_library_dir())
    return f"-L{folder} -Wl,-rpath,{folder} -lgradcore"


def _folder(name: str) -> str:
    path = _PACKAGE / name
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected a directory of the installed package; is gradcore only unpacked?")
    return str(path)
