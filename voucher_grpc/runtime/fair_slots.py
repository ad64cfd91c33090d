"""Slots for streams that anyone may open and leave open, shared so that none can take them all.

A new stream is never rejected. When all slots are taken, the oldest stream of the owner with the
most of them ends, so that an owner that opens many only loses its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from voucher_grpc.errors import Reason, Refusal

_RETRY_AFTER_S = 1.0


class FairSlots:
    """At most `most` streams at a time. Each has an owner: an address, or a caller."""

    def __init__(self, kind: str, most: int, on_ended: Callable[[], None]) -> None:
        self._kind = kind
        self._most = most
        self._on_ended = on_ended
        self.taken = 0
        # The streams of each owner, the oldest first; a dict serves as an ordered set.
        self._streams: dict[Hashable, dict[asyncio.Timeout, None]] = {}

    @asynccontextmanager
    async def slot(self, who: Hashable) -> AsyncIterator[None]:
        """A slot until the block is left. Raises OVERLOADED inside it when it is taken away."""
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
            message = f"others need the slot: {self._most} {self._kind} are open here"
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
