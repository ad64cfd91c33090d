"""Loads the demo data through the client, as an operator would."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import as_file, files
from typing import TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from voucher_grpc.client import CallFailed, Client
from voucher_grpc.dev.demo.users import GENERIC_USERS, DemoUser, demo_users, sessions_of
from voucher_grpc.edge.wire.places import vehicle_message
from voucher_grpc.edge.wire.products import terms_message
from voucher_grpc.errors import Reason
from voucher_grpc.files.catalogue import read_catalogue
from voucher_grpc.files.ocpi_objects import ObjectFile, location_file, tariff_file
from voucher_grpc.files.sessions import BATCH_SESSIONS
from voucher_grpc.v1 import catalogue_service_pb2, location_service_pb2, user_service_pb2
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was sent; `products` and `sessions_recorded` count only what was new."""

    tariffs: int
    locations: int
    products: int
    users: int
    vehicles: int
    sessions_recorded: int
    sessions_unchanged: int


class DemoRefused(Exception):
    """The service refused a part of the demo data."""


async def load_demo(
    client: Client, now: datetime, generic_users: int = GENERIC_USERS
) -> LoadReport:
    """Send tariffs, locations, catalogue, users, vehicles and sessions up to `now`.

    Loading again adds what has happened since; a product that is there stays as
    it is. Raises CallFailed, and DemoRefused for what is reported one by one.
    """
    users = demo_users(generic_users)
    tariffs = await _load_tariffs(client)
    locations = await _load_locations(client)
    products = await _load_products(client)
    for user in users:
        await _load_user(client, user)
    response = await client.record_sessions(_batches(_sessions(users, now)))
    if response.refused:
        raise DemoRefused(response.refusals[0].status.message)
    return LoadReport(
        tariffs=tariffs,
        locations=locations,
        products=products,
        users=len(users),
        vehicles=len(users),
        sessions_recorded=response.recorded,
        sessions_unchanged=response.unchanged,
    )


async def _load_tariffs(client: Client) -> int:
    with as_file(files("voucher_grpc.dev.demo") / "tariffs.json") as path:
        tariffs = _all_read(tariff_file(path))
    request = location_service_pb2.UpsertTariffsRequest(tariffs=tariffs)
    _all_stored((await client.call(client.location.UpsertTariffs, request)).results)
    return len(tariffs)


async def _load_locations(client: Client) -> int:
    with as_file(files("voucher_grpc.dev.demo") / "locations.json") as path:
        locations = _all_read(location_file(path))
    request = location_service_pb2.UpsertLocationsRequest(locations=locations)
    _all_stored((await client.call(client.location.UpsertLocations, request)).results)
    return len(locations)


def _all_read(objects: ObjectFile[M]) -> list[M]:
    messages = objects.messages()
    if objects.refusals.total:
        raise DemoRefused(objects.refusals.examples[0].reason)
    return messages


def _all_stored(results: Iterable[Status]) -> None:
    for status in results:
        if status.code:
            raise DemoRefused(status.message)


async def _load_products(client: Client) -> int:
    with as_file(files("voucher_grpc.dev.demo") / "catalogue.yaml") as path:
        products = read_catalogue(path)
    created = 0
    for terms in products:
        request = catalogue_service_pb2.CreateProductRequest(product=terms_message(terms))
        try:
            await client.call(client.catalogue.CreateProduct, request)
            created += 1
        except CallFailed as error:
            if error.reason != Reason.PRODUCT_ALREADY_EXISTS:
                raise
    return created


async def _load_user(client: Client, user: DemoUser) -> None:
    message = user_service_pb2.User(
        user_id=user.user_id,
        time_zone=user.time_zone,
        currency_code=user.currency_code,
        country_code=user.country_code,
    )
    await client.call(client.user.UpsertUser, user_service_pb2.UpsertUserRequest(user=message))
    await client.call(
        client.user.RegisterVehicle,
        user_service_pb2.RegisterVehicleRequest(vehicle=vehicle_message(user.vehicle)),
    )


def _sessions(users: Sequence[DemoUser], now: datetime) -> Iterator[ChargingSession]:
    for user in users:
        yield from sessions_of(user, now)


def _batches(sessions: Iterator[ChargingSession]) -> Iterator[list[ChargingSession]]:
    batch: list[ChargingSession] = []
    for session in sessions:
        batch.append(session)
        if len(batch) == BATCH_SESSIONS:
            yield batch
            batch = []
    if batch:
        yield batch
