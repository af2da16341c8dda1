"""gradcore.h, read as text: what it declares, and the Cython declarations that follow from it.

    python tests/c_header.py > gradcore/gradcore.pxd

writes those declarations anew.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "include" / "gradcore" / "gradcore.h"

INTRODUCTION = """\
# The functions and types of gradcore/gradcore.h for Cython; that header is their documentation.
#
# Written from the header by tests/c_header.py, and held equal to it by tests/test_embedding.py.
# `const` inside a pointer type, which Cython does not know, is left out.
"""


@dataclass
class Declarations:
    """Everything in the header, in its order within each kind."""

    constants: list = field(default_factory=list)  # names of numeric macros
    enums: dict = field(default_factory=dict)  # name -> names of its values
    callbacks: list = field(default_factory=list)  # (result, name, parameters)
    structs: dict = field(default_factory=dict)  # name -> member declarations; [] when opaque
    functions: dict = field(default_factory=dict)  # name -> (result, parameters)


def read(path=HEADER):
    text = Path(path).read_text(encoding="utf-8")
    for name in re.findall(r"^#include <gradcore/(\w+\.h)>", text, re.MULTILINE):  # its parts
        text += Path(path).with_name(name).read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    found = Declarations()
    found.constants = re.findall(r"^#define (GRADCORE_\w+)[ \t]+[-(]*\d", text, re.MULTILINE)
    text = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    for body, name in re.findall(r"typedef enum \w+ \{(.*?)\} (\w+);", text):
        found.enums[name] = re.findall(r"(GRADCORE_\w+)", body)
    for result, name, parameters in re.findall(r"typedef ([^{};]+?)\(\*(\w+)\)\(([^;]*)\);", text):
        found.callbacks.append((_type(result), name, _parameters(parameters)))
    for name in re.findall(r"typedef struct (\w+) \1;", text):
        found.structs[name] = []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text):
        found.structs[name] = [member for line in body.split(";") if line.strip() for member in _members(line)]
    for result, name, parameters in re.findall(r"GRADCORE_API ([\w* ]+?)(gradcore_\w+)\((.*?)\);", text):
        found.functions[name] = (_type(result), _parameters(parameters))
    return found


def _members(line):
    """`int64_t a[4], b[4]` as two declarations."""
    first, *rest = _type(line).split(", ")
    base = first[: len(first) - len(re.search(r"[\w\[\]*]+$", first)[0])]
    return [first, *(base + member for member in rest)]


def _type(text):
    """One spelling: single spaces, the star at the name."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s*\*\s*", " *", text).replace("* *", "**").strip()


def _parameters(text):
    return [] if text.strip() == "void" else [_type(part) for part in text.split(",")]


# ---- Cython --------------------------------------------------------------------------------------------------


def cython(found):
    """The text of gradcore/gradcore.pxd."""
    lines = ["enum:", *(f"    {name}" for name in found.constants), ""]
    for name, values in found.enums.items():
        lines += [f"ctypedef enum {name}:", *(f"    {value}" for value in values), ""]
    for name, members in sorted(found.structs.items(), key=lambda item: bool(item[1])):
        if not members:
            lines += [f"ctypedef struct {name}:", "    pass", ""]
    for result, name, parameters in found.callbacks:
        lines += [f"ctypedef {_joined(result, f'(*{name})')}({_cython_parameters(parameters)}) noexcept nogil", ""]
    for name, members in found.structs.items():
        if members:
            lines += [f"ctypedef struct {name}:", *(f"    {_cython_type(member)}" for member in members), ""]
    for name, (result, parameters) in found.functions.items():
        lines += _function(f"{_joined(_cython_type(result), name)}(", [_cython_type(p) for p in parameters])
    body = "\n".join(f"    {line}".rstrip() for line in lines).rstrip()
    imports = "from libc.stddef cimport size_t\nfrom libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t\n"
    return f'{INTRODUCTION}\n{imports}\ncdef extern from "gradcore/gradcore.h" nogil:\n{body}\n'


def _joined(result, name):
    return result + name if result.endswith("*") else f"{result} {name}"


def _cython_type(text):
    return text.replace("*const *", "**")


def _cython_parameters(parameters):
    return ", ".join(map(_cython_type, parameters))


def _function(head, parameters, width=112):
    """On one line if it fits, else its parameters on lines of their own."""
    whole = f"{head}{', '.join(parameters)})"
    if len(whole) <= width:
        return [whole]
    return [head, *(f"        {parameter}," for parameter in parameters[:-1]), f"        {parameters[-1]})"]


if __name__ == "__main__":
    print(cython(read()), end="")
