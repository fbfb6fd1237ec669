import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from confnb.attacks import negative, pgd, uniform_noise
from confnb.runtime import generator, predict
from confnb.search import L2, Linf


def linear(seed=0, classes=2):
    "A linear model of 1 x 5 x 5 images, and its weights (K, 25)"
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, classes)).double()
    rng = generator(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    return model, model[1].weight.data


def images(n=6, seed=0):
    return torch.rand(n, 1, 5, 5, generator=generator(seed), dtype=torch.float64)


def labels(n=6, seed=0, classes=2):
    return torch.randint(classes, (n,), generator=generator(seed))


def softmax(logits):
    e = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def loss(model, z, y):
    "-log p(label) in numpy"
    return -np.log(softmax(predict(model, z))[np.arange(len(y)), y])


# Exact on two classes and a linear model

@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 1))
@settings(max_examples=40)
def test_one_sign_step_is_the_worst_point_of_a_linear_model(seed, eps):
    (model, w), x, y = linear(seed), images(seed=seed), labels(seed=seed)
    uphill = (w[1 - y] - w[y]).reshape(x.shape).sign()
    worst = (x + eps * uphill).clamp(0, 1)
    one_step = pgd(model, x, y, Linf(eps), steps=1, step_size=eps, start="here")
    many = pgd(model, x, y, Linf(eps), steps=20, seed=seed)
    assert torch.allclose(one_step.x, worst) and torch.allclose(many.x, worst)
    np.testing.assert_allclose(many.value, loss(model, worst, y), atol=1e-9)
    by_target = pgd(model, x, y, Linf(eps), steps=20, seed=seed, target=1 - y)
    assert torch.allclose(by_target.x, worst)


@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 0.3))
@settings(max_examples=40)
def test_one_normalised_step_is_the_worst_point_of_a_linear_model_inside_the_box(seed, eps):
    (model, w), x, y = linear(seed), 0.35 + 0.3 * images(seed=seed), labels(seed=seed)
    uphill = (w[1 - y] - w[y]).reshape(x.shape)
    worst = x + eps * uphill / uphill.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    one_step = pgd(model, x, y, L2(eps), steps=1, step_size=eps, start="here")
    assert torch.allclose(one_step.x, worst)
    many = pgd(model, x, y, L2(eps), steps=60, step_size=0.2 * eps, seed=seed)
    most, got, start = (loss(model, z, y) for z in (worst, many.x, x))
    assert (got <= most + 1e-9).all() and (most - got <= 1e-4 * (most - start) + 1e-9).all()


# The same as other libraries

SETTINGS = [("Linf", 0.1, 0.01, 20), ("Linf", 0.3, 0.1, 7), ("L2", 1.0, 0.2, 20), ("L2", 3.0, 0.5, 7)]


@pytest.fixture(scope="module")
def problem(digits, small_model):
    "A trained model, images and labels in double precision, so that no sign hangs on rounding"
    x, y = digits.x_test[:32].double(), digits.y_test[:32]
    model = copy.deepcopy(small_model).double()
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), y, reduction="sum"), z)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-8  # below, foolbox no longer normalises
    return model, x, y


def foolbox_points(model, x, y, kind, eps, size, steps, target):
    fb = pytest.importorskip("foolbox")
    attack = {"Linf": fb.attacks.LinfPGD, "L2": fb.attacks.L2PGD}[kind](abs_stepsize=size, steps=steps, random_start=False)
    aim = fb.criteria.Misclassification(y) if target is None else fb.criteria.TargetedMisclassification(target)
    return attack.run(fb.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, aim, epsilon=eps)


def torchattacks_points(model, x, y, kind, eps, size, steps, target):
    ta = pytest.importorskip("torchattacks")
    settings = {"eps": eps, "alpha": size, "steps": steps, "random_start": False}
    attack = ta.PGD(model, **settings) if kind == "Linf" else ta.PGDL2(model, eps_for_division=1e-30, **settings)
    if target is None:
        return attack(x, y)
    attack.set_mode_targeted_by_function(lambda *_: target)
    return attack(x, y)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind, eps, size, steps", SETTINGS)
@pytest.mark.parametrize("peer", [foolbox_points, torchattacks_points])
def test_pgd_from_x_is_that_of_other_libraries(problem, peer, kind, eps, size, steps, targeted):
    model, x, y = problem
    target = (y + 1) % 10 if targeted else None
    theirs = peer(model, x, y, kind, eps, size, steps, target)
    ours = pgd(model, x, y, {"Linf": Linf, "L2": L2}[kind](eps), steps, size, target=target, start="here", keep="last")
    assert (theirs - x).abs().max() > 0.05
    assert (ours.x - theirs).abs().max() < 1e-5


# Targets, noise, negatives

def test_the_best_point_beats_the_last_and_the_start(problem):
    model, x, y = problem
    best, last = (pgd(model, x, y, Linf(0.1), 10, 0.03, start="here", keep=k) for k in ("best", "last"))
    assert (best.value >= last.value - 1e-9).all() and (best.value >= torch.as_tensor(loss(model, x, y)) - 1e-9).all()


@pytest.mark.parametrize("target", ["a number", "one for each"])
def test_a_target_becomes_likelier(digits, small_model, target):
    x, y = digits.x_test[:40], digits.y_test[:40]
    x, y = x[y != 3], y[y != 3]
    wanted = torch.full_like(y, 3) if target == "a number" else (y + 1) % 10
    found = pgd(small_model, x, y, Linf(0.2), 10, target=3 if target == "a number" else wanted, start="here")
    before, after = (softmax(predict(small_model, z))[np.arange(len(y)), wanted] for z in (x, found.x))
    assert (after > before).all() and after.mean() > before.mean() + 0.2
    np.testing.assert_allclose(found.value, np.log(after), atol=1e-5)


BAD_TARGETS = {
    "the label": (lambda y: y, ValueError, "right label for 6 of 6"),
    "one of the labels": (lambda y: torch.where(torch.arange(6) == 2, y, 1 - y), ValueError, "right label for 1 of 6"),
    "a number that is a label": (lambda y: int(y[0]), ValueError, "right label"),
    "out of range": (lambda y: 7, ValueError, "targets.*0..1"),
    "negative": (lambda y: -1, ValueError, "targets.*from -1"),
    "short": (lambda y: 1 - y[:3], ValueError, r"targets.*shape \(6,\)"),
    "float": (lambda y: (1 - y).float(), TypeError, "targets must be integer"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_targets_are_refused(name):
    make, error, says = BAD_TARGETS[name]
    y = labels()
    with pytest.raises(error, match=says):
        pgd(linear()[0], images(), y, Linf(0.1), 2, target=make(y))


ATTACKS = {
    "pgd": lambda m, x, y: pgd(m, x, y, Linf(0.2), 3),
    "targeted pgd": lambda m, x, y: pgd(m, x, y, L2(1.0), 3, target=(torch.as_tensor(y) + 1) % 4),
    "uniform_noise": lambda m, x, y: uniform_noise(m, x, y, Linf(0.2), draws=5),
    "negative": negative,
}
BAD_CALLS = {
    "0..255": (lambda x, y: (255 * x, y), ValueError, "0..255"),
    "no images": (lambda x, y: (x[:0], y[:0]), ValueError, "empty"),
    "short labels": (lambda x, y: (x, y[:5]), ValueError, r"labels.*\(6,\)"),
    "float labels": (lambda x, y: (x, y.double()), TypeError, "labels must be integer"),
    "bool labels": (lambda x, y: (x, y > 1), TypeError, "labels must be integer"),
    "list of labels": (lambda x, y: (x, y.tolist()), TypeError, "labels must be a torch.Tensor"),
    "labels too high": (lambda x, y: (x, y + 4), ValueError, "labels.*0..3"),
    "nan": (lambda x, y: (x * math.nan, y), ValueError, "NaN or infinite pixels"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_images_and_labels_are_refused_by_every_attack(attack, name):
    change, error, says = BAD_CALLS[name]
    with pytest.raises(error, match=says):
        ATTACKS[attack](linear(classes=4)[0], *change(images(), labels(classes=4)))


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_confidence_is_that_of_an_independent_softmax(attack):
    model, x, y = linear(classes=4)[0].float(), images().float(), labels(classes=4)
    found = ATTACKS[attack](model, x, y)
    wrong = softmax(found.logits)
    wrong[np.arange(len(y)), y] = 0
    np.testing.assert_allclose(found.confidence, wrong.max(1), atol=1e-6)
    assert torch.allclose(found.logits, predict(model, found.x), atol=1e-6)


@given(seed=st.integers(0, 2**32), draws=st.lists(st.integers(1, 12), min_size=2, max_size=4))
@settings(max_examples=30)
def test_more_draws_of_noise_are_never_less_sure(seed, draws):
    model, x, y = linear(classes=4)[0], images(), labels(classes=4)
    found = [uniform_noise(model, x, y, Linf(0.3), draws=n, seed=seed) for n in sorted(draws)]
    for fewer, more in zip(found, found[1:], strict=False):
        assert (more.confidence >= fewer.confidence - 1e-12).all()
    assert not found[0].passes.any() and Linf(0.3).contains(found[0].x, x).all()


def test_the_negative_of_the_negative_is_the_image():
    (model, _), x, y = linear(classes=4), images(), labels(classes=4)
    once = negative(model, x, y)
    assert torch.allclose(once.x + x, torch.ones_like(x)) and torch.allclose(negative(model, once.x, y).x, x)
    np.testing.assert_allclose(once.value.exp(), once.confidence)
    assert not once.passes.any()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("attack", ["pgd", "uniform_noise", "negative"])
def test_attacks_do_not_depend_on_the_batch_size(attack, batch_size):
    model, x, y = linear(classes=4)[0], images(), labels(classes=4)
    run = {"pgd": lambda **k: pgd(model, x, y, Linf(0.2), 5, restarts=2, **k), "uniform_noise": lambda **k: uniform_noise(model, x, y, L2(1.0), 5, **k),
           "negative": lambda **k: negative(model, x, y, **k)}[attack]
    assert torch.allclose(run().x, run(batch_size=batch_size).x, atol=1e-9)
