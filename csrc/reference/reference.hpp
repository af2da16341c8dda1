// The oracle: every equation of gradcore as a plain loop. Used by the C++ tests, never shipped.
//
// Functions are templates over T: float, double or std::complex<double>. The complex instance gives
// derivatives by the complex-step method: for a real-analytic f,
//     f(x + ih) = f(x) + ih f'(x) + O(h^2),   hence   f'(x) = Im f(x + ih) / h
// with no subtraction and so no cancellation: h = 1e-50 leaves no truncation error either, and the
// derivative is as accurate as f itself (Squire & Trapp 1998; Martins, Sturdza & Alonso 2003).
// Two rules make it hold: branches look at real parts only, and every function used is analytic, so
// |x| is written as sign(Re x) * x. Functions that C++ lacks for complex numbers (erf, log1p, expm1)
// are continued to first order in Im x: exact here, since h^2 is below the rounding of any term.
//
// Matrices are row-major and contiguous; shapes stand in brackets. Names follow the kernels'.
#ifndef GRADCORE_REFERENCE_REFERENCE_HPP
#define GRADCORE_REFERENCE_REFERENCE_HPP

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "gradcore/gradcore.h"

namespace gradcore::reference {

using index = std::int64_t;
using Complex = std::complex<double>;

// ---- functions over real and complex numbers ----

inline float real_part(float x) { return x; }
inline double real_part(double x) { return x; }
inline double real_part(Complex x) { return x.real(); }

template <class T>
T magnitude(T x) {
  return real_part(x) < 0 ? -x : x;
}

inline float erf(float x) { return std::erf(x); }
inline double erf(double x) { return std::erf(x); }
inline Complex erf(Complex x) {
  const double two_over_sqrt_pi = 1.1283791670955126;
  return {std::erf(x.real()), x.imag() * two_over_sqrt_pi * std::exp(-x.real() * x.real())};
}

inline float log1p(float x) { return std::log1p(x); }
inline double log1p(double x) { return std::log1p(x); }
inline Complex log1p(Complex x) { return {std::log1p(x.real()), x.imag() / (1 + x.real())}; }

inline float expm1(float x) { return std::expm1(x); }
inline double expm1(double x) { return std::expm1(x); }
inline Complex expm1(Complex x) { return {std::expm1(x.real()), x.imag() * std::exp(x.real())}; }

// ---- derivatives by the complex step ----

inline constexpr double kComplexStep = 1e-50;

// f'(x) of f: Complex -> Complex.
template <class F>
double derivative(F &&f, double x) {
  return f(Complex(x, kComplexStep)).imag() / kComplexStep;
}

// Gradient of f: vector<Complex> -> Complex.
template <class F>
std::vector<double> gradient(F &&f, const std::vector<double> &x) {
  std::vector<Complex> point(x.begin(), x.end());
  std::vector<double> grad(x.size());
  for (std::size_t i = 0; i < x.size(); i++) {
    point[i] = Complex(x[i], kComplexStep);
    grad[i] = f(point).imag() / kComplexStep;
    point[i] = x[i];
  }
  return grad;
}

// ---- dense ----

// y[n, out] = x[n, in] w[out, in]^T + b[out]; b may be null.
template <class T>
void dense(index n, index in, index out, const T *x, const T *w, const T *b, T *y) {
  for (index r = 0; r < n; r++) {
    for (index o = 0; o < out; o++) {
      T sum = b ? b[o] : T(0);
      for (index i = 0; i < in; i++) sum += x[r * in + i] * w[o * in + i];
      y[r * out + o] = sum;
    }
  }
}

// dx[n, in] = dy w;  dw[out, in] = dy^T x;  db[out] = sum of dy over rows. Overwrites.
template <class T>
void dense_backward(index n, index in, index out, const T *dy, const T *x, const T *w, T *dx, T *dw, T *db) {
  for (index k = 0; k < n * in; k++) dx[k] = T(0);
  for (index k = 0; k < out * in; k++) dw[k] = T(0);
  for (index o = 0; o < out; o++) db[o] = T(0);
  for (index r = 0; r < n; r++) {
    for (index o = 0; o < out; o++) {
      const T g = dy[r * out + o];
      db[o] += g;
      for (index i = 0; i < in; i++) {
        dx[r * in + i] += g * w[o * in + i];
        dw[o * in + i] += g * x[r * in + i];
      }
    }
  }
}

// ---- activations ----

inline constexpr double kLeakySlope = 0.01;
inline constexpr double kSeluScale = 1.0507009873554805, kSeluAlpha = 1.6732632423543772;
inline constexpr double kSqrtHalf = 0.70710678118654752, kSqrtTwoOverPi = 0.79788456080286536;
inline constexpr double kGeluCubic = 0.044715;

template <class T>
T sigmoid(T x) {
  if (real_part(x) >= 0) return T(1) / (T(1) + std::exp(-x));
  const T e = std::exp(x);
  return e / (T(1) + e);
}

template <class T>
T softplus(T x) {
  return real_part(x) > 0 ? x + log1p(std::exp(-x)) : log1p(std::exp(x));
}

// From exp(-2|x|), so that neither tanh of a small x nor its imaginary part at a large one is lost.
template <class T>
T tanh(T x) {
  const T e = expm1(T(-2) * magnitude(x));
  const T t = -e / (e + T(2));
  return real_part(x) < 0 ? -t : t;
}

template <class T>
T activation(int kind, T x) {
  const bool positive = real_part(x) > 0;
  switch (kind) {
    case GRADCORE_RELU:
      return positive ? x : T(0);
    case GRADCORE_LEAKY_RELU:
      return positive ? x : T(kLeakySlope) * x;
    case GRADCORE_ELU:
      return positive ? x : expm1(x);
    case GRADCORE_SELU:
      return T(kSeluScale) * (positive ? x : T(kSeluAlpha) * expm1(x));
    case GRADCORE_GELU:
      return T(0.5) * x * (T(1) + erf(x * T(kSqrtHalf)));
    case GRADCORE_GELU_TANH:
      return T(0.5) * x * (T(1) + tanh(T(kSqrtTwoOverPi) * (x + T(kGeluCubic) * x * x * x)));
    case GRADCORE_SILU:
      return x * sigmoid(x);
    case GRADCORE_MISH:
      return x * tanh(softplus(x));
    case GRADCORE_SOFTPLUS:
      return softplus(x);
    case GRADCORE_TANH:
      return tanh(x);
    case GRADCORE_HARD_TANH:
      return real_part(x) >= 1 ? T(1) : real_part(x) <= -1 ? T(-1) : x;
    case GRADCORE_SIGMOID:
      return sigmoid(x);
    default:
      return x;
  }
}

// act'(x) by the complex step; at a kink the branch above decides: 0 is on the left one, as in PyTorch.
inline double activation_derivative(int kind, double x) {
  return derivative([kind](Complex z) { return activation(kind, z); }, x);
}

// ---- normalization ----

// y[n, c] over the batch, biased variance; mean and inv_std [c] are written.
template <class T>
void batch_norm(index n, index c, const T *x, const T *gamma, const T *beta, T eps, T *y, T *mean, T *inv_std) {
  for (index k = 0; k < c; k++) {
    T sum = T(0), squares = T(0);
    for (index r = 0; r < n; r++) sum += x[r * c + k];
    mean[k] = sum / T(n);
    for (index r = 0; r < n; r++) squares += (x[r * c + k] - mean[k]) * (x[r * c + k] - mean[k]);
    inv_std[k] = T(1) / std::sqrt(squares / T(n) + eps);
    for (index r = 0; r < n; r++) y[r * c + k] = (x[r * c + k] - mean[k]) * inv_std[k] * gamma[k] + beta[k];
  }
}

// y[n, c] over each row; mean and inv_std [n] are written. rms: the mean is taken as 0. beta may be null.
template <class T>
void layer_norm(index n, index c, const T *x, const T *gamma, const T *beta, bool rms, T eps, T *y, T *mean,
                T *inv_std) {
  for (index r = 0; r < n; r++) {
    const T *row = x + r * c;
    T sum = T(0), squares = T(0);
    for (index k = 0; k < c; k++) sum += row[k];
    mean[r] = rms ? T(0) : sum / T(c);
    for (index k = 0; k < c; k++) squares += (row[k] - mean[r]) * (row[k] - mean[r]);
    inv_std[r] = T(1) / std::sqrt(squares / T(c) + eps);
    for (index k = 0; k < c; k++) y[r * c + k] = (row[k] - mean[r]) * inv_std[r] * gamma[k] + (beta ? beta[k] : T(0));
  }
}

// ---- losses: sums over a block, unscaled ----

// -sum_c t[c] (y[c] - ln sum exp y): of one row [c] against probabilities.
template <class T>
T cross_entropy_row(index c, const T *y, const double *target) {
  T largest = y[0];
  for (index k = 1; k < c; k++)
    if (real_part(y[k]) > real_part(largest)) largest = y[k];
  T sum = T(0), loss = T(0);
  for (index k = 0; k < c; k++) sum += std::exp(y[k] - largest);
  const T log_sum = std::log(sum) + largest;
  for (index k = 0; k < c; k++) loss += T(target[k]) * (log_sum - y[k]);
  return loss;
}

// One element's loss: binary_cross_entropy of a logit, mse, mae, huber (delta 1).
template <class T>
T elementwise_loss(int kind, T y, double target) {
  const T error = y - T(target), distance = magnitude(error);
  switch (kind) {
    case GRADCORE_BINARY_CROSS_ENTROPY:
      return softplus(y) - T(target) * y;
    case GRADCORE_MSE:
      return error * error;
    case GRADCORE_MAE:
      return distance;
    default:
      return real_part(distance) < 1 ? T(0.5) * error * error : distance - T(0.5);
  }
}

// ---- statistics ----

// floor(log2 |x|) of a nonzero finite x, subnormals included.
inline int exponent(double x) { return std::ilogb(x); }

// Whether a nonzero finite x becomes 0 in a format with this smallest subnormal, to nearest even.
inline bool flushes(double x, double smallest_subnormal) { return std::abs(x) <= smallest_subnormal / 2; }

// Whether it leaves the format's range: beyond the middle between the largest value and the next of
// its spacing; the middle itself rounds to the even one of the two.
inline bool overflows(double x, double largest, double spacing, bool largest_is_even) {
  const double middle = largest + spacing / 2;
  return largest_is_even ? std::abs(x) > middle : std::abs(x) >= middle;
}

}  // namespace gradcore::reference

#endif
