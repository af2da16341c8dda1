"""A small task, a deep net, and trainings of it that a Monitor watches in the tests."""

import numpy as np

import gradcore as gc

RNG = np.random.default_rng(0)
X = RNG.standard_normal((640, 20)).astype("f4")
LABELS = (X @ RNG.standard_normal((20, 5))).argmax(axis=1)
BATCH = 32  # 20 steps an epoch


def fit(net, optimizer, *callbacks, epochs=5, **options):
    defaults = {"batch_size": BATCH, "progress": False}
    return net.fit(X, LABELS, epochs=epochs, optimizer=optimizer, callbacks=callbacks, **(defaults | options))


def deep(**options):
    return gc.MLP([20] + [48] * 12 + [5], **options)


def runaway(step):
    """A learning rate that becomes far too high at step 30."""
    return 0.05 if step < 30 else 30.0


def count_instead_of_time(monkeypatch, clock):
    """Monitors within a budget read this clock."""
    monkeypatch.setattr("gradcore._schedule.perf_counter", clock)


class At(gc.Callback):
    """Calls functions with the net before the steps of these numbers; keeps every loss."""

    def __init__(self, **actions):
        self.actions = {int(name.removeprefix("step")): action for name, action in actions.items()}
        self.losses = []

    def on_fit_start(self, net):
        self.net = net

    def before_step(self, rows):
        if len(self.losses) in self.actions:
            self.actions[len(self.losses)](self.net)

    def on_step(self, logs):
        self.losses.append(logs["loss"])
