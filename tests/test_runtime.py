import math
import random
import threading
import warnings
from contextlib import nullcontext
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import IN_PLACE

from confnb import borrowing, checks
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
    for use in checks.check_images, partial(r.predict, tiny()):
        with pytest.raises(error, match=f"(?s){says}"):
            use(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_come_back_clipped_in_single_or_double(dtype):
    x = checks.check_images((images() * (1 + 5e-6)).to(dtype).requires_grad_())
    assert x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert 0 <= x.min() and x.max() <= 1 and not x.requires_grad
    with pytest.raises(ValueError, match="run from"):
        checks.check_images(torch.full((1, 1, 2, 2), 1.0001))


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
        checks.check_labels(y, 3, 3, name="targets")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_come_back_as_int64(dtype):
    assert checks.check_labels(torch.tensor([2, 0, 1]).to(dtype), 3, 3).tolist() == [2, 0, 1]
    assert checks.check_labels(torch.tensor([2, 0, 1]).to(dtype), 3, 3).dtype == torch.int64


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
    with pytest.raises(KeyError) if broken else nullcontext(), borrowing.channels_last(model) as lent:
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
    assert borrowing.fast_dtype(cpu) is borrowing.resolve_autocast("auto", cpu) is fast
    assert borrowing.resolve_autocast(None, cpu) is None and borrowing.resolve_autocast(torch.bfloat16, cpu) is borrowing.resolve_autocast(torch.bfloat16, torch.device("meta")) is torch.bfloat16
    assert borrowing.fast_dtype(torch.device("mps")) is None


@pytest.mark.parametrize("there", [False, True])
def test_the_fast_precision_is_what_the_card_says(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: there or including_emulation)
    assert borrowing.fast_dtype(torch.device("cuda")) is (torch.bfloat16 if there else None)


def test_a_processor_that_cannot_be_asked_is_not_fast(monkeypatch):
    for name in "_is_avx512_bf16_supported", "_is_amx_tile_supported":
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert borrowing.fast_dtype(torch.device("cpu")) is None


@pytest.mark.parametrize("word", ["fast", "bfloat16", ""])
def test_a_precision_that_is_no_word_is_refused(word):
    with pytest.raises(ValueError, match=f"bfloat16, 'auto' or None, not '{word}'"):
        borrowing.resolve_autocast(word, torch.device("cpu"))


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert borrowing.pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device.*'cpu' or 'auto'"):
        borrowing.pick_device("cuda")


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


# What a model may do to what it is given, and what it may give

class Changing(nn.Module):
    "A model that changes its images in place before it looks at them"

    def __init__(self, change):
        super().__init__()
        self.change, self.net = change, tiny()

    def forward(self, x):
        return self.net(self.change(x))


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_model_that_changes_its_input_gets_a_copy(name):
    x, model = images(), Changing(IN_PLACE[name])
    kept, z = x.clone(), images().requires_grad_()
    r.predict(model, x)
    with borrowing.borrow(model):
        logits = r.logits_of(model, z)
        assert torch.equal(r.logits_of(model, x), logits) and (name == "zeroes" or torch.autograd.grad(logits.sum(), z)[0].any())
    assert torch.equal(x, kept) and torch.equal(z, kept)


class Static(nn.Module):
    "A model that answers in the same memory each time, as CUDA graphs do"

    def __init__(self):
        super().__init__()
        self.net, self.memory = tiny(), torch.empty(2, 3)

    def forward(self, x):
        self.memory[: len(x)] = self.net(x).detach()
        return self.memory[: len(x)]


def test_an_answer_in_memory_that_is_used_again_is_copied():
    assert torch.equal(r.predict(Static(), images(), batch_size=2), r.predict(tiny(), images(), batch_size=2))


class Answer:
    "What Hugging Face's models give"

    def __init__(self, logits):
        self.logits = logits


def test_an_object_with_logits_is_as_good_as_logits():
    assert torch.equal(r.predict(Answers(lambda x: Answer(tiny()(x))), images()), r.predict(tiny(), images()))
    with pytest.raises(ValueError, match=r"logits of shape \(5, K\).*Answer"):
        r.predict(Answers(lambda x: Answer(None)), images())


def test_complex_logits_are_refused():
    with pytest.raises(ValueError, match="complex64.*real numbers"):
        r.predict(Answers(lambda x: x.flatten(1).to(torch.complex64)), images())


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 40])
def test_probabilities_are_refused_with_the_cure(n, dtype, classes):
    answer = lambda x: tiny(classes=classes)(x).mul(4).softmax(1).to(dtype)  # noqa: E731
    with pytest.raises(ValueError, match="probabilities.*before the softmax.*log"):
        r.predict(Answers(answer), images(n))
    logs = r.predict(Answers(lambda x: answer(x).log()), images(n))
    assert torch.allclose(logs.exp().sum(1), torch.ones(n, dtype=logs.dtype), atol=1e-2)


def test_the_probabilities_of_one_image_are_recognised():
    with pytest.raises(ValueError, match="probabilities"):
        r.predict(Answers(lambda x: tiny()(x).softmax(1)), images(), batch_size=1)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 9), classes=st.integers(2, 12), shift=st.floats(-3, 3), rectified=st.booleans())
@settings(max_examples=200)
def test_logits_are_not_taken_for_probabilities(seed, n, classes, shift, rectified):
    logits = torch.randn(n, classes, generator=r.generator(seed)) + shift
    r.check_logits(logits.clamp_min(0) if rectified else logits)


class Mixed(nn.Module):
    "Float32, but for one parameter that comes first and may not be used at all"

    def __init__(self, dtype, used):
        super().__init__()
        self.first, self.used, self.net = nn.Parameter(torch.ones((), dtype=dtype)), used, tiny()

    def forward(self, x):
        return self.net(x * self.first if self.used else x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("used", [False, True])
def test_images_come_in_a_precision_that_the_network_takes(dtype, used):
    x = (images() * 8).round() / 8  # exact in every precision
    with torch.no_grad():
        expected = tiny()(x)
    assert torch.allclose(r.predict(Mixed(dtype, used), x).float(), expected, atol=1e-5)


def test_half_a_network_with_layers_in_single_precision_is_given_half_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8).bfloat16(), nn.Linear(8, 3).bfloat16(), Answers(lambda x: x.float()), nn.BatchNorm1d(3))
    assert r.predict(model, images()).dtype == torch.float32


def test_a_models_own_error_is_passed_on_and_asked_for_once():
    def breaks(x):
        calls.append(x.dtype)
        raise RuntimeError("broken in the middle")

    calls = []
    with pytest.raises(RuntimeError, match="broken in the middle"):
        r.predict(Answers(breaks), images())
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_answer(dtype):
    logits = r.predict(tiny().to(dtype), images())
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and torch.allclose(logits.float(), r.predict(tiny(), images()), atol=0.05)


def test_a_model_that_goes_through_numpy_is_named():
    model = Answers(lambda x: torch.from_numpy(x.numpy().reshape(len(x), -1)))
    assert r.predict(model, images()).shape == (5, 36)
    with pytest.raises(TypeError, match=r"leaves PyTorch.*numpy.*no gradient"):
        r.logits_of(model, images().requires_grad_())


# What comes back as it was

class Counts(nn.Module):
    "A model that updates buffers as it runs, one in place, one by another tensor, one that is not saved, one behind autograd's back"

    def __init__(self):
        super().__init__()
        self.net = tiny()
        for i, name in enumerate(("place", "other", "unsaved", "data")):
            self.register_buffer(name, torch.tensor(float(i)), persistent=name != "unsaved")

    def forward(self, x):
        self.place += 1
        self.other = self.other + 1
        self.unsaved.mul_(2).add_(1)
        self.data.data.add_(1)
        return self.net(x)


@pytest.mark.parametrize("broken", [False, True])
def test_buffers_come_back_as_they_were(broken):
    model = Counts()
    before = {name: (b, b.clone()) for name, b in model.named_buffers()}
    with pytest.raises(KeyError) if broken else nullcontext(), borrowing.borrow(model):
        for _ in range(3):
            model(images())
        assert model.place == 3 and model.other == 4 and model.data == 6
        if broken:
            raise KeyError
    for name, b in model.named_buffers():
        assert b is before[name][0] and torch.equal(b, before[name][1])


def test_buffers_that_nobody_changed_are_not_written():
    model, x = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3)).eval(), images().requires_grad_()
    loss = model(x).sum()  # its backward pass needs the running averages as they are
    r.predict(model, images())
    loss.backward()
    assert x.grad.abs().sum() > 0


class Draws(nn.Module):
    "A model that adds noise from one of the global generators to its logits"

    def __init__(self, of):
        super().__init__()
        self.net, self.of = tiny(), of

    def forward(self, x):
        return self.net(x) + {"torch": lambda: torch.rand(len(x), 1), "numpy": np.random.rand, "python": random.random}[self.of]()


def states():
    return torch.get_rng_state(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("of", ["torch", "numpy", "python"])
def test_the_global_generators_come_back_as_they_were_and_a_model_that_draws_is_named(of):
    before = states()
    with pytest.warns(borrowing.RandomAnswers, match="Draws draws random numbers.*put back") as seen:
        logits = r.predict(Draws(of), images(), batch_size=2)
    after = states()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:] and len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(r.predict(Draws(of), images(), batch_size=2), logits)  # from the same state, the same draws


def test_a_model_that_draws_nothing_is_not_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r.predict(nn.Sequential(tiny(), nn.Dropout(0.5)), images())


def test_draws_go_on_while_a_model_is_borrowed():
    model = Draws("torch")
    with pytest.warns(borrowing.RandomAnswers) as seen, borrowing.borrow(model):
        first, second = (r.predict(model, images()) for _ in range(2))
    assert not torch.equal(first, second) and len(seen) == 1


def test_generators_are_left_alone_while_another_thread_borrows_a_model():
    inside, done = threading.Event(), threading.Event()

    def other():
        with borrowing.borrow(tiny()):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody knows whose draws these are
        r.predict(Draws("torch"), images())
    assert not torch.equal(before, torch.get_rng_state())
    done.set()
    thread.join()


def test_what_a_model_answers_when_it_is_asked_again():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = r.answer_change(Draws("torch"), images(), batch_size=3)
    assert drawn.shape == (5,) and not r.answer_change(tiny(), images()).any()
    noisy = Answers(lambda x: tiny()(x) + torch.randn(len(x), 3))
    with pytest.warns(borrowing.RandomAnswers):
        assert (r.answer_change(noisy, images()) > 1e-3).all()
    relative = Answers(lambda x: tiny()(x) - tiny()(x).mean(0))
    assert (r.answer_change(relative, images()) > 1e-4).any()  # what it says of an image hangs on the others in the batch


def of_inference(make):
    with torch.inference_mode():
        return make()


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)),
    lambda: nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1), nn.Unflatten(0, (-1, 1)), nn.LSTM(36, 3, batch_first=True), Answers(lambda out: out[0][:, 0])),
    lambda: (lambda a: nn.Sequential(nn.Flatten(), a, a, nn.Linear(36, 3)))(nn.Linear(36, 36)),
], ids=["convolutions", "a recurrent network", "weights used twice"])
def test_a_model_made_in_inference_mode_works_and_comes_back(make):
    with seeded(0):
        model = of_inference(make)
    before = [(id(t), t.is_inference(), t.requires_grad, t.clone()) for t in (*model.parameters(), *model.buffers())]
    assert before[0][1] and model.training
    with borrowing.borrow(model):
        z = images().requires_grad_()
        (gradient,) = torch.autograd.grad(r.logits_of(model, z).sum(), z)
        assert gradient.abs().sum() > 0
    after = [(id(t), t.is_inference(), t.requires_grad, t.clone()) for t in (*model.parameters(), *model.buffers())]
    assert all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True)) and model.training
    with seeded(0):
        ordinary = make()
    assert torch.equal(r.predict(ordinary, images()), r.predict(model, images()))


# Models and numbers that cannot be

def exported():
    return torch.export.export(tiny().eval(), (images(2),)).module()


BAD_MODELS = {
    "a lazy layer": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), ValueError, r"1\.weight.*not been run.*run it once"),
    "on meta": (lambda: tiny().to("meta"), ValueError, r"1\.weight.*meta device.*to_empty|load"),
    "a buffer on meta": (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, affine=False).to("meta")), ValueError, "running_mean.*meta"),
    "exported": (exported, TypeError, r"evaluation mode.*torch.export.*train\(\) returns self"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_cannot_be_asked_are_refused_in_words(name):
    make, error, says = BAD_MODELS[name]
    with pytest.raises(error, match=f"(?s){says}"):
        r.predict(make(), images(2))


@pytest.mark.filterwarnings("ignore")
def test_the_cure_for_an_exported_module_cures():
    class Exported(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = exported()

        def train(self, mode=True):
            return self

        def forward(self, x):
            return self.module(x)

    assert torch.allclose(r.predict(Exported(), images(2)), r.predict(tiny(), images(2)), atol=1e-6)


STRANGE_IMAGES = {
    "sparse": (lambda: GOOD.to_sparse(), TypeError, r"dense.*sparse.*to_dense"),
    "nested": (lambda: torch.nested.nested_tensor([GOOD[0], GOOD[1]]), TypeError, "dense.*nested"),
    "on meta": (lambda: GOOD.to("meta"), ValueError, "meta device"),
    "complex": (lambda: GOOD.to(torch.complex64), TypeError, "floating point.*complex64"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STRANGE_IMAGES)
def test_strange_images_are_refused_in_words(name):
    make, error, says = STRANGE_IMAGES[name]
    with pytest.raises(error, match=f"(?s){says}"):
        r.predict(tiny(), make())


def test_labels_on_meta_are_refused():
    with pytest.raises(ValueError, match="labels.*meta device"):
        checks.check_labels(torch.zeros(3, dtype=torch.int64, device="meta"), 3, 3)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int8])
def test_labels_of_every_integer_dtype_are_taken(dtype):
    assert checks.check_labels(torch.tensor([2, 0, 1]).to(dtype), 3, 3).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="0..2"):
        checks.check_labels(torch.tensor([2, 0, 3]).to(dtype), 3, 3)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_every_kind_are_taken(value):
    assert checks.check_count(value, "steps") == 3 and type(checks.check_count(value, "steps")) is int


@pytest.mark.parametrize("value, error", [(1.5, TypeError), (2.0, TypeError), ("8", TypeError), (None, TypeError), (True, TypeError), (np.float32(3), TypeError),
                                          (torch.tensor(3.0), TypeError), (torch.ones(3).long(), TypeError), ([3], TypeError), (0, ValueError), (-1, ValueError)])
def test_what_counts_nothing_is_refused_in_words(value, error):
    with pytest.raises(error, match="steps must be (a whole number|at least 1), not"):
        checks.check_count(value, "steps")


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), torch.tensor(0.5), Fraction(1, 2), math.inf])
def test_numbers_of_every_kind_are_taken(value):
    assert checks.check_number(value, "kappa") == float(value)


@pytest.mark.parametrize("value", ["0.5", None, True, 1j, [0.5], np.ones(2), torch.ones(2), torch.tensor(1j)])
def test_what_is_no_number_is_refused_in_words(value):
    with pytest.raises(TypeError, match="kappa must be a number, not"):
        checks.check_number(value, "kappa")


@pytest.mark.parametrize("size", [1.5, "8", None, 0, -1, True])
def test_a_batch_size_that_cannot_be_is_refused_in_words(size):
    for use in partial(r.predict, tiny(), images()), partial(r.chunks, 5), partial(r.in_batches, list, 5), partial(r.answer_change, tiny(), images()):
        with pytest.raises((TypeError, ValueError), match="batch size must be (a whole number|at least 1), not"):
            use(size)


@pytest.mark.parametrize("seed", [np.int64(7), np.int32(7), np.uint64(7), torch.tensor(7), 7 + 2**64, 7 - 2**64])
def test_seeds_are_whole_numbers_modulo_2_to_the_64(seed):
    assert checks.check_seed(seed) == 7 and torch.equal(r.streams(seed, 5), r.streams(7, 5))
    assert torch.equal(torch.rand(3, generator=r.generator(seed)), torch.rand(3, generator=r.generator(7)))


@pytest.mark.parametrize("seed", [1.5, 1.0, None, "0", True, torch.Generator(), torch.tensor(1.5), torch.ones(5), torch.ones(5).bool(), np.arange(5), [1, 2, 3, 4, 5]])
def test_seeds_that_cannot_be_are_refused_in_words(seed):
    with pytest.raises(TypeError, match="seed must be (a whole number|whole numbers)"):
        r.streams(seed, 5)


def test_the_default_device_does_not_matter():
    expected = r.predict(tiny(), images()), r.uniform(r.streams(3, 4), torch.empty(4, 6)), r.answer_change(tiny(), images())
    model, x, like = tiny(), images(), torch.empty(4, 6)
    with torch.device("meta"):
        got = r.predict(model, x), r.uniform(r.streams(3, 4), like), r.answer_change(model, x)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
