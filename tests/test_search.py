import math
import random
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from confnb.attacks import negative, pgd, uniform_noise
from confnb.maxconfidence import max_confidence
from confnb.models import outputs, seeded
from confnb.runtime import generator, predict
from confnb.search import L2, CrossEntropy, Linf, LogConfidence, Margin, WrongConfidence, maximize, step_lengths, take


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
    eps = np.asarray(ball.eps, dtype=float)
    size = np.abs(z - x).max(1) if isinstance(ball, Linf) else np.sqrt(((z - x) ** 2).sum(1))
    return (size <= eps + slack * np.maximum(eps, 1)) & (z.min(1) >= -beyond) & (z.max(1) <= 1 + beyond)


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
    kind, top = draw(st.sampled_from([(Linf, 1.0), (L2, 8.0)]))
    eps = st.floats(2**-10, top, width=32)
    return kind(torch.tensor(draw(st.lists(eps, min_size=n, max_size=n)))) if draw(st.booleans()) else kind(draw(eps))


seeds = st.integers(0, 2**32)
kinds = st.sampled_from([LogConfidence, CrossEntropy, WrongConfidence, Margin])
starts = st.sampled_from(["random", "here", "tensor", "outside"])


@st.composite
def problems(draw, dtype=torch.float32):
    n, seed = draw(st.integers(1, 5)), draw(st.integers(0, 999))
    how = draw(starts)
    start = {"tensor": images(n, seed + 1, dtype), "outside": (images(n, seed, dtype) > 0.5).to(dtype)}.get(how, how)
    return tiny(seed, dtype=dtype), draw(kinds)(labels(n, seed)), images(n, seed, dtype), draw(balls(n)), start


climbs = st.fixed_dictionaries({
    "steps": st.integers(0, 5), "restarts": st.integers(1, 3), "seed": seeds, "decay": st.floats(0.01, 1), "batch_size": st.integers(1, 6),
    "step_size": st.none() | st.floats(1e-3, 1), "stop": st.just(math.inf) | st.floats(-3, 3), "keep": st.sampled_from(["best", "last"])})


# What comes back

@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@given(problem=problems(), climb=climbs)
@settings(max_examples=60)
def test_every_point_lies_in_its_set_and_is_scored_there(autocast, problem, climb):
    model, objective, x, ball, start = problem
    kept = x.clone()
    found = maximize(model, objective, x, ball, start=start, autocast=autocast, **climb)
    assert torch.equal(x, kept) and found.x.shape == x.shape and found.x.dtype == torch.float32
    assert lies_in(ball, found.x, x).all() and ball.contains(found.x, x).all()
    assert found.logits.dtype == torch.float32 and torch.allclose(found.logits, predict(model, found.x), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.value, objective_values(objective, found.logits), atol=1e-5, rtol=1e-5)
    assert found.passes.dtype == torch.int64 and (found.passes <= climb["steps"] * climb["restarts"]).all()
    assert climb["stop"] < math.inf or (found.passes == climb["steps"] * climb["restarts"]).all()


@given(ball=balls(4), seed=seeds, far=st.floats(0, 20))
@settings(max_examples=100)
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
@settings(max_examples=40)
def test_the_best_point_is_never_worse_than_the_start(problem, climb):
    model, objective, x, ball, start = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    here = maximize(model, objective, x, ball, start=start, **{**climb, "steps": 0})
    there = maximize(model, objective, x, ball, start=start, **climb)
    assert (there.value >= here.value - 1e-9).all()


@given(problem=problems(torch.float64), climb=climbs)
@settings(max_examples=40)
def test_more_restarts_are_never_worse(problem, climb):
    model, objective, x, ball, start = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    values = [maximize(model, objective, x, ball, start=start, **{**climb, "restarts": n}).value for n in (1, 2, 4)]
    assert (values[1] >= values[0] - 1e-9).all() and (values[2] >= values[1] - 1e-9).all()


@given(problem=problems(torch.float64), climb=climbs, level=st.floats(0, 1))
@settings(max_examples=60)
def test_stopping_changes_nothing_about_who_gets_there(problem, climb, level):
    model, objective, x, ball, start = problem
    climb = {**climb, "keep": "best", "stop": math.inf}
    full = maximize(model, objective, x, ball, start=start, **climb)
    stop = torch.quantile(full.value, level, interpolation="nearest").item() - 1e-6
    assume((full.value - stop).abs().min() > 1e-7)
    short = maximize(model, objective, x, ball, start=start, **{**climb, "stop": stop})
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
@settings(max_examples=40)
def test_a_seed_gives_the_same_points_for_any_batch_size_and_global_seed(problem, climb, batch, noise):
    model, objective, x, ball, start = problem
    climb = {**climb, "stop": math.inf}
    one = maximize(model, objective, x, ball, start=start, **climb)
    with seeded(noise):
        other = maximize(model, objective, x, ball, start=start, **{**climb, "batch_size": batch})
    assert torch.allclose(one.x, other.x, atol=1e-6)


@given(problem=problems(torch.float64), climb=climbs, data=st.data())
@settings(max_examples=40)
def test_seeds_for_each_example_give_a_subset_the_same_points(problem, climb, data):
    model, objective, x, ball, start = problem
    own = torch.tensor(data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(x), max_size=len(x))))
    some = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(x))), min_size=1, max_size=6)))
    climb = {**climb, "seed": own, "stop": math.inf}
    every = maximize(model, objective, x, ball, start=start, **climb)
    begin = start if isinstance(start, str) else start[some]
    few = maximize(model, take(objective, some), x[some], take(ball, some), start=begin, **{**climb, "seed": own[some]})
    assert torch.allclose(every.x[some], few.x, atol=1e-6)


@pytest.mark.parametrize("kind, eps", [(Linf, [0.01, 0.1, 0.5]), (L2, [0.1, 1.0, 4.0])])
def test_eps_for_each_example_is_as_separate_calls(kind, eps):
    model, x, y, own = tiny(dtype=torch.float64), images(3, dtype=torch.float64), labels(3), torch.arange(3)
    together = maximize(model, CrossEntropy(y), x, kind(torch.tensor(eps, dtype=torch.float64)), 6, restarts=2, seed=own)
    for i in range(3):
        alone = maximize(model, CrossEntropy(y[i : i + 1]), x[i : i + 1], kind(eps[i]), 6, restarts=2, seed=own[i : i + 1])
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-6)


def test_another_seed_gives_other_points_and_restarts_other_starts():
    model, x, y = tiny(), images(4), labels(4)
    points = [maximize(model, CrossEntropy(y), x, Linf(0.3), 0, seed=s).x for s in (0, 1)]
    assert (points[0] != points[1]).flatten(1).any(1).all()
    twins = maximize(model, CrossEntropy(0), x[:1].expand(4, -1, -1, -1), Linf(0.3), 0).x
    assert len(twins.flatten(1).unique(dim=0)) == 4
    noise = [maximize(model, CrossEntropy(y), x, Linf(0.3), 0, restarts=k).value for k in (1, 64)]
    assert (noise[1] > noise[0]).all()


# The model and everything global are left as they were

class Fragile(nn.Module):
    "Batch-norm, dropout, parts in different modes, and a break after so many calls"

    def __init__(self, calls=10**9):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3))
        self.calls = calls

    def forward(self, x):
        self.calls -= 1
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
    state |= {f"value of {name}": t.clone() for name, t in model.state_dict().items()}
    state |= {"torch": torch.get_rng_state(), "numpy": str(np.random.get_state()), "python": random.getstate()}
    state |= {"dtype": torch.get_default_dtype(), "grad": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled()}
    return state | {"autocast": torch.is_autocast_enabled("cpu"), "threads": torch.get_num_threads(), "hooks": len(model.second[2]._forward_pre_hooks)}


def same(before, after):
    return [k for k in before if not (torch.equal(before[k], after[k]) if isinstance(before[k], Tensor) and isinstance(after[k], Tensor) else before[k] == after[k])]


Tensor = torch.Tensor
USES = {
    "maximize": lambda m, x, y: maximize(m, CrossEntropy(y), x, Linf(0.2), 3, restarts=2),
    "maximize in bfloat16": lambda m, x, y: maximize(m, Margin(y), x, L2(1.0), 3, autocast=torch.bfloat16),
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


@pytest.mark.parametrize("context", ["no_grad", "inference_mode", "autocast"])
@pytest.mark.parametrize("use", USES)
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


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("of_model, of_images", [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
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
    "eps inf": (lambda: L2(math.inf), ValueError, "positive|0..255"),
    "eps one bad of many": (lambda: Linf(torch.tensor([0.1, 0.0])), ValueError, "positive"),
    "eps one nan of many": (lambda: Linf(torch.tensor([0.1, math.nan])), ValueError, "positive.*nan"),
    "Linf 8": (lambda: Linf(8), ValueError, r"0..255.*8/255"),
    "L2 128": (lambda: L2(128), ValueError, r"0..255.*128/255"),
    "eps of another length": (lambda: found(ball=Linf(torch.full((3,), 0.1))), ValueError, "eps.*3 values for 5 images"),
    "a number for a ball": (lambda: found(ball=0.1), TypeError, r"ball.*Linf\(0.1\)"),
    "steps -1": (lambda: found(steps=-1), ValueError, "steps.*at least 0.*-1"),
    "restarts 0": (lambda: found(restarts=0), ValueError, "restarts.*at least 1.*0"),
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
    "detached": (lambda: found(model=Spoiled(lambda z: z.detach())), ValueError, "gradient"),
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
from confnb.search import CrossEntropy, Linf, maximize
x = torch.rand(10000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
y = torch.zeros(10000, dtype=torch.int64)
found = maximize(build("model_a", (1, 28, 28), 10, filters=64), CrossEntropy(y), x, Linf(.3), steps=1)
assert len(found.x) == 10000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_ten_thousand_images_hold_one_batch_of_gradients():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2 * 2**20
