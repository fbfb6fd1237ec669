"""Efforts of the race, many classes, and restarts until they no longer pay."""

import pytest
import torch
from torch import nn
from toys import LABELS, SOAK, images, linear, network

from confnb import halving, maxconfidence
from confnb.found import Found, bundle, concat, score_inside
from confnb.halving import EFFORTS, HalvingRound, successive_halving
from confnb.maxconfidence import max_confidence
from confnb.objectives import WrongConfidence
from confnb.runtime import predict, streams
from confnb.sets import L2, Linf


def rugged(classes=10, side=6, seed=0, gain=4.0):
    "A network with many local optima: saturating units with large weights"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, classes))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(gain)
    return model


@pytest.mark.parametrize("seed", range(2))
def test_more_effort_finds_more(seed):
    model, x, y = rugged(seed=seed), images(30, 6, seed), torch.arange(30) % 10
    found = {effort: max_confidence(model, x, y, Linf(0.15), effort=effort, seed=seed) for effort in EFFORTS}
    quick, standard, thorough = (found[e].wrong_confidence.mean().item() for e in ("quick", "standard", "thorough"))
    assert thorough >= standard - 1e-3 and standard >= quick - 1e-3 and thorough > quick
    passes = [found[e].passes.sum() for e in ("quick", "standard", "thorough")]
    assert passes[0] < passes[1] < passes[2]
    for f in found.values():
        assert Linf(0.15).contains(f.x, x).all() and f.gained is None


@pytest.mark.parametrize("effort", EFFORTS)
def test_no_example_costs_more_than_its_rounds(effort):
    model, x, y = rugged(), images(12, 6), torch.arange(12) % 10
    most = sum((r.targets or 9) * r.steps for r in (halving._OPENING, halving._FINISH, *EFFORTS[effort]))
    assert (max_confidence(model, x, y, Linf(0.05), effort=effort).passes <= most).all()


@pytest.mark.parametrize("effort, classes", [("quick", 10), ("quick", 40), ("thorough", 10), pytest.param("thorough", 40, marks=SOAK)])
def test_the_same_points_whatever_the_batch(effort, classes):
    model, x, y = rugged(classes), images(5, 6), torch.arange(5)
    whole = max_confidence(model, x, y, L2(0.4), effort=effort, seed=1)
    for size in 1, 3:
        again = max_confidence(model, x, y, L2(0.4), effort=effort, seed=1, batch_size=size)
        torch.testing.assert_close(again.wrong_confidence, whole.wrong_confidence, atol=2e-3, rtol=0)
    alone = max_confidence(model, x[4:], y[4:], L2(0.4), effort=effort, seed=streams(1, 5)[4:])
    part = max_confidence(model, x, y, L2(0.4), effort=effort, seed=streams(1, 5))
    torch.testing.assert_close(alone.wrong_confidence, part.wrong_confidence[4:], atol=2e-3, rtol=0)


def test_rounds_of_ones_own():
    model, x = network(), images()
    rounds = [HalvingRound(None, 2, 1.0, 1.0), HalvingRound(1, 3, 0.5, 0.1)]
    found = successive_halving(model, x, LABELS, Linf(0.1), rounds)
    assert (found.passes <= 4 + 10 + 3 * 2 + 3).all() and Linf(0.1).contains(found.x, x).all()
    torch.testing.assert_close(found.wrong_confidence, WrongConfidence(LABELS)(predict(model, found.x)).exp(), atol=1e-6, rtol=0)


# Many classes


@pytest.mark.parametrize("classes", [11, 100, 1000])
def test_few_targets_lose_nothing_and_cost_little(classes, monkeypatch):
    model, x, y = rugged(classes, gain=2.0), images(12, 6), torch.arange(12) % classes
    ten = max_confidence(rugged(10, gain=2.0), x, torch.arange(12) % 10, Linf(0.15))
    few = max_confidence(model, x, y, Linf(0.15))
    monkeypatch.setattr(halving, "LIKELY", classes)
    monkeypatch.setattr(maxconfidence, "LIKELY", classes)
    every = max_confidence(model, x, y, Linf(0.15))
    assert few.passes.double().mean() <= 1.5 * ten.passes.double().mean()
    assert (every.wrong_confidence - few.wrong_confidence).mean() <= 5e-3


def test_a_class_that_looks_hopeless_is_likely_where_it_reaches_far():
    "The last class is the least probable everywhere that anybody has looked, and steps move it most"
    model, _, _ = linear(300, scale=0.5, seed=2)
    with torch.no_grad():
        model[1].weight[-1], model[1].bias[-1] = 12, -90
    x, y = torch.zeros(4, 1, 3, 3), torch.arange(4)
    start = score_inside(model, x, y, 0.3, x)
    field = halving._Field.of(torch.arange(4), y, start, 1)
    likely, cost = halving._likely(model, x, Linf(0.3), field, streams(0, 4), 64)
    assert likely.points.shape[1] == halving.LIKELY and (cost > 0).all()
    seen = torch.stack([z.logits for z in [start]]).amax(0)
    assert (seen.argmin(1) == 299).all()
    direct = halving._Field.of(torch.arange(4), y, start, 1).best(halving.LIKELY)
    assert (direct != 299).all()  # by what is seen alone it would never run


# Restarts until they no longer pay


def test_until_stops_when_restarts_no_longer_pay():
    model, x, y = rugged(), images(40, 6), torch.arange(40) % 10
    one = max_confidence(model, x, y, Linf(0.1), effort="quick")
    found = max_confidence(model, x, y, Linf(0.1), effort="quick", until=0.05)
    assert (found.wrong_confidence >= one.wrong_confidence).all() and found.gained.shape == (40,) and (found.gained >= 0).all()
    assert one.passes.sum() * 2 <= found.passes.sum() <= one.passes.sum() * maxconfidence._MOST_RUNS
    strict = max_confidence(model, x, y, Linf(0.1), effort="quick", until=0.001)
    assert (strict.passes >= found.passes).all() and (strict.wrong_confidence >= found.wrong_confidence - 1e-6).all()


def scripted(gains):
    "A search that raises each example by what the script says (runs, examples), and the runs that each was given"
    given = []

    def find(rows, number):
        given.append(rows.tolist())
        value = 0.1 + torch.tensor(gains[: number + 1]).sum(0)[rows]
        return Found(torch.zeros(len(rows), 1, 1, 1), value, torch.zeros(len(rows), 3), torch.ones(len(rows), dtype=torch.int64), wrong_confidence=value)

    return find, given


def test_who_gains_nothing_twice_is_left_alone():
    find, given = scripted([[0.1, 0.1, 0.8999], [0.05, 0.0, 0.0], [0.05, 0.0, 0.0], [0.02, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    start = torch.full((3,), 0.1)
    best = Found(torch.zeros(3, 1, 1, 1), start, torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64), wrong_confidence=start)
    found = maxconfidence._run_again(find, best, 16, 0.01)
    assert given == [[0, 1, 2], [0, 1], [0, 1], [0], [0]]  # the third is sure of its mistake, the second stalls, then nobody gains
    torch.testing.assert_close(found.wrong_confidence, torch.tensor([0.32, 0.2, 0.9999]))
    assert found.passes.tolist() == [5, 3, 1]
    torch.testing.assert_close(found.gained, torch.tensor([0.07, 0.0, 0.0]), atol=1e-6, rtol=0)  # five runs against two


def test_all_ends_when_few_still_gain():
    find, given = scripted([[0.1] * 50] + [[0.02] + [0.0] * 49] * 9)
    start = torch.full((50,), 0.1)
    best = Found(torch.zeros(50, 1, 1, 1), start, torch.zeros(50, 3), torch.zeros(50, dtype=torch.int64), wrong_confidence=start)
    maxconfidence._run_again(find, best, 16, 0.03)
    assert len(given) == 2
    given.clear()
    maxconfidence._run_again(find, best, 5, 0.02)
    assert given == [list(range(50))] * 3 + [[0]] * 2  # one of fifty is not fewer than 2 %


def test_the_gain_is_that_of_the_last_doubling():
    model, x, y = rugged(), images(20, 6), torch.arange(20) % 10
    runs = {r: max_confidence(model, x, y, Linf(0.1), effort="quick", restarts=r, seed=2) for r in (1, 2, 4)}
    assert runs[1].gained is None
    torch.testing.assert_close(runs[2].gained, runs[2].wrong_confidence - runs[1].wrong_confidence, atol=1e-4, rtol=0)
    torch.testing.assert_close(runs[4].gained, runs[4].wrong_confidence - runs[2].wrong_confidence, atol=1e-4, rtol=0)
    assert bundle(runs[2], runs[4]).gained is None and concat([runs[1], runs[2]]).gained is None
    assert torch.equal(concat([runs[2], runs[4]]).gained, torch.cat([runs[2].gained, runs[4].gained]))


def test_until_is_the_same_whatever_the_batch_size():
    model, x, y = rugged(), images(15, 6), torch.arange(15) % 10
    one, other = (max_confidence(model, x, y, Linf(0.1), effort="quick", until=0.1, batch_size=b) for b in (256, 4))
    torch.testing.assert_close(one.wrong_confidence, other.wrong_confidence, atol=2e-3, rtol=0)
    assert torch.equal(one.passes, other.passes)


def test_restarts_are_the_most_runs_of_until():
    model, x, y = rugged(), images(10, 6), torch.arange(10)
    found = max_confidence(model, x, y, Linf(0.1), steps=2, until=1e-6, restarts=3)
    assert (found.passes <= 3 * 9 * 2).all() and found.passes.max() >= 2 * 9 * 2


class Finite:
    "A set that has no direction to climb in"

    def __init__(self, ball):
        self.ball, self.eps = ball, ball.eps

    project, contains = (lambda self, z, x: self.ball.project(z, x)), (lambda self, z, x: self.ball.contains(z, x))


@pytest.mark.parametrize(("how", "error", "sentence"), [
    ({"effort": "heroic"}, ValueError, "effort must be one of 'quick', 'standard', 'thorough', not 'heroic'"),
    ({"effort": None}, ValueError, "effort must be one of"),
    ({"effort": "quick", "steps": 3}, ValueError, "leave it out where steps or an optimizer"),
    ({"effort": "quick", "optimizer": lambda model, objective, x, ball, seed: x}, ValueError, "leave it out"),
    ({"until": 0}, ValueError, "until is the share of examples"),
    ({"until": 1.0}, ValueError, "until is the share of examples"),
    ({"until": "long"}, TypeError, "until"),
    ({"until": 0.01, "steps": 0}, ValueError, "no step is made; leave until out"),
])
def test_efforts_and_ends_that_cannot_be_are_refused(how, error, sentence):
    with pytest.raises(error, match=sentence):
        max_confidence(network(), images(), LABELS, Linf(0.1), **how)


def test_until_needs_a_set_that_can_be_climbed():
    with pytest.raises(ValueError, match="Finite has no direction to climb in; leave until out"):
        maxconfidence._check_until(0.01, Finite(Linf(0.1)), None)


def test_found_remembers_its_gain_alone():
    found = Found(torch.zeros(2, 1, 1, 1), torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    assert found.gained is None


@pytest.mark.parametrize("ball", [Linf(0.9), Linf(1.0), L2(8.0), L2(torch.linspace(7, 8, 20))])
def test_a_set_as_large_as_the_box_is_climbed_in(ball):
    model, x, y = rugged(), images(20, 6), torch.arange(20) % 10
    found = max_confidence(model, x, y, ball)
    assert ball.contains(found.x, x).all() and found.wrong_confidence.mean() > 0.9
