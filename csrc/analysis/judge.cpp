#include "analysis/judge.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <limits>

#include "analysis/causes.hpp"
#include "analysis/silence.hpp"
#include "error.hpp"
#include "ops/parallel.hpp"

namespace gradcore {

namespace {

int verdict_of(const Finding &finding) noexcept {
  switch (finding.severity == GRADCORE_INFO ? kNoCause : finding.kind) {
    case GRADCORE_FINDING_NON_FINITE:
      return GRADCORE_VERDICT_NON_FINITE;
    case GRADCORE_FINDING_EXPLODING:
      return GRADCORE_VERDICT_EXPLODING;
    case GRADCORE_FINDING_VANISHING:
    case GRADCORE_FINDING_ZERO_GRADIENT:
    case GRADCORE_FINDING_LOSS_OUTPUT_MISMATCH:
      return GRADCORE_VERDICT_VANISHING;
    default:
      return GRADCORE_VERDICT_HEALTHY;
  }
}

using Test = FunctionRef<bool(const LayerEvidence &layer, int l)>;

class Judge {
 public:
  Judge(const Evidence &evidence, Judgement *to) noexcept
      : evidence_(evidence), layers_(evidence.layers), depth_(evidence.depth()), slope_(to->slope), to_(*to) {}
  void look();

 private:
  bool non_finite();
  bool nothing_to_learn();
  bool zero_gradient();
  void starvation(int severity, int count, const char *when);
  bool gradient_slope();
  void vanishing();
  void exploding();
  void slope_finding(int kind, bool harm, int cause, int first, int count, const char *why);
  void luck();
  void undecided();
  void small_steps(bool explained);
  void few_rows();
  void dead_units();
  index dead_by_chance(index width) const noexcept;
  void saturation();
  void unscaled_input();
  void underflow();

  bool harms_when_vanishing() noexcept;
  bool harms_when_exploding() noexcept;
  double constant_guess() const noexcept;
  double update(const LayerEvidence &layer) const noexcept;
  bool is_rounded_away(double update) const noexcept;
  double speed(const LayerEvidence &layer) const noexcept;
  bool has_signal() const noexcept;

  // Appends the layers below `end`, or those of them that pass a test, to Judgement::layers; returns their number.
  int collect(int end, Test test = [](const LayerEvidence &, int) { return true; });
  // Adds a finding on the last `count` layers collected, or on `count` layers from `first` on.
  __attribute__((format(printf, 6, 7))) void add(int kind, int severity, int cause, int count, const char *format, ...);
  __attribute__((format(printf, 7, 8))) void add_from(int first, int kind, int severity, int cause, int count,
                                                      const char *format, ...);
  void store(int first, int kind, int severity, int cause, int count, const char *format, std::va_list arguments);

  const Evidence &evidence_;
  const std::vector<LayerEvidence> &layers_;
  const int depth_;
  const Slope &slope_;
  Judgement &to_;
  bool absolute_ = false;  // learning is lost in absolute terms, not only relative to other layers
};

void Judge::look() {
  if (!non_finite() && !nothing_to_learn()) {
    const bool silent = zero_gradient(), sloping = gradient_slope();
    small_steps(silent || sloping);
    few_rows();
    dead_units();
    saturation();
    underflow();
  }
  unscaled_input();
}

// ---- findings ----

int Judge::collect(int end, Test test) {
  int count = 0;
  for (int l = 0; l < end; l++)
    if (test(layers_[std::size_t(l)], l)) to_.layers.push_back(l), count++;
  return count;
}

void Judge::store(int first, int kind, int severity, int cause, int count, const char *format, std::va_list arguments) {
  Finding finding{kind, severity, cause, first, count, {}};
  format_text(finding.text, sizeof finding.text, format, arguments);
  const auto worse = [](const Finding &a, const Finding &b) {
    return a.severity != b.severity ? a.severity > b.severity : verdict_of(a) > verdict_of(b);
  };
  to_.findings.push_back(finding);
  for (std::size_t i = to_.findings.size() - 1; i > 0 && worse(finding, to_.findings[i - 1]); i--)
    to_.findings[i] = to_.findings[i - 1], to_.findings[i - 1] = finding;
  to_.verdict = std::max(to_.verdict, verdict_of(finding));
}

void Judge::add(int kind, int severity, int cause, int count, const char *format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  store(int(to_.layers.size()) - count, kind, severity, cause, count, format, arguments);
  va_end(arguments);
}

void Judge::add_from(int first, int kind, int severity, int cause, int count, const char *format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  store(first, kind, severity, cause, count, format, arguments);
  va_end(arguments);
}

// ---- what a step of the optimizer does ----

// |dW| / |W| of one step: as recorded, or lr |dL/dW| / |W| of plain SGD; NaN where a pass alone cannot tell. Weight
// decay, which SGD adds to the gradient, is left out: it moves all layers and teaches them nothing.
double Judge::update(const LayerEvidence &layer) const noexcept {
  if (evidence_.adaptive()) return layer.update_ratio;
  const double plain = evidence_.lr * layer.weight_grad / layer.weight;
  if (std::isnan(layer.update_ratio)) return plain;
  if (evidence_.added_decay == 0) return layer.update_ratio;
  return std::min(layer.update_ratio, plain * (evidence_.trained ? evidence_.memory : 1));
}

// Whether an update of this size is lost in rounding once momentum is at full speed, as in a trained net it already is.
bool Judge::is_rounded_away(double update) const noexcept {
  return update * (evidence_.trained ? 1 : evidence_.memory) < evidence_.unit_roundoff();
}

// The update as a measure to compare layers by. At a learning rate of 0, which moves no layer, it is that of plain SGD
// at a rate of 1.
double Judge::speed(const LayerEvidence &layer) const noexcept {
  return evidence_.lr > 0 ? update(layer) : layer.weight_grad / layer.weight;
}

// Whether any layer's mean gradient stands above batch noise. If there is nothing but noise, the mean gradient of K
// batches has on average 1 / K of the square of a single one, and the estimate of the signal is 0 with a standard
// deviation of at most sqrt(2 / (K (K - 1))) of the noise, which is at most 1 / sqrt(K) for K >= 3.
bool Judge::has_signal() const noexcept {
  const double count = evidence_.passes();
  if (count < 2) return true;
  for (const LayerEvidence &layer : layers_) {
    const double single = layer.weight_grad * layer.weight_grad, mean = layer.mean_gradient * layer.mean_gradient;
    const double signal = (count * mean - single) / (count - 1), noise = (single - mean) * count / (count - 1);
    if (signal > noise / std::sqrt(count)) return true;
  }
  return false;
}

// ---- values that left the finite range, and losses that leave nothing to do ----

// Finds the first non-finite value, in the order in which a pass computes them.
bool Judge::non_finite() {
  int layer = -1;
  const char *place = "the parameters";
  for (int l = depth_; l-- > 0;)
    if (!layers_[std::size_t(l)].finite) layer = l;
  for (int pass = 0; layer < 0 && pass < evidence_.passes(); pass++) {
    for (int l = depth_; l-- > 0;)
      if (evidence_.flow(pass, l).activation.nonfinite) layer = l, place = "the output";
    if (layer < 0 && !std::isfinite(evidence_.losses[std::size_t(pass)])) layer = depth_ - 1, place = "the loss";
    for (int l = depth_; layer < 0 && l-- > 0;)
      if (evidence_.flow(pass, l).delta.nonfinite) layer = l, place = "the pre-activation gradient";
    for (int l = depth_; layer < 0 && l-- > 0;)
      if (evidence_.flow(pass, l).weight_grad.nonfinite) layer = l, place = "the weight gradient";
  }
  if (layer < 0) return false;
  const int cause = cause_of_overflow(evidence_);
  const char *why = cause == GRADCORE_CAUSE_LEARNING_RATE  ? "an earlier step was too large"
                    : cause == GRADCORE_CAUSE_WEIGHT_SCALE ? "the weights are too large"
                    : cause == GRADCORE_CAUSE_INPUT_SCALE  ? "the inputs are far too large"
                                                           : "the signal grows from layer to layer";
  add(GRADCORE_FINDING_NON_FINITE, GRADCORE_CRITICAL, cause,
      collect(depth_, [&](const LayerEvidence &, int l) { return l == layer; }),
      "The first non-finite value appears in %s of layer %d: %s.", place, layer, why);
  return true;
}

bool Judge::nothing_to_learn() {
  if (evidence_.loss == GRADCORE_CROSS_ENTROPY && evidence_.net->out_features() == 1) {
    add(GRADCORE_FINDING_LOSS_OUTPUT_MISMATCH, GRADCORE_CRITICAL, GRADCORE_CAUSE_LOSS_OUTPUT, collect(depth_),
        "A softmax over one output is always 1, so every gradient is exactly zero. Use two outputs, "
        "or the binary cross entropy.");
    return true;
  }
  for (const double loss : evidence_.losses)
    if (std::fabs(loss) > evidence_.unit_roundoff()) return false;
  add(GRADCORE_FINDING_ZERO_GRADIENT, GRADCORE_INFO, kNoCause, 0, "The loss is %.3g: nothing is left to learn.",
      evidence_.mean_loss());
  return true;
}

// ---- gradients that are exactly zero ----

bool Judge::zero_gradient() {
  const auto collected = [&](Silence kind) {
    return collect(depth_, [&](const LayerEvidence &, int l) { return silence_of(evidence_, l) == kind; });
  };
  const std::size_t found = to_.layers.size();
  if (const int count = collected(Silence::asleep))
    add(GRADCORE_FINDING_ZERO_GRADIENT, GRADCORE_INFO, GRADCORE_CAUSE_WEIGHT_SCALE, count,
        "The gradients of %d layers are exactly zero because weights above them are zero. Those have a gradient: "
        "the next steps wake the layers below.",
        count);
  if (const int count = collected(Silence::starved_at_start)) starvation(GRADCORE_INFO, count, " at the start");
  if (const int count = collect(depth_, [](const LayerEvidence &layer, int) { return layer.alike; }))
    add(GRADCORE_FINDING_ZERO_GRADIENT, GRADCORE_CRITICAL, GRADCORE_CAUSE_WEIGHT_SCALE, count,
        "The units of %d layers are identical, and so are their gradients. Draw the weights at random.", count);
  if (const int count = collected(Silence::bypassed))
    add(GRADCORE_FINDING_DEAD_UNITS, GRADCORE_WARNING, GRADCORE_CAUSE_DEAD_UNITS, count,
        "%d branches receive no gradient; their skip connections pass it on.", count);
  // If one closed layer silences all others, there is one finding; else one for the layers that no gradient reaches
  // from above, and one for those that no signal reaches from below.
  const Closed closed = closed_layer(evidence_);
  const int stuck = collect(depth_, [&](const LayerEvidence &, int l) {
    const Silence silence = silence_of(evidence_, l);
    return silence == Silence::stuck || (silence == Silence::starved && closed.layer >= 0);
  });
  if (stuck) {
    const int first = to_.layers[to_.layers.size() - std::size_t(stuck)];
    const Closed why = closed.layer >= 0 ? closed : nothing_from_above(evidence_, first);
    add(GRADCORE_FINDING_ZERO_GRADIENT, GRADCORE_CRITICAL, why.cause, stuck,
        "No gradient at all reaches the weights of %d layers. Layer %d: %s.", stuck, why.layer, why.text);
  }
  if (closed.layer < 0)
    if (const int count = collected(Silence::starved)) starvation(GRADCORE_CRITICAL, count, "");
  return to_.layers.size() > found;
}

// Adds a finding on the last `count` layers collected: a gradient arrives from above, but almost no signal from below.
void Judge::starvation(int severity, int count, const char *when) {
  const int cause = cause_of_starvation(evidence_, to_.layers[to_.layers.size() - std::size_t(count)]);
  add(GRADCORE_FINDING_ZERO_GRADIENT, severity, cause, count,
      "No gradient at all reaches the weights of %d layers%s. A gradient arrives from above, but almost no "
      "signal from below: %s.",
      count, when,
      cause == GRADCORE_CAUSE_INPUT_SCALE ? "the inputs are too small"
                                          : "the weights of the layers below are too small, or zero");
}

// ---- gradients that shrink or grow over depth ----

// The measured slope must lie outside the band by more than the noise of batches; otherwise nothing is decided. The
// slope of a typical draw must lie outside, too; otherwise it was the luck of this draw. Only where gradients vanish
// does a typical draw contain the drift of narrow layers: there, all rows come to point the same way. Where gradients
// grow, rows move apart, and a mean over many directions has no drift (Schoenholz et al. 2017: chi < 1 and chi > 1).
bool Judge::gradient_slope() {
  const double outside = std::fabs(slope_.value) - slope_.band;
  if (!(outside > 0)) return false;
  if (!(outside > slope_.batch_half)) return undecided(), true;
  if (slope_.value < 0 && slope_.typical() < -slope_.band) return vanishing(), true;
  if (slope_.value > 0 && slope_.systematic > slope_.band) return exploding(), true;
  return luck(), true;
}

void Judge::slope_finding(int kind, bool harm, int cause, int first, int count, const char *why) {
  const double ends = 0.5 * std::max(-slope_.typical(), slope_.systematic) * slope_.steps;
  const bool critical = absolute_ || ends > 2 * std::log(limits::kNormRatio);
  if (count == 0) count = collect(1);
  add_from(first, kind,
           !harm      ? GRADCORE_INFO
           : critical ? GRADCORE_CRITICAL
                      : GRADCORE_WARNING,
           cause, count,
           "The gradient %s towards the input: |%s|^2 is multiplied by %.3g per layer (slope %+.3g +- %.2g; healthy "
           "at this depth: within +-%.2g). %s.%s",
           slope_.value < 0 ? "shrinks" : "grows", evidence_.net->any_residual ? "dL/dh" : "delta",
           std::exp(slope_.systematic), slope_.systematic, 0.5 * (slope_.systematic_high - slope_.systematic_low),
           slope_.band, why, harm ? "" : " Under this optimizer this does not stop the layers from moving.");
}

void Judge::vanishing() {
  const int cause = cause_of_vanishing(evidence_, slope_), first = int(to_.layers.size());
  double largest = 0;
  for (int l = 0; l < depth_ - 1; l++) largest = std::max(largest, evidence_.travelling(l));
  const int weak = collect(
      depth_ - 1, [&](const LayerEvidence &, int l) { return evidence_.travelling(l) * limits::kNormRatio < largest; });
  slope_finding(GRADCORE_FINDING_VANISHING, harms_when_vanishing(), cause, first, weak,
                why_vanishing(cause, evidence_.net->layers[0].normalization != 0));
}

void Judge::exploding() {
  const int cause = cause_of_exploding(evidence_, slope_), first = int(to_.layers.size());
  const double last = evidence_.travelling(depth_ - 2);
  const int strong = collect(
      depth_ - 1, [&](const LayerEvidence &, int l) { return evidence_.travelling(l) > limits::kNormRatio * last; });
  slope_finding(GRADCORE_FINDING_EXPLODING, harms_when_exploding(), cause, first, strong,
                why_exploding(cause, evidence_.net->any_residual));
}

// Whether a shrinking gradient costs learning under the optimizer in use; sets absolute_.
bool Judge::harms_when_vanishing() noexcept {
  double weakest = std::numeric_limits<double>::infinity(), strongest = 0, fall = 0;
  const double error = evidence_.rows() * layers_.back().delta * layers_.back().delta;
  for (const LayerEvidence &layer : layers_) {
    weakest = std::min(weakest, speed(layer)), strongest = std::max(strongest, speed(layer));
    if (!layer.spec->hidden) continue;
    // An adaptive optimizer moves a weight along its gradient g by lr g / (g + d + eps), where d is what weight decay
    // adds to g; less than lr / kNormRatio is too little.
    const double root = std::sqrt(double(layer.spec->in) * double(layer.spec->out));
    const double above = evidence_.added_decay * layer.weight / root + evidence_.eps;
    if (evidence_.adaptive()) absolute_ |= layer.weight_grad / root * (limits::kNormRatio - 1) < above;
    fall += evidence_.lr * evidence_.memory * layer.weight_grad * layer.weight_grad / error;
  }
  if (evidence_.adaptive()) return absolute_;
  const bool lost = fall < 1 / limits::kLearningSteps || (has_signal() && is_rounded_away(weakest));
  absolute_ = lost && evidence_.lr > 0;
  return absolute_ || !(weakest >= strongest / limits::kNormRatio);
}

// The loss of the best constant output, or a bound near it; 0 for losses for which it depends on the targets' values.
double Judge::constant_guess() const noexcept {
  if (evidence_.loss == GRADCORE_CROSS_ENTROPY) return std::log(std::max(double(evidence_.net->out_features()), 2.0));
  return evidence_.loss == GRADCORE_BINARY_CROSS_ENTROPY ? std::log(2.0) : 0.0;
}

// Whether a growing gradient costs learning under the optimizer in use; sets absolute_.
bool Judge::harms_when_exploding() noexcept {
  double taken = 0, weakest = std::numeric_limits<double>::infinity(), strongest = 0;
  for (const LayerEvidence &layer : layers_) {
    const double step = update(layer) * layer.weight;
    if (std::isfinite(step)) taken += layer.weight_grad * step;
    if (layer.spec->hidden) weakest = std::min(weakest, speed(layer)), strongest = std::max(strongest, speed(layer));
  }
  // A step overshoots if it would take far more than the whole loss away, were the loss linear. A loss far above that
  // of a constant guess comes from the scale of the net, not from the data.
  const double loss = evidence_.mean_loss(), guess = constant_guess();
  const bool overshoots = loss > 0 && taken / loss > limits::kOvershoot;
  absolute_ = overshoots || (guess > 0 && loss > limits::kDiverged * guess);
  if (absolute_ || evidence_.adaptive()) return absolute_;
  return weakest <= 0 || strongest / weakest > limits::kNormRatio;
}

// Adds the finding for a profile that leaves the band although a typical draw of the design does not.
void Judge::luck() {
  add(slope_.value < 0 ? GRADCORE_FINDING_VANISHING : GRADCORE_FINDING_EXPLODING, GRADCORE_INFO,
      GRADCORE_CAUSE_NARROW_LAYER, collect(1),
      "With this draw of the weights, the profile leaves the healthy band: its slope is %+.2g per layer, of which "
      "%+.2g comes from the sizes of weights and derivatives. The rest is chance (%+.2g in a typical draw of layers "
      "this narrow).",
      slope_.value, slope_.systematic, slope_.drift);
}

// Adds the finding for a profile that leaves the band by less than the noise of batches.
void Judge::undecided() {
  const bool shrinks = slope_.value < 0;
  add(shrinks ? GRADCORE_FINDING_VANISHING : GRADCORE_FINDING_EXPLODING, GRADCORE_INFO,
      shrinks ? cause_of_vanishing(evidence_, slope_) : cause_of_exploding(evidence_, slope_), collect(1),
      "The profile leaves the healthy band, but by less than the noise of batches: its slope is %+.2g per layer "
      "(interval %+.2g to %+.2g; healthy: within +-%.2g). More batches would decide.",
      slope_.value, slope_.value - slope_.batch_half, slope_.value + slope_.batch_half, slope_.band);
}

// ---- units, step sizes, data, number formats ----

// A learning rate of zero, or updates that are rounded away in every layer although there is a gradient to follow.
// explained: whether another finding accounts for small updates already.
void Judge::small_steps(bool explained) {
  if (!evidence_.has_optimizer) return;
  const bool standing = evidence_.lr == 0;
  if (!standing) {
    if (explained || !has_signal()) return;
    for (const LayerEvidence &layer : layers_)
      if (!is_rounded_away(update(layer))) return;
  }
  const int count = collect(depth_);
  if (standing)
    add(GRADCORE_FINDING_UPDATE_RATIO, GRADCORE_WARNING, GRADCORE_CAUSE_LEARNING_RATE, count,
        "The learning rate is 0, as before a warm-up or after a schedule has ended: no step changes the weights.");
  else
    add(GRADCORE_FINDING_UPDATE_RATIO, GRADCORE_WARNING, GRADCORE_CAUSE_LEARNING_RATE, count,
        "In every layer, the update is below %.1g of the weights and is rounded away. The learning rate is too small "
        "for these gradients.",
        evidence_.unit_roundoff());
}

// Batch norm over two or three rows: the mean growth of a gradient on its way back has no limit.
void Judge::few_rows() {
  if (layers_[0].spec->normalization != GRADCORE_NORM_BATCH || evidence_.rows() > 3) return;
  add(GRADCORE_FINDING_UPDATE_RATIO, GRADCORE_WARNING, GRADCORE_CAUSE_BATCH_NORM, collect(depth_ - 1),
      "With %.0f rows, batch norm divides by standard deviations that can be close to zero by chance, so some steps "
      "are far larger than others. Use batches of 8 rows or more, or layer norm.",
      evidence_.rows());
}

// The number of dead units among `width` that random ReLU layers exceed in at most kFalseAlarm of the nets. If all rows
// point the same way, as deep in a net, each unit is dead with probability 1/2.
index Judge::dead_by_chance(index width) const noexcept {
  const double n = double(width), level = limits::kFalseAlarm / std::max(depth_ - 1, 1);
  double tail = 0, log_share = -n * std::log(2.0);  // log of C(n, dead) / 2^n, the probability of `dead` dead units
  for (index dead = width; dead > 0; dead--) {
    tail += std::exp(log_share);
    if (tail > level) return dead;
    log_share += std::log(double(dead) / (n - double(dead) + 1));
  }
  return 0;
}

void Judge::dead_units() {
  const int count = collect(depth_ - 1, [&](const LayerEvidence &layer, int) {
    return layer.spec->activation == GRADCORE_RELU && layer.dead_units > double(dead_by_chance(layer.spec->out));
  });
  if (count)
    add(GRADCORE_FINDING_DEAD_UNITS, GRADCORE_WARNING, GRADCORE_CAUSE_DEAD_UNITS, count,
        "In %d layers, more units output zero for every row than chance explains. They receive no gradient and do not "
        "change.",
        count);
}

// Bounded activations whose entries are mostly saturated; one finding per cause.
void Judge::saturation() {
  for (const int cause :
       {GRADCORE_CAUSE_INPUT_SCALE, GRADCORE_CAUSE_WEIGHT_SCALE, GRADCORE_CAUSE_SATURATING_ACTIVATION}) {
    const int count = collect(depth_ - 1, [&](const LayerEvidence &layer, int l) {
      return layer.spec->activation >= GRADCORE_TANH && layer.saturated > limits::kSaturated &&
             cause_of_saturation(evidence_, l) == cause;
    });
    if (count)
      add(GRADCORE_FINDING_SATURATION, GRADCORE_WARNING, cause, count,
          "In %d layers, most activations are saturated: %s.", count,
          cause == GRADCORE_CAUSE_INPUT_SCALE    ? "the inputs are too large"
          : cause == GRADCORE_CAUSE_WEIGHT_SCALE ? "the weights are too large"
                                                 : "biases or trained weights have driven them there");
  }
}

void Judge::unscaled_input() {
  const double rms = evidence_.input_rms;
  // A normalization makes up for small inputs, unless the first layer has biases that it leaves in: these outweigh
  // them.
  const LayerSpec &first = *layers_[0].spec;
  const bool mended = first.batch_norm() || (first.row_norm() && first.bias < 0);
  const double seen = mended ? rms / std::hypot(rms, std::sqrt(kNormEps)) : rms;
  if (rms > limits::kInputScale || (seen > 0 && seen < std::pow(limits::kInputScale, evidence_.adaptive() ? -2 : -1)))
    add(GRADCORE_FINDING_UNSCALED_INPUT, GRADCORE_WARNING, GRADCORE_CAUSE_INPUT_SCALE, collect(1),
        "Inputs have a root mean square of %.3g: the first layer's outputs and gradients inherit that scale. "
        "Standardize each column to mean 0 and variance 1.",
        rms);
}

// Deltas that are subnormal in the net's own format, or would be zero in a smaller one that training uses. Subnormal
// deltas do no harm if the typical delta times the unit roundoff is a normal number: the sums that they enter are
// rounded by more than the digits that they have lost.
void Judge::underflow() {
  const int own = collect(depth_, [&](const LayerEvidence &layer, int) {
    const double typical = layer.delta / std::sqrt(evidence_.rows() * double(layer.spec->out));
    return layer.subnormal > limits::kUnderflow && typical * evidence_.unit_roundoff() < evidence_.smallest_normal();
  });
  if (own)
    add(GRADCORE_FINDING_UNDERFLOW, GRADCORE_WARNING, GRADCORE_CAUSE_PRECISION, own,
        "Deltas of %d layers are subnormal: they have lost digits, and smaller ones are zero.", own);
  double fp16 = 0, bf16 = 0;
  const int lossy = collect(depth_, [&](const LayerEvidence &layer, int) {
    fp16 = std::max(fp16, layer.lost_in_fp16), bf16 = std::max(bf16, layer.lost_in_bf16);
    return std::max(layer.lost_in_fp16, layer.lost_in_bf16) > limits::kUnderflow;
  });
  if (lossy)
    add(GRADCORE_FINDING_UNDERFLOW, GRADCORE_INFO, GRADCORE_CAUSE_PRECISION, lossy,
        "Without loss scaling, non-zero deltas would become zero; the largest shares in a layer: %.0f %% in fp16, "
        "%.0f %% in bf16.",
        100 * fp16, 100 * bf16);
}

}  // namespace

void judge(const Evidence &evidence, Judgement *to) {
  to->verdict = GRADCORE_VERDICT_HEALTHY;
  to->slope = estimate_slope(evidence);
  to->findings.clear();
  to->layers.clear();
  Judge(evidence, to).look();
}

}  // namespace gradcore
