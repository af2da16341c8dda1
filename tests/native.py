"""The installed native library, found as a user's build finds it, and the compilers to use it with.

The wheel that is installed is tested, unless GRADCORE_PREFIX names the prefix of a `cmake --install`;
GRADCORE_TEST_FLAGS are further flags for programs, such as those of a sanitizer.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradcore as gc

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PREFIX = os.environ.get("GRADCORE_PREFIX")


def run(*command, cwd=None, **environment):
    """stdout of a program that must succeed."""
    process = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, f"{shlex.join(map(str, command))}\n{process.stdout}{process.stderr}"
    return process.stdout


def _newest(name):
    """clang, or a clang-19 that has no plain name."""
    versions = {path.name for folder in os.get_exec_path() for path in Path(folder).glob(f"{name}-[0-9]*")}
    plain = [version for version in versions if version.removeprefix(f"{name}-").isdecimal()]
    newest = max(plain, key=lambda version: int(version.rpartition("-")[2]), default=None)
    return shutil.which(name) or (newest and shutil.which(newest))


COMPILERS = {"gcc": ("gcc", "g++"), "clang": ("clang", "clang++")}


def needs(program):
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def pkg_config():
    return shutil.which("pkg-config") or needs("pkgconf")


@pytest.fixture(params=COMPILERS, scope="session")
def compilers(request):
    """(C compiler, C++ compiler) of one family."""
    found = tuple(map(_newest, COMPILERS[request.param]))
    if None in found:
        pytest.skip(f"{request.param} is not installed")
    return found


@pytest.fixture(scope="session")
def compile_program(compilers, tmp_path_factory):
    """Compiles one source against the installed library, warnings being errors; gives the program's path."""

    def build(source, *options):
        source = Path(source)
        program = tmp_path_factory.mktemp(source.stem) / source.stem
        in_c = source.suffix == ".c"
        compiler, standard = (compilers[0], "-std=c11") if in_c else (compilers[1], "-std=c++17")
        warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
        run(compiler, standard, "-O0", *warnings, *cflags(), *options, source, "-o", program, *libs(), "-lm")
        return program

    return build


# ---- where the library is ------------------------------------------------------------------------------------


def cflags():
    return [*_flags("--cflags"), *extra_flags()]


def extra_flags():
    return shlex.split(os.environ.get("GRADCORE_TEST_FLAGS", ""))


def libs():
    return _flags("--libs")


def _flags(option):
    if PREFIX is None:
        return shlex.split(run(sys.executable, "-m", "gradcore", option, cwd="/"))
    flags = shlex.split(run(pkg_config(), option, "gradcore", PKG_CONFIG_PATH=str(pkgconfig_dir())))
    return [*flags, f"-Wl,-rpath,{_inside('libgradcore.*').parent}"] if option == "--libs" else flags


def include_dir():
    return Path(gc.get_include()) if PREFIX is None else _inside("gradcore/gradcore.h").parent.parent


def cmake_dir():
    return Path(gc.get_cmake_dir()) if PREFIX is None else _inside("gradcoreConfig.cmake").parent


def pkgconfig_dir():
    return Path(gc.get_pkgconfig_dir()) if PREFIX is None else _inside("gradcore.pc").parent


def library_file():
    """libgradcore itself, shared or static."""
    return next(Path(gc.get_library_dir()).glob("libgradcore.*")) if PREFIX is None else _inside("libgradcore.*")


def _inside(pattern):
    return next(path for path in sorted(Path(PREFIX).rglob(pattern)) if path.is_file())
