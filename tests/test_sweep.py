"""gc.sweep: the same numbers as gc.analyze on any executor, files that resume a sweep, and the phase diagram."""

import fcntl
import json
import math
import multiprocessing
import re
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import gradcore as gc
from gradcore import cli, sweeps
from gradcore.analysis import mean_field as theory
from gradcore.show import sweep_story

GRID = {"depth": [3, 6], "activation": ["tanh", "sigmoid"], "seed": [0, 1], "width": 16}
SMALL = {"batch_size": 16, "progress": False}


class Serial(Executor):
    """Runs each call at once and remembers its points."""

    def __init__(self):
        self.points = []

    def submit(self, function, /, *args, **kwargs):
        self.points.append(args[0])
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Stalling(Serial):
    """Comes to the first few points only: how far it is never depends on time."""

    def submit(self, function, /, *args, **kwargs):
        return super().submit(function, *args, **kwargs) if len(self.points) < 4 else Future()


@pytest.fixture(scope="module")
def result():
    return gc.sweep(GRID, **SMALL)


def rows_of(result):
    """The rows as text: equal to the bit, NaN included."""
    return [json.dumps(row) for row in result.rows]


# ---- what is measured --------------------------------------------------------------------------------------


def test_each_row_is_what_analyze_says_of_that_net():
    rng = np.random.default_rng(3)
    x, labels = rng.standard_normal((64, 5)), rng.integers(0, 3, 64)
    grid = {"depth": [2, 5], "width": 8, "normalization": [None, "layer"], "residual": [False, True], "seed": 4}
    result = gc.sweep({**grid, "activation": "gelu", "init": "he_uniform"}, x, labels, batch_size=16, progress=False)
    assert len(result) == 8
    for row in result.rows:
        options = {name: row[name] for name in ("activation", "init", "normalization", "residual", "seed")}
        net = gc.MLP([5] + [8] * (row["depth"] - 1) + [3], **options)
        report = gc.analyze(net, x[np.sort(np.random.default_rng(0).permutation(64))], labels, batch_size=16, batches=4)
        assert row["verdict"] == report.verdict
        np.testing.assert_equal(row["gain"], math.exp(report.slope.value))
        np.testing.assert_equal(
            row["predicted_gain"], math.exp(report.prediction.slope) if row["depth"] > 2 else math.nan
        )
        norms = [layer.delta_norm for layer in report.layers[:-1]]
        assert row["norm_ratio"] == norms[0] / norms[-1]
        assert row["loss"] == report.loss
        assert row["num_parameters"] == net.num_parameters


def test_rows_are_in_the_order_of_the_grid(result):
    points = [(row["depth"], row["activation"], row["seed"]) for row in result.rows]
    assert points == [(d, a, s) for d in (3, 6) for a in ("tanh", "sigmoid") for s in (0, 1)]
    assert result["width"] == [16] * 8
    assert list(result.rows[0])[:9] == list(sweeps.AXES)


def test_threads_processes_and_one_by_one_agree_to_the_bit(result, num_threads):
    num_threads(1)
    assert rows_of(gc.sweep(GRID, executor=Serial(), **SMALL)) == rows_of(result)
    with ThreadPoolExecutor(3) as executor:
        assert rows_of(gc.sweep(GRID, executor=executor, **SMALL)) == rows_of(result)
        assert executor.submit(int).result() == 0  # left open
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=gc.set_num_threads, initargs=(1,)) as executor:
        assert rows_of(gc.sweep(GRID, executor=executor, **SMALL)) == rows_of(result)


def test_the_net_of_a_row(result):
    net = result.net(6)
    assert (net.depth, net.activations[0], net.widths[:2]) == (6, "sigmoid", (100, 16))
    expected = gc.MLP(net.widths, activation="sigmoid", seed=0)
    np.testing.assert_array_equal(net.parameters.flat, expected.parameters.flat)


def test_variances_of_weights_and_biases():
    point = {name: default for name, (default, _) in sweeps.AXES.items()}
    plain = sweeps.build({**point, "weight_var": 1.0}, 50, 10)
    np.testing.assert_array_equal(plain.parameters.flat, gc.MLP(plain.widths, init="lecun_normal").parameters.flat)
    net = sweeps.build({**point, "weight_var": 2.25, "bias_var": 0.49, "width": 400}, 50, 10, "float64")
    weight, bias = net.parameters["dense3.weight"], net.parameters["dense3.bias"]
    assert np.var(weight) * 400 == pytest.approx(2.25, rel=5 * math.sqrt(2 / weight.size))
    assert np.var(bias) == pytest.approx(0.49, rel=5 * math.sqrt(2 / bias.size))
    assert not np.array_equal(bias, net.parameters["dense4.bias"])
    without = sweeps.build({**point, "weight_var": 2.25, "width": 400}, 50, 10, "float64")
    np.testing.assert_array_equal(without.parameters["dense3.weight"], weight)


def test_exploding_nets_have_no_gain_and_a_verdict():
    result = gc.sweep({"depth": 60, "weight_var": 1e4, "width": 8}, **SMALL)
    assert result["verdict"] == ["non_finite"]
    assert math.isnan(result["gain"][0])


def test_a_part_of_the_data_is_taken_by_the_seed():
    x = np.random.default_rng(0).standard_normal((500, 3))
    target = x @ np.ones((3, 2))
    grid = {"depth": 3, "width": 8}
    one = gc.sweep(grid, x, target, loss="mse", **SMALL)
    assert one.settings["out_features"] == 2
    assert gc.sweep(grid, x, target, loss="mse", **SMALL).rows == one.rows
    assert gc.sweep(grid, x, target, loss="mse", seed=1, **SMALL)["loss"] != one["loss"]
    assert gc.sweep(grid, x, target[:, 0], loss="mae", **SMALL).settings["out_features"] == 1


# ---- theory ------------------------------------------------------------------------------------------------


def test_deep_gains_are_those_of_theory():
    """Over half of 30 layers at width 100: five standard deviations of what finite width does."""
    grid = {"weight_var": [1.0, 3.0], "bias_var": [0.05, 0.3], "depth": 31, "width": 100, "activation": "tanh"}
    for row in gc.sweep(grid, batch_size=32, progress=False).rows:
        q = theory.fixed_point("tanh", row["weight_var"], row["bias_var"])
        chi = theory.chi("tanh", q, row["weight_var"])
        spread = math.sqrt(theory.width_noise("tanh", q, 100) / 14)
        assert abs(math.log(row["deep_gain"] / chi)) < 5 * spread + 0.01, row
        assert row["chi_star"] == pytest.approx(chi, rel=0.05)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity", "tanh", "elu", "selu", "sigmoid", "gelu"])
@pytest.mark.parametrize("bias_var", [0.05, 0.5])
def test_gradients_shrink_left_of_the_critical_line_and_grow_right_of_it(activation, bias_var):
    (weight_var,) = sweeps.critical_line(activation, [bias_var])

    def chi(factor):
        q = theory.fixed_point(activation, factor * weight_var, bias_var)
        return theory.chi(activation, min(q, 1e20), factor * weight_var)

    if activation == "gelu":  # its variance jumps where it turns critical: only the left side is near
        assert chi(0.95) < 1
    else:
        assert chi(0.98) < 1 < chi(1.02)


def test_known_points_of_the_critical_line():
    np.testing.assert_allclose(sweeps.critical_line("relu", [0.0, 0.1, 1.0]), 2.0)
    np.testing.assert_allclose(sweeps.critical_line("tanh", [0.0]), 1.0)
    np.testing.assert_allclose(sweeps.critical_line("hard_tanh", [0.0]), 1.0)
    # the point (1.76, 0.05) of Schoenholz et al. 2017, to more digits by quadrature with mpmath
    np.testing.assert_allclose(sweeps.critical_line("tanh", [0.05]), 1.760955, atol=1e-6)
    assert np.isnan(sweeps.critical_line("silu", [0.0])).all()


# ---- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep.jsonl"


def test_a_sweep_goes_on_where_its_file_ends(path, result):
    assert rows_of(gc.sweep(GRID, path=path, **SMALL)) == rows_of(result)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 9
    path.write_bytes(b"".join(lines[:4]) + lines[4][:30])  # the machine went down while writing the fourth net
    executor = Serial()
    assert rows_of(gc.sweep(GRID, path=path, executor=executor, **SMALL)) == rows_of(result)
    assert len(executor.points) == 5
    assert sorted(path.read_bytes().splitlines()) == sorted(line.rstrip() for line in lines)
    executor = Serial()
    assert rows_of(gc.sweep(GRID, path=path, executor=executor, **SMALL)) == rows_of(result)
    assert executor.points == []


def test_a_file_cut_short_in_its_first_line_starts_anew(path):
    grid = {"depth": 2, "width": 4}
    gc.sweep(grid, path=path, **SMALL)
    path.write_bytes(path.read_bytes()[:25])
    assert len(gc.sweep(grid, path=path, **SMALL)) == 1
    assert len(path.read_bytes().splitlines()) == 2


def test_load_gives_what_is_there(path, result):
    gc.sweep(GRID, path=path, **SMALL)
    loaded = sweeps.load(path)
    assert rows_of(loaded) == rows_of(result)
    assert (loaded.grid, loaded.settings, loaded.interrupted) == (result.grid, result.settings, False)
    assert str(loaded) == str(result)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + b'{"point"')
    part = sweeps.load(path)
    assert len(part) == 2
    assert rows_of(part) == [row for row in rows_of(result) if row in rows_of(part)]  # in the grid's order
    assert part.interrupted
    assert path.read_bytes().endswith(b'{"point"')  # reading changes nothing


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"depth": [2, 3]}, {}, "holds a sweep with depth [2], not [2, 3]"),
        ({"depth": 2, "activation": "tanh"}, {}, 'activation ["relu"], not ["tanh"]'),
        ({"depth": 2}, {"batches": 5}, "batches 4, not 5"),
        ({"depth": 2}, {"dtype": "float64"}, 'dtype "float32", not "float64"'),
        ({"depth": 2}, {"x": np.ones((20, 100)), "target": np.arange(20) % 10}, "data "),
    ],
)
def test_another_configuration_is_refused(path, grid, options, message):
    gc.sweep({"depth": 2, "width": 4}, path=path, **SMALL)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        gc.sweep({"width": 4, **grid}, path=path, **{**SMALL, **options})
    assert str(error.value).startswith(str(path))
    assert "use the same configuration to resume it, or another file" in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"no line end", b'{"point": {}}\n'])
def test_other_files_are_left_alone(path, content):
    path.write_bytes(content)
    for function in (lambda: gc.sweep({"depth": 2}, path=path, **SMALL), lambda: sweeps.load(path)):
        with pytest.raises(ValueError, match=r"expected a file that gc\.sweep wrote, got another one"):
            function()
    assert path.read_bytes() == content


def test_damaged_and_newer_files(path):
    grid = {"depth": [2, 3], "width": 4}
    gc.sweep(grid, path=path, **SMALL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{]\n" + lines[2])
    with pytest.raises(
        ValueError, match=r"line 2: expected a line written by gc\.sweep.*remove it, and its net is measured again"
    ):
        gc.sweep(grid, path=path, **SMALL)
    path.write_bytes(lines[0].replace(b": 1,", b": 2,", 1) + lines[1])
    with pytest.raises(ValueError, match="expected format 1, got 2"):
        sweeps.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got an empty one"):
        sweeps.load(path)


def changed_line(line, part, **entries):
    """A line of a sweep's file with other entries in one of its parts; None removes one."""
    record = json.loads(line)
    record[part] = {name: value for name, value in (record[part] | entries).items() if value is not None}
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize(
    ("number", "part", "entries", "advice"),
    [
        (2, "point", {"depth": None}, "remove it"),
        (2, "point", {"colour": 1}, "remove it"),
        (2, "result", {"gain": None}, "remove it"),
        (2, "result", {"gain": "1.0"}, "remove it"),
        (2, "result", {"verdict": "fine"}, "remove it"),
        (1, "grid", {"depth": None}, "use another file"),
        (1, "settings", {"batch_size": None}, "use another file"),
    ],
)
def test_lines_of_other_axes_settings_or_results_are_refused(path, number, part, entries, advice):
    """They were taken, and the result failed where it was shown; or a KeyError named the axis."""
    grid = {"depth": [2, 3], "width": 4}
    gc.sweep(grid, path=path, **SMALL)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = changed_line(lines[number - 1], part, **entries)
    path.write_bytes(b"".join(lines))
    for function in (lambda: gc.sweep(grid, path=path, **SMALL), lambda: sweeps.load(path)):
        with pytest.raises(ValueError, match=rf"line {number}: expected a line written by gc\.sweep.*{advice}"):
            function()


def test_a_file_in_use_is_refused(path):
    gc.sweep({"depth": 2, "width": 4}, path=path, **SMALL)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by another sweep"):
            gc.sweep({"depth": 2, "width": 4}, path=path, **SMALL)


# ---- interruptions and progress ----------------------------------------------------------------------------


def test_an_interrupt_keeps_what_is_finished(path, result):
    def interrupt(done, total, what):
        assert (total, what) == (8, "measuring 8 nets")
        if done == 3:
            raise KeyboardInterrupt

    part = gc.sweep(GRID, path=path, executor=Stalling(), progress=interrupt, batch_size=16)
    assert part.interrupted
    assert len(part) == 4
    assert set(rows_of(part)) < set(rows_of(result))
    assert len(path.read_bytes().splitlines()) == 1 + len(part)
    assert "interrupted" in str(part) and "up to 2 seeds each" in str(part)
    assert rows_of(gc.sweep(GRID, path=path, **SMALL)) == rows_of(result)


def test_an_error_names_its_point_and_keeps_the_others(path):
    grid = {"depth": 2, "width": 4, "normalization": [None, "batch"]}
    x, target = np.ones((1, 3)), np.ones((1, 2))
    with pytest.raises(ValueError, match="at least two rows a batch for batch norm") as error:
        gc.sweep(grid, x, target, loss="mse", path=path, executor=Serial(), **SMALL)
    assert "'normalization': 'batch'" in error.value.__notes__[0]
    assert len(path.read_bytes().splitlines()) == 2


def test_progress(capsys):
    seen = []
    gc.sweep({"depth": [2, 3], "width": 4}, batch_size=16, progress=lambda *args: seen.append(args))
    assert seen == [(done, 2, "measuring 2 nets") for done in (0, 1, 2)]
    gc.sweep({"depth": 2, "width": 4}, batch_size=16)
    assert capsys.readouterr() == ("", "")  # where stderr is no terminal


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "options", "error", "message"),
    [
        ([3], {}, TypeError, "grid: expected a mapping from axes to values, got [3]"),
        ({"layers": 3}, {}, ValueError, "grid: expected axes among depth, width, activation"),
        ({"depth": [3, 0]}, {}, ValueError, "grid['depth']: expected a whole number from 1 to 100000, got 0"),
        ({"depth": 10**10}, {}, ValueError, "grid['depth']: expected a whole number from 1 to 100000, got 10000000000"),
        ({"depth": []}, {}, ValueError, "grid['depth']: expected one or more different values, got []"),
        ({"seed": [1, 1]}, {}, ValueError, "grid['seed']: expected one or more different values"),
        ({"width": 2.5}, {}, TypeError, "grid['width']: expected a whole number"),
        ({"activation": "rely"}, {}, ValueError, "grid['activation']: expected one of"),
        ({"normalization": "group"}, {}, ValueError, "grid['normalization']: expected one of None"),
        ({"init": "xavier"}, {}, ValueError, "grid['init']: expected one of"),
        ({"init": [len]}, {}, TypeError, "grid['init']: expected a name of gc.initializers()"),
        ({"init": "auto", "weight_var": 1.0}, {}, ValueError, "expected init or weight_var, got both"),
        ({"weight_var": [1.0, -1.0]}, {}, ValueError, "grid['weight_var']: expected a finite number > 0, got -1.0"),
        ({"weight_var": [1.0, None]}, {}, TypeError, "grid['weight_var']: expected a finite number > 0, got None"),
        ({"weight_var": None}, {}, TypeError, "grid['weight_var']: expected a finite number > 0, got None"),
        ({"bias_var": -0.1}, {}, ValueError, "grid['bias_var']: expected a finite number >= 0"),
        (
            {"weight_var": [1.0, 1e300]},
            {},
            ValueError,
            "grid['weight_var']: expected at most 4.5e+74, beyond which float32 numbers overflow, got 1e+300",
        ),
        ({"bias_var": 1e80}, {"dtype": "bfloat16"}, ValueError, "grid['bias_var']: expected at most 4.5e+74"),
        ({"weight_var": 10**400}, {}, ValueError, "grid['weight_var']: expected a finite number > 0, got int 1000"),
        ({"width": 10**12}, {}, ValueError, "grid['width']: expected a whole number from 1 to 16777216, got 10000"),
        ({"depth": range(1, 2000), "width": range(1, 2000)}, {}, ValueError, "grid: expected at most 1000000 nets"),
        ({"residual": "yes"}, {}, TypeError, "grid['residual']: expected True or False"),
        ({}, {"loss": "mse"}, ValueError, "x, target: expected both or, for loss 'cross_entropy', none of them"),
        ({}, {"x": np.ones((4, 2))}, ValueError, "x, target: expected both"),
        ({}, {"x": np.ones(4), "target": np.zeros(4, int)}, ValueError, "x: expected a 2-D array"),
        ({}, {"x": np.ones((4, 2)), "target": np.array([0, 1, -1, 1])}, ValueError, "target[2]: expected a label"),
        ({}, {"x": np.full((4, 2), np.nan), "target": np.zeros(4, int)}, ValueError, "x: expected finite values"),
        ({}, {"x": np.ones((4, 2)), "target": np.zeros(3, int)}, ValueError, "target: expected 4 rows"),
        (
            {},
            {"x": np.ones((4, 2)), "target": np.ones((4, 2)) * 3.5},
            ValueError,
            "got 3.5 at row 0, column 0; other val",
        ),
        (
            {},
            {"x": np.ones((4, 2)), "target": np.linspace(-1, 1, 4)},
            ValueError,
            "loss: expected 'binary_cross_entropy'",
        ),
        ({}, {"batch_size": 0}, ValueError, "batch_size: expected a whole number >= 1"),
        ({}, {"batches": 0}, ValueError, "batches: expected a whole number >= 1"),
        ({}, {"executor": 4}, TypeError, "executor: expected a concurrent.futures.Executor or None, got 4"),
        ({}, {"progress": 1}, TypeError, "progress: expected True, False or a function"),
        ({}, {"dtype": "float16"}, ValueError, "dtype: expected one of"),
    ],
)
def test_bad_arguments(grid, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        gc.sweep(grid, **{**SMALL, **options})


def test_variances_up_to_the_limit_are_measured():
    """What overflows then is the pass, not a number drawn; float64 takes any finite variance."""
    for grid, dtype in (({"weight_var": 4.5e74}, "float32"), ({"weight_var": 1e308, "bias_var": 1e308}, "float64")):
        (row,) = gc.sweep({**grid, "depth": 3, "width": 8}, dtype=dtype, progress=False).rows
        assert row["verdict"] == "non_finite" and row["cause"] == "weight_scale"


# ---- the result --------------------------------------------------------------------------------------------


def test_summary_draws_the_seeds_together(result):
    summary = result.summary()
    assert [(row["depth"], row["activation"], row["seeds"]) for row in summary] == [
        (3, "tanh", 2), (3, "sigmoid", 2), (6, "tanh", 2), (6, "sigmoid", 2)]  # fmt: skip
    gains = result["gain"]
    assert summary[1]["gain"] == pytest.approx(math.sqrt(gains[2] * gains[3]))
    assert (summary[1]["gain_low"], summary[1]["gain_high"]) == (min(gains[2:4]), max(gains[2:4]))
    assert summary[0]["loss"] == pytest.approx(np.mean(result["loss"][:2]))


def test_summary_takes_the_worst_verdict():
    rows = [{**row, "verdict": verdict, "cause": cause} for row, verdict, cause in zip(
        gc.sweep({"depth": 3, "width": 4, "seed": [0, 1]}, **SMALL).rows,
        ("healthy", "vanishing"), (None, "depth"), strict=True)]  # fmt: skip
    grid = {name: [rows[0][name]] for name in sweeps.AXES} | {"seed": [0, 1]}
    (row,) = sweeps.SweepResult(rows, grid, {}).summary()
    assert (row["verdict"], row["cause"], row["healthy"]) == ("vanishing", "depth", 0.5)
    assert sweep_story.verdict(row) == "vanishing (1 of 2 healthy)"


def test_forms_of_the_result(result):
    record = json.loads(result.to_json())
    assert [row["gain"] for row in record["rows"]] == result["gain"]
    assert record["grid"]["depth"] == [3, 6]
    frame = pytest.importorskip("pandas").DataFrame
    assert isinstance(result.to_dataframe(), frame)
    assert result.to_dataframe()["verdict"].tolist() == result["verdict"]
    lines = result.to_csv().splitlines()
    assert lines[0].startswith("depth,width,activation,init,weight_var")
    assert lines[1].startswith("3,16,tanh,auto,,0.0,,False,0,healthy,")
    assert len(lines) == 9
    assert repr(result) == "<SweepResult of 8 nets: depth 2, activation 2, seed 2>"


def test_one_format_at_a_time_goes_to_standard_output(capsys):
    assert cli.main(["sweep", "--depth", "3", "--csv", "-", "--json", "-"]) == 2
    assert capsys.readouterr() == ("", "gradcore: --csv and --json: expected - for one of them at most, got both\n")
