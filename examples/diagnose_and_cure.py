"""A net that does not learn: find out why, apply a remedy that has helped on this data, and train it."""

import numpy as np

import gradcore as gc


def two_spirals(rows, rng):
    """Points on two interleaved spirals, and the spiral of each point as its label."""
    radius, turn = np.sqrt(rng.random(rows)), rng.integers(0, 2, rows)
    angle = 3 * np.pi * radius + np.pi * turn
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return 2.0 * points + 0.02 * rng.normal(size=(rows, 2)), turn


def main():
    x, labels = two_spirals(2000, np.random.default_rng(0))
    net = gc.MLP([2] + [64] * 20 + [2], activation="sigmoid")

    report = gc.analyze(net, x, labels)
    print(f"verdict: {report.verdict}")
    for finding in report.findings:
        print(f"- {finding.severity}: {finding.kind}, caused by {finding.cause}")

    remedies = report.remedies(limit=6)
    for remedy in remedies:
        print(f"- {'helps' if remedy.helps else 'no help'}: {remedy.name}")

    best = remedies[0]
    cured = best.apply()
    optimizer = gc.optim.Adam(cured, lr=1e-3)
    history = cured.fit(
        *best.prepare(x, labels), epochs=60, batch_size=100, optimizer=optimizer, validation=0.25, progress=False
    )
    print(f"{best.name}, trained: {history['val_accuracy'][-1]:.1%} of held-out points right")
    return report, remedies, history


if __name__ == "__main__":
    main()
