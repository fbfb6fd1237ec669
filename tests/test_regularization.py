"""Regularisers, fooling images, linear models, spheres, calibration and rays against plain computations."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torch import nn
from toys import backwards, images

from confnb.attacks import fgsm, offset_logits
from confnb.data import EXTENT, as_pixels, spheres, two_classes, unsupported
from confnb.images import split
from confnb.losses import Adversarial, CrossEntropyLoss, WithL2
from confnb.models import build, dropped_filters, layers_of
from confnb.quantization import quantize_weight, zero_gradients
from confnb.runtime import generator, predict
from confnb.sets import BOX, Linf
from confnb.statistics import binomial_interval, calibration_error, reliability, top_k_error
from confnb.topics.regularization import (
    LogisticRegression,
    LogisticRegressions,
    SigmoidCrossEntropy,
    SpheresMLP,
    along_rays,
    boundary_radius,
    expert_weights,
    fooling_images,
    noise_images,
    offset_curve,
    prune_smallest,
    ray_ends,
    regressions,
    sphere_network,
)
from confnb.training import Recipe, fit


def small(side=8, classes=4, seed=0):
    return build("three_layer_cnn", (1, side, side), classes, seed=seed, filters=3)


# ---------------------------------------------------------------------------------------------------------------------
# L2 by layer


def test_the_penalty_is_tensorflows_l2_loss_of_the_layers_asked_for():
    model, x, y = small(), images(12, 8), torch.arange(12) % 4
    w = [m.weight.detach().double() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    half = [v.square().sum().item() / 2 for v in w]
    cases = {0.1: 0.1 * sum(half), 0: 0.0}
    for c, expected in cases.items():
        assert WithL2(coefficients=c).penalty(model).item() == pytest.approx(expected, rel=1e-5)
    assert WithL2(coefficients={0: 0.5, -1: 2}).penalty(model).item() == pytest.approx(0.5 * half[0] + 2 * half[3], rel=1e-5)
    name = list(layers_of(model))[1]
    assert WithL2(coefficients={name: 3}).penalty(model).item() == pytest.approx(3 * half[1], rel=1e-5)
    loss = WithL2(CrossEntropyLoss(), {0: 0.5})(model, x, y, generator(0), 0.0)
    assert loss.item() == pytest.approx(F.cross_entropy(model(x), y).item() + 0.5 * half[0], rel=1e-5)


def test_the_penalty_wraps_adversarial_training_and_shrinks_its_layers():
    y = torch.arange(12) % 4
    base, layers = Adversarial(Linf(0.05), 1), {}
    for c in (0.0, 1.0):
        model = small()
        fit(model, images(12, 8), y, WithL2(base, {0: c, -1: c}), Recipe(epochs=12, batch_size=6, rate=5e-3))
        layers[c] = [m.weight.norm().item() for m in layers_of(model).values()]
    assert layers[1.0][0] < 0.8 * layers[0.0][0] and layers[1.0][3] < 0.8 * layers[0.0][3]


@pytest.mark.parametrize("coefficients", [-1.0, {0: -0.5}, math.nan, None, "0.1"])
def test_negative_coefficients_are_refused(coefficients):
    with pytest.raises(ValueError, match="at least 0"):
        WithL2(coefficients=coefficients)


@pytest.mark.parametrize("which", [4, "nothing"])
def test_layers_that_are_not_there_are_refused(which):
    with pytest.raises(ValueError, match="no layer"):
        WithL2(coefficients={which: 1.0}).penalty(small())


# ---------------------------------------------------------------------------------------------------------------------
# Images from noise, and offsets


def test_noise_is_numpys():
    drawn = np.random.RandomState(0).normal(0, 0.1, (5, 4, 3))
    expected = torch.from_numpy(np.clip(drawn, 0, 1).transpose(2, 0, 1)).float()
    assert torch.equal(noise_images((3, 5, 4))[0], expected)
    assert torch.equal(noise_images((3, 5, 4), 2)[:1], noise_images((3, 5, 4))) and not torch.equal(*noise_images((3, 5, 4), 2))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 99), starts=st.integers(1, 3), step=st.sampled_from([0.01, 0.05]))
def test_ascent_stays_in_the_box_and_raises_the_targets_probability(seed, starts, step):
    model = small(seed=seed)
    found = fooling_images(model, (1, 8, 8), 4, steps=10, step_size=step, seed=seed, starts=starts)
    start = noise_images((1, 8, 8), starts, seed=seed).repeat_interleave(4, 0)
    target = torch.arange(4).repeat(starts)
    before = predict(model, start).log_softmax(1).gather(1, target[:, None])[:, 0]
    alive = zero_gradients(model, start, target) < 1  # a network as small as this may stand still in empty space
    assert BOX.contains(found.x, start).all() and (found.value >= before).all()
    assert (found.value[alive] > before[alive]).float().sum() >= 0.7 * alive.sum()
    assert ((found.x - start).abs() <= 10 * step + 1e-6).all() and found.logits.shape == (4 * starts, 4)
    torch.testing.assert_close(found.value, predict(model, found.x).log_softmax(1).gather(1, target[:, None])[:, 0])


def test_one_step_of_ascent_is_a_sign_step():
    model = small()
    found = fooling_images(model, (1, 8, 8), 4, steps=1, step_size=0.01)
    start = noise_images((1, 8, 8)).expand(4, -1, -1, -1).clone().requires_grad_()
    (g,) = torch.autograd.grad(model(start).log_softmax(1).diagonal().sum(), start)
    stepped = (start + 0.01 * g.sign()).clamp(0, 1).detach()
    better = found.value > predict(model, start.detach()).log_softmax(1).diagonal()
    torch.testing.assert_close(found.x[better], stepped[better])
    assert better.any()


def test_fooling_needs_a_start():
    for starts in 0, 1.5, None, True:
        with pytest.raises(ValueError, match="at least 1 start"):
            fooling_images(small(), (1, 8, 8), 4, starts=starts)
    with pytest.raises(ValueError, match="the shape of an image is .C, H, W., not None"):
        fooling_images(small(), None, 4)
    with pytest.raises(ValueError, match="the number of classes"):
        fooling_images(small(), (1, 8, 8), None)


def test_the_offset_curve_against_a_plain_loop():
    model, x, y, shifts = small(), images(20, 8), torch.arange(20) % 4, [-0.5, 0.0, 0.3]
    curve = offset_curve(offset_logits(model, x, shifts), y, shifts)
    for c, row in zip(shifts, curve.itertuples(), strict=True):
        p, guess = predict(model, (x + c).clamp(0, 1)).softmax(1).max(1)
        k = int((guess == y).sum())
        assert row.offset == pytest.approx(c) and row.accuracy == k / 20 and (row.low, row.high) == binomial_interval(k, 20)
        assert row.confidence == pytest.approx(p.mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="3 offsets, but there are 2"):
        offset_curve(offset_logits(model, x, shifts), y, [0.0, 0.1])


# ---------------------------------------------------------------------------------------------------------------------
# Threes against sevens


def pair(n=40, seed=0):
    y = torch.arange(n) % 5
    x = images(n, 4, seed)
    x[y == 3, :, 0] += 0.5
    return split((x.clamp(0, 1), y), (x.clamp(0, 1), y), "toy")


def test_two_classes_are_picked_and_labelled():
    data = pair()
    two = two_classes(data, 3, 1)
    assert torch.equal(two.x_test, data.x_test[(data.y_test == 3) | (data.y_test == 1)]) and two.classes == 2
    assert torch.equal(two.x_test[two.y_test == 1], data.x_test[data.y_test == 3])


def test_the_expert_is_the_difference_of_means():
    two = two_classes(pair(), 3, 1)
    x, y = two.x_train.double().numpy().reshape(len(two.x_train), -1), two.y_train.numpy()
    np.testing.assert_allclose(expert_weights(two.x_train, two.y_train), x[y == 1].mean(0) - x[y == 0].mean(0), atol=1e-6)


def test_side_by_side_is_one_by_one():
    "Models that train together become what each would have become alone"
    two, start = two_classes(pair(100), 3, 1), torch.randn(3, 16, generator=generator(2))
    bits, constant, recipe = (1, 3, 32), (False, True, False), Recipe(steps=30, batch_size=8, rate=1e-2)
    for eps in (0.0, 0.1):
        together = LogisticRegressions(start, bits, constant)
        fit(together, two.x_train, two.y_train, SigmoidCrossEntropy(0.05, eps), recipe)
        for i, b in enumerate(bits):
            twice = LogisticRegressions(start[[i, i]], (b, b), constant[i : i + 1] * 2)  # a network needs two columns
            fit(twice, two.x_train, two.y_train, SigmoidCrossEntropy(0.05, eps), recipe)
            torch.testing.assert_close(twice.weight[0], together.weight[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("constant", [False, True])
def test_all_rows_at_once_are_each_as_quantize_weight_does_it(constant):
    bits = (1, 2, 3, 4, 5, 6, 7, 8, 32)
    models, g = LogisticRegressions(torch.randn(9, 25, generator=generator(3)), bits, (constant,) * 9), torch.randn(9, 25)
    rows = [quantize_weight(w, b, constant) for w, b in zip(models.weight, bits, strict=True)]
    torch.testing.assert_close(models.quantized(), torch.stack(rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(*(torch.autograd.grad(f, models.weight, g)[0] for f in (models.quantized(), torch.stack(rows))))


def test_the_loss_is_the_sum_of_sigmoid_cross_entropies_and_half_the_squares():
    models, x, y = LogisticRegressions(torch.randn(3, 16), (1, 4, 32)), images(7, 4), torch.arange(7) % 2
    total = 0.0
    for w, b in zip(models.weight.detach(), (1, 4, 32), strict=True):
        s = (x.flatten(1) @ quantize_weight(w, b)).double()
        total += sum(math.log1p(math.exp(-v if t else v)) for v, t in zip(s.tolist(), y.tolist(), strict=True)) / 7 + 0.05 * w.double().square().sum().item() / 2
    assert SigmoidCrossEntropy(0.05)(models, x, y, generator(0), 0.0).item() == pytest.approx(total, rel=1e-5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), eps=st.floats(0.01, 0.5))
def test_the_linear_models_worst_points_are_exact(seed, eps):
    rng = np.random.default_rng(seed)
    models, x, y = LogisticRegressions(torch.randn(2, 16, generator=generator(seed)), (2, 32)), images(5, 4, seed), torch.arange(5) % 2
    worst = models.at_worst(x, y, eps).detach()
    for i, w in enumerate(models.quantized().detach()):
        found = fgsm(LogisticRegression(w), x, y, eps)
        torch.testing.assert_close(found.logits[:, 1] - found.logits[:, 0], worst[:, i], atol=1e-4, rtol=1e-4)
        for _ in range(20):
            z = (x + torch.from_numpy(rng.uniform(-eps, eps, x.shape)).float()).clamp(0, 1).flatten(1) @ w
            assert ((2 * y - 1) * z >= (2 * y - 1) * worst[:, i] - 1e-4).all()


def test_two_logits_are_the_sigmoid():
    w, x, y = torch.randn(16), images(6, 4), torch.arange(6) % 2
    s = x.flatten(1) @ w
    logits = LogisticRegression(w)(x)
    torch.testing.assert_close(logits.softmax(1)[:, 1], s.sigmoid())
    torch.testing.assert_close(F.cross_entropy(logits, y), F.binary_cross_entropy_with_logits(s, y.float()))


def test_pruning_keeps_the_largest():
    w = torch.tensor([0.1, -3.0, 0.5, 2.0])
    assert prune_smallest(w, 0.5).tolist() == [0, -3, 0, 2]
    torch.testing.assert_close(prune_smallest(w, 0.5, 1), torch.tensor([0, -1.4, 0, 1.4]))
    assert torch.equal(prune_smallest(w, 1.0), w) and (prune_smallest(w, 1e-9) != 0).sum() == 1
    for kept in (0, 1.5, None):
        with pytest.raises(ValueError, match="kept is the share"):
            prune_smallest(w, kept)


@pytest.mark.parametrize("wrong, said", [
    (lambda: LogisticRegressions(torch.zeros(2, 4), (1,)), "its number of bits"),
    (lambda: LogisticRegressions(torch.zeros(2, 4), (1, 2), (True,)), "1 of detach_max"),
    (lambda: regressions((1, 3, 3), 2, torch.zeros(2, 4), (1, 1)), "do not fit"),
    (lambda: regressions((1, 2, 2), 3, torch.zeros(2, 4), (1, 1)), "do not fit"),
    (lambda: LogisticRegressions(torch.zeros(1, 4), (9,)), "bits must be"),
])
def test_linear_models_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


# ---------------------------------------------------------------------------------------------------------------------
# Spheres


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 200), d=st.integers(2, 50), half=st.booleans(), seed=st.integers(0, 99))
def test_spheres_lie_on_their_radii(n, d, half, seed):
    points, which = spheres(n, d, (0.7, 1.6), half, seed)
    torch.testing.assert_close(points.norm(dim=1), torch.tensor([0.7, 1.6])[which], atol=1e-5, rtol=0)
    assert points.shape == (n, d) and which.tolist() == [i % 2 for i in range(n)]
    assert not (half and unsupported(points).any())
    pixels = as_pixels(points)
    assert pixels.shape == (n, 1, 1, d) and pixels.min() >= 0 and pixels.max() <= 1
    torch.testing.assert_close((pixels.flatten(1) - 0.5) * 2 * EXTENT, points, atol=1e-5, rtol=0)


def test_whole_spheres_have_all_directions_and_halves_are_their_halves():
    whole, half = spheres(4000, 2)[0], spheres(4000, 2, half=True)[0]
    assert abs(unsupported(whole).float().mean() - 0.5) < 0.05
    quadrant = half[:, 0] > 0
    assert abs(quadrant.float().mean() - 0.5) < 0.05 and ((half[:, 1] < 0) == quadrant).all()


@pytest.mark.parametrize("wrong", [dict(n=0), dict(n=2.5), dict(dimensions=1), dict(dimensions=None), dict(radii=(1.3, 1.0)), dict(radii=(1.0, 2.0)), dict(radii=(0.0, 1.0)), dict(radii=None), dict(radii=(1.0,))])
def test_spheres_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="spheres need"):
        spheres(**{"n": 10} | wrong)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_what_the_first_activations_get_has_the_deviation_asked_for(scale):
    x = as_pixels(spheres(400, 5)[0])
    layers = list(SpheresMLP(5, 16, scale=scale).train())
    before = layers.index(next(m for m in layers if isinstance(m, nn.ReLU)))
    found = nn.Sequential(*layers[:before])(x).std(0, correction=0)
    assert found.tolist() == pytest.approx([scale] * 16, rel=1e-3)


def test_without_batch_norm_the_spheres_are_learned_by_linear_layers_alone():
    plain = SpheresMLP(5, 16, norm=False)
    assert [type(m) for m in list(plain)[2:]] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert not any(isinstance(m, nn.BatchNorm1d) for m in sphere_network((1, 1, 5), 2, 16, 1, 2, norm=False).modules())


def test_a_network_learns_spheres_at_any_precision():
    points, y = spheres(300, 2, seed=1)
    for w, a in (32, 32), (1, 32):
        net = build(sphere_network, (1, 1, 2), 2, hidden=32, w=w, a=a)
        fit(net, as_pixels(points), y, recipe=Recipe(epochs=30, batch_size=50, rate=5e-3))
        assert (predict(net, as_pixels(points)).argmax(1) == y).float().mean() > 0.97
    assert SpheresMLP(5, 7)(torch.rand(3, 1, 1, 5)).shape == (3, 2)
    with pytest.raises(ValueError, match="at least 1"):
        SpheresMLP(0, 7)


class Disc(nn.Module):
    "Answers 'outer' beyond a radius that depends on the direction, and inside a small hole"

    def forward(self, x):
        z = (x.flatten(1) - 0.5) * 4
        r, edge = z.norm(dim=1), 1 + 0.2 * (z[:, 0] > 0)
        outer = ((r > edge) | (r < 0.3)).float() - 0.5
        return torch.stack([-outer, outer], 1)


def test_the_boundary_is_where_outer_begins_for_good():
    directions = F.normalize(torch.randn(30, 2, generator=generator(0)), dim=1)
    found = boundary_radius(Disc(), directions, torch.linspace(0.1, 1.9, 1801))
    torch.testing.assert_close(found, 1 + 0.2 * (directions[:, 0] > 0), atol=2e-3, rtol=0)


def test_a_boundary_that_was_not_seen_is_infinite():
    directions = F.normalize(torch.randn(30, 2, generator=generator(0)), dim=1)
    right = directions[:, 0] > 0  # the boundary is at 1.2 there, at 1 elsewhere
    found = boundary_radius(Disc(), directions, torch.linspace(0.1, 1.1, 101))
    assert (found[right] == math.inf).all() and (found[~right] < 1.02).all() and right.any() and not right.all()


# ---------------------------------------------------------------------------------------------------------------------
# Calibration, rays, gradients


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(1, 300), bins=st.integers(1, 20))
def test_ece_against_a_double_loop_and_scikit_learn(seed, n, bins):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.1, 1, n)
    right = rng.uniform(size=n) < p
    total = 0.0
    for b in range(bins):
        mine = [i for i in range(n) if b / bins < p[i] <= (b + 1) / bins]
        if mine:
            total += len(mine) / n * abs(np.mean([right[i] for i in mine]) - np.mean([p[i] for i in mine]))
    assert calibration_error(p, right, bins) == pytest.approx(total, abs=1e-9)
    share, mean = calibration_curve(right, p, n_bins=bins) if len(set(right)) == 2 else (None, None)
    table = reliability(p, right, bins)
    assert table["count"].sum() == n and ((table.confidence > table.low) & (table.confidence <= table.high + 1e-12)).all()
    if share is not None and bins > 1:
        np.testing.assert_allclose(table.accuracy, share)
        np.testing.assert_allclose(table.confidence, mean)


@pytest.mark.parametrize("p, right", [([], []), ([0.5], [True, False]), ([1.2], [True]), ([-0.1], [True]), ([math.nan, 0.5], [True, False]),
                                      ([0.5, 0.5], [3, 7]), ([0.5], [math.nan])])
def test_bad_confidences_are_refused(p, right):
    with pytest.raises(ValueError, match="reliability needs"):
        calibration_error(p, right)


@pytest.mark.parametrize("bins", [0, -1, 2.5, None])
def test_bad_bins_are_refused(bins):
    with pytest.raises(ValueError, match="whole number of bins"):
        calibration_error([0.5], [True], bins)


@pytest.mark.parametrize("kind", [
    lambda p, ok: (torch.tensor(p, requires_grad=True), torch.tensor(ok)), lambda p, ok: (torch.tensor(p, dtype=torch.bfloat16), torch.tensor(ok).int()),
    lambda p, ok: (pd.Series(p, index=[9, 9, 9, 9]), pd.Series(ok)), lambda p, ok: (np.array(p, np.float32), np.array(ok)), lambda p, ok: (tuple(p), ok)])
def test_calibration_takes_numbers_of_any_kind(kind):
    p, ok = [0.25, 0.5, 0.75, 1.0], [False, True, False, True]
    assert calibration_error(*kind(p, ok), 4) == calibration_error(p, ok, 4) == 0.375


def test_a_bin_holds_its_upper_end_and_the_first_holds_zero():
    table = reliability([0.0, 0.2, 0.2001, 1.0], [True] * 4, bins=5)
    assert table["count"].tolist() == [2, 1, 1] and table.low.tolist() == [0.0, 0.2, 0.8] and table.high.tolist() == [0.2, 0.4, 1.0]


def test_rays_run_from_the_images_to_corners():
    model, x, t = small(), images(6, 8), [0.0, 0.25, 1.0]
    ends = ray_ends(x, 3)
    assert ((ends == 0) | (ends == 1)).all() and torch.equal(ends, ray_ends(x, 3)) and not torch.equal(ends, ray_ends(x, 4))
    got = along_rays(model, x, t, 3)
    for j, at in enumerate(t):
        torch.testing.assert_close(got[:, j], predict(model, x + at * (ends - x)).softmax(1).amax(1))
    for wrong in ([], [1.5], [-0.1], None):
        with pytest.raises(ValueError, match="positions on a ray"):
            along_rays(model, x, wrong)


class Cut(nn.Module):
    "Sees the first k pixels only"

    def __init__(self, k):
        super().__init__()
        self.k, self.layer = k, nn.Linear(k, 3)

    def forward(self, x):
        return self.layer(x.flatten(1)[:, : self.k])


@pytest.mark.parametrize("model, share", [(Cut(16), 0.75), (Cut(64), 0.0), (nn.Sequential(nn.Flatten(), nn.Threshold(2, 0), nn.Linear(64, 3)), 1.0)])
def test_zero_gradients_are_counted(model, share):
    state = model.training
    torch.testing.assert_close(zero_gradients(model, images(5, 8), torch.zeros(5, dtype=torch.long), batch_size=2), torch.full((5,), share))
    assert model.training == state and all(p.requires_grad for p in model.parameters())


def test_a_detached_model_has_no_gradients():
    class Detached(Cut):
        def forward(self, x):
            return super().forward(x.detach())

    assert zero_gradients(Detached(8), images(2, 8), torch.tensor([0, 1])).eq(1).all()


@pytest.mark.parametrize("answer, sentence", [(lambda z: z * torch.nan, "NaN or infinite"), (lambda z: z / 0, "NaN or infinite"), (lambda z: z.softmax(1), "gives probabilities")])
def test_gradients_of_what_are_no_logits_are_not_counted(answer, sentence):
    class Other(Cut):
        def forward(self, x):
            return answer(super().forward(x))

    with pytest.raises(ValueError, match=sentence):
        zero_gradients(Other(64), images(5, 8), torch.zeros(5, dtype=torch.long))


def test_gradients_are_counted_for_images_and_labels_made_in_inference_mode():
    x, y = images(3, 8), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        made = x.clone(), y.clone()
    assert torch.equal(zero_gradients(Cut(32), *made), zero_gradients(Cut(32), x, y))


def test_positions_on_a_ray_are_numbers_wherever_tensors_are_made():
    model, x = small(), images(2, 8)
    with pytest.raises(TypeError, match="positions on a ray are numbers"):
        along_rays(model, x, "0")
    with torch.device("meta"):
        found = along_rays(model, x, [0.0, 1.0])
    assert torch.equal(found, along_rays(model, x, [0.0, 1.0]))


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_is_none(nothing):
    class Blinding(Cut):
        def forward(self, x):
            bad = torch.zeros_like(x)
            bad[:, :, :2] = nothing  # a quarter of the rows
            return super().forward(backwards(x, lambda gradient: gradient + bad))

    x, y = images(3, 8), torch.tensor([0, 1, 2])
    assert predict(Blinding(64), x).isfinite().all()
    torch.testing.assert_close(zero_gradients(Blinding(64), x, y), torch.full((3,), 0.25))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), k=st.integers(1, 4))
def test_top_k_errors_against_sorting(seed, k):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(9, 5)), rng.integers(0, 5, 9)
    expected = [label not in sorted(range(5), key=lambda j, row=row: -row[j])[:k] for row, label in zip(logits, y, strict=True)]
    assert top_k_error(torch.from_numpy(logits), torch.from_numpy(y), k).tolist() == expected


@pytest.mark.parametrize("k", [0, 5, 6, 1.5, None])
def test_a_top_k_that_says_nothing_is_refused(k):
    with pytest.raises(ValueError, match="says nothing"):
        top_k_error(torch.rand(2, 5), torch.tensor([0, 1]), k)


def test_a_top_k_error_needs_logits_and_their_labels():
    for logits, y, say in ((None, torch.tensor([0]), "needs logits"), (torch.rand(3), torch.tensor([0]), "needs logits"), (torch.rand(1, 3), None, "labels"),
                           (torch.rand(2, 3), torch.tensor([0]), "labels must have shape"), (torch.rand(1, 3), torch.tensor([3]), "0..2")):
        with pytest.raises((TypeError, ValueError), match=say):
            top_k_error(logits, y)


def test_dropped_filters_are_the_small_ones():
    layer = nn.Conv2d(2, 4, 3)
    layer.weight.data = torch.tensor([1.0, 0.04, 0.06, 0.0]).reshape(4, 1, 1, 1).expand(4, 2, 3, 3).clone()
    assert dropped_filters(layer).tolist() == [False, True, False, True] and dropped_filters(layer, 0.1).tolist() == [False, True, True, True]
