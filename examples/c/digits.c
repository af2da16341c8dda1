/* Trains a net on a CSV of handwritten digits, and prints the gradients of each layer.
 *
 *   digits FILE.csv    rows of numbers, the label last; a header line is skipped
 *
 * Every fifth row is held out. The exit code is 0 if the accuracy on these rows is above 95 %. */
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 4, WIDTH = 64, CLASSES = 10, BATCH = 32, EPOCHS = 25, MAX_LINE = 1 << 16 };

static void check(gradcore_status status) {
  if (status == GRADCORE_OK) return;
  fprintf(stderr, "digits: %s\n", gradcore_last_error());
  exit(2);
}

static void *allocate(void *memory, size_t count, size_t size) {
  memory = realloc(memory, count * size);
  if (!memory) {
    fprintf(stderr, "digits: out of memory\n");
    exit(2);
  }
  return memory;
}

/* ---- data ---- */

typedef struct table {
  float *x; /* [rows, cols] */
  int64_t *labels;
  int64_t rows, cols;
} table;

static void append(table *t, const float *row, int64_t cols, int64_t label) {
  t->cols = cols;
  t->x = allocate(t->x, (size_t)((t->rows + 1) * cols), sizeof *t->x);
  t->labels = allocate(t->labels, (size_t)(t->rows + 1), sizeof *t->labels);
  memcpy(t->x + t->rows * cols, row, (size_t)cols * sizeof *row);
  t->labels[t->rows++] = label;
}

/* Reads the numbers of a line; returns their count, 0 if the line has anything else. */
static int64_t parse(const char *line, float *values) {
  int64_t count = 0;
  for (;;) {
    char *end;
    values[count] = strtof(line, &end);
    if (end == line) return 0;
    count++;
    if (*end != ',') return count;
    line = end + 1;
  }
}

static void read_csv(const char *path, table *train, table *test) {
  static char line[MAX_LINE];
  static float values[MAX_LINE / 2];
  FILE *file = fopen(path, "r");
  if (!file) {
    perror(path);
    exit(2);
  }
  for (int64_t row = 0; fgets(line, sizeof line, file);) {
    const int64_t cols = parse(line, values) - 1;
    if (cols < 1) continue;
    if (train->rows && cols != train->cols) {
      fprintf(stderr, "%s: expected %lld columns as in the first row, got %lld\n", path, (long long)train->cols + 1,
              (long long)cols + 1);
      exit(2);
    }
    for (int64_t i = 0; i < cols; i++) values[i] = values[i] / 8 - 1; /* pixels 0..16 */
    append(++row % 5 ? train : test, values, cols, (int64_t)values[cols]);
  }
  fclose(file);
}

static uint64_t random_state = 0x9e3779b97f4a7c15u;

/* xorshift64*: Vigna 2016, arXiv:1402.6246. */
static uint64_t random_bits(void) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1du;
}

static void shuffle(int64_t *order, int64_t count) {
  for (int64_t i = count - 1; i > 0; i--) {
    const int64_t j = (int64_t)(random_bits() % (uint64_t)(i + 1)), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

/* ---- net ---- */

static gradcore_net *make_net(int64_t in_features) {
  int64_t widths[HIDDEN + 2];
  int32_t activations[HIDDEN];
  widths[0] = in_features;
  for (int i = 0; i < HIDDEN; i++) {
    widths[i + 1] = WIDTH;
    activations[i] = GRADCORE_RELU;
  }
  widths[HIDDEN + 1] = CLASSES;
  gradcore_net_config config = {.size = sizeof config,
                                .widths = widths,
                                .num_widths = HIDDEN + 2,
                                .activations = activations,
                                .normalization = GRADCORE_NORM_BATCH,
                                .bias = 1,
                                .dtype = GRADCORE_FLOAT32};
  gradcore_net *net;
  check(gradcore_net_create(&config, &net));
  check(gradcore_net_initialize(net, GRADCORE_INIT_AUTO, 0));
  return net;
}

/* One pass over the rows in a new order; returns the mean loss. The last step is recorded. */
static double train_epoch(gradcore_net *net, gradcore_optimizer *optimizer, const table *data, int64_t *order) {
  static int64_t labels[BATCH];
  float *x = allocate(NULL, (size_t)(BATCH * data->cols), sizeof *x);
  double sum = 0;
  const int64_t steps = data->rows / BATCH;
  shuffle(order, data->rows);
  for (int64_t s = 0; s < steps; s++) {
    for (int64_t i = 0; i < BATCH; i++) {
      const int64_t row = order[s * BATCH + i];
      memcpy(x + i * data->cols, data->x + row * data->cols, (size_t)data->cols * sizeof *x);
      labels[i] = data->labels[row];
    }
    const gradcore_matrix input = {x, BATCH, data->cols, data->cols};
    const gradcore_target_data target = {.labels = labels, .num_labels = BATCH};
    gradcore_step step;
    check(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 1.0, 0.0, s == steps - 1,
                                  &step));
    sum += step.loss;
  }
  free(x);
  return sum / (double)steps;
}

static double accuracy(gradcore_net *net, const table *data) {
  float *output = allocate(NULL, (size_t)(data->rows * CLASSES), sizeof *output);
  const gradcore_matrix input = {data->x, data->rows, data->cols, data->cols};
  int64_t right = 0;
  check(gradcore_net_forward(net, &input, 0, output));
  for (int64_t row = 0; row < data->rows; row++) {
    const float *logits = output + row * CLASSES;
    int64_t best = 0;
    for (int64_t c = 1; c < CLASSES; c++)
      if (logits[c] > logits[best]) best = c;
    right += best == data->labels[row];
  }
  free(output);
  return (double)right / (double)data->rows;
}

static void print_layers(const gradcore_net *net) {
  printf("layer   |delta|      |dW|         |update|/|W|   dead units\n");
  for (int32_t l = 0; l < gradcore_net_num_flow_layers(net); l++) {
    gradcore_layer_flow flow;
    check(gradcore_net_flow(net, l, &flow));
    printf("%-7d %-12.3e %-12.3e %-14.3e %lld\n", (int)l, flow.delta.norm, flow.weight_grad.norm,
           flow.update_norm / flow.weight_norm, (long long)flow.dead_units);
  }
}

int main(int argc, char **argv) {
  table train = {0}, test = {0};
  if (argc != 2) {
    fprintf(stderr, "usage: digits FILE.csv\n");
    return 2;
  }
  read_csv(argv[1], &train, &test);
  if (train.rows < BATCH || test.rows < 1) {
    fprintf(stderr, "%s: expected at least 40 rows of numbers, got %lld\n", argv[1],
            (long long)(train.rows + test.rows));
    return 2;
  }
  int64_t *order = allocate(NULL, (size_t)train.rows, sizeof *order);
  for (int64_t i = 0; i < train.rows; i++) order[i] = i;

  gradcore_net *net = make_net(train.cols);
  gradcore_optimizer *optimizer;
  const gradcore_optimizer_config adam = {
      .size = sizeof adam, .kind = GRADCORE_ADAM, .lr = 2e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
  check(gradcore_optimizer_create(net, &adam, &optimizer));
  for (int epoch = 1; epoch <= EPOCHS; epoch++) {
    const double loss = train_epoch(net, optimizer, &train, order);
    if (epoch % 5 == 0) printf("epoch %2d   loss %.4f\n", epoch, loss);
  }
  print_layers(net);
  const double share = accuracy(net, &test);
  printf("held-out accuracy %.2f%% of %lld rows\n", 100 * share, (long long)test.rows);

  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  free(order);
  free(train.x), free(train.labels), free(test.x), free(test.labels);
  return share > 0.95 ? 0 : 1;
}
