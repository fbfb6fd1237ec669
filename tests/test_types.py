"""The library says of what type everything is, and the types fit: mypy over the package, and over a user's own file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import covered
import pytest

ROOT = Path(__file__).resolve().parent.parent
USE = '''
import confnb
from confnb import Linf, Margin, binomial_interval, build, evaluate, hcnn, load_data, max_confidence, report, success_fail

data = load_data("digits")
model = build("model_a", data.shape, data.classes)
found = max_confidence(model, data.x_test, data.y_test, Linf(0.1))
low, high = binomial_interval(1, 2)
reveal_type(found)
reveal_type(low)
reveal_type(success_fail(evaluate(model, data.x_test, data.y_test), evaluate(model, data.x_test, data.y_test)))
reveal_type(hcnn(model, data.x_test, 0.1, 1.0))
reveal_type(report(model, data, Linf(0.1)).summary)
reveal_type(confnb.Margin(0))
Linf("0.1")
max_confidence(model, data.x_test)
confnb.max_confidense
'''


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    "What mypy says of the library and of a user's file; it remembers beside the checkout what has not changed since it last ran"
    pytest.importorskip("mypy")
    (folder := tmp_path_factory.mktemp("use")).joinpath("use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "--config-file", str(ROOT / "pyproject.toml"), "-p", "confnb", "-m", "use"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"MYPYPATH": f"{ROOT}{os.pathsep}{folder}"}, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr  # the user's file has mistakes
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_library_is_typed(lines):
    assert [line for line in lines[:-1] if "error:" in line and not line.startswith("use.py")] == []
    in_files, checked = map(int, re.search(r"in (\d+) files? \(checked (\d+) source files", lines[-1]).groups())
    assert in_files == 1 and checked >= len(list((ROOT / "confnb").rglob("*.py"))), lines[-1]  # folders are counted too


@pytest.mark.slow
def test_a_user_sees_the_types_and_the_mistakes(lines):
    shown = [line.partition('Revealed type is "')[2].rstrip('"') for line in lines if "Revealed" in line]
    ends = ["found.Found", "float", "DataFrame", "found.Found", "list[str]", "objectives.Margin"]
    assert len(shown) == len(ends) and all(end in kind for kind, end in zip(shown, ends, strict=True)), shown
    mistakes = [line for line in lines if line.startswith("use.py") and "error:" in line]
    assert len(mistakes) == 3 and ["arg-type", "call-arg", "attr-defined"] == [line.rpartition("[")[2].rstrip("]") for line in mistakes]


def test_the_badge_of_the_docs_says_what_was_measured(tmp_path, capsys):
    def file(percent):
        return {"summary": {"percent_covered": percent}}

    for percent, status in (93.7, 0), (89.99, 1):
        (tmp_path / "c.json").write_text(json.dumps({"totals": {"percent_covered": percent}, "files": {"a.py": file(100), "b.py": file(50.0)}}))
        assert covered.main(tmp_path / "c.json", tmp_path / "badge.svg") == status
        assert f">{int(percent)} %<" in (tmp_path / "badge.svg").read_text() and capsys.readouterr().out.splitlines()[0] == "  50.0 %  b.py"


def test_the_stored_badge_is_good_enough():
    badge = ROOT / "nbs/images/coverage.svg"
    if not badge.exists():
        pytest.skip("`make coverage` has not been run yet")
    stored = re.search(r"coverage: (\d+) %", badge.read_text(encoding="utf-8"))
    assert stored and int(stored[1]) >= covered.LEAST
