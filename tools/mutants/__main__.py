"""`make mutants`: how many of a sample of mutations the tests notice, and which they do not.

A mutant is noticed if a test that passes without it fails, or does not end, with it. A run
that was ended goes on where it was; build/mutants/report.md shows the survivors.
"""

import argparse
import asyncio
import queue
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.conftest import make_template
from tools.mutants import equivalents
from tools.mutants.areas import sample
from tools.mutants.covering import Covering, record
from tools.mutants.model import Mutant
from tools.mutants.results import Result, Results, Verdict, write_report
from tools.mutants.trees import Tree, copy
from voucher_grpc.dev.postgres import throw_away_postgres

PARALLEL = 2


def judge(tree: Tree, mutant: Mutant, covering: Covering) -> Result:
    """Run the tests that execute what was changed, until one fails."""
    tests = covering.tests(mutant)
    reached = covering.reached(mutant)
    if not tests:
        return Result(Verdict.SURVIVED, "", 0, reached, 0.0)
    with tree.changed(mutant):
        while True:
            done = tree.run(covering.limits_s(tests))
            if done.passed:
                return Result(Verdict.SURVIVED, "", len(tests), reached, done.took_s)
            if done.timed_out:
                return Result(Verdict.TIMED_OUT, done.failed, len(tests), reached, done.took_s)
            if not _by_chance(tree, done.failed, covering):
                return Result(Verdict.NOTICED, done.failed, len(tests), reached, done.took_s)
            tests = tests[tests.index(done.failed) + 1 :]
            if not tests:
                return Result(Verdict.SURVIVED, "", 0, reached, done.took_s)


def _by_chance(tree: Tree, failed: str, covering: Covering) -> bool:
    """Whether a test of a server that failed passes alone, with the same mutant."""
    if not failed.startswith("tests/integration"):
        return False  # a failed import names no test
    return tree.run(covering.limits_s([failed])).passed


def check(tree: Tree, covering: Covering) -> None:
    """Without a mutant the tests pass in the copy; otherwise everything would seem noticed."""
    fastest = sorted(covering.durations_s, key=lambda test: covering.durations_s[test])
    some = [test for test in fastest if test.startswith("tests/unit")][:20]
    some += [test for test in fastest if test.startswith("tests/integration")][:5]
    if not tree.run(covering.limits_s(some)).passed:
        raise SystemExit(f"tests fail without a mutant: see {tree.path}/build/output.txt")


def run(mutants: list[Mutant], covering: Covering, results: Results) -> None:
    """Judge what has no result yet, some at a time."""
    waiting = [mutant for mutant in mutants if results.of(mutant, covering.digest) is None]
    print(f"{len(mutants)} mutants, {len(mutants) - len(waiting)} known already", flush=True)
    if not waiting:
        return
    with throw_away_postgres() as url:
        asyncio.run(make_template(url))
        every = [Tree(copy(f"tree-{number}"), url) for number in range(PARALLEL)]
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for tree in every:
            check(tree, covering)
            trees.put(tree)

        def judged(mutant: Mutant) -> Result:
            tree = trees.get()
            try:
                return judge(tree, mutant, covering)
            finally:
                trees.put(tree)

        pool = ThreadPoolExecutor(PARALLEL)
        try:
            futures = {pool.submit(judged, mutant): mutant for mutant in waiting}
            for number, future in enumerate(as_completed(futures), 1):
                mutant, result = futures[future], future.result()
                results.add(mutant, covering.digest, result)
                print(f"[{number}/{len(waiting)}] {_line(mutant, result)}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for tree in every:
                tree.end()


def _line(mutant: Mutant, result: Result) -> str:
    where = mutant.change.statement or f"{mutant.path}:{mutant.change.lines.start}"
    by = f" by {result.test}" if result.test else f" {result.tests} of {result.reached} tests"
    return f"{result.verdict} {where} {mutant.change.operator},{by}, {result.took_s:.0f} s"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--list", action="store_true", help="show the sample and stop")
    given = parser.parse_args()
    reviewed = equivalents.read()
    if stale := equivalents.stale(reviewed):
        print("equivalents.yaml: gone:", *stale, sep="\n  ", file=sys.stderr)
        return 1
    mutants = sample(given.mutants, given.seed, equivalents.keys(reviewed))
    if given.list:
        for mutant in mutants:
            print(f"{mutant.key} {mutant.area}: {mutant.change.operator}\n{mutant.diff}\n")
        return 0
    record()
    covering, results = Covering(), Results()
    run(mutants, covering, results)
    print(write_report(mutants, results, covering.digest, given.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
