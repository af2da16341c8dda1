"""The code as text: versions that agree, documentation that is there, sizes within the project's limits."""

import ast
import dataclasses
import importlib.metadata
import inspect
import operator
import re
from pathlib import Path

import pytest

import c_header
import gradcore as gc

ROOT = Path(__file__).resolve().parent.parent
CPP = sorted(path for pattern in ("*.cpp", "*.hpp", "*.h") for path in (ROOT / "csrc").rglob(pattern))
PYTHON = sorted(path for folder in ("gradcore", "tests", "bench", "examples") for path in (ROOT / folder).rglob("*.py"))
ALL_SOURCES = CPP + PYTHON

needs_checkout = pytest.mark.skipif(not CPP, reason="the sources are not beside the tests")


def relative(path):
    return str(path.relative_to(ROOT))


# ---- sizes and leftovers -------------------------------------------------------------------------------


def python_functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def cpp_functions(path):
    """Blocks that begin with a line ending in ') ... {' and end with a brace in the same column."""
    opened = {}
    for number, line in enumerate(path.read_text().splitlines()):
        indent = len(line) - len(line.lstrip())
        if re.search(r"\)[\w\s&:>-]*\{$", line) and not re.match(r"\s*(if|for|while|switch|\}|return)\b", line):
            opened[indent] = number
        elif line.lstrip().startswith("}"):
            if indent in opened:
                yield f"line {opened[indent] + 1}", number - opened[indent] + 1
            opened = {column: begin for column, begin in opened.items() if column < indent}


@needs_checkout
@pytest.mark.parametrize(
    ("paths", "functions"), [(PYTHON, python_functions), (CPP, cpp_functions)], ids=["python", "cpp"]
)
def test_functions_are_short(paths, functions):
    lengths = [(length, relative(path), name) for path in paths for name, length in functions(path)]
    assert max(lengths)[0] <= 100, max(lengths)
    assert sorted(lengths)[len(lengths) // 2][0] <= 25, "the median function is too long"


@needs_checkout
def test_files_are_short():
    longest = max((len(path.read_text().splitlines()), relative(path)) for path in ALL_SOURCES)
    assert longest[0] <= 500, longest


@needs_checkout
def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    found = [relative(path) for path in ALL_SOURCES if marks.search(path.read_text())]
    assert found == []


# ---- versions and names ----------------------------------------------------------------------------------


def test_one_version():
    assert gc.__version__ == importlib.metadata.version("gradcore") == gc._core.version()


def public_names():
    modules = [gc, gc.ops, gc.optim, gc.init, gc.analysis]
    for module in modules:
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            value = getattr(module, name)
            if callable(value) and getattr(value, "__module__", "").startswith("gradcore"):
                yield f"{module.__name__}.{name}", value


def test_every_public_name_is_documented():
    names = dict(public_names())
    assert len(names) > 20
    bare = [name for name, value in names.items() if not inspect.getdoc(value)]
    for name, value in names.items():
        if inspect.isclass(value):
            members = inspect.getmembers(
                value, lambda member: inspect.isfunction(member) or isinstance(member, property)
            )
            bare += [
                f"{name}.{member}"
                for member, function in members
                if not member.startswith("_") and not inspect.getdoc(function)
            ]
    assert bare == []


def test_the_overview_lists_every_name():
    assert [name for name in gc.__all__ if not re.search(rf"\b{name}\b", gc.__doc__)] == []


def test_every_field_of_a_record_is_documented():
    """LayerRecord names only the fields that are not GradientFlow's."""
    records = {name: value for name, value in public_names() if dataclasses.is_dataclass(value)}
    assert len(records) >= 15
    bare = []
    for name, record in records.items():
        known = " ".join(base.__doc__ or "" for base in (*record.__mro__, *[gc.GradientFlow] * ("Layer" in name)))
        fields = [field.name for field in dataclasses.fields(record) if not field.name.startswith("_")]
        bare += [f"{name}.{field}" for field in fields if not re.search(rf"\b{field}\b", known)]
    assert bare == []


# What others build on. A later version may take more, by further arguments that have defaults.
CONTRACT = """
MLP(widths, *, activation="relu", normalization=None, residual=False, init="auto", bias=True, dtype="float32", seed=0)
MLP.__call__(self, x)
MLP.forward(self, x, training=False)
MLP.backward(self, grad_output)
MLP.loss_and_gradients(self, x, target, loss="cross_entropy", record=False)
MLP.train_step(self, x, target, optimizer, loss="cross_entropy", clip_norm=None, clip_value=None, record=False)
MLP.fit(self, X, target, *, epochs, batch_size, optimizer, loss="cross_entropy", clip_norm=None, validation=None, \
    callbacks=(), progress=True, shuffle=True, seed=0)
MLP.save(self, path)
load(path)
Step(loss, total_norm)
optim.SGD(net, lr, momentum=0, nesterov=False, weight_decay=0)
optim.RMSprop(net, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0)
optim.Adam(net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
optim.AdamW(net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
optim.Optimizer.step(self, clip_norm=None, clip_value=None)
clip_grad_norm_(grads, max_norm, norm_type=2.0, error_if_nonfinite=False)
clip_grad_value_(grads, clip_value)
clip_grad_adaptive_(net, clipping=0.01, eps=1e-3)
init.lsuv(net, x)
activations()
initializers()
set_num_threads(num_threads)
get_num_threads()
cpu_info()
analyze(net, x, target, *, loss="cross_entropy", optimizer=None, batch_size=128, batches=8, seed=0)
analysis.Report.remedies(self, verify=True)
analysis.Remedy.apply(self)
analysis.Report.to_dict(self)
analysis.Report.to_json(self)
analysis.Report.to_dataframe(self)
analysis.Report.plot(self)
analysis.Report.save_html(self, path)
get_include()
get_library_dir()
get_cmake_dir()
get_pkgconfig_dir()
"""


@pytest.mark.parametrize("line", CONTRACT.replace("\\\n", "").split("\n")[1:-1])
def test_the_contract_is_kept(line):
    name, _, arguments = line.partition("(")
    expected = inspect.signature(eval(f"lambda {arguments[:-1]}: None")).parameters
    given = inspect.signature(operator.attrgetter(name)(gc)).parameters
    given = {key: value.replace(annotation=inspect.Parameter.empty) for key, value in given.items()}
    by_position = [key for key, value in expected.items() if value.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert list(given)[: len(by_position)] == by_position
    assert {key: given.get(key) for key in expected} == dict(expected)
    further = [value for key, value in given.items() if key not in expected]
    assert all(value.default is not value.empty or value.kind is value.VAR_KEYWORD for value in further)


def test_the_names_of_the_contract_are_kept():
    assert set(gc.activations()) >= set(
        """identity relu leaky_relu elu selu gelu gelu_tanh silu mish softplus tanh hard_tanh sigmoid""".split()
    )
    assert set(gc.initializers()) >= set(
        """auto glorot_uniform glorot_normal he_uniform he_normal lecun_uniform lecun_normal orthogonal""".split()
    )
    report = gc.analysis.report
    assert report.VERDICTS == ("healthy", "vanishing", "exploding", "non_finite")
    assert report.SEVERITIES == ("info", "warning", "critical")
    assert set(report.KINDS) >= set(
        """vanishing exploding non_finite dead_units saturation zero_gradient loss_output_mismatch unscaled_input
        update_ratio underflow""".split()
    )
    assert set(report.CAUSES) >= set(
        """weight_scale saturating_activation activation_slope depth batch_norm narrow_layer input_scale target_scale
        overflow dead_units loss_output learning_rate precision""".split()
    )


@needs_checkout
def test_every_c_function_is_called_wrongly():
    """And by a C program; what must come of it is in tests/cpp/test_c_api.c."""
    program = (ROOT / "tests" / "cpp" / "test_c_api.c").read_text()
    functions = c_header.read().functions
    assert len(functions) > 60
    assert [name for name in functions if not re.search(rf"\b{name}\(", program)] == []


# ---- import ---------------------------------------------------------------------------------------------------


def test_import_starts_no_thread(run_python):
    code = "import os, gradcore; print(len(os.listdir('/proc/self/task')))"
    numpy_alone = run_python("import os, numpy; print(len(os.listdir('/proc/self/task')))", OPENBLAS_NUM_THREADS="1")
    assert run_python(code, OPENBLAS_NUM_THREADS="1") == numpy_alone == "1"


def test_import_brings_nothing_but_numpy(run_python):
    heavy = ["torch", "scipy", "sklearn", "matplotlib", "pandas", "rich"]
    assert run_python(f"import sys, gradcore; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_import_leaves_what_few_need_for_later(run_python):
    """The analysis, its pages and trainings are loaded when they are first used."""
    late = ["gradcore.analysis", "gradcore.show", "gradcore.sweeps", "gradcore.cli", "gradcore.training"]
    late += ["concurrent.futures", "multiprocessing", "html", "csv"]
    assert run_python(f"import sys, gradcore; print([m for m in {late} if m in sys.modules])") == "[]"
    assert run_python("import sys, gradcore; gradcore.analyze; print('gradcore.analysis' in sys.modules)") == "True"


# ---- the README -------------------------------------------------------------------------------------------------


@needs_checkout
def test_readme_begins_with_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", readme, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]
    assert lines[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' && .venv/bin/gradcore demo",
        "python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/python -m pytest -q",
    ]
