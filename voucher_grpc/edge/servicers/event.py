"""EventService: what has happened, for other backends."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from voucher_grpc.domain.passes.event import Cursor, Page
from voucher_grpc.edge.wire.events import cursor_text, event_message, events_wanted
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.store.events import EventStore
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.v1 import event_service_pb2 as pb
from voucher_grpc.v1 import event_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
# A caller that wants few of the events is sent the position of the stream at times.
PROGRESS_INTERVAL_S = 10.0


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Streams events."""

    def __init__(self, store: EventStore, metrics: Metrics, max_streams: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_streams = max_streams
        self._streams = 0

    async def StreamEvents(  # type: ignore[override]
        self, request: pb.StreamEventsRequest, context: Context
    ) -> None:
        wanted = events_wanted(request)
        with self._one_more():
            start = await self._store.start(wanted.cursor)
            end = None if wanted.follow else await self._store.end()
            await context.write(pb.StreamEventsResponse(cursor=cursor_text(start)))
            pages = self._store.pages(start, wanted.types, end, from_oldest=wanted.cursor is None)
            async with aclosing(pages):
                await _send(pages, start, end, context)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        if self._streams >= self._max_streams:
            message = f"{self._max_streams} streams of events are open here already"
            raise Refusal(Reason.OVERLOADED, message, retry_after_s=1.0)
        self._streams += 1
        self._metrics.event_streams.set(self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self._metrics.event_streams.set(self._streams)


async def _send(
    pages: AsyncIterator[Page], start: Cursor, end: Cursor | None, context: Context
) -> None:
    """Send each page before the next one is read; a write waits until the caller takes it."""
    told, told_at_s = start, time.monotonic()
    async for page in pages:
        for placed in page.events:
            told, told_at_s = Cursor(start.stream_id, placed.position), time.monotonic()
            message = event_message(start.stream_id, placed)
            await context.write(pb.StreamEventsResponse(cursor=cursor_text(told), event=message))
        late = time.monotonic() - told_at_s > PROGRESS_INTERVAL_S
        last = end is not None and page.end.position >= end.position
        if page.end != told and (late or last):
            told, told_at_s = page.end, time.monotonic()
            await context.write(pb.StreamEventsResponse(cursor=cursor_text(told)))
