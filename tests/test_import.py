"""`import confnb`: the public names at the top level, loaded when they are first used, and nothing else."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import confnb
from confnb.cache import fingerprint

ROOT = Path(__file__).resolve().parent.parent
SURFACE = {  # the design's table
    "search": "Linf L2 LogConfidence CrossEntropy Margin maximize Found",
    "attacks": "fgsm bim ilcm pgd apgd jsma cw_l2 cw_linf uniform_noise negative constant_offset",
    "records": "evaluate binomial_interval auc from_foolbox from_torchattacks",
    "separation": "separation Separation separation_curve",
    "hcnn": "mcn hcnn ncn Shell rejection_table",
    "maxconfidence": "max_confidence bundle success_fail",
    "rce": "reverse_cross_entropy ReverseLogits non_me KDensity cw_white_box",
    "regularization": "fooling_images SpheresMLP",
    "training": "label_smoothing_pairing",
    "quantization": "quantize_weight quantize_activation quantize_gradient QuantConv2d QuantLinear quantize",
    "report": "report",
}
HEAVY = ("matplotlib", "seaborn", "IPython", "ipykernel", "sklearn", "torchvision", "foolbox", "torchattacks", "ray", "papermill")


def fresh(code):
    "What a new interpreter prints as JSON"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", SURFACE)
def test_the_names_of_the_design_are_at_the_top_level(module):
    home = __import__(f"confnb.{module}", fromlist=["x"])
    for name in SURFACE[module].split():
        found = getattr(confnb, name)
        assert found is getattr(home, name) or found is home and callable(found), f"confnb.{name}"


def test_every_name_that_is_listed_is_there():
    assert set(confnb.__all__) <= set(dir(confnb)) and len(set(confnb.__all__)) == len(confnb.__all__) > 40
    for name in confnb.__all__:
        assert callable(getattr(confnb, name)), name
    space = {}
    exec("from confnb import *", space)
    assert set(confnb.__all__) <= set(space)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'confnb' has no attribute 'max_confidense'"):
        confnb.max_confidense  # noqa: B018
    with pytest.raises(ImportError, match="max_confidense"):
        from confnb import max_confidense  # noqa: F401
    with pytest.raises(AttributeError, match="module 'confnb.hcnn' has no attribute 'hcn'"):
        confnb.hcnn.hcn  # noqa: B018


def test_nothing_is_loaded_before_it_is_used():
    loaded = fresh("import sys, time\nbegan = time.perf_counter()\nimport confnb\ntook = time.perf_counter() - began\n"
                   "import json\nprint(json.dumps([took, sorted({m.split('.')[0] for m in sys.modules})]))")
    assert loaded[0] < 0.5 and not {"torch", "numpy", "pandas", "typer", *HEAVY} & set(loaded[1])


def test_the_first_names_cost_little_more_than_torch():
    "The time that `import torch` takes is not ours to change; what is added to it, torch, NumPy and pandas apart, is small"
    took, modules = fresh("import time, sys\nimport torch, numpy, pandas\nbegan = time.perf_counter()\nfrom confnb import max_confidence, success_fail, Linf, evaluate\n"
                          "took = time.perf_counter() - began\nimport json\nprint(json.dumps([took, sorted({m.split('.')[0] for m in sys.modules})]))")
    assert took < 1.5 and not set(HEAVY) & set(modules)


def test_commands_that_look_at_no_model_load_no_torch():
    loaded = fresh("import sys, json\nfrom confnb.reproduce import build_app\nnames = [c.name for c in build_app('list').registered_commands]\n"
                   "print(json.dumps([names, 'torch' in sys.modules, [c.name for c in build_app().registered_commands]]))")
    assert loaded[:2] == [["reproduce", "list", "store", "pages"], False] and set(loaded[2]) == {*loaded[0], "evaluate", "doctor"}


@pytest.mark.parametrize("first", ["from confnb import hcnn", "from confnb.hcnn import mcn\nfrom confnb import hcnn", "import confnb.hcnn\nhcnn = confnb.hcnn"])
def test_a_name_that_is_a_module_too_is_both(first):
    told = fresh(f"{first}\nimport confnb.hcnn as module\nimport json, sys\nsame = module is hcnn is sys.modules['confnb.hcnn']\n"
                 "import torch\nmodel = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))\n"
                 "found = hcnn(model, torch.rand(2, 1, 2, 2), 0.1, 1.0, steps=1)\nprint(json.dumps([same, callable(hcnn.mcn), len(found.x)]))")
    assert told == [True, True, 2]


def test_such_a_name_can_stand_in_a_key_of_the_cache():
    assert fingerprint(partial(confnb.hcnn, xi=0.1)) != fingerprint(partial(confnb.separation, xi=0.1))


def test_modules_are_found_without_importing_them():
    assert fresh("import confnb, json\nprint(json.dumps([confnb.search.__name__, confnb.Linf(0.5).eps]))") == ["confnb.search", 0.5]
