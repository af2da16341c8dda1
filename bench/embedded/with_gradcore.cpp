#include <gradcore/gradcore.h>

#include "common.hpp"

using namespace embedded;

struct Peer {
  static constexpr bool kTrains = true;
  gradcore_net *net = nullptr;
  gradcore_optimizer *optimizer = nullptr;

  explicit Peer(const Problem &problem) {
    gradcore_set_num_threads(1);
    std::vector<std::int64_t> widths(kWidths, kWidths + kHidden + 2);
    std::vector<std::int32_t> activations(kHidden, GRADCORE_TANH);
    gradcore_net_config config{};
    config.size = sizeof config;
    config.widths = widths.data();
    config.num_widths = kHidden + 2;
    config.activations = activations.data();
    config.bias = 1;
    gradcore_net_create(&config, &net);
    float *flat = static_cast<float *>(gradcore_net_parameters(net));
    for (int l = 0; l <= kHidden; l++)
      for (int part = 0; part < 2; part++) {
        gradcore_tensor tensor;
        gradcore_net_parameter(net, 2 * l + part, &tensor);
        const std::vector<float> &values = part ? problem.layers[l].bias : problem.layers[l].weight;
        std::copy(values.begin(), values.end(), flat + tensor.offset);
      }
    gradcore_net_parameters_changed(net);
    gradcore_optimizer_config sgd{};
    sgd.size = sizeof sgd;
    sgd.kind = GRADCORE_SGD;
    sgd.lr = kLearningRate;
    gradcore_optimizer_create(net, &sgd, &optimizer);
  }
  void run(const float *x, int rows, float *y) {
    const gradcore_matrix input = {x, rows, kIn, kIn};
    gradcore_net_forward(net, &input, 0, y);
  }
  void step(const float *x, const float *t, int rows) {
    const gradcore_matrix input = {x, rows, kIn, kIn};
    gradcore_target_data target{};
    target.values = {t, rows, kOut, kOut};
    gradcore_step step;
    gradcore_net_train_step(net, &input, &target, GRADCORE_MSE, optimizer, 0, 0, 0, &step);
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
