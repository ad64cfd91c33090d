"""Keeps the snapshot that offers are made from, and the cached locations, up to date.

All of it is read once, at the start. From then on a change costs what has changed: its rows
are read and parsed beside the calls, while these are answered from the snapshot before.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import structlog

from voucher_grpc.domain.catalogue.product import Product, ProductState
from voucher_grpc.domain.offers.cells import Cell, Compiled, compile_product
from voucher_grpc.domain.offers.snapshot import (
    ChangedProduct,
    Changes,
    Snapshot,
    build_snapshot,
    changed_snapshot,
)
from voucher_grpc.domain.pricing.tariff import Tariff
from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store import queries
from voucher_grpc.store.catalogue import product_from_row
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.segments import MAX_SEGMENTS, segment_from_row
from voucher_grpc.store.stale_reads import StaleCatalogue
from voucher_grpc.store.stored_places import tariff_from_row
from voucher_grpc.store.versions import Name, Version, Versions, read_versions

log = structlog.get_logger(__name__)
T = TypeVar("T")

_SQL = queries.load("catalogue")
_SEGMENTS = queries.load("segments")["segments"]
# A server without requests for offers checks so often whether something has changed.
POLL_INTERVAL_S = 2.0
# How long a change waits for this server's own snapshot before it is answered all the same.
REACHED_WITHIN_S = 3.0
# After a failure, and twice as long after each further one. While the database is away a try
# costs nothing; what cannot be read is read as a whole each time.
_FIRST_RETRY_S, _LAST_RETRY_AWAY_S, _LAST_RETRY_S = 0.1, 2.0, 30.0
# Longer turns would delay the calls in flight.
_SLICE_S = 0.002
_ROWS_AT_ONCE = 100


class _Slices:
    """Gives the event loop a turn after each slice of work.

    Once calls are served, for as long as the slice took: they come first.
    """

    def __init__(self, *, serving: bool) -> None:
        self._serving = serving
        self._began_s = time.perf_counter()

    async def pause(self) -> None:
        """Pause if the slice has been long enough."""
        took_s = time.perf_counter() - self._began_s
        if took_s >= _SLICE_S:
            await asyncio.sleep(min(took_s, 10 * _SLICE_S) if self._serving else 0)
            self._began_s = time.perf_counter()

    async def each(self, rows: Iterable[asyncpg.Record], parse: Callable[[Any], T]) -> list[T]:
        """What is made of each row."""
        found = []
        for row in rows:
            found.append(parse(row))
            await self.pause()
        return found


@dataclass(slots=True)
class _Read:
    """Rows of one instant as they came; documents are text, which is parsed later."""

    versions: Versions
    full: bool
    products: Sequence[asyncpg.Record] = ()
    tariffs: Sequence[asyncpg.Record] = ()
    segments: Sequence[asyncpg.Record] | None = None


def _nothing(_kind: str, _rows: Mapping[str, int]) -> None:
    pass


class Refresher:
    """Reads what has changed, one refresh at a time, however many ask for it.

    `on_refresh` gets the kind of each refresh (full, incremental, locations) and how many
    rows were read for it.
    """

    def __init__(
        self,
        dedicated: DedicatedConnection,
        locations: LocationCache,
        stale_catalogue: StaleCatalogue,
        on_refresh: Callable[[str, Mapping[str, int]], None] = _nothing,
    ) -> None:
        self._dedicated = dedicated
        self._locations = locations
        self._last_catalogue = stale_catalogue
        self._on_refresh = on_refresh
        self._version = Version()
        self._snapshot = build_snapshot(-1, [], [])
        self._whole = True
        self._wanted = asyncio.Event()
        self._refreshed = asyncio.Event()
        self._behind_since_s: float | None = None

    @property
    def snapshot(self) -> Snapshot:
        """What offers are made from."""
        return self._snapshot

    @property
    def age_s(self) -> float:
        """For how long it has been known that the database has a newer catalogue; 0: it is not."""
        since_s = self._behind_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def seen(self, catalogue: int, locations: int, as_of: datetime) -> None:
        """The versions as a batch has just read them; what is newer is read beside the batches."""
        self._locations.seen_version(locations, as_of)
        if catalogue != self._version.number:
            self._saw_newer(catalogue)
            self._wanted.set()
        if locations != self._locations.version.number:
            self._wanted.set()

    def _saw_newer(self, catalogue: int) -> None:
        """Unless it is older: a batch may report what it read before the last refresh."""
        if self._behind_since_s is None and catalogue > self._version.number:
            self._behind_since_s = time.monotonic()

    async def reached(self, name: Name, version: int) -> None:
        """Wait until a change that was just made is in what this server answers from.

        At most REACHED_WITHIN_S: the change has been made in any case.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(REACHED_WITHIN_S):
                while self._number_of(name) < version:
                    self._wanted.set()
                    await self._refreshed.wait()

    def _number_of(self, name: Name) -> int:
        return (self._version if name == "catalogue" else self._locations.version).number

    async def run(self) -> None:
        """Refresh whenever something newer has been seen, and check for it now and then."""
        retry_s = _FIRST_RETRY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.refresh()
            except StoreUnavailable:  # logged where it was translated
                last_retry_s = _LAST_RETRY_AWAY_S
            except Exception:
                log.exception("catalogue_refresh_failed")
                self._whole = True  # whatever it was, all of it is read next
                last_retry_s = _LAST_RETRY_S
            else:
                retry_s = _FIRST_RETRY_S
                continue
            self._on_refresh("failed", {})
            await asyncio.sleep(min(retry_s, last_retry_s))
            retry_s = min(2 * retry_s, last_retry_s)

    async def refresh(self) -> None:
        """Read what has changed, if anything has; all of it the first time."""
        read = await self._dedicated.run(self._read)
        if read is not None:
            await self._take(read)
        self._refreshed.set()
        self._refreshed = asyncio.Event()

    async def _read(self, connection: Connection) -> _Read | None:
        """What has changed of the catalogue, None if nothing has; locations are dropped at once.

        All that is read is of one instant, so that no request sees half of a change.
        """
        async with by_index(connection, "ISOLATION LEVEL REPEATABLE READ, READ ONLY"):
            versions = await read_versions(connection)
            if versions.locations != self._locations.version:
                rows = await self._locations.refresh(connection, versions.locations)
                self._on_refresh("locations", {"locations": rows})
            self._locations.seen_version(versions.locations.number, versions.database_time)
            self._saw_newer(versions.catalogue.number)
            if self._whole or not versions.catalogue.follows(self._version):
                return await self._read_all(connection, versions)
            if versions.catalogue != self._version:
                return await self._read_changes(connection, versions)
        return None

    async def _read_all(self, connection: Connection, versions: Versions) -> _Read:
        return _Read(
            versions,
            True,
            await _rows(connection, _SQL["active_products"]),
            await _rows(connection, _SQL["all_tariffs"]),
            await _rows(connection, _SEGMENTS, MAX_SEGMENTS),
        )

    async def _read_changes(self, connection: Connection, versions: Versions) -> _Read:
        since = self._version.number
        segments = None
        if versions.segments > since:
            segments = await _rows(connection, _SEGMENTS, MAX_SEGMENTS)
        return _Read(
            versions,
            False,
            await _rows(connection, _SQL["changed_products"], since),
            await _rows(connection, _SQL["changed_tariffs"], since),
            segments,
        )

    async def _take(self, read: _Read) -> None:
        """Make the next snapshot and put it in the place of the one before."""
        slices = _Slices(serving=self._snapshot.version >= 0)
        self._snapshot = await (self._whole_snapshot if read.full else self._next_snapshot)(
            read, slices
        )
        self._version = read.versions.catalogue
        self._whole = False
        self._behind_since_s = None
        self._last_catalogue.saw(self._snapshot.products, read.versions.database_time)
        rows = {
            "products": len(read.products),
            "tariffs": len(read.tariffs),
            "segments": len(read.segments or ()),
        }
        self._on_refresh("full" if read.full else "incremental", rows)

    async def _whole_snapshot(self, read: _Read, slices: _Slices) -> Snapshot:
        products = await slices.each(read.products, _product)
        compiled = await _compiled(products, slices)
        tariffs = await slices.each(read.tariffs, self._known_tariff)
        segments = await slices.each(read.segments or (), segment_from_row)
        return build_snapshot(
            read.versions.catalogue.number,
            products,
            tariffs,
            dict(segments),
            compiled,
            self._snapshot.price_cache,
        )

    def _known_tariff(self, row: asyncpg.Record) -> Tariff:
        """One that is as it was stays the same object, so that its prices stay."""
        tariff = _tariff(row)
        known = self._snapshot.tariffs.get(tariff.key)
        return known if known is not None and known == tariff else tariff

    async def _next_snapshot(self, read: _Read, slices: _Slices) -> Snapshot:
        products = await slices.each(read.products, _changed_product)
        compiled = await _compiled([p.product for p in products if p.product is not None], slices)
        tariffs = await slices.each(read.tariffs, _tariff)
        segments = None
        if read.segments is not None:
            segments = dict(await slices.each(read.segments, segment_from_row))
        changes = Changes(read.versions.catalogue.number, products, tariffs, segments)
        return changed_snapshot(self._snapshot, changes, compiled)


async def _rows(connection: Connection, query: str, *arguments: object) -> list[asyncpg.Record]:
    """All rows, some at a time: to take many in one go would keep the event loop."""
    found: list[asyncpg.Record] = []
    cursor = await connection.cursor(query, *arguments)
    while rows := await cursor.fetch(_ROWS_AT_ONCE):
        found += rows
        if len(rows) < _ROWS_AT_ONCE:
            break
    return found


async def _compiled(products: Iterable[Product], slices: _Slices) -> Mapping[str, Compiled]:
    compiled: dict[str, Compiled] = {}
    cells: dict[Cell, Cell] = {}
    for product in products:
        compiled[product.product_id] = compile_product(product, cells)
        await slices.pause()
    return compiled


def _product(row: asyncpg.Record) -> Product:
    return product_from_row(row, json.loads(row["terms"]))


def _changed_product(row: asyncpg.Record) -> ChangedProduct:
    active = row["state"] == ProductState.ACTIVE
    return ChangedProduct(row["product_id"], _product(row) if active else None, row["next_id"])


def _tariff(row: asyncpg.Record) -> Tariff:
    return tariff_from_row(row, json.loads(row["document"]))
