/* Continues the training of a net from its file and that of its optimizer for some steps, and writes both files again.
 *   resume KIND STEPS [net.safetensors, optimizer.safetensors, x.bin, labels.bin in the working directory]
 * KIND: gradcore_optimizer_kind. Without an optimizer file the training begins. Step i is on batch i. */
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <stdlib.h>

#include "must.h"

enum { BATCH = 12 };

static void *read_file(const char *path, int64_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END) != 0 || (*size = ftell(file)) < 0) exit(2);
  void *bytes = malloc((size_t)*size);
  rewind(file);
  if (!bytes || fread(bytes, 1, (size_t)*size, file) != (size_t)*size || fclose(file) != 0) exit(2);
  return bytes;
}

static int exists(const char *path) {
  FILE *file = fopen(path, "rb");
  return file && fclose(file) == 0;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  gradcore_net *net;
  must(gradcore_net_load("net.safetensors", &net));
  gradcore_net_config config = {.size = sizeof config};
  must(gradcore_net_get_config(net, &config));
  const int32_t kind = atoi(argv[1]);
  const gradcore_optimizer_config rule = {.size = sizeof rule,
                                          .kind = kind,
                                          .lr = 0.01,
                                          .momentum = kind == GRADCORE_SGD || kind == GRADCORE_RMSPROP ? 0.9 : 0,
                                          .weight_decay = 0.01,
                                          .alpha = 0.99,
                                          .beta1 = 0.9,
                                          .beta2 = 0.999,
                                          .eps = 1e-8};
  gradcore_optimizer *optimizer;
  must(gradcore_optimizer_create(net, &rule, &optimizer));
  if (exists("optimizer.safetensors")) must(gradcore_optimizer_load(optimizer, "optimizer.safetensors"));

  int64_t x_size, labels_size;
  char *x = read_file("x.bin", &x_size);
  int64_t *labels = read_file("labels.bin", &labels_size);
  const int64_t cols = config.widths[0], row_bytes = cols * (config.dtype == GRADCORE_FLOAT64 ? 8 : 4);
  for (int steps = atoi(argv[2]); steps > 0; steps--) {
    const int64_t first = gradcore_optimizer_get_step(optimizer) * BATCH;
    if ((first + BATCH) * row_bytes > x_size) return 2;
    const gradcore_matrix input = {x + first * row_bytes, BATCH, cols, cols};
    const gradcore_target_data target = {.labels = labels + first, .num_labels = BATCH};
    gradcore_step step;
    must(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 1.0, 0.0, 0, &step));
  }
  must(gradcore_net_save(net, "net.safetensors"));
  must(gradcore_optimizer_save(optimizer, "optimizer.safetensors"));
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  free(x), free(labels);
  return 0;
}
