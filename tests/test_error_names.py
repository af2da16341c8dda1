"""Errors name the argument that the caller gave, and what came, also where a check serves several functions."""

import numpy as np
import pytest

import gradcore as gc


def net():
    return gc.MLP([4, 3, 2])


def fitted(**options):
    trained = net()
    x, y = np.zeros((4, 4)), np.zeros(4, int)
    return trained.fit(x, y, epochs=1, batch_size=2, optimizer=gc.optim.SGD(trained, 0.1), progress=False, **options)


def loaded(states):
    optimizer = gc.optim.SGD(net(), 0.1, momentum=0.9)
    optimizer.load_state_dict({"lr": 0.1, "step_count": 0, "states": states})


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("widths", gc.MLP),
        ("activation", lambda value: gc.MLP([4, 3, 2], activation=value)),
        ("grid['depth']", lambda value: gc.sweep({"depth": value}, progress=False)),
        ("state['states']", loaded),
        ("callbacks", lambda value: fitted(callbacks=value)),
        ("action", lambda value: gc.Monitor(action=value)),
    ],
)
def test_an_array_without_axes_is_no_sequence(name, call):
    with pytest.raises(TypeError) as error:
        call(np.array(3))
    assert str(error.value).startswith(f"{name}: expected")
    assert str(error.value).endswith("got int64 ()")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("design", gc.predict),
        ("schedule", lambda value: gc.optim.warmup(value, 10)),
        ("net", lambda value: gc.init.initialize(value, "auto", 0)),
        ("init", lambda value: gc.init.initialize(net(), value, 0)),
        ("seed", lambda value: gc.init.initialize(net(), "auto", value)),
        ("activation", lambda value: gc.sweeps.critical_line(value, [0.1])),
        ("bias_vars", lambda value: gc.sweeps.critical_line("tanh", value)),
        ("bias_vars[1]", lambda value: gc.sweeps.critical_line("tanh", [0.1, value])),
        ("batch_size", lambda value: gc.sweep({}, batch_size=value, progress=False)),
        ("batches", lambda value: gc.sweep({}, batches=value, progress=False)),
        ("seed", lambda value: gc.sweep({}, seed=value, progress=False)),
    ],
)
def test_the_argument_of_the_call_is_named(name, call):
    with pytest.raises(TypeError) as error:
        call(1.5j)
    assert str(error.value).startswith(f"{name}: expected")
    assert str(error.value).endswith("got 1.5j")


@pytest.mark.parametrize("seed", [-1, True])
def test_initialize_takes_the_seeds_of_a_net(seed):
    with pytest.raises((ValueError, TypeError), match=f"seed: expected a whole number >= 0, got {seed}"):
        gc.init.initialize(net(), "auto", seed)


@pytest.mark.parametrize("call", ["loss", "loss_and_gradients", "analyze"])
def test_a_number_too_large_for_float32_is_told_as_it_came(call):
    """Data of float64 may mark missing values so; they hold no infinity."""
    x, y = np.zeros((8, 4)), np.zeros((8, 2))
    run = getattr(net(), call, lambda *data, loss: gc.analyze(net(), *data, loss=loss, progress=False))
    for name, array in (("x", x), ("target", y)):
        array[3, 1] = -1e300
        with pytest.raises(
            ValueError, match=rf"^{name}: expected values in the range of float32, got -1e\+300 at row 3"
        ):
            run(x, y, loss="mse")
        array[3, 1] = 0.0


def test_a_label_above_2_to_63_is_told_as_it_came():
    labels = np.array([0, 2**63 + 1], np.uint64)
    with pytest.raises(ValueError, match=rf"^target\[1\]: expected a label in \[0, 2\), got {2**63 + 1}$"):
        net().loss(np.zeros((2, 4)), labels)


@pytest.mark.parametrize("call", [net().save, gc.load, gc.optim.SGD(net(), 0.1).save, gc.sweeps.load])
def test_a_name_that_no_file_can_have(call):
    with pytest.raises(ValueError, match=r"^path: expected the name of a file, without a null byte, got 'a\\x00'$"):
        call("a\0")
