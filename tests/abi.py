"""The binary interface of libgradcore as text, one fact per line: what a program compiled earlier relies on.

    python tests/abi.py             what a program of the last release would miss; normally nothing
    python tests/abi.py --record    at a release: writes tests/embed/abi.txt, if nothing is missed

Both look at the installed package. What was recorded may neither change nor disappear, unless GRADCORE_ABI_VERSION, and
with it the library's SONAME, has changed. Anything may be added: functions, values before a count, members at the end of
a structure that begins with its size.
"""

import re
import sys
import tempfile
from pathlib import Path

import c_header
import gradcore as gc
import native

RECORDED = Path(__file__).resolve().parent / "embed" / "abi.txt"


def lines():
    """Signatures as the header has them; layouts and values as a compiler sees them."""
    header = c_header.read(native.include_dir() / "gradcore" / "gradcore.h")
    declared = [("function", name, *rest) for name, rest in header.functions.items()]
    declared += [("callback", name, result, parameters) for result, name, parameters in header.callbacks]
    signatures = [f"{kind} {result} {name}({', '.join(parameters)})" for kind, name, result, parameters in declared]
    return [f"version {gc.__version__}", *sorted(signatures), *_compiled(header)]


def broken(recorded, now):
    """The recorded lines that no longer hold."""
    if number(recorded, "value GRADCORE_ABI_VERSION") != number(now, "value GRADCORE_ABI_VERSION"):
        return []
    sized = {name for line in now for name in re.findall(r"^member (\w+)\.size 0 ", line)}

    def holds(line):
        if line in now or line.startswith("version "):
            return True
        fact, _, value = line.rpartition(" ")
        kind, name = fact.split(" ", 1)
        may_grow = (kind == "struct" and name in sized) or (kind == "value" and re.search(r"_NUM_\w*S$", name))
        return bool(may_grow) and number(now, fact) >= int(value)

    return [line for line in recorded if not holds(line)]


def number(lines, fact):
    """The number behind a fact; -1 where it is not there."""
    return next((int(line.removeprefix(f"{fact} ")) for line in lines if line.startswith(f"{fact} ")), -1)


def _compiled(header):
    prints = []
    for name, members in header.structs.items():
        if not members:
            continue
        prints.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        for member in members:
            field = member.replace("*", " ").split()[-1].split("[")[0]
            place = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            prints.append(f'printf("member {name}.{field} %zu %zu {member}\\n", {place});')
    for value in [*header.constants, *(value for values in header.enums.values() for value in values)]:
        prints.append(f'printf("value {value} %lld\\n", (long long){value});')
    program = "#include <gradcore/gradcore.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{}\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "abi.c")
        source.write_text(program.format("\n".join(prints)))
        native.run(native.needs("cc"), *native.cflags(), source, "-o", Path(folder, "abi"))
        return native.run(Path(folder, "abi")).splitlines()


def main(arguments):
    now = lines()
    missed = broken(RECORDED.read_text().splitlines(), now)
    print("\n".join(missed), end="\n" if missed else "")
    if missed:
        return f"{len(missed)} lines no longer hold: keep them, or raise GRADCORE_ABI_VERSION"
    if arguments == ["--record"]:
        RECORDED.write_text("\n".join(now) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
