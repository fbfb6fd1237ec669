"""What `make check` runs: what has changed, the tests that touch it, and an end at the first failure or when the time is over."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from confnb.workshop import check

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path):
    files = {
        "confnb/sets.py": "x = 1\n",
        "confnb/workshop/site.py": "x = 1\n",
        "tests/test_sets.py": "from confnb import sets\n",
        "tests/test_pages.py": "from confnb.workshop import site as there\n",
        "tests/test_other.py": "import os  # sets\n",
        "README.md": "sets\n",
        "old name.md": "text that is long enough to be found again\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for words in ["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]:
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_what_has_changed_is_found(project):
    assert check.changed(project) == [] and check.commands(project, []) == {}
    (project / "confnb/sets.py").write_text("x = 2\n")
    (project / "new ä.py").write_text("")
    (project / "README.md").unlink()
    subprocess.run(["git", "mv", "old name.md", "new name.md"], cwd=project, check=True)
    assert sorted(check.changed(project)) == ["confnb/sets.py", "new name.md", "new ä.py"]


@pytest.mark.parametrize("files, tests", [
    (["confnb/sets.py"], ["tests/test_sets.py"]),
    (["confnb/workshop/site.py"], ["tests/test_pages.py"]),
    (["tests/test_other.py", "confnb/sets.py"], ["tests/test_other.py", "tests/test_sets.py"]),
    (["README.md", "nbs/a.ipynb"], []),
])
def test_the_tests_that_touch_it_are_named(project, files, tests):
    assert check.tests_of(project, files) == tests


def test_the_commands_fit_the_files():
    found = check.commands(ROOT, ["confnb/sets.py", "nbs/foundations/16_sets.ipynb", "Makefile"])
    assert list(found) == ["lint", "in step", "types", "tests"] and "tests/test_sets.py" in found["tests"] and "Makefile" not in found["lint"]
    assert list(check.commands(ROOT, ["nbs/foundations/16_sets.ipynb"])) == ["lint", "in step"] and check.commands(ROOT, ["Makefile"]) == {}


def test_the_first_failure_and_the_end_of_the_time_end_it(tmp_path, monkeypatch, capsys):
    does = {"good": "pass", "slow": "import time; time.sleep(60)", "bad": "raise SystemExit(3)", "after": "open('there', 'w')"}
    monkeypatch.setattr(check, "changed", lambda root: [])
    monkeypatch.setattr(check, "commands", lambda root, files: {k: [sys.executable, "-c", v] for k, v in does.items()})
    assert check.check_changes(tmp_path, seconds=1) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("good: fine") and said[1].startswith("slow: not done within 1 s") and said[2].startswith("bad: failed") and len(said) == 3
    assert not (tmp_path / "there").exists()


def test_make_check_runs_it():
    done = subprocess.run([shutil.which("make"), "-n", "check", "-o", ".venv/.installed"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m confnb.workshop.check" in done.stdout
