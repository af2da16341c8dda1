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

// The increment that the sizes of weights, derivatives and norms make, without their alignment with the gradient.
double systematic_step(const Evidence &evidence, int l) noexcept {
  const LayerEvidence &layer = evidence.layers[std::size_t(l)];
  if (evidence.net->any_residual)
    return std::log(layer.branch_gain + double(evidence.layers[std::size_t(l + 1)].spec->residual));
  return std::log(layer.weight_gain) + std::log(layer.squared_slope) + 2 * std::log(layer.delta / layer.grad_preact);
}

// Sums over the usable steps.
struct Sums {
  int steps = 0;
  double systematic = 0, noise = 0, alignment = 0;
};
Sums sums_over_steps(const Evidence &evidence) noexcept {
  Sums sums;
  for (int l = 0; l + 2 < evidence.depth(); l++) {
    const LayerEvidence &layer = evidence.layers[std::size_t(l)];
    if (!layer.usable) continue;
    sums.steps++;
    sums.systematic += systematic_step(evidence, l);
    sums.noise += layer.width_noise;
    sums.alignment += layer.alignment;
  }
  return sums;
}

double slope_of_pass(const Evidence &evidence, int pass, int steps) noexcept {
  double sum = 0;
  for (int l = 0; l + 2 < evidence.depth(); l++)
    if (evidence.layers[std::size_t(l)].usable) sum += evidence.increment(pass, l);
  return sum / steps;
}

// Half width of the 95 % interval of a mean of `count` values with this standard error; 0 for a single one.
double half_interval(double error, int count) noexcept {
  constexpr int kListed = sizeof kStudent95 / sizeof *kStudent95;
  if (count < 2) return 0;
  return error * (count - 1 <= kListed ? kStudent95[count - 2] : kGauss95 + 2.5 / (count - 1));
}

// Sets the mean over the passes and its standard error, which is NaN for a single pass.
void set_value(const Evidence &evidence, int steps, Slope *slope) noexcept {
  const int count = evidence.passes();
  double sum = 0, rest = 0;
  for (int pass = 0; pass < count; pass++) sum += slope_of_pass(evidence, pass, steps);
  slope->value = sum / count;
  for (int pass = 0; pass < count; pass++) {
    const double away = slope_of_pass(evidence, pass, steps) - slope->value;
    rest += away * away;
  }
  slope->batch_error = count > 1 ? std::sqrt(rest / (count - 1) / count) : kNan;
  slope->batch_half = half_interval(slope->batch_error, count);
}

// If alignment is what random directions give, the systematic slope is the one without it. It is the whole slope if
// alignment is not random, if the net has been trained, so that another draw does not matter, and with batch norm.
void set_systematic(const Evidence &evidence, const Sums &sums, Slope *slope) noexcept {
  const double without = sums.systematic / sums.steps, luck = slope->value - without;
  const double spread = kRandomWithin * std::sqrt(sums.alignment) / sums.steps;
  const bool exact = evidence.trained || evidence.net->layers[0].normalization == GRADCORE_NORM_BATCH;
  slope->drift = -0.5 * sums.alignment / sums.steps;  // typical logarithm of a random factor whose mean is 1
  slope->random = !exact && slope->drift - spread <= luck && luck <= spread;
  slope->systematic_low = slope->low, slope->systematic_high = slope->high;
  if (exact) {
    slope->systematic_low = slope->value - slope->batch_half, slope->systematic_high = slope->value + slope->batch_half;
  } else if (slope->random) {
    // The rest of the noise comes from mask counts and weight sizes; the batch noise of a mean derivative is small.
    const double rest = kGauss95 * std::sqrt(std::max(sums.noise - sums.alignment, 0.0)) / sums.steps;
    slope->systematic_low = without - rest, slope->systematic_high = without + rest;
  }
  slope->systematic = 0.5 * (slope->systematic_low + slope->systematic_high);
}

}  // namespace

Slope estimate_slope(const Evidence &evidence) noexcept {
  const Sums sums = sums_over_steps(evidence);
  // If no gradient passes some steps, the slope is that of the others, over which norms may change by the same ratio.
  const int steps = sums.steps > 0 ? sums.steps + 1 : evidence.depth() - 1;
  const double band = 2 * std::log(limits::kNormRatio) / std::max(steps, 1);
  Slope slope{kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, band, steps, kNan, false, kNan};
  if (sums.steps == 0) return slope;
  set_value(evidence, sums.steps, &slope);
  slope.width_error = std::sqrt(sums.noise) / sums.steps;
  const double half = std::hypot(slope.batch_half, kGauss95 * slope.width_error);
  slope.low = slope.value - half, slope.high = slope.value + half;
  set_systematic(evidence, sums, &slope);
  return slope;
}

}  // namespace gradcore
