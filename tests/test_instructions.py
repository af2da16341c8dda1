"""A guard against slowness that needs no clock: instructions of fixed gradients and steps, against recorded counts."""

import json

import pytest

import gradcore as gc
import instructions
import native

TOLERANCE = 0.10  # a count itself varies by parts in a thousand; a change that adds a tenth wants a reason


@pytest.fixture(scope="module")
def recorded():
    """The counts; skips where the instructions of this build are not comparable, or cannot be counted."""
    native.needs("valgrind")
    native.needs("g++")
    if native.PREFIX or native.extra_flags():
        pytest.skip("counted is the installed wheel, built as users build it")
    if "avx2" not in gc.cpu_info()["supported"]:
        pytest.skip("the counts are of AVX2 kernels, which this CPU does not run")
    values = json.loads(instructions.RECORDED.read_text())
    if values["compiler"] != instructions.compiler():
        pytest.skip(f"recorded with {values['compiler']}, the library is of {instructions.compiler() or 'unknown'}")
    return values["counts"]


@pytest.fixture(scope="module")
def program(recorded, tmp_path_factory):
    return instructions.build(tmp_path_factory.mktemp("counted"))


@pytest.mark.parametrize("case", instructions.CASES)
def test_no_more_instructions_than_recorded(recorded, program, case):
    """After a change that is meant to add some: python tests/instructions.py > tests/embed/instructions.json."""
    counted = instructions.count(program, case)
    assert counted <= recorded[case] * (1 + TOLERANCE), f"{counted / recorded[case] - 1:+.1%} instructions"
