"""Square beside torchattacks' at equal queries, and the memory that the evaluation of 50,000 large images takes.

    python tests/bench/bench_random_search.py [--points 100] [--queries 100 500] [--images 50000]

Prints tables and writes runs/bench/random_search.json. Both are called on the same test points with the same number of questions;
torchattacks stops an image at its first mistake, so beside `square`, which goes on, stands the same rule with `stop=0`. Wanted: right
on at most torchattacks' share and two points more, and seconds of the stopped search at most twice (a small network: our
questions also draw for each example by itself). Memory: below a gigabyte more than one batch of 64 takes.
"""

import argparse
import subprocess
import sys

import torchattacks
from common import batch_of, recipes, report, timed

from confnb.adapters import from_torchattacks
from confnb.borrowing import device_of
from confnb.data import load_data
from confnb.networks import load_or_train
from confnb.objectives import Margin, WrongConfidence
from confnb.random_search import SquareRule, square
from confnb.search import maximize
from confnb.sets import L2, Linf

MEMORY = """
import resource, sys, time
import torch
from confnb.images import OnDemand
from confnb.tables import evaluate

class Made:
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, rows): return torch.full((len(rows), 3, 224, 224), float(rows[0] % 7) / 7)

model = torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, 1000))
run = lambda n: evaluate(model, OnDemand(Made(n), torch.arange(n)), torch.arange(n) % 1000, batch_size=64)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
run(64)
before, start = peak(), time.perf_counter()
run(int(sys.argv[1]))
print(before, peak(), time.perf_counter() - start)
"""


def beside(title, model, x, y, ball, queries):
    "A line for each contestant"
    norm = type(ball).__name__
    theirs = from_torchattacks(torchattacks.Square, norm=norm, eps=float(ball.eps), n_queries=queries - 1)
    contestants = {
        "torchattacks": lambda: theirs(model, x, y),
        "square": lambda: square(model, x, y, ball, queries),
        "square, stopped at a mistake": lambda: maximize(model, Margin(y), x, ball, queries - 1, rule=SquareRule(), stop=0.0),
        "square, for confidence": lambda: square(model, x, y, ball, queries, objective=WrongConfidence(y)),
    }
    rows = []
    for name, call in contestants.items():
        seconds, found = timed(call, x.device)
        right, sure = (found.prediction == y).double().mean().item(), WrongConfidence(y)(found.logits).exp().mean().item()
        rows.append({"model": title, "set": f"{norm} {float(ball.eps):g}", "queries": queries, "attack": name, "right": right, "wrong confidence": sure,
                     "questions, mean": found.passes.double().mean().item(), "seconds": seconds, "times torchattacks": seconds / (rows[0]["seconds"] if rows else seconds)})
        rows[-1]["misses"] = "right" if right > rows[0]["right"] + 0.02 else "none"
    return rows


def memory(n):
    "The peak of resident memory, MiB, of one batch and of n images, in a process of its own"
    run = subprocess.run([sys.executable, "-c", MEMORY, str(n)], capture_output=True, text=True, check=True)
    before, after, seconds = map(float, run.stdout.split())
    return {"what": f"{n:,} images 3 x 224 x 224, 1,000 classes, batches of 64", "peak of one batch, MiB": before, "peak, MiB": after,
            "all of them, MiB": n * 3 * 224 * 224 * 4 / 2**20, "seconds": seconds, "wanted": "< one batch + 1024"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--images", type=int, default=50000, help="evaluated for the peak of memory; 0 leaves that out")
    chosen = parser.parse_args()
    data = load_data(chosen.data)
    _, network, plans = recipes(chosen.data)
    loss, recipe = plans["undefended"]
    model = load_or_train("model_a", data, loss, recipe, 0, "auto", **network).requires_grad_(False)
    x, y = batch_of(data, chosen.points, device_of(model), "test")
    rows = [row for ball in (Linf(0.1), L2(1.0)) for q in chosen.queries for row in beside("undefended", model, x, y, ball, q)]
    parts = {f"Square, {data.title}, {len(x)} test points": rows}
    if chosen.images:
        parts["Peak memory of an evaluation read on demand"] = [memory(chosen.images)]
    report("random_search", parts, chosen)


if __name__ == "__main__":
    main()
