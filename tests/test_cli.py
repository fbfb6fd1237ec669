"""What the command line refuses, and how: one sentence, status 2, nothing written."""

import importlib.util
import os
import subprocess
import sys

import pytest
from test_reproduce import project

from confnb import plans
from confnb import reproduce as r


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
