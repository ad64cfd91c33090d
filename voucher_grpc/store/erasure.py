"""What an erasure reads, moves to a pseudonym and deletes (see `use_cases.erase_user`)."""

import secrets

import asyncpg

from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.passes import pass_from_row

_SQL = queries.load("erasure")
_LOCK_TENDENCY = queries.load("sessions")["make_tendencies"]
_PSEUDONYM_BYTES = 16


class EraseMismatch(Exception):
    """Not all that must stay has arrived under the pseudonym: a bug, rolled back."""


async def lock_tendency(connection: Connection, user_id: str) -> None:
    """Lock the row under which the user's sessions are recorded; it is there afterwards."""
    await connection.execute(_LOCK_TENDENCY, [user_id])


async def read_open_holds(connection: Connection, user_id: str) -> list[Pass]:
    """What the user has reserved and not paid."""
    return [pass_from_row(row) for row in await connection.fetch(_SQL["open_holds"], user_id)]


async def forget(connection: Connection, user_id: str) -> tuple[int, int]:
    """Delete what need not stay; (vehicles, sessions) deleted."""
    gone = await connection.fetchrow(_SQL["forget"], user_id)
    if gone is None:
        raise LookupError("the statement returned no row")
    return gone["vehicles"], gone["sessions"]


async def refuse_usable(connection: Connection, user_id: str) -> None:
    """Raises USER_HAS_ACTIVE_PASSES if the user has any."""
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


async def keep_by_pseudonym(connection: Connection, user_id: str) -> int:
    """Move what stays to a pseudonym that is not disclosed; returns how many passes."""
    pseudonym = f"erased-{secrets.token_hex(_PSEUDONYM_BYTES)}"
    row = await connection.fetchrow(_SQL["keep_passes"], user_id, pseudonym)
    if row is None or not any(row):
        return 0
    of = ("passes", "entries", "events", "charges", "uses")
    taken = (row["payments"], *(row[name] for name in of))
    kept = (row["kept_references"], *(row[f"kept_{name}"] for name in of))
    if taken != kept:
        raise EraseMismatch(f"kept {kept}, expected {taken}")
    await connection.execute(_SQL["keep_sequence"], user_id, pseudonym)
    return int(row["passes"])
