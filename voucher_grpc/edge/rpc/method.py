"""How a call enters and leaves: the one shape around every method.

Around each method, from the outside in, and why in this order:

1. metrics, so that whatever is refused further in is counted;
2. the translation of errors into statuses, so that nothing leaves untranslated;
3. the limit on calls in flight, so that a call beyond it costs no more than its refusal;
4. the entrance, which holds calls for a moment before a stop;
5. the guard: credentials, rate and scope, so that of an unauthenticated caller's message no
   more is read than the transport buffers;
6. the message, which is waited for with a deadline (see `message_reader`), and parsing, so that
   malformed bytes get a refusal like any other: the runtime alone would answer UNKNOWN with a
   Python message;
7. whether the caller covers the user or the parties that the message names, before it
   could learn from any other answer whether they exist;
8. the method.

To the runtime each method takes a stream: of a method with one message it would wait for all of
that, without end and without a bound, before any of these steps.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from voucher_grpc.access.principal import Reach
from voucher_grpc.access.table import RULES
from voucher_grpc.edge.rpc.call_limits import CallLimits, is_probe
from voucher_grpc.edge.rpc.drain_barrier import DrainBarrier
from voucher_grpc.edge.rpc.guard import Guard
from voucher_grpc.edge.rpc.message_reader import MessageReader
from voucher_grpc.edge.rpc.refusals import Refusals
from voucher_grpc.edge.rpc.rejected_streams import NotAdmitted, RejectedStreams
from voucher_grpc.edge.rpc.sent_messages import CountingContext
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.owned import REFUSE_FOREIGN
from voucher_grpc.edge.wire.status import CODES
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.telemetry.calls import Context, untraced
from voucher_grpc.telemetry.logs import LogRate, not_logged
from voucher_grpc.telemetry.metrics import Metrics, code_label
from voucher_grpc.telemetry.work import Call, begin

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

log = structlog.get_logger(__name__)

_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def type_of(request_streaming: bool, response_streaming: bool) -> str:
    """The `grpc_type` of a method, as go-grpc-prometheus has it."""
    return _TYPES[request_streaming, response_streaming]


class SharedByMethods:
    """What all methods of a server share; `calls` says how the calls of a method begin."""

    def __init__(
        self,
        guard: Guard,
        limits: CallLimits,
        metrics: Metrics,
        slow_call_s: float,
        calls: Callable[[str, str], Callable[[Context], Call]] = untraced,
    ) -> None:
        self.guard = guard
        self.limits = limits
        self.metrics = metrics
        self.slow_call_s = slow_call_s
        self.calls = calls
        self.drain_barrier = DrainBarrier()
        self.message_reader = MessageReader(metrics)
        self.rejected_streams = RejectedStreams()
        self.refused_rate, self.slow_rate = LogRate(), LogRate()


_NOT_A_STREAM: AbstractAsyncContextManager[None] = nullcontext()


async def _nothing() -> None:
    """What is asked where nothing has to be."""


class Method:
    """One method with what its calls share."""

    def __init__(self, shared: SharedByMethods, service: str, method: str, inner: Handler) -> None:
        self._shared = shared
        self._method = method
        self._inner = inner
        streaming = inner.request_streaming or inner.response_streaming
        self._limit = shared.limits.of(service, streaming=streaming)
        self._is_probe = is_probe(service)
        self._new = shared.calls(service, method)
        self._rule = RULES[f"/{service}/{method}"]
        self._refuse_foreign = REFUSE_FOREIGN.get(self._rule.owned)
        self._parse: Callable[[bytes], Any] = inner.request_deserializer or (lambda raw: raw)
        serialize: Callable[[Any], bytes] = inner.response_serializer or (lambda raw: raw)
        self._serialize = lambda answer: (
            answer.raw if isinstance(answer, Encoded) else serialize(answer)
        )
        metrics = shared.metrics
        labels = (_TYPES[inner.request_streaming, inner.response_streaming], service, method)
        self.started = metrics.started.labels(*labels)
        self._received = metrics.received.labels(*labels)
        self._sent = metrics.sent.labels(*labels)
        self._seconds = metrics.handling_seconds.labels(*labels)
        self._handled = {
            code: metrics.handled.labels(*labels, code_label(code.name)) for code in grpc.StatusCode
        }
        self._refusals = Refusals(method, metrics, shared.refused_rate)

    def handler(self) -> Handler:
        """The handler to register: it takes raw bytes."""
        if self._inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming, None, self._serialize)
        return grpc.stream_unary_rpc_method_handler(self._unary, None, self._serialize)

    async def _unary(self, messages: AsyncIterator[bytes], context: Context) -> Any:
        inner = self._inner
        behaviour: Any = inner.stream_unary if inner.request_streaming else inner.unary_unary

        async def call() -> Any:
            reach = await self._admit(messages, context)
            async with self._one_stream(context):
                request = await self._request(messages, reach, context)
                response = await behaviour(request, context)
            self._sent.inc()
            return response

        return await self._around(call, context)

    async def _streaming(self, messages: AsyncIterator[bytes], context: Context) -> None:
        inner = self._inner
        behaviour: Any = inner.stream_stream if inner.request_streaming else inner.unary_stream

        async def call() -> None:
            reach = await self._admit(messages, context)
            # A stream of requests is checked at each message instead.
            allowed = _nothing if inner.request_streaming else self._still_allowed(context)
            counting = CountingContext(context, self._sent, allowed)
            async with self._one_stream(context):
                request = await self._request(messages, reach, context)
                answers = behaviour(request, counting)
                if inspect.isasyncgen(answers):
                    async for answer in answers:
                        await counting.write(answer)
                else:
                    await answers

        await self._around(call, context)

    async def _admit(self, messages: AsyncIterator[bytes], context: Context) -> Reach:
        try:
            return await self._shared.guard.admit(self._rule, context)
        except Refusal as refusal:
            if self._inner.request_streaming:
                raise NotAdmitted(refusal, messages) from None
            raise

    def _one_stream(self, context: Context) -> AbstractAsyncContextManager[None]:
        if not (self._inner.request_streaming or self._inner.response_streaming):
            return _NOT_A_STREAM
        return self._probe(context) if self._is_probe else self._shared.guard.one_stream()

    @asynccontextmanager
    async def _probe(self, context: Context) -> AsyncIterator[None]:
        known = await self._shared.guard.known(self._rule, context)
        async with self._shared.limits.probes.slot(context, known):
            yield

    def _still_allowed(self, context: Context) -> Callable[[], Awaitable[object]]:
        """What is asked at each message of a stream, which may outlive its credentials."""
        return partial(self._shared.guard.recheck, self._rule, context)

    async def _request(self, messages: AsyncIterator[bytes], reach: Reach, context: Context) -> Any:
        if self._inner.request_streaming:
            return self._messages(messages, reach, self._still_allowed(context))
        return self._message(await self._shared.message_reader.message(context), reach)

    def _message(self, raw: bytes, reach: Reach) -> Any:
        self._received.inc()
        message = self._parsed(raw)
        if self._refuse_foreign is not None:
            self._refuse_foreign(message, reach)
        return message

    def _parsed(self, raw: bytes) -> Any:
        try:
            return self._parse(raw)
        except (DecodeError, UnicodeDecodeError, ValueError, RecursionError):
            raise Refusal(
                Reason.MALFORMED_MESSAGE,
                "the bytes are not a message of the expected type, or text is not UTF-8",
            ) from None

    async def _messages(
        self, messages: AsyncIterator[bytes], reach: Reach, allowed: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[Any]:
        async for raw in messages:
            await allowed()
            if not self._rule.answers_each:
                self._shared.guard.take()
            yield self._message(raw, reach)

    async def _around(self, call: Callable[[], Awaitable[Any]], context: Context) -> Any:
        began_s = time.perf_counter()
        code = grpc.StatusCode.INTERNAL
        reason: Reason | None = None
        # The call has a task of its own, so nothing has to be set back.
        this_call = self._new(context)
        begin(this_call)
        try:
            with self._limit.acquire(context):
                await self._shared.drain_barrier.enter()
                response = await call()
            code = grpc.StatusCode.OK
        except NotAdmitted as stopped:
            code, reason = CODES[stopped.refusal.reason], stopped.refusal.reason
            # Here it no longer counts as in flight.
            await self._shared.rejected_streams.take_first(stopped.messages)
            await self._refusals.refuse(stopped.refusal, this_call.request_id, context)
        except Refusal as refusal:
            code, reason = CODES[refusal.reason], refusal.reason
            await self._refusals.refuse(refusal, this_call.request_id, context)
        except grpc.aio.AbortError:
            # Health and reflection abort by themselves.
            code = _code(context.code())
            raise
        except asyncio.CancelledError:
            remaining_s = context.time_remaining()
            late = remaining_s is not None and remaining_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - the last place that sees an internal error
            reason = Reason.INTERNAL
            await self._refusals.fail(error, this_call.request_id, context)
        else:
            return response
        finally:
            took_s = time.perf_counter() - began_s
            self._handled[code].inc()
            self._seconds.observe(took_s)
            if took_s > self._shared.slow_call_s and not self._inner.response_streaming:
                self._log_slow(took_s, this_call)
            this_call.ended(code.name, reason, took_s)

    def _log_slow(self, took_s: float, this_call: Call) -> None:
        held_back = self._shared.slow_rate.passes()
        if held_back is not None:
            log.warning(
                "slow_call",
                method=self._method,
                took_s=round(took_s, 3),
                **this_call.where_time_went(took_s),
                request_id=this_call.request_id,
                **not_logged(held_back),
            )


def _code(code: Any) -> grpc.StatusCode:
    if isinstance(code, grpc.StatusCode):
        return code
    return next((c for c in grpc.StatusCode if c.value[0] == code), grpc.StatusCode.UNKNOWN)
