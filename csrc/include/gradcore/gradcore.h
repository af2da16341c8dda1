/* gradcore: batched forward and backward of deep MLPs, with gradient-flow measurement.
 *
 * The stable C interface of libgradcore. The Python module and the C++ and Cython interfaces use only these functions.
 *
 *   gradcore_net_create, _initialize         a net from a configuration; or gradcore_net_load
 *   gradcore_optimizer_create                an optimizer for it
 *   gradcore_net_train_step                  forward, loss, backward, clipping and update, in one call
 *   gradcore_net_forward                     its outputs
 *   gradcore_net_flow, gradcore_diagnosis_*  measurements of a recorded step; whether gradients vanish or explode
 *   gradcore_net_save                        writes a file that Python reads as well
 *
 * Conventions
 *   - Every function that can fail returns a gradcore_status. gradcore_last_error() then holds, for the calling thread,
 *     one sentence that names the argument, what was expected and what came.
 *   - On error, the arrays of the caller and of the net are unchanged, unless the comment of the function says
 *     otherwise.
 *   - A NULL handle is an error in functions that return a status; other functions do nothing, or return 0 or NULL.
 *   - Matrices are row-major. A `*_stride` is the distance between rows, in elements.
 *   - `dtype` fixes the element type of every `void *` array of a net: double with GRADCORE_FLOAT64, else float.
 *   - Pointers are aligned as their elements require. Sizes are at most 2^56 elements.
 *   - The library never prints, aborts, exits or throws; a call takes less than 64 kB of stack. pthread_cancel takes
 *     effect after a call, not within it. The shared library stays loaded once its threads have started; a plugin that
 *     links it statically and may be unloaded must itself be linked with -Wl,-z,nodelete.
 *   - A pass or step allocates nothing and takes no lock if the net has run the same kind with the same number of rows
 *     before (a different, even smaller, number of rows may need another memory layout, and more memory), unless it
 *     starts threads: the library's own threads start in the first call that wants as many. To avoid waiting for other
 *     threads as well, use gradcore_net_set_threads(net, NULL, NULL, 1). If the library was loaded by dlopen, the C
 *     library allocates 528 bytes in a thread's first call, and ends the process if it cannot: let each thread call
 *     gradcore_last_error() when it starts.
 *   - A net may be used by one thread at a time; different nets may be used concurrently. A call that finds the thread
 *     pool taken runs on the calling thread alone, with bit-identical results.
 *   - All threads of a call use the calling thread's rounding mode and treatment of subnormal numbers; initial weights
 *     do not depend on them. Nothing that a call computes raises SIGFPE, even if the calling thread has unmasked
 *     floating-point exceptions (feenableexcept); they are as before after the call.
 *   - The library's own threads block signals, except those of faults and SIGPROF.
 */
#ifndef GRADCORE_GRADCORE_H
#define GRADCORE_GRADCORE_H

#include <stddef.h>
#include <stdint.h>

#if defined(GRADCORE_STATIC)
#define GRADCORE_API
#elif defined(_WIN32)
#define GRADCORE_API __declspec(dllimport)
#else
#define GRADCORE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define GRADCORE_ABI_VERSION 1

typedef enum gradcore_status {
  GRADCORE_OK = 0,
  GRADCORE_INVALID_ARGUMENT = 1, /* a shape, range, name or pointer is wrong, or an input or target is not finite */
  GRADCORE_INVALID_STATE = 2,    /* the call does not match what the net did before */
  GRADCORE_NON_FINITE = 3,       /* the total norm to clip by is NaN or infinite */
  GRADCORE_OUT_OF_MEMORY = 4,
  GRADCORE_INTERNAL = 5,
  GRADCORE_IO_ERROR = 6 /* the system could not read or write a file; errno says why */
} gradcore_status;

typedef enum gradcore_dtype {
  GRADCORE_FLOAT32 = 0,
  GRADCORE_FLOAT64 = 1,
  GRADCORE_BFLOAT16 = 2 /* nets only: float arrays; dense products round operands to bfloat16 and sum in float */
} gradcore_dtype;

typedef enum gradcore_activation {
  GRADCORE_IDENTITY = 0,
  GRADCORE_RELU = 1,
  GRADCORE_LEAKY_RELU = 2, /* slope 0.01 */
  GRADCORE_ELU = 3,        /* alpha 1 */
  GRADCORE_SELU = 4,
  GRADCORE_GELU = 5, /* exact: x * Phi(x) */
  GRADCORE_GELU_TANH = 6,
  GRADCORE_SILU = 7,
  GRADCORE_MISH = 8,
  GRADCORE_SOFTPLUS = 9,
  GRADCORE_TANH = 10,
  GRADCORE_HARD_TANH = 11,
  GRADCORE_SIGMOID = 12,
  GRADCORE_NUM_ACTIVATIONS = 13
} gradcore_activation;

typedef enum gradcore_normalization {
  GRADCORE_NORM_NONE = 0,
  GRADCORE_NORM_BATCH = 1,
  GRADCORE_NORM_LAYER = 2,
  GRADCORE_NORM_RMS = 3 /* has a weight, but no bias */
} gradcore_normalization;

typedef enum gradcore_loss {
  GRADCORE_CROSS_ENTROPY = 0,        /* mean over rows; labels, or probabilities in [0, 1] */
  GRADCORE_BINARY_CROSS_ENTROPY = 1, /* logits, targets in [0, 1]; mean over elements, like all that follow */
  GRADCORE_MSE = 2,
  GRADCORE_MAE = 3,
  GRADCORE_HUBER = 4, /* delta 1 */
  GRADCORE_NUM_LOSSES = 5
} gradcore_loss;

typedef enum gradcore_optimizer_kind {
  GRADCORE_SGD = 0,
  GRADCORE_RMSPROP = 1,
  GRADCORE_ADAM = 2,
  GRADCORE_ADAMW = 3,
  GRADCORE_NUM_OPTIMIZERS = 4
} gradcore_optimizer_kind;

typedef enum gradcore_initializer {
  GRADCORE_INIT_AUTO = 0, /* normal, with the critical gain of each layer's activation */
  GRADCORE_INIT_GLOROT_UNIFORM = 1,
  GRADCORE_INIT_GLOROT_NORMAL = 2,
  GRADCORE_INIT_HE_UNIFORM = 3,
  GRADCORE_INIT_HE_NORMAL = 4,
  GRADCORE_INIT_LECUN_UNIFORM = 5,
  GRADCORE_INIT_LECUN_NORMAL = 6,
  GRADCORE_INIT_ORTHOGONAL = 7, /* with the same gain as auto */
  GRADCORE_NUM_INITIALIZERS = 8
} gradcore_initializer;

/* ---- library ------------------------------------------------------------------------------ */

/* The version, such as "0.1.0", and the GRADCORE_ABI_VERSION of the library, which must equal the program's own. */
GRADCORE_API const char *gradcore_version(void);
GRADCORE_API int32_t gradcore_abi_version(void);
/* The message of the calling thread's last failure; valid until its next failing call. */
GRADCORE_API const char *gradcore_last_error(void);

/* Names as in the Python interface; NULL if out of range. */
GRADCORE_API const char *gradcore_activation_name(int32_t activation);
GRADCORE_API const char *gradcore_loss_name(int32_t loss);
GRADCORE_API const char *gradcore_initializer_name(int32_t initializer);

/* The squared gain, fan_in times the variance of the weights, that "auto" uses before this activation; NaN if out of
 * range. */
GRADCORE_API double gradcore_critical_gain_squared(int32_t activation);

/* Kernel sets compiled into this library, and the one in use ("baseline", "avx2", "avx512", "neon"). The best that the
 * CPU supports is chosen at load; GRADCORE_TARGET in the environment overrides this. gradcore_set_target changes the
 * choice for nets created and ops called afterwards. */
GRADCORE_API int32_t gradcore_num_targets(void);
GRADCORE_API const char *gradcore_target_name(int32_t index);
GRADCORE_API int32_t gradcore_target_supported(int32_t index);
GRADCORE_API const char *gradcore_target(void);
GRADCORE_API gradcore_status gradcore_set_target(const char *name);
/* 1 if the CPU multiplies bfloat16 natively, two terms in the time of one; 0 if GRADCORE_BFLOAT16 uses float products
 * of rounded operands. */
GRADCORE_API int32_t gradcore_has_bfloat16_products(void);

/* Threads that a call may use, including the calling thread. Default: GRADCORE_NUM_THREADS, else OMP_NUM_THREADS, else
 * one per core that this process may run on (affinity and cgroup quota). At least 1, at most 256. Calls with little
 * work use fewer, and so do all calls while other programs keep the threads from running at the same time. Results do
 * not depend on it. */
GRADCORE_API int32_t gradcore_get_num_threads(void);
/* Its source: "set_num_threads", "GRADCORE_NUM_THREADS", "OMP_NUM_THREADS", "CPU affinity" or "cgroup quota". */
GRADCORE_API const char *gradcore_num_threads_source(void);
GRADCORE_API gradcore_status gradcore_set_num_threads(int32_t num_threads);

/* ---- net ---------------------------------------------------------------------------------- */

typedef struct gradcore_net gradcore_net;

typedef struct gradcore_net_config {
  size_t size;                /* sizeof(gradcore_net_config) of the caller */
  const int64_t *widths;      /* [num_widths]: in, hidden..., out */
  int32_t num_widths;         /* >= 2; the net has num_widths - 1 dense layers */
  const int32_t *activations; /* [num_widths - 2]: gradcore_activation of each hidden layer */
  int32_t normalization;      /* gradcore_normalization of every hidden layer */
  int32_t residual;           /* 1: a block's input is added to its output where widths are equal */
  int32_t bias;               /* 1: dense layers have biases */
  int32_t dtype;              /* gradcore_dtype */
} gradcore_net_config;

/* Creates a net with zero weights; norm weights and running variances are one.
 *
 * Later versions may add members to the configuration; `size` says which members the caller's has. Missing members
 * count as zero; members unknown to this library must be zero. */
GRADCORE_API gradcore_status gradcore_net_create(const gradcore_net_config *config, gradcore_net **net);
GRADCORE_API void gradcore_net_destroy(gradcore_net *net);

/* Draws the initial weights of every dense layer and sets biases to zero; bit-identical to Python for the same seed.
 * initializer: gradcore_initializer. */
GRADCORE_API gradcore_status gradcore_net_initialize(gradcore_net *net, int32_t initializer, uint64_t seed);
/* The same for a seed of any length: num_words words of 32 bits, least significant first, the last one nonzero unless
 * it is the only one. The origin (below) does not change. */
GRADCORE_API gradcore_status gradcore_net_initialize_words(gradcore_net *net, int32_t initializer, const uint32_t *seed,
                                                           int32_t num_words);

/* Sets the threads that calls of this net run on. parallel_for NULL: the library's own threads (the default).
 * Otherwise the library calls parallel_for(context, n, task, argument) inside a call of the net, with
 * 2 <= n <= num_threads. parallel_for must run task(argument, i) for each i in [0, n), on any threads and in any order,
 * throw nothing, and return when all tasks have returned. Tasks that run at the same time share the work; tasks that
 * start after the others have begun find nothing to do. Results are bit-identical in every case.
 * num_threads: the most threads to use; 0: gradcore_get_num_threads(), which also limits the library's own threads, but
 * not the caller's. */
typedef void (*gradcore_parallel_task)(void *argument, int32_t index);
typedef void (*gradcore_parallel_for)(void *context, int32_t num_tasks, gradcore_parallel_task task, void *argument);
GRADCORE_API gradcore_status gradcore_net_set_threads(gradcore_net *net, gradcore_parallel_for parallel_for,
                                                      void *context, int32_t num_threads);

/* Fills *config, whose size the caller has set, with the net's configuration; members unknown to this library are not
 * changed, so set them to zero before. The arrays live as long as the net. */
GRADCORE_API gradcore_status gradcore_net_get_config(const gradcore_net *net, gradcore_net_config *config);

/* The origin of a net's initial weights, as stored in its files: the name of an initializer ("custom" for any other
 * way), and the digits of a seed, or NULL if there is none. The strings live until the next change. */
GRADCORE_API const char *gradcore_net_init(const gradcore_net *net);
GRADCORE_API const char *gradcore_net_seed(const gradcore_net *net);
GRADCORE_API gradcore_status gradcore_net_set_origin(gradcore_net *net, const char *init, const char *seed);

/* One named tensor inside the flat buffers. Offsets and counts are in elements. */
typedef struct gradcore_tensor {
  const char *name; /* "dense0.weight", "norm0.bias", "norm0.running_mean", ... */
  int64_t offset;   /* in its flat buffer; a multiple of 64 bytes */
  int64_t rows;     /* out_features for a weight, 1 for a vector */
  int64_t cols;     /* in_features for a weight, the length for a vector */
  int32_t rank;     /* 1 or 2 */
} gradcore_tensor;

/* Parameters and gradients share one table; buffers (running statistics) have their own. */
GRADCORE_API int32_t gradcore_net_num_parameters(const gradcore_net *net);
GRADCORE_API gradcore_status gradcore_net_parameter(const gradcore_net *net, int32_t index, gradcore_tensor *tensor);
GRADCORE_API int32_t gradcore_net_num_buffers(const gradcore_net *net);
GRADCORE_API gradcore_status gradcore_net_buffer(const gradcore_net *net, int32_t index, gradcore_tensor *tensor);

/* The flat buffers, 64-byte aligned; they live as long as the net. gradcore_net_buffers returns NULL without running
 * statistics. The padding between tensors is zero and must stay zero; a pass that writes the gradients also clears
 * theirs. After writing parameters, call gradcore_net_parameters_changed, because the net keeps packed copies of its
 * weights. */
GRADCORE_API int64_t gradcore_net_flat_size(const gradcore_net *net);
GRADCORE_API int64_t gradcore_net_flat_buffer_size(const gradcore_net *net);
GRADCORE_API void *gradcore_net_parameters(gradcore_net *net);
GRADCORE_API void *gradcore_net_gradients(gradcore_net *net);
GRADCORE_API void *gradcore_net_buffers(gradcore_net *net);
GRADCORE_API void gradcore_net_parameters_changed(gradcore_net *net);

/* Bytes held by the workspace (saved activations, deltas, packed weights); grows to the largest pass so far. */
GRADCORE_API int64_t gradcore_net_workspace_bytes(const gradcore_net *net);

/* A matrix of the caller, [rows, cols] of the net's dtype, row-major. */
typedef struct gradcore_matrix {
  const void *data;
  int64_t rows, cols, stride; /* stride >= cols, except for a single row */
} gradcore_matrix;

/* The same for output; memory between the rows is not touched. */
typedef struct gradcore_output_matrix {
  void *data;
  int64_t rows, cols, stride; /* stride >= cols */
} gradcore_output_matrix;

/* Targets: labels [rows] (int64, each in [0, out)) or values [rows, out] of the net's dtype. */
typedef struct gradcore_target_data {
  const int64_t *labels;  /* set for labels, else NULL */
  gradcore_matrix values; /* used when labels is NULL */
  int64_t num_labels;     /* rows, when labels is set */
} gradcore_target_data;

/* output [rows, out_features], contiguous, must not overlap input. With training != 0, batch norm uses the statistics
 * of the batch (at least 2 rows) and updates the running statistics, and everything that gradcore_net_backward needs is
 * kept. */
GRADCORE_API gradcore_status gradcore_net_forward(gradcore_net *net, const gradcore_matrix *input, int32_t training,
                                                  void *output);

/* After forward(training = 1) on the same number of rows: overwrites the gradients, and fills grad_input
 * [rows, in_features] unless it is NULL. */
GRADCORE_API gradcore_status gradcore_net_backward(gradcore_net *net, const gradcore_matrix *grad_output,
                                                   void *grad_input);

/* The same two functions with strided outputs, such as parts of a larger array. Outputs must not overlap inputs.
 * output: [rows, out_features]. grad_input: NULL, or [rows, in_features]. */
GRADCORE_API gradcore_status gradcore_net_forward_into(gradcore_net *net, const gradcore_matrix *input,
                                                       int32_t training, const gradcore_output_matrix *output);
GRADCORE_API gradcore_status gradcore_net_backward_into(gradcore_net *net, const gradcore_matrix *grad_output,
                                                        const gradcore_output_matrix *grad_input);

/* Forward, loss and backward in one call; overwrites the gradients and updates running statistics. A loss or gradient
 * that overflows is not an error; check the results.
 * record != 0: measures the flow (below). */
GRADCORE_API gradcore_status gradcore_net_loss_and_gradients(gradcore_net *net, const gradcore_matrix *input,
                                                             const gradcore_target_data *target, int32_t loss,
                                                             int32_t record, double *loss_value);

/* Only the loss, in inference mode. The net does not change, but a forward pass that waits for its backward is
 * discarded. */
GRADCORE_API gradcore_status gradcore_net_loss(gradcore_net *net, const gradcore_matrix *input,
                                               const gradcore_target_data *target, int32_t loss, double *loss_value);

/* ---- optimizers ---------------------------------------------------------------------------- */

typedef struct gradcore_optimizer gradcore_optimizer;

typedef struct gradcore_optimizer_config {
  size_t size;         /* sizeof(gradcore_optimizer_config) of the caller */
  int32_t kind;        /* gradcore_optimizer_kind */
  int32_t nesterov;    /* sgd: 0, or 1 with momentum > 0 */
  double lr;           /* >= 0 */
  double momentum;     /* sgd, rmsprop; >= 0 */
  double weight_decay; /* >= 0: added to the gradient; adamw: decoupled */
  double alpha;        /* rmsprop: decay rate, in [0, 1) */
  double beta1, beta2; /* adam, adamw: in [0, 1) */
  double eps;          /* rmsprop, adam, adamw: > 0, not subnormal in the net's dtype */
} gradcore_optimizer_config;

/* An optimizer with state for the parameters of a net, with PyTorch's updates. The net must outlive its optimizers. */
GRADCORE_API gradcore_status gradcore_optimizer_create(gradcore_net *net, const gradcore_optimizer_config *config,
                                                       gradcore_optimizer **optimizer);
GRADCORE_API void gradcore_optimizer_destroy(gradcore_optimizer *optimizer);
GRADCORE_API gradcore_status gradcore_optimizer_set_lr(gradcore_optimizer *optimizer, double lr);
/* State vectors, each with the size and dtype of the net's flat buffer. sgd with momentum: velocities. rmsprop: mean
 * squares; with momentum, velocities before them. adam, adamw: first moments, then second moments. */
GRADCORE_API int32_t gradcore_optimizer_num_states(const gradcore_optimizer *optimizer);
GRADCORE_API void *gradcore_optimizer_state(gradcore_optimizer *optimizer, int32_t index);
/* Number of updates so far; set_step clamps it to [0, 2^53]. */
GRADCORE_API int64_t gradcore_optimizer_get_step(const gradcore_optimizer *optimizer);
GRADCORE_API void gradcore_optimizer_set_step(gradcore_optimizer *optimizer, int64_t step);

typedef struct gradcore_step {
  double loss;       /* 0 from gradcore_optimizer_step */
  double total_norm; /* L2 norm of all gradients, before clipping */
} gradcore_step;

/* One update from the net's gradients, which do not change. clip_norm > 0 scales them to at most that total norm
 * (by min(1, clip_norm / (total_norm + 1e-6))); then clip_value > 0 clamps each element; 0 means no clipping. A forward
 * pass that still waits for its backward is discarded: its activations belong to the old weights.
 * With clip_norm > 0, a non-finite total norm returns GRADCORE_NON_FINITE and leaves parameters and state unchanged;
 * *step then holds this norm.
 * record != 0: stores the update norms (NaN if the step was refused) and weight norms of this step in the flow; the
 * rest of the flow remains that of the last recorded pass. */
GRADCORE_API gradcore_status gradcore_optimizer_step(gradcore_optimizer *optimizer, double clip_norm, double clip_value,
                                                     int32_t record, gradcore_step *step);

/* loss_and_gradients and optimizer_step in one call. A step refused with GRADCORE_NON_FINITE leaves running statistics
 * unchanged, too; the gradients and *step are then those of the refused step. */
GRADCORE_API gradcore_status gradcore_net_train_step(gradcore_net *net, const gradcore_matrix *input,
                                                     const gradcore_target_data *target, int32_t loss,
                                                     gradcore_optimizer *optimizer, double clip_norm, double clip_value,
                                                     int32_t record, gradcore_step *step);

/* ---- files --------------------------------------------------------------------------------- */

/* Architecture, parameters and running statistics as one safetensors file, the same for C and Python.
 *
 * gradcore_net_save is atomic: a new file next to `path` is completed, flushed to disk and moved over it. A crash at
 * any moment leaves either the old file or the new one. Permissions are kept; so are owner and group where the process
 * may set them. A file that the process may not write is not replaced.
 * Loading checks everything: a file that is damaged or was not written by gradcore gives GRADCORE_INVALID_ARGUMENT and
 * a message that says what is wrong, before any memory for a net is allocated. *net is then NULL. */
GRADCORE_API gradcore_status gradcore_net_save(const gradcore_net *net, const char *path);
GRADCORE_API gradcore_status gradcore_net_load(const char *path, gradcore_net **net);
/* The same bytes in memory. *size receives their number. With data NULL nothing else is done; otherwise `capacity`, the
 * number of bytes available at data, must be at least *size. */
GRADCORE_API gradcore_status gradcore_net_save_to_memory(const gradcore_net *net, void *data, int64_t capacity,
                                                         int64_t *size);
GRADCORE_API gradcore_status gradcore_net_load_from_memory(const void *data, int64_t size, gradcore_net **net);

/* The state of an optimizer as a separate safetensors file: kind, step count and state vectors, without the learning
 * rate and other hyperparameters. It can be loaded into an optimizer of the same kind whose net has the same shapes;
 * training then continues bit for bit. On error the optimizer is unchanged. As for nets, writes are atomic, and
 * loading checks everything. */
GRADCORE_API gradcore_status gradcore_optimizer_save(const gradcore_optimizer *optimizer, const char *path);
GRADCORE_API gradcore_status gradcore_optimizer_load(gradcore_optimizer *optimizer, const char *path);

/* ---- gradient flow ------------------------------------------------------------------------- */

/* Statistics of one array. Sums are over its finite elements. */
typedef struct gradcore_array_stats {
  int64_t count;
  int64_t zeros, subnormals, nonfinite;
  double mean, variance; /* biased */
  double norm;           /* L2, without overflow */
  double max_abs;
  /* exact counts of nonzero finite elements that rounding to nearest even would flush to zero, or overflow, in
   * fp16, bf16, fp8 e4m3, fp8 e5m2 */
  int64_t flushed[4], overflowed[4];
} gradcore_array_stats;

/* Exponent histograms have one bin per power of two: bin i counts the finite nonzero elements with
 * floor(log2 |x|) == GRADCORE_MIN_EXPONENT_* + i. */
#define GRADCORE_MIN_EXPONENT_F32 (-149)
#define GRADCORE_NUM_BINS_F32 277
#define GRADCORE_MIN_EXPONENT_F64 (-1074)
#define GRADCORE_NUM_BINS_F64 2098

/* Measurements of a recorded pass at dense layer l: z = W x + b; y = norm(z); h = act(y) (+ x). */
typedef struct gradcore_layer_flow {
  gradcore_array_stats activation;  /* h: the layer's output (the net's output for the last layer) */
  gradcore_array_stats delta;       /* dL/dz */
  gradcore_array_stats weight_grad; /* dL/dW */
  double grad_output_norm;          /* |dL/dh| */
  double grad_preact_norm;          /* |dL/dy|; equals delta.norm without normalization */
  double weight_norm, bias_grad_norm;
  double mean_squared_derivative; /* mean of act'(y)^2 over units and rows; 1 for the last layer */
  int64_t act_zeros;              /* entries of act(y) that are exactly zero */
  int64_t saturated;              /* entries with |act'(y)| < 1 % of its maximum */
  int64_t dead_units;             /* units with act(y) == 0 on every row; 0 for the last layer */
  double update_norm;             /* norm of the change of W in the recorded step; NaN if no step was recorded */
} gradcore_layer_flow;

/* 0 before the first recorded pass. */
GRADCORE_API int32_t gradcore_net_num_flow_layers(const gradcore_net *net);
GRADCORE_API gradcore_status gradcore_net_flow(const gradcore_net *net, int32_t layer, gradcore_layer_flow *flow);
/* which: 0 = delta, 1 = weight gradient. histogram: [GRADCORE_NUM_BINS_*] of the net's dtype. */
GRADCORE_API gradcore_status gradcore_net_flow_histogram(const gradcore_net *net, int32_t layer, int32_t which,
                                                         int64_t *histogram);

/* ---- clipping of any gradients, in place ----------------------------------------------------- */

/* Scales num_arrays arrays of GRADCORE_FLOAT32 or _FLOAT64, with sizes[i] elements, by
 * min(1, max_norm / (total_norm + 1e-6)), as in PyTorch. norm_type: 2.0, any p > 0, or INFINITY.
 * If the total norm is not finite: with error_if_nonfinite, returns GRADCORE_NON_FINITE and changes nothing; without
 * it, scales as usual (infinity: finite elements become 0; NaN: all become NaN).
 * *total_norm receives the norm before clipping in every case; total_norm may be NULL. */
GRADCORE_API gradcore_status gradcore_clip_grad_norm(int32_t dtype, void *const *arrays, const int64_t *sizes,
                                                     int32_t num_arrays, double max_norm, double norm_type,
                                                     int32_t error_if_nonfinite, double *total_norm);
/* Clamps each element to [-clip_value, clip_value]; NaN stays. */
GRADCORE_API gradcore_status gradcore_clip_grad_value(int32_t dtype, void *const *arrays, const int64_t *sizes,
                                                      int32_t num_arrays, double clip_value);
/* Adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171) of a net's dense weights, per output unit: a row of
 * dW whose norm exceeds clipping * max(|row of W|, eps) is scaled to that norm. */
GRADCORE_API gradcore_status gradcore_clip_grad_adaptive(gradcore_net *net, double clipping, double eps);

/* ---- single ops on plain arrays (contiguous unless a stride is given) -------------------------- */

/* dtype is GRADCORE_FLOAT32 or _FLOAT64. Outputs come last and overlap nothing unless stated. NaN and infinity are
 * allowed. */

/* output [n, out] = input [n, in] weight^T [out, in] + bias (bias may be NULL). */
GRADCORE_API gradcore_status gradcore_op_dense(int32_t dtype, const gradcore_matrix *input,
                                               const gradcore_matrix *weight, const void *bias, void *output);
/* Any of grad_input [n, in], grad_weight [out, in], grad_bias [out] may be NULL. */
GRADCORE_API gradcore_status gradcore_op_dense_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                                        const gradcore_matrix *input, const gradcore_matrix *weight,
                                                        void *grad_input, void *grad_weight, void *grad_bias);
/* output [count] = act(input [count]); output may be input. */
GRADCORE_API gradcore_status gradcore_op_activation(int32_t dtype, int32_t activation, const void *input, int64_t count,
                                                    void *output);
/* grad_input = grad_output * act'(input), each [count]; grad_input may be either of the two. */
GRADCORE_API gradcore_status gradcore_op_activation_backward(int32_t dtype, int32_t activation, const void *grad_output,
                                                             const void *input, int64_t count, void *grad_input);
/* Batch norm of input [n, c] in training mode; save_mean, save_invstd [c] are outputs. eps of both norms is > 0 and a
 * normal number of the dtype. */
GRADCORE_API gradcore_status gradcore_op_batch_norm(int32_t dtype, const gradcore_matrix *input, const void *weight,
                                                    const void *bias, double eps, void *output, void *save_mean,
                                                    void *save_invstd);
/* save_mean, save_invstd: as saved by the forward op. grad_input [n, c]; grad_weight, grad_bias [c]. */
GRADCORE_API gradcore_status gradcore_op_batch_norm_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                                             const gradcore_matrix *input, const void *weight,
                                                             const void *save_mean, const void *save_invstd,
                                                             void *grad_input, void *grad_weight, void *grad_bias);
/* Layer norm of input [n, c] over its columns (bias NULL and rms = 1: RMS norm, whose save_mean is 0); save_mean,
 * save_invstd are [n].
 * All normalizations, also those of nets, square their inputs in the dtype: where the sum of squares is infinite
 * (inputs beyond about 1e18 in float, 1e153 in double), save_invstd is 0 and outputs are those of constant inputs. */
GRADCORE_API gradcore_status gradcore_op_layer_norm(int32_t dtype, const gradcore_matrix *input, const void *weight,
                                                    const void *bias, int32_t rms, double eps, void *output,
                                                    void *save_mean, void *save_invstd);
/* save_mean, save_invstd: as saved by the forward op. grad_input [n, c]; grad_weight, grad_bias [c] (NULL for RMS
 * norm). */
GRADCORE_API gradcore_status gradcore_op_layer_norm_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                                             const gradcore_matrix *input, const void *weight,
                                                             const void *save_mean, const void *save_invstd,
                                                             int32_t rms, void *grad_input, void *grad_weight,
                                                             void *grad_bias);
/* Mean-reduced loss of output [n, out]; grad_output [n, out] may be NULL. */
GRADCORE_API gradcore_status gradcore_op_loss(int32_t dtype, int32_t loss, const gradcore_matrix *output,
                                              const gradcore_target_data *target, double *loss_value,
                                              void *grad_output);
/* Statistics of array [count]. histogram: [GRADCORE_NUM_BINS_*] or NULL. */
GRADCORE_API gradcore_status gradcore_op_array_stats(int32_t dtype, const void *array, int64_t count,
                                                     gradcore_array_stats *stats, int64_t *histogram);

#ifdef __cplusplus
}
#endif

#include <gradcore/diagnosis.h>

#endif
