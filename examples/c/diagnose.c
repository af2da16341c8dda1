/* Tells whether the gradients of a design vanish or explode, before training:
 *
 *   diagnose sigmoid 12      a net of 12 hidden layers of 64 units
 *
 * Prints the verdict, the slope with its healthy band, and every finding. Exits with 0 for a healthy design. */
#include <gradcore/gradcore.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEATURES = 20, CLASSES = 5, WIDTH = 64, BATCH = 64, BATCHES = 8, MOST_LAYERS = 500 };

static void check(gradcore_status status) {
  if (status == GRADCORE_OK) return;
  fprintf(stderr, "diagnose: %s\n", gradcore_last_error());
  exit(2);
}

/* The next number of a fixed sequence, uniform in [-1.7, 1.7] with mean square 1. */
static float next_input(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) * (3.4641016f / 16777216.0f) - 1.7320508f;
}

static gradcore_net *make_net(int32_t activation, int32_t hidden) {
  static int64_t widths[MOST_LAYERS + 2];
  static int32_t activations[MOST_LAYERS];
  for (int32_t l = 0; l < hidden; l++) widths[l + 1] = WIDTH, activations[l] = activation;
  widths[0] = FEATURES, widths[hidden + 1] = CLASSES;
  const gradcore_net_config config = {.size = sizeof config,
                                      .widths = widths,
                                      .num_widths = hidden + 2,
                                      .activations = activations,
                                      .bias = 1,
                                      .dtype = GRADCORE_FLOAT32};
  gradcore_net *net;
  check(gradcore_net_create(&config, &net));
  check(gradcore_net_initialize(net, GRADCORE_INIT_AUTO, 0));
  return net;
}

/* Records a few batches, and adds each to the diagnosis. */
static void measure(gradcore_net *net, gradcore_diagnosis *diagnosis) {
  static float x[BATCH * FEATURES];
  static int64_t labels[BATCH];
  const gradcore_matrix input = {x, BATCH, FEATURES, FEATURES};
  const gradcore_target_data target = {.labels = labels, .num_labels = BATCH};
  uint32_t state = 1;
  for (int batch = 0; batch < BATCHES; batch++) {
    for (int i = 0; i < BATCH * FEATURES; i++) x[i] = next_input(&state);
    for (int i = 0; i < BATCH; i++) labels[i] = x[i * FEATURES] > 0; /* the sign of the first input */
    double loss;
    check(gradcore_net_loss_and_gradients(net, &input, &target, GRADCORE_CROSS_ENTROPY, 1, &loss));
    check(gradcore_diagnosis_add(diagnosis, &input, loss));
  }
}

static void print_findings(const gradcore_diagnosis *diagnosis, const gradcore_judgement *judgement) {
  printf("%s: ", gradcore_verdict_name(judgement->verdict));
  if (isnan(judgement->systematic))
    printf("too few layers for a slope\n");
  else
    printf("slope %+.3f per layer, 95 %% interval %+.3f to %+.3f, healthy within +-%.3f\n", judgement->systematic,
           judgement->systematic_low, judgement->systematic_high, judgement->band);
  for (int32_t i = 0; i < judgement->num_findings; i++) {
    gradcore_finding finding = {.size = sizeof finding};
    check(gradcore_diagnosis_finding(diagnosis, i, &finding));
    const char *cause = gradcore_cause_name(finding.cause);
    printf("[%s] %s, %d layers, cause: %s\n    %s\n", gradcore_severity_name(finding.severity),
           gradcore_finding_kind_name(finding.kind), (int)finding.num_layers, cause ? cause : "none",
           finding.explanation);
  }
}

int main(int argc, char **argv) {
  int32_t activation = 0;
  const int32_t hidden = argc == 3 ? (int32_t)strtol(argv[2], NULL, 10) : 0;
  while (argc == 3 && activation < GRADCORE_NUM_ACTIVATIONS && strcmp(argv[1], gradcore_activation_name(activation)))
    activation++;
  if (hidden < 1 || hidden > MOST_LAYERS || activation == GRADCORE_NUM_ACTIVATIONS) {
    fprintf(stderr, "usage: diagnose ACTIVATION HIDDEN_LAYERS (an activation's name, and 1 to %d)\n", MOST_LAYERS);
    return 2;
  }
  gradcore_net *net = make_net(activation, hidden);
  gradcore_diagnosis *diagnosis;
  gradcore_judgement judgement = {.size = sizeof judgement};
  check(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis));
  measure(net, diagnosis);
  check(gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  print_findings(diagnosis, &judgement);
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_net_destroy(net);
  return judgement.verdict != GRADCORE_VERDICT_HEALTHY;
}
