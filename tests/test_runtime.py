import math
import os
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from confnb import runtime as r
from confnb.models import seeded


def tiny(seed=0, classes=3):
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))


def images(n=5, seed=0):
    return torch.rand(n, 1, 6, 6, generator=r.generator(seed))


GOOD = images()
BAD_IMAGES = {
    "list": ([[0.5]], TypeError, "torch.Tensor.*as_tensor"),
    "bytes": ((GOOD * 255).to(torch.uint8), TypeError, r"uint8.*/ 255"),
    "integers": (GOOD.round().long(), TypeError, "floating point"),
    "booleans": (GOOD > 0.5, TypeError, "floating point"),
    "one image": (GOOD[0], ValueError, r"\(N, C, H, W\).*x\[None\]"),
    "flat": (GOOD.flatten(1), ValueError, r"\(N, C, H, W\)"),
    "no images": (GOOD[:0], ValueError, "empty"),
    "no pixels": (GOOD[..., :0], ValueError, "empty"),
    "nan": (GOOD.clone().index_put_((torch.tensor(2),), torch.tensor(math.nan)), ValueError, "NaN or infinite"),
    "inf": (GOOD.clone().index_put_((torch.tensor(2),), torch.tensor(math.inf)), ValueError, "NaN or infinite"),
    "0..255": (GOOD * 255, ValueError, "0..255.*divide by 255"),
    "normalised": ((GOOD - 0.5) / 0.25, ValueError, "normalis.*first layer"),
    "-1..1": (2 * GOOD - 1, ValueError, "normalis.*first layer"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_in_words(name):
    x, error, says = BAD_IMAGES[name]
    for use in r.check_images, partial(r.predict, tiny()):
        with pytest.raises(error, match=f"(?s){says}"):
            use(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_come_back_clipped_in_single_or_double(dtype):
    x = r.check_images((images() * (1 + 5e-6)).to(dtype).requires_grad_())
    assert x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert 0 <= x.min() and x.max() <= 1 and not x.requires_grad
    with pytest.raises(ValueError, match="run from"):
        r.check_images(torch.full((1, 1, 2, 2), 1.0001))


BAD_LABELS = {
    "list": ([0, 1, 2], TypeError, "torch.Tensor"),
    "float": (torch.tensor([0.0, 1, 2]), TypeError, "integer class indices"),
    "bool": (torch.tensor([True, False, True]), TypeError, "integer class indices"),
    "one-hot": (torch.eye(3).long(), ValueError, r"shape \(3,\)"),
    "short": (torch.tensor([0, 1]), ValueError, r"shape \(3,\)"),
    "negative": (torch.tensor([0, 1, -1]), ValueError, "0..2"),
    "too high": (torch.tensor([0, 1, 3]), ValueError, "0..2.*0 to 3"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_refused_in_words(name):
    y, error, says = BAD_LABELS[name]
    with pytest.raises(error, match=f"(?s)targets.*{says}"):
        r.check_labels(y, 3, 3, name="targets")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_come_back_as_int64(dtype):
    assert r.check_labels(torch.tensor([2, 0, 1]).to(dtype), 3, 3).tolist() == [2, 0, 1]
    assert r.check_labels(torch.tensor([2, 0, 1]).to(dtype), 3, 3).dtype == torch.int64


class Answers(nn.Module):
    "A model that answers whatever it is told to"

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


BAD_ANSWERS = {
    "a tuple": lambda x: (x.flatten(1), x),
    "one number per image": lambda x: x.flatten(1).sum(1),
    "one class": lambda x: x.flatten(1)[:, :1],
    "a row too few": lambda x: x.flatten(1)[1:],
    "a map": lambda x: x,
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_model_that_gives_no_logits_is_named(name):
    with pytest.raises(ValueError, match=r"logits of shape \(5, K\)"):
        r.predict(Answers(BAD_ANSWERS[name]), images())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_counted(value):
    spoil = Answers(lambda x: x.flatten(1).clone().index_put_((torch.tensor([1, 3]), torch.tensor([0, 5])), torch.tensor(value)))
    with pytest.raises(ValueError, match="NaN or infinite for 2 of 5 images"):
        r.predict(spoil, images())


def test_a_function_is_no_model():
    with pytest.raises(TypeError, match="torch.nn.Module, not function"):
        r.predict(lambda x: x, images())


@given(n=st.integers(1, 9), batch=st.integers(1, 10))
@settings(max_examples=20)
def test_predictions_do_not_depend_on_the_batch(n, batch):
    x, model = images(n), tiny()
    assert torch.allclose(r.predict(model, x, batch), model(x), atol=1e-6)


@given(n=st.integers(1, 50), size=st.integers(1, 60))
def test_chunks_cover_everything_once(n, size):
    parts = r.chunks(n, size)
    assert [i for s in parts for i in range(n)[s]] == list(range(n))
    assert all(0 < s.stop - s.start <= size for s in parts)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch size.*at least 1"):
        r.predict(tiny(), images(), batch_size=0)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert r.pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device.*'cpu' or 'auto'"):
        r.pick_device("cuda")


@given(seed=st.integers(-(2**70), 2**70), salt=st.lists(st.integers(0, 99), max_size=2))
def test_streams_are_distinct_and_follow_the_seed(seed, salt):
    first = r.streams(seed, 200, *salt)
    assert len(first.unique()) == 200 and torch.equal(first, r.streams(seed, 200, *salt))
    assert torch.equal(first[:7], r.streams(seed, 7, *salt))
    others = torch.cat([r.streams(seed + 1, 200, *salt), r.streams(seed, 200, *salt, 0)])
    assert not torch.isin(others, first).any()


@given(seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9), salt=st.integers(0, 99))
def test_a_seed_for_each_example_is_its_own_stream(seeds, salt):
    every = r.streams(torch.tensor(seeds), len(seeds), salt)
    alone = [r.streams(torch.tensor([s]), 1, salt).item() for s in seeds]
    assert every.tolist() == alone


def test_seeds_of_another_length_are_refused():
    with pytest.raises(ValueError, match="seed must be one number or one for each of 5"):
        r.streams(torch.arange(3), 5)


@pytest.mark.parametrize("draw, mean, deviation", [(r.uniform, 0.5, 12**-0.5), (r.normal, 0, 1)])
def test_draws_have_their_moments_and_leave_the_global_generator(draw, mean, deviation):
    before = torch.get_rng_state()
    values = draw(r.streams(0, 300), torch.empty(300, 100))
    assert torch.equal(before, torch.get_rng_state())
    assert abs(values.mean() - mean) < 0.02 and abs(values.std() - deviation) < 0.02
    assert abs(torch.corrcoef(values[:2])[0, 1]) < 0.4 and values.unique().numel() > 29000


def test_draws_are_the_same_numbers_in_every_precision():
    seeds = r.streams(3, 4)
    one = r.uniform(seeds, torch.empty(4, 6))
    assert torch.equal(one.double(), r.uniform(seeds, torch.empty(4, 6, dtype=torch.float64)))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(one, r.uniform(seeds, torch.empty(4, 6, dtype=torch.float32)))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with pytest.raises(KeyboardInterrupt), r.write_whole(path) as f:
        f.write_text("half")
        raise KeyboardInterrupt
    assert not os.listdir(path.parent)
    for words in "first", "second":
        with r.write_whole(path) as f:
            f.write_text(words)
    with pytest.raises(ValueError), r.write_whole(path) as f:
        f.write_text("half")
        raise ValueError
    assert path.read_text() == "second" and os.listdir(path.parent) == ["table.txt"]


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError), r.write_whole(tmp_path / "file" / "table.txt"):
        pass


@dataclass(frozen=True)
class Setting:
    eps: float = 0.1


@dataclass(frozen=True)
class Other:
    eps: float = 0.1


def one(x):
    return x + 1


def two(x):
    return x * 2


def test_fingerprints_differ_where_anything_differs():
    changed = images()
    changed[4, 0, 5, 5] += 1e-6
    things = [1, 1.0, "1", True, None, [1], [[1]], [1, 1], {"a": 1}, {"b": 1}, Setting(), Setting(0.2), Other(), one, two, partial(one, 2), partial(one, 3),
              images(), images().double(), images().flatten(1), changed, images().numpy()[:4], tiny(0), tiny(1), nn.Sequential(tiny(0)), torch.float32]
    prints = [r.fingerprint(t) for t in things]
    assert len(set(prints)) == len(prints)
    assert prints[-5] == r.fingerprint(changed[:4].numpy()) and r.fingerprint(tiny(1)) == r.fingerprint(tiny(1))
    assert r.fingerprint("a", "b") != r.fingerprint("ab") != r.fingerprint("a|b")


def test_a_lambda_has_no_fingerprint():
    with pytest.raises(TypeError, match="cannot take a fingerprint"):
        r.fingerprint(lambda x: x)


def remember(value, fail=False):
    def compute():
        if fail:
            raise RuntimeError("broken off")
        made.append(value)
        return value

    made = []
    got = r.remember("note", "key", ".txt", compute, lambda v, path: path.write_text(v), lambda path: path.read_text())
    return got, bool(made)


@pytest.mark.parametrize("damage", ["cut", "changed", "unrecorded"])
def test_a_damaged_cache_entry_is_computed_again_with_a_warning(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    assert remember("first") == ("first", True)
    assert remember("second") == ("first", False)
    path = tmp_path / "note" / "key.txt"
    if damage == "unrecorded":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_text("fir" if damage == "cut" else "fives")
    with pytest.warns(UserWarning, match="note key.txt cannot be used.*computed again"):
        assert remember("third") == ("third", True)
    assert remember("fourth") == ("third", False)


def test_what_fails_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="broken off"):
        remember("first", fail=True)
    assert not list(tmp_path.rglob("*.*"))


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "mine"))
    assert r.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("CONFNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert r.cache_dir() == tmp_path / "confnb"
