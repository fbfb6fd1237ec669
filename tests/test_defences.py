"""Broken defences and honest models before the report: none of the first is flattered without a word, none of the second is accused."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from confnb import images as images_module
from confnb.attacks import pgd
from confnb.evaluation import reporting, specs
from confnb.losses import Adversarial
from confnb.maxconfidence import max_confidence
from confnb.networks import load_or_train
from confnb.runtime import generator, predict
from confnb.sets import L2, Linf
from confnb.training import Recipe

pytestmark = pytest.mark.slow

BALL, POINTS = Linf(0.15), 24


class Gradient(torch.autograd.Function):
    "The given values forwards; backwards the gradient times a factor, 0 or NaN for none"

    @staticmethod
    def forward(ctx, x, values, factor):
        ctx.factor = factor
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None, None


class Defence(nn.Module):
    "A defended model; `model` is the one underneath, whose gradient a hand-written attack follows"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def extra_repr(self):
        return type(self).__name__


class NanBackward(Defence):
    def forward(self, x):
        return self.model(Gradient.apply(x, x.detach(), torch.nan))


class ZeroBackward(Defence):
    def forward(self, x):
        return self.model(Gradient.apply(x, x.detach(), 0.0))


class FourLevels(Defence):
    def forward(self, x):
        return self.model((x * 3).round() / 3)


class FourLevelsStraightThrough(Defence):
    def forward(self, x):
        return self.model(Gradient.apply(x, (x * 3).round() / 3, 1.0))


class Saturated(Defence):
    def forward(self, x):
        return 20 * torch.tanh(2 * self.model(x))


class NearlySaturated(Defence):
    "Its outputs differ, but by no more than a few roundings of their size"

    def forward(self, x):
        z = self.model(x)
        return 20 * torch.tanh(2 * z) + 6e-6 * z


class Scaled(Defence):
    def forward(self, x):
        return 1e4 * self.model(x)


class Distilled(Defence):
    def forward(self, x):
        return 100 * self.model(x)


class RandomInput(Defence):
    def __init__(self, model):
        super().__init__(model)
        self.rng = generator(0)

    def forward(self, x):
        return self.model((x + 0.2 * torch.randn(x.shape, generator=self.rng)).clamp(0, 1))


class InPlace(Defence):
    def forward(self, x):
        y = x.clone() if x.requires_grad and x.is_leaf else x
        return self.model(y.mul_(0.9).add_(0.05))


class BatchStatistics(Defence):
    def forward(self, x):
        return self.model((x - x.mean(0, keepdim=True)) * 0.8 + 0.4)


class Shattered(Defence):
    "A ripple too small to see turns the gradient in every direction"

    def forward(self, x):
        return self.model((x + 0.03 * torch.sin(400 * x)).clamp(0, 1))


class Winners(Defence):
    "k-winners-take-all: of each image's hidden values only the largest fifth count"

    def forward(self, x):
        for layer in self.model:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                flat = x.flatten(1)
                x = (flat * (flat >= flat.topk(max(1, flat.shape[1] // 5), 1).values[:, -1:])).view_as(x)
        return x


DEFENCES = [NanBackward, ZeroBackward, FourLevels, FourLevelsStraightThrough, Saturated, NearlySaturated, Scaled, Distilled, RandomInput, InPlace, BatchStatistics, Shattered, Winners]
NAMES = {
    NanBackward: ["the loss has gradients", "in the whole box nearly every image has a confident mistake"],
    ZeroBackward: ["the loss has gradients", "in the whole box nearly every image has a confident mistake"],
    FourLevels: ["no attack stood still", "in the whole box nearly every image has a confident mistake"],
    Saturated: ["no answer is a tie"],
    NearlySaturated: ["no answer is a tie"],
    Scaled: ["no attack stood still"],
    RandomInput: ["the same answer twice"],
    BatchStatistics: ["the same answer in another batch"],
}  # what is wrong with them
FIRST = [Saturated]  # the others in make soak; test_gate has ten of its own, rounded pixels first, and test_report some without gradients and at random


def by_hand(defence, x, y):
    "How often the defence is right where attacks on what lies underneath have put the images"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = predict(defence, x).argmax(1) == y
        for points in (max_confidence(defence.model, x, y, BALL).x, pgd(defence.model, x, y, BALL, steps=100, restarts=2).x):
            right &= predict(defence, points).argmax(1) == y
    return right.float().mean().item()


def reported(model, data, threat=BALL):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reporting.report(model, data, threat, specs._USUAL, {}, points=POINTS, say=lambda line: None)
    return found, found.tables["checks"][["name", "measured", "fine"]]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.soak] * (k not in FIRST)) for k in DEFENCES], ids=lambda kind: kind.__name__)
@pytest.mark.slow
def test_no_broken_defence_is_flattered_without_a_word_and_what_is_wrong_is_called_by_its_name(kind, small_model, digits):
    "Either the report's attacks break it as those that know it do, or a check fails"
    defence, rows = kind(small_model), images_module.stratified_order(digits.y_test)[:POINTS].sort().values
    found, lines = reported(defence, digits)
    said = found.tables["attacks"].accuracy.iloc[-1]
    truth = by_hand(defence, digits.x_test[rows], digits.y_test[rows])
    assert said <= truth + 0.05 or not lines.fine.all(), f"{said:.0%} in the report, {truth:.0%} in truth, and every check passed"
    assert lines.fine.all() == found.sound
    if kind in NAMES:
        assert set(NAMES[kind]) <= set(lines.name[~lines.fine])
        assert not found.sound and all(name in found.summary[0] for name in NAMES[kind])


def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, classes))


def mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, classes))


def normalised(shape, classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


SHORT = Recipe(epochs=6, batch_size=32, rate=3e-3)
HONEST = {
    "linear": partial(load_or_train, linear, recipe=SHORT),
    "MLP": partial(load_or_train, mlp, recipe=SHORT),
    "batch normalisation": partial(load_or_train, normalised, recipe=SHORT),
    "adversarially trained": partial(load_or_train, "model_a", loss=Adversarial(Linf(0.05), steps=4, ramp=0.5, autocast=None), recipe=SHORT, filters=8),
    "trained for long": partial(load_or_train, mlp, recipe=Recipe(epochs=40, batch_size=32, rate=3e-3)),
}


FAIR = [(kind, threat) for kind in HONEST for threat in (BALL, L2(1.0))]
USUAL = [("MLP", L2(1.0))]  # the others in make soak; test_report has an honest network in an L-infinity ball


@pytest.mark.parametrize("kind, threat", [pytest.param(*one, marks=[pytest.mark.soak] * (one not in USUAL)) for one in FAIR], ids=str)
def test_honest_models_pass_every_check(kind, threat, digits):
    found, lines = reported(HONEST[kind](data=digits, device="cpu"), digits, threat)
    assert lines.fine.all(), lines[~lines.fine].values.tolist()
    assert found.sound and found.tables["attacks"].accuracy.iloc[0] > 0.8


@pytest.mark.parametrize("temperature", [pytest.param(0.2, marks=pytest.mark.soak), 5.0])
@pytest.mark.slow
def test_a_model_that_is_only_more_or_less_sure_passes_every_check(temperature, small_model, digits):
    model = copy.deepcopy(small_model)
    with torch.no_grad():
        model[-1].weight /= temperature
        model[-1].bias /= temperature
    found, lines = reported(model, digits)
    assert lines.fine.all(), lines[~lines.fine].values.tolist()
