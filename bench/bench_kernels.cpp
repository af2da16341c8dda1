// The single kernels of one target: each is verified against a plain loop, timed on one thread, and compared with the
// roof measured in the same run.
//
//   bench_kernels [--double] [--filter TEXT]      GRADCORE_TARGET=avx2 chooses the kernels
//
// Products are compared with the FMA peak; all others with a plain loop that reads (or reads and writes) as many bytes
// in the same place. "of roof" may exceed 1; 0.1 means bound by arithmetic.
#include <cstring>
#include <functional>

#include "gradcore/gradcore.h"
#include "products.hpp"
#include "reference/reference.hpp"

namespace gradcore::bench {
namespace {

// ---- blocks of rows, as a tile of a pass has them ----

constexpr index kRows = 64;

template <class T>
struct Block {
  index cols, ld = row_stride<T>(cols), rows = kRows;
  Array<T> x{rows * ld}, dy{rows * ld}, y{rows * ld}, d{rows * ld};

  double elements() const { return double(rows * cols); }
  Work work(int read, int written) const {
    const double bytes = elements() * sizeof(T);
    return {elements(), 0, read * bytes, written * bytes};
  }
  // Error of y (or d) against expected(row, column).
  template <class Expected>
  double error(const Array<T> &actual, Expected &&expected) const {
    return error_of(actual.data(), rows * ld,
                    [&](index i) { return i % ld < cols ? double(expected(i / ld, i % ld)) : double(actual[i]); });
  }
};

template <class T>
void activations(Suite<T> &suite, index cols) {
  const KernelSet<T> &k = suite.kernels;
  suite.section(shape("activations, rows x columns", {kRows, cols}).c_str());
  Block<T> b{cols};
  for (int kind = 0; kind < GRADCORE_NUM_ACTIVATIONS; kind++) {
    const std::string name = gradcore_activation_name(kind);
    const auto x = [&](index r, index c) { return double(b.x[r * b.ld + c]); };
    const auto act = [&](index r, index c) { return reference::activation(kind, x(r, c)); };
    const auto slope = [&](index r, index c) { return reference::activation_derivative(kind, x(r, c)); };
    suite.add(
        name, b.work(1, 1), [&] { return b.error(b.y, act); },
        [&] { k.activation_forward[kind](kRows, cols, b.x.data(), b.ld, b.y.data(), b.ld); });
    suite.add(
        name + " with derivative", b.work(1, 2), [&] { return std::max(b.error(b.y, act), b.error(b.d, slope)); },
        [&] { k.activation_forward_grad[kind](kRows, cols, b.x.data(), b.ld, b.y.data(), b.ld, b.d.data(), b.ld); });
  }
  Array<T> dy = b.dy;  // in place, because with slope 0 repeating does not change it
  suite.add(
      "relu backward, from the output", b.work(2, 1),
      [&] { return b.error(dy, [&](index r, index c) { return b.x[r * b.ld + c] > 0 ? b.dy[r * b.ld + c] : T(0); }); },
      [&] { k.slope_backward(kRows, cols, dy.data(), b.ld, b.x.data(), b.ld, T(0)); });
}

// sum_r f(r, c) of a column.
template <class F>
double over_rows(index c, F &&f) {
  double sum = 0;
  for (index r = 0; r < kRows; r++) sum += f(r, c);
  return sum;
}

template <class T>
void batch_norm(Suite<T> &suite, index cols) {
  const KernelSet<T> &k = suite.kernels;
  suite.section(shape("batch norm, rows x columns", {kRows, cols}).c_str());
  Block<T> b{cols};
  const index ld = b.ld;
  const Array<T> shift(cols);
  Array<T> mean(cols), rest(cols), m2(cols), scale(cols), s1(cols), s2(cols), out1(cols), out2(cols);
  for (index c = 0; c < cols; c++) scale[c] = T(1) + std::abs(scale[c]);
  const auto x = [&](index r, index c) { return double(b.x[r * ld + c]); };
  const auto dy = [&](index r, index c) { return double(b.dy[r * ld + c]); };
  const auto x_hat = [&](index r, index c) { return (x(r, c) - double(mean[c])) * double(scale[c]); };
  suite.add(
      "column_moments", b.work(1, 0),
      [&] {
        return error_of(m2.data(), cols, [&](index c) {
          const double center = over_rows(c, x) / kRows;
          return over_rows(c, [&](index r, index) { return (x(r, c) - center) * (x(r, c) - center); });
        });
      },
      [&] { k.column_moments(kRows, cols, b.x.data(), ld, mean.data(), rest.data(), m2.data()); });
  suite.add(
      "batch_norm_forward", b.work(1, 1),
      [&] { return b.error(b.y, [&](index r, index c) { return x_hat(r, c) + double(shift[c]); }); },
      [&] {
        k.batch_norm_forward(kRows, cols, b.x.data(), ld, mean.data(), scale.data(), shift.data(), b.y.data(), ld);
      });
  suite.add(
      "batch_norm_sums", b.work(2, 0),
      [&] {
        return error_of(out2.data(), cols,
                        [&](index c) { return over_rows(c, [&](index r, index) { return dy(r, c) * x_hat(r, c); }); });
      },
      [&] {
        k.batch_norm_sums(kRows, cols, b.dy.data(), ld, b.x.data(), ld, mean.data(), scale.data(), out1.data(),
                          out2.data());
      });
  suite.add(
      "batch_norm_backward", b.work(2, 1),
      [&] {
        return b.error(b.d, [&](index r, index c) {
          return double(scale[c]) * (dy(r, c) - double(s1[c]) - x_hat(r, c) * double(s2[c]));
        });
      },
      [&] {
        k.batch_norm_backward(kRows, cols, b.dy.data(), ld, b.x.data(), ld, mean.data(), scale.data(), scale.data(),
                              s1.data(), s2.data(), b.d.data(), ld);
      });
}

template <class T>
void layer_norm(Suite<T> &suite, index cols) {
  const KernelSet<T> &k = suite.kernels;
  suite.section(shape("layer norm, rows x columns", {kRows, cols}).c_str());
  Block<T> b{cols};
  const index ld = b.ld;
  const Array<T> gamma(cols), beta(cols);
  Array<T> mean(kRows), inv_std(kRows), dgamma(cols), dbeta(cols);
  const auto x_hat = [&](index r, index c) { return (double(b.x[r * ld + c]) - double(mean[r])) * double(inv_std[r]); };
  const auto dy = [&](index r, index c) { return double(b.dy[r * ld + c]); };
  suite.add(
      "layer_norm_forward", b.work(1, 1),
      [&] {
        std::vector<double> x, y(std::size_t(kRows * cols)), g, s, m(kRows), v(kRows);
        for (index i = 0; i < kRows * cols; i++) x.push_back(double(b.x[i / cols * ld + i % cols]));
        for (index c = 0; c < cols; c++) g.push_back(double(gamma[c])), s.push_back(double(beta[c]));
        reference::layer_norm(kRows, cols, x.data(), g.data(), s.data(), false, 1e-5, y.data(), m.data(), v.data());
        return b.error(b.y, [&](index r, index c) { return y[std::size_t(r * cols + c)]; });
      },
      [&] {
        k.layer_norm_forward(kRows, cols, b.x.data(), ld, gamma.data(), beta.data(), false, T(1e-5), b.y.data(), ld,
                             mean.data(), inv_std.data());
      });
  suite.add(
      "layer_norm_backward", b.work(2, 1),
      [&] {
        return b.error(b.d, [&](index r, index c) {
          double sum = 0, sum_x_hat = 0;
          for (index j = 0; j < cols; j++) {
            sum += dy(r, j) * double(gamma[j]) / double(cols);
            sum_x_hat += dy(r, j) * double(gamma[j]) * x_hat(r, j) / double(cols);
          }
          return double(inv_std[r]) * (dy(r, c) * double(gamma[c]) - sum - x_hat(r, c) * sum_x_hat);
        });
      },
      [&] {
        k.layer_norm_backward(kRows, cols, b.dy.data(), ld, b.x.data(), ld, gamma.data(), mean.data(), inv_std.data(),
                              false, b.d.data(), ld);
      });
  suite.add(
      "layer_norm_param_grads", b.work(2, 0),
      [&] {
        return error_of(dgamma.data(), cols,
                        [&](index c) { return over_rows(c, [&](index r, index) { return dy(r, c) * x_hat(r, c); }); });
      },
      [&] {
        k.layer_norm_param_grads(kRows, cols, b.dy.data(), ld, b.x.data(), ld, mean.data(), inv_std.data(),
                                 dgamma.data(), dbeta.data());
      });
}

// ---- whole arrays ----

index elements_of(Place place, std::size_t element) {
  return index(place == Place::cache ? 64 << 10 : 64 << 20) / index(element);
}
const char *suffix(Place place) { return place == Place::cache ? " (cache)" : " (memory)"; }

template <class T>
void elementwise(Suite<T> &suite, Place place) {
  const KernelSet<T> &k = suite.kernels;
  const index n = elements_of(place, sizeof(T));
  const double bytes = double(n) * sizeof(T);
  const Array<T> x(n);
  Array<T> y(n), in_place = x, product = x, signs(n);
  std::fill(signs.data(), signs.data() + n, T(-1));  // repeated, any other factor would leave the range
  const Array<T> y0 = y;
  suite.add(
      std::string("add") + suffix(place), {double(n), 0, 2 * bytes, bytes, place},
      [&] { return error_of(y.data(), n, [&](index i) { return double(x[i]) + double(y0[i]); }); },
      [&] { k.add(1, n, x.data(), n, y.data(), n); });
  suite.add(
      std::string("multiply") + suffix(place), {double(n), 0, 2 * bytes, bytes, place},
      [&] { return error_of(product.data(), n, [&](index i) { return -x[i]; }); },
      [&] { k.multiply(1, n, signs.data(), n, product.data(), n); });
  suite.add(
      std::string("copy") + suffix(place), {double(n), 0, bytes, bytes, place},
      [&] { return error_of(y.data(), n, [&](index i) { return x[i]; }); },
      [&] { k.copy(1, n, x.data(), n, y.data(), n); });
  suite.add(
      std::string("scale") + suffix(place), {double(n), 0, bytes, bytes, place},
      [&] { return error_of(in_place.data(), n, [&](index i) { return -x[i]; }); },
      [&] { k.scale(n, T(-1), in_place.data()); });
  suite.add(
      std::string("clamp") + suffix(place), {double(n), 0, bytes, bytes, place},
      [&] { return error_of(y.data(), n, [&](index i) { return std::clamp(double(x[i]), -1.0, 1.0); }); },
      [&, first = true]() mutable {
        if (first) k.copy(1, n, x.data(), n, y.data(), n);
        first = false;
        k.clamp(n, T(1), y.data());
      });
}

// Sums of an array in double.
template <class T, class F>
double over(const Array<T> &x, F &&f) {
  double sum = 0;
  for (index i = 0; i < x.size(); i++) sum += f(double(x[i]));
  return sum;
}

template <class T>
void reductions(Suite<T> &suite, Place place) {
  const KernelSet<T> &k = suite.kernels;
  const index n = elements_of(place, sizeof(T));
  const Array<T> x(n);
  const Work work{double(n), 0, double(n) * sizeof(T), 0, place};
  const std::string end = suffix(place);
  double result = 0;
  bool finite = false;
  StatsSums sums{};
  Histogram<T> histogram{};
  const auto sumsq_error = [&](double sumsq) { return relative(sumsq, over(x, [](double v) { return v * v; })); };
  suite.add(
      "all_finite" + end, work, [&] { return finite ? 0.0 : 1.0; }, [&] { finite = k.all_finite(1, n, x.data(), n); });
  suite.add(
      "sum_of_squares" + end, work, [&] { return sumsq_error(result); },
      [&] { result = k.sum_of_squares(1, n, x.data(), n); });
  suite.add(
      "max_abs" + end, work,
      [&] {
        double largest = 0;
        for (index i = 0; i < n; i++) largest = std::max(largest, std::abs(double(x[i])));
        return relative(result, largest);
      },
      [&] { result = k.max_abs(n, x.data()); });
  suite.add(
      "block_stats" + end, work, [&] { return sumsq_error(sums.sumsq); },
      [&] { k.block_stats(1, n, x.data(), n, &(sums = StatsSums{}), nullptr); });
  suite.add(
      "block_stats, histogram" + end, work,
      [&] {
        histogram = {};
        k.block_stats(1, n, x.data(), n, &sums, &histogram);
        const double ones = over(x, [](double v) { return std::abs(v) >= 1 && std::abs(v) < 2; });
        return std::abs(double(histogram.bins[sizeof(T) == 4 ? 149 : 1074]) - ones);
      },
      [&] { k.block_stats(1, n, x.data(), n, &(sums = StatsSums{}), &histogram); });
}

template <class T>
void row_reductions(Suite<T> &suite, index cols) {
  const KernelSet<T> &k = suite.kernels;
  suite.section(shape("reductions of a tile, rows x columns", {kRows, cols}).c_str());
  Block<T> b{cols};
  Array<T> sum(cols);
  std::vector<unsigned char> nonzero(cols);
  index zeros = 0, below = 0;
  double sumsq = 0, expected = 0;
  const auto x = [&](index r, index c) { return double(b.x[r * b.ld + c]); };
  for (index c = 0; c < cols; c++) expected += over_rows(c, [&](index r, index) { return x(r, c) * x(r, c); });
  suite.add(
      "column_sum", b.work(1, 0), [&] { return error_of(sum.data(), cols, [&](index c) { return over_rows(c, x); }); },
      [&] { k.column_sum(kRows, cols, b.x.data(), b.ld, false, sum.data()); });
  suite.add(
      "column_nonzero", b.work(1, 0), [&] { return double(zeros + (nonzero[0] == 0)); },
      [&] { k.column_nonzero(kRows, cols, b.x.data(), b.ld, nonzero.data(), &zeros); });
  suite.add(
      "derivative_stats", b.work(1, 0), [&] { return relative(sumsq, expected); },
      [&] { k.derivative_stats(kRows, cols, b.x.data(), b.ld, T(0.01), &(sumsq = 0), &below); });
}

// ---- losses ----

template <class T>
void losses(Suite<T> &suite, index cols) {
  const KernelSet<T> &k = suite.kernels;
  suite.section(shape("losses with gradients, rows x columns", {kRows, cols}).c_str());
  Block<T> b{cols};
  std::vector<index> labels(kRows);
  for (index r = 0; r < kRows; r++) labels[r] = r * 7 % cols;
  double loss = 0;
  const auto row_loss = [&](index r) {
    std::vector<double> y(cols), target(cols, 0.0);
    for (index c = 0; c < cols; c++) y[c] = double(b.x[r * b.ld + c]);
    target[labels[r]] = 1;
    return reference::cross_entropy_row(cols, y.data(), target.data());
  };
  suite.add(
      "cross_entropy of labels", b.work(1, 1),
      [&] { return relative(loss, over_rows(0, [&](index r, index) { return row_loss(r); })); },
      [&] { loss = k.cross_entropy_labels(kRows, cols, b.x.data(), b.ld, labels.data(), T(1), b.y.data(), b.ld); });
  Array<T> target(kRows * b.ld);
  std::fill(target.data(), target.data() + target.size(), T(0));
  for (index r = 0; r < kRows; r++) target[r * b.ld + labels[std::size_t(r)]] = 1;
  suite.add(
      "cross_entropy of probabilities", b.work(2, 1),
      [&] { return relative(loss, over_rows(0, [&](index r, index) { return row_loss(r); })); },
      [&] {
        loss = k.cross_entropy_probs(kRows, cols, b.x.data(), b.ld, target.data(), b.ld, T(1), b.y.data(), b.ld);
      });
  for (int kind = GRADCORE_BINARY_CROSS_ENTROPY; kind < GRADCORE_NUM_LOSSES; kind++) {
    const auto term = [&](index r, index c) {
      return reference::elementwise_loss(kind, double(b.x[r * b.ld + c]), double(b.dy[r * b.ld + c]));
    };
    suite.add(
        gradcore_loss_name(kind), b.work(2, 1),
        [&] {
          double sum = 0;
          for (index c = 0; c < cols; c++) sum += over_rows(c, term);
          return relative(loss, sum);
        },
        [&] {
          loss = k.elementwise_loss[kind](kRows, cols, b.x.data(), b.ld, b.dy.data(), b.ld, T(1), b.y.data(), b.ld);
        });
  }
}

// ---- updates ----

constexpr double kLr = 1e-3, kMomentum = 0.9, kAlpha = 0.99, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8, kDecay = 0.01;

// One step of torch.optim: momentum for SGD, a first step for Adam, decay for AdamW.
double updated(int kind, double p, double g, double s0, double s1) {
  if (kind == GRADCORE_SGD) return p - kLr * (kMomentum * s0 + g);
  if (kind == GRADCORE_RMSPROP) return p - kLr * g / (std::sqrt(kAlpha * s0 + (1 - kAlpha) * g * g) + kEps);
  const double m = kBeta1 * s0 + (1 - kBeta1) * g, v = kBeta2 * s1 + (1 - kBeta2) * g * g;
  if (kind == GRADCORE_ADAMW) p -= kLr * kDecay * p;
  return p - kLr / (1 - kBeta1) * m / (std::sqrt(v / (1 - kBeta2)) + kEps);
}

template <class T>
void updates(Suite<T> &suite, Place place) {
  const KernelSet<T> &k = suite.kernels;
  const index n = elements_of(place, sizeof(T));
  for (int kind = 0; kind < GRADCORE_NUM_OPTIMIZERS; kind++) {
    const bool two = kind >= GRADCORE_ADAM;
    const char *names[] = {"sgd with momentum", "rmsprop", "adam", "adamw"};
    const Array<T> g(n);
    Array<T> p(n), s0(n), s1(two ? n : 1);
    for (index i = 0; i < n; i++) s0[i] = std::abs(s0[i]);
    for (index i = 0; i < s1.size(); i++) s1[i] = std::abs(s1[i]);
    const Array<T> p0 = p, s00 = s0, s10 = s1;
    double sumsq = 0;
    UpdateArgs<T> args{};
    args.n = n, args.param = p.data(), args.grad = g.data(), args.state0 = s0.data();
    args.state1 = two ? s1.data() : nullptr;
    args.lr = T(kLr), args.momentum = T(kind == GRADCORE_SGD ? kMomentum : 0), args.alpha = T(kAlpha);
    args.beta1 = T(kBeta1), args.beta2 = T(kBeta2), args.eps = T(kEps), args.clip_coef = 1;
    args.bias1 = T(1 - kBeta1), args.bias2 = T(1 - kBeta2);
    args.weight_decay = T(kind == GRADCORE_ADAMW ? kDecay : 0);
    args.clip_value = std::numeric_limits<T>::infinity();
    const double bytes = double(n) * sizeof(T);
    const Work work{double(n), 0, (two ? 4 : 3) * bytes, (two ? 3 : 2) * bytes, place};
    const auto error = [&] {
      return error_of(p.data(), n, [&](index i) {
        return updated(kind, double(p0[i]), double(g[i]), double(s00[i]), two ? double(s10[i]) : 0);
      });
    };
    suite.add(std::string(names[kind]) + suffix(place), work, error, [&] { k.update[kind](args); });
    args.update_sumsq = &sumsq;
    suite.add(
        std::string(names[kind]) + ", recorded" + suffix(place), work, [] { return 0.0; },
        [&] { k.update[kind](args); });
  }
}

template <class T>
bool run(const char *filter) {
  Suite<T> suite(current_target().set<T>(), filter);
  tiles(suite);
  products(suite);
  packing(suite);
  for (const index cols : {256, 250}) {
    activations(suite, cols);
    batch_norm(suite, cols);
    layer_norm(suite, cols);
    row_reductions(suite, cols);
  }
  for (const index cols : {10, 256}) losses(suite, cols);
  for (const Place place : {Place::cache, Place::memory}) {
    suite.section("whole arrays");
    elementwise(suite, place);
    reductions(suite, place);
    updates(suite, place);
  }
  return !suite.failed();
}

}  // namespace
}  // namespace gradcore::bench

int main(int argc, char **argv) {
  const char *filter = nullptr;
  bool float64 = false;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--double") == 0) {
      float64 = true;
    } else if (std::strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
      filter = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--double] [--filter TEXT]\n", argv[0]);
      return 2;
    }
  }
  const bool right = float64 ? gradcore::bench::run<double>(filter) : gradcore::bench::run<float>(filter);
  return right ? 0 : 1;
}
