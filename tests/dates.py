"""`make test-dates`: what the README shows, run on many days of two years.

    python -m tests.dates [--dates 60] [--jobs 2] [TESTS ...]

On each date `make demo`'s command and the tests of the demo and of the README's calls
run with Postgres, server and client under libfaketime. Prints by how much each first
offer leads at the least, and exits with 1 if anything failed, or with 0 and the reason
where libfaketime is absent. TESTS: other tests instead, such as `tests/unit`.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from tests.demo_offers import FIRST_OFFERS, LEAST_LEAD, PAYS_NOTHING, shown_to
from tests.faketime import clock_library, moved_clock, sweep
from tests.integration.test_readme import grpcurl_program
from voucher_grpc.dev.demo.users import NAMED_USERS

_DEMO = "tests/integration/test_demo.py"
_TESTS = (_DEMO, "tests/integration/test_readme.py")
# The first names its dates, and the second is what `make demo` does. The third is what
# grpcurl does, with a client that takes as long as all the rest.
_LEFT_OUT = [
    f"{_DEMO}::test_each_demo_user_gets_the_same_first_offer_on_any_day",
    f"{_DEMO}::test_what_the_demo_shows_holds",
]
_BUF = "tests/integration/test_readme.py::test_the_same_calls_work_with_buf_curl"
_TIMEOUT_S = 900.0
_END_S = 30.0
_LAST_LINES = 25
_console = Console(highlight=False, soft_wrap=True)

# What CI runs stands first: midnights pass and clocks change while the tests run.
_SPECIAL = (
    "2026-11-25T09:00:00",
    "2026-12-31T22:59:55",  # New Year in Oslo
    "2027-03-28T00:59:55",  # summer time begins
    "2027-10-31T00:59:55",  # and ends
    "2028-02-29T12:00:00",
    "2027-07-04T13:30:00",
    "2026-12-31T23:59:55",  # New Year in UTC
    "2027-01-01T00:30:00",
    "2027-02-28T22:59:55",
    "2027-03-27T22:59:55",
    "2027-03-28T00:30:00",
    "2027-03-28T01:30:00",
    "2027-03-29T00:30:00",
    "2027-10-30T21:59:55",
    "2027-10-31T00:30:00",  # 02:30 for the first time
    "2027-10-31T01:30:00",  # and for the second
    "2027-10-31T22:59:55",
    "2027-11-01T11:00:00",
    "2027-12-31T22:59:55",
    "2028-01-01T00:30:00",
    "2028-02-28T22:59:55",
    "2028-02-29T22:59:55",
    "2028-03-26T00:59:55",
    "2028-10-29T00:59:55",
)
_FIRST_DAY = datetime(2026, 11, 25, tzinfo=UTC)
_SPAN = timedelta(days=730)
ALL = 60


def chosen_dates(count: int) -> list[datetime]:
    """The special ones, and others spread evenly over two years, at all hours."""
    special = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in _SPECIAL[:count]]
    others = count - len(special)
    return special + [_FIRST_DAY + _SPAN * (n + 0.5) / others for n in range(others)]


@dataclass
class Findings:
    """How much failed, and the least lead of each demo user's first offer with its date."""

    failures: int = 0
    least: dict[str, tuple[float, datetime]] = field(default_factory=dict)

    def look_at_offers(self, now: datetime, failed: list[str]) -> float:
        """Note the leads at an instant, and in `failed` what is wrong; the least of them."""
        leads = []
        for user in NAMED_USERS:
            shown = shown_to(user, now)
            if shown.product_ids[0] != FIRST_OFFERS[user.user_id]:
                failed.append(f"{user.user_id} is offered {shown.product_ids[0]} first")
            if user.user_id not in PAYS_NOTHING:
                leads.append(shown.lead)
                known = self.least.get(user.user_id, (shown.lead, now))
                self.least[user.user_id] = min(known, (shown.lead, now))
        if min(leads) < LEAST_LEAD:
            failed.append(f"the least lead is {min(leads):.1%}, less than {LEAST_LEAD:.0%}")
        return min(leads)


async def run(command: Sequence[str], library: Path, date: datetime) -> str:
    """Run a command on a date; "" if it succeeded, else the last of what it said."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **moved_clock(library, date)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            code = await asyncio.wait_for(process.wait(), _TIMEOUT_S)
        except TimeoutError:
            code = -1
        finally:
            await end(process)
        output.seek(0)
        said = output.read().decode(errors="replace").splitlines()
    return "" if code == 0 else "\n".join([f"exit code {code}", *said[-_LAST_LINES:]])


async def end(process: asyncio.subprocess.Process) -> None:
    """Interrupt what still runs, so that it stops its Postgres; kill what does not end then."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
    sweep(process.pid)


def commands(tests: Sequence[str]) -> list[list[str]]:
    """What runs on each date."""
    pytest = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"]
    if tests:
        return [[*pytest, *tests]]
    demo = [sys.executable, "-m", "voucher_grpc.cli", "demo"]
    names = _LEFT_OUT if grpcurl_program() is None else [*_LEFT_OUT, _BUF]
    left_out = [f"--deselect={name}" for name in names]
    return [demo, [*pytest, *left_out, *_TESTS]]


async def run_all(
    dates: Sequence[datetime], jobs: int, tests: Sequence[str], library: Path
) -> Findings:
    """So many dates at once, in order."""
    findings, waiting, done = Findings(), iter(dates), 0

    async def work() -> None:
        nonlocal done
        for date in waiting:
            failed = [said for c in commands(tests) if (said := await run(c, library, date))]
            lead = await asyncio.to_thread(findings.look_at_offers, date, failed)
            findings.failures += len(failed)
            done += 1
            verdict = "FAILED" if failed else "ok"
            _console.print(
                f"{done:3} of {len(dates)}  {date:%F %T} UTC  {verdict}  lead {lead:.1%}"
            )
            for said in failed:
                _console.print(said, style="red", markup=False)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(work())
    return findings


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.dates", description=__doc__)
    parser.add_argument("--dates", type=int, default=ALL, help="how many dates")
    parser.add_argument("--jobs", type=int, default=2, help="how many of them at once")
    parser.add_argument("tests", nargs="*", help="tests to run instead of the demo's")
    arguments = parser.parse_args()
    library = clock_library()
    if library is None:
        _console.print("skipped: libfaketime is absent (FAKETIME_LIB names it)")
        return 0
    dates = chosen_dates(arguments.dates)
    findings = asyncio.run(run_all(dates, arguments.jobs, arguments.tests, library))
    for user_id, (lead, date) in sorted(findings.least.items(), key=lambda item: item[1]):
        _console.print(f"{user_id}: the first offer leads by {lead:.1%} or more ({date:%F %T})")
    _console.print(f"{len(dates)} dates, {findings.failures} failures")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
