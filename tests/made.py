"""What the docs hold that is made, not written: the API pages, the bibliography, the sidebar, the front page's pictures.

`tests/in_step.py` compares these files with what is stored, and writes them with `--write`.
"""

import ast
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

import yaml

WEB = "https://github.com/confnb/confnb/blob/main"
SECTIONS = {"topics": "Topics", "how-to": "How to", "foundations": "Foundations", "api": "API"}
CITATION = re.compile(r"(?<![\w`@])@([a-z][a-z0-9]*\d{4}[a-z]+)\b")


def made(root: Path) -> dict[str, bytes]:
    "The content of each file that is made, by its path; only of those that the project at `root` asks for"
    nbs, files = root / "nbs", {}
    if (nbs / "api").is_dir():
        files |= {f"nbs/api/{name}.ipynb": text.encode() for name, text in api(root).items()}
    if (nbs / "references.bib").exists():
        files["nbs/bibliography.ipynb"] = bibliography(nbs).encode()
    if (nbs / "sidebar.yml").exists():
        files["nbs/sidebar.yml"] = sidebar(nbs, files).encode()
    for picture in nbs.glob("images/*.png"):
        files[f"nbs/images/{picture.name}"] = published(nbs, picture.stem)
    return files


# notebooks


def cells(path: Path) -> list[tuple[str, str, str]]:
    "The cells of a notebook as (kind, source, id)"
    return _cells(path, path.stat().st_mtime_ns)


@cache
def _cells(path: Path, _: int) -> list[tuple[str, str, str]]:
    return [(c["cell_type"], "".join(c["source"]), c.get("id", "")) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def notebook(*texts: str) -> str:
    "A notebook of Markdown cells, as nbdev_clean leaves one"
    ids = [hashlib.sha256(f"{i}{t}".encode()).hexdigest()[:8] for i, t in enumerate(texts)]
    made = [{"cell_type": "markdown", "id": i, "metadata": {}, "source": t.splitlines(True)} for i, t in zip(ids, texts, strict=True)]
    meta = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    told = {"cells": made, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(told, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def anchor(heading: str) -> str:
    "The anchor that pandoc, and so Quarto, gives to a heading"
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    words = re.sub(r"[^\w\s.-]", "", plain.lower()).split()
    return re.sub(r"^[^a-z]+", "", "-".join(words)) or "section"


def headings(path: Path) -> Iterator[tuple[int, str, int]]:
    "The headings of a notebook below its title as (number of the cell, text, level)"
    for number, (kind, source, _) in enumerate(cells(path)):
        for level, text in re.findall(r"^(#{1,6}) +(.+?) *$", re.sub(r"(?ms)^```.*?^```", "", source) if kind == "markdown" else "", re.M):
            if number or len(level) > 1:
                yield number, text, len(level)


def title(path: Path) -> tuple[str, str]:
    "The title of a notebook and the line on what it is"
    head = re.match(r"# (?P<title>.+)\n\s*\n> (?P<says>.+)", cells(path)[0][1])
    return head["title"].strip(), head["says"].strip()


def pages(nbs: Path) -> list[Path]:
    "All notebooks, in the order of the sidebar within each folder"
    return [p for p in sorted(nbs.rglob("*.ipynb")) if not any(part.startswith((".", "_")) for part in p.relative_to(nbs).parts)]


# API pages


@dataclass(frozen=True)
class Name:
    "A public name: where it stands in its module, what a comment says of it, its cell in the notebook, and its anchor"

    name: str
    node: ast.stmt
    comment: str
    cell: str
    anchor: str


def api(root: Path) -> dict[str, str]:
    "The notebook of each module's API page, by its name, and the overview of all"
    modules = {p.stem: p for p in sorted((root / "confnb").glob("*.py")) if not p.stem.startswith("_")}
    made = {name: _module(root, path) for name, path in modules.items()}
    lines = [f"- [`confnb.{name}`]({name}.ipynb): {_plain(ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '')}"
             for name, path in modules.items()]
    overview = ("# All modules\n\n> Every public name of the library, module by module: its signature, what it takes and gives, and where it is explained.",
                "\n".join(lines))
    return made | {"overview": notebook(*overview)}


def _module(root: Path, path: Path) -> str:
    "The API page of one module"
    text = path.read_text(encoding="utf-8")
    tree, names = ast.parse(text), list(public(text))
    source = re.search(r"# %% \.\./(\S+\.ipynb)", text)[1]
    places = _places(root / source)
    about = f"../{source.removeprefix('nbs/')}"
    head = f"# confnb.{path.stem}\n\n> {_plain(ast.get_docstring(tree) or '')}"
    intro = (f"Explained, tested and shown at work in the notebook [{title(root / source)[0]}]({about}), which the module is exported from. "
             f"Shapes are written `(N, C, H, W)`: images, channels, height, width; `K` is the number of classes. Pixels lie in [0, 1].")
    listed = "\n".join([f"- [`{n.name}`](#{n.anchor}): {_summary(n)}" for n in names] + _borrowed(tree))
    return notebook(head, intro, *([listed] if listed else []), *(_entry(n, f"confnb/{path.name}", about, places) for n in names))


def _borrowed(tree: ast.Module) -> list[str]:
    "A line for each public name that the module takes from another one"
    wanted, taken = _wanted(tree), [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module]
    return [f"- [`{a.asname or a.name}`]({n.module}.ipynb#{anchor(a.name)}): that of `confnb.{n.module}`"
            for n in taken for a in n.names if (a.asname or a.name) in wanted]


def _wanted(tree: ast.Module) -> set[str]:
    "What a module calls public"
    said = next((n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"), None)
    return set(ast.literal_eval(said)) if said else set()


def public(text: str) -> Iterator[Name]:
    "The public names of a module, in its order"
    tree = ast.parse(text)
    wanted = _wanted(tree)
    lines, seen = text.splitlines(), dict[str, int]()
    marks = [(n, m[1]) for n, line in enumerate(lines, 1) if (m := re.match(r"# %% \.\./\S+ #(\w+)", line))]
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [e.id for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t]) if isinstance(e, ast.Name)]
        else:
            found = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        cell = next((mark for line, mark in reversed(marks) if line < node.lineno), "")
        for name in [n for n in found if n in wanted]:
            place = anchor(name)
            seen[place] = seen.get(place, -1) + 1  # pandoc tells equal anchors apart by a number
            comment = lines[node.end_lineno - 1].partition("  # ")[2] if not isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
            yield Name(name, node, comment, cell, f"{place}-{seen[place]}" if seen[place] else place)


def _summary(name: Name) -> str:
    "One line on a name: what it gives, or what it is"
    value = signature(name.node).partition(" = ")[2]
    return _plain(_first(name.node) or name.comment) or (f"`{value}`" if len(value) < 70 else "a constant")


def _places(source: Path) -> dict[str, tuple[str, str]]:
    "The heading above each cell of a notebook, with its anchor, by the cell's id"
    heads = list(headings(source))
    above = {i: [(text, anchor(text)) for number, text, _ in heads if number <= i and "$" not in text] for i in range(len(cells(source)))}
    return {cell: (above[i] or [("", "")])[-1] for i, (_, _, cell) in enumerate(cells(source))}


def _entry(name: Name, file: str, about: str, places: dict[str, tuple[str, str]]) -> str:
    "The section of one public name"
    node, (heading, place) = name.node, places.get(name.cell, ("", ""))
    lines = dict.fromkeys(f"L{n}" for n in (_start(node), node.end_lineno))
    where = f"[source]({WEB}/{file}#{'-'.join(lines)})"
    if place:
        where = f"in [{heading}]({about}#{place}), {where}"
    parts = [f"## `{name.name}`", f"```python\n{signature(node)}\n```", _documentation(node) or _plain(name.comment), *_methods(node), where[0].upper() + where[1:] + "."]
    return "\n\n".join(p for p in parts if p)


def _start(node: ast.stmt) -> int:
    "The first line of a definition, its decorators among it"
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def signature(node: ast.stmt) -> str:
    "How a name is called, with types and defaults; a constant's value"
    if isinstance(node, ast.FunctionDef):
        return _call(node.name, _arguments(node.args), f" -> {ast.unparse(node.returns)}" if node.returns else "")
    if isinstance(node, ast.ClassDef):
        return _call(f"class {node.name}", _constructor(node))
    return ast.unparse(node)


def _call(name: str, arguments: list[str], gives: str = "") -> str:
    line = f"{name}({', '.join(arguments)}){gives}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){gives}"


def _arguments(args: ast.arguments) -> list[str]:
    "The arguments of a function, one by one, without self"
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    found = [_argument(a, d) for a, d in zip(plain, defaults, strict=True)]
    if args.vararg:
        found.append(f"*{_argument(args.vararg, None)}")
    elif args.kwonlyargs:
        found.append("*")
    found += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    found += [f"**{_argument(args.kwarg, None)}"] if args.kwarg else []
    return [a for a in found if a != "self"]


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    text = f"{arg.arg}: {ast.unparse(arg.annotation)}" if arg.annotation else arg.arg
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _constructor(node: ast.ClassDef) -> list[str]:
    "What a class is made of: the arguments of its __init__, or the fields of a dataclass"
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init:
        return _arguments(init.args)
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and "ClassVar" not in ast.unparse(f.annotation)]
    return [ast.unparse(f) for f in fields if not f.target.id.startswith("_")]


def _methods(node: ast.stmt) -> list[str]:
    "The public methods of a class, as one list"
    if not isinstance(node, ast.ClassDef):
        return []
    found = [f for f in node.body if isinstance(f, ast.FunctionDef) and (not f.name.startswith("_") or f.name == "__call__") and _first(f)]
    return ["**Methods**", "\n".join(f"- `{_call(f.name, _arguments(f.args)).replace(chr(10), '').replace('    ', ' ')}`: {_plain(_first(f))}" for f in found)] if found else []


def _first(node: ast.stmt) -> str:
    "The first paragraph of a docstring"
    return (_docstring(node) or "").split("\n\n")[0]


def _docstring(node: ast.stmt) -> str | None:
    return ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None


def _documentation(node: ast.stmt) -> str:
    "A numpy-style docstring as Markdown"
    head, *sections = re.split(r"^(\w+)\n-{3,}\n", _docstring(node) or "", flags=re.M)
    parts = [_plain(p) if not p.startswith("    ") else f"```\n{dedent(p)}\n```" for p in head.strip().split("\n\n") if p]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        listed = _described(body) if name in ("Parameters", "Raises", "Returns") else ""
        parts.append(f"**{name}**\n\n{listed}" if listed else f"**{name}.** {_plain(body)}")
    return "\n\n".join(parts)


def _described(body: str) -> str:
    "Names and what is said of them, as a list"
    found = re.findall(r"^(\S.*)\n((?:[ \t]+.*\n?|\n)*)", body.strip() + "\n", re.M)
    return "\n".join(f"- {', '.join(f'`{n}`' for n in names.split(', '))}: {_plain(text)}" for names, text in found)


def _plain(text: str) -> str:
    "Text of a docstring on one line, what Markdown would take for markup escaped outside of code"
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([*_$<@~^])", r"\\\1", p) for p in parts)


# the bibliography


def entries(bib: str) -> dict[str, dict[str, str]]:
    "The entries of a BibTeX file, one field a line, by their keys"
    found = {}
    for kind, key, body in re.findall(r"(?ms)^@(\w+)\{([^,\s]+),\n(.*?)^\}", bib):
        fields = re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", body, re.M)
        found[key] = {"kind": kind} | {k.lower(): re.sub(r"[{}]", "", v) for k, v in fields}
    return found


def cited(path: Path) -> list[str]:
    "The keys that the text of a notebook cites, in order"
    texts = [re.sub(r"(?s)```.*?```|`[^`\n]*`", "", source) for kind, source, _ in cells(path) if kind == "markdown"]
    return list(dict.fromkeys(key for text in texts for key in CITATION.findall(text)))


def bibliography(nbs: Path) -> str:
    "The notebook that lists references.bib, each entry with the pages that cite it"
    users: dict[str, list[Path]] = {}
    for path in pages(nbs):
        for key in cited(path) if path.name != "bibliography.ipynb" else ():
            users.setdefault(key, []).append(path.relative_to(nbs))
    told = entries((nbs / "references.bib").read_text(encoding="utf-8"))
    order = sorted(told, key=lambda k: (told[k]["author"], told[k]["year"]))
    head = "# Bibliography\n\n> What the texts stand on, each entry with the pages that cite it."
    return notebook(head, "\n\n".join(_reference(k, told[k], users.get(k, []), nbs) for k in order))


def _reference(key: str, told: dict[str, str], users: list[Path], nbs: Path) -> str:
    "One entry, with an anchor, a link and the pages that cite it"
    venue = told.get("booktitle") or " ".join(told[k] for k in ("journal", "volume") if k in told) or told.get("note") or "Preprint"
    links = {"doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/", "url": ""}
    where = [f"[{'arXiv:' * (k == 'eprint') + told[k]}]({start}{told[k]})" for k, start in links.items() if k in told]
    by = ", ".join(f"[{title(nbs / p)[0]}]({p.as_posix()})" for p in users)
    return (f'<a id="ref-{key}"></a>{authors(told["author"])} ({told["year"]}). *{told["title"]}*. {venue}. {", ".join(where)}.'
            + (f" Cited in {by}." if by else ""))


def authors(names: str) -> str:
    "The authors of an entry, the last after an `and`"
    found = [" ".join(reversed(n.split(", "))) for n in names.split(" and ")]
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


# the sidebar and the pictures


def sidebar(nbs: Path, files: dict[str, bytes]) -> str:
    "sidebar.yml, with every page there is or will be"
    paths = sorted({p.relative_to(nbs).as_posix() for p in pages(nbs)} | {f.removeprefix("nbs/") for f in files if f.endswith(".ipynb")})
    first = [{"text": "Overview", "href": "index.ipynb"}]
    folders = list(dict.fromkeys([*SECTIONS, *(p.split("/")[0] for p in paths if "/" in p)]))
    inside = [{"section": SECTIONS.get(f, f.capitalize()), "contents": _in_order([p for p in paths if p.startswith(f"{f}/")])} for f in folders]
    tools = [p for p in paths if re.match(r"\d+_[^/]*$", p)]
    rest = [p for p in paths if "/" not in p and p not in tools and p != "index.ipynb"]
    last = [{"section": name, "contents": part} for name, part in (("Tools", tools), ("Reference", rest)) if part]
    told = {"website": {"sidebar": {"contents": first + [s for s in inside if s["contents"]] + last}}}
    return "# made by tests/in_step.py\n" + yaml.safe_dump(told, sort_keys=False)


def _in_order(paths: list[str]) -> list[str]:
    "The pages of a folder: what comes before all others, numbered ones by number, others by name"
    return sorted(paths, key=lambda p: (Path(p).stem not in ("overview", "evaluate_your_model"), p))


def published(nbs: Path, identifier: str) -> bytes:
    "The picture that a stored notebook shows under an identifier"
    for path in pages(nbs):
        if not any(kind == "code" and f'"{identifier}"' in source for kind, source, _ in cells(path)):
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and f'"{identifier}"' in "".join(cell["source"]):
                for output in cell["outputs"]:
                    if png := output.get("data", {}).get("image/png"):
                        return base64.b64decode("".join(png))
    raise SystemExit(f"no stored notebook shows a picture of {identifier}, which nbs/images/{identifier}.png is to be")
