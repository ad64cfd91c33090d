"""Start and stop: from the pool to the port, and back in reverse order."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import start_http_server

from voucher_grpc.config import Config
from voucher_grpc.connections import server_options
from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.gates import Gates
from voucher_grpc.metrics import Metrics
from voucher_grpc.offers.forecast import Parameters
from voucher_grpc.offers.offer_id import OfferSigner
from voucher_grpc.passes.change import PassRequest
from voucher_grpc.rpc import Registry
from voucher_grpc.servicers.catalogue import CatalogueServicer
from voucher_grpc.servicers.event import EventServicer
from voucher_grpc.servicers.health import Health
from voucher_grpc.servicers.location import LocationServicer
from voucher_grpc.servicers.offering import Answer, Offering
from voucher_grpc.servicers.tendency import TendencyServicer
from voucher_grpc.servicers.user import UserServicer
from voucher_grpc.servicers.voucher import VoucherServicer
from voucher_grpc.store.batching import Batcher
from voucher_grpc.store.catalogue import CatalogueStore, RevisionCache
from voucher_grpc.store.clock import DatabaseClock
from voucher_grpc.store.database import Database, DatabaseOptions
from voucher_grpc.store.erasure import ErasureStore
from voucher_grpc.store.events import EventFeed, EventSequencer, EventStore
from voucher_grpc.store.export import ExportStore
from voucher_grpc.store.knowledge import KnowledgeReader
from voucher_grpc.store.migrate import pending
from voucher_grpc.store.parameters import active_parameters
from voucher_grpc.store.pass_closer import PassCloser
from voucher_grpc.store.pass_writer import PassWriter
from voucher_grpc.store.passes import OwnedPass, PassStore
from voucher_grpc.store.places import LocationCache, PlaceStore
from voucher_grpc.store.sessions import SessionStore
from voucher_grpc.store.users import UserStore
from voucher_grpc.v1 import (
    catalogue_service_pb2_grpc,
    event_service_pb2_grpc,
    location_service_pb2_grpc,
    tendency_service_pb2_grpc,
    user_service_pb2_grpc,
    voucher_service_pb2_grpc,
)
from voucher_grpc.wire.offers import OffersWanted

log = structlog.get_logger(__name__)

SERVICES = tuple(
    f"voucher_grpc.v1.{name}Service"
    for name in ("Voucher", "Catalogue", "Location", "Tendency", "User", "Event")
)


class StartError(Exception):
    """The server cannot start; the message is one line for an operator."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that serves: where, and what it counts."""

    port: int
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
    )


def spare_the_collector() -> None:
    """For a process that does nothing but serve: look for cyclic garbage seldom.

    An answer makes hundreds of short-lived tuples, none of them in a cycle. At the
    interpreter's usual thresholds looking through them cost a third of the time;
    what is there when the server starts stays and is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[RunningServer]:
    """Serve until the block is left; then NOT_SERVING, drain, flush, close.

    Raises StartError for a taken port or missing migrations, StoreUnavailable
    and UnsafeDatabase for the database.
    """
    if not config.offer_keys:
        raise StartError("VOUCHER_OFFER_KEYS is not set; make a key with `openssl rand -hex 32`")
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(_options(config)))
        await _refuse_old_schema(database)
        metrics.watch_pool(database.pool_sizes)
        server = _grpc_server(config)
        registry = Registry(server, metrics, config.slow_call_s, Gates(config, metrics))
        health = Health(SERVICES)
        clock = DatabaseClock()
        parameters = await active_parameters(database)
        feed = EventFeed()
        await _register(registry, config, database, parameters, clock, health, metrics, feed, stack)
        port = _bind(server, config.listen)
        metrics_port = _serve_metrics(config.metrics_listen, metrics, stack)
        await _look_at_database(health, database, clock, metrics)
        await server.start()
        tasks = [
            asyncio.create_task(_watch(health, database, clock, metrics, config)),
            asyncio.create_task(_sequencer(database, feed, metrics, config, stack).run()),
            asyncio.create_task(_closer(database, clock, metrics, stack).run()),
        ]
        try:
            yield RunningServer(port, metrics_port, metrics, tuple(registry.methods))
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            health.stop()
            feed.stop()
            await server.stop(config.drain_timeout_s)


def _grpc_server(config: Config) -> grpc.aio.Server:
    return grpc.aio.server(options=server_options(config))


async def _refuse_old_schema(database: Database) -> None:
    async with database.acquire() as connection:
        missing = await pending(connection)
    if missing:
        raise StartError(
            f"the database lacks migrations ({', '.join(missing)}); run `voucher-grpc migrate`"
        )


def _batcher(name: str, flush: Any, pace_s: float, config: Config, metrics: Metrics) -> Any:
    batcher: Batcher[Any, Any] = Batcher(
        name,
        flush,
        pace_s=pace_s,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        on_batch=metrics.batch,
        on_shed=metrics.count_shed,
    )
    metrics.waiting.labels(name).set_function(lambda: batcher.waiting)
    return batcher


async def _voucher_servicer(
    config: Config,
    database: Database,
    clock: DatabaseClock,
    locations: LocationCache,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> VoucherServicer:
    """The hot paths with their lanes and batches, closed by the stack: batches first."""
    keys = config.offer_key_bytes()
    revisions = RevisionCache()
    read_lane, write_lane = database.lane(), database.lane()
    stack.push_async_callback(read_lane.close)
    stack.push_async_callback(write_lane.close)
    reader = KnowledgeReader(read_lane, clock, locations)
    await reader.warm()
    hold_lifetime = timedelta(seconds=config.hold_lifetime_s)
    writer = PassWriter(write_lane, clock, revisions, hold_lifetime)
    signer = OfferSigner(keys, next(iter(keys)))
    lifetime = timedelta(seconds=config.offer_lifetime_s)
    offering = Offering(reader, locations, clock, config.vat_rates, signer, lifetime)
    answers: Batcher[OffersWanted, Answer] = _batcher(
        "offers", offering.answer, config.read_pace_s, config, metrics
    )
    changes: Batcher[PassRequest, OwnedPass] = _batcher(
        "purchases", writer.write, config.write_pace_s, config, metrics
    )
    stack.push_async_callback(answers.close)
    stack.push_async_callback(changes.close)
    return VoucherServicer(
        signer,
        clock,
        answers,
        changes,
        PassStore(database, revisions),
        metrics,
    )


async def _register(
    registry: Registry,
    config: Config,
    database: Database,
    parameters: Parameters,
    clock: DatabaseClock,
    health: Health,
    metrics: Metrics,
    feed: EventFeed,
    stack: AsyncExitStack,
) -> None:
    """Make the servicers and register them."""
    server: Any = registry  # what generated code asks for is a grpc.Server
    locations = LocationCache(database)
    voucher = await _voucher_servicer(config, database, clock, locations, metrics, stack)
    catalogue = CatalogueServicer(CatalogueStore(database))
    users, sessions = UserStore(database), SessionStore(database, parameters)
    tendency = TendencyServicer(sessions, locations, clock, metrics)
    location = LocationServicer(PlaceStore(database))
    exports = ExportStore(database, users, sessions, PassStore(database, RevisionCache()))
    user = UserServicer(users, exports, ErasureStore(database, clock), clock)
    event = EventServicer(EventStore(database, feed), metrics, config.max_event_streams)
    voucher_service_pb2_grpc.add_VoucherServiceServicer_to_server(voucher, server)
    catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(catalogue, server)
    location_service_pb2_grpc.add_LocationServiceServicer_to_server(location, server)
    tendency_service_pb2_grpc.add_TendencyServiceServicer_to_server(tendency, server)
    user_service_pb2_grpc.add_UserServiceServicer_to_server(user, server)
    event_service_pb2_grpc.add_EventServiceServicer_to_server(event, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if config.reflection:
        names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        registry.serve_also_as(reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")


def _sequencer(
    database: Database,
    feed: EventFeed,
    metrics: Metrics,
    config: Config,
    stack: AsyncExitStack,
) -> EventSequencer:
    lane = database.lane()
    stack.push_async_callback(lane.close)
    return EventSequencer(
        lane,
        feed,
        config.event_retention_days,
        on_sequenced=metrics.events_sequenced.inc,
        on_measured=metrics.events_measured,
    )


def _closer(
    database: Database, clock: DatabaseClock, metrics: Metrics, stack: AsyncExitStack
) -> PassCloser:
    lane = database.lane()
    stack.push_async_callback(lane.close)
    return PassCloser(
        lane,
        clock,
        on_closed=lambda closed_as: metrics.passes_closed.labels(closed_as).inc(),
        on_measured=metrics.closing_lag.set,
    )


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: the address is taken or not ours") from error


def _serve_metrics(address: str, metrics: Metrics, stack: AsyncExitStack) -> int | None:
    if not address:
        return None
    host, _, port = address.rpartition(":")
    try:
        httpd, thread = start_http_server(int(port), host, registry=metrics.registry)
    except OSError as error:
        raise StartError(f"cannot serve metrics on {address}: {error.strerror}") from error

    def stop() -> None:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    stack.callback(stop)
    return int(httpd.server_port)


async def _watch(
    health: Health,
    database: Database,
    clock: DatabaseClock,
    metrics: Metrics,
    config: Config,
) -> None:
    """Look at the database now and then, also while nobody calls."""
    while True:
        await asyncio.sleep(config.health_interval_s)
        try:
            await _look_at_database(health, database, clock, metrics)
        except Exception:  # whatever it is, health must not stay as it was
            log.exception("look_failed")
            health.set(serving=False)


async def _look_at_database(
    health: Health, database: Database, clock: DatabaseClock, metrics: Metrics
) -> None:
    """SERVING while the database answers and can be written to; its clock is taken over."""
    try:
        clock.set(await database.writable_time())
        serving = True
    except StoreUnavailable:
        serving = False
    metrics.database_up.set(serving)
    health.set(serving=serving)
