import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from confnb import losses, training
from confnb.images import split
from confnb.losses import (
    Adversarial,
    CrossEntropyLoss,
    SmoothingPairing,
    label_smoothing_pairing,
    smooth_labels,
)
from confnb.models import build
from confnb.networks import load_or_train
from confnb.runtime import generator, predict
from confnb.search import maximize as real_maximize
from confnb.sets import L2, Linf
from confnb.training import Recipe, accuracy, crop_and_flip, fit


def toy(n=90, seed=0, side=8):
    "Images whose brightest third tells the class"
    rng = generator(seed)
    y = torch.arange(n) % 3
    x = .3 * torch.rand(n, 1, side, side, generator=rng)
    for i, label in enumerate(y):
        x[i, :, :, 3 * label : 3 * label + 2] += .6
    return x, y


def small(seed=0):
    return build("preact_resnet", (1, 8, 8), 3, seed=seed, depth=8, widths=(4, 4, 6, 8))


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def dropout_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Dropout(.5), nn.Linear(30, 3))


@given(y=st.lists(st.integers(0, 4), min_size=1, max_size=5), classes=st.integers(5, 9), delta=st.floats(0, .99))
@settings(deadline=None)
def test_smoothed_labels_are_the_papers(y, classes, delta):
    expected = [[1 - delta if k == label else delta / (classes - 1) for k in range(classes)] for label in y]
    torch.testing.assert_close(smooth_labels(torch.tensor(y), classes, delta), torch.tensor(expected))


@pytest.mark.parametrize("delta", [-.1, 1., 30])
def test_smoothing_outside_0_1_is_refused(delta):
    with pytest.raises(ValueError, match="label smoothing"):
        smooth_labels(torch.tensor([0]), 3, delta)


@given(seed=st.integers(0, 50), n=st.integers(1, 4), classes=st.integers(2, 6), weights=st.tuples(*[st.floats(0, .9)] * 2, st.floats(0, 3)))
@settings(deadline=None)
def test_smoothing_and_pairing_against_a_formula_written_by_hand(seed, n, classes, weights):
    a, b, pairing = weights
    rng = np.random.default_rng(seed)
    clean, noisy, y = rng.normal(size=(n, classes)), rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    total = 0.
    for i in range(n):
        for logits, delta in (clean[i], a), (noisy[i], b):
            log_p = logits - math.log(sum(math.exp(v) for v in logits))
            total -= sum((1 - delta if k == y[i] else delta / (classes - 1)) * log_p[k] for k in range(classes)) / n
        total += pairing * sum((clean[i] - noisy[i]) ** 2) / (n * classes)
    got = label_smoothing_pairing(torch.tensor(clean), torch.tensor(noisy), torch.tensor(y), a, b, pairing)
    assert got.item() == pytest.approx(total, rel=1e-5, abs=1e-6)


class Spy(nn.Module):
    "Keeps the batches that it is called on"

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(64, 3), []

    def forward(self, x):
        self.seen.append((x.detach().clone(), self.training))
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("clip", [False, True])
def test_smoothing_pairing_draws_the_noise_that_was_asked_for(clip):
    model, (x, y), state = Spy(), toy(60), torch.get_rng_state()
    loss = SmoothingPairing(noise_std=.5, clip=clip)
    value = loss(model, x, y, generator(3), 0.)
    clean, noisy = model.seen[0][0].chunk(2)
    noise = .5 * torch.randn(x.shape, generator=generator(3))
    assert torch.equal(clean, x) and abs(noise.std() - .5) < .02
    torch.testing.assert_close(noisy, (x + noise).clamp(0, 1) if clip else x + noise)
    torch.testing.assert_close(value, label_smoothing_pairing(model(clean), model(noisy), y, .3, .4, 1.))
    assert torch.equal(torch.get_rng_state(), state)


def test_pairing_on_logistic_regression_is_weight_decay():
    w, x = torch.tensor([[.5, -1., 2., .3]], dtype=torch.float64), torch.rand(200_000, 4, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator(0), dtype=torch.float64)
    assert F.mse_loss(x @ w.T, (x + noise) @ w.T).item() == pytest.approx(w.square().sum().item(), rel=.02)


@pytest.mark.parametrize("ball", [Linf(.1), L2(.5)])
def test_the_adversarial_loss_is_higher_and_stays_in_the_ball(ball):
    model, (x, y) = Spy(), toy(30)
    model.train()
    plain = CrossEntropyLoss()(model, x, y, generator(0), 0.)
    attacked = Adversarial(ball, steps=5)(model, x, y, generator(0), 0.)
    points, in_training = model.seen[-1]
    assert attacked > plain and attacked.requires_grad and in_training and model.training
    assert ball.contains(points, x).all() and not torch.equal(points, x)
    assert not any(mode for _, mode in model.seen[1:-1])


@pytest.mark.parametrize("progress, share", [(0., 0.), (.1, .25), (.4, 1.), (1., 1.)])
def test_the_ball_grows_along_the_ramp(progress, share):
    model, (x, y) = Spy(), toy(30)
    Adversarial(Linf(.2), steps=4, step_size=.1, ramp=.4)(model, x.clamp(.2, .8), y, generator(0), progress)
    moved = (model.seen[-1][0] - x.clamp(.2, .8)).abs().max().item()
    assert moved == pytest.approx(share * .2, abs=1e-6)


@pytest.mark.parametrize("step_size, expected", [(.1, .025), (None, None)])
def test_the_step_grows_with_the_ball(monkeypatch, step_size, expected):
    calls = []
    monkeypatch.setattr(losses, "maximize", lambda *a, **k: calls.append(a) or real_maximize(*a, **k))
    Adversarial(Linf(.2), steps=4, step_size=step_size, ramp=.4)(Spy(), *toy(6), generator(0), .1)
    assert calls[0][3].eps == pytest.approx(.05) and calls[0][5] == (expected and pytest.approx(expected))


def test_adversarial_points_come_from_the_generator_that_is_passed():
    x, y = toy(12)
    points = []
    for seed in 1, 1, 2:
        model = Spy()
        model.layer.load_state_dict(nn.Linear(64, 3).state_dict() | {"weight": torch.ones(3, 64) * torch.tensor([[1.], [2.], [0.]])})
        Adversarial(Linf(.1), steps=1, step_size=.01)(model, x, y, generator(seed), 0.)
        points.append(model.seen[-1][0])
    assert torch.equal(points[0], points[1]) and not torch.equal(points[0], points[2])


@pytest.mark.parametrize("wrong", [dict(steps=0), dict(ramp=1.5), dict(ramp=-.1)])
def test_adversarial_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="steps must be at least 1 and ramp"):
        Adversarial(Linf(.1), **wrong)


@pytest.mark.parametrize("wrong, say", [
    (dict(optimizer="lbfgs"), "'adam' or 'sgd', not 'lbfgs'"), (dict(epochs=0), "epochs must be positive, not 0"),
    (dict(batch_size=-1), "batch_size must be"), (dict(rate=0.), "rate must be"), (dict(rate=math.nan), "rate must be"), (dict(steps=0), "steps"),
    (dict(weight_decay=-1.), "weight_decay"), (dict(momentum=1.), "momentum"), (dict(drops=(.8, .5)), "ascending fractions"),
    (dict(drops=(10_000,)), "ascending fractions of the run, such as"),
])
def test_recipes_that_cannot_be(wrong, say):
    with pytest.raises(ValueError, match=say):
        Recipe(**wrong)


def test_the_papers_rates_at_their_steps():
    recipe = Recipe(steps=20_000, rate=.1, drops=(.5, .75))
    at = [recipe.rate_at(s / 20_000) for s in (0, 9_999, 10_000, 14_999, 15_000, 19_999)]
    assert at == pytest.approx([.1, .1, .01, .01, .001, .001])


def test_crops_are_shifted_and_mirrored_copies():
    x = torch.arange(1., 31).reshape(1, 1, 5, 6).expand(200, 1, 5, 6)
    frame = F.pad(x[0, 0], (2, 2, 2, 2))
    possible = {frame[i : i + 5, j : j + 6].numpy().tobytes(): (i, j, False) for i in range(5) for j in range(5)}
    possible |= {frame[i : i + 5, j : j + 6].flip(1).numpy().tobytes(): (i, j, True) for i in range(5) for j in range(5)}
    got = [possible[c[0].numpy().tobytes()] for c in crop_and_flip(x, generator(0), pad=2)]
    assert {g[0] for g in got} == {g[1] for g in got} == set(range(5)) and 60 < sum(g[2] for g in got) < 140


def test_training_learns_and_reports():
    (x, y), (xh, yh) = toy(side=9), toy(30, seed=1, side=9)
    model = build("model_a", (1, 9, 9), 3, filters=4)
    before = accuracy(model, xh, yh)
    history = fit(model, x, y, recipe=Recipe(epochs=4, batch_size=10, rate=2e-2, drops=(.5,)), held=(xh, yh))
    assert history.columns.tolist() == ["epoch", "steps", "rate", "loss", "accuracy"]
    assert history.epoch.tolist() == [1, 2, 3, 4] and history.steps.tolist() == [9, 18, 27, 36]
    assert history.rate.tolist() == pytest.approx([2e-2, 2e-2, 2e-3, 2e-3])
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert history.accuracy.iloc[-1] == accuracy(model, xh, yh) > max(before, .9)


def test_two_steps_of_sgd_against_hand_written_ones():
    x, y = toy(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    reference = copy.deepcopy(model)
    fit(model, x, y, recipe=Recipe(steps=2, batch_size=6, optimizer="sgd", rate=.5, momentum=.8, weight_decay=.1))
    w, b = reference[1].weight.detach(), reference[1].bias.detach()
    velocity = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(2):
        w, b = w.requires_grad_(), b.requires_grad_()
        gw, gb = torch.autograd.grad(F.cross_entropy(F.linear(x.flatten(1), w, b), y), (w, b))
        velocity = .8 * velocity[0] + gw + .1 * w.detach(), .8 * velocity[1] + gb
        w, b = w.detach() - .5 * velocity[0], b.detach() - .5 * velocity[1]
    torch.testing.assert_close(model[1].weight.detach(), w)
    torch.testing.assert_close(model[1].bias.detach(), b)


def test_steps_replace_epochs_and_every_image_is_seen_once_an_epoch():
    x, y = toy(10)
    x[:, 0, 0, 0] = torch.arange(10) / 10
    model = Spy()
    history = fit(model, x, y, recipe=Recipe(steps=7, batch_size=4))
    seen = [[round(v * 10) for v in b[:, 0, 0, 0].tolist()] for b, in_training in model.seen if in_training]
    assert [len(b) for b in seen] == [4, 4, 2, 4, 4, 2, 4] and history.steps.tolist() == [3, 6, 7]
    first, second = sum(seen[:3], []), sum(seen[3:6], [])
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), SmoothingPairing(), Adversarial(Linf(.1), steps=2, ramp=.5)])
@pytest.mark.parametrize("make", [small, dropout_net])
def test_the_same_seed_gives_the_same_weights_to_the_bit_and_no_generator_moves(loss, make):
    (x, y), recipe = toy(40), Recipe(epochs=2, batch_size=16, augment=make is small)
    start = make()
    models = []
    for seed in 7, 7, 8:
        torch.rand(seed)
        np.random.seed(seed)
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        models.append(copy.deepcopy(start))
        history = fit(models[-1], x, y, loss, recipe, seed=seed)
        assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all() and len(history) == 2
    assert same(models[0], models[1]) and not same(models[0], models[2]) and not same(models[0], start)


def test_modes_and_frozen_parameters_are_left_as_they_were():
    (x, y), model = toy(30), small().eval()
    model[2].train()
    model[1].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    fit(model, x, y, recipe=Recipe(epochs=1))
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert torch.equal(model[1].weight, before[1].weight) and not torch.equal(model[-1].weight, before[-1].weight)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in model.parameters())
    moved = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == 1 for m in moved)


def test_modes_are_put_back_after_an_error():
    (x, y), model, state = toy(30), small().eval(), torch.get_rng_state()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, stop)
    assert not any(m.training for m in model.modules()) and torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_ends_the_training():
    x, y = toy(30)
    with pytest.raises(FloatingPointError, match="the loss is nan after 0 % of the training; try a rate below 0.001"):
        fit(small(), x, y, lambda model, x, y, rng, progress: model(x).sum() * math.nan)


@pytest.mark.parametrize("change, error, say", [
    (lambda x, y: (x * 255, y), ValueError, "divide by 255"),
    (lambda x, y: (x.byte(), y), TypeError, "floating point"),
    (lambda x, y: (x, y[:5]), ValueError, r"labels must have shape \(30,\)"),
    (lambda x, y: (x, y + 1), ValueError, "class indices 0..2, but these run from 1 to 3"),
    (lambda x, y: (x, y.float()), TypeError, "integer class indices"),
    (lambda x, y: (x[:0], y[:0]), ValueError, "empty"),
])
def test_bad_training_data_get_a_sentence(change, error, say):
    model = small()
    before = copy.deepcopy(model)
    with pytest.raises(error, match=say):
        fit(model, *change(*toy(30)))
    assert same(model, before)


def test_a_model_without_a_parameter_to_train_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        fit(small().requires_grad_(False), *toy(30))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def data():
    return split(toy(60, side=9), toy(12, seed=1, side=9), "toy")


def train(data, **change):
    return load_or_train(**{**dict(name="model_a", data=data, recipe=Recipe(epochs=1, batch_size=20), device="cpu", filters=3), **change})


def test_a_cached_model_is_the_freshly_trained_one(cache, data, monkeypatch):
    state = torch.get_rng_state()
    fresh = train(data, loss=SmoothingPairing())
    by_hand = build("model_a", data.shape, data.classes, filters=3)
    fit(by_hand, data.x_train, data.y_train, SmoothingPairing(), Recipe(epochs=1, batch_size=20))
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: pytest.fail("trained again"))
    again = train(data, loss=SmoothingPairing())
    assert same(fresh, again) and same(fresh, by_hand) and not again.training and not fresh.training
    assert all(p.requires_grad for p in again.parameters()) and torch.equal(torch.get_rng_state(), state)
    assert sorted(f.suffix for f in (cache / "model").iterdir()) == [".safetensors", ".sha256", ".yaml"]


@pytest.mark.parametrize("change", [
    dict(seed=1), dict(filters=4), dict(recipe=Recipe(epochs=1, batch_size=21)), dict(loss=SmoothingPairing()), dict(loss=SmoothingPairing(pairing=2.)),
    dict(loss=Adversarial(Linf(.1), 1)), dict(loss=Adversarial(Linf(.2), 1)), dict(loss=Adversarial(L2(.1), 1)), dict(data="one more image"), dict(data="one other label"), dict(code="confnb.training._step"),
])
def test_whatever_determines_a_model_is_in_its_key(cache, data, change, monkeypatch):
    train(data)
    if change.get("data") == "one more image":
        change = dict(data=split(toy(61, side=9), toy(12, seed=1, side=9), "toy"))
    elif "data" in change:
        labels = data.y_train.clone()
        labels[3] = (labels[3] + 1) % data.classes
        change = dict(data=replace(data, y_train=labels))
    elif "code" in change:
        plain = training._step
        monkeypatch.setattr(change.pop("code"), lambda *given: plain(*given))
    train(data, loss=SmoothingPairing(pairing=3.)) if "loss" in change else None
    before = len(list((cache / "model").glob("*.safetensors")))
    train(**{"data": data, **change})
    assert len(list((cache / "model").glob("*.safetensors"))) == before + 1


def test_a_damaged_cache_entry_is_trained_again_with_a_warning(cache, data):
    fresh = train(data)
    (file,) = (cache / "model").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.warns(UserWarning, match="cannot be used .* computed again"):
        again = train(data)
    assert same(fresh, again) and file.read_bytes() == whole


def test_a_training_that_fails_leaves_nothing_in_the_cache(cache, data):
    with pytest.raises(ZeroDivisionError):
        train(data, loss=broken_loss)
    assert not [f for f in cache.rglob("*") if f.is_file()]


def test_training_stops_when_the_held_accuracy_is_reached():
    (x, y), held = toy(), toy(30, seed=1)
    recipe = Recipe(epochs=12, batch_size=15, rate=3e-3)
    whole = fit(small(), x, y, recipe=recipe, held=held)
    model = small()
    early = fit(model, x, y, recipe=recipe, held=held, stop_at=.6)
    assert 1 <= len(early) < 12 and (early.accuracy.iloc[:-1] < .6).all() and early.accuracy.iloc[-1] >= .6
    assert early.equals(whole.iloc[: len(early)]) and accuracy(model, *held) == early.accuracy.iloc[-1]


@pytest.mark.parametrize("stop_at, held", [(.9, False), (0, True), (1.5, True)])
def test_a_stop_that_cannot_be_is_refused(stop_at, held):
    with pytest.raises(ValueError, match="stop_at is an accuracy"):
        fit(small(), *toy(), held=toy() if held else None, stop_at=stop_at)


def test_early_stopping_has_a_cache_entry_of_its_own(cache, data):
    whole, early = train(data, recipe=Recipe(epochs=3, batch_size=20)), train(data, recipe=Recipe(epochs=3, batch_size=20), stop_at=.01)
    assert len(list((cache / "model").glob("*.safetensors"))) == 2 and not same(whole, early)
    assert same(early, train(data, recipe=Recipe(epochs=3, batch_size=20), stop_at=.01))
    assert same(early, train(data))  # one epoch was enough


def own_network(shape, classes, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def test_a_network_of_ones_own_is_trained_and_kept(cache, data):
    a, b, c = (load_or_train(own_network, data, recipe=Recipe(epochs=1), device="cpu", hidden=h) for h in (5, 5, 6))
    assert same(a, b) and a[1].out_features == 5 and c[1].out_features == 6 and len(list((cache / "model").glob("*.safetensors"))) == 2


def broken_loss(model, x, y, rng, progress):
    return 1 / 0


def test_an_unknown_device_or_architecture_is_refused(cache, data):
    with pytest.raises(ValueError, match="there is no architecture"):
        train(data, name="resnet")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            train(data, device="cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("make", [small, dropout_net])
def test_cuda_training_repeats_to_the_bit_and_moves_no_generator(make):
    (x, y), models, state = toy(40), [], torch.cuda.get_rng_state()
    start = make()
    for _ in range(2):
        models.append(copy.deepcopy(start).cuda())
        fit(models[-1], x, y, Adversarial(Linf(.1), 2), Recipe(epochs=2, batch_size=16))
    assert same(*models) and torch.equal(torch.cuda.get_rng_state(), state)
    assert predict(models[0], x).device.type == "cpu"


@pytest.mark.parametrize("n", [9, 8, 1])
def test_one_image_left_over_is_not_normalised_alone(n):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    x, y = torch.rand(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64)
    if n == 1:
        with pytest.raises(ValueError):
            fit(model, x, y, recipe=Recipe(epochs=2, batch_size=4))
        return
    told = fit(model, x, y, recipe=Recipe(epochs=2, batch_size=4))
    assert told.steps.tolist() == [2, 4]
    plain = fit(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), x, y, recipe=Recipe(epochs=2, batch_size=4))
    assert plain.steps.tolist() == ([3, 6] if n == 9 else [2, 4])


def test_accuracy_wants_one_label_for_each_image():
    model, x, y = torch.nn.Flatten(), torch.rand(6, 1, 1, 3), torch.zeros(6, dtype=torch.long)
    assert accuracy(model, x, model(x).argmax(1)) == 1
    for bad in (y[:, None], y[:4], y.float()):
        with pytest.raises((TypeError, ValueError), match="labels must"):
            accuracy(model, x, bad)
