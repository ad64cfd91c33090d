"""The one message of a call: how long is waited for it, and how many may keep the server waiting.

The runtime holds as much of a message as has come. What comes within a second is bounded by
what callers may begin (calls in flight, their rates); what comes slower would add up.
"""

import asyncio
from typing import Any

import grpc

from voucher_grpc.access.principal import caller
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.quotas import Quotas
from voucher_grpc.telemetry.metrics import Metrics

_SOON_S = 1.0
# A mobile network with 50 kB/s has carried the largest message by then.
_LONGEST_S = 20.0
_MOST_SLOW = 64
_MOST_SLOW_OF_CALLER = 16
_ENDED_S = 0.05
_RETRY_AFTER_S = 1.0


class MessageReader:
    """Takes messages. One that has not come whole within a second needs one of 64 places.

    One caller has at most 16 of them, and so have all together who need not say who they are.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._slow = 0
        self._slow_of_caller = Quotas(_MOST_SLOW_OF_CALLER)
        self._on_shed = metrics.count_shed

    async def message(self, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        """The bytes. Raises OVERLOADED, DEADLINE_EXCEEDED, MALFORMED_MESSAGE."""
        loop, slow, who = asyncio.get_running_loop(), False, caller().key

        def not_soon() -> None:
            nonlocal slow
            slow = self._slow < _MOST_SLOW and self._slow_of_caller.take(who)
            self._slow += slow
            limit.reschedule(loop.time() + (_LONGEST_S if slow else 0))

        look = loop.call_later(_SOON_S, not_soon)
        try:
            async with asyncio.timeout(None) as limit:
                raw = await context.read()
        except TimeoutError:
            raise self._refusal(slow) from None
        finally:
            look.cancel()
            if slow:
                self._slow -= 1
                self._slow_of_caller.give_back(who)
        if raw is grpc.aio.EOF:
            # So it is, too, where the caller has gone and where the message is beyond the bound:
            # then the runtime ends the call, and this with it.
            await asyncio.sleep(_ENDED_S)
            raise Refusal(Reason.MALFORMED_MESSAGE, "the call ended without a message")
        return raw  # type: ignore[no-any-return]

    def _refusal(self, slow: bool) -> Refusal:
        if slow:
            message = f"the message did not come whole within {_SOON_S + _LONGEST_S:.0f} s"
            return Refusal(Reason.DEADLINE_EXCEEDED, message)
        self._on_shed("messages", "full")
        message = "too many messages are coming in slowly here already"
        return Refusal(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)
