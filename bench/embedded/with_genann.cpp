// genann computes in double and takes one row per step; a batch is one step per row.
#include <genann.h>

#include "common.hpp"

using namespace embedded;

struct Peer {
  static constexpr bool kTrains = true;
  genann *net;
  std::vector<double> x64 = std::vector<double>(kRows * kIn), t64 = std::vector<double>(kRows * kOut);

  explicit Peer(const Problem &problem) {
    net = genann_init(kIn, kHidden, kWidth, kOut);
    net->activation_hidden = genann_act_tanh;
    net->activation_output = genann_act_linear;
    double *w = net->weight;
    for (const Layer &layer : problem.layers)
      for (int o = 0; o < layer.out; o++) {
        *w++ = -layer.bias[o];
        for (int i = 0; i < layer.in; i++) *w++ = layer.weight[o * layer.in + i];
      }
  }
  void run(const float *x, int rows, float *y) {
    std::copy_n(x, rows * kIn, x64.begin());
    for (int r = 0; r < rows; r++) {
      const double *out = genann_run(net, &x64[r * kIn]);
      for (int o = 0; o < kOut; o++) y[r * kOut + o] = float(out[o]);
    }
  }
  void step(const float *x, const float *t, int rows) {
    std::copy_n(x, rows * kIn, x64.begin());
    std::copy_n(t, rows * kOut, t64.begin());
    for (int r = 0; r < rows; r++) genann_train(net, &x64[r * kIn], &t64[r * kOut], kSummedRate / rows);
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
