"""The board: entries as what they are, numbers against their definitions, a page that sorts, and refusals in a sentence."""

import json
import re
import warnings
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from confnb import networks
from confnb.basics import UsageError
from confnb.data import load_data
from confnb.ensembles import Ensemble
from confnb.evaluation import board_tables, boards, rejecting, trust
from confnb.evaluation.board_entries import BoardEntry, board_entry, check_entry, forward_passes, submission
from confnb.evaluation.board_numbers import board_row, board_sentences, board_table
from confnb.evaluation.board_page import board_html
from confnb.evaluation.board_tables import (
    Judged,
    board_options,
    load_judged,
    most_accepted,
    save_judged,
)
from confnb.evaluation.boards import board, write_board
from confnb.evaluation.indicators import Indicator
from confnb.evaluation.specs import attack_from
from confnb.evaluation.trust import ManyWays, effort_of
from confnb.evaluation.zoo import keep
from confnb.models import build, save_weights
from confnb.networks import CARD, WEIGHTS, load_model, read_entry, write_card, zoo_folders
from confnb.objectives import NoGradient
from confnb.reject_rules import RejectRule, rule_scores
from confnb.selective import choose_threshold
from confnb.sets import Linf
from confnb.smoothing import Smoothed
from confnb.workshop.cli import build_app

DIGITS = load_data("digits")
FEW = dict(images=10, effort="quick")
HOW = board_options("digits", **FEW)
FACTORY = """
from confnb import Smoothed, build

def network(shape, classes):
    return build("model_a", shape, classes, filters=16)

def wrap(network):
    return Smoothed(network, sigma=0.05, samples=2)

def rule(model):
    return lambda logits: logits.log_softmax(1).amax(1)
"""


@pytest.fixture
def folder(tmp_path):
    "A submission that is fine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/factory.py").write_text(FACTORY)
    (tmp_path / f"mine/{CARD}").write_text("name: digits/mine\ndata: digits\nabout: A network, smoothed.\n")
    save_weights(load_model("digits/undefended", "cpu"), tmp_path / "mine" / WEIGHTS)
    return tmp_path / "mine"


def judged(name, seed=0, n=40, sound=True, rule="confidence", shift=0.0):
    "What might have been found out about an entry, drawn at random"
    rng = np.random.default_rng(seed)
    rows = []
    for attack in ("held", "clean", "unaware", "ball", "union"):
        score = np.minimum(rng.random(n), 1 - shift * (attack in ("ball", "union")))
        wrong = rng.random(n) < {"held": 0.1, "clean": 0.1}.get(attack, 0.6)
        rows.append(pd.DataFrame({"index": range(n), "attack": attack, "label": 1, "prediction": np.where(wrong, 2, 1), "score": score}))
    examples = pd.concat([r for r in rows if rule != "confidence" or r.attack[0] != "unaware"], ignore_index=True)
    said = pd.DataFrame({"label": [1, 1], "prediction": [1, 2], "score": [0.9, 0.8]})
    return Judged(name, f"of {name}", rule, 1.0, sound, "sound: all." if sound else "not sound.", HOW, examples, torch.rand(2, 1, 8, 8), said)


# entries


def test_an_entry_of_the_zoo_is_what_load_model_gives():
    entry = board_entry("digits/resnet8-rce-seed0")
    assert entry.data == "digits" and entry.rule is None and "ReverseCrossEntropy" in entry.about
    assert forward_passes(entry, DIGITS.x_test[:3]) == 1


def test_a_fitted_rule_reads_the_training_images_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path))
    first = rejecting.load_entry("digits/rce", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(rejecting, "load_data", lambda *_, **__: pytest.fail("read again"))
        again = rejecting.load_entry("digits/rce", "cpu")
    fitted = rejecting.load_entry("digits/rce", "cpu", DIGITS)
    scores = [rule_scores(e.model, e.rule, DIGITS.x_test[:30]) for e in (first, again, fitted)]
    assert torch.equal(scores[0], scores[1]) and torch.allclose(scores[0], scores[2]) and first.rule.name == again.rule.name == "kdensity"


def twice(model):
    return lambda images: model(images).amax(1) + model(images.flip(3)).amax(1)


@pytest.mark.parametrize("passes", [1, 3, 5])
def test_the_cost_is_counted_in_passes_of_the_network(passes):
    network = build("model_a", (1, 16, 16), 10, filters=2)
    entry = BoardEntry("digits/n", "digits", network, network, None, "")
    smoothed, voting = Smoothed(network, 0.1, samples=passes), Ensemble([network] * passes)
    for model in smoothed, voting:
        assert forward_passes(replace(entry, model=model), DIGITS.x_test[:2]) == passes
    searching = replace(entry, rule=RejectRule(twice(network), "images"))
    assert forward_passes(searching, DIGITS.x_test[:2]) == 3
    assert np.isnan(forward_passes(BoardEntry("a/b", "a", nn.Flatten(), nn.Flatten(), None, ""), torch.rand(2, 1, 2, 5)))


def test_an_entry_whose_answers_cost_much_is_judged_on_fewer_images_and_the_board_says_so(monkeypatch, few_tries):
    monkeypatch.setattr("confnb.evaluation.board_entries._FEWEST", 2)
    monkeypatch.setattr("confnb.evaluation.board_entries._CHEAP", 4)
    monkeypatch.setattr(board_tables, "_checks", lambda *_: [Indicator("all is well", 0, 5, 0.1, "m", "w", "a")])  # no attack is repeated
    asked, how = board_entry("digits/undefended"), board_options("digits", images=5, effort="quick")
    dear = replace(asked, name="digits/dear", model=Ensemble([asked.network] * 5))
    found = [board_tables._judged(entry, DIGITS, how) for entry in (asked, dear)]
    assert [len(one.rows(a)) for one in found for a in ("clean", "ball", "union")] == [5] * 3 + [4] * 3
    assert "Judged on fewer images than the others: dear on 4, since an answer of it costs 5 passes." in " ".join(board_sentences(board_table(found)))
    assert "fewer images" not in " ".join(board_sentences(board_table(found[:1])))


def test_a_submission_is_loaded_as_what_it_is(folder):
    entry = submission(folder)
    assert entry.name == "digits/mine" and isinstance(entry.model, Smoothed) and entry.rule is not None
    assert forward_passes(entry, DIGITS.x_test[:2]) == 2 and board_entry(str(folder)).about == "A network, smoothed."


CHANGES = {
    "no factory": ("factory.py", None, None, "has no factory.py: a submission is a folder with"),
    "no weights": (WEIGHTS, None, None, "has no model.safetensors"),
    "no card": (CARD, None, None, "has no card.yaml"),
    "a card of nothing": (CARD, "name: digits/mine\ndata: digits\nabout: A network, smoothed.\n", "just words", "lacks the field name: DATA/NAME"),
    "no YAML": (CARD, "name: digits/mine", "name: [", "is no YAML"),
    "a field that is lacking": (CARD, "about: A network, smoothed.", "", "lacks the field about: what the model is, in a sentence"),
    "an empty field": (CARD, "data: digits", "data: ''", "lacks the field data"),
    "a field too many": (CARD, "about:", "abut: x\nabout:", r"has a field 'abut' \(did you mean about\?\)"),
    "a name that exists": (CARD, "digits/mine", "digits/undefended", "there is an entry digits/undefended already"),
    "a name of another form": (CARD, "digits/mine", "mine", "must be DATA/NAME, such as digits/mine"),
    "a name of other data": (CARD, "digits/mine", "mnist/mine", "must be DATA/NAME, such as digits/mine"),
    "unknown data": (CARD, "name: digits/mine\ndata: digits", "name: d/mine\ndata: d", "there is no data set 'd'"),
    "a factory that fails": ("factory.py", "return build", "raise KeyError('filters')\n    return build", "network failed: KeyError: 'filters' \\(factory.py, line 5\\)"),
    "a factory that does not parse": ("factory.py", "def wrap", "def wrap wrap", "stopped while it was imported: SyntaxError"),
    "an import that is missing": ("factory.py", "from confnb import", "import no_such_package\nfrom confnb import", "stopped while it was imported: ModuleNotFoundError"),
    "no network": ("factory.py", "def network", "def net", "has no function network"),
    "no module": ("factory.py", "return Smoothed(network, sigma=0.05, samples=2)", "return 3", "wrap made int, not a torch.nn.Module"),
    "weights that do not fit": ("factory.py", "filters=16", "filters=8", "model.safetensors does not fit factory.py"),
    "a rule that fails": ("factory.py", "return lambda", "raise ValueError('no rule')\n    return lambda", "rule failed: ValueError: no rule"),
    "a rule of another shape": ("factory.py", "log_softmax(1).amax(1)", "log_softmax(1)", "must give one number for each example"),
    "a rule that is NaN": ("factory.py", "amax(1)", "amax(1) * float('nan')", "gives NaN for"),
    "abstains on everything": ("factory.py", "amax(1)", "amax(1) * 0", "answers everything or nothing"),
    "a model at chance": ("factory.py", "return Smoothed(network, sigma=0.05, samples=2)", "import torch\n    return torch.nn.Sequential(network, torch.nn.Threshold(1e9, 0.0))", "no better than chance"),
}


@pytest.mark.parametrize("file, old, new, said", CHANGES.values(), ids=list(CHANGES))
def test_a_submission_that_does_not_fit_is_refused_in_a_sentence(folder, file, old, new, said):
    if old is None:
        (folder / file).unlink()
    else:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=said):
        submission(folder)
    done = CliRunner().invoke(build_app("board"), ["board", "check", str(folder)])
    assert done.exit_code == 2 and done.output.startswith("confnb: ") and len(done.output.strip().splitlines()) == 1


def test_a_submission_that_is_fine_is_told_so(folder):
    done = CliRunner().invoke(build_app("board"), ["board", "check", str(folder)])
    assert done.exit_code == 0 and "digits/mine can stand on the board of digits" in done.output


def test_an_entry_that_accepts_no_test_image_abstains_on_everything():
    network = load_model("digits/undefended", "cpu")
    seen = {z.numpy().tobytes() for z in DIGITS.x_val}
    known = lambda images: torch.tensor([z.numpy().tobytes() in seen for z in images.detach()]).float()  # noqa: E731
    rule = RejectRule(lambda images: known(images) + images.mean((1, 2, 3)) * known(images), "images", "of held")
    with pytest.raises(UsageError, match="abstains on everything"):
        check_entry(BoardEntry("digits/silent", "digits", network, network, rule, ""), DIGITS)


# numbers


@given(st.integers(0, 10**6), st.integers(12, 60))
@settings(max_examples=25, deadline=None)
def test_the_numbers_are_what_they_are_defined_as(seed, n):
    found = judged("digits/a", seed, n, rule="a rule")
    row, held, clean = board_row(found), found.rows("held"), found.rows("clean")
    for share in 0.95, 0.98, 0.99:
        t = choose_threshold(held.score, keep=share, right=held.prediction == held.label)
        kept = held[held.prediction == held.label].score > t
        assert kept.mean() >= share - 1e-9
        at = f"{100 * share:.0f}"
        assert row[f"right {at}"] == ((clean.prediction == clean.label) & (clean.score > t)).mean()
        for name, attack in ("failure", "ball"), ("union", "union"):
            rows = found.rows(attack)
            assert row[f"{name} {at}"] == ((rows.prediction != rows.label) & (rows.score > t)).mean()
        assert row[f"low {at}"] <= row[f"failure {at}"] <= row[f"high {at}"]
    assert abs(row["kept"] + row["wrong"] + row["abstained"] - 1) < 1e-9 and 0 <= row["AUGRC attacked"] <= 1
    assert row["right 95"] <= row["right 98"] <= row["right 99"] and row["failure 95"] <= row["failure 99"]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(-3, 3)), min_size=1))
def test_the_attacker_keeps_his_best_mistake(rows):
    table = pd.DataFrame([{"index": i, "label": 0, "prediction": int(m), "score": s} for i, m, s in rows])
    kept = most_accepted(table)
    assert kept["index"].tolist() == sorted({i for i, *_ in rows})
    for r in kept.itertuples():
        mistakes = [s for i, m, s in rows if i == kept.loc[r.Index, "index"] and m]
        assert (r.prediction == 1) == bool(mistakes) and (not mistakes or r.score == max(mistakes))


def test_a_file_keeps_all_of_it(tmp_path):
    found = judged("digits/a", rule="a rule")
    found.examples.loc[3, "score"] = -np.inf
    save_judged(found, tmp_path / "a.safetensors")
    again = load_judged(tmp_path / "a.safetensors")
    pd.testing.assert_frame_equal(found.examples, again.examples)
    assert torch.equal(found.images, again.images) and {k: v for k, v in vars(found).items() if isinstance(v, str | float | bool | dict)} == {k: v for k, v in vars(again).items() if isinstance(v, str | float | bool | dict)}


@pytest.mark.parametrize(("data", "change", "said"), [("svhn", {}, "no board of svhn yet"), ("digits", {"images": 0}, "at least one test image"), ("digits", {"effort": "much"}, "no effort 'much'"), ("digits", {"threat": "linf:x"}, "needs a radius"), ("digits", {"imges": 3}, "no setting called imges")])
def test_settings_out_of_range_are_refused(data, change, said):
    with pytest.raises((UsageError, TypeError), match=said):
        board_options(data, **change)


@pytest.fixture(scope="module")
def real(tmp_path_factory, less):
    "Two entries that share their weights, one with a rule, judged from scratch"
    root = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONFNB_CACHE", str(root / "cache"))
        weights = root / "w.safetensors"
        weights.write_bytes((zoo_folders()["digits/pgd-linf.2"] / WEIGHTS).read_bytes())
        write_card(read_entry("digits/pgd-linf.2"), weights.with_suffix(".yaml"))
        patch.setattr(networks, "ZOO", root / "zoo")
        patch.setitem(trust.REPORT_EFFORTS, "quick", less)
        keep(weights, "digits/plain", root / "zoo")
        keep(weights, "digits/ruled", root / "zoo", reject="max-logit")
        lines = []
        made = board(data="digits", out=root / "out", say=lines.append, **FEW)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(board_tables, "_judged", lambda *_: pytest.fail("judged again"))
            again = board(data="digits", say=lines.append, **FEW)
    yield made, again, lines, root


def test_a_second_call_judges_nothing_again(real):
    made, again, lines, _ = real
    pd.testing.assert_frame_equal(made.table, again.table)
    assert len(lines) == 4 and not made.left_out


def test_what_is_found_stands_by_its_definitions(real):
    made, *_ = real
    plain, ruled = made.found
    assert (plain.rule, ruled.rule, plain.passes) == ("confidence", "max-logit", 1)
    for one in made.found:
        assert (one.rows("clean").label == DIGITS.y_test[one_rows(one)].numpy()).all()
        accepted = {a: {i for i, w in enumerate(one.rows(a).prediction != one.rows(a).label) if w} for a in ("clean", "ball", "union")}
        assert accepted["clean"] <= accepted["ball"] <= accepted["union"], "a point of the ball lies in the union"
    bounds, ball = plain.rows("certificate"), plain.rows("ball")
    wrong = ball.prediction != ball.label
    assert len(bounds) and (bounds.prediction != bounds.label)[wrong].all() and (bounds.score >= ball.score - 1e-4)[wrong].all()
    assert not len(ruled.rows("certificate")) and len(ruled.rows("unaware")) == 10


def one_rows(one):
    from confnb.images import stratified_order

    return stratified_order(DIGITS.y_test)[: len(one.rows("clean"))].sort().values


def test_the_files_say_what_the_board_says(real):
    made, _, _, root = real
    table = pd.read_csv(root / "out/board.csv")
    assert table.name.tolist() == made.table.name.tolist() and json.loads((root / "out/board.json").read_text())["sentences"] == made.sentences
    rows = pd.read_parquet(root / "out/examples.parquet")
    assert set(rows.entry) == {"digits/plain", "digits/ruled"}
    page = (root / "out/index.html").read_text()
    assert made.page == root / "out/index.html" and page.count('class="card"') == 2
    write_board(made, root / "out")  # its own files it may write again
    (root / "theirs").mkdir()
    (root / "theirs/board.csv").write_text("mine")
    with pytest.raises(UsageError, match="was not made by confnb and would be lost"):
        write_board(made, root / "theirs")


# attacks that miss much, and what is done about it


def test_a_plain_far_from_the_data_is_attacked_in_many_ways():
    "A network that was trained to be unsure in noise has no slope there, where long steps land and stay"
    model, ball, (x, y) = load_model("digits/good-noise", "cpu"), Linf(0.2), (DIGITS.x_test[:12], DIGITS.y_test[:12])
    race = attack_from("maxconfidence", ball, effort="quick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = race(model, x, y)
        many = ManyWays(race, ball, queries=100)(model, x, y)
    assert (many.wrong_confidence >= first.wrong_confidence).all() and ball.contains(many.x, x).all()
    assert first.wrong_confidence.mean() < 0.8 and many.wrong_confidence.mean() > 0.9


def test_who_stands_still_in_every_way_says_so():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    nn.init.zeros_(flat[1].weight)
    with pytest.warns(NoGradient, match="nothing was gained for 3 of 3 examples"):
        ManyWays(attack_from("maxconfidence", Linf(0.1)), Linf(0.1), queries=5)(flat, DIGITS.x_test[:3], DIGITS.y_test[:3])


@pytest.mark.slow
def test_an_evaluation_that_fails_its_tests_is_made_again_in_more_ways():
    entry, few = board_entry("digits/good-noise"), dict(images=12, effort="quick")
    found = board_tables._judged(entry, DIGITS, board_options("digits", **few))
    case = board_tables._case(entry, DIGITS, Linf(0.2), effort_of("quick"), board_options("digits", **few))
    race = attack_from("maxconfidence", Linf(0.2), effort="quick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board_tables._attack(case, {"maxconfidence": race})
        lines = board_tables._checks(case, {"maxconfidence": race})
    assert not all(line.fine for line in lines) and found.sound
    once = board_tables.most_accepted(case.table.assign(score=case.table.confidence))
    assert found.rows("ball").score.mean() > once.score.mean() + 0.1 and board_row(found)["failure 95"] > 0.9


def test_the_images_on_the_page_are_the_mistakes_of_the_table(real):
    for one in real[0].found:
        rows, half = one.rows("ball"), len(one.images) // 2
        most = rows[rows.prediction != rows.label].nlargest(6, "score")
        assert half == len(most) and np.allclose(one.said.score[half:], most.score, atol=1e-5)
        said = load_model("digits/pgd-linf.2", "cpu")(one.images).argmax(1)
        assert said.tolist() == one.said.prediction.tolist() and Linf(0.2).contains(one.images[half:], one.images[:half]).all()


# who is left out


def submit(work, *given):
    future = Future()
    try:
        future.set_result(work(*given))
    except Exception as e:
        future.set_exception(e)
    return future


@pytest.mark.parametrize("submit", [None, submit], ids=["here", "by workers"])
def test_the_board_goes_on_without_what_fails(folder, monkeypatch, submit, tmp_path):
    monkeypatch.setattr(boards, "judge", lambda entry, data, **how: judged(entry.name))
    (folder / "factory.py").write_text(FACTORY.replace("return build", "raise MemoryError('too large')\n    return build"))
    names = ["digits/undefended", "digits/none", "mnist/undefended", str(folder), "digits/regularised"]
    lines = []
    made = board(names, "digits", tmp_path / "out", submit, lines.append)
    assert [f.name for f in made.found] == ["digits/undefended", "digits/regularised"] and list(made.left_out) == names[1:4]
    said = " ".join(made.left_out.values())
    assert "no network 'digits/none' ships" in said and "is an entry of mnist, and this is the board of digits" in said and "network failed: MemoryError: too large" in said
    assert sum("left out" in line for line in lines) == 3 and repr(made).count("is left out") == 3
    assert "too large" in (tmp_path / "out/index.html").read_text()
    with pytest.raises(UsageError, match="no entry could be judged: digits/none: no network"):
        board(["digits/none"], "digits", submit=submit, say=lines.append)


def test_a_name_that_stands_there_twice_is_left_out(monkeypatch):
    monkeypatch.setattr(boards, "judge", lambda entry, data, **how: judged("digits/same"))
    made = board(["digits/undefended", "digits/regularised"], say=lambda line: None)
    assert len(made.found) == 1 and made.left_out == {"digits/regularised": "there is an entry digits/same already"}


def test_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(boards, "judge", lambda entry, data, **how: judged(entry.name, sound=how["images"] == 7))
    words = ["board", "--images", "7", "--only", "digits/undefended", "--only", "digits/regularised", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(build_app("board"), words)
    assert done.exit_code == 0 and "of 2 of 2 entries passed its own tests" in done.output and str(tmp_path / "out/index.html") in done.output
    done = CliRunner().invoke(build_app("board"), [*words, "--only", "digits/none"])
    assert done.exit_code == 1 and "digits/none is left out" in done.output
    for bad, said in (["--effort", "much"], "no effort 'much'"), (["--data", "svhn"], "no board of svhn"), (["--threat", "none:1"], "none:1"):
        done = CliRunner().invoke(build_app("board"), [*words, *bad])
        assert done.exit_code == 2 and said in done.output, done.output


@pytest.mark.slow
def test_workers_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "of two"))
    given = ["--images", "4", "--effort", "quick", "--workers", "2", "--only", "digits/undefended", "--only", "digits/regularised"]
    done = CliRunner().invoke(build_app("board"), ["board", *given, "--out", str(tmp_path / "two")])
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "of one"))  # nothing of what the workers remembered
    alone = board(["digits/undefended", "digits/regularised"], say=lambda line: None, **FEW | {"images": 4})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "two/board.csv"), pd.read_csv(write_board(alone, tmp_path / "one").parent / "board.csv"))


# the page


def some():
    return [judged("digits/a", 1), judged("digits/b", 2, sound=False, rule="a rule", shift=0.9), judged("digits/c", 3, rule="another")]


def page_of(found, left_out=None):
    return board_html(found, board_table(found), "digits", left_out or {}, {"data": "digits", "how": HOW, "version": "0", "seconds": 1.0})


def test_what_is_not_sound_is_said_in_the_numbers_place():
    page = page_of(some())
    rows = re.findall(r"<tr.*?</tr>", page.partition("<tbody>")[2], re.S)
    assert len(rows) == 3 and all(("not sound" in r) == ("≥" in r) for r in rows) and sum("not sound" in r for r in rows) == 1


def test_the_page_needs_nothing_from_elsewhere():
    page = page_of([judged("digits/<script>alert(1)</script>", 1)], {"<b>": "a & b"})
    assert "<script>alert" not in page and "<b>" not in page and "a &amp; b" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page) and page.count("<button") == 17


def test_the_sentences_follow_the_numbers():
    table = board_table(some())
    said = board_sentences(table)
    assert "c fails on" in said[1] and "b fails on" not in said[1] and "of 2 of 3 entries" in said[-1].replace("evaluation of", "of") and "of b the numbers under attack are lower bounds" in said[-1]
    sound = table.assign(sound=True)
    turned = sound.assign(**{"failure 95": [0.1, 0.2, 0.3], "union 95": [0.9, 0.2, 0.3]})
    assert "2 of 3 pairs are turned round" in " ".join(board_sentences(turned))
    assert "does not change" in " ".join(board_sentences(turned.assign(**{"union 95": [0.1, 0.3, 0.4]})))
    assert "not known" in " ".join(board_sentences(turned.assign(sound=False)))
    assert board_sentences(board_table([])) == ["No entry could be judged."]


@pytest.mark.parametrize("low, high, group", [(0.0, 0.1, 0), (0.6, 0.9, 1), (0.29, 0.55, 2), (0.5, 0.7, 2)])
def test_who_survives_is_decided_by_the_interval_and_by_sound_evaluations_alone(low, high, group):
    table = board_table([judged("digits/a", 1), judged("digits/b", 2)]).assign(**{"low 95": low, "high 95": high})
    lists = lambda t: re.split(r"These do not|Of these", board_sentences(t)[0])  # noqa: E731
    found = [set(re.findall(r"([ab]) \(confidence", part)) for part in lists(table)]
    assert found == [{"a", "b"} if i == group else set() for i in range(3)]
    half = [set(re.findall(r"([ab]) \(confidence", part)) for part in lists(table.assign(sound=table.name == "digits/a"))]
    assert half == [{"a"} if i == group else set() for i in range(3)]


@pytest.mark.slow
def test_a_press_on_a_head_sorts(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "board.html").write_text(page_of(some()))
    browser.get((tmp_path / "board.html").as_uri())
    heads = browser.find_elements("css selector", "#board thead th")
    column = lambda i: [r.find_elements("css selector", "th, td")[i].get_attribute("data-v") for r in browser.find_elements("css selector", "#board tbody tr")]  # noqa: E731
    at = next(i for i, h in enumerate(heads) if h.text.startswith("right at 99"))
    button = heads[at].find_element("tag name", "button")
    button.click()
    up = [float(v) for v in column(at)]
    assert up == sorted(up) and heads[at].get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert [float(v) for v in column(at)] == sorted(up, reverse=True) and heads[at].get_attribute("aria-sort") == "descending"
    heads[0].find_element("tag name", "button").send_keys(Keys.SPACE)
    assert column(0) == sorted(column(0)) and sum(h.get_attribute("aria-sort") is not None for h in heads) == 1
    width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, "the page itself does not scroll sideways"


def test_what_stands_on_a_board_without_being_named():
    mnist, digits = boards._own("mnist"), boards._own("digits")
    assert len(mnist) >= 16 and len(digits) >= 12 and boards._own("nothing") == []
    assert "mnist/pgd-shell" not in mnist and "digits/pgd-shell" in digits  # on larger images it takes an hour
    assert {"mnist/pgd-shell", "mnist/resnet8-ce-seed0"} <= set(zoo_folders())
    assert not [n for n in mnist + digits if n.split("/")[1].startswith(("resnet", "cnn-", "madry-"))]


def test_the_board_of_the_site_has_the_entries_that_the_command_would_judge():
    page = (Path(__file__).parents[1] / "nbs/sample/board.html").read_text(encoding="utf-8")
    assert set(re.findall(r"<h3[^>]*>(mnist/[^<]+)<", page)) == set(boards._own("mnist"))
