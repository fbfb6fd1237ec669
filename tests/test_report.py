"""A report on a user's own model: from the command line and from Python, with the same numbers, and what is refused."""

import hashlib
import json
import math
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import nn
from typer.testing import CliRunner

from confnb import report as r
from confnb.attacks import pgd
from confnb.data import load
from confnb.maxconfidence import bundle, max_confidence
from confnb.models import Normalize, build, outputs, save_weights
from confnb.records import evaluate
from confnb.runtime import generator, predict
from confnb.search import L2, Linf

SMALL = dict(attacks=["noise", "pgd"], points=20, say=lambda line: None)
OWN = '''
import torch
from confnb.models import model_a
from confnb.search import Linf

CALLS = []
NOT_A_MODEL = 3

def net(shape, classes, filters=8):
    return model_a(shape, classes, filters)

def wide(shape, classes, filters):
    return model_a(shape, classes, filters)

def wrong_shape():
    return torch.nn.Conv2d(1, 3, 3)

def eleven():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 11))

def colour():
    return torch.nn.Conv2d(3, 3, 3)

def nothing():
    return None

def brighter(model, x, y, ball):
    CALLS.append("brighter")
    return (x + ball.eps).clamp(0, 1)

def outside(model, x, y):
    return 1 - x

def stopped(model, x, y):
    raise KeyboardInterrupt

def norm(logits, features):
    return -features.norm(dim=1)
'''


@pytest.fixture
def home(tmp_path, monkeypatch, small_model):
    "A folder with the user's own module and weights"
    (tmp_path / "own_nets.py").write_text(OWN)
    save_weights(small_model, tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return tmp_path


def command(*words):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("evaluate")(r.evaluate_command)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["evaluate", *words])


USUAL = ["--model", "own_nets:net", "--weights", "own.safetensors", "--data", "digits", "--threat", "linf:0.1", "--attacks", "noise,pgd", "--points", "20"]


def changed(words, **new):
    "The usual words with other values"
    flags = dict(zip(words[::2], words[1::2], strict=True)) | {f"--{k}": v for k, v in new.items()}
    return [w for k, v in flags.items() if v is not None for w in (k, v)]


# the page


def test_the_command_and_python_say_the_same(home, digits, small_model):
    done = command(*USUAL, "--out", "runs/mine")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "runs/mine/index.html" and "pgd" in done.output and "held-out images" in done.output
    small_model.train()
    found = r.report(small_model, digits, "linf:0.1", out="runs/python", **SMALL)
    assert small_model.training and all(p.requires_grad for p in small_model.parameters())
    one, two = home / "runs/mine", home / "runs/python"
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for name in ("examples.parquet", "held.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(one / name), pd.read_parquet(two / name))
    for name in found.tables:
        pd.testing.assert_frame_equal(pd.read_csv(one / f"{name}.csv"), pd.read_csv(two / f"{name}.csv"))
    assert found.summary == json.loads((one / "manifest.json").read_text())["summary"] and found.page == two.relative_to(home) / "index.html"


def test_the_page_needs_nothing_beside_it_and_the_manifest_knows_every_file(home):
    assert command(*USUAL, "--out", "mine").exit_code == 0
    folder = home / "mine"
    page, told = (folder / "index.html").read_text(), json.loads((folder / "manifest.json").read_text())
    assert not re.search(r"<(?:script|link|iframe)\b|(?:src|href)=\"(?!data:)|url\(", page) and page.count("data:image/png;base64,") == 5
    assert "What the confidence of own_nets:net is worth" in page and "nan" not in re.sub(r"<[^>]*>", "", page).lower()
    for sentence in told["summary"]:
        assert sentence in page
    assert told["files"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name not in ("index.html", "manifest.json")}
    assert {p.stem for p in folder.glob("*.png")} == {p.stem for p in folder.glob("*.svg")} == {"curve", "calibration", "detectors", "radii", "samples"}
    assert {p.stem for p in folder.glob("*.png")} <= {p.stem for p in folder.glob("*.csv")}
    assert told["versions"]["torch"] and told["device"].startswith("cpu") and told["seconds"] > 0
    assert told["parameters"] == {"data": "scikit-learn digits (16 x 16)", "threat": "Linf(0.1)", "attacks": ["noise", "pgd"], "detectors": ["confidence", "max-logit", "entropy"],
                                  "points": 20, "seed": 0, "model": "own_nets:net", "weights": "own.safetensors", "mean": None, "std": None, "option": []}


def test_everything_at_once(home, capsys):
    "The user's own attack and detector, foolbox, torchattacks, an attack that leaves the set, an L2 threat"
    pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    names = "own_nets:brighter,own_nets:outside,foolbox:L2FastGradientAttack,torchattacks:PGDL2,fgsm"
    done = command(*changed(USUAL, attacks=names, threat="l2:1.0", detectors="confidence,own_nets:norm"), "--out", "mine")
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(home / "mine/examples.parquet")
    assert set(table.attack) == {"clean", *names.split(",")} and table.l2.max() <= 1 + 1e-5
    assert (table[table.attack == "own_nets:outside"].l2 == 0).all() and (table[table.attack == "torchattacks:PGDL2"].passes == 10).all()
    assert {"score confidence", "score own_nets:norm"} <= set(table.columns)


def test_killed_and_called_again_goes_on(home):
    done = command(*changed(USUAL, attacks="own_nets:brighter,own_nets:stopped"), "--out", "mine")
    assert done.exit_code == 130 and "goes on from there" in done.output and not (home / "mine").exists()
    calls = sys.modules["own_nets"].CALLS
    assert calls == ["brighter"]
    assert command(*changed(USUAL, attacks="own_nets:brighter,noise"), "--out", "mine").exit_code == 0 and calls == ["brighter"]
    (home / "own_nets.py").write_text(OWN.replace("x + ball.eps", "x - ball.eps"))
    del sys.modules["own_nets"]
    assert command(*changed(USUAL, attacks="own_nets:brighter"), "--out", "mine").exit_code == 0
    assert sys.modules["own_nets"].CALLS == ["brighter"], "an attack whose text has changed is another attack"


def test_a_page_that_is_there_is_whole(home, small_model, digits, monkeypatch):
    r.report(small_model, digits, "linf:0.1", out="mine", **SMALL)
    monkeypatch.setattr(r, "_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        r.report(small_model, digits, "linf:0.1", out="mine", **SMALL)
    assert not (home / "mine/index.html").exists() and not [p for p in (home / "mine").iterdir() if p.name.startswith(".")]


def test_functions_are_taken_as_they_are_and_nothing_is_written_without_a_folder(home, small_model, digits):
    found = r.report(small_model, digits, Linf(0.05), {"mine": partial(pgd, ball=Linf(0.05), steps=3)}, {}, points=15, say=lambda line: None)
    assert found.page is None and not list(home.glob("*.html")) and "detectors" not in found.figures
    assert set(found.table.attack) == {"clean", "mine"} and len(found.table) == 30 and repr(found) == "\n".join(found.summary)


# models


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def colours(home):
    "Colour images of three classes"
    rng = np.random.default_rng(0)
    pixels = {part: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in (("train", 60), ("test", 12))}
    np.savez("own.npz", **{f"x_{k}": v for k, v in pixels.items()}, **{f"y_{k}": np.arange(len(v)) % 3 for k, v in pixels.items()})
    return load("npz:own.npz")


@pytest.mark.parametrize("normalisation", [{}, IMAGENET], ids=["inside", "outside"])
@pytest.mark.parametrize("spec", ["torchvision.models:resnet18", "timm:test_resnet.r160_in1k", "timm.models:test_vit"])
def test_models_of_torchvision_and_timm(colours, spec, normalisation):
    pytest.importorskip(spec.split(".")[0].split(":")[0])
    model = r.model_from(spec, colours, **normalisation)
    x, y = colours.x_test[:3], colours.y_test[:3]
    assert isinstance(model, nn.Sequential) == bool(normalisation) and predict(model, x).shape == (3, 3)
    table = evaluate(model, x, y, {"fgsm": r.attack_from("fgsm", Linf(8 / 255))})
    assert table[table.attack == "fgsm"].linf.between(1e-3, 8 / 255 + 1e-6).all()


def test_a_model_of_timm_from_the_command_line(colours):
    pytest.importorskip("timm")
    words = ["--model", "timm:test_resnet.r160_in1k", "--data", "npz:own.npz", "--threat", "linf:8/255", "--attacks", "fgsm", "--points", "6", "--std", "0.2,0.2,0.2"]
    done = command(*words, "--mean", "0.5,0.5,0.5", "--out", "mine")
    assert done.exit_code == 0, done.output
    assert len(pd.read_parquet("mine/examples.parquet")) == 12 and "LOOK" in Path("mine/index.html").read_text()


def test_normalisation_outside_and_inside_are_the_same_model(home, digits, small_model):
    inner = nn.Sequential(*list(small_model)[1:])
    assert isinstance(small_model[0], Normalize)
    (home / "inner_nets.py").write_text("import torch\nfrom confnb.models import model_a\ndef net(shape, classes):\n    return torch.nn.Sequential(*list(model_a(shape, classes, 8))[1:])\n")
    save_weights(inner, "inner.safetensors")
    outside = r.model_from("inner_nets:net", digits, "inner.safetensors", mean=[0.5], std=[0.5])
    torch.testing.assert_close(predict(outside, digits.x_test), predict(small_model, digits.x_test))


def test_factories_are_told_what_they_ask_for(home, digits, small_model):
    assert predict(r.model_from("own_nets:wide", digits, options={"filters": 4}), digits.x_test[:2]).shape == (2, 10)
    first, second, other = (r.model_from("own_nets:net", digits, seed=s) for s in (0, 0, 1))
    assert torch.equal(first[1].weight, second[1].weight) and not torch.equal(first[1].weight, other[1].weight)
    (home / "own_nets.py").write_text("from confnb.models import build\nready = build('model_a', (1, 16, 16), 10, filters=4)\n")
    sys.modules.pop("own_nets")
    assert r.model_from("own_nets:ready", digits) is sys.modules["own_nets"].ready


# what is refused


def bad_files(home):
    torch.save({}, home / "pickled.pt")
    torch.save({}, home / "hidden.safetensors")
    save_file({"a": torch.zeros(2)}, home / "other.safetensors")
    (home / "file").write_text("")


REFUSED = {
    "no such module": (dict(model="no_nets:net"), "no_nets cannot be imported"),
    "no such factory": (dict(model="own_nets:nett"), "did you mean net"),
    "no colon": (dict(model="resnet18"), "must be package.module:name, such as torchvision.models:resnet18"),
    "not a model": (dict(model="own_nets:NOT_A_MODEL"), "neither a model nor something that makes one"),
    "nothing made": (dict(model="own_nets:nothing", weights=None), "made NoneType, not a torch.nn.Module"),
    "a factory that lacks a setting": (dict(model="own_nets:wide"), "missing 1 required positional argument: 'filters'; --option NAME=VALUE"),
    "a setting that is none": (dict(option="filters"), "--option 'filters' must be NAME=VALUE"),
    "an unknown setting": (dict(option="filtres=3"), "unexpected keyword argument 'filtres'"),
    "logits of a wrong shape": (dict(model="own_nets:wrong_shape", weights=None), "logits of shape (1, K), K >= 2, but gave (1, 3, 14, 14)"),
    "another number of classes": (dict(model="own_nets:eleven", weights=None), "answers with 11 classes, but scikit-learn digits (16 x 16) has 10"),
    "images of another kind": (dict(model="own_nets:colour", weights=None), "cannot answer an image of scikit-learn digits (16 x 16) (1 x 16 x 16)"),
    "unknown timm model": (dict(model="timm:resnet_none"), "could not be made by create_model"),
    "no weights": (dict(weights="none.safetensors"), "none.safetensors is not there"),
    "weights of another model": (dict(weights="other.safetensors"), "weights of another architecture"),
    "a pickle": (dict(weights="pickled.pt"), "is a pickle, or looks like one, and reading a pickle runs the code in it"),
    "a pickle in disguise": (dict(weights="hidden.safetensors"), "convert it once: safetensors.torch.save_file"),
    "mean without std": (dict(mean="0.5"), "give --mean and --std together"),
    "a mean of words": (dict(mean="a,b", std="1"), "--mean 'a,b' must be numbers"),
    "a std of zero": (dict(mean="0", std="0"), "std must be positive"),
    "unknown data": (dict(data="digitz"), "there is no data set 'digitz'"),
    "no such file": (dict(data="npz:none.npz"), "there is no none.npz"),
    "unknown norm": (dict(threat="lInfinity:0.1"), "begins with no known norm"),
    "no radius": (dict(threat="linf"), "needs a radius in pixels of [0, 1], such as linf:8/255"),
    "a radius of 0..255": (dict(threat="linf:8"), "0..255 scale"),
    "a radius over nothing": (dict(threat="linf:8/0"), "needs a radius"),
    "a radius below nothing": (dict(threat="l2:-1"), "must be positive"),
    "unknown attack": (dict(attacks="pdg"), "there is no attack 'pdg' (did you mean pgd"),
    "no attack": (dict(attacks=" , "), "needs at least one attack"),
    "unknown attack of foolbox": (dict(attacks="foolbox:LinfPDG"), "did you mean LinfPGD"),
    "unknown attack of torchattacks": (dict(attacks="torchattacks:PDG"), "did you mean PGD"),
    "no function": (dict(attacks="own_nets:NOT_A_MODEL"), "is no function of (model, x, y)"),
    "unknown detector": (dict(detectors="entrophy"), "there is no detector 'entrophy' (did you mean entropy"),
    "no detector": (dict(detectors="own_nets:NOT_A_MODEL"), "is no function of (logits, features)"),
    "no such device": (dict(device="cuda:99"), "cuda"),
    "a folder in a file": (dict(out="file/deeper"), "is a file; name another folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused_in_one_sentence(home, case):
    new, says = REFUSED[case]
    bad_files(home)
    before = sorted(p for p in home.rglob("*") if "__pycache__" not in p.parts)
    done = command(*changed(USUAL, **{"out": "mine"} | new))
    assert done.exit_code == 2, done.output
    assert says in done.stderr and done.stderr.startswith("confnb: ") and "Traceback" not in done.output
    assert sorted(p for p in home.rglob("*") if "__pycache__" not in p.parts) == before


def test_a_folder_that_cannot_be_written(home, monkeypatch):
    monkeypatch.setattr(r.os, "access", lambda path, mode: mode == r.os.R_OK)
    assert "no permission" in command(*USUAL, "--out", "closed").stderr


def test_a_model_that_is_right_on_nothing(digits):
    class Wrong(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 10), -5.0).index_fill_(1, torch.tensor([3]), 5.0) + 0 * x.mean()

    with pytest.raises(r.Refusal, match="right on no image at all"):
        one = digits.y_test != 3
        r.report(Wrong(), type(digits)(**vars(digits) | {"x_test": digits.x_test[one], "y_test": digits.y_test[one]}), "linf:0.1", ["noise"], {}, points=9, say=lambda line: None)


# the tables


def answers(confidence, right, attack="clean", wrong=None, score=None):
    "A table of examples"
    n = len(confidence)
    return pd.DataFrame({"index": range(n), "attack": attack, "label": 0, "prediction": [0 if ok else 1 for ok in right], "confidence": confidence,
                         "wrong_confidence": wrong if wrong is not None else [0.1] * n, "passes": 5, "score s": score if score is not None else confidence})


def test_all_together_is_the_bundle(small_model, digits):
    x, y = digits.x_test[:25], digits.y_test[:25]
    attacks = {"a": partial(max_confidence, ball=Linf(0.05)), "b": partial(max_confidence, ball=L2(1.0), seed=1)}
    found = bundle(*(a(small_model, x, y) for a in attacks.values()))
    best = r.together(evaluate(small_model, x, y, attacks))
    clean = evaluate(small_model, x, y).wrong_confidence
    np.testing.assert_allclose(best.wrong_confidence, np.maximum(found.confidence.numpy(), clean), rtol=1e-4)
    assert best.passes.tolist() == found.passes.tolist() and best["index"].tolist() == [*range(25)] and set(best.attack) == {r.TOGETHER}


def test_attack_table_by_hand():
    held = answers([0.5, 0.6, 0.7, 0.8, 0.9] * 4, [True] * 20)
    clean = answers([0.9, 0.9, 0.9, 0.4], [True, True, False, False])
    hit = answers([0.95, 0.3, 0.2, 0.99], [False, False, True, False], "hit", [0.95, 0.3, 0.1, 0.99])
    table = r.attack_table(pd.concat([clean, hit]), held).set_index("attack")
    assert table.index.tolist() == ["clean", "hit", r.TOGETHER]
    assert table.loc["clean", "accuracy"] == 0.5 and table.loc["hit", "accuracy"] == 0.25 and table.loc["hit", "wrong_confidence"] == pytest.approx(0.585)
    # accepted above .5: clean 0, 1, 2, attacked 0 and 3; wrong among them: 2 clean, 0 and 3 attacked; answered 0, 1, 2, 3
    assert table.loc["hit", "error at 95 %"] == 3 / 4
    assert table.loc["clean", "error at 95 %"] == 1 / 3


def test_detector_table_by_hand():
    rng = np.random.default_rng(1)
    held = answers(rng.random(200), [True] * 200)
    clean = answers(rng.random(50), [True] * 50)
    hit = answers(rng.random(50) * 0.5, [i % 3 == 0 for i in range(50)], "hit")
    table = r.detector_table(pd.concat([clean, hit]), held, ["s"])
    row, wrong = table.iloc[0], hit[hit.prediction != hit.label]["score s"]
    assert row.mistakes == len(wrong) and row.auc == pytest.approx(roc_auc_score([1] * 50 + [0] * len(wrong), [*clean["score s"], *wrong]))
    limit = np.sort(held["score s"])[10]
    assert row["caught at 5 %"] == (wrong < limit).mean() and row["false alarms at 5 %"] == (clean["score s"] < limit).mean()
    assert (held["score s"] < limit).mean() <= 0.05
    unharmed = r.detector_table(pd.concat([clean, answers([0.9] * 50, [True] * 50, "weak")]), held, ["s"])
    assert unharmed.mistakes.eq(0).all() and unharmed.auc.isna().all() and math.isnan(unharmed["caught at 1 %"].iloc[0])


def test_calibration_counts_every_example_once():
    rng = np.random.default_rng(2)
    confidence = np.append(rng.random(97), [0.0, 1.0, 1.0 + 1e-7])
    table = r.calibration_table(answers(confidence, rng.random(100) < confidence.clip(0, 1)))
    assert table.examples.sum() == 100 and (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()
    assert ((table["from"] <= table.confidence) & (table.confidence <= table["to"] + 1e-6)).all()
    assert 0 <= r.calibration_error(table) <= 1


# the signs of a failing attack


class Saturated(nn.Module):
    "A model whose outputs are so far apart that the loss has no gradient where it is right"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 1e4 * self.model(x)


class Masked(nn.Module):
    "A model without gradients: it rounds its input"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 3).round() / 3)


class Drawing(nn.Module):
    "A model that draws at random"

    def __init__(self, model):
        super().__init__()
        self.model, self.rng = model, generator(0)

    def forward(self, x):
        return self.model(x) + torch.randn(len(x), 10, generator=self.rng)


def odd(model, digits, **given):
    found = r.report(model, digits, "linf:0.1", **{**SMALL, "detectors": {}, **given})
    return " / ".join(found.tables["checks"].query("~fine").name), found


def test_checks_find_nothing_on_an_honest_model(small_model, digits):
    names, found = odd(small_model, digits, attacks=["noise", "maxconfidence"])
    assert names == "" and found.summary[-1] == "No sign that the attacks failed." and len(found.tables["checks"]) == 6


@pytest.mark.parametrize("kind, says", [(Saturated, "the loss has gradients"), (Masked, "the loss has gradients"), (Drawing, "the same answer twice")])
@pytest.mark.filterwarnings("ignore")
def test_checks_see_through(kind, says, small_model, digits):
    names, found = odd(kind(small_model), digits)
    assert says in names and found.summary[-1].startswith("Checks that failed, ")


@pytest.mark.filterwarnings("ignore")
def test_checks_see_an_untrained_model_and_an_attack_that_misses(digits, small_model):
    assert "better than chance" in odd(build("model_a", digits.shape, 10, filters=4), digits)[0]
    names, _ = odd(small_model, digits, attacks={"noise": r.attack_from("maxconfidence", Linf(0.1)), "weak": lazy})
    assert "one attack finds what the others find (weak)" in names and "gradients do better than noise" in names


def lazy(model, x, y):
    return x


def test_a_falling_error_is_seen(small_model, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    table = evaluate(small_model, x, y, {"a": lazy})
    radii = pd.DataFrame({"eps": [0.1, 0.2], "error": [0.8, 0.5]})
    found = {c.name: c.fine for c in r.checks(small_model, x, y, table, radii, 10)}
    assert not found["the error does not fall when the set grows"]


def test_radii_stay_on_the_scale(small_model, digits):
    radii = r.radius_table(small_model, digits.x_test[:8], digits.y_test[:8], Linf(0.6))
    assert radii.eps.tolist() == pytest.approx([0.15, 0.3, 0.6]) and (radii.error.diff()[1:] >= 0).all()


# detectors


def test_detectors_of_logits_are_the_formulas():
    logits = torch.randn(50, 7, generator=generator(0)) * 3
    p = logits.double().softmax(1)
    torch.testing.assert_close(r.confidence_score(logits), (p.amax(1) / (1 - p.amax(1))).log(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(r.negative_entropy(logits).double(), (p * p.log()).sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(r.max_logit(logits), logits.max(1).values)
    sure = torch.tensor([[0.0, 20.0], [0.0, 60.0]])
    assert sure.softmax(1).amax(1).unique().numel() == 1 and r.confidence_score(sure).tolist() == [20, 60]


def test_the_detectors_of_the_rce_topic(small_model, digits):
    rce = pytest.importorskip("confnb.rce")
    logits = torch.randn(9, 10, generator=generator(1))
    torch.testing.assert_close(r.detector_from("non-me", small_model, digits)(logits, None).double(), rce.non_me(logits.double().softmax(1)), atol=1e-6, rtol=1e-6)
    near = r.detector_from("kdensity", small_model, digits)
    logits, hidden = outputs(small_model, digits.x_test[:30])
    inside, outside = near(logits, hidden), near(logits, hidden + 50)
    assert (inside > outside).all() and (inside <= 0).all()
    with pytest.raises(r.Refusal, match="final hidden vector"):
        r.detector_from("kdensity", nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten()), digits)


def test_a_model_without_a_linear_layer_has_a_report(digits):
    torch.manual_seed(0)
    found = r.report(nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten()), digits, "linf:0.1", ["noise"], ["entropy"], points=12, say=lambda line: None)
    assert "score entropy" in found.table
