"""MaxConfidence's race over the targets against exhaustive targeted PGD, 9 targets x 40 (or 200) steps, of foolbox and torchattacks.

    python tests/bench/bench_maxconfidence.py [--data mnist|digits] [--points 512] [--repeats 2] [--steps 40] [--restarts 1]
        [--float32] [--peers foolbox,torchattacks]

Prints a table and writes runs/bench/maxconfidence.json. All run on the same test points, which nothing was tuned on. The peers run in float32; the race climbs in
bfloat16 where the processor multiplies it in hardware (--float32 forbids it) and scores in float32. The parameters' gradients are off (foolbox would compute them otherwise), in turns, each turn under another seed. The exhaustive attacks get flat batches
of (example, target) rows and random starts; their points are scored by confnb, and the best of the targets counts.

A fair test of "as strong": failure at every threshold not lower, mean shortfall in wrong-class confidence <= 0, and no larger
share of points short by more than .01 than the exhaustive attack shows against itself under another seed.
"""

import argparse
import contextlib
import io
from functools import partial

import foolbox
import torch
import torchattacks
from common import batch_of, clock, recipes, report, timed

from confnb.borrowing import device_of
from confnb.data import load_data
from confnb.found import score_inside, wrong_classes
from confnb.maxconfidence import max_confidence, most_confident
from confnb.models import seeded
from confnb.networks import load_or_train
from confnb.runtime import chunks
from confnb.sets import Linf, take_rows
from confnb.training import accuracy

SHORT, THRESHOLDS = 0.01, (0.5, 0.7, 0.9)


def exhaustive(run, model, x, y, ball, classes, rows_at_once=512):
    "The points of `run(x, y, targets)` for every wrong class, and for each example the one of the highest wrong-class confidence"
    targets = wrong_classes(y, classes).flatten()
    rows = torch.arange(len(x), device=x.device).repeat_interleave(classes - 1)
    points = torch.cat([run(x[rows[s]], y[rows[s]], targets[s]) for s in chunks(len(rows), rows_at_once)])
    return most_confident(score_inside(model, x[rows], y[rows], take_rows(ball, rows), points, rows_at_once), y, classes - 1)


def with_foolbox(model, eps, steps):
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.01 * eps / 0.3, steps=steps, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device_of(model))
    return lambda x, y, targets: attack.run(wrapped, x, foolbox.criteria.TargetedMisclassification(targets), epsilon=eps)


def with_torchattacks(model, eps, steps):
    attack = torchattacks.PGD(model, eps=eps, alpha=0.01 * eps / 0.3, steps=steps, random_start=True)

    aim = {}
    with contextlib.redirect_stdout(io.StringIO()):
        attack.set_mode_targeted_by_function(lambda *_: aim["targets"])

    def run(x, y, targets):
        aim["targets"] = targets
        return attack(x, y)

    return run


PEERS = {"foolbox": with_foolbox, "torchattacks": with_torchattacks}


def compete(model, x, y, eps, classes, chosen):
    "Seconds and results, turn by turn, of each contestant"
    ball, device = Linf(eps), x.device
    own = partial(max_confidence, model, ball=ball, restarts=chosen.restarts, autocast=None if chosen.float32 else "auto")
    peers = {name: PEERS[name](model, eps, chosen.steps) for name in chosen.peers.split(",")}
    calls = {"confnb": lambda turn: own(x, y, seed=turn)}
    calls |= {name: lambda turn, run=run: exhaustive(run, model, x, y, ball, classes) for name, run in peers.items()}
    seconds, results = {name: [] for name in calls}, {name: [] for name in calls}
    own(x[:32], y[:32])
    for turn in range(chosen.repeats):
        for name in list(calls) if turn % 2 else reversed(calls):
            with seeded(turn, device):
                spent, found = timed(lambda call=calls[name], turn=turn: call(turn), device)
            seconds[name].append(spent)
            results[name].append(found)
    return seconds, results


def share_short(strong, weak):
    return (strong.wrong_confidence - weak.wrong_confidence > SHORT).double().mean().item()


def row(title, name, seconds, results, steps, wanted):
    "A contestant's line; a peer's says what confnb lacks against it"
    found, ours = results[name], results["confnb"]
    failures = [[(f.wrong_confidence > t).double().mean().item() for t in THRESHOLDS] for f in found]
    line = {"model": title, "attack": name, "passes": steps * (found[0].logits.shape[1] - 1) if name != "confnb" else found[0].passes.double().mean().item(),
            "seconds": clock(seconds[name])}
    line |= {f"failure at {t:g}": clock(values) for t, values in zip(THRESHOLDS, zip(*failures, strict=True), strict=True)}
    if name == "confnb":
        return line
    ratio = clock([theirs / mine for theirs, mine in zip(seconds[name], seconds["confnb"], strict=True)])
    shortfall = clock([(theirs.wrong_confidence - mine.wrong_confidence).mean().item() for theirs, mine in zip(found, ours, strict=True)])
    short = clock([share_short(theirs, mine) for theirs, mine in zip(found, ours, strict=True)])
    pairs = [share_short(a, b) for a in found for b in found if a is not b]
    itself = clock(pairs) if pairs else None
    weaker = [t for t in THRESHOLDS if clock([(m.wrong_confidence > t).double().mean().item() for m in ours]) < line[f"failure at {t:g}"]]
    misses = [*([f"{ratio:.2f} < {wanted} times"] if ratio < wanted else []), *(f"failure at {t:g}" for t in weaker), *(["shortfall"] if shortfall > 0 else []),
              *(["share short"] if len(found) > 1 and short > itself else [])]
    return line | {"times confnb's": ratio, "mean shortfall of confnb": shortfall, f"confnb short by > {SHORT:g}": short,
                   f"itself short by > {SHORT:g}": itself, "misses": ", ".join(misses) or "none"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2, help="turns; with 2 or more the exhaustive attacks are compared with themselves")
    parser.add_argument("--steps", type=int, default=40, help="of the exhaustive attacks, for each target")
    parser.add_argument("--restarts", type=int, default=1, help="of the race")
    parser.add_argument("--float32", action="store_true", help="the race, too, climbs in float32")
    parser.add_argument("--peers", default="foolbox,torchattacks")
    chosen = parser.parse_args()
    data = load_data(chosen.data, **({"test": 1000} if chosen.data == "mnist" else {}))
    eps, network, plans = recipes(chosen.data)
    rows = []
    for title, (loss, recipe) in plans.items():
        model = load_or_train("model_a", data, loss, recipe, 0, "auto", **network).requires_grad_(False)
        x, y = batch_of(data, chosen.points, device_of(model), "test")
        seconds, results = compete(model, x, y, eps, data.classes, chosen)
        print(f"{title}: {100 * accuracy(model, data.x_test, data.y_test):.1f} % of test images right", flush=True)
        wanted = 12 if chosen.steps >= 200 else 30 if title == "undefended" else 10
        rows += [row(title, name, seconds, results, chosen.steps, wanted) for name in seconds]
    what = f"{data.title}, eps {eps:g}, {len(x)} test points, {data.classes - 1} targets x {chosen.steps} steps, race in {'float32' if chosen.float32 else 'its own precision'}"
    report(f"maxconfidence-{chosen.steps}{'-float32' if chosen.float32 else ''}", {what: rows}, chosen)


if __name__ == "__main__":
    main()
