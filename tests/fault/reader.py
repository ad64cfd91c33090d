"""A consumer of StreamEvents that is killed now and then and goes on from its last cursor."""

import asyncio
import time
from contextlib import suppress
from random import Random
from typing import Any

import grpc

from tests.fault.calls import CHANNEL_OPTIONS
from tests.fault.journal import EventKept, Journal, ReaderLog
from voucher_grpc.client import call_failed
from voucher_grpc.edge.wire.messages import instant_of, money_of
from voucher_grpc.v1.event_service_pb2 import StreamEventsRequest, StreamEventsResponse
from voucher_grpc.v1.event_service_pb2_grpc import EventServiceStub

_CATCH_UP_S = 60.0
_PAUSE_S = 0.1


def _kept(message: StreamEventsResponse) -> EventKept:
    event, told = message.event, message.event.pass_event
    return EventKept(
        cursor=message.cursor,
        event_id=event.id,
        user_id=told.user_id,
        event_seq=told.event_seq,
        pass_id=told.pass_id,
        event_type=event.type.rpartition(".")[2],
        time_s=instant_of(event.time).timestamp(),
        refund_micros=money_of(told.refund.amount).micros if told.HasField("refund") else None,
        refund_reference=told.refund.payment_reference,
    )


class Reader:
    """Deals with events a few at a time and keeps the cursor with what it has done.

    What it has taken but not kept when it is killed is lost with it, as in a process.
    """

    def __init__(self, name: str, targets: list[str], random: Random, journal: Journal) -> None:
        self.log = ReaderLog(name)
        self._targets = targets
        self._random = random
        self._journal = journal
        journal.readers.append(self.log)

    async def read_on(self) -> None:
        """Live after life, until cancelled."""
        while True:
            life = asyncio.ensure_future(self._live(follow=True))
            try:
                await asyncio.wait({life}, timeout=self._random.uniform(0.2, 3.0))
            finally:
                await _end(life)
            await asyncio.sleep(_PAUSE_S)

    async def catch_up(self) -> None:
        """Read until the stream has ended by itself, which it does behind the last event."""
        end_s = time.monotonic() + _CATCH_UP_S
        while not await self._live(follow=False) and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE_S)

    async def _live(self, *, follow: bool) -> bool:
        """Go on from the last cursor; whether the stream has ended by itself."""
        target = self._random.choice(self._targets)
        self.log.starts += 1
        cursor = self.log.kept[-1].cursor if self.log.kept else ""
        async with grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) as channel:
            stream: Any = EventServiceStub(channel).StreamEvents(
                StreamEventsRequest(cursor=cursor, follow=follow)
            )
            try:
                await self._take(stream)
            except grpc.aio.AioRpcError as error:
                failed = call_failed(error)
                self._journal.failures["StreamEvents", failed.code.name, failed.reason] += 1
                return False
            finally:
                stream.cancel()
        return True

    async def _take(self, stream: Any) -> None:
        taken: list[EventKept] = []
        at_a_time = self._random.randint(1, 20)
        async for message in stream:
            if message.HasField("event"):
                taken.append(_kept(message))
            if len(taken) >= at_a_time:
                self.log.kept += taken
                taken = []
        # The stream has ended by itself: all of it has been dealt with.
        self.log.kept += taken


async def _end(task: asyncio.Future[bool]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
