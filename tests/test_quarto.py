"""What Quarto is given: no link inside a link, signatures and sources as they are written, captions, folded code."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from projects import leaks

from confnb.workshop import quarto
from confnb.workshop.markdown import PICTURES

ROOT = Path(__file__).resolve().parent.parent


class Cell(SimpleNamespace):
    """A cell as nbdev has them: its fields are items and attributes."""

    def __getitem__(self, key):
        return getattr(self, key)

    def __setitem__(self, key, value):
        setattr(self, key, value)

    def get(self, key, default=None):
        return getattr(self, key, default)

    def keys(self):
        return vars(self)


def code(source, *said, outputs=(), tags=()):
    return Cell(
        cell_type="code",
        source=source,
        outputs=list(outputs),
        metadata={"tags": list(tags)},
        directives_=dict.fromkeys(said, []),
    )


def text(source):
    return Cell(cell_type="markdown", source=source, metadata={})


def doc(name, shown=""):
    told = {
        "data": {
            "text/markdown": shown
            or f"---\n\n### {name}\n\n```python\ndef {name}(x:__main__.X)\n```\n\n*Do.*",
            "text/plain": "x",
        }
    }
    return code(f"#| echo: false\n#| output: asis\nshow_doc({name})", outputs=[told])


LINKS = {
    "[[`pgd`](https://a.org/x#pgd)](#pgd): a": "[`pgd`](#pgd): a",
    "[by [`pgd`](https://a.org/x#pgd) here](b.ipynb#c)": "[by `pgd` here](b.ipynb#c)",
    "[`pgd`](https://a.org/x#pgd) and [b](c.ipynb)": "[`pgd`](https://a.org/x#pgd) and [b](c.ipynb)",
    "the paper [`hcnn`](https://a.org/x#hcnn), [`mcn`](https://a.org/x#mcn)": "the paper `hcnn`, [`mcn`](https://a.org/x#mcn)",
    "[`hcnn`](#hcnn) stays, as [1, 2] does, and $[x]$ (y)": "[`hcnn`](#hcnn) stays, as [1, 2] does, and $[x]$ (y)",
    "![a [`pgd`](https://a.org/x#pgd)](b.png)": "![a [`pgd`](https://a.org/x#pgd)](b.png)",
}


@pytest.mark.parametrize("linked", LINKS)
def test_no_link_stands_in_a_link(linked):
    assert quarto.unlinked(linked) == LINKS[linked] == quarto.unlinked(LINKS[linked])


SIGNATURES = {
    'def f(\n    a: int,  # a `g`\n    seed: int = 0,  # noqa: B008\n) -> int:  # what\n    "Do"\n': "def f(\n    a: int,  # a `g`\n    seed: int = 0,\n) -> int:  # what",
    "def f(x: int) -> int:\n    return x": "def f(x: int) -> int",
    "def f(x): return x": "f(x)",
    "class f:\n    'A'\n\n    def __init__(self, a: int) -> None:\n        self.a = a": "class f(a: int)",
    "class f:\n    'A'\n\n    def __init__(\n        self,\n        a: int,  # one\n    ) -> None:\n        self.a = a": "class f(\n    a: int,  # one\n)",
    "@dataclass\nclass f(G):\n    'A'\n\n    a: int = 1  # one\n    _b: int = 2\n    c: str\n": "class f(G):\n    a: int = 1  # one\n    c: str",
    "class f(G):\n    'A'\n\n    def g(self): ...": "class f()",
}


@pytest.mark.parametrize("source", SIGNATURES)
def test_signatures_are_as_written(source):
    assert quarto.written(source, "f") == SIGNATURES[source]


def test_documentation_is_made_of_the_source():
    source = 'def f(x):\n    """Do `pgd` *b* | c.\n\n    Source: me.\n    """\n    return x'
    told = quarto.documented(
        doc("f").outputs[0]["data"]["text/markdown"],
        {"f": source},
        lambda t: t.replace("`pgd`", "[`pgd`](u)"),
    )
    assert told.endswith("### f\n\n```python\ndef f(x)\n```\n\nDo [`pgd`](u) \\*b\\* | c.\n\nSource: me.")
    assert quarto.documented("### g\n\n```python\ng()\n```", {"f": source}) == "### g\n\n```python\ng()\n```"


def test_what_is_exported_shows_its_source_behind_a_click_below_its_documentation():
    cells = quarto.finished(
        [
            code("", "default_exp"),
            code("def f():\n    pass\n\n\ndef g():\n    pass", "export"),
            doc("g"),
            doc("f"),
            code("def point():\n    pass", "exports"),
            doc("point"),
            code("N = 3", "export"),
            code("if __name__ == '__main__':\n    main()", "export"),
            code("f()  # noqa: F"),
        ]
    )
    assert [re.sub(r".*show_doc", "show_doc", c.source, flags=re.S) for c in cells] == [
        "show_doc(f)",
        "show_doc(g)",
        '#| code-fold: true\n#| code-summary: "The source of f, g"\ndef f():\n    pass\n\n\ndef g():\n    pass',
        "show_doc(point)",
        "#| code-fold: false\ndef point():\n    pass",
        "#| code-fold: false\nN = 3",
        "#| code-fold: false\nf()",
    ]
    assert leaks(cells) == []


def picture(caption=""):
    shown = [
        {"output_type": "display_data", "data": {"image/png": "iVBO", "text/plain": "<Figure size 5x5>"}}
    ]
    return shown + ([{"output_type": "display_data", "data": {"text/markdown": caption}}] if caption else [])


def options(cell):
    told = "\n".join(line.removeprefix("#| ") for line in cell.source.splitlines() if line.startswith("#| "))
    return yaml.safe_load(told)


def test_captions_are_options_of_figures():
    one, two, bare = (
        code("draw()", outputs=o)
        for o in (
            picture('**a-F1.** At $\\eta$: "x".'),
            picture("**a-F1.** A") + picture("**a-F2.** B"),
            picture(),
        )
    )
    cells = quarto.finished([text("# H\n\nWhat `it` shows:"), one, two, bare])[1:]
    assert options(cells[0]) == {
        "code-fold": False,
        "fig-cap": '**a-F1.** At $\\eta$: "x".',
        "fig-alt": 'a-F1. At eta: "x".',
    }
    assert options(cells[1])["fig-cap"] == ["**a-F1.** A", "**a-F2.** B"] and options(cells[1])[
        "fig-alt"
    ] == ["a-F1. A", "a-F2. B"]
    assert options(cells[2]) == {"code-fold": False, "fig-alt": "What it shows"}
    assert [len(c.outputs) for c in cells] == [1, 2, 1]


def test_tables_ask_for_no_script_and_sentences_are_text():
    html = "<div><style scoped>x</style><table border='1' class=\"dataframe\"><thead><tr><th></th><th>a</th></tr></thead><tbody><tr><th>0</th><td>NaN</td></tr></tbody></table></div>"
    table = [
        {"output_type": "display_data", "data": {"text/html": html, "text/plain": "a"}},
        {"data": {"text/markdown": "**a-T1.** B"}},
    ]
    said = [
        {"output_type": "stream", "name": "stdout", "text": ["Of three claims " + "very " * 20 + "few.\n"]}
    ]
    (cell,) = quarto.finished([code("show()", outputs=table + said)])
    shown = [o["data"]["text/markdown"] for o in cell.outputs]
    assert (
        shown[0].startswith("```{=html}\n<table data-quarto-disable-processing")
        and "<caption>" in shown[0]
        and "<td></td>" in shown[0]
        and "style" not in shown[0]
    )
    assert len(shown) == 2 and shown[1].startswith("Of three claims")


def test_a_page_has_one_heading_of_the_first_level():
    cells = quarto.finished([text("## A\n\n```sh\n# no heading\n```"), text("# Part\n\nText # 1\n### C")])
    assert [c.source for c in cells] == ["### A\n\n```sh\n# no heading\n```", "## Part\n\nText # 1\n#### C"]
    assert quarto.finished([text("## A\n\n```sh\n# no heading\n```")])[0].source.startswith("## A")


def test_articles_fold_what_is_long():
    long = "x = 1\n" * 13
    assert options(quarto.finished([code(long)])[0]) == {"code-fold": False}
    cells = quarto.finished([code("a = 1\n" * 9, tags=["parameters"]), code(long), code("x = 1")])
    assert [options(c).get("code-summary") for c in cells] == ["Parameters", "The code", None]


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    """Pages as nbdev hands them to Quarto: an essay, a topic, a recipe and an API page."""
    from confnb.workshop import api_pages, docs_build

    out = tmp_path_factory.mktemp("processed")
    (out / "api.ipynb").write_text(api_pages._module(ROOT, "attacks", docs_build.modules(ROOT)["attacks"]))
    paths = [
        "nbs/foundations/22_attacks.ipynb",
        "nbs/topics/31_hcnn.ipynb",
        "nbs/how-to/profiles.ipynb",
        str(out / "api.ipynb"),
    ]
    script = (
        "import os, sys\nos.environ['IN_TEST'] = '1'\nfrom execnb.nbio import read_nb, write_nb\nfrom nbdev.processors import FilterDefaults\n"
        "for path in sys.argv[2:]:\n    nb = read_nb(path)\n    FilterDefaults()(nb)\n    write_nb(nb, sys.argv[1] + '/done_' + path.split('/')[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(p).stem: json.loads((out / f"done_{Path(p).name}").read_text())["cells"] for p in paths}


@pytest.mark.slow
def test_the_pages_that_quarto_is_given_leak_nothing(processed):
    assert {name: found for name, cells in processed.items() if (found := leaks(cells))} == {}
    documented = json.dumps(processed["22_attacks"])
    assert "x: Tensor,  # images" in documented and "confnb.unions.Set" not in documented


def test_leaks_are_found():
    said = [
        "[[`a`](u)](v)",
        "see [by [`a`](u) b](v)",
        "[![of [`a`](u)](p.png)](v)",
        "<Figure size 5x5 with 1 Axes>",
        "x:__main__.A",
        "# noqa: B008",
        "```python\nf() # [`a`](http://u)\n```",
    ]
    assert (
        all(len(leaks([text(s)])) == 1 for s in said)
        and leaks([text("[`a`](u) and [b](v), x[[1, 2]]")]) == []
        and leaks([text("[![a picture that is a link](p.png)](v) and ![a](q.png) beside [b](v)")]) == []
    )
    assert leaks(
        [code("f()  # noqa: F"), code("x", outputs=[{"data": {"text/plain": "<Figure size 1x1>"}}])]
    ) == ["<Figure size 1x1>", "f()  # noqa: F"]


EVERY = """
import json, os, sys
from execnb.nbio import read_nb
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
from nbdev.processors import add_links, hide_, populate_language
from confnb.workshop.quarto import Finish
sys.path.insert(0, "tests")
from projects import leaks
for path in sys.argv[1:]:
    one = NBProcessor(nb=read_nb(path), procs=[FrontmatterProc, populate_language, hide_, add_links, Finish])
    one.process()
    print(json.dumps([path, leaks(one.nb.cells)]))
"""


@pytest.mark.slow
def test_no_page_leaks_anything():
    """Every notebook, with nbdev's links, but without the documentation for which nbdev would have to execute it."""
    paths = [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("nbs/*/*.ipynb")) if p.parent.name != "api"]
    done = subprocess.run([sys.executable, "-c", EVERY, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert len(found) == len(paths) and {p: told for p, told in found.items() if told} == {}


@pytest.mark.slow
def test_every_figure_of_a_processed_page_has_a_description(processed):
    drawn = [
        c
        for cells in processed.values()
        for c in cells
        if any(set(PICTURES) & set(o.get("data", ())) for o in c.get("outputs", ()))
    ]
    assert len(drawn) > 4 and all(options(Cell(source="".join(c["source"]))).get("fig-alt") for c in drawn)
    assert sum("fig-cap" in "".join(c["source"]) for c in drawn) >= 3


@pytest.mark.slow
def test_every_exported_function_of_a_processed_page_is_there(processed):
    source = "\n\n".join("".join(c["source"]) for c in processed["22_attacks"] if c["cell_type"] == "code")
    library = ast.parse((ROOT / "confnb/attacks.py").read_text())
    names = {n.name for n in library.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert len(names) > 8 and not [n for n in names if not re.search(rf"(?m)^(def|class) {n}\b", source)]
