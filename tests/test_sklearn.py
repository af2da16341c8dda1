"""Estimators of scikit-learn as nets: the same outputs, and a clear message about what does not fit."""

import re
import sys
import warnings

import numpy as np
import pytest

import gradcore as gc

RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 5))
ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


@pytest.fixture
def neural_network():
    return pytest.importorskip("sklearn.neural_network")


def fitted(estimator, target, x=X):
    """After some steps of training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few steps
        return estimator.set_params(max_iter=3).fit(x, target)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_classifier(neural_network, activation, dtype):
    """Labels may be any values; the net's are their places among the classes."""
    labels = np.array(["b", "c", "a"])[RNG.integers(0, 3, 60)]
    estimator = neural_network.MLPClassifier(hidden_layer_sizes=(7, 4), activation=activation, random_state=0)
    fitted(estimator, labels, X.astype(dtype))
    net = gc.from_sklearn(estimator)
    assert net.widths == (5, 7, 4, 3) and net.activations == (ACTIVATIONS[activation],) * 2 and net.dtype == dtype
    powers = np.exp(net(X.astype(dtype)))
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    expected = estimator.predict_proba(X.astype(dtype))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, rtol=tolerance)
    report = gc.analyze(net, X, np.searchsorted(estimator.classes_, labels))
    assert report.verdict in ("healthy", "vanishing")


@pytest.mark.parametrize("labels", [RNG.integers(0, 2, 60), RNG.integers(0, 2, (60, 3))], ids=["two classes", "labels"])
def test_logits_of_binary_classifiers(neural_network, labels):
    estimator = fitted(neural_network.MLPClassifier(hidden_layer_sizes=(7,), random_state=0), labels)
    net = gc.from_sklearn(estimator)
    shares = 1.0 / (1.0 + np.exp(-net(X.astype(net.dtype))))
    expected = estimator.predict_proba(X)
    np.testing.assert_allclose(shares, expected[:, 1:] if labels.ndim == 1 else expected, rtol=1e-12)
    gc.analyze(net, X, labels, loss="binary_cross_entropy")


@pytest.mark.parametrize("target", [X[:, 0] ** 2, X[:, :2] ** 2], ids=["one output", "two outputs"])
def test_a_regressor(neural_network, target):
    """A step of its plain SGD is ours at half the rate for each output."""
    options = {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.0, "alpha": 0.0, "batch_size": 60}
    estimator = fitted(
        neural_network.MLPRegressor(hidden_layer_sizes=(7, 4), activation="tanh", random_state=0, **options), target
    )
    net = gc.from_sklearn(estimator)
    np.testing.assert_allclose(net(X).reshape(target.shape), estimator.predict(X), rtol=1e-10, atol=1e-13)
    net.train_step(X, target, gc.optim.SGD(net, lr=0.05 * net.out_features), loss="mse")
    estimator.partial_fit(X, target)
    np.testing.assert_allclose(net(X).reshape(target.shape), estimator.predict(X), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_initial_weights_as_the_docstring_says(neural_network):
    options = {"activation": "logistic", "random_state": 0}
    estimator = neural_network.MLPClassifier([16] * 15, max_iter=1, learning_rate_init=1e-12, **options)
    labels = RNG.integers(0, 3, 60)
    report = gc.analyze(gc.from_sklearn(estimator.fit(X, labels)), X, labels)
    assert report.verdict == "vanishing"


def test_the_estimator_does_not_change(neural_network):
    estimator = fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7,), random_state=0), X[:, 0])
    before = [values.copy() for values in (*estimator.coefs_, *estimator.intercepts_)]
    net = gc.from_sklearn(estimator)
    net.parameters.flat[:] = 7.0
    for values, old in zip((*estimator.coefs_, *estimator.intercepts_), before, strict=True):
        np.testing.assert_array_equal(values, old)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_what_does_not_fit_is_named(neural_network, monkeypatch):
    from sklearn import model_selection, pipeline, preprocessing

    with pytest.raises(ValueError, match="estimator: expected a fitted one, got one without weights; call fit or"):
        gc.from_sklearn(neural_network.MLPClassifier())
    for wrong in (neural_network.MLPClassifier, neural_network.BernoulliRBM(), None, X):
        with pytest.raises(TypeError, match="estimator: expected an MLPClassifier or MLPRegressor of scikit-learn"):
            gc.from_sklearn(wrong)
    estimator = fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7,), random_state=0), X[:, 0])
    with pytest.raises(TypeError, match=re.escape("pass pipeline[-1], and to `analyze` pipeline[:-1].transform(x)")):
        gc.from_sklearn(pipeline.make_pipeline(preprocessing.StandardScaler(), estimator))
    with pytest.raises(TypeError, match=r"of a search, pass search\.best_estimator_"):
        gc.from_sklearn(model_selection.GridSearchCV(estimator, {"alpha": [0.1, 1.0]}, cv=2).fit(X, X[:, 0]))
    estimator.loss = "poisson"
    with pytest.raises(ValueError, match="its loss 'poisson' has no counterpart in gradcore"):
        gc.from_sklearn(estimator)
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ModuleNotFoundError, match="scikit-learn models need sklearn: pip install"):
        gc.from_sklearn(estimator)
