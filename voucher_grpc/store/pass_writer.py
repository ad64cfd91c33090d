"""Batches of purchases, confirmations and cancellations: one transaction for all that waited."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from voucher_grpc.domain.passes.change import (
    Cancellation,
    ChangeState,
    Confirmation,
    PassRequest,
    judge_changes,
)
from voucher_grpc.domain.passes.purchase import (
    Bought,
    Purchase,
    State,
    StockState,
    Verdict,
    judge,
    purchase_event,
)
from voucher_grpc.domain.passes.state import OwnedPass, Pass
from voucher_grpc.errors import Refusal, StoreUnavailable
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store import queries
from voucher_grpc.store.catalogue import RevisionCache, RevisionKey
from voucher_grpc.store.database import CommitUnclear, Connection, Lane, RolledBack, by_index
from voucher_grpc.store.pass_locks import (
    Key,
    WriteMismatch,
    holds_of,
    lock_stock,
    lock_users,
    number_event,
    write_changes,
)
from voucher_grpc.store.passes import pass_from_row

_SQL = queries.load("passes")
# Places of expired holds of a product that a batch takes back where its stock is sold;
# more are left for the next one.
MAX_FREED = 1_000
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Locked:
    """What a batch has locked and read; the writing moves it on."""

    sequences: dict[str, int]
    passes: dict[Key, Pass]
    references: dict[str, Key]
    stocks: dict[str, StockState]


class PassWriter:
    """Judges and writes batches, one transaction a batch."""

    def __init__(
        self,
        lane: Lane,
        clock: DatabaseClock,
        revisions: RevisionCache,
        hold_lifetime: timedelta,
    ) -> None:
        self._lane = lane
        self._clock = clock
        self._revisions = revisions
        self._hold_lifetime = hold_lifetime

    async def write(self, requests: Sequence[PassRequest]) -> Sequence[OwnedPass | BaseException]:
        """The pass or the refusal of each request.

        If it is not known whether a batch was committed it is tried once more: under the
        users' locks, which wait for the first try to end, each key finds what became of
        it. So is one that Postgres has ended because it met another's locks in a circle: nothing
        of it was written. If a batch fails for any other reason than the database's absence, its
        halves are tried, and so on: a poisoned request does not sink its neighbours, and delays
        them once.
        """
        try:
            try:
                return await self._run(requests)
            except (CommitUnclear, RolledBack) as error:
                log.warning("batch_again", size=len(requests), error=type(error).__name__)
                return await self._run(requests)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - its caller hears it
            if len(requests) == 1:
                return [error]
            log.warning("batch_failed", size=len(requests), error=type(error).__name__)
        middle = len(requests) // 2
        return [*await self.write(requests[:middle]), *await self.write(requests[middle:])]

    async def _run(self, requests: Sequence[PassRequest]) -> Sequence[OwnedPass | BaseException]:
        return await self._lane.run(lambda connection: self._batch(connection, requests))

    async def _batch(
        self, connection: Connection, requests: Sequence[PassRequest]
    ) -> Sequence[OwnedPass | BaseException]:
        """What is judged first is written first: changes give back what purchases may take."""
        verdicts = await self._unlocked_verdicts(connection, requests)
        todo = [r for r, verdict in zip(requests, verdicts, strict=True) if verdict is None]
        purchases = [r for r in todo if isinstance(r, Purchase)]
        changes = [r for r in todo if not isinstance(r, Purchase)]
        if todo:
            bought, changed = map(iter, await self._locked_verdicts(connection, purchases, changes))
            verdicts = [
                verdict or next(bought if isinstance(request, Purchase) else changed)
                for request, verdict in zip(requests, verdicts, strict=True)
            ]
        return await self._with_terms(connection, [v for v in verdicts if v is not None])

    async def _unlocked_verdicts(
        self, connection: Connection, requests: Sequence[PassRequest]
    ) -> list[Verdict | None]:
        """Verdicts on offers that are not authentic: a retry finds its pass, the rest is refused.

        They take no lock and leave no row behind, since anybody can make one up.
        """
        forged = [r for r in requests if isinstance(r, Purchase) and r.offer is None]
        if not forged:
            return [None] * len(requests)
        rows = await connection.fetch(
            _SQL["known_passes"], [p.user_id for p in forged], [p.pass_id for p in forged]
        )
        known = {owned.key: owned for owned in map(pass_from_row, rows)}
        state = State(known, {}, {}, {}, {}, {}, {}, self._clock.now(), self._hold_lifetime)
        verdicts = iter(judge(forged, state))
        return [
            next(verdicts) if isinstance(r, Purchase) and r.offer is None else None
            for r in requests
        ]

    async def _locked_verdicts(
        self,
        connection: Connection,
        purchases: Sequence[Purchase],
        changes: Sequence[Confirmation | Cancellation],
    ) -> tuple[Sequence[Verdict], Sequence[Verdict]]:
        terms = await self._revisions.terms(connection, _revisions_of(purchases))
        async with by_index(connection):
            sequences, zones = await lock_users(
                connection, (p.user_id for p in purchases), (c.user_id for c in changes)
            )
            known = await _known(connection, purchases, changes)
            by_key = {p.key: p for p in known}
            new = [p for p in purchases if (p.user_id, p.pass_id) not in by_key]
            references, claimed = await _claim_references(connection, new, changes, by_key)
            changing = [by_key[c.key].product_id for c in changes if c.key in by_key]
            products = [p.offer.product_id for p in new if p.offer is not None]
            stocks = await lock_stock(connection, (*products, *changing), self._clock)
            locked = _Locked(sequences, by_key, references, stocks)
            changed, paid = await self._change(connection, changes, locked)
            await self._free_expired(connection, products, stocks)
            state = State(
                passes=by_key,
                by_offer={(p.user_id, p.offer_digest): p for p in by_key.values()},
                bought=await self._bought(connection, new, stocks),
                references=references,
                stocks=stocks,
                user_zones=zones,
                terms=terms,
                now=self._clock.now(),
                hold_lifetime=self._hold_lifetime,
            )
            verdicts = judge(purchases, state)
            written = [v.result for v in verdicts if v.written and isinstance(v.result, Pass)]
            await _settle(connection, [*paid, *written], claimed)
            await _write(connection, written, sequences)
        return verdicts, changed

    async def _change(
        self,
        connection: Connection,
        changes: Sequence[Confirmation | Cancellation],
        locked: _Locked,
    ) -> tuple[Sequence[Verdict], Sequence[Pass]]:
        """(the verdicts, the passes that were paid), written."""
        if not changes:
            return [], []
        known = [locked.passes[c.key] for c in changes if c.key in locked.passes]
        state = ChangeState(
            passes=locked.passes,
            references=locked.references,
            holds=await holds_of(connection, known),
            terms=await self._revisions.terms(
                connection, {(p.product_id, p.product_revision) for p in known}
            ),
            now=self._clock.now(),
        )
        verdicts, changed = judge_changes(changes, state)
        returned = await write_changes(
            connection, changed, state.holds, locked.sequences, state.now
        )
        for product_id, passes in returned.items():
            stock = locked.stocks[product_id]
            locked.stocks[product_id] = replace(stock, sold=stock.sold - passes)
        return verdicts, [c.after for c in changed if c.after.closed_as is None]

    async def _free_expired(
        self, connection: Connection, products: Sequence[str], stocks: dict[str, StockState]
    ) -> None:
        """Holds count by their instant, not by whether it was noted that they have lapsed.

        Asked where the stock may not be enough for all of the batch.
        """
        scarce = [
            product_id
            for product_id, wanted in sorted(Counter(products).items())
            if (s := stocks.get(product_id)) and s.stock and s.sold + wanted > s.stock
        ]
        if not scarce:
            return
        rows = await connection.fetch(_SQL["free_expired"], scarce, self._clock.now(), MAX_FREED)
        for product_id, sold in rows:
            stocks[product_id] = replace(stocks[product_id], sold=sold)

    async def _bought(
        self,
        connection: Connection,
        purchases: Sequence[Purchase],
        stocks: dict[str, StockState],
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
        rows = await connection.fetch(
            _SQL["bought"], [u for u, _ in pairs], [p for _, p in pairs], self._clock.now()
        )
        bought: dict[str, list[Bought]] = {}
        for row in rows:
            bought.setdefault(row["user_id"], []).append(
                Bought(row["product_id"], row["purchase_time"])
            )
        return bought

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


async def _known(
    connection: Connection,
    purchases: Sequence[Purchase],
    changes: Sequence[Confirmation | Cancellation],
) -> list[Pass]:
    """The passes under the keys, and those that the offers have bought."""
    rows = await connection.fetch(
        _SQL["user_passes"],
        [r.user_id for r in (*purchases, *changes)],
        [r.pass_id for r in (*purchases, *changes)],
        [p.user_id for p in purchases],
        [p.offer_digest for p in purchases],
    )
    return [pass_from_row(row) for row in rows]


async def _claim_references(
    connection: Connection,
    purchases: Sequence[Purchase],
    changes: Sequence[Confirmation | Cancellation],
    known: dict[Key, Pass],
) -> tuple[dict[str, Key], dict[str, Key]]:
    """(whose every reference is, those that this transaction has claimed).

    For new purchases, and for confirmations of what has not been paid.
    """
    claims: dict[str, Key] = {}
    for c in changes:
        if isinstance(c, Confirmation) and c.key in known and known[c.key].paid_time is None:
            claims.setdefault(c.payment_reference, c.key)
    for p in purchases:
        if p.payment_reference:
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


async def _settle(connection: Connection, paid: Sequence[Pass], claimed: dict[str, Key]) -> None:
    """Claims that this transaction made, put under the passes that they paid for or given back."""
    owners = {p.payment_reference: p.key for p in paid if p.payment_reference}
    moved = [(ref, *owner) for ref, owner in owners.items() if claimed.get(ref, owner) != owner]
    given_back = [(ref, *owner) for ref, owner in claimed.items() if ref not in owners]
    for statement, rows in (("settle_references", moved), ("give_back_references", given_back)):
        if rows:
            columns = (list(column) for column in zip(*rows, strict=True))
            await connection.execute(_SQL[statement], *columns)


async def _write(connection: Connection, new: Sequence[Pass], sequences: dict[str, int]) -> None:
    """Write what was bought; raises WriteMismatch, and so rolls back, if less was written."""
    if not new:
        return
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
        [p.hold_expire_time for p in new],
        [number_event(sequences, p.user_id) for p in new],
        [purchase_event(p) for p in new],
    )
    expected = (len(new), len(new), len({p.user_id for p in new}))
    if row is None or (row["passes"], row["sold"], row["users"]) != expected:
        raise WriteMismatch(f"wrote {row}, expected {expected}")
