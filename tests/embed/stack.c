/* Every kind of call in a thread whose stack is as small as gradcore.h says that calls need. */
#include <gradcore/gradcore.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "must.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STACK = 2 << 20 }; /* the sanitizers take more */
#else
enum { STACK = 64 << 10 };
#endif
enum { ROWS = 300, WIDTH = 40, HIDDEN = 6, CLASSES = 10 };

static gradcore_net_config config;
static gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0.99, 0.9, 0.999, 1e-8};
static union {
  double f64[ROWS * WIDTH];
  float f32[ROWS * WIDTH];
} x;
static int64_t labels[ROWS], bins[GRADCORE_NUM_BINS_F64];

static void train(gradcore_net *net, gradcore_optimizer *optimizer) {
  const gradcore_matrix input = {&x, ROWS, WIDTH, WIDTH};
  const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, ROWS};
  gradcore_diagnosis *diagnosis = NULL;
  gradcore_judgement judgement = {.size = sizeof judgement};
  gradcore_step step;
  must(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis));
  for (int i = 0; i < 3; i++) {
    must(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 1, 1, 1, &step));
    must(gradcore_diagnosis_add(diagnosis, &input, step.loss));
  }
  must(gradcore_diagnosis_judge(diagnosis, optimizer, &judgement));
  gradcore_diagnosis_destroy(diagnosis);
}

static void *run(void *nothing) {
  gradcore_net *net = NULL, *loaded = NULL, *missing = NULL;
  gradcore_optimizer *optimizer = NULL;
  gradcore_array_stats stats;
  const int32_t dtype = config.dtype == GRADCORE_FLOAT64;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_initialize(net, GRADCORE_INIT_ORTHOGONAL, 3));
  must(gradcore_optimizer_create(net, &adam, &optimizer));
  train(net, optimizer);
  must(gradcore_net_flow_histogram(net, 0, 0, bins));
  must(gradcore_clip_grad_adaptive(net, 0.01, 1e-3));
  must(gradcore_op_array_stats(dtype, &x, ROWS * WIDTH, &stats, bins));
  must(gradcore_op_activation_backward(dtype, GRADCORE_MISH, &x, &x, ROWS * WIDTH, &x));
  must(gradcore_net_save(net, "net.safetensors"));
  must(gradcore_net_load("net.safetensors", &loaded));
  must(gradcore_optimizer_save(optimizer, "optimizer.safetensors"));
  must(gradcore_optimizer_load(optimizer, "optimizer.safetensors"));
  if (gradcore_net_load("nowhere", &missing) != GRADCORE_IO_ERROR) exit(1);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(loaded);
  gradcore_net_destroy(net);
  return nothing;
}

int main(void) {
  int64_t widths[HIDDEN + 2];
  int32_t activations[HIDDEN];
  pthread_attr_t attributes;
  pthread_t thread;
  for (int i = 0; i < HIDDEN + 2; i++) widths[i] = i <= HIDDEN ? WIDTH : CLASSES;
  for (int i = 0; i < HIDDEN; i++) activations[i] = GRADCORE_GELU;
  if (pthread_attr_init(&attributes) || pthread_attr_setstacksize(&attributes, STACK)) return 2;
  for (int32_t normalization = 0; normalization < 4; normalization++)
    for (int32_t dtype = 0; dtype < 3; dtype++)
      for (int32_t threads = 1; threads <= 4; threads += 3) {
        const gradcore_net_config made = {sizeof made, widths, HIDDEN + 2, activations, normalization, 1, 1, dtype};
        config = made;
        for (int i = 0; i < ROWS * WIDTH; i++)
          if (dtype == GRADCORE_FLOAT64)
            x.f64[i] = i * 37 % 101 * 0.02 - 1;
          else
            x.f32[i] = (float)(i * 37 % 101) * 0.02f - 1;
        must(gradcore_set_num_threads(threads));
        if (pthread_create(&thread, &attributes, run, NULL) || pthread_join(thread, NULL)) return 3;
      }
  puts("enough");
  return 0;
}
