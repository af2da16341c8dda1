"""The native module itself: its stub says what it exports, and objects without __init__ are refused."""

import ast
import re
import shutil
import subprocess
import sys
from importlib import resources

import pytest

from gradcore import _core

SCALARS = {"int": "SupportsInt", "float": "SupportsFloat", "bool": "bool", "str": "str"}  # stub: pybind11's signature
STUB = ast.parse(resources.files("gradcore").joinpath("_core.pyi").read_text(encoding="utf-8"))


def public(names):
    return {name for name in names if not name.startswith("_")}


def stub_members(body):
    """name -> its node: functions, classes and annotated names; of a property its getter."""
    members = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return members | {node.target.id: node for node in body if isinstance(node, ast.AnnAssign)}


def is_property(node):
    return isinstance(node, ast.AnnAssign) or any(ast.unparse(d) == "property" for d in node.decorator_list)


def split_at_commas(text):
    """At those outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def native_signature(function):
    """([type of each argument but self], type of the result), as pybind11 writes them into the docstring."""
    arguments, result = re.match(r"\w+\((.*)\) -> (.*)", function.__doc__).groups()
    arguments = [argument for argument in split_at_commas(arguments) if not argument.startswith("self:")]
    return [argument.partition(": ")[2] for argument in arguments], result


def assert_same_signature(node, function, name):
    native, result = native_signature(function)
    stub = [argument for argument in (*node.args.posonlyargs, *node.args.args) if argument.arg != "self"]
    assert len(stub) == len(native), f"{name}: {native}"
    for argument, native_type in zip(stub, native, strict=True):
        annotation = ast.unparse(argument.annotation)
        assert SCALARS.get(annotation, "") in native_type, f"{name}({argument.arg})"
    returned = ast.unparse(node.returns)
    if returned in (*SCALARS, "None"):
        assert result == ("None" if node.name == "__init__" else returned), name


STUB_NAMES = stub_members(STUB.body)
STUB_CLASSES = {name: node for name, node in STUB_NAMES.items() if isinstance(node, ast.ClassDef)}
CLASSES = [getattr(_core, name) for name in STUB_CLASSES if not issubclass(getattr(_core, name), Exception)]


def test_stub_names_what_the_module_exports():
    assert public(STUB_NAMES) == public(vars(_core))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_stub_of_class(cls):
    stub = stub_members(STUB_CLASSES[cls.__name__].body)
    assert public(stub) == public(vars(cls))
    for name, node in stub.items():
        native = getattr(cls, name)
        assert is_property(node) == isinstance(native, property), name
        if not is_property(node):
            assert_same_signature(node, native, f"{cls.__name__}.{name}")


def test_stub_of_functions():
    functions = {name: node for name, node in STUB_NAMES.items() if isinstance(node, ast.FunctionDef)}
    assert len(functions) > 20
    for name, node in functions.items():
        assert_same_signature(node, getattr(_core, name), name)


# ---- objects without __init__ ---------------------------------------------------------------------------

ARGUMENTS = {"bool": "False", "int": "0", "float": "0.0"}

USES = """
from gradcore import _core
import gradcore as gc

net = gc.MLP([3, 4, 2])._core
refused = 0
for use in {uses}:
    try:
        eval(use)
    except TypeError as error:
        refused += "__init__ was never called" in str(error)
print(refused)
"""


def uses_of_empty_objects():
    """Every member of every class, on an object that __new__ alone has made."""
    for cls in CLASSES:
        empty = f"_core.{cls.__name__}.__new__(_core.{cls.__name__})"
        for name, node in stub_members(STUB_CLASSES[cls.__name__].body).items():
            if is_property(node):
                yield f"{empty}.{name}"
            elif name != "__init__" and not node.decorator_list:  # static methods have no object
                types = [ast.unparse(a.annotation) for a in node.args.posonlyargs if a.arg != "self"]
                yield f"{empty}.{name}({', '.join(ARGUMENTS.get(t, 'None') for t in types)})"
    empty = "_core.Optimizer.__new__(_core.Optimizer)"
    yield f"setattr({empty}, 'step_count', 1)"
    yield f"net.train_step(None, None, 0, {empty}, 0.0, 0.0, False)"


def test_objects_without_init_are_refused(run_python):
    """No use of one may end the process: pybind11 would hand out uninitialized memory."""
    uses = list(uses_of_empty_objects())
    assert len(uses) > 40
    assert run_python(USES.format(uses=uses)) == str(len(uses))


def test_the_source_folder_alone_says_what_it_is(tmp_path):
    """Python started where the source lies finds it first, and it has no native module."""
    source = tmp_path / "gradcore"
    shutil.copytree(
        resources.files("gradcore"), source, ignore=shutil.ignore_patterns("_core*.so", "lib", "__pycache__")
    )
    run = subprocess.run([sys.executable, "-c", "import gradcore"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"ImportError: {source} is gradcore's source, without the native module" in run.stderr


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:  # before Python 3.13
    import _xxsubinterpreters as interpreters
interpreters.run_string(interpreters.create(), '''
try:
    import gradcore
except ImportError as error:
    print(error, flush=True)
''')
"""


def test_a_subinterpreter_is_refused(run_python):
    """Before Python 3.12, loading the module there would never end."""
    assert "subinterpreter" in run_python(SUBINTERPRETER)
