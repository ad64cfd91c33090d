"""One run: a fresh database, servers, buyers, readers, faults; then the reckoning."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg

from tests.fault.buyers import Buyer, Street
from tests.fault.calls import opened
from tests.fault.checker import Breach, Evidence, check
from tests.fault.injector import Injector
from tests.fault.journal import EventKept, Journal
from tests.fault.market import Market
from tests.fault.plan import SERVERS, Fault, Plan
from tests.fault.postgres import Cluster
from tests.fault.reader import Reader
from tests.fault.rows import read_rows
from tests.fault.service import Server, served
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.verify import verify

# Whether anything will happen by itself: an event waits for its place, a pass for its end.
_RESTLESS = """
SELECT EXISTS (SELECT FROM events WHERE position IS NULL) OR EXISTS (
    SELECT FROM passes
    WHERE close_time IS NULL AND coalesce(end_time, hold_expire_time) < now() + interval '1 minute'
)"""
_READERS = 2
_ROLL_CALL_SHARE = 0.1


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    mutation: str
    breaches: list[Breach]
    faults: Counter[Fault]
    left_out: Counter[str]
    acknowledged: int
    calls: int
    refusals: Counter[str]
    resolved: int
    events_read: int
    reader_lives: int
    seconds: float
    journal: Journal
    failures: Counter[str] = field(default_factory=Counter)
    logged_errors: Counter[str] = field(default_factory=Counter)


async def run_plan(
    plan: Plan, cluster: Cluster, mutation: str = "", statements: tuple[str, ...] = ()
) -> Outcome:
    """Run a plan on a fresh database of the cluster.

    `mutation` is a fault of the service itself (mutations.py), and `statements` are
    run in the database before it starts. Raises RunFailed where nothing can be said.
    """
    began_s = time.monotonic()
    name = f"run_{plan.seed}_{time.monotonic_ns()}"
    folder = Path(tempfile.mkdtemp(prefix="vf-"))
    try:
        url = await cluster.new_database(name)
        await _execute(url, statements)
        async with served(plan, url, cluster.socket, folder, SERVERS, mutation) as servers:
            outcome = await _run(plan, cluster, servers, url)
        outcome.mutation = mutation
        outcome.logged_errors = sum((server.errors() for server in servers), Counter())
        outcome.seconds = time.monotonic() - began_s
        return outcome
    finally:
        await cluster.drop(name)
        shutil.rmtree(folder, ignore_errors=True)


async def _execute(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _run(plan: Plan, cluster: Cluster, servers: list[Server], url: str) -> Outcome:
    journal = Journal()
    market = Market(plan.goods)
    targets = [server.target for server in servers]
    await market.put_on_sale(targets[0])
    readers = [
        Reader(f"reader {number}", targets, Random(f"{plan.seed}/reader {number}"), journal)
        for number in range(_READERS)
    ]
    async with opened(targets, journal) as desk:
        street = Street(plan, market, desk, journal)
        injector = Injector(plan, cluster, servers, url, desk)
        await _trade(street, injector, readers)
        random = Random(f"{plan.seed}/end")
        await _close(street, random)
    evidence = await _evidence(journal, market, targets, readers, url, plan.patience_s)
    for server in servers:
        await server.close()
        journal.misbehaved += server.ended_by_itself
    # After the last word of the servers: what they say when they stop counts as well.
    breaches = check(evidence)
    return _outcome(plan, journal, injector, breaches)


async def _trade(street: Street, injector: Injector, readers: list[Reader]) -> None:
    """Buyers and readers at work while faults happen, until both are through."""
    reading = [asyncio.create_task(reader.read_on()) for reader in readers]
    buying = [
        asyncio.create_task(Buyer(street, number).buy_on()) for number in range(street.plan.clients)
    ]
    try:
        async with asyncio.timeout(street.plan.longest_s):
            await injector.run()
            while street.acknowledged < street.plan.least_purchases:
                if any(task.done() for task in buying):
                    break
                await asyncio.sleep(0.05)
            street.open = False
            await asyncio.gather(*buying)
    except TimeoutError:
        street.journal.misbehaved.append(
            f"{street.acknowledged} purchases in {street.plan.longest_s:.0f} s,"
            f" {street.plan.least_purchases} were wanted"
        )
    finally:
        for task in (*buying, *reading):
            task.cancel()
        await asyncio.gather(*buying, *reading, return_exceptions=True)


async def _close(street: Street, random: Random) -> None:
    """When all is mended: what is left is bought, and what was not clear is asked again."""
    try:
        async with asyncio.timeout(street.plan.longest_s):
            await street.sell_out(random)
            await street.roll_call(random, _ROLL_CALL_SHARE)
    except TimeoutError:
        street.journal.misbehaved.append("the service does not work when all is mended")


async def _evidence(
    journal: Journal,
    market: Market,
    targets: list[str],
    readers: list[Reader],
    url: str,
    patience_s: float,
) -> Evidence:
    """All that is known when all is quiet."""
    await _still(url, patience_s)
    await asyncio.gather(*(reader.catch_up() for reader in readers))
    rows = await read_rows(url)
    return Evidence(
        journal,
        rows,
        market.goods,
        await _whole_stream(targets),
        await findings(url),
    )


async def _still(url: str, patience_s: float) -> None:
    """Until nothing happens any more; what should and does not is the checker's to tell."""
    connection = await asyncpg.connect(url)
    end_s = time.monotonic() + patience_s
    try:
        while time.monotonic() < end_s and await connection.fetchval(_RESTLESS):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def _whole_stream(targets: list[str]) -> list[EventKept]:
    """Once more from the beginning, in one go."""
    fresh = Reader("afterwards", targets, Random(0), Journal())
    await fresh.catch_up()
    return fresh.log.kept


async def findings(url: str) -> dict[str, list[str]]:
    """What `verify` finds to be broken, by check; {} is sound."""
    options = DatabaseOptions(
        url, pool_size=1, connect_timeout_s=10, statement_timeout_s=60, statement_cache_size=0
    )
    found = await verify(options, lambda _: None)
    return {f.check: list(f.first) for f in found if f.breaches}


def _outcome(plan: Plan, journal: Journal, injector: Injector, breaches: list[Breach]) -> Outcome:
    return Outcome(
        seed=plan.seed,
        mutation="",
        breaches=breaches,
        faults=injector.injected,
        left_out=injector.left_out,
        acknowledged=journal.acknowledged(),
        calls=sum(len(purchase.attempts) for purchase in journal.purchases),
        refusals=journal.refusals(),
        resolved=journal.resolved(),
        events_read=sum(len(log.kept) for log in journal.readers),
        reader_lives=sum(log.starts for log in journal.readers),
        seconds=0.0,
        journal=journal,
        failures=Counter(
            {" ".join(filter(None, what)): times for what, times in journal.failures.items()}
        ),
    )
