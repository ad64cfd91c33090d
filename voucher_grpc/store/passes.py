"""Purchases in batches, and the passes that come of them.

The order of the statements is the safety of it (docs/guarantees.md): users'
rows, then payment references, then products' stock, each in key order, so that
batches of any servers wait for each other but never in a circle; what is judged
is read after the locks by statements of their own, because a statement does not
see what committed while it waited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog

from voucher_grpc.catalogue.product import PersonalLimit, Terms, ValidityPeriod
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money
from voucher_grpc.passes.purchase import (
    Balance,
    Bought,
    Pass,
    Purchase,
    State,
    StockState,
    Verdict,
    judge,
)
from voucher_grpc.store import queries
from voucher_grpc.store.catalogue import RevisionCache, RevisionKey
from voucher_grpc.store.clock import DatabaseClock
from voucher_grpc.store.database import Connection, Database, Lane, by_index

_SQL = queries.load("passes")
log = structlog.get_logger(__name__)


class WriteMismatch(Exception):
    """The database wrote another number of rows than was decided: a bug, rolled back."""


def _pass(row: asyncpg.Record) -> Pass:
    return Pass(
        user_id=row["user_id"],
        pass_id=row["pass_id"],
        request_id=row["request_id"],
        offer_digest=row["offer_digest"],
        product_id=row["product_id"],
        product_revision=row["product_revision"],
        vehicle_id=row["vehicle_id"],
        price=Money(row["price_micros"], row["currency_code"]),
        payment_reference=row["payment_reference"],
        purchase_time=row["purchase_time"],
        time_zone=row["time_zone"],
        period=ValidityPeriod(row["start_time"], row["end_time"], row["first_use_before"]),
        balance=Balance(row["balance_energy_wh"], row["balance_sessions"]),
    )


@dataclass(frozen=True, slots=True)
class OwnedPass:
    """A pass and the terms it was bought on."""

    owned: Pass
    terms: Terms


class PurchaseWriter:
    """Judges and writes batches of purchases, one transaction a batch."""

    def __init__(self, lane: Lane, clock: DatabaseClock, revisions: RevisionCache) -> None:
        self._lane = lane
        self._clock = clock
        self._revisions = revisions

    async def purchase(self, purchases: Sequence[Purchase]) -> Sequence[OwnedPass | BaseException]:
        """The pass or the refusal of each purchase.

        If a batch fails for a reason of its data, each purchase is tried alone:
        a poisoned one does not sink its neighbours.
        """
        try:
            return await self._lane.run(lambda connection: self._batch(connection, purchases))
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(purchases) == 1:
                return [error]
            log.warning("purchase_batch_failed", size=len(purchases), error=type(error).__name__)
        alone = [await self.purchase([purchase]) for purchase in purchases]
        return [results[0] for results in alone]

    async def _batch(
        self, connection: Connection, purchases: Sequence[Purchase]
    ) -> Sequence[OwnedPass | BaseException]:
        verdicts = await self._unlocked_verdicts(connection, purchases)
        todo = [p for p, verdict in zip(purchases, verdicts, strict=True) if verdict is None]
        decided = iter(await self._locked_verdicts(connection, todo) if todo else ())
        results = [verdict or next(decided) for verdict in verdicts]
        return await self._with_terms(connection, results)

    async def _unlocked_verdicts(
        self, connection: Connection, purchases: Sequence[Purchase]
    ) -> list[Verdict | None]:
        """Verdicts on offers that are not authentic: a retry finds its pass, the rest is refused.

        They take no lock and leave no row behind, since anybody can make one up.
        """
        forged = [p for p in purchases if p.offer is None]
        if not forged:
            return [None] * len(purchases)
        rows = await connection.fetch(
            _SQL["known_passes"], [p.user_id for p in forged], [p.pass_id for p in forged]
        )
        passes = {(row["user_id"], row["pass_id"]): _pass(row) for row in rows}
        state = State(passes, {}, {}, {}, {}, {}, {}, self._clock.now())
        verdicts = iter(judge(forged, state))
        return [next(verdicts) if p.offer is None else None for p in purchases]

    async def _locked_verdicts(
        self, connection: Connection, purchases: Sequence[Purchase]
    ) -> Sequence[Verdict]:
        terms = await self._revisions.terms(connection, _revisions_of(purchases))
        async with by_index(connection):
            sequences, zones = await _lock_users(connection, purchases)
            passes = await _known(connection, purchases)
            by_key = {(p.user_id, p.pass_id): p for p in passes}
            new = [p for p in purchases if (p.user_id, p.pass_id) not in by_key]
            references, claimed = await _claim_references(connection, new)
            stocks = await self._lock_stock(connection, new)
            state = State(
                passes=by_key,
                by_offer={(p.user_id, p.offer_digest): p for p in passes},
                bought=await _bought(connection, new, stocks),
                references=references,
                stocks=stocks,
                user_zones=zones,
                terms=terms,
                now=self._clock.now(),
            )
            verdicts = judge(purchases, state)
            await _write(connection, verdicts, claimed, sequences)
        return verdicts

    async def _lock_stock(
        self, connection: Connection, purchases: Sequence[Purchase]
    ) -> dict[str, StockState]:
        product_ids = sorted({p.offer.product_id for p in purchases if p.offer is not None})
        if not product_ids:
            return {}
        rows = await connection.fetch(_SQL["lock_stock"], product_ids)
        if rows:
            self._clock.set(max(row["database_time"] for row in rows))
        return {row["product_id"]: _stock(row) for row in rows}

    async def _with_terms(
        self, connection: Connection, verdicts: Sequence[Verdict]
    ) -> Sequence[OwnedPass | BaseException]:
        owned = [v.result for v in verdicts if isinstance(v.result, Pass)]
        terms = await self._revisions.terms(
            connection, {(p.product_id, p.product_revision) for p in owned}
        )
        return [
            v.result
            if isinstance(v.result, Refusal)
            else OwnedPass(v.result, terms[v.result.product_id, v.result.product_revision])
            for v in verdicts
        ]


def _revisions_of(purchases: Sequence[Purchase]) -> set[RevisionKey]:
    return {
        (p.offer.product_id, p.offer.product_revision) for p in purchases if p.offer is not None
    }


def _stock(row: asyncpg.Record) -> StockState:
    limit = row["max_purchases"]
    return StockState(
        stock=row["stock"],
        sold=row["sold"],
        personal_limit=None if limit is None else PersonalLimit(limit, row["rolling_days"]),
        withdrawn_before_revision=row["withdrawn_before_revision"],
    )


async def _lock_users(
    connection: Connection, purchases: Sequence[Purchase]
) -> tuple[dict[str, int], dict[str, str]]:
    """(last event number, known time zone) by user, the users' rows locked."""
    users = sorted({p.user_id for p in purchases})
    await connection.execute(_SQL["make_sequences"], users)
    rows = await connection.fetch(_SQL["lock_users"], users)
    return (
        {row["user_id"]: row["last_event_seq"] for row in rows},
        {row["user_id"]: row["time_zone"] for row in rows if row["time_zone"]},
    )


async def _known(connection: Connection, purchases: Sequence[Purchase]) -> list[Pass]:
    rows = await connection.fetch(
        _SQL["user_passes"],
        [p.user_id for p in purchases],
        [p.pass_id for p in purchases],
        [p.offer_digest for p in purchases],
    )
    return [_pass(row) for row in rows]


async def _claim_references(
    connection: Connection, purchases: Sequence[Purchase]
) -> tuple[dict[str, tuple[str, UUID]], dict[str, tuple[str, UUID]]]:
    """(whose every reference is, those that this transaction has claimed)."""
    claims: dict[str, tuple[str, UUID]] = {}
    for p in purchases:
        claims.setdefault(p.payment_reference, (p.user_id, p.pass_id))
    if not claims:
        return {}, {}
    rows = await connection.fetch(
        _SQL["claim_references"],
        list(claims),
        [user_id for user_id, _ in claims.values()],
        [pass_id for _, pass_id in claims.values()],
    )
    claimed = {row[0]: claims[row[0]] for row in rows}
    taken = [reference for reference in claims if reference not in claimed]
    if not taken:
        return {}, claimed
    rows = await connection.fetch(_SQL["references"], taken)
    owners = {row["payment_reference"]: (row["user_id"], row["pass_id"]) for row in rows}
    return owners, claimed


async def _bought(
    connection: Connection, purchases: Sequence[Purchase], stocks: dict[str, StockState]
) -> dict[str, list[Bought]]:
    limited = {product for product, stock in stocks.items() if stock.personal_limit is not None}
    pairs = sorted(
        {
            (p.user_id, p.offer.product_id)
            for p in purchases
            if p.offer is not None and p.offer.product_id in limited
        }
    )
    if not pairs:
        return {}
    rows = await connection.fetch(_SQL["bought"], [u for u, _ in pairs], [p for _, p in pairs])
    bought: dict[str, list[Bought]] = {}
    for row in rows:
        bought.setdefault(row["user_id"], []).append(
            Bought(row["product_id"], row["purchase_time"])
        )
    return bought


async def _write(
    connection: Connection,
    verdicts: Sequence[Verdict],
    claimed: dict[str, tuple[str, UUID]],
    sequences: dict[str, int],
) -> None:
    """Write what was decided; raises WriteMismatch, and so rolls back, if less was written."""
    new = [v.result for v in verdicts if v.written and isinstance(v.result, Pass)]
    await _settle(connection, new, claimed)
    if not new:
        return
    events = []
    for p in new:
        sequences[p.user_id] += 1
        events.append(sequences[p.user_id])
    row = await connection.fetchrow(
        _SQL["write"],
        [p.user_id for p in new],
        [p.pass_id for p in new],
        [p.request_id for p in new],
        [p.offer_digest for p in new],
        [p.product_id for p in new],
        [p.product_revision for p in new],
        [p.vehicle_id for p in new],
        [p.price.micros for p in new],
        [p.price.currency_code for p in new],
        [p.payment_reference for p in new],
        [p.purchase_time for p in new],
        [p.time_zone for p in new],
        [p.period.start_time for p in new],
        [p.period.end_time for p in new],
        [p.period.first_use_before for p in new],
        [p.balance.energy_wh for p in new],
        [p.balance.sessions for p in new],
        events,
    )
    expected = (len(new), len(new), len({p.user_id for p in new}))
    if row is None or (row["passes"], row["sold"], row["users"]) != expected:
        raise WriteMismatch(f"wrote {row}, expected {expected}")


async def _settle(
    connection: Connection, new: Sequence[Pass], claimed: dict[str, tuple[str, UUID]]
) -> None:
    """Claims that this transaction made, put under the passes that they paid for or given back."""
    paid = {p.payment_reference: (p.user_id, p.pass_id) for p in new}
    moved = [(ref, *owner) for ref, owner in paid.items() if claimed.get(ref, owner) != owner]
    given_back = [(ref, *owner) for ref, owner in claimed.items() if ref not in paid]
    for statement, rows in (("settle_references", moved), ("give_back_references", given_back)):
        if rows:
            columns = (list(column) for column in zip(*rows, strict=True))
            await connection.execute(_SQL[statement], *columns)


class PassStore:
    """Reads passes."""

    def __init__(self, database: Database, revisions: RevisionCache) -> None:
        self._database = database
        self._revisions = revisions

    async def get(self, user_id: str, pass_id: UUID) -> OwnedPass:
        """A pass of a user. Raises PASS_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["pass"], user_id, pass_id)
            if row is None:
                raise Refusal(Reason.PASS_NOT_FOUND, "the user has no such pass")
            return (await self._owned(connection, [row]))[0]

    async def page(
        self, user_id: str, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[OwnedPass]:
        """Up to `limit` passes after (purchase_time, pass_id), the newest first."""
        time, pass_id = after or (None, None)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["list_passes"], user_id, time, pass_id, limit)
            return await self._owned(connection, rows)

    async def _owned(
        self, connection: Connection, rows: Sequence[asyncpg.Record]
    ) -> list[OwnedPass]:
        passes = [_pass(row) for row in rows]
        terms = await self._revisions.terms(
            connection, {(p.product_id, p.product_revision) for p in passes}
        )
        return [OwnedPass(p, terms[p.product_id, p.product_revision]) for p in passes]
