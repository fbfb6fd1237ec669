"""Small models and images that several test files share."""

import numpy as np
import torch
from torch import nn

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
