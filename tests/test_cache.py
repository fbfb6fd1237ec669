"""The cache: files that are whole or not there, and a lookup that gives the right thing or computes it."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from confnb import basics, identity, keys
from confnb import cache as c
from confnb.models import seeded
from confnb.runtime import generator


def tiny(seed=0, classes=3):
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))


def images(n=5, seed=0):
    return torch.rand(n, 1, 6, 6, generator=generator(seed))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with pytest.raises(KeyboardInterrupt), basics.write_whole(path) as f:
        f.write_text("half")
        raise KeyboardInterrupt
    assert not os.listdir(path.parent)
    for words in "first", "second":
        with basics.write_whole(path) as f:
            f.write_text(words)
    with pytest.raises(ValueError), basics.write_whole(path) as f:
        f.write_text("half")
        raise ValueError
    assert path.read_text() == "second" and os.listdir(path.parent) == ["table.txt"]


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError), basics.write_whole(tmp_path / "file" / "table.txt"):
        pass


@dataclass(frozen=True)
class Setting:
    eps: float = 0.1


@dataclass(frozen=True)
class Other:
    eps: float = 0.1


def one(x):
    return x + 1


def two(x):
    return x * 2


def test_each_of_these_has_a_fingerprint_of_its_own():
    changed = images()
    changed[4, 0, 5, 5] += 1e-6
    things = [1, 1.0, "1", True, None, [1], [[1]], [1, 1], {"a": 1}, {"b": 1}, Setting(), Setting(0.2), Other(), one, two, partial(one, 2), partial(one, 3),
              images(), images().double(), images().flatten(1), changed, images().numpy()[:4], tiny(0), tiny(1), nn.Sequential(tiny(0)), torch.float32]
    prints = [keys.fingerprint(t) for t in things]
    assert len(set(prints)) == len(prints)
    assert prints[-5] == keys.fingerprint(changed[:4].numpy()) and keys.fingerprint(tiny(1)) == keys.fingerprint(tiny(1))
    assert keys.fingerprint("a", "b") != keys.fingerprint("ab") != keys.fingerprint("a|b")


def test_a_lambda_counts_by_what_it_does():
    assert keys.fingerprint(lambda x: x) == keys.fingerprint(lambda x: x) != keys.fingerprint(lambda x: -x)


def test_what_has_no_identity_is_named_with_its_place(tmp_path):
    with open(tmp_path / "log", "w") as log, pytest.raises(identity.Unidentified, match=r"cannot take a fingerprint of 0\.file: a _io\.TextIOWrapper has no identity"):
        keys.fingerprint([partial(one, file=log)])


def test_a_deep_network_has_a_key():
    deep = nn.Sequential()
    for _ in range(300):
        deep = nn.Sequential(deep)
    assert keys.fingerprint(deep) != keys.fingerprint(nn.Sequential(deep))


def remember(value, fail=False):
    def compute():
        if fail:
            raise RuntimeError("broken off")
        made.append(value)
        return value

    made = []
    got = c.remember("note", "key", ".txt", compute, lambda v, path: path.write_text(v), lambda path: path.read_text())
    return got, bool(made)


@pytest.mark.parametrize("damage", ["cut", "changed", "unrecorded"])
def test_a_damaged_cache_entry_is_computed_again_with_a_warning(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    assert remember("first") == ("first", True)
    assert remember("second") == ("first", False)
    path = tmp_path / "note" / "key.txt"
    if damage == "unrecorded":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_text("fir" if damage == "cut" else "fives")
    with pytest.warns(UserWarning, match="note key.txt cannot be used.*computed again"):
        assert remember("third") == ("third", True)
    assert remember("fourth") == ("third", False)


def test_what_fails_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="broken off"):
        remember("first", fail=True)
    assert not list(tmp_path.rglob("*.*"))


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "mine"))
    assert c.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("CONFNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert c.cache_dir() == tmp_path / "confnb"


def test_a_file_gets_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        with basics.write_whole(tmp_path / "private") as f:
            f.write_text("mine")
        os.umask(0o022)
        with basics.write_whole(tmp_path / "shared") as f:
            f.write_text("ours")
    finally:
        os.umask(before)
    assert [(tmp_path / n).stat().st_mode & 0o777 for n in ("private", "shared")] == [0o600, 0o644]


@pytest.mark.parametrize("trouble", ["a file is in its place", "a folder is in the file's place", "full"])
def test_a_cache_that_cannot_be_written_costs_the_memory_not_the_result(tmp_path, monkeypatch, trouble):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    if trouble == "a file is in its place":
        (tmp_path / "cache").write_text("")
    elif trouble == "full":
        monkeypatch.setattr(c.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        (tmp_path / "cache/note/key.txt").mkdir(parents=True)
    with pytest.warns(UserWarning, match="not remembered: .* cannot be written"):
        assert remember("numbers") == ("numbers", 1)


def test_two_at_once_on_a_cold_cache_get_the_same_and_no_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    both = threading.Barrier(2)

    def compute():
        both.wait(20)  # neither has written when the other computes
        return "numbers"

    def ask(_=None):
        return c.remember("note", "key", ".txt", compute, lambda v, path: path.write_text(v), lambda path: path.read_text())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(2) as pool:
            assert [*pool.map(ask, range(2))] == ["numbers"] * 2
        assert ask() == "numbers" and sorted(os.listdir(tmp_path / "note")) == ["key.sha256", "key.txt"]
