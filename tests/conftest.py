import pytest
import torch
from hypothesis import settings

from confnb.data import load
from confnb.training import Recipe, trained

settings.register_profile("confnb", deadline=None)
settings.load_profile("confnb")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory):
    "Nothing is read from the user's cache, or left in it"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONFNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def small_model(digits):
    "A small Model A, right on most digits and far from certain: its gradients do not vanish"
    return trained("model_a", digits, recipe=Recipe(epochs=5, batch_size=32, rate=2e-3), device="cpu", filters=8)
