// Sums and statistics kernels on every target the CPU supports, against plain loops in double.
#include <algorithm>
#include <limits>

#include "check.hpp"
#include "reference/reference.hpp"

namespace gradcore::testing {
namespace {

Random rng;

// ---- checks and extremes ----

template <class T>
void test_all_finite() {
  for_each_case<T>("all_finite", [&](const KernelSet<T> &k, const Case &c) {
    Matrix<T> x = rng.matrix<T>(c, c.scale);
    x[rng.below(x.size())] = std::numeric_limits<T>::max();
    CHECK(k.all_finite(c.rows, c.cols, x.data(), x.ld()));
    for (const T bad : {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                        std::numeric_limits<T>::quiet_NaN()}) {
      for (const index at : {index(0), x.size() - 1, rng.below(x.size())}) {
        Matrix<T> y = x;
        y[at] = bad;
        CHECK(!k.all_finite(c.rows, c.cols, y.data(), y.ld()));
      }
    }
  });
}

template <class T>
void test_max_abs() {
  for_each_case<T>("max_abs", [&](const KernelSet<T> &k, const Case &c) {
    const index n = c.rows * c.cols;
    Matrix<T> x = rng.vector<T>(n, c.scale);
    double expected = 0;
    for (index i = 0; i < n; i++) expected = std::max(expected, std::abs(double(x[i])));
    CHECK(k.max_abs(n, x.data()) == expected);
    const index at = rng.below(n), other = rng.below(n);
    x[at] = -std::numeric_limits<T>::infinity();
    CHECK(k.max_abs(n, x.data()) == std::numeric_limits<double>::infinity());
    x[other] = -std::numeric_limits<T>::quiet_NaN();
    CHECK(std::isnan(k.max_abs(n, x.data())));
    for (index i = 0; i < n; i++) x[i] = 0;
    CHECK(k.max_abs(n, x.data()) == 0);
    x[at] = std::numeric_limits<T>::denorm_min();
    CHECK(k.max_abs(n, x.data()) == double(std::numeric_limits<T>::denorm_min()));
  });
}

// ---- sums ----

template <class T>
void test_column_sum() {
  for_each_case<T>("column_sum", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.matrix<T>(c, c.scale);
    Matrix<T> sum(1, c.cols), total = rng.vector<T>(c.cols, c.scale);
    const Matrix<T> before = total;
    k.column_sum(c.rows, c.cols, x.data(), x.ld(), false, sum.data());
    k.column_sum(c.rows, c.cols, x.data(), x.ld(), true, total.data());
    for (index j = 0; j < c.cols; j++) {
      double expected = 0, size = std::abs(double(before[j]));
      for (index r = 0; r < c.rows; r++) expected += double(x(r, j)), size += std::abs(double(x(r, j)));
      const double bound = double(c.rows + 1) * 2 * kRoundoff<T> * size;
      CHECK_NEAR(sum[j], expected, bound);
      CHECK_NEAR(total[j], double(before[j]) + expected, bound);
    }
    CHECK(sum.intact() && total.intact());
  });
}

// Partial sums of float32 run over at most 2048 elements in at least 16 accumulators, then a tree.
template <class T>
double sum_bound(index n) {
  return (sizeof(T) == 4 ? 140 * kRoundoff<float> : double(n) * kRoundoff<double>)+1e-15;
}

template <class T>
void test_sum_of_squares() {
  for_each_case<T>("sum_of_squares", [&](const KernelSet<T> &k, const Case &c) {
    const index n = c.rows * c.cols;
    // float32: any magnitude. Squares may leave the range of float32, but not that of double.
    for (const double scale : {1.0, 1e-15, 1e-22, 1e-43, 1e18, 1e30, 1e38}) {
      if (c.scale != 1 || (sizeof(T) == 8 && scale != 1)) continue;
      Matrix<T> x = rng.vector<T>(n, 1);
      for (index i = 0; i < n; i++) x[i] = T(std::min(std::max(double(x[i]), -3.0), 3.0) * scale);
      double expected = 0;
      for (index i = 0; i < n; i++) expected += double(x[i]) * double(x[i]);
      CHECK_NEAR(k.sum_of_squares(1, n, x.data(), n), expected, sum_bound<T>(n) * expected);
      x[rng.below(n)] = std::numeric_limits<T>::infinity();
      CHECK(k.sum_of_squares(1, n, x.data(), n) == std::numeric_limits<double>::infinity());
      x[rng.below(n)] = std::numeric_limits<T>::quiet_NaN();
      CHECK(std::isnan(k.sum_of_squares(1, n, x.data(), n)));
    }
  });
}

// ---- statistics of activations ----

template <class T>
void test_column_nonzero() {
  for_each_case<T>("column_nonzero", [&](const KernelSet<T> &k, const Case &c) {
    Matrix<T> x = rng.matrix<T>(c, c.scale);
    for (index i = 0; i < x.size(); i++) {
      if (rng.uniform() < 0.7) x[i] = rng.uniform() < 0.5 ? T(0) : T(-0.0);
      if (rng.uniform() < 0.02) x[i] = std::numeric_limits<T>::quiet_NaN();
      if (rng.uniform() < 0.02) x[i] = std::numeric_limits<T>::denorm_min();
    }
    Matrix<T> first(1, c.cols);  // marks before the call
    std::vector<unsigned char> nonzero(std::size_t(c.cols) + 1, 0);
    nonzero[std::size_t(c.cols)] = 77;
    nonzero[0] = 1;
    index zeros = 5, expected_zeros = 5;
    k.column_nonzero(c.rows, c.cols, x.data(), x.ld(), nonzero.data(), &zeros);
    bool equal = true;
    for (index j = 0; j < c.cols; j++) {
      bool any = j == 0;
      for (index r = 0; r < c.rows; r++) {
        any |= x(r, j) != 0;
        expected_zeros += x(r, j) == 0;
      }
      equal &= (nonzero[std::size_t(j)] != 0) == any;
    }
    CHECK(equal);
    CHECK(zeros == expected_zeros);
    CHECK(nonzero[std::size_t(c.cols)] == 77);
  });
}

template <class T>
void test_derivative_stats() {
  for_each_case<T>("derivative_stats", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> d = rng.matrix<T>(c, c.scale);
    const T threshold = T(0.3 * c.scale);
    double sumsq = 2, expected = 0;
    index below = 3, expected_below = 3;
    k.derivative_stats(c.rows, c.cols, d.data(), d.ld(), threshold, &sumsq, &below);
    for (index i = 0; i < d.size(); i++) {
      expected += double(d[i]) * double(d[i]);
      expected_below += std::abs(d[i]) < threshold;
    }
    CHECK(below == expected_below);
    CHECK_NEAR(sumsq, 2 + expected, sum_bound<T>(d.size()) * expected + 1e-15);
  });
}

// ---- block_stats ----

struct Expected {
  StatsSums sums{};
  double sum_size = 0;  // sum of absolute values
  std::vector<index> histogram;
};

template <class T>
Expected expected_stats(const Matrix<T> &x) {
  Expected e;
  const int least = sizeof(T) == 4 ? GRADCORE_MIN_EXPONENT_F32 : GRADCORE_MIN_EXPONENT_F64;
  e.histogram.assign(sizeof(T) == 4 ? GRADCORE_NUM_BINS_F32 : GRADCORE_NUM_BINS_F64, 0);
  for (index i = 0; i < x.size(); i++) {
    const double v = double(x[i]);
    e.sums.count++;
    if (v == 0) e.sums.zeros++;
    if (!std::isfinite(v)) e.sums.nonfinite++;
    if (v == 0 || !std::isfinite(v)) continue;
    e.sums.subnormals += std::abs(v) < double(std::numeric_limits<T>::min());
    e.sums.sum += v;
    e.sum_size += std::abs(v);
    e.sums.sumsq += v * v;
    e.sums.max_abs = std::max(e.sums.max_abs, std::abs(v));
    e.histogram[std::size_t(reference::exponent(v) - least)]++;
    const double smallest[4] = {0x1p-24, 0x1p-133, 0x1p-9, 0x1p-16};
    for (int f = 0; f < 4; f++) e.sums.flushed[f] += reference::flushes(v, smallest[f]);
    e.sums.overflowed[0] += reference::overflows(v, 65504, 32, false);
    e.sums.overflowed[1] += reference::overflows(v, 0x1.fep127, 0x1p120, false);
    e.sums.overflowed[2] += reference::overflows(v, 448, 32, true);
    e.sums.overflowed[3] += reference::overflows(v, 57344, 8192, false);
  }
  return e;
}

template <class T>
void check_stats(const KernelSet<T> &k, const Matrix<T> &x) {
  const Expected e = expected_stats(x);
  for (const bool with_histogram : {false, true}) {
    StatsSums s{};
    struct {
      index front = 99;
      Histogram<T> histogram{};
      index back = 99;
    } guarded;
    Histogram<T> &histogram = guarded.histogram;
    k.block_stats(x.rows(), x.cols(), x.data(), x.ld(), &s, with_histogram ? &histogram : nullptr);
    CHECK(s.count == e.sums.count && s.zeros == e.sums.zeros && s.nonfinite == e.sums.nonfinite);
    CHECK(s.subnormals == e.sums.subnormals);
    CHECK(s.max_abs == e.sums.max_abs);
    CHECK_NEAR(s.sum, e.sums.sum, sum_bound<T>(x.size()) * e.sum_size);
    CHECK_NEAR(s.sumsq, e.sums.sumsq, sum_bound<T>(x.size()) * e.sums.sumsq);
    for (int f = 0; f < 4; f++) {
      CHECK(s.flushed[f] == e.sums.flushed[f]);
      CHECK(s.overflowed[f] == e.sums.overflowed[f]);
    }
    CHECK(!with_histogram || std::equal(e.histogram.begin(), e.histogram.end(), histogram.bins));
    CHECK(guarded.front == 99 && guarded.back == 99);
    const auto used = [](index count) { return count != 0; };
    CHECK(histogram.begin >= 0 && histogram.begin <= histogram.end && histogram.end <= histogram.kBins);
    CHECK(std::none_of(histogram.bins, histogram.bins + histogram.begin, used));
    CHECK(std::none_of(histogram.bins + histogram.end, std::end(histogram.bins), used));
    StatsSums twice = s;  // accumulates
    k.block_stats(x.rows(), x.cols(), x.data(), x.ld(), &twice, nullptr);
    CHECK(twice.count == 2 * s.count && twice.zeros == 2 * s.zeros && twice.flushed[0] == 2 * s.flushed[0]);
  }
}

// Values at and next to every limit of block_stats.
template <class T>
std::vector<T> special_values() {
  std::vector<T> all = {T(0), T(-0.0), std::numeric_limits<T>::min(), std::numeric_limits<T>::denorm_min(),
                        std::numeric_limits<T>::max()};
  for (const double limit : {0x1p-25, 0x1p-134, 0x1p-10, 0x1p-17, 65520.0, 0x1.ffp127, 464.0, 448.0, 61440.0, 1.0}) {
    const T at = T(limit);
    for (const T v : {at, std::nextafter(at, T(0)), std::nextafter(at, std::numeric_limits<T>::infinity())}) {
      all.push_back(v);
      all.push_back(-v);
    }
  }
  return all;
}

template <class T>
void test_block_stats() {
  const std::vector<T> specials = special_values<T>();
  for_each_case<T>("block_stats", [&](const KernelSet<T> &k, const Case &c) {
    Matrix<T> x = rng.matrix<T>(c, c.scale);
    check_stats(k, x);
    for (const double level : {1e-3, 1e-7, 1e-12, 1e-30, 1e-39, 1e-42, 300.0, 6e4, 1e20, 1e37}) {
      Matrix<T> y = x;
      for (index i = 0; i < y.size(); i++) y[i] = T(std::min(std::max(double(y[i]) / c.scale, -3.0), 3.0) * level);
      check_stats(k, y);
      for (index i = 0; i < y.size(); i++)  // half zeros, as a relu's gradient; powers of two, as a sign's
        y[i] = rng.uniform() < 0.5 ? T(0) : T(std::exp2(std::floor(std::log2(level))));
      check_stats(k, y);
    }
    for (const int spread : {30, 31, 32, 33, 62, 63, 64, 65}) {  // about as wide as a window of exponents
      Matrix<T> y = x;
      for (index i = 0; i < y.size(); i++)
        y[i] = T(std::ldexp(1 + rng.uniform(), int(-rng.below(spread + 1)))) * (rng.uniform() < 0.5 ? T(-1) : T(1));
      y[0] = T(-1.5), y[y.size() - 1] = T(std::ldexp(1.25, -spread));
      check_stats(k, y);
    }
    for (index i = 0; i < x.size(); i++)  // all exponents
      x[i] = T(std::exp2(rng.normal() * (sizeof(T) == 4 ? 40 : 300)) * (rng.uniform() - 0.5));
    for (index i = 0; i < x.size(); i++)
      if (!std::isfinite(double(x[i]) * double(x[i]))) x[i] = T(1);
    check_stats(k, x);
    const bool square_overflows = sizeof(T) == 8;  // of its largest value; the sum's reference would, too
    for (index i = 0; i < x.size(); i++) {
      if (rng.uniform() < 0.3) x[i] = specials[std::size_t(rng.below(index(specials.size())))];
      if (square_overflows && std::abs(x[i]) == std::numeric_limits<T>::max()) x[i] = T(0);
    }
    check_stats(k, x);
    x[rng.below(x.size())] = std::numeric_limits<T>::infinity();
    check_stats(k, x);
    x[rng.below(x.size())] = -std::numeric_limits<T>::quiet_NaN();
    check_stats(k, x);
    for (index i = 0; i < x.size(); i++) x[i] = std::numeric_limits<T>::quiet_NaN();
    check_stats(k, x);
  });
}

// With mean / std = 1000, E[x^2] - E[x]^2 of float32 sums would lose every digit.
template <class T>
void test_variance() {
  for_each_case<T>("variance", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.matrix<T>(c, c.scale, 1000);
    StatsSums s{};
    k.block_stats(c.rows, c.cols, x.data(), x.ld(), &s, nullptr);
    double mean = 0, variance = 0;
    for (const double v : x.values()) mean += v / double(x.size());
    for (const double v : x.values()) variance += (v - mean) * (v - mean) / double(x.size());
    const double measured = s.sumsq / double(s.count) - std::pow(s.sum / double(s.count), 2);
    CHECK_NEAR(measured, variance, 4 * sum_bound<T>(x.size()) * variance + 64 * kRoundoff<double> * mean * mean);
  });
}

// The order of a sum depends on the shape, not on the stride.
template <class T>
void test_stride_independence() {
  for_each_case<T>("stride independence", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.matrix<T>(c, c.scale);
    Matrix<T> dense(c.rows, c.cols);
    for (index i = 0; i < x.size(); i++) dense[i] = x[i];
    StatsSums a{}, b{};
    k.block_stats(c.rows, c.cols, x.data(), x.ld(), &a, nullptr);
    k.block_stats(c.rows, c.cols, dense.data(), dense.ld(), &b, nullptr);
    CHECK(a.sum == b.sum && a.sumsq == b.sumsq && a.max_abs == b.max_abs);
    double sa = 0, sb = 0;
    index na = 0, nb = 0;
    k.derivative_stats(c.rows, c.cols, x.data(), x.ld(), T(c.scale), &sa, &na);
    k.derivative_stats(c.rows, c.cols, dense.data(), dense.ld(), T(c.scale), &sb, &nb);
    CHECK(sa == sb && na == nb);
  });
}

template <class T>
void test_all() {
  test_all_finite<T>();
  test_max_abs<T>();
  test_column_sum<T>();
  test_sum_of_squares<T>();
  test_column_nonzero<T>();
  test_derivative_stats<T>();
  test_block_stats<T>();
  test_variance<T>();
  test_stride_independence<T>();
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_all<float>();
  gradcore::testing::test_all<double>();
  return gradcore::testing::report();
}
