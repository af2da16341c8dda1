// The net: its flat buffers, its tensors by name, and the checked calls of the C interface. Code below this file does
// not check again.
#ifndef GRADCORE_NETWORK_NETWORK_HPP
#define GRADCORE_NETWORK_NETWORK_HPP

#include <memory>
#include <string>
#include <vector>

#include "network/schedule.hpp"

namespace gradcore {

class Network;

// Optimizer state for one net, of the net's element type.
class NetOptimizer {
 public:
  static constexpr index kMostSteps = index(1) << 53;  // the bias corrections are double, which counts no further

  NetOptimizer(Network &net, const gradcore_optimizer_config &config);

  gradcore_optimizer_config &config() const noexcept;
  index &step() const noexcept;
  int num_states() const noexcept;
  void *state(int i) const noexcept;

  Network &net;
  std::unique_ptr<Optimizer<float>> f32;
  std::unique_ptr<Optimizer<double>> f64;
};

// What a training step does besides the gradients.
struct StepOptions {
  double clip_norm = 0, clip_value = 0;
  bool record = false;
};

class Network {
 public:
  // Check the values of a struct that read_config (handles.hpp) has copied.
  static gradcore_status check_config(const gradcore_net_config *config) noexcept;
  gradcore_status check_optimizer(const gradcore_optimizer_config *config) const noexcept;
  explicit Network(const gradcore_net_config &config);  // checked; may throw std::bad_alloc

  // Each may throw std::bad_alloc, before anything has changed.
  gradcore_status forward(const gradcore_matrix *input, bool training, const gradcore_output_matrix &output);
  gradcore_status backward(const gradcore_matrix *grad_output, const gradcore_output_matrix *grad_input);
  // With an optimizer: a whole step. *step receives loss and norm.
  gradcore_status gradient(const gradcore_matrix *input, const gradcore_target_data *target, int loss,
                           NetOptimizer *optimizer, const StepOptions &options, gradcore_step *step);
  gradcore_status loss(const gradcore_matrix *input, const gradcore_target_data *target, int loss, double *value);
  gradcore_status update(NetOptimizer &optimizer, const StepOptions &options, gradcore_step *step);
  gradcore_status clip_adaptive(double clipping, double eps);

  // Its configuration; the arrays live as long as the net.
  gradcore_net_config config() const noexcept;
  const Architecture &architecture() const noexcept { return net_; }
  void *parameters() const noexcept { return parameters_.data(); }
  void *gradients() const noexcept { return gradients_.data(); }
  void *buffers() const noexcept { return buffers_.data(); }
  void parameters_changed() noexcept;
  index workspace_bytes() const noexcept;

  int num_flow_layers() const noexcept;
  gradcore_layer_flow flow(int layer) const noexcept;
  void flow_histogram(int layer, int which, index *histogram) const noexcept;

  // The origin of the initial weights, as stored in files: an initializer's name, and a seed's digits (empty: none).
  struct Origin {
    static constexpr std::size_t kMaxInit = 255, kMaxSeed = 4300;  // the second is Python's own limit
    std::string init = "custom", seed;
  };
  Origin origin;
  gradcore_status set_origin(std::string init, std::string seed);

  ThreadSource threads;  // that its calls run on

 private:
  template <class F>
  auto with_schedule(F &&f) const {
    return f32_ ? f(*f32_) : f(*f64_);
  }
  gradcore_status check_matrix(const char *name, const gradcore_matrix *matrix, index cols) const noexcept;
  gradcore_status check_output(const char *name, const gradcore_output_matrix &matrix, index rows,
                               index cols) const noexcept;
  gradcore_status check_target(const gradcore_target_data *target, int loss, index rows) const noexcept;
  gradcore_status check_training_rows(index rows) const noexcept;
  gradcore_status report_non_finite(const char *name, const gradcore_matrix &matrix) const noexcept;
  gradcore_status report_norm(double total_norm) const noexcept;
  void clear_padding() noexcept;

  const Architecture net_;
  const std::vector<int64_t> widths_;
  const std::vector<int32_t> activations_;
  const int32_t normalization_, residual_, bias_;
  AlignedBuffer parameters_, gradients_, buffers_;
  AlignedBuffer spare_buffers_;  // buffers_ before a step that may be refused
  std::unique_ptr<Schedule<float>> f32_;
  std::unique_ptr<Schedule<double>> f64_;
  index saved_rows_ = 0;  // of a forward(training) that backward may follow; 0: none
};

}  // namespace gradcore

#endif
