#include "analysis/causes.hpp"

#include <algorithm>
#include <cmath>

#include "init/initialize.hpp"

namespace gradcore {

namespace {

// Weight variance (times fan_in) beyond which pre-activations of unit inputs have a deviation of 2 and more.
constexpr double kLargeWeightVar = 4.0;
constexpr double kMainShare = 0.5;        // of the slope, that a factor explains when it is the cause
constexpr double kSaturatedSlope = 0.25;  // of the mean squared derivative that inputs of unit variance give
constexpr double kLargeExcess = 1.5;      // of a weight variance over the critical one: no matter of chance or scheme
constexpr double kMildGrowth = 1.2;       // a layer of squared gradients, that good designs show too
constexpr double kLargeInput = 0x1p40;    // whose square alone uses up a third of float32's exponents
constexpr double kTiny = 1e-300;

template <class Term>
double mean_over(int first, int last, Term term) noexcept {
  double sum = 0;
  for (int l = first; l < last; l++) sum += term(std::size_t(l));
  return last > first ? sum / (last - first) : 0.0;
}

// Mean of ln(weight_var / critical weight_var) over the hidden layers that the slope runs through.
double weight_excess(const Evidence &evidence) noexcept {
  return mean_over(1, evidence.depth() - 1, [&](std::size_t l) {
    const double critical = critical_gain_squared(evidence.net->layers[l].activation);
    return std::log(std::max(evidence.layers[l].weight_var, kTiny) / critical);
  });
}

// Mean of ln(mean squared derivative / what unit inputs give) over the hidden layers.
double slope_shortfall(const Evidence &evidence) noexcept {
  return mean_over(0, evidence.depth() - 1, [&](std::size_t l) {
    const double unit = slope_moments(evidence.derivative, evidence.net->layers[l].activation, 1.0).square;
    return std::log(std::max(evidence.layers[l].squared_slope, kTiny) / unit);
  });
}

template <class Test>
bool every_activation(const Evidence &evidence, Test test) noexcept {
  for (const LayerSpec &layer : evidence.net->layers)
    if (layer.hidden && !test(layer.activation)) return false;
  return true;
}

// Whether weights of the activation's own scale can keep the gradient level. A sigmoid's cannot: even its largest
// slope, 1/4, squared and times its gain^2, is below 1.
bool can_be_level(const Evidence &evidence) noexcept {
  return every_activation(evidence, [&](int activation) {
    return critical_gain_squared(activation) * std::pow(largest_slope(evidence.derivative, activation), 2) >= 1.0;
  });
}

double finite_or_zero(double value) noexcept { return std::isfinite(value) ? value : 0.0; }

// Whether weights and normalization take more from |delta|^2 than the activations do.
bool weights_shrink_more(const Evidence &evidence) noexcept {
  double weights = 0, activation = 0;
  for (std::size_t l = 0; int(l) < evidence.depth() - 2; l++) {
    const LayerEvidence &layer = evidence.layers[l], &above = evidence.layers[l + 1];
    weights += finite_or_zero(std::log(layer.grad_output / above.delta));
    weights += finite_or_zero(std::log(layer.delta / layer.grad_preact));
    activation += finite_or_zero(std::log(layer.grad_preact / layer.grad_output));
  }
  return weights < activation;
}

}  // namespace

int cause_of_vanishing(const Evidence &evidence, const Slope &slope) noexcept {
  const bool natural = can_be_level(evidence);
  if (slope_shortfall(evidence) < std::log(kSaturatedSlope)) {
    const bool masked = every_activation(
        evidence, [](int activation) { return activation == GRADCORE_RELU || activation == GRADCORE_LEAKY_RELU; });
    return masked ? GRADCORE_CAUSE_DEAD_UNITS : GRADCORE_CAUSE_SATURATING_ACTIVATION;
  }
  const double excess = evidence.net->layers[0].normalization ? 0.0 : weight_excess(evidence);
  if (natural && excess < kMainShare * slope.systematic) return GRADCORE_CAUSE_WEIGHT_SCALE;
  if (natural && -slope.systematic <= std::log(kMildGrowth)) return GRADCORE_CAUSE_DEPTH;
  return weights_shrink_more(evidence) ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_ACTIVATION_SLOPE;
}

int cause_of_exploding(const Evidence &evidence, const Slope &slope) noexcept {
  const int normalization = evidence.net->layers[0].normalization;
  if (normalization == GRADCORE_NORM_BATCH) return GRADCORE_CAUSE_BATCH_NORM;
  if (normalization) return GRADCORE_CAUSE_DEPTH;
  const double excess = weight_excess(evidence);
  const bool weights = evidence.net->any_residual
                           ? excess > std::log(kLargeExcess)
                           : excess > kMainShare * slope.systematic || slope.systematic > std::log(kMildGrowth);
  return weights ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_DEPTH;
}

int cause_of_overflow(const Evidence &evidence) noexcept {
  for (const LayerEvidence &layer : evidence.layers)
    if (!layer.finite) return GRADCORE_CAUSE_LEARNING_RATE;
  if (!evidence.net->layers[0].normalization && weight_excess(evidence) > std::log(kLargeExcess))
    return GRADCORE_CAUSE_WEIGHT_SCALE;
  return std::sqrt(evidence.input_square) > kLargeInput ? GRADCORE_CAUSE_INPUT_SCALE : GRADCORE_CAUSE_OVERFLOW;
}

int cause_of_saturation(const Evidence &evidence, int layer) noexcept {
  if (layer == 0 && evidence.input_square > limits::kInputScale * limits::kInputScale)
    return GRADCORE_CAUSE_INPUT_SCALE;
  const bool large = evidence.layers[std::size_t(layer)].weight_var > kLargeWeightVar;
  return large ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_SATURATING_ACTIVATION;
}

}  // namespace gradcore
