"""PyTorch's optimizers as gradcore's: the next steps are the same, and a clear message about what does not fit."""

import warnings

import numpy as np
import pytest

import gradcore as gc

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(5)
X, LABELS = RNG.normal(size=(40, 6)), RNG.integers(0, 3, 40)

OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov and decay": ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    "RMSprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6}),
    "RMSprop with momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.01}),
    "Adam": ("Adam", {"lr": 0.003, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.02}),
    "AdamW": ("AdamW", {"lr": 0.003}),
    "Adam, decoupled": ("Adam", {"lr": 0.003, "weight_decay": 0.1, "decoupled_weight_decay": True}),
}


def model_of(torch, **options):
    net = gc.MLP([6, 8, 8, 3], dtype="float64", **{"activation": "tanh", "normalization": "layer", **options})
    return gc.to_torch(net)


def step(torch, model, optimizer):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(LABELS)).backward()
    optimizer.step()


def trained(torch, name, options, steps, model=None):
    model = model_of(torch) if model is None else model
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    for _ in range(steps):
        step(torch, model, optimizer)
    return model, optimizer


def read_quietly(model, optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return gc.from_torch(model, optimizer)


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_steps_are_the_same(torch, name, steps):
    """Settings, moments and step counts all show in them."""
    model, theirs = trained(torch, *OPTIMIZERS[name], steps)
    net, ours = read_quietly(model, theirs)
    for _ in range(3):
        step(torch, model, theirs)
        net.train_step(X, LABELS, ours)
    for tensor, values in model.state_dict().items():
        np.testing.assert_allclose(net.parameters[tensor], values.numpy(), rtol=1e-9, atol=1e-12, err_msg=tensor)


def test_the_model_and_its_optimizer_do_not_change(torch):
    model, theirs = trained(torch, *OPTIMIZERS["Adam"], 3)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    moments = [theirs.state[tensor]["exp_avg"].clone() for tensor in model.parameters()]
    net, ours = read_quietly(model, theirs)
    net.train_step(X, LABELS, ours)
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    for tensor, moment in zip(model.parameters(), moments, strict=True):
        assert torch.equal(theirs.state[tensor]["exp_avg"], moment) and int(theirs.state[tensor]["step"]) == 3


def test_settings_and_counts(torch):
    model, theirs = trained(torch, "Adam", {"lr": torch.tensor(0.003), "betas": (0.8, 0.95)}, 4)
    _, ours = read_quietly(model, theirs)
    assert type(ours) is gc.optim.Adam and ours.lr == pytest.approx(0.003) and ours.step_count == 4
    assert ours.hyperparameters["betas"] == (0.8, 0.95)
    _, ours = read_quietly(*trained(torch, *OPTIMIZERS["Adam, decoupled"], 0))
    assert type(ours) is gc.optim.AdamW and ours.step_count == 0
    for name, counted in (("SGD", 0), ("momentum", 1)):
        assert read_quietly(*trained(torch, *OPTIMIZERS[name], 4))[1].step_count == counted


def test_an_optimizer_of_a_larger_model(torch):
    """Only the part that is the net is read, where its parameters lie in groups beside others."""
    body, head = model_of(torch), torch.nn.Linear(3, 3, dtype=torch.float64)
    groups = [{"params": [*head.parameters()], "lr": 7.0}, {"params": [*body.parameters()][::-1]}]
    theirs = torch.optim.AdamW(groups, lr=0.01)
    step(torch, torch.nn.Sequential(body, head), theirs)
    net, ours = read_quietly(body, theirs)
    assert ours.lr == 0.01 and ours.step_count == 1
    moment = net.parameters.like(ours.state_dict()["states"][0])
    for name, tensor in body.named_parameters():
        np.testing.assert_array_equal(moment[name], theirs.state[tensor]["exp_avg"].numpy())


def test_float32_and_tensors_that_the_model_does_not_have(torch):
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 5, bias=False), torch.nn.LayerNorm(5, elementwise_affine=False), torch.nn.Linear(5, 3)
    )
    theirs = torch.optim.Adam(model.parameters())
    torch.nn.functional.cross_entropy(model(torch.from_numpy(X).float()), torch.from_numpy(LABELS)).backward()
    theirs.step()
    with pytest.warns(UserWarning, match="have no effect until they are trained"):
        net, ours = gc.from_torch(model, theirs)
    moment = net.parameters.like(ours.state_dict()["states"][0])
    np.testing.assert_array_equal(moment["dense0.weight"], theirs.state[model[0].weight]["exp_avg"].numpy())
    assert not moment["dense0.bias"].any() and not moment["norm0.weight"].any() and net.dtype == np.float32


def test_what_differs_is_told(torch):
    model = model_of(torch)
    decay = [tensor for name, tensor in model.named_parameters() if "dense" in name and name.endswith("weight")]
    rest = [tensor for tensor in model.parameters() if all(tensor is not each for each in decay)]
    groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    with pytest.warns(UserWarning, match=r"weight_decay is 0 for .*bias.*, but 0.01 in the net's optimizer"):
        _, ours = gc.from_torch(model, torch.optim.AdamW(groups))
    assert ours.hyperparameters["weight_decay"] == 0.01
    with pytest.warns(UserWarning, match="dense0.weight, dense0.bias are not updated by the model's optimizer"):
        gc.from_torch(model, torch.optim.SGD([*model.parameters()][2:], lr=0.1))
    theirs = torch.optim.Adam(model.parameters())
    for tensor in [*model.parameters()][:2]:
        tensor.requires_grad_(False)
    step(torch, model, theirs)
    for tensor in model.parameters():
        tensor.requires_grad_(True)
    step(torch, model, theirs)
    with pytest.warns(UserWarning, match="parameters have had 1 to 2 steps, the net's 2"):
        _, ours = gc.from_torch(model, theirs)
    assert ours.step_count == 2


def misfits(torch, model):
    """Optimizers that gradcore has no counterpart of, and what the error says."""
    parameters, optim = [*model.parameters()], torch.optim
    half = [{"params": parameters[:4]}, {"params": parameters[4:], "lr": 0.5}]

    class Own(optim.Adam):
        pass

    return [
        (optim.Adagrad(parameters), ValueError, "expected SGD, RMSprop, Adam or AdamW of torch.optim, got Adagrad"),
        (Own(parameters), ValueError, "expected SGD, RMSprop, Adam or AdamW of torch.optim, got Own"),
        (optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5), ValueError, "it has dampening=0.5, but"),
        (optim.Adam(parameters, amsgrad=True), ValueError, "it has amsgrad=True, but gradcore's Adam has no amsgrad"),
        (optim.SGD(parameters, lr=0.1, maximize=True), ValueError, "maximize=True"),
        (optim.RMSprop(parameters, centered=True), ValueError, "centered=True"),
        (optim.Adam(half, lr=0.1), ValueError, "expected the same lr for all parameters of the model, got 0.1 and 0.5"),
        (
            optim.SGD([torch.zeros(2, requires_grad=True)]),
            ValueError,
            "expected one of the model's parameters, got one",
        ),
        (optim.Adam(parameters, eps=0.0), ValueError, "eps: expected a finite number > 0"),
        (gc.optim.SGD(gc.MLP([2, 2]), lr=0.1), TypeError, "optimizer: expected a torch.optim.Optimizer, got"),
        (0.1, TypeError, "optimizer: expected a torch.optim.Optimizer, got 0.1"),
    ]


@pytest.mark.parametrize("number", range(11))
def test_what_does_not_fit_is_named(torch, number):
    model = model_of(torch)
    given, error, message = misfits(torch, model)[number]
    with pytest.raises(error) as raised:
        gc.from_torch(model, given)
    assert message in str(raised.value)


def test_a_training_under_way_is_analyzed_with_its_own_optimizer(torch):
    torch.manual_seed(0)
    layers = [part for _ in range(20) for part in (torch.nn.Linear(16, 16), torch.nn.Sigmoid())]
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), *layers, torch.nn.Linear(16, 3)).double()
    model, theirs = trained(torch, "SGD", {"lr": 0.1, "momentum": 0.9}, 3, model)
    net, ours = read_quietly(model, theirs)
    report = gc.analyze(net, X, LABELS, optimizer=ours)
    assert report.verdict == "vanishing" and report.conditions["optimizer"].startswith("SGD(")
