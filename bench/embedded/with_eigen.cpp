// A plain net as one would write it with Eigen: fixed sizes where they are known, buffers allocated once, all rows of a
// batch in one product.
#include <Eigen/Dense>

#include "common.hpp"

using namespace embedded;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<const Matrix>;

struct Peer {
  static constexpr bool kTrains = true;
  Matrix weight[kHidden + 1], delta[kHidden + 1], h[kHidden + 1];
  Eigen::RowVectorXf bias[kHidden + 1];

  explicit Peer(const Problem &problem) {
    for (int l = 0; l <= kHidden; l++) {
      const Layer &layer = problem.layers[l];
      weight[l] = View(layer.weight.data(), layer.out, layer.in);
      bias[l] = Eigen::Map<const Eigen::RowVectorXf>(layer.bias.data(), layer.out);
    }
  }
  void forward(const View &x) {
    for (int l = 0; l <= kHidden; l++) {
      if (l == 0)
        h[l].noalias() = x * weight[l].transpose();
      else
        h[l].noalias() = h[l - 1] * weight[l].transpose();
      h[l].rowwise() += bias[l];
      if (l < kHidden) h[l] = h[l].array().tanh();
    }
  }
  void run(const float *x, int rows, float *y) {
    forward(View(x, rows, kIn));
    Eigen::Map<Matrix>(y, rows, kOut) = h[kHidden];
  }
  void step(const float *x, const float *t, int rows) {
    const View input(x, rows, kIn);
    forward(input);
    delta[kHidden] = (h[kHidden] - View(t, rows, kOut)) * (2.0f / float(rows * kOut));
    for (int l = kHidden; l > 0; l--) {
      delta[l - 1].noalias() = delta[l] * weight[l];
      delta[l - 1].array() *= 1 - h[l - 1].array().square();
    }
    for (int l = 0; l <= kHidden; l++) {
      if (l == 0)
        weight[l].noalias() -= float(kLearningRate) * delta[l].transpose() * input;
      else
        weight[l].noalias() -= float(kLearningRate) * delta[l].transpose() * h[l - 1];
      bias[l] -= float(kLearningRate) * delta[l].colwise().sum();
    }
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
