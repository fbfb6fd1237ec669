"""What a classifier's confidence can be trusted for when somebody tries to fool it: the public names, each loaded when it is first used."""

__version__ = "0.1.0"

import ast
import importlib
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the public surface: editors and type checkers read it here, and so does `_homes` below
    from .attacks import apgd as apgd
    from .attacks import bim as bim
    from .attacks import constant_offset as constant_offset
    from .attacks import cw_hc as cw_hc
    from .attacks import cw_l2 as cw_l2
    from .attacks import cw_l2_fast as cw_l2_fast
    from .attacks import cw_linf as cw_linf
    from .attacks import ddn as ddn
    from .attacks import fgsm as fgsm
    from .attacks import ilcm as ilcm
    from .attacks import jsma as jsma
    from .attacks import negative as negative
    from .attacks import pgd as pgd
    from .attacks import uniform_noise as uniform_noise
    from .data import Data as Data
    from .data import load as load
    from .hcnn import Shell as Shell
    from .hcnn import hcnn as hcnn
    from .hcnn import mcn as mcn
    from .hcnn import ncn as ncn
    from .hcnn import rejection_table as rejection_table
    from .maxconfidence import bundle as bundle
    from .maxconfidence import max_confidence as max_confidence
    from .maxconfidence import plot_success_fail as plot_success_fail
    from .maxconfidence import robust_error as robust_error
    from .maxconfidence import success_fail as success_fail
    from .maxconfidence import threshold_for as threshold_for
    from .models import Normalize as Normalize
    from .models import build as build
    from .models import features as features
    from .models import load_weights as load_weights
    from .models import save_weights as save_weights
    from .quantization import QuantConv2d as QuantConv2d
    from .quantization import quantize as quantize
    from .quantization import quantize_activation as quantize_activation
    from .quantization import quantize_gradient as quantize_gradient
    from .quantization import quantize_weight as quantize_weight
    from .quantization import QuantLinear as QuantLinear
    from .rce import cw_white_box as cw_white_box
    from .rce import KDensity as KDensity
    from .rce import non_me as non_me
    from .rce import reverse_cross_entropy as reverse_cross_entropy
    from .rce import ReverseLogits as ReverseLogits
    from .records import auc as auc
    from .records import binomial_interval as binomial_interval
    from .records import evaluate as evaluate
    from .records import evaluated as evaluated
    from .records import from_foolbox as from_foolbox
    from .records import from_torchattacks as from_torchattacks
    from .regularization import fooling_images as fooling_images
    from .regularization import SpheresMLP as SpheresMLP
    from .report import report as report
    from .runtime import predict as predict
    from .search import L0 as L0
    from .search import L2 as L2
    from .search import CrossEntropy as CrossEntropy
    from .search import Found as Found
    from .search import Linf as Linf
    from .search import LogConfidence as LogConfidence
    from .search import Margin as Margin
    from .search import maximize as maximize
    from .separation import Separation as Separation
    from .separation import separation as separation
    from .separation import separation_curve as separation_curve
    from .training import Recipe as Recipe
    from .training import fit as fit
    from .training import label_smoothing_pairing as label_smoothing_pairing
    from .training import trained as trained


def _homes() -> dict[str, str]:
    "The module of each public name: the imports above, read and not run"
    block = next(n for n in ast.parse(pkgutil.get_data(__name__, "__init__.py") or b"").body if isinstance(n, ast.If))
    return {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) and n.module for a in n.names}


_HOMES = _homes()
__all__ = list(_HOMES)


class _Callable(ModuleType):
    "A submodule that bears the name of a public function (hcnn, report, separation) and can be called as that function"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("__qualname__", "__code__"):  # what tells one function from another in a key of the cache
            return getattr(vars(self)[self.__name__.rpartition(".")[2]], name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    "This package: where a submodule takes the place of the function that it is named after, it can be called"

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


if not TYPE_CHECKING:  # a checker that saw this would believe in any name

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            found = importlib.import_module(f".{_HOMES[name]}", __name__)
            return found if name == _HOMES[name] else getattr(found, name)
        if name in _HOMES.values():
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
