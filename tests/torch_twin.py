"""The same network in PyTorch: an oracle that shares no line with reference.py. Imported only with torch."""

import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, threshold=800),
    "tanh": torch.tanh,
    "hard_tanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
}
LOSSES = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


class Twin:
    """Parameters, buffers and forward pass of a reference.Net, in float64 unless said otherwise."""

    def __init__(self, net, params, buffers=None, dtype=torch.float64):
        self.net = net
        self.params = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in params.items()}
        self.buffers = {name: torch.tensor(value, dtype=dtype) for name, value in (buffers or {}).items()}

    def forward(self, x, training=True):
        net, p = self.net, self.params
        for layer in range(net.depth):
            y = F.linear(x, p[f"dense{layer}.weight"], p.get(f"dense{layer}.bias"))
            if net.is_normalized(layer):
                y = self._normalize(layer, y, training)
            if net.is_hidden(layer):
                y = ACTIVATIONS[net.activations[layer]](y)
            x = x + y if net.has_skip(layer) else y
        return x

    def _normalize(self, layer, y, training):
        weight, bias = self.params[f"norm{layer}.weight"], self.params.get(f"norm{layer}.bias")
        if self.net.normalization == "layer":
            return F.layer_norm(y, y.shape[1:], weight, bias)
        if self.net.normalization == "rms":
            return F.rms_norm(y, y.shape[1:], weight, eps=1e-5)
        running = [self.buffers.get(f"norm{layer}.{kind}") for kind in ("running_mean", "running_var")]
        return F.batch_norm(y, *running, weight, bias, training=training)

    def loss_and_gradients(self, x, target, loss):
        """(loss, gradients by name) of one training pass."""
        for value in self.params.values():
            value.grad = None
        dtype = next(iter(self.params.values())).dtype
        x, target = torch.from_numpy(np.asarray(x)).to(dtype), torch.from_numpy(np.asarray(target))
        value = LOSSES[loss](self.forward(x), target.to(dtype) if target.is_floating_point() else target)
        value.backward()
        return value.item(), {name: value.grad.numpy() for name, value in self.params.items()}
