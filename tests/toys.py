"""Small models and images that several test files share."""

import numpy as np
import pytest
import torch
from torch import nn

from confnb.models import seeded
from confnb.runtime import generator


def linear(classes, pixels=9, scale=1.0, seed=0, dtype=torch.float32):
    "A random linear softmax model, its weights (K, D) and biases (K,) as arrays"
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).to(dtype)
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(scale * rng.normal(size=(classes, pixels))))
        model[1].bias.copy_(torch.from_numpy(rng.normal(size=classes)))
    return model, model[1].weight.detach().double().numpy(), model[1].bias.detach().double().numpy()


def images(n=6, side=3, seed=0, dtype=torch.float32):
    return torch.rand(n, 1, side, side, generator=generator(seed), dtype=dtype)


def network(classes=4, side=3, seed=0):
    "A random network on 1 x side x side images"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 12), nn.ReLU(), nn.Linear(12, classes))


SOAK = [pytest.mark.slow, pytest.mark.soak]


def turns(first, second, of):
    "Pairs of two lists: of those of each, one of every `of` in turn, so that all of both lists is met; the other pairs are soak tests"
    flat = lambda thing: thing if isinstance(thing, tuple) else (thing,)  # noqa: E731
    return [pytest.param(*flat(a), *flat(b), marks=SOAK * ((i + j) % of > 0)) for i, a in enumerate(first) for j, b in enumerate(second)]


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])  # of six images


def curved(seed=0, shape=(1, 5, 5), classes=4, gain=3.0):
    "A random curved network on images of any shape, in double precision"
    with seeded(seed):
        model = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * shape[1] * shape[2], classes))
    for p in model.parameters():
        p.data *= gain
    return model.double().eval()


def softmax(logits):
    "That of rows of numbers, by NumPy in double precision"
    logits = np.asarray(logits, float)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


class _Backwards(torch.autograd.Function):
    "The identity, with another gradient"

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient), None


def backwards(x, change):
    "x itself, whose gradient is changed on its way back"
    return _Backwards.apply(x, change)


class Edges(nn.Module):
    "Sobel magnitudes sqrt(gx^2 + gy^2) of grey images, whose gradient is NaN wherever the image is flat"

    def __init__(self):
        super().__init__()
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.register_buffer("kernels", torch.stack([sobel, sobel.T])[:, None])

    def forward(self, x):
        return (nn.functional.conv2d(x, self.kernels, padding=1) ** 2).sum(1, keepdim=True).sqrt()


# what a model may do to its images before it looks at them
IN_PLACE = {"normalises": lambda x: x.sub_(0.5).div_(0.25), "rectifies": nn.ReLU(inplace=True), "zeroes": lambda x: x.detach().zero_()}
