"""Locations and tariffs as they are stored, read element by element."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

import asyncpg

from voucher_grpc.domain.places.document import (
    evses_from_documents,
    location_head_from_document,
)
from voucher_grpc.domain.places.location import Evse, Location
from voucher_grpc.domain.pricing.document import (
    tariff_elements_from_document,
    tariff_from_document,
    tariff_head_from_document,
)
from voucher_grpc.domain.pricing.tariff import Tariff, TariffElement
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey, folded
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection

_SQL = queries.load("places")
LocationKey = tuple[str, str, str]


def location_key(place: PlaceKey) -> LocationKey:
    """The location that a place belongs to, as it is compared."""
    return place.country_code, place.party_id, folded(place.location_id)


def tariff_from_row(row: asyncpg.Record, document: Mapping[str, Any] | None = None) -> Tariff:
    """A tariff; whether it is the default stands in a column, because another can take it.

    `document` is the one of the row where that has it as text.
    """
    tariff = tariff_from_document(document or row["document"])
    return replace(tariff, default_for_country=row["default_for_country"])


class NotStored(StrEnum):
    """Why a location or tariff is not stored: a bound of its party, one of all parties together,
    or what is stored is newer."""

    TARIFFS = "TARIFFS"
    COMPONENTS = "COMPONENTS"
    ALL_TARIFFS = "ALL_TARIFFS"
    ALL_COMPONENTS = "ALL_COMPONENTS"
    OUTDATED = "OUTDATED"


def outdated(
    items: Sequence[tuple[LocationKey, datetime | None]],
    stored: Mapping[LocationKey, datetime | None],
) -> frozenset[int]:
    """The positions of those that are older than what is stored, or than one before them; an
    item is its key and when its operator last changed it.

    One that does not say when it was changed changes nothing of that.
    """
    last, older = dict(stored), set()
    for position, (key, at) in enumerate(items):
        before = last.get(key)
        if at is not None and before is not None and at < before:
            older.add(position)
        else:
            last[key] = before if at is None else at
    return frozenset(older)


@dataclass(frozen=True, slots=True)
class StoredLocation:
    """A location and when it was last changed."""

    location: Location
    update_time: datetime


class UnreadLocation(NamedTuple):
    """A location without its EVSEs, and these, each read when it is its turn, once."""

    head: Location
    evses: Iterator[Evse]
    update_time: datetime

    @classmethod
    def of(cls, stored: StoredLocation) -> Self:
        """A location that has been read."""
        return cls(
            replace(stored.location, evses=()), iter(stored.location.evses), stored.update_time
        )

    def read(self) -> StoredLocation:
        """All of it."""
        return StoredLocation(replace(self.head, evses=tuple(self.evses)), self.update_time)


class UnreadTariff(NamedTuple):
    """A tariff without its elements, and these, each read when it is its turn, once."""

    head: Tariff
    elements: Iterator[TariffElement]
    update_time: datetime


def location_from_row(row: asyncpg.Record) -> UnreadLocation:
    evses = evses_from_documents(map(json.loads, row["evses"]))
    return UnreadLocation(location_head_from_document(row["head"]), evses, row["update_time"])


def unread_tariff_from_row(row: asyncpg.Record) -> UnreadTariff:
    document = json.loads(row["document"])
    head = replace(
        tariff_head_from_document(document), default_for_country=row["default_for_country"]
    )
    return UnreadTariff(head, tariff_elements_from_document(document), row["update_time"])


async def location_rows(
    connection: Connection, keys: Iterable[LocationKey]
) -> Sequence[asyncpg.Record]:
    countries, parties, ids = (list(column) for column in zip(*keys, strict=True))
    return await connection.fetch(_SQL["locations"], countries, parties, ids)


async def read_locations(
    connection: Connection, keys: Iterable[LocationKey]
) -> dict[LocationKey, StoredLocation]:
    """Those of the locations that are known."""
    wanted = list(keys)
    if not wanted:
        return {}
    rows = await location_rows(connection, wanted)
    stored = [location_from_row(row).read() for row in rows]
    return {location_key(s.location.key): s for s in stored}


def location_not_found(key: LocationKey) -> Refusal:
    """The refusal of a location, EVSE or connector that is not known."""
    return Refusal(
        Reason.LOCATION_NOT_FOUND,
        f"location {key[2]} of {key[0]}*{key[1]} is not known",
        location_id=key[2],
    )
