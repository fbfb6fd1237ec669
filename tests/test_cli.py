"""What the command line refuses, and how: one sentence, status 2, nothing written."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from projects import project

from confnb import basics
from confnb.basics import UsageError
from confnb.evaluation import report_tables, reporting, specs
from confnb.workshop import cli, gallery, parameters, plans, staleness, sweeps, topic_keys


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path))
    return tmp_path


def command(capsys, monkeypatch, *words):
    """Status, stdout and stderr of `confnb words`."""
    monkeypatch.setattr(sys, "argv", ["confnb", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
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
        (["-p", "device=meta"], "device='meta' cannot be used here"),
        (["-p", "device="], "device='' cannot be used here"),
        (["-p", "eps=" + "9" * 400], "is too large a number"),
        (["-p", "eps=1" + "0" * 399], "is too large a number"),
        (["-p", "steps=" + "9" * 30], "is too large a number"),
        (["-p", "steps=0x" + "f" * 5000], "is too large a number"),
        (["-p", "sizes=[1, 0x" + "f" * 5000 + "]"], "is too large a number"),
        (["-p", "steps=2**3"], "'2**3' is not of type int like the default 40; of calculations only + - * / of numbers"),
        (["-p", "eps=2**3"], "'2**3' is not of type float"),
        (["-p", "name=!!timestamp x"], "'!!timestamp x' is not YAML"),
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
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("confnb.basics.tempfile.TemporaryDirectory", refused)
    status, _, err = command(capsys, monkeypatch, "reproduce", "--out", "closed")
    assert status == 2 and "cannot be written: Permission denied" in err


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="this system has no /proc")
def test_a_place_that_nobody_can_write_is_refused_at_once(home, capsys, monkeypatch):
    monkeypatch.setattr("confnb.workshop.site._contents", None)  # no page could be made
    status, _, err = command(capsys, monkeypatch, "pages", "--out", "/proc/x")
    assert status == 2 and "--out /proc/x cannot be written" in err


@pytest.mark.parametrize(
    "text, says", [("a: [1", "is not YAML"), ("- 1", "must be lines of `name: value`"), ("steps: x", "steps: 'x' is not of type int")]
)
def test_bad_profile_files(home, text, says):
    (home / "own.yaml").write_text(text)
    with pytest.raises(basics.UsageError) as e:
        plans.plan(home, [], "own.yaml")
    assert says in str(e.value)


def test_plan_takes_profile_then_settings_and_notes_names_of_no_topic(home):
    plan = plans.plan(home, ["30_maxconfidence"], settings=["eps=1e-3", "name=007"])
    assert plan.given == {"maxconfidence": {"steps": 7, "eps": 0.001, "name": "007"}}
    assert plan.parameters["maxconfidence"] == {"eps": 0.001, "steps": 7, "name": "007", "sizes": [1, 2], "device": "cpu"}
    assert [t.name for t in plan.topics] == ["maxconfidence"] and str(plan.out) == "runs/digits"
    assert len(plan.notes) == 1 and "'later'" in plan.notes[0]


def test_list_has_every_identifier(home, capsys, monkeypatch):
    status, out, _ = command(capsys, monkeypatch, "list")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 42
    built = {line.split()[0] for line in lines if "(not built)" not in line}
    assert built == {i.id for i in gallery.IDENTIFIERS if i.topic in ("separation", "maxconfidence")}
    assert len(built) == 8


def test_list_takes_topics_and_tells_their_parameters(home, capsys, monkeypatch):
    status, out, _ = command(capsys, monkeypatch, "list", "separation")
    assert status == 0 and {line.split()[0] for line in out.splitlines()} == {i.id for i in gallery.IDENTIFIERS if i.topic == "separation"}
    status, out, _ = command(capsys, monkeypatch, "list", "30_maxconfidence", "--parameters")
    assert status == 0 and out.splitlines()[0] == "# maxconfidence"
    scope = {}
    exec(out, scope)
    assert parameters.parameters_of(home / "nbs/topics/30_maxconfidence.ipynb").items() <= scope.items()
    status, out, err = command(capsys, monkeypatch, "list", "seperation")
    assert (status, out) == (2, "") and "did you mean separation?" in err


def test_a_dry_run_tells_what_would_run_and_the_time_it_took(home, capsys, monkeypatch):
    status, out, err = command(capsys, monkeypatch, "reproduce", "separation", "--dry-run", "--out", "new")
    assert status == 0 and "separation" in out and "runs: it was not finished before; never finished here" in out
    assert "'later'" in err and not (home / "new").exists() and not (home / "runs").exists()
    one = plans.plan(home, ["separation"], out=home / "runs/before")
    (one.folder / "figures").mkdir(parents=True)
    for folder, text in ("notebooks", "{}"), ("pages", ""), ("logs", ""), ("done", ""):
        (one.folder / folder).mkdir()
        (one.folder / folder / f"{one.topics[0].stem}.{'ipynb' if folder == 'notebooks' else 'x'}").write_text(text)
    staleness._write_stamp(one, staleness.TopicResult(one.topics[0], 65.0, None, {}, []), topic_keys.key_of(one, one.topics[0]))
    status, out, _ = command(capsys, monkeypatch, "reproduce", "separation", "--dry-run", "--out", "runs/before")
    assert status == 0 and "finished, is not run; took 1:05" in out and "these took 0:00 in all; nothing" in out
    status, out, _ = command(capsys, monkeypatch, "reproduce", "--dry-run", "--out", "runs/after", "-p", "steps=8")
    assert "separation" in out and "took 1:05 in before" in out and "these took 1:05 in all, and 1 of which no time is known" in out
    status, out, _ = command(capsys, monkeypatch, "reproduce", "--dry-run", "--sweep", "steps=1,2", "--out", "runs/many")
    assert status == 0 and out.count("runs/many") >= 2 and not (home / "runs/many").exists()
    status, out, err = command(capsys, monkeypatch, "reproduce", "--dry-run", "-p", "stesp=3")
    assert (status, out) == (2, "") and "did you mean steps" in err


def test_outside_a_checkout_says_clone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parameters, "PACKAGE", tmp_path / "site-packages" / "confnb")
    status, out, err = command(capsys, monkeypatch, "reproduce")
    assert (status, out) == (2, "") and "clone the repository" in err
    status, out, err = command(capsys, monkeypatch, "list")
    assert status == 0 and len(out.splitlines()) == 42 and "clone the repository" in err


def test_missing_dev_extra_is_named(home, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "papermill" else name)
    status, out, err = command(capsys, monkeypatch, "reproduce")
    assert (status, out) == (2, "") and "papermill" in err and "pip install 'confnb[dev]'" in err
    assert not (home / "runs").exists()


def test_missing_pandoc_is_named(home, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pypandoc" else found(name))
    status, out, err = command(capsys, monkeypatch, "pages")
    assert (status, out) == (2, "") and err == (
        "confnb: this command needs pypandoc, which the library alone does not bring: pip install 'confnb[dev]'\n"
    )


def test_import_needs_no_workshop():
    absent = ("papermill", "nbconvert", "nbformat", "nbdev", "pypandoc", "bs4", "jupyter_client", "IPython")
    code = f"import sys\nfor m in {absent}: sys.modules[m] = None\nimport confnb.workshop.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_whole_number_may_be_a_product():
    assert parameters.parse_value("2*3", 1) == 6 and parameters.parse_value("[2*3, 1]", [0]) == [6, 1]
    assert parameters.parse_value("1" + "0" * 20, 0.1) == 1e20
    for text in "8/4", "1.5*2", "2*true":
        with pytest.raises(ValueError, match="is not of type int"):
            parameters.parse_value(text, 1)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="mps is there")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(home, capsys, monkeypatch):
    before = sorted(home.rglob("*"))
    status, _, err = command(capsys, monkeypatch, "reproduce", "-p", "device=mps")
    assert status == 2 and err.startswith("confnb: device='mps' cannot be used here") and err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


def test_a_gpu_too_many_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="device='cuda:7' cannot be used here .PyTorch sees 1 CUDA"):
        plans.devices([{"device": "cuda:7"}])


BROKEN = {
    "no JSON": "{",
    "no notebook": "[1, 2]",
    "no cells": '{"cells": [1]}',
    "brackets": "[" * 100_000,
    "odd tags": '{"cells": [{"cell_type": "code", "source": "a = 1", "metadata": 3}]}',
    "no Python": '{"cells": [{"cell_type": "code", "source": "eps = = 1", "metadata": {"tags": ["parameters"]}}]}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_notebook_of_another_topic_stops_nothing(home, capsys, monkeypatch, case):
    (home / "nbs/topics/30_maxconfidence.ipynb").write_text(BROKEN[case])
    assert plans.plan(home, ["separation"]).parameters["separation"]["steps"] == 7
    assert list(sweeps.plan_sweep(home, ["separation"], ["steps=1,2"], "digits", [], None)) == ["steps=1", "steps=2"]
    for words in ([], ["maxconfidence"], ["--sweep", "steps=1"]):
        status, _, err = command(capsys, monkeypatch, "reproduce", *words)
        assert status == 2 and err.startswith("confnb: ") and err.count("\n") == 1 and "30_maxconfidence.ipynb" in err, err
    assert not (home / "runs").exists()


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("1e-3", 1e-3), ("2*.1", 0.2), ("-1/2", -0.5), (".3", 0.3), ("inf", float("inf"))])
def test_a_number_may_be_written_as_in_the_notebooks(text, value):
    assert parameters.parse_value(text, 0.1) == value


@pytest.mark.parametrize("text", ["8/", "__import__('os').system('true')", "1/0", "eps", "[8/255", "9" * 5000, "(" * 3000, "true"])
def test_what_is_no_number_is_refused_and_nothing_is_run(text):
    with pytest.raises(ValueError, match="is not of type float|is not YAML") as e:
        parameters.parse_value(text, 0.1)
    assert len(str(e.value)) < 500


def test_parameters_are_read_and_not_run(tmp_path):
    source = "a: float = 8/255\nb = 2*a\nc = [a, -1]\nd = __import__('os').getcwd()\ne = {'x': (1, 2)}\nf = 'text'\ng = 10**9**9\nh = open('x', 'w')"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    (tmp_path / "10_a.ipynb").write_text(json.dumps({"cells": [cell]}))
    got = parameters.parameters_of(tmp_path / "10_a.ipynb")
    assert got == {"a": 8 / 255, "b": 16 / 255, "c": [8 / 255, -1], "d": None, "e": {"x": (1, 2)}, "f": "text", "g": None, "h": None}


def test_a_profile_that_would_fill_the_memory_gets_a_short_sentence(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 7)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\nsteps: *a6\n")
    with pytest.raises(UsageError) as e:
        plans._fitted("steps", plans.read_profile(tmp_path, str(tmp_path / "bomb.yaml"))[1]["steps"], 1, "bomb")
    assert len(str(e.value)) < 500
    (tmp_path / "deep.yaml").write_text("steps: " + "[" * 3000)
    with pytest.raises(UsageError, match="is not YAML"):
        plans.read_profile(tmp_path, str(tmp_path / "deep.yaml"))


@pytest.mark.parametrize("value, says", [("nope", "is no data set"), ("minst", "did you mean mnist"), ("npz:absent.npz", "there is no absent.npz")])
def test_a_data_set_that_does_not_exist_is_refused_before_anything_runs(value, says):
    with pytest.raises(UsageError, match=says):
        plans._check_data({"tiny": {"data": value, "seed": 1}})
    plans._check_data({"tiny": {"data": "digits", "color_data": "cifar10", "data_of": "nope", "k_data": 3}})


def test_commas_in_brackets_of_any_depth_do_not_separate():
    from confnb.workshop.sweeps import _grid

    assert list(_grid(["a=[1,[2,3]],4"])) == ["a=_1,_2,3_", "a=4"] and list(_grid(["a=[1,[2,3]],4"]).values()) == [["a=[1,[2,3]]"], ["a=4"]]


@pytest.mark.parametrize(
    "text, values",
    [('"a,b",c', ['"a,b"', "c"]), ("'a,b' , c", ["'a,b'", "c"]), ('"a\\",b",c', ['"a\\",b"', "c"]), ("'it''s,x',c", ["'it''s,x'", "c"]),
     ("it's,that's", ["it's", "that's"]), ('["a]",b],c', ['["a]",b]', "c"]), ('"open,c', ['"open', "c"]), ('[{x: "]"},1],2', ['[{x: "]"},1]', "2"])],
)  # fmt: skip
def test_commas_in_quotes_do_not_separate(text, values):
    assert list(sweeps._grid([f"name={text}"]).values()) == [[f"name={v}"] for v in values]


def test_a_sweep_reads_each_notebook_once(home, monkeypatch):
    read, cells_of = [], parameters.cells_of
    monkeypatch.setattr(parameters, "cells_of", lambda notebook: read.append(notebook.stem) or cells_of(notebook))
    assert len(sweeps.plan_sweep(home, [], ["steps=1,2,3"], "digits", [], None)) == 3
    assert sorted(read) == ["10_separation", "30_maxconfidence"]


@pytest.mark.parametrize("words, work, out", [(["reproduce", "separation", "--out", "mine"], "reproduce", "mine"), (["pages", "--out", "site"], "pages", "site")])
def test_a_disk_that_is_full_is_named(home, capsys, monkeypatch, words, work, out):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, work, full)
    status, _, err = command(capsys, monkeypatch, *words)
    assert status == 2 and err.splitlines()[-1].startswith(f"confnb: {out} cannot be written: No space left on device; make room or name another folder") and "Traceback" not in err


HEARS = "import os, signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler); from confnb.workshop import cli; "
STOP = "(os.kill(os.getpid(), 2), time.sleep(60))"


@pytest.mark.parametrize("early", [f"cli.plan = lambda *_: {STOP}", f"cli.build_app = lambda *_: {STOP}"])
def test_ctrl_c_in_the_first_moments_is_a_sentence(home, early):
    code = f"{HEARS}{early}; sys.argv = ['confnb', 'reproduce']; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "confnb: stopped; nothing was begun\n")
    assert not (home / "runs").exists()


def test_ctrl_c_while_the_modules_load_is_a_sentence(home):
    slow = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Slow:
    def find_spec(self, name, *_):
        if name == "confnb.workshop.cli":
            import os, time
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from confnb.workshop.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", slow, "list"], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "confnb: stopped; nothing was begun\n")


@pytest.mark.parametrize(
    "words, says",
    [(["reproduce", "--jobs", "x"], "Invalid value for '-j' / '--jobs': "), (["reproduce", "--nope"], "No such option: --nope; see confnb reproduce --help"),
     (["evaluate"], "Missing option '--model'; see confnb evaluate --help"), (["nope"], "No such command 'nope'; see confnb --help")],
)  # fmt: skip
def test_words_that_cannot_be_read_are_a_sentence(home, capsys, monkeypatch, words, says):
    status, out, err = command(capsys, monkeypatch, *words)
    assert status == 2 and out == "" and err.startswith(f"confnb: {says}") and err.count("\n") == 1


def test_without_a_word_the_help_is_shown(home, capsys, monkeypatch):
    status, _, err = command(capsys, monkeypatch)
    assert status == 2 and err.startswith("Usage: confnb ") and "reproduce" in err


# confnb evaluate

NETS = """
import torch
from confnb.architectures import model_a

def net(shape, classes):
    return model_a(shape, classes, 4)

class Breaking(torch.nn.Module):
    "Answers one image, and breaks down when it sees many"
    def __init__(self):
        super().__init__()
        self.net = model_a((1, 16, 16), 10, 4)
    def forward(self, x):
        return self.net(x) if len(x) < 3 else self.net(x).no_such_thing

def breaking():
    return Breaking()

def forgetful(model, x, y):
    pass

def raising(model, x, y):
    raise ValueError("the moon is full")

def narrow(model, x, y):
    return x[:, :, 1:]

def two(logits, features):
    return logits[:, :2]

def stopped(model, x, y):
    raise KeyboardInterrupt
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    "A folder with a user's own nets, attacks and detectors"
    (tmp_path / "cli_nets.py").write_text(NETS)
    (tmp_path / "cli_broken.py").write_text("def net(:\n    pass\n")
    (tmp_path / "cli_raising.py").write_text("x = 1\nraise RuntimeError('no licence found')\n")
    (tmp_path / "cli_leaving.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "cli_missing.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n.startswith("cli_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


ASKED = {"model": "cli_nets:net", "data": "digits", "threat": "linf:0.1", "attacks": "noise", "detectors": "entropy", "points": "12", "out": "mine"}


def evaluate(capsys, monkeypatch, **new):
    asked = {k: v for k, v in (ASKED | new).items() if v is not None}
    return command(capsys, monkeypatch, "evaluate", "--force", *(word for k, v in asked.items() for word in (f"--{k}", v)))


REFUSED = {
    "a syntax error in the model's file": (dict(model="cli_broken:net"), "cli_broken stopped while it was imported: SyntaxError: invalid syntax (cli_broken.py, line 1)"),
    "a module that raises at import": (dict(model="cli_raising:net"), "cli_raising stopped while it was imported: RuntimeError: no licence found (cli_raising.py, line 2)"),
    "a module that leaves at import": (dict(model="cli_leaving:net"), "cli_leaving stopped while it was imported: SystemExit: 3"),
    "a module that lacks another": (dict(model="cli_missing:net"), "cli_missing cannot be imported (No module named 'no_such_package_at_all')"),
    "a relative module": (dict(model="..m:net"), "the model '..m:net' must be package.module:name"),
    "an attack that returns nothing": (dict(attacks="cli_nets:forgetful"), "the attack cli_nets:forgetful returned NoneType; it must return points of shape (12, 1, 16, 16)"),
    "an attack that raises": (dict(attacks="cli_nets:raising"), "the attack cli_nets:raising stopped: ValueError: the moon is full (cli_nets.py, line"),
    "an attack of another shape": (dict(attacks="cli_nets:narrow"), "returned points of shape (12, 1, 15, 16)"),
    "a detector of another shape": (dict(detectors="cli_nets:two"), "the detector 'cli_nets:two' must give one number for each image"),
    "half a list": (dict(option="a=["), "--option a: '[' is no plain value of YAML"),
    "a tag": (dict(option="a=!!python/object/apply:os.getcwd []"), "is no plain value of YAML"),
    "three thousand brackets": (dict(option="a=" + 3000 * "["), "is no plain value of YAML"),
    "device tpu": (dict(device="tpu"), "--device 'tpu' cannot be used here"),
    "no device": (dict(device=""), "--device '' cannot be used here"),
    "device meta": (dict(device="meta"), "--device 'meta' cannot be used here"),
    "a large seed": (dict(seed=str(2**70)), "the seed must lie between"),
    "negative labels": (dict(data="npz:negative.npz"), "class indices"),
    "labels of letters": (dict(data="npz:letters.npz"), ""),
    "an empty file": (dict(data="npz:empty.npz"), "empty.npz is no .npz file"),
    "an attack that is not there, before the data are": (dict(attacks="pgdd", data="npz:none.npz"), "there is no attack 'pgdd' (did you mean pgd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_evaluate_refuses_in_a_sentence(nets, capsys, monkeypatch, case):
    new, says = REFUSED[case]
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    for name, labels in ("negative", np.arange(40) % 10 - 1), ("letters", np.array([*"abcdefghij"] * 4)):
        np.savez(f"{name}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (nets / "empty.npz").write_bytes(b"")
    before = sorted(p for p in nets.rglob("*") if "__pycache__" not in p.parts)
    status, out, err = evaluate(capsys, monkeypatch, **new)
    lines = [line for line in err.splitlines() if not line.startswith(" ")]
    assert status == 2 and "Traceback" not in err and lines[-1].startswith("confnb: ") and says in lines[-1], err
    assert sorted(p for p in nets.rglob("*") if "__pycache__" not in p.parts) == before


@pytest.mark.skipif(sys.platform == "darwin", reason="mps may be there")
def test_mps_is_refused_where_there_is_none(nets, capsys, monkeypatch):
    status, _, err = evaluate(capsys, monkeypatch, device="mps")
    assert status == 2 and err.startswith("confnb: --device 'mps' cannot be used here") and err.count("\n") == 1


def test_evaluate_stopped_by_ctrl_c_has_status_130(nets, capsys, monkeypatch):
    status, _, err = evaluate(capsys, monkeypatch, attacks="cli_nets:stopped")
    assert status == 130 and err.startswith("confnb: stopped; ") and "Traceback" not in err and not (nets / "mine").exists()


@pytest.mark.parametrize("place", ["the model", "confnb"])
def test_an_error_that_is_not_the_requests_keeps_its_traceback(nets, capsys, monkeypatch, place):

    def slip(*_):
        return {}["no such table"] if place == "confnb" else None

    monkeypatch.setattr(reporting, "radius_table", slip)
    status, _, err = evaluate(capsys, monkeypatch, model="cli_nets:breaking" if place == "the model" else "cli_nets:net")
    assert status == 1 and "Traceback (most recent call last)" in err
    assert ("no such table" if place == "confnb" else "no_such_thing") in err
    assert err.splitlines()[-1].startswith("confnb: this error comes from the model or from confnb itself")


def test_what_confnb_says_on_purpose_is_told_from_a_slip():
    from confnb.checks import check_images

    def caught(work):
        try:
            work()
        except Exception as e:
            return e

    assert specs._deliberate(caught(lambda: check_images(torch.zeros(3))))
    assert not specs._deliberate(caught(lambda: report_tables.worst_case(None)))
    assert not specs._deliberate(caught(lambda: int("x")))


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries", "no_drawing")
def test_two_evaluations_do_not_write_one_folder(nets, capsys, monkeypatch):
    code = "import sys; from pathlib import Path; from confnb.basics import alone\nwith alone(Path('mine'), what='report'): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        status, out, err = evaluate(capsys, monkeypatch)
        assert status == 2 and "another report is at work in mine; wait for it" in err
        other.kill()
        other.wait()
    assert evaluate(capsys, monkeypatch, effort="quick")[0] == 0, "a killed one holds nothing"
