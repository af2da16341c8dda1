// Collects recorded passes of one net for a judgement.
#ifndef GRADCORE_ANALYSIS_RECORDER_HPP
#define GRADCORE_ANALYSIS_RECORDER_HPP

#include "analysis/evidence.hpp"

namespace gradcore {

class Recorder {
 public:
  // The architecture outlives the recorder. loss: gradcore_loss of the passes.
  Recorder(const Architecture &net, Elementwise activation, Elementwise derivative, int loss);

  int passes() const noexcept { return evidence_.passes(); }
  index rows() const noexcept { return rows_; }  // of each pass; 0 before the first
  void reset() noexcept;
  // flows [depth], gradients [flat_size] of the net's type; input may be null: its mean square is then taken as 1.
  // May throw std::bad_alloc, before anything has changed.
  void add(const gradcore_layer_flow *flows, const void *gradients, const gradcore_matrix *input, double loss);
  // The evidence of at least one pass and the current parameters; the caller fills in the optimizer.
  Evidence &evidence(const void *parameters) noexcept;

 private:
  double element(const void *values, index i) const noexcept;
  double norm(const void *values, index first, index count) const noexcept;
  void read_parameters(const void *parameters) noexcept;
  double gradient_norm(int tensor) const noexcept;

  const Architecture &net_;
  Evidence evidence_;
  std::vector<double> gradient_sum_;  // [flat_size]
  double input_norm_ = 0, input_count_ = 0;
  index rows_ = 0;
};

}  // namespace gradcore

#endif
