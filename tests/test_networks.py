"""Networks that ship: recipes in words, cards, and that none stands in for another training."""

import hashlib
import zlib
from dataclasses import dataclass, replace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toys import SOAK

from confnb import networks
from confnb.data import load_data
from confnb.evaluation.rejecting import load_entry
from confnb.evaluation.zoo import keep
from confnb.losses import (
    Adversarial,
    CrossEntropyLoss,
    NoWords,
    ReverseCrossEntropy,
    SmoothingPairing,
    WithL2,
    from_words,
    in_words,
)
from confnb.models import build
from confnb.networks import (
    CARD,
    WEIGHTS,
    load_model,
    load_or_train,
    read_card,
    read_entry,
    recipe_key,
    shipped,
    training_recipe,
    zoo_folders,
)
from confnb.quantization import quantized_network
from confnb.runtime import predict
from confnb.sets import L2, Linf
from confnb.training import Recipe, accuracy, fit

SHORT = Recipe(epochs=1, batch_size=64)


@pytest.fixture
def data():
    return load_data("digits", train=200, test=50)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    "A cache of its own, and a zoo that is empty"
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(networks, "ZOO", tmp_path / "zoo")
    return tmp_path / "zoo"


def trained(data, **change):
    return load_or_train(**{**dict(name="model_a", data=data, recipe=SHORT, device="cpu", filters=2), **change})


def weights_of(cache):
    (found,) = (cache / "model").glob("*.safetensors")
    return found


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def never(*_):
    pytest.fail("trained again")


losses = st.one_of(
    st.just(CrossEntropyLoss()),
    st.builds(Adversarial, st.builds(Linf, st.floats(0.01, 1)) | st.builds(L2, st.floats(0.1, 3)), st.integers(1, 40), st.none() | st.floats(0.001, 0.1), st.floats(0, 1), st.sampled_from([None, "auto", torch.bfloat16])),
    st.builds(SmoothingPairing, st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 2), st.booleans()),
    st.builds(ReverseCrossEntropy, st.none() | st.floats(0.5, 9)),
    st.builds(WithL2, st.builds(ReverseCrossEntropy), st.floats(0, 1) | st.dictionaries(st.integers(-3, 3), st.floats(0, 1), min_size=1)),
)
recipes = st.builds(Recipe, st.integers(1, 99), st.integers(1, 512), st.sampled_from(["adam", "sgd"]), st.floats(1e-5, 1), augment=st.booleans(), one_cycle=st.booleans(), steps=st.none() | st.integers(1, 10**6))


@given(losses | recipes)
def test_words_make_the_same_thing_again(thing):
    assert from_words(yaml.safe_load(yaml.safe_dump(in_words(thing)))) == thing


@given(losses | recipes, losses | recipes)
def test_two_things_share_words_only_if_they_are_equal(a, b):
    assert (in_words(a) == in_words(b)) == (type(a) is type(b) and a == b)


def test_a_field_that_is_added_changes_no_card():
    @dataclass(frozen=True)
    class Later(Recipe):
        warmup: int = 0

    Later.__module__, Later.__name__ = Recipe.__module__, "Recipe"
    assert in_words(Later(epochs=3, rate=0.1)) == in_words(Recipe(epochs=3, rate=0.1)) != in_words(Later(epochs=3, rate=0.1, warmup=2))


class Mine:
    pass


@pytest.mark.parametrize("thing", [print, Mine(), {1: 2, "a": 3}, torch.ones(2), dataclass(frozen=True)(type("OfMine", (), {"__annotations__": {}}))()], ids=["function", "object", "mixed keys", "tensor", "dataclass"])
def test_what_has_no_words_is_refused(thing):
    with pytest.raises(NoWords, match="cannot be written on a card"):
        in_words(thing)


def test_a_network_that_ships_is_loaded_and_not_trained(zoo, data, monkeypatch):
    first = trained(data)
    entry = keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)
    monkeypatch.setenv("CONFNB_CACHE", str(zoo.parent / "other"))
    monkeypatch.setattr(networks, "_fit", never)
    again, named = trained(data), load_model("digits/tiny", "cpu")
    assert same(first, again) and same(first, named) and not again.training and not named.training
    card = read_card(entry / CARD)
    assert card.tested == 50 and card.accuracy == round(accuracy(first, data.x_test, data.y_test), 4) and torch.__version__.startswith(card.made_with["torch"])
    assert torch.equal(predict(first, data.x_test), predict(named, data.x_test)) and not (zoo.parent / "other").exists()


def test_a_function_of_confnb_is_an_architecture_on_a_card(zoo, data, monkeypatch):
    settings = dict(architecture="three_layer_cnn", w=2, filters=2)
    first = load_or_train(quantized_network, data, CrossEntropyLoss(), SHORT, 0, "cpu", **settings)
    entry = keep(weights_of(zoo.parent / "cache"), "digits/two-bits", zoo)
    assert read_card(entry / CARD).recipe["network"] == "quantized_network"
    monkeypatch.setattr(networks, "_fit", never)
    assert torch.equal(predict(first, data.x_test), predict(load_model("digits/two-bits", "cpu"), data.x_test))

    def quantized(shape, classes, **settings):
        return quantized_network(shape, classes, **settings)

    for own in quantized, "quantized_network", "nowhere":
        with pytest.raises(NoWords, match="of one's own"):
            training_recipe(own, data, CrossEntropyLoss(), SHORT, 0, None, settings)


CHANGES = [
    {"seed": 1},
    {"recipe": replace(SHORT, epochs=2)},
    {"recipe": replace(SHORT, rate=2e-3)},
    {"loss": SmoothingPairing()},
    {"filters": 3},
    {"stop_at": 0.05},
    {"name": "three_layer_cnn"},
    {"data": "an image"},
    {"data": "a label"},
    {"data": "order"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: "-".join(c))
def test_no_other_training_gets_it(zoo, data, change):
    trained(data)
    keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)
    x, y = data.x_train.clone(), data.y_train.clone()
    if change.get("data") == "an image":
        x[3, 0, 5, 5] += 1e-6 if x[3, 0, 5, 5] < 0.5 else -1e-6
    elif change.get("data") == "a label":
        y[7] = (y[7] + 1) % 10
    elif change.get("data") == "order":
        x, y = x.flip(0), y.flip(0)
    change = {k: v for k, v in change.items() if k != "data"} | {"data": replace(data, x_train=x, y_train=y)}
    given = dict(name="model_a", data=data, loss=CrossEntropyLoss(), recipe=SHORT, seed=0, stop_at=None) | {k: v for k, v in change.items() if k != "filters"}
    words = training_recipe(**given, settings={"filters": change.get("filters", 2)})
    assert shipped(words) is None


def test_what_has_no_words_is_trained_though_a_network_ships(zoo, data):
    trained(data)
    keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)

    def loss(model, x, y, rng, progress):
        return -CrossEntropyLoss()(model, x, y, rng, progress)

    assert not same(trained(data), trained(data, loss=loss))
    assert not same(trained(data), trained(data, name=lambda shape, classes, filters: build("model_a", shape, classes, seed=5, filters=filters)))


def test_weights_or_cards_that_were_changed_are_not_used(zoo, data, monkeypatch):
    first = trained(data)
    entry = keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)
    monkeypatch.setenv("CONFNB_CACHE", str(zoo.parent / "other"))
    good = (entry / WEIGHTS).read_bytes()
    (entry / WEIGHTS).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.warns(UserWarning, match="not those that its card is about; the network is trained"):
        assert same(trained(data), first)
    with pytest.raises(ValueError, match="not those that its card is about"):
        load_model("digits/tiny")
    (entry / WEIGHTS).write_bytes(good)
    text = (entry / CARD).read_text()
    (entry / CARD).write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.raises(ValueError, match="the recipe on .* was changed"):
        load_model("digits/tiny")
    (entry / CARD).write_text("just words")
    with pytest.warns(UserWarning, match="is no card of a network .*; the network is trained"):
        trained(data, seed=1)


def test_a_name_that_is_not_there_is_told(zoo, data):
    trained(data)
    keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)
    with pytest.raises(ValueError, match=r"no network 'digits/tinny' ships \(did you mean digits/tiny\?\)"):
        load_model("digits/tinny")
    (zoo / "digits/tiny" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="digits/tiny ships without weights; its card trains it: ") as e:
        load_model("digits/tiny")
    call = str(e.value).partition("trains it: ")[2]
    assert compile(call, "the message", "exec") and "load_data('digits')" in call  # it can be pasted


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "../a/b", "..", "a/..", "/a/b", ""])
def test_a_name_that_is_none_is_refused(zoo, data, name):
    trained(data)
    with pytest.raises(ValueError, match="is called DATA/NAME"):
        keep(weights_of(zoo.parent / "cache"), name, zoo)
    assert not zoo.exists()


def test_weights_of_another_card_are_not_kept(zoo, data):
    trained(data)
    path = weights_of(zoo.parent / "cache")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="does not hold the weights that its card is about"):
        keep(path, "digits/tiny", zoo)


def test_every_entry_of_the_package_is_whole_and_the_wheel_stays_small():
    size = 0
    for name, folder in zoo_folders().items():
        card = read_card(folder / CARD)
        assert card.data and 0 <= card.accuracy <= 1 and card.key == recipe_key(card.recipe), name
        if (folder / WEIGHTS).exists():
            assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == card.weights_sha256
            model = load_model(name, "cpu")
            assert predict(model, torch.rand(2, *card.recipe["shape"])).shape == (2, card.recipe["classes"])
            size += len(zlib.compress((folder / WEIGHTS).read_bytes()))  # as a wheel keeps it
    assert size <= 12e6


@pytest.mark.parametrize("name", ["digits/cnn-undefended", "digits/resnet8-rce-seed0", *(pytest.param(f"digits/{n}", marks=SOAK) for n in ("undefended", "cnn-1bit"))])
def test_a_digits_entry_that_is_trained_again_is_the_same_network(name, tmp_path, monkeypatch):
    card, shipped_model, digits = networks.read_entry(name), load_model(name, "cpu"), load_data("digits")
    r = card.recipe
    model = networks._built(r)
    held = {"held": (digits.x_val, digits.y_val), "stop_at": r["stop_at"]} if "stop_at" in r else {}
    fit(model, digits.x_train, digits.y_train, from_words(r["loss"]), from_words(r["recipe"]), r["seed"], **held)
    model = networks._answering(model, from_words(r["loss"]))
    torch.testing.assert_close(predict(model, digits.x_test), predict(shipped_model, digits.x_test), atol=1e-3, rtol=1e-3)


def test_the_zoo_and_the_cache_are_listed(zoo, data, monkeypatch, capsys):
    from confnb.evaluation.zoo import cached_table, zoo_command, zoo_table

    monkeypatch.setattr(networks, "ZOO", zoo)
    zoo_command()
    assert "no network ships" in capsys.readouterr().out and zoo_table().empty
    trained(data, loss=Adversarial(Linf(0.1), steps=1))
    (row,) = cached_table().itertuples()
    keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo)
    zoo_command()
    said = capsys.readouterr().out
    assert said.startswith("digits/tiny\n  model_a(filters=2); ") and "Adversarial(ball=Linf(eps=0.1), steps=1); Recipe(epochs=1, batch_size=64), seed 0" in said
    assert f"right on {100 * row.right:.1f} % of 50 test images" in said and zoo_table().iloc[0].drop("name").equals(cached_table().iloc[0].drop("name"))
    keep(weights_of(zoo.parent / "cache"), "digits/same", zoo)  # the same weights, which lie there once
    assert zoo_table().MB.notna().all() and "without weights" not in said
    (zoo / "digits/tiny" / WEIGHTS).unlink()
    zoo_command()
    assert capsys.readouterr().out.count("; by its recipe alone, without weights") == 2
    weights_of(zoo.parent / "cache").unlink()
    assert cached_table().MB.isna().all(), "a card of the cache whose weights are gone is listed too"


def test_a_reverse_classifier_comes_as_it_answers():
    digits, name = load_data("digits"), "digits/resnet8-rce-seed0"
    card, model = read_entry(name), load_model(name, "cpu")
    assert card.accuracy == round(accuracy(model, digits.x_test, digits.y_test), 4) > 0.9
    recipe = card.recipe
    again = load_or_train(recipe["network"], digits, *map(from_words, (recipe["loss"], recipe["recipe"])), recipe["seed"], "cpu", **recipe["settings"])
    assert torch.equal(predict(again, digits.x_test[:20]), predict(model, digits.x_test[:20]))


def of_largest_logit(model, scale=1.0):
    "A factory of rules, as a card names it"
    return lambda logits: scale * logits.amax(1)


def test_an_entry_comes_with_its_rule_and_what_is_around_it(zoo, data):
    first = trained(data)
    weights = weights_of(zoo.parent / "cache")
    keep(weights, "digits/tiny", zoo)
    noisy = {"confnb:Smoothed": {"sigma": 0.1, "samples": 2}}
    keep(weights, "digits/noisy", zoo, reject={f"{__name__}:of_largest_logit": {"scale": 2.0}}, wrapper=noisy)
    keep(weights, "digits/near", zoo, reject="neighbours")
    keep(weights, "digits/voting", zoo, reject="entropy", wrapper=["digits/tiny", "digits/noisy"])
    assert sum(1 for _ in zoo.rglob(WEIGHTS)) == 1, "entries of one recipe share their weights"
    plain, noisy, near, voting = (load_entry(f"digits/{n}", "cpu", data) for n in ("tiny", "noisy", "near", "voting"))
    assert plain.rule is None and same(plain.model, first) and plain.card.key == voting.card.key
    assert "reject" not in (zoo / "digits/tiny" / CARD).read_text() and noisy.model.samples == 2 and noisy.rule.name == "of_largest_logit"
    logits = torch.tensor([[1.0, 3.0]])
    assert noisy.rule(logits).item() == 6 and near.rule.hidden and len(voting.model.members) == 3
    probabilities = [predict(m, data.x_test).softmax(1) for m in (first, first, noisy.model)]
    torch.testing.assert_close(predict(voting.model, data.x_test).softmax(1), sum(probabilities) / 3)
    assert same(trained(data), first)


@pytest.mark.parametrize(
    ("wrapper", "reject", "said"),
    [
        ("confnb:no_such", None, "confnb:no_such, which a card names, cannot be called"),
        ({"confnb:Smoothed": {"sigma": -1}}, None, "sigma must be positive"),
        ({"a": {}, "b": {}}, None, "a card names a factory as"),
        ({"math:sqrt": 3}, None, "a card names a factory as"),
        ("builtins:repr", None, "made str of a network"),
        (["digits/none"], None, "no network 'digits/none' ships"),
        (None, "entropie", r"no reject rule 'entropie' \(did you mean entropy"),
        (None, "builtins:id", "the reject rule"),
        (None, {"confnb:OfLogits": {"no": 1}}, "confnb:OfLogits, which a card names, cannot be called"),
    ],
)
def test_a_card_that_names_what_is_not_there_is_refused(zoo, data, wrapper, reject, said):
    trained(data)
    keep(weights_of(zoo.parent / "cache"), "digits/tiny", zoo, reject=reject, wrapper=wrapper)
    with pytest.raises(ValueError, match=said):
        load_entry("digits/tiny", "cpu")
