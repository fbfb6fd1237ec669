"""Runs the fuzzer, says what it found, and exits with 1 where there is a fault."""

import argparse
import collections
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from .oracle import FAULTS, SECONDS, VERDICTS, Case, Outcome, case, run


def work(there: Connection, seed: int, numbers: list[int]) -> None:
    "The cases of one worker, told one by one"
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        for number in numbers:
            there.send(run(case(seed, number)))


def outcomes(seed: int, numbers: list[int], jobs: int) -> Iterator[Outcome]:
    "The outcomes of the cases, from that many processes; where one dies or is silent for long, that is the verdict, and another goes on"
    waiting, busy = [numbers[i::jobs] for i in range(min(jobs, len(numbers)))], {}
    while waiting or busy:
        for left in waiting:
            here, there = multiprocessing.Pipe(False)
            process = multiprocessing.get_context("fork").Process(target=work, args=(there, seed, left), daemon=True)
            process.start()
            there.close()
            busy[here] = [process, left, time.monotonic()]
        waiting = []
        ready = wait(busy, 1)
        for pipe, (process, left, heard) in list(busy.items()):
            if pipe not in ready and time.monotonic() - heard < 3 * SECONDS:
                continue
            try:
                told = pipe.recv() if pipe in ready else None
            except EOFError:
                told = None
            rest = left[1:]
            if told and rest:
                busy[pipe] = [process, rest, time.monotonic()]
            else:
                process.kill()
                process.join()
                del busy[pipe]
                waiting += [rest] if rest else []
            yield told or Outcome(case(seed, left[0]), "crash" if pipe in ready else "hang", "", f"the process ended with {process.exitcode}")


def kind_of_fault(o: Outcome) -> tuple[str, str, str]:
    "What faults have in common: the verdict, the error, and the first words"
    return o.verdict, o.error, " ".join(re.sub(r"[\d.]+|<.*?>|\(.*?\)|\[.*?\]", "#", o.says).split()[:8])


def odd_of(c: Case) -> str:
    return ", ".join(f"{place}: {kind}" for place, kind in c.odd.items())


def often(things: Iterable[str], most: int = 6) -> str:
    "How often each occurs, in words"
    counted = collections.Counter(things).most_common()
    return ", ".join(f"{k} {n}" for k, n in counted[:most]) + (f", and {len(counted) - most} more" if len(counted) > most else "")


def groups(faults: list[Outcome]) -> list[dict]:
    "Faults with the same words together, the most frequent first, with what they were called with and the case with the fewest odd ingredients"
    found = collections.defaultdict(list)
    for o in faults:
        found[kind_of_fault(o)].append(o)
    return [{"verdict": v, "error": error, "says": words, "cases": len(every),
             "functions": often(o.case.function for o in every), "ingredients": often(f"{p}: {k}" for o in every for p, k in o.case.odd.items()),
             "example": (first := min(every, key=lambda o: (len(o.case.odd), o.case.number))).case.number,
             "call": f"{first.case.function}({odd_of(first.case)})", "message": first.says}
            for (v, error, words), every in sorted(found.items(), key=lambda pair: (FAULTS.index(pair[0][0]), -len(pair[1])))]


def summary(done: list[Outcome], seed: int, seconds: float) -> dict:
    "All that is told of a run"
    faults = [o for o in done if o.verdict in FAULTS]
    counts = collections.Counter(o.verdict for o in done)
    by = collections.defaultdict(collections.Counter)
    for o in done:
        by[o.case.function][o.verdict] += 1
    return {"seed": seed, "cases": len(done), "seconds": round(seconds), "verdicts": {v: counts[v] for v in VERDICTS},
            "functions": {f: dict(c) for f, c in sorted(by.items())}, "faults": groups(faults)}


def text(found: dict) -> Iterator[str]:
    "The summary as lines"
    yield f"{found['cases']} cases of seed {found['seed']} in {found['seconds']} s: " + ", ".join(f"{v} {n}" for v, n in found["verdicts"].items())
    for g in found["faults"]:
        yield f"\n{g['verdict']} {g['cases']} x {g['error']}: {g['message']}\n    --only {g['example']}: {g['call']}\n    {g['functions']}\n    {g['ingredients']}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=15_000)
    parser.add_argument("--only", type=int, nargs="*", help="these cases alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the summary")
    given = parser.parse_args(arguments)
    numbers, began, done = given.only or list(range(given.cases)), time.monotonic(), []
    for outcome in outcomes(given.seed, numbers, given.jobs):
        done.append(outcome)
        if given.only:
            c = outcome.case
            print(f"{c.number}: {c.function}({', '.join(f'{p}: {k}' for p, k in c.kinds.items())})\n    {outcome.verdict} {outcome.error} {outcome.says}")
        elif sys.stderr.isatty():
            print(f"\r{len(done)} of {len(numbers)}", end="", file=sys.stderr)
    found = summary(done, given.seed, time.monotonic() - began)
    print("\n".join(text(found)))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
