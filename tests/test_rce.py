"""K-density against scikit-learn and a double loop; the paper's lemma and theorems by optimisation; what the attacks on the detector owe."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity
from torch import nn

from confnb.architectures import preact_resnet
from confnb.detector_attacks import (
    OrthogonalSteps,
    ScoreOfMistake,
    WrongAndNormal,
    _NearestUndetected,
    _WhiteBox,
    _without_harm,
    cw_white_box,
    max_score,
    orthogonal_pgd,
    rank_by_confidence,
)
from confnb.detectors import (
    DensityGap,
    DensityScore,
    KDensity,
    confidence_score,
    non_me,
    non_me_score,
    typical_density,
    within_class_distance,
)
from confnb.keys import fingerprint
from confnb.losses import (
    LabelSmoothing,
    ReverseCrossEntropy,
    ReverseLogits,
    reverse_cross_entropy,
    smooth_labels,
)
from confnb.models import features, logits_and_features, outputs, seeded
from confnb.nearest import CarliniWagner, cw_l2
from confnb.objectives import Margin, Nearest, NoGradient
from confnb.runtime import generator, predict
from confnb.selective import ABSTAIN, answer_or_abstain, choose_threshold, predict_selectively, success_fail
from confnb.sets import Linf
from confnb.statistics import auc, bootstrap_frequencies, bootstrap_interval, weighted_auc, weighted_mean
from confnb.tables import evaluate
from confnb.topics.rce_kdensity import (
    ReverseLoss,
    confidence_at_the_border,
    negate_logits,
)
from confnb.training import Recipe, accuracy, fit

images = partial(toys.images, side=4)
cases = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 9999)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def network(classes=4, side=4, hidden=6, seed=0, dtype=torch.float32):
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(side * side, hidden), nn.Tanh(), nn.Linear(hidden, classes))
    with torch.no_grad():
        model[1].weight.mul_(3), model[3].weight.mul_(4)
    return model.to(dtype)


def setup(classes=4, seed=0, n=8, dtype=torch.float32):
    "A network, points that it gets right, and a density of its vectors of other points"
    model = network(classes, seed=seed, dtype=dtype)
    x = images(n, seed=seed).to(dtype)
    y = predict(model, x).argmax(1)
    known = images(400, seed=seed + 1).to(dtype)
    labels = predict(model, known).argmax(1)
    labels[:classes] = torch.arange(classes)
    vectors = features(model, known)
    density = KDensity(vectors[::2], labels[::2], 0.5) if set(labels[::2].tolist()) == set(range(classes)) else KDensity(vectors, labels, 0.5)
    return model, x, y, density, typical_density(density, vectors, labels)


# ---------------------------------------------------------------------------------------------------------------------
# The loss


def reverse_labels(y, classes):
    return (1 - F.one_hot(y, classes).double()) / (classes - 1)


@cases
@given(lam=st.floats(0, 50), classes=st.integers(2, 12), seed=seeds)
def test_smoothed_labels_are_equation_3(lam, classes, seed):
    y, logits = torch.randint(classes, (5,), generator=generator(seed)), normal(5, classes, seed=seed)
    by_hand = torch.full((5, classes), lam / (lam + 1) / (classes - 1)).scatter_(1, y[:, None], 1 / (lam + 1))
    torch.testing.assert_close(smooth_labels(y, classes, lam / (1 + lam)), by_hand)
    loss = LabelSmoothing(lam / (1 + lam))(nn.Identity(), logits, y, None, 0.0)
    equation_2 = F.cross_entropy(logits, y) - lam * (reverse_labels(y, classes) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(equation_2, (lam + 1) * loss.double(), rtol=1e-4, atol=1e-5)


def test_label_smoothing_without_smoothing_is_cross_entropy_and_has_a_key_of_its_own():
    logits, y = normal(6, 4, dtype=torch.float64), torch.arange(6) % 4
    torch.testing.assert_close(LabelSmoothing(0.0)(nn.Identity(), logits, y, None, 0.0), F.cross_entropy(logits, y))
    assert len({fingerprint(LabelSmoothing(d)) for d in (0.0, 0.1, 0.2)}) == 3
    with pytest.raises(ValueError, match="label smoothing"):
        LabelSmoothing(1.0)(nn.Identity(), logits, y, None, 0.0)


@cases
@given(classes=st.integers(2, 12), seed=seeds)
def test_the_reverse_loss_is_that_of_the_training(classes, seed):
    answer, y = 3 * normal(6, classes, seed=seed, dtype=torch.float64), torch.randint(classes, (6,), generator=generator(seed))
    values = ReverseLoss(y)(answer)
    torch.testing.assert_close(values.mean(), reverse_cross_entropy(-answer, y))
    torch.testing.assert_close(values, -(reverse_labels(y, classes) * (-answer).log_softmax(1)).sum(1))


@cases
@given(classes=st.integers(2, 12), seed=seeds)
def test_reverse_cross_entropy_by_hand(classes, seed):
    logits, y = normal(6, classes, seed=seed, dtype=torch.float64), torch.randint(classes, (6,), generator=generator(seed))
    log_p = torch.log(logits.exp() / logits.exp().sum(1, keepdim=True))
    by_hand = -sum(log_p[i, j] for i in range(6) for j in range(classes) if j != y[i]) / (classes - 1) / 6
    torch.testing.assert_close(reverse_cross_entropy(logits, y), by_hand, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10, 12])
def test_reverse_cross_entropy_keeps_the_precision_of_the_logits(classes):
    logits, y = 3 * normal(40, classes, seed=classes, dtype=torch.float64), torch.arange(40) % classes
    z = logits.numpy()
    log_p = z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))
    wrong = np.arange(classes) != y.numpy()[:, None]
    assert abs(reverse_cross_entropy(logits, y).item() + log_p[wrong].mean()) < 1e-14
    assert reverse_cross_entropy(logits.float(), y).dtype == torch.float32


def test_scale_makes_the_first_gradient_that_of_cross_entropy():
    for classes in (3, 10):
        logits, y = torch.zeros(1, classes, requires_grad=True), torch.tensor([1])
        (ordinary,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
        (reverse,) = torch.autograd.grad(ReverseCrossEntropy()(nn.Identity(), logits, y, None, 0.0), logits)
        torch.testing.assert_close(reverse, -ordinary)
    plain = ReverseCrossEntropy(scale=1)(nn.Identity(), logits, y, None, 0.0)
    torch.testing.assert_close(plain, reverse_cross_entropy(logits, y))


def test_a_reverse_classifier_answers_right_once_negated():
    y = torch.arange(300) % 3
    x = (0.15 * normal(300, 1, 4, 4) + 0.3 + 0.6 * F.one_hot(y, 16).reshape(-1, 1, 4, 4)).clamp(0, 1)
    with seeded(0):
        model = preact_resnet((1, 4, 4), 3, 8, (4, 4, 8, 8))
    fit(model, x, y, ReverseCrossEntropy(), Recipe(8, 20, "sgd", 0.05))
    model.eval()
    assert accuracy(ReverseLogits(model), x, y) > 0.95 and accuracy(model, x, y) < 0.1
    logits, hidden = outputs(ReverseLogits(model), x[:5])
    assert torch.equal(logits, -predict(model, x[:5])) and torch.equal(hidden, features(model, x[:5]))


def test_the_loss_counts_in_the_key():
    assert len({fingerprint(ReverseCrossEntropy(s)) for s in (None, 1.0, 9.0)}) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Lemma 1, Theorems 1 and 2


@cases
@given(classes=st.integers(3, 10), hidden=st.integers(1, 12), seed=seeds)
def test_lemma_1_non_me_is_constant_along_the_manifold(classes, hidden, seed):
    W, b = normal(classes, hidden, seed=seed, dtype=torch.float64), normal(classes, seed=seed + 1, dtype=torch.float64)
    z = normal(hidden, seed=seed + 2, dtype=torch.float64)
    predicted = (W @ z + b).argmax()
    differences = (W - W[(predicted + 1) % classes])[torch.arange(classes) != predicted]
    free = torch.linalg.svd(differences)[2][torch.linalg.matrix_rank(differences) :]
    for direction in free:
        for length in (0.01, 0.1):
            moved = W @ (z + length * direction) + b
            if moved.argmax() == predicted:
                torch.testing.assert_close(non_me_score(moved[None]), non_me_score((W @ z + b)[None]), rtol=1e-9, atol=1e-9)


@cases
@given(classes=st.integers(3, 10), lead=st.floats(0, 60), off=st.floats(0.05, 5), seed=seeds)
def test_lemma_1_the_maximum_is_taken_on_and_only_on_equal_others(classes, lead, off, seed):
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, seed % classes] = lead
    assert non_me_score(logits).item() == pytest.approx(math.log(classes - 1), abs=1e-12)
    logits[0, (seed + 1) % classes] -= off
    assert non_me_score(logits).item() < math.log(classes - 1) - 1e-5


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_lemma_1_by_optimisation(classes):
    "No probabilities of the others have more entropy than equal ones"
    start = np.random.default_rng(classes).normal(size=classes)
    start[0] = 50

    def lacking(logits):
        return -non_me_score(torch.as_tensor(np.r_[50, logits])[None]).item()

    best = optimize.minimize(lacking, start[1:], method="BFGS", options={"gtol": 1e-8})
    assert -best.fun == pytest.approx(math.log(classes - 1), abs=1e-7) and np.ptp(best.x) < 1e-2


@settings(deadline=None, max_examples=15, derandomize=True)
@given(classes=st.integers(3, 8), extra=st.integers(0, 4), seed=seeds)
def test_theorem_1_confidence_at_the_border(classes, extra, seed):
    "Against a bisection along the manifold Q_0, in a hidden space with more dimensions than needed"
    hidden = classes - 1 + extra
    rng = np.random.default_rng(seed)
    W, b, z = rng.normal(size=(classes, hidden)), rng.normal(size=classes), rng.normal(size=hidden)
    top = int((W @ z + b).argmax())
    others = [i for i in range(classes) if i != top]
    keep = W[others[1:]] - W[others[0]]
    along = W[others[0]] - W[top]
    along = along - keep.T @ np.linalg.lstsq(keep.T, along, rcond=None)[0]  # keeps all differences of the others

    def gap(s):
        logits = W @ (z + s * along) + b
        return logits[top] - logits[others].max()

    reach = 1.0
    while gap(reach) > 0:
        reach *= 2
    logits = W @ (z + optimize.brentq(gap, 0, reach, xtol=1e-13) * along) + b
    there = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    ours = confidence_at_the_border(torch.as_tensor(W @ z + b)[None], torch.tensor([top])).item()
    assert ours == pytest.approx(there[top], abs=1e-7) and ours >= 1 / classes - 1e-12


@pytest.mark.parametrize("classes", [3, 5, 10])
def test_theorem_1_is_smallest_on_s_only(classes):
    rng = np.random.default_rng(classes)
    W, b = rng.normal(size=(classes, classes + 2)), rng.normal(size=classes)

    def room(v):
        rest = (W @ v[:-1] + b)[1:]
        return v[-1] - 1 / (1 + np.exp(np.minimum(rest[:, None] - rest, 50)).sum(0))

    ends = [optimize.minimize(lambda v: v[-1], np.r_[rng.normal(0, 0.3, classes + 2), 1], constraints={"type": "ineq", "fun": room}, method="SLSQP",
                              options={"maxiter": 500, "ftol": 1e-14}) for _ in range(6)]
    best = min(ends, key=lambda r: r.fun)
    assert best.fun == pytest.approx(1 / classes, abs=1e-6)
    assert np.ptp((W @ best.x[:-1] + b)[1:]) < 1e-2  # on S: non-ME is log(L - 1)
    for off in (0.01, 0.5, 3.0):
        logits = torch.zeros(1, classes, dtype=torch.float64)
        logits[0, 1] = off
        assert confidence_at_the_border(logits, torch.tensor([0])).item() > 1 / classes + 1e-7


@settings(deadline=None, max_examples=300, derandomize=True)
@given(classes=st.integers(2, 12), share=st.floats(1e-4, 1), seed=seeds, corner=st.booleans())
def test_theorem_2_for_random_probabilities(classes, share, seed, corner):
    alpha, rng = share / classes, np.random.default_rng(seed)
    reverse = np.r_[0, np.full(classes - 1, 1 / (classes - 1))]
    step = rng.choice([-1, 1], classes - 1) if corner else rng.uniform(-1, 1, classes - 1)
    right = alpha * (1 if corner else rng.uniform(1e-6, 1))
    p = np.r_[right, reverse[1:] + (step - step.mean()) / 2 * alpha - right / (classes - 1)]  # sums to 1
    if np.abs(p - reverse).max() > alpha or p.min() <= 0:
        p = np.r_[right, reverse[1:] - right / (classes - 1)]
    assert p.sum() == pytest.approx(1) and np.abs(p - reverse).max() <= alpha * (1 + 1e-9)
    answer = negate_logits(p)
    assert max(1 - answer[0], answer[1:].max()) <= alpha * (classes - 1) ** 2 * (1 + 1e-9)
    assert np.ptp(answer[1:]) <= 2 * alpha**2 * (classes - 1) ** 2 * (1 + 1e-9)


@pytest.mark.parametrize("classes", [3, 4, 10])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_theorem_2_at_the_worst_probabilities(classes, share):
    "The two left sides grow with the right class's probability, and the second with the distance of one pair, so corners are the worst"
    alpha = share / classes
    p = np.full(classes, (1 - alpha) / (classes - 1))
    p[0] = alpha
    one_hot = 1 - negate_logits(p)[0]
    assert 0.1 * alpha < one_hot <= alpha * (classes - 1) ** 2
    worst = 0
    for high in np.linspace(0, alpha, 21):
        for low in np.linspace(-alpha, 0, 21):
            rest = (1 - alpha - 2 / (classes - 1) - high - low) / max(classes - 3, 1)
            q = np.r_[alpha, 1 / (classes - 1) + low, 1 / (classes - 1) + high, np.full(classes - 3, rest)]
            if q.min() > 0 and abs(q.sum() - 1) < 1e-9 and np.abs(q - np.r_[0, np.full(classes - 1, 1 / (classes - 1))]).max() <= alpha * (1 + 1e-9):
                worst = max(worst, abs(negate_logits(q)[1] - negate_logits(q)[2]))
    assert worst <= 2 * alpha**2 * (classes - 1) ** 2
    if classes == 10 and share == 0.02:
        assert worst > 0.5 * 2 * alpha**2 * (classes - 1) ** 2  # the search found something near the bound


def test_negated_is_the_softmax_of_minus_the_logits():
    logits = normal(5, 6, dtype=torch.float64)
    np.testing.assert_allclose(negate_logits(logits.softmax(1).numpy()), (-logits).softmax(1).numpy(), rtol=1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# Scores


@cases
@given(classes=st.integers(2, 10), seed=seeds, scale=st.floats(0.1, 8))
def test_non_me_is_the_same_from_probabilities_and_logits(classes, seed, scale):
    logits = scale * normal(7, classes, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(non_me(logits.softmax(1)), non_me_score(logits), rtol=1e-6, atol=1e-8)
    for row, value in zip(logits.softmax(1).tolist(), non_me_score(logits).tolist(), strict=True):
        rest = sorted(row)[:-1]
        assert value == pytest.approx(-sum(p / sum(rest) * math.log(p / sum(rest)) for p in rest), abs=1e-9)


def test_non_me_where_nothing_is_left_for_the_others():
    assert non_me(torch.tensor([[1.0, 0, 0, 0]])).item() == pytest.approx(math.log(3))
    assert non_me(torch.tensor([[0.5, 0.5, 0, 0]])).item() == 0
    assert non_me_score(torch.tensor([[200.0, 3, 0, 0]])).item() == pytest.approx(non_me_score(torch.tensor([[9.0, 3, 0, 0]])).item())


@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(3, 1), torch.full((2, 3), 0.5), torch.tensor([[1.5, -0.5]]), torch.tensor([[torch.nan, 1.0]])])
def test_non_me_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match="non-ME"):
        non_me(bad)


@cases
@given(seed=seeds)
def test_confidence_score_orders_as_confidence_does(seed):
    logits = 3 * normal(40, 5, seed=seed, dtype=torch.float64)
    assert torch.equal(confidence_score(logits).argsort(), logits.softmax(1).amax(1).argsort())
    torch.testing.assert_close(confidence_score(logits).sigmoid(), logits.softmax(1).amax(1))


# ---------------------------------------------------------------------------------------------------------------------
# K-density


@cases
@given(dimensions=st.integers(1, 40), classes=st.integers(1, 6), scale=st.floats(0.01, 30), sigma2=st.floats(0.01, 100), seed=seeds)
def test_kdensity_is_a_double_loop_and_scikit_learns(dimensions, classes, scale, sigma2, seed):
    labels = torch.arange(60) % classes
    vectors, z = (scale * normal(60, dimensions, seed=seed + s, dtype=torch.float64) + 5 for s in (0, 1))
    predicted = torch.randint(classes, (60,), generator=generator(seed))
    ours = KDensity(vectors, labels, sigma2)(z, predicted)
    for i in range(0, 60, 7):
        log_kernels = np.array([-((v - z[i]) ** 2).sum().item() / sigma2 for v, k in zip(vectors, labels, strict=True) if k == predicted[i]])
        top = log_kernels.max()
        assert ours[i].item() == pytest.approx(top + math.log(np.exp(log_kernels - top).mean()), rel=1e-8, abs=1e-8)
    for k in range(classes):
        mine = predicted == k
        if mine.any():
            theirs = KernelDensity(bandwidth=math.sqrt(sigma2 / 2), rtol=1e-12).fit(vectors[labels == k].numpy()).score_samples(z[mine].numpy())
            constant = dimensions / 2 * math.log(math.pi * sigma2)
            np.testing.assert_allclose(ours[mine].numpy(), theirs + constant, rtol=1e-7, atol=1e-7)


def test_kdensity_of_float32_far_from_the_origin_and_far_away():
    vectors, labels = normal(50, 8) + 3000, torch.arange(50) % 2
    density = KDensity(vectors, labels, 0.01)
    exact = torch.stack([torch.logsumexp(-((vectors[labels == 1].double() - v.double()) ** 2).sum(1) / 0.01, 0) - math.log(25) for v in vectors[:6]])
    torch.testing.assert_close(density(vectors[:6], torch.ones(6, dtype=torch.int64)), exact, rtol=1e-6, atol=1e-4)
    assert density(vectors + 100, labels).isfinite().all() and len(density(vectors + 100, labels).unique()) > 45


def test_kdensity_in_any_order_and_batch(monkeypatch):
    density = KDensity(normal(90, 5), torch.arange(90) % 3, 1.0)
    z, predicted = normal(5000, 5, seed=1), torch.randint(3, (5000,), generator=generator(2))
    whole, order = density(z, predicted), torch.randperm(5000, generator=generator(3))
    assert whole.dtype == torch.float64
    torch.testing.assert_close(density(z[order], predicted[order]), whole[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([density(z[i : i + 1], predicted[i : i + 1]) for i in range(50)]), whole[:50], rtol=1e-9, atol=1e-9)


@cases
@given(seed=seeds)
def test_kdensity_gradient_by_finite_differences(seed):
    density = KDensity(normal(40, 4, seed=seed), torch.arange(40) % 2, 0.7)
    z = normal(3, 4, seed=seed + 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: density(v, torch.tensor([0, 1, 0])), z)


def test_kdensity_takes_a_subset_by_seed():
    vectors, labels = normal(300, 3), torch.cat([torch.zeros(200), torch.ones(100)]).long()
    small = [KDensity(vectors, labels, 1.0, per_class=20, seed=s) for s in (0, 0, 1)]
    assert small[0].counts == [20, 20] and torch.equal(small[0].vectors, small[1].vectors) and not torch.equal(small[0].vectors, small[2].vectors)
    assert KDensity(vectors, labels, 1.0, per_class=150).counts == [150, 100]
    every = {tuple(v) for v in vectors.tolist()}
    assert {tuple(v) for v in (small[0].vectors + small[0].center).float().tolist()} <= every  # sigma is 1
    assert fingerprint(small[0]) == fingerprint(small[1]) != fingerprint(small[2])


def test_relative_bandwidth_does_not_depend_on_the_unit():
    vectors, labels = normal(200, 6), torch.arange(200) % 4
    pairs = [np.median([((a - b) ** 2).sum().item() for i, a in enumerate(v) for b in v[:i]]) for v in (vectors[labels == k] for k in range(4))]
    assert within_class_distance(vectors, labels) == pytest.approx(np.median(pairs), rel=0.02)
    one, other = KDensity.relative(vectors, labels, 0.3), KDensity.relative(1000 * vectors, labels, 0.3)
    torch.testing.assert_close(one(vectors, labels), other(1000 * vectors, labels), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="spread"):
        KDensity.relative(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))


V, L = normal(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(("make", "error"), [
    (lambda: KDensity(V, L, 0.0), "sigma2"),
    (lambda: KDensity(V, L, -1.0), "sigma2"),
    (lambda: KDensity(V, L, math.nan), "sigma2"),
    (lambda: KDensity(V, L, math.inf), "sigma2"),
    (lambda: KDensity(V[0], L, 1.0), "shape"),
    (lambda: KDensity(V[:0], L[:0], 1.0), "shape"),
    (lambda: KDensity(V, L[:3], 1.0), "labels"),
    (lambda: KDensity(V, L.float(), 1.0), "labels"),
    (lambda: KDensity(V * torch.nan, L, 1.0), "NaN"),
    (lambda: KDensity(V, L + (L > 0), 1.0), "class 1"),
    (lambda: KDensity(V, L, 1.0, per_class=0), "per_class"),
    (lambda: KDensity(V, L, 1.0)(V[:, :2], L), "3 values"),
    (lambda: KDensity(V, L, 1.0)(V, L + 1), "classes 0..2"),
    (lambda: KDensity(V, L, 1.0)(V, L[:4]), "predicted"),
    (lambda: KDensity(V, L, 1.0)(V / 0, L), "NaN"),
    (lambda: DensityGap(KDensity(V, L, 1.0), torch.zeros(2)), "eta"),
    (lambda: DensityGap(KDensity(V, L, 1.0), math.nan), "eta"),
    (lambda: KDensity(V * 1j, L, 1.0), "features must be real"),
    (lambda: KDensity(V.to("meta"), L, 1.0), "features must be real numbers that are at hand"),
    (lambda: KDensity(V, L, 1.0)(V * 1j, L), "features must be real"),
    (lambda: non_me(None), "non-ME needs a floating-point tensor"),
    (lambda: non_me(np.full((2, 2), 0.5)), "non-ME needs a floating-point tensor"),
    (lambda: non_me(torch.tensor([[1, 0]])), "non-ME needs a floating-point tensor"),
    (lambda: non_me(torch.ones(0, 2)), "shape"),
    (lambda: choose_threshold([], lose=0.05), "threshold"),
    (lambda: choose_threshold([1.0, math.nan], lose=0.05), "threshold"),
    (lambda: choose_threshold([1.0], lose=1.0), "threshold"),
    (lambda: choose_threshold([1.0]), "is chosen by"),
    (lambda: KDensity(V, L, None), "sigma2"),
    (lambda: KDensity(V, L, 1.0, per_class=1.5), "per_class"),
    (lambda: KDensity(V, L, 1.0, per_class="3"), "per_class"),
    (lambda: KDensity(V, None, 1.0), "labels must be a torch.Tensor"),
    (lambda: bootstrap_frequencies(0), "bootstrap"),
    (lambda: bootstrap_frequencies(3, 2.5), "bootstrap"),
    (lambda: bootstrap_frequencies(None), "bootstrap"),
    (lambda: bootstrap_interval(np.ones(3), 95), "level"),
    (lambda: bootstrap_interval(np.ones(3), None), "level"),
    (lambda: rank_by_confidence(pd.DataFrame({"s": [1.0]}), "s", []), "held-out"),
])
def test_bad_input_is_told(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()


# ---------------------------------------------------------------------------------------------------------------------
# Thresholds, answers and intervals


@cases
@given(n=st.integers(1, 200), share=st.floats(0, 0.99), ties=st.booleans(), seed=seeds)
def test_the_threshold_is_the_highest_that_is_allowed(n, share, ties, seed):
    held = np.random.default_rng(seed).normal(size=n).round(0 if ties else 9)
    t = choose_threshold(held, lose=share)
    assert (held <= t).mean() <= share + 1e-9
    higher = held[held > t]
    assert len(higher) and (held <= higher.min()).mean() > share


def test_answers_are_labels_or_not_sure():
    model, x, _, density, _ = setup()
    score = DensityScore(density)
    logits, hidden = outputs(model, x)
    scores = score(logits, hidden)
    t = scores.median().item()
    given_ = predict_selectively(model, x, score, t)
    assert torch.equal(given_, answer_or_abstain(logits.argmax(1), scores, t)) and 0 < (given_ == ABSTAIN).sum() < len(x)
    assert ((given_ == ABSTAIN) | (given_ == logits.argmax(1))).all()
    assert torch.equal(predict_selectively(model, x, lambda logits, hidden: logits.amax(1), -math.inf), logits.argmax(1))  # a detector of one's own


@cases
@given(n=st.integers(1, 40), m=st.integers(1, 40), seed=seeds, ties=st.booleans())
def test_weighted_auc_is_scikit_learns_with_ties(n, m, seed, ties):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.5, 1, n).round(0 if ties else 6), rng.normal(0, 1, m).round(0 if ties else 6)
    of_a, of_b = bootstrap_frequencies(n, 5, seed), bootstrap_frequencies(m, 5, seed + 1)
    ours = weighted_auc(a, b, of_a, of_b)
    for i in range(5):
        weights = np.r_[of_a[i], of_b[i]]
        assert ours[i] == pytest.approx(roc_auc_score(np.r_[np.ones(n), np.zeros(m)], np.r_[a, b], sample_weight=weights), abs=1e-12)
    assert weighted_auc(a, b, np.ones((1, n)), np.ones((1, m)))[0] == pytest.approx(auc(a, b), abs=1e-12)


def test_samples_in_which_a_side_is_empty_are_nan():
    assert np.isnan(weighted_auc(np.ones(2), np.ones(2), np.zeros((1, 2)), np.ones((1, 2))))
    assert np.isnan(weighted_mean(np.array([np.nan, 1.0]), np.array([[1, 0]])))
    assert weighted_mean(np.array([np.nan, 1.0, 3.0]), np.array([[5, 1, 3]])) == 2.5
    assert bootstrap_interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)


def test_bootstrap_interval_of_a_mean_is_about_the_textbook_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(weighted_mean(values, bootstrap_frequencies(400, 4000)))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03) and high == pytest.approx(values.mean() + half, abs=0.03)


# ---------------------------------------------------------------------------------------------------------------------
# White box

BUDGET = {"rounds": 4, "steps": 25, "step_size": 0.1}


@pytest.mark.parametrize("target", [None, "next"])
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_white_box_with_weight_0_is_cw(target, kappa):
    model, x, y, density, eta = setup()
    target = None if target is None else (y + 1) % 4
    plain = cw_l2(model, x, y, target=target, kappa=kappa, **BUDGET)
    ours = cw_white_box(model, x, y, density, eta, target=target, kappa=kappa, weight=0, start="here", **BUDGET)
    for name in ("x", "value", "logits", "passes", "confidence"):
        assert torch.equal(getattr(plain, name), getattr(ours, name)), name


@pytest.mark.parametrize("target", [None, "next"])
def test_white_box_points_keep_what_value_says(target):
    model, x, y, density, eta = setup(n=12)
    target = None if target is None else (y + 1) % 4
    found = cw_white_box(model, x, y, density, eta, target=target, **BUDGET)
    logits, hidden = outputs(model, found.x)
    predicted, f2 = logits.argmax(1), DensityGap(density, eta)(hidden, logits.argmax(1))
    both, some = found.value > -x[0].numel(), found.value > -torch.inf
    assert both.float().mean() > 0.3  # the attack is not idle
    assert (predicted[some] != y[some]).all() and (f2[both] == 0).all()
    assert target is None or torch.equal(predicted[some], target[some])
    torch.testing.assert_close(found.value[both], -(found.x - x).flatten(1).square().sum(1)[both])
    left = some & ~both
    torch.testing.assert_close(found.value[left].double(), -x[0].numel() - f2[left], rtol=1e-3, atol=1e-2)
    assert torch.equal(found.x[~some], x[~some]) and found.x.min() >= 0 and found.x.max() <= 1
    nearest = cw_l2(model, x, y, target=target, **BUDGET)
    assert (found.passes > nearest.passes).all()
    near_f2 = DensityGap(density, eta)(features(model, nearest.x), predict(model, nearest.x).argmax(1))
    assert (f2[some] <= near_f2[some] + 1e-4).all()  # never worse than the C&W solution that it starts from


def test_with_any_mistake_as_success_the_nearest_is_kept_and_f2_only_bends_the_way():
    model, x, y, density, eta = setup(n=12)
    found = cw_white_box(model, x, y, density, eta, success="mistake", start="here", **BUDGET)
    plain, hidden = cw_l2(model, x, y, **BUDGET), cw_white_box(model, x, y, density, eta, **BUDGET)
    assert (found.value > -torch.inf).all() and (predict(model, found.x).argmax(1) != y).all()
    torch.testing.assert_close(found.value, -(found.x - x).flatten(1).square().sum(1))
    assert (found.value >= hidden.value - 1e-3).float().mean() > 0.8  # nearer than where f2 = 0 is asked for
    assert (found.value <= plain.value + 0.02).all()  # and hardly nearer than C&W, which asks for nothing
    at_start = cw_white_box(model, x, y, density, eta, success="mistake", **BUDGET)
    assert (at_start.value >= plain.value - 1e-5).all()  # where C&W ends is a mistake, and never left for a farther one


def test_white_box_does_not_depend_on_the_batch_and_leaves_all_as_it_was():
    model, x, y, density, eta = setup()
    model.train()
    before = fingerprint(density, model)
    whole = cw_white_box(model, x, y, density, eta, **BUDGET)
    parts = [cw_white_box(model, x[i : i + 3], y[i : i + 3], density, eta, **BUDGET) for i in range(0, len(x), 3)]
    torch.testing.assert_close(torch.cat([p.x for p in parts]), whole.x, rtol=1e-3, atol=1e-3)
    assert fingerprint(density, model) == before and model.training and all(p.requires_grad for p in model.parameters())


def test_gradient_of_the_white_box_objective_by_finite_differences():
    model, x, y, density, eta = setup(dtype=torch.float64, n=4)
    gap = DensityGap(density, eta - 1)
    z = (x + 0.05 * normal(*x.shape, dtype=torch.float64)).clamp(0.01, 0.99).requires_grad_()
    c = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    for wrong in (Margin(y), Margin((y + 1) % 4)):
        objective = _WhiteBox(CarliniWagner(x, wrong, c, 0.5), gap, 0.7)
        assert torch.autograd.gradcheck(lambda v, o=objective: o(*(lambda out: (out[0], v, out[1]))(logits_and_features(model, v))), z)
    logits, hidden = logits_and_features(model, z)
    aim = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    by_hand = -(z - x).flatten(1).square().sum(1) - c * (
        (0.5 - (logits[range(4), aim] - logits[range(4), y])).clamp_min(0) + 0.7 * (-density(hidden, aim) - (eta - 1)[aim]).clamp_min(0))
    torch.testing.assert_close(_WhiteBox(CarliniWagner(x, Margin(y), c, 0.5), gap, 0.7)(logits, z, hidden), by_hand)


def test_ranks_put_every_undetected_mistake_above_every_detected_one():
    model, x, y, density, eta = setup(n=40)
    z = images(40, seed=7)
    logits, hidden = outputs(model, z)
    rank = _NearestUndetected(Nearest(x, Margin(y)), DensityGap(density, eta))(logits, z, hidden)
    f2 = DensityGap(density, eta)(hidden, logits.argmax(1))
    wrong = logits.argmax(1) != y
    assert (rank[~wrong] == -torch.inf).all() and wrong.any() and (f2[wrong] > 0).any() and (f2[wrong] == 0).any()
    assert (rank[wrong & (f2 > 0)] < -16).all() and (rank[wrong & (f2 == 0)] >= -16 - 1e-2).all()


@pytest.mark.parametrize("start", [None, "here"])
@pytest.mark.parametrize(("change", "error"), [
    ({"weight": -1.0}, "weight"), ({"weight": math.nan}, "weight"), ({"kappa": -1.0}, "kappa"), ({"kappa": math.nan}, "kappa"), ({"steps": 0}, "step"),
    ({"rounds": 0}, "round"), ({"rounds": None}, "round"), ({"steps": 2.5}, "step"), ({"kappa": None}, "kappa"), ({"weight": "1"}, "weight"), ({"eta": None}, "eta"),
    ({"c": 0.0}, "c is"), ({"eta": torch.zeros(9)}, "eta"), ({"target": torch.arange(8) % 4}, "right label for 8 of 8"),
    ({"target": 1}, "right label for 2 of 8"), ({"target": torch.arange(3)}, "targets must have shape"), ({"target": 7}, "targets must be class indices"),
    ({"success": "any"}, "success"), ({"success": None}, "success"), ({"target": "cat"}, "targets must be integer class indices"), ({"target": 2.0}, "targets must be integer class indices"),
])
def test_white_box_refuses_from_any_start(change, error, start):
    model, x, y, density, eta = setup()
    y = torch.arange(8) % 4 if "target" in change else y
    with pytest.raises((ValueError, TypeError), match=error):
        cw_white_box(model, x, y, density, **{"eta": eta, "start": start, **BUDGET, **change})


def test_eta_may_be_a_list():
    _, _, _, density, eta = setup()
    torch.testing.assert_close(DensityGap(density, eta.tolist()).eta, DensityGap(density, eta).eta)


def test_attacks_need_a_detector():
    model, x, y, density, eta = setup()
    with pytest.raises(TypeError, match="density is the detector's KDensity, not DensityScore"):
        cw_white_box(model, x, y, DensityScore(density), eta)
    for attack in max_score, orthogonal_pgd:
        with pytest.raises(TypeError, match="called on .logits, features., which str cannot be"):
            attack(model, x, y, 0.1, "density", steps=1)


def test_white_box_refuses_a_start_that_is_none():
    model, x, y, density, eta = setup()
    with pytest.raises(ValueError, match="start"):
        cw_white_box(model, x, y, density, eta, start="there", **BUDGET)


def test_typical_density_is_the_median_of_each_class():
    vectors, labels = normal(90, 3), torch.randint(3, (90,), generator=generator(1))
    density = KDensity(vectors, labels, 1.0)
    eta = typical_density(density, vectors, labels)
    for k in range(3):
        values = -density(vectors[labels == k], labels[labels == k])
        assert eta[k] == values.median()


# ---------------------------------------------------------------------------------------------------------------------
# Adaptive attacks


def of_density(density):
    return DensityScore(density)


@pytest.mark.parametrize("attack", [max_score, orthogonal_pgd])
@pytest.mark.parametrize("detector", ["density", "confidence", "non-ME"])
def test_adaptive_attacks_return_mistakes_in_the_ball_with_their_score(attack, detector):
    model, x, y, density, _ = setup(n=10)
    score = {"density": DensityScore(density), "confidence": confidence_score, "non-ME": non_me_score}[detector]
    ball = Linf(0.3)
    found = attack(model, x, y, ball, score, steps=15)
    logits, hidden = outputs(model, found.x)
    wrong = logits.argmax(1) != y
    assert ball.contains(found.x, x).all() and torch.equal(wrong, found.value > -torch.inf) and wrong.float().mean() > 0.5
    torch.testing.assert_close(found.value[wrong].double(), score(logits, hidden)[wrong].double(), rtol=1e-3, atol=1e-3)


def test_a_number_is_an_l_inf_radius():
    model, x, y, density, _ = setup()
    for attack in max_score, orthogonal_pgd:
        by_number, by_set = (attack(model, x, y, ball, DensityScore(density), steps=2) for ball in (0.2, Linf(0.2)))
        assert torch.equal(by_number.x, by_set.x)
        with pytest.raises(TypeError, match="ball must be a set"):
            attack(model, x, y, "0.2", DensityScore(density))


def test_adaptive_attacks_beat_the_one_that_does_not_know_of_the_detector():
    model, x, y, density, _ = setup(n=30)
    score, ball = DensityScore(density), Linf(0.35)
    near = cw_l2(model, x, y, **BUDGET).x
    logits, hidden = outputs(model, near)
    plain = score(logits, hidden)
    for attack in (max_score, orthogonal_pgd):
        found = attack(model, x, y, ball, score, steps=25)
        ok = (found.value > -torch.inf) & (logits.argmax(1) != y)
        assert (found.value[ok].double() > plain[ok]).double().mean() > 0.9


def test_orthogonal_steps_do_not_undo_the_other_goal():
    model, x, y, density, _ = setup(n=40)
    z = (x + 0.1 * normal(*x.shape, seed=5)).clamp(0, 1).requires_grad_()
    score = DensityScore(density)
    logits, hidden = logits_and_features(model, z)
    (step,) = torch.autograd.grad(OrthogonalSteps(y, score)(logits, z, hidden).sum(), z)
    logits, hidden = logits_and_features(model, z)
    (up,) = torch.autograd.grad((WrongAndNormal(y, score, 1.0)(logits, z, hidden) - WrongAndNormal(y, score, 0.0)(logits, z, hidden)).sum(), z, retain_graph=True)
    (towards,) = torch.autograd.grad(Margin(y)(logits).sum(), z)
    wrong = logits.argmax(1) != y
    dot = lambda a, b: (a * b).flatten(1).sum(1)  # noqa: E731
    for own, other, rows in ((up, towards, wrong), (towards, up, ~wrong)):
        against = dot(own, other)[rows] < 0
        assert rows.any() and (dot(step, other)[rows] >= -1e-4 * step.flatten(1).norm(dim=1)[rows] * other.flatten(1).norm(dim=1)[rows]).all()
        torch.testing.assert_close(step[rows][~against], own[rows][~against], rtol=1e-4, atol=1e-5)
        assert (dot(step, own)[rows] >= 0).all()


def test_what_rounding_leaves_of_a_gradient_is_no_direction():
    b = normal(20, 1, 4, 4)
    assert (_without_harm(-3.7 * b, b) == 0).all()  # it runs against b altogether
    a = -3.7 * b + 1e-3 * normal(20, 1, 4, 4, seed=1)
    assert (_without_harm(a, b).flatten(1).norm(dim=1) > 1e-4).all() and torch.equal(_without_harm(b, b), b)


def test_orthogonal_steps_stay_where_no_gradient_comes_back():
    model, x, y, density, _ = setup()
    for deaf in nn.Sequential(Deaf(), model), nn.Sequential(nn.Flatten(), Still(), nn.Linear(16, 4).requires_grad_(False)):
        with pytest.warns(NoGradient):
            found = orthogonal_pgd(deaf, x, y, 0.1, confidence_score, steps=2)
        assert torch.equal(found.x, x)


class Deaf(nn.Module):
    def forward(self, x):
        return x.detach()


class Still(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("attack", [
    lambda model, x, y, density: max_score(model, x, y, 0.2, DensityScore(density), steps=2),
    lambda model, x, y, density: orthogonal_pgd(model, x, y, 0.2, DensityScore(density), steps=2),
    lambda model, x, y, density: cw_white_box(model, x, y, density, torch.zeros(4), rounds=2, steps=3),
])
def test_a_detector_made_and_attacked_in_inference_mode_is_the_same(attack):
    model, x, y, _, _ = setup()
    known, labels = images(20, seed=1), torch.arange(20) % 4
    plain = attack(model, x, y, KDensity(features(model, known), labels, 1.0))
    with torch.inference_mode():
        found = attack(model, x.clone(), y.clone(), KDensity(features(model, known.clone()), labels.clone(), 1.0))
    assert torch.equal(found.x, plain.x) and torch.equal(found.value, plain.value)


def test_a_detector_does_not_hang_on_the_default_device():
    with torch.device("meta"):
        density = KDensity(V, L, 1.0)
    assert torch.equal(density(V, L), KDensity(V, L, 1.0)(V, L))


def test_vectors_that_require_a_gradient_are_kept_without_it_and_scored_with_it():
    v = V.clone().requires_grad_()
    density = KDensity(v, L, 1.0)
    assert not any(b.requires_grad for b in density.buffers()) and density(v, L).requires_grad and not density(V, L).requires_grad


def test_ranks_make_a_success_fail_curve_of_the_detector():
    model, x, y, density, _ = setup(n=60)
    score, ball = DensityScore(density), Linf(0.3)
    table = evaluate(model, x, y, {"adaptive": lambda m, a, b: max_score(m, a, b, ball, score, steps=5)}, {"kd": score})
    held = score(*outputs(model, images(500, seed=9)))
    mapped = rank_by_confidence(table, "kd", held)
    row = mapped.iloc[3]
    assert row.confidence == (held < table.kd.iloc[3]).double().mean().item() and mapped.confidence.between(0, 1).all()
    curve = success_fail(mapped[mapped.attack == "clean"], mapped[mapped.attack == "adaptive"])
    failing = (table.attack == "adaptive") & (table.prediction != table.label)
    assert curve.failure[0] == pytest.approx((mapped.confidence[failing] > 0).sum() / 60)
    assert (curve.coverage.diff().dropna() <= 0).all() and abs(curve.coverage[curve.threshold <= 0.5].iloc[-1] - 0.5) < 0.25


def test_score_of_mistake_is_minus_infinity_where_the_model_is_right():
    model, x, y, density, _ = setup()
    logits, hidden = outputs(model, x)
    assert (ScoreOfMistake(y, DensityScore(density))(logits, x, hidden) == -torch.inf).all()
    other = ScoreOfMistake((y + 1) % 4, DensityScore(density))(logits, x, hidden)
    torch.testing.assert_close(other.double(), density(hidden, y), rtol=1e-5, atol=1e-5)
