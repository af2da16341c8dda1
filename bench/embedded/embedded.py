"""gradcore beside the libraries that embedders use: size, start-up, and time of a small net on one thread.

    python bench/embedded/embedded.py [--genann CHECKOUT] [--rtneural CHECKOUT]

Eigen and FANN come from the system (Debian's libeigen3-dev and libfann-dev); the others from a checkout of their
source. Missing ones are skipped. Every program's outputs are compared with float64 before it is timed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import gradcore as gc

HERE = Path(__file__).resolve().parent
WIDTHS, ROWS, LEARNING_RATE = [16, 64, 64, 64, 8], 32, 0.05
TOLERANCE = {"FANN": 2e-3}  # its derivative of tanh is cut off where |tanh| > 0.98
STEPS_OF_ONE_ROW = {"genann"}  # its batch is 32 updates, not one
OPTIMIZE = ["-O3", "-march=native", "-DNDEBUG", "-w"]


# ---- the problem, and its solution in float64 ------------------------------------------------------------------


def make_problem(path):
    """(weights, biases, x, target), also written to a file in float32."""
    rng = np.random.default_rng(1)
    pairs = list(pairwise(WIDTHS))
    weights = [rng.normal(size=(n, m)).astype(np.float32) * np.float32(0.5 / np.sqrt(m)) for m, n in pairs]
    biases = [rng.normal(size=n).astype(np.float32) * np.float32(0.1) for _, n in pairs]
    x, target = (rng.normal(size=(ROWS, n)).astype(np.float32) for n in (WIDTHS[0], WIDTHS[-1]))
    with open(path, "wb") as file:
        for array in [a for pair in zip(weights, biases, strict=True) for a in pair] + [x, target]:
            file.write(array.tobytes())
    return weights, biases, x, target


def solution(weights, biases, x, target, *, online):
    """Outputs at first, after 5 steps of one row, after 5 of all rows (`online`: 32 updates of a 32nd each)."""
    w, b = ([a.astype(np.float64) for a in arrays] for arrays in (weights, biases))

    def forward(rows):
        h = [rows]
        for layer in range(len(w)):
            z = h[-1] @ w[layer].T + b[layer]
            h.append(np.tanh(z) if layer < len(w) - 1 else z)
        return h

    def step(rows, wanted, rate):
        h = forward(rows)
        delta = (h[-1] - wanted) * 2 / wanted.size
        for layer in reversed(range(len(w))):
            grad_weight, grad_bias = delta.T @ h[layer], delta.sum(axis=0)
            delta = delta @ w[layer] * (1 - h[layer] ** 2)
            w[layer] -= rate * grad_weight
            b[layer] -= rate * grad_bias

    results = [forward(x)[-1]]
    for i in range(5):
        step(x[i : i + 1], target[i : i + 1], LEARNING_RATE)
    results.append(forward(x)[-1])
    for _ in range(5):
        if online:
            for i in range(ROWS):
                step(x[i : i + 1], target[i : i + 1], LEARNING_RATE / ROWS)
        else:
            step(x, target, LEARNING_RATE)
    return [*results, forward(x)[-1]]


# ---- building ----------------------------------------------------------------------------------------------------


def programs(folder, options, problem):
    """Name, source, compiler arguments and files that ship with the program, for each library that is found."""
    library = Path(gc.get_library_dir())
    link = [f"-I{gc.get_include()}", f"-L{library}", f"-Wl,-rpath,{library}", "-lgradcore"]
    yield "gradcore", "with_gradcore.cpp", link, [library / "libgradcore.so"]
    weights, biases, *_ = problem
    net = gc.MLP(WIDTHS, activation="tanh")
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        net.parameters[f"dense{layer}.weight"], net.parameters[f"dense{layer}.bias"] = weight, bias
    gc.export_c(net, folder / "exported.c")
    compile_c(folder / "exported.c", folder / "exported.o")
    yield "gradcore.export_c", "with_export_c.cpp", [f"-I{folder}", folder / "exported.o"], []
    eigen = Path("/usr/include/eigen3")
    if eigen.is_dir():
        yield "Eigen, by hand", "with_eigen.cpp", [f"-I{eigen}"], []
    fann = [path for path in Path("/usr/lib").rglob("libfloatfann.so.2*") if not path.is_symlink()]
    if fann:
        yield "FANN", "with_fann.cpp", ["-lfloatfann"], fann
    if options.genann:
        compile_c(Path(options.genann, "genann.c"), folder / "genann.o")
        yield "genann", "with_genann.cpp", [f"-I{options.genann}", folder / "genann.o"], []
    if options.rtneural and eigen.is_dir():
        flags = [f"-I{options.rtneural}", f"-I{eigen}", "-DRTNEURAL_USE_EIGEN=1", "-DRTNEURAL_DEFAULT_ALIGNMENT=32"]
        yield "RTNeural", "with_rtneural.cpp", flags, []


def compile_c(source, output):
    subprocess.run([os.environ.get("CC", "cc"), "-std=c99", *OPTIMIZE, "-c", source, "-o", output], check=True)


def compile_program(source, arguments, output):
    compiler = os.environ.get("CXX", "c++")
    head = [compiler, "-std=c++17", *OPTIMIZE, "-s", "-ffunction-sections", "-Wl,--gc-sections"]
    subprocess.run([*head, HERE / source, *arguments, "-o", output, "-lm"], check=True)


# ---- measuring ---------------------------------------------------------------------------------------------------


def verify(name, program, folder, problem):
    """Fails unless the program's outputs are those of float64."""
    subprocess.run([program, "verify", folder / "problem", folder / "result"], check=True)
    result = np.fromfile(folder / "result", np.float32).reshape(-1, ROWS, WIDTHS[-1])
    expected = solution(*problem, online=name in STEPS_OF_ONE_ROW)
    for stage, (actual, exact) in enumerate(zip(result, expected[: len(result)], strict=True)):
        error = np.abs(actual - exact).max() / np.abs(exact).max()
        if not error < TOLERANCE.get(name, 1e-5):
            raise SystemExit(f"{name}: outputs of stage {stage} are off by {error:.1e}")
    if len(result) > 1 and not np.abs(expected[2] - expected[0]).max() > 0.01:
        raise SystemExit("the steps change too little to tell right from wrong")


def start_up(program, folder, baseline):
    """Milliseconds from the start of the process to its end, beyond those of a program that does nothing."""

    def once(command):
        begin = time.perf_counter()
        subprocess.run(command, check=True)
        return (time.perf_counter() - begin) * 1e3

    runs = [(once([program, "start", folder / "problem"]), once([baseline])) for _ in range(60)]
    return min(run for run, _ in runs) - min(empty for _, empty in runs)


def row(name, program, folder, shipped, baseline):
    out = subprocess.run([program, "time", folder / "problem"], check=True, capture_output=True, text=True).stdout
    times = dict(line.split() for line in out.splitlines())
    cells = [
        f"{float(times[case]) / 1e3:.2f}" if case in times else "-" for case in ("run1", "run32", "step1", "step32")
    ]
    size = program.stat().st_size - baseline.stat().st_size + sum(path.stat().st_size for path in shipped)
    return [name, f"{size / 1e3:.0f}", f"{start_up(program, folder, baseline):.2f}", *cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--genann", help="checkout of github.com/codeplea/genann")
    parser.add_argument("--rtneural", help="checkout of github.com/jatinchowdhury18/RTNeural")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = make_problem(folder / "problem")
        (folder / "empty.cpp").write_text('#include "common.hpp"\nint main() { return 0; }\n')
        compile_program(folder / "empty.cpp", [f"-I{HERE}"], folder / "empty")
        built = []
        for peer, source, arguments, shipped in programs(folder, options, problem):
            program = folder / Path(source).stem
            compile_program(source, arguments, program)
            verify(peer, program, folder, problem)
            built.append((peer, program, shipped))
            print(f"{peer}: built and verified", file=sys.stderr)
        print("| us on one thread | adds kB | start ms | run b1 | run b32 | step b1 | step b32 |")
        print("|---|---|---|---|---|---|---|")
        for peer, program, shipped in built:
            print("| " + " | ".join(row(peer, program, folder, shipped, folder / "empty")) + " |", flush=True)


if __name__ == "__main__":
    main()
