"""How a call enters and leaves: the one shape around every method.

Around each method, from the outside in, and why in this order:

1. metrics, so that whatever is refused further in is counted;
2. the translation of errors into statuses, so that nothing leaves untranslated;
3. the limit on calls under way, so that what is too much costs no more than its refusal;
4. the entrance, which holds calls for a moment before a stop;
5. the guard: credentials, rate and scope, so that of a stranger's message no more comes in than
   the transport takes unasked;
6. the message, for which only so long is waited (see `arriving`), and parsing, so that malformed
   bytes are a refusal like any other: left to itself the runtime answers them UNKNOWN with a
   Python message;
7. whether the caller covers the user or the parties that the message names, before it
   could learn from any other answer whether they exist;
8. the method.

To the runtime each method takes a stream: of a method with one message it would wait for all of
that, without end and without a bound, before any of these steps.

The handlers are wrapped once, when services are registered, health and
reflection among them. (A grpc.aio interceptor would be asked again at each call.)
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from prometheus_client import Counter

from voucher_grpc.access.principal import ANYBODY, Reach, caller
from voucher_grpc.access.table import RULES
from voucher_grpc.edge.call_limits import CallLimits, is_probe
from voucher_grpc.edge.drain_barrier import Entrance
from voucher_grpc.edge.guard import Guard
from voucher_grpc.edge.message_reader import Arriving
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.owned import REFUSE_FOREIGN
from voucher_grpc.edge.wire.status import CODES, status_of
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.telemetry.calls import REQUEST_ID_HEADER, Context, untraced
from voucher_grpc.telemetry.logs import LogRate, not_logged
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.telemetry.work import Call, begin

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger(__name__)

# Refusals that come in floods: a line for each would cost more than the refusing.
_FLOODS = frozenset(
    {
        Reason.OVERLOADED,
        Reason.RATE_LIMITED,
        Reason.STORE_UNAVAILABLE,
        Reason.CREDENTIALS_MISSING,
        Reason.CREDENTIALS_INVALID,
        Reason.CREDENTIALS_EXPIRED,
        Reason.ACCESS_DENIED,
    }
)
_FIRST_MESSAGE_S = 0.5
_MAX_UNREAD = 64
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class Registry:
    """Stands in for the server while generated code registers its handlers.

    It holds what all calls share.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        guard: Guard,
        limits: CallLimits,
        metrics: Metrics,
        slow_call_s: float,
        calls: "Callable[[str, str], Callable[[Context], Call]] | None" = None,
    ) -> None:
        self.guard = guard
        self.limits = limits
        self.metrics = metrics
        self.slow_call_s = slow_call_s
        self.calls = calls or untraced
        self.entrance = Entrance()
        self.arriving = Arriving(metrics)
        self.unread = _Unread()
        self.refused_rate, self.slow_rate = LogRate(), LogRate()
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._served = _Served(metrics)
        server.add_generic_rpc_handlers((self._served,))

    @property
    def methods(self) -> tuple[str, ...]:
        """The paths that are served."""
        return self._served.paths()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Passed over: the same handlers come by name."""

    def add_registered_method_handlers(
        self, service_name: str, handlers: dict[str, "Handler"]
    ) -> None:
        """Wrap the handlers of a service and register them.

        Raises KeyError for a method without a rule: nothing is open by being forgotten.
        """
        self._handlers[service_name] = handlers
        for method, handler in handlers.items():
            call = _Call(self, service_name, method, handler)
            self._served.add(f"/{service_name}/{method}", call.handler(), call.started)

    def serve_also_as(self, service_name: str, other_name: str) -> None:
        """Serve the methods of a registered service under another name.

        Reflection v1 has the messages of v1alpha, which is what the library has.
        """
        self.add_registered_method_handlers(other_name, self._handlers[service_name])


class _Served(grpc.GenericRpcHandler):
    """Finds the handler of each call, and counts it as begun.

    Here and not in the handler, since a message that the transport refuses (it is too
    large) never gets there. Methods that nobody serves are counted under one name.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._found: dict[str, tuple[Handler, Counter]] = {}
        labels = (_TYPES[True, True], "unknown", "unknown")
        self._handled = metrics.handled.labels(*labels, grpc.StatusCode.UNIMPLEMENTED.name)
        # As a stream, so that no message is waited for.
        handler: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._unknown = handler, metrics.started.labels(*labels)

    def add(self, path: str, handler: "Handler", started: Counter) -> None:
        """Serve a method."""
        self._found[path] = handler, started

    def paths(self) -> tuple[str, ...]:
        """All methods."""
        return tuple(self._found)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler":
        handler, started = self._found.get(handler_call_details.method, self._unknown)
        started.inc()
        return handler

    async def _refuse(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        self._handled.inc()
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not served here")


_NOT_A_STREAM: AbstractAsyncContextManager[None] = nullcontext()


async def _nothing() -> None:
    """What is asked where nothing has to be."""


class _Counting:
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
            # The caller has gone: no fault of anybody's.
            raise asyncio.CancelledError from None


class _NotAdmitted(Exception):
    """A stream that is to be rejected, and of which nothing has been read."""

    def __init__(self, refusal: Refusal, messages: AsyncIterator[bytes]) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.messages = messages


class _Unread:
    """Takes the first message of streams that are to be rejected, if it comes soon.

    A client of grpc.aio whose first write meets an ended call gets INTERNAL from its own runtime,
    and not the reason. Only so many streams wait for that: the others are rejected at once.
    """

    def __init__(self) -> None:
        self.waiting = 0

    async def take_first(self, messages: AsyncIterator[bytes]) -> None:
        """Return once the message is there, or is not waited for any longer."""
        if self.waiting >= _MAX_UNREAD:
            return
        self.waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_MESSAGE_S):
                    await anext(messages, None)
        finally:
            self.waiting -= 1


class _Call:
    """One method with what its calls share."""

    def __init__(self, shared: Registry, service: str, method: str, inner: "Handler") -> None:
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
            code: metrics.handled.labels(*labels, code.name) for code in grpc.StatusCode
        }
        self._refusals = metrics.refusals

    def handler(self) -> "Handler":
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
            # Where messages come in they are what is looked at.
            allowed = _nothing if inner.request_streaming else self._still_allowed(context)
            counting = _Counting(context, self._sent, allowed)
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
                raise _NotAdmitted(refusal, messages) from None
            raise

    def _one_stream(self, context: Context) -> AbstractAsyncContextManager[None]:
        if not (self._inner.request_streaming or self._inner.response_streaming):
            return _NOT_A_STREAM
        return self._probe(context) if self._is_probe else self._shared.guard.one_stream()

    @asynccontextmanager
    async def _probe(self, context: Context) -> AsyncIterator[None]:
        known = await self._shared.guard.known(self._rule, context)
        async with self._shared.limits.probes.place(context, known):
            yield

    def _still_allowed(self, context: Context) -> Callable[[], Awaitable[object]]:
        """What is asked at each message of a stream, which may outlive its credentials."""
        return partial(self._shared.guard.still, self._rule, context)

    async def _request(self, messages: AsyncIterator[bytes], reach: Reach, context: Context) -> Any:
        if self._inner.request_streaming:
            return self._messages(messages, reach, self._still_allowed(context))
        return self._message(await self._shared.arriving.message(context), reach)

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
        under_way = self._new(context)
        begin(under_way)
        try:
            with self._limit.one_more(context):
                await self._shared.entrance.enter()
                response = await call()
            code = grpc.StatusCode.OK
        except _NotAdmitted as stopped:
            code, reason = CODES[stopped.refusal.reason], stopped.refusal.reason
            # Here it no longer counts as in flight.
            await self._shared.unread.take_first(stopped.messages)
            await self._refuse(stopped.refusal, under_way.request_id, context)
        except Refusal as refusal:
            code, reason = CODES[refusal.reason], refusal.reason
            await self._refuse(refusal, under_way.request_id, context)
        except grpc.aio.AbortError:
            # Health and reflection abort by themselves.
            code = _code(context.code())
            raise
        except asyncio.CancelledError:
            remaining_s = context.time_remaining()
            late = remaining_s is not None and remaining_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - the last place to hear of a fault of ours
            reason = Reason.INTERNAL
            await self._fail(error, under_way.request_id, context)
        else:
            return response
        finally:
            took_s = time.perf_counter() - began_s
            self._handled[code].inc()
            self._seconds.observe(took_s)
            if took_s > self._shared.slow_call_s and not self._inner.response_streaming:
                self._log_slow(took_s, under_way)
            under_way.ended(code.name, reason, took_s)

    def _log_slow(self, took_s: float, under_way: Call) -> None:
        held_back = self._shared.slow_rate.passes()
        if held_back is not None:
            log.warning(
                "slow_call",
                method=self._method,
                took_s=round(took_s, 3),
                **under_way.where_time_went(took_s),
                request_id=under_way.request_id,
                **not_logged(held_back),
            )

    async def _refuse(self, refusal: Refusal, request_id: str, context: Context) -> None:
        self._refusals.labels(self._method, refusal.reason).inc()
        held_back = self._shared.refused_rate.passes() if refusal.reason in _FLOODS else 0
        if held_back is not None:
            log.info(
                "refused",
                method=self._method,
                reason=refusal.reason,
                message=refusal.message,
                request_id=request_id,
                **_caller_name(),
                **not_logged(held_back),
            )
        await _abort(refusal, request_id, context)

    async def _fail(self, error: Exception, request_id: str, context: Context) -> None:
        """A fault of ours: logged in full, told without a word of what it was."""
        log.error("call_failed", method=self._method, request_id=request_id, exc_info=error)
        self._refusals.labels(self._method, Reason.INTERNAL).inc()
        refusal = Refusal(
            Reason.INTERNAL, "a fault of the service; it has been logged", request_id=request_id
        )
        await _abort(refusal, request_id, context)


def _caller_name() -> dict[str, str]:
    """Who calls, where credentials say it."""
    return {} if caller() is ANYBODY else {"caller": caller().name}


async def _abort(refusal: Refusal, request_id: str, context: Context) -> None:
    if refusal.reason is Reason.OVERLOADED:
        status = _overloaded(refusal.message, round(refusal.retry_after_s or 0.0, 2))
    else:
        status = rpc_status.to_status(status_of(refusal))
    trailing = (*status.trailing_metadata, (REQUEST_ID_HEADER, request_id))
    try:
        await context.abort(status.code, status.details, trailing)
    except grpc.aio.InternalError:
        # Nobody is there any more to hear it.
        raise asyncio.CancelledError from None


@lru_cache(maxsize=2_048)
def _overloaded(message: str, retry_after_s: float) -> grpc.Status:
    """The status is kept: of all refusals this one must be cheap, and there are few of them."""
    refusal = Refusal(Reason.OVERLOADED, message, retry_after_s=retry_after_s)
    return rpc_status.to_status(status_of(refusal))


def _code(code: Any) -> grpc.StatusCode:
    if isinstance(code, grpc.StatusCode):
        return code
    return next((c for c in grpc.StatusCode if c.value[0] == code), grpc.StatusCode.UNKNOWN)
