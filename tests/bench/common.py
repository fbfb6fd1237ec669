"""What the benchmarks share: turns, medians, and one way to report."""

import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from confnb.borrowing import fast_dtype
from confnb.losses import Adversarial, CrossEntropyLoss, SmoothingPairing
from confnb.sets import Linf
from confnb.training import Recipe

RUNS = Path(__file__).resolve().parents[2] / "runs" / "bench"
clock = statistics.median


def timed(call, device):
    "The seconds that a call takes, and what it gives"
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def take_turns(repeats, calls, device):
    "The seconds of each call, by name, in `repeats` rounds of all of them after one round that does not count"
    seconds = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name in list(calls) if turn % 2 else reversed(calls):
            spent, _ = timed(calls[name], device)
            if turn:
                seconds[name].append(spent)
    return seconds


def batch_of(data, n, device, part="val"):
    x, y = (data.x_val, data.y_val) if part == "val" else (data.x_test, data.y_test)
    return x[:n].to(device), y[:n].to(device)


def recipes(name):
    "The radius, the architecture's settings, and each model's loss and recipe: those of the MaxConfidence topic's profiles"
    if name == "digits":
        return 0.2, {"filters": 16}, {
            "undefended": (CrossEntropyLoss(), Recipe(epochs=12, batch_size=32)),
            "regularised": (SmoothingPairing(), Recipe(epochs=20, batch_size=32)),
            "PGD-trained": (Adversarial(Linf(0.2), 5, ramp=0.4), Recipe(epochs=20, batch_size=32, rate=0.002))}
    return 0.3, {"filters": 32}, {
        "undefended": (CrossEntropyLoss(), Recipe(epochs=2)),
        "regularised": (SmoothingPairing(), Recipe(epochs=4)),
        "PGD-trained": (Adversarial(Linf(0.3), 7, ramp=0.4), Recipe(epochs=4, rate=0.002))}


def cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def markdown(rows):
    columns = list(dict.fromkeys(c for row in rows for c in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(c)) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(name, parts, chosen):
    "Prints each part as a table and writes all of it to runs/bench/NAME.json"
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version(), "cpu": platform.processor() or platform.machine(),
             "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "climbs in": str(fast_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu")) or torch.float32), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
             **vars(chosen)}
    for title, rows in parts.items():
        print(f"\n{title}\n\n{markdown(rows)}")
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / f"{name}.json").write_text(json.dumps({"about": about, "parts": parts}, indent=1))
    print(f"\n{json.dumps(about)}\nwritten to runs/bench/{name}.json")
