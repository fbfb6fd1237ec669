import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import images as toy_images
from toys import linear

from confnb.adapters import from_torchattacks
from confnb.objectives import CrossEntropy, LogConfidence, Margin, NoGradient, WrongConfidence, WrongOdds
from confnb.random_search import SquareRule, _few_numbers, _pattern, _square_share, square
from confnb.rules import Blind, GradientRule, Task
from confnb.runtime import generator, predict, streams
from confnb.search import maximize
from confnb.sets import BOX, L0, L2, Linf
from confnb.tables import evaluate


class Ruled(nn.Module):
    "A model that leaves PyTorch and decides by if: there is no gradient anywhere"

    def __init__(self, classes=3, seed=0):
        super().__init__()
        self.weights = np.random.default_rng(seed).normal(size=(classes, 4))

    def forward(self, x):
        rows = []
        for image in x.numpy():
            parts = np.round([image[:, ::2].mean(), image.min(), image[..., ::2].mean(), image.max()], 2)
            logits = 8 * self.weights @ (parts - 0.5)
            rows.append(logits[::-1].copy() if parts[0] > 0.6 else logits)
        return torch.from_numpy(np.stack(rows)).float()


class Counting(nn.Module):
    "How many images a model was shown, and whether a gradient was wanted"

    def __init__(self, model):
        super().__init__()
        self.model, self.shown, self.graph = model, 0, False

    def forward(self, x):
        self.shown, self.graph = self.shown + len(x), self.graph or torch.is_grad_enabled() or x.requires_grad
        return self.model(x)


shapes = st.sampled_from([(1, 1, 1), (1, 1, 7), (3, 5, 2), (1, 6, 6), (2, 9, 8), (1, 12, 12)])


@st.composite
def problems(draw):
    n, shape, seed = draw(st.integers(1, 4)), draw(shapes), draw(st.integers(0, 99))
    x = (1.4 * torch.rand(n, *shape, generator=generator(seed)) - 0.2).clamp(0, 1)
    eps = st.floats(2**-7, 1, width=32)
    many = torch.tensor(draw(st.lists(eps, min_size=n, max_size=n)))
    ball = draw(st.sampled_from([Linf(draw(eps)), Linf(many), L2(draw(eps)), L2(2 * many), BOX]))
    y = torch.randint(3, (n,), generator=generator(seed))
    model = Ruled(seed=seed) if draw(st.booleans()) else linear(3, math.prod(shape), 3, seed)[0]
    kind = draw(st.sampled_from([CrossEntropy, LogConfidence, Margin, WrongConfidence, WrongOdds]))
    how = draw(st.sampled_from(["random", "here", "far"]))
    return model, kind(y), x, y, ball, 1 - x if how == "far" else how


@given(problem=problems(), queries=st.integers(1, 12), restarts=st.integers(1, 2), size=st.integers(1, 4), seed=st.integers(0, 2**40))
@settings(max_examples=25)
def test_points_lie_in_the_set_do_not_depend_on_the_batch_and_are_never_below_their_start(problem, queries, restarts, size, seed):
    model, objective, x, y, ball, start = problem
    settings = {"objective": objective, "restarts": restarts, "seed": seed, "start": start}
    found = square(model, x, y, ball, queries, **settings)
    assert found.x.dtype == torch.float32 and ball.contains(found.x, x).all() and found.x.min() >= 0 and found.x.max() <= 1
    torch.testing.assert_close(found.value, objective(predict(model, found.x), found.x).to(found.value), atol=1e-4, rtol=1e-4)
    assert (found.passes == queries * restarts).all()
    first = square(model, x, y, ball, 1, **settings)
    assert (found.value >= first.value).all()
    again = square(model, x, y, ball, queries, **settings, batch_size=size)
    torch.testing.assert_close(again.value, found.value, atol=1e-5, rtol=1e-5)
    if isinstance(model, Ruled):  # the answers do not depend on the batch either, so that not a bit differs
        assert torch.equal(again.x, found.x)


@given(problem=problems(), queries=st.integers(1, 12))
@settings(max_examples=20)
def test_one_example_alone_finds_what_it_finds_among_others(problem, queries):
    _, _, x, y, ball, start = problem
    model = Ruled()
    seeds, last = streams(0, len(x)), len(x) - 1
    eps = ball.eps[last:] if isinstance(ball.eps, torch.Tensor) else ball.eps
    whole, alone = square(model, x, y, ball, queries, seed=seeds), square(model, x[last:], y[last:], type(ball)(eps), queries, seed=seeds[last:])
    assert torch.equal(whole.x[last:], alone.x)


def test_no_backward_pass_is_run_and_every_question_is_counted():
    model, x, y = Counting(linear(3, 9)[0]), toy_images(5), torch.tensor([0, 1, 2, 0, 1])
    found = square(model, x, y, 0.2, 30, restarts=2)
    assert not model.graph and model.shown == found.passes.sum() == 5 * 60
    early = maximize(model, Margin(y), x, Linf(0.2), 29, rule=SquareRule(), stop=0.0)
    shown = model.shown - 300
    assert shown == early.passes.sum() and (early.passes[early.value < 0] == 30).all() and (early.passes[early.value >= 0] <= 30).all()
    maximize(model, Margin(y), x, Linf(0.2), 3)
    assert model.graph  # a gradient rule wants one, so the first line could have failed


def test_a_model_without_gradient_is_searched_without_a_warning():
    model, x = Ruled(), toy_images(8, 6)
    y = predict(model, x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = square(model, x, y, 0.4, 100)
        square(model, x, y, 0.3, 1)
        table = evaluate(model, x, y, {"square": partial(square, ball=0.4, queries=100)}, batch_size=3)
    assert (found.prediction != y).sum() >= 4
    assert table[table.attack == "square"].prediction.tolist() == found.prediction.tolist()
    with pytest.raises(TypeError, match="attack it without one"):
        class Torn(nn.Module):
            def forward(self, x):
                return torch.from_numpy(x.numpy().reshape(len(x), -1)[:, :3])
        maximize(Torn(), Margin(y), x, Linf(0.1), 2)
    assert square(Torn(), x, y, 0.1, 5).x.shape == x.shape


def test_on_a_linear_model_it_finds_the_worst_point_of_an_l_inf_ball():
    model, weight, _ = linear(2, 16, seed=1)
    x, y = toy_images(6, 4, seed=2), torch.tensor([0, 1, 0, 1, 0, 1])
    way = torch.from_numpy(weight[1 - y] - weight[y]).float().reshape(x.shape)
    worst = (x + 0.1 * way.sign()).clamp(0, 1)
    torch.testing.assert_close(square(model, x, y, 0.1, 1000, objective=WrongConfidence(y)).x, worst, atol=1e-6, rtol=0)


def test_on_a_linear_model_it_comes_near_the_worst_point_of_an_l2_ball():
    model, weight, _ = linear(2, 36, seed=1)
    x, y = 0.5 + torch.zeros(8, 1, 6, 6), torch.tensor([0, 1] * 4)
    way = torch.from_numpy(weight[1 - y] - weight[y]).float()
    best = Margin(y)(predict(model, x + 0.4 * (way / way.norm(dim=1, keepdim=True)).reshape(x.shape)))
    clean = Margin(y)(predict(model, x))
    few, many = (square(model, x, y, L2(0.4), q).value for q in (20, 800))
    assert (many <= best + 1e-4).all() and ((many - clean) / (best - clean)).min() > 0.7 and (many > few).all()


@pytest.mark.parametrize("norm, ball", [("Linf", Linf(0.1)), ("L2", L2(1.0))])
def test_it_is_as_strong_as_torchattacks_square_at_equal_queries(small_model, digits, norm, ball):
    x, y = digits.x_val[:40], digits.y_val[:40]
    theirs = from_torchattacks(torchattacks.Square, norm=norm, eps=float(ball.eps), n_queries=149)(small_model, x, y)
    ours = square(small_model, x, y, ball, 150)
    right = lambda found: (found.prediction == y).sum().item()  # noqa: E731
    assert right(ours) <= right(theirs) + 3 and right(ours) < (predict(small_model, x).argmax(1) == y).sum() - 10
    sure = square(small_model, x, y, ball, 150, objective=WrongConfidence(y))
    assert sure.wrong_confidence.mean() > ours.wrong_confidence.mean() - 0.01


@pytest.mark.parametrize("side", [2, 3, 5, 8, 15])
def test_the_pattern_and_the_schedule_are_those_of_the_authors_code(side):
    attack = torchattacks.Square(nn.Linear(1, 1))
    attack.device = torch.device("cpu")
    eta, ours = attack.eta(side), _pattern(side, side)
    assert min((eta - ours).abs().max(), (eta.T - ours).abs().max()) < 1e-6
    attack.n_queries = side * 97
    assert all(math.isclose(attack.p_selection(i), _square_share(i, side * 97)) for i in range(side * 97))


def test_numbers_are_uniform_and_belong_to_their_example():
    drawn = _few_numbers(streams(3, 4000), 4, 1, 2)
    assert drawn.min() >= 0 and drawn.max() < 1
    for column in drawn.T:
        assert (column.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.63 / 4000**0.5  # Kolmogorov, 1 %
    assert (drawn.T.corrcoef() - torch.eye(4)).abs().max() < 0.08
    assert torch.equal(_few_numbers(streams(3, 4000)[7:9], 4, 1, 2), drawn[7:9])
    assert not torch.equal(_few_numbers(streams(3, 4000), 4, 1, 3), drawn)


def test_refusals():
    model, x, y = linear(3, 9)[0], toy_images(2), torch.tensor([0, 1])
    for message, how in {"budget of at least 1": {"queries": 0}, "no step_size": {"step_size": 0.1}, "keeps the best": {"keep": "last"}, "right label": {"target": y},
                         "not both": {"target": 2, "objective": Margin(y)}, "not in L0": {"ball": L0(2)}}.items():
        with pytest.raises(ValueError, match=message):
            square(model, x, y, **{"ball": 0.1, **how})
    with pytest.raises(ValueError, match="needs seeds"):
        SquareRule().start(Task(Margin(y), x, Linf(0.1), torch.ones(2, 1, 1, 1)))
    with pytest.raises(ValueError, match="share"):
        SquareRule(0)
    assert isinstance(SquareRule(), Blind) and not isinstance(GradientRule(), Blind)
    aimed = square(model, x, y, 0.3, 200, target=2)
    assert torch.equal(aimed.value > 0, aimed.prediction == 2)


def test_a_rule_with_a_gradient_still_warns_where_there_is_none():
    class Flat(nn.Module):
        def forward(self, x):
            return 5 * x.flatten(1)[:, :3].round()

    with pytest.warns(NoGradient, match="exactly zero"):
        maximize(Flat(), Margin(torch.tensor([0, 1])), toy_images(2), Linf(0.1), 2)
