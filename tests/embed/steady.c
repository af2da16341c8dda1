/* Calls of a net on five threads of the host, with every number of them that the net tries: after the first call of a
 * kind with some rows, none allocates. Needs glibc, whose malloc this program replaces by its own. */
#include <gradcore/gradcore.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long allocations;
void *malloc(size_t size) {
  allocations++;
  return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
  allocations++;
  return __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
  allocations++;
  return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  allocations++;
  return __libc_memalign(alignment, size);
}

/* ---- the host's threads, which wait for tasks awake, so that all of them join a call ---- */

enum { THREADS = 5, CALLS = 600, ROWS = 192, WIDTH = 64, DEPTH = 4 };

static gradcore_parallel_task task;
static void *task_argument;
static atomic_int next_task, num_tasks, jobs, finished;

static void run_tasks(void) {
  for (int i; (i = atomic_fetch_add(&next_task, 1)) < atomic_load(&num_tasks);) task(task_argument, i);
}
static void *work(void *nothing) {
  for (int job = 0;; job++) {
    while (atomic_load(&jobs) == job) sched_yield();
    run_tasks();
    atomic_fetch_add(&finished, 1);
  }
  return nothing;
}
static void parallel_for(void *context, int32_t count, gradcore_parallel_task given, void *argument) {
  (void)context;
  task = given, task_argument = argument;
  atomic_store(&num_tasks, count);
  atomic_store(&next_task, 0);
  atomic_store(&finished, 0);
  atomic_fetch_add(&jobs, 1);
  run_tasks();
  while (atomic_load(&finished) < THREADS - 1) sched_yield();
}

/* ---- the calls ---- */

static float x[ROWS * WIDTH], output[ROWS * WIDTH];
static int64_t labels[ROWS];
static gradcore_net *net;
static gradcore_optimizer *optimizer;

static void must(gradcore_status status) {
  if (status == GRADCORE_OK) return;
  fprintf(stderr, "%s\n", gradcore_last_error());
  exit(1);
}

static void step(int64_t rows) {
  const gradcore_matrix input = {x, rows, WIDTH, WIDTH};
  const gradcore_target_data target = {labels, {NULL, 0, 0, 0}, rows};
  gradcore_step result;
  must(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 1, 0, 1, &result));
}
static void there_and_back(int64_t rows) {
  const gradcore_matrix input = {x, rows, WIDTH, WIDTH}, grad = {output, rows, WIDTH, WIDTH};
  must(gradcore_net_forward(net, &input, 1, output));
  must(gradcore_net_backward(net, &grad, NULL));
}

static void check(const char *name, void (*call)(int64_t), int64_t rows) {
  call(rows);
  const long before = allocations;
  for (int i = 1; i < CALLS; i++) {
    call(rows);
    if (allocations == before) continue;
    printf("%s of %d rows: call %d has allocated\n", name, (int)rows, i + 1);
    exit(1);
  }
}

int main(void) {
  int64_t widths[DEPTH + 1];
  int32_t activations[DEPTH - 1];
  pthread_t thread;
  for (int i = 0; i <= DEPTH; i++) widths[i] = WIDTH;
  for (int i = 0; i < DEPTH - 1; i++) activations[i] = GRADCORE_TANH;
  for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i * 37 % 101) * 0.02f - 1;
  const gradcore_net_config config = {sizeof config, widths, DEPTH + 1, activations, 0, 0, 1, GRADCORE_FLOAT32};
  const gradcore_optimizer_config adam = {sizeof adam, GRADCORE_ADAM, 0, 1e-3, 0, 0, 0, 0.9, 0.999, 1e-8};
  for (int i = 1; i < THREADS; i++)
    if (pthread_create(&thread, NULL, work, NULL)) return 2;
  must(gradcore_net_create(&config, &net));
  must(gradcore_net_initialize(net, GRADCORE_INIT_AUTO, 0));
  must(gradcore_optimizer_create(net, &adam, &optimizer));
  must(gradcore_net_set_threads(net, parallel_for, NULL, THREADS));
  for (int64_t rows = 96; rows <= ROWS; rows += 48) {
    check("steps", step, rows);
    check("forward and backward", there_and_back, rows);
  }
  puts("no allocation");
  return 0;
}
