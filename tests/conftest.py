import shutil
import sys
from dataclasses import replace
from itertools import count

import pytest
import torch
from hypothesis import settings

from confnb.data import load_data
from confnb.evaluation import report_page, trust
from confnb.networks import load_or_train
from confnb.training import Recipe

# the same examples in every run, so that a failure belongs to the change under test; others, and more of them: --hypothesis-profile=explore
settings.register_profile("confnb", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("confnb")


# files that take minutes come first, so that no worker is left with one when the others are done
LONG = ("test_resume", "test_reproduce", "test_ray", "test_pages", "test_report", "test_jupyter", "test_types", "test_docs", "test_search", "test_attacks")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory):
    "Nothing is read from the user's cache, or left in it"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONFNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(sys, "dont_write_bytecode", True)  # a module that a test writes anew within a second is read anew
        yield


@pytest.fixture(scope="session")
def digits():
    return load_data("digits")


@pytest.fixture(scope="session")
def small_model(digits):
    "A small Model A, right on most digits and far from certain: its gradients do not vanish"
    return load_or_train("model_a", digits, recipe=Recipe(epochs=5, batch_size=32, rate=2e-3), device="cpu", filters=8)


@pytest.fixture(scope="session")
def less():
    "Less than a quick effort: for tests that look at something other than how much is tried"
    return replace(trust.REPORT_EFFORTS["quick"], few=6, planted=2, trails=1, queries=20, steps=3)


@pytest.fixture
def few_tries(monkeypatch, less):
    "A quick report asks less of the evaluation than users' reports do: for tests that look at something else of it"
    monkeypatch.setitem(trust.REPORT_EFFORTS, "quick", less)
    monkeypatch.setitem(trust._MORE, "quick", "quick")


@pytest.fixture
def no_drawing(monkeypatch):
    "The figures of a page are files without a picture, each of other bytes: for tests that do not look at them"
    from matplotlib.figure import Figure

    for name in ("success", "calibration", "outcome", "detector", "radius", "sample"):
        monkeypatch.setattr(report_page, f"{name}_figure", lambda *given: Figure())
    number = count()
    monkeypatch.setattr(report_page, "_save", lambda figure, stem: [stem.with_name(f"{stem.name}.{kind}").write_text(f"{next(number)}") for kind in ("png", "svg")])


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that may not reach the network, with a log of what it asks for."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("there is no headless Chromium with its driver here")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        "disable-extensions",
        "in-process-gpu",
        "disable-features=BackForwardCache,SpareRendererForSitePerProcess",  # no page is gone back to
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    driver.get("about:blank")
    yield driver
    driver.quit()
