/* The stride of a single row may be any number, as gradcore.h says. A pointer that adds it, even one that nobody reads
 * through, is an error to UBSan, with which CI runs this. */
#include <gradcore/gradcore.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "must.h"

enum { IN = 7, HIDDEN = 9, OUT = 5, MOST = HIDDEN * HIDDEN };

static float x[MOST];
static struct {
  float output[MOST], grad_input[MOST], grad_weight[MOST], columns[2][MOST];
  double loss;
  gradcore_step step;
} results;

static void use_net(int32_t normalization, int64_t stride) {
  const int64_t widths[] = {IN, HIDDEN, OUT};
  const int32_t activations[] = {GRADCORE_GELU};
  const gradcore_net_config config = {sizeof config, widths, 3, activations, normalization, 1, 1, GRADCORE_FLOAT32};
  const gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0.99, 0.9, 0.999, 1e-8};
  const gradcore_matrix input = {x, 1, IN, stride}, values = {x, 1, OUT, stride};
  const gradcore_output_matrix output = {results.output, 1, OUT, stride}, into = {results.grad_input, 1, IN, stride};
  const gradcore_target_data target = {NULL, values, 0};
  gradcore_net *net = NULL;
  gradcore_optimizer *optimizer = NULL;
  gradcore_diagnosis *diagnosis = NULL;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_initialize(net, GRADCORE_INIT_AUTO, 1));
  must(gradcore_optimizer_create(net, &adam, &optimizer));
  must(gradcore_diagnosis_create(net, GRADCORE_MSE, &diagnosis));
  must(gradcore_net_forward_into(net, &input, 1, &output));
  must(gradcore_net_backward_into(net, &values, &into));
  must(gradcore_net_loss_and_gradients(net, &input, &target, GRADCORE_MSE, 1, &results.loss));
  must(gradcore_diagnosis_add(diagnosis, &input, results.loss));
  must(gradcore_net_train_step(net, &input, &target, GRADCORE_MSE, optimizer, 1, 1, 0, &results.step));
  must(gradcore_net_loss(net, &input, &target, GRADCORE_MSE, &results.loss));
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
}

static void use_ops(int64_t stride) {
  const gradcore_matrix row = {x, 1, HIDDEN, stride}, grad = {x, 1, OUT, stride}, weight = {x, OUT, HIDDEN, HIDDEN};
  const gradcore_target_data target = {NULL, row, 0};
  must(gradcore_op_dense(0, &row, &row, x, results.output));
  must(
      gradcore_op_dense_backward(0, &grad, &row, &weight, results.grad_input, results.grad_weight, results.columns[0]));
  must(gradcore_op_layer_norm(0, &row, x, x, 0, 1e-5, results.output, results.columns[0], results.columns[1]));
  must(gradcore_op_layer_norm_backward(0, &row, &row, x, results.columns[0], results.columns[1], 0, results.grad_input,
                                       results.grad_weight, results.output));
  must(
      gradcore_op_batch_norm_backward(0, &row, &row, x, x, x, results.grad_input, results.grad_weight, results.output));
  must(gradcore_op_loss(0, GRADCORE_MSE, &row, &target, &results.loss, results.output));
}

int main(void) {
  const int64_t strides[] = {HIDDEN, 0, -1, INT64_MIN, INT64_MAX, INT64_MAX / 4};
  const int32_t normalizations[] = {GRADCORE_NORM_NONE, GRADCORE_NORM_LAYER, GRADCORE_NORM_RMS};
  static char expected[4][sizeof results];
  for (int i = 0; i < MOST; i++) x[i] = sinf((float)i);
  for (int s = 0; s < 6; s++)
    for (int call = 0; call < 4; call++) {
      memset(&results, 0, sizeof results);
      if (call < 3)
        use_net(normalizations[call], strides[s]);
      else
        use_ops(strides[s]);
      if (s == 0) memcpy(expected[call], &results, sizeof results);
      if (memcmp(expected[call], &results, sizeof results) != 0) return 2;
    }
  puts("any stride");
  return 0;
}
