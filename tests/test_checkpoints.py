"""A training that was interrupted goes on from its last epoch, and ends in the same network."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import turns

from confnb import training
from confnb.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from confnb.data import load_data
from confnb.losses import Adversarial, CrossEntropyLoss
from confnb.models import build
from confnb.networks import load_or_train
from confnb.sets import Linf
from confnb.training import Recipe, fit

X, Y = torch.rand(50, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
HELD = X[:20], Y[:20]
SHORT = Recipe(epochs=4, batch_size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Drawing(nn.Sequential):
    "Batch normalisation, dropout, and a buffer that `state_dict` leaves out"

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(400, 3))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x) * (1 + 0.01 * self.seen)


def network(kind="model_a"):
    torch.manual_seed(0)
    return Drawing() if kind == "drawing" else build(kind, (1, 12, 12), 3, **({"filters": 2} if kind == "model_a" else {"depth": 8, "widths": [4, 4, 4, 4]}))


@dataclass
class Interrupted:
    "The same loss, with a Ctrl-C in the step after `steps` of them"

    loss: object
    steps: int

    def __call__(self, *given):
        self.steps -= 1
        if self.steps < 0:
            raise KeyboardInterrupt
        return self.loss(*given)


def state(model):
    return torch.cat([t.detach().flatten().float() for t in (*model.parameters(), *model.buffers())])


def interrupted(model, steps, monkeypatch, loss=None, **settings):
    "Trained up to a Ctrl-C; what determines the training is not changed by it"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        real, left = training.Checkpoint.put_down, [steps]

        def put_down(self, *given):
            real(self, *given)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        patch.setattr(training.Checkpoint, "put_down", put_down)
        fit(model, X, Y, loss or CrossEntropyLoss(), resume=True, **settings)


RECIPES = {
    "adam": SHORT,
    "sgd": replace(SHORT, optimizer="sgd", rate=0.05, augment=True, weight_decay=1e-3),
    "steps": replace(SHORT, steps=11, one_cycle=True),
    "bfloat16": replace(SHORT, autocast=torch.bfloat16),
}
EARLIER = [(kind, after) for kind in ("model_a", "drawing", "preact_resnet") for after in (1, 2)]


@pytest.mark.parametrize("kind, after, name", turns(EARLIER, RECIPES, 2))
def test_an_interrupted_training_ends_in_the_same_network(kind, after, name, monkeypatch, cache):
    whole, recipe = network(kind), RECIPES[name]
    told = fit(whole, X, Y, recipe=recipe, seed=3, held=HELD)
    interrupted(network(kind), after, monkeypatch, recipe=recipe, seed=3, held=HELD)
    assert len(list((cache / "training").iterdir())) == 1
    torch.manual_seed(99)  # nothing depends on where the global generator stands
    model = network(kind)
    began = fit(model, X, Y, recipe=recipe, seed=3, held=HELD, resume=True)
    assert torch.equal(state(model), state(whole))
    pd.testing.assert_frame_equal(began, told, check_exact=True)
    assert not list((cache / "training").iterdir())


def test_an_epoch_is_not_trained_twice(monkeypatch):
    recipe = replace(SHORT, epochs=5)
    interrupted(network(), 3, monkeypatch, recipe=recipe)
    taken, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a: taken.append(1) or step(*a))
    fit(network(), X, Y, recipe=recipe, resume=True)
    assert len(taken) == 2 * 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"recipe": replace(SHORT, rate=2e-3)}, {"loss": Adversarial(Linf(0.1), steps=1)}, {"x": X + 1e-3 * (X < 0.9)}, {"model": "wider"}])
def test_another_training_does_not_go_on_from_it(change, monkeypatch):
    interrupted(network(), 2, monkeypatch, recipe=SHORT)
    given = {"loss": CrossEntropyLoss(), "recipe": SHORT, "x": X, "seed": 0} | change
    models = [build("model_a", (1, 12, 12), 3, filters=3 if "model" in change else 2) for _ in range(2)]
    given.pop("model", None)
    x = given.pop("x")
    for model, resume in zip(models, (True, False), strict=True):
        fit(model, x, Y, **given, resume=resume)
    assert torch.equal(state(models[0]), state(models[1]))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b"{}" * 40], ids=["short", "a bit", "empty", "other"])
def test_a_damaged_checkpoint_is_said_and_the_training_begins_again(damage, monkeypatch, cache):
    whole, model = network(), network()
    fit(whole, X, Y, recipe=SHORT)
    interrupted(network(), 2, monkeypatch, recipe=SHORT)
    (file,) = (cache / "training").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged.*; the training begins again"):
        fit(model, X, Y, recipe=SHORT, resume=True)
    assert torch.equal(state(model), state(whole))


def test_a_cache_that_cannot_be_written_costs_the_checkpoint_only(cache):
    cache.write_text("a file where a folder should be")
    whole, model = network(), network()
    fit(whole, X, Y, recipe=SHORT)
    with pytest.warns(UserWarning, match="the epoch is not kept: .* cannot be written"):
        fit(model, X, Y, recipe=SHORT, resume=True)
    assert torch.equal(state(model), state(whole))


def test_what_cannot_be_identified_is_trained_without_a_checkpoint(cache):
    handle = open(os.devnull)  # noqa: SIM115
    loss = Interrupted(CrossEntropyLoss(), 1000)
    loss.handle = handle
    with pytest.warns(UserWarning, match="this training is computed and not remembered"):
        fit(network(), X, Y, loss, SHORT, resume=True)
    assert not (cache / "training").exists()
    handle.close()


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path):
    small, large, rng = network(), build("model_a", (1, 12, 12), 3, filters=3), torch.Generator()
    save_checkpoint(tmp_path / "c.safetensors", small, torch.optim.Adam(small.parameters()), rng, [])
    before = state(large)
    with pytest.raises(ValueError, match="is of another model"):
        load_checkpoint(tmp_path / "c.safetensors", large, torch.optim.Adam(large.parameters()), rng)
    assert torch.equal(state(large), before)
    assert Checkpoint(tmp_path / "none.safetensors").take_up(large, torch.optim.Adam(large.parameters()), rng) == []


def test_nothing_of_what_was_measured_is_lost_when_enough_is_reached(monkeypatch):
    "The last epoch was enough, and the process ended before the network was kept"
    given = {"recipe": replace(SHORT, epochs=30, rate=0.02), "held": HELD, "stop_at": 0.34}
    whole = network()
    told = fit(whole, X, Y, **given)
    assert len(told) < 30
    interrupted(network(), len(told), monkeypatch, **given)
    model = network()
    pd.testing.assert_frame_equal(fit(model, X, Y, **given, resume=True), told, check_exact=True)
    assert torch.equal(state(model), state(whole))


TRAINED = dict(recipe=Recipe(epochs=4, batch_size=64), device="cpu", filters=2)
KILLED = """
import os, signal
from confnb import checkpoints
from confnb.data import load_data
from confnb.networks import load_or_train
from confnb.training import Recipe
real, left = checkpoints.Checkpoint.put_down, 2

def put_down(self, *given):
    global left
    real(self, *given)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.Checkpoint.put_down = put_down
load_or_train("model_a", load_data("digits", train=200, test=20), recipe=Recipe(epochs=4, batch_size=64), device="cpu", filters=2)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_in_another(cache, monkeypatch):
    "It is killed after two epochs; here two are left, and the network is that of a training without a break"
    assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -signal.SIGKILL and len(list((cache / "training").iterdir())) == 1
    real, put = Checkpoint.put_down, []

    def put_down(self, *given):
        put.append(self)
        real(self, *given)

    monkeypatch.setattr(Checkpoint, "put_down", put_down)
    data = load_data("digits", train=200, test=20)
    second = load_or_train("model_a", data, **TRAINED)
    assert 1 <= len(put) <= 2 and not list((cache / "training").iterdir())
    for f in (cache / "model").iterdir():
        f.unlink()
    put.clear()
    whole = load_or_train("model_a", data, **TRAINED)
    assert len(put) > 2 and all(torch.equal(v, whole.state_dict()[k]) for k, v in second.state_dict().items())


def test_load_or_train_leaves_no_checkpoint_beside_the_network(cache):
    data = load_data("digits", train=100, test=10)
    load_or_train("model_a", data, recipe=SHORT, device="cpu", filters=2)
    assert list((cache / "model").iterdir()) and not list((cache / "training").iterdir())


def test_a_one_cycle_rate_rises_and_falls():
    recipe = Recipe(rate=0.2, one_cycle=True)
    rates = [recipe.rate_at(i / 100) for i in range(100)]
    assert rates[0] == 0 and max(rates) == pytest.approx(0.2) and rates.index(max(rates)) == 30 and rates[-1] < 0.01
    assert all(a < b for a, b in zip(rates[:30], rates[1:31], strict=True)) and all(a > b for a, b in zip(rates[30:], rates[31:], strict=False))
    with pytest.raises(ValueError, match="a one-cycle rate has no drops"):
        Recipe(one_cycle=True, drops=(0.5,))


def test_steps_in_bfloat16_are_steps_of_float32_but_for_rounding():
    losses = [fit(network(), X, Y, recipe=replace(SHORT, autocast=p)).loss for p in (None, torch.bfloat16)]
    assert not losses[0].equals(losses[1])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=0.03, rtol=0)


def test_a_model_comes_back_in_the_layout_and_precision_that_it_came_in():
    model = network("preact_resnet")
    fit(model, X, Y, recipe=replace(SHORT, epochs=1, autocast=torch.bfloat16))
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in model.parameters())
    assert F.cross_entropy(model(X), Y).dtype == torch.float32
