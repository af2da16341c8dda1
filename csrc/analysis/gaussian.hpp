// Moments of an activation and of its derivative under a Gaussian.
#ifndef GRADCORE_ANALYSIS_GAUSSIAN_HPP
#define GRADCORE_ANALYSIS_GAUSSIAN_HPP

#include "kernels/kernel_table.hpp"

namespace gradcore {

// y[i] = act(x[i]), or act'(x[i]); provided by the caller of the analysis.
using Elementwise = void (*)(int activation, index count, const double *x, double *y);

struct Moments {
  double square, fourth;  // E[f(sqrt(q) z)^2] and ^4, z ~ N(0, 1)
  double kurtosis() const noexcept;
};

// By panels of Gauss-Legendre quadrature, to about 1e-13 relative. NaN if q is NaN.
Moments moments(Elementwise function, int activation, double q) noexcept;

}  // namespace gradcore

#endif
