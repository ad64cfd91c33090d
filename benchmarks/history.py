"""Purchases of years: passes as they would stand in the tables after so many sales.

What purchases look at and add to is there; it is not all that `verify` asks for. Written
without their indexes, which are made anew from their own definitions afterwards: twenty
million passes take some minutes instead of an hour.
"""

from collections.abc import Iterable

from benchmarks.world import CURRENCY, HOT_PRODUCT, ZONE
from voucher_grpc.store.driver import Connection

# Each user of these has as many passes; the measured users are the first of them.
USERS = 1_000_000
_YEARS_DAYS = 730
_TABLES = ("passes", "ledger_entries", "payment_references", "events", "user_sequences")

# The newest month is open, what is older has expired. A pass is found by its number. The
# default product is left out: who has it is offered nothing where nothing else pays.
_PASSES = f"""INSERT INTO passes (
    user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
    price_micros, currency_code, payment_reference, purchase_time, time_zone, start_time,
    end_time, close_time, closed_as
)
SELECT 'user-' || lpad((n % {USERS})::text, 7, '0'), md5(n::text)::uuid, md5('r' || n)::uuid,
    uuid_send(md5('o' || n)::uuid), p.product_id, 1, '', p.price_micros, '{CURRENCY}',
    'payment-' || n, t.bought, '{ZONE}', t.bought, t.ended,
    CASE WHEN t.ended < now() THEN t.ended END, CASE WHEN t.ended < now() THEN 'EXPIRED' END
FROM generate_series(1, $1::bigint) AS n
JOIN (
    SELECT row_number() OVER (ORDER BY product_id) - 1 AS number, product_id,
        (split_part(terms ->> 'price', ' ', 1)::numeric * 1000000)::bigint AS price_micros,
        count(*) OVER () AS products
    FROM product_revisions WHERE product_id NOT IN ('{HOT_PRODUCT}', 'default')
) p ON p.number = n % (SELECT count(*) - 2 FROM product_revisions)
CROSS JOIN LATERAL (
    SELECT now() - make_interval(secs => b.ago_s) AS bought,
        now() - make_interval(secs => b.ago_s - 30 * 86400) AS ended
    FROM (SELECT 60 + (n::float8 / $1 * {_YEARS_DAYS} * 86400) AS ago_s) b
) t"""
_OTHERS = (
    """INSERT INTO ledger_entries (
        user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time
    )
    SELECT user_id, pass_id, 1, 'OPENING', 50000, NULL, purchase_time FROM passes""",
    """INSERT INTO payment_references (payment_reference, user_id, pass_id)
    SELECT payment_reference, user_id, pass_id FROM passes""",
    """INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time, position)
    SELECT user_id, substr(payment_reference, 9)::bigint / 1000000 + 1, 'PASS_PURCHASED', pass_id,
        purchase_time, substr(payment_reference, 9)::bigint
    FROM passes""",
    """INSERT INTO user_sequences (user_id, last_event_seq)
    SELECT user_id, max(event_seq) FROM events GROUP BY user_id""",
    "UPDATE event_stream SET last_position = (SELECT count(*) FROM passes)",
    """UPDATE product_stock s SET sold = s.sold + p.passes
    FROM (SELECT product_id, count(*) AS passes FROM passes GROUP BY product_id) p
    WHERE p.product_id = s.product_id""",
)


async def write_history(connection: Connection, passes: int) -> None:
    """Fill tables that have no purchases yet."""
    again = await _without_indexes(connection, _TABLES)
    await connection.execute("SET maintenance_work_mem = '1GB'")
    await connection.execute(_PASSES, passes)
    for statement in _OTHERS:
        await connection.execute(statement)
    for statement in again:
        await connection.execute(statement)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def _without_indexes(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Drop what would be kept up row by row; the statements that make it again."""
    again = []
    constraints = await connection.fetch(
        """SELECT conrelid::regclass::text AS table_name, conname,
            pg_get_constraintdef(oid) AS definition
        FROM pg_constraint
        WHERE conrelid::regclass::text = ANY($1::text[]) AND contype IN ('p', 'u')""",
        list(tables),
    )
    for table, name, definition in constraints:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        again.append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY($1::text[])", list(tables)
    )
    for name, definition in indexes:
        await connection.execute(f"DROP INDEX {name}")
        again.append(definition)
    return again
