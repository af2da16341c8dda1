# `cimport gradcore`: libgradcore from Cython, with the GIL released.
#
# All of gradcore/gradcore.h under its own names, and four helpers that are compiled into the module
# that uses them. That module is compiled with the directory of gradcore.get_include() and linked with
# libgradcore in gradcore.get_library_dir(); examples/cython shows how. It shares the one copy of the
# library with Python's gradcore.

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t

from gradcore.gradcore cimport *

ctypedef fused gradcore_real:
    float
    double


cdef inline int gradcore_check(gradcore_status status) except -1 nogil:
    """0 for GRADCORE_OK; otherwise raises what Python's gradcore raises, with the library's own text."""
    if status == GRADCORE_OK:
        return 0
    cdef int reason = errno
    with gil:
        text = gradcore_last_error().decode("utf-8", "replace")
        if status == GRADCORE_NON_FINITE:
            raise FloatingPointError(text)
        if status == GRADCORE_OUT_OF_MEMORY:
            raise MemoryError(text)
        if status == GRADCORE_IO_ERROR:
            raise OSError(reason, text)
        if status == GRADCORE_INTERNAL:
            raise RuntimeError(text)
        raise ValueError(text)


cdef inline gradcore_matrix gradcore_matrix_of(const gradcore_real[:, ::1] values) noexcept nogil:
    """The matrix [rows, cols] that a memoryview shows, in its own memory."""
    cdef gradcore_matrix matrix
    matrix.data = NULL
    if values.shape[0] > 0 and values.shape[1] > 0:
        with cython.boundscheck(False):
            matrix.data = <const void *> &values[0, 0]
    matrix.rows, matrix.cols, matrix.stride = values.shape[0], values.shape[1], values.shape[1]
    return matrix


cdef inline gradcore_target_data gradcore_labels_of(const int64_t[::1] labels) noexcept nogil:
    """Labels [rows] as a target; no rows give no target, which every function refuses."""
    cdef gradcore_target_data target
    target.labels = NULL
    if labels.shape[0] > 0:
        with cython.boundscheck(False):
            target.labels = <const int64_t *> &labels[0]
    target.num_labels = labels.shape[0]
    target.values.data = NULL
    target.values.rows = target.values.cols = target.values.stride = 0
    return target


cdef inline gradcore_target_data gradcore_values_of(const gradcore_real[:, ::1] values) noexcept nogil:
    """Values [rows, out_features] as a target."""
    cdef gradcore_target_data target
    target.labels = NULL
    target.num_labels = 0
    target.values = gradcore_matrix_of(values)
    return target
