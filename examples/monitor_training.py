"""Monitor a training: find the step and layer where it breaks, repair it while it runs, and look at the history."""

import warnings

import numpy as np

import gradcore as gc


def main(steps=400):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 20)).astype(np.float32)
    target = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]

    net = gc.MLP([20] + [64] * 8 + [1], activation="tanh", init="lecun_normal")
    optimizer = gc.optim.SGD(net, lr=0.05)
    # every=20 checks at fixed steps; budget=0.01 would spend at most 1 % of the time
    monitor = gc.Monitor(every=20, action=("restore", "lower_lr"), lr_factor=0.01).watch(net, optimizer, loss="mse")
    losses = []
    for step in range(steps):
        rows = rng.integers(0, len(x), 128)
        if step == 150:
            optimizer.lr = 10.0  # a mistake
        losses.append(monitor.train_step(x[rows], target[rows]).loss)
        if monitor.stopped:
            break

    for finding in monitor.findings:
        print(f"{finding.kind} since step {finding.since}, {finding.cause}: {', '.join(finding.actions)}")
    print(monitor.report)
    print(f"loss {losses[0]:.3f} -> {np.mean(losses[-20:]):.3f}")
    return losses, monitor


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gc.TrainingWarning)  # the report shows the same
        main()
