"""Kinds of model: what people bring. Three classes, eight hidden values, images of 1 x 4 x 4 or 3 x 4 x 4."""

import functools
import math
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

K = 3


@dataclass(frozen=True)
class Kind:
    """An ingredient: how it is made, what is expected of it ("good", "bad": must be refused, "either"), and its traits.

    Traits of models: `random` draws, `batch` looks at the others in the batch, `coarse` computes in few bits, `flat` has no gradient,
    `deaf` runs no `nn.Linear` that can be watched, `own` raises an error of its own, `fixed` cannot be copied.
    """

    make: Callable[..., Any]
    expect: str = "good"
    traits: str = ""


class OwnError(Exception):
    "What a model raises that has troubles of its own"


def as_it_is(x):
    return x


class Net(nn.Module):
    "Two linear layers; `first` is done to the images, `last` to the logits"

    def __init__(self, shape: tuple[int, ...], first: Callable = as_it_is, last: Callable = as_it_is):
        super().__init__()
        self.first, self.last = first, last
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.Tanh(), nn.Linear(8, K))
        with torch.no_grad():
            self.body[3].weight.mul_(4)

    def forward(self, x):
        z = self.body(self.first(x))
        return self.last(z)


class Static(Net):
    "Gives the same tensor each time, as a captured CUDA graph does"

    def forward(self, x):
        z = super().forward(x)
        self.out = getattr(self, "out", torch.empty(4096, K, dtype=z.dtype, device="cpu"))
        return z if z.requires_grad else self.out[: len(z)].copy_(z)


class Counts(Net):
    "Counts its calls in a buffer, also in evaluation mode"

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Mixed(nn.Module):
    "A first parameter in half precision that takes no part, the rest in float32"

    def __init__(self, shape):
        super().__init__()
        self.aside, self.net = nn.Parameter(torch.zeros(2, dtype=torch.float16)), Net(shape)

    def forward(self, x):
        return self.net(x)


class Restless(Net):
    "Puts itself in training mode, and keeps what it saw"

    def forward(self, x):
        self.seen = self.train() and x
        return super().forward(x)


class Listed(nn.Module):
    "An ensemble in a plain list, of which PyTorch knows nothing"

    def __init__(self, shape):
        super().__init__()
        self.members = [Net(shape), Net(shape)]

    def forward(self, x):
        return sum(m(x) for m in self.members)


class Bare(nn.Module):
    "No parameter at all: the first pixels, some of which it likes less"

    def forward(self, x):
        return x.flatten(1)[:, :K] - 0.4


def plain(shape) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.ReLU(), nn.Linear(8, K))


def conv(shape, **settings) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(shape[0], 2, 3, padding=1, **settings), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, K))


def changed(net: nn.Module, change: Callable) -> nn.Module:
    change(net)
    return net


def inference(shape) -> nn.Module:
    with torch.inference_mode():
        return Net(shape)


def zeroes(x):
    z = x.clone()
    with torch.no_grad():
        x.zero_()
    return z


def no_grad(x):
    with torch.no_grad():
        return x * 1


def raises(x):
    raise OwnError("I do not feel like it")


@functools.cache
def exported(shape) -> nn.Module:
    images = ({0: torch.export.Dim("n")},)
    return torch.export.export(plain(shape).eval(), (torch.zeros(2, *shape),), dynamic_shapes=images).module()


MODELS = {
    "plain": Kind(plain),
    "linear": Kind(lambda s: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(s), K))),
    "convolution, train mode": Kind(lambda s: conv(s).train()),
    "convolution, eval mode": Kind(lambda s: conv(s).eval()),
    "modes mixed": Kind(lambda s: changed(conv(s), lambda m: m[1].eval())),
    "frozen": Kind(lambda s: Net(s).requires_grad_(False)),
    "partly frozen": Kind(lambda s: changed(Net(s), lambda m: m.body[1].requires_grad_(False))),
    "channels last": Kind(lambda s: conv(s).to(memory_format=torch.channels_last)),
    "dropout always on": Kind(lambda s: Net(s, lambda x: F.dropout(x, 0.3, True)), traits="random"),
    "dropout in eval mode": Kind(lambda s: nn.Sequential(plain(s), nn.Dropout(0.5)).eval()),
    "draws at random": Kind(lambda s: Net(s, lambda x: x + torch.rand_like(x) / 10), traits="random"),
    "draws from NumPy": Kind(lambda s: Net(s, lambda x: x + float(np.random.rand()) / 10), traits="random"),
    "changes its input in place": Kind(lambda s: Net(s, lambda x: x.sub_(0.5).div_(0.25))),
    "first layer in place": Kind(lambda s: nn.Sequential(nn.ReLU(inplace=True), plain(s))),
    "zeroes its input": Kind(lambda s: Net(s, zeroes)),
    "static output": Kind(Static),
    "counts its calls": Kind(lambda s: changed(Counts(s), lambda m: m.register_buffer("calls", torch.zeros((), dtype=torch.int64)))),
    "batch statistics": Kind(lambda s: Net(s, lambda x: x - x.mean(0, keepdim=True) / 2), traits="batch"),
    "made in inference mode": Kind(inference),
    "float64": Kind(lambda s: Net(s).double()),
    "bfloat16": Kind(lambda s: Net(s).bfloat16(), traits="coarse"),
    "float16": Kind(lambda s: Net(s).half(), traits="coarse"),
    "dtypes mixed": Kind(Mixed),
    "logits in float64": Kind(lambda s: Net(s, last=lambda z: z.double())),
    "int8": Kind(lambda s: torch.ao.quantization.quantize_dynamic(Net(s).eval(), {nn.Linear}, torch.qint8), traits="batch coarse flat deaf fixed"),
    "complex logits": Kind(lambda s: Net(s, last=lambda z: torch.complex(z, z)), "bad"),
    "whole logits": Kind(lambda s: Net(s, last=lambda z: F.one_hot(z.argmax(1), K)), "either", "flat"),
    "probabilities": Kind(lambda s: Net(s, last=lambda z: z.softmax(1)), "bad"),
    "log-softmax": Kind(lambda s: Net(s, last=lambda z: z.log_softmax(1))),
    "NaN logits": Kind(lambda s: Net(s, last=lambda z: z * math.nan), "bad"),
    "NaN weights": Kind(lambda s: changed(Net(s), lambda m: m.body[1].weight.data.fill_(math.nan)), "bad"),
    "infinite logits": Kind(lambda s: Net(s, last=lambda z: z / 0), "bad"),
    "NaN gradient": Kind(lambda s: Net(s, lambda x: x + 0 * (x - x).sqrt()), traits="flat"),
    "zero gradient": Kind(lambda s: Net(s, lambda x: (4 * x).round() / 4), traits="flat"),
    "no gradient": Kind(lambda s: Net(s, last=lambda z: z.detach()), traits="flat"),
    "no_grad inside": Kind(lambda s: Net(s, no_grad).requires_grad_(False), traits="flat"),
    "through NumPy": Kind(lambda s: Net(s, lambda x: torch.from_numpy(x.numpy())), "either", "flat"),
    "lazy": Kind(lambda s: nn.Sequential(nn.Flatten(), nn.LazyLinear(K)), "bad"),
    "on meta": Kind(lambda s: Net(s).to("meta"), "bad"),
    "scripted": Kind(lambda s: torch.jit.script(plain(s)), traits="deaf fixed"),
    "traced": Kind(lambda s: torch.jit.trace(plain(s).eval(), torch.zeros(2, *s)), traits="deaf fixed"),
    "exported": Kind(exported, "either", "deaf fixed"),
    "gives a tuple": Kind(lambda s: Net(s, last=lambda z: (z, z)), "bad"),
    "gives a dict": Kind(lambda s: Net(s, last=lambda z: {"logits": z}), "bad"),
    "gives .logits": Kind(lambda s: Net(s, last=lambda z: types.SimpleNamespace(logits=z))),
    "gives (N, K, 1)": Kind(lambda s: Net(s, last=lambda z: z[..., None]), "bad"),
    "gives one class": Kind(lambda s: Net(s, last=lambda z: z[:, :1]), "bad"),
    "gives too few": Kind(lambda s: Net(s, last=lambda z: z[1:]), "bad"),
    "gives None": Kind(lambda s: Net(s, last=lambda z: None), "bad"),
    "sparse logits": Kind(lambda s: Net(s, last=lambda z: z.to_sparse()), "bad"),
    "watched by hooks": Kind(lambda s: changed(Net(s), lambda m: (m.register_forward_hook(lambda m, i, o: None), m.register_forward_pre_hook(lambda m, i: None)))),
    "backward hook": Kind(lambda s: changed(Net(s), lambda m: m.register_full_backward_hook(lambda m, i, o: None))),
    "hook changes the output": Kind(lambda s: changed(Net(s), lambda m: m.register_forward_hook(lambda m, i, o: -o))),
    "parametrised": Kind(lambda s: changed(Net(s), lambda m: nn.utils.parametrizations.weight_norm(m.body[1]))),
    "spectral norm, train mode": Kind(lambda s: changed(Net(s), lambda m: nn.utils.parametrizations.spectral_norm(m.body[1]))),
    "raises its own error": Kind(lambda s: Net(s, raises), "bad", "own"),
    "logits of 1e30": Kind(lambda s: Net(s, last=lambda z: z * 1e30)),
    "constant logits": Kind(lambda s: Net(s, last=torch.zeros_like), traits="flat"),
    "no parameters": Kind(lambda s: Bare(), traits="deaf"),
    "ensemble in a list": Kind(Listed, traits="deaf"),
    "trains itself": Kind(Restless),
    "shared layer": Kind(lambda s: changed(Net(s), lambda m: setattr(m, "again", m.body[1]))),
    "one class in K by a view": Kind(lambda s: Net(s, last=lambda z: z[:, :1].expand(-1, K))),
    "cannot be copied": Kind(lambda s: changed(Net(s), lambda m: setattr(m, "rng", torch.Generator())), traits="fixed"),
    "no module": Kind(lambda s: (lambda x: x.flatten(1)[:, :K]), "bad"),
    "a class": Kind(lambda s: Net, "bad"),
    "None": Kind(lambda s: None, "bad"),
    "images as they are": Kind(lambda s: nn.Sequential(), "bad"),
}


def made(name: str, shape: tuple[int, ...]) -> Any:
    "The model of that kind, the same each time"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        return MODELS[name].make(shape)
