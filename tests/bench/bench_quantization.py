"""A training step of a quantised ResNet-18 beside the plain one, and the sweep of constant offsets.

    python tests/bench/bench_quantization.py [--batch 64] [--side 32] [--width 64] [--repeats 5] [--images 10000] [--offsets 100] [--filters 16]

Prints two tables and writes runs/bench/quantization.json. The steps (forward, backward, SGD with momentum) are taken in turns on the
same random images; wanted is at most 1.6 times the plain step for every (W, A, G). The sweep shifts MNIST's test images by constants and
runs a three-layer network on all of them; wanted are less than 30 seconds on two cores for 100 offsets of 10,000 images.
"""

import argparse

import torch
from common import clock, report, take_turns, timed

from confnb.attacks import offset_logits
from confnb.borrowing import pick_device
from confnb.data import load_data
from confnb.models import build
from confnb.quantization import quantize

SETTINGS = [(32, 32, 32), (3, 3, 32), (3, 3, 6), (1, 2, 6), (1, 1, 32)]


def step_of(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def training_steps(chosen, device):
    "A line for each setting: the median seconds of a step, and how many times the plain one that is"
    x, y = torch.rand(chosen.batch, 3, chosen.side, chosen.side, device=device), torch.arange(chosen.batch, device=device) % 10
    plain = build("resnet18", x.shape[1:], 10, width=chosen.width).to(device)
    calls = {"plain": step_of(plain.train(), x, y)} | {", ".join(map(str, s)): step_of(quantize(plain, *s).train(), x, y) for s in SETTINGS}
    seconds = {name: clock(s) for name, s in take_turns(chosen.repeats, calls, device).items()}
    return [{"W, A, G": name, "seconds": s, "times plain": s / seconds["plain"], "misses": "none" if s <= 1.6 * seconds["plain"] else "1.6"}
            for name, s in seconds.items()]


def sweep(chosen, device):
    "A line: the seconds that the whole sweep takes"
    data = load_data("mnist", test=chosen.images)
    model = build("three_layer_cnn", data.shape, data.classes, filters=chosen.filters).to(device)
    seconds, _ = timed(lambda: offset_logits(model, data.x_test, torch.linspace(-1, 1, chosen.offsets)), device)
    return [{"images": chosen.images, "offsets": chosen.offsets, "filters": chosen.filters, "seconds": seconds, "misses": "none" if seconds < 30 else "30 s"}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"batch": 64, "side": 32, "width": 64, "repeats": 5, "images": 10_000, "offsets": 100, "filters": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen, device = parser.parse_args(), pick_device()
    report("quantization", {"Training steps of ResNet-18": training_steps(chosen, device), "Constant offsets on MNIST": sweep(chosen, device)}, chosen)
