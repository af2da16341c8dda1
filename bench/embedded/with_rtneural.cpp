// RTNeural's compile-time net with its Eigen backend; inference only.
#include <RTNeural/RTNeural.h>

#include "common.hpp"

using namespace embedded;

struct Peer {
  static constexpr bool kTrains = false;
  RTNeural::ModelT<float, kIn, kOut, RTNeural::DenseT<float, kIn, kWidth>, RTNeural::TanhActivationT<float, kWidth>,
                   RTNeural::DenseT<float, kWidth, kWidth>, RTNeural::TanhActivationT<float, kWidth>,
                   RTNeural::DenseT<float, kWidth, kWidth>, RTNeural::TanhActivationT<float, kWidth>,
                   RTNeural::DenseT<float, kWidth, kOut>>
      net;
  alignas(64) float input[kIn];

  explicit Peer(const Problem &problem) {
    set(net.get<0>(), problem.layers[0]);
    set(net.get<2>(), problem.layers[1]);
    set(net.get<4>(), problem.layers[2]);
    set(net.get<6>(), problem.layers[3]);
    net.reset();
  }
  template <class Dense>
  static void set(Dense &dense, const Layer &layer) {
    std::vector<std::vector<float>> rows;
    for (int o = 0; o < layer.out; o++)
      rows.emplace_back(layer.weight.begin() + o * layer.in, layer.weight.begin() + (o + 1) * layer.in);
    dense.setWeights(rows);
    dense.setBias(layer.bias.data());
  }
  void run(const float *x, int rows, float *y) {
    for (int r = 0; r < rows; r++) {
      std::copy_n(x + r * kIn, kIn, input);
      net.forward(input);
      std::copy_n(net.getOutputs(), kOut, y + r * kOut);
    }
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
