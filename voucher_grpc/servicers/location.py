"""LocationService: OCPI Locations and Tariffs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.rpc.status_pb2 import Status

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.places.tariff import TariffKey
from voucher_grpc.servicers.stale import tell_stale
from voucher_grpc.store.places import (
    MAX_COMPONENTS_OF_A_PARTY,
    MAX_TARIFFS_OF_A_PARTY,
    Beyond,
    PlaceStore,
    StoredLocation,
    StoredTariff,
)
from voucher_grpc.v1 import location_service_pb2 as pb
from voucher_grpc.v1 import location_service_pb2_grpc
from voucher_grpc.wire.checks import Checks
from voucher_grpc.wire.messages import timestamp
from voucher_grpc.wire.paging import page_token, read_page_token
from voucher_grpc.wire.places import (
    location_from_message,
    location_key_from_message,
    location_message,
    tariff_from_message,
    tariff_key_from_message,
    tariff_message,
)
from voucher_grpc.wire.status import status_of

Context = grpc.aio.ServicerContext[Any, Any]
MAX_UPSERTS = 500
MAX_PAGE_SIZE = 1_000
Message = TypeVar("Message")
Value = TypeVar("Value")


class LocationServicer(location_service_pb2_grpc.LocationServiceServicer):
    """Keeps places and prices."""

    def __init__(self, store: PlaceStore) -> None:
        self._store = store

    async def UpsertLocations(
        self, request: pb.UpsertLocationsRequest, context: Context
    ) -> pb.UpsertLocationsResponse:
        _bounded("locations", request.locations)
        locations, results = _each("locations", request.locations, location_from_message)
        if locations:
            await self._store.upsert_locations(list(locations.values()))
        return pb.UpsertLocationsResponse(results=results)

    async def UpsertTariffs(
        self, request: pb.UpsertTariffsRequest, context: Context
    ) -> pb.UpsertTariffsResponse:
        _bounded("tariffs", request.tariffs)
        tariffs, results = _each("tariffs", request.tariffs, _tariff_in_known_currency)
        if tariffs:
            beyond = await self._store.upsert_tariffs(list(tariffs.values()))
            for index, tariff in tariffs.items():
                if tariff.key in beyond:
                    results[index] = status_of(_beyond(index, beyond[tariff.key]))
        return pb.UpsertTariffsResponse(results=results)

    async def GetLocation(
        self, request: pb.GetLocationRequest, context: Context
    ) -> pb.GetLocationResponse:
        checks = Checks()
        key = location_key_from_message(checks, request)
        checks.done()
        seen = await self._store.see_location(key)
        await tell_stale(context, seen.stale_since)
        return pb.GetLocationResponse(location=_location(seen.value))

    async def ListLocations(
        self, request: pb.ListLocationsRequest, context: Context
    ) -> pb.ListLocationsResponse:
        country, party, size, scope, last = _page(request, "ListLocations")
        after = (last[0], last[1], last[2])
        found = await self._store.list_locations(after, country, party, size + 1)
        token = ""
        if len(found) > size:
            end = found[size - 1].location
            token = page_token(scope, [end.country_code, end.party_id, end.location_id])
        return pb.ListLocationsResponse(
            locations=[_location(item) for item in found[:size]], next_page_token=token
        )

    async def GetTariff(
        self, request: pb.GetTariffRequest, context: Context
    ) -> pb.GetTariffResponse:
        checks = Checks()
        key = tariff_key_from_message(checks, request)
        checks.done()
        return pb.GetTariffResponse(tariff=_tariff(await self._store.get_tariff(key)))

    async def ListTariffs(
        self, request: pb.ListTariffsRequest, context: Context
    ) -> pb.ListTariffsResponse:
        country, party, size, scope, last = _page(request, "ListTariffs")
        after = TariffKey(*last)
        found = await self._store.list_tariffs(after, country, party, size + 1)
        token = ""
        if len(found) > size:
            end = found[size - 1].tariff
            token = page_token(scope, [end.country_code, end.party_id, end.tariff_id])
        return pb.ListTariffsResponse(
            tariffs=[_tariff(item) for item in found[:size]], next_page_token=token
        )


def _bounded(field: str, items: Sequence[object]) -> None:
    checks = Checks()
    checks.bounded(field, items, MAX_UPSERTS, low=1)
    checks.done()


def _each(
    field: str, messages: Sequence[Message], convert: Callable[[Checks, str, Message], Value]
) -> tuple[dict[int, Value], list[Status]]:
    """The good ones by their index, and a status for each."""
    good: dict[int, Value] = {}
    results: list[Status] = []
    for index, message in enumerate(messages):
        checks = Checks()
        value = convert(checks, f"{field}[{index}]", message)
        try:
            checks.done()
        except BadInput as refusal:
            results.append(status_of(refusal))
        else:
            good[index] = value
            results.append(Status())
    return good, results


def _beyond(index: int, bound: Beyond) -> BadInput:
    if bound is Beyond.TARIFFS:
        return bad_field(
            f"tariffs[{index}].party_id", f"must have at most {MAX_TARIFFS_OF_A_PARTY} tariffs"
        )
    return bad_field(
        f"tariffs[{index}].elements",
        f"must not bring the party's tariffs to more than {MAX_COMPONENTS_OF_A_PARTY}"
        " price components",
    )


def _tariff_in_known_currency(checks: Checks, field: str, message: pb.Tariff) -> Any:
    if message.currency_code and payable_unit_micros(message.currency_code) is None:
        checks.wrong(f"{field}.currency_code", "must be a currency of ISO 4217")
    return tariff_from_message(checks, field, message)


def _page(
    request: pb.ListLocationsRequest | pb.ListTariffsRequest, method: str
) -> tuple[str, str, int, tuple[str, ...], Sequence[str]]:
    """(country, party, page size, scope of the token, last key) of a page asked for."""
    checks = Checks()
    country = checks.country("country_code", request.country_code)
    party = checks.party("party_id", request.party_id)
    if party and not country:
        checks.wrong("country_code", "is missing: a party_id needs it")
    size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 100
    checks.done()
    scope = (method, country, party)
    last = read_page_token(request.page_token, scope, 3) or ("", "", "")
    return country, party, size, scope, last


def _location(stored: StoredLocation) -> pb.Location:
    message = location_message(stored.location)
    message.update_time.CopyFrom(timestamp(stored.update_time))
    return message


def _tariff(stored: StoredTariff) -> pb.Tariff:
    message = tariff_message(stored.tariff)
    message.update_time.CopyFrom(timestamp(stored.update_time))
    return message
