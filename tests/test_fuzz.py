"""A bounded part of the fuzzer, and that it sees what it is there to see."""

import random
import sys
import time
from dataclasses import replace

import pytest
import torch
from fuzz import __main__ as fuzz
from fuzz import oracle
from fuzz.functions import FUNCTIONS, F
from fuzz.ingredients import SETTINGS
from fuzz.oracle import CONTEXTS, FAULTS, IMAGES, LABELS, MODELS, SETS, VERDICTS, Case, case, run
from toys import SOAK

from confnb.attacks import pgd, uniform_noise

CASES, MANY = 168, 1500  # of seed 194 the first 168 call every function
USUAL = {"model": "plain", "x": "good", "y": "good", "ball": "Linf(0.1)", "context": "plain"}


@pytest.mark.parametrize("seed, cases", [(194, CASES), pytest.param(0, MANY, marks=SOAK)])
def test_no_odd_call_gives_a_wrong_result_or_anothers_words(seed, cases):
    done = [run(case(seed, number)) for number in range(cases)]
    assert len({o.case.function for o in done}) == len(FUNCTIONS) and sum(o.verdict == "right" for o in done) > cases / 4
    assert not [o for o in done if o.verdict in FAULTS], "\n".join(fuzz.text(fuzz.summary(done, 0, 0)))


def faulty(monkeypatch, call, **kinds):
    "The verdict on a function that is faulty on purpose"
    monkeypatch.setitem(FUNCTIONS, "faulty", F(call, "model x y ball", "batch_size", "climbs"))
    return run(Case(0, "faulty", USUAL | kinds, kinds))


def outside(model, x, y, ball, **settings):
    found = uniform_noise(model, x, y, ball, **settings)
    return replace(found, x=(found.x + 0.4) % 1)


def unsure(model, x, y, ball, **settings):
    found = uniform_noise(model, x, y, ball, **settings)
    return replace(found, wrong_confidence=found.wrong_confidence * 0.99)


def other_logits(model, x, y, ball, **settings):
    found = uniform_noise(model, x, y, ball, **settings)
    return replace(found, logits=-found.logits)


def changes_labels(model, x, y, ball, **settings):
    y += 1
    return uniform_noise(model, x, y - 1, ball, **settings)


def changes_the_model(model, x, y, ball, **settings):
    model.eval()
    return uniform_noise(model, x, y, ball, **settings)


def draws(model, x, y, ball, **settings):
    return uniform_noise(model, x, y, ball, seed=random.getrandbits(20), **settings)


def by_batch(model, x, y, ball, batch_size=256):
    return uniform_noise(model, x, y, ball, seed=batch_size)


def remembers_the_graph(model, x, y, ball, **settings):
    return replace(found := uniform_noise(model, x, y, ball, **settings), value=found.value + torch.zeros(3, requires_grad=True))


def stumbles(model, x, y, ball, **settings):
    return x[:, 99]


def picky(model, x, y, ball, **settings):
    return pgd(model, x, y, ball, steps=-1)


def sleeps(model, x, y, ball, **settings):
    time.sleep(5)


WRONG = [(outside, "outside Linf"), (unsure, "the confidence is not"), (other_logits, "the logits are not"), (changes_labels, "the y"), (changes_the_model, "modes"),
         (draws, "Python's generator"), (by_batch, "batch size"), (remembers_the_graph, "gradient")]


@pytest.mark.parametrize("call, says", WRONG, ids=lambda v: getattr(v, "__name__", ""))
def test_a_wrong_result_is_seen(monkeypatch, call, says):
    told = faulty(monkeypatch, call)
    assert (told.verdict, says in told.says) == ("wrong", True), told


@pytest.mark.parametrize("call, kinds, verdict", [
    (uniform_noise, {}, "right"), (pgd, {"y": "float"}, "clear"), (pgd, {"model": "raises its own error"}, "own"),
    (stumbles, {}, "unclear"), (picky, {}, "refused"), (lambda *a, **s: None, {"y": "float"}, "taken"),
    (uniform_noise, {"model": "no gradient"}, "wrong")])
def test_each_verdict(monkeypatch, call, kinds, verdict):
    assert faulty(monkeypatch, call, **kinds).verdict == verdict


def test_what_hangs_is_stopped(monkeypatch):
    monkeypatch.setattr(oracle, "SECONDS", 1)
    assert faulty(monkeypatch, sleeps).verdict == "hang"


def test_an_error_in_anothers_words_is_not_ours_though_our_line_raised_it(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "LIBRARY", tmp_path)
    (tmp_path / "mine.py").write_text('def f(n):\n    raise ValueError(f"a sentence of our own, {int(n)}")\n')
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    for n, told in (1, True), ("a word", False):
        with pytest.raises(ValueError) as e:
            mine.f(n)
        assert oracle.ours(e.value) == told
    sys.modules.pop("mine")


def test_a_case_is_the_same_each_time_and_a_worker_that_dies_is_a_crash(monkeypatch):
    assert [case(3, n) for n in range(50)] == [case(3, n) for n in range(50)] != [case(4, n) for n in range(50)]
    assert len({o.case.number for o in fuzz.outcomes(0, list(range(9)), 2)}) == 9
    monkeypatch.setattr(fuzz, "run", lambda c: __import__("os")._exit(3))
    assert [o.verdict for o in fuzz.outcomes(0, [0, 1], 1)] == ["crash", "crash"]


def test_every_ingredient_says_what_is_expected_of_it():
    tables = (MODELS, IMAGES, LABELS, SETS, CONTEXTS, *SETTINGS.values())
    assert {k.expect for t in tables for k in t.values()} == {"good", "bad", "either"} and set(FAULTS) < set(VERDICTS)
    assert len(MODELS) >= 35 and all(p in SETTINGS for f in FUNCTIONS.values() for p in f.varied.split())
