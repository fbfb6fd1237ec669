"""What `mine` and `script` build on, in a file of its own; the tests run copies of the three, some of them edited."""

import functools

from torch import nn

FACTOR = 2.0
OFFSET = 0.25


def stretch(x):
    """Images, brighter."""
    return x * FACTOR


def shift(x):
    """Images, a little brighter."""
    return x + 0.125  # no more than that


def doubled(module, inputs, output):
    """What a hook gives."""
    return output * 2.5


def times(k):
    """A decorator of `forward`."""

    def wrap(f):
        @functools.wraps(f)
        def inside(self, x):
            return f(self, x) * k + 0.5

        return inside

    return wrap


class Base(nn.Module):
    """A model with one number."""

    def factor(self):
        return 1.75
