// The C interface of nets, optimizers and the library: handles -> Network. No exception passes.
// The single ops and clipping are in c_api_ops.cpp.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "handles.hpp"
#include "init/initialize.hpp"

using namespace gradcore;

namespace {

constexpr const char *kActivationNames[GRADCORE_NUM_ACTIVATIONS] = {
    "identity", "relu", "leaky_relu", "elu",  "selu",      "gelu",   "gelu_tanh",
    "silu",     "mish", "softplus",   "tanh", "hard_tanh", "sigmoid"};
constexpr const char *kLossNames[GRADCORE_NUM_LOSSES] = {"cross_entropy", "binary_cross_entropy", "mse", "mae",
                                                         "huber"};

constexpr const char *kInitializerNames[GRADCORE_NUM_INITIALIZERS] = {"auto",         "glorot_uniform", "glorot_normal",
                                                                      "he_uniform",   "he_normal",      "lecun_uniform",
                                                                      "lecun_normal", "orthogonal"};

// Sizes of the configurations in their first version; later members come after them.
constexpr std::size_t kFirstNetConfig = offsetof(gradcore_net_config, dtype) + sizeof(int32_t);
constexpr std::size_t kFirstOptimizerConfig = offsetof(gradcore_optimizer_config, eps) + sizeof(double);

// Makes a call on the threads of its net.
template <class F>
gradcore_status run(const Network &net, F &&call) noexcept {
  const ThreadScope scope(net.threads);
  return guarded(call);
}

gradcore_status check_clip(double clip_norm, double clip_value) noexcept {
  if (!(clip_norm >= 0)) return fail(GRADCORE_INVALID_ARGUMENT, "clip_norm: expected a number >= 0, got %g", clip_norm);
  if (!(clip_value >= 0))
    return fail(GRADCORE_INVALID_ARGUMENT, "clip_value: expected a number >= 0, got %g", clip_value);
  return GRADCORE_OK;
}

gradcore_status describe(const std::vector<TensorInfo> &tensors, int32_t i, gradcore_tensor *out) noexcept {
  if (!out) return null_argument("tensor");
  if (i < 0 || i >= int32_t(tensors.size()))
    return fail(GRADCORE_INVALID_ARGUMENT, "index: expected one of %d tensors, from 0 on, got %d", int(tensors.size()),
                i);
  const TensorInfo &tensor = tensors[std::size_t(i)];
  *out = {tensor.name.c_str(), tensor.offset, tensor.rows, tensor.cols, tensor.rank};
  return GRADCORE_OK;
}

gradcore_status check_flow(const gradcore_net *net, int32_t layer) noexcept {
  if (!net) return null_argument("net");
  if (net->num_flow_layers() == 0)
    return fail(GRADCORE_INVALID_STATE, "flow: expected a recorded pass (record = 1) before, got none");
  if (layer < 0 || layer >= net->num_flow_layers())
    return fail(GRADCORE_INVALID_ARGUMENT, "layer: expected 0 to %d, got %d", net->num_flow_layers() - 1, layer);
  return GRADCORE_OK;
}

}  // namespace

const char *gradcore_version(void) { return GRADCORE_VERSION; }
int32_t gradcore_abi_version(void) { return GRADCORE_ABI_VERSION; }
const char *gradcore_last_error(void) { return last_error(); }

const char *gradcore_activation_name(int32_t activation) {
  return activation >= 0 && activation < GRADCORE_NUM_ACTIVATIONS ? kActivationNames[activation] : nullptr;
}
const char *gradcore_loss_name(int32_t loss) {
  return loss >= 0 && loss < GRADCORE_NUM_LOSSES ? kLossNames[loss] : nullptr;
}

const char *gradcore_initializer_name(int32_t initializer) {
  return initializer >= 0 && initializer < GRADCORE_NUM_INITIALIZERS ? kInitializerNames[initializer] : nullptr;
}
double gradcore_critical_gain_squared(int32_t activation) {
  return activation >= 0 && activation < GRADCORE_NUM_ACTIVATIONS ? critical_gain_squared(activation) : std::nan("");
}

int32_t gradcore_num_targets(void) { return num_targets(); }
const char *gradcore_target_name(int32_t index) {
  return index >= 0 && index < num_targets() ? target(index).name : nullptr;
}
int32_t gradcore_target_supported(int32_t index) { return target_supported(index); }
const char *gradcore_target(void) { return current_target().name; }
int32_t gradcore_has_bfloat16_products(void) { return has_bfloat16_products(); }
gradcore_status gradcore_set_target(const char *name) {
  if (!name) return null_argument("name");
  if (!set_target(name))
    return fail(GRADCORE_INVALID_ARGUMENT,
                "name: expected a target that this library has and this CPU runs, got '%.64s'", name);
  return GRADCORE_OK;
}

int32_t gradcore_get_num_threads(void) { return get_num_threads(); }
const char *gradcore_num_threads_source(void) { return num_threads_source(); }
gradcore_status gradcore_set_num_threads(int32_t num_threads) {
  if (num_threads < 1) return fail(GRADCORE_INVALID_ARGUMENT, "num_threads: expected at least 1, got %d", num_threads);
  set_num_threads(num_threads);
  return GRADCORE_OK;
}

gradcore_status gradcore_net_create(const gradcore_net_config *config, gradcore_net **net) {
  if (!net) return null_argument("net");
  *net = nullptr;
  gradcore_net_config known{};
  GRADCORE_TRY(read_config(config, kFirstNetConfig, &known));
  GRADCORE_TRY(Network::check_config(&known));
  return guarded([&] {
    *net = new gradcore_net(known);
    return GRADCORE_OK;
  });
}
void gradcore_net_destroy(gradcore_net *net) { delete net; }

gradcore_status gradcore_net_initialize_words(gradcore_net *net, int32_t initializer, const uint32_t *seed,
                                              int32_t num_words) {
  if (!net) return null_argument("net");
  if (!seed) return null_argument("seed");
  if (initializer < 0 || initializer >= GRADCORE_NUM_INITIALIZERS)
    return fail(GRADCORE_INVALID_ARGUMENT, "initializer: expected 0 to %d, got %d", GRADCORE_NUM_INITIALIZERS - 1,
                initializer);
  if (num_words < 1 || (num_words > 1 && seed[num_words - 1] == 0))
    return fail(GRADCORE_INVALID_ARGUMENT,
                "num_words: expected the number of words up to the last that is not 0, got %d", num_words);
  return run(*net, [&] {
    initialize(*net, initializer, std::vector<uint32_t>(seed, seed + num_words));
    return GRADCORE_OK;
  });
}
gradcore_status gradcore_net_initialize(gradcore_net *net, int32_t initializer, uint64_t seed) {
  const uint32_t words[] = {uint32_t(seed), uint32_t(seed >> 32)};
  return guarded([&] {
    std::string digits = std::to_string(seed);  // may throw bad_alloc, so before the weights change
    GRADCORE_TRY(gradcore_net_initialize_words(net, initializer, words, words[1] ? 2 : 1));
    return net->set_origin(kInitializerNames[initializer], std::move(digits));
  });
}

gradcore_status gradcore_net_set_threads(gradcore_net *net, gradcore_parallel_for parallel_for, void *context,
                                         int32_t num_threads) {
  if (!net) return null_argument("net");
  if (num_threads < 0) return fail(GRADCORE_INVALID_ARGUMENT, "num_threads: expected at least 0, got %d", num_threads);
  net->threads = {parallel_for, context, num_threads};
  return GRADCORE_OK;
}

gradcore_status gradcore_net_get_config(const gradcore_net *net, gradcore_net_config *config) {
  if (!net) return null_argument("net");
  if (!config) return null_argument("config");
  GRADCORE_TRY(check_size("config", *config, kFirstNetConfig));
  give(net->config(), config);
  return GRADCORE_OK;
}
const char *gradcore_net_init(const gradcore_net *net) { return net ? net->origin.init.c_str() : nullptr; }
const char *gradcore_net_seed(const gradcore_net *net) {
  return net && !net->origin.seed.empty() ? net->origin.seed.c_str() : nullptr;
}
gradcore_status gradcore_net_set_origin(gradcore_net *net, const char *init, const char *seed) {
  if (!net) return null_argument("net");
  if (!init) return null_argument("init");
  return guarded([&] { return net->set_origin(init, seed ? seed : ""); });
}

int32_t gradcore_net_num_parameters(const gradcore_net *net) {
  return net ? int32_t(net->architecture().parameters.size()) : 0;
}
gradcore_status gradcore_net_parameter(const gradcore_net *net, int32_t index, gradcore_tensor *tensor) {
  return net ? describe(net->architecture().parameters, index, tensor) : null_argument("net");
}
int32_t gradcore_net_num_buffers(const gradcore_net *net) {
  return net ? int32_t(net->architecture().buffers.size()) : 0;
}
gradcore_status gradcore_net_buffer(const gradcore_net *net, int32_t index, gradcore_tensor *tensor) {
  return net ? describe(net->architecture().buffers, index, tensor) : null_argument("net");
}

int64_t gradcore_net_flat_size(const gradcore_net *net) { return net ? net->architecture().flat_size : 0; }
int64_t gradcore_net_flat_buffer_size(const gradcore_net *net) {
  return net ? net->architecture().flat_buffer_size : 0;
}
void *gradcore_net_parameters(gradcore_net *net) { return net ? net->parameters() : nullptr; }
void *gradcore_net_gradients(gradcore_net *net) { return net ? net->gradients() : nullptr; }
void *gradcore_net_buffers(gradcore_net *net) { return net ? net->buffers() : nullptr; }
void gradcore_net_parameters_changed(gradcore_net *net) {
  if (net) net->parameters_changed();
}
int64_t gradcore_net_workspace_bytes(const gradcore_net *net) { return net ? net->workspace_bytes() : 0; }

gradcore_status gradcore_net_forward(gradcore_net *net, const gradcore_matrix *input, int32_t training, void *output) {
  if (!net) return null_argument("net");
  const int64_t rows = input ? input->rows : 0, out = net->architecture().out_features();
  const gradcore_output_matrix contiguous{output, rows, out, out};
  return gradcore_net_forward_into(net, input, training, &contiguous);
}
gradcore_status gradcore_net_forward_into(gradcore_net *net, const gradcore_matrix *input, int32_t training,
                                          const gradcore_output_matrix *output) {
  if (!net) return null_argument("net");
  if (!output) return null_argument("output");
  return run(*net, [&] { return net->forward(input, training != 0, *output); });
}

gradcore_status gradcore_net_backward(gradcore_net *net, const gradcore_matrix *grad_output, void *grad_input) {
  if (!net) return null_argument("net");
  const int64_t rows = grad_output ? grad_output->rows : 0, in = net->architecture().in_features();
  const gradcore_output_matrix contiguous{grad_input, rows, in, in};
  return gradcore_net_backward_into(net, grad_output, grad_input ? &contiguous : nullptr);
}
gradcore_status gradcore_net_backward_into(gradcore_net *net, const gradcore_matrix *grad_output,
                                           const gradcore_output_matrix *grad_input) {
  if (!net) return null_argument("net");
  return run(*net, [&] { return net->backward(grad_output, grad_input); });
}

gradcore_status gradcore_net_loss_and_gradients(gradcore_net *net, const gradcore_matrix *input,
                                                const gradcore_target_data *target, int32_t loss, int32_t record,
                                                double *loss_value) {
  if (!net) return null_argument("net");
  if (!loss_value) return null_argument("loss_value");
  gradcore_step step{};
  const gradcore_status status =
      run(*net, [&] { return net->gradient(input, target, loss, nullptr, {0, 0, record != 0}, &step); });
  if (status == GRADCORE_OK) *loss_value = step.loss;
  return status;
}

gradcore_status gradcore_net_loss(gradcore_net *net, const gradcore_matrix *input, const gradcore_target_data *target,
                                  int32_t loss, double *loss_value) {
  if (!net) return null_argument("net");
  if (!loss_value) return null_argument("loss_value");
  return run(*net, [&] { return net->loss(input, target, loss, loss_value); });
}

gradcore_status gradcore_optimizer_create(gradcore_net *net, const gradcore_optimizer_config *config,
                                          gradcore_optimizer **optimizer) {
  if (!optimizer) return null_argument("optimizer");
  *optimizer = nullptr;
  if (!net) return null_argument("net");
  gradcore_optimizer_config known{};
  GRADCORE_TRY(read_config(config, kFirstOptimizerConfig, &known));
  return guarded([&] {
    GRADCORE_TRY(net->check_optimizer(&known));
    *optimizer = new gradcore_optimizer(*net, known);
    return GRADCORE_OK;
  });
}
void gradcore_optimizer_destroy(gradcore_optimizer *optimizer) { delete optimizer; }

gradcore_status gradcore_optimizer_set_lr(gradcore_optimizer *optimizer, double lr) {
  if (!optimizer) return null_argument("optimizer");
  if (!std::isfinite(lr) || lr < 0)
    return fail(GRADCORE_INVALID_ARGUMENT, "lr: expected a finite number >= 0, got %g", lr);
  optimizer->config().lr = lr;
  return GRADCORE_OK;
}
int32_t gradcore_optimizer_num_states(const gradcore_optimizer *optimizer) {
  return optimizer ? optimizer->num_states() : 0;
}
void *gradcore_optimizer_state(gradcore_optimizer *optimizer, int32_t index) {
  return optimizer && index >= 0 && index < optimizer->num_states() ? optimizer->state(index) : nullptr;
}
int64_t gradcore_optimizer_get_step(const gradcore_optimizer *optimizer) { return optimizer ? optimizer->step() : 0; }
void gradcore_optimizer_set_step(gradcore_optimizer *optimizer, int64_t step) {
  if (optimizer) optimizer->step() = std::clamp<int64_t>(step, 0, gradcore_optimizer::kMostSteps);
}

gradcore_status gradcore_optimizer_step(gradcore_optimizer *optimizer, double clip_norm, double clip_value,
                                        int32_t record, gradcore_step *step) {
  if (!optimizer) return null_argument("optimizer");
  if (!step) return null_argument("step");
  return run(optimizer->net, [&] {
    GRADCORE_TRY(check_clip(clip_norm, clip_value));
    return optimizer->net.update(*optimizer, {clip_norm, clip_value, record != 0}, step);
  });
}

gradcore_status gradcore_net_train_step(gradcore_net *net, const gradcore_matrix *input,
                                        const gradcore_target_data *target, int32_t loss, gradcore_optimizer *optimizer,
                                        double clip_norm, double clip_value, int32_t record, gradcore_step *step) {
  if (!net) return null_argument("net");
  if (!optimizer) return null_argument("optimizer");
  if (!step) return null_argument("step");
  if (&optimizer->net != net)
    return fail(GRADCORE_INVALID_ARGUMENT, "optimizer: expected one that was created for this net, got another net's");
  return run(*net, [&] {
    GRADCORE_TRY(check_clip(clip_norm, clip_value));
    return net->gradient(input, target, loss, optimizer, {clip_norm, clip_value, record != 0}, step);
  });
}

int32_t gradcore_net_num_flow_layers(const gradcore_net *net) { return net ? net->num_flow_layers() : 0; }
gradcore_status gradcore_net_flow(const gradcore_net *net, int32_t layer, gradcore_layer_flow *flow) {
  GRADCORE_TRY(check_flow(net, layer));
  if (!flow) return null_argument("flow");
  return guarded([&] {
    *flow = net->flow(layer);
    return GRADCORE_OK;
  });
}
gradcore_status gradcore_net_flow_histogram(const gradcore_net *net, int32_t layer, int32_t which, int64_t *histogram) {
  GRADCORE_TRY(check_flow(net, layer));
  if (!histogram) return null_argument("histogram");
  if (which != 0 && which != 1) return fail(GRADCORE_INVALID_ARGUMENT, "which: expected 0 or 1, got %d", which);
  net->flow_histogram(layer, which, histogram);
  return GRADCORE_OK;
}

gradcore_status gradcore_clip_grad_adaptive(gradcore_net *net, double clipping, double eps) {
  if (!net) return null_argument("net");
  return run(*net, [&] {
    if (!(clipping > 0)) return fail(GRADCORE_INVALID_ARGUMENT, "clipping: expected a number > 0, got %g", clipping);
    if (!(eps >= 0)) return fail(GRADCORE_INVALID_ARGUMENT, "eps: expected a number >= 0, got %g", eps);
    return net->clip_adaptive(clipping, eps);
  });
}
