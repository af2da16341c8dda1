# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""Trains nets from Cython without the GIL: several threads of Python train at once, each its own net."""

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

cimport gradcore
import numpy as np


def train(const float[:, ::1] x, const int64_t[::1] labels, const int64_t[::1] widths,
          const float[::1] parameters, *, int steps, int batch_size=32, double lr=1e-3):
    """Train a relu net on consecutive batches with Adam, from `parameters` (its flat buffer).

    Returns (last loss, parameters). Everything between the two conversions runs without the GIL.
    """
    if x.shape[0] < batch_size or labels.shape[0] != x.shape[0]:
        raise ValueError(f"expected at least {batch_size} rows and as many labels, got {x.shape[0]} and "
                         f"{labels.shape[0]}")
    cdef gradcore.gradcore_net *net = NULL
    cdef gradcore.gradcore_optimizer *optimizer = NULL
    cdef double loss = 0.0
    try:
        with nogil:
            net = relu_net(widths)
            write(net, parameters)
            optimizer = adam(net, lr)
            loss = run(net, optimizer, x, labels, steps, batch_size)
        return loss, np.array(<float[:gradcore.gradcore_net_flat_size(net)]> gradcore.gradcore_net_parameters(net))
    finally:
        gradcore.gradcore_optimizer_destroy(optimizer)
        gradcore.gradcore_net_destroy(net)


cdef gradcore.gradcore_net *relu_net(const int64_t[::1] widths) except NULL nogil:
    cdef gradcore.gradcore_net *net = NULL
    cdef gradcore.gradcore_net_config config
    cdef int32_t activations[64]
    cdef int i
    if not 2 <= widths.shape[0] <= 66:
        with gil:
            raise ValueError(f"widths: expected 2 to 66, got {widths.shape[0]}")
    for i in range(64):
        activations[i] = gradcore.GRADCORE_RELU
    memset(&config, 0, sizeof(config))
    config.size = sizeof(config)
    config.widths, config.num_widths = &widths[0], <int32_t> widths.shape[0]
    config.activations, config.bias = activations, 1
    config.dtype = gradcore.GRADCORE_FLOAT32
    gradcore.gradcore_check(gradcore.gradcore_net_create(&config, &net))
    return net


cdef int write(gradcore.gradcore_net *net, const float[::1] parameters) except -1 nogil:
    cdef float *flat = <float *> gradcore.gradcore_net_parameters(net)
    cdef int64_t i
    if parameters.shape[0] != gradcore.gradcore_net_flat_size(net):
        with gil:
            raise ValueError(f"parameters: expected {gradcore.gradcore_net_flat_size(net)} values, "
                             f"got {parameters.shape[0]}")
    for i in range(parameters.shape[0]):
        flat[i] = parameters[i]
    gradcore.gradcore_net_parameters_changed(net)
    return 0


cdef gradcore.gradcore_optimizer *adam(gradcore.gradcore_net *net, double lr) except NULL nogil:
    cdef gradcore.gradcore_optimizer *optimizer = NULL
    cdef gradcore.gradcore_optimizer_config config
    memset(&config, 0, sizeof(config))
    config.size, config.kind, config.lr = sizeof(config), gradcore.GRADCORE_ADAM, lr
    config.beta1, config.beta2, config.eps = 0.9, 0.999, 1e-8
    gradcore.gradcore_check(gradcore.gradcore_optimizer_create(net, &config, &optimizer))
    return optimizer


cdef double run(gradcore.gradcore_net *net, gradcore.gradcore_optimizer *optimizer, const float[:, ::1] x,
                const int64_t[::1] labels, int steps, int batch_size) except? -1.0 nogil:
    cdef gradcore.gradcore_step step
    cdef gradcore.gradcore_matrix batch
    cdef gradcore.gradcore_target_data target
    cdef int64_t batches = x.shape[0] // batch_size, first
    cdef int i
    step.loss = 0.0
    for i in range(steps):
        first = i % batches * batch_size
        batch = gradcore.gradcore_matrix_of(x[first:first + batch_size])
        target = gradcore.gradcore_labels_of(labels[first:first + batch_size])
        gradcore.gradcore_check(gradcore.gradcore_net_train_step(
            net, &batch, &target, gradcore.GRADCORE_CROSS_ENTROPY, optimizer, 1.0, 0.0, 0, &step))
    return step.loss
