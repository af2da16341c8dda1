"""Inputs and targets of a net: anything that holds the numbers is taken, and read where it is if it can be."""

import numpy as np
import pytest

import c_api
import gradcore as gc
import reference
import tolerances
from nets import Case
from reference import Net


@pytest.mark.parametrize("kind", [*np.typecodes["AllInteger"], ">i2", "bytes", "probabilities"])
def test_cross_entropy_targets(kind, dtype):
    case = Case(Net((5, 8, 3), ("tanh",)), dtype, batch_size=10, loss="cross_entropy")
    others = {"bytes": bytes(case.target.tolist()), "probabilities": reference.one_hot(case.target, 3).astype(dtype)}
    target = others[kind] if kind in others else case.target.astype(kind)
    loss = case.mlp.loss_and_gradients(case.x, target, loss="cross_entropy")
    assert loss == pytest.approx(case.reference()[0], rel=tolerances.NETWORK[dtype.name])


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber"])
def test_one_column_targets_may_be_flat(loss, dtype):
    case = Case(Net((5, 8, 1), ("tanh",)), dtype, batch_size=10, loss=loss)
    expected = case.mlp.loss_and_gradients(case.x, case.target, loss=loss)
    assert case.mlp.loss_and_gradients(case.x, case.target[:, 0], loss=loss) == expected


class Subclass(np.ndarray):
    """As np.memmap and np.matrix are."""


def in_ctypes(x):
    """As multiprocessing shares it; NumPy keeps the byte order that its buffer names, which is the native one."""
    return np.ctypeslib.as_array(np.ctypeslib.as_ctypes(x.copy()))


def misaligned(x):
    """A copy that begins a byte beside where its elements should."""
    memory = np.empty(x.nbytes + 1, np.uint8)
    copy = memory[1:].view(x.dtype).reshape(x.shape)
    copy[...] = x
    assert not copy.flags.aligned
    return copy


FORMS = {
    "fortran": np.asfortranarray,
    "rows": lambda x: np.repeat(x, 2, axis=0)[::2],
    "columns": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "wide": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "byteorder": lambda x: x.astype(x.dtype.newbyteorder()),
    "list": lambda x: x.tolist(),
    "memoryview": memoryview,
    "ctypes": in_ctypes,
    "misaligned": misaligned,
    "subclass": lambda x: x.view(Subclass),
}


class TestInputForms:
    """Other strides, orders, dtypes, lists, DLPack, buffers."""

    @pytest.fixture
    def case(self, dtype):
        return Case(Net((6, 8, 3), ("tanh",)), dtype, batch_size=10)

    @pytest.mark.parametrize("convert", FORMS.values(), ids=FORMS)
    def test_arrays(self, case, convert):
        np.testing.assert_array_equal(case.mlp(convert(case.x)), case.mlp(case.x))
        expected = case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
        assert case.mlp.loss_and_gradients(convert(case.x), convert(case.target), loss="mse") == expected

    @pytest.mark.parametrize("rows", [1, 7, 70, 300])
    @pytest.mark.parametrize("widths", [(6, 6, 6, 3), (1100, 9, 9, 3)], ids=["residual", "wide"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    def test_inference_reads_the_rows_where_they_are(self, dtype, widths, rows):
        """Rows apart, off any alignment, and nothing but NaN around them: the same bits as from an array of their own,
        for outputs and loss."""
        net = gc.MLP(widths, activation="tanh", residual=True, dtype=dtype)
        x = np.random.default_rng(0).standard_normal((rows, widths[0])).astype(net.parameters.flat.dtype)
        amid_nan = c_api.guarded_input(x, stride=widths[0] + 3)
        np.testing.assert_array_equal(net(amid_nan), net(x))
        labels = np.arange(rows) % 3
        assert net.loss(amid_nan, labels) == net.loss(x, labels) == net.loss_and_gradients(x, labels)
        amid_nan[-1, -1] = np.inf
        with pytest.raises(ValueError, match=rf"x: .* inf at row {rows - 1}, column {widths[0] - 1}"):
            net(amid_nan)

    @pytest.mark.parametrize("form", ["ctypes", "misaligned", "subclass"])
    def test_labels_and_data_sets(self, case, form):
        convert = FORMS[form]
        x, labels, net = case.x, np.arange(len(case.x)) % 3, case.mlp
        assert net.loss(convert(x), convert(labels)) == net.loss(x, labels)
        assert gc.ops.loss(convert(x), convert(labels)) == gc.ops.loss(x, labels)
        np.testing.assert_array_equal(gc.ops.activation(convert(x), "tanh"), gc.ops.activation(x, "tanh"))

        def losses(x, labels):
            copy = net.copy()
            optimizer = gc.optim.SGD(copy, lr=0.1)
            options = {"epochs": 1, "batch_size": 4, "shuffle": False, "progress": False}
            return copy.fit(x, labels, optimizer=optimizer, **options)["loss"]

        assert losses(convert(x), convert(labels)) == losses(x, labels)

    @pytest.mark.torch
    def test_tensors(self, case, torch):
        np.testing.assert_array_equal(case.mlp(torch.from_numpy(case.x)), case.mlp(case.x))

    def test_other_float_dtype(self, case):
        other = {"float32": "float64", "float64": "float32"}[case.dtype.name]
        x = case.x.astype("float32")
        np.testing.assert_array_equal(case.mlp(x.astype(other)), case.mlp(x))

    @pytest.mark.parametrize("form", ["fortran", "rows", "columns", "reversed", "other dtype", "other dtype, reversed"])
    def test_usual_batches_do_not_need_the_python_layer(self, case, form, monkeypatch):
        """Its conversions take longer than a step of a small net."""
        other = np.dtype({"float32": "float64", "float64": "float32"}[case.dtype.name])
        x, values = case.x.astype("float32").astype(case.dtype), case.target.astype("float32").astype(case.dtype)
        loss, output = case.mlp.loss_and_gradients(x, values, loss="mse"), case.mlp(x)
        labels = np.arange(len(x)) % 3
        label_loss = case.mlp.loss(x, labels)

        def convert(array):
            array = array.astype(other) if form.startswith("other") else array
            return array if form == "other dtype" else FORMS[form.replace("other dtype, ", "")](array)

        monkeypatch.setattr(gc.MLP, "_input", None)
        monkeypatch.setattr(gc.MLP, "_batch", None)
        assert case.mlp.loss_and_gradients(convert(x), convert(values), loss="mse") == loss
        np.testing.assert_array_equal(case.mlp(convert(x)), output)
        for kind in np.typecodes["AllInteger"]:
            if np.dtype(kind) == np.uint64:
                continue  # may hold numbers that int64 does not
            assert case.mlp.loss(convert(x), labels.astype(kind)) == label_loss
            assert case.mlp.loss(x, np.repeat(labels.astype(kind), 2)[::2]) == label_loss
        assert case.mlp.loss(x, labels.astype(">i4")) == label_loss
        assert case.mlp.loss(x, labels == 1) == case.mlp.loss(x, (labels == 1).astype(int))

    def test_values_of_one_output_in_another_dtype(self, dtype):
        case = Case(Net((5, 8, 1), ("tanh",)), dtype, batch_size=10, loss="mse")
        values = case.target[:, 0].astype("float32")
        expected = case.mlp.loss_and_gradients(case.x, values.astype(dtype), loss="mse")
        for other in ("float32", "float64"):
            assert case.mlp.loss_and_gradients(case.x, np.repeat(values.astype(other), 3)[::3], loss="mse") == expected

    @pytest.mark.parametrize("x", [np.zeros(3), np.zeros(3, "float32"), np.float32(0), np.zeros((3, 1, 1)), [0.0, 0.0]])
    def test_a_column_of_inputs_is_not_guessed(self, x):
        net = gc.MLP([1, 4, 2])
        for call in (
            net,
            net.forward,
            lambda x: net.loss(x, [0, 1, 0]),
            lambda x: net.loss_and_gradients(x, [0, 1, 0]),
        ):
            with pytest.raises(ValueError, match=r"x: expected a 2-D array \[batch, 1\], got shape"):
                call(x)

    @pytest.mark.parametrize("bad", [1e39, np.nan, -np.inf])
    def test_copies_that_are_not_finite_are_refused_as_they_came(self, bad):
        net = gc.MLP([4, 8, 2])
        x = np.ones((3, 4))
        x[2, 1] = bad
        said = "in the range of float32, got 1e[+]39 at row 2, column 1" if bad == 1e39 else f"got {bad:g} at row 2"
        with pytest.raises(ValueError, match=f"x: .*{said}"):
            net(x)
        with pytest.raises(ValueError, match=f"x: .*{said}"):
            net.loss_and_gradients(x, [0, 1, 0])
        with pytest.raises(ValueError, match=f"target: .*{said}"):
            net.loss_and_gradients(np.ones((3, 4)), x[:, :2], loss="mse")

    def test_inputs_are_only_read(self, case):
        x, target = case.x.copy(), case.target.copy()
        x.flags.writeable = target.flags.writeable = False
        case.mlp.loss_and_gradients(x, target, loss="mse", record=True)
        np.testing.assert_array_equal(x, case.x)
        np.testing.assert_array_equal(target, case.target)
