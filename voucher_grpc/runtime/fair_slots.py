"""Slots for streams that anyone may open and leave open, shared so that none can take them all.

A newcomer is never rejected. When all places are taken, the oldest stream of whoever has the most
ends, so that one that opens many only loses its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from voucher_grpc.errors import Reason, Refusal

_RETRY_AFTER_S = 1.0


class FairSlots:
    """At most `most` streams at a time. Each is somebody's: an address, or a caller."""

    def __init__(self, kind: str, most: int, on_ended: Callable[[], None]) -> None:
        self._kind = kind
        self._most = most
        self._on_ended = on_ended
        self.taken = 0
        # Of each one its streams, the oldest first; a dict serves as an ordered set.
        self._streams: dict[Hashable, dict[asyncio.Timeout, None]] = {}

    @asynccontextmanager
    async def slot(self, who: Hashable) -> AsyncIterator[None]:
        """A place until the block is left. Raises OVERLOADED inside it when others need it more."""
        if self.taken >= self._most:
            self._end_one()
        try:
            async with asyncio.timeout(None) as stream:
                self._streams.setdefault(who, {})[stream] = None
                self.taken += 1
                try:
                    yield
                finally:
                    self._give_back(who, stream)
        except TimeoutError:
            if not stream.expired():
                raise
            message = f"others need the place: {self._most} {self._kind} are open here"
            raise Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S) from None

    def _end_one(self) -> None:
        who = max(self._streams, key=lambda one: len(self._streams[one]))
        oldest = next(iter(self._streams[who]))
        self._give_back(who, oldest)
        oldest.reschedule(0)
        self._on_ended()

    def _give_back(self, who: Hashable, stream: asyncio.Timeout) -> None:
        """Once: a stream that had to end has done so before its block is left."""
        streams = self._streams.get(who, {})
        if stream in streams:
            del streams[stream]
            self.taken -= 1
            if not streams:
                del self._streams[who]
