"""What a PGD step costs beside the bare loop, and what memory the evaluation of 10,000 images takes.

    python tests/bench/bench_search.py [--data digits|mnist] [--repeats 9] [--steps 40]

Prints a table and writes runs/bench/search.json. Both loops take turns in one process; a ratio is the median over the turns
(beside it that of the fastest turns, which other work on the machine disturbs least).
"""

import argparse
import subprocess
import sys

import torch
from common import batch_of, clock, report, take_turns

from confnb.borrowing import pick_device
from confnb.data import load_data
from confnb.models import build
from confnb.objectives import CrossEntropy
from confnb.search import maximize
from confnb.sets import Linf

MEMORY = """
import resource, sys
from functools import partial
import torch
from confnb.attacks import pgd
from confnb.maxconfidence import max_confidence
from confnb.models import build
from confnb.tables import evaluate
from confnb.sets import Linf
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
attacks = {"pgd": partial(pgd, ball=Linf(.3), steps=1), "max_confidence": partial(max_confidence, ball=Linf(.3), steps=1)}
model = build("model_a", (1, 28, 28), 10, filters=int(sys.argv[3]))
x = torch.rand(int(sys.argv[2]), 1, 28, 28, generator=torch.Generator().manual_seed(0))
y = torch.arange(len(x)) % 10
before = peak()
evaluate(model, x, y, {sys.argv[1]: attacks[sys.argv[1]]})
print(before, peak())
"""


def bare(model, x, y, eps, size, steps):
    "The loop that anybody would write"
    z = x
    for _ in range(steps):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(z), y, reduction="sum"), z)
        z = torch.min(torch.max(z.detach() + size * gradient.sign(), x - eps), x + eps).clamp(0, 1)
    return z


def step_cost(data, repeats, steps):
    "Seconds of a whole call and of one more step, of the search and of the bare loop, and the median ratios"
    device = pick_device()
    x, y = batch_of(data, 128, device)
    model = build("model_a", x.shape[1:], data.classes, filters=32).to(device).eval().requires_grad_(False)
    eps, size = 0.2, 0.01
    search = lambda n: maximize(model, CrossEntropy(y), x, Linf(eps), n, size, start="here", keep="last")  # noqa: E731
    assert torch.allclose(search(3).x, bare(model, x, y, eps, size, 3), atol=1e-5)
    few = max(steps // 8, 1)
    seconds = take_turns(repeats, {
        "bare": lambda: bare(model, x, y, eps, size, steps), "search": lambda: search(steps),
        "best": lambda: maximize(model, CrossEntropy(y), x, Linf(eps), steps, size, start="here"),
        "bare few": lambda: bare(model, x, y, eps, size, few), "search few": lambda: search(few)}, device)
    one_more = {k: [(a - b) / (steps - few) for a, b in zip(seconds[k], seconds[f"{k} few"], strict=True)] for k in ("bare", "search")}
    per_step = {k: [s / steps for s in seconds[k]] for k in ("bare", "search", "best")}
    rows = []
    for what, ours, theirs in (("one step of a call of " + str(steps) + ", keep='last'", per_step["search"], per_step["bare"]),
                               ("one step of a call of " + str(steps) + ", keep='best'", per_step["best"], per_step["bare"]),
                               ("one more step, keep='last'", one_more["search"], one_more["bare"])):
        rows.append({"what": what, "search, ms": 1e3 * clock(ours), "bare loop, ms": 1e3 * clock(theirs),
                     "ratio": clock([a / b for a, b in zip(ours, theirs, strict=True)]), "ratio of the fastest": min(ours) / min(theirs), "wanted": "<= 1.05"})
    return rows


def memory(attack, n, filters):
    "The peak of resident memory, MiB, before and after n images were evaluated in a process of their own"
    run = subprocess.run([sys.executable, "-c", MEMORY, attack, str(n), str(filters)], capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    return {"what": f"{attack}, {n:,} images 28 x 28, Model A with {filters} filters", "peak before, MiB": before, "peak, MiB": after, "wanted": "< 2048"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=10000, help="evaluated for the peak of memory; 0 leaves that out")
    parser.add_argument("--filters", type=int, default=64, help="of the network whose memory is measured")
    chosen = parser.parse_args()
    data = load_data(chosen.data)
    parts = {f"A PGD step on {data.title}, Model A with 32 filters, batch 128": step_cost(data, chosen.repeats, chosen.steps)}
    if chosen.images:
        parts["Peak memory of an evaluation"] = [memory("pgd", chosen.images, chosen.filters), memory("max_confidence", max(chosen.images // 10, 1), chosen.filters)]
    report("search", parts, chosen)


if __name__ == "__main__":
    main()
