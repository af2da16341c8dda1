// Threads through the C interface: the same bits for any number of threads, and for callers that train their nets at
// the same time. The work is small enough for ThreadSanitizer, which checks every memory access.
#include <thread>

#include "check.hpp"
#include "gradcore/gradcore.h"

namespace {

using gradcore::testing::tally;

constexpr int64_t kIn = 40, kOut = 5;

struct Setting {
  const char *name;
  int32_t activation, normalization, dtype;
  int64_t hidden = 70, rows = 333;  // enough work for seven threads
};

constexpr Setting kSettings[] = {
    {"relu", GRADCORE_RELU, GRADCORE_NORM_NONE, GRADCORE_FLOAT32},
    {"tanh with batch norm", GRADCORE_TANH, GRADCORE_NORM_BATCH, GRADCORE_FLOAT32},
    {"gelu with layer norm", GRADCORE_GELU, GRADCORE_NORM_LAYER, GRADCORE_FLOAT64},
    {"tanh, rows in groups", GRADCORE_TANH, GRADCORE_NORM_NONE, GRADCORE_FLOAT32, 40, 1500},
};

std::vector<double> numbers(int64_t count) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; i++) values.push_back(double((i * 37) % 41 - 20) * 0.02);
  return values;
}

// `values` as elements of a dtype.
std::vector<char> as_elements(int32_t dtype, const std::vector<double> &values) {
  std::vector<char> bytes(values.size() * (dtype == GRADCORE_FLOAT64 ? 8 : 4));
  for (std::size_t i = 0; i < values.size(); i++) {
    if (dtype == GRADCORE_FLOAT64)
      std::memcpy(&bytes[8 * i], &values[i], 8);
    else
      reinterpret_cast<float *>(bytes.data())[i] = float(values[i]);
  }
  return bytes;
}

template <class T>
void append(std::vector<char> &bytes, const T *values, std::size_t count) {
  const char *first = reinterpret_cast<const char *>(values);
  bytes.insert(bytes.end(), first, first + count * sizeof(T));
}

// All that the last recorded pass left.
std::vector<char> recorded(const gradcore_net *net) {
  std::vector<char> bytes;
  for (int32_t l = 0; l < gradcore_net_num_flow_layers(net); l++) {
    gradcore_layer_flow flow{};
    gradcore_net_flow(net, l, &flow);
    append(bytes, &flow, 1);
    for (const int32_t which : {0, 1}) {
      int64_t histogram[GRADCORE_NUM_BINS_F64] = {};
      gradcore_net_flow_histogram(net, l, which, histogram);
      append(bytes, histogram, GRADCORE_NUM_BINS_F64);
    }
  }
  return bytes;
}

// Trains a new net for a few steps, every other of them recorded, infers and clips; returns all bytes of the results.
std::vector<char> train(const Setting &setting) {
  const int64_t rows = setting.rows;
  const int64_t widths[] = {kIn, setting.hidden, setting.hidden, setting.hidden, kOut};
  const int32_t activations[] = {setting.activation, setting.activation, setting.activation};
  const gradcore_net_config config{sizeof config, widths, 5, activations, setting.normalization, 1, 1, setting.dtype};
  gradcore_net *net = nullptr;
  bool ok = gradcore_net_create(&config, &net) == GRADCORE_OK;
  gradcore_optimizer_config adam_config{};
  adam_config.size = sizeof adam_config;
  adam_config.kind = GRADCORE_ADAM;
  adam_config.lr = 1e-2, adam_config.alpha = 0.99, adam_config.beta1 = 0.9, adam_config.beta2 = 0.999,
  adam_config.eps = 1e-8;
  gradcore_optimizer *adam = nullptr;
  ok = ok && gradcore_optimizer_create(net, &adam_config, &adam) == GRADCORE_OK;

  const int64_t size = gradcore_net_flat_size(net);
  std::vector<char> result = as_elements(setting.dtype, numbers(size));
  std::memcpy(gradcore_net_parameters(net), result.data(), result.size());
  gradcore_net_parameters_changed(net);
  const std::vector<char> x = as_elements(setting.dtype, numbers(rows * kIn));
  std::vector<char> y = as_elements(setting.dtype, numbers(rows * kOut));
  const std::vector<int64_t> labels(std::size_t(rows), 3);
  const gradcore_matrix input{x.data(), rows, kIn, kIn};
  gradcore_target_data target{};
  target.labels = labels.data(), target.num_labels = rows;
  gradcore_step step{};
  for (int i = 0; i < 3; i++)
    ok = ok && gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, adam, 1.0, 0, i % 2, &step) ==
                   GRADCORE_OK;
  const std::vector<char> flows = recorded(net);
  ok = ok && gradcore_net_forward(net, &input, 0, y.data()) == GRADCORE_OK;
  void *const arrays[] = {y.data()};
  const int64_t sizes[] = {rows * kOut};
  double norm = 0;
  ok = ok && gradcore_clip_grad_norm(setting.dtype, arrays, sizes, 1, 1.0, 2.0, 1, &norm) == GRADCORE_OK;
  if (!ok) return {};  // the tally is not thread-safe, so the caller compares

  std::memcpy(result.data(), gradcore_net_parameters(net), result.size());
  append(result, y.data(), y.size());
  append(result, flows.data(), flows.size());
  gradcore_optimizer_destroy(adam);
  gradcore_net_destroy(net);
  return result;
}

void test_any_number_of_threads(const Setting &setting, const std::vector<char> &alone) {
  for (const int threads : {2, 3, 7}) {
    gradcore_set_num_threads(threads);
    CHECK(train(setting) == alone);
  }
}

// All callers but one find the pool taken and run alone; which ones changes from call to call.
void test_callers_at_once(const Setting &setting, const std::vector<char> &alone) {
  gradcore_set_num_threads(2);
  std::vector<char> results[3];
  std::vector<std::thread> callers;
  for (std::vector<char> &result : results) callers.emplace_back([&] { result = train(setting); });
  for (std::thread &caller : callers) caller.join();
  for (const std::vector<char> &result : results) CHECK(result == alone);
}

}  // namespace

int main() {
  for (const Setting &setting : kSettings) {
    tally().where = setting.name;
    gradcore_set_num_threads(1);
    const std::vector<char> alone = train(setting);
    CHECK(!alone.empty());
    test_any_number_of_threads(setting, alone);
    test_callers_at_once(setting, alone);
  }
  return gradcore::testing::report();
}
