"""Start and stop: from the pool to the port, and back in reverse order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from voucher_grpc.edge.rpc.call_limits import CallLimits
from voucher_grpc.edge.rpc.drain_barrier import DrainBarrier
from voucher_grpc.edge.rpc.method import SharedByMethods
from voucher_grpc.edge.rpc.registry import Registry
from voucher_grpc.edge.servicers.health import Health
from voucher_grpc.edge.servicers.open_streams import OpenStreams
from voucher_grpc.errors import StartError
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.runtime.memory import trim_memory
from voucher_grpc.server.config import Config
from voucher_grpc.server.connections import server_options
from voucher_grpc.server.keys import keep_offer_keys_fresh, offer_signer
from voucher_grpc.server.listeners import Listeners
from voucher_grpc.server.worker import Worker
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.events import EventFeed
from voucher_grpc.store.migrate import pending
from voucher_grpc.store.parameters import active_parameters
from voucher_grpc.telemetry.calls import untraced
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.telemetry.metrics_server import serve_metrics

if TYPE_CHECKING:
    from voucher_grpc.telemetry.tracing import Tracing

from voucher_grpc.server.database_watch import probe_database, watch_database
from voucher_grpc.server.process import collect_now_and_then
from voucher_grpc.server.wiring import (
    SERVICES,
    Parts,
    charge_closer,
    event_sequencer,
    pass_closer,
    read_cached,
    register_services,
)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that serves: where, and what it counts.

    `mtls_port` is where callers must show a certificate, if that is another one.
    """

    port: int
    mtls_port: int | None
    metrics_port: int | None
    metrics: Metrics
    methods: tuple[str, ...]


def _options(config: Config) -> DatabaseOptions:
    return DatabaseOptions(
        url=config.database_url.get_secret_value(),
        pool_size=config.pool_size,
        connect_timeout_s=config.connect_timeout_s,
        statement_timeout_s=config.statement_timeout_s,
        statement_cache_size=config.statement_cache_size,
        db_probe_timeout_s=config.db_probe_timeout_s,
    )


async def _configured_tracing(config: Config, stack: AsyncExitStack) -> "Tracing | None":
    """Traces that go to a collector, or None: then nothing of OpenTelemetry is loaded."""
    if config.tracing == "off":
        return None
    try:
        from voucher_grpc.telemetry.tracing import BadTracing, exporting
    except ModuleNotFoundError as error:
        raise StartError(
            "VOUCHER_TRACING=otlp needs OpenTelemetry: pip install 'voucher-grpc[server,otel]'"
        ) from error
    try:
        return await stack.enter_async_context(exporting())
    except BadTracing as error:
        raise StartError(str(error)) from error


@asynccontextmanager
async def running(
    config: Config, worker: Worker | None = None, tracing: "Tracing | None" = None
) -> AsyncIterator[RunningServer]:
    """Serve until the block is left; then NOT_SERVING, drain, flush, close.

    A `worker` shares its port with others (see `voucher_grpc.workers.supervisor`). Spans go where
    the configuration says, or to a `tracing` of the caller's own.
    Raises StartError for a taken port or missing migrations, StoreUnavailable
    and UnsafeDatabase for the database.
    """
    if not config.offer_keys:
        raise StartError("VOUCHER_OFFER_KEYS is not set; make a key with `openssl rand -hex 32`")
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        listeners = Listeners(config, worker.folder / "rates" if worker is not None else None)
        stack.callback(listeners.close)
        await listeners.load()
        metrics.follow(metrics.token_keys_age, lambda: listeners.token_keys_age_s)
        metrics.follow(metrics.handshakes, lambda: listeners.handshakes)
        tracing = tracing or await _configured_tracing(config, stack)
        database = await stack.enter_async_context(Database.open(_options(config)))
        await _refuse_old_schema(database)
        options = server_options(config, shared_port=worker is not None)
        server = grpc.aio.server(options=options)
        signer = offer_signer(config.offer_keys)
        limits = CallLimits(config.max_concurrent_calls, config.max_concurrent_streams, metrics)
        calls = tracing.calls if tracing else untraced
        methods = SharedByMethods(listeners.guard, limits, metrics, config.slow_call_s, calls)
        registry = Registry(server, methods)
        health = Health(SERVICES)
        clock = DatabaseClock()
        parameters = await active_parameters(database)
        feed = EventFeed()
        shared = Parts(config, database, clock, metrics, OpenStreams(), stack)
        cached = await read_cached(database, metrics, stack)
        register_services(
            registry, shared, cached, parameters, health, feed, signer, listeners.rates
        )
        metrics_port = serve_metrics(config.metrics_listen, metrics.registry, stack)
        await probe_database(health, database, clock, metrics)
        # Last, since connections come in from here on and wait until the server has started.
        port, mtls_port = listeners.bind(server)
        await server.start()
        tasks = [
            asyncio.create_task(watch_database(health, database, clock, metrics, config)),
            asyncio.create_task(cached.refresher.run()),
            asyncio.create_task(event_sequencer(database, feed, metrics, config, stack).run()),
            asyncio.create_task(pass_closer(database, clock, metrics, stack).run()),
            asyncio.create_task(charge_closer(shared, cached).run()),
            asyncio.create_task(
                keep_offer_keys_fresh(signer, config.offer_keys, config.offer_keys_file)
            ),
            asyncio.create_task(listeners.keep_token_keys_fresh()),
            asyncio.create_task(collect_now_and_then()),
            asyncio.create_task(trim_memory()),
        ]
        try:
            yield RunningServer(port, mtls_port, metrics_port, metrics, tuple(registry.methods))
        finally:
            await methods.drain_barrier.hold()
            health.stop()
            feed.stop()
            shared.streams.stop()
            await _drain(server, methods.drain_barrier, config.drain_timeout_s)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


async def _drain(server: grpc.aio.Server, drain_barrier: DrainBarrier, timeout_s: float) -> None:
    """Send clients elsewhere (GOAWAY), and finish what was taken."""
    stopping = asyncio.create_task(server.stop(timeout_s))
    # Its first step sends GOAWAY.
    await asyncio.sleep(0)
    drain_barrier.open()
    await stopping


async def _refuse_old_schema(database: Database) -> None:
    async with database.acquire() as connection:
        missing = await pending(connection)
    if missing:
        raise StartError(
            f"the database lacks migrations ({', '.join(missing)}); run `voucher-grpc migrate`"
        )
