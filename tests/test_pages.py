"""Pages and gallery: no network, formulas drawn, links that lead somewhere, readable at telephone width."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pandas as pd
import pytest
from projects import PARAMETERS, PUBLISH, links_of, look, project, without_pictures, write_notebook

from confnb import basics
from confnb.workshop import gallery, markdown, parameters, plans, runner, runs, staleness
from confnb.workshop import site as site_module

FORMULAS = [
    r"\frac{a}{b}",
    r"\max_{\|z - x\|_\infty \le \epsilon} \log p_k(z)",
    r"\mathbb{E}_{x \sim D}\left[ \mathcal{L}(x, y) \right]",
    r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
    r"\begin{cases} 1 & t \ge 1/2 \\ 0 & t < 1/2 \end{cases}",
    r"\operatorname*{argmax}_{k} f_k",
    r"\underset{z \in S(x)}{\arg\max}\; f(z)",
    r"\hat{y} \ne y \text{ and } \tfrac12 < t",
    r"\{x : \lVert x \rVert_2 \leq 1\}",
    r"\sum_{i=1}^{n} x_i^2",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_convert(formula):
    text = markdown.pandoc(f"$${formula}$$")
    shown = re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", text)
    assert '<math display="block"' in text and "\\" not in shown and "&amp;" not in shown


@pytest.mark.parametrize("formula", [r"\nonsense x", r"\frac{a}", "{a", r"a \right)", r"\begin{matrixx} a & b \end{matrixx}", r"\sqrt[3]"])
def test_formulas_that_cannot_be_shown_are_named(formula):
    with pytest.raises(ValueError, match=re.escape(formula)):
        markdown.pandoc(f"A ${formula}$ here")


def notebook(*cells):
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(c) if kind == "markdown" else nbformat.v4.new_code_cell(c) for c, kind in cells]
    )


def test_directives_and_hidden_cells_go():
    nb = notebook(
        ("#| default_exp x", "code"),
        ("#| hide\nsecret = 1", "code"),
        ("#| export\ndef f(): return 1", "code"),
        ("#| echo: false\nplot()", "code"),
    )
    nb.cells[3].outputs = [nbformat.v4.new_output("stream", text="drawn")]
    shown = site_module.shown(nb)
    assert [c.source for c in shown.cells] == ["def f(): return 1", ""] and shown.cells[0].metadata["tags"] == ["exported"]
    text = site_module.page(nb, Path("."), {}).split("</style>")[1]
    assert "secret" not in text and "#|" not in text and "plot" not in text and "drawn" in text and text.count("sourceCode python") == 2
    assert """data-tags='["exported"]'""" in text


def test_links_and_pictures(tmp_path):
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    nb = notebook(("# T\n[a](b.ipynb#here) [LICENSE](LICENSE) [d](https://x.org) ![dot](dot.svg)", "markdown"))
    text = site_module.page(nb, tmp_path, {(tmp_path / "b.ipynb").resolve(): "b.html"})
    assert 'href="b.html#here"' in text and "LICENSE" in text and 'href="LICENSE"' not in text and 'href="https://x.org"' in text
    assert "data:image/svg+xml;base64," in text and "<title>T</title>" in text
    for missing in "![x](none.png)", "![x](https://x.org/x.png)":
        with pytest.raises(ValueError, match="would not show it without a network"):
            site_module.page(notebook((missing, "markdown")), tmp_path, {})


def test_outputs_bring_no_script():
    nb = notebook(("x", "code"))
    nb.cells[0].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning with a path"),
        nbformat.v4.new_output("display_data", {"text/html": "<b>bold</b><script src='https://cdn/x.js'></script>"}),
        nbformat.v4.new_output("display_data", {"application/javascript": "alert(1)"}),
    ]
    text = site_module.page(nb, Path("."), {})
    assert "<b>bold</b>" in text and "<script" not in text and "a warning" not in text


def test_long_imports_and_parameters_are_folded(tmp_path):
    imports = "\n".join(f"import module_{k}" for k in range(12))
    cells = [nbformat.v4.new_code_cell(imports), nbformat.v4.new_code_cell("import os"), nbformat.v4.new_code_cell(imports + "\nx = 1")]
    settings = nbformat.v4.new_code_cell("\n".join(f"x{k} = {k}  # a setting" for k in range(12)), metadata={"tags": ["parameters"]})
    html = site_module.page(nbformat.v4.new_notebook(cells=[*cells, settings]), tmp_path, {})
    assert re.findall(r"<summary>(\w+)</summary>", html) == ["imports", "parameters"]
    assert html.count("module_11") == 2 and "a setting" in html


def test_outputs_are_shown_in_their_best_form():
    nb = notebook(("x", "code"))
    pictures = {"image/png": "iVBORw0K\nGgo=\n", "image/svg+xml": "<svg/>"}
    nb.cells[0].outputs = [
        *(nbformat.v4.new_output("display_data", {kind: data, "text/plain": "<Figure>"}) for kind, data in pictures.items()),
        nbformat.v4.new_output("display_data", {"text/markdown": "**mc-F1**: a ball of $\\epsilon$", "text/plain": "<Markdown>"}),
        nbformat.v4.new_output("execute_result", {"text/html": "<table border='1'><tr><td>1</td></tr></table>", "text/plain": "rows"}),
        nbformat.v4.new_output("execute_result", {"text/plain": "a < b"}),
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=["\x1b[31mE: <why>\x1b[0m"]),
    ]
    text = site_module.page(nb, Path("."), {}).split("</style>")[1]
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in text and 'src="data:image/svg+xml;base64,' in text
    assert "<strong>mc-F1</strong>: a ball of <math" in text and "<table><tr><td>1" in text and "a &lt; b" in text and "E: &lt;why&gt;" in text
    assert not re.search(r"\x1b|&lt;(Figure|Markdown)|rows|border=", text)


def published(kind, data, caption):
    """The outputs of a cell that published something."""
    shown = nbformat.v4.new_output("display_data", {kind: data, "text/plain": "<Figure size 5x5>"})
    return [shown, nbformat.v4.new_output("display_data", {"text/markdown": caption, "text/plain": "<Markdown>"})]


def test_figures_and_tables_bear_their_captions():
    frame = pd.DataFrame({"model": ["a", "b"], "AWPR": [0.5, float("nan")]})
    nb = notebook(("The paper's *first* picture, in short:", "markdown"), ("fig = 1", "code"), ("x", "code"), ("y", "code"))
    nb.cells[1].outputs = published("image/png", "iVBORw0K", "**mc-F1.** At $\\epsilon$ & `a`.")
    nb.cells[2].outputs = published("text/html", frame.to_html(), "**mc-T1.** Of two models.")
    nb.cells[3].outputs = published("image/png", "iVBORw0K", "")[:1]
    text = site_module.page(nb, Path("."), {}).split("</style>")[1]
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    assert [img["alt"] for img in soup("img")] == ["mc-F1. At epsilon & a.", "The paper's first picture, in short"]
    assert soup.figure.figcaption.get_text().startswith("mc-F1. At ϵ") and soup.table.caption.get_text() == "mc-T1. Of two models."
    assert [[td.get_text() for td in row("td")] for row in soup("tr")[1:]] == [["a", "0.5"], ["b", ""]] and not soup.table("th", string="0")
    assert text.count("mc-F1") == 2 and text.count("mc-T1") == 1 and "NaN" not in text and "<Figure" not in text


@pytest.mark.parametrize("index, heads", [(None, ["", "a"]), (pd.Index([0, 1], name="n"), ["", "a", "n", ""]), ([0, 2], ["", "a"]), (["r", "s"], ["", "a"])])
def test_only_plain_row_numbers_are_taken_out(index, heads):
    frame = pd.DataFrame({"a": [1, 2]}, index=index)
    heads = heads[1:] if index is None else heads
    assert re.findall(r"<th>(\w?)</th>", markdown.tidy_table(frame.to_html()).split("</thead>")[0]) == heads


def test_printed_sentences_are_text():
    said = "Of 17 claims: 6 yes; the *shell* keeps 1 < 2 $ of them, which is more words than fit on one line of a page's column."
    nb = notebook(("print()", "code"))
    nb.cells[0].outputs = [nbformat.v4.new_output("stream", text=said + "\n")]
    assert f"<p>{said.replace('<', '&lt;').replace(chr(39), '’')}</p>" in site_module.page(nb, Path("."), {})
    assert markdown.prose(f"{said}\n{said}") == f"- {markdown.prose(said)}\n- {markdown.prose(said)}"
    for columns in "name      value\n" + "long " * 30, "tensor([" + "1, " * 60, "short.", "":
        assert markdown.prose(columns) == ""


def test_pages_have_contents_and_a_way_on():
    heads = notebook(("# T\n\n## One $x$\n\n### [In](a.ipynb) it\n\n## Two", "markdown"))
    text = site_module.page(heads, Path("."), {}, beside=[("← before", "p.html"), ("after →", "n.html")])
    assert '<li class="level3"><a href="#in-it">In it</a></li>' in text and text.count('<a href="n.html">after →</a>') == 2
    assert "On this page" not in site_module.page(notebook(("# T\n\n## One", "markdown")), Path("."), {})


def test_pages_follow_each_other_room_by_room(tmp_path):
    root = project(tmp_path)
    write_notebook(root / "nbs/how-to/use.ipynb", ("# Use\n\n> it", "markdown"))
    write_notebook(root / "nbs/index.ipynb", ("# Front\n\n> page", "markdown"))
    site_module.pages(root, root / "made")
    text = (root / "made/how-to/use.html").read_text()
    assert re.search(r'<a href="../topics/\w+.html">← [^<]+</a>', text) and "Use →" in (root / "made/topics").joinpath(
        max(p.name for p in (root / "made/topics").iterdir())
    ).read_text()


def test_code_stays_as_it_is():
    source = "x = 1  # a <b> & <!--code 0--> [@nobody2000x] $x$\nlink = '<a href=\"a.ipynb\">'"
    text = site_module.page(notebook((source, "code"), ("```\n</div>\n```", "markdown")), Path("."), {})
    from bs4 import BeautifulSoup

    assert [e.text.strip() for e in BeautifulSoup(text, "html.parser")("pre")] == [source, "</div>"]


def test_captions_are_escaped_and_tables_shown(tmp_path):
    told, out = small_run(tmp_path, caption="a <b> & 'c'")
    text = gallery.gallery_page(told, out)
    assert "a &lt;b&gt; &amp;" in text and "<b>" not in text and "<td>0.1235</td>" in text


def test_the_gallery_has_thumbnails_a_jump_list_and_tables_as_they_were_published(tmp_path):
    told, out = small_run(tmp_path)
    (out / "figures/man-T1.html").write_text(pd.DataFrame({"model": ["a"], "q": [float("nan")]}).to_html())
    told["identifiers"]["man-T1"]["files"]["html"] = {"path": "figures/man-T1.html"}
    told["topics"]["separation"]["different"] = {"points": [3, 10000]}
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(gallery.gallery_page(told, out), "html.parser")
    links = [a["href"] for a in soup.nav("a")]
    assert links[0] == "#separation" and {"#hcnn-T1", "#man-T1"} <= set(links) and all(soup.find(id=a[1:]) for a in links)
    assert [img["src"] for img in soup.nav("img")] == [told["identifiers"]["hcnn-T1"]["files"]["svg"]["path"]]
    card = soup.find(id="man-T1")
    assert not card("img") and [td.get_text() for td in card.table("td")] == ["a", ""]
    assert len(soup.select(".departures")) == 1 and "points 3 (not 10000)" in soup.select_one(".departures").get_text()


def small_run(root, caption="what is shown"):
    """(manifest, folder) of a run of separation that was never executed: one wide figure, one wide table."""
    root = project(root)
    plan = plans.plan(root, ["separation"], out=root / "run")
    topic, out = plan.topics[0], plan.out
    for folder in ("figures", "notebooks", "pages", "logs"):
        (out / folder).mkdir(parents=True)
    scope = {"out": str(out / "figures"), "eps": 0.1}
    exec(PUBLISH, scope)
    scope["publish"]("hcnn-T1", caption)
    (out / "figures/man-T1.csv").write_text(",".join(f"column_{i}" for i in range(30)) + "\n" + ",".join(["0.123456"] * 30) + "\n")
    (out / "figures/man-T1.json").write_text(
        json.dumps({"id": "man-T1", "kind": "table", "caption": caption, "files": {"csv": "man-T1.csv"}})
    )
    shutil.copy(topic.notebook, out / "notebooks")
    (out / "logs/10_separation.log").write_text("")
    (out / "pages/10_separation.html").write_text(site_module.page(nbformat.read(topic.notebook, 4), topic.notebook.parent, {}, home="../index.html"))
    told = runs._manifest(plan, [staleness.TopicResult(topic, 1.0, None, {"hcnn-T1": 0.5, "man-T1": 0.9}, [])])
    for name, text in ("index.html", gallery.gallery_page(told, out)), ("claims.html", gallery.claims_page(told, out)):
        (out / name).write_text(text)
    return told, out


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The pages of this repository."""
    root = parameters.checkout(Path(runner.__file__).parent)
    folder = tmp_path_factory.mktemp("pages")
    site_module.pages(root, folder)
    return folder


class Marks(HTMLParser):
    """What a page is linked to by, and what it links to."""

    def __init__(self, text):
        super().__init__()
        self.marks, self.links = set(), []
        self.feed(re.sub(r'<span class="[^"<>]*">|</span>', "", text))  # most tags of a page, and none of these is a mark or a link
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.marks |= {given["id"]} if "id" in given else set()
        if tag == "a":
            self.marks |= {given["name"]} if "name" in given else set()
            self.links += [given["href"]] if "href" in given else []


def broken(folder):
    """The links of all pages below `folder` that lead to no file, or to no mark in it."""
    pages = {p.resolve(): Marks(without_pictures(p)) for p in folder.rglob("*.html")}
    wrong = []
    for page, found in pages.items():
        for link in (href for href in found.links if not re.match(r"\w+:", href)):
            path, _, place = link.partition("#")
            there = (page.parent / unquote(urlparse(path).path)).resolve() if path else page
            there = there / "index.html" if there.is_dir() else there
            if not there.exists() or place and there in pages and unquote(place) not in pages[there].marks:
                wrong.append(f"{page.relative_to(folder.resolve())}: {link}")
    return wrong


@pytest.mark.slow
def test_pages_of_this_repository(offline):
    """Every stored notebook becomes a page beside the sample report and the boards, its formulas convert and its links lead to files and to headings there."""
    made = list(offline.rglob("*.html"))
    nbs = Path(runner.__file__).parents[2] / "nbs"
    assert len(made) == len([p for p in (*nbs.rglob("*.ipynb"), *nbs.glob("sample/*.html")) if ".ipynb_checkpoints" not in p.parts])
    for page in (p for p in made if not p.name.startswith("board")):  # which has a script of its own, and tests
        text = without_pictures(page)
        assert not re.search(r"<(script|link)\b|@import", text), page
        assert [src for src in re.findall(r"<\w+\b[^<>]*\ssrc=[\"']([^\"']*)", text) if not src.startswith("data:")] == [], page
        prose = re.sub(r"(?s)<(pre|code|style|script|annotation)\b.*?</\1>", "", text)
        prose = re.sub(r'(?s)\boninput="[^"]*"', "", prose)  # the slider's own code
        assert not re.search(r"\$[^$\n]{1,200}\$|\\(frac|begin|text|max)\b|\[@\w", prose), page


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="x">A</h1><a href="b.html#y">1</a> <a href="b.html#z">2</a> <a href="c.html">3</a> <a href="#x">4</a> <a href="#q">5</a>')
    (tmp_path / "b.html").write_text('<a id="y"></a><a href="https://example.org">web</a>')
    assert broken(tmp_path) == ["a.html: b.html#z", "a.html: c.html", "a.html: #q"]


CITED = {
    "See [@wu2018reinforcing, section 3].": '(<a href="#ref-wu2018reinforcing" role="doc-biblioref">Wu et al. 2018, sec. 3</a>)',
    "[@clopper1934use; @dvoretzky1956asymptotic]": 'Clopper and Pearson 1934</a>; <a href="#ref-dvoretzky1956asymptotic" role="doc-biblioref">Dvoretzky',
    "See [@pang2018towards].": '<div class="csl-entry" id="ref-pang2018towards" role="listitem">',
    "`[@not_a_citation]` in code": "<code>[@not_a_citation]</code>",
    "a [link](https://a.org/@b) and [x @ y]": '<a href="https://a.org/@b">link</a> and [x @ y]',
}


@pytest.mark.parametrize("text", CITED)
def test_citations_become_links(text):
    nbs = Path(runner.__file__).parents[2] / "nbs"
    assert CITED[text] in site_module.page(notebook((text, "markdown")), nbs / "topics", {})


def test_a_citation_that_is_printed_becomes_a_link_and_a_text_without_one_has_no_references():
    nbs, nb = Path(runner.__file__).parents[2] / "nbs", notebook(("x", "code"), ("# T", "markdown"))
    assert "References" not in site_module.page(nb, nbs / "topics", {})
    nb.cells[0].outputs = [nbformat.v4.new_output("display_data", {"text/markdown": "See [@pang2018towards]."})]
    assert 'id="ref-pang2018towards"' in site_module.page(nb, nbs / "topics", {})


def test_a_citation_of_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match="@nobody2000x is not in references.bib"):
        site_module.page(notebook(("[@nobody2000x]", "markdown")), tmp_path, {})


def test_headings_bear_quartos_anchors():
    heads = ["mc-F1: one model, `its` bounds", "Twice", "Twice", "3 models, 99 %", "What is proved?"]
    text = site_module.page(notebook(("\n\n".join(f"## {h}" for h in heads), "markdown")), Path("."), {})
    assert re.findall(r'<h2 id="([^"]+)"', text) == markdown.anchors(heads)


def test_pages_refuse_a_bad_formula_and_write_nothing(tmp_path):
    root = project(tmp_path)
    write_notebook(root / "nbs/topics/20_hcnn.ipynb", ("# H\n$\\nonsense$", "markdown"))
    with pytest.raises(basics.UsageError, match=r"20_hcnn.ipynb cannot be made into a page: the formula \$\\nonsense\$"):
        site_module.pages(root, root / "made")
    assert not (root / "made").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A gallery, and the pages of a project with a formula, a long line of code and a wide output."""
    root = tmp_path_factory.mktemp("site")
    _, out = small_run(root)
    write_notebook(
        root / "nbs/topics/20_hcnn.ipynb",
        ("# H\n\n> Quoted\n\n" + "\n\n".join(f"Here is ${f}$ and\n\n$${f}$$" for f in FORMULAS), "markdown"),
        (PARAMETERS, "code", ["parameters"]),
        ("#| export\nx = '" + "long " * 60 + "'",),
        ("| a | b |\n|---|---|\n| " + "wide" * 40 + " | 2 |", "markdown"),
    )
    site_module.pages(root, root / "made")
    return out, root / "made"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["index.html", "claims.html", "pages/10_separation.html", "../made/index.html", "../made/topics/20_hcnn.html"])
def test_in_the_browser(browser, site, name, width):
    page = (site[0] / name).resolve()
    assert look(browser, page, width, dark=width == 390) == []
    assert all(p.exists() for p in links_of(page))
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    text = browser.execute_script("document.querySelectorAll('pre, code').forEach(e => e.remove()); return document.body.innerText")
    assert not re.search(r"\$|\\[a-z]+", text)
    if "hcnn" in name:
        assert browser.execute_script(
            "return [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().height > 8).length"
        ) == 2 * len(FORMULAS)


SITES = {"offline": "the offline pages", "_docs": "the site that Quarto has made"}


@pytest.fixture(scope="module", params=SITES)
def every_page(request):
    """A folder of pages to look at: the offline ones, and Quarto's where `make docs` was run."""
    if request.param == "offline":
        return request.getfixturevalue("offline")
    if not (folder := Path(runner.__file__).parents[2] / "_docs").is_dir():
        pytest.skip("there is no _docs; make docs makes it where Quarto is installed")
    return folder


@pytest.mark.slow
def test_no_link_is_broken(every_page):
    assert broken(every_page) == []


FAULTS = """
const all = arguments[0];
const wide = [...document.querySelectorAll('main *')].filter(e => {
    for (let box = e.parentElement; box && box !== document.body; box = box.parentElement)
        if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(box).overflowX)) return false;
    return e.getBoundingClientRect().right > innerWidth + 1;
}).map(e => e.tagName + ' ' + (e.innerText || '').slice(0, 40));
const pictures = [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.alt || i.src.slice(0, 60));
if (!all) return {page: Math.max(0, document.documentElement.scrollWidth - innerWidth), wide};
const faint = [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().height < 4).map(m => m.textContent);
const page = Math.max(0, document.documentElement.scrollWidth - innerWidth);
document.querySelectorAll('pre, code, math, script').forEach(e => e.remove());
const raw = document.body.innerText.match(/.{0,20}(\\$|\\\\[a-z]{2,}|\\[@|\\?\\?\\w).{0,20}/g) || [];
return {page, wide, pictures, faint, raw};
"""


def faults(browser, everything=True):
    """What is wrong with the page that is open: too wide, without a picture, or with a formula or a reference left raw."""
    return {k: v for k, v in browser.execute_script(FAULTS, everything).items() if v}


def narrow(browser, width):
    """Gives the page that is open another width."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})


@pytest.mark.slow
@pytest.mark.browser
def test_every_page_in_the_browser(browser, every_page):
    """Each is opened once, as wide as a desk, and then made as narrow as a telephone; every other one at night."""
    wrong = {}
    for n, page in enumerate(sorted(every_page.rglob("*.html"))):
        asked = look(browser, page, 1200, dark=n % 2 > 0)
        if every_page.name != "_docs" and asked:
            wrong[page.name] = asked
        desk = faults(browser, everything=False)
        narrow(browser, 390)
        telephone = faults(browser)
        if desk or telephone:
            wrong[str(page.relative_to(every_page))] = desk, telephone
    assert wrong == {}


@pytest.mark.browser
def test_faults_are_found(browser, tmp_path):
    wide = "<table><tr><td style='min-width: 900px'>x</td></tr></table>"
    page = tmp_path / "a.html"
    page.write_text(f"<main>{wide}<p>a $x^2$ and \\frac and [@me2000x]</p><img src='none.png' alt='gone'><pre>$ code</pre></main>")
    look(browser, page, 390)
    found = faults(browser)
    assert found["page"] > 400 and found["pictures"] == ["gone"] and len(found["raw"]) >= 1 and any(w.startswith("TABLE") for w in found["wide"])
    narrow(browser, 1200)
    assert faults(browser, everything=False) == {}, "at a desk it is as wide as it may be"
    narrow(browser, 600)
    assert faults(browser, everything=False)["page"] > 200


@pytest.mark.browser
def test_figures_are_white_cards_on_the_dark_site(browser, tmp_path):
    """The site's own style sheet, on a page built as Quarto builds one."""
    page = tmp_path / "a.html"
    (tmp_path / "styles.css").write_text((Path(runner.__file__).parents[2] / "nbs/styles.css").read_text())
    picture = "<img class='figure-img' src='data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"20\"/>'>"
    table = "<table class='dataframe'><tr>" + "<td>0.123456</td>" * 40 + "</tr></table>"
    page.write_text(f"<link rel='stylesheet' href='styles.css'><body class='quarto-dark' style='background: #222; margin: 0'><main><div class='cell-output-display'>{picture}</div>{table}</main>")
    look(browser, page, 390, dark=True)
    style = "getComputedStyle(document.images[0])"
    assert browser.execute_script(f"return [{style}.backgroundColor, parseFloat({style}.paddingTop) > 5]") == ["rgb(255, 255, 255)", True]
    assert faults(browser) == {}
