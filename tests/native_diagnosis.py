"""The diagnosis of the C interface, called on the nets and data that gc.analyze judges."""

import ctypes
from contextlib import ExitStack, contextmanager

import numpy as np

import c_api
import gradcore as gc

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")
KINDS = {"SGD": 0, "RMSprop": 1, "Adam": 2, "AdamW": 3}


class Judgement(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("verdict", "num_findings", "num_passes", "num_steps")),
        *((name, ctypes.c_double) for name in ("slope", "slope_low", "slope_high")),
        *((name, ctypes.c_double) for name in ("systematic", "systematic_low", "systematic_high")),
        *((name, ctypes.c_double) for name in ("batch_error", "width_error", "band")),
    )


class Finding(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("kind", "severity", "cause", "num_layers")),
        ("layers", ctypes.POINTER(ctypes.c_int32)),
        ("explanation", ctypes.c_char_p),
    )


class OptimizerConfig(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("kind", ctypes.c_int32),
        ("nesterov", ctypes.c_int32),
        *((name, ctypes.c_double) for name in ("lr", "momentum", "weight_decay", "alpha", "beta1", "beta2", "eps")),
    )


@contextmanager
def _owned(destroy, create, *arguments):
    handle = ctypes.c_void_p()
    c_api.call(create, *arguments, ctypes.byref(handle))
    try:
        yield handle
    finally:
        getattr(c_api.library(), f"gradcore_{destroy}")(handle)


def _net(net):
    data = gc.io.to_bytes(net)
    return _owned("net_destroy", "net_load_from_memory", data, ctypes.c_int64(len(data)))


def _optimizer(handle, optimizer):
    options = optimizer.hyperparameters
    config = OptimizerConfig(ctypes.sizeof(OptimizerConfig), KINDS[type(optimizer).__name__], 0, optimizer.lr)
    config.beta1, config.beta2 = options.get("betas", (0.0, 0.0))
    config.eps, config.momentum = options.get("eps", 1e-8), options.get("momentum", 0.0)
    config.weight_decay = options["weight_decay"]
    return _owned("optimizer_destroy", "optimizer_create", handle, ctypes.byref(config))


def _name(function, code):
    function = getattr(c_api.library(), f"gradcore_{function}_name")
    function.restype = ctypes.c_char_p
    name = function(code)
    return name and name.decode()


def diagnose(case, *, steps=False):
    """(verdict, Judgement, findings) of the C library on the batches of a Case of gc.analyze.

    steps: the passes are training steps of the case's optimizer instead of gradients.
    """
    loss = LOSSES.index(case.loss)
    with ExitStack() as stack:
        net = stack.enter_context(_net(case.net))
        diagnosis = stack.enter_context(_owned("diagnosis_destroy", "diagnosis_create", net, loss))
        optimizer = stack.enter_context(_optimizer(net, case.optimizer)) if case.optimizer else None
        for index in range(len(case.rows)):
            x, y = (np.ascontiguousarray(part) for part in case.batch(index))
            value, input_matrix, step = ctypes.c_double(), c_api.matrix(x), (ctypes.c_double * 8)()
            c_api.call("net_loss_and_gradients", net, input_matrix, c_api.target_data(y), loss, 1, ctypes.byref(value))
            if steps:
                c_api.call("optimizer_step", optimizer, ctypes.c_double(0.0), ctypes.c_double(0.0), 1, step)
            c_api.call("diagnosis_add", diagnosis, input_matrix, value)
        if optimizer:
            set_step = c_api.library().gradcore_optimizer_set_step
            set_step.argtypes, set_step.restype = (ctypes.c_void_p, ctypes.c_int64), None
            set_step(optimizer, case.optimizer.step_count)
        judgement = Judgement(ctypes.sizeof(Judgement))
        c_api.call("diagnosis_judge", diagnosis, optimizer, judgement)
        return _name("verdict", judgement.verdict), judgement, _findings(diagnosis, judgement.num_findings)


def _findings(diagnosis, count):
    found = []
    for index in range(count):
        finding = Finding(ctypes.sizeof(Finding))
        c_api.call("diagnosis_finding", diagnosis, index, finding)
        names = _name("finding_kind", finding.kind), _name("severity", finding.severity), _name("cause", finding.cause)
        layers = tuple(finding.layers[: finding.num_layers])
        found.append(gc.analysis.Finding(*names[:2], layers, names[2], finding.explanation.decode()))
    return found
