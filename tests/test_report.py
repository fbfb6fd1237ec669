"""A report on a user's own model: from the command line and from Python, with the same numbers, and what is refused."""

import copy
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
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
from toys import SOAK, Edges, backwards
from typer.testing import CliRunner

from confnb import basics, detectors, reject_rules
from confnb import statistics as regularization
from confnb.architectures import Normalize
from confnb.attacks import pgd
from confnb.cache import cache_dir
from confnb.data import load_data
from confnb.evaluation import (
    checks,
    loading,
    report_page,
    report_tables,
    reporting,
    signs,
    specs,
    summary,
    trust,
)
from confnb.evaluation import command as command_module
from confnb.found import bundle
from confnb.maxconfidence import max_confidence
from confnb.models import build, outputs, save_weights
from confnb.objectives import NoGradient
from confnb.runtime import generator, predict
from confnb.selective import ABSTAIN, answer_or_abstain, choose_threshold
from confnb.sets import L0, L2, Linf
from confnb.tables import evaluate

SMALL = dict(attacks=["noise", "pgd"], points=20, say=lambda line: None)
FEW = dict(points=12, effort="quick", say=lambda line: None)
QUICK = SMALL | FEW
LEAST = QUICK | dict(attacks=["noise"])
OWN = '''
from pathlib import Path

import torch
from confnb.architectures import model_a
from confnb.sets import Linf

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
    if len(x) > 2:  # fewer are a look at what is remembered
        with Path("calls").open("a") as f:
            f.write("brighter ")
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
    app.command("evaluate")(command_module.evaluate_command)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["evaluate", *words])


USUAL = ["--model", "own_nets:net", "--weights", "own.safetensors", "--data", "digits", "--threat", "linf:0.1", "--attacks", "noise,pgd", "--points", "20"]


def changed(words, **new):
    "The usual words with other values"
    flags = dict(zip(words[::2], words[1::2], strict=True)) | {f"--{k}": v for k, v in new.items()}
    return [w for k, v in flags.items() if v is not None for w in (k, v)]


SHORT = changed(USUAL, points="12", effort="quick")


def contents(folder):
    "Every file below a folder, by its name"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# the page


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_the_command_and_python_say_the_same(home, digits, small_model):
    done = command(*SHORT, "--out", "runs/mine")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "runs/mine/index.html" and "pgd" in done.output and "held-out images" in done.output
    small_model.train()
    found = reporting.report(small_model, digits, "linf:0.1", out="runs/python", **QUICK)
    assert small_model.training and all(p.requires_grad for p in small_model.parameters())
    one, two = home / "runs/mine", home / "runs/python"
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for name in ("examples.parquet", "held.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(one / name), pd.read_parquet(two / name))
    for name in found.tables:
        pd.testing.assert_frame_equal(pd.read_csv(one / f"{name}.csv"), pd.read_csv(two / f"{name}.csv"))
    assert found.summary == json.loads((one / "manifest.json").read_text())["summary"] and found.page == two.relative_to(home) / "index.html"


def test_the_page_needs_nothing_beside_it_and_the_manifest_knows_every_file(home, monkeypatch, less):
    usual = trust.REPORT_EFFORTS["standard"]  # a quick report has no figure of radii
    monkeypatch.setitem(trust.REPORT_EFFORTS, "standard", replace(usual, few=less.few, planted=less.planted, trails=less.trails, queries=less.queries))
    assert command(*changed(USUAL, points="12"), "--out", "mine").exit_code == 0
    folder = home / "mine"
    page, told = (folder / "index.html").read_text(), json.loads((folder / "manifest.json").read_text())
    assert not re.search(r"<(?:script|link|iframe)\b|(?:src|href)=\"(?!data:)|url\(", page) and page.count("<figure><img src=\"data:image/png;base64,") == 5
    assert "What the confidence of own_nets:net is worth" in page and "nan" not in re.sub(r"<[^>]*>", "", page).lower()
    for sentence in told["summary"]:
        assert sentence in page
    assert told["files"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name not in ("index.html", "manifest.json")}
    assert {p.stem for p in folder.glob("*.png")} == {p.stem for p in folder.glob("*.svg")} == {"curve", "calibration", "detectors", "radii", "samples"}
    assert {p.stem for p in folder.glob("*.png")} <= {p.stem for p in folder.glob("*.csv")}
    assert told["versions"]["torch"] and told["device"].startswith("cpu") and told["seconds"] > 0
    assert told["parameters"] == {"data": "scikit-learn digits (16 x 16)", "threat": "linf:0.1", "attacks": ["noise", "pgd"], "detectors": ["confidence", "max-logit", "entropy"],
                                  "reject": None, "effort": "standard", "held": "the training set", "points": 12, "seed": 0, "model": "own_nets:net", "weights": "own.safetensors", "mean": None, "std": None, "option": []}


@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_everything_at_once(home, capsys):
    "The user's own attack and detector, foolbox, torchattacks, an attack that leaves the set, an L2 threat"
    pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    names = "own_nets:brighter,own_nets:outside,foolbox:L2FastGradientAttack,torchattacks:PGDL2,fgsm"
    done = command(*changed(USUAL, attacks=names, threat="l2:1.0", detectors="confidence,own_nets:norm"), "--quick", "--out", "mine")
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(home / "mine/examples.parquet")
    assert set(table.attack) == {"clean", *names.split(",")} and table.l2.max() <= 1 + 1e-5
    assert (table[table.attack == "own_nets:outside"].l2 == 0).all() and (table[table.attack == "torchattacks:PGDL2"].passes == 10).all()
    assert {"score confidence", "score own_nets:norm"} <= set(table.columns)


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_killed_and_called_again_goes_on(home):
    done = command(*changed(SHORT, attacks="own_nets:brighter,own_nets:stopped"), "--out", "mine")
    assert done.exit_code == 130 and "goes on from there" in done.output and not (home / "mine").exists()
    calls = home / "calls"
    assert calls.read_text() == "brighter "
    assert command(*changed(SHORT, attacks="own_nets:brighter,noise"), "--out", "mine").exit_code == 0 and calls.read_text() == "brighter "
    (home / "own_nets.py").write_text(OWN.replace("x + ball.eps", "x - ball.eps"))
    del sys.modules["own_nets"]
    assert command(*changed(SHORT, attacks="own_nets:brighter"), "--out", "mine").exit_code == 0
    assert calls.read_text() == "brighter brighter ", "an attack whose text has changed is another attack"


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_a_page_that_is_there_is_whole(home, small_model, digits, monkeypatch):
    reporting.report(small_model, digits, "linf:0.1", out="mine", **LEAST)
    before = contents(home / "mine")
    monkeypatch.setattr(report_page, "_page", lambda *_: 1 / 0)
    for folder in "mine", "other":
        with pytest.raises(ZeroDivisionError):
            reporting.report(small_model, digits, "linf:0.05", out=folder, **LEAST)
    assert contents(home / "mine") == before, "what was there is there, whole"
    assert not (home / "other").exists()


def test_functions_are_taken_as_they_are_and_nothing_is_written_without_a_folder(home, small_model, digits, few_tries):
    found = reporting.report(small_model, digits, Linf(0.05), {"mine": partial(pgd, ball=Linf(0.05), steps=3)}, {}, **FEW | {"points": 15})
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
    return load_data("npz:own.npz")


@pytest.mark.parametrize("normalisation", [{}, IMAGENET], ids=["inside", "outside"])
@pytest.mark.parametrize("spec", ["torchvision.models:resnet18", "timm:test_resnet.r160_in1k", "timm.models:test_vit"])
def test_models_of_torchvision_and_timm(colours, spec, normalisation):
    pytest.importorskip(spec.split(".")[0].split(":")[0])
    model = loading.model_from(spec, colours, **normalisation)
    x, y = colours.x_test[:3], colours.y_test[:3]
    assert isinstance(model, nn.Sequential) == bool(normalisation) and predict(model, x).shape == (3, 3)
    table = evaluate(model, x, y, {"fgsm": specs.attack_from("fgsm", Linf(8 / 255))})
    assert table[table.attack == "fgsm"].linf.between(1e-3, 8 / 255 + 1e-6).all()


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_a_model_of_timm_from_the_command_line(colours):
    pytest.importorskip("timm")
    words = ["--model", "timm:test_resnet.r160_in1k", "--data", "npz:own.npz", "--threat", "linf:8/255", "--attacks", "fgsm", "--points", "6", "--effort", "quick", "--force", "--std", "0.2,0.2,0.2"]
    done = command(*words, "--mean", "0.5,0.5,0.5", "--out", "mine")
    assert done.exit_code == 0, done.output
    assert len(pd.read_parquet("mine/examples.parquet")) == 12 and "failed:" in Path("mine/index.html").read_text()


TEMPERED = """
from torch import nn
from own_nets import net

class Tempered(nn.Module):
    def __init__(self, base, t):
        super().__init__()
        self.base, self.t = base, t

    def forward(self, x):
        return self.base(x) / self.t

def tempered(shape, classes, t=1.0):
    return Tempered(net(shape, classes), t)
"""


def test_another_option_is_another_model(home, digits, small_model, few_tries):
    "Temperature is a plain attribute: no weight, no buffer, nothing of the model's repr"
    (home / "tempered_nets.py").write_text(TEMPERED)
    save_file({f"base.{k}": v for k, v in small_model.state_dict().items()}, "tempered.safetensors")
    found = {}
    for k in 1, 30:
        model = loading.model_from("tempered_nets:tempered", digits, "tempered.safetensors", options={"t": k})
        found[k] = reporting.report(model, digits, "linf:0.1", ["pgd"], {}, **FEW).tables["attacks"]
    assert found[1].wrong_confidence[1] > 0.5 and found[30].wrong_confidence[1] < 0.2, "the second has a table of its own"
    assert found[1].accuracy[0] == found[30].accuracy[0] > 0.7


def test_normalisation_outside_and_inside_are_the_same_model(home, digits, small_model):
    inner = nn.Sequential(*list(small_model)[1:])
    assert isinstance(small_model[0], Normalize)
    (home / "inner_nets.py").write_text("import torch\nfrom confnb.models import model_a\ndef net(shape, classes):\n    return torch.nn.Sequential(*list(model_a(shape, classes, 8))[1:])\n")
    save_weights(inner, "inner.safetensors")
    outside = loading.model_from("inner_nets:net", digits, "inner.safetensors", mean=[0.5], std=[0.5])
    torch.testing.assert_close(predict(outside, digits.x_test), predict(small_model, digits.x_test))


def test_factories_are_told_what_they_ask_for(home, digits, small_model):
    assert predict(loading.model_from("own_nets:wide", digits, options={"filters": 4}), digits.x_test[:2]).shape == (2, 10)
    first, second, other = (loading.model_from("own_nets:net", digits, seed=s) for s in (0, 0, 1))
    assert torch.equal(first[1].weight, second[1].weight) and not torch.equal(first[1].weight, other[1].weight)
    (home / "own_nets.py").write_text("from confnb.models import build\nready = build('model_a', (1, 16, 16), 10, filters=4)\n")
    sys.modules.pop("own_nets")
    assert loading.model_from("own_nets:ready", digits) is sys.modules["own_nets"].ready


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
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("confnb.basics.tempfile.TemporaryDirectory", refused)
    assert "cannot be written: Permission denied" in command(*USUAL, "--out", "closed").stderr


def test_a_disk_that_is_full_when_the_page_is_written_is_named(home, small_model, digits, monkeypatch, few_tries):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page, "save_table", full)
    with pytest.raises(basics.UsageError, match="--out mine cannot be written: No space left on device; make room or name another folder"):
        reporting.report(small_model, digits, "linf:0.1", ["noise"], out="mine", **FEW)
    assert not (home / "mine").exists()


def test_a_model_that_is_right_on_nothing(digits):
    class Wrong(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 10), -5.0).index_fill_(1, torch.tensor([3]), 5.0) + 0 * x.mean()

    with pytest.raises(basics.UsageError, match="right on 0 of .* there is nothing to report"):
        one = digits.y_test != 3
        reporting.report(Wrong(), type(digits)(**vars(digits) | {"x_test": digits.x_test[one], "y_test": digits.y_test[one]}), "linf:0.1", ["noise"], {}, points=9, say=lambda line: None)


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
    best = report_tables.worst_case(evaluate(small_model, x, y, attacks))
    clean = evaluate(small_model, x, y).wrong_confidence
    np.testing.assert_allclose(best.wrong_confidence, np.maximum(found.wrong_confidence.numpy(), clean), rtol=1e-4)
    assert best.passes.tolist() == found.passes.tolist() and best["index"].tolist() == [*range(25)] and set(best.attack) == {report_tables.TOGETHER}


def test_all_together_keeps_a_mistake_before_a_point_that_is_right_and_less_sure_of_it():
    "A model of high temperature: at the first image the right answer leads by a hair, at the second two attacks lead to mistakes, at the third to none"
    clean = answers([0.14, 0.9, 0.9], [True] * 3, "clean", [0.13, 0.05, 0.05])
    one = answers([0.12, 0.3, 0.8], [False, False, True], "one", [0.12, 0.3, 0.1])
    two = answers([0.12, 0.4, 0.7], [True, False, True], "two", [0.11, 0.4, 0.2])
    best = report_tables.worst_case(pd.concat([clean, one, two]))
    assert best.wrong_confidence.tolist() == [0.12, 0.4, 0.2] and best.prediction.tolist() == [1, 1, 0] and best.passes.tolist() == [15] * 3
    held = answers([0.5, 0.6, 0.7, 0.8, 0.9] * 4, [True] * 20)
    table = report_tables.attack_table(pd.concat([clean, one, two]), held).set_index("attack")
    assert table.accuracy[report_tables.TOGETHER] == table.accuracy.min() == 1 / 3


def test_attack_table_by_hand():
    held = answers([0.5, 0.6, 0.7, 0.8, 0.9] * 4, [True] * 20)
    clean = answers([0.9, 0.9, 0.9, 0.4], [True, True, False, False])
    hit = answers([0.95, 0.3, 0.2, 0.99], [False, False, True, False], "hit", [0.95, 0.3, 0.1, 0.99])
    table = report_tables.attack_table(pd.concat([clean, hit]), held).set_index("attack")
    assert table.index.tolist() == ["clean", "hit", report_tables.TOGETHER]
    assert table.loc["clean", "accuracy"] == 0.5 and table.loc["hit", "accuracy"] == 0.25 and table.loc["hit", "wrong_confidence"] == pytest.approx(0.585)
    # accepted above .5: clean 0, 1, 2, attacked 0 and 3; wrong among them: 2 clean, 0 and 3 attacked; answered 0, 1, 2, 3
    assert table.loc["hit", "error at 95 %"] == 3 / 4
    assert table.loc["clean", "error at 95 %"] == 1 / 3


def test_detector_table_by_hand():
    rng = np.random.default_rng(1)
    held = answers(rng.random(200), [True] * 200)
    clean = answers(rng.random(50), [True] * 50)
    hit = answers(rng.random(50) * 0.5, [i % 3 == 0 for i in range(50)], "hit")
    table = report_tables.detector_table(pd.concat([clean, hit]), held, ["s"])
    row, wrong = table.iloc[0], hit[hit.prediction != hit.label]["score s"]
    assert row.mistakes == len(wrong) and row.auc == pytest.approx(roc_auc_score([1] * 50 + [0] * len(wrong), [*clean["score s"], *wrong]))
    limit = np.sort(held["score s"])[10]
    assert row["caught at 5 %"] == (wrong < limit).mean() and row["false alarms at 5 %"] == (clean["score s"] < limit).mean()
    assert (held["score s"] < limit).mean() <= 0.05
    unharmed = report_tables.detector_table(pd.concat([clean, answers([0.9] * 50, [True] * 50, "weak")]), held, ["s"])
    assert unharmed.mistakes.eq(0).all() and unharmed.auc.isna().all() and math.isnan(unharmed["caught at 1 %"].iloc[0])


def test_the_calibration_of_a_report_is_that_of_the_topic(small_model, digits, few_tries):
    found = reporting.report(small_model, digits, "linf:0.1", ["noise"], {}, **FEW | {"points": 40})
    clean, table = found.table[found.table.attack == "clean"], found.tables["calibration"]
    right = clean.prediction == clean.label
    pd.testing.assert_frame_equal(table, regularization.reliability(clean.confidence, right))
    gap = regularization.calibration_error(clean.confidence, right)
    assert f"a calibration error of {gap:.3f}." in found.summary[1]
    assert gap == pytest.approx(((table.accuracy - table.confidence).abs() * table["count"]).sum() / 40)
    (marks,) = [c for c in found.figures["calibration"].axes[0].containers if c.get_label().startswith("accuracy")]
    np.testing.assert_allclose(marks[0].get_xydata(), table[["confidence", "accuracy"]])


def test_a_detectors_threshold_is_that_of_the_topic():
    "At a false-alarm rate that the number of scores does not divide, with ties and infinities"
    held = answers([0.5] * 37, [True] * 37, score=[-math.inf, *np.repeat(np.arange(12.0), 3)])
    clean, hit = answers([0.5] * 8, [True] * 8, score=np.arange(8.0)), answers([0.5] * 4, [False] * 4, "hit", score=[-math.inf, 0, 0.5, 3])
    row = report_tables.detector_table(pd.concat([clean, hit]), held, ["s"]).iloc[0]
    for share in report_tables._ALARMS:
        turned_away = answer_or_abstain(torch.zeros(4, dtype=torch.long), torch.tensor(hit["score s"].to_numpy()), choose_threshold(held["score s"], lose=share)) == ABSTAIN
        assert row[f"caught at {100 * share:.0f} %"] == turned_away.float().mean()


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


class DrawingGlobally(Saturated):
    "Noise from the global generator, which is put back after every call"

    def forward(self, x):
        return self.model(x) + torch.randn(len(x), 10)


class Drawing(nn.Module):
    "A model that draws at random"

    def __init__(self, model):
        super().__init__()
        self.model, self.rng = model, generator(0)

    def forward(self, x):
        return self.model(x) + torch.randn(len(x), 10, generator=self.rng)


def odd(model, digits, **given):
    found = reporting.report(model, digits, "linf:0.1", **{**SMALL, "detectors": {}, **given})
    return " / ".join(found.tables["checks"].query("~fine").name), found


class Sure(Saturated):
    "A model that is right with a confidence that rounds to 1, its gradients still there"

    def forward(self, x):
        return 6 * self.model(x)


@pytest.mark.slow
def test_a_model_whose_confidence_rounds_to_one_is_spoken_of(small_model, digits, few_tries):
    said = {kind: [s for s in odd(kind(small_model), digits, attacks=["noise"], effort="quick")[1].summary if "within 1e-06 of 1" in s] for kind in (nn.Sequential, Sure)}
    assert said[nn.Sequential] == [] and re.search(r"at [5-9]\d\.\d % of the images that the model gets right", said[Sure][0])


def test_attacks_that_the_report_advises_can_be_given():
    (said,) = summary._certain(pd.DataFrame({"label": [0] * 4, "prediction": [0] * 4, "confidence": [1.0] * 4}))
    advised = re.search(r"such as (\w+),? or (\w+)", said).groups()
    assert set(advised) <= set(specs.ATTACKS)


def test_checks_find_nothing_on_an_honest_model(small_model, digits):
    names, found = odd(small_model, digits, attacks=["noise", "maxconfidence"])
    assert names == "" and found.sound and found.summary[0].startswith("sound: all 24 checks") and len(found.tables["checks"]) == 24


@pytest.mark.parametrize("kind, says", [(Saturated, "the loss has gradients"), pytest.param(Masked, "the loss has gradients", marks=SOAK), pytest.param(Drawing, "the same answer twice", marks=SOAK), (DrawingGlobally, "the same answer twice")])
@pytest.mark.filterwarnings("ignore")
def test_checks_see_through(kind, says, small_model, digits, few_tries):
    names, found = odd(kind(small_model), digits, **FEW)
    assert says in names and found.summary[0].startswith("not sound: ") and not any("it is right on" in line for line in found.summary)


@pytest.mark.filterwarnings("ignore")
def test_checks_see_an_untrained_model_and_an_attack_that_misses(digits, small_model, few_tries):
    assert "better than chance" in odd(build("model_a", digits.shape, 10, filters=4), digits, force=True, **FEW)[0]
    names, _ = odd(small_model, digits, **FEW, attacks={"noise": specs.attack_from("maxconfidence", Linf(0.1)), "weak": lazy})
    assert "one attack finds what the others find (weak)" in names and "gradients do better than noise" in names


def lazy(model, x, y):
    return x


def test_a_falling_error_is_seen(small_model, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    table = evaluate(small_model, x, y, {"a": lazy})
    radii = pd.DataFrame({"eps": [0.1, 0.2], "error": [0.8, 0.5], "wrong_confidence": [0.7, 0.4]})
    found = {c.name: c.fine for c in checks.run_checks(small_model, x, y, table, radii, 10)}
    assert not found["the error does not fall when the set grows"]


def test_radii_stay_on_the_scale(small_model, digits):
    radii = checks.radius_table(small_model, digits.x_test[:8], digits.y_test[:8], Linf(0.6))
    assert radii.eps.tolist() == pytest.approx([0.15, 0.3, 0.6, 1]) and (radii.error.diff()[1:] >= 0).all()


@pytest.mark.parametrize("ball, last", [(Linf(0.1), 1.0), (Linf(1.0), 1.0), (L2(1.0), 16.0), (L0(4), 256.0)], ids=str)
def test_the_last_radius_is_the_whole_box_and_every_image_has_a_mistake_there(small_model, digits, ball, last):
    radii = checks.radius_table(small_model, digits.x_test[:12], digits.y_test[:12], ball, times=(1,))
    box = radii.iloc[-1]
    assert box.eps == last and box.error == 1 and box.wrong_confidence > 0.9 and radii.times.tolist() == sorted({1.0, last / float(ball.eps)})


# detectors


def test_detectors_of_logits_are_the_formulas():
    logits = torch.randn(50, 7, generator=generator(0)) * 3
    p = logits.double().softmax(1)
    torch.testing.assert_close(detectors.confidence_score(logits), (p.amax(1) / (1 - p.amax(1))).log(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(reject_rules.negative_entropy(logits).double(), (p * p.log()).sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(reject_rules.max_logit(logits), logits.max(1).values)
    sure = torch.tensor([[0.0, 20.0], [0.0, 60.0]])
    assert sure.softmax(1).amax(1).unique().numel() == 1 and detectors.confidence_score(sure).tolist() == [20, 60]


def test_the_detectors_by_name(small_model, digits):
    logits = torch.randn(9, 10, generator=generator(1))
    torch.testing.assert_close(specs.detector_from("non-me", small_model, digits)(logits, None).double(), detectors.non_me(logits.double().softmax(1)), atol=1e-6, rtol=1e-6)
    near = specs.detector_from("kdensity", small_model, digits)
    logits, hidden = outputs(small_model, digits.x_test[:30])
    inside, outside = near(logits, hidden), near(logits, hidden + 50)
    assert (inside > outside).all() and (inside <= 0).all()
    with pytest.raises(basics.UsageError, match="final hidden vector"):
        specs.detector_from("kdensity", nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten()), digits)


def test_a_model_without_a_linear_layer_has_a_report(digits, few_tries):
    torch.manual_seed(0)
    found = reporting.report(nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten()), digits, "linf:0.1", ["noise"], ["entropy"], force=True, **FEW)
    assert "score entropy" in found.table


# what the attacks leave beside their points


def leaving(model, x, y):
    return 1 - x


def astray(model, x, y):
    "Half the points lie outside, and one is no number"
    z = x.clone()
    z[: len(x) // 2] = 1 - z[: len(x) // 2]
    z[-1] = torch.nan
    return z


def murmuring(model, x, y):
    warnings.warn("the gradient is exactly zero at every start for 3 of 20 examples (15%)", NoGradient, stacklevel=1)
    warnings.warn("something else", stacklevel=1)
    return x


def alone(model, digits, attack, **given):
    return reporting.report(model, digits, "linf:0.1", {"mine": attack}, {}, points=20, say=lambda line: None, **given)


@pytest.mark.parametrize("attack, lost", [(leaving, 20), pytest.param(astray, 11, marks=pytest.mark.soak), pytest.param(lazy, 0, marks=pytest.mark.soak)])
@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_points_outside_the_set_are_counted(home, small_model, digits, attack, lost):
    for _ in range(2):  # the second time from the cache
        found = alone(small_model, digits, attack, out="mine", effort="quick")
        assert found.tables["attacks"].set_index("attack").outside.to_dict() == {"clean": 0, "mine": lost, report_tables.TOGETHER: lost}
        assert found.table.groupby("attack").outside.sum().to_dict() == {"clean": 0, "mine": lost}
        sentence = f"mine: {lost} of 20 points outside the set, counted as no attack."
        assert (sentence in found.summary) == (lost > 0) == (sentence in found.page.read_text())
        (check,) = found.tables["checks"].query("name == 'the attacks stay in the set'").itertuples()
        assert check.fine == (lost == 0) and found.manifest["outside"] == {"mine": lost}


LONG = [pytest.param(n, marks=SOAK) for n in "jsma foolbox:L2PGD cw_l2 cw_hc ddn cw_l2_fast torchattacks:PGDL2 torchattacks:CW".split()]


@pytest.mark.parametrize("name", [*LONG, "negative", "torchattacks:OnePixel"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("few_tries")
def test_an_attack_of_another_norm_does_not_look_harmless(small_model, digits, name):
    if ":" in name:
        pytest.importorskip(name.split(":")[0])
    found = reporting.report(small_model, digits, "linf:0.1", [name], {}, **FEW)
    assert found.summary[0].startswith("not sound") and not found.tables["checks"].fine.all()


def spoiled(model, x, y):
    return x * math.nan


@pytest.mark.parametrize("attacks", [{"own": lazy}, {"own": leaving}, {"own": spoiled}, pytest.param(["ddn", "jsma", "negative"], marks=SOAK)], ids=["x itself", "outside", "NaN", "three"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("few_tries")
def test_an_attack_that_does_nothing_does_not_look_harmless(small_model, digits, attacks):
    found = reporting.report(small_model, digits, "linf:0.1", attacks, {}, **FEW)
    failed = set(found.tables["checks"].query("~fine").name)
    assert found.summary[0].startswith("not sound") and not any("it is right on" in line for line in found.summary)
    assert "twice the effort finds no more" in failed and ("the attacks stay in the set" in failed) == (attacks != {"own": lazy})


@pytest.mark.slow
def test_an_attack_that_looks_for_the_nearest_mistake_may_find_none_inside(small_model, digits):
    found = reporting.report(small_model, digits, "l2:0.3", ["ddn", "maxconfidence"], {}, **FEW | {"points": 20})
    assert 2 < found.manifest["outside"]["ddn"] < 20 and found.tables["checks"].fine.all(), found.tables["checks"][["name", "measured"]]


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_warnings_of_an_attack_are_on_the_page_in_the_summary_and_still_given(home, small_model, digits):
    with pytest.warns(NoGradient, match="3 of 20"), pytest.warns(UserWarning, match="something else"):
        first = alone(small_model, digits, murmuring, out="mine", effort="quick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = alone(small_model, digits, murmuring, out="mine", effort="quick")  # from the cache
    for found in first, again:
        assert found.tables["warnings"].kind.tolist() == ["NoGradient", "UserWarning"] and set(found.tables["warnings"].attack) == {"mine"}
        assert "mine warned (UserWarning): something else." in found.summary and "for 3 of 20 examples" in found.page.read_text()
        assert "no attack stood still" in " ".join(found.tables["checks"].query("~fine").name)


def test_what_an_attack_warns_of_is_not_lost_with_its_notes(small_model, digits, few_tries):
    alone(small_model, digits, leaving, effort="quick")
    for p in (cache_dir() / "notes").glob("*"):
        p.unlink()
    assert alone(small_model, digits, leaving, effort="quick").manifest["outside"] == {"mine": 20}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_warnings_of_the_table_of_radii_are_on_the_page_too(home, small_model, digits, monkeypatch, less):
    "Noise needs no gradient, so that only the MaxConfidence attack at other radii finds that there is none"
    monkeypatch.setitem(trust.REPORT_EFFORTS, "standard", replace(less, times=trust.REPORT_EFFORTS["standard"].times))
    for _ in "computed", "from the cache":
        found = reporting.report(Turned(small_model, 0.0), digits, "linf:0.1", **SMALL | {"attacks": ["noise"], "points": 8}, detectors={}, out="mine")
        said = found.tables["warnings"]
        assert set(said.attack) == {checks.ELSEWHERE} and "NoGradient" in set(said.kind) and said.says.str.match(r"at 0\.\d+, |at 1, ").all()
        assert any(s.startswith(f"{checks.ELSEWHERE} warned (NoGradient): at ") for s in found.summary) and checks.ELSEWHERE in found.page.read_text()


# gradients


class Turned(nn.Module):
    "A model whose gradient is multiplied by something"

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def extra_repr(self):
        return str(self.factor)

    def forward(self, x):
        return self.model(backwards(x, lambda gradient: gradient * self.factor))


@pytest.mark.parametrize("factor, share", [(1.0, 0), (0.0, 1), (math.nan, 1), (math.inf, 1), (-1.0, 0)])
def test_a_gradient_that_is_no_number_is_none(small_model, digits, factor, share):
    model = Turned(small_model, factor)
    assert signs.zero_gradient_fraction(model, digits.x_test[:30], digits.y_test[:30], batch_size=7) == share
    lines = signs.of_gradients(model, digits.x_test[:30], digits.y_test[:30], Linf(0.1))
    assert lines[0].fine == (share == 0) and f"{100 * share:.1f} % of random points of the set" in lines[0].measured


@pytest.mark.parametrize("change, error, says", [(lambda y: torch.cat([y, y]), ValueError, r"labels must have shape \(5,\)"), (lambda y: y[:, None], ValueError, "labels must have shape"),
                                                 (lambda y: y.float(), TypeError, "integer class indices"), (lambda y: y.numpy(), TypeError, "must be a torch.Tensor"), (lambda y: None, TypeError, "not NoneType")])  # fmt: skip
def test_gradients_are_looked_for_at_labels_that_are_labels(small_model, digits, change, error, says):
    with pytest.raises(error, match=says):
        signs.zero_gradient_fraction(small_model, digits.x_test[:5], change(digits.y_test[:5]))
    with torch.inference_mode():
        y = digits.y_test[:5].clone()
    assert signs.zero_gradient_fraction(small_model, digits.x_test[:5], y) == 0


def test_three_images_of_a_hundred_without_a_gradient_are_too_many(small_model, digits):
    x, y = digits.x_test[:100].clone(), digits.y_test[:100]

    class Partly(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.n, self.model = n, small_model

        def forward(self, z):
            keep = torch.ones(len(z), dtype=torch.bool)
            keep[: self.n] = False
            return self.model(torch.where(keep[:, None, None, None], z, z.detach()))

    assert [signs.of_gradients(Partly(n), x, y, None)[0].fine for n in (0, 2, 3)] == [True, True, False]


class EdgesFirst(nn.Module):
    "A model that looks at Sobel magnitudes too, whose gradient is NaN wherever an image is flat"

    def __init__(self, model):
        super().__init__()
        self.model, self.edges = model, Edges()

    def forward(self, x):
        return self.model(0.8 * x + 0.2 * self.edges(x).clamp(0, 1))


class Rounding(EdgesFirst):
    def forward(self, x):
        return self.model((4 * x).round() / 4)


class Detached(EdgesFirst):
    def forward(self, x):
        return self.model(x).detach()


@pytest.mark.parametrize("kind, threat, attack", [(EdgesFirst, "l2:2", "pgd"), pytest.param(Rounding, "linf:0.1", "cw_l2_fast", marks=SOAK), (Detached, "linf:0.1", "cw_l2_fast")])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("few_tries")
def test_a_model_whose_gradients_break_has_a_report_that_says_so(small_model, digits, kind, threat, attack):
    found = reporting.report(kind(small_model), digits, threat, [attack], {}, **FEW)
    assert {"the loss has gradients", "no attack stood still"} <= set(found.tables["checks"].query("~fine").name)


# the tables against one another


def radii_of(*errors, sure=0.9):
    return pd.DataFrame({"times": [0.5, 1, 10], "eps": [0.05, 0.1, 1.0], "error": errors, "wrong_confidence": [0.1, sure, 0.95]})


@pytest.mark.parametrize(
    "radii, odd",
    [
        (radii_of(0.4, 0.8, 1), []),
        (radii_of(0.4, 0.8, 0.7), ["the error does not fall when the set grows", "in the whole box nearly every image has a confident mistake"]),
        (radii_of(0.4, 0.8, 1, sure=1.0), []),
        (radii_of(0.4, 0.8, 0.9), ["in the whole box nearly every image has a confident mistake"]),
    ],
)
def test_the_tables_are_held_against_one_another(radii, odd):
    lines = checks._of_radii(radii, 1.0, 20, usual=0.9)
    assert len(lines) == 2 and [c.name for c in lines if not c.fine] == odd


class OfTheBatch(nn.Module):
    "A model that normalises by the statistics of the batch"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x - 0.5 * x.mean((0, 2, 3), keepdim=True) + 0.1)


def test_a_model_whose_answer_depends_on_the_batch_is_seen(small_model, digits):
    clean = evaluate(OfTheBatch(small_model), digits.x_test[:40], digits.y_test[:40])
    lines = {c.name: c.fine for c in signs.of_answers(OfTheBatch(small_model), digits.x_test[:40], clean, 10)}
    assert lines["the same answer twice"] and not lines["the same answer in another batch"]


# models of other numbers


@pytest.mark.parametrize("kind", [pytest.param("bfloat16", marks=SOAK), "int8"])
@pytest.mark.filterwarnings("ignore")
def test_bfloat16_and_int8_models_have_a_report(small_model, digits, kind, few_tries):
    model = copy.deepcopy(small_model)
    model = model.bfloat16() if kind == "bfloat16" else torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear})
    found = reporting.report(model, digits, "linf:0.1", ["pgd"], ["entropy"], **FEW)
    assert found.tables["attacks"].accuracy.iloc[0] > 0.7 and len(found.table) == 24


# the folder


def foreign(home, name):
    (home / "mine").mkdir()
    (home / "mine" / name).write_text("three years of work")


FILES = ["index.html", "manifest.json", "attacks.csv", "curve.png", "examples.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_holds_somebody_elses_files_is_refused(home, name):
    foreign(home, name)
    before = contents(home / "mine")
    done = command(*USUAL, "--out", "mine")
    assert done.exit_code == 2 and f"--out mine holds {name}, which no report of confnb evaluate put there" in done.stderr
    assert contents(home / "mine") == before


def test_a_report_is_not_written_over_somebody_elses_files(home, small_model, digits, few_tries):
    found = reporting.report(small_model, digits, "linf:0.1", ["noise"], **FEW)
    for name in FILES:
        foreign(home, name)
        before = contents(home / "mine")
        with pytest.raises(basics.UsageError, match="which no report"):
            report_page.write(found, home / "mine")
        assert contents(home / "mine") == before
        shutil.rmtree(home / "mine")


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(home, small_model, digits):
    foreign(home, "notes.txt")
    reporting.report(small_model, digits, "linf:0.1", out="mine", detectors=["entropy"], **LEAST)
    assert (home / "mine/detectors.png").exists()
    manifest = home / "mine/manifest.json"
    manifest.write_text(manifest.read_text().replace('"files": {', '"files": {"../victim.txt": "0", "notes.txt": "0",'))
    (home / "victim.txt").write_text("not yours")
    reporting.report(small_model, digits, "linf:0.05", out="mine", detectors={}, **LEAST)
    assert "linf:0.05" in (home / "mine/index.html").read_text() and not (home / "mine/detectors.png").exists()
    assert (home / "victim.txt").exists() and (home / "mine/notes.txt").read_text() == "three years of work"
    page = (home / "mine/index.html").read_text()
    assert '<meta name="generator" content="confnb ' in page and json.loads(manifest.read_text())["made by"] == "confnb"
    (home / "mine/index.html").write_text("<h1>my own page</h1>")
    with pytest.raises(basics.UsageError, match="holds index.html"):
        reporting.report(small_model, digits, "linf:0.1", out="mine", **SMALL)


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_two_reports_do_not_write_one_folder(home, small_model, digits):
    with report_page._alone(home / "mine"):
        with pytest.raises(basics.UsageError, match="another report is at work in mine; wait for it, or name another folder"):
            reporting.report(small_model, digits, "linf:0.1", out="mine", **SMALL)
        assert (home / "mine").is_dir()
    assert not (home / "mine").exists(), "nothing came into it"
    assert reporting.report(small_model, digits, "linf:0.1", out="mine", **LEAST).page.exists()


# names, weights and modules


@pytest.mark.parametrize("size", [128, 640, 28544])
def test_safetensors_are_told_from_pickles_whatever_the_length_of_their_header(tmp_path, size):
    net, path = nn.Linear(2, 2, bias=False), tmp_path / "w.safetensors"
    paddings = range(max(size - 200, 0), size)
    next(n for n in paddings if safetensors_of(net, path, "x" * n)[:8] == size.to_bytes(8, "little"))
    assert path.read_bytes()[:1] == b"\x80"
    assert loading._with_weights(nn.Linear(2, 2, bias=False), path).weight.equal(net.weight)


def safetensors_of(net, path, padding):
    save_file({k: v.detach() for k, v in net.state_dict().items()}, path, metadata={"padding": padding})
    return path.read_bytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_are_refused(tmp_path, protocol):
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps({"a": [1.0] * 9}, protocol))
    with pytest.raises(basics.UsageError, match="is a pickle"):
        loading._with_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")


def test_images_that_were_trained_on_are_read_only_for_a_detector_that_needs_them():
    "A training set of ImageNet would not fit in memory"
    held_and_test, whole = (specs._loaded("digits", names) for names in (("confidence", "msp"), ("confidence", "kdensity")))
    assert "x_train" not in vars(held_and_test) and len(whole.x_train) > 0
    assert torch.equal(held_and_test.x_test, whole.x_test) and torch.equal(held_and_test.x_val, whole.x_val)


def test_a_name_with_dollar_signs_is_drawn_as_it_is(home, small_model, digits, few_tries):
    names = ["$x^$", r"$\frac$", "a_b^c"]
    attacks, detectors = dict.fromkeys(names, lazy), dict.fromkeys(names, specs.OfLogits(reject_rules.max_logit))
    found = reporting.report(small_model, digits, "linf:0.1", attacks, detectors, out="mine", **FEW)
    drawn = [t.get_text().replace("\\$", "$") for t in found.figures["detectors"].axes[0].get_yticklabels()]
    assert found.page.exists() and all(any(name in text for text in drawn) for name in names)


@pytest.mark.parametrize("name", ["", "  ", "clean", report_tables.TOGETHER, "a\nb", 3])
def test_a_name_that_no_table_can_hold_is_refused_before_the_attacks(small_model, digits, name):
    with pytest.raises(basics.UsageError, match="may not be called"):
        reporting.report(small_model, digits, "linf:0.1", {name: never}, points=12, say=lambda line: None)


def never(model, x, y):
    raise AssertionError("this attack must not run")


def wide(logits, features):
    return logits


def numb(logits, features):
    return torch.full((len(logits),), torch.nan)


def listing(logits, features):
    return [0.0] * len(logits)


def failing(logits, features):
    raise RuntimeError("no features here")


@pytest.mark.parametrize(
    "detector, says",
    [
        (wide, "must give one number for each image, a tensor of shape (2,) for 2 of them, not a tensor of shape (2, 10)"),
        (listing, "not list"),
        (failing, "the detector 'd' stopped: RuntimeError: no features here (test_report.py, line"),
        (numb, "the detector 'd' gives NaN for 143 of 143 clean images"),
    ],
)
def test_a_detector_that_gives_no_score_is_refused_before_the_attacks(small_model, digits, detector, says):
    with pytest.raises(basics.UsageError, match=re.escape(says)):
        reporting.report(small_model, digits, "linf:0.1", {"a": never}, {"d": detector}, points=12, say=lambda line: None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("few_tries")
def test_a_lambda_and_an_attack_that_cannot_be_remembered_have_a_report(small_model, digits, tmp_path):
    for eps in 0.02, 0.1:
        found = reporting.report(small_model, digits, "linf:0.1", {"a": lambda *given: max_confidence(*given, Linf(eps), effort="quick")}, {}, **FEW)  # noqa: B023
        assert found.table.linf.max() == pytest.approx(eps, abs=1e-6)
    with (tmp_path / "log").open("w") as log:
        found = reporting.report(small_model, digits, "linf:0.1", {"a": partial(telling, log)}, {}, **FEW)
    assert found.manifest["outside"] == {"a": 12}


def telling(log, model, x, y):
    log.write("called")
    return 1 - x


@pytest.mark.parametrize("given, says", [(dict(points=0), "at least one test image, not 0"), (dict(points=1.5), "whole numbers"), (dict(seed=2**70), "the seed must lie"), (dict(seed=None), "whole numbers")])
def test_numbers_that_cannot_be_are_refused(small_model, digits, given, says):
    with pytest.raises(basics.UsageError, match=re.escape(says)):
        reporting.report(small_model, digits, "linf:0.1", **SMALL | given)


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_a_threat_comes_back_as_it_was_asked(home, small_model, digits, monkeypatch, less):
    found = reporting.report(small_model, digits, "linf:8/255", out="mine", **QUICK | dict(attacks=None))
    assert found.sound and found.summary[2].startswith("Under linf:8/255 it is right on") and "threat linf:8/255." in found.page.read_text()
    monkeypatch.setitem(trust.REPORT_EFFORTS, "quick", less)
    assert reporting.report(small_model, digits, Linf(0.1), **LEAST).manifest["parameters"]["threat"] == "Linf(0.1)"


SHADOW = "raise RuntimeError('PIL.py of the current folder was run')\n"


@pytest.mark.slow
def test_files_of_the_current_folder_are_run_only_when_they_are_asked_for(home):
    "Neither while a module is looked up, nor while it is imported, nor afterwards"
    for name in ("PIL", "matplotlib", "jinja2", "torchvision", "yaml"):
        (home / f"{name}.py").write_text(SHADOW)
    (home / "own_nets.py").write_text("import helper_of_own_nets\nimport PIL.Image\n" + OWN)
    (home / "helper_of_own_nets.py").write_text("")
    less = "from dataclasses import replace; from confnb.evaluation import trust; efforts = trust.REPORT_EFFORTS; "  # it is much that is run, and not often
    less += "efforts['quick'] = replace(efforts['quick'], few=6, planted=2, trails=1, queries=20, steps=3); trust._MORE['quick'] = 'quick'; "
    code = "import sys; " + less + "from confnb.workshop.cli import main; main()"
    words = [sys.executable, "-P", "-c", code, "evaluate", *changed(SHORT, attacks="noise"), "--out", "mine"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(reporting.__file__).parents[2])})
    assert done.returncode == 0, done.stderr
    assert (home / "mine/index.html").exists()


def test_the_path_is_as_it_was_after_a_look_up(home):
    before = [*sys.path]
    assert callable(loading.resolve("own_nets:net", "the model")) and loading.resolve("torchvision.models:resnet18", "the model")
    with pytest.raises(basics.UsageError):
        loading.resolve("no_such_nets:net", "the model")
    assert sys.path == before


def test_a_factory_may_import_what_lies_beside_it(home, digits):
    (home / "lazy_nets.py").write_text("def net(shape, classes):\n    import lazy_helper\n    return lazy_helper.make(shape, classes)\n")
    (home / "lazy_helper.py").write_text("from confnb.architectures import model_a\ndef make(shape, classes):\n    return model_a(shape, classes, 4)\n")
    assert predict(loading.model_from("lazy_nets:net", digits), digits.x_test[:2]).shape == (2, 10)


@pytest.mark.parametrize("name", ["foolbox:LinfPGD", pytest.param("torchattacks:PGD", marks=SOAK)])
def test_attacks_of_other_libraries_are_remembered(small_model, digits, name, few_tries):
    pytest.importorskip(name.split(":")[0])
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "the remembered")
            reporting.report(small_model, digits, "linf:0.1", [name], {}, **FEW)
