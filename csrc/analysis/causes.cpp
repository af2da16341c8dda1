#include "analysis/causes.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "init/initialize.hpp"

namespace gradcore {

namespace {

// Weight variance (times fan_in) beyond which pre-activations of unit inputs have a deviation of 2 and more.
constexpr double kLargeWeightVar = 4.0;
// A factor that explains at least this share of the slope is its cause.
constexpr double kMainShare = 0.5;
// Units are saturated if their mean squared derivative is below this share of what inputs of unit variance give.
constexpr double kSaturatedSlope = 0.25;
// A weight variance of more than this times the critical one comes neither from chance nor from a choice of scheme.
constexpr double kLargeExcess = 1.5;
constexpr double kMildGrowth = 1.2;     // of squared gradients per layer; good designs show as much
constexpr double kLargeInput = 0x1p40;  // the square of such inputs alone uses up a third of float32's exponents
constexpr double kTiny = 1e-300;
constexpr char kByInputs[] = "In layer 0, the normalization divides the gradient by the scale of the inputs";
constexpr char kSaturatedByInputs[] = "The inputs are so large that they saturate layer 0, where most of this happens";

template <class Term>
double mean_over(int first, int last, Term term) noexcept {
  double sum = 0;
  for (int l = first; l < last; l++) sum += term(std::size_t(l));
  return last > first ? sum / (last - first) : 0.0;
}

// Relative change of the pre-activation variance q in a layer whose weights are critical at q, with biases of bias_var.
// As q grows, it falls through zero at the critical point.
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

struct Scales {
  double weight_var, bias_var;
};
Scales of_size(const LayerEvidence &layer) noexcept { return {layer.weight_var, layer.bias_var}; }

// The slope over the hidden layers that wide layers of random weights and biases would have on these inputs: (M.1),
// (M.2), (P.1) and (P.2) of gradcore/analysis/mean_field.py and predict.py. With batch norm the result is 0: it keeps a
// gradient from vanishing, whatever the weights (M.4).
template <class ScalesOf>
double slope_of_random(const Evidence &evidence, ScalesOf scales_of) {
  const int hidden = evidence.depth() - 1, normalization = evidence.net->layers[0].normalization;
  if (normalization == GRADCORE_NORM_BATCH || hidden < 2) return 0;
  std::vector<double> local(static_cast<std::size_t>(hidden));
  double square = evidence.input_rms * evidence.input_rms;
  for (std::size_t l = 0; l < local.size(); l++) {
    const LayerSpec &spec = *evidence.layers[l].spec;
    const Scales scales = scales_of(evidence.layers[l]);
    const double whole = scales.weight_var * square + scales.bias_var, q = normalization ? 1.0 : whole;
    const double slope = moments(evidence.derivative, spec.activation, q).square;
    local[l] = std::log(std::max(normalization ? slope / std::max(whole, kTiny) : slope, kTiny));
    square = moments(evidence.activation, spec.activation, q).square + (spec.residual ? square : 0.0);
  }
  double stream = 0;
  for (std::size_t l = local.size() - 1; l-- > 0;) {
    const LayerEvidence &above = evidence.layers[l + 1];
    const double branch = std::log(std::max(scales_of(above).weight_var, kTiny)) + local[l + 1] + stream;
    const double larger = std::max(branch, stream);
    stream = above.spec->residual ? larger + std::log(std::exp(branch - larger) + std::exp(stream - larger)) : branch;
  }
  return (stream + (evidence.net->any_residual ? 0.0 : local.front() - local.back())) / (hidden - 1);
}

// What finite width takes from ln |delta|^2 per layer on a typical draw, at most 0: the drift of random directions, and
// the share of the n directions that a normalization over units takes out of the gradient (layer norm two, for the mean
// and for the scale; rms norm one).
double width_loss(const Evidence &evidence, const Slope &slope) noexcept {
  const int normalization = evidence.net->layers[0].normalization;
  const double taken = normalization == GRADCORE_NORM_LAYER ? 2.0 : normalization == GRADCORE_NORM_RMS ? 1.0 : 0.0;
  return slope.drift + mean_over(0, evidence.depth() - 1, [&](std::size_t l) {
           return std::log(std::max(1 - taken / double(evidence.layers[l].spec->out), kTiny));
         });
}

// Whether random weights of some acceptable scale, without biases, would take the fall of the gradient away. The slope
// grows with the scale of the weights: if it does not fall at the largest acceptable scale, it is level at some other.
bool can_be_levelled(const Evidence &evidence, const Slope &slope) {
  const double left = slope_of_random(evidence, [](const LayerEvidence &layer) {
    return Scales{kLargeExcess * critical_gain_squared(layer.spec->activation), 0.0};
  });
  return left > std::max(-slope.band, kMainShare * slope.typical());
}

// ln of layer 0's factor |delta|^2 / |dL/dh|^2 over what unit inputs would give, at most 0; 0 if the inputs are not
// large, if by theory inputs of their size would not saturate this activation, or if no gradient is left.
double saturating_inputs(const Evidence &evidence) noexcept {
  const LayerEvidence &first = evidence.layers[0];
  const double rms = evidence.input_rms;
  if (!first.spec->hidden || !(rms > limits::kInputScale && std::isfinite(rms))) return 0;
  const auto square = [&](double q) { return moments(evidence.derivative, first.spec->activation, q).square; };
  const double unit = square(first.weight_var + first.bias_var);
  const double large = std::min(first.weight_var * rms * rms + first.bias_var, kLargeInput * kLargeInput);
  if (square(large) > kSaturatedSlope * unit) return 0;
  if (!(first.delta > 0 && unit > 0)) return 0;
  return std::min(0.0, std::log(std::pow(first.delta / first.grad_output, 2) / unit));
}

// The part of the slope that comes from the scale of the inputs, all of it in layer 0. A normalization divides the
// gradient by what it divided z by: about 1 in other layers, the root mean square of the inputs in layer 0. Without
// one, large inputs saturate layer 0. With skip connections, the slope is that of dL/dh, in which layer 0 has no part.
double slope_of_inputs(const Evidence &evidence, const Slope &slope) noexcept {
  if (evidence.net->any_residual) return 0;
  const double change = evidence.net->layers[0].normalization
                            ? -2 * std::log(std::hypot(evidence.input_rms, std::sqrt(kNormEps)))
                            : saturating_inputs(evidence);
  return change / std::max(slope.steps - 1, 1);  // the slope is a mean over the steps between layers
}

bool mostly_masked(const Evidence &evidence) noexcept {
  for (const LayerSpec &layer : evidence.net->layers)
    if (layer.hidden && layer.activation != GRADCORE_RELU && layer.activation != GRADCORE_LEAKY_RELU) return false;
  return true;
}

}  // namespace

int cause_of_vanishing(const Evidence &evidence, const Slope &slope) {
  const double whole = slope.typical(), narrow = width_loss(evidence, slope);
  if (slope_of_inputs(evidence, slope) < kMainShare * whole) return GRADCORE_CAUSE_INPUT_SCALE;
  if (narrow < kMainShare * whole) return GRADCORE_CAUSE_NARROW_LAYER;
  if (slope_shortfall(evidence) < std::log(kSaturatedSlope))
    return mostly_masked(evidence) ? GRADCORE_CAUSE_DEAD_UNITS : GRADCORE_CAUSE_SATURATING_ACTIVATION;
  // If random weights of this size would do better, training steps have turned the weights.
  if (!slope.random && slope_of_random(evidence, of_size) + narrow > kMainShare * whole)
    return GRADCORE_CAUSE_LEARNING_RATE;
  return can_be_levelled(evidence, slope) ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_ACTIVATION_SLOPE;
}

int cause_of_exploding(const Evidence &evidence, const Slope &slope) {
  const int normalization = evidence.net->layers[0].normalization;
  const bool steep = slope.systematic > std::log(kMildGrowth);
  if (slope_of_inputs(evidence, slope) > kMainShare * slope.systematic) return GRADCORE_CAUSE_INPUT_SCALE;
  if (normalization == GRADCORE_NORM_BATCH) return GRADCORE_CAUSE_BATCH_NORM;
  if (normalization)
    return steep && slope_of_random(evidence, of_size) > kMainShare * slope.systematic ? GRADCORE_CAUSE_ACTIVATION_SLOPE
                                                                                       : GRADCORE_CAUSE_DEPTH;
  const double excess = weight_excess(evidence);
  const bool weights =
      evidence.net->any_residual ? excess > std::log(kLargeExcess) : excess > kMainShare * slope.systematic || steep;
  return weights ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_DEPTH;
}

const char *why_vanishing(int cause, bool normalized) noexcept {
  switch (cause) {
    case GRADCORE_CAUSE_INPUT_SCALE:
      return normalized ? kByInputs : kSaturatedByInputs;
    case GRADCORE_CAUSE_WEIGHT_SCALE:
      return "The scale of the weights does not suit the activation";
    case GRADCORE_CAUSE_NARROW_LAYER:
      return "The layers are so narrow that chance decides";
    case GRADCORE_CAUSE_LEARNING_RATE:
      return "Random weights of this size would preserve the gradient; the training steps have turned them";
    case GRADCORE_CAUSE_SATURATING_ACTIVATION:
      return "The units are saturated";
    case GRADCORE_CAUSE_DEAD_UNITS:
      return "Most units are inactive";
    default:
      return "The activation shrinks the gradient even where it is not saturated";
  }
}

const char *why_exploding(int cause, bool any_residual) noexcept {
  switch (cause) {
    case GRADCORE_CAUSE_INPUT_SCALE:
      return kByInputs;
    case GRADCORE_CAUSE_BATCH_NORM:
      return "Batch norm keeps the forward signal in range but makes the backward one grow";
    case GRADCORE_CAUSE_WEIGHT_SCALE:
      return "The weights enlarge the gradient by more than the activation reduces it";
    case GRADCORE_CAUSE_ACTIVATION_SLOPE:
      return "With the normalization, the activation's slope is large relative to its output";
    default:
      return any_residual ? "Every skip connection adds its branch to the stream, so the sum grows"
                          : "The growth per layer is small; there are too many layers";
  }
}

int cause_of_overflow(const Evidence &evidence) noexcept {
  for (const LayerEvidence &layer : evidence.layers)
    if (!layer.finite) return GRADCORE_CAUSE_LEARNING_RATE;
  if (!evidence.net->layers[0].normalization && weight_excess(evidence) > std::log(kLargeExcess))
    return GRADCORE_CAUSE_WEIGHT_SCALE;
  return evidence.input_rms > kLargeInput ? GRADCORE_CAUSE_INPUT_SCALE : GRADCORE_CAUSE_OVERFLOW;
}

int cause_of_saturation(const Evidence &evidence, int layer) noexcept {
  if (layer == 0 && evidence.input_rms > limits::kInputScale) return GRADCORE_CAUSE_INPUT_SCALE;
  const bool large = evidence.layers[std::size_t(layer)].weight_var > kLargeWeightVar;
  return large ? GRADCORE_CAUSE_WEIGHT_SCALE : GRADCORE_CAUSE_SATURATING_ACTIVATION;
}

int cause_of_starvation(const Evidence &evidence, int layer) noexcept {
  const double inputs = std::log(std::max(evidence.input_rms, kTiny));
  double weights = 0;
  for (int l = 0; l < layer; l++) {
    const LayerEvidence &below = evidence.layers[std::size_t(l)];
    weights += 0.5 * std::log(std::max(below.weight_var, kTiny) / critical_gain_squared(below.spec->activation));
  }
  return inputs < weights ? GRADCORE_CAUSE_INPUT_SCALE : GRADCORE_CAUSE_WEIGHT_SCALE;
}

}  // namespace gradcore
