"""Lines of the log: a slow call says where its time went, and every line whose call it was."""

import asyncio
import io
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.conftest import Service, serving
from tests.integration.operating import PATIENCE_S, held_up, until_metric, until_started
from tests.integration.shop import buy, create, outcome, signed_offer, until_waiting
from voucher_grpc.client import Client
from voucher_grpc.telemetry.logs import configure_logs

READ = "%WHERE p.user_id = $1 AND p.pass_id = $2%"
SLOW_S, HELD_S = 0.1, 0.4


class Lines:
    """What is logged, line by line."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        lines = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def until(self, event: str, number: int = 1) -> list[dict[str, Any]]:
        """The lines of an event once there are so many: an answer is there before its line."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self.of(event)) < number:  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The log as JSON lines, as `serve` writes it."""
    stream = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        configure_logs("json", "info")
        yield Lines(stream)
    configure_logs("console", "error")


@asynccontextmanager
async def callers(service: Service, *request_ids: str) -> AsyncIterator[list[Client]]:
    """A client for each request id, which it sends."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(service.target, metadata=[("x-request-id", request_id)])
            )
            for request_id in request_ids
        ]


def adds_up(line: dict[str, Any]) -> bool:
    """Whether the parts of a batched call are the whole: took_s is given in milliseconds."""
    parts = line["waited_s"] + line["flush_s"] + line["rest_s"]
    return bool(abs(line["took_s"] - parts) < 0.002)


async def longer_than_since(began_s: float) -> float:
    """Sleep for longer than it has been since then, however slow the machine; for how long."""
    held_s = max(HELD_S, 2 * (time.monotonic() - began_s))
    await asyncio.sleep(held_s)
    return held_s


async def test_a_slow_purchase_says_what_it_waited_for(fresh_database: str, lines: Lines) -> None:
    """The one that met the lock: its statements. The two behind it: the batch before theirs."""
    async with (
        serving(fresh_database, slow_call_s=SLOW_S) as service,
        callers(service, "met", "behind-1", "behind-2") as clients,
    ):
        created = await create(clients[0], "p")
        works = []
        async with held_up(fresh_database):
            began_s = time.monotonic()
            for number, client in enumerate(clients):
                offer = signed_offer(created, f"user-{number}")
                works.append(asyncio.create_task(buy(client, offer)))
                await until_started(service.server, "PurchasePass", number + 1)
                await until_waiting(fresh_database)
            held_s = await longer_than_since(began_s)
        await asyncio.gather(*works)
        found = {line["request_id"]: line for line in await lines.until("slow_call", 3)}
    met, behind = found["met"], [found["behind-1"], found["behind-2"]]
    assert {"PurchasePass"} == {line["method"] for line in found.values()}
    assert (1, 1, 2, 2) == (met["batches"], met["batch_size"], *(b["batch_size"] for b in behind))
    assert met["flush_s"] >= met["sql_s"]
    assert met["statements"] >= 5
    # What it waited for before its statement was over by the time that the holding began.
    assert met["sql_s"] >= held_s > met["waited_s"]
    for line in behind:
        assert line["waited_s"] >= held_s
        assert line["flush_s"] >= line["sql_s"] > 0
    assert [True] * 3 == [adds_up(line) for line in found.values()]


async def test_who_gives_up_is_told_of_with_what_it_had_waited_for(
    fresh_database: str, lines: Lines
) -> None:
    """Their calls end in the queue and in the midst of a batch."""
    async with serving(fresh_database, slow_call_s=SLOW_S) as service:
        async with callers(service, "set-up") as [client]:
            created = await create(client, "p")
        clients = [
            Client(service.target, metadata=[("x-request-id", name)], timeout_s=PATIENCE_S)
            for name in ("met", "behind")
        ]
        works = []
        async with held_up(fresh_database):
            for number, client in enumerate(clients):
                offer = signed_offer(created, f"user-{number}")
                works.append(asyncio.create_task(outcome(buy(client, offer))))
                await until_started(service.server, "PurchasePass", number + 1)
                await until_waiting(fresh_database)
            await until_metric(service, "voucher_waiting{batch=purchases}", 1)
            await asyncio.sleep(HELD_S)
            for client in clients:
                await client.close()
            found = {line["request_id"]: line for line in await lines.until("slow_call", 2)}
        await asyncio.gather(*works, return_exceptions=True)
    met, behind = found["met"], found["behind"]
    assert met["flush_s"] >= HELD_S
    assert behind["waited_s"] >= HELD_S
    assert "flush_s" not in behind
    assert adds_up(met)


async def test_a_slow_call_of_the_pool_tells_its_statement_from_the_wait_for_a_connection(
    fresh_database: str, lines: Lines
) -> None:
    """With one connection: who has it waits for the lock, the other one for the connection."""
    pass_id = str(uuid.uuid4())
    async with (
        serving(fresh_database, slow_call_s=SLOW_S, pool_size=1, health_interval_s=60) as service,
        callers(service, "has-it", "wants-it") as clients,
    ):
        connection = await asyncpg.connect(fresh_database)
        async with connection.transaction():
            await connection.execute("LOCK TABLE passes IN ACCESS EXCLUSIVE MODE")
            works, began_s = [], time.monotonic()
            for number, client in enumerate(clients):
                works.append(asyncio.create_task(outcome(client.get_pass("alice", pass_id))))
                await until_started(service.server, "GetPass", number + 1)
                await until_waiting(fresh_database)
            held_s = await longer_than_since(began_s)
            let_go_s = time.monotonic()
        await connection.close()
        assert ["PASS_NOT_FOUND"] * 2 == await asyncio.gather(*works)
        found = {line["request_id"]: line for line in await lines.until("slow_call", 2)}
    after_s = time.monotonic() - let_go_s
    has, wants = found["has-it"], found["wants-it"]
    assert has["sql_s"] >= held_s > has["connect_s"]
    assert wants["connect_s"] >= held_s
    # It had no connection before the lock was let go.
    assert wants["sql_s"] <= after_s
    assert (2, 2) == (has["statements"], wants["statements"])  # the pool's reset is one
    for line in (has, wants):
        parts = line["connect_s"] + line["sql_s"] + line["rest_s"]
        assert abs(line["took_s"] - parts) < 0.002
        assert line["rest_s"] <= line["took_s"] - held_s


async def test_an_error_of_the_store_is_logged_under_the_calls_id(
    fresh_database: str, lines: Lines
) -> None:
    """And the refusal that comes of it; the id is the same where the caller sent none."""
    async with serving(fresh_database) as service, callers(service, "named") as [client]:
        connection = await asyncpg.connect(fresh_database)
        async with connection.transaction():
            await connection.execute("LOCK TABLE passes IN ACCESS EXCLUSIVE MODE")
            works = [
                asyncio.create_task(outcome(caller.get_pass("alice", str(uuid.uuid4()))))
                for caller in (client, service.client)
            ]
            await until_waiting(fresh_database, 2, READ)
            await end_those_who_wait(connection)
            refused = await lines.until("refused", 2)
        await connection.close()
        await asyncio.gather(*works)  # the client tries again
    # What the server does by itself waited too, and is nobody's call.
    failed = [line for line in lines.of("store_error") if "request_id" in line]
    found = {line["request_id"] for line in failed}
    assert (2, True) == (len(found), "named" in found)
    assert found == {line["request_id"] for line in refused}


async def end_those_who_wait(connection: "asyncpg.Connection[Any]") -> None:
    """End the connections that wait for a lock."""
    # Within a transaction the view does not change by itself.
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )


async def test_a_failed_batch_is_logged_under_the_ids_of_its_calls(
    fresh_database: str, lines: Lines
) -> None:
    """Of the first sixteen; the line about the poisoned one alone is its own."""
    names = [f"call-{number}" for number in range(20)]
    async with (
        serving(fresh_database) as service,
        callers(service, "first", *names) as [first, *others],
    ):
        created = await create(first, "p")
        connection = await asyncpg.connect(fresh_database)
        await connection.execute("ALTER TABLE passes ADD CHECK (vehicle_id <> 'poison') NOT VALID")
        await connection.close()
        async with held_up(fresh_database):
            works = [asyncio.create_task(outcome(buy(first, signed_offer(created, "held"))))]
            await until_waiting(fresh_database)
            for number, client in enumerate(others):
                offer = signed_offer(created, f"user-{number}")
                vehicle_id = "poison" if number == 7 else ""
                work = outcome(buy(client, offer, vehicle_id=vehicle_id))
                works.append(asyncio.create_task(work))
                await until_started(service.server, "PurchasePass", number + 2)
        results = await asyncio.gather(*works)
        failed = lines.of("batch_failed")
        [call] = await lines.until("call_failed")
    assert ["INTERNAL"] == [result for result in results if isinstance(result, str)]
    assert 20 == failed[0]["size"]
    assert names[:16] == failed[0]["request_ids"]
    assert "call-7" == call["request_id"]
