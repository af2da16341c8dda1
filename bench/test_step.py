"""A whole training step: gradient, clipping to a global norm, Adam."""

import pytest

from cases import CASES

STEPS = [case for case in CASES if case.work == "step"]


@pytest.mark.parametrize("library", ["gradcore", "recorded", "torch"])
@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_step(measure_case, case, library):
    recorded = library == "recorded"
    measure_case(case, "gradcore" if recorded else library, record=recorded)
