#include "analysis/recorder.hpp"

#include <cmath>
#include <cstring>

namespace gradcore {

Recorder::Recorder(const Architecture &net, Elementwise activation, Elementwise derivative, int loss)
    : net_(net), gradient_sum_(std::size_t(net.flat_size)) {
  evidence_.net = &net;
  evidence_.activation = activation;
  evidence_.derivative = derivative;
  evidence_.loss = loss;
  evidence_.layers.resize(net.layers.size());
  for (std::size_t l = 0; l < net.layers.size(); l++) evidence_.layers[l].spec = &net.layers[l];
}

void Recorder::reset() noexcept {
  evidence_.flows.clear();
  evidence_.losses.clear();
  std::memset(gradient_sum_.data(), 0, gradient_sum_.size() * sizeof(double));
  input_norm_ = input_count_ = 0;
  rows_ = 0;
}

void Recorder::add(const gradcore_layer_flow *flows, const void *gradients, const gradcore_matrix *input, double loss) {
  const std::size_t depth = net_.layers.size();
  const int pass = passes();
  evidence_.flows.resize(std::size_t(pass + 1) * depth);  // grows by doubling
  evidence_.losses.resize(std::size_t(pass + 1));
  std::memcpy(&evidence_.flows[std::size_t(pass) * depth], flows, depth * sizeof *flows);
  evidence_.losses[std::size_t(pass)] = loss;
  rows_ = flows[0].activation.count / net_.layers[0].out;
  for (index i = 0; i < net_.flat_size; i++) gradient_sum_[std::size_t(i)] += element(gradients, i);
  if (!input) return;
  for (index r = 0; r < input->rows; r++)
    input_norm_ = std::hypot(input_norm_, norm(input->data, r * input->stride, input->cols));
  input_count_ += double(input->rows) * double(input->cols);
}

double Recorder::element(const void *values, index i) const noexcept {
  return net_.dtype != GRADCORE_FLOAT64 ? double(static_cast<const float *>(values)[i])
                                        : static_cast<const double *>(values)[i];
}

double Recorder::norm(const void *values, index first, index count) const noexcept {
  return root_of_squares(count, [&](index i) { return element(values, first + i); });
}

Evidence &Recorder::evidence(const void *parameters) noexcept {
  evidence_.input_rms = input_count_ > 0 ? input_norm_ / std::sqrt(input_count_) : 1.0;
  read_parameters(parameters);
  evidence_.summarize();
  return evidence_;
}

double Recorder::gradient_norm(int tensor) const noexcept {
  const TensorInfo &info = net_.parameters[std::size_t(tensor)];
  return root_of_squares(info.size(), [&](index i) { return gradient_sum_[std::size_t(info.offset + i)]; });
}

// Fills in what depends on the parameters. A layer whose gradient is zero is `waking` if a tensor of zeros above it
// stops the gradient but has one of its own, like a zero-initialized output or branch, and if every activation in
// between passes a gradient: after the first steps the tensor is no longer zero.
void Recorder::read_parameters(const void *parameters) noexcept {
  bool gate_above = false;
  for (std::size_t l = net_.layers.size(); l-- > 0;) {
    const LayerSpec &spec = net_.layers[l];
    LayerEvidence &layer = evidence_.layers[l];
    layer.finite = true, layer.moving = false;
    double norms[4] = {};
    const int tensors[4] = {spec.weight, spec.bias, spec.norm_weight, spec.norm_bias};
    for (int i = 0; i < 4; i++) {
      if (tensors[i] < 0) continue;
      const TensorInfo &info = net_.parameters[std::size_t(tensors[i])];
      norms[i] = norm(parameters, info.offset, info.size());
      layer.finite &= std::isfinite(norms[i]);
      layer.moving |= gradient_norm(tensors[i]) > 0;
    }
    layer.weight_var = norms[0] * norms[0] / double(spec.out);
    layer.bias_var = norms[1] * norms[1] / double(spec.out);
    const double gradient = gradient_norm(spec.weight);
    layer.mean_gradient = gradient / passes();
    // Each row of the weights and of their gradient is compared with the next. Sums run in the same order for all
    // units, so that equal units agree to the bit.
    const TensorInfo &weight = net_.parameters[std::size_t(spec.weight)];
    const std::size_t rest = std::size_t(weight.size() - spec.in), size = std::size_t(net_.element_size());
    const char *first = static_cast<const char *>(parameters) + std::size_t(weight.offset) * size;
    const double *sums = &gradient_sum_[std::size_t(weight.offset)];
    layer.alike = spec.hidden && rest && gradient > 0 &&
                  !std::memcmp(first, first + std::size_t(spec.in) * size, rest * size) &&
                  !std::memcmp(sums, sums + spec.in, rest * sizeof *sums);
    bool passes_on = false;
    for (int pass = 0; pass < passes(); pass++) passes_on |= evidence_.flow(pass, int(l)).mean_squared_derivative > 0;
    if (spec.norm_weight >= 0 && norms[2] == 0) gate_above |= gradient_norm(spec.norm_weight) > 0;
    gate_above &= passes_on;
    layer.waking = gate_above;
    gate_above |= norms[0] == 0 && gradient > 0;
  }
}

}  // namespace gradcore
