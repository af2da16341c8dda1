"""Nets as safetensors files: an own small reader and writer that trusts nothing it reads.

The format (github.com/huggingface/safetensors): eight bytes of header length, little-endian; a JSON
header name -> {dtype, shape, data_offsets}; then the tensors, packed, in little-endian byte order. The
architecture stands as JSON in the header's "__metadata__", under "gradcore".
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from os import PathLike
from typing import Any

import numpy as np

from . import _check
from .mlp import MLP

_DTYPES = {"float32": "F32", "float64": "F64"}
_MAX_HEADER = 100_000_000  # the reference implementation's own limit
_FORMAT_VERSION = 1
_METADATA = "__metadata__"
_ARCHITECTURE = ("widths", "activation", "normalization", "residual", "init", "bias", "dtype", "seed")


def save(net: MLP, path: str | PathLike[str]) -> None:
    """Write architecture, parameters and buffers of `net` to a safetensors file.

    The write is atomic: a new file beside `path` is completed, flushed to the disk and moved over it,
    so that a crash at any moment leaves the old file or the new one.

    Raises:
        OSError: when the file cannot be written; nothing is left behind.
    """
    path = os.fspath(path)
    data = to_bytes(net)
    folder = os.path.dirname(os.path.abspath(path))
    draft = os.path.join(folder, f".{os.path.basename(path)}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        try:
            _write_all(descriptor, data)
            _keep_permissions(descriptor, path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    _sync_folder(folder)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _keep_permissions(descriptor: int, path: str) -> None:
    """Those of the file to be replaced, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.fchmod(descriptor, os.stat(path).st_mode & 0o777)


def _sync_folder(folder: str) -> None:
    """The new name, too, must reach the disk. Some file systems cannot; the file itself is safe then."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: str | PathLike[str]) -> MLP:
    """The net that `net.save(path)` wrote, equal to the bit.

    Raises:
        ValueError: for a file that is damaged or that gradcore did not write, saying what is wrong.
        OSError: when the file cannot be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        return from_bytes(data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


# ---- bytes -------------------------------------------------------------------------------------------------


def to_bytes(net: MLP) -> bytes:
    """The content of the file that `save` writes."""
    tensors = dict(sorted({**net.parameters, **net.buffers}.items()))
    header: dict[str, Any] = {_METADATA: {"gradcore": json.dumps(_architecture(net))}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors start aligned
    body = [tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes() for tensor in tensors.values()]
    return b"".join([struct.pack("<Q", len(text)), text, *body])


def _architecture(net: MLP) -> dict[str, Any]:
    config = net.config
    if not isinstance(config["init"], str):
        config["init"] = "custom"  # a function is not stored; the weights are
    return {"version": _FORMAT_VERSION, **config}


def from_bytes(data: bytes) -> MLP:
    """The net whose `to_bytes` gave `data`; ValueError saying what is wrong with it otherwise."""
    header, body = _split(data)
    config = _config(header.pop(_METADATA, None))
    _check_size(config, len(body))
    net = MLP._without_weights(config)
    expected = {**net.parameters, **net.buffers}
    missing, foreign = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys())
    if missing or foreign:
        raise ValueError(
            f"expected the tensors of its architecture, got {_listed(foreign)} besides and {_listed(missing)} missing"
        )
    for name, start, end in _placed(header, expected, len(body)):
        tensor = expected[name]
        stored = np.frombuffer(body[start:end], tensor.dtype.newbyteorder("<"))
        tensor[...] = stored.reshape(tensor.shape)
    return net


def _check_size(config: dict[str, Any], num_bytes: int) -> None:
    """Before anything is allocated: a short file must not ask for a large net."""
    widths = _check.widths(config["widths"])
    weights = sum(rows * cols for rows, cols in zip(widths[1:], widths[:-1], strict=True))
    needed = weights * np.dtype(_check.dtype_name(config["dtype"])).itemsize
    if needed > num_bytes:
        raise ValueError(f"expected at least {needed} bytes of tensors for widths {widths}, got {num_bytes}: truncated")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "") if names else "none"


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The parsed header, and the bytes of the tensors."""
    if len(data) < 8:
        raise ValueError(f"expected a safetensors file, got one of {len(data)} bytes")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError(
            f"expected a safetensors header within the {len(data)} bytes of the file, got one of {length} bytes:"
            " truncated, or not a safetensors file"
        )
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a header of JSON text, got {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object as the header, got {type(header).__name__}")
    return header, memoryview(data)[8 + length :]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name that occurs twice")
    return result


def _config(metadata: Any) -> dict[str, Any]:
    """Arguments of MLP from the header's metadata."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("gradcore"), str):
        raise ValueError("expected an architecture under 'gradcore' in the metadata, got none: not a gradcore file")
    try:
        config = json.loads(metadata["gradcore"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata: expected JSON text under 'gradcore', got {error}") from None
    if not isinstance(config, dict) or config.pop("version", None) != _FORMAT_VERSION:
        raise ValueError(f"metadata: expected format version {_FORMAT_VERSION}, got another")
    if sorted(config) != sorted(_ARCHITECTURE) or not isinstance(config["init"], str):
        raise ValueError(f"metadata: expected the entries {', '.join(_ARCHITECTURE)}, got {', '.join(config)}")
    return config


def _placed(header: dict[str, Any], expected: dict[str, _check.Array], num_bytes: int) -> list[tuple[str, int, int]]:
    """Name, start and end of each tensor in the body, all of them checked."""
    spans = []
    for name, entry in header.items():
        tensor = expected[name]
        if not isinstance(entry, dict) or sorted(entry) != ["data_offsets", "dtype", "shape"]:
            raise ValueError(f"{name}: expected dtype, shape and data_offsets, got {_check.described(entry)}")
        if entry["dtype"] != _DTYPES[tensor.dtype.name]:
            raise ValueError(f"{name}: expected dtype {_DTYPES[tensor.dtype.name]}, got {entry['dtype']}")
        if entry["shape"] != list(tensor.shape):
            raise ValueError(f"{name}: expected shape {list(tensor.shape)}, got {entry['shape']}")
        offsets = entry["data_offsets"]
        if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
            raise ValueError(f"{name}: expected two whole numbers as data_offsets, got {_check.described(offsets)}")
        if offsets[1] - offsets[0] != tensor.nbytes:
            raise ValueError(f"{name}: expected {tensor.nbytes} bytes of data, got data_offsets {offsets}")
        spans.append((offsets[0], offsets[1], name))
    spans.sort()
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise ValueError(f"{name}: expected its data to start at byte {end}, got {start}: a hole or an overlap")
        end = stop
    if end != num_bytes:
        raise ValueError(f"expected {end} bytes of tensors, got {num_bytes}: truncated, or with something appended")
    return [(name, start, stop) for start, stop, name in spans]
