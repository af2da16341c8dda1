"""Four nets with different seeds, one after the other and then on four threads at once: the same bits."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import train_threads

import gradcore as gc


def main(seeds=4, steps=300):
    x, labels = blobs()
    widths = np.array([20, 32, 32, 5])

    def train(seed):
        start = gc.MLP(widths.tolist(), seed=seed).parameters.flat
        return train_threads.train(x, labels, widths, start, steps=steps)

    alone = [train(seed) for seed in range(seeds)]
    with ThreadPoolExecutor(seeds) as pool:
        together = list(pool.map(train, range(seeds)))
    for seed, (loss, _) in enumerate(together):
        print(f"seed {seed}: loss {loss:.4f}")
    same = all(np.array_equal(a[1], b[1]) and a[0] == b[0] for a, b in zip(alone, together, strict=True))
    print("the same bits alone and together" if same else "different bits")
    return together


def blobs(rows=1024, features=20, classes=5):
    """Five overlapping clouds of points."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    x = rng.normal(size=(rows, features)) + 2 * rng.normal(size=(classes, features))[labels]
    return x.astype(np.float32), labels


if __name__ == "__main__":
    main()
