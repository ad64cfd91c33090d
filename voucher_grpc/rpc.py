"""How a call enters and leaves: the one shape around every method.

Around each method, from the outside in, and why in this order:

1. metrics, so that whatever is refused further in is counted;
2. the translation of errors into statuses, so that nothing leaves untranslated;
3. the gate, so that what is too much costs no more than its refusal;
4. parsing, so that malformed bytes are a refusal like any other: left to itself
   the runtime answers them UNKNOWN with a Python message;
5. the method.

The handlers are wrapped once, when services are registered, health and
reflection among them. (A grpc.aio interceptor would be asked again at each call.)
"""

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from prometheus_client import Counter

from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.gates import Gate, Gates, LogRate
from voucher_grpc.metrics import Metrics
from voucher_grpc.wire.encoding import Encoded
from voucher_grpc.wire.status import CODES, status_of

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
Context = grpc.aio.ServicerContext[Any, Any]
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class Registry:
    """Stands in for the server while generated code registers its handlers."""

    def __init__(
        self, server: grpc.aio.Server, metrics: Metrics, slow_call_s: float, gates: Gates
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._slow_call_s = slow_call_s
        self._gates = gates
        self._refused_rate, self._slow_rate = LogRate(), LogRate()
        self._handlers: dict[str, dict[str, Handler]] = {}
        self.methods: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Passed over: the same handlers come by name."""

    def add_registered_method_handlers(
        self, service_name: str, handlers: dict[str, "Handler"]
    ) -> None:
        """Wrap the handlers of a service and register them."""
        self._handlers[service_name] = handlers
        wrapped = {}
        for method, handler in handlers.items():
            streaming = handler.request_streaming or handler.response_streaming
            wrapped[method] = _Call(
                service_name,
                method,
                handler,
                self._metrics,
                self._slow_call_s,
                self._gates.of(service_name, streaming=streaming),
                self._refused_rate,
                self._slow_rate,
            ).handler()
            self.methods.append(f"/{service_name}/{method}")
        generic = grpc.method_handlers_generic_handler(service_name, wrapped)
        self._server.add_generic_rpc_handlers((generic,))

    def serve_also_as(self, service_name: str, other_name: str) -> None:
        """Serve the methods of a registered service under another name.

        Reflection v1 has the messages of v1alpha, which is what the library has.
        """
        self.add_registered_method_handlers(other_name, self._handlers[service_name])


def request_id_of(context: Context) -> str:
    """The caller's request id if it sent a usable one, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_HEADER and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


class _Counting:
    """The context of a stream, which counts the messages that the method writes itself."""

    def __init__(self, context: Context, sent: Counter) -> None:
        self._context = context
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Send one message."""
        self._sent.inc()
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            # The caller has gone: no fault of anybody's.
            raise asyncio.CancelledError from None


class _Call:
    """One method with what its calls share."""

    def __init__(
        self,
        service: str,
        method: str,
        inner: "Handler",
        metrics: Metrics,
        slow_call_s: float,
        gate: Gate,
        refused_rate: LogRate,
        slow_rate: LogRate,
    ) -> None:
        self._method = method
        self._gate = gate
        self._refused_rate = refused_rate
        self._slow_rate = slow_rate
        self._inner = inner
        self._parse: Callable[[bytes], Any] = inner.request_deserializer or (lambda raw: raw)
        serialize: Callable[[Any], bytes] = inner.response_serializer or (lambda raw: raw)
        self._serialize = lambda answer: (
            answer.raw if isinstance(answer, Encoded) else serialize(answer)
        )
        self._slow_call_s = slow_call_s
        labels = (_TYPES[inner.request_streaming, inner.response_streaming], service, method)
        self._started = metrics.started.labels(*labels)
        self._received = metrics.received.labels(*labels)
        self._sent = metrics.sent.labels(*labels)
        self._seconds = metrics.handling_seconds.labels(*labels)
        self._handled = {
            code: metrics.handled.labels(*labels, code.name) for code in grpc.StatusCode
        }
        self._refusals = metrics.refusals

    def handler(self) -> "Handler":
        """The handler to register: it takes raw bytes."""
        inner = self._inner
        if inner.response_streaming:
            kind = (
                grpc.stream_stream_rpc_method_handler
                if inner.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return kind(self._streaming, None, self._serialize)
        if inner.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary, None, self._serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary, None, self._serialize)

    async def _unary(self, raw: Any, context: Context) -> Any:
        inner = self._inner
        behaviour: Any = inner.stream_unary if inner.request_streaming else inner.unary_unary

        async def call() -> Any:
            response = await behaviour(self._request(raw), context)
            self._sent.inc()
            return response

        return await self._around(call, context)

    async def _streaming(self, raw: Any, context: Context) -> None:
        inner = self._inner
        behaviour: Any = inner.stream_stream if inner.request_streaming else inner.unary_stream

        async def call() -> None:
            counting = _Counting(context, self._sent)
            answers = behaviour(self._request(raw), counting)
            if inspect.isasyncgen(answers):
                async for answer in answers:
                    await counting.write(answer)
            else:
                await answers

        await self._around(call, context)

    def _request(self, raw: Any) -> Any:
        return self._messages(raw) if self._inner.request_streaming else self._message(raw)

    def _message(self, raw: bytes) -> Any:
        self._received.inc()
        try:
            return self._parse(raw)
        except (DecodeError, UnicodeDecodeError, ValueError, RecursionError):
            raise Refusal(
                Reason.MALFORMED_MESSAGE,
                "the bytes are not a message of the expected type, or text is not UTF-8",
            ) from None

    async def _messages(self, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for part in raw:
            yield self._message(part)

    async def _around(self, call: Callable[[], Awaitable[Any]], context: Context) -> Any:
        self._started.inc()
        began_s = time.perf_counter()
        code = grpc.StatusCode.INTERNAL
        try:
            with self._gate.one_more():
                response = await call()
            code = grpc.StatusCode.OK
        except Refusal as refusal:
            code = CODES[refusal.reason]
            await self._refuse(refusal, context)
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
            await self._fail(error, context)
        else:
            return response
        finally:
            took_s = time.perf_counter() - began_s
            self._handled[code].inc()
            self._seconds.observe(took_s)
            if took_s > self._slow_call_s and not self._inner.response_streaming:
                self._log_slow(took_s, context)

    def _log_slow(self, took_s: float, context: Context) -> None:
        held_back = self._slow_rate.passes()
        if held_back is not None:
            log.warning(
                "slow_call",
                method=self._method,
                took_s=round(took_s, 3),
                request_id=request_id_of(context),
                **_not_logged(held_back),
            )

    async def _refuse(self, refusal: Refusal, context: Context) -> None:
        self._refusals.labels(self._method, refusal.reason).inc()
        request_id = request_id_of(context)
        # A line for each of a flood of refusals would cost more than the refusing.
        flood = refusal.reason is Reason.OVERLOADED
        held_back = self._refused_rate.passes() if flood else 0
        if held_back is not None:
            log.info(
                "refused",
                method=self._method,
                reason=refusal.reason,
                message=refusal.message,
                request_id=request_id,
                **_not_logged(held_back),
            )
        await _abort(refusal, request_id, context)

    async def _fail(self, error: Exception, context: Context) -> None:
        """A fault of ours: logged in full, told without a word of what it was."""
        request_id = request_id_of(context)
        log.error("call_failed", method=self._method, request_id=request_id, exc_info=error)
        self._refusals.labels(self._method, Reason.INTERNAL).inc()
        refusal = Refusal(
            Reason.INTERNAL, "a fault of the service; it has been logged", request_id=request_id
        )
        await _abort(refusal, request_id, context)


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


def _not_logged(held_back: int) -> dict[str, int]:
    """How many lines were left out before this one, where any were."""
    return {"not_logged": held_back} if held_back else {}


def _code(code: Any) -> grpc.StatusCode:
    if isinstance(code, grpc.StatusCode):
        return code
    return next((c for c in grpc.StatusCode if c.value[0] == code), grpc.StatusCode.UNKNOWN)
