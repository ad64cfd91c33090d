"""What all changes of passes share: the locks, in their one order, and the writing.

The order is the safety of it (docs/guarantees.md): users' rows, then payment references,
then products' stock, each in key order, so that transactions of any servers wait for each
other without deadlocks. But for users' rows that are new: they are made after those that
there are have been locked, so two batches may meet the other way round. Postgres then ends
one of them, which is tried once more (pass_writer.py). Rows of holds change under their
product's stock only. What is judged is read after the locks by statements of their own,
because a statement does not see what committed while it waited.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from voucher_grpc.domain.catalogue.product import PersonalLimit
from voucher_grpc.domain.passes.change import Changed
from voucher_grpc.domain.passes.purchase import StockState
from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection

_SQL = queries.load("passes")

Key = tuple[str, UUID]


class WriteMismatch(Exception):
    """The database wrote another number of rows than was decided: a bug, rolled back."""


async def lock_users(
    connection: Connection, buyers: Iterable[str], others: Iterable[str] = ()
) -> tuple[dict[str, int], dict[str, str]]:
    """(last event number, known time zone) by user, the users' rows locked.

    Buyers have a row afterwards; of the other users only existing rows are locked, since
    any caller can name any user.
    """
    wanted = set(buyers)
    rows = await connection.fetch(_SQL["lock_users"], sorted(wanted.union(others)))
    missing = sorted(wanted.difference(row["user_id"] for row in rows))
    if missing:
        rows += await connection.fetch(_SQL["make_sequences"], missing)
    return (
        {row["user_id"]: row["last_event_seq"] for row in rows},
        {row["user_id"]: row["time_zone"] for row in rows if row["time_zone"]},
    )


async def lock_stock(
    connection: Connection, product_ids: Iterable[str], clock: DatabaseClock
) -> dict[str, StockState]:
    """What belongs to the products, locked; the clock is read under the lock."""
    products = sorted(set(product_ids))
    if not products:
        return {}
    rows = await connection.fetch(_SQL["lock_stock"], products)
    if rows:
        clock.set(max(row["database_time"] for row in rows))
    return {row["product_id"]: _stock(row) for row in rows}


def _stock(row: asyncpg.Record) -> StockState:
    limit = row["max_purchases"]
    return StockState(
        stock=row["stock"],
        sold=row["sold"],
        personal_limit=None if limit is None else PersonalLimit(limit, row["rolling_days"]),
        withdrawn_before_revision=row["withdrawn_before_revision"],
    )


async def due_passes(connection: Connection, limit: int) -> tuple[list[Key], float]:
    """(passes that are due to be closed, for how long the first of them has been, s)."""
    rows = await connection.fetch(_SQL["due"], limit)
    return [(row["user_id"], row["pass_id"]) for row in rows], rows[0]["late_s"] if rows else 0.0


async def lock_sweep(connection: Connection) -> bool:
    """Whether this transaction is the one that closes passes; other servers leave it to it."""
    return await connection.fetchrow(_SQL["turn"]) is not None


async def holds_of(connection: Connection, passes: Iterable[Pass]) -> frozenset[Key]:
    """Those of the passes that are held and have their place in the stock."""
    held = [p for p in passes if p.paid_time is None and p.closed_as is None]
    if not held:
        return frozenset()
    rows = await connection.fetch(_SQL["holds"], *_hold_keys(held))
    return frozenset((row["user_id"], row["pass_id"]) for row in rows)


def _hold_keys(
    held: Sequence[Pass],
) -> tuple[list[str], list[datetime | None], list[str], list[UUID]]:
    return (
        [p.product_id for p in held],
        [p.hold_expire_time for p in held],
        [p.user_id for p in held],
        [p.pass_id for p in held],
    )


def number_event(sequences: dict[str, int], user_id: str) -> int:
    """The user's next event."""
    sequences[user_id] += 1
    return sequences[user_id]


async def write_changes(
    connection: Connection,
    changed: Sequence[Changed],
    holds: frozenset[Key],
    sequences: dict[str, int],
    now: datetime,
) -> Counter[str]:
    """Write what has become of passes; how many each product gets back into its stock.

    A hold that has lost its place in the stock gives none back. Raises WriteMismatch,
    and so rolls back, if another number of rows was written than was decided.
    """
    if not changed:
        return Counter()
    final = list({c.after.key: c.after for c in changed}.values())
    entries = [(c.after, *c.entry) for c in changed if c.entry is not None]
    ended = list({c.before.key: c.before for c in changed if c.ends_hold}.values())
    ended = [p for p in ended if p.key in holds]
    returned = [
        c.after.product_id
        for c in changed
        if c.gives_stock_back and (not c.ends_hold or c.after.key in holds)
    ]
    row = await connection.fetchrow(
        _SQL["change"],
        [p.user_id for p in final],
        [p.pass_id for p in final],
        [p.payment_reference for p in final],
        [p.confirm_time for p in final],
        [p.period.start_time for p in final],
        [p.period.end_time for p in final],
        [p.period.first_use_before for p in final],
        [p.close_time for p in final],
        [p.closed_as for p in final],
        [p.refund_micros for p in final],
        [p.user_id for p, _, _ in entries],
        [p.pass_id for p, _, _ in entries],
        [p.ledger_entries for p, _, _ in entries],
        [kind for _, kind, _ in entries],
        [amounts.energy_wh for _, _, amounts in entries],
        [amounts.sessions for _, _, amounts in entries],
        now,
        [c.after.user_id for c in changed],
        [number_event(sequences, c.after.user_id) for c in changed],
        [c.event_type for c in changed],
        [c.after.pass_id for c in changed],
        *_hold_keys(ended),
        returned,
    )
    expected = (len(final), len({p.user_id for p in final}), len(ended), len(returned))
    if row is None or tuple(row) != expected:
        raise WriteMismatch(f"wrote {row}, expected {expected}")
    return Counter(returned)
