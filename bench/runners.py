"""The same work in each library. A runner returns (callable to time, callable giving (loss, gradient norm))."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from cases import CLIP_NORM, LEARNING_RATE, Case, ClipCase, make_data

Runner = tuple[Callable[[], object], Callable[[], tuple[float, float]]]


@dataclass(frozen=True)
class Setting:
    """How a case is run."""

    threads: int
    dtype: str = "float32"
    record: bool = False  # all statistics of net.flow; gradcore only


def gradcore_net(case: Case, data: dict[str, np.ndarray], dtype: str):
    import gradcore as gc

    net = gc.MLP(case.widths, activation=case.activation, normalization=case.normalization, dtype=dtype)
    for name, value in net.parameters.items():
        value[...] = data.get(name, 1.0 if name.startswith("norm") and name.endswith("weight") else 0.0)
    return net


def run_gradcore(case: Case, setting: Setting) -> Runner:
    import gradcore as gc

    gc.set_num_threads(setting.threads)
    data = make_data(case, setting.dtype)
    net = gradcore_net(case, data, setting.dtype)
    x, y, record = data["x"], data["y"], setting.record
    optimizer = gc.optim.Adam(net, LEARNING_RATE)
    work = {
        "gradient": lambda: net.loss_and_gradients(x, y, record=record),
        "step": lambda: net.train_step(x, y, optimizer, clip_norm=CLIP_NORM, record=record),
        "forward": lambda: net(x),
    }[case.work]

    def check() -> tuple[float, float]:
        loss = net.loss_and_gradients(x, y)
        return loss, float(np.linalg.norm(np.asarray(net.gradients.flat, dtype=np.float64)))

    return work, check


def run_torch(case: Case, setting: Setting, compiled: bool = False) -> Runner:
    import torch

    import gradcore as gc

    torch.set_num_threads(setting.threads)
    data = make_data(case, setting.dtype)
    model = gc.to_torch(gradcore_net(case, data, setting.dtype))  # with bfloat16, of float32, for autocast
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, foreach=True)
    if compiled:
        torch._dynamo.reset()
    forward = torch.compile(model) if compiled else model
    rounds = setting.dtype == "bfloat16"
    autocast = partial(torch.autocast, "cpu", torch.bfloat16) if rounds else nullcontext

    def gradient() -> torch.Tensor:
        for p in parameters:
            p.grad = None
        with autocast():
            output = forward(x)
        loss = torch.nn.functional.cross_entropy(output.float() if rounds else output, y)
        loss.backward()
        return loss

    def step() -> None:
        gradient()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        with autocast():
            forward(x)

    def check() -> tuple[float, float]:
        loss = gradient().item()
        return loss, float(torch.sqrt(sum((p.grad.double() ** 2).sum() for p in parameters)))

    return {"gradient": gradient, "step": step, "forward": infer}[case.work], check


def run_torch_compile(case: Case, setting: Setting) -> Runner:
    return run_torch(case, setting, compiled=True)


def jax_product_of_bfloat16() -> Callable:
    """x @ w and its gradients with operands rounded to bfloat16, sums in float32."""
    import jax
    import jax.numpy as jnp

    product = partial(jnp.matmul, preferred_element_type=jnp.float32)

    def forward(x, w):
        x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
        return product(x, w), (x, w)

    def backward(saved, grad):
        x, w = saved
        grad = grad.astype(jnp.bfloat16)
        return product(grad, w.T), product(x.T, grad)

    multiply = jax.custom_vjp(lambda x, w: forward(x, w)[0])
    multiply.defvjp(forward, backward)
    return multiply


def jax_functions(case: Case, dtype: str):
    """(model, loss), both of (params, x, ...)."""
    import jax
    import jax.numpy as jnp

    multiply = jax_product_of_bfloat16() if dtype == "bfloat16" else jnp.matmul
    activation = {"tanh": jnp.tanh, "gelu": partial(jax.nn.gelu, approximate=False)}.get(case.activation) or getattr(
        jax.nn, case.activation
    )
    axis = {"batch": 0, "layer": 1, None: None}[case.normalization]

    def model(params, x):
        for p in params[:-1]:
            x = multiply(x, p["w"]) + p["b"]
            if axis is not None:
                mean, variance = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
                x = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["g"] + p["s"]
            x = activation(x)
        return multiply(x, params[-1]["w"]) + params[-1]["b"]

    def loss(params, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(model(params, x)), y[:, None], 1))

    return model, loss


def jax_update(loss: Callable) -> Callable:
    """Gradient, clip and Adam as one compiled function of (params, m, v, t, x, y)."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def update(params, m, v, t, x, y):
        grads = jax.grad(loss)(params, x, y)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        coef = jnp.minimum(1.0, CLIP_NORM / (norm + 1e-6))
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * coef * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (coef * g) ** 2, v, grads)
        params = jax.tree.map(
            lambda p, m, v: p - LEARNING_RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), params, m, v
        )
        return params, m, v, t

    return update


def run_jax(case: Case, setting: Setting) -> Runner:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", setting.dtype == "float64")
    data = make_data(case, setting.dtype)
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    params = [
        {"w": jnp.asarray(data[f"dense{layer}.weight"].T.copy()), "b": jnp.zeros(width, data["x"].dtype)}
        | ({"g": jnp.ones(width), "s": jnp.zeros(width)} if case.normalization and layer < case.depth else {})
        for layer, width in enumerate(case.widths[1:])
    ]
    model, loss = jax_functions(case, setting.dtype)
    value_and_grad, update, infer = jax.jit(jax.value_and_grad(loss)), jax_update(loss), jax.jit(model)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = [params, zeros, zeros, jnp.zeros(())]

    def step() -> None:
        state[:] = jax.block_until_ready(update(*state, x, y))

    def check() -> tuple[float, float]:
        value, grads = value_and_grad(params, x, y)
        return float(value), float(np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grads))))

    work = {
        "gradient": lambda: jax.block_until_ready(value_and_grad(params, x, y)),
        "step": step,
        "forward": lambda: jax.block_until_ready(infer(params, x)),
    }
    return work[case.work], check


# ---- clipping alone: the check gives the norm, twice ----


def clip_runner(case: ClipCase, clip: Callable, grads: list) -> Runner:
    """Clipped gradients stay within the bound, so the bound falls a little with every call that must scale."""
    norm = float(np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in case.make_arrays())))
    bound = norm

    def work() -> None:
        nonlocal bound
        bound *= 0.999 if case.scales else 1
        clip(grads, bound if case.scales else 2 * norm)

    def check() -> tuple[float, float]:
        return float(clip(grads, 2 * norm)), norm

    return work, check


def clip_gradcore(case: ClipCase, setting: Setting) -> Runner:
    import gradcore as gc

    gc.set_num_threads(setting.threads)
    return clip_runner(case, gc.clip_grad_norm_, case.make_arrays())


def clip_torch(case: ClipCase, setting: Setting) -> Runner:
    import torch

    torch.set_num_threads(setting.threads)
    parameters = [torch.nn.Parameter(torch.zeros(case.width, case.width)) for _ in range(case.count)]
    for parameter, grad in zip(parameters, case.make_arrays(), strict=True):
        parameter.grad = torch.from_numpy(grad)

    def clip(parameters: list, bound: float):
        return torch.nn.utils.clip_grad_norm_(parameters, bound, foreach=True)

    return clip_runner(case, clip, parameters)


RUNNERS = {"gradcore": run_gradcore, "torch": run_torch, "torch.compile": run_torch_compile, "jax": run_jax}
CLIP_RUNNERS = {"gradcore": clip_gradcore, "torch": clip_torch}
NEEDS = {"torch": "torch", "torch.compile": "torch", "jax": "jax"}


def prepare(library: str, case: Case | ClipCase, setting: Setting) -> Runner:
    runners = CLIP_RUNNERS if isinstance(case, ClipCase) else RUNNERS
    return runners[library](case, setting)


def verify(
    case: Case | ClipCase,
    answers: dict[str, tuple[float, float]],
    reference: tuple[float, float],
    dtype: str = "float32",
) -> None:
    """Check loss and gradient norm of each library against gradcore's in float64.

    The tolerance is 1e-3 (deep batch norm in float32 has large rounding errors), with products of bfloat16 5e-2. The
    tests compare gradcore's float64 with the oracles, and its bfloat16 with references that round in the same way.
    """
    tolerance = 5e-2 if dtype == "bfloat16" else 1e-3
    for name, answer in answers.items():
        for what, got, expected in zip(("loss", "gradient norm"), answer, reference, strict=True):
            if not abs(got - expected) <= tolerance * abs(expected):
                raise RuntimeError(f"{case.name}: {name} gives a {what} of {got:.8g}, float64 {expected:.8g}")
