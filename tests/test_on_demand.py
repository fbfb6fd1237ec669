"""Images that do not fit: read when they are indexed, one batch at a time, and the numbers are those of tensors."""

import subprocess
import sys
import weakref
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import linear

import confnb.pictures as pictures
from confnb.attacks import pgd, uniform_noise
from confnb.data import load_data
from confnb.detectors import confidence_score
from confnb.images import OnDemand, from_dataset
from confnb.keys import fingerprint
from confnb.maxconfidence import max_confidence
from confnb.models import build, outputs
from confnb.objectives import WrongConfidence
from confnb.random_search import square
from confnb.runtime import generator, part_of_whole, predict, streams
from confnb.tables import evaluate
from confnb.training import Recipe, accuracy, fit


class Fake:
    "Pairs that are made when they are asked for, with a count of the images that are alive, and of the most that ever were"

    def __init__(self, n=1000, shape=(1, 3, 3)):
        self.n, self.shape, self.alive, self.most, self.reads = n, shape, 0, 0, 0

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        image = torch.rand(self.shape, generator=generator(i))
        self.alive, self.reads = self.alive + 1, self.reads + 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.gone)
        return image, i % 3

    def gone(self):
        self.alive -= 1


@pytest.fixture
def living(monkeypatch):
    "How many images the batches hold that were read and are still alive, at most"
    count, read = {"now": 0, "most": 0}, OnDemand.__getitem__

    def counting(self, index):
        found = read(self, index)
        n = len(found) if found.ndim == 4 else 1
        count["now"] += n
        count["most"] = max(count["most"], count["now"])
        weakref.finalize(found, lambda: count.update(now=count["now"] - n))
        return found

    monkeypatch.setattr(OnDemand, "__getitem__", counting)
    return count


indices = st.one_of(st.integers(-20, 19), st.slices(20), st.lists(st.integers(0, 19), min_size=1, max_size=6), st.lists(st.booleans(), min_size=20, max_size=20))


@given(index=indices, then=st.slices(20))
def test_it_is_indexed_as_the_tensor_that_it_stands_for(index, then):
    whole = (torch.arange(20 * 12) % 256).to(torch.uint8).reshape(20, 3, 2, 2)
    index = torch.tensor(index) if isinstance(index, list) else index
    late, x = OnDemand(whole.numpy(), torch.arange(20)), whole.float() / 255
    try:
        wanted = x[index]
    except ValueError:  # PyTorch takes no negative steps
        with pytest.raises(ValueError):
            late[index]
        return
    assert late[index].shape == wanted.shape and torch.equal(late[index], wanted)
    assert late.shape == x.shape and len(late) == 20
    if wanted.ndim == 4 and (then.step or 1) > 0:
        assert torch.equal(late.take(index)[then], wanted[then])


def test_a_large_set_is_evaluated_with_one_batch_in_memory(living):
    made, (model, *_) = Fake(400), linear(3, 9)
    x, y = from_dataset(made, [i % 3 for i in range(400)])
    attacks = {"pgd": partial(pgd, ball=0.1, steps=2), "square": partial(square, ball=0.1, queries=4)}
    table = evaluate(model, x, y, attacks, {"sure": confidence_score}, batch_size=20)
    assert len(table) == 3 * 400 and made.reads == 400  # each image is read once for all attacks
    assert made.most <= 21 and living["most"] <= 40 and made.alive == 0  # a batch, and the next one while it is dropped
    predict(model, x, 20)
    outputs(model, x, 20)
    assert 0 <= accuracy(model, x, y, 20) <= 1 and made.most <= 21 and living["most"] <= 40
    assert living["now"] == 0
    everything = x[:]
    assert living["now"] == 400 and len(everything) == 400  # what would be seen, were all of them held


def test_labels_are_read_where_the_dataset_does_not_list_them():
    made = Fake(30)
    x, y = from_dataset(made)
    assert torch.equal(y, torch.arange(30) % 3) and made.alive == 0
    made.targets = [2] * 30
    assert (from_dataset(made)[1] == 2).all()
    with pytest.raises(ValueError, match="one for each image"):
        from_dataset(made, [1, 2])
    with pytest.raises(ValueError, match="must have one size"):
        from_dataset([(torch.rand(1, 2, 2), 0), (torch.rand(1, 2, 3), 1)])[0][:]


@pytest.mark.parametrize("size, cache", [(7, False), (64, False), (20, True)])
def test_the_table_is_that_of_the_tensor(size, cache):
    made, (model, *_) = Fake(50), linear(3, 9, 2.0)
    late, y = from_dataset(made)
    x = late[:]
    seeds = torch.arange(50)
    attacks = {"pgd": partial(pgd, ball=0.1, steps=2, seed=3), "own seeds": partial(pgd, ball=0.1, steps=1, seed=seeds), "noise": partial(uniform_noise, ball=0.2),
               "square": partial(square, ball=0.1, queries=4, objective=WrongConfidence(y)), "maxconfidence": partial(max_confidence, ball=0.1)}
    ours = evaluate(model, late, y, attacks, {"sure": confidence_score}, batch_size=size, cache=cache)
    pd.testing.assert_frame_equal(ours, evaluate(model, x, y, attacks, {"sure": confidence_score}), atol=3e-4)  # long climbs add up the rounding of batches
    if cache:
        reads, again = made.reads, evaluate(model, late, y, attacks, {"sure": confidence_score}, batch_size=size, cache=True)
        pd.testing.assert_frame_equal(ours, again)
        assert made.reads == reads + 50
        # the last batch by itself draws otherwise, and is not taken for the part that it was
        alone = evaluate(model, x[40:], y[40:], {"noise": attacks["noise"]}, cache=True)
        other = ours[ours.attack == "noise"].tail(len(alone) // 2)
        assert not np.allclose(alone[alone.attack == "noise"].linf, other.linf)


def test_a_part_of_a_part_draws_as_in_the_whole():
    whole = streams(5, 100)
    with part_of_whole(40, 30):
        assert torch.equal(streams(5, 30), whole[40:70])
        with part_of_whole(3, 4):
            assert torch.equal(streams(5, 4), whole[43:47])


def test_a_training_is_that_of_the_tensor(living):
    late, y = from_dataset(Fake(60, (1, 9, 9)))
    x, recipe = late[:], Recipe(epochs=2, batch_size=16)
    a, b = (build("model_a", (1, 9, 9), 3, filters=4) for _ in range(2))
    fit(a, x, y, recipe=recipe)
    before = living["now"]
    living["most"] = before
    fit(b, late, y, recipe=recipe)
    assert living["most"] <= before + 32
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_needs_a_tensor_says_how_to_get_one():
    late, y = from_dataset(Fake(5))
    with pytest.raises(TypeError, match="not OnDemand; take some of them"):
        pgd(linear(3, 9)[0], late, y, 0.1)


# Files

@pytest.fixture
def folder(tmp_path):
    "Two classes of five grey pictures, for training and for testing"
    rng = np.random.default_rng(0)
    for part in "train", "test":
        for kind in "a", "b":
            (place := tmp_path / "few" / part / kind).mkdir(parents=True)
            for i in range(5):
                Image.fromarray(rng.integers(0, 256, (6, 4), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "few"


def test_a_folder_is_read_when_it_is_indexed(folder, monkeypatch):
    name, read = f"folder:{folder}", []
    eager = load_data(name)
    one = pictures._pixels
    monkeypatch.setattr(pictures, "_pixels", lambda file, mode=None: read.append(file) or one(file, mode))
    late = load_data(name, on_demand=True)
    assert len(read) <= 3 and isinstance(late.x_test, OnDemand) and isinstance(late.x_train, OnDemand)
    for part in "train", "val", "test":
        assert torch.equal(getattr(late, f"x_{part}")[:], getattr(eager, f"x_{part}")) and torch.equal(getattr(late, f"y_{part}"), getattr(eager, f"y_{part}"))
    read.clear()
    assert late.x_test[[3]].shape == (1, 1, 6, 4) and len(read) == 1 and late.shape == eager.shape


def test_what_would_fill_half_of_memory_is_read_on_demand_unless_it_must_not(folder, monkeypatch):
    name = f"folder:{folder}"
    monkeypatch.setattr(pictures, "_memory", lambda: 10 * 24 * 5 * 1.5)  # ten pictures of 6 x 4 and their bytes, and a half
    late = load_data(name)
    assert isinstance(late.x_test, OnDemand) and isinstance(late.x_train, OnDemand)
    assert isinstance(load_data(name, test=4).x_test, OnDemand)  # with the held-out examples, of which there may be 5,000
    monkeypatch.setattr(pictures, "_memory", lambda: 10 * 24 * 5 * 2.1)
    assert isinstance(load_data(name).x_test, torch.Tensor)
    monkeypatch.setattr(pictures, "_memory", lambda: 100)
    with pytest.raises(ValueError, match="a folder of .* pictures takes"):
        load_data(name, on_demand=False)


def test_arrays_may_be_read_on_demand_too(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 5, 5), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    late, eager = (load_data(f"npz:{tmp_path}/set.npz", train=20, on_demand=how) for how in (True, None))
    assert isinstance(late.x_train, OnDemand) and isinstance(eager.x_train, torch.Tensor)
    assert torch.equal(late.x_train[:], eager.x_train) and torch.equal(late.x_val[2], eager.x_val[2])
    digits = load_data("digits", on_demand=True)
    assert torch.equal(digits.x_test[5:7], load_data("digits").x_test[5:7])


def test_a_key_covers_the_pixels(folder):
    name = f"folder:{folder}"
    first, same = (load_data(name, on_demand=True).x_test for _ in range(2))
    assert fingerprint(first) == fingerprint(same) != fingerprint(first.take([1, 0]))
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(folder / "test" / "a" / "2.png")
    assert fingerprint(load_data(name, on_demand=True).x_test) != fingerprint(load_data(name, on_demand=True).x_train)
    changed = fingerprint(load_data(name, on_demand=True).x_test)
    Image.fromarray(np.full((6, 4), 9, np.uint8)).save(folder / "test" / "a" / "2.png")
    assert changed != fingerprint(load_data(name, on_demand=True).x_test)


MEMORY = """
import resource, sys
import torch
from functools import partial
from confnb.attacks import pgd
from confnb.images import OnDemand
from confnb.tables import evaluate

class Made:
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, rows): return torch.rand(len(rows), 3, 224, 224, generator=torch.Generator().manual_seed(int(rows[0])))

n = int(sys.argv[1])
model = torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, 1000))
run = lambda n: evaluate(model, OnDemand(Made(n), torch.arange(n)), torch.arange(n) % 1000, {"pgd": partial(pgd, ball=.1, steps=1)}, batch_size=8)
run(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = run(n)
print(len(table), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    "120 images of 3 x 224 x 224 are 69 MiB, of which a batch is 5; the allocator is given some room"
    done = subprocess.run([sys.executable, "-c", MEMORY, "120"], capture_output=True, text=True, check=True)
    rows, grown = map(float, done.stdout.split())
    assert rows == 240 and grown < 40
