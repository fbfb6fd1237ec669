"""What the command line refuses, and how: one sentence, status 2, nothing written."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from test_reproduce import project

from confnb import plans
from confnb import reproduce as r
from confnb.pages import Refusal


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path))
    return tmp_path


def command(capsys, monkeypatch, *words):
    """Status, stdout and stderr of `confnb words`."""
    monkeypatch.setattr(sys, "argv", ["confnb", *words])
    with pytest.raises(SystemExit) as ended:
        r.main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


@pytest.mark.parametrize(
    "words, says",
    [
        (["maxconfidense"], "topic 'maxconfidense' does not exist (did you mean maxconfidence?)"),
        (["hcnn"], "topic 'hcnn' is not built yet; built: separation, maxconfidence"),
        (["--profile", "digit"], "profile 'digit' does not exist (did you mean digits?)"),
        (["--profile", "there/is/none.yaml"], "profile 'there/is/none.yaml' does not exist"),
        (["-p", "stesp=3"], "'stesp' is no parameter of separation, maxconfidence (did you mean steps"),
        (["-p", "steps"], "-p 'steps' must be name=value"),
        (["-p", "steps=1.5"], "-p steps=1.5: 1.5 is not of type int like the default 40"),
        (["-p", "steps=many"], "'many' is not of type int"),
        (["-p", "eps=[1"], "-p eps=[1: '[1' is not YAML"),
        (["-p", "sizes=[1, x]"], "'x' is not of type int"),
        (["-p", "out=x"], "set by --out"),
        (["-p", "device=cuda:99999x"], "cuda"),
        (["--out", "settings.ini/deeper"], "settings.ini is a file"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(home, capsys, monkeypatch, words, says):
    before = sorted(home.rglob("*"))
    status, out, err = command(capsys, monkeypatch, "reproduce", *words)
    assert status == 2 and out == "" and says in err
    assert err.startswith("confnb: ") and err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


def test_out_that_cannot_be_written(home, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, _, err = command(capsys, monkeypatch, "reproduce", "--out", "closed")
    assert status == 2 and "no permission" in err


@pytest.mark.parametrize(
    "text, says", [("a: [1", "is not YAML"), ("- 1", "must be lines of `name: value`"), ("steps: x", "steps: 'x' is not of type int")]
)
def test_bad_profile_files(home, text, says):
    (home / "own.yaml").write_text(text)
    with pytest.raises(r.Refusal) as e:
        r.plan(home, [], "own.yaml")
    assert says in str(e.value)


def test_plan_takes_profile_then_settings_and_notes_names_of_no_topic(home):
    plan = r.plan(home, ["30_maxconfidence"], settings=["eps=1e-3", "name=007"])
    assert plan.given == {"maxconfidence": {"steps": 7, "eps": 0.001, "name": "007"}}
    assert plan.parameters["maxconfidence"] == {"eps": 0.001, "steps": 7, "name": "007", "sizes": [1, 2], "device": "cpu"}
    assert [t.name for t in plan.topics] == ["maxconfidence"] and str(plan.out) == "runs/digits"
    assert len(plan.notes) == 1 and "'later'" in plan.notes[0]


def test_list_has_every_identifier(home, capsys, monkeypatch):
    status, out, _ = command(capsys, monkeypatch, "list")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 42
    built = {line.split()[0] for line in lines if "(not built)" not in line}
    assert built == {i.id for i in r.IDENTIFIERS if i.topic in ("separation", "maxconfidence")}
    assert len(built) == 8


def test_outside_a_checkout_says_clone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plans, "TEMPLATES", tmp_path / "site-packages" / "confnb" / "templates")
    status, out, err = command(capsys, monkeypatch, "reproduce")
    assert (status, out) == (2, "") and "clone the repository" in err
    status, out, err = command(capsys, monkeypatch, "list")
    assert status == 0 and len(out.splitlines()) == 42 and "clone the repository" in err


def test_missing_dev_extra_is_named(home, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "papermill" else name)
    status, out, err = command(capsys, monkeypatch, "reproduce")
    assert (status, out) == (2, "") and "papermill" in err and "pip install 'confnb[dev]'" in err
    assert not (home / "runs").exists()


def test_import_needs_no_workshop():
    absent = ("papermill", "nbconvert", "nbformat", "nbdev", "latex2mathml", "jupyter_client", "IPython")
    code = f"import sys\nfor m in {absent}: sys.modules[m] = None\nimport confnb.reproduce"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("1e-3", 1e-3), ("2*.1", 0.2), ("-1/2", -0.5), (".3", 0.3), ("inf", float("inf"))])
def test_a_number_may_be_written_as_in_the_notebooks(text, value):
    assert plans.parse_value(text, 0.1) == value


@pytest.mark.parametrize("text", ["8/", "__import__('os').system('true')", "1/0", "eps", "[8/255", "9" * 5000, "(" * 3000, "true"])
def test_what_is_no_number_is_refused_and_nothing_is_run(text):
    with pytest.raises(ValueError, match="is not of type float|is not YAML") as e:
        plans.parse_value(text, 0.1)
    assert len(str(e.value)) < 500


def test_parameters_are_read_and_not_run(tmp_path):
    source = "a: float = 8/255\nb = 2*a\nc = [a, -1]\nd = __import__('os').getcwd()\ne = {'x': (1, 2)}\nf = 'text'\ng = 10**9**9\nh = open('x', 'w')"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    (tmp_path / "10_a.ipynb").write_text(json.dumps({"cells": [cell]}))
    got = plans.parameters_of(tmp_path / "10_a.ipynb")
    assert got == {"a": 8 / 255, "b": 16 / 255, "c": [8 / 255, -1], "d": None, "e": {"x": (1, 2)}, "f": "text", "g": None, "h": None}


def test_a_profile_that_would_fill_the_memory_gets_a_short_sentence(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 7)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\nsteps: *a6\n")
    with pytest.raises(Refusal) as e:
        plans._fitted("steps", plans.read_profile(tmp_path, str(tmp_path / "bomb.yaml"))[1]["steps"], 1, "bomb")
    assert len(str(e.value)) < 500
    (tmp_path / "deep.yaml").write_text("steps: " + "[" * 3000)
    with pytest.raises(Refusal, match="is not YAML"):
        plans.read_profile(tmp_path, str(tmp_path / "deep.yaml"))


@pytest.mark.parametrize("value, says", [("nope", "is no data set"), ("minst", "did you mean mnist"), ("npz:absent.npz", "there is no absent.npz")])
def test_a_data_set_that_does_not_exist_is_refused_before_anything_runs(value, says):
    with pytest.raises(Refusal, match=says):
        plans._check_data({"tiny": {"data": value, "seed": 1}})
    plans._check_data({"tiny": {"data": "digits", "color_data": "cifar10", "data_of": "nope", "k_data": 3}})


def test_commas_in_brackets_of_any_depth_do_not_separate():
    from confnb.reproduce import grid

    assert list(grid(["a=[1,[2,3]],4"])) == ["a=_1,_2,3_", "a=4"] and list(grid(["a=[1,[2,3]],4"]).values()) == [["a=[1,[2,3]]"], ["a=4"]]
