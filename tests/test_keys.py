"""The keys of the cache: what differs never shares one, what differs in nothing that matters does, and what a key cannot hold is not remembered."""

import ast
import functools
import hashlib
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import types
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from keys import pairs
from keys.pairs import (
    HEAD,
    NOTED,
    OVERLOOKED,
    OWN,
    SAME,
    Code,
    Mover,
    Tempered,
    Unsaved,
    attack,
    closing,
    flat,
    made,
    net,
)
from torch import nn
from toys import SOAK

import confnb
from confnb import identity
from confnb.attacks import fgsm, pgd
from confnb.images import Data
from confnb.keys import fingerprint
from confnb.losses import CrossEntropyLoss
from confnb.networks import load_or_train
from confnb.runtime import generator
from confnb.sets import Linf
from confnb.tables import evaluate
from confnb.training import Recipe

HERE = Path(__file__).parent / "keys"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache of its own for every test, and no module of the pairs left behind"
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for name in "mine", "mine_helper":
        sys.modules.pop(name, None)


def key(thing):
    "The key of a thing; None where it has none"
    try:
        return fingerprint(thing)
    except TypeError:
        return None


def images(n=4):
    return torch.rand(n, 1, 4, 4, generator=generator(1)), torch.arange(n) % 3


def named(pairs):
    return [pytest.param(p, id=p.name) for p in pairs]


# pairs that differ


@pytest.mark.parametrize("pair", named(NOTED + OWN))
def test_things_that_differ_share_no_key(pair, tmp_path):
    a = key(made(pair.a, tmp_path))
    b = key(made(pair.b, tmp_path))
    assert a is None or a != b
    if pair.must:
        assert a and b


def table(pair, maker, tmp_path, cache):
    "What `evaluate` says of a model, attack or score on four images"
    thing = made(maker, tmp_path)
    model, attacks, scores = {
        "model": (thing, {"a": partial(fgsm, ball=Linf(0.1))} if pair in NOTED or "backward" in pair.name else {}, {}),
        "attack": (flat(), {"a": thing}, {}),
        "score": (flat(), {}, {"s": thing}),
    }[pair.kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(model, *images(), attacks, scores, cache=cache)


SHOWN = [pytest.param(p, id=p.name, marks=SOAK * (i % 6 > 0)) for i, p in enumerate(p for p in NOTED + OWN if p.shows)]


@pytest.mark.parametrize("pair", SHOWN)
def test_the_second_table_is_not_the_firsts(pair, tmp_path):
    first, second = (table(pair, maker, tmp_path, True) for maker in (pair.a, pair.b))
    truth = table(pair, pair.b, tmp_path, False)
    assert not first.equals(truth), "the pair shows no difference"
    pd.testing.assert_frame_equal(second, truth)


@pytest.mark.parametrize("pair", named(OVERLOOKED))
def test_what_a_key_overlooks_is_seen_when_the_table_is_read(pair, tmp_path):
    test_the_second_table_is_not_the_firsts(pair, tmp_path)


def test_there_are_pairs_enough():
    names = [p.name for p in NOTED + OWN]
    assert len(NOTED) >= 60 and len(OWN) >= 40 and len(SAME) >= 20 and len(set(names)) == len(names)


# one thing that changes


def _nonlocal():
    eps = 0.1

    def attack(model, x, y):
        return x + eps

    def change(to):
        nonlocal eps
        eps = to

    attack_and_change.append(change)
    return attack


attack_and_change: list = []


def setting(name, value):
    return lambda thing: setattr(thing, name, value)


CHANGES = [
    ("weight in place", flat, lambda m: m[1].weight.data[0, 0].add_(1)),
    ("attribute", lambda: Tempered(1.0), setting("t", 2.0)),
    ("tensor as an attribute, in place", lambda: Tempered(torch.ones(())), lambda m: m.t.add_(1)),
    ("buffer that is not saved", lambda: Unsaved(1.0), lambda m: m.t.add_(1)),
    ("list of tensors, in place", lambda: pairs.summed([torch.ones(())]), lambda m: m.held[0].add_(1)),
    ("list that grows", lambda: pairs.summed([1.0]), lambda m: m.held.append(1.0)),
    ("dict that grows", lambda: pairs.Reading(len, {}), lambda m: m.held.update(a=1)),
    ("array in place", lambda: pairs.summed(np.ones(2)), lambda m: m.held.__setitem__(0, 2)),
    ("member of an ensemble", lambda: pairs.Ensemble(1, 2), lambda m: m.members[1][1].weight.data.add_(1)),
    ("layer exchanged", flat, lambda m: m.__setitem__(1, nn.Linear(16, 3))),
    ("eps of a batch norm", lambda: pairs.normalized(1e-5), lambda m: setattr(m[0], "eps", 0.1)),
    ("rate of dropout", lambda: pairs.dropping(0.1), lambda m: setattr(m[0], "p", 0.5)),
    ("hook added", flat, lambda m: m.register_forward_hook(pairs.double)),
    ("global", Code(attack("EPS", "EPS = .1")), lambda f: f.__globals__.update(EPS=0.4)),
    ("global of a notebook", Code(attack("EPS", "EPS = .1"), main=True), lambda f: f.__globals__.update(EPS=0.4)),
    (
        "global of a helper",
        Code(attack("help()", "from mine_helper import help"), "K = .1\ndef help():\n    return K\n"),
        lambda f: setattr(sys.modules["mine_helper"], "K", 0.4),
    ),
    ("global list in place", Code(attack("EPS[0]", "EPS = [.1]")), lambda f: f.__globals__["EPS"].append(0.4)),
    (
        "function of a notebook defined again",
        Code(attack("help()", "def help(): return .1"), main=True),
        lambda f: exec("def help(): return .4", f.__globals__),
    ),
    (
        "method of a class exchanged",
        Code(net("return self.base(x)")),
        lambda m: setattr(type(m), "forward", lambda self, x: self.base(x) * 3),
    ),
    ("default", lambda: pairs.with_default(0.1), setting("__defaults__", (0.4,))),
    ("default of a keyword", lambda: pairs.with_keyword(0.1), setting("__kwdefaults__", {"eps": 0.4})),
    (
        "code of a function",
        Code(attack(".1")),
        lambda f: setattr(f, "__code__", f.__code__.replace(co_consts=tuple(0.4 if c == 0.1 else c for c in f.__code__.co_consts))),
    ),
    ("keyword of a partial", lambda: partial(pairs.move, eps=0.1), lambda p: p.keywords.update(eps=0.4)),
    ("object of a bound method", lambda: Mover(0.1).run, lambda f: setattr(f.__self__, "eps", 0.4)),
    ("list that a closure holds", lambda: pairs._closing_list([0.1]), lambda f: f.__closure__[0].cell_contents.append(0.3)),
    ("what a closure holds", _nonlocal, lambda f: attack_and_change[-1](0.4)),
    ("forward of the instance", flat, lambda m: setattr(m, "forward", lambda x: x.flatten(1)[:, :3])),
    ("attribute of a function", lambda: pairs.with_attribute(0.1), setting("eps", 0.4)),
    (
        "a model that becomes another class",
        flat,
        lambda m: setattr(m[1], "__class__", type("Linear", (nn.Linear,), {"forward": lambda self, x: x})),
    ),
]


@pytest.mark.parametrize(("make", "change"), [pytest.param(*c[1:], id=c[0]) for c in CHANGES])
def test_a_thing_that_changes_gets_another_key(make, change, tmp_path):
    thing = made(make, tmp_path)
    before = key(thing)
    with torch.no_grad():
        change(thing)
    assert before is None or before != key(thing)


def test_a_hook_of_all_models_counts():
    before = key(flat())
    handle = nn.modules.module.register_module_forward_hook(pairs.double)
    during = key(flat())
    handle.remove()
    assert before and before != during and before == key(flat())


def test_a_forward_put_into_a_class_of_the_library_counts(monkeypatch):
    before = key(flat())
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x[:, :3] * self.weight[0, 0])
    assert before and before != key(flat())


@pytest.mark.parametrize("kind", ["model", "attack"])
def test_a_file_edited_while_a_process_runs_counts_as_it_was_loaded(kind, tmp_path):
    text = net("return self.base(x) * 1") if kind == "model" else attack("1 * .1")
    old = Code(text)(tmp_path)
    first = key(old)
    Path(tmp_path / "mine.py").write_text(text.replace("1 *", "3 *").replace("* 1", "* 3"))
    second = key(old)  # the old code, beside the new text
    new = Code(text.replace("1 *", "3 *").replace("* 1", "* 3"))(tmp_path)
    third = key(new)
    assert third and third not in (first, second)
    assert second in (first, None)


def test_a_class_first_met_after_its_file_was_edited_counts_with_the_code_that_runs(tmp_path):
    text = net("return self.base(x) * 1")
    old = Code(text)(tmp_path)
    Path(tmp_path / "mine.py").write_text(text.replace("* 1", "* 3"))
    first = key(old)
    assert first is None or first != key(Code(text.replace("* 1", "* 3"))(tmp_path))


# pairs that differ in nothing that matters


@pytest.mark.parametrize(("a", "b"), [pytest.param(*s[1:], id=s[0]) for s in SAME])
def test_what_differs_in_nothing_that_matters_shares_its_key(a, b, tmp_path):
    first = key(made(a, tmp_path))
    assert first and first == key(made(b, tmp_path))


def _loop():
    held = [1]
    held.append(held)
    return held


def _parent(k):
    model = Tempered(k)
    model.family = [model]
    return model


def _recursive(k):
    def attack(model, x, y, n=3):
        return attack(model, x + k, y, n - 1) if n else x

    return attack


@pytest.mark.parametrize(
    "make", [lambda k: [k, _loop()], _parent, _recursive, lambda k: Mover(_parent(k))], ids=["list", "model", "function", "object"]
)
def test_a_thing_that_holds_itself_has_a_key_or_none(make):
    assert key(make(1.0)) == key(make(1.0))
    assert key(make(1.0)) is None or key(make(1.0)) != key(make(2.0))


# Hypothesis


@dataclass(frozen=True)
class Both:
    left: object
    right: object


def no_function(*things, **more):
    return things, more


TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
LEAVES = st.one_of(
    st.tuples(st.just("int"), st.integers(-(2**70), 2**70)),
    st.tuples(st.just("float"), st.floats(allow_nan=False).map(lambda v: v + 0.0)),
    st.tuples(st.just("text"), st.text(max_size=4)),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("none"), st.none()),
    st.tuples(st.just("dtype"), st.sampled_from(TYPES)),
    st.tuples(st.just("tensor"), st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 1), min_size=1, max_size=3).map(tuple))),
    st.tuples(st.just("array"), st.lists(st.integers(-3, 3), min_size=1, max_size=3).map(tuple)),
    st.tuples(st.just("scalar"), st.integers(-5, 5)),
)
TREES = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.tuples(st.just("list"), st.lists(inside, max_size=3)),
        st.tuples(st.just("tuple"), st.lists(inside, max_size=3)),
        st.tuples(st.just("dict"), st.dictionaries(st.text("abc", max_size=2), inside, max_size=3)),
        st.tuples(st.just("dataclass"), st.lists(inside, min_size=2, max_size=2)),
        st.tuples(st.just("partial"), st.lists(inside, max_size=2)),
        st.tuples(st.just("closure"), st.lists(inside, min_size=1, max_size=1)),
        st.tuples(st.just("object"), st.lists(inside, min_size=1, max_size=1)),
    ),
    max_leaves=8,
)
INNER = ("list", "tuple", "dict", "dataclass", "partial", "closure", "object")


def built(tree):
    "The thing that a tree describes, made afresh"
    kind, value = tree
    if kind in INNER:
        parts = {k: built(v) for k, v in value.items()} if kind == "dict" else [built(v) for v in value]
        make = {"list": list, "tuple": tuple, "dict": lambda p: dict(reversed(p.items())), "dataclass": lambda p: Both(*p)}
        make |= {
            "partial": lambda p: partial(no_function, *p, **dict(zip("ab", p, strict=False))),
            "closure": lambda p: closing(p[0]),
            "object": lambda p: Mover(p[0]).run,
        }
        return make[kind](parts)
    if kind == "tensor":
        return torch.tensor(value[1]).to(value[0])
    return {"array": np.array, "scalar": np.float32}.get(kind, lambda v: v)(value)


def leaves(tree, way=()):
    kind, value = tree
    if kind not in INNER:
        return [way]
    inside = value.items() if kind == "dict" else enumerate(value)
    return [leaf for place, part in inside for leaf in leaves(part, (*way, place))]


def swapped(tree, way, leaf):
    if not way:
        return leaf
    kind, value = tree
    inside = dict(value) if kind == "dict" else list(value)
    inside[way[0]] = swapped(inside[way[0]], way[1:], leaf)
    return kind, inside


def at(tree, way):
    return functools.reduce(lambda t, place: t[1][place], way, tree)


def alike(a, b):
    "Whether two leaves may share a key: the same one, or a number and an array that say the same in another type"
    return (a[0] == b[0] and repr(a) == repr(b)) or "scalar" in (a[0], b[0]) and a[0] != b[0] or {a[0], b[0]} == {"tensor", "array"}


@given(tree=TREES)
@settings(max_examples=60)
def test_equal_structures_share_a_key(tree):
    first = key(built(tree))
    assert first and first == key(built(tree))
    assert first != key([built(tree)])


@given(data=st.data(), tree=TREES.filter(leaves))
@settings(max_examples=100)
def test_structures_with_another_leaf_share_none(data, tree):
    way = data.draw(st.sampled_from(leaves(tree)))
    old = at(tree, way)
    leaf = data.draw(LEAVES.filter(lambda new: not alike(old, new)))
    assert key(built(tree)) != key(built(swapped(tree, way, leaf)))


@given(
    dtype=st.sampled_from([t for t in TYPES if t.is_floating_point]), place=st.integers(0, 15), up=st.booleans(), persistent=st.booleans()
)
@settings(max_examples=40)
def test_one_bit_of_one_value_of_a_model_counts(dtype, place, up, persistent):
    model = flat().to(dtype)
    model.register_buffer("more", torch.ones(16, dtype=dtype), persistent=persistent)
    first = key(model)
    model.more[place] = (
        torch.nextafter(model.more[place], torch.tensor(2.0 if up else 0.0, dtype=dtype)) if dtype != torch.float16 else 1 + 2.0**-10
    )
    assert first and first != key(model)


# another process, another hash seed, another folder, and files that were edited

COMMENTS = [  # (file, old, new): nothing that matters
    ("mine_helper.py", "Images, brighter.", "Images that are brighter."),
    ("mine_helper.py", "  # no more than that", "  # and no more"),
    ("mine_helper.py", "def stretch", "\n# a remark\n\ndef stretch"),
    ("mine_helper.py", "return f(self, x) * k + 0.5", "return (f(self, x) * k) + 0.5"),
    ("mine.py", '"""Logits."""', '"""Logits, three of them."""'),
    ("mine.py", "# the base class knows by how much", "# as the base class says"),
    ("mine.py", '"""Points."""', ""),
    ("mine.py", "Models, attacks and losses", "Losses, attacks and models"),
    ("script.py", "  # a comment", ""),
    ("script.py", "A model of the script, with a constant beside it.", "A model."),
    ("script.py", "return (x + 0.0625).clamp(0, 1)", "return (\n        x + 0.0625\n    ).clamp(0, 1)"),
]
EDITS = [  # each of them changes a thing of the script
    ("mine_helper.py", "FACTOR = 2.0", "FACTOR = 3.0"),
    ("mine_helper.py", "OFFSET = 0.25", "OFFSET = 0.5"),
    ("mine_helper.py", "x + 0.125", "x + 0.25"),
    ("mine_helper.py", "output * 2.5", "output * 3.5"),
    ("mine_helper.py", "* k + 0.5", "* k - 0.5"),
    ("mine_helper.py", "return 1.75", "return 2.75"),
    ("mine.py", "POWER = 3", "POWER = 5"),
    ("mine.py", "* 1.25", "/ 1.25"),
    ("mine.py", "0.5 * self.eps", "0.75 * self.eps"),
    ("mine.py", "self.eps * 1.5", "self.eps * 2.5"),
    ("mine.py", "label_smoothing=0.125", "label_smoothing=0.5"),
    ("script.py", "GAIN = 2.25", "GAIN = 3.25"),
    ("script.py", "x * 1.125", "x * 1.25"),
    ("script.py", "+ 0.375", "- 0.375"),
    ("script.py", "x + 0.0625", "x + 0.125"),
    ("script.py", "closing(0.3125)", "closing(0.5)"),
    ("script.py", "0.4375", "0.5"),
]


def _redocumented(text):
    "The same code with another comment at its beginning and other docstrings of its functions"
    lines = text.splitlines(True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and lines[node.body[0].lineno - 1].lstrip().startswith('"""'):
            row = node.body[0].lineno - 1
            lines[row] = lines[row].replace('"""', '"""Well: ', 1)
    return "# another remark\n" + "".join(lines)


def _folder(place, edits, library=None):
    "A folder with the script and its modules, edited, and where `library` is given a copy of the library, changed by it"
    place.mkdir()
    for name in "mine.py", "mine_helper.py", "script.py":
        shutil.copy(HERE / name, place / name)
    for name, old, new in edits:
        text = (place / name).read_text()
        assert text.count(old) == 1, (name, old)
        (place / name).write_text(text.replace(old, new))
    if library:
        shutil.copytree(Path(confnb.__file__).parent, place / "confnb", ignore=shutil.ignore_patterns("reference", "*.ipynb"))
        library(place / "confnb")


def _other_comments(package):
    for name in "cache", "training", "search", "models", "tables", "attacks":
        path = package / f"{name}.py"
        path.write_text(_redocumented(path.read_text()))


def _other_library(package):
    for name, old, new in (
        ("losses", "pairing * F.mse_loss", "3 * pairing * F.mse_loss"),
        ("sets", "(2 * uniform(seeds, x) - 1)", "(1.5 * uniform(seeds, x) - 1)"),
    ):
        path = package / f"{name}.py"
        text = path.read_text()
        assert old in text, f"{name}.py has no {old!r} any more: choose another edit"
        path.write_text(text.replace(old, new))


def _process(home, name, seed):
    where = home / name
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "CONFNB_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    library = where if (where / "confnb").exists() else Path(confnb.__file__).parent.parent
    environment["PYTHONPATH"] = str(library)
    return subprocess.Popen(
        [sys.executable, "script.py", str(home / f"{name}-afresh")],
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _said(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    "What three processes say: the first, one with other comments in another folder under another hash seed, one with other code"
    home = tmp_path_factory.mktemp("processes")
    _folder(home / "one", [])
    _folder(home / "comments", COMMENTS, _other_comments)
    _folder(home / "edited", EDITS, _other_library)
    first = _said(_process(home, "one", 1))
    others = [_process(home, "comments", 2), _process(home, "edited", 3)]
    return types.SimpleNamespace(first=first, comments=_said(others[0]), edited=_said(others[1]))


THINGS = [
    line.split('"')[1]
    for line in (HERE / "script.py").read_text().splitlines()
    if line.startswith(('    "script: ', '    "module: ', '    "plain: ', '    "loose: '))
]
TABLES = ["evaluated: own attack", "evaluated: attack of the library", "trained: own loss", "trained: loss of the library"]


@pytest.mark.parametrize("name", THINGS)
def test_another_process_hash_seed_folder_and_comment_share_the_key(processes, name):
    first = processes.first["keys"][name]
    assert first == processes.comments["keys"][name]
    assert first or name.startswith("loose")


@pytest.mark.parametrize("name", [t for t in THINGS if t.startswith(("script", "module"))])
def test_an_edit_between_two_processes_changes_the_key(processes, name):
    first = processes.first["keys"][name]
    assert first is None or first != processes.edited["keys"][name]


@pytest.mark.parametrize("name", TABLES)
def test_a_result_survives_comments_and_not_an_edit(processes, name):
    numbers, calls = processes.first["first"][name]
    again, few = processes.comments["first"][name]
    assert again == numbers == processes.first["afresh"][name][0]
    assert few <= (2 if "evaluated" in name else 0) < calls or "library" in name  # of an attack, two rows are asked again
    edited, truth = processes.edited["first"][name][0], processes.edited["afresh"][name][0]
    assert edited == truth != numbers
    assert not processes.comments["warnings"]


# trainings


class Scaled(nn.Module):
    def __init__(self, inside, classes, p, k):
        super().__init__()
        self.base, self.p, self.k = nn.Sequential(nn.Flatten(), nn.Linear(inside, classes)), p, k

    def forward(self, x):
        return self.k * self.base(F.dropout(x, self.p, self.training))


def network(shape, classes, p=0.0, k=1.0):
    return Scaled(shape[0] * shape[1] * shape[2], classes, p, k)


def tiny(seed=1, n=12):
    x, y = torch.rand(n, 1, 4, 4, generator=generator(seed)), torch.arange(n) % 3
    return Data(x, y, x, y, x, y, 3, "tiny")


STEPS = Recipe(steps=2, batch_size=6, rate=0.1)


def weights(name=network, loss=CrossEntropyLoss(), data=None, recipe=STEPS, seed=0, **more):  # noqa: B008
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_or_train(name, data or tiny(), loss, recipe, seed, "cpu", **more)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Weighted:
    def __init__(self, k):
        self.k = k

    def loss(self, model, x, y, rng, progress):
        return F.cross_entropy(model(x), y, label_smoothing=self.k)

    def __call__(self, *args):
        return self.loss(*args)


def smoothed(model, x, y, rng, progress, k=0.0):
    return F.cross_entropy(model(x), y, label_smoothing=k)


def closed(k):
    def loss(model, x, y, rng, progress):
        return F.cross_entropy(model(x), y, label_smoothing=k)

    return loss


LOSS = (
    HEAD
    + "K = 0.\ndef far(a, b):\n    return F.cross_entropy(a, b, label_smoothing=.1)\ndef thing(model, x, y, rng, progress):\n    return F.cross_entropy(model(x), y, label_smoothing={})\n"
)
CALLED = (
    HEAD
    + "@dataclass(frozen=True)\nclass Own:\n    k: float = 1.\n    def __call__(self, model, x, y, rng, progress):\n        return F.cross_entropy(1 * model(x), y)\nthing = Own()\n"
)
MARGIN = HEAD + "def thing(model, x, y, rng, progress):\n    return F.cross_entropy(model(x), y)\n"
NETWORK = net("return self.base(x) * 1").replace("thing = Net()", "def thing(shape, classes): return Net()")


def lesson(name, a, b, must=True, role="loss"):
    return pytest.param(a, b, must, role, id=name)


def differs(make, a, b):
    return partial(make, a), partial(make, b)


@pytest.mark.parametrize(
    ("a", "b", "must", "role"),
    [
        # the nine of the notes (A2); the one on the library's own loss is `test_a_result_survives_comments_and_not_an_edit`
        lesson("functional dropout", *differs(lambda p: {"p": p}, 0.0, 0.9)),
        lesson("scale in forward", *differs(lambda k: {"k": k}, 1.0, 9.0)),
        lesson("loss: constant", Code(LOSS.format(".1")), Code(LOSS.format(".4"))),
        lesson(
            "loss: another function called",
            Code(CALLED.replace("1 *", "")),
            Code(CALLED.replace("1 *", "").replace("cross_entropy", "multi_margin_loss")),
        ),
        lesson("loss: another function called by name", Code(MARGIN), Code(MARGIN.replace("cross_entropy", "multi_margin_loss"))),
        lesson("loss: changed global", Code(LOSS.format("K")), Code(LOSS.format("K"), after=pairs.put("K", 0.4))),
        lesson("loss: call of a dataclass edited", Code(CALLED), Code(CALLED.replace("1 * model", "3 * model"))),
        lesson("loss: bound method", *differs(lambda k: {"loss": Weighted(k).loss}, 0.0, 0.4)),
        lesson("architecture: forward edited", Code(NETWORK), Code(NETWORK.replace("* 1", "* 3")), role="name"),
        # our own
        lesson("loss: constant in a notebook", Code(LOSS.format(".1"), main=True), Code(LOSS.format(".4"), main=True)),
        lesson(
            "loss: what it calls",
            Code(LOSS.format("0.) + far(model(x), y")),
            Code(LOSS.format("0.) + far(model(x), y").replace("smoothing=.1", "smoothing=.4")),
        ),
        lesson("loss: closure", *differs(lambda k: {"loss": closed(k)}, 0.0, 0.4)),
        lesson("loss: partial", *differs(lambda k: {"loss": partial(smoothed, k=k)}, 0.0, 0.4)),
        lesson("loss: object", *differs(lambda k: {"loss": Weighted(k)}, 0.0, 0.4), must=False),
        lesson(
            "loss: lambda",
            lambda: {"loss": lambda m, x, y, rng, p: F.cross_entropy(m(x), y)},
            lambda: {"loss": lambda m, x, y, rng, p: F.cross_entropy(3 * m(x), y)},
            must=False,
        ),
        lesson("seed", *differs(lambda s: {"seed": s}, 0, 1)),
        lesson("images", *differs(lambda s: {"data": tiny(s)}, 1, 2)),
        lesson("labels", lambda: {}, lambda: {"data": replace(tiny(), y_train=tiny().y_train.flip(0))}),
        lesson("steps", *differs(lambda n: {"recipe": replace(STEPS, steps=n)}, 1, 2)),
        lesson("rate", *differs(lambda r: {"recipe": replace(STEPS, rate=r)}, 0.1, 0.2)),
        lesson("when it stops", lambda: {"recipe": replace(STEPS, steps=6), "stop_at": 0.01}, lambda: {"recipe": replace(STEPS, steps=6)}),
    ],
)
def test_a_training_that_differs_is_another_training(a, b, must, role, tmp_path, monkeypatch):
    def asked(maker, place):
        monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / place))
        thing = made(maker, tmp_path)
        return weights(**(thing if isinstance(thing, dict) else {role: thing}))

    first, second, truth = asked(a, "cache"), asked(b, "cache"), asked(b, "empty")
    assert not torch.equal(first, truth), "the pair shows no difference"
    assert torch.equal(second, truth)
    assert list((tmp_path / "cache").rglob("*.safetensors")) or not must


def told(model, x, y, rng, progress):
    logging.getLogger("calls").warning("loss")
    return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Told:
    k: float = 1.0

    def __call__(self, *args):
        return self.k * told(*args)


def told_closure(k):
    return lambda *args: k * told(*args)


@pytest.mark.parametrize(
    "loss",
    [lambda: told, Told, lambda: partial(told), lambda: told_closure(1.0), lambda: Told().__call__],
    ids=["function", "dataclass", "partial", "closure", "bound method"],
)
def test_a_training_is_remembered(loss, caplog):
    first = weights(loss=loss())
    asked = len(caplog.records)
    assert asked == 2 and torch.equal(first, weights(loss=loss())) and len(caplog.records) == asked


# what is done with a key, and without one


class Locked:
    "An attack that holds what no key can hold"

    def __init__(self):
        self.lock, self.draws = threading.Lock(), (i for i in range(3))

    def __call__(self, model, x, y):
        with self.lock:
            return logged(model, x, y)


class LockedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.lock, self.draws = flat(), threading.Lock(), (i for i in range(3))

    def forward(self, x):
        return self.base(x)


def logged(model, x, y):
    "An attack whose calls leave their sizes in the log"
    logging.getLogger("calls").warning("%s", len(x))
    return (x + 0.1).clamp(0, 1)


def logged_more(model, x, y):
    logging.getLogger("calls").warning("%s", len(x))
    return (x + 0.4).clamp(0, 1)


def count(caplog):
    "How many images attacks were asked for since the last count"
    n = sum(int(r.getMessage()) for r in caplog.records if r.name == "calls")
    caplog.clear()
    return n


def silently(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate(*args, cache=True)


@pytest.mark.parametrize("what", ["attack", "model", "score"])
def test_what_has_no_key_is_computed_and_said_not_to_be_remembered(what, caplog, cache):
    model, attacks, scores = flat(), {"a": logged}, {}
    if what == "attack":
        attacks = {"a": Locked()}
    elif what == "model":
        model = LockedModel()
    else:
        draws = (i for i in range(3))
        scores = {"s": lambda logits, features: logits.amax(1) + (draws is None)}
    for _ in range(2):
        with pytest.warns(UserWarning, match="not remembered") as seen:
            found = evaluate(model, *images(12), attacks, scores, cache=True)
        assert len([w for w in seen if "not remembered" in str(w.message)]) == 1
        assert 12 <= count(caplog) <= 14
    pd.testing.assert_frame_equal(found, evaluate(model, *images(12), attacks, scores))
    assert not [f for f in cache.rglob("*.parquet") if what != "attack" or "a" in set(pd.read_parquet(f).attack)]


def test_a_training_without_a_key_is_made_and_said_not_to_be_remembered(cache):
    draws = (i for i in range(3))

    def loss(model, x, y, rng, progress):
        return F.cross_entropy(model(x), y) + (draws is None)

    for _ in range(2):
        with pytest.warns(UserWarning, match="not remembered"):
            model = load_or_train(network, tiny(), loss, STEPS, 0, "cpu")
    assert not list(cache.rglob("*.safetensors"))
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), weights(loss=smoothed))


ORDINARY = {
    "function": lambda: logged,
    "partial": lambda: partial(logged),
    "lambda": lambda: lambda m, x, y: logged(m, x, y),
    "closure": lambda: told_attack(logged),
    "bound method": lambda: Telling(0.1).run,
    "object": lambda: Telling(0.1),
    "dataclass": lambda: TellingDataclass(0.1),
}


class Telling:
    def __init__(self, eps):
        self.eps = eps

    def run(self, model, x, y):
        return logged(model, x, y)

    def __call__(self, model, x, y):
        return self.run(model, x, y)


@dataclass(frozen=True)
class TellingDataclass:
    eps: float

    def __call__(self, model, x, y):
        return logged(model, x, y)


def told_attack(inside):
    return lambda model, x, y: inside(model, x, y)


@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY)
def test_a_remembered_table_is_used_after_two_rows_were_attacked_again(make, caplog):
    x, y = images(12)
    first = silently(flat(), x, y, {"a": make()})
    assert 12 <= count(caplog) <= 14  # all rows, and perhaps two alone, to learn whether they come out as they do among all
    pd.testing.assert_frame_equal(first, silently(flat(), x, y, {"a": make()}))
    assert count(caplog) <= 2


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_tables_of_few_images_are_remembered(n, caplog):
    first = silently(flat(), *images(n), {"a": logged})
    assert n <= count(caplog) <= n + 2
    pd.testing.assert_frame_equal(first, silently(flat(), *images(n), {"a": logged}))
    assert count(caplog) <= 2


@pytest.mark.parametrize(
    "settings", [{"seed": 3}, {"seed": torch.arange(12)}, {"ball": Linf(torch.linspace(0.1, 0.3, 12))}, {"restarts": 2}], ids=str
)
def test_an_attack_that_draws_passes_the_spot_check(settings, recwarn):
    attacks = {"a": partial(pgd, **{"ball": Linf(0.2), "steps": 2, **settings})}
    first = silently(flat(), *images(12), attacks)
    pd.testing.assert_frame_equal(first, silently(flat(), *images(12), attacks))


def test_an_attack_that_looks_at_the_whole_batch_has_the_right_table():
    def attack(model, x, y):
        return (x + 0.5 * torch.rand(x.shape, generator=generator(len(x)))).clamp(0, 1)

    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = evaluate(flat(), *images(12), {"a": attack}, cache=True)
        pd.testing.assert_frame_equal(found, evaluate(flat(), *images(12), {"a": attack}))


def tables(place):
    "The tables of a cache, in the order in which they were written"
    return sorted(place.rglob("*.parquet"), key=lambda f: f.stat().st_mtime_ns)


def record(path):
    "The hash beside a planted table, as for one that was not tampered with"
    assert path.with_suffix(".sha256").exists()
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("wrong", ["model", "attack"])
def test_a_wrong_table_under_the_right_key_is_found_out(wrong, tmp_path, monkeypatch, caplog):
    x, y = images(12)
    evaluate(flat(), x, y, {"a": logged}, cache=True)
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "other"))
    other = Tempered(30.0) if wrong == "model" else flat()
    evaluate(other, x, y, {"a": logged if wrong == "model" else logged_more}, cache=True)
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    mine, others = tables(tmp_path / "cache"), tables(tmp_path / "other")
    assert len(mine) == len(others) > 0
    for right, planted in zip(mine, others, strict=True):
        shutil.copy(planted, right)
        record(right)
    count(caplog)
    with pytest.warns(UserWarning, match="computed again"):
        found = evaluate(flat(), x, y, {"a": logged}, cache=True)
    truth = evaluate(flat(), x, y, {"a": logged})
    pd.testing.assert_frame_equal(found, truth)
    count(caplog)
    pd.testing.assert_frame_equal(silently(flat(), x, y, {"a": logged}), truth)
    assert count(caplog) <= 2


def test_a_difference_of_rounding_is_no_reason_to_compute_again(tmp_path, caplog):
    x, y = images(12)
    evaluate(flat(), x, y, {"a": logged}, cache=True)
    for path in tables(tmp_path / "cache"):
        table = pd.read_parquet(path)
        for column in "confidence", "wrong_confidence", "l2", "linf":
            table[column] *= np.float32(1 + 3e-7)
        table.to_parquet(path, index=False)
        record(path)
    count(caplog)
    silently(flat(), x, y, {"a": logged})
    assert count(caplog) <= 2


def test_the_order_of_scores_and_attacks_is_the_askers():
    x, y = images(12)
    two, one = {"a": pairs.top, "b": partial(pairs.top, power=2)}, {"b": partial(pairs.top, power=2), "a": pairs.top}
    for attacks, scores in ({"a": logged, "b": logged_more}, two), ({"b": logged_more, "a": logged}, one):
        pd.testing.assert_frame_equal(silently(flat(), x, y, attacks, scores), evaluate(flat(), x, y, attacks, scores))


@pytest.mark.parametrize("what", ["torch", "images", "labels", "attack's name"])
def test_another_question_is_answered_afresh(what, caplog, monkeypatch):
    x, y = images(12)
    evaluate(flat(), x, y, {"a": logged}, cache=True)
    count(caplog)
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    elif what == "images":
        x = x.flip(0)
    elif what == "labels":
        y = y.flip(0)
    name = "b" if what == "attack's name" else "a"
    found = silently(flat(), x, y, {name: logged})
    assert count(caplog) >= 12 or what == "attack's name"
    pd.testing.assert_frame_equal(found, evaluate(flat(), x, y, {name: logged}))


# Installed packages, wherever they lie

@pytest.fixture
def forgotten():
    "A package is looked for afresh when this is called, and after the test"

    def forget():
        sys.modules.pop("put_there", None)
        identity._package.cache_clear()
        importlib.invalidate_caches()

    yield forget
    forget()


@pytest.mark.parametrize("recorded", [True, False])
def test_a_package_counts_by_its_version_where_an_installer_put_it_and_by_its_code_elsewhere(recorded, tmp_path, monkeypatch, forgotten):
    keys = []
    for number in "1", "2":
        (folder := tmp_path / number / "put_there-1.0.dist-info").mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: put_there\nVersion: 1.0\n")
        (folder / "RECORD").write_text("put_there/__init__.py,,\n" if recorded else "another/__init__.py,,\n")
        (package := folder.parent / "put_there").mkdir()
        (package / "__init__.py").write_text(f"def factor(x):\n    return {number} * x\n")
        forgotten()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder.parent)
            known = {"put_there": importlib.import_module("put_there")}
            assert known["put_there"].factor(1) == int(number)
            keys.append(fingerprint(eval("lambda x: put_there.factor(x)", known)))
    assert (keys[0] == keys[1]) == recorded
