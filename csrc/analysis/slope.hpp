// The slope of ln |delta|^2 over depth, with an error bar that knows what finite width does. The estimate and its
// reasons are those of gradcore/analysis/slope.py, (S.1).
#ifndef GRADCORE_ANALYSIS_SLOPE_HPP
#define GRADCORE_ANALYSIS_SLOPE_HPP

#include "analysis/evidence.hpp"

namespace gradcore {

struct Slope {
  double value, low, high;                             // as measured, with a 95 % interval
  double systematic, systematic_low, systematic_high;  // without the luck of this draw of the weights
  double batch_error, width_error;                     // standard errors
  double band;                                         // healthy within +-band
  int steps;                                           // hidden layers that it runs through
  double drift;                                        // what width takes beside it on the typical draw
  bool random;                                         // whether the weights are, so that another draw matters
  double batch_half;                                   // half of the interval of value that batches alone make
  double typical() const noexcept { return random ? systematic + drift : systematic; }
};

// Half width of the 95 % interval of a mean of `count` values with this standard error; 0 for a single one.
double half_interval(double error, int count) noexcept;

Slope estimate_slope(const Evidence &evidence) noexcept;

}  // namespace gradcore

#endif
