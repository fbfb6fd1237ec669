import copy
import math
from contextlib import contextmanager, nullcontext
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import IN_PLACE, Edges, backwards, softmax, turns
from toys import curved as tiny

from confnb.attacks import (
    apgd,
    bim,
    confident_linf,
    constant_offset,
    fgsm,
    ilcm,
    least_likely,
    negative,
    offset_logits,
    pgd,
    uniform_noise,
)
from confnb.found import active_fraction
from confnb.models import seeded
from confnb.nearest import cw_hc, cw_l2, cw_l2_fast, ddn, jsma
from confnb.objectives import Margin, NoGradient
from confnb.runtime import generator, predict
from confnb.search import maximize
from confnb.sets import L0, L2, Linf


def linear(seed=0, classes=2, gain=1.0):
    "A linear model of 1 x 5 x 5 images, and its weights (K, 25)"
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, classes)).double()
    rng = generator(seed)
    for p in model.parameters():
        p.data = gain * torch.randn(p.shape, generator=rng, dtype=torch.float64)
    return model, model[1].weight.data


def images(n=6, seed=0, shape=(1, 5, 5)):
    return torch.rand(n, *shape, generator=generator(seed), dtype=torch.float64)


def labels(n=6, seed=0, classes=2):
    return torch.randint(classes, (n,), generator=generator(seed))


def loss(model, z, y):
    "-log p(label) in numpy"
    return -np.log(softmax(predict(model, z))[np.arange(len(y)), y])


# Exact on two classes and a linear model

@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 1))
@settings(max_examples=15)
def test_one_sign_step_is_the_worst_point_of_a_linear_model(seed, eps):
    (model, w), x, y = linear(seed, gain=0.2), images(seed=seed), labels(seed=seed)  # with larger weights log p(target) rounds to 0
    uphill = (w[1 - y] - w[y]).reshape(x.shape).sign()
    worst = (x + eps * uphill).clamp(0, 1)
    one_step = pgd(model, x, y, Linf(eps), steps=1, step_size=eps, start="here")
    many = pgd(model, x, y, Linf(eps), steps=20, seed=seed)
    assert torch.allclose(one_step.x, worst) and torch.allclose(many.x, worst)
    np.testing.assert_allclose(many.value, loss(model, worst, y), atol=1e-9)
    by_target = pgd(model, x, y, Linf(eps), steps=20, seed=seed, target=1 - y)
    assert torch.allclose(by_target.x, worst)


@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 0.3))
@settings(max_examples=12)
def test_one_normalised_step_is_the_worst_point_of_a_linear_model_inside_the_box(seed, eps):
    (model, w), x, y = linear(seed), 0.35 + 0.3 * images(seed=seed), labels(seed=seed)
    uphill = (w[1 - y] - w[y]).reshape(x.shape)
    worst = x + eps * uphill / uphill.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    one_step = pgd(model, x, y, L2(eps), steps=1, step_size=eps, start="here")
    assert torch.allclose(one_step.x, worst)
    many = pgd(model, x, y, L2(eps), steps=60, step_size=0.2 * eps, seed=seed)
    most, got, start = (loss(model, z, y) for z in (worst, many.x, x))
    assert (got <= most + 1e-9).all() and (most - got <= 1e-4 * (most - start) + 1e-9).all()


@given(seed=st.integers(0, 9999), eps=st.floats(0.01, 1))
@settings(max_examples=6)
def test_every_sign_attack_finds_the_worst_point_of_a_linear_model(seed, eps):
    (model, w), x, y = linear(seed, gain=0.2), images(seed=seed), labels(seed=seed)
    worst = (x + eps * (w[1 - y] - w[y]).reshape(x.shape).sign()).clamp(0, 1)
    most = loss(model, worst, y)
    for attack in fgsm, bim, apgd:
        for target in None, 1 - y:
            found = attack(model, x, y, eps, target=target)
            assert torch.allclose(found.x, worst, atol=1e-12), attack.__name__
        np.testing.assert_allclose(loss(model, found.x, y), most, atol=1e-9)
    assert torch.allclose(ilcm(model, x, y, eps).x, worst)  # of two classes the wrong one is the least likely


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
    ours = pgd(model, x, y, {"Linf": Linf, "L2": L2}[kind](eps), steps, step_size=size, target=target, start="here", keep="last")
    assert (theirs - x).abs().max() > 0.05
    assert (ours.x - theirs).abs().max() < 1e-5


def foolbox_attack(name, **settings):
    def points(model, x, y, eps, target):
        fb = pytest.importorskip("foolbox")
        aim = fb.criteria.Misclassification(y) if target is None else fb.criteria.TargetedMisclassification(target)
        return getattr(fb.attacks, name)(random_start=False, **settings).run(fb.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, aim, epsilon=eps)
    return points


def torchattacks_attack(name, **settings):
    def points(model, x, y, eps, target):
        attack = getattr(pytest.importorskip("torchattacks"), name)(model, eps=eps, **settings)
        if target is not None:
            attack.set_mode_targeted_by_function(lambda *_: target)
        return attack(x, y)
    return points


def from_x(*args, **settings):
    return pgd(*args, start="here", keep="last", **settings)


TWENTY = {"steps": 20, "abs_stepsize": 0.03}
TWINS = {  # the attack, its set, its settings, the peer
    "FGSM, foolbox": (fgsm, Linf(0.1), {}, foolbox_attack("LinfFastGradientAttack")),
    "FGSM, torchattacks": (fgsm, Linf(0.1), {}, torchattacks_attack("FGSM")),
    "FGM in L2, foolbox": (fgsm, L2(1.5), {}, foolbox_attack("L2FastGradientAttack")),
    "one step, foolbox": (fgsm, Linf(0.2), {}, foolbox_attack("LinfBasicIterativeAttack", rel_stepsize=1.0, steps=1)),
    "one step in L2, foolbox": (fgsm, L2(1.5), {}, foolbox_attack("L2BasicIterativeAttack", rel_stepsize=1.0, steps=1)),
    "BIM, foolbox": (bim, Linf(0.2), {"steps": 8}, foolbox_attack("LinfBasicIterativeAttack", rel_stepsize=1 / 8, steps=8)),
    "BIM, torchattacks": (bim, Linf(0.2), {"steps": 8}, torchattacks_attack("BIM", alpha=0.2 / 8, steps=8)),
    "BIM in L2, foolbox": (bim, L2(2.0), {"steps": 8}, foolbox_attack("L2BasicIterativeAttack", rel_stepsize=1 / 8, steps=8)),
    "PGD, foolbox": (from_x, Linf(0.2), {"steps": 20, "step_size": 0.03}, foolbox_attack("LinfProjectedGradientDescentAttack", **TWENTY)),
    "PGD, torchattacks": (from_x, Linf(0.2), {"steps": 20, "step_size": 0.03}, torchattacks_attack("PGD", alpha=0.03, steps=20, random_start=False)),
    "PGD in L2, foolbox": (from_x, L2(0.4), {"steps": 20, "step_size": 0.03}, foolbox_attack("L2ProjectedGradientDescentAttack", **TWENTY)),
}
UNTARGETED_ONLY = ("FGSM, foolbox", "FGM in L2, foolbox")  # foolbox refuses a target here; "one step" is the same attack with one


@pytest.mark.parametrize("twins, targeted", [(t, a) for t in TWINS for a in (False, True) if not (a and t in UNTARGETED_ONLY)])
def test_the_classical_attacks_are_those_of_other_libraries(problem, twins, targeted):
    (model, x, y), (attack, ball, settings, peer) = problem, TWINS[twins]
    target = (y + 1) % 10 if targeted else None
    theirs, ours = peer(model, x, y, ball.eps, target), attack(model, x, y, ball, **settings, target=target)
    assert (theirs - x).abs().max() > 0.05
    assert (ours.x - theirs).abs().max() < 1e-5


def torchattacks_apgd(model, x, y, ball, steps):
    ta = pytest.importorskip("torchattacks")
    norm = "Linf" if isinstance(ball, Linf) else "L2"
    attack = ta.APGD(model, norm=norm, eps=ball.eps, steps=steps, n_restarts=1, seed=0, loss="ce")
    with seeded(0):
        return attack.perturb(x, y, best_loss=True)[1]


@pytest.mark.parametrize("ball, steps", turns([Linf(0.1), Linf(0.2), L2(0.8), L2(2.0)], [20, 60], 2))
def test_apgd_is_as_strong_as_that_of_torchattacks_and_as_pgd(digits, small_model, ball, steps):
    model, x, y = small_model.eval(), digits.x_test[:64], digits.y_test[:64]  # in single precision: torchattacks' knows no other
    mean = {name: loss(model, z, y).mean() for name, z in {
        "ours": apgd(model, x, y, ball, steps).x, "theirs": torchattacks_apgd(model, x, y, ball, steps), "pgd": pgd(model, x, y, ball, steps).x, "x": x}.items()}
    assert mean["ours"] > mean["x"] + 1
    assert mean["ours"] >= mean["theirs"] - 0.01 * abs(mean["theirs"]) and mean["ours"] >= mean["pgd"] - 0.01 * abs(mean["pgd"]), mean


# The same as the papers' formulas, line by line

SHAPES = [(1, 5, 5), (2, 4, 4), (3, 4, 3)]


def ilcm_by_hand(model, x, eps, r):
    "`rce` section 2.3: x_i = clip(x_{i-1} - eps / r sign(grad L(x_{i-1}, y_ll))), y_ll = argmin F(x)"
    least = softmax(predict(model, x)).argmin(1)
    original, point = x.numpy(), x.numpy()
    for _ in range(r):
        z = torch.as_tensor(point).requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), torch.as_tensor(least), reduction="sum"), z)
        point = point - eps / r * np.sign(gradient.numpy())
        point = np.clip(np.clip(point, original - eps, original + eps), 0, 1)
    return point, least


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps, r", [(0.05, 10), (0.3, 4), (1.0, 1)])
def test_ilcm_is_the_formula(shape, eps, r):
    model, x = tiny(shape=shape), images(8, shape=shape)
    y = predict(model, x).argmax(1)  # right everywhere, so that the least likely class is a wrong one
    points, least = ilcm_by_hand(model, x, eps, r)
    found = ilcm(model, x, y, eps, r)
    np.testing.assert_allclose(found.x, points, atol=1e-9)
    np.testing.assert_allclose(found.value, np.log(softmax(found.logits)[np.arange(8), least]), atol=1e-9)
    assert np.array_equal(least_likely(model, x, y), least)


def test_the_least_likely_class_is_never_the_label():
    model, x = tiny(), images(40)
    p = softmax(predict(model, x))
    y = torch.as_tensor(p.argmin(1))
    expected = [min((c for c in range(4) if c != y[i]), key=lambda c: p[i, c]) for i in range(40)]
    assert least_likely(model, x, y, batch_size=7).tolist() == expected


def jsma_by_hand(model, x, target, steps, theta):
    "`rce` section 2.3, one image (C, H, W): the points visited, the last one after a success or when no feature has any saliency"
    points = [x.numpy().ravel().copy()]
    at = lambda v: torch.as_tensor(v).reshape(1, *x.shape)  # noqa: E731
    F = lambda v: torch.softmax(model(v.reshape(1, *x.shape)), 1)[0]  # noqa: E731
    for _ in range(steps):
        z = points[-1]
        if predict(model, at(z)).argmax(1) == target:
            break
        jacobian = np.sign(theta) * torch.autograd.functional.jacobian(F, torch.as_tensor(z)).numpy()  # (K, d); to lower a value, the map of -x
        of_target, of_others = jacobian[target], np.delete(jacobian, target, 0).sum(0)
        saliency = np.where((of_target < 0) | (of_others > 0), 0, of_target * np.abs(of_others))
        saliency[z >= 1 if theta > 0 else z <= 0] = 0
        if saliency.max() <= 0:
            break
        z = z.copy()
        z[saliency.argmax()] = np.clip(z[saliency.argmax()] + theta, 0, 1)
        points.append(z)
    return points


@pytest.mark.parametrize("theta", [1.0, 0.3, -1.0, -0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_jsma_is_the_saliency_map_of_the_paper(shape, theta):
    model, x, steps = tiny(shape=shape), images(8, shape=shape), 9
    x = torch.where(x > 0.8, 1.0, torch.where(x < 0.2, 0.0, x))  # some without room either way
    y = predict(model, x).argmax(1)
    target = (y + 1) % 4
    found, fooled = jsma(model, x, y, steps, theta, target=target), 0
    for i in range(len(x)):
        points = np.stack(jsma_by_hand(model, x[i], int(target[i]), steps, theta))
        logits = predict(model, torch.as_tensor(points).reshape(-1, *shape)).numpy()
        leads = logits[:, target[i]] - np.delete(logits, target[i], 1).max(1)
        np.testing.assert_allclose(found.x[i].ravel(), points[leads.argmax()], atol=1e-9)
        np.testing.assert_allclose(found.value[i], leads.max(), atol=1e-9)
        fooled += leads.max() > 0
    assert fooled >= 2 and L0(steps).contains(found.x, x).all()
    assert ((found.x - x) * np.sign(theta) >= 0).all() and torch.equal(found.value > 0, predict(model, found.x).argmax(1) == target)


def test_jsma_skips_full_pixels_and_goes_to_the_least_likely_class():
    model, w = linear(3, classes=3)
    x = images(5)
    y = predict(model, x).argmax(1)
    target = least_likely(model, x, y)
    strongest = (w[target] - w[y]).argmax(1)
    x.flatten(1)[torch.arange(5), strongest] = 1.0
    y, target = predict(model, x).argmax(1), least_likely(model, x, predict(model, x).argmax(1))
    found = jsma(model, x, y, 3)
    assert torch.equal(found.x, jsma(model, x, y, 3, target=target).x)
    assert (found.x.flatten(1)[torch.arange(5), strongest] == 1).all()
    assert ((found.x - x).flatten(1) != 0).sum(1).min() >= 1


def test_jsma_stops_at_the_first_success():
    model, x = tiny(), images(30)
    y = predict(model, x).argmax(1)
    found = jsma(model, x, y, 15, target=(y + 1) % 4)
    changed = (found.x != x).flatten(1).sum(1)
    done = found.value > 0
    assert done.any() and torch.equal(found.passes[done], changed[done] + (found.passes < 15).long()[done])
    assert active_fraction(found)[0] == 1 and (active_fraction(found).diff() <= 0).all()


# Targets, noise, negatives

def test_the_best_point_beats_the_last_and_the_start(problem):
    model, x, y = problem
    best, last = (pgd(model, x, y, Linf(0.1), 10, step_size=0.03, start="here", keep=k) for k in ("best", "last"))
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


def next_class(y):
    "A wrong class for each, of four"
    return (torch.as_tensor(y, device="cpu") + 1) % 4


ATTACKS = {
    "fgsm": lambda m, x, y, **k: fgsm(m, x, y, Linf(0.2), **k),
    "fgsm in L2": lambda m, x, y, **k: fgsm(m, x, y, L2(1.0), **k),
    "targeted fgsm": lambda m, x, y, **k: fgsm(m, x, y, 0.2, target=next_class(y), **k),
    "bim": lambda m, x, y, **k: bim(m, x, y, 0.2, 4, **k),
    "ilcm": lambda m, x, y, **k: ilcm(m, x, y, 0.2, 4, **k),
    "pgd": lambda m, x, y, **k: pgd(m, x, y, Linf(0.2), 3, **k),
    "targeted pgd": lambda m, x, y, **k: pgd(m, x, y, L2(1.0), 3, target=next_class(y), **k),
    "apgd": lambda m, x, y, **k: apgd(m, x, y, Linf(0.2), 9, restarts=2, **k),
    "apgd on the margin": lambda m, x, y, **k: apgd(m, x, y, L2(1.0), 9, margin=True, **k),
    "targeted apgd": lambda m, x, y, **k: apgd(m, x, y, L2(1.0), 9, target=next_class(y), **k),
    "jsma": lambda m, x, y, **k: jsma(m, x, y, 4, **k),
    "jsma downwards": lambda m, x, y, **k: jsma(m, x, y, 4, -0.5, target=next_class(y), **k),
    "cw_l2": lambda m, x, y, **k: cw_l2(m, x, y, rounds=3, steps=30, step_size=0.1, **k),
    "targeted cw_l2": lambda m, x, y, **k: cw_l2(m, x, y, target=next_class(y), rounds=3, steps=30, step_size=0.1, **k),
    "cw_hc": lambda m, x, y, **k: cw_hc(m, x, y, kappa=0.5, rounds=2, steps=20, step_size=0.1, **k),
    "ddn": lambda m, x, y, **k: ddn(m, x, y, 20, **k),
    "cw_l2_fast": lambda m, x, y, **k: cw_l2_fast(m, x, y, 20, 5, **k),
    "targeted cw_l2_fast": lambda m, x, y, **k: cw_l2_fast(m, x, y, 20, 5, target=next_class(y), **k),
    "cw_linf": lambda m, x, y, **k: confident_linf(m, x, y, 0.2, steps=10, **k),
    "targeted cw_linf": lambda m, x, y, **k: confident_linf(m, x, y, Linf(0.2), steps=10, restarts=2, start="random", target=next_class(y), **k),
    "uniform_noise": lambda m, x, y, **k: uniform_noise(m, x, y, Linf(0.2), draws=5, **k),
    "negative": negative,
    "constant_offset": lambda m, x, y, **k: constant_offset(m, x, y, 0.2, **k),
}
SETS = {"in L2": L2(1.0), "targeted pgd": L2(1.0), "on the margin": L2(1.0), "targeted apgd": L2(1.0), "jsma": L0(4), "cw_l": Linf(1.0), "cw_h": Linf(1.0),
        "ddn": Linf(1.0), "negative": Linf(1.0)}


def set_of(attack):
    "The set that the attack of the table must stay in"
    return Linf(0.2) if "cw_linf" in attack else next((ball for name, ball in SETS.items() if name in attack), Linf(0.2))


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
    np.testing.assert_allclose(found.wrong_confidence, wrong.max(1), atol=1e-6)
    assert torch.allclose(found.logits, predict(model, found.x), atol=1e-6)


@given(seed=st.integers(0, 2**32), draws=st.lists(st.integers(1, 12), min_size=2, max_size=4))
@settings(max_examples=30)
def test_more_draws_of_noise_are_never_less_sure(seed, draws):
    model, x, y = linear(classes=4)[0], images(), labels(classes=4)
    found = [uniform_noise(model, x, y, Linf(0.3), draws=n, seed=seed) for n in sorted(draws)]
    for fewer, more in zip(found, found[1:], strict=False):
        assert (more.wrong_confidence >= fewer.wrong_confidence - 1e-12).all()
    assert not found[0].passes.any() and Linf(0.3).contains(found[0].x, x).all()


def test_the_negative_of_the_negative_is_the_image():
    (model, _), x, y = linear(classes=4), images(), labels(classes=4)
    once = negative(model, x, y)
    assert torch.allclose(once.x + x, torch.ones_like(x)) and torch.allclose(negative(model, once.x, y).x, x)
    np.testing.assert_allclose(once.value.exp(), once.wrong_confidence)
    assert not once.passes.any()


@pytest.mark.parametrize("attack, batch_size", turns(ATTACKS, [1, 4], 2))
def test_attacks_do_not_depend_on_the_batch_size(attack, batch_size):
    model, x, y = tiny(), images(), labels(classes=4)
    whole, parts = ATTACKS[attack](model, x, y), ATTACKS[attack](model, x, y, batch_size=batch_size)
    assert torch.allclose(whole.x, parts.x, atol=1e-6) and torch.equal(whole.passes, parts.passes)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_stays_in_its_set_and_leaves_everything_as_it_was(attack):
    model, x, y = tiny().float().train(), images(20).float(), labels(20, classes=4)
    x[:10] = (x[:10] > 0.5).float()  # pixels at both ends
    model[3].bias.requires_grad_(False)
    kept = copy.deepcopy((model.state_dict(), x, y))
    found = ATTACKS[attack](model, x, y)
    assert set_of(attack).contains(found.x, x).all() and found.x.min() >= 0 and found.x.max() <= 1
    assert found.x.dtype == x.dtype and found.x.shape == x.shape and found.passes.dtype == torch.int64
    assert all(m.training for m in model.modules()) and [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(kept[0].values(), model.state_dict().values(), strict=True))
    assert torch.equal(kept[1], x) and torch.equal(kept[2], y)


IN_A_BALL = {"fgsm": fgsm, "bim": bim, "ilcm": ilcm, "pgd": lambda *a, **k: pgd(*a, steps=5, **k), "apgd": lambda *a, **k: apgd(*a, steps=12, **k),
             "cw_linf": lambda *a, **k: confident_linf(*a, steps=12, **k), "uniform_noise": lambda *a, **k: uniform_noise(*a, draws=3, **k)}


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("attack", IN_A_BALL)
def test_a_radius_for_each_example_is_as_separate_calls(attack, kind):
    if attack == "cw_linf" and kind is L2:
        return
    model, x, y, eps = tiny(), images(3), labels(3, classes=4), torch.tensor([0.05, 0.2, 0.6], dtype=torch.float64)
    seed = lambda s: {} if attack in ("fgsm", "bim", "ilcm") else {"seed": s}  # noqa: E731
    together = IN_A_BALL[attack](model, x, y, kind(eps), **seed(torch.arange(3)))
    for i in range(3):
        alone = IN_A_BALL[attack](model, x[i : i + 1], y[i : i + 1], kind(float(eps[i])), **seed(torch.tensor([i])))
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-9)


@pytest.mark.parametrize("attack", ["fgsm", "bim", "ilcm", "pgd", "apgd", "cw_linf"])
def test_a_number_is_a_radius(attack):
    model, x, y, eps = tiny(), images(3), labels(3, classes=4), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for number, ball in ((0.2, Linf(0.2)), (eps, Linf(eps)), (torch.tensor(0.25), Linf(0.25))):
        assert torch.allclose(IN_A_BALL[attack](model, x, y, number).x, IN_A_BALL[attack](model, x, y, ball).x, atol=1e-6)


# What a result says

@pytest.mark.parametrize("attack", ["fgsm", "bim", "pgd", "apgd"])
def test_the_value_is_the_loss_or_the_log_probability_of_the_target(attack):
    model, x, y = tiny(), images(), labels(classes=4)
    found, aimed = IN_A_BALL[attack](model, x, y, 0.2), IN_A_BALL[attack](model, x, y, 0.2, target=next_class(y))
    np.testing.assert_allclose(found.value, loss(model, found.x, y), atol=1e-9)
    np.testing.assert_allclose(aimed.value, -loss(model, aimed.x, next_class(y)), atol=1e-9)


def test_the_margin_variant_of_apgd_climbs_the_margin():
    model, x, y = tiny(gain=4.0), images(30), labels(30, classes=4)
    z = predict(model, (found := apgd(model, x, y, 0.1, 30, margin=True)).x)
    np.testing.assert_allclose(found.value, z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0], atol=1e-9)
    assert (found.value >= maximize(model, Margin(y), x, Linf(0.1), 30).value - 0.02 * found.value.abs().mean()).float().mean() > 0.9
    assert torch.equal(predict(model, found.x).argmax(1) != y, found.value > 0)


STEPS = {"fgsm": 1, "bim": 10, "ilcm": 10, "pgd": 5, "apgd": 12}


@pytest.mark.parametrize("attack", STEPS)
def test_passes_are_the_steps(attack):
    model, x, y = tiny(), images(), labels(classes=4)
    assert (IN_A_BALL[attack](model, x, y, 0.2).passes == STEPS[attack]).all()


# Bad settings

BALLS = {"fgsm": fgsm, "bim": bim, "ilcm": ilcm, "pgd": pgd, "apgd": apgd, "cw_linf": confident_linf}
WITH_STEPS = {k: v for k, v in BALLS.items() if k != "fgsm"}
DISTANCES = {"cw_l2": cw_l2, "cw_hc": cw_hc, "ddn": ddn, "cw_l2_fast": cw_l2_fast}
TARGETED = {k: (lambda m, x, y, f=f, **s: f(m, x, y, 0.1, **s)) for k, f in BALLS.items()} | {"jsma": jsma} | DISTANCES


def calls(table, name, error, says, *args, **settings):
    "One bad call of every attack in the table"
    return {f"{attack}, {name}": (f, args, settings, error, says) for attack, f in table.items()}


WRONG = (1.5, "8", None, True)


def wrong_types(table, setting, *args, says=None):
    "What is no whole number, in a setting that counts something"
    return {k: v for value in WRONG for k, v in calls(table, f"{setting} {value!r}", TypeError, f"{says or setting} must be a whole number, not", *args, **{setting: value}).items()}


BAD_SETTINGS = (
    wrong_types(WITH_STEPS, "steps", 0.1)
    | wrong_types({"jsma": jsma, **DISTANCES}, "steps")
    | wrong_types({"cw_l2": cw_l2, "cw_hc": cw_hc}, "rounds")
    | wrong_types({"cw_l2_fast": cw_l2_fast}, "polish")
    | wrong_types({"uniform_noise": uniform_noise}, "draws", 0.1)
    | wrong_types(BALLS | {"uniform_noise": uniform_noise}, "batch_size", 0.1, says="a batch size")
    | wrong_types({"jsma": jsma, "negative": negative, **DISTANCES}, "batch_size", says="a batch size")
    | wrong_types({"constant_offset": constant_offset}, "batch_size", 0.2, says="a batch size")
    | wrong_types({"pgd": pgd, "apgd": apgd, "cw_linf": confident_linf}, "restarts", 0.1)
    | wrong_types({"pgd": pgd, "apgd": apgd, "cw_linf": confident_linf, "uniform_noise": uniform_noise}, "seed", 0.1)
    | calls({"constant_offset": constant_offset}, "batch size 0", ValueError, "batch size must be at least 1, not 0", 0.2, batch_size=0)
    | calls({"constant_offset": constant_offset}, "batch size -1", ValueError, "batch size must be at least 1, not -1", 0.2, batch_size=-1)
    | calls(TARGETED, "a word for a target", TypeError, "targets must be integer.*'cat'", target="cat")
    | calls(TARGETED, "a list of targets", TypeError, "targets must be integer.*list", target=[1, 2, 3, 0, 1, 2])
    | calls(BALLS | {"uniform_noise": uniform_noise}, "eps as text", TypeError, r"ball must be a set such as Linf\(8/255\), not '8/255'", "8/255")
    | calls(BALLS | {"uniform_noise": uniform_noise}, "no eps", TypeError, r"ball must be a set such as Linf\(8/255\), not None", None)
    | calls(BALLS | {"uniform_noise": uniform_noise}, "eps as a column", ValueError, r"eps of Linf must be one number or one for each", torch.full((6, 1), 0.1))
    | calls({"jsma": jsma}, "theta a word", TypeError, "theta must be a number, not 'up'", theta="up")
    | calls(DISTANCES, "kappa a word", TypeError, "kappa must be a number, not 'high'", kappa="high")
    | calls({"cw_l2": cw_l2}, "c a word", TypeError, "c must be a number, not 'one'", c="one")
    | calls({"cw_linf": confident_linf}, "p a word", TypeError, "p must be a number, not 'half'", 0.1, p="half")
    | calls({"ddn": ddn}, "gamma a word", TypeError, "gamma must be a number, not 'half'", gamma="half")
    | calls(WITH_STEPS, "no steps", ValueError, "at least 1 step, not 0", 0.1, steps=0)
    | calls(WITH_STEPS, "steps below 0", ValueError, "at least 1 step, not -3", 0.1, steps=-3)
    | calls({"jsma": jsma, **DISTANCES}, "no steps", ValueError, "at least 1 step, not 0", steps=0)
    | calls({"cw_l2": cw_l2, "cw_hc": cw_hc}, "no rounds", ValueError, "at least 1.*not 0", rounds=0)
    | calls({"cw_l2_fast": cw_l2_fast}, "no polish", ValueError, "at least 1.*not 0", polish=0)
    | calls(DISTANCES, "kappa below 0", ValueError, "kappa.*at least 0, not -1", kappa=-1.0)
    | calls(DISTANCES, "kappa nan", ValueError, "kappa.*at least 0, not nan", kappa=math.nan)
    | calls(DISTANCES, "kappa inf", ValueError, "kappa.*not inf", kappa=math.inf)
    | calls({"cw_l2": cw_l2, "cw_hc": cw_hc}, "c 0", ValueError, "c .*positive", c=0.0)
    | calls({"cw_l2": cw_l2, "cw_hc": cw_hc}, "c nan", ValueError, "c .*positive", c=math.nan)
    | calls({"cw_l2": cw_l2, "cw_hc": cw_hc}, "rate 0", ValueError, "step_size.*positive", step_size=0.0)
    | calls({"ddn": ddn}, "gamma 0", ValueError, "gamma.*not 0", gamma=0.0)
    | calls({"ddn": ddn}, "gamma 1", ValueError, "gamma.*not 1", gamma=1.0)
    | calls({"ddn": ddn}, "gamma nan", ValueError, "gamma.*not nan", gamma=math.nan)
    | calls({"jsma": jsma}, "theta 0", ValueError, "theta.*not 0", theta=0.0)
    | calls({"jsma": jsma}, "theta 2", ValueError, "theta.*not 2", theta=2.0)
    | calls({"jsma": jsma}, "theta -2", ValueError, "theta.*not -2", theta=-2.0)
    | calls({"jsma": jsma}, "theta nan", ValueError, "theta.*not nan", theta=math.nan)
    | calls({"cw_linf": confident_linf}, "p 0", ValueError, "p in.*0", 0.1, p=0.0)
    | calls({"cw_linf": confident_linf}, "p 1.5", ValueError, "p in.*1.5", 0.1, p=1.5)
    | calls({"cw_linf": confident_linf}, "p nan", ValueError, "p in.*nan", 0.1, p=math.nan)
    | calls({"cw_linf": confident_linf}, "an L2 ball", ValueError, "L-inf ball", L2(0.1))
    | calls(BALLS, "0..255", ValueError, "8 looks like the 0..255 scale.*8/255", 8)
    | calls(BALLS, "eps 0", ValueError, "eps of Linf must be positive", 0.0)
    | calls(BALLS, "eps nan", ValueError, "eps of Linf must be positive", math.nan)
    | calls(BALLS, "eps of wrong length", ValueError, "4 values for 6 images", torch.full((4,), 0.1))
    | calls(BALLS, "a word", (TypeError, ValueError), "ball", "0.1")
    | calls(TARGETED, "the label", ValueError, "right label for 6 of 6", target=labels(classes=4))
    | calls(TARGETED, "a short target", ValueError, r"targets.*shape \(6,\)", target=torch.tensor([1, 2]))
    | calls(TARGETED, "a target out of range", ValueError, "targets.*0..3", target=7)
    | calls(TARGETED, "a target below 0", ValueError, "targets.*from -1", target=-1)
    | calls(TARGETED, "a float target", TypeError, "targets must be integer", target=1.0)
    | calls(TARGETED, "a column of targets", ValueError, "targets must have shape", target=torch.ones(6, 1, dtype=torch.int64))
    | calls({"pgd": pgd, "apgd": apgd, "cw_linf": confident_linf}, "no restarts", ValueError, "restarts must be at least 1, not 0", 0.1, restarts=0)
    | calls({"uniform_noise": uniform_noise}, "no draws", ValueError, "draws must be at least 1, not 0", Linf(0.1), draws=0)
    | calls(TARGETED | {"negative": negative}, "batch size 0", ValueError, "batch size must be at least 1", batch_size=0)
)


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_refused_in_words(name):
    attack, args, settings, error, says = BAD_SETTINGS[name]
    with pytest.raises(error, match=f"(?s){says}"):
        attack(tiny(), images(), labels(classes=4), *args, **settings)


@given(seed=st.integers(0, 99), offsets=st.lists(st.floats(-1, 1), min_size=1, max_size=6), batch_size=st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_constant_offsets_against_a_plain_loop(seed, offsets, batch_size):
    model, x, y = tiny(seed), images(5, seed), labels(5, seed, classes=4)
    logits = offset_logits(model, x, offsets, batch_size)
    found = constant_offset(model, x, y, offsets, batch_size)
    for i in range(5):
        best = -math.inf
        for j, c in enumerate(offsets):
            z = torch.as_tensor([[[min(max(v + c, 0.0), 1.0) for v in row] for row in image] for image in x[i].tolist()], dtype=torch.float64)
            with torch.no_grad():
                torch.testing.assert_close(logits[i, j], model(z[None])[0])
            wrong = softmax(logits[i, j][None])[0]
            wrong[y[i]] = 0
            best = max(best, wrong.max())
        assert found.wrong_confidence[i] == pytest.approx(best) and found.value[i].exp() == pytest.approx(best)
    assert not found.passes.any() and torch.allclose(predict(model, found.x), found.logits)


def test_one_offset_stands_for_both_signs():
    model, x, y = tiny(), images(), labels(classes=4)
    assert torch.equal(constant_offset(model, x, y, 0.3).x, constant_offset(model, x, y, [0.3, -0.3]).x)
    assert torch.equal(offset_logits(model, x, [0.0])[:, 0], predict(model, x))


@pytest.mark.parametrize("offsets", [[], [1.5], [[0.1]], [math.nan], 3])
def test_offsets_that_cannot_be_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets are one or more numbers in"):
        constant_offset(tiny(), images(), labels(classes=4), offsets)


# Models that an attack must not fall over

GRADIENTS = [name for name in ATTACKS if name not in ("uniform_noise", "negative", "constant_offset")]


class Changed(nn.Module):
    "A model whose images are changed on the way in, and its logits on the way out"

    def __init__(self, before=lambda x: x, after=lambda logits: logits, model=None):
        super().__init__()
        self.model, self.before, self.after, self.sizes = model or tiny().float(), before, after, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.after(self.model(self.before(x)))


def sound(attack, found, model, x):
    "Whether the points lie in their set and are scored there"
    assert set_of(attack).contains(found.x, x).all() and found.x.isfinite().all() and not found.value.isnan().any()
    assert torch.allclose(found.logits, predict(model, found.x), atol=1e-5)
    return True


BROKEN = {"nan": lambda: Changed(lambda x: backwards(x, lambda g: g * math.nan)), "inf": lambda: Changed(lambda x: backwards(x, lambda g: torch.full_like(g, math.inf))),
          "edges": lambda: Changed(Edges())}


AT_RANDOM = ("pgd", "targeted pgd", "apgd", "apgd on the margin", "targeted apgd", "targeted cw_linf")  # no random point is flat


@pytest.mark.parametrize("attack, name", [(a, n) for a in GRADIENTS for n in BROKEN if not (n == "edges" and a in AT_RANDOM)])
def test_broken_gradients_are_said_and_blame_no_logits(attack, name):
    model, x, y = BROKEN[name](), images().float(), labels(classes=4)
    x[:, :, :3] = 0.5
    with pytest.warns(NoGradient, match="NaN or infinite gradients for [1-6] of 6"):
        found = ATTACKS[attack](model, x, y)
    assert sound(attack, found, model, x)


CONTEXTS = {"plain": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "float64": lambda: default_dtype(torch.float64),
            "meta": lambda: torch.device("meta")}
FLAT = {"rounds": lambda: Changed(lambda x: (4 * x).round() / 4), "detaches": lambda: Changed(after=lambda z: z.detach())}


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("attack, context, name", turns(GRADIENTS, list(product(CONTEXTS, FLAT)), 5))
def test_models_without_a_gradient_are_attacked_and_named(attack, context, name):
    model, x, y = FLAT[name](), images().float(), labels(classes=4)
    with pytest.warns(NoGradient, match="exactly zero at every start"):
        expected = ATTACKS[attack](model, x, y)
        with CONTEXTS[context]():
            found = ATTACKS[attack](model, x, y)
    assert sound(attack, found, model, x) and torch.equal(found.x, expected.x)


@pytest.mark.parametrize("attack, context", turns(ATTACKS, list(CONTEXTS)[1:], 4))
def test_the_callers_context_and_defaults_change_no_point(attack, context):
    model, x, y = tiny().float(), images().float(), labels(classes=4)
    expected = ATTACKS[attack](model, x, y)
    with CONTEXTS[context]():
        found = ATTACKS[attack](model, x, y)
    for name in "x", "value", "logits", "confidence":
        a, b = getattr(expected, name), getattr(found, name)
        assert torch.equal(a, b) and a.dtype == b.dtype == torch.float32, name


@pytest.mark.parametrize("attack", ATTACKS)
def test_everything_may_have_been_made_in_inference_mode(attack):
    expected = ATTACKS[attack](tiny().float(), images().float(), labels(classes=4))
    with torch.inference_mode():
        model, x, y = tiny().float(), images().float(), labels(classes=4)
    assert torch.equal(ATTACKS[attack](model, x, y).x, expected.x) and all(p.is_inference() and p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore::confnb.objectives.NoGradient")
@pytest.mark.parametrize("attack, name", turns(ATTACKS, list(IN_PLACE), 3))
def test_a_model_that_changes_its_input_changes_no_point(attack, name):
    model, x, y = Changed(IN_PLACE[name]), images().float(), labels(classes=4)
    kept = x.clone()
    assert sound(attack, ATTACKS[attack](model, x, y), model, x) and torch.equal(kept, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_take_models_of_low_precision(attack, dtype):
    model, x, y = tiny().to(dtype), images().float(), labels(classes=4)
    found = ATTACKS[attack](model, x, y)
    assert sound(attack, found, model, x) and found.x.dtype == found.logits.dtype == torch.float32
    best = ATTACKS[attack](tiny().float(), x, y)
    assert "cw" in attack or "noise" in attack or torch.corrcoef(torch.stack([found.wrong_confidence, best.wrong_confidence]))[0, 1] > 0.5


@pytest.mark.parametrize("attack", [name for name in ATTACKS if "targeted" in name or "downwards" in name])
def test_a_label_beyond_the_classes_is_refused_before_a_targeted_attack(attack):
    model, y = Changed(), labels(classes=4)
    y[3] = 4
    with pytest.raises(ValueError, match="labels must be class indices 0..3, but these run from"):
        ATTACKS[attack](model, images().float(), y)
    assert len(model.sizes) <= 2


# Restarts and radii

def test_restarts_of_confident_linf_begin_at_random_points_after_the_first(digits, small_model):
    x, y = digits.x_test[:40], digits.y_test[:40]
    one, many = (confident_linf(small_model, x, y, 0.05, 0.999, steps=5, step_size=0.1, restarts=n) for n in (1, 4))
    assert (many.value >= one.value).all() and (many.value > one.value + 1e-3).sum() > 3
    others = confident_linf(small_model, x, y, 0.05, 0.999, steps=5, step_size=0.1, restarts=4, start="random")
    assert not torch.equal(others.x, many.x)


def test_the_last_points_of_many_runs_are_never_weaker_than_those_of_one(problem):
    model, x, y = problem
    one, many = (pgd(model, x, y, Linf(0.1), 5, restarts=n, keep="last") for n in (1, 6))
    assert (many.value >= one.value).all() and (many.value > one.value).any() and (many.passes == 30).all()


def test_bim_takes_steps_of_whole_values_in_a_set_that_counts_them():
    model, x, y = tiny(), images(), labels(classes=4)
    for eps, steps in ((25, 2), (3, 1), (torch.tensor([1, 5, 9, 12, 20, 25]), 2)):
        assert L0(eps).contains(bim(model, x, y, L0(eps), steps).x, x).all()


@pytest.mark.parametrize("eps", [0.2, np.float32(0.2), torch.tensor(0.2), torch.full((6,), 0.2)])
def test_a_number_is_a_radius_of_noise_too(eps):
    model, x, y = tiny(), images(), labels(classes=4)
    assert torch.allclose(uniform_noise(model, x, y, eps, 3).x, uniform_noise(model, x, y, Linf(0.2), 3).x, atol=1e-7)
    assert torch.allclose(pgd(model, x, y, eps, 3).x, pgd(model, x, y, Linf(0.2), 3).x, atol=1e-6)


@pytest.mark.parametrize("value", [np.int64(3), np.int32(3), torch.tensor(3)])
@pytest.mark.parametrize("attack", ["bim", "pgd", "apgd", "cw_linf", "jsma", "ddn", "cw_l2_fast", "cw_l2"])
def test_whole_numbers_of_every_kind_are_counts_seeds_and_targets(attack, value):
    run = TARGETED[attack]
    y = torch.zeros(6, dtype=torch.int64)
    more = lambda v: {"steps": v, "target": v, "batch_size": v} | ({"seed": v, "restarts": v} if attack in ("pgd", "apgd", "cw_linf") else {}) | (  # noqa: E731
        {"rounds": v} if attack == "cw_l2" else {"polish": v} if attack == "cw_l2_fast" else {})
    assert torch.equal(run(tiny(), images(), y, **more(value)).x, run(tiny(), images(), y, **more(3)).x)


@pytest.mark.parametrize("offsets", [None, 1j])
def test_an_offset_that_is_no_number_is_refused(offsets):
    with pytest.raises(ValueError, match="offsets are one or more numbers"):
        constant_offset(tiny(), torch.rand(2, 1, 5, 5), torch.zeros(2, dtype=torch.int64), offsets)
