"""Topics and shards as tasks on a real Ray cluster of two nodes, one of which is killed in the middle; and shards that give the same table."""

import os
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from projects import TOPICS, WAIT, numbers_of, numbers_project, tables
from toys import turns

from confnb.adapters import from_foolbox, from_torchattacks
from confnb.attacks import pgd, uniform_noise
from confnb.basics import UsageError
from confnb.evaluation.boards import board
from confnb.evaluation.specs import ProjectOutside
from confnb.maxconfidence import max_confidence
from confnb.models import build
from confnb.runtime import generator, streams, uniform
from confnb.sets import Linf
from confnb.tables import evaluate
from confnb.workshop import cluster as cluster_module
from confnb.workshop import plans, runs, staleness
from confnb.workshop.cluster import evaluate_sharded, local, on_ray, stopping

N = 23


@pytest.fixture(scope="module")
def subject(digits):
    return build("model_a", digits.shape, digits.classes, filters=4), digits.x_test[:N], digits.y_test[:N]


def attacks(y):
    """One with a number for a seed, one by default, one with a radius and a target for each example, one without a seed."""
    eps = torch.linspace(0.05, 0.2, N)
    return {
        "pgd": partial(pgd, ball=Linf(0.1), steps=3, restarts=2, seed=5),
        "noise": partial(uniform_noise, ball=Linf(0.1)),
        "each": partial(pgd, ball=Linf(eps), steps=2, target=(y + 1) % 10, seed=streams(3, N)),
        "flip": lambda model, x, y: 1 - x,
    }


@pytest.mark.parametrize("shards", [1, 3, N, 2 * N])
def test_shards_give_the_rows_of_the_whole(subject, shards):
    model, x, y = subject
    chosen = attacks(y)
    scores = {"largest": lambda logits, features: logits.max(1).values}
    whole = evaluate(model, x, y, chosen, scores)
    cut = evaluate_sharded(model, x, y, chosen, scores, shards=shards)
    assert_frame_equal(cut, whole, rtol=1e-4, atol=1e-5)
    assert not pd.Series(whole[whole.attack == "pgd"].linf).eq(0).any()


def test_shards_side_by_side_leave_the_model_alone(subject):
    model, x, y = subject
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with local(3) as submit:
        cut = evaluate_sharded(model, x, y, attacks(subject[2]), shards=5, submit=submit)
    assert_frame_equal(cut, evaluate(model, x, y, attacks(subject[2])), rtol=1e-4, atol=1e-5)
    assert model.training and all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_a_shard_that_counts_from_zero_would_start_elsewhere(subject):
    """Why the seeds are cut: without it, the points differ."""
    model, x, y = subject
    attack = attacks(subject[2])["noise"]
    whole, naive = evaluate(model, x, y, {"a": attack}), evaluate(model, x[10:], y[10:], {"a": attack})
    assert abs(whole[whole.attack == "a"].l2.to_numpy()[10:] - naive[naive.attack == "a"].l2.to_numpy()).max() > 1e-3


def one_number(model, x, y, seed: int = 0):
    return (x + 0.1 * torch.rand(x.shape, generator=generator(seed))).clamp(0, 1)


def hidden_seed(model, x, y):
    return pgd(model, x, y, 0.1, steps=2, restarts=2)


torchattacks = None  # where it is installed, the test below puts it here


class Wrapped:
    def __init__(self, attack):
        self.attack = attack

    def __call__(self, model, x, y):
        return self.attack(model, x, y)


@pytest.mark.parametrize("shards, threads", turns([1, 2, 5], [0, 2], 2))
def test_a_seed_that_nobody_sees_is_the_wholes_too(subject, shards, threads):
    model, x, y = subject
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    hidden = {
        "lambda": lambda m, x, y: pgd(m, x, y, 0.1, 2), "def": hidden_seed, "object": Wrapped(hidden_seed), "keyword": partial(uniform_noise, ball=Linf(0.1), seed=9),
        "partial": partial(from_foolbox(foolbox.attacks.LinfPGD(steps=2), 0.1, seed=4), batch_size=99), "own": one_number,
        "held to the ball": ProjectOutside(lambda m, x, y: uniform_noise(m, x, y, 0.2), Linf(0.2)),
        "foolbox": from_foolbox(foolbox.attacks.LinfPGD(steps=2), 0.1, seed=4), "torchattacks": from_torchattacks(torchattacks.PGD, seed=4, eps=0.1, steps=2),
    }
    whole = evaluate(model, x, y, hidden)
    if threads:
        with local(threads) as submit:
            cut = evaluate_sharded(model, x, y, hidden, shards=shards, submit=submit)
    else:
        cut = evaluate_sharded(model, x, y, hidden, shards=shards)
    assert_frame_equal(cut, whole, rtol=1e-4, atol=1e-5)


def imported(model, x, y):
    import foolbox

    return from_foolbox(foolbox.attacks.LinfPGD(steps=2), 0.1, seed=4)(model, x, y)


def of_foolbox(seed):
    return from_foolbox(pytest.importorskip("foolbox").attacks.LinfPGD(steps=2), 0.1, seed=seed)


def lambdas():
    "Lambdas that hide an attack of another library: in what they close over, take by default, name, import, or call another function for"
    a = of_foolbox(4)
    return {
        "closure": lambda m, x, y: a(m, x, y), "default": lambda m, x, y, b=(a,): b[0](m, x, y), "dictionary": partial(lambda m, x, y, of: of["a"](m, x, y), of={"a": a}),
        "nested": lambda m, x, y: [a(*of) for of in [(m, x, y)]][0], "imported": lambda m, x, y: imported(m, x, y), "named": lambda m, x, y: from_torchattacks(torchattacks.PGD, seed=4, steps=2)(m, x, y),
        "method": Wrapped(lambda m, x, y: a(m, x, y)).__call__,
    }


@pytest.mark.parametrize("name", ["closure", "default", "dictionary", "nested", "imported", "named", "method"])
def test_a_lambda_that_hides_an_attack_of_another_library_is_not_cut(subject, name, monkeypatch):
    monkeypatch.setitem(globals(), "torchattacks", pytest.importorskip("torchattacks"))
    model, x, y = subject
    hidden, sizes = lambdas()[name], []

    def counting(m, x, y):
        sizes.append(len(x))
        return hidden(m, x, y)

    cut = evaluate_sharded(model, x, y, {"a": counting}, shards=3)
    assert sizes == [N]
    assert_frame_equal(cut, evaluate(model, x, y, {"a": counting}), rtol=1e-4, atol=1e-5)


def test_what_is_this_librarys_own_is_cut(subject):
    model, x, y = subject
    sizes, held = [], ([Wrapped(partial(pgd, ball=Linf(0.1), steps=1, seed=5))], pd.DataFrame, torch)

    def counting(m, x, y, of=held):
        sizes.append(len(x))
        return of[0][0](m, x, y)

    evaluate_sharded(model, x, y, {"a": counting, "b": lambda m, x, y: hidden_seed(m, x, y)}, shards=3)
    assert sizes == [8, 8, 7]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_attack_that_was_made_for_the_very_model_is_made_with_it(subject, threads):
    model, x, y = subject
    torchattacks = pytest.importorskip("torchattacks")
    made = torchattacks.PGD(model, eps=0.1, steps=2)
    chosen = {"instance": from_torchattacks(made, seed=4), "lambda": lambda m, x, y: from_torchattacks(made, seed=4)(m, x, y), "pgd": attacks(y)["pgd"]}
    with local(max(threads, 1)) as submit:
        cut = evaluate_sharded(model, x, y, chosen, shards=3, submit=submit if threads else None)
    assert_frame_equal(cut, evaluate(model, x, y, chosen), rtol=1e-4, atol=1e-5)


def test_an_attack_that_draws_for_some_of_its_examples_is_refused(subject):
    def some(model, x, y):
        return torch.cat([uniform(streams(0, len(x) // 2), x[: len(x) // 2]), x[len(x) // 2 :]])

    model, x, y = subject
    assert len(evaluate(model, x, y, {"some": some})) == 2 * N
    with pytest.raises(ValueError, match="one seed for .* of a larger whole; give one seed for each"):
        evaluate_sharded(model, x, y, {"some": some}, shards=2)


def test_a_cluster_where_nobody_listens_is_refused_at_once():
    for address in "localhost:1", "no-such-host.invalid:1":
        began = time.monotonic()
        with pytest.raises(UsageError, match="there is no Ray cluster at"), on_ray(address):
            pass
        assert time.monotonic() - began < 30

@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "ssh", "http"])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_open_port_that_is_not_rays_is_refused_soon(says, scheme, monkeypatch):
    monkeypatch.setattr(cluster_module, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        def greet():
            with server.accept()[0] as connection:
                connection.sendall(says)
                connection.settimeout(20)
                while connection.recv(100):  # until the other side has enough
                    pass

        threading.Thread(target=greet, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(UsageError, match="there is no Ray cluster at .* start one with"):
            cluster_module._ray(f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 10  # Ray itself takes a while to load


def test_less_than_one_shard_is_refused(subject):
    with pytest.raises(ValueError, match="shards must be at least 1"):
        evaluate_sharded(*subject, shards=0)


def test_local_work_that_is_given_up():
    assert not stopping()
    with pytest.raises(KeyboardInterrupt), local(1) as submit:
        first, second = submit(_until_stopped), submit(_until_stopped)
        time.sleep(0.1)
        raise KeyboardInterrupt
    assert first.result(5) == "stopped" and second.cancelled()


def _until_stopped():
    while not stopping():
        time.sleep(0.01)
    return "stopped"


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(UsageError, match=r"needs ray, .* pip install 'confnb\[ray\]'"), on_ray():
        pass


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'confnb[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small | {"num_gpus": 1})  # as far as Ray knows
    yield made, lambda: made.add_node(**{k: v for k, v in small.items() if k != "include_dashboard"})
    made.shutdown()


@pytest.mark.slow
@pytest.mark.soak
def test_shards_survive_a_node_that_dies(cluster, subject, tmp_path):
    made, add = cluster
    second, folder = add(), str(tmp_path)

    def slow(model, x, y):
        """Waits, the first time, until two shards are at work at once and one of them was killed."""
        with open(f"{folder}/{os.getpid()}-{time.time_ns()}", "w"):
            pass
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.05)
        return 1 - x

    def kill():
        while len(os.listdir(folder)) < 2:
            time.sleep(0.05)
        made.remove_node(second, allow_graceful=False)
        Path(folder, "go").touch()

    model, x, y = subject
    chosen = {"pgd": attacks(subject[2])["pgd"], "slow": slow}
    threading.Thread(target=kill, daemon=True).start()
    with on_ray(made.address) as submit:
        cut = evaluate_sharded(model, x, y, chosen, shards=4, submit=submit)
    assert_frame_equal(cut, evaluate(model, x, y, chosen), rtol=1e-4, atol=1e-5)
    assert len(os.listdir(folder)) > 5, "no shard was begun again"


@pytest.mark.slow
def test_topics_survive_a_node_that_dies(cluster, tmp_path, monkeypatch):
    made, add = cluster
    root = numbers_project(tmp_path, {name: WAIT.replace("'pid'", f"f'pid-{{os.getpid()}}-{name}'") for name in ("separation", "maxconfidence")})
    monkeypatch.chdir(root)
    second = add()

    def kill():
        while len(list(root.glob("pid-*"))) < 2:
            time.sleep(0.1)
        made.remove_node(second, allow_graceful=False)
        Path("go").touch()

    threading.Thread(target=kill, daemon=True).start()
    said, plan = [], plans.plan(root, [])
    assert runs.reproduce(plan, said.append, runs.RunOptions(ray=made.address)) == [], said
    ran = (root / "ran.txt").read_text().split()
    assert len(ran) == 3 and set(ran) == {"10_separation", "30_maxconfidence"}
    assert tables(root / "runs/digits") == numbers_of(*TOPICS)
    assert staleness.why_stale(plan, plan.topics[0]) is None and staleness.why_stale(plan, plan.topics[1]) is None


@pytest.mark.slow
def test_a_board_is_judged_by_the_nodes_as_it_is_here(cluster, tmp_path, monkeypatch):
    names, said = ["digits/undefended", "digits/nobody"], []

    def judged(submit=None):
        return board(names, "digits", submit=submit, say=said.append, images=4, effort="quick")

    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "nodes"))
    with on_ray(cluster[0].address) as submit:
        there = judged(submit)
    assert any((tmp_path / "nodes").rglob("*")), "the nodes remember nothing"
    monkeypatch.setenv("CONFNB_CACHE", str(tmp_path / "here"))
    here = judged()
    assert_frame_equal(there.table, here.table, rtol=1e-3, atol=1e-4)
    assert there.left_out == here.left_out and list(here.left_out) == ["digits/nobody"]
    assert there.sentences == here.sentences


@pytest.mark.slow
def test_ctrl_c_stops_the_tasks_too(cluster, tmp_path):
    made, folder = cluster[0], str(tmp_path)

    def patient():
        Path(folder, "began").touch()
        try:
            for _ in range(600):
                time.sleep(0.1)
        finally:
            Path(folder, "stopped").touch()

    with pytest.raises(KeyboardInterrupt), on_ray(made.address) as submit:
        submit(patient)
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt
    until = time.monotonic() + 20  # Ray says that a task has ended before its worker has left it
    while not (tmp_path / "stopped").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / "stopped").exists()


@pytest.mark.slow
def test_a_task_gets_the_gpus_that_were_asked_for(cluster):
    with on_ray(cluster[0].address, gpus=1) as submit:
        assert submit(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).result(60) == "0"


def test_the_most_confident_mistakes_of_a_part_are_those_of_the_whole(subject):
    model, x, y = subject
    chosen = {"mc": lambda model, x, y: max_confidence(model, x, y, Linf(0.1), seed=2), "restarts": partial(max_confidence, ball=Linf(0.1), effort="quick", restarts=2)}
    assert_frame_equal(evaluate_sharded(model, x, y, chosen, shards=3), evaluate(model, x, y, chosen), rtol=1e-3, atol=1e-3)
