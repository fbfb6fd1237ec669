"""Checkouts of two tiny topics, and what is read off the pages that are made of them, which several test files share."""

import json
import random
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from confnb.workshop import gallery, parameters

RUN = [sys.executable, "-c", "from confnb.workshop.cli import main; main()"]
PUBLISH = r"""
import base64, json, pathlib, sys
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="300"><circle cx="300" cy="150" r="{r}" fill="teal"/></svg>'
def publish(identifier, caption, r=90):
    if not out: return
    folder = pathlib.Path(out); folder.mkdir(parents=True, exist_ok=True)
    (folder/f"{identifier}.png").write_bytes(PNG)
    (folder/f"{identifier}.svg").write_text(SVG.format(r=r))
    (folder/f"{identifier}.csv").write_text(f"eps,r\n{eps},{r}\n")
    told = {"id": identifier, "kind": "figure", "caption": caption, "files": {k: f"{identifier}.{k}" for k in ("png", "svg", "csv")}}
    (folder/f"{identifier}.json").write_text(json.dumps(told))
"""
PARAMETERS = "eps = 8 / 255  # radius, pixels in [0, 1]\nsteps = 40\nname = 'digits'\nsizes = [1, 2]\ndevice = 'cpu'\nout = ''"


def cell(source, kind="code", tags=(), number=0):
    made = {
        "cell_type": kind,
        "id": f"c{number}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.strip("\n").splitlines(True),
    }
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def write_notebook(path, *cells):
    """A notebook of (source,), (source, kind) or (source, kind, tags)."""
    made = [cell(*c, number=n) for n, c in enumerate(cells)]
    spec = {"display_name": "python3", "language": "python", "name": "python3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}, indent=1, sort_keys=True) + "\n"
    )


def project(root):
    """A checkout with two topics: separation goes well, maxconfidence publishes two of six, an addition and a foreign one, then fails."""
    head = [
        ("# A tiny topic\n\n> Where $\\frac{a}{b}$ is small", "markdown"),
        (PARAMETERS, "code", ["parameters"]),
        ("#| hide\n" + PUBLISH,),
    ]
    write_notebook(
        root / "nbs/topics/10_separation.ipynb",
        *head,
        ("print('eps', eps); print('steps', steps); print('told', file=sys.stderr); print('end')",),
        ("publish('hcnn-T1', f'points at eps {eps:.3f} & steps {steps}')\npublish('man-T1', 'the curve', 60)",),
        ("import matplotlib.pyplot as plt; plt.subplots(figsize=(1, 1)); sys.executable == interpreter",),
    )
    nb = json.loads((root / "nbs/topics/10_separation.ipynb").read_text())
    nb["cells"][2]["source"].append(f"\ninterpreter = {sys.executable!r}\n")
    (root / "nbs/topics/10_separation.ipynb").write_text(json.dumps(nb, indent=1, sort_keys=True) + "\n")
    write_notebook(
        root / "nbs/topics/30_maxconfidence.ipynb",
        *head,
        ("publish('mc-F1a', 'one'); publish('mc-F1b', 'two'); publish('mc-X1', 'ours'); publish('hcnn-T2', 'not mine')",),
        ("raise ValueError('eps <of> nothing')",),
        ("publish('mc-F2a', 'never')",),
    )
    (root / "nbs/profiles").mkdir()
    (root / "nbs/profiles/digits.yaml").write_text("steps: 7\nlater: 1\n")
    (root / "nbs/profiles/mnist.yaml").write_text("eps: 1e-1\n")
    shutil.copy(parameters.checkout(Path(__file__).parent) / "settings.ini", root)
    return root
TOPICS = {"separation": ("10_separation", ["hcnn-T1", "man-T1"]), "maxconfidence": ("30_maxconfidence", [i.id for i in gallery.identifiers_of("maxconfidence")])}
COUNT = "import os, pathlib, random, time\nwith open('ran.txt', 'a') as f: f.write('{}\\n')"
NUMBERS = (
    "import random\ndraw = random.Random(steps)\n"
    "def numbers(identifier, n=200):\n"
    "    publish(identifier, 'numbers')\n"
    "    (pathlib.Path(out) / f'{identifier}.csv').write_text('\\n'.join(str(draw.random()) for _ in range(n)) + '\\n')"
)


def numbers_project(root, between=None, first="", last=""):
    """A checkout of two topics that count how often they run and publish random numbers; `between` is the code before the last one."""
    for name, (stem, own) in TOPICS.items():
        write_notebook(
            root / f"nbs/topics/{stem}.ipynb",
            (f"# {name}\n\n> Text.", "markdown"),
            (PARAMETERS + f"\ndata = 'npz:{name}.npz'", "code", ["parameters"]),
            (PUBLISH + NUMBERS,),
            (COUNT.format(stem) + "\nif steps < 0:\n    from confnb.statistics import auc\n" + first,),
            ("\n".join(f"numbers('{i}')" for i in own[:-1]),),
            ((between or {}).get(name, "pass"),),
            (f"numbers('{own[-1]}')\n" + last,),
        )
        (root / f"{name}.npz").write_bytes(b"data")
    (root / "nbs/profiles").mkdir()
    (root / "nbs/profiles/digits.yaml").write_text("steps: 7\n")
    (root / "nbs/profiles/paper.yaml").write_text("steps: 1000\nname: digits\n")
    shutil.copy(parameters.checkout(Path(__file__).parent) / "settings.ini", root)
    return root



def numbers_of(*names, steps=7):
    """The tables that topics of `numbers_project` publish in a run that nothing stops, worked out here."""
    found = {}
    for name in names:
        draw = random.Random(steps)
        for identifier in TOPICS[name][1]:
            found[f"{identifier}.csv"] = "".join(f"{draw.random()}\n" for _ in range(200)).encode()
    return found


def tables(out):
    return {p.name: p.read_bytes() for p in sorted((out / "figures").glob("*.csv"))}
WAIT = "pathlib.Path('pid').write_text(str(os.getpid()))\nwhile not os.path.exists('go'): time.sleep(0.1)"


def without_pictures(page):
    """The HTML of a page, the pictures that lie in it left out: it is read in a tenth of the time."""
    return re.sub(r"data:image/[^\"']+", "data:,", page.read_text(encoding="utf-8"))


def links_of(page):
    """The files that a page links to or shows, without the ones on the web."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(without_pictures(page), "html.parser")
    assert not soup("script") and not soup("link") and "@import" not in page.read_text()
    sources = [e["src"] for e in soup(src=True)]
    assert not [s for s in sources if s.startswith("http")]
    there = [s for s in sources + [a["href"] for a in soup("a", href=True)] if not re.match(r"data:|https?:|mailto:", s)]
    return [(page.parent / unquote(urlparse(s).path)).resolve() if urlparse(s).path else page for s in there]


def look(browser, page, width, dark=False):
    """Opens a page at a telephone's or a desk's width; what it asked the network for."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    )
    browser.get_log("performance")
    browser.get(page.as_uri())
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("file:", "data:", "chrome"))]  # the browser's own first tab is no network


def leaks(cells):
    """What a page would show that is no text: raw links, notes to the linter, names of figures, modules and programs."""
    texts = [t for c in cells if c["cell_type"] == "code" for o in c.get("outputs", ()) for t in (o.get("data") or {"text": o.get("text", "")}).values()]
    texts += [c["source"] for c in cells if c["cell_type"] != "code"]
    shown = "\n".join("".join(t) for t in texts if isinstance(t, str | list))
    shown = re.sub(r"!\[[^\[\]]*\]\([^)\s]*\)", "a picture", shown)  # which may be a link; a link within its words is left, and seen
    found = re.findall(r".{0,40}(?:\[\[`|<Figure size|# noqa|__main__|No description|\]\([^)\s]*\)[^\[\]\n]*\]\().{0,40}", shown)
    fences = re.findall(r"(?s)```python\n(.*?)```", shown)
    found += [fence for fence in fences if re.search(r"\[`[^`]*`\]\(http", fence)]
    return found + [line for c in cells if c["cell_type"] == "code" for line in "".join(c["source"]).splitlines() if "  # noqa" in line]
