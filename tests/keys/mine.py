"""Models, attacks and losses of a user."""

import logging
from dataclasses import dataclass

import mine_helper
import torch
import torch.nn.functional as F
from mine_helper import OFFSET, Base, doubled, shift, stretch, times
from torch import nn

POWER = 3


def linear(inside=16, classes=3):
    layer = nn.Linear(inside, classes)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape).sin())
    return nn.Sequential(nn.Flatten(), layer)


class Own(Base):
    """Its number is that of its base class."""

    def __init__(self):
        super().__init__()
        self.base = linear()

    def forward(self, x):
        """Logits."""
        # the base class knows by how much
        return self.base(x) * self.factor()


class Stretched(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = linear()

    def forward(self, x):
        return self.base(stretch(x))


class Powered(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = linear()

    def forward(self, x):
        return self.base(x) ** POWER


class Multiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = linear()

    def forward(self, x):
        return self.base(x) * 1.25


class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = linear()

    @times(2)
    def forward(self, x):
        return self.base(x)


def hooked():
    model = linear()
    model.register_forward_hook(doubled)
    return model


def shifted(model, x, y):
    """An attack that says when it is called."""
    logging.getLogger("calls").warning(str(len(x)))
    return shift(x).clamp(0, 1)


def imported(model, x, y):
    return (x + OFFSET).clamp(0, 1)


def by_module(model, x, y):
    return mine_helper.shift(x).clamp(0, 1)


class Mover:
    def __init__(self, eps):
        self.eps = eps

    def run(self, model, x, y):
        return (x + 0.5 * self.eps).clamp(0, 1)


@dataclass(frozen=True)
class Moved:
    eps: float = 0.1

    def __call__(self, model, x, y):
        """Points."""
        return (x + self.eps * 1.5).clamp(0, 1)


def closing(eps):
    def attack(model, x, y):
        return (x + eps).clamp(0, 1)

    return attack


def network(shape, classes):
    """An architecture for `load_or_train`."""
    return linear(shape[0] * shape[1] * shape[2], classes)


@dataclass(frozen=True)
class Loss:
    """A loss that says when it is called."""

    def __call__(self, model, x, y, rng, progress):
        logging.getLogger("calls").warning(str(len(x)))
        return F.cross_entropy(model(x), y, label_smoothing=0.125)
