// The structure of a net: its layers, and the places of their tensors in the flat buffers. Fixed at creation.
#ifndef GRADCORE_NETWORK_ARCHITECTURE_HPP
#define GRADCORE_NETWORK_ARCHITECTURE_HPP

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace gradcore {

inline constexpr double kNormEps = 1e-5;      // of every normalization, as in PyTorch
inline constexpr double kNormMomentum = 0.1;  // running = (1 - momentum) * running + momentum * batch
inline constexpr double kLeakySlope = 0.01;

struct TensorInfo {
  std::string name;
  index offset, rows, cols;
  int rank;
  index size() const noexcept { return rows * cols; }
};

// Dense layer l and what follows it: z = W x + b, y = norm(z), h = act(y) (+ x when residual).
// The last layer stops at z.
struct LayerSpec {
  index in, out;
  bool hidden;
  bool residual;
  int activation;     // identity for the last layer
  int normalization;  // none for the last layer
  // Indices into Architecture::parameters / ::buffers, -1 where the layer has none.
  int weight = -1, bias = -1, norm_weight = -1, norm_bias = -1;
  int running_mean = -1, running_var = -1;

  bool batch_norm() const noexcept { return normalization == GRADCORE_NORM_BATCH; }
  bool row_norm() const noexcept { return normalization == GRADCORE_NORM_LAYER || normalization == GRADCORE_NORM_RMS; }
  // act' follows from the sign of h, so it need not be saved.
  bool slope_from_output() const noexcept {
    return !residual && (activation == GRADCORE_RELU || activation == GRADCORE_LEAKY_RELU);
  }
};

struct Architecture {
  std::vector<LayerSpec> layers;
  std::vector<TensorInfo> parameters, buffers;
  index flat_size = 0, flat_buffer_size = 0;  // elements, padding included
  gradcore_dtype dtype = GRADCORE_FLOAT32;
  bool any_batch_norm = false, any_residual = false;

  int depth() const noexcept { return int(layers.size()); }
  index element_size() const noexcept { return dtype == GRADCORE_FLOAT64 ? 8 : 4; }  // of all arrays, bytes
  index in_features() const noexcept { return layers.front().in; }
  index out_features() const noexcept { return layers.back().out; }
  index max_outputs() const noexcept;                                                  // of any layer
  index max_width() const noexcept { return std::max(in_features(), max_outputs()); }  // of any input or output
  // Floating-point operations of the forward products for one row.
  double forward_flops_per_row() const noexcept;
};

// The configuration has been checked. May throw std::bad_alloc.
Architecture make_architecture(const gradcore_net_config &config);

}  // namespace gradcore

#endif
