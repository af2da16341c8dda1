"""The gradient of a whole net, forward and backward, with and without recording; and inference alone."""

import pytest

from peers import CASES

GRADIENTS = [case for case in CASES if case.work == "gradient"]
FORWARDS = [case for case in CASES if case.work == "forward"]


@pytest.mark.parametrize("peer", ["gradcore", "recorded", "torch"])
@pytest.mark.parametrize("case", GRADIENTS, ids=lambda case: case.name)
def test_gradient(measure_case, case, peer):
    measure_case(case, peer)


@pytest.mark.parametrize("peer", ["gradcore", "torch"])
@pytest.mark.parametrize("case", FORWARDS, ids=lambda case: case.name)
def test_forward(measure_case, case, peer):
    measure_case(case, peer)
