"""A report on a model together with its reject rule."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from confnb.adaptive_rejection import KNOWS, UNAWARE
from confnb.basics import UsageError
from confnb.data import load_data
from confnb.evaluation.rejecting import of_scores, rejection_tables, rule_from
from confnb.evaluation.reporting import report
from confnb.networks import load_model
from confnb.selective import choose_threshold

RADIUS = 0.1


@pytest.fixture(scope="module")
def robust():
    return load_model("digits/cnn-pgd-linf.095", "cpu")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


class Bright(nn.Module):
    "A rule on images, with a hard `if`"

    def forward(self, x):
        return torch.where(x.mean((1, 2, 3)) > 0.25, 1.0, 0.0) + 1e-3 * x.amax((1, 2, 3)) * x.mean((1, 2, 3))


@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_a_report_with_a_rule_has_both_numbers(robust, digits, tmp_path):
    found = report(robust, digits, RADIUS, out=tmp_path, effort="quick", points=20, reject=Bright(), say=lambda _: None)
    both = found.tables["reject"].set_index("attacker")
    assert both.loc[KNOWS, "mistakes accepted"] >= both.loc[UNAWARE, "mistakes accepted"] and (both.low <= both.high).all()
    again = {name: g.failure.iloc[0] for name, g in found.tables["reject_curve"].groupby("attack")}
    assert again[KNOWS] >= again[UNAWARE]
    name = found.manifest["parameters"]["reject"]
    assert any(f"false alarms of the reject rule {name}" in n for n in found.tables["checks"].name)
    page = (tmp_path / "index.html").read_text()
    assert f"With the reject rule {name}" in page and (tmp_path / "reject.csv").exists() and (tmp_path / "reject.png").exists()
    assert (found.card["reject"] is None) == (not found.sound)


def test_the_share_at_the_threshold_is_that_of_the_points(robust, digits):
    from confnb.evaluation.rejecting import attack_with_rule
    from confnb.sets import Linf

    x, y = digits.x_test[:20], digits.y_test[:20]
    found = attack_with_rule(robust, rule_from("max-logit", robust, digits), x, y, digits.x_val, Linf(RADIUS), steps=5, queries=20)
    with torch.no_grad():
        logits = robust(found.attacked.found.x)
    accepted = (logits.argmax(1) != y) & (logits.amax(1) > found.threshold)
    assert rejection_tables(found, y)["reject"]["mistakes accepted"].iloc[1] == pytest.approx(accepted.float().mean().item())
    assert (found.held > found.threshold).float().mean() >= 0.95


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("entropi", "there is no reject rule 'entropi' (did you mean entropy?)"),
        (lambda logits, features: logits, "must give one number for each example"),
        (lambda logits, features: logits[:, 0] * torch.nan, "gives NaN for"),
        (lambda logits, features: torch.zeros(len(logits)), "the same score, 0: it answers everything or nothing"),
        (3, "a reject rule is called on"),
    ],
)
def test_a_rule_that_cannot_be_is_a_sentence_and_writes_nothing(robust, digits, rule, says, tmp_path):
    with pytest.raises(UsageError, match=re.escape(says)):
        report(robust, digits, RADIUS, out=tmp_path / "page", effort="quick", points=4, reject=rule, say=lambda _: None)
    assert not (tmp_path / "page" / "index.html").exists()


def test_a_threshold_on_images_that_the_model_knows_is_told():
    draw = np.random.default_rng(0)
    clean = pd.DataFrame({"score a": draw.normal(size=300), "score b": draw.normal(size=300)})
    alike = pd.DataFrame({"score a": draw.normal(size=1000), "score b": draw.normal(size=1000)})
    known = alike.assign(**{"score b": alike["score b"] + 1})
    assert of_scores(alike, clean, list(clean)).fine
    told = of_scores(known, clean, list(clean))
    assert not told.fine and "of b are as many as asked for" in told.name


@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_the_command_takes_a_rule_and_held_images(tmp_path, monkeypatch):
    from confnb.workshop.cli import build_app

    (tmp_path / "mynet.py").write_text("from confnb.networks import load_model\n\ndef net():\n    return load_model('digits/cnn-pgd-linf.095', 'cpu')\n")
    card, out = tmp_path / "card.json", tmp_path / "page"
    asked = ["--model", "mynet:net", "--data", "digits", "--threat", "linf:0.1", "--quick", "--points", "12", "--out", str(out), "--json", str(card)]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(build_app(), ["evaluate", *asked, "--reject", "kdensity", "--held", "0.5"])
    assert done.exit_code == 0, done.output
    told = json.loads(card.read_text())
    assert told["reject"]["rule"] == "kdensity" and "reject rule" in told["attacker"]
    assert "from the test set" in (out / "index.html").read_text()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_loses_no_more_than_was_asked_in_pytorch_too(kind, seed):
    scores = torch.randn(143, generator=torch.Generator().manual_seed(seed)).to(kind)
    for lose in (0.0, 0.01, 0.05, 0.5):
        t = choose_threshold(scores, lose=lose)
        lost = int((scores <= t).sum())
        assert lost == int((scores.numpy() <= t).sum()) == int(lose * 143 + 1e-9)
        assert choose_threshold(scores.double().numpy(), lose=lose) == t
