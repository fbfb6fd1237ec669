"""The threshold explorer: its numbers against a count by hand, and its slider in a browser, by keyboard, in the dark, on paper and without scripts."""

import base64
import io
import json
import re
from html import unescape

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from projects import look

from confnb.evaluation import explorer as made
from confnb.evaluation.explorer import threshold_explorer
from confnb.three_outcomes import outcomes
from confnb.workshop.site import page as page_of


def rows(pairs):
    prediction, confidence = zip(*pairs, strict=True)
    return pd.DataFrame(
        {"index": range(len(pairs)), "label": 0, "prediction": prediction, "confidence": confidence}
    )


def numbers(html):
    return json.loads(unescape(re.search(r'data-told="([^"]*)"', html)[1]))


ANSWERS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.98, 0.9995, 1.0])),
        st.tuples(st.integers(0, 2), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=9,
)


@given(ANSWERS)
def test_the_shares_are_those_of_a_count_by_hand(answers):
    clean, attacked = ([pair[k] for pair in answers] for k in (0, 1))
    told = numbers(threshold_explorer({"one": outcomes(rows(clean), {"wrong": rows(attacked)})}).html)
    for at, t in enumerate(map(float, told["thresholds"])):
        right = sum(p == 0 and c > t for p, c in clean)
        wrong = sum(p != 0 and c > t for p, c in clean)
        fooled = [
            any(p != 0 and min(c, 1) > t for p, c in both) for both in zip(clean, attacked, strict=True)
        ]
        kept = sum(p == 0 and c > t and not f for (p, c), f in zip(clean, fooled, strict=True))
        n = len(clean)
        assert told["models"][0]["none"][at] == pytest.approx([right / n, wrong / n], abs=1e-5)
        assert told["models"][0]["wrong"][at] == pytest.approx([kept / n, sum(fooled) / n], abs=1e-5)


def test_the_curve_passes_through_every_threshold_with_failure_first():
    clean, attacked = rows([(0, 0.9), (0, 0.6), (1, 0.7)]), rows([(1, 0.8), (1, 0.3), (2, 0.95)])
    table = outcomes(clean, {"wrong": attacked})
    path = made._path(*(made._part("one", table, aim) for aim in ("none", "wrong")))
    x, y = (float(v) for v in re.match(r"M(\S+) (\d+\.\d)", path).groups())
    corners = {(x, y)}
    for to_x, to_y in re.findall(r"H([\d.]+)V([\d.]+)", path):
        assert float(to_x) >= x and float(to_y) <= y
        x, y = float(to_x), float(to_y)
        corners.add((x, y))
    for t in np.unique(np.r_[0, clean.confidence, attacked.confidence]):
        by_hand = made._place(
            ((attacked.confidence > t) | (clean.confidence > t) & (clean.prediction != 0)).mean(),
            ((clean.confidence > t) & (clean.prediction == 0)).mean(),
        )
        assert any(np.allclose(by_hand, c, atol=0.06) for c in corners)


def test_the_most_confident_mistakes_are_kept_and_no_right_answer():
    sure = torch.linspace(0.2, 0.999, 40)
    found = rows([(k % 2, float(c)) for k, c in enumerate(sure)])
    html = threshold_explorer(
        {"one": outcomes(found, {"wrong": found})}, {"one": (found, torch.rand(40, 3, 90, 120))}, 0.7
    ).html
    kept = [float(c) for c in re.findall(r'<figure data-confidence="([^"]+)"', html)]
    wrong = sorted((float(c) for k, c in enumerate(sure) if k % 2), reverse=True)
    assert kept == pytest.approx(wrong[:12]) and html.count(" hidden><img") == sum(c <= 0.7 for c in kept)
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", html)
    assert {Image.open(io.BytesIO(base64.b64decode(p))).size for p in pictures} == {(64, 48)}


@pytest.mark.parametrize("name", ["<b>bold</b>", "a \"quoted\" & 'name'", "$x$"])
def test_a_name_is_text(name):
    found = rows([(0, 0.9), (1, 0.8)])
    html = threshold_explorer({name: outcomes(found, {"wrong": found})}).html
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    assert soup.select_one(".name").text == name and not soup("b", string="bold")


def test_thresholds_outside_are_refused():
    found = rows([(0, 0.9), (1, 0.8)])
    with pytest.raises(ValueError, match=r"a threshold lies in \[0, 1\], not at 1.5"):
        threshold_explorer({"one": outcomes(found, {"wrong": found})}, threshold=1.5)
    with pytest.raises(ValueError, match="there is no curve to explore"):
        threshold_explorer({})


# in the browser


@pytest.fixture(scope="module")
def three():
    "Explorers of three models with images, of 40 examples"
    draws = np.random.default_rng(0)
    curves, mistakes = {}, {}
    for name, low in ("undefended", 0.8), ("regularised", 0.3), ("adversarially trained", 0.5):
        clean = rows([(int(draws.random() < 0.1), float(c)) for c in draws.uniform(low, 1, 40)])
        attacked = rows([(1 + k % 3, float(c)) for k, c in enumerate(draws.uniform(0.3, low, 40))])
        curves[name] = outcomes(clean, {"wrong": attacked})
        mistakes[name] = attacked, torch.rand(40, 1, 16, 16)
    return threshold_explorer(curves, mistakes), curves, mistakes


@pytest.fixture(scope="module")
def page(three, tmp_path_factory):
    "An offline page whose only cell shows it: scripts are dropped from such a page"
    cell = nbformat.v4.new_code_cell("explorer")
    cell.outputs = [
        nbformat.v4.new_output(
            "execute_result", {"text/html": three[0]._repr_html_(), "text/plain": repr(three[0])}
        )
    ]
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(
        page_of(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page"), cell]), path.parent, {}
        ),
        encoding="utf-8",
    )
    return path


STATE = """return {
    at: document.querySelector('.confnb-explorer output').textContent,
    said: document.querySelector('.confnb-explorer input').getAttribute('aria-valuetext'),
    shares: [...document.querySelectorAll('.model .numbers')].map(e => [...e.querySelectorAll('b')].map(b => parseFloat(b.textContent))),
    widths: [...document.querySelectorAll('.model .bar')].map(e => [...e.children].map(i => 100 * i.getBoundingClientRect().width / e.getBoundingClientRect().width)),
    shown: [...document.querySelectorAll('.model')].map(m => [...m.querySelectorAll('figure')].filter(f => f.offsetParent).map(f => +f.dataset.confidence)),
    none: [...document.querySelectorAll('.none-left')].map(p => !!p.offsetParent),
    dots: [...document.querySelectorAll('circle')].map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')]),
}"""


def agrees(state, curves, mistakes):
    "What the page shows is what the tables say at its threshold"
    t = float(state["at"])
    assert state["said"] == f"threshold {state['at']}"
    for k, (name, curve) in enumerate(curves.items()):
        for j, aim in enumerate(("none", "wrong")):
            at = curve[(curve.aim == aim) & (curve.threshold <= t)].iloc[-1]
            expected = [100 * at[c] for c in ("right", "abstained", "wrong")]
            assert state["shares"][2 * k + j] == pytest.approx(expected, abs=0.06) and state["widths"][
                2 * k + j
            ] == pytest.approx(expected, abs=0.5)
        clean, attacked = (
            curve[(curve.aim == aim) & (curve.threshold <= t)].iloc[-1] for aim in ("none", "wrong")
        )
        assert state["dots"][k] == pytest.approx(made._place(attacked.wrong, clean.right), abs=0.06)
        table = mistakes[name][0]
        above = table.confidence[(table.prediction != 0)].nlargest(12)
        assert state["shown"][k] == pytest.approx(above[above > t].tolist()) and state["none"][k] == (
            not state["shown"][k]
        )


@pytest.mark.browser
@pytest.mark.parametrize("width, dark", [(400, True), (1000, False)])
def test_the_slider_moves_by_keyboard_and_asks_for_nothing(browser, three, page, width, dark):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    assert look(browser, page, width, dark) == []
    agrees(browser.execute_script(STATE), *three[1:])
    seen = set()
    browser.find_element(By.TAG_NAME, "body").click()
    browser.execute_script("document.querySelector('.confnb-explorer input').focus()")
    for keys in (
        (Keys.ARROW_RIGHT,) * 3,
        (Keys.HOME,),
        (Keys.END,),
        (Keys.ARROW_LEFT,) * 15,
        (Keys.PAGE_DOWN,),
    ):
        browser.switch_to.active_element.send_keys(*keys)
        state = browser.execute_script(STATE)
        seen.add(state["at"])
        agrees(state, *three[1:])
    assert len(seen) == 5 and {"0.53", "0.00", "1"} <= seen
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    asked = [
        m
        for m in (json.loads(e["message"])["message"] for e in browser.get_log("performance"))
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert not [m for m in asked if not m["params"]["request"]["url"].startswith("data:")]


def light(color):
    "The relative luminance of a colour as the browser writes it"
    parts = [float(v) for v in re.findall(r"[\d.]+", color)[:3]]
    parts = [v / 255 if color.startswith("rgb") else v for v in parts]
    return sum(
        w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
        for w, v in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


@pytest.mark.browser
@pytest.mark.parametrize(
    "dark, theme, expected",
    [
        (False, "", "light"),
        (True, "", "dark"),
        (True, "quarto-light", "light"),
        (False, "quarto-dark", "dark"),
    ],
)
def test_it_can_be_read_in_light_and_dark(browser, page, dark, theme, expected):
    look(browser, page, 800, dark)
    browser.execute_script("document.body.className = arguments[0]", theme)

    def style(where, what):
        return browser.execute_script(f"return getComputedStyle(document.querySelector('.confnb-explorer{where}')).{what}")

    ground = light(style("", "backgroundColor"))
    assert ground > 0.9 if expected == "light" else ground < 0.05
    for where, what, least in (
        ("", "color", 7),
        (" .who", "color", 4.5),
        (" figcaption", "color", 4.5),
        (" .marks text", "fill", 4.5),
        (" path.curve", "stroke", 3),
    ):
        one, two = sorted((light(style(where, what)), ground))
        assert (two + 0.05) / (one + 0.05) >= least, (where, what)


@pytest.mark.browser
def test_on_paper_it_is_a_plain_figure(browser, page):
    look(browser, page, 800, dark=True)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    try:

        def shown(where):
            return browser.execute_script(f"return !!document.querySelector('.confnb-explorer {where}').getClientRects().length")

        assert shown("svg path.curve") and shown(".bar") and shown("output") and not shown("input")
        assert (
            browser.execute_script(
                "return getComputedStyle(document.querySelector('.confnb-explorer')).backgroundColor"
            )
            == "rgb(255, 255, 255)"
        )
        assert len(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]) > 10_000
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
def test_without_scripts_it_is_a_plain_figure(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look(browser, page, 800)
        from selenium.webdriver.common.by import By

        box = browser.find_element(By.CLASS_NAME, "confnb-explorer")
        assert (
            not box.find_element(By.TAG_NAME, "input").is_displayed()
            and box.find_element(By.TAG_NAME, "svg").is_displayed()
        )
        assert "0.50" in box.text and "undefended" in box.text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
