"""Nets as C source: one file with the weights, in both C99 and C++17, for programs that cannot use libgradcore.

The source computes what `net(x)` computes, one row per call, in the net's dtype. A bfloat16 net gets float32 products,
which are closer to the exact result. Products sum in the library's order with one accumulator. Nets with piecewise
linear activations, and batch norm or no normalization, therefore give the library's bits: those of its baseline target
if the compiler does not fuse multiply and add (-ffp-contract=off), those of its other targets if it does. The other
activations use the exponentials of <math.h>, and layer norm sums in plain order; both differ by a few ULP. So does
everything under -ffast-math, where NaN must not occur.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike

import numpy as np

from . import _check, _core, _files
from .mlp import MLP, NORM_EPS, skip_connections

_MAX_NAME = 64


def export_c(net: MLP, path: str | PathLike[str], *, name: str | None = None) -> None:
    """Write `net` as C source for inference, with a header next to it.

    The source is valid C99 and C++17; compile it by itself or include it. It needs only <math.h>, and that only for
    some activations and normalizations. The weights are exact hexadecimal constants. For a net called digits, it
    declares

        void digits_forward(const float *input, float *output, float *scratch);

    for one row in inference mode, with DIGITS_IN_FEATURES, DIGITS_OUT_FEATURES and DIGITS_SCRATCH elements. It writes
    only to the caller's memory, so several threads may call it at once. A float64 net computes in double. A net of
    dtype "bfloat16" computes in float without rounding to bfloat16, so its outputs differ from `net(x)` by that.

    Args:
        net: any net, with its current parameters and running statistics.
        path: path of the source, ending in ".c"; the header has the same name, ending in ".h". Existing files are
            replaced, both or neither.
        name: prefix of everything the source defines; by default the name of the file.

    Raises:
        ValueError: another file extension, a name that is not a C identifier, or parameters that are not finite or
            make a factor of batch norm that is not.
        OSError: if a file cannot be written; the existing files are then unchanged.
    """
    _check.instance(net, "net", MLP, "a gradcore.MLP")
    source = _check.file(path)
    if source.suffix != ".c":
        raise ValueError(f"path: expected a file name that ends in .c, got {str(source)!r}")
    name = _checked_name(source.stem if name is None else name)
    _check_finite(net)
    header = source.with_suffix(".h")
    _files.write({header: _header(net, name), source: "".join(_source(net, name, header.name))})


def _checked_name(name: str) -> str:
    _check.instance(name, "name", str, "a string")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII) or len(name) > _MAX_NAME:
        raise ValueError(f"name: expected a name that C takes, of at most {_MAX_NAME} letters and digits, got {name!r}")
    return name


def _check_finite(net: MLP) -> None:
    for tensor, values in {**net.parameters, **net.buffers, **dict(_constants(net))}.items():
        if not np.isfinite(values).all():
            raise ValueError(f"net: expected finite parameters, got NaN or infinity in {tensor}")


# ---- the header ----------------------------------------------------------------------------------------


def _header(net: MLP, name: str) -> str:
    real, macro = _real(net), name.upper()
    return f"""\
/* {_title(net)} */
#ifndef {macro}_H
#define {macro}_H

#ifdef __cplusplus
extern "C" {{
#endif

#define {macro}_IN_FEATURES {net.in_features}
#define {macro}_OUT_FEATURES {net.out_features}
#define {macro}_SCRATCH {max(1, sum(_scratch(net)))}

/* output [{net.out_features}] of one input [{net.in_features}]; scratch holds {macro}_SCRATCH elements of the
 * caller's, of any content. No two of them may overlap. Keeps nothing between calls. */
void {name}_forward(const {real} *input, {real} *output, {real} *scratch);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _title(net: MLP) -> str:
    return f"{net!r}, written by gradcore {_core.version()}"


def _real(net: MLP) -> str:
    return {"float32": "float", "float64": "double"}[net.dtype.name]


def _scratch(net: MLP) -> tuple[int, int]:
    """Elements for the outputs of even and of odd hidden layers; each reads the other's."""
    hidden = net.widths[1:-1]
    return max(hidden[0::2], default=0), max(hidden[1::2], default=0)


# ---- the source ----------------------------------------------------------------------------------------


def _source(net: MLP, name: str, header: str) -> Iterator[str]:
    text = "\n".join(_body(function, net, name) for function in _functions(net))
    yield f"/* {_title(net)} */\n"
    yield f'#include "{header}"\n'
    if re.search(r"\b(exp|expm1|log1p|erfc|tanh|sqrt|fabs)f?\(", text):
        yield "\n#include <math.h>\n"
    yield _RESTRICT.replace("NAME", name.upper())
    yield f"\n{text}"
    for array, values in _constants(net):
        yield from _array(f"{name}_{array}", values, net)
    yield _forward(net, name)


def _functions(net: MLP) -> list[str]:
    """Names of the helpers this net calls."""
    used = [name for name in _ACTIVATIONS if name in net.activations]
    if net.depth > 1 and net.normalization is not None:
        used.append(f"{net.normalization}_norm")
    if skip_connections(net.config).any():
        used.append("add")
    return ["dense", *used]


def _body(function: str, net: MLP, name: str) -> str:
    """The helper's text, with the net's name, in the net's type: f ends its constants and functions of <math.h>."""
    if function in _ACTIVATIONS:
        text = _LOOP.replace("NAME", function).replace("STATEMENTS", _ACTIVATIONS[function])
    else:
        text = _HELPERS[function]
        if function == "dense" and not net.bias:
            text = text.replace(", const real *bias", "").replace("bias[j]", "0")
    text = text.replace("RESTRICT", f"{name.upper()}_RESTRICT").replace("static void ", f"static void {name}_")
    text = re.sub(r"\breal\b", _real(net), text)
    suffix = "f" if net.dtype == np.float32 else ""
    text = re.sub(r"\b(exp|expm1|log1p|erfc|tanh|sqrt|fabs)\(", rf"\g<1>{suffix}(", text)
    return re.sub(r"\b(\d+\.\d+(?:e-?\d+)?)\b", rf"\g<1>{suffix}", text)


def _constants(net: MLP) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every array of the source; weights [in, out], as `dense` reads them."""
    for layer in range(net.depth):
        yield f"dense{layer}_weight", net.parameters[f"dense{layer}.weight"].T
        if net.bias:
            yield f"dense{layer}_bias", net.parameters[f"dense{layer}.bias"]
        if layer < net.depth - 1 and net.normalization is not None:
            yield from _norm_constants(net, layer)


def _norm_constants(net: MLP, layer: int) -> Iterator[tuple[str, np.ndarray]]:
    weight = net.parameters[f"norm{layer}.weight"]
    if net.normalization == "batch":
        variance = net.buffers[f"norm{layer}.running_var"].astype(np.float64)
        # In float64 and then rounded, as the library does before each pass.
        with np.errstate(all="ignore"):
            scale = (weight * (1.0 / np.sqrt(variance + NORM_EPS))).astype(net.dtype)
        yield f"norm{layer}_mean", net.buffers[f"norm{layer}.running_mean"]
        yield f"norm{layer}_scale", scale
    else:
        yield f"norm{layer}_weight", weight
    if net.normalization != "rms":
        yield f"norm{layer}_bias", net.parameters[f"norm{layer}.bias"]


def _array(name: str, values: np.ndarray, net: MLP) -> Iterator[str]:
    suffix = "f" if net.dtype == np.float32 else ""
    size = " * ".join(map(str, values.shape))
    yield f"\nstatic const {_real(net)} {name}[{size}] = {{\n"
    literals = [_literal(value, suffix) for value in values.ravel().tolist()]
    for start in range(0, len(literals), 8):
        yield f"    {', '.join(literals[start : start + 8])},\n"
    yield "};\n"


def _literal(value: float, suffix: str) -> str:
    """The value itself, in hexadecimal: 0x1.8p+1f."""
    mantissa, exponent = value.hex().split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{exponent}{suffix}"


def _forward(net: MLP, name: str) -> str:
    real, even = _real(net), _scratch(net)[0]
    lines = [f"\nvoid {name}_forward(const {real} *input, {real} *output, {real} *scratch) {{"]
    if net.depth == 1:
        lines.append("  (void)scratch;")
    else:
        lines.append(f"  {real} *const even = scratch;")
    if net.depth > 2:
        lines.append(f"  {real} *const odd = scratch + {even};")
    x = "input"
    for layer in range(net.depth):
        h = "output" if layer == net.depth - 1 else ("even", "odd")[layer % 2]
        lines += [f"  {name}_{call};" for call in _calls(net, name, layer, x, h)]
        x = h
    return "\n".join([*lines, "}\n"])


def _calls(net: MLP, name: str, layer: int, x: str, h: str) -> Iterator[str]:
    """What one dense layer, and all that follows it in its block, does from x to h."""
    width = net.widths[layer + 1]
    bias = f", {name}_dense{layer}_bias" if net.bias else ""
    yield f"dense({net.widths[layer]}, {width}, {x}, {name}_dense{layer}_weight{bias}, {h})"
    if layer == net.depth - 1:
        return
    norm = f"{name}_norm{layer}"
    if net.normalization == "batch":
        yield f"batch_norm({width}, {norm}_mean, {norm}_scale, {norm}_bias, {h})"
    elif net.normalization == "layer":
        yield f"layer_norm({width}, {norm}_weight, {norm}_bias, {h})"
    elif net.normalization == "rms":
        yield f"rms_norm({width}, {norm}_weight, {h})"
    if net.activations[layer] != "identity":
        yield f"apply_{net.activations[layer]}({width}, {h})"
    if skip_connections(net.config)[layer]:
        yield f"add({width}, {x}, {h})"


# ---- the helpers ---------------------------------------------------------------------------------------
#
# `real` stands for the net's type; functions of <math.h> and constants get its suffix. Helpers are static, so that
# several nets fit into one program, and their names begin with the net's, so that they also fit into one translation
# unit, as in a unity build.

# C++ has no restrict, but its compilers have this.
_RESTRICT = """
#ifdef __cplusplus
#define NAME_RESTRICT __restrict
#else
#define NAME_RESTRICT restrict
#endif
"""

_HELPERS = {
    "dense": """\
/* y = x W^T + b, W stored [in, out]: k ascends for every y[j], and the inner loop fills vectors. */
static void dense(int in, int out, const real *x, const real *weight, const real *bias, real *RESTRICT y) {
  for (int j = 0; j < out; j++) y[j] = bias[j];
  for (int k = 0; k < in; k++, weight += out)
    for (int j = 0; j < out; j++) y[j] += x[k] * weight[j];
}
""",
    "add": """\
static void add(int n, const real *x, real *h) {
  for (int i = 0; i < n; i++) h[i] += x[i];
}
""",
    "batch_norm": """\
/* scale = weight / sqrt(running variance + eps) */
static void batch_norm(int n, const real *mean, const real *scale, const real *bias, real *h) {
  for (int i = 0; i < n; i++) h[i] = (h[i] - mean[i]) * scale[i] + bias[i];
}
""",
    "layer_norm": f"""\
static void layer_norm(int n, const real *weight, const real *bias, real *h) {{
  real sum = 0, squares = 0;
  for (int i = 0; i < n; i++) sum += h[i];
  const real mean = sum / (real)n;
  for (int i = 0; i < n; i++) squares += (h[i] - mean) * (h[i] - mean);
  const real inv_std = 1 / sqrt(squares / (real)n + {NORM_EPS:.6f});
  for (int i = 0; i < n; i++) h[i] = (h[i] - mean) * inv_std * weight[i] + bias[i];
}}
""",
    "rms_norm": f"""\
static void rms_norm(int n, const real *weight, real *h) {{
  real squares = 0;
  for (int i = 0; i < n; i++) squares += h[i] * h[i];
  const real inv_rms = 1 / sqrt(squares / (real)n + {NORM_EPS:.6f});
  for (int i = 0; i < n; i++) h[i] = h[i] * inv_rms * weight[i];
}}
""",
}

_LOOP = """\
static void apply_NAME(int n, real *h) {
  for (int i = 0; i < n; i++) {
    const real x = h[i];
    STATEMENTS
  }
}
"""

# Every exponential is that of -|x|, which cannot overflow, and the tails keep their relative precision.
_ACTIVATIONS = {
    "relu": "h[i] = x <= 0 ? 0 : x;",
    "leaky_relu": "h[i] = x > 0 ? x : x * 0.01;",
    "elu": "h[i] = x < 0 ? expm1(x) : x;",
    "selu": "h[i] = x < 0 ? 1.7580993408473769 * expm1(x) : 1.0507009873554805 * x;",
    "gelu": "h[i] = 0.5 * x * erfc(-0.70710678118654752 * x);",
    "gelu_tanh": """\
const real s = fabs(x) * (1.5957691216057307 + 0.071354816272600249 * x * x), e = exp(-s);
    h[i] = (x < 0 ? e * x : x) / (1 + e);""",
    "silu": """\
const real e = exp(-fabs(x));
    h[i] = (x < 0 ? e * x : x) / (1 + e);""",
    "mish": """\
const real e = exp(-fabs(x)), a = x < 0 ? e * (2 + e) : 1 + 2 * e, b = x < 0 ? 2 : 2 * e * e;
    h[i] = x * (a / (a + b));""",
    "softplus": "h[i] = (x > 0 ? x : 0) + log1p(exp(-fabs(x)));",
    "tanh": "h[i] = tanh(x);",
    "hard_tanh": "h[i] = x < -1 ? -1 : x > 1 ? 1 : x;",
    "sigmoid": """\
const real e = exp(-fabs(x));
    h[i] = (x < 0 ? e : 1) / (1 + e);""",
}
