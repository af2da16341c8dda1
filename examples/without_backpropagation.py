"""Can a deep net be trained without backpropagation? Compares direct feedback alignment with it, over depth.

For each depth and activation the same net is trained on the handwritten digits by backpropagation, by
backpropagation through batch norm (a cure, for comparison), and by direct feedback alignment. Each method
gets its own learning rate, the best of five on validation rows; the accuracy that is printed is that on
other held-out rows, the mean of three seeds. The last columns give the angle between the feedback's gradient
and the true one, as a mean over the epochs: 90 degrees is chance, 0 is backpropagation.

With its defaults (a quarter of an hour on one core) it prints the table of docs/without-backpropagation.md.
"""

import numpy as np
from sklearn.datasets import load_digits

import gradcore as gc

WIDTH, BATCH_SIZE = 100, 64
DEPTHS, RATES = (1, 2, 5, 10, 20, 30), (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
METHODS = {
    "backpropagation": (gc.MLP, {}),
    "with batch norm": (gc.MLP, {"normalization": "batch"}),
    "direct feedback": (gc.DirectFeedbackMLP, {}),
}


def split_digits(seed):
    """(training, validation, test), each a pair (x, labels): 60, 15 and 25 % of 1797 images."""
    x, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    parts = np.split(order, [int(0.6 * len(x)), int(0.75 * len(x))])
    return [((x[rows] / 8.0 - 1.0).astype(np.float32), labels[rows]) for rows in parts]


class Angles(gc.Callback):
    """Records the angle between feedback and true gradient in every hidden layer, once per epoch."""

    def __init__(self, data):
        self.data, self.seen = data, []

    def on_fit_start(self, net):
        self.net = net

    def on_epoch(self, logs):
        self.seen.append(self.net.alignment(*self.data)[:-1])


def train(method, hidden, activation, lr, epochs, seed, data, callbacks=()):
    """The trained net."""
    kind, options = METHODS[method]
    net = kind([64] + [WIDTH] * hidden + [10], activation=activation, seed=seed, **options)
    optimizer = gc.optim.Adam(net, gc.optim.cosine(lr, total_steps=epochs * -(-len(data[0]) // BATCH_SIZE)))
    options = {"epochs": epochs, "batch_size": BATCH_SIZE, "seed": seed, "progress": False}
    net.fit(*data, optimizer=optimizer, callbacks=callbacks, **options)
    return net


def accuracy(net, data):
    x, labels = data
    return float(np.mean(net(x).argmax(axis=1) == labels))


def compare(method, hidden, activation, rates, epochs, seeds):
    """One row of the table."""
    training, validation, test = split_digits(seed=0)
    setting = method, hidden, activation
    scores = [accuracy(train(*setting, lr, epochs, 0, training), validation) for lr in rates]
    lr = rates[int(np.argmax(scores))]
    callbacks = [Angles(training)] if method == "direct feedback" else []
    found = [accuracy(train(*setting, lr, epochs, seed, training, callbacks), test) for seed in range(seeds)]
    row = {"activation": activation, "hidden": hidden, "method": method, "lr": lr}
    row |= {"accuracy": float(np.mean(found)), "low": min(found), "high": max(found)}
    for angles in callbacks:
        mean = np.mean(angles.seen, axis=0)
        row |= {"first_angle": float(mean[0]), "last_angle": float(mean[-1])}
    return row


def main(depths=DEPTHS, activations=("tanh", "sigmoid"), rates=RATES, epochs=40, seeds=3):
    rows = []
    print("activation  hidden layers  method           accuracy  (lowest to highest)  rate    angle: first, last layer")
    for activation in activations:
        for hidden in depths:
            for method in METHODS:
                row = compare(method, hidden, activation, rates, epochs, seeds)
                rows.append(row)
                found = f"{row['accuracy']:8.1%}  ({row['low']:.1%} to {row['high']:.1%})"
                angles = f"{row['first_angle']:5.0f} {row['last_angle']:5.0f}" if "first_angle" in row else ""
                print(f"{activation:10}  {hidden:13}  {method:15}  {found:29}  {row['lr']:<7g} {angles}", flush=True)
    return rows


if __name__ == "__main__":
    main()
