"""Attack sets: L1, unions, families with parameters, patches, corruptions, the words for them, and a user's own."""

import copy
import io
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from toys import SOAK, images, linear

from confnb.attacks import apgd, bim, fgsm, pgd, uniform_noise
from confnb.basics import UsageError
from confnb.corruptions import CORRUPTIONS, Corruptions, corrupt
from confnb.detector_attacks import max_score
from confnb.evaluation.threats import check_threat, of_size, threat_from, threat_word
from confnb.families import Axis, Family, Then
from confnb.found import score_inside
from confnb.maxconfidence import max_confidence
from confnb.objectives import CrossEntropy, WrongConfidence
from confnb.runtime import generator, predict, streams, uniform
from confnb.search import maximize
from confnb.sets import BOX, L0, L1, L2, Linf, take_rows
from confnb.tables import evaluate
from confnb.transforms import Brightness, Contrast, Frame, Patch, Rotate, Square
from confnb.unions import Union, radius, scaled

EVERY = [
    L1(2.0),
    Linf(0.1) | L2(0.5) | L1(1.0),
    Rotate(9, shift=1),
    Contrast(0.4),
    Patch(2),
    Frame(1),
    Rotate(9) >> Linf(0.05),
    Corruptions(2, ("fog", "gaussian_noise")),
    Rotate(5) >> (Linf(0.05) | L2(0.3)),
    Patch(2) | Brightness(0.3) | Linf(0.02),
]


def lead(logits, z):
    "A linear objective on a model with two classes"
    return logits[:, 1] - logits[:, 0]


def weights(model):
    "What `lead` weighs each pixel by, and its offset"
    last = model[-1]
    return (last.weight[1] - last.weight[0]).detach().double(), float((last.bias[1] - last.bias[0]).detach())


# the L1 ball in the box


@st.composite
def l1_cases(draw):
    "Points, images and radii, with ties, pixels at the walls, and radii from tiny to larger than the box"
    seed, n, d = draw(st.integers(0, 10**6)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, d))
    x = np.where(rng.uniform(size=x.shape) < 0.3, x.round(), x)
    z = x + draw(st.sampled_from([0.01, 0.5, 3.0])) * rng.normal(size=x.shape)
    z = np.where(rng.uniform(size=x.shape) < 0.2, x, z)
    eps = draw(st.one_of(st.floats(1e-3, 2 * d), st.just("each")))
    ball = L1(torch.from_numpy(rng.uniform(0.01, d, size=n)) if eps == "each" else eps)
    return ball, *(torch.from_numpy(v).float().reshape(n, 1, 1, d) for v in (z, x))


def by_bisection(z, x, eps):
    "The nearest point of the L1 ball in the box, by another algorithm"
    low, high = 0.0, np.abs(z - x).max() + 1.0
    at = lambda less: np.clip(x + np.sign(z - x) * np.maximum(np.abs(z - x) - less, 0), 0, 1)  # noqa: E731
    if np.abs(at(0.0) - x).sum() <= eps:
        return at(0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(at(middle) - x).sum() > eps else (low, middle)
    return at(high)


@given(l1_cases())
def test_the_l1_projection_is_the_nearest_point(case):
    ball, z, x = case
    near = ball.project(z, x)
    assert near.dtype == torch.float32 and ball.contains(near, x).all()
    assert torch.allclose(ball.project(near, x), near, atol=1e-6)
    for row, eps in enumerate(np.broadcast_to(np.asarray(ball.eps), len(x))):
        best = by_bisection(*(t[row].double().numpy().ravel() for t in (z, x)), eps)
        assert near[row].numpy().ravel() == pytest.approx(best, abs=1e-5)
    inside = ball.random(x, streams(0, len(x)))
    assert ball.contains(inside, x).all() and ball.contains(x, x).all()
    assert ((near - z).flatten(1).norm(dim=1) <= (inside - z).flatten(1).norm(dim=1) + 1e-5).all()


def test_a_point_outside_is_seen():
    x = torch.full((2, 1, 2, 2), 0.5)
    z = x + torch.tensor([0.3, -0.3, 0.0, 0.0]).reshape(1, 1, 2, 2)
    assert L1(torch.tensor([0.5, 0.61])).contains(z, x).tolist() == [False, True]
    assert not L1(9.0).contains(x + 0.6, x).any()  # near enough, and outside the box


def greedy(w, x, eps):
    "The largest gain of a linear function in the L1 ball and the box"
    gain, left = 0.0, eps
    for i in np.argsort(-np.abs(w), kind="stable"):
        step = min(left, 1 - x[i] if w[i] > 0 else x[i])
        gain, left = gain + step * abs(w[i]), left - step
    return gain


@pytest.mark.parametrize("eps", [0.3, 1.7, 6.0])
def test_attacks_find_the_best_point_of_an_l1_ball(eps):
    model, _, _ = linear(2, 25)
    x = images(8, 5)
    w, b = weights(model)
    start = x.flatten(1).double() @ w + b
    best = start + torch.tensor([greedy(w.numpy(), row.double().numpy().ravel(), eps) for row in x])
    one = maximize(model, lead, x, L1(eps), 1, step_size=eps, start="here").value.double()
    assert one.tolist() == pytest.approx(best.tolist(), abs=1e-4)
    zeros = torch.zeros(8, dtype=torch.int64)
    for found in (
        pgd(model, x, zeros, L1(eps)),
        apgd(model, x, zeros, L1(eps)),
        max_confidence(model, x, zeros, L1(eps)),
    ):
        assert L1(eps).contains(found.x, x).all()
        reached = lead(predict(model, found.x), found.x).double()
        assert (reached <= best + 1e-4).all() and (
            (best - reached <= 1e-3) | (found.wrong_confidence > 1 - 1e-6)
        ).all()


@pytest.mark.parametrize("eps", [3.0, 4.0, 8.0])
def test_an_l1_attack_is_as_strong_as_foolboxs(small_model, digits, eps):
    "APGD at every radius; PGD's constant steps from 4 on, and within a tenth of foolbox's at a smaller one"
    import foolbox

    x, y = digits.x_test[:60], digits.y_test[:60]
    own = copy.deepcopy(small_model).eval()  # foolbox leaves gradients behind
    theirs = foolbox.attacks.SparseL1DescentAttack(steps=40)(
        foolbox.PyTorchModel(own, (0, 1)), x, y, epsilons=eps
    )[1]
    assert L1(eps).contains(theirs.clamp(0, 1), x, 1e-4).all()
    reached = CrossEntropy(y)(predict(small_model, theirs.clamp(0, 1))).mean()
    ours = {f: f(small_model, x, y, L1(eps), steps=40).value.mean() for f in (apgd, pgd)}
    assert ours[apgd] > reached and ours[pgd] > reached * (0.9 if eps < 4 else 1)


def test_an_l1_radius_that_allows_everything_is_refused():
    with pytest.raises(ValueError, match="at most 4.0 apart"):
        pgd(linear(2, 4)[0], images(1, 2), torch.zeros(1, dtype=torch.int64), L1(5.0))
    with pytest.raises(ValueError, match="positive"):
        L1(0)


# unions


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_a_union_holds_the_best_of_its_members(scale):
    model, _, _ = linear(3, 9, scale)
    x, y, sets = images(12), torch.arange(12) % 3, (Linf(0.1), L2(0.3), L1(0.8))
    both = sets[0] | sets[1] | sets[2]
    for attack in (fgsm, bim, pgd, apgd, max_confidence):
        alone, found = [attack(model, x, y, ball) for ball in sets], attack(model, x, y, both)
        assert (
            both.contains(found.x, x).all()
            and torch.stack([b.contains(found.x, x) for b in sets]).any(0).all()
        )
        by = "wrong_confidence" if attack is max_confidence else "value"
        assert (getattr(found, by) >= torch.stack([getattr(f, by) for f in alone]).amax(0) - 1e-6).all(), (
            attack.__name__
        )
        assert found.passes.sum() <= 1.1 * sum(f.passes.sum() for f in alone)


def test_what_is_finished_in_one_member_is_not_searched_in_the_next(small_model, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    sets = Linf(0.9), L2(8.0), L1(60.0)
    alone = [max_confidence(small_model, x, y, ball).passes.sum() for ball in sets]
    both = max_confidence(small_model, x, y, Union(sets))
    assert both.wrong_confidence.min() > 0.99 and both.passes.sum() < 0.75 * sum(alone)


def test_unions_are_flat_and_cut_to_rows():
    joined = Linf(torch.tensor([0.1, 0.2])) | (L2(1.0) | L0(3))
    assert len(joined.members) == 3 and take_rows(joined, torch.tensor([1])).members[
        0
    ].eps.tolist() == pytest.approx([0.2])
    for wrong in (lambda: Linf(0.1) | 0.2, lambda: 0.2 | Linf(0.1), lambda: Union((L2(1.0), Linf))):
        with pytest.raises(TypeError, match="is none"):
            wrong()
    with pytest.raises(ValueError, match="two sets or more"):
        Union((L2(1.0),))
    with pytest.raises(ValueError, match="holds 2 values for 3"):
        pgd(linear(2)[0], images(3), torch.zeros(3, dtype=torch.int64), joined)


def test_a_step_for_each_member():
    model, x = linear(2)[0], images(4)
    given_steps = maximize(model, lead, x, Linf(0.1) | L2(0.5), 3, (0.1, 0.5))
    assert given_steps.passes.tolist() == [6] * 4
    with pytest.raises(ValueError, match="step_size"):
        maximize(model, lead, x, Linf(0.1) | L2(0.5), 3, (0.1, -1.0))


# every set there is


@pytest.mark.parametrize("ball", EVERY, ids=str)
def test_every_set_does_what_a_set_must(ball):
    x = images(6, 6)
    drawn = ball.random(x, streams(5, 6))
    assert drawn.dtype == x.dtype and ball.contains(drawn, x).all() and ball.contains(x, x).all()
    assert not ball.contains(torch.where(x > 0.5, x - 0.5, x + 0.5).flip(2), x).any()
    assert not ball.contains(torch.full_like(x, torch.nan).nan_to_num(torch.inf), x).any()
    assert torch.equal(drawn[2:4], ball.random(x[2:4], streams(5, 6)[2:4]))  # whatever the batch
    assert ball.contains(ball.project(drawn, x), x).all()


# turned and united sets take longest, and are made of parts that others hold too
LONG = (Rotate(9, shift=1), Rotate(9) >> Linf(0.05), Patch(2) | Brightness(0.3) | Linf(0.02))
SOME = [pytest.param(ball, marks=SOAK * (ball in LONG)) for ball in EVERY]


@pytest.mark.parametrize("setter, value, before", [(torch.set_default_dtype, torch.bfloat16, torch.float32), (torch.set_default_device, "meta", None)], ids=["dtype", "device"])
@pytest.mark.parametrize("ball", [*SOME, Corruptions(2, ("jpeg", "motion_blur", "shot_noise"))], ids=str)
def test_no_set_depends_on_the_default_dtype_and_device(ball, setter, value, before):
    model, x, y = linear(3, 36)[0], images(4, 6), torch.arange(4) % 3

    def found():
        drawn = ball.random(x, streams(5, 4))
        return drawn, ball.project(drawn.flip(0), x), pgd(model, x, y, ball, 2).x

    usual = found()
    setter(value)
    try:
        other, inside = found(), ball.contains(usual[2], x)
    finally:
        setter(before)
    assert all(torch.equal(a, b) for a, b in zip(usual, other, strict=True)) and inside.all()


@pytest.mark.parametrize("ball", SOME, ids=str)
def test_every_attack_takes_every_set(ball):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3)
    ).requires_grad_(False)
    x, y = images(6, 6), torch.arange(6) % 3
    clean = WrongConfidence(y)(predict(model, x)).exp()
    attacks = {
        f.__name__: partial(f, ball=ball) for f in (fgsm, uniform_noise)
    }
    attacks |= {f.__name__: partial(f, ball=ball, steps=6) for f in (bim, pgd, apgd)}
    attacks["max_confidence"] = partial(max_confidence, ball=ball, effort="quick")
    attacks["max_score"] = partial(
        max_score, ball=ball, score=lambda logits, features: logits.amax(1), steps=5
    )
    results = {name: attack(model, x, y) for name, attack in attacks.items()}
    table = evaluate(model, x, y, {name: lambda *_, found=found: found for name, found in results.items()})
    assert len(table) == 6 * (1 + len(attacks))
    for name, found in results.items():
        assert table.passes[table.attack == name].tolist() == found.passes.tolist()
        assert ball.contains(found.x, x).all(), name
        torch.testing.assert_close(found.logits, predict(model, found.x), atol=1e-5, rtol=1e-4)
    found = results["max_confidence"]
    assert (found.wrong_confidence >= clean).all()
    assert (found.wrong_confidence >= uniform_noise(model, x, y, ball, 5).wrong_confidence - 1e-3).all()
    few = max_confidence(model, x[:3], y[:3], ball, effort="quick")  # whatever the batch
    torch.testing.assert_close(few.wrong_confidence, found.wrong_confidence[:3], atol=1e-4, rtol=0)


# families


def test_rotations_are_found_as_well_as_by_trying_tenths_of_degrees(small_model, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    angles = torch.arange(-300, 301, dtype=torch.float64) / 10
    every = [WrongConfidence(y)(predict(small_model, Rotate(30).apply(x, a.expand(20, 1)))) for a in angles]
    best, found = torch.stack(every).amax(0).exp(), max_confidence(small_model, x, y, Rotate(30))
    assert (found.wrong_confidence <= best + 1e-5).all()
    assert (best - found.wrong_confidence).max() < 0.01 and (best - found.wrong_confidence).mean() < 1e-3
    assert found.passes.max() < 60 and Rotate(30).contains(found.x, x).all()


def test_a_turn_by_right_angles_is_exact_and_a_shift_by_pixels_too():
    x = images(3, 7)
    turned = Rotate(180).apply(x, torch.tensor([[90.0], [180.0], [-90.0]], dtype=torch.float64))
    for row, times in enumerate((1, 2, 3)):
        torch.testing.assert_close(turned[row], x[row].rot90(times, (1, 2)), atol=1e-5, rtol=0)
    moved = Rotate(0, shift=2).apply(
        x, torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(moved[0, :, :, 2:], x[0, :, :, :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1, :, :-1], x[1, :, 1:], atol=1e-5, rtol=0)
    assert moved[0, :, :, :2].max() < 1e-5 and torch.allclose(moved[2], x[2], atol=1e-6)
    wide = torch.rand(1, 2, 5, 9, generator=generator(0))
    torch.testing.assert_close(
        Rotate(180).apply(wide, torch.tensor([[180.0]])), wide.flip(2, 3), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "family", [Rotate(30, shift=3), Rotate(180), Contrast(0.5) >> Brightness(0.3)], ids=str
)
def test_what_a_family_makes_belongs_to_it(digits, family):
    x = digits.x_test[:200]
    assert family.contains(family.random(x, streams(7, len(x))), x).all()


def test_rotated_then_perturbed_has_its_closed_form():
    "On a linear model the best point of an L-inf ball around each rotation is known"
    model, _, _ = linear(2, 49)
    x, (w, b), eps = images(5, 7), weights(model), 0.1
    best = torch.full((5,), -torch.inf, dtype=torch.float64)
    for angle in torch.arange(-200, 201, dtype=torch.float64) / 10:
        made = Rotate(20).apply(x, angle.expand(5, 1)).double().flatten(1)
        low, high = (made - eps).clamp(0, 1), (made + eps).clamp(0, 1)
        best = torch.maximum(best, torch.where(w > 0, high, low) @ w + b)
    found = maximize(model, lead, x, Rotate(20) >> Linf(eps), 20)
    assert (found.value.double() <= best + 1e-4).all() and found.value.tolist() == pytest.approx(
        best.tolist(), rel=0.02
    )
    with pytest.raises(TypeError, match="first comes a family"):
        Then(Linf(0.1), Rotate(20))


@dataclass(frozen=True)
class Ramp(Family):
    "Two parameters, a wide range, and a narrow peak off the grid"

    @property
    def axes(self):
        return Axis("a", -10, 10, 21, 0.01), Axis("b", 0, 5, 6, 0.25)

    def apply(self, x, parameters):
        a, b = parameters.to(x).T.reshape(2, -1, 1, 1, 1)
        return torch.cat([x[:, :1] * 0 + (a + 10) / 20, x[:, 1:2] * 0 + b / 5], 1)


@settings(max_examples=6)
@given(st.integers(-900, 900), st.integers(0, 20))
def test_the_search_refines_what_the_grid_found(a, b):
    a, b = a / 100, b / 4

    class Peak(nn.Module):
        def forward(self, z):
            u, v = z[:, 0].mean((1, 2)) * 20 - 10, z[:, 1].mean((1, 2)) * 5
            return torch.stack([torch.zeros_like(u), -((u - a) ** 2) - (v - b) ** 2], 1)

    found = maximize(Peak(), lead, torch.zeros(2, 2, 1, 1), Ramp())
    assert found.value.min() > -1e-3 and Ramp().contains(found.x, torch.zeros(2, 2, 1, 1)).all()


def test_an_axis_that_is_none_is_refused():
    for wrong in (
        ("a", 1, 0, 3, 0.1),
        ("a", 0, 1, 3, 0),
        ("a", 0, float("inf"), 3, 0.1),
        ("a", 0, 1, 0, 0.1),
    ):
        with pytest.raises(ValueError):
            Axis(*wrong)
    with pytest.raises(TypeError, match="derived from confnb.Family"):
        pgd(
            linear(2)[0],
            images(1),
            torch.zeros(1, dtype=torch.int64),
            type("Mine", (), {"apply": lambda self, x, p: x})(),
        )


# patches and frames


@pytest.mark.parametrize("size, seed", [(1, 0), (2, 1), (3, 2)])
def test_the_best_patch_is_found_on_a_linear_model(size, seed):
    model, _, _ = linear(2, 49, seed=seed)
    x, (w, b) = images(5, 7, seed), weights(model)
    free = torch.where(w > 0, 1.0, 0.0).reshape(1, 1, 7, 7).expand(5, -1, -1, -1)
    places = product(range(8 - size), repeat=2)
    every = [Square(size, torch.tensor([[r, c]]).expand(5, 2)).project(free, x) for r, c in places]
    best = torch.stack([z.flatten(1).double() @ w + b for z in every]).amax(0)
    found = maximize(model, lead, x, Patch(size))
    assert (
        found.value.tolist() == pytest.approx(best.tolist(), abs=1e-4)
        and Patch(size).contains(found.x, x).all()
    )


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_patch_projects_to_the_nearest_of_its_squares(seed, size):
    x, z = images(3, 5, seed), 3 * torch.rand(3, 2, 5, 6, generator=generator(seed)) - 1
    x = torch.rand(3, 2, 5, 6, generator=generator(seed + 1))
    every = [
        Square(size, torch.tensor([[r, c]]).expand(3, 2)).project(z, x)
        for r in range(6 - size)
        for c in range(7 - size)
    ]
    far = torch.stack([(e - z).flatten(1).square().sum(1) for e in every]).amin(0)
    near = Patch(size).project(z, x)
    torch.testing.assert_close((near - z).flatten(1).square().sum(1), far)
    assert Patch(size).contains(near, x).all() and torch.equal(Patch(size).project(near, x), near)


def test_a_patch_that_is_one_pixel_too_wide_is_outside():
    x = torch.zeros(2, 1, 6, 6)
    z = x.clone()
    z[0, 0, 1:4, 2:4], z[1, 0, 1:5, 2:4] = 1, 1
    assert Patch(3).contains(z, x).tolist() == [True, False]


def test_a_frame_has_its_closed_form():
    model, _, _ = linear(2, 49)
    x, (w, b) = images(5, 7), weights(model)
    inner = torch.zeros(7, 7, dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    best = torch.where(inner.flatten(), x.flatten(1).double(), (w > 0).double()) @ w + b
    assert maximize(model, lead, x, Frame(2)).value.tolist() == pytest.approx(best.tolist(), abs=1e-3)


# corruptions


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_the_same_every_time_and_grows_with_its_severity(kind, digits):
    x = digits.x_test[:30]
    made = [corrupt(x, kind, s) for s in range(1, 6)]
    assert all(((z >= 0) & (z <= 1)).all() and z.dtype == x.dtype for z in made)
    assert torch.equal(made[2][7:9], corrupt(x[7:9], kind, 3))
    change = [float((z - x).square().mean()) for z in made]
    assert change[0] > 0 and change[4] > change[0] and change[4] == max(change)
    assert torch.equal(corrupt(x, kind, 3, seed=1), made[2]) == (
        kind not in ("gaussian_noise", "shot_noise", "impulse_noise", "fog")
    )
    colour = torch.rand(2, 3, 20, 24, generator=generator(0))
    assert corrupt(colour, kind, 5).shape == colour.shape


def test_a_jpeg_is_what_pillow_makes_of_it():
    x = torch.rand(1, 3, 16, 16, generator=generator(0))
    file = io.BytesIO()
    Image.fromarray((255 * x[0].permute(1, 2, 0).numpy()).round().astype(np.uint8)).save(
        file, "JPEG", quality=58
    )
    assert torch.equal(
        (255 * corrupt(x, "jpeg", 3)).round().byte()[0].permute(1, 2, 0),
        torch.from_numpy(np.array(Image.open(file))),
    )


def test_the_worst_corruption_is_the_worst_of_all(small_model, digits):
    x, y = digits.x_test[:12], digits.y_test[:12]
    every = [
        WrongConfidence(y)(predict(small_model, z))
        for z in (x, *(corrupt(x, k, s) for k in CORRUPTIONS for s in (1, 2)))
    ]
    torch.testing.assert_close(
        max_confidence(small_model, x, y, Corruptions(2)).wrong_confidence, torch.stack(every).amax(0).exp()
    )


# a user's own


class Slanted:
    "A convex set by four methods: .2 up and .1 down"

    def project(self, z, x):
        return torch.minimum(torch.maximum(z, x - 0.1), x + 0.2).clamp(0, 1)

    def contains(self, z, x):
        return ((z >= x - 0.100001) & (z <= x + 0.200001) & (z >= 0) & (z <= 1)).flatten(1).all(1)

    def random(self, x, seeds):
        return self.project(x - 0.1 + 0.3 * uniform(seeds, x), x)

    def ascent(self, gradient):
        return gradient.sign()


@pytest.mark.parametrize("attack", [fgsm, bim, pgd, apgd, max_confidence])
def test_a_set_of_four_methods_is_as_good_as_ours(attack):
    model, _, _ = linear(2)
    x, (w, b) = images(6), weights(model)
    low, high = (x.flatten(1).double() - 0.1).clamp(0, 1), (x.flatten(1).double() + 0.2).clamp(0, 1)
    best = torch.where(w > 0, high, low) @ w + b
    found = attack(model, x, torch.zeros(6, dtype=torch.int64), Slanted())
    reached = lead(predict(model, found.x), found.x)
    assert Slanted().contains(found.x, x).all()
    assert reached.tolist() == pytest.approx(best.tolist(), abs=0.3 if attack in (fgsm, bim) else 1e-2)
    assert 0.1 < float(radius(Slanted(), x).mean()) < 0.4


# the words


@pytest.mark.parametrize(
    "words, ball",
    [
        ("linf:8/255", Linf(8 / 255)),
        ("L1:10", L1(10)),
        ("l0:20", L0(20)),
        ("box", BOX),
        ("rotate:30, shift:3", Rotate(30, shift=3)),
        ("shift:2.5", Rotate(0, shift=2.5)),
        ("linf:.1|l2:1 | l1:5", Linf(0.1) | L2(1) | L1(5)),
        ("rotate:15 >> linf:.05", Rotate(15) >> Linf(0.05)),
        ("rotate:15>>brightness:.1>>patch:3", Rotate(15) >> (Brightness(0.1) >> Patch(3))),
        ("contrast:.2|frame:2", Contrast(0.2) | Frame(2)),
        ("corruptions:2,kinds:fog+jpeg,seed:3", Corruptions(2, ("fog", "jpeg"), 3)),
        ("confnb.sets:BOX", BOX),
        ("confnb.transforms:Patch", Patch()),
    ],
)
def test_words_for_sets(words, ball):
    assert threat_from(words) == ball and threat_from(ball) is ball and threat_word(ball)


@pytest.mark.parametrize(
    "words, says",
    [
        ("rotat:30", "did you mean rotate"),
        ("rotate:190", "angle lies between 0 and 180"),
        ("rotate:30,tilt:3", "takes shift after a comma, not 'tilt'"),
        ("linf:.1,l2:2", "takes no 'l2'; | joins sets"),
        ("corruptions:7", "whole number from 1 to 5, not 7"),
        ("corruptions:2,kinds:rain", "no corruption 'rain'"),
        ("patch:2.5", "whole number, not 2.5"),
        ("patch:0", "at least 1"),
        ("linf:.1 >> rotate:30", "first comes a family"),
        ("linf:.1|", "begins with no known norm"),
        ("math:pi", "ball must be a set"),
        ("confnb.objectives:NoGradient", "has no|must be a set"),
        ("confnb.sets:nothing", "there is no nothing in confnb.sets"),
        (Linf, "a threat is a set"),
        (Linf(torch.tensor([0.1, 0.2])), "one radius"),
        (L2(1.0) | Linf(torch.tensor([0.1, 0.2])), "one radius"),
    ],
)
def test_words_that_are_none(words, says):
    with pytest.raises(
        UsageError, match=says.replace("|", r"\|") if "|" in says and "has no" not in says else says
    ):
        threat_from(words)


@pytest.mark.parametrize(
    "words", ["patch:9", "frame:4", "shift:8", "linf:.1|patch:9", "rotate:3 >> patch:9", "l1:65"]
)
def test_a_set_that_does_not_fit_the_image_is_refused(words):
    with pytest.raises(UsageError, match="does not fit images of 1 x 8 x 8"):
        check_threat(threat_from(words), torch.zeros(1, 1, 8, 8))


def test_a_set_that_contradicts_itself_is_refused():
    wrong = type("Wrong", (Slanted,), {"contains": lambda self, z, x: (z == x).flatten(1).all(1)})
    with pytest.raises(UsageError, match="does not contain its random points"):
        check_threat(wrong(), images(1))
    check_threat(Slanted(), images(1))


def test_sets_of_other_sizes():
    assert of_size(L0(4), 2.2) == L0(2) and scaled(Patch(4) | L0(5), 0.5) == Patch(2) | L0(2)
    assert of_size(Rotate(120) >> Linf(0.1), 2) == Rotate(180) >> Linf(0.2) and of_size(Slanted(), 2) is None
    assert of_size(Linf(0.6) | L2(1), 2) is None and of_size(Corruptions(3), 4) == Corruptions(5)


def test_a_composition_begins_with_a_family():
    for first in Linf(0.1), L2(1.0), Linf(0.1) | L2(1.0):
        with pytest.raises(TypeError, match="begins with a family"):
            first >> Rotate(10)


def test_a_set_that_does_not_fit_the_image_is_refused_wherever_points_are_scored(small_model, digits):
    x, y = digits.x_test[:3], digits.y_test[:3]
    for ball in Frame(100), Patch(100), L1(1000.0):
        with pytest.raises(ValueError):
            score_inside(small_model, x, y, ball, x)
