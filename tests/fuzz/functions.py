"""The functions that are called, what each takes, and the settings that are varied (those given here have small values otherwise)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

import confnb
from confnb import L0, CrossEntropy, Linf, Margin, maximize, predict, score_points, with_wrong_confidence

from .ingredients import N, pixels
from .models import K

CLASSES = torch.arange(4) % K


@dataclass(frozen=True)
class Function:
    """`call` on what `takes` names ("model x y ball"), with the settings that are varied.

    Traits: `branches` decides at each step by a sign, which rounding may turn, `climbs` a gradient to the end, `hidden` needs features, `copies` the model, `linf` takes no other set (`l2` that one too), `bounds` knows few layers and sets, `fixes` what a model draws, `shell` gives another
    model's answers.
    """

    call: Callable[..., Any]
    takes: str
    varied: str = ""
    small: dict[str, Any] = field(default_factory=dict)
    traits: str = ""
    ball: Callable[[dict], Any] | None = None  # the set that the points must lie in, where it is no ingredient


def F(call: Callable, takes: str, varied: str = "", traits: str = "", ball: Callable | None = None, **small: Any) -> Function:
    return Function(call, takes, varied, small, traits, ball)


def density(model, shape) -> confnb.KDensity:
    "A detector made from this model's own features"
    return confnb.KDensity(confnb.features(model, pixels(4, shape)), CLASSES, 1.0)


def detector(attack: Callable) -> Callable:
    return lambda model, x, y, ball, shape, **s: attack(model, x, y, ball, confnb.DensityScore(density(model, shape)), **s)


def two(ball) -> dict[str, Callable]:
    "An attack for a table"
    return {"pgd": partial(confnb.pgd, ball=ball, steps=2)}


def curves(model, x, y, ball, level=0.95):
    table = confnb.evaluate(model, x, y, two(ball))
    return confnb.success_fail(table[table.attack == "clean"], table[table.attack == "pgd"], level)


def bundled(model, x, y, ball, **s):
    return confnb.bundle(confnb.pgd(model, x, y, ball, 2, **s), confnb.uniform_noise(model, x, y, ball, **s))


def through(model, x, y, ball, **s):
    return confnb.surrogate_attack(confnb.Shell(model, partial(confnb.mcn, xi=0.1, steps=1)), x, y, ball, model, **s)


ATTACK = "model x y ball"
FUNCTIONS = {
    "fgsm": F(confnb.fgsm, ATTACK, "target batch_size", "climbs"),
    "bim": F(confnb.bim, ATTACK, "steps step_size target batch_size", "climbs", steps=2),
    "ilcm": F(confnb.ilcm, ATTACK, "steps step_size batch_size", "climbs", steps=2),
    "pgd": F(confnb.pgd, ATTACK, "steps step_size restarts seed target start keep batch_size", "climbs", steps=3),
    "apgd": F(confnb.apgd, ATTACK, "steps restarts seed target margin batch_size", "climbs", steps=4),
    "least_confident": F(confnb.least_confident, ATTACK, "steps restarts seed batch_size", "branches climbs", steps=4),
    "miscalibrate": F(confnb.miscalibrate, ATTACK, "steps restarts seed batch_size", "branches climbs", steps=4),
    "jsma": F(confnb.jsma, "model x y", "steps theta target batch_size", "", lambda s: L0(s["steps"]), steps=3),
    "cw_l2": F(confnb.cw_l2, "model x y", "target kappa rounds steps step_size c autocast batch_size", "", rounds=2, steps=3),
    "cw_hc": F(confnb.cw_hc, "model x y", "target kappa", "", rounds=2, steps=3),
    "ddn": F(confnb.ddn, "model x y", "steps target kappa gamma batch_size", "", steps=4),
    "cw_l2_fast": F(confnb.cw_l2_fast, "model x y", "steps polish target kappa batch_size", "", steps=5, polish=2),
    "cw_linf": F(confnb.confident_linf, ATTACK, "p steps step_size restarts seed target start batch_size", "linf", steps=3),
    "uniform_noise": F(confnb.uniform_noise, ATTACK, "draws seed batch_size"),
    "negative": F(confnb.negative, "model x y", "batch_size"),
    "constant_offset": F(confnb.constant_offset, "model x y", "offsets batch_size", offsets=0.3),
    "offset_logits": F(confnb.offset_logits, "model x", "offsets batch_size", offsets=[0.3, -0.1]),
    "least_likely": F(confnb.least_likely, "model x y", "batch_size"),
    "maximize": F(lambda model, x, ball, objective, **s: maximize(model, objective, x, ball, **s), "model x ball", "objective rule steps step_size restarts seed decay start stop patience keep rank autocast batch_size", "climbs",
                  objective=Margin(1), steps=3),
    "maximize by each rule": F(lambda model, x, ball, objective, **s: maximize(model, objective, x, ball, **s), "model x ball", "objective rule", "climbs", objective=CrossEntropy(1), steps=3),
    "scored": F(lambda model, x, y, **s: with_wrong_confidence(score_points(model, Margin(y), x, **s), y), "model x y", "batch_size"),
    "max_confidence": F(confnb.max_confidence, ATTACK, "effort until seed restarts autocast batch_size", "climbs", effort="quick"),
    "max_confidence by steps": F(confnb.max_confidence, ATTACK, "steps step_size restarts seed batch_size", "climbs", steps=2),
    "square": F(confnb.square, ATTACK, "queries target restarts seed start batch_size", "linf l2", queries=20),
    "transfer": F(lambda model, x, y, ball, **s: confnb.transfer(model, model, x, y, ball, **s), ATTACK, "steps targets restarts seed batch_size", "climbs", steps=2),
    "certify": F(confnb.certify, ATTACK, "by batch_size", "bounds", by="ibp"),
    "public_recipe": F(confnb.public_recipe, ATTACK, "steps step_size seed", "", steps=1, longer=2),
    "admit": F(lambda model, x, y, ball, **s: confnb.score_inside(model, x, y, ball, x, **s), ATTACK, "batch_size"),
    "bundle": F(bundled, ATTACK, "seed batch_size", ""),
    "success_fail": F(curves, ATTACK, "level"),
    "evaluate": F(lambda model, x, y, ball, **s: confnb.evaluate(model, x, y, two(ball), {"surest": confnb.confidence_score}, **s), ATTACK, "batch_size", "hidden"),
    "evaluate (cache)": F(lambda model, x, y, ball: confnb.evaluate(model, x, y, two(ball), {"surest": confnb.confidence_score}, cache=True), ATTACK, "", "hidden"),
    "predict": F(predict, "model x", "batch_size"),
    "features": F(confnb.features, "model x", "batch_size", "hidden"),
    "outputs": F(confnb.outputs, "model x", "batch_size", "hidden"),
    "answer_change": F(confnb.answer_change, "model x", "batch_size"),
    "predict_selectively": F(lambda model, x, **s: confnb.predict_selectively(model, x, confnb.confidence_score, 1.0, **s), "model x", "batch_size", "hidden"),
    "rule_scores": F(lambda model, x: confnb.rule_scores(model, confnb.reject_rule("confidence"), x), "model x", "", "fixes"),
    "Ensemble": F(lambda model, x: predict(confnb.Ensemble([model, model]), x), "model x"),
    "Averaged": F(lambda model, x: predict(confnb.Averaged(model, 2), x), "model x", "", "fixes"),
    "confidence_over_draws": F(lambda model, x, **s: confnb.confidence_over_draws(confnb.Averaged(model, 2), x, draws=3, **s), "model x", "level", "fixes"),
    "certified_radius": F(lambda model, x, **s: confnb.certified_radius(confnb.Smoothed(model, 0.2), x, 3, 9, **s), "model x", "level seed"),
    "confident_points": F(confnb.confident_points, ATTACK, "p steps seed batch_size", "", steps=2),
    "cw_white_box": F(lambda model, x, y, shape, eta=0.0, **s: confnb.cw_white_box(model, x, y, density(model, shape), eta, **s), "model x y shape",
                      "eta weight kappa rounds steps step_size c target", "hidden", rounds=2, steps=2),
    "max_score": F(detector(confnb.max_score), f"{ATTACK} shape", "steps seed weight batch_size", "hidden", steps=2),
    "orthogonal_pgd": F(detector(confnb.orthogonal_pgd), f"{ATTACK} shape", "steps batch_size", "hidden branches", steps=2),
    "mcn": F(confnb.mcn, "model x", "xi steps seed batch_size", "", lambda s: s["xi"], xi=0.1, steps=2),
    "hcnn": F(confnb.hcnn, "model x", "xi lam steps norm batch_size", "", lambda s: s["xi"], xi=0.1, lam=0.1, steps=2),
    "ncn": F(confnb.ncn, "model x", "p xi steps weights norm step_size batch_size", "", lambda s: s["xi"], p=0.6, xi=0.5, steps=3),
    "each_label": F(confnb.each_label, "model x", "xi steps", "", lambda s: s["xi"], xi=0.1, steps=2),
    "least_entropy": F(confnb.least_entropy, "model x", "xi alpha steps batch_size", "", lambda s: s["xi"], xi=0.1, steps=2),
    "Shell": F(lambda model, x, xi=0.1: predict(confnb.Shell(model, partial(confnb.mcn, xi=xi, steps=2)), x), "model x", "xi", "shell"),
    "through": F(through, ATTACK, "steps batch_size", "shell", steps=2),
    "separation": F(confnb.estimate_separation, ATTACK, "p level steps seed batch_size", "", steps=2),
    "separation_curve": F(lambda model, x, y, ball, **s: confnb.separation_curve(model, x, y, ball, (0.5, 0.9), **s), ATTACK, "level steps", "", steps=2),
    "fooling_images": F(lambda model, shape, **s: confnb.fooling_images(model, shape, K, **s), "model shape", "steps step_size starts batch_size", steps=2),
    "along_rays": F(confnb.along_rays, "model x", "positions seed batch_size", positions=[0.0, 1.0]),
    "zero_gradients": F(confnb.zero_gradients, "model x y", "batch_size"),
    "quantize": F(lambda model, x, **s: predict(confnb.quantize(model, first_last=True, **s), x), "model x", "w a g", "copies", w=2),
    "quantize_weight": F(lambda bits: confnb.quantize_weight(pixels(4, (5,)), bits), "", "bits", bits=2),
    "non_me": F(confnb.non_me, "", "probabilities", probabilities=torch.full((2, 3), 1 / 3)),
    "KDensity": F(lambda y, vectors, sigma2=1.0, per_class=None: confnb.KDensity(vectors, y, sigma2, per_class)(vectors, y).detach(), "y", "vectors sigma2 per_class", vectors=pixels(N, (5,))),
    "choose_threshold": F(lambda scores, level: confnb.choose_threshold(scores, lose=1 - level if isinstance(level, (int, float)) else level), "", "scores level", scores=np.ones(3), level=0.9),
    "auc": F(lambda scores: confnb.auc(scores, np.zeros(3)), "", "scores", scores=np.ones(3)),
    "binomial_interval": F(lambda hits, level: confnb.binomial_interval(hits, 10, level), "", "hits level", hits=3, level=0.9),
}


def set_of(thing: Any) -> Any:
    "The set that a number stands for"
    return Linf(thing) if isinstance(thing, int | float | torch.Tensor) and (isinstance(thing, torch.Tensor) or thing) else thing
