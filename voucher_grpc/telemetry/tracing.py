"""OpenTelemetry spans: a call, the batch that serves it, the statements of the batch.

The only module that knows OpenTelemetry; it is loaded only when `VOUCHER_TRACING` asks for it.
OpenTelemetry's own variables configure the exporter and the sampler. No attribute
holds what a request says: methods, codes, reasons, names and texts of statements (they have
no parameters in them), times, and the request id.

A batch is a child of the first of its calls that are traced, so that it is traced if one of
them is, and links to all of them; each of them links to the batch.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from opentelemetry.context import Context as TraceContext
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import TracerProvider as AnyTracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from voucher_grpc import __version__
from voucher_grpc.errors import Refusal
from voucher_grpc.telemetry.calls import Context, new_call, request_id_of
from voucher_grpc.telemetry.work import Batch, Call

log = structlog.get_logger(__name__)

# How long a stop waits for a collector to take the last spans.
FLUSH_PATIENCE_S = 5.0
# The codes that are a server's fault; the others are answers like any other.
_SERVER_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
# Where the time went, as far as no span below the call shows it. Each attribute costs the
# thread that sends spans 5 us.
_TIMES_OF_A_CALL = ("waited_s", "flush_s", "connect_s", "rest_s")
_NO_PARENT = TraceContext()
_FAILED = Status(StatusCode.ERROR)


class BadTracing(Exception):
    """OpenTelemetry's variables cannot be used; the message is one line."""


class Tracing:
    """Makes the spans of a server."""

    def __init__(self, provider: AnyTracerProvider) -> None:
        self._tracer = provider.get_tracer("voucher_grpc", __version__)
        # Nothing else of what callers send is read here, whatever OTEL_PROPAGATORS says: headers
        # are read before the caller is authenticated.
        self._propagator = TraceContextTextMapPropagator()
        # It would quote a header that it cannot read.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        self._headers = self._propagator.fields

    def calls(self, service: str, method: str) -> Callable[[Context], Call]:
        """How the calls of a method begin. Health and reflection make no spans."""
        if service.startswith("grpc."):
            return new_call
        name = f"{service}/{method}"
        return partial(self._call, name, {"rpc.system.name": "grpc", "rpc.method": name})

    def _call(self, name: str, attributes: dict[str, Any], context: Context) -> Call:
        span = self._tracer.start_span(
            name, self._parent(context), SpanKind.SERVER, attributes=attributes
        )
        if not span.is_recording():
            return new_call(context)
        return TracedCall(partial(request_id_of, context), self._tracer, span)

    def _parent(self, context: Context) -> TraceContext:
        """The caller's span, as its metadata name it."""
        headers = self._headers
        carrier = {
            key: value for key, value in context.invocation_metadata() or () if key in headers
        }
        return self._propagator.extract(carrier, _NO_PARENT) if carrier else _NO_PARENT


def _statement_span(
    tracer: Tracer,
    parent: TraceContext,
    name: str,
    text: str,
    took_s: float,
    error: BaseException | None,
) -> None:
    """The span of a statement that has just ended. An error's message may quote what a caller
    wrote, so its class and SQLSTATE have to do."""
    end_ns = time.time_ns()
    span = tracer.start_span(
        name,
        parent,
        SpanKind.CLIENT,
        attributes={
            "db.system.name": "postgresql",
            "db.query.summary": name,
            "db.query.text": text,
        },
        start_time=end_ns - int(took_s * 1e9),
    )
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        if isinstance(sqlstate := getattr(error, "sqlstate", None), str):
            span.set_attribute("db.response.status_code", sqlstate)
        span.set_status(_FAILED)
    span.end(end_ns)


def _trace_id(span: Span) -> str:
    return format(span.get_span_context().trace_id, "032x")


class TracedCall(Call):
    """A call with a span."""

    __slots__ = ("_tracer", "inside", "span")
    makes_batches = True

    def __init__(self, find_request_id: Callable[[], str], tracer: Tracer, span: Span) -> None:
        super().__init__(find_request_id)
        self._tracer = tracer
        self.span = span
        # What the call's span has below it is made in this context.
        self.inside = set_span_in_context(span, _NO_PARENT)

    def statement(self, name: str, text: str, took_s: float, error: BaseException | None) -> None:
        """A span below the call's."""
        super().statement(name, text, took_s, error)
        _statement_span(self._tracer, self.inside, name, text, took_s, error)

    def ids(self) -> dict[str, str | list[str]]:
        """The request id, and the trace's."""
        return {"request_id": self.request_id, "trace_id": _trace_id(self.span)}

    def batch(self, name: str, calls: Sequence[Call | None]) -> Batch:
        """One with a span."""
        return TracedBatch(name, calls, self._tracer)

    def ended(self, code: str, reason: str | None, took_s: float) -> None:
        """End the span, with where the time went."""
        went = self.where_time_went(took_s)
        attributes: dict[str, Any] = {
            f"voucher.{name}": went[name] for name in _TIMES_OF_A_CALL if went.get(name)
        }
        attributes["rpc.response.status_code"] = code
        attributes["voucher.request_id"] = self.request_id
        if reason is not None:
            attributes["voucher.reason"] = str(reason)
        if code in _SERVER_FAULTS:
            attributes["error.type"] = code
            self.span.set_status(_FAILED)
        self.span.set_attributes(attributes)
        self.span.end()


class TracedBatch(Batch):
    """A batch with a span, below the first of its calls that has one."""

    __slots__ = ("_inside", "_span", "_tracer")

    def __init__(self, name: str, calls: Sequence[Call | None], tracer: Tracer) -> None:
        super().__init__(name, calls)
        traced = [call for call in self.calls if isinstance(call, TracedCall)]
        self._tracer = tracer
        self._span = tracer.start_span(
            f"batch {name}",
            traced[0].inside,
            attributes={"voucher.batch": name, "voucher.batch_size": self.size},
            links=[Link(call.span.get_span_context()) for call in traced],
        )
        self._inside = set_span_in_context(self._span, _NO_PARENT)
        here = self._span.get_span_context()
        for call in traced:
            call.span.add_link(here)

    def statement(self, name: str, text: str, took_s: float, error: BaseException | None) -> None:
        """A span below the batch's."""
        super().statement(name, text, took_s, error)
        _statement_span(self._tracer, self._inside, name, text, took_s, error)

    def ids(self) -> dict[str, str | list[str]]:
        """The request ids, and the trace's."""
        return {**super().ids(), "trace_id": _trace_id(self._span)}

    def ended(self, error: BaseException | None) -> None:
        """End the span."""
        super().ended(error)
        if error is not None:
            if isinstance(error, Refusal):
                self._span.set_attribute("voucher.reason", str(error.reason))
            self._span.set_attribute("error.type", type(error).__qualname__)
            self._span.set_status(_FAILED)
        self._span.end()


def _resource() -> Resource:
    """The spans' source: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, else `voucher-grpc`."""
    named = OTELResourceDetector().detect().attributes
    ours = {"service.name": "voucher-grpc", "service.version": __version__}
    return Resource.create({key: value for key, value in ours.items() if key not in named})


@asynccontextmanager
async def exporting() -> AsyncIterator[Tracing]:
    """Send spans by OTLP over gRPC, as OTEL_* say, and the last of them at the end.

    A thread of the SDK sends them; its queue is bounded, and what does not fit is dropped.
    Raises BadTracing.
    """
    if (protocol := _protocol()) != "grpc":
        raise BadTracing(f"OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is known here, not {protocol}")
    # It would quote a header that it cannot read, and with it a collector's token.
    logging.getLogger("opentelemetry.util.re").setLevel(logging.ERROR)
    try:
        exporter = OTLPSpanExporter()
        processor = BatchSpanProcessor(exporter)
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    except (ValueError, OSError) as error:
        raise BadTracing(f"OpenTelemetry's variables: {error}") from error
    provider.add_span_processor(processor)
    try:
        yield Tracing(provider)
    finally:
        stopping = asyncio.create_task(asyncio.to_thread(provider.shutdown))
        done, _ = await asyncio.wait({stopping}, timeout=FLUSH_PATIENCE_S)
        if not done:
            log.warning("spans_left", patience_s=FLUSH_PATIENCE_S)
            await asyncio.to_thread(exporter.shutdown)
        await stopping


def _protocol() -> str:
    general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general
