"""Clip gradients of your own arrays in place, with PyTorch's semantics and without overflow."""

import numpy as np

import gradcore as gc


def main():
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(100, 64)).astype(np.float32), rng.normal(size=100).astype(np.float32)]
    gradients[0] *= np.float32(1e30)  # their squares overflow float32

    total_norm = gc.clip_grad_norm_(gradients, max_norm=1.0)
    clipped = np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients))
    print(f"norm before {total_norm:.3g}, after {clipped:.6f}")

    gradients[1][3] = np.nan
    try:
        gc.clip_grad_norm_(gradients, max_norm=1.0, error_if_nonfinite=True)
    except FloatingPointError as error:
        print(f"refused: {error}")
    return total_norm, clipped


if __name__ == "__main__":
    main()
