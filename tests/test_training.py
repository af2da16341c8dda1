"""fit: it learns, validates, stops early, calls back, follows schedules, and repeats itself exactly."""

import math
import re
import signal
import warnings

import numpy as np
import pytest

import gradcore as gc
from nets import assert_same_bits, copies


def spirals(rng, rows=300):
    """Two interleaved spirals, a set that no linear net separates: (X [rows, 2], labels [rows])."""
    labels = np.arange(rows) % 2
    radius = np.sqrt(rng.uniform(0.05, 1, rows))
    angle = 5 * radius + np.pi * labels
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return (2 * x + 0.02 * rng.standard_normal((rows, 2))).astype("float32"), labels


def small_net(**options):
    return gc.MLP([2, 24, 24, 2], activation="tanh", seed=1, **options)


def fit(net, data, **options):
    """net.fit with defaults for these tests; a fresh Adam unless an optimizer is given."""
    defaults = {"epochs": 3, "batch_size": 32, "progress": False}
    options.setdefault("optimizer", gc.optim.Adam(net, lr=0.01))
    return net.fit(*data, **(defaults | options))


@pytest.fixture
def data(rng):
    return spirals(rng)


# ---- learning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_learns_to_separate_spirals(normalization, dtype, rng):
    x, labels = spirals(rng)
    net = small_net(normalization=normalization, dtype=dtype.name)
    history = fit(net, (x, labels), epochs=80, validation=spirals(rng))
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.95
    assert (net(x).argmax(axis=1) == labels).mean() > 0.95


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_cross_entropy"])
def test_learns_a_function(loss, rng):
    """One output, flat targets; to half the loss of the best constant."""
    x = rng.uniform(-1, 1, (256, 3)).astype("float32")
    y = (x[:, 0] * x[:, 1] + 0.5 * np.sin(3 * x[:, 2])).astype("float32")
    if loss == "binary_cross_entropy":
        y = (y > 0).astype("float32")
    net = gc.MLP([3, 32, 32, 1], activation="gelu")
    history = fit(net, (x, y), epochs=60, loss=loss)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_history_is_what_the_steps_gave(data):
    """One epoch without shuffling, against the same steps taken by hand."""
    one, two = small_net(), small_net()
    history = fit(one, data, epochs=1, batch_size=128, shuffle=False, clip_norm=0.5)
    optimizer, steps = gc.optim.Adam(two, lr=0.01), []
    for start in range(0, 300, 128):
        part = slice(start, start + 128)
        steps.append((len(data[1][part]), *two.train_step(data[0][part], data[1][part], optimizer, clip_norm=0.5)))
    rows, losses, norms = np.array(steps).T
    assert len(history) == 1
    assert list(history) == history.keys() == ["epoch", "epochs", "loss", "total_norm", "lr", "seconds"]
    assert "loss" in history and "val_loss" not in history and 0 not in history
    assert dict(history) == history.to_dict() == {name: history[name] for name in history}
    assert dict(gc.History()) == {} and "loss" not in gc.History()
    with pytest.raises(KeyError, match=r"history: expected one of epoch, epochs, loss, .*, got 'los'"):
        history["los"]
    assert history["loss"] == [pytest.approx((rows * losses).sum() / 300)]
    assert history["total_norm"] == [pytest.approx(norms.mean())]
    assert_same_bits(one.parameters, copies(two.parameters))


def test_validation_is_loss_and_accuracy_in_inference_mode(data, rng):
    net, held_out = small_net(normalization="batch"), spirals(rng, 50)
    history = fit(net, data, validation=held_out)
    assert history["val_loss"][-1] == pytest.approx(net.loss(*held_out), rel=1e-6)
    assert history["val_accuracy"][-1] == (net(held_out[0]).argmax(axis=1) == held_out[1]).mean()


def test_a_share_can_be_set_aside(data):
    """Rows set aside are never trained on: their targets do not matter to the weights."""
    seen = []
    for spoil in (False, True):
        net = small_net()
        history = fit(net, data, validation=0.2)
        assert len(history["val_loss"]) == 3
        seen.append(copies(net.parameters))
        if not spoil:
            order = np.random.default_rng(0).permutation(300)[:60]
            data = data[0], data[1].copy()
            data[1][order] = 1 - data[1][order]
    assert_same_bits(seen[1], seen[0])


# ---- order of rows ------------------------------------------------------------------------------------------


def losses(data, **options):
    net = small_net()
    return fit(net, data, **options)["loss"]


def test_training_is_reproducible(data, num_threads):
    first = losses(data, seed=5)
    num_threads(1)
    assert losses(data, seed=5) == first
    assert losses(data, seed=6) != first


def test_shuffling(data):
    assert losses(data, shuffle=False, seed=1) == losses(data, shuffle=False, seed=2)
    assert losses(data, shuffle=False) != losses(data, shuffle=True)


def test_every_row_is_used_once_an_epoch(data):
    """With a zero learning rate the epoch's loss is that of the whole set, in whatever order."""
    net = small_net()
    history = fit(net, data, optimizer=gc.optim.SGD(net, lr=0.0), epochs=2, batch_size=37)
    assert history["loss"] == pytest.approx([net.loss(*data)] * 2, rel=1e-6)


def test_a_single_last_row_is_left_out_under_batch_norm(data):
    net = small_net(normalization="batch")
    steps = []

    class Count:
        def on_step(self, logs):
            steps.append(logs["num_steps"])

    fit(net, (data[0][:65], data[1][:65]), epochs=1, batch_size=32, callbacks=[Count()])
    assert steps == [2, 2]


def deep_net(depth=30, **options):
    return gc.MLP([2] + [24] * depth + [2], activation="tanh", seed=1, **options)


def test_a_last_batch_that_deep_batch_norm_does_not_survive_is_warned_of(data):
    """300 rows in batches of 74 leave 4: theory has 3^29 to 1.05^29 in square, 2e4 and more in norm, for 30 layers."""
    with pytest.warns(gc.TrainingWarning, match=r"has 4 of 74 rows.*drop_last=True\), or take.*such as 73") as caught:
        fit(deep_net(normalization="batch"), data, epochs=1, batch_size=74)
    assert len(caught) == 1 and caught[0].filename == __file__
    no_skip = gc.MLP([2] + [24, 23] * 15 + [2], activation="tanh", normalization="batch", residual=True)
    with pytest.warns(gc.TrainingWarning, match="has 4 of 74 rows"):
        fit(no_skip, data, epochs=1, batch_size=74)
    for options in ({"batch_size": 73}, {"batch_size": 74, "drop_last": True}, {"batch_size": 4}):
        fit(deep_net(normalization="batch"), data, epochs=1, **options)  # warnings are errors
    for net in (
        deep_net(normalization="layer"),
        deep_net(normalization="batch", residual=True),
        deep_net(3, normalization="batch"),
    ):
        fit(net, data, epochs=1, batch_size=74)


def test_the_gradient_of_so_small_a_batch_is_as_large_as_the_warning_says(rng):
    """Theory has the mean square; the median over nets of width 64 lies within a factor of 30 of its root, 2e4."""
    x, labels = rng.standard_normal((68, 2)).astype("float32"), rng.integers(0, 2, 68)
    ratios = []
    for seed in range(8):
        net, norms = gc.MLP([2] + [64] * 30 + [2], normalization="batch", seed=seed), []
        for rows in (slice(64), slice(64, 68)):
            net.loss_and_gradients(x[rows], labels[rows])
            norms.append(np.linalg.norm(net.gradients["dense0.weight"]))
        ratios.append(norms[1] / norms[0])
    with pytest.warns(gc.TrainingWarning) as caught:
        fit(net, (x, labels), epochs=1, batch_size=64)
    said = float(re.search(r"layer ([\d.e+]+) times", str(caught[0].message)).group(1))
    assert said == 2e4 and said / 30 < np.median(ratios) < said * 30


def test_drop_last_leaves_out_what_is_left_over(data):
    """300 rows are 9 batches of 32 and 12 rows, which are others in each epoch."""
    seen = []

    class Note(gc.Callback):
        def before_step(self, rows):
            seen.append(np.array(rows))

    fit(small_net(), data, epochs=2, drop_last=True, callbacks=[Note()])
    assert [len(rows) for rows in seen] == [32] * 18
    left = [set(range(300)) - set(np.concatenate(seen[at : at + 9])) for at in (0, 9)]
    assert len(left[0]) == len(left[1]) == 12 and left[0] != left[1]
    with pytest.raises(TypeError, match="drop_last: expected True or False"):
        fit(small_net(), data, drop_last=1)


# ---- callbacks ---------------------------------------------------------------------------------------------------


class Recorder(gc.Callback):
    """Notes the order of the hooks and the logs."""

    def __init__(self):
        self.calls, self.logs = [], []

    def on_fit_start(self, net):
        self.calls.append("start")

    def on_step(self, logs):
        self.calls.append("step")
        self.logs.append(logs)

    def on_epoch(self, logs):
        self.calls.append("epoch")
        self.logs.append(logs)

    def on_fit_end(self, history):
        self.calls.append(f"end {history.stopped_by}")


def test_hooks_and_their_logs(data):
    recorder = Recorder()
    fit(small_net(), data, epochs=2, batch_size=150, callbacks=[recorder], validation=data)
    assert recorder.calls == ["start", "step", "step", "epoch", "step", "step", "epoch", "end epochs"]
    step, epoch = recorder.logs[3], recorder.logs[5]
    assert {"epoch", "step", "num_steps", "loss", "total_norm", "lr"} <= step.keys()
    assert (step["epoch"], step["step"], step["num_steps"]) == (1, 0, 2)
    assert {"epoch", "epochs", "loss", "total_norm", "lr", "seconds", "val_loss", "val_accuracy"} <= epoch.keys()


@pytest.mark.parametrize("truth", [True, np.True_])
@pytest.mark.parametrize(("hook", "epochs_run"), [("on_step", 0), ("on_epoch", 1)])
def test_a_callback_can_end_the_training(hook, epochs_run, truth, data):
    class Enough(gc.Callback):
        pass

    setattr(Enough, hook, lambda self, logs: truth)
    history = fit(small_net(), data, callbacks=[Enough()])
    assert (len(history), history.stopped_by) == (epochs_run, "Enough")


def test_the_end_of_a_failed_training_knows_of_the_error(data):
    """It was told that all epochs had run."""
    recorder = Recorder()
    recorder.on_epoch = lambda logs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(small_net(), data, callbacks=[recorder], epochs=2)
    assert recorder.calls[-1] == "end error"


def test_a_history_is_shown_in_words_and_whole_numbers():
    first = {"epoch": 0, "epochs": 100_000, "loss": 1.23456}
    assert repr(gc.History([first], "interrupt")) == (
        "<History of 1 epoch, ended by interrupt; the last: epoch=0, epochs=100000, loss=1.235>"
    )
    assert repr(gc.History()) == "<History of 0 epochs, ended by epochs; the last: none>"


@pytest.mark.parametrize("answer", [1, 1.0, "stop", np.ones(3), False, np.False_, None], ids=repr)
@pytest.mark.parametrize("hook", ["before_step", "on_step", "on_epoch"])
def test_only_true_is_an_answer(hook, answer, data):
    """What a lambda happens to return, such as a list's length or an array, neither ends nor records anything."""

    class Note(gc.Callback):
        pass

    setattr(Note, hook, lambda self, what: answer)
    net = small_net()
    assert fit(net, data, callbacks=[Note()]).stopped_by == "epochs"
    with pytest.raises(ValueError, match="flow"):
        net.flow  # noqa: B018


def test_a_run_can_be_followed_and_changed_on_the_way(data):
    """The rows of every step, what it recorded, and a clip norm set between two steps."""

    class Follower(gc.Callback):
        def on_run(self, run):
            self.run, self.rows, self.flows, self.norms = run, [], [], []

        def before_step(self, rows):
            self.rows.append(rows)
            self.before = copies(self.run.net.parameters)
            return np.equal(len(self.rows) % 2, 0)  # a bool of NumPy's

        def on_step(self, logs):
            if len(self.rows) % 2 == 0:
                self.flows.append(self.run.net.flow)
            moved = sum(float(((self.run.net.parameters[k] - v) ** 2).sum()) for k, v in self.before.items())
            self.norms.append(moved**0.5)
            self.run.clip_norm = 1e-3

    follower, net = Follower(), small_net()
    fit(net, data, epochs=1, batch_size=64, callbacks=[follower], optimizer=gc.optim.SGD(net, lr=1.0))
    assert np.concatenate([follower.run.batch(rows)[0] for rows in follower.rows]).shape == data[0].shape
    assert sorted(np.concatenate(follower.rows)) == list(range(300))
    assert len(follower.flows) == 2 and follower.flows[0].batch_size == 64
    assert follower.norms[0] > 0.01
    assert follower.norms[1:] == pytest.approx([1e-3] * 4, rel=1e-2)


@pytest.mark.parametrize(
    ("answer", "steps"), [(None, None), (0, None), (False, 4), (np.False_, 4), (True, 2), (np.True_, 2)], ids=repr
)
def test_a_step_that_raises_can_be_left_out(answer, steps, data):
    class Handler(gc.Callback):
        losses = ()

        def on_run(self, run):
            self.run = run

        def before_step(self, rows):
            self.run.net.parameters["dense0.bias"][0] = np.inf if len(self.losses) == 2 else 0.0

        def on_step(self, logs):
            self.losses = (*self.losses, logs["loss"])

        def on_error(self, error):
            self.losses = (*self.losses, math.inf)
            return answer

    handler, net = Handler(), gc.MLP([2, 24, 24, 2], seed=1)
    options = {"epochs": 1, "batch_size": 64, "callbacks": [handler], "clip_norm": 1.0}
    if steps is None:
        with pytest.raises(FloatingPointError) as caught:
            fit(net, data, **options)
        assert caught.value.__notes__ == ["in epoch 0, step 2 of fit"]
        return
    history = fit(net, data, **options)
    assert sum(map(math.isfinite, handler.losses)) == steps
    assert history.stopped_by == ("Handler" if answer else "epochs")
    if not answer:
        assert math.isfinite(history["loss"][0]) and math.isfinite(history["total_norm"][0])


def test_an_error_in_a_callback_comes_through(data):
    class Broken(Recorder):
        def on_step(self, logs):
            raise RuntimeError("broken")

    broken = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        fit(small_net(), data, callbacks=[broken])
    assert broken.calls[-1].startswith("end")


def test_every_callback_hears_of_the_end_although_one_fails(data):
    """Those after it were left out: the best weights were not restored, and a progress bar stayed on the terminal."""

    class Failing(gc.Callback):
        def on_fit_end(self, history):
            raise OSError("disk full")

    class First(gc.Callback):
        def on_epoch(self, logs):
            if logs["epoch"] == 0:
                self.weights = self.net.parameters.flat.copy()

        def on_fit_start(self, net):
            self.net = net

    net, first, last = small_net(), First(), Recorder()
    best = gc.EarlyStopping("loss", mode="max")  # the first epoch
    with pytest.raises(OSError, match="disk full"):
        fit(net, data, callbacks=[Failing(), first, best, last])
    assert last.calls[-1] == "end epochs"
    assert best.best_epoch == 0 and np.array_equal(net.parameters.flat, first.weights)


def test_ctrl_c_ends_the_training_and_keeps_the_history(data):
    class Interrupt(gc.Callback):
        def on_epoch(self, logs):
            if logs["epoch"] == 1:
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    try:
        history = fit(small_net(), data, epochs=10, callbacks=[Interrupt()])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (len(history), history.stopped_by) == (2, "interrupt")


class TestEarlyStopping:
    """The quantity to watch is scripted, so that every decision is known."""

    def run(self, data, values, **options):
        net = small_net()
        snapshots = []

        class Scripted(gc.Callback):
            """Puts the scripted value into the logs that the stopper sees, and keeps the weights."""

            def __init__(self, stopper):
                self.stopper = stopper

            def on_fit_start(self, net):
                self.stopper.on_fit_start(net)

            def on_epoch(self, logs):
                snapshots.append(net.parameters.flat.copy())
                return self.stopper.on_epoch(logs | {options.get("monitor", "val_loss"): values[logs["epoch"]]})

            def on_fit_end(self, history):
                self.stopper.on_fit_end(history)

        stopper = gc.EarlyStopping(**options)
        history = fit(net, data, epochs=len(values), callbacks=[Scripted(stopper)])
        best = [(i == stopper.best_epoch) for i in range(len(snapshots))].index(True)
        return len(history), stopper.best_epoch, np.array_equal(net.parameters.flat, snapshots[best])

    def test_waits_for_patience_and_restores_the_best(self, data):
        assert self.run(data, [5, 3, 4, 4, 4, 4], patience=2) == (4, 1, True)

    def test_improvement_resets_the_wait(self, data):
        assert self.run(data, [5, 6, 4, 6, 3, 6, 6], patience=2) == (7, 4, True)

    def test_small_changes_do_not_count(self, data):
        assert self.run(data, [5, 4.9, 4.8, 4.7], patience=2, min_delta=0.5) == (3, 0, True)

    def test_accuracies_go_up(self, data):
        assert self.run(data, [0.5, 0.7, 0.6, 0.6], monitor="val_accuracy", patience=2) == (4, 1, True)

    def test_may_leave_the_last_weights(self, data):
        assert self.run(data, [5, 3, 4, 4], patience=2, restore_best=False) == (4, 1, False)

    def test_nan_is_no_improvement(self, data):
        assert self.run(data, [5, math.nan, math.nan], patience=2) == (3, 0, True)

    def test_unknown_quantity(self, data):
        with pytest.raises(ValueError, match="monitor"):
            fit(small_net(), data, callbacks=[gc.EarlyStopping("val_loss")])


# ---- schedules, clipping, progress -----------------------------------------------------------------------------------


def test_schedules_count_steps_over_epochs(data):
    net, recorder = small_net(), Recorder()
    optimizer = gc.optim.SGD(net, lr=lambda step: 0.1 / (1 + step))
    fit(net, data, optimizer=optimizer, epochs=2, batch_size=100, callbacks=[recorder])
    rates = [logs["lr"] for logs in recorder.logs if "step" in logs]
    assert rates == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_non_finite_gradients_with_clipping_tell_where(data):
    net = gc.MLP([2, 4, 2], activation="identity")
    net.parameters["dense1.weight"] = 3e38
    with pytest.raises(FloatingPointError) as error:
        fit(net, data, clip_norm=1.0)
    assert any("epoch 0, step 0" in note for note in error.value.__notes__)


@pytest.mark.parametrize("watched", [False, True])
def test_a_loss_that_is_not_finite_is_warned_of_once(watched, data):
    """The first step throws the weights up; training goes on to its end, and a Monitor needs no second voice."""
    net = gc.MLP([2, 8, 2], activation="identity")
    options = {"optimizer": gc.optim.SGD(net, lr=1e30), "callbacks": [gc.Monitor(action=())] if watched else []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(net, data, **options)
    assert len(history) == 3 and history.stopped_by == "epochs" and math.isnan(history["loss"][-1])
    expected = [] if watched else [gc.TrainingWarning]
    assert [warning.category for warning in caught] == expected
    for warning in caught:
        assert re.search(r"the loss is (nan|inf) in epoch 0, step 1 of fit", str(warning.message))
        assert "gc.Monitor" in str(warning.message) and warning.filename == __file__


def test_progress(data, capsys):
    fit(small_net(), data, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(small_net(), data, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "3/3" in captured.err.replace(" ", "")
    seen = []
    fit(small_net(), data, progress=seen.append)
    assert [logs["epoch"] for logs in seen] == [0, 1, 2] and capsys.readouterr() == ("", "")
