"Right, wrong, or no answer: against a loop over examples, and a certificate as the other end"

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import images, linear

from confnb.certificates import certify
from confnb.leastconfidence import least_confident
from confnb.maxconfidence import max_confidence
from confnb.runtime import predict
from confnb.selective import success_fail
from confnb.tables import evaluate
from confnb.three_outcomes import outcomes, plot_outcomes

confidence = st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.7, 0.9, 1.0])


@st.composite
def cases(draw):
    "A clean table, and tables of one to three attacks for each aim, in any order"
    n = draw(st.integers(1, 6))
    answers = st.tuples(st.integers(0, 2), confidence)

    def table(many):
        rows = [(i, i % 3, *draw(answers)) for _ in range(many) for i in range(n)]
        return pd.DataFrame(draw(st.permutations(rows)), columns=["index", "label", "prediction", "confidence"])

    return table(1), {aim: table(draw(st.integers(1, 3))) for aim in ("wrong", "abstain")}


def by_hand(clean, attacked, aim, t):
    "One example after the other: the attacker looks for a point that serves his aim, and leaves the example alone otherwise"
    counts = {"right": 0, "abstained": 0, "wrong": 0}
    for row in clean.to_dict("records"):
        said = "abstained" if row["confidence"] <= t else "right" if row["prediction"] == row["label"] else "wrong"
        points = [] if aim == "none" else [p for p in attacked.to_dict("records") if p["index"] == row["index"]]
        if aim == "wrong" and any(p["confidence"] > t and p["prediction"] != p["label"] for p in points):
            said = "wrong"
        if aim == "abstain" and said == "right" and any(p["confidence"] <= t for p in points):
            said = "abstained"
        counts[said] += 1
    return {name: count / len(clean) for name, count in counts.items()}


@settings(deadline=None, max_examples=40)
@given(cases())
def test_the_outcomes_are_what_a_loop_counts(case):
    clean, attacked = case
    for given_thresholds in (None, [0.0, 0.5, 0.65, 1.0]):
        found = outcomes(clean, attacked, given_thresholds)
        assert list(dict.fromkeys(found.aim)) == ["none", "wrong", "abstain"] and (found.n == len(clean)).all()
        for row in found.itertuples():
            wanted = by_hand(clean, attacked.get(row.aim), row.aim, row.threshold)
            assert (row.right, row.abstained, row.wrong) == pytest.approx((wanted["right"], wanted["abstained"], wanted["wrong"]))
        if given_thresholds is None:
            values = {0.0, 0.5, 1.0, *clean.confidence}
            assert values <= set(found.threshold)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_an_aim_never_helps_the_user(case):
    clean, attacked = case
    parts = {aim: part.reset_index(drop=True) for aim, part in outcomes(clean, attacked).groupby("aim")}
    assert (parts["wrong"].wrong >= parts["none"].wrong - 1e-12).all() and (parts["wrong"].right <= parts["none"].right + 1e-12).all()
    assert (parts["abstain"].right <= parts["none"].right + 1e-12).all()
    np.testing.assert_allclose(parts["abstain"].wrong, parts["none"].wrong)


def test_without_attack_success_is_that_of_the_curve():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"index": range(40), "label": 0, "prediction": rng.integers(0, 2, 40), "confidence": rng.random(40)})
    curve, found = success_fail(rows, rows), outcomes(rows, {})
    np.testing.assert_allclose(curve.success, found.right)
    np.testing.assert_allclose(curve.failure, found.wrong)


@pytest.mark.parametrize("by", ["ibp", "crown"])
def test_a_certificate_is_the_other_end(by):
    model, *_ = linear(3, scale=1.5, seed=1)
    x = images(40, seed=2)
    y = torch.where(torch.arange(40) % 5 == 0, 0, predict(model, x).argmax(1))
    ball = 0.05
    attacks = {"wrong": lambda m, x, y: max_confidence(m, x, y, ball), "abstain": lambda m, x, y: least_confident(m, x, y, ball)}
    table = evaluate(model, x, y, attacks)
    clean, proved = table[table.attack == "clean"], certify(model, x, y, ball, by)
    t = np.linspace(0, 1, 21)
    low = outcomes(clean, {aim: table[table.attack == aim] for aim in attacks}, t)
    high = outcomes(clean, dict.fromkeys(attacks, proved), t)
    assert (high.right <= low.right + 1e-9).all()
    wrong = low.aim == "wrong"
    assert (high.wrong[wrong] >= low.wrong[wrong] - 1e-9).all()
    assert (low.right[~wrong] < low.right[low.aim == "none"].max()).any()  # the attack does something


@pytest.mark.parametrize("change, sentence", [
    (lambda t: (t, {"silence": t}), "by the aim"),
    (lambda t: (t, t), "by the aim"),
    (lambda t: (t, {"wrong": t[1:]}), "1 of 3 examples have no row"),
    (lambda t: (t.drop(columns="index"), {}), "lacks the column index"),
    (lambda t: (t, {"abstain": t.drop(columns="confidence")}), "lacks the column confidence"),
    (lambda t: (t[:0], {}), "must have rows"),
    (lambda t: (t, {}, [1.5]), "numbers in"),
    (lambda t: (t, {}, []), "numbers in"),
])
def test_what_cannot_be_counted_is_refused(change, sentence):
    table = pd.DataFrame({"index": range(3), "label": 0, "prediction": 0, "confidence": 0.5})
    with pytest.raises(ValueError, match=sentence):
        outcomes(*change(table))


def test_the_figure_is_stacked_to_one():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    table = pd.DataFrame({"index": range(4), "label": 0, "prediction": [0, 0, 1, 1], "confidence": [0.9, 0.4, 0.8, 0.3]})
    found = outcomes(table, {"wrong": table.assign(prediction=1)})
    fig, axes = plt.subplots(1, 2)
    plot_outcomes(found, axes)
    for ax in axes:
        areas = ax.collections
        assert [a.get_label() for a in areas] == ["right", "abstained", "wrong"]
        assert len({tuple(a.get_facecolor()[0]) for a in areas}) == 3
        assert areas[-1].get_paths()[0].vertices[:, 1].max() == pytest.approx(1)
    with pytest.raises(ValueError, match="2 aims"):
        plot_outcomes(found, axes[:1])
    plt.close(fig)
