"""What is read under the locks of a batch of purchases and changes, and what is written."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from voucher_grpc.domain.passes.purchase import Bought, purchase_event
from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.pass_locks import Key, WriteMismatch, number_event
from voucher_grpc.store.passes import pass_from_row

_SQL = queries.load("passes")
# Expired holds of a product that a batch takes back where its stock is sold;
# more are left for the next one.
MAX_FREED = 1_000


async def read_passes(connection: Connection, keys: Sequence[Key]) -> list[Pass]:
    """Those of the passes that exist."""
    users, pass_ids = [user_id for user_id, _ in keys], [pass_id for _, pass_id in keys]
    rows = await connection.fetch(_SQL["known_passes"], users, pass_ids)
    return [pass_from_row(row) for row in rows]


async def read_passes_and_bought_with(
    connection: Connection, keys: Sequence[Key], offers: Sequence[tuple[str, bytes]]
) -> list[Pass]:
    """Those of the passes that exist, and those that the users' offers have bought.

    `offers` are (user_id, digest of the offer_id).
    """
    rows = await connection.fetch(
        _SQL["user_passes"],
        [user_id for user_id, _ in keys],
        [pass_id for _, pass_id in keys],
        [user_id for user_id, _ in offers],
        [digest for _, digest in offers],
    )
    return [pass_from_row(row) for row in rows]


async def claim_references(
    connection: Connection, claims: dict[str, Key]
) -> tuple[dict[str, Key], dict[str, Key]]:
    """Claim payment references for passes.

    Returns (the owners of those that others have, those that this transaction has claimed).
    """
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


async def settle_references(
    connection: Connection, paid: Sequence[Pass], claimed: dict[str, Key]
) -> None:
    """Claims that this transaction made, put under the passes that they paid for or given back."""
    owners = {p.payment_reference: p.key for p in paid if p.payment_reference}
    moved = [(ref, *owner) for ref, owner in owners.items() if claimed.get(ref, owner) != owner]
    given_back = [(ref, *owner) for ref, owner in claimed.items() if ref not in owners]
    for statement, rows in (("settle_references", moved), ("give_back_references", given_back)):
        if rows:
            columns = (list(column) for column in zip(*rows, strict=True))
            await connection.execute(_SQL[statement], *columns)


async def free_expired_holds(
    connection: Connection, product_ids: Sequence[str], now: datetime
) -> dict[str, int]:
    """Take back what expired holds of the products have of the stock.

    Returns how many of each are sold then. The products' stock must be locked.
    """
    if not product_ids:
        return {}
    rows = await connection.fetch(_SQL["free_expired"], product_ids, now, MAX_FREED)
    return {row[0]: row[1] for row in rows}


async def read_bought(
    connection: Connection, pairs: Iterable[tuple[str, str]], now: datetime
) -> dict[str, list[Bought]]:
    """By user what counts against personal limits, for (user_id, product_id)."""
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    rows = await connection.fetch(
        _SQL["bought"],
        [user_id for user_id, _ in wanted],
        [product_id for _, product_id in wanted],
        now,
    )
    bought: dict[str, list[Bought]] = {}
    for row in rows:
        found = Bought(row["product_id"], row["purchase_time"])
        bought.setdefault(row["user_id"], []).append(found)
    return bought


async def write_purchases(
    connection: Connection, new: Sequence[Pass], sequences: dict[str, int]
) -> None:
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
