"""The reading side of the outbox: positions for events that have committed, and pages by them.

Neither the time of an event nor its transaction's number says what a reader may
have missed: both are taken before the commit, which may come late. So events are
written without a position, and a sequencer gives positions to what has committed.
It runs in every server; a row that is locked for the length of a short transaction
says which one works. No session state is needed, so a pooler may stand between.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from datetime import datetime
from typing import NamedTuple

import asyncpg

from voucher_grpc.domain.passes.event import Cursor, Event, EventType, Page, Placed, Refund, Stream
from voucher_grpc.errors import Reason, Refusal, bad_field
from voucher_grpc.money import Money
from voucher_grpc.runtime.background import keep_working
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index

_SQL = queries.load("events")

# Events that get their position in one transaction.
BATCH_EVENTS = 1_000
# Events that a reader has in memory at a time.
PAGE_EVENTS = 500
# Pages read at a time by all readers of a server, so that the pool is there for others.
PAGES_AT_ONCE = 2
BUSY_PAUSE_S = 0.1
IDLE_PAUSE_S = 0.2
# How long after the last work the pause stays the short one.
BUSY_FOR_S = 5.0
# Readers are woken by their own server's sequencer; this is for when that one fails.
READER_PATIENCE_S = 5.0
# A reader that does not follow waits as long for what has just committed.
SETTLE_S = 1.0
MEASURE_INTERVAL_S = 1.0
MEASURED_EVENTS = 10_000
RETENTION_INTERVAL_S = 60.0
FORGOTTEN_MARKS = 1_000
# A purchase commits within this; the young events are found quickly at all times.
YOUNG_S = 15.0
# A hundred years.
ALL_S = 3.15e9
# How long to wait before going through all again, in times of what that took.
ALL_PAUSE_RATIO = 20
ALL_INTERVAL_MAX_S = 30.0


class EventFeed:
    """What readers of a server wait for: that the stream grows, or that the server stops."""

    def __init__(self) -> None:
        self._last_position = 0
        self._stopped = False
        # Replaced at each change: those waiting for the old one wake once.
        self._changed = asyncio.Event()

    def set(self, last_position: int) -> None:
        """The stream now ends here; readers that wait for more go on."""
        if last_position > self._last_position:
            self._last_position = last_position
            self._wake()

    def stop(self) -> None:
        """Readers end, as soon as they have sent what they have."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def refuse_stopped(self) -> None:
        """Raise SHUTTING_DOWN once the server stops."""
        if self._stopped:
            raise Refusal(
                Reason.SHUTTING_DOWN,
                "the server stops; resume elsewhere from the last cursor",
                retry_after_s=0.1,
            )

    async def wait_beyond(self, position: int) -> None:
        """Until the stream is longer than that, the server stops, or patience ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READER_PATIENCE_S):
                while self._last_position <= position and not self._stopped:
                    await self._changed.wait()


def _stream(row: asyncpg.Record) -> Stream:
    return Stream(row["stream_id"], row["last_position"], row["dropped_position"])


def _placed(row: asyncpg.Record) -> Placed:
    position, *event = (row[name] for name in ("position", *_EVENT))
    micros, refund = row["refund_micros"], None
    if micros is not None:
        refund = Refund(Money(micros, row["currency_code"]), row["payment_reference"])
    return Placed(position, Event(*event), refund)


_EVENT = tuple(field.name for field in fields(Event))


class EventStore:
    """Reads the stream; nothing is held between two pages."""

    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._database = database
        self._feed = feed
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)

    async def start(self, cursor: Cursor | None) -> Cursor:
        """Where to begin reading; None: at the first event that is stored.

        Raises INVALID_FIELD for a cursor of another stream, EVENT_CURSOR_TOO_OLD for
        one whose next events are no longer kept.
        """
        stream, _ = await self._end_of_stream()
        if cursor is None:
            return Cursor(stream.stream_id, stream.dropped_position)
        if cursor.stream_id != stream.stream_id or cursor.position > stream.last_position:
            raise bad_field("cursor", "must be a cursor of this service's stream")
        _refuse_dropped(stream, cursor.position)
        return cursor

    async def end(self) -> Cursor:
        """Where the stream ends now, after a short wait for what has just committed."""
        patient_until_s = time.monotonic() + SETTLE_S
        while True:
            stream, waiting = await self._end_of_stream()
            if not waiting or time.monotonic() > patient_until_s:
                return Cursor(stream.stream_id, stream.last_position)
            await asyncio.sleep(BUSY_PAUSE_S / 2)

    async def pages(
        self,
        start: Cursor,
        types: Sequence[EventType],
        end: Cursor | None,
        *,
        from_oldest: bool,
    ) -> AsyncGenerator[Page, None]:
        """Page after page, each read when the one before has been taken; None: without end.

        One that reads from the oldest event does not mind if that one has just been let
        go. Raises EVENT_CURSOR_TOO_OLD if retention overtakes the reader, SHUTTING_DOWN.
        """
        position = start.position
        while end is None or position < end.position:
            self._feed.refuse_stopped()
            stream, events = await self._page(position, types)
            if position > start.position or not from_oldest:
                _refuse_dropped(stream, position)
            last = position
            position = min(position + PAGE_EVENTS, stream.last_position)
            yield Page(events, Cursor(stream.stream_id, position))
            if position == last:
                await self._feed.wait_beyond(position)

    async def _end_of_stream(self) -> tuple[Stream, bool]:
        async with self._pages, self._by_index() as connection:
            row = await connection.fetchrow(_SQL["end_of_stream"], ALL_S)
        if row is None:
            raise LookupError("event_stream has no row")
        return _stream(row), row["waiting"]

    async def _page(
        self, after: int, types: Sequence[EventType]
    ) -> tuple[Stream, tuple[Placed, ...]]:
        async with self._pages, self._by_index() as connection:
            rows = await connection.fetch(_SQL["page"], after, PAGE_EVENTS, list(types))
        events = tuple(_placed(row) for row in rows if row["position"] is not None)
        return _stream(rows[0]), events

    @asynccontextmanager
    async def _by_index(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.execute("SET LOCAL enable_seqscan = off")
            yield connection


def _refuse_dropped(stream: Stream, position: int) -> None:
    if position < stream.dropped_position:
        raise Refusal(
            Reason.EVENT_CURSOR_TOO_OLD,
            "events after this cursor are no longer kept in the stream",
        )


class _Key(NamedTuple):
    """Where an event is among those that wait."""

    event_time: datetime
    user_id: str
    event_seq: int


class EventSequencer:
    """Gives positions to committed events, in every server, one at a time.

    It goes through the waiting events again and again, by their time. While an old
    transaction is open anywhere Postgres cannot forget the entries of those that do
    not wait any more, and going through all takes longer and longer. Then it mostly
    goes through the young ones, and through all at intervals, by what that costs: the
    forgotten transaction's own events come late, the others' do not.
    """

    def __init__(
        self,
        dedicated: DedicatedConnection,
        feed: EventFeed,
        retention_days: int,
        on_sequenced: Callable[[int], None],
        on_measured: Callable[[int, float], None],
    ) -> None:
        self._dedicated = dedicated
        self._feed = feed
        self._retention_days = retention_days
        self._on_sequenced = on_sequenced
        self._on_measured = on_measured
        # After which event to go on; None: begin again.
        self._after: _Key | None = None
        self._window_s = ALL_S
        self._all_due_at_s = 0.0
        self._worked_at_s = 0.0
        self._measure_due_at_s = 0.0
        self._keep_due_at_s = 0.0

    async def run(self) -> None:
        """Work until cancelled; whatever fails is tried again."""
        await keep_working("events", self._step, self._pause_s)

    async def _step(self) -> bool:
        more = await self.turn()
        await self._look_after()
        return more

    def _pause_s(self) -> float:
        busy = time.monotonic() - self._worked_at_s < BUSY_FOR_S
        return BUSY_PAUSE_S if busy else IDLE_PAUSE_S

    async def turn(self) -> bool:
        """Give positions to one batch; whether more may wait that can be had at once."""
        began_s = time.monotonic()
        if self._after is None:
            self._window_s = ALL_S if began_s >= self._all_due_at_s else YOUNG_S
        positioned, more = await self._dedicated.run(self._turn)
        now_s = time.monotonic()
        if positioned:
            self._worked_at_s = now_s
            self._on_sequenced(positioned)
        if self._after is None and self._window_s == ALL_S:
            took_s = now_s - began_s
            self._all_due_at_s = now_s + min(took_s * ALL_PAUSE_RATIO, ALL_INTERVAL_MAX_S)
        return more

    async def _turn(self, connection: Connection) -> tuple[int, bool]:
        last_position, positioned, more = 0, 0, False
        async with by_index(connection):
            after, self._after = self._after or await self._begin(connection), None
            turn = await connection.fetchrow(_SQL["turn"]) if after is not None else None
            if after is not None and turn is not None:
                last_position = turn["last_position"]
                positioned, more = await self._sequence(connection, after, last_position)
        # After the commit: readers are not woken for what they cannot see.
        self._feed.set(last_position + positioned)
        return positioned, more

    async def _begin(self, connection: Connection) -> _Key | None:
        """Where to begin; None if nothing waits. Also learns what other servers have done."""
        row = await connection.fetchrow(_SQL["end_of_stream"], self._window_s)
        if row is None:
            raise LookupError("event_stream has no row")
        self._feed.set(row["last_position"])
        return _Key(row["since"], "", 0) if row["waiting"] else None

    async def _sequence(
        self, connection: Connection, after: _Key, last_position: int
    ) -> tuple[int, bool]:
        """How many were given a position, and whether more may be had at once."""
        row = await connection.fetchrow(_SQL["sequence"], *after, BATCH_EVENTS, last_position)
        if row is None:
            raise LookupError("the statement returned no row")
        picked, positioned = row["picked"], row["positioned"]
        full = picked == BATCH_EVENTS
        if full:
            self._after = _Key(row["event_time"], row["user_id"], row["event_seq"])
        return positioned, full or 0 < positioned < picked

    async def _look_after(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._measure_due_at_s:
            await self._dedicated.run(self._measure)
            took_s = time.monotonic() - now_s
            self._measure_due_at_s = now_s + max(MEASURE_INTERVAL_S, took_s * ALL_PAUSE_RATIO)
        if self._retention_days and now_s >= self._keep_due_at_s:
            self._keep_due_at_s = now_s + RETENTION_INTERVAL_S
            await self._dedicated.run(self._keep)

    async def _measure(self, connection: Connection) -> None:
        async with by_index(connection, "READ ONLY"):
            row = await connection.fetchrow(_SQL["measure"], MEASURED_EVENTS)
        if row is not None:
            self._on_measured(row["waiting"], row["lag_s"] or 0.0)

    async def _keep(self, connection: Connection) -> None:
        """Let go of what is older than the retention."""
        await connection.execute(_SQL["mark"])
        await connection.execute(_SQL["drop"], self._retention_days)
        await connection.execute(_SQL["forget_marks"], FORGOTTEN_MARKS)
