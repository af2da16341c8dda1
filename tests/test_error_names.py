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
