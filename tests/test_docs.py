"""The docs: every page is listed, every link and citation leads somewhere, the made pages say what the library is."""

import ast
import configparser
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from projects import leaks
from toys import SOAK

from confnb.workshop import api_pages, in_step
from confnb.workshop import docs_build as made
from confnb.workshop.markdown import anchors as anchors_of
from confnb.workshop.markdown import pandoc

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PAGES = [p for p in made._pages(NBS) if p.parent.name != "api"]
HOW_TO = [p for p in PAGES if p.parent.name == "how-to" and p.stem != "index"]
MODULES = list(made.modules(ROOT))


def name(path):
    return path.relative_to(NBS).as_posix()


def markdown(path):
    "The text of a notebook's Markdown cells without code"
    texts = [source for kind, source, _ in made.cells(path) if kind == "markdown"]
    return re.sub(r"(?s)```.*?```|`[^`\n]*`", "`code`", "\n\n".join(texts))


def code(path):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


@cache
def anchors(path):
    "The anchors that a page has, of headings and of marks in the text"
    return {*anchors_of(text for _, text, _ in made.headings(path)), *re.findall(r'<a id="([^"]+)">', markdown(path))}


# links and references


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_file_and_an_anchor_in_it(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, place = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{name(page)} links to {target}, which is no file"
        assert not place or place in anchors(there), f"{name(page)} links to {target}, but there is no such heading"


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    told = {e["id"]: e for e in json.loads(pandoc((NBS / "references.bib").read_text(encoding="utf-8"), reader="bibtex", writer="csljson"))}
    used = {key: name(page) for page in PAGES for key in made._cited(page)}
    assert not {key: page for key, page in used.items() if key not in told}
    assert not set(told) - set(used), f"cited nowhere: {set(told) - set(used)}"
    for key, entry in told.items():
        assert {"author", "title", "issued"} <= set(entry) and {"DOI", "URL"} & set(entry), key
        assert re.search(r"\d{4}", key)[0] == str(entry["issued"]["date-parts"][0][0]), f"{key} is of {entry['issued']}"


def test_what_looks_like_a_citation_is_one():
    "Brackets with an @ that the pattern for keys would pass over"
    for page in PAGES:
        for text in re.findall(r"\[[^\]\n]*@[^\]\n]*\]", markdown(page)):
            assert made._CITATION.findall(text) and text.count("@") == len(made._CITATION.findall(text)), f"{name(page)}: {text}"


@pytest.mark.parametrize("text, keys", [
    ("As [@wu2018reinforcing, section 3; @pang2018towards] say", ["wu2018reinforcing", "pang2018towards"]),
    ("`@wu2018reinforcing` is code, me@home2018a.org an address", []),
])
def test_citations_are_found(tmp_path, text, keys):
    (tmp_path / "a.ipynb").write_text(made.notebook("# A\n\n> b", text))
    assert made._cited(tmp_path / "a.ipynb") == keys


# the site


@pytest.fixture(scope="module")
def site():
    "_quarto.yml with the sidebar, as Quarto puts them together"
    told, sidebar = (yaml.safe_load((NBS / f).read_text(encoding="utf-8")) for f in ("_quarto.yml", "sidebar.yml"))
    return told, sidebar["website"]["sidebar"]["contents"]


def listed(contents):
    for item in contents:
        if isinstance(item, str):
            yield item
        elif "href" in item:
            yield item["href"]
        yield from listed(item.get("contents", ()) if isinstance(item, dict) else ())


def test_the_sidebar_lists_every_page_and_nothing_else(site):
    pages = list(listed(site[1]))
    assert len(pages) == len(set(pages)) and set(pages) == {name(p) for p in PAGES} | {f"api/{m}.ipynb" for m in ("overview", *MODULES)}
    assert [s["section"] for s in site[1] if "section" in s][:3] == ["Topics", "How to", "Foundations"]


def test_what_the_site_names_exists(site):
    told = site[0]
    html = told["format"]["html"]
    files = {told["bibliography"], html["css"], told["website"]["favicon"], *(f for theme in html["theme"].values() for f in theme[1:])}
    assert files <= {p.name for p in NBS.iterdir()} and all((NBS / p).is_file() for p in told["project"]["resources"])
    here = [i["href"] for item in told["website"]["navbar"]["left"] for i in item.get("menu", [item])]
    here += re.findall(r"\]\(/([^)]+)\)", " ".join(told["website"]["page-footer"].values()))
    assert here and all((NBS / path).is_file() for path in here if path != "api/overview.ipynb")  # built with the site
    assert set(told["format"]["html"]["theme"]) == {"light", "dark"} and told["website"]["search"]
    assert (told["website"]["repo-subdir"], told["website"]["repo-actions"][0]) == ("nbs", "source")  # the link to the notebook
    assert set(told["metadata-files"]) == {"nbdev.yml", "sidebar.yml"}


def test_the_site_is_the_one_of_settings_ini(site):
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    own, web = settings["DEFAULT"], site[0]["website"]
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml" and own["custom_sidebar"] == "True"
    assert web["site-url"] == own["doc_host"] + own["doc_baseurl"] and web["repo-url"] == own["git_url"]
    assert (web["title"], web["description"]) == (own["title"], own["description"]) and made.WEB == f"{own['git_url']}/blob/{own['branch']}"


def test_the_site_folds_and_wraps_code_and_asks_for_no_font(site):
    "What was tried on the rendered site and found to keep every page within a telephone's width"
    html = site[0]["format"]["html"]
    assert html["code-overflow"] == "wrap" and html["code-fold"] is True
    assert html["grid"] == {"sidebar-width": "240px", "body-width": "980px", "margin-width": "200px"}
    css, (light, dark) = (NBS / "styles.css").read_text(), [(NBS / f"{n}.scss").read_text() for n in ("light", "dark")]
    assert re.search(r"main li code,\s*main p code,\s*main dd code \{\s*white-space: pre-wrap;\s*overflow-wrap: anywhere;", css)
    assert re.search(r"\.cell-output-stdout pre,[^{]*\{\s*white-space: pre-wrap", css)
    assert all("$web-font-path: false;" in s and "http" not in s for s in (light, dark)) and "http" not in css
    assert {"$code-bg: #333;", "$code-color: #d6b3ff;", "$breadcrumb-bg: transparent;"} <= set(dark.splitlines())


def test_the_menus_lead_to_the_five_topics_and_the_results(site):
    menus = {item["text"]: [i["href"] for i in item.get("menu", [item])] for item in site[0]["website"]["navbar"]["left"]}
    assert set(menus["Topics"]) == {name(p) for p in NBS.glob("topics/[0-9]*.ipynb")} and menus["Topics"][0] == "topics/32_maxconfidence.ipynb"
    assert {"How to", "API", "Results"} <= set(menus) and menus["Results"] == ["reference/papers_against_this_run.ipynb", "sample/report.html", "sample/board.html", "sample/board_digits.html"]


def test_every_room_has_a_page_that_lists_it(site):
    rooms = {s["section"]: s for s in site[1] if "section" in s}
    landing = [s["href"] for s in rooms.values() if "href" in s]
    assert len(landing) == 6 and all(p.endswith("/index.ipynb") for p in landing)
    for page in landing:
        told, room = markdown(NBS / page), (NBS / page).parent
        assert set(re.findall(r"\]\(([^)#]+\.ipynb)\)", told)) >= {p.name for p in room.glob("*.ipynb") if p.stem != "index"}, page
    order = [Path(p).stem for p in rooms["How to"]["contents"]]
    assert order.index("evaluate_your_model") < order.index("profiles") < order.index("run_on_a_gpu") < order.index("add_a_topic")


def words(path):
    return {w for kind, source, _ in made.cells(path) if kind == "markdown" for w in re.findall(r"\w+", source)}


def test_the_first_cell_holds_the_title_alone(tmp_path):
    "What else it holds would be missing on the site: nbdev makes the cell the head of the page"
    for page in PAGES:
        assert re.fullmatch(r"# .+\n\s*\n> .+(\n> .+)*\s*", made.cells(page)[0][1]), name(page)
    path = tmp_path / "a.ipynb"
    path.write_text(made.notebook("# A\n\n> of two\n> lines\n\nText.\n\n- a: b", "More."))
    for _ in range(2):
        in_step._part_title(path)
        assert [source for _, source, _ in made.cells(path)] == ["# A\n\n> of two\n> lines", "Text.\n\n- a: b", "More."]


@pytest.mark.slow
@pytest.mark.soak
def test_nbdev_processes_every_notebook_without_quarto(tmp_path):
    "What Quarto is given: every page with its title, the files beside them, and no directive left"
    for part in "nbs", "confnb":
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for file in "settings.ini", "_quarto.yml":
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "process.py").write_text("import nbdev.quarto\nif __name__ == '__main__':\n    nbdev.quarto._ensure_quarto = lambda: None\n"
                                         "    nbdev.quarto._pre_docs(n_workers=0)\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "process.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    made_there = tmp_path / "_proc"
    assert {p.relative_to(made_there).as_posix() for p in made_there.rglob("*.ipynb")} == {name(p) for p in PAGES}
    assert {"_quarto.yml", "sidebar.yml", "nbdev.yml", "references.bib", "styles.css"} <= {p.name for p in made_there.iterdir()}
    assert (made_there / "sidebar.yml").read_bytes() == (NBS / "sidebar.yml").read_bytes()
    for page in PAGES:
        cells = json.loads((made_there / name(page)).read_text(encoding="utf-8"))["cells"]
        head = yaml.safe_load("".join(cells[0]["source"]).strip().strip("-"))
        assert head["title"] == made.title(page)[0] and head["output-file"].endswith(".html")
        assert not [c for c in cells if c["cell_type"] == "code" and "#| export" in "".join(c["source"])]
        assert not leaks(cells), f"{name(page)}: {leaks(cells)[:3]}"
        lost = words(page) - words(made_there / name(page)) - set(re.findall(r"\w+", made.cells(page)[0][1]))
        assert not lost, f"nbdev drops text of {name(page)}: {sorted(lost)[:10]}"
    documented = "".join((made_there / "foundations/26_max_confidence.ipynb").read_text(encoding="utf-8"))
    assert "### max_confidence" in documented and "#L" in documented  # the documentation of what a cell exports, with its source


def text_of(page):
    return "\n\n".join(source for kind, source, _ in made.cells(page) if kind == "markdown")


def test_pandoc_understands_every_citation():
    "With the options of the site, which take half a second: all pages at once"
    html = pandoc("\n\n".join(map(text_of, PAGES)), "--citeproc", f"--bibliography={NBS / 'references.bib'}")
    cited = set(re.findall(r'data-cites="([^"]+)"', html))
    assert {key for many in cited for key in many.split()} == {key for page in PAGES for key in made._cited(page)}
    with pytest.raises(ValueError, match="nobody2000"):
        pandoc("As said [@nobody2000].", "--citeproc", f"--bibliography={NBS / 'references.bib'}")


# every sixth; all of them are made into pages, and their links followed, by the slow tests
@pytest.mark.parametrize("page", [pytest.param(p, id=name(p), marks=SOAK * (i % 6 > 0)) for i, p in enumerate(PAGES)])
def test_pandoc_understands_every_formula_and_heading(page):
    html = pandoc(text_of(page))
    missing = [a for a in anchors_of(text for _, text, _ in made.headings(page)) if f'id="{a}"' not in html]
    assert not missing, f"pandoc gives other anchors to {missing}"


HEADINGS = {
    "mc-F1: one model, its bounds, and why": "mc-f1-one-model-its-bounds-and-why",
    "Robust error at 95, 98 and 99 % of": "robust-error-at-95-98-and-99-of",
    "3 models": "models", "`cw_l2`": "cw_l2", "[A link](b.ipynb#c) here": "a-link-here", "What is proved?": "what-is-proved", "99 %": "section",
    "The curve .5": "the-curve-.5",
}


@pytest.mark.parametrize("heading", HEADINGS)
def test_anchors_are_pandocs(heading):
    assert anchors_of([heading]) == [HEADINGS[heading]]


def test_equal_headings_are_told_apart():
    assert anchors_of(["Twice", "Once $x$", "Twice"]) == ["twice", "once-x", "twice-1"] and anchors_of([]) == []


# made pages


def test_the_made_pages_are_up_to_date():
    for path, content in made.made(ROOT).items():
        assert (ROOT / path).read_bytes() == content, f"{path} is out of step; python -m confnb.workshop.in_step --write"


@pytest.fixture(scope="module")
def api():
    return {name: ["".join(c["source"]) for c in json.loads(text)["cells"]] for name, text in api_pages._api(ROOT).items()}


def test_api_pages_are_built_and_not_kept(api):
    assert set(api) == {*MODULES, "overview"}
    listed = subprocess.run(["git", "ls-files", "nbs/api"], cwd=ROOT, capture_output=True, text=True)
    assert not listed.stdout


@pytest.mark.parametrize("module", MODULES)
def test_api_pages_document_every_public_name(module, api):
    "Against what the interpreter says of the imported module"
    loaded = importlib.import_module(f"confnb.{module}")
    cells, path = api[module], f"confnb/{module.replace('.', '/')}.py"
    entries = {m[1]: text for text in cells if (m := re.match(r"## `(\w+)`", text))}
    assert set(entries) == set(loaded.__all__)
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    for public, text in entries.items():
        thing, (first,) = getattr(loaded, public), re.findall(rf"\[source\]\({made.WEB}/{path}#L(\d+)", text, re.I)
        around = "\n".join(lines[int(first) - 1 : int(first) + 3])
        assert re.search(rf"\b{public}\b", around), f"the source of {public} is not at line {first}"
        if inspect.isfunction(thing):
            shown = re.search(r"```python\n(.*?)\n```", text, re.S)[1]
            assert all(re.search(rf"\b{p}\b", shown) for p in inspect.signature(thing).parameters), public
            assert thing.__doc__.split()[0].strip("`*") in text.replace("\\", "")


def test_a_signature_is_shown_as_it_is_written():
    text = ('__all__ = ["f", "F", "f2", "C"]\n\n# %% ../nbs/a.ipynb #abc\ndef f(\n    a: int,  # a number\n    *rest: str,\n    # of two\n    # lines\n    b: float = 0.5,\n    **more: int,\n'
            ') -> None:  # nothing\n    """Do `a` < 3*b.\n\n    Source: me.\n    """\n\nF = 3  # how many\nf2 = 4\n\n@dataclass(frozen=True)\nclass C:\n    """A thing."""\n    x: int  # its size\n'
            '    kind: ClassVar[str] = "c"\n    _own: int = 0\n\n    def do(self, y: int = 1) -> int:\n        """Do it."""\n')
    names, said = list(api_pages._public(text)), api_pages._comments(text)
    assert [(n.name, n.anchor, n.comment) for n in names] == [("f", "f", ""), ("F", "f-1", "how many"), ("f2", "f2", ""), ("C", "c", "")]
    assert api_pages._signature(names[0].node) == "f(a: int, *rest: str, b: float = 0.5, **more: int) -> None"
    assert api_pages._signature(names[3].node) == "class C(x: int)" and names[0].cell == "abc"
    entry = api_pages._entry(names[0], "confnb/a.py", "../a.ipynb", {"abc": ("Here", "here")}, said)
    assert "Do `a` \\< 3\\*b." in entry and "- `a`: a number\n- `b`: of two lines" in entry and "**Returns** nothing" in entry and "Source: me." in entry
    assert f"In [Here](../a.ipynb#here), [source]({made.WEB}/confnb/a.py#L4-L" in entry
    entry = api_pages._entry(names[3], "confnb/a.py", "../a.ipynb", {}, said)
    assert "- `x`: its size" in entry and "**Methods**\n\n- `do(y: int = 1)`: Do it." in entry


def test_a_picture_that_no_notebook_shows_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.ipynb").write_text(made.notebook("# A\n\n> b"))
    with pytest.raises(SystemExit, match="no stored notebook shows a picture of mc-F9"):
        made._published(tmp_path, "mc-F9")


def test_the_bibliography_says_who_cites(tmp_path):
    (tmp_path / "references.bib").write_text("@misc{a2000b,\n  author = {One, A. and Two, B. and Three, C.},\n  title = {A {Title}},\n  year = {2000},\n  eprint = {1.2},\n  archiveprefix = {arXiv}\n}\n")
    (tmp_path / "x.ipynb").write_text(made.notebook("# X\n\n> y", "See [@a2000b]."))
    text = json.loads(made._bibliography(tmp_path))["cells"][1]["source"]
    assert "".join(text) == ('<a id="ref-a2000b"></a>One, A., B. Two, and C. Three. 2000. *A Title*. <https://arxiv.org/abs/1.2>. Cited in [X](../x.ipynb).')


# the pages that are written


def draws(source):
    "Whether a cell makes a figure when it is run, and not only defines what would"
    tree = ast.parse("".join(line for line in source.splitlines(True) if not line.startswith(("%", "!"))))
    run = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    calls = [ast.unparse(c.func) for n in run for c in ast.walk(n) if isinstance(c, ast.Call)]
    return not source.startswith("#| export") and bool({"plt.subplots", "show_images"} & set(calls))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_figure_is_stored(page):
    drawn = [c for c in json.loads(page.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code" and draws("".join(c["source"]))]
    empty = ["".join(c["source"])[:80] for c in drawn if not any("image/png" in o.get("data", {}) for o in c["outputs"])]
    assert (len(drawn) > 3 or page.parent.name != "topics" or page.stem == "index") and not empty, f"these cells of {name(page)} draw, and show nothing: {empty}"


def test_the_front_page_shows_stored_pictures_each_a_link_and_its_examples_with_what_they_print():
    text = "\n".join(source for kind, source, _ in made.cells(NBS / "index.ipynb") if kind == "markdown")
    assert {p.name for p in NBS.glob("images/*")} == set(re.findall(r"""[("]images/([^)"]+)""", text))
    linked = re.findall(r"""^\[(?:!\[[^\]]+\]\(|<img src=")images/([^)"]+)(?:\)|" alt="[^"]+"[^>]*>)\]\((?:topics|evaluation)/\S+\.ipynb\S*\)$""", text, re.M)
    assert set(linked) == {p.name for p in NBS.glob("images/*.png")} and len(linked) == len(set(linked))
    cells = {"".join(c["source"]): c["outputs"] for c in code(NBS / "index.ipynb")}
    (curve,), (told,), (slider,) = ([c for c in cells if word in c] for word in ("curve_at(", "report(model", "threshold_explorer("))
    assert "of clean images right" in "".join(cells[curve][0]["text"]) and "sound: all" in "".join(cells[told][0]["data"]["text/markdown"])
    assert "confnb-explorer" in "".join(cells[slider][0]["data"]["text/html"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "of clean images right" in readme and "- sound: all" in readme and "git clone https://" in readme and "explorer(" not in readme and "oninput" not in readme


@pytest.mark.parametrize("page, first", [("how-to", "install"), ("reference", "background")])
def test_the_sidebar_begins_with_what_is_needed_first(site, page, first):
    section = next(s for s in site[1] if s.get("section", "").lower().replace(" ", "-") == page)
    assert section["contents"][0] == f"{page}/{first}.ipynb"


def test_every_broken_defence_is_an_exercise_with_its_answer_folded():
    text = "\n".join(source for kind, source, _ in made.cells(NBS / "how-to/tutorial.ipynb") if kind == "markdown")
    listed = re.findall(r'Broken\(\s*"([^"]+)"', (ROOT / "confnb/evaluation/broken.py").read_text(encoding="utf-8"))
    exercises = re.findall(r"^\*\*(\d+)\. [^*]+\*\* [^\n]+\n\n<details><summary>Answer</summary>\n\n[^<]{80,}\n\n</details>$", text, re.M)
    assert [int(n) for n in exercises] == list(range(1, len(listed) + 1)) and len(listed) > 9


TERMS = ["xi", "eta", "delta", "eps", "awpr", "success", "failure", "covered", "mcn", "ncn", "hcnn", "non-me", "k-density", "rce", "f2", "kappa", "sigma2", "lambda", "bits"]


def test_the_glossary_explains_each_term_once_and_most_with_a_link():
    text = "\n".join(source for kind, source, _ in made.cells(NBS / "reference/glossary.ipynb") if kind == "markdown")
    marks = re.findall(r'^- <a id="([^"]+)"></a>\*\*.+?\*\*(?:, [^:]+)?: .+$', text, re.M)
    entries = re.findall(r"^- .*$", text, re.M)
    assert len(marks) == len(entries) == len(set(marks)) and set(TERMS) <= set(marks)
    assert sum(".ipynb" in e for e in entries) > .9 * len(entries)


def test_the_new_names_of_the_changelog_are_there():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    renamed = re.findall(r"^\| `\w+` \| `(\w+)` \| `(confnb[\w.]*)` \|$", text, re.M)
    moved = re.findall(r"`(confnb[\w.]*)`", " ".join(re.findall(r"^\| `.*` \| (`.*`) \|$", text[text.index("### Moved") :], re.M)))
    assert len(renamed) > 50 and len(moved) > 20
    assert not [name for name, module in renamed if not hasattr(importlib.import_module(module), name)]
    assert all(importlib.import_module(module) for module in moved)


@pytest.mark.parametrize("page", HOW_TO, ids=lambda p: p.stem)
def test_how_to_pages_say_what_one_gets_and_end_with_a_check(page):
    cells = made.cells(page)
    assert made.title(page)[1].startswith("What you get:")
    last = max(i for i, (kind, source, _) in enumerate(cells) if "## Check" in source)
    assert last >= len(cells) - 3 and "assert" in "".join(source for kind, source, _ in cells[last:] if kind == "code")
    stored = [o for c in code(page) for o in c["outputs"]]
    assert stored and not [o for o in stored if o["output_type"] == "error" or o.get("name") == "stderr"]


def test_how_to_pages_are_there_and_are_run():
    assert {p.stem for p in HOW_TO} >= {"evaluate_your_model", "add_a_data_set", "add_an_attack", "add_a_detector", "add_a_topic", "run_on_a_gpu",
                                       "run_on_a_cluster", "profiles"}
    skipped = re.search(r"nbdev_test .*--path nbs --skip_folder_re '(.*?)'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert skipped and not re.search(skipped[1].replace("$$", "$"), "how-to")


# what makes the site


def test_make_docs_says_how_to_get_quarto(tmp_path):
    for tool in "sh", "echo":
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run([shutil.which("make"), "docs", "-o", ".venv/.installed"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0 and "https://quarto.org/docs/get-started" in done.stdout and "make preview-offline" in done.stdout


def test_make_preview_offline_makes_the_pages_and_says_where():
    done = subprocess.run([shutil.which("make"), "-n", "preview-offline", "-o", ".venv/.installed"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "confnb pages --out runs/pages" in done.stdout and "runs/pages/index.html" in done.stdout


def test_the_workflow_tests_builds_and_publishes_with_least_rights():
    (path,) = (ROOT / ".github/workflows").glob("*.yml")
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    jobs = told["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert told["permissions"] == {"contents": "read"} and {n for n, job in jobs.items() if "permissions" in job} == {"publish"}
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"} and set(jobs["publish"]["needs"]) == {"tests", "docs"}
    assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+", step["uses"]) for step in steps if "uses" in step)
    runs = {n: [step["run"] for step in job["steps"] if "run" in step] for n, job in jobs.items()}
    assert "make test" in runs["tests"] and "make docs" in runs["docs"]
    assert [s["with"]["cache"] for s in steps if "setup-python" in s.get("uses", "")] == ["pip", "pip"]
    assert any("quarto-actions/setup" in s.get("uses", "") for s in jobs["docs"]["steps"])
    assert all("timeout-minutes" in jobs[n] for n in ("tests", "docs")) and "github.ref == 'refs/heads/main'" in jobs["publish"]["if"]
