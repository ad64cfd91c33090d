"""An in-memory cache of locations that requests asked for lately."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime

from voucher_grpc.domain.places.location import Location, parts_of
from voucher_grpc.ocpi import folded
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.stale_reads import Seen
from voucher_grpc.store.stored_places import (
    LocationKey,
    StoredLocation,
    read_locations,
)
from voucher_grpc.store.versions import Version

_SQL = queries.load("places")
# What a location takes beside its parts: its key and its own fields.
_WEIGHT_ALONE = 3


class LocationCache:
    """Locations that requests asked for lately, known or not; dropped when they change.

    Those that are missing are read by the connection of the batch that wants them, so that
    a batch does not wait for another connection. Bounded by weight, since one location may be
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
        """A location as of the last check of the version; None if it is not cached."""
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
                self._drop((row["country_code"], row["party_id"], folded(row["location_id"])))
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

        For a `DedicatedConnection` outside of a transaction.
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
            self._drop(key)  # another connection may have read it meanwhile
            self._locations[key] = stored
            self._weight += _weight(stored)
        while self._weight > self._max_weight:
            _, gone = self._locations.popitem(last=False)
            self._weight -= _weight(gone)


def _weight(stored: StoredLocation | None) -> int:
    """What a location takes in memory, in parts of 110 to 290 bytes."""
    return _WEIGHT_ALONE + (0 if stored is None else parts_of(stored.location))
