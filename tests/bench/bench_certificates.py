"""What certificates and interval training cost on a small convolutional network.

    python tests/bench/bench_certificates.py [--data mnist] [--images 10000] [--repeats 3] [--steps 20]

Prints tables and writes runs/bench/certificates.json. Wanted on two cores: all images by intervals in 5 seconds, a tenth of them by
linear bounds in 60; a step of interval training, at the full radius, at most three times a plain one (they take turns).
"""

import argparse

from common import clock, report, take_turns, timed

from confnb.borrowing import pick_device
from confnb.certificates import certify
from confnb.certified_losses import IntervalLoss
from confnb.data import load_data
from confnb.losses import CrossEntropyLoss
from confnb.models import build
from confnb.networks import load_model
from confnb.sets import Linf
from confnb.training import Recipe, fit


def certificates(model, data, n, eps, device):
    "Seconds of intervals for n images, and of linear bounds for a tenth of them"
    x, y = data.x_test[:n].to(device), data.y_test[:n].to(device)
    certify(model, x[:64], y[:64], eps, by="crown")
    rows = []
    for by, count, wanted in ("ibp", len(x), 5), ("crown-ibp", len(x) // 10, None), ("crown", len(x) // 10, 60):
        seconds, table = timed(lambda by=by, count=count: certify(model, x[:count], y[:count], eps, by=by, batch_size=256 if by == "ibp" else 64), device)
        rows.append({"by": by, "images": count, "seconds": seconds, "ms an image": 1e3 * seconds / count, "wanted": f"< {wanted} s" if wanted else "",
                     "mean bound": table.wrong_confidence_high.mean()})
    return rows


def training(data, repeats, steps, eps, device):
    "Seconds of a step of interval training at the full radius, of a plain one, and their ratio, at two sizes of a batch"
    rows, network = [], lambda: build("three_layer_cnn", data.shape, data.classes, filters=16).to(device)
    x, y = data.x_train[:1280].to(device), data.y_train[:1280].to(device)
    for size in (100, 256):
        losses = {"plain": CrossEntropyLoss(), "interval": IntervalLoss(Linf(eps), schedule=(0.0, 1e-9))}
        calls = {name: lambda loss=loss, size=size: fit(network(), x, y, loss, Recipe(steps=steps, batch_size=size)) for name, loss in losses.items()}
        seconds = take_turns(repeats, calls, device)
        ratios = [b / a for a, b in zip(seconds["plain"], seconds["interval"], strict=True)]
        rows.append({"batch": size, "plain, ms": 1e3 * clock(seconds["plain"]) / steps, "interval, ms": 1e3 * clock(seconds["interval"]) / steps, "ratio": clock(ratios),
                     "ratio of the fastest": min(seconds["interval"]) / min(seconds["plain"]), "wanted": "<= 3"})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--network", default="mnist/interval-linf.3", help="of the zoo, or `none` for one with random weights")
    parser.add_argument("--eps", type=float, default=0.3)
    chosen = parser.parse_args()
    device, data = pick_device(), load_data(chosen.data)
    random = lambda: build("three_layer_cnn", data.shape, data.classes, filters=16)  # noqa: E731
    model = random().to(device).eval() if chosen.network == "none" else load_model(chosen.network)
    parts = {f"Certificates on {data.title}, L-inf {chosen.eps:g}": certificates(model, data, chosen.images, chosen.eps, device),
             f"Training on {data.title}": training(data, chosen.repeats, chosen.steps, chosen.eps, device)}
    report("certificates", parts, chosen)


if __name__ == "__main__":
    main()
