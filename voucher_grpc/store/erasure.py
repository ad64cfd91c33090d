"""EraseUser: what the law of accounts keeps gets a pseudonym, the rest is deleted.

The locks are those of the other writers, by the same statements and in one order:
the user's row in user_sequences, under which purchases run, then the one in
tendencies, under which sessions are recorded. Whoever waits for them finds a user
of whom nothing is known, and makes the rows anew. Holds are ended under the lock of
their products' stock, as always.
"""

import secrets
from dataclasses import dataclass

import asyncpg

from voucher_grpc.domain.passes.change import Cancellation, ChangeState, close_due, judge_changes
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store import queries
from voucher_grpc.store.database import Connection, Database
from voucher_grpc.store.pass_locks import holds_of, lock_stock, lock_users, write_changes
from voucher_grpc.store.passes import pass_from_row

_SQL = queries.load("erasure")
_LOCK_TENDENCY = queries.load("sessions")["make_tendencies"]
_PSEUDONYM_BYTES = 16


class EraseMismatch(Exception):
    """Not all that must be kept has arrived under the pseudonym: a bug, rolled back."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done."""

    passes_kept: int
    vehicles_deleted: int
    sessions_deleted: int


class ErasureStore:
    """Erases users."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def erase(self, user_id: str, *, forfeit: bool) -> Erased:
        """Erase a user, in one transaction; nothing is kept of one who is not known.

        Raises USER_HAS_ACTIVE_PASSES unless those are forfeited: holds are then cancelled.
        Otherwise counters of stock stay: what is kept has been sold.
        """
        async with self._database.transaction() as connection:
            sequences, _ = await lock_users(connection, [user_id])
            await connection.execute(_LOCK_TENDENCY, [user_id])
            if not forfeit:
                await _refuse_usable(connection, user_id)
            await self._end_holds(connection, user_id, sequences)
            passes = await _keep(connection, user_id)
            gone = await connection.fetchrow(_SQL["forget"], user_id)
        if gone is None:
            raise LookupError("the statement returned no row")
        return Erased(passes, gone["vehicles"], gone["sessions"])

    async def _end_holds(
        self, connection: Connection, user_id: str, sequences: dict[str, int]
    ) -> None:
        rows = await connection.fetch(_SQL["open_holds"], user_id)
        held = [pass_from_row(row) for row in rows]
        if not held:
            return
        await lock_stock(connection, (p.product_id for p in held), self._clock)
        holds = await holds_of(connection, held)
        state = ChangeState({p.key: p for p in held}, {}, holds, {}, self._clock.now())
        _, cancelled = judge_changes([Cancellation(*p.key) for p in held], state)
        lapsed = close_due(state.passes.values(), state)
        await write_changes(connection, [*cancelled, *lapsed], holds, sequences, state.now)


async def _refuse_usable(connection: Connection, user_id: str) -> None:
    row: asyncpg.Record | None = await connection.fetchrow(_SQL["usable_passes"], user_id)
    if row is None or not row["passes"]:
        return
    count, until = row["passes"], row["usable_until"]
    raise Refusal(
        Reason.USER_HAS_ACTIVE_PASSES,
        f"passes that are active or not started: {count}; set forfeit to give them up",
        passes=str(count),
        pass_id=row["pass_id"],
        usable_until=until.isoformat() if until is not None else "",
    )


async def _keep(connection: Connection, user_id: str) -> int:
    """Move what is kept to a pseudonym that nobody is told; returns how many passes."""
    pseudonym = f"erased-{secrets.token_hex(_PSEUDONYM_BYTES)}"
    row = await connection.fetchrow(_SQL["keep_passes"], user_id, pseudonym)
    if row is None or row["passes"] == row["entries"] == row["events"] == 0:
        return 0
    taken = (row["passes"], row["payments"], row["entries"], row["events"])
    kept = (row["kept_passes"], row["kept_references"], row["kept_entries"], row["kept_events"])
    if taken != kept:
        raise EraseMismatch(f"kept {kept}, expected {taken}")
    await connection.execute(_SQL["keep_sequence"], user_id, pseudonym)
    return int(row["passes"])
