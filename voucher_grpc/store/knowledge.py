"""What a request for offers needs to know, read for many requests at once."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

import asyncpg

from voucher_grpc.domain.offers.determine import Locations
from voucher_grpc.domain.offers.knowledge import ActivePass, Knowledge, UserSettings
from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.passes.purchase import Bought
from voucher_grpc.domain.places.document import vehicle_profile_from_document
from voucher_grpc.domain.places.location import Vehicle, VehicleProfile
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store import queries
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.refreshing import Refresher
from voucher_grpc.store.stored_places import location_key
from voucher_grpc.store.tendencies import places_from_row, tendency_from_row

_SQL = queries.load("knowledge")


class Key(NamedTuple):
    """Whose knowledge is wanted: a user, a vehicle, or both; "" where not given."""

    user_id: str
    vehicle_id: str


class Found(NamedTuple):
    """Knowledge for each key, or its refusal, and the locations of all places in it."""

    knowledge: Sequence[Knowledge | BaseException]
    locations: Locations


class KnowledgeReader:
    """Reads knowledge in batches.

    Each batch brings the versions of the catalogue and of the locations. Its requests are
    answered from the snapshot that is there; where that is older, `Refresher` is notified.
    """

    def __init__(
        self,
        dedicated: DedicatedConnection,
        clock: DatabaseClock,
        locations: LocationCache,
        refresher: Refresher,
    ) -> None:
        self._dedicated = dedicated
        self._clock = clock
        self._locations = locations
        self._refresher = refresher

    async def read(self, keys: Sequence[Key], places: Iterable[PlaceKey]) -> Found:
        """Knowledge for each key, or its Refusal (VEHICLE_NOT_FOUND, VEHICLE_USER_MISMATCH).

        The locations of `places` are read too.
        """
        return await self._dedicated.run(lambda connection: self._read(connection, keys, places))

    async def _read(
        self, connection: Connection, keys: Sequence[Key], places: Iterable[PlaceKey]
    ) -> Found:
        async with by_index(connection, "READ ONLY"):
            found = await connection.fetch(
                _SQL["knowledge"], [key.user_id for key in keys], [key.vehicle_id for key in keys]
            )
            rows = sorted(found, key=_position)
            first = rows[0]
            self._clock.set(first["database_time"])
        self._refresher.seen(
            first["catalogue_version"], first["locations_version"], first["database_time"]
        )
        snapshot = self._refresher.snapshot
        sold_out = frozenset(first["sold_out"])
        knowledge = [
            _refused(key, row) or _knowledge(key, row, sold_out, snapshot)
            for key, row in zip(keys, rows, strict=True)
        ]
        wanted = {
            location_key(place)
            for known in knowledge
            if isinstance(known, Knowledge)
            for place, _ in known.places
        }
        wanted.update(location_key(place) for place in places)
        return Found(knowledge, await self._locations.get(connection, wanted))


_position = itemgetter("position")


def _refused(key: Key, row: asyncpg.Record) -> Refusal | None:
    """Why a key names no user. A vehicle that is registered must be the user's own."""
    owner = row["vehicle_user_id"]
    if owner is None:
        if key.user_id:
            return None
        return Refusal(Reason.VEHICLE_NOT_FOUND, "the vehicle is not registered; send a user_id")
    if key.user_id and key.user_id != owner:
        return Refusal(Reason.VEHICLE_USER_MISMATCH, "the vehicle is registered to another user")
    return None


@lru_cache(maxsize=4_096)
def _profile(document: str) -> VehicleProfile:
    """Vehicles of a kind have the same document; reading it costs more than all the rest."""
    return vehicle_profile_from_document(json.loads(document))


def _knowledge(
    key: Key, row: asyncpg.Record, sold_out: frozenset[str], snapshot: Snapshot
) -> Knowledge:
    bought: Sequence[Bought] = ()
    owned: dict[str, ActivePass] = {}
    if row["product_ids"] is not None:
        products = row["product_ids"]
        bought = [Bought(p, t) for p, t in zip(products, row["purchase_times"], strict=True)]
        of_passes = ("days_to_start", "days_to_end", "unused", "amounts_left")
        spans = zip(products, *(row[name] for name in of_passes), strict=True)
        for product_id, start, end, unused, left in spans:
            if end is None or end <= 0 or left == 0:
                continue  # it is over, or used up
            # The newest first: of two passes of a product the one that ends last counts.
            if end > owned.get(product_id, _ENDED).days_to_end:
                owned[product_id] = ActivePass(start or 0.0, end, unused, left)
    vehicle = None
    if row["vehicle_user_id"] is not None:
        profile = _profile(row["vehicle_profile"])
        vehicle = Vehicle(key.vehicle_id, row["vehicle_user_id"], profile)
    settings = _UNKNOWN
    if row["known"]:
        settings = UserSettings(
            row["time_zone"], row["currency_code"], row["language"], row["country_code"]
        )
    return Knowledge(
        row["user_id"],
        settings,
        vehicle,
        tendency_from_row(row),
        row["profile_type"] or "",
        places_from_row(row),
        bought,
        owned,
        sold_out,
        snapshot,
    )


_UNKNOWN = UserSettings()
_ENDED = ActivePass(0.0, 0.0)
