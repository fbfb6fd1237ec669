"""The attacks that look for the nearest mistake, and the one that goes on until the model is sure."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import curved as tiny

from confnb.attacks import confident_linf, pgd
from confnb.nearest import CarliniWagner, _balance, _next_c, cw_hc, cw_l2, cw_l2_fast, ddn
from confnb.objectives import Margin, NoGradient, TargetMargin
from confnb.runtime import generator, predict
from confnb.sets import Linf

pytestmark = pytest.mark.slow


def linear(seed=0, classes=2, gain=1.0):
    "A linear model of 1 x 5 x 5 images, with its weights (K, 25) and biases (K,)"
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, classes)).double()
    for p in model.parameters():
        p.data = gain * torch.randn(p.shape, generator=generator(seed + p.ndim), dtype=torch.float64)
    return model, model[1].weight.data, model[1].bias.data


def images(n=6, seed=0):
    return torch.rand(n, 1, 5, 5, generator=generator(seed), dtype=torch.float64)


def grey(n=6, seed=0):
    "Images so far from the ends of the box that the nearest mistake lies inside"
    return 0.4 + 0.2 * images(n, seed)


def near_a_plane(seed, n, classes, gain=1.0):
    "A linear model whose planes pass between grey images, but for those within .05 of one, and its answers"
    model, w, b = linear(seed, classes, gain)
    b -= w @ torch.full((25,), 0.5, dtype=w.dtype)
    x = grey(10 * n, seed)
    y = predict(model, x).argmax(1)
    far = torch.stack([to_the_plane(model, x, y, (y + k) % classes) for k in range(1, classes)]).amin(0) > 0.05
    assert far.sum() >= n
    return model, x[far][:n], y[far][:n]


def distances(z, x):
    return (z - x).flatten(1).norm(dim=1)


def to_the_plane(model, x, y, target):
    "The distance from each x to the plane between y and target"
    w, z, rows = model[1].weight.data, predict(model, x), range(len(x))
    return (z[rows, y] - z[rows, target]) / (w[y] - w[target]).norm(dim=1)


def wrong_by(logits, y, target=None):
    "How far above all others a wrong class, or the target, is: in numpy"
    z, rows = logits.double().numpy(), np.arange(len(logits))
    own = z[rows, y if target is None else target]
    others = z.copy()
    others[rows, y if target is None else target] = -np.inf
    return others.max(1) - own if target is None else own - others.max(1)


ENOUGH = {
    "cw_l2": lambda *a, **k: cw_l2(*a, rounds=6, steps=200, step_size=0.02, **k),
    "ddn": lambda *a, **k: ddn(*a, steps=200, **k),
    "cw_l2_fast": cw_l2_fast,
}
SOME = [pytest.param(n, marks=[pytest.mark.soak] * (n == "cw_l2")) for n in ENOUGH]  # which takes long
QUICK = {
    "cw_l2": lambda *a, **k: cw_l2(*a, rounds=3, steps=30, step_size=0.1, **k),
    "cw_hc": lambda *a, **k: cw_hc(*a, kappa=0.5, rounds=3, steps=30, step_size=0.1, **k),
    "ddn": lambda *a, **k: ddn(*a, steps=30, **k),
    "cw_l2_fast": lambda *a, **k: cw_l2_fast(*a, steps=30, polish=10, **k),
}
CLOSE = {**QUICK, "ddn": ddn, "cw_l2_fast": cw_l2_fast}  # a large margin lies far from x, further than 30 steps of DDN go


# A linear model, where the nearest mistake is known

@pytest.mark.parametrize("attack", SOME)
@pytest.mark.parametrize("targeted", [False, True])
def test_the_distance_to_a_plane_of_two_classes(attack, targeted):
    for seed in range(2):
        model, x, y = near_a_plane(seed, 8, 2)
        found, exact = ENOUGH[attack](model, x, y, target=1 - y if targeted else None), to_the_plane(model, x, y, 1 - y)
        assert (0 < exact).all() and (distances(found.x, x) >= exact * (1 - 1e-6)).all()
        assert (distances(found.x, x) <= 1.01 * exact + 2e-4).all(), (distances(found.x, x) / exact).max()  # a margin of 1e-4 is asked for
        np.testing.assert_allclose(found.value, -(distances(found.x, x) ** 2), rtol=1e-6)


@pytest.mark.parametrize("attack", SOME)
def test_the_distance_to_the_nearest_of_many_planes(attack):
    "A descent may end at another plane than the nearest, but not often, and it ends at one"
    model, x, y = near_a_plane(5, 20, 3)
    planes, found = torch.stack([to_the_plane(model, x, y, (y + k) % 3) for k in (1, 2)]), distances(ENOUGH[attack](model, x, y).x, x)
    assert (found >= planes.amin(0) * (1 - 1e-6)).all() and (found <= 1.01 * planes.amax(0) + 2e-4).all()
    assert (found <= 1.01 * planes.amin(0) + 2e-4).float().mean() >= 0.8


def to_the_cone(model, x, target):
    "The distance from each x to where `target` leads all others, by cyclic projections onto the half spaces (Dykstra's algorithm)"
    w, b = (p.data.numpy() for p in model[1].parameters())
    found = []
    for start, t in zip(x.flatten(1).numpy(), target.tolist(), strict=True):
        planes = [(w[t] - w[j], b[t] - b[j]) for j in range(len(w)) if j != t]
        z, pulled = start.copy(), [np.zeros_like(start) for _ in planes]
        for _ in range(500):
            for i, (a, c) in enumerate(planes):
                before = z + pulled[i]
                z = before + max(0.0, -(a @ before + c)) / (a @ a) * a
                pulled[i] = before - z
        found.append(np.linalg.norm(z - start))
    return torch.as_tensor(np.array(found))


@pytest.mark.parametrize("attack", SOME)
def test_the_distance_to_a_target_among_three_classes(attack):
    model, x, y = near_a_plane(5, 12, 3)
    target = (y + 1) % 3
    exact = to_the_cone(model, x, target)
    assert (exact >= to_the_plane(model, x, y, target) * (1 - 1e-9)).all()
    found = ENOUGH[attack](model, x, y, target=target)
    assert (predict(model, found.x).argmax(1) == target).all()
    assert (distances(found.x, x) >= exact * (1 - 1e-6)).all()
    assert (distances(found.x, x) <= 1.01 * exact + 2e-4).all(), (distances(found.x, x) / exact).sort().values


@pytest.mark.parametrize("attack", ["ddn", "cw_l2_fast"])
@pytest.mark.parametrize("kappa", [0.5, 2.0])
def test_a_margin_moves_the_plane(attack, kappa):
    model, x, y = near_a_plane(1, 8, 2)
    w = model[1].weight.data
    exact = to_the_plane(model, x, y, 1 - y) + kappa / (w[0] - w[1]).norm()
    found = ENOUGH[attack](model, x, y, kappa=kappa)
    assert (distances(found.x, x) >= exact * (1 - 1e-6)).all() and (distances(found.x, x) <= 1.01 * exact + 2e-4).all()


@pytest.mark.parametrize("attack", ["ddn", "cw_l2_fast"])
@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_the_scale_of_the_logits_moves_no_plane(attack, gain):
    "A model with small or huge logits has the same mistakes; a success is one all the same"
    model, x, y = near_a_plane(2, 8, 2, gain)
    found, exact = ENOUGH[attack](model, x, y), to_the_plane(model, x, y, 1 - y)
    assert (found.value > -torch.inf).all() and (predict(model, found.x).argmax(1) != y).all()
    assert (distances(found.x, x) <= 1.05 * exact + 2e-4).all(), (distances(found.x, x) / exact).max()


@given(seed=st.integers(0, 999), eps=st.floats(0.02, 0.3))
@settings(max_examples=3)
def test_confident_linf_finds_the_worst_value_of_a_linear_model(seed, eps):
    model, x, y = near_a_plane(seed, 6, 2)
    w = model[1].weight.data
    log_p = lambda z: torch.log_softmax(predict(model, z), 1).gather(1, 1 - y[:, None])[:, 0]  # noqa: E731
    worst = log_p((x + eps * (w[1 - y] - w[y]).reshape(x.shape).sign()).clamp(0, 1))
    for target in None, 1 - y:
        found = confident_linf(model, x, y, eps, p=1.0, target=target)
        assert (found.value <= worst + 1e-9).all() and (worst - found.value <= 0.03 * (worst - log_p(x)) + 1e-9).all()


# The same as other libraries

@pytest.fixture(scope="module")
def problem(digits, small_model):
    model, x, y = copy.deepcopy(small_model).eval(), digits.x_test[:16], digits.y_test[:16]
    assert (predict(model, x).argmax(1) == y).all()
    return model, x, y


@pytest.fixture(scope="module", params=["untargeted", pytest.param("targeted", marks=pytest.mark.soak)])
def contest(request, problem):
    "What each of ours and of foolbox's finds: {name: distances, infinite where it is no mistake}"
    fb = pytest.importorskip("foolbox")
    model, x, y = problem
    target = None if request.param == "untargeted" else (y + 1) % 10
    aim = fb.criteria.Misclassification(y) if target is None else fb.criteria.TargetedMisclassification(target)
    peers = {"foolbox's C&W": fb.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=100, stepsize=0.1, initial_const=1),
             "foolbox's DDN": fb.attacks.DDNAttack(steps=100)}
    points = {name: peer.run(fb.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, aim) for name, peer in peers.items()}
    points |= {"cw_l2": cw_l2(model, x, y, target=target, rounds=6, steps=100, step_size=0.1).x, "ddn": ddn(model, x, y, 100, target=target).x,
               "cw_l2_fast": cw_l2_fast(model, x, y, target=target).x}
    right = {name: wrong_by(predict(model, z.clamp(0, 1)), y, target) > 0 for name, z in points.items()}
    return {name: np.where(right[name], distances(z, x), np.inf) for name, z in points.items()}


@pytest.mark.slow
def test_cw_l2_is_as_good_as_that_of_foolbox(contest):
    ours, theirs = contest["cw_l2"], contest["foolbox's C&W"]
    assert np.isfinite(ours).sum() >= np.isfinite(theirs).sum() >= 15
    assert np.median(ours) <= 1.01 * np.median(theirs), (np.median(ours), np.median(theirs))


@pytest.mark.parametrize("attack", ["ddn", "cw_l2_fast"])
def test_the_cheap_attacks_always_succeed_and_come_as_near(contest, attack):
    assert np.isfinite(contest[attack]).all()
    assert np.median(contest[attack]) <= 1.02 * np.median(contest["cw_l2"])


def test_ddn_is_as_good_as_that_of_foolbox(contest):
    "By its own definition it climbs the margin and foolbox's the cross-entropy, so only one side of the 2 % must hold"
    assert np.isfinite(contest["ddn"]).sum() >= np.isfinite(contest["foolbox's DDN"]).sum()
    assert np.median(contest["ddn"]) <= 1.02 * np.median(contest["foolbox's DDN"])


@pytest.mark.parametrize("eps, steps", [pytest.param(0.1, 200, marks=pytest.mark.soak), (0.2, 100), pytest.param(0.3, 100, marks=pytest.mark.soak)])
def test_confident_linf_reaches_p_as_often_as_pgd(digits, small_model, eps, steps):
    x, y = digits.x_test[:100], digits.y_test[:100]
    sure = [(run(small_model, x, y, eps, steps=steps).wrong_confidence >= 0.9).sum() for run in (confident_linf, pgd)]
    assert sure[0] >= sure[1] > 0, sure


def test_the_fast_variant_is_cheap(problem):
    model, x, y = problem
    assert (cw_l2_fast(model, x, y, 80, 30).passes <= 111).all() and (ddn(model, x, y, 50).passes == 50).all()


# What a success and a failure are

@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", QUICK)
def test_a_success_is_a_mistake_when_it_is_run_again(attack, targeted):
    model, x, y = tiny().float(), images(40).float(), torch.arange(40) % 4
    target = (y + 1) % 4 if targeted else None
    found = QUICK[attack](model, x, y, target=target)
    kappa = 0.5 if attack == "cw_hc" else 0.0
    margin = wrong_by(predict(model, found.x, batch_size=3), y, target)
    good = (found.value > -torch.inf).numpy()
    assert good.mean() > 0.5 and (margin[good] > kappa).all()
    np.testing.assert_allclose(found.value[good], -(distances(found.x, x)[good] ** 2), rtol=1e-4, atol=1e-8)
    assert torch.equal(found.x[~good], x[~good]) and (wrong_by(predict(model, x), y, target)[~good] <= kappa + 1e-4).all()


@pytest.mark.parametrize("kappa", [0.0, pytest.param(1.0, marks=pytest.mark.soak), 10.0])
@pytest.mark.parametrize("attack", ["cw_l2", "ddn", "cw_l2_fast"])
def test_the_margin_is_reached_by_every_success(problem, attack, kappa):
    model, x, y = problem
    for target in None, (y + 3) % 10:
        found = CLOSE[attack](model, x, y, target=target, kappa=kappa)
        good = found.value > -torch.inf
        assert good.float().mean() > 0.9 and (wrong_by(predict(model, found.x), y, target)[good] > kappa).all()


def test_cw_hc_is_cw_l2_with_a_margin_of_ten(problem):
    model, x, y = problem
    few = {"rounds": 3, "steps": 30, "step_size": 0.1}
    assert torch.equal(cw_hc(model, x, y, **few).x, cw_l2(model, x, y, kappa=10.0, **few).x)


class Constant(nn.Module):
    "A model that nothing fools"

    def forward(self, x):
        return torch.tensor([3.0, 0.0, 0.0, 0.0]).to(x).expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("attack", QUICK)
def test_a_failure_gives_the_image_itself_and_says_so(attack):
    x, y = images(), torch.zeros(6, dtype=torch.int64)
    with pytest.warns(NoGradient, match="6 of 6"):
        found = QUICK[attack](Constant(), x, y)
    assert torch.equal(found.x, x) and (found.value == -torch.inf).all() and (found.passes > 0).all()
    assert torch.equal(found.logits, predict(Constant(), x))
    np.testing.assert_allclose(found.wrong_confidence, 1 / (3 + math.exp(3)), atol=1e-6)


@pytest.mark.parametrize("attack", QUICK)
def test_an_image_that_is_mistaken_already_stays_where_it_is(attack):
    model, x = tiny(), images(30)
    z = predict(model, x)
    y = z.argmin(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoGradient)
        found = QUICK[attack](model, x, y)
    sure = torch.as_tensor(wrong_by(z, y)) > 0.6
    assert sure.sum() > 10 and torch.equal(found.x[sure], x[sure]) and (found.value[sure] == 0).all()
    rounds = 3 if attack in ("cw_l2", "cw_hc") else 1 + (attack == "cw_l2_fast")
    assert (found.passes[sure] <= rounds + 1).all()


@pytest.mark.parametrize("attack", QUICK)
def test_some_mistaken_some_not(attack):
    "An example's result does not hang on who else is in the batch"
    model, x = tiny(), images(12)
    y = predict(model, x).argmax(1)
    y[::2] = (y[::2] + 1) % 4
    whole = QUICK[attack](model, x, y)
    for part in (slice(0, 1), slice(1, 2), slice(5, 9)):
        alone = QUICK[attack](model, x[part], y[part])
        assert torch.allclose(alone.x, whole.x[part], atol=1e-6) and torch.equal(alone.passes, whole.passes[part])


def test_confident_linf_stops_where_it_is_sure(problem):
    model, x, y = problem
    found = confident_linf(model, x, y, 0.3, p=0.7)
    p = torch.softmax(predict(model, found.x), 1).scatter(1, y[:, None], 0).amax(1)
    np.testing.assert_allclose(found.value.exp(), p, atol=1e-5)
    done = found.value >= math.log(0.7)
    assert done.any() and (found.passes[~done] == 200).all() and (found.passes[done] <= 200).all() and (found.passes < 200).any()
    aimed = confident_linf(model, x, y, 0.3, target=(y + 1) % 10)
    np.testing.assert_allclose(aimed.value.exp(), torch.softmax(aimed.logits, 1).gather(1, (y[:, None] + 1) % 10)[:, 0], atol=1e-5)
    assert Linf(0.3).contains(aimed.x, x).all()


# The parts

@given(seed=st.integers(0, 9999), c=st.floats(0.01, 100), kappa=st.floats(0, 5), targeted=st.booleans())
@settings(max_examples=30)
def test_the_objective_of_carlini_and_wagner(seed, c, kappa, targeted):
    model, x, z = tiny(seed % 7), images(4, seed), images(4, seed + 1).requires_grad_()
    y = labels = torch.arange(4)
    weight = torch.tensor([c, 2 * c, 0.0, 1.0], dtype=torch.float64)
    objective = CarliniWagner(x, TargetMargin(y) if targeted else Margin(y), weight, kappa)
    value = objective(model(z), z)
    wrong = wrong_by(model(z).detach(), None if targeted else labels, labels if targeted else None)
    by_hand = -((z - x).detach().numpy() ** 2).sum((1, 2, 3)) - weight.numpy() * np.maximum(kappa - wrong, 0)
    np.testing.assert_allclose(value.detach(), by_hand, atol=1e-9)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    direction, h = torch.randn(z.shape, generator=generator(seed), dtype=torch.float64), 1e-6
    at = lambda s: objective(model(z + s * h * direction), z + s * h * direction).detach()  # noqa: E731
    slope, (left, right) = (gradient * direction).flatten(1).sum(1), ((at(0) - at(-1)) / h, (at(1) - at(0)) / h)
    smooth = (left - right).abs() < 1e-2 * (1 + left.abs())  # not where a kink lies between
    np.testing.assert_allclose(slope[smooth], ((left + right) / 2)[smooth], rtol=1e-3, atol=1e-3)
    assert smooth.float().mean() >= 0.5


def search_for_c(c, tries):
    "The binary search of Carlini and Wagner, one example, in plain Python: every c that is tried"
    low, high, tried = 0.0, math.inf, []
    for success in tries:
        tried.append(c)
        if success:
            high = min(high, c)
        else:
            low = max(low, c)
        c = (low + high) / 2 if high < math.inf else c * 10
    return [*tried, c], low, high


@given(tries=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=6), first=st.floats(1e-3, 1e3))
@settings(max_examples=50)
def test_the_binary_search_for_c(tries, first):
    c, success = torch.full((len(tries),), first, dtype=torch.float64), torch.tensor(tries)
    low, high, tried = torch.zeros_like(c), torch.full_like(c, math.inf), [c]
    for column in success.T:
        c, low, high = _next_c(c, low, high, column)
        tried.append(c)
    for i, one in enumerate(tries):
        by_hand = search_for_c(first, one)
        np.testing.assert_allclose(torch.stack(tried)[:, i], by_hand[0])
        assert low[i] == pytest.approx(by_hand[1]) and high[i] == pytest.approx(by_hand[2])


def test_the_balance_on_a_linear_model():
    (model, w, _), x, z = linear(3, 3), images(5), images(5, 1)
    y = predict(model, z).argmax(1)
    second = predict(model, z).scatter(1, y[:, None], -torch.inf).argmax(1)
    by_hand = 2 * distances(z, x) / (w[second] - w[y]).norm(dim=1)  # the gradient of the margin is the difference of two rows
    for batch_size in (2, 256):
        np.testing.assert_allclose(_balance(model, x, z, Margin(y), batch_size), by_hand, rtol=1e-9)
    np.testing.assert_allclose(_balance(model, x, z, TargetMargin(y)), by_hand, rtol=1e-9)
    assert not _balance(model, x, x, Margin(y)).any()


def test_at_the_balance_the_two_forces_cancel():
    "On a line through the plane the objective with that c falls to neither side"
    model, x, y = near_a_plane(4, 5, 2)
    z = ENOUGH["ddn"](model, x, y, kappa=0.2).x.requires_grad_()
    c = _balance(model, x, z.detach(), Margin(y))
    (gradient,) = torch.autograd.grad(CarliniWagner(x, Margin(y), c, 100.0)(model(z), z).sum(), z)
    assert (gradient.flatten(1).norm(dim=1) < 0.1 * 2 * distances(z.detach(), x)).all()
