/* Labels, with whatever the memory beside them holds: under valgrind, nothing that is uninitialized may decide. */
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 5, IN = 4, OUT = 3 };

static void must(gradcore_status status) {
  if (status == GRADCORE_OK) return;
  fprintf(stderr, "%s\n", gradcore_last_error());
  exit(1);
}

int main(void) {
  const int64_t widths[] = {IN, OUT}, labels[ROWS] = {0, 1, 2, 1, 0};
  const float x[ROWS * IN] = {1, -1};
  const gradcore_net_config config = {sizeof config, widths, 2, NULL, 0, 0, 1, GRADCORE_FLOAT32};
  const gradcore_matrix input = {x, ROWS, IN, IN};
  float output[ROWS * OUT];
  const gradcore_matrix outputs = {output, ROWS, OUT, OUT};
  gradcore_target_data *target = malloc(sizeof *target);
  gradcore_net *net = NULL;
  double loss, gradients_loss, op_loss;
  if (!target) return 2;
  target->labels = labels;
  target->num_labels = ROWS;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_loss(net, &input, target, GRADCORE_CROSS_ENTROPY, &loss));
  must(gradcore_net_loss_and_gradients(net, &input, target, GRADCORE_CROSS_ENTROPY, 0, &gradients_loss));
  must(gradcore_net_forward(net, &input, 0, output));
  must(gradcore_op_loss(GRADCORE_FLOAT32, GRADCORE_CROSS_ENTROPY, &outputs, target, &op_loss, NULL));
  printf("%.4f %.4f %.4f\n", loss, gradients_loss, op_loss);
  gradcore_net_destroy(net);
  free(target);
  return 0;
}
