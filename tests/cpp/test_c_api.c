/* The C interface in C: every function refuses wrong arguments with a status and a sentence, and changes nothing;
 * configurations of other versions; the caller's own threads. */
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gradcore/gradcore.h"

static long passed, failed;

static void check(int ok, const char *what, int line) {
  if (ok) {
    passed++;
  } else if (++failed <= 50) {
    fprintf(stderr, "%s:%d: failed: %s (last error: %s)\n", __FILE__, line, what, gradcore_last_error());
  }
}
#define CHECK(condition) check(!!(condition), #condition, __LINE__)

/* With --list, prints the call and text of every refusal; tests/test_embedding.py compares them with the header. */
static int listing;
static const char *called = ""; /* the name of the function that a pointer `call` points to */

/* The call fails with `status` and a new text; the previous text is one that no function writes. */
static void refused(gradcore_status got, gradcore_status expected, const char *what, int line) {
  const char *text = gradcore_last_error();
  if (listing) printf("%s %s\t%s\n", strncmp(what, "call(", 5) ? "" : called, what, text);
  check(got == expected && strlen(text) > 15 && !strstr(text, "(null)") && !strstr(text, "'mark'"), what, line);
}
static void mark(void) { gradcore_set_target("mark"); }
#define REFUSED_AS(expected, call) (mark(), refused((call), (expected), #call, __LINE__))
#define REFUSED(call) REFUSED_AS(GRADCORE_INVALID_ARGUMENT, call)

enum { IN = 4, HIDDEN = 6, OUT = 3, ROWS = 5 };

static const int64_t WIDTHS[] = {IN, HIDDEN, HIDDEN, OUT};
static const int32_t ACTIVATIONS[] = {GRADCORE_TANH, GRADCORE_RELU};

static gradcore_net_config net_config(void) {
  gradcore_net_config config = {sizeof config, WIDTHS, 4, ACTIVATIONS, GRADCORE_NORM_BATCH, 1, 1, GRADCORE_FLOAT32};
  return config;
}

static gradcore_net *new_net(void) {
  const gradcore_net_config config = net_config();
  gradcore_net *net = NULL;
  CHECK(gradcore_net_create(&config, &net) == GRADCORE_OK && net);
  CHECK(gradcore_net_initialize(net, GRADCORE_INIT_AUTO, 3) == GRADCORE_OK);
  return net;
}

static gradcore_optimizer_config adam(void) {
  gradcore_optimizer_config config = {sizeof config, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0.99, 0.9, 0.999, 1e-8};
  return config;
}

static float x[ROWS * IN], output[ROWS * OUT];
static int64_t labels[ROWS];

static gradcore_matrix matrix(void *data, int64_t rows, int64_t cols) {
  const gradcore_matrix result = {data, rows, cols, cols};
  return result;
}
static gradcore_target_data target(void) {
  gradcore_target_data result = {labels, {NULL, 0, 0, 0}, ROWS};
  return result;
}

/* ---- configurations ---- */

static void check_net_configs(void) {
  gradcore_net *net = (gradcore_net *)&net;
  gradcore_net_config c = net_config();
  REFUSED(gradcore_net_create(NULL, &net));
  CHECK(net == NULL);
  REFUSED(gradcore_net_create(&c, NULL));
#define REFUSED_WITH(member, value) (c = net_config(), c.member = (value), REFUSED(gradcore_net_create(&c, &net)))
  REFUSED_WITH(size, 0);
  REFUSED_WITH(size, sizeof c - 1);
  REFUSED_WITH(size, SIZE_MAX);
  REFUSED_WITH(widths, NULL);
  c = net_config(), c.widths = NULL, c.num_widths = 0; /* an empty list, as C++ hands it over */
  REFUSED(gradcore_net_create(&c, &net));
  CHECK(strstr(gradcore_last_error(), "at least 2"));
  REFUSED_WITH(num_widths, 1);
  REFUSED_WITH(num_widths, -1);
  REFUSED_WITH(activations, NULL);
  REFUSED_WITH(normalization, 4);
  REFUSED_WITH(normalization, -1);
  REFUSED_WITH(residual, 2);
  REFUSED_WITH(bias, -1);
  REFUSED_WITH(dtype, 3);
  REFUSED_WITH(dtype, -1);
#undef REFUSED_WITH
  static const int64_t wrong[][4] = {{0, 2, 2, 2}, {2, -1, 2, 2}, {2, 2, 2, INT64_MAX}, {2, 1 << 24, 1 << 24, 2}};
  for (int i = 0; i < 4; i++) {
    c = net_config(), c.widths = wrong[i];
    REFUSED(gradcore_net_create(&c, &net));
  }
  static const int32_t unknown[] = {GRADCORE_RELU, GRADCORE_NUM_ACTIVATIONS}, negative[] = {-1, 0};
  c = net_config(), c.activations = unknown;
  REFUSED(gradcore_net_create(&c, &net));
  c.activations = negative;
  REFUSED(gradcore_net_create(&c, &net));
  CHECK(net == NULL);
}

/* A caller compiled against a later header, with members that this library does not know. */
static void check_longer_configs(void) {
  struct {
    gradcore_net_config known;
    char more[40];
  } later = {net_config(), {0}};
  later.known.size = sizeof later;
  gradcore_net *net = NULL;
  CHECK(gradcore_net_create(&later.known, &net) == GRADCORE_OK);
  gradcore_net_destroy(net);
  later.more[39] = 1;
  REFUSED(gradcore_net_create(&later.known, &net));
  CHECK(net == NULL);
}

static void check_optimizer_configs(gradcore_net *net) {
  gradcore_optimizer *optimizer = (gradcore_optimizer *)&optimizer;
  gradcore_optimizer_config c = adam();
  REFUSED(gradcore_optimizer_create(NULL, &c, &optimizer));
  REFUSED(gradcore_optimizer_create(net, NULL, &optimizer));
  CHECK(optimizer == NULL);
  REFUSED(gradcore_optimizer_create(net, &c, NULL));
#define REFUSED_WITH(member, value) \
  (c = adam(), c.member = (value), REFUSED(gradcore_optimizer_create(net, &c, &optimizer)))
  REFUSED_WITH(size, 1);
  REFUSED_WITH(size, SIZE_MAX / 2);
  REFUSED_WITH(kind, -1);
  REFUSED_WITH(kind, GRADCORE_NUM_OPTIMIZERS);
  REFUSED_WITH(nesterov, 2);
  REFUSED_WITH(nesterov, 1); /* without a momentum */
  REFUSED_WITH(lr, -1);
  REFUSED_WITH(lr, NAN);
  REFUSED_WITH(lr, INFINITY);
  REFUSED_WITH(momentum, -0.5);
  REFUSED_WITH(weight_decay, NAN);
  REFUSED_WITH(alpha, 1);
  REFUSED_WITH(beta1, 1);
  REFUSED_WITH(beta2, -0.1);
  REFUSED_WITH(eps, 0);
  REFUSED_WITH(eps, NAN);
  REFUSED_WITH(eps, INFINITY);
  REFUSED_WITH(eps, 1e-38); /* subnormal in float32 */
#undef REFUSED_WITH
}

/* ---- library, net, optimizer: no handle, and handles in the wrong state ---- */

static void check_library(void) {
  CHECK(gradcore_version()[0] != '\0' && gradcore_abi_version() == GRADCORE_ABI_VERSION);
  CHECK(!gradcore_activation_name(-1) && !gradcore_activation_name(GRADCORE_NUM_ACTIVATIONS));
  CHECK(!gradcore_loss_name(-1) && !gradcore_loss_name(GRADCORE_NUM_LOSSES));
  CHECK(!gradcore_initializer_name(-1) && !gradcore_initializer_name(GRADCORE_NUM_INITIALIZERS));
  CHECK(isnan(gradcore_critical_gain_squared(-1)) && isnan(gradcore_critical_gain_squared(GRADCORE_NUM_ACTIVATIONS)));
  CHECK(gradcore_num_targets() >= 1 && !gradcore_target_name(-1) && !gradcore_target_name(gradcore_num_targets()));
  CHECK(!gradcore_target_supported(-1) && !gradcore_target_supported(gradcore_num_targets()));
  REFUSED(gradcore_set_target(NULL));
  CHECK(gradcore_set_target("") == GRADCORE_INVALID_ARGUMENT);
  CHECK(gradcore_set_target(gradcore_target()) == GRADCORE_OK);
  CHECK(gradcore_has_bfloat16_products() == 0 || gradcore_has_bfloat16_products() == 1);
  REFUSED(gradcore_set_num_threads(0));
  REFUSED(gradcore_set_num_threads(INT32_MIN));
  CHECK(gradcore_get_num_threads() >= 1);
  CHECK(strlen(gradcore_num_threads_source()) > 0 && strcmp(gradcore_num_threads_source(), "set_num_threads"));
  CHECK(gradcore_set_num_threads(gradcore_get_num_threads()) == GRADCORE_OK);
  CHECK(!strcmp(gradcore_num_threads_source(), "set_num_threads"));
}

static void check_without_handles(void) {
  gradcore_tensor tensor;
  gradcore_layer_flow flow;
  gradcore_net_config config = net_config();
  gradcore_step step;
  double value;
  int64_t size, bins[GRADCORE_NUM_BINS_F32];
  const uint32_t word = 1;
  gradcore_net *net;
  const gradcore_matrix input = matrix(x, ROWS, IN), result = matrix(output, ROWS, OUT);
  const gradcore_target_data y = target();
  REFUSED(gradcore_net_get_config(NULL, &config));
  REFUSED(gradcore_net_set_origin(NULL, "auto", "0"));
  REFUSED(gradcore_net_initialize(NULL, 0, 0));
  REFUSED(gradcore_net_initialize_words(NULL, 0, &word, 1));
  REFUSED(gradcore_net_set_threads(NULL, NULL, NULL, 1));
  REFUSED(gradcore_net_parameter(NULL, 0, &tensor));
  REFUSED(gradcore_net_buffer(NULL, 0, &tensor));
  REFUSED(gradcore_net_forward(NULL, &input, 0, output));
  REFUSED(gradcore_net_backward(NULL, &result, NULL));
  REFUSED(gradcore_net_loss(NULL, &input, &y, 0, &value));
  REFUSED(gradcore_net_loss_and_gradients(NULL, &input, &y, 0, 0, &value));
  REFUSED(gradcore_net_train_step(NULL, &input, &y, 0, NULL, 0, 0, 0, &step));
  REFUSED(gradcore_optimizer_step(NULL, 0, 0, 0, &step));
  REFUSED(gradcore_optimizer_set_lr(NULL, 1));
  REFUSED(gradcore_net_flow(NULL, 0, &flow));
  REFUSED(gradcore_net_flow_histogram(NULL, 0, 0, bins));
  REFUSED(gradcore_clip_grad_adaptive(NULL, 0.01, 1e-3));
  REFUSED(gradcore_net_save(NULL, "/tmp/never"));
  REFUSED(gradcore_optimizer_save(NULL, "/tmp/never"));
  REFUSED(gradcore_optimizer_load(NULL, "/tmp/never"));
  REFUSED(gradcore_net_save_to_memory(NULL, NULL, 0, &size));
  REFUSED(gradcore_net_load(NULL, &net));
  REFUSED(gradcore_net_load("/tmp/never", NULL));
  REFUSED(gradcore_net_load_from_memory(NULL, 8, &net));
  REFUSED(gradcore_net_load_from_memory("", 0, NULL));
  REFUSED(gradcore_net_load_from_memory("", 0, &net));
  REFUSED(gradcore_net_load_from_memory("", -1, &net));
  REFUSED(gradcore_net_load_from_memory("\2\0\0\0\0\0\0\0[]", 10, &net));
  REFUSED_AS(GRADCORE_IO_ERROR, gradcore_net_load("/nowhere/at/all", &net));
  CHECK(!gradcore_net_init(NULL) && !gradcore_net_seed(NULL));
  CHECK(gradcore_net_num_parameters(NULL) == 0 && gradcore_net_num_buffers(NULL) == 0);
  CHECK(gradcore_net_flat_size(NULL) == 0 && gradcore_net_flat_buffer_size(NULL) == 0);
  CHECK(!gradcore_net_parameters(NULL) && !gradcore_net_gradients(NULL) && !gradcore_net_buffers(NULL));
  CHECK(gradcore_net_workspace_bytes(NULL) == 0 && gradcore_net_num_flow_layers(NULL) == 0);
  CHECK(gradcore_optimizer_num_states(NULL) == 0 && !gradcore_optimizer_state(NULL, 0));
  CHECK(gradcore_optimizer_get_step(NULL) == 0);
  gradcore_net_parameters_changed(NULL);
  gradcore_optimizer_set_step(NULL, 1);
  gradcore_optimizer_destroy(NULL);
  gradcore_net_destroy(NULL);
}

static void check_net(gradcore_net *net) {
  gradcore_tensor tensor;
  gradcore_net_config config = net_config();
  int64_t size;
  char small[8];
  const uint32_t words[] = {1, 0};
  config.size = 8;
  REFUSED(gradcore_net_get_config(net, &config));
  REFUSED(gradcore_net_get_config(net, NULL));
  REFUSED(gradcore_net_set_origin(net, NULL, NULL));
  REFUSED(gradcore_net_set_origin(net, "", NULL));
  REFUSED(gradcore_net_set_origin(net, "a\nb", NULL));
  CHECK(strstr(gradcore_last_error(), "got 3, some of another kind"));
  REFUSED(gradcore_net_set_origin(net, "auto", "-1"));
  REFUSED(gradcore_net_set_origin(net, "auto", "007"));
  REFUSED(gradcore_net_initialize(net, -1, 0));
  REFUSED(gradcore_net_initialize(net, GRADCORE_NUM_INITIALIZERS, 0));
  REFUSED(gradcore_net_initialize_words(net, GRADCORE_NUM_INITIALIZERS, words, 1));
  REFUSED(gradcore_net_initialize_words(net, 0, NULL, 1));
  REFUSED(gradcore_net_initialize_words(net, 0, words, 0));
  REFUSED(gradcore_net_initialize_words(net, 0, words, 2));
  REFUSED(gradcore_net_set_threads(net, NULL, NULL, -1));
  REFUSED(gradcore_net_parameter(net, -1, &tensor));
  REFUSED(gradcore_net_parameter(net, gradcore_net_num_parameters(net), &tensor));
  REFUSED(gradcore_net_parameter(net, 0, NULL));
  REFUSED(gradcore_net_buffer(net, -1, &tensor));
  REFUSED(gradcore_net_buffer(net, 0, NULL));
  REFUSED(gradcore_net_save(net, NULL));
  REFUSED_AS(GRADCORE_IO_ERROR, gradcore_net_save(net, "/nowhere/at/all"));
  REFUSED_AS(GRADCORE_IO_ERROR, gradcore_net_save(net, "/dev/full"));
  CHECK(strstr(gradcore_last_error(), "got a pipe or a device"));
  REFUSED(gradcore_net_save_to_memory(net, NULL, 0, NULL));
  REFUSED(gradcore_net_save_to_memory(net, small, sizeof small, &size));
  REFUSED(gradcore_clip_grad_adaptive(net, 0, 1e-3));
  REFUSED(gradcore_clip_grad_adaptive(net, NAN, 1e-3));
  REFUSED(gradcore_clip_grad_adaptive(net, 0.01, -1));
  config.size = sizeof config;
  CHECK(gradcore_net_get_config(net, &config) == GRADCORE_OK && config.num_widths == 4 && config.widths[1] == HIDDEN &&
        config.activations[1] == GRADCORE_RELU && config.residual == 1 && config.size == sizeof config);
  CHECK(!strcmp(gradcore_net_init(net), "auto") && !strcmp(gradcore_net_seed(net), "3"));
}

/* Outputs inside a larger array have the same bits as contiguous ones, and nothing between the rows changes. */
static void check_output_strides(gradcore_net *net) {
  enum { STRIDE = 9 };
  float y[ROWS * OUT], dx[ROWS * IN], wide_y[ROWS * STRIDE], wide_dx[ROWS * STRIDE], dy[ROWS * STRIDE];
  const gradcore_matrix input = matrix(x, ROWS, IN), grad = matrix(y, ROWS, OUT), wide_grad = {dy, ROWS, OUT, STRIDE};
  const gradcore_output_matrix into_y = {wide_y, ROWS, OUT, STRIDE}, into_dx = {wide_dx, ROWS, IN, STRIDE};
  for (int i = 0; i < ROWS * STRIDE; i++) wide_y[i] = wide_dx[i] = -77;
  CHECK(gradcore_net_forward(net, &input, 1, y) == GRADCORE_OK);
  CHECK(gradcore_net_backward(net, &grad, dx) == GRADCORE_OK);
  CHECK(gradcore_net_forward_into(net, &input, 1, &into_y) == GRADCORE_OK);
  memcpy(dy, wide_y, sizeof dy);
  CHECK(gradcore_net_backward_into(net, &wide_grad, &into_dx) == GRADCORE_OK);
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < STRIDE; c++) {
      CHECK(wide_y[r * STRIDE + c] == (c < OUT ? y[r * OUT + c] : -77));
      CHECK(wide_dx[r * STRIDE + c] == (c < IN ? dx[r * IN + c] : -77));
    }

  gradcore_output_matrix wrong;
  REFUSED(gradcore_net_forward_into(NULL, &input, 0, &into_y));
  REFUSED(gradcore_net_forward_into(net, NULL, 0, &into_y));
  REFUSED(gradcore_net_forward_into(net, &input, 0, NULL));
#define REFUSED_OUTPUT(member, value) \
  (wrong = into_y, wrong.member = (value), REFUSED(gradcore_net_forward_into(net, &input, 1, &wrong)))
  REFUSED_OUTPUT(data, NULL);
  REFUSED_OUTPUT(rows, ROWS + 1);
  REFUSED_OUTPUT(rows, 0);
  REFUSED_OUTPUT(cols, OUT - 1);
  REFUSED_OUTPUT(stride, OUT - 1);
#undef REFUSED_OUTPUT
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_net_backward_into(net, &wide_grad, NULL));
  CHECK(gradcore_net_forward_into(net, &input, 1, &into_y) == GRADCORE_OK);
  REFUSED(gradcore_net_backward_into(NULL, &wide_grad, &into_dx));
  REFUSED(gradcore_net_backward_into(net, NULL, &into_dx));
#define REFUSED_OUTPUT(member, value) \
  (wrong = into_dx, wrong.member = (value), REFUSED(gradcore_net_backward_into(net, &wide_grad, &wrong)))
  REFUSED_OUTPUT(data, NULL);
  REFUSED_OUTPUT(rows, ROWS - 1);
  REFUSED_OUTPUT(cols, IN + 1);
  REFUSED_OUTPUT(stride, -IN);
#undef REFUSED_OUTPUT
  CHECK(gradcore_net_backward_into(net, &wide_grad, NULL) == GRADCORE_OK);
}

/* All wrong shapes of a batch; `call` gets an input and a target, one of which is wrong. */
typedef gradcore_status (*batch_call)(gradcore_net *, const gradcore_matrix *, const gradcore_target_data *, int32_t);
static double value;
static gradcore_optimizer *optimizer;
static gradcore_step step;
static gradcore_status call_loss(gradcore_net *n, const gradcore_matrix *i, const gradcore_target_data *t, int32_t l) {
  return gradcore_net_loss(n, i, t, l, &value);
}
static gradcore_status call_gradients(gradcore_net *n, const gradcore_matrix *i, const gradcore_target_data *t,
                                      int32_t l) {
  return gradcore_net_loss_and_gradients(n, i, t, l, 1, &value);
}
static gradcore_status call_train(gradcore_net *n, const gradcore_matrix *i, const gradcore_target_data *t, int32_t l) {
  return gradcore_net_train_step(n, i, t, l, optimizer, 1.0, 0, 1, &step);
}

static void check_batches(gradcore_net *net, batch_call call, const char *function) {
  called = function;
  gradcore_matrix input = matrix(x, ROWS, IN);
  gradcore_target_data y = target();
  CHECK(call(net, &input, &y, GRADCORE_CROSS_ENTROPY) == GRADCORE_OK);
  REFUSED(call(net, NULL, &y, 0));
  REFUSED(call(net, &input, NULL, 0));
  REFUSED(call(net, &input, &y, -1));
  REFUSED(call(net, &input, &y, GRADCORE_NUM_LOSSES));
  REFUSED(call(net, &input, &y, GRADCORE_MSE)); /* expects values */
#define REFUSED_INPUT(member, wrong) \
  (input = matrix(x, ROWS, IN), input.member = (wrong), REFUSED(call(net, &input, &y, 0)))
  REFUSED_INPUT(data, NULL);
  REFUSED_INPUT(rows, 0);
  REFUSED_INPUT(rows, -1);
  REFUSED_INPUT(rows, ROWS - 1); /* not the target's */
  REFUSED_INPUT(cols, IN + 1);
  REFUSED_INPUT(stride, IN - 1);
  REFUSED_INPUT(stride, -IN);
#undef REFUSED_INPUT
  input = matrix(x, ROWS, IN);
  labels[ROWS - 1] = OUT;
  REFUSED(call(net, &input, &y, 0));
  labels[ROWS - 1] = -1;
  REFUSED(call(net, &input, &y, 0));
  labels[ROWS - 1] = 0;
  x[7] = NAN;
  REFUSED(call(net, &input, &y, 0));
  x[7] = INFINITY;
  REFUSED(call(net, &input, &y, 0));
  x[7] = 0.5f;
  y.labels = NULL;
  REFUSED(call(net, &input, &y, GRADCORE_MSE));
  CHECK(strstr(gradcore_last_error(), "expected labels or values"));
  y.values = matrix(output, ROWS, OUT + 1);
  REFUSED(call(net, &input, &y, GRADCORE_MSE));
  y.values = matrix(output, ROWS, OUT);
  output[2] = NAN;
  REFUSED(call(net, &input, &y, GRADCORE_MSE));
  output[2] = 0;
}

/* Refused calls leave parameters, statistics and gradients unchanged. */
static void check_passes(gradcore_net *net) {
  gradcore_matrix input = matrix(x, ROWS, IN), one = matrix(x, 1, IN), result = matrix(output, ROWS, OUT);
  const gradcore_target_data y = target();
  gradcore_layer_flow flow;
  int64_t bins[GRADCORE_NUM_BINS_F32], size = 0, size_after = 0;
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_net_flow(net, 0, &flow));
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_net_flow_histogram(net, 0, 0, bins));
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_net_backward(net, &result, NULL));
  check_batches(net, call_loss, "gradcore_net_loss");
  check_batches(net, call_gradients, "gradcore_net_loss_and_gradients");
  check_batches(net, call_train, "gradcore_net_train_step");
  CHECK(gradcore_net_save_to_memory(net, NULL, 0, &size) == GRADCORE_OK);
  char *before = malloc((size_t)size), *after = malloc((size_t)size);
  CHECK(gradcore_net_save_to_memory(net, before, size, &size) == GRADCORE_OK);
  REFUSED(gradcore_net_forward(net, NULL, 0, output));
  REFUSED(gradcore_net_forward(net, &input, 0, NULL));
  REFUSED(gradcore_net_forward(net, &one, 1, output)); /* batch norm of one row */
  REFUSED(gradcore_net_loss(net, &input, &y, 0, NULL));
  REFUSED(gradcore_net_loss_and_gradients(net, &input, &y, 0, 0, NULL));
  REFUSED(gradcore_net_train_step(net, &input, &y, 0, NULL, 0, 0, 0, &step));
  REFUSED(gradcore_net_train_step(net, &input, &y, 0, optimizer, 0, 0, 0, NULL));
  REFUSED(gradcore_net_train_step(net, &input, &y, 0, optimizer, -1, 0, 0, &step));
  REFUSED(gradcore_net_train_step(net, &input, &y, 0, optimizer, 0, NAN, 0, &step));
  REFUSED(gradcore_optimizer_step(optimizer, NAN, 0, 0, &step));
  REFUSED(gradcore_optimizer_step(optimizer, 0, -1, 0, &step));
  REFUSED(gradcore_optimizer_step(optimizer, 0, 0, 0, NULL));
  REFUSED(gradcore_optimizer_set_lr(optimizer, -1));
  REFUSED(gradcore_optimizer_set_lr(optimizer, NAN));
  REFUSED(gradcore_optimizer_save(optimizer, NULL));
  REFUSED(gradcore_optimizer_load(optimizer, NULL));
  REFUSED_AS(GRADCORE_IO_ERROR, gradcore_optimizer_save(optimizer, "/nowhere/at/all"));
  REFUSED_AS(GRADCORE_IO_ERROR, gradcore_optimizer_load(optimizer, "/nowhere/at/all"));
  CHECK(!gradcore_optimizer_state(optimizer, -1) && !gradcore_optimizer_state(optimizer, 2));
  gradcore_optimizer_set_step(optimizer, -5);
  CHECK(gradcore_optimizer_get_step(optimizer) == 0);
  gradcore_optimizer_set_step(optimizer, INT64_MAX);
  CHECK(gradcore_optimizer_get_step(optimizer) == INT64_C(1) << 53);
  gradcore_optimizer_set_step(optimizer, 0);
  gradcore_net *other = new_net();
  REFUSED(gradcore_net_train_step(other, &input, &y, 0, optimizer, 0, 0, 0, &step));
  gradcore_net_destroy(other);
  REFUSED(gradcore_net_flow(net, 3, &flow));
  REFUSED(gradcore_net_flow(net, -1, &flow));
  REFUSED(gradcore_net_flow(net, 0, NULL));
  REFUSED(gradcore_net_flow_histogram(net, 3, 0, bins));
  REFUSED(gradcore_net_flow_histogram(net, 0, 2, bins));
  REFUSED(gradcore_net_flow_histogram(net, 0, 0, NULL));
  CHECK(gradcore_net_save_to_memory(net, after, size, &size_after) == GRADCORE_OK);
  CHECK(size == size_after && memcmp(before, after, (size_t)size) == 0);
  free(before);
  free(after);

  CHECK(gradcore_net_forward(net, &input, 1, output) == GRADCORE_OK);
  result.rows = ROWS - 1;
  REFUSED(gradcore_net_backward(net, &result, NULL));
  REFUSED(gradcore_net_backward(net, NULL, NULL));
  result = matrix(output, ROWS, OUT);
  CHECK(gradcore_net_backward(net, &result, NULL) == GRADCORE_OK);
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_net_backward(net, &result, NULL)); /* only once per forward */
  ((float *)gradcore_net_gradients(net))[0] = NAN;
  REFUSED_AS(GRADCORE_NON_FINITE, gradcore_optimizer_step(optimizer, 1, 0, 0, &step));
}

/* ---- diagnosis ---- */

static void check_diagnosis_arguments(void) {
  gradcore_net *net = new_net(), *other = new_net();
  gradcore_diagnosis *diagnosis = (gradcore_diagnosis *)&diagnosis;
  gradcore_optimizer *others = NULL;
  const gradcore_optimizer_config kind = adam();
  const gradcore_matrix input = matrix(x, ROWS, IN), fewer = matrix(x, ROWS - 1, IN);
  gradcore_matrix wrong;
  const gradcore_target_data y = target();
  gradcore_judgement judgement = {sizeof judgement, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  gradcore_finding finding = {sizeof finding, 0, 0, 0, 0, NULL, NULL};
  REFUSED(gradcore_diagnosis_create(NULL, 0, &diagnosis));
  CHECK(diagnosis == NULL);
  REFUSED(gradcore_diagnosis_create(net, 0, NULL));
  REFUSED(gradcore_diagnosis_create(net, -1, &diagnosis));
  REFUSED(gradcore_diagnosis_create(net, GRADCORE_NUM_LOSSES, &diagnosis));
  CHECK(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis) == GRADCORE_OK);
  REFUSED(gradcore_diagnosis_add(NULL, NULL, 0));
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_diagnosis_add(diagnosis, &input, 0)); /* nothing recorded */
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  CHECK(gradcore_net_loss_and_gradients(net, &input, &y, 0, 1, &value) == GRADCORE_OK);
#define REFUSED_INPUT(member, value_of) \
  (wrong = input, wrong.member = (value_of), REFUSED(gradcore_diagnosis_add(diagnosis, &wrong, value)))
  REFUSED_INPUT(data, NULL);
  REFUSED_INPUT(rows, ROWS + 1);
  REFUSED_INPUT(cols, IN - 1);
  REFUSED_INPUT(stride, IN - 1);
#undef REFUSED_INPUT
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_diagnosis_judge(diagnosis, NULL, &judgement)); /* none was added */
  CHECK(gradcore_diagnosis_add(diagnosis, &input, value) == GRADCORE_OK);
  CHECK(gradcore_diagnosis_add(diagnosis, NULL, value) == GRADCORE_OK);
  gradcore_target_data fewer_labels = y;
  fewer_labels.num_labels = ROWS - 1;
  CHECK(gradcore_net_loss_and_gradients(net, &fewer, &fewer_labels, 0, 1, &value) == GRADCORE_OK);
  REFUSED(gradcore_diagnosis_add(diagnosis, &fewer, value)); /* another number of rows */
  REFUSED(gradcore_diagnosis_judge(NULL, NULL, &judgement));
  REFUSED(gradcore_diagnosis_judge(diagnosis, NULL, NULL));
  CHECK(gradcore_optimizer_create(other, &kind, &others) == GRADCORE_OK);
  REFUSED(gradcore_diagnosis_judge(diagnosis, others, &judgement));
  judgement.size = 8;
  REFUSED(gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  judgement.size = sizeof judgement;
  CHECK(gradcore_diagnosis_judge(diagnosis, NULL, &judgement) == GRADCORE_OK && judgement.num_passes == 2);
  REFUSED(gradcore_diagnosis_finding(NULL, 0, &finding));
  REFUSED(gradcore_diagnosis_finding(diagnosis, 0, NULL));
  REFUSED(gradcore_diagnosis_finding(diagnosis, -1, &finding));
  REFUSED(gradcore_diagnosis_finding(diagnosis, judgement.num_findings, &finding));
  CHECK(gradcore_net_loss_and_gradients(net, &input, &y, 0, 1, &value) == GRADCORE_OK);
  CHECK(gradcore_diagnosis_add(diagnosis, NULL, NAN) == GRADCORE_OK);
  CHECK(gradcore_diagnosis_judge(diagnosis, NULL, &judgement) == GRADCORE_OK &&
        judgement.verdict == GRADCORE_VERDICT_NON_FINITE);
  finding.size = 8;
  REFUSED(gradcore_diagnosis_finding(diagnosis, 0, &finding));
  finding.size = sizeof finding;
  CHECK(gradcore_diagnosis_finding(diagnosis, 0, &finding) == GRADCORE_OK &&
        finding.kind == GRADCORE_FINDING_NON_FINITE);
  gradcore_diagnosis_reset(NULL);
  gradcore_diagnosis_reset(diagnosis);
  CHECK(gradcore_diagnosis_add(diagnosis, &input, value) == GRADCORE_OK);
  judgement.size = 8;
  REFUSED(gradcore_diagnosis_judge(diagnosis, NULL, &judgement)); /* the last judgement is still that before */
  CHECK(gradcore_diagnosis_finding(diagnosis, 0, &finding) == GRADCORE_OK &&
        finding.kind == GRADCORE_FINDING_NON_FINITE && finding.explanation[0] != '\0');
  gradcore_diagnosis_reset(diagnosis);
  REFUSED_AS(GRADCORE_INVALID_STATE, gradcore_diagnosis_judge(diagnosis, NULL, &judgement));
  CHECK(!gradcore_verdict_name(-1) && !gradcore_verdict_name(GRADCORE_NUM_VERDICTS));
  CHECK(!gradcore_severity_name(-1) && !gradcore_severity_name(GRADCORE_NUM_SEVERITIES));
  CHECK(!gradcore_finding_kind_name(-1) && !gradcore_finding_kind_name(GRADCORE_NUM_FINDING_KINDS));
  CHECK(!gradcore_cause_name(-1) && !gradcore_cause_name(GRADCORE_NUM_CAUSES));
  gradcore_diagnosis_destroy(NULL);
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_optimizer_destroy(others);
  gradcore_net_destroy(other);
  gradcore_net_destroy(net);
}

/* A caller compiled against a later header: members that this library does not know are not changed. */
static void check_longer_judgement(void) {
  struct {
    gradcore_judgement known;
    char more[16];
  } later;
  gradcore_net *net = new_net();
  gradcore_diagnosis *diagnosis = NULL;
  const gradcore_matrix input = matrix(x, ROWS, IN);
  const gradcore_target_data y = target();
  memset(&later, 7, sizeof later);
  later.known.size = sizeof later;
  CHECK(gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &diagnosis) == GRADCORE_OK);
  CHECK(gradcore_net_loss_and_gradients(net, &input, &y, 0, 1, &value) == GRADCORE_OK);
  CHECK(gradcore_diagnosis_add(diagnosis, &input, value) == GRADCORE_OK);
  CHECK(gradcore_diagnosis_judge(diagnosis, NULL, &later.known) == GRADCORE_OK);
  CHECK(later.known.size == sizeof later && later.known.num_passes == 1 && isnan(later.known.batch_error));
  for (int i = 0; i < 16; i++) CHECK(later.more[i] == 7);
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_net_destroy(net);
}

/* ---- single ops ---- */

static void check_clipping(void) {
  float a[4] = {3, 4, 0, 0};
  void *arrays[] = {a}, *none[] = {NULL};
  const int64_t sizes[] = {4}, negative[] = {-1};
  double norm;
  REFUSED(gradcore_clip_grad_norm(2, arrays, sizes, 1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, NULL, sizes, 1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, NULL, 1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, none, sizes, 1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, negative, 1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, sizes, -1, 1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, sizes, 1, -1, 2, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, sizes, 1, 1, 0, 0, &norm));
  REFUSED(gradcore_clip_grad_norm(0, arrays, sizes, 1, 1, NAN, 0, &norm));
  REFUSED(gradcore_clip_grad_value(2, arrays, sizes, 1, 1));
  REFUSED(gradcore_clip_grad_value(0, NULL, sizes, 1, 1));
  REFUSED(gradcore_clip_grad_value(0, arrays, NULL, 1, 1));
  REFUSED(gradcore_clip_grad_value(0, arrays, sizes, -1, 1));
  REFUSED(gradcore_clip_grad_value(0, arrays, sizes, 1, -1));
  REFUSED(gradcore_clip_grad_value(0, arrays, sizes, 1, NAN));
  a[2] = NAN;
  REFUSED_AS(GRADCORE_NON_FINITE, gradcore_clip_grad_norm(0, arrays, sizes, 1, 1, 2, 1, &norm));
  a[2] = 0;
  CHECK(a[0] == 3 && a[1] == 4);
  CHECK(gradcore_clip_grad_norm(0, arrays, sizes, 1, 1, 2, 0, NULL) == GRADCORE_OK && a[0] < 0.7f);
}

static void check_norms(void) {
  float y[ROWS * IN], v[IN] = {0}; /* v serves as any vector */
  const gradcore_matrix in = matrix(x, ROWS, IN), wide = matrix(x, ROWS, IN + 1), one = matrix(x, 1, IN);
  REFUSED(gradcore_op_batch_norm(2, &in, v, v, 1e-5, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, NULL, v, v, 1e-5, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, &one, v, v, 1e-5, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, &in, NULL, v, 1e-5, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, &in, v, NULL, 1e-5, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, &in, v, v, -1, y, v, v));
  REFUSED(gradcore_op_batch_norm(0, &in, v, v, 1e-5, NULL, v, v));
  REFUSED(gradcore_op_batch_norm(0, &in, v, v, 1e-5, y, NULL, v));
  REFUSED(gradcore_op_batch_norm(0, &in, v, v, 1e-5, y, v, NULL));
  REFUSED(gradcore_op_batch_norm_backward(2, &in, &in, v, v, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, NULL, &in, v, v, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, NULL, v, v, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &wide, v, v, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, NULL, v, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, v, NULL, v, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, v, v, NULL, y, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, v, v, v, NULL, v, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, v, v, v, y, NULL, v));
  REFUSED(gradcore_op_batch_norm_backward(0, &in, &in, v, v, v, y, v, NULL));
  float rows[ROWS] = {0}; /* serves as mean and deviation of each row */
  REFUSED(gradcore_op_layer_norm(2, &in, v, v, 0, 1e-5, y, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, NULL, v, v, 0, 1e-5, y, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, NULL, v, 0, 1e-5, y, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, v, NULL, 0, 1e-5, y, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, v, v, 0, NAN, y, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, v, v, 0, 1e-5, NULL, rows, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, v, v, 0, 1e-5, y, NULL, rows));
  REFUSED(gradcore_op_layer_norm(0, &in, v, v, 0, 1e-5, y, rows, NULL));
  CHECK(gradcore_op_layer_norm(0, &in, v, NULL, 1, 1e-5, y, rows, rows) == GRADCORE_OK);
  REFUSED(gradcore_op_layer_norm_backward(2, &in, &in, v, rows, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, NULL, &in, v, rows, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, NULL, v, rows, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &wide, &in, v, rows, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, NULL, rows, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, v, NULL, rows, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, v, rows, NULL, 0, y, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, v, rows, rows, 0, NULL, v, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, v, rows, rows, 0, y, NULL, v));
  REFUSED(gradcore_op_layer_norm_backward(0, &in, &in, v, rows, rows, 0, y, v, NULL));
  CHECK(gradcore_op_layer_norm_backward(0, &in, &in, v, rows, rows, 1, y, v, NULL) == GRADCORE_OK);
}

static void check_ops(void) {
  float big[ROWS * HIDDEN] = {0};
  const gradcore_matrix in = matrix(x, ROWS, IN), w = matrix(big, OUT, IN), out = matrix(output, ROWS, OUT);
  const gradcore_matrix none = matrix(NULL, ROWS, IN), wide = matrix(x, ROWS, IN + 1);
  const gradcore_target_data y = target();
  gradcore_array_stats stats;
  REFUSED(gradcore_op_dense(7, &in, &w, NULL, output));
  REFUSED(gradcore_op_dense(0, NULL, &w, NULL, output));
  REFUSED(gradcore_op_dense(0, &none, &w, NULL, output));
  REFUSED(gradcore_op_dense(0, &in, NULL, NULL, output));
  REFUSED(gradcore_op_dense(0, &wide, &w, NULL, output));
  REFUSED(gradcore_op_dense(0, &in, &w, NULL, NULL));
  REFUSED(gradcore_op_dense_backward(-1, &out, &in, &w, big, NULL, NULL));
  REFUSED(gradcore_op_dense_backward(0, NULL, &in, &w, big, NULL, NULL));
  REFUSED(gradcore_op_dense_backward(0, &out, NULL, &w, NULL, big, NULL));
  REFUSED(gradcore_op_dense_backward(0, &out, &in, NULL, big, NULL, NULL));
  REFUSED(gradcore_op_dense_backward(0, &out, &wide, &w, big, NULL, NULL));
  REFUSED(gradcore_op_dense_backward(0, &in, &in, &w, big, NULL, NULL));
  REFUSED(gradcore_op_activation(2, 0, x, 4, big));
  REFUSED(gradcore_op_activation(0, GRADCORE_NUM_ACTIVATIONS, x, 4, big));
  REFUSED(gradcore_op_activation(0, -1, x, 4, big));
  REFUSED(gradcore_op_activation(0, 0, NULL, 4, big));
  REFUSED(gradcore_op_activation(0, 0, x, 4, NULL));
  REFUSED(gradcore_op_activation(0, 0, x, -1, big));
  REFUSED(gradcore_op_activation_backward(2, 0, x, x, 4, big));
  REFUSED(gradcore_op_activation_backward(0, 99, x, x, 4, big));
  REFUSED(gradcore_op_activation_backward(0, 0, NULL, x, 4, big));
  REFUSED(gradcore_op_activation_backward(0, 0, x, NULL, 4, big));
  REFUSED(gradcore_op_activation_backward(0, 0, x, x, -4, big));
  REFUSED(gradcore_op_activation_backward(0, 0, x, x, 4, NULL));
  REFUSED(gradcore_op_loss(2, 0, &out, &y, &value, NULL));
  REFUSED(gradcore_op_loss(0, 99, &out, &y, &value, NULL));
  REFUSED(gradcore_op_loss(0, 0, NULL, &y, &value, NULL));
  REFUSED(gradcore_op_loss(0, 0, &out, NULL, &value, NULL));
  REFUSED(gradcore_op_loss(0, 0, &out, &y, NULL, NULL));
  REFUSED(gradcore_op_array_stats(3, x, 4, &stats, NULL));
  REFUSED(gradcore_op_array_stats(0, NULL, 4, &stats, NULL));
  REFUSED(gradcore_op_array_stats(0, x, -1, &stats, NULL));
  REFUSED(gradcore_op_array_stats(0, x, 4, NULL, NULL));
}

/* Sizes of no array there is, whose bytes overflow: neither taken for nothing, nor read, nor waited for. */
static void check_impossible_sizes(gradcore_net *net) {
  float y[ROWS * HIDDEN], *arrays[] = {y};
  gradcore_array_stats stats;
  static const int64_t wrong[] = {INT64_MAX, (int64_t)1 << 62, ((int64_t)1 << 56) + 1};
  for (int i = 0; i < 3; i++) {
    const int64_t most = wrong[i];
    const gradcore_matrix in = matrix(x, ROWS, IN), w = matrix(y, OUT, IN), tall = matrix(x, most, IN);
    const gradcore_matrix flat = matrix(x, 2, most), apart = {x, ROWS, IN, most}, out = matrix(output, most, OUT);
    const gradcore_output_matrix into = {output, ROWS, OUT, most};
    const gradcore_target_data many = {labels, {NULL, 0, 0, 0}, most}, y5 = target();
    REFUSED(gradcore_net_forward(net, &tall, 0, output));
    REFUSED(gradcore_net_forward(net, &tall, 1, output));
    REFUSED(gradcore_net_forward(net, &apart, 0, output));
    REFUSED(gradcore_net_forward_into(net, &in, 0, &into));
    REFUSED(gradcore_net_loss(net, &tall, &many, 0, &value));
    REFUSED(gradcore_net_train_step(net, &apart, &y5, 0, optimizer, 0, 0, 0, &step));
    REFUSED(gradcore_op_dense(0, &tall, &w, NULL, y));
    REFUSED(gradcore_op_dense(0, &apart, &w, NULL, y));
    REFUSED(gradcore_op_dense_backward(0, &out, &tall, &w, y, y, y));
    REFUSED(gradcore_op_batch_norm(0, &tall, y, y, 1e-5, y, y, y));
    REFUSED(gradcore_op_layer_norm(0, &flat, y, y, 0, 1e-5, y, y, y));
    REFUSED(gradcore_op_loss(0, 0, &out, &many, &value, NULL));
    REFUSED(gradcore_op_activation(0, 1, x, most, y));
    REFUSED(gradcore_op_activation_backward(0, 1, x, x, most, y));
    REFUSED(gradcore_op_array_stats(0, x, most, &stats, NULL));
    REFUSED(gradcore_clip_grad_norm(0, (void *const *)arrays, &most, 1, 1, 2, 0, &value));
    REFUSED(gradcore_clip_grad_value(0, (void *const *)arrays, &most, 1, 1));
  }
}

/* ---- threads ---- */

static void *fail_elsewhere(void *text) {
  mark();
  strncpy(text, gradcore_last_error(), 99);
  return NULL;
}

static void check_errors_are_the_threads_own(void) {
  char elsewhere[100] = "";
  pthread_t thread;
  REFUSED(gradcore_set_num_threads(0));
  CHECK(pthread_create(&thread, NULL, fail_elsewhere, elsewhere) == 0 && pthread_join(thread, NULL) == 0);
  CHECK(strstr(elsewhere, "mark") && strstr(gradcore_last_error(), "num_threads"));
}

/* Hosts that run their tasks in all allowed ways. */
typedef struct task_call {
  gradcore_parallel_task task;
  void *argument;
  int32_t index;
} task_call;
static int host_calls;

static void one_after_another(void *context, int32_t n, gradcore_parallel_task task, void *argument) {
  (void)context;
  host_calls++;
  for (int32_t i = n - 1; i >= 0; i--) task(argument, i);
}
static void *run_task(void *p) {
  const task_call *c = p;
  c->task(c->argument, c->index);
  return NULL;
}
static void all_at_once(void *context, int32_t n, gradcore_parallel_task task, void *argument) {
  pthread_t threads[16];
  task_call calls[16];
  (void)context;
  host_calls++;
  for (int32_t i = 0; i < n; i++) {
    calls[i].task = task, calls[i].argument = argument, calls[i].index = i;
    CHECK(i < 16 && pthread_create(&threads[i], NULL, run_task, &calls[i]) == 0);
  }
  for (int32_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
}
static void nothing(void *context, int32_t n, gradcore_parallel_task task, void *argument) {
  (void)context, (void)n, (void)task, (void)argument;
  host_calls++;
}

/* The bytes of a net after three steps on these threads. */
static char *trained(gradcore_parallel_for threads, int32_t num_threads, int64_t *size) {
  enum { N = 400, WIDTH = 64 };
  static float data[N * WIDTH];
  static int64_t classes[N];
  const int64_t widths[] = {WIDTH, WIDTH, WIDTH, 10};
  const gradcore_net_config config = {sizeof config, widths, 4, ACTIVATIONS, GRADCORE_NORM_BATCH, 0, 1, 0};
  const gradcore_optimizer_config kind = adam();
  const gradcore_matrix input = matrix(data, N, WIDTH);
  const gradcore_target_data y = {classes, {NULL, 0, 0, 0}, N};
  gradcore_net *net = NULL;
  gradcore_optimizer *own = NULL;
  for (int i = 0; i < N * WIDTH; i++) data[i] = (float)(i * 37 % 101) * 0.02f - 1;
  for (int i = 0; i < N; i++) classes[i] = i * 7 % 10;
  CHECK(gradcore_net_create(&config, &net) == GRADCORE_OK);
  CHECK(gradcore_net_initialize(net, GRADCORE_INIT_ORTHOGONAL, 1) == GRADCORE_OK);
  CHECK(gradcore_net_set_threads(net, threads, NULL, num_threads) == GRADCORE_OK);
  CHECK(gradcore_optimizer_create(net, &kind, &own) == GRADCORE_OK);
  for (int i = 0; i < 3; i++)
    CHECK(gradcore_net_train_step(net, &input, &y, 0, own, 1, 0, 1, &step) == GRADCORE_OK && isfinite(step.loss));
  CHECK(gradcore_net_save_to_memory(net, NULL, 0, size) == GRADCORE_OK);
  char *bytes = malloc((size_t)*size);
  CHECK(gradcore_net_save_to_memory(net, bytes, *size, size) == GRADCORE_OK);
  gradcore_optimizer_destroy(own);
  gradcore_net_destroy(net);
  return bytes;
}

static void check_threads_of_the_caller(void) {
  const gradcore_parallel_for hosts[] = {one_after_another, all_at_once, nothing, NULL};
  int64_t size = 0, other_size = 0;
  char *alone = trained(NULL, 1, &size);
  for (int i = 0; i < 4; i++)
    for (int32_t threads = 2; threads <= 5; threads += 3) {
      host_calls = 0;
      char *other = trained(hosts[i], threads, &other_size);
      CHECK(size == other_size && memcmp(alone, other, (size_t)size) == 0);
      CHECK((host_calls > 0) == (hosts[i] != NULL));
      free(other);
    }
  free(alone);
}

int main(int argc, char **argv) {
  listing = argc > 1 && !strcmp(argv[1], "--list");
  for (int i = 0; i < ROWS * IN; i++) x[i] = (float)(i % 7) - 3;
  check_library();
  check_without_handles();
  check_net_configs();
  check_longer_configs();
  gradcore_net *net = new_net();
  const gradcore_optimizer_config config = adam();
  check_optimizer_configs(net);
  CHECK(gradcore_optimizer_create(net, &config, &optimizer) == GRADCORE_OK);
  check_net(net);
  check_passes(net);
  check_output_strides(net);
  check_impossible_sizes(net);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  check_diagnosis_arguments();
  check_longer_judgement();
  check_clipping();
  check_norms();
  check_ops();
  check_errors_are_the_threads_own();
  check_threads_of_the_caller();
  printf("%ld checks passed\n", passed);
  if (failed) fprintf(stderr, "%ld checks FAILED\n", failed);
  return failed != 0;
}
