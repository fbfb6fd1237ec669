"""A run that goes on: what is finished is not run again, and whatever stops a run, the next call ends with the same numbers."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from projects import (
    RUN,
    TOPICS,
    WAIT,
    links_of,
    look,
    numbers_of,
    numbers_project,
    tables,
    write_notebook,
)

from confnb import basics
from confnb.basics import PACKAGE
from confnb.cache import cache_dir, remember
from confnb.pictures import TORCHVISION
from confnb.workshop import gallery, parameters, runner, runs, staleness, topic_keys, watching
from confnb.workshop import plans as plans_module
from confnb.workshop import sweeps as sweeps_module


def counted(root):
    return (root / "ran.txt").read_text().split()


MEET = (
    "pathlib.Path(f'here-{}').write_text(os.environ.get('OMP_NUM_THREADS', ''))\n"
    "while len(list(pathlib.Path('.').glob('here-*'))) < 2: time.sleep(0.05)"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = numbers_project(tmp_path_factory.mktemp("resume"), {name: MEET.format(name) for name in TOPICS}, last="time.sleep(0.5)")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(runs, "_cores", lambda: 4)
        yield root


@pytest.fixture(scope="module")
def run(home):
    """Both topics side by side, each of which waits for the other: (plan, complaints, what was said)."""
    said, plan = [], plans_module.plan(home, [])
    return plan, runs.reproduce(plan, said.append, runs.RunOptions(jobs=2)), said


def test_side_by_side_with_the_cores_divided(run, home):
    plan, complaints, said = run
    assert complaints == [] and sorted(counted(home)) == ["10_separation", "30_maxconfidence"]
    assert [(home / f"here-{name}").read_text() for name in TOPICS] == ["2", "2"]
    assert tables(plan.out) == numbers_of(*TOPICS)
    told = json.loads((plan.out / "manifest.json").read_text())
    assert {t["threads"] for t in told["topics"].values()} == {2} and not (plan.out / staleness.WORK).exists()
    for stem, own in TOPICS.values():
        mine = [line.split()[1] for line in said if line.split()[0] == stem and len(line.split()) > 1]
        assert mine == [*own, "done"]


def test_second_call_runs_nothing_and_leaves_the_same(run, home, monkeypatch):
    plan, *_ = run
    before, said = tables(plan.out), []
    (plan.out / "pages/10_separation.html").unlink()
    monkeypatch.setattr(runner, "_papermill", None)  # nothing could be run
    assert runs.reproduce(plan, said.append) == []
    assert len(counted(home)) == 2 and tables(plan.out) == before
    assert [line.split()[1:3] for line in said] == [["finished", "before"]] * 2
    told = json.loads((plan.out / "manifest.json").read_text())
    assert told["missing"] == [] and all(t["reused"] and t["seconds"] > 0 for t in told["topics"].values())
    assert "finished by an earlier call" in (plan.out / "index.html").read_text() and (plan.out / "pages/10_separation.html").exists()


def odd(part, value):
    "The stamp with another value in one place"
    def told(before):
        stamp = json.loads(before)
        (stamp["ran"] if part in stamp["ran"] else stamp)[part] = value
        return json.dumps(stamp).encode()

    return told


ODD = [("key", []), ("key", {"code": 3}), ("files", []), ("files", {}), ("files", {"notebooks/10_separation.ipynb": 3}), ("ran", []), ("page", 7),
       ("published", ["man-T1"]), ("published", {"man-T1": "soon"}), ("published", {"man-T1": float("nan")}), ("foreign", 3), ("taken", [{}]),
       ("began", {"a": 1}), ("began", ["x"]), ("seconds", None), ("seconds", [1]), ("error", 3), ("device", {}), ("threads", "2"),
       ("ran", {"seconds": 1, "error": None, "published": {}, "foreign": [], "surprise": 1})]  # fmt: skip


@pytest.mark.parametrize("part, value", ODD)
def test_a_stamp_of_odd_types_counts_for_nothing(run, home, part, value):
    plan, *_ = run
    undo = changed(home / "runs/digits/done/10_separation.json", odd(part, value))
    try:
        assert staleness.why_stale(plan, plan.topics[0]) == "it was not finished before" and runner._taken(plan, plan.topics[1]) == set()
    finally:
        undo()
    assert staleness.why_stale(plan, plan.topics[0]) is None


def test_a_stamp_of_a_hundred_thousand_brackets_counts_for_nothing(run, home):
    plan, *_ = run
    undo = changed(home / "runs/digits/done/10_separation.json", lambda _: b"[" * 100_000)
    try:
        assert staleness.why_stale(plan, plan.topics[0]) == "it was not finished before"
    finally:
        undo()


@pytest.mark.parametrize("told", [[], {"kind": "table", "caption": "c", "files": []}, {"kind": "table", "caption": "c", "files": {"csv": 3}},
                                  {"files": {}}, {"kind": "table", "caption": "c", "files": {"csv": "../../secret.csv"}}])  # fmt: skip
def test_a_description_of_odd_types_describes_nothing(tmp_path, told):
    plan = plans_module.Plan(tmp_path, "digits", [], {"separation": {}}, {}, Path("out"), where=tmp_path)
    (tmp_path / "out/figures").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("x")
    (tmp_path / "out/figures/man-T1.json").write_text(json.dumps(told))
    assert runs._entry(plan, staleness.TopicResult(parameters.Topic("separation", Path("10_separation.ipynb")), 1, None, {"man-T1": 1.0}, []), "man-T1", 1.0) is None


def changed(path, text):
    "The file with other bytes; gives back what puts it right"
    before, times = path.read_bytes(), path.stat()
    path.unlink() if text is None else path.write_bytes(text(before))

    def undo():
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return undo


@pytest.mark.parametrize(
    "path, text, why",
    [
        ("nbs/topics/10_separation.ipynb", lambda b: b.replace(b"numbers('man-T1')", b"numbers('man-T1', 199)"), "changed since: code"),
        ("nbs/topics/10_separation.ipynb", lambda b: b.replace(b"numbers('man-T1')", b"numbers('man-T1')  # the curve"), None),
        ("separation.npz", lambda b: b + b"!", "changed since: data"),
        ("runs/digits/figures/man-T1.csv", lambda b: b[:-3], "figures/man-T1.csv is missing or was changed"),
        ("runs/digits/figures/hcnn-T1.svg", None, "figures/hcnn-T1.svg is missing or was changed"),
        ("runs/digits/notebooks/10_separation.ipynb", None, "notebooks/10_separation.ipynb is missing"),
        ("runs/digits/done/10_separation.json", lambda b: b[: len(b) // 2], "not finished before"),
        ("runs/digits/done/10_separation.json", lambda b: b"[]", "not finished before"),
        ("runs/digits/done/10_separation.json", None, "not finished before"),
        ("nbs/topics/10_separation.ipynb", lambda b: b.replace(b"> Text.", b"> Other text."), None),
        ("maxconfidence.npz", lambda b: b + b"!", None),
        ("runs/digits/figures/mc-F1a.csv", None, None),
    ],
)
def test_what_makes_a_topic_run_again(run, home, path, text, why):
    plan, *_ = run
    undo = changed(home / path, text)
    try:
        found = staleness.why_stale(plan, plan.topics[0])
    finally:
        undo()
    assert (found is None) if why is None else why in found
    assert staleness.why_stale(plan, plan.topics[0]) is None


def test_parameters_library_versions_and_device_count(run, home, tmp_path, monkeypatch):
    plan, *_ = run
    assert "parameters" in staleness.why_stale(plans_module.plan(home, [], settings=["eps=0.5"]), plan.topics[0])
    assert staleness.why_stale(plans_module.plan(home, [], settings=["steps=7"]), plan.topics[0]) is None
    shutil.copytree(PACKAGE, tmp_path / "confnb", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(topic_keys, "PACKAGE", tmp_path / "confnb")
    for name, why in (("topics/shells", None), ("workshop/runs", None), ("statistics", "library")):
        (tmp_path / f"confnb/{name}.py").write_text("# changed\n")
        found = staleness.why_stale(plan, plan.topics[0])
        assert (found is None) if why is None else why in found
    monkeypatch.setattr(topic_keys, "versions", lambda: {"torch": "0"})
    monkeypatch.setattr(topic_keys, "devices", lambda _: "cuda (another)")
    assert staleness.why_stale(plan, plan.topics[0]) == "changed since: library, versions, device"


def ran_with(root, monkeypatch, during):
    "A plan whose topic was run, as far as its stamp says, while `during` happened"
    monkeypatch.chdir(root)
    plan = plans_module.plan(root, ["separation"])
    key = topic_keys.key_of(plan, plan.topics[0])
    monkeypatch.setattr(runner, "_execute", lambda *_: [during(), 0][1])
    assert runner.run_topic(plan, plan.topics[0], key=key).error is None
    return plan


def test_data_that_change_while_a_topic_runs_are_stamped_as_they_were(tmp_path, monkeypatch):
    root = numbers_project(tmp_path)
    plan = ran_with(root, monkeypatch, lambda: (root / "separation.npz").write_bytes(b"other data"))
    assert staleness.why_stale(plan, plan.topics[0]) == "changed since: data"
    (root / "steady").mkdir()
    plan = ran_with(numbers_project(root / "steady"), monkeypatch, lambda: None)
    assert staleness.why_stale(plan, plan.topics[0]) is None


def test_data_that_a_topic_fetches_are_stamped_as_they_came(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path / "data"))
    root = numbers_project(tmp_path)
    (root / "nbs/profiles/digits.yaml").write_text("data: mnist\n")
    plan = ran_with(root, monkeypatch, lambda: [(root / "data/MNIST/raw").mkdir(parents=True), (root / "data/MNIST/raw/x").write_bytes(b"x")])
    assert staleness.why_stale(plan, plan.topics[0]) is None
    (root / "data/MNIST/raw/x").write_bytes(b"other")
    assert staleness.why_stale(plan, plan.topics[0]) == "changed since: data"


def test_very_many_files_are_one_hash_and_each_counts(tmp_path, monkeypatch):
    for n in range(6):
        (tmp_path / f"data/{n % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/{n % 2}/{n}.png").write_bytes(b"x")
    each = topic_keys._files(tmp_path / "data", tmp_path, {})
    assert [f[:2] for f in each] == [[f"data/{n % 2}/{n}.png", 1] for n in (0, 2, 4, 1, 3, 5)]
    (tmp_path / "data/0/self").symlink_to(tmp_path / "data")
    assert topic_keys._files(tmp_path / "data", tmp_path, {}) == each
    monkeypatch.setattr(topic_keys, "_MANY", 3)
    before = topic_keys._files(tmp_path / "data", tmp_path, {})
    assert len(before) == 1 and before[0][:2] == ["data", 6] and topic_keys._files(tmp_path / "data", tmp_path, {}) == before
    for n in range(6):
        path = tmp_path / f"data/{n % 2}/{n}.png"
        undo = changed(path, lambda b: b + b"!")
        assert topic_keys._files(tmp_path / "data", tmp_path, {})[0][2] != before[0][2]
        undo()
    assert topic_keys._files(tmp_path / "data", tmp_path, {}) == before


def test_a_data_set_is_listed_once_for_a_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(numbers_project(tmp_path))
    listed, below = [], topic_keys._below
    monkeypatch.setattr(topic_keys, "_below", lambda path, name, above: listed.append(name) or below(path, name, above))
    plans = sweeps_module.plan_sweep(tmp_path, ["separation"], ["steps=1,2,3"], "digits", [], None)
    monkeypatch.setattr(runs, "why_stale", lambda *_: None)
    monkeypatch.setattr(runs, "_reused", lambda plan, topic: staleness.TopicResult(topic, 1.0, None, {}, [], reused=True))
    runs.run_all(plans, watching.RunReporter(lambda _: None), runs.RunOptions())
    assert listed == ["separation.npz"]


@pytest.mark.parametrize("means, first", [({"jobs": 1}, ["30", "31", "32"]), ({"jobs": 2}, ["34", "33", "31"]), ({"ray": "auto"}, ["34", "33", "31"])], ids=str)
def test_side_by_side_the_long_topics_begin_first(means, first):
    plan = plans_module.plan(PACKAGE.parent, [])
    turn = runs._in_turn({t.stem: (plan, t, {}) for t in plan.topics}, runs.RunOptions(**means))
    assert [label[:2] for label, _ in turn][:3] == first and len(turn) == len(plan.topics)


NAMED = {"mnist": "MNIST/raw/t10k-images-idx3-ubyte", "fashion-mnist": "FashionMNIST/raw/x", "cifar10": "cifar-10-batches-py/test_batch", "svhn": "test_32x32.mat",
         "imagenet": "imagenet/val/n01440764/1.JPEG"}


def test_named_data_sets_are_followed(run, home, tmp_path, monkeypatch):
    assert set(NAMED) == {*TORCHVISION, "imagenet"}
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path))
    for name, file in NAMED.items():
        plan = plans_module.plan(home, ["separation"], settings=[f"data={name}"])
        keys = [topic_keys.key_of(plan, plan.topics[0])]
        for text in "one", "other":
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
            keys.append(topic_keys.key_of(plan, plan.topics[0]))
        assert len({k["data"] for k in keys}) == 3, name
        assert len({json.dumps(k | {"data": ""}) for k in keys}) == 1, name


def test_what_a_topic_imports_is_followed():
    found = topic_keys._library_of(parameters.checkout(Path(__file__).parent) / "nbs/topics/30_separation.ipynb")
    assert {"maxconfidence", "search", "runtime", "plots"} <= set(found) and not {m for m in found if m.startswith(("topics.", "workshop."))}
    modules = frozenset(("__init__", "search", "sets", "attacks", "topics.shells"))
    assert topic_keys._imported("from confnb import search\nimport confnb.attacks as a", modules) == {"search", "attacks"}
    assert topic_keys._imported("from confnb import Linf", modules) == {"sets"} and topic_keys._imported("from confnb import __version__", modules) == {"__init__"}
    assert topic_keys._imported("from confnb import what", modules) == topic_keys._imported("from confnb.topics import what", modules) == modules
    assert topic_keys._imported("from .search import Linf", modules) == topic_keys._imported("from ..search import Found", modules, ("topics",)) == {"search"}
    assert topic_keys._imported("from .shells import mcn", modules, ("topics",)) == topic_keys._imported("from confnb.topics import shells", modules) == {"topics.shells"}


@pytest.mark.parametrize("code", ["import confnb", "import confnb as c", "from confnb import *", "import confnb, math", "x = = 1",
                                  "import importlib\nimportlib.import_module('confnb.' + name)", "__import__('confnb')"])
def test_where_it_cannot_be_told_every_module_counts(tmp_path, code):
    write_notebook(tmp_path / "10_tiny.ipynb", (code,))
    assert {"search", "attacks", "evaluation.reporting", "topics.shells", "maxconfidence"} <= set(topic_keys._library_of(tmp_path / "10_tiny.ipynb"))


@pytest.mark.parametrize("code", ["x = !ls", "a?", "if True:\n    %time 1", "!pip list", "%matplotlib inline\nfrom confnb.sets import Linf", "%%bash\nls", "?help"])
def test_what_only_ipython_understands_stops_nothing(tmp_path, code):
    write_notebook(tmp_path / "10_tiny.ipynb", (code,), ("from confnb.sets import Linf",))
    assert "sets" in topic_keys._library_of(tmp_path / "10_tiny.ipynb") and topic_keys._syntax(code)


def test_comments_and_docstrings_are_no_change():
    assert topic_keys._syntax("def f():\n    'Says'\n    return 1  # one") == topic_keys._syntax("def f():\n    return 1") != topic_keys._syntax("def f():\n    return 2")
    assert topic_keys._syntax("x = !ls a") != topic_keys._syntax("x = !ls b")
    assert topic_keys._syntax("%%time\nx = 1") != topic_keys._syntax("%%time\nx = 2") and topic_keys._imported("%%time\nfrom confnb.sets import Linf", frozenset({"sets"})) == {"sets"}


def test_again_runs_what_is_finished(run, home):
    plan = plans_module.plan(home, ["separation"])
    before = tables(plan.out)
    assert runs.reproduce(plan, lambda _: None, again=True) == []
    assert counted(home).count("10_separation") == 2 and tables(plan.out) == before


def test_a_folder_takes_one_run_at_a_time(run):
    plan, *_ = run
    with basics.alone(plan.folder), pytest.raises(basics.UsageError, match="another run is at work"):
        runs.reproduce(plan)
    assert (plan.out / "index.html").exists()


def test_topics_side_by_side_lose_nothing_from_the_list(tmp_path, monkeypatch):
    made_in = basics.made_in

    def slowly(folder):
        found = made_in(folder)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(basics, "made_in", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: basics.enter(tmp_path, name), "abcdefgh"))
    assert made_in(tmp_path) == {*"abcdefgh"}


def test_a_point_of_a_grid_takes_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.chdir(numbers_project(tmp_path))
    plans = sweeps_module.plan_sweep(tmp_path, ["separation"], ["steps=1,2"], "digits", [], None)
    with basics.alone(plans["steps=2"].folder), pytest.raises(basics.UsageError, match="another run is at work in .*steps=2"):
        sweeps_module.sweep(plans, Path("runs/digits-sweep"))
    assert counted_or_none(tmp_path) == []


def counted_or_none(root):
    return counted(root) if (root / "ran.txt").exists() else []


@pytest.mark.parametrize("name", ["figures", "notebooks", "logs", "done", "logs/10_separation.log", staleness.WORK])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, monkeypatch, name):
    root = numbers_project(tmp_path)
    monkeypatch.chdir(root)
    place = root / "runs/digits" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(root / "elsewhere")
    with pytest.raises(basics.UsageError, match=f"{name} is a link that leads out of"):
        runs.reproduce(plans_module.plan(root, ["separation"]))
    assert not (root / "elsewhere").exists() and counted_or_none(root) == []


def first_edition(root):
    "The folder of a run that the first edition was stopped in"
    out, stem = root / "old", "10_separation"
    stamp = {"key": {}, "ran": {"seconds": 1.0, "error": None, "published": {"man-T1": 0.5}, "foreign": []}, "files": {}, "page": ""}
    told = {"id": "man-T1", "kind": "figure", "caption": "c", "files": {"png": "man-T1.png"}}
    files = {f"done/{stem}.json": json.dumps(stamp), f"notebooks/{stem}.ipynb": json.dumps({"metadata": {"papermill": {"parameters": {}}}}),
             f"pages/{stem}.html": "<style>:root { color-scheme: light dark; --ink: #000 }", f"logs/{stem}.log": "Input Notebook:  nbs/topics\n", "logs/30_maxconfidence.log": "", "figures/man-T1.json": json.dumps(told),
             "figures/man-T1.png": "", ".lock": "", f"{staleness.WORK}/{stem}-1/x": ""}
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    return out, {n for n in files if not n.startswith(".")}


def test_a_run_of_the_first_edition_that_was_stopped_goes_on(tmp_path, monkeypatch):
    root = numbers_project(tmp_path)
    monkeypatch.chdir(root)
    out, files = first_edition(root)
    assert staleness.ours_in(out) == files
    runs._begin(plans_module.plan(root, [], out=out))
    assert files < staleness.ours_in(out) and (out / basics.MADE).exists()


@pytest.mark.parametrize("name, text", [("notes.txt", "mine"), ("figures/mc-F1a.png", "mine"), ("notebooks/20_hcnn.ipynb", '{"metadata": {}}'),
                                        ("notebooks/20_hcnn.ipynb", "[]"), ("logs/mine.log", "my log"), ("done/x.json", "[1]"), ("pages/mine.html", ""),
                                        ("figures/holiday.json", '{"kind": "figure", "caption": "c", "files": {}}'), ("deep/logs/x.log", "")])  # fmt: skip
def test_one_foreign_file_and_such_a_folder_is_nobody_s_to_take(tmp_path, name, text):
    out, _ = first_edition(tmp_path)
    (out / name).parent.mkdir(exist_ok=True, parents=True)
    (out / name).write_text(text)
    assert staleness.ours_in(out) == set()


def test_a_log_is_read_on_and_not_again(tmp_path, monkeypatch):
    log, line = tmp_path / "x.log", "Executing Cell {}---\n"
    log.write_text("Input Notebook: a\n" + line.format(1) + "Executing Cell 2")
    assert watching._cells_begun(log, "a") == 2
    with log.open("a") as f:
        f.write("---\n" + line.format(3) + "Execu")
    assert watching._cells_begun(log, "a") == 3 and watching._cells_begun(log, "a") == 3
    with log.open("r+b") as f:
        f.write(b"x" * 40)  # what was read already is not looked at
    with log.open("a") as f:
        f.write("ting Cell 4---\n")
    assert watching._cells_begun(log, "a") == 4
    log.write_text(line.format(1) * 9)
    assert watching._cells_begun(log, "b") == 9 and watching._cells_begun(tmp_path / "none", "b") == 0


@pytest.mark.parametrize("status, says", [(-15, "papermill was killed by SIGTERM"), (-9, "papermill was killed by SIGKILL, as happens where memory runs out"), (-99, "papermill was killed by signal 99")])
def test_only_a_kill_may_be_the_memory(tmp_path, status, says):
    from types import SimpleNamespace

    (tmp_path / "x.log").write_text("")
    assert runner._error_in(SimpleNamespace(cells=[]), tmp_path / "x.log", status) == says


def test_two_topics_with_the_same_identifier(tmp_path, monkeypatch):
    """`hcnn-X0` could be either's: the first keeps it, the other is told, and neither is run for ever."""
    root = numbers_project(tmp_path)
    monkeypatch.chdir(root)
    plan = plans_module.plan(root, [])
    first, second = plan.topics
    ran = [staleness.TopicResult(first, 1.0, None, {"hcnn-X0": 0.1}, []), staleness.TopicResult(second, 1.0, None, {"hcnn-X0": 0.2}, [])]
    (plan.folder / "figures").mkdir(parents=True)
    (plan.folder / "figures/hcnn-X0.json").write_text(json.dumps({"kind": "table", "caption": "c", "files": {}}))
    told = runs._manifest(plan, ran)
    assert told["identifiers"]["hcnn-X0"]["topic"] == "separation" and told["topics"]["maxconfidence"]["taken"] == ["hcnn-X0"]
    assert any("which another topic has published" in s for s in runs._complaints(told))


# stopped in the middle


def command(*words, **settings):
    return subprocess.Popen([*RUN, "reproduce", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def await_(condition, seconds=300):
    patience = time.time() + seconds
    while not condition():
        assert time.time() < patience
        time.sleep(0.1)


def gone(pid):
    return not os.path.exists(f"/proc/{pid}") or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


KILLED = "if not os.path.exists('go'): os.kill(os.getpid(), 9)"
BIG = "if not os.path.exists('go'): (pathlib.Path(out) / 'big').write_bytes(bytes(200_000))\n" + WAIT.replace("'go'", "'go on'")


@pytest.mark.slow
def test_a_killed_kernel_a_full_disk_and_a_killed_runner(tmp_path, monkeypatch):
    """One after the other in one folder: no fault stops the other topic, and the next call ends with the numbers of a run that nothing stopped."""
    root = numbers_project(tmp_path, {"separation": KILLED, "maxconfidence": BIG})
    monkeypatch.chdir(root)
    first = command(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))  # no file can grow beyond 100 kB
    out, err = first.communicate(timeout=600)
    assert first.returncode == 1 and "Traceback" not in err, err
    assert re.search(r"10_separation: .*the kernel was killed", err) and re.search(r"30_maxconfidence: .*File too large", err) and "man-T1" in err, err
    plan = plans_module.plan(root, [])
    assert all("not finished" in staleness.why_stale(plan, topic) for topic in plan.topics)
    Path("go").touch()
    child = command()
    await_(lambda: Path("pid").exists() and Path("pid").read_text())
    kernel = int(Path("pid").read_text())
    child.kill()
    child.communicate(timeout=600)
    await_(lambda: gone(kernel), 120)
    Path("go on").touch()
    assert runs.reproduce(plan, lambda _: None) == []
    assert tables(root / "runs/digits") == numbers_of(*TOPICS)
    assert counted(root) == ["10_separation", "30_maxconfidence", "10_separation", "30_maxconfidence", "30_maxconfidence"]
    assert list((root / "runs/digits").glob(f"{staleness.WORK}/*")) == []


SLOWLY = "time.sleep(1)\nkernel = pathlib.Path('pid-' + str(os.getpid())); kernel.touch(); time.sleep(2); kernel.unlink()"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("number", range(100))
def test_whatever_stops_a_run_and_whenever_the_next_ends_with_the_same_numbers(number, tmp_path, monkeypatch):
    """By turns the runner is killed, a kernel is killed, the user interrupts, the disk is full; each at a random moment."""
    draw = random.Random(number)
    kind, moment = ("runner", "kernel", "interrupt", "disk")[number % 4], draw.uniform(0, 20)
    root = numbers_project(tmp_path, dict.fromkeys(TOPICS, SLOWLY))
    monkeypatch.chdir(root)
    most = draw.randrange(200, 12_000)  # bytes of a file
    full = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))) if kind == "disk" else None
    child = command(preexec_fn=full)
    end = time.time() + moment
    while kind != "disk" and child.poll() is None and time.time() < end:
        time.sleep(0.02)
    for pid in [int(p.name.removeprefix("pid-")) for p in root.glob("pid-*")] if kind == "kernel" else []:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
    if kind in ("runner", "interrupt") and child.poll() is None:
        child.send_signal(signal.SIGKILL if kind == "runner" else signal.SIGINT)
    _, err = child.communicate(timeout=600)
    assert "Traceback" not in err, (kind, moment, err)
    after = command()
    _, err = after.communicate(timeout=600)
    assert after.returncode == 0, (kind, moment, err)
    assert tables(root / "runs/digits") == numbers_of(*TOPICS)
    assert list((root / "runs/digits").glob(f"{staleness.WORK}/*")) == []


def test_not_even_the_runner_can_write(tmp_path, monkeypatch):
    """A disk that is full for the runner's own files is this topic's error, in one sentence, and leaves no stamp."""
    root = numbers_project(tmp_path)
    monkeypatch.chdir(root)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "_execute", lambda *_: 0)
    monkeypatch.setattr(staleness, "write_text", full)
    plan = plans_module.plan(root, ["separation"])
    ran = runner.run_topic(plan, plan.topics[0])
    assert ran.error.startswith("10_separation: ") and "No space left" in ran.error
    assert "not finished" in staleness.why_stale(plan, plan.topics[0]) and list((plan.folder / staleness.WORK).iterdir()) == []


# the cache


def kept(compute, key="a"):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = remember("thing", key, ".txt", compute, lambda v, p: p.write_text(v), lambda p: p.read_text())
    return found, [str(w.message) for w in heard]


@pytest.mark.parametrize("harm", [lambda p: p.write_text(p.read_text()[:-1]), lambda p: p.write_text("x" + p.read_text()[1:]), lambda p: p.with_suffix(".sha256").unlink()])
def test_what_was_remembered_is_checked_when_read(tmp_path, monkeypatch, harm):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    assert kept(lambda: "numbers") == ("numbers", []) and kept(lambda: 1 / 0) == ("numbers", [])
    harm(cache_dir() / "thing/a.txt")
    found, heard = kept(lambda: "numbers again")
    assert found == "numbers again" and "cannot be used" in heard[0]
    assert kept(lambda: 1 / 0) == ("numbers again", [])


def test_killed_while_it_is_remembered(tmp_path):
    code = "import os\nfrom confnb.cache import remember\ndef save(v, p):\n    p.write_text(v[:3]); os.kill(os.getpid(), 9)\n" \
           "remember('thing', 'a', '.txt', lambda: 'numbers', save, None)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"CONFNB_CACHE": str(tmp_path)})
    assert done.returncode == -9 and not (tmp_path / "thing/a.txt").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))

    def full(value, path):
        path.write_text(value[:2])
        raise OSError(28, "No space left on device")

    with pytest.warns(UserWarning, match="not remembered: .* cannot be written .*No space"):
        assert remember("thing", "a", ".txt", lambda: "numbers", full, None) == "numbers"
    assert list((tmp_path / "thing").iterdir()) == [] and kept(lambda: "numbers") == ("numbers", [])


# grids


@pytest.mark.slow
def test_sweep_is_a_run_for_each_point_and_a_page_for_all(tmp_path, monkeypatch):
    root = numbers_project(tmp_path)
    monkeypatch.chdir(root)
    plans = sweeps_module.plan_sweep(root, ["separation"], ["steps=1,2"], "digits", ["eps=0.5"], None)
    assert list(plans) == ["steps=1", "steps=2"] and str(plans["steps=1"].out) == "runs/digits-sweep/steps=1"
    said = []
    assert sweeps_module.sweep(plans, Path("runs/digits-sweep"), said.append, runs.RunOptions(jobs=2)) == []
    assert counted(root) == ["10_separation"] * 2 and said[0].split()[0] == "steps=1/10_separation"
    one, two = (tables(p.folder) for p in plans.values())
    assert one.keys() == two.keys() and one["man-T1.csv"] != two["man-T1.csv"]
    text = (root / "runs/digits-sweep/index.html").read_text()
    assert text.count("steps = 1") == 3 and text.count("steps = 2") == 3 and ">eps = " not in text and "steps%3D1/figures/man-T1.svg" in text
    assert (root / "runs/digits-sweep/steps=2/index.html").exists() and (root / "runs/digits-sweep/steps=1/claims.html").exists()
    assert sweeps_module.sweep(plans, Path("runs/digits-sweep"), said.append) == [] and len(counted(root)) == 2


@pytest.mark.parametrize(
    "sweeps, says",
    [(["steps"], "must be name=a,b,c"), (["steps=1,,2"], "must be name=a,b,c"), (["steps=1", "steps=2"], "names a parameter twice"),
     (["steps=1,1"], "the same folder"), (["stesp=1"], "'stesp' is no parameter"), (["steps=x"], "is not of type int")],
)  # fmt: skip
def test_bad_sweeps_are_refused(tmp_path, monkeypatch, sweeps, says):
    monkeypatch.chdir(numbers_project(tmp_path))
    with pytest.raises(basics.UsageError, match=re.escape(says)):
        sweeps_module.plan_sweep(tmp_path, [], sweeps, "digits", [], None)
    assert not Path("runs").exists()


def test_means_are_checked():
    for bad in {"jobs": 0}, {"cpus": 0}, {"gpus": -1}:
        with pytest.raises(basics.UsageError, match="at least"):
            runs.RunOptions(**bad)
    assert runs.RunOptions().threads is None and runs.RunOptions(ray="auto", cpus=3).threads == 3


# the live view


def test_a_terminal_shows_one_line_for_each_topic(monkeypatch):
    import io

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    view = watching.on_terminal(stream)
    at = watching.Progress(65, 3, 9, {"mc-F1a": 3.0}, "mc-F1b", 70.0)
    view.follow({"30_maxconfidence": at, "20_hcnn": watching.Progress(1, 0, 9, {}, "", None)})
    screen = on_screen(stream)
    assert len(screen) == 2 and "mc-F1b   cell 3 of 9, 1 published" in screen[0] and all(len(line) <= 60 for line in screen)
    view.follow({"30_maxconfidence": at})
    assert len(on_screen(stream)) == 1
    view.ended("30_maxconfidence", staleness.TopicResult(parameters.Topic("maxconfidence", Path("30_maxconfidence.ipynb")), 70.0, None, {"mc-F1a": 3.0}, []))
    done = "  30_maxconfidence     done 70.0 s; 1 tables and figures"
    assert on_screen(stream)[0] == done and len(on_screen(stream)) == 2
    view.follow({})
    assert on_screen(stream) == [done] and stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h"), "the cursor is back"


def on_screen(stream):
    "The lines that a terminal shows which understands how a line is cleared and the cursor moved"
    lines, row = [""], 0
    for word in re.findall(r"\x1b\[[?\d]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", stream.getvalue()):
        if word == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif word == "\x1b[2K":
            lines[row] = ""
        elif word.endswith("A"):
            row -= int(word[2:-1])
        elif not word.startswith("\x1b") and word != "\r":
            lines[row] += word
    return [line.rstrip("\n") for line in lines if line.strip()]


@pytest.mark.browser
def test_pages_of_a_run_in_the_browser(run, browser, tmp_path):
    """Gallery, claims and comparison: no network, links that lead somewhere, nothing wider than a telephone."""
    plan, *_ = run
    told = json.loads((plan.folder / "manifest.json").read_text())
    shutil.copytree(plan.folder, tmp_path / "a=1")
    rows = "claim,source,kind,paper,here,needs,verdict,why\n" + "a long claim " * 20 + ",mc 3,claim,," + "[0.1,0.2]" * 30 + ",,no,below .5\n"
    (tmp_path / "a=1/figures/man-X0.csv").write_text(rows.replace("[0.1,0.2]", "[0.1; 0.2]"))
    told["identifiers"]["man-X0"] = {"topic": "separation", "kind": "table", "caption": "c", "files": {"csv": {"path": "figures/man-X0.csv"}}}
    (tmp_path / "a=1/claims.html").write_text(gallery.claims_page(told, tmp_path / "a=1"))
    (tmp_path / "a=1/index.html").write_text(gallery.gallery_page(told, tmp_path / "a=1"))
    (tmp_path / "index.html").write_text(gallery.comparison({"a=1": told}, {"a=1": {"a": 1}}, tmp_path))
    for name in ("index.html", "a=1/index.html", "a=1/claims.html"):
        for width in (390, 1200):
            assert look(browser, tmp_path / name, width, dark=width == 390) == []
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
            assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert all(p.exists() for p in links_of(tmp_path / name))
