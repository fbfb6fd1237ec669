"""`confnb doctor`: what is found, what is missing, what to do about it, and when it fails."""

import json
import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from confnb import borrowing, data, pictures
from confnb.basics import version_of, versions
from confnb.workshop import doctor as d


def command(*words):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("doctor")(d.doctor_command)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["doctor", *words])


def one(found, name):
    return next(f for f in found if f.name == name)


@pytest.fixture
def quick(monkeypatch):
    "The examination without its self-test"
    monkeypatch.setattr(d, "_self_test", lambda: [d.Finding("self-test", "run", "ok", "yes")])


def test_the_examination_of_this_machine():
    done = command("--json")
    found = json.loads(done.output)
    assert done.exit_code == 0 and {f["part"] for f in found} == {"versions", "devices", "data", "cache", "extras", "self-test"}
    assert all(f["advice"] for f in found if f["state"] != "ok") and {f["state"] for f in found} <= {"ok", "missing"}
    seconds = float(next(f for f in found if f["name"] == "seconds")["says"])
    assert 0 < seconds < 120 and sum(f["part"] == "self-test" for f in found) == 8


def test_as_text_each_thing_missing_has_its_remedy_below_it(quick, monkeypatch, tmp_path):
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path))
    lines = command().output.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("- mnist"))
    assert "not under" in lines[at] and "set CONFNB_DATA to a folder that holds MNIST/raw" in lines[at + 1]
    assert [line for line in lines if not line.startswith((" ", "-", "!"))] == ["versions", "devices", "data", "cache", "extras", "self-test"]


@pytest.mark.parametrize("broken", ["_required", "_self_test", "_cache"])
def test_it_fails_where_something_needed_does(quick, monkeypatch, broken):
    monkeypatch.setattr(d, broken, lambda: [d.Finding("part", "the thing", "failed", "NO", "do this")])
    done = command()
    assert done.exit_code == 1 and "confnb: failed: the thing" in done.stderr and re.search(r"^! the thing +NO\n +do this$", done.output, re.M)


def test_required_packages(monkeypatch):
    monkeypatch.setattr(d, "requires", lambda _: ["torch>=2.6", "absent-thing<3", 'ray>=2; extra == "ray"'])
    found = d._required()
    assert [f.name for f in found] == ["python", "confnb", "torch", "absent-thing"]
    assert one(found, "torch").state == "ok" and one(found, "absent-thing").state == "failed" and one(found, "absent-thing").advice == "pip install 'absent-thing<3'"

    def not_installed(_):
        raise PackageNotFoundError

    monkeypatch.setattr(d, "requires", not_installed)
    assert one(d._required(), "installation").state == "missing"


def test_devices(monkeypatch):
    monkeypatch.setattr(d, "fast_dtype", lambda _: None)
    assert one(d._check_devices(), "bfloat16").state == "missing"
    monkeypatch.setattr(d, "fast_dtype", lambda _: torch.bfloat16)
    assert one(d._check_devices(), "bfloat16").state == "ok" and "threads" in one(d._check_devices(), "cpu").says
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: type("P", (), {"name": "A GPU", "total_memory": 2**33, "major": 9, "minor": 0}))
    assert one(d._check_devices(), "cuda:0").says == "A GPU, 8 GiB, capability 9.0"
    assert borrowing.device_name(torch.device("cuda:0")) == "cuda:0 (A GPU)" and borrowing.device_name(torch.device("meta")) == "meta"


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "pytorch.org" in one(d._check_devices(), "cuda").advice


def test_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path))
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for part in "train", "test":
        (tmp_path / "pictures" / part).mkdir(parents=True)
    np.savez(tmp_path / "own.npz", x=np.zeros(2))
    found = d._data_sets()
    assert {f.name for f in found if f.state == "ok"} == {"digits", "mnist", "npz:own.npz", "folder:pictures"}
    assert {f.name for f in found if f.state == "missing"} == {"fashion-mnist", "cifar10", "svhn", "imagenet"} and set(data.PLACES) == {*pictures.TORCHVISION, "imagenet"}
    assert "downloads it" in one(found, "svhn").advice and "not downloaded" in one(found, "imagenet").advice
    monkeypatch.delenv("CONFNB_DATA")
    assert "CONFNB_DATA is not set" in one(d._data_sets(), "mnist").says


def test_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "c"))
    (tmp_path / "c/model").mkdir(parents=True)
    (tmp_path / "c/model/a").write_bytes(bytes(2**20))
    assert one(d._cache(), "models").says == "1 files, 1.0 MiB" and one(d._cache(), "tables").says == "0 files, 0.0 MiB"
    assert one(d._cache(), "folder").says == str(tmp_path / "c") and sorted(p.name for p in (tmp_path / "c").iterdir()) == ["model"]
    monkeypatch.setattr(d.shutil, "disk_usage", lambda _: type("U", (), {"free": 2**20}))
    assert one(d._cache(), "room").state == "missing"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "file/deeper"))
    assert [(f.state, f.advice) for f in d._cache()] == [("failed", "set CONFNB_CACHE to a folder that can")]


def test_extras(monkeypatch):
    monkeypatch.setattr(d.importlib.util, "find_spec", lambda name: None if name == "ray" else name)
    monkeypatch.setattr(d.shutil, "which", lambda name: "/bin/google-chrome" if name == "google-chrome" else None)
    found = d._extras()
    assert one(found, "ray").advice == "pip install 'confnb[ray]'" and one(found, "timm").state == "ok"
    assert one(found, "chromium").state == "ok" and "quarto.org" in one(found, "quarto").advice


def test_a_self_test_that_fails_says_so():
    assert [f.state for f in d._self_test(lambda: {"this": True, "that": False})] == ["ok", "failed", "ok"]
    broken = d._self_test(lambda: 1 / 0)
    assert [f.state for f in broken] == ["failed"] and "ZeroDivisionError" in broken[0].says and broken[0].advice


def test_versions_know_what_is_absent(monkeypatch):
    assert versions()["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    assert version_of("absent-thing") is None


def test_a_data_set_is_there_when_all_its_parts_are(monkeypatch, tmp_path):
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path))
    for name in "svhn", "imagenet":
        for place in data.PLACES[name]:
            assert one(d._data_sets(), name).state == "missing" and place in one(d._data_sets(), name).advice
            (tmp_path / place).mkdir(parents=True)
        assert one(d._data_sets(), name).state == "ok"


@pytest.mark.parametrize("asked, state, says", [("torch>=1", "ok", ""), ("torch>=999", "failed", ">=999 is required"), ("absent-thing>=1", "failed", "not installed")])
def test_a_package_is_ok_in_a_version_that_will_do(monkeypatch, asked, state, says):
    monkeypatch.setattr(d, "requires", lambda _: [asked, 'other; extra == "dev"'])
    found = d._required()[-1]
    assert (found.state, says in found.says) == (state, True) and (state == "ok" or found.advice.startswith("pip install '"))
