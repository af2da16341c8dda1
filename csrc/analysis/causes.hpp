// The cause of a finding, computed from the measured factors (gradcore/analysis/causes.py).
#ifndef GRADCORE_ANALYSIS_CAUSES_HPP
#define GRADCORE_ANALYSIS_CAUSES_HPP

#include "analysis/slope.hpp"

namespace gradcore {

// These may throw std::bad_alloc.
int cause_of_vanishing(const Evidence &evidence, const Slope &slope);
int cause_of_exploding(const Evidence &evidence, const Slope &slope);
// The same causes in words, for the text of a finding.
const char *why_vanishing(int cause, bool normalized) noexcept;
const char *why_exploding(int cause, bool any_residual) noexcept;
// Of values that left the finite range; of a layer whose units saturate; of a layer that almost no signal enters.
int cause_of_overflow(const Evidence &evidence) noexcept;
int cause_of_saturation(const Evidence &evidence, int layer) noexcept;
int cause_of_starvation(const Evidence &evidence, int layer) noexcept;

}  // namespace gradcore

#endif
