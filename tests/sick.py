"""A net with a vanishing gradient, and data that it could learn."""

import numpy as np

import gradcore as gc

_RNG = np.random.default_rng(0)
X = _RNG.standard_normal((800, 20)).astype("f4")
LABELS = (X @ _RNG.standard_normal((20, 5))).argmax(axis=1)


def sick_net():
    return gc.MLP([20] + [40] * 10 + [5], activation="sigmoid", init="glorot_normal")
