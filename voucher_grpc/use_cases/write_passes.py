"""PurchasePass, ConfirmPurchase and CancelPass: one transaction for all that waited."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

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
)
from voucher_grpc.domain.passes.state import Pass, PassWithTerms
from voucher_grpc.errors import Refusal
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.catalogue import RevisionCache, RevisionKey
from voucher_grpc.store.charges import passes_in_use
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.pass_locks import Key, holds_of, lock_stock, lock_users, write_changes
from voucher_grpc.store.pass_writes import (
    claim_references,
    free_expired_holds,
    read_bought,
    read_passes,
    read_passes_and_bought_with,
    settle_references,
    write_purchases,
)
from voucher_grpc.use_cases.batch_retries import run_with_retries


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
        dedicated: DedicatedConnection,
        clock: DatabaseClock,
        revisions: RevisionCache,
        hold_lifetime: timedelta,
    ) -> None:
        self._dedicated = dedicated
        self._clock = clock
        self._revisions = revisions
        self._hold_lifetime = hold_lifetime

    async def write(
        self, requests: Sequence[PassRequest]
    ) -> Sequence[PassWithTerms | BaseException]:
        """The pass or the refusal of each request."""
        return await run_with_retries(requests, self._run)

    async def _run(
        self, requests: Sequence[PassRequest]
    ) -> Sequence[PassWithTerms | BaseException]:
        return await self._dedicated.run(lambda connection: self._batch(connection, requests))

    async def _batch(
        self, connection: Connection, requests: Sequence[PassRequest]
    ) -> Sequence[PassWithTerms | BaseException]:
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
        found = await read_passes(connection, [(p.user_id, p.pass_id) for p in forged])
        known = {one.key: one for one in found}
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
            known = await read_passes_and_bought_with(
                connection,
                [(r.user_id, r.pass_id) for r in (*purchases, *changes)],
                [(p.user_id, p.offer_digest) for p in purchases],
            )
            by_key = {p.key: p for p in known}
            new = [p for p in purchases if (p.user_id, p.pass_id) not in by_key]
            claims = _claims(new, changes, by_key)
            references, claimed = await claim_references(connection, claims)
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
            await settle_references(connection, [*paid, *written], claimed)
            await write_purchases(connection, written, sequences)
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
            in_use=await passes_in_use(
                connection, [c.key for c in changes if isinstance(c, Cancellation)]
            ),
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
        now = self._clock.now()
        for product_id, sold in (await free_expired_holds(connection, scarce, now)).items():
            stocks[product_id] = replace(stocks[product_id], sold=sold)

    async def _bought(
        self,
        connection: Connection,
        purchases: Sequence[Purchase],
        stocks: dict[str, StockState],
    ) -> dict[str, list[Bought]]:
        limited = {product for product, stock in stocks.items() if stock.personal_limit is not None}
        pairs = [
            (p.user_id, p.offer.product_id)
            for p in purchases
            if p.offer is not None and p.offer.product_id in limited
        ]
        return await read_bought(connection, pairs, self._clock.now())

    async def _with_terms(
        self, connection: Connection, verdicts: Sequence[Verdict]
    ) -> Sequence[PassWithTerms | BaseException]:
        owned = [v.result for v in verdicts if isinstance(v.result, Pass)]
        terms = await self._revisions.terms(
            connection, {(p.product_id, p.product_revision) for p in owned}
        )
        return [
            v.result
            if isinstance(v.result, Refusal)
            else PassWithTerms(v.result, terms[v.result.product_id, v.result.product_revision])
            for v in verdicts
        ]


def _revisions_of(purchases: Sequence[Purchase]) -> set[RevisionKey]:
    return {
        (p.offer.product_id, p.offer.product_revision) for p in purchases if p.offer is not None
    }


def _claims(
    purchases: Sequence[Purchase],
    changes: Sequence[Confirmation | Cancellation],
    known: dict[Key, Pass],
) -> dict[str, Key]:
    """The pass that each payment reference is claimed for: by the first that names it.

    For new purchases, and for confirmations of what has not been paid.
    """
    claims: dict[str, Key] = {}
    for c in changes:
        if isinstance(c, Confirmation) and c.key in known and known[c.key].paid_time is None:
            claims.setdefault(c.payment_reference, c.key)
    for p in purchases:
        if p.payment_reference:
            claims.setdefault(p.payment_reference, (p.user_id, p.pass_id))
    return claims
