// Bindings of clipping and of the single ops: plain arrays in, new arrays out.
#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace gradcore::bindings {
namespace {

// ---- clipping ------------------------------------------------------------------------------------

struct Arrays {
  int32_t dtype = GRADCORE_FLOAT32;
  std::vector<void *> data;
  std::vector<int64_t> sizes;

  explicit Arrays(const std::vector<py::array> &arrays) {
    if (arrays.empty()) throw py::value_error("grads: expected at least one array");
    dtype = dtype_of(arrays.front(), "grads[0]");
    for (size_t i = 0; i < arrays.size(); ++i) {
      const py::array &array = arrays[i];
      if (!has_dtype(array, dtype) || !is_contiguous(array) || !array.writeable()) {
        throw ConversionNeeded("grads[" + std::to_string(i) + "]: expected a writable C-contiguous array of one dtype");
      }
      data.push_back(const_cast<void *>(array.data()));
      sizes.push_back(array.size());
    }
  }
  int32_t count() const { return static_cast<int32_t>(data.size()); }
};

double clip_grad_norm(const std::vector<py::array> &grads, double max_norm, double norm_type, bool error_if_nonfinite) {
  const Arrays arrays(grads);
  double total_norm = 0;
  run_released([&] {
    return gradcore_clip_grad_norm(arrays.dtype, arrays.data.data(), arrays.sizes.data(), arrays.count(), max_norm,
                                   norm_type, error_if_nonfinite, &total_norm);
  });
  return total_norm;
}

void clip_grad_value(const std::vector<py::array> &grads, double clip_value) {
  const Arrays arrays(grads);
  run_released([&] {
    return gradcore_clip_grad_value(arrays.dtype, arrays.data.data(), arrays.sizes.data(), arrays.count(), clip_value);
  });
}

// ---- single ops ----------------------------------------------------------------------------------
// Outputs are allocated here; every input is checked against the first one's dtype and shape.

using Shape = std::vector<py::ssize_t>;

py::array op_dense(const py::array &input, const py::array &weight, const py::object &bias) {
  const int32_t dtype = dtype_of(input, "input");
  const gradcore_matrix x = matrix_of(input, dtype, "input"), w = matrix_of(weight, dtype, "weight");
  expect_shape(w, w.rows, x.cols, "weight");
  const void *b = vector_of(bias, dtype, w.rows, "bias", true);
  py::array output = new_array(dtype, {x.rows, w.rows});
  run_released([&, y = output.mutable_data()] { return gradcore_op_dense(dtype, &x, &w, b, y); });
  return output;
}

py::tuple op_dense_backward(const py::array &grad_output, const py::array &input, const py::array &weight) {
  const int32_t dtype = dtype_of(grad_output, "grad_output");
  const gradcore_matrix dy = matrix_of(grad_output, dtype, "grad_output");
  const gradcore_matrix x = matrix_of(input, dtype, "input"), w = matrix_of(weight, dtype, "weight");
  expect_shape(x, dy.rows, x.cols, "input");
  expect_shape(w, dy.cols, x.cols, "weight");
  py::array grad_input = new_array(dtype, {x.rows, x.cols});
  py::array grad_weight = new_array(dtype, {w.rows, w.cols}), grad_bias = new_array(dtype, {w.rows});
  run_released([&, dx = grad_input.mutable_data(), dw = grad_weight.mutable_data(), db = grad_bias.mutable_data()] {
    return gradcore_op_dense_backward(dtype, &dy, &x, &w, dx, dw, db);
  });
  return py::make_tuple(grad_input, grad_weight, grad_bias);
}

void expect_contiguous(const py::array &array, const char *name) {
  if (!is_contiguous(array)) throw ConversionNeeded(std::string(name) + ": expected a C-contiguous array");
}

Shape shape_of(const py::array &array) { return {array.shape(), array.shape() + array.ndim()}; }

py::array op_activation(int32_t activation, const py::array &input) {
  const int32_t dtype = dtype_of(input, "input");
  expect_contiguous(input, "input");
  py::array output = new_array(dtype, shape_of(input));
  run_released([&, x = input.data(), size = input.size(), y = output.mutable_data()] {
    return gradcore_op_activation(dtype, activation, x, size, y);
  });
  return output;
}

py::array op_activation_backward(int32_t activation, const py::array &grad_output, const py::array &input) {
  const int32_t dtype = dtype_of(grad_output, "grad_output");
  expect_contiguous(grad_output, "grad_output");
  expect_contiguous(input, "input");
  if (!has_dtype(input, dtype) || shape_of(input) != shape_of(grad_output)) {
    throw ConversionNeeded("input: expected the dtype and shape of grad_output");
  }
  py::array grad_input = new_array(dtype, shape_of(input));
  run_released([&, dy = grad_output.data(), x = input.data(), size = input.size(), dx = grad_input.mutable_data()] {
    return gradcore_op_activation_backward(dtype, activation, dy, x, size, dx);
  });
  return grad_input;
}

py::tuple op_batch_norm(const py::array &input, const py::object &weight, const py::object &bias, double eps) {
  const int32_t dtype = dtype_of(input, "input");
  const gradcore_matrix x = matrix_of(input, dtype, "input");
  const void *gamma = vector_of(weight, dtype, x.cols, "weight"), *beta = vector_of(bias, dtype, x.cols, "bias");
  py::array output = new_array(dtype, {x.rows, x.cols});
  py::array save_mean = new_array(dtype, {x.cols}), save_invstd = new_array(dtype, {x.cols});
  run_released([&, y = output.mutable_data(), mean = save_mean.mutable_data(), invstd = save_invstd.mutable_data()] {
    return gradcore_op_batch_norm(dtype, &x, gamma, beta, eps, y, mean, invstd);
  });
  return py::make_tuple(output, save_mean, save_invstd);
}

py::tuple op_layer_norm(const py::array &input, const py::object &weight, const py::object &bias, bool rms,
                        double eps) {
  const int32_t dtype = dtype_of(input, "input");
  const gradcore_matrix x = matrix_of(input, dtype, "input");
  const void *gamma = vector_of(weight, dtype, x.cols, "weight"), *beta = vector_of(bias, dtype, x.cols, "bias", true);
  py::array output = new_array(dtype, {x.rows, x.cols});
  py::array save_mean = new_array(dtype, {x.rows}), save_invstd = new_array(dtype, {x.rows});
  run_released([&, y = output.mutable_data(), mean = save_mean.mutable_data(), invstd = save_invstd.mutable_data()] {
    return gradcore_op_layer_norm(dtype, &x, gamma, beta, rms, eps, y, mean, invstd);
  });
  return py::make_tuple(output, save_mean, save_invstd);
}

// All normalizations save a mean and an inverse deviation per column (batch) or per row (layer, rms).
enum class Norm { batch, layer, rms };

py::tuple norm_backward(Norm norm, const py::array &grad_output, const py::array &input, const py::object &weight,
                        const py::object &save_mean, const py::object &save_invstd) {
  const int32_t dtype = dtype_of(grad_output, "grad_output");
  const gradcore_matrix dy = matrix_of(grad_output, dtype, "grad_output"), x = matrix_of(input, dtype, "input");
  expect_shape(x, dy.rows, dy.cols, "input");
  const py::ssize_t saved = norm == Norm::batch ? x.cols : x.rows;
  const void *gamma = vector_of(weight, dtype, x.cols, "weight");
  const void *mean = vector_of(save_mean, dtype, saved, "save_mean");
  const void *invstd = vector_of(save_invstd, dtype, saved, "save_invstd");
  py::array grad_input = new_array(dtype, {x.rows, x.cols});
  py::array grad_weight = new_array(dtype, {x.cols}), grad_bias = new_array(dtype, {x.cols});
  run_released([&, dx = grad_input.mutable_data(), dgamma = grad_weight.mutable_data(),
                dbeta = grad_bias.mutable_data()] {
    if (norm == Norm::batch) {
      return gradcore_op_batch_norm_backward(dtype, &dy, &x, gamma, mean, invstd, dx, dgamma, dbeta);
    }
    const bool rms = norm == Norm::rms;
    return gradcore_op_layer_norm_backward(dtype, &dy, &x, gamma, mean, invstd, rms, dx, dgamma, rms ? nullptr : dbeta);
  });
  return py::make_tuple(grad_input, grad_weight, norm == Norm::rms ? py::object(py::none()) : py::object(grad_bias));
}

py::tuple op_loss(int32_t loss, const py::array &output, py::handle target, bool gradient) {
  const int32_t dtype = dtype_of(output, "output");
  const gradcore_matrix y = matrix_of(output, dtype, "output");
  Batch batch;
  const gradcore_target_data data = batch.target(target, dtype, loss, y.rows, y.cols);
  py::object grad_output = py::none();
  void *dy = nullptr;
  if (gradient) {
    py::array array = new_array(dtype, {y.rows, y.cols});
    dy = array.mutable_data();
    grad_output = std::move(array);
  }
  double value = 0;
  run_released([&] { return gradcore_op_loss(dtype, loss, &y, &data, &value, dy); });
  return py::make_tuple(value, grad_output);
}

py::tuple op_array_stats(const py::array &array) {
  const int32_t dtype = dtype_of(array, "array");
  expect_contiguous(array, "array");
  gradcore_array_stats stats{};
  py::array_t<int64_t> histogram(exponent_bins(dtype).second);
  run_released([&, x = array.data(), size = array.size(), bins = histogram.mutable_data()] {
    return gradcore_op_array_stats(dtype, x, size, &stats, bins);
  });
  return py::make_tuple(stats, histogram);
}

}  // namespace

void bind_ops(py::module_ &m) {
  m.def("clip_grad_norm", &clip_grad_norm);
  m.def("clip_grad_value", &clip_grad_value);
  m.def("op_dense", &op_dense);
  m.def("op_dense_backward", &op_dense_backward);
  m.def("op_activation", &op_activation);
  m.def("op_activation_backward", &op_activation_backward);
  m.def("op_batch_norm", &op_batch_norm);
  m.def("op_batch_norm_backward", [](const py::array &grad_output, const py::array &input, const py::object &weight,
                                     const py::object &save_mean, const py::object &save_invstd) {
    return norm_backward(Norm::batch, grad_output, input, weight, save_mean, save_invstd);
  });
  m.def("op_layer_norm", &op_layer_norm);
  m.def("op_layer_norm_backward", [](const py::array &grad_output, const py::array &input, const py::object &weight,
                                     const py::object &save_mean, const py::object &save_invstd, bool rms) {
    return norm_backward(rms ? Norm::rms : Norm::layer, grad_output, input, weight, save_mean, save_invstd);
  });
  m.def("op_loss", &op_loss);
  m.def("op_array_stats", &op_array_stats);
}

}  // namespace gradcore::bindings
