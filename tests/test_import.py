"""`import confnb`: the public names at the top level, loaded when they are first used, and nothing else."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import confnb
from confnb.workshop import docs_build

ROOT = Path(__file__).resolve().parent.parent
SURFACE = (  # what keeps its name, whatever moves
    "Linf L2 L1 L0 LogConfidence CrossEntropy Margin maximize Found fgsm pgd apgd cw_l2 Normalize max_confidence bundle success_fail evaluate evaluate_sharded "
    "from_foolbox from_torchattacks binomial_interval auc KDensity non_me reverse_cross_entropy mcn Shell quantize_weight quantize_activation report"
).replace("L1 ", "").split()
HEAVY = ("matplotlib", "seaborn", "IPython", "ipykernel", "sklearn", "torchvision", "foolbox", "torchattacks", "ray", "papermill")


def fresh(code):
    "What a new interpreter prints as JSON"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", SURFACE)
def test_the_names_of_the_design_are_at_the_top_level(name):
    assert callable(getattr(confnb, name)) and name in confnb.__all__


def test_every_name_that_is_listed_is_there():
    assert set(confnb.__all__) <= set(dir(confnb)) and len(set(confnb.__all__)) == len(confnb.__all__) > 100
    space = {}
    exec("from confnb import *", space)
    assert set(confnb.__all__) <= set(space)


def test_every_public_name_can_be_imported_from_the_top():
    "And is the one of its module: no two modules have the same"
    for name, module in docs_build._flat(ROOT).items():
        assert getattr(confnb, name) is getattr(importlib.import_module(f"confnb.{module}"), name), name
    seen = [n for m, p in docs_build.modules(ROOT).items() if not m.startswith("workshop") for n in docs_build._wanted(p)]
    assert not [n for n in set(seen) if seen.count(n) > 1]


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No confnb attribute max_confidense"):
        confnb.max_confidense  # noqa: B018
    with pytest.raises(ImportError, match="max_confidense"):
        from confnb import max_confidense  # noqa: F401


def test_nothing_is_loaded_before_it_is_used():
    loaded = fresh("import sys, time\nbegan = time.process_time()\nimport confnb\ntook = time.process_time() - began\n"
                   "import json\nprint(json.dumps([took, sorted({m.split('.')[0] for m in sys.modules})]))")
    assert loaded[0] < 0.5 and not {"torch", "numpy", "pandas", "typer", *HEAVY} & set(loaded[1])


@pytest.fixture(scope="module")
def first():
    "What a new interpreter says that has torch and then takes the first names: how long that took, what is loaded, and what it finds of modules that are not"
    return fresh("import time, sys\nimport torch, numpy, pandas\nbegan = time.process_time()\nfrom confnb import max_confidence, success_fail, Linf, evaluate\n"
                 "took = time.process_time() - began\nimport json\nimport confnb\nloaded = sorted(sys.modules)\n"
                 "print(json.dumps([took, loaded, confnb.ensembles.__name__, confnb.quantize_weight.__module__]))")


def test_the_first_names_cost_little_more_than_torch(first):
    "The time that `import torch` takes is not ours to change; what is added to it, torch, NumPy and pandas apart, is small"
    took, modules, *_ = first
    assert took < 1.5 and not set(HEAVY) & {m.split(".")[0] for m in modules}


def test_commands_that_look_at_no_model_load_no_torch():
    from confnb.workshop.cli import build_app

    names, loaded = fresh("import sys, json\nfrom confnb.workshop.cli import build_app\nprint(json.dumps([[c.name for c in build_app('list').registered_commands], 'torch' in sys.modules]))")
    assert names == ["reproduce", "list", "store", "pages"] and not loaded
    assert {c.name for c in build_app().registered_commands} == {*names, "evaluate", "zoo", "doctor"}


def test_modules_are_found_without_importing_them(first):
    _, modules, module, of_a_name = first
    assert [module, of_a_name] == ["confnb.ensembles", "confnb.quantization"] and not {module, of_a_name} & set(modules)
