import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from confnb.architectures import (
    Normalize,
    PerImageStandardize,
    madry_mnist,
    model_a,
    preact_resnet,
    wide_resnet,
)
from confnb.models import (
    ARCHITECTURES,
    build,
    features,
    load_weights,
    logits_and_features,
    outputs,
    save_weights,
    seeded,
)
from confnb.runtime import predict

SMALL = {"model_a": dict(filters=4), "madry_mnist": {}, "preact_resnet": dict(depth=8), "wide_resnet": dict(units=1, widths=(4, 8, 8, 12)),
         "three_layer_cnn": dict(filters=4), "resnet18": dict(width=4)}


def test_normalize_with_a_number_and_per_channel():
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize(.5, .5)(x), 2 * x - 1)
    torch.testing.assert_close(Normalize((.1, .2, .3), .5)(x)[:, 1], (x[:, 1] - .2) / .5)
    with pytest.raises(ValueError, match="std must be positive"):
        Normalize(0., (1., 0.))


def test_per_image_standardisation_is_tensorflows_and_never_nan():
    x = torch.rand(4, 3, 5, 6)
    x[0] = .3
    x[1] = .3 + 1e-4 * torch.rand(3, 5, 6)
    got = PerImageStandardize()(x.requires_grad_())
    for image, z in zip(x.detach().numpy().astype(np.float64), got.detach().numpy(), strict=True):
        np.testing.assert_allclose(z, (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size)), atol=1e-5)
    got.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (2, 17, 21)])
def test_every_architecture_takes_its_sizes_from_the_data(name, shape):
    model = build(name, shape, 7, **SMALL[name])
    x = torch.rand(3, *shape)
    assert predict(model, x).shape == (3, 7) and features(model, x).shape == (3, model[-1].in_features)


def test_model_a_is_the_papers():
    model = model_a((1, 28, 28), 10)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in convs] == [
        (1, 64, (3, 3), (2, 2)), (64, 64, (3, 3), (1, 1)), (64, 64, (3, 3), (1, 1)), (64, 128, (3, 3), (2, 2)), (128, 128, (3, 3), (1, 1))]
    assert model[-1].in_features == 5 * 5 * 128 and not any("Norm" in type(m).__name__ for m in model.modules() if type(m) is not Normalize)
    x = torch.rand(2, 1, 28, 28)
    c, h = convs, (2 * x - 1)
    h = F.relu(F.conv2d(h, c[0].weight, c[0].bias, 2, 1))
    h = h + F.conv2d(F.relu(F.conv2d(h, c[1].weight, c[1].bias, 1, 1)), c[2].weight, c[2].bias, 1, 1)
    h = F.relu(F.conv2d(F.relu(F.conv2d(h, c[3].weight, c[3].bias, 2, 1)), c[4].weight, c[4].bias))
    torch.testing.assert_close(model(x), F.linear(h.flatten(1), model[-1].weight, model[-1].bias))


def test_madry_mnist_is_the_challenges():
    model = madry_mnist((1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == 25 * 32 + 32 + 25 * 32 * 64 + 64 + 3136 * 1024 + 1024 + 10240 + 10


@pytest.mark.parametrize("depth", [8, 32, 56])
def test_preact_resnet_has_the_depth_that_was_asked_for(depth):
    model = preact_resnet((3, 32, 32), 10, depth)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == depth
    assert model[-1].in_features == 64 and all(m.eps == 1e-3 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(model[0](torch.tensor([[[[0., 1.]]]])), torch.tensor([[[[-.5, .5]]]]))


def test_the_residual_unit_against_plain_functions():
    model = preact_resnet((3, 8, 8), 10, 8, (4, 4, 7, 7)).eval()
    first, second = (m for m in list(model)[2:4])
    bn = lambda m, x: F.leaky_relu(F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=1e-3), .1)  # noqa: E731
    x = torch.randn(2, 4, 8, 8)
    a = bn(first.activate[0], x)
    expected = a + F.conv2d(bn(first.branch[1], F.conv2d(a, first.branch[0].weight, padding=1)), first.branch[3].weight, padding=1)
    torch.testing.assert_close(first(x), expected)
    shortcut = torch.zeros(2, 7, 4, 4)
    shortcut[:, 1:5] = F.avg_pool2d(x, 2)
    b = second.branch
    branch = F.conv2d(bn(b[1], F.conv2d(bn(second.activate[0], x), b[0].weight, stride=2, padding=1)), b[3].weight, padding=1)
    torch.testing.assert_close(second(x), shortcut + branch)


def test_wide_resnet_has_the_challenges_size():
    with torch.device("meta"):
        model = wide_resnet((3, 32, 32), 10)
    assert 45.8e6 < sum(p.numel() for p in model.parameters()) < 46.0e6 and model[-1].in_features == 640


def test_the_three_layer_network_is_table_2():
    model = build("three_layer_cnn", (3, 32, 32), 10)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in convs] == [
        (3, 64, (8, 8), (2, 2)), (64, 128, (6, 6), (2, 2)), (128, 128, (5, 5), (1, 1))]
    x, (a, b, c) = torch.rand(2, 3, 32, 32), convs
    h = F.relu(F.conv2d(x, a.weight, a.bias, 2, 3))
    assert h.shape[2:] == (16, 16)  # SAME
    h = F.relu(F.conv2d(F.relu(F.conv2d(h, b.weight, b.bias, 2)), c.weight, c.bias))
    torch.testing.assert_close(model(x), F.linear(h.flatten(1), model[-1].weight, model[-1].bias))
    low = build("three_layer_cnn", (3, 32, 32), 10, batch_norm=True, standardize=True)
    assert isinstance(low[0], PerImageStandardize) and sum(isinstance(m, nn.BatchNorm2d) for m in low) == 3
    printed = build("three_layer_cnn", (3, 32, 32), 10, stride=1)
    assert [m.stride[0] for m in printed if isinstance(m, nn.Conv2d)] == [2, 1, 1] and printed[-1].in_features == 7 * 7 * 128
    sizes = [sum(p.numel() for p in m.parameters()) for m in (printed, model)]
    assert sizes == [779_850, 722_250]  # 1.70 and 1.57 % of the wide ResNet


@pytest.mark.parametrize("side", [32, 64])
def test_resnet18_is_torchvisions(side):
    from torchvision.models import resnet18

    ours, theirs = build("resnet18", (3, side, side), 10).eval(), resnet18(num_classes=10).eval()
    if side < 64:
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), list(ours.state_dict().values())[2:], strict=True)))  # after the normalisation's two
    x = torch.rand(2, 3, side, side)
    torch.testing.assert_close(ours(x), theirs((x - 0.5) / 0.25))


def test_a_network_of_ones_own_is_built_from_the_seed():
    def own(shape, classes, hidden=4):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], hidden), nn.Linear(hidden, classes))

    a, b, c = (build(own, (1, 3, 3), 2, seed=s, hidden=5)[1].weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == (5, 9)


@pytest.mark.parametrize("wrong, say", [
    (dict(name="three_layer_cnn", shape=(1, 5, 5), classes=10), "at least 6 x 6"),
    (dict(name="three_layer_cnn", shape=(1, 16, 16), classes=10, stride=3), "stride 1 or 2"),
    (dict(name="resnet18", shape=(1, 7, 9), classes=10), "at least 8 x 8"),
    (dict(name="model_b", shape=(1, 16, 16), classes=10), "there is no architecture 'model_b'; there are model_a, madry_mnist, preact_resnet, wide"),
    (dict(name="model_a", shape=(1, 16, 16), classes=10, filtres=3), "model_a has no setting filtres; it has filters"),
    (dict(name="madry_mnist", shape=(1, 16, 16), classes=10, filters=3), "it has none"),
    (dict(name="model_a", shape=(1, 8, 8), classes=10), "at least 9 x 9 pixels, not 8 x 8; enlarge"),
    (dict(name="model_a", shape=(16, 16), classes=10), r"shape must be \(channels, height, width\)"),
    (dict(name="model_a", shape=(1, 16, 16), classes=1), "at least 2 classes"),
    (dict(name="preact_resnet", shape=(1, 16, 16), classes=10, depth=18), "depth must be 6 n . 2"),
    (dict(name="preact_resnet", shape=(1, 16, 16), classes=10, depth=2), "depth must be"),
    (dict(name="wide_resnet", shape=(1, 16, 16), classes=10, widths=(16, 8)), "widths that do not shrink"),
    (dict(name="wide_resnet", shape=(1, 2, 2), classes=10), "at least 4 x 4"),
])
def test_bad_settings_get_a_sentence(wrong, say):
    with pytest.raises(ValueError, match=say):
        build(**wrong)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initial_weights_come_from_the_seed_alone(name):
    state = torch.get_rng_state()
    a = build(name, (1, 16, 16), 3, seed=5, **SMALL[name]).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    b, c = (build(name, (1, 16, 16), 3, seed=s, **SMALL[name]).state_dict() for s in (5, 6))
    assert all(torch.equal(a[k], b[k]) for k in a) and any(not torch.equal(a[k], c[k]) for k in a)


def test_seeded_puts_the_generator_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [np.int64(5), 5 + 2**64, 5 - 2**64])
def test_seeds_are_whole_numbers_modulo_2_to_the_64(seed):
    a, b = (build("model_a", (1, 16, 16), 3, seed=s, filters=2).state_dict() for s in (5, seed))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("seed", [1.5, None, "0", True])
def test_a_seed_that_cannot_be_is_refused_in_words(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        build("model_a", (1, 16, 16), 3, seed=seed, filters=2)


class Static(nn.Module):
    "A model whose hidden vectors and answers lie in the same memory each time"

    def __init__(self):
        super().__init__()
        self.net = build("model_a", (1, 16, 16), 4, filters=2).requires_grad_(False)
        self.hidden, self.memory = torch.empty(2, 64), torch.empty(2, 4)

    def forward(self, x):
        self.hidden[: len(x)] = self.net[:-1](x)
        self.memory[: len(x)] = self.net[-1](self.hidden[: len(x)])
        return self.memory[: len(x)]


def test_answers_in_memory_that_is_used_again_are_copied():
    model, x = Static(), torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model.hidden = torch.empty(2, model.net[-1].in_features)
    for got, expected in zip(outputs(model, x, batch_size=2), outputs(model.net, x, batch_size=2), strict=True):
        assert torch.equal(got, expected)


@given(n=st.integers(1, 9), batch=st.integers(1, 10))
@settings(max_examples=15, deadline=None)
def test_features_are_what_the_last_linear_layer_sees(n, batch):
    model = build("preact_resnet", (1, 8, 8), 4, depth=8).train()
    x = torch.rand(n, 1, 8, 8)
    logits, hidden = outputs(model, x, batch_size=batch)
    torch.testing.assert_close(hidden, copy.deepcopy(model).eval()[:-1](x).detach())
    torch.testing.assert_close(logits, model[-1](hidden).detach())
    assert torch.equal(features(model, x, batch), hidden) and not logits.requires_grad


def test_features_leave_the_model_as_it_was():
    model = build("preact_resnet", (1, 8, 8), 4, depth=8).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    features(model, torch.rand(3, 1, 8, 8))
    assert model.training and not model[2].training and model[3].training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


class Odd(nn.Module):
    "Its layers run in another order than they are registered in"

    def __init__(self):
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(5, 3), nn.Linear(2, 2), nn.Linear(16, 5)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


def test_the_last_linear_layer_is_the_one_that_runs_last():
    model, x = Odd(), torch.rand(4, 1, 4, 4)
    torch.testing.assert_close(features(model, x), model.first(x.flatten(1)).relu().detach())


@pytest.mark.parametrize("name, size", [("resnet18", 512), ("mobilenet_v3_small", 1024), ("vit_b_16", 768)])
def test_features_of_torchvisions_models(name, size):
    import torchvision

    settings = dict(image_size=32) if name == "vit_b_16" else {}
    model = getattr(torchvision.models, name)(weights=None, **settings)
    assert features(model, torch.rand(2, 3, 32, 32)).shape == (2, size)


def test_features_need_a_linear_layer_with_a_row_per_image():
    with pytest.raises(ValueError, match="runs no nn.Linear"):
        features(nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()), torch.rand(2, 1, 4, 4))

    class PerPixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 3)

        def forward(self, x):
            return self.layer(x.reshape(-1, 1)).reshape(len(x), -1, 3).mean(1)

    with pytest.raises(ValueError, match="sees 32 rows for 2 images"):
        features(PerPixel(), torch.rand(2, 1, 4, 4))


def test_gradients_flow_through_logits_and_features():
    model, x = build("model_a", (1, 16, 16), 4, filters=4), torch.rand(2, 1, 16, 16, requires_grad=True)
    logits, hidden = logits_and_features(model, x)
    (grad,) = torch.autograd.grad(hidden.sum() + logits.sum(), x)
    assert grad.abs().sum() > 0


def test_weights_come_back_exactly(tmp_path):
    model = build("preact_resnet", (1, 8, 8), 4, depth=8)
    model(torch.rand(6, 1, 8, 8))  # moves the running averages
    save_weights(model, tmp_path / "a" / "w.safetensors")
    other = load_weights(build("preact_resnet", (1, 8, 8), 4, seed=1, depth=8), tmp_path / "a" / "w.safetensors")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert [f.name for f in (tmp_path / "a").iterdir()] == ["w.safetensors"]


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    save_weights(model, tmp_path / "w.safetensors")
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    fresh[2].weight = fresh[1].weight
    load_weights(fresh, tmp_path / "w.safetensors")
    assert fresh[2].weight is fresh[1].weight and all(torch.equal(v, fresh.state_dict()[k]) for k, v in model.state_dict().items())


def test_weights_come_back_whatever_the_length_of_the_header(tmp_path):
    "A file begins with that length, so its first byte may be any multiple of 8, also a pickle's 0x80"
    begins = set()
    for length in range(1, 257, 8):
        model, fresh = (nn.ModuleDict({"n" * length: nn.Linear(2, 2, bias=False)}) for _ in range(2))
        save_weights(model, tmp_path / "w.safetensors")
        load_weights(fresh, tmp_path / "w.safetensors")
        assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in model.state_dict().items())
        begins.add((tmp_path / "w.safetensors").read_bytes()[0])
    assert 0x80 in begins


def test_a_pickle_is_named_and_not_opened(tmp_path):
    for new in True, False:
        torch.save(model_a((1, 16, 16), 10, 2).state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"w.pt is a pickle.*weights_only=True.*save_weights"):
            load_weights(model_a((1, 16, 16), 10, 2), tmp_path / "w.pt")


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), lambda: nn.Linear(3, 3, device="meta")])
def test_weights_that_have_no_values_are_not_saved(tmp_path, make):
    with pytest.raises(ValueError, match="lazy|meta device"):
        save_weights(make(), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def edited(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("damage, say", [
    (lambda f: f.write_bytes(f.read_bytes()[:-5]), "w.safetensors is damaged or is no safetensors file"),
    (lambda f: f.write_bytes(b""), "is damaged"),
    (lambda f: f.write_bytes(b"not weights at all, just some text of fair length"), "is damaged"),
    (lambda f: edited(f, lambda t: t.pop("8.bias")), r"another architecture: 8.bias is missing in the file and \(4,\) in the model"),
    (lambda f: edited(f, lambda t: t.update(more=torch.zeros(2))), r"more is \(2,\) in the file and missing in the model"),
    (lambda f: edited(f, lambda t: t.update({"8.bias": torch.zeros(5)})), r"8.bias is \(5,\) in the file and \(4,\) in the model"),
    (lambda f: edited(f, lambda t: t.clear()), "and [0-9]+ more"),
])
def test_a_wrong_file_is_refused_and_the_model_left_alone(tmp_path, damage, say):
    file, model = tmp_path / "w.safetensors", build("preact_resnet", (1, 8, 8), 4, depth=8)
    save_weights(build("preact_resnet", (1, 8, 8), 4, seed=1, depth=8), file)
    damage(file)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=say):
        load_weights(model, file)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_missing_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(model_a((1, 16, 16), 10, 2), tmp_path / "none.safetensors")


@pytest.mark.cuda
def test_outputs_come_back_to_the_images_device():
    model, x = build("model_a", (1, 16, 16), 4, filters=4), torch.rand(3, 1, 16, 16)
    logits, hidden = outputs(copy.deepcopy(model).cuda(), x)
    assert logits.device.type == hidden.device.type == "cpu"
    torch.testing.assert_close(hidden, features(model, x), atol=1e-3, rtol=1e-3)
