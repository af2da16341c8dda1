# The functions and types of gradcore/gradcore.h for Cython; that header is their documentation.
#
# Written from the header by tests/c_header.py, and held equal to it by tests/test_embedding.py.
# `const` inside a pointer type, which Cython does not know, is left out.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "gradcore/gradcore.h" nogil:
    enum:
        GRADCORE_ABI_VERSION
        GRADCORE_MIN_EXPONENT_F32
        GRADCORE_NUM_BINS_F32
        GRADCORE_MIN_EXPONENT_F64
        GRADCORE_NUM_BINS_F64

    ctypedef enum gradcore_status:
        GRADCORE_OK
        GRADCORE_INVALID_ARGUMENT
        GRADCORE_INVALID_STATE
        GRADCORE_NON_FINITE
        GRADCORE_OUT_OF_MEMORY
        GRADCORE_INTERNAL
        GRADCORE_IO_ERROR

    ctypedef enum gradcore_dtype:
        GRADCORE_FLOAT32
        GRADCORE_FLOAT64
        GRADCORE_BFLOAT16

    ctypedef enum gradcore_activation:
        GRADCORE_IDENTITY
        GRADCORE_RELU
        GRADCORE_LEAKY_RELU
        GRADCORE_ELU
        GRADCORE_SELU
        GRADCORE_GELU
        GRADCORE_GELU_TANH
        GRADCORE_SILU
        GRADCORE_MISH
        GRADCORE_SOFTPLUS
        GRADCORE_TANH
        GRADCORE_HARD_TANH
        GRADCORE_SIGMOID
        GRADCORE_NUM_ACTIVATIONS

    ctypedef enum gradcore_normalization:
        GRADCORE_NORM_NONE
        GRADCORE_NORM_BATCH
        GRADCORE_NORM_LAYER
        GRADCORE_NORM_RMS

    ctypedef enum gradcore_loss:
        GRADCORE_CROSS_ENTROPY
        GRADCORE_BINARY_CROSS_ENTROPY
        GRADCORE_MSE
        GRADCORE_MAE
        GRADCORE_HUBER
        GRADCORE_NUM_LOSSES

    ctypedef enum gradcore_optimizer_kind:
        GRADCORE_SGD
        GRADCORE_RMSPROP
        GRADCORE_ADAM
        GRADCORE_ADAMW
        GRADCORE_NUM_OPTIMIZERS

    ctypedef enum gradcore_initializer:
        GRADCORE_INIT_AUTO
        GRADCORE_INIT_GLOROT_UNIFORM
        GRADCORE_INIT_GLOROT_NORMAL
        GRADCORE_INIT_HE_UNIFORM
        GRADCORE_INIT_HE_NORMAL
        GRADCORE_INIT_LECUN_UNIFORM
        GRADCORE_INIT_LECUN_NORMAL
        GRADCORE_INIT_ORTHOGONAL
        GRADCORE_NUM_INITIALIZERS

    ctypedef enum gradcore_verdict:
        GRADCORE_VERDICT_HEALTHY
        GRADCORE_VERDICT_VANISHING
        GRADCORE_VERDICT_EXPLODING
        GRADCORE_VERDICT_NON_FINITE
        GRADCORE_NUM_VERDICTS

    ctypedef enum gradcore_severity:
        GRADCORE_INFO
        GRADCORE_WARNING
        GRADCORE_CRITICAL
        GRADCORE_NUM_SEVERITIES

    ctypedef enum gradcore_finding_kind:
        GRADCORE_FINDING_VANISHING
        GRADCORE_FINDING_EXPLODING
        GRADCORE_FINDING_NON_FINITE
        GRADCORE_FINDING_DEAD_UNITS
        GRADCORE_FINDING_SATURATION
        GRADCORE_FINDING_ZERO_GRADIENT
        GRADCORE_FINDING_LOSS_OUTPUT_MISMATCH
        GRADCORE_FINDING_UNSCALED_INPUT
        GRADCORE_FINDING_UPDATE_RATIO
        GRADCORE_FINDING_UNDERFLOW
        GRADCORE_NUM_FINDING_KINDS

    ctypedef enum gradcore_cause:
        GRADCORE_CAUSE_WEIGHT_SCALE
        GRADCORE_CAUSE_SATURATING_ACTIVATION
        GRADCORE_CAUSE_ACTIVATION_SLOPE
        GRADCORE_CAUSE_DEPTH
        GRADCORE_CAUSE_BATCH_NORM
        GRADCORE_CAUSE_NARROW_LAYER
        GRADCORE_CAUSE_INPUT_SCALE
        GRADCORE_CAUSE_TARGET_SCALE
        GRADCORE_CAUSE_OVERFLOW
        GRADCORE_CAUSE_DEAD_UNITS
        GRADCORE_CAUSE_LOSS_OUTPUT
        GRADCORE_CAUSE_LEARNING_RATE
        GRADCORE_CAUSE_PRECISION
        GRADCORE_NUM_CAUSES

    ctypedef struct gradcore_net:
        pass

    ctypedef struct gradcore_optimizer:
        pass

    ctypedef struct gradcore_diagnosis:
        pass

    ctypedef void (*gradcore_parallel_task)(void *argument, int32_t index) noexcept nogil

    ctypedef void (*gradcore_parallel_for)(void *context, int32_t num_tasks, gradcore_parallel_task task, void *argument) noexcept nogil

    ctypedef struct gradcore_net_config:
        size_t size
        const int64_t *widths
        int32_t num_widths
        const int32_t *activations
        int32_t normalization
        int32_t residual
        int32_t bias
        int32_t dtype

    ctypedef struct gradcore_tensor:
        const char *name
        int64_t offset
        int64_t rows
        int64_t cols
        int32_t rank

    ctypedef struct gradcore_matrix:
        const void *data
        int64_t rows
        int64_t cols
        int64_t stride

    ctypedef struct gradcore_output_matrix:
        void *data
        int64_t rows
        int64_t cols
        int64_t stride

    ctypedef struct gradcore_target_data:
        const int64_t *labels
        gradcore_matrix values
        int64_t num_labels

    ctypedef struct gradcore_optimizer_config:
        size_t size
        int32_t kind
        int32_t nesterov
        double lr
        double momentum
        double weight_decay
        double alpha
        double beta1
        double beta2
        double eps

    ctypedef struct gradcore_step:
        double loss
        double total_norm

    ctypedef struct gradcore_array_stats:
        int64_t count
        int64_t zeros
        int64_t subnormals
        int64_t nonfinite
        double mean
        double variance
        double norm
        double max_abs
        int64_t flushed[4]
        int64_t overflowed[4]

    ctypedef struct gradcore_layer_flow:
        gradcore_array_stats activation
        gradcore_array_stats delta
        gradcore_array_stats weight_grad
        double grad_output_norm
        double grad_preact_norm
        double weight_norm
        double bias_grad_norm
        double mean_squared_derivative
        int64_t act_zeros
        int64_t saturated
        int64_t dead_units
        double update_norm

    ctypedef struct gradcore_judgement:
        size_t size
        int32_t verdict
        int32_t num_findings
        int32_t num_passes
        int32_t num_steps
        double slope
        double slope_low
        double slope_high
        double systematic
        double systematic_low
        double systematic_high
        double batch_error
        double width_error
        double band

    ctypedef struct gradcore_finding:
        size_t size
        int32_t kind
        int32_t severity
        int32_t cause
        int32_t num_layers
        const int32_t *layers
        const char *explanation

    const char *gradcore_version()
    int32_t gradcore_abi_version()
    const char *gradcore_last_error()
    const char *gradcore_activation_name(int32_t activation)
    const char *gradcore_loss_name(int32_t loss)
    const char *gradcore_initializer_name(int32_t initializer)
    double gradcore_critical_gain_squared(int32_t activation)
    int32_t gradcore_num_targets()
    const char *gradcore_target_name(int32_t index)
    int32_t gradcore_target_supported(int32_t index)
    const char *gradcore_target()
    gradcore_status gradcore_set_target(const char *name)
    int32_t gradcore_has_bfloat16_products()
    int32_t gradcore_get_num_threads()
    const char *gradcore_num_threads_source()
    gradcore_status gradcore_set_num_threads(int32_t num_threads)
    gradcore_status gradcore_net_create(const gradcore_net_config *config, gradcore_net **net)
    void gradcore_net_destroy(gradcore_net *net)
    gradcore_status gradcore_net_initialize(gradcore_net *net, int32_t initializer, uint64_t seed)
    gradcore_status gradcore_net_initialize_words(
            gradcore_net *net,
            int32_t initializer,
            const uint32_t *seed,
            int32_t num_words)
    gradcore_status gradcore_net_set_threads(
            gradcore_net *net,
            gradcore_parallel_for parallel_for,
            void *context,
            int32_t num_threads)
    gradcore_status gradcore_net_get_config(const gradcore_net *net, gradcore_net_config *config)
    const char *gradcore_net_init(const gradcore_net *net)
    const char *gradcore_net_seed(const gradcore_net *net)
    gradcore_status gradcore_net_set_origin(gradcore_net *net, const char *init, const char *seed)
    int32_t gradcore_net_num_parameters(const gradcore_net *net)
    gradcore_status gradcore_net_parameter(const gradcore_net *net, int32_t index, gradcore_tensor *tensor)
    int32_t gradcore_net_num_buffers(const gradcore_net *net)
    gradcore_status gradcore_net_buffer(const gradcore_net *net, int32_t index, gradcore_tensor *tensor)
    int64_t gradcore_net_flat_size(const gradcore_net *net)
    int64_t gradcore_net_flat_buffer_size(const gradcore_net *net)
    void *gradcore_net_parameters(gradcore_net *net)
    void *gradcore_net_gradients(gradcore_net *net)
    void *gradcore_net_buffers(gradcore_net *net)
    void gradcore_net_parameters_changed(gradcore_net *net)
    int64_t gradcore_net_workspace_bytes(const gradcore_net *net)
    gradcore_status gradcore_net_forward(
            gradcore_net *net,
            const gradcore_matrix *input,
            int32_t training,
            void *output)
    gradcore_status gradcore_net_backward(gradcore_net *net, const gradcore_matrix *grad_output, void *grad_input)
    gradcore_status gradcore_net_forward_into(
            gradcore_net *net,
            const gradcore_matrix *input,
            int32_t training,
            const gradcore_output_matrix *output)
    gradcore_status gradcore_net_backward_into(
            gradcore_net *net,
            const gradcore_matrix *grad_output,
            const gradcore_output_matrix *grad_input)
    gradcore_status gradcore_net_loss_and_gradients(
            gradcore_net *net,
            const gradcore_matrix *input,
            const gradcore_target_data *target,
            int32_t loss,
            int32_t record,
            double *loss_value)
    gradcore_status gradcore_net_loss(
            gradcore_net *net,
            const gradcore_matrix *input,
            const gradcore_target_data *target,
            int32_t loss,
            double *loss_value)
    gradcore_status gradcore_optimizer_create(
            gradcore_net *net,
            const gradcore_optimizer_config *config,
            gradcore_optimizer **optimizer)
    void gradcore_optimizer_destroy(gradcore_optimizer *optimizer)
    gradcore_status gradcore_optimizer_set_lr(gradcore_optimizer *optimizer, double lr)
    int32_t gradcore_optimizer_num_states(const gradcore_optimizer *optimizer)
    void *gradcore_optimizer_state(gradcore_optimizer *optimizer, int32_t index)
    int64_t gradcore_optimizer_get_step(const gradcore_optimizer *optimizer)
    void gradcore_optimizer_set_step(gradcore_optimizer *optimizer, int64_t step)
    gradcore_status gradcore_optimizer_step(
            gradcore_optimizer *optimizer,
            double clip_norm,
            double clip_value,
            int32_t record,
            gradcore_step *step)
    gradcore_status gradcore_net_train_step(
            gradcore_net *net,
            const gradcore_matrix *input,
            const gradcore_target_data *target,
            int32_t loss,
            gradcore_optimizer *optimizer,
            double clip_norm,
            double clip_value,
            int32_t record,
            gradcore_step *step)
    gradcore_status gradcore_net_save(const gradcore_net *net, const char *path)
    gradcore_status gradcore_net_load(const char *path, gradcore_net **net)
    gradcore_status gradcore_net_save_to_memory(
            const gradcore_net *net,
            void *data,
            int64_t capacity,
            int64_t *size)
    gradcore_status gradcore_net_load_from_memory(const void *data, int64_t size, gradcore_net **net)
    gradcore_status gradcore_optimizer_save(const gradcore_optimizer *optimizer, const char *path)
    gradcore_status gradcore_optimizer_load(gradcore_optimizer *optimizer, const char *path)
    int32_t gradcore_net_num_flow_layers(const gradcore_net *net)
    gradcore_status gradcore_net_flow(const gradcore_net *net, int32_t layer, gradcore_layer_flow *flow)
    gradcore_status gradcore_net_flow_histogram(
            const gradcore_net *net,
            int32_t layer,
            int32_t which,
            int64_t *histogram)
    gradcore_status gradcore_clip_grad_norm(
            int32_t dtype,
            void **arrays,
            const int64_t *sizes,
            int32_t num_arrays,
            double max_norm,
            double norm_type,
            int32_t error_if_nonfinite,
            double *total_norm)
    gradcore_status gradcore_clip_grad_value(
            int32_t dtype,
            void **arrays,
            const int64_t *sizes,
            int32_t num_arrays,
            double clip_value)
    gradcore_status gradcore_clip_grad_adaptive(gradcore_net *net, double clipping, double eps)
    gradcore_status gradcore_op_dense(
            int32_t dtype,
            const gradcore_matrix *input,
            const gradcore_matrix *weight,
            const void *bias,
            void *output)
    gradcore_status gradcore_op_dense_backward(
            int32_t dtype,
            const gradcore_matrix *grad_output,
            const gradcore_matrix *input,
            const gradcore_matrix *weight,
            void *grad_input,
            void *grad_weight,
            void *grad_bias)
    gradcore_status gradcore_op_activation(
            int32_t dtype,
            int32_t activation,
            const void *input,
            int64_t count,
            void *output)
    gradcore_status gradcore_op_activation_backward(
            int32_t dtype,
            int32_t activation,
            const void *grad_output,
            const void *input,
            int64_t count,
            void *grad_input)
    gradcore_status gradcore_op_batch_norm(
            int32_t dtype,
            const gradcore_matrix *input,
            const void *weight,
            const void *bias,
            double eps,
            void *output,
            void *save_mean,
            void *save_invstd)
    gradcore_status gradcore_op_batch_norm_backward(
            int32_t dtype,
            const gradcore_matrix *grad_output,
            const gradcore_matrix *input,
            const void *weight,
            const void *save_mean,
            const void *save_invstd,
            void *grad_input,
            void *grad_weight,
            void *grad_bias)
    gradcore_status gradcore_op_layer_norm(
            int32_t dtype,
            const gradcore_matrix *input,
            const void *weight,
            const void *bias,
            int32_t rms,
            double eps,
            void *output,
            void *save_mean,
            void *save_invstd)
    gradcore_status gradcore_op_layer_norm_backward(
            int32_t dtype,
            const gradcore_matrix *grad_output,
            const gradcore_matrix *input,
            const void *weight,
            const void *save_mean,
            const void *save_invstd,
            int32_t rms,
            void *grad_input,
            void *grad_weight,
            void *grad_bias)
    gradcore_status gradcore_op_loss(
            int32_t dtype,
            int32_t loss,
            const gradcore_matrix *output,
            const gradcore_target_data *target,
            double *loss_value,
            void *grad_output)
    gradcore_status gradcore_op_array_stats(
            int32_t dtype,
            const void *array,
            int64_t count,
            gradcore_array_stats *stats,
            int64_t *histogram)
    gradcore_status gradcore_diagnosis_create(const gradcore_net *net, int32_t loss, gradcore_diagnosis **diagnosis)
    void gradcore_diagnosis_destroy(gradcore_diagnosis *diagnosis)
    gradcore_status gradcore_diagnosis_add(
            gradcore_diagnosis *diagnosis,
            const gradcore_matrix *input,
            double loss_value)
    void gradcore_diagnosis_reset(gradcore_diagnosis *diagnosis)
    gradcore_status gradcore_diagnosis_judge(
            gradcore_diagnosis *diagnosis,
            const gradcore_optimizer *optimizer,
            gradcore_judgement *judgement)
    gradcore_status gradcore_diagnosis_finding(
            const gradcore_diagnosis *diagnosis,
            int32_t index,
            gradcore_finding *finding)
    const char *gradcore_verdict_name(int32_t verdict)
    const char *gradcore_severity_name(int32_t severity)
    const char *gradcore_finding_kind_name(int32_t kind)
    const char *gradcore_cause_name(int32_t cause)
