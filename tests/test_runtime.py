import math
import warnings
from contextlib import nullcontext
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


class Memory:
    "Work that needs more memory than there is for slices longer than `most`"

    def __init__(self, most):
        self.most, self.asked = most, []

    def __call__(self, s):
        self.asked.append(s.stop - s.start)
        if self.asked[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(s.start, s.stop))


@given(n=st.integers(1, 40), size=st.integers(1, 50), most=st.integers(1, 50))
def test_batches_too_large_for_memory_are_halved(n, size, most):
    work = Memory(most)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        parts = r.in_batches(work, n, size)
    assert sum(parts, []) == list(range(n)) and all(0 < len(p) <= min(size, most) for p in parts)
    failed = [a for a in work.asked if a > most]
    assert len(failed) == len(set(failed)) <= math.ceil(math.log2(n)) + 1 and work.asked[0] == min(n, size)
    assert len(seen) == bool(failed)
    if failed:
        longest = max(map(len, parts))
        assert seen[0].category is UserWarning and f"batches of {min(n, size)}: went on with {longest}; say batch_size={longest}" in str(seen[0].message)


def test_no_memory_for_one_is_an_error():
    work = Memory(0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        r.in_batches(work, 9, 8)
    assert work.asked == [8, 4, 2, 1]


def test_what_is_done_is_not_done_again_where_memory_runs_out_later():
    work = Memory(8)
    later = lambda s: work(s) if s.start < 8 or s.stop - s.start <= 2 else Memory(0)(s)  # noqa: E731
    with pytest.warns(UserWarning, match="batches of 8: went on with 2"):
        parts = r.in_batches(later, 13, 8)
    assert [len(p) for p in parts] == [8, 2, 2, 1] and sum(parts, []) == list(range(13))


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="something else"):
        r.in_batches(lambda s: (_ for _ in ()).throw(RuntimeError("something else")), 9, 8)


def test_predictions_go_on_in_smaller_batches_where_memory_runs_out():
    def hungry(x):
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.flatten(1)

    sizes, x = [], images(10)
    with pytest.warns(UserWarning, match="out of memory with batches of 7: went on with 2") as seen:
        logits = r.predict(Answers(hungry), x, batch_size=7)
    assert torch.equal(logits, x.flatten(1)) and len(seen) == 1 and sizes == [7, 4] + [2] * 5
    assert seen[0].filename == __file__


def convolutions():
    "A network with weights of several shapes, one of them shared, one frozen"
    with seeded(0):
        first, twice, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 3)
    first.weight.requires_grad_(False)
    return nn.Sequential(first, twice, twice, nn.Flatten(), last)


@pytest.mark.parametrize("broken", [False, True])
def test_channels_lie_side_by_side_only_inside(broken):
    model, x = convolutions(), torch.rand(2, 3, 6, 6, generator=r.generator(0))
    model(x).sum().backward()
    before = [(id(p), p.data_ptr(), p.stride(), p.clone(), p.requires_grad, p.grad is None) for p in model.parameters()]
    with pytest.raises(KeyError) if broken else nullcontext(), r.channels_last(model) as lent:
        assert lent is model
        for p, (_, _, _, value, *_) in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, value) and (p.ndim < 4 or p.is_contiguous(memory_format=torch.channels_last))
        assert not model[1].weight.is_contiguous()
        inside = model(x)
        if broken:
            raise KeyError
    assert torch.allclose(inside, model(x), atol=1e-6)
    for p, (identity, memory, stride, value, needs, free) in zip(model.parameters(), before, strict=True):
        assert (id(p), p.data_ptr(), p.stride(), p.requires_grad, p.grad is None) == (identity, memory, stride, needs, free)
        assert torch.equal(p, value)


@pytest.mark.parametrize("bfloat16, tiles, fast", [(False, False, None), (True, False, torch.bfloat16), (False, True, torch.bfloat16)])
def test_the_fast_precision_is_what_the_processor_says(monkeypatch, bfloat16, tiles, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    cpu = torch.device("cpu")
    assert r.fast_dtype(cpu) is r.reduced("auto", cpu) is fast
    assert r.reduced(None, cpu) is None and r.reduced(torch.bfloat16, cpu) is r.reduced(torch.bfloat16, torch.device("meta")) is torch.bfloat16
    assert r.fast_dtype(torch.device("mps")) is None


@pytest.mark.parametrize("there", [False, True])
def test_the_fast_precision_is_what_the_card_says(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: there or including_emulation)
    assert r.fast_dtype(torch.device("cuda")) is (torch.bfloat16 if there else None)


def test_a_processor_that_cannot_be_asked_is_not_fast(monkeypatch):
    for name in "_is_avx512_bf16_supported", "_is_amx_tile_supported":
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert r.fast_dtype(torch.device("cpu")) is None


@pytest.mark.parametrize("word", ["fast", "bfloat16", ""])
def test_a_precision_that_is_no_word_is_refused(word):
    with pytest.raises(ValueError, match=f"bfloat16, 'auto' or None, not '{word}'"):
        r.reduced(word, torch.device("cpu"))


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
