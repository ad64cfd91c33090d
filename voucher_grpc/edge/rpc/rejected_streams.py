"""Streams that are rejected before anything of them has been read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from voucher_grpc.errors import Refusal

_FIRST_MESSAGE_TIMEOUT_S = 0.5
_MAX_WAITING = 64


class NotAdmitted(Exception):
    """A stream that is to be rejected, and of which nothing has been read."""

    def __init__(self, refusal: Refusal, messages: AsyncIterator[bytes]) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.messages = messages


class RejectedStreams:
    """Takes the first message of streams that are to be rejected, if it comes soon.

    A client of grpc.aio whose first write meets an ended call gets INTERNAL from its own runtime,
    and not the reason. Only so many streams wait for that: the others are rejected at once.
    """

    def __init__(self) -> None:
        self.waiting = 0

    async def take_first(self, messages: AsyncIterator[bytes]) -> None:
        """Return once the message is there, or is not waited for any longer."""
        if self.waiting >= _MAX_WAITING:
            return
        self.waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_MESSAGE_TIMEOUT_S):
                    await anext(messages, None)
        finally:
            self.waiting -= 1
