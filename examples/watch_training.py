"""Measure gradients while training: record every tenth step, and see each layer's share of the update."""

import numpy as np

import gradcore as gc


def main(steps=200):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 20))
    target = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]

    net = gc.MLP([20] + [64] * 8 + [1], activation="tanh", init="lecun_normal")
    optimizer = gc.optim.Adam(net, lr=gc.optim.cosine(3e-3, total_steps=steps))
    losses = []
    for step in range(steps):
        rows = rng.integers(0, len(x), 128)
        record = step % 10 == 0
        result = net.train_step(x[rows], target[rows], optimizer, loss="mse", clip_norm=1.0, record=record)
        losses.append(result.loss)
        if record and step % 50 == 0:
            flow = net.flow
            print(f"step {step:3}  loss {result.loss:.4f}  norm before clipping {result.total_norm:.3f}")
            print("  delta by layer   ", " ".join(f"{value:.1e}" for value in flow.delta_norm))
            print("  update / weight  ", " ".join(f"{value:.1e}" for value in flow.update_ratio))
            print(f"  deltas that fp16 would lose: {flow.underflow_share('fp16').max():.1%} in the worst layer")
    print(f"loss {losses[0]:.3f} -> {np.mean(losses[-20:]):.3f}")
    return losses


if __name__ == "__main__":
    main()
