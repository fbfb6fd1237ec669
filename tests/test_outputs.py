"""Outputs of notebooks that are no topics: what is missing is filled in, with pictures as PNG and SVG, and nothing else is touched."""

import json

import pytest

from confnb.basics import UsageError
from confnb.workshop import outputs

DRAW = "import matplotlib.pyplot as plt\nfigure = plt.figure(figsize=(2, 1))\nfigure.gca().plot([0, 1])\nplt.show()"


def notebook(path, *sources, kept=None):
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "source": s, "outputs": []}
        for n, s in enumerate(sources)
    ]
    cells.append({"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Words"]})
    if kept is not None:
        cells[0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [kept]}]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def shown(path):
    return [c.get("outputs") for c in json.loads(path.read_text())["cells"]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("outputs") / "one.ipynb"
    skipped = "#| eval: false\nraise ValueError"
    notebook(path, "print('now')", DRAW, DRAW, skipped, "import sys\nprint('!', file=sys.stderr)\n6 * 7", kept="before\n")
    assert outputs.fresh_outputs(path) == 3
    return path


def test_what_was_there_stays_and_what_is_missing_comes(filled):
    kept, first, second, skipped, number, words = shown(filled)
    assert kept[0]["text"] == ["before\n"] and skipped == [] and words is None
    assert [o["output_type"] for o in number] == ["execute_result"]  # no warning of this machine
    assert number[0]["data"] == {"text/plain": ["42"]} and number[0]["execution_count"] is None


def test_a_picture_is_there_twice_and_the_same_each_time(filled):
    _, (first,), (second,), *_ = shown(filled)
    assert {"image/png", "image/svg+xml"} <= set(first["data"])
    assert "".join(first["data"]["image/svg+xml"]).startswith("<svg") and "date" not in str(first["data"]["image/svg+xml"])
    assert first["data"]["image/svg+xml"] == second["data"]["image/svg+xml"]


def test_a_heavy_svg_is_left_out(monkeypatch):
    monkeypatch.setattr("confnb.workshop.store._MOST_SVG", 20)
    light, heavy = (f"<?xml?><svg>{n * ' '}</svg>" for n in (1, 20))
    assert outputs._light({"data": {"image/svg+xml": light}})["data"] == {"image/svg+xml": ["<svg> </svg>"]}
    assert outputs._light({"data": {"image/png": "", "image/svg+xml": heavy}})["data"] == {"image/png": ""}


@pytest.mark.parametrize(
    "source, said",
    [("1 / 0", "ZeroDivisionError: division by zero"), ("import os\nos.getcwd()", "the path .* of this machine")],
    ids=["a cell fails", "a path is shown"],
)
def test_what_cannot_be_stored_leaves_the_notebook_as_it_was(tmp_path, source, said):
    path = notebook(tmp_path / "one.ipynb", "1", source)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=said):
        outputs.fresh_outputs(path)
    assert path.read_bytes() == before


def test_the_command_goes_on_and_says_what_failed(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(outputs, "fresh_outputs", lambda path, every: seen.append((path.name, every)) or 2)
    good = notebook(tmp_path / "good.ipynb")
    assert outputs.main(["--all", str(good)]) == 0 and seen == [("good.ipynb", True)]
    monkeypatch.undo()
    assert outputs.main([str(tmp_path / "absent.ipynb"), str(good)]) == 1
    out, err = capsys.readouterr()
    assert "absent.ipynb" in err and "good.ipynb: 0 cells" in out


def test_without_names_nothing_with_parameters_is_run():
    chosen = [p.relative_to(outputs.checkout() / "nbs").as_posix() for p in outputs._chosen(outputs.checkout(), [])]
    assert "index.ipynb" in chosen and "foundations/16_sets.ipynb" in chosen
    assert not [p for p in chosen if p.startswith(("topics/3", "api/", "foundations/21_"))]  # these show a run
