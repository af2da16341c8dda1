"""The judge on designs drawn at random, against a truth from float64 and from training (`python tests/zoo.py --held-out`)."""

import numpy as np
import pytest

import gradcore as gc
import held_out_truth as truth
import zoo
from zoo_held_out import HeldOut, changed, data_of, design_of, fresh_net, held_out, subject

pytest.importorskip("sklearn")

SAMPLE = range(0, 60, 2)


def test_a_sample_of_designs():
    models, left_out = held_out(SAMPLE)
    judged = zoo.judge_all(models)
    assert len(models) >= 15 and len(models) + len(left_out) == len(SAMPLE)
    assert all(report.verdict == model.verdict for model, report in judged), zoo.table(judged)


def test_designs_cover_the_space():
    designs = [design_of(seed) for seed in range(300)]
    assert {name for d in designs for name in d.activations} == set(gc.activations())
    assert {d.weights[1] for d in designs if d.weights[0] == "named"} == set(gc.initializers())
    assert {d.normalization for d in designs} == {None, "batch", "layer", "rms"}
    assert {d.loss for d in designs} == {"cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"}
    assert {d.dtype for d in designs} == {"float32", "float64"}
    assert {d.optimizer and d.optimizer[0] for d in designs} == {None, "SGD", "Adam", "AdamW", "RMSprop"}
    assert any(len(set(d.activations)) > 1 for d in designs) and any(d.depth > 100 for d in designs)
    assert any(d.residual for d in designs) and any(not d.bias for d in designs) and any(d.warm_up for d in designs)


def test_a_design_is_its_number():
    assert design_of(11) == design_of(11) != design_of(12)
    one, other = (subject(design_of(3))[0].parameters.flat for _ in range(2))
    assert np.array_equal(one, other)


# ---- the truth itself ------------------------------------------------------------------------


def plain(**changes):
    design = design_of(0)
    base = {"widths": (4, *[64] * 20, 3), "activations": ("tanh",) * 20, "source": "iris", "loss": "cross_entropy",
            "normalization": None, "residual": False, "bias": True, "dtype": "float64", "weights": ("scaled", 1.0),
            "bias_deviation": 0.0, "batch_size": 50, "optimizer": None, "warm_up": 0, "input_scale": 1.0,
            "target_scale": 1.0}  # fmt: skip
    return changed(design, **base | changes)


def test_the_profile_is_the_mean_field_one():
    """chi = 0.5 a layer takes the norm down by ln(2) / 2 a layer."""
    profile = truth.profile_of(plain(activations=("relu",) * 20, weights=("scaled", 0.5)))
    assert profile.value == pytest.approx(-0.5 * np.log(2) * 19, abs=4 * profile.error + 0.5)
    assert profile.fall == pytest.approx(-profile.value, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "verdict", "cause"),
    [
        ({"weights": ("scaled", 0.3)}, "vanishing", "weight_scale"),
        ({"activations": ("sigmoid",) * 20, "weights": ("named", "glorot_normal")}, "vanishing", "activation_slope"),
        ({"activations": ("relu",) * 20, "weights": ("scaled", 3.0)}, "exploding", "weight_scale"),
        ({"optimizer": ("SGD", 1e3, {})}, "exploding", "learning_rate"),
        ({"widths": (4, 64, 64, 3), "activations": ("tanh",) * 2}, "healthy", None),
    ],
)
def test_known_designs_have_their_truth(changes, verdict, cause):
    found = truth.truth_of(plain(**changes))
    assert found.verdict == verdict, found
    assert cause is None or cause in found.causes


def test_numbers_beyond_the_format_are_found():
    design = plain(activations=("relu",) * 20, weights=("scaled", 300.0), dtype="float32")
    found = truth.truth_of(changed(design, weights=("scaled", 1e5)))
    assert found.verdict == "non_finite" and "weight_scale" in found.causes


def test_what_is_between_has_no_truth():
    chi = np.exp(2 * np.log(100.0) / 19)  # a factor of 100 over the depth: the limit itself
    found = truth.truth_of(plain(activations=("relu",) * 20, weights=("scaled", 1 / chi)))
    assert found.verdict is None and found.why.startswith("between")


def test_a_held_out_net_is_analysed_as_designed():
    design = plain(optimizer=("Adam", 1e-3, {}), warm_up=5)
    net, x, target, options = HeldOut("", "healthy", (), design).make()
    assert options["optimizer"].net is net and len(x) == len(target) == len(data_of(design)[0])
    assert not np.array_equal(net.parameters.flat, fresh_net(design, design.seed).parameters.flat)
