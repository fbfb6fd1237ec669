"Held-out images that no training has seen: of the test set, or of one's own"

import numpy as np
import pytest
import torch
from PIL import Image

from confnb.basics import UsageError
from confnb.data import load_data, two_classes
from confnb.evaluation.loading import held_from
from confnb.images import Data, OnDemand
from confnb.unseen import hold_out


def noise(n=60, classes=3):
    x, y = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes
    return Data(x[:20], y[:20], x[20:22], y[20:22], x[22:52], y[22:52], classes, "noise"), x, y


def rows(x):
    return sorted(image.flatten().tolist() for image in x)


@pytest.mark.parametrize("held, many", [(0.5, 15), (7, 7), (0.01, 1), (np.int64(29), 29)])
def test_of_the_test_set_every_image_is_held_or_tested(held, many):
    data, _, _ = noise()
    found = hold_out(data, held)
    assert len(found.x_val) == len(found.y_val) == many and found.held_from == "the test set"
    assert rows(torch.cat([found.x_val, found.x_test])) == rows(data.x_test)
    pairs = {(*image.flatten().tolist(), label) for image, label in zip(data.x_test, data.y_test.tolist(), strict=True)}
    for x, y in ((found.x_val, found.y_val), (found.x_test, found.y_test)):
        assert {(*image.flatten().tolist(), label) for image, label in zip(x, y.tolist(), strict=True)} <= pairs
    assert data.held_from == "the training set" and len(data.x_test) == 30  # the data handed in are as they were
    assert found.y_val.bincount(minlength=3).max() - found.y_val.bincount(minlength=3).min() <= 1


def test_images_of_ones_own_take_the_place_of_those_held_out():
    data, x, y = noise()
    found = hold_out(data, ((x[52:, 0] * 255).round().byte().numpy(), y[52:].numpy()))
    torch.testing.assert_close(found.x_val, x[52:], atol=0.01, rtol=0)
    assert found.y_val.tolist() == y[52:].tolist() and torch.equal(found.x_test, data.x_test) and found.held_from == "elsewhere"
    assert "8 held from elsewhere" in repr(found)


def test_images_on_demand_are_not_read():
    class Unread:
        def __len__(self):
            return 30

        def __getitem__(self, i):
            raise AssertionError("read")

    data, x, y = noise()
    late = Data(x[:20], y[:20], x[20:22], y[20:22], OnDemand(Unread(), torch.arange(30)), y[22:52], 3, "late")
    found = hold_out(late, 10)
    assert isinstance(found.x_val, OnDemand) and len(found.x_val) == 10 and len(found.x_test) == 20
    assert sorted([*found.x_val.rows.tolist(), *found.x_test.rows.tolist()]) == list(range(30))


@pytest.mark.parametrize("held, sentence", [
    (0, "1 to 29 can be held out"), (30, "1 to 29"), (1.0, "1 to 29"), (-0.5, "1 to 29"), (True, "1 to 29"), ("half", "1 to 29"),
    (lambda x, y: (x[22:30], y[22:30]), "8 images of the test set are held out as well"),
    (lambda x, y: (x[:8], y[:8]), "8 images of the train set are held out as well"),
    (lambda x, y: (x[52:, :, :3], y[52:]), "must agree"),
    (lambda x, y: (x[52:], y[52:] + 3), "y_held has a class 5"),
    (lambda x, y: (x[52:], y[51:]), "8"),
    (lambda x, y: (x[52:],), "a pair"),
    (lambda x, y: (x[52:] + 3, y[52:]), "x_held"),
])
def test_what_cannot_be_held_out_is_refused(held, sentence):
    data, x, y = noise()
    with pytest.raises(ValueError, match=sentence):
        hold_out(data, held(x, y) if callable(held) else held)


def test_load_data_holds_out_a_part_of_the_test_set():
    whole, apart = load_data("digits"), load_data("digits", held=0.25, test=40, seed=3)
    assert len(apart.x_val) == 90 and len(apart.x_test) == 40 and torch.equal(apart.x_train, whole.x_train)
    assert torch.equal(apart.x_val, load_data("digits", held=90).x_val)  # whatever the seed and the size of the test set
    held = {image.numpy().tobytes() for image in apart.x_val}
    assert not held & {image.numpy().tobytes() for image in apart.x_test}
    assert two_classes(apart, 3, 7).held_from == "the test set"
    for parts in (["test"], ["val"], ["train", "val"]):
        some = load_data("digits", held=0.25, parts=parts)
        assert {p for p in ("train", "val", "test") if f"x_{p}" in vars(some)} == set(parts)
    late = load_data("digits", held=90, test=40, seed=3, on_demand=True)
    assert torch.equal(late.x_val[:5], apart.x_val[:5]) and torch.equal(late.x_test[:5], apart.x_test[:5])
    with pytest.raises(ValueError, match="300 test .90 more are held out. examples were asked for"):
        load_data("digits", held=90, test=300)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "The same images in a file and in folders, with held-out ones"
    place = tmp_path_factory.mktemp("data")
    x, y = np.random.default_rng(0).integers(0, 256, (80, 6, 6), dtype=np.uint8), np.arange(80) % 2
    parts = {"train": slice(0, 40), "test": slice(40, 60), "held": slice(60, 80)}
    np.savez(place / "mine.npz", **{f"{k}_{part}": v[s] for part, s in parts.items() for k, v in (("x", x), ("y", y))})
    for part, s in parts.items():
        for i in range(s.start, s.stop):
            (folder := place / "mine" / part / "ab"[y[i]]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[i]).save(folder / f"{i:03}.png")
    return place, x, y


@pytest.mark.parametrize("name", ["npz:{}/mine.npz", "folder:{}/mine"])
@pytest.mark.parametrize("on_demand", [False, True])
def test_files_bring_their_own_held_out_images(files, name, on_demand):
    place, x, y = files
    data = load_data(name.format(place), on_demand=on_demand)
    assert data.held_from == "elsewhere" and len(data.x_val) == 20 and len(data.x_test) == 20
    wanted = torch.from_numpy(x[60:, None]).float() / 255
    assert rows(data.x_val[:20]) == rows(wanted) and data.y_val.sum() == 10
    some = load_data(name.format(place), parts=["val"], on_demand=on_demand)
    assert len(some.x_val) == 20 and "x_test" not in vars(some) and "x_train" not in vars(some)
    plain = load_data(name.format(place), parts=["test"], on_demand=on_demand)
    assert plain.held_from == "the training set" and "x_val" not in vars(plain)
    other = load_data(name.format(place), held=5, on_demand=on_demand)  # what the call says goes before what the file has
    assert len(other.x_val) == 5 and other.held_from == "the test set"


def test_a_file_whose_held_out_images_lack_labels_is_refused(files, tmp_path):
    place, x, y = files
    np.savez(tmp_path / "a.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:60], y_test=y[40:60], x_held=x[60:])
    with pytest.raises(ValueError, match="has no y_held"):
        load_data(f"npz:{tmp_path}/a.npz")
    (tmp_path / "b" / "held" / "c").mkdir(parents=True)
    for part in ("train", "test"):
        (tmp_path / "b" / part).symlink_to(place / "mine" / part)
    Image.fromarray(x[0]).save(tmp_path / "b" / "held" / "c" / "0.png")
    with pytest.raises(ValueError, match="train and held must have the same class folders"):
        load_data(f"folder:{tmp_path}/b")


@pytest.mark.parametrize("word, held", [(None, None), ("train", None), ("0.25", 0.25), ("1", 1), ("2000", 2000)])
def test_a_word_says_what_is_held_out(word, held):
    assert held_from(word) == held and type(held_from(word)) is type(held)


@pytest.mark.parametrize("word", ["", "0", "-3", "1.0", "nan", "test", "0.5.1"])
def test_a_word_that_says_nothing_is_refused(word):
    with pytest.raises(UsageError, match="--held .* must be a share"):
        held_from(word)
