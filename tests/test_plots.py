import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from confnb import plots
from confnb.plots import (
    _LINES,
    _OTHERS,
    PALETTE,
    STYLE,
    Published,
    color,
    line,
    publish,
    show_images,
    table_figure,
    use_style,
)

MODELS = ["undefended", "regularised", "adversarially trained"]
IN_NOTEBOOK = plots._in_notebook
DATA = pd.DataFrame({"t": [0.0, 0.5], "name": ["a, b", 'c "d"'], "v": [1 / 3, np.pi]})


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture(autouse=True)
def displayed(monkeypatch):
    "What a notebook would show"
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr(plots, "_in_notebook", lambda: True)
    return shown


@pytest.fixture(autouse=True)
def no_name_was_seen(monkeypatch):
    monkeypatch.setattr(plots, "_looks", {})


def figure(title="a curve"):
    fig, ax = plt.subplots()
    ax.plot([0, 1, 2], [0, 1, 4], **line("regularised"))
    ax.set_title(title)
    ax.legend()
    return fig


# colours


def test_the_three_models_are_told_apart():
    colors = [np.array(to_rgb(color(m))) for m in MODELS]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]) > 0.25
    assert len({line(m)["linestyle"] for m in MODELS}) == 3  # in print without colour, too
    grey = [c @ (0.299, 0.587, 0.114) for c in colors]
    assert max(grey) < 0.75  # dark enough on white


def test_colours_stay():
    assert [color(m) for m in MODELS] == ["#0173b2", "#de8f05", "#029e73"]
    assert color("somebody's model") == color("somebody's model") in _OTHERS and not set(_OTHERS) & {color(m) for m in MODELS}
    assert set(_LINES) <= set(PALETTE) and line("upper bound")["linestyle"] == "-."
    assert line("mine") == {"color": color("mine"), "linestyle": "-.", "linewidth": 1.8, "label": "mine"}


@pytest.mark.parametrize("names", [["model 1", "model 6"], ["ab", "ba", "cc"], [f"m{i}" for i in range(80)]])
def test_no_two_unknown_names_look_alike(names):
    looks = [(line(n)["color"], str(line(n)["linestyle"])) for n in names]
    assert len(set(looks)) == len(names) and looks == [(line(n)["color"], str(line(n)["linestyle"])) for n in names]
    fig, ax = plt.subplots()
    for n in names:
        ax.plot([0, 1], [0, 1], **line(n))
    fig.canvas.draw()
    assert not {(line(m)["color"], str(line(m)["linestyle"])) for m in PALETTE} & set(looks)


def test_the_first_name_of_a_colour_keeps_it_whatever_comes_later():
    alone = line("model 1")
    plots._looks.clear()
    assert line("model 1") == alone and line("model 6") != alone and line("model 1") == alone


@pytest.mark.parametrize("name", ["$x^$", r"$\frac$", "$p$", "plain", "$"])
def test_a_name_with_dollars_can_be_drawn(name):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], **line(name))
    ax.legend()
    fig.canvas.draw()
    table_figure(pd.DataFrame({name: [name]})).canvas.draw()
    assert (line(name)["label"] == name) == (name in ("$p$", "plain", "$"))


def test_the_style_is_valid_and_set():
    seaborn = pytest.importorskip("seaborn")
    use_style()
    assert seaborn.color_palette().as_hex() == seaborn.color_palette("colorblind").as_hex() == [*plots._INKS]
    assert all(plt.rcParams[k] == v for k, v in STYLE.items() if not k.endswith("color"))


# publishing


def test_publishing_writes_four_files(tmp_path, displayed):
    fig = figure()
    told = publish("mc-F1a", fig, DATA, "A curve: digits, Model A.", tmp_path / "new" / "folder")
    out = tmp_path / "new" / "folder"
    assert sorted(p.name for p in out.iterdir()) == ["mc-F1a.csv", "mc-F1a.json", "mc-F1a.png", "mc-F1a.svg"]
    assert told == Published("mc-F1a", "figure", "A curve: digits, Model A.", {k: f"mc-F1a.{k}" for k in ("png", "svg", "csv")})
    assert json.loads((out / "mc-F1a.json").read_text()) == vars(told)
    pd.testing.assert_frame_equal(pd.read_csv(out / "mc-F1a.csv"), DATA)
    assert plt.imread(out / "mc-F1a.png").std() > 0.01 and ET.parse(out / "mc-F1a.svg").getroot().tag.endswith("svg")
    assert displayed[0] is fig and "**mc-F1a.** A curve" in displayed[1].data
    assert not plt.fignum_exists(fig.number)  # or the notebook shows it twice


def test_the_description_is_written_last(tmp_path, monkeypatch):
    """Where there is an ID.json, the other three are whole."""
    def broken(self, *_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
    with pytest.raises(OSError, match="disk is full"):
        publish("mc-F1a", figure(), DATA, "A curve.", tmp_path)
    assert not (tmp_path / "mc-F1a.json").exists() and not (tmp_path / "mc-F1a.csv").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("shown", [figure, lambda: DATA], ids=["figure", "table"])
def test_files_are_the_same_every_time(tmp_path, shown):
    use_style()
    for folder in "a", "b":
        publish("mc-X1", shown(), DATA, "Twice.", tmp_path / folder)
    for kind in {p.suffix[1:] for p in (tmp_path / "a").iterdir()}:
        a, b = ((tmp_path / f / f"mc-X1.{kind}").read_bytes() for f in "ab")
        assert a == b and len(a) > 20, kind
    svg = (tmp_path / "a/mc-X1.svg").read_text()
    assert "matplotlib.org" not in svg.split("<defs>")[0].replace("http://www.w3.org", "") and "<dc:date>" not in svg
    assert b"Software" not in (tmp_path / "a/mc-X1.png").read_bytes()


def test_a_table_is_published_as_a_table(tmp_path, displayed):
    told = publish("mc-X2", DATA, DATA, "Numbers.", tmp_path)
    assert told.kind == "table" and displayed[0] is DATA and (tmp_path / "mc-X2.svg").exists()
    html = (tmp_path / told.files["html"]).read_text()
    assert re.findall(r"<th>(.*?)</th>", html) == [*DATA.columns] and html.count("<tr") == len(DATA) + 1
    assert not plt.get_fignums()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = publish("mc-F1a", figure(), DATA, "A curve.")
    assert told.files == {} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("data, caption", [(DATA, ""), (DATA, "  \n"), (DATA[:0], "A caption.")])
def test_what_says_nothing_is_refused(tmp_path, displayed, data, caption):
    with pytest.raises(ValueError, match="mc-F1a: a published table or figure needs a caption and data"):
        publish("mc-F1a", figure(), data, caption, tmp_path)
    assert not list(tmp_path.iterdir()) and not displayed


def test_text_in_captions_survives(tmp_path):
    caption = 'L-inf ≤ 8/255, "quoted" <b> $x$'
    publish("mc-F1a", figure(), DATA, caption, tmp_path)
    assert json.loads((tmp_path / "mc-F1a.json").read_text())["caption"] == caption


# tables as pictures


@pytest.mark.parametrize("table", [
    pd.DataFrame({"model": ["undefended", "adversarially trained with a long name that goes on and on"], "v": [0.123456, 1.0]}),
    pd.DataFrame({"a heading of very many words indeed": [1], "another one": ["x"], "Donaudampfschifffahrtsgesellschaft": [2.5]}),
    pd.DataFrame({"WRONG-CLASS CONFIDENCE": ["ADVERSARIALLY TRAINED MODEL A", "MNIST"]}),
    pd.DataFrame({f"c{i}": range(12) for i in range(9)}),
    pd.DataFrame({"v": [1.0, 2.0]}, index=pd.Index(["row one", "row two"], name="what")),
    pd.DataFrame(np.ones((2, 4)), columns=pd.MultiIndex.from_product([["clean", "attacked"], ["success", "failure"]])),
], ids=["long cell", "long heading", "capitals", "many", "index", "two levels"])
def test_no_text_of_a_table_is_cut_off(table):
    fig = table_figure(table)
    fig.canvas.draw()
    renderer, whole = fig.canvas.get_renderer(), fig.bbox
    for cell in fig.axes[0].tables[0].get_celld().values():
        text, box = cell.get_text().get_window_extent(renderer), cell.get_window_extent(renderer)
        shown = cell.get_text().get_text()
        assert text.x0 >= box.x0 - 1 and text.x1 <= box.x1 + 1, f"{shown!r} is wider than its cell by {max(box.x0 - text.x0, text.x1 - box.x1):.0f} px"
        assert text.y0 >= box.y0 - 1 and text.y1 <= box.y1 + 1, f"{shown!r} is higher than its cell"
        assert whole.x0 <= text.x0 and text.x1 <= whole.x1 and whole.y0 <= text.y0 and text.y1 <= whole.y1


def test_a_table_shows_its_index_and_rounds():
    table = pd.DataFrame({"v": [1 / 3]}, index=pd.Index(["here"], name="where"))
    cells = {c.get_text().get_text() for c in table_figure(table).axes[0].tables[0].get_celld().values()}
    assert cells == {"where", "v", "here", "0.3333"}


@pytest.mark.parametrize("nothing", [np.nan, None, pd.NA, pd.NaT])
def test_a_cell_without_a_number_is_blank(nothing):
    table = pd.DataFrame({"paper": [0.5, nothing], "word": ["nan", "x"]}).astype({"paper": object})
    cells = [c.get_text().get_text() for c in table_figure(table).axes[0].tables[0].get_celld().values()]
    assert sorted(cells) == ["", "0.5", "nan", "paper", "word", "x"]


# images


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_shown_as_they_are(channels):
    images = torch.rand(5, channels, 6, 4, generator=torch.Generator().manual_seed(0))
    fig = show_images(images.requires_grad_(), [f"t{i}" for i in range(5)], columns=3)
    shown = [ax for ax in fig.axes if ax.images]
    assert len(fig.axes) == 6 and len(shown) == 5 and [ax.get_title() for ax in shown] == [f"t{i}" for i in range(5)]
    for ax, image in zip(shown, images.detach(), strict=True):
        picture = np.asarray(ax.images[0].get_array())
        assert picture.shape == (6, 4, 3)
        np.testing.assert_allclose(picture, image.permute(1, 2, 0).expand(-1, -1, 3))
    assert not any(ax.axison for ax in fig.axes)


@pytest.mark.parametrize("n, titles", [(0, None), (3, ["one"]), (1, ["one", "two"])])
def test_images_that_cannot_be_shown_are_refused(n, titles):
    with pytest.raises(ValueError, match="images to show, and a title for each or none"):
        show_images(torch.zeros(n, 1, 4, 4), titles)


def test_grey_is_not_stretched():
    "An image without black and white keeps its greys"
    fig = show_images(torch.full((1, 1, 4, 4), 0.5))
    fig.canvas.draw()
    inside = fig.axes[0].get_window_extent()
    pixel = np.asarray(fig.canvas.buffer_rgba())[int(fig.bbox.height - inside.y0 - inside.height / 2), int(inside.x0 + inside.width / 2)]
    assert pixel[:3] == pytest.approx([128] * 3, abs=1)


def test_matplotlib_waits_until_something_is_drawn():
    assert not {"matplotlib", "plt", "IPython"} & set(vars(plots))


def test_without_a_notebook_files_are_published_all_the_same(tmp_path, monkeypatch):
    "IPython comes with the extra `dev`, not with the library"
    monkeypatch.setattr(plots, "_in_notebook", IN_NOTEBOOK)
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", None)
    publish("mc-F1a", figure(), DATA, "A curve.", tmp_path)
    assert (tmp_path / "mc-F1a.json").exists()


def test_a_plain_script_prints_nothing(tmp_path):
    "IPython may be installed, and nobody be looking"
    code = ("import pandas as pd\nfrom confnb.plots import publish, use_style\nuse_style()\n"
            f"publish('mc-F1a', pd.DataFrame({{'v': [1]}}), pd.DataFrame({{'v': [1]}}), 'A table.', {str(tmp_path)!r})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and (tmp_path / "mc-F1a.json").exists()
