#include "network/architecture.hpp"

#include <algorithm>

namespace gradcore {

namespace {

// Places tensors one after another, at multiples of 64 bytes.
class Layout {
 public:
  Layout(std::vector<TensorInfo> &tensors, index &size, index alignment)
      : tensors_(tensors), size_(size), alignment_(alignment) {}

  int vector(std::string name, index length) { return place(std::move(name), 1, length, 1); }
  int matrix(std::string name, index rows, index cols) { return place(std::move(name), rows, cols, 2); }

 private:
  int place(std::string name, index rows, index cols, int rank) {
    tensors_.push_back({std::move(name), size_, rows, cols, rank});
    size_ += (rows * cols + alignment_ - 1) / alignment_ * alignment_;
    return int(tensors_.size()) - 1;
  }
  std::vector<TensorInfo> &tensors_;
  index &size_;
  const index alignment_;
};

}  // namespace

index Architecture::max_outputs() const noexcept {
  index width = 0;
  for (const LayerSpec &layer : layers) width = std::max(width, layer.out);
  return width;
}

double Architecture::forward_flops_per_row() const noexcept {
  double flops = 0;
  for (const LayerSpec &layer : layers) flops += 2.0 * double(layer.in) * double(layer.out);
  return flops;
}

Architecture make_architecture(const gradcore_net_config &config) {
  Architecture net;
  net.dtype = gradcore_dtype(config.dtype);
  const index alignment = index(kCacheLine) / net.element_size();
  Layout parameters(net.parameters, net.flat_size, alignment);
  Layout buffers(net.buffers, net.flat_buffer_size, alignment);
  const int depth = config.num_widths - 1;
  for (int l = 0; l < depth; l++) {
    LayerSpec layer{};
    layer.in = config.widths[l];
    layer.out = config.widths[l + 1];
    layer.hidden = l < depth - 1;
    layer.residual = layer.hidden && config.residual && layer.in == layer.out;
    layer.activation = layer.hidden ? config.activations[l] : GRADCORE_IDENTITY;
    layer.normalization = layer.hidden ? config.normalization : GRADCORE_NORM_NONE;
    const std::string dense = "dense" + std::to_string(l), norm = "norm" + std::to_string(l);
    layer.weight = parameters.matrix(dense + ".weight", layer.out, layer.in);
    layer.bias = config.bias ? parameters.vector(dense + ".bias", layer.out) : -1;
    layer.norm_weight = layer.normalization ? parameters.vector(norm + ".weight", layer.out) : -1;
    const bool shifts = layer.batch_norm() || layer.normalization == GRADCORE_NORM_LAYER;
    layer.norm_bias = shifts ? parameters.vector(norm + ".bias", layer.out) : -1;
    layer.running_mean = layer.batch_norm() ? buffers.vector(norm + ".running_mean", layer.out) : -1;
    layer.running_var = layer.batch_norm() ? buffers.vector(norm + ".running_var", layer.out) : -1;
    net.any_batch_norm |= layer.batch_norm();
    net.any_residual |= layer.residual;
    net.layers.push_back(layer);
  }
  return net;
}

}  // namespace gradcore
