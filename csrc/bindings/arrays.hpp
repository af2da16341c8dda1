// Shared by all bindings: statuses become exceptions, arrays become pointers, objects are checked.
//
// Arrays are used as they are, except that batches of the other float type or order, and labels of other integer types,
// are copied (Batch). Anything else raises ConversionNeeded before any native code runs; the Python layer
// (gradcore/_check.py) then converts it or says what is wrong.
#ifndef GRADCORE_BINDINGS_ARRAYS_HPP
#define GRADCORE_BINDINGS_ARRAYS_HPP

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <cmath>
#include <limits>
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

// Not of a subclass, such as masked arrays, which the Python layer handles.
inline bool is_plain(const py::array &array) {
  return reinterpret_cast<PyObject *>(Py_TYPE(array.ptr())) ==
         reinterpret_cast<PyObject *>(py::detail::npy_api::get().PyArray_Type_);
}

// Native byte order, aligned, and of exactly this NumPy type number.
inline bool has_type_number(const py::array &array, int number) {
  const py::dtype type = array.dtype();
  return is_plain(array) && type.num() == number && type.byteorder() != kSwappedOrder &&
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

// Two loops, and an int for a flag, so that the compiler uses vectors.
template <class To, class From>
bool copy_row(const From *from, py::ssize_t step, py::ssize_t count, To *to) {
  for (py::ssize_t c = 0; c < count; ++c) to[c] = static_cast<To>(from[c * step]);
  int infinite = 0;
  for (py::ssize_t c = 0; c < count; ++c) infinite |= !(std::abs(to[c]) <= std::numeric_limits<To>::max());
  return !infinite;
}

// A copy of a matrix of either float type and any strides as contiguous rows of To. Returns false if a number is not
// finite afterwards: then the Python layer says whether it was before.
template <class To, class From>
bool copy_rows(const py::array &array, py::ssize_t rows, py::ssize_t cols, To *to) {
  constexpr py::ssize_t kItem = sizeof(From);
  const auto *from = static_cast<const char *>(array.data());
  const py::ssize_t step = array.ndim() == 2 ? array.strides(1) : kItem;
  if (step % kItem != 0) return false;  // fields of a record
  bool finite = true;
  for (py::ssize_t r = 0; r < rows; ++r) {
    const auto *row = reinterpret_cast<const From *>(from + r * array.strides(0));
    finite &= step == kItem ? copy_row(row, 1, cols, to + r * cols) : copy_row(row, step / kItem, cols, to + r * cols);
  }
  return finite;
}

// The arguments of a pass as the core takes them. What users of NumPy mostly pass instead is copied here, which costs a
// small batch 0.4 us; the Python layer's conversions cost 8 to 12 (bench/test_gradient.py: test_forms_of_a_batch).
// Copies live as long as this object.
class Batch {
 public:
  // x [rows, cols].
  gradcore_matrix input(py::handle x, int32_t dtype, py::ssize_t cols) {
    gradcore_matrix matrix{};
    if (!as_matrix(x, dtype, &matrix) && !copy(x, 2, dtype, cols, &x_, &matrix)) matrix = matrix_of(x, dtype, "x");
    expect_shape(matrix, matrix.rows, cols, "x");
    return matrix;
  }
  // Labels [rows], or values [rows, cols], or [rows] if there is one output.
  gradcore_target_data target(py::handle y, int32_t dtype, int32_t loss, py::ssize_t rows, py::ssize_t cols) {
    gradcore_target_data target{};
    if (loss == GRADCORE_CROSS_ENTROPY && labels(y, rows, &target)) return target;
    if (!as_matrix(y, dtype, &target.values) && !copy(y, cols == 1 ? 1 : 2, dtype, cols, &y_, &target.values))
      throw ConversionNeeded("target: expected labels [batch] or values [batch, out]");
    expect_shape(target.values, rows, cols, "target");
    return target;
  }

 private:
  // least_ndim: 1 takes a vector for a column, which is used in place if it can be.
  static bool copy(py::handle object, py::ssize_t least_ndim, int32_t dtype, py::ssize_t cols, py::object *kept,
                   gradcore_matrix *matrix) {
    if (!py::isinstance<py::array>(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() < least_ndim || array.ndim() > 2 || (array.ndim() == 2 && array.shape(1) != cols)) return false;
    if (array.ndim() == 1 && is_contiguous(array) && has_dtype(array, dtype)) {
      *matrix = {array.data(), array.shape(0), 1, 1};
      return true;
    }
    const bool wide = has_dtype(array, GRADCORE_FLOAT64);
    if (!wide && !has_dtype(array, GRADCORE_FLOAT32)) return false;
    const py::ssize_t rows = array.shape(0);
    py::array copy(numpy_dtype(dtype), {rows, cols});
    bool finite = false;
    if (dtype == GRADCORE_FLOAT64) {
      auto *to = static_cast<double *>(copy.mutable_data());
      finite =
          wide ? copy_rows<double, double>(array, rows, cols, to) : copy_rows<double, float>(array, rows, cols, to);
    } else {
      auto *to = static_cast<float *>(copy.mutable_data());
      finite = wide ? copy_rows<float, double>(array, rows, cols, to) : copy_rows<float, float>(array, rows, cols, to);
    }
    if (!finite) return false;
    *matrix = {copy.data(), rows, cols, cols};
    *kept = std::move(copy);
    return true;
  }
  // Integers of all types that int64 holds.
  bool labels(py::handle object, py::ssize_t rows, gradcore_target_data *target) {
    if (!py::isinstance<py::array>(object)) return false;
    auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() != 1 || array.shape(0) != rows || !is_plain(array)) return false;
    if (!is_contiguous(array) || !has_type_number(array, py::detail::npy_api::NPY_INT64_)) {
      const py::dtype type = array.dtype();
      const char kind = type.kind();
      if (kind != 'i' && kind != 'b' && (kind != 'u' || type.itemsize() == 8)) return false;
      array = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
      if (!array) return false;
    }
    target->labels = static_cast<const int64_t *>(array.data());
    target->num_labels = rows;
    y_ = std::move(array);
    return true;
  }

  py::object x_, y_;
};

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
