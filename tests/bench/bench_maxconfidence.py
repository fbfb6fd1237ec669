"""MaxConfidence's race over the targets against exhaustive targeted PGD, 9 targets x 40 steps, of foolbox and torchattacks.

    python tests/bench/bench_maxconfidence.py [--data mnist|digits] [--points 256] [--repeats 2]

Prints a table and writes runs/bench/maxconfidence.json. All run on the same held-out points, in float32, with the parameters'
gradients off (foolbox would compute them otherwise), in turns, each turn under another seed. The exhaustive attacks get flat batches
of (example, target) rows and random starts; their points are scored by confnb, and the best of the targets counts.

A fair test of "as strong": failure at every threshold not lower, mean shortfall in wrong-class confidence <= 0, and no larger
share of points short by more than .01 than the exhaustive attack shows against itself under another seed.
"""

import argparse
import contextlib
import io

import foolbox
import torch
import torchattacks
from common import batch_of, clock, report, timed

from confnb.data import load
from confnb.maxconfidence import admit, max_confidence, most_confident, wrong_classes
from confnb.models import seeded
from confnb.runtime import chunks, device_of
from confnb.search import Linf, take
from confnb.training import Adversarial, CrossEntropyLoss, Recipe, SmoothingPairing, accuracy, trained

STEPS, SHORT, THRESHOLDS = 40, 0.01, (0.5, 0.7, 0.9)


def recipes(name):
    "The radius, the architecture's settings, and each model's loss and recipe"
    if name == "digits":
        return 0.2, {"filters": 16}, {
            "undefended": (CrossEntropyLoss(), Recipe(epochs=12, batch_size=32)),
            "regularised": (SmoothingPairing(), Recipe(epochs=20, batch_size=32)),
            "PGD-trained": (Adversarial(Linf(0.2), 5, ramp=0.4), Recipe(epochs=20, batch_size=32, rate=0.002))}
    return 0.3, {"filters": 32}, {
        "undefended": (CrossEntropyLoss(), Recipe(epochs=2)),
        "regularised": (SmoothingPairing(), Recipe(epochs=4)),
        "PGD-trained": (Adversarial(Linf(0.3), 7, ramp=0.4), Recipe(epochs=4, rate=0.002))}


def exhaustive(run, model, x, y, ball, classes, rows_at_once=512):
    "The points of `run(x, y, targets)` for every wrong class, and for each example the one of the highest wrong-class confidence"
    targets = wrong_classes(y, classes).flatten()
    rows = torch.arange(len(x), device=x.device).repeat_interleave(classes - 1)
    points = torch.cat([run(x[rows[s]], y[rows[s]], targets[s]) for s in chunks(len(rows), rows_at_once)])
    return most_confident(admit(model, x[rows], y[rows], take(ball, rows), points, rows_at_once), y, classes - 1)


def with_foolbox(model, eps):
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.01 * eps / 0.3, steps=STEPS, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device_of(model))
    return lambda x, y, targets: attack.run(wrapped, x, foolbox.criteria.TargetedMisclassification(targets), epsilon=eps)


def with_torchattacks(model, eps):
    attack = torchattacks.PGD(model, eps=eps, alpha=0.01 * eps / 0.3, steps=STEPS, random_start=True)

    aim = {}
    with contextlib.redirect_stdout(io.StringIO()):
        attack.set_mode_targeted_by_function(lambda *_: aim["targets"])

    def run(x, y, targets):
        aim["targets"] = targets
        return attack(x, y)

    return run


def compete(model, x, y, eps, classes, repeats):
    "Seconds and results, turn by turn, of each contestant"
    ball, device = Linf(eps), x.device
    peers = {"foolbox": with_foolbox(model, eps), "torchattacks": with_torchattacks(model, eps)}
    calls = {"confnb": lambda turn: max_confidence(model, x, y, ball, seed=turn)}
    calls |= {name: lambda turn, run=run: exhaustive(run, model, x, y, ball, classes) for name, run in peers.items()}
    seconds, results = {name: [] for name in calls}, {name: [] for name in calls}
    max_confidence(model, x[:32], y[:32], ball)
    for turn in range(repeats):
        for name in list(calls) if turn % 2 else reversed(calls):
            with seeded(turn, device):
                spent, found = timed(lambda call=calls[name], turn=turn: call(turn), device)
            seconds[name].append(spent)
            results[name].append(found)
    return seconds, results


def share_short(strong, weak):
    return (strong.confidence - weak.confidence > SHORT).double().mean().item()


def row(title, name, seconds, results):
    "A contestant's line; a peer's says what confnb lacks against it"
    found, ours = results[name], results["confnb"]
    failures = [[(f.confidence > t).double().mean().item() for t in THRESHOLDS] for f in found]
    line = {"model": title, "attack": name, "passes": STEPS * (found[0].logits.shape[1] - 1) if name != "confnb" else found[0].passes.double().mean().item(),
            "seconds": clock(seconds[name])}
    line |= {f"failure at {t:g}": clock(values) for t, values in zip(THRESHOLDS, zip(*failures, strict=True), strict=True)}
    if name == "confnb":
        return line
    ratio = clock([theirs / mine for theirs, mine in zip(seconds[name], seconds["confnb"], strict=True)])
    shortfall = clock([(theirs.confidence - mine.confidence).mean().item() for theirs, mine in zip(found, ours, strict=True)])
    short = clock([share_short(theirs, mine) for theirs, mine in zip(found, ours, strict=True)])
    itself = clock([share_short(found[i], found[j]) for i in range(len(found)) for j in range(len(found)) if i != j])
    weaker = [t for t in THRESHOLDS if clock([(m.confidence > t).double().mean().item() for m in ours]) < line[f"failure at {t:g}"]]
    misses = [*([f"{ratio:.2f} < 5 times"] if ratio < 5 else []), *(f"failure at {t:g}" for t in weaker), *(["shortfall"] if shortfall > 0 else []),
              *(["share short"] if short > itself else [])]
    return line | {"times confnb's": ratio, "mean shortfall of confnb": shortfall, f"confnb short by > {SHORT:g}": short,
                   f"itself short by > {SHORT:g}": itself, "misses": ", ".join(misses) or "none"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2, help="turns, at least 2: the exhaustive attacks are compared with themselves")
    chosen = parser.parse_args()
    if chosen.repeats < 2:
        parser.error("--repeats must be at least 2")
    data = load(chosen.data, **({"test": 1000} if chosen.data == "mnist" else {}))
    eps, network, plans = recipes(chosen.data)
    rows = []
    for title, (loss, recipe) in plans.items():
        model = trained("model_a", data, loss, recipe, 0, "auto", **network).requires_grad_(False)
        x, y = batch_of(data, chosen.points, device_of(model))
        seconds, results = compete(model, x, y, eps, data.classes, chosen.repeats)
        print(f"{title}: {100 * accuracy(model, data.x_held, data.y_held):.1f} % of held-out images right", flush=True)
        rows += [row(title, name, seconds, results) for name in ("confnb", "foolbox", "torchattacks")]
    report("maxconfidence", {f"{data.title}, eps {eps:g}, {len(x)} held-out points, {data.classes - 1} targets x {STEPS} steps": rows}, chosen)


if __name__ == "__main__":
    main()
