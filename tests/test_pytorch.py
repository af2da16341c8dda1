"""Nets from PyTorch modules and back: the same numbers, and a clear message about whatever does not fit."""

import io
import pickle
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest

import gradcore as gc

NETS = {
    "plain": {"activation": "tanh"},
    "one layer": {"widths": [6, 3]},
    "each activation": {"widths": [6, *[8] * len(gc.activations()), 3], "activation": gc.activations()},
    "batch norm": {"normalization": "batch"},
    "layer norm, no bias": {"normalization": "layer", "bias": False, "activation": "silu"},
    "rms norm": {"normalization": "rms", "activation": "gelu_tanh"},
    "skips": {"residual": True, "activation": "gelu"},
    "skip at the input": {"widths": [8, 8, 8, 3], "residual": True, "normalization": "layer"},
    "no skip": {"widths": [6, 7, 8, 3], "residual": True},
}


def drawn(options, dtype="float64"):
    """A net in which every number is something of its own."""
    net = gc.MLP(**{"widths": [6, 8, 8, 7, 7, 3], **options}, dtype=dtype)
    rng = np.random.default_rng(3)
    for tensors in (net.parameters, net.buffers):
        for name, values in tensors.items():
            values[...] = rng.normal(size=values.shape) / np.sqrt(values.shape[-1])
            if "norm" in name and name.endswith(("weight", "running_var")):
                values[...] = 1 + 0.3 * np.abs(values)
    return net


def sequential(torch, *parts):
    return torch.nn.Sequential(torch.nn.Linear(4, 5), *parts)


def read_quietly(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return gc.from_torch(model)


# ---- there and back ------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_the_module_computes_what_the_net_does(torch, options):
    net = drawn(options)
    model = gc.to_torch(net)
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(11, net.in_features)), rng.integers(0, net.out_features, 11)
    with torch.no_grad():
        np.testing.assert_allclose(net(x), model.eval()(torch.from_numpy(x)).numpy(), rtol=1e-8, atol=1e-11)

    loss = torch.nn.functional.cross_entropy(model.train()(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    assert net.loss_and_gradients(x, labels) == pytest.approx(loss.item(), rel=1e-10)
    theirs = dict(model.named_parameters())
    assert list(theirs) == list(net.gradients)
    for name, ours in net.gradients.items():
        np.testing.assert_allclose(ours, theirs[name].grad.numpy(), rtol=1e-6, atol=1e-10, err_msg=name)
    state = model.state_dict()
    for name, ours in net.buffers.items():  # both have seen the batch
        np.testing.assert_allclose(ours, state[name].numpy(), rtol=1e-10, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_there_and_back_is_the_same_net(torch, options, dtype):
    net = drawn(options, dtype)
    back = read_quietly(gc.to_torch(net))
    expected = {**net.config, "init": "custom", "dtype": net.dtype.name}
    if not gc.mlp.skip_connections(net.config).any():
        expected["residual"] = False
    assert back.config == expected
    for ours, theirs in ((net.parameters, back.parameters), (net.buffers, back.buffers)):
        assert list(ours) == list(theirs)
        for name, values in ours.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.torch
def test_nothing_of_the_program_is_changed(torch):
    model = gc.to_torch(drawn({"normalization": "batch"})).eval()
    model.register_forward_hook(lambda module, inputs, output: setattr(module, "last", output.detach()))
    attributes = dict(vars(model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    net = gc.from_torch(model)
    gc.to_torch(net)
    assert torch.equal(torch.rand(3), expected)  # no random number was taken
    net.parameters["dense0.weight"] = 0.0
    net.buffers["norm0.running_mean"] = 9.0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(part.training for part in model.modules())
    assert vars(model) == attributes
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.torch
@pytest.mark.parametrize("name", ["batch norm", "skips"])
def test_the_module_is_pytorchs_alone(torch, name):
    model = gc.to_torch(drawn(NETS[name]))
    assert {type(part).__module__.partition(".")[0] for part in model.modules()} == {"torch"}
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.ones(2, 6, dtype=torch.float64)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


# ---- models as people write them --------------------------------------------------------------------------


def written_models(torch):
    nn, F = torch.nn, torch.nn.functional

    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            x = x.float().view(x.size(0), -1)
            for layer, f in zip(self.layers, (F.relu, torch.tanh, lambda x: x.sigmoid()), strict=True):
                x = f(layer(x))
            return self.out(F.dropout(x, 0.0))

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.dense, self.norm, self.act = nn.Linear(width, width), nn.LayerNorm(width), nn.GELU("tanh")

        def forward(self, x):
            return self.act(self.norm(self.dense(x))) + x

    class Lin(nn.Linear):
        """Nothing of its own, but not PyTorch's."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(1, 5)), nn.Parameter(torch.randn(1))
            self.inner = nn.Sequential(Lin(12, 5), nn.LeakyReLU())

        def forward(self, x):
            batch = x.shape[0]
            x = self.inner(x.reshape(batch * 1, 12))
            return F.linear(x, self.weight, self.bias).squeeze(-1)

    blocks = nn.Sequential(nn.Linear(12, 6), nn.LayerNorm(6), nn.Identity(), Block(6), Block(6), nn.Linear(6, 2))
    options = [nn.ELU(), nn.Softplus(), nn.Hardtanh(), nn.Mish(inplace=True)]
    mixed = [part for act in options for part in (nn.Linear(12, 12), act)]
    functions = [lambda x: F.leaky_relu(x, 0.01, True), lambda x: F.gelu(x, approximate="tanh"), F.selu, torch.relu_]

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(12, 12) for _ in functions)

        def forward(self, x):
            for part, f in zip(self.parts, functions, strict=True):
                x = torch.add(x, f(part(x)))
            return x

    class Wary(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(12, 8)
            self.compile(backend="eager")

        def forward(self, x, mask=None, *, keep=True):
            if x.dim() == 1 or x.ndim > 2:
                x = x.reshape(-1, 12)
            x = self.dense(input=x.to(self.dense.weight.device, self.dense.weight.dtype))
            if keep:
                self.kept = x.detach().norm()
            return F.relu(input=x) if mask is None else x * mask

    return {
        "functions": Functions(),
        "blocks": blocks,
        "parameters": Weighted(),
        "flat": nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 4), nn.SiLU()), nn.Linear(4, 1)),
        "one Linear": nn.Linear(12, 3),
        "linear layers": nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 4), nn.Linear(4, 2)),
        "mixed": nn.Sequential(*mixed, nn.Linear(12, 2)),
        "called": nn.Sequential(Called(), nn.Linear(12, 4)),
        "wrapped": nn.DataParallel(nn.Sequential(torch.compile(Wary(), backend="eager"), nn.Linear(8, 1))),
        "output's shape": nn.Sequential(nn.Linear(12, 1), nn.Flatten(0)),
    }


MODELS = [
    "functions",
    "blocks",
    "parameters",
    "flat",
    "one Linear",
    "linear layers",
    "mixed",
    "called",
    "wrapped",
    "output's shape",
]


@pytest.mark.torch
@pytest.mark.parametrize("name", MODELS)
def test_models_as_people_write_them(torch, name):
    torch.manual_seed(0)
    model = written_models(torch)[name]
    net = read_quietly(model)
    assert net.dtype == np.float32
    x = np.random.default_rng(5).normal(size=(9, net.in_features)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(net(x).reshape(theirs.shape), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.torch
def test_what_it_is_made_of_is_told(torch):
    net = read_quietly(written_models(torch)["blocks"])
    assert net.widths == (12, 6, 6, 6, 2) and net.residual and net.normalization == "layer"
    assert net.activations == ("identity", "gelu_tanh", "gelu_tanh")


@pytest.mark.torch
def test_no_precision_is_lost_where_only_the_head_is_float64(torch):
    model = sequential(torch, torch.nn.ReLU(), torch.nn.Linear(5, 2).double())
    net = read_quietly(model)
    assert net.dtype == np.float64
    np.testing.assert_array_equal(net.parameters["dense1.weight"], model[2].weight.detach().numpy())


@pytest.mark.torch
def test_half_precision_becomes_float32(torch):
    model = sequential(torch, torch.nn.ReLU(), torch.nn.Linear(5, 2)).bfloat16()
    net = read_quietly(model)
    assert net.dtype == np.float32
    np.testing.assert_array_equal(net.parameters["dense1.weight"], model[2].weight.detach().float().numpy())


# ---- what is not the same ----------------------------------------------------------------------------------


def read_with_note(model):
    with pytest.warns(UserWarning, match="^the net differs from the model: ") as caught:
        net = gc.from_torch(model)
    (warning,) = caught
    assert warning.filename == __file__
    return net, str(warning.message).partition(": ")[2]


@pytest.mark.torch
def test_what_is_left_out_or_added_is_told(torch):
    nn = torch.nn

    def note(*parts):
        return read_with_note(sequential(torch, *parts))[1]

    end = nn.Linear(5, 2)
    assert note(nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.1), end) == "Dropout is left out"
    eps = "the eps of the model's normalizations is "
    assert note(nn.LayerNorm(5, eps=1e-6), nn.ReLU(), end) == eps + "1e-06, that of the net 1e-05"
    assert note(nn.RMSNorm(5), nn.ReLU(), end) == eps + "1.2e-07, that of the net 1e-05"
    assert "model's batch norm is 0.01, that of the net 0.1" in note(nn.BatchNorm1d(5, momentum=0.01), end)
    frozen = nn.BatchNorm1d(5).eval()
    assert note(frozen, end) == "batch norm that the model keeps in evaluation mode is trained by the net"
    assert not frozen.training
    assert "keeps no running statistics" in note(nn.BatchNorm1d(5, track_running_stats=False), end)
    assert "loss='cross_entropy' contains it" in note(nn.ReLU(), end, nn.LogSoftmax(dim=1))
    assert "applies it twice" in note(nn.ReLU(), end, nn.Softmax(dim=1))
    assert "loss='binary_cross_entropy'" in note(nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid(), nn.Flatten(0))
    assert "loss='binary_cross_entropy'" in note(nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0), nn.Sigmoid())


@pytest.mark.torch
def test_tensors_that_are_missing_do_nothing(torch):
    nn = torch.nn
    parts = [
        part for _ in range(4) for part in (nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.ReLU())
    ]
    model = nn.Sequential(*parts, nn.Linear(5, 3)).double()
    net, note = read_with_note(model)
    assert note == (
        "the model has no dense0.bias, norm0.weight, norm0.bias, ..., norm3.bias; in the net they have no effect until "
        "they are trained"
    )
    x = np.random.default_rng(0).normal(size=(7, 5))
    with torch.no_grad():
        np.testing.assert_allclose(net(x), model.eval()(torch.from_numpy(x)).numpy(), rtol=1e-10)
    assert read_quietly(nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(2)))).bias is False


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["weight norm", "spectral norm", "spectral norm of old", "pruning"])
def test_tensors_that_are_computed_are_those_of_the_next_batch(torch, name):
    """After a step of an optimizer the attributes that hooks have set are those of the batch before it."""
    from torch.nn.utils import prune

    utils = torch.nn.utils
    compute = {
        "weight norm": utils.weight_norm,
        "spectral norm": utils.parametrizations.spectral_norm,
        "spectral norm of old": utils.spectral_norm,
        "pruning": lambda linear: prune.l1_unstructured(linear, "weight", 0.5),
    }[name]
    torch.manual_seed(0)
    model = torch.nn.Sequential(compute(torch.nn.Linear(4, 5)), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(16, 4)
    model(x).square().mean().backward()
    optimizer.step()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net, note = read_with_note(model)
    assert note.startswith("tensors of 0 (Linear) are computed")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        np.testing.assert_allclose(net(x), model.eval()(x).numpy(), atol=1e-6)


@pytest.mark.torch
def test_hooks_and_frozen_parameters_are_told(torch):
    nn = torch.nn
    model = nn.Sequential(sequential(torch, nn.ReLU()), nn.Linear(5, 5), nn.Identity(), nn.Linear(5, 2))
    model[0].register_full_backward_hook(lambda *_: None)
    model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    model[2].register_forward_pre_hook(lambda *_: None)
    model[3].forward = lambda x: x[:, :2]
    model[1].requires_grad_(False)
    assert read_with_note(model)[1] == (
        "backward hooks of 0 are left out; hooks of 1 (Linear), 2 (Identity), 3 (Linear) are left out; "
        "dense1.weight, dense1.bias require no gradients, but the net trains them"
    )
    assert model[0]._backward_hooks and len(model(torch.ones(3, 4))) == 3


# ---- what does not fit --------------------------------------------------------------------------------------


def misfits(torch):
    nn, F = torch.nn, torch.nn.functional

    def module(forward, *layers):
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(layers)

            def forward(self, x):
                return forward(self.layers, x)

        return Module()

    def linears(*widths):
        return [nn.Linear(a, b) for a, b in pairwise(widths)]

    shared, end = nn.Linear(5, 5), nn.Linear(5, 2)
    batch, layer = nn.BatchNorm1d(5), nn.LayerNorm(5)
    weight_normed, tied = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)), nn.Linear(5, 5)
    tied.bias = shared.bias
    integers = torch.ao.quantization.quantize_dynamic(sequential(torch, nn.ReLU(), end), {nn.Linear})
    return {
        r"0 \(Conv2d\) has no counterpart": nn.Sequential(nn.Conv2d(1, 2, 3), end),
        r"it has no dense layer": nn.Sequential(nn.Flatten()),
        r"1 \(BatchNorm1d\) comes before.*standardize x": nn.Sequential(nn.Flatten(), batch, end),
        r"2 \(BatchNorm1d\) does not follow a dense": sequential(torch, nn.ReLU(), batch, end),
        r"0 \(ReLU\) comes before": nn.Sequential(nn.ReLU(), end),
        r"2 \(Tanh\) follows relu": sequential(torch, nn.ReLU(), nn.Tanh(), end),
        r"1 \(ReLU6\) has no counterpart": sequential(torch, nn.ReLU6(), end),
        r"1 \(PReLU\) has no counterpart": sequential(torch, nn.PReLU(), end),
        r"1 \(LeakyReLU\) has negative_slope=0.2, but": sequential(torch, nn.LeakyReLU(0.2), end),
        r"softplus\(\) has beta=2.*at 1.0": module(lambda a, x: a[1](F.softplus(a[0](x), beta=2)), *linears(4, 5, 2)),
        r"hardtanh\(\) has max_val=2": module(lambda a, x: a[1](F.hardtanh(a[0](x), -1.0, 2.0)), *linears(4, 5, 2)),
        r"2 \(Linear\) is the last layer, but tanh": nn.Sequential(nn.Linear(4, 5), nn.ReLU(), end, nn.Tanh()),
        r"1 \(Linear\) is the last layer, but LayerNorm": sequential(torch, nn.Linear(5, 5), nn.LayerNorm(5)),
        r"3 \(Linear\) follows 2 \(Softmax\)": sequential(torch, end, nn.Softmax(1), nn.Linear(2, 2)),
        r"the same normalization after all.*BatchNorm1d, none": sequential(torch, batch, nn.ReLU(), shared, end),
        r"is used twice": sequential(torch, nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), end),
        r"mul\(\) depends on values other": module(lambda a, x: a[0](x) + a[0](x * 0.5), nn.Linear(4, 4)),
        r"mul\(\) has no counterpart": module(lambda a, x: a[0](x * 2), nn.Linear(4, 2)),
        r"add\(\) adds something other": module(
            lambda a, x: a[2](x + a[1](a[0](x).relu()).relu()), *linears(4, 4, 4, 2)
        ),
        r"add\(\) adds something": module(lambda a, x: a[1](a[0](x) + 1), *linears(4, 4, 2)),
        r"the return value depends on values other": module(lambda a, x: (a[0](x), x), nn.Linear(4, 2)),
        r"\[0, 1\], or around none, got them around \[1\]": module(
            lambda a, x: (lambda h: a[2](h + a[1](h).relu()))(a[0](x).relu()), *linears(4, 4, 4, 2)
        ),
        r"cannot trace its forward \(.*control flow": module(
            lambda a, x: a[0](x) if x.sum() > 0 else x, nn.Linear(4, 2)
        ),
        r"cannot trace its forward \(.*argument.*pass the part": module(lambda a, x, *, y: a[0](x), nn.Linear(4, 2)),
        r"1 \(Linear\) is used twice": sequential(torch, weight_normed, nn.ReLU(), weight_normed, nn.ReLU(), end),
        r"2 \(Linear\) is used twice": sequential(torch, shared, tied, end),
        r"1 \(LayerNorm\) is used twice": sequential(torch, layer, nn.Linear(5, 5), layer, nn.ReLU(), end),
        r"0 \(Linear\) has no weights yet; run a batch": nn.Sequential(nn.LazyLinear(5), end),
        r"1 \(LazyBatchNorm1d\) has no weights yet": sequential(torch, nn.LazyBatchNorm1d(), end),
        r"1 \(LayerNorm\) is on the meta device": sequential(torch, nn.LayerNorm(5, device="meta"), end),
        r"Linear has a tensor \[5, 4\] of torch.complex64; ": nn.Linear(4, 5, dtype=torch.complex64),
        r"1 \(Linear\) has a tensor \[0, 5\].*at least one unit": sequential(torch, nn.Linear(5, 0)),
        r"0 \(torch\.ao.*quantized.*Linear\) has no": integers,
        r"torch\.jit made it": torch.jit.trace(end, torch.ones(1, 5)),
        r"2 \(Softmax\) normalizes over the batch": sequential(torch, end, nn.Softmax(0)),
        r"layers\.0 \(Linear\) runs without autograd": module(
            torch.no_grad()(lambda a, x: a[1](a[0](x).relu())), *linears(4, 5, 2)
        ),
        r"batch_norm\(\) is a function": module(
            lambda a, x: a[1](F.batch_norm(a[0](x), None, None, training=True)), *linears(4, 5, 2)
        ),
        r"t\(\) does not depend on the input": module(lambda a, x: F.linear(a[0](x), a[0].weight.t()), shared),
    }


MISFITS = range(38)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # torch.jit, quantized and empty layers
@pytest.mark.parametrize("number", MISFITS)
def test_what_does_not_fit_is_named(torch, number):
    cases = misfits(torch)
    assert len(cases) == len(MISFITS)
    message, model = list(cases.items())[number]
    with pytest.raises(ValueError, match=message) as caught:
        gc.from_torch(model)
    assert str(caught.value).startswith("model: ")


def test_wrong_arguments(monkeypatch):
    with pytest.raises(TypeError, match=r"net: expected a gradcore\.MLP, got"):
        gc.to_torch([4, 2])
    monkeypatch.setitem(sys.modules, "torch", None)
    for function, argument in ((gc.to_torch, gc.MLP([4, 2])), (gc.from_torch, None)):
        with pytest.raises(ModuleNotFoundError, match="needs PyTorch, which is not installed"):
            function(argument)


@pytest.mark.torch
def test_models_of_another_kind(torch):
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got"):
        gc.from_torch(gc.MLP([4, 2]))


# ---- what it is for -----------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_model_is_diagnosed_and_its_cure_brought_back(torch):
    nn = torch.nn
    torch.manual_seed(0)
    parts = [part for _ in range(20) for part in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*parts, nn.Linear(16, 3))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 16)).astype(np.float32)
    labels = np.argmax(x[:, :3], axis=1)
    report = gc.analyze(gc.from_torch(model), x, labels, batch_size=32)
    assert report.verdict == "vanishing"
    best = report.remedies()[0]
    assert best.helps
    cured = gc.to_torch(best.apply())
    loss = nn.functional.cross_entropy(cured(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    first = next(cured.parameters()).grad
    assert float(first.norm()) > 1e-4
