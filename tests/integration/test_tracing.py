"""Traces, as an operator's collector sees them: calls, batches, statements."""

import asyncio
import json
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from tests.conftest import OFFER_KEYS, server_config
from tests.integration.operating import (
    PASSWORD,
    PATIENCE_S,
    check,
    ended,
    environment,
    held_up,
    refusal_to_start,
    start,
    until_started,
    with_password,
)
from tests.integration.shop import buy, create, outcome, signed_offer, until_waiting
from voucher_grpc.client import Client
from voucher_grpc.server.lifecycle import RunningServer, running
from voucher_grpc.telemetry import work
from voucher_grpc.telemetry.logs import with_ids
from voucher_grpc.telemetry.tracing import TracedCall, Tracing

SERVICE = "voucher_grpc.v1.VoucherService"
NEVER = ParentBased(TraceIdRatioBased(0))


@dataclass(frozen=True)
class Traced:
    """A server whose spans are kept in memory."""

    server: RunningServer
    exporter: InMemorySpanExporter

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def spans(self, name: str) -> list[ReadableSpan]:
        """The spans of a name that have ended, in the order in which they did."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def calls(self, method: str) -> list[ReadableSpan]:
        """The spans of a method's calls."""
        return self.spans(f"{SERVICE}/{method}")

    async def calls_ended(self, method: str, number: int) -> list[ReadableSpan]:
        """The spans of a method's calls, once there are so many: an answer is there before."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self.calls(method)) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Its children."""
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.parent is not None and span.parent.span_id == parent.context.span_id
        ]


@asynccontextmanager
async def traced(url: str, **options: Any) -> AsyncIterator[Traced]:
    """A server that traces, by OpenTelemetry's own defaults if nothing else is said."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running(server_config(url), tracing=Tracing(provider)) as server:
        yield Traced(server, exporter)


@dataclass(frozen=True)
class Caller:
    """A caller with a trace of its own."""

    trace_id: str
    span_id: str
    client: Client


@asynccontextmanager
async def calling(
    target: str, *metadata: tuple[str, str], sampled: bool = True
) -> AsyncIterator[Caller]:
    """A client that sends a traceparent (W3C)."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    parent = ("traceparent", f"00-{trace_id}-{span_id}-{sampled:02x}")
    async with Client(target, metadata=[parent, *metadata]) as client:
        yield Caller(trace_id, span_id, client)


def trace_of(span: ReadableSpan) -> str:
    return format(span.context.trace_id, "032x")


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def linked(span: ReadableSpan) -> Counter[int]:
    """The spans to which it links."""
    return Counter(link.context.span_id for link in span.links)


def ids(spans: Sequence[ReadableSpan]) -> Counter[int]:
    return Counter(span.context.span_id for span in spans)


async def test_a_calls_span_is_in_its_callers_trace(fresh_database: str) -> None:
    """With what the conventions for RPC want of a server, and the request id of the logs."""
    async with (
        traced(fresh_database) as service,
        calling(service.target, ("x-request-id", "call-1")) as caller,
    ):
        await caller.client.request_offers(user_id="alice", currency_code="NOK")
        [span] = await service.calls_ended("RequestOffers", 1)
    assert (caller.trace_id, caller.span_id) == (
        trace_of(span),
        format(span.parent.span_id if span.parent else 0, "016x"),
    )
    assert (SpanKind.SERVER, StatusCode.UNSET) == (span.kind, span.status.status_code)
    found = attributes_of(span)
    assert ("grpc", f"{SERVICE}/RequestOffers", "OK", "call-1") == (
        found["rpc.system.name"],
        found["rpc.method"],
        found["rpc.response.status_code"],
        found["voucher.request_id"],
    )
    lasted_s = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    assert 0 < found["voucher.flush_s"] <= lasted_s
    assert 0 < found["voucher.waited_s"] + found["voucher.rest_s"] <= lasted_s


async def test_a_batch_links_to_the_calls_it_served_and_they_to_it(fresh_database: str) -> None:
    """One span for the work that many share, and each finds it."""
    async with (
        traced(fresh_database) as service,
        calling(service.target) as first,
        calling(service.target) as other,
    ):
        created = await create(first.client, "p")
        async with held_up(fresh_database):
            held = asyncio.create_task(buy(first.client, signed_offer(created, "held")))
            await until_waiting(fresh_database)
            gathered = [
                asyncio.create_task(buy(caller.client, signed_offer(created, f"user-{number}")))
                for number, caller in enumerate([first, other] * 3)
            ]
            await until_started(service.server, "PurchasePass", 7)
        await asyncio.gather(held, *gathered)
        calls = await service.calls_ended("PurchasePass", 7)
    alone, together = service.spans("batch purchases")
    assert (1, 6) == (len(alone.links), len(together.links))
    assert ids(calls) == linked(alone) + linked(together)
    for call in calls:
        batch = alone if linked(call) == ids([alone]) else together
        assert (ids([batch]), True) == (linked(call), linked(call) <= ids([alone, together]))
        assert linked(batch)[call.context.span_id]
        assert len(batch.links) == attributes_of(batch)["voucher.batch_size"]
    # The batch itself stands in the trace of the first of them.
    assert first.trace_id == trace_of(together)
    assert {first.trace_id: 4, other.trace_id: 3} == Counter(trace_of(call) for call in calls)


async def test_statements_stand_below_the_batch_by_their_names(fresh_database: str) -> None:
    """With the text as it stands in sql/, which has no parameters in it."""
    async with traced(fresh_database) as service, calling(service.target) as caller:
        created = await create(caller.client, "p")
        await buy(caller.client, signed_offer(created, "alice"))
        await service.calls_ended("PurchasePass", 1)
        [batch] = service.spans("batch purchases")
        statements = service.below(batch)
    names = [span.name for span in statements]
    assert ["BEGIN", "passes.lock_users", "passes.write", "COMMIT"] == [
        name for name in names if name in ("BEGIN", "passes.lock_users", "passes.write", "COMMIT")
    ]
    written = statements[names.index("passes.write")]
    assert ("postgresql", "passes.write") == (
        attributes_of(written)["db.system.name"],
        attributes_of(written)["db.query.summary"],
    )
    assert "INSERT INTO passes" in attributes_of(written)["db.query.text"]
    assert "$1" in attributes_of(written)["db.query.text"]
    assert {SpanKind.CLIENT} == {span.kind for span in statements}
    for span in statements:
        assert batch.start_time is not None
        assert batch.start_time <= (span.start_time or 0) <= (span.end_time or 0)
        assert (span.end_time or 0) <= (batch.end_time or 0)
        assert trace_of(batch) == trace_of(span)


async def test_statements_of_the_pool_stand_below_their_call(fresh_database: str) -> None:
    """Also what the pool does when it has its connection back, which the caller waits for."""
    async with traced(fresh_database) as service, calling(service.target) as caller:
        await outcome(caller.client.get_pass("alice", "7f3f2b4e-95a1-4a4e-8f39-0d2c8a1b9e11"))
        [call] = await service.calls_ended("GetPass", 1)
        below = [span.name for span in service.below(call)]
    assert ["passes.pass", "reset"] == below
    assert attributes_of(call)["voucher.connect_s"] > 0


async def test_a_refusal_names_its_reason_and_is_no_fault(fresh_database: str) -> None:
    """The conventions mark those codes as errors that are the server's."""
    async with traced(fresh_database) as service, calling(service.target) as caller:
        await outcome(caller.client.get_pass("alice", "7f3f2b4e-95a1-4a4e-8f39-0d2c8a1b9e11"))
        [call] = await service.calls_ended("GetPass", 1)
    found = attributes_of(call)
    assert ("NOT_FOUND", "PASS_NOT_FOUND", StatusCode.UNSET) == (
        found["rpc.response.status_code"],
        found["voucher.reason"],
        call.status.status_code,
    )
    assert "error.type" not in found


async def test_a_fault_is_an_error_down_to_its_statement(fresh_database: str) -> None:
    """The statement says which class of error, and not in which words: they may quote a row."""
    async with traced(fresh_database) as service, calling(service.target) as caller:
        admin = await asyncpg.connect(fresh_database)
        await admin.execute("DROP TABLE passes CASCADE")
        await admin.close()
        await outcome(caller.client.get_pass("alice", "7f3f2b4e-95a1-4a4e-8f39-0d2c8a1b9e11"))
        [call] = await service.calls_ended("GetPass", 1)
        failed = next(span for span in service.below(call) if span.name == "passes.pass")
    assert ("INTERNAL", "INTERNAL", "INTERNAL", StatusCode.ERROR) == (
        attributes_of(call)["rpc.response.status_code"],
        attributes_of(call)["voucher.reason"],
        attributes_of(call)["error.type"],
        call.status.status_code,
    )
    assert ("UndefinedTableError", "42P01", StatusCode.ERROR, None, 0) == (
        attributes_of(failed)["error.type"],
        attributes_of(failed)["db.response.status_code"],
        failed.status.status_code,
        failed.status.description,
        len(failed.events),
    )


async def test_nothing_that_a_caller_wrote_and_no_secret_is_in_a_span(fresh_database: str) -> None:
    """Not in those that worked, were refused, or failed on a row that Postgres quotes."""
    async with (
        traced(with_password(fresh_database)) as service,
        calling(service.target, ("authorization", "Bearer s3cret-token")) as caller,
    ):
        client = caller.client
        created = await create(client, "p-secret")
        admin = await asyncpg.connect(fresh_database)
        await admin.execute(
            "ALTER TABLE passes ADD CHECK (vehicle_id <> 'vehicle-secret-2') NOT VALID"
        )
        await admin.close()
        await client.request_offers(
            user_id="user-secret", vehicle_id="vehicle-secret-1", currency_code="NOK"
        )
        offer = signed_offer(created, "user-secret")
        request_id = "11111111-aaaa-4aaa-8aaa-111111111111"
        bought = await client.purchase_pass(
            offer,
            request_id=request_id,
            vehicle_id="vehicle-secret-1",
            payment_reference="pay-secret",
        )
        await outcome(client.get_pass("user-secret-3", bought.pass_id))
        poisoned = signed_offer(created, "user-secret", lifetime_s=500)
        failed = await outcome(
            client.purchase_pass(
                poisoned, payment_reference="pay-s2", vehicle_id="vehicle-secret-2"
            )
        )
        assert "INTERNAL" == failed
        await service.calls_ended("PurchasePass", 2)
    everything = "".join(span.to_json() for span in service.exporter.get_finished_spans())
    written = [offer.offer_id, bought.pass_id, request_id, "secret", "s3cret", "pay-s2"]
    secret = [PASSWORD, OFFER_KEYS.partition(":")[2]]
    assert [] == [word for word in (*written, *secret) if word in everything]
    assert "CheckViolationError" in everything


async def test_a_caller_that_is_not_sampled_leaves_no_span(fresh_database: str) -> None:
    """Nor do health checks; a batch is traced if one of its calls is, and links to that."""
    async with (
        traced(fresh_database, sampler=NEVER) as service,
        Client(service.target) as plain,
        calling(service.target, sampled=False) as unsampled,
        calling(service.target) as sampled,
    ):
        created = await create(plain, "p")
        await unsampled.client.request_offers(user_id="alice", currency_code="NOK")
        await check(service.target)
        assert () == service.exporter.get_finished_spans()
        async with held_up(fresh_database):
            works = [asyncio.create_task(buy(plain, signed_offer(created, "held")))]
            await until_waiting(fresh_database)
            works += [
                asyncio.create_task(buy(client, signed_offer(created, f"user-{number}")))
                for number, client in enumerate((plain, unsampled.client, sampled.client))
            ]
            await until_started(service.server, "PurchasePass", 4)
        await asyncio.gather(*works)
        calls = await service.calls_ended("PurchasePass", 1)
    [batch] = service.spans("batch purchases")
    assert (1, 3) == (len(calls), attributes_of(batch)["voucher.batch_size"])
    assert ids(calls) == linked(batch)
    assert {sampled.trace_id} == {trace_of(span) for span in service.exporter.get_finished_spans()}


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_traceparent_that_is_none_does_no_harm(fresh_database: str, parent: str) -> None:
    """The call is served, in a trace of its own."""
    async with (
        traced(fresh_database) as service,
        Client(service.target, metadata=[("traceparent", parent)]) as client,
    ):
        await client.request_offers(user_id="alice", currency_code="NOK")
        [call] = await service.calls_ended("RequestOffers", 1)
    assert call.parent is None


def test_a_line_of_the_log_names_its_trace() -> None:
    """From a line to the trace, and back by the request id."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    span = tracer.start_span("call")
    call = TracedCall(lambda: "call-1", tracer, span)
    trace_id = format(span.get_span_context().trace_id, "032x")

    def lines() -> list[dict[str, Any]]:
        work.begin(call)
        of_call = with_ids(None, "", {})
        work.begin_batch("test", [None, call])
        return [of_call, with_ids(None, "", {})]

    assert [
        {"request_id": "call-1", "trace_id": trace_id},
        {"request_ids": ["call-1"], "trace_id": trace_id},
    ] == copy_context().run(lines)


# As an operator turns it on.


class Collector(collector_grpc.TraceServiceServicer):
    """Takes what is exported to it."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        return collector.ExportTraceServiceResponse()

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """(attributes of who sent it, span) of each."""
        return [
            ({a.key: a.value.string_value for a in resource.resource.attributes}, span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """(a collector that speaks OTLP over gRPC, its endpoint)."""
    servicer, server = Collector(), grpc.aio.server()
    register: Any = collector_grpc.add_TraceServiceServicer_to_server
    register(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def served(url: str, **settings: str) -> tuple[asyncio.subprocess.Process, str]:
    """(the command `serve` that traces, its target)."""
    process = await start("serve", url=url, VOUCHER_TRACING="otlp", **settings)
    assert process.stdout is not None
    ready = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    return process, f"127.0.0.1:{re.findall(r'port ([0-9]+)', ready)[0]}"


async def test_spans_reach_a_collector_also_the_last_ones(fresh_database: str) -> None:
    """By OTLP, under the service's name, as OTEL_* say; a stop sends what is left."""
    async with collecting() as (taken, endpoint):
        process, target = await served(
            fresh_database,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_BSP_SCHEDULE_DELAY="60000",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        )
        async with calling(target) as caller:
            await caller.client.request_offers(user_id="alice", currency_code="NOK")
        process.send_signal(signal.SIGTERM)
        result = await ended(process)
    assert (0, []) == (result.code, result.errors)
    spans = taken.spans()
    assert {(caller.trace_id, "voucher-grpc", "test")} == {
        (span.trace_id.hex(), resource["service.name"], resource["deployment.environment.name"])
        for resource, span in spans
    }
    assert {f"{SERVICE}/RequestOffers", "batch offers", "knowledge.knowledge"} <= {
        span.name for _, span in spans
    }


async def test_a_collector_that_is_away_disturbs_neither_calls_nor_the_stop(
    fresh_database: str,
) -> None:
    """The stop does not wait longer for it than it says; the log tells that spans are left."""
    process, target = await served(fresh_database, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    async with calling(target) as caller:
        for number in range(20):
            await caller.client.request_offers(user_id=f"user-{number}", currency_code="NOK")
    process.send_signal(signal.SIGTERM)
    result = await asyncio.wait_for(ended(process), PATIENCE_S)
    assert 0 == result.code
    lines = [json.loads(line) for line in result.errors]
    assert [line for line in lines if "span" in line["event"] or "export" in line["event"]]
    assert "Traceback" not in "".join(result.errors)


async def test_a_collectors_token_is_not_logged_even_if_it_cannot_be_read(
    fresh_database: str,
) -> None:
    """The SDK would quote the header that it does not understand."""
    process, _ = await served(
        fresh_database,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_HEADERS="token-5ecret;;no header",
    )
    process.send_signal(signal.SIGTERM)
    result = await ended(process)
    assert 0 == result.code
    assert "5ecret" not in "".join(result.errors)


async def test_headers_for_traces_write_nothing_to_the_log(fresh_database: str) -> None:
    """Whoever reaches the port may send them: each would else be quoted, line after line."""
    good = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    async with collecting() as (taken, endpoint):
        process, target = await served(fresh_database, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        for metadata in (
            [("traceparent", good), ("baggage", ",".join(["=", "wr itten=1"] * 90))],
            [("traceparent", good), ("baggage", "written=" + "1" * 5_000)],
            [("traceparent", good), ("tracestate", "WRITTEN by a caller")],
            [("traceparent", good), ("tracestate", "written=" + "1" * 600)],
            [("traceparent", good), ("tracestate", ",".join(f"a{n}=1" for n in range(40)))],
            [("traceparent", good * 20)],
        ):
            async with Client(target, metadata=metadata) as client:
                await client.request_offers(user_id="alice", currency_code="NOK")
        process.send_signal(signal.SIGTERM)
        result = await ended(process)
    assert (0, []) == (result.code, result.errors)
    calls = [span for _, span in taken.spans() if span.name == f"{SERVICE}/RequestOffers"]
    assert 5 == sum(span.trace_id.hex() in good for span in calls)
    assert "" == "".join(span.trace_state for span in calls)


async def test_a_protocol_that_is_not_spoken_is_refused(fresh_database: str) -> None:
    """Spans would else go nowhere unnoticed."""
    told = await refusal_to_start(
        fresh_database, VOUCHER_TRACING="otlp", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
    )
    assert "voucher-grpc: OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is known" in told


async def python(program: str, url: str, **settings: str) -> tuple[int | None, str, str]:
    """(exit code, output, errors) of a program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(url, **settings),
    )
    output, errors = await asyncio.wait_for(process.communicate(), 300)
    return process.returncode, output.decode(), errors.decode()


async def test_without_the_extra_the_start_is_refused_with_its_name(fresh_database: str) -> None:
    """In one line. (The module is hidden from the interpreter, as if it were not installed.)"""
    program = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv = ['voucher-grpc', 'serve'];"
        "from voucher_grpc.cli import main; main()"
    )
    code, _, errors = await python(program, fresh_database, VOUCHER_TRACING="otlp")
    assert (2, 1) == (code, len(errors.splitlines()))
    assert "needs OpenTelemetry: pip install 'voucher-grpc[server,otel]'" in errors


async def test_nothing_of_opentelemetry_is_loaded_while_nothing_is_traced(
    fresh_database: str,
) -> None:
    """Neither its time nor its memory is paid for."""
    program = """
import asyncio, sys
from voucher_grpc.client import Client
from voucher_grpc.server.config import read_config
from voucher_grpc.server.lifecycle import running

async def main():
    async with running(read_config()) as server, Client(f"127.0.0.1:{server.port}") as client:
        await client.request_offers(user_id="alice", currency_code="NOK")
    print([name for name in sys.modules if name.startswith("opentelemetry")])

asyncio.run(main())
"""
    code, output, errors = await python(program, fresh_database)
    assert (0, "[]", "") == (code, output.strip(), errors)
