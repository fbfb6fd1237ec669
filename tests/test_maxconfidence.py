"""What the paper proves, as exact tests; the curve against a double loop; the attack's contracts."""

import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import LABELS, SOAK, images, linear, network

from confnb import maxconfidence
from confnb.found import Found, bundle, score_inside, with_wrong_confidence, wrong_classes
from confnb.losses import label_smoothing_pairing
from confnb.maxconfidence import every_class, max_confidence
from confnb.objectives import CrossEntropy, LogConfidence, WrongConfidence
from confnb.runtime import generator, predict, streams
from confnb.search import maximize
from confnb.selective import choose_threshold, curve_at, plot_success_fail, robust_error, success_fail
from confnb.sets import L0, L2, Linf
from confnb.tables import evaluate
from confnb.topics.maxconfidence import failure_at, from_samples, public_recipe, with_samples

# ---------------------------------------------------------------------------------------------------------------------
# Linear models: every class is a convex problem, so an independent solver must find the same (section 4.1)


def minus_log_p(z, W, b, target):
    "-log p(target | z) of softmax(W z + b), and its gradient"
    logits = W @ z + b
    p = np.exp(logits - logits.max())
    return math.log(p.sum()) - (logits[target] - logits.max()), p @ W / p.sum() - W[target]


def solve_linf(W, b, target, x, eps):
    "The highest log p(target) over the L-inf ball and the pixel box: bounded quasi-Newton"
    bounds = list(zip(np.maximum(x - eps, 0), np.minimum(x + eps, 1), strict=True))
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    return -optimize.minimize(minus_log_p, x, (W, b, target), jac=True, bounds=bounds, method="L-BFGS-B", options=options).fun


def solve_l2(W, b, target, x, eps):
    "The highest log p(target) over the L2 ball and the pixel box: sequential quadratic programming"
    inside = {"type": "ineq", "fun": lambda z: eps**2 - ((z - x) ** 2).sum(), "jac": lambda z: -2 * (z - x)}
    options = {"ftol": 1e-14, "maxiter": 2000}
    return -optimize.minimize(minus_log_p, x, (W, b, target), jac=True, bounds=[(0, 1)] * len(x), constraints=inside, method="SLSQP", options=options).fun


THOROUGH = {"linf": partial(maximize, steps=1000, decay=1e-4), "l2": partial(maximize, steps=600, decay=1e-6)}


@pytest.mark.parametrize("kind", ["linf", "l2", "l2 within the box"])
@pytest.mark.parametrize("classes", [3, *(pytest.param(n, marks=SOAK) for n in (4, 7)), 10])
def test_every_class_agrees_with_a_convex_solver(classes, kind):
    dtype = (torch.float32, torch.float64)[(classes + len(kind)) % 2]  # each kind of set meets both
    eps, n = 0.1 + 0.03 * classes, 3
    model, W, b = linear(classes, dtype=dtype, scale=1 + classes % 3, seed=classes)
    x = images(n, seed=classes, dtype=dtype)
    if kind == "l2 within the box":
        x, eps = 0.5 + 0.1 * (x - 0.5), 0.4
    y = torch.arange(n) % classes
    ball, solve = (Linf(eps), solve_linf) if kind == "linf" else (L2(eps), solve_l2)
    targets, optimizer = wrong_classes(y, classes), partial(THOROUGH[kind.split()[0]], step_size=eps)
    flat, rows = targets.flatten(), torch.arange(n).repeat_interleave(classes - 1)
    points = x.double().numpy().reshape(n, -1)
    solved = np.array([solve(W, b, t, points[i], eps) for i, t in zip(rows.tolist(), flat.tolist(), strict=True)])

    found = every_class(model, x, y, ball, targets, seed=streams(0, n), optimizer=optimizer, batch_size=256)
    ours = torch.log_softmax(found.logits.double(), 1).gather(1, flat[:, None])[:, 0].numpy()
    np.testing.assert_allclose(ours, solved, atol=1e-5, rtol=0)
    assert ball.contains(found.x, x[rows]).all()

    best = solved.reshape(n, -1).max(1)
    if classes in (3, 10):
        attack = max_confidence(model, x, y, ball, optimizer=optimizer)
        np.testing.assert_allclose(attack.value.numpy(), best, atol=1e-5, rtol=0)
        np.testing.assert_allclose(attack.wrong_confidence.numpy(), np.exp(best), atol=1e-5, rtol=0)
    race = max_confidence(model, x, y, ball)
    np.testing.assert_allclose(race.wrong_confidence.numpy(), np.exp(best), atol=3e-3 if kind == "l2" else 1e-3, rtol=0)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(classes=st.integers(3, 10), side=st.integers(1, 4), eps=st.floats(0.02, 0.6), scale=st.floats(0.1, 4), seed=st.integers(0, 999))
def test_the_race_reaches_the_optimum_of_linear_models(classes, side, eps, scale, seed):
    model, W, b = linear(classes, side * side, scale=scale, seed=seed)
    x, y = images(2, side, seed), torch.tensor([0, 1])
    found = max_confidence(model, x, y, Linf(eps))
    for i in range(2):
        z = x[i].double().numpy().ravel()
        best = max(solve_linf(W, b, t, z, eps) for t in range(classes) if t != y[i])
        assert found.wrong_confidence[i].item() == pytest.approx(math.exp(best), abs=1e-3)


def test_two_classes_have_a_closed_form():
    "Logistic regression: every pixel goes where its weight says (Goodfellow et al. 2014)"
    model, W, b = linear(2, dtype=torch.float64, scale=2, seed=3)
    x, y = images(dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    w = W[1] - W[0]
    z = np.clip(x.numpy().reshape(6, -1) + 0.2 * np.where(y == 0, 1, -1)[:, None] * np.sign(w), 0, 1)
    margin = np.where(y == 0, 1, -1) * (z @ w + b[1] - b[0])
    for found in max_confidence(model, x, y, Linf(0.2)), max_confidence(model, x, y, Linf(0.2), steps=40):
        np.testing.assert_allclose(found.wrong_confidence, 1 / (1 + np.exp(-margin)), atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Finite sets: every choice that an attacker has, against the rule (sections 6 and 6.1)


def table(p, y):
    "Rows `label prediction confidence` for probabilities (N, K)"
    confidence, prediction = p.max(1)
    return pd.DataFrame({"label": y.numpy(), "prediction": prediction.numpy(), "confidence": confidence.numpy()})


def found_at(logits, y):
    "A result whose points are numbered images with these logits (N, K)"
    x = torch.arange(len(y)).reshape(-1, 1, 1, 1) / len(y)
    return with_wrong_confidence(Found(x, torch.zeros(len(y)), logits, torch.ones(len(y), dtype=torch.int64)), y)


def probabilities(logits):
    return torch.log_softmax(logits, 1).exp()


@st.composite
def finite_games(draw):
    "Probabilities (points, examples, K) that each example's set offers, many of them equal, and the labels"
    points, examples, classes = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    weight = st.integers(0, 3) | st.sampled_from([9, 30])
    row = st.lists(weight, min_size=classes, max_size=classes).filter(any)
    rows = draw(st.lists(row, min_size=points * examples, max_size=points * examples))
    p = torch.tensor(rows, dtype=torch.float64).reshape(points, examples, classes)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples))
    return (p / p.sum(2, keepdim=True)).clamp_min(1e-30), torch.tensor(labels)


@settings(deadline=None, max_examples=60)
@given(game=finite_games())
def test_no_choice_fails_the_model_more_often(game):
    p, y = game
    examples = range(len(y))
    chosen = bundle(*[found_at(q.log(), y) for q in p])
    offered = probabilities(p.log().flatten(0, 1)).reshape(p.shape).numpy()
    curve = success_fail(table(probabilities(chosen.logits), y), table(probabilities(chosen.logits), y))
    thresholds = np.unique(np.concatenate([offered.ravel(), np.linspace(0, 1, 11), [0.5]]))
    thresholds = thresholds[(thresholds >= 0) & (thresholds <= 1)]
    mine = pd.DataFrame([curve_at(curve, t) for t in thresholds])
    mistake = np.array([[[row.max() > t and row.argmax() != y[i] for t in thresholds] for i, row in enumerate(rows)] for rows in offered])
    choices = list(itertools.product(range(len(p)), repeat=len(y)))
    for choice in choices:
        theirs = mistake[list(choice), list(examples)].mean(0)
        assert (theirs <= mine.failure_upper + 1e-12).all(), f"the choice {choice} fails it more often than the upper bound"
        assert (theirs <= mine.failure + 1e-12)[thresholds >= 0.5].all(), f"the choice {choice} fails it more often than MaxConfidence"
    best = np.max([mistake[list(choice), list(examples)].mean(0) for choice in choices], axis=0)
    assert (mine.failure <= best + 1e-12).all(), "the lower bound is no attack's failure"


@settings(deadline=None, max_examples=50)
@given(game=finite_games())
def test_the_best_attack_lies_between_the_bounds(game):
    p, y = game
    chosen = bundle(*[found_at(q.log(), y) for q in p])
    offered = probabilities(p.log().flatten(0, 1)).reshape(p.shape).numpy()
    curve = success_fail(table(probabilities(chosen.logits), y), table(probabilities(chosen.logits), y))
    for row in curve.itertuples():
        best = np.mean([any(q[i].max() > row.threshold and q[i].argmax() != y[i] for q in offered) for i in range(len(y))])
        assert row.failure - 1e-12 <= best <= row.failure_upper + 1e-12
        assert row.threshold < 0.5 or best == pytest.approx(row.failure)


def test_below_one_half_the_rule_may_choose_badly():
    "The paper's counterexample: .8/.2 against .1/.11 and the rest spread thin"
    y = torch.tensor([0])
    sure, spread = torch.tensor([[0.8, 0.2] + [1e-30] * 8]).log(), torch.tensor([[0.1, 0.11] + [0.79 / 8] * 8]).log()
    chosen = bundle(found_at(spread, y), found_at(sure, y))
    assert torch.equal(chosen.logits, sure)
    curves = {name: success_fail(table(probabilities(f), y), table(probabilities(f), y)) for name, f in {"rule": chosen.logits, "other": spread}.items()}
    assert curve_at(curves["rule"], 0.105).failure == 0 and curve_at(curves["other"], 0.105).failure == 1
    assert curve_at(curves["rule"], 0.105).failure_upper == 1  # and the bound from above says that there may be such a point
    assert curve_at(curves["rule"], 0.5).failure_upper == 0


class Numbered(nn.Module):
    "Images of one pixel, which is the number of a row of a table of logits"

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x):
        return self.logits[(x[:, 0, 0, 0] * len(self.logits)).round().long()]


@pytest.mark.parametrize("seed", range(4))
def test_with_a_perfect_optimizer_the_whole_attack_is_optimal(seed):
    "max_confidence and evaluate on a model that is a table, with an optimizer that tries every point of the set"
    points, examples, classes = 5, 60, 4
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=(examples, points))
    model = Numbered(torch.from_numpy(p).reshape(-1, classes).log())
    number = torch.arange(examples * points, dtype=torch.float64).reshape(examples, points) / (examples * points)
    x, y = number[:, 0].reshape(-1, 1, 1, 1), torch.from_numpy(np.random.default_rng(seed).integers(0, classes, examples))

    def try_all(model, objective, x, ball, seed):
        candidates = torch.stack([x + i / (examples * points) for i in range(points)])
        return candidates[torch.stack([objective(model(z), z) for z in candidates]).argmax(0), torch.arange(len(x))]

    attacks = {"max": partial(max_confidence, ball=Linf(1.0), optimizer=try_all)}
    rows = evaluate(model, x, y, attacks | {str(i): lambda m, x, y, i=i: x + i / (examples * points) for i in range(points)})
    clean = rows[rows.attack == "clean"]
    curve = success_fail(clean, rows[rows.attack == "max"])
    others = [success_fail(clean, rows[rows.attack == str(i)]) for i in range(points)]
    for t in np.linspace(0, 1, 41):
        best = np.mean([any(q.argmax() != label and q.max() > t for q in own) for own, label in zip(p, y.tolist(), strict=True)])
        mine = curve_at(curve, t)
        assert mine.failure - 1e-9 <= best <= mine.failure_upper + 1e-9 and (t < 0.5 or best == pytest.approx(mine.failure))
        assert all(curve_at(other, t).failure <= mine.failure_upper + 1e-9 for other in others)


# ---------------------------------------------------------------------------------------------------------------------
# The curve


@st.composite
def tables(draw):
    "Tables with ties, confidences that are thresholds, right and wrong answers mixed"
    confidence = st.sampled_from([0.0, 0.1, 1 / 3, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
    rows = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), confidence), min_size=1, max_size=7))
    return pd.DataFrame(rows, columns=["label", "prediction", "confidence"])


@settings(deadline=None, max_examples=100)
@given(clean=tables(), adversarial=tables())
def test_the_curve_is_what_a_double_loop_counts(clean, adversarial):
    clean_rows, adversarial_rows = (list(zip(t.label, t.prediction, t.confidence, strict=True)) for t in (clean, adversarial))
    for row in success_fail(clean, adversarial).itertuples():
        t = row.threshold
        right = sum(c > t and label == said for label, said, c in clean_rows)
        wrong = sum(c > t and label != said for label, said, c in adversarial_rows)
        covered, reached = sum(c > t for *_, c in clean_rows), sum(c > t for *_, c in adversarial_rows)
        assert row.success == pytest.approx(right / len(clean)) and row.coverage == pytest.approx(covered / len(clean))
        assert row.failure == pytest.approx(wrong / len(adversarial))
        assert row.accuracy == pytest.approx(right / covered if covered else 1)
        assert row.failure_upper == pytest.approx((reached if t < 0.5 else wrong) / len(adversarial))


@settings(deadline=None, max_examples=50)
@given(clean=tables(), adversarial=tables(), t=st.floats(0, 1))
def test_the_curve_is_a_complete_staircase(clean, adversarial, t):
    curve = success_fail(clean, adversarial)
    assert curve.threshold.tolist() == sorted({0.0, 0.5, 1.0, *clean.confidence, *adversarial.confidence})
    for name in "success", "failure", "failure_upper", "coverage":
        assert (np.diff(curve[name]) <= 1e-12).all(), name
        assert curve[name].iloc[-1] == 0 and curve[name].between(0, 1).all()
    assert (curve.failure <= curve.failure_upper).all() and (curve.success <= curve.coverage).all()
    held = curve_at(curve, t)  # nothing changes between two rows
    assert held.threshold <= t and held.success == pytest.approx(np.mean((clean.confidence > t) & (clean.label == clean.prediction)))
    assert held.failure == pytest.approx(np.mean((adversarial.confidence > t) & (adversarial.label != adversarial.prediction)))
    for name, n in ("success", len(clean)), ("failure", len(adversarial)):
        low, high = curve[f"{name}_low"], curve[f"{name}_high"]
        assert (low <= curve[name]).all() and (curve[name] <= high).all() and low.ge(0).all() and high.le(1).all()
        other = success_fail(clean, adversarial, band="dkw")
        assert (curve[name] + math.sqrt(math.log(2 / 0.05) / (2 * n))).clip(0, 1).tolist() == pytest.approx(other[f"{name}_high"].tolist())


def test_the_curve_does_not_depend_on_order_or_index():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"label": rng.integers(0, 3, 40), "prediction": rng.integers(0, 3, 40), "confidence": rng.random(40).astype(np.float32)})
    shuffled = rows.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(success_fail(rows, rows), success_fail(shuffled, shuffled[::-1].assign(more=1)))


def test_a_confidence_that_was_rounded_above_one_counts_as_one():
    clean = pd.DataFrame({"label": [0], "prediction": [0], "confidence": [1 + 2e-7]})
    curve = success_fail(clean, clean.assign(prediction=1))
    assert curve.threshold.tolist() == [0, 0.5, 1] and curve.success.tolist() == [1, 1, 0] and curve.failure.tolist() == [1, 1, 0]


@pytest.mark.parametrize("band", ["beta", "dkw"])
def test_bands_hold_the_true_curve_as_often_as_they_say(band):
    "Confidence c uniform, right with probability c: the true curves are known, and the whole of each must lie in its band"
    rng, held, runs = np.random.default_rng(0), {"success": 0, "failure": 0}, 200
    truth = {"success": lambda t: (1 - t**2) / 2, "failure": lambda t: 0.5 - t + t**2 / 2}
    for _ in range(runs):
        c = rng.random(80)
        sample = pd.DataFrame({"label": 0, "prediction": (rng.random(80) > c).astype(int), "confidence": c})
        curve = success_fail(sample, sample, band=band)
        left, right = curve.threshold.to_numpy()[:-1], curve.threshold.to_numpy()[1:]
        for name, true in truth.items():  # the truth falls: on a step it is highest at the left end, lowest at the right
            low, high = curve[f"{name}_low"].to_numpy()[:-1], curve[f"{name}_high"].to_numpy()[:-1]
            held[name] += bool((true(left) <= high).all() and (low <= true(right)).all())
    assert all(0.95 <= h / runs for h in held.values()), held
    narrow, wide = success_fail(sample, sample, 0.5, band), success_fail(sample, sample, 0.99, band)
    assert (wide.failure_high >= narrow.failure_high).all() and (wide.failure_high > narrow.failure_high).any()


def test_at_reads_the_step():
    rows = pd.DataFrame({"label": [0, 0], "prediction": [0, 0], "confidence": [0.4, 0.8]})
    curve = success_fail(rows, rows)
    assert [curve_at(curve, t).success for t in (0, 0.3999, 0.4, 0.6, 0.7999, 0.8, 1)] == [1, 1, 0.5, 0.5, 0.5, 0, 0]
    for t in -0.01, 1.01, math.nan, None, "0.5":
        with pytest.raises(ValueError, match=r"a threshold lies in \[0, 1\]"):
            curve_at(curve, t)


GOOD = pd.DataFrame({"label": [0, 1], "prediction": [0, 0], "confidence": [0.9, 0.6]})


@pytest.mark.parametrize("clean, adversarial, sentence", [
    (GOOD.drop(columns="confidence"), GOOD, "the clean table lacks the column confidence"),
    (GOOD, GOOD[["confidence"]], "the adversarial table lacks the column label, prediction"),
    (GOOD[:0], GOOD, "the clean table must have rows"),
    (GOOD, GOOD[:0], "the adversarial table must have rows"),
    (GOOD, GOOD.assign(confidence=[0.5, 1.2]), "confidences in"),
    (GOOD.assign(confidence=[0.5, -0.1]), GOOD, "confidences in"),
    (GOOD, GOOD.assign(confidence=[0.5, math.nan]), "confidences in"),
    (GOOD.assign(confidence=[90.0, 60.0]), GOOD, "confidences in"),
])
def test_tables_that_cannot_be_are_refused(clean, adversarial, sentence):
    with pytest.raises(ValueError, match=sentence):
        success_fail(clean, adversarial)


@pytest.mark.parametrize("level", [0, 1, 2, -0.5, 95, None, "0.95"])
def test_a_level_that_cannot_be_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        success_fail(GOOD, GOOD, level)


# tied confidences at 1, as saturated models have them: success and failure change at the same threshold
STEEP = success_fail(pd.DataFrame({"label": 0, "prediction": 0, "confidence": [1.0, 1.0, 1.0, 0.3]}),
                     pd.DataFrame({"label": 0, "prediction": 1, "confidence": [1.0] * 200 + [0.2] * 200}))


@pytest.fixture
def axes():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_the_staircase_is_drawn_pessimistically(axes):
    "Failure rises before success does"
    plot_success_fail({"undefended": STEEP}, axes)
    line = axes.lines[0]
    assert line.get_drawstyle() == "steps-post" and line.get_label() == "undefended"
    assert (np.diff(line.get_xdata()) >= 0).all() and (np.diff(line.get_ydata()) >= 0).all()
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0) and (line.get_xdata()[-1], line.get_ydata()[-1]) == (1, 1)
    half = curve_at(STEEP, 0.5)
    assert (axes.lines[1].get_xdata()[0], axes.lines[1].get_ydata()[0]) == (half.failure, half.success)


def test_the_band_lies_around_the_staircase(axes):
    from matplotlib.path import Path

    plot_success_fail({"undefended": STEEP}, axes)
    band = Path(axes.collections[0].get_paths()[0].vertices)
    row = STEEP[STEEP.success > 0].iloc[-1]
    for height in 0.1, 0.4, 0.7:  # below the first success the staircase goes up at that row's failure
        inside = [u for u in np.linspace(0, 1, 501) if band.contains_point((u, height))]
        assert min(inside) == pytest.approx(row.failure_low, abs=0.01) and max(inside) == pytest.approx(row.failure_high, abs=0.01)


def test_the_band_is_the_failures_and_no_other_column_can_be_drawn_in_it(axes):
    with pytest.raises(TypeError, match="failure"):
        plot_success_fail({"undefended": STEEP}, axes, failure="failure_upper")


# ---------------------------------------------------------------------------------------------------------------------
# Noisy logit pairing on logistic regression is weight decay (appendix B.1.3)


@pytest.mark.parametrize("classes, pixels", [(2, 1), (2, 9), (5, 16)])
def test_noisy_logit_pairing_is_weight_decay(classes, pixels):
    "The noise runs through +-sqrt(d) e_i, whose covariance is the identity: the mean is a finite sum"
    rng = generator(classes)
    w = torch.randn(classes, pixels, generator=rng, dtype=torch.float64, requires_grad=True)
    b = torch.randn(classes, generator=rng, dtype=torch.float64, requires_grad=True)
    noise = torch.cat([torch.eye(pixels), -torch.eye(pixels)]).double() * pixels**0.5
    torch.testing.assert_close(noise.T @ noise / len(noise), torch.eye(pixels).double())
    x, y = torch.rand(1, pixels, generator=rng, dtype=torch.float64).expand(len(noise), -1), torch.zeros(len(noise), dtype=torch.int64)
    clean, noisy = x @ w.T + b, (x + noise) @ w.T + b
    penalty = label_smoothing_pairing(clean, noisy, y, pairing=1.0) - label_smoothing_pairing(clean, noisy, y, pairing=0.0)
    decay = (w**2).sum() / classes  # the mean over the logits of each one's w'w
    torch.testing.assert_close(penalty, decay)
    ours, theirs = (torch.autograd.grad(v, [w, b], allow_unused=True, retain_graph=True) for v in (penalty, decay))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], torch.zeros(classes, dtype=torch.float64))
    twice = label_smoothing_pairing(clean, noisy, y, pairing=2.0) - label_smoothing_pairing(clean, noisy, y, pairing=0.0)
    torch.testing.assert_close(twice, 2 * decay)


# ---------------------------------------------------------------------------------------------------------------------
# Thresholds and robust errors


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@settings(deadline=None, max_examples=100)
@given(held=tables(), share=st.floats(0.001, 1) | st.sampled_from([0.5, 0.95, 0.98, 0.99, 1.0]))
def test_the_threshold_is_the_highest_that_accepts_the_share(held, share, dtype):
    held = held.assign(confidence=held.confidence.astype(dtype))
    right = held[held.label == held.prediction].confidence.to_numpy()
    if not len(right):
        with pytest.raises(ValueError, match="needs held-out scores"):
            choose_threshold(held.confidence, keep=share, right=held.prediction == held.label)
        return
    t = choose_threshold(held.confidence, keep=share, right=held.prediction == held.label)
    lowest = right[right.astype(float) > t].min()
    assert np.mean(right.astype(float) > t) >= share - 1e-9
    assert np.mean(right > lowest) < share  # the next threshold up, at a confidence, accepts too few
    assert robust_error(held, held, t)[1] >= math.ceil(share * len(right) - 1e-9)


@pytest.mark.parametrize("share", [0.95, 0.98, 0.99, 1.0])
def test_robust_error_answers_what_the_threshold_accepts(share):
    "Tables hold float32; a comparison in float32 would round the threshold up to the confidence that it lies below"
    confidence = torch.rand(100, generator=generator(0)).numpy()
    held = pd.DataFrame({"label": 0, "prediction": 0, "confidence": confidence})
    assert robust_error(held, held, choose_threshold(held.confidence, keep=share, right=held.prediction == held.label)) == (0, round(100 * share))


@pytest.mark.parametrize("share", [0, -0.1, 1.01, 95, None, math.nan, "0.95"])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises((TypeError, ValueError), match="share of them|is chosen by|must be a number"):
        choose_threshold(GOOD.confidence, keep=share, right=GOOD.prediction == GOOD.label)


@settings(deadline=None, max_examples=100)
@given(scores=st.lists(st.floats(allow_nan=False), min_size=1, max_size=30), lost=st.floats(0, 0.99))
def test_the_two_ways_to_ask_for_a_threshold_agree(scores, lost):
    right = [True] * len(scores)
    kept = (len(scores) - int(lost * len(scores) + 1e-9)) / len(scores)
    assert choose_threshold(scores, lose=lost) == choose_threshold(scores, keep=kept, right=right)


def test_a_threshold_is_asked_for_in_one_way():
    for ways in {}, {"keep": 0.9}, {"lose": 0.1, "right": [True]}, {"keep": 0.9, "lose": 0.1, "right": [True]}:
        with pytest.raises(ValueError, match="is chosen by `keep`"):
            choose_threshold([0.5], **ways)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.floats(0, 1), st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
       t=st.floats(0, 1))
def test_robust_error_by_brute_force(rows, t):
    clean = pd.DataFrame([(y, p, c) for y, p, c, _, _ in rows], columns=["label", "prediction", "confidence"])
    attacked = pd.DataFrame([(y, p, c) for y, _, _, p, c in rows], columns=["label", "prediction", "confidence"])
    wrong = sum((c > t and p != y) or (d > t and q != y) for y, p, c, q, d in rows)
    answered = sum(c > t or d > t for _, _, c, _, d in rows)
    found = robust_error(clean, attacked, t)
    assert found == (found.wrong, found.answered) == (wrong, answered)
    assert found.rate == (wrong / answered if answered else 0)


def test_robust_error_needs_the_same_examples():
    for other in GOOD[:1], GOOD[::-1]:
        with pytest.raises(ValueError, match="the same examples in the same order"):
            robust_error(GOOD, other, 0.5)


@pytest.mark.parametrize("t", [-0.1, 1.1, 95, math.nan, None, "0.5"])
def test_nobody_is_counted_at_a_threshold_that_cannot_be(t):
    with pytest.raises(ValueError, match=r"a threshold lies in \[0, 1\]"):
        robust_error(GOOD, GOOD, t)


def test_counts_and_thresholds_need_confidences():
    for call in (lambda: success_fail(None, GOOD), lambda: robust_error(GOOD, None, 0.5)):
        with pytest.raises(TypeError, match="table must be a DataFrame"):
            call()
    for bad in GOOD.drop(columns="confidence"), GOOD.assign(confidence=[0.5, math.nan]):
        with pytest.raises(ValueError, match="the adversarial table (lacks the column confidence|must have rows)"):
            robust_error(GOOD, bad, 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# Bundling


def test_a_bundle_takes_the_most_confident_point_of_each_example():
    y, rng = torch.tensor([0, 1, 2, 0]), generator(1)
    runs = [with_wrong_confidence(Found(torch.rand(4, 1, 2, 2, generator=rng), torch.rand(4, generator=rng), torch.randn(4, 3, generator=rng),
                                  torch.randint(9, (4,), generator=rng)), y) for _ in range(5)]
    before = [f.x.clone() for f in runs]
    best = bundle(*runs)
    winner = torch.stack([f.wrong_confidence for f in runs]).argmax(0)
    for i, w in enumerate(winner.tolist()):
        for name in "x", "value", "logits", "confidence":
            assert torch.equal(getattr(best, name)[i], getattr(runs[w], name)[i])
    assert torch.equal(best.passes, sum(f.passes for f in runs))
    assert all(torch.equal(f.x, b) for f, b in zip(runs, before, strict=True))  # nobody's result is changed
    assert bundle(runs[0]).x is runs[0].x
    assert torch.equal(bundle(bundle(*runs[:2]), *runs[2:]).x, best.x)


def test_of_equals_the_first_is_kept():
    y, logits = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3)
    first, second = (with_wrong_confidence(Found(torch.full((2, 1, 1, 1), v), torch.zeros(2), logits, torch.ones(2, dtype=torch.int64)), y) for v in (0.1, 0.2))
    assert torch.equal(bundle(first, second).x, first.x) and torch.equal(bundle(second, first).x, second.x)


def test_what_does_not_belong_together_is_not_bundled():
    y = torch.zeros(2, dtype=torch.int64)
    one = found_at(torch.zeros(2, 3), y)
    for others in ((), (one, found_at(torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64)))):
        with pytest.raises(ValueError, match="bundle needs one or more results for the same images"):
            bundle(*others)
    with pytest.raises(ValueError, match="score_inside adds it"):
        bundle(one, Found(one.x, one.value, one.logits, one.passes))


def test_ineligible_points_are_never_chosen():
    model, x, y = network(), images(5), torch.tensor([0, 1, 2, 3, 0])
    z = x.clone()
    z[0] = z[0].clamp(0.2, 0.8) * 0 + torch.nan
    z[1, 0, 0, 0] = torch.inf
    z[2] = (z[2] + 0.3).clamp(0, 1)
    z[3, 0, 0, 0] = -0.01
    z[4] = (z[4] + 0.05).clamp(0, 1)
    told = score_inside(model, x, y, Linf(0.1), z)
    assert torch.equal(told.x[:4], x[:4]) and torch.equal(told.x[4], z[4])
    torch.testing.assert_close(told.logits, predict(model, told.x))
    torch.testing.assert_close(told.wrong_confidence, WrongConfidence(y)(told.logits).exp())
    assert (told.passes == 0).all()
    kept = score_inside(model, x, y, Linf(0.1), Found(z, z[:, 0, 0, 0], torch.full((5, 4), torch.nan), torch.full((5,), 3)))
    assert torch.equal(kept.x, told.x) and (kept.passes == 3).all() and torch.equal(kept.logits, told.logits)
    with pytest.raises(ValueError, match=r"points of shape \(4, 1, 3, 3\)"):
        score_inside(model, x, y, Linf(0.1), z[:4])


@given(y=st.lists(st.integers(0, 5), min_size=1, max_size=5), more=st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_wrong_classes(y, more):
    classes = max(y) + 2 + more
    assert wrong_classes(torch.tensor(y), classes).tolist() == [[k for k in range(classes) if k != label] for label in y]


@pytest.mark.parametrize("how", [{}, {"steps": 5}])
def test_logarithms_last_where_probabilities_vanish(how):
    "All wrong classes have probability 0 in float32, and e^-200 is still more than e^-250"
    model, x, y = linear(4)[0], images(1), torch.tensor([0])
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([300.0, 0.0, 50.0, 100.0]))
    found = max_confidence(model, x, y, Linf(0.1), **how)
    assert found.wrong_confidence.item() == 0 and -205 < found.value.item() < -190
    torch.testing.assert_close(found.value, WrongConfidence(y)(found.logits))


# ---------------------------------------------------------------------------------------------------------------------
# The attack's contracts

BALLS = [Linf(0.1), L2(0.4), Linf(torch.linspace(0.02, 0.2, 6)), L2(torch.linspace(0.1, 0.9, 6))]
HOW = [{}, {"steps": 3}, {"steps": 3, "restarts": 2}, {"steps": 0}, {"steps": 1, "step_size": 0.001}, {"restarts": 2}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2", "linf each", "l2 each"])
def test_points_lie_in_their_sets_and_are_scored_there(ball, how):
    model, x = network(), images()
    found = max_confidence(model, x, LABELS, ball, **how)
    assert ball.contains(found.x, x).all() and (found.x >= 0).all() and (found.x <= 1).all()
    torch.testing.assert_close(found.logits, predict(model, found.x), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.wrong_confidence, WrongConfidence(LABELS)(found.logits).exp(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.value, found.wrong_confidence.log(), atol=1e-5, rtol=0)
    assert found.passes.dtype == torch.int64 and found.passes.shape == (6,)
    if "steps" in how:
        assert (found.passes == 3 * how["steps"] * how.get("restarts", 1)).all()  # of 4 classes 3 are wrong


@pytest.mark.parametrize("how", [*HOW, {"optimizer": lambda model, objective, x, ball, seed: (x - 0.05).clamp(0, 1)}], ids=lambda how: "an optimizer of one's own" if "optimizer" in how else str(how))
@pytest.mark.parametrize("seed", range(3))
def test_never_less_confident_than_the_clean_image(seed, how):
    model, x = linear(4, scale=10, seed=seed)[0], images(6, seed=seed)
    clean = WrongConfidence(LABELS)(predict(model, x)).exp()
    found = max_confidence(model, x, LABELS, Linf(0.1), seed=seed, **how)
    assert (found.wrong_confidence >= clean - 1e-6).all()


@pytest.mark.parametrize("how", [{}, {"steps": 2}])
def test_restarts_and_bundles_are_never_worse(how):
    model, x = network(), images()
    runs = [max_confidence(model, x, LABELS, Linf(0.2), restarts=r, seed=5, **how) for r in (1, 2, 4)]
    for fewer, more in itertools.pairwise(runs):
        assert (more.wrong_confidence >= fewer.wrong_confidence).all() and (more.passes >= fewer.passes).all()


@pytest.mark.parametrize("how", [{}, {"steps": 2, "step_size": 0.02}, {"restarts": 2}])
def test_the_same_seed_finds_the_same_whatever_the_batch_size(how):
    model, x = network(), images()
    one, *others = (max_confidence(model, x, LABELS, Linf(0.2), seed=3, batch_size=b, **how) for b in (256, 1, 4, 17))
    for other in others:
        torch.testing.assert_close(one.wrong_confidence, other.wrong_confidence, atol=1e-5, rtol=0)
        assert torch.equal(one.passes, other.passes)
    again = max_confidence(model, x, LABELS, Linf(0.2), seed=3, **how)
    assert torch.equal(one.x, again.x) and torch.equal(one.logits, again.logits)
    if "steps" in how:  # the race ends in the same corners of the set from everywhere
        assert not torch.equal(one.x, max_confidence(model, x, LABELS, Linf(0.2), seed=4, **how).x)
    each = max_confidence(model, x[2:], LABELS[2:], Linf(0.2), seed=streams(3, 6)[2:], **how)
    alone = max_confidence(model, x[3:], LABELS[3:], Linf(0.2), seed=streams(3, 6)[3:], **how)
    torch.testing.assert_close(each.wrong_confidence[1:], alone.wrong_confidence, atol=1e-5, rtol=0)


def test_each_example_has_its_own_eps():
    model, x, eps = network(), images(), torch.linspace(0.02, 0.3, 6)
    together = max_confidence(model, x, LABELS, Linf(eps), seed=torch.arange(6))
    for i in range(6):
        alone = max_confidence(model, x[i : i + 1], LABELS[i : i + 1], Linf(eps[i].item()), seed=torch.tensor([i]))
        torch.testing.assert_close(together.wrong_confidence[i : i + 1], alone.wrong_confidence, atol=1e-5, rtol=0)
    assert ((together.x - x).abs().flatten(1).amax(1) <= eps + 1e-6).all()


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_any_number_of_classes(classes, steps):
    model, W, b = linear(classes, scale=2, seed=1)
    x, y = images(2), torch.tensor([0, classes - 1])
    found = max_confidence(model, x, y, Linf(0.3), steps)
    assert found.logits.shape == (2, classes) and Linf(0.3).contains(found.x, x).all()
    best = [max(solve_linf(W, b, t, x[i].double().numpy().ravel(), 0.3) for t in range(classes) if t != y[i]) for i in range(2)] if classes < 4 else None
    if best and steps is None:
        np.testing.assert_allclose(found.wrong_confidence, np.exp(best), atol=1e-3)
    assert (found.wrong_confidence >= WrongConfidence(y)(predict(model, x)).exp() - 1e-6).all()


def test_with_a_thousand_classes_the_race_finds_what_the_exhaustive_attack_finds():
    model, x, y = linear(1000, scale=2, seed=1)[0], images(2), torch.tensor([3, 500])
    race, full = max_confidence(model, x, y, Linf(0.3)), max_confidence(model, x, y, Linf(0.3), 20)
    assert (race.wrong_confidence >= full.wrong_confidence - 1e-3).all() and (race.passes < full.passes / 10).all()


def steep(classes, height=0.3):
    "A linear model in which the last class trails all others on black images and leads them all where every pixel is at `height`"
    model, _, _ = linear(classes, scale=0.5, seed=2)
    with torch.no_grad():
        model[1].weight.copy_(-model[1].weight.abs())
        model[1].weight[-1] = 40
        model[1].bias[-1] = 30 - 40 * 9 * height
    return model


@pytest.mark.parametrize("how", [{}, {"steps": 2}])
def test_of_more_than_a_thousand_classes_every_one_is_tried(how):
    model, x, y = steep(1500), torch.zeros(2, 1, 3, 3), torch.tensor([0, 1])
    assert (predict(model, x).argsort(1)[:, 0] == 1499).all()
    found = max_confidence(model, x, y, Linf(0.3), **how)
    assert (found.logits.argmax(1) == 1499).all() and (found.wrong_confidence > 0.99).all()


class Largest(TorchDispatchMode):
    "The number of values in the largest tensor that is made"

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor):
                self.most = max(self.most, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize("how", [{}, {"steps": 1}])
def test_memory_does_not_grow_with_the_number_of_classes(how, monkeypatch):
    "99 targets of two images, 16 rows at a time: no tensor holds many more images than that"
    monkeypatch.setattr(maxconfidence, "_AT_ONCE", 2**16)
    model, x, y = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 100)), images(2, 64), torch.tensor([0, 1])
    with Largest() as seen:
        max_confidence(model, x, y, Linf(0.3), batch_size=16, **how)
    assert 8 * 64 * 64 <= seen.most <= 30 * 64 * 64  # the race holds the points of fifteen targets before and after a round


def test_a_race_in_small_shares_is_the_same_race(monkeypatch):
    model, x, y = linear(60, scale=2, seed=1)[0], images(5), torch.arange(5)
    whole = [max_confidence(model, x, y, Linf(0.2), **how) for how in ({}, {"steps": 3})]
    monkeypatch.setattr(maxconfidence, "_AT_ONCE", 1)
    for one, how in zip(whole, ({}, {"steps": 3}), strict=True):
        shared = max_confidence(model, x, y, Linf(0.2), **how)
        torch.testing.assert_close(shared.x, one.x, atol=1e-6, rtol=0)
        assert torch.equal(shared.passes, one.passes)


def test_images_that_are_misclassified_already_get_worse():
    model, x = network(), images()
    wrong = (predict(model, x).argmax(1) + 1) % 4  # labels that the model does not give
    clean = predict(model, x).softmax(1).amax(1)
    for how in {}, {"steps": 5}:
        found = max_confidence(model, x, wrong, Linf(0.1), **how)
        assert (found.wrong_confidence >= clean - 1e-6).all() and (found.wrong_confidence > clean).any()
    rows = evaluate(model, x, wrong, {"max": partial(max_confidence, ball=Linf(0.1))})
    assert curve_at(success_fail(rows[rows.attack == "clean"], rows[rows.attack == "max"]), 0).failure == 1


def test_an_example_with_a_sure_mistake_costs_next_to_nothing():
    model, x = linear(4, scale=200, seed=0)[0], images()
    wrong = (predict(model, x).argmax(1) + 1) % 4
    assert (max_confidence(model, x, wrong, Linf(0.01)).passes <= 6).all()


def test_another_optimizer_may_return_plain_points():
    model, x = network(), images()
    asked = []

    def corner(model, objective, x, ball, seed):
        asked.append((objective, len(x), ball, seed))
        return ball.project((x + 1).round(), x)

    found = max_confidence(model, x, LABELS, Linf(torch.full((6,), 0.1)), optimizer=corner)
    (objective, rows, ball, seeds), = asked
    assert rows == 18 and isinstance(objective, LogConfidence) and objective.target.tolist() == wrong_classes(LABELS, 4).flatten().tolist()
    assert ball.eps.shape == (18,) and seeds.shape == (18,) and len(set(seeds.tolist())) == 18
    assert (found.passes == 0).all() and Linf(0.1).contains(found.x, x).all()


@pytest.mark.parametrize("cheat", [lambda x: torch.full_like(x, torch.nan), lambda x: 1 - x, lambda x: x + 0.5], ids=["nan", "negative", "outside"])
def test_an_optimizer_cannot_cheat(cheat):
    model, x = network(), images()
    found = max_confidence(model, x, LABELS, Linf(0.01), optimizer=lambda model, objective, x, ball, seed: cheat(x))
    assert Linf(0.01).contains(found.x, x).all()
    torch.testing.assert_close(found.wrong_confidence, WrongConfidence(LABELS)(predict(model, found.x)).exp())


def test_foolbox_can_be_the_optimizer():
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")

    def by_foolbox(model, objective, x, ball, seed):
        attack = foolbox.attacks.LinfPGD(steps=10, random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return attack.run(wrapped, x, foolbox.criteria.TargetedMisclassification(objective.target), epsilon=ball.eps)

    model, x = network().eval(), images()
    found = max_confidence(model, x, LABELS, Linf(0.1), optimizer=by_foolbox)
    clean = WrongConfidence(LABELS)(predict(model, x)).exp()
    assert Linf(0.1).contains(found.x, x).all() and (found.wrong_confidence > clean).all()
    ours = max_confidence(model, x, LABELS, Linf(0.1))
    both = bundle(ours, found, score_inside(model, x, LABELS, Linf(0.1), x))
    assert torch.equal(both.wrong_confidence, torch.maximum(ours.wrong_confidence, found.wrong_confidence))


def test_the_public_recipe_is_a_bundle():
    model, x = network(), images()
    found = public_recipe(model, x, LABELS, Linf(0.1), steps=2, step_size=0.05, longer=3, seed=1)
    assert (found.passes == 3 * 2 + 3 * 6).all()
    for part in max_confidence(model, x, LABELS, Linf(0.1), 2, step_size=0.05, seed=1), max_confidence(model, x, LABELS, Linf(0.1), 6, step_size=0.05 / 3, seed=2):
        assert (found.wrong_confidence >= part.wrong_confidence).all()


def test_against_a_loss_attack_on_three_classes():
    "Maximising the loss of the right class spreads over both others; MaxConfidence settles for one (section 4)"
    model, W, b = linear(3, dtype=torch.float64, scale=1.5, seed=7)
    x, y = images(20, seed=2, dtype=torch.float64), torch.arange(20) % 3
    loss = with_wrong_confidence(maximize(model, CrossEntropy(y), x, Linf(0.2), steps=40), y)
    ours = max_confidence(model, x, y, Linf(0.2))
    assert (ours.wrong_confidence >= loss.wrong_confidence - 1e-4).all() and (ours.wrong_confidence > loss.wrong_confidence + 1e-3).any()


def dropout_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


@pytest.mark.parametrize("how", [{}, {"steps": 2}])
def test_the_model_and_the_world_are_left_as_they_were(how):
    model, x = dropout_model().train(), images().requires_grad_()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    before, state, pixels = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state(), x.detach().clone()
    numpy_state = np.random.get_state()[1].copy()
    found = max_confidence(model, x, LABELS, Linf(0.1), **how)
    assert [m.training for m in model] == [True, True, True, False, True] and model.training
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5 and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(x.detach(), pixels) and x.grad is None
    assert not any(getattr(found, n).requires_grad for n in ("x", "value", "logits", "confidence"))
    torch.testing.assert_close(found.wrong_confidence, max_confidence(model.eval(), x, LABELS, Linf(0.1), **how).wrong_confidence)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(context):
    model, x = network(), images()
    expected = max_confidence(model, x, LABELS, Linf(0.1)).wrong_confidence
    with context():
        found = max_confidence(model, x, LABELS, Linf(0.1))
        inside = max_confidence(model, images(), LABELS, Linf(torch.full((6,), 0.1)), steps=2)
    torch.testing.assert_close(found.wrong_confidence, expected)
    assert torch.isfinite(inside.wrong_confidence).all()


def test_a_number_is_an_l_inf_radius():
    model, x = network(), images()
    for attack in max_confidence, partial(public_recipe, steps=1, step_size=0.05, longer=2):
        assert torch.equal(attack(model, x, LABELS, 0.2).x, attack(model, x, LABELS, Linf(0.2)).x)
    assert torch.equal(score_inside(model, x, LABELS, 0.1, x + 0.2).x, x)


@pytest.mark.parametrize("change, error, sentence", [
    ({"x": 255 * images()}, ValueError, "divide by 255"), ({"x": images() + torch.nan}, ValueError, "NaN or infinite"),
    ({"x": images().numpy()}, TypeError, "images must be a torch.Tensor"), ({"x": images()[0]}, ValueError, r"shape \(N, C, H, W\)"),
    ({"y": LABELS.float()}, TypeError, "integer class indices"), ({"y": LABELS[:2]}, ValueError, r"labels must have shape \(6,\)"),
])
def test_images_and_labels_are_checked_before_points_are_admitted(change, error, sentence):
    with pytest.raises(error, match=sentence):
        score_inside(**{"model": network(), "x": images(), "y": LABELS, "ball": Linf(0.1), "points": images()} | change)


@pytest.mark.parametrize("kind, gets", [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_admitted_points_are_pixels_of_the_images_precision_without_a_gradient(kind, gets):
    x = nn.Parameter(images().to(kind))
    for points in x, x.detach() + 1e-6:
        found = score_inside(network(), x, LABELS, 0.1, points)
        assert found.x.dtype == gets and not found.x.requires_grad and found.x.min() >= 0 and found.x.max() <= 1


def test_points_and_lengths_of_another_kind_are_refused():
    model, x = network(), images()
    with pytest.raises(TypeError, match="points must be a tensor of images or a Found, not ndarray"):
        score_inside(model, x, LABELS, 0.1, x.numpy())
    for wrong in {"longer": 2.5}, {"longer": None}, {"step_size": None}:
        with pytest.raises(ValueError, match="the longer run"):
            public_recipe(model, x, LABELS, 0.1, steps=1, **wrong)


@pytest.mark.parametrize("ball", [L0(10), L0(torch.tensor([3, 4, 5, 6, 9, 12]))])
def test_as_many_values_may_change_as_the_set_allows(ball):
    model, x = network(side=5), images(6, 5)
    found = max_confidence(model, x, LABELS, ball)
    clean = WrongConfidence(LABELS)(predict(model, x)).exp()
    assert ball.contains(found.x, x).all() and (found.wrong_confidence > clean + 0.01).sum() >= 4


BAD = {
    "255": (lambda x, y: dict(x=x * 255), ValueError, "divide by 255"),
    "one image": (lambda x, y: dict(x=x[0]), ValueError, r"shape \(N, C, H, W\)"),
    "bytes": (lambda x, y: dict(x=(x * 255).byte()), TypeError, "floating point"),
    "array": (lambda x, y: dict(x=x.numpy()), TypeError, "torch.Tensor"),
    "empty": (lambda x, y: dict(x=x[:0], y=y[:0]), ValueError, "empty"),
    "nan": (lambda x, y: dict(x=torch.where(x > 0.5, torch.nan, x)), ValueError, "NaN or infinite"),
    "labels short": (lambda x, y: dict(y=y[:-1]), ValueError, r"labels must have shape \(6,\)"),
    "labels high": (lambda x, y: dict(y=y + 1), ValueError, r"0\.\.3"),
    "labels negative": (lambda x, y: dict(y=y - 1), ValueError, r"0\.\.3"),
    "labels float": (lambda x, y: dict(y=y.float()), TypeError, "integer class indices"),
    "eps too few": (lambda x, y: dict(ball=Linf(torch.full((3,), 0.1))), ValueError, "eps"),
    "eps too few, every class": (lambda x, y: dict(ball=Linf(torch.full((3,), 0.1)), steps=2), ValueError, "eps"),
    "eps too many": (lambda x, y: dict(ball=Linf(torch.full((9,), 0.1))), ValueError, "eps"),
    "eps too many, every class": (lambda x, y: dict(ball=L2(torch.full((9,), 0.1)), steps=2), ValueError, "eps"),
    "steps": (lambda x, y: dict(steps=-1), ValueError, "steps must be at least 0"),
    "no restart": (lambda x, y: dict(restarts=0), ValueError, "restarts"),
    "restarts None": (lambda x, y: dict(restarts=None), TypeError, "restarts must be a whole number"),
    "half a restart": (lambda x, y: dict(restarts=1.5), TypeError, "restarts must be a whole number"),
    "no labels": (lambda x, y: dict(y=None), TypeError, "labels must be a torch.Tensor"),
    "no set": (lambda x, y: dict(ball="8/255"), TypeError, "ball must be a set such as"),
    "another number": (lambda x, y: dict(ball=8.0), ValueError, "255"),
    "step_size": (lambda x, y: dict(steps=2, step_size=10.0), ValueError, "255"),
    "step_size alone": (lambda x, y: dict(step_size=0.01), ValueError, "step_size needs steps"),
    "step_size of an optimizer": (
        lambda x, y: dict(step_size=0.01, optimizer=lambda model, objective, x, ball, seed: x),
        ValueError,
        "step_size.*give it to the optimizer",
    ),
    "two optimizers": (lambda x, y: dict(steps=2, optimizer=lambda model, objective, x, ball, seed: x), ValueError, "optimizer"),
    "batch": (lambda x, y: dict(batch_size=0), ValueError, "batch_size must be"),
    "no batch": (lambda x, y: dict(batch_size=None), TypeError, "batch_size must be a whole number"),
    "half a batch": (lambda x, y: dict(batch_size=1.5), TypeError, "batch_size must be a whole number"),
    "no optimizer": (lambda x, y: dict(optimizer="pgd"), TypeError, "an optimizer is called as .* which str cannot be"),
    "seeds": (lambda x, y: dict(seed=torch.arange(3)), ValueError, "seed"),
    "a function": (lambda x, y: dict(model=lambda x: x), TypeError, "torch.nn.Module"),
    "logits nan": (lambda x, y: dict(model=nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Threshold(99, torch.nan))), ValueError, "NaN or infinite"),
    "one logit": (lambda x, y: dict(model=linear(1)[0]), ValueError, "K >= 2"),
    "points short": (lambda x, y: dict(optimizer=lambda model, objective, x, ball, seed: x[:2]), ValueError, "points of shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_a_sentence(case):
    change, error, sentence = BAD[case]
    x, y = images(), LABELS
    arguments = {"model": network(), "x": x, "y": y, "ball": Linf(0.1)} | change(x, y)
    with pytest.raises(error, match=sentence):
        max_confidence(**arguments)


@pytest.mark.parametrize("eps", [0, -0.1, 1.5, 8, math.nan, math.inf])
def test_radii_that_cannot_be_are_refused(eps):
    with pytest.raises(ValueError, match="eps"):
        Linf(eps)


# ---------------------------------------------------------------------------------------------------------------------
# Failure at a given success


def tables_of(n, seed):
    "A clean and an attacked table of n examples, with ties"
    rng = np.random.default_rng(seed)
    return [
        pd.DataFrame({"label": np.arange(n) % 3, "prediction": rng.integers(0, 3, n), "confidence": rng.integers(1, 12, n) / 11})
        for _ in range(2)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_failure_at_a_success_is_the_curves_in_every_sample(seed):
    clean, attacked = tables_of(30, seed)
    samples = with_samples(30, draws=15, seed=seed)
    for success, keep in (0.1, None), (0.25, None), (None, 0.5), (None, 1.0):
        found = failure_at(clean, attacked, samples, success, keep)
        for frequencies, value in zip(samples, found, strict=True):
            again = np.repeat(np.arange(30), frequencies)
            curve = success_fail(clean.iloc[again], attacked.iloc[again])
            wanted = success or keep * curve.success.max()
            there = curve.failure[curve.success >= wanted - 1e-12]
            assert math.isnan(value) if there.empty else value == pytest.approx(100 * there.min())


def test_a_success_that_is_not_reached_has_no_failure():
    clean, attacked = tables_of(30, 0)
    never = clean.assign(prediction=(clean.label + 1) % 3)
    assert np.isnan(failure_at(never, attacked, with_samples(30, 3), keep=0.5)).all()
    assert np.isnan(failure_at(clean, attacked, with_samples(30, 3), success=1.0)[0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(dict(success=None), "give one"), (dict(keep=0.5), "give one"), (dict(samples=np.ones((1, 29))), "same examples")],
)
def test_failure_at_refuses_with_a_sentence(change, sentence):
    clean, attacked = tables_of(30, 0)
    with pytest.raises(ValueError, match=sentence):
        failure_at(clean, attacked, **{"samples": with_samples(30, 3), "success": 0.2} | change)


def test_an_estimate_from_samples_is_never_without_doubt():
    varied = from_samples(np.array([5.0, 4.0, 5.0, 6.0]), 100)
    assert varied.value == 5 and 4 <= varied.low < 5 < varied.high <= 6
    none, no_gap = from_samples(np.zeros(50), 100), from_samples(np.zeros(50), 100, unit="points")
    assert none.low == 0 and none.high == pytest.approx(100 * (1 - 0.025 ** (1 / 100)))
    assert no_gap.low == -none.high and no_gap.high == none.high


@pytest.mark.cuda
def test_on_the_gpu_it_finds_as_much():
    model, x = network(), images()
    here = max_confidence(model, x, LABELS, Linf(0.1))
    for where in x, x.cuda():
        there = max_confidence(network().cuda(), where, LABELS, Linf(torch.full((6,), 0.1)))
        assert there.x.device == where.device
        torch.testing.assert_close(there.wrong_confidence.cpu(), here.wrong_confidence, atol=1e-3, rtol=0)
