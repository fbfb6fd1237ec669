"Numbers that may be quoted: against double loops, enumerations and other authors' ways to compute them"

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import trapezoid
from toys import SOAK, images, linear

from confnb.certificates import certify
from confnb.maxconfidence import max_confidence
from confnb.runtime import predict
from confnb.selective import rejection_table, robust_error, success_fail
from confnb.statistics import auc, binomial_interval, bootstrap_frequencies
from confnb.summaries import (
    _newcombe,
    augrc,
    augrc_samples,
    compare_failures,
    false_alarms,
    paired_difference,
    success_at,
)
from confnb.tables import evaluate

confidence = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 0.9, 1.0])


@st.composite
def tables(draw, least=1):
    rows = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), confidence), min_size=least, max_size=8))
    return pd.DataFrame(rows, columns=["label", "prediction", "confidence"])


@settings(deadline=None, max_examples=40)
@given(tables(), tables())
def test_augrc_is_what_a_double_loop_counts(clean, attacked):
    won = sum(
        (bad.confidence > good.confidence) + (bad.confidence == good.confidence) / 2
        for bad in attacked.itertuples() if bad.prediction != bad.label
        for good in clean.itertuples()
    )
    assert augrc(clean, attacked) == pytest.approx(won / len(clean) / len(attacked), abs=1e-12)
    curve, wrong = success_fail(clean, attacked), (attacked.prediction != attacked.label).mean()
    coverage, failure = [*curve.coverage[::-1], 1.0], [*curve.failure[::-1], wrong]  # below every confidence, also one of 0
    assert augrc(clean, attacked) == pytest.approx(trapezoid(failure, coverage), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(tables())
def test_of_one_table_it_is_the_generalised_risk_over_its_coverage(table):
    "Thresholds from low to high, the examples of equal confidence leaving together, and the point (0, 0)"
    rows, n = sorted(zip(table.confidence, table.prediction != table.label, strict=True), key=lambda r: r[0]), len(table)
    points = [(1.0, sum(bad for _, bad in rows) / n)]
    for value in sorted(set(table.confidence)):
        left = [bad for c, bad in rows if c > value]
        points.append((len(left) / n, sum(left) / n))
    area = sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:], strict=False))
    assert points[-1] == (0, 0) and augrc(table, table) == pytest.approx(area, abs=1e-12)


def test_augrc_at_its_ends():
    table = pd.DataFrame({"label": 0, "prediction": 1, "confidence": [0.2, 0.4, 0.9]})
    assert augrc(table, table.assign(prediction=0)) == 0  # never wrong
    assert augrc(table, table.assign(confidence=1.0)) == 1  # always wrong, and surer than any clean image
    assert augrc(table, table) == 0.5  # always wrong: the mean coverage


@settings(deadline=None, max_examples=30)
@given(tables(4), st.integers(0, 100))
def test_bootstrap_samples_are_the_numbers_of_the_tables_drawn(table, seed):
    rng, n = np.random.default_rng(seed), len(table)
    attacked = table.assign(prediction=rng.integers(0, 2, n), confidence=rng.integers(0, 4, n) / 3)
    frequencies = bootstrap_frequencies(n, 5, seed)
    for counts, found in zip(frequencies, augrc_samples(table, attacked, frequencies), strict=True):
        rows = np.repeat(np.arange(n), counts)
        assert found == pytest.approx(augrc(table.iloc[rows], attacked.iloc[rows]), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(tables(), tables(), st.floats(0, 1))
def test_success_is_read_at_the_lowest_threshold_that_will_do(clean, attacked, limit):
    curve = success_fail(clean, attacked)
    row = success_at(curve, limit)
    allowed = curve[curve.failure <= limit + 1e-12]
    assert row.threshold == allowed.threshold.min() and row.success == allowed.success.max()


# two models on the same images


@pytest.mark.parametrize("n", [30, pytest.param(100, marks=SOAK)])
@pytest.mark.parametrize("shares", [(0.05, 0.05, 0.1), (0.3, 0.02, 0.0), (0.0, 0.3, 0.1), (0.6, 0.1, 0.1), (0.05, 0.02, 0.02)])
def test_the_interval_of_a_difference_covers_as_often_as_it_says(n, shares):
    both, first, second = np.random.default_rng(0).multinomial(n, [*shares, 1 - sum(shares)], 1500)[:, :3].T
    ends = {c: _newcombe(*map(int, c), n, 0.95) for c in set(zip(both, first, second, strict=True))}
    held = [ends[c][0] <= shares[1] - shares[2] <= ends[c][1] for c in zip(both, first, second, strict=True)]
    assert np.mean(held) > 0.925


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_pair_is_counted_and_turns_round(pairs):
    a, b = (list(side) for side in zip(*pairs, strict=True))
    one, other = paired_difference(a, b), paired_difference(b, a)
    only = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    assert (one.only_first, one.only_second) == only and one.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low)) and one.p == pytest.approx(other.p)
    assert -1 - 1e-9 <= one.low <= one.difference + 1e-12 and one.difference <= one.high + 1e-12 <= 1 + 1e-9
    if sum(only):
        assert one.p == pytest.approx(min(1, 2 * stats.binom.cdf(min(only), sum(only), 0.5)), abs=1e-9)
    else:
        assert one.p == 1 and one.low < 0 < one.high


def test_the_interval_is_the_published_one():
    "Airway hyper-responsiveness before and after transplantation: 1 both, 1 and 7 discordant, 12 neither (Fagerland et al. 2014)"
    found = paired_difference([1, 1] + [0] * 19, [1, 0] + [1] * 7 + [0] * 12)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.507, -0.026) and round(found.p, 3) == 0.070


def test_two_tables_are_paired_by_their_index():
    rng = np.random.default_rng(0)
    tables = [
        pd.DataFrame({"index": range(50), "label": np.arange(50) % 3, "prediction": rng.integers(0, 3, 50), "confidence": rng.random(50)})
        for _ in range(2)
    ]
    first, second = ((t.prediction != t.label) & (t.confidence > 0.3) for t in tables)
    assert compare_failures(*tables, threshold=0.3) == paired_difference(first, second)
    assert compare_failures(tables[0].sample(frac=1, random_state=1), tables[1], threshold=0.3) == paired_difference(first, second)
    apart = compare_failures(*tables, threshold=(0.3, 0.8))
    assert apart.first == first.mean() and apart.second == ((tables[1].prediction != tables[1].label) & (tables[1].confidence > 0.8)).mean()


# false alarms


def test_alarms_that_chance_allows_are_counted_over_all_orders():
    "Of m held-out and n test scores every order is as likely: how many test scores lie below the k-th held-out one"
    m, n, lose = 5, 4, 0.25
    k = int(lose * m)
    chance = np.zeros(n + 1)
    for alarms in range(n + 1):  # alarms test scores among those below the held-out score of rank k
        ways = math.comb(k + alarms, alarms) * math.comb(n - alarms + m - k - 1, n - alarms)
        chance[alarms] = ways / math.comb(m + n, n)
    assert chance.sum() == pytest.approx(1)
    held = np.linspace(0, 1, m)
    for level in (0.5, 0.8, 0.95, 0.99):
        most = false_alarms(held, np.zeros(n), lose, level).most
        assert chance[: most + 1].sum() >= level - 1e-9 and (most == 0 or chance[:most].sum() < level)


@pytest.mark.parametrize("ties", [False, True])
def test_honest_thresholds_pass_and_learned_ones_do_not(ties):
    rng = np.random.default_rng(0)
    def draw(sharper, n):
        found = rng.beta(4 * sharper, 1, n)
        return found.round(1) if ties else found

    passed = [false_alarms(draw(1, 200), draw(1, 300)).fine for _ in range(300)]
    assert np.mean(passed) >= 0.967  # 99 of 100, less four standard errors
    if not ties:
        caught = [not false_alarms(draw(2.5, 200), draw(1, 300)).fine for _ in range(60)]
        assert np.mean(caught) > 0.95


def test_alarms_are_counted_and_said():
    held, tested = np.arange(100) / 100, np.arange(50) / 100
    found = false_alarms(held, torch.as_tensor(tested), lose=0.1)
    assert found.alarms == 10 and found.n == 50 and found.held == 100 and (found.low, found.high) == binomial_interval(10, 50)
    assert not found.fine or found.alarms <= found.most
    few, many = false_alarms(held, tested + 0.5), false_alarms(held + 0.5, tested)
    assert few.fine and few.alarms == 0 and "chance allows up to" in few.sentence
    assert not many.fine and many.alarms == 50 and "has not seen" in many.sentence and "50 of 50" in many.sentence


# certificates in an attack's place


@pytest.mark.parametrize("by", ["ibp", "crown"])
def test_every_question_to_an_attacks_table_can_be_put_to_a_certificates(by):
    model, *_ = linear(3, scale=1.5, seed=1)
    x = images(40, seed=2)
    y = torch.where(torch.arange(40) % 5 == 0, 0, predict(model, x).argmax(1))
    table = evaluate(model, x, y, {"max": lambda m, x, y: max_confidence(m, x, y, 0.05)})
    clean, attacked, proved = table[table.attack == "clean"], table[table.attack == "max"], certify(model, x, y, 0.05, by)
    assert augrc(clean, clean) < augrc(clean, attacked) <= augrc(clean, proved) + 1e-6
    samples = bootstrap_frequencies(40, 50)
    assert (augrc_samples(clean, attacked, samples) <= augrc_samples(clean, proved, samples) + 1e-6).all()
    low, high = success_fail(clean, attacked), success_fail(clean, proved)
    for limit in (0.01, 0.1, 0.3):
        assert success_at(low, limit).success >= success_at(high, limit).success - 1e-12
    for t in (0.5, 0.7, 0.9):
        found = compare_failures(attacked, proved, threshold=t)
        assert found.only_first == 0 and found.difference <= 0
        assert robust_error(clean, attacked, t)[0] <= robust_error(clean, proved, t)[0]
    assert auc(clean.confidence, attacked.wrong_confidence) >= auc(clean.confidence, proved.wrong_confidence) - 1e-9
    lost = [rejection_table(clean, t)["AWPR rejected"] for t in (attacked, proved)]
    assert (lost[0] <= lost[1] + 1e-12).all()


ROWS = pd.DataFrame({"index": [0, 1], "label": 0, "prediction": [0, 1], "confidence": [0.9, 0.6]})


@pytest.mark.parametrize("call, error, sentence", [
    (lambda: augrc(ROWS, None), TypeError, "DataFrame"),
    (lambda: augrc(ROWS, ROWS[:0]), ValueError, "must have rows"),
    (lambda: augrc_samples(ROWS, ROWS[::-1].assign(label=[1, 0]), np.ones((1, 2))), ValueError, "same examples"),
    (lambda: augrc_samples(ROWS, ROWS, np.ones((1, 3))), ValueError, "frequencies"),
    (lambda: success_at(success_fail(ROWS, ROWS), -0.1), ValueError, "a share in"),
    (lambda: paired_difference([], []), ValueError, "True or False"),
    (lambda: paired_difference([1, 2], [0, 1]), ValueError, "True or False"),
    (lambda: paired_difference([1, 0], [0]), ValueError, "same images"),
    (lambda: compare_failures(ROWS, ROWS[:1]), ValueError, "one row for each"),
    (lambda: compare_failures(ROWS, ROWS.drop(columns="index")), ValueError, "column index"),
    (lambda: compare_failures(ROWS, ROWS, 2), ValueError, "a threshold lies in"),
    (lambda: compare_failures(ROWS, ROWS, (0.1, 0.2, 0.3)), ValueError, "a threshold lies in"),
    (lambda: false_alarms([], [1.0]), ValueError, "held-out scores"),
    (lambda: false_alarms([1.0], [math.nan]), ValueError, "test scores"),
    (lambda: false_alarms([1.0], [1.0], lose=1.0), ValueError, "lose"),
    (lambda: false_alarms([1.0], [1.0], level=99), ValueError, "level"),
])
def test_what_cannot_be_quoted_is_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
