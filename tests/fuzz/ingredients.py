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

from confnb.corruptions import Corruptions
from confnb.exact import Exact
from confnb.objectives import CrossEntropy, LogConfidence, LogOdds, Margin, TargetMargin, WrongConfidence
from confnb.rules import AdamRule, APGDRule, DDNRule, GradientRule, JSMARule
from confnb.sets import BOX, L0, L1, L2, Linf
from confnb.smoothing import Smoothing
from confnb.transforms import Brightness, Contrast, Frame, Patch, Rotate

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


def each(n: int, eps: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    "A radius for each example"
    return torch.linspace(eps, eps / 2, n).to(dtype)


def optimiser() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)])


NAMES = {name: getattr(torch, name) for name in ("tensor", "ones", "zeros", "full", "arange", "float16", "float64", "int32", "int64", "uint8")} | {
    "math": math, "nan": math.nan, "inf": math.inf, "meta": torch.device("meta"), "torch": torch, "np": np, "K": K, "each": each, "pixels": pixels, "optimiser": optimiser,
    **{c.__name__: c for c in (Linf, L2, L1, L0, Rotate, Brightness, Contrast, Frame, Patch, Corruptions, Exact, Smoothing, Margin, WrongConfidence, CrossEntropy, LogConfidence, LogOdds, TargetMargin, GradientRule, APGDRule, AdamRule, DDNRule, JSMARule)}, "BOX": BOX}


def written(goods: str, bads: str, eithers: str = "") -> dict[str, Kind]:
    "Ingredients that are called as they are written, with `n` images `x` and their labels `y`; a set says what norm it is of"
    return {text: Kind(lambda a, text=text: eval(text, NAMES | vars(a)), expect, text[:2])
            for expect, texts in (("good", goods), ("bad", bads), ("either", eithers)) for text in texts.split("; ") if text}


SETS = written(
    "Linf(0.1); L2(0.5); L0(3); BOX; L2(5.0); L0(1000); L0(10); Linf(each(n, 0.2)); L2(each(n, 0.6)); L0(arange(n) + 1); Linf(tensor(0.1)); Linf(1e-6); "
    "Linf(each(n, 0.2, float64)); Linf(each(n, 0.25, float16)); Linf(each(n, 0.2).requires_grad_()); L2(tensor(0.5, requires_grad=True)); Linf(np.float64(0.1)); "
    "L1(2.0); L1(each(n, 1.0)); Linf(0.1) | L2(0.3); Linf(0.05) | L1(1.0) | L0(2); Rotate(20); Rotate(0, shift=1); Brightness(0.2); Contrast(0.4); Frame(1); Patch(2); "
    "Corruptions(2); Rotate(10) >> Linf(0.05)",
    "Linf(each(n, 0.2)[:, None]); L2(full((n + 1,), 0.5)); Linf(zeros(0)); Linf('8/255'); Linf(None); Linf(0.1 + 0j); L2(tensor(0.1 + 0j)); Linf(-0.1); L2(0.0); "
    "L2(nan); L2(inf); Linf(8); L0(2.5); L0('3'); Linf(full((n,), nan)); Linf(full((n,), 0.1, device=meta)); None; 'Linf'; Linf; ('Linf', 0.1); "
    "L1(-1.0); L1(nan); L1('3'); L1(1000); Rotate(200); Rotate('30'); Rotate(nan); Brightness(2); Contrast(-1); Frame(0); Frame(100); Patch(2.5); Patch(100); Corruptions(9); "
    "Corruptions(2, ('rain',)); Linf(0.1) | 3; Linf(0.1) | Linf(nan); Linf(0.1) >> Rotate(10); Rotate(10) >> 0.1; Linf(full((n + 1,), 0.1)) | L2(0.5)",
    "0.1; 1; each(n, 0.2); np.float64(0.1); Linf(np.float32(0.125)); Linf(True); Linf(ones(n, dtype=int64)); Linf(np.full(n, 0.1)); Linf([0.1] * n)")
SHARE = written("0.9; 0.5", "0; -0.1; 1.5; nan; 'a'; None")
COUNT = written("1; 2; np.int64(2)", "-1; 2.5; '3'; nan; inf; [2]", "0; True; None; 2.0; tensor(2)")
BITS = written("1; 4; 32; np.int64(8)", "0; 9; 2.5; '4'; None; nan", "True; 8.0")
NUMBER = written("0.0; 1.0; np.float32(1)", "-1.0; nan; inf; 'a'; None; 1j")
SETTINGS = {
    **dict.fromkeys(("steps", "restarts", "rounds", "polish", "draws", "starts", "patience"), COUNT),
    **dict.fromkeys(("p", "level"), SHARE),
    **dict.fromkeys(("kappa", "lam"), NUMBER),
    **dict.fromkeys(("w", "a", "g", "bits"), BITS),
    "batch_size": written("1; 2; 100; 2**40; np.int64(2)", "0; -1; 1.5; '8'; None; nan; [2]", "True; 2.0; tensor(2)"),
    "seed": written("0; 7; -1; 2**70; np.int64(-3); arange(n) - 1; arange(n, dtype=int32)",
                    "1.5; '0'; None; nan; [0, 1]; arange(n + 1); full((n,), 0.5); torch.Generator(); arange(n, device=meta)", "True; 2.0; tensor(3); arange(n, dtype=uint8)"),
    "target": written("None; 2; tensor(2); (y + 1) % K; np.int64(2)", "'cat'; K; -1; 2.0; nan; y; full((n + 1,), 2); full((n,), 2.0); full((n,), 2, device=meta)", "True; [2] * n"),
    "step_size": written("0.05; 0.3", "-0.1; 0.0; nan; inf; 255; 'a'; [0.1]; 0.1j", "None; each(n, 0.2); each(n, 0.2)[:, None]"),
    "effort": written("'quick'; 'standard'; 'thorough'", "'most'; None; 3"),
    "until": written("None; 0.01; 0.5", "0; 1; -0.1; 'a'; nan"),
    "queries": written("1; 20; np.int64(5)", "0; -1; 2.5; 'a'; None; nan"),
    "targets": written("0; 1; 2", "-1; 1.5; 'a'; None; nan", "5"),
    "by": written("'ibp'; 'crown'; 'crown-ibp'; Exact()", "'proof'; None; 3; nan; Exact", "Smoothing(20)"),
    "keep": written("'best'; 'last'", "'first'; None; 1"),
    "start": written("'here'; 'random'; (x + 0.05).clamp(0, 1)", "'there'; None; 0; x[:, :, 1:]; x + 2; x * nan; x.byte(); x.numpy()"),
    "stop": written("inf; 0.5", "nan; 'a'; None; [1]"),
    "decay": written("1.0; 0.1", "0; -1; 2; nan; 'a'; None"),
    "autocast": written("None; 'auto'; torch.bfloat16", "'fast'; 16; True", "float16; torch.float32; torch.int8"),
    "margin": written("False; True", "", "1; 0; None"),
    "theta": written("1.0; -0.5; 0.3", "0; 2; nan; 'a'; None"),
    "weight": written("0.0; 1.0", "nan; 'a'; None", "-1.0; inf"),
    "gamma": written("0.05; 0.5", "0; 1; -1; nan; 'a'; None"),
    "c": written("1.0; 10", "0; -1; nan; inf; 'a'; None"),
    "xi": written("0.1; 1", "-0.1; 8; nan; 'a'; None; 1j", "0; True; Linf(0.1); L2(1.0); each(n, 0.2); np.float32(0.1)"),
    "norm": written("2; inf", "'a'; None; nan", "1; 0; -1; 3"),
    "weights": written("(10.0,); (1, 10)", "[]; [10, 1]; [-1]; ['a']; [nan]; None; 5"),
    "alpha": written("1.0; 2; inf", "0; -1; nan; 'a'; None"),
    "offsets": written("[0.5]; [0.1, -0.2]", "2; nan; 'a'; None; []; [nan]; [[0.1]]; 1j", "0; 0.5; tensor([0.1]); np.array([0.1]); np.float32(0.5)"),
    "positions": written("[0.0, 0.5, 1.0]", "[]; [2.0]; [nan]; 'a'; None; 0.5; [[0.5]]", "tensor([0.1])"),
    "sigma2": written("1.0; 2; np.float32(1)", "0; -1; nan; inf; 'a'; None"),
    "per_class": written("None; 1; 2", "0; -1; 1.5; 'a'", "True; 2.0"),
    "eta": written("0.0; -3; zeros(K)", "nan; 'a'; None; zeros(K + 1); zeros(K, 1)", "inf"),
    "objective": written(
        "LogConfidence(0); LogConfidence(y); CrossEntropy(y); Margin(y); WrongConfidence(y); TargetMargin(2); LogOdds(2); lambda logits, z: logits[:, 0] - z.mean((1, 2, 3))",
        "None; 'margin'; Margin(K); Margin(None); Margin(zeros(n + 1, dtype=int64)); CrossEntropy(y.float()); LogConfidence('cat'); Margin; lambda logits, z: logits.sum(); "
        "lambda logits, z: logits[:, 0].tolist(); lambda logits, z: None",
        "lambda logits, z: z.new_zeros(len(z)); lambda logits, z: logits[:, 0] * math.nan; Margin(y.numpy())"),
    "rank": written("None; Margin(y)", "'margin'; lambda logits, z: logits.sum()"),
    "rule": written("GradientRule(); GradientRule(0.9); APGDRule(); AdamRule(); DDNRule(); JSMARule()", "None; 'pgd'; GradientRule; optimiser()", "AdamRule('tanh')"),
    "probabilities": written("pixels(4, (K,)).softmax(1); pixels(4, (K,)).double().softmax(1)",
                             "pixels(4, (K,)) * 9; pixels(4, (K,)) * nan; ones(4, 1); tensor([0.5, 0.5]); None; [[0.5, 0.5]]; np.full((2, 2), 0.5); tensor([[1.5, -0.5]]); "
                             "tensor([[0.5, 0.5 + 0j]]); ones(2, 2, device=meta)", "ones(0, 2); full((2, 2), 0.5).half(); tensor([[1, 0]])"),
    "vectors": written("pixels(n, (5,)); pixels(n, (5,)).double(); pixels(n, (5,)).half(); pixels(n, (5,)).requires_grad_(); ones(n, 5)",
                       "pixels(n, (5,)) * nan; ones(n); x; pixels(n + 1, (5,)); ones(0, 5); None; [[1.0]]; np.ones((n, 5)); ones(n, 5) * 1j; ones(n, 5, device=meta)",
                       "ones(n, 5, dtype=int64); ones(n, 0)"),
    "scores": written("np.array([0.1, 0.7]); tensor([0.1, 0.7]); np.array([inf, 0.0]); [0.1, 0.2]",
                      "np.array([]); np.array([nan]); 'a'; None; np.array([1j]); ones(2, device=meta)", "0.5; np.array([True]); np.ones((2, 1))"),
    "hits": written("0; 3; np.int64(2)", "-1; 11; 'a'; None; nan; [1]", "2.0; 2.5; True"),
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
