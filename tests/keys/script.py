"""Prints, as JSON, the keys of many things, and what `evaluate(..., cache=True)` and `load_or_train` give; two processes are compared by it."""

import hashlib
import json
import logging
import os
import sys
import warnings
from functools import partial

import mine
import numpy as np
import torch
from torch import nn

from confnb.attacks import pgd
from confnb.images import Data
from confnb.keys import fingerprint
from confnb.losses import SmoothingPairing
from confnb.networks import load_or_train
from confnb.sets import Linf
from confnb.tables import evaluate
from confnb.training import Recipe

GAIN = 2.25


def louder(x):
    """Images, brighter."""
    return x * 1.125  # a comment


class Gained(nn.Module):
    """A model of the script, with a constant beside it."""

    def __init__(self):
        super().__init__()
        self.base = mine.linear()

    def forward(self, x):
        return self.base(x) * GAIN


class Louder(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = mine.linear()

    def forward(self, x):
        return self.base(louder(x))


class Raised(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = mine.linear()

    def forward(self, x):
        return self.base(x) + 0.375


def attack(model, x, y):
    return (x + 0.0625).clamp(0, 1)


def closing(eps):
    def inside(model, x, y):
        return (x + eps).clamp(0, 1)

    return inside


THINGS = {
    "script: constant": Gained,
    "script: helper": Louder,
    "script: forward": Raised,
    "script: attack": lambda: attack,
    "script: closure": lambda: closing(0.3125),
    "script: lambda": lambda: lambda model, x, y: (x + 0.4375).clamp(0, 1),
    "module: base class in a helper": mine.Own,
    "module: function and constant of a helper": mine.Stretched,
    "module: constant": mine.Powered,
    "module: forward": mine.Multiplied,
    "module: decorator of a helper": mine.Decorated,
    "module: hook of a helper": mine.hooked,
    "module: attack with a helper": lambda: mine.shifted,
    "module: imported constant": lambda: mine.imported,
    "module: function by its module": lambda: mine.by_module,
    "module: bound method": lambda: mine.Mover(0.1).run,
    "module: dataclass": mine.Moved,
    "plain: model": mine.linear,
    "plain: closure": lambda: mine.closing(0.1),
    "plain: partial of the library": lambda: partial(pgd, ball=Linf(0.1), steps=2),
    "plain: tensors": lambda: [torch.ones(2, dtype=d) for d in (torch.float32, torch.bfloat16, torch.int8)],
    "plain: values": lambda: {"a": [1, 2.5, "x", None, True], "b": (np.float32(0.5), np.arange(3))},
    "plain: layers": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
    "loose: set of words": lambda: {"a", "b", "c", "d", "e"},
    "loose: function that reads a set": lambda: lambda x: x in {"a", "b", "c", "d", "e"},
    "loose: classes": lambda: [nn.ReLU, mine.Own],
    "loose: built-in functions": lambda: [torch.tanh, np.sin, len],
}


def key(make):
    try:
        return fingerprint(make())
    except TypeError:
        return None


def words(thing):
    return hashlib.sha256(thing.tobytes()).hexdigest()[:16]


def weights(model):
    return words(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))


def tables():
    "What is remembered, each with how many images its attack or loss was asked for"
    x, y = torch.linspace(0, 1, 12 * 16).reshape(12, 1, 4, 4), torch.arange(12) % 3
    data = Data(x, y, x, y, x, y, 3, "ramps")
    recipe = Recipe(steps=2, batch_size=6)
    model = mine.linear()
    ask = {
        "evaluated: own attack": lambda: words(evaluate(model, x, y, {"a": mine.shifted}, cache=True).select_dtypes("number").to_numpy()),
        "evaluated: attack of the library": lambda: words(
            evaluate(model, x, y, {"a": partial(pgd, ball=Linf(0.1), steps=1, step_size=0.01)}, cache=True).select_dtypes("number").to_numpy()
        ),
        "trained: own loss": lambda: weights(load_or_train(mine.network, data, mine.Loss(), recipe, device="cpu")),
        "trained: loss of the library": lambda: weights(load_or_train(mine.network, data, SmoothingPairing(), recipe, device="cpu")),
    }
    found = {}
    for name, f in ask.items():
        CALLS.clear()
        found[name] = f(), sum(map(int, CALLS))
    return found


class Calls(logging.Handler):
    def emit(self, record):
        CALLS.append(record.getMessage())


CALLS = []
if __name__ == "__main__":
    logging.getLogger("calls").addHandler(Calls())
    logging.getLogger("calls").propagate = False
    found = {"keys": {name: key(make) for name, make in THINGS.items()}}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found["first"] = tables()
    found["warnings"] = [str(w.message) for w in seen]
    os.environ["CONFNB_CACHE"] = sys.argv[1]  # an empty one: what the numbers must be
    found["afresh"] = tables()
    print(json.dumps(found))
