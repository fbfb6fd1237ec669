"""Models of other libraries: each loaded by its library's own code from what the test saves in its format, and no pickle that runs code."""

import json
import os
import sys
import types

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from confnb import networks
from confnb.basics import UsageError
from confnb.data import load_data
from confnb.evaluation import reporting, sources
from confnb.evaluation.command import evaluate_command
from confnb.evaluation.loading import model_from
from confnb.evaluation.rejecting import load_entry, model_and_rule
from confnb.evaluation.reporting import report
from confnb.evaluation.sources import published, weights_only
from confnb.evaluation.zoo import keep
from confnb.models import build
from confnb.networks import WEIGHTS, load_model, read_entry, write_card, zoo_folders
from confnb.runtime import predict

DIGITS = load_data("digits")
X = DIGITS.x_test[:5]


class Bang:
    "Creates a file when it is unpickled"

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def small(seed=3):
    return build("model_a", (1, 16, 16), 10, seed=seed, filters=2).eval()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def library(monkeypatch, name, **parts):
    "A small library of that name, in place of whatever is installed"
    module = types.ModuleType(name)
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def robustbench(monkeypatch, load=torch.load):
    "RobustBench's loader as it is, for one small network: the weights lie in models/DATA/THREAT/NAME.pt, under the key state_dict"

    def load_model(model_name, model_dir="./models", dataset="cifar10", threat_model="Linf"):
        checkpoint = load(f"{model_dir}/{dataset}/{threat_model}/{model_name}.pt", map_location="cpu", weights_only=False)
        model = small()
        model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()})
        return model

    utils = library(monkeypatch, "robustbench.utils", load_model=load_model)
    return library(monkeypatch, "robustbench", utils=utils)


def test_robustbench(home, monkeypatch):
    robustbench(monkeypatch)
    (home / "models/digits/Linf").mkdir(parents=True)
    mine = small(7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in mine.state_dict().items()}}, "models/digits/Linf/Small2026.pt")
    found = model_from("robustbench:digits/Linf/Small2026", DIGITS)
    assert torch.equal(predict(found, X), predict(mine, X))
    torch.save({"state_dict": mine.state_dict(), "more": Bang(home / "ran")}, "models/digits/Linf/Evil2026.pt")
    with pytest.raises(UsageError, match="robustbench:digits/Linf/Evil2026.*a pickle with more in it than tensors"):
        model_from("robustbench:digits/Linf/Evil2026", DIGITS)
    assert not (home / "ran").exists()
    with pytest.raises(UsageError, match=r"could not be loaded: FileNotFoundError"):
        model_from("robustbench:digits/Linf/Nobody2026", DIGITS)
    for bad in "robustbench:digits/Linf", "robustbench:digits//Small", "robustbench:a/b/c/d":
        with pytest.raises(UsageError, match="must be robustbench:DATA/THREAT/NAME"):
            model_from(bad, DIGITS)


def test_robustbench_itself(home, monkeypatch):
    "The real library, with one network more in its table"
    try:
        import pkg_resources  # noqa: F401
    except ImportError:
        library(monkeypatch, "pkg_resources", resource_filename=lambda *_: "")
    try:
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
        from robustbench.model_zoo.models import model_dicts
    except ImportError as e:
        pytest.skip(f"robustbench cannot be imported: {e}")
    monkeypatch.setitem(model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf], "Small2026", {"model": small, "gdrive_id": "none"})
    (home / "models/cifar10/Linf").mkdir(parents=True)
    mine = small(7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in mine.state_dict().items()}}, "models/cifar10/Linf/Small2026.pt")
    assert torch.equal(predict(model_from("robustbench:cifar10/Linf/Small2026", DIGITS), X), predict(mine, X))
    torch.save({"state_dict": mine.state_dict(), "more": Bang(home / "ran")}, "models/cifar10/Linf/Small2026.pt")
    with pytest.raises(UsageError, match="a pickle with more in it than tensors"):
        model_from("robustbench:cifar10/Linf/Small2026", DIGITS)
    assert not (home / "ran").exists()


def timm_net(timm):
    return timm.create_model("test_byobnet.r160_in1k", num_classes=10, in_chans=1).eval()


def test_timm_from_the_hubs_format(home, monkeypatch):
    timm = pytest.importorskip("timm")
    mine = timm_net(timm)
    timm.models.save_for_hf(mine, "mine", model_config={"num_classes": 10, "model_args": {"in_chans": 1}})
    x = X[:2]
    for spec, options in (f"hf:{home / 'mine'}", {}), ("timm:local-dir:mine", {"pretrained": True, "in_chans": 1}):
        assert torch.equal(predict(model_from(spec, DIGITS, options=options), x), predict(mine, x)), spec


def test_hugging_face_from_its_cache(home, monkeypatch):
    "As it lies after a download, and without a network"
    timm, hub = pytest.importorskip("timm"), pytest.importorskip("huggingface_hub")
    mine = timm_net(timm)
    snapshot = home / "hub/models--somebody--digits/snapshots/0123456789abcdef0123456789abcdef01234567"
    timm.models.save_for_hf(mine, snapshot, model_config={"num_classes": 10, "model_args": {"in_chans": 1}})
    (home / "hub/models--somebody--digits/refs").mkdir()
    (home / "hub/models--somebody--digits/refs/main").write_text(snapshot.name)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(hub.constants, name, str(home / "hub"), raising=False)
    monkeypatch.setattr(hub.file_download.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    assert torch.equal(predict(model_from("hf:somebody/digits", DIGITS), X[:2]), predict(mine, X[:2]))
    with pytest.raises(UsageError, match="hf:somebody/letters' could not be loaded"):
        model_from("hf:somebody/letters", DIGITS)


class OfTransformers(nn.Module):
    "Answers with an object that has logits, as those of transformers do"

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return types.SimpleNamespace(logits=self.net(x))

    @classmethod
    def from_pretrained(cls, folder, **options):
        model = cls()
        file = f"{folder}/model.safetensors"
        if os.path.exists(file):
            networks.load_weights(model, file)
        else:
            model.load_state_dict(torch.load(f"{folder}/pytorch_model.bin", weights_only=options.get("weights_only")))
        return model


def test_transformers(home, monkeypatch):
    library(monkeypatch, "transformers", AutoModelForImageClassification=OfTransformers)
    mine = OfTransformers()
    (home / "mine").mkdir()
    (home / "mine/config.json").write_text(json.dumps({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}))
    torch.save(mine.state_dict() | {"more": Bang(home / "ran")}, "mine/pytorch_model.bin")
    with pytest.raises(UsageError, match="a pickle with more in it than tensors"):
        model_from(f"hf:{home / 'mine'}", DIGITS, options={"weights_only": False})
    assert not (home / "ran").exists()
    save_file(mine.state_dict(), "mine/model.safetensors")
    found = model_from(f"hf:{home / 'mine'}", DIGITS)
    assert torch.equal(predict(found, X), predict(mine.net, X)) and not found.training


def test_transformers_itself(home):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=10)
    mine = transformers.ResNetForImageClassification(config).eval()
    mine.save_pretrained("mine")
    torch.testing.assert_close(predict(model_from(f"hf:{home / 'mine'}", DIGITS), X), mine(X).logits.detach())


def test_torch_hub(home):
    save_file(small(5).state_dict(), home / "w.safetensors")
    torch.save({"w": small(6).state_dict()}, "w.pt")
    torch.save({"w": small(6).state_dict(), "more": Bang(home / "ran")}, "evil.pt")
    (home / "hubconf.py").write_text(
        "dependencies = ['torch']\nimport torch\nfrom confnb.models import build\n"
        "def net(file='w.pt', filters=2):\n    model = build('model_a', (1, 16, 16), 10, filters=filters)\n"
        "    model.load_state_dict(torch.load(file, weights_only=False)['w'])\n    return model\n"
    )
    assert torch.equal(predict(model_from(f"torchhub:{home}:net", DIGITS), X), predict(small(6), X))
    with pytest.raises(UsageError, match="a pickle with more in it"):
        model_from(f"torchhub:{home}:net", DIGITS, options={"file": "evil.pt"})
    assert not (home / "ran").exists()
    with pytest.raises(UsageError, match="Cannot find callable nets in hubconf"):
        model_from(f"torchhub:{home}:nets", DIGITS)
    with pytest.raises(UsageError, match="must be torchhub:REPO:NAME"):
        model_from("torchhub:pytorch/vision", DIGITS)


@pytest.mark.parametrize(("spec", "line"), [("robustbench:a/b/c", r"git\+https://github.com/RobustBench"), ("hf:somebody/else", "pip install huggingface_hub"), ("timm:resnet18", "pip install timm")])
def test_a_library_that_is_missing_is_named_with_the_line_that_brings_it(home, monkeypatch, spec, line):
    for name in "robustbench", "huggingface_hub", "timm":
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"cannot be imported here .*: (pip install )?{line}"):
        model_from(spec, DIGITS)


def test_pickles_are_read_safely_only_within_the_block(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    torch.save(Bang(tmp_path / "ran"), tmp_path / "a.pt")
    with pytest.raises(Exception, match="Weights only load failed"), weights_only():
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert dict(os.environ) == before and not (tmp_path / "ran").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_several_models_are_an_ensemble(home):
    names = ["zoo:digits/undefended", "zoo:digits/regularised"]
    both = model_from(names, DIGITS)
    mean = sum(predict(model_from(n, DIGITS), X).softmax(1) for n in names) / 2
    torch.testing.assert_close(predict(both, X).softmax(1), mean)
    with pytest.raises(UsageError, match="each has its own weights"):
        model_from(names, DIGITS, weights="w.safetensors")
    with pytest.raises(UsageError, match="leave out the option filters"):
        model_from(names[0], DIGITS, options={"filters": 3})
    with pytest.raises(UsageError, match="no network 'digits/undefind' ships"):
        model_from("zoo:digits/undefind", DIGITS)


def test_a_module_of_ones_own_may_be_called_zoo(home, monkeypatch):
    (home / "zoo.py").write_text("from confnb.models import build\ndef net(shape, classes):\n    return build('model_a', shape, classes, filters=2)\n")
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    assert published("zoo:net", {}) is None and predict(model_from("zoo:net", DIGITS), X).shape == (5, 10)


@pytest.fixture
def with_rule(tmp_path, monkeypatch):
    "A zoo of its own, with one entry that has a rule"
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((zoo_folders()["digits/undefended"] / WEIGHTS).read_bytes())
    write_card(read_entry("digits/undefended"), weights.with_suffix(".yaml"))
    monkeypatch.setattr(networks, "ZOO", tmp_path / "zoo")
    keep(weights, "digits/with-rule", tmp_path / "zoo", reject="entropy")
    keep(weights, "digits/near", tmp_path / "zoo", reject="neighbours")
    return "zoo:digits/with-rule"


def test_an_entry_brings_its_rule_along(with_rule):
    model, rule = model_and_rule(with_rule, DIGITS)
    assert rule.name == "entropy" and torch.equal(predict(model, X), predict(load_model("digits/with-rule", "cpu"), X))
    assert model_and_rule(with_rule, DIGITS, "max-logit")[1] == "max-logit"
    assert model_and_rule([with_rule, with_rule], DIGITS)[1] is None
    assert len(model_and_rule("zoo:digits/near", DIGITS)[1].score.labels) == 1294


class Begun(Exception):
    pass


def begun(model, data, ball, attacks, scores, how):
    raise Begun(type(model).__name__, how["reject"] and how["reject"].name, how["told"] and how["told"]["model"])


def test_a_report_takes_an_entry_by_its_name(with_rule, monkeypatch):
    monkeypatch.setattr(reporting, "_tables", begun)
    for model, reject, expected in (
        (with_rule, None, "entropy"),
        (load_entry("digits/with-rule", "cpu"), None, "entropy"),
        (with_rule, "max-logit", "max-logit"),
        (load_model("digits/with-rule", "cpu"), None, None),
    ):
        with pytest.raises(Begun) as e:
            report(model, DIGITS, "linf:0.1", ["pgd"], {}, reject=reject)
        assert e.value.args[:2] == ("Sequential", expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "zoo:digits/with-rule"], ("Sequential", "entropy", "zoo:digits/with-rule")),
        (["--model", "zoo:digits/with-rule", "--reject", "max-logit"], ("Sequential", "max-logit", "zoo:digits/with-rule")),
        (["--model", "zoo:digits/near,zoo:digits/near", "--model", "zoo:digits/near"], ("Ensemble", None, "zoo:digits/near,zoo:digits/near, zoo:digits/near")),
    ],
)
def test_the_command_takes_an_entry_and_an_ensemble(home, with_rule, monkeypatch, words, expected):
    monkeypatch.setattr(reporting, "_tables", begun)
    app = typer.Typer()
    app.command("evaluate")(evaluate_command)
    done = CliRunner().invoke(app, [*words, "--out", "one", "--data", "digits", "--threat", "linf:0.1", "--attacks", "pgd"])
    assert done.exit_code == 1 and done.output.count(str(expected)), done.output


def test_sources_are_told_apart_by_the_word_before_the_colon():
    assert set(sources.SOURCES) == {"zoo", "robustbench", "hf", "torchhub"}
    for other in "own.module:factory", "timm:resnet18", "torchvision.models:resnet18", "hf:factory", "":
        assert published(other, {}) is None
