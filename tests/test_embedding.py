"""gradcore in other programs: C, C++ and Cython against the installed library, found in every way that is offered."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import abi
import c_header
import gradcore as gc
import native
from gradcore import cli

PACKAGE = Path(gc.__file__).parent
PEDANTIC = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only")


# ---- the header, and its mirrors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standard", "headers"),
    [("c11", ["gradcore.h"]), ("c++20", ["gradcore.h", "ops.hpp", "diagnosis.hpp", "gradcore.hpp"])],
)
def test_headers_compile_without_a_warning(compilers, standard, headers, tmp_path):
    """Here in the newest standard; the programs below are C11 and C++17."""
    in_c = not standard.startswith("c++")
    source = tmp_path / ("headers.c" if in_c else "headers.cpp")
    includes = "".join(f"#include <gradcore/{header}>\n" for header in headers)
    more = (
        "" if in_c else "#include <span>\nstd::span<float> f(gradcore::Net<float> &n) { return n.flat_parameters(); }\n"
    )
    source.write_text(f"{includes}{more}int main(void) {{ return GRADCORE_OK; }}\n")
    casts = [] if in_c else ["-Wold-style-cast"]
    native.run(compilers[not in_c], f"-std={standard}", *PEDANTIC, *casts, *native.cflags(), source)


@pytest.mark.parametrize(
    "call", ["clip_grad_norm(values, 1.0)", "ops::array_stats(values)", "Net<int>(gradcore::NetConfig{{2, 1}})"]
)
def test_only_elements_of_float_and_double_compile(compilers, call, tmp_path):
    """Others would be taken for double, and memory beyond them written."""
    source = tmp_path / "elements.cpp"
    source.write_text(f"#include <gradcore/ops.hpp>\nvoid f(gradcore::Span<int> values) {{ gradcore::{call}; }}\n")
    with pytest.raises(AssertionError, match="expected elements of float or double"):
        native.run(compilers[1], "-std=c++17", "-fsyntax-only", *native.cflags(), source)


def test_cython_declarations_are_the_header():
    """After a change of the header: python tests/c_header.py > gradcore/gradcore.pxd."""
    installed = c_header.read(native.include_dir() / "gradcore" / "gradcore.h")
    assert (PACKAGE / "gradcore.pxd").read_text() == c_header.cython(installed)


def test_cpp_enumerations_are_the_headers():
    text = (native.include_dir() / "gradcore" / "gradcore.hpp").read_text()
    enums = c_header.read(native.include_dir() / "gradcore" / "gradcore.h").enums
    for name in ("gradcore_activation", "gradcore_normalization", "gradcore_loss"):
        values = [value for value in enums[name] if "_NUM_" not in value]
        listed = re.findall(rf"(\w+) = ({'|'.join(values)})\b", text)
        assert [value for _, value in listed] == values
        assert all(value.lower().endswith(label) for label, value in listed)


def test_cpp_leaves_no_function_out():
    """But names of constants and targets, which C++ takes from C as they are."""
    folder = native.include_dir() / "gradcore"
    text = "".join((folder / f"{name}.hpp").read_text() for name in ("gradcore", "diagnosis", "ops"))
    functions = c_header.read(folder / "gradcore.h").functions
    unused = {name for name in functions if not re.search(rf"\b{name}\b", text)}
    assert unused == {
        "gradcore_abi_version", "gradcore_activation_name", "gradcore_loss_name",
        "gradcore_critical_gain_squared", "gradcore_initializer_name", "gradcore_net_initialize_words",
        "gradcore_net_init", "gradcore_net_seed", "gradcore_net_set_origin",
        "gradcore_num_targets", "gradcore_target_name", "gradcore_target_supported",
    }  # fmt: skip


# ---- the binary interface ------------------------------------------------------------------------------------


def test_programs_of_the_last_release_still_run():
    recorded = abi.RECORDED.read_text().splitlines()
    assert abi.broken(recorded, abi.lines()) == []
    assert recorded[0] == f"version {gc.__version__}", "at a release: python tests/abi.py --record"


@pytest.mark.parametrize(
    ("line", "instead", "holds"),
    [
        ("function int32_t gradcore_f(int32_t a)", None, False),
        ("function int32_t gradcore_f(int32_t a)", "function int32_t gradcore_f(int64_t a)", False),
        ("member gradcore_grows.size 0 8 size_t size", "member gradcore_grows.size 0 4 int32_t size", False),
        ("member gradcore_fixed.a 0 8 double a", "member gradcore_fixed.a 0 8 int64_t a", False),
        ("struct gradcore_grows 16", "struct gradcore_grows 24", True),
        ("struct gradcore_grows 16", "struct gradcore_grows 8", False),
        ("struct gradcore_fixed 8", "struct gradcore_fixed 16", False),
        ("value GRADCORE_NUM_THINGS 3", "value GRADCORE_NUM_THINGS 4", True),
        ("value GRADCORE_NUM_THINGS 3", "value GRADCORE_NUM_THINGS 2", False),
        ("value GRADCORE_THING 2", "value GRADCORE_THING 3", False),
        ("value GRADCORE_ABI_VERSION 1", "value GRADCORE_ABI_VERSION 2", True),
    ],
)
def test_what_counts_as_broken(line, instead, holds):
    recorded = [
        "version 1", "function int32_t gradcore_f(int32_t a)", "struct gradcore_grows 16",
        "member gradcore_grows.size 0 8 size_t size", "struct gradcore_fixed 8", "member gradcore_fixed.a 0 8 double a",
        "value GRADCORE_NUM_THINGS 3", "value GRADCORE_THING 2", "value GRADCORE_ABI_VERSION 1",
    ]  # fmt: skip
    now = ["version 2", *recorded[1:], "function void gradcore_new()"]
    assert abi.broken(recorded, now) == []
    now.remove(line)
    now += [instead] * (instead is not None)
    assert abi.broken(recorded, now) == ([] if holds else [line])


@pytest.mark.skipif(native.PREFIX is None, reason="a wheel holds one plain libgradcore.so")
@pytest.mark.skipif(native.library_file().suffix == ".a", reason="a static library has no SONAME")
def test_the_soname_is_the_abi_version():
    listing = native.run(native.needs("readelf"), "-d", native.library_file())
    version = abi.number(abi.lines(), "value GRADCORE_ABI_VERSION")
    assert re.search(r"SONAME.*\[(.*)\]", listing)[1] == f"libgradcore.so.{version}"


@pytest.mark.skipif(native.library_file().suffix == ".a", reason="a static library shows its objects")
def test_the_library_exports_the_header_and_nothing_else():
    listing = native.run(native.needs("nm"), "-D", "--defined-only", native.library_file())
    exported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    assert exported == set(c_header.read(native.include_dir() / "gradcore" / "gradcore.h").functions)


@pytest.mark.skipif(native.library_file().suffix == ".a", reason="a static library is not loaded")
def test_a_host_may_load_it_at_any_time():
    """Thread-local storage of the initial-exec model takes of a small reserve, which other libraries may have used up."""
    listing = native.run(native.needs("readelf"), "-d", native.library_file())
    assert "STATIC_TLS" not in listing


UNLOADED = """
import _ctypes, ctypes, sys
for _ in range(3):
    library = ctypes.CDLL(sys.argv[1])
    library.gradcore_set_num_threads(4)
    data = (ctypes.c_float * 4_000_000)()
    assert library.gradcore_op_activation(0, 10, data, ctypes.c_int64(len(data)), data) == 0
    _ctypes.dlclose(library._handle)
print(sum("libgradcore" in line for line in open("/proc/self/maps")) > 0)
"""


@pytest.mark.skipif(native.library_file().suffix == ".a", reason="a static library is not loaded")
def test_a_host_may_unload_it(tmp_path):
    """Its threads, which are waiting for work, would return into nothing."""
    script = tmp_path / "unloaded.py"
    script.write_text(UNLOADED)
    assert native.run(sys.executable, script, native.library_file()).strip() == "True"


# ---- every function, wrongly called ----------------------------------------------------------------------------

# Arguments of which no value is wrong: flags, seeds, callbacks, and what may be NULL.
ANYTHING_GOES = {
    "gradcore_net_initialize": {"seed"},
    "gradcore_net_set_threads": {"parallel_for", "context"},
    "gradcore_net_forward": {"training"},
    "gradcore_net_forward_into": {"training"},
    "gradcore_net_backward": {"grad_input"},
    "gradcore_net_loss_and_gradients": {"record"},
    "gradcore_net_train_step": {"record"},
    "gradcore_optimizer_step": {"record"},
    "gradcore_net_save_to_memory": {"data"},
    "gradcore_clip_grad_norm": {"error_if_nonfinite"},
    "gradcore_op_dense": {"bias"},
    "gradcore_op_dense_backward": {"grad_input", "grad_weight", "grad_bias"},
    "gradcore_op_layer_norm": {"rms"},
    "gradcore_op_layer_norm_backward": {"rms"},
    "gradcore_op_loss": {"grad_output"},
    "gradcore_op_array_stats": {"histogram"},
    "gradcore_diagnosis_add": {"loss_value"},
}


def test_every_function_refuses_every_wrong_argument(compile_program):
    """The program calls them; its list is held against the header, so that a new function or argument is missed."""
    source = native.ROOT / "tests" / "cpp" / "test_c_api.c"
    listed = native.run(compile_program(source, "-pthread"), "--list")
    refused = {
        (re.search(r"gradcore_\w+", call)[0], re.match(r"\w*", text)[0])
        for call, text in re.findall(r"^(.*)\t(.*)$", listed, re.MULTILINE)
    }
    header = c_header.read(native.include_dir() / "gradcore" / "gradcore.h")
    configs = {
        f"gradcore_{kind}_create": {
            re.search(r"\w+$", member)[0] for member in header.structs[f"gradcore_{kind}_config"]
        }
        for kind in ("net", "optimizer")
    }
    for name, (result, parameters) in header.functions.items():
        names = {re.search(r"\w+$", parameter)[0] for parameter in parameters}
        if result == "gradcore_status":
            seen = {argument for function, argument in refused if function == name}
            assert names - seen == ANYTHING_GOES.get(name, set()), name
            known = names | configs.get(name, set()) | {"flow", "backward"}  # the latter: what has to come before
            assert seen <= known, f"{name}: a text that begins with no argument"
        elif names:  # NULL, or a number out of range: an answer all the same
            assert re.search(rf"\b{name}\((NULL|-1)\b", source.read_text()), name
    for function, members in configs.items():
        seen = {argument for name, argument in refused if name == function}
        assert members - seen - {"size", "num_widths"} == set(), function  # named config.size, and widths


# ---- finding it ----------------------------------------------------------------------------------------------


def test_directories_hold_what_they_say():
    assert Path(gc.get_include(), "gradcore", "gradcore.h").is_file()
    assert Path(gc.get_include(), "gradcore", "gradcore.hpp").is_file()
    assert [path.name for path in Path(gc.get_library_dir()).glob("libgradcore*")] == ["libgradcore.so"]
    assert Path(gc.get_cmake_dir(), "gradcoreConfig.cmake").is_file()
    assert Path(gc.get_pkgconfig_dir(), "gradcore.pc").is_file()


def test_the_command_line_tells_them(capsys):
    assert cli.main(["--cflags", "--libs"]) == 0
    folder = gc.get_library_dir()
    assert capsys.readouterr().out == f"-I{gc.get_include()} -L{folder} -Wl,-rpath,{folder} -lgradcore\n"
    for option, folder in (
        ("--includedir", gc.get_include()),
        ("--libdir", gc.get_library_dir()),
        ("--cmakedir", gc.get_cmake_dir()),
        ("--pkgconfigdir", gc.get_pkgconfig_dir()),
    ):
        assert cli.main([option]) == 0
        assert capsys.readouterr().out == folder + "\n"


def test_directories_with_spaces_are_quoted(monkeypatch, tmp_path):
    package = tmp_path / "a folder's"
    for name in ("include", "lib"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr("gradcore.config._PACKAGE", package)
    assert shlex.split(gc.config.cflags()) == [f"-I{package}/include"]
    assert shlex.split(gc.config.libs()) == [f"-L{package}/lib", f"-Wl,-rpath,{package}/lib", "-lgradcore"]


def test_an_incomplete_installation_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("gradcore.config._PACKAGE", tmp_path)
    with pytest.raises(FileNotFoundError, match="include: expected a directory of the installed package"):
        gc.get_include()


def test_entry_points_lead_to_the_build_files():
    def points(group):
        return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}

    assert points("cmake.root")["gradcore"] == "gradcore"
    folder = PACKAGE.parent / points("pkg_config")["gradcore"].replace(".", "/")
    assert folder == Path(gc.get_pkgconfig_dir())


def test_the_library_is_small(tmp_path):
    """Stripped, with every target. Kernels are larger with GCC 14 and newer, the whole by 7 % with GCC 16."""
    stripped = tmp_path / "libgradcore.so"
    native.run(native.needs("strip"), "-o", stripped, Path(gc.get_library_dir()) / "libgradcore.so")
    compilers = [int(major) for major in re.findall(rb"GCC: \([^)]*\) (\d+)\.", stripped.read_bytes())]
    assert stripped.stat().st_size < (1.1 if max(compilers, default=0) >= 14 else 1) * 2**20


# ---- programs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_csv(tmp_path_factory):
    data = pytest.importorskip("sklearn.datasets").load_digits()
    path = tmp_path_factory.mktemp("data") / "digits.csv"
    header = ",".join([f"pixel{i}" for i in range(64)] + ["label"])
    np.savetxt(path, np.column_stack([data.data, data.target]), "%d", ",", header=header, comments="")
    return path


def check_digits(out):
    assert float(re.search(r"held-out accuracy ([\d.]+)%", out)[1]) > 95
    layers = re.findall(r"^(\d) +(\S+) +(\S+) +(\S+) +(\d+)$", out, re.MULTILINE)
    assert [int(row[0]) for row in layers] == list(range(5))
    assert all(float(value) > 0 for row in layers for value in row[1:4])


def check_control_loop(out):
    assert re.search(r"worst tick +[\d.]+ us of a budget of \d+ us", out)
    first, last = map(float, re.search(r"tracking error +([\d.]+) rad at first, ([\d.]+) rad at last", out).groups())
    assert last < first / 3


def test_readme_program(compile_program, tmp_path):
    source = tmp_path / "program.c"
    source.write_text(re.search(r"```c\n(.*?)```", (native.ROOT / "README.md").read_text(), re.DOTALL)[1])
    loss, *outputs = map(float, re.findall(r"[\d.]+(?:e[+-]\d+)?", native.run(compile_program(source))))
    assert loss < 1e-3
    assert np.round(outputs).tolist() == [0, 1, 1, 0]


def test_c_program_trains_on_digits(compile_program, digits_csv, tmp_path):
    program = compile_program(native.EXAMPLES / "c" / "digits.c")
    check_digits(native.run(program, digits_csv))
    (tmp_path / "ragged.csv").write_text("1,2,3,0\n1,2,1\n")
    with pytest.raises(AssertionError, match="expected 4 columns as in the first row, got 3"):
        native.run(program, tmp_path / "ragged.csv")


def test_cpp_control_loop_learns(compile_program):
    """At least one step a tick, however slow the machine: time decides nothing here."""
    check_control_loop(native.run(compile_program(native.EXAMPLES / "cpp" / "control_loop.cpp"), 4000, 50))


def test_cpp_face_computes_what_python_does(compile_program, rng, tmp_path):
    x, labels = rng.normal(size=(16, 6)).astype(np.float32), rng.integers(0, 4, 16)
    net = gc.MLP([6, 9, 9, 4], activation=["tanh", "gelu"], normalization="batch", residual=True)
    for name, array in (("parameters", net.parameters.flat), ("x", x), ("labels", labels)):
        array.tofile(tmp_path / f"{name}.bin")
    assert "every check passed" in native.run(compile_program(native.ROOT / "tests" / "embed" / "face.cpp"), tmp_path)

    optimizer = gc.optim.AdamW(net, lr=1e-2)
    result = [value for _ in range(20) for value in net.train_step(x, labels, optimizer, clip_norm=0.5, clip_value=0.1)]
    result += [net.loss_and_gradients(x, labels), gc.clip_grad_norm_(net.gradients.flat, 0.25)]
    gc.clip_grad_adaptive_(net)
    result += net.gradients.flat.tolist()
    optimizer.lr = 1e-3
    result += [optimizer.step(clip_norm=1.0), net.loss(x, labels)]
    output = net.forward(x, training=True)
    grad_input = net.backward(output)
    for array in (output, grad_input, net.parameters.flat, net.gradients.flat, net.buffers.flat):
        result += array.ravel().tolist()
    native_result = np.fromfile(tmp_path / "result.bin")
    if native.PREFIX is None:
        np.testing.assert_array_equal(native_result, result)
    else:  # a library of its own, perhaps another compiler's: alike until roundings have grown
        np.testing.assert_allclose(native_result[:6], result[:6], rtol=1e-5)


def test_nets_in_several_threads(compile_program):
    """On the library's threads and on a pool of the host's; under ThreadSanitizer in .ci/run."""
    program = compile_program(native.ROOT / "tests" / "embed" / "threads.cpp", "-pthread")
    assert native.run(program) == "the same bits alone and together\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="stands in front of glibc's malloc")
def test_nothing_changes_where_memory_ends(compile_program, tmp_path):
    """Each allocation of each call fails once."""
    out = native.run(compile_program(native.ROOT / "tests" / "embed" / "memory.c"), cwd=tmp_path)
    assert int(re.fullmatch(r"refused (\d+) times, nothing changed\n", out)[1]) > 100


# gradcore_optimizer_kind, and the optimizer that tests/embed/resume.c makes of it.
OPTIMIZERS = {
    0: lambda net: gc.optim.SGD(net, 0.01, momentum=0.9, weight_decay=0.01),
    1: lambda net: gc.optim.RMSprop(net, 0.01, momentum=0.9, weight_decay=0.01),
    2: lambda net: gc.optim.Adam(net, 0.01, weight_decay=0.01),
    3: lambda net: gc.optim.AdamW(net, 0.01, weight_decay=0.01),
}


@pytest.mark.skipif(native.PREFIX is not None, reason="that library may be another compiler's")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=["momentum", "rmsprop", "adam", "adamw"])
def test_a_training_crosses_languages_to_the_bit(compile_program, kind, dtype, rng, tmp_path):
    """By files of net and optimizer, there and back: what C or Python alone computes, batch norm's statistics too."""
    program = compile_program(native.ROOT / "tests" / "embed" / "resume.c")
    x, labels = rng.normal(size=(12, 12, 6)).astype(dtype), rng.integers(0, 4, (12, 12))

    def in_c(folder, steps):
        native.run(program, kind, steps, cwd=folder)

    def in_python(folder, steps):
        files = folder / "net.safetensors", folder / "optimizer.safetensors"
        net = gc.load(files[0])
        optimizer = OPTIMIZERS[kind](net)
        if files[1].exists():
            optimizer.load(files[1])
        for step in range(optimizer.step_count, optimizer.step_count + steps):
            net.train_step(x[step], labels[step], optimizer, clip_norm=1.0)
        net.save(files[0])
        optimizer.save(files[1])

    results = set()
    for name, *legs in (
        ("python", in_python), ("c", in_c), ("there", in_python, in_c, in_python), ("back", in_c, in_python, in_c)
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        gc.MLP([6, 9, 9, 4], normalization="batch", residual=True, dtype=dtype, seed=1).save(folder / "net.safetensors")
        x.tofile(folder / "x.bin")
        labels.tofile(folder / "labels.bin")
        for leg in legs:
            leg(folder, 12 // len(legs))
        results.add(tuple((folder / f"{file}.safetensors").read_bytes() for file in ("net", "optimizer")))
    assert len(results) == 1
    assert gc.load(tmp_path / "c" / "net.safetensors").buffers["norm1.running_var"].std() > 0


def test_cmake_consumer(digits_csv, tmp_path):
    cmake = native.needs("cmake")
    native.run(
        cmake, "-S", native.EXAMPLES, "-B", tmp_path, f"-Dgradcore_DIR={native.cmake_dir()}", "-DCMAKE_BUILD_TYPE=Debug"
    )
    native.run(cmake, "--build", tmp_path)
    check_digits(native.run(tmp_path / "digits", digits_csv))
    check_control_loop(native.run(tmp_path / "control_loop", 4000, 50))


def test_pkg_config_consumer(digits_csv, tmp_path):
    folder = tmp_path / "a copy"
    shutil.copytree(native.EXAMPLES, folder)
    paths = f"PKG_CONFIG={native.pkg_config()}", f"PKG_CONFIG_PATH={native.pkgconfig_dir()}"
    flags = " ".join(["-O0", *native.extra_flags()])
    native.run(native.needs("make"), "-C", folder, *paths, f"CFLAGS={flags}", f"CXXFLAGS={flags}")
    environment = {} if native.PREFIX is None else {"LD_LIBRARY_PATH": str(native.library_file().parent)}
    check_digits(native.run(folder / "digits", digits_csv, **environment))
    check_control_loop(native.run(folder / "control_loop", 4000, 50, **environment))
    native.run(native.needs("make"), "-C", folder, "clean")
    assert not (folder / "digits").exists()


@pytest.mark.parametrize(("file", "options"), [("CMakeLists.txt", "-B {}"), ("Makefile", "-n OUT={}")])
def test_examples_are_built_as_they_say(file, options, tmp_path):
    """In the checkout, whose folder gradcore would hide the installed package from `python -m`."""
    said = re.search(r"^# +(.*\$\(gradcore .*?)  +from a wheel", (native.EXAMPLES / file).read_text(), re.MULTILINE)[1]
    tool = native.needs(said.split()[0])
    command = (
        said.replace(said.split()[0], f"'{tool}'", 1).replace("-B build-examples", "") + " " + options.format(tmp_path)
    )
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    native.run("sh", "-c", command, cwd=native.ROOT, PATH=path, PKG_CONFIG=native.pkg_config())


SANITIZED_HOST = """
cmake_minimum_required(VERSION 3.18)
project(host CXX)
include(cmake/options.cmake)
add_library(part SHARED part.cpp)
gradcore_compile_options(part)
gradcore_export_only_c_interface(part)
"""


def test_a_host_may_have_all_its_parts_sanitized(compilers, tmp_path):
    """Clang leaves the sanitizer's symbols in a library undefined; the program brings them."""
    shutil.copytree(native.ROOT / "cmake", tmp_path / "cmake")
    (tmp_path / "CMakeLists.txt").write_text(SANITIZED_HOST)
    (tmp_path / "part.cpp").write_text('extern "C" int gradcore_part(const int *x) { return x[1]; }\n')
    cmake, build = native.needs("cmake"), tmp_path / "build"
    flags = f"-DCMAKE_CXX_COMPILER={compilers[1]}", "-DCMAKE_CXX_FLAGS=-fsanitize=address"
    native.run(cmake, "-S", tmp_path, "-B", build, "-DCMAKE_BUILD_TYPE=Debug", *flags)
    native.run(cmake, "--build", build)


@pytest.mark.parametrize(("options", "static"), [([], "OFF"), (["-DBUILD_SHARED_LIBS=OFF"], "ON")])
def test_the_build_takes_cmakes_word_for_static(options, static, tmp_path):
    native.run(native.needs("cmake"), "-S", native.ROOT, "-B", tmp_path, *options)
    assert f"GRADCORE_STATIC:BOOL={static}\n" in (tmp_path / "CMakeCache.txt").read_text()


def test_cython_trains_without_the_gil(tmp_path):
    """Several threads at once, each its own net; the same bits as one after the other."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    folder = tmp_path / "cython"
    shutil.copytree(native.EXAMPLES / "cython", folder)
    path = str(PACKAGE.parent)
    native.run(sys.executable, "setup.py", cwd=folder, CFLAGS="-O0", PYTHONPATH=path)
    out = native.run(sys.executable, "run.py", cwd=folder, PYTHONPATH=path)
    assert "the same bits alone and together" in out
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", out)]
    assert len(losses) == 4
    assert max(losses) < 0.1
    call = "t.train(np.ones((64, 3), 'f4'), np.zeros(64, int), {}, {}, steps=1)"
    refused = f"import numpy as np, train_threads as t; {call}"
    for widths, parameters, message in (
        ("np.array([3, 0])", "np.ones(8, 'f4')", "ValueError: widths"),
        ("np.array([3, 2])", "np.ones(8, 'f4')", "ValueError: parameters: expected"),
    ):
        with pytest.raises(AssertionError, match=message):
            native.run(sys.executable, "-c", refused.format(widths, parameters), cwd=folder, PYTHONPATH=path)
