// Activations and losses on blocks, on every target the CPU supports: strides, guards, in-place use, the same bits for
// any position of an element, and values against double. tests/test_activations.py measures the errors of the
// activations over their whole range, against mpmath.
#include <string>

#include "check.hpp"
#include "gradcore/gradcore.h"
#include "reference/reference.hpp"

namespace gradcore::testing {
namespace {

Random rng;

// ---- activations ----

// Computes one element at a time; each element of a block must equal this to the bit.
template <class T>
struct OneByOne {
  Matrix<T> h, d;
  OneByOne(const KernelSet<T> &k, int act, const Matrix<T> &z) : h(z.rows(), z.cols()), d(z.rows(), z.cols()) {
    for (index i = 0; i < z.size(); i++) {
      const T x = z[i];
      k.activation_forward_grad[act](1, 1, &x, 1, &h[i], 1, &d[i], 1);
    }
  }
};

template <class T>
void test_activation_block(const KernelSet<T> &k, const Case &c, int act) {
  const Matrix<T> z = rng.matrix<T>(c, 3 * c.scale);
  const OneByOne<T> one(k, act, z);
  const Case other{c.rows, c.cols, c.gap ? c.gap + 2 : 0, 1};

  Matrix<T> h = rng.matrix<T>(other, 1), d = rng.matrix<T>(c, 1);
  k.activation_forward[act](c.rows, c.cols, z.data(), z.ld(), h.data(), h.ld());
  CHECK(same_bits(h, one.h) && h.intact());
  k.activation_forward_grad[act](c.rows, c.cols, z.data(), z.ld(), h.data(), h.ld(), d.data(), d.ld());
  CHECK(same_bits(h, one.h) && same_bits(d, one.d) && h.intact() && d.intact());
}

template <class T>
void test_activation_in_place(const KernelSet<T> &k, const Case &c, int act) {
  const Matrix<T> z = rng.matrix<T>(c, 3 * c.scale);
  const OneByOne<T> one(k, act, z);
  Matrix<T> h = z;
  k.activation_forward[act](c.rows, c.cols, h.data(), h.ld(), h.data(), h.ld());
  CHECK(same_bits(h, one.h) && h.intact());

  Matrix<T> over_z = z, other = z;
  k.activation_forward_grad[act](c.rows, c.cols, over_z.data(), z.ld(), over_z.data(), z.ld(), other.data(), z.ld());
  CHECK(same_bits(over_z, one.h) && same_bits(other, one.d));
  over_z = z;
  k.activation_forward_grad[act](c.rows, c.cols, over_z.data(), z.ld(), other.data(), z.ld(), over_z.data(), z.ld());
  CHECK(same_bits(over_z, one.d) && same_bits(other, one.h));
}

// The op must give the same bits as the kernel's derivative times dy, for sizes around its pieces (512 elements), and
// with separate output, over dy and over z.
template <class T>
void test_activation_backward() {
  const gradcore_dtype dtype = sizeof(T) == 4 ? GRADCORE_FLOAT32 : GRADCORE_FLOAT64;
  const std::string before = gradcore_target();
  for (int32_t i = 0; i < gradcore_num_targets(); i++) {
    if (!gradcore_target_supported(i)) continue;
    CHECK(gradcore_set_target(gradcore_target_name(i)) == GRADCORE_OK);
    for (int act = 0; act < GRADCORE_NUM_ACTIVATIONS; act++) {
      for (const index n : {1, 3, 511, 512, 513, 9001}) {
        const Matrix<T> z = rng.matrix<T>({1, n, 0, 1}, 3), dy = rng.matrix<T>({1, n, 0, 1}, 1);
        const OneByOne<T> one(current_target().set<T>(), act, z);
        Matrix<T> expected = dy, dz = z, over_dy = dy, over_z = z;
        for (index k = 0; k < n; k++) expected[k] = dy[k] * one.d[k];
        CHECK(gradcore_op_activation_backward(dtype, act, dy.data(), z.data(), n, dz.data()) == GRADCORE_OK);
        CHECK(gradcore_op_activation_backward(dtype, act, over_dy.data(), z.data(), n, over_dy.data()) == GRADCORE_OK);
        CHECK(gradcore_op_activation_backward(dtype, act, dy.data(), over_z.data(), n, over_z.data()) == GRADCORE_OK);
        for (const Matrix<T> *result : {&dz, &over_dy, &over_z})
          CHECK(same_bits(*result, expected) && result->intact());
      }
    }
  }
  CHECK(gradcore_set_target(before.c_str()) == GRADCORE_OK);
}

template <class T>
void test_activations() {
  for_each_case<T>("activations", [&](const KernelSet<T> &k, const Case &c) {
    for (int act = 0; act < GRADCORE_NUM_ACTIVATIONS; act++) {
      test_activation_block(k, c, act);
      test_activation_in_place(k, c, act);
    }
  });
  for_each_case<T>("activations by value", [&](const KernelSet<T> &k, const Case &c) {
    if (c.rows != 2 || c.scale != 1) return;
    for (int act = 0; act < GRADCORE_NUM_ACTIVATIONS; act++) {
      const Matrix<T> z = rng.matrix<T>(c, 3);
      const OneByOne<T> one(k, act, z);
      for (index i = 0; i < z.size(); i++) {
        const double x = double(z[i]), bound = 16 * kRoundoff<T> * (1 + std::abs(x));
        CHECK_NEAR(one.h[i], reference::activation(act, x), bound);
        CHECK_NEAR(one.d[i], reference::activation_derivative(act, x), bound);
      }
    }
  });
}

template <class T>
void test_slope_backward() {
  for_each_case<T>("slope_backward", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> dy = rng.matrix<T>(c, c.scale);
    Matrix<T> h = rng.matrix<T>({c.rows, c.cols, c.gap ? c.gap + 2 : 0, 1}, 1), dz = dy, expected = dy;
    h[0] = T(0);
    const T slope = T(0.01);
    for (index i = 0; i < h.size(); i++) expected[i] = h[i] > 0 ? dy[i] : slope * dy[i];
    k.slope_backward(c.rows, c.cols, dz.data(), dz.ld(), h.data(), h.ld(), slope);
    CHECK(same_bits(dz, expected) && dz.intact());
  });
}

// ---- losses ----

constexpr double kScale = 0.25;

// The bound of tests/tolerances.py "cross_entropy": a sum of cols exponentials with errors up to |y - max| ulp each.
template <class T>
double cross_entropy_bound(const Matrix<T> &y) {
  double largest = 0;
  for (const double v : y.values()) largest = std::max(largest, std::abs(v));
  return 2 * kRoundoff<T> * (double(y.cols()) + 8 + 3 * largest);
}

// Returns the loss of the block; `expected` becomes softmax * sum(p) - p.
template <class T>
double expected_cross_entropy(const Matrix<T> &y, const std::vector<double> &p, std::vector<double> &expected) {
  double loss = 0;
  const std::vector<double> logits = y.values();
  const index cols = y.cols();
  for (index r = 0; r < y.rows(); r++) {
    const double *row = &logits[std::size_t(r * cols)], *prob = &p[std::size_t(r * cols)];
    loss += reference::cross_entropy_row(cols, row, prob);
    double largest = row[0], sum = 0, p_sum = 0;
    for (index j = 1; j < cols; j++) largest = std::max(largest, row[j]);
    for (index j = 0; j < cols; j++) sum += std::exp(row[j] - largest), p_sum += prob[j];
    for (index j = 0; j < cols; j++) expected.push_back(std::exp(row[j] - largest) / sum * p_sum - prob[j]);
  }
  return loss;
}

template <class T>
void check_loss(double loss, double expected_loss, const Matrix<T> &grad, const std::vector<double> &expected,
                double bound) {
  CHECK_NEAR(loss, expected_loss, bound * double(grad.size() + 1));
  for (index i = 0; i < grad.size(); i++) CHECK_NEAR(grad[i], kScale * expected[std::size_t(i)], bound);
  CHECK(grad.intact());
}

template <class T>
void test_cross_entropy() {
  for_each_case<T>("cross_entropy", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> y = rng.matrix<T>(c, c.scale == 0x1p40 ? 30 : 3);
    Matrix<T> probs(c.rows, c.cols, c.gap ? c.gap + 1 : 0), grad = y;
    std::vector<double> one_hot(std::size_t(y.size()), 0.0), expected;
    std::vector<index> labels;
    for (index r = 0; r < c.rows; r++) {
      labels.push_back(rng.below(c.cols));
      one_hot[std::size_t(r * c.cols + labels.back())] = 1;
    }
    for (index i = 0; i < y.size(); i++) probs[i] = T(rng.uniform());
    const double bound = cross_entropy_bound(y);

    double loss = expected_cross_entropy(y, one_hot, expected);
    const double with_grad =
        k.cross_entropy_labels(c.rows, c.cols, grad.data(), y.ld(), labels.data(), T(kScale), grad.data(), y.ld());
    check_loss(with_grad, loss, grad, expected, bound);
    CHECK(k.cross_entropy_labels(c.rows, c.cols, y.data(), y.ld(), labels.data(), T(1), nullptr, 0) == with_grad);

    grad = y, expected.clear();
    loss = expected_cross_entropy(y, probs.values(), expected);
    check_loss(k.cross_entropy_probs(c.rows, c.cols, grad.data(), y.ld(), probs.data(), probs.ld(), T(kScale),
                                     grad.data(), y.ld()),
               loss, grad, expected, bound * double(c.cols));
  });
}

// As the loss of a confident and correct net vanishes, so does its gradient; both stay correct to a few ULP.
template <class T>
void test_vanishing_loss() {
  for_each_case<T>("vanishing loss", [&](const KernelSet<T> &k, const Case &c) {
    if (c.cols != 1 || c.rows != 1 || c.gap) return;
    for (const double y : {5.0, 15.0, 30.0}) {
      const T logits[2] = {T(y), T(0)}, one = T(1);
      const index label = 0;
      T grad[2];
      const double loss = k.cross_entropy_labels(1, 2, logits, 2, &label, T(1), grad, 2);
      const double expected = std::exp(-y) / (1 + std::exp(-y)), bound = 8 * kRoundoff<T>;
      CHECK_NEAR(loss, std::log1p(std::exp(-y)), 1e-15 + bound * expected);
      CHECK_NEAR(grad[0], -expected, 1e-15 + bound * expected);
      k.elementwise_loss[GRADCORE_BINARY_CROSS_ENTROPY](1, 1, logits, 1, &one, 1, T(1), grad, 1);
      CHECK_NEAR(grad[0], -expected, bound * expected);
    }
  });
}

template <class T>
void test_elementwise_losses() {
  for_each_case<T>("elementwise losses", [&](const KernelSet<T> &k, const Case &c) {
    const Matrix<T> y = rng.matrix<T>(c, c.scale == 0x1p40 ? 30 : 3);
    Matrix<T> target(c.rows, c.cols, c.gap ? c.gap + 1 : 0);
    for (index i = 0; i < y.size(); i++) target[i] = T(rng.uniform());
    target[0] = y[0];  // where mae and huber have their kinks
    for (int kind = GRADCORE_BINARY_CROSS_ENTROPY; kind < GRADCORE_NUM_LOSSES; kind++) {
      Matrix<T> grad = y;
      const double loss = k.elementwise_loss[kind](c.rows, c.cols, grad.data(), y.ld(), target.data(), target.ld(),
                                                   T(kScale), grad.data(), y.ld());
      double expected = 0, size = double(y.size());
      for (index i = 0; i < y.size(); i++) {
        const double t = double(target[i]), x = double(y[i]), term = reference::elementwise_loss(kind, x, t);
        expected += term;
        size += std::abs(term);
        const auto at = [kind, t](reference::Complex z) { return reference::elementwise_loss(kind, z, t); };
        const double slope = x == t && kind == GRADCORE_MAE ? 0 : reference::derivative(at, x);
        CHECK_NEAR(grad[i], kScale * slope, 8 * kRoundoff<T> * (1 + std::abs(x)));
      }
      CHECK_NEAR(loss, expected, (8 * kRoundoff<T> + double(y.size()) * 2 * kRoundoff<double>)*size);
      CHECK(grad.intact());
      CHECK(k.elementwise_loss[kind](c.rows, c.cols, y.data(), y.ld(), target.data(), target.ld(), T(1), nullptr, 0) ==
            loss);
    }
  });
}

template <class T>
void test_all() {
  test_activations<T>();
  test_activation_backward<T>();
  test_slope_backward<T>();
  test_cross_entropy<T>();
  test_vanishing_loss<T>();
  test_elementwise_losses<T>();
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_all<float>();
  gradcore::testing::test_all<double>();
  return gradcore::testing::report();
}
