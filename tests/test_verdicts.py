"""A verdict is decided by an interval, and only where the experiment could have shown the claim."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from confnb.basics import UsageError
from confnb.plots import publish
from confnb.verdicts import (
    Claim,
    Estimate,
    Holds,
    Need,
    claims_table,
    over_seeds,
    paired,
    power,
    publish_claims,
    share,
    told,
)
from confnb.workshop.store import ANSWERS, _store_verdicts, beside_texts, store_beside, verdict_texts

finite = st.floats(-100, 100)


@st.composite
def estimates(draw):
    low, value, high = sorted(draw(st.tuples(finite, finite, finite)))
    return Estimate(value, low, high)


@st.composite
def ranges(draw):
    low, high = sorted(draw(st.tuples(finite, finite)))
    return draw(st.sampled_from([Holds(low, high), Holds(low=low), Holds(high=high)]))


@given(estimates(), ranges())
def test_yes_means_all_of_the_interval_and_no_none_of_it(found, holds):
    points = np.linspace(found.low, found.high, 101)
    inside = (points >= holds.low) & (points <= holds.high)
    said = holds.judge(found)
    point = found.low == found.high
    assert (said == "yes") == (
        holds.low <= found.low and found.high <= holds.high
        if point
        else holds.low < found.low and found.high < holds.high
    )
    assert not (said == "yes" and not inside.all()) and not (said == "no" and inside.any())
    assert said in ("yes", "no") or found.low < found.high


@given(st.lists(estimates(), min_size=1, max_size=4), ranges(), st.lists(st.booleans(), max_size=3))
def test_a_claim_is_true_of_each_and_tested_only_where_nothing_is_lacking(measured, holds, met):
    needs = [Need("points", float(m), low=0.5) for m in met]
    said = Claim("c", "s", holds, measured, needs=needs).verdict
    each = [holds.judge(m) for m in measured]
    if not all(met):
        assert said == "not tested here"
    else:
        assert said == ("no" if "no" in each else "yes" if all(e == "yes" for e in each) else "undecided")


@pytest.mark.parametrize("claim", [Claim("c", "s"), Claim("c", "s", Holds(low=1)), Claim("c", "s", None, [Estimate(1, 1, 1)])])
def test_what_was_not_measured_was_not_tested(claim):
    assert claim.verdict == "not tested here"


def test_a_number_that_is_none_decides_nothing():
    assert Claim("c", "s", Holds(high=5), [Estimate(math.nan, -math.inf, math.inf)]).verdict == "undecided"
    assert not Need("accuracy", math.nan, low=80).met


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_share_has_the_interval_of_clopper_and_pearson(k, n):
    assume(k <= n)
    found, known = share(k, n), scipy.stats.binomtest(k, n).proportion_ci(method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((100 * k / n, 100 * known.low, 100 * known.high), abs=1e-6)


@given(st.lists(finite, min_size=2, max_size=8))
def test_over_seeds_is_students_interval(values):
    assume(np.std(values) > 1e-3)
    found = over_seeds(values)
    known = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), known.low, known.high), rel=1e-6, abs=1e-6)


@given(st.integers(0, 30), st.integers(0, 30))
def test_paired_agrees_with_the_sign_test(gained, lost):
    assume(gained + lost)
    better = Holds(low=50).judge(paired(gained, lost)) == "yes"
    p = scipy.stats.binomtest(gained, gained + lost).pvalue
    assert better == (gained > lost and p <= 0.05) or abs(p - 0.05) < 0.02


@pytest.mark.parametrize("n, true, holds", [(20, 95, Holds(low=50)), (100, 3, Holds(high=10)), (7, 60, Holds(low=50))])
def test_power_is_what_a_simulation_counts(n, true, holds):
    counts = np.random.default_rng(0).binomial(n, true / 100, 4000)
    seen, often = np.unique(counts, return_counts=True)
    yes = [holds.judge(share(int(k), n)) == "yes" for k in seen]
    assert power(n, true, holds) == pytest.approx((yes * often).sum() / len(counts), abs=0.03)
    assert power(0, true, holds) == 0


CLAIMS = [
    Claim("it is the code", "Proposition 1", Holds(high=0), [Estimate(0, 0, 0)], kind="identity"),
    Claim("it falls | by *half* at $p$", "Table 2", Holds(high=50), [share(9, 300, "eta .1"), share(40, 300, "eta .2")], paper="26 of 300"),
    Claim("it never rises", "Table 2", Holds(high=5), [share(2, 2)], needs=[Need("points", 2, low=6)]),
    Claim("ours", "mc-X1", Holds(low=99), [share(9, 300)], kind="ours"),
]


def test_the_table_has_identities_last_and_says_why():
    table = claims_table(CLAIMS)
    assert table.verdict.tolist() == ["yes", "not tested here", "no", "yes"] and table.kind.tolist()[-1] == "identity"
    assert table.why[1] == "points 2, not (at least 6); below 5" and table.here[0].startswith("eta .1: 3 [1.38, 5.62] %; eta .2:")
    assert told(CLAIMS) == "Of 3 claims: 1 yes, 1 no, 1 not tested here."


def test_verdicts_of_a_run_take_the_place_of_those_of_the_same_papers(tmp_path):
    for run, claims in ("first", CLAIMS), ("second", CLAIMS[1:2]):
        (tmp_path / run / "figures").mkdir(parents=True)
        publish_claims("mc", claims, "a caption", tmp_path / run / "figures")
    publish_claims("hcnn", CLAIMS[2:3], "a caption", tmp_path / "first/figures")
    path = _store_verdicts(tmp_path, tmp_path / "first")
    assert pd.read_csv(path).key.tolist() == ["hcnn", "mc", "mc", "mc", "mc"]
    assert _store_verdicts(tmp_path, tmp_path / "second") == path
    table = pd.read_csv(path)
    assert table.key.tolist() == ["hcnn", "mc"] and table.claim[1] == CLAIMS[1].claim
    assert _store_verdicts(tmp_path, tmp_path) is None and path.exists()
    _store_verdicts(tmp_path, tmp_path / "first", shown="a topic that shows **hcnn-X0.** alone")
    assert pd.read_csv(path).key.tolist() == ["hcnn", "mc"], "a topic that was not stored keeps its verdicts"


def test_a_second_run_stands_beside_the_first(tmp_path):
    for run, claims in ("first", CLAIMS), ("second", CLAIMS[1:2]):
        (tmp_path / run / "figures").mkdir(parents=True)
        publish_claims("mc", claims, "a caption", tmp_path / run / "figures")
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    publish("mc-F2a", fig, pd.DataFrame({"t": [0, 1]}), "curves", tmp_path / "second/figures")
    plain = pd.DataFrame({"model": ["a"], "failure": [0.123456789]})
    publish("mc-X5", plain, plain, "numbers | of $t$", tmp_path / "second/figures")
    _store_verdicts(tmp_path, tmp_path / "first")
    for _ in range(2):  # twice is as once
        names = [p.name for p in store_beside(tmp_path, tmp_path / "second", "colour")]
    assert names == ["captions.csv", "mc-F2a.png", "mc-X5.csv"]
    table = pd.read_csv(tmp_path / "nbs/reference/verdicts.csv").fillna("")
    assert table.run.tolist() == [""] * 4 + ["colour"]
    page = "\n".join(verdict_texts(tmp_path / "nbs/reference/verdicts.csv"))
    assert "| (colour) it falls" in page and "[another run](on_colour.ipynb)" in page
    head, _, picture, numbers = beside_texts(tmp_path / "nbs/reference/colour")
    assert head.startswith("# ") and "![](colour/mc-F2a.png)" in picture and r"| a | 0.1235 |" in numbers and r"numbers \| of \$t\$" in numbers

    publish("hcnn-T4", plain, plain, "a topic of its own", tmp_path / "third/figures")
    store_beside(tmp_path, tmp_path / "third", "colour")
    told = pd.read_csv(tmp_path / "nbs/reference/colour/captions.csv")
    assert told.id.tolist() == ["hcnn-T4", "mc-F2a", "mc-X5"]  # both topics', in the papers' order


@pytest.mark.parametrize("name, sentence", [("Two Words", "one word in small letters"), ("../up", "one word in small letters"), ("empty", "holds no table or figure")])
def test_what_is_no_second_run_is_refused(tmp_path, name, sentence):
    with pytest.raises(UsageError, match=sentence):
        store_beside(tmp_path, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_page_shows_every_verdict_and_nothing_is_read_as_markdown(tmp_path):
    (tmp_path / "figures").mkdir()
    publish_claims("mc", CLAIMS, "a caption", tmp_path / "figures")
    head, _, counts, claims, identities = verdict_texts(_store_verdicts(tmp_path, tmp_path))
    assert head.startswith("# ") and counts.splitlines()[-1] == "| **all** | **1** | **1** | **0** | **1** |" and len(ANSWERS) == 4
    assert r"it falls \| by \*half\* at \$p\$ (Table 2)" in claims and "| yes |" in claims and "(ours) ours" in claims
    assert "it is the code" in identities and "it is the code" not in claims


@pytest.mark.parametrize("found, said", [
    (Estimate(-5, -13.5, 0), "undecided"),  # the difference may be none
    (Estimate(-5, -13.5, -1e-9), "yes"),
    (Estimate(0, 0, 0), "yes"),  # counted, not estimated
    (Estimate(0.1, 0, 0.3), "undecided"),
    (Estimate(0.1, 1e-9, 0.3), "no"),
])  # fmt: skip
def test_an_interval_that_touches_the_end_of_a_claim_does_not_decide_it(found, said):
    assert Holds(high=0).judge(found) == said


@given(st.integers(2, 30), st.floats(0.01, 0.99))
def test_seeds_that_agree_bound_a_share_as_often_as_they_say(n, different):
    """Networks have 0 % or, a part of them, 100 %: where all n agree and the interval misses the mean, that is rare."""
    missed = 0.0
    for value, probability in ((0.0, (1 - different) ** n), (100.0, different**n)):
        found = over_seeds([value] * n, within=(0.0, 100.0))
        missed += probability * (not found.low <= 100 * different <= found.high)
    assert missed <= 0.0501


def test_no_interval_over_seeds_leaves_the_range_of_the_values():
    found = over_seeds([99.0, 100.0, 100.0], within=(0.0, 100.0))
    assert found.high == 100 and found.low == over_seeds([99.0, 100.0, 100.0]).low
    assert over_seeds([0.0] * 14, within=(0, 100)).high == pytest.approx(100 * (1 - 0.05 ** (1 / 14)))


def test_seeds_that_agree_to_the_last_digit_decide_nothing():
    alike = over_seeds([100.0, 100.0])
    assert (alike.value, alike.low, alike.high) == (100, -math.inf, math.inf)
    assert Holds(low=90).judge(alike) == "undecided" and Holds(low=90).judge(over_seeds([99.9, 100.0])) == "yes"


@given(st.floats(-50, 50), st.floats(0, 20), st.floats(0, 20), st.floats(-5, 5), st.floats(0.1, 40), st.booleans())
def test_what_a_paper_reported_only_turns_undecided_into_no(value, below, above, end, more, larger):
    found = Estimate(value, value - below, value + above)
    plain, told = (Holds(low=end, reported=r) if larger else Holds(high=end, reported=r) for r in (math.nan, end + (more if larger else -more)))
    before, after = plain.judge(found), told.judge(found)
    tenth = found.high < end + more / 10 if larger else found.low > end - more / 10
    assert after == ("no" if before == "undecided" and tenth else before)


@pytest.mark.parametrize("wrong", [dict(low=0, high=1, reported=0.5), dict(low=0, reported=-1), dict(high=0, reported=1), dict(reported=1)])
def test_what_was_reported_lies_on_the_claims_side_of_its_only_limit(wrong):
    with pytest.raises(ValueError, match="was reported"):
        Holds(**wrong)


def test_a_rule_says_what_a_no_takes():
    assert str(Holds(low=0, reported=0.76)) == "above 0; no where all below 0.076"
    assert str(Holds(high=0, reported=-10)) == "below 0; no where all above -1"
    assert str(Holds(low=50)) == "above 50" and str(Holds(0.5, 1.5)) == "between 0.5 and 1.5"
