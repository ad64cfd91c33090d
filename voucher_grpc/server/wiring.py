"""What a server is made of, put together: caches, use cases, servicers, sweeps."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from voucher_grpc.access.rates import Rates
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.domain.passes.change import PassRequest
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.domain.redemption.authorize import ReservationLimits
from voucher_grpc.domain.redemption.capture import charge_not_found
from voucher_grpc.domain.tendencies.forecast import Parameters
from voucher_grpc.edge.rpc.registry import Registry
from voucher_grpc.edge.servicers.catalogue import CatalogueServicer
from voucher_grpc.edge.servicers.event import EventServicer
from voucher_grpc.edge.servicers.health import Health
from voucher_grpc.edge.servicers.listing import Lists
from voucher_grpc.edge.servicers.location import LocationServicer
from voucher_grpc.edge.servicers.open_streams import OpenStreams
from voucher_grpc.edge.servicers.redemption import RedemptionServicer
from voucher_grpc.edge.servicers.tendency import TendencyServicer
from voucher_grpc.edge.servicers.user import UserServicer
from voucher_grpc.edge.servicers.voucher import VoucherServicer
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.offers import OffersEncoder
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.server.config import Config
from voucher_grpc.store.catalogue import CatalogueStore, RevisionCache
from voucher_grpc.store.charges import ChargeStore
from voucher_grpc.store.database import Database
from voucher_grpc.store.events import EventFeed, EventSequencer, EventStore
from voucher_grpc.store.export import ExportStore
from voucher_grpc.store.knowledge import KnowledgeReader
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.passes import PassStore
from voucher_grpc.store.places import PlaceStore
from voucher_grpc.store.refreshing import Refresher
from voucher_grpc.store.sessions import TendencyStore
from voucher_grpc.store.stale_reads import StaleCatalogue
from voucher_grpc.store.tokens import TokenStore
from voucher_grpc.store.users import UserStore
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.use_cases.authorization import AuthorizedRequest, VehicleOwners
from voucher_grpc.use_cases.charge_places import ChargePlaces
from voucher_grpc.use_cases.close_charges import ChargeCloser
from voucher_grpc.use_cases.close_passes import PassCloser
from voucher_grpc.use_cases.erase_user import EraseUser
from voucher_grpc.use_cases.price_charge import PriceCharge
from voucher_grpc.use_cases.record_sessions import RecordSessions
from voucher_grpc.use_cases.request_offers import Answer, RequestOffers
from voucher_grpc.use_cases.write_charges import ChargeAnswer, ChargeRequest, ChargeWriter
from voucher_grpc.use_cases.write_passes import PassWriter
from voucher_grpc.v1 import (
    catalogue_service_pb2_grpc,
    event_service_pb2_grpc,
    location_service_pb2_grpc,
    redemption_service_pb2_grpc,
    tendency_service_pb2_grpc,
    user_service_pb2_grpc,
    voucher_service_pb2_grpc,
)

SERVICES = tuple(
    f"voucher_grpc.v1.{name}Service"
    for name in ("Voucher", "Redemption", "Catalogue", "Location", "Tendency", "User", "Event")
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What most parts of the server are made with; `stack` closes them, the last made first."""

    config: Config
    database: Database
    clock: DatabaseClock
    metrics: Metrics
    streams: OpenStreams
    stack: AsyncExitStack


@dataclass(frozen=True, slots=True)
class Cached:
    """The in-memory catalogue and locations, and the tasks that refresh them."""

    locations: LocationCache
    stale_catalogue: StaleCatalogue
    refresher: Refresher


async def read_cached(database: Database, metrics: Metrics, stack: AsyncExitStack) -> Cached:
    """Read before the first request asks for it: ten thousand products take a second."""
    locations, stale_catalogue = LocationCache(), StaleCatalogue()
    dedicated = database.dedicated(writes=False)
    stack.push_async_callback(dedicated.close)
    refresher = Refresher(dedicated, locations, stale_catalogue, metrics.catalogue_refreshed)
    await refresher.refresh()
    metrics.follow(metrics.catalogue_age, lambda: refresher.age_s)
    return Cached(locations, stale_catalogue, refresher)


def _batcher(name: str, flush: Any, interval_s: float, config: Config, metrics: Metrics) -> Any:
    batcher: Batcher[Any, Any] = Batcher(
        name,
        flush,
        interval_s=interval_s,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        on_batch=metrics.batch,
        on_shed=metrics.count_shed,
    )
    metrics.follow(metrics.waiting.labels(name), lambda: batcher.waiting)
    return batcher


def _voucher_servicer(
    shared: Parts,
    cached: Cached,
    users: UserStore,
    signer: OfferSigner,
    rates: Rates,
    lists: Lists,
    share: EventLoopShare,
) -> VoucherServicer:
    """The hot paths with their connections and batches; the stack closes the batches first."""
    config, database, clock, metrics, stack = (
        shared.config,
        shared.database,
        shared.clock,
        shared.metrics,
        shared.stack,
    )
    revisions = RevisionCache()
    read_connection, write_connection = database.dedicated(writes=False), database.dedicated()
    stack.push_async_callback(read_connection.close)
    stack.push_async_callback(write_connection.close)
    reader = KnowledgeReader(read_connection, clock, cached.locations, cached.refresher)
    hold_lifetime = timedelta(seconds=config.hold_lifetime_s)
    writer = PassWriter(write_connection, clock, revisions, hold_lifetime)
    lifetime = timedelta(seconds=config.offer_lifetime_s)
    encode = OffersEncoder().encode
    offers = RequestOffers(reader, clock, config.vat_rates, signer, lifetime, encode, share)
    answers: Batcher[AuthorizedRequest, Answer[Encoded]] = _batcher(
        "offers", offers.answer, config.read_batch_interval_s, config, metrics
    )
    changes: Batcher[PassRequest, PassWithTerms] = _batcher(
        "purchases", writer.write, config.write_batch_interval_s, config, metrics
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


def charge_writer(shared: Parts, cached: Cached, share: EventLoopShare) -> ChargeWriter:
    """With a connection of its own."""
    config, clock = shared.config, shared.clock
    dedicated = shared.database.dedicated()
    shared.stack.push_async_callback(dedicated.close)
    places = ChargePlaces(
        cached.locations, lambda: cached.refresher.snapshot, config.vat_rates, clock
    )
    lifetime = timedelta(seconds=config.authorization_lifetime_s)
    limits = ReservationLimits(lifetime, config.authorization_energy_wh)
    return ChargeWriter(dedicated, clock, RevisionCache(), share, limits, places)


def _redemption_servicer(
    shared: Parts, cached: Cached, lists: Lists, share: EventLoopShare
) -> RedemptionServicer:
    """Authorizations, and all that comes after a charge, each in batches of their own: a vehicle
    that is plugged in waits for neither purchases nor bills."""
    config, metrics, stack = shared.config, shared.metrics, shared.stack

    def batches(name: str) -> Batcher[ChargeRequest, ChargeAnswer]:
        writer = charge_writer(shared, cached, share)
        found: Batcher[ChargeRequest, ChargeAnswer] = _batcher(
            name, writer.write, config.write_batch_interval_s, config, metrics
        )
        stack.push_async_callback(found.close)
        return found

    return RedemptionServicer(
        batches("authorizations"),
        batches("captures"),
        ChargeStore(shared.database, charge_not_found()),
        TokenStore(shared.database),
        shared.clock,
        lists,
    )


def register_services(
    registry: Registry,
    shared: Parts,
    cached: Cached,
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
    reached = cached.refresher.reached
    users, tendencies = UserStore(database), TendencyStore(database)
    share = EventLoopShare()
    lists = Lists(rates, share)
    voucher = _voucher_servicer(shared, cached, users, signer, rates, lists, share)
    redemption = _redemption_servicer(shared, cached, lists, share)
    products = CatalogueStore(database, cached.stale_catalogue, reached)
    catalogue = CatalogueServicer(products, lists)
    tendency = TendencyServicer(RecordSessions(database, parameters), tendencies, clock, metrics)
    places = PlaceStore(database, cached.locations, share, reached)
    prices = PriceCharge(places, lambda: cached.refresher.snapshot, config.vat_rates, share)
    location = LocationServicer(places, prices, lists, share)
    exports = ExportStore(
        database,
        users,
        tendencies,
        PassStore(database, RevisionCache()),
        ChargeStore(database, charge_not_found()),
        TokenStore(database),
    )
    erasures, tokens = EraseUser(database, clock), TokenStore(database)
    user = UserServicer(users, tokens, exports, erasures, clock, lists)
    event = EventServicer(EventStore(database, feed), metrics, config.max_event_streams)
    voucher_service_pb2_grpc.add_VoucherServiceServicer_to_server(voucher, server)
    redemption_service_pb2_grpc.add_RedemptionServiceServicer_to_server(redemption, server)
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


def event_sequencer(
    database: Database,
    feed: EventFeed,
    metrics: Metrics,
    config: Config,
    stack: AsyncExitStack,
) -> EventSequencer:
    dedicated = database.dedicated()
    stack.push_async_callback(dedicated.close)
    return EventSequencer(
        dedicated,
        feed,
        config.event_retention_days,
        on_sequenced=metrics.events_sequenced.inc,
        on_measured=metrics.events_measured,
    )


def pass_closer(
    database: Database, clock: DatabaseClock, metrics: Metrics, stack: AsyncExitStack
) -> PassCloser:
    dedicated = database.dedicated()
    stack.push_async_callback(dedicated.close)
    return PassCloser(
        dedicated,
        clock,
        on_closed=lambda closed_as: metrics.passes_closed.labels(closed_as).inc(),
        on_measured=metrics.closing_lag.set,
    )


def charge_closer(shared: Parts, cached: Cached) -> ChargeCloser:
    return ChargeCloser(charge_writer(shared, cached, EventLoopShare()))
