"""StreamEvents: each purchase is told once, in order, to whoever reads on from a cursor.

Over a socket, on a real Postgres; what commits late commits late for real.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest

from tests.conftest import Service, new_database, serving
from tests.integration.operating import until
from tests.integration.shop import (
    breaches,
    buy,
    create,
    fetch,
    outcome,
    outcomes,
    sequenced,
    signed_offer,
)
from voucher_grpc.client import CallFailed, Client, service_config
from voucher_grpc.domain.passes.event import Cursor
from voucher_grpc.edge.wire.events import cursor_text
from voucher_grpc.store import queries
from voucher_grpc.store.events import BATCH_EVENTS
from voucher_grpc.v1 import event_service_pb2 as pb
from voucher_grpc.v1.user_service_pb2 import EraseUserRequest

PURCHASED = pb.EventType.EVENT_TYPE_PASS_PURCHASED
TIMEOUT_S = 60.0
# Far beyond what a stop takes that waits for nobody.
DRAIN_S = 240.0


async def read(client: Client, cursor: str = "", **wanted: Any) -> list[pb.StreamEventsResponse]:
    """All messages up to the end, the opening one first."""
    stream = client.stream_events(cursor, timeout_s=TIMEOUT_S, **wanted)
    return [message async for message in stream]


def events_of(messages: Sequence[pb.StreamEventsResponse]) -> list[pb.Event]:
    return [message.event for message in messages if message.HasField("event")]


def keys(events: Sequence[pb.Event]) -> list[tuple[str, int]]:
    """(user_id, event_seq) of each, in the order in which they came."""
    return [(e.pass_event.user_id, e.pass_event.event_seq) for e in events]


async def take(
    stream: AsyncIterator[pb.StreamEventsResponse], count: int
) -> list[pb.StreamEventsResponse]:
    """The next messages with an event."""
    taken: list[pb.StreamEventsResponse] = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(taken) < count:
            message = await anext(stream)
            if message.HasField("event"):
                taken.append(message)
    return taken


def assert_in_order(events: Sequence[pb.Event]) -> None:
    """Each user's events are numbered 1, 2, 3 in the order in which they came."""
    seen: dict[str, int] = {}
    for user_id, event_seq in keys(events):
        assert seen.get(user_id, 0) + 1 == event_seq, user_id
        seen[user_id] = event_seq


async def write_events(
    connection: Any, user_id: str, numbers: Sequence[int], age_s: float = 0.0
) -> None:
    """Events as a purchase writes them, without the purchase."""
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    await connection.executemany(
        """INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
        VALUES ($1, $2, 'PASS_PURCHASED', $3, $4)""",
        [(user_id, number, uuid.uuid4(), at) for number in numbers],
    )


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def fill(url: str, users: int, each: int) -> None:
    """Many events at once."""
    async with connected(url) as connection:
        await connection.execute(
            """INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
            SELECT 'user-' || u, s, 'PASS_PURCHASED', gen_random_uuid(), now()
            FROM generate_series(1, $1::int) u, generate_series(1, $2::int) s""",
            users,
            each,
        )


async def test_each_purchase_of_many_buyers_arrives_once_and_in_order(
    fresh_service: Service,
) -> None:
    """A reader that follows while 40 users buy five passes each, and one that comes later."""
    client = fresh_service.client
    created = await create(client, "p")
    async with aclosing(client.stream_events(follow=True)) as live:
        offers = [signed_offer(created, f"user-{n % 40}", lifetime_s=600 + n) for n in range(200)]
        counts, seen = await asyncio.gather(
            outcomes(buy(client, offer) for offer in offers), take(live, 200)
        )
    assert {"OK": 200} == counts
    events = events_of(seen)
    assert_in_order(events)
    rows = await fetch(fresh_service.database_url, "SELECT user_id, pass_id::text FROM passes")
    told = sorted((e.pass_event.user_id, e.pass_event.pass_id) for e in events)
    assert sorted((row["user_id"], row["pass_id"]) for row in rows) == told
    assert events == events_of(await read(client))
    assert {} == await breaches(fresh_service.database_url)


async def test_an_event_has_the_envelope_of_cloudevents(fresh_service: Service) -> None:
    """Its id and source name it, its data are typed; a first message says where it begins."""
    client = fresh_service.client
    bought = await buy(client, signed_offer(await create(client, "p"), "alice"))
    opening, told = await read(client)
    assert not opening.HasField("event")
    [(stream_id,)] = await fetch(fresh_service.database_url, "SELECT stream_id FROM event_stream")
    expected = pb.Event(
        id="1",
        source=f"urn:uuid:{stream_id}",
        specversion="1.0",
        type="voucher_grpc.v1.PASS_PURCHASED",
        subject=bought.pass_id,
        time=bought.purchase_time,
        pass_event=pb.PassEvent(
            user_id="alice", pass_id=bought.pass_id, event_seq=1, event_type=PURCHASED
        ),
    )
    assert expected == told.event
    assert [told] == (await read(client, opening.cursor))[1:]
    assert [told.cursor] == [m.cursor for m in await read(client, told.cursor)]


async def test_a_reader_that_was_cut_off_resumes_without_a_gap(fresh_service: Service) -> None:
    """It is cancelled again and again in the middle of the stream while others buy."""
    client = fresh_service.client
    created = await create(client, "p")
    offers = [signed_offer(created, f"user-{n % 15}", lifetime_s=600 + n) for n in range(150)]
    buying = asyncio.create_task(outcomes(buy(client, offer) for offer in offers))
    cursor, seen = "", list[pb.StreamEventsResponse]()
    while len(seen) < 150:
        async with aclosing(client.stream_events(cursor, follow=True)) as stream:
            seen += await take(stream, min(7, 150 - len(seen)))
        cursor = seen[-1].cursor
    assert {"OK": 150} == await buying
    assert_in_order(events_of(seen))
    assert 150 == len(set(keys(events_of(seen))))
    assert [] == events_of(await read(client, cursor))


async def test_what_commits_late_is_told_and_holds_nobody_up(fresh_service: Service) -> None:
    """A transaction with the oldest event and the lowest xid stays open; others are told.

    Once it commits, a reader that is past younger events hears of it.
    """
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p")
    async with connected(url) as late:
        transaction = late.transaction()
        await transaction.start()
        await write_events(late, "late", [1, 2], age_s=3600)
        async with aclosing(client.stream_events(follow=True)) as live:
            for n in range(20):
                await buy(client, signed_offer(created, f"user-{n}"))
            before = await take(live, 20)
            assert "late" not in dict(keys(events_of(before)))
            await transaction.commit()
            after = await take(live, 2)
    assert [("late", 1), ("late", 2)] == keys(events_of(after))
    assert after == (await read(client, before[-1].cursor))[1:]


async def test_a_user_whose_events_are_locked_keeps_the_order(fresh_service: Service) -> None:
    """An erasure locks a user's events one by one; what follows a locked one waits for it."""
    url = fresh_service.database_url
    async with connected(url) as sequencer, connected(url) as writer, connected(url) as eraser:
        held, erasure = sequencer.transaction(), eraser.transaction()
        await held.start()
        await erasure.start()
        await sequencer.execute("SELECT FROM event_stream FOR UPDATE")
        await write_events(writer, "alice", [1, 2, 3])
        await write_events(writer, "bob", [1, 2, 3])
        await eraser.execute(
            "SELECT FROM events WHERE user_id = 'alice' AND event_seq = 2 FOR UPDATE"
        )
        await held.commit()
        told = events_of(await read(fresh_service.client))
        assert [("alice", 1), ("bob", 1), ("bob", 2), ("bob", 3)] == keys(told)
        await erasure.commit()
    await sequenced(url)
    told = events_of(await read(fresh_service.client))
    assert [("alice", 2), ("alice", 3)] == keys(told)[4:]


async def test_a_forgotten_snapshot_holds_nobody_up(fresh_service: Service) -> None:
    """A transaction that only reads keeps Postgres from forgetting; events go on being told."""
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p")
    async with connected(url) as forgotten, forgotten.transaction(isolation="repeatable_read"):
        await forgotten.fetch("SELECT count(*) FROM events")
        await fill(url, users=2_000, each=10)
        await sequenced(url)
        async with aclosing(client.stream_events(event_types=[PURCHASED], follow=True)) as live:
            await take(live, 20_000)
            await buy(client, signed_offer(created, "alice"))
            # It is told although the snapshot is still held: nothing here ends it before.
            assert [("alice", 1)] == keys(events_of(await take(live, 1)))
            assert forgotten.is_in_transaction()


async def test_a_sequencer_that_freezes_loses_its_turn(fresh_service: Service) -> None:
    """It holds the lock and says nothing more; after ten seconds others work again."""
    client, url = fresh_service.client, fresh_service.database_url
    async with connected(url) as frozen:
        transaction = frozen.transaction()
        await transaction.start()
        await frozen.fetchrow(queries.load("events")["turn"])
        bought = await buy(client, signed_offer(await create(client, "p"), "alice"))
        assert [] == events_of(await read(client))
        await sequenced(url)
        assert [bought.pass_id] == [event.subject for event in events_of(await read(client))]


async def test_two_servers_give_each_event_one_position(fresh_database: str) -> None:
    """Both sequence what is bought on either; readers of both see the same stream."""
    async with serving(fresh_database) as one, serving(fresh_database) as two:
        created = await create(one.client, "p")
        await fill(fresh_database, users=300, each=20)
        offers = [signed_offer(created, f"buyer-{n % 30}", lifetime_s=600 + n) for n in range(300)]
        works = [buy((one, two)[n % 2].client, offer) for n, offer in enumerate(offers)]
        assert {"OK": 300} == await outcomes(works)
        await sequenced(fresh_database)
        first, second = await asyncio.gather(read(one.client), read(two.client))
        assert first == second
        events = events_of(first)
        assert 6_300 == len(events) == len(set(keys(events))) == len({e.id for e in events})
        assert_in_order(events)
        worked = [s.server.metrics.events_sequenced._value.get() for s in (one, two)]
        assert 6_300 == sum(worked)


async def test_only_the_types_that_are_wanted_are_sent(fresh_service: Service) -> None:
    """And the cursor moves on past the others, so that they are not looked at again."""
    client, url = fresh_service.client, fresh_service.database_url
    async with connected(url) as connection:
        await connection.execute("ALTER TABLE events DROP CONSTRAINT events_event_type_check")
        await write_events(connection, "alice", range(1, 1_301))
        await connection.execute(
            "UPDATE events SET event_type = 'SOMETHING_NEW' WHERE event_seq NOT IN (3, 700)"
        )
    await sequenced(url)
    messages = await read(client, event_types=[PURCHASED])
    assert [("alice", 3), ("alice", 700)] == keys(events_of(messages))
    assert [False, True, True, False] == [m.HasField("event") for m in messages]
    everything = await read(client)
    assert 1_300 == len(events_of(everything))
    assert everything[-1].cursor == messages[-1].cursor
    new = events_of(everything)[0]
    assert ("voucher_grpc.v1.SOMETHING_NEW", 0) == (new.type, new.pass_event.event_type)


async def test_a_slow_reader_holds_up_nobody_and_fills_no_memory(fresh_service: Service) -> None:
    """It takes one event and then none: the server sends what the transport holds, and waits."""
    client, url = fresh_service.client, fresh_service.database_url
    await fill(url, users=300, each=100)
    await sequenced(url)
    sent = fresh_service.server.metrics.sent.labels(
        "server_stream", "voucher_grpc.v1.EventService", "StreamEvents"
    )
    options = [("grpc.http2.bdp_probe", 0), ("grpc.service_config", service_config())]
    async with grpc.aio.insecure_channel(fresh_service.target, options) as channel:
        method: Any = channel.unary_stream(
            "/voucher_grpc.v1.EventService/StreamEvents",
            request_serializer=pb.StreamEventsRequest.SerializeToString,
            response_deserializer=pb.StreamEventsResponse.FromString,
        )
        call = method(pb.StreamEventsRequest())
        taken = [await call.read(), await call.read()]

        async def stalls() -> bool:
            before = sent._value.get()
            await asyncio.sleep(0.5)
            return bool(before == sent._value.get())

        await until(stalls)
        assert sent._value.get() < 20_000
        assert 30_000 == len(events_of(await read(client)))
        bought = await buy(client, signed_offer(await create(client, "p"), "alice"))
        assert "alice" == bought.user_id
        while (message := await call.read()) is not grpc.aio.EOF:
            taken.append(message)
    events = events_of(taken)
    assert 30_000 == len(events)
    assert_in_order(events)


async def test_what_is_older_than_the_retention_leaves_the_stream(fresh_database: str) -> None:
    """A cursor from before is refused by name; without one the stream begins at what is kept."""
    async with serving(fresh_database) as service:
        await fill(fresh_database, users=1, each=10)
        await sequenced(fresh_database)
        old = await read(service.client)
    async with connected(fresh_database) as connection:
        await connection.execute("INSERT INTO event_marks VALUES (6, now() - interval '8 days')")
        await connection.execute("INSERT INTO event_marks VALUES (4, now() - interval '9 days')")
    async with serving(fresh_database, event_retention_days=7) as service:

        async def dropped() -> bool:
            return len(events_of(await read(service.client))) < 10

        await until(dropped)
        kept = await read(service.client)
        assert old[7:] == kept[1:]
        with pytest.raises(CallFailed) as failed:
            await read(service.client, old[4].cursor)
        assert ("EVENT_CURSOR_TOO_OLD", grpc.StatusCode.OUT_OF_RANGE) == (
            failed.value.reason,
            failed.value.code,
        )
        assert old[7:] == (await read(service.client, old[6].cursor))[1:]
        # What was given its position just now is kept, however old the event itself is.
        async with connected(fresh_database) as connection:
            await write_events(connection, "late", [1], age_s=30 * 86_400)
        assert ("late", 1) == keys(events_of(await read(service.client)))[-1]
    marks = await fetch(fresh_database, "SELECT position FROM event_marks ORDER BY position")
    assert [6, 10] == [row["position"] for row in marks]
    assert 11 == (await fetch(fresh_database, "SELECT count(*) FROM events"))[0][0]


async def test_an_erased_user_is_read_under_the_pseudonym_in_the_old_place(
    fresh_service: Service,
) -> None:
    """Whoever has read the events hears nothing new; whoever reads them again knows the ids."""
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p")
    for n, user_id in enumerate(("alice", "bob", "alice")):
        await buy(client, signed_offer(created, user_id, lifetime_s=600 + n))
        await sequenced(url)
    before = await read(client)
    request = EraseUserRequest(user_id="alice", forfeit=True)
    await client.call(client.user.EraseUser, request)
    assert [] == events_of(await read(client, before[-1].cursor))
    after = await read(client)
    assert [m.cursor for m in before] == [m.cursor for m in after]
    assert [e.id for e in events_of(before)] == [e.id for e in events_of(after)]
    names = [user_id for user_id, _ in keys(events_of(after))]
    assert "bob" == names[1]
    assert names[0] == names[2]
    assert names[0].startswith("erased-")
    assert "alice" not in str(after)
    again = await buy(client, signed_offer(created, "alice", lifetime_s=900))
    assert [again.pass_id] == [e.subject for e in events_of(await read(client, after[-1].cursor))]
    assert {} == await breaches(url)


async def test_erasures_and_purchases_at_once_lose_and_double_nothing(
    fresh_service: Service,
) -> None:
    """Users are erased while their events get their positions."""
    client, url = fresh_service.client, fresh_service.database_url
    created = await create(client, "p")

    async def buy_and_erase(user: int) -> None:
        for n in range(6):
            await buy(client, signed_offer(created, f"user-{user}", lifetime_s=600 + n))
            if n % 3 == user % 3:
                request = EraseUserRequest(user_id=f"user-{user}", forfeit=True)
                await client.call(client.user.EraseUser, request)

    async with aclosing(client.stream_events(follow=True)) as live:
        told, _ = await asyncio.gather(
            take(live, 180), asyncio.gather(*(buy_and_erase(user) for user in range(30)))
        )
    assert [str(n) for n in range(1, 181)] == [e.id for e in events_of(told)]
    assert {} == await breaches(url)


async def test_many_events_of_one_user_and_of_many_are_sequenced(fresh_service: Service) -> None:
    """More than a batch of one user's, and others before and after it by name."""
    url = fresh_service.database_url
    async with connected(url) as connection, connection.transaction():
        await write_events(connection, "m", range(1, 2 * BATCH_EVENTS + 11))
        for user in ("a", "z"):
            await write_events(connection, user, range(1, 11))
    await sequenced(url)
    events = events_of(await read(fresh_service.client))
    assert 2 * BATCH_EVENTS + 30 == len(events)
    assert_in_order(events)


async def test_lag_and_waiting_are_measured(fresh_service: Service) -> None:
    """What waits because its user's row is held shows; afterwards nothing does."""
    url, metrics = fresh_service.database_url, fresh_service.server.metrics

    async def measured(waiting: int) -> bool:
        return bool(metrics.events_waiting._value.get() == waiting)

    async with connected(url) as connection, connected(url) as other:
        async with connection.transaction():
            await connection.execute("SELECT FROM event_stream FOR UPDATE")
            await write_events(other, "alice", [1, 2], age_s=60)
            await until(lambda: measured(2))
            assert 60 <= metrics.events_lag._value.get() < 60 + TIMEOUT_S
        await until(lambda: measured(0))
        assert 0 == metrics.events_lag._value.get()


async def test_a_cursor_of_another_database_is_refused(
    fresh_service: Service, cluster_url: str
) -> None:
    """It would silently skip or repeat events; so would one that is ahead of the stream."""
    client = fresh_service.client
    [(stream_id,)] = await fetch(fresh_service.database_url, "SELECT stream_id FROM event_stream")
    cursors = [Cursor(uuid.uuid4(), 0), Cursor(stream_id, 1), Cursor(stream_id, 2**63 - 1)]
    for cursor in cursors:
        with pytest.raises(CallFailed) as failed:
            await read(client, cursor_text(cursor))
        assert ("INVALID_FIELD", {"cursor"}) == (failed.value.reason, set(failed.value.violations))


async def test_an_altered_cursor_or_an_unknown_type_is_named(shared_service: Service) -> None:
    """Before anything is read."""
    good = cursor_text(Cursor(uuid.uuid4(), 7))
    altered = good[:25] + ("A" if good[25] != "A" else "B") + good[26:]
    requests = {
        "cursor": pb.StreamEventsRequest(cursor=altered),
        "event_types[1]": pb.StreamEventsRequest(event_types=[PURCHASED, 99]),  # type: ignore[list-item]
        "event_types[0]": pb.StreamEventsRequest(event_types=[0]),  # type: ignore[list-item]
    }
    for field, request in requests.items():
        with pytest.raises(CallFailed) as failed:
            await read(shared_service.client, request.cursor, event_types=list(request.event_types))
        assert ("INVALID_FIELD", {field}) == (failed.value.reason, set(failed.value.violations))


async def test_streams_are_bounded_and_end_with_the_server(fresh_database: str) -> None:
    """One too many is OVERLOADED; a stop tells readers to resume elsewhere, at once."""
    async with AsyncExitStack() as later:
        async with serving(fresh_database, max_event_streams=1, drain_timeout_s=DRAIN_S) as service:
            client = await later.enter_async_context(Client(service.target))
            async with aclosing(client.stream_events(follow=True)) as live:
                await anext(live)
                assert "OVERLOADED" == await outcome(read(client))

            async def free() -> bool:
                return "OVERLOADED" != await outcome(read(client))

            await until(free)  # that a caller has gone is noticed a little later
            live = await later.enter_async_context(aclosing(client.stream_events(follow=True)))
            await anext(live)
            waiting = asyncio.create_task(outcome(anext(live)))
            # From here on the server stops; it would wait for a stream for so long.
            await later.enter_async_context(asyncio.timeout(DRAIN_S / 2))
        assert "SHUTTING_DOWN" == await waiting


async def test_nothing_is_kept_in_a_session(cluster_url: str) -> None:
    """Behind a pooler in transaction mode statements cannot be kept either."""
    async with new_database(cluster_url) as url, serving(url, statement_cache_size=0) as service:
        await fill(url, users=10, each=3)
        assert 30 == len(events_of(await read(service.client)))
