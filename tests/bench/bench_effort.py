"""What the efforts of `max_confidence` reach beside APGD towards every wrong class; what many classes cost; what a large run costs.

    python tests/bench/bench_effort.py [--data mnist|digits|npz:PATH] [--points 100] [--parts strength,classes,scale] [--images 10000]

Prints tables and writes runs/bench/effort.json. Strength: APGD on the cross-entropy towards each wrong class, 100 steps each, by
AutoAttack's own code where `pyautoattack` is installed (pip install pyautoattack), else by `confnb.attacks.apgd`; the line says which.
Its points are scored by confnb and the best target counts. All climb in float32, on the same test points, one after the other in one
process. On a CPU seconds are those that the process spent computing, which other work on the machine disturbs least.
Classes: networks trained here on one, two and three MNIST digits side by side, each pooled to 14 x 14 (10, 100, 1,000 classes),
against the same race over all targets with the same seed.
Wanted: see each line.
"""

import argparse
import subprocess
import sys
import time
from functools import partial

import torch
from bench_maxconfidence import exhaustive
from common import batch_of, recipes, report
from torch import nn

from confnb import halving, maxconfidence
from confnb.attacks import apgd
from confnb.borrowing import device_of
from confnb.data import load_data
from confnb.losses import Adversarial, CrossEntropyLoss
from confnb.maxconfidence import max_confidence
from confnb.models import seeded
from confnb.networks import load_model, load_or_train
from confnb.sets import Linf
from confnb.training import Recipe, fit

try:
    from pyautoattack.autopgd_base import APGDAttack
except ImportError:
    APGDAttack = None

THRESHOLDS, SHORT, STEPS = (0.5, 0.7, 0.9, 0.99), 0.01, 100
WANTED = {"quick": (None, None), "standard": (0.002, 10), "thorough": (1e-4, 4)}  # mean shortfall (a mistake of which the model is 1 - 1e-4 sure is not raised any more), times faster


def spent(call, device):
    "Seconds computed (on the clock where a GPU does it), and the result"
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, result


def towards_each(model, x, y, eps, classes):
    "APGD's best points over all targets, scored"
    if APGDAttack is None:
        run = lambda z, label, target: apgd(model, z, label, Linf(eps), STEPS, target=target).x  # noqa: E731
        return exhaustive(run, model, x, y, Linf(eps), classes)
    attack = APGDAttack(model, n_iter=STEPS, norm="Linf", eps=eps, loss="ce-targeted-cfts", device=device_of(model), seed=0)

    def run(z, label, target):
        attack.init_hyperparam(z)
        return attack.attack_single_run(z, target)[0]

    with seeded(0, x.device):
        return exhaustive(run, model, x, y, Linf(eps), classes)


def strength(title, model, x, y, eps, classes):
    "A line for APGD and for each effort"
    model.requires_grad_(False)
    peer = "pyautoattack's APGD" if APGDAttack else "confnb's apgd"
    first, best = spent(lambda: towards_each(model, x, y, eps, classes), x.device)
    rates = lambda f: [(f.wrong_confidence > t).double().mean().item() for t in THRESHOLDS]  # noqa: E731
    named = lambda f: {f"failure at {t:g}": r for t, r in zip(THRESHOLDS, rates(f), strict=True)}  # noqa: E731
    rows = [{"network": title, "attack": f"{peer}, {classes - 1} x {STEPS}", "passes": (classes - 1) * STEPS, "seconds": first, "mean": best.wrong_confidence.mean().item(), **named(best)}]
    for effort, (most, faster) in WANTED.items():
        seconds, found = spent(partial(max_confidence, model, x, y, Linf(eps), effort=effort, autocast=None), x.device)
        lack, ratio = best.wrong_confidence - found.wrong_confidence, first / seconds
        misses = []
        if most is not None:
            misses = [*(["shortfall"] if lack.mean() > most else []), *([f"{ratio:.1f} < {faster} times"] if ratio < faster else [])]
        if effort == "thorough":
            misses += [f"failure at {t:g}" for t, a, b in zip(THRESHOLDS, rates(found), rates(best), strict=True) if a < b]
        rows.append({"network": title, "attack": effort, "passes": found.passes.double().mean().item(), "seconds": seconds, "mean": found.wrong_confidence.mean().item(), **named(found),
                     "times faster": ratio, "mean shortfall": lack.mean().item(), f"short by > {SHORT:g}": (lack > SHORT).double().mean().item(), "misses": ", ".join(misses) or "none"})
        print(rows[-1], flush=True)
    return rows


def side_by_side(x, y, digits, n, seed):
    "n images of several digits side by side, each 14 x 14, labelled by the number that they write"
    at = torch.randint(len(x), (n, digits), generator=torch.Generator().manual_seed(seed))
    small = nn.functional.avg_pool2d(x, 2)
    return torch.cat([small[at[:, j]] for j in range(digits)], 3), sum(y[at[:, j]] * 10 ** (digits - 1 - j) for j in range(digits))


def convolutional(digits):
    with seeded(0):
        return nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96 * (14 * digits // 4), 128), nn.ReLU(), nn.Linear(128, 10**digits))


def classes(data, points):
    "Lines for 10, 100 and 1,000 classes: passes, and what is lost against the same race over all targets"
    rows, passes = [], {}
    for digits, n, epochs in (1, 24000, 3), (2, 40000, 4), (3, 60000, 6):
        for kind, loss in {"PGD-trained": Adversarial(Linf(0.1), 2, ramp=0.4), "undefended": CrossEntropyLoss()}.items():
            model = convolutional(digits)
            fit(model, *side_by_side(data.x_train, data.y_train, digits, n, 0), loss, Recipe(epochs=epochs, rate=2e-3))
            rows.append(few_targets(kind, model.eval(), *side_by_side(data.x_test, data.y_test, digits, points, 100), digits))
            passes.setdefault(kind, rows[-1]["passes"])
            rows[-1] |= {"times those of 10 classes": rows[-1]["passes"] / passes[kind], "wanted": "at most 1.5 and 2 times, shortfall at most .001"}
            print(rows[-1], flush=True)
    return rows


def few_targets(kind, model, x, y, digits):
    "Passes, and the shortfall against all targets, of which a few points are enough where there are a thousand"
    model, few = model.requires_grad_(False), slice(len(x) if digits < 3 else max(len(x) // 5, 1))
    found, likely = max_confidence(model, x, y, Linf(0.1)), halving.LIKELY
    halving.LIKELY = maxconfidence.LIKELY = 10**digits
    try:
        every = max_confidence(model, x[few], y[few], Linf(0.1), seed=0)
    finally:
        halving.LIKELY = maxconfidence.LIKELY = likely
    lack = every.wrong_confidence - found.wrong_confidence[few]
    return {"classes": 10**digits, "network": kind, "passes": found.passes.double().mean().item(), "passes, all targets": every.passes.double().mean().item(),
            "mean": found.wrong_confidence.mean().item(), "mean shortfall": lack.mean().item(), f"short by > {SHORT:g}": (lack > SHORT).double().mean().item()}


LARGE = """
import resource, sys, time, torch
from confnb.data import load_data
from confnb.maxconfidence import max_confidence
from confnb.networks import load_model
from confnb.sets import Linf
torch.set_num_threads(1)
first, last = int(sys.argv[1]), int(sys.argv[2])
data, model = load_data("mnist", parts=("test",)), load_model("mnist/pgd-linf.3", "cpu")
start, spent = time.perf_counter(), time.process_time()
found = max_confidence(model, data.x_test[first:last], data.y_test[first:last], Linf(.3))
spent, memory = time.process_time() - spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(time.perf_counter() - start, spent, memory, found.passes.double().mean().item(), (found.wrong_confidence > .9).double().mean().item())
"""


def matrix_rate(seconds=2.0):
    "Floating-point operations a second of a large matrix multiplication in float32"
    a, count, start = torch.rand(1024, 1024), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return 2 * 1024**3 * count / (time.perf_counter() - start)


def operations(model):
    "Of a forward pass on one image; back to the image costs as much again"
    total, hooks = [0], []
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            hooks.append(m.register_forward_hook(lambda m, i, o: total.__setitem__(0, total[0] + 2 * o[0].numel() * m.weight[0].numel())))
    model(torch.rand(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return total[0]


def large(n, pair=300):
    "Images a second, memory and share of the multiplication rate of a large run; and two processes beside one, with `pair` images each"
    def start(first, last):
        return subprocess.Popen([sys.executable, "-c", LARGE, str(first), str(last)], stdout=subprocess.PIPE, text=True)

    def done(run):
        return [float(v) for v in run.communicate()[0].split()]

    torch.set_num_threads(1)
    rate = matrix_rate()
    alone = done(start(0, pair))[0] + done(start(pair, 2 * pair))[0]
    runs = [start(0, pair), start(pair, 2 * pair)]
    together = max(done(run)[0] for run in runs)
    seconds, spent, memory, passes, failure = done(start(0, n))
    share = n / spent * passes * 2 * operations(load_model("mnist/pgd-linf.3", "cpu")) / rate
    return [{"images": n, "passes": passes, "hours": seconds / 3600, "images a second computed, one thread": n / spent, "peak memory, MiB": memory,
             "share of the matrix-multiply rate": share, "failure at .9": failure, "two processes": alone / together, "wanted": "memory < 2048, two processes >= 1.7"}]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--images", type=int, default=10000, help="of the large run")
    parser.add_argument("--parts", default="strength,classes,scale")
    chosen = parser.parse_args()
    parts, wanted = {}, chosen.parts.split(",")
    if "strength" in wanted:
        data = load_data(chosen.data)
        rows = []
        eps, network, plans = recipes(chosen.data)
        for title, (loss, recipe) in plans.items():
            model = load_or_train("model_a", data, loss, recipe, 0, "auto", **network)
            rows += strength(title, model, *batch_of(data, chosen.points, device_of(model), "test"), eps, data.classes)
        parts[f"{data.title}, eps {eps:g}, {chosen.points} test points"] = rows
    if "classes" in wanted:
        parts[f"Digits side by side, eps .1, {chosen.points} test points"] = classes(load_data("mnist"), chosen.points)
    if "scale" in wanted:
        parts["A large run, MNIST test images, Model A as it ships (mnist/pgd-linf.3), eps .3"] = large(chosen.images)
    report("effort", parts, chosen)


if __name__ == "__main__":
    main()
