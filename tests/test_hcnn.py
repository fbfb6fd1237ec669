"""Closed forms and independent solvers for the searches; the shell's contract; the adaptive gradients against what they claim to be."""

import itertools
import math
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import nn
from toys import images, linear, softmax

from confnb.attacks import pgd
from confnb.ensembles import Ensemble
from confnb.found import Found
from confnb.keys import fingerprint
from confnb.models import WithGradientOf
from confnb.neighbours import (
    _HighlyConfident,
    _NegativeEntropy,
    best_label,
    each_label,
    hcnn,
    image_distance,
    least_entropy,
    mcn,
    ncn,
)
from confnb.objectives import LogConfidence, LogOdds, Margin, NoGradient
from confnb.runtime import generator, predict
from confnb.search import maximize
from confnb.selective import ABSTAIN, reject, rejection_table
from confnb.sets import L0, L2, Linf
from confnb.shells import Unrolled
from confnb.tables import evaluate
from confnb.topics.shells import (
    DanskinShell,
    NoGuarantee,
    Radii,
    Shell,
    StraightThrough,
    check_shell_guarantee,
    overshoot_start,
    places,
    shell_start,
    surrogate_attack,
    transfer_attack,
)


def log_odds(logits):
    "Those of every class, (N, K)"
    return torch.stack([LogOdds(j)(logits) for j in range(logits.shape[1])], 1)


def smooth(classes=4, side=3, seed=0, dtype=torch.float32):
    "A small network whose second derivatives exist"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 12), nn.Tanh(), nn.Linear(12, classes)).to(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# MCN, HCNN and NCN against closed forms and convex solvers


def most_confident(W, b, x, xi):
    "The highest probability of any class of softmax(W z + b) in the L-inf ball and the pixel box: one convex problem per class"
    def loss(z, c):
        logits = W @ z + b
        return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[c], softmax(logits) @ W - W[c]

    bounds = list(zip(np.maximum(x - xi, 0), np.minimum(x + xi, 1), strict=True))
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    return max(math.exp(-optimize.minimize(loss, x, (c,), jac=True, bounds=bounds, method="L-BFGS-B", options=options).fun) for c in range(len(b)))


@settings(deadline=None, max_examples=15, derandomize=True)
@given(classes=st.integers(2, 6), xi=st.floats(0.01, 0.5), scale=st.floats(0.2, 3), seed=st.integers(0, 999))
def test_mcn_reaches_the_optimum_of_linear_models(classes, xi, scale, seed):
    model, W, b = linear(classes, scale=scale, seed=seed)
    x = images(3, seed=seed)
    found = mcn(model, x, xi, steps=40, decay=1e-3)
    assert Linf(xi).contains(found.x, x).all()
    solved = [most_confident(W, b, z, xi) for z in x.double().numpy().reshape(3, -1)]
    np.testing.assert_allclose(found.value, solved, atol=1e-3)
    torch.testing.assert_close(found.value, predict(model, found.x).softmax(1).amax(1))
    assert (found.passes == 40 * classes).all()


def test_mcn_of_a_binary_linear_model_is_the_corner_on_the_surer_side():
    model, W, b = linear(2, seed=3)
    x, xi = images(20, seed=1), 0.07
    w = torch.from_numpy(W[1] - W[0]).float().reshape(3, 3)
    ends = [(x + s * xi * w.sign()).clamp(0, 1) for s in (1, -1)]
    odds = [(z.flatten(1) @ w.flatten() + float(b[1] - b[0])).abs() for z in ends]
    expected = torch.where((odds[0] > odds[1]).reshape(-1, 1, 1, 1), *ends)
    torch.testing.assert_close(mcn(model, x, xi).x, expected)


def test_mcn_in_an_l2_ball_goes_along_the_weights():
    model, W, b = linear(2, seed=3)
    x = 0.45 + 0.1 * images(8)
    w = torch.from_numpy(W[1] - W[0]).float()
    side = (x.flatten(1) @ w + float(b[1] - b[0])).sign()
    expected = x + 0.2 * (side[:, None] * w / w.norm()).reshape(x.shape)
    torch.testing.assert_close(mcn(model, x, L2(0.2), steps=30).x, expected, atol=2e-3, rtol=0)


def test_a_sure_model_does_not_decide_by_rounding():
    "Both classes can be made certain to the last digit of a float32; the surer one must win, not the first"
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-400.0], [400.0]]))
        model[1].bias.zero_()
    model.append(nn.Identity())
    x = torch.full((1, 1, 1, 1), 0.5)
    shifted = nn.Sequential(Shift(-0.45), model)
    found = each_label(shifted, x, 0.2)
    assert found.logits.softmax(1).amax(1).tolist() == [1.0, 1.0]
    assert best_label(found).logits.argmax(1).item() == 1


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


@pytest.mark.parametrize("xi", [0.0, 1e-7])
def test_a_search_without_room_is_the_model_itself(small_model, digits, xi):
    x = digits.x_test[:12]
    torch.testing.assert_close(predict(Shell(small_model, partial(mcn, xi=xi)), x), predict(small_model, x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(least_entropy(small_model, x, xi).x, x, atol=1e-6, rtol=0)
    if xi == 0:
        assert (mcn(small_model, x, xi).passes == 0).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_hcnn_objective_and_lambda_zero(norm):
    model, x = smooth(), images(5, seed=2)
    found = hcnn(model, x, 0.3, 0.2, norm=norm)
    by_hand = predict(model, found.x).softmax(1).amax(1).numpy() - 0.2 * np.linalg.norm((found.x - x).flatten(1).numpy(), ord=norm, axis=1)
    np.testing.assert_allclose(found.value, by_hand, atol=1e-6)
    assert (found.value >= predict(model, x).softmax(1).amax(1) - 1e-6).all()  # x itself is among the candidates
    same = hcnn(model, x, 0.3, 0.0, norm=norm)
    torch.testing.assert_close(same.x, mcn(model, x, 0.3).x, atol=0, rtol=0)
    assert (image_distance(found.x, x) <= image_distance(same.x, x) + 1e-6).all()
    assert (hcnn(model, x, 0.3, 1000.0, norm=norm).x == x).all()


@pytest.mark.parametrize("lam", [0.05, 0.2])
def test_hcnn_agrees_with_a_solver_on_two_pixels(lam):
    "Brute force over a fine grid of the ball"
    model, x, xi = smooth(3, 1, seed=1), torch.tensor([0.4, 0.5, 0.7]).reshape(3, 1, 1, 1), 0.3
    for i, z in enumerate(x):
        grid = torch.linspace(max(float(z) - xi, 0), min(float(z) + xi, 1), 4001).reshape(-1, 1, 1, 1)
        best = (predict(model, grid, 4001).softmax(1).amax(1) - lam * (grid - z).abs().flatten()).max()
        assert hcnn(model, x[i : i + 1], xi, lam, steps=60, decay=1e-3).value.item() == pytest.approx(best.item(), abs=2e-3)


@settings(deadline=None, max_examples=6, derandomize=True)
@given(p=st.floats(0.6, 0.9), seed=st.integers(0, 99))
def test_ncn_distance_of_a_binary_linear_model_has_a_formula(p, seed):
    model, W, b = linear(2, scale=1.5, seed=seed)
    x = 0.45 + 0.1 * images(4, seed=seed)
    w = W[1] - W[0]
    odds = x.double().numpy().reshape(4, -1) @ w + b[1] - b[0]
    formula = np.maximum(math.log(p / (1 - p)) - np.abs(odds), 0) / np.linalg.norm(w)
    direction = w / np.linalg.norm(w)
    inside = [((z := xi + np.sign(o) * d * direction) >= 0).all() and (z <= 1).all() for xi, o, d in zip(x.double().numpy().reshape(4, -1), odds, formula, strict=True)]
    found = ncn(model, x, p, steps=100)
    for ok, value, d, sure in zip(inside, found.value, formula, found.logits.softmax(1).amax(1), strict=True):
        if ok:
            assert sure >= p - 1e-6 and d - 1e-3 <= -value.item() <= d + 0.03
    assert sum(inside) > 0 or formula.max() > 0.1


def test_ncn_reports_what_is_infeasible():
    model, x = linear(3, scale=0.1)[0], images(4)
    far = ncn(model, x, 0.999, xi=0.05)
    assert (far.value == -torch.inf).all() and (far.x == x).all() and torch.isfinite(far.logits).all()
    near = ncn(model, x, 0.34, xi=0.05)
    assert (near.value == 0).all() and (near.x == x).all()  # already sure enough


def test_distance_has_no_gradient_at_home():
    for norm in (1, 2, math.inf):
        z = images(2).requires_grad_()
        image_distance(z, z.detach(), norm).sum().backward()
        assert (z.grad == 0).all()


# ---------------------------------------------------------------------------------------------------------------------
# Objectives against numpy


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 8), st.integers(0, 999), st.sampled_from([0.5, 1.0, 2.0, 7.0, math.inf]))
def test_entropies_against_numpy(classes, seed, alpha):
    logits = 3 * torch.randn(5, classes, generator=generator(seed), dtype=torch.float64)
    p = softmax(logits.numpy())
    by_hand = stats.entropy(p.T) if alpha == 1 else -np.log(p.max(1)) if alpha == math.inf else np.log((p**alpha).sum(1)) / (1 - alpha)
    np.testing.assert_allclose(-_NegativeEntropy(alpha)(logits), by_hand, atol=1e-9)
    if 1 < alpha < math.inf:
        papers = alpha / (1 - alpha) * np.log((p**alpha).sum(1) ** (1 / alpha))
        np.testing.assert_allclose(-_NegativeEntropy(alpha)(logits), papers, atol=1e-9)


def test_renyi_tends_to_shannon_and_to_the_confidence():
    logits = torch.randn(6, 5, generator=generator(0), dtype=torch.float64)
    for step in (1e-4, -1e-4):
        torch.testing.assert_close(_NegativeEntropy(1 + step)(logits), _NegativeEntropy()(logits), atol=1e-3, rtol=0)
    torch.testing.assert_close(_NegativeEntropy(1e4)(logits), logits.softmax(1).amax(1).log(), atol=1e-3, rtol=1e-3)


def test_log_odds_against_numpy_and_without_saturation():
    logits = 2 * torch.randn(7, 4, generator=generator(1), dtype=torch.float64)
    p = softmax(logits.numpy())
    np.testing.assert_allclose(log_odds(logits), np.log(p / (1 - p)), atol=1e-9)
    assert log_odds(torch.tensor([[80.0, 0.0], [90.0, 0.0]])).tolist() == [[80, -80], [90, -90]]


def test_least_entropy_does_not_rise(small_model, digits):
    x = digits.x_test[:16]
    for alpha in (1.0, 2.0, math.inf):
        found = least_entropy(small_model, x, 0.1, alpha)
        assert (found.value >= _NegativeEntropy(alpha)(predict(small_model, x)) - 1e-5).all()
        assert (found.passes == 10).all() and Linf(0.1).contains(found.x, x).all()


# ---------------------------------------------------------------------------------------------------------------------
# The shell


def test_a_shell_is_a_model_like_any_other(small_model, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    small_model.train()
    small_model[1].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in small_model.state_dict().items()}
    shell = Shell(small_model, partial(mcn, xi=0.1, steps=4))
    table = evaluate(shell, x, y, {"pgd": partial(transfer_attack, attack=partial(pgd, ball=Linf(0.1), steps=3))})
    assert small_model.training and not small_model[1].weight.requires_grad and small_model[4].weight.requires_grad
    small_model.eval()
    small_model[1].weight.requires_grad_(True)
    assert all(torch.equal(v, before[k]) for k, v in small_model.state_dict().items())
    point = shell.point(x)
    assert Linf(0.1).contains(point, x).all() and not point.requires_grad
    clean = table[table.attack == "clean"]
    np.testing.assert_allclose(clean.confidence, predict(small_model, point).softmax(1).amax(1), atol=1e-5)
    with torch.no_grad():
        first = shell(x)
    with torch.inference_mode():
        assert torch.equal(first, shell(x))
    torch.testing.assert_close(predict(shell, x, 7), first, atol=1e-4, rtol=1e-4)
    assert set(shell.state_dict()) == {f"model.{k}" for k in small_model.state_dict()}


def test_shells_with_other_searches_are_other_models(small_model):
    prints = [fingerprint(Shell(small_model, s)) for s in (partial(mcn, xi=0.1), partial(mcn, xi=0.2), partial(least_entropy, xi=0.1), partial(mcn, xi=0.1))]
    assert prints[0] == prints[3] and len(set(prints)) == 3
    assert "0x" not in repr(Shell(small_model, partial(mcn, xi=0.1)))


def test_the_shell_has_no_gradient_and_the_search_says_so(small_model, digits):
    with pytest.warns(NoGradient):
        maximize(Shell(small_model, partial(mcn, xi=0.1, steps=2)), Margin(digits.y_test[:4]), digits.x_test[:4], Linf(0.1), steps=2)


def test_random_starts_follow_their_seed(small_model, digits):
    x = digits.x_test[:5]
    one, same, other = (mcn(small_model, x, 0.1, steps=1, start="random", seed=s).x for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    torch.testing.assert_close(mcn(small_model, x, 0.1, batch_size=7).x, mcn(small_model, x, 0.1).x, atol=1e-3, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Rejection and the places of the right class


def test_rejection_by_hand():
    clean = pd.DataFrame({"index": [0, 1, 2, 3], "label": 1, "prediction": [1, 1, 1, 0], "confidence": [0.99, 0.9, 0.5, 1.0]})
    attacks = pd.DataFrame({"index": [0, 1, 2, 3] * 2, "attack": ["a"] * 4 + ["b"] * 4, "label": 1,
                            "prediction": [0, 1, 2, 0, 1, 2, 0, 0], "confidence": [0.9, 0.99, 0.6, 1.0, 0.99, 0.3, 0.7, 1.0]})
    table = rejection_table(clean, attacks, p=(0.0, 0.65, 0.9, 0.91))
    assert table.points.tolist() == [3] * 4 and table.AWPR.tolist() == [1.0] * 4
    assert table["AWPR rejected"].tolist() == [1.0, 2 / 3, 0.0, 0.0] and table.recall.tolist() == [1.0, 2 / 3, 1 / 3, 1 / 3]
    exact = stats.binomtest(2, 3).proportion_ci(0.95, "exact")
    assert table.low[1] == pytest.approx(exact.low) and table.high[1] == pytest.approx(exact.high)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 12), seed=st.integers(0, 999), p=st.floats(0, 1))
def test_rejection_against_a_loop(n, seed, p):
    rng = np.random.default_rng(seed)
    def table(): return pd.DataFrame({"index": range(n), "label": 0, "prediction": rng.integers(0, 2, n), "confidence": rng.random(n).round(1)})
    clean, a, b = table(), table(), table()
    clean.loc[0, "prediction"] = 0
    row = rejection_table(clean, pd.concat([a, b]), p=[p]).iloc[0]
    natural = [i for i in range(n) if clean.prediction[i] == 0]
    lost = [any(t.prediction[i] == 1 and t.confidence[i] > p for t in (a, b)) for i in natural]
    assert row["AWPR rejected"] == pytest.approx(np.mean(lost)) and row.recall == pytest.approx(np.mean([clean.confidence[i] > p for i in natural]))
    assert row.AWPR == pytest.approx(np.mean([a.prediction[i] == 1 or b.prediction[i] == 1 for i in natural]))


def test_reject_abstains_at_and_below_p():
    logits = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]).log()
    assert reject(logits, 0.0).tolist()[:2] == [0, 1] and reject(logits, 0.75).tolist() == [-1, 1, -1] and reject(logits[1:2], logits[1:2].softmax(1).max().item()).item() == ABSTAIN


def test_places_by_hand():
    def rows(*answers):
        "Three rows of three classes, each answering with the given confidence"
        p = torch.full((3, 3), 0.0)
        for i, (answer, c) in enumerate(answers):
            p[i] = (1 - c) / 2
            p[i, answer] = c
        return p.log()

    logits = torch.cat([rows((0, 0.9), (1, 0.8), (2, 0.7)), rows((0, 0.7), (1, 0.9), (2, 0.8)), rows((0, 0.9), (0, 0.8), (1, 0.7)), rows((1, 0.6), (1, 0.8), (2, 0.7))])
    found = Found(torch.zeros(12, 1, 1, 1), torch.zeros(12), logits, torch.zeros(12, dtype=torch.int64))
    assert places(found, torch.tensor([0, 2, 1, 0])) == ["first", "second", "other", "missing"]


# ---------------------------------------------------------------------------------------------------------------------
# Proposition 3


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), p=st.floats(0.35, 0.95), eta=st.integers(0, 3), xi=st.integers(0, 3), classes=st.integers(2, 4))
def test_proposition_3_by_brute_force_on_a_line(seed, p, eta, xi, classes):
    "Exact maxima over integer neighbourhoods: the statement itself, for every x"
    F = softmax(np.random.default_rng(seed).normal(scale=2.5, size=(30, classes)))
    delta = eta + xi
    for x, y in itertools.product(range(delta, 30 - delta), range(classes)):
        near = F[x - delta : x + delta + 1]
        good = np.delete(near, y, 1).max() < p
        shells = [F[z - xi + F[z - xi : z + xi + 1].max(1).argmax()] for z in range(x - eta, x + eta + 1)]
        reachable = all(F[z - xi : z + xi + 1, y].max() >= p for z in range(x - eta, x + eta + 1))
        if good and reachable:
            assert all(s[y] >= p and s.argmax() == y and np.delete(s, y).max() <= 1 - p + 1e-12 for s in shells)


@pytest.mark.parametrize("p", [0.4, 0.6, 0.8])
def test_proposition_3_on_a_network(small_model, digits, p):
    x, y = digits.x_test[:60], digits.y_test[:60]
    z = maximize(small_model, Margin(y), x, Linf(0.02), steps=5).x
    table = check_shell_guarantee(small_model, x, y, z, Radii(0.02, 0.02, 0.04), p)
    assert table.conclusion[table.premise].all() and table.premise.any()
    assert (table.premise == (table.good & table.reachable)).all()
    shell = predict(Shell(small_model, partial(mcn, xi=0.02)), z).softmax(1)
    np.testing.assert_array_equal(table.prediction, shell.argmax(1))
    np.testing.assert_array_equal(table.conclusion, shell[torch.arange(60), y] >= p)


# ---------------------------------------------------------------------------------------------------------------------
# The adaptive gradients


def gradient(module, x, pick):
    z = x.clone().requires_grad_()
    pick(module(z)).sum().backward()
    return z.grad


def test_bpda_is_the_base_gradient_at_the_shells_point():
    model, x, y = smooth(), images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    shell = Shell(model, partial(mcn, xi=0.1))
    module = StraightThrough(shell)
    torch.testing.assert_close(module(x), shell(x))
    torch.testing.assert_close(gradient(module, x, Margin(y)), gradient(model, shell.point(x), Margin(y)))


def test_the_envelope_is_what_the_shell_compares_with_danskins_gradient():
    "Against central differences of the searched maximum, in float64, inside the pixel box"
    model, x = smooth(3, 2, seed=4, dtype=torch.float64), 0.4 + 0.2 * images(3, 2, dtype=torch.float64)
    search = partial(each_label, xi=0.05, steps=60, decay=1e-6)
    module = DanskinShell(model, search)
    torch.testing.assert_close(module(x).amax(1), log_odds(Shell(model, partial(mcn, xi=0.05, steps=60, decay=1e-6))(x)).amax(1))
    for label in range(3):
        ours, h = gradient(module, x, lambda out, c=label: out[:, c]), 1e-3
        for i in range(4):
            step = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor([i]), h).reshape(1, 1, 2, 2)
            slope = (module(x + step)[:, label] - module(x - step)[:, label]) / (2 * h)
            torch.testing.assert_close(ours.flatten(1)[:, i], slope, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_unrolled_gradient_against_finite_differences(steps):
    model, x = smooth(3, 2, seed=2, dtype=torch.float64), 0.4 + 0.2 * images(2, 2, dtype=torch.float64)
    module = Unrolled(model, 0.1, steps)
    assert torch.autograd.gradcheck(module, x.clone().requires_grad_(), eps=1e-6, atol=1e-5)
    through_start_only = gradient(lambda z: log_odds(model(z)), x, lambda out: out[:, 0])
    assert (gradient(module, x, lambda out: out[:, 0]) - through_start_only).abs().max() > 1e-4
    with torch.no_grad():
        assert not module(x.clone().requires_grad_()).requires_grad  # no graph of the search is kept
        torch.testing.assert_close(module(x), module(x.clone().requires_grad_()).detach())
    torch.testing.assert_close(module(x), predict(module, x))
    assert module(x).requires_grad and not predict(module, x).requires_grad
    assert (module(x).amax(1) >= log_odds(model(x)).amax(1)).all()  # it climbs


def test_guided_and_averaged():
    model, other, x = smooth(seed=0), smooth(seed=1), images(4)
    mixed = WithGradientOf(model, other)
    torch.testing.assert_close(mixed(x), model(x))
    torch.testing.assert_close(gradient(mixed, x, lambda out: out[:, 1]), gradient(other, x, lambda out: out[:, 1]))
    mean = Ensemble([model, other], of="logits")
    torch.testing.assert_close(mean(x), (model(x) + other(x)) / 2)


def test_aimed_puts_the_mistake_within_the_shells_reach(small_model, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    shell = Shell(small_model, partial(mcn, xi=0.08))
    z = overshoot_start(shell, x, y, Linf(0.05), 0.08)
    assert Linf(0.05).contains(z, x).all()
    reached = LogConfidence(y)(predict(shell, z)).exp().mean()
    assert reached < LogConfidence(y)(predict(shell, x)).exp().mean() - 0.1
    start = shell_start(shell, x, y, Linf(0.05), partial(each_label, xi=0.08))
    assert Linf(0.05).contains(start, x).all() and not torch.equal(start, x)


@pytest.mark.parametrize("kind", ["straight", "envelope", "unrolled", "averaged"])
def test_attacks_on_the_shell_stay_in_the_ball_and_say_what_the_shell_says(small_model, digits, kind):
    x, y = digits.x_test[:16], digits.y_test[:16]
    labels = partial(each_label, xi=0.05, steps=3)
    shell, envelope = Shell(small_model, partial(mcn, xi=0.05, steps=3)), DanskinShell(small_model, labels)
    guide = {"straight": StraightThrough(shell), "envelope": envelope, "unrolled": WithGradientOf(envelope, Unrolled(small_model, 0.05)),
             "averaged": WithGradientOf(envelope, Ensemble([DanskinShell(small_model, partial(labels, start="random", seed=s)) for s in range(2)], of="logits"))}[kind]
    found = surrogate_attack(shell, x, y, Linf(0.08), guide, steps=4, start=partial(shell_start, search=labels) if kind == "envelope" else None)
    assert Linf(0.08).contains(found.x, x).all() and found.x.shape == x.shape
    torch.testing.assert_close(found.logits, predict(shell, found.x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.value, Margin(y)(found.logits))
    clean = predict(shell, x).argmax(1) == y
    assert (found.logits.argmax(1) == y).sum() <= clean.sum()
    assert all(p.requires_grad for p in small_model.parameters())


def test_a_number_is_an_l_inf_radius(small_model, digits):
    x, y = digits.x_test[:4], digits.y_test[:4]
    shell = Shell(small_model, partial(mcn, xi=0.05, steps=2))
    by_number, by_set = (surrogate_attack(shell, x, y, ball, StraightThrough(shell), steps=2) for ball in (0.05, Linf(0.05)))
    assert torch.equal(by_number.x, by_set.x)


def test_a_search_may_change_as_many_values_as_its_set_allows(small_model, digits):
    x = digits.x_test[:3]
    found = mcn(small_model, x, L0(20), steps=5)
    assert L0(20).contains(found.x, x).all() and (found.value >= predict(small_model, x).softmax(1).amax(1) - 1e-6).all()


def test_attacking_the_shell_beats_transfer(small_model, digits):
    "A weak but real statement: on this undefended network the envelope finds at least as many mistakes as the transferred attack"
    x, y = digits.x_test[:40], digits.y_test[:40]
    shell, ball = Shell(small_model, partial(mcn, xi=0.03)), Linf(0.03)
    own = surrogate_attack(shell, x, y, ball, DanskinShell(small_model, partial(each_label, xi=0.03)), steps=8)
    other = transfer_attack(shell, x, y, partial(pgd, ball=ball, steps=8))
    wrong = [(predict(shell, f.x).argmax(1) != y).sum().item() for f in (own, other)]
    assert wrong[0] >= wrong[1] and wrong[0] > (predict(shell, x).argmax(1) != y).sum().item()


# ---------------------------------------------------------------------------------------------------------------------
# Radii and bad input


def test_radii_warn_where_nothing_is_promised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Radii(0.1, 0.2, 0.1 + 0.2).covered and Radii(0, 0, 0).covered
    with pytest.warns(NoGuarantee, match="take xi <= 0.2"):
        assert not Radii(0.1, 0.3, 0.3).covered


MODEL, X = linear(3)[0], images()
CLEAN = pd.DataFrame({"index": [0], "label": 0, "prediction": 0, "confidence": 0.5})
BAD = {
    "xi below 0": (lambda: mcn(MODEL, X, -0.1), "xi is the radius"),
    "xi of bytes": (lambda: mcn(MODEL, X, 8.0), "0..255"),
    "xi nan": (lambda: mcn(MODEL, X, math.nan), "xi is the radius"),
    "xi for each image": (lambda: mcn(MODEL, X, torch.full((6,), 0.1)), "xi is the radius"),
    "norm nan": (lambda: hcnn(MODEL, X, 0.1, 0.1, norm=math.nan), "norm is the order of a norm, at least 1"),
    "norm nan of ncn": (lambda: ncn(MODEL, X, 0.9, norm=math.nan), "norm is the order of a norm, at least 1"),
    "weights nan": (lambda: ncn(MODEL, X, 0.9, weights=[math.nan]), "ascend"),
    "xi of words": (lambda: mcn(MODEL, X, "0.1"), "xi is the radius"),
    "no xi": (lambda: mcn(MODEL, X, None), "xi is the radius"),
    "no steps": (lambda: mcn(MODEL, X, 0.1, steps=0), "steps must be a whole number of at least 1, not 0"),
    "half a step": (lambda: mcn(MODEL, X, 0.1, steps=2.5), "steps must be a whole number of at least 1, not 2.5"),
    "half a step of ncn": (lambda: ncn(MODEL, X, 0.9, steps=2.5), "steps must be a whole number"),
    "no number of steps": (lambda: least_entropy(MODEL, X, 0.1, steps=None), "steps must be a whole number"),
    "no lambda": (lambda: hcnn(MODEL, X, 0.1, None), "lambda, .* must be at least 0, not None"),
    "lambda below 0": (lambda: hcnn(MODEL, X, 0.1, -1.0), "lambda, .* must be at least 0"),
    "one image without its batch": (lambda: mcn(MODEL, X[0], 0.1), "shape"),
    "pixels of bytes": (lambda: mcn(MODEL, 255 * X, 0.1), "divide by 255"),
    "an eps for other images": (lambda: mcn(MODEL, X, Linf(torch.tensor([0.1, 0.2]))), "2 values for 6 images"),
    "p of ncn": (lambda: ncn(MODEL, X, 1.0), "in \\(0, 1\\)"),
    "ncn without room": (lambda: ncn(MODEL, X, 0.9, xi=0.0), "positive radius"),
    "weights that fall": (lambda: ncn(MODEL, X, 0.9, weights=(2.0, 1.0)), "ascend"),
    "weights of words": (lambda: ncn(MODEL, X, 0.9, weights="a"), "ascend"),
    "one weight": (lambda: ncn(MODEL, X, 0.9, weights=2.5), "ascend"),
    "no alpha": (lambda: _NegativeEntropy(None), "positive, not None"),
    "alpha 0": (lambda: _NegativeEntropy(0.0), "positive"),
    "entropy without steps": (lambda: least_entropy(MODEL, X, 0.1, steps=0), "steps"),
    "radius below 0": (lambda: Radii(-0.1, 0.1, 0.3), "at least 0"),
    "unrolling nothing": (lambda: Unrolled(MODEL, 0.1, 0), "a whole number of steps, at least 1"),
    "unrolling halves": (lambda: Unrolled(MODEL, 0.1, 1.5), "a whole number of steps, at least 1"),
    "radii of words": (lambda: Radii("0.1", 0.1, 0.3), "at least 0"),
    "no p": (lambda: reject(torch.zeros(1, 2), None), "in \\[0, 1\\]"),
    "p of reject": (lambda: reject(torch.zeros(1, 2), 1.1), "in \\[0, 1\\]"),
    "p of the table": (lambda: rejection_table(CLEAN, CLEAN, p=[90]), "in \\[0, 1\\]"),
    "a column": (lambda: rejection_table(CLEAN.drop(columns="confidence"), CLEAN), "lacks the column confidence"),
    "nothing right": (lambda: rejection_table(CLEAN.assign(prediction=1), CLEAN), "of 1 the model is right on 0, .* never right has no natural points"),
    "not attacked": (lambda: rejection_table(CLEAN, CLEAN.assign(index=7)), "each of them attacked; of 1 the model is right on 1, of which 0 were attacked"),
    "points too far": (lambda: check_shell_guarantee(MODEL, X, torch.zeros(6).long(), (X + 0.2).clamp(0, 1), Radii(0.1, 0.1, 0.2), 0.5), "within eta"),
    "labels for others": (lambda: places(each_label(MODEL, X, 0.1), torch.zeros(2).long()), "one for each image"),
    "labels out of range": (lambda: surrogate_attack(MODEL, X, torch.full((6,), 9), Linf(0.1), MODEL), None),
    "a search that shrinks": (lambda: Shell(MODEL, lambda m, x: x[:, :, :2])(X), "points of shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_words(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("call, words", [
    (lambda: mcn(MODEL, X, 0.0, seed=math.nan), "seed must be a whole number"),
    (lambda: hcnn(MODEL, X, 0.1, 0.1, norm=None), "norm must be a number"),
    (lambda: ncn(MODEL, X, 0.9, norm="2"), "norm must be a number"),
])
def test_numbers_of_another_kind_are_refused_by_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_a_result_requires_no_gradient_where_the_images_do():
    found, same = (hcnn(MODEL, x, 0.1, 0.1, steps=1) for x in (X.clone().requires_grad_(), X))
    assert not found.value.requires_grad and torch.equal(found.value, same.value)


def test_a_shell_needs_a_model_and_a_search():
    for model, search in ((MODEL, 0.1), (lambda x: x, mcn)):
        with pytest.raises(TypeError, match="partial"):
            Shell(model, search)


def test_thresholds_may_be_an_array():
    assert rejection_table(CLEAN, CLEAN, p=np.array([0.4, 0.6])).recall.tolist() == [1, 0]


@pytest.mark.parametrize("wrong", [dict(clean=None), dict(adversarial=3), dict(p=0.9), dict(p="0.9"), dict(level=None)])
def test_a_rejection_table_needs_tables_and_thresholds(wrong):
    with pytest.raises(TypeError, match="a DataFrame|a sequence of thresholds"):
        rejection_table(**{"clean": CLEAN, "adversarial": CLEAN, **wrong})


def test_hcnn_objective_by_hand():
    logits, x = torch.tensor([[0.7, 0.3]]).log(), torch.zeros(1, 1, 1, 2)
    z = torch.tensor([[[[0.3, 0.4]]]])
    assert _HighlyConfident(0, x, 0.5)(logits, z).item() == pytest.approx(0.7 - 0.25)
    assert _HighlyConfident(1, x, 0.5, math.inf)(logits, z).item() == pytest.approx(0.3 - 0.2)
