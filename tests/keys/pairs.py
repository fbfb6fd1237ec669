"""Pairs of models, attacks, scores and values for the cache's keys: those that differ in one thing, those that differ in nothing that matters."""

import array
import collections
import copy
import datetime
import decimal
import enum
import fractions
import functools
import io
import itertools
import linecache
import math
import operator
import pickle
import random
import re
import sys
import types
import uuid
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from confnb.architectures import Normalize
from confnb.attacks import pgd
from confnb.models import seeded
from confnb.neighbours import mcn
from confnb.quantization import QuantLinear
from confnb.sets import L2, Linf
from confnb.topics.shells import Shell

# how a pair is written down


@dataclass(frozen=True)
class Code:
    "A file `mine.py` beside a `mine_helper.py`, or cells of a notebook, and the thing in it that is meant; each call loads them as a new process does"

    text: str
    helper: str = ""
    main: bool = False
    after: Callable[[Any], None] | None = None  # what is done to the module once it is loaded

    def __call__(self, home: Path) -> Any:
        for name, text in ("mine_helper", self.helper), ("mine", self.text):
            module = types.ModuleType("__main__" if self.main and name == "mine" else name)
            if module.__name__ == "__main__":
                where = f"<cell of {abs(hash(text))}>"
                linecache.cache[where] = (len(text), None, text.splitlines(True), where)
            else:
                module.__file__ = where = str(home / f"{name}.py")
                Path(where).write_text(text)
                sys.modules[name] = module
            exec(compile(text, where, "exec"), module.__dict__)
        if self.after:
            self.after(module)
        return module.thing


@dataclass(frozen=True)
class Pair:
    "Two things: what they are, whether both must have a key, whether a table on four images tells them apart"

    name: str
    a: Callable[..., Any]
    b: Callable[..., Any]
    kind: str = "model"
    must: bool = False
    shows: bool = True

    def __str__(self) -> str:
        return self.name


def made(maker: Callable[..., Any], home: Path) -> Any:
    "What a maker makes; `home` is where its files are written"
    return maker(home) if isinstance(maker, Code) else maker()


def two(name: str, make: Callable[[Any], Any], a: Any, b: Any, kind: str = "model", must: bool = False, shows: bool = True) -> Pair:
    "A pair from one maker and two settings"
    return Pair(name, partial(make, a), partial(make, b), kind, must, shows)


def edited(
    name: str,
    text: str,
    old: str,
    new: str,
    kind: str = "model",
    must: bool = False,
    shows: bool = True,
    helper: str = "",
    main: bool = False,
) -> Pair:
    "A pair of files, the second with one edit, in `mine.py` or in its helper"
    assert (text + helper).count(old) == 1, name
    return Pair(name, Code(text, helper, main), Code(text.replace(old, new), helper.replace(old, new), main), kind, must, shows)


def later(
    name: str,
    text: str,
    change: Callable[[Any], None],
    kind: str = "model",
    must: bool = False,
    shows: bool = True,
    helper: str = "",
    main: bool = False,
) -> Pair:
    "A pair of the same file, the second after something was set at run time"
    return Pair(name, Code(text, helper, main), Code(text, helper, main, change), kind, must, shows)


# small networks


def flat(classes: int = 3, inside: int = 16) -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(inside, classes))


def around(*layers: nn.Module, inside: int = 16) -> nn.Sequential:
    "Layers, then the linear one; all weights by the same seed"
    return nn.Sequential(*layers, *flat(3, inside))


class Leaky(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.base, self.slope = flat(), slope

    def forward(self, x):
        return F.leaky_relu(self.base(x), self.slope)


class Tempered(nn.Module):
    def __init__(self, t):
        super().__init__()
        self.base, self.t = flat(), t

    def forward(self, x):
        return self.base(x) / self.t


class Unsaved(nn.Module):
    def __init__(self, t):
        super().__init__()
        self.base = flat()
        self.register_buffer("t", torch.tensor(t), persistent=False)

    def forward(self, x):
        return self.base(x) / self.t


class Prepared(nn.Module):
    "A model with a function, or any callable, as a plain attribute"

    def __init__(self, prepare):
        super().__init__()
        self.base, self.prepare = flat(), prepare

    def forward(self, x):
        return self.base(self.prepare(x))


class Reading(nn.Module):
    "A model whose logits are scaled by `read(held)`"

    def __init__(self, read, held):
        super().__init__()
        self.base, self.read, self.held = flat(), read, held

    def forward(self, x):
        return self.base(x) * (1 + float(self.read(self.held)))


class Ensemble(nn.Module):
    def __init__(self, *scales):
        super().__init__()
        self.members = [scaled(s) for s in scales]

    def forward(self, x):
        return sum(m(x) for m in self.members)


def scaled(by):
    model = flat()
    with torch.no_grad():
        model[1].weight.mul_(by)
    return model


def hooked(by, kind="forward", on=None):
    model = flat()
    place = model if on is None else model[on]
    if kind == "forward":
        place.register_forward_hook(lambda module, inputs, output: output * by)
    elif kind == "before":
        place.register_forward_pre_hook(lambda module, inputs: inputs[0] * by)
    elif kind == "keywords":
        place.register_forward_hook(lambda module, inputs, keywords, output: output * by, with_kwargs=True)
    elif kind == "backward":
        place.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * torch.tensor([by, 1, -1]),))
    return model


def double(module, inputs, output):
    return output * 2


def triple(module, inputs, output):
    return output * 3


def hooked_by(function):
    model = flat()
    model.register_forward_hook(function)
    return model


def replaced(by):
    "The forward of this one instance is another"
    model = flat()
    inside = model.forward
    model.forward = lambda x: inside(x) * by
    return model


class Rows(nn.Module):
    "Images (N, 1, 4, 4) as sequences of four"

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, flat()

    def forward(self, x):
        out = self.layer(x.squeeze(1))
        return self.head(out[0] if isinstance(out, tuple) else out)


def encoder(**settings):
    with seeded(0):
        return Rows(nn.TransformerEncoderLayer(4, **{"nhead": 2, "dim_feedforward": 8, "batch_first": True, **settings}))


def recurrent(nonlinearity):
    with seeded(0):
        return Rows(nn.RNN(4, 4, nonlinearity=nonlinearity, batch_first=True))


class TinyViT(nn.Module):
    "Patches, one layer of attention, a head: `heads` and `pool` are plain attributes, as timm has them"

    def __init__(self, heads=1, pool="token"):
        super().__init__()
        self.heads, self.pool = heads, pool
        with seeded(0):
            self.patch, self.mix, self.head = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        n, k, d = tokens.shape
        q, key, v = 3 * self.mix(tokens).reshape(n, k, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        tokens = tokens + F.scaled_dot_product_attention(q, key, v).transpose(1, 2).reshape(n, k, d)
        return self.head(tokens[:, 0] if self.pool == "token" else tokens.mean(1))


class Strange(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


def parametrized(scale):
    model = flat()
    parametrize.register_parametrization(model[1], "weight", Strange(scale))
    return model


def scripted(t, how):
    model = Tempered(t).eval()
    return torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.zeros(2, 1, 4, 4))


def traced_by_fx(t):
    return torch.fx.symbolic_trace(Tempered(t))


def from_text(factor):
    "A class that `exec` makes: no file holds it"
    names = {"__name__": "__main__"}
    exec(NET.format(f"return self.base(x) * {factor}"), names)
    return names["thing"]


def flexible(layer, inside=16):
    return around(layer, inside=inside)


def vision(name, *settings):
    from torchvision import transforms

    return around(getattr(transforms, name)(*settings))


def normalized(eps):
    model = around(nn.BatchNorm2d(1, eps=eps))
    model[0].running_var.fill_(0.01)
    return model


def instance(name, **settings):
    return around(getattr(nn, name)(**settings))


# code in files of its own

HEAD = "import functools\nimport torch\nimport torch.nn.functional as F\nfrom dataclasses import dataclass, InitVar\nfrom torch import nn\n"
NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        with torch.no_grad():
            for p in self.base.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape).sin())
    def forward(self, x):
        {}
thing = Net()
"""
)
ATTACK = (
    HEAD
    + """
{}
def thing(model, x, y):
    return (x + {}).clamp(0, 1)
"""
)


def net(line: str, before: str = "", after: str = "") -> str:
    return HEAD + before + NET.removeprefix(HEAD).format(line) + after


def attack(value: str, before: str = "") -> str:
    return ATTACK.format(before, value)


def put(name: str, value: Any) -> Callable[[Any], None]:
    "Sets a global of a module, or something deeper"
    *way, last = name.split(".")

    def change(module: Any) -> None:
        setattr(functools.reduce(getattr, way, module), last, value)

    return change


def put_in_helper(name: str, value: Any) -> Callable[[Any], None]:
    return lambda _: put(name, value)(sys.modules["mine_helper"])


# attacks and scores


class Mover:
    def __init__(self, eps):
        self.eps = eps

    def run(self, model, x, y):
        return (x + self.eps).clamp(0, 1)

    def __call__(self, model, x, y):
        return self.run(model, x, y)

    def far(self, model, x, y):
        return (x + self.eps.eps).clamp(0, 1)

    def score(self, logits, features):
        return logits.amax(1) * self.eps


@dataclass(frozen=True)
class Moved:
    eps: float
    note: str = field(default="", compare=False, repr=False)

    def __call__(self, model, x, y):
        return (x + self.eps + len(self.note) / 100).clamp(0, 1)


@dataclass(frozen=True)
class Hidden:
    "Its setting is no field"

    eps: InitVar[float]

    def __post_init__(self, eps):
        object.__setattr__(self, "_eps", eps)

    def __call__(self, model, x, y):
        return (x + self._eps).clamp(0, 1)


class Slotted:
    __slots__ = ("eps",)

    def __init__(self, eps):
        self.eps = eps

    def __call__(self, model, x, y):
        return (x + self.eps).clamp(0, 1)


class Triple(NamedTuple):
    eps: float

    def __call__(self, model, x, y):
        return (x + self.eps).clamp(0, 1)


class Mode(enum.Enum):
    LOW = 0.1
    HIGH = 0.4


def move(model, x, y, eps=0.1):
    return (x + eps).clamp(0, 1)


def wrapped(eps):
    @functools.wraps(pgd)
    def attack(model, x, y):
        return (x + eps).clamp(0, 1)

    return attack


def updated(eps):
    return functools.update_wrapper(partial(move, eps=eps), pgd)


def closing(eps):
    def attack(model, x, y):
        return (x + eps).clamp(0, 1)

    return attack


def closing_twice(eps):
    inside = closing(eps)

    def attack(model, x, y):
        return inside(model, x, y)

    return attack


def with_default(eps):
    def attack(model, x, y, eps=eps):
        return (x + eps).clamp(0, 1)

    return attack


def with_keyword(eps):
    def attack(model, x, y, *, eps=eps):
        return (x + eps).clamp(0, 1)

    return attack


def with_attribute(eps):
    def attack(model, x, y):
        return (x + attack.eps).clamp(0, 1)

    attack.eps = eps
    return attack


def remembering(eps):
    @functools.lru_cache
    def step(n):
        return n * eps

    def attack(model, x, y):
        return (x + step(1)).clamp(0, 1)

    return attack


def top(logits, features, power=1):
    return logits.amax(1) ** power


def add(x, by):
    return x + by


def small_tensor(value):
    return torch.full((1, 1, 4, 4), value)


def of_type(dtype):
    return flat().to(dtype)


def nudged(dtype, rounded=False):
    "One weight moved by one step of its type"

    def make(by):
        model = flat().to(dtype)
        with torch.no_grad():
            model[1].weight[0, 0] = 0.5 + by * torch.finfo(dtype).eps
        return model

    return make


def packed(scale):
    "A quantised tensor as a plain attribute: the same bytes, another scale"
    return Reading(lambda held: held.dequantize().sum(), torch.quantize_per_tensor(torch.ones(2) * scale, scale, 0, torch.quint8))


class Plain:
    def __init__(self, **settings):
        vars(self).update(settings)


class Listed(list):
    pass


class Worded(dict):
    pass


def listed(kind, *args, **attributes):
    made = kind(*args)
    vars(made).update(attributes)
    return made


class Cast(nn.Module):
    "A model that rounds its input to another type"

    def __init__(self, dtype):
        super().__init__()
        self.base, self.dtype = flat(), dtype

    def forward(self, x):
        return self.base(x.to(self.dtype).float())


class Cut(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.base, self.part = flat(3, 8), part

    def forward(self, x):
        return self.base(x.flatten(1)[:, self.part])


class Ordered(nn.Module):
    "The order of its dict is the order of its layers"

    def __init__(self, names):
        super().__init__()
        self.base = flat()
        self.stages = {name: {"half": partial(torch.mul, other=0.5), "up": partial(torch.add, other=1)}[name] for name in names}

    def forward(self, x):
        x = self.base(x)
        for stage in self.stages.values():
            x = stage(x)
        return x


class Numbered(nn.Module):
    "The order of its dict of numbers is the order of what it does"

    def __init__(self, names):
        super().__init__()
        self.base = flat()
        self.numbers = {name: {"half": 0.5, "up": 1.0}[name] for name in names}

    def forward(self, x):
        x = self.base(x).tanh()
        for name, value in self.numbers.items():
            x = x * value if name == "half" else (x + value) ** 2
        return x


class Stubborn(nn.BatchNorm2d):
    "Neither `train` nor `eval` changes it"

    def train(self, mode=True):
        return self


def stubborn(mode):
    model = around(Stubborn(1))
    model[0].training = mode
    return model


def named_layers(names):
    "The order in which modules were added is the order in which they run"
    with seeded(0):
        layers = {"first": nn.Linear(16, 16), "second": nn.Linear(16, 16)}
    return nn.Sequential(collections.OrderedDict([("flat", nn.Flatten())] + [(n, layers[n]) for n in names] + [("last", flat()[1])]))


class Loose(nn.Module):
    "A model with a module in a dict, that is registered nowhere"

    def __init__(self, by):
        super().__init__()
        self.base, self.parts = flat(), {"tail": Strange(by)}

    def forward(self, x):
        return self.parts["tail"](self.base(x))


def dropping(p):
    return around(nn.Dropout(p))


class Multiplied(Leaky):
    k = 1.0

    def forward(self, x):
        return self.base(x) * self.k


def with_class_attribute(k):
    return type("Multiplied", (Multiplied,), {"k": k, "__module__": __name__})(1.0)


def by_forward(function):
    "Classes of one name whose `forward` is a given function"
    return type("Given", (Leaky,), {"forward": function, "__module__": __name__})(1.0)


def _nameless(k):
    names = {"K": k}
    exec(net("return self.base(x) * K"), names)
    return names["thing"]


class First:
    def forward(self, x):
        return self.base(x) * 2


class Second:
    def forward(self, x):
        return self.base(x) * 3


def mixed(order):
    return type("Mixed", (*order, Leaky), {"__module__": __name__})(1.0)


# the sixty of the notes (reliability.md, A1)

NOTED = [
    two("slope of F.leaky_relu", Leaky, 0.1, 0.5),
    two("temperature", Tempered, 1.0, 30.0, must=True),
    two("buffer that is not saved", Unsaved, 1.0, 30.0, must=True),
    two("tensor as a plain attribute", lambda t: Tempered(torch.tensor(t)), 1.0, 30.0, must=True),
    Pair("lambda as an attribute", lambda: Prepared(lambda x: x + 0.1), lambda: Prepared(lambda x: x + 0.3), must=True),
    two("partial as an attribute", lambda by: Prepared(partial(add, by=by)), 0.1, 0.3, must=True),
    two("ensemble in a plain list", lambda s: Ensemble(*s), (1, 2), (1, 3), must=True),
    two("forward hook", hooked, 2.0, 3.0, must=True),
    two("forward of the instance", replaced, 2.0, 3.0),
    two("TransformerEncoderLayer: nhead", lambda n: encoder(nhead=n), 1, 4),
    two("TransformerEncoderLayer: norm_first", lambda n: encoder(norm_first=n), False, True),
    two("TransformerEncoderLayer: activation", lambda a: encoder(activation=a), "relu", "gelu"),
    two("ViT: heads", lambda h: TinyViT(heads=h), 1, 4, must=True),
    two("ViT: pool", lambda p: TinyViT(pool=p), "token", "mean", must=True),
    two("Upsample: align_corners", lambda a: flexible(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=a), 64), False, True),
    two("AvgPool2d: count_include_pad", lambda c: flexible(nn.AvgPool2d(3, 1, 1, count_include_pad=c)), False, True),
    two("AvgPool2d: divisor_override", lambda d: flexible(nn.AvgPool2d(3, 1, 1, divisor_override=d)), None, 5),
    two("RNN: nonlinearity", recurrent, "tanh", "relu"),
    two("torch.jit.script", lambda t: scripted(t, "script"), 1.0, 30.0),
    two("torch.jit.trace", lambda t: scripted(t, "trace"), 1.0, 30.0),
    two("parametrization", parametrized, 1.0, 3.0),
    two("class made by exec", from_text, 1, 3),
    Pair("class of a process without a file", Code(net("return self.base(x)"), main=True), Code(net("return self.base(x) * 3"), main=True)),
    Pair(
        "Shell with a lambda",
        lambda: Shell(flat(), lambda m, x: (x + 0.1).clamp(0, 1)),
        lambda: Shell(flat(), lambda m, x: (x + 0.4).clamp(0, 1)),
    ),
    later("constant of the model's module", net("return self.base(x) * K", "K = 1\n"), put("K", 3), must=True),
    later("constant of the attack's module", attack("EPS", "EPS = .05"), put("EPS", 0.4), "attack", must=True),
    edited(
        "helper of the model edited",
        net("return help(self.base(x))", "from mine_helper import help\n"),
        "x * 1",
        "x * 3",
        helper="def help(x):\n    return x * 1\n",
        must=True,
    ),
    edited(
        "helper of the attack edited",
        attack("help()", "from mine_helper import help"),
        ".05",
        ".4",
        "attack",
        helper="def help():\n    return .05\n",
        must=True,
    ),
    edited("notebook: EPS", attack("EPS", "EPS = .05"), "= .05", "= .4", "attack", main=True, must=True),
    later("notebook: EPS in another cell", attack("EPS", "EPS = .05"), put("EPS", 0.4), "attack", main=True, must=True),
    edited("notebook: what it calls", attack("far()", "def far():\n    return .05"), ".05", ".4", "attack", main=True, must=True),
    edited("script: constant beside the class", net("return self.base(x) * K", "K = 1\n"), "K = 1", "K = 3", main=True),
    edited(
        "script: helper beside the class", net("return help(self.base(x))", "def help(x):\n    return x * 1\n"), "x * 1", "x * 3", main=True
    ),
    two("bound method as an attack", lambda e: Mover(e).run, 0.1, 0.4, "attack", must=True),
    two("bound method as a score", lambda e: Mover(e).score, 0.1, 0.4, "score", must=True),
    two("functools.wraps", wrapped, 0.1, 0.4, "attack"),
    two("functools.update_wrapper", updated, 0.1, 0.4, "attack"),
    two("dataclass with an InitVar", Hidden, 0.1, 0.4, "attack"),
    edited("constants of the bytecode", attack("torch.full_like(x, .05)"), ".05", ".4", "attack", main=True),
    edited("names of the bytecode", attack("F.relu(x - .5)"), "relu", "tanh", "attack", main=True),
    two("BatchNorm: eps", normalized, 1e-5, 1e-1, must=True),
    two("LeakyReLU: slope", lambda s: around(nn.Flatten(), Strange(-1.0), nn.LeakyReLU(s)), 0.1, 0.5, must=True),
    two("Hardtanh: range", lambda v: instance("Hardtanh", min_val=0.0, max_val=v), 0.3, 0.6, must=True),
    two("GroupNorm: groups", lambda g: around(nn.PixelUnshuffle(2), nn.GroupNorm(g, 4)), 1, 2, must=True),
    two("PixelUnshuffle: factor", lambda f: around(nn.PixelUnshuffle(f)), 2, 4),
    two("Conv2d: padding_mode", lambda m: around(_conv(m)), "zeros", "circular", must=True),
    two("GELU: approximate", lambda a: instance("GELU", approximate=a), "none", "tanh"),
    two("RReLU: bounds", lambda u: around(Strange(-1.0), nn.RReLU(0.1, u)), 0.3, 0.6),
    two("LPPool2d: norm", lambda p: around(nn.LPPool2d(p, 2), inside=4), 1, 3),
    two("LocalResponseNorm: k", lambda k: instance("LocalResponseNorm", size=2, k=k), 1.0, 2.0),
    two("Softmax: dim", lambda d: instance("Softmax", dim=d), 2, 3),
    two("Threshold: value", lambda v: instance("Threshold", threshold=0.5, value=v), 0.0, 1.0),
    two("torchvision Normalize", lambda m: vision("Normalize", [m], [0.5]), 0.1, 0.5),
    two("torchvision GaussianBlur", lambda s: vision("GaussianBlur", 3, s), 0.5, 1.5, shows=False),
    two("Normalize: mean", lambda m: around(Normalize(m, 0.5)), 0.1, 0.5, must=True),
    two("Normalize: std", lambda s: around(Normalize(0.5, s)), 0.5, 0.25, must=True),
    two("QuantLinear: bits", lambda w: _quantized(w), 2, 8, must=True),
    two("Shell with a partial", lambda xi: Shell(flat(), partial(mcn, xi=xi, steps=1)), 0.05, 0.3, must=True),
    two("torch.fx", traced_by_fx, 1.0, 30.0),
    two("partial with a number", lambda e: partial(move, eps=e), 0.1, 0.4, "attack", must=True),
    two("partial with a tensor", lambda e: partial(move, eps=small_tensor(e)), 0.1, 0.4, "attack", must=True),
    Pair("lambda as an attack", lambda: lambda m, x, y: (x + 0.1).clamp(0, 1), lambda: lambda m, x, y: (x + 0.4).clamp(0, 1), "attack"),
]


def _conv(mode):
    with seeded(0):
        return nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)


def _quantized(w):
    with seeded(0):
        return nn.Sequential(nn.Flatten(), QuantLinear(16, 3, w=w))


# our own

summed = partial(Reading, sum)


ATTRIBUTES = [
    two("attribute of an attribute", lambda t: Reading(lambda h: h.deep.t, Plain(deep=Plain(t=t))), 1.0, 3.0),
    two("namespace as an attribute", lambda t: Reading(lambda h: h.t, types.SimpleNamespace(t=t)), 1.0, 3.0),
    two("value in a dict", lambda t: Reading(lambda h: h["a"]["t"], {"a": {"t": t}}), 1.0, 3.0, must=True),
    two("key in a dict", lambda k: Reading(lambda h: float("t" in h), {k: 1.0}), "t", "u", must=True),
    two("list of tensors", lambda t: summed([torch.ones(()), torch.tensor(t)]), 1.0, 3.0, must=True),
    two("tuple of numbers", lambda t: summed((1.0, t)), 1.0, 3.0, must=True),
    two("set of numbers", lambda t: summed({1.0, t}), 2.0, 3.0),
    two("NumPy array", lambda t: summed(np.array([1.0, t])), 1.0, 3.0, must=True),
    two("NumPy scalar", lambda t: Tempered(np.float32(t)), 1.0, 3.0, must=True),
    two("NumPy integer", lambda t: Tempered(np.int64(t)), 1, 3, must=True),
    two("number in a NumPy array of objects", lambda t: Reading(lambda h: h[0][0], _objects(t)), 1.0, 3.0),
    two("private attribute", lambda t: _Private(t), 1.0, 3.0, must=True),
    two("whole number or fraction", lambda t: Reading(lambda h: isinstance(h, int), t), 1, 1.0, must=True),
    two("True or 1", lambda t: Reading(lambda h: isinstance(h, bool), t), True, 1, must=True),
    two("None or 0", lambda t: Reading(lambda h: h is None, t), None, 0, must=True),
    two("word", lambda t: Reading(lambda h: len(h), t), "mean", "median", must=True),
    two("enum", lambda t: Reading(lambda h: h.value, t), Mode.LOW, Mode.HIGH),
    two("dtype as an attribute", Cast, torch.float16, torch.bfloat16, must=True),
    two("slice", Cut, slice(0, 8), slice(8, 16)),
    two("step of a slice", Cut, slice(0, 16, 2), slice(1, 16, 2)),
    two("range", lambda t: summed(range(t)), 2, 3),
    two("named tuple", lambda t: Reading(lambda h: h.eps, Triple(t)), 1.0, 3.0),
    two("dataclass as an attribute", lambda t: Reading(lambda h: h.eps, Moved(t)), 1.0, 3.0, must=True),
    two("object with slots", lambda t: Reading(lambda h: h.eps, Slotted(t)), 1.0, 3.0),
    two("module in a dict", Loose, 1.0, 3.0, must=True),
    two("order of a dict that forward follows", Ordered, ("half", "up"), ("up", "half")),
    two("order of named layers", named_layers, ("first", "second"), ("second", "first"), must=True),
    two("torch.vmap of a function", lambda b: Prepared(torch.vmap(lambda x: x + b)), 0.1, 0.4),
    two("model with slots", lambda t: _Slots(t), 1.0, 3.0),
    two("list with an attribute", lambda t: Reading(lambda h: h.t, listed(Listed, t=t)), 1.0, 3.0),
    two("dict with an attribute", lambda t: Reading(lambda h: h.t, listed(Worded, t=t)), 1.0, 3.0),
    two("quantised tensor: scale", packed, 0.1, 0.5),
    two("sparse tensor", lambda t: Reading(lambda h: h.to_dense().sum(), torch.tensor([0, t]).to_sparse()), 1.0, 3.0),
    two("complex tensor", lambda t: Reading(lambda h: h.imag, torch.tensor(1 + t * 1j)), 1.0, 3.0),
    two("conjugate", lambda t: Reading(lambda h: h.imag, t(torch.tensor(1 + 0.5j))), torch.conj, torch.clone),
    two("class as an attribute", lambda t: Reading(lambda h: h is nn.ReLU, t), nn.ReLU, nn.Tanh, must=True),
    two("function of PyTorch", Prepared, torch.tanh, torch.sigmoid, must=True),
    two("function of torch.nn.functional", Prepared, F.softsign, F.tanhshrink, must=True),
    two("partial of a built-in", lambda b: Prepared(partial(F.softplus, beta=b)), 1.0, 5.0, must=True),
    two("partial of a partial", lambda b: Prepared(partial(partial(add), by=b)), 0.1, 0.4, must=True),
    two(
        "partial: which argument", lambda p: Prepared(p), partial(torch.sub, other=0.5), partial(torch.sub, alpha=0.5, other=0.5), must=True
    ),
    two("operator.methodcaller", lambda b: Prepared(operator.methodcaller("sub", b)), 0.1, 0.4),
    two("ufunc", lambda f: Reading(lambda h: h(1.0), f), np.sin, np.cos),
    two("bound method of a module as an attribute", lambda b: Prepared(Strange(b).forward), 1.0, 3.0, must=True),
    two("nested lambdas", lambda b: Prepared(lambda x, inside=(lambda z: z + b): inside(x)), 0.1, 0.4),
    two("dropout rate", dropping, 0.1, 0.5, must=True, shows=False),
    two("rate of functional dropout", lambda p: _Dropped(p), 0.1, 0.5, must=True, shows=False),
    two("running mean", lambda m: _running(m), 0.0, 0.5, must=True),
    two("weights of another type", of_type, torch.float32, torch.float64, must=True, shows=False),
    two("float16 or bfloat16", of_type, torch.float16, torch.bfloat16, must=True),
    two("one step of a weight in bfloat16", nudged(torch.bfloat16), 0, 1, must=True, shows=False),
    two("one step of a weight in float32", nudged(torch.float32), 0, 1, must=True, shows=False),
    two("MultiheadAttention: heads", lambda h: Rows(_attention(h)), 1, 2),
    two("CELU: alpha", lambda a: around(Strange(-1.0), nn.CELU(a)), 1.0, 0.2),
    two("PReLU or ReLU", lambda a: around(Strange(-1.0), nn.PReLU(init=a)), 0.1, 0.4, must=True),
]


def _objects(t):
    held = np.empty(1, object)
    held[0] = [t]
    return held


class _Slots(nn.Module):
    __slots__ = ("t",)

    def __init__(self, t):
        super().__init__()
        self.base, self.t = flat(), t

    def forward(self, x):
        return self.base(x) * self.t


class _Private(nn.Module):
    def __init__(self, t):
        super().__init__()
        self.base, self._t = flat(), t

    def forward(self, x):
        return self.base(x) * self._t


class _Dropped(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.base, self.p = flat(), p

    def forward(self, x):
        return F.dropout(self.base(x), self.p, training=True)


def _running(m):
    model = around(nn.BatchNorm2d(1))
    model[0].running_mean.fill_(m)
    return model


def _attention(heads):
    with seeded(0):
        inside = nn.MultiheadAttention(4, heads, batch_first=True)
        return _Self(inside)


class _Self(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x, x, 3 * x)[0]


HOOKS = [
    Pair("hook functions", lambda: hooked_by(double), lambda: hooked_by(triple), must=True),
    Pair("a hook or none", lambda: hooked_by(double), flat, must=True),
    two("hook of a layer", lambda b: hooked(b, on=1), 2.0, 3.0, must=True),
    two("which layer has the hook", lambda i: hooked(2.0, on=i), 0, 1, must=True),
    two("hook before forward", lambda b: hooked(b, "before"), 2.0, 3.0, must=True),
    two("hook with keywords", lambda b: hooked(b, "keywords"), 2.0, 3.0),
    two("hook of the backward pass", lambda b: hooked(b, "backward"), 1.0, -20.0),
    two("hook that is a bound method", lambda b: hooked_by(_Scaler(b).hook), 2.0, 3.0, must=True),
    two("order of two hooks", lambda order: _two_hooks(*order), ("half", "up"), ("up", "half")),
]


class _Scaler:
    def __init__(self, by):
        self.by = by

    def hook(self, module, inputs, output):
        return output * self.by


def _up(module, inputs, output):
    return output**2


def _two_hooks(*order):
    model = flat()
    for name in order:
        model.register_forward_hook(double if name == "half" else _up)
    return model


DECORATED = """
def times(k):
    def wrap(f):
        @functools.wraps(f)
        def inside(self, x):
            return f(self, x) * k
        return inside
    return wrap
"""
STRAIGHT = """
class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1
    @staticmethod
    def backward(ctx, g):
        return g * torch.tensor([1, 1, 1])
"""

CODE = [
    edited("forward edited", net("return self.base(x) * 1"), "* 1", "* 3", must=True),
    edited("forward of a notebook edited", net("return self.base(x) * 1"), "* 1", "* 3", main=True),
    edited("one operator of forward", net("return self.base(x) + 2 * x.mean()"), "+", "*", must=True),
    edited("name of a function in forward", net("return torch.sin(self.base(x))"), "torch.sin", "torch.cos", must=True),
    edited(
        "method of the model",
        net("return self.more(self.base(x))", after="").replace("thing =", "    def more(self, x):\n        return x * 1\nthing ="),
        "x * 1",
        "x * 3",
        must=True,
    ),
    edited(
        "property of the model",
        net("return self.base(x) * self.k").replace("thing =", "    @property\n    def k(self):\n        return 1\nthing ="),
        "return 1",
        "return 3",
    ),
    edited(
        "static method of the model",
        net("return self.base(x) * self.k()").replace("thing =", "    @staticmethod\n    def k():\n        return 1\nthing ="),
        "return 1",
        "return 3",
    ),
    edited(
        "class method of the model",
        net("return self.base(x) * self.k()").replace("thing =", "    @classmethod\n    def k(cls):\n        return 1\nthing ="),
        "return 1",
        "return 3",
    ),
    edited("class attribute", net("return self.base(x) * self.k").replace("thing =", "    k = 1\nthing ="), "k = 1", "k = 3", must=True),
    later("class attribute at run time", net("return self.base(x) * self.k").replace("thing =", "    k = 1\nthing ="), put("Net.k", 3)),
    two("class attribute of a class of the same name", with_class_attribute, 1.0, 30.0),
    edited(
        "base class in another file",
        net("return self.base(x) * self.k()", "from mine_helper import Base\n").replace("Net(nn.Module)", "Net(Base)"),
        "return 1",
        "return 3",
        helper="from torch import nn\nclass Base(nn.Module):\n    def k(self):\n        return 1\n",
    ),
    edited(
        "super().forward in another file",
        HEAD
        + "from mine_helper import Net as Base\nclass Net(Base):\n    def forward(self, x):\n        return super().forward(x)\nthing = Net()\n",
        "x) * 1",
        "x) * 3",
        helper=net("return self.base(x) * 1"),
    ),
    edited(
        "decorator of forward",
        net("return self.base(x)", DECORATED).replace("    def forward", "    @times(1)\n    def forward"),
        "@times(1)",
        "@times(3)",
    ),
    edited(
        "decorator edited",
        net("return self.base(x)", DECORATED).replace("    def forward", "    @times(2)\n    def forward"),
        "x) * k",
        "x) / k",
    ),
    edited(
        "default argument of forward",
        net("return self.base(x) * k").replace("forward(self, x)", "forward(self, x, k=1)"),
        "k=1",
        "k=3",
        must=True,
    ),
    edited("global dict", net("return self.base(x) * K['a']", "K = {'a': 1}\n"), "1}", "3}", must=True),
    edited("global tensor", net("return self.base(x) * K", "K = torch.tensor(1.)\n"), "1.", "3.", must=True),
    edited("global lambda", net("return K(self.base(x))", "K = lambda z: z * 1\n"), "z * 1", "z * 3"),
    edited("global object", net("return self.base(x) * K.k", "class Held: pass\nK = Held()\nK.k = 1\n"), "= 1\n", "= 3\n"),
    edited(
        "global instance of a class",
        net("return self.base(x) * K.k()", "class Held:\n    def k(self):\n        return 1\nK = Held()\n"),
        "return 1",
        "return 3",
    ),
    edited(
        "global function's global",
        net("return help(self.base(x))", "K = 1\ndef inside(x):\n    return x * K\ndef help(x):\n    return inside(x)\n"),
        "K = 1",
        "K = 3",
        must=True,
    ),
    edited(
        "global that is read in an inner function", net("return (lambda z: z * K)(self.base(x))", "K = 1\n"), "K = 1", "K = 3", must=True
    ),
    edited("global that is read in a comprehension", net("return self.base(x) * [K for _ in range(1)][0]", "K = 1\n"), "K = 1", "K = 3"),
    edited("constant of an inner function", net("return (lambda z: z * 1)(self.base(x))"), "z * 1", "z * 3", must=True),
    edited("module as a global", net("return self.base(x) * mine_helper.K", "import mine_helper\n"), "K = 1", "K = 3", helper="K = 1\n"),
    later(
        "module as a global at run time",
        net("return self.base(x) * mine_helper.K", "import mine_helper\n"),
        put_in_helper("K", 3),
        helper="K = 1\n",
    ),
    later(
        "class of another module at run time",
        net("return self.base(x) * mine_helper.C.K", "import mine_helper\n"),
        put_in_helper("C.K", 3),
        helper="class C:\n    K = 1\n",
    ),
    edited(
        "function of a module as a global",
        net("return mine_helper.help(self.base(x))", "import mine_helper\n"),
        "x * 1",
        "x * 3",
        helper="def help(x):\n    return x * 1\n",
    ),
    edited(
        "import inside forward",
        net("from mine_helper import help; return help(self.base(x))"),
        "x * 1",
        "x * 3",
        helper="def help(x):\n    return x * 1\n",
    ),
    edited(
        "constant of the helper's module",
        net("return help(self.base(x))", "from mine_helper import help\n"),
        "K = 1",
        "K = 3",
        helper="K = 1\ndef help(x):\n    return x * K\n",
        must=True,
    ),
    edited(
        "imported constant", net("return self.base(x) * K", "from mine_helper import K\n"), "K = 1", "K = 3", helper="K = 1\n", must=True
    ),
    edited(
        "two functions that call each other",
        net(
            "return even(self.base(x), 3)",
            "def even(x, n):\n    return odd(x, n - 1) if n else x\ndef odd(x, n):\n    return even(x * 1, n - 1) if n else x\n",
        ),
        "x * 1",
        "x * 3",
    ),
    edited("autograd function: forward", net("return Straight.apply(self.base(x))", STRAIGHT), "x * 1", "x * 3"),
    edited("autograd function: backward", net("return Straight.apply(self.base(x))", STRAIGHT), "[1, 1, 1]", "[1, -20, 1]"),
    edited(
        "class that forward makes",
        net("return Held()(self.base(x))", "class Held:\n    def __call__(self, x):\n        return x * 1\n"),
        "x * 1",
        "x * 3",
    ),
    edited(
        "layer in another file",
        net("return self.base(x)", "from mine_helper import Layer\n").replace("thing = Net()", "thing = nn.Sequential(Net(), Layer())"),
        "x * 1",
        "x * 3",
        helper="from torch import nn\nclass Layer(nn.Module):\n    def forward(self, x):\n        return x * 1\n",
        must=True,
    ),
    edited("zero or minus zero", net("return self.base(x) * torch.copysign(x.mean(), torch.tensor(0.0))"), "(0.0)", "(-0.0)", shows=True),
    edited("1 or True", net("return self.base(x) * (1 + isinstance(1, bool))"), "isinstance(1,", "isinstance(True,"),
    edited(
        "attribute by its name",
        net("return self.base(x) * getattr(self, 'one')").replace("thing =", "    one, two = 1, 2\nthing ="),
        "'one'",
        "'two'",
    ),
    edited(
        "exception that is caught",
        net("try: raise KeyError\n        except LookupError: return self.base(x)\n        except Exception: return self.base(x) * 3"),
        "raise KeyError",
        "raise OSError",
    ),
    two("global of a class made by exec in a nameless module", _nameless, 1, 3),
    Pair(
        "name of a built-in, defined in the module",
        Code(net("return self.base(x) * abs(-1)")),
        Code(net("return self.base(x) * abs(-1)", "def abs(v): return 3\n")),
        must=True,
    ),
    edited("set in the bytecode", net("return self.base(x) * (1 + (3 in {1, 2}))"), "{1, 2}", "{1, 3}", must=True),
    edited(
        "function in a global dict", net("return K['a'](self.base(x))", "def help(x): return x * 1\nK = {'a': help}\n"), "x * 1", "x * 3"
    ),
    edited(
        "module as an attribute",
        net("return self.base(x) * self.held.K", "import mine_helper\n", "thing.held = mine_helper\n"),
        "K = 1",
        "K = 3",
        helper="K = 1\n",
    ),
    edited(
        "functools.partialmethod",
        net("return self.more(self.base(x))").replace(
            "thing =", "    def most(self, x, k):\n        return x * k\n    more = functools.partialmethod(most, k=1)\nthing ="
        ),
        "k=1",
        "k=3",
    ),
    edited(
        "functools.cached_property",
        net("return self.base(x) * self.k").replace(
            "thing =", "    @functools.cached_property\n    def k(self):\n        return 1\nthing ="
        ),
        "return 1",
        "return 3",
    ),
    edited(
        "functools.singledispatch",
        net(
            "return help(self.base(x))",
            "@functools.singledispatch\ndef help(x): return x\n@help.register\ndef _(x: torch.Tensor): return x * 1\n",
        ),
        "x * 1",
        "x * 3",
    ),
    edited(
        "__getattr__ of the model",
        net("return self.base(x) * self.k").replace(
            "thing =", "    def __getattr__(self, name):\n        return 1 if name == 'k' else super().__getattr__(name)\nthing ="
        ),
        "1 if",
        "3 if",
    ),
    edited(
        "__call__ of the model",
        net("return self.base(x)").replace("thing =", "    def __call__(self, x):\n        return super().__call__(x) * 1\nthing ="),
        "* 1",
        "* 3",
    ),
    Pair(
        "forward put in at run time",
        lambda: by_forward(lambda self, x: self.base(x) * 2),
        lambda: by_forward(lambda self, x: self.base(x) * 3),
    ),
    two("order of the base classes", mixed, (First, Second), (Second, First)),
    two("which base class", mixed, (First,), (Second,), must=True),
]

ATTACKS = [
    two("callable object as an attack", Mover, 0.1, 0.4, "attack"),
    two("dataclass as an attack", Moved, 0.1, 0.4, "attack", must=True),
    two("field that is not compared", lambda n: Moved(0.1, n), "", "twenty characters ...", "attack", must=True),
    two("attack with slots", Slotted, 0.1, 0.4, "attack"),
    two("named tuple as an attack", Triple, 0.1, 0.4, "attack"),
    two("closure", closing, 0.1, 0.4, "attack", must=True),
    two("closure over a closure", closing_twice, 0.1, 0.4, "attack", must=True),
    two("closure over a tensor", lambda e: closing(small_tensor(e)), 0.1, 0.4, "attack", must=True),
    two("closure over a list", lambda e: _closing_list([0.05, e]), 0.1, 0.4, "attack", must=True),
    two("default", with_default, 0.1, 0.4, "attack", must=True),
    two("default of a keyword", with_keyword, 0.1, 0.4, "attack", must=True),
    two("attribute of a function", with_attribute, 0.1, 0.4, "attack"),
    two("function that remembers", remembering, 0.1, 0.4, "attack"),
    two("function under torch.no_grad", lambda e: torch.no_grad()(closing(e)), 0.1, 0.4, "attack"),
    two("bound method in a partial", lambda e: partial(Mover(e).run), 0.1, 0.4, "attack", must=True),
    two("partial in a partial", lambda e: partial(partial(move, eps=e)), 0.1, 0.4, "attack", must=True),
    two("method of an object in an object", lambda e: Mover(Plain(eps=e)).far, 0.1, 0.4, "attack"),
    two("bound method of a module", lambda b: _Adder(b).attack, 0.1, 0.4, "attack", must=True),
    two("ball: eps", lambda e: partial(pgd, ball=Linf(e), steps=1), 0.1, 0.4, "attack", must=True),
    two("ball: norm", lambda ball: partial(pgd, ball=ball, steps=1), Linf(0.1), L2(0.1), "attack", must=True),
    two("seed", lambda s: partial(pgd, ball=Linf(0.1), steps=1, step_size=0.01, seed=s), 0, 1, "attack", must=True),
    two(
        "seed of NumPy", lambda s: partial(pgd, ball=Linf(0.1), steps=1, seed=s), np.int64(0), np.int64(1), "attack", must=True, shows=False
    ),
    two("steps", lambda n: partial(pgd, ball=Linf(0.1), steps=n, seed=0), 1, 3, "attack", must=True),
    two(
        "one eps for each image",
        lambda e: partial(pgd, ball=Linf(torch.tensor([0.1, 0.1, 0.1, e])), steps=1),
        0.1,
        0.4,
        "attack",
        must=True,
    ),
    edited(
        "call of a dataclass",
        HEAD
        + "@dataclass(frozen=True)\nclass A:\n    eps: float = .1\n    def __call__(self, m, x, y):\n        return (x + 1 * self.eps).clamp(0, 1)\nthing = A()\n",
        "1 * self",
        "3 * self",
        "attack",
        must=True,
    ),
    edited(
        "class variable of a dataclass",
        HEAD
        + "from typing import ClassVar\n@dataclass(frozen=True)\nclass A:\n    eps: ClassVar[float] = .1\n    def __call__(self, m, x, y):\n        return (x + self.eps).clamp(0, 1)\n"
        "thing = A()\n",
        ".1",
        ".4",
        "attack",
    ),
    edited(
        "global default of an attack",
        HEAD + "EPS = .1\ndef thing(model, x, y, eps=EPS):\n    return (x + eps).clamp(0, 1)\n",
        "EPS = .1",
        "EPS = .4",
        "attack",
        must=True,
    ),
    edited(
        "score of a notebook",
        HEAD + "K = 1\ndef thing(logits, features):\n    return logits[:, 0] * K\n",
        "K = 1",
        "K = 3",
        "score",
        main=True,
        must=True,
    ),
    two("score with a power", lambda p: partial(top, power=p), 1, 2, "score", must=True),
    two("score that closes over a tensor", lambda t: _closing_score(torch.tensor(t)), 1.0, 3.0, "score", must=True),
    two("score that closes over a model", lambda b: _closing_score(scaled(b)), 1.0, 3.0, "score", must=True),
]


def _closing_list(values):
    def attack(model, x, y):
        return (x + sum(values)).clamp(0, 1)

    return attack


class _Adder(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def attack(self, model, x, y):
        return (x + self.by).clamp(0, 1).detach()


def _closing_score(held):
    def score(logits, features):
        return logits[:, 0] * (held if isinstance(held, Tensor) else held[1].weight.detach()[0, 0])

    return score


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _value(name: str, make: Callable[..., Any], a: Any, b: Any, must: bool = False) -> Pair:
    return two(name, make, a, b, "value", must, shows=False)


class _Counted(int):
    pass


VALUES = [
    _value("where words are cut", list, ("ab", "c"), ("a", "bc"), must=True),
    _value("where lists are cut", list, ([1], [2]), ([1, 2],), must=True),
    _value("word or number", list, ("1",), (1,), must=True),
    _value("word that looks like a key", list, ("a;str|'b'",), ("a", "b"), must=True),
    _value("True or 1 in a list", list, (True,), (1,), must=True),
    _value("1 or 1.0", list, (1,), (1.0,), must=True),
    _value("bytes", bytes, b"a", b"b"),
    _value("bytes or text", lambda v: v, b"a", "a"),
    _value("bytearray", bytearray, b"a", b"b"),
    _value("complex number", complex, 1, 2),
    _value("infinity or its negative", float, "inf", "-inf", must=True),
    _value("large whole number", int, 2**64, 2**64 + 1, must=True),
    _value("path", Path, "a", "b"),
    _value("class", lambda v: v, nn.ReLU, nn.GELU),
    _value("deque", collections.deque, [1], [2]),
    _value("largest length of a deque", partial(collections.deque, [1]), 2, 3),
    _value("Counter", collections.Counter, "ab", "aab"),
    _value("default of a defaultdict", lambda f: collections.defaultdict(f, a=1), int, float),
    _value("random.Random", random.Random, 1, 2),
    _value("np.random.Generator", np.random.default_rng, 1, 2),
    _value("np.random.RandomState", np.random.RandomState, 1, 2),
    _value("torch.Generator", _generator, 1, 2),
    _value("timedelta", datetime.timedelta, 1, 2),
    _value("Decimal", decimal.Decimal, "1.0", "1.00"),
    _value("Fraction", lambda n: fractions.Fraction(n, 3), 1, 2),
    _value("pattern", re.compile, "a", "b"),
    _value("UUID", lambda n: uuid.UUID(int=n), 1, 2),
    _value("count", itertools.count, 1, 2),
    _value("iterator", iter, [1], [2]),
    _value("generator that runs", lambda n: (i for i in range(n)), 1, 2),
    _value("array.array", lambda v: array.array("d", v), [1.0], [2.0]),
    _value("memoryview", memoryview, b"a", b"b"),
    _value("BytesIO", io.BytesIO, b"a", b"b"),
    _value("attrgetter", operator.attrgetter, "a", "b"),
    _value("itemgetter", operator.itemgetter, 1, 2),
    _value("Series", pd.Series, [1], [2]),
    _value("index of a frame", lambda i: pd.DataFrame({"a": [1]}, index=[i]), 1, 2),
    _value("masked array", lambda m: np.ma.masked_array([1.0, 2.0], m), [True, False], [False, True]),
    _value("structured array", lambda v: np.array([(1, v)], [("a", "i4"), ("b", "f4")]), 1, 2),
    _value("names of a structured array", lambda n: np.array([(1, 2)], [("a", "i4"), (n, "f4")]), "b", "c"),
    _value("array of words", np.array, ["a", "b"], ["a", "c"]),
    _value("unit of a date", lambda u: np.array([1], f"M8[{u}]"), "D", "s"),
    _value("byte order", lambda o: np.frombuffer(b"\x01\x00", f"{o}i2"), "<", ">", must=True),
    _value("shape of an empty tensor", torch.empty, (0, 2), (0, 3), must=True),
    _value("bfloat16 or its bits", lambda d: torch.ones(2, dtype=torch.bfloat16).view(d), torch.bfloat16, torch.int16, must=True),
    _value("float8", lambda v: torch.tensor([v]).to(torch.float8_e4m3fn), 1.0, 2.0),
    _value("kind of float8", lambda d: torch.zeros(2).to(d), torch.float8_e4m3fn, torch.float8_e5m2),
    _value("tensor of truths or bytes", lambda d: torch.ones(2, dtype=d), torch.bool, torch.uint8, must=True),
    _value("tensor or a list of it", lambda f: f([1.0, 2.0]), torch.tensor, lambda v: [torch.tensor(v)], must=True),
    _value("dtype of NumPy", np.dtype, "f4", "f8"),
    _value("whole number with an attribute", lambda v: listed(_Counted, 1, t=v), 1, 2),
    _value("device", torch.device, "cpu", "meta", must=True),
    _value("size or list", lambda k: k([1, 2]), torch.Size, lambda v: [torch.Size(v)], must=True),
    _value("partial's order of arguments", lambda a: partial(math.pow, *a), (2, 3), (3, 2), must=True),
    _value("argument or keyword", lambda p: p, partial(add, 1), partial(add, by=1), must=True),
    _value("two classes", lambda v: v, Moved(0.1), Hidden(0.1)),
    _value("two functions", lambda v: v, double, triple, must=True),
    _value(
        "ClassVar", lambda v: dataclass(type("C", (), {"__annotations__": {"a": ClassVar[int]}, "a": v, "__module__": __name__}))(), 1, 2
    ),
]

OWN = [*ATTRIBUTES, *HOOKS, *CODE, *ATTACKS, *VALUES]


# what a key may overlook, as long as it is seen when the table is read

OVERLOOKED = [
    two("order of a dict of numbers", Numbered, ("half", "up"), ("up", "half")),
    two("layer that neither train nor eval changes", stubborn, True, False),
]


# things of which both must have the same key


def _held(eps: float) -> Callable[..., Tensor]:
    offset = [eps, {"more": torch.tensor(eps)}]

    def attack(model, x, y):
        return x + offset[0] + offset[1]["more"]

    return attack


def _again(make: Callable[[], Any], change: Callable[[Any], Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def changed() -> Any:
        thing = make()
        got = change(thing)
        return thing if got is None else got

    return make, changed


def _run_often(attack):
    x = torch.zeros(1)
    for _ in range(100):
        attack(None, x, None)


def _use(model: nn.Module) -> None:
    model(torch.ones(2, 1, 4, 4))


def _backward(model: nn.Module) -> None:
    model(torch.ones(2, 1, 4, 4)).sum().backward()


def _layered() -> nn.Module:
    return around(_conv("zeros"), nn.BatchNorm2d(1), nn.Dropout(0.3))


def _loaded(model: nn.Module) -> nn.Module:
    other = _layered()
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(model.state_dict())
    return other


def _in_order(*names: str) -> dict[str, Any]:
    values = {"a": 1, "b": torch.ones(2), "c": [0.5, "x"]}
    return {n: values[n] for n in names}


DOCUMENTED = (
    HEAD
    + '''
K = 2
def help(x):
    """Returns x."""
    return x * K
class Net(nn.Module):
    """A network."""
    def __init__(self):
        """Makes it."""
        super().__init__()
        self.base = nn.Linear(2, 2, bias=False)
        nn.init.ones_(self.base.weight)
    def forward(self, x):
        """Runs it."""
        # a comment
        return help(self.base(x))
thing = {}
'''
)
MODEL, FUNCTION = DOCUMENTED.replace("{}", "Net()"), DOCUMENTED.replace("{}", "help")


LONG = (
    HEAD
    + """
def thing(model, x, y, steps=3):
    total = 0
    for step in range(steps):
        if step > 1 and x.sum() > 0 or step == 7 and not total:
            total += sum(v for v in range(step) if v % 2 or v > 3)
        elif total > 10: break
        else: total = {"a": step, "b": [step, total]}["a"]
        try:
            with torch.no_grad(): x = (x + 0.01 * total).clamp(0, 1) if total else x.clone()
        except (ValueError, RuntimeError) as e: raise ValueError(f"no {e} at {step}") from None
        while total > 5 and step < 2: total -= 1
    return x if x.isfinite().all() else torch.zeros_like(x)
"""
)
LAID_OUT = (
    HEAD
    + """
def thing(
    model,
    x, y,
    steps=3,
):
    "Points."
    total = 0

    for step in range(
        steps
    ):
        if (
            step > 1
            and x.sum() > 0
            or step == 7
            and not total
        ):
            total += sum(
                v
                for v in range(step)
                if v % 2
                or v > 3
            )
        elif total > 10:
            # far enough
            break
        else:
            total = {
                "a": step,
                "b": [
                    step,
                    total,
                ],
            }["a"]
        try:
            with torch.no_grad():
                x = (
                    (x + 0.01 * total).clamp(0, 1)
                    if total
                    else x.clone()
                )
        except (
            ValueError,
            RuntimeError,
        ) as e:
            raise ValueError(
                f"no {e} at {step}"
            ) from None
        while (
            total > 5
            and step < 2
        ):
            total -= 1

    return (
        x
        if x.isfinite().all()
        else torch.zeros_like(x)
    )
"""
)


def _texts(name: str, text: str, new: str, main: bool = False, helper: tuple[str, str] = ("", "")) -> tuple[str, Code, Code]:
    assert text != new or helper[0] != helper[1]
    return name, Code(text, helper[0], main), Code(new, helper[1], main)


HELPER = 'K = 1\ndef help(x):\n    """Helps."""\n    return x * K\n'

SAME: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    _texts("comment in a model", MODEL, MODEL.replace("# a comment", "# another comment")),
    _texts("lines before a model", MODEL, MODEL.replace("class Net", "\n\n# a long\n# story\n\nclass Net")),
    _texts("docstring of a class", MODEL, MODEL.replace("A network.", "The network.")),
    _texts("docstring of forward", MODEL, MODEL.replace("Runs it.", "Runs it on x.")),
    _texts("docstring of a module", MODEL, '"""A module."""\n' + MODEL),
    _texts("docstring of a function", FUNCTION, FUNCTION.replace("Returns x.", "Gives x.")),
    _texts("docstring of what is called", MODEL, MODEL.replace("Returns x.", "Gives x.")),
    _texts(
        "formatting", MODEL, MODEL.replace("help(self.base(x))", "help(\n            self.base( x ),\n        )").replace("x * K", "(x*K)")
    ),
    _texts("formatting of a longer function", LONG, LAID_OUT),
    _texts("docstring of a notebook's class", MODEL, MODEL.replace("A network.", "The network."), main=True),
    _texts("lines of a notebook", FUNCTION, "# a cell\n\n" + FUNCTION, main=True),
    _texts("another variable of a notebook", MODEL + "\nother = 1\n", MODEL + "\nother = 2\n", main=True),
    _texts(
        "comment in a helper",
        net("return help(self.base(x))", "from mine_helper import help\n"),
        net("return help(self.base(x))", "from mine_helper import help\n"),
        helper=(HELPER, "# helps\n\n" + HELPER),
    ),
    _texts(
        "docstring in a helper",
        net("return help(self.base(x))", "from mine_helper import help\n"),
        net("return help(self.base(x))", "from mine_helper import help\n"),
        helper=(HELPER, HELPER.replace("Helps.", "It helps.")),
    ),
    ("order of a dict", lambda: _in_order("a", "b", "c"), lambda: _in_order("c", "a", "b")),
    ("order of keywords", lambda: partial(move, eps=0.1, y=None), lambda: partial(move, y=None, eps=0.1)),
    ("copy of a model", *_again(_layered, copy.deepcopy)),
    ("copy of a model with plain attributes", *_again(lambda: Tempered(torch.tensor([1.0, 2.0])), copy.deepcopy)),
    ("copy of an ensemble in a list", *_again(lambda: Ensemble(1, 2), copy.deepcopy)),
    ("pickled and back", *_again(_layered, lambda m: pickle.loads(pickle.dumps(m)))),
    ("loaded from a state dict", *_again(_layered, _loaded)),
    ("training or evaluation", *_again(lambda: _layered().train(), lambda m: m.eval())),
    ("requires_grad", *_again(_layered, lambda m: m.requires_grad_(False))),
    ("gradients", *_again(lambda: around(_conv("zeros")), _backward)),
    ("channels last", *_again(_layered, lambda m: m.to(memory_format=torch.channels_last))),
    ("a model that was used", *_again(lambda: TinyViT().eval(), _use)),
    ("view of a tensor", lambda: torch.arange(6.0)[2:4], lambda: torch.tensor([2.0, 3.0])),
    ("transposed tensor", lambda: torch.arange(6.0).reshape(2, 3).T, lambda: torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])),
    ("parameter that wants a gradient", lambda: torch.ones(2, requires_grad=True), lambda: torch.ones(2)),
    ("fresh array", lambda: np.arange(6.0)[::2], lambda: np.array([0.0, 2.0, 4.0])),
    ("equal dataclasses", lambda: Moved(0.1), lambda: Moved(0.1)),
    ("closures over equal values", lambda: _held(0.1), lambda: _held(0.1)),
    ("closures over equal functions", lambda: closing_twice(0.1), lambda: closing_twice(0.1)),
    ("bound methods of equal objects", lambda: Mover(0.1).run, lambda: Mover(0.1).run),
    ("function defined again", Code(FUNCTION), Code(FUNCTION)),
    ("class defined again", Code(MODEL), Code(MODEL)),
    ("class of a notebook defined again", Code(MODEL, main=True), Code(MODEL, main=True)),
    ("lambdas of one line", lambda: Prepared(_one_line(0.1)), lambda: Prepared(_one_line(0.1))),
    ("function that ran often", *_again(lambda: with_default(0.1), _run_often)),
    ("equal hooks", lambda: hooked_by(double), lambda: (hooked_by(triple), hooked_by(double))[1]),
    ("hook that came and went", flat, lambda: _unhooked()),
    ("partials of equal tensors", lambda: partial(move, eps=small_tensor(0.1)), lambda: partial(move, eps=small_tensor(0.1))),
    ("equal balls", lambda: partial(pgd, ball=Linf(0.1)), lambda: partial(pgd, ball=Linf(0.1))),
    ("bfloat16 twice", lambda: of_type(torch.bfloat16), lambda: of_type(torch.bfloat16)),
    ("NumPy scalars", lambda: [np.float32(0.1), np.int64(3), np.bool_(True)], lambda: [np.float32(0.1), np.int64(3), np.bool_(True)]),
]


def _one_line(by):
    return lambda x: x + by


def _unhooked():
    model = flat()
    model.register_forward_hook(double).remove()
    return model
