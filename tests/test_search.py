import math
import random
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from toys import IN_PLACE, Edges, backwards, turns

from confnb.attacks import negative, pgd, uniform_noise
from confnb.borrowing import fast_dtype
from confnb.found import (
    Found,
    active_fraction,
    best_of_each,
    concat,
    distortion,
    keep_better,
    with_wrong_confidence,
    wrong_classes,
)
from confnb.maxconfidence import max_confidence
from confnb.models import outputs, seeded
from confnb.objectives import (
    CrossEntropy,
    LogConfidence,
    Margin,
    Nearest,
    NoGradient,
    TargetMargin,
    WrongConfidence,
)
from confnb.rules import AdamRule, APGDRule, DDNRule, GradientRule, JSMARule, step_lengths
from confnb.runtime import generator, predict, streams
from confnb.search import maximize
from confnb.sets import BOX, L0, L2, Linf, take_rows


def tiny(seed=0, classes=3, gain=3.0, dtype=torch.float32):
    "A random network on 1 x 6 x 6 images, curved enough that searches find different points"
    with seeded(seed):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes))
    for p in model.parameters():
        p.data *= gain
    return model.to(dtype).eval()


def images(n=5, seed=0, dtype=torch.float32):
    "Images with pixels at both ends of the box"
    return (1.4 * torch.rand(n, 1, 6, 6, generator=generator(seed)) - 0.2).clamp(0, 1).to(dtype)


def labels(n=5, seed=0, classes=3):
    return torch.randint(classes, (n,), generator=generator(seed))


def log_softmax(logits):
    logits = logits.double().numpy()
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def lies_in(ball, z, x, slack=1e-6, beyond=0.0):
    "Whether each point lies in the ball (but for `slack`) and in the box (but for `beyond`), worked out in numpy and float64"
    z, x = (t.double().numpy().reshape(len(t), -1) for t in (z, x))
    eps, changes = np.asarray(ball.eps, dtype=float), np.abs(z - x)
    sizes = {Linf: changes.max(1), L2: np.sqrt((changes**2).sum(1)), L0: (changes > slack).sum(1)}
    near = sizes[type(ball)] <= eps + (0 if isinstance(ball, L0) else slack * np.maximum(eps, 1))
    return near & (z.min(1) >= -beyond) & (z.max(1) <= 1 + beyond)


def objective_values(objective, logits):
    logp, rows = log_softmax(logits), np.arange(len(logits))
    if isinstance(objective, LogConfidence):
        return logp[rows, objective.target]
    if isinstance(objective, CrossEntropy):
        return -logp[rows, objective.label]
    values = logp if isinstance(objective, WrongConfidence) else logits.double().numpy().copy()
    own = values[rows, objective.label].copy()
    values[rows, objective.label] = -np.inf
    return values.max(1) - (0 if isinstance(objective, WrongConfidence) else own)


@st.composite
def balls(draw, n):
    sizes = {Linf: st.floats(2**-10, 1.0, width=32), L2: st.floats(2**-10, 8.0, width=32), L0: st.integers(1, 40)}
    kind = draw(st.sampled_from([*sizes, None]))
    if kind is None:
        return BOX
    eps = sizes[kind]
    return kind(torch.tensor(draw(st.lists(eps, min_size=n, max_size=n)))) if draw(st.booleans()) else kind(draw(eps))


seeds = st.integers(0, 2**32)
kinds = st.sampled_from([LogConfidence, CrossEntropy, WrongConfidence, Margin])
starts = st.sampled_from(["random", "here", "tensor", "outside"])
ANYWHERE = {"steepest": GradientRule(), "momentum": GradientRule(0.9), "halving": APGDRule(), "adam": AdamRule(), "ddn": DDNRule(), "one up": JSMARule(), "one down": JSMARule(False)}
RULES = {**ANYWHERE, "tanh": AdamRule("tanh")}  # the last is for boxes alone
CONSTANT = {name: rule for name, rule in RULES.items() if name not in ("halving", "ddn")}  # their first steps do not depend on how many there are
PAIRS = [(rule, kind) for rule in RULES for kind in (Linf, L2, L0) if rule != "tanh" or kind is Linf]


@st.composite
def problems(draw, dtype=torch.float32, among=RULES):
    "A model, an objective, images, a set, and how to search: a start, a rule that may go with the set, a rank"
    n, seed = draw(st.integers(1, 5)), draw(st.integers(0, 999))
    how, ball = draw(starts), draw(balls(n))
    start = {"tensor": images(n, seed + 1, dtype), "outside": (images(n, seed, dtype) > 0.5).to(dtype)}.get(how, how)
    rule = among[draw(st.sampled_from([r for r in among if r != "tanh" or isinstance(ball, Linf)]))]
    rank = draw(kinds)(labels(n, seed + 1)) if draw(st.booleans()) else None
    how = {"start": start, "rule": rule, "rank": rank}
    return tiny(seed, dtype=dtype), draw(kinds)(labels(n, seed)), images(n, seed, dtype), ball, how


climbs = st.fixed_dictionaries({
    "steps": st.integers(0, 5), "restarts": st.integers(1, 3), "seed": seeds, "decay": st.floats(0.01, 1), "batch_size": st.integers(1, 6),
    "step_size": st.none() | st.floats(1e-3, 1), "stop": st.just(math.inf) | st.floats(-3, 3), "keep": st.sampled_from(["best", "last"]),
    "patience": st.sampled_from([0, 0, 1, 2, 3])})


# What comes back

@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@given(problem=problems(), climb=climbs)
@settings(max_examples=50)
def test_every_point_lies_in_its_set_and_is_scored_there(autocast, problem, climb):
    model, objective, x, ball, how = problem
    kept = x.clone()
    found = maximize(model, objective, x, ball, **how, autocast=autocast, **climb)
    assert torch.equal(x, kept) and found.x.shape == x.shape and found.x.dtype == torch.float32
    assert lies_in(ball, found.x, x).all() and ball.contains(found.x, x).all()
    assert found.logits.dtype == torch.float32 and torch.allclose(found.logits, predict(model, found.x), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.value, objective_values(how["rank"] or objective, found.logits), atol=1e-5, rtol=1e-5)
    assert found.passes.dtype == torch.int64 and (found.passes <= climb["steps"] * climb["restarts"]).all()
    assert climb["stop"] < math.inf or climb["patience"] or (found.passes == climb["steps"] * climb["restarts"]).all()
    assert found.seconds > 0 and found.wrong_confidence is None


@given(ball=balls(4), seed=seeds, far=st.floats(0, 20))
@settings(max_examples=50)
def test_projections_and_random_points_lie_in_the_set(ball, seed, far):
    x = images(4)
    z = x + far * torch.randn(x.shape, generator=generator(seed))
    projected = ball.project(z, x)
    for points in projected, ball.random(x, seed + torch.arange(4)):
        assert lies_in(ball, points, x).all() and ball.contains(points, x).all()
    assert torch.allclose(ball.project(projected, x), projected, atol=1e-6)
    said = ball.contains(z, x).numpy()
    assert (said >= lies_in(ball, z, x, 0)).all() and (said <= lies_in(ball, z, x, 1e-5, 1e-5)).all()


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.6)])
def test_points_just_outside_are_not_contained(ball):
    x = torch.full((1, 1, 6, 6), 0.5)
    push = ball.ascent(torch.ones_like(x)) * ball.eps
    assert ball.contains(x + push, x) and not ball.contains(x + 1.001 * push, x)
    edge = torch.ones_like(x)
    assert ball.contains(edge, edge) and not ball.contains(edge + 1e-4, edge) and not ball.contains(edge * math.nan, edge)


@pytest.mark.parametrize("kind, eps", [(Linf, 0.2), (L2, 0.5)])
def test_random_points_fill_the_ball(kind, eps):
    x = torch.full((4000, 1, 2, 1), 0.5)
    delta = (kind(eps).random(x, torch.arange(4000)) - x).flatten(1) / eps
    size = delta.norm(dim=1, p=math.inf if kind is Linf else 2)
    assert size.max() <= 1 + 1e-5
    share = np.array([(size <= t).float().mean() for t in (0.25, 0.5, 0.75)])
    np.testing.assert_allclose(share, [0.0625, 0.25, 0.5625], atol=0.03)  # the area grows with the square
    assert delta.mean(0).abs().max() < 0.05


# Better with more

@given(problem=problems(torch.float64), climb=climbs)
@settings(max_examples=25)
def test_the_best_point_is_never_worse_than_the_start(problem, climb):
    model, objective, x, ball, how = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    here = maximize(model, objective, x, ball, **how, **{**climb, "steps": 0})
    there = maximize(model, objective, x, ball, **how, **climb)
    assert (there.value >= here.value - 1e-9).all()


@given(problem=problems(torch.float64), climb=climbs)
@settings(max_examples=25)
def test_more_restarts_are_never_worse(problem, climb):
    model, objective, x, ball, how = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    values = [maximize(model, objective, x, ball, **how, **{**climb, "restarts": n}).value for n in (1, 2, 4)]
    assert (values[1] >= values[0] - 1e-9).all() and (values[2] >= values[1] - 1e-9).all()


@given(problem=problems(torch.float64), climb=climbs, level=st.floats(0, 1))
@settings(max_examples=30)
def test_stopping_changes_nothing_about_who_gets_there(problem, climb, level):
    model, objective, x, ball, how = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    full = maximize(model, objective, x, ball, **how, **climb)
    stop = torch.quantile(full.value, level, interpolation="nearest").item() - 1e-6
    assume((full.value - stop).abs().min() > 1e-7)
    short = maximize(model, objective, x, ball, **how, **{**climb, "stop": stop})
    assert torch.equal(short.value >= stop, full.value >= stop)
    assert (short.passes <= full.passes).all() and (short.passes == full.passes)[full.value < stop].all()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_who_stops_early_keeps_the_point_that_got_there(keep):
    model, x, y = tiny(), images(20), labels(20)
    stop = maximize(model, CrossEntropy(y), x, L2(1.5), 30).value.median().item() - 1e-3
    found = maximize(model, CrossEntropy(y), x, L2(1.5), 30, keep=keep, stop=stop)
    early = found.passes < 30
    assert early.sum() > 3 and (~early).sum() > 3
    assert (found.value[early] >= stop).all()


def test_the_last_point_is_that_of_textbook_pgd():
    model, x, y = tiny(), images(), labels()
    z = x.clone()
    for _ in range(7):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), y, reduction="sum"), z)
        z = (x + (z.detach() + 0.05 * gradient.sign() - x).clamp(-0.2, 0.2)).clamp(0, 1)
    found = maximize(model, CrossEntropy(y), x, Linf(0.2), 7, 0.05, start="here", keep="last")
    assert torch.allclose(found.x, z, atol=1e-6)


def test_steps_shrink_geometrically():
    assert np.allclose(step_lengths(5, 1 / 16), [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert step_lengths(0) == [] and step_lengths(1, 0.1) == [1] and step_lengths(3) == [1, 1, 1]


def test_a_step_size_of_its_own_for_each_example():
    model, x, y, size = tiny(), images(4), labels(4), torch.tensor([0.01, 0.02, 0.03, 0.04])
    found = maximize(model, CrossEntropy(y), x, Linf(0.5), 1, size, start="here", keep="last", batch_size=3)
    assert torch.allclose((found.x - x).flatten(1).abs().amax(1), size, atol=1e-6)


# Seeds

@given(problem=problems(torch.float64), climb=climbs, batch=st.integers(1, 6), noise=seeds)
@settings(max_examples=25)
def test_a_seed_gives_the_same_points_for_any_batch_size_and_global_seed(problem, climb, batch, noise):
    model, objective, x, ball, how = problem
    climb = {**climb, "stop": math.inf}
    one = maximize(model, objective, x, ball, **how, **climb)
    with seeded(noise):
        other = maximize(model, objective, x, ball, **how, **{**climb, "batch_size": batch})
    assert torch.allclose(one.x, other.x, atol=1e-6)


@given(problem=problems(torch.float64), climb=climbs, data=st.data())
@settings(max_examples=25)
def test_seeds_for_each_example_give_a_subset_the_same_points(problem, climb, data):
    model, objective, x, ball, how = problem
    own = torch.tensor(data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(x), max_size=len(x))))
    some = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(x))), min_size=1, max_size=6)))
    climb = {**climb, "seed": own, "stop": math.inf}
    every = maximize(model, objective, x, ball, **how, **climb)
    few = maximize(model, take_rows(objective, some), x[some], take_rows(ball, some), **{k: take_rows(v, some) for k, v in how.items()}, **{**climb, "seed": own[some]})
    assert torch.allclose(every.x[some], few.x, atol=1e-6)


@pytest.mark.parametrize("rule, kind", PAIRS)
def test_eps_for_each_example_is_as_separate_calls(rule, kind):
    model, x, y, own = tiny(dtype=torch.float64), images(3, dtype=torch.float64), labels(3), torch.arange(3)
    eps, settings = {Linf: [0.01, 0.1, 0.5], L2: [0.1, 1.0, 4.0], L0: [1, 3, 9]}[kind], {"restarts": 2, "rule": RULES[rule]}
    together = maximize(model, CrossEntropy(y), x, kind(torch.tensor(eps)), 6, seed=own, **settings)
    for i in range(3):
        alone = maximize(model, CrossEntropy(y[i : i + 1]), x[i : i + 1], kind(eps[i]), 6, seed=own[i : i + 1], **settings)
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-6)


def test_another_seed_gives_other_points_and_restarts_other_starts():
    model, x, y = tiny(), images(4), labels(4)
    points = [maximize(model, CrossEntropy(y), x, Linf(0.3), 0, seed=s).x for s in (0, 1)]
    assert (points[0] != points[1]).flatten(1).any(1).all()
    twins = maximize(model, CrossEntropy(0), x[:1].expand(4, -1, -1, -1), Linf(0.3), 0).x
    assert len(twins.flatten(1).unique(dim=0)) == 4
    noise = [maximize(model, CrossEntropy(y), x, Linf(0.3), 0, restarts=k).value for k in (1, 64)]
    assert (noise[1] > noise[0]).all()


# Sets

@given(data=st.data(), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_an_l0_set_keeps_the_largest_changes(data, seed):
    x, eps = images(4, seed), np.array(data.draw(st.lists(st.integers(1, 40), min_size=4, max_size=4)))
    z = images(4, seed + 1)
    kept = L0(torch.tensor(eps)).project(z, x)
    for kept_row, z_row, x_row, count in zip(*(t.double().numpy().reshape(4, -1) for t in (kept, z, x)), eps, strict=True):
        largest = np.argsort(-np.abs(z_row - x_row), kind="stable")[:count]
        expected = x_row.copy()
        expected[largest] = z_row[largest]
        np.testing.assert_array_equal(kept_row, expected)
    assert L0(40).project(z, x).equal(z) and L0(3).project(5 * z - 2, x).aminmax() == (0, 1)


def test_an_l0_set_counts_changed_values():
    x = torch.full((4, 2, 3, 3), 0.5)
    z = x.flatten(1).clone()
    for i, changed in enumerate([0, 3, 4, 18]):
        z[i, :changed] += 0.1
    z = z.reshape(x.shape)
    assert L0(3).contains(z, x).tolist() == [True, True, False, False]
    assert L0(torch.tensor([1, 2, 4, 18])).contains(z, x).tolist() == [True, False, True, True]
    assert L0(1).contains(x + 1e-7, x).all() and not L0(18).contains(x + 0.6, x).any() and not L0(18).contains(x * math.nan, x).any()


def test_random_points_of_an_l0_set_change_so_many_values_anywhere():
    x, counts = torch.full((3000, 1, 3, 3), 0.5), torch.arange(3000) % 9 + 1
    z = L0(counts).random(x, torch.arange(3000)).flatten(1)
    changed = z != 0.5
    assert torch.equal(changed.sum(1), counts) and L0(counts).contains(z.reshape(x.shape), x).all()
    assert (changed.float().mean(0) - 5 / 9).abs().max() < 0.05
    np.testing.assert_allclose(torch.quantile(z[changed], torch.tensor([0.1, 0.5, 0.9])), [0.1, 0.5, 0.9], atol=0.02)


def test_an_l0_step_goes_where_one_value_gains_most():
    gradient = torch.tensor([[0.1, -0.5, 0.3], [0.0, 0.2, 0.1], [0.0, 0.0, 0.0]]).reshape(3, 1, 1, 3)
    assert L0(2).ascent(gradient).flatten(1).tolist() == [[0, -1, 0], [0, 1, 0], [0, 0, 0]]


def test_the_box_is_every_image():
    x, z = images(6), images(6, 1)
    far = z + 3 * torch.randn(z.shape, generator=generator(0))
    assert torch.equal(BOX.project(far, x), far.clamp(0, 1)) and BOX.contains(z, x).all() and not BOX.contains(far, x).any()
    low, high = BOX.bounds(x)
    assert low.eq(0).all() and high.eq(1).all()
    low, high = Linf(torch.linspace(0.1, 1, 6)).bounds(x)
    pixels, eps = x.double().numpy(), np.linspace(0.1, 1, 6).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(low, np.maximum(pixels - eps, 0), atol=1e-6)
    np.testing.assert_allclose(high, np.minimum(pixels + eps, 1), atol=1e-6)


# Rules, against others' and against the papers

def slopes(model, objective, z):
    "The objective and its gradient at each point"
    z = z.detach().requires_grad_()
    value = objective(model(z), z)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


def box_around(x, eps):
    return lambda z: torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)


def apgd(model, objective, x, eps, steps, weight=0.75, share=0.75):
    """Algorithm 1 of Croce and Hein (2020) for one image: the best point and the last

    As in the authors' program, the conditions are looked at when f(x_k) is known, so that x_k itself, not x_(k+1), gives way to the best point.
    """
    hundredths, project = [0, 22], box_around(x, eps)
    while hundredths[-1] < 100:
        hundredths.append(hundredths[-1] + max(hundredths[-1] - hundredths[-2] - 3, 6))
    checkpoints = sorted({-(-p * steps // 100) for p in hundredths})
    z, before, values, top, eta, at_last = x, x, [], -math.inf, 2 * eps, None
    for k in range(steps):
        value, gradient = slopes(model, objective, z)
        values.append(value.item())
        if values[-1] > top:
            top, best, best_gradient = values[-1], z, gradient
        if k in checkpoints[1:]:
            last = checkpoints[checkpoints.index(k) - 1]
            rises = sum(values[i + 1] > values[i] for i in range(last, k))
            stuck = rises < share * (k - last) or at_last == (eta, top)
            at_last = eta, top
            if stuck:
                eta, z, gradient = eta / 2, best, best_gradient
        ahead, momentum = project(z + eta * gradient.sign()), z - before
        before = z
        z = ahead if k == 0 else project(z + weight * (ahead - z) + (1 - weight) * momentum)
    return (z if slopes(model, objective, z)[0].item() > top else best), z


@pytest.mark.parametrize("eps", [0.1, 0.3])
@pytest.mark.parametrize("steps", [1, 7, 20, 33, 50])
def test_halving_is_algorithm_1_of_apgd(steps, eps):
    model, x, y = tiny(dtype=torch.float64), images(4, dtype=torch.float64), labels(4)
    best, last = (maximize(model, CrossEntropy(y), x, Linf(eps), steps, rule=APGDRule(), start="here", keep=keep).x for keep in ("best", "last"))
    for i in range(4):
        expected = apgd(model, CrossEntropy(y[i : i + 1]), x[i : i + 1], eps, steps)
        assert torch.allclose(best[i], expected[0], atol=1e-6) and torch.allclose(last[i], expected[1], atol=1e-6)


@pytest.mark.parametrize("ball", [BOX, Linf(0.1)])
def test_adam_on_pixels_is_that_of_torch_with_projection(ball):
    model, x, y = tiny(dtype=torch.float64), images(4, dtype=torch.float64), labels(4)
    z, project = x.clone().requires_grad_(), box_around(x, ball.eps)
    adam = torch.optim.Adam([z], lr=0.02, maximize=True)
    for _ in range(12):
        z.grad = slopes(model, CrossEntropy(y), z)[1]
        adam.step()
        z.data = project(z.data)
    got = maximize(model, CrossEntropy(y), x, ball, 12, 0.02, rule=AdamRule(), start="here", keep="last")
    assert torch.allclose(got.x, z, atol=1e-6)


@pytest.mark.parametrize("ball", [BOX, Linf(0.2)])
def test_adam_in_tanh_space_is_that_of_torch_through_tanh(ball):
    model, x, y = tiny(dtype=torch.float64), images(4, dtype=torch.float64), labels(4)
    start = ball.random(x, torch.arange(4))
    low, high = (x - ball.eps).clamp(0, 1), (x + ball.eps).clamp(0, 1)
    w = torch.atanh(0.999999 * (2 * (start - low) / (high - low) - 1)).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.1, maximize=True, betas=(0.8, 0.99))
    for _ in range(12):
        adam.zero_grad()
        z = low + (high - low) * (w.tanh() + 1) / 2
        nn.functional.cross_entropy(model(z), y, reduction="sum").backward()
        adam.step()
    got = maximize(model, CrossEntropy(y), x, ball, 12, 0.1, rule=AdamRule("tanh", 0.8, 0.99), start=start, keep="last")
    assert torch.allclose(got.x, low + (high - low) * (w.tanh() + 1) / 2, atol=1e-4)
    assert (got.x - start).abs().amax() > 0.05


@pytest.mark.parametrize("momentum", [0.5, 1.0])
def test_momentum_is_that_of_torchattacks(momentum):
    model, x, y = tiny(dtype=torch.float64), images(dtype=torch.float64), labels()
    attack = torchattacks.MIFGSM(model, eps=0.2, alpha=0.03, steps=11, decay=momentum)
    expected = attack(x, y)
    got, plain = (maximize(model, CrossEntropy(y), x, Linf(0.2), 11, 0.03, rule=r, start="here", keep="last") for r in (GradientRule(momentum), GradientRule()))
    assert torch.allclose(got.x, expected, atol=1e-6) and not torch.allclose(got.x, plain.x, atol=1e-2)


def ddn(model, wrong, x, steps, gamma=0.05):
    "Algorithm 1 of Rony et al. (2019) for one image, the step annealed by a cosine from 1 to .01: the nearest wrong point, and the last"
    delta, radius, least, nearest = torch.zeros_like(x), 1.0, math.inf, None
    for k in range(steps + 1):
        z = x + delta
        value, gradient = slopes(model, wrong, z)
        if value > 1e-4 and delta.norm() < least:
            least, nearest = delta.norm(), z
        if k == steps:
            return nearest, z
        length = 0.01 + (1 - 0.01) / 2 * (1 + math.cos(math.pi * k / steps))
        delta = delta + length * gradient / gradient.norm()
        radius = radius * (1 - gamma if value > 0 else 1 + gamma)
        delta = (x + radius * delta / delta.norm()).clamp(0, 1) - x


def test_ddn_is_algorithm_1():
    model, x = tiny(gain=2.0, dtype=torch.float64), images(6, dtype=torch.float64)
    y = predict(model, x).argmax(1)
    settings = {"rule": DDNRule(), "rank": Nearest(x, Margin(y)), "start": "here"}
    near, last = (maximize(model, Margin(y), x, BOX, 30, keep=keep, **settings) for keep in ("best", "last"))
    for i in range(6):
        nearest, end = ddn(model, Margin(y[i : i + 1]), x[i : i + 1], 30)
        assert torch.allclose(last.x[i], end, atol=1e-6)
        assert torch.allclose(near.x[i], nearest if nearest is not None else x[i], atol=1e-6)
        assert near.value[i].isfinite() == (nearest is not None)
    assert near.value.isfinite().sum() >= 3


def test_one_feature_at_a_time_changes_the_value_that_gains_most():
    model, x, y = tiny(dtype=torch.float64), images(dtype=torch.float64), labels()
    for up in (True, False):
        z = x.clone()
        for _ in range(9):
            gradient = slopes(model, CrossEntropy(y), z)[1].flatten(1).numpy()
            for i, row in enumerate(z.view(len(x), -1).numpy()):
                gain = np.where(row < 1 if up else row > 0, gradient[i] if up else -gradient[i], -np.inf)
                row[gain.argmax()] = np.clip(row[gain.argmax()] + (0.4 if up else -0.4) * (gain.max() > 0), 0, 1)
        got = maximize(model, CrossEntropy(y), x, L0(9), 9, 0.4, rule=JSMARule(up), start="here", keep="last")
        assert torch.allclose(got.x, z, atol=1e-9) and ((got.x >= x) if up else (got.x <= x)).all()


def test_one_feature_without_room_stands_still():
    x, y = torch.ones(3, 1, 6, 6), labels(3)
    assert torch.equal(maximize(tiny(), CrossEntropy(y), x, L0(4), 4, rule=JSMARule(), start="here", keep="last").x, x)


def linear(seed=0, spread=0.1):
    "A linear model of two classes, images near the middle of the box, their classes, and each one's distance to the hyperplane"
    model, rng = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double(), generator(seed)
    x = 0.5 + spread * (torch.rand(6, 1, 6, 6, generator=rng, dtype=torch.float64) - 0.5)
    model[1].weight.data = torch.randn(2, 36, generator=rng, dtype=torch.float64)
    w = model[1].weight.data[1] - model[1].weight.data[0]
    model[1].bias.data = torch.stack([(x.flatten(1) @ w).mean(), torch.zeros(())]).double()
    gap = x.flatten(1) @ w - model[1].bias.data[0]
    return model.eval(), x, (gap > 0).long(), gap.abs() / w.norm(), w


@given(seed=st.integers(0, 9999))
@settings(max_examples=10)
def test_ddn_finds_the_distance_to_a_hyperplane(seed):
    model, x, y, distance, _ = linear(seed)
    assume(distance.min() > 5e-3)
    found = maximize(model, Margin(y), x, BOX, 150, rule=DDNRule(), rank=Nearest(x, Margin(y)), start="here")
    got = (found.x - x).flatten(1).norm(dim=1)
    assert (got >= distance).all() and (got <= 1.01 * distance).all() and (predict(model, found.x).argmax(1) != y).all()
    np.testing.assert_allclose(found.value, -(got**2), atol=1e-12)


@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 1), rule=st.sampled_from(["steepest", "momentum", "halving"]))
@settings(max_examples=30)
def test_the_worst_point_of_a_linear_model_is_found_exactly(seed, eps, rule):
    model, x, y, _, w = linear(seed, spread=1.0)
    worst = (x + eps * ((1 - 2 * y)[:, None] * w).sign().reshape(x.shape)).clamp(0, 1)
    found = maximize(model, Margin(y), x, Linf(eps), 20, rule=RULES[rule], seed=seed)
    assert torch.allclose(found.x, worst, atol=1e-9)


# Objectives

@dataclass(frozen=True)
class Pull:
    "Minus the squared distance of the features from `centre`, and a little of everything else"

    centre: float | torch.Tensor
    hidden: ClassVar[bool] = True

    def __call__(self, logits, z, features):
        return -(features - self.centre).square().sum(1) / 10 + logits[:, 0] / 5 + z.flatten(1).mean(1)


class Counted(nn.Module):
    "A model that counts its calls and the images in each"

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


@dataclass(frozen=True)
class Watch:
    "A rule that moves nothing and keeps what it was shown"

    seen: list

    def first(self, eps, steps):
        return 1.0

    def begin(self, task, z):
        return {}

    def move(self, task, z, value, gradient, state, step):
        self.seen.append((z, value, gradient))
        return z


def test_features_come_from_the_same_pass():
    seen = []

    @dataclass(frozen=True)
    class Look(Pull):
        def __call__(self, logits, z, features):
            seen.append((z.detach().clone(), logits.detach(), features.detach()))
            return super().__call__(logits, z, features)

    model, x = Counted(tiny()), images()
    plain, y = maximize(model, CrossEntropy(0), x, Linf(0.2), 4, batch_size=2), labels()
    calls, model.sizes = model.sizes, []
    found = maximize(model, Look(0.5), x, Linf(0.2), 4, batch_size=2)
    assert model.sizes == calls == [2] * 10 + [1] * 5 and plain.passes.tolist() == found.passes.tolist() == [4] * 5
    for z, logits, features in seen:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(outputs(model, z), (logits, features), strict=True))
    for of in {"objective": Look(0.5)}, {"objective": CrossEntropy(y), "rank": Look(0.5)}, {"objective": Look(0.5), "rank": CrossEntropy(y)}:
        model.sizes, seen[:] = [], []
        maximize(model, x=x, ball=Linf(0.2), steps=4, **of)
        decides = isinstance(of.get("rank", of["objective"]), Look)
        assert model.sizes == [5] * 5 and len(seen) == 4 + decides
    scored = Pull(0.5)(*(lambda z: (outputs(model, z)[0], z, outputs(model, z)[1]))(found.x))
    assert torch.allclose(scored, found.value, atol=1e-5)


def test_a_hidden_objective_with_a_centre_for_each_example_is_cut_with_the_batch():
    model, x, centres = tiny(dtype=torch.float64), images(dtype=torch.float64), torch.rand(5, 144, generator=generator(3), dtype=torch.float64)
    together = maximize(model, Pull(centres), x, L2(1.0), 6, seed=torch.arange(5), batch_size=3)
    for i in range(5):
        alone = maximize(model, Pull(centres[i : i + 1]), x[i : i + 1], L2(1.0), 6, seed=torch.tensor([i]))
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-6)


OBJECTIVES = {"LogConfidence": LogConfidence, "CrossEntropy": CrossEntropy, "WrongConfidence": WrongConfidence, "Margin": Margin, "Lead": TargetMargin, "hidden": lambda y: Pull(0.3),
              "hidden, one each": lambda y: Pull(y.double()[:, None])}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_finite_differences(name):
    model, x, y = tiny(dtype=torch.float64), images(3, dtype=torch.float64).clamp(0.1, 0.9), labels(3)
    watch, objective, h = Watch([]), OBJECTIVES[name](y), 1e-5
    maximize(model, objective, x, Linf(0.2), 1, rule=watch, start="here")
    (_, value, gradient), = watch.seen

    def at(z):
        return maximize(model, objective, z, Linf(0.2), 0, start="here").value

    assert torch.allclose(value, at(x))
    for pixel in range(0, 36, 5):
        push = torch.zeros(36, dtype=torch.float64).index_fill_(0, torch.tensor(pixel), h).reshape(1, 1, 6, 6)
        np.testing.assert_allclose((at(x + push) - at(x - push)) / (2 * h), gradient.flatten(1)[:, pixel], atol=1e-6)


def test_leads_and_distances_by_numpy():
    logits, z, x, y = predict(tiny(), images(9)), images(9, 1), images(9), labels(9)
    expected = []
    for row, target in zip(logits.double().numpy(), y.numpy(), strict=True):
        expected.append(row[target] - max(v for j, v in enumerate(row) if j != target))
    expected = np.array(expected)
    np.testing.assert_allclose(TargetMargin(y)(logits), expected, atol=1e-6)
    far = ((z - x).double().numpy().reshape(9, -1) ** 2).sum(1)
    for kappa in (0.0, np.sort(expected)[4] + 1e-3):
        ahead = expected > kappa + 1e-4
        assert 0 < ahead.sum() < 9
        np.testing.assert_allclose(Nearest(x, TargetMargin(y), kappa)(logits, z), np.where(ahead, -far, -np.inf), rtol=1e-5)


# What decides, who leaves, and what it cost

@given(problem=problems(torch.float64, CONSTANT), climb=climbs)
@settings(max_examples=25)
def test_more_steps_of_constant_length_are_never_worse(problem, climb):
    model, objective, x, ball, how = problem
    climb = {**climb, "keep": "best", "stop": math.inf, "patience": 0, "decay": 1, "step_size": climb["step_size"] or 0.05}
    values = [maximize(model, objective, x, ball, **how, **{**climb, "steps": n}).value for n in (0, 1, 3, 7)]
    assert all((more >= less - 1e-9).all() for less, more in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("leave, rule, kind", turns(["stop", "patience"], PAIRS, 2))
def test_who_leaves_changes_nothing_for_those_who_stay(rule, kind, leave):
    ball = {Linf: BOX, L2: L2(1.0), L0: L0(8)}[kind]
    model, x, y, own = tiny(dtype=torch.float64), images(5, dtype=torch.float64), labels(5), torch.arange(5)
    settings = {"rule": RULES[rule], "step_size": 0.1 if rule in ("steepest", "halving", "adam", "tanh") else None}
    here, there = (maximize(model, CrossEntropy(y), x, ball, n, seed=own, **settings).value.median().item() for n in (0, 8))
    settings |= {"stop": (here + there) / 2} if leave == "stop" else {"patience": 1}
    together = maximize(model, CrossEntropy(y), x, ball, 8, seed=own, **settings)
    assert leave == "patience" or len(together.passes.unique()) > 1
    for i in range(5):
        alone = maximize(model, CrossEntropy(y[i : i + 1]), x[i : i + 1], ball, 8, seed=own[i : i + 1], **settings)
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-6) and alone.passes[0] == together.passes[i]


@pytest.mark.parametrize("rank", [lambda x, y: Nearest(x, Margin(y)), lambda x, y: LogConfidence((y + 1) % 3), lambda x, y: Pull(0.2)])
@pytest.mark.parametrize("rule", CONSTANT)
def test_rank_decides_which_point_is_kept(rule, rank):
    model, x, y = tiny(dtype=torch.float64), images(8, dtype=torch.float64), labels(8)
    rank, settings = rank(x, y), {"rule": CONSTANT[rule], "start": "here"}
    path = [maximize(model, CrossEntropy(y), x, Linf(0.3), n, 0.07, keep="last", **settings).x for n in range(8)]
    scores = []
    for z in path:
        logits, features = outputs(model, z)
        scores.append(rank(logits, z, features) if isinstance(rank, Pull) else rank(logits, z))
    scores = torch.stack(scores)
    found = maximize(model, CrossEntropy(y), x, Linf(0.3), 7, 0.07, rank=rank, **settings)
    assert torch.allclose(found.value, scores.amax(0), atol=1e-9)
    for i in range(8):
        assert torch.allclose(found.x[i], path[scores[:, i].argmax()][i], atol=1e-9)
    assert (scores.argmax(0) < 7).any()


def test_a_rank_decides_when_to_stop():
    model, x, y = tiny(), images(20), labels(20)
    settings = {"rank": Margin(y), "start": "here"}
    full = maximize(model, CrossEntropy(y), x, Linf(0.3), 20, **settings)
    stop = full.value.median().item() - 1e-3
    found = maximize(model, CrossEntropy(y), x, Linf(0.3), 20, stop=stop, **settings)
    early = found.passes < 20
    assert 0 < early.sum() < 20 and (found.value[early] >= stop).all() and (found.value[~early] < stop).sum() > 3


@pytest.mark.parametrize("keep", ["best", "last"])
def test_who_has_converged_leaves_and_passes_say_so(keep):
    model, x, y, _, _ = linear(spread=1.0)
    model, x, y = Counted(model), x[:3], y[:3]
    sizes = torch.tensor([0.1, 0.025, 0.005])  # the corner is reached in 1, 4 and 20 steps
    found = maximize(model, Margin(y), x, Linf(0.1), 30, sizes, start="here", patience=2, keep=keep)
    assert found.passes.tolist() == [5, 7, 23]
    assert model.sizes == [3] * 5 + [2] * 2 + [1] * 16
    full = maximize(model, Margin(y), x, Linf(0.1), 30, sizes, start="here")
    assert torch.allclose(found.x, full.x, atol=1e-9) and full.passes.tolist() == [30] * 3


def found_with(passes, seed=0, seconds=1.5, confidence=True):
    "A made-up result"
    n, rng = len(passes), generator(seed)
    logits = torch.randn(n, 3, generator=rng)
    return Found(torch.rand(n, 1, 2, 2, generator=rng), torch.randn(n, generator=rng), logits, torch.tensor(passes),
                 torch.rand(n, generator=rng) if confidence else None, seconds)


def test_the_share_alive_is_who_paid_for_each_pass():
    shares = active_fraction(found_with([3, 1, 5, 3]))
    assert shares.tolist() == [sum(p > k for p in (3, 1, 5, 3)) / 4 for k in range(5)] == [1, 0.75, 0.75, 0.25, 0.25]
    assert active_fraction(found_with([0, 0])).shape == (0,)
    stopped = maximize(tiny(), CrossEntropy(labels(20)), images(20), L2(1.5), 15, stop=1.0)
    assert torch.allclose((active_fraction(stopped) * 20).sum(), stopped.passes.sum().float()) and (active_fraction(stopped).diff() <= 0).all()


def test_a_result_says_who_is_fooled_how_surely_and_how_far():
    "What a user of another library looks for, by NumPy"
    model, x, y = tiny(), images(20), labels(20)
    found = pgd(model, x, y, 0.1, 5)
    logits = log_softmax(predict(model, found.x))
    assert torch.equal(found.prediction, torch.from_numpy(logits.argmax(1)))
    np.testing.assert_allclose(found.confidence, np.exp(logits.max(1)), rtol=1e-5)
    assert found.fooled(y).tolist() == (logits.argmax(1) != y.numpy()).tolist() and 0 < found.fooled(y).sum() < 20
    assert torch.equal(found.fooled(found.prediction), torch.zeros(20, dtype=torch.bool))
    moved = (found.x - x).flatten(1).double().numpy()
    np.testing.assert_allclose(found.distance(x), np.abs(moved).max(1), atol=1e-6)
    for norm in (0, 1, 2):
        np.testing.assert_allclose(found.distance(x, norm), np.linalg.norm(moved, norm, axis=1), rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 99), scale=st.floats(0, 1))
@settings(max_examples=20)
def test_distortion_by_numpy(seed, scale):
    x = torch.rand(4, 3, 5, 5, generator=generator(seed))
    z = x + scale * (torch.rand(x.shape, generator=generator(seed + 1)) - x)
    pixels = 255 * (z.double() - x.double()).numpy().reshape(4, -1)
    np.testing.assert_allclose(distortion(z, x), np.sqrt((pixels**2).sum(1)) / np.sqrt(75), rtol=1e-5, atol=1e-5)


def same_rows(a, i, b, j):
    return all((p is None and q is None) or torch.equal(p[i], q[j]) for p, q in ((getattr(a, n), getattr(b, n)) for n in ("x", "value", "logits", "confidence")))


@pytest.mark.parametrize("by, confidence", [("value", True), ("value", False), ("confidence", True)])
@given(data=st.data())
@settings(max_examples=20)
def test_merging_is_a_loop_over_rows(by, confidence, data):
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True)))
    best, new = found_with([1, 2, 3, 4, 5, 6], 0, 1.5, confidence), found_with([10] * len(rows), 1, 0.25, confidence)
    kept = replace(best, x=best.x.clone(), value=best.value.clone(), passes=best.passes.clone())
    got, wins = keep_better(best, rows, new, by), 0
    for i in range(6):
        j = rows.tolist().index(i) if i in rows else None
        wins_here = j is not None and getattr(new, by)[j] > getattr(best, by)[i]
        assert same_rows(got, i, new, j) if wins_here else same_rows(got, i, best, i)
        assert got.passes[i] == best.passes[i] + (10 if j is not None else 0)
        wins += bool(wins_here)
    assert got.seconds == 1.75
    assert torch.equal(best.x, kept.x) and torch.equal(best.value, kept.value) and torch.equal(best.passes, kept.passes)


def test_of_equals_the_first_is_kept():
    best = found_with([1, 1])
    got = keep_better(best, torch.arange(2), replace(found_with([2, 2], 1), value=best.value))
    assert torch.equal(got.x, best.x) and got.passes.tolist() == [3, 3]


@pytest.mark.parametrize("by", ["value", "confidence"])
@pytest.mark.parametrize("each", [1, 2, 3, 6])
def test_folding_is_a_loop_over_examples(each, by):
    many = found_with([1, 2, 3, 4, 5, 6], 4)
    got = best_of_each(many, each, by)
    assert len(got.x) == 6 // each and got.seconds == 1.5
    for i in range(6 // each):
        rows = range(each * i, each * (i + 1))
        assert same_rows(got, i, many, max(rows, key=lambda r: getattr(many, by)[r].item())) and got.passes[i] == sum(r + 1 for r in rows)


def test_joining_puts_rows_after_rows_and_adds_seconds():
    parts = [found_with([1, 2], 0, 1.0), found_with([3], 1, 0.5)]
    got = concat(parts)
    assert got.seconds == 1.5 and got.passes.tolist() == [1, 2, 3] and same_rows(got, 1, parts[0], 1) and same_rows(got, 2, parts[1], 0)
    assert concat([found_with([1], confidence=False)] * 2).wrong_confidence is None


def test_confidence_is_that_of_the_best_wrong_class():
    x, y = images(9), labels(9)
    found = with_wrong_confidence(maximize(tiny(), CrossEntropy(y), x, Linf(0.1), 3), y)
    p = np.exp(log_softmax(found.logits))
    p[np.arange(9), y] = 0
    np.testing.assert_allclose(found.wrong_confidence, p.max(1), rtol=1e-5)
    others = wrong_classes(y, 3).tolist()
    assert others == [[j for j in range(3) if j != label] for label in y.tolist()]


def test_restarts_add_up_and_a_finished_example_pays_no_more():
    x, y = images(20), labels(20)
    assert (maximize(tiny(), CrossEntropy(y), x, L2(1.5), 4, restarts=3).passes == 12).all()
    stop = maximize(tiny(), CrossEntropy(y), x, L2(1.5), 4).value.median().item() - 1e-3
    once, thrice = (maximize(tiny(), CrossEntropy(y), x, L2(1.5), 4, restarts=n, stop=stop) for n in (1, 3))
    there = once.value >= stop
    assert 0 < there.sum() < 20 and torch.equal(once.passes[there], thrice.passes[there]) and (thrice.passes[~there] > 4).all()


# Models without a gradient

class Changed(nn.Module):
    "A model whose images are changed on the way in, and its logits on the way out"

    def __init__(self, before=lambda x: x, after=lambda logits, x: logits):
        super().__init__()
        self.model, self.before, self.after = tiny(), before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)), x)


FLAT = {
    "rounds": (Changed(lambda x: (4 * x).round() / 4), 6),
    "detaches": (Changed(after=lambda logits, x: logits.detach()), 6),
    "ignores": (Changed(lambda x: torch.zeros_like(x)), 6),
    "detaches a third": (Changed(after=lambda logits, x: torch.where((x[:, 0, 0, 0] > 0.7)[:, None], logits.detach(), logits)), 2),
}


@pytest.mark.parametrize("rule", ["steepest", "halving", "adam", "ddn"])
@pytest.mark.parametrize("name", FLAT)
def test_examples_without_a_gradient_are_counted_in_a_warning(name, rule):
    (model, flat), x, y = FLAT[name], images(6).clamp(0, 0.5), labels(6)
    x[:2, 0, 0, 0] = 1
    settings = {"rule": RULES[rule], "start": "here", "batch_size": 4}
    with pytest.warns(NoGradient, match=rf"exactly zero.* for {flat} of 6 examples \({flat / 6:.0%}\)") as seen:
        found = maximize(model, CrossEntropy(y), x, Linf(0.1), 3, **settings)
    assert len(seen) == 1 and seen[0].filename == __file__ and issubclass(NoGradient, UserWarning)
    still = (found.x - x).flatten(1).abs().amax(1) == 0
    assert still[:flat].all() and not still[flat:].any() and (found.passes == 3).all()


@pytest.mark.parametrize("name, model, more", [
    ("an ordinary model", tiny(), {}), ("no steps", FLAT["detaches"][0], {"steps": 0}), ("finished at the start", FLAT["detaches"][0], {"stop": -100.0}),
    ("finished at the start, not the best", FLAT["rounds"][0], {"stop": -100.0, "keep": "last"})])
def test_no_warning_where_nothing_stands_still(name, model, more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = maximize(model, CrossEntropy(labels()), images(), Linf(0.1), **{"steps": 3, **more})
    assert found.passes.max() == (1 if "stop" in more else more.get("steps", 3))


def test_a_start_without_a_gradient_does_not_hide_one_that_has_it():
    model = Changed(after=lambda logits, x: torch.where((x[:, 0, 0, 0] < 0.1)[:, None], logits.detach(), logits))
    x = torch.full((4, 1, 6, 6), 0.15)  # every fourth random start lies in the flat corner
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maximize(model, CrossEntropy(labels(4)), x, Linf(0.1), 1, restarts=12)
    with pytest.warns(NoGradient, match="4 of 4"):
        maximize(model, CrossEntropy(labels(4)), x - 0.1, Linf(0.04), 1, restarts=3)


# Memory and precision

class Hungry(nn.Module):
    "A model without memory for more than so many images at once"

    def __init__(self, most):
        super().__init__()
        self.model, self.most, self.sizes = tiny(dtype=torch.float64), most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(x)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_too_large_for_memory_is_halved_and_changes_nothing(rule):
    model, x, y = Hungry(3), images(11, dtype=torch.float64), labels(11)
    eps = torch.linspace(0.1, 0.4, 11)
    search = lambda m: maximize(m, CrossEntropy(y), x, Linf(eps), 4, rule=RULES[rule], restarts=2, seed=3, batch_size=8, patience=2)  # noqa: E731
    with pytest.warns(UserWarning, match="out of memory with batches of 8: went on with 2; say batch_size=2") as seen:
        found = search(model)
    expected = search(model.model)
    assert len(seen) == 1 and sorted(s for s in set(model.sizes) if s > 3) == [4, 8]
    assert torch.allclose(found.x, expected.x, atol=1e-6) and torch.equal(found.passes, expected.passes)


def test_one_image_too_much_for_memory_is_an_error_and_leaves_the_model():
    model = Hungry(0).train()
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        found(model=model, x=images(7), y=labels(7))
    assert model.sizes == [7, 4, 2, 1] and all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_points_climbed_to_in_bfloat16_are_scored_in_float32(rule):
    model, x, y = Counted(tiny()), images(), labels()
    search = lambda **more: maximize(model, CrossEntropy(y), x, Linf(0.2), 4, rule=RULES[rule], autocast=torch.bfloat16, **more)  # noqa: E731
    scored, calls = search(), len(model.sizes)
    rough = search(rescore=False)
    assert calls == 6 and len(model.sizes) == 11 and torch.equal(rough.x, scored.x)
    np.testing.assert_allclose(scored.value, objective_values(CrossEntropy(y), predict(tiny(), scored.x)), atol=1e-5)
    assert torch.allclose(scored.logits, predict(tiny(), scored.x), atol=1e-5) and scored.x.is_contiguous()
    assert not torch.equal(rough.logits, scored.logits) and torch.allclose(rough.value, scored.value, atol=0.2)


def test_a_rank_is_rescored_as_well():
    model, x, y = tiny(), images(20), labels(20)
    found = maximize(model, Margin(y), x, BOX, 20, rule=DDNRule(), rank=Nearest(x, Margin(y)), start="here", autocast=torch.bfloat16)
    wrong = predict(model, found.x).argmax(1) != y
    assert (wrong >= found.value.isfinite()).all() and found.value.isfinite().any()
    np.testing.assert_allclose(found.value, Nearest(x, Margin(y))(found.logits, found.x))


class Reports(nn.Module):
    "A model that keeps in what precision and memory format its convolution ran"

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.convolution, self.head, self.ran = nn.Conv2d(3, 4, 3), nn.Linear(64, 3), []

    def forward(self, x):
        z = self.convolution(x)
        self.ran.append((z.dtype, x.is_contiguous(memory_format=torch.channels_last), self.convolution.weight.is_contiguous(memory_format=torch.channels_last)))
        return self.head(z.tanh().flatten(1))


@pytest.mark.parametrize("start", ["random", "here"])
@pytest.mark.parametrize("fast", [torch.bfloat16, None])
def test_auto_is_what_the_device_gains_by(monkeypatch, fast, start):
    for name in "_is_avx512_bf16_supported", "_is_amx_tile_supported":
        monkeypatch.setattr(torch.cpu, name, lambda: fast is not None, raising=False)
    assert fast_dtype(torch.device("cpu")) is fast
    model, x, y = Reports(), torch.rand(4, 3, 6, 6, generator=generator(0)), labels(4)
    before = {name: (p.data_ptr(), p.stride(), p.clone()) for name, p in model.named_parameters()}
    auto = maximize(model, CrossEntropy(y), x, Linf(0.2), 3, autocast="auto", start=start)
    climbed, model.ran = model.ran, []
    assert climbed[:4] == [(fast or torch.float32, fast is not None, fast is not None)] * 4
    assert [dtype for dtype, *_ in climbed[4:]] == [torch.float32] * (fast is not None)
    for name, p in model.named_parameters():
        assert (p.data_ptr(), p.stride()) == before[name][:2] and torch.equal(p, before[name][2])
    named = maximize(model, CrossEntropy(y), x, Linf(0.2), 3, autocast=fast, start=start)
    assert torch.equal(auto.x, named.x) and auto.x.is_contiguous() and auto.logits.dtype == torch.float32


# The model and everything global are left as they were

class Fragile(nn.Module):
    "Batch-norm, dropout, parts in different modes, and a break after so many calls"

    def __init__(self, calls=10**9):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3))
        self.register_buffer("asked", torch.zeros(()))
        self.register_buffer("unsaved", torch.zeros(()), persistent=False)
        self.calls = calls

    def forward(self, x):
        self.asked, self.calls = self.asked + 1, self.calls - 1
        self.unsaved += 1
        if self.calls < 0:
            raise RuntimeError("broken in the middle")
        return self.second(self.first(x))


def fragile(calls=10**9):
    with seeded(0):
        model = Fragile()
        nn.functional.cross_entropy(model(images(8)), labels(8)).backward()
    model.calls = calls
    model.first[1].eval()
    model.second[2].weight.grad = None
    model.second[2].bias.requires_grad_(False)
    return model


def everything(model):
    "All that a search must leave as it found it"
    state = {f"mode {name}": m.training for name, m in model.named_modules()}
    for name, p in model.named_parameters():
        state |= {f"gradient on {name}": p.requires_grad, f"gradient of {name}": None if p.grad is None else p.grad.clone(), f"identity of {name}": id(p)}
        state |= {f"memory of {name}": (p.data_ptr(), p.stride())}
    state |= {f"value of {name}": t.clone() for name, t in (*model.named_parameters(), *model.named_buffers())}
    state |= {"torch": torch.get_rng_state(), "numpy": str(np.random.get_state()), "python": random.getstate()}
    state |= {"dtype": torch.get_default_dtype(), "grad": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled()}
    return state | {"autocast": torch.is_autocast_enabled("cpu"), "threads": torch.get_num_threads(), "hooks": len(model.second[2]._forward_pre_hooks)}


def same(before, after):
    return [k for k in before if not (torch.equal(before[k], after[k]) if isinstance(before[k], Tensor) and isinstance(after[k], Tensor) else before[k] == after[k])]


Tensor = torch.Tensor
USES = {
    "maximize": lambda m, x, y: maximize(m, CrossEntropy(y), x, Linf(0.2), 3, restarts=2),
    "maximize in bfloat16": lambda m, x, y: maximize(m, Margin(y), x, L2(1.0), 3, autocast=torch.bfloat16),
    "maximize, auto": lambda m, x, y: maximize(m, CrossEntropy(y), x, Linf(0.2), 3, autocast="auto"),
    "Halving": lambda m, x, y: maximize(m, CrossEntropy(y), x, Linf(0.2), 10, rule=APGDRule(), patience=2),
    "Adam": lambda m, x, y: maximize(m, CrossEntropy(y), x, Linf(0.2), 3, rule=AdamRule("tanh")),
    "DDN": lambda m, x, y: maximize(m, Margin(y), x, Linf(0.2), 3, rule=DDNRule(), rank=Nearest(x, Margin(y))),
    "hidden": lambda m, x, y: maximize(m, Pull(1.0), x, Linf(0.2), 3, rank=CrossEntropy(y)),
    "pgd": lambda m, x, y: pgd(m, x, y, Linf(0.2), 3),
    "targeted pgd": lambda m, x, y: pgd(m, x, y, Linf(0.2), 3, target=(y + 1) % 3),
    "uniform_noise": lambda m, x, y: uniform_noise(m, x, y, Linf(0.2), draws=4),
    "negative": negative,
    "max_confidence": lambda m, x, y: max_confidence(m, x, y, Linf(0.2)),
    "predict": lambda m, x, y: predict(m, x, batch_size=1),
    "outputs": lambda m, x, y: outputs(m, x, batch_size=1),
}
CONTEXTS = {"plain": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode,
            "autocast": lambda: torch.autocast("cpu", torch.bfloat16)}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("use", USES)
def test_everything_is_left_as_it_was(use, context):
    model = fragile()
    with CONTEXTS[context]():
        before = everything(model)
        USES[use](model, images(), labels())
        assert not same(before, everything(model))


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("use", USES)
def test_everything_is_left_as_it_was_when_the_model_breaks(use, calls):
    model = fragile(0 if use == "negative" else calls)
    before = everything(model)
    with pytest.raises(RuntimeError, match="broken in the middle"):
        USES[use](model, images(), labels())
    assert not same(before, everything(model))


@pytest.mark.parametrize("context, use", turns(["no_grad", "inference_mode", "autocast"], USES, 3))
def test_the_callers_context_changes_no_result(use, context):
    plain, model = USES[use](fragile(), images(), labels()), fragile()
    with CONTEXTS[context]():
        there = USES[use](model, images(), labels())
    first = [r if isinstance(r, Tensor) else r[0] if isinstance(r, tuple) else r.x for r in (plain, there)]
    assert torch.equal(*first)


def test_tensors_made_in_inference_mode_are_welcome():
    model = tiny()
    with torch.inference_mode():
        x, y, eps = images(), labels(), torch.full((5,), 0.1)
    for found in maximize(model, CrossEntropy(y), x, Linf(eps), 3, start=x), pgd(model, x, y, Linf(eps), 3), max_confidence(model, x, y, Linf(eps)):
        assert lies_in(Linf(0.1), found.x, x).all()


@pytest.mark.parametrize("use", USES)
def test_a_model_in_training_mode_answers_as_in_evaluation(use):
    training, calm = fragile(), fragile().eval()
    got = [USES[use](m, images(), labels()) for m in (training, calm)]
    first = [r if isinstance(r, Tensor) else r[0] if isinstance(r, tuple) else r.logits for r in got]
    assert torch.equal(*first)


def test_frozen_parameters_do_not_matter():
    free, frozen = tiny(), tiny().requires_grad_(False)
    both = [maximize(m, CrossEntropy(labels()), images(), Linf(0.2), 5) for m in (free, frozen)]
    assert torch.equal(both[0].x, both[1].x) and not any(p.requires_grad for p in frozen.parameters())


def test_the_default_dtype_does_not_matter():
    one = maximize(tiny(), CrossEntropy(labels()), images(), L2(0.5), 5, restarts=2)
    model, x, y = tiny(), images(), labels()
    torch.set_default_dtype(torch.float64)
    try:
        other = maximize(model, CrossEntropy(y), x, L2(0.5), 5, restarts=2)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.x.dtype == torch.float32 and torch.equal(one.x, other.x)


OF = [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)]


@pytest.mark.parametrize("use, of_model, of_images", turns(USES, OF, 2))
def test_models_and_images_of_any_precision(use, of_model, of_images):
    x, y = images(dtype=of_images), labels()
    got = USES[use](tiny(dtype=of_model), x, y)
    if hasattr(got, "x"):
        assert got.x.dtype == of_images and got.logits.dtype == (torch.float64 if of_model == torch.float64 else torch.float32)
        assert use == "negative" or lies_in(L2(1.0) if "bfloat16" in use else Linf(0.2), got.x, x).all()


@pytest.mark.cuda
@pytest.mark.parametrize("use", USES)
def test_a_model_on_another_device(use):
    x, y = images(), labels()
    here, there = USES[use](tiny(dtype=torch.float64), x.double(), y), USES[use](tiny(dtype=torch.float64).cuda(), x.double(), y)
    if hasattr(here, "x"):
        assert {t.device.type for t in (there.x, there.value, there.logits, there.passes)} == {"cpu"}
        assert "bfloat16" in use or torch.allclose(here.x, there.x, atol=1e-6)


@pytest.mark.cuda
def test_images_and_labels_on_the_gpu_with_the_model():
    x, y = images(dtype=torch.float64), labels()
    here = max_confidence(tiny(dtype=torch.float64), x, y, Linf(0.2))
    there = max_confidence(tiny(dtype=torch.float64).cuda(), x.cuda(), y.cuda(), Linf(torch.full((5,), 0.2)))
    assert there.x.is_cuda and torch.allclose(here.x, there.x.cpu(), atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("use", [use for use in USES if use not in ("predict", "outputs")])
def test_labels_may_lie_on_another_device_than_the_images(use):
    model, x, y = tiny(dtype=torch.float64).cuda(), images(dtype=torch.float64).cuda(), labels()
    here, there = USES[use](model, x, y), USES[use](model, x, y.cuda())
    assert here.x.is_cuda and ("bfloat16" in use or torch.allclose(here.x, there.x, atol=1e-6))


# Gradients that are no numbers

class Backwards(nn.Module):
    "A model with an ordinary answer whose backward pass gives something else"

    def __init__(self, change, dtype=torch.float32):
        super().__init__()
        self.model, self.change = tiny(dtype=dtype), change

    def forward(self, x):
        return self.model(backwards(x, self.change))


def spoiled(value, rows=slice(None), pixels=slice(None)):
    def change(gradient):
        gradient = gradient.clone()
        gradient[rows, :, pixels] = value
        return gradient
    return change


BROKEN = {"nan": (spoiled(math.nan), 6), "inf": (spoiled(math.inf), 6), "minus inf": (spoiled(-math.inf), 6), "nan in two": (spoiled(math.nan, slice(2)), 2),
          "nan in some pixels": (spoiled(math.nan, slice(3), slice(2)), 3), "inf in some pixels": (spoiled(math.inf, slice(4), slice(1)), 4)}


@pytest.mark.parametrize("name, rule, kind", turns(BROKEN, PAIRS, 3))
def test_gradients_that_are_no_numbers_count_as_none_and_are_said(rule, kind, name):
    (change, n), x, y = BROKEN[name], images(6), labels(6)
    model, ball = Backwards(change), {Linf: Linf(0.2), L2: L2(1.0), L0: L0(5)}[kind]
    with pytest.warns(NoGradient, match=rf"NaN or infinite gradients for {n} of 6 examples \({n / 6:.0%}\)") as seen:
        found = maximize(model, CrossEntropy(y), x, ball, 4, rule=RULES[rule], start="here")
    assert len(seen) == 1 and ("exactly zero" not in str(seen[0].message))
    assert lies_in(ball, found.x, x).all() and torch.allclose(found.logits, predict(model, found.x), atol=1e-5)
    still = ((found.x - x).abs() < 1e-5).flatten(1).all(1)
    assert "pixels" in name or still[:n].all()
    well = maximize(tiny(), CrossEntropy(y), x, ball, 4, rule=RULES[rule], start="here")
    assert torch.equal(found.x[n:], well.x[n:])


@pytest.mark.parametrize("context, rule, kind", turns(["plain", "no_grad", "inference_mode"], PAIRS, 3))
def test_sobel_edges_can_be_searched(rule, kind, context):
    x, y, ball, model = images(6), labels(6), {Linf: Linf(0.2), L2: L2(1.0), L0: L0(5)}[kind], Changed(Edges())
    x[:, :, :4] = 0.5
    with CONTEXTS[context](), pytest.warns(NoGradient, match="NaN or infinite gradients for 6 of 6"):
        found = maximize(model, CrossEntropy(y), x, ball, 6, rule=RULES[rule], start="here")
        assert lies_in(ball, found.x, x).all() and torch.allclose(found.logits, predict(model, found.x), atol=1e-5)
        assert (found.x != x).flatten(1).any(1).sum() >= 3  # there is a slope elsewhere in the image


def test_gradients_that_break_on_the_way_are_said_too():
    late = [0]

    def change(gradient):
        late[0] += 1
        return gradient * (math.nan if late[0] > 2 else 1.0)

    with pytest.warns(NoGradient, match="NaN or infinite gradients for 5 of 5") as seen:
        found = maximize(Backwards(change), CrossEntropy(labels()), images(), Linf(0.2), 4)
    assert "exactly zero" not in str(seen[0].message) and found.value.isfinite().all()


def test_a_gradient_that_is_zero_here_and_broken_there_is_said_in_one_warning():
    def change(gradient):
        gradient = torch.zeros_like(gradient)
        gradient[:2] = math.nan
        return gradient

    with pytest.warns(NoGradient) as seen:
        maximize(Backwards(change), CrossEntropy(labels()), images(), Linf(0.2), 2, start="here")
    said = str(seen[0].message)
    assert len(seen) == 1 and "exactly zero at every start for 3 of 5" in said and "NaN or infinite gradients for 2 of 5" in said


# What a model does to what it is given

@pytest.mark.filterwarnings("ignore::confnb.objectives.NoGradient")
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name, rule, kind", turns(IN_PLACE, PAIRS, 3))
def test_a_model_that_changes_its_input_changes_no_point(name, rule, kind, steps):
    x, y, ball = images(), labels(), {Linf: Linf(0.2), L2: L2(1.0), L0: L0(5)}[kind]
    kept, model = x.clone(), Changed(IN_PLACE[name])
    found = maximize(model, CrossEntropy(y), x, ball, steps, rule=RULES[rule])
    assert torch.equal(x, kept) and lies_in(ball, found.x, x).all()
    assert torch.allclose(found.logits, predict(model, found.x), atol=1e-5)
    np.testing.assert_allclose(found.value, objective_values(CrossEntropy(y), found.logits), atol=1e-5)


def test_a_model_that_answers_in_the_same_memory_is_searched_as_any_other():
    memory = torch.empty(5, 3)

    def again(logits, x):
        memory[: len(x)] = logits.detach()
        return memory[: len(x)]

    x, y = images(), labels()
    with pytest.warns(NoGradient):
        static = maximize(Changed(after=again), CrossEntropy(y), x, Linf(0.2), 2, restarts=3, batch_size=2)
        plain = maximize(Changed(after=lambda logits, x: logits.detach().clone()), CrossEntropy(y), x, Linf(0.2), 2, restarts=3, batch_size=2)
    assert torch.equal(static.x, plain.x) and torch.equal(static.logits, plain.logits)


def test_probabilities_are_refused_before_the_search():
    model = Counted(Changed(after=lambda logits, x: logits.softmax(1)))
    with pytest.raises(ValueError, match="probabilities.*before the softmax"):
        maximize(model, CrossEntropy(labels()), images(), Linf(0.1), 40)
    assert len(model.sizes) == 1


@pytest.mark.parametrize("use", ["maximize", "Halving", "Adam", "DDN", "hidden", "pgd", "uniform_noise", "max_confidence", "predict", "outputs"])
def test_a_model_made_in_inference_mode_is_searched_as_any_other(use):
    with torch.inference_mode():
        model = tiny()
    before = [(id(p), p.requires_grad, p.is_inference()) for p in model.parameters()]
    got, expected = USES[use](model, images(), labels()), USES[use](tiny(), images(), labels())
    first = [r if isinstance(r, Tensor) else r[0] if isinstance(r, tuple) else r.x for r in (got, expected)]
    assert torch.equal(*first) and before == [(id(p), p.requires_grad, p.is_inference()) for p in model.parameters()]


# Restarts

@given(problem=problems(torch.float64), climb=climbs, restarts=st.integers(1, 4))
@settings(max_examples=30)
def test_restarts_that_keep_the_last_point_keep_the_best_of_the_runs(problem, climb, restarts):
    "The n-th run is that of a search whose start is the n-th start; of the last points of all, the best one"
    model, objective, x, ball, how = problem
    climb = {**climb, "keep": "last", "stop": math.inf, "restarts": 1}
    every = maximize(model, objective, x, ball, **how, **{**climb, "restarts": restarts})
    runs = []
    for n in range(restarts):
        own = streams(climb["seed"], len(x))
        start = how["start"] if n == 0 and not (isinstance(how["start"], str) and how["start"] == "random") else ball.random(x, streams(own, len(x), n))
        runs.append(maximize(model, objective, x, ball, **{**how, "start": start}, **{**climb, "seed": own}))
    best = torch.stack([run.value for run in runs]).amax(0)
    assert torch.allclose(every.value, best, atol=1e-9) and torch.equal(every.passes, sum(run.passes for run in runs))
    assert (every.value >= runs[0].value - 1e-9).all()


@pytest.mark.parametrize("start", ["here", "points"])
@pytest.mark.parametrize("rule", CONSTANT)
def test_restarts_after_a_given_start_are_random(rule, start):
    model, x, y = tiny(dtype=torch.float64), images(20, dtype=torch.float64), labels(20)
    begin = "here" if start == "here" else images(20, 3, torch.float64)
    search = lambda s, n, **more: maximize(model, CrossEntropy(y), x, Linf(0.3), 3, 0.05, n, start=s, rule=CONSTANT[rule], **more)  # noqa: E731
    given, many = search(begin, 1), search(begin, 4)
    assert (many.value >= given.value).all() and (many.value > given.value + 1e-6).any() and (many.passes == 12).all()
    rest = [search(Linf(0.3).random(x, streams(streams(0, 20), 20, n)), 1) for n in (1, 2, 3)]
    assert torch.equal(many.value, torch.stack([r.value for r in (given, *rest)]).amax(0))


# Radii and steps

def test_radii_of_large_images_can_be_written():
    x, y = torch.rand(2, 3, 64, 64, generator=generator(0)), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(12288, 3))
    for eps in (10.0, 64.0, torch.tensor([20.0, 110.0])):
        found = maximize(model, CrossEntropy(y), x, L2(eps), 2, eps if isinstance(eps, float) else None)
        assert lies_in(L2(eps), found.x, x).all()
    with pytest.raises(ValueError, match=r"eps of L2 = 128 .*0..255.*12288 values.*110\.9.*128/255"):
        maximize(model, CrossEntropy(y), x, L2(128), 2)
    assert L2(1).largest(x) == pytest.approx(12288**0.5) and Linf(0.1).largest(x) == 1 and L2(1).largest(images()) == 8


@pytest.mark.parametrize("eps", [4, 10, 36, torch.tensor([1, 5, 10, 20, 36])])
def test_a_step_that_nobody_gave_is_not_judged(eps):
    found = maximize(tiny(), CrossEntropy(labels()), images(), L0(eps), 2)
    assert L0(eps).contains(found.x, images()).all()
    assert max_confidence(tiny(), images(), labels(), L0(eps)).value.isfinite().all()


EPS = {
    "text": ("8/255", TypeError, "must be a number, not '8/255'.*without quotes"),
    "None": (None, TypeError, "must be a number, not None"),
    "complex": (0.1j, TypeError, "must be a number"),
    "True": (True, TypeError, "must be a number, not True"),
    "list": ([0.1, 0.2], TypeError, r"must be a number.*list.*torch.tensor"),
    "array": (np.array([1.0, 2.0]), TypeError, r"must be a number.*ndarray.*torch.tensor"),
    "empty": (torch.empty(0), ValueError, r"one for each example \(N,\), not of shape \(0,\)"),
    "column": (torch.ones(5, 1), ValueError, r"one for each example \(N,\), not of shape \(5, 1\).*flatten"),
    "complex tensor": (torch.ones(5, dtype=torch.complex64), TypeError, "real numbers, not torch.complex64"),
    "bools": (torch.ones(5).bool(), TypeError, "real numbers, not torch.bool"),
    "meta": (torch.ones(5, device="meta"), ValueError, "meta device"),
}


@pytest.mark.parametrize("name", EPS)
def test_a_radius_or_step_that_cannot_be_is_refused_in_words(name):
    eps, error, says = EPS[name]
    for use in (Linf, L2, L0, *([] if eps is None else [lambda size: found(step_size=size)])):
        with pytest.raises(error, match=f"(?s)(the eps of L|step_size).*{says}"):
            use(eps)


@pytest.mark.parametrize("eps", [np.float32(0.25), np.float64(0.25), torch.tensor(0.25), torch.full((5,), 0.25).half(), torch.full((5,), 0.25).requires_grad_()])
def test_radii_of_every_kind_are_taken_and_bring_no_graph(eps):
    expected = maximize(tiny(), CrossEntropy(labels()), images(), Linf(0.25), 3)
    for ball in Linf(eps), L2(eps):
        got = maximize(tiny(), CrossEntropy(labels()), images(), ball, 3, step_size=eps)
        assert not any(v.requires_grad for v in (got.x, got.value, got.logits)) and lies_in(type(ball)(0.25), got.x, images()).all()
    assert torch.allclose(maximize(tiny(), CrossEntropy(labels()), images(), Linf(eps), 3).x, expected.x, atol=1e-3)
    points = images().requires_grad_()
    assert not maximize(tiny(), CrossEntropy(labels()), points, Linf(0.25), 3, start=points).x.requires_grad


# Objectives with tensors that belong to nobody

@dataclass(frozen=True)
class ToClass:
    "Minus the distance of the features from the mean of each one's class"

    means: torch.Tensor
    label: int | torch.Tensor
    hidden: ClassVar[bool] = True
    per_example: ClassVar[tuple[str, ...]] = ("label",)

    def __call__(self, logits, z, features):
        return -(features - self.means[self.label]).square().sum(1)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("within", [False, True])
def test_a_tensor_that_is_not_per_example_is_left_whole(n, within):
    model, x, y = tiny(dtype=torch.float64), images(n, dtype=torch.float64), labels(n)
    means = torch.rand(3, 144, generator=generator(3), dtype=torch.float64)
    objective = ToClass(means, y)
    wrap = (lambda o: Sum(o)) if within else (lambda o: o)
    together = maximize(model, wrap(objective), x, L2(1.0), 4, seed=torch.arange(n), batch_size=2)
    for i in range(n):
        alone = maximize(model, wrap(ToClass(means, y[i : i + 1])), x[i : i + 1], L2(1.0), 4, seed=torch.tensor([i]))
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-6)
    with pytest.raises(ValueError, match="ToClass: label holds 2 values"):
        maximize(model, wrap(ToClass(means, y[:2])), x, L2(1.0), 4)


@dataclass(frozen=True)
class Sum:
    "An objective that holds another"

    inner: ToClass
    hidden: ClassVar[bool] = True

    def __call__(self, logits, z, features):
        return self.inner(logits, z, features)


def test_the_error_says_how_to_mark_a_tensor_that_is_not_per_example():
    @dataclass(frozen=True)
    class Unmarked(ToClass):
        per_example: ClassVar[None] = None

    with pytest.raises(ValueError, match=r"Unmarked: means holds 3 values for 5 images.*per_example = \(\.\.\.\)"):
        maximize(tiny(), Unmarked(torch.rand(3, 144), labels()), images(), L2(1.0), 2)

    @dataclass(frozen=True)
    class Mistyped(ToClass):
        per_example: ClassVar[tuple[str, ...]] = ("labels",)

    with pytest.raises(ValueError, match="per_example of Mistyped names 'labels'.*means, label"):
        maximize(tiny(), Mistyped(torch.rand(3, 144), labels()), images(), L2(1.0), 2)


# Whatever the defaults

@pytest.mark.parametrize("rule, kind", PAIRS)
def test_the_default_dtype_and_device_do_not_matter_to_any_rule(rule, kind):
    model, x, y = tiny(), images(), labels()
    ball = {Linf: Linf(0.2), L2: L2(0.5), L0: L0(5)}[kind]
    search = lambda: maximize(model, CrossEntropy(y), x, {Linf: Linf(0.2), L2: L2(0.5), L0: L0(5)}[kind], 5, restarts=2, rule=RULES[rule], rank=Margin(y))  # noqa: E731
    one = search()
    torch.set_default_dtype(torch.float64)
    try:
        other = search()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        third = search()
        assert ball.contains(third.x, x).all()
    for got in other, third:
        assert torch.equal(one.x, got.x) and torch.equal(one.value, got.value) and got.value.dtype == torch.float32


@pytest.mark.parametrize("dtype, rule, kind", turns([torch.float16, torch.bfloat16, torch.float64], PAIRS, 3))
def test_every_rule_takes_a_model_of_any_precision(rule, kind, dtype):
    x, y, ball = images(), labels(), {Linf: Linf(0.2), L2: L2(1.0), L0: L0(5)}[kind]
    found = maximize(tiny(dtype=dtype), CrossEntropy(y), x, ball, 5, rule=RULES[rule])
    start = maximize(tiny(dtype=dtype), CrossEntropy(y), x, ball, 0)
    assert lies_in(ball, found.x, x).all() and (found.value >= start.value).all() and (found.value > start.value).sum() >= 3


@pytest.mark.parametrize("context", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("rule, kind", PAIRS)
def test_everything_may_have_been_made_in_inference_mode(rule, kind, context):
    with torch.inference_mode():
        x, y, eps, model = images(), labels(), {Linf: torch.full((5,), 0.2), L2: torch.ones(5), L0: torch.full((5,), 5)}[kind], tiny()
    plain = maximize(tiny(), CrossEntropy(labels()), images(), kind(eps.clone()), 4, rule=RULES[rule], rank=Nearest(images(), Margin(labels())))
    with CONTEXTS[context]():
        found = maximize(model, CrossEntropy(y), x, kind(eps), 4, rule=RULES[rule], rank=Nearest(x, Margin(y)))
    assert torch.equal(found.x, plain.x)


# Bad input

def found(x=None, y=None, model=None, ball=None, steps=3, step_size=None, **settings):
    x, y = images() if x is None else x, labels() if y is None else y
    return maximize(tiny() if model is None else model, CrossEntropy(y), x, Linf(0.1) if ball is None else ball, steps, step_size, **settings)


class Spoiled(nn.Module):
    "A model whose answer is changed on the way out, from its n-th call on"

    def __init__(self, change, calls=0):
        super().__init__()
        self.model, self.change, self.calls = tiny(), change, calls

    def forward(self, x):
        self.calls -= 1
        return self.change(self.model(x)) if self.calls < 0 else self.model(x)


BAD = {
    "0..255": (lambda: found(255 * images()), ValueError, "0..255.*divide by 255"),
    "normalised": (lambda: found((images() - 0.3) / 0.3), ValueError, "normalis.*first layer"),
    "bytes": (lambda: found((255 * images()).byte()), TypeError, r"uint8.*/ 255"),
    "one image": (lambda: found(images()[0]), ValueError, r"\(N, C, H, W\)"),
    "no images": (lambda: found(images()[:0], labels()[:0]), ValueError, "empty"),
    "nan pixels": (lambda: found(images() * math.nan), ValueError, "NaN or infinite pixels"),
    "inf pixels": (lambda: found(images() + math.inf), ValueError, "NaN or infinite pixels"),
    "short labels": (lambda: found(y=labels(4)), ValueError, "4 values for 5 images"),
    "float labels": (lambda: found(y=labels().float()), TypeError, "labels must be integer"),
    "bool labels": (lambda: found(y=labels() > 0), TypeError, "labels must be integer"),
    "labels too high": (lambda: found(y=labels() + 2), ValueError, "labels.*0..2"),
    "labels negative": (lambda: found(y=labels() - 2), ValueError, "labels.*0..2"),
    "label too high": (lambda: found(y=3), ValueError, "labels.*0..2"),
    "target too high": (lambda: maximize(tiny(), LogConfidence(7), images(), Linf(0.1), 1), ValueError, "targets.*0..2"),
    "eps 0": (lambda: Linf(0), ValueError, "Linf.*positive"),
    "eps negative": (lambda: L2(-0.5), ValueError, "L2.*positive"),
    "eps nan": (lambda: Linf(math.nan), ValueError, "positive.*nan"),
    "eps inf": (lambda: L2(math.inf), ValueError, "positive and finite, not inf"),
    "eps one bad of many": (lambda: Linf(torch.tensor([0.1, 0.0])), ValueError, "positive"),
    "eps one nan of many": (lambda: Linf(torch.tensor([0.1, math.nan])), ValueError, "positive.*nan"),
    "Linf 8": (lambda: Linf(8), ValueError, r"0..255.*8/255"),
    "L2 128": (lambda: found(ball=L2(128)), ValueError, r"0..255.*128/255"),
    "eps of another length": (lambda: found(ball=Linf(torch.full((3,), 0.1))), ValueError, "eps.*3 values for 5 images"),
    "a number for a ball": (lambda: found(ball=0.1), TypeError, r"ball.*Linf\(0.1\)"),
    "steps -1": (lambda: found(steps=-1), ValueError, "steps.*at least 0.*-1"),
    "restarts 0": (lambda: found(restarts=0), ValueError, "restarts.*at least 1.*0"),
    **{f"{name} {value!r}": (lambda name=name, value=value: found(**{name: value}), TypeError, f"{says} must be a whole number, not")
       for name, says in (("steps", "steps"), ("restarts", "restarts"), ("patience", "patience"), ("batch_size", "a batch size"), ("seed", "seed"))
       for value in (1.5, "8", None, True)},
    **{f"{name} a word": (lambda name=name: found(**{name: "a"}), TypeError, f"{name} must be a number, not 'a'") for name in ("decay", "stop", "step_size")},
    "labels None": (lambda: maximize(tiny(), CrossEntropy(None), images(), Linf(0.1), 1), TypeError, "labels must be integer class indices.*not None"),
    "labels of numpy": (lambda: maximize(tiny(), CrossEntropy(labels(7).numpy()), images(), Linf(0.1), 1), TypeError, "labels must be integer.*ndarray"),
    "a list of targets": (lambda: maximize(tiny(), TargetMargin([1, 2]), images(), Linf(0.1), 1), TypeError, "targets must be integer.*list"),
    "target a word": (lambda: maximize(tiny(), LogConfidence("cat"), images(), Linf(0.1), 1), TypeError, "targets must be integer.*'cat'"),
    "target 1.5": (lambda: maximize(tiny(), LogConfidence(1.5), images(), Linf(0.1), 1), TypeError, "targets must be integer.*1.5"),
    "a word for a ball": (lambda: found(ball="linf"), TypeError, r"ball.*set such as Linf\(8/255\), not 'linf'"),
    "complex logits": (lambda: found(model=Spoiled(lambda z: z + 1j)), ValueError, "complex64"),
    "batch_size 0": (lambda: found(batch_size=0), ValueError, "batch size.*at least 1"),
    "step_size 0": (lambda: found(step_size=0.0), ValueError, "step_size.*positive"),
    "step_size nan": (lambda: found(step_size=math.nan), ValueError, "step_size.*nan"),
    "step_size 0..255": (lambda: found(step_size=8 / 255 * 255), ValueError, "step_size.*255"),
    "step_size 2 of 0..255": (lambda: found(step_size=2), ValueError, "step_size.*255"),
    "short step_size": (lambda: found(step_size=torch.full((3,), 0.1)), ValueError, "step_size.*5"),
    "long step_size": (lambda: found(step_size=torch.full((7,), 0.1)), ValueError, "step_size.*5"),
    "decay 0": (lambda: found(decay=0), ValueError, "decay"),
    "keep": (lambda: found(keep="first"), ValueError, "'best' or 'last'.*'first'"),
    "stop nan": (lambda: found(stop=math.nan), ValueError, "stop"),
    "start word": (lambda: found(start="there"), ValueError, "'random', 'here'.*'there'"),
    "start list": (lambda: found(start=[0.5]), TypeError, "start"),
    "start shape": (lambda: found(start=images(4)), ValueError, "start has shape"),
    "start range": (lambda: found(start=255 * images()), ValueError, "0..255"),
    "start nan": (lambda: found(start=images() * math.nan), ValueError, "NaN or infinite"),
    "short seed": (lambda: found(seed=torch.arange(3)), ValueError, "seed.*5 examples"),
    "nan logits": (lambda: found(model=Spoiled(lambda z: z * math.nan)), ValueError, "logits are NaN or infinite for 5 of 5"),
    "nan logits later": (lambda: found(model=Spoiled(lambda z: z * math.nan, 2)), ValueError, "logits are NaN or infinite"),
    "nan logits unscored": (lambda: found(steps=0, model=Spoiled(lambda z: z + math.inf)), ValueError, "logits are NaN or infinite"),
    "tuple": (lambda: found(model=Spoiled(lambda z: (z, z))), ValueError, r"logits of shape \(5, K\).*tuple"),
    "one row": (lambda: found(model=Spoiled(lambda z: z[:1])), ValueError, r"logits of shape \(5, K\)"),
    "map": (lambda: found(model=Spoiled(lambda z: z[:, None])), ValueError, r"logits of shape \(5, K\)"),
    "patience -1": (lambda: found(patience=-1), ValueError, "patience.*at least 0.*-1"),
    "autocast word": (lambda: found(autocast="fast"), ValueError, "bfloat16, 'auto' or None.*'fast'"),
    "Adam's space": (lambda: AdamRule("x"), ValueError, "'pixels' or 'tanh'.*'x'"),
    "tanh in L2": (lambda: found(ball=L2(1.0), rule=AdamRule("tanh")), ValueError, "Linf or BOX, not L2"),
    "tanh in L0": (lambda: found(ball=L0(3), rule=AdamRule("tanh")), ValueError, "Linf or BOX, not L0"),
    "L0 0": (lambda: L0(0), ValueError, "L0.*positive"),
    "L0 negative": (lambda: L0(-3), ValueError, "L0.*positive"),
    "L0 half": (lambda: L0(0.5), ValueError, "L0.*whole.*0.5"),
    "L0 a share": (lambda: L0(2.5), ValueError, "L0.*whole.*2.5"),
    "L0 nan": (lambda: L0(math.nan), ValueError, "L0.*nan"),
    "L0 one bad of many": (lambda: L0(torch.tensor([3, 0])), ValueError, "L0.*positive"),
    "L0 one half of many": (lambda: L0(torch.tensor([3, 1.5])), ValueError, "L0.*whole"),
    "L0 of another length": (lambda: found(ball=L0(torch.tensor([1, 2, 3]))), ValueError, "L0.*3 values for 5 images"),
    "short rank": (lambda: found(rank=Margin(labels(3))), ValueError, "Margin.*label.*3 values for 5 images"),
    "short objective in a rank": (lambda: found(rank=Nearest(images(), Margin(labels(3)))), ValueError, "Margin.*label.*3 values for 5 images"),
    "short images in a rank": (lambda: found(rank=Nearest(images(3), Margin(0))), ValueError, "Nearest.*x.*3 values for 5 images"),
    "rank's label too high": (lambda: found(rank=Margin(3)), ValueError, "labels.*0..2"),
    "Lead's target too high": (lambda: maximize(tiny(), TargetMargin(3), images(), Linf(0.1), 1), ValueError, "targets.*0..2"),
    "rank's shape": (lambda: found(rank=lambda logits, z: logits), ValueError, r"one number for each of 5 images.*\(5, 3\)"),
    "hidden without a linear layer": (lambda: maximize(nn.Flatten(), Pull(1.0), images(), Linf(0.1), 1), ValueError, "no nn.Linear"),
    **{f"{name}, step_size of {n}": (lambda r=r, n=n: found(rule=r, step_size=torch.full((n,), 0.1)), ValueError, "step_size.*5")
       for name, r in RULES.items() for n in (3, 7)},
    "function": (lambda: found(model=lambda z: z.flatten(1)), TypeError, "torch.nn.Module, not function"),
    "objective's shape": (lambda: maximize(tiny(), lambda logits, z: logits.sum(), images(), Linf(0.1), 1), ValueError, "objective.*5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_words(name):
    call, error, says = BAD[name]
    with pytest.raises(error, match=f"(?is){says}"):
        call()


@pytest.mark.parametrize("change", [lambda z: z * math.nan, lambda z: (z, z)])
def test_a_model_that_answers_badly_is_left_as_it_was(change):
    model = Spoiled(change).train()
    with pytest.raises(ValueError):
        found(model=model)
    assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters())


MEMORY = """
import resource, torch
from confnb.models import build
from confnb.objectives import CrossEntropy
from confnb.sets import Linf
from confnb.search import maximize
x = torch.rand(10000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
y = torch.zeros(10000, dtype=torch.int64)
found = maximize(build("model_a", (1, 28, 28), 10, filters=64), CrossEntropy(y), x, Linf(.3), steps=1)
assert len(found.x) == 10000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_ten_thousand_images_hold_one_batch_of_gradients():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2 * 2**20


# Compiled models

@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for torch.compile")
def test_a_compiled_model_is_searched_as_the_model_itself(device):
    model, x, y = tiny().to(device), images().to(device), labels().to(device)
    compiled = torch.compile(model, **({"mode": "reduce-overhead"} if device == "cuda" else {}))
    for more in {}, {"stop": -0.5}:
        plain, fast = (maximize(m, WrongConfidence(y), x, Linf(0.1), 6, **more) for m in (model, compiled))
        torch.testing.assert_close(fast.x, plain.x, atol=1e-5, rtol=0)
        assert torch.equal(fast.passes, plain.passes)
    assert all(p.requires_grad for p in model.parameters()) and not model.training


@pytest.mark.parametrize("rank", ["margin", Margin])
def test_a_rank_that_cannot_be_called_is_refused(rank):
    with pytest.raises(TypeError, match="a rank is called with"):
        maximize(tiny(), Margin(labels()), images(), BOX, 1, rank=rank)


@pytest.mark.parametrize("rule", [AdamRule(), AdamRule("tanh")])
def test_adam_goes_on_where_the_square_of_a_gradient_is_infinite(rule):
    model, x, y = tiny(), images(), labels()
    huge = lambda logits, z: 1e30 * Margin(y)(logits, z)  # noqa: E731
    found = maximize(model, huge, x, Linf(0.1), 3, rule=rule, start="here", keep="last")
    assert found.x.isfinite().all() and ((found.x - x).abs() > 1e-3).flatten(1).any(1).all()


def test_a_rank_of_another_shape_is_called_one():
    with pytest.raises(ValueError, match="an objective or a rank must give one number for each of 5"):
        maximize(tiny(), Margin(labels()), images(), BOX, 1, rank=lambda logits, z: logits.sum())


def test_wrong_classes_of_labels_that_are_none_are_refused():
    from confnb.found import wrong_classes

    assert wrong_classes(torch.tensor([1, 0]), 3).tolist() == [[0, 2], [1, 2]]
    for bad in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([[1]]), torch.tensor([0.5])):
        with pytest.raises((TypeError, ValueError), match="labels must"):
            wrong_classes(bad, 3)
