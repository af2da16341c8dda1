// Helpers of the C++ tests: a check that counts, guarded matrices, cases, and the loop over targets.
#ifndef GRADCORE_TESTS_CPP_CHECK_HPP
#define GRADCORE_TESTS_CPP_CHECK_HPP

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace gradcore::testing {

// ---- counting ----

struct Tally {
  long passed = 0, failed = 0;
  std::string where;  // target, dtype, case: printed with a failure
};
inline Tally &tally() {
  static Tally instance;
  return instance;
}

inline bool check(bool ok, const char *what, const char *file, int line) {
  Tally &t = tally();
  if (ok) {
    t.passed++;
  } else if (++t.failed <= 50) {
    std::fprintf(stderr, "%s:%d: %s: failed: %s\n", file, line, t.where.c_str(), what);
  }
  return ok;
}
#define CHECK(condition) ::gradcore::testing::check(bool(condition), #condition, __FILE__, __LINE__)

// |actual - expected| <= bound; NaN only where NaN is expected.
inline bool near(double actual, double expected, double bound) {
  if (std::isnan(expected)) return std::isnan(actual);
  return actual == expected || std::abs(actual - expected) <= bound;
}
#define CHECK_NEAR(actual, expected, bound)                                                            \
  do {                                                                                                 \
    const double a_ = double(actual), e_ = double(expected), b_ = double(bound);                       \
    char text_[200];                                                                                   \
    std::snprintf(text_, sizeof text_, "%s = %.17g, expected %.17g within %.3g", #actual, a_, e_, b_); \
    ::gradcore::testing::check(::gradcore::testing::near(a_, e_, b_), text_, __FILE__, __LINE__);      \
  } while (0)

inline int report() {
  std::printf("%ld checks passed\n", tally().passed);
  if (tally().failed) std::fprintf(stderr, "%ld checks FAILED\n", tally().failed);
  return tally().failed != 0;
}

// ---- arrays ----

template <class T>
inline constexpr double kRoundoff = std::numeric_limits<T>::epsilon() / 2;

// A matrix with row stride ld. All elements outside its columns are a marked NaN: reading one spoils a result, and
// intact() detects a write. Behind the last row, the allocation has only a guard.
template <class T>
class Matrix {
 public:
  Matrix(index rows, index cols, index gap = 0) : rows_(rows), cols_(cols), ld_(cols + gap) {
    storage_.assign(std::size_t(kGuard + rows * ld_ + kGuard), marker());
  }
  T *data() { return storage_.data() + kGuard; }
  const T *data() const { return storage_.data() + kGuard; }
  index rows() const { return rows_; }
  index cols() const { return cols_; }
  index ld() const { return ld_; }
  T &operator()(index r, index c) { return data()[r * ld_ + c]; }
  T operator()(index r, index c) const { return data()[r * ld_ + c]; }
  T &operator[](index i) { return (*this)(i / cols_, i % cols_); }
  T operator[](index i) const { return (*this)(i / cols_, i % cols_); }
  index size() const { return rows_ * cols_; }

  bool intact() const {
    const T mark = marker();
    for (index i = -kGuard; i < rows_ * ld_ + kGuard; i++) {
      const bool inside = i >= 0 && i < rows_ * ld_ && i % ld_ < cols_;
      if (!inside && std::memcmp(&data()[i], &mark, sizeof(T)) != 0) return false;
    }
    return true;
  }
  // The elements without gaps, as doubles.
  std::vector<double> values() const {
    std::vector<double> out;
    for (index i = 0; i < size(); i++) out.push_back(double((*this)[i]));
    return out;
  }

 private:
  static constexpr index kGuard = 16;  // at least a vector
  static T marker() {
    T mark;
    std::memset(&mark, 0xff, sizeof mark);
    return mark;
  }
  index rows_, cols_, ld_;
  std::vector<T> storage_;
};

template <class T>
bool same_bits(const Matrix<T> &a, const Matrix<T> &b) {
  for (index i = 0; i < a.size(); i++) {
    const T x = a[i], y = b[i];
    if (std::memcmp(&x, &y, sizeof(T)) != 0) return false;
  }
  return true;
}

// ---- cases ----

struct Case {
  index rows, cols, gap;  // gap: row stride - cols
  double scale;           // scale of the data
};

class Random {
 public:
  double normal() { return normal_(engine_); }
  double uniform() { return std::uniform_real_distribution<double>(0, 1)(engine_); }
  index below(index n) { return index(engine_() % std::uint64_t(n)); }
  template <class T>
  Matrix<T> matrix(const Case &c, double scale, double shift = 0) {
    Matrix<T> m(c.rows, c.cols, c.gap);
    for (index i = 0; i < m.size(); i++) m[i] = T(scale * (normal() + shift));
    return m;
  }
  template <class T>
  Matrix<T> vector(index n, double scale, double shift = 0) {
    return matrix<T>({1, n, 0, 1}, scale, shift);
  }

 private:
  std::mt19937_64 engine_{20240229};
  std::normal_distribution<double> normal_;
};

inline std::vector<Case> cases(int lanes) {
  std::vector<Case> all;
  for (const index cols :
       {index(1), index(lanes - 1), index(lanes), index(lanes + 1), index(17), index(67), index(4 * lanes)})
    for (const index rows : {1, 2, 9})
      if (cols > 0)
        for (const index gap : {0, 5}) all.push_back({rows, cols, gap, 1.0});
  for (const double scale : {0x1p40, 0x1p-40}) all.push_back({9, 67, 5, scale});
  all.push_back({64, 261, 3, 1.0});
  all.push_back({1, 5000, 0, 1.0});
  return all;
}

template <class T>
constexpr const char *kTypeName = sizeof(T) == 4 ? "float32" : "float64";

// Calls body(kernel set, case) for each supported target and case.
template <class T, class Body>
void for_each_case(const char *name, Body &&body) {
  for (int t = 0; t < num_targets(); t++) {
    if (!target_supported(t)) continue;
    const KernelSet<T> &kernels = target(t).template set<T>();
    for (const Case &c : cases(kernels.lanes)) {
      char text[160];
      std::snprintf(text, sizeof text, "%s %s %s [%lld, %lld] gap %lld scale %g", name, target(t).name, kTypeName<T>,
                    (long long)c.rows, (long long)c.cols, (long long)c.gap, c.scale);
      tally().where = text;
      body(kernels, c);
    }
  }
}

}  // namespace gradcore::testing

#endif
