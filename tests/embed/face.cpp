// Uses everything of gradcore.hpp, diagnosis.hpp and ops.hpp. Each check compares with the C function below it, or with
// a property of the result; what steps compute is written to a file, for Python to compare bit for bit.
//   face DIRECTORY   reads parameters.bin, x.bin [rows, 6], labels.bin; writes result.bin
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

// What the owners of gradcore.hpp destroy, in order.
#include <gradcore/gradcore.h>
static std::string destroyed;
static void destroy_net(gradcore_net *net) { destroyed += 'n', gradcore_net_destroy(net); }
static void destroy_optimizer(gradcore_optimizer *it) { destroyed += 'o', gradcore_optimizer_destroy(it); }
static void destroy_diagnosis(gradcore_diagnosis *it) { destroyed += 'd', gradcore_diagnosis_destroy(it); }
#define gradcore_net_destroy destroy_net
#define gradcore_optimizer_destroy destroy_optimizer
#define gradcore_diagnosis_destroy destroy_diagnosis

#include <gradcore/diagnosis.hpp>
#include <gradcore/gradcore.hpp>
#include <gradcore/ops.hpp>

namespace gc = gradcore;

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

template <class Function>
void check_throws(gradcore_status status, const char *text, Function function) {
  try {
    function();
  } catch (const gc::Error &error) {
    if (error.status() == status && std::strstr(error.what(), text)) return;
    std::fprintf(stderr, "expected '%s', got '%s' (status %d)\n", text, error.what(), error.status());
    std::exit(1);
  }
  std::fprintf(stderr, "expected '%s', got no error\n", text);
  std::exit(1);
}

template <class E>
std::vector<E> read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<E> values(bytes.size() / sizeof(E));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(E));
  return values;
}

gc::NetConfig config() {
  gc::NetConfig config;
  config.widths = {6, 9, 9, 4};
  config.activations = {gc::Activation::tanh, gc::Activation::gelu};
  config.normalization = gc::Normalization::batch;
  config.residual = true;
  return config;
}

// Training steps, gradients and outputs, all of them into `result`.
void steps(const std::string &directory) {
  const std::vector<float> start = read<float>(directory + "/parameters.bin"), x = read<float>(directory + "/x.bin");
  const std::vector<std::int64_t> labels = read<std::int64_t>(directory + "/labels.bin");
  const std::int64_t rows = static_cast<std::int64_t>(labels.size());
  const gc::Matrix input(x.data(), rows, 6);

  gc::Net<float> net(config());
  CHECK(start.size() == net.flat_parameters().size());
  std::copy(start.begin(), start.end(), net.flat_parameters().begin());
  net.parameters_changed();
  gc::Optimizer<float> optimizer(net, gc::adamw(1e-2));
  std::vector<double> result;
  for (int i = 0; i < 20; i++) {
    const gc::Step step = net.train_step(input, labels, gc::Loss::cross_entropy, optimizer, {0.5, 0.1}, i == 19);
    result.insert(result.end(), {step.loss, step.total_norm});
  }
  CHECK(optimizer.step_count() == 20 && optimizer.num_states() == 2 && optimizer.state(1)[0] >= 0);
  CHECK(net.num_flow_layers() == 3 && net.flow(1).update_norm > 0);
  std::vector<std::int64_t> bins(gc::Net<float>::num_bins);
  net.delta_histogram(0, bins);
  net.weight_grad_histogram(2, bins);

  result.push_back(net.loss_and_gradients(input, labels, gc::Loss::cross_entropy));
  result.push_back(net.clip_grad_norm(0.25));
  net.clip_grad_adaptive();
  result.insert(result.end(), net.flat_gradients().begin(), net.flat_gradients().end());
  optimizer.set_lr(1e-3);
  result.push_back(optimizer.step({1.0, 0}).total_norm);
  result.push_back(net.loss(input, labels, gc::Loss::cross_entropy));

  std::vector<float> output(static_cast<std::size_t>(rows * 4)), grad_input(x.size());
  net.forward(input, output, true);
  net.backward(gc::Matrix(output.data(), rows, 4), grad_input);
  result.insert(result.end(), output.begin(), output.end());
  result.insert(result.end(), grad_input.begin(), grad_input.end());
  for (gc::Span<float> flat : {net.flat_parameters(), net.flat_gradients(), net.flat_buffers()})
    result.insert(result.end(), flat.begin(), flat.end());
  std::ofstream(directory + "/result.bin", std::ios::binary)
      .write(reinterpret_cast<const char *>(result.data()),
             static_cast<std::streamsize>(result.size() * sizeof(double)));
}

// An output and a grad_input side by side in the rows of one array.
void strided_outputs() {
  gc::Net<float> net(config());
  net.initialize();
  const std::array<float, 12> x = {1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1};
  std::array<float, 8> output{};
  std::array<float, 12> grad_input{};
  std::array<float, 22> wide{};
  wide[10] = -1;
  const gc::Matrix<const float> input(x.data(), 2, 6), grad(output.data(), 2, 4);
  net.forward(input, output, true);
  net.backward(grad, grad_input);
  net.forward(input, gc::Matrix<float>(wide.data(), 2, 4, 11), true);
  net.backward(grad, gc::Matrix<float>(wide.data() + 4, 2, 6, 11));
  CHECK(wide[11] == output[4] && wide[15] == grad_input[6] && wide[10] == -1 && output[4] != 0);
}

void tensors_and_ownership() {
  gc::Net<double> net(config());
  CHECK(net.in_features() == 6 && net.out_features() == 4 && net.num_parameters() == 10 && net.num_buffers() == 4);
  const gc::Tensor<double> weight = net.parameter("dense1.weight"), variance = net.buffer("norm0.running_var");
  CHECK(weight.rank == 2 && weight.rows == 9 && weight.cols == 9 && weight.name == "dense1.weight");
  CHECK(variance.rank == 1 && variance.values.size() == 9 && variance.values[8] == 1.0);
  CHECK(net.gradient("norm0.bias").values.data() - net.flat_gradients().data() ==
        net.parameter("norm0.bias").values.data() - net.flat_parameters().data());
  check_throws(GRADCORE_INVALID_ARGUMENT, "dense9.weight", [&] { net.parameter("dense9.weight"); });

  // An optimizer outlives the object that made its net, which may also move.
  gc::Net<double> moved = std::move(net);
  auto optimizer = std::make_unique<gc::Optimizer<double>>(moved, gc::rmsprop(0.1));
  moved = gc::Net<double>(config());
  CHECK(optimizer->step().total_norm == 0.0);
}

// A net outlives its optimizers and diagnoses, also those that another is moved over.
void order_of_destruction() {
  gc::Net<double> net(config()), other(config());
  gc::Optimizer<double> optimizer(net, gc::sgd(0.1)), for_other(other, gc::sgd(0.1));
  net = gc::Net<double>(config());
  destroyed.clear();
  optimizer = std::move(for_other);
  CHECK(destroyed == "on");
  gc::Diagnosis<double> diagnosis(net, gc::Loss::mse), of_other(other, gc::Loss::mse);
  net = gc::Net<double>(config());
  destroyed.clear();
  diagnosis = std::move(of_other);
  CHECK(destroyed == "dn");
}

// The padding of the flat gradients, too, is clipped by a norm that is NaN.
void a_norm_that_is_nan() {
  gc::Net<float> net(gc::NetConfig{{3, 5, 2}});
  const std::array<float, 6> x = {1, 2, 3, 4, 5, 6};
  net.initialize();
  net.flat_gradients()[0] = NAN;
  CHECK(std::isnan(net.clip_grad_norm(1.0)) && std::isnan(net.flat_gradients()[15]));
  net.loss_and_gradients({x.data(), 2, 3}, gc::Matrix(x.data(), 2, 2), gc::Loss::mse);
  CHECK(net.flat_gradients()[15] == 0 && std::isfinite(net.clip_grad_norm(1.0)));
}

void errors() {
  gc::NetConfig wrong = config();
  wrong.widths = {6};
  check_throws(GRADCORE_INVALID_ARGUMENT, "", [&] { gc::Net<float>{wrong}; });
  wrong = config();
  wrong.activations.push_back(gc::Activation::relu);
  check_throws(GRADCORE_INVALID_ARGUMENT, "activations: expected 2 elements, got 3", [&] { gc::Net<float>{wrong}; });
  gc::Net<float> net(config());
  std::array<float, 12> x{};
  std::array<float, 7> output{};
  check_throws(GRADCORE_INVALID_ARGUMENT, "output: expected 2 x 4 elements, got 7",
               [&] { net.forward({x.data(), 2, 6}, output); });
  constexpr std::int64_t huge = INT64_MAX, half = std::int64_t(1) << 62;  // of which the products overflow
  check_throws(GRADCORE_INVALID_ARGUMENT, "output: expected 4611686018427387904 x 4 elements, got 0",
               [&] { net.forward({x.data(), half, 6}, gc::Span<float>{}); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "input: expected at least one row, got -1",
               [&] { net.forward({x.data(), -1, 6}, output); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "widths: expected at least 2", [] { gc::Net<float>(gc::NetConfig{}); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "elements, got 1",
               [&] { gc::ops::dense(gc::Span<float>(output.data(), 1), {x.data(), huge, 3}, {x.data(), huge, 3}); });
  check_throws(GRADCORE_INVALID_STATE, "backward", [&] { net.backward({x.data(), 3, 4}); });
  x[3] = NAN;
  check_throws(GRADCORE_INVALID_ARGUMENT, "nan",
               [&] { net.loss({x.data(), 2, 6}, gc::Matrix(x.data(), 2, 4), gc::Loss::mse); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "lr", [&] { gc::Optimizer<float>(net, gc::sgd(-1)); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "no_such_target", [] { gc::set_target("no_such_target"); });
  check_throws(GRADCORE_INVALID_ARGUMENT, "threads", [] { gc::set_num_threads(0); });
  check_throws(GRADCORE_NON_FINITE, "", [&] { gc::clip_grad_norm(gc::Span<float>(x), 1.0, 2.0, true); });
}

// Weights half of what they should be, in a deep net: |delta| falls by a factor of 10^5 on its way to the input.
void diagnosis() {
  gc::NetConfig deep;
  deep.widths.assign(20, 16);
  gc::Net<double> net(deep);
  net.initialize();
  for (double &value : net.flat_parameters()) value *= 0.5;
  net.parameters_changed();
  gc::Optimizer<double> adam(net, gc::adam(1e-3));
  gc::Diagnosis<double> diagnosis(net, gc::Loss::cross_entropy);
  check_throws(GRADCORE_INVALID_STATE, "pass", [&] { diagnosis.judge(); });
  std::vector<double> x(3 * 16);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = double(i * 29 % 17) / 8 - 1;
  const std::array<std::int64_t, 3> labels = {1, 2, 3};
  const gc::Matrix<const double> input(x.data(), 3, 16);
  for (int i = 0; i < 2; i++)
    diagnosis.add(input, net.loss_and_gradients(input, labels, gc::Loss::cross_entropy, true));
  gc::Judgement judgement = diagnosis.judge();
  CHECK(gc::verdict_name(judgement.verdict) == "vanishing" && judgement.num_passes == 2 && judgement.num_findings >= 1);
  CHECK(judgement.systematic_high < -judgement.band && judgement.batch_error < 1e-9);
  const gc::Finding finding = diagnosis.finding(0);
  CHECK(gc::finding_kind_name(finding.kind) == "vanishing" && gc::cause_name(finding.cause) == "weight_scale");
  CHECK(gc::severity_name(finding.severity) == "critical" && finding.num_layers > 0 && finding.layers[0] == 0);
  CHECK(std::strstr(finding.explanation, "shrinks") && gc::cause_name(-1).empty());
  check_throws(GRADCORE_INVALID_ARGUMENT, "index", [&] { diagnosis.finding(judgement.num_findings); });
  gc::Optimizer<double> left(net, gc::sgd(1)), taken = std::move(left);
  check_throws(GRADCORE_INVALID_ARGUMENT, "optimizer", [&] { diagnosis.judge(left); });  // which is not plain SGD
  judgement = diagnosis.judge(adam);
  CHECK(judgement.verdict == GRADCORE_VERDICT_HEALTHY);  // Adam rescales them: all entries are above its eps
  CHECK(diagnosis.finding(0).severity == GRADCORE_INFO);
  diagnosis.reset();
  const gc::Matrix<const double> row(x.data(), 1, 16, 0);  // of which the stride leads nowhere
  diagnosis.add(row, net.loss_and_gradients(row, std::array<std::int64_t, 1>{1}, gc::Loss::cross_entropy, true));
  CHECK(diagnosis.judge().num_passes == 1);
  diagnosis.reset();
  diagnosis.add(0.0);
  CHECK(diagnosis.judge().verdict == GRADCORE_VERDICT_HEALTHY);  // a loss of zero: nothing to learn
}

template <class T>
bool near(T a, double b) {
  return std::fabs(double(a) - b) <= 1e-6 * (1 + std::fabs(b));
}

template <class T>
void single_ops() {
  const std::array<T, 6> x = {1, 2, 3, -1, 0, 1};       // [2, 3]
  const std::array<T, 6> w = {1, 0, -1, T(0.5), 1, 1};  // [2, 3]
  const std::array<T, 2> b = {10, 20};
  const gc::Matrix<const T> input{x.data(), 2, 3}, weight{w.data(), 2, 3};
  std::array<T, 4> y{}, dy = {1, 0, 0, 1}, buffer{};
  gc::ops::dense(gc::Span<T>(y), input, weight, b);
  CHECK(y[0] == 8 && y[1] == T(25.5) && y[2] == 8 && y[3] == T(20.5));
  std::array<T, 6> dx{}, dw{};
  std::array<T, 2> db{};
  const gc::Matrix<const T> grad(dy.data(), 2, 2);
  gc::ops::dense_backward(gc::Span<T>(dx), dw, db, grad, input, weight);
  CHECK(dx[2] == -1 && dx[3] == T(0.5) && dw[0] == 1 && dw[3] == -1 && db[0] == 1 && db[1] == 1);
  check_throws(GRADCORE_INVALID_ARGUMENT, "grad_bias: expected 2 elements, got 6",
               [&] { gc::ops::dense_backward(gc::Span<T>(dx), dw, dw, grad, input, weight); });

  gc::ops::activation(gc::Span<T>(y), gc::Activation::softplus, dy);
  CHECK(near(y[0], std::log1p(std::exp(1.0))) && near(y[1], std::log(2.0)));
  gc::ops::activation_backward(gc::Span<T>(buffer), gc::Activation::sigmoid, dy, dy);
  CHECK(near(buffer[0], 0.19661193324148185) && buffer[1] == 0);

  std::array<T, 3> mean{}, inv_std{}, ones = {1, 1, 1}, zeros{}, dgamma{}, dbeta{};
  std::array<T, 6> h{};
  gc::ops::batch_norm(gc::Span<T>(h), mean, inv_std, input, ones, zeros);
  CHECK(mean[0] == 0 && mean[1] == 1 && near(h[0], 1.0 / std::sqrt(1 + 1e-5)) && near(h[3], -h[0]));
  gc::ops::batch_norm_backward(gc::Span<T>(dx), dgamma, dbeta, input, input, ones, mean, inv_std);
  CHECK(near(dbeta[1], 2) && near(dx[0] + dx[3], 0));
  gc::Span<T> mean2(mean.data(), 2), inv_std2(inv_std.data(), 2);
  gc::ops::layer_norm(gc::Span<T>(h), mean2, inv_std2, input, ones, zeros);
  CHECK(mean[0] == 2 && near(h[1], 0) && near(h[0], -1 / std::sqrt(2.0 / 3 + 1e-5)));
  gc::ops::layer_norm_backward(gc::Span<T>(dx), dgamma, dbeta, input, input, ones, mean2, inv_std2);
  CHECK(near(dbeta[0], 0) && near(dx[0] + dx[1] + dx[2], 0));
  gc::ops::layer_norm(gc::Span<T>(h), mean2, inv_std2, input, ones, {}, true);
  CHECK(near(h[5], 1 / std::sqrt(2.0 / 3 + 1e-5)));

  const double loss = gc::ops::loss(gc::Span<T>(buffer), gc::Loss::mse, grad, gc::Matrix(y.data(), 2, 2));
  CHECK(loss > 0 && near(buffer[0], 0.5 * double(dy[0] - y[0])));
  const std::array<std::int64_t, 2> labels = {0, 1};
  CHECK(near(gc::ops::loss(gc::Span<T>{}, gc::Loss::cross_entropy, grad, labels), std::log(1 + std::exp(-1.0))));
  const gradcore_array_stats stats = gc::ops::array_stats(gc::Span<const T>(x));
  CHECK(stats.count == 6 && stats.zeros == 1 && stats.max_abs == 3);

  std::vector<gc::Span<T>> both = {gc::Span<T>(dy), gc::Span<T>(y)};
  CHECK(gc::clip_grad_norm(both, 1.0) > 1.0 && near(gc::clip_grad_norm(both, INFINITY), 1.0));
  gc::clip_grad_value(gc::Span<T>(dy), 0.0);
  CHECK(dy[0] == 0);
}

void files() {
  gc::Net<float> net(gc::NetConfig{{3, 5, 2}, {gc::Activation::tanh}});
  net.initialize(GRADCORE_INIT_HE_NORMAL, 7);
  CHECK(net.parameter("dense1.weight").values[0] != 0);
  net.parameter("dense0.weight").values[1] = 0.5f;
  net.set_threads(2, [](void *, std::int32_t count, gradcore_parallel_task task, void *argument) {
    for (std::int32_t i = 0; i < count; i++) task(argument, i);
  });
  const std::string bytes = net.save_to_memory();
  CHECK(gc::Net<float>::load_from_memory(bytes).parameter("dense0.weight").values[1] == 0.5f);
  net.save("face.safetensors");
  gc::Net<float> loaded = gc::Net<float>::load("face.safetensors");
  CHECK(loaded.save_to_memory() == bytes && loaded.in_features() == 3 && loaded.out_features() == 2);
  gc::Optimizer<float> adam(net, gc::adam(0.1)), other(net, gc::adam(0.1)), sgd(net, gc::sgd(0.1));
  adam.set_step_count(7);
  adam.state(1)[3] = 2.5f;
  adam.save("face.safetensors");
  other.load("face.safetensors");
  CHECK(other.step_count() == 7 && other.state(1)[3] == 2.5f);
  check_throws(GRADCORE_INVALID_ARGUMENT, "kind sgd", [&] { sgd.load("face.safetensors"); });
  CHECK(std::remove("face.safetensors") == 0);
  try {
    gc::Net<double>::load_from_memory(bytes);
    CHECK(false);
  } catch (const gc::Error &error) {
    CHECK(error.status() == GRADCORE_INVALID_ARGUMENT);
  }
}

void bfloat16() {
  gc::NetConfig rounded = config();
  rounded.bfloat16 = true;
  check_throws(GRADCORE_INVALID_ARGUMENT, "bfloat16", [&] { gc::Net<double>{rounded}; });
  gc::Net<float> net(rounded), whole(config());
  net.initialize(GRADCORE_INIT_AUTO, 3);
  whole.initialize(GRADCORE_INIT_AUTO, 3);
  std::array<float, 12> x{};
  for (std::size_t i = 0; i < x.size(); i++) x[i] = 0.37f * static_cast<float>(i) - 2;
  std::array<float, 8> output{}, exact{};
  net.forward({x.data(), 2, 6}, output);
  whole.forward({x.data(), 2, 6}, exact);
  float difference = 0;
  for (std::size_t i = 0; i < output.size(); i++) difference = std::max(difference, std::abs(output[i] - exact[i]));
  CHECK(difference > 0 && difference < 0.1f);
  const std::string bytes = net.save_to_memory();
  CHECK(bytes.find("bfloat16") != std::string::npos);
  CHECK(gc::Net<float>::load_from_memory(bytes).save_to_memory() == bytes);
  check_throws(GRADCORE_INVALID_ARGUMENT, "double", [&] { gc::Net<double>::load_from_memory(bytes); });
  CHECK(gc::has_bfloat16_products() == (gradcore_has_bfloat16_products() != 0));
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  CHECK(gc::version() == gradcore_version() && gradcore_abi_version() == GRADCORE_ABI_VERSION);
  gc::set_num_threads(2);
  CHECK(gc::num_threads() == 2 && gc::num_threads_source() == "set_num_threads");
  gc::set_target(gc::target());
  steps(argv[1]);
  strided_outputs();
  tensors_and_ownership();
  order_of_destruction();
  a_norm_that_is_nan();
  errors();
  files();
  bfloat16();
  diagnosis();
  single_ops<float>();
  single_ops<double>();
  std::puts("every check passed");
}
