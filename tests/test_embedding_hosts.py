"""libgradcore in hosts of all kinds: their locale, their files, their limits."""

import platform

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


@pytest.mark.skipif(bool(native.extra_flags()), reason="valgrind cannot run sanitizers")
def test_values_beside_labels_are_not_read(compile_program):
    """They may be uninitialized, as gradcore.h lets a caller leave them."""
    program = compile_program(EMBED / "labels.c")
    assert native.run(native.needs("valgrind"), "-q", "--error-exitcode=9", program) == "1.0986 1.0986 1.0986\n"
