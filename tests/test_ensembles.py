import math
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from toys import images, linear

from confnb.attacks import (
    apgd,
    bim,
    confident_linf,
    constant_offset,
    fgsm,
    ilcm,
    negative,
    pgd,
    uniform_noise,
)
from confnb.borrowing import RandomAnswers
from confnb.ensembles import Averaged, Ensemble, confidence_over_draws, transfer
from confnb.found import score_inside
from confnb.maxconfidence import max_confidence
from confnb.nearest import cw_hc, cw_l2, cw_l2_fast, ddn, jsma
from confnb.objectives import LogConfidence, NoGradient, WrongConfidence
from confnb.random_search import square
from confnb.rules import GradientRule
from confnb.runtime import predict, streams
from confnb.search import maximize
from confnb.sets import L2, Linf
from confnb.tables import evaluate


class Drawn(nn.Module):
    "Logits (0, a z) with z normal: the mean probability of class 1 has a closed form up to one integral"

    def __init__(self, by="torch", size=2.0):
        super().__init__()
        self.by, self.size = by, size

    def forward(self, x):
        n = len(x)
        z = {"torch": lambda: torch.randn(n), "numpy": lambda: torch.from_numpy(np.random.normal(size=n)).float(),
             "python": lambda: torch.tensor([random.gauss(0, 1) for _ in range(n)])}[self.by]()
        return torch.stack([0 * z, x.flatten(1)[:, 0] + self.size * z], 1)


def mean_sigmoid(shift, size):
    "E sigmoid(shift + size z), by Gauss-Hermite quadrature"
    at, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((weights / (1 + np.exp(-(shift + size * at)))).sum() / weights.sum())


# Several models

@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4), kinds=st.lists(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), min_size=4, max_size=4))
@settings(max_examples=15)
def test_an_ensemble_gives_the_logs_of_mean_probabilities_of_any_precision(seeds, kinds):
    members = [linear(4, 9, seed=s)[0].to(kind) for s, kind in zip(seeds, kinds, strict=False)]
    x = images(5)
    each = [predict(m, x).double() for m in members]
    mean = torch.stack([e.softmax(1) for e in each]).mean(0)
    both = predict(Ensemble(members), x)
    torch.testing.assert_close(both.double().exp(), mean, atol=1e-5, rtol=1e-4)
    assert both.dtype == (torch.float64 if torch.float64 in [m[1].weight.dtype for m in members] else torch.float32)
    logits = predict(Ensemble(members, of="logits"), x)
    torch.testing.assert_close(logits.double(), torch.stack(each).mean(0), atol=1e-4, rtol=1e-4)


def test_the_gradient_of_an_ensemble_is_that_of_the_mean():
    a, b, x = linear(3, 9, seed=0)[0], linear(3, 9, seed=1)[0], images(4).requires_grad_()
    (ours,) = torch.autograd.grad(Ensemble([a, b])(x)[:, 1].sum(), x)
    (theirs,) = torch.autograd.grad(((a(x).softmax(1) + b(x).softmax(1)) / 2).log()[:, 1].sum(), x)
    torch.testing.assert_close(ours, theirs)
    alone = maximize(Ensemble([a]), LogConfidence(1), images(4), Linf(0.2), 5, start="here")
    torch.testing.assert_close(alone.x, maximize(a, LogConfidence(1), images(4), Linf(0.2), 5, start="here").x)


def test_an_ensemble_of_nothing_and_no_draws_are_refused():
    with pytest.raises(ValueError, match="one or more models"):
        Ensemble([])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        Averaged(Drawn(), 0)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        confidence_over_draws(Averaged(Drawn()), images(2), draws=1)
    with pytest.raises(ValueError, match="level is"):
        confidence_over_draws(Averaged(Drawn()), images(2), level=95)


def test_what_is_no_model_and_what_is_no_level_are_refused():
    for make in (lambda m: Ensemble([linear(2)[0], m])), Averaged:
        for model in None, nn.ReLU, lambda x: x:
            with pytest.raises(TypeError, match="a model must be a torch.nn.Module, not"):
                make(model)
    with pytest.raises(TypeError, match="model must be an Averaged, not Drawn"):
        confidence_over_draws(Drawn(), images(2))
    with pytest.raises(TypeError, match="level must be a number, not 'a'"):
        confidence_over_draws(Averaged(Drawn()), images(2), level="a")


@pytest.mark.parametrize("make", [lambda m: Ensemble([linear(3)[0], m]), lambda m: Averaged(m, 2)], ids=["ensemble", "average"])
def test_a_member_that_gives_probabilities_is_refused_though_the_mean_is_of_logs(make):
    with pytest.raises(ValueError, match="the model gives probabilities"):
        predict(make(nn.Sequential(linear(3)[0], nn.Softmax(1))), images(5))


class Jitter(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def test_an_average_does_not_depend_on_the_default_device():
    model, x = Averaged(nn.Sequential(Jitter(), linear(3)[0]), 3), images(5)
    usual = predict(model, x)
    with torch.device("meta"):
        assert torch.equal(usual, predict(model, x))


# Draws

@pytest.mark.parametrize("by", ["torch", "numpy", "python"])
def test_an_average_is_repeatable_near_the_mean_and_leaves_the_generators_alone(by):
    model, x = Averaged(Drawn(by), draws=400, seed=-3), images(6)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RandomAnswers)
        first, second = predict(model, x), predict(model, x)
    assert torch.equal(first, second)
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()
    true = torch.tensor([mean_sigmoid(v, 2.0) for v in x.flatten(1)[:, 0].tolist()])
    assert (first.exp()[:, 1] - true).abs().max() < 5 * 0.35 / 400**0.5
    assert not torch.equal(first, predict(Averaged(Drawn(by), draws=400, seed=-2), x))


@pytest.mark.parametrize("alone", [True, False])
def test_alone_an_image_is_answered_the_same_in_every_batch(alone):
    model, x = Averaged(Drawn(), draws=5, alone=alone), images(6)
    whole = predict(model, x)
    same = torch.allclose(whole, predict(model, x, 4), atol=1e-6) and torch.allclose(whole[3:], predict(model, x[3:]), atol=1e-6)
    assert same == alone
    if alone:
        a, b = (pgd(model, x, torch.ones(6, dtype=torch.int64), 0.2, 3, batch_size=size) for size in (6, 2))
        torch.testing.assert_close(a.x, b.x)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    "400 images with the same answer, each drawn for itself: about 95 % of the intervals hold the mean"
    x = torch.full((400, 1, 1, 2), 0.5)
    model = Averaged(Drawn(), draws=3)
    classes = torch.ones(400, dtype=torch.int64)
    p, low, high = confidence_over_draws(model, x, classes, draws=40, batch_size=1000)
    true = mean_sigmoid(0.5, 2.0)
    covered = int(((low <= true) & (true <= high)).sum())
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3
    assert (low >= 0).all() and (high <= 1).all() and abs(p.mean().item() - true) < 0.02
    narrow = confidence_over_draws(model, x, classes, draws=40, level=0.5)
    assert ((narrow[2] - narrow[1]) < (high - low)).all()


def test_an_average_is_attacked_better_than_a_draw():
    torch.manual_seed(0)
    network = linear(2, 9, scale=3.0, seed=3)[0]

    class Noisy(nn.Module):
        def forward(self, x):
            return network(x + torch.randn(x.shape))

    x, y = images(20), torch.arange(20) % 2
    found = pgd(Averaged(Noisy(), draws=16), x, y, 0.3, 10)
    worst = network[1].weight[1 - y] - network[1].weight[y]
    torch.testing.assert_close(found.x, (x + 0.3 * worst.reshape(x.shape).sign()).clamp(0, 1))  # the mean climbs straight to it
    with pytest.warns(RandomAnswers):
        pgd(Noisy(), x, y, 0.3, 2)
    table = evaluate(Averaged(Noisy(), draws=4), x, y, {"pgd": partial(pgd, ball=0.3, steps=2)}, batch_size=7)
    assert len(table) == 40


# From one model to another

@given(seed=st.integers(0, 99), targets=st.integers(0, 4), restarts=st.integers(1, 2), l2=st.booleans())
@settings(max_examples=10)
def test_transfer_gives_the_victims_own_best_of_the_surrogates_candidates(seed, targets, restarts, l2):
    surrogate, victim = linear(4, 9, 2, seed)[0], linear(4, 9, 2, seed + 1)[0]
    x, y, ball = images(5, seed=seed), torch.arange(5) % 4, (L2(0.4) if l2 else Linf(0.2))
    found = transfer(surrogate, victim, x, y, ball, 3, targets=targets, restarts=restarts, seed=seed)
    assert ball.contains(found.x, x).all() and torch.equal(found.prediction, predict(victim, found.x).argmax(1))
    likely = predict(victim, x).scatter(1, y[:, None], -torch.inf).topk(3, 1).indices
    aims = [WrongConfidence(y), *(LogConfidence(likely[:, i]) for i in range(min(targets, 3)))]
    best = score_inside(victim, x, y, ball, x).wrong_confidence
    for r in range(restarts):
        for aim in aims:
            own = streams(streams(seed, 5), 5, r)
            z = maximize(surrogate, aim, x, ball, 3, rule=GradientRule(1.0), seed=own).x
            best = torch.maximum(best, WrongConfidence(y)(predict(victim, z)).exp())
    torch.testing.assert_close(found.wrong_confidence, best, atol=1e-5, rtol=1e-4)
    again = transfer(surrogate, victim, x, y, ball, 3, targets=targets, restarts=restarts, seed=seed, batch_size=2)
    torch.testing.assert_close(again.wrong_confidence, found.wrong_confidence, atol=1e-5, rtol=1e-4)


def test_transfer_asks_the_victim_for_no_gradient_and_says_what_does_not_fit():
    surrogate, x, y = linear(3, 9)[0], images(6), torch.arange(6) % 3

    class Blunt(nn.Module):
        def forward(self, x):
            return torch.from_numpy(surrogate(x).detach().numpy())

    found = transfer(surrogate, Blunt(), x, y, 0.2, 20)
    white = max_confidence(surrogate, x, y, Linf(0.2))
    torch.testing.assert_close(found.wrong_confidence, white.wrong_confidence, atol=1e-3, rtol=1e-3)  # the same model behind it
    assert (found.passes == 3 * 20).all()  # three classes: away, and towards the two others
    with pytest.raises(ValueError, match="knows 4 classes and the victim 3"):
        transfer(linear(4, 9)[0], Blunt(), x, y, 0.2)
    with pytest.raises(ValueError, match="at least 1 step"):
        transfer(surrogate, Blunt(), x, y, 0.2, 0)
    with pytest.raises(TypeError, match="setting called"):
        transfer(surrogate, Blunt(), x, y, 0.2, 2, speed=3)


# Any precision

def of_kind(kind):
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(108, 4))
    for p, seed in zip(model.parameters(), range(9), strict=False):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) / (1 if p.ndim < 3 else 2)
    if kind == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, of its quantisation's next home
            return torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear})
    return model.to(kind)


EVERY = {
    "fgsm": partial(fgsm, ball=0.2), "bim": partial(bim, ball=0.2, steps=3), "ilcm": partial(ilcm, ball=0.2, steps=3), "pgd": partial(pgd, ball=L2(0.5), steps=3),
    "apgd": partial(apgd, ball=0.2, steps=5), "confident_linf": partial(confident_linf, ball=0.2, steps=3), "noise": partial(uniform_noise, ball=0.2, draws=2),
    "negative": negative, "offset": partial(constant_offset, offsets=0.2), "square": partial(square, ball=0.2, queries=20), "square L2": partial(square, ball=L2(0.5), queries=20),
    "max_confidence": partial(max_confidence, ball=0.2), "every class": partial(max_confidence, ball=Linf(0.2), steps=2),
    "ddn": partial(ddn, steps=5), "jsma": partial(jsma, target=3), "cw_l2": partial(cw_l2, steps=3), "cw_l2_fast": cw_l2_fast, "cw_hc": partial(cw_hc, steps=3)}
BOUND = {"pgd": L2(0.5), "square L2": L2(0.5), "negative": None, "ddn": None, "jsma": None, "cw_l2": None, "cw_l2_fast": None, "cw_hc": None}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, "int8"], ids=str)
@pytest.mark.filterwarnings("ignore::confnb.objectives.NoGradient")
def test_models_of_any_precision_are_attacked_and_evaluated(kind):
    model, x = of_kind(kind), images(6, 6)
    y = torch.arange(6) % 3
    table = evaluate(model, x, y, EVERY, batch_size=len(x))
    state = {k: v.dtype for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    assert state == {k: v.dtype for k, v in of_kind(kind).state_dict().items() if isinstance(v, torch.Tensor)}
    clean = table[table.attack == "clean"].wrong_confidence.to_numpy()
    for name, attack in EVERY.items():
        found, part = attack(model, x, y), table[table.attack == name]
        ball = BOUND.get(name, Linf(0.2))
        assert found.x.dtype == torch.float32 and found.x.min() >= 0 and found.x.max() <= 1
        assert ball is None or ball.contains(found.x, x).all(), name
        # bfloat16 answers otherwise in another batch by up to its rounding; the table asked the same batch
        np.testing.assert_allclose(part.wrong_confidence, WrongConfidence(y)(predict(model, found.x)).exp(), atol=2e-2)
    for name in ("square", "max_confidence"):
        assert (table[table.attack == name].wrong_confidence.to_numpy() >= clean - 2e-2).mean() > 0.8, name


def test_where_int8_has_no_gradient_the_search_that_needs_none_goes_on():
    model, x = of_kind("int8"), images(8, 6)
    y = predict(model, x).argmax(1)
    with pytest.warns(NoGradient):
        stuck = pgd(model, x, y, 0.3, 10)
    found = square(model, x, y, 0.3, 200)
    assert (found.prediction != y).sum() > (stuck.prediction != y).sum() and math.isfinite(found.value.sum())
