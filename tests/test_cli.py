"""The command line, as a user meets it: exit codes, one-line errors, files of their own."""

import errno
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gc
from gradcore import cli
from gradcore.cli import table as tables

pytest.importorskip("sklearn")

SICK = ["--data", "digits", "--widths", "64,32x20,10", "--activation", "sigmoid"]
HEALTHY = ["--data", "digits", "--widths", "64,32x4,10", "--activation", "tanh"]


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as ending:
        code = ending.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def csv(tmp_path):
    """Writes a file and gives its path."""

    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# ---- analyze -----------------------------------------------------------------------------------------------


def test_an_internal_error_is_no_verdict(capsys, monkeypatch):
    def broken(arguments):
        return [][len(arguments.command)]

    monkeypatch.setattr("gradcore.cli.arguments.run_info", broken)
    line = "gradcore: internal error, IndexError: list index out of range (GRADCORE_TRACEBACK=1 shows where)\n"
    assert run(capsys, "info") == (2, "", line)
    monkeypatch.setenv("GRADCORE_TRACEBACK", "1")
    code, _, err = run(capsys, "info")
    assert code == 2 and err.endswith(line) and "in broken" in err


def test_exit_code_is_the_verdict(capsys):
    code, out, _ = run(capsys, "analyze", *HEALTHY, "--no-remedies")
    assert (code, "HEALTHY GRADIENTS" in out) == (0, True)
    code, out, _ = run(capsys, "analyze", *SICK, "--no-remedies")
    assert (code, "VANISHING GRADIENTS" in out) == (1, True)


def test_none_is_a_normalization_of_every_command(capsys):
    few = ("--batches", "1", "--batch-size", "1")
    code, out, _ = run(capsys, "analyze", *HEALTHY, "--no-remedies", *few, "--normalization", "none")
    assert code == 0 and "1 batch of 1 row, " in out
    code, out, _ = run(capsys, "predict", "--widths", "8,9x3,2", "--normalization", "none")
    assert code == 0 and "norm" not in out.splitlines()[0]


def test_remedies_are_tried_and_told(capsys, monkeypatch):
    monkeypatch.setattr("gradcore.analysis.remedies.find_remedies.__kwdefaults__", {
        **_remedy_defaults(), "steps": 10, "seeds": 2, "limit": 2,
    })  # fmt: skip
    code, out, err = run(capsys, "analyze", *SICK)
    assert code == 1
    assert "Remedies, tried on this data" in out
    assert "original" in out
    assert "the original net" in err  # progress, a line a stage where stderr is no terminal


def test_a_healthy_net_of_weights_that_are_too_small_hears_of_better_ones(capsys, monkeypatch):
    defaults = {**_remedy_defaults(), "steps": 2, "seeds": 2}
    monkeypatch.setattr("gradcore.analysis.remedies.find_remedies.__kwdefaults__", defaults)
    small = ("--data", "digits", "--widths", "64,16x30,10", "--init", "glorot_normal", "--optimizer", "adam")
    code, out, _ = run(capsys, "analyze", *small)
    assert code == 0 and "critical initialization" in out
    assert "Remedies" not in run(capsys, "analyze", *HEALTHY)[1]


def _remedy_defaults():
    from gradcore.analysis.remedies import find_remedies

    return find_remedies.__kwdefaults__


def test_json_on_stdout_is_nothing_but_json(capsys):
    code, out, _ = run(capsys, "analyze", *SICK, "--no-remedies", "--json", "-")
    record = json.loads(out)
    assert (code, record["verdict"], len(record["layers"])) == (1, "vanishing", 21)


def test_files_are_written(capsys, tmp_path):
    page, record = tmp_path / "r.html", tmp_path / "r.json"
    code, _, err = run(capsys, "analyze", *HEALTHY, "--no-remedies", "--html", str(page), "--json", str(record))
    assert code == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(record.read_text(encoding="utf-8"))["verdict"] == "healthy"
    assert err.count("wrote ") == 2


def test_a_file_that_cannot_be_completed_is_left_as_it_was(capsys, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    for option, command in (("--json", ["analyze", *HEALTHY, "--no-remedies"]), ("--csv", ["sweep", "--depth", "2"])):
        path = tmp_path / "there"
        path.write_text("as it was")
        code, _, err = run(capsys, *command, option, str(path))
        assert code == 2 and "No space left on device" in err
        assert path.read_text() == "as it was" and [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_own_table(capsys, csv):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f};{b:.3f};{'yes' if a * b > 0 else 'no'}" for a, b in rng.normal(size=(200, 2))]
    path = csv("first;second;both\n" + "\n".join(rows))
    arguments = ["analyze", "--data", path, "--widths", "2,16x3,2", "--no-remedies", "--standardize"]
    code, out, _ = run(capsys, *arguments, "--optimizer", "adam", "--lr", "1e-3")
    assert code == 0
    assert "200 rows, 2 features, line 1 read as header; target 'both'" in out
    assert "2 classes (no, yes), so a classification with cross_entropy" in out
    assert "judged for Adam(lr=0.001" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --data, --widths"),
        (["--data", "digits", "--widths", "64,x,10"], "expected widths such as 64,100x30,10, got '64,x,10'"),
        (["--data", "digits", "--widths", "64"], "at least an input and an output width"),
        (["--data", "digits", "--widths", "64,9x999999999,10"], "expected at most 100000 layers"),
        (["--data", "digits", "--widths", "64,0x3,10"], "expected widths such as"),
        (["--data", "digits", "--widths", "60,10"], "digits has 64 features and its target needs 10 outputs"),
        (["--data", "digits", "--widths", "64,5,10", "--target", "x"], "--target names a column of a CSV"),
        (["--data", "digits", "--widths", "64,5,10", "--activation", "rely"], "invalid choice: 'rely'"),
        (["--data", "digits", "--widths", "64,5,10", "--batches", "0"], "at least 1, got '0'"),
        (["--data", "digits", "--widths", "64,5,10", "--seed", "-1"], "seed"),
        (["--data", "digits", "--widths", "64,5,10", "--lr", "nan"], "--lr: expected a finite number >= 0, got 'nan'"),
        (["--data", "no.csv", "--widths", "64,5,10", "--lr", "x"], "--lr: expected a finite number >= 0, got 'x'"),
        (["--data", "no.csv", "--widths", "64,5,10", "--lr=-1"], "--lr: expected a finite number >= 0, got '-1'"),
        (["--data", "digits", "--widths", "64,5,10", "--html", "/no/such/place/r.html"], "--html: cannot write"),
        (["--data", "digits", "--widths", "64,5,10", "--json", "."], "--json: cannot write"),
        (["--data", "no.csv", "--widths", "64,5,10"], "no.csv: no such file"),
        (["--data", "table.xls", "--widths", "64,5,10"], "expected 'digits', a .csv"),
    ],
)
def test_every_error_is_one_line_and_code_2(capsys, arguments, message):
    code, out, err = run(capsys, "analyze", *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gradcore: [^\n]+\n", err)
    assert message in err


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [("weight-var", "0", "> 0"), ("weight-var", "1e400", "> 0"), ("bias-var", "x", ">= 0"), ("bias-var", "-1", ">= 0")],
)
def test_a_variance_that_is_none_is_told_by_the_name_of_its_option(capsys, option, value, bound):
    code, _, err = run(capsys, "predict", "--widths", "64,10x3,10", f"--{option}={value}")
    assert code == 2
    assert err.startswith(f"gradcore: argument --{option}: expected a finite number {bound}, got '{value}'")


# ---- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n", "at least 2 rows, got 0"),
        ("a,b,c\n1,2,3\n1,2\n", "line 3: expected 3 columns as in line 1, got 2"),
        ("a,b\n1,2\n,3\n", "line 3, 'a': missing value"),
        ("a,b\n1,2\nNA,3\n", "line 3, 'a': missing value"),
        ("a,b\n1,2\n2,\n", "line 3, 'b': missing value"),
        ("a,city,b\n1,Rome,0\n2,Bern,1\n", "line 2, 'city': expected a number, got 'Rome'"),
        ("a,b\n1,2\ninf,3\n", "line 3, 'a': expected a finite float32, got inf"),
        ("a,b\n1,2\n1e60,3\n", "line 3, 'a': expected a finite float32, got 1e60"),
        ("a,b\n1,2\n3,maybe\n", "line 3, 'b': expected a number as in the rows above, got 'maybe'"),
        ("a\n1\n2\n", "expected features and a target, got one column"),
        (",a\n0,1\n1,2\n", "expected features and a target, got one column"),
        ("1,7\n2,7\n", "at least 2 classes in the target, got only '7'"),
        ('a,b\n1,"2\n', "line 2: unexpected end of data"),
        ("1,2,0\n1_0,2,1\n", "line 2, 'column 0': expected a number, got '1_0'"),
    ],
)
def test_bad_tables_name_the_line(csv, text, message):
    path = csv(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        tables.load(path)
    assert str(error.value).startswith(path)


def test_a_pipe_is_read_as_a_table(tmp_path):
    """Nothing can go back in it."""
    os.mkfifo(pipe := tmp_path / "pipe.csv")
    text, arguments = "a,b,y\n" + "1,2,no\n3,5,yes\n" * 20, ["--widths", "2,8,8,2", "--no-remedies"]
    command = [sys.executable, "-m", "gradcore", "analyze", "--data"]
    given = {"capture_output": True, "text": True, "cwd": tmp_path}
    found = subprocess.run([*command, "-", "--target", "y", *arguments], input=text, **given)
    assert found.returncode in (0, 1) and found.stdout.startswith("standard input: 40 rows, 2 features"), found.stderr
    bad = subprocess.run([*command, "-", *arguments], input="a,b\n1,\n", **given)
    assert (bad.returncode, bad.stderr) == (
        2,
        "gradcore: standard input line 2, 'b': missing value; fill it in or drop the row first\n",
    )
    with subprocess.Popen(
        [*command, str(pipe), *arguments], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        pipe.write_text(text)
        assert process.communicate()[0].startswith(f"{pipe}: 40 rows, 2 features")


def test_a_file_that_is_named_as_messages_call_standard_input(tmp_path, monkeypatch):
    """It was not read; standard input was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "standard input").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match=r"^--data: expected 'digits', a \.csv.*, got 'standard input'$"):
        tables.load("standard input")
    with pytest.raises(ValueError, match=r"^--data: - is standard input, which is closed$"):
        tables.load("-")


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(ValueError, match="expected UTF-8 text, found byte 0xff"):
        tables.load(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("text", "rows", "header"),
    [
        ("a,b\n1,0\n2,1\n", 2, True),
        ("1,0\n2,1\n3,0\n", 3, False),
        ("1,x\n2,y\n", 2, False),  # text in the target of every row is no header
        ("size\tkind\n1\tx\n2\ty\n", 2, True),
        ("\ufeffa;b\n\n1;0\n\n2;1\n", 2, True),
        ('"high, cm";"heavy, kg"\n1;0\n2;1\n', 2, True),  # what is in quotes separates nothing
    ],
)
def test_headers_and_delimiters(csv, text, rows, header):
    table = tables.load(csv(text))
    assert table.x.shape == (rows, 1)
    assert ("read as header" in table.notes[0]) == header


@pytest.mark.parametrize(
    ("text", "target", "features"),
    [
        (",a,b\n0,5,0\n1,3,1\n2,9,0\n", None, [5, 3, 9]),  # pandas' to_csv, which writes the index unless told not to
        ('"","a","b"\n"1",5,0\n"2",3,1\n"3",9,0\n', None, [5, 3, 9]),  # R's write.csv
        (",b\n0,0\n2,1\n1,0\n", None, [0, 2, 1]),  # does not count
        ("id,b\n0,0\n1,1\n2,0\n", None, [0, 1, 2]),  # has a name
        (",a\n0,5\n1,3\n2,9\n", "0", [5, 3, 9]),  # asked for
    ],
)
def test_a_column_that_counts_the_rows_is_no_feature(csv, text, target, features):
    table = tables.load(csv(text), target=target)
    np.testing.assert_array_equal(table.x[:, 0], features)
    assert table.x.shape == (3, 1)
    assert ("without the column that counts the rows" in table.notes[0]) == (features[0] == 5 and target is None)


@pytest.mark.parametrize(
    ("target", "values"), [(None, [0, 1]), ("b", [3, 4]), ("0", [1, 2]), ("-2", [3, 4]), ("1", [3, 4])]
)
def test_target_column(csv, target, values):
    table = tables.load(csv("a,b,c\n1,3,0\n2,4,1\n"), target=target, loss="mse")
    np.testing.assert_array_equal(table.target, np.array(values, np.float32)[:, None])
    assert table.x.shape == (2, 2)


@pytest.mark.parametrize(
    ("target", "message"),
    [("d", "no column 'd' for --target; columns: a, b"), ("7", "--target 7 is outside the 2 columns")],
)
def test_unknown_target_column(csv, target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tables.load(csv("a,b\n1,0\n2,1\n"), target=target)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (["x", "y", "z"], {}, ("cross_entropy", 3)),
        (["x", "y", "z"], {"outputs": 1}, ("cross_entropy", 3)),  # --widths is then told to end in 3
        ([3, 1, 3], {}, ("cross_entropy", 2)),
        ([3, 1, 3], {"outputs": 1}, ("binary_cross_entropy", 1)),
        ([1, 2, 3], {"outputs": 1}, ("mse", 1)),
        ([1, 2, 3], {"loss": "huber"}, ("huber", 1)),
        ([0.5, 1.5, 2.5], {}, ("mse", 1)),
        (list(range(30)), {}, ("mse", 1)),
        (list(range(30)), {"loss": "cross_entropy"}, ("cross_entropy", 30)),
    ],
)
def test_what_the_target_means(values, options, expected):
    arguments = {"loss": None, "outputs": None, **options}
    y, loss, outputs, classes, _ = tables.interpret_target("t", np.array(values), **arguments)
    assert (loss, outputs) == expected
    assert y.dtype == (np.int64 if loss == "cross_entropy" else np.float32)
    assert bool(classes) == ("entropy" in loss)


@pytest.mark.parametrize(
    ("values", "loss", "message"),
    [
        (["x", "y"], "mse", "the target is text ('x')"),
        ([0.5, 1.0], "cross_entropy", "needs class labels"),
        ([0, 1, 2], "binary_cross_entropy", "needs 2 classes, the target has 3"),
    ],
)
def test_losses_that_do_not_fit_the_target(values, loss, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tables.interpret_target("t", np.array(values), loss, None)


def test_labels_keep_their_names():
    y, _, _, classes, note = tables.interpret_target("t", np.array([30, 10, 20, 10]), None, None)
    np.testing.assert_array_equal(y, [2, 0, 1, 0])
    assert classes == ("10", "20", "30")
    assert "3 classes (10, 20, 30)" in note


def test_one_hot_rows_are_classes_and_probabilities_are_those_of_the_loss():
    hot, soft = np.eye(3)[[0, 2, 0]], np.array([[0.5, 0.25, 0.25]] * 3)
    y, loss, outputs, classes, note = tables.interpret_target("t", hot, None, 3)
    assert (y.tolist(), loss, outputs, classes) == ([0, 2, 0], "cross_entropy", 3, ("0", "1", "2"))
    assert note == "target: one-hot rows of 3 classes, so a classification with cross_entropy"
    for values, given, expected in ((hot, "mse", "mse"), (soft, None, "mse"), (soft, "cross_entropy", "cross_entropy")):
        y, loss, outputs, _, note = tables.interpret_target("t", values, given, 3)
        assert (y.shape, y.dtype, loss, outputs) == ((3, 3), np.float32, expected, 3)
    assert note == "target: probabilities of 3 classes, for cross_entropy"


def test_npz(tmp_path):
    path = str(tmp_path / "t.npz")
    np.savez(path, X=np.ones((4, 3)), target=np.arange(8.0).reshape(4, 2))
    table = tables.load(path)
    assert (table.x.shape, table.target.shape, table.loss, table.outputs) == ((4, 3), (4, 2), "mse", 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(3)}, "expected an array named 'x' or 'X', found a"),
        ({"x": np.ones(3), "y": np.ones(3)}, "expected numbers [rows, features]"),
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, "y: expected [3] or [3, outputs], got [4]"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.ones(2)}, "x[1, 0] is nan"),
        ({"x": np.ones((2, 1)), "y": np.array([0.5, np.inf])}, "y[1] is inf"),
        ({"x": np.full((2, 1), 1e300), "y": np.array([0.5, 1])}, "x[0, 0] is 1e+300"),
        ({"x": np.array([[1], [2]], object), "y": np.ones(2)}, "x holds Python objects; save numbers or text"),
        ({"x": np.ones((2, 1)), "y": np.array(["a", "b"], object)}, "y holds Python objects"),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    path = str(tmp_path / "t.npz")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        tables.load(path)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "longdouble", ">f4"])
def test_npz_of_any_float(tmp_path, dtype):
    """The limit of float32 overflowed in float16, with a warning."""
    x = np.array([[0.5], [-2.0]], dtype)
    np.savez(tmp_path / "t.npz", x=x, y=x[:, 0])
    table = tables.load(str(tmp_path / "t.npz"))
    np.testing.assert_array_equal(table.x, x)
    assert table.x.dtype == table.target.dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x93NUMPY\x01\x00", b"\x80\x04 like a pickle"])
def test_damaged_npz(content, tmp_path):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable \.npz") as error:
        tables.load(str(tmp_path / "t.npz"))
    assert "pickle" not in str(error.value)  # NumPy's own message tells how to load one


def test_standardized():
    x = np.array([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1], [2.0, 5.0, 0.1]], np.float32)
    table = tables.Table("t", x, np.zeros((3, 1), np.float32), "mse", 1, (), ())
    column, zeros = np.array([-1.0, 1.0, 0.0]) * math.sqrt(1.5), np.zeros((3, 2))
    np.testing.assert_allclose(table.standardized().x[:, 0], column, rtol=1e-6)
    np.testing.assert_array_equal(
        table.standardized().x[:, 1:], zeros
    )  # constant: exactly, whatever its mean rounds to


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradcore\[demo\]'"):
        tables.load("digits")


# ---- demo, info, the program -------------------------------------------------------------------------------


def test_demo_cures_the_net(capsys, tmp_path):
    page = tmp_path / "demo.html"
    code, out, err = run(capsys, "demo", "--quick", "--html", str(page))
    assert code == 0
    for part in ("VANISHING GRADIENTS", "original", "Summary", "Next steps"):
        assert part in out
    sick, cured = (float(value) for value in re.findall(r"(\d+\.\d)%  (?:vanishing|healthy)\n", out)[-2:])
    assert sick < 20.0
    assert cured > 95.0
    assert "the original net" in err
    assert page.stat().st_size > 20_000


def test_info(capsys, num_threads):
    num_threads(3)
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert f"gradcore  {gc.__version__} (ABI" in out
    assert "threads   3, from set_num_threads" in out
    _, out, _ = run(capsys, "info", "--json")
    record = json.loads(out)
    assert record["target"] in record["supported"]
    assert record["numpy"] == np.__version__


def test_info_tells_whether_the_environment_chose_the_target(run_python):
    code = "import sys; from gradcore import cli; sys.exit(cli.main(['info']))"
    for name, said in (
        (gc.cpu_info()["supported"][0], " (GRADCORE_TARGET); supported: "),
        ("bogus", "; GRADCORE_TARGET=bogus is ignored: this CPU supports no such target"),
    ):
        (line,) = re.findall("^target .*$", run_python(code, GRADCORE_TARGET=name), re.M)
        assert said in line and line.count("GRADCORE_TARGET") == 1
    assert "GRADCORE_TARGET" not in run_python(code, GRADCORE_TARGET="")


@pytest.mark.parametrize(
    ("own", "omp", "ignored"),
    [
        ("2.5", "3", ["GRADCORE_NUM_THREADS=2.5"]),
        ("two", "-1", ["GRADCORE_NUM_THREADS=two", "OMP_NUM_THREADS=-1"]),
        ("3", "x", []),  # the second is not asked for
        ("", "", []),
    ],
)
def test_info_tells_which_numbers_of_threads_it_ignores(own, omp, ignored, run_python):
    code = "import sys; from gradcore import cli; sys.exit(cli.main(['info']))"
    (line,) = re.findall("^threads .*$", run_python(code, GRADCORE_NUM_THREADS=own, OMP_NUM_THREADS=omp), re.M)
    assert re.findall(r"; (\S+) is ignored: it is not a positive whole number", line) == ignored


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"gradcore {gc.__version__}\n", "")
    code, out, _ = run(capsys, "analyze", "--help")
    assert code == 0
    assert "exit code: 0 the gradients are healthy, 1 they are not, 2 an error" in out


def test_as_a_module_with_the_reader_gone(tmp_path):
    """`python -m gradcore analyze ... | head -1` ends without a traceback."""
    command = [sys.executable, "-m", "gradcore", "analyze", *HEALTHY, "--no-remedies"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in error
    assert "Error" not in error
