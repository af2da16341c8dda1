// FANN in float: fann_train for one row, an epoch of batch training for all of them.
#include <floatfann.h>

#include "common.hpp"

using namespace embedded;

struct Peer {
  static constexpr bool kTrains = true;
  struct fann *net;
  struct fann_train_data *data;

  explicit Peer(const Problem &problem) {
    unsigned widths[kHidden + 2];
    for (int l = 0; l < kHidden + 2; l++) widths[l] = unsigned(kWidths[l]);
    net = fann_create_standard_array(kHidden + 2, widths);
    fann_set_activation_function_hidden(net, FANN_SIGMOID_SYMMETRIC);  // tanh(steepness * z)
    fann_set_activation_steepness_hidden(net, 1);
    fann_set_activation_function_output(net, FANN_LINEAR);
    fann_set_activation_steepness_output(net, 1);
    fann_set_train_error_function(net, FANN_ERRORFUNC_LINEAR);
    fann_set_training_algorithm(net, FANN_TRAIN_BATCH);
    fann_set_learning_rate(net, float(kSummedRate));
    set_weights(problem);
    data = fann_create_train(kRows, kIn, kOut);
    for (int r = 0; r < kRows; r++) {
      std::copy_n(&problem.x[r * kIn], kIn, data->input[r]);
      std::copy_n(&problem.target[r * kOut], kOut, data->output[r]);
    }
  }
  // Layer by layer, neuron by neuron; the last connection of each comes from its layer's bias.
  void set_weights(const Problem &problem) {
    float *w = net->weights;
    for (const Layer &layer : problem.layers)
      for (int o = 0; o < layer.out; o++) {
        w = std::copy_n(&layer.weight[o * layer.in], layer.in, w);
        *w++ = layer.bias[o];
      }
  }
  void run(const float *x, int rows, float *y) {
    for (int r = 0; r < rows; r++) std::copy_n(fann_run(net, const_cast<float *>(x + r * kIn)), kOut, y + r * kOut);
  }
  void step(const float *x, const float *t, int rows) {
    if (rows == 1)
      fann_train(net, const_cast<float *>(x), const_cast<float *>(t));
    else
      fann_train_epoch(net, data);
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
