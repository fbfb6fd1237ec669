"The least confident answer: closed forms, a grid, and what must hold of every model"

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import images, linear

from confnb.certificates import certify
from confnb.leastconfidence import _Miscalibration, _Unsure, _WithAnswer, least_confident, miscalibrate
from confnb.objectives import LogOdds
from confnb.runtime import generator, predict
from confnb.sets import L2, Linf
from confnb.statistics import calibration_error
from confnb.tables import evaluate


def network(pixels=4, classes=3, seed=0, width=12):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)
    return model


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 0.15), st.booleans())
def test_of_two_linear_classes_the_answer_is_known(seed, eps, keep):
    model, w, b = linear(2, pixels=9, seed=seed)
    x = 0.3 + 0.4 * images(6, seed=seed)  # so far from the walls that the ball is whole
    found = least_confident(model, x, torch.zeros(6, dtype=torch.int64), eps, keep_answer=keep)
    margin = x.flatten(1).double().numpy() @ (w[0] - w[1]) + b[0] - b[1]
    least = 1 / (1 + np.exp(-np.maximum(np.abs(margin) - eps * np.abs(w[0] - w[1]).sum(), 0)))
    np.testing.assert_allclose(found.confidence.double().numpy(), least, atol=8e-3)


@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_a_grid_is_less_confident(seed):
    "Images of two pixels, where every point can be tried"
    model, x, eps = network(2, 3, seed), images(5, side=1, seed=seed).expand(-1, 1, 1, 2).clone(), 0.2
    steps = torch.linspace(-eps, eps, 81)
    grid = torch.cartesian_prod(steps, steps).reshape(-1, 1, 1, 2)
    answer = predict(model, x).argmax(1)
    for keep in (False, True):
        found = least_confident(model, x, answer, eps, keep_answer=keep)
        for i in range(len(x)):
            p = predict(model, (x[i] + grid).clamp(0, 1)).softmax(1)
            p = p[p.argmax(1) == answer[i]] if keep else p
            assert found.confidence[i] <= p.amax(1).min() + 0.02


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([Linf(0.1), L2(0.2)]), st.booleans())
def test_what_holds_of_every_search(seed, ball, keep):
    model, x = network(seed=seed), images(7, side=2, seed=seed)
    y = torch.randint(0, 3, (7,), generator=generator(seed))
    before = predict(model, x)
    found = least_confident(model, x, y, ball, steps=8, keep_answer=keep)
    assert ball.contains(found.x, x).all() and found.x.dtype == torch.float32
    assert (found.confidence <= before.softmax(1).amax(1) + 1e-5).all()
    torch.testing.assert_close(found.logits, predict(model, found.x), atol=1e-5, rtol=1e-5)
    known = found.value.isfinite()
    torch.testing.assert_close(found.value[known], _Unsure()(found.logits)[known])
    if keep:
        assert (found.prediction == before.argmax(1)).all()
    again = least_confident(model, x, y, ball, steps=8, keep_answer=keep, batch_size=3)
    torch.testing.assert_close(again.confidence, found.confidence, atol=0.03, rtol=0)  # rounding decides on a ridge


@pytest.mark.parametrize("seed", range(5))
def test_calibration_suffers_and_accuracy_does_not(seed):
    model, x = network(seed=seed), images(60, side=2, seed=seed)
    answer = predict(model, x).argmax(1)
    y = torch.where(torch.rand(60, generator=generator(seed)) < 0.8, answer, (answer + 1) % 3)
    attacks = {"m": lambda *a: miscalibrate(*a, Linf(0.1))}
    table = evaluate(model, x, y, attacks)
    clean, attacked = (table[table.attack == name].reset_index() for name in ("clean", "m"))
    assert (clean.prediction == attacked.prediction).all()
    right = clean.prediction == clean.label
    assert (attacked.confidence[right] <= clean.confidence[right] + 1e-5).all()
    assert (attacked.confidence[~right] >= clean.confidence[~right] - 1e-5).all()
    # bins may hide it, one for all may not: the mean confidence of right answers falls, of wrong ones rises
    assert (clean.confidence - attacked.confidence)[right].mean() > 0.005 > -0.005 > (clean.confidence - attacked.confidence)[~right].mean()
    assert calibration_error(attacked.confidence, right, 5) > 0


def test_the_certificate_is_below_what_is_found():
    model, x = network(seed=3), images(20, side=2, seed=3)
    y = predict(model, x).argmax(1)
    found = least_confident(model, x, y, 0.05, keep_answer=True)
    proved = certify(model, x, y, 0.05)
    assert (torch.as_tensor(proved.right_confidence_low.to_numpy()) <= found.confidence + 1e-5).all()


def test_an_answer_that_leads_by_rounding_is_none():
    logits = torch.tensor([[1.0, 1.0 - 1e-7], [3.0, 0.0], [0.0, 3.0]])
    value = _WithAnswer(_Unsure(), torch.zeros(3, dtype=torch.int64))(logits)
    assert value.isinf().tolist() == [True, False, True] and value[1] == -3


def test_an_objective_that_wants_features_is_given_them():
    class Norm:
        hidden = True

        def __call__(self, logits, z, features):
            return features.flatten(1).norm(dim=1)

    both = _WithAnswer(Norm(), torch.zeros(2, dtype=torch.int64))
    assert both.hidden and both(torch.tensor([[1.0, 0], [0, 1.0]]), None, torch.ones(2, 4)).tolist() == [2, -torch.inf]
    assert not _WithAnswer(_Unsure(), torch.zeros(2, dtype=torch.int64)).hidden


def test_miscalibration_has_the_sign_of_the_mistake():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    value = _Miscalibration(torch.zeros(2, dtype=torch.int64), torch.tensor([True, False]))(logits)
    odds = LogOdds(0)(logits)
    torch.testing.assert_close(value, torch.stack([-odds[0], odds[1]]))


def test_what_makes_no_sense_is_refused():
    model, x = network(), images(2, side=2)
    for attack in (least_confident, miscalibrate):
        with pytest.raises(ValueError, match="at least 1 step"):
            attack(model, x, torch.zeros(2, dtype=torch.int64), 0.1, steps=0)
        with pytest.raises(ValueError, match="label"):
            attack(model, x, torch.zeros(3, dtype=torch.int64), 0.1)


def test_the_model_comes_back_as_it_was():
    model = network().train()
    least_confident(model, images(2, side=2), torch.zeros(2, dtype=torch.int64), 0.1, steps=2)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
