// Layers whose weight gradient is exactly zero: why, and whether the next steps end it.
#ifndef GRADCORE_ANALYSIS_SILENCE_HPP
#define GRADCORE_ANALYSIS_SILENCE_HPP

#include "analysis/evidence.hpp"

namespace gradcore {

enum class Silence {
  none,              // there is a gradient
  asleep,            // nothing arrives from above until the next steps have moved parameters that start at zero there
  starved_at_start,  // almost nothing enters from below until the next steps have moved parameters there
  bypassed,          // a residual branch without a gradient; its skip connection carries it
  stuck,             // nothing arrives from above
  starved            // almost nothing enters from below
};

Silence silence_of(const Evidence &evidence, int layer) noexcept;

// Why layers stay silent: the layer to look at, the cause, and the reason in words.
struct Closed {
  int layer, cause;
  const char *text;
};

// A layer that passes neither signal nor gradient, and so silences the layers below and above it; layer -1 if none.
Closed closed_layer(const Evidence &evidence) noexcept;

// Why nothing arrives from above at a group of layers, of which this one is the lowest.
Closed nothing_from_above(const Evidence &evidence, int lowest) noexcept;

}  // namespace gradcore

#endif
