"""The gradient of a whole net, forward and backward, with and without recording, and with products of bfloat16; and
inference alone."""

import numpy as np
import pytest

import gradcore as gc
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


FORMS = {
    "in place": lambda x, labels: (x, labels),
    "int32 labels": lambda x, labels: (x, labels.astype("int32")),
    "float64 inputs": lambda x, labels: (x.astype("float64"), labels),
    "Fortran order": lambda x, labels: (np.asfortranarray(x), labels),
    "lists": lambda x, labels: (x.tolist(), labels.tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_batch(measure, form):
    """What it costs a call to convert a batch of 4 rows of 16; the Python layer does it for lists only."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, 16)).astype("float32"), rng.integers(0, 10, 4)
    net, batch = gc.MLP([16, 10]), FORMS[form](x, labels)
    assert net.loss_and_gradients(*batch) == net.loss_and_gradients(x, labels)
    measure("forms of a batch", lambda: net.loss_and_gradients(*batch))
