"""The white-box C&W attack on many images at once against image by image, and the K-density of 10,000 vectors.

    python tests/bench/bench_rce.py [--data mnist|digits] [--points 100] [--single 4] [--rounds 3] [--steps 40]

Prints tables and writes runs/bench/rce.json. The attack is the same function with the same rounds and steps in both cases; one by
one it gets `--single` images, each in a call of its own, and the seconds of `--points` images are extrapolated from them. In the
rows "every step" no image leaves early, so that both cases run the same passes; "as it is" lets those leave that have converged.
K-density: 10,000 vectors of 64 values, each against the 1,000 training vectors of its class, in float64; wanted below 2 seconds.
"""

import argparse

import torch
from common import batch_of, clock, report, timed

from confnb import search as attacks
from confnb.borrowing import device_of
from confnb.data import load_data
from confnb.detector_attacks import cw_white_box
from confnb.detectors import KDensity, typical_density
from confnb.losses import CrossEntropyLoss, ReverseCrossEntropy
from confnb.models import features
from confnb.networks import load_or_train
from confnb.runtime import generator, predict
from confnb.training import Recipe, accuracy

PLANS = {"mnist": (Recipe(batch_size=64, optimizer="sgd", rate=0.1, weight_decay=2e-4, drops=(0.5, 0.75), steps=1700), [16, 16, 32, 64]),
         "digits": (Recipe(batch_size=32, optimizer="sgd", rate=0.1, weight_decay=2e-4, drops=(0.5, 0.75), steps=300), [8, 8, 16, 32])}


class Patient:
    "Makes the search for c wait for everybody: nobody leaves before the last step"

    def __enter__(self):
        self.own = attacks.maximize
        attacks.maximize = lambda *args, **settings: self.own(*args, **{**settings, "patience": 0})

    def __exit__(self, *_):
        attacks.maximize = self.own


def networks(data, name):
    recipe, widths = PLANS[name]
    losses = {"CE": (CrossEntropyLoss(), 1 / 0.26), "RCE": (ReverseCrossEntropy(), 0.1 / 0.26)}
    for title, (loss, sigma2) in losses.items():
        model = load_or_train("preact_resnet", data, loss, recipe, 0, "auto", depth=8, widths=widths)
        yield title, model.requires_grad_(False), sigma2


def attacker(model, data, sigma2, device):
    "100 kernel vectors of each class, and eta from other training vectors"
    vectors, labels = features(model, data.x_train[:3000].to(device)), data.y_train[:3000].to(device)
    half = len(vectors) // 2
    density = KDensity(vectors[:half], labels[:half], sigma2, per_class=100)
    return density, typical_density(density, vectors[half:], labels[half:])


def versus(title, model, sigma2, data, chosen):
    "Seconds of all images in one batch, and of the same number one by one"
    device = device_of(model)
    x, y = batch_of(data, chosen.points, device, "test")
    density, eta = attacker(model, data, sigma2, device)
    attack = lambda a, b: cw_white_box(model, a, b, density, eta, rounds=chosen.rounds, steps=chosen.steps, step_size=0.1, autocast="auto")  # noqa: E731
    attack(x[:2], y[:2])
    every = torch.linspace(0, len(x) - 1, chosen.single).long().tolist()

    def line(how):
        together, found = timed(lambda: attack(x, y), device)
        alone = [timed(lambda i=i: attack(x[i : i + 1], y[i : i + 1]), device) for i in every]
        seconds = sum(s for s, _ in alone) / len(alone) * len(x)
        return {"model": title, "how": how, "images": len(x), "one batch, s": together, f"one by one, s (from {len(alone)})": seconds, "times": seconds / together,
                "passes each": found.passes.double().mean().item(), "passes one by one": sum(f.passes.item() for _, f in alone) / len(alone),
                "misses": "none" if seconds / together >= 50 else "50 times"}

    rows = [line("as it is")]
    with Patient():
        rows.append(line("every step"))
    return rows


def densities(repeats=3):
    "Seconds of 10,000 log-densities"
    vectors, labels = torch.randn(10_000, 64, generator=generator(0)), torch.arange(10_000) % 10
    z = torch.randn(10_000, 64, generator=generator(1))
    density = KDensity(vectors, labels, 1 / 0.26)
    spent = clock([timed(lambda: density(z, labels), torch.device("cpu"))[0] for _ in range(repeats)])
    return [{"vectors": len(z), "training vectors": "10 x 1,000", "values": 64, "seconds": spent, "misses": "none" if spent < 2 else "2 s"}]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", choices=PLANS)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--single", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    chosen = parser.parse_args()
    data, rows = load_data(chosen.data), []
    for title, model, sigma2 in networks(data, chosen.data):
        right = accuracy(model, data.x_test[:1000], data.y_test[:1000])
        print(f"{title}: {100 * right:.1f} % of 1,000 test images right, first answer {predict(model, data.x_test[:1]).argmax(1).item()}", flush=True)
        rows += versus(title, model, sigma2, data, chosen)
        print(rows[-2:], flush=True)
    report("rce", {f"C&W-wb, {data.title}, {chosen.rounds} rounds of {chosen.steps} steps after as many of C&W": rows, "K-density": densities()}, chosen)


if __name__ == "__main__":
    main()
