"""gradcore beside PyTorch and NumPy in one process, on the same memory.

A PyTorch model trains with its own autograd; gradcore clips its gradients in place, and a gradcore net of the same
weights computes the same gradients. The thread pools do not interfere: each keeps its own number of threads.
"""

import numpy as np
import torch

import gradcore as gc

WIDTHS = [64] + [48] * 12 + [10]


def largest_difference(net, model):
    """The largest difference of the two nets' gradients, relative to each tensor's largest entry."""
    worst = 0.0
    for name, parameter in model.named_parameters():
        theirs = parameter.grad.numpy()
        worst = max(worst, float(np.abs(net.gradients[name] - theirs).max() / np.abs(theirs).max()))
    return worst


def main():
    threads = gc.get_num_threads(), torch.get_num_threads()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, WIDTHS[0])).astype(np.float32)
    labels = rng.integers(0, WIDTHS[-1], len(x))

    net = gc.MLP(WIDTHS, activation="tanh")
    model = gc.to_torch(net)
    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    ours = net.loss_and_gradients(x, labels)
    difference = largest_difference(net, model)
    print(f"loss: PyTorch {loss.item():.6f}, gradcore {ours:.6f}; gradients differ by {difference:.1e} at most")

    gradients = [p.grad for p in model.parameters()]  # gradcore takes tensors directly and clips them in place
    before = gc.clip_grad_norm_(gradients, 0.1)
    after = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
    print(f"PyTorch's gradients, clipped by gradcore: norm {before:.4f} -> {after:.4f}")

    shared = torch.from_numpy(net.gradients.flat)  # no copy: PyTorch sees what gradcore computes next
    net.loss_and_gradients(x, labels)
    same = float(shared.norm()), gc.clip_grad_norm_(net, float("inf"))
    print(f"one buffer, two libraries: norm {same[0]:.4f} and {same[1]:.4f}")
    assert threads == (gc.get_num_threads(), torch.get_num_threads())
    return difference, after, same


if __name__ == "__main__":
    main()
