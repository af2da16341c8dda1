"""A thin ctypes layer over libgradcore, to call the C interface as a C program would: raw pointers, any
alignment, row strides, and guard bytes around everything."""

import ctypes
from pathlib import Path

import numpy as np

import gradcore as gc

GUARD_BYTES = 256
OUTPUT_FILL = 0xA5
INPUT_FILL = 0xFF  # NaN in every float type: reading beyond an input spoils the result


class Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("stride", ctypes.c_int64),
    )


class TargetData(ctypes.Structure):
    _fields_ = (("labels", ctypes.c_void_p), ("values", Matrix), ("num_labels", ctypes.c_int64))


class Guarded:
    """An array between guard bytes, off any vector alignment; rows may lie `stride` elements apart."""

    def __init__(self, shape, dtype, fill=OUTPUT_FILL, stride=None):
        item = np.dtype(dtype).itemsize
        stride = stride or shape[-1]
        strides = (stride * item, item)[-len(shape) :]
        extent = (shape[0] * stride if len(shape) == 2 else shape[0]) * item
        self.fill = fill
        self.raw = np.full(2 * GUARD_BYTES + item + extent, fill, np.uint8)
        self.array = self._view(self.raw, shape, dtype, strides)

    @staticmethod
    def _view(raw, shape, dtype, strides):
        item = np.dtype(dtype).itemsize
        start = -raw.ctypes.data % 64 + item  # one element past a 64-byte boundary
        return np.ndarray(shape, dtype, buffer=raw, offset=GUARD_BYTES // 2 + start % 64, strides=strides)

    def assert_guards_intact(self):
        rest = self.raw.copy()
        offset = self.array.ctypes.data - self.raw.ctypes.data
        view = np.ndarray((*self.array.shape, self.array.itemsize), np.uint8, rest, offset, (*self.array.strides, 1))
        view[...] = self.fill
        assert (rest == self.fill).all(), "bytes outside the array were written"


def guarded_input(values, stride=None):
    """A copy of `values` that sits in NaNs."""
    guarded = Guarded(values.shape, values.dtype, INPUT_FILL, stride)
    guarded.array[...] = values
    return guarded.array


def pointer(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def matrix(array):
    return Matrix(array.ctypes.data, *array.shape, array.strides[0] // array.itemsize)


def target_data(array):
    """Labels (int64) or values, as gradcore_target_data."""
    if array.dtype == np.int64:
        return TargetData(array.ctypes.data, Matrix(), len(array))
    return TargetData(None, matrix(array), 0)


def dtype_code(dtype):
    return {"float32": 0, "float64": 1}[np.dtype(dtype).name]


def library():
    return ctypes.CDLL(str(next(Path(gc.__file__).parent.glob("lib*/libgradcore.*"))))


def call(function, *arguments):
    """Calls gradcore_<function>; structures go by reference. Fails with the library's own text."""
    lib = library()
    references = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments]
    status = getattr(lib, f"gradcore_{function}")(*references)
    lib.gradcore_last_error.restype = ctypes.c_char_p
    assert status == 0, lib.gradcore_last_error().decode()
