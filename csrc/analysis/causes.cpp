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
constexpr index kNarrow = 24;             // units up to which (M.6) of ReLU is beyond 20 % a layer
constexpr double kTiny = 1e-300;

template <class Term>
double mean_over(int first, int last, Term term) noexcept {
  double sum = 0;
  for (int l = first; l < last; l++) sum += term(std::size_t(l));
  return last > first ? sum / (last - first) : 0.0;
}

// E[act^2] / E[act'^2] less what makes up a variance of q beside the biases: falls through zero at the critical point.
double missing_bias(const Evidence &evidence, int activation, double q, double bias_var) noexcept {
  const double slope = moments(evidence.derivative, activation, q).square;
  const double kept = bias_var + moments(evidence.activation, activation, q).square / slope;
  return kept / q - 1 - 1e-12;  // the margin keeps rounding from making roots at small q
}

// The weight variance (times fan_in) that keeps the gradient level beside biases of this variance. tanh and hard_tanh
// have their critical point at small signals, and biases move it (Schoenholz et al. 2017).
double critical_variance(const Evidence &evidence, int activation, double bias_var) noexcept {
  const double natural = critical_gain_squared(activation);
  if (bias_var <= 0 || (activation != GRADCORE_TANH && activation != GRADCORE_HARD_TANH)) return natural;
  double low = std::log(1e-9);
  const double step = std::log(1e18) / 72;
  if (!(missing_bias(evidence, activation, std::exp(low), bias_var) > 0)) return natural;
  int steps = 0;
  while (++steps <= 72 && missing_bias(evidence, activation, std::exp(low + step), bias_var) > 0) low += step;
  if (steps > 72) return natural;
  double high = low + step;
  for (int i = 0; i < 50; i++) {
    const double middle = 0.5 * (low + high);
    (missing_bias(evidence, activation, std::exp(middle), bias_var) > 0 ? low : high) = middle;
  }
  return std::max(natural, 1 / moments(evidence.derivative, activation, std::exp(low)).square);
}

// Mean of ln(weight_var / critical weight_var) over the hidden layers that the slope runs through.
double weight_excess(const Evidence &evidence) noexcept {
  return mean_over(1, evidence.depth() - 1, [&](std::size_t l) {
    const LayerEvidence &layer = evidence.layers[l];
    const double critical = critical_variance(evidence, layer.spec->activation, layer.bias_var);
    return std::log(std::max(layer.weight_var, kTiny) / critical);
  });
}

// Mean of ln(mean squared derivative / what unit inputs give) over the hidden layers.
double slope_shortfall(const Evidence &evidence) noexcept {
  return mean_over(0, evidence.depth() - 1, [&](std::size_t l) {
    const double unit = moments(evidence.derivative, evidence.net->layers[l].activation, 1.0).square;
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

// Whether pre-activations shrink over depth by as much as gradients may. GELU and its kin have a slope of 1/2 at 0,
// less than anywhere beside it: a signal that shrinks makes the slope smaller, and shrinks faster.
bool signal_dies(const Evidence &evidence) noexcept {
  if (evidence.net->layers[0].normalization || evidence.depth() < 3) return false;
  const double first = evidence.layers[0].preact_square;
  return evidence.layers[std::size_t(evidence.depth()) - 2].preact_square * limits::kNormRatio * limits::kNormRatio <
         first;
}

// Where a normalization over units has taken the scale of the weights away: what is left is (M.5) of the activation,
// and the share of the weights in the variance beside the biases. Both are exact for wide layers; what neither
// explains is the width's doing.
int cause_of_vanishing_normalized(const Evidence &evidence, double slope) noexcept {
  const int hidden = evidence.depth() - 1;
  const double growth = mean_over(0, hidden, [&](std::size_t l) {
    const int activation = evidence.net->layers[l].activation;
    return std::log(moments(evidence.derivative, activation, 1).square /
                    moments(evidence.activation, activation, 1).square);
  });
  if (growth < kMainShare * slope) return GRADCORE_CAUSE_ACTIVATION_SLOPE;
  const double share = mean_over(1, hidden, [&](std::size_t l) {
    const LayerEvidence &layer = evidence.layers[l];
    return std::log(std::max(1 - layer.bias_var / std::max(layer.preact_square, kTiny), kTiny));
  });
  if (share < kMainShare * slope) return GRADCORE_CAUSE_WEIGHT_SCALE;
  for (int l = 0; l < hidden; l++)
    if (evidence.net->layers[std::size_t(l)].out <= kNarrow) return GRADCORE_CAUSE_NARROW_LAYER;
  return GRADCORE_CAUSE_DEPTH;
}

}  // namespace

int cause_of_vanishing(const Evidence &evidence, const Slope &slope) noexcept {
  const bool natural = can_be_level(evidence);
  if (slope_shortfall(evidence) < std::log(kSaturatedSlope)) {
    const bool masked = every_activation(
        evidence, [](int activation) { return activation == GRADCORE_RELU || activation == GRADCORE_LEAKY_RELU; });
    return masked ? GRADCORE_CAUSE_DEAD_UNITS : GRADCORE_CAUSE_SATURATING_ACTIVATION;
  }
  if (evidence.net->layers[0].row_norm()) return cause_of_vanishing_normalized(evidence, slope.systematic);
  const double excess = evidence.net->layers[0].normalization ? 0.0 : weight_excess(evidence);
  if (natural && excess < kMainShare * slope.systematic) return GRADCORE_CAUSE_WEIGHT_SCALE;
  // Weights too small leave pre-activations below the unit variance that critical ones keep: the slope that the
  // activation loses by that is their doing, too.
  const bool faint = excess < 0 && evidence.layers[std::size_t(evidence.depth()) - 2].preact_square < 1;
  if (natural && (faint || signal_dies(evidence)) &&
      std::min(excess, 0.0) + slope_shortfall(evidence) < kMainShare * slope.systematic)
    return GRADCORE_CAUSE_WEIGHT_SCALE;
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
