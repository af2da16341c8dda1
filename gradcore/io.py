"""Nets as safetensors files. The library itself reads and writes them, the same from Python, C and C++.

The format, and what is checked of a file before anything is made of it: csrc/io/net_file.hpp.
"""

from __future__ import annotations

import os
from os import PathLike

from . import _check, _core
from .mlp import MLP


def save(net: MLP, path: str | PathLike[str]) -> None:
    """Write architecture, parameters and buffers of `net` to a safetensors file.

    The write is atomic: a new file beside `path` is completed, flushed to the disk and moved over it,
    so that a crash at any moment leaves the old file or the new one.

    Raises:
        OSError: when the file cannot be written; nothing is left behind.
    """
    net._core.save(os.fsencode(_check.path(path)))


def load(path: str | PathLike[str]) -> MLP:
    """The net that `net.save(path)` wrote, equal to the bit.

    Raises:
        ValueError: for a file that is damaged or that gradcore did not write, saying what is wrong.
        OSError: when the file cannot be read.
    """
    name = _check.path(path)
    try:
        return MLP._around(_core.Net.load(os.fsencode(name)))
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(name)}: {error}") from None


def to_bytes(net: MLP) -> bytes:
    """The content of the file that `save` writes."""
    return net._core.to_bytes()


def from_bytes(data: bytes) -> MLP:
    """The net whose `to_bytes` gave `data`; ValueError saying what is wrong with it otherwise."""
    return MLP._around(_core.Net.from_bytes(data))
