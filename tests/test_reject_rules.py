"""Reject rules of every kind: what is found out of them, gradients against closed forms, and one call against attacks written by hand."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from toys import images, linear

from confnb import load_model
from confnb.adapters import _drawing
from confnb.adaptive_rejection import KNOWS, UNAWARE, adaptive_attack, adaptive_curves, adaptive_table
from confnb.basics import UsageError
from confnb.corruptions import corrupt
from confnb.ensembles import Ensemble
from confnb.maxconfidence import max_confidence
from confnb.models import features, logits_and_features
from confnb.reject_rules import (
    NAMED,
    NeighbourVote,
    OfLogits,
    RejectRule,
    max_logit,
    negative_entropy,
    reject_rule,
    rule_scores,
)
from confnb.rejection_routes import ROUTES, fitting_routes
from confnb.rule_gradients import FiniteDifferences, OverDraws, PassedOver, SoftVotes, _OwnDraws
from confnb.rule_probes import probe_rule
from confnb.runtime import generator, predict, streams
from confnb.selective import choose_threshold
from confnb.sets import L2, Linf

few = settings(max_examples=8)


class Squeezed(nn.Module):
    "Minus how far the answer moves when the images are rounded, without a gradient"

    def __init__(self, model, levels=4):
        super().__init__()
        self.model, self.levels = model, levels

    @torch.no_grad()
    def forward(self, x):
        return (
            -(self.model(x).softmax(1) - self.model(torch.round(self.levels * x) / self.levels).softmax(1))
            .abs()
            .sum(1)
        )


class Compressed(nn.Module):
    "Minus how far the answer moves when the images go through a JPEG file, which has no gradient at all"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        moved = self.model(x).softmax(1) - self.model(corrupt(x.detach().clamp(0, 1), "jpeg", 4)).softmax(1)
        return -moved.abs().sum(1)


class Majority(nn.Module):
    "The share of networks that answer as the first one does"

    def __init__(self, *nets):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x):
        votes = torch.stack([net(x).argmax(1) for net in self.nets])
        return (votes == votes[0]).float().mean(0)


class NoisyVotes(nn.Module):
    "The share of noisy looks that answer as the network does without noise"

    def __init__(self, model, sigma=0.15, looks=8):
        super().__init__()
        self.model, self.sigma, self.looks = model, sigma, looks

    @torch.no_grad()
    def forward(self, x):
        votes = [self.model(x + self.sigma * torch.randn_like(x)).argmax(1) for _ in range(self.looks)]
        return (torch.stack(votes) == self.model(x).argmax(1)).float().mean(0)


class NeighbourIf(nn.Module):
    "True where nearly all of the nearest training vectors bear the class"

    def __init__(self, vectors, labels, need=9):
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("labels", labels)
        self.need = need

    def forward(self, logits, features):
        near = torch.cdist(features.detach(), self.vectors).topk(10, largest=False).indices
        if not len(near):
            return features[:, 0] > 0
        return (self.labels[near] == logits.argmax(1, keepdim=True)).sum(1) >= self.need


# what is brought


def one(images):
    return NETS[0](images).amax(1)


NETS = [linear(3)[0]]


def test_a_rule_is_called_on_what_its_arguments_say_and_holds_what_it_uses():
    net = linear(3)[0]
    bound = functools.partial(lambda model, images: model(images).amax(1), net)
    assert [
        RejectRule(f).on
        for f in (max_logit, OfLogits(max_logit), Squeezed(net), bound, one, lambda logits, features: logits)
    ] == ["answers", "answers", "images", "images", "images", "answers"]
    assert list(RejectRule(one).held) == NETS and list(RejectRule(bound).held) == [net]
    assert list(RejectRule(Squeezed(net).forward).held)[0].model is net
    assert RejectRule(one, on="answers").on == "answers" and not RejectRule(max_logit).hidden
    with pytest.raises(ValueError, match="not on 'pixels'"):
        RejectRule(one, on="pixels")
    with pytest.raises(TypeError, match="cannot be"):
        RejectRule(3)


@given(seed=st.integers(0, 99), k=st.integers(1, 8))
@few
def test_neighbours_vote_as_scikit_learns_do(seed, k):
    rng = generator(seed)
    vectors, labels = torch.randn(30, 4, generator=rng), torch.arange(30) % 3
    at, logits = torch.randn(7, 4, generator=rng), torch.randn(7, 3, generator=rng)
    theirs = KNeighborsClassifier(k).fit(vectors, labels).predict_proba(at)[np.arange(7), logits.argmax(1)]
    np.testing.assert_allclose(NeighbourVote(vectors, labels, k)(logits, at), theirs, atol=1e-6)


def test_names_and_paths_lead_to_rules_and_others_are_refused():
    net, x = linear(3)[0], images(12)
    y = torch.arange(12) % 3
    logits, hidden = logits_and_features(net, x)
    for name in NAMED:
        assert reject_rule(name, net, x, y)(logits, hidden, x).shape == (12,)
    assert torch.equal(reject_rule("confnb.reject_rules:negative_entropy")(logits), negative_entropy(logits))
    for name, said in (
        ("entropi", "did you mean entropy"),
        ("kdensity", "images that it was trained on"),
        ("no.such:thing", "cannot be loaded"),
    ):
        with pytest.raises(UsageError, match=said):
            reject_rule(name)


# gradients for rules that have none


@given(seed=st.integers(0, 99))
@few
def test_passing_straight_through_is_the_gradient_written_by_hand(seed):
    net, x = linear(3, seed=seed)[0], images(4, seed=seed)
    rule = RejectRule(Squeezed(net))
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours,) = torch.autograd.grad(PassedOver(rule)(net(z), None, z).sum(), z)
    coarse = w + (torch.round(4 * w) / 4 - w).detach()
    by_hand = -(net(w).softmax(1) - net(coarse).softmax(1)).abs().sum(1)
    (theirs,) = torch.autograd.grad(by_hand.sum(), w)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(PassedOver(rule)(net(z), None, z).detach(), rule(net(x), None, x))


DRAWN = {
    "randn_like": lambda z: z + torch.randn_like(z),
    "rand": lambda z: z * torch.rand(len(z), 1, 1, 1) + torch.rand((len(z), 1, 1, 1)),
    "in place": lambda z: z + torch.zeros_like(z).uniform_(),
    "dropout": lambda z: nn.functional.dropout(z, 0.5, training=True),
    "repeated": lambda z: (
        z + torch.randn(z.repeat_interleave(2, 0).shape).reshape(-1, 2, *z.shape[1:]).mean(1)
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_the_rows_of_an_example_get_draws_of_their_own(kind):
    seeds, z = streams(3, 5), images(5).repeat_interleave(2, 0)

    def shaken(rows, own, base):
        with _drawing(base, z.device), _OwnDraws(own):
            return DRAWN[kind](z[rows])

    whole = shaken(slice(0, 10), seeds, 0)
    assert torch.equal(shaken(slice(4, 8), seeds[2:4], 1), whole[4:8])
    assert not torch.equal(whole[0] - z[0], whole[1] - z[1])


def test_the_mean_over_draws_is_the_mean_and_alone_it_is_the_same_whatever_the_batch():
    rule = RejectRule(
        lambda images: images.flatten(1)[:, 0] + torch.from_numpy(np.random.normal(size=len(images))).float()
    )
    seeds, x = streams(0, 6), images(6)
    mean = OverDraws(rule, seeds, 400)(x.flatten(1), None, x)
    assert ((mean - x.flatten(1)[:, 0]).abs() < 4 / math.sqrt(400)).all() and (
        mean != x.flatten(1)[:, 0]
    ).all()
    part = OverDraws(rule, seeds[2:4], 400)(x[2:4].flatten(1), None, x[2:4])
    torch.testing.assert_close(part, mean[2:4])


@given(seed=st.integers(0, 99))
@few
def test_differences_measure_the_slope_of_a_linear_score(seed):
    weights = torch.randn(4, generator=generator(seed))
    rule = RejectRule(lambda logits, features: torch.from_numpy(features.numpy() @ weights.numpy()))
    hidden = torch.randn(3, 4, generator=generator(seed + 1)).requires_grad_()
    asked, width = torch.zeros(3, dtype=torch.int64), torch.tensor([0.5, 1, 2, 0.1])
    found = FiniteDifferences(rule, streams(0, 3), asked, (None, width, None), pairs=600)(
        torch.zeros(3, 2), hidden
    )
    (slope,) = torch.autograd.grad(found.sum(), hidden)
    scaled, exact = slope * width, (weights * width).expand(3, -1)
    assert (scaled - exact).norm(dim=1).max() < 0.35 * exact.norm(dim=1).max() and (asked == 1).all()


@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
@few
def test_soft_votes_are_the_log_of_the_mean_probability_of_the_networks(seeds):
    nets, x = [linear(3, seed=s)[0] for s in seeds], images(5)
    rule = RejectRule(Majority(*nets))
    logits = nets[0](x)
    mean = Ensemble(nets)(x).gather(1, logits.argmax(1)[:, None])[:, 0]
    torch.testing.assert_close(SoftVotes(rule)(logits, None, x), mean)
    looks = RejectRule(NoisyVotes(nets[0], sigma=0.0, looks=3))
    torch.testing.assert_close(SoftVotes(looks)(logits, None, x), logits.log_softmax(1).amax(1))


# what is found out


def turned(logits, features):
    score = logits.amax(1)
    return 2 * score.detach() - score


FOUND = {
    "entropy": (
        lambda net, x: OfLogits(negative_entropy),
        {"gradient": "useful", "random": False, "flat": 0.0},
    ),
    "turned": (lambda net, x: turned, {"gradient": "misleading"}),
    "numpy": (
        lambda net, x: lambda logits, features: logits.numpy().max(1),
        {"gradient": "none", "passed": "none"},
    ),
    "rounded": (
        lambda net, x: lambda logits, features: torch.round(9 * logits.amax(1)),
        {"gradient": "zero", "passed": "useful", "hides": True},
    ),
    "broken": (
        lambda net, x: lambda logits, features: (logits - logits).sum(1).sqrt() + logits.amax(1),
        {"gradient": "broken"},
    ),
    "squeezed": (
        lambda net, x: Squeezed(net),
        {"on": "images", "gradient": "none", "passed": "useful", "networks": 2},
    ),
    "votes": (
        lambda net, x: NoisyVotes(net, 0.5),
        {"random": True, "repeatable": True, "shown": "own draws", "networks": 9},
    ),
    "numpy noise": (
        lambda net, x: (
            lambda logits, features: logits.amax(1) + torch.from_numpy(np.random.normal(size=len(logits)))
        ),
        {"random": True, "shown": "alone"},
    ),
    "batch": (
        lambda net, x: lambda logits, features: logits.amax(1) - logits.mean(),
        {"batch": True, "random": False, "shown": "alone"},
    ),
    "step": (
        lambda net, x: functools.partial(
            lambda level, logits, features: logits.amax(1) > level, net(x).amax(1).median()
        ),
        {"gradient": "none", "values": 2},
    ),
}


@pytest.mark.parametrize("kind", FOUND)
def test_a_probe_finds_out_what_a_rule_is_like(kind):
    net, x = linear(3, scale=1.0)[0], images(20)
    make, told = FOUND[kind]
    probe = probe_rule(net, RejectRule(make(net, x)), x, 0.2)
    assert {name: getattr(probe, name) for name in told} == told
    assert probe.words.startswith(f"A rule on {probe.on}: ") and probe.words.endswith(".")


def test_routes_fit_what_was_found():
    net, x = linear(3)[0], images(20)

    def of(rule, ball):
        return fitting_routes(probe_rule(net, RejectRule(rule), x, ball), ball)

    assert of(OfLogits(negative_entropy), Linf(0.2)) == [
        "joint objective",
        "orthogonal steps",
        "random search",
    ]
    assert of(Squeezed(net), L2(1.0)) == [
        "straight-through",
        "votes of its networks",
        "smooth surrogate",
        "random search",
    ]
    assert set(ROUTES) >= set(of(turned, Linf(0.1))) >= {"straight-through", "finite differences"}


def gives(value):
    return lambda logits, features: value(logits)


REFUSED = {
    "one number for each example": gives(lambda z: z),
    "not float": gives(lambda z: 1.0),
    "gives NaN for": gives(lambda z: z[:, 0] * torch.nan),
    "abstains on all": gives(lambda z: torch.full_like(z[:, 0], -torch.inf)),
    "accepts nothing": gives(lambda z: z[:, 0] > 1e9),
    "says that it is differentiable": RejectRule(gives(lambda z: z.argmax(1).float()), differentiable=True),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_attacked_is_refused_in_a_sentence(said):
    with pytest.raises(UsageError, match=said) as e:
        adaptive_attack(linear(3)[0], REFUSED[said], images(5), torch.zeros(5, dtype=torch.int64), 0.1)
    assert "\n" not in str(e.value)


# the attack


def small(seed, n=10):
    net, x = linear(4, seed=seed, scale=1.5)[0], images(n, seed=seed)
    return net, x, net(x).argmax(1)


RULES = {
    "entropy": lambda net: OfLogits(negative_entropy),
    "squeezed": Squeezed,
    "noisy votes": lambda net: NoisyVotes(net, looks=3),
    "step": lambda net: lambda logits, features: features.mean(1) > 0.5,
}


@given(
    seed=st.integers(0, 99),
    kind=st.sampled_from(list(RULES)),
    ball=st.sampled_from([Linf(0.1), Linf(0.3), L2(0.6)]),
)
@settings(max_examples=5)
def test_the_attack_stays_in_its_set_is_never_worse_and_leaves_no_trace(seed, kind, ball):
    net, x, y = small(seed)
    net.train()
    rule = RejectRule(RULES[kind](net))
    state, drawn = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    found = adaptive_attack(net, rule, x, y, ball, steps=4, queries=10, draws=2)
    assert ball.contains(found.found.x, x).all() and found.found.x.dtype == torch.float32
    assert (found.found.value >= found.unaware.value).all()
    if not found.probe.random:  # evaluated again
        wrong = [predict(net, f.x).argmax(1) != y for f in (found.unaware, found.found)]
        score = [rule_scores(net, rule, f.x) for f in (found.unaware, found.found)]
        worth = [torch.where(w, s, -torch.inf) for w, s in zip(wrong, score, strict=True)]
        assert (worth[1] >= worth[0] - 1e-5).all() and torch.equal(found.found.value > -torch.inf, wrong[1])
    assert (
        net.training
        and all(p.requires_grad for p in net.parameters())
        and not any(m._forward_hooks for m in net.modules())
    )
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and torch.equal(
        torch.get_rng_state(), drawn
    )


@pytest.mark.parametrize("kind", RULES)
def test_the_same_seed_gives_the_same_points_whatever_the_batch_size(kind):
    net, x, y = small(7)
    run = functools.partial(
        adaptive_attack, net, RULES[kind](net), x, y, 0.2, steps=4, queries=10, draws=2, first=4
    )
    whole, parts = run(), run(batch_size=3)
    # the last steps of a climb are a thousandth of the ball, and rounding may turn one round where a slope is nearly zero
    torch.testing.assert_close(whole.found.x, parts.found.x, atol=0.2 / 50, rtol=0)
    torch.testing.assert_close(whole.found.value, parts.found.value, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(whole.score, parts.score, atol=1e-3, rtol=1e-3)
    assert sum(whole.shares().won) == pytest.approx(1.0)


def test_the_tables_hold_both_attackers_and_draw_their_curves():
    net, x, y = small(3, 20)
    found = adaptive_attack(net, "entropy", x, y, 0.2, steps=5, queries=10)
    table = adaptive_table(net, x, y, found)
    assert table.attack.value_counts().to_dict() == {"clean": 20, UNAWARE: 20, KNOWS: 20}
    knows = table[table.attack == KNOWS]
    np.testing.assert_allclose(knows.score, found.score, rtol=1e-5)
    assert knows.route.tolist() == list(found.route)
    curves = adaptive_curves(table)
    for name, knowing in ((UNAWARE, False), (KNOWS, True)):
        clean = table[table.attack == "clean"].score
        t = float(clean.median())
        expected = found.accepted(y, t, knowing).float().mean().item()
        rank = (clean < t).mean()
        assert abs(curves[name].failure[curves[name].threshold <= rank + 1e-9].iloc[-1] - expected) <= 0.101
    assert found.accepted(y, 0.0, True).sum() >= found.accepted(y, 0.0, False).sum()


# one call against attacks that are written by hand, on the networks that ship


@pytest.fixture(scope="module")
def attacked(digits):
    net = load_model("digits/cnn-pgd-linf.095", "cpu").requires_grad_(False)
    return net, digits.x_test[:50], digits.y_test[:50]


def log_p(logits, target):
    return logits.log_softmax(1).gather(1, target[:, None])[:, 0]


def by_hand(goal, accepted, x, y, eps, steps=24, targets=3):
    "Which images signed steps towards each of some classes make an accepted mistake of"
    got = torch.zeros(len(x), dtype=torch.bool)
    likely = goal.net(x).scatter(1, y[:, None], -torch.inf).topk(targets).indices
    for j in range(targets):
        z = x.clone()
        for i in range(steps):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(goal(z, likely[:, j]).sum(), z)
            z = (
                z.detach()
                + eps * (0.4 if i < steps // 3 else 0.1 if i < 2 * steps // 3 else 0.03) * slope.sign()
            )
            z = torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
            if i % 4 == 3:
                got |= accepted(z)
    return got


class Goal:
    "The objectives that somebody writes who has read the rule"

    def __init__(self, net, nets, digits):
        self.net, self.nets = net, nets
        self.vectors, self.labels = features(net, digits.x_train[:600]), digits.y_train[:600]
        self.density = reject_rule("kdensity", net, digits.x_train[:600], digits.y_train[:600])

    def __call__(self, z, target):
        return getattr(self, self.kind)(z, target)

    def confident(self, z, target):
        return log_p(self.net(z), target)

    def non_me(self, z, target):
        logits = self.net(z)
        rest = logits.scatter(1, target[:, None], -torch.inf).log_softmax(1)
        return log_p(logits, target).clamp_max(-0.1) * 2 + torch.special.entr(rest.exp()).sum(1)

    def dense(self, z, target):
        logits, hidden = logits_and_features(self.net, z)
        return log_p(logits, target) + self.density.score.density(hidden, target).float()

    def among(self, z, target):
        logits, hidden = logits_and_features(self.net, z)
        far = torch.cdist(hidden, self.vectors)
        near, same = -20 * far / far.detach().mean(), self.labels == target[:, None]
        return (
            log_p(logits, target)
            + near.masked_fill(~same, -1e9).logsumexp(1)
            - near.masked_fill(same, -1e9).logsumexp(1)
        )

    def majority(self, z, target):
        return sum(log_p(net(z), target) for net in self.nets)

    def noisy(self, z, target):
        return (
            log_p(self.net(z), target)
            + sum(log_p(self.net(z + 0.15 * torch.randn_like(z)), target) for _ in range(4)) / 4
        )

    def coarse(self, z, target):
        return log_p(self.net(z), target) + log_p(self.net(z + (torch.round(4 * z) / 4 - z).detach()), target)


    def compressed(self, z, target):
        through = z + (corrupt(z.detach().clamp(0, 1), "jpeg", 4) - z).detach()
        return log_p(self.net(z), target) + log_p(self.net(through), target)


OTHERS = ("digits/cnn-undefended", "digits/cnn-regularised", "digits/cnn-l2")
HAND = {
    "entropy": "confident",
    "non-me": "non_me",
    "kdensity": "dense",
    "neighbours": "among",
    "if": "among",
    "majority": "majority",
    "noisy votes": "noisy",
    "squeezed": "coarse",
    "jpeg": "compressed",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.soak] * (kind != "neighbours")) for kind in HAND])
def test_one_call_is_as_good_as_the_attack_written_by_hand(kind, attacked, digits):
    net, x, y = attacked
    nets = [net, *(load_model(name, "cpu").requires_grad_(False) for name in OTHERS)]
    goal = Goal(net, nets, digits)
    goal.kind = HAND[kind]
    own = {
        "if": lambda: NeighbourIf(goal.vectors, goal.labels),
        "majority": lambda: Majority(*nets),
        "noisy votes": lambda: NoisyVotes(net),
        "squeezed": lambda: Squeezed(net),
        "jpeg": lambda: Compressed(net),
    }
    rule = (
        RejectRule(own[kind]())
        if kind in own
        else reject_rule(kind, net, digits.x_train[:600], digits.y_train[:600])
    )
    held = rule_scores(net, rule, digits.x_val)
    threshold = 0.5 if kind == "if" else choose_threshold(held, lose=0.05)
    found = adaptive_attack(net, rule, x, y, 0.1, steps=24, clean=digits.x_val)
    if kind == "noisy votes":  # points are compared in the mean over draws that neither attacker has seen
        mean = lambda z: OverDraws(rule, streams(99, len(z)), 16, alone=False)(predict(net, z), None, z)  # noqa: E731
    else:
        mean = lambda z: rule_scores(net, rule, z)  # noqa: E731
    with _drawing(0, x.device):
        hand = by_hand(goal, lambda z: (predict(net, z).argmax(1) != y) & (mean(z) > threshold), x, y, 0.1)
    ours = found.found.fooled(y) & (mean(found.found.x) > threshold)
    assert ours.float().mean() >= hand.float().mean() - 0.02, (
        f"{ours.float().mean():.3f} in one call, {hand.float().mean():.3f} by hand"
    )
    assert ours.float().mean() >= found.accepted(y, threshold, False).float().mean() - 0.02


def test_the_old_number_is_that_of_who_does_not_know(attacked, digits):
    net, x, y = attacked
    rule = reject_rule("neighbours", net, digits.x_train[:600], digits.y_train[:600])
    before = max_confidence(net, x, y, 0.1)
    found = adaptive_attack(net, rule, x, y, 0.1, steps=10, unaware=before, clean=digits.x_val, queries=30)
    assert torch.equal(found.unaware.x, before.x) and found.unaware.logits.allclose(before.logits, atol=1e-4)
    old, new = (found.accepted(y, 0.5, knows).float().mean() for knows in (False, True))
    assert new > old > 0 and found.route.count(UNAWARE) < 50


# what cannot be scored


@pytest.mark.parametrize("ask", [lambda m, x, **s: rule_scores(m, reject_rule("confidence"), x, **s), lambda m, x, **s: probe_rule(m, reject_rule("confidence"), x, 0.1, **s)], ids=["scores", "probe"])
def test_seeds_and_models_that_cannot_be_are_refused_in_words(ask):
    model, x = linear(3)[0], images(5)
    for seed in 1.5, "0", None, [0, 1], torch.Generator(), torch.ones(5), math.nan:
        with pytest.raises(TypeError, match="seed must be a whole number"):
            ask(model, x, seed=seed)
    for seed in np.int64(3), torch.tensor(3), -1, 2**70:
        ask(model, x, seed=seed)
    for last, says in (nn.Softmax(1), "the model gives probabilities"), (nn.Threshold(99, math.nan), "the model's logits are NaN or infinite for"):
        with pytest.raises(ValueError, match=says):
            ask(nn.Sequential(model, last), x)


def test_an_adaptive_attack_does_not_depend_on_the_default_device():
    model, x, y = linear(3)[0], images(5), torch.tensor([0, 1, 2, 0, 1])
    usual = adaptive_attack(model, "confidence", x, y, 0.1, steps=2).found
    with torch.device("meta"):
        assert torch.equal(adaptive_attack(model, "confidence", x, y, 0.1, steps=2).found.x, usual.x)


def test_a_rule_that_leaves_pytorch_is_attacked_all_the_same():
    net, x, y = small(3, 8)

    def through_numpy(images):
        return torch.from_numpy(np.round(4 * images.detach().numpy()).mean((1, 2, 3))) + net(images).amax(1)

    found = adaptive_attack(net, through_numpy, x, y, 0.2, steps=3, queries=10)
    assert (found.found.value >= found.unaware.value).all()
