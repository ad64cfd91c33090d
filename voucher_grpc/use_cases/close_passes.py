"""What ends by its time: holds that were not confirmed, and passes whose validity is over.

Their states are judged by their instant wherever they are read; here it is written down,
reported as an event, and a hold's item is given back to the stock. It runs in every server;
a row that is locked for the length of a short transaction says which one works.
"""

from collections.abc import Callable

from voucher_grpc.domain.passes.change import Changed, ChangeState, close_due
from voucher_grpc.runtime.background import keep_working
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.dedicated_connection import DedicatedConnection
from voucher_grpc.store.driver import Connection, by_index
from voucher_grpc.store.pass_locks import (
    due_passes,
    holds_of,
    lock_stock,
    lock_sweep,
    lock_users,
    write_changes,
)
from voucher_grpc.store.pass_writes import read_passes

# Passes closed in one transaction; their users' purchases wait for it.
BATCH_PASSES = 500
INTERVAL_S = 1.0


class PassCloser:
    """Closes passes whose time has come, in every server, one at a time."""

    def __init__(
        self,
        dedicated: DedicatedConnection,
        clock: DatabaseClock,
        on_closed: Callable[[str], None],
        on_measured: Callable[[float], None],
    ) -> None:
        self._dedicated = dedicated
        self._clock = clock
        self._on_closed = on_closed
        self._on_measured = on_measured

    async def run(self) -> None:
        """Work until cancelled; whatever fails is tried again."""
        await keep_working("passes", self.close, lambda: INTERVAL_S)

    async def close(self) -> bool:
        """Close one batch; whether more may wait."""
        due, changed = await self._dedicated.run(self._close)
        for change in changed:
            self._on_closed(str(change.after.closed_as))
        return bool(changed) and due == BATCH_PASSES

    async def _close(self, connection: Connection) -> tuple[int, list[Changed]]:
        """(how many are due, what was closed)."""
        async with by_index(connection):
            due, late_s = await due_passes(connection, BATCH_PASSES)
            self._on_measured(late_s)
            # Read first, since taking the lock writes.
            if not due or not await lock_sweep(connection):
                return len(due), []
            sequences, _ = await lock_users(connection, [], [user_id for user_id, _ in due])
            passes = await read_passes(connection, due)
            await lock_stock(connection, (p.product_id for p in passes), self._clock)
            holds = await holds_of(connection, passes)
            state = ChangeState({}, {}, holds, frozenset(), {}, self._clock.now())
            changed = close_due(passes, state)
            await write_changes(connection, changed, holds, sequences, state.now)
        return len(due), changed
