"""How many instructions a gradient or a step takes: a measure of speed without a clock.

    python tests/instructions.py > tests/embed/instructions.json

records the counts, with the compiler of the installed library, after a change that is meant to alter them. They are
callgrind's, of one call on one thread with the AVX2 kernels (valgrind knows no AVX-512), once everything is allocated.
"""

import json
import os
import re
import tempfile
from pathlib import Path

import native

RECORDED = Path(__file__).resolve().parent / "embed" / "instructions.json"
PROGRAM = RECORDED.with_name("counted.cpp")
# Rows, width, hidden layers, activation, normalization, what is done.
CASES = {
    "gradient-b32w64d10tanh": "32 64 10 tanh none gradient",
    "recorded-b32w64d10tanh": "32 64 10 tanh none recorded",
    "step-b32w64d10tanh": "32 64 10 tanh none step",
    "gradient-b64w100d6relubn": "64 100 6 relu batch gradient",
    "gradient-b1w64d10tanh": "1 64 10 tanh none gradient",
}


def compiler():
    """What the library says of the compilers that made it; '' where nothing does."""
    found = re.findall(rb"(?:GCC: |clang version )[ -~]+", native.library_file().read_bytes())
    return ", ".join(sorted({text.decode() for text in found}))


def build(folder):
    program = Path(folder, "counted")
    native.run("g++", "-std=c++17", "-O1", *native.cflags(), PROGRAM, "-o", program, *native.libs())
    return program


def count(program, case):
    """Instructions inside counted_work()."""
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=counted_work", "--callgrind-out-file=/dev/null"]
    environment = {"GRADCORE_TARGET": "avx2", "GRADCORE_NUM_THREADS": "1"}
    log = Path(program).with_name("callgrind.log")
    native.run(*command, f"--log-file={log}", program, *CASES[case].split(), **environment)
    return int(re.search(r"Collected : (\d+)", log.read_text()).group(1))


def main():
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        counts = {case: count(program, case) for case in CASES}
    print(json.dumps({"compiler": compiler(), "counts": counts}, indent=2))


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    main()
