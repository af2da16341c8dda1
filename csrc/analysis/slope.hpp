// The slope of ln |delta|^2 over depth, with an error bar that includes the effect of finite width. The estimate is
// that of gradcore/analysis/slope.py, (S.1), which gives the reasons.
#ifndef GRADCORE_ANALYSIS_SLOPE_HPP
#define GRADCORE_ANALYSIS_SLOPE_HPP

#include "analysis/evidence.hpp"

namespace gradcore {

struct Slope {
  double value, low, high;                             // as measured, with a 95 % interval
  double systematic, systematic_low, systematic_high;  // without the luck of this draw of the weights
  double batch_error, width_error;                     // standard errors
  double band;                                         // healthy within +-band
  int steps;                                           // hidden layers that it covers
  double drift;                                        // additional loss from finite width on a typical draw
  bool random;                                         // whether the weights are random, so that another draw matters
  double batch_half;                                   // half-width of the interval of value from batches alone
  double typical() const noexcept { return random ? systematic + drift : systematic; }
};

Slope estimate_slope(const Evidence &evidence) noexcept;

}  // namespace gradcore

#endif
