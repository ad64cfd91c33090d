"""Start and stop: from the pool to the port, and back in reverse order."""

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from voucher_grpc.access.rates import Rates
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.domain.passes.change import PassRequest
from voucher_grpc.domain.passes.state import OwnedPass
from voucher_grpc.domain.tendencies.forecast import Parameters
from voucher_grpc.edge.rpc.call_limits import CallLimits
from voucher_grpc.edge.rpc.drain_barrier import Entrance
from voucher_grpc.edge.rpc.method import SharedByMethods
from voucher_grpc.edge.rpc.registry import Registry
from voucher_grpc.edge.servicers.catalogue import CatalogueServicer
from voucher_grpc.edge.servicers.event import EventServicer
from voucher_grpc.edge.servicers.health import Health
from voucher_grpc.edge.servicers.listing import Lists
from voucher_grpc.edge.servicers.location import LocationServicer
from voucher_grpc.edge.servicers.open_streams import OpenStreams
from voucher_grpc.edge.servicers.tendency import TendencyServicer
from voucher_grpc.edge.servicers.user import UserServicer
from voucher_grpc.edge.servicers.voucher import VoucherServicer
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.offers import OffersEncoder
from voucher_grpc.errors import StartError, StoreUnavailable
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.runtime.memory import trim_memory, use_few_arenas
from voucher_grpc.server.config import Config
from voucher_grpc.server.connections import server_options
from voucher_grpc.server.listeners import Ports, offer_signer
from voucher_grpc.server.worker import Worker
from voucher_grpc.store.catalogue import CatalogueStore, RevisionCache
from voucher_grpc.store.database import Database, DatabaseOptions
from voucher_grpc.store.events import EventFeed, EventSequencer, EventStore
from voucher_grpc.store.export import ExportStore
from voucher_grpc.store.knowledge import KnowledgeReader
from voucher_grpc.store.migrate import pending
from voucher_grpc.store.parameters import active_parameters
from voucher_grpc.store.passes import PassStore
from voucher_grpc.store.places import LocationCache, PlaceStore
from voucher_grpc.store.refreshing import Refresher
from voucher_grpc.store.sessions import TendencyStore
from voucher_grpc.store.stale_reads import LastCatalogue
from voucher_grpc.store.users import UserStore
from voucher_grpc.telemetry.calls import untraced
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.telemetry.metrics_server import serve_metrics
from voucher_grpc.use_cases.authorization import AuthorizedRequest, VehicleOwners
from voucher_grpc.use_cases.close_passes import PassCloser
from voucher_grpc.use_cases.erase_user import EraseUser
from voucher_grpc.use_cases.record_sessions import RecordSessions
from voucher_grpc.use_cases.request_offers import Answer, RequestOffers
from voucher_grpc.use_cases.write_passes import PassWriter
from voucher_grpc.v1 import (
    catalogue_service_pb2_grpc,
    event_service_pb2_grpc,
    location_service_pb2_grpc,
    tendency_service_pb2_grpc,
    user_service_pb2_grpc,
    voucher_service_pb2_grpc,
)

if TYPE_CHECKING:
    from voucher_grpc.telemetry.tracing import Tracing

log = structlog.get_logger(__name__)

SERVICES = tuple(
    f"voucher_grpc.v1.{name}Service"
    for name in ("Voucher", "Catalogue", "Location", "Tendency", "User", "Event")
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


@dataclass(frozen=True, slots=True)
class _Shared:
    """What most parts of the server are made with; `stack` closes them, the last made first."""

    config: Config
    database: Database
    clock: DatabaseClock
    metrics: Metrics
    streams: OpenStreams
    stack: AsyncExitStack


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept in memory of the catalogue and the locations, and who keeps it up to date."""

    locations: LocationCache
    last_catalogue: LastCatalogue
    refresher: Refresher


async def _kept(database: Database, metrics: Metrics, stack: AsyncExitStack) -> _Kept:
    """Read before the first request asks for it: ten thousand products take a second."""
    locations, last_catalogue = LocationCache(), LastCatalogue()
    lane = database.lane(writes=False)
    stack.push_async_callback(lane.close)
    refresher = Refresher(lane, locations, last_catalogue, metrics.catalogue_refreshed)
    await refresher.refresh()
    metrics.follow(metrics.catalogue_age, lambda: refresher.age_s)
    return _Kept(locations, last_catalogue, refresher)


def _options(config: Config) -> DatabaseOptions:
    return DatabaseOptions(
        url=config.database_url.get_secret_value(),
        pool_size=config.pool_size,
        connect_timeout_s=config.connect_timeout_s,
        statement_timeout_s=config.statement_timeout_s,
        statement_cache_size=config.statement_cache_size,
        look_timeout_s=config.look_timeout_s,
    )


def prepare_process() -> None:
    """For a process that does nothing but serve: few arenas, and cyclic garbage is sought seldom.

    An answer makes hundreds of short-lived tuples, none of them in a cycle. At the
    interpreter's usual thresholds looking through them cost a third of the time;
    what is there when the server starts stays and is not looked at again.
    """
    use_few_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


# What refusals and cancelled calls leave in cycles would else add up for hours before the collector
# comes by: 4 MB a minute. In the soak a look at the young objects takes 3 to 7 ms, one at all 40;
# the young ones looked at a fifth as often took 16 to 32 ms, and all of them up to 100.
_COLLECT_INTERVAL_S = 2.0
_FULL_EVERY = 30
# A large catalogue makes a look at all objects take long (2,000 tariffs of 500 prices: 350 ms).
# What is left after such a look is no garbage, and later looks pass it over.
_LONG_COLLECTION_S = 0.05


async def _collect_now_and_then() -> None:
    for number in itertools.count(1):
        await asyncio.sleep(_COLLECT_INTERVAL_S)
        if number % _FULL_EVERY:
            gc.collect(1)
            continue
        began_s = time.thread_time()
        gc.collect()
        if time.thread_time() - began_s > _LONG_COLLECTION_S:
            gc.freeze()


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
        ports = Ports(config, worker.folder / "rates" if worker is not None else None)
        stack.callback(ports.close)
        await ports.load()
        metrics.follow(metrics.token_keys_age, lambda: ports.token_keys_age_s)
        tracing = tracing or await _configured_tracing(config, stack)
        database = await stack.enter_async_context(Database.open(_options(config)))
        await _refuse_old_schema(database)
        options = server_options(config, shared_port=worker is not None)
        server = grpc.aio.server(options=options)
        signer = offer_signer(config.offer_keys)
        limits = CallLimits(config.max_concurrent_calls, config.max_concurrent_streams, metrics)
        calls = tracing.calls if tracing else untraced
        methods = SharedByMethods(ports.guard, limits, metrics, config.slow_call_s, calls)
        registry = Registry(server, methods)
        health = Health(SERVICES)
        clock = DatabaseClock()
        parameters = await active_parameters(database)
        feed = EventFeed()
        shared = _Shared(config, database, clock, metrics, OpenStreams(), stack)
        kept = await _kept(database, metrics, stack)
        _register(registry, shared, kept, parameters, health, feed, signer, ports.rates)
        metrics_port = serve_metrics(config.metrics_listen, metrics.registry, stack)
        await _look_at_database(health, database, clock, metrics)
        # Last, since connections come in from here on and wait until the server has started.
        port, mtls_port = ports.bind(server)
        await server.start()
        tasks = [
            asyncio.create_task(_watch(health, database, clock, metrics, config)),
            asyncio.create_task(kept.refresher.run()),
            asyncio.create_task(_sequencer(database, feed, metrics, config, stack).run()),
            asyncio.create_task(_closer(database, clock, metrics, stack).run()),
            asyncio.create_task(ports.keep_fresh(signer, metrics.handshakes.set)),
            asyncio.create_task(ports.keep_token_keys_fresh()),
            asyncio.create_task(_collect_now_and_then()),
            asyncio.create_task(trim_memory()),
        ]
        try:
            yield RunningServer(port, mtls_port, metrics_port, metrics, tuple(registry.methods))
        finally:
            await methods.entrance.hold()
            health.stop()
            feed.stop()
            shared.streams.stop()
            await _drain(server, methods.entrance, config.drain_timeout_s)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


async def _drain(server: grpc.aio.Server, entrance: Entrance, timeout_s: float) -> None:
    """Send clients elsewhere (GOAWAY), and finish what was taken."""
    stopping = asyncio.create_task(server.stop(timeout_s))
    # Its first step tells the clients.
    await asyncio.sleep(0)
    entrance.open()
    await stopping


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
    metrics.follow(metrics.waiting.labels(name), lambda: batcher.waiting)
    return batcher


def _voucher_servicer(
    shared: _Shared,
    kept: _Kept,
    users: UserStore,
    signer: OfferSigner,
    rates: Rates,
    lists: Lists,
) -> VoucherServicer:
    """The hot paths with their lanes and batches, closed by the stack: batches first."""
    config, database, clock, metrics, stack = (
        shared.config,
        shared.database,
        shared.clock,
        shared.metrics,
        shared.stack,
    )
    revisions = RevisionCache()
    read_lane, write_lane = database.lane(writes=False), database.lane()
    stack.push_async_callback(read_lane.close)
    stack.push_async_callback(write_lane.close)
    reader = KnowledgeReader(read_lane, clock, kept.locations, kept.refresher)
    hold_lifetime = timedelta(seconds=config.hold_lifetime_s)
    writer = PassWriter(write_lane, clock, revisions, hold_lifetime)
    lifetime = timedelta(seconds=config.offer_lifetime_s)
    encode = OffersEncoder().encode
    offers = RequestOffers(reader, clock, config.vat_rates, signer, lifetime, encode)
    answers: Batcher[AuthorizedRequest, Answer[Encoded]] = _batcher(
        "offers", offers.answer, config.read_pace_s, config, metrics
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
        VehicleOwners(users),
        rates,
        lists,
        shared.streams,
        metrics,
    )


def _register(
    registry: Registry,
    shared: _Shared,
    kept: _Kept,
    parameters: Parameters,
    health: Health,
    feed: EventFeed,
    signer: OfferSigner,
    rates: Rates,
) -> None:
    """Make the servicers and register them."""
    config, database, clock, metrics = (
        shared.config,
        shared.database,
        shared.clock,
        shared.metrics,
    )
    server: Any = registry  # what generated code asks for is a grpc.Server
    reached = kept.refresher.reached
    users, tendencies = UserStore(database), TendencyStore(database)
    share = EventLoopShare()
    lists = Lists(rates, share)
    voucher = _voucher_servicer(shared, kept, users, signer, rates, lists)
    products = CatalogueStore(database, kept.last_catalogue, reached)
    catalogue = CatalogueServicer(products, lists)
    tendency = TendencyServicer(RecordSessions(database, parameters), tendencies, clock, metrics)
    places = PlaceStore(database, kept.locations, share, reached)
    location = LocationServicer(places, lists, share)
    exports = ExportStore(database, users, tendencies, PassStore(database, RevisionCache()))
    user = UserServicer(users, exports, EraseUser(database, clock), clock, lists)
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


_AWAY_INTERVAL_S = 0.25


async def _watch(
    health: Health,
    database: Database,
    clock: DatabaseClock,
    metrics: Metrics,
    config: Config,
) -> None:
    """Look at the database now and then, also while nobody calls; more often while it is away."""
    up = True
    while True:
        pause_s = config.health_interval_s
        await asyncio.sleep(pause_s if up else min(pause_s, _AWAY_INTERVAL_S))
        try:
            up = await _look_at_database(health, database, clock, metrics)
        except Exception:  # whatever it is, health must not stay as it was
            log.exception("look_failed")
            health.set(serving=False)
            up = False


async def _look_at_database(
    health: Health, database: Database, clock: DatabaseClock, metrics: Metrics
) -> bool:
    """SERVING while the database answers and can be written to; its clock is taken over."""
    try:
        clock.set(await database.look())
        serving = True
    except StoreUnavailable:
        serving = False
    metrics.database_up.set(serving)
    metrics.pool_measured(*database.pool_sizes())
    metrics.write_followed()
    health.set(serving=serving)
    return serving
