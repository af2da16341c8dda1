"""The gradient of a whole net, forward and backward, with and without recording; and inference alone."""

import pytest

from cases import CASES

GRADIENTS = [case for case in CASES if case.work == "gradient"]
FORWARDS = [case for case in CASES if case.work == "forward"]


@pytest.mark.parametrize("library", ["gradcore", "recorded", "torch"])
@pytest.mark.parametrize("case", GRADIENTS, ids=lambda case: case.name)
def test_gradient(measure_case, case, library):
    recorded = library == "recorded"
    measure_case(case, "gradcore" if recorded else library, record=recorded)


@pytest.mark.parametrize("library", ["gradcore", "torch"])
@pytest.mark.parametrize("case", FORWARDS, ids=lambda case: case.name)
def test_forward(measure_case, case, library):
    measure_case(case, library)
