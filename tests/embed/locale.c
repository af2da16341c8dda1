/* What the library writes for people and files, in the locale of the arguments: a message, findings, a saved net. */
#include <gradcore/gradcore.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "must.h"

enum { WIDTH = 32, DEPTH = 20, ROWS = 64 };

static gradcore_net *new_net(void) {
  int64_t widths[DEPTH];
  int32_t activations[DEPTH];
  for (int i = 0; i < DEPTH; i++) widths[i] = WIDTH, activations[i] = GRADCORE_SIGMOID;
  const gradcore_net_config config = {sizeof config, widths, DEPTH, activations, 0, 0, 1, GRADCORE_FLOAT32};
  gradcore_net *net = NULL;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_initialize(net, GRADCORE_INIT_GLOROT_NORMAL, 1));
  return net;
}

static void print_findings(gradcore_net *net) {
  static float x[ROWS * WIDTH];
  static int64_t labels[ROWS];
  for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i * 37 % 101) * 0.04f - 2;
  for (int i = 0; i < ROWS; i++) labels[i] = i % WIDTH;
  const gradcore_matrix input = {x, ROWS, WIDTH, WIDTH};
  const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, ROWS};
  gradcore_diagnosis *diagnosis = NULL;
  gradcore_judgement judgement = {.size = sizeof judgement};
  double loss = 0;
  must(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis));
  must(gradcore_net_loss_and_gradients(net, &input, &target, GRADCORE_CROSS_ENTROPY, 1, &loss));
  must(gradcore_diagnosis_add(diagnosis, &input, loss));
  must(gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  for (int32_t i = 0; i < judgement.num_findings; i++) {
    gradcore_finding finding = {.size = sizeof finding};
    must(gradcore_diagnosis_finding(diagnosis, i, &finding));
    puts(finding.explanation);
  }
  gradcore_diagnosis_destroy(diagnosis);
}

int main(int argc, char **argv) {
  char number[16];
  if (argc != 4 || !setlocale(LC_ALL, argv[1])) return 2;
  const char *point = argv[2], *path = argv[3];
  snprintf(number, sizeof number, "%g", 0.5);
  if (number[1] != point[0]) return 3;

  gradcore_net *net = new_net(), *loaded = NULL;
  if (gradcore_clip_grad_adaptive(net, -0.5, 0) != GRADCORE_INVALID_ARGUMENT) return 4;
  puts(gradcore_last_error());
  print_findings(net);
  must(gradcore_net_save(net, path));
  must(gradcore_net_load(path, &loaded));
  snprintf(number, sizeof number, "%g", 0.5);
  if (number[1] != point[0]) return 5; /* the host's locale is as it was */
  gradcore_net_destroy(loaded);
  gradcore_net_destroy(net);
  return 0;
}
