// Layers whose weights receive a gradient of exactly zero: for want of what, and whether the next steps end it.
#ifndef GRADCORE_ANALYSIS_SILENCE_HPP
#define GRADCORE_ANALYSIS_SILENCE_HPP

#include "analysis/evidence.hpp"

namespace gradcore {

enum class Silence {
  none,              // there is a gradient
  asleep,            // nothing arrives from above, until the next steps have moved what begins at zero there
  starved_at_start,  // next to nothing enters from below, until the next steps have moved something there
  bypassed,          // a residual branch without a gradient, which its skip connection passes on
  stuck,             // nothing arrives from above
  starved            // next to nothing enters from below
};

Silence silence_of(const Evidence &evidence, int layer) noexcept;

// Why layers are silent for good: the layer to look at, the cause, and the reason in words.
struct Closed {
  int layer, cause;
  const char *text;
};

// What neither a signal nor a gradient passes, and so silences the layers below and above it; layer -1 without one.
Closed closed_layer(const Evidence &evidence) noexcept;

// Why nothing arrives from above at layers of which this one is the lowest.
Closed nothing_from_above(const Evidence &evidence, int lowest) noexcept;

}  // namespace gradcore

#endif
