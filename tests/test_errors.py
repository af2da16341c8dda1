"""Bad input: each error names the argument, what was expected and what came, and changes nothing.

Every row of the tables is one mistake. Afterwards the net and its optimizer must be exactly as they
were: the same parameters, gradients and buffers, and the same next training step as a net without
the mistake.
"""

import contextlib
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import gradcore as gc
from nets import assert_same_bits, copies

ROWS, IN, OUT = 8, 6, 4


def fresh():
    """A batch-norm net two Adam steps into training, with data for it."""
    rng = np.random.default_rng(0)
    net = gc.MLP([IN, 9, OUT], activation="tanh", normalization="batch", seed=1)
    optimizer = gc.optim.Adam(net, lr=0.01)
    x = rng.standard_normal((ROWS, IN)).astype("float32")
    y = rng.standard_normal((ROWS, OUT)).astype("float32")
    labels = rng.integers(0, OUT, ROWS)
    for _ in range(2):
        net.train_step(x, y, optimizer, loss="mse")
    return SimpleNamespace(net=net, optimizer=optimizer, x=x, y=y, labels=labels)


def spoiled(array, value):
    array = array.copy()
    array[3, 2] = value
    return array


def with_labels(labels):
    """loss_and_gradients under cross entropy with these targets."""
    return lambda s: s.net.loss_and_gradients(s.x, labels, loss="cross_entropy")


def train(**options):
    return lambda s: s.net.train_step(s.x, s.y, s.optimizer, loss="mse", **options)


def clip(grads, **options):
    return lambda s: gc.clip_grad_norm_(grads, **({"max_norm": 1.0} | options))


def optimizer(name="SGD", **options):
    return lambda s: getattr(gc.optim, name)(s.net, **({"lr": 0.1} | options))


def fit(**options):
    defaults = {"epochs": 1, "batch_size": 4, "loss": "mse", "progress": False}
    return lambda s: s.net.fit(s.x, s.y, **({"optimizer": s.optimizer} | defaults | options))


def fit_of_one_output(s):
    net = gc.MLP([IN, 4, 1])
    net.fit(s.x, s.y[:, 0], epochs=1, batch_size=4, optimizer=gc.optim.SGD(net, lr=0.1), progress=False)


def read_only(array):
    array.flags.writeable = False
    return array


PROBABILITIES = np.full((ROWS, OUT), 1 / OUT, "float32")
GRADS = [np.ones(3, "float32"), np.ones((2, 2), "float32")]

# what happened: (argument named, call, what came as the message tells it, exception)
BAD_DATA = {
    "x of rank 1": ("x", lambda s: s.net(s.x[0]), r"\(6,\)"),
    "x of rank 3": ("x", lambda s: s.net(s.x[None]), r"\(1, 8, 6\)"),
    "x of rank 0": ("x", lambda s: s.net(np.float32(1)), r"\(\)"),
    "x too wide": ("x", lambda s: s.net(np.ones((8, 7), "float32")), "7"),
    "x too narrow": ("x", lambda s: s.net.forward(s.x[:, :5], training=True), "5"),
    "x without rows": ("x", lambda s: s.net.loss_and_gradients(s.x[:0], s.y[:0], loss="mse"), r"\b0\b"),
    "x with NaN": (
        "x",
        lambda s: s.net.loss_and_gradients(spoiled(s.x, np.nan), s.y, loss="mse"),
        r"nan.*row 3, column 2",
    ),
    "x with inf": (
        "x",
        lambda s: s.net.train_step(spoiled(s.x, np.inf), s.y, s.optimizer, loss="mse"),
        r"inf.*row 3, column 2",
    ),
    "x with NaN in forward": (
        "x",
        lambda s: s.net.forward(spoiled(s.x, -np.inf), training=True),
        r"inf.*row 3, column 2",
    ),
    "x with a masked entry": (
        "x",
        lambda s: s.net(np.ma.masked_array(s.x, mask=s.x == s.x[3, 2])),
        r"without masked entries, got 1 of 48",
    ),
    "one row under batch norm": ("x", lambda s: s.net.forward(s.x[:1], training=True), r"\b1\b"),
    "one row in a step": ("x", lambda s: s.net.train_step(s.x[:1], s.y[:1], s.optimizer, loss="mse"), r"\b1\b"),
    "target of other length": ("target", lambda s: s.net.loss_and_gradients(s.x, s.y[:5], loss="mse"), "5"),
    "target of other width": ("target", lambda s: s.net.loss_and_gradients(s.x, s.y[:, :3], loss="mse"), "3"),
    "target of rank 1": ("target", lambda s: s.net.loss_and_gradients(s.x, s.y[:, 0], loss="mse"), r"\(8,\)"),
    "target with NaN": (
        "target",
        lambda s: s.net.loss_and_gradients(s.x, spoiled(s.y, np.nan), loss="mse"),
        r"nan.*row 3, column 2",
    ),
    "target with inf": (
        "target",
        lambda s: s.net.train_step(s.x, spoiled(s.y, np.inf), s.optimizer, loss="huber"),
        "inf",
    ),
    "label too large": ("target", with_labels(np.array([0, 1, 2, 4, 0, 0, 0, 0])), r"\b4\b"),
    "label negative": ("target", with_labels(np.array([0, 1, 2, -1, 0, 0, 0, 0])), "-1"),
    "labels too few": ("target", with_labels(np.zeros(7, int)), "7"),
    "labels of rank 3": ("target", with_labels(np.zeros((8, 1, 1), int)), r"\(8, 1, 1\)"),
    "probabilities below 0": (
        "target",
        with_labels(spoiled(PROBABILITIES, -0.5)),
        r"\[0, 1\].*-0.5 at row 3, column 2",
    ),
    "probabilities above 1": (
        "target",
        lambda s: s.net.train_step(s.x, spoiled(PROBABILITIES, 2), s.optimizer, loss="binary_cross_entropy"),
        r"\[0, 1\] for binary_cross_entropy, got 2 at row 3, column 2",
    ),
    "real values as probabilities": ("target", lambda s: s.net.loss(s.x, 3 * s.y), r"other values: mse, mae or huber"),
    "probabilities too few": ("target", with_labels(np.full((8, 3), 1 / 3, "float32")), "3"),
    "backward before forward": ("forward", lambda s: gc.MLP([IN, OUT]).backward(s.y), ""),
    "backward after inference": ("forward", lambda s: (s.net(s.x[:3]), s.net.backward(s.y[:3])), ""),
    "grad_output of other length": ("grad_output", lambda s: _backward(s, s.y[:5]), "5"),
    "grad_output of other width": ("grad_output", lambda s: _backward(s, s.y[:, :3]), "3"),
    "grad_output of rank 1": ("grad_output", lambda s: _backward(s, s.y[0]), r"\(4,\)"),
    "clip_norm zero": ("clip_norm", train(clip_norm=0.0), "0"),
    "clip_norm negative": ("clip_norm", train(clip_norm=-1.0), "-1"),
    "clip_norm NaN": ("clip_norm", train(clip_norm=math.nan), "nan"),
    "clip_value negative": ("clip_value", train(clip_value=-0.5), "-0.5"),
    "clip_value NaN": ("clip_value", lambda s: s.optimizer.step(clip_value=math.nan), "nan"),
    "optimizer of another net": (
        "optimizer",
        lambda s: s.net.train_step(s.x, s.y, gc.optim.SGD(gc.MLP([IN, OUT]), lr=0.1), loss="mse"),
        "net",
    ),
    "parameters of another shape": (
        "dense0.weight",
        lambda s: s.net.parameters.__setitem__("dense0.weight", np.ones((2, 2))),
        r"\[9, 6\], got \(2, 2\)",
    ),
    "unknown loss": ("loss", lambda s: s.net.loss_and_gradients(s.x, s.y, loss="l3"), "l3"),
    "unknown loss in a step": ("loss", lambda s: s.net.train_step(s.x, s.y, s.optimizer, loss="nll"), "nll"),
}

BAD_NET = {
    "one width": ("widths", lambda s: gc.MLP([6]), r"\[6\]|\(6,\)|1"),
    "no widths": ("widths", lambda s: gc.MLP([]), ""),
    "a zero width": ("widths", lambda s: gc.MLP([6, 0, 4]), r"\b0\b"),
    "a negative width": ("widths", lambda s: gc.MLP([6, -9, 4]), "-9"),
    "weights beyond float32": (
        "init: weights of layer 0",
        lambda s: gc.MLP([6, 9, 4], init=lambda shape, rng: np.full(shape, 1e60)),
        "finite float32 values",
    ),
    "lsuv of NaN": ("x", lambda s: gc.init.lsuv(s.net, spoiled(s.x, np.nan)), "nan at row 3, column 2"),
    "an enormous width": ("widths", lambda s: gc.MLP([1 << 40, 1 << 40]), ""),
    "a width of no machine": ("widths", lambda s: gc.MLP([1 << 70, 4]), "1180591620717411303424"),
    "a rate beyond floats": ("lr", optimizer(lr=10**400), "int 1000"),
    "unknown activation": ("activation", lambda s: gc.MLP([6, 9, 4], activation="sinus"), "sinus"),
    "too many activations": ("activation", lambda s: gc.MLP([6, 9, 4], activation=["tanh", "relu"]), "2"),
    "too few activations": ("activation", lambda s: gc.MLP([6, 9, 9, 4], activation=["tanh"]), "1"),
    "unknown normalization": ("normalization", lambda s: gc.MLP([6, 9, 4], normalization="group"), "group"),
    "unknown initializer": ("init", lambda s: gc.MLP([6, 9, 4], init="xavier"), "xavier"),
    "unknown dtype": ("dtype", lambda s: gc.MLP([6, 9, 4], dtype="float16"), "float16"),
    "negative seed": ("seed", lambda s: gc.MLP([6, 9, 4], seed=-1), "-1"),
}

BAD_OPTIMIZER = {
    "lr negative": ("lr", optimizer(lr=-0.1), "-0.1"),
    "lr NaN": ("lr", optimizer("Adam", lr=math.nan), "nan"),
    "lr inf": ("lr", optimizer("RMSprop", lr=math.inf), "inf"),
    "momentum negative": ("momentum", optimizer(momentum=-0.9), "-0.9"),
    "nesterov without momentum": ("nesterov", optimizer(nesterov=True), "momentum"),
    "weight_decay negative": ("weight_decay", optimizer("AdamW", weight_decay=-1.0), "-1"),
    "beta of one": ("betas", optimizer("Adam", betas=(0.9, 1.0)), "1.0"),
    "beta negative": ("betas", optimizer("AdamW", betas=(-0.1, 0.9)), "-0.1"),
    "one beta": ("betas", optimizer("Adam", betas=(0.9,)), ""),
    "alpha above one": ("alpha", optimizer("RMSprop", alpha=1.5), "1.5"),
    "eps negative": ("eps", optimizer("Adam", eps=-1e-8), "-1e-08"),
    "eps that float32 rounds to zero": ("eps", optimizer("Adam", eps=1e-50), "1e-50"),
    "a schedule that gives NaN": ("lr", lambda s: gc.optim.SGD(s.net, lr=lambda step: math.nan).step(), "nan"),
}

BAD_CLIP = {
    "no arrays": ("grads", clip([]), "none"),
    "no gradients": ("grads", clip({"weight": None, "bias": None}), "only None"),
    "another dtype": ("grads[1]", clip([GRADS[0], np.ones(3)]), "float64"),
    "integers": ("grads[0]", clip([np.ones(3, int)]), "int64"),
    "strided": ("grads[0]", clip([np.ones((4, 4), "float32")[:, ::2]]), ""),
    "a mask": ("grads[0]", clip([np.ma.masked_array(GRADS[0], mask=[0, 1, 0])]), "1 of 3"),
    "read-only": ("grads[1]", clip([GRADS[0], read_only(np.ones(3, "float32"))]), "read-only|writable|writeable"),
    "max_norm negative": ("max_norm", clip(GRADS, max_norm=-1.0), "-1"),
    "max_norm NaN": ("max_norm", clip(GRADS, max_norm=math.nan), "nan"),
    "norm_type zero": ("norm_type", clip(GRADS, norm_type=0.0), "0"),
    "norm_type negative": ("norm_type", clip(GRADS, norm_type=-2.0), "-2"),
    "clip_value zero or less": ("clip_value", lambda s: gc.clip_grad_value_(GRADS, -1.0), "-1"),
    "adaptive clipping negative": ("clipping", lambda s: gc.clip_grad_adaptive_(s.net, clipping=-0.01), "-0.01"),
    "adaptive eps negative": ("eps", lambda s: gc.clip_grad_adaptive_(s.net, eps=-1.0), "-1"),
}

BAD_FIT = {
    "mode of no name": ("mode", lambda s: gc.EarlyStopping(mode=""), "''"),
    "epochs negative": ("epochs", fit(epochs=-1), "-1"),
    "batch_size zero": ("batch_size", fit(batch_size=0), "0"),
    "unknown loss in fit": ("loss", fit(loss="hinge"), "hinge"),
    "fit with rows missing": ("target", lambda s: fit()(SimpleNamespace(**{**vars(s), "y": s.y[:5]})), "5"),
    "fit with NaN": ("X", lambda s: fit()(SimpleNamespace(**{**vars(s), "x": spoiled(s.x, np.nan)})), "nan"),
    "fit with labels -1 and 1": (
        "target",
        lambda s: fit(loss="binary_cross_entropy")(SimpleNamespace(**{**vars(s), "y": 1 - 2 * (s.y > 0)})),
        r"got -1 at row \d, column \d; other values: mse, mae or huber",
    ),
    "fit with values for classes": ("target", fit(loss="cross_entropy"), r"got -?\d\.\d+ at row 0, column 0"),
    "validation with values for classes": (
        "validation[1]",
        lambda s: fit(loss="cross_entropy", validation=(s.x, s.y + 5))(SimpleNamespace(**{**vars(s), "y": s.labels})),
        r"got \d\.\d+ at row 0, column 0",
    ),
    "validation of other rows": (
        "validation[1]",
        fit(validation=(np.ones((3, IN), "float32"), np.ones((2, 4)))),
        r"3 rows as in validation\[0\]",
    ),
    "fit of one output with cross_entropy": ("loss", fit_of_one_output, "cross_entropy.*constant"),
    "validation of other width": ("validation", fit(validation=(np.ones((3, 5), "float32"), np.ones((3, 4)))), "5"),
}

BAD_OPS = {
    "dense of unequal depth": ("weight", lambda s: gc.ops.dense(s.x, np.ones((3, 5), "float32")), "5"),
    "dense with a long bias": (
        "bias",
        lambda s: gc.ops.dense(s.x, np.ones((3, 6), "float32"), np.ones(4, "float32")),
        "4",
    ),
}

TABLE = BAD_DATA | BAD_NET | BAD_OPTIMIZER | BAD_CLIP | BAD_FIT | BAD_OPS

# Values of a kind that no argument of this name can take.
WRONG_TYPES = {
    "x a string": ("x", lambda s: s.net("table.csv")),
    "x of objects": ("x", lambda s: s.net(np.full((8, 6), None))),
    "array_stats of text": ("array", lambda s: gc.ops.array_stats(np.array(["a"]))),
    "x complex": ("x", lambda s: s.net(s.x.astype(complex))),
    "labels of floats": ("target", with_labels(np.full(8, 0.5))),
    "widths a number": ("widths", lambda s: gc.MLP(6)),
    "widths of floats": ("widths", lambda s: gc.MLP([6, 2.5, 4])),
    "widths of text": ("widths", lambda s: gc.MLP(["six", 4])),
    "activation a number": ("activation", lambda s: gc.MLP([6, 9, 4], activation=3)),
    "lr a string": ("lr", optimizer(lr="fast")),
    "optimizer a string": ("optimizer", lambda s: s.net.train_step(s.x, s.y, "adam", loss="mse")),
    "optimizer for no net": ("net", lambda s: gc.optim.SGD([1.0], lr=0.1)),
    "clip_norm a string": ("clip_norm", train(clip_norm="1")),
    "loss a number": ("loss", lambda s: s.net.loss_and_gradients(s.x, s.y, loss=2)),
    "grads a list of lists": ("grads[0]", clip([[1.0, 2.0]])),
    "training a number": ("training", lambda s: s.net.forward(s.x, 1)),
    "record a string": ("record", lambda s: s.net.loss_and_gradients(s.x, s.y, loss="mse", record="no")),
    "record a string in a step": ("record", train(record="no")),
    "record a string in an optimizer's step": ("record", lambda s: s.optimizer.step(record="no")),
    "optimizer a class": ("optimizer", lambda s: s.net.train_step(s.x, s.y, gc.optim.SGD, loss="mse")),
    "parameters of text": ("dense0.weight", lambda s: s.net.parameters.__setitem__("dense0.weight", "abc")),
    "lsuv of widths": ("net", lambda s: gc.init.lsuv([IN, OUT], s.x)),
    "a number to save to": ("path", lambda s: s.net.save(3)),
    "nothing to load": ("path", lambda s: gc.load(None)),
    "an optimizer's number to save to": ("path", lambda s: s.optimizer.save(3)),
    "an optimizer's nothing to load": ("path", lambda s: s.optimizer.load(None)),
    "a number to resume a sweep from": ("path", lambda s: gc.sweep({"depth": 2}, path=3, progress=False)),
    "a sweep's nothing to load": ("path", lambda s: gc.sweeps.load(None)),
    "a report's number to save to": ("path", lambda s: gc.analyze(s.net, s.x, s.labels).save_html(3)),
    "a prediction's number to save to": ("path", lambda s: gc.predict([IN, 9, 9, OUT]).save_html(3)),
    "a number to export to": ("path", lambda s: gc.export_c(s.net, 3)),
    "a state a number": ("state", lambda s: s.optimizer.load_state_dict(3)),
    "no states": (
        "state['states']",
        lambda s: s.optimizer.load_state_dict(s.optimizer.state_dict() | {"states": None}),
    ),
    "thresholds a dict": ("thresholds", lambda s: gc.analyze(s.net, s.x, s.labels, thresholds={})),
    "callbacks a function": ("callbacks", fit(callbacks=print)),
    "callbacks None": ("callbacks", fit(callbacks=None)),
    "progress a number": ("progress", fit(progress=1)),
    "seed a float": ("seed", lambda s: gc.MLP([6, 4], seed=0.5)),
    "epochs a float": ("epochs", fit(epochs=1.5)),
}


def _backward(s, grad_output):
    net = gc.MLP([IN, OUT])
    net.forward(s.x, training=True)
    net.backward(grad_output)


def assert_untouched(setup):
    """`setup` equals one to which nothing happened, and takes the same next step."""
    undisturbed = fresh()
    for mapping in ("parameters", "gradients", "buffers"):
        assert_same_bits(getattr(setup.net, mapping), copies(getattr(undisturbed.net, mapping)))
    for s in (setup, undisturbed):
        s.net.train_step(s.x, s.y, s.optimizer, loss="mse")
    assert_same_bits(setup.net.parameters, copies(undisturbed.net.parameters))


def test_the_table_is_long_enough():
    assert len(TABLE) + len(WRONG_TYPES) >= 60


@pytest.mark.parametrize("mistake", TABLE)
def test_bad_values(mistake):
    argument, call, came = TABLE[mistake]
    setup = fresh()
    with pytest.raises(ValueError, match=re.escape(argument)) as error:
        call(setup)
    message = str(error.value)
    assert "expected" in message, message
    assert re.search(came, message), f"{message!r} does not tell {came!r}"
    assert_untouched(setup)


@pytest.mark.parametrize("mistake", WRONG_TYPES)
def test_wrong_types(mistake):
    argument, call = WRONG_TYPES[mistake]
    setup = fresh()
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(argument)}.*: expected "):
        call(setup)
    assert_untouched(setup)


@pytest.mark.parametrize("value", ["table.csv", None, {"a": 1}])
def test_what_is_no_array_at_all_is_told(value):
    with pytest.raises(TypeError, match=re.escape(f"x: expected real numbers, got {value!r}")):
        fresh().net(value)


def test_an_error_of_a_schedule_is_its_own():
    """It was taken for an object that is no optimizer."""
    setup, table = fresh(), SimpleNamespace(rate=0.1)
    optimizer = gc.optim.SGD(setup.net, lr=lambda step: table.rate)
    del table.rate
    with pytest.raises(AttributeError, match="rate"):
        setup.net.train_step(setup.x, setup.y, optimizer, loss="mse")


FEATURES = {
    "nullable": lambda pd: pd.DataFrame({"a": pd.array([1, 2, 4], "Int64"), "b": pd.array([0.5, 1.5, 2], "Float64")}),
    "numbers and truth": lambda pd: pd.DataFrame({"a": [1, 2, 4], "b": [0.5, 1.5, 2]}).assign(c=[True, False, True]),
    "whole and truth": lambda pd: pd.DataFrame({"a": [1, 2, 4], "b": [True, False, True]}),
}


@pytest.mark.parametrize("table", FEATURES)
def test_tables_of_mixed_and_nullable_numbers_are_taken(table):
    features = FEATURES[table](pytest.importorskip("pandas"))
    net = gc.MLP([features.shape[1], 3])
    np.testing.assert_array_equal(net(features), net(np.array(features.values.tolist(), "float32")))


def test_labels_of_older_pandas_stay_whole_numbers():
    """Before pandas 2.2 a nullable column was an array of objects, also with nothing missing; as this one is."""
    pd = pytest.importorskip("pandas")

    class Column(pd.Series):
        def __array__(self, dtype=None, copy=None):
            return np.array(list(self), dtype=object)

    net, x, labels = gc.MLP([2, 3]), np.ones((3, 2)), [0, 2, 1]
    assert net.loss(x, Column(labels, dtype="Int64")) == net.loss(x, labels)


def test_sparse_matrices_are_told_how_to_become_arrays():
    sparse = pytest.importorskip("scipy.sparse")
    setup = fresh()
    for matrix in (sparse.csr_matrix(setup.x), sparse.csr_array(setup.x)):
        with pytest.raises(TypeError, match=r"x: expected real numbers, got .*; make it dense: x\.toarray\(\)$"):
            setup.net(matrix)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_small_floats_are_taken(name):
    """Arrays of jax have these dtypes, which NumPy itself does not know."""
    small = pytest.importorskip("ml_dtypes")
    setup = fresh()
    x = setup.x.astype(getattr(small, name))
    np.testing.assert_array_equal(setup.net(x), setup.net(x.astype("f4")))
    with pytest.raises(TypeError, match=r"x: expected real numbers, got dtype \|V4"):
        setup.net(np.zeros((8, 6), "V4"))


def test_columns_that_are_no_numbers_are_named():
    pd = pytest.importorskip("pandas")
    net, table = gc.MLP([2, 3]), pd.DataFrame({"age": [1, 2], "city": ["Bern", "Ulm"]})
    with pytest.raises(TypeError, match=r"x: expected real numbers, got dtype \w+ in column 'city'$"):
        net(table)
    with pytest.raises(ValueError, match="x: expected finite values, got nan at row 1, column 0"):
        gc.analyze(net, pd.DataFrame({"age": pd.array([1, None], "Int64"), "size": [True, False]}), [0, 1])
    for names in (
        table["city"],
        pd.Series(["Bern", "Ulm"]),
        table[["city"]],
        list(table["city"]),
        np.array(table["city"], dtype=object),
    ):
        with pytest.raises(TypeError, match=r"^target: (?!.*None).*; encode the classes as 0...k-1 \(np.unique"):
            net.loss(np.ones((2, 2)), names)


def test_a_name_that_no_tensor_has_is_told_those_there_are():
    """Whoever brings a net over from PyTorch does not know them."""
    net = gc.MLP([2, 3, 3, 3, 2])
    known = (
        r"expected one of dense0.weight, dense0.bias, dense1.weight, dense1.bias, ..., dense3.bias; got 'fc1.weight'"
    )
    with pytest.raises(KeyError, match=known):
        net.parameters["fc1.weight"] = np.ones((3, 2))
    with pytest.raises(KeyError, match="expected one of none"):
        net.buffers["norm0.running_mean"]
    assert "fc1.weight" not in net.parameters and net.parameters.get("fc1.weight") is None


def test_floats_in_the_place_of_labels_are_told_from_real_values():
    """A column that once held NaN holds its labels as floats; the target of a regression has another loss."""
    net, x = gc.MLP([2, 3]), np.ones((3, 2))
    with pytest.raises(
        ValueError, match=r"target: expected integer labels .*, got float64 \(3,\); as labels: y.astype"
    ):
        gc.analyze(net, x, [0.0, 2.0, 1.0])
    for target in ([0.5, 1.0, 2.0], [0.0, 1.0, 3.0], [[151.0], [75.0], [np.nan]]):
        with pytest.raises(ValueError, match=r"; real values: mse, mae or huber, and one output$"):
            gc.analyze(net, x, target)


@pytest.mark.parametrize("as_given", [np.array, lambda y: np.array(y)[:, None]])
def test_a_label_that_is_missing_is_told(as_given):
    """pandas reads a column of labels with a gap as floats; they were taken for real values."""
    s, labels = fresh(), as_given([0.0, 1.0, 3.0, np.nan, 2.0, 0.0, np.nan, 1.0])
    with pytest.raises(ValueError, match=r"target: expected integer labels.* with NaN, the first in row 3; leave such"):
        gc.analyze(s.net, s.x, labels)


def test_inference_between_forward_and_backward_is_no_trap():
    """backward belongs to the last forward(training=True); an inference in between is refused or harmless."""
    setup = fresh()
    setup.net.forward(setup.x, training=True)
    expected = setup.net.backward(setup.y)
    setup.net.forward(setup.x, training=True)
    setup.net(setup.x[:3])
    with contextlib.suppress(ValueError):
        np.testing.assert_array_equal(setup.net.backward(setup.y), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s.net.loss_and_gradients(x, s.y, loss="mse", record=True),
        lambda s, x: s.net.train_step(x, s.y, s.optimizer, loss="mse", record=True),
    ],
)
def test_a_refused_pass_leaves_the_recorded_flow(call):
    setup = fresh()
    call(setup, setup.x)
    before = setup.net.flow.to_dict()
    with pytest.raises(ValueError, match=r"^x: expected finite"):
        call(setup, spoiled(setup.x, np.nan))
    np.testing.assert_equal(setup.net.flow.to_dict(), before)


def test_flow_before_any_recorded_pass():
    net = fresh().net
    with pytest.raises(ValueError, match="record"):
        net.flow  # noqa: B018


def test_parameters_are_written_not_replaced():
    net = fresh().net
    with pytest.raises((AttributeError, TypeError)):
        net.parameters = {}
    with pytest.raises(KeyError):
        net.parameters["dense7.weight"]
