"""LocationService: OCPI Locations and Tariffs."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import grpc
from google.rpc.status_pb2 import Status

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey
from voucher_grpc.edge.servicers.listing import Lists, Row
from voucher_grpc.edge.servicers.stale import send_stale_since
from voucher_grpc.edge.wire.charges import bill_message, charge_from_message
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks
from voucher_grpc.edge.wire.encoding import Pieces, part_tag
from voucher_grpc.edge.wire.pages import Page
from voucher_grpc.edge.wire.paging import read_page_token
from voucher_grpc.edge.wire.places import (
    location_from_message,
    location_key_from_message,
    location_pieces,
)
from voucher_grpc.edge.wire.status import status_of
from voucher_grpc.edge.wire.tariffs import (
    tariff_from_message,
    tariff_key_from_message,
    tariff_pieces,
)
from voucher_grpc.errors import BadInput, Reason, Refusal, bad_field
from voucher_grpc.ocpi import folded
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.steps import Steps
from voucher_grpc.store.places import (
    MAX_COMPONENTS,
    MAX_COMPONENTS_OF_A_PARTY,
    MAX_TARIFFS,
    MAX_TARIFFS_OF_A_PARTY,
    Party,
    PlaceStore,
)
from voucher_grpc.store.slices import Slice, Unread
from voucher_grpc.store.stored_places import NotStored, UnreadLocation, UnreadTariff
from voucher_grpc.use_cases.price_charge import PriceCharge
from voucher_grpc.v1 import location_service_pb2 as pb
from voucher_grpc.v1 import location_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
MAX_UPSERTS = 500
MAX_PAGE_SIZE = 1_000
# Larger requests are worked on one at a time: one of 1 MB takes 15 MB meanwhile.
_LARGE_UPSERT_BYTES = 64 * 1024
_LOCATION = part_tag(pb.GetLocationResponse.LOCATION_FIELD_NUMBER)
_TARIFF = part_tag(pb.GetTariffResponse.TARIFF_FIELD_NUMBER)
Message = TypeVar("Message")
Value = TypeVar("Value")


class LocationServicer(location_service_pb2_grpc.LocationServiceServicer):
    """Keeps places and prices."""

    def __init__(
        self, store: PlaceStore, prices: PriceCharge, lists: Lists, share: EventLoopShare
    ) -> None:
        self._store = store
        self._prices = prices
        self._lists = lists
        self._share = share
        self._large_upserts = asyncio.Lock()

    async def UpsertLocations(
        self, request: pb.UpsertLocationsRequest, context: Context
    ) -> pb.UpsertLocationsResponse:
        _bounded("locations", request.locations)
        locations, results = await self._share.run(
            _each("locations", request.locations, location_from_message)
        )
        if locations:
            older = await self._store.upsert_locations(list(locations.values()))
            for position, index in enumerate(locations):
                if position in older:
                    results[index] = status_of(_OUTDATED)
        return pb.UpsertLocationsResponse(results=results)

    async def UpsertTariffs(
        self, request: pb.UpsertTariffsRequest, context: Context
    ) -> pb.UpsertTariffsResponse:
        _bounded("tariffs", request.tariffs)
        async with self._turn(request):
            tariffs, results = await self._share.run(
                _each("tariffs", request.tariffs, _tariff_in_known_currency)
            )
            if tariffs:
                not_stored = await self._store.upsert_tariffs(list(tariffs.values()))
                for position, index in enumerate(tariffs):
                    if (why := not_stored.get(position)) is not None:
                        results[index] = status_of(_not_stored(index, why))
        return pb.UpsertTariffsResponse(results=results)

    def _turn(
        self, request: pb.UpsertLocationsRequest | pb.UpsertTariffsRequest
    ) -> AbstractAsyncContextManager[None]:
        """Large requests take turns; small ones do not wait."""
        large = request.ByteSize() > _LARGE_UPSERT_BYTES
        return self._large_upserts if large else nullcontext()

    async def GetLocation(
        self, request: pb.GetLocationRequest, context: Context
    ) -> pb.GetLocationResponse:
        checks = Checks()
        key = location_key_from_message(checks, request)
        checks.done()

        async def read() -> Pieces:
            seen = await self._store.see_location(key)
            await send_stale_since(context, seen.stale_since)
            return location_pieces(*seen.value)

        return await self._lists.one(read, _LOCATION, context)  # type: ignore[return-value]

    async def ListLocations(
        self, request: pb.ListLocationsRequest, context: Context
    ) -> pb.ListLocationsResponse:
        country, party, size, scope, start = _page(request, "ListLocations")

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Unread[UnreadLocation]]:
            country_code, party_id, location_id = last or start
            after = (country_code, party_id, location_id)
            return await self._store.list_locations(after, country, party, limit)

        page = Page(pb.ListLocationsResponse.DESCRIPTOR, "locations", scope, size)
        return await self._lists.answer(page, read, _location_row, context)  # type: ignore[return-value]

    async def GetTariff(
        self, request: pb.GetTariffRequest, context: Context
    ) -> pb.GetTariffResponse:
        checks = Checks()
        key = tariff_key_from_message(checks, request)
        checks.done()

        async def read() -> Pieces:
            return tariff_pieces(*await self._store.get_tariff(key))

        return await self._lists.one(read, _TARIFF, context)  # type: ignore[return-value]

    async def ListTariffs(
        self, request: pb.ListTariffsRequest, context: Context
    ) -> pb.ListTariffsResponse:
        country, party, size, scope, start = _page(request, "ListTariffs")

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Unread[UnreadTariff]]:
            return await self._store.list_tariffs(
                TariffKey(*(last or start)), country, party, limit
            )

        page = Page(pb.ListTariffsResponse.DESCRIPTOR, "tariffs", scope, size)
        return await self._lists.answer(page, read, _tariff_row, context)  # type: ignore[return-value]

    async def PriceCharge(
        self, request: pb.PriceChargeRequest, context: Context
    ) -> pb.PriceChargeResponse:
        checks = Checks()
        charge = charge_from_message(checks, request)
        checks.done()
        return await self._share.run(bill_message(await self._prices.price(charge)))

    async def DeleteLocations(
        self, request: pb.DeleteLocationsRequest, context: Context
    ) -> pb.DeleteLocationsResponse:
        party, ids = _to_delete(request, "location_ids", request.location_ids)
        deleted = await self._store.delete_locations(party, ids)
        return pb.DeleteLocationsResponse(
            location_ids=[one for one in ids if folded(one) in deleted]
        )

    async def DeleteTariffs(
        self, request: pb.DeleteTariffsRequest, context: Context
    ) -> pb.DeleteTariffsResponse:
        party, ids = _to_delete(request, "tariff_ids", request.tariff_ids)
        deleted = await self._store.delete_tariffs(party, ids)
        named: AbstractSet[str] = frozenset()
        if request.find_named and deleted:
            named = await self._store.named_tariffs(party, deleted)
        return pb.DeleteTariffsResponse(
            tariff_ids=[one for one in ids if folded(one) in deleted],
            still_named_ids=[one for one in ids if folded(one) in named],
        )


def _to_delete(
    request: pb.DeleteLocationsRequest | pb.DeleteTariffsRequest, field: str, ids: Sequence[str]
) -> tuple[Party, Sequence[str]]:
    """(the operator, the ids, each once)."""
    checks = Checks()
    checks.bounded(field, ids, MAX_UPSERTS, low=1)
    for number, one in enumerate(ids[: MAX_UPSERTS + 1]):
        checks.identifier(f"{field}[{number}]", one, required=True, max_chars=MAX_OCPI_ID_CHARS)
    party = (
        checks.country("country_code", request.country_code, required=True),
        checks.party("party_id", request.party_id, required=True),
    )
    checks.done()
    return party, list({folded(one): one for one in ids}.values())


def _bounded(field: str, items: Sequence[object]) -> None:
    checks = Checks()
    checks.bounded(field, items, MAX_UPSERTS, low=1)
    checks.done()


def _each(
    field: str,
    messages: Sequence[Message],
    convert: Callable[[Checks, str, Message], Steps[Value]],
) -> Steps[tuple[dict[int, Value], list[Status]]]:
    """The good ones by their index, and a status for each."""
    good: dict[int, Value] = {}
    results: list[Status] = []
    for index, message in enumerate(messages):
        checks = Checks()
        value = yield from convert(checks, f"{field}[{index}]", message)
        try:
            checks.done()
        except BadInput as refusal:
            results.append(status_of(refusal))
        else:
            good[index] = value
            results.append(Status())
        yield
    return good, results


_OUTDATED = Refusal(Reason.OUTDATED, "what is stored has a newer last_updated")


def _not_stored(index: int, why: NotStored) -> Refusal:
    if why is NotStored.OUTDATED:
        return _OUTDATED
    if why is NotStored.TARIFFS:
        return bad_field(
            f"tariffs[{index}].party_id", f"must have at most {MAX_TARIFFS_OF_A_PARTY} tariffs"
        )
    if why is NotStored.ALL_TARIFFS:
        return bad_field(
            f"tariffs[{index}].tariff_id",
            f"must not bring the tariffs of all parties to more than {MAX_TARIFFS}",
        )
    whose, bound = "the party's tariffs", MAX_COMPONENTS_OF_A_PARTY
    if why is NotStored.ALL_COMPONENTS:
        whose, bound = "the tariffs of all parties", MAX_COMPONENTS
    return bad_field(
        f"tariffs[{index}].elements",
        f"must not bring {whose} to more than {bound} price components",
    )


def _tariff_in_known_currency(checks: Checks, field: str, message: pb.Tariff) -> Steps[Tariff]:
    if message.currency_code and payable_unit_micros(message.currency_code) is None:
        checks.wrong(f"{field}.currency_code", "must be a currency of ISO 4217")
    return (yield from tariff_from_message(checks, field, message))


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


def _location_row(unread: Unread[UnreadLocation]) -> Row:
    found = unread()
    head = found.head
    key = (head.country_code, head.party_id, head.location_id)
    return Row(key, location_pieces(*found))


def _tariff_row(unread: Unread[UnreadTariff]) -> Row:
    found = unread()
    head = found.head
    return Row((head.country_code, head.party_id, head.tariff_id), tariff_pieces(*found))
