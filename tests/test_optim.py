"""The optimizers: step by step against their equations and against PyTorch; schedules; state."""

import math
import pickle
import re

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from nets import Case, assert_same_bits, copies
from reference import Net

# name, options; each row exercises one more term of the update
UPDATES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.5, "weight_decay": 0.1, "eps": 1e-3}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"betas": (0.8, 0.95), "weight_decay": 0.2}),
]
STEPS = 7
each_update = pytest.mark.parametrize(("name", "options"), UPDATES, ids=lambda value: str(value))


def random_gradients(mlp, rng):
    """Fills the net's gradients, a few of them exactly zero; returns them in float64."""
    for value in mlp.gradients.values():
        value[...] = rng.standard_normal(value.shape) * np.exp(rng.standard_normal(value.shape))
        value.flat[0] = 0
    return {name: value.astype(np.float64) for name, value in mlp.gradients.items()}


def assert_parameters_close(mlp, expected, dtype):
    tolerance = tolerances.optimizer(dtype, STEPS)
    for name, value in expected.items():
        np.testing.assert_allclose(mlp.parameters[name], value, rtol=0, atol=tolerance * max(1, np.abs(value).max()))


def small_case(dtype):
    return Case(Net((6, 37, 11, 4), ("tanh", "gelu"), "layer"), dtype, batch_size=12)


@each_update
def test_equations(name, options, target, dtype, rng):
    case = small_case(dtype)
    optimizer = getattr(gc.optim, name)(case.mlp, lr=0.03, **options)
    params, states = dict(case.params), {key: {} for key in case.params}
    for _ in range(STEPS):
        grads = random_gradients(case.mlp, rng)
        assert optimizer.step() == pytest.approx(reference.total_norm(grads.values()), rel=1e-6)
        for key, grad in grads.items():
            params[key] = reference.OPTIMIZERS[name](params[key], grad, states[key], lr=0.03, **options)
        assert_parameters_close(case.mlp, params, dtype)


@pytest.mark.torch
@each_update
def test_pytorch(name, options, dtype, rng, torch):
    case = small_case(dtype)
    optimizer = getattr(gc.optim, name)(case.mlp, lr=0.03, **options)
    twins = {key: torch.tensor(value, requires_grad=True) for key, value in case.params.items()}
    twin_optimizer = getattr(torch.optim, name)(twins.values(), lr=0.03, **options)
    for _ in range(STEPS):
        for key, grad in random_gradients(case.mlp, rng).items():
            twins[key].grad = torch.from_numpy(grad)
        optimizer.step()
        twin_optimizer.step()
        assert_parameters_close(case.mlp, {key: value.detach().numpy() for key, value in twins.items()}, dtype)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_defaults_are_pytorchs(name, dtype, rng, torch):
    """With nothing but a learning rate given, one net trained by both stays one net."""
    from torch_twin import LOSSES, Twin

    case = small_case(dtype)
    optimizer = getattr(gc.optim, name)(case.mlp, lr=0.01)
    twin = Twin(case.net, case.params)
    twin_optimizer = getattr(torch.optim, name)(twin.params.values(), lr=0.01)
    x, target = torch.from_numpy(case.x).double(), torch.from_numpy(case.target).double()
    for _ in range(STEPS):
        step = case.mlp.train_step(case.x, case.target, optimizer, loss="mse")
        twin_optimizer.zero_grad()
        loss = LOSSES["mse"](twin.forward(x), target)
        loss.backward()
        twin_optimizer.step()
        assert step.loss == pytest.approx(loss.item(), rel=tolerances.NETWORK[dtype.name])


@pytest.mark.parametrize(
    "clipping", [{"clip_norm": 0.5}, {"clip_value": 0.2}, {"clip_norm": 5.0, "clip_value": 0.2}], ids=str
)
def test_step_clips_what_it_uses_not_what_is_kept(clipping, dtype, rng):
    case = small_case(dtype)
    optimizer = gc.optim.SGD(case.mlp, lr=1.0)
    grads = random_gradients(case.mlp, rng)
    norm = reference.total_norm(grads.values())
    assert optimizer.step(**clipping) == pytest.approx(norm, rel=1e-6)

    coefficient = reference.clip_coefficient(norm, clipping.get("clip_norm", math.inf))
    bound = clipping.get("clip_value", math.inf)
    expected = {key: case.params[key] - np.clip(coefficient * grad, -bound, bound) for key, grad in grads.items()}
    assert_parameters_close(case.mlp, expected, dtype)
    assert_same_bits(case.mlp.gradients, {key: grad.astype(dtype) for key, grad in grads.items()})


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_norm_with_clipping_touches_nothing(name, bad, dtype, rng):
    case = small_case(dtype)
    optimizer = getattr(gc.optim, name)(case.mlp, lr=0.1)
    random_gradients(case.mlp, rng)
    optimizer.step()
    twin_params = copies(case.mlp.parameters)
    case.mlp.gradients["dense1.weight"][3, 2] = bad
    with pytest.raises(FloatingPointError, match="norm"):
        optimizer.step(clip_norm=1.0)
    assert_same_bits(case.mlp.parameters, twin_params)

    # the state was not touched either: the next step is what it would have been
    case.mlp.gradients["dense1.weight"][3, 2] = 0.5
    optimizer.step()
    undisturbed = small_case(dtype)
    other = getattr(gc.optim, name)(undisturbed.mlp, lr=0.1)
    random_gradients(undisturbed.mlp, np.random.default_rng(20240229))
    other.step()
    undisturbed.mlp.gradients["dense1.weight"][3, 2] = 0.5
    other.step()
    assert_same_bits(case.mlp.parameters, copies(undisturbed.mlp.parameters))


def test_without_clipping_non_finite_gradients_go_through(rng):
    case = small_case("float32")
    optimizer = gc.optim.SGD(case.mlp, lr=0.1)
    random_gradients(case.mlp, rng)
    case.mlp.gradients["dense0.bias"][2] = np.nan
    assert math.isnan(optimizer.step())
    assert np.isnan(case.mlp.parameters["dense0.bias"]).tolist() == [i == 2 for i in range(37)]
    assert np.isfinite(case.mlp.parameters["dense0.weight"]).all()


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_smallest_eps_leaves_parameters_without_a_gradient_where_they_are(name, dtype):
    """One that is subnormal in the net's dtype is refused: it may round to zero, and 0 / 0 is NaN."""
    net = gc.MLP([3, 4, 2], dtype=dtype)
    before, least = copies(net.parameters), float(np.finfo(net.dtype).tiny)
    getattr(gc.optim, name)(net, lr=0.1, eps=least, weight_decay=0.0).step()  # gradients are zero
    assert_same_bits(net.parameters, before)
    with pytest.raises(ValueError, match=r"^eps: expected a finite number >= .*normal number of the dtype, got"):
        getattr(gc.optim, name)(net, lr=0.1, eps=least / 2)


# ---- learning rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_gradient_counts_in_full_after_a_much_larger_one(name, target, dtype, rng):
    """As torch.lerp: m + (1 - beta1) (g - m), computed from m alone, would keep of g what m's last digit leaves."""
    mlp = small_case(dtype).mlp
    optimizer = getattr(gc.optim, name)(mlp, betas=(0.0, 0.999))
    random_gradients(mlp, rng)
    for scale in (1.0, 2.0**-70):
        mlp.gradients.flat[:] *= scale
        optimizer.step()
        np.testing.assert_array_equal(optimizer.state_dict()["states"][0], mlp.gradients.flat)


def test_schedule_is_called_with_the_step(rng):
    case, steps = small_case("float64"), []

    def schedule(step):
        steps.append(step)
        return 0.1 / (1 + step)

    optimizer = gc.optim.SGD(case.mlp, lr=schedule)
    params = dict(case.params)
    for step in range(4):
        grads = random_gradients(case.mlp, rng)
        optimizer.step()
        params = {key: value - 0.1 / (1 + step) * grads[key] for key, value in params.items()}
    assert_parameters_close(case.mlp, params, np.dtype("float64"))
    assert sorted(set(steps)) == [0, 1, 2, 3]


def test_learning_rate_may_change_between_steps(rng):
    case = small_case("float64")
    optimizer = gc.optim.SGD(case.mlp, lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    grads = random_gradients(case.mlp, rng)
    optimizer.step()
    assert_parameters_close(
        case.mlp, {key: value - 0.25 * grads[key] for key, value in case.params.items()}, np.dtype("float64")
    )


def test_zero_learning_rate_moves_nothing(rng, dtype):
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        case = small_case(dtype)
        before = copies(case.mlp.parameters)
        random_gradients(case.mlp, rng)
        getattr(gc.optim, name)(case.mlp, lr=0.0).step()
        assert_same_bits(case.mlp.parameters, before)


def test_padding_between_tensors_stays_zero(rng):
    case = small_case("float32")
    used = np.zeros(case.mlp.parameters.flat.size, bool)
    start = case.mlp.parameters.flat.ctypes.data
    for value in case.mlp.parameters.values():
        first = (value.ctypes.data - start) // 4
        used[first : first + value.size] = True
    optimizer = gc.optim.AdamW(case.mlp, lr=0.1)
    for _ in range(3):
        case.mlp.train_step(case.x, case.target, optimizer, loss="mse")
    assert not used.all()
    assert (case.mlp.parameters.flat[~used] == 0).all() and (case.mlp.gradients.flat[~used] == 0).all()


def of_ones_own(step):
    return 0.1 / (1 + step)


@pytest.mark.parametrize(
    ("schedule", "shown"),
    [
        (gc.optim.warmup(gc.optim.cosine(0.1, 100), 5),
         "warmup(schedule=cosine(lr=0.1, total_steps=100, final_lr=0.0), steps=5)"),
        (gc.optim.exponential(0.1, 0.9), "step(lr=0.1, step_size=1, gamma=0.9)"),
        (of_ones_own, "<function of_ones_own>"),
        (0.1, "0.1"),
    ],
)  # fmt: skip
def test_an_optimizer_is_shown_without_addresses(schedule, shown):
    """They stood in every report of a net with a schedule, and made its JSON differ from run to run."""
    net = gc.MLP([3, 2])
    optimizer = gc.optim.SGD(net, lr=schedule)
    assert repr(optimizer) == f"SGD(lr={shown}, momentum=0.0, nesterov=False, weight_decay=0.0)"
    again = pickle.loads(pickle.dumps(optimizer))
    assert repr(again) == repr(optimizer) and again.lr == optimizer.lr
    report = gc.analyze(net, np.eye(3), np.arange(3) % 2, optimizer=optimizer)
    assert report.conditions["optimizer"] == repr(optimizer)


# ---- schedules of gc.optim ---------------------------------------------------------------------------------


def test_schedules_by_their_formulas():
    optim = gc.optim
    steps = range(12)
    assert [optim.constant(0.1)(s) for s in steps] == [0.1] * 12
    assert [optim.step(1.0, 5, 0.5)(s) for s in steps] == [1.0] * 5 + [0.5] * 5 + [0.25] * 2
    assert [optim.exponential(1.0, 0.5)(s) for s in steps] == [0.5**s for s in steps]
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * min(s / 8, 1))) / 2 for s in steps]
    assert [optim.cosine(1.0, 8, 0.1)(s) for s in steps] == pytest.approx(cosine)
    warm = [0.2 * min((s + 1) / 4, 1) for s in steps]
    assert [optim.warmup(0.2, 4)(s) for s in steps] == pytest.approx(warm)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            gc.optim.exponential(1e-3, 1.1),
            "lr: exponential at step 10000: expected a finite number, got 0.001 * 1.1^10000",
        ),
        (
            gc.optim.warmup(gc.optim.step(0.1, 4, 10), 5),
            "lr: step at step 10000: expected a finite number, got 0.1 * 10^2500",
        ),
        (gc.optim.exponential(1e300, 1.01), "lr: the schedule at step 10000: expected a finite number >= 0, got inf"),
    ],
    ids=["exponential", "step", "product"],
)
def test_a_schedule_that_outgrows_all_floats_says_when_and_changes_nothing(schedule, message):
    case = small_case("float32")
    optimizer = gc.optim.Adam(case.mlp, lr=schedule)
    optimizer.load_state_dict(optimizer.state_dict() | {"step_count": 10_000})
    kept = copies(case.mlp.parameters)
    for step in (lambda: case.mlp.train_step(case.x, case.target, optimizer, loss="mse"), optimizer.step):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            step()
    assert_same_bits(case.mlp.parameters, kept)
    assert optimizer.step_count == 10_000 and not any(state.any() for state in optimizer.state_dict()["states"])
    optimizer.lr = 0.1
    optimizer.step()


@pytest.mark.torch
def test_one_cycle_is_pytorchs(torch):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=20)
    schedule = gc.optim.one_cycle(0.5, 20)
    for step in range(20):
        assert schedule(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        if step < 19:
            optimizer.step()
            scheduler.step()


# ---- state ---------------------------------------------------------------------------------------------------


@each_update
def test_state_continues_in_another_optimizer(name, options, rng):
    """Saved after three steps and loaded into a fresh one, the next steps are the same to the bit."""
    one, two = small_case("float32"), small_case("float32")
    make = getattr(gc.optim, name)
    first = make(one.mlp, lr=0.03, **options)
    for _ in range(3):
        random_gradients(one.mlp, rng)
        first.step()
    two.mlp.parameters.flat[...] = one.mlp.parameters.flat
    second = make(two.mlp, lr=0.5, **options)
    second.load_state_dict(first.state_dict())
    assert (second.step_count, second.lr) == (3, 0.03)
    for _ in range(2):
        random_gradients(one.mlp, rng)
        two.mlp.gradients.flat[...] = one.mlp.gradients.flat
        first.step()
        second.step()
    assert_same_bits(two.mlp.parameters, copies(one.mlp.parameters))


@pytest.mark.parametrize(
    ("entry", "value", "error"),
    [
        ("step_count", -1, ValueError),
        ("step_count", 2**53 + 1, ValueError),
        ("step_count", 2**70, ValueError),
        ("step_count", 1.5, TypeError),
        ("lr", -1.0, ValueError),
        ("lr", "fast", TypeError),
        ("states", [np.zeros(3, np.float32)] * 2, ValueError),
    ],
)
def test_a_state_that_is_refused_changes_nothing(entry, value, error):
    case = small_case("float32")
    optimizer = gc.optim.Adam(case.mlp, lr=0.03)
    state = optimizer.state_dict()
    other = state | {"states": [np.ones_like(values) for values in state["states"]], entry: value}
    with pytest.raises(error, match="state vectors" if entry == "states" else entry):
        optimizer.load_state_dict(other)
    after = optimizer.state_dict()
    assert (after["lr"], after["step_count"]) == (0.03, 0)
    assert all((values == 0).all() for values in after["states"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("whole_steps", [True, False], ids=["train_step", "step"])
@pytest.mark.parametrize(
    ("widths", "batch_size"), [((20, 30, 33, 5), 3), ((300, 1100, 1100, 10), 70)], ids=["few rows", "large weights"]
)
def test_the_net_computes_with_the_weights_it_shows(widths, batch_size, whole_steps, threads, num_threads, rng):
    """Steps keep copies of the weights for the products, or read them where they lie; a copy of the net makes them anew."""
    num_threads(threads)
    mlp = gc.MLP(widths, activation="tanh", seed=1)  # without a view of its parameters: those make all copies stale
    x, labels = rng.normal(size=(batch_size, widths[0])).astype(np.float32), np.arange(batch_size) % widths[-1]
    optimizer = gc.optim.SGD(mlp, lr=0.05, momentum=0.9)
    for _ in range(3):
        if whole_steps:
            mlp.train_step(x, labels, optimizer)
        else:
            mlp.loss_and_gradients(x, labels)
            optimizer.step()
    output = mlp(x)
    for passes in range(3):  # the first may read the weights in place, the second pack them
        loss, gradients = mlp.loss_and_gradients(x, labels), copies(mlp.gradients)
        if passes == 0:
            afresh = mlp.copy()
            assert (afresh(x) == output).all()
        assert loss == afresh.loss_and_gradients(x, labels), passes
        assert_same_bits(afresh.gradients, gradients)
