// Helpers of bench_kernels.cpp: arrays, measured roofs, and cases that are verified before they are timed.
#ifndef GRADCORE_BENCH_SUITE_HPP
#define GRADCORE_BENCH_SUITE_HPP

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "network/workspace.hpp"
#include "roof.hpp"

namespace gradcore::bench {

// An aligned array, filled with normally distributed numbers, the same in every run.
template <class T>
class Array {
 public:
  explicit Array(index n) : n_(n) {
    buffer_.reserve(std::size_t(n + kPadding) * sizeof(T));
    static const std::vector<T> pattern = [] {
      std::mt19937_64 engine(20240229);
      std::normal_distribution<double> normal;
      std::vector<T> values(std::size_t(1) << 16);
      for (T &value : values) value = T(normal(engine));
      return values;
    }();
    static index start = 0;  // arrays begin at different places of the pattern
    start += 4099;
    for (index i = 0; i < n; i++) data()[i] = pattern[std::size_t(start + i) % pattern.size()];
  }
  Array(const Array &other) : n_(other.n_) {
    buffer_.reserve(std::size_t(n_ + kPadding) * sizeof(T));
    std::copy(other.data(), other.data() + n_, data());
  }
  T *data() { return static_cast<T *>(buffer_.data()); }
  const T *data() const { return static_cast<const T *>(buffer_.data()); }
  T &operator[](index i) { return data()[i]; }
  T operator[](index i) const { return data()[i]; }
  index size() const { return n_; }

 private:
  static constexpr index kPadding = 64;  // kernels may read full vectors
  AlignedBuffer buffer_;
  index n_;
};

// |actual - expected| / |expected| over at most 1000 of n elements, expected(i) in double.
template <class T, class Expected>
double error_of(const T *actual, index n, Expected &&expected) {
  double difference = 0, size = 0;
  const index step = std::max<index>(1, n / 1000 | 1);
  for (index i = 0; i < n; i += step) {
    const double e = double(expected(i)), d = double(actual[i]) - e;
    difference += d * d;
    size += e * e;
  }
  return std::sqrt(difference / std::max(size, 1e-300));
}

inline double relative(double actual, double expected) {
  return std::abs(actual - expected) / std::max(std::abs(expected), 1e-300);
}

// CPU time of this thread in nanoseconds, which excludes other programs on the core.
inline double thread_nanoseconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e9 * double(t.tv_sec) + double(t.tv_nsec);
}

// Median nanoseconds of one call.
template <class F>
double time_of(F &&run) {
  const auto sample = [&](long calls) {
    const double start = thread_nanoseconds();
    for (long i = 0; i < calls; i++) run();
    return (thread_nanoseconds() - start) / double(calls);
  };
  const long calls = std::max(1L, long(2e6 / std::max(sample(3), 1.0)));  // samples of about 2 ms
  std::vector<double> samples(15);
  for (double &value : samples) value = sample(calls);
  std::nth_element(samples.begin(), samples.begin() + 7, samples.end());
  return samples[7];
}

// The place of a case's arrays: together in the L2 cache, or each larger than the last cache.
enum class Place { cache, memory };

// The work of one call. Bytes are those that must move if no data is kept from call to call.
struct Work {
  double elements;
  double flops = 0;              // of products; then the roof is the FMA peak
  double read = 0, written = 0;  // else the roof is a plain loop that reads, or that reads and writes
  Place place = Place::cache;
};

// Prints one line per case: time per element, rate, share of the roof.
template <class T>
class Suite {
 public:
  Suite(const KernelSet<T> &kernels, const char *filter) : kernels(kernels), filter_(filter) { measure_roofs(); }

  // The title is printed before the first case that passes the filter.
  void section(const char *title) { title_ = title; }

  // `error` comes from error_of; if it exceeds the bound, the case is reported as wrong and not timed.
  template <class Error, class F>
  void add(const std::string &name, const Work &work, Error &&error, F &&run) {
    if (filter_ && name.find(filter_) == std::string::npos) return;
    if (!title_.empty()) std::printf("\n%-44s %10s %12s %7s\n", title_.c_str(), "ns/element", "rate", "of roof");
    title_.clear();
    run();
    const double wrong = error();
    if (!(wrong <= kBound)) {
      std::printf("%-44s WRONG: relative error %.2e\n", name.c_str(), wrong);
      failed_ = true;
      return;
    }
    const double ns = time_of(run);
    const bool products = work.flops > 0;
    const double rate = (products ? work.flops : work.read + work.written) / ns;
    const double roof = products ? peak_ : work.written > 0 ? update_[int(work.place)] : read_[int(work.place)];
    std::printf("%-44s %10.4f %7.1f %s %7.2f\n", name.c_str(), ns / work.elements, rate, products ? "GF/s" : "GB/s",
                rate / roof);
    std::fflush(stdout);
  }

  bool failed() const { return failed_; }
  const KernelSet<T> &kernels;

 private:
  // Bound for a sum over 2048 numbers, with all roundings in the same direction.
  static constexpr double kBound = sizeof(T) == 4 ? 1e-4 : 1e-12;

  void measure_roofs() {
    const RoofLoops<T> loops = roof_loops<T>();
    double sink = 0;
    const index steps = 100000;
    peak_ = 2.0 * double(loops.fmas_a_step * steps) / time_of([&] { sink += loops.fma_chains(steps); });
    for (const Place place : {Place::cache, Place::memory}) {
      Array<T> x(index(place == Place::cache ? 256 << 10 : 128 << 20) / index(sizeof(T)));
      const double bytes = double(x.size()) * sizeof(T);
      read_[int(place)] = bytes / time_of([&] { sink += loops.read_all(x.size(), x.data()); });
      update_[int(place)] = 2 * bytes / time_of([&] { loops.negate_all(x.size(), x.data()); });
    }
    std::printf("\n%s, %s: FMA peak %.1f GFLOP/s; GB/s read, read + written: L2 %.0f, %.0f; memory %.1f, %.1f%s\n",
                current_target().name, sizeof(T) == 4 ? "float32" : "float64", peak_, read_[0], update_[0], read_[1],
                update_[1], sink == 0.5 ? " " : "");
  }

  const char *filter_;
  std::string title_;
  double peak_, read_[2], update_[2];
  bool failed_ = false;
};

}  // namespace gradcore::bench

#endif
