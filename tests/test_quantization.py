"""DoReFa's formulas on hand-computed tensors and against plain loops; layers and whole networks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from confnb.attacks import pgd
from confnb.losses import CrossEntropyLoss
from confnb.models import build, load_weights, save_weights
from confnb.networks import load_or_train
from confnb.quantization import (
    QuantConv2d,
    QuantLinear,
    quantize,
    quantize_activation,
    quantize_gradient,
    quantize_k,
    quantize_weight,
    quantized_network,
)
from confnb.runtime import generator, predict
from confnb.sets import Linf
from confnb.training import Recipe, fit

BITS = [*range(1, 9), 32]
numbers = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=12)


def grid(bits):
    return torch.arange(2**bits) / (2**bits - 1)


def on_grid(values, bits):
    return (values.double()[:, None] - grid(bits).double()).abs().amin(1).max() < 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# The three functions


@given(r=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), bits=st.integers(1, 8))
@settings(deadline=None)
def test_quantize_k_is_the_nearest_of_its_numbers(r, bits):
    r = torch.tensor(r)
    q = quantize_k(r, bits)
    assert on_grid(q, bits)
    assert ((q - r).abs() <= (r[:, None] - grid(bits)).abs().amin(1) + 1e-6).all()
    assert torch.equal(quantize_k(q, bits), q)


def test_hand_computed_values():
    torch.testing.assert_close(quantize_activation(torch.tensor([-1.0, 0.1, 0.2, 0.5, 0.9, 7.0]), 2), torch.tensor([0, 0, 1, 2, 3, 3]) / 3)
    torch.testing.assert_close(quantize_activation(torch.tensor([0.49, 0.51]), 1), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(quantize_weight(torch.tensor([[0.5, -1.0], [0.0, 2.5]]), 1), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    w = torch.tensor([1.0, -0.2, 0.6])  # tanh: .76159, -.19738, .53705; halved over the largest plus .5: 1, .37042, .85258
    torch.testing.assert_close(quantize_weight(w, 2), torch.tensor([1.0, -1 / 3, 1.0]))  # times 3: 3, 1.11, 2.56
    torch.testing.assert_close(quantize_weight(w, 3), torch.tensor([1.0, -1 / 7, 5 / 7]))  # times 7: 7, 2.59, 5.97


@given(w=numbers, bits=st.integers(2, 8))
@settings(deadline=None)
def test_weights_against_the_formula_in_a_loop(w, bits):
    top, n = max(abs(math.tanh(v)) for v in w) or 1.0, 2**bits - 1
    q = quantize_weight(torch.tensor(w, dtype=torch.float64), bits)
    for value, got in zip(w, q.tolist(), strict=True):
        exact = n * (math.tanh(value) / (2 * top) + 0.5)
        assert abs(got * n - (2 * round(exact) - n)) < 1e-6 or abs(exact % 1 - 0.5) < 1e-9  # a tie may go either way
    assert on_grid((q + 1) / 2, bits)


@given(w=numbers)
@settings(deadline=None)
def test_one_bit_takes_two_values_and_is_idempotent(w):
    w = torch.tensor(w)
    q = quantize_weight(w, 1)
    assert len(q.unique()) <= 2
    torch.testing.assert_close(q.abs(), w.abs().mean().expand_as(w))
    torch.testing.assert_close(quantize_weight(q, 1), q)


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_are_idempotent(bits):
    a = quantize_activation(3 * torch.rand(500, generator=generator(0)) - 1, bits)
    assert torch.equal(quantize_activation(a, bits), a) and len(a.unique()) == min(2**bits, len(a.unique())) and a.min() == 0 and a.max() == 1


@pytest.mark.parametrize("function", [quantize_k, quantize_weight, quantize_activation, quantize_gradient])
def test_32_bits_are_the_identity(function):
    x = torch.randn(4, 3)
    assert function(x, 32) is x


@pytest.mark.parametrize("function", [quantize_k, quantize_weight, quantize_activation, quantize_gradient])
@pytest.mark.parametrize("bits", [0, 9, 16, -1, 2.5])
def test_other_numbers_of_bits_are_refused(function, bits):
    with pytest.raises(ValueError, match="bits must be 1 to 8, or 32"):
        function(torch.rand(3, 2), bits)


def test_weights_of_zero_stay_finite():
    for bits in range(1, 9):
        assert quantize_weight(torch.zeros(4), bits).isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# The estimator's gradients


@pytest.mark.parametrize("bits", range(1, 9))
def test_activation_gradients_pass_inside_and_stop_outside(bits):
    a = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5], requires_grad=True)
    (g,) = torch.autograd.grad(quantize_activation(a, bits), a, torch.arange(1.0, 6.0))
    assert g.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_one_bit_weight_gradients_pass_as_they_are():
    w, g = torch.randn(7, requires_grad=True), torch.randn(7)
    assert torch.equal(torch.autograd.grad(quantize_weight(w, 1), w, g)[0], g)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weight_gradients_are_those_without_the_rounding(bits):
    w, g = torch.randn(9, dtype=torch.float64, requires_grad=True), torch.randn(9, dtype=torch.float64)
    smooth = 2 * (w.tanh() / (2 * w.tanh().abs().max()) + 0.5) - 1
    torch.testing.assert_close(*(torch.autograd.grad(f, w, g)[0] for f in (quantize_weight(w, bits), smooth)))


@pytest.mark.parametrize("bits", range(2, 9))
def test_with_the_largest_weight_a_constant_its_gradient_is_its_own(bits):
    w, g = torch.randn(9, dtype=torch.float64, requires_grad=True), torch.randn(9, dtype=torch.float64)
    top = w.detach().tanh().abs().max()
    found, through = (torch.autograd.grad(quantize_weight(w, bits, constant), w, g)[0] for constant in (True, False))
    torch.testing.assert_close(found, g * (1 - w.detach().tanh() ** 2) / top)
    differ = ~torch.isclose(found, through)
    assert differ.nonzero().flatten().tolist() == [w.detach().abs().argmax().item()]
    assert torch.equal(quantize_weight(w, bits, True), quantize_weight(w, bits))


def backward(g, bits, seed=0):
    x = torch.zeros_like(g, requires_grad=True)
    return torch.autograd.grad(quantize_gradient(x, bits, generator(seed)), x, g)[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_rounded_gradients_against_the_formula(bits):
    g = torch.randn(4, 3, 2, 2, generator=generator(1)) * torch.tensor([1.0, 0.01, 100.0, 0.0]).reshape(-1, 1, 1, 1)
    u, n = torch.rand(g.shape, generator=generator(5)).numpy(), 2**bits - 1
    expected = np.zeros(g.shape)
    for i in np.ndindex(*g.shape):
        m = g[i[0]].abs().max().item()
        if m:
            level = n * (g[i].item() / (2 * m) + 0.5 + (float(u[i]) - 0.5) / n)
            expected[i] = 2 * m * (min(max(round(level), 0), n) / n - 0.5)
    got = backward(g, bits, seed=5).numpy()
    close = np.isclose(got, expected, rtol=1e-4, atol=1e-6)
    assert close.mean() > 0.95 and (got[3] == 0).all()  # a level within rounding of a half may go either way
    levels = (got[0] / g[0].abs().max().item() + 1) / 2 * n
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_rounded_gradients_are_right_on_average(bits):
    g = torch.tensor([[-1.0, -0.6, 0.05, 0.3, 1.0]]).repeat(1, 20_000)
    mean = backward(g, bits).reshape(-1, 5).mean(0)
    torch.testing.assert_close(mean, g[0, :5], atol=0.03, rtol=0)


def test_gradient_noise_comes_from_the_generator():
    g = torch.randn(3, 50)
    state = torch.get_rng_state()
    assert torch.equal(backward(g, 2, 0), backward(g, 2, 0)) and not torch.equal(backward(g, 2, 0), backward(g, 2, 1))
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(quantize_gradient(x, 2), x)


# ---------------------------------------------------------------------------------------------------------------------
# Layers and networks


@pytest.mark.parametrize("w, a", [(1, 1), (1, 2), (3, 3), (32, 4), (5, 32), (32, 32)])
def test_layers_against_plain_ones(w, a):
    conv, linear = QuantConv2d(3, 4, 3, stride=2, padding=1, w=w, a=a), QuantLinear(5, 2, w=w, a=a)
    x, z = torch.rand(2, 3, 7, 7), torch.rand(2, 5)
    torch.testing.assert_close(conv(x), F.conv2d(quantize_activation(x, a), quantize_weight(conv.weight, w), conv.bias, 2, 1))
    torch.testing.assert_close(linear(z), F.linear(quantize_activation(z, a), quantize_weight(linear.weight, w), linear.bias))
    assert f"w={w}, a={a}, g=32" in repr(conv)


def test_gradients_are_rounded_in_training_only():
    layer, x = QuantLinear(6, 5, g=2), torch.rand(4, 6)

    def output_gradient(training):
        layer.train(training)
        out = layer(x.requires_grad_())
        return torch.autograd.grad(out, layer.bias, torch.randn(4, 5, generator=generator(0)))[0]

    assert not torch.equal(output_gradient(True), output_gradient(False))
    assert torch.equal(output_gradient(False), torch.randn(4, 5, generator=generator(0)).sum(0))


def test_attacks_do_not_see_the_gradient_bits_of_training():
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6)
    plain = build("three_layer_cnn", (1, 16, 16), 10, filters=4, batch_norm=True)
    few, full = (quantize(plain, 2, 2, g).train() for g in (1, 32))
    assert torch.equal(pgd(few, x, y, Linf(0.1), 5).x, pgd(full, x, y, Linf(0.1), 5).x) and few.training


def test_torchvisions_resnet_survives_with_its_state_dict(tmp_path):
    plain = torchvision.models.resnet18(num_classes=7).eval()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    low = quantize(plain, 1, 2, 6)
    low.load_state_dict(plain.state_dict())
    layers = [m for m in low.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert type(layers[0]) is nn.Conv2d and type(layers[-1]) is nn.Linear and len(layers) == 21
    assert all(type(m) is QuantConv2d and (m.w, m.a, m.g) == (1, 2, 6) for m in layers[1:-1])
    assert type(plain.layer1[0].conv1) is nn.Conv2d and all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(quantize(plain)(x), plain(x)) and not torch.allclose(low(x), plain(x))
    save_weights(low, tmp_path / "w.safetensors")
    again = load_weights(quantize(torchvision.models.resnet18(num_classes=7), 1, 2, 6), tmp_path / "w.safetensors").eval()
    assert torch.equal(predict(again, x), predict(low, x))


def test_first_and_last_only_when_asked_and_never_the_image():
    plain = build("madry_mnist", (1, 16, 16), 10)
    every = [m for m in quantize(plain, 1, 1, first_last=True).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [(m.w, m.a) for m in every] == [(1, 32), (1, 1), (1, 1), (1, 1)]
    again = quantize(quantize(plain, 1, 1), 3, 4)
    assert [(m.w, m.a) for m in again.modules() if isinstance(m, (QuantConv2d, QuantLinear))] == [(3, 4)] * 2


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))])
def test_nothing_to_quantise_is_refused(model):
    with pytest.raises(ValueError, match="none to quantise"):
        quantize(model, 1)


@pytest.mark.parametrize("bits", [dict(w=0), dict(a=9), dict(g=33)])
def test_bad_bits_of_networks_are_refused_by_name(bits):
    with pytest.raises(ValueError, match=f"{next(iter(bits))} must be 1 to 8, or 32"):
        quantize(build("three_layer_cnn", (1, 16, 16), 10, filters=2), **bits)


@pytest.mark.parametrize("name, settings, say", [
    ("resnet8", {}, "no architecture 'resnet8'; there are model_a, .*, resnet18"),
    (["model_a"], {}, "no architecture"),
    (None, {}, "no architecture None"),
    ("model_a", {"depth": 8}, "model_a has no setting depth; it has filters"),
])
def test_an_architecture_that_is_not_there_gets_the_list(name, settings, say):
    with pytest.raises(ValueError, match=say):
        quantized_network((1, 16, 16), 10, name, **settings)


def test_only_networks_are_quantised():
    with pytest.raises(TypeError, match="not str; quantized_network takes an architecture's name"):
        quantize("model_a")


@pytest.mark.parametrize("w, a, g", [(1, 1, 8), (1, 2, 6), (3, 3, 32), (2, 2, 1)])
def test_a_quantised_network_trains(w, a, g):
    y = torch.arange(90) % 3
    x = 0.3 * torch.rand(90, 1, 12, 12, generator=generator(0))
    for i, label in enumerate(y):
        x[i, :, :, 4 * label : 4 * label + 3] += 0.6
    net = build(quantized_network, (1, 12, 12), 3, architecture="three_layer_cnn", w=w, a=a, g=g, filters=8, batch_norm=True)
    before = {k: v.clone() for k, v in net.named_parameters()}
    losses = fit(net, x, y, CrossEntropyLoss(), Recipe(epochs=6, batch_size=15, rate=3e-3)).loss
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert all(not torch.equal(v, before[k]) for k, v in net.named_parameters() if k.endswith("weight"))


def test_trained_keeps_quantised_networks_apart(tmp_path, monkeypatch):
    from confnb.images import split

    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
    data = split((x, y), (x, y), "toy")
    nets = [load_or_train(quantized_network, data, recipe=Recipe(epochs=1), device="cpu", architecture="three_layer_cnn", w=w, filters=2) for w in (1, 2, 1)]
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == 2
    assert torch.equal(predict(nets[0], x), predict(nets[2], x)) and not torch.equal(predict(nets[0], x), predict(nets[1], x))


@pytest.mark.parametrize("bits", [{"a": 0}, {"w": 0}, {"g": 9}])
def test_bits_are_checked_where_no_layer_uses_them_too(bits):
    with pytest.raises(ValueError, match="must be 1 to 8, or 32"):
        quantize(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), first_last=True, **{"w": 2} | bits)
