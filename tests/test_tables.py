import importlib.util
import logging
import pickle
import sys
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from confnb import tables as records
from confnb.adapters import Adapted, from_foolbox, from_torchattacks
from confnb.attacks import pgd
from confnb.found import Found, bundle
from confnb.keys import fingerprint
from confnb.maxconfidence import max_confidence
from confnb.models import features
from confnb.runtime import generator, predict
from confnb.search import maximize
from confnb.sets import L2, Linf
from confnb.statistics import auc, binomial_interval
from confnb.tables import evaluate

COLUMNS = ["index", "attack", "label", "prediction", "confidence", "wrong_confidence", "l2", "linf", "passes"]
LOG = logging.getLogger("calls of attacks")  # of the attacks below, for counting; a list that they read would be part of their key
CALLS, SIZES = [], []


class Count(logging.Handler):
    def emit(self, record):
        CALLS.append(record.msg.split()[0])
        SIZES.append(record.args[0])


LOG.addHandler(Count())
LOG.propagate = False


def images(n=6, side=4, seed=0):
    return torch.rand(n, 1, side, side, generator=generator(seed)), torch.arange(n) % 3


def network(seed=0, side=4, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 5), nn.ReLU(), nn.Linear(5, classes)).requires_grad_(True)


class Pooled(nn.Module):
    "A model without any nn.Linear"

    def forward(self, x):
        return adaptive_avg_pool2d(x, (1, 3)).flatten(1)


def shifted(model, x, y):
    LOG.warning("shifted %d", len(x))
    return (x + 0.1).clamp(0, 1)


def darkened(model, x, y):
    LOG.warning("darkened %d", len(x))
    return 0.5 * x


def liar(model, x, y):
    "Claims that it has fooled the model, without a change"
    logits = torch.nn.functional.one_hot((y + 1) % 3, 3) * 100.0
    return Found(x, torch.zeros(len(x)), logits, torch.full((len(x),), 7), wrong_confidence=torch.ones(len(x)))


def top_logit(logits, hidden):
    return logits.amax(1)


def hidden_norm(logits, hidden):
    return hidden.norm(dim=1)


# the table


def test_a_table_has_a_row_for_each_example_and_attack():
    model, (x, y) = network(), images()
    table = evaluate(model, x, y, {"shifted": shifted, "darkened": darkened}, {"top": top_logit, "norm": hidden_norm})
    assert list(table.columns) == [*COLUMNS, "top", "norm"]
    assert table.attack.tolist() == ["clean"] * 6 + ["shifted"] * 6 + ["darkened"] * 6
    assert table["index"].tolist() == [*range(6)] * 3 and table.label.tolist() == y.tolist() * 3 and table.index.tolist() == [*range(18)]
    kinds = {c: table[c].dtype.kind for c in table}
    assert all(kinds[c] == "i" for c in ("index", "label", "prediction", "passes"))
    assert all(kinds[c] == "f" for c in ("confidence", "wrong_confidence", "l2", "linf", "top", "norm")) and kinds["attack"] == "O"


@pytest.mark.parametrize("double", [False, True])
def test_its_numbers_are_those_of_the_model(double):
    model, (x, y) = network(), images()
    if double:
        model, x = model.double(), x.double()
    table = evaluate(model, x, y, {"darkened": darkened}, {"norm": hidden_norm})
    for attack, z in ("clean", x), ("darkened", 0.5 * x):
        rows = table[table.attack == attack]
        p = predict(model, z).softmax(1)
        np.testing.assert_allclose(rows.confidence, p.amax(1), rtol=1e-6)
        np.testing.assert_array_equal(rows.prediction, p.argmax(1))
        np.testing.assert_allclose(rows.wrong_confidence, [max(q[k].item() for k in range(3) if k != label) for q, label in zip(p, y, strict=True)], rtol=1e-6)
        np.testing.assert_allclose(rows.l2, (z - x).flatten(1).norm(dim=1), rtol=1e-5)
        np.testing.assert_allclose(rows.linf, (z - x).abs().flatten(1).amax(1), rtol=1e-6)
        np.testing.assert_allclose(rows.norm, features(model, z).norm(dim=1), rtol=1e-5)
        assert (rows.passes == 0).all()


def test_what_an_attack_claims_is_not_believed():
    model, (x, y) = network(), images()
    table = evaluate(model, x, y, {"liar": liar})
    clean, lied = (table[table.attack == a].reset_index(drop=True) for a in ("clean", "liar"))
    told = ["label", "prediction", "confidence", "wrong_confidence", "l2", "linf"]
    pd.testing.assert_frame_equal(clean[told], lied[told])
    assert (lied.passes == 7).all() and (lied.wrong_confidence < 1).all()


def test_the_batch_size_changes_nothing_and_the_model_comes_back():
    model, (x, y) = network().train(), images()
    model[1].weight.requires_grad_(False)
    one, all_at_once = (evaluate(model, x, y, {"shifted": shifted}, {"norm": hidden_norm}, batch_size=b) for b in (1, 100))
    pd.testing.assert_frame_equal(one, all_at_once, atol=1e-6, rtol=1e-5)
    assert model.training and not model[1].weight.requires_grad and model[3].weight.requires_grad and not model[1]._forward_pre_hooks


def test_without_scores_any_model_does():
    x, y = images()
    assert len(evaluate(Pooled(), x, y, {"shifted": shifted})) == 12
    with pytest.raises(ValueError, match="final hidden vector"):
        evaluate(Pooled(), x, y, scores={"top": top_logit})


def test_found_points_and_plain_points_are_the_same_rows():
    model, (x, y) = network(), images()
    found = maximize(model, lambda logits, z: logits[:, 0], x, Linf(0.1), steps=3)
    table = evaluate(model, x, y, {"found": lambda m, x, y: found, "plain": lambda m, x, y: found.x})
    a, b = (table[table.attack == n].reset_index(drop=True).drop(columns="attack") for n in ("found", "plain"))
    assert (a.passes == 3).all() and (b.passes == 0).all()
    pd.testing.assert_frame_equal(a.drop(columns="passes"), b.drop(columns="passes"))
    assert a.linf.max() <= 0.1 + 1e-6


@pytest.mark.parametrize("points, sentence", [
    (lambda m, x, y: x[:3], r"attack 'a' returned points of shape \(3, 1, 4, 4\)"),
    (lambda m, x, y: x[:, :, :2], r"of shape \(6, 1, 2, 4\) for images of shape \(6, 1, 4, 4\)"),
    (lambda m, x, y: x + 0.5, "pixels must lie in"),
    (lambda m, x, y: x * 255, "divide by 255"),
    (lambda m, x, y: x * torch.nan, "NaN or infinite"),
])
def test_points_that_are_no_images_are_refused(points, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(network(), *images(), {"a": points})


@pytest.mark.parametrize("change, error, sentence", [
    (lambda x, y: (x * 255, y), ValueError, "divide by 255"),
    (lambda x, y: (x[0], y), ValueError, "shape"),
    (lambda x, y: (x[:0], y[:0]), ValueError, "empty"),
    (lambda x, y: (x, y[:-1]), ValueError, "labels must have shape"),
    (lambda x, y: (x, y.float()), TypeError, "integer class indices"),
    (lambda x, y: (x, y + 1), ValueError, r"class indices 0\.\.2"),
])
def test_bad_input_is_refused(change, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(network(), *change(*images()))


def test_no_attack_is_called_clean():
    with pytest.raises(ValueError, match='no attack can be called "clean"'):
        evaluate(network(), *images(), {"clean": shifted})


# its cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    CALLS.clear()
    SIZES.clear()
    return tmp_path / "cache"


def test_nothing_is_attacked_twice(cache):
    model, (x, y) = network(), images()
    first = evaluate(model, x, y, {"shifted": shifted}, {"norm": hidden_norm}, cache=True)
    again = evaluate(model, x, y, {"shifted": shifted}, {"norm": hidden_norm}, cache=True)
    assert CALLS == ["shifted"] * 2 and SIZES == [len(x), 2]  # two rows are attacked again
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, evaluate(model, x, y, {"shifted": shifted}, {"norm": hidden_norm}))


def test_one_more_attack_costs_one_attack(cache):
    model, (x, y) = network(), images()
    evaluate(model, x, y, {"shifted": shifted}, cache=True)
    table = evaluate(model, x, y, {"darkened": darkened, "shifted": shifted}, cache=True)
    assert CALLS == ["shifted", "darkened", "shifted"] and SIZES == [len(x), len(x), 2] and table.attack.unique().tolist() == ["clean", "darkened", "shifted"]


@pytest.mark.parametrize("other", ["model", "images", "labels", "scores"])
def test_another_question_is_asked_again(cache, other):
    model, (x, y), scores = network(), images(), None
    evaluate(model, x, y, {"shifted": shifted}, cache=True)
    if other == "model":
        model = network(seed=1)
    elif other == "images":
        x = x.clone()
        x[0, 0, 0, 0] = 1 - x[0, 0, 0, 0]
    elif other == "labels":
        y = y.flip(0)
    else:
        scores = {"norm": hidden_norm}
    pd.testing.assert_frame_equal(evaluate(model, x, y, {"shifted": shifted}, scores, cache=True), evaluate(model, x, y, {"shifted": shifted}, scores))
    assert CALLS == ["shifted"] * 3


def test_another_library_is_asked_again(cache, monkeypatch):
    model, (x, y) = network(), images()
    evaluate(model, x, y, {"shifted": shifted}, cache=True)
    monkeypatch.setattr("confnb.runtime.check_logits", lambda logits: logits)  # another code, deep below `evaluate`
    evaluate(model, x, y, {"shifted": shifted}, cache=True)
    assert SIZES == [len(x)] * 2


def test_a_lambda_is_remembered_by_its_code(cache):
    model, (x, y) = network(), images()
    for by in 0.1, 0.1, 0.2:
        table = evaluate(model, x, y, {"a": lambda m, x, y, by=by: shifted(m, (x + by).clamp(0, 1), y)}, cache=True)
        pd.testing.assert_frame_equal(table, evaluate(model, x, y, {"a": lambda m, x, y, by=by: shifted(m, (x + by).clamp(0, 1), y)}))
    assert SIZES == [len(x), len(x), 2, len(x), len(x), len(x)]


def test_what_has_no_identity_is_computed_and_said(cache, tmp_path):
    model, (x, y) = network(), images()
    with open(tmp_path / "log", "w") as log:
        for _ in range(2):
            with pytest.warns(UserWarning, match="computed and not remembered: .*log.*TextIOWrapper"):
                evaluate(model, x, y, {"a": lambda m, x, y: (log.write("a"), shifted(m, x, y))[1]}, cache=True)
    assert SIZES == [len(x)] * 2


def test_checking_what_is_read_costs_little(cache):
    "The model is asked about eight images, and an attack that takes long is not made again for nothing"
    model, (x, y) = network(), images()
    asked = []
    handle = model.register_forward_pre_hook(lambda m, a: asked.append(len(a[0])))
    try:
        evaluate(model, x, y, cache=True)
        asked.clear()
        evaluate(model, x, y, cache=True)
    finally:
        handle.remove()
    assert sum(asked) <= 8


def test_a_seed_for_each_example_is_checked_too(cache):
    model, (x, y) = network(), images()
    attacks = {"pgd": partial(pgd, ball=Linf(torch.linspace(0.05, 0.2, len(x))), steps=3, seed=torch.arange(len(x)))}
    first = evaluate(model, x, y, attacks, cache=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(first, evaluate(model, x, y, attacks, cache=True))


def test_a_damaged_table_is_made_again(cache):
    model, (x, y) = network(), images()
    first = evaluate(model, x, y, {"shifted": shifted}, cache=True)
    files = sorted(cache.rglob("*.parquet"))
    assert len(files) == 2
    for damage in b"", b"PAR1 nonsense", files[0].read_bytes()[:-20]:
        CALLS.clear()
        for f in files:
            f.write_bytes(damage)
        with pytest.warns(UserWarning):
            pd.testing.assert_frame_equal(first, evaluate(model, x, y, {"shifted": shifted}, cache=True))
        assert CALLS == ["shifted"]
    assert sorted(cache.rglob("*")) and not list(cache.rglob(".*parquet"))


# numbers


@given(n=st.integers(1, 400), share=st.floats(0, 1), level=st.floats(0.01, 0.999))
@settings(deadline=None, max_examples=60)
def test_the_interval_is_clopper_and_pearsons(n, share, level):
    k, a = round(share * n), 1 - level
    low, high = binomial_interval(k, n, level)
    assert low == (0 if k == 0 else pytest.approx(stats.beta.ppf(a / 2, k, n - k + 1), abs=1e-9))
    assert high == (1 if k == n else pytest.approx(stats.beta.ppf(1 - a / 2, k + 1, n - k), abs=1e-9))
    assert isinstance(low, float) and low <= k / n <= high


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_covers(n, level):
    "By enumeration: whatever the truth, the interval of the outcome holds it with at least the probability `level`"
    intervals = [binomial_interval(k, n, level) for k in range(n + 1)]
    for p in np.linspace(0, 1, 101):
        covered = sum(stats.binom.pmf(k, n, p) for k, (low, high) in enumerate(intervals) if low <= p <= high)
        assert covered >= level - 1e-12


@pytest.mark.parametrize("k, n, level", [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95)])
def test_an_impossible_interval_is_refused(k, n, level):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        binomial_interval(k, n, level)


scores_of = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.25]) | st.floats(-1e6, 1e6), min_size=1, max_size=12)


@given(normal=scores_of, adversarial=scores_of)
@settings(deadline=None)
def test_auc_is_scikit_learns(normal, adversarial):
    truth = [1] * len(normal) + [0] * len(adversarial)
    assert auc(np.array(normal), np.array(adversarial)) == pytest.approx(roc_auc_score(truth, normal + adversarial), abs=1e-12)


@given(normal=scores_of, adversarial=scores_of)
@settings(deadline=None)
def test_auc_counts_pairs(normal, adversarial):
    pairs = np.mean([(a > b) + (a == b) / 2 for a in normal for b in adversarial])
    assert auc(torch.tensor(normal, dtype=torch.float64), np.array(adversarial)) == pytest.approx(pairs, abs=1e-12)


def test_auc_ranks_infinities():
    assert auc(np.array([np.inf, 0.0]), np.array([-np.inf, -1.0])) == 1
    assert auc(np.array([-np.inf, -np.inf]), np.array([-np.inf])) == 0.5
    assert auc(np.array([np.inf, -np.inf]), np.array([0.0])) == 0.5


@pytest.mark.parametrize("normal, adversarial", [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [0.0, np.nan])])
def test_auc_of_nothing_or_nan_is_refused(normal, adversarial):
    with pytest.raises(ValueError, match="AUC needs"):
        auc(np.array(normal), np.array(adversarial))


# attacks of other libraries


@pytest.fixture(scope="module")
def theirs():
    "Attacks of foolbox and torchattacks by name, each through its one line"
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    fb = foolbox.attacks
    return {
        "LinfPGD": from_foolbox(fb.LinfPGD(steps=3), 0.1),
        "L2PGD": from_foolbox(fb.L2PGD(steps=3), 0.5),
        "noise": from_foolbox(fb.LinfAdditiveUniformNoiseAttack(), 0.1),
        "repeated": from_foolbox(fb.LinfPGD(steps=2).repeat(2), 0.1),
        "DeepFool": from_foolbox(fb.L2DeepFoolAttack(steps=5)),
        "DeepFool in a ball": from_foolbox(fb.LinfDeepFoolAttack(steps=5), 0.1),
        "PGD": from_torchattacks(torchattacks.PGD, eps=0.1, steps=3),
        "PGDL2": from_torchattacks(torchattacks.PGDL2, eps=0.5, steps=3),
        "Square": from_torchattacks(torchattacks.Square, norm="L2", eps=0.5, n_queries=5),
        "CW": from_torchattacks(torchattacks.CW, steps=3),
    }


NAMES = ["LinfPGD", "L2PGD", "noise", "repeated", "DeepFool", "DeepFool in a ball", "PGD", "PGDL2", "Square", "CW"]
SETS = [Linf(0.1), L2(0.5), Linf(0.1), Linf(0.1), None, Linf(0.1), Linf(0.1), L2(0.5), L2(0.5), None]


@pytest.mark.parametrize("name, ball", list(zip(NAMES, SETS, strict=True)), ids=NAMES)
def test_their_attacks_are_ours(name, ball, theirs, small_model, digits):
    x, y, attack = digits.x_test[:12], digits.y_test[:12], theirs[name]
    small_model.train()
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    found = attack(small_model, x, y)
    assert torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert small_model.training and all(p.requires_grad and p.grad is None for p in small_model.parameters()) and not small_model._forward_pre_hooks
    assert attack.ball == ball and found.x.min() >= 0 and found.x.max() <= 1 and (ball is None or ball.contains(found.x, x).all())
    torch.testing.assert_close(found.logits, predict(small_model, found.x))
    wrong = found.logits.softmax(1).scatter(1, y[:, None], 0).amax(1)
    torch.testing.assert_close(found.wrong_confidence, wrong)
    assert torch.equal(found.x, attack(small_model, x, y).x) and (found.passes >= 1).all() and found.seconds > 0


def test_their_attacks_are_what_they_are_there(small_model, digits):
    "The points are those of the library itself, called as its manual says"
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    x, y = digits.x_test[:12], digits.y_test[:12]
    small_model.eval()
    attack = foolbox.attacks.LinfPGD(steps=5, random_start=False)
    _, points, _ = attack(foolbox.PyTorchModel(small_model, (0, 1)), x, y, epsilons=0.1)
    torch.testing.assert_close(from_foolbox(attack, 0.1)(small_model, x, y).x, points)
    points = torchattacks.PGD(small_model, eps=0.1, steps=5, random_start=False)(x, y)
    torch.testing.assert_close(from_torchattacks(torchattacks.PGD, eps=0.1, steps=5, random_start=False)(small_model, x, y).x, points)
    torch.testing.assert_close(from_torchattacks(torchattacks.PGD(small_model, eps=0.1, steps=5, random_start=False))(small_model, x, y).x, points)


def test_their_attacks_go_into_a_table_and_a_bundle(theirs, small_model, digits):
    x, y = digits.x_test[:15], digits.y_test[:15]
    chosen = {name: theirs[name] for name in ("LinfPGD", "PGD")}
    table = evaluate(small_model, x, y, chosen)
    assert table.attack.unique().tolist() == ["clean", "LinfPGD", "PGD"] and table[table.attack == "PGD"].passes.eq(3).all()
    found = [a(small_model, x, y) for a in chosen.values()]
    ours = max_confidence(small_model, x, y, Linf(0.1), steps=3)
    best = bundle(*found, ours)
    torch.testing.assert_close(best.wrong_confidence, torch.stack([f.wrong_confidence for f in (*found, ours)]).amax(0))
    assert torch.equal(best.passes, sum(f.passes for f in (*found, ours)))


def test_their_attacks_have_keys(theirs, small_model, digits):
    keys = [fingerprint(a) for a in theirs.values()]
    assert len(set(keys)) == len(keys) and keys == [fingerprint(pickle.loads(pickle.dumps(a))) for a in theirs.values()]
    torchattacks = pytest.importorskip("torchattacks")
    first, second, other = (fingerprint(from_torchattacks(torchattacks.PGD(small_model, eps=e))) for e in (0.1, 0.1, 0.2))
    assert first == second != other
    x, y = digits.x_test[:5], digits.y_test[:5]
    attack = {"PGD": theirs["PGD"]}
    once = evaluate(small_model, x, y, attack, cache=True)
    pd.testing.assert_frame_equal(once, evaluate(small_model, x, y, attack, cache=True))


def refused():
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    model, fb = network(), foolbox.attacks
    return {
        "a class of foolbox": (lambda: from_foolbox(fb.LinfPGD, 0.1), TypeError, r"not <class.*make one: .*\(\)"),
        "anything else": (lambda: from_foolbox(shifted, 0.1), TypeError, "an attack such as foolbox.attacks.LinfPGD"),
        "no eps": (lambda: from_foolbox(fb.LinfPGD()), ValueError, "needs an eps"),
        "eps of 0..255": (lambda: from_foolbox(fb.LinfPGD(), 8), ValueError, "0..255"),
        "torchattacks: eps of 0..255": (lambda: from_torchattacks(torchattacks.PGD, eps=8), ValueError, "0..255"),
        "torchattacks: no such setting": (lambda: from_torchattacks(torchattacks.PGD, epsilon=0.1), TypeError, "no setting epsilon; it has eps, alpha, steps"),
        "torchattacks: anything else": (lambda: from_torchattacks(shifted), TypeError, "a class such as torchattacks.PGD"),
        "torchattacks: settings of an instance": (lambda: from_torchattacks(torchattacks.PGD(model), eps=0.1), TypeError, "or an instance without any"),
        "torchattacks: another model": (lambda: from_torchattacks(torchattacks.PGD(model))(network(1), *images()), ValueError, "made for another model; pass the class"),
    }


@pytest.mark.parametrize("case", ["a class of foolbox", "anything else", "no eps", "eps of 0..255", "torchattacks: eps of 0..255", "torchattacks: no such setting",
                                  "torchattacks: anything else", "torchattacks: settings of an instance", "torchattacks: another model"])
def test_what_no_line_adapts(case):
    make, error, says = refused()[case]
    with pytest.raises(error, match=says):
        make()


BAD_POINTS = {
    "0..255": (lambda model, x, y: 255 * x, "the points of it are no images.*divide by 255"),
    "normalised": (lambda model, x, y: 2 * x - 1, "they look normalised"),
    "another shape": (lambda model, x, y: x[..., :2], r"it returned points of shape \(6, 1, 4, 2\)"),
    "outside": (lambda model, x, y: 1 - x, r"6 of 6 points of it lie outside Linf\(eps=0.1\)"),
    "NaN": (lambda model, x, y: x / 0 - x / 0, "NaN"),
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_their_points_are_looked_at(case):
    run, says = BAD_POINTS[case]
    with pytest.raises(ValueError, match=says):
        Adapted("it", Linf(0.1), 0, run)(network(), *images())


def test_dust_is_cut_off():
    model, (x, y) = network(), images()
    found = Adapted("it", Linf(0.1), 0, lambda model, x, y: (x + 0.1 + 3e-6).clamp(0, 1 + 3e-6))(model, x, y)
    assert Linf(0.1).contains(found.x, x, 1e-7).all() and found.x.max() <= 1


def test_a_score_that_needs_no_features_is_given_none():
    class Entropy:
        hidden = False

        def __call__(self, logits, features):
            assert features is None
            return logits.amax(1)

    x, y = images()
    assert "entropy" in evaluate(Pooled(), x, y, scores={"entropy": Entropy()})
    with pytest.raises(ValueError, match="no score can be called 'confidence'"):
        evaluate(network(), x, y, scores={"confidence": top_logit})


def test_a_table_knows_the_text_of_a_users_files(tmp_path, monkeypatch):
    "The same name and settings, another body: another table"
    monkeypatch.syspath_prepend(tmp_path)
    x, y = images()
    source = "from dataclasses import dataclass\nfrom functools import partial\nimport torch\nSTEP = {}\ndef move(model, x, y): return (x + STEP).clamp(0, 1)\n" \
             "@dataclass(frozen=True)\nclass Held:\n    inside: object\n    def __call__(self, *args): return self.inside(*args)\n" \
             "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.scale = torch.nn.Parameter(torch.ones(()))\n" \
             "    def forward(self, x): return x.flatten(1)[:, :3] * self.scale * STEP\n"
    seen = {}
    for step in 0.1, 0.2:
        (tmp_path / f"mine_{step * 10:.0f}.py").write_text(source.format(step))
        spec = importlib.util.spec_from_file_location("mine", tmp_path / f"mine_{step * 10:.0f}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        wraps = {"plain": module.move, "held": module.Held(module.move), "partial": partial(module.move)}
        seen[step] = [evaluate(network(), x, y, {"a": f}, cache=True).linf.max() for f in wraps.values()] + [evaluate(module.Net(), x, y, cache=True).confidence.max()]
    assert all(a != b for a, b in zip(*seen.values(), strict=True))


def test_a_table_does_not_ask_for_the_default_device():
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    with torch.device("meta"):
        table = evaluate(model, x, y, {"same": lambda model, x, y: x})
    assert (table.passes == 0).all() and len(table) == 6


def test_a_model_that_answers_otherwise_in_other_batches_is_remembered(monkeypatch):
    "as dynamic int8 models do, whose scale is that of the whole batch"
    x, y = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    torch.manual_seed(0)

    class WholeBatch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) * (1 + len(x) / 10)

    model, attack = WholeBatch(), {"pgd": partial(pgd, ball=Linf(0.1), steps=2)}
    first = evaluate(model, x, y, attack, cache=True)
    monkeypatch.setattr(records, "save_table", None)  # no table is made again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = evaluate(model, x, y, attack, cache=True)
    pd.testing.assert_frame_equal(first, again)
