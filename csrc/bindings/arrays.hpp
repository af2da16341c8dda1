// Shared by all bindings: statuses become exceptions, arrays become pointers, objects are checked.
//
// Arrays are used as they are or refused. An array that cannot be used directly raises ConversionNeeded before any
// native code runs; the Python layer (gradcore/_check.py) then converts it or says what is wrong.
#ifndef GRADCORE_BINDINGS_ARRAYS_HPP
#define GRADCORE_BINDINGS_ARRAYS_HPP

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradcore/gradcore.h"

namespace gradcore::bindings {

namespace py = pybind11;

struct ConversionNeeded : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void throw_status(gradcore_status status, const std::string &text) {
  PyObject *type = PyExc_RuntimeError;
  if (status == GRADCORE_INVALID_ARGUMENT || status == GRADCORE_INVALID_STATE) type = PyExc_ValueError;
  if (status == GRADCORE_NON_FINITE) type = PyExc_FloatingPointError;
  if (status == GRADCORE_OUT_OF_MEMORY) type = PyExc_MemoryError;
  py::set_error(type, text.c_str());
  throw py::error_already_set();
}

inline void check(gradcore_status status) {
  if (status != GRADCORE_OK) throw_status(status, gradcore_last_error());
}

// The native call, without the GIL. The error text belongs to this thread and survives reacquiring the GIL.
// While the interpreter shuts down, Python before 3.14 unwinds a thread that wants the GIL back. From a destructor,
// such as that of pybind11's guard, this would end the process; farther up it would run destructors of Python objects.
// So the thread waits here, as it does in newer Pythons.
template <class Call>
gradcore_status released(Call call) {
  PyThreadState *state = PyEval_SaveThread();
  const gradcore_status status = call();
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    for (;;) pause();
  }
  return status;
}

template <class Call>
void run_released(Call call) {
  check(released(call));
}

inline py::dtype numpy_dtype(int32_t dtype) {
  return dtype == GRADCORE_FLOAT64 ? py::dtype::of<double>() : py::dtype::of<float>();
}

inline py::ssize_t item_size(int32_t dtype) {
  return dtype == GRADCORE_FLOAT64 ? py::ssize_t{sizeof(double)} : py::ssize_t{sizeof(float)};
}

// For native arrays NumPy reports '=', or the order itself if a buffer gave it, as those of ctypes do.
constexpr char kSwappedOrder = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';

// Native byte order, aligned, and of exactly this NumPy type number. The Python layer handles subclasses, such as
// masked arrays.
inline bool has_type_number(const py::array &array, int number) {
  const py::dtype type = array.dtype();
  const bool plain = reinterpret_cast<PyObject *>(Py_TYPE(array.ptr())) ==
                     reinterpret_cast<PyObject *>(py::detail::npy_api::get().PyArray_Type_);
  return plain && type.num() == number && type.byteorder() != kSwappedOrder &&
         (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

inline bool has_dtype(const py::array &array, int32_t dtype) {
  using api = py::detail::npy_api;
  return has_type_number(array, dtype == GRADCORE_FLOAT64 ? api::NPY_DOUBLE_ : api::NPY_FLOAT_);
}

inline bool is_contiguous(const py::array &array) { return (array.flags() & py::array::c_style) != 0; }

inline int32_t dtype_of(const py::array &array, const char *name) {
  if (has_dtype(array, GRADCORE_FLOAT32)) return GRADCORE_FLOAT32;
  if (has_dtype(array, GRADCORE_FLOAT64)) return GRADCORE_FLOAT64;
  throw ConversionNeeded(std::string(name) + ": expected an aligned float32 or float64 array");
}

// A matrix whose rows are contiguous; the rows themselves may be strided.
inline bool as_matrix(py::handle object, int32_t dtype, gradcore_matrix *matrix) {
  if (!py::isinstance<py::array>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() != 2 || !has_dtype(array, dtype)) return false;
  const py::ssize_t item = item_size(dtype), rows = array.shape(0), cols = array.shape(1);
  py::ssize_t stride = cols;
  if (rows > 1) {
    if (array.strides(0) % item != 0 || array.strides(0) < cols * item) return false;
    stride = array.strides(0) / item;
  }
  if (cols > 1 && array.strides(1) != item) return false;
  *matrix = {array.data(), rows, cols, stride};
  return true;
}

inline gradcore_matrix matrix_of(py::handle object, int32_t dtype, const char *name) {
  gradcore_matrix matrix{};
  if (!as_matrix(object, dtype, &matrix)) {
    throw ConversionNeeded(std::string(name) + ": expected a 2-D array of the net's dtype with contiguous rows");
  }
  return matrix;
}

// A contiguous vector of `length` elements; None gives nullptr if allowed.
inline const void *vector_of(py::handle object, int32_t dtype, py::ssize_t length, const char *name,
                             bool optional = false) {
  if (optional && object.is_none()) return nullptr;
  if (py::isinstance<py::array>(object)) {
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() == 1 && array.shape(0) == length && is_contiguous(array) && has_dtype(array, dtype)) {
      return array.data();
    }
  }
  throw ConversionNeeded(std::string(name) + ": expected a contiguous 1-D array of the right dtype and length");
}

inline void expect_shape(const gradcore_matrix &matrix, py::ssize_t rows, py::ssize_t cols, const char *name) {
  if (matrix.rows != rows || matrix.cols != cols) throw ConversionNeeded(std::string(name) + ": wrong shape");
}

// Labels are int64 [rows]; values are [rows, out], or [rows] if there is one output.
inline gradcore_target_data target_of(py::handle object, int32_t dtype, int32_t loss, py::ssize_t rows,
                                      py::ssize_t cols) {
  gradcore_target_data target{};
  if (as_matrix(object, dtype, &target.values)) {
    expect_shape(target.values, rows, cols, "target");
    return target;
  }
  if (py::isinstance<py::array>(object)) {
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() == 1 && array.shape(0) == rows && is_contiguous(array)) {
      if (loss == GRADCORE_CROSS_ENTROPY && has_type_number(array, py::detail::npy_api::NPY_INT64_)) {
        target.labels = static_cast<const int64_t *>(array.data());
        target.num_labels = rows;
        return target;
      }
      if (cols == 1 && has_dtype(array, dtype)) {
        target.values = {array.data(), rows, 1, 1};
        return target;
      }
    }
  }
  throw ConversionNeeded("target: expected int64 labels [batch] or values [batch, out] of the net's dtype");
}

inline py::array new_array(int32_t dtype, std::vector<py::ssize_t> shape) {
  return {numpy_dtype(dtype), std::move(shape)};
}

inline std::pair<int32_t, py::ssize_t> exponent_bins(int32_t dtype) {
  if (dtype == GRADCORE_FLOAT64) return {GRADCORE_MIN_EXPONENT_F64, GRADCORE_NUM_BINS_F64};
  return {GRADCORE_MIN_EXPONENT_F32, GRADCORE_NUM_BINS_F32};
}

void bind_net(py::module_ &module);  // net.cpp
void bind_ops(py::module_ &module);  // ops.cpp

}  // namespace gradcore::bindings

// An object made by __new__ alone has no C++ object; pybind11 would allocate uninitialized memory for it.
namespace pybind11::detail {

template <class T>
struct initialized_caster : type_caster_base<T> {
  bool load(handle source, bool convert) {
    if (isinstance<T>(source) &&
        !reinterpret_cast<instance *>(source.ptr())->get_value_and_holder(this->typeinfo).value_ptr()) {
      throw type_error("expected an initialized object, got one whose __init__ was never called");
    }
    return type_caster_base<T>::load(source, convert);
  }
};

// In the header, because every file must convert a type in the same way.
template <>
struct type_caster<gradcore_array_stats> : initialized_caster<gradcore_array_stats> {};
template <>
struct type_caster<gradcore_layer_flow> : initialized_caster<gradcore_layer_flow> {};

}  // namespace pybind11::detail

#endif
