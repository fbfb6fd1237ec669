"""The exact study: attack, optimum and proof on networks with a closed form; what is read off its tables; the stored table itself."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from confnb.data import load_data
from confnb.evaluation import exact_study
from confnb.evaluation.exact_study import (
    attack_and_prove,
    dense_network,
    missed_failures,
    raw_digits,
    shortfalls,
    study_attacks,
    study_plans,
)
from confnb.exact import Exact
from confnb.models import seeded
from confnb.sets import Linf
from confnb.workshop.parameters import checkout

ATTACKS = ["PGD", "APGD", "the paper's 9 x 40", "APGD, 9 x 100", *(f"MaxConfidence, {e}" for e in ("quick", "standard", "thorough"))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))


def test_the_digits_are_those_of_the_library_before_they_are_enlarged():
    small, large = raw_digits(), load_data("digits")
    assert small.shape == (1, 8, 8) and small.x_train.dtype == torch.float32 and small.classes == 10
    for part in "train", "val", "test":
        assert torch.equal(getattr(small, f"y_{part}"), getattr(large, f"y_{part}"))
        enlarged = nn.functional.interpolate(getattr(small, f"x_{part}"), (16, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(enlarged, getattr(large, f"x_{part}"))


def test_six_networks_of_two_sizes_and_seven_attacks():
    plans = study_plans(Linf(0.05))
    assert len(plans) == 6 and {tuple(settings["hidden"]) for _, settings, _, _ in plans.values()} == {(48, 48), (64, 64)}
    assert plans["interval-trained, 48-48"][2].ball.eps == pytest.approx(0.075)
    assert list(study_attacks(Linf(0.05))) == ATTACKS
    model = dense_network((1, 8, 8), 10, (5, 4))
    assert [tuple(m.weight.shape) for m in model if isinstance(m, nn.Linear)] == [(5, 64), (4, 5), (10, 4)]


def test_on_a_linear_network_of_two_classes_attack_and_proof_meet_at_the_closed_form():
    with seeded(0):
        model = dense_network((1, 2, 2), 2, ()).eval()
        nn.init.normal_(model[1].weight, std=2.0)
    x, y, ball = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1]), Linf(0.1)
    table = attack_and_prove(model, x, y, ball, study_attacks(ball), Exact(1e-4), part=2)
    w, b = model[1].weight.detach().double().numpy(), model[1].bias.detach().double().numpy()
    low, high = (end.flatten(1).double().numpy() for end in ball.bounds(x))
    d = np.stack([w[1 - k] - w[k] for k in y.tolist()])
    truth = 1 / (1 + np.exp(-(np.where(d > 0, d * high, d * low).sum(1) + np.array([b[1 - k] - b[k] for k in y.tolist()]))))
    np.testing.assert_allclose(table.low, truth, atol=2e-4)
    np.testing.assert_allclose(table.high, truth, atol=2e-4)
    assert (table[ATTACKS].to_numpy() <= table.high.to_numpy()[:, None] + 1e-6).all()
    assert table["index"].tolist() == [0, 1, 2, 3, 4] and table.label.tolist() == y.tolist()


def test_a_run_that_was_cut_off_goes_on_where_it_was(monkeypatch):
    with seeded(0):
        model = dense_network((1, 2, 2), 3, (4,)).eval()
    x, y, ball, calls = torch.rand(6, 1, 2, 2), torch.arange(6) % 3, Linf(0.1), []
    attacks = {"PGD": study_attacks(ball)["PGD"]}
    certify = exact_study.certify

    def counted(*args):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return certify(*args)

    monkeypatch.setattr(exact_study, "certify", counted)
    monkeypatch.setattr(exact_study, "fingerprint", lambda *parts: f"{float(parts[2].sum()):.9f}")
    with pytest.raises(KeyboardInterrupt):
        attack_and_prove(model, x, y, ball, attacks, part=2)
    table = attack_and_prove(model, x, y, ball, attacks, part=2)
    assert calls == [2, 2, 2, 2] and len(table) == 6


def made(rows):
    "A table of two attacks on images whose wrong confidences are given: weak, strong, low, high"
    columns = dict(zip(("weak", "strong", "low", "high"), map(list, zip(*rows, strict=True)), strict=True))
    return pd.DataFrame({"index": range(len(rows)), "label": 0, "clean_prediction": 0, "clean_confidence": 0.9} | columns | {"seconds": 1.0})


def test_what_is_read_off_a_table():
    table = made([(0.2, 0.6, 0.6, 0.6), (0.55, 0.8, 0.85, 0.851), (0.1, 0.1, 0.1, 0.6), (0.95, 0.95, 0.95, 0.95)])
    short = shortfalls(table).set_index("attack")
    np.testing.assert_allclose(short["mean"], [0.7 / 4, 0.05 / 4])
    np.testing.assert_allclose(short["> 0.1"], [0.5, 0.0])
    np.testing.assert_allclose(short["> 0.01"], [0.5, 0.25])
    np.testing.assert_allclose(short.most, [0.4, 0.05])
    missed = missed_failures(table, at=(0.5, 0.9)).set_index(["threshold", "attack"])
    assert missed.loc[(0.5, "weak")].tolist() == pytest.approx([0.5, 0.75, 1.0, 1 / 3])
    assert missed.loc[(0.5, "strong")].tolist() == pytest.approx([0.75, 0.75, 1.0, 0.0])
    assert missed.loc[(0.9, "weak")].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.0])
    assert missed_failures(table, at=(0.97,)).missed.isna().all()
    for t in 0.49, 1.0:
        with pytest.raises(ValueError, match="thresholds in"):
            missed_failures(table, at=(t,))


def test_an_attack_above_the_proof_is_a_defect():
    proof = pd.DataFrame({"index": [0], "label": [0], "clean_prediction": [0], "clean_confidence": [0.9], "wrong_confidence_found": [0.1], "wrong_confidence_high": [0.2], "seconds": [0.1]})
    reached = pd.DataFrame({"index": [0, 0], "attack": ["clean", "PGD"], "wrong_confidence": [0.05, 0.3]})
    with pytest.raises(ValueError, match="exceeds the proof"):
        exact_study._joined(reached, proof, ["PGD"])
    assert exact_study._joined(reached.assign(wrong_confidence=[0.05, 0.15]), proof, ["PGD"]).low.tolist() == [0.15]


def test_the_stored_study_is_whole():
    study = pd.read_csv(checkout() / "nbs/reference/exact_study.csv")
    assert list(study.network.unique()) == list(study_plans(Linf(0.05)))
    assert study.groupby("network").size().nunique() == 1 and not study.duplicated(["network", "index"]).any()
    assert (study[ATTACKS].max(axis=1) <= study.high + 1e-4).all() and (study.low <= study.high).all()
    assert (study.high - study.low < 1e-3).mean() >= 0.95
    assert study.label.tolist() == raw_digits().y_test[study["index"].to_numpy()].tolist()
