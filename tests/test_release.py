"""The way to a release: one version everywhere, and a wheel and an sdist that work where nothing else of the project is."""

import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent

USE = """
import sys
from pathlib import Path
import confnb
assert Path(confnb.__file__).is_relative_to(sys.prefix), confnb.__file__
from confnb import Linf, CrossEntropyLoss, Recipe, load_data, load_or_train, max_confidence
data = load_data("digits")
model = load_or_train("model_a", data, CrossEntropyLoss(), Recipe(epochs=12, batch_size=32), filters=16)  # ships with the package
found = max_confidence(model, data.x_test[:4], data.y_test[:4], Linf(0.1), steps=2)
assert Linf(0.1).contains(found.x, data.x_test[:4]).all()
print(confnb.__version__)
"""


def settings():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini")
    return ini["DEFAULT"]


def test_one_version_everywhere():
    version = settings()["version"]
    assert re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")).get("version", version) == version


def test_the_forms_for_issues_ask_for_something():
    forms = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert forms.pop("config")["contact_links"] and len(forms) == 3
    for name, form in forms.items():
        ids = [part["id"] for part in form["body"]]
        assert form["name"] and form["description"] and form["labels"] and len(ids) == len(set(ids)), name
        assert any(part.get("validations", {}).get("required") for part in form["body"]), name
    assert "make check" in (ROOT / ".github/pull_request_template.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of what git tracks, built as for a release."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = [n for n in listed.stdout.split("\0") if n and not n.startswith(("nbs/", "tests/"))]
    if not names:
        pytest.skip("this is no git checkout")
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_same_library(built):
    wheel, sdist = built
    version = settings()["version"]
    assert wheel.name.startswith(f"confnb-{version}-py3-none-any") and sdist.name == f"confnb-{version}.tar.gz"
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("confnb/")}
    packed = {n.partition("/")[2] for n in tarfile.open(sdist).getnames()}
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT / "confnb").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {"confnb/py.typed", "confnb/templates/report.html.j2", "confnb/templates/style.css"} <= inside
    assert inside == there and inside <= packed and {"settings.ini", "LICENSE", "README.md"} <= packed
    assert wheel.stat().st_size < 15e6


@pytest.mark.slow
@pytest.mark.parametrize("which", ["wheel", pytest.param("sdist", marks=pytest.mark.soak)])  # the wheel is built from the sdist
def test_it_works_where_nothing_else_of_the_project_is(built, tmp_path, which):
    """In a new environment, which finds the other packages where this one has them, and not this checkout."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python, site = bare / "bin/python", next(bare.glob("lib/python*/site-packages"))
    wheel, sdist = built
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = subprocess.run([*command, str(wheel if which == "wheel" else sdist)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (site / "others.pth").write_text("\n".join(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))))
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CONFNB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    used = subprocess.run([str(python), "-c", USE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (used.returncode, used.stdout.strip()) == (0, settings()["version"]), used.stderr[-2000:]
    told = subprocess.run([str(python), "-m", "confnb.workshop", "list"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.returncode == 0 and "mc-F1a" in told.stdout and "Traceback" not in told.stderr
