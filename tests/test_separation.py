"""The propositions as exact tests; the searches against closed forms; the statements against exact sums and scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from torch import nn
from toys import images

from confnb.attacks import pgd
from confnb.maxconfidence import max_confidence
from confnb.objectives import CrossEntropy, WrongOdds
from confnb.runtime import predict
from confnb.search import maximize
from confnb.sets import L2, Linf
from confnb.statistics import binomial_interval, chebyshev
from confnb.topics.separation import (
    GRID,
    TOP_CONFIDENCE,
    Separation,
    bound,
    confident_points,
    cross_entropy_tau,
    curve_of,
    estimate_separation,
    is_confident,
    mistake_bound,
    separation_curve,
    set_distance,
    squared_tau,
)


def network(classes=4, side=3, seed=0, scale=3.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 12), nn.ReLU(), nn.Linear(12, classes))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def answers(model, x, every=5):
    "The model's own answers, but for each fifth, which is the next class"
    logits = predict(model, x)
    y = logits.argmax(1)
    y[::every] = (y[::every] + 1) % logits.shape[1]
    return y


def linear(pixels, scale, seed):
    "A model of two classes in float64 and the difference of its logits, class 1 less class 0, as weights and bias"
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(scale * rng.normal(size=(2, pixels))))
        model[1].bias.copy_(torch.from_numpy(rng.normal(size=2)) - model[1].weight.sum(1) / 2)
    w, b = model[1].weight.detach().numpy(), model[1].bias.detach().numpy()
    return model, w[1] - w[0], b[1] - b[0]


# ---------------------------------------------------------------------------------------------------------------------
# Propositions 1 and 2, on finite distributions and finite balls


def cubic_tau(q):
    return 3 * (1 - np.asarray(q)) ** 3 + 0.5


LOSSES = {
    "cross-entropy": (cross_entropy_tau, lambda right: -np.log(right)),
    "squared": (squared_tau, lambda right: (1 - right) ** 2),
    "bits": (lambda q: -np.log2(np.maximum(q, 1e-300)), lambda right: -np.log2(right)),
    "cubic": (cubic_tau, cubic_tau),
}


@st.composite
def balls(draw):
    "Probabilities (examples, points, K) in each example's ball, many of them equal, with weights of the examples and labels"
    examples, points, classes = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 4))
    row = st.lists(st.sampled_from([1e-9, 0.1, 1.0, 1.0, 3.0, 9.0, 99.0]), min_size=classes, max_size=classes)
    p = np.array(draw(st.lists(row, min_size=examples * points, max_size=examples * points))).reshape(examples, points, classes)
    weights = np.array(draw(st.lists(st.integers(1, 9), min_size=examples, max_size=examples)), float)
    y = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples)))
    return p / p.sum(2, keepdims=True), weights / weights.sum(), y


@settings(deadline=None, max_examples=200)
@given(game=balls(), p=st.floats(0.001, 1) | st.sampled_from([0.5, 0.75, 0.9, 1.0]), kind=st.sampled_from(sorted(LOSSES)))
def test_propositions_hold_for_every_distribution(game, p, kind):
    probabilities, weights, y = game
    tau, loss = LOSSES[kind]
    rows = np.arange(len(y))
    right = probabilities[rows, :, y]
    wrong = np.where(np.arange(probabilities.shape[2]) == y[:, None, None], -1, probabilities)
    rho = (weights * loss(right).max(1)).sum()
    event = (wrong >= p).any((1, 2))
    assert (weights * event).sum() <= bound(rho, p, tau) * (1 + 1e-9) + 1e-12
    mistake = (wrong.max(2) >= right).any(1)  # a tie is a mistake, too
    assert (weights * mistake).sum() <= mistake_bound(rho, tau) * (1 + 1e-9) + 1e-12


@settings(deadline=None, max_examples=100)
@given(share=st.integers(0, 10), p=st.floats(0.05, 0.999), kind=st.sampled_from(["cross-entropy", "squared", "bits"]))
def test_propositions_cannot_be_improved(share, p, kind):
    "A share of the balls holds a point where the right class has exactly 1 - p, the others none where it has less than 1"
    tau, loss = LOSSES[kind]
    rho = share / 10 * loss(np.float64(1 - p))
    assert bound(rho, p, tau) == pytest.approx(share / 10)
    assert p != 0.5 or mistake_bound(rho, tau) == pytest.approx(share / 10)


class Edge(nn.Module):
    "Two classes on images of one pixel: below 1/2 class 0 has probability p, above 1/2 class 1 is all but certain"

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        right = 4000 * (x.flatten(1) - 0.5).relu() - logit(self.p)
        return torch.cat([torch.zeros_like(right), right], 1)


@pytest.mark.parametrize("p", [0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("bad", [0, 1, 6])
def test_a_model_for_which_the_bounds_are_exact(p, bad):
    x = torch.tensor([0.55] * bad + [0.9] * (6 - bad), dtype=torch.float64).reshape(-1, 1, 1, 1)
    y = torch.ones(6, dtype=torch.int64)
    s = estimate_separation(Edge(p), x, y, Linf(0.1), p, steps=20)
    loss = CrossEntropy(y)(s.found.logits).numpy()
    assert s.count == bad
    for rho, tau in (loss.mean(), cross_entropy_tau), (((1 - np.exp(-loss)) ** 2).mean(), squared_tau):
        assert bound(rho, p, tau) == pytest.approx(s.rate, abs=1e-12)
        assert p != 0.5 or mistake_bound(rho, tau) == pytest.approx((s.found.logits.argmax(1) != y).float().mean().item())


@settings(deadline=None, max_examples=50)
@given(rho=st.floats(0, 50), p=st.floats(0.01, 0.999))
def test_bounds_are_the_formulas_of_the_paper(rho, p):
    assert bound(rho, p) == pytest.approx(-rho / math.log1p(-p))
    assert bound(rho, p, squared_tau) == pytest.approx(rho / p**2)
    assert mistake_bound(rho) == pytest.approx(rho / math.log(2)) and mistake_bound(rho, squared_tau) == pytest.approx(4 * rho)
    assert bound(rho / math.log(2), p, LOSSES["bits"][0]) == pytest.approx(bound(rho, p))  # the base does not matter


def test_bounds_at_the_ends():
    assert bound(2.0, 1.0) == 0 and bound(0.3, 1.0, squared_tau) == 0.3
    assert bound(2.0, 0.0) == math.inf and bound(0.0, 0.0) == math.inf and bound(math.inf, 1.0) == math.inf
    many = bound(0.5, [0.5, 0.9, 1.0])
    assert many.shape == (3,) and (np.diff(many) < 0).all() and many[1] == bound(0.5, 0.9)


@pytest.mark.parametrize("rho, p", [(-0.1, 0.5), (math.nan, 0.5), (1.0, -0.1), (1.0, 1.1), (1.0, [0.5, math.nan])])
def test_a_bound_that_cannot_be_is_refused(rho, p):
    with pytest.raises(ValueError, match="the bound needs a loss of at least 0"):
        bound(rho, p)


@pytest.mark.parametrize("seed", range(3))
def test_markov_holds_on_the_sample_for_every_p(seed):
    "With the losses at the confident points among those that the mean is taken of"
    model, x = network(seed=seed), images(40, seed=seed)
    y, ball = answers(model, x), Linf(0.15)
    sure, climbed = confident_points(model, x, y, ball, TOP_CONFIDENCE, steps=20), pgd(model, x, y, ball, steps=5)
    kappa = torch.stack([CrossEntropy(y)(f.logits.double()) for f in (sure, climbed)]).amax(0).numpy()
    for p in [*GRID, *expit(np.linspace(0, 11, 40))]:
        share = Separation(WrongOdds(y)(sure.logits).numpy(), p).rate
        assert share <= bound(kappa.mean(), p) + 1e-12
        assert share <= bound(((1 - np.exp(-kappa)) ** 2).mean(), p, squared_tau) + 1e-12


# ---------------------------------------------------------------------------------------------------------------------
# Statements


def test_chebyshev_gives_the_papers_numbers():
    assert chebyshev(26, 300)[1] == pytest.approx(14 / 75, abs=1e-15)
    assert chebyshev(277, 300)[0] == pytest.approx(247 / 300, abs=1e-15)
    assert chebyshev(26, 300)[0] == 0 and chebyshev(277, 300)[1] == 1
    assert chebyshev(100, 250, 0.9, eps=0.1) == pytest.approx((0.3, 0.5)) and chebyshev(100, 250) == pytest.approx((0.3, 0.5))
    with pytest.raises(ValueError, match="does not give eps = 0.1 at level 0.9 from 249 trials"):
        chebyshev(100, 249, 0.9, eps=0.1)


@settings(deadline=None, max_examples=200)
@given(trials=st.integers(2, 10**6), level=st.floats(0.01, 0.999))
def test_the_half_width_is_the_least_of_one_digit(trials, level):
    low, high = chebyshev(trials // 2, trials, level)
    allowed = [d * 10.0**e for e in range(-5, 2) for d in range(1, 10) if 1 / (4 * (d * 10.0**e) ** 2 * trials) <= (1 - level) * (1 + 1e-8)]
    centre = trials // 2 / trials
    assert (low, high) == pytest.approx((max(centre - min(allowed), 0), min(centre + min(allowed), 1)), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(trials=st.integers(1, 40), q=st.floats(0, 1), level=st.floats(0.05, 0.99))
def test_statements_hold_as_often_as_they_say(trials, q, level):
    "By the exact sum over all counts"
    chance = np.array([math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(trials + 1)])
    one = [Separation(np.where(np.arange(trials) < k, 1.0, -9.0), 0.5, level) for k in range(trials + 1)]
    for side in lambda s: q <= s.chebyshev[1] + 1e-9, lambda s: s.chebyshev[0] - 1e-9 <= q, lambda s: s.interval[0] - 1e-9 <= q <= s.interval[1] + 1e-9:
        assert chance[[side(s) for s in one]].sum() >= level - 1e-9


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 60), more=st.integers(0, 60), level=st.floats(0.5, 0.99))
def test_a_separation_counts_and_has_the_interval_of_its_count(count, more, level):
    n = max(count + more, 1)
    s = Separation(np.where(np.arange(n) < count, 5.0, -5.0), 0.9, level)
    assert s.interval == binomial_interval(count, n, level) and (s.count, s.trials, s.rate) == (count, n, count / n)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95), (1, 5, math.nan)])
def test_a_statement_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="Chebyshev's statement needs"):
        chebyshev(*arguments)


def test_separation_says_what_its_ends_are_about():
    s = Separation(logit(np.array([0.95, 0.9, 0.89, 0.2])), 0.9)
    text = str(s)
    assert s.count == 2 and s.reached.tolist() == [True, True, False, False]
    assert text.startswith("2 of 4 points (50.0%) have a wrong class with confidence >= 0.9 in their ball.")
    assert f"q >= {s.interval[0]:.3f} whatever the search missed" in text and f"q <= {s.interval[1]:.3f} if it missed nothing" in text
    np.testing.assert_allclose(s.confidences, [0.95, 0.9, 0.89, 0.2])


@pytest.mark.parametrize("odds, p, level, sentence", [
    ([], 0.9, 0.9, "one or more points"),
    ([0.0, math.nan], 0.9, 0.9, "none of them NaN"),
    ([0.0], 0, 0.9, r"p is a confidence, in \(0, 1\], not 0"),
    ([0.0], 90, 0.9, "p is a confidence"),
    ([0.0], math.nan, 0.9, "p is a confidence"),
    ([0.0], 0.9, 90, "level is the probability"),
])
def test_a_separation_that_cannot_be_is_refused(odds, p, level, sentence):
    with pytest.raises(ValueError, match=sentence):
        Separation(np.array(odds), p, level)


# ---------------------------------------------------------------------------------------------------------------------
# Confident regions


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), classes=st.integers(2, 5), scale=st.floats(0.1, 60))
def test_log_odds_are_those_of_the_wrong_class(seed, classes, scale):
    rng = np.random.default_rng(seed)
    logits, y = scale * rng.normal(size=(7, classes)), rng.integers(0, classes, 7)
    ours = WrongOdds(torch.from_numpy(y))(torch.from_numpy(logits)).numpy()
    for row, label, value in zip(logits, y, ours, strict=True):
        terms = [row[j] - math.log(sum(math.exp(row[k] - row.max()) for k in range(classes) if k != j)) - row.max() for j in range(classes) if j != label]
        assert value == pytest.approx(max(terms), rel=1e-9, abs=1e-9)
    p = torch.from_numpy(logits).softmax(1).scatter(1, torch.from_numpy(y)[:, None], 0).amax(1).numpy()
    np.testing.assert_allclose(expit(ours), p, atol=1e-12)


def test_log_odds_see_what_a_softmax_rounds_away():
    logits = torch.tensor([[0.0, 50.0], [0.0, 90.0]])
    assert (logits.softmax(1)[:, 1] == 1).all()
    torch.testing.assert_close(WrongOdds(0)(logits), torch.tensor([50.0, 90.0]).double())
    with pytest.raises(ValueError, match="labels must be class indices 0..1"):
        WrongOdds(2)(logits)


def test_log_odds_are_an_objective():
    model, x = network(), images(6)
    y = answers(model, x)
    found = maximize(model, WrongOdds(y), x, Linf(0.1), 10, batch_size=4)
    torch.testing.assert_close(found.value.double(), WrongOdds(y)(found.logits), rtol=1e-6, atol=1e-5)


def test_confident_means_at_least():
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert is_confident(logits, 0.7499).tolist() == [[True, False], [False, False]]
    assert is_confident(logits, 0.5).tolist() == [[True, False], [True, True]]
    assert not is_confident(logits, 0.7501).any()
    with pytest.raises(ValueError, match="p is a confidence"):
        is_confident(logits, 0)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 8), classes=st.integers(2, 4), p=st.sampled_from([0.2, 0.5, 0.7, 0.9]), order=st.sampled_from([math.inf, 2.0, 1.0]), seed=st.integers(0, 999))
def test_the_distance_of_regions_is_that_of_all_pairs(n, classes, p, order, seed):
    rng = np.random.default_rng(seed)
    points, logits = rng.random((n, 1, 2, 2)), 3 * rng.normal(size=(n, classes))
    sure = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) >= p
    pairs = [np.linalg.norm((points[i] - points[j]).ravel(), order) for i, j in itertools.product(range(n), repeat=2)
             for a, b in itertools.permutations(range(classes), 2) if sure[i, a] and sure[j, b]]
    assert set_distance(torch.from_numpy(points), torch.from_numpy(logits), p, order) == pytest.approx(min(pairs, default=math.inf), abs=1e-7)


def test_the_regions_of_a_linear_model_have_a_known_distance():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[7.0], [-5.0]]))
        model[1].bias.copy_(torch.tensor([-3.0, 2.5]))
    line = torch.linspace(0, 1, 4001, dtype=torch.float64).reshape(-1, 1, 1, 1)
    for p in 0.6, 0.9:
        assert set_distance(line, predict(model, line), p) == pytest.approx(2 * logit(p) / 12, abs=6e-4)
    with pytest.raises(ValueError, match="logits for each of 4001 points, not for 3"):
        set_distance(line, torch.zeros(3, 2), 0.9)


# ---------------------------------------------------------------------------------------------------------------------
# The search


@settings(deadline=None, max_examples=12, derandomize=True)
@given(side=st.integers(1, 4), eps=st.floats(0.02, 0.4), scale=st.floats(0.3, 4), p=st.floats(0.3, 0.99), seed=st.integers(0, 999))
def test_two_linear_classes_are_counted_exactly_in_linf(side, eps, scale, p, seed):
    model, w, b = linear(side * side, scale, seed)
    x = images(30, side, seed, torch.float64)
    y = answers(model, x, 4)
    sign = np.where(y == 0, 1, -1)
    corner = np.clip(x.numpy().reshape(30, -1) + eps * sign[:, None] * np.sign(w), 0, 1)
    surest = sign * (corner @ w + b)
    s = estimate_separation(model, x, y, Linf(eps), p, steps=30, seed=seed)
    clear = np.abs(surest - logit(p)) > 1e-3  # a point that misses by less may be missed
    assert (s.reached == (surest >= logit(p)))[clear].all() and (s.odds <= surest + 1e-9).all()


def test_two_linear_classes_are_counted_exactly_in_l2():
    model, w, b = linear(9, 2.0, 3)
    x = 0.4 + 0.2 * images(30, dtype=torch.float64)
    y = answers(model, x, 4)
    sign = np.where(y == 0, 1, -1)
    surest = sign * (x.numpy().reshape(30, -1) @ w + b) + 0.3 * np.linalg.norm(w)
    for p in 0.5, 0.9:
        s = estimate_separation(model, x, y, L2(0.3), p)
        assert s.count == (surest >= logit(p)).sum() and L2(0.3).contains(s.found.x, x).all()


def test_both_searches_count():
    "At least as many as either finds alone, and each point is in its ball with the odds that are told"
    model, x = network(scale=4), images(60, seed=3)
    y, ball = answers(model, x), Linf(0.1)
    s, alone = estimate_separation(model, x, y, ball, 0.9, steps=15), max_confidence(model, x, y, ball)
    assert s.count >= (alone.wrong_confidence >= 0.9).sum() and 0 < s.count < s.trials
    assert ball.contains(s.found.x, x).all()
    np.testing.assert_allclose(WrongOdds(y)(predict(model, s.found.x)).numpy(), s.odds, atol=1e-4)
    np.testing.assert_allclose(s.found.wrong_confidence.numpy(), s.confidences, atol=1e-6)


def test_an_example_is_done_when_p_is_reached():
    model, x = network(scale=4), images(60, seed=3)
    y, ball = answers(model, x), Linf(0.1)
    found = {p: confident_points(model, x, y, ball, p, steps=40) for p in (0.5, 0.9, TOP_CONFIDENCE)}
    passes = {p: f.passes for p, f in found.items()}
    assert (passes[0.5] <= passes[0.9]).all() and (passes[0.9] <= passes[TOP_CONFIDENCE]).all() and passes[0.5].sum() < 0.8 * passes[TOP_CONFIDENCE].sum()
    at_once = WrongOdds(y)(predict(model, x)) >= logit(0.51)
    assert at_once.any() and (passes[0.5][at_once] == 1).all()
    late = passes[0.9] > 40  # these went on to MaxConfidence: the first search had left them below p
    assert late.any() and (found[0.9].passes[~late] <= 40).all()


def test_one_attack_answers_every_p():
    model, x = network(scale=3, seed=5), images(50, seed=5)
    y, ball, grid = answers(model, x), Linf(0.1), (0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
    curve = separation_curve(model, x, y, ball, grid, steps=25)
    assert curve.p.tolist() == list(grid)
    singly = [estimate_separation(model, x, y, ball, p, steps=25) for p in grid]
    assert curve["count"].tolist() == [s.count for s in singly] and len(set(curve["count"])) > 3
    assert [tuple(r) for r in curve[["low", "high"]].to_numpy()] == [s.interval for s in singly]
    assert [tuple(r) for r in curve[["chebyshev_low", "chebyshev_high"]].to_numpy()] == [s.chebyshev for s in singly]


@settings(deadline=None, max_examples=20)
@given(odds=st.lists(st.floats(-40, 40) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=20), level=st.floats(0.1, 0.99))
@pytest.mark.slow
def test_the_curve_is_what_a_loop_counts_and_falls(odds, level):
    curve = curve_of(np.array(odds), GRID, level)
    half = math.sqrt(math.log(2 / (1 - level)) / (2 * len(odds)))
    assert curve.p.tolist() == [round(0.5 + i / 100, 2) for i in range(51)]
    assert (np.diff(curve["count"]) <= 0).all() and curve["count"].iloc[-1] == 0  # a softmax of finite logits never reaches 1
    for row in curve.itertuples():
        count = sum(o >= logit(row.p) for o in odds)
        assert row.count == count and row.rate == count / len(odds)
        assert row.band_low == pytest.approx(max(row.rate - half, 0)) and row.band_high == pytest.approx(min(row.rate + half, 1))
        assert row.low <= row.rate <= row.high and row.chebyshev_low <= row.rate <= row.chebyshev_high


def test_the_batch_size_does_not_matter_and_the_model_stays_as_it_was():
    model, x = network(scale=4).train(), images(20)
    model[1].weight.requires_grad_(False)
    y, before = answers(model, x), {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (estimate_separation(model, x, y, Linf(0.15), 0.95, steps=10, seed=7, batch_size=size) for size in (256, 3))
    np.testing.assert_allclose(a.odds, b.odds, atol=1e-3)
    assert a.count == b.count and (a.found.passes == b.found.passes).all()
    assert model.training and not model[1].weight.requires_grad and model[3].weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model[3].weight.grad is None


def test_a_number_is_an_l_inf_radius():
    model, x = network(), images(6)
    y = answers(model, x)
    by_number, by_set = (estimate_separation(model, x, y, ball, 0.9, steps=3) for ball in (0.1, Linf(0.1)))
    np.testing.assert_array_equal(by_number.odds, by_set.odds)


def test_each_example_may_have_its_own_radius():
    model, w, b = linear(4, 2.0, 1)
    x, eps = images(12, 2, 1, torch.float64), torch.linspace(0.01, 0.4, 12, dtype=torch.float64)
    y = answers(model, x, 50)
    sign = np.where(y == 0, 1, -1)
    corner = np.clip(x.numpy().reshape(12, -1) + eps.numpy()[:, None] * sign[:, None] * np.sign(w), 0, 1)
    s = estimate_separation(model, x, y, Linf(eps), 0.6, steps=5)
    assert s.count == (sign * (corner @ w + b) >= logit(0.6)).sum()


X, Y = images(3), torch.tensor([0, 1, 2])


@pytest.mark.parametrize("change, kind, sentence", [
    ({"p": 0}, ValueError, "p is a confidence"),
    ({"p": 1.5}, ValueError, "p is a confidence"),
    ({"level": 95}, ValueError, "level is the probability"),
    ({"level": 1.0}, ValueError, "level is the probability"),
    ({"steps": 0}, ValueError, "budget of at least 1 step"),
    ({"steps": 0, "ball": L2(0.5)}, ValueError, "budget of at least 1 step"),
    *(({"steps": steps, "ball": ball}, TypeError, "steps must be a whole number") for steps in (math.nan, 2.5, "3", None) for ball in (Linf(0.1), L2(0.5))),
    ({"ball": "0.1"}, TypeError, "ball must be a set such as"),
    ({"ball": 8.0}, ValueError, "0..255"),
    ({"p": None}, ValueError, "p is a confidence"),
    ({"level": "0.9"}, ValueError, "level is the probability"),
    ({"y": None}, TypeError, "labels must be a torch.Tensor"),
    ({"ball": Linf(torch.tensor([0.1, 0.2]))}, ValueError, "holds 2 values for 3 images"),
    ({"x": X[0]}, ValueError, "shape"),
    ({"x": 255 * X}, ValueError, "divide by 255"),
    ({"y": Y[:2]}, ValueError, "labels must have shape"),
    ({"y": Y.float()}, TypeError, "integer class indices"),
    ({"y": Y + 5}, ValueError, "class indices 0..3"),
    ({"model": lambda x: x}, TypeError, "nn.Module"),
])
def test_a_search_that_cannot_be_is_refused(change, kind, sentence):
    good = {"model": network(), "x": X, "y": Y, "ball": Linf(0.1), "p": 0.9, "level": 0.9, "steps": 3}
    with pytest.raises(kind, match=sentence):
        estimate_separation(**(good | change))


@pytest.mark.parametrize("call, sentence", [(lambda: bound(None, 0.5), "one number, not None"), (lambda: bound("1", 0.5), "one number"),
                                            (lambda: chebyshev(1, 10, eps="0.4"), "does not give eps = '0.4'"), (lambda: chebyshev(None, 10), "needs 0 <= count")])
def test_numbers_that_are_none_are_refused(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()


@pytest.mark.parametrize("p, sentence", [((), "one or more confidences"), (None, "one or more confidences"), (0.9, "one or more confidences"), ((0.5, 1.2), "p is a confidence"), ((0.0,), "p is a confidence")])
def test_a_curve_that_cannot_be_is_refused(p, sentence):
    with pytest.raises(ValueError, match=sentence):
        separation_curve(network(), X, Y, Linf(0.1), p)
