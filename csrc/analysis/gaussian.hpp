// What theory knows of an activation: moments of its derivative under a Gaussian.
#ifndef GRADCORE_ANALYSIS_GAUSSIAN_HPP
#define GRADCORE_ANALYSIS_GAUSSIAN_HPP

#include "kernels/kernel_table.hpp"

namespace gradcore {

// slopes[i] = act'(x[i]); whoever calls the analysis brings it along.
using Derivative = void (*)(int activation, index count, const double *x, double *slopes);

struct SlopeMoments {
  double square, fourth;  // E[act'(sqrt(q) z)^2] and ^4, z ~ N(0, 1)
  double kurtosis() const noexcept;
};

// By panels of Gauss-Legendre quadrature, to about 1e-13 relative.
SlopeMoments slope_moments(Derivative derivative, int activation, double q) noexcept;

// max |act'|, on a grid fine enough for four digits.
double largest_slope(Derivative derivative, int activation) noexcept;

}  // namespace gradcore

#endif
