"""The binary interface of libgradcore as lines of text, one a fact: what a program compiled earlier relies on.

    python tests/abi.py > tests/embed/abi.txt

records it, at each release.
"""

import tempfile
from pathlib import Path

import c_header
import native

RECORDED = Path(__file__).resolve().parent / "embed" / "abi.txt"


def lines():
    """Signatures as the header has them; layouts and values as a compiler sees them."""
    header = c_header.read(native.include_dir() / "gradcore" / "gradcore.h")
    functions = [
        f"function {result} {name}({', '.join(parameters)})" for name, (result, parameters) in header.functions.items()
    ]
    return sorted(functions) + _compiled(header)


def _compiled(header):
    prints = []
    for name, members in header.structs.items():
        if not members:
            continue
        prints.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        for member in members:
            field = member.replace("*", " ").split()[-1].split("[")[0]
            place = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            prints.append(f'printf("member {name}.{field} %zu %zu\\n", {place});')
    for value in [*header.constants, *(value for values in header.enums.values() for value in values)]:
        prints.append(f'printf("value {value} %lld\\n", (long long){value});')
    program = "#include <gradcore/gradcore.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{}\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "abi.c")
        source.write_text(program.format("\n".join(prints)))
        native.run(native.needs("cc"), *native.cflags(), source, "-o", Path(folder, "abi"))
        return native.run(Path(folder, "abi")).splitlines()


if __name__ == "__main__":
    print("\n".join(lines()))
