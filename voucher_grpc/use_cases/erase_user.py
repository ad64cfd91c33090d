"""EraseUser: what the law of accounts keeps gets a pseudonym, the rest is deleted.

The locks are those of the other writers, by the same statements and in one order:
the user's row in user_sequences, under which purchases run, then the one in
tendencies, under which sessions are recorded. Whoever waits for them finds a user
of whom nothing is known, and makes the rows anew. Holds are ended under the lock of
their products' stock, as always.
"""

from dataclasses import dataclass

from voucher_grpc.domain.passes.change import Cancellation, ChangeState, close_due, judge_changes
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.erasure import (
    forget,
    keep_by_pseudonym,
    lock_tendency,
    read_open_holds,
    refuse_usable,
)
from voucher_grpc.store.pass_locks import holds_of, lock_stock, lock_users, write_changes


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done."""

    passes_kept: int
    vehicles_deleted: int
    sessions_deleted: int


class EraseUser:
    """Erases users."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def erase(self, user_id: str, *, forfeit: bool) -> Erased:
        """Erase a user, in one transaction; a user who is not known leaves no trace.

        Raises USER_HAS_ACTIVE_PASSES unless those are forfeited: holds are then cancelled.
        Otherwise counters of stock stay: the passes that stay were sold.
        """
        async with self._database.transaction() as connection:
            sequences, _ = await lock_users(connection, [user_id])
            await lock_tendency(connection, user_id)
            if not forfeit:
                await refuse_usable(connection, user_id)
            await self._end_holds(connection, user_id, sequences)
            passes = await keep_by_pseudonym(connection, user_id)
            vehicles, sessions = await forget(connection, user_id)
        return Erased(passes, vehicles, sessions)

    async def _end_holds(
        self, connection: Connection, user_id: str, sequences: dict[str, int]
    ) -> None:
        held = await read_open_holds(connection, user_id)
        if not held:
            return
        await lock_stock(connection, (p.product_id for p in held), self._clock)
        holds = await holds_of(connection, held)
        state = ChangeState({p.key: p for p in held}, {}, holds, frozenset(), {}, self._clock.now())
        _, cancelled = judge_changes([Cancellation(*p.key) for p in held], state)
        lapsed = close_due(state.passes.values(), state)
        await write_changes(connection, [*cancelled, *lapsed], holds, sequences, state.now)
