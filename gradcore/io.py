"""Nets as safetensors files. The native library reads and writes them, the same for Python, C and C++.

csrc/io/net_file.hpp describes the format, and what is checked before a file is used.
"""

from __future__ import annotations

import os
from os import PathLike

from . import _check, _core, _files
from .mlp import MLP


def save(net: MLP, path: str | PathLike[str]) -> None:
    """Write architecture, parameters and buffers of `net` to a safetensors file.

    The write is atomic: a new file next to `path` is completed, flushed to disk and moved over it. A crash at any
    moment leaves either the old file or the new one.

    Raises:
        OSError: if the file cannot be written; nothing is left behind.
    """
    net._core.save(os.fsencode(_check.path(path)))


def load(path: str | PathLike[str]) -> MLP:
    """Load a net that `net.save(path)` wrote, bit for bit.

    Raises:
        ValueError: the file is damaged or was not written by gradcore; the message says what is wrong.
        OSError: if the file cannot be read.
    """
    name = _check.path(path)
    with _files.named(name):
        return MLP._around(_core.Net.load(os.fsencode(name)))


def to_bytes(net: MLP) -> bytes:
    """The content of the file that `save` writes."""
    return net._core.to_bytes()


def from_bytes(data: bytes) -> MLP:
    """The net whose `to_bytes` gave `data`; otherwise a ValueError that says what is wrong."""
    return MLP._around(_core.Net.from_bytes(data))
