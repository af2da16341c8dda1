/* Out of memory: every allocation of every call fails once. The call is then refused, changes nothing, and succeeds
 * when it is repeated; or it succeeds without that memory. Needs glibc, whose malloc this program replaces by its own.
 */
#include <errno.h>
#include <gradcore/gradcore.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static long until_failure = -1; /* allocations that are still granted; -1: all */
static int has_failed;

static int fails(void) {
  if (until_failure < 0 || until_failure-- > 0) return 0;
  has_failed = 1;
  errno = ENOMEM;
  return 1;
}
void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) { return fails() ? NULL : __libc_memalign(alignment, size); }

/* ---- what the calls work on ---- */

enum { ROWS = 300, IN = 8, HIDDEN = 16, OUT = 5, IMAGE = 1 << 16 };

static struct {
  float output[ROWS * HIDDEN], grad_input[ROWS * IN], grad_weight[HIDDEN * IN], columns[3][HIDDEN], rows[2][ROWS];
  double value;
  gradcore_step step;
  gradcore_judgement judgement;
  char image[IMAGE];
} results; /* all that the calls write */

static float x[ROWS * IN], dy[ROWS * HIDDEN], weight[HIDDEN * IN];
static int64_t labels[ROWS], image_size;
static const gradcore_matrix input = {x, ROWS, IN, IN}, grad = {dy, ROWS, OUT, OUT}, wide = {dy, ROWS, HIDDEN, HIDDEN};
static const gradcore_matrix weights = {weight, HIDDEN, IN, IN};
static const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, ROWS};
static gradcore_net *net;
static gradcore_optimizer *optimizer;
static gradcore_diagnosis *diagnosis;

static gradcore_status new_net(gradcore_net **made, int32_t normalization) {
  static const int64_t widths[] = {IN, HIDDEN, HIDDEN, OUT};
  static const int32_t activations[] = {GRADCORE_GELU, GRADCORE_RELU};
  const gradcore_net_config config = {sizeof config, widths, 4, activations, normalization, 1, 1, GRADCORE_FLOAT32};
  return gradcore_net_create(&config, made);
}
static gradcore_status new_optimizer(gradcore_optimizer **made) {
  const gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 0.01, 0, 0, 0, 0.9, 0.999, 1e-8};
  return gradcore_optimizer_create(net, &adam, made);
}

/* ---- the calls, in an order in which each may follow the one before ---- */

static gradcore_status net_create(void) {
  gradcore_net *made = NULL;
  const gradcore_status status = new_net(&made, GRADCORE_NORM_BATCH);
  gradcore_net_destroy(made);
  return status;
}
static gradcore_status optimizer_create(void) {
  gradcore_optimizer *made = NULL;
  const gradcore_status status = new_optimizer(&made);
  gradcore_optimizer_destroy(made);
  return status;
}
static gradcore_status diagnosis_create(void) {
  gradcore_diagnosis *made = NULL;
  const gradcore_status status = gradcore_diagnosis_create(net, GRADCORE_CROSS_ENTROPY, &made);
  gradcore_diagnosis_destroy(made);
  return status;
}
static gradcore_status initialize(void) { return gradcore_net_initialize(net, GRADCORE_INIT_ORTHOGONAL, UINT64_MAX); }
static gradcore_status forward(void) { return gradcore_net_forward(net, &input, 1, results.output); }
static gradcore_status backward(void) { return gradcore_net_backward(net, &grad, results.grad_input); }
static gradcore_status loss(void) { return gradcore_net_loss(net, &input, &target, 0, &results.value); }
static gradcore_status gradients(void) {
  return gradcore_net_loss_and_gradients(net, &input, &target, 0, 1, &results.value);
}
static gradcore_status add(void) { return gradcore_diagnosis_add(diagnosis, &input, results.value); }
static gradcore_status judge(void) { return gradcore_diagnosis_judge(diagnosis, optimizer, &results.judgement); }
static gradcore_status train(void) {
  return gradcore_net_train_step(net, &input, &target, 0, optimizer, 1, 0, 1, &results.step);
}
static gradcore_status save(void) { return gradcore_net_save_to_memory(net, results.image, IMAGE, &image_size); }
static gradcore_status load(void) {
  gradcore_net *made = NULL;
  const gradcore_status status = gradcore_net_load_from_memory(results.image, image_size, &made);
  gradcore_net_destroy(made);
  return status;
}
static gradcore_status save_optimizer(void) { return gradcore_optimizer_save(optimizer, "optimizer.safetensors"); }
static gradcore_status load_optimizer(void) { return gradcore_optimizer_load(optimizer, "optimizer.safetensors"); }
static gradcore_status clip(void) {
  void *const array = results.output;
  const int64_t size = ROWS * OUT;
  return gradcore_clip_grad_norm(0, &array, &size, 1, 0.1, 2, 0, NULL);
}
static gradcore_status dense(void) { return gradcore_op_dense(0, &input, &weights, NULL, results.output); }
static gradcore_status dense_backward(void) {
  return gradcore_op_dense_backward(0, &wide, &input, &weights, results.grad_input, results.grad_weight,
                                    results.columns[0]);
}
static gradcore_status batch_norm(void) {
  return gradcore_op_batch_norm(0, &input, weight, weight, 1e-5, results.output, results.columns[1],
                                results.columns[2]);
}
static gradcore_status batch_norm_backward(void) {
  return gradcore_op_batch_norm_backward(0, &input, &input, weight, results.columns[1], results.columns[2],
                                         results.grad_input, results.grad_weight, results.columns[0]);
}
static gradcore_status layer_norm_backward(void) {
  return gradcore_op_layer_norm_backward(0, &input, &input, weight, results.rows[0], results.rows[1], 0,
                                         results.grad_input, results.grad_weight, results.columns[0]);
}
static gradcore_status op_loss(void) { return gradcore_op_loss(0, 0, &grad, &target, &results.value, results.output); }

#define CALL(function) {#function, function}
static const struct {
  const char *name;
  gradcore_status (*make)(void);
} calls[] = {CALL(net_create),
             CALL(optimizer_create),
             CALL(diagnosis_create),
             CALL(initialize),
             CALL(forward),
             CALL(backward),
             CALL(loss),
             CALL(gradients),
             CALL(add),
             CALL(judge),
             CALL(train),
             CALL(save),
             CALL(load),
             CALL(save_optimizer),
             CALL(load_optimizer),
             CALL(clip),
             CALL(dense),
             CALL(dense_backward),
             CALL(batch_norm),
             CALL(batch_norm_backward),
             CALL(layer_norm_backward),
             CALL(op_loss)};

/* ---- what they may not change ---- */

static char *append(char *to, const void *from, size_t size) {
  memcpy(to, from, size);
  return to + size;
}
static char *everything(void) {
  const size_t flat = (size_t)gradcore_net_flat_size(net) * sizeof(float);
  const size_t buffers = (size_t)gradcore_net_flat_buffer_size(net) * sizeof(float);
  char *const all = __libc_calloc(1, sizeof results + 4 * flat + buffers);
  char *to = append(all, &results, sizeof results);
  to = append(to, gradcore_net_parameters(net), flat);
  to = append(to, gradcore_net_gradients(net), flat);
  for (int i = 0; i < 2; i++) to = append(to, gradcore_optimizer_state(optimizer, i), flat);
  append(to, gradcore_net_buffers(net), buffers);
  return all;
}
static int differs(const char *before) {
  char *const now = everything();
  const size_t flat = (size_t)gradcore_net_flat_size(net) * sizeof(float);
  const size_t buffers = (size_t)gradcore_net_flat_buffer_size(net) * sizeof(float);
  const int result = memcmp(before, now, sizeof results + 4 * flat + buffers);
  free(now);
  return result;
}

/* Number of calls that were refused; exits where one is wrong. */
static int without_memory(size_t call) {
  for (int n = 0;; n++) {
    char *const before = everything();
    has_failed = 0;
    until_failure = n;
    const gradcore_status status = calls[call].make();
    until_failure = -1;
    const int refused = status != GRADCORE_OK, changed = refused && differs(before);
    free(before);
    if (!has_failed && !refused) return n;
    if (changed || (refused && !has_failed) || (refused && status != GRADCORE_OUT_OF_MEMORY)) {
      printf("%s, allocation %d: status %d%s: %s\n", calls[call].name, n, status, changed ? ", changed" : "",
             gradcore_last_error());
      exit(1);
    }
  }
}

int main(void) {
  int refused = 0;
  for (int i = 0; i < ROWS * IN; i++) x[i] = cosf((float)i);
  for (int i = 0; i < ROWS * HIDDEN; i++) dy[i] = sinf((float)i);
  for (int i = 0; i < HIDDEN * IN; i++) weight[i] = sinf((float)i * 3);
  for (int i = 0; i < ROWS; i++) labels[i] = i % OUT;
  results.judgement.size = sizeof results.judgement;
  for (int32_t normalization = 0; normalization < 4; normalization++) {
    if (new_net(&net, normalization) || new_optimizer(&optimizer) || gradcore_diagnosis_create(net, 0, &diagnosis))
      return 2;
    for (size_t call = 0; call < sizeof calls / sizeof *calls; call++) refused += without_memory(call);
    gradcore_diagnosis_destroy(diagnosis);
    gradcore_optimizer_destroy(optimizer);
    gradcore_net_destroy(net);
  }
  printf("refused %d times, nothing changed\n", refused);
  return 0;
}
