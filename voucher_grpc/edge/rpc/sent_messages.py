"""The messages that a streaming method sends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import Counter

from voucher_grpc.telemetry.calls import Context


class CountingContext:
    """The context of a stream, which counts the messages that the method writes itself.

    `allowed` is asked before each: a stream may outlive its caller's credentials.
    """

    def __init__(
        self, context: Context, sent: Counter, allowed: Callable[[], Awaitable[object]]
    ) -> None:
        self._context = context
        self._sent = sent
        self._allowed = allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Send one message."""
        await self._allowed()
        self._sent.inc()
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            # The caller has gone, which is not an error.
            raise asyncio.CancelledError from None
