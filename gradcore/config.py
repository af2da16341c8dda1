"""Paths of the C, C++ and Cython files of this installation, for compilers and build systems.

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
    """The include directory (-I), with gradcore/gradcore.h and gradcore/gradcore.hpp."""
    return _folder("include")


def get_library_dir() -> str:
    """The directory of libgradcore, for -L and the run path."""
    return _folder("lib")


def get_cmake_dir() -> str:
    """The directory of gradcoreConfig.cmake, for `gradcore_DIR` or CMAKE_PREFIX_PATH."""
    return _folder("lib/cmake/gradcore")


def get_pkgconfig_dir() -> str:
    """The directory of gradcore.pc, for PKG_CONFIG_PATH."""
    return _folder("lib/pkgconfig")


def cflags() -> str:
    """Compiler flags that find the headers, quoted for a shell."""
    return f"-I{shlex.quote(get_include())}"


def libs() -> str:
    """Linker flags, including the run path, so that the program starts without further settings; quoted for a shell."""
    folder = shlex.quote(get_library_dir())
    return f"-L{folder} -Wl,-rpath,{folder} -lgradcore"


def _folder(name: str) -> str:
    path = _PACKAGE / name
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected a directory of the installed package; is gradcore only unpacked?")
    return str(path)
