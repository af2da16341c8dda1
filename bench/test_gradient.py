"""The gradient of a whole net, forward and backward, with and without recording, and with products of bfloat16; and
inference alone."""

import pytest

from cases import BFLOAT16_CASES, CASES

GRADIENTS = [case for case in CASES if case.work == "gradient"]
WITH_BFLOAT16 = [case for case in BFLOAT16_CASES if case.work == "gradient"]
FORWARDS = [case for case in CASES if case.work == "forward"]


@pytest.mark.parametrize("library", ["gradcore", "recorded", "torch"])
@pytest.mark.parametrize("case", GRADIENTS, ids=lambda case: case.name)
def test_gradient(measure_case, case, library):
    recorded = library == "recorded"
    measure_case(case, "gradcore" if recorded else library, record=recorded)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("library", ["gradcore", "torch"])
@pytest.mark.parametrize("case", WITH_BFLOAT16, ids=lambda case: case.name)
def test_gradient_with_bfloat16(measure_case, case, library, dtype):
    measure_case(case, library, dtype=dtype)


@pytest.mark.parametrize("library", ["gradcore", "torch"])
@pytest.mark.parametrize("case", FORWARDS, ids=lambda case: case.name)
def test_forward(measure_case, case, library):
    measure_case(case, library)
