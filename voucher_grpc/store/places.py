"""Locations and tariffs in the store, and the locations that requests keep at hand."""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Self

import asyncpg

from voucher_grpc.domain.places.document import (
    evses_from_documents,
    location_head_from_document,
    location_to_text,
    tariff_elements_from_document,
    tariff_from_document,
    tariff_head_from_document,
    tariff_to_text,
)
from voucher_grpc.domain.places.location import Evse, Location, parts_of
from voucher_grpc.domain.places.tariff import Tariff, TariffElement, TariffKey
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store import queries
from voucher_grpc.store.database import Connection, Database, by_index
from voucher_grpc.store.slices import MAX_SLICE_BYTES, Slice, Unread, more_after
from voucher_grpc.store.stale_reads import Seen, read_or_stale
from voucher_grpc.store.versions import Name, Reached, Version

_SQL = queries.load("places")
_VERSIONS = queries.load("versions")
# All tariffs are in the snapshot that offers are made from; a price component takes up to
# 0.4 kB there, with its part of what is around it.
MAX_TARIFFS_OF_A_PARTY = 2_000
MAX_COMPONENTS_OF_A_PARTY = 200_000
LocationKey = tuple[str, str, str]
# By country and currency.
Defaults = Mapping[tuple[str, str], TariffKey]
# What a location takes beside its parts: its key and its own fields.
_WEIGHT_ALONE = 3


def location_key(place: PlaceKey) -> LocationKey:
    """The location that a place belongs to."""
    return place.country_code, place.party_id, place.location_id


def tariff_from_row(row: asyncpg.Record, document: object = None) -> Tariff:
    """A tariff; whether it is the default stands in a column, because another can take it.

    `document` is the one of the row where that has it as text.
    """
    tariff = tariff_from_document(document or row["document"])
    return replace(tariff, default_for_country=row["default_for_country"])


class Beyond(StrEnum):
    """The bound of a party that a tariff is beyond."""

    TARIFFS = "TARIFFS"
    COMPONENTS = "COMPONENTS"


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


def _location(row: asyncpg.Record) -> UnreadLocation:
    evses = evses_from_documents(map(json.loads, row["evses"]))
    return UnreadLocation(location_head_from_document(row["head"]), evses, row["update_time"])


def _tariff(row: asyncpg.Record) -> UnreadTariff:
    document = json.loads(row["document"])
    head = replace(
        tariff_head_from_document(document), default_for_country=row["default_for_country"]
    )
    return UnreadTariff(head, tariff_elements_from_document(document), row["update_time"])


async def _location_rows(
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
    rows = await _location_rows(connection, wanted)
    stored = [_location(row).read() for row in rows]
    return {location_key(s.location.key): s for s in stored}


class LocationCache:
    """Locations that requests asked for lately, known or not; dropped when they change.

    Those that are missing are read by the connection of the batch that wants them, so that
    a batch waits for nobody else's connection. Bounded by weight, since one location may be
    as large as a thousand others: at the bound the least recently used ones go.
    """

    MAX_CHANGED = 10_000

    def __init__(self, max_weight: int = 400_000) -> None:
        self._max_weight = max_weight
        self._weight = 0
        self._drops = 0
        self.version = Version()
        self._as_of: datetime | None = None
        self._locations: OrderedDict[LocationKey, StoredLocation | None] = OrderedDict()

    def last_known(self, key: LocationKey) -> Seen[StoredLocation] | None:
        """A location as of the last look at the version; None if it is not at hand."""
        stored = self._locations.get(key)
        return None if stored is None else Seen(stored, self._as_of)

    def seen_version(self, version: int, as_of: datetime) -> None:
        """The version of the locations as a batch has just read it."""
        if version == self.version.number:
            self._as_of = as_of

    async def refresh(self, connection: Connection, version: Version) -> int:
        """Drop what has changed up to a version just read; returns how many rows were read.

        All is dropped if more than MAX_CHANGED have changed, or not all changes are marked.
        """
        before, rows = self.version, []
        if version.follows(before):
            rows = await connection.fetch(
                _SQL["changed_locations"], before.number, self.MAX_CHANGED + 1
            )
        if version.follows(before) and len(rows) <= self.MAX_CHANGED:
            for row in rows:
                self._drop((row["country_code"], row["party_id"], row["location_id"]))
        else:
            self._locations.clear()
            self._weight = 0
        self._drops += 1
        self.version = version
        return len(rows)

    def _drop(self, key: LocationKey) -> None:
        if key in self._locations:
            self._weight -= _weight(self._locations.pop(key))

    async def get(
        self, connection: Connection, keys: Iterable[LocationKey]
    ) -> dict[LocationKey, Location | None]:
        """The locations as of the cache's version or later, None for those not known.

        For one `DedicatedConnection` only, whose work is done one after the other.
        """
        found: dict[LocationKey, Location | None] = {}
        missing = []
        for key in set(keys):
            if key in self._locations:
                self._locations.move_to_end(key)
                kept = self._locations[key]
                found[key] = None if kept is None else kept.location
            else:
                missing.append(key)
        if missing:
            drops = self._drops
            async with by_index(connection, "READ ONLY"):
                stored = await read_locations(connection, missing)
            for key in missing:
                found[key] = stored[key].location if key in stored else None
            # What was dropped meanwhile may have been read before it changed.
            if drops == self._drops:
                self._keep({key: stored.get(key) for key in missing})
        return found

    def _keep(self, read: Mapping[LocationKey, StoredLocation | None]) -> None:
        for key, stored in read.items():
            self._locations[key] = stored
            self._weight += _weight(stored)
        while self._weight > self._max_weight:
            _, gone = self._locations.popitem(last=False)
            self._weight -= _weight(gone)


def _weight(stored: StoredLocation | None) -> int:
    """What a location takes in memory, in parts of 110 to 290 bytes."""
    return _WEIGHT_ALONE + (0 if stored is None else parts_of(stored.location))


class PlaceStore:
    """Locations and tariffs.

    `reached` waits until this server answers from what a change has made.
    """

    def __init__(
        self,
        database: Database,
        cache: LocationCache,
        share: EventLoopShare,
        reached: Reached | None = None,
    ) -> None:
        self._database = database
        self._cache = cache
        self._share = share
        self._reached = reached

    async def upsert_locations(self, locations: Sequence[Location]) -> None:
        """Add or replace locations, all in one transaction.

        Servers read those anew that have changed.
        """
        # In order, as all rows are locked; of several with one key the last one counts.
        by_key = {one.key: one for one in sorted(locations, key=lambda x: x.key)}
        rows = [
            (*location_key(key), await self._share.run(location_to_text(one)))
            for key, one in by_key.items()
        ]
        version = None
        async with self._database.transaction() as connection:
            if changed := await connection.fetch(_SQL["upsert_locations"], *_columns(rows)):
                version = await connection.fetchval(_VERSIONS["bump"], "locations")
                await connection.execute(
                    _SQL["mark_locations"], *_columns(map(tuple, changed)), version
                )
        await self._wait("locations", version)

    async def upsert_tariffs(self, tariffs: Sequence[Tariff]) -> Mapping[TariffKey, Beyond]:
        """Add or replace tariffs, in one transaction; those that are beyond a bound of their
        party are not written and come back with the bound.

        Servers read those anew that have changed.
        """
        texts = {t.key: await self._share.run(tariff_to_text(t)) for t in tariffs}
        changed = False
        async with self._database.transaction() as connection:
            # With two such transactions apart it is clear whose default is the newest.
            version = 1 + await connection.fetchval(_VERSIONS["lock"], "catalogue")
            beyond = await _beyond_bound(connection, tariffs)
            written = [t for t in tariffs if t.key not in beyond]
            defaults = _defaults(written)
            taken = await _take_defaults(connection, defaults, version)
            changed = await _write_tariffs(connection, written, texts, defaults, version) or taken
            if changed:
                await connection.execute(_VERSIONS["bump"], "catalogue")
        await self._wait("catalogue", version if changed else None)
        return beyond

    async def _wait(self, name: Name, version: int | None) -> None:
        if version is not None and self._reached is not None:
            await self._reached(name, version)

    async def get_location(self, key: LocationKey) -> UnreadLocation:
        """A location. Raises LOCATION_NOT_FOUND."""
        async with self._database.acquire() as connection:
            rows = await _location_rows(connection, [key])
        if not rows:
            raise location_not_found(key)
        return _location(rows[0])

    async def see_location(self, key: LocationKey) -> Seen[UnreadLocation]:
        """A location, or what is known of it while the database is away."""
        return await read_or_stale(self.get_location(key), lambda: self._known_location(key))

    def _known_location(self, key: LocationKey) -> Seen[UnreadLocation] | None:
        seen = self._cache.last_known(key)
        return None if seen is None else Seen(UnreadLocation.of(seen.value), seen.stale_since)

    async def list_locations(
        self, after: LocationKey, country_code: str, party_id: str, limit: int
    ) -> Slice[Unread[UnreadLocation]]:
        """Up to `limit` locations after a key, and as few as a slice has."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                _SQL["list_locations"], *after, country_code, party_id, limit, MAX_SLICE_BYTES
            )
        return Slice([partial(_location, row) for row in rows], more_after(rows, limit))

    async def get_tariff(self, key: TariffKey) -> UnreadTariff:
        """A tariff. Raises TARIFF_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["tariff"], *_key_parts(key))
        if row is None:
            raise Refusal(Reason.TARIFF_NOT_FOUND, f"tariff {key.tariff_id} is not known")
        return _tariff(row)

    async def list_tariffs(
        self, after: TariffKey, country_code: str, party_id: str, limit: int
    ) -> Slice[Unread[UnreadTariff]]:
        """Up to `limit` tariffs after a key, and as few as a slice has."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                _SQL["list_tariffs"],
                *_key_parts(after),
                country_code,
                party_id,
                limit,
                MAX_SLICE_BYTES,
            )
        return Slice([partial(_tariff, row) for row in rows], more_after(rows, limit))


async def _beyond_bound(
    connection: Connection, tariffs: Sequence[Tariff]
) -> Mapping[TariffKey, Beyond]:
    last = {t.key: t for t in tariffs}
    rows = await connection.fetch(
        _SQL["tariffs_of_parties"], *_columns(_key_parts(key) for key in last)
    )
    stored: dict[tuple[str, str], tuple[int, int]] = {}
    beyond: dict[TariffKey, Beyond] = {}
    for row in rows:
        key = TariffKey(row["country_code"], row["party_id"], row["tariff_id"])
        party = key.country_code, key.party_id
        number, components = stored.get(party, (row["party_tariffs"], row["party_components"]))
        before, after = row["components"] or 0, _components(last[key])
        number += row["components"] is None
        components += after - before
        if number > MAX_TARIFFS_OF_A_PARTY and row["components"] is None:
            beyond[key] = Beyond.TARIFFS
        elif components > MAX_COMPONENTS_OF_A_PARTY and after > before:
            beyond[key] = Beyond.COMPONENTS
        else:
            stored[party] = number, components
    return beyond


def _components(tariff: Tariff) -> int:
    """How many price components it counts as: one at least."""
    return max(1, sum(len(element.price_components) for element in tariff.elements))


def _key_parts(key: TariffKey) -> tuple[str, str, str]:
    return key.country_code, key.party_id, key.tariff_id


def _defaults(tariffs: Iterable[Tariff]) -> Defaults:
    """The last tariff that wants to be the default, by country and currency."""
    return {(t.country_code, t.currency_code): t.key for t in tariffs if t.default_for_country}


async def _take_defaults(connection: Connection, defaults: Defaults, version: int) -> bool:
    """Whether any stored tariff was the default until now."""
    rows = [
        (country, currency, key.party_id, key.tariff_id)
        for (country, currency), key in defaults.items()
    ]
    return bool(rows and await connection.fetch(_SQL["take_defaults"], *_columns(rows), version))


async def _write_tariffs(
    connection: Connection,
    tariffs: Sequence[Tariff],
    texts: Mapping[TariffKey, str],
    defaults: Defaults,
    version: int,
) -> bool:
    """As if they had come one after the other; whether anything has changed."""
    rows = [
        (
            *_key_parts(key),
            tariff.currency_code,
            tariff.default_for_country
            and defaults[tariff.country_code, tariff.currency_code] == key,
            _components(tariff),
            texts[key],
        )
        for key, tariff in {t.key: t for t in tariffs}.items()
    ]
    return bool(rows and await connection.fetch(_SQL["upsert_tariffs"], *_columns(rows), version))


def _columns(rows: Iterable[Sequence[object]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def location_not_found(key: LocationKey) -> Refusal:
    """The refusal of a location, EVSE or connector that is not known."""
    return Refusal(
        Reason.LOCATION_NOT_FOUND,
        f"location {key[2]} of {key[0]}*{key[1]} is not known",
        location_id=key[2],
    )
