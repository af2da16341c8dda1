// What is judged: recorded passes of one net, and its current parameters.
#ifndef GRADCORE_ANALYSIS_EVIDENCE_HPP
#define GRADCORE_ANALYSIS_EVIDENCE_HPP

#include <algorithm>
#include <cmath>
#include <vector>

#include "analysis/gaussian.hpp"
#include "network/architecture.hpp"

namespace gradcore {

// The limits of the judgement; gradcore/analysis/subject.py has the derivation of each.
namespace limits {
inline constexpr double kNormRatio = 100.0, kLearningSteps = 1e5, kOvershoot = 4.0, kDiverged = 10.0;
inline constexpr double kFalseAlarm = 1e-3, kSaturated = 0.5, kInputScale = 10.0, kUnderflow = 0.05;
}  // namespace limits

// The root of the sum of value(i)^2 over n values, whose squares may leave the range of double.
template <class Value>
double root_of_squares(index n, Value &&value) noexcept {
  double squares = 0, largest = 0, scaled = 0;
  for (index i = 0; i < n; i++) squares += value(i) * value(i);
  if (kept_digits(squares)) return std::sqrt(squares);
  for (index i = 0; i < n; i++) largest = std::max(largest, std::fabs(value(i)));
  if (largest == 0 || std::isinf(largest)) return std::sqrt(squares);
  for (index i = 0; i < n; i++) scaled += (value(i) / largest) * (value(i) / largest);
  return largest * std::sqrt(scaled);
}

// One dense layer l over all passes: norms are root mean squares, shares are means.
struct LayerEvidence {
  const LayerSpec *spec;
  double activation, delta, grad_output, grad_preact, weight, weight_grad;  // norms of the flow
  double squared_slope, saturated, subnormal, lost_in_fp16, lost_in_bf16, update_ratio;
  double dead_units;            // the fewest of any pass
  double weight_var, bias_var;  // fan_in * mean(W^2) and mean(b^2) of the current parameters
  double mean_gradient;         // |mean of dL/dW over the passes|
  double preact_square;         // mean square of z for random weights of the measured size
  double weight_gain;           // |dL/dh_l|^2 per unit of |delta_{l+1}|^2 for random directions, without a skip
  double branch_gain;           // the same per unit of |dL/dh_{l+1}|^2, without the 1 that a skip adds
  // Variance of ln |delta_l|^2 - ln |delta_{l+1}|^2 from finite width, and the part of it that comes from how weights
  // and gradient are aligned.
  double width_noise, alignment;
  bool usable;  // whether that difference is finite in every pass
  bool finite;  // all its parameters are finite
  bool alike;   // its units are equal, and so are their gradients
  bool waking;  // a zero gradient comes from zero parameters above it, which the next steps change
  bool moving;  // any of its parameters has a gradient
};

struct Evidence {
  const Architecture *net;
  Elementwise activation, derivative;
  int loss;                                // gradcore_loss
  std::vector<gradcore_layer_flow> flows;  // [passes, depth]
  std::vector<double> losses;              // [passes]
  double input_rms = 1;                    // root mean square of the inputs
  std::vector<LayerEvidence> layers;

  // The optimizer judged; without one, plain SGD at the usual rate.
  bool has_optimizer = false;
  int kind = GRADCORE_SGD;
  double lr = 0.01, eps = 1e-8;
  double added_decay = 0;  // weight decay that the optimizer adds to the gradient
  double memory = 1;       // number of gradients that momentum adds up in a step, in the long run
  bool trained = false;    // the optimizer has taken steps on this net

  int depth() const noexcept { return int(layers.size()); }
  int passes() const noexcept { return int(losses.size()); }
  const gradcore_layer_flow &flow(int pass, int layer) const noexcept {
    return flows[std::size_t(pass * depth() + layer)];
  }
  double rows() const noexcept { return double(flows[0].activation.count / net->layers[0].out); }
  double mean_loss() const noexcept;
  bool adaptive() const noexcept { return kind != GRADCORE_SGD; }
  bool single() const noexcept { return net->dtype != GRADCORE_FLOAT64; }
  double unit_roundoff() const noexcept { return single() ? 0x1p-24 : 0x1p-53; }
  // A norm below this is so close to the smallest subnormal number that entries have been lost.
  double near_underflow() const noexcept { return single() ? 1e-30 : 1e-290; }
  double smallest_normal() const noexcept { return single() ? 0x1p-126 : 0x1p-1022; }

  // The gradient that is passed on: delta or, with skip connections, dL/dh.
  double travelling(int layer) const noexcept {
    return net->any_residual ? layers[std::size_t(layer)].grad_output : layers[std::size_t(layer)].delta;
  }

  // Whether a layer's input is smaller than the delta at its output, entry by entry. dL/dW is their product; if it is
  // zero, this tells which of the two is the reason.
  bool starved(int layer) const noexcept;

  double increment(int pass, int layer) const noexcept;  // of ln |.|^2 from the layer above to this one

  // Fills the layers from the flows; members that depend on the parameters are already set.
  void summarize() noexcept;
};

}  // namespace gradcore

#endif
