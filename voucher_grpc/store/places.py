"""Locations and tariffs in the store."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from voucher_grpc.domain.places.document import location_to_text
from voucher_grpc.domain.places.location import Location
from voucher_grpc.domain.pricing.document import tariff_to_text
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey, folded
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.slices import MAX_SLICE_BYTES, Slice, Unread, more_after
from voucher_grpc.store.stale_reads import Seen, read_or_stale
from voucher_grpc.store.stored_places import (
    LocationKey,
    NotStored,
    UnreadLocation,
    UnreadTariff,
    location_from_row,
    location_key,
    location_not_found,
    location_rows,
    outdated,
    unread_tariff_from_row,
)
from voucher_grpc.store.versions import Name, Reached

_SQL = queries.load("places")
_VERSIONS = queries.load("versions")
# All tariffs are in the snapshot that offers are made from; a price component takes up to
# 0.4 kB there, with its part of what is around it.
MAX_TARIFFS_OF_A_PARTY = 20_000
MAX_COMPONENTS_OF_A_PARTY = 200_000
MAX_TARIFFS = 100_000
MAX_COMPONENTS = 1_000_000
# Country and id of an operator.
Party = tuple[str, str]
# By country and currency.
Defaults = Mapping[tuple[str, str], TariffKey]


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

    async def upsert_locations(self, locations: Sequence[Location]) -> frozenset[int]:
        """Add or replace locations, all in one transaction; the positions of those that are
        older than what is stored, which stays.

        Servers read those anew that have changed.
        """
        texts = [await self._share.run(location_to_text(one)) for one in locations]
        version = None
        async with self._database.transaction(by_index=True) as connection:
            keys = [location_key(one.key) for one in locations]
            changed_at = [(k, one.last_updated) for k, one in zip(keys, locations, strict=True)]
            older = await _outdated(connection, "lock_locations", changed_at)
            # Of several with one key the last one counts. In order, as all rows are locked.
            last = {
                key: (one.location_id, text)
                for position, (key, one, text) in enumerate(
                    zip(keys, locations, texts, strict=True)
                )
                if position not in older
            }
            rows = sorted((*key[:2], *spelt_and_text) for key, spelt_and_text in last.items())
            if rows and (
                changed := await connection.fetch(_SQL["upsert_locations"], *_columns(rows))
            ):
                version = await connection.fetchval(_VERSIONS["bump"], "locations")
                await connection.execute(
                    _SQL["mark_locations"], *_columns(map(tuple, changed)), version
                )
                respelt = "delete_respelt_locations"
                if await connection.fetch(_SQL[respelt], *_columns(map(tuple, changed))):
                    version = await connection.fetchval(_VERSIONS["move"], "locations")
        await self._wait("locations", version)
        return older

    async def upsert_tariffs(self, tariffs: Sequence[Tariff]) -> Mapping[int, NotStored]:
        """Add or replace tariffs, in one transaction; the positions of those that are not
        stored, because they are beyond a bound of their party or older than what is stored.

        Servers read those anew that have changed.
        """
        written_as = [await self._share.run(tariff_to_text(one)) for one in tariffs]
        changed = False
        async with self._database.transaction(by_index=True) as connection:
            # With two such transactions apart it is clear whose default is the newest.
            version = 1 + await connection.fetchval(_VERSIONS["lock"], "catalogue")
            changed_at = [(_key_parts(t.key), t.last_updated) for t in tariffs]
            older = await _outdated(connection, "stored_tariffs", changed_at)
            current = [t for position, t in enumerate(tariffs) if position not in older]
            texts = {
                t.key: text
                for position, (t, text) in enumerate(zip(tariffs, written_as, strict=True))
                if position not in older
            }
            beyond = await _beyond_bound(connection, current) if current else {}
            written = [t for t in current if t.key not in beyond]
            defaults = _defaults(written)
            taken = await _take_defaults(connection, defaults, version)
            changed = await _write_tariffs(connection, written, texts, defaults, version) or taken
            if changed:
                await connection.execute(_VERSIONS["bump"], "catalogue")
            spelt = [(t.country_code, t.party_id, t.tariff_id) for t in written]
            if spelt and await connection.fetch(_SQL["delete_respelt_tariffs"], *_columns(spelt)):
                version = await connection.fetchval(_VERSIONS["move"], "catalogue")
        await self._wait("catalogue", version if changed else None)
        return {
            position: NotStored.OUTDATED if position in older else beyond[tariff.key]
            for position, tariff in enumerate(tariffs)
            if position in older or tariff.key in beyond
        }

    async def delete_locations(self, party: Party, location_ids: Sequence[str]) -> frozenset[str]:
        """Delete an operator's locations; the ids, folded, of those that were there. Servers
        forget all that they have cached."""
        return await self._delete("locations", "delete_locations", party, location_ids)

    async def delete_tariffs(self, party: Party, tariff_ids: Sequence[str]) -> frozenset[str]:
        """Delete an operator's tariffs; the ids, folded, of those that were there. Servers read
        the catalogue again."""
        return await self._delete("catalogue", "delete_tariffs", party, tariff_ids)

    async def _delete(
        self, name: Name, statement: str, party: Party, ids: Sequence[str]
    ) -> frozenset[str]:
        version = None
        async with self._database.transaction(by_index=True) as connection:
            await connection.fetchval(_VERSIONS["lock"], name)
            rows = await connection.fetch(_SQL[statement], *party, list(map(folded, ids)))
            if rows:
                version = await connection.fetchval(_VERSIONS["move"], name)
        await self._wait(name, version)
        return frozenset(folded(row[0]) for row in rows)

    async def named_tariffs(self, party: Party, tariff_ids: Iterable[str]) -> frozenset[str]:
        """Which of an operator's tariffs its connectors name; ids, folded."""
        async with self._database.acquire() as connection:
            ids = list(map(folded, tariff_ids))
            rows = await connection.fetch(_SQL["named_tariffs"], *party, ids)
        return frozenset(row[0] for row in rows)

    async def _wait(self, name: Name, version: int | None) -> None:
        if version is not None and self._reached is not None:
            await self._reached(name, version)

    async def get_location(self, key: LocationKey) -> UnreadLocation:
        """A location. Raises LOCATION_NOT_FOUND."""
        async with self._database.acquire() as connection:
            rows = await location_rows(connection, [key])
        if not rows:
            raise location_not_found(key)
        return location_from_row(rows[0])

    async def see_location(self, key: LocationKey) -> Seen[UnreadLocation]:
        """A location, or what is known of it while the database is away."""
        return await read_or_stale(self.get_location(key), lambda: self._known_location(key))

    def _known_location(self, key: LocationKey) -> Seen[UnreadLocation] | None:
        seen = self._cache.last_known(location_key(PlaceKey(*key)))
        return None if seen is None else Seen(UnreadLocation.of(seen.value), seen.stale_since)

    async def list_locations(
        self, after: LocationKey, country_code: str, party_id: str, limit: int
    ) -> Slice[Unread[UnreadLocation]]:
        """Up to `limit` locations after a key, and as few as a slice has."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                _SQL["list_locations"], *after, country_code, party_id, limit, MAX_SLICE_BYTES
            )
        return Slice([partial(location_from_row, row) for row in rows], more_after(rows, limit))

    async def get_tariff(self, key: TariffKey) -> UnreadTariff:
        """A tariff. Raises TARIFF_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["tariff"], *_key_parts(key))
        if row is None:
            raise Refusal(Reason.TARIFF_NOT_FOUND, f"tariff {key.tariff_id} is not known")
        return unread_tariff_from_row(row)

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
        return Slice(
            [partial(unread_tariff_from_row, row) for row in rows], more_after(rows, limit)
        )


async def _outdated(
    connection: Connection, statement: str, items: Sequence[tuple[LocationKey, datetime | None]]
) -> frozenset[int]:
    """See `outdated`; nothing is read where no item says when it was changed."""
    if all(at is None for _, at in items):
        return frozenset()
    rows = await connection.fetch(_SQL[statement], *_columns({key for key, _ in items}))
    return outdated(items, {(row[0], row[1], row[2]): row["last_updated"] for row in rows})


async def _beyond_bound(
    connection: Connection, tariffs: Sequence[Tariff]
) -> Mapping[TariffKey, NotStored]:
    last = {t.key: t for t in tariffs}
    rows = await connection.fetch(
        _SQL["tariffs_of_parties"], *_columns(_key_parts(key) for key in last)
    )
    stored: dict[tuple[str, str], tuple[int, int]] = {}
    whole: tuple[int, int] | None = None
    beyond: dict[TariffKey, NotStored] = {}
    for row in rows:
        key = TariffKey(row["country_code"], row["party_id"], row["tariff_id"])
        party = key.country_code, key.party_id
        number, components = stored.get(party, (row["party_tariffs"], row["party_components"]))
        of_all, all_components = whole or (row["all_tariffs"], row["all_components"])
        before, after = row["components"] or 0, _components(last[key])
        new = row["components"] is None
        number, of_all = number + new, of_all + new
        components, all_components = components + after - before, all_components + after - before
        if new and number > MAX_TARIFFS_OF_A_PARTY:
            beyond[key] = NotStored.TARIFFS
        elif after > before and components > MAX_COMPONENTS_OF_A_PARTY:
            beyond[key] = NotStored.COMPONENTS
        elif new and of_all > MAX_TARIFFS:
            beyond[key] = NotStored.ALL_TARIFFS
        elif after > before and all_components > MAX_COMPONENTS:
            beyond[key] = NotStored.ALL_COMPONENTS
        else:
            stored[party], whole = (number, components), (of_all, all_components)
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
            *_key_parts(key)[:2],
            tariff.tariff_id,
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
