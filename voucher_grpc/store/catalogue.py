"""Products in the store: immutable revisions."""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from voucher_grpc.domain.catalogue.document import terms_from_document, terms_to_document
from voucher_grpc.domain.catalogue.product import PersonalLimit, Product, ProductState, Terms
from voucher_grpc.domain.catalogue.values import Document
from voucher_grpc.errors import Reason, Refusal, bad_field
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.slices import MAX_SLICE_BYTES, Slice, Unread, more_after
from voucher_grpc.store.stale_reads import Seen, StaleCatalogue, read_or_stale
from voucher_grpc.store.versions import Reached

_SQL = queries.load("catalogue")
_VERSIONS = queries.load("versions")
RevisionKey = tuple[str, int]


def _product_of_text(row: asyncpg.Record) -> Product:
    """A product of a row whose terms are text."""
    return product_from_row(row, json.loads(row["terms"]))


def _known(product: Product) -> Unread[Product]:
    return lambda: product


def product_from_row(row: asyncpg.Record, document: Document | None = None) -> Product:
    """A product of a row. Stock and limit are the product's, whatever the revision says.

    `document` are the terms of the row where that has them as text.
    """
    limit = row["max_purchases"]
    terms = replace(
        terms_from_document(row["terms"] if document is None else document),
        stock=row["stock"],
        personal_limit=None if limit is None else PersonalLimit(limit, row["rolling_days"]),
    )
    return Product(
        terms=terms,
        revision=row["revision"],
        etag=row["etag"],
        state=ProductState(row["state"]),
        sold=row["sold"],
        revision_create_time=row["create_time"],
        revision_created_by=row["created_by"],
    )


class RevisionCache:
    """Terms of revisions, which never change; at the bound the least recently used one goes."""

    def __init__(self, max_revisions: int = 20_000) -> None:
        self._terms: OrderedDict[RevisionKey, Terms] = OrderedDict()
        self._max_revisions = max_revisions

    async def terms(
        self, connection: Connection, keys: Iterable[RevisionKey]
    ) -> dict[RevisionKey, Terms]:
        """The terms of those revisions that exist."""
        wanted = set(keys)
        missing = [key for key in wanted if key not in self._terms]
        found = {key: self._terms[key] for key in wanted if key in self._terms}
        if missing:
            rows = await connection.fetch(
                _SQL["revisions"], [p for p, _ in missing], [r for _, r in missing]
            )
            for row in rows:
                found[row["product_id"], row["revision"]] = terms_from_document(row["terms"])
                await asyncio.sleep(0)  # one may take a millisecond; others are served in between
        for key, terms in found.items():
            self._terms[key] = terms
            self._terms.move_to_end(key)
        while len(self._terms) > self._max_revisions:
            self._terms.popitem(last=False)
        return found


@dataclass(slots=True)
class _Change:
    """A transaction that changes the catalogue; `version` is the one that it makes."""

    connection: Connection
    version: int
    recorded: bool = False

    async def record(self) -> None:
        """What is offered has changed: servers are to read it."""
        await self.connection.execute(_VERSIONS["bump"], "catalogue")
        self.recorded = True


class CatalogueStore:
    """Reads and changes of single products.

    `reached` waits until this server offers what a change has made.
    """

    def __init__(self, database: Database, last_known: StaleCatalogue, reached: Reached) -> None:
        self._database = database
        self._last_known = last_known
        self._reached = reached

    async def see(self, product_id: str, revision: int = 0) -> Seen[Product]:
        """As `get`, or what is known of it while the database is away."""
        return await read_or_stale(
            self.get(product_id, revision), lambda: self._last_known.product(product_id, revision)
        )

    async def see_slice(
        self, after: str, show_retired: bool, limit: int
    ) -> Seen[Slice[Unread[Product]]]:
        """As `slice`, or what is known of it while the database is away."""
        return await read_or_stale(
            self.slice(after, show_retired, limit),
            lambda: self._known_slice(after, show_retired, limit),
        )

    def _known_slice(
        self, after: str, show_retired: bool, limit: int
    ) -> Seen[Slice[Unread[Product]]] | None:
        seen = self._last_known.page(after, show_retired, limit)
        if seen is None:
            return None
        rows = [_known(product) for product in seen.value]
        return Seen(Slice(rows, len(rows) == limit), seen.stale_since)

    async def get(self, product_id: str, revision: int = 0) -> Product:
        """A product at a revision (0: the current one). Raises PRODUCT_NOT_FOUND."""
        async with self._database.acquire() as connection:
            return await _get(connection, product_id, revision)

    async def slice(self, after: str, show_retired: bool, limit: int) -> Slice[Unread[Product]]:
        """Up to `limit` products with ids greater than `after`, and as few as a slice has."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                _SQL["current_products"], after, show_retired, limit, MAX_SLICE_BYTES
            )
        return Slice([partial(_product_of_text, row) for row in rows], more_after(rows, limit))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[_Change]:
        """A transaction that changes the catalogue, one at a time.

        It waits for the others before it locks a stock, which purchases would wait for.
        """
        async with self._database.transaction() as connection:
            version = 1 + await connection.fetchval(_VERSIONS["lock"], "catalogue")
            change = _Change(connection, version)
            yield change
        if change.recorded:
            await self._reached("catalogue", change.version)

    async def create(self, terms: Terms, actor: str) -> Product:
        """Revision 1 of a new product. Raises PRODUCT_ALREADY_EXISTS."""
        async with self._change() as change:
            connection = change.connection
            inserted = await connection.fetchval(
                _SQL["insert_product"], terms.product_id, _new_etag(), change.version
            )
            if not inserted:
                raise Refusal(
                    Reason.PRODUCT_ALREADY_EXISTS,
                    f"product {terms.product_id} exists already",
                    product_id=terms.product_id,
                )
            await connection.execute(_SQL["insert_stock"], *_stock_arguments(terms))
            await _write_revision(change, terms, 1, "CREATE", actor)
            return await _get(connection, terms.product_id, 0)

    async def update(self, terms: Terms, etag: str, withdraw_offers: bool, actor: str) -> Product:
        """The next revision of a product; the present one if nothing changes.

        Raises PRODUCT_NOT_FOUND, PRODUCT_RETIRED, ETAG_MISMATCH, and BadInput for
        another currency or a stock below what has been sold.
        """
        async with self._change() as change:
            connection = change.connection
            revision = await _lock(connection, terms.product_id, etag, refuse_retired=True)
            sold = await connection.fetchval(_SQL["lock_stock"], terms.product_id)
            present = await _get(connection, terms.product_id, 0)
            _check_update(present.terms, terms, sold)
            changed = present.terms != terms
            if changed:
                revision += 1
                await connection.execute(_SQL["update_stock"], *_stock_arguments(terms))
                await connection.execute(
                    _SQL["update_product"],
                    terms.product_id,
                    revision,
                    "ACTIVE",
                    _new_etag(),
                    change.version,
                )
                await _write_revision(change, terms, revision, "UPDATE", actor)
            if withdraw_offers:
                await _withdraw(connection, terms.product_id, revision, revision, actor)
            return await _get(connection, terms.product_id, 0)

    async def retire(
        self, product_id: str, etag: str, withdraw_offers: bool, actor: str
    ) -> Product:
        """End the offering of a product. Raises PRODUCT_NOT_FOUND, ETAG_MISMATCH."""
        async with self._change() as change:
            connection = change.connection
            revision = await _lock(connection, product_id, etag, refuse_retired=False)
            present = await _get(connection, product_id, 0)
            if present.state is not ProductState.RETIRED:
                await connection.execute(
                    _SQL["update_product"],
                    product_id,
                    revision,
                    "RETIRED",
                    _new_etag(),
                    change.version,
                )
                await connection.execute(
                    _SQL["insert_change"], product_id, revision, "RETIRE", actor
                )
                await change.record()
            if withdraw_offers:
                await _withdraw(connection, product_id, revision, revision + 1, actor)
            return await _get(connection, product_id, 0)


def _new_etag() -> str:
    return secrets.token_hex(8)


def _stock_arguments(terms: Terms) -> tuple[str, int | None, int | None, int]:
    limit = terms.personal_limit
    return (
        terms.product_id,
        terms.stock,
        None if limit is None else limit.max_purchases,
        0 if limit is None else limit.rolling_days,
    )


async def _get(connection: Connection, product_id: str, revision: int) -> Product:
    row = await connection.fetchrow(_SQL["product"], product_id, revision)
    if row is None:
        raise _not_found(product_id)
    return product_from_row(row)


def _not_found(product_id: str) -> Refusal:
    return Refusal(
        Reason.PRODUCT_NOT_FOUND, f"product {product_id} is not known", product_id=product_id
    )


async def _lock(connection: Connection, product_id: str, etag: str, *, refuse_retired: bool) -> int:
    row = await connection.fetchrow(_SQL["lock_product"], product_id)
    if row is None:
        raise _not_found(product_id)
    if row["etag"] != etag:
        raise Refusal(
            Reason.ETAG_MISMATCH,
            f"product {product_id} has changed since it was read",
            product_id=product_id,
        )
    if refuse_retired and row["state"] == "RETIRED":
        raise Refusal(
            Reason.PRODUCT_RETIRED, f"product {product_id} is retired", product_id=product_id
        )
    return int(row["revision"])


def _check_update(present: Terms, terms: Terms, sold: int) -> None:
    if terms.price.currency_code != present.price.currency_code:
        raise bad_field(
            "product.price.currency_code",
            f"must stay {present.price.currency_code}: a product keeps its currency",
        )
    if terms.stock is not None and terms.stock < sold:
        raise bad_field("product.stock", f"must be at least {sold}, which are sold already")


async def _write_revision(
    change: _Change, terms: Terms, revision: int, what: str, actor: str
) -> None:
    await change.connection.execute(
        _SQL["insert_revision"], terms.product_id, revision, terms_to_document(terms), actor
    )
    await change.connection.execute(_SQL["insert_change"], terms.product_id, revision, what, actor)
    await change.record()


async def _withdraw(
    connection: Connection, product_id: str, revision: int, before_revision: int, actor: str
) -> None:
    await connection.execute(_SQL["withdraw_offers"], product_id, before_revision)
    await connection.execute(_SQL["insert_change"], product_id, revision, "WITHDRAW_OFFERS", actor)
