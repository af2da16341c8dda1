#include "analysis/silence.hpp"

#include <algorithm>
#include <limits>

#include "analysis/causes.hpp"

namespace gradcore {

namespace {

// A layer of n ReLU units is dead by chance with probability 2^-n; above 8 units (0.4 %), chance is not the reason.
constexpr index kNarrow = 8;

// Whether all inputs of the net are zero.
bool no_input(const Evidence &evidence) noexcept {
  return evidence.input_rms == 0 && evidence.layers[0].weight_grad == 0;
}

// Whether a layer below has a gradient, so that the next step changes what enters this one.
bool fed(const Evidence &evidence, int layer) noexcept {
  while (layer-- > 0)
    if (evidence.layers[std::size_t(layer)].moving) return true;
  return false;
}

}  // namespace

Silence silence_of(const Evidence &evidence, int layer) noexcept {
  const LayerEvidence &own = evidence.layers[std::size_t(layer)];
  if (own.weight_grad != 0) return Silence::none;
  if (evidence.starved(layer)) return fed(evidence, layer) ? Silence::starved_at_start : Silence::starved;
  if (own.waking) return Silence::asleep;
  return own.spec->residual && !no_input(evidence) ? Silence::bypassed : Silence::stuck;
}

Closed closed_layer(const Evidence &evidence) noexcept {
  if (no_input(evidence)) return {0, GRADCORE_CAUSE_INPUT_SCALE, "all inputs are zero"};
  for (int l = evidence.depth(); l-- > 0;)
    if (evidence.layers[std::size_t(l)].weight_var == 0)
      return {l, GRADCORE_CAUSE_WEIGHT_SCALE, "all of its weights are zero, and training cannot change that"};
  for (int l = 0; l < evidence.depth() - 1; l++) {
    const LayerEvidence &layer = evidence.layers[std::size_t(l)];
    if (layer.delta > 0 || layer.dead_units < double(layer.spec->out)) continue;
    if (l > 0 && evidence.layers[std::size_t(l - 1)].activation < evidence.near_underflow())
      return {l, cause_of_starvation(evidence, l), "almost no signal enters it, and its units output zero"};
    return {l, layer.spec->out <= kNarrow ? GRADCORE_CAUSE_NARROW_LAYER : GRADCORE_CAUSE_DEAD_UNITS,
            "all of its units output zero for every row"};
  }
  return {-1, GRADCORE_CAUSE_DEAD_UNITS, ""};
}

Closed nothing_from_above(const Evidence &evidence, int lowest) noexcept {
  double smallest = std::numeric_limits<double>::infinity();
  for (int l = 0; l < evidence.depth(); l++)
    if (evidence.travelling(l) > 0) smallest = std::min(smallest, evidence.travelling(l));
  if (smallest < evidence.near_underflow())
    return {lowest, GRADCORE_CAUSE_PRECISION, "the gradient shrinks until it underflows to zero"};
  return {lowest, GRADCORE_CAUSE_SATURATING_ACTIVATION,
          "the derivative of the activation is exactly zero for every row"};
}

}  // namespace gradcore
