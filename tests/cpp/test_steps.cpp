// Training through the C interface: once a net has seen its batch, a step allocates nothing and takes no lock; a wrong
// call gives a status and a sentence.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "check.hpp"
#include "gradcore/gradcore.h"

// Counts all allocations and all mutex locks of the program, if the C library allows it and no sanitizer is used.
// (Threads wait for each other on the library's own futexes, after spinning.)
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_CALLS 1
namespace {
std::atomic<long> allocations{0}, locks{0};

using MutexCall = int (*)(pthread_mutex_t *);
int next_call(std::atomic<MutexCall> &next, const char *name, pthread_mutex_t *mutex) {
  locks++;
  if (!next) next = reinterpret_cast<MutexCall>(dlsym(RTLD_NEXT, name));
  return next.load()(mutex);
}
std::atomic<MutexCall> next_lock{nullptr}, next_trylock{nullptr};
}  // namespace
extern "C" {
int pthread_mutex_lock(pthread_mutex_t *mutex) { return next_call(next_lock, "pthread_mutex_lock", mutex); }
int pthread_mutex_trylock(pthread_mutex_t *mutex) { return next_call(next_trylock, "pthread_mutex_trylock", mutex); }
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t size) { return allocations++, __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return allocations++, __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return allocations++, __libc_realloc(block, size); }
void *aligned_alloc(size_t alignment, size_t size) { return allocations++, __libc_memalign(alignment, size); }
}
#else
#define COUNTS_CALLS 0
#endif

namespace {

using gradcore::testing::tally;

constexpr int64_t kIn = 20, kHidden = 33, kOut = 7;

struct Setting {
  const char *name;
  int32_t activation, normalization, residual, dtype;
};

gradcore_net *make_net(const Setting &setting) {
  const int64_t widths[] = {kIn, kHidden, kHidden, kHidden, kOut};
  const int32_t activations[] = {setting.activation, setting.activation, setting.activation};
  const gradcore_net_config config{sizeof config,         widths,           5, activations,
                                   setting.normalization, setting.residual, 1, setting.dtype};
  gradcore_net *net = nullptr;
  CHECK(gradcore_net_create(&config, &net) == GRADCORE_OK);
  return net;
}

gradcore_optimizer *make_adam(gradcore_net *net) {
  gradcore_optimizer_config config{};
  config.size = sizeof config;
  config.kind = GRADCORE_ADAM;
  config.lr = 1e-3, config.alpha = 0.99, config.beta1 = 0.9, config.beta2 = 0.999, config.eps = 1e-8;
  gradcore_optimizer *optimizer = nullptr;
  CHECK(gradcore_optimizer_create(net, &config, &optimizer) == GRADCORE_OK);
  return optimizer;
}

template <class T>
void fill(void *data, int64_t count) {
  for (int64_t i = 0; i < count; i++) static_cast<T *>(data)[i] = T(((i * 37) % 41 - 20) * 0.02);
}

void fill_any(int32_t dtype, void *data, int64_t count) {
  dtype == GRADCORE_FLOAT64 ? fill<double>(data, count) : fill<float>(data, count);
}

// The allocations and mutexes of five calls of each kind, after two of each.
void check_quiet_calls(const Setting &setting, int64_t rows) {
  tally().where = setting.name;
  gradcore_net *net = make_net(setting);
  gradcore_optimizer *adam = make_adam(net);
  fill_any(setting.dtype, gradcore_net_parameters(net), gradcore_net_flat_size(net));
  gradcore_net_parameters_changed(net);
  std::vector<double> x(std::size_t(rows * kIn)), y(std::size_t(rows * kOut));  // doubles: room for either type
  std::vector<int64_t> labels(std::size_t(rows), 3);
  fill_any(setting.dtype, x.data(), rows * kIn);
  const gradcore_matrix input{x.data(), rows, kIn, kIn};
  gradcore_target_data target{};
  target.labels = labels.data(), target.num_labels = rows;
  gradcore_step step{};
  bool ok = true;
  const auto step_with = [&](int32_t record) {
    ok &= gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, adam, 1.0, 0, record, &step) ==
          GRADCORE_OK;
  };
  const auto infer = [&] { ok &= gradcore_net_forward(net, &input, 0, y.data()) == GRADCORE_OK; };
  const auto in_turn = [&](int times, auto &&call) {
    for (int i = 0; i < times; i++) call();
  };
  const auto counted = [&](auto &&call) {
    in_turn(2, call);
#if COUNTS_CALLS
    const long allocations_before = allocations, locks_before = locks;
    in_turn(5, call);
    CHECK(allocations == allocations_before && locks == locks_before);
#else
    in_turn(5, call);
#endif
  };
  counted([&] { step_with(0); });
  counted([&] { step_with(1); });
  counted(infer);
  counted([&] { step_with(0), infer(); });  // alternates two layouts of one workspace
  CHECK(ok && std::isfinite(step.loss));
  gradcore_optimizer_destroy(adam);
  gradcore_net_destroy(net);
}

#define CHECK_REFUSED(call)                                                         \
  do {                                                                              \
    CHECK((call) == GRADCORE_INVALID_ARGUMENT || (call) == GRADCORE_INVALID_STATE); \
    CHECK(gradcore_last_error()[0] != '\0');                                        \
  } while (0)

void check_null_arguments() {
  tally().where = "null arguments";
  double value = 0;
  gradcore_step step{};
  gradcore_tensor tensor{};
  gradcore_layer_flow flow{};
  int64_t bins[GRADCORE_NUM_BINS_F32];
  gradcore_net *net = nullptr;
  CHECK_REFUSED(gradcore_net_create(nullptr, &net));
  CHECK_REFUSED(gradcore_net_create(nullptr, nullptr));
  CHECK_REFUSED(gradcore_net_parameter(nullptr, 0, &tensor));
  CHECK_REFUSED(gradcore_net_buffer(nullptr, 0, &tensor));
  CHECK_REFUSED(gradcore_net_forward(nullptr, nullptr, 0, nullptr));
  CHECK_REFUSED(gradcore_net_backward(nullptr, nullptr, nullptr));
  CHECK_REFUSED(gradcore_net_loss(nullptr, nullptr, nullptr, 0, &value));
  CHECK_REFUSED(gradcore_net_loss_and_gradients(nullptr, nullptr, nullptr, 0, 0, &value));
  CHECK_REFUSED(gradcore_net_train_step(nullptr, nullptr, nullptr, 0, nullptr, 0, 0, 0, &step));
  CHECK_REFUSED(gradcore_optimizer_step(nullptr, 0, 0, 0, &step));
  CHECK_REFUSED(gradcore_optimizer_set_lr(nullptr, 1));
  CHECK_REFUSED(gradcore_net_flow(nullptr, 0, &flow));
  CHECK_REFUSED(gradcore_net_flow_histogram(nullptr, 0, 0, bins));
  CHECK_REFUSED(gradcore_clip_grad_adaptive(nullptr, 0.01, 1e-3));
  CHECK_REFUSED(gradcore_set_target(nullptr));
  CHECK_REFUSED(gradcore_set_target("mmx"));
  CHECK_REFUSED(gradcore_set_num_threads(0));

  net = make_net({"net", GRADCORE_RELU, GRADCORE_NORM_BATCH, 0, GRADCORE_FLOAT32});
  float x[kIn] = {}, y[kOut] = {};
  const gradcore_matrix row{x, 1, kIn, kIn}, narrow{x, 1, kIn - 1, kIn}, none{x, 0, kIn, kIn};
  const int64_t label = 0, beyond = kOut;
  gradcore_target_data target{}, wrong{};
  target.labels = &label, target.num_labels = 1;
  wrong.labels = &beyond, wrong.num_labels = 1;
  CHECK_REFUSED(gradcore_net_forward(net, nullptr, 0, y));
  CHECK_REFUSED(gradcore_net_forward(net, &row, 0, nullptr));
  CHECK_REFUSED(gradcore_net_forward(net, &narrow, 0, y));
  CHECK_REFUSED(gradcore_net_forward(net, &none, 0, y));
  CHECK_REFUSED(gradcore_net_forward(net, &row, 1, y));  // batch norm of one row
  CHECK_REFUSED(gradcore_net_backward(net, &row, nullptr));
  CHECK_REFUSED(gradcore_net_loss(net, &row, nullptr, 0, &value));
  CHECK_REFUSED(gradcore_net_loss(net, &row, &target, 99, &value));
  CHECK_REFUSED(gradcore_net_loss(net, &row, &wrong, 0, &value));
  CHECK_REFUSED(gradcore_net_loss(net, &row, &target, GRADCORE_MSE, &value));
  CHECK_REFUSED(gradcore_net_flow(net, 0, &flow));
  CHECK(gradcore_net_loss(net, &row, &target, 0, &value) == GRADCORE_OK);
  gradcore_net_destroy(net);
  gradcore_net_destroy(nullptr);
  gradcore_optimizer_destroy(nullptr);
}

// Checks that the counters work.
void check_counters() {
#if COUNTS_CALLS
  std::mutex mutex;
  const long locks_before = locks;
  std::lock_guard<std::mutex> lock(mutex);
  CHECK(locks == locks_before + 1);
  const long allocations_before = allocations;  // dlsym above may allocate
  std::free(std::malloc(1 + std::size_t(locks_before)));
  CHECK(allocations == allocations_before + 1);
#endif
}

}  // namespace

int main() {
  check_counters();
  const Setting settings[] = {
      {"tanh", GRADCORE_TANH, GRADCORE_NORM_NONE, 0, GRADCORE_FLOAT32},
      {"relu with batch norm", GRADCORE_RELU, GRADCORE_NORM_BATCH, 0, GRADCORE_FLOAT32},
      {"residual gelu with layer norm", GRADCORE_GELU, GRADCORE_NORM_LAYER, 1, GRADCORE_FLOAT64},
      {"tanh, products of bfloat16", GRADCORE_TANH, GRADCORE_NORM_NONE, 0, GRADCORE_BFLOAT16},
      {"residual relu with batch norm", GRADCORE_RELU, GRADCORE_NORM_BATCH, 1, GRADCORE_FLOAT64},
  };
  for (const int threads : {1, 2, 5}) {
    gradcore_set_num_threads(threads);
    for (const Setting &setting : settings)
      for (const int64_t rows : {2, 300, 1500}) check_quiet_calls(setting, rows);
  }
  check_null_arguments();
  return gradcore::testing::report();
}
