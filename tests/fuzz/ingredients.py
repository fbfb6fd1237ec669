"""What a call is made of besides the model: images, labels, sets, settings, and the circumstances of the call.

A maker is given the case `a` with `a.n` images `a.x` of `a.shape` and their labels `a.y`.
"""

import contextlib
import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from confnb.search import (
    BOX,
    DDN,
    L0,
    L2,
    Adam,
    CrossEntropy,
    Halving,
    Lead,
    Linf,
    LogConfidence,
    LogOdds,
    Margin,
    OneFeature,
    Steepest,
    WrongConfidence,
)

from .models import K, Kind

N = 3  # images
good, bad, either = (partial(Kind, expect=e) for e in ("good", "bad", "either"))


def pixels(n: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    "Images with some pixels at the walls of the box"
    drawn = np.random.default_rng(seed).uniform(-0.1, 1.1, (n, *shape))
    return torch.from_numpy(drawn).float().clamp(0, 1)


def labels(n: int) -> torch.Tensor:
    return torch.arange(n) % 2  # class 2 is always wrong


def inference(make: Callable) -> Callable:
    def made(a):
        with torch.inference_mode():
            return make(a).clone()

    return made


def with_value(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = value
    return x


IMAGES = {
    "good": good(lambda a: a.x),
    "one image": good(lambda a: a.x[:1]),
    "grey": good(lambda a: torch.full_like(a.x, 0.5)),
    "black": good(lambda a: torch.zeros_like(a.x)),
    "float64": good(lambda a: a.x.double()),
    "float16": good(lambda a: a.x.half()),
    "bfloat16": good(lambda a: a.x.bfloat16()),
    "requires grad": good(lambda a: a.x.clone().requires_grad_()),
    "part of a graph": good(lambda a: a.x.clone().requires_grad_() * 1),
    "a parameter": good(lambda a: nn.Parameter(a.x.clone())),
    "not contiguous": good(lambda a: a.x.transpose(2, 3)),
    "channels last": good(lambda a: a.x.to(memory_format=torch.channels_last)),
    "expanded": good(lambda a: a.x[:1].expand(a.n, -1, -1, -1)),
    "inference tensor": good(inference(lambda a: a.x)),
    "dust outside": good(lambda a: with_value(a.x, 1 + 1e-6)),
    "0..255": bad(lambda a: a.x * 255),
    "normalised": bad(lambda a: (a.x - 0.5) / 0.25),
    "a little outside": bad(lambda a: with_value(a.x, 1.01)),
    "NaN": bad(lambda a: with_value(a.x, math.nan)),
    "infinite": bad(lambda a: with_value(a.x, math.inf)),
    "uint8": bad(lambda a: (a.x * 255).byte()),
    "int64": bad(lambda a: (a.x > 0.5).long()),
    "bool": bad(lambda a: a.x > 0.5),
    "complex": bad(lambda a: a.x.to(torch.complex64)),
    "no images": bad(lambda a: a.x[:0]),
    "no pixels": bad(lambda a: a.x[:, :, :0]),
    "three dimensions": bad(lambda a: a.x[0]),
    "flat": bad(lambda a: a.x.flatten(1)),
    "a number": bad(lambda a: torch.tensor(0.5)),
    "too small": either(lambda a: a.x[:, :, :3], traits="own"),
    "sparse": either(lambda a: a.x.to_sparse()),
    "nested": bad(lambda a: torch.nested.nested_tensor([a.x[0], a.x[0]])),
    "on meta": bad(lambda a: a.x.to("meta")),
    "NumPy": bad(lambda a: a.x.numpy()),
    "a list": bad(lambda a: a.x.tolist()),
    "None": bad(lambda a: None),
}

LABELS = {
    "good": good(lambda a: a.y),
    **{name: good(lambda a, name=name: a.y.to(getattr(torch, name))) for name in ("int32", "int16", "int8", "uint8")},
    "uint16": good(lambda a: a.y.to(torch.uint16)),
    "inference tensor": good(inference(lambda a: a.y)),
    "expanded": good(lambda a: torch.zeros((), dtype=torch.int64).expand(a.n)),
    "not contiguous": good(lambda a: torch.stack([a.y, a.y], 1)[:, 0]),
    "too many": bad(lambda a: torch.cat([a.y, a.y])),
    "none at all": bad(lambda a: a.y[:0]),
    "a column": bad(lambda a: a.y[:, None]),
    "float": bad(lambda a: a.y.float()),
    "bool": bad(lambda a: a.y.bool()),
    "complex": bad(lambda a: a.y.to(torch.complex64)),
    "one-hot": bad(lambda a: nn.functional.one_hot(a.y, K)),
    "too high": bad(lambda a: a.y + K),
    "negative": bad(lambda a: a.y - 1),
    "on meta": bad(lambda a: a.y.to("meta")),
    "sparse": either(lambda a: a.y.to_sparse()),
    "NumPy": either(lambda a: a.y.numpy()),
    "a list": either(lambda a: a.y.tolist()),
    "None": bad(lambda a: None),
    "words": bad(lambda a: "zero one"),
}


def each(a, eps: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    "A radius for each example"
    return torch.linspace(eps, eps / 2, a.n).to(dtype)


SETS = {
    "Linf": good(lambda a: Linf(0.1)),
    "L2": good(lambda a: L2(0.5), traits="L2"),
    "L0": good(lambda a: L0(3), traits="L0"),
    "the box": good(lambda a: BOX),
    "L2, wide": good(lambda a: L2(5.0), traits="L2"),
    "L0, all pixels": good(lambda a: L0(1000), traits="L0"),
    "L0(10)": good(lambda a: L0(10), traits="L0"),
    "Linf of each": good(lambda a: Linf(each(a, 0.2))),
    "L2 of each": good(lambda a: L2(each(a, 0.6)), traits="L2"),
    "L0 of each": good(lambda a: L0(torch.arange(a.n) + 1), traits="L0"),
    "Linf of a scalar tensor": good(lambda a: Linf(torch.tensor(0.1))),
    "Linf in float64": good(lambda a: Linf(each(a, 0.2, torch.float64))),
    "Linf in float16": good(lambda a: Linf(each(a, 0.25, torch.float16))),
    "Linf, tiny": good(lambda a: Linf(1e-6)),
    "Linf that requires grad": good(lambda a: Linf(each(a, 0.2).requires_grad_())),
    "L2 that requires grad": good(lambda a: L2(torch.tensor(0.5, requires_grad=True)), traits="L2"),
    "Linf of NumPy's number": good(lambda a: Linf(np.float64(0.1))),
    "Linf of NumPy's float32": either(lambda a: Linf(np.float32(0.125))),
    "Linf of True": either(lambda a: Linf(True)),
    "Linf of whole numbers": either(lambda a: Linf(torch.ones(a.n, dtype=torch.int64))),
    "a number": either(lambda a: 0.1),
    "the number 1": either(lambda a: 1),
    "numbers": either(lambda a: each(a, 0.2)),
    "NumPy's number": either(lambda a: np.float64(0.1)),
    "NumPy's numbers": either(lambda a: Linf(np.full(a.n, 0.1))),
    "a list": either(lambda a: Linf([0.1] * a.n)),
    "a column": bad(lambda a: Linf(each(a, 0.2)[:, None])),
    "too many": bad(lambda a: L2(torch.full((a.n + 1,), 0.5))),
    "no radius": bad(lambda a: Linf(torch.zeros(0))),
    "a word": bad(lambda a: Linf("8/255")),
    "None": bad(lambda a: Linf(None)),
    "complex": bad(lambda a: Linf(0.1 + 0j)),
    "complex tensor": bad(lambda a: L2(torch.tensor(0.1 + 0j))),
    "negative": bad(lambda a: Linf(-0.1)),
    "zero": bad(lambda a: L2(0.0)),
    "NaN": bad(lambda a: L2(math.nan)),
    "infinite": bad(lambda a: L2(math.inf)),
    "of 0..255": bad(lambda a: Linf(8)),
    "L0 of a half": bad(lambda a: L0(2.5)),
    "L0 of a word": bad(lambda a: L0("3")),
    "NaN for one": bad(lambda a: Linf(torch.full((a.n,), math.nan))),
    "on meta": bad(lambda a: Linf(torch.full((a.n,), 0.1, device="meta"))),
    "no set": bad(lambda a: None),
    "a set's name": bad(lambda a: "Linf"),
    "a class": bad(lambda a: Linf),
    "a pair": bad(lambda a: ("Linf", 0.1)),
}


def kinds(goods: list, bads: list, eithers: list = ()) -> dict[str, Kind]:
    "Ingredients that are written as they are called; what can be called is asked for the value"
    table = {}
    for expect, values in ("good", goods), ("bad", bads), ("either", eithers):
        for v in values:
            name, make = v if isinstance(v, tuple) else (repr(v), lambda a, v=v: v)
            table[name] = Kind(make, expect)
    return table


nan, inf = math.nan, math.inf
SHARE = kinds([0.9, 0.5], [0, -0.1, 1.5, nan, "a", None])
COUNT = kinds([1, 2, ("np.int64(2)", lambda a: np.int64(2))], [-1, 2.5, "3", nan, inf, [2]], [0, True, None, 2.0, ("tensor(2)", lambda a: torch.tensor(2))])
LENGTH = kinds([0.05, 0.3], [-0.1, 0.0, nan, inf, 255, "a", [0.1], 0.1j], [None, ("numbers", lambda a: each(a, 0.2)), ("a column", lambda a: each(a, 0.2)[:, None])])
BITS = kinds([1, 4, 32, ("np.int64(8)", lambda a: np.int64(8))], [0, 9, 2.5, "4", None, nan], [True, 8.0])
NUMBER = kinds([0.0, 1.0, ("np.float32(1)", lambda a: np.float32(1))], [-1.0, nan, inf, "a", None, 1j])

SETTINGS = {
    "steps": COUNT,
    "restarts": COUNT,
    "rounds": COUNT,
    "polish": COUNT,
    "draws": COUNT,
    "starts": COUNT,
    "batch_size": kinds([1, 2, 100, 2**40, ("np.int64(2)", lambda a: np.int64(2))], [0, -1, 1.5, "8", None, nan, [2]], [True, 2.0, ("tensor(2)", lambda a: torch.tensor(2))]),
    "seed": kinds([0, 7, -1, 2**70, ("np.int64(-3)", lambda a: np.int64(-3)), ("one for each", lambda a: torch.arange(a.n) - 1), ("int32", lambda a: torch.arange(a.n, dtype=torch.int32))],
                  [1.5, "0", None, nan, [0, 1], ("too many", lambda a: torch.arange(a.n + 1)), ("float tensor", lambda a: torch.rand(a.n, generator=torch.Generator().manual_seed(0))),
                   ("a generator", lambda a: torch.Generator()), ("on meta", lambda a: torch.arange(a.n, device="meta"))], [True, 2.0, ("tensor(3)", lambda a: torch.tensor(3)), ("uint8", lambda a: torch.arange(a.n, dtype=torch.uint8))]),
    "target": kinds([None, 2, ("tensor(2)", lambda a: torch.tensor(2)), ("one for each", lambda a: (a.y + 1) % K), ("np.int64(2)", lambda a: np.int64(2))],
                    ["cat", K, -1, 2.0, nan, ("the right label", lambda a: a.y), ("too many", lambda a: torch.full((a.n + 1,), 2)), ("float tensor", lambda a: torch.full((a.n,), 2.0)),
                     ("on meta", lambda a: torch.full((a.n,), 2, device="meta"))], [True, ("a list", lambda a: [2] * a.n)]),
    "step_size": LENGTH,
    "keep": kinds(["best", "last"], ["first", None, 1]),
    "start": kinds(["here", "random", ("points", lambda a: (a.x + 0.05).clamp(0, 1))], ["there", None, 0, ("one point", lambda a: a.x[:1]), ("outside", lambda a: a.x + 2), ("NaN", lambda a: a.x * nan),
                   ("uint8", lambda a: a.x.byte()), ("NumPy", lambda a: a.x.numpy())]),
    "stop": kinds([inf, 0.5], [nan, "a", None, [1]]),
    "patience": COUNT,
    "decay": kinds([1.0, 0.1], [0, -1, 2, nan, "a", None]),
    "autocast": kinds([None, "auto", torch.bfloat16], ["fast", 16, True], [torch.float16, torch.float32, torch.int8]),
    "margin": kinds([False, True], [], [1, 0, None]),
    "theta": kinds([1.0, -0.5, 0.3], [0, 2, nan, "a", None]),
    "kappa": NUMBER,
    "weight": kinds([0.0, 1.0], [nan, "a", None], [-1.0, inf]),
    "lam": NUMBER,
    "gamma": kinds([0.05, 0.5], [0, 1, -1, nan, "a", None]),
    "c": kinds([1.0, 10], [0, -1, nan, inf, "a", None]),
    "p": SHARE,
    "level": SHARE,
    "share": kinds([0.5, 1], [0, 1.5, -1, nan, "a", None]),
    "xi": kinds([0.1, 1], [-0.1, 8, nan, "a", None, 1j], [0, True, ("Linf(.1)", lambda a: Linf(0.1)), ("L2(1)", lambda a: L2(1.0)), ("numbers", lambda a: each(a, 0.2)), ("np.float32", lambda a: np.float32(0.1))]),
    "norm": kinds([2, inf], ["a", None, nan], [1, 0, -1, 3]),
    "weights": kinds([("(10.,)", lambda a: (10.0,)), ("(1, 10)", lambda a: (1, 10))], [[], [10, 1], [-1], ["a"], [nan], None, 5]),
    "alpha": kinds([1.0, 2, inf], [0, -1, nan, "a", None]),
    "offsets": kinds([[0.5], [0.1, -0.2]], [2, nan, "a", None, [], [nan], [[0.1]], 1j], [0, 0.5, ("tensor", lambda a: torch.tensor([0.1])), ("NumPy", lambda a: np.array([0.1])), ("np.float32", lambda a: np.float32(0.5))]),
    "positions": kinds([[0.0, 0.5, 1.0]], [[], [2.0], [nan], "a", None, 0.5, [[0.5]]], [("tensor", lambda a: torch.tensor([0.1]))]),
    "sigma2": kinds([1.0, 2, ("np.float32(1)", lambda a: np.float32(1))], [0, -1, nan, inf, "a", None]),
    "per_class": kinds([None, 1, 2], [0, -1, 1.5, "a"], [True, 2.0]),
    "eta": kinds([0.0, -3, ("one for each class", lambda a: torch.zeros(K))], [nan, "a", None, ("too many", lambda a: torch.zeros(K + 1)), ("a column", lambda a: torch.zeros(K, 1))], [inf]),
    "w": BITS,
    "a": BITS,
    "g": BITS,
    "bits": BITS,
    "objective": kinds([("LogConfidence(0)", lambda a: LogConfidence(0)), ("LogConfidence of each", lambda a: LogConfidence(a.y)), ("CrossEntropy", lambda a: CrossEntropy(a.y)),
                        ("Margin", lambda a: Margin(a.y)), ("WrongConfidence", lambda a: WrongConfidence(a.y)), ("Lead", lambda a: Lead(2)), ("LogOdds", lambda a: LogOdds(2)),
                        ("own", lambda a: lambda logits, z: logits[:, 0] - z.mean((1, 2, 3)))],
                       [None, "margin", ("label too high", lambda a: Margin(K)), ("label None", lambda a: Margin(None)), ("labels too many", lambda a: Margin(torch.zeros(a.n + 1, dtype=torch.int64))),
                        ("labels float", lambda a: CrossEntropy(a.y.float())), ("label a word", lambda a: LogConfidence("cat")), ("a class", lambda a: Margin), ("a scalar", lambda a: lambda logits, z: logits.sum()),
                        ("a list", lambda a: lambda logits, z: logits[:, 0].tolist()), ("None for a value", lambda a: lambda logits, z: None)],
                       [("constant", lambda a: lambda logits, z: z.new_zeros(len(z))), ("NaN", lambda a: lambda logits, z: logits[:, 0] * nan), ("labels of NumPy", lambda a: Margin(a.y.numpy()))]),
    "rank": kinds([None, ("Margin", lambda a: Margin(a.y))], ["margin", ("a scalar", lambda a: lambda logits, z: logits.sum())]),
    "rule": kinds([("Steepest", lambda a: Steepest()), ("momentum", lambda a: Steepest(0.9)), ("Halving", lambda a: Halving()), ("Adam", lambda a: Adam()), ("DDN", lambda a: DDN()), ("OneFeature", lambda a: OneFeature())],
                  [None, "pgd", ("a class", lambda a: Steepest), ("an optimiser", lambda a: torch.optim.Adam([torch.zeros(1, requires_grad=True)]))], [("tanh", lambda a: Adam("tanh"))]),
    "probabilities": kinds([("good", lambda a: pixels(4, (K,)).softmax(1)), ("float64", lambda a: pixels(4, (K,)).double().softmax(1))],
                           [("logits", lambda a: pixels(4, (K,)) * 9), ("NaN", lambda a: pixels(4, (K,)) * nan), ("one class", lambda a: torch.ones(4, 1)), ("a row", lambda a: torch.tensor([0.5, 0.5])), None, [[0.5, 0.5]],
                            ("NumPy", lambda a: np.full((2, 2), 0.5)), ("negative", lambda a: torch.tensor([[1.5, -0.5]])), ("complex", lambda a: torch.tensor([[0.5, 0.5 + 0j]])), ("on meta", lambda a: torch.ones(2, 2, device="meta"))],
                           [("none", lambda a: torch.ones(0, 2)), ("float16", lambda a: torch.full((2, 2), 0.5).half()), ("whole", lambda a: torch.tensor([[1, 0]]))]),
    "vectors": kinds([("good", lambda a: pixels(a.n, (5,))), ("float64", lambda a: pixels(a.n, (5,)).double()), ("float16", lambda a: pixels(a.n, (5,)).half()), ("requires grad", lambda a: pixels(a.n, (5,)).requires_grad_()),
                      ("equal", lambda a: torch.ones(a.n, 5))],
                     [("NaN", lambda a: pixels(a.n, (5,)) * nan), ("flat", lambda a: torch.ones(a.n)), ("images", lambda a: a.x), ("too many", lambda a: pixels(a.n + 1, (5,))), ("none", lambda a: torch.ones(0, 5)), None, [[1.0]],
                      ("NumPy", lambda a: np.ones((a.n, 5))), ("complex", lambda a: torch.ones(a.n, 5) * 1j), ("on meta", lambda a: torch.ones(a.n, 5, device="meta"))], [("whole", lambda a: torch.ones(a.n, 5, dtype=torch.int64)),
                     ("no values", lambda a: torch.ones(a.n, 0))]),
    "scores": kinds([("good", lambda a: np.array([0.1, 0.7])), ("a tensor", lambda a: torch.tensor([0.1, 0.7])), ("infinite", lambda a: np.array([inf, 0.0])), [0.1, 0.2]], [("none", lambda a: np.array([])), ("NaN", lambda a: np.array([nan])), "a", None,
                    ("complex", lambda a: np.array([1j])), ("on meta", lambda a: torch.ones(2, device="meta"))], [0.5, ("bool", lambda a: np.array([True])), ("a column", lambda a: np.ones((2, 1)))]),
    "hits": kinds([0, 3, ("np.int64(2)", lambda a: np.int64(2))], [-1, 11, "a", None, nan, [1]], [2.0, 2.5, True]),
}


@contextlib.contextmanager
def default(name: str, value: Any, usual: Any):
    "One of PyTorch's defaults for the length of a block"
    getattr(torch, name)(value)
    try:
        yield
    finally:
        getattr(torch, name)(usual)


@contextlib.contextmanager
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def within(manager: Callable) -> Kind:
    "A circumstance that is a block of a `with` statement"
    def run(call: Callable[[], Any]) -> Any:
        with manager():
            return call()

    return good(run)


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


CONTEXTS = {
    "plain": within(contextlib.nullcontext),
    "no_grad": within(torch.no_grad),
    "inference_mode": within(torch.inference_mode),
    "default dtype float64": within(lambda: default("set_default_dtype", torch.float64, torch.float32)),
    "default dtype bfloat16": within(lambda: default("set_default_dtype", torch.bfloat16, torch.float32)),
    "default device meta": within(lambda: torch.device("meta")),
    "autocast": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "deterministic algorithms": within(lambda: default("use_deterministic_algorithms", True, False)),
    "anomaly mode": within(lambda: torch.autograd.detect_anomaly(check_nan=False)),
    "NumPy raises": within(lambda: np.errstate(all="raise")),
    "warnings are errors": within(strict),
    "in a thread": good(in_a_thread),
    "saved tensors packed": within(lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)),
}
