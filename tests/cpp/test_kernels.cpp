// Elementwise, update and normalization kernels on every target the CPU supports, against plain loops in double and the
// complex-step method (csrc/reference). The bounds are those of tests/tolerances.py.
#include <algorithm>

#include "check.hpp"
#include "reference/reference.hpp"

namespace gradcore::testing {
namespace {

Random rng;

// ---- elementwise ----

template <class T>
void test_combine(const char *name, void (*KernelSet<T>::*kernel)(index, index, const T *, index, T *, index),
                  T (*expected)(T, T)) {
  for_each_case<T>(name, [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.matrix<T>(c, c.scale);
    Matrix<T> y = rng.matrix<T>({c.rows, c.cols, c.gap ? c.gap + 2 : 0, 1}, c.scale);
    const Matrix<T> before = y;
    (k.*kernel)(c.rows, c.cols, x.data(), x.ld(), y.data(), y.ld());
    bool equal = true;
    for (index i = 0; i < y.size(); i++) equal &= y[i] == expected(x[i], before[i]);
    CHECK(equal);
    CHECK(y.intact());
  });
}

template <class T>
void test_scale_and_clamp() {
  for_each_case<T>("scale, clamp", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.vector<T>(c.rows * c.cols, c.scale);
    Matrix<T> scaled = x, clamped = x;
    const T factor = T(0.3), bound = T(0.5 * c.scale);
    k.scale(x.size(), factor, scaled.data());
    k.clamp(x.size(), bound, clamped.data());
    bool equal = true;
    for (index i = 0; i < x.size(); i++)
      equal &= scaled[i] == x[i] * factor && clamped[i] == std::min(std::max(x[i], -bound), bound);
    CHECK(equal);
    CHECK(scaled.intact() && clamped.intact());
  });
  for_each_case<T>("clamp of special values", [&](const KernelSet<T> &k, const Case &c) {
    if (c.cols < 4 || c.gap) return;
    const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    Matrix<T> x(1, c.cols);
    const T values[4] = {nan, inf, -inf, T(-0.0)};
    for (index i = 0; i < c.cols; i++) x[i] = values[i % 4];
    k.clamp(c.cols, T(2), x.data());
    CHECK(std::isnan(x[0]) && x[1] == T(2) && x[2] == T(-2) && std::signbit(x[3]));
  });
}

// ---- updates: one step of torch.optim in double ----

struct Element {
  double p, g, s0, s1;
};

struct Options {
  int kind;
  double momentum, weight_decay, clip_coef, clip_value;
  bool nesterov, first;
};

constexpr double kLr = 0.01, kAlpha = 0.99, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
constexpr double kBias1 = 1 - kBeta1 * kBeta1 * kBeta1, kBias2 = 1 - kBeta2 * kBeta2 * kBeta2;

// Returns the update; changes p and the states.
double step(const Options &o, Element &e) {
  double g = std::min(std::max(e.g * o.clip_coef, -o.clip_value), o.clip_value), u = 0;
  if (o.kind != GRADCORE_ADAMW) g += o.weight_decay * e.p;
  if (o.kind == GRADCORE_SGD) {
    e.s0 = o.first ? g : o.momentum * e.s0 + g;
    u = kLr * (o.momentum == 0 ? g : o.nesterov ? g + o.momentum * e.s0 : e.s0);
  } else if (o.kind == GRADCORE_RMSPROP) {
    double &v = o.momentum == 0 ? e.s0 : e.s1;
    v = kAlpha * v + (1 - kAlpha) * g * g;
    u = kLr * g / (std::sqrt(v) + kEps);
    if (o.momentum != 0) {
      e.s0 = o.momentum * e.s0 + u / kLr;
      u = kLr * e.s0;
    }
  } else {
    e.s0 += (1 - kBeta1) * (g - e.s0);
    e.s1 = kBeta2 * e.s1 + (1 - kBeta2) * g * g;
    u = kLr / kBias1 * e.s0 / (std::sqrt(e.s1) / std::sqrt(kBias2) + kEps);
    if (o.kind == GRADCORE_ADAMW) u += kLr * o.weight_decay * e.p;
  }
  e.p -= u;
  return u;
}

template <class T>
UpdateArgs<T> update_args(const Options &o) {
  UpdateArgs<T> a{};
  a.lr = T(kLr), a.momentum = T(o.momentum), a.weight_decay = T(o.weight_decay), a.alpha = T(kAlpha);
  a.beta1 = kBeta1, a.beta2 = kBeta2, a.eps = kEps, a.bias1 = kBias1, a.bias2 = kBias2;
  a.clip_coef = o.clip_coef, a.clip_value = o.clip_value, a.nesterov = o.nesterov, a.first = o.first;
  return a;
}

template <class T>
void check_update(const KernelSet<T> &k, const Case &c, const Options &o) {
  const index n = c.rows * c.cols;
  Matrix<T> p = rng.vector<T>(n, 1), s0 = rng.vector<T>(n, 0.1), s1 = rng.vector<T>(n, 0.1);
  const Matrix<T> g = rng.vector<T>(n, 1);
  for (index i = 0; i < n; i++) s1[i] = std::abs(s1[i]);
  const bool one_state = o.kind == GRADCORE_RMSPROP && o.momentum == 0;
  if (one_state) s0 = s1;
  const Matrix<T> p0 = p, s00 = s0, s10 = s1;
  UpdateArgs<T> args = update_args<T>(o);
  double sumsq = 1, expected_sumsq = 0, sumsq_error = 0;
  args.n = n, args.param = p.data(), args.grad = g.data(), args.update_sumsq = &sumsq;
  args.state0 = o.kind == GRADCORE_SGD && o.momentum == 0 ? nullptr : s0.data();
  args.state1 = o.kind == GRADCORE_SGD || one_state ? nullptr : s1.data();
  k.update[o.kind](args);

  const double u = 8 * 2 * kRoundoff<T>;  // as in tolerances.optimizer
  bool close = true;
  for (index i = 0; i < n; i++) {
    Element e{double(p0[i]), double(g[i]), double(s00[i]), double(s10[i])};
    const double update = step(o, e);
    expected_sumsq += update * update;
    sumsq_error += 2 * std::abs(update) * (u * (std::abs(e.p) + 1));
    close &= near(double(p[i]), e.p, u * (std::abs(e.p) + 1));
    if (args.state0) close &= near(double(s0[i]), e.s0, u * (std::abs(e.s0) + 1));
    if (args.state1) close &= near(double(s1[i]), e.s1, u * (std::abs(e.s1) + 1));
  }
  CHECK(close);
  CHECK_NEAR(sumsq, 1 + expected_sumsq, sumsq_error + u);  // accumulates
  CHECK(p.intact() && s0.intact() && s1.intact());

  Matrix<T> again = p0, again0 = s00, again1 = s10;  // unrecorded: the same parameters
  args.param = again.data(), args.update_sumsq = nullptr;
  if (args.state0) args.state0 = again0.data();
  if (args.state1) args.state1 = again1.data();
  k.update[o.kind](args);
  CHECK(same_bits(again, p));
}

template <class T>
void test_updates() {
  const double inf = std::numeric_limits<double>::infinity();
  for_each_case<T>("update", [&](const KernelSet<T> &k, const Case &c) {
    if (c.gap || c.rows == 2) return;
    for (int kind = 0; kind < GRADCORE_NUM_OPTIMIZERS; kind++)
      for (const double momentum : {0.0, 0.9})
        for (const double decay : {0.0, 0.1})
          for (const bool first : {false, true}) {
            check_update<T>(k, c, {kind, momentum, decay, 1, inf, false, first});
            check_update<T>(k, c, {kind, momentum, decay, 0.25, 0.2, momentum != 0, first});
          }
  });
}

// ---- batch norm ----

template <class T>
void test_column_moments() {
  for_each_case<T>("column_moments", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> x = rng.matrix<T>(c, c.scale, 1000);  // mean / std 1000: E[x^2] - E[x]^2 would lose all digits
    Matrix<T> mean(1, c.cols), rest(1, c.cols), m2(1, c.cols);
    k.column_moments(c.rows, c.cols, x.data(), x.ld(), mean.data(), rest.data(), m2.data());
    const double u = 2 * kRoundoff<T>;
    for (index j = 0; j < c.cols; j++) {
      long double sum = 0;  // more precise than double, to check mean + rest of float64
      double squares = 0;
      for (index r = 0; r < c.rows; r++) sum += x(r, j);
      const long double exact = sum / c.rows;
      const double center = double(exact);
      for (index r = 0; r < c.rows; r++) squares += std::pow(double(x(r, j)) - center, 2);
      // Each deviation has the error of the rounded mean; the correction removes the sum of these errors.
      const double drift = double(c.rows + 1) * u * center, deviation = std::sqrt(squares / double(c.rows));
      CHECK_NEAR(mean[j], center, std::abs(drift));
      CHECK_NEAR((long double)mean[j] - exact + rest[j], 0, double(c.rows + 1) * u * (deviation + std::abs(drift)));
      CHECK_NEAR(m2[j], squares, double(c.rows + 8) * u * (squares + double(c.rows) * drift * drift));
    }
    CHECK(mean.intact() && rest.intact() && m2.intact());
  });
}

template <class T>
void test_batch_norm_forward() {
  for_each_case<T>("batch_norm_forward", [&](const KernelSet<T> &k, const Case &c) {
    const double offset = 1e4;  // in deviations: x * scale + shift would lose four digits
    const Matrix<T> x = rng.matrix<T>(c, c.scale, offset), mean = rng.vector<T>(c.cols, c.scale, offset),
                    scale = rng.vector<T>(c.cols, 1), shift = rng.vector<T>(c.cols, 1);
    Matrix<T> y(c.rows, c.cols, c.gap + 1), in_place = x;
    const auto forward = [&](const Matrix<T> &from, Matrix<T> &to) {
      k.batch_norm_forward(c.rows, c.cols, from.data(), from.ld(), mean.data(), scale.data(), shift.data(), to.data(),
                           to.ld());
    };
    forward(x, y);
    forward(in_place, in_place);
    bool close = true;
    for (index r = 0; r < c.rows; r++)
      for (index j = 0; j < c.cols; j++) {
        const double product = (double(x(r, j)) - double(mean[j])) * double(scale[j]), sum = product + double(shift[j]);
        close &= near(double(y(r, j)), sum, 2 * kRoundoff<T> * (std::abs(product) + std::abs(sum)));
      }
    CHECK(close);
    CHECK(y.intact() && in_place.intact() && same_bits(y, in_place));
  });
}

struct BatchNormData {
  std::vector<double> mean, inv_std;
};

template <class T>
BatchNormData moments(const Matrix<T> &x, double eps) {
  const std::vector<double> values = x.values(), ones(std::size_t(x.cols()), 1.0), zeros(std::size_t(x.cols()), 0.0);
  BatchNormData d{zeros, zeros};
  std::vector<double> y(values.size());
  reference::batch_norm<double>(x.rows(), x.cols(), values.data(), ones.data(), zeros.data(), eps, y.data(),
                                d.mean.data(), d.inv_std.data());
  return d;
}

// Gradient of sum dy * y over x of one column, by the complex step.
std::vector<double> batch_norm_column_grad(const std::vector<double> &x, const std::vector<double> &dy, double gamma,
                                           double eps) {
  using reference::Complex;
  return reference::gradient(
      [&](const std::vector<Complex> &point) {
        const Complex weight = gamma, bias = 0;
        std::vector<Complex> y(x.size());
        Complex mean, inv_std, sum = 0;
        reference::batch_norm<Complex>(index(x.size()), 1, point.data(), &weight, &bias, Complex(eps), y.data(), &mean,
                                       &inv_std);
        for (std::size_t i = 0; i < x.size(); i++) sum += dy[i] * y[i];
        return sum;
      },
      x);
}

template <class T>
void test_batch_norm_backward() {
  for_each_case<T>("batch_norm_backward", [&](const KernelSet<T> &k, const Case &c) {
    if (c.rows < 2) return;
    const double eps = 1e-5 * c.scale * c.scale, u = 2 * kRoundoff<T>;
    const Matrix<T> x = rng.matrix<T>(c, c.scale), gamma = rng.vector<T>(c.cols, 1, 1);
    Matrix<T> dy = rng.matrix<T>({c.rows, c.cols, c.gap + 2, 1}, 1 / c.scale);
    const BatchNormData exact = moments(x, eps);
    Matrix<T> mean(1, c.cols), inv_std(1, c.cols), a(1, c.cols), s1(1, c.cols), s2(1, c.cols);
    for (index j = 0; j < c.cols; j++) {
      mean[j] = T(exact.mean[std::size_t(j)]);
      inv_std[j] = T(exact.inv_std[std::size_t(j)]);
      a[j] = gamma[j] * inv_std[j];
    }
    k.batch_norm_sums(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), mean.data(), inv_std.data(), s1.data(),
                      s2.data());
    CHECK(s1.intact() && s2.intact());
    for (index j = 0; j < c.cols; j++) s1[j] /= T(c.rows), s2[j] /= T(c.rows);
    Matrix<T> dx(c.rows, c.cols, c.gap);
    k.batch_norm_backward(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), mean.data(), inv_std.data(), a.data(),
                          s1.data(), s2.data(), dx.data(), dx.ld());
    for (index j = 0; j < c.cols; j++) {
      std::vector<double> column, grad;
      for (index r = 0; r < c.rows; r++) column.push_back(double(x(r, j))), grad.push_back(double(dy(r, j)));
      const std::vector<double> expected = batch_norm_column_grad(column, grad, double(gamma[j]), eps);
      double size = 0, spread = 0;  // sizes of the terms that cancel
      for (const double g : grad) size = std::max(size, std::abs(g));
      for (const double v : column) spread = std::max(spread, std::abs(v) * exact.inv_std[std::size_t(j)]);
      const double bound = 4 * double(c.rows + 8) * u * std::abs(double(a[j])) * size * (1 + spread) * (1 + spread);
      for (index r = 0; r < c.rows; r++) CHECK_NEAR(dx(r, j), expected[std::size_t(r)], bound);
    }
    CHECK(dx.intact());
    k.batch_norm_backward(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), mean.data(), inv_std.data(), a.data(),
                          s1.data(), s2.data(), dy.data(), dy.ld());
    CHECK(same_bits(dy, dx) && dy.intact());
  });
}

// ---- layer norm ----

template <class T>
void test_layer_norm_forward(bool rms) {
  for_each_case<T>(rms ? "rms norm" : "layer norm", [&](const KernelSet<T> &k, const Case &c) {
    const double eps = 1e-5 * c.scale * c.scale, u = 2 * kRoundoff<T>;
    const Matrix<T> x = rng.matrix<T>(c, c.scale, 0.5), gamma = rng.vector<T>(c.cols, 1),
                    beta = rng.vector<T>(c.cols, 1);
    Matrix<T> y(c.rows, c.cols, c.gap + 1), mean(1, c.rows), inv_std(1, c.rows);
    k.layer_norm_forward(c.rows, c.cols, x.data(), x.ld(), gamma.data(), rms ? nullptr : beta.data(), rms, T(eps),
                         y.data(), y.ld(), mean.data(), inv_std.data());
    std::vector<double> expected(std::size_t(x.size())), mu(std::size_t(c.rows)), rstd(std::size_t(c.rows));
    const std::vector<double> values = x.values(), weight = gamma.values(), bias = beta.values();
    reference::layer_norm<double>(c.rows, c.cols, values.data(), weight.data(), rms ? nullptr : bias.data(), rms, eps,
                                  expected.data(), mu.data(), rstd.data());
    for (index r = 0; r < c.rows; r++) {
      double mean_abs = 0;
      for (index j = 0; j < c.cols; j++) mean_abs += std::abs(double(x(r, j))) / double(c.cols);
      const double m = double(c.cols), inverse = rstd[std::size_t(r)];
      CHECK_NEAR(mean[r], mu[std::size_t(r)], (m + 1) * u * mean_abs);
      CHECK_NEAR(inv_std[r], inverse, ((m / 2 + 8) * u + std::pow((m + 1) * u * mean_abs * inverse, 2)) * inverse);
      for (index j = 0; j < c.cols; j++) {
        const double x_hat = std::abs((double(x(r, j)) - mu[std::size_t(r)]) * inverse);
        const double error = (m + 1) * mean_abs * inverse + (m / 2 + 8) * x_hat;
        CHECK_NEAR(y(r, j), expected[std::size_t(r * c.cols + j)],
                   u * (error * std::abs(double(gamma[j])) + (rms ? 0 : 2 * std::abs(double(beta[j])))));
      }
    }
    CHECK(y.intact() && mean.intact() && inv_std.intact());
    Matrix<T> in_place = x;
    k.layer_norm_forward(c.rows, c.cols, in_place.data(), x.ld(), gamma.data(), rms ? nullptr : beta.data(), rms,
                         T(eps), in_place.data(), x.ld(), mean.data(), inv_std.data());
    CHECK(same_bits(in_place, y) && in_place.intact());
  });
}

// Gradients of sum dy * y of one row with respect to x and gamma, by the complex step.
std::vector<double> layer_norm_row_grad(const std::vector<double> &x, const std::vector<double> &gamma,
                                        const std::vector<double> &dy, bool rms, double eps, bool wrt_gamma) {
  using reference::Complex;
  const auto loss = [&](const std::vector<Complex> &point) {
    const std::vector<Complex> fixed(wrt_gamma ? std::vector<Complex>(x.begin(), x.end())
                                               : std::vector<Complex>(gamma.begin(), gamma.end()));
    std::vector<Complex> y(x.size());
    Complex mean, inv_std, sum = 0;
    reference::layer_norm<Complex>(1, index(x.size()), wrt_gamma ? fixed.data() : point.data(),
                                   wrt_gamma ? point.data() : fixed.data(), nullptr, rms, Complex(eps), y.data(), &mean,
                                   &inv_std);
    for (std::size_t i = 0; i < x.size(); i++) sum += dy[i] * y[i];
    return sum;
  };
  return reference::gradient(loss, wrt_gamma ? gamma : x);
}

template <class T>
void test_layer_norm_backward(bool rms) {
  for_each_case<T>(rms ? "rms norm backward" : "layer norm backward", [&](const KernelSet<T> &k, const Case &c) {
    if (c.cols > 300) return;  // the complex step costs cols^2
    const double eps = 1e-5 * c.scale * c.scale, u = 2 * kRoundoff<T>;
    const Matrix<T> x = rng.matrix<T>(c, c.scale, 0.5), gamma = rng.vector<T>(c.cols, 1);
    Matrix<T> dy = rng.matrix<T>({c.rows, c.cols, c.gap + 2, 1}, 1 / c.scale);
    Matrix<T> y(c.rows, c.cols), mean(1, c.rows), inv_std(1, c.rows), dx(c.rows, c.cols, c.gap);
    Matrix<T> dgamma(1, c.cols), dbeta(1, c.cols);
    k.layer_norm_forward(c.rows, c.cols, x.data(), x.ld(), gamma.data(), gamma.data(), rms, T(eps), y.data(), y.ld(),
                         mean.data(), inv_std.data());
    k.layer_norm_backward(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), gamma.data(), mean.data(),
                          inv_std.data(), rms, dx.data(), dx.ld());
    k.layer_norm_param_grads(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), mean.data(), inv_std.data(),
                             dgamma.data(), rms ? nullptr : dbeta.data());
    std::vector<double> sum_gamma(std::size_t(c.cols)), sum_beta(std::size_t(c.cols)), size_gamma(std::size_t(c.cols));
    for (index r = 0; r < c.rows; r++) {
      std::vector<double> row, grad;
      for (index j = 0; j < c.cols; j++) row.push_back(double(x(r, j))), grad.push_back(double(dy(r, j)));
      const std::vector<double> expected = layer_norm_row_grad(row, gamma.values(), grad, rms, eps, false);
      const std::vector<double> for_gamma = layer_norm_row_grad(row, gamma.values(), grad, rms, eps, true);
      double size = 0, spread = 0;
      for (index j = 0; j < c.cols; j++) {
        size = std::max(size, std::abs(grad[std::size_t(j)] * double(gamma[j])));
        spread = std::max(spread, std::abs(row[std::size_t(j)]) * double(inv_std[r]));
      }
      const double m = double(c.cols),
                   bound = 4 * (m + 8) * u * double(inv_std[r]) * size * (1 + spread) * (1 + spread);
      for (index j = 0; j < c.cols; j++) {
        CHECK_NEAR(dx(r, j), expected[std::size_t(j)], bound);
        sum_gamma[std::size_t(j)] += for_gamma[std::size_t(j)];
        sum_beta[std::size_t(j)] += grad[std::size_t(j)];
        size_gamma[std::size_t(j)] += std::abs(grad[std::size_t(j)]) * (1 + spread);
      }
    }
    for (index j = 0; j < c.cols; j++) {
      const double bound = double(c.rows + c.cols + 8) * u * size_gamma[std::size_t(j)];
      CHECK_NEAR(dgamma[j], sum_gamma[std::size_t(j)], bound);
      if (!rms) CHECK_NEAR(dbeta[j], sum_beta[std::size_t(j)], bound);
    }
    CHECK(dx.intact() && dgamma.intact() && dbeta.intact());
    k.layer_norm_backward(c.rows, c.cols, dy.data(), dy.ld(), x.data(), x.ld(), gamma.data(), mean.data(),
                          inv_std.data(), rms, dy.data(), dy.ld());
    CHECK(same_bits(dy, dx) && dy.intact());
  });
}

template <class T>
void test_all() {
  test_combine<T>("add", &KernelSet<T>::add, [](T x, T y) { return y + x; });
  test_combine<T>("multiply", &KernelSet<T>::multiply, [](T x, T y) { return y * x; });
  test_combine<T>("copy", &KernelSet<T>::copy, [](T x, T) { return x; });
  test_scale_and_clamp<T>();
  test_updates<T>();
  test_column_moments<T>();
  test_batch_norm_forward<T>();
  test_batch_norm_backward<T>();
  for (const bool rms : {false, true}) {
    test_layer_norm_forward<T>(rms);
    test_layer_norm_backward<T>(rms);
  }
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_all<float>();
  gradcore::testing::test_all<double>();
  return gradcore::testing::report();
}
