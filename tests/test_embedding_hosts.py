"""libgradcore in hosts of all kinds: their locale, their files, their limits."""

import platform
import shutil

import pytest

import native

EMBED = native.ROOT / "tests" / "embed"


@pytest.fixture(scope="session")
def german(tmp_path_factory):
    """A folder for LOCPATH with a locale whose decimal point is a comma."""
    folder = tmp_path_factory.mktemp("locales")
    try:
        native.run(native.needs("localedef"), "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8")
    except AssertionError:
        pytest.skip("localedef has no sources of locales")
    return folder


def test_numbers_are_written_alike_in_every_locale(compile_program, german, tmp_path):
    program = compile_program(EMBED / "locale.c")
    files = tmp_path / "c.safetensors", tmp_path / "german.safetensors"
    plain = native.run(program, "C", ".", files[0])
    assert native.run(program, "de_DE.UTF-8", ",", files[1], LOCPATH=str(german)) == plain
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "got -0.5" in plain
    assert "is multiplied by 0." in plain


def test_threads_with_the_smallest_stacks_may_call_everything(compile_program, tmp_path):
    program = compile_program(EMBED / "stack.c", "-pthread")
    assert native.run(program, cwd=tmp_path) == "enough\n"


def test_a_file_without_write_permission_is_not_replaced(compile_program, tmp_path):
    """Though the folder would allow it, and a new name for its neighbour is all that replacing takes."""
    program = compile_program(EMBED / "protected.c")
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    out = native.run(program, cwd=folder)
    assert out == "path: expected a file that can be written, got: Permission denied\n"
    assert [path.name for path in folder.iterdir()] == ["net.safetensors"]


def test_rounding_and_traps_are_the_hosts_own_affair(compile_program):
    """Traps end a host with SIGFPE at an operation whose result nobody uses; a first net that was drawn with another
    rounding mode changed the weights of all later ones."""
    program = compile_program(EMBED / "float_mode.c")
    assert native.run(program) in ("the host's own affair\n", "this CPU traps nothing\n")


def test_the_stride_of_a_single_row_may_be_any_number(compile_program):
    assert native.run(compile_program(EMBED / "single_row.c")) == "any stride\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="stands in front of glibc's malloc")
def test_repeated_calls_allocate_nothing(compile_program):
    """On any number of threads: a trial of another number needed another layout of the workspace, and more memory."""
    assert native.run(compile_program(EMBED / "steady.c", "-pthread")) == "no allocation\n"


@pytest.mark.skipif(
    native.PREFIX is not None, reason="a prefix may have sanitizers or instructions that valgrind does not know"
)
def test_values_beside_labels_are_not_read(compile_program):
    """They may be uninitialized, as gradcore.h lets a caller leave them."""
    program = compile_program(EMBED / "labels.c")
    assert native.run(native.needs("valgrind"), "-q", "--error-exitcode=9", program) == "1.0986 1.0986 1.0986\n"


def build(folder, lists, *options, **sources):
    """Configures and builds a project of these files with CMake; gives the folder of what was built."""
    (folder / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.18)\n" + lists)
    for name, text in sources.items():
        (folder / name.replace("_", ".")).write_text(text)
    native.run(native.needs("cmake"), "-S", folder, "-B", folder / "build", *options)
    native.run(native.needs("cmake"), "--build", folder / "build")
    return folder / "build"


A_TARGET_NAMED_M = """
project(host C)
find_package(gradcore CONFIG REQUIRED)
add_executable(m m.c)
target_link_libraries(m PRIVATE gradcore::gradcore)
"""


def test_a_host_in_c_may_have_a_target_of_any_name(tmp_path):
    """A static library's libm was taken for it."""
    program = (
        "#include <gradcore/gradcore.h>\nint main(void) { return gradcore_abi_version() != GRADCORE_ABI_VERSION; }\n"
    )
    native.run(build(tmp_path, A_TARGET_NAMED_M, f"-Dgradcore_DIR={native.cmake_dir()}", m_c=program) / "m")


SANITIZED_FOR_C = """
project(host C CXX)
include(cmake/options.cmake)
add_library(part SHARED part.cpp)
gradcore_compile_options(part)
gradcore_link_options(part)
add_executable(program program.c)
target_link_libraries(program PRIVATE part)
"""


def test_a_host_in_c_links_a_sanitized_library(compilers, tmp_path):
    """Clang brings what checks calls of virtual functions, here of the standard library, to programs in C++ alone."""
    shutil.copytree(native.ROOT / "cmake", tmp_path / "cmake")
    options = "-DGRADCORE_SANITIZE=undefined", "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_C_COMPILER={compilers[0]}"
    part = """#include <system_error>
extern "C" __attribute__((visibility("default"))) int gradcore_part(int reason) {
  return std::generic_category().message(reason).empty();
}
"""
    program = "int gradcore_part(int reason);\nint main(void) { return gradcore_part(1); }\n"
    folder = build(
        tmp_path, SANITIZED_FOR_C, *options, f"-DCMAKE_CXX_COMPILER={compilers[1]}", part_cpp=part, program_c=program
    )
    native.run(folder / "program")
