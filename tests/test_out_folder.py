"""A command writes into a folder that somebody names, and replaces or removes only what an earlier call has made there."""

import json
import shutil

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import numbers_project

from confnb import basics
from confnb.plots import publish
from confnb.workshop import plans, runner, runs, site, staleness


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = numbers_project(tmp_path_factory.mktemp("folder"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root


def run(root, out):
    plan = plans.plan(root, ["separation"], out=out)
    return plan, runs.reproduce(plan, say=lambda line: None)


MINE = {".lock": "a lock of my own", "work/thesis/chapter1.tex": "three years", "figures/man-T1.old.csv": "keep", "notes.html": "<h1>mine</h1>", "figures/drawing.png": "png"}


@pytest.fixture(scope="module")
def finished(checkout):
    """A run in a folder in which other files lie, of which the tests make copies: (folder, complaints)."""
    out = checkout / "mydir"
    for name, text in MINE.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    return out, run(checkout, out)[1]


@pytest.mark.slow
def test_what_is_not_confnbs_survives_a_run_in_its_folder(checkout, finished):
    out, _ = finished
    for again in False, True:
        if again:
            run(checkout, out)
        assert {name: (out / name).read_text() for name in MINE} == MINE and (out / "index.html").exists()
    assert not (out / staleness.WORK).exists()


@pytest.mark.parametrize("name", ["index.html", "manifest.json", "claims.html", "figures/man-T1.csv", "notebooks/10_separation.ipynb", "done/10_separation.json"])
def test_a_folder_in_which_something_would_be_lost_is_refused_before_anything_runs(checkout, name):
    out = checkout / f"theirs-{name.replace('/', '-')}"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(basics.UsageError, match="was not made by confnb and would be lost; name another folder"):
        run(checkout, out)
    assert (out / name).read_text() == '{"mine": 1}' and not (out / "logs").exists()


@pytest.mark.slow
def test_a_stamp_from_elsewhere_leads_nowhere(checkout, finished):
    out, victim = shutil.copytree(finished[0], checkout / "given"), checkout / "victim"
    victim.mkdir()
    (victim / "data.csv").write_text("precious")
    stamp = json.loads((out / "done/10_separation.json").read_text())
    stamp["ran"]["published"]["../../victim/data"] = 1.0
    stamp["files"]["../victim/data.csv"] = "0"
    stamp["key"]["code"] = "another"
    (out / "done/10_separation.json").write_text(json.dumps(stamp))
    assert "10_separation" in run(checkout, out)[0].topics[0].stem and (checkout / "ran.txt").read_text().count("10_separation") == 2, "it was run again"
    assert (victim / "data.csv").read_text() == "precious"


@pytest.mark.slow
def test_a_folder_of_the_first_edition_is_known_by_its_manifest(checkout, finished):
    out = shutil.copytree(finished[0], checkout / "first")
    (out / basics.MADE).unlink()
    before = {f.name: f.read_bytes() for f in (out / "figures").glob("*.csv")}
    assert (out / "manifest.json").exists() and run(checkout, out)[1] == finished[1]
    assert {f.name: f.read_bytes() for f in (out / "figures").glob("*.csv")} == before


NAMES = st.sampled_from(["index.htm", "work/a.txt", "figures/man-T1.txt", "figures/mc-F1a.csv", "figures/x.csv", "logs/10_separation.txt", "pages/a.html",
                         "manifest.yaml", ".lock2", "done/mine.json", "notebooks/mine.ipynb", "work/10_separation-12/a", "figures/hcnn-T1/deep.txt"])


@given(files=st.dictionaries(NAMES, st.binary(max_size=30), min_size=1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_random_file_is_touched(tmp_path, checkout, files):
    "The parts of a run that write and remove, on folders full of other things"
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    plan = plans.plan(checkout, ["separation"], out=out)
    topic = plan.topics[0]
    runs._begin(plan)
    box = runner._box(out, topic)
    (box / "figures/man-T1.csv").write_text("1\n")
    runner._install(plan, topic, box / "figures", ["man-T1"])
    runner._install(plan, topic, box / "figures", [])
    shutil.rmtree(box)
    assert {name: (out / name).read_bytes() for name in files} == files and not (out / "figures/man-T1.csv").exists()


def test_offline_pages_replace_only_their_own(checkout):
    out = checkout / "site"
    out.mkdir()
    (out / "other.html").write_text("mine")
    site.pages(checkout, out)
    site.pages(checkout, out)
    assert (out / "other.html").read_text() == "mine" and 'name="generator" content="confnb"' in (out / "index.html").read_text()
    (checkout / "blog").mkdir()
    (checkout / "blog/index.html").write_text("mine")
    with pytest.raises(basics.UsageError, match="not made by confnb"):
        site.pages(checkout, checkout / "blog")
    assert [f.name for f in (checkout / "blog").iterdir()] == ["index.html"]


@pytest.mark.parametrize("name, stays", [("figures/a.csv", True), ("a", True), ("../a", False), ("/etc/passwd", False), ("", False), ("a/../../b", False)])
def test_a_path_that_leads_out_of_the_folder_is_not_believed(name, stays):
    assert basics.inside(name) == stays


@pytest.mark.slow
def test_a_page_of_ones_own_put_in_the_place_of_ours_later_stays(checkout, finished):
    out, pages = shutil.copytree(finished[0], checkout / "later"), checkout / "later-site"
    site.pages(checkout, pages)
    for folder, again in (out, lambda: run(checkout, out)), (pages, lambda: site.pages(checkout, pages)):
        again()
        (folder / "index.html").write_text("<h1>my own page</h1>")
        with pytest.raises(basics.UsageError, match="index.html was not made by confnb and would be lost; name another folder"):
            again()
        assert (folder / "index.html").read_text() == "<h1>my own page</h1>"


def test_a_table_that_an_earlier_run_published_is_no_page_of_ones_own(tmp_path):
    table = pd.DataFrame({"model": ["a"], "share": [0.5]})
    publish("man-T1", table, table, "a caption", tmp_path / "figures")
    name = "figures/man-T1.html"
    assert (tmp_path / name).exists() and basics.foreign(tmp_path, [name], {name}) == []
    assert basics.foreign(tmp_path, [name], set()) == [name], "nobody said that it is ours"
    (tmp_path / name).write_text("<h1>my own page</h1>")
    assert basics.foreign(tmp_path, [name], {name}) == [name]


def of_the_first_edition(folder):
    "Pages as they were before they named their generator, and before there was a list of them"
    (folder / basics.MADE).unlink()
    for page in folder.rglob("*.html"):
        text = page.read_text().replace('<meta name="generator" content="confnb">\n', "")
        page.write_text(text.replace(".cell.markdown > ", ".rendered_html > "))


def test_offline_pages_of_the_first_edition_are_known_by_their_style(checkout):
    out = checkout / "old-site"
    front = site.pages(checkout, out)
    of_the_first_edition(out)
    assert "generator" not in front.read_text() and "generator" in site.pages(checkout, out).read_text()
    of_the_first_edition(out)
    front.write_text(front.read_text().replace(":root { color-scheme: light dark; ", ":root { "))
    with pytest.raises(basics.UsageError, match="index.html was not made by confnb"):
        site.pages(checkout, out)


@pytest.mark.slow
def test_the_gallery_of_a_first_run_is_no_page_of_a_notebook(checkout, finished):
    out = shutil.copytree(finished[0], checkout / "first-run")
    of_the_first_edition(out)
    with pytest.raises(basics.UsageError, match="index.html was not made by confnb"):
        site.pages(checkout, out)


def test_pages_wait_for_nobody_at_work_in_their_folder(checkout, tmp_path):
    out = tmp_path / "site"
    with basics.alone(out), pytest.raises(basics.UsageError, match="another run is at work in .*site; wait for it, or name another folder"):
        site.pages(checkout, out)
    assert site.pages(checkout, out).exists()


def test_pages_that_are_stopped_say_so(checkout, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(site, "page", stop)
    with pytest.raises(KeyboardInterrupt):
        site.pages(checkout, tmp_path / "site")
    said = capsys.readouterr().err
    assert said.startswith("confnb: stopped; ") and said.count("\n") == 1 and not (tmp_path / "site").exists()
