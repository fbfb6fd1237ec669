"""Losses of networks that may abstain against transcriptions of the papers, and the reject rules that go with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from confnb import calibrated_training, nearby, trades
from confnb.abstaining_kinds import NoiseGOODLoss, Tempered, fitted_temperature
from confnb.adaptive_rejection import adaptive_attack
from confnb.calibrated_training import CCATLoss, fading_targets
from confnb.certified_losses import GOODLoss
from confnb.consistency import Consistency, consistency_rule
from confnb.data import load_data
from confnb.evaluation.rejecting import load_entry
from confnb.losses import Adversarial, CrossEntropyLoss, WithL2, from_words, in_words
from confnb.models import build, logits_and_features, seeded
from confnb.nearby import NearbyLoss, TopConfidence
from confnb.networks import WEIGHTS, zoo_folders
from confnb.rectified import (
    RectifiedConfidence,
    RectifiedLoss,
    rectified_cross_entropy,
    rectified_network,
    rectified_rule,
)
from confnb.reject_rules import rule_scores
from confnb.rule_probes import probe_rule
from confnb.runtime import generator, predict
from confnb.sets import L2, Linf
from confnb.trades import Divergence, TRADESLoss, ramped, trades_objective, training_points
from confnb.training import Recipe, accuracy, fit

K = 4
LOSSES = {
    "trades": TRADESLoss(Linf(0.1), 2.0, steps=3),
    "trades L2": TRADESLoss(L2(0.5), 6.0, steps=2, ramp=0.3),
    "ccat": CCATLoss(Linf(0.2), steps=3),
    "ccat L2": CCATLoss(L2(1.0), rho=5.0, steps=3, ramp=0.2),
    "nearby": NearbyLoss(Linf(0.02), Linf(0.2), steps=3),
    "nearby L2": NearbyLoss(L2(0.1), L2(1.0), 0.5, steps=3, ramp=0.4),
    "rectified": RectifiedLoss(Linf(0.1), steps=3),
    "rectified L2": RectifiedLoss(L2(0.5), 0.5, steps=2, ramp=0.1),
}
EACH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def toy(n=40, seed=0):
    "Images 8 x 8 whose brightest quarter tells the class"
    rng = generator(seed)
    y = torch.arange(n) % K
    x = 0.4 * torch.rand(n, 1, 8, 8, generator=rng)
    for i, label in enumerate(y):
        x[i, :, :, 2 * label : 2 * label + 2] += 0.5
    return x, y


class Small(nn.Module):
    "A network with a head, which keeps the batches that it is trained on"

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, K))
            self.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.layers(x)


def log_softmax(z):
    return z - math.log(sum(math.exp(v) for v in z))


rows = st.integers(0, 10**6)


@given(rows, st.integers(1, 5), st.integers(2, 6), st.floats(0.1, 9))
@settings(deadline=None, max_examples=25)
def test_trades_against_the_formula_written_by_hand(seed, n, classes, beta):
    rng = np.random.default_rng(seed)
    clean, attacked, y = 3 * rng.normal(size=(n, classes)), 3 * rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    total = 0.0
    for i in range(n):
        p, q = log_softmax(clean[i]), log_softmax(attacked[i])
        total += (-p[y[i]] + beta * sum(math.exp(p[k]) * (p[k] - q[k]) for k in range(classes))) / n
    got = trades_objective(torch.tensor(clean), torch.tensor(attacked), torch.tensor(y), beta)
    assert got.item() == pytest.approx(total, rel=1e-6, abs=1e-9)


@given(rows)
@settings(deadline=None, max_examples=20)
def test_a_divergence_is_zero_for_the_same_answer_alone(seed):
    logits = 3 * torch.randn(6, K, generator=generator(seed), dtype=torch.float64)
    away = Divergence(logits.log_softmax(1))
    assert away(logits + 5).abs().max() < 1e-9 and (away(logits.roll(1, 0)) > 0).all()


def test_trades_climbs_the_divergence_and_learns_from_both_answers(monkeypatch):
    seen = []
    monkeypatch.setattr(trades, "training_points", lambda *a, **k: seen.append(a) or training_points(*a, **k))
    model, (x, y) = Small().train(), toy()
    value = TRADESLoss(Linf(0.1), 2.0, steps=4)(model, x, y, generator(0), 1.0)
    clean, z = model.seen[-1].chunk(2)
    assert torch.equal(clean, x) and Linf(0.1).contains(z, x).all() and model.training
    torch.testing.assert_close(seen[0][1].log_p, predict(model, x).log_softmax(1))
    torch.testing.assert_close(value, trades_objective(model(x), model(z), y, 2.0))
    random = Linf(0.1).random(x, torch.arange(len(x)))
    assert seen[0][1](predict(model, z)).mean() > 2 * seen[0][1](predict(model, random)).mean()


def test_trades_has_a_gradient_through_both_answers():
    for part in 0, 1:
        answers = [torch.randn(3, K, generator=generator(i), requires_grad=True) for i in (0, 1)]
        trades_objective(*answers, torch.tensor([0, 1, 2]), 1.0).backward()
        assert answers[part].grad.abs().sum() > 0


@given(rows, st.integers(1, 6), st.integers(2, 6), st.floats(0.05, 1), st.floats(0.5, 12))
@settings(deadline=None, max_examples=25)
def test_faded_targets_against_the_formula_written_by_hand(seed, n, classes, eps, rho):
    rng = np.random.default_rng(seed)
    y, distance = rng.integers(0, classes, n), 1.5 * eps * rng.random(n)
    got = fading_targets(torch.tensor(y), classes, torch.tensor(distance), eps, rho)
    for i in range(n):
        left = (1 - min(1, distance[i] / eps)) ** rho
        expected = [left * (k == y[i]) + (1 - left) / classes for k in range(classes)]
        assert got[i].tolist() == pytest.approx(expected, abs=1e-7)
    assert got.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("ball", [Linf(0.2), L2(1.0)])
def test_ccat_leaves_half_of_a_batch_and_fades_the_other(ball):
    model, (x, y) = Small().train(), toy(21)
    value = CCATLoss(ball, rho=3.0, steps=4)(model, x, y, generator(1), 1.0)
    z, logits = model.seen[-1], model(model.seen[-1]).detach()
    assert torch.equal(z[:11], x[:11]) and ball.contains(z[11:], x[11:]).all()
    total = 0.0
    for i in range(21):
        moved = (z[i] - x[i]).flatten()
        distance = moved.abs().max().item() if isinstance(ball, Linf) else moved.square().sum().sqrt().item()
        left, log_p = (1 - min(1, distance / ball.eps)) ** 3, log_softmax(logits[i].double().numpy())
        total -= sum((left * (k == y[i].item()) + (1 - left) / K) * log_p[k] for k in range(K)) / 21
    assert value.item() == pytest.approx(total, rel=1e-5)
    assert (predict(model, z[11:]).softmax(1).gather(1, y[11:, None]) < predict(model, x[11:]).softmax(1).gather(1, y[11:, None])).float().mean() > 0.8


def test_the_points_of_ccat_lie_at_all_lengths():
    x = torch.full((400, 1, 4, 4), 0.5)
    for ball, order in (Linf(0.2), math.inf), (L2(1.0), 2):
        length = (calibrated_training._at_any_length(ball, x, generator(0)) - x).flatten(1).norm(order, 1) / ball.eps
        assert length.max() <= 1 + 1e-5 and (length < 0.25).float().mean() > 0.15 and (length > 0.6).float().mean() > 0.15


def test_nearby_is_adversarial_within_and_uniform_without(monkeypatch):
    calls = []
    monkeypatch.setattr(nearby, "training_points", lambda *a, **k: calls.append((a, training_points(*a, **k))) or calls[-1][1])
    model, (x, y) = Small().train(), toy()
    loss = NearbyLoss(Linf(0.02), Linf(0.2), 0.7, steps=3)
    value = loss(model, x, y, generator(0), 1.0)
    inside, outside = model.seen[-1].chunk(2)
    (first, _), (second, _) = calls
    assert first[3] == Linf(0.02) and isinstance(second[1], TopConfidence)
    radius = second[3].eps
    assert radius.shape == y.shape and (radius > 0.02 + 0.4 * 0.18).all() and (radius <= 0.2).all() and len(radius.unique()) == len(y)
    assert Linf(0.02).contains(inside, x).all() and Linf(radius).contains(outside, x).all()
    total = 0.0
    for i in range(len(x)):
        log_p, log_q = (log_softmax(model(v[i : i + 1])[0].detach().double().numpy()) for v in (inside, outside))
        counts = (outside[i] - x[i]).abs().max() > 0.02 + 1e-6
        total += (-log_p[y[i]] - 0.7 * counts * sum(log_q) / K) / len(x)
    assert value.item() == pytest.approx(float(total), rel=1e-5)


def test_points_within_the_small_ball_are_asked_for_nothing(monkeypatch):
    model, (x, y) = Small().train(), toy()
    monkeypatch.setattr(nearby, "training_points", lambda model, objective, x, *a, **k: x)
    value = NearbyLoss(Linf(0.02), Linf(0.2))(model, x, y, generator(0), 1.0)
    torch.testing.assert_close(value, CrossEntropyLoss()(model, x, y, generator(0), 1.0))


@given(rows, st.integers(1, 6), st.integers(2, 6))
@settings(deadline=None, max_examples=25)
def test_rectified_cross_entropy_against_the_formula_written_by_hand(seed, n, classes):
    rng = np.random.default_rng(seed)
    logits, head, y = 2 * rng.normal(size=(n, classes)), 2 * rng.normal(size=n), rng.integers(0, classes, n)
    total = 0.0
    for i in range(n):
        p = np.exp(log_softmax(logits[i]))
        r, t = max(p) / (1 + math.exp(-head[i])), p[y[i]]
        total -= (t * math.log(r) + (1 - t) * math.log(1 - r)) / n
    got = rectified_cross_entropy(*map(torch.tensor, (logits, head, y)))
    assert got.item() == pytest.approx(total, rel=1e-4, abs=1e-6)


def test_where_the_gradient_of_rectification_stops():
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]], requires_grad=True)
    auxiliary = torch.zeros(2, requires_grad=True)
    rectified_cross_entropy(logits, auxiliary, torch.tensor([0, 1])).backward()
    assert not logits.grad[0].any() and logits.grad[1].any() and (auxiliary.grad[0] < 0 < auxiliary.grad[1])
    p = logits[1].detach().softmax(0)
    left = (1 - p[1]) / (1 - p[0] / 2) * p[0] / 2 - p[1]  # what -t log r - (1 - t) log(1 - r) gains with log p of the answer
    expected = left * (torch.eye(K)[0] - p) / 2
    torch.testing.assert_close(logits.grad[1], expected)


@given(st.floats(0, 0.99), st.data())
def test_a_good_head_tells_right_from_wrong_above_a_confidence(xi, data):
    sure = data.draw(st.floats(1 / (2 - xi), 1, exclude_min=True))
    true = data.draw(st.floats(0, 1 - sure))
    off = data.draw(st.tuples(*[st.floats(-xi / 2, xi / 2)] * 2))
    right, wrong = sure * min(1 + off[0], 1), sure * max(true / sure + off[1], 0)
    assert right >= 0.5 - 1e-9 and wrong <= 0.5 + 1e-9


def headed(seed=0):
    with seeded(seed):
        return rectified_network((1, 16, 16), K, filters=2, hidden=5)


def test_the_rectified_rule_is_confidence_times_the_head():
    model, x = headed().eval(), torch.rand(6, 1, 16, 16, generator=generator(0))
    logits, hidden = logits_and_features(model, x)
    expected = logits.softmax(1).amax(1) * torch.sigmoid(model.head(hidden)[:, 0])
    rule = rectified_rule(model)
    torch.testing.assert_close(rule_scores(model, rule, x), expected.detach())
    assert rule.hidden and not rule.images and model.head in list(rule.modules())
    assert probe_rule(model, rule, x, 0.1).smooth
    features = hidden.detach().requires_grad_()
    rule(logits.detach(), features).sum().backward()
    assert features.grad.abs().sum() > 0


def test_the_hidden_vectors_are_those_of_the_network_and_not_of_its_head():
    model = headed()
    assert model.head[0].in_features == model.network[-1].in_features and "network" in dict(model.named_children())
    plain = build("model_a", (1, 16, 16), K, filters=2)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in model.network.parameters()]


def test_a_model_without_a_head_is_refused():
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, K)), toy()
    for refused in lambda: rectified_rule(model), lambda: RectifiedLoss(Linf(0.1))(model, x, y, generator(0), 1.0):
        with pytest.raises(ValueError, match="has no head to rectify"):
            refused()
    with pytest.raises(ValueError, match="there is no architecture 'nothing'; there are model_a"):
        rectified_network((1, 16, 16), K, "nothing")


def brute(model, x, radius):
    "The smallest margin of the predicted class at the corners of the ball, which is exact for a linear model"
    answer = model(x).argmax(1)
    corners = torch.cartesian_prod(*[torch.tensor([-radius, radius])] * x[0].numel()).reshape(-1, *x.shape[1:])
    z = (x[:, None] + corners).clamp(0, 1)
    logits = model(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    own = answer[:, None, None].expand(-1, len(corners), 1)
    return (logits.gather(2, own)[..., 0] - logits.scatter(2, own, -math.inf).amax(2)).amin(1)


def test_consistency_finds_the_smallest_margin_of_a_linear_model():
    with seeded(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(20, 1, 2, 2, generator=generator(0))
    for radius in 0.05, 0.2:
        torch.testing.assert_close(Consistency(model, radius)(x), brute(model, x, radius), atol=1e-6, rtol=1e-5)
    assert (Consistency(model, 0.2)(x) <= Consistency(model, 0.05)(x) + 1e-6).all()


def test_an_answer_is_consistent_above_zero_alone():
    with seeded(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(60, 1, 2, 2, generator=generator(0))
    rule = Consistency(model, 0.15)
    with torch.no_grad():
        answer = model(x).argmax(1)
        same = model(rule.worst(x, answer)).argmax(1) == answer
    assert torch.equal(rule(x) > 0, same) and 0 < same.sum() < 60


def test_consistency_takes_the_papers_steps():
    "Independent PGD of the paper: from x, signs of the gradient of cross-entropy against the answer"
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 2))
    x = torch.rand(30, 1, 4, 4, generator=generator(0))
    answer = model(x).argmax(1)
    z = x.clone()
    for _ in range(20):
        z.requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), answer), z)
        z = torch.min(torch.max(z.detach() + 0.01 * slope.sign(), x - 0.1), x + 0.1).clamp(0, 1)
    ours = model(Consistency(model, 0.1, 20, 0.01).worst(x, answer))
    theirs = model(z)
    assert torch.equal(ours.argmax(1) == answer, theirs.argmax(1) == answer)


def test_consistency_is_a_rule_that_can_be_climbed():
    model = Small().eval()
    x, y = toy()
    fit(model, x, y, Adversarial(Linf(0.1), steps=3), Recipe(epochs=30, batch_size=20, rate=0.01))
    rule = consistency_rule(model, 0.05, steps=3)
    scores = rule_scores(model, rule, x)
    assert torch.equal(scores, rule_scores(model, rule, x, batch_size=7)) and rule.images and not scores.requires_grad
    assert probe_rule(model, rule, x, 0.1).smooth and all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    attacked = adaptive_attack(model, rule, x[:12], y[:12], 0.3, steps=5, queries=10)
    assert attacked.found.fooled(y[:12]).any() and attacked.found.value.isfinite().any()
    assert (rule(None, None, x + 1).isfinite()).all()  # points outside of the box, as differences take them


@pytest.mark.parametrize("steps", [0, 1.5])
def test_consistency_refuses_no_steps(steps):
    with pytest.raises((TypeError, ValueError), match="steps"):
        consistency_rule(Small(), steps=steps)


@EACH
def test_the_words_of_a_loss_make_it_again(loss):
    assert from_words(yaml.safe_load(yaml.safe_dump(in_words(loss)))) == loss
    assert from_words(yaml.safe_load(yaml.safe_dump(in_words(WithL2(loss, 0.1))))) == WithL2(loss, 0.1)


@EACH
def test_a_loss_is_the_same_again_leaves_the_mode_and_reaches_every_layer(loss):
    (x, y), values = toy(), []
    state = torch.get_rng_state()
    for seed in 3, 3, 4:
        model = Small().train()
        value = loss(model, x, y, generator(seed), 1.0)
        value.backward()
        values.append(value.item())
        assert model.training and all(p.grad is not None and p.grad.any() for p in model.layers.parameters())
        assert all(p.grad is not None for p in model.head.parameters()) == isinstance(loss, RectifiedLoss)
    assert values[0] == values[1] != values[2] and torch.equal(torch.get_rng_state(), state)


@EACH
def test_before_the_ball_grows_a_loss_looks_at_the_images(loss):
    model, (x, y) = Small().train(), toy()
    value = replace(loss, ramp=0.5)(model, x, y, generator(0), 0.0)
    plain = CrossEntropyLoss()(model, x, y, generator(0), 0.0)
    if isinstance(loss, RectifiedLoss):
        logits, hidden = logits_and_features(model, x)
        plain = plain + loss.weight * rectified_cross_entropy(logits, model.head(hidden)[:, 0], y)
    torch.testing.assert_close(value, plain)


@pytest.mark.parametrize("progress, share", [(0.1, 0.25), (0.4, 1.0), (1.0, 1.0)])
def test_a_ball_grows_along_its_ramp(progress, share):
    assert ramped(Linf(0.2), 0.4, progress).eps == pytest.approx(0.2 * share) and ramped(Linf(0.2), 0.4, 0.0) is None
    assert ramped(L2(2.0), 0.0, 0.0) == L2(2.0)


@EACH
@pytest.mark.parametrize("change, said", [({"steps": 0}, "steps must be at least 1"), ({"ramp": 1.5}, "ramp in"), ("positive", "must be positive")])
def test_settings_that_cannot_be_are_refused(loss, change, said):
    if change == "positive":
        change = {next(n for n in ("beta", "rho", "weight") if hasattr(loss, n)): 0.0}
    with pytest.raises(ValueError, match=said):
        replace(loss, **change)


@pytest.mark.parametrize("far", [Linf(0.02), Linf(0.01), L2(1.0)])
def test_confident_nearby_needs_a_larger_set_of_the_same_kind(far):
    with pytest.raises(ValueError, match="far must be a larger set of the same kind"):
        NearbyLoss(Linf(0.02), far)


@pytest.mark.parametrize("gap", [-0.1, 1.0])
def test_a_gap_is_a_share_of_the_way(gap):
    with pytest.raises(ValueError, match="gap is a share of the way"):
        NearbyLoss(Linf(0.02), Linf(0.1), gap=gap)


@EACH
def test_a_network_learns_by_each_loss(loss):
    x, y = toy(80)
    model = Small()
    told = fit(model, x, y, replace(loss, ramp=0.4), Recipe(epochs=12, batch_size=20, rate=0.01))
    assert accuracy(model, *toy(40, seed=1)) > 0.9 and told.loss.iloc[-1] < told.loss.max()


def test_training_leaves_no_gradient_in_the_points():
    model, x = Small(), toy()[0]
    z = training_points(model, TopConfidence(), x, Linf(0.1), generator(0), 2)
    assert not z.requires_grad and Linf(0.1).contains(z, x).all() and z.dtype == torch.float32


def test_a_head_says_nothing_of_examples_but_their_own():
    rule = RectifiedConfidence(nn.Linear(3, 1))
    logits, hidden = torch.randn(5, K), torch.randn(5, 3)
    torch.testing.assert_close(rule(logits, hidden)[2:3], rule(logits[2:3], hidden[2:3]))


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_good_on_noise_is_good_with_the_noise_that_the_training_draws(progress):
    model, (x, y), rng = build("model_a", (1, 9, 9), K, filters=2).train(), toy(), generator(3)
    x = nn.functional.pad(x, (0, 1, 0, 1))
    value = NoiseGOODLoss(Linf(0.05), 0.5, 0.8)(model, x, y, generator(3), progress)
    good = GOODLoss(torch.rand(x.shape, generator=rng), Linf(0.05), 0.5, 0.8)
    torch.testing.assert_close(value, good(model, x, y, rng, progress))
    assert value != NoiseGOODLoss(Linf(0.05), 0.5, 0.8)(model, x, y, generator(4), progress)


def test_good_on_noise_fits_a_card_and_refuses_what_good_refuses():
    loss = NoiseGOODLoss(L2(0.5), share=0.9, schedule=(0.0, 0.5))
    assert from_words(yaml.safe_load(yaml.safe_dump(in_words(loss)))) == loss
    for change, said in ({"share": 0.0}, "share is"), ({"schedule": (0.6, 0.1)}, "schedule is"):
        with pytest.raises(ValueError, match=said):
            replace(loss, **change)


@given(rows, st.floats(0.05, 20))
@settings(deadline=None, max_examples=20)
def test_a_temperature_changes_no_answer_and_divides_the_logits(seed, temperature):
    with seeded(seed % 1000):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, K))
    x = torch.rand(5, 1, 2, 2, generator=generator(seed))
    torch.testing.assert_close(Tempered(model, temperature)(x), model(x) / temperature)
    assert torch.equal(Tempered(model, temperature)(x).argmax(1), model(x).argmax(1))


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_answers_were_drawn_with_is_found(true):
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    nn.init.normal_(model[1].weight, std=3, generator=generator(1))
    x = torch.rand(20_000, 1, 4, 4, generator=generator(2))
    y = torch.multinomial((predict(model, x) / true).softmax(1), 1, generator=generator(3))[:, 0]
    found = fitted_temperature(model, x, y)
    assert found == pytest.approx(true, rel=0.1)
    nll = lambda t: nn.functional.cross_entropy(predict(model, x).double() / t, y).item()  # noqa: E731
    assert all(nll(found) <= nll(found * change) for change in (0.99, 1.01, 0.5, 2))


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        Tempered(Small(), temperature)


SHIP = {  # what ships beside the papers' networks on digits: its rule, and what it answers as
    "ccat-linf.2": ("confidence", "Sequential"),
    "crown-ibp-linf.1": ("confidence", "Sequential"),
    "good-noise": ("confidence", "Sequential"),
    "interval-linf.1": ("confidence", "Sequential"),
    "nearby-linf.03": ("confidence", "Sequential"),
    "pgd-cpr": ("consistency", "Sequential"),
    "pgd-shell": ("confidence", "Unrolled"),
    "rce": ("kdensity", "ReverseLogits"),
    "rectified-linf.2": ("rectified confidence", "WithHead"),
    "regularised-smoothed": ("confidence", "Smoothed"),
    "robust-ensemble": ("confidence", "Ensemble"),
    "smoothed": ("confidence", "Sequential"),
    "trades-cpr": ("consistency", "Sequential"),
    "trades-linf.2": ("confidence", "Sequential"),
    "undefended-tempered": ("confidence", "Tempered"),
}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize("name", SHIP)
def test_a_model_that_may_abstain_ships_as_what_it_is(name, digits):
    entry, folder = load_entry(f"digits/{name}", "cpu", digits), zoo_folders()[f"digits/{name}"]
    assert (entry.rule.name, type(entry.model).__name__) == SHIP[name]
    x, y = digits.x_test[:60], digits.y_test[:60]
    scores = rule_scores(entry.model, entry.rule, x)
    assert scores.isfinite().all() and len(scores.unique()) > 20
    right = predict(entry.model, x).argmax(1) == y
    assert abs(right.float().mean() - entry.card.accuracy) < 0.1 and right.float().mean() > 0.8
    assert not (folder / WEIGHTS).exists() or (folder / WEIGHTS).stat().st_size < 150_000
