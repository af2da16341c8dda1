"""A whole training step: gradient, clipping to a global norm, Adam."""

import pytest

from peers import CASES

STEPS = [case for case in CASES if case.work == "step"]


@pytest.mark.parametrize("peer", ["gradcore", "recorded", "torch"])
@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_step(measure_case, case, peer):
    measure_case(case, peer)
