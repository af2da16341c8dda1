#include "analysis/slope.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradcore {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kGauss95 = 1.96;
// Alignment is called random as long as its sum lies within 3 standard deviations (0.3 % of random nets do not).
constexpr double kRandomWithin = 3.0;
// Two-sided 95 % points of Student's t, by degrees of freedom; 1.96 in the limit.
constexpr double kStudent95[] = {12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131};

// Branches that start at zero add no noise; the floor keeps their weight finite.
double floored(double variance) noexcept { return std::max(variance, 1e-9); }

// An increment without alignment: what the sizes of weights, derivatives and norms make.
double systematic_step(const Evidence &evidence, int l) noexcept {
  const LayerEvidence &layer = evidence.layers[std::size_t(l)], &above = evidence.layers[std::size_t(l + 1)];
  const double weights = std::log(layer.expected_gain);
  if (evidence.net->any_residual) return weights + 2 * std::log(above.delta / above.grad_output);
  return weights + std::log(layer.squared_slope) + 2 * std::log(layer.delta / layer.grad_preact);
}

// Whether a skip connection goes past the step from layer l + 1 to l.
bool past_skip(const Evidence &evidence, int l) noexcept { return evidence.layers[std::size_t(l + 1)].spec->residual; }

// Weight of a step: 1 / v_l, scaled so that the weights of the steps with a skip connection, and of those without,
// add up to their number. Steps of one kind have one slope; the slope of all makes the whole change over depth.
class Weights {
 public:
  explicit Weights(const Evidence &evidence) noexcept : evidence_(evidence) {
    double steps[2] = {}, sums[2] = {};
    for (int l = 0; l + 2 < evidence.depth(); l++) {
      if (!evidence.layers[std::size_t(l)].usable) continue;
      steps[past_skip(evidence, l)] += 1;
      sums[past_skip(evidence, l)] += 1 / noise(l);
    }
    for (int kind = 0; kind < 2; kind++) scale_[kind] = sums[kind] > 0 ? steps[kind] / sums[kind] : 0;
  }
  double noise(int l) const noexcept { return floored(evidence_.layers[std::size_t(l)].width_noise); }
  double operator()(int l) const noexcept { return scale_[past_skip(evidence_, l)] / noise(l); }

 private:
  const Evidence &evidence_;
  double scale_[2];
};

// Weighted sums over the usable steps.
struct Sums {
  int steps = 0;                                  // how many there are
  double weight = 0;                              // sum of the weights, by which the others are divided
  double systematic = 0;                          // of systematic_step
  double alignment = 0;                           // of the variances of alignment
  double noise_square = 0, alignment_square = 0;  // of squared weights times variances
};
Sums sums_over_steps(const Evidence &evidence, const Weights &weights) noexcept {
  Sums sums;
  for (int l = 0; l + 2 < evidence.depth(); l++) {
    const LayerEvidence &layer = evidence.layers[std::size_t(l)];
    if (!layer.usable) continue;
    const double weight = weights(l), alignment = floored(layer.alignment);
    sums.steps++;
    sums.weight += weight;
    sums.systematic += weight * systematic_step(evidence, l);
    sums.alignment += weight * alignment;
    sums.noise_square += weight * weight * weights.noise(l);
    sums.alignment_square += weight * weight * alignment;
  }
  return sums;
}

double slope_of_pass(const Evidence &evidence, int pass, const Weights &weights, double total_weight) noexcept {
  double sum = 0;
  for (int l = 0; l + 2 < evidence.depth(); l++)
    if (evidence.layers[std::size_t(l)].usable) sum += evidence.increment(pass, l) * weights(l);
  return sum / total_weight;
}

// Mean over the passes and its standard error, NaN for a single one.
void set_value(const Evidence &evidence, const Weights &weights, double total_weight, Slope *slope) noexcept {
  const int count = evidence.passes();
  double sum = 0, rest = 0;
  for (int pass = 0; pass < count; pass++) sum += slope_of_pass(evidence, pass, weights, total_weight);
  slope->value = sum / count;
  for (int pass = 0; pass < count; pass++) {
    const double away = slope_of_pass(evidence, pass, weights, total_weight) - slope->value;
    rest += away * away;
  }
  slope->batch_error = count > 1 ? std::sqrt(rest / (count - 1) / count) : kNan;
}

// Where alignment is what random directions give, the slope without it; all of the slope where it is not.
void set_systematic(const Sums &sums, Slope *slope) noexcept {
  const double without = sums.systematic / sums.weight, luck = slope->value - without;
  const double chance = sums.alignment_square / (sums.weight * sums.weight);
  const double spread = kRandomWithin * std::sqrt(chance);
  const double drift = -0.5 * sums.alignment / sums.weight;  // typical logarithm of a mean-one factor
  slope->systematic_low = slope->low, slope->systematic_high = slope->high;
  if (std::isfinite(without) && drift - spread <= luck && luck <= spread) {
    // What is left of the noise: mask counts and weight sizes; the batch noise of a mean derivative is small.
    const double all = sums.noise_square / (sums.weight * sums.weight);
    const double rest = kGauss95 * std::sqrt(std::max(all - chance, 0.0));
    slope->systematic_low = without - rest, slope->systematic_high = without + rest;
  }
  slope->systematic = 0.5 * (slope->systematic_low + slope->systematic_high);
}

}  // namespace

double half_interval(double error, int count) noexcept {
  constexpr int kListed = sizeof kStudent95 / sizeof *kStudent95;
  if (count < 2) return 0;
  return error * (count - 1 <= kListed ? kStudent95[count - 2] : kGauss95 + 2.5 / (count - 1));
}

Slope estimate_slope(const Evidence &evidence) noexcept {
  const Weights weights(evidence);
  const Sums sums = sums_over_steps(evidence, weights);
  // Where no gradient passes, the slope is one of fewer layers, over which norms may change by as much.
  const int steps = sums.steps > 0 ? sums.steps + 1 : evidence.depth() - 1;
  const double band = 2 * std::log(limits::kNormRatio) / std::max(steps, 1);
  Slope slope{kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, band, steps};
  if (sums.weight == 0) return slope;
  set_value(evidence, weights, sums.weight, &slope);
  slope.width_error = std::sqrt(sums.noise_square) / sums.weight;
  const double half = std::hypot(half_interval(slope.batch_error, evidence.passes()), kGauss95 * slope.width_error);
  slope.low = slope.value - half, slope.high = slope.value + half;
  set_systematic(sums, &slope);
  return slope;
}

}  // namespace gradcore
