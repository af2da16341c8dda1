#include "network/network.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "error.hpp"
#include "ops/clip.hpp"

namespace gradcore {

namespace {

template <class S>
using Element = typename std::decay_t<S>::Element;

template <class T>
InputView<T> view(const gradcore_matrix &matrix) noexcept {
  return {static_cast<const T *>(matrix.data), stride_of(matrix)};
}

template <class T>
OutputView<T> view(const gradcore_output_matrix &matrix) noexcept {
  return {static_cast<T *>(matrix.data), stride_of(matrix)};
}

template <class T>
Optimizer<T> *state_of(NetOptimizer *optimizer) noexcept {
  if (!optimizer) return nullptr;
  if constexpr (sizeof(T) == 4)
    return optimizer->f32.get();
  else
    return optimizer->f64.get();
}

// The index of the first element that is not `wanted`, or -1.
template <class T, class Wanted>
index find_unwanted(const gradcore_matrix &matrix, Wanted &&wanted) noexcept {
  const T *data = static_cast<const T *>(matrix.data);
  for (index r = 0; r < matrix.rows; r++)
    for (index c = 0; c < matrix.cols; c++)
      if (!wanted(data[r * matrix.stride + c])) return r * matrix.cols + c;
  return -1;
}
template <class T>
index find_non_finite(const gradcore_matrix &matrix) noexcept {
  return find_unwanted<T>(matrix, [](T value) { return std::isfinite(value); });
}

template <class T>
bool are_probabilities(const gradcore_matrix &matrix) noexcept {
  bool all = true;
  for (index r = 0; r < matrix.rows; r++) {
    const T *row = static_cast<const T *>(matrix.data) + r * matrix.stride;
    for (index c = 0; c < matrix.cols; c++) all &= row[c] >= 0 && row[c] <= 1;
  }
  return all;
}

bool finite_at_least(double value, double least) noexcept { return std::isfinite(value) && value >= least; }

}  // namespace

gradcore_status Network::check_config(const gradcore_net_config *config) noexcept {
  constexpr index kMaxWidth = index(1) << 24, kMaxParameters = index(1) << 40;
  if (config->num_widths < 2)
    return fail(GRADCORE_INVALID_ARGUMENT, "widths: expected at least 2 (input and output), got %d",
                config->num_widths);
  if (!config->widths)
    return fail(GRADCORE_INVALID_ARGUMENT, "widths: expected an array of num_widths widths, got NULL");
  index parameters = 0;
  for (int i = 0; i < config->num_widths; i++) {
    if (config->widths[i] < 1 || config->widths[i] > kMaxWidth)
      return fail(GRADCORE_INVALID_ARGUMENT, "widths[%d]: expected 1 to %lld, got %lld", i, (long long)kMaxWidth,
                  (long long)config->widths[i]);
    if (i > 0) parameters += config->widths[i] * config->widths[i - 1];
    if (parameters > kMaxParameters)
      return fail(GRADCORE_INVALID_ARGUMENT, "widths: expected at most 2^40 weights, got more at layer %d", i - 1);
  }
  if (config->num_widths > 2 && !config->activations)
    return fail(GRADCORE_INVALID_ARGUMENT, "activations: expected one per hidden layer, got NULL");
  for (int i = 0; i < config->num_widths - 2; i++)
    if (config->activations[i] < 0 || config->activations[i] >= GRADCORE_NUM_ACTIVATIONS)
      return fail(GRADCORE_INVALID_ARGUMENT, "activations[%d]: expected 0 to %d, got %d", i,
                  GRADCORE_NUM_ACTIVATIONS - 1, config->activations[i]);
  if (config->normalization < GRADCORE_NORM_NONE || config->normalization > GRADCORE_NORM_RMS)
    return fail(GRADCORE_INVALID_ARGUMENT, "normalization: expected 0 to %d, got %d", GRADCORE_NORM_RMS,
                config->normalization);
  for (const auto &[name, value] : {std::pair("residual", config->residual), std::pair("bias", config->bias)})
    if (value != 0 && value != 1) return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected 0 or 1, got %d", name, value);
  if (config->dtype < GRADCORE_FLOAT32 || config->dtype > GRADCORE_BFLOAT16)
    return fail(GRADCORE_INVALID_ARGUMENT, "dtype: expected 0 (float32), 1 (float64) or 2 (bfloat16), got %d",
                config->dtype);
  return GRADCORE_OK;
}

gradcore_status Network::check_optimizer(const gradcore_optimizer_config *config) const noexcept {
  if (config->kind < 0 || config->kind >= GRADCORE_NUM_OPTIMIZERS)
    return fail(GRADCORE_INVALID_ARGUMENT, "kind: expected 0 to %d, got %d", GRADCORE_NUM_OPTIMIZERS - 1, config->kind);
  struct Named {
    const char *name;
    double value;
  };
  const Named non_negative[] = {
      {"lr", config->lr}, {"momentum", config->momentum}, {"weight_decay", config->weight_decay}};
  for (const auto &[name, value] : non_negative)
    if (!finite_at_least(value, 0))
      return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a finite number >= 0, got %g", name, value);
  if (config->nesterov != 0 && config->nesterov != 1)
    return fail(GRADCORE_INVALID_ARGUMENT, "nesterov: expected 0 or 1, got %d", config->nesterov);
  if (config->nesterov && config->momentum == 0)
    return fail(GRADCORE_INVALID_ARGUMENT, "nesterov: expected a momentum > 0 with it, got 0");
  if (config->kind == GRADCORE_SGD) return GRADCORE_OK;
  const Named shares[] = {{"alpha", config->alpha}, {"beta1", config->beta1}, {"beta2", config->beta2}};
  for (const auto &[name, value] : shares)
    if (!(value >= 0 && value < 1))
      return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a number in [0, 1), got %g", name, value);
  return check_eps(net_.dtype, config->eps);
}

Network::Network(const gradcore_net_config &config)
    : net_(make_architecture(config)),
      widths_(config.widths, config.widths + config.num_widths),
      activations_(config.activations, config.activations + (config.num_widths - 2)),
      normalization_(config.normalization),
      residual_(config.residual),
      bias_(config.bias) {
  const std::size_t element = std::size_t(net_.element_size());
  parameters_.reserve(std::size_t(net_.flat_size) * element + kMaxVectorBytes);  // products read full vectors
  gradients_.reserve(std::size_t(net_.flat_size) * element);
  buffers_.reserve(std::size_t(net_.flat_buffer_size) * element);
  spare_buffers_.reserve(buffers_.bytes());
  const auto build = [&](auto &schedule, const auto &kernels) {
    using T = Element<decltype(*schedule)>;
    T *values = static_cast<T *>(parameters_.data()), *statistics = static_cast<T *>(buffers_.data());
    const auto fill_ones = [](T *flat, const TensorInfo &tensor) {
      for (index i = 0; i < tensor.size(); i++) flat[tensor.offset + i] = T(1);
    };
    for (const LayerSpec &layer : net_.layers) {
      if (layer.norm_weight >= 0) fill_ones(values, net_.parameters[layer.norm_weight]);
      if (layer.running_var >= 0) fill_ones(statistics, net_.buffers[layer.running_var]);
    }
    schedule = std::make_unique<Schedule<T>>(net_, kernels, values, static_cast<T *>(gradients_.data()), statistics);
  };
  if (net_.dtype == GRADCORE_FLOAT64)
    build(f64_, current_target().f64);
  else
    build(f32_, net_.dtype == GRADCORE_BFLOAT16 ? bfloat16_kernels() : current_target().f32);
}

gradcore_net_config Network::config() const noexcept {
  return {sizeof(gradcore_net_config),
          widths_.data(),
          int32_t(widths_.size()),
          activations_.data(),
          normalization_,
          residual_,
          bias_,
          net_.dtype};
}

gradcore_status Network::set_origin(std::string init, std::string seed) {
  bool printable = true;
  for (const char c : init) printable &= c >= ' ' && c <= '~';
  if (init.empty() || init.size() > Origin::kMaxInit || !printable)
    return fail(GRADCORE_INVALID_ARGUMENT, "init: expected a name of 1 to %zu printable ASCII characters, got %zu%s",
                Origin::kMaxInit, init.size(), printable ? "" : ", some of another kind");
  const bool digits = seed.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || seed.size() > Origin::kMaxSeed || (seed.size() > 1 && seed[0] == '0'))
    return fail(GRADCORE_INVALID_ARGUMENT, "seed: expected at most %zu digits without leading zeros, got others",
                Origin::kMaxSeed);
  origin = {std::move(init), std::move(seed)};
  return GRADCORE_OK;
}

gradcore_status Network::check_matrix(const char *name, const gradcore_matrix *matrix, index cols) const noexcept {
  if (!matrix || !matrix->data) return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a matrix, got NULL", name);
  if (matrix->rows < 1)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected at least one row, got %lld", name, (long long)matrix->rows);
  if (matrix->cols != cols)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected %lld columns, got %lld", name, (long long)cols,
                (long long)matrix->cols);
  if (matrix->rows > 1 && matrix->stride < cols)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a row stride of at least %lld elements, got %lld", name,
                (long long)cols, (long long)matrix->stride);
  // The flat size bounds the sum of the widths, and so the elements of the workspace per row.
  const index most = kMostElements / std::max(matrix->rows > 1 ? matrix->stride : 0, net_.flat_size);
  if (matrix->rows > most)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected at most %lld rows for a net of this size, got %lld", name,
                (long long)most, (long long)matrix->rows);
  return GRADCORE_OK;
}

gradcore_status Network::check_output(const char *name, const gradcore_output_matrix &matrix, index rows,
                                      index cols) const noexcept {
  const gradcore_matrix as_input{matrix.data, matrix.rows, matrix.cols, matrix.stride};
  GRADCORE_TRY(check_matrix(name, &as_input, cols));
  if (matrix.rows != rows)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected %lld rows, got %lld", name, (long long)rows,
                (long long)matrix.rows);
  return GRADCORE_OK;
}

gradcore_status Network::check_training_rows(index rows) const noexcept {
  if (net_.any_batch_norm && rows < 2)
    return fail(GRADCORE_INVALID_ARGUMENT, "input: expected at least 2 rows to train with batch norm, got %lld",
                (long long)rows);
  return GRADCORE_OK;
}

gradcore_status Network::check_target(const gradcore_target_data *target, int loss, index rows) const noexcept {
  if (!target || (!target->labels && !target->values.data))
    return fail(GRADCORE_INVALID_ARGUMENT, "target: expected labels or values, got NULL");
  GRADCORE_TRY(check_loss(loss));
  const index out = net_.out_features();
  const index got = target->labels ? target->num_labels : target->values.rows;
  if (target->labels && loss != GRADCORE_CROSS_ENTROPY)
    return fail(GRADCORE_INVALID_ARGUMENT, "target: expected values for %s, got labels", gradcore_loss_name(loss));
  if (!target->labels) GRADCORE_TRY(check_matrix("target", &target->values, out));
  if (got != rows)
    return fail(GRADCORE_INVALID_ARGUMENT, "target: expected %lld rows as in the input, got %lld", (long long)rows,
                (long long)got);
  if (target->labels) return check_labels(target->labels, rows, out);
  return with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    const KernelSet<T> &kernels = current_target().template set<T>();
    const gradcore_matrix &values = target->values;
    const bool of_probabilities = loss == GRADCORE_CROSS_ENTROPY || loss == GRADCORE_BINARY_CROSS_ENTROPY;
    if (of_probabilities && are_probabilities<T>(values)) return GRADCORE_OK;  // this pass also shows they are finite
    if (!kernels.all_finite(rows, out, static_cast<const T *>(values.data), stride_of(values)))
      return report_non_finite("target", values);
    if (!of_probabilities) return GRADCORE_OK;
    // Outside [0, 1] these losses have no minimum: the loss would fall to minus infinity, which looks like success.
    const index at = find_unwanted<T>(values, [](T value) { return value >= 0 && value <= 1; });
    const index row = at / out, col = at % out;
    return fail(GRADCORE_INVALID_ARGUMENT,
                "target: expected probabilities in [0, 1] for %s, got %g at row %lld, column %lld; other values: mse, "
                "mae or huber",
                gradcore_loss_name(loss), double(static_cast<const T *>(values.data)[row * values.stride + col]),
                (long long)row, (long long)col);
  });
}

gradcore_status Network::report_non_finite(const char *name, const gradcore_matrix &matrix) const noexcept {
  const index at = f32_ ? find_non_finite<float>(matrix) : find_non_finite<double>(matrix);
  const index row = at / matrix.cols, col = at % matrix.cols, element = row * matrix.stride + col;
  const double value = f32_ ? double(static_cast<const float *>(matrix.data)[element])
                            : static_cast<const double *>(matrix.data)[element];
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected finite values, got %g at row %lld, column %lld", name, value,
              (long long)row, (long long)col);
}

gradcore_status Network::report_norm(double total_norm) const noexcept {
  for (const TensorInfo &tensor : net_.parameters) {
    const gradcore_matrix gradient{static_cast<const char *>(gradients_.data()) + tensor.offset * net_.element_size(),
                                   tensor.rows, tensor.cols, tensor.cols};
    const index at = f32_ ? find_non_finite<float>(gradient) : find_non_finite<double>(gradient);
    if (at >= 0)
      return fail(GRADCORE_NON_FINITE,
                  "clip_norm: expected a finite total norm, got %g (first in the gradient of %s); nothing was updated",
                  total_norm, tensor.name.c_str());
  }
  return fail(GRADCORE_NON_FINITE, "clip_norm: expected a finite total norm, got %g; nothing was updated", total_norm);
}

gradcore_status Network::forward(const gradcore_matrix *input, bool training, const gradcore_output_matrix &output) {
  GRADCORE_TRY(check_matrix("input", input, net_.in_features()));
  if (training) GRADCORE_TRY(check_training_rows(input->rows));
  GRADCORE_TRY(check_output("output", output, input->rows, net_.out_features()));
  saved_rows_ = 0;
  const PassResult result = with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    PassRequest<T> request{};
    request.kind = training ? PassKind::forward : PassKind::inference;
    request.rows = input->rows;
    request.input = view<T>(*input);
    request.output = view<T>(output);
    return schedule.run(request);
  });
  if (!result.input_finite) return report_non_finite("input", *input);
  if (training) saved_rows_ = input->rows;
  return GRADCORE_OK;
}

gradcore_status Network::backward(const gradcore_matrix *grad_output, const gradcore_output_matrix *grad_input) {
  GRADCORE_TRY(check_matrix("grad_output", grad_output, net_.out_features()));
  if (saved_rows_ == 0)
    return fail(GRADCORE_INVALID_STATE,
                "backward: expected a forward pass with training on just before, got none (each serves one backward)");
  if (grad_output->rows != saved_rows_)
    return fail(GRADCORE_INVALID_ARGUMENT, "grad_output: expected %lld rows as in the forward pass, got %lld",
                (long long)saved_rows_, (long long)grad_output->rows);
  if (grad_input) GRADCORE_TRY(check_output("grad_input", *grad_input, saved_rows_, net_.in_features()));
  const PassResult result = with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    PassRequest<T> request{};
    request.kind = grad_input ? PassKind::backward_to_input : PassKind::backward;
    request.rows = saved_rows_;
    request.grad_output = view<T>(*grad_output);
    if (grad_input) request.grad_input = view<T>(*grad_input);
    return schedule.run(request);
  });
  if (!result.input_finite) return report_non_finite("grad_output", *grad_output);
  clear_padding();
  saved_rows_ = 0;
  return GRADCORE_OK;
}

gradcore_status Network::gradient(const gradcore_matrix *input, const gradcore_target_data *target, int loss,
                                  NetOptimizer *optimizer, const StepOptions &options, gradcore_step *step) {
  GRADCORE_TRY(check_matrix("input", input, net_.in_features()));
  GRADCORE_TRY(check_training_rows(input->rows));
  GRADCORE_TRY(check_target(target, loss, input->rows));
  saved_rows_ = 0;
  // Forward updates the running statistics before it is known whether the step will be refused.
  const bool may_be_refused = optimizer && options.clip_norm > 0 && net_.any_batch_norm;
  if (may_be_refused) std::memcpy(spare_buffers_.data(), buffers_.data(), buffers_.bytes());
  const PassResult result = with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    PassRequest<T> request{};
    request.kind = PassKind::gradient;
    request.rows = input->rows;
    request.input = view<T>(*input);
    request.target = view<T>(*target);
    request.loss = loss;
    request.record = options.record;
    request.optimizer = state_of<T>(optimizer);
    request.clip_norm = options.clip_norm;
    request.clip_value = options.clip_value;
    return schedule.run(request);
  });
  if (!result.input_finite) return report_non_finite("input", *input);
  clear_padding();
  *step = {result.loss, result.total_norm};
  if (result.norm_finite) return GRADCORE_OK;
  if (may_be_refused) std::memcpy(buffers_.data(), spare_buffers_.data(), buffers_.bytes());
  return report_norm(result.total_norm);
}

gradcore_status Network::loss(const gradcore_matrix *input, const gradcore_target_data *target, int loss,
                              double *value) {
  GRADCORE_TRY(check_matrix("input", input, net_.in_features()));
  GRADCORE_TRY(check_target(target, loss, input->rows));
  saved_rows_ = 0;
  const PassResult result = with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    PassRequest<T> request{};
    request.kind = PassKind::inference_loss;
    request.rows = input->rows;
    request.input = view<T>(*input);
    request.target = view<T>(*target);
    request.loss = loss;
    return schedule.run(request);
  });
  if (!result.input_finite) return report_non_finite("input", *input);
  *value = result.loss;
  return GRADCORE_OK;
}

gradcore_status Network::update(NetOptimizer &optimizer, const StepOptions &options, gradcore_step *step) {
  saved_rows_ = 0;
  const PassResult result = with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    PassRequest<T> request{};
    request.optimizer = state_of<T>(&optimizer);
    request.record = options.record;
    request.clip_norm = options.clip_norm;
    request.clip_value = options.clip_value;
    return schedule.update(request);
  });
  *step = {0, result.total_norm};
  return result.norm_finite ? GRADCORE_OK : report_norm(result.total_norm);
}

gradcore_status Network::clip_adaptive(double clipping, double eps) {
  with_schedule([&](auto &schedule) {
    using T = Element<decltype(schedule)>;
    for (const LayerSpec &layer : net_.layers) {
      const TensorInfo &weight = net_.parameters[layer.weight];
      clip_grad_adaptive(current_target().template set<T>(), weight.rows, weight.cols,
                         static_cast<const T *>(parameters_.data()) + weight.offset,
                         static_cast<T *>(gradients_.data()) + weight.offset, clipping, eps);
    }
  });
  return GRADCORE_OK;
}

// Sets the padding of the gradients to zero. Clipping their flat buffer by a NaN norm makes the padding NaN, and then
// every later norm would be NaN.
void Network::clear_padding() noexcept {
  const index element = net_.element_size(), alignment = index(kCacheLine) / element;
  for (const TensorInfo &tensor : net_.parameters) {
    const index size = tensor.size(), padding = -size & (alignment - 1);
    if (padding > 0)
      std::memset(static_cast<char *>(gradients_.data()) + (tensor.offset + size) * element, 0,
                  std::size_t(padding * element));
  }
}

void Network::parameters_changed() noexcept {
  with_schedule([](auto &schedule) { schedule.parameters_changed(); });
}
index Network::workspace_bytes() const noexcept {
  return with_schedule([](auto &schedule) { return schedule.workspace_bytes(); });
}
int Network::num_flow_layers() const noexcept {
  return with_schedule([](auto &schedule) { return schedule.flow().num_layers(); });
}
gradcore_layer_flow Network::flow(int layer) const noexcept {
  return with_schedule([&](auto &schedule) { return schedule.flow().layer(layer); });
}
void Network::flow_histogram(int layer, int which, index *histogram) const noexcept {
  with_schedule([&](auto &schedule) { schedule.flow().histogram(layer, which, histogram); });
}

NetOptimizer::NetOptimizer(Network &net, const gradcore_optimizer_config &config) : net(net) {
  const Architecture &architecture = net.architecture();
  if (architecture.dtype == GRADCORE_FLOAT64)
    f64 = std::make_unique<Optimizer<double>>(config, architecture.flat_size);
  else
    f32 = std::make_unique<Optimizer<float>>(config, architecture.flat_size);
}
gradcore_optimizer_config &NetOptimizer::config() const noexcept { return f32 ? f32->config : f64->config; }
index &NetOptimizer::step() const noexcept { return f32 ? f32->step : f64->step; }
int NetOptimizer::num_states() const noexcept { return f32 ? f32->num_states() : f64->num_states(); }
void *NetOptimizer::state(int i) const noexcept {
  return f32 ? static_cast<void *>(f32->state(i)) : static_cast<void *>(f64->state(i));
}

}  // namespace gradcore
