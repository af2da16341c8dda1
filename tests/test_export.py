"""Nets as C source: compiled alone, and compared with the library and with the float64 reference."""

import platform
import re

import numpy as np
import pytest

import gradcore as gc
import native
import nets
import reference
import tolerances

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wdouble-promotion", "-Werror")
C99, CPP17 = ("-std=c99",), ("-x", "c++", "-std=c++17")
FAST = ("-O3", "-ffast-math")
NORMALIZATIONS = (None, "batch", "layer", "rms")
PIECEWISE_LINEAR = ["identity", "relu", "leaky_relu", "hard_tanh"]
WITHOUT_FMA = platform.machine() == "x86_64"  # what its baseline target lacks, and all others have

COMPILERS_OWN = {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}

MAIN = """
#include <stdio.h>
enum {{ GUARD = 16 }};
static {real} input[{macro}_IN_FEATURES], output[{macro}_OUT_FEATURES], scratch[{macro}_SCRATCH + GUARD];
int main(void) {{
  for (int i = 0; i < {macro}_SCRATCH + GUARD; i++) scratch[i] = i < {macro}_SCRATCH ? ({real})(0.0 / zero) : 7;
  while (fread(input, sizeof(*input), {macro}_IN_FEATURES, stdin) == {macro}_IN_FEATURES) {{
    {name}_forward(input, output, scratch);
    fwrite(output, sizeof(*output), {macro}_OUT_FEATURES, stdout);
  }}
  for (int i = 0; i < GUARD; i++)
    if (scratch[{macro}_SCRATCH + i] != 7) return 1;
  return 0;
}}
"""


def build(net, folder, compiler=None, name="model", language=C99, options=("-O2",)):
    """Exports, compiles and links; a function from x to the program's outputs."""
    gc.export_c(net, folder / f"{name}.c")
    real = {"float32": "float", "float64": "double"}[net.dtype.name]
    main = f'#include "{name}.h"\nstatic volatile double zero = 0;' + MAIN
    (folder / "main.c").write_text(main.format(real=real, macro=name.upper(), name=name).replace("{{", "{"))
    program = folder / "program"
    native.run(
        compiler or native.needs("cc"),
        *language,
        *WARNINGS,
        *options,
        folder / f"{name}.c",
        folder / "main.c",
        *("-o", program, "-lm"),
    )

    def run(x):
        (folder / "x.bin").write_bytes(np.ascontiguousarray(x, net.dtype).tobytes())
        native.run("sh", "-c", f'"{program}" < "{folder}/x.bin" > "{folder}/y.bin"')
        return np.fromfile(folder / "y.bin", net.dtype).reshape(len(x), net.out_features)

    return run


def trained(widths, rng, dtype, **options):
    """A net whose every parameter and statistic has moved from where it began."""
    net = gc.MLP(widths, dtype=dtype, **options)
    x, y = rng.normal(size=(64, widths[0])), rng.normal(size=(64, widths[-1]))
    optimizer = gc.optim.AdamW(net, lr=0.01)
    for _ in range(10):
        net.train_step(x, y, optimizer, loss="mse")
    return net


def as_reference(net):
    """(reference.Net, parameters and buffers in float64)."""
    described = reference.Net(net.widths, net.activations, net.normalization, net.residual, net.bias)
    wide = {name: np.asarray(value, np.float64) for name, value in {**net.parameters, **net.buffers}.items()}
    return described, wide


@pytest.mark.parametrize(
    ("language", "options"),
    [(C99, ("-O2",)), (("-std=c11",), FAST), (CPP17, ("-O0",)), (CPP17, FAST)],
    ids=["c99", "c11 fast", "c++17", "c++17 fast"],
)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_activation_and_normalization(compilers, normalization, dtype, language, options, rng, tmp_path):
    """All of them in one residual net, some widths repeated and some not, against library and reference."""
    activations = list(gc.activations())
    hidden = [11, 11, 17, 17, 17, 5, 9, 9, 9, 30, 30, 12, 12]
    net = trained([7, *hidden, 3], rng, dtype.name, activation=activations, normalization=normalization, residual=True)
    x = rng.normal(size=(50, 7)).astype(dtype)
    result = build(net, tmp_path, compilers[language is CPP17], language=language, options=options)(x)
    described, wide = as_reference(net)
    exact, _ = reference.forward(described, wide, x.astype(np.float64), wide)
    bound = tolerances.NETWORK[dtype.name] * np.abs(exact).max()
    np.testing.assert_allclose(result, exact, rtol=0, atol=bound)
    np.testing.assert_allclose(result, net(x), rtol=0, atol=bound)


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_piecewise_linear_nets_to_the_bit(target, compilers, normalization, dtype, rng, tmp_path):
    """Sums in the library's order, constants rounded as it rounds them: nothing is left to differ."""
    fused = not (WITHOUT_FMA and target == "baseline")
    options = (
        ("-O2", "-ffp-contract=fast", *(["-mfma"] if WITHOUT_FMA else [])) if fused else ("-O2", "-ffp-contract=off")
    )
    net = trained(
        [70, 33, 33, 64, 64, 5], rng, dtype.name, activation=PIECEWISE_LINEAR, normalization=normalization,
        residual=True, bias=normalization is None,
    )  # fmt: skip
    x = rng.normal(size=(40, 70)).astype(dtype)
    np.testing.assert_array_equal(build(net, tmp_path, compilers[0], options=options)(x), net(x))


def test_activations_over_their_range(dtype, tmp_path):
    """One net per activation, act(x) = x -> 1 x -> act -> 1 act, all in one program's folder."""
    x = np.concatenate([np.linspace(-30, 30, 4001), np.geomspace(1e-30, 1, 300), -np.geomspace(1e-30, 1, 300)])
    x = x.astype(dtype)
    for name in gc.activations():
        net = gc.MLP([1, 1, 1], activation=name, bias=False, dtype=dtype.name)
        net.parameters["dense0.weight"] = net.parameters["dense1.weight"] = 1
        folder = tmp_path / name
        folder.mkdir()
        result = build(net, folder, name=name)(x[:, None])[:, 0].astype(np.float64)
        exact = reference.ACTIVATIONS[name].f(x.astype(np.float64))
        bound = 2 * tolerances.activation(exact, x)  # twice the library's, for the functions of <math.h>
        if name == "gelu_tanh":  # e^-s of an s that is rounded three times
            s = np.abs(x) * (1.5957691216057307 + 0.0713548162726 * x.astype(np.float64) ** 2)
            bound += 3 * tolerances.UNIT_ROUNDOFF[dtype.name] * s * np.abs(exact)
        worst = (np.abs(result - exact) / bound).argmax()
        assert np.all(np.abs(result - exact) <= bound), (name, x[worst], result[worst], exact[worst])


@pytest.mark.parametrize(
    ("widths", "options"),
    [([3, 2], {}), ([1, 1], {"bias": False}), ([2, 40, 1], {}), ([4, 3, 40, 2, 5], {"normalization": "rms"})],
)
def test_shapes(widths, options, rng, tmp_path):
    net = trained(widths, rng, "float64", activation="tanh", **options)
    x = rng.normal(size=(9, widths[0]))
    np.testing.assert_allclose(build(net, tmp_path)(x), net(x), rtol=1e-10)


def test_the_source_depends_on_nothing(tmp_path):
    """Undefined symbols: functions of <math.h>, and what compilers make of loops."""
    for name, options in (
        ("plain", {"activation": "relu"}),
        ("full", {"activation": "gelu", "normalization": "layer"}),
    ):
        gc.export_c(gc.MLP([8, 8, 8], **options), tmp_path / f"{name}.c")
        text = (tmp_path / f"{name}.c").read_text()
        assert set(re.findall(r"#include (\S+)", text)) == {f'"{name}.h"', *(["<math.h>"] if name == "full" else [])}
        native.run(native.needs("cc"), "-std=c99", "-O2", "-c", tmp_path / f"{name}.c", "-o", tmp_path / f"{name}.o")
        listing = native.run(native.needs("nm"), "-u", tmp_path / f"{name}.o")
        undefined = {line.split()[-1] for line in listing.splitlines()} - COMPILERS_OWN
        assert undefined == ({"erfcf", "sqrtf"} & undefined if name == "full" else set())


def test_weights_are_stored_to_the_bit(tmp_path):
    """Subnormal numbers, the largest ones, signed zeros."""
    net = gc.MLP([5, 1], dtype="float64", bias=False)
    values = [5e-324, -1.7976931348623157e308, -0.0, 1 / 3, 2.0**-1022]
    net.parameters["dense0.weight"] = values
    gc.export_c(net, tmp_path / "model.c")
    literals = re.findall(r"-?0x[0-9a-f.]+p[+-]\d+", (tmp_path / "model.c").read_text())
    stored = [float.fromhex(literal) for literal in literals]
    assert np.array(stored).tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize("suffix", ["h", "c"], ids=["linked", "included"])
def test_two_nets_in_one_cpp_program(suffix, tmp_path):
    """Compiled as C; or in one C++ translation unit, as unity builds have them, though both have a dense product."""
    nets_by_name = {"first": gc.MLP([3, 4, 2]), "second": gc.MLP([2, 4, 1], activation="tanh")}
    for name, net in nets_by_name.items():
        gc.export_c(net, tmp_path / f"{name}.c")
        native.run(native.needs("cc"), "-std=c99", "-c", tmp_path / f"{name}.c", "-o", tmp_path / f"{name}.o")
    main = """
        #include <cstdio>
        #include "first.SUFFIX"
        #include "second.SUFFIX"
        int main() {
          float x[FIRST_IN_FEATURES] = {1, 2, 3}, h[FIRST_OUT_FEATURES], y[SECOND_OUT_FEATURES];
          float scratch[FIRST_SCRATCH + SECOND_SCRATCH];
          first_forward(x, h, scratch);
          second_forward(h, y, scratch);
          std::printf("%.9g", double(y[0]));
        }"""
    (tmp_path / "main.cpp").write_text(main.replace("SUFFIX", suffix))
    objects = [tmp_path / f"{name}.o" for name in nets_by_name] if suffix == "h" else []
    native.run(native.needs("c++"), tmp_path / "main.cpp", *objects, "-o", tmp_path / "main", "-lm")
    x = np.array([[1, 2, 3]], np.float32)
    expected = nets_by_name["second"](nets_by_name["first"](x))
    assert float(native.run(tmp_path / "main")) == pytest.approx(float(expected[0, 0]), rel=1e-6)


def test_names(tmp_path):
    gc.export_c(gc.MLP([2, 1]), tmp_path / "net-v2.c", name="net_v2")
    assert "void net_v2_forward(" in (tmp_path / "net-v2.h").read_text()
    for name in ("net-v2", "2nd", "_hidden", "", "ne\nt", "x" * 65, "größe"):
        with pytest.raises(ValueError, match="name: expected a name that C takes"):
            gc.export_c(gc.MLP([2, 1]), tmp_path / "x.c", name=name)
    gc.export_c(gc.MLP([2, 1]), tmp_path / "größe.c", name="size")
    native.run(native.needs("cc"), "-fsyntax-only", tmp_path / "größe.c")
    with pytest.raises(TypeError, match="name: expected a string, got 3"):
        gc.export_c(gc.MLP([2, 1]), tmp_path / "x.c", name=3)
    assert not (tmp_path / "x.c").exists()


def test_refusals(tmp_path):
    net = gc.MLP([2, 3, 1], normalization="batch")
    with pytest.raises(ValueError, match=r"path: expected a file name that ends in \.c, got '.*model\.cpp'"):
        gc.export_c(net, tmp_path / "model.cpp")
    with pytest.raises(TypeError, match=r"net: expected a gradcore\.MLP, got "):
        gc.export_c(net.parameters, tmp_path / "model.c")
    net.buffers["norm0.running_var"][1] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in norm0\.running_var"):
        gc.export_c(net, tmp_path / "model.c")
    for variance, weight in ((-1, 1), (0, 3e38)):  # the root of a negative number; a factor beyond float32
        net.buffers["norm0.running_var"][1], net.parameters["norm0.weight"][1] = variance, weight
        with pytest.raises(ValueError, match="NaN or infinity in norm0_scale"):
            gc.export_c(net, tmp_path / "model.c")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        gc.export_c(gc.MLP([2, 1]), tmp_path / "nowhere" / "model.c")


BEYOND_A_LIMIT = """
import os, resource, gradcore as gc
def files():
    return {name: open(name).read() for name in os.listdir()}
gc.export_c(gc.MLP([2, 3, 1]), "net.c")
before = files()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, -1))
try:
    gc.export_c(gc.MLP([20, 30, 10]), "net.c")
except OSError as error:
    print(error)
assert files() == before
"""


def test_files_that_cannot_be_completed_leave_the_old_ones(run_python, tmp_path):
    """Header and source alike: here the source does not fit, the header would."""
    assert "File too large: 'net.c'" in run_python(BEYOND_A_LIMIT)


def test_files_are_replaced_where_they_are(tmp_path):
    """Behind links, and with the permissions that they have."""
    (tmp_path / "there").mkdir()
    (tmp_path / "net.c").symlink_to("there/net.c")
    gc.export_c(gc.MLP([2, 1]), tmp_path / "net.c")
    (tmp_path / "there" / "net.c").chmod(0o640)
    gc.export_c(gc.MLP([2, 3, 1]), tmp_path / "net.c")
    assert (tmp_path / "net.c").is_symlink()
    assert (tmp_path / "there" / "net.c").stat().st_mode & 0o777 == 0o640
    assert "dense1" in (tmp_path / "net.c").read_text()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["net.c", "net.c", "net.h", "there"]
    (tmp_path / "folder.c").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.c"):
        gc.export_c(gc.MLP([2, 1]), tmp_path / "folder.c")
    assert not (tmp_path / "folder.h").exists()


def test_zoo_of_reference_nets(rng, tmp_path):
    """The nets the rest of the suite uses, by the same door."""
    case = nets.Case(reference.Net((6, 9, 9, 4), ("silu", "mish"), "layer", True), "float64", 8)
    exact, _ = reference.forward(case.net, case.params, case.x)
    np.testing.assert_allclose(build(case.mlp, tmp_path)(case.x), exact, rtol=1e-10)
