"""The runner on a project of two tiny notebooks: what a run leaves, what it says when a topic fails, and storing outputs."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import PARAMETERS, PUBLISH, RUN, project, write_notebook

from confnb import basics
from confnb.basics import MADE, enter
from confnb.verdicts import Claim, Estimate, Holds, Need, publish_claims, share
from confnb.workshop import gallery, plans, runs, store, watching


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The tiny project, entered; a kernel `python3` that leads nowhere is installed for the user."""
    root = project(tmp_path_factory.mktemp("tiny"))
    spec = root / "elsewhere/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "decoy", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("JUPYTER_DATA_DIR", str(root / "elsewhere"))
        patch.setenv("MPLBACKEND", "agg")  # as the Makefile says
        yield root


@pytest.fixture(scope="module")
def run(home):
    """A run of both topics over the stale figures of an earlier one: (folder, manifest, complaints, what was said)."""
    figures = home / "runs/digits/figures"
    figures.mkdir(parents=True)
    for name in ("mc-F3b.png", "mc-F3b.json"):
        (figures / name).write_text(json.dumps({"kind": "figure", "caption": "stale", "files": {"png": "mc-F3b.png"}}))
        enter(figures.parent, f"figures/{name}")
    said = []
    complaints = runs.reproduce(plans.plan(home, [], settings=["eps=1"]), said.append)
    return home / "runs/digits", json.loads((home / "runs/digits/manifest.json").read_text()), complaints, said


def test_layout(run):
    out, *_ = run
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    figures = {f"figures/{i}.{k}" for i in ("hcnn-T1", "man-T1", "mc-F1a", "mc-F1b", "mc-X1") for k in ("png", "svg", "csv", "json")}
    stems = "10_separation", "30_maxconfidence"
    files = {f"{folder}/{s}.{e}" for s in stems for folder, e in (("notebooks", "ipynb"), ("pages", "html"), ("logs", "log"))}
    assert found == figures | files | {"index.html", "claims.html", "manifest.json", "done/10_separation.json", MADE}


def test_manifest(run):
    out, told, *_ = run
    assert list(told["identifiers"]) == ["hcnn-T1", "man-T1", "mc-F1a", "mc-F1b", "mc-X1"]
    for entry in told["identifiers"].values():
        assert all(hashlib.sha256((out / f["path"]).read_bytes()).hexdigest() == f["sha256"] for f in entry["files"].values())
    first = told["identifiers"]["hcnn-T1"]
    assert first["caption"] == "points at eps 1.000 & steps 7" and first["topic"] == "separation" and first["kind"] == "figure"
    assert first["parameters"] == {"eps": 1.0, "steps": 7, "name": "digits", "sizes": [1, 2], "device": "cpu"}
    assert 0 < first["seconds"] <= told["identifiers"]["man-T1"]["seconds"] <= told["topics"]["separation"]["seconds"]
    assert told["versions"]["python"] and told["versions"]["torch"] and told["device"] == "cpu" and told["profile"] == "digits"
    assert told["commit"] is None and told["missing"] == ["mc-F2a", "mc-F2b", "mc-F3a", "mc-F3b"]
    assert told["topics"]["maxconfidence"]["foreign"] == ["hcnn-T2"] and told["topics"]["separation"]["error"] is None


def test_complaints_name_error_missing_and_foreign(run):
    *_, complaints, said = run
    error, missing, foreign = complaints
    assert (
        "30_maxconfidence" in error
        and "In [5] (id c4) stopped with ValueError: eps <of> nothing" in error
        and "runs/digits/logs/30_maxconfidence.log" in error
    )
    assert missing.endswith("mc-F2a, mc-F2b, mc-F3a, mc-F3b") and "hcnn-T2" in foreign
    assert [line.split()[:2] for line in said] == [
        ["10_separation"],
        ["10_separation", "hcnn-T1"],
        ["10_separation", "man-T1"],
        ["10_separation", "done"],
        ["30_maxconfidence"],
        ["30_maxconfidence", "mc-F1a"],
        ["30_maxconfidence", "mc-F1b"],
        ["30_maxconfidence", "mc-X1"],
        ["30_maxconfidence", "stopped"],
    ]


def test_failed_topic_keeps_its_page(run):
    out, *_ = run
    page = (out / "pages/30_maxconfidence.html").read_text()
    assert "eps &lt;of&gt; nothing" in page and "#papermill-error-cell" in page
    assert "eps <of> nothing" in (out / "logs/30_maxconfidence.log").read_text()


def test_kernel_is_this_interpreter(run):
    out, *_ = run
    last = json.loads((out / "notebooks/10_separation.ipynb").read_text())["cells"][-1]
    assert last["outputs"][0]["data"]["text/plain"] == ["True"]


def test_a_figure_that_nothing_publishes_is_shown_all_the_same(run):
    out, *_ = run
    last = json.loads((out / "notebooks/10_separation.ipynb").read_text())["cells"][-1]
    assert "image/png" in last["outputs"][1]["data"]


def test_executed_notebook_tells_no_path(run):
    out, *_ = run
    text = (out / "notebooks/10_separation.ipynb").read_text()
    assert r"out = \"runs/digits/figures\"" in text and str(out.parent) not in text


def test_gallery_marks_what_is_missing(run):
    out, *_ = run
    text = (out / "index.html").read_text()
    assert text.count('class="missing"') == 4 and "points at eps 1.000 &amp; steps 7" in text and "eps &lt;of&gt; nothing" in text


def test_store_twice_gives_the_same_clean_bytes(run, home):
    from nbdev.clean import nbdev_clean

    source = home / "nbs/topics/10_separation.ipynb"
    before = source.read_bytes()
    assert store.store_outputs(home, run[0], ["separation"]) == [source]
    once = source.read_bytes()
    store.store_outputs(home, run[0], ["10_separation"])
    assert source.read_bytes() == once != before
    nbdev_clean.__wrapped__(str(source))
    assert source.read_bytes() == once
    cells = json.loads(once)["cells"]
    assert len(cells) == 6 and cells[3]["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["eps 1.0\n", "steps 7\n", "end\n"]}
    ]
    assert all(c.get("execution_count") is None and set(c["metadata"]) <= {"tags"} for c in cells)


def test_store_refuses_changed_source_and_writes_nothing(run, home, tmp_path):
    shutil.copytree(home / "nbs", tmp_path / "nbs")
    shutil.copy(home / "settings.ini", tmp_path)
    path = tmp_path / "nbs/topics/10_separation.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"][4]["source"][0] += " # changed"
    path.write_text(json.dumps(nb))
    with pytest.raises(basics.UsageError, match=r"10_separation.ipynb has changed since the run: cell 4 \(id c4\)"):
        store.store_outputs(tmp_path, run[0], ["separation"])
    assert path.read_text() == json.dumps(nb)
    nb["cells"][4:] = []
    path.write_text(json.dumps(nb))
    with pytest.raises(basics.UsageError, match="4 cells, then 6"):
        store.store_outputs(tmp_path, run[0], ["separation"])
    assert path.read_text() == json.dumps(nb)


def test_a_sentence_may_be_mended_without_a_new_run(run, home, tmp_path):
    shutil.copytree(home / "nbs", tmp_path / "nbs")
    shutil.copy(home / "settings.ini", tmp_path)
    path = tmp_path / "nbs/topics/10_separation.ipynb"
    nb = json.loads(path.read_text())
    prose = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
    prose["source"] = ["A better sentence."]
    path.write_text(json.dumps(nb))
    store.store_outputs(tmp_path, run[0], ["separation"])
    stored = json.loads(path.read_text())["cells"]
    assert stored[nb["cells"].index(prose)]["source"] == ["A better sentence."] and stored[3]["outputs"]


def test_store_refuses_errors_and_paths(run, home, tmp_path):
    source = home / "nbs/topics/10_separation.ipynb"
    before = source.read_bytes()
    with pytest.raises(basics.UsageError, match="cell 4 ended in ValueError"):
        store.store_outputs(home, run[0])
    (tmp_path / "notebooks").mkdir()
    nb = json.loads((run[0] / "notebooks/10_separation.ipynb").read_text())
    nb["cells"][-1]["outputs"][0]["data"]["text/plain"] = [f"PosixPath('{home}/x')"]
    (tmp_path / "notebooks/10_separation.ipynb").write_text(json.dumps(nb))
    with pytest.raises(basics.UsageError, match="cell 5 shows the path"):
        store.store_outputs(home, tmp_path)
    with pytest.raises(basics.UsageError, match="no executed notebook of separation"):
        store.store_outputs(home, tmp_path / "nowhere", ["separation"])
    assert source.read_bytes() == before


@pytest.mark.slow
def test_command_ends_well_with_the_path_of_the_gallery(home):
    """Into a folder of its own, through the real command."""
    done = subprocess.run(
        [*RUN, "reproduce", "separation", "--profile", "mnist", "-p", "steps=3", "--out", "runs/own"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines()[-1] == "runs/own/index.html"
    told = json.loads((home / "runs/own/manifest.json").read_text())
    assert told["missing"] == [] and told["topics"]["separation"]["parameters"]["eps"] == 0.1


@pytest.mark.slow
def test_plain_papermill_runs_a_topic(home):
    command = [
        sys.executable,
        "-m",
        "papermill",
        "nbs/topics/10_separation.ipynb",
        "plain.ipynb",
        "-f",
        "nbs/profiles/digits.yaml",
        "-p",
        "eps",
        "0.5",
    ]
    spec = home / "elsewhere/kernels/python3/kernel.json"
    spec.write_text(
        json.dumps(
            {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "p", "language": "python"}
        )
    )
    done = subprocess.run([*command, "--no-progress-bar"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eps 0.5\n" in "".join(
        o for c in json.loads(Path("plain.ipynb").read_text())["cells"] for x in c.get("outputs", ()) for o in x.get("text", ())
    )


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_interrupt_stops_the_kernel(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(project(tmp_path))
    write_notebook(
        tmp_path / "nbs/topics/10_separation.ipynb",
        (PARAMETERS, "code", ["parameters"]),
        (PUBLISH,),
        ("import os, time\nopen('pid', 'w').write(str(os.getpid()))\npublish('hcnn-T1', 'one')\ntime.sleep(600)",),
    )
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a background job's children would not
    command = [sys.executable, "-c", hears + RUN[2], "reproduce", "separation"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "10_separation" in child.stdout.readline() and "hcnn-T1" in child.stdout.readline()
    child.send_signal(sent)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "stopped" in err and not Path("runs/digits/index.html").exists()
    pid, patience = int(Path("pid").read_text()), time.time() + 10
    while os.path.exists(f"/proc/{pid}") and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.time() < patience, "the kernel still runs"
        time.sleep(0.1)


def test_a_long_silence_is_broken(monkeypatch):
    monkeypatch.setattr(watching, "_SILENCE", 5)
    said = []
    view = watching.RunReporter(said.append)
    for second in range(18):
        view.follow({"10_a": watching.Progress(second, 2, 9, {"mc-F1a": 3.0} if second > 3 else {}, "mc-F1b", 70.0)})
    assert [line.split()[:2] for line in said] == [["10_a"], ["10_a", "mc-F1a"], ["10_a", "mc-F1b"], ["10_a", "mc-F1b"]]
    assert "about 1:10 left" in said[1] and "cell 2 of 9, 1 published, 0:10, about 1:10 left" in said[2]


# the gallery beside the papers


def test_gallery_shows_the_papers_numbers_and_what_was_different(run):
    out, told, *_ = run
    assert told["topics"]["separation"]["different"] == {}  # the tiny project has no profile `paper`

    told["topics"]["separation"]["different"] = {"eps": [1.0, 8 / 255], "data": ["digits", "cifar10"]}
    text = gallery.gallery_page(told, out)
    assert "hcnn Table 1" in text and "<td>277</td>" in text and "data: data digits (not cifar10)" in text and "budget: eps 1 (not 0.03137)" in text
    assert text.count("The paper's numbers") == 3  # hcnn-T1, man-T1, and the settings of mc-F1a


@pytest.mark.parametrize(
    "identifier, row, column, value",
    [
        ("hcnn-T2", "eta .030, p .99", "AWPR (with rejection)", "16.0 %"),
        ("hcnn-T4", "2nd confident point", "xi .015: label change", "260"),
        ("man-T2", "average", "shell: attack success rate", "1.33 %"),
        ("rce-T2", "C&W-hc, RCE", "CIFAR-10: K-density", "91.8"),
        ("rce-T5", "C&W-wb", "RCE", "1300 s"),
        ("reg-T1", "(f) 3 bits, adv. training", "FGM", "18.8 %"),
        ("reg-T3", "W,A,G 1,2,6", "top-5: eps 8", "93.4 %"),
    ],
)
def test_papers_numbers(identifier, row, column, value):
    from confnb.workshop.gallery import _paper_table

    table, source = _paper_table(identifier)
    assert table.set_index("").loc[row, column] == value and source.split()[0] == identifier.split("-")[0]


def test_claims_are_counted_and_silence_is_named(run):
    out, told, *_ = run

    assert "no topic of this run published its claims" in (out / "index.html").read_text()
    assert (out / "claims.html").read_text().count("published no table of its claims") == 2
    claims = [
        Claim("a", "s 1", Holds(high=50), [share(9, 300)]),
        Claim("b <c>", "s 2", Holds(low=50), [share(9, 300)]),
        Claim("d", "s 3", Holds(high=5), [share(2, 2)], needs=[Need("points", 2, low=6)]),
        Claim("e", "s 4", Holds(low=1), [share(9, 300)]),
    ]
    publish_claims("mc", claims, "claims", out / "figures")
    entry = {"topic": "maxconfidence", "kind": "table", "caption": "claims", "files": {"csv": {"path": "figures/mc-X0.csv"}}}
    with_claims = told | {"identifiers": told["identifiers"] | {"mc-X0": entry}}
    text = gallery.claims_page(with_claims, out)
    assert "<strong>2</strong> yes" in text and "<strong>1</strong> no" in text and "<strong>1</strong> not tested here" in text
    assert "3 [1.38, 5.62] %" in text and "b &lt;c&gt;" in text and text.count("published no table") == 1
    assert "2 yes, 1 no, 0 undecided, 1 not tested here" in gallery.gallery_page(with_claims, out)


def test_claims_have_verdicts_with_their_reasons_and_identities_are_not_counted(run, tmp_path):
    out, told, *_ = run
    claims = [
        Claim("it falls", "s 1", Holds(high=50), [share(9, 300)], paper="26 of 300"),
        Claim("it never <rises>", "s 2", Holds(high=5), [share(2, 2)], needs=[Need("points", 2, low=6)]),
        Claim("it is so", "s 3", Holds(high=0), [Estimate(0, 0, 0)], kind="identity"),
    ]
    publish_claims("mc", claims, "c", out / "figures")
    entry = {"topic": "maxconfidence", "kind": "table", "caption": "claims", "files": {"csv": {"path": "figures/mc-X0.csv"}}}
    text = gallery.claims_page(told | {"identifiers": told["identifiers"] | {"mc-X0": entry}}, out)
    assert "<strong>1</strong> yes" in text and "<strong>0</strong> no" in text and "<strong>1</strong> not tested here" in text
    assert "3 [1.38, 5.62] %; the paper 26 of 300" in text and "points 2, not (at least 6)" in text and "(identity) it is so" in text and "&lt;rises&gt;" in text


def test_foreign_figures_are_not_in_the_progress_of_a_topic(run):
    *_, said = run
    assert not any("hcnn-T2" in line for line in said)
