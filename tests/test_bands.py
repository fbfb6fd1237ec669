"Bands around whole curves: the crossing probability against other ways to compute it, and how often the bands hold"

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from confnb.bands import _BANDS, _chance_within, _local_level, simultaneous_band
from confnb.statistics import binomial_interval


def steck(low, high):
    "The same chance as a determinant, in fractions (Steck 1971): exact, and slow"
    n = len(low)
    rows = [[Fraction(0)] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if (k := j - i + 1) >= 0:
                rows[i][j] = max(high[i] - low[j], Fraction(0)) ** k / math.factorial(k)
    sign, product = 1, Fraction(1)
    for c in range(n):  # by elimination
        pivot = next((r for r in range(c, n) if rows[r][c]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != c:
            rows[c], rows[pivot], sign = rows[pivot], rows[c], -sign
        product *= rows[c][c]
        for r in range(c + 1, n):
            share = rows[r][c] / rows[c][c]
            rows[r] = [a - share * b for a, b in zip(rows[r], rows[c], strict=True)]
    return sign * product * math.factorial(n)


@st.composite
def limits(draw):
    n = draw(st.integers(1, 7))
    ends = st.lists(st.integers(0, 40), min_size=n, max_size=n).map(sorted)
    return [[Fraction(v, 40) for v in draw(ends)] for _ in range(2)]


@settings(deadline=None, max_examples=150)
@given(limits())
def test_the_chance_is_stecks_determinant(pair):
    low, high = pair
    wanted = steck(low, high) if all(a < b for a, b in zip(low, high, strict=True)) else 0
    assert _chance_within(np.array(low, float), np.array(high, float)) == pytest.approx(float(wanted), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.floats(0.02, 0.9))
def test_at_one_distance_the_chance_is_that_of_kolmogorov_and_smirnov(n, d):
    i = np.arange(1, n + 1)
    found = _chance_within(np.clip(i / n - d, 0, 1), np.clip((i - 1) / n + d, 0, 1))
    assert found == pytest.approx(stats.kstwo.cdf(d, n), abs=5e-6)  # of the larger n SciPy sums an expansion


def test_a_large_sample_is_summed_without_loss():
    n, d = 4000, 0.02
    i = np.arange(1, n + 1)
    found = _chance_within(np.clip(i / n - d, 0, 1), np.clip((i - 1) / n + d, 0, 1))
    assert found == pytest.approx(stats.kstwo.cdf(d, n), abs=5e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 120), st.floats(0.05, 0.99))
def test_at_the_local_level_all_limits_hold_as_asked(n, level):
    miss, i = _local_level(n, level), np.arange(1, n + 1)
    assert (1 - level) / n * (1 - 1e-6) <= miss <= (1 - level) * (1 + 1e-6)
    low, high = stats.beta.ppf(miss / 2, i, n + 1 - i), stats.beta.ppf(1 - miss / 2, i, n + 1 - i)
    assert _chance_within(low, high) == pytest.approx(level, abs=1e-5)


def coverage(n, runs, band, level=0.95):
    "How often the whole true curve of n uniform scores lies in its band; the true share below the i-th is the score itself"
    low, high = simultaneous_band(np.arange(n + 1), n, level, band)
    draws = np.sort(np.random.default_rng(n).random((runs, n)))
    return ((low[1:] <= draws) & (draws <= high[:-1])).all(1).mean()


@pytest.mark.parametrize("n", [50, 300, pytest.param(1000, marks=pytest.mark.slow)])
def test_bands_hold_as_often_as_they_say(n):
    runs = 10_000
    error = 4 * math.sqrt(0.05 * 0.95 / runs)
    assert abs(coverage(n, runs, "beta") - 0.95) < error  # exactly as often
    assert coverage(n, runs, "dkw") > 0.95 - error


@pytest.mark.parametrize("n", [50, 300])
def test_with_ties_a_band_holds_at_least_as_often(n):
    "Scores of ten values: the true share above t is known, and the curve has ten steps"
    rng, runs, p = np.random.default_rng(1), 4000, np.arange(10, 0, -1) / 55
    above = rng.multinomial(n, p, runs)[:, ::-1].cumsum(1)  # how many lie above each of the ten thresholds
    low, high = simultaneous_band(above, n)
    held = ((low <= p[::-1].cumsum() + 1e-12) & (p[::-1].cumsum() - 1e-12 <= high)).all(1).mean()
    assert held >= 0.95


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.sampled_from(_BANDS), st.floats(0.5, 0.99))
def test_a_band_holds_the_shares_and_ascends(n, band, level):
    k = np.arange(n + 1)
    low, high = simultaneous_band(k, n, level, band)
    assert (low <= k / n).all() and (k / n <= high).all() and low.min() >= 0 and high.max() <= 1
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-9)  # what is above is as uncertain as what is below
    wider = simultaneous_band(k, n, (1 + level) / 2, band)
    assert (wider[0] <= low + 1e-12).all() and (high <= wider[1] + 1e-12).all()


@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 30), (7, 30), (30, 30)])
def test_the_band_is_the_exact_interval_at_the_local_level(k, n):
    low, high = simultaneous_band([k], n)
    assert (low[0], high[0]) == pytest.approx(binomial_interval(k, n, 1 - _local_level(n)), abs=1e-9)


def test_the_band_is_tight_where_users_look():
    for n, beta, dkw in ((300, 0.024, 0.078), (1000, 0.0076, 0.0429)):
        assert simultaneous_band([0], n)[1] < beta and simultaneous_band([0], n, band="dkw")[1] > dkw
    assert simultaneous_band([9], 300)[1] - 0.03 < 0.048


def test_counts_may_be_a_column():
    column = pd.Series([0, 3, 10])
    np.testing.assert_array_equal(simultaneous_band(column, 10), simultaneous_band([0, 3, 10], 10))


@pytest.mark.parametrize("call, sentence", [
    (lambda: simultaneous_band([3], 2), "whole numbers from 0 to n = 2"),
    (lambda: simultaneous_band([0.5], 2), "whole numbers"),
    (lambda: simultaneous_band([-1], 2), "whole numbers"),
    (lambda: simultaneous_band([math.nan], 2), "whole numbers"),
    (lambda: simultaneous_band([0], 0), "at least one score"),
    (lambda: simultaneous_band([0], 2, 1.0), "level"),
    (lambda: simultaneous_band([0], 2, 0.9, "normal"), "the bands are 'beta' and 'dkw'"),
    (lambda: _local_level(0), "at least one draw"),
    (lambda: _local_level(5, 95), "level"),
    (lambda: _chance_within([0.2], [0.1, 0.3]), "two ascending arrays"),
    (lambda: _chance_within([], []), "two ascending arrays"),
    (lambda: _chance_within([0.0, 0.1], [0.5, 1.2]), "in \\[0, 1\\]"),
])
def test_what_is_no_band_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
