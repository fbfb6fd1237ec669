"""An evaluation that tests itself: planted mistakes, indicators, attacks followed from outside, the gate and its conditions."""

import copy
import json
import math
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import SOAK, backwards
from typer.testing import CliRunner

from confnb import basics
from confnb.architectures import Normalize
from confnb.attacks import pgd
from confnb.evaluation import (
    broken,
    checks,
    following,
    gate,
    indicators,
    loading,
    planted,
    report_page,
    reporting,
    signs,
    trust,
)
from confnb.evaluation import command as command_module
from confnb.evaluation.report_tables import TOGETHER, worst_case
from confnb.images import stratified_order
from confnb.maxconfidence import max_confidence
from confnb.models import build, outputs
from confnb.networks import load_model, load_or_train
from confnb.objectives import WrongConfidence
from confnb.runtime import logits_of, predict
from confnb.search import maximize
from confnb.sets import L2, Linf
from confnb.statistics import binomial_interval
from confnb.tables import evaluate
from confnb.training import Recipe

NETS = ["cnn-undefended", "cnn-pgd-linf.095", "cnn-regularised", "cnn-1bit", "cnn-l2", "cnn-stopped", "pgd-linf.2", "regularised", "undefended", "resnet8-pgd-linf.1"]


# attacks that work, and attacks that do not


def detached(model, x, y, ball):
    "A gradient that has been cut off"

    class Cut(nn.Module):
        def forward(self, z):
            return model(z.detach()) + 0 * z.sum()

    with pytest.warns(UserWarning):
        return pgd(Cut(), x, y, ball, 20)


def downhill(model, x, y, ball):
    "The wrong sign"
    return maximize(model, lambda logits, z: -nn.functional.cross_entropy(logits, y, reduction="none"), x, ball, 20, keep="last")


CRIPPLED = {"one tiny step": partial(pgd, steps=1, step_size=0.001), "the wrong sign": downhill, "cut off": detached}


@pytest.mark.parametrize("name", ["cnn-pgd-linf.095", *(pytest.param(n, marks=SOAK) for n in NETS if n != "cnn-pgd-linf.095")])
def test_sound_attacks_find_planted_mistakes_and_crippled_ones_do_not(name, digits):
    model, ball = load_model(f"digits/{name}"), Linf(0.1)
    x, y = digits.x_test[:12], digits.y_test[:12]
    for attack in max_confidence, partial(pgd, steps=20):
        found = planted.planted_mistakes(model, x, y, ball, partial(attack, ball=ball))
        assert found.planted.all() and found.found.mean() >= 0.95 and found.random.mean() < 0.3
    for attack in CRIPPLED.values():
        assert planted.planted_mistakes(model, x[:5], y[:5], ball, partial(attack, ball=ball)).found.mean() < 0.5


def test_a_planted_mistake_is_one_and_the_model_is_as_it_was(digits, small_model):
    x, y, ball = digits.x_test[:6], digits.y_test[:6], Linf(0.1)
    before, small_model = {k: v.clone() for k, v in small_model.state_dict().items()}, copy.deepcopy(small_model).train()
    for i in range(6):
        made = planted.plant(small_model, x[i : i + 1], y[i : i + 1], ball, seed=i)
        assert ball.contains(made.point, x[i : i + 1]).all() and made.wrong != made.label == int(y[i])
        p = predict(made.model, torch.cat([made.point, x[i : i + 1]])).softmax(1)
        assert p[0, made.wrong] > 0.95 and p[1, made.label] > 0.95
    assert all(torch.equal(v, before[k]) for k, v in small_model.state_dict().items())
    planted.planted_mistakes(small_model, x[:2], y[:2], ball, partial(pgd, ball=ball, steps=2))
    assert all(m.training for m in small_model.modules()) and all(p.requires_grad for p in small_model.parameters())


def test_the_readout_separates_its_own_points_exactly():
    "In float64, against a logistic fit by hand: the planted point leads by 4, every inner one trails by 4 or more"
    rng = torch.Generator().manual_seed(0)
    inner, rim = torch.randn(60, 12, generator=rng).double(), 6 * torch.randn(5, 12, generator=rng).double()
    weight, bias, which = planted._readout(inner, rim, 3, 0, 2)
    lead = lambda f: (f.float() @ weight.T + bias) @ torch.tensor([-1.0, 0, 1])  # noqa: E731
    assert lead(rim[which : which + 1]) == pytest.approx(4, abs=1e-3) and lead(inner).max() == pytest.approx(-4, abs=1e-3)
    assert planted._readout(inner, inner[:5] * 0.1, 3, 0, 2) is None, "nothing stands out"


def test_with_a_reject_rule_only_a_mistake_that_passes_counts(digits, small_model):
    x, y, ball = digits.x_test[:10], digits.y_test[:10], Linf(0.1)
    attack = partial(max_confidence, ball=ball)
    features = outputs(small_model, digits.x_val)[1]
    middle, far = features.mean(0), float((features - features.mean(0)).norm(dim=1).quantile(0.99))
    near = lambda logits, hidden: -(hidden - middle).norm(dim=1)  # noqa: E731
    found = planted.planted_mistakes(small_model, x, y, ball, attack, score=near, threshold=-2 * far)
    assert found.found.mean() >= 0.9
    nothing = planted.planted_mistakes(small_model, x[:2], y[:2], ball, attack, score=near, threshold=0.0)
    assert not nothing.planted.any() and planted.of_planted(nothing, "a").of == 0


def test_mistakes_are_planted_in_models_with_numbers_and_sets_of_one_radius(digits, small_model):
    x, y = digits.x_test[:2], digits.y_test[:2]
    with pytest.raises(ValueError, match="planted in sets of one radius"):
        planted.planted_mistakes(small_model, x, y, Linf(torch.tensor([0.1, 0.2])), pgd)
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        planted.planted_mistakes(nn.Sequential(small_model, nn.Threshold(99, math.nan)), x, y, 0.1, pgd)


def test_a_model_without_a_linear_layer_is_read_at_its_logits(digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten())
    x, y = digits.x_test[:4], digits.y_test[:4]
    found = planted.planted_mistakes(model, x, y, L2(1.0), partial(max_confidence, ball=L2(1.0)))
    assert found.found.sum() >= found.planted.sum() - 1


# indicators


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_an_indicator_is_a_share_with_its_interval(bad, of, most):
    line = indicators.Indicator("n", min(bad, of), of, most, "m", "w", "a")
    assert line.interval == binomial_interval(min(bad, of), of) and line.interval[0] <= line.share <= line.interval[1]
    assert line.fine == (line.share <= most + 1e-12)
    assert indicators.indicator_table([line]).iloc[0].fine == line.fine


class Turned(nn.Module):
    "The answers of a model, with a gradient that is multiplied"

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.model(backwards(x, lambda gradient: gradient * self.factor))


@pytest.mark.parametrize(
    "factor, failed",
    [
        (1.0, []),
        (math.nan, ["the loss has gradients", "gradients are numbers"]),
        (-1.0, ["a small step along the gradient pays"]),
        (1e6, ["gradients do not explode"]),
    ],
)
def test_each_failure_of_a_gradient_has_its_name(small_model, digits, factor, failed):
    lines = signs.of_gradients(Turned(small_model, factor), digits.x_test[:40], digits.y_test[:40], Linf(0.1))
    assert [i.name for i in lines if not i.fine] == failed


def test_scaled_logits_and_rounding_are_told_apart(small_model, digits):
    x, y = digits.x_test[:40], digits.y_test[:40]
    names = {k: [i.name for i in signs.of_gradients(k(small_model), x, y, Linf(0.1)) if not i.fine] for k in (broken._Scaled, broken._Rounded)}
    assert "the loss is not rounded away" in names[broken._Scaled] and "the loss is not rounded away" not in names[broken._Rounded]


def test_float64_is_compared_where_the_model_can_be_asked_in_it(small_model, digits):
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small_model

        def forward(self, x):
            return self.model(x) + 1e7 - 1e7

    class Narrow(nn.Module):
        def forward(self, x):
            return small_model(x.float())

    class WithGraph(Coarse):
        def forward(self, x):
            with torch.enable_grad():
                return self.model(x.requires_grad_())

    x = digits.x_test[:30]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert signs._in_float64(WithGraph(), x).of == len(x) and not heard
    assert not signs._in_float64(Coarse(), x).fine and signs._in_float64(small_model, x).fine
    assert signs._in_float64(Coarse(), x, steady=False).of == 0 and small_model[1].weight.dtype == torch.float32


def test_chance_is_the_smallest_number_of_right_answers_that_luck_does_not_explain():
    for n, classes in (20, 10), (30, 2):
        fine = [signs._worse_than_chance(n - k, n, classes).fine for k in range(n + 1)]
        assert fine == [k > 0 and binomial_interval(k, n)[0] > 1 / classes for k in range(n + 1)]


# an attack on its way


def test_an_attack_is_followed_and_the_model_keeps_no_hook(small_model, digits):
    x, y, ball = digits.x_test[:1], digits.y_test[:1], Linf(0.1)
    climb = lambda model, x, y: maximize(model, WrongConfidence(y), x, ball, steps=12)  # noqa: E731 - what is followed is what it climbs
    trail = following.follow(small_model, x, y, ball, climb)
    assert len(trail.seen) >= 13 and not small_model._forward_pre_hooks and trail.returned == pytest.approx(float(trail.seen.max()), abs=1e-4)
    assert (trail.best.diff() >= 0).all()


def test_best_not_returned_and_still_rising_are_seen():
    rising = following.Trail(torch.linspace(0, 0.9, 20), 0.9)
    lost, still = following.Trail(torch.tensor([0.1, 0.8, *[0.2] * 18]), 0.2), following.Trail(torch.full((20,), 0.4), 0.4)
    assert [i.bad for i in following.of_trails([rising, lost, still], "a")] == [1, 1]


def test_an_attack_that_forgets_its_best_point_is_named(small_model, digits):
    ball = Linf(0.1)

    def forgets(model, x, y):
        max_confidence(model, x, y, ball)
        return x

    x, y = digits.x_test[:4], digits.y_test[:4]
    trails = [following.follow(small_model, x[i : i + 1], y[i : i + 1], ball, forgets) for i in range(4)]
    assert not following.of_trails(trails, "forgets")[0].fine


# the tables


def rows(wrong_confidence, right, attack):
    n = len(right)
    return pd.DataFrame({"index": range(n), "attack": attack, "label": 0, "prediction": [0 if ok else 1 for ok in right], "confidence": 0.9,
                         "wrong_confidence": wrong_confidence, "passes": 1})


def test_noise_that_beats_an_attack_and_an_attack_that_misses_are_counted():
    clean, weak = rows([0.1] * 20, [True] * 20, "clean"), rows([0.2] * 20, [True] * 20, "weak")
    noise, strong = rows([0.25] * 3 + [0.1] * 17, [True] * 20, "noise"), rows([0.9] * 2 + [0.1] * 18, [False] * 2 + [True] * 18, "strong")
    parts = checks._each(pd.concat([clean, weak, strong, noise]))
    lines = {i.name: i for i in checks._between(parts)}
    best = "one attack finds what the others find (weak)"
    assert lines[best].bad == 2 and lines["gradients do better than noise"].bad == 1 + 0 * 2 or lines[best].of == 20


def test_a_second_search_counts_new_and_surer_mistakes(small_model, digits):
    x, y, ball = digits.x_test[:12], digits.y_test[:12], Linf(0.1)
    lazy, good = ({"a": a} for a in (lambda m, x, y: x, partial(max_confidence, ball=ball)))
    one = {"search": partial(max_confidence, ball=ball, seed=3)}
    weak, strong = (checks.of_second(small_model, x, y, worst_case(evaluate(small_model, x, y, a)), one)[0] for a in (lazy, good))
    assert weak.bad >= 8 and strong.bad <= 1 and not weak.fine


class Whole(nn.Module):
    "Hesitates wherever a pixel is no whole 255th, so that every attack finds mistakes that are not confident"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        whole = ((255 * x - (255 * x).round()).abs() < 1e-3).flatten(1).all(1, keepdim=True)
        return self.model(x) * torch.where(whole, 1.0, 0.02)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(2.0)], ids=str)
def test_a_model_that_tells_images_of_8_bits_from_other_points_is_seen(small_model, digits, ball):
    x, y = (255 * digits.x_test[:12]).round() / 255, digits.y_test[:12]
    bad = {}
    for model in small_model, Whole(small_model):
        worst = worst_case(evaluate(model, x, y, {"a": partial(max_confidence, ball=ball)}))
        lines = {i.name: i for i in checks.of_second(model, x, y, worst, checks.second_opinions(ball, queries=2, effort="quick"))}
        bad[type(model)] = lines["images of 8 bits find no more"].bad
    assert bad[Whole] >= 8 and bad[type(small_model)] <= 1


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(1.0)], ids=str)
def test_images_of_8_bits_lie_in_the_set(small_model, digits, ball):
    x, y = (255 * digits.x_test[:12]).round() / 255, digits.y_test[:12]
    found = checks._of_8_bits(ball, 0)(small_model, x, y)
    levels = 255 * found.x.double()
    assert (levels - levels.round()).abs().max() < 1e-3 and ball.contains(found.x, x).all() and (found.x != x).flatten(1).any(1).all()


def test_what_a_detector_implies_by_hand():
    clean, hit = rows([0.1] * 10, [True] * 8 + [False] * 2, "clean"), rows([0.9] * 10, [False] * 10, "hit")
    clean["score s"], hit["score s"] = np.linspace(1, 2, 10), [0.0] * 6 + [3.0] * 4
    table = checks.implied_table(pd.concat([clean, hit]), clean, ["s"], Linf(16 / 255), "CIFAR-10", lose=0.0)
    row = table.iloc[0]  # right and accepted: the first eight; of these no mistake passes for the first six
    assert row.accuracy == 0.6 and (row.low, row.high) == binomial_interval(6, 10) and row.eps == pytest.approx(8 / 255)
    assert row.known == 0.7528 and checks.of_implied(table, 10)[0].fine
    great = table.assign(accuracy=0.95, low=0.9)
    assert not checks.of_implied(great, 10)[0].fine and checks.of_implied(great.assign(eps=4 / 255), 10) == []


# the gate


CURVE = pd.DataFrame({"attack": TOGETHER, "threshold": [0, 0.5, 0.9, 1.0], "success": [0.9, 0.9, 0.7, 0], "failure": [0.4, 0.3, 0.1, 0], "coverage": [1, 0.95, 0.8, 0]})
TABLES = {"attacks": pd.DataFrame({"accuracy": [0.98, 0.4], "low": [0.9, 0.3], "high": [1, 0.5]}), "curve": CURVE}


@pytest.mark.parametrize("text, holds", [("failure@.9 > .05", True), ("failure@.9>10%", False), ("failure@0.95 >= .1", True), ("accuracy < 50 %", True),
                                         ("clean<.9", False), ("success@.5 <= .9", True), ("coverage@.9 < .8", False)])
def test_conditions_are_what_they_say(text, holds):
    condition = gate.parse_condition(text)
    assert condition.holds(TABLES) is holds and gate.parse_condition(str(condition)) == condition


@given(st.sampled_from(["failure", "success", "coverage"]), st.floats(0, 1), st.sampled_from([">", "<", ">=", "<="]), st.floats(0, 1))
def test_a_condition_reads_its_own_words(name, at, sign, limit):
    found = gate.parse_condition(f"{name}@{at!r} {sign} {limit!r}")
    assert found == gate.Condition(name, at, sign, limit)


@pytest.mark.parametrize("text, says", [("", "must look like"), ("failure@.9", "must look like"), ("failure > .1", "needs a threshold, such as failure@.9"), ("accuracy@.9 > .1", "has no threshold"),
                                        ("fail@.9 > .1", "there is no quantity 'fail'"), ("failure@9 > .1", "9 is no number from 0 to 1"), ("failure@.9 > 5", "5 is no number from 0 to 1"),
                                        ("failure@.9 > nan", "nan is no number"), ("failure@.9 == .1", "must look like"), ("__import__('os')", "must look like")])
def test_other_conditions_are_refused_in_a_sentence(text, says):
    with pytest.raises(basics.UsageError, match="condition") as e:
        gate.parse_condition(text)
    assert says in str(e.value)


def test_the_gate_needs_checks():
    with pytest.raises(ValueError, match="without checks cannot be judged"):
        gate.gate_of(indicators.indicator_table([]))


# a report


def run(*words, **kw):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("evaluate")(command_module.evaluate_command)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["evaluate", *words])


@pytest.fixture
def honest_and_broken(tmp_path, monkeypatch):
    (tmp_path / "gate_nets.py").write_text(
        "from confnb.networks import load_model\nfrom confnb.evaluation.broken import _Rounded\n"
        "def honest(): return load_model('digits/cnn-pgd-linf.095')\ndef rounded(): return _Rounded(honest())\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = ["--data", "digits", "--threat", "linf:8/255", "--quick", "--points", "20", "--detectors", "entropy"]


@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_a_sound_report_passes_its_conditions_and_has_a_card(honest_and_broken):
    done = run("--model", "gate_nets:honest", *QUICK, "--out", "a", "--strict", "--fail-if", "failure@.9 > .9", "--json", "card.json")
    assert done.exit_code == 0, done.output
    card = json.loads((honest_and_broken / "card.json").read_text())
    assert card["schema"] == gate._SCHEMA and card["sound"] and card["threat"] == "linf:8/255" and card["images"] == 20 and card["seed"] == 0
    assert card["attacked"]["low"] <= card["attacked"]["accuracy"] <= card["attacked"]["high"] and [t["threshold"] for t in card["thresholds"]] == [0.5, 0.9, 0.99]
    assert card["attacker"]["detectors"].startswith("nothing") and card["versions"]["torch"] and all(c["fine"] for c in card["checks"])
    page = (honest_and_broken / "a/index.html").read_text()
    assert page.index(">sound: all ") < page.index("<h1>") and "What to do" not in page and "about" in done.output


def test_the_exit_status_is_that_of_a_test(capsys):
    found, sure = (report_page.Report(None, None, TABLES, None, [], {"sound": sound}) for sound in (False, True))
    for report, words, strict, status in (found, [], False, 0), (found, [], True, 3), (found, ["clean < .1"], False, 3), (sure, ["clean < .1"], True, 0), (sure, ["clean > .5"], False, 3):
        try:
            command_module._judge(report, [gate.parse_condition(w) for w in words], strict)
            ended = 0
        except typer.Exit as e:
            ended = e.exit_code
        assert ended == status
    said = capsys.readouterr().err
    assert "no condition can be judged" in said and "and --strict was given" in said and "clean > 0.5 holds: it is 0.98" in said


@pytest.mark.usefixtures("few_tries", "no_drawing")
@pytest.mark.filterwarnings("ignore")
def test_a_report_that_is_not_sound_has_no_headline(honest_and_broken):
    done = run("--model", "gate_nets:rounded", *QUICK, "--out", "a", "--json", "card.json", "--strict")
    assert done.exit_code == 3 and "and --strict was given" in done.stderr and "not sound: of " in done.output and "Under linf:8/255 it is right on" not in done.output
    card = json.loads((honest_and_broken / "card.json").read_text())
    assert not card["sound"] and card["attacked"] is None and card["thresholds"] is None and card["clean"]["accuracy"] > 0.5
    page = (honest_and_broken / "a/index.html").read_text()
    assert page.index(">not sound: of ") < page.index("<h1>") and "are not to be quoted" in page


def test_bad_words_of_the_gate_are_refused_before_anything(honest_and_broken):
    for words, says in (["--fail-if", "failure > 1"], "condition"), (["--effort", "quik"], "did you mean quick"):
        done = run("--model", "gate_nets:honest", *QUICK[:4], "--out", "a", *words)
        assert done.exit_code == 2 and says in done.stderr and not (honest_and_broken / "a").exists()


def test_a_curve_of_an_unsound_evaluation_is_grey(small_model, digits, few_tries):
    found = reporting.report(broken._Rounded(small_model), digits, "linf:0.1", {"idle": lambda m, x, y: x}, {}, effort="quick", points=20, say=lambda line: None)
    axes = found.figures["curve"].axes[0]
    assert not found.sound and {line.get_color() for line in axes.lines} == {"#aaaaaa"} and axes.texts[0].get_text().startswith("not sound")


# a model at chance


class Shuffled(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return logits_of(self.model, x).roll(3, 1)


@pytest.mark.parametrize("name, says", [("scale", "with pixels from 0 to 255 it is right on 9"), ("order", "in another order than the labels"), ("weights", "weights")])
def test_a_model_at_chance_is_stopped_with_the_likely_cause(digits, name, says):
    base = load_model("digits/cnn-undefended")
    model = {"scale": nn.Sequential(Normalize(0.0, 255.0), base), "order": Shuffled(base), "weights": build("model_a", digits.shape, 10, filters=4)}[name]
    with pytest.raises(basics.UsageError, match="no better than chance") as e:
        reporting.report(model, digits, "linf:0.1", points=20, say=lambda line: None)
    assert says in str(e.value)
    assert loading.refuse_chance(base, digits.x_test, digits.y_test, 10)[0] > 300


def test_the_expected_time_grows_with_the_effort(digits, small_model):
    times = [trust.expected_seconds(small_model, digits.x_test, e.attacks, e.points, e) for e in trust.REPORT_EFFORTS.values()]
    assert times[-1] > 2 * times[0] and trust._roughly(50) == "50 seconds" and trust._roughly(600) == "10 minutes"


# eleven broken defences, and honest networks


@pytest.fixture(scope="module")
def defences(digits):
    winners = load_or_train(broken.k_winners_network, digits, recipe=Recipe(epochs=15, batch_size=64, rate=2e-3))
    return broken.broken_defences(load_model("digits/cnn-undefended"), digits, winners)


def judged(model, digits, seed=0):
    return reporting.report(model, digits, "linf:0.1", None, {}, points=60, seed=seed, say=lambda line: None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [pytest.param(i, marks=[pytest.mark.soak] * (i > 0)) for i in range(11)])
def test_every_broken_defence_is_flagged_and_named_or_its_number_is_right(defences, digits, number):
    one = defences[number]
    found = judged(one.model, digits)
    failed = set(found.tables["checks"].query("~fine").name)
    rows = stratified_order(digits.y_test)[:60].sort().values
    x, y = digits.x_test[rows], digits.y_test[rows]
    by_hand = planted.score_inside(one.model, x, y, Linf(0.1), max_confidence(one.around, x, y, Linf(0.1)))
    near = float(by_hand.fooled(y).float().mean()) - (1 - found.tables["attacks"].accuracy.iloc[-1]) <= 0.03
    assert failed & set(one.seen_by) or near, one.name
    assert not found.sound or near


@pytest.mark.slow
@pytest.mark.soak  # test_report has an honest network in an L-infinity ball, and test_defences two in others
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_no_honest_network_is_flagged(name, digits, seed):
    found = judged(load_model(f"digits/{name}"), digits, seed)
    assert found.sound, found.summary[0]


@pytest.mark.slow
def test_the_broken_ones_are_as_accurate_as_what_they_are_made_of(defences, digits):
    for one in defences:
        right = (predict(one.model, digits.x_test[:100]).argmax(1) == digits.y_test[:100]).float().mean()
        assert right > 0.8, one.name
