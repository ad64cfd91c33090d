"""`make test-fault`: many seeded runs, then runs with a rule broken that must be seen.

    python -m tests.fault [--seeds 50 | --seed 17] [--plan] [--no-mutations]

Exit code 1 if any run broke a promise, or if a broken rule was not seen.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.faketime import clock_library
from tests.fault.mutations import MUTATIONS
from tests.fault.plan import Plan, make_plan
from tests.fault.postgres import Cluster, own_cluster
from tests.fault.processes import RunFailed
from tests.fault.report import Report, keep_journal
from tests.fault.run import Outcome, run_plan

_BUILD = Path("build")
_console = Console(highlight=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many runs, seeds 1 to N")
    parser.add_argument("--seed", type=int, help="only the run of this seed, without mutations")
    parser.add_argument(
        "--plan", action="store_true", help="say what would be done, and do nothing"
    )
    parser.add_argument("--no-mutations", action="store_true", help="only the runs")
    parser.add_argument("--only-mutations", nargs="*", metavar="NAME", help="only these, or all")
    return parser.parse_args()


async def _run_all(plans: list[Plan], mutations: list[str], report: Report) -> None:
    # Ended politely by a signal, so that no process is left behind.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with own_cluster() as cluster:
        for number, plan in enumerate(plans, start=1):
            if len(plans) == 1:
                _console.print("\n".join(plan.lines()), markup=False)
            outcome = await run_plan(plan, cluster)
            report.runs.append(outcome)
            _console.print(f"[{number}/{len(plans)}] {_line(outcome)}", markup=False)
            _tell_breaches(outcome)
        await _run_mutations(mutations, cluster, report)


async def _run_mutations(names: list[str], cluster: Cluster, report: Report) -> None:
    sound: set[str] = set()
    for number, name in enumerate(names, start=1):
        mutation = MUTATIONS[name]
        at = f"mutation [{number}/{len(names)}] {name}"
        if mutation.needs_clock and clock_library() is None:
            report.mutations_left_out[name] = "libfaketime is absent (FAKETIME_LIB names it)"
            _console.print(f"{at}: left out, {report.mutations_left_out[name]}", markup=False)
            continue
        plan = mutation.plan()
        if repr(plan) not in sound:
            # The same run without the mutation: what is seen then is the mutation's.
            outcome = await run_plan(plan, cluster)
            report.baselines.append(outcome)
            _console.print(f"{at}: without it {_line(outcome)}", markup=False)
            _tell_breaches(outcome)
            sound.add(repr(plan))
        outcome = await run_plan(plan, cluster, name, mutation.statements)
        seen = [b.rule for b in outcome.breaches if b.rule in mutation.seen_by]
        report.mutations[name] = (mutation.what, seen, [str(b) for b in outcome.breaches])
        verdict = f"seen by {', '.join(seen)}" if seen else "NOT SEEN"
        _console.print(f"{at}: {mutation.what}: {verdict} ({outcome.seconds:.1f} s)", markup=False)


def _line(outcome: Outcome) -> str:
    broken = f", BROKEN: {len(outcome.breaches)} rules" if outcome.breaches else ""
    return (
        f"seed {outcome.seed}: {outcome.acknowledged} purchases acknowledged,"
        f" {outcome.faults.total()} faults, {outcome.resolved} unclear outcomes resolved,"
        f" {outcome.seconds:.1f} s{broken}"
    )


def _tell_breaches(outcome: Outcome) -> None:
    if outcome.breaches:
        file = keep_journal(outcome, _BUILD)
        for breach in outcome.breaches:
            _console.print(f"  seed {outcome.seed} broke {breach}", markup=False, style="red")
        _console.print(f"  what the clients were told: {file}", markup=False)


def main() -> int:
    """Run what was asked for; the exit code."""
    arguments = _arguments()
    seeds = [arguments.seed] if arguments.seed is not None else range(1, arguments.seeds + 1)
    plans = [make_plan(seed) for seed in seeds]
    if arguments.plan:
        _console.print("\n".join(line for plan in plans for line in plan.lines()), markup=False)
        return 0
    with_mutations = arguments.seed is None and not arguments.no_mutations
    mutations = list(MUTATIONS) if with_mutations else []
    if arguments.only_mutations is not None:
        plans, mutations = [], arguments.only_mutations or list(MUTATIONS)
    report = Report()
    try:
        asyncio.run(_run_all(plans, mutations, report))
    except RunFailed as failed:
        report.failed = str(failed)
    except (KeyboardInterrupt, asyncio.CancelledError):
        report.failed = "interrupted"
    report.print(_console)
    report.write(_BUILD / "fault.json")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
