"""One case from its number, and its verdict."""

import ast
import contextlib
import functools
import itertools
import os
import random
import signal
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

import confnb
from confnb.found import Found
from confnb.sets import L0, L1, L2, Linf

from .functions import FUNCTIONS, Function, set_of
from .ingredients import CONTEXTS, IMAGES, LABELS, SETS, SETTINGS, N, labels, pixels
from .models import MODELS, Kind, OwnError, made

LIBRARY = Path(confnb.__file__).resolve().parent
FAULTS = ("unclear", "wrong", "taken", "refused", "hang", "crash")
VERDICTS = ("right", "clear", "own", *FAULTS)
PLACES = {"model": MODELS, "x": IMAGES, "y": LABELS, "ball": SETS}
USUAL = {"model": ("plain", "convolution, eval mode"), "x": ("good",), "y": ("good",), "ball": ("Linf(0.1)", "L2(0.5)", "Linf(each(n, 0.2))"), "context": ("plain",)}
PAIRED = ("pgd", "max_confidence", "evaluate")  # for these also every pair of model, image, label and circumstances
SECONDS = 20


class Hang(BaseException):
    "The alarm"


@dataclass(frozen=True)
class Case:
    "A function and a kind for each of its ingredients; `odd` are those that were chosen, the others are usual"

    number: int
    function: str
    kinds: dict[str, str]
    odd: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    "What became of a case"

    case: Case
    verdict: str
    error: str = ""
    says: str = ""


# cases


def table(place: str) -> dict[str, Kind]:
    "The kinds that an ingredient can be of"
    return CONTEXTS if place == "context" else PLACES.get(place) or SETTINGS[place]


def places(name: str) -> list[str]:
    "What can be varied in the call of a function"
    f = FUNCTIONS[name]
    return [p for p in f.takes.split() if p in PLACES] + ["context", *f.varied.split()]


@functools.cache
def grid(seed: int) -> list[tuple[str, dict[str, str]]]:
    "Every kind of every ingredient of every function alone, shuffled; then the pairs for some functions, shuffled"
    singles = [(f, {p: k}) for f in FUNCTIONS for p in places(f) for k in table(p)]
    pairs = [(f, {p: k, q: m}) for f in PAIRED for p, q in itertools.combinations(("model", "x", "y", "context"), 2) for k in table(p) for m in table(q)]
    for part in singles, pairs:
        random.Random(seed).shuffle(part)
    return singles + pairs


def case(seed: int, number: int) -> Case:
    "Two of three cases are the next ones of the grid, the third is drawn: a function with up to three odd ingredients"
    rng, every = random.Random(f"{seed} {number}"), grid(seed)
    if number % 3 < 2:
        name, odd = every[(number - number // 3) % len(every)]
    else:
        name = rng.choice(list(FUNCTIONS))
        chosen = rng.sample(places(name), min(rng.choice((1, 2, 2, 3)), len(places(name))))
        odd = {p: rng.choice([k for k in table(p) if rng.random() < 0.5 or table(p)[k].expect != "bad"] or list(table(p))) for p in chosen}
    usual = {p: rng.choice(USUAL[p]) for p in places(name) if p in USUAL} | ({"ball": "Linf(0.1)"} if "linf" in FUNCTIONS[name].traits else {})
    return Case(number, name, usual | odd, odd)


def expected(case: Case) -> str:
    "What is expected of a case: the worst of what is expected of its ingredients, some of which do not suit the function"
    f, kinds = FUNCTIONS[case.function], {p: table(p)[k] for p, k in case.kinds.items()}
    no_class = "bounds" in f.traits and case.kinds["y"] == "None"  # a certificate takes images of no class
    unused = "copies" in f.traits and case.kinds["model"] not in USUAL["model"]  # no layer of the model may have activations to quantise
    expect = {"either" if no_class and p == "y" or unused and p == "a" else k.expect for p, k in kinds.items()}
    of = {p: k.traits.split() for p, k in kinds.items()}
    set_kind = set(of.get("ball", [])) if kinds.get("ball") and kinds["ball"].expect == "good" else set()
    if "linf" in f.traits.split() and set_kind:
        takes = {"Li", "BO"} | ({"L2"} if "l2" in f.traits.split() else set())
        expect |= set() if set_kind & takes else {"bad"} if set_kind & {"L0", "L1", "L2"} else {"either"}  # a family is searched in its own way
    unsuited = ("hidden" in f.traits and "deaf" in of["model"], "copies" in f.traits and case.kinds["model"] not in USUAL["model"],
                "shell" in f.traits and {"flat", "batch"} & set(of["model"]), "bounds" in f.traits, "linf" in f.traits and "|" in case.kinds["ball"])
    return "bad" if "bad" in expect else "either" if "either" in expect or any(unsuited) else "good"


# the state that a call must leave as it was


def content(t: torch.Tensor) -> Any:
    "What is in a tensor, to compare"
    try:
        return t.dtype, t.shape, t.requires_grad, t.is_leaf and t.grad is None, t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except Exception:  # on meta, sparse, uninitialised
        return id(t), t.requires_grad


def tensors(thing: Any) -> Iterator[torch.Tensor]:
    "Every tensor in an ingredient"
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors(value)
    elif is_dataclass(thing) and not isinstance(thing, type):
        for f in fields(thing):
            yield from tensors(getattr(thing, f.name))


def state(a: types.SimpleNamespace) -> dict[str, Any]:
    "All that belongs to the caller"
    seen: dict[str, Any] = {
        "PyTorch's generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's generator": str(np.random.get_state(legacy=False)["state"]),
        "Python's generator": hash(random.getstate()),
        "default dtype": torch.get_default_dtype(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    for name, thing in vars(a).items():
        for t in tensors(thing):
            seen[f"the {name}"] = (seen.get(f"the {name}"), content(t))
        if isinstance(thing, np.ndarray):
            seen[f"the {name}"] = thing.tobytes()
    if isinstance(a.model, torch.nn.Module):
        for kind, every in ("parameters", a.model.named_parameters()), ("buffers", a.model.named_buffers()):
            seen[f"the model's {kind}"] = [(name, id(t), content(t)) for name, t in every]
        seen["the model's modes"] = [m.training for m in a.model.modules()]
        seen["the model's hooks"] = [(*getattr(m, "_forward_hooks", ()), *getattr(m, "_forward_pre_hooks", ()), *getattr(m, "_backward_hooks", ()))
                                     for m in a.model.modules()]
    return seen


# what is true of a result


def ask(a: types.SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
    "The model's own answer, softmax in float64"
    modes = [(m, m.training) for m in a.model.modules()]
    dtype = next((p.dtype for n, p in a.model.named_parameters() if n != "aside" and p.is_floating_point()), torch.float32)
    for m, _ in modes:
        m.training = False
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = a.model(x.detach().clone().to(dtype))
    for m, mode in modes:
        m.training = mode
    return getattr(logits, "logits", logits).double().softmax(1)


def inside(ball: Any, z: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> bool:
    "Whether points (N, D) lie in the set around x"
    if not isinstance(ball, Linf | L2 | L1 | L0):
        return not hasattr(ball, "contains") or bool(ball.contains(*(torch.from_numpy(v).float().reshape(-1, *shape) for v in (z, x))).all())
    eps = np.asarray(ball.eps.detach().double() if isinstance(ball.eps, torch.Tensor) else ball.eps, float)
    change = np.abs(z - x)
    size = {Linf: change.max(1), L2: np.sqrt((change**2).sum(1)), L1: change.sum(1), L0: (change > 1e-6).sum(1)}[type(ball)]
    return bool((size <= eps * (1 + 1e-6) + 1e-6).all())


def numbers(result: Any) -> list[np.ndarray]:
    "The numbers of a result, times left out"
    if isinstance(result, torch.Tensor):
        return [result.detach().double().numpy()]
    if isinstance(result, pd.DataFrame):
        return [result[c].to_numpy(float) for c in result.columns if c != "seconds" and result[c].dtype != object and result[c].dtype.kind in "biuf"]
    if is_dataclass(result):
        return [n for f in fields(result) if f.name != "seconds" for n in numbers(getattr(result, f.name))]
    if isinstance(result, tuple | list):
        return [n for r in result for n in numbers(r)]
    return [] if result is None or isinstance(result, str) else [np.asarray(result, float)]


def found_in(result: Any) -> Found | None:
    return result if isinstance(result, Found) else getattr(result, "found", None)


def problem(a: types.SimpleNamespace, f: Function, traits: list[str], result: Any) -> str:
    "What is wrong with a result, in words; nothing where nothing is"
    found = found_in(result)
    if any(t.requires_grad for r in (result, found) for t in tensors(r)):
        return "a result requires a gradient"
    if any(np.isnan(n).any() for n in numbers(result)):
        return "NaN in the result"
    if found is None:
        return ""
    z = found.x.double().flatten(1).numpy()
    if found.x.dtype not in (torch.float32, torch.float64) or not np.isfinite(z).all() or z.min() < 0 or z.max() > 1:
        return f"points of {found.x.dtype} from {z.min():.3g} to {z.max():.3g}"
    if "x" in f.takes.split():
        x = a.x.detach().to_dense().double().clamp(0, 1).flatten(1)
        x = x.repeat_interleave(len(z) // len(x), 0).numpy()
        ball = set_of(f.ball(a.settings)) if f.ball else set_of(a.ball)
        if z.shape != x.shape or len(z) % a.n:
            return f"points of shape {tuple(found.x.shape)}"
        if not inside(ball, z, x, tuple(found.x.shape[1:])):
            return f"points outside {type(ball).__name__}"
    if (found.passes < 0).any() or found.passes.dtype != torch.int64:
        return "passes are not counted"
    return "" if {"random", "batch"} & set(traits) or "shell" in f.traits else answers(a, found, 0.03 if "coarse" in traits else 1e-4)


def answers(a: types.SimpleNamespace, found: Found, slack: float) -> str:
    "Whether the confidences are those that the model gives when it is asked again"
    truth = ask(a, found.x)
    if (found.logits.double().softmax(1) - truth).abs().max() > slack:
        return "the logits are not the model's at these points"
    if found.wrong_confidence is None or a.y is None:
        return ""
    wrong = truth.scatter(1, torch.as_tensor(a.y).long()[:, None], 0).amax(1)
    return "the confidence is not the model's at these points" if (found.wrong_confidence - wrong).abs().max() > slack else ""


def differ(one: Any, two: Any, slack: float) -> bool:
    "Whether two results differ; points may where the confidence does not"
    f, g = found_in(one), found_in(two)
    if f is not None and g is not None and slack > 1e-6:
        apart, close = ((f.x - g.x).abs().max() > slack, (f.logits.softmax(1) - g.logits.softmax(1)).abs().max() < 10 * slack)
        return bool(apart and not close)
    pairs = list(zip(numbers(one), numbers(two), strict=True))
    return any(p.shape != q.shape or not np.allclose(p, q, rtol=slack, atol=slack, equal_nan=True) for p, q in pairs)


# whose words an error speaks


@functools.cache
def raises(path: str) -> list[tuple[int, int, tuple[str, ...]]]:
    "The `raise` statements of a file: first and last line, and the words that stand in them"
    found = [n for n in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))) if isinstance(n, ast.Raise) and n.exc]
    return [(n.lineno, n.end_lineno or n.lineno, tuple(c.value for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, str))) for n in found]


def ours(e: BaseException) -> bool:
    "Whether an error is one of the library's own sentences: raised by a statement of its own, whose words it holds"
    last = traceback.extract_tb(e.__traceback__)[-1]
    if type(e).__module__.startswith("confnb."):
        return True
    if not Path(last.filename).resolve().is_relative_to(LIBRARY) or not isinstance(e, TypeError | ValueError | NotImplementedError) or len(str(e)) < 15:
        return False
    words = [w for first, end, w in raises(last.filename) if first <= (last.lineno or 0) <= end]
    return any(not (long := [c for c in w if len(c) > 4]) or any(c in str(e) for c in long) for w in words)


def its_own(e: BaseException, case: Case) -> bool:
    "Whether an error is the model's own, passed on"
    frames = traceback.extract_tb(e.__traceback__)
    own = any("own" in table(p)[k].traits.split() for p, k in case.kinds.items())
    return isinstance(e, OwnError) or own and any(f.name == "_call_impl" for f in frames)


def blamed(says: str, case: Case) -> str:
    "The setting that a refusal begins with, where that is as usual and no odd one is named"
    excused = {*case.odd, "by", *("eps" for p in case.odd if p in ("ball", "xi")), *("targets" for p in case.odd if p in ("objective", "rank"))}
    first = {w for w in says.split()[:3] if len(w) > 1 and (w in SETTINGS or w == "eps")}
    return "" if first & excused or any(p in says for p in case.odd if len(p) > 1) else ", ".join(sorted(first))


# the verdict


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    "No case reads what another has left"
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, CONFNB_CACHE=folder):
        yield


def prepared(case: Case) -> tuple[types.SimpleNamespace, types.SimpleNamespace]:
    "The ingredients of a case without the set, and the good ones that the odd ones are made from"
    f, n, shape = FUNCTIONS[case.function], 1 if case.kinds.get("x") == "one image" else N, random.Random(case.number).choice(((1, 4, 4), (3, 4, 4)))
    good = types.SimpleNamespace(n=n, shape=shape, x=pixels(N, shape)[:n], y=labels(n))
    a = types.SimpleNamespace(n=n, shape=shape, x=pixels(N, shape), model=None, ball=None, settings=dict(f.small))
    a.settings |= {p: SETTINGS[p][case.kinds[p]].make(good) for p in f.varied.split() if p in case.kinds}
    a.x, a.y = IMAGES[case.kinds.get("x", "good")].make(a), LABELS[case.kinds.get("y", "good")].make(good)
    a.model = made(case.kinds["model"], shape) if "model" in case.kinds else None
    return a, good


def run(case: Case) -> Outcome:
    "The verdict on a case, within some time"
    try:
        with own_cache(), alarm(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return verdict(case)
    except Hang:
        return Outcome(case, "hang", "", f"more than {SECONDS} s")


def verdict(case: Case) -> Outcome:
    "The verdict on a case"
    f, expect, (a, good) = FUNCTIONS[case.function], expected(case), prepared(case)

    def call(**more: Any) -> Any:
        return f.call(*(getattr(a, name) for name in f.takes.split()), **a.settings | more)

    before: dict[str, Any] = {}
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            a.ball = SETS[case.kinds["ball"]].make(good) if "ball" in case.kinds else None
            before = state(a)
            result = context(case)(call)
    except Exception as e:
        refused = "clear" if expect != "good" or isinstance(e, Warning) else "refused"
        what = "own" if its_own(e, case) else refused if ours(e) else "unclear"
        if what == "clear" and not isinstance(e, Warning) and (other := blamed(str(e), case)):
            return Outcome(case, "unclear", "", f"blames {other}: {str(e)[:150]}")
        if what != "unclear" and (changed := difference(before, state(a))):
            return Outcome(case, "wrong", "", f"after a refusal, changed: {changed}")
        return Outcome(case, what, type(e).__name__, str(e).strip().partition("\n")[0][:200])
    if expect == "bad":
        bad = ", ".join(f"{p}: {k}" for p, k in case.kinds.items() if table(p)[k].expect == "bad")
        return Outcome(case, "taken", "", f"a result in spite of {bad or 'a set of another norm'}")
    changed = difference(before, state(a))
    says = f"changed: {changed}" if changed else judged(a, f, case, call, result, {w.category.__name__ for w in told})
    return Outcome(case, "wrong" if says else "right", "", says)


def context(case: Case) -> Any:
    "What runs a call in the circumstances of a case"
    return CONTEXTS[case.kinds["context"]].make


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(name for name in before if before[name] != after.get(name))


def judged(a: types.SimpleNamespace, f: Function, case: Case, call: Any, result: Any, told: set[str]) -> str:
    "What is wrong with a result: in itself, when asked for again, and in another batch size"
    traits = MODELS[case.kinds["model"]].traits.split() if "model" in case.kinds else []
    if says := problem(a, f, traits, result):
        return says
    if "climbs" in f.traits and "flat" in traits and case.kinds.get("steps") != "0" and "NoGradient" not in told:
        return "no word on the missing gradient"
    if "random" in traits and "fixes" not in f.traits.split():
        return "" if "RandomAnswers" in told else "no word on the random draws"
    again: dict[str, dict] = {"the same call": {}}
    if "batch_size" in f.varied and "batch_size" not in case.odd and not {"batch", "coarse"} & set(traits) and "branches" not in f.traits:
        again["another batch size"] = {"batch_size": 2}
    for name, more in again.items():
        try:
            if differ(result, context(case)(lambda more=more: call(**more)), 1e-4 if more else 1e-6):
                return f"{name} gives another result"
        except Exception as e:
            return f"{name} fails: {type(e).__name__}: {str(e)[:100]}"
    return ""
