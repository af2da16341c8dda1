#include "ops/reduce.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/parallel.hpp"

namespace gradcore {

namespace {

constexpr index kBlock = 16384;

// Sum of squares of the finite x * 2^-exponent; does not overflow if all |x| are below 2^(exponent + 1).
template <class T>
double scaled_squares(index n, const T *x, int exponent) noexcept {
  double sum = 0;
  for (index i = 0; i < n; i++) {
    if (!std::isfinite(x[i])) continue;
    const double value = std::ldexp(double(x[i]), -exponent);
    sum += value * value;
  }
  return sum;
}

template <class T>
double sum_abs_power(index n, const T *x, double scale, double p) noexcept {
  double sum = 0;
  for (index i = 0; i < n; i++) sum += std::pow(std::abs(double(x[i])) / scale, p);
  return sum;
}

// The results of measure(piece) for all pieces, in order; computed in parallel.
template <class T, class F>
std::vector<double> for_pieces(const std::vector<Piece<T>> &pieces, F &&measure) {
  std::vector<double> results(pieces.size());
  parallel_for(index(pieces.size()), 8.0 * double(kBlock) * double(pieces.size()),
               [&](index i) { results[std::size_t(i)] = measure(pieces[std::size_t(i)]); });
  return results;
}

double in_order(const std::vector<double> &terms) noexcept {
  double sum = 0;
  for (const double term : terms) sum += term;
  return sum;
}

// The largest value; NaN counts as larger than any other.
double largest(const std::vector<double> &values) noexcept {
  double best = 0;
  for (const double value : values) best = value > best || std::isnan(value) ? value : best;
  return best;
}

}  // namespace

template <class T>
std::vector<Piece<T>> cut(const ArrayList<T> &list) {
  std::vector<Piece<T>> pieces;
  for (int a = 0; a < list.count; a++)
    for (index i = 0; i < list.sizes[a]; i += kBlock)
      pieces.push_back({list.arrays[a] + i, std::min(kBlock, list.sizes[a] - i)});
  return pieces;
}

template <class T>
double norm2(const KernelSet<T> &kernels, index n, const T *x) noexcept {
  const double sum = kernels.sum_of_squares(1, n, x, n);
  if (kept_digits(sum)) return std::sqrt(sum);
  const double max = kernels.max_abs(n, x);
  if (max == 0 || !std::isfinite(max)) return max;
  const int exponent = std::ilogb(max);
  return std::ldexp(std::sqrt(scaled_squares(n, x, exponent)), exponent);
}

template <class T>
double total_norm(const KernelSet<T> &kernels, const ArrayList<T> &list, double p) {
  const std::vector<Piece<T>> pieces = cut(list);
  if (p == 2) {
    const double sum =
        in_order(for_pieces(pieces, [&](const Piece<T> &q) { return kernels.sum_of_squares(1, q.n, q.x, q.n); }));
    if (kept_digits(sum)) return std::sqrt(sum);
  }
  const double max = largest(for_pieces(pieces, [&](const Piece<T> &q) { return kernels.max_abs(q.n, q.x); }));
  if (max == 0 || !std::isfinite(max) || std::isinf(p)) return max;
  const int exponent = std::ilogb(max);
  if (p == 2)
    return std::ldexp(
        std::sqrt(in_order(for_pieces(pieces, [&](const Piece<T> &q) { return scaled_squares(q.n, q.x, exponent); }))),
        exponent);
  // Powers of elements relative to the largest cannot overflow.
  return max *
         std::pow(in_order(for_pieces(pieces, [&](const Piece<T> &q) { return sum_abs_power(q.n, q.x, max, p); })),
                  1 / p);
}

void merge_stats(StatsSums &into, const StatsSums &from) noexcept {
  into.count += from.count;
  into.zeros += from.zeros;
  into.subnormals += from.subnormals;
  into.nonfinite += from.nonfinite;
  into.sum += from.sum;
  into.sumsq += from.sumsq;
  into.max_abs = std::max(into.max_abs, from.max_abs);
  for (int f = 0; f < 4; f++) {
    into.flushed[f] += from.flushed[f];
    into.overflowed[f] += from.overflowed[f];
  }
}

gradcore_array_stats finish_stats(const StatsSums &sums) noexcept {
  gradcore_array_stats stats{};
  stats.count = sums.count;
  stats.zeros = sums.zeros;
  stats.subnormals = sums.subnormals;
  stats.nonfinite = sums.nonfinite;
  const double finite = double(sums.count - sums.nonfinite);
  stats.mean = finite > 0 ? sums.sum / finite : std::numeric_limits<double>::quiet_NaN();
  const double spread = double(sums.sumsq / finite - (long double)(stats.mean) * stats.mean);
  stats.variance = !(finite > 0)        ? std::numeric_limits<double>::quiet_NaN()
                   : std::isnan(spread) ? std::numeric_limits<double>::infinity()  // squares beyond double
                                        : std::max(0.0, spread);
  stats.norm = double(std::sqrt(sums.sumsq));
  stats.max_abs = sums.max_abs;
  for (int f = 0; f < 4; f++) {
    stats.flushed[f] = sums.flushed[f];
    stats.overflowed[f] = sums.overflowed[f];
  }
  return stats;
}

#define GRADCORE_INSTANTIATE(T)                                              \
  template std::vector<Piece<T>> cut<T>(const ArrayList<T> &);               \
  template double norm2<T>(const KernelSet<T> &, index, const T *) noexcept; \
  template double total_norm<T>(const KernelSet<T> &, const ArrayList<T> &, double);
GRADCORE_INSTANTIATE(float)
GRADCORE_INSTANTIATE(double)
#undef GRADCORE_INSTANTIATE

}  // namespace gradcore
