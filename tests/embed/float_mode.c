/* A host that rounds in its own way, and that wants a signal for each of its own floating-point exceptions. */
#define _GNU_SOURCE
#include <fenv.h>
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "must.h"

enum { ROWS = 37, IN = 9, HIDDEN = 21, CLASSES = 5 };

static union {
  double f64[ROWS * HIDDEN];
  float f32[ROWS * HIDDEN];
} x, y;
static int64_t labels[ROWS], bins[GRADCORE_NUM_BINS_F64];

static gradcore_net *new_net(int32_t dtype, int32_t activation, int32_t normalization, int32_t initializer) {
  const int64_t widths[] = {IN, HIDDEN, HIDDEN, CLASSES};
  const int32_t activations[] = {activation, activation};
  const gradcore_net_config config = {sizeof config, widths, 4, activations, normalization, 1, 1, dtype};
  gradcore_net *net = NULL;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_initialize(net, initializer, 7));
  return net;
}

/* The first weights of a process: the tables of normal numbers are made for all that follow. */
static void check_weights(void) {
  for (int32_t initializer = 0; initializer < GRADCORE_NUM_INITIALIZERS; initializer++) {
    fesetround(FE_UPWARD);
    gradcore_net *upward = new_net(GRADCORE_FLOAT64, GRADCORE_TANH, 0, initializer);
    if (fegetround() != FE_UPWARD) exit(2);
    fesetround(FE_TONEAREST);
    gradcore_net *nearest = new_net(GRADCORE_FLOAT64, GRADCORE_TANH, 0, initializer);
    const size_t size = (size_t)gradcore_net_flat_size(nearest) * sizeof(double);
    if (memcmp(gradcore_net_parameters(upward), gradcore_net_parameters(nearest), size) != 0) {
      fprintf(stderr, "%s: other weights\n", gradcore_initializer_name(initializer));
      exit(1);
    }
    gradcore_net_destroy(upward);
    gradcore_net_destroy(nearest);
  }
}

static void use_net(int32_t dtype, int32_t activation, int32_t normalization) {
  const gradcore_matrix input = {&x, ROWS, IN, IN};
  const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, ROWS};
  const gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0.99, 0.9, 0.999, 1e-8};
  gradcore_net *net = new_net(dtype, activation, normalization, GRADCORE_INIT_ORTHOGONAL);
  gradcore_optimizer *optimizer = NULL;
  gradcore_diagnosis *diagnosis = NULL;
  gradcore_judgement judgement = {.size = sizeof judgement};
  gradcore_layer_flow flow;
  gradcore_step step;
  must(gradcore_optimizer_create(net, &adam, &optimizer));
  must(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis));
  must(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 1, 1, 1, &step));
  must(gradcore_diagnosis_add(diagnosis, &input, step.loss));
  must(gradcore_diagnosis_judge(diagnosis, optimizer, &judgement));
  must(gradcore_net_flow(net, 1, &flow));
  must(gradcore_clip_grad_adaptive(net, 0.01, 1e-3));
  must(gradcore_net_forward(net, &input, 0, &y));
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
}

/* Every output of the first layer is infinite, and none has a share in its mean. */
static void overflow(void) {
  const int64_t widths[] = {2, 3, 1};
  const int32_t activations[] = {GRADCORE_IDENTITY};
  const gradcore_net_config config = {sizeof config, widths, 3, activations, 0, 0, 0, GRADCORE_FLOAT32};
  const float inputs[] = {2, 3}, values[] = {0};
  const gradcore_matrix input = {inputs, 1, 2, 2};
  const gradcore_target_data target = {NULL, {values, 1, 1, 1}, 0};
  gradcore_net *net = NULL;
  gradcore_diagnosis *diagnosis = NULL;
  gradcore_judgement judgement = {.size = sizeof judgement};
  double loss;
  must(gradcore_net_create(&config, &net));
  for (int i = 0; i < 6; i++) ((float *)gradcore_net_parameters(net))[i] = 3e38f;
  gradcore_net_parameters_changed(net);
  must(gradcore_diagnosis_create(net, GRADCORE_MSE, &diagnosis));
  must(gradcore_net_loss_and_gradients(net, &input, &target, GRADCORE_MSE, 1, &loss));
  must(gradcore_diagnosis_add(diagnosis, &input, loss));
  must(gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_net_destroy(net);
}

/* Even what is refused. */
static void pass_nan(void) {
  const double nan = strtod("nan", NULL);
  const gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0.99, 0.9, nan, 1e-8};
  const gradcore_matrix input = {&x, ROWS, IN, IN};
  const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, ROWS};
  gradcore_net *net = new_net(GRADCORE_FLOAT32, GRADCORE_TANH, 0, GRADCORE_INIT_AUTO);
  gradcore_optimizer_config sgd = {sizeof sgd, GRADCORE_SGD, 0, nan, 0, 0, 0, 0, 0, 0};
  gradcore_optimizer *optimizer = NULL;
  gradcore_step step;
  void *const array = &y;
  const int64_t size = ROWS;
  int accepted = !gradcore_optimizer_create(net, &adam, &optimizer) + !gradcore_optimizer_create(net, &sgd, &optimizer);
  sgd.lr = 0.01;
  must(gradcore_optimizer_create(net, &sgd, &optimizer));
  accepted += !gradcore_optimizer_set_lr(optimizer, nan) + !gradcore_optimizer_step(optimizer, nan, 0, 0, &step);
  accepted += !gradcore_net_train_step(net, &input, &target, 0, optimizer, 0, nan, 0, &step);
  accepted += !gradcore_clip_grad_adaptive(net, nan, nan) + !gradcore_clip_grad_value(0, &array, &size, 1, nan);
  accepted += !gradcore_clip_grad_norm(0, &array, &size, 1, nan, 2, 0, NULL);
  accepted += !gradcore_op_layer_norm(0, &input, &x, &x, 0, nan, &y, &y, &y);
  if (accepted != 0) exit(4);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
}

static void use_ops(int32_t dtype, int32_t activation) {
  gradcore_array_stats stats;
  must(gradcore_op_activation(dtype, activation, &x, ROWS * HIDDEN, &y));
  must(gradcore_op_activation_backward(dtype, activation, &x, &x, ROWS * HIDDEN, &y));
  must(gradcore_op_array_stats(dtype, &x, ROWS * HIDDEN, &stats, bins));
}

int main(void) {
  check_weights();
  const int wanted = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
  for (int i = 0; i < ROWS; i++) labels[i] = i % CLASSES;
  for (int32_t target = 0; target < gradcore_num_targets(); target++) {
    if (!gradcore_target_supported(target)) continue;
    must(gradcore_set_target(gradcore_target_name(target)));
    for (int32_t dtype = 0; dtype < 3; dtype++) {
      for (int i = 0; i < ROWS * HIDDEN; i++)
        if (dtype == GRADCORE_FLOAT64)
          x.f64[i] = i * 37 % 101 * 4. - 200;
        else
          x.f32[i] = (float)(i * 37 % 101) * 4 - 200;
      feclearexcept(FE_ALL_EXCEPT);
      if (feenableexcept(wanted) == -1) return puts("this CPU traps nothing") == EOF;
      pass_nan();
      overflow();
      for (int32_t activation = 0; activation < GRADCORE_NUM_ACTIVATIONS; activation++) {
        for (int32_t normalization = 0; normalization < 4; normalization++) use_net(dtype, activation, normalization);
        if (dtype != GRADCORE_BFLOAT16) use_ops(dtype, activation);
      }
      if (fegetexcept() != wanted || fetestexcept(wanted)) return 3;
      fedisableexcept(FE_ALL_EXCEPT);
    }
  }
  puts("the host's own affair");
  return 0;
}
