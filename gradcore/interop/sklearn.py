"""Converts multilayer perceptrons of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from ..mlp import MLP

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_sklearn(estimator: Any) -> MLP:
    """Convert a fitted MLPClassifier or MLPRegressor of scikit-learn to a net, with its weights.

        net = gc.from_sklearn(estimator)
        report = gc.analyze(net, x, np.searchsorted(estimator.classes_, y), optimizer=gc.optim.Adam(net, lr=1e-3))

    The initial gradients decide whether a deep net can learn: to see them, take an estimator that was fitted with
    `max_iter=1` and `learning_rate_init=1e-12`.

    Args:
        estimator: a fitted MLPClassifier or MLPRegressor. It does not change. Of a Pipeline or a search, pass the
            estimator itself (pipeline[-1], search.best_estimator_), with the inputs that it gets there.

    Returns:
        A net of the estimator's dtype. Its outputs are the estimator's before the output activation: for more than two
        classes the logits of `loss="cross_entropy"`, where a label is a place in `estimator.classes_`; for two classes,
        or several labels per row, the logits of `loss="binary_cross_entropy"`; for regression the values, for
        `loss="mse"` ("poisson" has no counterpart). scikit-learn's gradients are those of half the squared error,
        summed over the outputs, so its SGD at rate lr takes the steps of lr * outputs / 2 here. Its penalty `alpha` and
        its optimizer's state are left out.

    Raises:
        TypeError: `estimator` is neither of the two.
        ValueError: it is not fitted, or its loss has no counterpart.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    neural_network = _check.optional("sklearn.neural_network", "demo", "scikit-learn models")
    kinds = (neural_network.MLPClassifier, neural_network.MLPRegressor)
    expected = "an MLPClassifier or MLPRegressor of scikit-learn"
    if hasattr(estimator, "steps"):
        expected += " (of a pipeline, pass pipeline[-1], and to `analyze` pipeline[:-1].transform(x))"
    elif hasattr(estimator, "best_estimator_"):
        expected += " (of a search, pass search.best_estimator_)"
    _check.instance(estimator, "estimator", kinds, expected)
    if not hasattr(estimator, "coefs_"):
        raise ValueError("estimator: expected a fitted one, got one without weights; call fit or partial_fit first")
    if getattr(estimator, "loss", "squared_error") == "poisson":
        raise ValueError("estimator: its loss 'poisson' has no counterpart in gradcore")
    weights = [coefficients.T for coefficients in estimator.coefs_]
    net = MLP._without_weights(
        {
            "widths": [weights[0].shape[1], *(weight.shape[0] for weight in weights)],
            "activation": [_ACTIVATIONS[estimator.activation]] * (len(weights) - 1),
            "normalization": None,
            "residual": False,
            "init": "custom",
            "bias": True,
            "dtype": np.result_type(*weights).name,
            "seed": 0,
        }
    )
    for layer, (weight, bias) in enumerate(zip(weights, estimator.intercepts_, strict=True)):
        net.parameters[f"dense{layer}.weight"] = weight
        net.parameters[f"dense{layer}.bias"] = bias
    return net
